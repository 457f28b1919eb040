/* Measurements. Each subcommand is one file; main.c picks. Each returns an exit code: 0, 1 error, 2 usage. */
#ifndef EBB_BENCH_BENCH_H
#define EBB_BENCH_BENCH_H

#include <stdbool.h>

typedef struct bench_options {
  const char *device; /* as ebb_context_open takes it */
  const char *only;   /* a part of the op's name: all its cases; NULL: all cases large enough to time */
  double seconds;     /* time given to each case */
  bool csv;
} bench_options;

int bench_ops(const bench_options *options); /* ops.c */

#endif
