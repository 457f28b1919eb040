/* Where the probes, which know no diffusion, and the trials, which know no probe, meet. */
#include "cli/intervention.h"
#include "cli/progress.h"
#include "engine/trials.h"
#include "kernels/normal.h"
#include "loaders/file.h"
#include "probe/crossfit.h"
#include "probe/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FEATURE "block_out.mean"
#define INVERSION_OFF 0.05 /* relative L2 of features that are not those of the run */
#define TRIALS_AT_ONCE 8   /* batches handed over in one call */

typedef struct scene {
  int64_t video;
  json_t *doc;
  int64_t place;   /* among the loaded ones */
  int64_t pending; /* interventions that are not done */
  bool failed;
} scene;

typedef struct job {
  const ebb_intervene_options *o;
  ebb_config config;
  ebb_store store;
  ebb_crossfit probe;
  ebb_trials *trials;
  ebb_trials_about about;
  ebb_int_list steps;
  int step; /* index of --step among them */
  ebb_change *changes;
  int64_t change_count;
  scene *scenes;
  int64_t scene_count;
  int64_t *loaded; /* videos in their places */
  int64_t loaded_count, *failed_donors, failed_count;
  struct {
    int64_t scene, change;
  } * running; /* the trials at hand */
  ebb_progress_bar progress;
  int64_t done, failed;
} job;

/* ---- settings ---------------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static bool has_step(const ebb_feature_set *s, int64_t step) {
  for (int i = 0; i < s->step_count; i++)
    if (s->steps[i] == step)
      return true;
  return false;
}

/* Steps that the set captured, in ascending order; --steps and --step must be among them. */
static bool choose_steps(job *j, ebb_error *err) {
  const int set = ebb_store_find(&j->store, j->config.model.transformer);
  if (set < 0)
    return ebb_fail(err, "%s: this run has no features of '%s'", j->o->run, j->config.model.transformer);
  const ebb_feature_set *s = &j->store.sets[set];
  int64_t count = 0, step = j->o->step;
  if (strcmp(j->o->steps, "all") != 0) {
    if (!ebb_numbers_read("steps", j->o->steps, j->config.inversion.steps, EBB_LIST, j->steps.values, &count,
                          err))
      return false;
    j->steps.count = (int)count;
    qsort(j->steps.values, (size_t)count, sizeof *j->steps.values, by_number);
    for (int i = 0; i < j->steps.count; i++)
      if (!has_step(s, j->steps.values[i]))
        return ebb_fail(err, "--steps: step %lld was not captured in this run (%s)",
                        (long long)j->steps.values[i], j->o->run);
  } else {
    for (int i = 0; i < s->step_count && i < EBB_LIST; i++)
      j->steps.values[j->steps.count++] = s->steps[i];
  }
  if (step < 0) { /* the middle of the trajectory */
    for (int i = 0; i < j->steps.count; i++)
      if (step < 0 || llabs(2 * j->steps.values[i] - j->config.inversion.steps) <
                          llabs(2 * step - j->config.inversion.steps))
        step = j->steps.values[i];
  }
  for (j->step = 0; j->step < j->steps.count; j->step++)
    if (j->steps.values[j->step] == step)
      return true;
  return ebb_fail(err,
                  "--step: step %lld is not among those that are read (--steps, or all that %s captured)",
                  (long long)step, j->o->run);
}

static bool read_run(job *j, ebb_error *err) {
  const ebb_intervene_options *o = j->o;
  char *path = ebb_path_join(o->run, "config.yaml");
  ebb_config_defaults(&j->config);
  bool ok = ebb_config_read(&j->config, path, err);
  free(path);
  if (ok && o->device) {
    char *assignment = ebb_format("run.device=%s", o->device);
    ok = ebb_config_set(&j->config, assignment, err);
    free(assignment);
  }
  if (o->preset)
    snprintf(j->config.probe.preset, sizeof j->config.probe.preset, "%s", o->preset);
  return ok && ebb_store_open(&j->store, o->run, err) && choose_steps(j, err);
}

static bool fit_probes(job *j, ebb_error *err) {
  ebb_context c = {0};
  bool ok = ebb_context_open(&c, j->config.run.device, err) &&
            ebb_crossfit_make(&j->probe, &j->store, &j->config, j->config.model.transformer, FEATURE,
                              &j->steps, &c, err);
  ebb_context_close(&c);
  if (ok && j->o->read_block >= 0) {
    int b = 0;
    while (b < j->probe.block_count && j->probe.block[b] != j->o->read_block)
      b++;
    ok = b < j->probe.block_count ||
         ebb_fail(err, "--read-block: block %lld was not captured in this run", (long long)j->o->read_block);
  }
  return ok;
}

