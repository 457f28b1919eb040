/* One kind of row for every measurement of time, ours and the peers' (bench/peers/common.py writes the same
 * columns): a table to read, or CSV.
 *
 *   who,what,case,shape,dtype,calls,median_s,least_s,tflops,gbytes_per_s,of_matmul,of_copy
 *
 * what: the work, the same word on both sides; case: which of its kinds. of_matmul, of_copy: fractions of the
 * ceilings that the same process measured. Rates that do not apply are empty (CSV) or "-". */
#ifndef EBB_BENCH_SHEET_H
#define EBB_BENCH_SHEET_H

#include "bench/timing.h"

typedef struct bench_sheet {
  bool csv;
  bench_ceilings ceilings; /* zeros: no fractions */
} bench_sheet;

typedef struct bench_row {
  const char *what, *which, *shape, *dtype;
  bench_time time;
  double flops, bytes; /* of one call; 0: does not apply */
} bench_row;

/* Title line (version, commit, device, threads; a comment "# ..." in CSV), then the names of the columns. */
void bench_sheet_start(const bench_sheet *sheet, const ebb_context *c);
void bench_sheet_row(const bench_sheet *sheet, const bench_row *row);
void bench_sheet_ceilings(const bench_sheet *sheet, ebb_dtype dtype); /* the ceilings as rows */

/* Prints why and returns the exit code of an error. */
int bench_fail(const ebb_error *err);

#endif
