#include "engine/edit.h"

#include "kernels/random.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BRANCHES 2

bool ebb_edit_open(ebb_edit *edit, ebb_context *c, ebb_edit_sizes z, int64_t batch, int steps,
                   bool directions, ebb_error *err) {
  *edit = (ebb_edit){.context = c, .sizes = z};
  const int64_t evaluations = (int64_t)steps * EBB_EDIT_STAGES * BRANCHES;
  if (z.blocks > EBB_EDIT_BLOCKS)
    return ebb_fail(err, "interventions: the model has %lld blocks, expected at most %d", (long long)z.blocks,
                    EBB_EDIT_BLOCKS);
  edit->keys = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "intervention keys", batch);
  edit->dose = EBB_ACTIVATION(c, "intervention doses", z.blocks, batch, 2);
  edit->direction =
      directions ? EBB_ACTIVATION(c, "intervention directions", z.blocks, batch, z.width) : EBB_NO_TENSOR;
  edit->source = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "intervention heads", z.blocks, batch, z.heads);
  edit->moments = EBB_ACTIVATION(c, "intervention evaluations", evaluations);
  edit->when = EBB_ACTIVATION(c, "intervention evaluation", 1);
  if (c->counting)
    return true;
  float *numbers = malloc((size_t)evaluations * sizeof *numbers);
  for (int64_t i = 0; numbers && i < evaluations; i++)
    numbers[i] = (float)i;
  if (numbers)
    ebb_upload(c, edit->moments, numbers);
  free(numbers);
  return numbers ? ebb_context_ok(c, err) : ebb_fail(err, "no memory for an intervention");
}

typedef struct tables { /* on the host, as in ebb_edit */
  int64_t *keys, *source;
  float *dose, *direction;
} tables;

static bool set_output(ebb_edit *edit, int64_t b, const ebb_intervention *v, tables *t, ebb_error *err) {
  const ebb_edit_sizes *z = &edit->sizes;
  const int64_t B = edit->keys.shape[0];
  if (v->block < 0)
    return true;
  if (v->block >= z->blocks)
    return ebb_fail(err, "interventions: there is no block %d, expected 0 to %lld", v->block,
                    (long long)z->blocks - 1);
  const int64_t row = v->block * B + b;
  t->dose[2 * row] = (float)v->noise;
  t->dose[2 * row + 1] = (float)v->along;
  if (v->noise != 0 || v->along != 0)
    edit->outputs[v->block >> 6] |= (uint64_t)1 << (v->block & 63);
  if (v->along == 0)
    return true;
  double square = 0;
  for (int64_t i = 0; v->direction && i < z->width; i++)
    square += (double)v->direction[i] * v->direction[i];
  if (!t->direction || !v->direction || !(square > 0) || !isfinite(square))
    return ebb_fail(err, "interventions: block %d has a dose along a direction of no length", v->block);
  const double scale = sqrt((double)z->width / square);
  for (int64_t i = 0; i < z->width; i++)
    t->direction[row * z->width + i] = (float)(v->direction[i] * scale);
  return true;
}

static bool set_heads(ebb_edit *edit, int64_t b, const ebb_intervention *v, tables *t, ebb_error *err) {
  const ebb_edit_sizes *z = &edit->sizes;
  const int64_t B = edit->keys.shape[0];
  for (int i = 0; i < v->head_count; i++) {
    const ebb_edit_head *h = &v->heads[i];
    if (h->block < 0 || h->block >= z->blocks || h->head < EBB_EDIT_ALL_HEADS || h->head >= z->heads)
      return ebb_fail(
          err,
          "interventions: there is no head %d in block %d, expected blocks 0 to %lld and heads 0 to "
          "%lld",
          h->head, h->block, (long long)z->blocks - 1, (long long)z->heads - 1);
    if (h->source >= B || (h->source < 0 && h->source != EBB_HEAD_ZERO && h->source != EBB_HEAD_MEAN))
      return ebb_fail(err, "interventions: a head of sample %lld, the batch has %lld", (long long)h->source,
                      (long long)B);
    for (int64_t n = h->head < 0 ? 0 : h->head; n <= (h->head < 0 ? z->heads - 1 : h->head); n++)
      t->source[(h->block * B + b) * z->heads + n] = h->source;
    edit->heads[h->block >> 6] |= (uint64_t)1 << (h->block & 63);
    edit->means = edit->means || h->source == EBB_HEAD_MEAN;
  }
  return true;
}

