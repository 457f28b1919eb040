#include "engine/fidelity_parts.h"

#include "loaders/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- ways -------------------------------------------------------------------------------------------- */

typedef struct walker { /* what a way's walk is given */
  ebb_session *session;
  const ebb_course *course;
} walker;

/* A sample that a step gives up becomes NaN, as what is measured there does. */
static void walk(void *user, int first, int count, ebb_tensor x) {
  const walker *w = user;
  ebb_error *failures = ebb_must(calloc((size_t)x.shape[0], sizeof *failures));
  ebb_run run = ebb_course_run(w->course, &w->session->e, NULL, failures);
  w->session->result->evaluations += ebb_invert_steps(&run, first, count, x, NULL);
  free(failures);
}

/* From host `start` along a course; every state into trajectory, in the course's order. */
static bool travel(ebb_session *s, ebb_course_kind which, int64_t count, const float *start,
                   float *trajectory, ebb_tap *tap, ebb_fidelity_sample *samples, ebb_error *err) {
  ebb_context *c = &s->e.context;
  ebb_error *failures = calloc((size_t)count, sizeof *failures);
  if (!failures)
    return ebb_fail(err, "no memory for %lld samples", (long long)count);
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor x = ebb_experiment_state(&s->e, count);
  ebb_upload(c, x, start);
  ebb_run run = ebb_course_run(&s->course[which], &s->e, tap, failures);
  s->result->evaluations += ebb_invert(&run, x, trajectory);
  ebb_arena_release(&c->activations, mark);
  for (int64_t b = 0; b < count && !c->counting; b++)
    if (failures[b].text[0] && !samples[b].failed)
      samples[b].failed = ebb_format("%s", failures[b].text);
  free(failures);
  return ebb_context_ok(c, err);
}

/* Trajectories of generations begin with the noise: turns one round. */
static void turn_round(float *states, int count, int64_t n) {
  float *room = ebb_must(malloc((size_t)n * sizeof *room));
  const size_t bytes = (size_t)n * sizeof *room;
  for (int i = 0, j = count - 1; i < j; i++, j--) {
    memcpy(room, states + i * n, bytes);
    memcpy(states + i * n, states + j * n, bytes);
    memcpy(states + j * n, room, bytes);
  }
  free(room);
}

/* ---- what is measured -------------------------------------------------------------------------------- */

/* Cosine of two displacements, both of a step from a[k] to a[k+1]. */
static double displacement_cosine(const float *a0, const float *a1, const float *b0, const float *b1,
                                  int64_t n) {
  double ab = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < n; i++) {
    double a = (double)a1[i] - (double)a0[i], b = (double)b1[i] - (double)b0[i];
    ab += a * b;
    aa += a * a;
    bb += b * b;
  }
  return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

static void measure_states(ebb_session *s, int64_t count, ebb_fidelity_sample *samples) {
  const int64_t n = ebb_experiment_latent(&s->e), all = count * n;
  const int steps = s->result->steps;
  for (int64_t b = 0; b < count; b++)
    for (int k = 0; k <= steps; k++) {
      const float *z = s->inverted + k * all + b * n, *f = s->forward + k * all + b * n;
      ebb_distance d = ebb_distance_of(z, f, n);
      samples[b].value[EBB_RMSE][k] = d.rmse;
      samples[b].value[EBB_REL][k] = d.rel;
      samples[b].value[EBB_COS][k] = d.cos;
      if (k < steps)
        samples[b].value[EBB_VEL_COS][k] = displacement_cosine(z, z + all, f, f + all, n);
    }
}

static bool measure_steps(ebb_session *s, int64_t count, ebb_fidelity_sample *samples, ebb_error *err) {
  ebb_context *c = &s->e.context;
  const int steps = s->result->steps;
  if (strcmp(s->options->local, "none") == 0)
    return true;
  double *of_steps[2]; /* residuals, local errors */
  for (int i = 0; i < 2; i++) {
    of_steps[i] = ebb_must(malloc((size_t)(steps * count) * sizeof **of_steps));
    for (int64_t k = 0; k < steps * count; k++)
      of_steps[i][k] = NAN;
  }
  size_t mark = ebb_arena_mark(&c->activations);
  const ebb_path path = {c, s->inverted, steps, ebb_experiment_state(&s->e, count)};
  walker euler = {s, &s->course[EBB_COURSE_EULER]}, halves = {s, &s->course[EBB_COURSE_HALVES]};
  bool ok = ebb_implicit_residuals(&path, &(ebb_way){&euler.course->plan, walk, &euler}, s->local,
                                   of_steps[0], err) &&
            ebb_local_errors(&path, &(ebb_way){&halves.course->plan, walk, &halves}, s->order, s->local,
                             of_steps[1], err);
  ebb_arena_release(&c->activations, mark);
  for (int64_t b = 0; ok && !c->counting && b < count; b++)
    for (int k = 0; k < steps; k++) {
      samples[b].value[EBB_IMPLICIT_RES][k] = of_steps[0][k * count + b];
      samples[b].value[EBB_LOCAL_ERR][k] = of_steps[1][k * count + b];
    }
  free(of_steps[0]);
  free(of_steps[1]);
  return ok;
}

