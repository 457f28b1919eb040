/* Wan 2.1's text-to-video transformer (diffusers WanTransformer3DModel), any size. Letters as in
 * kernels/ops.h; M text tokens, L blocks, F the feed-forward's width, n = labels_per_moment: 1 or B.
 *
 * The model's dtype is that of the blocks' matrices and of what goes through them. The residual stream, norms,
 * modulation, time and text embedding stay float32. */
#include "engine/wan.h"

#include "engine/model.h"
#include "loaders/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THETA 10000.0
#define BLOCKS_MAX 128 /* what a tap's bit masks hold */

typedef struct layer { /* y = x w' + b */
  ebb_tensor w, b;
} layer;

typedef struct attention {
  layer q, k, v, out;
  ebb_tensor norm_q, norm_k; /* [D] */
} attention;

typedef struct block {
  ebb_tensor table; /* [1,6,D]: shift, scale, gate of self-attention, then of the feed-forward */
  attention self, cross;
  layer cross_norm; /* [D]; absent: the identity */
  layer up, down;   /* [F,D], [D,F] */
} block;

typedef struct wan {
  int64_t head_width, feed_forward, frequencies,
      reach; /* P, F, width of the time embedding, positions an axis */
  float eps;
  bool cross_norm;
  layer patch;        /* [D,C,pt,ph,pw] */
  layer time1, time2; /* [D,frequencies], [D,D] */
  layer modulation;   /* [6D,D] */
  layer text1, text2; /* [D,text_dim], [D,D] */
  ebb_tensor table;   /* [1,2,D]: shift and scale of the head */
  layer head;         /* [pt*ph*pw*C, D] */
  block blocks[];     /* L */
} wan;

/* What does not change from step to step; ebb_condition.state. */
typedef struct constants {
  ebb_tensor cos, sin; /* [S,P/2] */
  ebb_tensor
      modulation; /* [moments, 6L+2, n, D]: shifts, scales and gates, six of every block, two of the head */
  ebb_tensor now; /* [6L+2, n, D]: those of the moment at hand, which velocity reads */
  struct {
    ebb_tensor k, v; /* [text_batch,M,D]: cross-attention's */
    ebb_tensor u;    /* [D,N*M]: values through the output projection, in place of v where the keys are few */
  } blocks[];
} constants;

/* ---- opening ----------------------------------------------------------------------------------------- */

static void list_layer(ebb_parameters *list, layer *l, ebb_dtype weight, ebb_dtype bias, int64_t out,
                       int64_t in, const char *name) {
  list->dtype = weight;
  ebb_parameters_add(list, &l->w, EBB_SHAPE(out, in), EBB_INIT_LINEAR, in, "%s.weight", name);
  list->dtype = bias;
  ebb_parameters_add(list, &l->b, EBB_SHAPE(out), EBB_INIT_LINEAR, in, "%s.bias", name);
  list->dtype = EBB_F32;
}

/* A layer of block l, all in the model's dtype. */
static void list_block_layer(ebb_parameters *list, layer *to, ebb_dtype dtype, int64_t out, int64_t in,
                             int64_t l, const char *name) {
  char full[96];
  snprintf(full, sizeof full, "blocks.%lld.%s", (long long)l, name);
  list_layer(list, to, dtype, dtype, out, in, full);
}

static void list_attention(ebb_parameters *list, attention *a, ebb_dtype dtype, int64_t D, int64_t l,
                           const char *name) {
  layer *layers[] = {&a->q, &a->k, &a->v, &a->out};
  static const char *const names[] = {"to_q", "to_k", "to_v", "to_out.0"};
  for (int i = 0; i < 4; i++) {
    char full[32];
    snprintf(full, sizeof full, "%s.%s", name, names[i]);
    list_block_layer(list, layers[i], dtype, D, D, l, full);
  }
  ebb_parameters_add(list, &a->norm_q, EBB_SHAPE(D), EBB_INIT_ONES, 0, "blocks.%lld.%s.norm_q.weight",
                     (long long)l, name);
  ebb_parameters_add(list, &a->norm_k, EBB_SHAPE(D), EBB_INIT_ONES, 0, "blocks.%lld.%s.norm_k.weight",
                     (long long)l, name);
}

