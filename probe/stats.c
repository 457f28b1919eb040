#include "probe/stats.h"

#include "kernels/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BOOTSTRAP_STREAM 0x626f6f74u           /* "boot": draws of different purposes never share a stream */
#define PERMUTATION_STREAM 0x7065726d00000000u /* "perm" */

double ebb_normal_cdf(double z) {
  return 0.5 * erfc(-z / sqrt(2.0));
}

/* Starts from a rational guess (Abramowitz & Stegun 26.2.23, error 4.5e-4); each Halley step triples the
 * digits. */
double ebb_normal_quantile(double p) {
  double q = p < 0.5 ? p : 1 - p, t = sqrt(-2 * log(q));
  double z = t - (2.515517 + 0.802853 * t + 0.010328 * t * t) /
                     (1 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t);
  for (int i = 0; i < 3; i++) { /* on the upper tail, where q does not cancel */
    double e = q - 0.5 * erfc(z / sqrt(2.0)), u = e * sqrt(2 * acos(-1.0)) * exp(0.5 * z * z);
    z -= u / (1 + 0.5 * z * u);
  }
  return p < 0.5 ? -z : z;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

void ebb_sort(int64_t n, double *values) {
  qsort(values, (size_t)n, sizeof *values, ascending);
}

double ebb_quantile(int64_t n, const double *sorted, double p) {
  double at = p * (double)(n - 1);
  int64_t i = (int64_t)floor(at);
  if (i < 0)
    return sorted[0];
  if (i >= n - 1)
    return sorted[n - 1];
  return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

static void resample(int64_t groups, uint64_t seed, int64_t replicate, double *weight) {
  memset(weight, 0, (size_t)groups * sizeof *weight);
  for (int64_t i = 0; i < groups; i++)
    weight[ebb_random_below(seed, BOOTSTRAP_STREAM, (uint64_t)(replicate * groups + i), (uint32_t)groups)] +=
        1;
}

/* Acceleration from the jackknife over groups; NaN when a leave-one-out value is undefined or nothing varies.
 */
static double acceleration(int64_t groups, ebb_statistic *statistic, const void *user, double *weight,
                           double *leave_out) {
  double mean = 0, second = 0, third = 0;
  for (int64_t g = 0; g < groups; g++)
    weight[g] = 1;
  for (int64_t g = 0; g < groups; g++) {
    weight[g] = 0;
    leave_out[g] = statistic(user, weight);
    weight[g] = 1;
    mean += leave_out[g] / (double)groups;
  }
  for (int64_t g = 0; g < groups; g++) {
    double d = mean - leave_out[g];
    second += d * d;
    third += d * d * d;
  }
  return third / (6 * pow(second, 1.5));
}

/* BCa end points from the share of replicates below the value (ties half) and the acceleration; false, and p as
 * it was, where one of them is undefined. */
static bool bca(double below, double a, double p[2]) {
  if (!(below > 0 && below < 1) || !isfinite(a))
    return false;
  double z0 = ebb_normal_quantile(below), at[2];
  for (int i = 0; i < 2; i++) {
    double z = z0 + ebb_normal_quantile(i ? 0.975 : 0.025);
    if (a * z >= 1)
      return false;
    at[i] = ebb_normal_cdf(z0 + z / (1 - a * z));
  }
  memcpy(p, at, sizeof at);
  return true;
}

bool ebb_bootstrap(int64_t groups, int64_t replicates, uint64_t seed, ebb_statistic *statistic,
                   const void *user, ebb_interval *interval, ebb_error *err) {
  double value = statistic(user, NULL);
  *interval = (ebb_interval){value, NAN, NAN, NAN, NAN, NAN, NAN};
  double *values = malloc((size_t)(replicates + groups + 1) * sizeof *values);
  bool ok = values != NULL;
#pragma omp parallel
  {
    double *weight = malloc((size_t)(groups + 1) * sizeof *weight);
    if (!weight) {
#pragma omp atomic write
      ok = false;
    }
#pragma omp for schedule(static)
    for (int64_t b = 0; b < replicates; b++) {
      if (!weight || !values)
        continue;
      resample(groups, seed, b, weight);
      values[b] = statistic(user, weight);
    }
    free(weight);
  }
  if (!ok) {
    free(values);
    return ebb_fail(err, "not enough memory for %lld bootstrap replicates", (long long)replicates);
  }
  int64_t kept = 0;
  double below = 0;
  for (int64_t b = 0; b < replicates; b++) {
    if (isnan(values[b]))
      continue;
    below += values[b] < value ? 1 : values[b] == value ? 0.5 : 0;
    values[kept++] = values[b];
  }
  if (kept > 0 && !isnan(value)) {
    double *weight = malloc((size_t)(groups + 1) * sizeof *weight), p[2] = {0.025, 0.975};
    double a = weight ? acceleration(groups, statistic, user, weight, values + replicates) : NAN;
    free(weight);
    ebb_sort(kept, values);
    interval->percentile_low = ebb_quantile(kept, values, p[0]);
    interval->percentile_high = ebb_quantile(kept, values, p[1]);
    bca(below / (double)kept, a, p);
    interval->low = interval->bca_low = ebb_quantile(kept, values, p[0]);
    interval->high = interval->bca_high = ebb_quantile(kept, values, p[1]);
  }
  free(values);
  return true;
}

void ebb_widen(ebb_interval *i, int folds, double least, double most) {
  if (!isfinite(i->value) || !isfinite(i->low) || !isfinite(i->high))
    return; /* fmax and fmin would make numbers of NaN */
  double factor = sqrt(1 + (double)folds / (folds - 1));
  i->low = fmax(least, i->value - factor * (i->value - i->low));
  i->high = fmin(most, i->value + factor * (i->high - i->value));
}

void ebb_exact_ends(ebb_interval *i, int64_t groups) {
  bool flat = i->percentile_low == i->value && i->percentile_high == i->value; /* false where undefined */
  if (flat && i->value == 1)
    i->low = pow(0.025, 1.0 / (double)groups);
  if (flat && i->value == 0)
    i->high = 1 - pow(0.025, 1.0 / (double)groups);
}

/* ---- best of K ---- */

ebb_floor ebb_floor_independent(int64_t videos, int64_t cells) {
  /* E[max] = sum over k of P(max > k) = sum of 1 - F(k)^K, with F the binomial distribution, one half. */
  double n = (double)videos, cdf = 0, mean = 0, high = -1;
  for (int64_t k = 0; k < videos; k++) {
    cdf += exp(lgamma(n + 1) - lgamma((double)k + 1) - lgamma(n - (double)k + 1) - n * log(2.0));
    double all_below = pow(cdf < 1 ? cdf : 1, (double)cells);
    mean += 1 - all_below;
    if (high < 0 && all_below >= 0.95)
      high = (double)k;
  }
  return (ebb_floor){mean / n, (high < 0 ? n : high) / n};
}

ebb_floor ebb_floor_of(int64_t count, double *values) {
  if (count < 1)
    return (ebb_floor){NAN, NAN};
  double sum = 0;
  ebb_sort(count, values);
  for (int64_t i = 0; i < count; i++)
    sum += values[i];
  return (ebb_floor){sum / (double)count, ebb_quantile(count, values, 0.95)};
}

double ebb_permutation_p(int64_t count, const double *null, double observed) {
  int64_t reached = 0;
  for (int64_t i = 0; i < count; i++)
    reached += null[i] >= observed - 1e-12;
  return (1.0 + (double)reached) / ((double)count + 1.0);
}

bool ebb_permute_labels(int64_t n, int64_t groups, const int *group, const int8_t *label, uint64_t seed,
                        uint64_t permutation, int8_t *permuted, ebb_error *err) {
  int32_t *seen = calloc((size_t)(2 * groups) + 1, sizeof *seen);
  if (!seen)
    return ebb_fail(err, "not enough memory to permute labels of %lld groups", (long long)groups);
  int32_t *positive = seen, *left = seen + groups;
  for (int64_t i = 0; i < n; i++) {
    positive[group[i]] += label[i] > 0;
    left[group[i]]++;
  }
  /* Drawing without replacement: a video is possible with probability (possible labels left) / (videos left).
   */
  for (int64_t i = 0; i < n; i++) {
    int g = group[i];
    double u = ebb_random_uniform(seed, PERMUTATION_STREAM | permutation, (uint64_t)i);
    bool take = u * left[g]-- < positive[g];
    permuted[i] = take ? 1 : -1;
    positive[g] -= take;
  }
  free(seen);
  return true;
}
