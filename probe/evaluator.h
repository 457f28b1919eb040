/* The official evaluator of InfLevel (evaluator.py of allenai/inflevel): a score for each video, large where
 * the model finds it plausible, no training. */
#ifndef EBB_PROBE_EVALUATOR_H
#define EBB_PROBE_EVALUATOR_H

#include "loaders/table.h"

typedef struct ebb_evaluation {
  int64_t groups, skipped; /* events of one view: with all four codes, with fewer */
  bool skips_as_expected;  /* of the published videos: continuity 36, gravity 114, solidity 6 */
  double accuracy;         /* of the 4 comparisons possible x impossible of each group, ties 0.5 */
  int64_t permutations;
  double p_one_sided, p_two_sided; /* as the official code counts them: without the + 1 */
} ebb_evaluation;

/* Columns camera_loc, cover, obj, trial_type (the code), dir where there is one, and the one named `score`.
 * Groups are (camera_loc, cover, obj[, dir]). Each of `permutations` draws shuffles the four scores inside
 * every group, by numpy's default_rng(0), so that p is the official number. Errors: columns missing, codes
 * that are not the category's, a group with a code twice, no complete group. */
bool ebb_inflevel_evaluate(const ebb_table *table, const char *category, const char *score,
                           int64_t permutations, ebb_evaluation *result, ebb_error *err);

#endif
