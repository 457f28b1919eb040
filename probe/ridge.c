#include "probe/batch.h"
#include "probe/scores.h"
#include "probe/solvers.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const ebb_parameters ebb_parameters_default = {
    .penalty_count = 6,
    .penalties = (const double[]){10, 1, 1e-1, 1e-2, 1e-3, 1e-4},
    .tolerance = 1e-6,
    .iterations = 100,
};

/* One problem being solved. Training rows are in the order of their inner folds. m label sets. */
typedef struct ridge {
  const ebb_problem *p;
  ebb_scores s;
  int64_t m;
  int64_t *order; /* [train] position in p->train */
  double *y;      /* [train,m] labels as they are */
  double *mean;   /* [m] of the labels: the intercept, as scores are centred */
  double *a;      /* [rank,m] u' y */
  double *scaled; /* [rank,m] a with its rows or columns divided */
  double *e;      /* [train,m] residuals, then inner margins */
  double *block;  /* [largest fold]^2, and the rows of one fold of u */
  double *sums;   /* [3,m] over rows: f, f^2, f y; or (y - f)^2 */
  double *spread; /* [m] sum over rows of (y - mean)^2 */
  ebb_score score;
  double *best; /* [m] highest score so far */
  int32_t *chosen;
} ridge;

static int fold_of(const ebb_problem *p, int64_t position) {
  return p->inner_folds > 0 ? p->inner[position] : (int)position;
}

static bool prepare(ridge *r, const ebb_problem *p, const ebb_parameters *parameters) {
  int64_t train = p->train_count, m = p->columns, at = 0;
  *r = (ridge){.p = p, .m = m, .score = parameters->score};
  r->order = malloc(((size_t)train + 1) * sizeof *r->order);
  if (!r->order)
    return false;
  int64_t folds = p->inner_folds > 0 ? p->inner_folds : train, largest = 1;
  for (int64_t f = 0; f < folds; f++) {
    int64_t start = at;
    if (p->inner_folds == 0)
      r->order[at++] = f;
    else
      for (int64_t i = 0; i < train; i++)
        if (p->inner[i] == f)
          r->order[at++] = i;
    largest = at - start > largest ? at - start : largest;
  }
  if (!ebb_scores_make(&r->s, p, r->order, parameters->form))
    return false;
  size_t t = (size_t)train, k = (size_t)r->s.rank, mm = (size_t)m, f = (size_t)largest;
  double *all = malloc((2 * t * mm + 2 * k * mm + 6 * mm + f * (f + k) + 1) * sizeof *all);
  r->chosen = calloc(mm, sizeof *r->chosen);
  r->y = all;
  if (!all || !r->chosen)
    return false;
  r->e = r->y + t * mm;
  r->a = r->e + t * mm;
  r->scaled = r->a + k * mm;
  r->mean = r->scaled + k * mm;
  r->sums = r->mean + mm;
  r->best = r->sums + 3 * mm;
  r->spread = r->best + mm;
  r->block = r->spread + mm;
  for (size_t c = 0; c < mm; c++)
    r->best[c] = -2; /* below any correlation */
  return true;
}

static void done(ridge *r) {
  ebb_scores_free(&r->s);
  free(r->order);
  free(r->y);
  free(r->chosen);
}

static double label_of(const ebb_problem *p, int64_t column, int32_t row) {
  return p->targets ? p->targets[column * p->n + row] : p->labels[column * p->n + row];
}

static void load_labels(ridge *r) {
  const ebb_problem *p = r->p;
  int64_t train = r->s.train, m = r->m;
  memset(r->mean, 0, (size_t)m * sizeof *r->mean);
  for (int64_t i = 0; i < train; i++)
    for (int64_t c = 0; c < m; c++) {
      double y = label_of(p, c, p->train[r->order[i]]);
      r->y[i * m + c] = y;
      r->mean[c] += y / (double)train;
    }
  memset(r->spread, 0, (size_t)m * sizeof *r->spread);
  for (int64_t i = 0; i < train; i++)
    for (int64_t c = 0; c < m; c++)
      r->spread[c] += (r->y[i * m + c] - r->mean[c]) * (r->y[i * m + c] - r->mean[c]);
  int rank = (int)r->s.rank;
  if (rank > 0) /* u is centred, so u' y needs no centred y */
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rank, (int)m, (int)train, 1, r->s.u, rank, r->y,
                (int)m, 0, r->a, (int)m);
}

