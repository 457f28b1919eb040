/* The strict protocol of regression: probe/regress.h says what and why. */
#include "kernels/random.h"
#include "probe/protocol.h"
#include "probe/regress_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PERMUTE_STREAM 0x7461726765740000u /* "target" */

/* One row while it is being made. */
typedef struct strict {
  regression *r;
  ebb_regression *row;
  int parts, cells;
  ebb_parameters parameters;
  int64_t columns;          /* 1 + permutations */
  double scale, mean;       /* of the target: what is solved is (y - mean) / scale */
  double *values;           /* [columns,n] scaled target, then permuted ones */
  ebb_basis *basis;         /* [parts] of a partial row; else NULL */
  double *left;             /* [parts,columns,n] residuals of values; NULL: values serve all parts */
  double *spread;           /* [parts,columns] sum over tested videos of (y - training mean)^2 */
  double *score;            /* [cells,parts,penalties] */
  double *fitted;           /* [cells,repeats,n] */
  double *squares;          /* [cells,columns] first repeat */
  double *reached, *nested; /* [folds,columns] first repeat: highest inner score, and squares of that cell */
} strict;

/* ---- targets ------------------------------------------------------------------------------------------- */

/* Values of whole groups dealt anew among groups of one category and size; videos of a group keep their
 * order. */
static bool permute_groups(const ebb_sample *s, uint64_t seed, uint64_t number, const double *from,
                           double *to, ebb_error *err) {
  int64_t *room = ebb_room(4 * (size_t)s->groups + (size_t)s->n, sizeof *room, err);
  if (!room)
    return false;
  int64_t *size = room, *first = size + s->groups, *given = first + s->groups, *at = given + s->groups,
          *list = at + s->groups;
  for (int64_t i = 0; i < s->n; i++)
    size[s->group[i]]++;
  for (int64_t g = 1; g < s->groups; g++)
    first[g] = first[g - 1] + size[g - 1];
  for (int64_t i = 0; i < s->n; i++)
    list[first[s->group[i]] + at[s->group[i]]++] = i;
  for (int64_t g = 0; g < s->groups; g++)
    given[g] = g;
  for (int64_t g = s->groups - 1; g > 0; g--) { /* with any of the kind that has not had its turn */
    int64_t alike = 0;
    for (int64_t h = 0; h <= g; h++)
      alike += size[h] == size[g] && s->stratum[h] == s->stratum[g];
    int64_t pick = ebb_random_below(seed, PERMUTE_STREAM + number, (uint64_t)g, (uint32_t)alike), h = 0;
    for (;; h++)
      if (size[h] == size[g] && s->stratum[h] == s->stratum[g] && pick-- == 0)
        break;
    int64_t swap = given[g];
    given[g] = given[h];
    given[h] = swap;
  }
  for (int64_t g = 0; g < s->groups; g++)
    for (int64_t k = 0; k < size[g]; k++)
      to[list[first[g] + k]] = from[list[first[given[g]] + k]];
  free(room);
  return true;
}

/* Pointers to the other targets; `room` has space for all. */
static int others_of(const regression *r, int target, const double **room) {
  int count = 0;
  for (int t = 0; t < r->target_count; t++)
    if (t != target)
      room[count++] = r->sample->target + t * r->sample->n;
  return count;
}

/* values: the scaled target, and what the null makes of it: of a partial row its residuals, permuted. */
static bool make_values(strict *k, int target, ebb_error *err) {
  const ebb_sample *s = k->r->sample;
  const double *y = s->target + target * s->n, *other[EBB_TARGETS_MAX];
  int64_t n = s->n;
  k->values = ebb_room((size_t)(k->columns * n), sizeof *k->values, err);
  double *free_part = ebb_room((size_t)n, sizeof *free_part, err);
  int32_t *all = ebb_room((size_t)n, sizeof *all, err);
  bool ok = k->values && free_part && all;
  double square = 0;
  for (int64_t i = 0; ok && i < n; i++)
    k->mean += y[i] / (double)n;
  for (int64_t i = 0; ok && i < n; i++)
    square += (y[i] - k->mean) * (y[i] - k->mean) / (double)n;
  k->scale = square > 0 ? sqrt(square) : 1;
  for (int64_t i = 0; ok && i < n; i++) {
    k->values[i] = free_part[i] = (y[i] - k->mean) / k->scale;
    all[i] = (int32_t)i;
  }
  if (ok && k->row->partial) {
    ebb_basis basis;
    ok = ebb_basis_make(&basis, n, others_of(k->r, target, other), other, n, all, err);
    if (ok)
      ebb_basis_residual(&basis, k->values, free_part);
    ebb_basis_free(&basis);
  }
  for (int64_t c = 1; ok && c < k->columns; c++)
    ok =
        permute_groups(s, (uint64_t)k->r->config->probe.seed, (uint64_t)c, free_part, k->values + c * n, err);
  free(free_part);
  free(all);
  return ok;
}

