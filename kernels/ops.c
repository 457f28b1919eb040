#include "kernels/ops_check.h"

/* ---- products, norms, position ----------------------------------------------------------------------- */

void ebb_linear(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act) {
  const arg args[] = {{"y", y, OUT | HALF}, {"x", x, HALF}, {"w", w, HALF}, {"b", b, OPTIONAL | HALF}};
  const call k = CALL(c, "linear", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 2, 2, "[n_out, n_in]") || !want_dtype_of(&k, 2, 1) ||
      !want_dtype_of(&k, 3, 0) || (y.dtype != EBB_F32 && !want_dtype_of(&k, 0, 1)))
    return;
  ebb_tensor like = x;
  like.shape[x.rank - 1] = w.shape[0];
  if (WANT(&k, 2, w.shape[0], ebb_last(x)) && want_like(&k, 0, like) && WANT(&k, 3, w.shape[0]) &&
      count(&k, 2.0 * numel(y) * (double)ebb_last(x)))
    c->backend->linear(c, y, x, w, b, act);
}

void ebb_norm_modulate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor shift, ebb_tensor scale,
                       float eps) {
  const arg args[] = {
      {"y", y, OUT | IN_PLACE | HALF}, {"x", x, HALF}, {"shift", shift, 0}, {"scale", scale, 0}};
  const call k = CALL(c, "norm_modulate", args);
  if (start(&k, EBB_F32) && want_rank(&k, 1, 3, "[B, S, D]") && want_like(&k, 0, x) &&
      WANT(&k, 2, shared(shift, x.shape[0]), x.shape[2]) && want_like(&k, 3, shift) &&
      count(&k, 8.0 * numel(x)))
    c->backend->norm_modulate(c, y, x, shift, scale, eps);
}

void ebb_gate_add_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                       ebb_tensor shift, ebb_tensor scale, float eps) {
  const arg args[] = {{"h", h, OUT | HALF},     {"x", x, INOUT | HALF}, {"y", y, HALF},
                      {"gate", gate, OPTIONAL}, {"shift", shift, 0},    {"scale", scale, 0}};
  const call k = CALL(c, "gate_add_norm", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 1, 3, "[B, S, D]"))
    return;
  int64_t B = x.shape[0], D = x.shape[2];
  if (want_like(&k, 0, x) && want_like(&k, 2, x) && WANT(&k, 3, shared(gate, B), D) &&
      WANT(&k, 4, shared(shift, B), D) && want_like(&k, 5, shift) && count(&k, 10.0 * numel(x)))
    c->backend->gate_add_norm(c, h, x, y, gate, shift, scale, eps);
}

void ebb_gate_add_layer_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                             ebb_tensor w, ebb_tensor b, float eps) {
  const arg args[] = {{"h", h, OUT | HALF},     {"x", x, INOUT | HALF}, {"y", y, HALF},
                      {"gate", gate, OPTIONAL}, {"w", w, OPTIONAL},     {"b", b, OPTIONAL}};
  const call k = CALL(c, "gate_add_layer_norm", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 1, 3, "[B, S, D]"))
    return;
  int64_t B = x.shape[0], D = x.shape[2];
  if (want_like(&k, 0, x) && want_like(&k, 2, x) && WANT(&k, 3, shared(gate, B), D) && WANT(&k, 4, D) &&
      WANT(&k, 5, D) &&
      want(&k, ebb_present(w) == ebb_present(b), "one of w and b is absent, expected both or neither") &&
      count(&k, (ebb_present(w) ? 10.0 : 2.0) * numel(x)))
    c->backend->gate_add_layer_norm(c, h, x, y, gate, w, b, eps);
}

