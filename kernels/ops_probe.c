/* Ops of many small problems: dense algebra, and linear probes. */
#include "kernels/ops_check.h"

/* ---- many small dense problems ----------------------------------------------------------------------- */

void ebb_gram(ebb_context *c, ebb_tensor g, ebb_tensor x) {
  const arg args[] = {{"g", g, OUT}, {"x", x, 0}};
  const call k = CALL(c, "gram", args);
  if (start(&k, EBB_F64) && want_rank(&k, 1, 3, "[B, n, d]") &&
      WANT(&k, 0, x.shape[0], x.shape[1], x.shape[1]) && count(&k, numel(x) * (double)(x.shape[1] + 1)))
    c->backend->gram(c, g, x);
}

void ebb_matmul(ebb_context *c, ebb_tensor y, ebb_tensor a, bool transpose_a, ebb_tensor b,
                bool transpose_b) {
  const arg args[] = {{"y", y, OUT}, {"a", a, 0}, {"b", b, 0}};
  const call k = CALL(c, "matmul", args);
  if (!start(&k, EBB_F64) || !want_rank(&k, 1, 3, transpose_a ? "[B, k, m]" : "[B, m, k]") ||
      !want_rank(&k, 2, 3, transpose_b ? "[B, n, k]" : "[B, k, n]"))
    return;
  int64_t B = a.shape[0], m = a.shape[transpose_a ? 2 : 1], inner = a.shape[transpose_a ? 1 : 2],
          n = b.shape[transpose_b ? 1 : 2];
  if ((transpose_b ? WANT(&k, 2, B, n, inner) : WANT(&k, 2, B, inner, n)) && WANT(&k, 0, B, m, n) &&
      count(&k, 2.0 * numel(y) * (double)inner))
    c->backend->matmul(c, y, a, transpose_a, b, transpose_b);
}

void ebb_add_diagonal(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor shift) {
  const arg args[] = {{"y", y, OUT | IN_PLACE}, {"a", a, 0}, {"shift", shift, 0}};
  const call k = CALL(c, "add_diagonal", args);
  if (start(&k, EBB_F64) && want_rank(&k, 1, 3, "[B, n, n]") &&
      WANT(&k, 1, a.shape[0], a.shape[1], a.shape[1]) && want_like(&k, 0, a) && WANT(&k, 2, a.shape[0]) &&
      count(&k, numel(shift) * (double)a.shape[1]))
    c->backend->add_diagonal(c, y, a, shift);
}

void ebb_spd_inverse(ebb_context *c, ebb_tensor a) {
  const arg args[] = {{"a", a, INOUT}};
  const call k = CALL(c, "spd_inverse", args);
  if (!start(&k, EBB_F64) || !want_rank(&k, 0, 3, "[B, n, n]") ||
      !WANT(&k, 0, a.shape[0], a.shape[1], a.shape[1]))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  size_t bytes = c->backend->spd_inverse_scratch ? c->backend->spd_inverse_scratch(c, a) : 0;
  if (take_scratch(&k, bytes, &scratch) && count(&k, numel(a) * (double)a.shape[1]))
    c->backend->spd_inverse(c, a, scratch);
  ebb_arena_release(&c->activations, mark);
}

/* ---- linear probes ----------------------------------------------------------------------------------- */

void ebb_column_scale(ebb_context *c, ebb_tensor mean, ebb_tensor inverse, ebb_tensor x, ebb_tensor rows) {
  const arg args[] = {
      {"mean", mean, OUT}, {"inverse", inverse, OUT}, {"x", x, SINGLE}, {"rows", rows, INTEGER}};
  const call k = CALL(c, "column_scale", args);
  if (start(&k, EBB_F64) && want_rank(&k, 2, 2, "[R, d]") && want_rank(&k, 3, 2, "[B, n]") &&
      WANT(&k, 0, rows.shape[0], x.shape[1]) && want_like(&k, 1, mean) &&
      count(&k, 4.0 * numel(rows) * (double)x.shape[1]))
    c->backend->column_scale(c, mean, inverse, x, rows);
}

