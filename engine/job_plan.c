#include "engine/job_parts.h"

#include "engine/anderson.h"
#include "loaders/frames.h"

#include <limits.h>

static double mib(double bytes) {
  return bytes / (1024.0 * 1024.0);
}

static double gib(double bytes) {
  return mib(bytes) / 1024.0;
}

/* What happens to clips of each length that the data set has, shortest and longest first. */
static void print_frame_notes(const ebb_job *j) {
  int least = INT_MAX, most = 0;
  for (int64_t i = 0; i < j->data.count; i++) {
    int frames = j->data.videos[i].frames;
    if (frames == 0) /* not known before it is decoded */
      continue;
    least = frames < least ? frames : least;
    most = frames > most ? frames : most;
  }
  if (most == 0)
    fprintf(j->options->log, "frames       known when a video is decoded, %d asked for\n", j->clip.wanted);
  for (int frames = least; frames <= most; frames += most > least ? most - least : 1) {
    char note[256];
    ebb_frames_note(frames, j->clip.wanted, j->clip.used, note, sizeof note);
    fprintf(j->options->log, "frames       %s%s\n",
            least == most     ? ""
            : frames == least ? "shortest: "
                              : "longest: ",
            note);
  }
}

static void print_work(const ebb_job *j) {
  FILE *log = j->options->log;
  fprintf(log, "videos       %lld from %s\n", (long long)j->data.count, j->data.root);
  if (!j->draw)
    print_frame_notes(j);
  fprintf(log, "latent       %lld x %lld x %lld x %lld (channels, frames, height, width)\n",
          (long long)j->shape.channels, (long long)j->shape.frames, (long long)j->shape.height,
          (long long)j->shape.width);
  for (int i = 0; i < j->model_count; i++)
    fprintf(log, "transformer  %s: %.2f M parameters, %lld blocks, width %lld, %lld tokens\n",
            j->models[i].name, (double)j->models[i].model.parameters / 1e6,
            (long long)j->models[i].model.blocks, (long long)j->models[i].model.width,
            (long long)j->models[i].plan.sizes.tokens);
  ebb_prompts_print(&j->prompts, log);
  if (ebb_job_draws(j) > 0)
    fprintf(log, "noise        (1 - sigma) z + sigma eps, %lld draws, %s\n", (long long)ebb_job_draws(j),
            j->config->inversion.keep_draws ? "each kept" : "their mean kept");
  fprintf(log, "integration  %s, %d steps, labels %s, schedule %s with shift %g\n",
          j->config->inversion.solver, j->plan.steps, j->config->inversion.labels,
          ebb_schedule_name(j->schedule.kind), j->schedule.shift);
}

/* ---- features ---------------------------------------------------------------------------------------- */

/* Floats of one video in all sets. */
static int64_t feature_floats(const ebb_job *j) {
  int64_t floats = ebb_tap_plan_floats(&j->vae_plan);
  for (int i = 0; i < j->model_count; i++)
    floats += ebb_tap_plan_floats(&j->models[i].plan) * ebb_job_sets(j);
  return floats;
}

/* Adds the shards of one set. */
static bool add_shards(const ebb_job *j, const char *name, const char *suffix, const ebb_tap_plan *plan,
                       uint64_t *bytes, ebb_error *err) {
  const int64_t batch = ebb_job_batch_size(j), rest = j->data.count % batch;
  uint64_t full = 0, last = 0;
  ebb_job_set s;
  ebb_job_describe_set(j, name, suffix, plan, &s);
  bool ok = ebb_store_shard_bytes(&s.set, batch, &full, err) &&
            (rest == 0 || ebb_store_shard_bytes(&s.set, rest, &last, err));
  *bytes += full * (uint64_t)(j->data.count / batch) + last;
  return ok;
}

static bool shard_bytes(const ebb_job *j, uint64_t *bytes, ebb_error *err) {
  *bytes = 0;
  bool ok = add_shards(j, "vae", "", &j->vae_plan, bytes, err);
  for (int i = 0; ok && i < j->model_count; i++) {
    const ebb_job_model *m = &j->models[i];
    char suffix[24];
    if (ebb_job_inverts(j))
      ok = add_shards(j, m->name, "", &m->plan, bytes, err) &&
           (!ebb_job_guided(j) || add_shards(j, m->name, ".negative", &m->plan, bytes, err));
    for (int64_t d = 0; ok && d < ebb_job_noise_sets(j); d++) {
      ebb_job_noise_suffix(j, d, suffix);
      ok = add_shards(j, m->name, suffix, &m->plan, bytes, err);
    }
  }
  return ok;
}

/* ---- memory ------------------------------------------------------------------------------------------ */

