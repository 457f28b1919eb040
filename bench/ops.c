#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "ebb_version.h"
#include "tests/op_cases.h"

/* Cases of tests/op_cases.h with at least this many numbers are worth timing. */
enum { NUMBERS_MIN = 50000 };

static int64_t numbers(const op_case *k) {
  int64_t n = 0;
  for (int i = 0; i < OP_TENSORS; i++)
    n += op_tensor_count(&k->t[i]);
  return n;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One call. Returns its seconds; a download of one number waits for a device. */
static double timed_call(ebb_context *c, const op_case *k, const ebb_tensor *t) {
  double start = now(), last;
  k->run(c, k, t);
  if (t[0].place != EBB_HOST)
    ebb_download(c, &last, ebb_slice(ebb_view(t[0], 1, &(int64_t){ebb_count(t[0])}), 0, 1));
  return now() - start;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

enum { CALLS_MIN = 5, CALLS_MAX = 10000 };

/* Median seconds of one case and how many calls it is of; the counters of one call. */
static bool measure(ebb_context *c, const op_case *k, double seconds, double *median, int *calls,
                    ebb_counters *counted, ebb_error *err) {
  static double times[CALLS_MAX];
  ebb_tensor t[OP_TENSORS];
  ebb_context_count(c);
  op_case_tensors(c, k, t);
  timed_call(c, k, t);
  *counted = c->counters;
  size_t bytes = c->activations.peak;
  if (!ebb_context_ok(c, err) || !ebb_context_reserve(c, EBB_ACTIVATIONS, bytes, err))
    return false;
  op_case_tensors(c, k, t);
  timed_call(c, k, t);
  double end = now() + seconds;
  int n = 0;
  while (n < CALLS_MAX && (n < CALLS_MIN || now() < end))
    times[n++] = timed_call(c, k, t);
  qsort(times, (size_t)n, sizeof *times, by_value);
  *median = n % 2 ? times[n / 2] : (times[n / 2 - 1] + times[n / 2]) / 2;
  *calls = n;
  return ebb_context_ok(c, err);
}

int bench_ops(const bench_options *options) {
  ebb_context c = {0};
  ebb_error err = {{0}};
  if (!ebb_context_open(&c, options->device, &err)) {
    fprintf(stderr, "bench: %s\n", err.text);
    return 1;
  }
  if (options->csv)
    printf("op,case,shape,calls,median_us,gflops,gbytes_per_s\n");
  else
    printf("ebb %s, commit %s, device %s, %d threads\n%-18s %-26s %-22s %6s %12s %9s %9s\n", EBB_VERSION,
           EBB_COMMIT, options->device, ebb_context_threads(), "op", "case", "shape", "calls", "median us",
           "GFLOP/s", "GB/s");
  int ran = 0;
  bool good = true;
  for (int i = 0; good && i < op_case_count; i++) {
    const op_case *k = &op_cases[i];
    if (options->only ? !strstr(k->op, options->only) : numbers(k) < NUMBERS_MIN)
      continue;
    double median;
    int calls;
    ebb_counters counted;
    char shape[EBB_SHAPE_TEXT];
    good = measure(&c, k, options->seconds, &median, &calls, &counted, &err);
    if (!good)
      break;
    ran++;
    ebb_shape_text(k->t[0].rank, k->t[0].shape, shape);
    printf(options->csv ? "%s,\"%s\",\"%s\",%d,%.3f,%.3f,%.3f\n"
                        : "%-18s %-26s %-22s %6d %12.1f %9.2f %9.2f\n",
           k->op, k->label, shape, calls, median * 1e6, counted.flops / median * 1e-9,
           counted.bytes / median * 1e-9);
    fflush(stdout);
  }
  ebb_context_close(&c);
  if (!good)
    fprintf(stderr, "bench: %s\n", err.text);
  else if (ran == 0)
    fprintf(stderr, "bench: no op has '%s' in its name\n", options->only);
  return good && ran > 0 && !ferror(stdout) ? 0 : 1;
}
