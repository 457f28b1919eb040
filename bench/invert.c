/* bench invert: videos per hour, from clips in memory to features in memory; and how exact it is (fidelity.c). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/fidelity.h"
#include "loaders/file.h"

typedef struct inversion {
  bench_subject subject;
  bench_fidelity fidelity;
  int captures;
  float *clip;    /* host [3,F,H,W] */
  float *latents; /* host [B,C,T,h,w] */
  /* speed */
  ebb_vae vae;
  ebb_model model;
  ebb_integration plan;
  ebb_condition cond;
  ebb_tap_plan tap_plan;
  double encode_seconds[4096], *step_seconds; /* of each clip; of each step */
  double since;
} inversion;

static int64_t latent_count(const inversion *v) {
  const ebb_latent_shape *z = &v->subject.shape;
  return z->channels * z->frames * z->height * z->width;
}

/* ---- clips ------------------------------------------------------------------------------------------- */

/* A disc on a shaded ground that falls and bounces; every clip starts elsewhere. Values in [-1,1]. */
static void draw_clip(float *to, int64_t number, int64_t F, int64_t H, int64_t W) {
  double x = 0.2 + 0.6 * fmod(0.37 * (double)number, 1), radius = 0.08;
  for (int64_t f = 0; f < F; f++) {
    double t = fmod((double)f / 24 + 0.13 * (double)number, 1) - 0.5, y = 0.2 + 2.4 * t * t;
    for (int64_t i = 0; i < H * W; i++) {
      double row = (double)(i / W) / (double)H, column = (double)(i % W) / (double)W;
      double distance = hypot(row - y, column - x), inside = distance < radius ? 1 : 0;
      for (int64_t channel = 0; channel < 3; channel++)
        to[(channel * F + f) * H * W + i] =
            (float)(inside * (0.9 - 0.6 * (double)channel) + (1 - inside) * (0.5 * row - 0.4 + 0.1 * column));
    }
  }
}

/* All clips through the encoder, one at a time, as ebb invert does. */
static bool encode_clips(inversion *v, ebb_vae *vae, ebb_error *err) {
  bench_subject *s = &v->subject;
  ebb_context *c = &s->context;
  const ebb_latent_shape z = s->shape;
  const int64_t F = s->options.frames;
  for (int64_t b = 0; b < (c->counting ? 1 : s->options.batch); b++) {
    if (!c->counting)
      draw_clip(v->clip, b, F, s->height, s->width);
    double start = bench_now();
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor video = EBB_ACTIVATION(c, "video", 1, 3, F, s->height, s->width);
    ebb_tensor latent = EBB_ACTIVATION(c, "latent", 1, z.channels, z.frames, z.height, z.width);
    ebb_upload(c, video, v->clip);
    ebb_vae_encode(vae, latent, video);
    ebb_download(c, v->latents + b * latent_count(v), latent);
    ebb_arena_release(&c->activations, mark);
    v->encode_seconds[b] = bench_now() - start;
  }
  return ebb_context_ok(c, err);
}

/* ---- speed ------------------------------------------------------------------------------------------- */

static bool make_plan(inversion *v, ebb_error *err) {
  const bench_fidelity *f = &v->fidelity;
  ebb_schedule schedule = {0};
  bool ok = ebb_schedule_open(&schedule, v->subject.folder, "auto", atoi(f->steps.names[0]), 0, err) &&
            ebb_integration_named(&v->plan, &schedule, f->solvers.names[0], f->labels.names[0], false, err);
  ebb_schedule_free(&schedule);
  return ok;
}

/* Token means and attention statistics of every block at `captures` steps, evenly from the first to the last. */
static bool plan_capture(inversion *v, ebb_error *err) {
  ebb_config k;
  ebb_config_defaults(&k);
  int steps = v->plan.steps, count = v->captures < steps ? v->captures : steps;
  k.capture.steps.count = count;
  for (int i = 0; i < count; i++)
    k.capture.steps.values[i] = count > 1 ? (int64_t)i * (steps - 1) / (count - 1) : 0;
  k.capture.blocks.count = -1;
  k.capture.points = (ebb_name_list){3, {"block_out", "attn_frames", "attn_entropy"}};
  k.capture.pool = (ebb_name_list){1, {"mean"}};
  return ebb_tap_plan_make(&v->tap_plan, &k, steps, ebb_model_tap_sizes(&v->model, v->subject.shape), err);
}