void ebb_standardise(ebb_context *c, ebb_tensor z, ebb_tensor x, ebb_tensor rows, ebb_tensor mean,
                     ebb_tensor inverse) {
  const arg args[] = {{"z", z, OUT | EITHER},
                      {"x", x, SINGLE},
                      {"rows", rows, INTEGER},
                      {"mean", mean, OPTIONAL},
                      {"inverse", inverse, OPTIONAL}};
  const call k = CALL(c, "standardise", args);
  if (start(&k, EBB_F64) && want_rank(&k, 1, 2, "[R, d]") && want_rank(&k, 2, 2, "[B, n]") &&
      WANT(&k, 0, rows.shape[0], rows.shape[1], x.shape[1]) && WANT(&k, 3, rows.shape[0], x.shape[1]) &&
      WANT(&k, 4, rows.shape[0], x.shape[1]) &&
      want(&k, ebb_present(mean) == ebb_present(inverse),
           "one of mean and inverse is absent, expected both or neither") &&
      count(&k, 2.0 * numel(z)))
    c->backend->standardise(c, z, x, rows, mean, inverse);
}

void ebb_logistic_newton(ebb_context *c, ebb_tensor a, ebb_tensor b, ebb_tensor reached, ebb_tensor sweeps,
                         ebb_tensor g, ebb_tensor inverse, ebb_tensor y, ebb_tensor lambda, ebb_tensor mu,
                         ebb_tensor least, ebb_newton newton) {
  const arg args[] = {{"a", a, INOUT},
                      {"b", b, INOUT},
                      {"reached", reached, OUT},
                      {"sweeps", sweeps, OUT},
                      {"g", g, 0},
                      {"inverse", inverse, 0},
                      {"y", y, 0},
                      {"lambda", lambda, 0},
                      {"mu", mu, 0},
                      {"least", least, 0}};
  const call k = CALL(c, "logistic_newton", args);
  if (!start(&k, EBB_F64) || !want_rank(&k, 6, 3, "[B, K, n]") || !want_like(&k, 0, y))
    return;
  int64_t B = y.shape[0], K = y.shape[1], n = y.shape[2];
  if (!WANT(&k, 1, B, K) || !WANT(&k, 2, B, K) || !WANT(&k, 3, B, K) || !WANT(&k, 4, B, n, n) ||
      !WANT(&k, 5, B, n, n) || !WANT(&k, 7, B) || !WANT(&k, 8, B) || !WANT(&k, 9, B))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  size_t bytes = c->backend->logistic_newton_scratch ? c->backend->logistic_newton_scratch(c, a) : 0;
  if (take_scratch(&k, bytes, &scratch) && count(&k, 2.0 * numel(a) * (double)n)) /* of one sweep */
    c->backend->logistic_newton(c, a, b, reached, sweeps, g, inverse, y, lambda, mu, least, newton, scratch);
  ebb_arena_release(&c->activations, mark);
}

int64_t ebb_logistic_newton_rows(ebb_context *c) {
  return c->backend->logistic_newton_rows ? c->backend->logistic_newton_rows(c) : INT64_MAX;
}

void ebb_fold_blocks(ebb_context *c, ebb_tensor s, ebb_tensor p, ebb_tensor rows, ebb_tensor lambda) {
  const arg args[] = {{"s", s, OUT}, {"p", p, 0}, {"rows", rows, INTEGER}, {"lambda", lambda, 0}};
  const call k = CALL(c, "fold_blocks", args);
  if (!start(&k, EBB_F64) || !want_rank(&k, 0, 4, "[B, F, k, k]") || !want_rank(&k, 2, 2, "[B, n]"))
    return;
  int64_t B = rows.shape[0], n = rows.shape[1];
  if (WANT(&k, 0, B, s.shape[1], s.shape[2], s.shape[2]) && WANT(&k, 1, B, n, n) && WANT(&k, 3, B) &&
      want(&k, s.shape[1] * s.shape[2] == n, "F folds of k rows are not the n rows") && count(&k, numel(s)))
    c->backend->fold_blocks(c, s, p, rows, lambda);
}

