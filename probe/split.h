/* Folds by group: what shares a scene is never on both sides of a split. The unit here is the group (an
 * IntPhys quadruplet); a video takes the fold of its group. */
#ifndef EBB_PROBE_SPLIT_H
#define EBB_PROBE_SPLIT_H

#include "kernels/error.h"

#include <stdint.h>

/* Deals `groups` groups into folds 0..folds-1: fold[g] is the fold of group g. stratum [groups] is the
 * category of each group, or -1 for one that is not in play (fold -1), or NULL (one stratum). Sizes of two
 * folds differ by at most one group, overall and within each stratum. A pure function of (seed, stream).
 * Errors: folds < 2, fewer groups in play than folds. */
bool ebb_split_groups(int64_t groups, const int *stratum, int folds, uint64_t seed, uint64_t stream,
                      int *fold, ebb_error *err);

/* Inner folds: the same among the groups whose outer fold is not `held_out`; those get -1. */
bool ebb_split_inner(int64_t groups, const int *stratum, const int *outer, int held_out, int folds,
                     uint64_t seed, uint64_t stream, int *fold, ebb_error *err);

#endif
