#include "engine/trials.h"

#include "engine/job_parts.h"
#include "kernels/normal.h"
#include "loaders/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIXEL_PEAK 2.0
#define PSNR_MOST 200.0 /* of what is equal, or nearly: results stay finite */

struct ebb_trials {
  ebb_config config; /* the run's, with what is read in place of what was captured */
  ebb_trials_options options;
  ebb_job job;                /* its models, conditions and sizes; j.plan is the inversion */
  ebb_integration generation; /* the same grid the other way; its moments are those of job.plan */
  ebb_integration reading;    /* job.plan as far as the last step that is read; borrows from it */
  int64_t scenes;
  int64_t *videos;        /* [scenes] their numbers in the data set */
  float *latents, *noise; /* [scenes, C,T,h,w] of the scenes: sigma 0 and 1 */
  float *pixels;          /* [scenes, 3,F,H,W] when decoded */
  bool *failed;           /* [scenes] */
};

const ebb_dataset *ebb_trials_data(const ebb_trials *t) {
  return &t->job.data;
}

const ebb_tap_plan *ebb_trials_plan(const ebb_trials *t) {
  return &t->job.models[0].plan;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static void note_skipped(void *user, const char *id, const char *reason) {
  const ebb_trials *t = user;
  fprintf(t->options.log, "skipped %s: %s\n", id, reason);
}

/* The run's config with the wanted steps, point and pool to be captured, and the main transformer alone. */
static bool make_config(ebb_trials *t, const ebb_config *config, ebb_error *err) {
  ebb_config *k = &t->config;
  const char *feature = t->options.feature, *dot = strchr(feature, '.');
  *k = *config;
  k->model.compare.count = 0;
  k->capture.steps = t->options.steps;
  k->capture.points.count = k->capture.pool.count = 1;
  if (!dot || dot - feature >= (int)sizeof k->capture.points.names[0] ||
      strlen(dot + 1) >= sizeof k->capture.pool.names[0] || strncmp(feature, "latent.", 7) == 0 ||
      strncmp(feature, "velocity.", 9) == 0)
    return ebb_fail(err, "the feature '%.80s' is not one of blocks, expected such as block_out.mean",
                    feature);
  snprintf(k->capture.points.names[0], sizeof k->capture.points.names[0], "%.*s", (int)(dot - feature),
           feature);
  snprintf(k->capture.pool.names[0], sizeof k->capture.pool.names[0], "%s", dot + 1);
  return true;
}

/* Both directions over one grid. */
static bool make_plans(ebb_trials *t, ebb_error *err) {
  ebb_job *j = &t->job;
  const ebb_config *k = &t->config;
  if (!ebb_schedule_open(&j->schedule, k->model.path, k->inversion.schedule, (int)k->inversion.steps,
                         k->inversion.shift, err) ||
      !ebb_integration_named(&j->plan, &j->schedule, k->inversion.solver, k->inversion.labels, false, err) ||
      !ebb_integration_named(&t->generation, &j->schedule, k->inversion.solver, k->inversion.labels, true,
                             err) ||
      !ebb_integration_share_labels(&j->plan, &t->generation, err))
    return false;
  int last = 0;
  for (int i = 0; i < t->options.steps.count; i++)
    last = t->options.steps.values[i] > last ? (int)t->options.steps.values[i] : last;
  t->reading = j->plan;
  t->reading.steps = last + 1 < j->plan.steps ? last + 1 : j->plan.steps;
  return true;
}

static bool invert_batch(ebb_trials *t, int64_t first, int64_t count, ebb_trial_done *done, void *user,
                         ebb_error *err);
static bool run_batch(ebb_trials *t, int64_t count, const ebb_trial *trials, int64_t donors,
                      const int64_t *donor, int64_t number, ebb_trial_done *done, void *user, ebb_error *err);

static void forget_scenes(ebb_trials *t) {
  free(t->videos);
  free(t->latents);
  free(t->noise);
  free(t->pixels);
  free(t->failed);
  t->latents = t->noise = t->pixels = NULL;
  t->failed = NULL;
  t->videos = NULL;
  t->scenes = 0;
}

/* Counts what a full batch of either kind takes, on a scene that nobody has read. */
static bool rehearse(ebb_trials *t, size_t *weights, size_t *activations, ebb_error *err) {
  ebb_job *j = &t->job;
  const int64_t B = t->options.batch;
  ebb_trial *trials = calloc((size_t)B, sizeof *trials);
  t->videos = calloc((size_t)B, sizeof *t->videos);
  ebb_context_count(&j->context);
  bool ok = ((trials && t->videos) || ebb_fail(err, "no memory for %lld trials", (long long)B)) &&
            ebb_job_open_models(j, err) && invert_batch(t, 0, B, NULL, NULL, err) &&
            run_batch(t, B, trials, 0, NULL, 0, NULL, NULL, err);
  *weights = j->context.weights.peak;
  *activations = j->context.activations.peak;
  ebb_job_close_models(j);
  forget_scenes(t);
  free(trials);
  return ok;
}

static bool open_models(ebb_trials *t, ebb_error *err) {
  const double gib = 1024.0 * 1024.0 * 1024.0;
  ebb_job *j = &t->job;
  size_t weights, activations, available, total;
  if (!rehearse(t, &weights, &activations, err))
    return false;
  ebb_context_memory(&j->context, &available, &total);
  fprintf(t->options.log, "memory       weights %.3f GiB, activations %.3f GiB for batches of %lld, on %s\n",
          (double)weights / gib, (double)activations / gib, (long long)t->options.batch,
          ebb_context_device(&j->context));
  if (weights + activations > available)
    return ebb_fail(err,
                    "not enough memory: batches of %lld need %.3f GiB on %s, %.3f are free: take a smaller "
                    "--batch",
                    (long long)t->options.batch, (double)(weights + activations) / gib,
                    ebb_context_device(&j->context), (double)available / gib);
  return ebb_context_reserve(&j->context, EBB_WEIGHTS, weights, err) &&
         ebb_context_reserve(&j->context, EBB_ACTIVATIONS, activations, err) && ebb_job_open_models(j, err);
}

bool ebb_trials_open(ebb_trials **out, const ebb_config *config, const ebb_trials_options *options,
                     ebb_error *err) {
  static ebb_job_result unused;
  ebb_trials *t = *out = ebb_must(calloc(1, sizeof *t));
  t->options = *options;
  t->job = (ebb_job){.config = &t->config, .result = &unused, .decode = options->decode};
  const ebb_config *k = &t->config;
  bool ok = make_config(t, config, err) && ebb_job_check(k, err) &&
            ebb_context_open(&t->job.context, k->run.device, err) &&
            ebb_dataset_open_config(&t->job.data, k, note_skipped, t, err) && make_plans(t, err) &&
            ebb_prompts_open(&t->job.prompts, k, &t->job.data, &t->job.context, false, options->log, err) &&
            open_models(t, err);
  if (!ok)
    ebb_trials_close(out);
  return ok;
}

void ebb_trials_close(ebb_trials **out) {
  ebb_trials *t = *out;
  if (!t)
    return;
  forget_scenes(t);
  ebb_job_close_models(&t->job);
  ebb_integration_free(&t->generation);
  ebb_job_end(&t->job);
  free(t);
  *out = NULL;
}

bool ebb_trials_describe(ebb_trials *t, ebb_trials_about *about, ebb_error *err) {
  ebb_job *j = &t->job;
  ebb_model *m = &j->models[0].model;
  if (!ebb_digest_finish(&m->digest, m->sha256, err) ||
      !ebb_digest_finish(&j->vae.digest, j->vae.sha256, err))
    return false;
  *about = (ebb_trials_about){.device = ebb_context_device(&j->context)};
  memcpy(about->transformer, m->sha256, sizeof about->transformer);
  memcpy(about->vae, j->vae.sha256, sizeof about->vae);
  memcpy(about->prompt, j->prompts.sha256, sizeof about->prompt);
  memcpy(about->negative, j->prompts.negative_sha256, sizeof about->negative);
  return true;
}

/* ---- scenes ------------------------------------------------------------------------------------------ */

static int64_t pixel_count(const ebb_trials *t) {
  return 3 * (int64_t)t->job.clip.used * t->job.clip.height * t->job.clip.width;
}

static ebb_tensor new_latents(ebb_trials *t, int64_t count) {
  const ebb_latent_shape *z = &t->job.shape;
  return EBB_ACTIVATION(&t->job.context, "latents", count, z->channels, z->frames, z->height, z->width);
}

static bool is_finite(const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(x[i]))
      return false;
  return true;
}