/* What makes results of two runs of the command comparable; the lists of blocks, alphas and scenes do not matter. */
static json_t *settings_of(const job *j) {
  char *path = ebb_path_join(j->o->run, "index.json"), hash[65] = "";
  ebb_file_sha256(path, hash, NULL);
  free(path);
  json_t *steps = json_array();
  for (int i = 0; i < j->steps.count; i++)
    json_array_append_new(steps, json_integer(j->steps.values[i]));
  return ebb_must(json_pack(
      "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:b, s:s, s:s}", "index_sha256", hash,
      "transformer_sha256", j->about.transformer, "vae_sha256", j->about.vae, "prompt_sha256",
      j->about.prompt, "negative_sha256", j->about.negative, "probe", j->config.probe.preset, "probe_sha256",
      j->probe.sha256, "feature", FEATURE, "steps", steps, "step", (json_int_t)j->steps.values[j->step],
      "read_block", (json_int_t)j->o->read_block, "seed", (json_int_t)j->o->seed, "decode", j->o->decode,
      "during", j->o->during, "arithmetic", strncmp(j->about.device, "cuda", 4) == 0 ? "cuda" : "cpu"));
}

/* Weights other than those of the run would be another model's intervention. */
static bool check_weights(const job *j, ebb_error *err) {
  const json_t *models = json_object_get(json_object_get(j->store.index, "provenance"), "models");
  const struct {
    const char *name, *is;
  } all[] = {{j->config.model.transformer, j->about.transformer}, {"vae", j->about.vae}};
  for (int i = 0; i < 2; i++) {
    const char *was = json_string_value(json_object_get(json_object_get(models, all[i].name), "sha256"));
    if (!was || strcmp(was, all[i].is) != 0)
      return ebb_fail(
          err,
          "%s: the run was made with other weights of '%s' (SHA-256 %.16s..., in %s now %.16s...): "
          "invert again, or bring the weights back",
          j->o->run, all[i].name, was ? was : "unknown", j->config.model.path, all[i].is);
  }
  return true;
}

static bool open_trials(job *j, ebb_error *err) {
  const ebb_trials_options how = {.feature = FEATURE,
                                  .steps = j->steps,
                                  .decode = j->o->decode,
                                  .inversion = strcmp(j->o->during, "inversion") == 0,
                                  .batch = j->o->batch > 0 ? j->o->batch : j->config.run.batch,
                                  .log = stderr};
  if (!ebb_trials_open(&j->trials, &j->config, &how, err) ||
      !ebb_trials_describe(j->trials, &j->about, err) || !check_weights(j, err))
    return false;
  const ebb_dataset *data = ebb_trials_data(j->trials);
  for (int64_t v = 0; v < j->store.video_count; v++)
    if (v >= data->count || strcmp(data->videos[v].id, j->store.videos[v].id) != 0)
      return ebb_fail(err, "%s: video %lld of the run is %s, in %s it is now %s: the data set has changed",
                      j->o->run, (long long)v, j->store.videos[v].id, j->config.data.path,
                      v < data->count ? data->videos[v].id : "not there");
  const ebb_tap_plan *plan = ebb_trials_plan(j->trials);
  const ebb_edit_sizes sizes = {plan->sizes.blocks, plan->sizes.width, plan->sizes.heads};
  json_t *settings = settings_of(j);
  bool ok = ebb_changes_make(&j->o->words, sizes, &j->changes, &j->change_count, err) &&
            ebb_intervention_settings(j->o->out, settings, err);
  json_decref(settings);
  return ok;
}

/* ---- scenes ------------------------------------------------------------------------------------------ */

static bool is_done(const job *j, const scene *s, int64_t change) {
  return json_object_get(json_object_get(s->doc, "interventions"), j->changes[change].key) != NULL;
}

static json_t *new_doc(const job *j, int64_t video) {
  const ebb_store_video *v = &j->store.videos[video];
  const int block = j->o->read_block >= 0 ? -1 : ebb_crossfit_best_block(&j->probe, video);
  return ebb_must(json_pack("{s:s, s:s, s:s, s:b, s:s, s:s, s:s, s:I, s:b, s:{}}", "scene", v->id, "group",
                            v->group, "category", v->category, "possible", v->label == EBB_POSSIBLE,
                            "transformer_sha256", j->about.transformer, "vae_sha256", j->about.vae,
                            "probe_sha256", j->probe.sha256, "read_block",
                            (json_int_t)(block < 0 ? j->o->read_block : j->probe.block[block]),
                            "probe_trained_on_it", j->probe.trained[video], "interventions"));
}

