/* What `ebb fidelity` leaves: measured numbers to files, with intervals over groups. */
#ifndef EBB_CLI_FIDELITY_REPORT_H
#define EBB_CLI_FIDELITY_REPORT_H

#include "engine/fidelity_run.h"

#include <stdio.h>

typedef struct ebb_fidelity_report {
  const ebb_fidelity *measured;
  const ebb_fidelity_options *options;
  const ebb_config *config;
  const char *version; /* of the program */
  const char *margins; /* RUN/probe/margins.csv, when it is there */
  const char *out;     /* folder, made */
} ebb_fidelity_report;

/* Writes OUT/fidelity.csv (a line a video, loop and state), fidelity_videos.csv (a line a video and loop),
 * fidelity_noise.csv (also by channel), fidelity_attention.csv (means by step, block and head) and last
 * fidelity_summary.json (what was measured, with intervals, and correlations with the probe's margins). The
 * summary's numbers go to `table` too. Errors: files, memory, margins that are not as `ebb probe` writes
 * them. */
bool ebb_fidelity_write(const ebb_fidelity_report *r, FILE *table, ebb_error *err);

#endif
