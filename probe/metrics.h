/* How well margins tell possible from impossible. Labels are +1 (possible) and -1 (impossible); a margin
 * above zero says possible; every tie counts one half. A metric whose denominator is empty is NaN. */
#ifndef EBB_PROBE_METRICS_H
#define EBB_PROBE_METRICS_H

#include "kernels/error.h"

#include <stdint.h>

/* ---- of one list of n videos ---- */
double ebb_accuracy(int64_t n, const double *margin, const int8_t *label); /* at threshold 0 */
double ebb_balanced_accuracy(int64_t n, const double *margin,
                             const int8_t *label); /* mean of the two classes */
double ebb_auc(int64_t n, const double *margin, const int8_t *label);
/* (mean of +1 minus mean of -1) / sqrt of the mean of the two variances (n-1 in the denominator). */
double ebb_d_prime(int64_t n, const double *margin, const int8_t *label);
/* Over all possible x impossible pairs inside a group: the share in which the possible one has the larger
 * margin. */
double ebb_pairwise(int64_t n, const double *margin, const int8_t *label, const int *group);

/* ---- of repeated cross-validation, by group ----
 * Sums from which every metric, and every bootstrap replicate of it, follows by weighting groups. For AUC two
 * videos are compared only where the same fitted probe judged both (same repeat, same fold): margins of
 * different probes have different scales. */
typedef struct ebb_tally {
  int64_t groups;
  double *right, *judged; /* [groups] videos x repeats on the right side of zero, and all */
  double *won, *pairs;    /* [groups] pairs inside the group */
  double *beaten, *duels; /* [groups, groups] possible of g against impossible of h */
} ebb_tally;

/* margin [repeats, n]; group [n] in 0..groups-1; fold [repeats, groups]. Groups with fold -1 are left out.
 * pair [n] (NULL: none): videos of a group that both have a pair (0 or more) are compared pairwise only
 * where it is the same; one without (-1) is compared with all of its group. */
bool ebb_tally_make(ebb_tally *t, int64_t groups, int64_t n, int64_t repeats, const double *margin,
                    const int8_t *label, const int *group, const int *pair, const int *fold, ebb_error *err);
void ebb_tally_free(ebb_tally *t);

typedef enum ebb_metric { EBB_ACCURACY, EBB_AUC, EBB_PAIRWISE, EBB_METRICS } ebb_metric;
extern const char *const ebb_metric_names[EBB_METRICS]; /* "accuracy", "auc", "pairwise" */
/* weight [groups]: how often each group counts; NULL: once. */
double ebb_tally_metric(const ebb_tally *t, ebb_metric metric, const double *weight);

#endif
