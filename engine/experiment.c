#include "engine/experiment.h"

#include "loaders/file.h"

#include <stdlib.h>

typedef struct skips {
  ebb_experiment *e;
  FILE *log;
} skips;

static void note_skipped(void *user, const char *id, const char *reason) {
  const skips *s = user;
  fprintf(s->log, "skipped %s: %s\n", id, reason);
  s->e->skipped++;
}

/* Found without their states first, which may take an encoder hours to make for each video of a set. */
static bool open_prompts(ebb_experiment *e, FILE *log, ebb_error *err) {
  if (!ebb_prompts_open(&e->prompts, e->config, &e->data, &e->context, true, log, err))
    return false;
  if (e->prompts.per_video)
    return ebb_fail(
        err,
        "%s: the data set gives its videos prompts of their own, and solvers are measured on one: "
        "expected prompt.per_video false (--set prompt.per_video=false) and its prompt.text",
        e->config->path);
  ebb_prompts_free(&e->prompts);
  return ebb_prompts_open(&e->prompts, e->config, &e->data, &e->context, false, log, err);
}

bool ebb_experiment_open(ebb_experiment *e, const ebb_config *k, FILE *log, ebb_error *err) {
  *e = (ebb_experiment){.config = k};
  return ebb_context_open(&e->context, k->run.device, err) &&
         ebb_dataset_open_config(&e->data, k, note_skipped, &(skips){e, log}, err) &&
         open_prompts(e, log, err);
}

void ebb_experiment_close(ebb_experiment *e) {
  ebb_prompts_free(&e->prompts);
  ebb_dataset_close(&e->data);
  ebb_context_close(&e->context);
}

bool ebb_experiment_open_reader(ebb_experiment *e, int64_t batch, ebb_reader **reader, ebb_error *err) {
  const int64_t threads = ebb_reader_threads();
  return ebb_reader_open(reader, &e->context, &e->data, e->clip, batch > threads ? batch : threads,
                         (int)threads, err);
}

static bool open_vae(ebb_experiment *e, bool with_decoder, ebb_error *err) {
  const ebb_config *k = e->config;
  ebb_dtype dtype;
  if (!ebb_model_dtype(&e->context, "model.vae_dtype", k->model.vae_dtype, &dtype, err))
    return false;
  char *folder = ebb_path_join(k->model.path, "vae");
  bool ok = ebb_vae_open(&e->vae, &e->context, folder, dtype, NULL, true, with_decoder, err);
  free(folder);
  if (!ok)
    return false;
  e->clip = ebb_clip_size_of(k, e->vae.chunk);
  return ebb_vae_latent_shape(&e->vae, e->clip.used, k->data.height, k->data.width, &e->shape, err);
}

bool ebb_experiment_open_models(ebb_experiment *e, bool with_decoder, ebb_error *err) {
  const ebb_config *k = e->config;
  ebb_dtype dtype;
  if (!ebb_model_dtype(&e->context, "model.dtype", k->model.dtype, &dtype, err) ||
      !open_vae(e, with_decoder, err))
    return false;
  char *folder = ebb_path_join(k->model.path, k->model.transformer);
  bool ok = ebb_model_open(&e->model, &e->context, folder, dtype, NULL, err);
  free(folder);
  if (ok && e->model.channels != e->shape.channels)
    ok = ebb_fail(err, "%s: the transformer takes latents of %lld channels, the VAE gives %lld",
                  k->model.path, (long long)e->model.channels, (long long)e->shape.channels);
  return ok;
}

void ebb_experiment_close_models(ebb_experiment *e) {
  ebb_model_close(&e->model);
  ebb_vae_close(&e->vae);
}

static bool condition(ebb_experiment *e, bool negative, const ebb_integration *plan, ebb_condition *cond,
                      ebb_error *err) {
  return ebb_prompts_condition(&e->prompts, negative, &e->model, cond, e->shape, plan->labels, plan->moments,
                               err);
}

bool ebb_course_condition(ebb_course *course, ebb_experiment *e, ebb_error *err) {
  return condition(e, false, &course->plan, &course->text, err) &&
         (e->config->inversion.guidance == 1 || condition(e, true, &course->plan, &course->negative, err));
}

void ebb_course_forget(ebb_course *course) {
  ebb_condition_free(&course->text);
  ebb_condition_free(&course->negative);
}

ebb_run ebb_course_run(const ebb_course *course, ebb_experiment *e, ebb_tap *tap, ebb_error *failures) {
  return (ebb_run){.model = &e->model,
                   .plan = &course->plan,
                   .text = &course->text,
                   .negative = &course->negative,
                   .guidance = e->config->inversion.guidance,
                   .tap = tap,
                   .failures = failures};
}

ebb_tensor ebb_experiment_state(ebb_experiment *e, int64_t count) {
  return EBB_ACTIVATION(&e->context, "latents", count, e->shape.channels, e->shape.frames, e->shape.height,
                        e->shape.width);
}

void ebb_experiment_encode(ebb_experiment *e, const float *pixels, float *latent) {
  ebb_context *c = &e->context;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor video = EBB_ACTIVATION(c, "video", 1, 3, e->clip.used, e->clip.height, e->clip.width);
  ebb_tensor to = ebb_experiment_state(e, 1);
  ebb_upload(c, video, pixels);
  ebb_vae_encode(&e->vae, to, video);
  ebb_download(c, latent, to);
  ebb_arena_release(&c->activations, mark);
}