/* e = (I - H) y for one penalty. */
static void residuals(ridge *r, double lambda) {
  int64_t train = r->s.train, m = r->m, rank = r->s.rank;
  for (int64_t i = 0; i < train; i++)
    for (int64_t c = 0; c < m; c++)
      r->e[i * m + c] = r->y[i * m + c] - r->mean[c];
  for (int64_t k = 0; k < rank; k++) {
    double shrink = 1 / (r->s.s[k] + lambda);
    for (int64_t c = 0; c < m; c++)
      r->scaled[k * m + c] = r->a[k * m + c] * shrink;
  }
  if (rank > 0)
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)train, (int)m, (int)rank, -1, r->s.u,
                (int)rank, r->scaled, (int)m, 1, r->e, (int)m);
}

/* e of rows [first, first + count) <- (I - H_FF)^-1 e. */
static bool leave_out(ridge *r, double lambda, int64_t first, int64_t count) {
  int64_t rank = r->s.rank, m = r->m;
  double *half = r->block + count * count;
  for (int64_t i = 0; i < count; i++)
    for (int64_t k = 0; k < rank; k++)
      half[i * rank + k] = r->s.u[(first + i) * rank + k] / sqrt(r->s.s[k] + lambda);
  for (int64_t i = 0; i < count; i++)
    for (int64_t j = 0; j < count; j++)
      r->block[i * count + j] = (i == j) - 1.0 / (double)r->s.train;
  int n = (int)count, info = 0;
  if (rank > 0)
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, n, (int)rank, -1, half, (int)rank, 1, r->block, n);
  dpotrf_("L", &n, r->block, &n, &info, 1);
  if (info != 0)
    return false;
  double *e = r->e + first * m; /* block = l l', l row-major in the upper triangle as its transpose */
  cblas_dtrsm(CblasColMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)m, n, 1, r->block, n, e,
              (int)m);
  cblas_dtrsm(CblasColMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, (int)m, n, 1, r->block, n, e,
              (int)m);
  return true;
}

/* Inner margins into e; false when the penalty is too small for the arithmetic. */
static bool inner_margins(ridge *r, double lambda) {
  int64_t train = r->s.train, m = r->m, first = 0;
  residuals(r, lambda);
  while (first < train) {
    int64_t end = first + 1;
    while (end < train && fold_of(r->p, r->order[end]) == fold_of(r->p, r->order[first]))
      end++;
    if (end - first == train || !leave_out(r, lambda, first, end - first))
      return false;
    first = end;
  }
  for (int64_t i = 0; i < train * m; i++)
    r->e[i] = r->y[i] - r->e[i];
  return true;
}

/* Correlation of inner margins with labels: blind to scale and offset, monotone in d' for Gaussian margins,
 * and smooth where accuracy has many ties. to [m] */
static void correlations(const ridge *r, double *to) {
  int64_t train = r->s.train, m = r->m;
  double *f = r->sums, *ff = f + m, *fy = ff + m, n = (double)train;
  memset(r->sums, 0, 3 * (size_t)m * sizeof *r->sums);
  for (int64_t i = 0; i < train; i++)
    for (int64_t c = 0; c < m; c++) {
      double v = r->e[i * m + c];
      f[c] += v;
      ff[c] += v * v;
      fy[c] += v * r->y[i * m + c];
    }
  for (int64_t c = 0; c < m; c++) {
    double variance = (ff[c] - f[c] * f[c] / n) * r->spread[c];
    to[c] = variance > 0 ? (fy[c] - f[c] * r->mean[c]) / sqrt(variance) : 0;
  }
}

/* Share of the labels' variance that inner margins explain. */
static void explained(const ridge *r, double *to) {
  int64_t m = r->m;
  memset(r->sums, 0, (size_t)m * sizeof *r->sums);
  for (int64_t i = 0; i < r->s.train; i++)
    for (int64_t c = 0; c < m; c++)
      r->sums[c] += (r->y[i * m + c] - r->e[i * m + c]) * (r->y[i * m + c] - r->e[i * m + c]);
  for (int64_t c = 0; c < m; c++)
    to[c] = r->spread[c] > 0 ? fmax(-1, 1 - r->sums[c] / r->spread[c]) : 0;
}

