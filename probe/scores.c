#include "probe/scores.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

/* A column whose spread is within float32 rounding of its size tells nothing. */
#define CONSTANT_COLUMN 1e-6
/* Directions below this share of the largest are rounding. */
#define RANK_CUT 1e-10

/* mean, inverse deviation (n in the denominator, as scikit-learn has it) and z. Rows run outside: x is read
 * in order. */
static void standardise(ebb_scores *s, const ebb_problem *p, const int64_t *order) {
  int64_t d = s->d;
  double *variance = s->inverse;
  for (int64_t j = 0; j < d; j++)
    s->mean[j] = variance[j] = 0;
  for (int64_t i = 0; i < s->train; i++) {
    const float *x = p->x + (int64_t)p->train[i] * d;
    for (int64_t j = 0; j < d; j++)
      s->mean[j] += x[j];
  }
  for (int64_t j = 0; j < d; j++)
    s->mean[j] /= (double)s->train;
  for (int64_t i = 0; i < s->train; i++) {
    const float *x = p->x + (int64_t)p->train[i] * d;
    for (int64_t j = 0; j < d; j++)
      variance[j] += (x[j] - s->mean[j]) * (x[j] - s->mean[j]);
  }
  for (int64_t j = 0; j < d; j++) {
    double deviation = sqrt(variance[j] / (double)s->train);
    s->inverse[j] = deviation > CONSTANT_COLUMN * fabs(s->mean[j]) && deviation > 1e-30 ? 1 / deviation : 0;
  }
  for (int64_t i = 0; i < s->train + s->test; i++) {
    int64_t row = i >= s->train ? p->test[i - s->train] : p->train[order ? order[i] : i];
    const float *x = p->x + row * d;
    double *z = s->z + i * d;
    for (int64_t j = 0; j < d; j++)
      z[j] = (x[j] - s->mean[j]) * s->inverse[j];
  }
}

/* a [n,n] symmetric -> rows of a are eigenvectors, w ascending. */
static bool eigen(int n, double *a, double *w) {
  int info = 0, want = -1, liwork = 0;
  double size = 0;
  dsyevd_("V", "L", &n, a, &n, w, &size, &want, &liwork, &want, &info, 1, 1);
  int lwork = (int)size;
  double *work = malloc(((size_t)lwork + 1) * sizeof *work);
  int *iwork = malloc(((size_t)liwork + 1) * sizeof *iwork);
  bool ok = work && iwork;
  if (ok)
    dsyevd_("V", "L", &n, a, &n, w, work, &lwork, iwork, &liwork, &info, 1, 1);
  free(work);
  free(iwork);
  return ok && info == 0;
}

/* First axis kept, of n with eigenvalues w ascending. */
static int64_t first_kept(int64_t n, const double *w) {
  int64_t first = 0;
  while (first < n && !(w[first] > RANK_CUT * w[n - 1] && w[first] > 1e-20))
    first++;
  return first;
}

/* From the covariance: v in the rows of a, u = z v. */
static void rotate_primal(ebb_scores *s, const double *a, int64_t first) {
  int d = (int)s->d, rank = (int)s->rank;
  const double *v = a + first * s->d;
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)s->train, rank, d, 1, s->z, d, v, d, 0, s->u,
              rank);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)s->test, rank, d, 1, s->z + s->train * s->d, d, v,
              d, 0, s->u_test, rank);
}

/* From the Gram matrix: with q its eigenvectors, u = q sqrt(s), and u_test = z_test z' q / sqrt(s). */
static bool rotate_dual(ebb_scores *s, const double *a, int64_t first) {
  int train = (int)s->train, test = (int)s->test, d = (int)s->d, rank = (int)s->rank;
  const double *q = a + first * s->train;
  double *cross = malloc(((size_t)test * (size_t)train + 1) * sizeof *cross);
  if (!cross)
    return false;
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, test, train, d, 1, s->z + s->train * s->d, d, s->z, d,
              0, cross, train);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, test, rank, train, 1, cross, train, q, train, 0,
              s->u_test, rank);
  free(cross);
  for (int64_t k = 0; k < rank; k++) {
    double root = sqrt(s->s[k]);
    for (int64_t i = 0; i < train; i++)
      s->u[i * rank + k] = q[k * train + i] * root;
    for (int64_t i = 0; i < test; i++)
      s->u_test[i * rank + k] /= root;
  }
  return true;
}

static bool rotate(ebb_scores *s, ebb_form form) {
  bool primal = form == EBB_FORM_PRIMAL || (form == EBB_FORM_AUTO && s->d <= s->train);
  int64_t side = primal ? s->d : s->train;
  double *a = malloc((size_t)side * (size_t)side * sizeof *a), *w = malloc((size_t)side * sizeof *w);
  bool ok = a && w;
  if (ok) { /* column-major lower is row-major upper */
    cblas_dsyrk(CblasRowMajor, CblasUpper, primal ? CblasTrans : CblasNoTrans, (int)side,
                (int)(primal ? s->train : s->d), 1, s->z, (int)s->d, 0, a, (int)side);
    for (int64_t k = 0; k < side; k++) /* where z is not finite, neither is a sum of its squares */
      ok = ok && isfinite(a[k * (side + 1)]);
    ok = ok && eigen((int)side, a, w);
  }
  if (ok) {
    int64_t first = first_kept(side, w);
    s->rank = side - first;
    s->u = malloc(((size_t)(s->train + s->test) * (size_t)s->rank + 1) * sizeof *s->u);
    s->u_test = s->u + s->train * s->rank;
    s->s = malloc(((size_t)s->rank + 1) * sizeof *s->s);
    ok = s->u && s->s;
    for (int64_t k = 0; ok && k < s->rank; k++) {
      s->s[k] = w[first + k];
      s->unit += w[first + k] / (double)s->train;
    }
    if (ok && s->rank > 0 && primal)
      rotate_primal(s, a, first);
    else if (ok && s->rank > 0)
      ok = rotate_dual(s, a, first);
    if (!(s->unit > 0)) /* nothing varies: rank 0, any penalty does */
      s->unit = 1;
  }
  free(a);
  free(w);
  return ok;
}

bool ebb_scores_make(ebb_scores *s, const ebb_problem *p, const int64_t *order, ebb_form form) {
  *s = (ebb_scores){.train = p->train_count, .test = p->test_count, .d = p->d};
  size_t rows = (size_t)(s->train + s->test), d = (size_t)s->d;
  s->z = malloc((rows * d + 1) * sizeof *s->z);
  s->mean = malloc((2 * d + 1) * sizeof *s->mean);
  s->inverse = s->mean + d;
  bool ok = s->z && s->mean;
  if (ok) {
    standardise(s, p, order);
    ok = rotate(s, form);
  }
  if (!ok)
    ebb_scores_free(s);
  return ok;
}

void ebb_scores_free(ebb_scores *s) {
  free(s->z);
  free(s->mean);
  free(s->u);
  free(s->s);
  *s = (ebb_scores){0};
}