static bool choose_scenes(job *j, ebb_error *err) {
  const ebb_intervene_options *o = j->o;
  int64_t seen = 0;
  j->scenes = ebb_must(calloc((size_t)j->store.video_count + 1, sizeof *j->scenes));
  for (int64_t v = 0; v < j->store.video_count; v++) {
    const bool wanted = j->probe.fit[v] >= 0 && (o->impossible || j->store.videos[v].label == EBB_POSSIBLE);
    if (!wanted || seen++ % o->shards != o->shard || (o->scenes > 0 && j->scene_count == o->scenes))
      continue;
    scene *s = &j->scenes[j->scene_count++];
    *s = (scene){.video = v, .doc = ebb_scene_read(o->out, v, err)};
    if (!s->doc && err->text[0])
      return false;
    if (s->doc && strcmp(json_string_value(json_object_get(s->doc, "scene")), j->store.videos[v].id) != 0)
      return ebb_fail(err, "%s: scene %05lld is another than %s", o->out, (long long)v,
                      j->store.videos[v].id);
    if (!s->doc)
      s->doc = new_doc(j, v);
    for (int64_t i = 0; i < j->change_count; i++)
      s->pending += !is_done(j, s, i);
    j->progress.total += s->pending;
  }
  return j->scene_count > 0 || ebb_fail(err, "%s: no scenes%s in this run that a probe can read", o->run,
                                        o->impossible ? "" : " with label possible");
}

/* The video whose head stands in for that of `video`: of another group and the same category, drawn for (seed, scene,
 * draw) among all of the run. -1: there is none. */
static int64_t donor_of(const job *j, int64_t video, int draw) {
  const ebb_store_video *all = j->store.videos;
  const uint64_t key = ebb_edit_key((uint64_t)j->o->seed, all[video].id, draw);
  int64_t count = 0;
  for (int pass = 0; pass < 2; pass++) {
    int64_t left = pass ? (int64_t)ebb_random_below(key, EBB_STREAM_DONOR, 0, (uint32_t)count) : 0;
    for (int64_t v = 0; v < j->store.video_count; v++) {
      if (all[v].failed || strcmp(all[v].group, all[video].group) == 0 ||
          strcmp(all[v].category, all[video].category) != 0)
        continue;
      if (pass && left-- == 0)
        return v;
      count += !pass;
    }
    if (count == 0)
      break;
  }
  return -1;
}

static int64_t place_of(const job *j, int64_t video) {
  for (int64_t i = 0; i < j->loaded_count; i++)
    if (j->loaded[i] == video)
      return i;
  return -1;
}

static int64_t add_loaded(job *j, int64_t video) {
  const int64_t place = place_of(j, video);
  if (place >= 0)
    return place;
  j->loaded = ebb_must(realloc(j->loaded, (size_t)(j->loaded_count + 1) * sizeof *j->loaded));
  j->loaded[j->loaded_count] = video;
  return j->loaded_count++;
}

/* ---- what a probe says ------------------------------------------------------------------------------- */

/* Both surprises of features [steps, blocks, width], with what they are means of. */
static json_t *surprise_of(const job *j, const scene *s, const float *x) {
  const ebb_crossfit *f = &j->probe;
  const int64_t read = json_integer_value(json_object_get(s->doc, "read_block"));
  json_t *by_block = json_array(), *by_step = json_array();
  double blocks = 0, steps = 0;
  for (int i = 0; i < f->step_count; i++)
    for (int b = 0; b < f->block_count; b++) {
      if (i != j->step && f->block[b] != read)
        continue;
      const double psi =
          ebb_crossfit_surprise(f, s->video, i, b, x + ((int64_t)i * f->block_count + b) * f->width);
      if (i == j->step) {
        blocks += psi / f->block_count;
        json_array_append_new(by_block, json_real(psi));
      }
      if (f->block[b] == read) {
        steps += psi / f->step_count;
        json_array_append_new(by_step, json_real(psi));
      }
    }
  return ebb_must(json_pack("{s:f, s:f, s:o, s:o}", "surprise_over_blocks", blocks, "surprise_over_steps",
                            steps, "by_block", by_block, "by_step", by_step));
}