/* The map of a head that a tap kept at the state with place `at` among its captured ones. */
static const float *map_of(const ebb_tap *tap, int slot, int64_t sample, int at, int64_t block, int64_t head,
                           int64_t *width) {
  const ebb_feature *f = &tap->plan->slots[slot].feature;
  const int64_t heads = ebb_store_heads(f), all = ebb_tap_slot_floats(tap->plan, slot);
  const int64_t of_step = all / tap->plan->step_count, of_block = of_step / tap->plan->block_count;
  *width = of_block / heads;
  return tap->data[slot] + sample * all + at * of_step + block * of_block + head * *width;
}

/* Both taps have the same slots and blocks; the forward one meets the states in the other order, and never
 * the clean one. */
static void measure_maps(ebb_session *s, int64_t count, const ebb_tap *back, const ebb_tap *forward,
                         ebb_fidelity_sample *samples) {
  const ebb_fidelity *f = s->result;
  static const ebb_measure means[] = {EBB_ATTN_COS, EBB_ROWS_COS, EBB_COLUMNS_COS};
  for (int64_t b = 0; b < count; b++)
    for (int map = 0; map < EBB_FIDELITY_MAPS; map++)
      for (int i = 0; i < f->captured; i++) {
        double sum = 0, other = 0;
        int64_t defined = 0, with_other = 0, width;
        for (int64_t at = 0; at < f->blocks * f->heads; at++) {
          const int64_t block = at / f->heads, head = at % f->heads;
          const float *z = map_of(back, map, b, i, block, head, &width);
          const int turned = f->captured - 1 - i;
          double cosine = ebb_cosine(z, map_of(forward, map, b, turned, block, head, &width), width);
          samples[b].map_cos[map][(i * (int64_t)f->blocks + block) * f->heads + head] = (float)cosine;
          if (isfinite(cosine)) {
            sum += cosine;
            defined++;
          }
          if (map > 0 || count < 2)
            continue;
          cosine = ebb_cosine(z, map_of(forward, map, (b + 1) % count, turned, block, head, &width), width);
          if (isfinite(cosine)) {
            other += cosine;
            with_other++;
          }
        }
        samples[b].value[means[map]][f->capture[i]] = defined ? sum / (double)defined : NAN;
        if (map == 0)
          samples[b].value[EBB_OTHER_COS][f->capture[i]] = with_other ? other / (double)with_other : NAN;
      }
}

static bool measure_noise(ebb_session *s, int64_t count, ebb_fidelity_sample *samples, ebb_error *err) {
  const ebb_latent_shape z = s->e.shape;
  const int64_t n = ebb_experiment_latent(&s->e);
  const float *ends = s->inverted + s->result->steps * count * n;
  bool ok = true;
  for (int64_t b = 0; ok && b < count; b++)
    ok = ebb_noise_statistics_of(ends + b * n, z.channels, z.frames, z.height, z.width, &samples[b].noise,
                                 samples[b].by_channel, err);
  return ok;
}

/* Both paths are there: all measures. A sample whose states are not finite has failed. */
static bool measure(ebb_session *s, int64_t count, const ebb_tap *back, const ebb_tap *forward,
                    ebb_fidelity_sample *samples, ebb_error *err) {
  if (!measure_steps(s, count, samples, err) || s->e.context.counting)
    return !err->text[0];
  measure_states(s, count, samples);
  if (s->result->captured > 0)
    measure_maps(s, count, back, forward, samples);
  for (int64_t b = 0; b < count; b++)
    for (int k = 0; k <= s->result->steps && !samples[b].failed; k++)
      if (!isfinite(samples[b].value[EBB_RMSE][k]))
        samples[b].failed = ebb_format("values that are not finite at sigma %.5g", s->result->sigma[k]);
  return measure_noise(s, count, samples, err);
}

