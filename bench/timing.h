/* Time: many calls between two waits, repeated, the median of the repeats. */
#ifndef EBB_BENCH_TIMING_H
#define EBB_BENCH_TIMING_H

#include "kernels/ops.h"

typedef struct bench_time {
  double median, least; /* seconds of one call */
  int calls;            /* counted ones, all repeats together */
} bench_time;

double bench_now(void); /* seconds */
/* Seconds since this process was started (to 10 ms, where the system tells; else since main began). */
double bench_process_age(void);
void bench_process_started(void); /* main began */

/* Calls `call` once uncounted, then repeats of as many calls as it takes to make a wait small beside them,
 * for about `seconds` in all and at least three repeats. i counts calls: rotate buffers by it. An op's failure ends
 * it early and stays in the context. When counting: one call, no time. */
bench_time bench_measure(ebb_context *c, void (*call)(void *user, int i), void *user, double seconds);

double bench_median(double *times, int count); /* sorts them */

/* What this machine can do, measured in this run: the denominators of every fraction. */
typedef struct bench_ceilings {
  /* FLOP/s of ebb_linear, a batch of one: 8192^3 on a GPU, where it is cuBLASLt with the algorithm of its own choice;
   * 1024^3 on the CPU, where it is BLAS. No other library is asked. */
  double matmul;
  double copy;  /* bytes/s, read and written, of one large copy on the device */
  int64_t side; /* 8192 or 1024 */
  bench_time matmul_time, copy_time;
  double copy_bytes; /* of one copy */
} bench_ceilings;
/* dtype: of the product's operands. Takes the activation arena for its length. */
bool bench_find_ceilings(ebb_context *c, ebb_dtype dtype, bench_ceilings *k, ebb_error *err);

/* Fills a tensor with numbers uniform in [-scale, scale): a drawn stretch again and again, since timing needs
 * numbers that are like data, not all different. float32, bfloat16, float64. */
void bench_fill(ebb_context *c, ebb_tensor t, double scale, uint64_t seed);
/* The same numbers in host memory. */
void bench_draw(float *to, int64_t n, double scale, uint64_t seed);

#endif
