/* The `strict` preset: repeated nested cross-validation by group (REFERENCE 6.1).
 *
 * For every row (category, model, feature), every repeat and every outer fold, the groups outside the fold do
 * all choosing: their inner folds judge each (block, step, penalty) by the correlation of inner held-out
 * ridge margins with the labels, and a logistic regression is then fitted on all of them in the winning cell
 * at the winning penalty. What it says about the held-out groups, which chose nothing, is the reported
 * number. Where each head is a cell (probe.heads), the head is chosen with block and step, by the same
 * groups. Ridge chooses because its inner folds are exact in closed form: all penalties, inner folds and
 * permutations of a cell share one decomposition (probe/solve.h).
 *
 * The heat map shows every cell alone: out-of-fold ridge margins at the penalty its own training groups
 * chose, as means over repeats. The best cell is selected on the data it is reported on, so it stands beside
 * the best-of-K floor: the same maximum under labels permuted within groups, all refitted, penalties chosen
 * anew. Best cell, floor and p are all of the first repeat: refits of every repeat would cost that many times
 * as much.
 *
 * Folds are as the config says, also below 20 groups, where REFERENCE 6.1 asks to leave one group out at a
 * time: with one group a fold the AUC, which compares only videos judged by the same fit, would be the
 * pairwise accuracy again, and repeats would differ in their inner folds alone. */
#ifndef EBB_PROBE_STUDY_H
#define EBB_PROBE_STUDY_H

#include "kernels/context.h"
#include "loaders/config.h"
#include "loaders/store.h"
#include "probe/results.h"

typedef void ebb_progress(void *user, double fraction);

/* Rows for every category, model and feature of the store that config->probe asks for. Everything random
 * follows config->probe.seed. c is open (it sets BLAS to one thread: the threads are here). Errors: those of
 * ebb_samples_make, a wanted feature that no model has, features that are not finite, an unknown preset, what
 * the store can bring. */
bool ebb_study_run(const ebb_store *store, const ebb_config *config, ebb_context *c, ebb_progress *progress,
                   void *user, ebb_results *results, ebb_error *err);

/* The settings that no data decide: a known probe.preset and probe.by. */
bool ebb_study_settings(const ebb_config *config, ebb_error *err);

#endif