static void list_block(ebb_parameters *list, block *b, const wan *w, ebb_dtype dtype, int64_t D, int64_t l) {
  const int64_t F = w->feed_forward;
  ebb_parameters_add(list, &b->table, EBB_SHAPE(1, 6, D), EBB_INIT_TABLE, 0, "blocks.%lld.scale_shift_table",
                     (long long)l);
  list_attention(list, &b->self, dtype, D, l, "attn1");
  list_attention(list, &b->cross, dtype, D, l, "attn2");
  if (w->cross_norm) {
    ebb_parameters_add(list, &b->cross_norm.w, EBB_SHAPE(D), EBB_INIT_ONES, 0, "blocks.%lld.norm2.weight",
                       (long long)l);
    ebb_parameters_add(list, &b->cross_norm.b, EBB_SHAPE(D), EBB_INIT_ZEROS, 0, "blocks.%lld.norm2.bias",
                       (long long)l);
  }
  list_block_layer(list, &b->up, dtype, F, D, l, "ffn.net.0.proj");
  list_block_layer(list, &b->down, dtype, D, F, l, "ffn.net.2");
}

static void list_parameters(ebb_model *m, wan *w) {
  ebb_parameters *list = &m->list;
  const int64_t D = m->width, C = m->channels;
  const int pt = m->patch[0], ph = m->patch[1], pw = m->patch[2];
  const int64_t features = C * pt * ph * pw;
  ebb_parameters_add(list, &w->table, EBB_SHAPE(1, 2, D), EBB_INIT_TABLE, 0, "scale_shift_table");
  list->dtype = m->dtype;
  ebb_parameters_add(list, &w->patch.w, EBB_SHAPE(D, C, pt, ph, pw), EBB_INIT_LINEAR, features,
                     "patch_embedding.weight");
  list->dtype = EBB_F32;
  ebb_parameters_add(list, &w->patch.b, EBB_SHAPE(D), EBB_INIT_LINEAR, features, "patch_embedding.bias");
  list_layer(list, &w->time1, EBB_F32, EBB_F32, D, w->frequencies,
             "condition_embedder.time_embedder.linear_1");
  list_layer(list, &w->time2, EBB_F32, EBB_F32, D, D, "condition_embedder.time_embedder.linear_2");
  list_layer(list, &w->modulation, EBB_F32, EBB_F32, 6 * D, D, "condition_embedder.time_proj");
  list_layer(list, &w->text1, EBB_F32, EBB_F32, D, m->text_dim, "condition_embedder.text_embedder.linear_1");
  list_layer(list, &w->text2, EBB_F32, EBB_F32, D, D, "condition_embedder.text_embedder.linear_2");
  for (int64_t l = 0; l < m->blocks; l++)
    list_block(list, &w->blocks[l], w, m->dtype, D, l);
  list_layer(list, &w->head, m->dtype, EBB_F32, features, D, "proj_out");
}

/* What later members of the family have and this file does not. */
static void refuse_other_wans(ebb_json config) {
  ebb_json_refuse(config, "image_dim", "image-to-video models");
  ebb_json_refuse(config, "added_kv_proj_dim", "image-to-video models");
  ebb_json_refuse(config, "pos_embed_seq_len", "image-to-video models");
  const char *norm = ebb_json_text_or(config, "qk_norm", "none");
  if (strcmp(norm, "rms_norm_across_heads") != 0)
    ebb_fail(config.err, "%s: \"qk_norm\" is \"%.60s\", only \"rms_norm_across_heads\" is supported",
             config.path, norm);
}

