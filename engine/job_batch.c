#include "engine/job_parts.h"

#include "loaders/file.h"
#include "loaders/frames.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a VAE in bfloat16 costs: the first video is encoded in float32 as well. Told, and kept with the run. Errors of
 * ops stay in the context. */
static void measure_latent_error(ebb_job *j, int64_t number, const float *latent, ebb_tensor video) {
  ebb_context *c = &j->context;
  const int64_t n = ebb_job_latent_count(j);
  float *exact = ebb_must(malloc((size_t)n * sizeof *exact));
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor z = EBB_ACTIVATION(c, "exact latent", 1, j->shape.channels, j->shape.frames, j->shape.height,
                                j->shape.width);
  ebb_vae_encode(&j->exact, z, video);
  ebb_download(c, exact, z);
  ebb_arena_release(&c->activations, mark);
  if (!c->counting && !c->error.text[0]) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
      difference += ((double)latent[i] - exact[i]) * ((double)latent[i] - exact[i]);
      norm += (double)exact[i] * exact[i];
    }
    j->latent_error = sqrt(difference / norm);
    j->latent_measured = true;
    fprintf(j->options->log,
            "vae          bfloat16: the latent of %s is %.2g off its float32 one (relative L2)\n",
            j->data.videos[number].id, j->latent_error);
  }
  free(exact);
}

bool ebb_job_encode(ebb_job *j, int64_t number, float *latent, ebb_clip *frames, char input_sha256[65],
                    ebb_error *err) {
  ebb_context *c = &j->context;
  const ebb_ready_clip *clip = NULL;
  if (!c->counting) {
    clip = ebb_reader_next(j->reader);
    if (clip->failure.text[0]) {
      ebb_fail(err, "%s", clip->failure.text);
      ebb_reader_done(j->reader);
      return false;
    }
    if (input_sha256)
      memcpy(input_sha256, clip->sha256, sizeof clip->sha256);
    if (frames &&
        !ebb_frames_quantise(clip->pixels, j->clip.used, j->clip.height, j->clip.width, frames, err)) {
      ebb_reader_done(j->reader);
      return false;
    }
  }
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor video = EBB_ACTIVATION(c, "video", 1, 3, j->clip.used, j->clip.height, j->clip.width);
  ebb_tensor z =
      EBB_ACTIVATION(c, "latent", 1, j->shape.channels, j->shape.frames, j->shape.height, j->shape.width);
  if (clip) {
    ebb_upload(c, video, clip->pixels);
    ebb_reader_done(j->reader);
  }
  ebb_vae_encode(&j->vae, z, video);
  ebb_download(c, latent, z);
  if (j->vae.dtype != EBB_F32 && !j->decode && !j->latent_measured)
    measure_latent_error(j, number, latent, video);
  ebb_arena_release(&c->activations, mark);
  return true;
}

void ebb_job_fail_video(void *user, int64_t video, const char *reason) {
  ebb_job *j = user;
  ebb_store_fail(j->store, video, reason);
  fprintf(j->options->log, "failed %s: %s\n", j->data.videos[video].id, reason);
}