void ebb_qk_norm_rope(ebb_context *c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk,
                      ebb_tensor cos, ebb_tensor sin, int heads, float eps) {
  const arg args[] = {{"q", q, INOUT | HALF}, {"k", k, INOUT | OPTIONAL | HALF},
                      {"wq", wq, OPTIONAL},   {"wk", wk, OPTIONAL},
                      {"cos", cos, OPTIONAL}, {"sin", sin, OPTIONAL}};
  const call a = CALL(c, "qk_norm_rope", args);
  if (!start(&a, EBB_F32) || !want_rank(&a, 0, 3, "[B, S, D]") || !want_like(&a, 1, q) ||
      !want_dtype_of(&a, 1, 0) ||
      !want(&a, heads >= 1 && q.shape[2] % heads == 0,
            "the width of q is not a multiple of the number of heads") ||
      !want(&a, ebb_present(k) || !ebb_present(wk), "wk is there and k is not, expected both or no wk") ||
      !want(&a, ebb_present(cos) == ebb_present(sin),
            "one of cos and sin is absent, expected both or neither"))
    return;
  int64_t S = q.shape[1], D = q.shape[2], P = D / heads;
  double norms = (ebb_present(wq) ? 4.0 : 0.0) + (ebb_present(wk) ? 4.0 : 0.0);
  double rotations = ebb_present(cos) ? (ebb_present(k) ? 6.0 : 3.0) : 0.0;
  if (WANT(&a, 2, D) && WANT(&a, 3, D) &&
      want(&a, !ebb_present(cos) || P % 2 == 0, "the head width is odd, expected even") &&
      WANT(&a, 4, S, P / 2) && WANT(&a, 5, S, P / 2) && count(&a, (norms + rotations) * numel(q)))
    c->backend->qk_norm_rope(c, q, k, wq, wk, cos, sin, heads, eps);
}

void ebb_channel_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act) {
  const arg args[] = {{"y", y, OUT | IN_PLACE | HALF}, {"x", x, HALF}, {"w", w, 0}};
  const call k = CALL(c, "channel_norm", args);
  if (start(&k, EBB_F32) && want_dtype_of(&k, 0, 1) && want_like(&k, 0, x) && WANT(&k, 2, ebb_last(x)) &&
      want_aligned(&k) && count(&k, 4.0 * numel(x)))
    c->backend->channel_norm(c, y, x, w, act);
}

void ebb_rms_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, float eps) {
  const arg args[] = {{"y", y, OUT | IN_PLACE | HALF}, {"x", x, HALF}, {"w", w, 0}};
  const call k = CALL(c, "rms_norm", args);
  if (start(&k, EBB_F32) && want_like(&k, 0, x) && WANT(&k, 2, ebb_last(x)) && count(&k, 4.0 * numel(x)))
    c->backend->rms_norm(c, y, x, w, eps);
}

void ebb_timestep_embedding(ebb_context *c, ebb_tensor y, ebb_tensor t) {
  const arg args[] = {{"y", y, OUT}, {"t", t, 0}};
  const call k = CALL(c, "timestep_embedding", args);
  if (start(&k, EBB_F32) && want_rank(&k, 1, 1, "[B]") && want_rank(&k, 0, 2, "[B, F]") &&
      WANT(&k, 0, t.shape[0], y.shape[1]) &&
      want(&k, y.shape[1] % 2 == 0, "the width of y is odd, expected even") && count(&k, 2.0 * numel(y)))
    c->backend->timestep_embedding(c, y, t);
}

/* ---- attention --------------------------------------------------------------------------------------- */

enum { MASS = 4, ENTROPY, LAG, ROWS, COLUMNS, LSE }; /* places among attention's tensors */

