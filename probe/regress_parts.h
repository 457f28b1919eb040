/* Private to regression: what its protocols are given and what they fill. */
#ifndef EBB_PROBE_REGRESS_PARTS_H
#define EBB_PROBE_REGRESS_PARTS_H

#include "probe/regress.h"
#include "probe/sample.h"
#include "probe/solve.h"

typedef struct regression {
  const ebb_store *store;
  const ebb_config *config;
  ebb_context *c;
  const ebb_sample *sample;
  const ebb_plan *plan;
  int set, feature;
  const char *dir; /* of the official files; NULL: none */
  int target_count;
  int64_t permutations;
  ebb_progress *progress;
  void *user;
  double done, work; /* cells */
} regression;

static inline int ebb_regression_cells(const ebb_regression *row) {
  return row->step_count * row->block_count;
}

/* x [n,width] of one cell, finite. */
bool ebb_regress_read(const regression *r, const ebb_regression *row, int cell, float *x, ebb_error *err);
void ebb_regress_progress(regression *r, double cells);

/* Fills a row of target number `target` of the sample (row->partial: given the others). */
bool ebb_regress_strict(regression *r, int target, ebb_regression *row, ebb_error *err);
/* All targets at once, as the official code trains them: rows [target_count]. */
bool ebb_regress_released(regression *r, ebb_regression *rows, ebb_error *err);

/* ---- residuals ---- */

/* Orthonormal columns over the training rows, evaluated at all rows: the constant, and powers of other
 * variables. */
typedef struct ebb_basis {
  int64_t n;
  int count;
  double *q; /* [count,n] */
  int64_t train_count;
  const int32_t *train; /* borrowed */
} ebb_basis;

/* other [others,n]. Powers are 1 to 3, or 1 alone with fewer than ten training rows for each column.
 * Columns that training rows cannot tell apart are left out. */
bool ebb_basis_make(ebb_basis *basis, int64_t n, int others, const double *const *other, int64_t train_count,
                    const int32_t *train, ebb_error *err);
void ebb_basis_free(ebb_basis *basis);
/* What least squares on the training rows leaves of y [n], at all rows. */
void ebb_basis_residual(const ebb_basis *basis, const double *y, double *residual);
/* The same for every column of x [n,d]. false: memory. */
bool ebb_basis_residuals(const ebb_basis *basis, int64_t d, const float *x, float *residual);

#endif
