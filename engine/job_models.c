#include "engine/job_parts.h"

#include "loaders/file.h"

#include <stdlib.h>
#include <string.h>

/* What a failed condition may hang on. */
static bool say_sizes(const ebb_job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  return ebb_fail_also(err, " (data.size %lldx%lld, data.frames %lld, the VAE's stride %d and %d)",
                       (long long)k->data.height, (long long)k->data.width, (long long)k->data.frames,
                       j->vae.space_stride, j->vae.time_stride);
}

static bool condition(ebb_job *j, ebb_job_model *m, bool negative, ebb_error *err) {
  return ebb_prompts_condition(&j->prompts, negative, &m->model, negative ? &m->negative : &m->text, j->shape,
                               j->plan.labels, j->plan.moments, err) ||
         say_sizes(j, err);
}

const ebb_condition *ebb_job_text_of(ebb_job *j, ebb_job_model *m, int64_t count, const int64_t *videos,
                                     ebb_condition *own, ebb_error *err) {
  *own = (ebb_condition){0};
  if (!j->prompts.per_video)
    return &m->text;
  const bool ok = ebb_prompts_condition_videos(&j->prompts, count, videos, &m->model, own, j->shape,
                                               j->plan.labels, j->plan.moments, err) ||
                  say_sizes(j, err);
  return ok ? own : NULL;
}

/* "random" is the main transformer's architecture with torch's initialisation; any other name is a sub-folder. */
static bool open_model(ebb_job *j, const char *name, ebb_error *err) {
  const ebb_config *k = j->config;
  ebb_job_model *m = &j->models[j->model_count++];
  *m = (ebb_job_model){.set = -1, .negative_set = -1};
  snprintf(m->name, sizeof m->name, "%s", name);
  bool random = strcmp(name, "random") == 0;
  ebb_dtype dtype;
  if (!ebb_model_dtype(&j->context, "model.dtype", k->model.dtype, &dtype, err))
    return false;
  char *folder = ebb_path_join(k->model.path, random ? k->model.transformer : name);
  bool ok = ebb_model_open(&m->model, &j->context, folder, dtype, random ? &k->model.seed : NULL, err);
  free(folder);
  if (ok && m->model.channels != j->shape.channels)
    ok = ebb_fail(err, "%s: the transformer '%s' takes latents of %lld channels, the VAE gives %lld",
                  k->model.path, name, (long long)m->model.channels, (long long)j->shape.channels);
  if (ok && !j->prompts.per_video)
    ok = condition(j, m, false, err);
  if (ok && ebb_job_guided(j))
    ok = condition(j, m, true, err);
  return ok && ebb_tap_plan_make(&m->plan, k, j->plan.steps, ebb_model_tap_sizes(&m->model, j->shape), err);
}

/* What is read off the clean latents themselves, always: the baseline every claim about the transformer needs. */
static bool plan_vae_features(ebb_job *j, ebb_error *err) {
  ebb_config k = *j->config;
  k.capture.steps = (ebb_int_list){1, {0}};
  k.capture.blocks.count = 0;
  k.capture.points = (ebb_name_list){1, {"latent"}};
  k.capture.pool = (ebb_name_list){3, {"mean", "frame_mean", "motion"}};
  ebb_tap_sizes sizes = {.channels = j->shape.channels,
                         .latent_tokens = j->shape.frames * j->shape.height * j->shape.width,
                         .latent_frames = j->shape.frames};
  return ebb_tap_plan_make(&j->vae_plan, &k, 1, sizes, err);
}

static bool open_vae(ebb_job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  ebb_dtype dtype;
  if (!ebb_model_dtype(&j->context, "model.vae_dtype", k->model.vae_dtype, &dtype, err))
    return false;
  char *folder = ebb_path_join(k->model.path, "vae");
  bool ok = ebb_vae_open(&j->vae, &j->context, folder, dtype, NULL, !j->draw, j->decode, err) &&
            (dtype == EBB_F32 || j->decode ||
             ebb_vae_open(&j->exact, &j->context, folder, EBB_F32, NULL, true, false, err));
  ebb_digest_abandon(&j->exact.digest); /* the same files as vae's */
  free(folder);
  if (!ok)
    return false;
  j->clip = ebb_clip_size_of(k, j->vae.chunk);
  return ebb_vae_latent_shape(&j->vae, j->clip.used, k->data.height, k->data.width, &j->shape, err);
}

bool ebb_job_open_models(ebb_job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  j->model_count = 0;
  bool ok = open_vae(j, err) && plan_vae_features(j, err) && open_model(j, k->model.transformer, err);
  for (int i = 0; ok && i < k->model.compare.count; i++)
    ok = open_model(j, k->model.compare.names[i], err);
  return ok;
}

void ebb_job_close_models(ebb_job *j) {
  for (int i = 0; i < j->model_count; i++) {
    ebb_condition_free(&j->models[i].text);
    ebb_condition_free(&j->models[i].negative);
    ebb_model_close(&j->models[i].model);
  }
  j->model_count = 0;
  ebb_vae_close(&j->exact);
  ebb_vae_close(&j->vae);
}