/* The statistics' shapes against those of q [B,S,D] and k [.,M,D]. */
static bool want_statistics(const call *a, ebb_attention_stats s, int64_t B, int64_t N, int64_t S,
                            int64_t M) {
  const char *frames = "the queries do not fall into whole frames: S is not a multiple of Tq";
  if (!want_rank(a, MASS, 4, "[B, N, Tq, Tk]") || !want_rank(a, ENTROPY, 3, "[B, N, Tq]") ||
      !want_rank(a, LAG, 3, "[B, N, 2 T - 1]") || !want_rank(a, ROWS, 3, "[B, N, H]") ||
      !want_rank(a, COLUMNS, 3, "[B, N, W]") || !WANT(a, LSE, B, N, S))
    return false;
  int64_t Tq = ebb_present(s.mass) ? s.mass.shape[2] : s.entropy.shape[2], Tk = s.mass.shape[3];
  int64_t T = (s.lag.shape[2] + 1) / 2, H = s.rows.shape[2], W = s.columns.shape[2];
  bool lag = ebb_present(s.lag), spatial = ebb_present(s.rows);
  return WANT(a, MASS, B, N, Tq, Tk) && WANT(a, ENTROPY, B, N, Tq) &&
         want(a, Tq < 1 || S % Tq == 0, frames) &&
         want(a, Tk < 1 || M % Tk == 0,
              "the keys do not fall into whole frames: M is not a multiple of Tk") &&
         WANT(a, LAG, B, N, 2 * T - 1) &&
         want(a, !lag || S % T == 0,
              "the queries do not fall into whole frames: S is not a multiple of the T that the lags say") &&
         want(a, !lag || (S == M && (Tq < 1 || Tq == T) && (Tk < 1 || Tk == T)),
              "lags between frames of queries and of keys that are not the same") &&
         want(a, spatial == ebb_present(s.columns),
              "one of rows and columns is absent, expected both or neither") &&
         WANT(a, ROWS, B, N, H) && WANT(a, COLUMNS, B, N, W) &&
         want(a, !spatial || (S % (H * W) == 0 && M % (H * W) == 0),
              "the tokens do not fall into whole frames: S or M is not a multiple of H W");
}

/* Operations per score that the statistics add: the sums of p over frames, rows and columns, and of p ln p. */
static double statistics_flops(ebb_attention_stats s) {
  return (ebb_present(s.mass) || ebb_present(s.lag) ? 1.0 : 0.0) + (ebb_present(s.entropy) ? 2.0 : 0.0) +
         (ebb_present(s.rows) ? 2.0 : 0.0);
}

void ebb_attention(ebb_context *c, ebb_tensor out, const ebb_attention_stats *stats, ebb_tensor q,
                   ebb_tensor k, ebb_tensor v, int heads, int64_t repeats) {
  ebb_attention_stats wanted = stats ? *stats : (ebb_attention_stats){0};
  const arg args[] = {{"out", out, OUT | HALF},
                      {"q", q, HALF},
                      {"k", k, HALF},
                      {"v", v, HALF},
                      {"mass", wanted.mass, OUT | OPTIONAL},
                      {"entropy", wanted.entropy, OUT | OPTIONAL},
                      {"lag", wanted.lag, OUT | OPTIONAL},
                      {"rows", wanted.rows, OUT | OPTIONAL},
                      {"columns", wanted.columns, OUT | OPTIONAL},
                      {"lse", wanted.lse, OUT | OPTIONAL}};
  const call a = CALL(c, "attention", args);
  if (!start(&a, EBB_F32) || !want_rank(&a, 1, 3, "[B, S, D]") || !want_rank(&a, 2, 3, "[B, M, D]") ||
      !want_dtype_of(&a, 0, 1) || !want_dtype_of(&a, 2, 1) || !want_dtype_of(&a, 3, 1))
    return;
  int64_t B = q.shape[0], S = q.shape[1], D = q.shape[2], M = k.shape[1];
  if (!WANT(&a, 2, shared(k, B), M, D) || !want_like(&a, 3, k) || !want_like(&a, 0, q) ||
      !want(&a, heads >= 1 && D % heads == 0, "the width of q is not a multiple of the number of heads") ||
      !want_statistics(&a, wanted, B, heads, S, M) ||
      !want(&a, repeats >= 1, "the last key stands for fewer than one") ||
      !want(&a, repeats == 1 || statistics_flops(wanted) == 0,
            "statistics of a map whose last key stands for several") ||
      !want_aligned(&a))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  size_t bytes = c->backend->attention_scratch ? c->backend->attention_scratch(c, wanted, q, k, heads) : 0;
  double each = 4.0 * (double)D + (double)heads * statistics_flops(wanted);
  if (take_scratch(&a, bytes, &scratch) && count(&a, (double)B * (double)S * (double)M * each))
    c->backend->attention(c, out, wanted, q, k, v, heads, repeats, scratch);
  ebb_arena_release(&c->activations, mark);
}