/* How far the features of a scene's inversion are from those that the run has stored. */
static bool inversion_difference(const job *j, int64_t video, const float *x, double *difference,
                                 ebb_error *err) {
  const ebb_crossfit *f = &j->probe;
  const ebb_feature_set *set = &j->store.sets[f->set];
  float *stored = ebb_must(malloc((size_t)f->width * sizeof *stored));
  double square = 0, norm = 0;
  bool ok = true;
  for (int i = 0; ok && i < f->step_count; i++)
    for (int b = 0; ok && b < f->block_count; b++) {
      int step = 0;
      while (set->steps[step] != f->step[i])
        step++;
      ok = ebb_store_gather(&j->store, f->set, f->feature, step, b, EBB_ALL_HEADS, 1, &video, stored, err);
      for (int64_t d = 0; d < f->width; d++) {
        const double is = x[((int64_t)i * f->block_count + b) * f->width + d];
        square += (is - stored[d]) * (is - stored[d]);
        norm += (double)stored[d] * stored[d];
      }
    }
  free(stored);
  *difference = sqrt(square / (norm > 0 ? norm : 1));
  return ok;
}

static void say_failed(job *j, int64_t video, const char *what, const char *why) {
  fprintf(stderr, "failed %s, %s: %s\n", j->store.videos[video].id, what, why);
  j->failed++;
}

/* An ebb_trial_done for scenes that are loaded. */
static bool scene_loaded(void *user, int64_t place, const ebb_trial_result *r, bool last, ebb_error *err) {
  job *j = user;
  const int64_t video = j->loaded[place];
  double difference = NAN;
  (void)last;
  if (r->failure) {
    say_failed(j, video, "inversion", r->failure);
    j->failed_donors = ebb_must(realloc(j->failed_donors, (size_t)(j->failed_count + 1) * sizeof video));
    j->failed_donors[j->failed_count++] = video;
  } else {
    const char *was = json_string_value(
        json_object_get(json_array_get(json_object_get(j->store.index, "videos"), (size_t)video), "sha256"));
    if (was && strcmp(was, r->sha256) != 0)
      return ebb_fail(err, "%s: the frames of %s are not those of the run: the data set has changed",
                      j->o->run, j->store.videos[video].id);
    if (!inversion_difference(j, video, r->features, &difference, err))
      return false;
    if (!(difference <= INVERSION_OFF))
      return ebb_fail(
          err,
          "%s: inverted again, %s gives features %.2g off those of the run (relative L2, expected at "
          "most %g): another prompt, other settings or another program made them",
          j->o->run, j->store.videos[video].id, difference, INVERSION_OFF);
  }
  for (int64_t i = 0; i < j->scene_count; i++) {
    scene *s = &j->scenes[i];
    if (s->video != video)
      continue;
    s->place = place;
    s->failed = r->failure != NULL;
    if (r->failure)
      continue;
    json_object_set_new(s->doc, "inversion_difference", json_real(difference));
    json_object_set_new(s->doc, "original", surprise_of(j, s, r->features));
  }
  return true;
}

/* An ebb_trial_done for trials. */
static bool trial_done(void *user, int64_t number, const ebb_trial_result *r, bool last, ebb_error *err) {
  job *j = user;
  scene *s = &j->scenes[j->running[number].scene];
  const ebb_change *k = &j->changes[j->running[number].change];
  json_t *one = r->failure ? json_pack("{s:s}", "failed", r->failure) : surprise_of(j, s, r->features);
  json_object_set_new(one, "kind", json_string(ebb_change_name(k->kind)));
  json_object_set_new(one, "block", json_integer(k->block));
  json_object_set_new(one, "head", json_integer(k->head));
  json_object_set_new(one, "alpha", json_real(k->alpha));
  json_object_set_new(one, "draw", json_integer(k->draw));
  if (r->failure)
    say_failed(j, s->video, k->key, r->failure);
  else if (isfinite(r->psnr)) /* something was generated */
    json_object_set_new(one, "psnr", json_real(r->psnr));
  json_object_set_new(json_object_get(s->doc, "interventions"), k->key, one);
  s->pending--;
  j->done++;
  ebb_progress_show(&j->progress, (double)j->done);
  if (!last)
    return true;
  bool ok = true; /* every scene of the batch, which lie side by side */
  for (int64_t i = number, before = -1; ok && i >= 0 && i > number - j->config.run.batch; i--) {
    const int64_t at = j->running[i].scene;
    if (at != before)
      ok = ebb_scene_write(j->o->out, j->scenes[at].video, j->scenes[at].doc, err);
    before = at;
  }
  return ok;
}

