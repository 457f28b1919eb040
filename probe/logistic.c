#include "probe/batch.h"
#include "probe/scores.h"
#include "probe/solvers.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Newton's method in the scores: w [rank] and b together, w[rank] = b. */
typedef struct logistic {
  const ebb_problem *p;
  ebb_scores s;
  int64_t side;                        /* rank + 1 */
  double lambda;                       /* of |w|^2/2 */
  double *y;                           /* [train] */
  double *w, *trial, *step, *gradient; /* [side] */
  double *f, *h, *was;                 /* [train] margins, curvatures, margins before a step */
  double *rows;                        /* [train,side] (u, 1) times sqrt(h) */
  double *hessian;
} logistic;

static bool prepare(logistic *l, const ebb_problem *p, ebb_form form) {
  *l = (logistic){.p = p};
  if (!ebb_scores_make(&l->s, p, NULL, form))
    return false;
  size_t n = (size_t)l->s.train, k = (size_t)l->s.rank + 1;
  l->side = (int64_t)k;
  l->y = calloc(4 * n + 4 * k + n * k + k * k, sizeof *l->y);
  if (!l->y)
    return false;
  l->f = l->y + n;
  l->h = l->f + n;
  l->was = l->h + n;
  l->w = l->was + n;
  l->trial = l->w + k;
  l->step = l->trial + k;
  l->gradient = l->step + k;
  l->rows = l->gradient + k;
  l->hessian = l->rows + n * k;
  for (size_t i = 0; i < n; i++)
    l->y[i] = p->labels[p->train[i]];
  return true;
}

static void done(logistic *l) {
  ebb_scores_free(&l->s);
  free(l->y);
}

/* log(1 + e^-a) without overflow. */
static double log_loss(double a) {
  return a > 0 ? log1p(exp(-a)) : -a + log1p(exp(a));
}

/* Margins into f; the objective. */
static double objective(logistic *l, const double *w) {
  int64_t rank = l->s.rank;
  double value = 0;
  for (int64_t i = 0; i < l->s.train; i++)
    l->f[i] = w[rank];
  if (rank > 0) {
    cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)l->s.train, (int)rank, 1, l->s.u, (int)rank, w, 1, 1, l->f,
                1);
    value = 0.5 * l->lambda * cblas_ddot((int)rank, w, 1, w, 1);
  }
  for (int64_t i = 0; i < l->s.train; i++)
    value += log_loss(l->y[i] * l->f[i]);
  return value;
}

/* Gradient at w from f, curvatures into h; the gradient's norm. */
static double slope(logistic *l, const double *w) {
  int64_t rank = l->s.rank;
  double *g = l->gradient, norm = 0;
  for (int64_t k = 0; k < rank; k++)
    g[k] = l->lambda * w[k];
  g[rank] = 0;
  for (int64_t i = 0; i < l->s.train; i++) {
    double wrong = 1 / (1 + exp(l->y[i] * l->f[i])), pull = -l->y[i] * wrong;
    l->h[i] = wrong * (1 - wrong);
    g[rank] += pull;
    cblas_daxpy((int)rank, pull, l->s.u + i * rank, 1, g, 1);
  }
  for (int64_t k = 0; k <= rank; k++)
    norm += g[k] * g[k];
  return sqrt(norm);
}

/* step = hessian^-1 gradient. */
static bool newton_step(logistic *l) {
  int64_t rank = l->s.rank, side = l->side;
  for (int64_t i = 0; i < l->s.train; i++) {
    double root = sqrt(l->h[i]);
    for (int64_t k = 0; k < rank; k++)
      l->rows[i * side + k] = root * l->s.u[i * rank + k];
    l->rows[i * side + rank] = root;
  }
  int n = (int)side, one = 1, info = 0;
  cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, (int)l->s.train, 1, l->rows, n, 0, l->hessian, n);
  for (int64_t k = 0; k < rank; k++)
    l->hessian[k * side + k] += l->lambda;
  l->hessian[side * side - 1] += 1e-12; /* all curvatures may underflow when every margin is huge */
  memcpy(l->step, l->gradient, (size_t)side * sizeof *l->step);
  dpotrf_("L", &n, l->hessian, &n, &info, 1);
  if (info == 0)
    dpotrs_("L", &n, &one, l->hessian, &n, l->step, &n, &info, 1);
  return info == 0;
}

/* Moves w by the longest of 1, 1/2, ... of the step that descends enough from `value`, which follows; the
 * largest move of a margin. */
static double line_search(logistic *l, double *value) {
  double descent = cblas_ddot((int)l->side, l->step, 1, l->gradient, 1), length = 1, next = *value, moved = 0;
  memcpy(l->was, l->f, (size_t)l->s.train * sizeof *l->was);
  for (int halving = 0; halving < 40; halving++, length *= 0.5) {
    for (int64_t k = 0; k < l->side; k++)
      l->trial[k] = l->w[k] - length * l->step[k];
    next = objective(l, l->trial);
    if (next <= *value - 1e-4 * length * descent + 1e-14 * fabs(*value))
      break; /* the last term: near the optimum the decrease is below rounding */
  }
  memcpy(l->w, l->trial, (size_t)l->side * sizeof *l->w);
  *value = next;
  for (int64_t i = 0; i < l->s.train; i++)
    moved = fmax(moved, fabs(l->f[i] - l->was[i]));
  return moved;
}

/* Minimises for l->lambda from l->w; the relative gradient reached, NaN when it is not finite, and infinite
 * when it is within the tolerance but margins still move: that is no optimum. `scale` is the gradient that
 * counts as 1. A small gradient is not enough: where the penalty is small, margins are far from their own
 * when it is met. Steps halve the logarithm of what is left, so that after one that moved no margin by more
 * than 1e-4 it is below 1e-7. */
