/* Ridge regressions on a device: for each penalty p = (z z' + lambda I)^-1 of every design. Dual weights are a
 * = p (y - mean), and leaving an inner fold out needs the inverse of a block of p alone. One inverse for each
 * penalty, nearly all of its operations in cuBLAS's products; an eigendecomposition would serve all penalties,
 * but needs cuSOLVER and has not been timed. */
#include "probe/batch.h"
#include "probe/solvers.h"

#include <math.h>
#include <stdlib.h>

typedef struct ridge_device {
  ebb_context *c;
  const ebb_parameters *parameters;
  const ebb_problem *const *problem; /* [problems] of one batch */
  ebb_ridge_fit *const *fit;
  bool finite; /* so far */
} ridge_device;

/* What a piece has on the host. */
typedef struct piece {
  ebb_batch batch;
  int64_t sets;
  float *labels;                        /* [K,N] */
  double *unit, *lambda;                /* [B] */
  double *score, *best, *chosen, *hits; /* [B,K] */
  double *e, *f;                        /* [B,n,K], [B,t,K], where wanted */
} piece;

typedef struct tensors {
  ebb_tensor z, zt, g, p, s, labels, y, mean, a, kept, e, score, best, chosen, hits, w, f, lambda;
} tensors;

static bool wants_inner(const ridge_device *r, int64_t first, int64_t count) {
  for (int64_t i = first; i < first + count; i++)
    if (r->fit[i]->inner_margins)
      return true;
  return false;
}

static bool piece_make(piece *p, const ridge_device *r, int64_t first, int64_t count, ebb_error *err) {
  const ebb_problem *one = r->problem[first];
  *p = (piece){.sets = one->columns};
  if (!ebb_batch_make(&p->batch, r->c, count, r->problem + first, true, err))
    return false;
  int64_t sets = count * p->sets, inner = wants_inner(r, first, count) ? sets * p->batch.n : 0;
  p->unit = calloc((size_t)(2 * count + 4 * sets + inner + sets * p->batch.t), sizeof *p->unit);
  p->labels = calloc((size_t)(p->sets * one->n), sizeof *p->labels);
  if (!p->unit || !p->labels)
    return ebb_fail(err, "not enough memory for %lld ridge problems", (long long)count);
  p->lambda = p->unit + count;
  p->score = p->lambda + count;
  p->best = p->score + sets;
  p->chosen = p->best + sets;
  p->hits = p->chosen + sets;
  p->f = p->hits + sets;
  p->e = inner > 0 ? p->f + sets * p->batch.t : NULL;
  for (int64_t i = 0; i < sets; i++)
    p->best[i] = -2; /* below any correlation */
  for (int64_t i = 0; i < p->sets * one->n; i++)
    p->labels[i] = one->targets ? (float)one->targets[i] : one->labels[i];
  return true;
}

static void piece_free(piece *p) {
  ebb_batch_free(&p->batch);
  free(p->unit);
  free(p->labels);
}

static tensors make_tensors(const piece *p) {
  const ebb_batch *b = &p->batch;
  ebb_context *c = b->c;
  int64_t B = b->count, n = b->n, d = b->d, t = b->t, K = p->sets;
  return (tensors){
      .z = EBB_F64_NEW(c, "z", B, n, d),
      .zt = EBB_F64_NEW(c, "z of test rows", B, t, d),
      .g = EBB_F64_NEW(c, "g", B, n, n),
      .p = EBB_F64_NEW(c, "(g + lambda)^-1", B, n, n),
      .s = EBB_F64_NEW(c, "fold blocks", B, b->folds, b->k, b->k),
      .labels = EBB_ACTIVATION(c, "labels", K, b->all),
      .y = EBB_F64_NEW(c, "y", B, n, K),
      .mean = EBB_F64_NEW(c, "mean label", B, K),
      .a = EBB_F64_NEW(c, "a", B, n, K),
      .kept = EBB_F64_NEW(c, "a kept", B, n, K),
      .e = EBB_F64_NEW(c, "residuals", B, n, K),
      .score = EBB_F64_NEW(c, "score", B, K),
      .best = EBB_F64_NEW(c, "best score", B, K),
      .chosen = EBB_F64_NEW(c, "penalty", B, K),
      .hits = EBB_F64_NEW(c, "hits", B, K),
      .w = EBB_F64_NEW(c, "w", B, d, K),
      .f = EBB_F64_NEW(c, "f", B, t, K),
      .lambda = EBB_F64_NEW(c, "lambda", B),
  };
}