typedef struct batch_progress {
  const ebb_job *j;
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

static ebb_tensor upload_latents(ebb_job *j, int64_t count, const float *latents) {
  ebb_context *c = &j->context;
  ebb_tensor x = EBB_ACTIVATION(c, "latents", count, j->shape.channels, j->shape.frames, j->shape.height,
                                j->shape.width);
  ebb_upload(c, x, latents);
  return x;
}

/* Takes the latents [B,C,T,H,W] through one transformer and hands on what its taps saw. */
static bool run_through(ebb_job *j, int number, const ebb_condition *text, int64_t count,
                        const int64_t *videos, const float *latents, ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_job_model *m = &j->models[number];
  const bool guided = ebb_job_guided(j);
  ebb_tap tap = {0}, negative = {0};
  ebb_error *failures = calloc((size_t)count, sizeof *failures);
  size_t mark = ebb_arena_mark(&c->activations);
  bool ok = (failures || ebb_fail(err, "no memory")) && ebb_tap_open(&tap, &m->plan, c, count, err) &&
            (!guided || ebb_tap_open(&negative, &m->plan, c, count, err));
  if (ok) {
    batch_progress progress = {j, number, count};
    ebb_run run = {.model = &m->model,
                   .plan = &j->plan,
                   .text = text,
                   .negative = &m->negative,
                   .guidance = j->config->inversion.guidance,
                   .tap = &tap,
                   .negative_tap = guided ? &negative : NULL,
                   .failures = failures,
                   .progress = c->counting ? NULL : step_done,
                   .progress_user = &progress};
    ebb_invert(&run, upload_latents(j, count, latents), NULL);
    ok = ebb_context_ok(c, err);
  }
  if (ok && !c->counting)
    ok = ebb_writer_put(j->writer, m->set, &tap, videos, failures, err) &&
         (!guided || ebb_writer_put(j->writer, m->negative_set, &negative, videos, failures, err));
  free(failures);
  ebb_tap_close(&negative);
  ebb_tap_close(&tap);
  ebb_arena_release(&c->activations, mark);
  return ok;
}

/* keys int64 [B] of eps, of one draw for each video. */
static ebb_tensor upload_keys(ebb_job *j, int64_t count, const int64_t *videos, int64_t draw) {
  ebb_context *c = &j->context;
  ebb_tensor keys = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "noise keys", count);
  if (c->counting)
    return keys;
  int64_t *host = ebb_must(malloc((size_t)count * sizeof *host));
  for (int64_t b = 0; b < count; b++)
    host[b] = (int64_t)ebb_edit_key((uint64_t)j->config->inversion.seed, j->data.videos[videos[b]].id, draw);
  ebb_upload(c, keys, host);
  free(host);
  return keys;
}

/* What a tap sees of (1 - sigma) z + sigma eps at every captured step, told the label that the inversion is told there;
 * eps is one for all steps. */
static bool read_noised(ebb_job *j, ebb_job_model *m, const ebb_condition *text, ebb_tensor z,
                        ebb_tensor keys, ebb_tap *tap, ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_tensor x = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "noised latents", z.rank, z.shape);
  ebb_tensor v = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "velocity", z.rank, z.shape);
  for (int i = 0; i < m->plan.step_count; i++) {
    const int step = m->plan.steps[i];
    const double sigma = j->plan.sigma[step];
    ebb_add_noise(c, x, (float)(1 - sigma), z, (float)sigma, keys, EBB_STREAM_NOISED);
    ebb_tap_begin(tap, step);
    ebb_model_velocity(&m->model, v, x, text, j->plan.step[step].moment[0], tap);
    ebb_tap_latent(tap, EBB_LATENT, x);
    ebb_tap_latent(tap, EBB_VELOCITY, v);
    ebb_tap_end(tap);
  }
  ebb_tap_finish(tap);
  return ebb_context_ok(c, err);
}

/* sum += data, all slots of a tap. */
static void add_features(float **sum, float **data, const ebb_tap_plan *plan, int64_t batch) {
  for (int s = 0; s < plan->slot_count; s++)
    for (int64_t i = 0; i < batch * ebb_tap_slot_floats(plan, s); i++)
      sum[s][i] += data[s][i];
}

static void scale_features(float **sum, const ebb_tap_plan *plan, int64_t batch, float factor) {
  for (int s = 0; s < plan->slot_count; s++)
    for (int64_t i = 0; i < batch * ebb_tap_slot_floats(plan, s); i++)
      sum[s][i] *= factor;
}