/* Keeps each label set's best penalty. */
static void choose(ridge *r, int penalty, double *score) {
  double *reached = r->sums; /* written only after the sums of its column have been read */
  (r->score == EBB_SCORE_EXPLAINED ? explained : correlations)(r, reached);
  if (score)
    score[penalty] = reached[0];
  for (int64_t c = 0; c < r->m; c++)
    if (reached[c] > r->best[c]) {
      r->best[c] = reached[c];
      r->chosen[c] = penalty;
    }
}

/* Test rows, every label set at its own penalty; false: memory, or margins that are not finite. */
static bool judge(ridge *r, const double *lambdas, ebb_ridge_fit *fit) {
  int64_t test = r->s.test, m = r->m, rank = r->s.rank;
  double *margin = malloc(((size_t)test * (size_t)m + 1) * sizeof *margin);
  if (!margin)
    return false;
  for (int64_t i = 0; i < test; i++)
    memcpy(margin + i * m, r->mean, (size_t)m * sizeof *margin);
  for (int64_t k = 0; k < rank; k++)
    for (int64_t c = 0; c < m; c++)
      r->scaled[k * m + c] = r->a[k * m + c] / (r->s.s[k] + lambdas[r->chosen[c]]);
  if (rank > 0 && test > 0)
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)test, (int)m, (int)rank, 1, r->s.u_test,
                (int)rank, r->scaled, (int)m, 1, margin, (int)m);
  for (int64_t c = 0; c < m; c++) {
    int32_t hits = 0;
    double squares = 0;
    for (int64_t i = 0; i < test; i++) {
      double y = label_of(r->p, c, r->p->test[i]), f = margin[i * m + c];
      hits += f * y > 0 ? 2 : f * y == 0;
      squares += (y - f) * (y - f);
    }
    if (fit->squares)
      fit->squares[c] = squares;
    if (fit->hits)
      fit->hits[c] = hits;
    if (fit->reached)
      fit->reached[c] = r->best[c];
    if (fit->best)
      fit->best[c] = r->chosen[c];
  }
  bool finite = true;
  for (int64_t i = 0; i < test; i++) {
    finite = finite && isfinite(margin[i * m]);
    if (fit->margins)
      fit->margins[i] = margin[i * m];
  }
  free(margin);
  return finite;
}

static bool solve(const ebb_problem *p, const ebb_parameters *parameters, ebb_ridge_fit *fit,
                  double *lambdas) {
  ridge r;
  bool ok = prepare(&r, p, parameters);
  if (ok)
    load_labels(&r);
  for (int i = 0; ok && i < parameters->penalty_count; i++) {
    lambdas[i] = parameters->penalties[i] * r.s.unit;
    if (!inner_margins(&r, lambdas[i])) {
      if (fit->score)
        fit->score[i] = -1;
      continue;
    }
    choose(&r, i, fit->score);
    for (int64_t t = 0; fit->inner_margins && t < p->train_count; t++)
      fit->inner_margins[i * p->train_count + r.order[t]] = r.e[t * r.m];
  }
  ok = ok && judge(&r, lambdas, fit);
  done(&r);
  return ok;
}

static bool on_host(ebb_context *c, int64_t count, const ebb_problem *problems,
                    const ebb_parameters *parameters, ebb_ridge_fit *fits, ebb_error *err) {
  bool ok = true;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; i++) {
    double *lambdas = malloc(((size_t)parameters->penalty_count + 1) * sizeof *lambdas);
    if (!lambdas || !solve(&problems[i], parameters, &fits[i], lambdas)) {
#pragma omp atomic write
      ok = false;
    }
    free(lambdas);
  }
  for (int64_t i = 0; i < count; i++)
    c->counters.flops +=
        2.0 * (double)problems[i].train_count * (double)problems[i].columns *
        (double)(problems[i].d < problems[i].train_count ? problems[i].d : problems[i].train_count) *
        (2.0 + parameters->penalty_count);
  return ok ||
         ebb_fail(
             err,
             "not enough memory for %lld ridge problems, or numbers that are not finite among their features",
             (long long)count);
}

bool ebb_ridge_batch(ebb_context *c, int64_t count, const ebb_problem *problems,
                     const ebb_parameters *parameters, ebb_ridge_fit *fits, ebb_error *err) {
  for (int64_t first = 0, some = 0; first < count; first += some) {
    bool device;
    some = ebb_batch_together(c, count - first, problems + first, parameters->form, INT64_MAX, true, &device);
    if (!(device ? ebb_ridge_device(c, some, problems + first, parameters, fits + first, err)
                 : on_host(c, some, problems + first, parameters, fits + first, err)))
      return false;
  }
  return true;
}
