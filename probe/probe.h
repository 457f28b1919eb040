/* Features to conclusions: what main.c calls. */
#ifndef EBB_PROBE_PROBE_H
#define EBB_PROBE_PROBE_H

#include "probe/study.h"

#include <stdio.h>

/* Probes the run's stored features as config->probe says (probe/study.h) and writes RUN/probe/:
 * results.json, results.csv (a line a row), cells.csv (a line a cell), margins.csv (a line a video and
 * row), heldout.csv (a line a video, row and repeat: tests/refit_probe.py makes its margins again),
 * best_block.csv and the official code's files for presets that split as it does (probe/official.h),
 * overview.png, a heat map for every row that has more than one cell, and the frame mass of every head
 * where it was captured (probe/maps.h; a note on stderr where the index says that it is not by head).
 * Earlier results there are replaced. The table goes to `table` (NULL: nowhere). progress may be NULL. c is
 * open. Errors name the folder or category, what was found and what is needed; an unfinished run folder is
 * one. */
bool ebb_probe_run(const char *run_dir, const ebb_config *config, ebb_context *c, ebb_progress *progress,
                   void *user, FILE *table, ebb_error *err);

/* What would make ebb_probe_run fail after an inversion of `set` (the videos as the run will take them:
 * ebb_dataset_keep done), found before it: settings of ebb_study_settings, the samples and messages of
 * ebb_samples_make, names in probe.features that capture.points and capture.pool will not produce (the
 * VAE's latent.mean, latent.frame_mean and latent.motion are always there), and probe.heads where nothing
 * has heads. Reads no frames. A video that fails in the run may still leave too few groups. */
bool ebb_probe_check(const ebb_dataset *set, const ebb_config *config, ebb_error *err);

/* Prints the table and draws the pictures again from RUN/probe/results.json, and those of attention from
 * the stored features, at step number `step`; fits nothing. -1: at the step that each probe chose. The
 * features are opened, and every shard hashed, only when the results have rows of attn_frames or a step is
 * given. That they cannot be opened is an error with a step, and a note on stderr without. */
bool ebb_report_run(const char *run_dir, int64_t step, FILE *table, ebb_error *err);

#endif
