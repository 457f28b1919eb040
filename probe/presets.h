/* Protocols of others, to compare with: `referee`, what a referee of the paper asked for, `released`, what
 * the authors' code does, and `paper`, what the paper reports of it (REFERENCE 1.3, 3.8, 4.3). All train
 * linear layers with Adam, once for each of probe.repeats seeds, on a random split of the groups, and
 * report the best cell of each seed. Cells of a seed share the split and the order of batches and begin
 * with weights of their own. What is known to be wrong with the presets is printed with their results.
 *
 *              train / validation / test   batch   stops                          chooses the cell on
 *   referee    80 / 10 / 10 %              64      accuracy on validation, 5      validation videos
 *   released   80 / -  / 20 %              32      last of 50 epochs              the test videos
 *   paper      60 / -  / 40 %              32      last of 50 epochs              the test videos
 *
 * referee: L2 0.01, one logit. Its text leaves two things open: features are standardised on training rows
 * (without that, one L2 means another amount of shrinkage in every block), and weights start at zero (on a
 * few hundred videos a random start is still in the way when the patience ends). Its split is by video;
 * here it is by group unless probe.allow_leak is true. released and paper: no L2, two logits from a random
 * start, features as they are; seeds probe.seed, probe.seed + 1, ... give the authors' sets of scenes
 * (torch_order.h), and beside the table stands the best block of each seed at every step as mean and
 * standard error, which is what the paper shows.
 *
 * What remains different from the authors' code: it trains the blocks of one step together by the mean of
 * their losses, which divides every gradient by the number of blocks (Adam's steps do not see that but for
 * its eps of 1e-8) and begins every step's run with the same weights; ours are one fit for each block and
 * step. The best of a seed is over blocks of one step there, over blocks and steps in our table. Batches
 * and starts are of the same distributions, not PyTorch's numbers. */
#ifndef EBB_PROBE_PRESETS_H
#define EBB_PROBE_PRESETS_H

#include "loaders/config.h"
#include "probe/solve.h"

typedef struct ebb_preset {
  const char *name;
  double test, validation; /* shares of the groups */
  bool choose_on_test;
  ebb_training training;     /* its seed is probe.seed */
  const char *method;        /* for results.json */
  const char *const *defect; /* lines for the table, then NULL */
} ebb_preset;

/* A preset splits at random: probe.folds, probe.inner_folds and probe.permutations say nothing to it. Puts
 * them back to their defaults, and in `names` those that were not, as "probe.folds, ..."; "" for strict. */
void ebb_preset_settings(ebb_config *config, char *names, size_t size);

const ebb_preset *ebb_preset_find(const char *name); /* NULL for strict and what is unknown */

#endif
