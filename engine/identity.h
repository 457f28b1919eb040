/* What the results of an experiment hang on besides its settings: the bytes of its weights, the pixels of its videos
 * and the states of its text. Found before anything is computed, so that what is kept of an earlier run can be
 * held against it. */
#ifndef EBB_ENGINE_IDENTITY_H
#define EBB_ENGINE_IDENTITY_H

#include "loaders/config.h"

#include <stdio.h>

/* All as a run writes them into its index.json (provenance.models, videos[].sha256, prompt_sha256). */
typedef struct ebb_identity {
  char transformer[65], vae[65]; /* SHA-256 of the weights */
  char prompt[65], negative[65];
  int64_t videos;
  char **id;          /* [videos] */
  char (*frames)[65]; /* [videos] SHA-256 of the decoded frames; empty: cannot be read */
} ebb_identity;

/* Of model.transformer, the VAE, the run's text and the first `videos` videos of the data set (-1: all), which are all
 * decoded. Free in any case. Errors: weights or a data set that cannot be opened, those of ebb_experiment_open; a
 * video that cannot be read is none. */
bool ebb_identity_find(ebb_identity *identity, const ebb_config *config, int64_t videos, FILE *log,
                       ebb_error *err);
/* SHA-256 of all of it, with the first `videos` videos. */
void ebb_identity_hash(const ebb_identity *identity, int64_t videos, char hash[65]);
void ebb_identity_free(ebb_identity *identity);

#endif
