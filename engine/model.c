#include "engine/model.h"

#include "loaders/file.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ebb_family *const families[] = {&ebb_family_wan};
#define FAMILIES ((int)(sizeof families / sizeof *families))

static const ebb_family *family_of(ebb_json config) {
  const char *name = ebb_json_text_or(config, "_class_name", "");
  for (int i = 0; i < FAMILIES; i++)
    if (strcmp(name, families[i]->class_name) == 0)
      return families[i];
  ebb_fail(config.err, "%s: \"_class_name\" is \"%.60s\", expected", config.path, name);
  for (int i = 0; i < FAMILIES; i++)
    ebb_fail_also(config.err, "%s %s", i ? "," : "", families[i]->class_name);
  return NULL;
}

/* Reads the config and lets the family lay itself out. */
static bool read_config(ebb_model *m, const char *folder, ebb_error *err) {
  ebb_error found = {""};
  char *path = ebb_path_join(folder, "config.json");
  json_t *json = ebb_json_read(path, &found);
  ebb_json config = {json, path, &found};
  if (json)
    m->family = family_of(config);
  if (m->family)
    m->family->open(m, config);
  json_decref(json);
  free(path);
  return found.text[0] == '\0' || ebb_fail(err, "%s", found.text);
}

static bool load(ebb_model *m, const char *folder, ebb_error *err) {
  ebb_weights *weights;
  if (!ebb_weights_open(&weights, folder, err))
    return false;
  bool ok = (m->context->counting || ebb_weights_digest(weights, &m->digest, err)) &&
            ebb_weights_load(weights, m->context, &m->list, err);
  ebb_weights_close(&weights);
  return ok;
}

bool ebb_model_dtype(const ebb_context *c, const char *key, const char *name, ebb_dtype *dtype,
                     ebb_error *err) {
  bool half = strcmp(name, "bfloat16") == 0;
  *dtype = half ? EBB_BF16 : EBB_F32;
  if (!half && strcmp(name, "float32") != 0)
    return ebb_fail(err, "%s: found '%s', expected float32 or bfloat16", key, name);
  return !half || ebb_context_has_half(c) ||
         ebb_fail(err, "%s: found bfloat16, but %s computes in float32 alone: expected float32, or a GPU",
                  key, ebb_context_device(c));
}

bool ebb_model_open(ebb_model *m, ebb_context *c, const char *folder, ebb_dtype dtype,
                    const int64_t *random_seed, ebb_error *err) {
  *m = (ebb_model){.context = c, .dtype = dtype};
  bool ok = read_config(m, folder, err);
  if (ok && random_seed) {
    snprintf(m->sha256, sizeof m->sha256, "random:%lld", (long long)*random_seed);
    ok = ebb_weights_initialise(c, &m->list, (uint64_t)*random_seed, err);
  } else if (ok) {
    ok = load(m, folder, err);
  }
  for (int64_t i = 0; ok && i < m->list.count; i++)
    m->parameters += ebb_count(*m->list.items[i].to);
  if (!ok)
    ebb_model_close(m);
  return ok;
}

void ebb_model_close(ebb_model *m) {
  for (int i = 0; i < EBB_FORWARDS; i++)
    if (m->forwards[i].used)
      ebb_recording_free(m->context, &m->forwards[i].recording);
  ebb_digest_abandon(&m->digest);
  if (m->family)
    m->family->close(m);
  ebb_parameters_free(&m->list);
  *m = (ebb_model){0};
}

static bool check_shape(const ebb_model *m, ebb_latent_shape shape, ebb_error *err) {
  const int64_t sides[] = {shape.frames, shape.height, shape.width};
  static const char *const axes[] = {"frames", "rows", "columns"};
  if (shape.channels != m->channels)
    return ebb_fail(err, "the latent has %lld channels, the model expects %lld", (long long)shape.channels,
                    (long long)m->channels);
  for (int i = 0; i < 3; i++)
    if (sides[i] < 1 || sides[i] % m->patch[i] != 0)
      return ebb_fail(err, "the latent has %lld %s, expected a positive multiple of the model's patch, %d",
                      (long long)sides[i], axes[i], m->patch[i]);
  return true;
}

/* Tokens of a shared text up to and with the first of the equal ones at its end. */
static int64_t distinct_tokens(ebb_text t) {
  int64_t n = t.tokens;
  if (!t.states || t.batch > 1)
    return n;
  const float *last = t.states + (n - 1) * t.width;
  while (n > 1 && memcmp(t.states + (n - 2) * t.width, last, (size_t)t.width * sizeof *last) == 0)
    n--;
  return n;
}

bool ebb_model_condition(ebb_model *m, ebb_condition *cond, ebb_latent_shape shape, ebb_text text,
                         const double *labels, int64_t moments, int64_t labels_per_moment, ebb_error *err) {
  const int64_t tokens = text.tokens < 1 ? text.tokens : distinct_tokens(text),
                repeats = text.tokens - tokens + 1;
  text.tokens = tokens;
  return ebb_model_condition_repeated(m, cond, shape, text, repeats, labels, moments, labels_per_moment, err);
}