static void wan_open(ebb_model *m, ebb_json config) {
  int64_t patch[3] = {1, 2, 2};
  refuse_other_wans(config);
  m->blocks = ebb_json_int(config, "num_layers", 1, BLOCKS_MAX);
  m->heads = ebb_json_int(config, "num_attention_heads", 1, 1024);
  int64_t head_width = ebb_json_int(config, "attention_head_dim", 2, 1024);
  m->width = m->heads * head_width;
  m->channels = ebb_json_int(config, "in_channels", 1, 4096);
  m->text_dim = ebb_json_int(config, "text_dim", 1, 65536);
  int axes = ebb_json_ints(config, "patch_size", false, 3, 1, 16, patch);
  int64_t out = ebb_json_int_or(config, "out_channels", 1, 4096, m->channels);
  wan *w = m->state = ebb_must(calloc(1, sizeof *w + (size_t)m->blocks * sizeof *w->blocks));
  w->head_width = head_width;
  w->feed_forward = ebb_json_int(config, "ffn_dim", 1, 1 << 20);
  w->frequencies = ebb_json_int(config, "freq_dim", 2, 65536);
  w->reach = ebb_json_int_or(config, "rope_max_seq_len", 1, 1 << 20, 1024);
  w->eps = (float)ebb_json_real_or(config, "eps", 0, 1, 1e-6);
  w->cross_norm = ebb_json_bool_or(config, "cross_attn_norm", true);
  if (axes != 0 && axes != 3)
    ebb_fail(config.err, "%s: \"patch_size\" has %d entries, expected 3: frames, rows, columns", config.path,
             axes);
  if (head_width % 2 != 0 || w->frequencies % 2 != 0)
    ebb_fail(config.err, "%s: \"attention_head_dim\" %lld and \"freq_dim\" %lld must be even", config.path,
             (long long)head_width, (long long)w->frequencies);
  if (out != m->channels)
    ebb_fail(config.err,
             "%s: \"out_channels\" is %lld, expected %lld as \"in_channels\": a velocity is like its state",
             config.path, (long long)out, (long long)m->channels);
  for (int i = 0; i < 3; i++)
    m->patch[i] = (int)patch[i];
  if (config.err->text[0] == '\0')
    list_parameters(m, w);
}

static void wan_close(ebb_model *m) {
  free(m->state);
  m->state = NULL;
}

/* ---- constants of a run ------------------------------------------------------------------------------ */

void ebb_wan_rope(float *cosine, float *sine, const int64_t grid[3], int64_t head_width) {
  const int64_t side = 2 * (head_width / 6), widths[3] = {head_width - 2 * side, side, side};
  const int64_t plane = grid[1] * grid[2], S = grid[0] * plane;
  for (int64_t s = 0, at = 0; s < S; s++) {
    const int64_t position[3] = {s / plane, s % plane / grid[2], s % grid[2]};
    for (int axis = 0; axis < 3; axis++)
      for (int64_t i = 0; i < widths[axis] / 2; i++, at++) {
        double angle = (double)position[axis] / pow(THETA, 2.0 * (double)i / (double)widths[axis]);
        cosine[at] = (float)cos(angle);
        sine[at] = (float)sin(angle);
      }
  }
}

/* cos, sin [S,P/2] of cond's grid of tokens. */
static bool make_rope(const ebb_model *m, const ebb_condition *cond, constants *k, ebb_error *err) {
  const wan *w = m->state;
  ebb_context *c = m->context;
  const int64_t grid[3] = {cond->shape.frames / m->patch[0], cond->shape.height / m->patch[1],
                           cond->shape.width / m->patch[2]};
  static const char *const axes[] = {"frames", "rows", "columns"};
  for (int i = 0; i < 3; i++)
    if (grid[i] > w->reach)
      return ebb_fail(err,
                      "the latent has %lld %s of tokens, the model's positions (rope_max_seq_len) reach %lld",
                      (long long)grid[i], axes[i], (long long)w->reach);
  const int64_t S = grid[0] * grid[1] * grid[2], pairs = w->head_width / 2;
  k->cos = EBB_NEW(c, EBB_WEIGHTS, EBB_F32, "rope cos", S, pairs);
  k->sin = EBB_NEW(c, EBB_WEIGHTS, EBB_F32, "rope sin", S, pairs);
  if (c->counting)
    return true;
  float *host = malloc(2 * (size_t)(S * pairs) * sizeof *host);
  if (!host)
    return ebb_fail(err, "no memory for the positions of %lld tokens", (long long)S);
  ebb_wan_rope(host, host + S * pairs, grid, w->head_width);
  ebb_upload(c, k->cos, host);
  ebb_upload(c, k->sin, host + S * pairs);
  free(host);
  return true;
}

static void linear(ebb_context *c, ebb_tensor y, ebb_tensor x, layer l, ebb_activation act) {
  ebb_linear(c, y, x, l.w, l.b, act);
}

