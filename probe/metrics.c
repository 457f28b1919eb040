#include "probe/metrics.h"

#include <math.h>
#include <stdlib.h>

const char *const ebb_metric_names[EBB_METRICS] = {"accuracy", "auc", "pairwise"};

/* 1 when a is the larger, 1/2 when equal. */
static double beats(double a, double b) {
  return a > b ? 1.0 : a == b ? 0.5 : 0.0;
}

/* Shares of each class on its own side of zero, as counts. */
static void count_right(int64_t n, const double *margin, const int8_t *label, double right[2],
                        double total[2]) {
  right[0] = right[1] = total[0] = total[1] = 0;
  for (int64_t i = 0; i < n; i++) {
    int k = label[i] > 0;
    right[k] += beats((double)label[i] * margin[i], 0);
    total[k] += 1;
  }
}

double ebb_accuracy(int64_t n, const double *margin, const int8_t *label) {
  double right[2], total[2];
  count_right(n, margin, label, right, total);
  return n > 0 ? (right[0] + right[1]) / (double)n : NAN;
}

double ebb_balanced_accuracy(int64_t n, const double *margin, const int8_t *label) {
  double right[2], total[2];
  count_right(n, margin, label, right, total);
  return total[0] > 0 && total[1] > 0 ? 0.5 * (right[0] / total[0] + right[1] / total[1]) : NAN;
}

static double share_of_pairs(int64_t n, const double *margin, const int8_t *label, const int *group) {
  double won = 0, pairs = 0;
  for (int64_t i = 0; i < n; i++) {
    if (label[i] < 0)
      continue;
    for (int64_t j = 0; j < n; j++) {
      if (label[j] > 0 || (group && group[i] != group[j]))
        continue;
      won += beats(margin[i], margin[j]);
      pairs += 1;
    }
  }
  return pairs > 0 ? won / pairs : NAN;
}

double ebb_auc(int64_t n, const double *margin, const int8_t *label) {
  return share_of_pairs(n, margin, label, NULL);
}

double ebb_pairwise(int64_t n, const double *margin, const int8_t *label, const int *group) {
  return share_of_pairs(n, margin, label, group);
}

double ebb_d_prime(int64_t n, const double *margin, const int8_t *label) {
  double count[2] = {0, 0}, mean[2] = {0, 0}, square[2] = {0, 0};
  for (int64_t i = 0; i < n; i++) {
    int k = label[i] > 0;
    count[k] += 1;
    mean[k] += margin[i];
  }
  if (count[0] < 2 || count[1] < 2)
    return NAN;
  mean[0] /= count[0];
  mean[1] /= count[1];
  for (int64_t i = 0; i < n; i++) {
    int k = label[i] > 0;
    square[k] += (margin[i] - mean[k]) * (margin[i] - mean[k]);
  }
  double variance = 0.5 * (square[0] / (count[0] - 1) + square[1] / (count[1] - 1));
  return mean[1] == mean[0] ? 0.0 : (mean[1] - mean[0]) / sqrt(variance);
}

/* ---- tallies ---- */

static bool matched(const int *pair, int64_t i, int64_t j) {
  return !pair || pair[i] < 0 || pair[j] < 0 || pair[i] == pair[j];
}

static void tally_repeat(ebb_tally *t, int64_t n, const double *margin, const int8_t *label, const int *group,
                         const int *pair, const int *fold) {
  for (int64_t i = 0; i < n; i++) {
    int g = group[i];
    if (fold[g] < 0)
      continue;
    t->judged[g] += 1;
    t->right[g] += beats((double)label[i] * margin[i], 0);
    for (int64_t j = 0; label[i] > 0 && j < n; j++) {
      int h = group[j];
      if (label[j] > 0 || fold[h] != fold[g])
        continue;
      double won = beats(margin[i], margin[j]);
      t->beaten[(int64_t)g * t->groups + h] += won;
      t->duels[(int64_t)g * t->groups + h] += 1;
      if (g == h && matched(pair, i, j)) {
        t->won[g] += won;
        t->pairs[g] += 1;
      }
    }
  }
}

bool ebb_tally_make(ebb_tally *t, int64_t groups, int64_t n, int64_t repeats, const double *margin,
                    const int8_t *label, const int *group, const int *pair, const int *fold, ebb_error *err) {
  double *all = calloc((size_t)(groups * (4 + 2 * groups)) + 1, sizeof *all);
  *t = (ebb_tally){groups, all, all, all, all, all, all};
  if (!all)
    return ebb_fail(err, "not enough memory for a tally of %lld groups", (long long)groups);
  t->judged = all + groups;
  t->won = all + 2 * groups;
  t->pairs = all + 3 * groups;
  t->beaten = all + 4 * groups;
  t->duels = t->beaten + groups * groups;
  for (int64_t r = 0; r < repeats; r++)
    tally_repeat(t, n, margin + r * n, label, group, pair, fold + r * groups);
  return true;
}

void ebb_tally_free(ebb_tally *t) {
  free(t->right);
  *t = (ebb_tally){0};
}

static double weighted_share(int64_t groups, const double *part, const double *whole, const double *weight) {
  double a = 0, b = 0;
  for (int64_t g = 0; g < groups; g++) {
    double w = weight ? weight[g] : 1.0;
    a += w * part[g];
    b += w * whole[g];
  }
  return b > 0 ? a / b : NAN;
}

double ebb_tally_metric(const ebb_tally *t, ebb_metric metric, const double *weight) {
  if (metric == EBB_ACCURACY)
    return weighted_share(t->groups, t->right, t->judged, weight);
  if (metric == EBB_PAIRWISE)
    return weighted_share(t->groups, t->won, t->pairs, weight);
  double a = 0, b = 0;
  for (int64_t g = 0; g < t->groups; g++) {
    double wg = weight ? weight[g] : 1.0;
    if (wg == 0)
      continue;
    const double *beaten = t->beaten + g * t->groups, *duels = t->duels + g * t->groups;
    double row_a = 0, row_b = 0;
    for (int64_t h = 0; h < t->groups; h++) {
      double wh = weight ? weight[h] : 1.0;
      row_a += wh * beaten[h];
      row_b += wh * duels[h];
    }
    a += wg * row_a;
    b += wg * row_b;
  }
  return b > 0 ? a / b : NAN;
}