static const double *values_of(const strict *k, int part) {
  return k->left ? k->left + (int64_t)part * k->columns * k->r->sample->n : k->values;
}

static bool make_residuals(strict *k, int target, ebb_error *err) {
  int64_t n = k->r->sample->n;
  const double *other[EBB_TARGETS_MAX];
  int others = others_of(k->r, target, other);
  k->basis = ebb_room((size_t)k->parts, sizeof *k->basis, err);
  k->left = ebb_room((size_t)k->parts * (size_t)(k->columns * n), sizeof *k->left, err);
  bool ok = k->basis && k->left;
  for (int part = 0; ok && part < k->parts; part++) {
    const ebb_part *p = &k->r->plan->part[part];
    ok = ebb_basis_make(&k->basis[part], n, others, other, p->train_count, p->train, err);
    for (int64_t c = 0; ok && c < k->columns; c++)
      ebb_basis_residual(&k->basis[part], k->values + c * n, k->left + (part * k->columns + c) * n);
  }
  return ok;
}

static bool make_spread(strict *k, ebb_error *err) {
  int64_t n = k->r->sample->n;
  k->spread = ebb_room((size_t)k->parts * (size_t)k->columns, sizeof *k->spread, err);
  for (int part = 0; k->spread && part < k->parts; part++) {
    const ebb_part *p = &k->r->plan->part[part];
    for (int64_t c = 0; c < k->columns; c++) {
      const double *y = values_of(k, part) + c * n;
      double mean = 0;
      for (int64_t i = 0; i < p->train_count; i++)
        mean += y[p->train[i]] / (double)p->train_count;
      for (int64_t i = 0; i < p->test_count; i++)
        k->spread[part * k->columns + c] += (y[p->test[i]] - mean) * (y[p->test[i]] - mean);
    }
  }
  return k->spread != NULL;
}

/* ---- every cell alone ---------------------------------------------------------------------------------- */

/* Problems of consecutive (cell, part), x of each given. */
typedef struct batch {
  int64_t count;
  int *cell, *part;
  ebb_problem *problem;
  ebb_ridge_fit *fit;
  double *margin, *reached, *squares;
} batch;

static bool batch_open(const strict *k, batch *b, int64_t most, ebb_error *err) {
  int64_t n = k->r->sample->n;
  *b = (batch){.cell = ebb_room((size_t)most, sizeof(int), err),
               .part = ebb_room((size_t)most, sizeof(int), err),
               .problem = ebb_room((size_t)most, sizeof *b->problem, err),
               .fit = ebb_room((size_t)most, sizeof *b->fit, err),
               .margin = ebb_room((size_t)(most * n), sizeof(double), err),
               .reached = ebb_room((size_t)(most * k->columns), sizeof(double), err),
               .squares = ebb_room((size_t)(most * k->columns), sizeof(double), err)};
  return b->cell && b->part && b->problem && b->fit && b->margin && b->reached && b->squares;
}

static void batch_close(batch *b) {
  free(b->cell);
  free(b->part);
  free(b->problem);
  free(b->fit);
  free(b->margin);
  free(b->reached);
  free(b->squares);
}

static void add_problem(const strict *k, batch *b, int cell, int part, const float *x) {
  const ebb_part *p = &k->r->plan->part[part];
  bool first_repeat = part < k->r->plan->folds;
  int64_t at = b->count++;
  b->cell[at] = cell;
  b->part[at] = part;
  b->problem[at] = (ebb_problem){.n = k->r->sample->n,
                                 .d = k->row->width,
                                 .x = x,
                                 .columns = first_repeat ? k->columns : 1,
                                 .labels = k->r->sample->label, /* not looked at */
                                 .targets = values_of(k, part),
                                 .train_count = p->train_count,
                                 .test_count = p->test_count,
                                 .train = p->train,
                                 .test = p->test,
                                 .inner_folds = k->r->plan->inner_folds,
                                 .inner = p->inner};
  b->fit[at] =
      (ebb_ridge_fit){.score = k->score + ((int64_t)cell * k->parts + part) * k->parameters.penalty_count,
                      .margins = b->margin + at * k->r->sample->n,
                      .reached = b->reached + at * k->columns,
                      .squares = b->squares + at * k->columns};
}

