/* One inversion run: a data set through the VAE and through every transformer of the experiment, into the
 * feature store. */
#ifndef EBB_ENGINE_JOB_H
#define EBB_ENGINE_JOB_H

#include "loaders/config.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct ebb_job_options {
  const char *version; /* of the program, for provenance */
  bool dry_run; /* print the plan - memory, features, disk - and stop before the first byte is computed */
  FILE *log;    /* plain lines: the plan, what is dropped, every video that fails, what was used */
  void (*progress)(void *user, double done,
                   int64_t videos); /* videos done, with the share of those under way */
  void *progress_user;
} ebb_job_options;

typedef struct ebb_job_memory { /* bytes on the device */
  size_t weights, activations;
} ebb_job_memory;

typedef struct ebb_job_result {
  int64_t videos, failed;       /* failed: recorded in the store with the reason */
  ebb_job_memory planned, used; /* used: after a run */
  uint64_t disk;                /* of all features, when no video fails */
} ebb_job_result;

/* What can be told from the experiment alone: required keys, names of models listed twice, a solver that the
 * model's dtype is too coarse for. */
bool ebb_job_check(const ebb_config *config, ebb_error *err);

/* Runs config and writes config->run.out. The plan is made first, by counting, in a dry run too; what does not fit into
 * the memory that is free, or that run.memory allows, is an error with the largest batch that does. While a batch
 * integrates, the next one's clips are decoded and the last one's features are written, each on a thread of its own.
 * Errors: anything that keeps the run as a whole from going on; a video that cannot be read or gives values that are
 * not finite is recorded, skipped and counted. */
bool ebb_job_invert(const ebb_config *config, const ebb_job_options *options, ebb_job_result *result,
                    ebb_error *err);

#endif
