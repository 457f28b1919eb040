/* What a measurement of an experiment runs with, apart from a job: the context, the data set, the VAE and the
 * first transformer. */
#ifndef EBB_ENGINE_EXPERIMENT_H
#define EBB_ENGINE_EXPERIMENT_H

#include "engine/invert.h"
#include "engine/prompts.h"
#include "engine/reader.h"
#include "engine/vae.h"
#include "loaders/config.h"

typedef struct ebb_experiment {
  const ebb_config *config;
  ebb_context context;
  ebb_dataset data;
  int64_t skipped; /* videos that never made it into the list */
  ebb_prompts prompts;
  ebb_vae vae;
  ebb_model model;
  ebb_clip_size clip;
  ebb_latent_shape shape;
} ebb_experiment;

/* The context, the videos and the text, which is one for all; skipped videos are said on `log`. Close what a
 * failed open left, too. Errors: videos with texts of their own (prompt.per_video). */
bool ebb_experiment_open(ebb_experiment *e, const ebb_config *config, FILE *log, ebb_error *err);
void ebb_experiment_close(ebb_experiment *e);

/* Reads the data set's videos ahead of batches of so many. After ebb_experiment_open_models. */
bool ebb_experiment_open_reader(ebb_experiment *e, int64_t batch, ebb_reader **reader, ebb_error *err);

/* For the work of ebb_context_sized: VAE and transformer, in the weight arena. */
bool ebb_experiment_open_models(ebb_experiment *e, bool with_decoder, ebb_error *err);
void ebb_experiment_close_models(ebb_experiment *e); /* after a failed open too */

/* A plan and the model's constants for it, in the weight arena. Free in any case. */
typedef struct ebb_course {
  ebb_integration plan;
  ebb_condition text, negative; /* negative: with guidance */
} ebb_course;
bool ebb_course_condition(ebb_course *course, ebb_experiment *e, ebb_error *err);
void ebb_course_forget(ebb_course *course); /* its constants; the plan stays */
/* Along the plan; taps and failures may be NULL. */
ebb_run ebb_course_run(const ebb_course *course, ebb_experiment *e, ebb_tap *tap, ebb_error *failures);

static inline int64_t ebb_experiment_latent(const ebb_experiment *e) {
  return e->shape.channels * e->shape.frames * e->shape.height * e->shape.width;
}
ebb_tensor ebb_experiment_state(ebb_experiment *e,
                                int64_t count); /* [count,C,T,H,W] from the activation arena */
/* One clip as the reader made it ready -> host latent [C,T,H,W]. Errors stay in the context. */
void ebb_experiment_encode(ebb_experiment *e, const float *pixels, float *latent);

#endif
