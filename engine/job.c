#include "engine/job.h"

#include "engine/invert.h"
#include "engine/prompt.h"
#include "engine/vae.h"
#include "loaders/file.h"
#include "loaders/frames.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODELS 17 /* the transformer and up to 16 to compare it with */

/* One transformer of the run with everything it needs. */
typedef struct run_model {
  char name[64];
  ebb_model model;
  ebb_condition text, negative;
  ebb_tap_plan plan;
  int set, negative_set; /* in the store */
} run_model;

typedef struct job {
  const ebb_config *config;
  const ebb_job_options *options;
  ebb_job_result *result;
  ebb_context context;
  ebb_dataset data;
  json_t *skipped; /* videos that never made it into the list */
  ebb_schedule schedule;
  ebb_integration plan;
  int used_frames;
  ebb_vae vae;
  ebb_latent_shape shape;
  ebb_tap_plan vae_plan;
  int vae_set;
  run_model models[MODELS];
  int model_count;
  char prompt_sha256[65], negative_sha256[65];
  ebb_store_writer *store;
  int64_t done; /* videos */
} job;

static int64_t latent_count(const job *j) {
  return j->shape.channels * j->shape.frames * j->shape.height * j->shape.width;
}

/* ---- the data set ------------------------------------------------------------------------------------ */

static void note_skipped(void *user, const char *id, const char *reason) {
  job *j = user;
  json_array_append_new(j->skipped, json_pack("{s:s, s:s}", "id", id, "reason", reason));
  fprintf(j->options->log, "skipped %s: %s\n", id, reason);
}

static bool open_data(job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  j->skipped = json_array();
  if (!ebb_dataset_open(&j->data, k->data.format, k->data.path, k->data.unlabelled, note_skipped, j, err))
    return false;
  if (k->data.groups > 0)
    ebb_dataset_keep(&j->data, k->data.groups);
  return true;
}

/* ---- models ------------------------------------------------------------------------------------------ */

static bool condition(job *j, run_model *m, const char *embedding, ebb_condition *cond, char sha256[65],
                      ebb_error *err) {
  ebb_prompt prompt = {0};
  bool ok =
      ebb_prompt_read(&prompt, embedding, j->config->prompt.max_tokens, m->model.text_dim, err) &&
      (ebb_model_condition(&m->model, cond, j->shape, prompt.text, j->plan.labels, j->plan.moments, 1, err) ||
       ebb_fail_also(err, " (data.size %lldx%lld, data.frames %lld, the VAE's stride %d and %d)",
                     (long long)j->config->data.height, (long long)j->config->data.width,
                     (long long)j->config->data.frames, j->vae.space_stride, j->vae.time_stride));
  memcpy(sha256, prompt.sha256, 65);
  ebb_prompt_free(&prompt);
  return ok;
}

/* "random" is the main transformer's architecture with torch's initialisation; any other name is a sub-folder. */
static bool open_run_model(job *j, const char *name, ebb_error *err) {
  const ebb_config *k = j->config;
  run_model *m = &j->models[j->model_count++];
  *m = (run_model){.set = -1, .negative_set = -1};
  snprintf(m->name, sizeof m->name, "%s", name);
  bool random = strcmp(name, "random") == 0;
  char *folder = ebb_path_join(k->model.path, random ? k->model.transformer : name);
  bool ok = ebb_model_open(&m->model, &j->context, folder, random ? &k->model.seed : NULL, err);
  free(folder);
  if (ok && m->model.channels != j->shape.channels)
    ok = ebb_fail(err, "%s: the transformer '%s' takes latents of %lld channels, the VAE gives %lld",
                  k->model.path, name, (long long)m->model.channels, (long long)j->shape.channels);
  ok = ok && condition(j, m, k->prompt.embedding, &m->text, j->prompt_sha256, err);
  if (ok && k->inversion.guidance != 1)
    ok = condition(j, m, k->prompt.negative, &m->negative, j->negative_sha256, err);
  return ok && ebb_tap_plan_make(&m->plan, k, j->plan.steps, ebb_model_tap_sizes(&m->model, j->shape), err);
}