static double minimise(logistic *l, double scale, const ebb_parameters *parameters) {
  double value = objective(l, l->w), norm = slope(l, l->w), moved = INFINITY;
  for (int it = 0; it < parameters->iterations && isfinite(norm); it++) {
    if ((norm <= parameters->tolerance * scale && moved <= EBB_NEWTON_SETTLED) || !newton_step(l))
      break;
    moved = line_search(l, &value);
    norm = slope(l, l->w);
  }
  if (!isfinite(norm))
    return NAN;
  return norm <= parameters->tolerance * scale && moved > EBB_NEWTON_SETTLED ? INFINITY : norm / scale;
}

/* In units of x: z-weights are z' u (w / s), for both forms of the decomposition. */
static bool raw_weights(const logistic *l, double *weights) {
  int64_t d = l->s.d, rank = l->s.rank, train = l->s.train;
  double *along = calloc((size_t)train + (size_t)rank + 1, sizeof *along);
  if (!along)
    return false;
  double *divided = along + train;
  for (int64_t k = 0; k < rank; k++)
    divided[k] = l->w[k] / l->s.s[k];
  memset(weights, 0, ((size_t)d + 1) * sizeof *weights);
  weights[d] = l->w[rank];
  if (rank > 0) {
    cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)train, (int)rank, 1, l->s.u, (int)rank, divided, 1, 0,
                along, 1);
    cblas_dgemv(CblasRowMajor, CblasTrans, (int)train, (int)d, 1, l->s.z, (int)d, along, 1, 0, weights, 1);
  }
  for (int64_t j = 0; j < d; j++) {
    weights[j] *= l->s.inverse[j];
    weights[d] -= weights[j] * l->s.mean[j];
  }
  free(along);
  return true;
}

/* worst: the largest relative gradient over penalties; NaN: of one it, or the margins, are not finite. false:
 * no memory, or training rows that are not finite. */
static bool solve(const ebb_problem *p, const ebb_parameters *parameters, ebb_logistic_fit *fit,
                  ebb_worst *worst) {
  logistic l;
  bool ok = prepare(&l, p, parameters->form);
  if (ok) {
    int64_t rank = l.s.rank, test = l.s.test;
    objective(&l, l.w);
    /* Features that tell nothing at all have no gradient to be relative to: then rounding is the measure. */
    double scale = slope(&l, l.w), rounding = 1e-8 * (double)l.s.train * sqrt(l.s.unit);
    scale = scale > rounding ? scale : rounding;
    for (int i = 0; ok && i < parameters->penalty_count; i++) {
      l.lambda = 0.25 * parameters->penalties[i] * l.s.unit;
      double reached = minimise(&l, scale, parameters);
      for (int64_t t = 0; t < test; t++) {
        double margin = l.w[rank] + cblas_ddot((int)rank, l.s.u_test + t * rank, 1, l.w, 1);
        reached = isfinite(margin) ? reached : NAN;
        if (fit->margins)
          fit->margins[i * test + t] = margin;
      }
      ebb_worst_of(worst, reached, 0);
      if (fit->gradient)
        fit->gradient[i] = reached;
      if (fit->weights)
        ok = raw_weights(&l, fit->weights + i * (p->d + 1));
    }
  }
  done(&l);
  return ok;
}

static bool on_host(ebb_context *c, int64_t count, const ebb_problem *problems,
                    const ebb_parameters *parameters, ebb_logistic_fit *fits, ebb_worst *worst,
                    ebb_error *err) {
  ebb_worst *each = calloc((size_t)count + 1, sizeof *each);
  if (!each)
    return ebb_fail(err, "not enough memory for %lld logistic regressions", (long long)count);
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; i++)
    if (!solve(&problems[i], parameters, &fits[i], &each[i]))
      each[i].gradient = NAN;
  *worst = (ebb_worst){0};
  for (int64_t i = 0; i < count; i++) {
    ebb_worst_of(worst, each[i].gradient, i);
    c->counters.flops +=
        2.0 * (double)problems[i].train_count * (double)problems[i].train_count * (double)problems[i].d;
  }
  free(each);
  return true;
}

bool ebb_logistic_batch(ebb_context *c, int64_t count, const ebb_problem *problems,
                        const ebb_parameters *parameters, ebb_logistic_fit *fits, ebb_error *err) {
  ebb_worst worst = {0};
  for (int64_t first = 0, some = 0; first < count; first += some) {
    bool device;
    ebb_worst here;
    some = ebb_batch_together(c, count - first, problems + first, parameters->form,
                              ebb_logistic_newton_rows(c), false, &device);
    if (!(device ? ebb_logistic_device(c, some, problems + first, parameters, fits + first, &here, err)
                 : on_host(c, some, problems + first, parameters, fits + first, &here, err)))
      return false;
    ebb_worst_of(&worst, here.gradient, first + here.problem);
  }
  if (worst.gradient <= parameters->tolerance || count == 0)
    return true;
  const ebb_problem *p = &problems[worst.problem];
  ebb_fail(err, "logistic regression %lld of %lld [%lld, %lld] ", (long long)worst.problem + 1,
           (long long)count, (long long)p->train_count, (long long)p->d);
  if (isnan(worst.gradient))
    return ebb_fail_also(err, "has no fit: features that are not finite or too large, or not enough memory");
  if (isinf(worst.gradient))
    return ebb_fail_also(
        err,
        "still moved margins by more than 1e-4 after at most %d steps, though its gradient is "
        "within %.1e",
        parameters->iterations, parameters->tolerance);
  return ebb_fail_also(err,
                       "stopped at a relative gradient of %.1e after at most %d steps; %.1e was asked for",
                       worst.gradient, parameters->iterations, parameters->tolerance);
}
