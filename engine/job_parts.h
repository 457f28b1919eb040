/* What the files of a job share: job.c (the run), job_models.c (what it runs with), job_batch.c (videos
 * through it), job_plan.c (what it will take), job_store.c (what it leaves); and reconstruct.c, which takes
 * the same models and videos there and back, and trials.c, which opens them for its own batches. Theirs
 * alone. */
#ifndef EBB_ENGINE_JOB_PARTS_H
#define EBB_ENGINE_JOB_PARTS_H

#include "engine/invert.h"
#include "engine/job.h"
#include "engine/prompts.h"
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
  ebb_condition text, negative; /* text: of prompts that videos share; else made for each batch */
  ebb_tap_plan plan;
  int set, negative_set;        /* in the store */
  int noise_set[EBB_JOB_DRAWS]; /* of inversion.method noise; one of the mean, or one a draw */
} ebb_job_model;

typedef struct ebb_job ebb_job;

struct ebb_job {
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
  bool draw;   /* the videos begin as noise: none is read or encoded */
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
  ebb_prompts prompts;
  ebb_store_writer *store;
  ebb_reader *reader;
  ebb_writer *writer;
  int64_t done; /* videos */
  /* Videos [first, first+count) of the data set: one that fails is recorded and leaves the others their
   * places. When counting, nothing is read or written. */
  bool (*run_batch)(ebb_job *j, int64_t first, int64_t count, ebb_error *err);
  void *user; /* run_batch's own */
};

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

/* Clips that lie ready while a batch integrates: the next batch's, and no fewer than there are threads to
 * read them. */
static inline int64_t ebb_job_ahead(const ebb_job *j) {
  const int64_t batch = ebb_job_batch_size(j), threads = ebb_reader_threads();
  const int64_t ahead = batch > threads ? batch : threads;
  return ahead < j->data.count ? ahead : j->data.count;
}

/* The VAE, the transformers, their conditions and tap plans. Close what a failed open left, too. */
bool ebb_job_open_models(ebb_job *j, ebb_error *err);
void ebb_job_close_models(ebb_job *j);
/* What a batch of videos[0..count) is told: m's text, or with prompts.per_video those of the videos, made into
 * *own, which the caller frees in any case; its constants stay in the weight arena until a mark is released.
 * NULL: failed. */
const ebb_condition *ebb_job_text_of(ebb_job *j, ebb_job_model *m, int64_t count, const int64_t *videos,
                                     ebb_condition *own, ebb_error *err);

/* The data set of the config. */
bool ebb_job_open_data(ebb_job *j, ebb_error *err);
/* Everything but the computation: prompts are opened (their encoder runs, unless it is a dry run), then
 * models, and a batch is taken through them, counting. Prints the plan. */
bool ebb_job_rehearse(ebb_job *j, ebb_error *err);
/* After it, for real: memory as planned, models, the reader (unless j->draw). */
bool ebb_job_begin(ebb_job *j, ebb_error *err);
bool ebb_job_open_reader(ebb_job *j, ebb_error *err);
/* Frees what the functions above have opened; a zeroed job is fine. */
void ebb_job_end(ebb_job *j);

/* Reads and encodes one video, latent f32 host [C,T,h,w]; its prepared frames go to *frames and the hash of
 * what was decoded to input_sha256 unless they are NULL. False with err filled: this video fails, the run
 * goes on. Errors of ops stay in the context. While counting nothing is read. */
bool ebb_job_encode(ebb_job *j, int64_t number, float *latent, ebb_clip *frames, char input_sha256[65],
                    ebb_error *err);
/* The run_batch of an inversion: features. */
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
/* The resolved experiment as folder/config.yaml. */
bool ebb_job_write_config(const ebb_job *j, const char *folder, ebb_error *err);
/* Where results come from: version, config, models with their hashes, schedule, solver, labels, device,
 * inputs. NULL: a weight file that cannot be read to its end. */
json_t *ebb_job_provenance(ebb_job *j, ebb_error *err);
json_t *ebb_job_reals(const double *values, int count); /* a list of numbers */
bool ebb_job_finish_store(ebb_job *j, ebb_error *err);

#endif