/* Takes x along `plan`, its rows told what `videos` say, read by a tap, whose data the caller frees with ebb_tap_close. */
static bool integrate(ebb_trials *t, const ebb_integration *plan, ebb_tensor x, const int64_t *videos,
                      ebb_tap *tap, ebb_edit *edit, ebb_error *failures, ebb_error *err) {
  ebb_context *c = &t->job.context;
  ebb_job_model *m = &t->job.models[0];
  ebb_condition own;
  const size_t constants = ebb_arena_mark(&c->weights);
  const ebb_run run = {.model = &m->model,
                       .plan = plan,
                       .text = ebb_job_text_of(&t->job, m, x.shape[0], videos, &own, err),
                       .negative = &m->negative,
                       .guidance = t->config.inversion.guidance,
                       .tap = tap,
                       .edit = edit,
                       .failures = failures};
  if (run.text)
    ebb_invert(&run, x, NULL);
  ebb_condition_free(&own);
  ebb_arena_release(&c->weights, constants);
  return run.text && ebb_context_ok(c, err);
}

/* Tells what a tap has read of its first `count` samples. */
static bool tell(const ebb_tap *tap, int64_t count, int64_t number, const double *psnr,
                 const ebb_error *failures, const char (*sha256)[65], ebb_trial_done *done, void *user,
                 ebb_error *err) {
  const int64_t floats = ebb_tap_slot_floats(tap->plan, 0);
  bool ok = true;
  for (int64_t b = 0; ok && b < count; b++) {
    const float *features = tap->data[0] + b * floats;
    ebb_trial_result r = {
        .features = features, .psnr = psnr ? psnr[b] : NAN, .sha256 = sha256 ? sha256[b] : NULL};
    if (failures[b].text[0])
      r.failure = failures[b].text;
    else if (!is_finite(features, floats) || (psnr && isnan(psnr[b])))
      r.failure = "values that are not finite";
    ok = done(user, number + b, &r, b + 1 == count, err);
  }
  return ok;
}

