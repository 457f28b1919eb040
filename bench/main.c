/* bench: how fast, and how exact. One subcommand, one question. */
#include "bench/bench.h"

#include <stdio.h>
#include <string.h>

#include "bench/timing.h"
#include "cli/options.h"
#include "ebb_version.h"

static const struct {
  const char *name, *help;
  int (*run)(int argc, char **argv);
} commands[] = {
    {"ops", "every operator: time, TFLOP/s, GB/s, and how far from this machine's ceilings", bench_ops},
    {"step", "one evaluation of the velocity, whole and by stage; or one encoding", bench_step},
    {"invert", "videos per hour; errors of inversion by solver, labels and steps", bench_invert},
    {"probe", "thousands of probes at once", bench_probe},
    {"load", "weights from disk to the device; from process start to the first evaluation", bench_load},
};

static void print_help(FILE *out) {
  fprintf(out, "bench %s, commit %s: measures ebb\n\nusage: bench COMMAND [options]\n\n", EBB_VERSION,
          EBB_COMMIT);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].help);
  fprintf(out,
          "\n`bench COMMAND --help` tells more. What other programs need for the same work is measured by "
          "bench/peers.\n");
}

int main(int argc, char **argv) {
  bench_process_started();
  ebb_program_name = "bench";
  if (argc < 2) {
    print_help(stderr);
    return EBB_EXIT_USAGE;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
    print_help(stdout);
    return EBB_EXIT_OK;
  }
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strcmp(argv[1], commands[i].name) == 0) {
      int code = commands[i].run(argc - 1, argv + 1);
      if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
      fprintf(stderr, "bench: cannot write to standard output (is the disk full?)\n");
      return EBB_EXIT_ERROR;
    }
  fprintf(stderr, "bench: unknown command '%s' (bench --help lists them)\n", argv[1]);
  return EBB_EXIT_USAGE;
}