void ebb_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                           int64_t repeats, float eps) {
  const arg args[] = {{"p", p, OUT | HALF}, {"q", q, HALF}, {"k", k, HALF}, {"w", w, OPTIONAL}};
  const call a = CALL(c, "attention_weights", args);
  if (!start(&a, EBB_F32) || !want_rank(&a, 1, 3, "[B, S, D]") || !want_rank(&a, 2, 3, "[B, M, D]") ||
      !want_dtype_of(&a, 0, 1) || !want_dtype_of(&a, 2, 1))
    return;
  int64_t B = q.shape[0], S = q.shape[1], D = q.shape[2], M = k.shape[1];
  if (WANT(&a, 2, shared(k, B), M, D) &&
      want(&a, heads >= 1 && D % heads == 0, "the width of q is not a multiple of the number of heads") &&
      want(&a, M <= EBB_FEW_KEYS,
           "more keys than EBB_FEW_KEYS, expected at most 4: ebb_attention takes any number") &&
      WANT(&a, 0, B, S, heads * M) && WANT(&a, 3, D) &&
      want(&a, repeats >= 1, "the last key stands for fewer than one") && want_aligned(&a) &&
      count(&a, (2.0 * (double)M + (ebb_present(w) ? 4.0 : 0.0)) * numel(q)))
    c->backend->attention_weights(c, p, q, k, w, heads, repeats, eps);
}

void ebb_projected_values(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads) {
  const arg args[] = {{"u", u, OUT | HALF}, {"v", v, HALF}, {"w", w, HALF}};
  const call k = CALL(c, "projected_values", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 1, 3, "[1, M, D]") || !want_dtype_of(&k, 0, 2) ||
      !want_dtype_of(&k, 1, 2))
    return;
  int64_t M = v.shape[1], D = v.shape[2];
  if (WANT(&k, 1, 1, M, D) && WANT(&k, 2, D, D) &&
      want(&k, heads >= 1 && D % heads == 0, "the width of v is not a multiple of the number of heads") &&
      WANT(&k, 0, D, heads * M) && count(&k, 2.0 * (double)D * (double)D * (double)M))
    c->backend->projected_values(c, u, v, w, heads);
}

void ebb_attention_relative(ebb_context *c, ebb_tensor out, ebb_tensor q, ebb_tensor k, ebb_tensor v,
                            ebb_tensor bias, int heads) {
  const arg args[] = {
      {"out", out, OUT | HALF}, {"q", q, HALF}, {"k", k, HALF}, {"v", v, HALF}, {"bias", bias, 0}};
  const call a = CALL(c, "attention_relative", args);
  if (!start(&a, EBB_F32) || !want_rank(&a, 1, 3, "[B, S, D]") || !want_dtype_of(&a, 0, 1) ||
      !want_dtype_of(&a, 2, 1) || !want_dtype_of(&a, 3, 1))
    return;
  int64_t S = q.shape[1], D = q.shape[2];
  if (want_like(&a, 0, q) && want_like(&a, 2, q) && want_like(&a, 3, q) &&
      want(&a, heads >= 1 && D % heads == 0, "the width of q is not a multiple of the number of heads") &&
      WANT(&a, 4, heads, 2 * S - 1) && count(&a, 4.0 * numel(q) * (double)S))
    c->backend->attention_relative(c, out, q, k, v, bias, heads);
}

/* ---- between blocks ---------------------------------------------------------------------------------- */

void ebb_gate_add(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate) {
  const arg args[] = {{"x", x, INOUT | HALF}, {"y", y, HALF}, {"gate", gate, OPTIONAL}};
  const call k = CALL(c, "gate_add", args);
  if (start(&k, EBB_F32) && want_rank(&k, 0, 3, "[B, S, D]") && want_like(&k, 1, x) &&
      WANT(&k, 2, shared(gate, x.shape[0]), x.shape[2]) && count(&k, 2.0 * numel(x)))
    c->backend->gate_add(c, x, y, gate);
}

void ebb_axpby(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z) {
  const arg args[] = {{"y", y, OUT | IN_PLACE}, {"x", x, 0}, {"z", z, OPTIONAL}};
  const call k = CALL(c, "axpby", args);
  if (start(&k, EBB_F32) && want_like(&k, 0, x) && want_like(&k, 2, x) && count(&k, 3.0 * numel(x)))
    c->backend->axpby(c, y, a, x, b, z);
}