/* Keys and values of every block's cross-attention from the text's states [text_batch,M,text_dim]. */
static void condition_on_text(const ebb_model *m, constants *k, ebb_tensor text) {
  const wan *w = m->state;
  ebb_context *c = m->context;
  const int64_t B = text.shape[0], M = text.shape[1], D = m->width;
  const ebb_tensor none = EBB_NO_TENSOR;
  const bool few = B == 1 && M <= EBB_FEW_KEYS && 2 * m->heads * M <= D;
  ebb_tensor hidden = EBB_ACTIVATION(c, "text hidden", B, M, D);
  ebb_tensor full = EBB_ACTIVATION(c, "text states", B, M, D);
  ebb_tensor states = EBB_NEW(c, EBB_ACTIVATIONS, m->dtype, "text states", B, M, D);
  linear(c, hidden, text, w->text1, EBB_GELU_TANH);
  linear(c, full, hidden, w->text2, EBB_IDENTITY);
  ebb_convert(c, states, full);
  for (int64_t l = 0; l < m->blocks; l++) {
    const attention *a = &w->blocks[l].cross;
    ebb_tensor key = k->blocks[l].k = EBB_NEW(c, EBB_WEIGHTS, m->dtype, "text keys", B, M, D);
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor value = EBB_NEW(c, few ? EBB_ACTIVATIONS : EBB_WEIGHTS, m->dtype, "text values", B, M, D);
    linear(c, key, states, a->k, EBB_IDENTITY);
    linear(c, value, states, a->v, EBB_IDENTITY);
    ebb_qk_norm_rope(c, key, none, a->norm_k, none, none, none, (int)m->heads, w->eps);
    if (few) {
      k->blocks[l].u = EBB_NEW(c, EBB_WEIGHTS, m->dtype, "projected text values", D, m->heads * M);
      ebb_projected_values(c, k->blocks[l].u, value, a->out.w, (int)m->heads);
    } else {
      k->blocks[l].v = value;
    }
    ebb_arena_release(&c->activations, mark);
  }
}

/* Shifts, scales and gates of every block and of the head from the time labels [moments * n]. */
static void condition_on_time(const ebb_model *m, const ebb_condition *cond, constants *k,
                              ebb_tensor labels) {
  const wan *w = m->state;
  ebb_context *c = m->context;
  const int64_t all = labels.shape[0], n = cond->labels_per_moment, L = m->blocks, D = m->width;
  ebb_tensor waves = EBB_ACTIVATION(c, "time waves", all, w->frequencies);
  ebb_tensor hidden = EBB_ACTIVATION(c, "time hidden", all, D);
  ebb_tensor time = EBB_ACTIVATION(c, "time embedding", all, D);
  ebb_tensor six = EBB_ACTIVATION(c, "time modulation", all, 6 * D);
  ebb_timestep_embedding(c, waves, labels);
  linear(c, hidden, waves, w->time1, EBB_SILU);
  linear(c, time, hidden, w->time2, EBB_IDENTITY);
  ebb_activate(c, hidden, time, EBB_SILU);
  linear(c, six, hidden, w->modulation, EBB_IDENTITY);
  k->modulation = EBB_NEW(c, EBB_WEIGHTS, EBB_F32, "modulation", cond->moments, 6 * L + 2, n, D);
  k->now = EBB_NEW(c, EBB_WEIGHTS, EBB_F32, "modulation now", 6 * L + 2, n, D);
  for (int64_t j = 0; j < cond->moments; j++) {
    ebb_tensor to = ebb_at(k->modulation, j);
    for (int64_t l = 0; l < L; l++)
      ebb_add_table(c, ebb_slice(to, 6 * l, 6), ebb_at(w->blocks[l].table, 0),
                    EBB_VIEW(ebb_slice(six, j * n, n), n, 6, D));
    ebb_add_table(c, ebb_slice(to, 6 * L, 2), ebb_at(w->table, 0), ebb_slice(time, j * n, n));
  }
}

static bool wan_condition(ebb_model *m, ebb_condition *cond, ebb_tensor text, ebb_tensor labels,
                          ebb_error *err) {
  constants *k = ebb_must(calloc(1, sizeof *k + (size_t)m->blocks * sizeof *k->blocks));
  cond->state = k;
  if (!make_rope(m, cond, k, err))
    return false;
  condition_on_text(m, k, text);
  condition_on_time(m, cond, k, labels);
  return true;
}

/* ---- the forward ------------------------------------------------------------------------------------- */

/* One forward's tensors. The feed-forward's hidden layer lies over q, k, v and a: they are never needed
 * together. */
typedef struct activations {
  ebb_tensor patches;    /* [B,S,C*pt*ph*pw] */
  ebb_tensor output;     /* the same, float32: what the head gives */
  ebb_tensor x;          /* [B,S,D] float32: the residual stream */
  ebb_tensor h;          /* [B,S,D]: what enters a sublayer */
  ebb_tensor y;          /* [B,S,D]: what it adds */
  ebb_tensor q, k, v, a; /* [B,S,D] */
  ebb_tensor hidden;     /* [B,S,F] */
} activations;