/* ---- loops ------------------------------------------------------------------------------------------- */

/* Taps of both ways, where attention is looked at. */
typedef struct taps {
  ebb_tap back, forward;
} taps;

static bool open_taps(ebb_session *s, int64_t count, taps *t, ebb_error *err) {
  *t = (taps){.back = {.step = -1}, .forward = {.step = -1}};
  return s->result->captured == 0 || (ebb_tap_open(&t->back, &s->back_plan, &s->e.context, count, err) &&
                                      ebb_tap_open(&t->forward, &s->forward_plan, &s->e.context, count, err));
}

static ebb_tap *opened(ebb_tap *tap) {
  return tap->plan ? tap : NULL;
}

static void close_taps(taps *t) {
  if (t->back.plan)
    ebb_tap_close(&t->back);
  if (t->forward.plan)
    ebb_tap_close(&t->forward);
}

bool ebb_session_loop_data(ebb_session *s, int64_t count, ebb_fidelity_sample *samples, ebb_error *err) {
  const int steps = s->result->steps;
  const int64_t all = count * ebb_experiment_latent(&s->e);
  const bool counting = s->e.context.counting;
  size_t mark = ebb_arena_mark(&s->e.context.activations);
  taps t;
  bool ok = open_taps(s, count, &t, err) &&
            travel(s, EBB_COURSE_BACK, count, s->start, s->inverted, opened(&t.back), samples, err) &&
            travel(s, EBB_COURSE_FORWARD, count, counting ? NULL : s->inverted + steps * all, s->forward,
                   opened(&t.forward), samples, err);
  if (ok && !counting)
    turn_round(s->forward, steps + 1, all);
  ok = ok && measure(s, count, &t.back, &t.forward, samples, err);
  close_taps(&t);
  ebb_arena_release(&s->e.context.activations, mark);
  return ok;
}

/* start <- the clean ends of the forward paths, decoded to pixels and encoded again, one by one. */
static bool through_pixels(ebb_session *s, int64_t count, ebb_error *err) {
  ebb_context *c = &s->e.context;
  const ebb_latent_shape z = s->e.shape;
  const int64_t n = ebb_experiment_latent(&s->e);
  for (int64_t b = 0; b < (c->counting ? 1 : count); b++) {
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor latent = ebb_experiment_state(&s->e, 1);
    ebb_tensor video = EBB_ACTIVATION(c, "video", 1, 3, s->e.vae.time_stride * (z.frames - 1) + 1,
                                      s->e.vae.space_stride * z.height, s->e.vae.space_stride * z.width);
    if (!c->counting)
      ebb_upload(c, latent, s->forward + b * n);
    ebb_vae_decode(&s->e.vae, video, latent);
    ebb_vae_encode(&s->e.vae, latent, video);
    if (!c->counting)
      ebb_download(c, s->start + b * n, latent);
    ebb_arena_release(&c->activations, mark);
    if (!ebb_context_ok(c, err))
      return false;
  }
  return true;
}

bool ebb_session_loop_generated(ebb_session *s, int64_t count, ebb_fidelity_sample *samples,
                                ebb_fidelity_sample *again, ebb_error *err) {
  const int steps = s->result->steps;
  const int64_t all = count * ebb_experiment_latent(&s->e);
  const bool counting = s->e.context.counting;
  size_t mark = ebb_arena_mark(&s->e.context.activations);
  taps t;
  bool ok = open_taps(s, count, &t, err) &&
            travel(s, EBB_COURSE_FORWARD, count, s->start, s->forward, opened(&t.forward), samples, err);
  if (ok && !counting)
    turn_round(s->forward, steps + 1, all);
  ok = ok && travel(s, EBB_COURSE_BACK, count, s->forward, s->inverted, opened(&t.back), samples, err) &&
       measure(s, count, &t.back, &t.forward, samples, err) && through_pixels(s, count, err) &&
       travel(s, EBB_COURSE_BACK, count, s->start, s->inverted, opened(&t.back), again, err) &&
       measure(s, count, &t.back, &t.forward, again, err);
  close_taps(&t);
  ebb_arena_release(&s->e.context.activations, mark);
  return ok;
}