/* Score and inner margins of the first label set at one penalty. */
static bool hand_out_penalty(const ridge_device *r, const piece *p, int64_t first, int penalty,
                             ebb_error *err) {
  const ebb_batch *b = &p->batch;
  int64_t *slot = malloc((size_t)(b->n + 1) * sizeof *slot);
  if (!slot)
    return ebb_fail(err, "not enough memory for %lld rows", (long long)b->n);
  for (int64_t i = 0; i < b->count; i++) {
    const ebb_problem *problem = b->problem[i];
    ebb_ridge_fit *fit = r->fit[first + i];
    double score = p->score[i * p->sets];
    if (fit->score)
      fit->score[penalty] = isnan(score) ? -1 : score; /* the penalty was too small for the arithmetic */
    if (!fit->inner_margins || isnan(score))
      continue;
    ebb_batch_slots(b, problem, slot);
    for (int64_t k = 0; k < problem->train_count; k++)
      fit->inner_margins[penalty * problem->train_count + k] =
          p->labels[problem->train[k]] - p->e[(i * b->n + slot[k]) * p->sets];
  }
  free(slot);
  return true;
}

/* Of the test rows of design i and label set k. */
static double squares_of(const piece *p, int64_t i, int64_t k) {
  const ebb_problem *problem = p->batch.problem[i];
  double sum = 0;
  for (int64_t t = 0; t < problem->test_count; t++) {
    double error = p->labels[k * problem->n + problem->test[t]] - p->f[(i * p->batch.t + t) * p->sets + k];
    sum += error * error;
  }
  return sum;
}

static void hand_out(ridge_device *r, const piece *p, int64_t first) {
  int64_t K = p->sets;
  for (int64_t i = 0; i < p->batch.count; i++) {
    ebb_ridge_fit *fit = r->fit[first + i];
    for (int64_t k = 0; k < K; k++) {
      if (fit->reached)
        fit->reached[k] = p->best[i * K + k];
      if (fit->best)
        fit->best[k] = (int32_t)p->chosen[i * K + k];
      if (fit->hits)
        fit->hits[k] = (int32_t)p->hits[i * K + k];
      if (fit->squares)
        fit->squares[k] = squares_of(p, i, k);
    }
    for (int64_t t = 0; t < p->batch.problem[i]->test_count; t++) {
      double margin = p->f[(i * p->batch.t + t) * K];
      r->finite = r->finite && isfinite(margin);
      if (fit->margins)
        fit->margins[t] = margin;
    }
  }
}

