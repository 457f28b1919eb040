/* Protocols of others, to compare with: `referee`, what a referee of the paper asked for, and `released`, what
 * the authors' code does (REFERENCE 3.8, 4.3). Both train linear layers with Adam, once for each of
 * probe.repeats seeds, on a random split of the groups (theirs by video where ours is by group), and report
 * the best cell of each seed. What is known to be wrong with them is printed with their results.
 *
 *              train / validation / test   batch   stops                          chooses the cell on
 *   referee    80 / 10 / 10 %              64      accuracy on validation, 5      validation videos
 *   released   80 / -  / 20 %              32      last of 50 epochs              the test videos
 *
 * referee: L2 0.01, one logit. Its text leaves two things open: features are standardised on training rows
 * (without that, one L2 means another amount of shrinkage in every block), and weights start at zero (on a few
 * hundred videos a random start is still in the way when the patience ends). released: no L2, two logits from
 * a random start, features as they are. */
#ifndef EBB_PROBE_PRESETS_H
#define EBB_PROBE_PRESETS_H

#include "probe/solve.h"

typedef struct ebb_preset {
  const char *name;
  double test, validation; /* shares of the groups */
  bool choose_on_test;
  ebb_training training;     /* its seed is probe.seed */
  const char *method;        /* for results.json */
  const char *const *defect; /* lines for the table, then NULL */
} ebb_preset;

const ebb_preset *ebb_preset_find(const char *name); /* NULL for strict and what is unknown */

#endif
