#include "engine/eval.h"

#include "engine/invert.h"
#include "engine/unipc.h"
#include "engine/vae.h"
#include "loaders/file.h"
#include "loaders/frames.h"
#include "loaders/safetensors.h"

#include <stdlib.h>
#include <string.h>

/* A float32 tensor of the input file in host memory; data NULL: not there. */
typedef struct host_tensor {
  int rank;
  int64_t shape[EBB_ST_RANK];
  int64_t count;
  float *data;
} host_tensor;

typedef struct evaluation {
  const ebb_eval_options *options;
  ebb_dtype dtype;
  ebb_context context;
  host_tensor latents, video, timestep, text, negative;
  ebb_st_writer *writer; /* NULL while counting */
} evaluation;

/* Reads `name` of the given rank. Absent: an error unless optional. */
static bool read_input(const ebb_safetensors *st, const char *name, int rank, bool optional, host_tensor *t,
                       ebb_error *err) {
  char text[EBB_SHAPE_TEXT];
  const ebb_st_entry *e = ebb_safetensors_find(st, name);
  if (!e)
    return optional || ebb_fail(err, "%s: no tensor '%s', which this operation needs", st->path, name);
  if (strcmp(e->dtype, "F32") != 0 || e->rank != rank)
    return ebb_fail(err, "%s: '%s' is %s %s, expected F32 of %d dimensions", st->path, name, e->dtype,
                    ebb_shape_text(e->rank, e->shape, text), rank);
  t->rank = rank;
  memcpy(t->shape, e->shape, sizeof t->shape);
  t->count = ebb_st_elements(e);
  if (t->count == 0)
    return ebb_fail(err, "%s: '%s' is empty: %s", st->path, name, ebb_shape_text(e->rank, e->shape, text));
  t->data = malloc((size_t)t->count * sizeof(float));
  if (!t->data)
    return ebb_fail(err, "%s: no memory for '%s'", st->path, name);
  return ebb_safetensors_read_f32(st, e, t->data, err);
}

static bool is_op(const evaluation *e, const char *op) {
  return strcmp(e->options->op, op) == 0;
}

static bool read_inputs(evaluation *e, ebb_error *err) {
  ebb_safetensors st;
  if (!ebb_safetensors_open(&st, e->options->in, err))
    return false;
  bool ok;
  if (is_op(e, "encode"))
    ok = read_input(&st, "video", 5, false, &e->video, err);
  else
    ok = read_input(&st, is_op(e, "sample") ? "noise" : "latents", 5, false, &e->latents, err);
  if (ok && is_op(e, "velocity"))
    ok = read_input(&st, "timestep", 1, false, &e->timestep, err);
  if (ok && (is_op(e, "velocity") || is_op(e, "invert") || is_op(e, "sample")))
    ok = read_input(&st, "text", 3, false, &e->text, err) &&
         read_input(&st, "text_negative", 3, e->options->guidance == 1, &e->negative, err);
  int64_t batch = e->latents.shape[0];
  if (ok && e->timestep.data && e->timestep.shape[0] != batch)
    ok = ebb_fail(err, "%s: 'timestep' has %lld entries, expected one for each of the %lld latents", st.path,
                  (long long)e->timestep.shape[0], (long long)batch);
  const host_tensor *texts[] = {&e->text, &e->negative};
  for (int i = 0; ok && i < 2; i++)
    if (texts[i]->data && texts[i]->shape[0] != 1 && texts[i]->shape[0] != batch)
      ok = ebb_fail(err, "%s: '%s' has %lld entries, expected 1 or one for each of the %lld latents", st.path,
                    i ? "text_negative" : "text", (long long)texts[i]->shape[0], (long long)batch);
  ebb_safetensors_close(&st);
  return ok;
}

static ebb_latent_shape shape_of(const host_tensor *t) {
  return (ebb_latent_shape){t->shape[1], t->shape[2], t->shape[3], t->shape[4]};
}

static ebb_text text_of(const host_tensor *t) {
  return (ebb_text){t->data, t->shape[0], t->shape[1], t->shape[2]};
}

static ebb_tensor activation_like(ebb_context *c, const char *name, const host_tensor *t) {
  return ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, name, t->rank, t->shape);
}

static ebb_st_declare declare(const char *name, int rank, const int64_t *shape) {
  ebb_st_declare d = {.name = name, .dtype = EBB_F32, .rank = rank};
  memcpy(d.shape, shape, (size_t)rank * sizeof *shape);
  return d;
}

/* ---- velocity ---------------------------------------------------------------------------------------- */

