#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/lapack.h"

/* One label set. Rows of padding (y = 0) take no part. */
typedef struct dual {
  int64_t n;
  const double *g, *y;
  double lambda, bias, value;
  double *a;
  double *q, *residual, *h, *v, *one, *system; /* [n], [n,n]: q = g a */
} dual;

static double log_loss(double a) {
  return a > 0 ? log1p(exp(-a)) : -a + log1p(exp(a));
}

/* Objective, residual r = y sigma(-y f) - lambda a and curvatures at (a, bias); returns |gradient|. */
static double slope(dual *p) {
  double pull = 0, norm = 0;
  p->value = 0;
  cblas_dsymv(CblasRowMajor, CblasUpper, (int)p->n, 1, p->g, (int)p->n, p->a, 1, 0, p->q, 1);
  for (int64_t i = 0; i < p->n; i++) {
    double y = p->y[i], m = y * (p->q[i] + p->bias), wrong = 1 / (1 + exp(m));
    pull += y * wrong;
    p->residual[i] = y != 0 ? y * wrong - p->lambda * p->a[i] : 0;
    p->h[i] = fmax(wrong * (1 - wrong), 1e-12);
    p->value += y != 0 ? log_loss(m) + 0.5 * p->lambda * p->a[i] * p->q[i] : 0;
  }
  cblas_dsymv(CblasRowMajor, CblasUpper, (int)p->n, 1, p->g, (int)p->n, p->residual, 1, 0, p->v, 1);
  for (int64_t i = 0; i < p->n; i++)
    norm += p->residual[i] * p->v[i];
  return sqrt(fmax(0, norm) + pull * pull);
}

/* (lambda/h + g) delta = residual/h - db, sum delta = 0; delta in v. */
static bool direction(dual *p, double *db) {
  int n = (int)p->n, two = 1, info = 0;
  memcpy(p->system, p->g, (size_t)p->n * (size_t)p->n * sizeof *p->system);
  for (int64_t i = 0; i < p->n; i++) {
    bool there = p->y[i] != 0;
    p->system[i * p->n + i] += there ? p->lambda / p->h[i] : 1;
    p->v[i] = there ? p->residual[i] / p->h[i] : 0;
    p->one[i] = there;
  }
  dpotrf_("L", &n, p->system, &n, &info, 1);
  if (info != 0)
    return false;
  dpotrs_("L", &n, &two, p->system, &n, p->v, &n, &info, 1);
  dpotrs_("L", &n, &two, p->system, &n, p->one, &n, &info, 1);
  double top = 0, bottom = 0;
  for (int64_t i = 0; i < p->n; i++) {
    top += p->v[i];
    bottom += p->one[i];
  }
  *db = top / bottom;
  for (int64_t i = 0; i < p->n; i++)
    p->v[i] -= *db * p->one[i];
  return true;
}

/* Moves to a + length delta with the longest of 1, 1/2, ... that descends enough; the largest move of a margin. */
static double line_search(dual *p, double db) {
  double *gd = p->one, descent = 0, pull = 0, across = 0, along = 0, base = 0, length = 1, moved = 0;
  cblas_dsymv(CblasRowMajor, CblasUpper, (int)p->n, 1, p->g, (int)p->n, p->v, 1, 0, gd, 1);
  for (int64_t i = 0; i < p->n; i++) {
    descent += p->residual[i] * gd[i];
    pull += p->residual[i] + (p->y[i] != 0 ? p->lambda * p->a[i] : 0);
    base += p->a[i] * p->q[i];
    across += p->a[i] * gd[i];
    along += p->v[i] * gd[i];
  }
  descent += db * pull;
  for (int halving = 0; halving < 40; halving++, length *= 0.5) {
    double next = 0.5 * p->lambda * (base + length * (2 * across + length * along));
    for (int64_t i = 0; i < p->n; i++)
      next += p->y[i] != 0 ? log_loss(p->y[i] * (p->q[i] + p->bias + length * (gd[i] + db))) : 0;
    if (next <= p->value - 1e-4 * length * descent + 1e-14 * fabs(p->value))
      break;
  }
  for (int64_t i = 0; i < p->n; i++) {
    p->a[i] += length * p->v[i];
    moved = fmax(moved, p->y[i] != 0 ? fabs(length * (gd[i] + db)) : 0);
  }
  p->bias += length * db;
  return moved;
}

/* What ops.h calls reached. */
static double minimise(dual *p, double least, ebb_newton newton, double *steps) {
  double scale = 0, sum = 0, reached, moved = 0, db;
  for (int64_t i = 0; i < p->n; i++) {
    p->v[i] = 0.5 * p->y[i];
    sum += p->v[i];
  }
  cblas_dsymv(CblasRowMajor, CblasUpper, (int)p->n, 1, p->g, (int)p->n, p->v, 1, 0, p->q, 1);
  scale = fmax(least, sqrt(fmax(0, cblas_ddot((int)p->n, p->v, 1, p->q, 1)) + sum * sum));
  for (*steps = 0;; ++*steps) {
    reached = slope(p) / scale;
    if ((reached <= newton.tolerance && moved <= EBB_NEWTON_SETTLED) || *steps >= newton.steps ||
        !direction(p, &db))
      return reached <= newton.tolerance && moved > EBB_NEWTON_SETTLED ? INFINITY : reached;
    moved = line_search(p, db);
  }
}

/* The steps are solved exactly, by a Cholesky factor each: g alone is needed, mu and its inverse are not. */
void cpu_logistic_newton(ebb_context *c, ebb_tensor a, ebb_tensor b, ebb_tensor reached, ebb_tensor sweeps,
                         ebb_tensor g, ebb_tensor inverse, ebb_tensor y, ebb_tensor lambda, ebb_tensor mu,
                         ebb_tensor least, ebb_newton newton, void *scratch) {
  (void)inverse;
  (void)mu;
  (void)scratch;
  int64_t sets = y.shape[1], n = y.shape[2];
  cpu_memory memory;
  if (!cpu_scratch(c, 0, (size_t)(n * (n + 5)) * sizeof(double), &memory))
    return;
  CPU_PARALLEL(c, (double)(y.shape[0] * sets * n * n) * (double)n)
  for (int64_t i = 0; i < y.shape[0] * sets; i++) {
    double *room = cpu_own(memory);
    int64_t design = i / sets;
    dual p = {.n = n,
              .g = cpu_f64(g) + design * n * n,
              .y = cpu_f64(y) + i * n,
              .lambda = cpu_f64(lambda)[design],
              .bias = cpu_f64(b)[i],
              .a = cpu_f64(a) + i * n,
              .q = room,
              .residual = room + n,
              .h = room + 2 * n,
              .v = room + 3 * n,
              .one = room + 4 * n,
              .system = room + 5 * n};
    cpu_f64(reached)[i] = minimise(&p, cpu_f64(least)[design], newton, &cpu_f64(sweeps)[i]);
    cpu_f64(b)[i] = p.bias;
  }
}
