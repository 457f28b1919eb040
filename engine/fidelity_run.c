#include "engine/fidelity_parts.h"

#include "engine/unipc.h"
#include "kernels/normal.h"
#include "loaders/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const ebb_loop_names[EBB_LOOPS] = {"data", "generated", "generated.vae"};
const char *const ebb_measure_names[EBB_MEASURES] = {"rmse",
                                                     "rel",
                                                     "cos",
                                                     "implicit_res",
                                                     "local_err",
                                                     "vel_cos",
                                                     "attn_cos_mean",
                                                     "attn_rows_cos_mean",
                                                     "attn_columns_cos_mean",
                                                     "attn_other_cos_mean"};
const char *const ebb_fidelity_maps[EBB_FIDELITY_MAPS] = {"attn_frames", "attn_rows", "attn_columns"};

/* ---- results ----------------------------------------------------------------------------------------- */

static double *unmeasured(int64_t n) {
  double *x = ebb_must(malloc((size_t)n * sizeof *x));
  for (int64_t i = 0; i < n; i++)
    x[i] = NAN;
  return x;
}

static void fill_sample(const ebb_fidelity *f, ebb_fidelity_sample *s, ebb_loop loop, const ebb_video *video,
                        int64_t drawn) {
  *s = (ebb_fidelity_sample){.loop = loop, .label = EBB_UNLABELLED};
  s->id = video ? ebb_format("%s", video->id) : ebb_format("generated/%lld", (long long)drawn);
  s->group = video ? ebb_format("%s", video->group) : ebb_format("%s", s->id);
  s->category = ebb_format("%s", video ? video->category : "generated");
  if (video)
    s->label = video->label;
  for (int m = 0; m < EBB_MEASURES; m++)
    s->value[m] = unmeasured(f->steps + 1);
  s->by_channel = ebb_must(calloc((size_t)f->channels, sizeof *s->by_channel));
  for (int m = 0; m < EBB_FIDELITY_MAPS && f->captured > 0; m++)
    s->map_cos[m] = ebb_must(calloc((size_t)(f->captured * f->blocks * f->heads), sizeof(float)));
}

static ebb_fidelity_sample *add_sample(ebb_fidelity *f, ebb_loop loop, const ebb_video *video,
                                       int64_t drawn) {
  ebb_fidelity_sample *s = &f->samples[f->count++];
  fill_sample(f, s, loop, video, drawn);
  return s;
}

void ebb_fidelity_free(ebb_fidelity *f) {
  for (int64_t i = 0; i < f->count; i++) {
    ebb_fidelity_sample *s = &f->samples[i];
    free(s->id);
    free(s->group);
    free(s->category);
    free(s->failed);
    for (int m = 0; m < EBB_MEASURES; m++)
      free(s->value[m]);
    free(s->by_channel);
    for (int m = 0; m < EBB_FIDELITY_MAPS; m++)
      free(s->map_cos[m]);
  }
  free(f->samples);
  free(f->sigma);
  *f = (ebb_fidelity){0};
}

/* ---- what it runs with ------------------------------------------------------------------------------- */

static bool make_plan(ebb_session *s, ebb_course_kind which, const ebb_schedule *grid, const char *solver,
                      const char *labels, bool generate, ebb_error *err) {
  return ebb_integration_named(&s->course[which].plan, grid, solver, labels, generate, err);
}

static bool make_plans(ebb_session *s, ebb_error *err) {
  const ebb_config *k = s->e.config;
  const char *solver = k->inversion.solver, *labels = k->inversion.labels;
  ebb_schedule grid = {0}, fine = {0};
  ebb_solver order_of = EBB_EULER;
  ebb_labels labelled = EBB_NOISY;
  const char *forward = s->options->forward ? s->options->forward : solver;
  bool ok = (strcmp(forward, "unipc") != 0 || ebb_unipc_check(k->model.path, err)) &&
            ebb_schedule_open(&grid, k->model.path, k->inversion.schedule, (int)k->inversion.steps,
                              k->inversion.shift, err) &&
            ebb_schedule_halve(&grid, &fine, err) && ebb_solver_named(solver, &order_of, err) &&
            ebb_labels_named(labels, &labelled, err) &&
            make_plan(s, EBB_COURSE_BACK, &grid, solver, labels, false, err) &&
            make_plan(s, EBB_COURSE_FORWARD, &grid, forward, labels, true, err) &&
            make_plan(s, EBB_COURSE_EULER, &grid, "euler", "matched", true, err) &&
            make_plan(s, EBB_COURSE_HALVES, &fine, solver, labels, false, err);
  if (ok) {
    s->order = ebb_solver_order(order_of, labelled);
    s->result->steps = grid.steps;
    s->result->sigma = ebb_must(calloc((size_t)grid.steps + 1, sizeof(double)));
    memcpy(s->result->sigma, grid.sigma, ((size_t)grid.steps + 1) * sizeof(double));
  }
  ebb_schedule_free(&grid);
  ebb_schedule_free(&fine);
  return ok;
}