/* Encodes scenes [first, first + count) from clips and inverts them: their latents, noise and pixels. */
static bool invert_scenes(ebb_trials *t, int64_t first, int64_t count, ebb_tap *tap, ebb_error *failures,
                          char (*sha256)[65], ebb_error *err) {
  ebb_job *j = &t->job;
  ebb_context *c = &j->context;
  const int64_t n = ebb_job_latent_count(j);
  ebb_tensor x = new_latents(t, count);
  for (int64_t b = 0; b < count; b++) {
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor video = EBB_ACTIVATION(c, "video", 1, 3, j->clip.used, j->clip.height, j->clip.width);
    if (!c->counting) {
      const ebb_ready_clip *clip = ebb_reader_next(j->reader);
      failures[b] = clip->failure;
      memcpy(sha256[b], clip->sha256, sizeof sha256[b]);
      const size_t bytes = (size_t)pixel_count(t) * sizeof(float);
      if (clip->failure.text[0])
        memset(clip->pixels, 0, bytes);
      if (t->pixels)
        memcpy(t->pixels + (first + b) * pixel_count(t), clip->pixels, bytes);
      ebb_upload(c, video, clip->pixels);
      ebb_reader_done(j->reader);
    }
    ebb_vae_encode(&j->vae, ebb_slice(x, b, 1), video);
    ebb_arena_release(&c->activations, mark);
  }
  if (!c->counting)
    ebb_download(c, t->latents + first * n, x);
  if (!integrate(t, &j->plan, x, t->videos + first, tap, NULL, failures, err))
    return false;
  if (!c->counting)
    ebb_download(c, t->noise + first * n, x);
  return ebb_context_ok(c, err);
}