void ebb_convert(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  const arg args[] = {{"y", y, OUT | HALF}, {"x", x, HALF}};
  const call k = CALL(c, "convert", args);
  if (start(&k, EBB_F32) && want_like(&k, 0, x) && count(&k, 0))
    c->backend->convert(c, y, x);
}

void ebb_activate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_activation act) {
  const arg args[] = {{"y", y, OUT | IN_PLACE}, {"x", x, 0}};
  const call k = CALL(c, "activate", args);
  if (start(&k, EBB_F32) && want_like(&k, 0, x) && count(&k, 8.0 * numel(x)))
    c->backend->activate(c, y, x, act);
}

void ebb_gated(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, ebb_activation act) {
  const arg args[] = {{"y", y, OUT | IN_PLACE | HALF}, {"a", a, HALF}, {"b", b, HALF}};
  const call k = CALL(c, "gated", args);
  if (start(&k, EBB_F32) && want_dtype_of(&k, 0, 1) && want_dtype_of(&k, 2, 1) && want_like(&k, 0, a) &&
      want_like(&k, 2, a) && count(&k, 2.0 * numel(a)))
    c->backend->gated(c, y, a, b, act);
}

void ebb_add_table(ebb_context *c, ebb_tensor y, ebb_tensor table, ebb_tensor x) {
  const arg args[] = {{"y", y, OUT}, {"table", table, 0}, {"x", x, 0}};
  const call k = CALL(c, "add_table", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 1, 2, "[J, D]"))
    return;
  int64_t B = x.shape[0], J = table.shape[0], D = table.shape[1];
  bool fits = x.rank == 2 ? WANT(&k, 2, B, D) : WANT(&k, 2, B, J, D);
  if (fits && WANT(&k, 0, J, B, D) && count(&k, numel(y)))
    c->backend->add_table(c, y, table, x);
}

void ebb_channel_affine(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor scale, ebb_tensor shift) {
  const arg args[] = {{"y", y, OUT | IN_PLACE}, {"x", x, 0}, {"scale", scale, 0}, {"shift", shift, 0}};
  const call k = CALL(c, "channel_affine", args);
  if (start(&k, EBB_F32) && want_rank(&k, 1, 5, "[B, C, T, H, W]") && want_like(&k, 0, x) &&
      WANT(&k, 2, x.shape[1]) && WANT(&k, 3, x.shape[1]) && count(&k, 2.0 * numel(x)))
    c->backend->channel_affine(c, y, x, scale, shift);
}

void ebb_clamp(ebb_context *c, ebb_tensor y, ebb_tensor x, float low, float high) {
  const arg args[] = {{"y", y, OUT | IN_PLACE}, {"x", x, 0}};
  const call k = CALL(c, "clamp", args);
  if (start(&k, EBB_F32) && want_like(&k, 0, x) && want(&k, low <= high, "low is above high") &&
      count(&k, 2.0 * numel(x)))
    c->backend->clamp(c, y, x, low, high);
}

/* Shapes of both patch ops: video [B,C,T,H,W] as args[v], tokens [B,S,C*pt*ph*pw] as args[s]. */
static bool check_patches(const call *k, int v, int s, const int patch[3]) {
  if (!want_rank(k, v, 5, "[B, C, T, H, W]"))
    return false;
  const int64_t *n = k->args[v].t.shape;
  for (int i = 0; i < 3; i++)
    if (!want(k, patch[i] >= 1 && n[2 + i] % patch[i] == 0, "T, H, W are not multiples of the patch"))
      return false;
  return WANT(k, s, n[0], n[2] / patch[0] * (n[3] / patch[1]) * (n[4] / patch[2]),
              n[1] * patch[0] * patch[1] * patch[2]);
}

void ebb_patchify(ebb_context *c, ebb_tensor y, ebb_tensor x, const int patch[3]) {
  const arg args[] = {{"y", y, OUT | HALF}, {"x", x, 0}};
  const call k = CALL(c, "patchify", args);
  if (start(&k, EBB_F32) && check_patches(&k, 1, 0, patch) && count(&k, 0))
    c->backend->patchify(c, y, x, patch);
}

