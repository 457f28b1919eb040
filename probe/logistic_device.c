/* Logistic regressions on a device, in the dual: one Gram matrix for each design, shared by its label sets
 * and penalties; Newton's steps by conjugate gradients preconditioned with (g + mu I)^-1. */
#include "probe/batch.h"
#include "probe/solvers.h"

#include <math.h>
#include <stdlib.h>

/* The curvature that the preconditioner takes the margins to have at the optimum: 1/4 is that of a margin of 0,
 * less penalty means larger margins. Measured on planted features of 96 x 5 to 1000 x 1536: the fewest products
 * for penalties of 1, 1e-2 and 1e-4 come with 0.25, 0.05 and 0.01. */
static double curvature(double penalty) {
  return fmin(0.25, fmax(0.005, 0.25 * pow(penalty, 0.35)));
}

/* Every row also gets a column of its own, of this share of |z|^2. Where rows depend on one another (more rows
 * than columns, a video twice) nothing in w would hold what the dual weights do along their null space; this
 * does, and moves margins by less than 1e-9 of themselves over the penalty. */
#define OWN_COLUMN 3e-11

typedef struct logistic_device {
  ebb_context *c;
  const ebb_parameters *parameters;
  const ebb_problem *const *design; /* [designs] */
  const int64_t *first;             /* [designs+1] its problems: consecutive, one label set each */
  const ebb_problem *problems;
  ebb_logistic_fit *fits;
  ebb_worst *worst;
} logistic_device;

/* What a piece has on the host: labels, and results of one penalty. */
typedef struct piece {
  ebb_batch batch;
  int64_t sets;
  double *y, *zero;                           /* [B,K,n] */
  double *unit, *lambda, *mu, *least;         /* [B] */
  double *w, *f, *b, *reached, *mean, *scale; /* [B,K,d], [B,K,t], [B,K], [B,K], [B,d], [B,d] */
} piece;

static bool piece_make(piece *p, const logistic_device *l, int64_t first, int64_t count, ebb_error *err) {
  *p = (piece){0};
  if (!ebb_batch_make(&p->batch, l->c, count, l->design + first, false, err))
    return false;
  for (int64_t i = first; i < first + count; i++)
    p->sets = l->first[i + 1] - l->first[i] > p->sets ? l->first[i + 1] - l->first[i] : p->sets;
  int64_t sets = count * p->sets, n = p->batch.n, t = p->batch.t, d = p->batch.d;
  double *all = calloc((size_t)(sets * (2 * n + d + t + 2) + count * (4 + 2 * d)), sizeof *all);
  if (!all)
    return ebb_fail(err, "not enough memory for %lld logistic regressions", (long long)sets);
  p->y = all;
  p->zero = p->y + sets * n;
  p->w = p->zero + sets * n;
  p->f = p->w + sets * d;
  p->b = p->f + sets * t;
  p->reached = p->b + sets;
  p->unit = p->reached + sets;
  p->lambda = p->unit + count;
  p->mu = p->lambda + count;
  p->least = p->mu + count;
  p->mean = p->least + count;
  p->scale = p->mean + count * d;
  for (int64_t i = 0; i < count; i++)
    for (int64_t at = l->first[first + i]; at < l->first[first + i + 1]; at++)
      for (int64_t r = 0; r < l->problems[at].train_count; r++)
        p->y[(i * p->sets + at - l->first[first + i]) * n + r] =
            l->problems[at].labels[l->problems[at].train[r]];
  return true;
}

static void piece_free(piece *p) {
  ebb_batch_free(&p->batch);
  free(p->y);
}

/* Results of one penalty to their problems. */
static void hand_out(logistic_device *l, const piece *p, int64_t first, int penalty) {
  int64_t n_t = p->batch.t, d = p->batch.d;
  for (int64_t i = 0; i < p->batch.count; i++)
    for (int64_t at = l->first[first + i]; at < l->first[first + i + 1]; at++) {
      int64_t set = i * p->sets + at - l->first[first + i], test = l->problems[at].test_count;
      ebb_logistic_fit *fit = &l->fits[at];
      double reached = p->reached[set];
      for (int64_t t = 0; t < test; t++) {
        double margin = p->f[set * n_t + t] + p->b[set];
        reached = isfinite(margin) ? reached : NAN;
        if (fit->margins)
          fit->margins[penalty * test + t] = margin;
      }
      ebb_worst_of(l->worst, reached, at);
      if (fit->gradient)
        fit->gradient[penalty] = reached;
      if (!fit->weights)
        continue;
      double *weights = fit->weights + penalty * (d + 1);
      weights[d] = p->b[set];
      for (int64_t j = 0; j < d; j++) {
        weights[j] = p->w[set * d + j] * p->scale[i * d + j];
        weights[d] -= weights[j] * p->mean[i * d + j];
      }
    }
}