static bool solve(strict *k, batch *b, ebb_error *err) {
  int64_t n = k->r->sample->n;
  int folds = k->r->plan->folds;
  bool ok = ebb_ridge_batch(k->r->c, b->count, b->problem, &k->parameters, b->fit, err);
  for (int64_t at = 0; ok && at < b->count; at++) {
    int64_t cell = b->cell[at], part = b->part[at], repeat = part / folds;
    for (int64_t t = 0; t < b->problem[at].test_count; t++)
      k->fitted[(cell * k->r->plan->repeats + repeat) * n + b->problem[at].test[t]] = b->fit[at].margins[t];
    for (int64_t c = 0; part < folds && c < k->columns; c++) {
      k->squares[cell * k->columns + c] += b->fit[at].squares[c];
      if (cell == 0 || b->fit[at].reached[c] > k->reached[part * k->columns + c]) {
        k->reached[part * k->columns + c] = b->fit[at].reached[c];
        k->nested[part * k->columns + c] = b->fit[at].squares[c];
      }
    }
  }
  b->count = 0;
  return ok;
}

/* Cells share their features among all parts: many at once. */
static bool plain_cells(strict *k, ebb_error *err) {
  int64_t numbers = k->r->sample->n * k->row->width,
          most = CELL_BYTES / ((size_t)numbers * sizeof(float) + 1);
  int chunk = most < 1 ? 1 : most > (k->cells + 3) / 4 ? (k->cells + 3) / 4 : (int)most;
  float *x = ebb_room((size_t)(chunk * numbers), sizeof *x, err);
  batch b = {0};
  bool ok = x && batch_open(k, &b, (int64_t)chunk * k->parts, err);
  for (int first = 0; ok && first < k->cells; first += chunk) {
    int count = k->cells - first < chunk ? k->cells - first : chunk;
    for (int i = 0; ok && i < count; i++) {
      ok = ebb_regress_read(k->r, k->row, first + i, x + i * numbers, err);
      for (int part = 0; part < k->parts; part++)
        add_problem(k, &b, first + i, part, x + i * numbers);
    }
    ok = ok && solve(k, &b, err);
    ebb_regress_progress(k->r, count);
  }
  batch_close(&b);
  free(x);
  return ok;
}

