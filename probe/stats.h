/* What a number is worth: bootstrap over groups, and what the best of many cells reaches by chance. */
#ifndef EBB_PROBE_STATS_H
#define EBB_PROBE_STATS_H

#include "kernels/error.h"

#include <stdint.h>

/* ---- cluster bootstrap (REFERENCE 6.3) ---- */

typedef struct ebb_interval {
  double value;             /* the statistic of the sample */
  double low, high;         /* 95 % as reported: BCa, or what ebb_widen and ebb_exact_ends made of it */
  double bca_low, bca_high; /* Efron 1987; percentile where undefined */
  double percentile_low, percentile_high;
} ebb_interval;

/* A statistic of groups: weight [groups] says how often each is in the sample. NaN: undefined for this one.
 * Called from several threads at once. */
typedef double ebb_statistic(const void *user, const double *weight);

/* Resamples whole groups `replicates` times. Replicate b of a given (groups, seed) is the same for every
 * statistic, so that intervals of two rows and of their difference speak of the same resamples. Does not
 * depend on the thread count. All limits are NaN without replicates or where the statistic is undefined. */
bool ebb_bootstrap(int64_t groups, int64_t replicates, uint64_t seed, ebb_statistic *statistic,
                   const void *user, ebb_interval *interval, ebb_error *err);

/* Moves low and high away from the value by sqrt(1 + folds / (folds - 1)). Resampling groups holds the fitted
 * probes fixed, but all held-out scores of a cross-validation share their training data, so that they err
 * together and the bootstrap is too narrow. Nadeau & Bengio (2003): the variance of a mean over J folds is
 * (1/J + n_test/n_train) sigma^2, not sigma^2/J. Measured on planted runs (24 or 60 groups, 5 x 5 folds, with
 * and without signal) the deviation of the nested scores over data sets is 1.1 to 1.9 times that of the
 * bootstrap, and the plain interval covers 70 to 90 %; this factor is 1.5 at 5 folds. An interval with a NaN
 * or infinite value or limit is left alone. */
void ebb_widen(ebb_interval *interval, int folds, double least, double most);

/* For a share that is exactly 1 or 0 in every group: no resample differs, and the bootstrap would report an
 * interval of no width. low (of 1) or high (of 0) becomes the exact binomial limit (Clopper & Pearson 1934)
 * with the group as the unit: `groups` right of `groups`, low = 0.025^(1/groups). Any other interval, also
 * one of no width elsewhere or one that is undefined, is left alone; so are bca_* and percentile_*. Not for
 * differences. */
void ebb_exact_ends(ebb_interval *interval, int64_t groups);

/* ---- best of K (REFERENCE 6.5) ---- */

typedef struct ebb_floor {
  double mean, high; /* expected maximum and its 95 % point */
} ebb_floor;

/* K independent coin-tossing cells judged on `videos` videos each: exact order statistics of the binomial. */
ebb_floor ebb_floor_independent(int64_t videos, int64_t cells);
/* From the maxima of refits under permuted labels. values [count]; sorted in place. */
ebb_floor ebb_floor_of(int64_t count, double *values);
/* p = (1 + #{null >= observed}) / (count + 1); a tie up to rounding (1e-12) counts against. */
double ebb_permutation_p(int64_t count, const double *null, double observed);

/* Relabels n videos: the labels of each group are dealt anew among its own videos (an IntPhys quadruplet:
 * which two of the four are possible). group [n] in 0..groups-1. A pure function of (seed, permutation). */
bool ebb_permute_labels(int64_t n, int64_t groups, const int *group, const int8_t *label, uint64_t seed,
                        uint64_t permutation, int8_t *permuted, ebb_error *err);

void ebb_sort(int64_t n, double *values); /* ascending */
/* Linear interpolation between order statistics (Hyndman & Fan type 7); n >= 1. */
double ebb_quantile(int64_t n, const double *sorted, double p);

double ebb_normal_cdf(double z);
double ebb_normal_quantile(double p); /* 0 < p < 1, to 1e-12 */

#endif
