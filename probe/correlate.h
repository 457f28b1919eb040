/* Numbers of single videos: their means and rank correlations, with intervals that resample groups
 * (REFERENCE 6.3). */
#ifndef EBB_PROBE_CORRELATE_H
#define EBB_PROBE_CORRELATE_H

#include "probe/stats.h"

/* n videos in groups 0..groups-1. A number that is not finite leaves its video out. */
typedef struct ebb_grouped {
  int64_t n, groups;
  const int *group; /* [n] */
} ebb_grouped;

/* Numbers the groups of n videos by name: group [n], in order of appearance. Returns how many; 0: no memory.
 */
int64_t ebb_number_groups(int64_t n, const char *const *name, int *group);

/* Mean of x [n] over videos. */
bool ebb_mean_interval(const ebb_grouped *of, const double *x, int64_t replicates, uint64_t seed,
                       ebb_interval *interval, ebb_error *err);
/* Spearman's rank correlation of x and y [n], ties sharing their mean rank; NaN with fewer than three videos,
 * or where one of the two does not vary. */
bool ebb_spearman_interval(const ebb_grouped *of, const double *x, const double *y, int64_t replicates,
                           uint64_t seed, ebb_interval *interval, ebb_error *err);

#endif