static bool solve_piece(void *user, int64_t first, int64_t count, ebb_error *err) {
  logistic_device *l = user;
  ebb_context *c = l->c;
  piece p;
  if (!piece_make(&p, l, first, count, err)) {
    piece_free(&p);
    return false;
  }
  ebb_batch *b = &p.batch;
  int64_t n = b->n, K = p.sets, d = b->d;
  bool weights = false;
  for (int64_t at = l->first[first]; at < l->first[first + count]; at++)
    weights = weights || l->fits[at].weights;
  ebb_batch_upload(b);
  ebb_tensor z = EBB_F64_NEW(c, "z", count, n, d), zt = EBB_F64_NEW(c, "z of test rows", count, b->t, d);
  ebb_tensor g = EBB_F64_NEW(c, "g", count, n, n), inverse = EBB_F64_NEW(c, "(g + mu)^-1", count, n, n);
  ebb_tensor y = EBB_F64_NEW(c, "y", count, K, n), a = EBB_F64_NEW(c, "a", count, K, n),
             bias = EBB_F64_NEW(c, "b", count, K), reached = EBB_F64_NEW(c, "gradient", count, K),
             sweeps = EBB_F64_NEW(c, "sweeps", count, K), w = EBB_F64_NEW(c, "w", count, K, d),
             f = EBB_F64_NEW(c, "f", count, K, b->t), lambda = EBB_F64_NEW(c, "lambda", count),
             mu = EBB_F64_NEW(c, "mu", count), least = EBB_F64_NEW(c, "least gradient", count);
  bool ok = ebb_batch_units(b, p.unit, err);
  for (int64_t i = 0; i < count; i++) /* rounding is the measure where features tell nothing at all */
    p.least[i] = 1e-8 * (double)b->problem[i]->train_count * sqrt(p.unit[i]);
  ebb_upload(c, y, p.y);
  ebb_upload(c, a, p.zero);
  ebb_upload(c, bias, p.b);
  ebb_upload(c, least, p.least);
  ebb_standardise(c, z, b->x, b->row, b->mean, b->inverse);
  ebb_standardise(c, zt, b->x, b->test_row, b->mean, b->inverse);
  ebb_gram(c, g, z);
  for (int64_t i = 0; i < count; i++)
    p.mu[i] = OWN_COLUMN * p.unit[i];
  ebb_upload(c, mu, p.mu);
  ebb_add_diagonal(c, g, g, mu);
  if (weights) {
    ebb_download(c, p.mean, b->mean);
    ebb_download(c, p.scale, b->inverse);
  }
  for (int i = 0; ok && i < l->parameters->penalty_count; i++) {
    for (int64_t k = 0; k < count; k++) {
      p.lambda[k] = 0.25 * l->parameters->penalties[i] * p.unit[k];
      p.mu[k] = p.lambda[k] / curvature(l->parameters->penalties[i]);
    }
    ebb_upload(c, lambda, p.lambda);
    ebb_upload(c, mu, p.mu);
    ebb_add_diagonal(c, inverse, g, mu);
    ebb_spd_inverse(c, inverse);
    ebb_newton newton = {l->parameters->tolerance, l->parameters->iterations};
    ebb_logistic_newton(c, a, bias, reached, sweeps, g, inverse, y, lambda, mu, least, newton);
    ebb_matmul(c, w, a, false, z, false);
    ebb_matmul(c, f, w, false, zt, true);
    ebb_download(c, p.f, f);
    ebb_download(c, p.b, bias);
    ebb_download(c, p.reached, reached);
    if (weights)
      ebb_download(c, p.w, w);
    if (!c->counting && !c->error.text[0])
      hand_out(l, &p, first, i);
  }
  piece_free(&p);
  return ok;
}

bool ebb_logistic_device(ebb_context *c, int64_t count, const ebb_problem *problems,
                         const ebb_parameters *parameters, ebb_logistic_fit *fits, ebb_worst *worst,
                         ebb_error *err) {
  ebb_designs designs;
  bool ok = ebb_designs_make(&designs, count, problems, err);
  *worst = (ebb_worst){0};
  for (int64_t at = 0, end = 0; ok && at < designs.count; at = end) {
    end = ebb_designs_of_shape(&designs, at);
    logistic_device l = {.c = c,
                         .parameters = parameters,
                         .design = designs.problem + at,
                         .first = designs.first + at,
                         .problems = problems,
                         .fits = fits,
                         .worst = worst};
    ok = ebb_batch_pieces(c, end - at, solve_piece, &l, err);
  }
  ebb_designs_free(&designs);
  return ok;
}
