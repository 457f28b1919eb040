#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

static const int64_t *numbers(ebb_tensor t) {
  return (const int64_t *)t.data;
}

/* Rows that are no padding. */
static double rows_of(const int64_t *rows, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++)
    count += rows[i] >= 0;
  return (double)count;
}

/* ---- standardised rows ------------------------------------------------------------------------------- */

void cpu_column_scale(ebb_context *c, ebb_tensor mean, ebb_tensor inverse, ebb_tensor x, ebb_tensor rows) {
  int64_t n = rows.shape[1], d = x.shape[1];
  CPU_PARALLEL(c, 4.0 * (double)ebb_count(rows) * (double)d)
  for (int64_t b = 0; b < rows.shape[0]; b++) {
    const int64_t *row = numbers(rows) + b * n;
    double *m = cpu_f64(mean) + b * d, *s = cpu_f64(inverse) + b * d, count = rows_of(row, n);
    memset(m, 0, (size_t)d * sizeof *m);
    memset(s, 0, (size_t)d * sizeof *s);
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < d && row[i] >= 0; j++)
        m[j] += cpu_f32(x)[row[i] * d + j] / count;
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < d && row[i] >= 0; j++) {
        double off = cpu_f32(x)[row[i] * d + j] - m[j];
        s[j] += off * off;
      }
    for (int64_t j = 0; j < d; j++) {
      double deviation = sqrt(s[j] / count);
      s[j] = deviation > 1e-6 * fabs(m[j]) && deviation > 1e-30 ? 1 / deviation : 0;
    }
  }
}

void cpu_standardise(ebb_context *c, ebb_tensor z, ebb_tensor x, ebb_tensor rows, ebb_tensor mean,
                     ebb_tensor inverse) {
  int64_t n = rows.shape[1], d = x.shape[1];
  CPU_PARALLEL(c, 2.0 * (double)ebb_count(z))
  for (int64_t i = 0; i < rows.shape[0] * n; i++) {
    int64_t row = numbers(rows)[i], b = i / n;
    for (int64_t j = 0; j < d; j++) {
      double v = row < 0 ? 0 : cpu_f32(x)[row * d + j];
      if (row >= 0 && ebb_present(mean))
        v = (v - cpu_f64(mean)[b * d + j]) * cpu_f64(inverse)[b * d + j];
      if (z.dtype == EBB_F64)
        cpu_f64(z)[i * d + j] = v;
      else
        cpu_f32(z)[i * d + j] = (float)v;
    }
  }
}

/* ---- ridge regression -------------------------------------------------------------------------------- */

void cpu_fold_blocks(ebb_context *c, ebb_tensor s, ebb_tensor p, ebb_tensor rows, ebb_tensor lambda) {
  (void)c;
  int64_t n = p.shape[1], folds = s.shape[1], k = s.shape[2];
  for (int64_t b = 0; b < p.shape[0]; b++) {
    const int64_t *row = numbers(rows) + b * n;
    double less = 1 / (cpu_f64(lambda)[b] * rows_of(row, n));
    for (int64_t f = 0; f < folds; f++)
      for (int64_t i = f * k; i < (f + 1) * k; i++)
        for (int64_t j = f * k; j < (f + 1) * k; j++)
          cpu_f64(s)[(b * n + i) * k + j - f * k] =
              cpu_f64(p)[(b * n + i) * n + j] - (row[i] >= 0 && row[j] >= 0 ? less : 0);
  }
}

void cpu_centred_labels(ebb_context *c, ebb_tensor y, ebb_tensor mean, ebb_tensor labels, ebb_tensor rows) {
  (void)c;
  int64_t n = rows.shape[1], sets = labels.shape[0], all = labels.shape[1];
  for (int64_t b = 0; b < rows.shape[0]; b++) {
    const int64_t *row = numbers(rows) + b * n;
    double count = rows_of(row, n);
    for (int64_t k = 0; k < sets; k++) {
      double m = 0;
      for (int64_t i = 0; i < n; i++)
        m += row[i] >= 0 ? cpu_f32(labels)[k * all + row[i] % all] / count : 0;
      cpu_f64(mean)[b * sets + k] = m;
      for (int64_t i = 0; i < n; i++)
        cpu_f64(y)[(b * n + i) * sets + k] = row[i] >= 0 ? cpu_f32(labels)[k * all + row[i] % all] - m : 0;
    }
  }
}

void cpu_keep_best(ebb_context *c, ebb_tensor score, ebb_tensor best, ebb_tensor chosen, ebb_tensor kept,
                   ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number, bool explained) {
  (void)c;
  int64_t n = y.shape[1], sets = y.shape[2];
  for (int64_t b = 0; b < y.shape[0]; b++)
    for (int64_t k = 0; k < sets; k++) {
      double count = rows_of(numbers(rows) + b * n, n), f = 0, ff = 0, fy = 0, yy = 0, ee = 0;
      int64_t at = b * n * sets + k, to = b * sets + k;
      for (int64_t i = 0; i < n; i++) {
        double yi = cpu_f64(y)[at + i * sets], ei = cpu_f64(e)[at + i * sets], v = yi - ei;
        ee += ei * ei;
        f += v;
        ff += v * v;
        fy += v * yi;
        yy += yi * yi;
      }
      double variance = (ff - f * f / count) * yy;
      double reached = explained      ? (yy > 0 ? fmax(-1, 1 - ee / yy) : 0)
                       : variance > 0 ? fy / sqrt(variance)
                                      : 0;
      reached = isfinite(ff) ? reached : NAN;
      cpu_f64(score)[to] = reached;
      if (!(reached > cpu_f64(best)[to]))
        continue;
      cpu_f64(best)[to] = reached;
      cpu_f64(chosen)[to] = number;
      for (int64_t i = 0; i < n; i++)
        cpu_f64(kept)[at + i * sets] = cpu_f64(a)[at + i * sets];
    }
}

void cpu_count_hits(ebb_context *c, ebb_tensor hits, ebb_tensor f, ebb_tensor shift, ebb_tensor labels,
                    ebb_tensor rows) {
  (void)c;
  int64_t n = rows.shape[1], sets = labels.shape[0], all = labels.shape[1];
  for (int64_t b = 0; b < rows.shape[0]; b++)
    for (int64_t k = 0; k < sets; k++) {
      double right = 0;
      for (int64_t i = 0; i < n; i++) {
        int64_t row = numbers(rows)[b * n + i];
        double *v = &cpu_f64(f)[(b * n + i) * sets + k];
        *v += cpu_f64(shift)[b * sets + k];
        double agreed = row >= 0 ? *v * cpu_f32(labels)[k * all + row % all] : -1;
        right += agreed > 0 ? 2 : agreed == 0;
      }
      cpu_f64(hits)[b * sets + k] = right;
    }
}