/* Maps at the captured states that both ways ask the model at: all but the clean one. */
static bool plan_maps(ebb_session *s, ebb_error *err) {
  ebb_fidelity *f = s->result;
  ebb_config k = *s->e.config;
  k.capture.points = (ebb_name_list){EBB_FIDELITY_MAPS, {"attn_frames", "attn_rows", "attn_columns"}};
  const ebb_tap_sizes sizes = ebb_model_tap_sizes(&s->e.model, s->e.shape);
  ebb_tap_plan asked;
  if (!ebb_tap_plan_make(&asked, &k, f->steps, sizes, err))
    return false;
  f->captured = 0;
  for (int i = 0; i < asked.step_count; i++)
    if (asked.steps[i] > 0)
      f->capture[f->captured++] = asked.steps[i];
  f->blocks = asked.block_count;
  f->heads = sizes.heads;
  memcpy(f->block, asked.blocks, (size_t)asked.block_count * sizeof *f->block);
  if (f->captured == 0)
    return true;
  ebb_config turned = k;
  k.capture.steps.count = turned.capture.steps.count = f->captured;
  for (int i = 0; i < f->captured; i++) {
    k.capture.steps.values[i] = f->capture[i];
    turned.capture.steps.values[i] = f->steps - f->capture[f->captured - 1 - i];
  }
  return ebb_tap_plan_make(&s->back_plan, &k, f->steps, sizes, err) &&
         ebb_tap_plan_make(&s->forward_plan, &turned, f->steps, sizes, err);
}

static void mark_local(ebb_session *s) {
  const ebb_fidelity *f = s->result;
  free(s->local);
  s->local = NULL;
  if (strcmp(s->options->local, "captured") != 0)
    return;
  s->local = ebb_must(calloc((size_t)f->steps, sizeof *s->local));
  for (int i = 0; i < f->captured; i++)
    s->local[f->capture[i]] = true;
}

static bool open_models(ebb_session *s, ebb_error *err) {
  bool ok = ebb_experiment_open_models(&s->e, s->options->generated > 0, err);
  for (int i = 0; ok && i < EBB_COURSES; i++)
    ok = ebb_course_condition(&s->course[i], &s->e, err);
  s->result->channels = s->e.shape.channels;
  ok = ok && plan_maps(s, err);
  if (ok)
    mark_local(s);
  return ok;
}

static void close_models(ebb_session *s) {
  for (int i = 0; i < EBB_COURSES; i++)
    ebb_course_forget(&s->course[i]);
  ebb_experiment_close_models(&s->e);
}

/* ---- batches ----------------------------------------------------------------------------------------- */

static void report(ebb_session *s, double done) {
  const int64_t all = s->e.data.count + 2 * s->options->generated;
  if (s->options->progress)
    s->options->progress(s->options->progress_user, done, all);
}

static void fail_sample(ebb_session *s, ebb_fidelity_sample *sample, const char *reason) {
  sample->failed = ebb_format("%s", reason);
  fprintf(s->options->log, "failed %s: %s\n", sample->id, reason);
  s->result->failed++;
}

/* Failures that the loop itself found are said after it. */
static void say_failures(ebb_session *s, int64_t count, ebb_fidelity_sample *samples) {
  for (int64_t b = 0; b < count; b++)
    if (samples[b].failed) {
      fprintf(s->options->log, "failed %s: %s\n", samples[b].id, samples[b].failed);
      s->result->failed++;
    }
}

/* Videos that cannot be read become samples of their own, after those of their batch. */
static bool run_videos(ebb_session *s, ebb_reader *reader, int64_t first, int64_t count, ebb_error *err) {
  ebb_fidelity *f = s->result;
  const int64_t n = ebb_experiment_latent(&s->e), before = f->count;
  ebb_fidelity_sample *bad = ebb_must(calloc((size_t)count, sizeof *bad));
  int64_t broken = 0;
  bool ok = true;
  for (int64_t v = first; ok && v < first + count; v++) {
    const ebb_ready_clip *clip = ebb_reader_next(reader);
    if (clip->failure.text[0]) {
      fill_sample(f, &bad[broken], EBB_LOOP_DATA, &s->e.data.videos[v], 0);
      fail_sample(s, &bad[broken++], clip->failure.text);
    } else {
      ebb_experiment_encode(&s->e, clip->pixels, s->start + (f->count - before) * n);
      add_sample(f, EBB_LOOP_DATA, &s->e.data.videos[v], 0);
    }
    ebb_reader_done(reader);
    ok = ebb_context_ok(&s->e.context, err);
  }
  const int64_t read = f->count - before;
  if (ok && read > 0)
    ok = ebb_session_loop_data(s, read, f->samples + before, err);
  say_failures(s, read, f->samples + before);
  memcpy(f->samples + f->count, bad, (size_t)broken * sizeof *bad);
  f->count += broken;
  free(bad);
  return ok;
}