void ebb_unpatchify(ebb_context *c, ebb_tensor x, ebb_tensor y, const int patch[3]) {
  const arg args[] = {{"x", x, OUT}, {"y", y, HALF}};
  const call k = CALL(c, "unpatchify", args);
  if (start(&k, EBB_F32) && check_patches(&k, 0, 1, patch) && count(&k, 0))
    c->backend->unpatchify(c, x, y, patch);
}

/* ---- interventions ----------------------------------------------------------------------------------- */

void ebb_perturb(ebb_context *c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when,
                 ebb_tensor direction, int64_t place) {
  const arg args[] = {{"x", x, INOUT | HALF},
                      {"dose", dose, 0},
                      {"keys", keys, INTEGER},
                      {"when", when, 0},
                      {"direction", direction, OPTIONAL}};
  const call k = CALL(c, "perturb", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 0, 3, "[B, S, D]"))
    return;
  if (want(&k, x.shape[2] >= 2, "x is one number wide, expected 2 or more: one has no deviation") &&
      WANT(&k, 1, x.shape[0], 2) && WANT(&k, 2, x.shape[0]) && WANT(&k, 3, 1) &&
      WANT(&k, 4, x.shape[0], x.shape[2]) &&
      want(&k, place >= 0 && place <= INT32_MAX, "the place is out of range, expected 0 to 2147483647") &&
      count(&k, 40.0 * numel(x)))
    c->backend->perturb(c, x, dose, keys, when, direction, place);
}

void ebb_add_noise(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor keys,
                   int64_t stream) {
  const arg args[] = {{"y", y, OUT | IN_PLACE}, {"x", x, 0}, {"keys", keys, INTEGER}};
  const call k = CALL(c, "add_noise", args);
  if (start(&k, EBB_F32) && want(&k, x.rank >= 1, "x has no dimensions, expected the batch's at least") &&
      want_like(&k, 0, x) && WANT(&k, 2, x.shape[0]) && count(&k, 33.0 * numel(x)))
    c->backend->add_noise(c, y, a, x, b, keys, stream);
}

void ebb_replace_heads(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean, ebb_tensor source) {
  const arg args[] = {
      {"y", y, OUT | HALF}, {"x", x, HALF}, {"mean", mean, OPTIONAL}, {"source", source, INTEGER}};
  const call k = CALL(c, "replace_heads", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 1, 3, "[B, S, D]") || !want_rank(&k, 3, 2, "[B, N]"))
    return;
  if (want_dtype_of(&k, 0, 1) && want_like(&k, 0, x) && WANT(&k, 2, x.shape[0], x.shape[2]) &&
      WANT(&k, 3, x.shape[0], source.shape[1]) &&
      want(&k, x.shape[2] % source.shape[1] == 0,
           "the width of x is not a multiple of the heads of source") &&
      count(&k, 0))
    c->backend->replace_heads(c, y, x, mean, source);
}

/* ---- video convolutions ------------------------------------------------------------------------------ */

/* args[i] must be a video whose frames, rows and columns together can be indexed by BLAS; all that may be
 * half must be of its dtype; all must be aligned. */
static bool want_video(const call *k, int i) {
  if (!want_rank(k, i, 5, "[B, T, H, W, C]"))
    return false;
  for (int j = 0; j < k->n; j++)
    if (k->args[j].flags & HALF && !want_dtype_of(k, j, i))
      return false;
  const int64_t *n = k->args[i].t.shape;
  return want(k, (double)n[1] * (double)n[2] * (double)n[3] <= INT32_MAX, "T*H*W exceeds 2147483647") &&
         want_aligned(k);
}

/* Takes the scratch memory of a convolution; the caller gives it back. */
static bool convolution_scratch(const call *k, ebb_convolution which, ebb_tensor y, ebb_tensor x,
                                ebb_tensor norm, ebb_tensor w, ebb_tensor residual, void **scratch) {
  const ebb_backend *backend = k->c->backend;
  size_t bytes =
      backend->convolution_scratch ? backend->convolution_scratch(k->c, which, y, x, norm, w, residual) : 0;
  return take_scratch(k, bytes, scratch);
}

