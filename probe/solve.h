/* Linear probes on many small problems: problem, parameters, fit, as LIBLINEAR has them, and every call
 * takes a batch.
 * 
 * A problem standardises its columns with mean and deviation of its training rows alone (z = (x - mean)/std;
 * a constant column counts as zero), then fits f(x) = w.z + b with a penalty on w, b free:
 * ridge      1/2 sum (y - f)^2       + lambda/2 |w|^2
 * logistic   sum log(1 + e^(-y f))   + lambda/8 |w|^2 The factor 1/4 makes one lambda mean one amount of
 * shrinkage for both: the logistic loss has a quarter of the curvature at f = 0. Penalties are relative:
 * lambda = rho * mean over training rows of |z|^2 (= rho times the columns that vary), so that one grid
 * serves every width.
 * 
 * Both rotate z to its principal axes once, [train, rank] scores with rank <= min(train, d), from the d x d
 * covariance when d <= train and from the train x train Gram matrix otherwise; all penalties, label sets and
 * inner folds share that one decomposition. Results do not depend on the thread count.
 * 
 * A device solves ridge and logistic regressions in the dual, whatever their shape. What it should not or
 * cannot take is solved by the host, in the same call: form EBB_FORM_PRIMAL, d at most 1/16 of the training
 * rows (EBB_FORM_AUTO), a dual larger than the device's free memory, more training rows than its shared
 * memory takes (logistic only: ebb_logistic_newton_rows, some 12000 to 29000). */
#ifndef EBB_PROBE_SOLVE_H
#define EBB_PROBE_SOLVE_H

#include "kernels/context.h"

typedef struct ebb_problem {
  int64_t n, d;
  const float *x;  /* [n,d] */
  int64_t columns; /* label sets, >= 1: the first is the truth, the others are permutations (ridge only) */
  const int8_t *labels;  /* [columns,n] +1 or -1 */
  const double *targets; /* ridge only: [columns,n] of any size, in place of labels; NULL: labels */
  int64_t train_count, test_count;
  const int32_t *train, *test; /* rows */
  int inner_folds; /* ridge: folds inside the training rows; 0: every training row its own (leave one out) */
  const int32_t *inner;     /* [train_count] 0..inner_folds-1 */
  int64_t validation_count; /* Adam only: rows that say which epoch counts; 0: the last does */
  const int32_t *validation;
  uint64_t stream, start; /* Adam only: with the seed, the order of rows; the weights it begins with */
} ebb_problem;

typedef enum ebb_form {
  EBB_FORM_AUTO,
  EBB_FORM_PRIMAL,
  EBB_FORM_DUAL
} ebb_form; /* the narrower, and on a device as said above; forced in tests */

/* By which ridge chooses a penalty, of inner margins f and labels y: their correlation, blind to scale and
 * offset, for the side of zero; or 1 - sum (y - f)^2 / sum (y - mean y)^2, at least -1, for values. */
typedef enum ebb_score { EBB_SCORE_CORRELATION, EBB_SCORE_EXPLAINED } ebb_score;

typedef struct ebb_parameters {
  int penalty_count;
  const double *penalties; /* rho, descending: a tie goes to the stronger */
  double tolerance;        /* logistic: |gradient| relative to the one at w = 0 */
  int iterations;          /* logistic: most Newton steps for one penalty */
  ebb_form form;
  ebb_score score; /* ridge */
} ebb_parameters;

extern const ebb_parameters ebb_parameters_default; /* rho 10 .. 1e-4 by decades, tolerance 1e-6, 100 steps */

/* Every array is the caller's and may be NULL when not wanted. */
typedef struct ebb_ridge_fit {
  double *inner_margins; /* [penalties,train_count] first label set: each inner fold judged by the fit on the
                            others; not written where score is -1 */
  double *score;         /* [penalties] first label set: parameters.score of inner_margins; -1: the
                            penalty was too small for the arithmetic, or there are no others */
  double *reached;       /* [columns] the highest score over penalties for each label set */
  int32_t *best;         /* [columns] penalty with the highest score for each label set */
  double *margins;       /* [test_count] first label set at its best penalty */
  int32_t *hits; /* [columns] twice the number of test rows on the right side (ties 1) at its best penalty */
  double *squares; /* [columns] sum over test rows of (y - f)^2 there */
} ebb_ridge_fit;

/* Inner margins are exact refits in closed form: with H the hat matrix (intercept included) and r = (I - H)
 * y, the residuals of fold F when it is left out are (I - H_FF)^-1 r_F. Scale (not centre) of the columns
 * stays that of all training rows. */
bool ebb_ridge_batch(ebb_context *c, int64_t count, const ebb_problem *problems,
                     const ebb_parameters *parameters, ebb_ridge_fit *fits, ebb_error *err);

typedef struct ebb_logistic_fit {
  double *margins; /* [penalties,test_count] */
  double *weights; /* [penalties,d+1] in units of x, intercept last: margin = weights . (x, 1) */
  double
      *gradient; /* [penalties] relative gradient reached; infinite: within the tolerance, but the last step
                       still moved margins; NaN: not finite */
} ebb_logistic_fit;

/* Newton with line search from the solution of the stronger penalty, until the gradient is within the
 * tolerance and the last step moved no training row's margin by more than 1e-4: as steps converge
 * quadratically, margins are then within 1e-6 of the optimum's (relative L2, test_solve.c), on the host as
 * on a device, also where the penalty is so small that the gradient alone says little. Not reaching both
 * within parameters.iterations is an error that says how far it came. On a device (dual form, float64)
 * problems that stand next to each other and share x and rows are one design, solved together. */
bool ebb_logistic_batch(ebb_context *c, int64_t count, const ebb_problem *problems,
                        const ebb_parameters *parameters, ebb_logistic_fit *fits, ebb_error *err);

/* Probes as others train them: Adam (kernels/ops.h, ebb_logistic_adam) for a number of epochs, float32, with
 * batches in an order that is a pure function of (seed, stream, epoch). A fit's margins depend neither on the
 * thread count nor on the problems beside it; a device's are the CPU's up to rounding. */
typedef struct ebb_training {
  double rate, decay;
  int batch, epochs;
  int patience; /* epochs without a better validation accuracy before it ends */
  /* Logits of the linear layer: 1, or 2 under a softmax, whose difference moves by twice the rate (their
   * gradients mirror each other, and so do Adam's steps; exact without decay). */
  int outputs;
  double start;     /* weights and intercepts begin uniform in +-start/sqrt(d): 1 is PyTorch's, 0 all zero */
  bool standardise; /* columns by mean and deviation of the training rows; else as they are */
  uint64_t seed;
} ebb_training;

typedef struct ebb_adam_fit {
  double *margins; /* [test_count], NULL: not wanted */
  double *weights; /* [d+1] in units of x, intercept last; NULL: not wanted */
  double accuracy; /* on validation rows; NaN: none */
  int64_t epoch;   /* the one that counts, from 1 */
} ebb_adam_fit;

bool ebb_adam_batch(ebb_context *c, int64_t count, const ebb_problem *problems, const ebb_training *training,
                    ebb_adam_fit *fits, ebb_error *err);

#endif