static bool solve_piece(void *user, int64_t first, int64_t count, ebb_error *err) {
  ridge_device *r = user;
  ebb_context *c = r->c;
  piece p;
  if (!piece_make(&p, r, first, count, err)) {
    piece_free(&p);
    return false;
  }
  ebb_batch *b = &p.batch;
  int64_t K = p.sets;
  ebb_batch_upload(b);
  tensors t = make_tensors(&p);
  bool ok = ebb_batch_units(b, p.unit, err);
  ebb_upload(c, t.labels, p.labels);
  ebb_upload(c, t.best, p.best);
  ebb_upload(c, t.chosen, p.chosen);
  ebb_standardise(c, t.z, b->x, b->row, b->mean, b->inverse);
  ebb_standardise(c, t.zt, b->x, b->test_row, b->mean, b->inverse);
  ebb_gram(c, t.g, t.z);
  ebb_centred_labels(c, t.y, t.mean, t.labels, b->row);
  for (int i = 0; ok && i < r->parameters->penalty_count; i++) {
    for (int64_t k = 0; k < count; k++)
      p.lambda[k] = r->parameters->penalties[i] * p.unit[k];
    ebb_upload(c, t.lambda, p.lambda);
    ebb_add_diagonal(c, t.p, t.g, t.lambda);
    ebb_spd_inverse(c, t.p);
    ebb_matmul(c, t.a, t.p, false, t.y, false);
    if (i == 0) /* what is kept when no penalty does */
      ebb_matmul(c, t.kept, t.p, false, t.y, false);
    for (int64_t k = 0; k < count; k++) /* a singular block: no score, whatever rounding makes of it */
      p.lambda[k] = b->one_fold[k] ? NAN : p.lambda[k];
    ebb_upload(c, t.lambda, p.lambda);
    ebb_fold_blocks(c, t.s, t.p, b->row, t.lambda);
    ebb_tensor s = EBB_VIEW(t.s, count * b->folds, b->k, b->k), e = EBB_VIEW(t.e, count * b->folds, b->k, K);
    ebb_spd_inverse(c, s);
    ebb_matmul(c, e, s, false, EBB_VIEW(t.a, count * b->folds, b->k, K), false);
    ebb_keep_best(c, t.score, t.best, t.chosen, t.kept, t.e, t.y, t.a, b->row, i,
                  r->parameters->score == EBB_SCORE_EXPLAINED);
    ebb_download(c, p.score, t.score);
    if (p.e)
      ebb_download(c, p.e, t.e);
    if (!c->counting && !c->error.text[0])
      ok = hand_out_penalty(r, &p, first, i, err);
  }
  ebb_matmul(c, t.w, t.z, true, t.kept, false);
  ebb_matmul(c, t.f, t.zt, false, t.w, false);
  ebb_count_hits(c, t.hits, t.f, t.mean, t.labels, b->test_row);
  ebb_download(c, p.best, t.best);
  ebb_download(c, p.chosen, t.chosen);
  ebb_download(c, p.hits, t.hits);
  ebb_download(c, p.f, t.f);
  if (ok && !c->counting && !c->error.text[0])
    hand_out(r, &p, first);
  piece_free(&p);
  return ok;
}

static bool one_batch(const ebb_problem *a, const ebb_problem *b) {
  return a->d == b->d && a->n == b->n && a->columns == b->columns && a->labels == b->labels &&
         a->targets == b->targets && a->inner_folds == b->inner_folds &&
         (a->inner_folds > 0 || a->train_count == b->train_count);
}

/* Problems of one batch, wherever they stand among the others: `taken` says which have been solved. */
bool ebb_ridge_device(ebb_context *c, int64_t count, const ebb_problem *problems,
                      const ebb_parameters *parameters, ebb_ridge_fit *fits, ebb_error *err) {
  const ebb_problem **problem = malloc(((size_t)count + 1) * sizeof *problem);
  ebb_ridge_fit **fit = malloc(((size_t)count + 1) * sizeof *fit);
  char *taken = calloc((size_t)count + 1, 1);
  bool ok = problem && fit && taken;
  if (!ok)
    ebb_fail(err, "not enough memory for %lld ridge problems", (long long)count);
  ridge_device r = {.c = c, .parameters = parameters, .problem = problem, .fit = fit, .finite = true};
  for (int64_t first = 0; ok && first < count; first++) {
    int64_t members = 0;
    for (int64_t i = first; i < count && !taken[first]; i++)
      if (!taken[i] && one_batch(&problems[first], &problems[i])) {
        taken[i] = i > first;
        problem[members] = &problems[i];
        fit[members++] = &fits[i];
      }
    taken[first] = 1;
    ok = members == 0 || ebb_batch_pieces(c, members, solve_piece, &r, err);
  }
  if (ok && !r.finite)
    ok = ebb_fail(err, "numbers that are not finite among the features of %lld ridge problems",
                  (long long)count);
  free(problem);
  free(fit);
  free(taken);
  return ok;
}
