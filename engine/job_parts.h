/* What the files of a job share: job.c (the run), job_models.c (what it runs with), job_batch.c (videos through it),
 * job_plan.c (what it will take), job_store.c (what it leaves); and trials.c, which opens the same models. Theirs
 * alone. */
#ifndef EBB_ENGINE_JOB_PARTS_H
#define EBB_ENGINE_JOB_PARTS_H

#include "engine/invert.h"
#include "engine/job.h"
#include "engine/reader.h"
#include "engine/vae.h"
#include "engine/writer.h"

#include <string.h>

#define EBB_JOB_MODELS 17 /* the transformer and up to 16 to compare it with */
#define EBB_JOB_DRAWS 16  /* most inversion.draws */

/* One transformer of the run with everything it needs. */
typedef struct ebb_job_model {
  char name[64];
  ebb_model model;
  ebb_condition text, negative;
  ebb_tap_plan plan;
  int set, negative_set;        /* in the store */
  int noise_set[EBB_JOB_DRAWS]; /* of inversion.method noise; one of the mean, or one a draw */
} ebb_job_model;

typedef struct ebb_job {
  const ebb_config *config;
  const ebb_job_options *options;
  ebb_job_result *result;
  ebb_context context;
  ebb_dataset data;
  json_t *skipped; /* videos that never made it into the list */
  ebb_schedule schedule;
  ebb_integration plan;
  ebb_clip_size clip;
  bool decode; /* the VAE's other half is wanted too */
  ebb_vae vae;
  ebb_vae
      exact; /* the same in float32 when vae computes in bfloat16, kept for one measurement of what that costs */
  bool latent_measured;
  double latent_error; /* of the first video, ||z - z_exact|| / ||z_exact|| */
  ebb_latent_shape shape;
  ebb_tap_plan vae_plan;
  int vae_set;
  ebb_job_model models[EBB_JOB_MODELS];
  int model_count;
  char prompt_sha256[65], negative_sha256[65];
  ebb_store_writer *store;
  ebb_reader *reader;
  ebb_writer *writer;
  int64_t done; /* videos */
} ebb_job;

static inline int64_t ebb_job_latent_count(const ebb_job *j) {
  return j->shape.channels * j->shape.frames * j->shape.height * j->shape.width;
}
static inline bool ebb_job_guided(const ebb_job *j) {
  return j->config->inversion.guidance != 1;
}
static inline bool ebb_job_inverts(const ebb_job *j) {
  return strcmp(j->config->inversion.method, "noise") != 0;
}
/* Draws of noise that every video gets; 0: none. */
static inline int64_t ebb_job_draws(const ebb_job *j) {
  return strcmp(j->config->inversion.method, "invert") != 0 ? j->config->inversion.draws : 0;
}
static inline int64_t ebb_job_noise_sets(const ebb_job *j) {
  return ebb_job_draws(j) > 0 && !j->config->inversion.keep_draws ? 1 : ebb_job_draws(j);
}
/* What a model's noise set number i is called behind its name: ".noise", or ".noise-0", ".noise-1" ... */
void ebb_job_noise_suffix(const ebb_job *j, int64_t i, char suffix[24]);
/* Sets of one model. */
static inline int64_t ebb_job_sets(const ebb_job *j) {
  return (ebb_job_inverts(j) ? 1 + ebb_job_guided(j) : 0) + ebb_job_noise_sets(j);
}
/* Videos of a full batch. */
static inline int64_t ebb_job_batch_size(const ebb_job *j) {
  return j->config->run.batch < j->data.count ? j->config->run.batch : j->data.count;
}

/* The VAE, the transformers, their conditions and tap plans. Close what a failed open left, too. */
bool ebb_job_open_models(ebb_job *j, ebb_error *err);
void ebb_job_close_models(ebb_job *j);

/* Videos [first, first+count) of the data set: one that fails is recorded and leaves the others their places. When
 * counting, nothing is read or written. */
bool ebb_job_run_batch(ebb_job *j, int64_t first, int64_t count, ebb_error *err);
/* An ebb_writer_report: records the failure and says it. */
void ebb_job_fail_video(void *user, int64_t video, const char *reason);

/* While counting, models open: takes a batch through them and prints what the run will take. Errors: more than there is
 * memory for, with the largest batch that fits. */
bool ebb_job_print_plan(ebb_job *j, ebb_error *err);
void ebb_job_print_used(const ebb_job *j);

/* A set of the store, over arrays of the caller's. name and suffix make its model's name. */
typedef struct ebb_job_set {
  ebb_feature features[EBB_POINTS * EBB_POOLS];
  double sigmas[EBB_LIST];
  ebb_feature_set set; /* points into the two, and into the plan */
} ebb_job_set;
void ebb_job_describe_set(const ebb_job *j, const char *name, const char *suffix, const ebb_tap_plan *plan,
                          ebb_job_set *set);
bool ebb_job_open_store(ebb_job *j, ebb_error *err);
bool ebb_job_finish_store(ebb_job *j, ebb_error *err);

#endif