/* ---- trials ------------------------------------------------------------------------------------------ */

/* A direction [D] of unit mean square or any other length: drawn for (scene, block, draw), the probe's weights
 * towards impossible, or the former without the latter. */
static bool make_direction(const job *j, const scene *s, const ebb_change *k, float *u, ebb_error *err) {
  const ebb_crossfit *f = &j->probe;
  const uint64_t key = ebb_edit_key((uint64_t)j->o->seed, j->store.videos[s->video].id, k->draw);
  for (int64_t i = 0; k->kind != EBB_CHANGE_PROBE && i < f->width; i++)
    u[i] = ebb_normal(key, EBB_STREAM_DIRECTION | (uint64_t)k->block, (uint64_t)i);
  if (k->kind == EBB_CHANGE_RANDOM)
    return true;
  int b = 0;
  while (b < f->block_count && f->block[b] != k->block)
    b++;
  if (b == f->block_count)
    return ebb_fail(err, "--directions: block %d has no probe, as the run did not capture it: leave out %s",
                    k->block, ebb_change_name(k->kind));
  const double *w = ebb_crossfit_weights(f, s->video, j->step, b);
  double along = 0, square = 0;
  for (int64_t i = 0; i < f->width; i++) {
    along += w[i] * (double)u[i];
    square += w[i] * w[i];
  }
  const bool probe = k->kind == EBB_CHANGE_PROBE;
  for (int64_t i = 0; i < f->width; i++)
    u[i] = (float)(probe ? -w[i] : (double)u[i] - w[i] * along / (square > 0 ? square : 1));
  return square > 0 || !probe ||
         ebb_fail(err,
                  "the probe of block %d at step %d has no weights but its intercept: there is no direction",
                  k->block, f->step[j->step]);
}

/* The trial of one change; direction and head are its own memory. *skip: what it goes by has failed. */
static bool make_trial(const job *j, const scene *s, const ebb_change *k, ebb_trial *trial, float *direction,
                       ebb_edit_head *head, bool *skip, ebb_error *err) {
  *trial = (ebb_trial){.scene = s->place, .change = {.block = -1}, .psnr = NAN};
  *skip = false;
  if (k->kind >= EBB_CHANGE_ZERO) {
    *head = (ebb_edit_head){.block = k->block,
                            .head = k->head,
                            .source = k->kind == EBB_CHANGE_ZERO ? EBB_HEAD_ZERO : EBB_HEAD_MEAN};
    if (k->kind == EBB_CHANGE_RESAMPLE) {
      const int64_t donor = donor_of(j, s->video, k->draw);
      head->source = place_of(j, donor);
      for (int64_t i = 0; i < j->failed_count; i++)
        *skip = *skip || j->failed_donors[i] == donor;
    }
    trial->change.head_count = 1;
    trial->change.heads = head;
  } else if (k->kind == EBB_CHANGE_DAMAGE) {
    char noise[80];
    ebb_change_key(k, EBB_CHANGE_NOISE, noise);
    const json_t *of = json_object_get(json_object_get(s->doc, "interventions"), noise),
                 *psnr = json_object_get(of, "psnr");
    trial->psnr = json_is_number(psnr) ? json_number_value(psnr) : NAN;
    trial->change.key = ebb_edit_key((uint64_t)j->o->seed, j->store.videos[s->video].id, k->draw);
    *skip = isnan(trial->psnr);
  } else if (k->kind != EBB_CHANGE_NOTHING) {
    trial->change.block = k->block;
    trial->change.key = ebb_edit_key((uint64_t)j->o->seed, j->store.videos[s->video].id, k->draw);
    trial->change.noise = k->kind == EBB_CHANGE_NOISE ? k->alpha : 0;
    trial->change.along = k->kind == EBB_CHANGE_NOISE ? 0 : k->alpha;
    trial->change.direction = direction;
    if (k->kind != EBB_CHANGE_NOISE)
      return make_direction(j, s, k, direction, err);
  }
  return true;
}

