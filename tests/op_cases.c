#include "tests/op_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/numeric.h"
#include "kernels/random.h"
#include "tests/op_truth.h"

/* ---- running a case ---------------------------------------------------------------------------------- */

#define GUARD 64 /* elements of sentinel on each side of a tensor */

int64_t op_tensor_count(const op_tensor *t) {
  int64_t n = t->rank > 0;
  for (int i = 0; i < t->rank; i++)
    n *= t->shape[i];
  return n;
}

int64_t op_case_batch(const op_case *k) {
  for (int i = 0; i < OP_TENSORS; i++)
    if (k->t[i].rank > 0 && k->t[i].flags & OP_BATCHED)
      return k->t[i].shape[0];
  return 1;
}

op_case op_case_sample(const op_case *k, int64_t b) {
  op_case one = *k;
  one.first_sample = b;
  for (int i = 0; i < OP_TENSORS; i++)
    if (k->t[i].rank > 0 && k->t[i].flags & OP_BATCHED)
      one.t[i].shape[0] = 1;
  return one;
}

/* Bits by place in the case: for linear y, x, w, b. What stands in the table once is there for every case. */
int op_case_halves(const op_case *k, unsigned halves[OP_HALVES]) {
  static const struct {
    const char *op;
    unsigned halves[OP_HALVES];
  } table[] = {
      {"linear", {15, 6}},             /* all; x and w, into float32 */
      {"norm_modulate", {3, 1, 2}},    /* y and x; each */
      {"gate_add_norm", {7, 5, 1, 2}}, /* h, x and y; h and y, as a forward has them; h; x */
      {"gate_add_layer_norm", {7, 5, 1, 2}},
      {"qk_norm_rope", {3}},        /* q, k */
      {"attention", {15}},          /* out, q, k, v */
      {"gate_add", {3, 1, 2}},      /* x and y; each */
      {"perturb", {1}},             /* x */
      {"replace_heads", {3}},       /* y and x */
      {"convert", {1, 2, 3}},       /* into bfloat16; from it; both */
      {"patchify", {1}},            /* y */
      {"unpatchify", {2}},          /* y */
      {"attention_weights", {7}},   /* p, q, k */
      {"projected_values", {7}},    /* u, v, w */
      {"rms_norm", {3, 1, 2}},      /* y and x; each */
      {"attention_relative", {15}}, /* out, q, k, v */
      {"gated", {7}},               /* y, a, b */
      {"channel_norm", {3}},        /* y and x */
      {"conv3d_causal", {59}},      /* all but norm */
      {"downsample_space", {15}},   /* all, and below */
      {"downsample_time", {15}},
      {"upsample_space", {3}},
      {"upsample_time", {15}},
      {"pool_mean", {2}}, /* x, and below */
      {"pool_frames", {2}},
      {"pool_moments", {2}},
      {"pool_motion", {2}},
  };
  for (size_t row = 0; row < sizeof table / sizeof table[0]; row++)
    if (strcmp(table[row].op, k->op) == 0) {
      int n = 0;
      for (; n < OP_HALVES && table[row].halves[n] != 0; n++)
        halves[n] = table[row].halves[n];
      return n;
    }
  return 0;
}

static bool is_bf16(const op_case *k, int tensor) {
  return k->bf16 >> tensor & 1;
}

ebb_dtype op_case_dtype(const op_case *k, int tensor) {
  if (k->t[tensor].flags & OP_INTEGER)
    return EBB_I64;
  return k->f64 ? EBB_F64 : is_bf16(k, tensor) && !k->widened ? EBB_BF16 : EBB_F32;
}

static double draw(const op_case *k, int tensor, int64_t element) {
  double scale = k->t[tensor].scale != 0 ? k->t[tensor].scale : 1;
  double value = scale * (2 * ebb_random_uniform(k->seed, (uint64_t)tensor, (uint64_t)element) - 1);
  if (k->t[tensor].flags & OP_INTEGER)
    return floor(value);
  if (is_bf16(k, tensor))
    return (double)ebb_float_of_bf16(ebb_bf16_of_float((float)value));
  return k->f64 ? value : (double)(float)value;
}