static bool write_velocity(evaluation *e, const float *velocity, const ebb_tap *tap, ebb_error *err) {
  const ebb_tap_plan *plan = tap->plan;
  int64_t B = e->latents.shape[0], L = plan->sizes.blocks, n = 0;
  ebb_st_declare *out = calloc((size_t)(3 * L + 1), sizeof *out);
  char **names = calloc((size_t)(3 * L + 1), sizeof *names);
  bool ok = (out && names) || ebb_fail(err, "no memory");
  static const char *const stems[] = {"block", "attn_frames", "attn_entropy"};
  if (ok)
    out[n++] = declare("velocity", 5, e->latents.shape);
  for (int s = 0; ok && s < plan->slot_count; s++)
    for (int64_t l = 0; l < L; l++, n++) {
      const ebb_feature *f = &plan->slots[s].feature;
      int64_t shape[EBB_ST_RANK] = {B};
      memcpy(shape + 1, f->shape + 1, (size_t)(f->rank - 1) * sizeof *shape);
      out[n] = declare(names[n] = ebb_format("%s.%lld", stems[s], (long long)l), f->rank, shape);
    }
  ok = ok && ebb_st_writer_open(&e->writer, e->options->out, out, n, NULL, 0, err) &&
       ebb_st_writer_append(e->writer, velocity, (size_t)e->latents.count * sizeof(float), err);
  for (int s = 0; ok && s < plan->slot_count; s++) {
    const ebb_feature *f = &plan->slots[s].feature;
    int64_t width = ebb_store_width(f);
    for (int64_t l = 0; ok && l < L; l++)
      for (int64_t b = 0; ok && b < B; b++)
        ok = ebb_st_writer_append(e->writer, tap->data[s] + (b * L + l) * width,
                                  (size_t)width * sizeof(float), err);
  }
  for (int64_t i = 0; names && i < n; i++)
    free(names[i]);
  free(names);
  free(out);
  return ok && ebb_st_writer_finish(&e->writer, err);
}

/* A capture of every block: whole states and attention statistics, at one evaluation. */
static bool plan_everything(ebb_tap_plan *plan, ebb_tap_sizes sizes, ebb_error *err) {
  ebb_config config;
  ebb_config_defaults(&config);
  config.capture.steps = (ebb_int_list){1, {0}};
  config.capture.blocks.count = -1;
  config.capture.points = (ebb_name_list){3, {"block_out", "attn_frames", "attn_entropy"}};
  config.capture.pool = (ebb_name_list){1, {"tokens"}};
  return ebb_tap_plan_make(plan, &config, 1, sizes, err);
}

static bool evaluate_velocity(evaluation *e, ebb_error *err) {
  ebb_context *c = &e->context;
  int64_t B = e->latents.shape[0];
  char *folder = ebb_path_join(e->options->model, e->options->transformer);
  double *labels = malloc((size_t)B * sizeof *labels);
  float *result = malloc((size_t)e->latents.count * sizeof *result);
  ebb_model model = {0};
  ebb_condition cond = {0};
  ebb_tap_plan plan = {0};
  ebb_tap tap = {.plan = &plan};
  bool tapped = !e->options->velocity_only;
  for (int64_t b = 0; labels && b < B; b++)
    labels[b] = (double)e->timestep.data[b];
  bool ok = (labels && result) || ebb_fail(err, "no memory");
  ok = ok && ebb_model_open(&model, c, folder, e->dtype, NULL, err) &&
       ebb_model_condition(&model, &cond, shape_of(&e->latents), text_of(&e->text), labels, 1, B, err) &&
       (!tapped || (plan_everything(&plan, ebb_model_tap_sizes(&model, cond.shape), err) &&
                    ebb_tap_open(&tap, &plan, c, B, err)));
  if (ok) {
    ebb_tensor x = activation_like(c, "latents", &e->latents),
               v = activation_like(c, "velocity", &e->latents);
    ebb_upload(c, x, e->latents.data);
    ebb_tap *seen = tapped ? &tap : NULL;
    ebb_tap_begin(seen, 0);
    ebb_model_velocity(&model, v, x, &cond, 0, seen);
    ebb_tap_end(seen);
    ebb_tap_finish(seen);
    ebb_download(c, result, v);
    ok = ebb_context_ok(c, err);
  }
  if (ok && !c->counting)
    ok = write_velocity(e, result, &tap, err);
  if (tapped)
    ebb_tap_close(&tap);
  ebb_condition_free(&cond);
  ebb_model_close(&model);
  free(result);
  free(labels);
  free(folder);
  return ok;
}

