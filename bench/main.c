#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

static void print_usage(FILE *out) {
  fputs("usage: bench ops [options]\n"
        "\n"
        "Times the operators of kernels/ops.h on the larger cases of the table that tests them "
        "(tests/op_table.inc): sizes\n"
        "of the small model that ships, of Wan 2.1 1.3B and of their VAEs. Median over repeated calls, after "
        "one call that\n"
        "is not counted. GFLOP/s and GB/s follow from the operator's own count: a multiply-add is two, each "
        "input is read\n"
        "once, each output written once.\n"
        "\n"
        "options:\n"
        "  --csv             comma-separated values\n"
        "  --only TEXT       all cases of the ops whose name contains TEXT\n"
        "  --seconds X       time given to each case (0.3)\n"
        "  --device NAME     auto, cpu, cuda, cuda:N (auto)\n"
        "  --help            this text\n",
        out);
}

static int usage_error(const char *what, const char *which) {
  fprintf(stderr, "bench: %s '%s' (--help tells more)\n", what, which);
  return 2;
}

int main(int argc, char **argv) {
  bench_options options = {.device = "auto", .seconds = 0.3};
  const char *command = NULL;
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
      print_usage(stdout);
      return 0;
    }
    if (strcmp(a, "--csv") == 0) {
      options.csv = true;
    } else if (strcmp(a, "--only") == 0 || strcmp(a, "--seconds") == 0 || strcmp(a, "--device") == 0) {
      if (!value)
        return usage_error("a value is missing after", a);
      i++;
      char *end = NULL;
      if (strcmp(a, "--only") == 0)
        options.only = value;
      else if (strcmp(a, "--device") == 0)
        options.device = value;
      else if ((options.seconds = strtod(value, &end)),
               end == value || *end || !(options.seconds >= 0 && options.seconds <= 3600))
        return usage_error("--seconds: expected a number from 0 to 3600, found", value);
    } else if (a[0] == '-') {
      return usage_error("unknown option", a);
    } else if (command) {
      return usage_error("one argument too many:", a);
    } else {
      command = a;
    }
  }
  if (!command) {
    print_usage(stderr);
    return 2;
  }
  if (strcmp(command, "ops") != 0)
    return usage_error("unknown subcommand", command);
  return bench_ops(&options);
}