double op_case_value(const op_case *k, int tensor, int64_t element) {
  const op_tensor *t = &k->t[tensor];
  if (t->flags & OP_BATCHED)
    return draw(k, tensor, element + k->first_sample * (op_tensor_count(t) / t->shape[0]));
  if (strcmp(t->name, "when") == 0) /* a whole number */
    return 7;
  if (strcmp(t->name, "source") == 0) { /* what a head can become, or a sample of the batch */
    const int64_t least = k->t[2].rank > 0 ? EBB_HEAD_MEAN : EBB_HEAD_ZERO;
    return (double)(least + ebb_random_below(k->seed, (uint64_t)tensor, (uint64_t)element,
                                             (uint32_t)(t->shape[0] - least)));
  }
  if (strcmp(t->name, "spd") != 0)
    return draw(k, tensor, element);
  int64_t n = t->shape[2], i = element / n % n, j = element % n, first = element / (n * n) * n * n;
  int64_t lower = i > j ? i * n + j : j * n + i; /* a dominant diagonal makes it positive definite */
  return draw(k, tensor, first + lower) + (i == j ? (double)n : 0);
}

static size_t block_bytes(const op_case *k, int i) {
  return (size_t)(op_tensor_count(&k->t[i]) + 2 * GUARD) * ebb_dtype_size(op_case_dtype(k, i));
}

/* What is uploaded for tensor i: inputs as drawn, NaN for outputs, a pattern around. */
static void fill_block(const op_case *k, int i, char *block) {
  int64_t n = op_tensor_count(&k->t[i]);
  ebb_dtype dtype = op_case_dtype(k, i);
  for (int64_t at = 0; at < n + 2 * GUARD; at++) {
    bool inside = at >= GUARD && at < GUARD + n;
    double value = inside ? NAN : 12345.0 + (double)at;
    if (inside && k->t[i].flags & OP_IN)
      value = op_case_value(k, i, at - GUARD);
    if (dtype == EBB_F64)
      ((double *)block)[at] = value;
    else if (dtype == EBB_I64)
      ((int64_t *)block)[at] = (int64_t)value;
    else if (dtype == EBB_BF16)
      ((uint16_t *)block)[at] = ebb_bf16_of_float((float)value);
    else
      ((float *)block)[at] = (float)value;
  }
}

static bool check_block(const op_case *k, int i, const char *before, const char *after, ebb_error *err) {
  size_t element = ebb_dtype_size(op_case_dtype(k, i)), guard = GUARD * element, all = block_bytes(k, i);
  if (memcmp(before, after, guard) != 0 || memcmp(before + all - guard, after + all - guard, guard) != 0)
    return ebb_fail(err, "%s (%s): memory around %s was overwritten", k->op, k->label, k->t[i].name);
  if (!(k->t[i].flags & OP_OUT) && memcmp(before, after, all) != 0)
    return ebb_fail(err, "%s (%s): input %s was overwritten", k->op, k->label, k->t[i].name);
  return true;
}

static double *to_doubles(const op_case *k, int i, const char *block) {
  int64_t n = op_tensor_count(&k->t[i]);
  double *values = malloc((size_t)n * sizeof *values);
  for (int64_t at = 0; at < n; at++)
    switch (op_case_dtype(k, i)) {
    case EBB_F64:
      values[at] = ((const double *)block)[GUARD + at];
      break;
    case EBB_I64:
      values[at] = (double)((const int64_t *)block)[GUARD + at];
      break;
    case EBB_BF16:
      values[at] = (double)ebb_float_of_bf16(((const uint16_t *)block)[GUARD + at]);
      break;
    default:
      values[at] = (double)((const float *)block)[GUARD + at];
    }
  return values;
}

void op_case_tensors(ebb_context *c, const op_case *k, ebb_tensor t[OP_TENSORS]) {
  for (int i = 0; i < OP_TENSORS; i++) {
    t[i] = EBB_NO_TENSOR;
    if (k->t[i].rank == 0)
      continue;
    t[i] = ebb_tensor_new(c, EBB_ACTIVATIONS, op_case_dtype(k, i), k->t[i].name, k->t[i].rank, k->t[i].shape);
    if (c->counting)
      continue;
    char *block = malloc(block_bytes(k, i));
    fill_block(k, i, block);
    ebb_upload(c, t[i], block + GUARD * ebb_dtype_size(t[i].dtype));
    free(block);
  }
}