/* ---- encode, decode ---------------------------------------------------------------------------------- */

static bool write_one(evaluation *e, const char *name, int rank, const int64_t *shape, const float *data,
                      ebb_error *err) {
  ebb_st_declare d = declare(name, rank, shape);
  size_t bytes = sizeof(float);
  for (int i = 0; i < rank; i++)
    bytes *= (size_t)shape[i];
  return ebb_st_writer_open(&e->writer, e->options->out, &d, 1, NULL, 0, err) &&
         ebb_st_writer_append(e->writer, data, bytes, err) && ebb_st_writer_finish(&e->writer, err);
}

static bool evaluate_encode(evaluation *e, ebb_error *err) {
  ebb_context *c = &e->context;
  const int64_t *in = e->video.shape; /* B,3,F,H,W */
  if (in[1] != 3)
    return ebb_fail(err, "%s: 'video' has %lld channels, expected 3", e->options->in, (long long)in[1]);
  char *folder = ebb_path_join(e->options->model, "vae");
  ebb_vae vae = {0};
  ebb_latent_shape z = {0};
  bool ok = ebb_vae_open(&vae, c, folder, e->dtype, NULL, true, false, err);
  int64_t used = ok ? ebb_frames_usable((int)in[2], vae.chunk) : 0, plane = in[3] * in[4];
  ok = ok && ebb_vae_latent_shape(&vae, used, in[3], in[4], &z, err);
  int64_t shape[] = {in[0], z.channels, z.frames, z.height, z.width};
  int64_t count = shape[0] * shape[1] * shape[2] * shape[3] * shape[4];
  float *clip = malloc((size_t)(in[0] * 3 * used * plane) * sizeof *clip + 1);
  float *result = malloc((size_t)count * sizeof *result + 1);
  ok = ok && ((clip && result) || ebb_fail(err, "no memory for the video"));
  if (ok) {
    for (int64_t i = 0; i < in[0] * 3; i++)
      memcpy(clip + i * used * plane, e->video.data + i * in[2] * plane,
             (size_t)(used * plane) * sizeof *clip);
    ebb_tensor video = EBB_ACTIVATION(c, "video", in[0], 3, used, in[3], in[4]);
    ebb_tensor latents = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "latents", 5, shape);
    ebb_upload(c, video, clip);
    ebb_vae_encode(&vae, latents, video);
    ebb_download(c, result, latents);
    ok = ebb_context_ok(c, err);
  }
  if (ok && !c->counting)
    ok = write_one(e, "latents", 5, shape, result, err);
  free(clip);
  free(result);
  ebb_vae_close(&vae);
  free(folder);
  return ok;
}

static bool evaluate_decode(evaluation *e, ebb_error *err) {
  ebb_context *c = &e->context;
  const int64_t *z = e->latents.shape;
  char *folder = ebb_path_join(e->options->model, "vae");
  ebb_vae vae = {0};
  float *result = NULL;
  bool ok = ebb_vae_open(&vae, c, folder, e->dtype, NULL, false, true, err);
  if (ok && z[1] != vae.channels)
    ok = ebb_fail(err, "%s: 'latents' has %lld channels, expected %lld", e->options->in, (long long)z[1],
                  (long long)vae.channels);
  if (ok) {
    int64_t shape[] = {z[0], 3, vae.time_stride * (z[2] - 1) + 1, vae.space_stride * z[3],
                       vae.space_stride * z[4]};
    ebb_tensor latents = activation_like(c, "latents", &e->latents);
    ebb_tensor video = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "video", 5, shape);
    ebb_upload(c, latents, e->latents.data);
    ebb_vae_decode(&vae, video, latents);
    result = malloc(ebb_bytes(video));
    ok = result != NULL || ebb_fail(err, "no memory for the video");
    if (ok)
      ebb_download(c, result, video);
    ok = ok && ebb_context_ok(c, err);
    if (ok && !c->counting)
      ok = write_one(e, "video", 5, shape, result, err);
  }
  free(result);
  ebb_vae_close(&vae);
  free(folder);
  return ok;
}

/* ---- invert, sample ---------------------------------------------------------------------------------- */

static bool make_plan(const ebb_eval_options *o, ebb_integration *plan, ebb_error *err) {
  ebb_schedule schedule = {0};
  bool ok = (strcmp(o->solver, "unipc") != 0 || ebb_unipc_check(o->model, err)) &&
            ebb_schedule_open(&schedule, o->model, o->schedule, o->steps, o->shift, err) &&
            ebb_integration_named(plan, &schedule, o->solver, o->labels, strcmp(o->op, "sample") == 0, err);
  ebb_schedule_free(&schedule);
  return ok;
}