/* Every part has features of its own: what its basis leaves of them. */
static bool partial_cells(strict *k, ebb_error *err) {
  int64_t numbers = k->r->sample->n * k->row->width,
          most = CELL_BYTES / ((size_t)numbers * sizeof(float) + 1);
  int chunk = most < 1 ? 1 : most > k->parts ? k->parts : (int)most;
  float *x = ebb_room((size_t)numbers, sizeof *x, err),
        *left = ebb_room((size_t)(chunk * numbers), sizeof *x, err);
  batch b = {0};
  bool ok = x && left && batch_open(k, &b, chunk, err);
  for (int cell = 0; ok && cell < k->cells; cell++) {
    ok = ebb_regress_read(k->r, k->row, cell, x, err);
    for (int part = 0; ok && part < k->parts; part++) {
      float *own = left + b.count * numbers;
      ok = ebb_basis_residuals(&k->basis[part], k->row->width, x, own) ||
           ebb_fail(err, "not enough memory for the residuals of %lld columns", (long long)k->row->width);
      add_problem(k, &b, cell, part, own);
      if (ok && (b.count == chunk || part + 1 == k->parts))
        ok = solve(k, &b, err);
    }
    ebb_regress_progress(k->r, 1);
  }
  batch_close(&b);
  free(x);
  free(left);
  return ok;
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

/* Sums by group, from which each error and every bootstrap replicate of it follows. */
typedef struct sums {
  int64_t groups;
  double *squares, *spread, *distance, *count; /* [groups] */
} sums;

typedef struct statistic {
  const sums *s;
  ebb_error_kind kind;
} statistic;

static double error_of(const void *user, const double *weight) {
  const statistic *t = user;
  const double *part = t->kind == EBB_MAE ? t->s->distance : t->s->squares,
               *whole = t->kind == EBB_R2 ? t->s->spread : t->s->count;
  double a = 0, b = 0;
  for (int64_t g = 0; g < t->s->groups; g++) {
    a += (weight ? weight[g] : 1) * part[g];
    b += (weight ? weight[g] : 1) * whole[g];
  }
  return b > 0 ? t->kind == EBB_R2 ? 1 - a / b : a / b : NAN;
}

/* fitted and mean-of-training errors of one prediction [repeats,n] in units of the target. */
static bool sum_errors(const strict *k, const double *fitted, sums *s, ebb_error *err) {
  const ebb_sample *sample = k->r->sample;
  const ebb_plan *plan = k->r->plan;
  *s = (sums){.groups = sample->groups};
  s->squares = ebb_room(4 * (size_t)sample->groups, sizeof *s->squares, err);
  if (!s->squares)
    return false;
  s->spread = s->squares + sample->groups;
  s->distance = s->spread + sample->groups;
  s->count = s->distance + sample->groups;
  for (int part = 0; part < k->parts; part++) {
    const ebb_part *p = &plan->part[part];
    const double *y = values_of(k, part), *f = fitted + part / plan->folds * sample->n;
    double mean = 0;
    for (int64_t i = 0; i < p->train_count; i++)
      mean += y[p->train[i]] / (double)p->train_count;
    for (int64_t i = 0; i < p->test_count; i++) {
      int32_t v = p->test[i];
      int g = sample->group[v];
      double error = (y[v] - f[v]) * k->scale, away = (y[v] - mean) * k->scale;
      s->squares[g] += error * error;
      s->distance[g] += fabs(error);
      s->spread[g] += away * away;
      s->count[g] += 1;
    }
  }
  return true;
}

static bool fill_cells(strict *k, ebb_error *err) {
  for (int cell = 0; cell < k->cells; cell++) {
    sums s;
    if (!sum_errors(k, k->fitted + (int64_t)cell * k->r->plan->repeats * k->r->sample->n, &s, err))
      return false;
    for (int e = 0; e < EBB_ERRORS; e++)
      k->row->cell[e][cell] = error_of(&(statistic){&s, (ebb_error_kind)e}, NULL);
    free(s.squares);
  }
  return true;
}

/* R2 of the first repeat from squares of its folds. */
static double first_r2(const strict *k, double squares, int64_t column) {
  double spread = 0;
  for (int f = 0; f < k->r->plan->folds; f++)
    spread += k->spread[f * k->columns + column];
  return spread > 0 ? 1 - squares / spread : 0;
}

/* The highest of all cells and the nested choice, under the true target and each permutation. */
static bool compare_with_null(strict *k, ebb_error *err) {
  ebb_regression *row = k->row;
  double *highest = ebb_room(2 * (size_t)k->columns, sizeof *highest, err), *nested = highest + k->columns;
  if (!highest)
    return false;
  for (int64_t c = 0; c < k->columns; c++) {
    highest[c] = -INFINITY;
    for (int cell = 0; cell < k->cells; cell++) {
      double r2 = first_r2(k, k->squares[cell * k->columns + c], c);
      if (c == 0 && r2 > highest[c])
        row->top = cell;
      highest[c] = fmax(highest[c], r2);
    }
    double squares = 0;
    for (int f = 0; f < k->r->plan->folds; f++)
      squares += k->nested[f * k->columns + c];
    nested[c] = first_r2(k, squares, c);
  }
  int64_t count = k->columns - 1;
  row->top_once = highest[0];
  for (int cell = 0; cell < k->cells; cell++)
    row->cell_p[cell] =
        count ? ebb_permutation_p(count, highest + 1, first_r2(k, k->squares[cell * k->columns], 0)) : NAN;
  row->p = count ? ebb_permutation_p(count, highest + 1, highest[0]) : NAN;
  row->nested_p = count ? ebb_permutation_p(count, nested + 1, nested[0]) : NAN;
  row->permuted = ebb_floor_of(count, highest + 1);
  free(highest);
  return true;
}

/* Each part's cell, by the first of the highest inner scores; what it says of its videos is reported. */
static void choose(strict *k) {
  ebb_regression *row = k->row;
  int64_t n = k->r->sample->n;
  for (int part = 0; part < k->parts; part++) {
    const ebb_part *p = &k->r->plan->part[part];
    int64_t repeat = part / k->r->plan->folds;
    double best = -2;
    int chosen = 0;
    for (int cell = 0; cell < k->cells; cell++)
      for (int i = 0; i < k->parameters.penalty_count; i++) {
        double score = k->score[((int64_t)cell * k->parts + part) * k->parameters.penalty_count + i];
        if (score > best) {
          best = score;
          chosen = cell;
        }
      }
    row->selected[chosen] += 1.0 / k->parts;
    const double *y = values_of(k, part), *f = k->fitted + (chosen * k->r->plan->repeats + repeat) * n;
    for (int64_t i = 0; i < p->test_count; i++) { /* residuals have no mean to add */
      int64_t at = repeat * n + p->test[i];
      double shift = row->partial ? 0 : k->mean;
      row->truth[at] = y[p->test[i]] * k->scale + shift;
      row->prediction[at] = f[p->test[i]] * k->scale + shift;
    }
  }
  for (int cell = 1; cell < k->cells; cell++)
    if (row->selected[cell] > row->selected[row->chosen] + 1e-9)
      row->chosen = cell;
}

static bool report(strict *k, ebb_error *err) {
  const ebb_config *config = k->r->config;
  ebb_regression *row = k->row;
  int64_t all = k->r->plan->repeats * k->r->sample->n;
  double *scaled = ebb_room((size_t)all, sizeof *scaled, err);
  sums s = {0};
  bool ok = scaled != NULL;
  for (int64_t i = 0; ok && i < all; i++)
    scaled[i] = (row->prediction[i] - (row->partial ? 0 : k->mean)) / k->scale;
  ok = ok && sum_errors(k, scaled, &s, err);
  for (int e = 0; ok && e < EBB_ERRORS; e++) {
    statistic t = {&s, (ebb_error_kind)e};
    ok = ebb_bootstrap(s.groups, config->probe.bootstrap, (uint64_t)config->probe.seed, error_of, &t,
                       &row->metric[e], err);
    ebb_widen(&row->metric[e], k->r->plan->folds, e == EBB_R2 ? -INFINITY : 0, e == EBB_R2 ? 1 : INFINITY);
  }
  free(scaled);
  free(s.squares);
  return ok;
}

/* ---- a row --------------------------------------------------------------------------------------------- */

static bool open_row(strict *k, int target, ebb_error *err) {
  size_t cells = (size_t)k->cells, folds = (size_t)k->r->plan->folds, columns = (size_t)k->columns;
  k->score = ebb_room(cells * (size_t)(k->parts * k->parameters.penalty_count), sizeof *k->score, err);
  k->fitted = ebb_room(cells * (size_t)(k->r->plan->repeats * k->r->sample->n), sizeof *k->fitted, err);
  k->squares = ebb_room(cells * columns, sizeof *k->squares, err);
  k->reached = ebb_room(folds * columns, sizeof *k->reached, err);
  k->nested = ebb_room(folds * columns, sizeof *k->nested, err);
  return k->score && k->fitted && k->squares && k->reached && k->nested && make_values(k, target, err) &&
         (!k->row->partial || make_residuals(k, target, err)) && make_spread(k, err);
}

static void close_row(strict *k) {
  for (int part = 0; k->basis && part < k->parts; part++)
    ebb_basis_free(&k->basis[part]);
  free(k->basis);
  free(k->values);
  free(k->left);
  free(k->spread);
  free(k->score);
  free(k->fitted);
  free(k->squares);
  free(k->reached);
  free(k->nested);
}

bool ebb_regress_strict(regression *r, int target, ebb_regression *row, ebb_error *err) {
  strict k = {.r = r,
              .row = row,
              .parts = r->plan->repeats * r->plan->folds,
              .cells = ebb_regression_cells(row),
              .parameters = ebb_parameters_default,
              .columns = 1 + r->permutations};
  k.parameters.score = EBB_SCORE_EXPLAINED;
  bool ok = open_row(&k, target, err) && (row->partial ? partial_cells(&k, err) : plain_cells(&k, err)) &&
            fill_cells(&k, err) && compare_with_null(&k, err);
  if (ok) {
    choose(&k);
    ok = report(&k, err);
  }
  close_row(&k);
  return ok;
}