static bool invert_batch(ebb_trials *t, int64_t first, int64_t count, ebb_trial_done *done, void *user,
                         ebb_error *err) {
  ebb_context *c = &t->job.context;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tap tap = {0};
  ebb_error *failures = calloc((size_t)count, sizeof *failures);
  char(*sha256)[65] = calloc((size_t)count, sizeof *sha256);
  bool ok = ((failures && sha256) || ebb_fail(err, "no memory for %lld scenes", (long long)count)) &&
            ebb_tap_open(&tap, ebb_trials_plan(t), c, count, err) &&
            invert_scenes(t, first, count, &tap, failures, sha256, err);
  if (ok && !c->counting) {
    const int64_t n = ebb_job_latent_count(&t->job);
    for (int64_t b = 0; b < count; b++) {
      if (!failures[b].text[0] && !is_finite(t->noise + (first + b) * n, n))
        ebb_fail(&failures[b], "its noise is not finite");
      t->failed[first + b] = failures[b].text[0] != '\0';
    }
    ok = tell(&tap, count, first, NULL, failures, (const char(*)[65])sha256, done, user, err);
  }
  ebb_tap_close(&tap);
  ebb_arena_release(&c->activations, mark);
  free(failures);
  free(sha256);
  return ok;
}

bool ebb_trials_load(ebb_trials *t, int64_t count, const int64_t *videos, ebb_trial_done *done, void *user,
                     ebb_error *err) {
  ebb_job *j = &t->job;
  const size_t n = (size_t)ebb_job_latent_count(j), pixels = (size_t)pixel_count(t);
  const int64_t ahead = count < ebb_reader_threads() ? count : ebb_reader_threads();
  forget_scenes(t);
  t->videos = malloc((size_t)count * sizeof *t->videos);
  t->latents = malloc((size_t)count * n * sizeof(float));
  t->noise = malloc((size_t)count * n * sizeof(float));
  t->pixels = t->options.decode ? malloc((size_t)count * pixels * sizeof(float)) : NULL;
  t->failed = calloc((size_t)count, sizeof *t->failed);
  ebb_dataset some = {
      .root = j->data.root, .videos = calloc((size_t)count, sizeof *some.videos), .count = count};
  t->scenes = count;
  bool ok = (t->videos && t->latents && t->noise && t->failed && some.videos &&
             (t->pixels || !t->options.decode)) ||
            ebb_fail(err, "no memory for the latents of %lld scenes", (long long)count);
  for (int64_t i = 0; ok && i < count; i++) {
    t->videos[i] = videos[i];
    some.videos[i] = j->data.videos[videos[i]];
  }
  ok = ok && ebb_reader_open(&j->reader, &j->context, &some, j->clip, ahead, ebb_reader_threads(), err);
  for (int64_t first = 0; ok && first < count; first += t->options.batch) {
    const int64_t left = count - first;
    ok = invert_batch(t, first, left < t->options.batch ? left : t->options.batch, done, user, err);
  }
  ebb_reader_close(&j->reader);
  free(some.videos);
  return ok;
}

/* ---- trials ------------------------------------------------------------------------------------------ */

static double psnr_of(double square, double peak) {
  return square > 0 ? fmin(10 * log10(peak * peak / square), PSNR_MOST) : PSNR_MOST;
}