static void take_attention(ebb_context *c, activations *t, ebb_dtype dtype, int64_t B, int64_t S, int64_t D) {
  t->q = EBB_NEW(c, EBB_ACTIVATIONS, dtype, "q", B, S, D);
  t->k = EBB_NEW(c, EBB_ACTIVATIONS, dtype, "k", B, S, D);
  t->v = EBB_NEW(c, EBB_ACTIVATIONS, dtype, "v", B, S, D);
  t->a = EBB_NEW(c, EBB_ACTIVATIONS, dtype, "attention", B, S, D);
}

static activations take_activations(const ebb_model *m, int64_t B, int64_t S) {
  const wan *w = m->state;
  ebb_context *c = m->context;
  const int64_t D = m->width, F = w->feed_forward;
  const int64_t features = m->channels * m->patch[0] * m->patch[1] * m->patch[2];
  activations t = {.patches = EBB_NEW(c, EBB_ACTIVATIONS, m->dtype, "patches", B, S, features),
                   .output = EBB_ACTIVATION(c, "output patches", B, S, features),
                   .x = EBB_ACTIVATION(c, "x", B, S, D),
                   .h = EBB_NEW(c, EBB_ACTIVATIONS, m->dtype, "h", B, S, D),
                   .y = EBB_NEW(c, EBB_ACTIVATIONS, m->dtype, "y", B, S, D)};
  size_t mark = ebb_arena_mark(&c->activations);
  t.hidden = EBB_NEW(c, EBB_ACTIVATIONS, m->dtype, "feed-forward", B, S, F);
  size_t end = ebb_arena_mark(&c->activations);
  ebb_arena_release(&c->activations, mark);
  take_attention(c, &t, m->dtype, B, S, D);
  if (ebb_arena_mark(&c->activations) < end) { /* the larger one is taken last, so that both stay taken */
    ebb_arena_release(&c->activations, mark);
    t.hidden = EBB_NEW(c, EBB_ACTIVATIONS, m->dtype, "feed-forward", B, S, F);
  }
  return t;
}

/* What block l takes from the modulation now besides its first shift and scale, each [1 or B, D]: rows 6l + 2 to
 * 6l + 5. Rows 6l and 6l + 1 are its first shift and scale; after the last block they are the head's. */
typedef struct modulation {
  ebb_tensor gate1, shift2, scale2, gate2;
} modulation;

static modulation modulation_of(const constants *k, int64_t l) {
  const ebb_tensor four = ebb_slice(k->now, 6 * l + 2, 4);
  return (modulation){ebb_at(four, 0), ebb_at(four, 1), ebb_at(four, 2), ebb_at(four, 3)};
}

static void wan_moment(ebb_model *m, const ebb_condition *cond, int64_t moment) {
  const constants *k = cond->state;
  ebb_convert(m->context, k->now, ebb_at(k->modulation, moment));
}

/* y <- CrossAttention(q, text) of block l, q before its norm. Few keys: the map [B,S,N*M] first, over a's memory,
 * then one narrow product. */
static void attend_to_text(const ebb_model *m, int l, const activations *t, const ebb_condition *cond) {
  const wan *w = m->state;
  const constants *k = cond->state;
  ebb_context *c = m->context;
  const ebb_tensor keys = k->blocks[l].k, values = k->blocks[l].v, u = k->blocks[l].u;
  const attention *cross = &w->blocks[l].cross;
  const ebb_tensor none = EBB_NO_TENSOR;
  const int heads = (int)m->heads;
  if (ebb_present(u)) {
    const int64_t B = t->a.shape[0], S = t->a.shape[1], n = ebb_last(u);
    const ebb_tensor all = EBB_VIEW(t->a, ebb_count(t->a));
    const ebb_tensor map = ebb_named(EBB_VIEW(ebb_slice(all, 0, B * S * n), B, S, n), "text map");
    ebb_attention_weights(c, map, t->q, keys, cross->norm_q, heads, cond->text_repeats, w->eps);
    ebb_linear(c, t->y, map, u, cross->out.b, EBB_IDENTITY);
  } else {
    ebb_qk_norm_rope(c, t->q, none, cross->norm_q, none, none, none, heads, w->eps);
    ebb_attention(c, t->a, NULL, t->q, keys, values, heads, cond->text_repeats);
    linear(c, t->y, t->a, cross->out, EBB_IDENTITY);
  }
}