static bool is_captured(const inversion *v, int step) {
  for (int i = 0; v->captures > 0 && i < v->tap_plan.step_count; i++)
    if (v->tap_plan.steps[i] == step)
      return true;
  return false;
}

static void step_done(void *user, int step, int steps) {
  inversion *v = user;
  (void)steps;
  ebb_context_wait(&v->subject.context);
  double now = bench_now();
  v->step_seconds[step - 1] = now - v->since;
  v->since = now;
}

/* Median over the steps that are captured or not; calls 0 where there are none. */
static bench_time step_time(const inversion *v, bool captured) {
  double *times = ebb_must(malloc((size_t)v->plan.steps * sizeof *times));
  int count = 0;
  for (int i = 0; i < v->plan.steps; i++)
    if (is_captured(v, i) == captured)
      times[count++] = v->step_seconds[i];
  bench_time t = {0};
  if (count > 0)
    t = (bench_time){bench_median(times, count), times[0], count};
  free(times);
  return t;
}

static void print_speed(inversion *v, double total, ebb_counters n) {
  const bench_subject *s = &v->subject;
  const char *dtype = ebb_dtype_name(s->dtype);
  char shape[64], which[128];
  int clips = (int)s->options.batch;
  double median = bench_median(v->encode_seconds, clips);
  bench_latent_text(s, shape);
  bench_sheet_row(&s->sheet, &(bench_row){"encode",
                                          "one clip, copies included",
                                          shape,
                                          ebb_dtype_name(s->vae_dtype),
                                          {median, v->encode_seconds[0], clips},
                                          0,
                                          0});
  bench_time plain = step_time(v, false), captured = step_time(v, true);
  if (plain.calls > 0)
    bench_sheet_row(&s->sheet, &(bench_row){"inversion step", "no capture", shape, dtype, plain, 0, 0});
  if (captured.calls > 0)
    bench_sheet_row(&s->sheet,
                    &(bench_row){"inversion step", "means and attention maps", shape, dtype, captured, 0, 0});
  snprintf(which, sizeof which, "%s %s, %d steps, %d captured", v->fidelity.solvers.names[0],
           v->fidelity.labels.names[0], v->plan.steps, captured.calls);
  bench_sheet_row(&s->sheet,
                  &(bench_row){"inversion", which, shape, dtype, {total, total, 1}, n.flops, n.bytes});
  printf("%s%.4g videos an hour: %lld videos in %.4g s, clips in memory to features in memory\n",
         s->sheet.csv ? "# " : "", 3600 * clips / total, (long long)clips, total);
}

static bool run_speed(inversion *v, ebb_error *err) {
  bench_subject *s = &v->subject;
  ebb_context *c = &s->context;
  const ebb_latent_shape z = s->shape;
  ebb_tap tap = {.plan = &v->tap_plan};
  if (v->captures > 0 && !ebb_tap_open(&tap, &v->tap_plan, c, s->options.batch, err))
    return false;
  if (!c->counting && !encode_clips(v, &v->vae, err)) /* one round for nothing: libraries warm up */
    return false;
  ebb_counters before = c->counters;
  double start = bench_now();
  bool ok = encode_clips(v, &v->vae, err);
  if (ok) {
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor x = EBB_ACTIVATION(c, "latents", s->options.batch, z.channels, z.frames, z.height, z.width);
    ebb_upload(c, x, v->latents);
    v->since = bench_now();
    ebb_run run = {.model = &v->model,
                   .plan = &v->plan,
                   .text = &v->cond,
                   .guidance = 1,
                   .tap = v->captures > 0 ? &tap : NULL,
                   .progress = c->counting ? NULL : step_done,
                   .progress_user = v};
    ebb_invert(&run, x, NULL);
    ebb_context_wait(c);
    ebb_arena_release(&c->activations, mark);
    ok = ebb_context_ok(c, err);
  }
  ebb_counters n = c->counters;
  n.flops -= before.flops;
  n.bytes -= before.bytes;
  if (ok && !c->counting)
    print_speed(v, bench_now() - start, n);
  if (v->captures > 0)
    ebb_tap_close(&tap);
  return ok;
}

