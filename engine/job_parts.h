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

#define EBB_JOB_MODELS 17 /* the transformer and up to 16 to compare it with */

/* One transformer of the run with everything it needs. */
typedef struct ebb_job_model {
  char name[64];
  ebb_model model;
  ebb_condition text, negative;
  ebb_tap_plan plan;
  int set, negative_set; /* in the store */
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
