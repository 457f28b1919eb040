#include "probe/regress_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOLD_APART 1e-8 /* of a column's own length: less is rounding */
#define ROUNDING 1e-5   /* the same of float32 features */

static double dot(const ebb_basis *b, const double *x, const double *y) {
  double sum = 0;
  for (int64_t i = 0; i < b->train_count; i++)
    sum += x[b->train[i]] * y[b->train[i]];
  return sum;
}

/* Column number b->count becomes orthogonal to those before (twice, for rounding) and joins them. */
static void add_column(ebb_basis *b) {
  double *q = b->q + (int64_t)b->count * b->n, before = sqrt(dot(b, q, q));
  for (int pass = 0; pass < 2; pass++)
    for (int k = 0; k < b->count; k++) {
      const double *other = b->q + (int64_t)k * b->n;
      double along = dot(b, other, q);
      for (int64_t i = 0; i < b->n; i++)
        q[i] -= along * other[i];
    }
  double length = sqrt(dot(b, q, q));
  if (!(length > TOLD_APART * before))
    return;
  for (int64_t i = 0; i < b->n; i++)
    q[i] /= length;
  b->count++;
}

bool ebb_basis_make(ebb_basis *b, int64_t n, int others, const double *const *other, int64_t train_count,
                    const int32_t *train, ebb_error *err) {
  int powers = train_count >= 10 * (1 + 3 * (int64_t)others) ? 3 : 1;
  *b = (ebb_basis){.n = n, .train_count = train_count, .train = train};
  b->q = calloc((size_t)(2 + others * powers) * (size_t)n + 1, sizeof *b->q);
  if (!b->q)
    return ebb_fail(err, "not enough memory for the residuals of %lld videos", (long long)n);
  for (int64_t i = 0; i < n; i++)
    b->q[i] = 1;
  add_column(b);
  for (int k = 0; k < others; k++) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < train_count; i++)
      mean += other[k][train[i]] / (double)train_count;
    for (int64_t i = 0; i < train_count; i++)
      square += (other[k][train[i]] - mean) * (other[k][train[i]] - mean) / (double)train_count;
    double scale = square > 0 ? 1 / sqrt(square) : 0;
    for (int power = 1; power <= powers; power++) {
      double *q = b->q + (int64_t)b->count * n;
      for (int64_t i = 0; i < n; i++)
        q[i] = pow((other[k][i] - mean) * scale, power);
      add_column(b);
    }
  }
  return true;
}

void ebb_basis_free(ebb_basis *b) {
  free(b->q);
  *b = (ebb_basis){0};
}

void ebb_basis_residual(const ebb_basis *b, const double *y, double *residual) {
  memmove(residual, y, (size_t)b->n * sizeof *y);
  for (int k = 0; k < b->count; k++) {
    const double *q = b->q + (int64_t)k * b->n;
    double along = dot(b, q, residual);
    for (int64_t i = 0; i < b->n; i++)
      residual[i] -= along * q[i];
  }
}

/* Columns of which nothing but rounding is left are 0, so that no later scaling makes something of it. */
static void clear_rounding(const ebb_basis *b, int64_t d, const float *x, const double *along,
                           float *residual) {
  double constant = b->q[b->train[0]]; /* of the first column: all are the same */
  for (int64_t j = 0; j < d; j++) {
    double before = 0, after = 0;
    for (int64_t i = 0; i < b->train_count; i++) {
      double v = x[b->train[i] * d + j] - constant * along[j], r = residual[b->train[i] * d + j];
      before += v * v;
      after += r * r;
    }
    for (int64_t i = 0; after <= ROUNDING * ROUNDING * before && i < b->n; i++)
      residual[i * d + j] = 0;
  }
}

bool ebb_basis_residuals(const ebb_basis *b, int64_t d, const float *x, float *residual) {
  double *along = calloc((size_t)b->count * (size_t)d + 1, sizeof *along);
  for (int k = 0; along && k < b->count; k++)
    for (int64_t i = 0; i < b->train_count; i++) {
      double q = b->q[k * b->n + b->train[i]];
      const float *row = x + b->train[i] * d;
      for (int64_t j = 0; j < d; j++)
        along[k * d + j] += q * row[j];
    }
  for (int64_t i = 0; along && i < b->n; i++)
    for (int64_t j = 0; j < d; j++) {
      double v = x[i * d + j];
      for (int k = 0; k < b->count; k++)
        v -= b->q[k * b->n + i] * along[k * d + j];
      residual[i * d + j] = (float)v;
    }
  if (along)
    clear_rounding(b, d, x, along, residual);
  free(along);
  return along != NULL;
}
