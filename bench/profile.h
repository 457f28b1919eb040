/* Where the time of some work goes: an observer of the context waits for the device at every op and books the
 * time between two waits on the op before. What is recorded for replay runs op by op meanwhile. */
#ifndef EBB_BENCH_PROFILE_H
#define EBB_BENCH_PROFILE_H

#include "bench/sheet.h"

typedef struct bench_profile_line {
  char name[64];
  int64_t calls;
  double seconds, flops, bytes;
} bench_profile_line;

enum { BENCH_PROFILE_LINES = 128 };

typedef struct bench_profile {
  ebb_context *context;
  /* The line that an op belongs to, into text. */
  void (*name)(const ebb_op_seen *op, char text[64]);
  bench_profile_line
      lines[BENCH_PROFILE_LINES]; /* in the order of their first op; the last takes the overflow */
  int count, current;             /* current: line of the op that runs, -1: none */
  double since;
} bench_profile;

void bench_profile_start(bench_profile *p, ebb_context *c, void (*name)(const ebb_op_seen *, char text[64]));
void bench_profile_stop(bench_profile *p);
/* The lines of `runs` runs as a table per run: calls, time, share of the sum, rates. In CSV rows of the sheet,
 * `what` their kind. */
void bench_profile_print(const bench_profile *p, const bench_sheet *sheet, const char *what,
                         const char *shape, const char *dtype, int runs);

#endif