bool op_case_run(ebb_context *c, const op_case *k, double *results[OP_TENSORS], ebb_error *err) {
  ebb_tensor t[OP_TENSORS] = {0}, blocks[OP_TENSORS] = {0};
  char *before[OP_TENSORS] = {0}, *after[OP_TENSORS] = {0};
  size_t mark = ebb_arena_mark(&c->activations);
  for (int i = 0; i < OP_TENSORS; i++) {
    int64_t count = op_tensor_count(&k->t[i]);
    results[i] = NULL;
    if (count == 0)
      continue;
    before[i] = malloc(block_bytes(k, i));
    after[i] = malloc(block_bytes(k, i));
    fill_block(k, i, before[i]);
    blocks[i] = EBB_NEW(c, EBB_ACTIVATIONS, op_case_dtype(k, i), k->t[i].name, count + 2 * GUARD);
    ebb_upload(c, blocks[i], before[i]);
    t[i] = ebb_view(ebb_slice(blocks[i], GUARD, count), k->t[i].rank, k->t[i].shape);
  }
  k->run(c, k, t);
  for (int i = 0; i < OP_TENSORS; i++)
    if (after[i])
      ebb_download(c, after[i], blocks[i]);
  bool ok = ebb_context_ok(c, err);
  for (int i = 0; i < OP_TENSORS; i++) {
    if (after[i] && ok) {
      ok = check_block(k, i, before[i], after[i], err);
      results[i] = to_doubles(k, i, after[i]);
    }
    free(before[i]);
    free(after[i]);
  }
  ebb_arena_release(&c->activations, mark);
  return ok;
}

void op_case_truth(const op_case *k, double *results[OP_TENSORS]) {
  for (int i = 0; i < OP_TENSORS; i++) {
    int64_t n = op_tensor_count(&k->t[i]);
    results[i] = n > 0 ? malloc((size_t)n * sizeof(double)) : NULL;
    for (int64_t at = 0; at < n; at++)
      results[i][at] = k->t[i].flags & OP_IN ? op_case_value(k, i, at) : NAN;
  }
  k->truth(k, results);
}

void op_case_free(double *results[OP_TENSORS]) {
  for (int i = 0; i < OP_TENSORS; i++) {
    free(results[i]);
    results[i] = NULL;
  }
}

double op_relative_error(const double *a, const double *b, int64_t n) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(a[i]))
      return INFINITY;
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return difference == 0 ? 0 : sqrt(difference / size);
}

/* ---- one call per op: tensors in the order of kernels/ops.h ------------------------------------------ */

#define RUN(name, call)                                                                                      \
  static void run_##name(ebb_context *c, const op_case *k, const ebb_tensor *t) {                            \
    (void)k;                                                                                                 \
    call;                                                                                                    \
  }
RUN(linear, ebb_linear(c, t[0], t[1], t[2], t[3], (ebb_activation)k->i[0]))
RUN(norm_modulate, ebb_norm_modulate(c, t[0], t[1], t[2], t[3], (float)k->f[0]))
RUN(gate_add_norm, ebb_gate_add_norm(c, t[0], t[1], t[2], t[3], t[4], t[5], (float)k->f[0]))
RUN(gate_add_layer_norm, ebb_gate_add_layer_norm(c, t[0], t[1], t[2], t[3], t[4], t[5], (float)k->f[0]))
RUN(qk_norm_rope, ebb_qk_norm_rope(c, t[0], t[1], t[2], t[3], t[4], t[5], k->i[0], (float)k->f[0]))
RUN(channel_norm, ebb_channel_norm(c, t[0], t[1], t[2], (ebb_activation)k->i[0]))
RUN(rms_norm, ebb_rms_norm(c, t[0], t[1], t[2], (float)k->f[0]))
RUN(timestep_embedding, ebb_timestep_embedding(c, t[0], t[1]))
RUN(attention, ebb_attention(c, t[0], &((ebb_attention_stats){t[4], t[5], t[6], t[7], t[8], t[9]}), t[1],
                             t[2], t[3], k->i[0], k->i[1] ? k->i[1] : 1))
RUN(attention_weights,
    ebb_attention_weights(c, t[0], t[1], t[2], t[3], k->i[0], k->i[1] ? k->i[1] : 1, (float)k->f[0]))