void ebb_conv3d_causal(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                       ebb_tensor b, ebb_tensor residual) {
  const arg args[] = {{"y", y, OUT | HALF},      {"x", x, HALF},
                      {"norm", norm, OPTIONAL},  {"w", w, HALF},
                      {"b", b, OPTIONAL | HALF}, {"residual", residual, OPTIONAL | HALF}};
  const call k = CALL(c, "conv3d_causal", args);
  if (!start(&k, EBB_F32) || !want_video(&k, 1) || !want_rank(&k, 3, 5, "[Co, Ci, kt, kh, kw]"))
    return;
  const int64_t *n = x.shape, *f = w.shape;
  if (!WANT(&k, 3, f[0], n[4], f[2], f[3], f[4]) ||
      !want(&k, f[3] % 2 == 1 && f[4] % 2 == 1, "the kernel's height or width is even, expected odd") ||
      !WANT(&k, 0, n[0], n[1], n[2], n[3], f[0]) || !WANT(&k, 4, f[0]) || !WANT(&k, 2, n[4]) ||
      !want_like(&k, 5, y))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  double flops = 2.0 * numel(y) * numel(w) / (double)f[0] + (ebb_present(norm) ? 8.0 * numel(x) : 0);
  if (convolution_scratch(&k, EBB_CONV3D_CAUSAL, y, x, norm, w, residual, &scratch) && count(&k, flops))
    c->backend->conv3d_causal(c, y, x, norm, w, b, residual, scratch);
  ebb_arena_release(&c->activations, mark);
}

void ebb_downsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  const arg args[] = {{"y", y, OUT | HALF}, {"x", x, HALF}, {"w", w, HALF}, {"b", b, OPTIONAL | HALF}};
  const call k = CALL(c, "downsample_space", args);
  if (!start(&k, EBB_F32) || !want_video(&k, 1) || !want_rank(&k, 2, 4, "[Co, Ci, 3, 3]"))
    return;
  const int64_t *n = x.shape;
  if (!WANT(&k, 2, w.shape[0], n[4], 3, 3) || !want(&k, n[2] >= 2 && n[3] >= 2, "H or W of x is below 2") ||
      !WANT(&k, 0, n[0], n[1], (n[2] - 2) / 2 + 1, (n[3] - 2) / 2 + 1, w.shape[0]) ||
      !WANT(&k, 3, w.shape[0]))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  if (convolution_scratch(&k, EBB_DOWNSAMPLE_SPACE, y, x, EBB_NO_TENSOR, w, EBB_NO_TENSOR, &scratch) &&
      count(&k, 2.0 * numel(y) * 9.0 * (double)n[4]))
    c->backend->downsample_space(c, y, x, w, b, scratch);
  ebb_arena_release(&c->activations, mark);
}

void ebb_downsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  const arg args[] = {{"y", y, OUT | HALF}, {"x", x, HALF}, {"w", w, HALF}, {"b", b, OPTIONAL | HALF}};
  const call k = CALL(c, "downsample_time", args);
  if (!start(&k, EBB_F32) || !want_video(&k, 1))
    return;
  const int64_t *n = x.shape;
  if (!want(&k, n[1] % 2 == 1, "the number of frames of x is even, expected odd") ||
      !WANT(&k, 2, n[4], n[4], 3, 1, 1) || !WANT(&k, 0, n[0], (n[1] + 1) / 2, n[2], n[3], n[4]) ||
      !WANT(&k, 3, n[4]))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  if (convolution_scratch(&k, EBB_DOWNSAMPLE_TIME, y, x, EBB_NO_TENSOR, w, EBB_NO_TENSOR, &scratch) &&
      count(&k, 6.0 * numel(y) * (double)n[4] * (double)(n[1] / 2) / (double)y.shape[1]))
    c->backend->downsample_time(c, y, x, w, b, scratch);
  ebb_arena_release(&c->activations, mark);
}

void ebb_upsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  const arg args[] = {{"y", y, OUT | HALF}, {"x", x, HALF}};
  const call k = CALL(c, "upsample_space", args);
  if (start(&k, EBB_F32) && want_video(&k, 1) &&
      WANT(&k, 0, x.shape[0], x.shape[1], 2 * x.shape[2], 2 * x.shape[3], x.shape[4]) && count(&k, 0))
    c->backend->upsample_space(c, y, x);
}