/* What is read off the clean latents themselves, always: the baseline every claim about the transformer needs. */
static bool plan_vae_features(job *j, ebb_error *err) {
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

static bool make_plan(job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  return ebb_schedule_open(&j->schedule, k->model.path, k->inversion.schedule, (int)k->inversion.steps,
                           k->inversion.shift, err) &&
         ebb_integration_named(&j->plan, &j->schedule, k->inversion.solver, k->inversion.labels, false, err);
}

static bool open_models(job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  char *folder = ebb_path_join(k->model.path, "vae");
  bool ok = ebb_vae_open(&j->vae, &j->context, folder, NULL, true, false, err);
  free(folder);
  if (!ok)
    return false;
  j->used_frames = ebb_frames_usable((int)k->data.frames, j->vae.chunk);
  ok = ebb_vae_latent_shape(&j->vae, j->used_frames, k->data.height, k->data.width, &j->shape, err) &&
       plan_vae_features(j, err);
  j->model_count = 0;
  ok = ok && open_run_model(j, k->model.transformer, err);
  for (int i = 0; ok && i < k->model.compare.count; i++)
    ok = open_run_model(j, k->model.compare.names[i], err);
  return ok;
}

static void close_models(job *j) {
  for (int i = 0; i < j->model_count; i++) {
    ebb_condition_free(&j->models[i].text);
    ebb_condition_free(&j->models[i].negative);
    ebb_model_close(&j->models[i].model);
  }
  j->model_count = 0;
  ebb_vae_close(&j->vae);
}

/* ---- the store --------------------------------------------------------------------------------------- */

static bool declare_set(job *j, const char *name, const char *suffix, const ebb_tap_plan *plan, int *id,
                        ebb_error *err) {
  ebb_feature features[EBB_POINTS * EBB_POOLS];
  double sigmas[EBB_LIST];
  for (int i = 0; i < plan->slot_count; i++)
    features[i] = plan->slots[i].feature;
  for (int i = 0; i < plan->step_count; i++)
    sigmas[i] = j->plan.sigma[plan->steps[i]];
  ebb_feature_set set = {.step_count = plan->step_count,
                         .steps = (int *)plan->steps,
                         .sigmas = sigmas,
                         .block_count = plan->block_count,
                         .blocks = (int *)plan->blocks,
                         .feature_count = plan->slot_count,
                         .features = features};
  snprintf(set.model, sizeof set.model, "%.50s%s", name, suffix);
  return ebb_store_declare(j->store, &set, id, err);
}

/* The resolved experiment, beside its results: what `ebb probe RUN` goes by. */
static bool write_config(const job *j, ebb_error *err) {
  char *path = ebb_path_join(j->config->run.out, "config.yaml");
  ebb_file_writer w = {0};
  bool ok = ebb_file_create(&w, path, err);
  if (ok && !ebb_config_write(j->config, w.stream))
    ok = ebb_fail(err, "%s: cannot be written", path);
  ok = ok && ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  free(path);
  return ok;
}

static bool open_store(job *j, ebb_error *err) {
  if (!ebb_store_create(&j->store, j->config->run.out, &j->data, err) || !write_config(j, err) ||
      !declare_set(j, "vae", "", &j->vae_plan, &j->vae_set, err))
    return false;
  for (int i = 0; i < j->model_count; i++) {
    run_model *m = &j->models[i];
    if (!declare_set(j, m->name, "", &m->plan, &m->set, err))
      return false;
    if (j->config->inversion.guidance != 1 &&
        !declare_set(j, m->name, ".negative", &m->plan, &m->negative_set, err))
      return false;
  }
  return true;
}

static json_t *reals(const double *values, int count) {
  json_t *list = json_array();
  for (int i = 0; i < count; i++)
    json_array_append_new(list, json_real(values[i]));
  return list;
}

static json_t *provenance(const job *j) {
  const ebb_config *k = j->config;
  char *text = NULL;
  size_t bytes = 0;
  FILE *memory = open_memstream(&text, &bytes);
  if (memory) {
    ebb_config_write(k, memory);
    fclose(memory);
  }
  json_t *models = json_object();
  for (int i = 0; i < j->model_count; i++)
    json_object_set_new(models, j->models[i].name,
                        json_pack("{s:s, s:s, s:I}", "class", j->models[i].model.family->class_name, "sha256",
                                  j->models[i].model.sha256, "parameters",
                                  (json_int_t)j->models[i].model.parameters));
  json_object_set_new(models, "vae",
                      json_pack("{s:s, s:s, s:I}", "class", j->vae.class_name, "sha256", j->vae.sha256,
                                "parameters", (json_int_t)j->vae.parameters));
  json_t *run = json_pack(
      "{s:s, s:s, s:o, s:s, s:s, s:s, s:f, s:o, s:o, s:s, s:i, s:s, s:i, s:i, s:s, s:s, s:I, s:I, s:O}",
      "version", j->options->version, "config", text ? text : "", "models", models, "schedule",
      ebb_schedule_name(j->schedule.kind), "solver", k->inversion.solver, "labels", k->inversion.labels,
      "guidance", k->inversion.guidance, "sigmas", reals(j->plan.sigma, j->plan.steps + 1), "timesteps",
      reals(j->plan.timestep, j->plan.steps), "device", ebb_context_device(&j->context), "threads",
      ebb_context_threads(), "dtype", k->model.dtype, "frames_asked", (int)k->data.frames, "frames_used",
      j->used_frames, "prompt_sha256", j->prompt_sha256, "negative_sha256", j->negative_sha256,
      "prompt_tokens", (json_int_t)k->prompt.max_tokens, "random_seed", (json_int_t)k->model.seed, "skipped",
      j->skipped);
  free(text);
  return run;
}

/* ---- one batch --------------------------------------------------------------------------------------- */

/* Reads and encodes one video; false with err filled: this video fails, the run goes on. */
static bool encode_video(job *j, int64_t number, float *latent, ebb_error *err) {
  const ebb_config *k = j->config;
  ebb_context *c = &j->context;
  int64_t H = k->data.height, W = k->data.width, F = j->used_frames;
  ebb_clip clip = {0};
  float *pixels = malloc((size_t)(3 * F * H * W) * sizeof *pixels);
  bool ok = pixels != NULL || ebb_fail(err, "no memory for a clip");
  ok = ok &&
       (c->counting || (ebb_video_read(&j->data.videos[number], &clip, err) &&
                        ebb_frames_prepare(&clip, (int)k->data.frames, (int)F, (int)H, (int)W, pixels, err)));
  if (ok && !c->counting) {
    char sha256[65];
    ebb_sha256(clip.rgb, (size_t)clip.frames * (size_t)clip.height * (size_t)clip.width * 3, sha256);
    ebb_store_input(j->store, number, sha256);
  }
  if (ok) {
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor video = EBB_ACTIVATION(c, "video", 1, 3, F, H, W);
    ebb_tensor z =
        EBB_ACTIVATION(c, "latent", 1, j->shape.channels, j->shape.frames, j->shape.height, j->shape.width);
    ebb_upload(c, video, pixels);
    ebb_vae_encode(&j->vae, z, video);
    ebb_download(c, latent, z);
    ebb_arena_release(&c->activations, mark);
  }
  ebb_clip_free(&clip);
  free(pixels);
  return ok;
}

static void fail_video(job *j, int64_t video, const char *reason) {
  ebb_store_fail(j->store, video, reason);
  fprintf(j->options->log, "failed %s: %s\n", j->data.videos[video].id, reason);
}

static bool video_is_finite(const ebb_tap *tap, int64_t b) {
  for (int s = 0; s < tap->plan->slot_count; s++) {
    int64_t n = ebb_tap_slot_floats(tap->plan, s);
    for (int64_t i = 0; i < n; i++)
      if (!isfinite(tap->data[s][b * n + i]))
        return false;
  }
  return true;
}

/* Leaves out videos with values that are not finite and writes the shard of the rest. */
static bool write_tap(job *j, const ebb_tap *tap, int set, int64_t count, const int64_t *videos,
                      const ebb_error *failures, ebb_error *err) {
  int64_t kept = 0, *numbers = malloc((size_t)count * sizeof *numbers);
  if (!numbers)
    return ebb_fail(err, "no memory");
  for (int64_t b = 0; b < count; b++) {
    if ((failures && failures[b].text[0]) || !video_is_finite(tap, b)) {
      fail_video(j, videos[b],
                 failures && failures[b].text[0] ? failures[b].text : "values that are not finite");
      continue;
    }
    for (int s = 0; s < tap->plan->slot_count && kept != b; s++) {
      int64_t n = ebb_tap_slot_floats(tap->plan, s);
      memcpy(tap->data[s] + kept * n, tap->data[s] + b * n, (size_t)n * sizeof(float));
    }
    numbers[kept++] = videos[b];
  }
  bool ok = kept == 0 || ebb_store_write(j->store, set, kept, numbers, (const float *const *)tap->data, err);
  free(numbers);
  return ok;
}

typedef struct batch_progress {
  const job *j;
  int model;
  int64_t videos; /* in the batch */
} batch_progress;

static void step_done(void *user, int step, int steps) {
  const batch_progress *p = user;
  double share = ((double)p->model + (double)step / steps) / p->j->model_count;
  if (p->j->options->progress)
    p->j->options->progress(p->j->options->progress_user, (double)p->j->done + share * (double)p->videos,
                            p->j->data.count);
}

/* Takes the latents [B,C,T,H,W] through one transformer and writes what its taps saw. */
static bool run_through(job *j, int number, int64_t count, const int64_t *videos, const float *latents,
                        ebb_error *err) {
  ebb_context *c = &j->context;
  run_model *m = &j->models[number];
  bool guided = j->config->inversion.guidance != 1;
  ebb_tap tap = {.plan = &m->plan}, negative = {.plan = &m->plan};
  ebb_error *failures = calloc((size_t)count, sizeof *failures);
  bool ok = (failures || ebb_fail(err, "no memory")) && ebb_tap_open(&tap, &m->plan, c, count, err) &&
            (!guided || ebb_tap_open(&negative, &m->plan, c, count, err));
  if (ok) {
    batch_progress progress = {j, number, count};
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor x = EBB_ACTIVATION(c, "latents", count, j->shape.channels, j->shape.frames, j->shape.height,
                                  j->shape.width);
    ebb_upload(c, x, latents);
    ebb_run run = {.model = &m->model,
                   .plan = &j->plan,
                   .text = &m->text,
                   .negative = &m->negative,
                   .guidance = j->config->inversion.guidance,
                   .tap = &tap,
                   .negative_tap = guided ? &negative : NULL,
                   .failures = failures,
                   .progress = c->counting ? NULL : step_done,
                   .progress_user = &progress};
    ebb_invert(&run, x, NULL);
    ebb_arena_release(&c->activations, mark);
    ok = ebb_context_ok(c, err);
  }
  if (ok && !c->counting)
    ok = write_tap(j, &tap, m->set, count, videos, failures, err) &&
         (!guided || write_tap(j, &negative, m->negative_set, count, videos, failures, err));
  free(failures);
  ebb_tap_close(&negative);
  ebb_tap_close(&tap);
  return ok;
}

static bool run_vae_features(job *j, int64_t count, const int64_t *videos, const float *latents,
                             ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_tap tap = {.plan = &j->vae_plan};
  if (!ebb_tap_open(&tap, &j->vae_plan, c, count, err))
    return false;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor x = EBB_ACTIVATION(c, "latents", count, j->shape.channels, j->shape.frames, j->shape.height,
                                j->shape.width);
  ebb_upload(c, x, latents);
  ebb_tap_step(&tap, 0);
  ebb_tap_latent(&tap, EBB_LATENT, x);
  ebb_arena_release(&c->activations, mark);
  bool ok =
      ebb_context_ok(c, err) && (c->counting || write_tap(j, &tap, j->vae_set, count, videos, NULL, err));
  ebb_tap_close(&tap);
  return ok;
}

/* Videos [first, first+count) of the data set. One that fails leaves the others their places. */
static bool run_batch(job *j, int64_t first, int64_t count, ebb_error *err) {
  int64_t n = latent_count(j), read = 0;
  float *latents = malloc((size_t)(count * n) * sizeof *latents);
  int64_t *videos = malloc((size_t)count * sizeof *videos);
  bool ok =
      (latents && videos) || ebb_fail(err, "no memory for the latents of %lld videos", (long long)count);
  for (int64_t i = first; ok && i < first + count; i++) {
    ebb_error failure = {0};
    if (encode_video(j, i, latents + read * n, &failure)) {
      videos[read++] = i;
    } else {
      fail_video(j, i, failure.text);
    }
    ok = ebb_context_ok(&j->context, err);
  }
  if (ok && read > 0) {
    ok = run_vae_features(j, read, videos, latents, err);
    for (int p = 0; ok && p < j->model_count; p++)
      ok = run_through(j, p, read, videos, latents, err);
  }
  free(videos);
  free(latents);
  return ok;
}

/* ---- the run ----------------------------------------------------------------------------------------- */

static double mib(double bytes) {
  return bytes / (1024.0 * 1024.0);
}

/* What happens to clips of each length that the data set has, shortest and longest first. */
static void print_frame_notes(const job *j) {
  int least = INT_MAX, most = 0;
  for (int64_t i = 0; i < j->data.count; i++) {
    int frames = j->data.videos[i].frames;
    least = frames < least ? frames : least;
    most = frames > most ? frames : most;
  }
  for (int frames = least; frames <= most; frames += most > least ? most - least : 1) {
    char note[256];
    ebb_frames_note(frames, (int)j->config->data.frames, j->used_frames, note, sizeof note);
    fprintf(j->options->log, "frames       %s%s\n",
            least == most     ? ""
            : frames == least ? "shortest: "
                              : "longest: ",
            note);
  }
}

static void print_plan(const job *j) {
  FILE *log = j->options->log;
  int64_t floats = ebb_tap_plan_floats(&j->vae_plan);
  for (int i = 0; i < j->model_count; i++)
    floats += ebb_tap_plan_floats(&j->models[i].plan) * (j->config->inversion.guidance != 1 ? 2 : 1);
  fprintf(log, "videos       %lld from %s\n", (long long)j->data.count, j->data.root);
  print_frame_notes(j);
  fprintf(log, "latent       %lld x %lld x %lld x %lld (channels, frames, height, width)\n",
          (long long)j->shape.channels, (long long)j->shape.frames, (long long)j->shape.height,
          (long long)j->shape.width);
  for (int i = 0; i < j->model_count; i++)
    fprintf(log, "transformer  %s: %.2f M parameters, %lld blocks, width %lld, %lld tokens\n",
            j->models[i].name, (double)j->models[i].model.parameters / 1e6,
            (long long)j->models[i].model.blocks, (long long)j->models[i].model.width,
            (long long)j->models[i].plan.sizes.tokens);
  fprintf(log, "integration  %s, %d steps, labels %s, schedule %s with shift %g\n",
          j->config->inversion.solver, j->plan.steps, j->config->inversion.labels,
          ebb_schedule_name(j->schedule.kind), j->schedule.shift);
  fprintf(log, "memory       weights %.1f MiB, activations %.1f MiB for batches of %lld, on %s\n",
          mib((double)j->context.weights.peak), mib((double)j->context.activations.peak),
          (long long)j->config->run.batch, ebb_context_device(&j->context));
  fprintf(log, "features     %.1f KiB a video, %.1f MiB on disk in %s\n", (double)floats * 4 / 1024,
          mib((double)floats * 4 * (double)j->data.count), j->config->run.out);
}

/* Counting, which is all of a dry run: opens everything and takes one full batch through it. For real: all batches. */
static bool work(void *user, ebb_error *err) {
  job *j = user;
  const ebb_config *k = j->config;
  bool ok = open_models(j, err);
  if (ok && j->context.counting) {
    ok = run_batch(j, 0, k->run.batch < j->data.count ? k->run.batch : j->data.count, err);
    if (ok)
      print_plan(j);
  } else if (ok) {
    ok = open_store(j, err);
    for (j->done = 0; ok && j->done < j->data.count;) {
      int64_t left = j->data.count - j->done, count = left < k->run.batch ? left : k->run.batch;
      ok = run_batch(j, j->done, count, err);
      j->done += count;
    }
    if (ok) {
      j->result->videos = j->data.count;
      j->result->failed = ebb_store_failed(j->store) + (int64_t)json_array_size(j->skipped);
      json_t *about = provenance(j);
      ok = ebb_store_finish(&j->store, about, err);
      json_decref(about);
    }
  }
  close_models(j);
  return ok;
}

bool ebb_job_check(const ebb_config *k, ebb_error *err) {
  const struct {
    const char *key, *value, *what;
  } needed[] = {{"model.path", k->model.path, "a diffusers model folder"},
                {"data.path", k->data.path, "the data set's folder"},
                {"run.out", k->run.out, "the folder to write (or --out)"}};
  for (int i = 0; i < 3; i++)
    if (!needed[i].value[0])
      return ebb_fail(err, "%s: %s is not set: expected %s", k->path, needed[i].key, needed[i].what);
  for (int i = 0; i < k->model.compare.count; i++) {
    const char *name = k->model.compare.names[i];
    bool taken = strcmp(name, "vae") == 0 || strcmp(name, k->model.transformer) == 0;
    for (int n = 0; n < i; n++)
      taken = taken || strcmp(name, k->model.compare.names[n]) == 0;
    if (taken)
      return ebb_fail(
          err, "%s: model.compare: '%s' is taken or listed twice: expected other transformers than '%s'",
          k->path, name, k->model.transformer);
  }
  if (strcmp(k->model.dtype, "float32") != 0 || strcmp(k->model.vae_dtype, "float32") != 0)
    return ebb_fail(err, "%s: model.dtype and model.vae_dtype: the CPU backend computes in float32", k->path);
  return true;
}

bool ebb_job_invert(const ebb_config *config, const ebb_job_options *options, ebb_job_result *result,
                    ebb_error *err) {
  job j = {.config = config, .options = options, .result = result};
  *result = (ebb_job_result){0};
  if (!ebb_job_check(config, err))
    return false;
  bool ok = ebb_context_open(&j.context, config->run.device, err) && open_data(&j, err) && make_plan(&j, err);
  if (ok && options->dry_run) {
    ebb_context_count(&j.context);
    ok = work(&j, err);
  } else if (ok) {
    ok = ebb_context_sized(&j.context, work, &j, err);
  }
  ebb_store_abandon(&j.store);
  ebb_integration_free(&j.plan);
  ebb_schedule_free(&j.schedule);
  ebb_dataset_close(&j.data);
  json_decref(j.skipped);
  ebb_context_close(&j.context);
  return ok;
}