/* x <- block l of x. On entry h is norm(x) * (1 + scale1) + shift1, as the block before left it; on return it is what
 * enters the next block, or the head. */
static void forward_block(const ebb_model *m, int l, const activations *t, const ebb_condition *cond,
                          ebb_tap *tap) {
  const wan *w = m->state;
  const block *b = &w->blocks[l];
  const constants *k = cond->state;
  ebb_context *c = m->context;
  const int heads = (int)m->heads;
  const ebb_tensor none = EBB_NO_TENSOR;
  const modulation of = modulation_of(k, l);
  const ebb_tensor next_shift = ebb_at(k->now, 6 * (l + 1)), next_scale = ebb_at(k->now, 6 * (l + 1) + 1);
  ebb_attention_stats room;
  const ebb_attention_stats *stats = ebb_tap_stats(tap, l, &room);

  /* x <- x + gate1 * SelfAttention(h); h <- norm(x) * w + b */
  ebb_tap_tokens(tap, EBB_BLOCK_IN, l, t->x);
  linear(c, t->q, t->h, b->self.q, EBB_IDENTITY);
  linear(c, t->k, t->h, b->self.k, EBB_IDENTITY);
  linear(c, t->v, t->h, b->self.v, EBB_IDENTITY);
  ebb_qk_norm_rope(c, t->q, t->k, b->self.norm_q, b->self.norm_k, k->cos, k->sin, heads, w->eps);
  ebb_attention(c, t->a, stats, t->q, t->k, t->v, heads, 1);
  linear(c, t->y, ebb_edit_heads(m->edit, l, t->a, t->h), b->self.out, EBB_IDENTITY);
  ebb_gate_add_layer_norm(c, t->h, t->x, t->y, of.gate1, b->cross_norm.w, b->cross_norm.b, w->eps);
  ebb_tap_tokens(tap, EBB_ATTN_OUT, l, t->x);

  /* x <- x + CrossAttention(h, text); h <- norm(x) * (1 + scale2) + shift2 */
  linear(c, t->q, t->h, b->cross.q, EBB_IDENTITY);
  attend_to_text(m, l, t, cond);
  ebb_gate_add_norm(c, t->h, t->x, t->y, none, of.shift2, of.scale2, w->eps);
  ebb_tap_tokens(tap, EBB_CROSS_OUT, l, t->x);

  /* x <- x + gate2 * FeedForward(h); h <- norm(x) * (1 + next scale) + next shift */
  linear(c, t->hidden, t->h, b->up, EBB_GELU_TANH);
  linear(c, t->y, t->hidden, b->down, EBB_IDENTITY);
  ebb_tap_tokens(tap, EBB_MLP_OUT, l, t->y);
  ebb_gate_add_norm(c, t->h, t->x, t->y, of.gate2, next_shift, next_scale, w->eps);
  if (ebb_edit_output(m->edit, l, t->x))
    ebb_norm_modulate(c, t->h, t->x, next_shift, next_scale, w->eps);
  ebb_tap_tokens(tap, EBB_BLOCK_OUT, l, t->x);
}

static void wan_velocity(ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond, ebb_tap *tap) {
  const wan *w = m->state;
  const constants *k = cond->state;
  ebb_context *c = m->context;
  const size_t mark = ebb_arena_mark(&c->activations);
  const activations t = take_activations(m, x.shape[0], k->cos.shape[0]);
  const layer patch = {EBB_VIEW(w->patch.w, m->width, ebb_last(t.patches)), w->patch.b};

  ebb_patchify(c, t.patches, x, m->patch);
  linear(c, t.x, t.patches, patch, EBB_IDENTITY);
  ebb_norm_modulate(c, t.h, t.x, ebb_at(k->now, 0), ebb_at(k->now, 1), w->eps);
  for (int l = 0; l < m->blocks; l++)
    forward_block(m, l, &t, cond, tap);
  linear(c, t.output, t.h, w->head, EBB_IDENTITY);
  ebb_unpatchify(c, v, t.output, m->patch);
  ebb_arena_release(&c->activations, mark);
}

const ebb_family ebb_family_wan = {.class_name = "WanTransformer3DModel",
                                   .open = wan_open,
                                   .condition = wan_condition,
                                   .moment = wan_moment,
                                   .velocity = wan_velocity,
                                   .close = wan_close};