void ebb_upsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  const arg args[] = {{"y", y, OUT | HALF}, {"x", x, HALF}, {"w", w, HALF}, {"b", b, OPTIONAL | HALF}};
  const call k = CALL(c, "upsample_time", args);
  if (!start(&k, EBB_F32) || !want_video(&k, 1))
    return;
  const int64_t *n = x.shape;
  if (!WANT(&k, 2, 2 * n[4], n[4], 3, 1, 1) || !WANT(&k, 0, n[0], 2 * n[1] - 1, n[2], n[3], n[4]) ||
      !WANT(&k, 3, 2 * n[4]))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  if (convolution_scratch(&k, EBB_UPSAMPLE_TIME, y, x, EBB_NO_TENSOR, w, EBB_NO_TENSOR, &scratch) &&
      count(&k, 6.0 * numel(y) * (double)n[4] * (double)(2 * n[1] - 2) / (double)y.shape[1]))
    c->backend->upsample_time(c, y, x, w, b, scratch);
  ebb_arena_release(&c->activations, mark);
}

/* ---- pooling over tokens ----------------------------------------------------------------------------- */

/* Scratch for a pooling op on x [B,S,D] of so many frames: take_scratch. */
static bool take_pool_scratch(const call *k, ebb_tensor x, int64_t frames, void **scratch) {
  const ebb_backend *backend = k->c->backend;
  return take_scratch(k, backend->pool_scratch ? backend->pool_scratch(k->c, x, frames) : 0, scratch);
}

void ebb_pool_mean(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  const arg args[] = {{"y", y, OUT}, {"x", x, HALF}};
  const call k = CALL(c, "pool_mean", args);
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  if (start(&k, EBB_F32) && want_rank(&k, 1, 3, "[B, S, D]") && WANT(&k, 0, x.shape[0], x.shape[2]) &&
      take_pool_scratch(&k, x, 1, &scratch) && count(&k, numel(x)))
    c->backend->pool_mean(c, y, x, scratch);
  ebb_arena_release(&c->activations, mark);
}

void ebb_pool_frames(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  const arg args[] = {{"y", y, OUT}, {"x", x, HALF}};
  const call k = CALL(c, "pool_frames", args);
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  if (start(&k, EBB_F32) && want_rank(&k, 1, 3, "[B, S, D]") && want_rank(&k, 0, 3, "[B, T, D]") &&
      WANT(&k, 0, x.shape[0], y.shape[1], x.shape[2]) &&
      want(&k, x.shape[1] % y.shape[1] == 0,
           "the tokens of x do not fall into whole frames: S is not a multiple of T") &&
      take_pool_scratch(&k, x, y.shape[1], &scratch) && count(&k, numel(x)))
    c->backend->pool_frames(c, y, x, scratch);
  ebb_arena_release(&c->activations, mark);
}

/* y [B,2,D] from x [B,S,D] whose tokens fall into whole frames. */
static bool want_pair(const call *k, ebb_tensor x, int64_t frames) {
  return start(k, EBB_F32) && want_rank(k, 1, 3, "[B, S, D]") && WANT(k, 0, x.shape[0], 2, x.shape[2]) &&
         want(k, frames >= 1 && x.shape[1] % frames == 0,
              "the tokens of x do not fall into whole frames: S is not a multiple of T");
}

void ebb_pool_moments(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames) {
  const arg args[] = {{"y", y, OUT}, {"x", x, HALF}};
  const call k = CALL(c, "pool_moments", args);
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  if (want_pair(&k, x, frames) && take_pool_scratch(&k, x, frames, &scratch) && count(&k, numel(x)))
    c->backend->pool_moments(c, y, x, frames, scratch);
  ebb_arena_release(&c->activations, mark);
}

void ebb_pool_motion(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames) {
  const arg args[] = {{"y", y, OUT}, {"x", x, HALF}};
  const call k = CALL(c, "pool_motion", args);
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  if (want_pair(&k, x, frames) && take_pool_scratch(&k, x, frames, &scratch) && count(&k, 7 * numel(x)))
    c->backend->pool_motion(c, y, x, frames, scratch);
  ebb_arena_release(&c->activations, mark);
}