static bool write_trajectory(evaluation *e, const ebb_integration *plan, const float *trajectory,
                             ebb_error *err) {
  int64_t n = plan->steps, shape[6] = {n + 1};
  memcpy(shape + 1, e->latents.shape, 5 * sizeof *shape);
  ebb_st_declare out[] = {declare("trajectory", 6, shape), declare("sigmas", 1, (int64_t[]){n + 1}),
                          declare("timesteps", 1, (int64_t[]){n})};
  float *grid = malloc((size_t)(2 * n + 1) * sizeof *grid);
  if (!grid)
    return ebb_fail(err, "no memory");
  for (int64_t i = 0; i <= n; i++)
    grid[i] = (float)plan->sigma[i];
  for (int64_t i = 0; i < n; i++)
    grid[n + 1 + i] = (float)plan->timestep[i];
  bool ok = ebb_st_writer_open(&e->writer, e->options->out, out, 3, NULL, 0, err) &&
            ebb_st_writer_append(e->writer, trajectory,
                                 (size_t)((n + 1) * e->latents.count) * sizeof *trajectory, err) &&
            ebb_st_writer_append(e->writer, grid, (size_t)(2 * n + 1) * sizeof *grid, err) &&
            ebb_st_writer_finish(&e->writer, err);
  free(grid);
  return ok;
}

static bool evaluate_trajectory(evaluation *e, ebb_error *err) {
  ebb_context *c = &e->context;
  char *folder = ebb_path_join(e->options->model, e->options->transformer);
  ebb_integration plan = {0};
  ebb_model model = {0};
  ebb_condition text = {0}, negative = {0};
  float *trajectory = NULL;
  bool ok = make_plan(e->options, &plan, err) && ebb_model_open(&model, c, folder, e->dtype, NULL, err) &&
            ebb_model_condition(&model, &text, shape_of(&e->latents), text_of(&e->text), plan.labels,
                                plan.moments, 1, err);
  if (ok && e->options->guidance != 1)
    ok = ebb_model_condition(&model, &negative, text.shape, text_of(&e->negative), plan.labels, plan.moments,
                             1, err);
  if (ok) {
    trajectory = malloc((size_t)((plan.steps + 1) * e->latents.count) * sizeof *trajectory);
    ok = trajectory != NULL || ebb_fail(err, "no memory for a trajectory of %d states", plan.steps + 1);
  }
  if (ok) {
    ebb_tensor x = activation_like(c, "latents", &e->latents);
    ebb_upload(c, x, e->latents.data);
    ebb_run run = {.model = &model,
                   .plan = &plan,
                   .text = &text,
                   .negative = &negative,
                   .guidance = e->options->guidance};
    ebb_invert(&run, x, trajectory);
    ok = ebb_context_ok(c, err);
  }
  if (ok && !c->counting)
    ok = write_trajectory(e, &plan, trajectory, err);
  free(trajectory);
  ebb_condition_free(&negative);
  ebb_condition_free(&text);
  ebb_model_close(&model);
  ebb_integration_free(&plan);
  free(folder);
  return ok;
}

/* ---- all --------------------------------------------------------------------------------------------- */

static bool evaluate(void *user, ebb_error *err) {
  evaluation *e = user;
  if (is_op(e, "velocity"))
    return evaluate_velocity(e, err);
  if (is_op(e, "encode"))
    return evaluate_encode(e, err);
  if (is_op(e, "decode"))
    return evaluate_decode(e, err);
  return evaluate_trajectory(e, err);
}

bool ebb_eval(const ebb_eval_options *options, ebb_error *err) {
  evaluation e = {.options = options};
  if (is_op(&e, "invert") && !ebb_solver_takes("--solver", options->solver, "--dtype", options->dtype, err))
    return false;
  bool ok = ebb_context_open(&e.context, options->device, err) &&
            ebb_model_dtype(&e.context, "--dtype", options->dtype, &e.dtype, err) && read_inputs(&e, err) &&
            ebb_context_sized(&e.context, evaluate, &e, err);
  ebb_st_writer_abandon(&e.writer);
  host_tensor *inputs[] = {&e.latents, &e.video, &e.timestep, &e.text, &e.negative};
  for (int i = 0; i < 5; i++)
    free(inputs[i]->data);
  ebb_context_close(&e.context);
  return ok;
}
