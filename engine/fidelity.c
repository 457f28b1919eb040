#include "engine/fidelity.h"

#include "kernels/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- distances ---- */

double ebb_deviation(const float *x, int64_t n) {
  double mean = 0, square = 0;
  for (int64_t i = 0; i < n; i++)
    mean += (double)x[i] / (double)n;
  for (int64_t i = 0; i < n; i++)
    square += ((double)x[i] - mean) * ((double)x[i] - mean);
  return sqrt(square / (double)n);
}

double ebb_cosine(const float *a, const float *b, int64_t n) {
  double ab = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < n; i++) {
    ab += (double)a[i] * (double)b[i];
    aa += (double)a[i] * (double)a[i];
    bb += (double)b[i] * (double)b[i];
  }
  return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

static double rms_difference(const float *a, const float *b, int64_t n) {
  double square = 0;
  for (int64_t i = 0; i < n; i++)
    square += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
  return sqrt(square / (double)n);
}

double ebb_relative_l2(const float *a, const float *b, int64_t n) {
  double square = 0;
  for (int64_t i = 0; i < n; i++)
    square += (double)b[i] * (double)b[i];
  return rms_difference(a, b, n) / sqrt(square / (double)n);
}

ebb_distance ebb_distance_of(const float *a, const float *b, int64_t n) {
  double rmse = rms_difference(a, b, n);
  return (ebb_distance){rmse, rmse / ebb_deviation(b, n), ebb_cosine(a, b, n)};
}

/* ---- noise ---- */

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* sorted: ascending. */
static double distance_to_normal(const float *sorted, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; i++) {
    double p = 0.5 * erfc(-(double)sorted[i] / sqrt(2.0));
    most = fmax(most, fmax(p - (double)i / (double)n, (double)(i + 1) / (double)n - p));
  }
  return most;
}

/* Mean product of neighbours `stride` apart along an axis of `length`, over the variance. */
static double neighbours(const float *x, int64_t n, int64_t stride, int64_t length, double mean,
                         double variance) {
  double sum = 0;
  int64_t pairs = 0;
  for (int64_t i = 0; i < n; i++)
    if (i / stride % length != length - 1) {
      sum += ((double)x[i] - mean) * ((double)x[i + stride] - mean);
      pairs++;
    }
  return pairs > 0 && variance > 0 ? sum / (double)pairs / variance : NAN;
}

static ebb_noise_statistics describe(const float *x, int64_t n, int64_t frames, int64_t height, int64_t width,
                                     float *room) {
  double mean = 0, m2 = 0, m3 = 0, m4 = 0;
  for (int64_t i = 0; i < n; i++)
    mean += (double)x[i] / (double)n;
  for (int64_t i = 0; i < n; i++) {
    double d = (double)x[i] - mean, d2 = d * d;
    m2 += d2 / (double)n;
    m3 += d2 * d / (double)n;
    m4 += d2 * d2 / (double)n;
  }
  memcpy(room, x, (size_t)n * sizeof *x);
  qsort(room, (size_t)n, sizeof *room, by_size);
  return (ebb_noise_statistics){.mean = mean,
                                .std = sqrt(m2),
                                .skew = m3 / pow(m2, 1.5),
                                .kurtosis = m4 / (m2 * m2) - 3,
                                .ks = distance_to_normal(room, n),
                                .frames_lag = neighbours(x, n, height * width, frames, mean, m2),
                                .rows_lag = neighbours(x, n, width, height, mean, m2),
                                .columns_lag = neighbours(x, n, 1, width, mean, m2)};
}

bool ebb_noise_statistics_of(const float *x, int64_t channels, int64_t frames, int64_t height, int64_t width,
                             ebb_noise_statistics *all, ebb_noise_statistics *channel, ebb_error *err) {
  const int64_t n = frames * height * width;
  float *room = malloc((size_t)(channels * n) * sizeof *room);
  if (!room)
    return ebb_fail(err, "no memory to describe %lld numbers", (long long)(channels * n));
  *all = describe(x, channels * n, frames, height, width, room);
  for (int64_t c = 0; channel && c < channels; c++)
    channel[c] = describe(x + c * n, n, frames, height, width, room);
  free(room);
  return true;
}