static bool run_data(ebb_session *s, ebb_error *err) {
  ebb_reader *reader = NULL;
  bool ok = ebb_experiment_open_reader(&s->e, s->batch, &reader, err);
  for (int64_t done = 0; ok && done < s->e.data.count; done += s->batch) {
    const int64_t left = s->e.data.count - done;
    ok = run_videos(s, reader, done, left < s->batch ? left : s->batch, err);
    report(s, (double)(done + (left < s->batch ? left : s->batch)));
  }
  ebb_reader_close(&reader);
  return ok;
}

static bool run_generated(ebb_session *s, ebb_error *err) {
  ebb_fidelity *f = s->result;
  const int64_t n = ebb_experiment_latent(&s->e), all = s->options->generated;
  bool ok = true;
  for (int64_t done = 0; ok && done < all; done += s->batch) {
    const int64_t count = all - done < s->batch ? all - done : s->batch;
    ebb_fidelity_sample *samples = f->samples + f->count, *again = samples + count;
    for (int64_t b = 0; b < count; b++) {
      ebb_normals(s->start + b * n, n, (uint64_t)s->options->seed, (uint64_t)(done + b));
      add_sample(f, EBB_LOOP_GENERATED, NULL, done + b);
    }
    for (int64_t b = 0; b < count; b++)
      add_sample(f, EBB_LOOP_VAE, NULL, done + b);
    ok = ebb_session_loop_generated(s, count, samples, again, err);
    say_failures(s, 2 * count, samples);
    report(s, (double)(s->e.data.count + 2 * (done + count)));
  }
  return ok;
}

static bool take_host_memory(ebb_session *s, ebb_error *err) {
  const size_t state = (size_t)(s->batch * ebb_experiment_latent(&s->e)),
               states = (size_t)s->result->steps + 1;
  s->start = malloc(state * sizeof *s->start);
  s->inverted = malloc(states * state * sizeof *s->inverted);
  s->forward = malloc(states * state * sizeof *s->forward);
  s->result->samples =
      calloc((size_t)(s->e.data.count + 2 * s->options->generated + 1), sizeof *s->result->samples);
  return (s->start && s->inverted && s->forward && s->result->samples) ||
         ebb_fail(err, "no memory for two paths of %zu states: %.2f GiB; a smaller run.batch takes less",
                  states, 2.0 * (double)states * (double)state * 4 / (1 << 30));
}

/* For ebb_context_sized: counting, one batch through every loop. */
static bool work(void *user, ebb_error *err) {
  ebb_session *s = user;
  bool ok = open_models(s, err);
  if (ok && s->e.context.counting) {
    ebb_experiment_encode(&s->e, NULL, NULL);
    ok = ebb_session_loop_data(s, s->batch, NULL, err) &&
         (s->options->generated == 0 || ebb_session_loop_generated(s, s->batch, NULL, NULL, err)) &&
         ebb_context_ok(&s->e.context, err);
    s->result->evaluations = 0;
  } else if (ok) {
    ok = take_host_memory(s, err) && run_data(s, err) && run_generated(s, err) &&
         ebb_digest_finish(&s->e.model.digest, s->e.model.sha256, err);
    memcpy(s->result->model_sha256, s->e.model.sha256, sizeof s->e.model.sha256);
  }
  close_models(s);
  return ok;
}

bool ebb_fidelity_run(const ebb_config *k, const ebb_fidelity_options *options, ebb_fidelity *f,
                      ebb_error *err) {
  ebb_session s = {.options = options, .result = f, .batch = k->run.batch};
  *f = (ebb_fidelity){0};
  bool ok = ebb_experiment_open(&s.e, k, options->log, err);
  const int64_t most = s.e.data.count > options->generated ? s.e.data.count : options->generated;
  if (s.batch > most)
    s.batch = most;
  ok = ok && make_plans(&s, err) && ebb_context_sized(&s.e.context, work, &s, err);
  f->failed += s.e.skipped;
  if (s.e.context.backend)
    snprintf(f->device, sizeof f->device, "%s", ebb_context_device(&s.e.context));
  for (int i = 0; i < EBB_COURSES; i++)
    ebb_integration_free(&s.course[i].plan);
  free(s.local);
  free(s.start);
  free(s.inverted);
  free(s.forward);
  ebb_experiment_close(&s.e);
  return ok;
}