bool ebb_edit_set(ebb_edit *edit, const ebb_intervention *interventions, ebb_error *err) {
  static atomic_llong edits;
  ebb_context *c = edit->context;
  const ebb_edit_sizes *z = &edit->sizes;
  const int64_t B = edit->keys.shape[0], rows = z->blocks * B;
  const bool directions = ebb_present(edit->direction);
  edit->number = atomic_fetch_add(&edits, 1) + 1;
  edit->means = c->counting; /* which counts the most that can come */
  memset(edit->outputs, c->counting ? 0xff : 0, sizeof edit->outputs);
  memset(edit->heads, c->counting ? 0xff : 0, sizeof edit->heads);
  if (c->counting)
    return true;
  tables t = {.keys = calloc((size_t)B, sizeof *t.keys),
              .source = malloc((size_t)(rows * z->heads) * sizeof *t.source),
              .dose = calloc((size_t)rows * 2, sizeof *t.dose),
              .direction = directions ? calloc((size_t)(rows * z->width), sizeof *t.direction) : NULL};
  bool ok = (t.keys && t.source && t.dose && (t.direction || !directions)) ||
            ebb_fail(err, "no memory for an intervention on %lld samples", (long long)B);
  for (int64_t i = 0; ok && i < rows * z->heads; i++)
    t.source[i] = EBB_HEAD_KEPT;
  for (int64_t b = 0; ok && b < B; b++) {
    t.keys[b] = (int64_t)interventions[b].key;
    ok = set_output(edit, b, &interventions[b], &t, err) && set_heads(edit, b, &interventions[b], &t, err);
  }
  if (ok) {
    ebb_upload(c, edit->keys, t.keys);
    ebb_upload(c, edit->dose, t.dose);
    ebb_upload(c, edit->source, t.source);
    if (directions)
      ebb_upload(c, edit->direction, t.direction);
    ok = ebb_context_ok(c, err);
  }
  free(t.keys);
  free(t.source);
  free(t.dose);
  free(t.direction);
  return ok;
}

void ebb_edit_begin(ebb_edit *edit, int step, int stage, int branch) {
  if (!edit)
    return;
  assert(stage >= 0 && branch >= 0 && branch < BRANCHES);
  const int64_t at = ((int64_t)step * EBB_EDIT_STAGES + stage % EBB_EDIT_STAGES) * BRANCHES + branch;
  ebb_convert(edit->context, edit->when, ebb_slice(edit->moments, at, 1));
}

void ebb_edit_apply_output(ebb_edit *edit, int block, ebb_tensor h) {
  const ebb_tensor direction = ebb_present(edit->direction) ? ebb_at(edit->direction, block) : EBB_NO_TENSOR;
  ebb_perturb(edit->context, h, ebb_at(edit->dose, block), edit->keys, edit->when, direction, block);
}

ebb_tensor ebb_edit_apply_heads(ebb_edit *edit, int block, ebb_tensor heads, ebb_tensor room) {
  ebb_context *c = edit->context;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor mean = EBB_NO_TENSOR;
  if (edit->means) {
    mean = EBB_ACTIVATION(c, "head means", heads.shape[0], heads.shape[2]);
    ebb_pool_mean(c, mean, heads);
  }
  ebb_replace_heads(c, room, heads, mean, ebb_at(edit->source, block));
  ebb_arena_release(&c->activations, mark);
  return room;
}

_Static_assert(((uint64_t)EBB_EDIT_BLOCKS << 32) <= (uint64_t)EBB_STREAM_NOISED,
               "an edit's streams are below all others");
_Static_assert((uint64_t)EBB_STREAM_NOISED < EBB_STREAM_DIRECTION &&
                   EBB_STREAM_DIRECTION + EBB_EDIT_BLOCKS <= EBB_STREAM_DONOR &&
                   EBB_STREAM_DONOR < EBB_STREAM_DAMAGE,
               "streams of different purposes differ");

uint64_t ebb_edit_key(uint64_t seed, const char *scene, int64_t draw) {
  uint64_t name = 14695981039346656037u; /* FNV-1a, 64 bits */
  for (const char *p = scene; *p; p++)
    name = (name ^ (unsigned char)*p) * 1099511628211u;
  ebb_random4 r = ebb_random_words(seed, name, (uint64_t)draw);
  return (uint64_t)r.v[0] << 32 | r.v[1];
}