static bool speed(void *user, ebb_error *err) {
  inversion *v = user;
  bench_subject *s = &v->subject;
  bool ok = make_plan(v, err) && bench_open_vae(s, &v->vae, err) &&
            bench_open_transformer(s, &v->model, err) &&
            bench_condition(s, &v->model, v->plan.labels, v->plan.moments, &v->cond, err) &&
            (v->captures == 0 || plan_capture(v, err));
  if (ok) {
    v->step_seconds = ebb_must(calloc((size_t)v->plan.steps, sizeof *v->step_seconds));
    ok = run_speed(v, err);
    free(v->step_seconds);
  }
  ebb_condition_free(&v->cond);
  ebb_integration_free(&v->plan);
  ebb_model_close(&v->model);
  ebb_vae_close(&v->vae);
  return ok;
}

/* ---- errors ------------------------------------------------------------------------------------------ */

static bool encode_only(void *user, ebb_error *err) {
  inversion *v = user;
  ebb_vae vae = {0};
  bool ok = bench_open_vae(&v->subject, &vae, err) && encode_clips(v, &vae, err);
  ebb_vae_close(&vae);
  return ok;
}

/* `latents` of a file in place of the encoded clips; they must be what the options say. */
static bool read_latents(inversion *v, const char *path, ebb_error *err) {
  const ebb_latent_shape *z = &v->subject.shape;
  const int64_t shape[] = {v->subject.options.batch, z->channels, z->frames, z->height, z->width};
  char is[EBB_SHAPE_TEXT], should[EBB_SHAPE_TEXT];
  ebb_safetensors st;
  if (!ebb_safetensors_open(&st, path, err))
    return false;
  const ebb_st_entry *e = ebb_safetensors_find(&st, "latents");
  bool ok = e != NULL || ebb_fail(err, "%s: no tensor 'latents'", path);
  if (ok && (e->rank != 5 || memcmp(e->shape, shape, sizeof shape) != 0))
    ok = ebb_fail(err, "%s: 'latents' is %s, expected %s (--batch, --size, --frames)", path,
                  ebb_shape_text(e->rank < EBB_DIMS ? e->rank : EBB_DIMS, e->shape, is),
                  ebb_shape_text(5, shape, should));
  ok = ok && ebb_safetensors_read_f32(&st, e, v->latents, err);
  ebb_safetensors_close(&st);
  return ok;
}

/* ---- the command ------------------------------------------------------------------------------------- */

static bool split_list(const char *option, const char *text, bench_names *names, ebb_error *err) {
  *names = (bench_names){0};
  for (const char *at = text; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    size_t n = strcspn(at, ",");
    if (n == 0 || n >= sizeof names->names[0] || names->count == 16)
      return ebb_fail(err, "--%s: found '%s', expected up to 16 entries with commas between them", option,
                      text);
    memcpy(names->names[names->count++], at, n);
  }
  return true;
}

/* solvers NULL: all that invert in `dtype`. */
static bool parse_lists(bench_fidelity *f, const char *solvers, const char *labels, const char *steps,
                        const char *dtype, ebb_error *err) {
  if (!solvers)
    solvers = ebb_solver_takes("", "exact", "", dtype, NULL) ? "euler,heun,midpoint,rk4,exact"
                                                             : "euler,heun,midpoint,rk4";
  if (!split_list("solver", solvers, &f->solvers, err) || !split_list("labels", labels, &f->labels, err) ||
      !split_list("steps", steps, &f->steps, err))
    return false;
  ebb_solver solver;
  ebb_labels label;
  for (int i = 0; i < f->solvers.count; i++)
    if (!ebb_solver_named(f->solvers.names[i], &solver, err) ||
        !ebb_solver_takes("--solver", f->solvers.names[i], "--dtype", dtype, err))
      return false;
  for (int i = 0; i < f->labels.count; i++)
    if (!ebb_labels_named(f->labels.names[i], &label, err))
      return false;
  for (int i = 0; i < f->steps.count; i++)
    if (atoi(f->steps.names[i]) < 1 || atoi(f->steps.names[i]) > 10000)
      return ebb_fail(err, "--steps: found '%s', expected numbers from 1 to 10000", f->steps.names[i]);
  return true;
}