bool ebb_model_condition_repeated(ebb_model *m, ebb_condition *cond, ebb_latent_shape shape, ebb_text text,
                                  int64_t repeats, const double *labels, int64_t moments,
                                  int64_t labels_per_moment, ebb_error *err) {
  ebb_context *c = m->context;
  int64_t n = moments * labels_per_moment;
  *cond = (ebb_condition){.shape = shape,
                          .text_batch = text.batch,
                          .labels_per_moment = labels_per_moment,
                          .moments = moments,
                          .number = ++m->conditions};
  assert(text.batch >= 1 && moments >= 1 && labels_per_moment >= 1);
  if (!check_shape(m, shape, err))
    return false;
  if (text.tokens < 1 || text.width != m->text_dim)
    return ebb_fail(err, "the text is [%lld, %lld, %lld], the model expects at least one token of width %lld",
                    (long long)text.batch, (long long)text.tokens, (long long)text.width,
                    (long long)m->text_dim);
  float *narrow = malloc((size_t)n * sizeof *narrow);
  if (!narrow)
    return ebb_fail(err, "no memory for %lld time labels", (long long)n);
  bool ok = true;
  for (int64_t i = 0; i < n; i++) {
    narrow[i] = (float)labels[i];
    if (!isfinite(narrow[i]))
      ok = ebb_fail(err, "time label %lld is %g", (long long)i, labels[i]);
  }
  if (ok) {
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor states = EBB_ACTIVATION(c, "text", text.batch, text.tokens, text.width);
    ebb_tensor times = EBB_ACTIVATION(c, "time labels", n);
    cond->text_repeats = repeats;
    ebb_upload(c, states, text.states);
    ebb_upload(c, times, narrow);
    ok = m->family->condition(m, cond, states, times, err) && ebb_context_ok(c, err);
    ebb_arena_release(&c->activations, mark);
  }
  free(narrow);
  if (!ok)
    ebb_condition_free(cond);
  return ok;
}

void ebb_condition_free(ebb_condition *cond) {
  free(cond->state);
  *cond = (ebb_condition){0};
}

static bool same_forward(const ebb_forward *a, const ebb_forward *b) {
  return a->x == b->x && a->v == b->v && a->arena == b->arena && a->staging == b->staging &&
         a->plan == b->plan && a->edit == b->edit && a->mark == b->mark && a->batch == b->batch &&
         a->condition == b->condition;
}

/* The recording of this forward: the one kept, or a new one in a place that is free or was used least lately. */
static ebb_recording *recording_of(ebb_model *m, ebb_forward f) {
  ebb_forward *place = &m->forwards[0];
  for (int i = 0; i < EBB_FORWARDS; i++) {
    ebb_forward *kept = &m->forwards[i];
    if (kept->used && same_forward(kept, &f)) {
      kept->used = f.used;
      return &kept->recording;
    }
    if (kept->used < place->used)
      place = kept;
  }
  ebb_recording_free(m->context, &place->recording);
  *place = f;
  return &place->recording;
}

typedef struct evaluation {
  ebb_model *model;
  ebb_tensor v, x;
  const ebb_condition *cond;
  ebb_tap *tap;
} evaluation;

static void evaluate(void *user) {
  const evaluation *e = user;
  e->model->family->velocity(e->model, e->v, e->x, e->cond, e->tap);
}

void ebb_model_velocity(ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond, int64_t moment,
                        ebb_tap *tap) {
  assert(moment >= 0 && moment < cond->moments);
  assert(x.rank == 5 && x.shape[1] == cond->shape.channels && x.shape[2] == cond->shape.frames &&
         x.shape[3] == cond->shape.height && x.shape[4] == cond->shape.width);
  const bool captured = tap && tap->step >= 0;
  const ebb_forward f = {.x = x.data,
                         .v = v.data,
                         .arena = m->context->activations.base,
                         .mark = ebb_arena_mark(&m->context->activations),
                         .staging = captured ? tap->staging.data : NULL,
                         .plan = captured ? tap->plan->number : 0,
                         .edit = m->edit ? m->edit->number : 0,
                         .batch = x.shape[0],
                         .condition = cond->number,
                         .used = ++m->evaluations};
  evaluation e = {m, v, x, cond, tap};
  m->family->moment(m, cond, moment);
  ebb_replay(m->context, recording_of(m, f), evaluate, &e);
}

ebb_tap_sizes ebb_model_tap_sizes(const ebb_model *m, ebb_latent_shape shape) {
  const int64_t frames = shape.frames / m->patch[0], rows = shape.height / m->patch[1],
                columns = shape.width / m->patch[2];
  return (ebb_tap_sizes){.blocks = m->blocks,
                         .width = m->width,
                         .heads = m->heads,
                         .tokens = frames * rows * columns,
                         .frames = frames,
                         .rows = rows,
                         .columns = columns,
                         .channels = shape.channels,
                         .latent_tokens = shape.frames * shape.height * shape.width,
                         .latent_frames = shape.frames};
}
