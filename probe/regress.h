/* Regression: how well features tell a number (speed, size, a position), block by block and step by step.
 *
 * strict: repeated nested cross-validation by group, as for plausibility (probe/study.h): ridge regression
 * in every cell (block and step); training groups choose cell and penalty by what their inner folds
 * explain; the reported number is of groups that chose nothing. R2 = 1 - sum (y - f)^2 / sum (y - mean)^2
 * with the mean of the training videos, so that it is below 0 where nothing was learnt. MAE and MSE in
 * units of the target. The null deals the targets of whole groups anew among groups of the same category
 * and size, and everything is refitted.
 *
 * Partial R2 of a target given the others (with two targets or more): target and features are residualised
 * inside each fold, by least squares on the training videos, on the other targets' powers 1 to 3 (1 alone
 * where videos are few); what features then explain of the rest is theirs. Its null permutes residuals
 * (Freedman & Lane 1983).
 *
 * released: the official probe_regress.py (REFERENCE 3.9), its split, its training, its files; the best
 * block is looked up on the videos it is reported on. Its split is by video: groups of several videos need
 * probe.allow_leak. */
#ifndef EBB_PROBE_REGRESS_H
#define EBB_PROBE_REGRESS_H

#include "kernels/context.h"
#include "loaders/config.h"
#include "loaders/store.h"
#include "probe/stats.h"
#include "probe/study.h"

#include <stdio.h>

typedef enum ebb_error_kind { EBB_R2, EBB_MAE, EBB_MSE, EBB_ERRORS } ebb_error_kind;
extern const char *const ebb_error_names[EBB_ERRORS]; /* "r2", "mae", "mse" */

/* One category, model, feature and target. Grids run [step][block]. */
typedef struct ebb_regression {
  char category[64], model[64], feature[64], target[EBB_TARGET_NAME];
  bool partial; /* given all other targets of the study */
  int64_t videos, groups, width, failed, missing;
  int step_count, block_count; /* block_count 1 and blocks NULL for a feature without blocks */
  int *steps, *blocks;
  double *sigmas;

  ebb_interval metric[EBB_ERRORS]; /* reported; released: R2 the mean over seeds of each seed's best
                                      cell, the others of cell `chosen`, no limits */
  double nested_p;                 /* of the same nested choice in the first repeat, targets permuted */
  double *selected;                /* [cells] share of the fits that chose the cell */
  int chosen;
  double *cell[EBB_ERRORS]; /* [cells] every cell alone, over all repeats */
  int top;                  /* highest R2 of the first repeat */
  double top_once, p;
  double *cell_p; /* [cells] against the maxima over cells; NaN without permutations */
  ebb_floor permuted;
  double *step_mean, *step_error; /* released: [steps] R2 of the best block of each seed; else NULL */

  int repeats;
  int64_t *video;             /* [videos] numbers in the store */
  double *truth, *prediction; /* [repeats,videos] as judged; NaN: not judged; released has its own files */
} ebb_regression;

typedef struct ebb_regressions {
  char name[64], preset[16];
  int folds, repeats, inner_folds;
  int64_t bootstrap, permutations, seed;
  bool by_video; /* split by video although groups have several */
  int target_count;
  char targets[EBB_TARGETS_MAX][EBB_TARGET_NAME];
  int row_count;
  ebb_regression *rows;
  json_t *provenance; /* owned; as of ebb_results */
} ebb_regressions;

/* Whether probe.target names targets and not plausibility. */
bool ebb_regress_wanted(const ebb_config *config);
/* What no data decide: known preset, targets without plausible among them. */
bool ebb_regress_settings(const ebb_config *config, ebb_error *err);

/* number [probe.target.count]: the wanted targets among the store's. Errors: one that the store does not
 * have, with those it has. */
bool ebb_regress_targets(const ebb_store *store, const ebb_config *config, int *number, ebb_error *err);

/* Fits probes to config->probe.target. dir: where `released` puts the official files (NULL: nowhere).
 * Errors: a target that the run does not have, with those it has, what ebb_samples_targets finds, a split
 * that would leak, features that are not finite. */
bool ebb_regress_study(const ebb_store *store, const ebb_config *config, ebb_context *c, const char *dir,
                       ebb_progress *progress, void *user, ebb_regressions *results, ebb_error *err);
void ebb_regressions_free(ebb_regressions *results);

/* The same for a run folder, into RUN/regress/: results.json, results.csv (a line a row), cells.csv,
 * predictions.csv (a line a video, row and repeat), a heat map of R2 for every row with more than one
 * cell, and official/. */
bool ebb_regress_run(const char *run_dir, const ebb_config *config, ebb_context *c, ebb_progress *progress,
                     void *user, FILE *table, ebb_error *err);

/* Files and table of results; dir exists. */
bool ebb_regressions_write(const ebb_regressions *results, const ebb_store *store, const char *dir,
                           ebb_error *err);
void ebb_regressions_print(const ebb_regressions *results, FILE *out);

#endif
