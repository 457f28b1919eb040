#include "tests/recorder.h"

#include <stdlib.h>
#include <string.h>

#define CPU ebb_cpu_backend

typedef struct call {
  void (*run)(ebb_context *c, const struct call *k);
  ebb_tensor t[EBB_OP_TENSORS];
  float a, b;
  int64_t n, repeats;
  int patch[3];
  ebb_activation act;
} call;

typedef struct recording {
  int64_t count, capacity;
  call *calls;
} recording;

static recording *open_recording; /* NULL: ops are computed at once */
static recorder_counts *counts;

static void put(ebb_context *c, call k) {
  recording *r = open_recording;
  if (!r) {
    k.run(c, &k);
    return;
  }
  if (r->count == r->capacity) {
    r->capacity = 2 * r->capacity + 64;
    r->calls = realloc(r->calls, (size_t)r->capacity * sizeof *r->calls);
    if (!r->calls)
      abort();
  }
  r->calls[r->count++] = k;
}

/* One op: its arguments into a call, and the call back into them. */
#define OP(name, parameters, given, ...)                                                                     \
  static void run_##name(ebb_context *c, const call *k) {                                                    \
    CPU.name given;                                                                                          \
  }                                                                                                          \
  static void name parameters {                                                                              \
    put(c, (call){.run = run_##name, __VA_ARGS__});                                                          \
  }

OP(linear, (ebb_context * c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act),
   (c, k->t[0], k->t[1], k->t[2], k->t[3], k->act), .t = {y, x, w, b}, .act = act)
OP(norm_modulate,
   (ebb_context * c, ebb_tensor y, ebb_tensor x, ebb_tensor shift, ebb_tensor scale, float eps),
   (c, k->t[0], k->t[1], k->t[2], k->t[3], k->a), .t = {y, x, shift, scale}, .a = eps)
OP(qk_norm_rope,
   (ebb_context * c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk, ebb_tensor cos, ebb_tensor sin,
    int heads, float eps),
   (c, k->t[0], k->t[1], k->t[2], k->t[3], k->t[4], k->t[5], (int)k->n, k->a), .t = {q, k, wq, wk, cos, sin},
   .n = heads, .a = eps)
OP(attention,
   (ebb_context * c, ebb_tensor out, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k, ebb_tensor v,
    int heads, int64_t repeats, void *scratch),
   (c, k->t[0], (ebb_attention_stats){k->t[4], k->t[5], k->t[6], k->t[7], k->t[8], k->t[9]}, k->t[1], k->t[2],
    k->t[3], (int)k->n, k->repeats, NULL),
   .t = {out, q, k, v, stats.mass, stats.entropy, stats.lag, stats.rows, stats.columns, stats.lse},
   .n = heads + 0 * (scratch != NULL), .repeats = repeats)
OP(attention_weights,
   (ebb_context * c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads, int64_t repeats,
    float eps),
   (c, k->t[0], k->t[1], k->t[2], k->t[3], (int)k->n, k->repeats, k->a), .t = {p, q, k, w}, .n = heads,
   .repeats = repeats, .a = eps)
OP(projected_values, (ebb_context * c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads),
   (c, k->t[0], k->t[1], k->t[2], (int)k->n), .t = {u, v, w}, .n = heads)
OP(gate_add, (ebb_context * c, ebb_tensor x, ebb_tensor y, ebb_tensor gate), (c, k->t[0], k->t[1], k->t[2]),
   .t = {x, y, gate})
OP(gate_add_norm,
   (ebb_context * c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate, ebb_tensor shift,
    ebb_tensor scale, float eps),
   (c, k->t[0], k->t[1], k->t[2], k->t[3], k->t[4], k->t[5], k->a), .t = {h, x, y, gate, shift, scale},
   .a = eps)
OP(gate_add_layer_norm,
   (ebb_context * c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate, ebb_tensor w, ebb_tensor b,
    float eps),
   (c, k->t[0], k->t[1], k->t[2], k->t[3], k->t[4], k->t[5], k->a), .t = {h, x, y, gate, w, b}, .a = eps)
OP(axpby, (ebb_context * c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z),
   (c, k->t[0], k->a, k->t[1], k->b, k->t[2]), .t = {y, x, z}, .a = a, .b = b)
OP(convert, (ebb_context * c, ebb_tensor y, ebb_tensor x), (c, k->t[0], k->t[1]), .t = {y, x})
OP(perturb,
   (ebb_context * c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when, ebb_tensor direction,
    int64_t place),
   (c, k->t[0], k->t[1], k->t[2], k->t[3], k->t[4], k->n), .t = {x, dose, keys, when, direction}, .n = place)
OP(replace_heads, (ebb_context * c, ebb_tensor y, ebb_tensor x, ebb_tensor mean, ebb_tensor source),
   (c, k->t[0], k->t[1], k->t[2], k->t[3]), .t = {y, x, mean, source})
OP(patchify, (ebb_context * c, ebb_tensor y, ebb_tensor x, const int patch[3]),
   (c, k->t[0], k->t[1], k->patch), .t = {y, x}, .patch = {patch[0], patch[1], patch[2]})
OP(unpatchify, (ebb_context * c, ebb_tensor x, ebb_tensor y, const int patch[3]),
   (c, k->t[0], k->t[1], k->patch), .t = {x, y}, .patch = {patch[0], patch[1], patch[2]})
OP(pool_mean, (ebb_context * c, ebb_tensor y, ebb_tensor x, void *scratch), (c, k->t[0], k->t[1], NULL),
   .t = {y, x}, .n = 0 * (scratch != NULL))
OP(pool_frames, (ebb_context * c, ebb_tensor y, ebb_tensor x, void *scratch), (c, k->t[0], k->t[1], NULL),
   .t = {y, x}, .n = 0 * (scratch != NULL))
OP(pool_moments, (ebb_context * c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch),
   (c, k->t[0], k->t[1], k->n, NULL), .t = {y, x}, .n = frames + 0 * (scratch != NULL))
OP(pool_motion, (ebb_context * c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch),
   (c, k->t[0], k->t[1], k->n, NULL), .t = {y, x}, .n = frames + 0 * (scratch != NULL))

/* ---- recordings -------------------------------------------------------------------------------------- */

static void *record(ebb_context *c, void (*work)(void *user), void *user) {
  (void)c;
  recording *r = open_recording = calloc(1, sizeof *r);
  work(user);
  open_recording = NULL;
  counts->recorded++;
  return r;
}

static void replay(ebb_context *c, void *recorded) {
  const recording *r = recorded;
  for (int64_t i = 0; i < r->count; i++)
    r->calls[i].run(c, &r->calls[i]);
  counts->replayed++;
}

static void forget(ebb_context *c, void *recorded) {
  (void)c;
  recording *r = recorded;
  free(r->calls);
  free(r);
  counts->forgotten++;
}

/* ---- copies ------------------------------------------------------------------------------------------ */

enum { UNDER_WAY = 8 };
static struct {
  void *to, *copy;
  size_t bytes;
} under_way[UNDER_WAY];
static int under_way_count;

static bool refused(ebb_context *c, const char *what) {
  if (open_recording)
    ebb_context_fail(c, "%s while recording", what);
  return open_recording != NULL;
}

static void upload(ebb_context *c, ebb_tensor to, const void *from) {
  if (!refused(c, "upload"))
    CPU.upload(c, to, from);
}

static void download(ebb_context *c, void *to, ebb_tensor from) {
  if (!refused(c, "download"))
    CPU.download(c, to, from);
}

static void download_wait(ebb_context *c) {
  if (refused(c, "download_wait"))
    return;
  for (int i = 0; i < under_way_count; i++) {
    memcpy(under_way[i].to, under_way[i].copy, under_way[i].bytes);
    free(under_way[i].copy);
  }
  under_way_count = 0;
}

static void download_start(ebb_context *c, void *to, ebb_tensor from) {
  if (refused(c, "download_start"))
    return;
  if (under_way_count == UNDER_WAY) {
    ebb_context_fail(c, "more than %d downloads under way", UNDER_WAY);
    return;
  }
  void *copy = malloc(ebb_bytes(from));
  CPU.download(c, copy, from);
  under_way[under_way_count].to = to;
  under_way[under_way_count].copy = copy;
  under_way[under_way_count++].bytes = ebb_bytes(from);
}

void recorder_install(ebb_context *c, recorder_counts *into) {
  static ebb_backend backend;
  backend = CPU;
  backend.record = record;
  backend.replay = replay;
  backend.forget = forget;
  backend.upload = upload;
  backend.download = download;
  backend.download_start = download_start;
  backend.download_wait = download_wait;
  backend.linear = linear;
  backend.norm_modulate = norm_modulate;
  backend.qk_norm_rope = qk_norm_rope;
  backend.attention = attention;
  backend.attention_weights = attention_weights;
  backend.projected_values = projected_values;
  backend.gate_add = gate_add;
  backend.gate_add_norm = gate_add_norm;
  backend.gate_add_layer_norm = gate_add_layer_norm;
  backend.axpby = axpby;
  backend.convert = convert;
  backend.perturb = perturb;
  backend.replace_heads = replace_heads;
  backend.patchify = patchify;
  backend.unpatchify = unpatchify;
  backend.pool_mean = pool_mean;
  backend.pool_frames = pool_frames;
  backend.pool_moments = pool_moments;
  backend.pool_motion = pool_motion;
  *into = (recorder_counts){0};
  counts = into;
  c->backend = &backend;
}