static double range_of(const float *x, int64_t n) {
  float low = x[0], high = x[0];
  for (int64_t i = 1; i < n; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  return (double)high - low;
}

static double square_error(const float *a, const float *truth, int64_t n) {
  double square = 0;
  for (int64_t i = 0; i < n; i++)
    square += ((double)a[i] - truth[i]) * ((double)a[i] - truth[i]) / (double)n;
  return square;
}

/* x += s e with e of `key`, s >= 0 such that the mean square error becomes `wanted`; 0 where it is that much already. */
static void damage(float *x, const float *truth, int64_t n, double wanted, uint64_t key) {
  double along = 0, noise = 0;
  for (int64_t i = 0; i < n; i++) {
    const double e = ebb_normal(key, EBB_STREAM_DAMAGE, (uint64_t)i);
    along += ((double)x[i] - truth[i]) * e / (double)n;
    noise += e * e / (double)n;
  }
  const double more = wanted - square_error(x, truth, n);
  const double s = more > 0 ? (sqrt(along * along + noise * more) - along) / noise : 0;
  for (int64_t i = 0; i < n; i++)
    x[i] += (float)(s * ebb_normal(key, EBB_STREAM_DAMAGE, (uint64_t)i));
}

/* What was generated, on the host, damaged as its trial asks; its quality. */
static double judge_one(const ebb_trials *t, const ebb_trial *trial, float *x, int64_t n) {
  const float *truth = (t->options.decode ? t->pixels : t->latents) + trial->scene * n;
  const double peak = t->options.decode ? PIXEL_PEAK : range_of(truth, n);
  if (!isnan(trial->psnr))
    damage(x, truth, n, peak * peak / pow(10, trial->psnr / 10), trial->change.key);
  return psnr_of(square_error(x, truth, n), peak);
}

/* The quality of what was generated; through pixels and back when asked for. */
static bool judge(ebb_trials *t, int64_t count, const ebb_trial *trials, ebb_tensor x, double *psnr,
                  ebb_error *err) {
  ebb_job *j = &t->job;
  ebb_context *c = &j->context;
  const bool decode = t->options.decode;
  const int64_t n = decode ? pixel_count(t) : ebb_job_latent_count(j);
  float *host = c->counting ? NULL : malloc((size_t)n * sizeof *host);
  if (!host && !c->counting)
    return ebb_fail(err, "no memory for a video");
  for (int64_t b = 0; b < count; b++) {
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor z = ebb_slice(x, b, 1), shown = z;
    if (decode) {
      shown = EBB_ACTIVATION(c, "video", 1, 3, j->clip.used, j->clip.height, j->clip.width);
      ebb_vae_decode(&j->vae, shown, z);
    }
    if (!c->counting) {
      ebb_download(c, host, shown);
      psnr[b] = judge_one(t, &trials[b], host, n);
      if (!isnan(trials[b].psnr))
        ebb_upload(c, shown, host);
    }
    if (decode)
      ebb_vae_encode(&j->vae, z, shown);
    ebb_arena_release(&c->activations, mark);
  }
  free(host);
  return ebb_context_ok(c, err);
}

/* What every row of a batch gets: trials first, then the scenes that heads come from, undisturbed. heads: room for all
 * of theirs. */
static void rows_of(int64_t count, const ebb_trial *trials, int64_t donors, const int64_t *donor,
                    ebb_intervention *rows, ebb_edit_head *heads) {
  for (int64_t b = 0; b < count; b++) {
    rows[b] = trials[b].change;
    rows[b].heads = heads;
    for (int i = 0; i < rows[b].head_count; i++) {
      *heads = trials[b].change.heads[i];
      for (int64_t d = 0; trials[b].change.heads[i].source >= 0 && d < donors; d++)
        if (donor[d] == trials[b].change.heads[i].source)
          heads->source = count + d;
      heads++;
    }
  }
  for (int64_t d = 0; d < donors; d++)
    rows[count + d] = (ebb_intervention){.block = -1};
}

/* Generation of all rows with their interventions, then the trials inverted again; or the inversion of all rows with
 * them. tap: of the rows that are inverted. */
static bool generate_and_read(ebb_trials *t, int64_t count, const ebb_trial *trials, int64_t donors,
                              const int64_t *donor, const ebb_intervention *rows, ebb_tap *tap, double *psnr,
                              ebb_error *failures, ebb_error *err) {
  ebb_context *c = &t->job.context;
  const ebb_model *m = &t->job.models[0].model;
  const bool inversion = t->options.inversion;
  const int64_t n = ebb_job_latent_count(&t->job);
  const ebb_edit_sizes sizes = {m->blocks, m->width, m->heads};
  const float *from = inversion ? t->latents : t->noise;
  ebb_tensor x = new_latents(t, count + donors);
  int64_t *videos = ebb_must(malloc((size_t)(count + donors) * sizeof *videos));
  ebb_edit edit;
  for (int64_t b = 0; b < count + donors; b++) {
    const int64_t scene = b < count ? trials[b].scene : donor[b - count];
    videos[b] = t->videos[scene];
    if (!c->counting)
      ebb_upload(c, ebb_slice(x, b, 1), from + scene * n);
  }
  bool ok = ebb_edit_open(&edit, c, sizes, count + donors, t->job.plan.steps, true, err) &&
            ebb_edit_set(&edit, rows, err);
  if (ok && inversion)
    ok = integrate(t, &t->reading, x, videos, tap, &edit, failures, err);
  else if (ok)
    ok = integrate(t, &t->generation, x, videos, NULL, &edit, NULL, err) &&
         judge(t, count, trials, x, psnr, err) &&
         integrate(t, &t->reading, ebb_slice(x, 0, count), videos, tap, NULL, failures, err);
  free(videos);
  return ok;
}

static bool run_batch(ebb_trials *t, int64_t count, const ebb_trial *trials, int64_t donors,
                      const int64_t *donor, int64_t number, ebb_trial_done *done, void *user,
                      ebb_error *err) {
  ebb_context *c = &t->job.context;
  size_t mark = ebb_arena_mark(&c->activations), all = 1;
  for (int64_t b = 0; b < count; b++)
    all += (size_t)trials[b].change.head_count;
  ebb_tap tap = {0};
  const int64_t read = t->options.inversion ? count + donors : count;
  ebb_error *failures = calloc((size_t)read, sizeof *failures);
  double *psnr = calloc((size_t)count, sizeof *psnr);
  ebb_intervention *rows = calloc((size_t)(count + donors), sizeof *rows);
  ebb_edit_head *heads = calloc(all, sizeof *heads);
  bool ok =
      (failures && psnr && rows && heads) || ebb_fail(err, "no memory for %lld trials", (long long)count);
  if (ok)
    rows_of(count, trials, donors, donor, rows, heads);
  ok = ok && ebb_tap_open(&tap, ebb_trials_plan(t), c, read, err) &&
       generate_and_read(t, count, trials, donors, donor, rows, &tap, psnr, failures, err);
  if (ok && !c->counting)
    ok = tell(&tap, count, number, t->options.inversion ? NULL : psnr, failures, NULL, done, user, err);
  ebb_tap_close(&tap);
  ebb_arena_release(&c->activations, mark);
  free(failures);
  free(psnr);
  free(rows);
  free(heads);
  return ok;
}

/* Adds the scenes that a trial's heads come from to those of its batch; how many there are then. */
static int64_t add_donors(const ebb_trial *trial, int64_t *donor, int64_t donors, int64_t most) {
  for (int i = 0; i < trial->change.head_count; i++) {
    const int64_t source = trial->change.heads[i].source;
    int64_t d = 0;
    while (d < donors && d < most && donor[d] != source)
      d++;
    if (source < 0 || (d < donors && d < most))
      continue;
    if (donors < most)
      donor[donors] = source;
    donors++;
  }
  return donors;
}

static bool check_trial(const ebb_trials *t, const ebb_trial *trial, ebb_error *err) {
  bool ok = trial->scene >= 0 && trial->scene < t->scenes && !t->failed[trial->scene];
  for (int i = 0; ok && i < trial->change.head_count; i++) {
    const int64_t source = trial->change.heads[i].source;
    ok = source < t->scenes && (source < 0 || !t->failed[source]);
  }
  return ok || ebb_fail(err, "a trial of a scene that is not loaded, or failed");
}

bool ebb_trials_run(ebb_trials *t, int64_t count, const ebb_trial *trials, ebb_trial_done *done, void *user,
                    ebb_error *err) {
  const int64_t B = t->options.batch;
  int64_t *donor = malloc((size_t)B * sizeof *donor);
  bool ok = donor || ebb_fail(err, "no memory for trials");
  for (int64_t first = 0; ok && first < count;) {
    int64_t taken = 0, donors = 0;
    while (ok && first + taken < count) {
      ok = check_trial(t, &trials[first + taken], err);
      const int64_t with = add_donors(&trials[first + taken], donor, donors, B);
      if (taken + 1 + with > B)
        break;
      donors = with;
      taken++;
    }
    if (ok && taken == 0)
      ok = ebb_fail(err, "batches of %lld cannot hold a trial and the scenes its heads come from: take more",
                    (long long)B);
    ok = ok && run_batch(t, taken, trials + first, donors, donor, first, done, user, err);
    first += taken;
  }
  free(donor);
  return ok;
}