static void print_host_of_features(const ebb_job *j) {
  const int64_t batch = ebb_job_batch_size(j);
  const double latent = 4.0 * (double)ebb_job_latent_count(j) * (double)batch;
  const bool exact = j->plan.solver == EBB_EXACT; /* which also keeps an Anderson history for every sample */
  double clips = (double)ebb_reader_bytes(j->clip, ebb_job_ahead(j));
  double latents = latent * (exact ? 1 + 2 * EBB_ANDERSON_DEPTH + 4 : 1);
  /* a batch that is captured, one that is written, and one evaluation on its way from the device */
  double features =
      (2.0 + 1.0 / j->models[0].plan.step_count) * 4.0 * (double)feature_floats(j) * (double)batch;
  fprintf(
      j->options->log,
      "host         %.1f MiB: clips read ahead %.1f, latents %.1f, features before they are written %.1f\n",
      mib(clips + latents + features), mib(clips), mib(latents), mib(features));
  fprintf(j->options->log, "features     %.1f KiB a video, %.1f MiB on disk in %s\n",
          (double)feature_floats(j) * 4 / 1024, mib((double)j->result->disk), j->config->run.out);
}

/* Decoded videos wait to be written, and beside them what they are compared with. */
static void print_host_of_films(const ebb_job *j) {
  const double batch = (double)ebb_job_batch_size(j), threads = ebb_reader_threads();
  const double frames = 3.0 * j->clip.used * j->clip.height * j->clip.width * (j->draw ? 1 : 3);
  const double clips = j->draw ? 0.0 : (double)ebb_reader_bytes(j->clip, ebb_job_ahead(j));
  const double latents = 4.0 * (double)ebb_job_latent_count(j) * batch,
               films = frames * (batch + 2 * threads);
  fprintf(j->options->log,
          "host         %.1f MiB: clips read ahead %.1f, latents %.1f, videos before they are written %.1f\n",
          mib(clips + latents + films), mib(clips), mib(latents), mib(films));
}

/* Counts again with batches of `batch`: bytes of activations. `opening` is what opening the models took. */
static bool count_activations(ebb_job *j, int64_t batch, size_t opening, size_t *bytes, ebb_error *err) {
  j->context.activations.peak = opening;
  bool ok = j->run_batch(j, 0, batch, err);
  *bytes = j->context.activations.peak;
  return ok;
}

/* Too much for `limit` bytes: says so, with the largest batch that is not. */
static bool fail_too_large(ebb_job *j, size_t opening, size_t limit, const char *limit_is, ebb_error *err) {
  const size_t weights = j->result->planned.weights;
  const int64_t batch = ebb_job_batch_size(j);
  int64_t fits = 0, too_large = batch;
  size_t activations, one = j->result->planned.activations;
  while (too_large - fits > 1) {
    int64_t middle = fits + (too_large - fits) / 2;
    if (!count_activations(j, middle, opening, &activations, err))
      return false;
    one = middle == 1 ? activations : one;
    if (weights + activations <= limit)
      fits = middle;
    else
      too_large = middle;
  }
  ebb_fail(
      err,
      "not enough memory: batches of %lld need %.3f GiB on %s (weights %.3f, activations %.3f), and %.3f "
      "GiB are %s",
      (long long)batch, gib((double)weights + (double)j->result->planned.activations),
      ebb_context_device(&j->context), gib((double)weights), gib((double)j->result->planned.activations),
      gib((double)limit), limit_is);
  if (fits > 0)
    return ebb_fail_also(err, "; the largest batch that fits is %lld (--set run.batch=%lld)", (long long)fits,
                         (long long)fits);
  return ebb_fail_also(err,
                       "; even one video needs %.3f GiB: take smaller or shorter videos (data.size, "
                       "data.frames), fewer models (model.compare) or another device",
                       gib((double)weights + (double)one));
}

bool ebb_job_print_plan(ebb_job *j, ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_job_result *r = j->result;
  const size_t opening = c->activations.peak;
  const int64_t rest = j->data.count % ebb_job_batch_size(j);
  size_t available, total, allowed = (size_t)(j->config->run.memory * 1024 * 1024 * 1024);
  if (j->prompts.per_video && rest > 0 && !count_activations(j, rest, opening, &r->planned.activations, err))
    return false; /* its texts' constants are in the weights' peak now, should they take another way */
  if (!count_activations(j, ebb_job_batch_size(j), opening, &r->planned.activations, err) ||
      (!j->decode && !shard_bytes(j, &r->disk, err)))
    return false;
  r->planned.weights = c->weights.peak;
  ebb_context_memory(c, &available, &total);
  if (!ebb_context_ok(c, err))
    return false;
  const size_t needed = r->planned.weights + r->planned.activations;
  print_work(j);
  fprintf(j->options->log,
          "memory       weights %.1f MiB, activations %.1f MiB for batches of %lld: %.1f MiB of %.1f free on "
          "%s\n",
          mib((double)r->planned.weights), mib((double)r->planned.activations),
          (long long)ebb_job_batch_size(j), mib((double)needed), mib((double)available),
          ebb_context_device(c));
  if (j->decode)
    print_host_of_films(j);
  else
    print_host_of_features(j);
  bool by_config = allowed > 0 && allowed < available;
  size_t limit = by_config ? allowed : available;
  return needed <= limit ||
         fail_too_large(j, opening, limit, by_config ? "allowed by run.memory" : "free", err);
}

void ebb_job_print_used(const ebb_job *j) {
  fprintf(j->options->log, "used         weights %.1f MiB, activations %.1f MiB\n",
          mib((double)j->result->used.weights), mib((double)j->result->used.activations));
}