static bool run(inversion *v, const char *part, const char *latents, ebb_error *err) {
  bench_subject *s = &v->subject;
  if (s->options.batch > 4096)
    return ebb_fail(err, "--batch: at most 4096");
  v->clip = malloc((size_t)(3 * s->options.frames * s->height * s->width) * sizeof *v->clip);
  v->latents = malloc((size_t)(s->options.batch * latent_count(v)) * sizeof *v->latents);
  if (!v->clip || !v->latents)
    return ebb_fail(err, "no memory for %lld clips", (long long)s->options.batch);
  bool errors = strcmp(part, "speed") != 0, with_speed = strcmp(part, "errors") != 0;
  if (with_speed) {
    bench_sheet_start(&s->sheet, &s->context);
    bench_sheet_ceilings(&s->sheet, s->dtype);
    if (!ebb_context_sized(&s->context, speed, v, err))
      return false;
  }
  if (!errors)
    return true;
  bool have = latents ? read_latents(v, latents, err)
                      : with_speed || ebb_context_sized(&s->context, encode_only, v, err);
  v->fidelity.subject = s;
  v->fidelity.latents = v->latents;
  return have && bench_fidelity_run(&v->fidelity, err);
}

static const char *const summary =
    "Speed: a batch of drawn clips through the VAE and backward to noise, with captures: seconds a\n"
    "clip and a step, videos an hour. Errors: for every solver, labels and steps, a latent inverted\n"
    "and generated again, and a noise generated and inverted again: relative L2 distances at the end\n"
    "of the loop and at the worst state on the way. An exact step may take 100 evaluations: ask for\n"
    "less on large models.";

int bench_invert(int argc, char **argv) {
  static inversion v;
  bench_subject_options o = bench_subject_defaults;
  const char *solvers = NULL, *labels = "noisy,matched", *steps = "20";
  const char *part = "both", *latents = NULL;
  int64_t captures = 11;
  int every_step = 0;
  enum { OWN = 7 };
  ebb_option options[OWN + BENCH_SUBJECT_OPTIONS] = {
      {"part", EBB_OPTION_TEXT, &part, "NAME", "speed, errors or both (both)", 0, 0, "speed|errors|both"},
      {"solver", EBB_OPTION_TEXT, &solvers, "LIST",
       "of euler,heun,midpoint,rk4,exact (all; bfloat16: all but exact; speed: the first)", 0, 0, NULL},
      {"labels", EBB_OPTION_TEXT, &labels, "LIST", "of noisy,matched (both; speed: the first)", 0, 0, NULL},
      {"steps", EBB_OPTION_TEXT, &steps, "LIST", "numbers of steps (20; speed: the first)", 0, 0, NULL},
      {"captures", EBB_OPTION_INT, &captures, "N", "speed: steps that are captured (11)", 0, 128, NULL},
      {"latents", EBB_OPTION_TEXT, &latents, "FILE",
       "errors: safetensors with `latents` [B,C,T,H,W] (encoded clips)", 0, 0, NULL},
      {"every-step", EBB_OPTION_FLAG, &every_step, NULL, "errors: a second table, of every state on the way",
       0, 0, NULL},
  };
  int count =
      OWN + bench_subject_list(
                &o, "arch model transformer device dtype vae-dtype batch size frames text words seed csv",
                options + OWN);
  const ebb_command command = {
      "invert [--arch NAME | --model DIR] [options]", summary, options, count, NULL, 0, 0, NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {{0}};
  bool usage = !parse_lists(&v.fidelity, solvers, labels, steps, o.dtype, &err);
  v.captures = (int)captures;
  v.fidelity.every_step = every_step;
  bench_subject *s = &v.subject;
  bool ok = !usage && bench_subject_open(s, &o, &usage, &err) &&
            bench_find_ceilings(&s->context, s->dtype, &s->sheet.ceilings, &err) &&
            run(&v, part, latents, &err);
  free(v.clip);
  free(v.latents);
  bench_subject_close(s);
  return ok ? EBB_EXIT_OK : usage ? (bench_fail(&err), EBB_EXIT_USAGE) : bench_fail(&err);
}