void ebb_centred_labels(ebb_context *c, ebb_tensor y, ebb_tensor mean, ebb_tensor labels, ebb_tensor rows) {
  const arg args[] = {
      {"y", y, OUT}, {"mean", mean, OUT}, {"labels", labels, SINGLE}, {"rows", rows, INTEGER}};
  const call k = CALL(c, "centred_labels", args);
  if (start(&k, EBB_F64) && want_rank(&k, 2, 2, "[K, N]") && want_rank(&k, 3, 2, "[B, n]") &&
      WANT(&k, 0, rows.shape[0], rows.shape[1], labels.shape[0]) &&
      WANT(&k, 1, rows.shape[0], labels.shape[0]) && count(&k, 2.0 * numel(y)))
    c->backend->centred_labels(c, y, mean, labels, rows);
}

void ebb_keep_best(ebb_context *c, ebb_tensor score, ebb_tensor best, ebb_tensor chosen, ebb_tensor kept,
                   ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number, bool explained) {
  const arg args[] = {{"score", score, OUT},
                      {"best", best, INOUT},
                      {"chosen", chosen, INOUT},
                      {"kept", kept, INOUT},
                      {"e", e, 0},
                      {"y", y, 0},
                      {"a", a, 0},
                      {"rows", rows, INTEGER}};
  const call k = CALL(c, "keep_best", args);
  if (!start(&k, EBB_F64) || !want_rank(&k, 5, 3, "[B, n, K]"))
    return;
  int64_t B = y.shape[0], n = y.shape[1], K = y.shape[2];
  if (WANT(&k, 0, B, K) && WANT(&k, 1, B, K) && WANT(&k, 2, B, K) && want_like(&k, 3, y) &&
      want_like(&k, 4, y) && want_like(&k, 6, y) && WANT(&k, 7, B, n) && count(&k, 8.0 * numel(y)))
    c->backend->keep_best(c, score, best, chosen, kept, e, y, a, rows, number, explained);
}

void ebb_count_hits(ebb_context *c, ebb_tensor hits, ebb_tensor f, ebb_tensor shift, ebb_tensor labels,
                    ebb_tensor rows) {
  const arg args[] = {{"hits", hits, OUT},
                      {"f", f, INOUT},
                      {"shift", shift, 0},
                      {"labels", labels, SINGLE},
                      {"rows", rows, INTEGER}};
  const call k = CALL(c, "count_hits", args);
  if (start(&k, EBB_F64) && want_rank(&k, 3, 2, "[K, N]") && want_rank(&k, 4, 2, "[B, t]") &&
      WANT(&k, 1, rows.shape[0], rows.shape[1], labels.shape[0]) &&
      WANT(&k, 2, rows.shape[0], labels.shape[0]) && want_like(&k, 0, shift) && count(&k, 2.0 * numel(f)))
    c->backend->count_hits(c, hits, f, shift, labels, rows);
}

void ebb_logistic_adam(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                       ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                       ebb_adam adam) {
  const arg args[] = {{"w", w, INOUT},
                      {"epochs", epochs, OUT | INTEGER},
                      {"accuracy", accuracy, OUT},
                      {"f", f, OUT},
                      {"z", z, 0},
                      {"y", y, 0},
                      {"order", order, INTEGER},
                      {"which", which, INTEGER},
                      {"judged", judged, INTEGER}};
  const call k = CALL(c, "logistic_adam", args);
  if (!start(&k, EBB_F32) || !want_rank(&k, 4, 3, "[B, R, d]") || !want_rank(&k, 5, 3, "[B, K, R]") ||
      !want_rank(&k, 6, 3, "[O, E, n]"))
    return;
  int64_t B = z.shape[0], R = z.shape[1], d = z.shape[2], K = y.shape[1];
  if (!WANT(&k, 0, B, K, d + 1) || !WANT(&k, 1, B, K) || !WANT(&k, 2, B, K) || !WANT(&k, 3, B, K, R) ||
      !WANT(&k, 5, B, K, R) || !WANT(&k, 7, B) || !WANT(&k, 8, B, 2) ||
      !want(&k, adam.batch >= 1, "batches of less than one row"))
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  void *scratch = NULL;
  size_t bytes = c->backend->logistic_adam_scratch ? c->backend->logistic_adam_scratch(c, w, z) : 0;
  if (take_scratch(&k, bytes, &scratch) &&
      count(&k, 4.0 * (double)(order.shape[1] * order.shape[2]) * numel(w)))
    c->backend->logistic_adam(c, w, epochs, accuracy, f, z, y, order, which, judged, adam, scratch);
  ebb_arena_release(&c->activations, mark);
}