/* Up to `most` pending changes of scenes [*at, end), from change *next of scene *at on: damage, or all others. */
static bool run_some(job *j, bool damage, int64_t *at, int64_t *next, int64_t end, int64_t most,
                     ebb_error *err) {
  const int64_t D = j->probe.width;
  ebb_trial *trials = malloc((size_t)most * sizeof *trials);
  float *directions = malloc((size_t)(most * D) * sizeof *directions);
  ebb_edit_head *heads = malloc((size_t)most * sizeof *heads);
  int64_t count = 0;
  bool ok = (trials && directions && heads) || ebb_fail(err, "no memory for %lld trials", (long long)most);
  while (ok && count < most && *at < end) {
    const scene *s = &j->scenes[*at];
    if (*next == j->change_count || s->failed) {
      *next = 0;
      ++*at;
      continue;
    }
    const int64_t change = (*next)++;
    bool skip;
    if (is_done(j, s, change) || (j->changes[change].kind == EBB_CHANGE_DAMAGE) != damage)
      continue;
    ok = make_trial(j, s, &j->changes[change], &trials[count], directions + count * D, &heads[count], &skip,
                    err);
    if (ok && skip)
      say_failed(j, s->video, j->changes[change].key,
                 j->changes[change].kind == EBB_CHANGE_DAMAGE
                     ? "the noise whose quality it is to have has failed"
                     : "the scene that its head comes from has failed");
    j->running[count].scene = *at;
    j->running[count].change = change;
    count += !skip;
  }
  ok = ok && (count == 0 || ebb_trials_run(j->trials, count, trials, trial_done, j, err));
  free(trials);
  free(directions);
  free(heads);
  return ok;
}

/* Scenes that are loaded together, with those that heads come from, then all their pending changes. */
static bool run_scenes(job *j, int64_t first, int64_t end, int64_t batch, ebb_error *err) {
  j->loaded_count = 0;
  for (int64_t i = first; i < end; i++)
    if (j->scenes[i].pending > 0)
      add_loaded(j, j->scenes[i].video);
  for (int64_t i = first; i < end; i++)
    for (int64_t k = 0; k < j->change_count; k++) {
      if (j->changes[k].kind != EBB_CHANGE_RESAMPLE || is_done(j, &j->scenes[i], k))
        continue;
      const int64_t donor = donor_of(j, j->scenes[i].video, j->changes[k].draw);
      if (donor < 0)
        return ebb_fail(err, "--mask resample: %s has no scene of another group in its category",
                        j->store.videos[j->scenes[i].video].id);
      add_loaded(j, donor);
    }
  if (j->loaded_count == 0)
    return true;
  if (!ebb_trials_load(j->trials, j->loaded_count, j->loaded, scene_loaded, j, err))
    return false;
  for (int damage = 0; damage < 2; damage++) /* the noise first, whose quality it goes by */
    for (int64_t at = first, next = 0; at < end;)
      if (!run_some(j, damage, &at, &next, end, TRIALS_AT_ONCE * batch, err))
        return false;
  return true;
}

static bool run_all(job *j, ebb_error *err) {
  const int64_t batch = j->config.run.batch;
  j->running = ebb_must(calloc((size_t)(TRIALS_AT_ONCE * batch), sizeof *j->running));
  ebb_progress_start(&j->progress, "intervening", "generations", j->progress.total);
  for (int64_t first = 0; first < j->scene_count; first += batch) {
    const int64_t end = first + batch < j->scene_count ? first + batch : j->scene_count;
    if (!run_scenes(j, first, end, batch, err))
      return false;
  }
  ebb_progress_end(&j->progress);
  return true;
}

static void close_job(job *j) {
  for (int64_t i = 0; i < j->scene_count; i++)
    json_decref(j->scenes[i].doc);
  free(j->scenes);
  free(j->changes);
  free(j->loaded);
  free(j->failed_donors);
  free(j->running);
  ebb_trials_close(&j->trials);
  ebb_crossfit_free(&j->probe);
  ebb_store_close(&j->store);
}

bool ebb_intervention_run(const ebb_intervene_options *o, FILE *table, int64_t *failed, ebb_error *err) {
  job j = {.o = o};
  bool ok = read_run(&j, err);
  if (ok && o->batch > 0)
    j.config.run.batch = o->batch;
  if (ok && j.store.notice)
    fprintf(table, "%s\n\n", j.store.notice);
  ok = ok && fit_probes(&j, err) && open_trials(&j, err) && choose_scenes(&j, err) && run_all(&j, err) &&
       ebb_intervention_tables(o->out, j.config.probe.bootstrap, (uint64_t)o->seed,
                               strtod(o->words.alphas, NULL), table, err);
  *failed = j.failed;
  close_job(&j);
  return ok;
}