/* ---- steps ---- */

int ebb_solver_order(ebb_solver solver, ebb_labels labels) {
  if (solver == EBB_EXACT || labels == EBB_NOISY)
    return 1;
  return solver == EBB_RK4 ? 4 : solver == EBB_EULER ? 1 : 2;
}

bool ebb_schedule_halve(const ebb_schedule *s, ebb_schedule *fine, ebb_error *err) {
  const int steps = 2 * s->steps;
  *fine = (ebb_schedule){.kind = s->kind, .steps = steps, .shift = s->shift};
  fine->sigma = calloc((size_t)steps + 1, sizeof *fine->sigma);
  fine->label = calloc((size_t)steps + 1, sizeof *fine->label);
  if (!fine->sigma || !fine->label) {
    ebb_schedule_free(fine);
    return ebb_fail(err, "no memory for a schedule of %d steps", steps);
  }
  for (int i = 0; i <= steps; i++) {
    const int low = i / 2, high = (i + 1) / 2;
    fine->sigma[i] = (s->sigma[low] + s->sigma[high]) / 2;
    fine->label[i] = (s->label[low] + s->label[high]) / 2;
  }
  return true;
}

/* A step that a way takes from one state of a path, and the state where it should end: rms distance in units
 * of its std, times `factor`. */
typedef struct probe_step {
  int from, to;     /* states of the path */
  int first, count; /* steps of the way */
  double factor;
} probe_step;

static bool take_step(const ebb_path *path, const ebb_way *way, probe_step s, float *landed, double *to,
                      ebb_error *err) {
  ebb_context *c = path->context;
  const int64_t batch = path->x.shape[0], all = ebb_count(path->x), one = all / batch;
  if (c->counting) { /* there are no states */
    way->walk(way->user, s.first, s.count, path->x);
    return ebb_context_ok(c, err);
  }
  const float *should = path->states + s.to * all;
  ebb_upload(c, path->x, path->states + s.from * all);
  way->walk(way->user, s.first, s.count, path->x);
  ebb_download(c, landed, path->x);
  if (!ebb_context_ok(c, err))
    return false;
  for (int64_t b = 0; b < batch; b++)
    to[b] = s.factor * rms_difference(landed + b * one, should + b * one, one) /
            ebb_deviation(should + b * one, one);
  return true;
}

static float *room_for_state(const ebb_path *path, ebb_error *err) {
  float *landed = malloc(ebb_bytes(path->x));
  if (!landed)
    ebb_fail(err, "no memory for a state of %.1f MiB", (double)ebb_bytes(path->x) / (1 << 20));
  return landed;
}

bool ebb_implicit_residuals(const ebb_path *path, const ebb_way *euler, const bool *wanted, double *to,
                            ebb_error *err) {
  float *landed = room_for_state(path, err);
  bool ok = landed != NULL;
  for (int k = 0; ok && k < path->steps; k++)
    if (!wanted || wanted[k])
      ok = take_step(path, euler, (probe_step){k + 1, k, path->steps - 1 - k, 1, 1}, landed,
                     to + k * path->x.shape[0], err);
  free(landed);
  return ok;
}

bool ebb_local_errors(const ebb_path *path, const ebb_way *halves, int order, const bool *wanted, double *to,
                      ebb_error *err) {
  const double factor = 1 / (1 - pow(2, -order)); /* two halves leave 2^-order of the error */
  float *landed = room_for_state(path, err);
  bool ok = landed != NULL;
  for (int k = 0; ok && k < path->steps; k++)
    if (!wanted || wanted[k])
      ok = take_step(path, halves, (probe_step){k, k + 1, 2 * k, 2, factor}, landed,
                     to + k * path->x.shape[0], err);
  free(landed);
  return ok;
}
