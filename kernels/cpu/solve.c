#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/lapack.h"

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

/* ---- logistic regression in the dual ----------------------------------------------------------------- */

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

/* The relative gradient reached. */
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
    if ((reached <= newton.tolerance && moved <= 1e-4) || *steps >= newton.steps || !direction(p, &db))
      return reached;
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
                   ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number) {
  (void)c;
  int64_t n = y.shape[1], sets = y.shape[2];
  for (int64_t b = 0; b < y.shape[0]; b++)
    for (int64_t k = 0; k < sets; k++) {
      double count = rows_of(numbers(rows) + b * n, n), f = 0, ff = 0, fy = 0, yy = 0;
      int64_t at = b * n * sets + k, to = b * sets + k;
      for (int64_t i = 0; i < n; i++) {
        double yi = cpu_f64(y)[at + i * sets], v = yi - cpu_f64(e)[at + i * sets];
        f += v;
        ff += v * v;
        fy += v * yi;
        yy += yi * yi;
      }
      double variance = (ff - f * f / count) * yy;
      double correlation = !isfinite(ff) ? NAN : variance > 0 ? fy / sqrt(variance) : 0;
      cpu_f64(score)[to] = correlation;
      if (!(correlation > cpu_f64(best)[to]))
        continue;
      cpu_f64(best)[to] = correlation;
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

/* ---- logistic regression by Adam --------------------------------------------------------------------- */

typedef struct adam {
  ebb_adam how;
  int64_t d, rows, n, epochs; /* n: entries of one epoch's order */
  const float *z, *y;
  const int64_t *order;
  int64_t judged, judged_end;     /* rows */
  float *w, *m, *v, *best, *pull; /* [d+1], [d+1], [d+1], [d+1]: the caller's, [batch] */
} adam;

/* w . (z, 1): lane l adds columns l, l + 32, ...; then lanes in pairs, as a warp does. */
static float margin_of(const float *w, const float *z, int64_t d) {
  float lane[32] = {0};
  int64_t whole = d / 32 * 32;
  for (int64_t j = 0; j < whole; j += 32)
    for (int64_t l = 0; l < 32; l++)
      lane[l] += z[j + l] * w[j + l];
  for (int64_t j = whole; j < d; j++)
    lane[j - whole] += z[j] * w[j];
  for (int64_t half = 16; half > 0; half /= 2)
    for (int64_t l = 0; l < half; l++)
      lane[l] += lane[l + half];
  return lane[0] + w[d];
}

/* A step on `count` rows; m, v decayed by powers bias1, bias2 so far. */
static void adam_step(adam *p, const int64_t *rows, int64_t count, double bias1, double bias2) {
  int64_t d = p->d;
  float decay = (float)p->how.decay, size = (float)((float)p->how.rate / (1 - bias1)),
        root = (float)sqrt(1 - bias2), *g = p->pull + p->how.batch;
  memset(g, 0, (size_t)(d + 1) * sizeof *g);
  for (int64_t i = 0; i < count; i++) {
    const float *z = p->z + rows[i] * d;
    float y = p->y[rows[i]];
    p->pull[i] = -y / (1.0f + expf(y * margin_of(p->w, z, d))) / (float)count;
    for (int64_t j = 0; j < d; j++)
      g[j] += p->pull[i] * z[j];
    g[d] += p->pull[i];
  }
  for (int64_t j = 0; j <= d; j++) {
    float slope = g[j] + decay * p->w[j];
    p->m[j] = 0.9f * p->m[j] + 0.1f * slope;
    p->v[j] = 0.999f * p->v[j] + 0.001f * slope * slope;
    p->w[j] -= size * p->m[j] / (sqrtf(p->v[j]) / root + 1e-8f);
  }
}

/* Twice the validation rows on the right side; how many there are. */
static int validate(const adam *p, int *labelled) {
  int right = 0;
  *labelled = 0;
  for (int64_t i = p->judged; i < p->judged_end; i++) {
    float agreed = p->y[i] * margin_of(p->w, p->z + i * p->d, p->d);
    right += agreed > 0 ? 2 : agreed == 0 && p->y[i] != 0;
    *labelled += p->y[i] != 0;
  }
  return right;
}

/* The fit into p->best; the epoch that counts. */
static int64_t train(adam *p, float *accuracy) {
  int64_t epoch_kept = p->epochs, trained = (int64_t)rows_of(p->order, p->n);
  int best = -1, stale = 0, labelled = 0;
  bool validated = p->judged_end > p->judged;
  double bias1 = 1, bias2 = 1;
  *accuracy = NAN;
  for (int64_t epoch = 0; epoch < p->epochs; epoch++) {
    for (int64_t at = 0; at < trained; at += p->how.batch) {
      int64_t count = trained - at < p->how.batch ? trained - at : p->how.batch;
      adam_step(p, p->order + epoch * p->n + at, count, bias1 *= 0.9, bias2 *= 0.999);
    }
    int right = validated ? validate(p, &labelled) : (int)epoch;
    if (right > best) {
      best = right;
      stale = 0;
      epoch_kept = epoch + 1;
      memcpy(p->best, p->w, (size_t)(p->d + 1) * sizeof *p->best);
      if (validated)
        *accuracy = 0.5f * (float)right / (float)labelled;
    } else if (++stale >= p->how.patience)
      break;
  }
  return epoch_kept;
}

void cpu_logistic_adam(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                       ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                       ebb_adam how, void *scratch) {
  (void)scratch;
  int64_t sets = y.shape[1], rows = z.shape[1], d = z.shape[2], n = order.shape[2];
  size_t side = (size_t)d + 1;
  cpu_memory memory;
  if (!cpu_scratch(c, 0, (4 * side + (size_t)how.batch) * sizeof(float), &memory))
    return;
  CPU_PARALLEL(c, 4.0 * (double)(z.shape[0] * sets * n * d) * (double)order.shape[1])
  for (int64_t i = 0; i < z.shape[0] * sets; i++) {
    int64_t design = i / sets;
    float *room = cpu_own(memory);
    memset(room, 0, 3 * side * sizeof *room);
    adam p = {.how = how,
              .d = d,
              .rows = rows,
              .n = n,
              .epochs = order.shape[1],
              .z = cpu_f32(z) + design * rows * d,
              .y = cpu_f32(y) + i * rows,
              .order = numbers(order) + numbers(which)[design] * order.shape[1] * n,
              .judged = numbers(judged)[2 * design],
              .judged_end = numbers(judged)[2 * design + 1],
              .w = room,
              .m = room + side,
              .v = room + 2 * side,
              .pull = room + 3 * side,
              .best = cpu_f32(w) + i * (d + 1)};
    memcpy(p.w, p.best, side * sizeof *p.w);
    ((int64_t *)epochs.data)[i] = train(&p, &cpu_f32(accuracy)[i]);
    for (int64_t r = 0; r < rows; r++)
      cpu_f32(f)[i * rows + r] = margin_of(p.best, p.z + r * d, d);
  }
}
