#include "engine/job_parts.h"

#include "loaders/file.h"

#include <math.h>
#include <stdlib.h>

void ebb_job_describe_set(const ebb_job *j, const char *name, const char *suffix, const ebb_tap_plan *plan,
                          ebb_job_set *s) {
  for (int i = 0; i < plan->slot_count; i++)
    s->features[i] = plan->slots[i].feature;
  for (int i = 0; i < plan->step_count; i++)
    s->sigmas[i] = j->plan.sigma[plan->steps[i]];
  s->set = (ebb_feature_set){.step_count = plan->step_count,
                             .steps = (int *)plan->steps,
                             .sigmas = s->sigmas,
                             .block_count = plan->block_count,
                             .blocks = (int *)plan->blocks,
                             .feature_count = plan->slot_count,
                             .features = s->features};
  snprintf(s->set.model, sizeof s->set.model, "%.50s%s", name, suffix);
}

void ebb_job_noise_suffix(const ebb_job *j, int64_t i, char suffix[24]) {
  if (j->config->inversion.keep_draws)
    snprintf(suffix, 24, ".noise-%d", (int)i);
  else
    snprintf(suffix, 24, ".noise");
}

static bool declare_set(ebb_job *j, const char *name, const char *suffix, const ebb_tap_plan *plan, int *id,
                        ebb_error *err) {
  ebb_job_set s;
  ebb_job_describe_set(j, name, suffix, plan, &s);
  return ebb_store_declare(j->store, &s.set, id, err);
}

/* Beside the results of an inversion it is what `ebb probe RUN` goes by. */
bool ebb_job_write_config(const ebb_job *j, const char *folder, ebb_error *err) {
  char *path = ebb_path_join(folder, "config.yaml");
  ebb_file_writer w = {0};
  bool ok = ebb_file_create(&w, path, err);
  if (ok && !ebb_config_write(j->config, w.stream))
    ok = ebb_fail(err, "%s: cannot be written", path);
  ok = ok && ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  free(path);
  return ok;
}

bool ebb_job_open_store(ebb_job *j, ebb_error *err) {
  if (!ebb_store_create(&j->store, j->config->run.out, &j->data, err) ||
      !ebb_job_write_config(j, j->config->run.out, err) ||
      !declare_set(j, "vae", "", &j->vae_plan, &j->vae_set, err))
    return false;
  for (int i = 0; i < j->model_count; i++) {
    ebb_job_model *m = &j->models[i];
    char suffix[24];
    if (ebb_job_inverts(j) &&
        (!declare_set(j, m->name, "", &m->plan, &m->set, err) ||
         (ebb_job_guided(j) && !declare_set(j, m->name, ".negative", &m->plan, &m->negative_set, err))))
      return false;
    for (int64_t d = 0; d < ebb_job_noise_sets(j); d++) {
      ebb_job_noise_suffix(j, d, suffix);
      if (!declare_set(j, m->name, suffix, &m->plan, &m->noise_set[d], err))
        return false;
    }
  }
  return true;
}

json_t *ebb_job_reals(const double *values, int count) {
  json_t *list = json_array();
  for (int i = 0; i < count; i++)
    json_array_append_new(list, json_real(values[i]));
  return list;
}

/* Class, SHA-256 and size of every model; NULL: a weight file that cannot be read to its end. */
static json_t *describe_models(ebb_job *j, ebb_error *err) {
  bool ok = ebb_digest_finish(&j->vae.digest, j->vae.sha256, err);
  for (int i = 0; ok && i < j->model_count; i++)
    ok = ebb_digest_finish(&j->models[i].model.digest, j->models[i].model.sha256, err);
  if (!ok)
    return NULL;
  json_t *models = json_object();
  for (int i = 0; i < j->model_count; i++)
    json_object_set_new(models, j->models[i].name,
                        json_pack("{s:s, s:s, s:I}", "class", j->models[i].model.family->class_name, "sha256",
                                  j->models[i].model.sha256, "parameters",
                                  (json_int_t)j->models[i].model.parameters));
  json_object_set_new(models, "vae",
                      json_pack("{s:s, s:s, s:I}", "class", j->vae.class_name, "sha256", j->vae.sha256,
                                "parameters", (json_int_t)j->vae.parameters));
  return models;
}

json_t *ebb_job_provenance(ebb_job *j, ebb_error *err) {
  json_t *models = describe_models(j, err);
  if (!models)
    return NULL;
  const ebb_config *k = j->config;
  char *text = NULL;
  size_t bytes = 0;
  FILE *memory = open_memstream(&text, &bytes);
  if (memory) {
    ebb_config_write(k, memory);
    fclose(memory);
  }
  json_t *run = json_pack(
      "{s:s, s:s, s:o, s:s, s:s, s:s, s:f, s:o, s:o, s:s, s:i, s:s, s:s, s:o, s:i, s:i, s:s, s:s, s:I, s:I, "
      "s:O}",
      "version", j->options->version, "config", text ? text : "", "models", models, "schedule",
      ebb_schedule_name(j->schedule.kind), "solver", k->inversion.solver, "labels", k->inversion.labels,
      "guidance", k->inversion.guidance, "sigmas", ebb_job_reals(j->plan.sigma, j->plan.steps + 1),
      "timesteps", ebb_job_reals(j->plan.timestep, j->plan.steps), "device", ebb_context_device(&j->context),
      "threads", ebb_context_threads(), "dtype", k->model.dtype, "vae_dtype", k->model.vae_dtype,
      "vae_latent_error",
      isfinite(j->latent_error) && j->latent_measured ? json_real(j->latent_error) : json_null(),
      "frames_asked", j->clip.wanted, "frames_used", j->clip.used, "prompt_sha256", j->prompts.sha256,
      "negative_sha256", j->prompts.negative_sha256, "prompt_tokens", (json_int_t)k->prompt.max_tokens,
      "random_seed", (json_int_t)k->model.seed, "skipped", j->skipped);
  free(text);
  json_object_set_new(ebb_must(run), "prompts", ebb_prompts_describe(&j->prompts));
  return run;
}

bool ebb_job_finish_store(ebb_job *j, ebb_error *err) {
  json_t *about = ebb_job_provenance(j, err);
  if (!about)
    return false;
  bool ok = ebb_store_finish(&j->store, about, err);
  json_decref(about);
  return ok;
}
