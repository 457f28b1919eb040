/* Private to the solvers on a device: problems as tensors of one shape, as many at a time as the device's
 * memory takes. Problems that stand together and train and are judged on the same rows of the same numbers
 * are one design with several label sets; designs of one width and number of rows are one batch. */
#ifndef EBB_PROBE_BATCH_H
#define EBB_PROBE_BATCH_H

#include "kernels/ops.h"
#include "probe/solve.h"

static inline bool ebb_on_device(const ebb_context *c) {
  return c->activations.place == EBB_DEVICE;
}

/* How many of the problems, from the first on, are solved in one place: *device says whether on the context's
 * device, in the dual, or by the host's solvers. Those take what `form` wants in the primal; what has a much
 * smaller primal (d at most 1/16 of the training rows; not with EBB_FORM_DUAL); and what the device cannot
 * take: more than `rows` training rows, or a dual larger than its free memory. Without a device: all by the
 * host. by_fold: as in ebb_batch_make. */
int64_t ebb_batch_together(ebb_context *c, int64_t count, const ebb_problem *problems, ebb_form form,
                           int64_t rows, bool by_fold, bool *device);

/* Problems cut into designs. */
typedef struct ebb_designs {
  int64_t count;
  const ebb_problem **problem; /* [count] the first of each design */
  int64_t *first;              /* [count+1] its problems: consecutive, one label set each */
} ebb_designs;
/* Errors: memory. */
bool ebb_designs_make(ebb_designs *designs, int64_t count, const ebb_problem *problems, ebb_error *err);
void ebb_designs_free(ebb_designs *designs);
/* One past the last of the designs from `at` on that have its d and n. */
int64_t ebb_designs_of_shape(const ebb_designs *designs, int64_t at);

/* Designs [0, count) of one d and one number of rows `all`. */
typedef struct ebb_batch {
  ebb_context *c;
  int64_t count;
  const ebb_problem *const *problem; /* [count] one of each design */
  int64_t n, t, d, all;              /* most training rows with padding, most test rows (at least 1) */
  int64_t folds, k;                  /* training rows lie by inner fold, k for each; 0: as they come */
  int64_t tables;                    /* different x */
  bool *one_fold;       /* [count] one inner fold has all training rows: nothing is left to judge it by */
  int64_t *rows, *test; /* [count,n], [count,t] of the tables laid end to end, -1: padding */
  ebb_tensor x, row, test_row, mean, inverse; /* x [tables * all, d] */
} ebb_batch;

/* Shapes and row numbers. by_fold: training rows lie by inner fold. Errors: memory. */
bool ebb_batch_make(ebb_batch *b, ebb_context *c, int64_t count, const ebb_problem *const *problem,
                    bool by_fold, ebb_error *err);
void ebb_batch_free(ebb_batch *b);

/* Where training row `position` of a problem lies among the n of its design: slot [train_count]. */
void ebb_batch_slots(const ebb_batch *b, const ebb_problem *p, int64_t *slot);

/* x and rows on the device; mean and inverse of the training rows. */
void ebb_batch_upload(ebb_batch *b);
/* unit[i] = mean over training rows of |z|^2 of design i (1 where nothing varies). false: memory. */
bool ebb_batch_units(const ebb_batch *b, double *unit, ebb_error *err);

/* Calls solve(user, first, count) with consecutive pieces of [0, count) that fit the memory the context has
 * free, or of one that does not: counting, as often as it takes to find a piece that fits, then with an arena
 * of that size, which stays for the next call. A solve may not look at results while c->counting. */
typedef bool ebb_batch_solve(void *user, int64_t first, int64_t count, ebb_error *err);
bool ebb_batch_pieces(ebb_context *c, int64_t count, ebb_batch_solve *solve, void *user, ebb_error *err);

/* A float64 tensor of the activation arena. */
#define EBB_F64_NEW(c, name, ...) EBB_NEW(c, EBB_ACTIVATIONS, EBB_F64, name, __VA_ARGS__)

#endif