RUN(projected_values, ebb_projected_values(c, t[0], t[1], t[2], k->i[0]))
RUN(attention_relative, ebb_attention_relative(c, t[0], t[1], t[2], t[3], t[4], k->i[0]))
RUN(gated, ebb_gated(c, t[0], t[1], t[2], (ebb_activation)k->i[0]))
RUN(gate_add, ebb_gate_add(c, t[0], t[1], t[2]))
RUN(axpby, ebb_axpby(c, t[0], (float)k->f[0], t[1], (float)k->f[1], t[2]))
RUN(convert, ebb_convert(c, t[0], t[1]))
RUN(activate, ebb_activate(c, t[0], t[1], (ebb_activation)k->i[0]))
RUN(add_table, ebb_add_table(c, t[0], t[1], t[2]))
RUN(channel_affine, ebb_channel_affine(c, t[0], t[1], t[2], t[3]))
RUN(clamp, ebb_clamp(c, t[0], t[1], (float)k->f[0], (float)k->f[1]))
RUN(perturb, ebb_perturb(c, t[0], t[1], t[2], t[3], t[4], k->i[0]))
RUN(add_noise, ebb_add_noise(c, t[0], (float)k->f[0], t[1], (float)k->f[1], t[2], k->i[0]))
RUN(replace_heads, ebb_replace_heads(c, t[0], t[1], t[2], t[3]))
RUN(patchify, ebb_patchify(c, t[0], t[1], k->i))
RUN(unpatchify, ebb_unpatchify(c, t[0], t[1], k->i))
RUN(conv3d_causal, ebb_conv3d_causal(c, t[0], t[1], t[2], t[3], t[4], t[5]))
RUN(downsample_space, ebb_downsample_space(c, t[0], t[1], t[2], t[3]))
RUN(downsample_time, ebb_downsample_time(c, t[0], t[1], t[2], t[3]))
RUN(upsample_space, ebb_upsample_space(c, t[0], t[1]))
RUN(upsample_time, ebb_upsample_time(c, t[0], t[1], t[2], t[3]))
RUN(pool_mean, ebb_pool_mean(c, t[0], t[1]))
RUN(pool_frames, ebb_pool_frames(c, t[0], t[1]))
RUN(pool_moments, ebb_pool_moments(c, t[0], t[1], k->i[0]))
RUN(pool_motion, ebb_pool_motion(c, t[0], t[1], k->i[0]))
RUN(gram, ebb_gram(c, t[0], t[1]))
RUN(matmul, ebb_matmul(c, t[0], t[1], k->i[0], t[2], k->i[1]))
RUN(add_diagonal, ebb_add_diagonal(c, t[0], t[1], t[2]))
RUN(spd_inverse, ebb_spd_inverse(c, t[0]))

/* ---- the table --------------------------------------------------------------------------------------- */

#define CASE(name, label_, seed_, tolerance_)                                                                \
  .op = #name, .label = label_, .run = run_##name, .truth = truth_##name, .seed = seed_,                     \
  .tolerance = tolerance_
#define T(name, flags, scale, ...)                                                                           \
  { name, flags, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}, scale }
#define X(name, ...) T(name, OP_IN, 1, __VA_ARGS__)               /* shared by the batch: a weight */
#define XB(name, ...) T(name, OP_IN | OP_BATCHED, 1, __VA_ARGS__) /* outermost dimension: the batch */
#define XS(name, scale, ...) T(name, OP_IN | OP_BATCHED, scale, __VA_ARGS__) /* with large values */
#define Y(name, ...) T(name, OP_OUT, 1, __VA_ARGS__)
#define YB(name, ...) T(name, OP_OUT | OP_BATCHED, 1, __VA_ARGS__)
#define XY(name, ...) T(name, OP_INOUT, 1, __VA_ARGS__)
#define XYB(name, ...) T(name, OP_INOUT | OP_BATCHED, 1, __VA_ARGS__)
#define IB(name, scale, ...) T(name, OP_IN | OP_BATCHED | OP_INTEGER, scale, __VA_ARGS__)
#define I(name, ...) T(name, OP_IN | OP_INTEGER, 0, __VA_ARGS__)
#define NONE                                                                                                 \
  { 0 }

const op_case op_cases[] = {
#include "tests/op_table.inc"
};
const int op_case_count = (int)(sizeof op_cases / sizeof op_cases[0]);
