/* Linear probes kept for videos that are yet to be made: in every cell (step, block) of a stored feature, fitted on
 * the run's videos, so that what an intervention makes of a scene can be read by a probe that has not seen the scene.
 *
 * preset strict: cross-fitted. The groups are dealt into probe.folds folds; a scene is read by the logistic regression
 * of the fold that holds its group out, at the penalty that inner folds of the training groups chose. Other
 * presets: as released (probe/presets.h), one training on a random split of the groups, whose probe reads every
 * scene, those that it was trained on too. */
#ifndef EBB_PROBE_CROSSFIT_H
#define EBB_PROBE_CROSSFIT_H

#include "kernels/context.h"
#include "loaders/config.h"
#include "loaders/store.h"

typedef struct ebb_crossfit {
  int set, feature; /* of the store */
  int step_count, block_count;
  int *step, *block;     /* their numbers; steps as asked for, all blocks of the set */
  int64_t width, videos; /* videos: of the store */
  int fits;
  int *fit;      /* [videos] which fit reads it; -1: none (failed, unlabelled, in no complete group) */
  bool *trained; /* [videos] whether that fit was trained on it */
  double *
      weights; /* [fits, steps, blocks, width + 1] in units of x, intercept last: margin = weights . (x, 1), above 0:
                      possible */
  double
      *score; /* [fits, steps, blocks] what the cell is chosen by: strict, the correlation of inner held-out
                      margins with the labels, training groups alone; else the accuracy on validation or held-out videos */
  char sha256[65]; /* of weights and fit */
} ebb_crossfit;

/* Fits config->probe's preset on `feature` of `model`, at the steps of that number. Everything random follows
 * config->probe.seed. c is open. Errors: a model, feature or step that the store has not; a feature without blocks;
 * those of ebb_samples_make and of the solvers. */
bool ebb_crossfit_make(ebb_crossfit *f, const ebb_store *store, const ebb_config *config, const char *model,
                       const char *feature, const ebb_int_list *steps, ebb_context *c, ebb_error *err);
void ebb_crossfit_free(ebb_crossfit *f); /* a zeroed one is fine */
/* [width + 1] of the cell in which `video` is read; step and block are indices. Its fit is not -1. */
const double *ebb_crossfit_weights(const ebb_crossfit *f, int64_t video, int step, int block);
/* The surprise of x [width]: logit of impossible minus logit of possible (Eq. 6), minus the margin. */
double ebb_crossfit_surprise(const ebb_crossfit *f, int64_t video, int step, int block, const float *x);
/* The block with the highest score over steps, for the fit that reads `video`: an index. */
int ebb_crossfit_best_block(const ebb_crossfit *f, int64_t video);

#endif