/* Noised latents instead of inverted ones, through one transformer: each draw, or the mean over draws, to the writer. */
static bool run_noised(ebb_job *j, int number, const ebb_condition *text, int64_t count,
                       const int64_t *videos, const float *latents, ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_job_model *m = &j->models[number];
  const int64_t draws = c->counting ? 1 : ebb_job_draws(j);
  const bool keep = j->config->inversion.keep_draws;
  float **sum = NULL;
  bool ok = true;
  for (int64_t d = 0; ok && d < draws; d++) {
    ebb_tap tap = {0};
    size_t mark = ebb_arena_mark(&c->activations);
    ok = ebb_tap_open(&tap, &m->plan, c, count, err) &&
         read_noised(j, m, text, upload_latents(j, count, latents), upload_keys(j, count, videos, d), &tap,
                     err);
    if (ok && !c->counting && !keep) {
      if (sum)
        add_features(sum, tap.data, &m->plan, count);
      else
        sum = tap.data;
      tap.data = sum == tap.data ? NULL : tap.data;
      if (d == draws - 1) {
        scale_features(sum, &m->plan, count, 1.0f / (float)draws);
        free(tap.data);
        tap.data = sum;
        sum = NULL;
      }
    }
    if (ok && !c->counting && (keep || d == draws - 1))
      ok = ebb_writer_put(j->writer, m->noise_set[keep ? d : 0], &tap, videos, NULL, err);
    if (ok && !c->counting && !ebb_job_inverts(j)) /* else the inversion tells */
      step_done(&(batch_progress){j, number, count}, (int)d + 1, (int)draws);
    ebb_tap_close(&tap);
    ebb_arena_release(&c->activations, mark);
  }
  free(sum);
  return ok;
}

/* Every way that a model reads the latents, on one preparation of what the videos say. */
static bool run_model(ebb_job *j, int number, int64_t count, const int64_t *videos, const float *latents,
                      ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_condition own;
  const size_t constants = ebb_arena_mark(&c->weights);
  const ebb_condition *text = ebb_job_text_of(j, &j->models[number], count, videos, &own, err);
  const bool ok = text &&
                  (!ebb_job_inverts(j) || run_through(j, number, text, count, videos, latents, err)) &&
                  (ebb_job_draws(j) == 0 || run_noised(j, number, text, count, videos, latents, err));
  ebb_condition_free(&own);
  ebb_arena_release(&c->weights, constants);
  return ok;
}

static bool run_vae_features(ebb_job *j, int64_t count, const int64_t *videos, const float *latents,
                             ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_tap tap;
  size_t mark = ebb_arena_mark(&c->activations);
  bool ok = ebb_tap_open(&tap, &j->vae_plan, c, count, err);
  if (ok) {
    ebb_tensor x = upload_latents(j, count, latents);
    ebb_tap_begin(&tap, 0);
    ebb_tap_latent(&tap, EBB_LATENT, x);
    ebb_tap_end(&tap);
    ebb_tap_finish(&tap);
    ok = ebb_context_ok(c, err);
  }
  if (ok && !c->counting)
    ok = ebb_writer_put(j->writer, j->vae_set, &tap, videos, NULL, err);
  ebb_tap_close(&tap);
  ebb_arena_release(&c->activations, mark);
  return ok;
}

bool ebb_job_run_batch(ebb_job *j, int64_t first, int64_t count, ebb_error *err) {
  int64_t n = ebb_job_latent_count(j), read = 0;
  float *latents = malloc((size_t)(count * n) * sizeof *latents);
  int64_t *videos = malloc((size_t)count * sizeof *videos);
  bool ok =
      (latents && videos) || ebb_fail(err, "no memory for the latents of %lld videos", (long long)count);
  for (int64_t i = first; ok && i < first + count; i++) {
    ebb_error failure = {0};
    char sha256[65] = "";
    if (ebb_job_encode(j, i, latents + read * n, NULL, sha256, &failure))
      videos[read++] = i;
    if (sha256[0])
      ebb_store_input(j->store, i, sha256);
    if (failure.text[0])
      ebb_job_fail_video(j, i, failure.text);
    ok = ebb_context_ok(&j->context, err);
  }
  if (ok && read > 0) {
    ok = run_vae_features(j, read, videos, latents, err);
    for (int p = 0; ok && p < j->model_count; p++)
      ok = run_model(j, p, read, videos, latents, err);
  }
  free(videos);
  free(latents);
  return ok;
}
