#include "probe/batch.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

/* Of the device's free memory, what the arena may take; the rest is for the libraries and their workspaces. */
#define SHARE 0.85

/* An inverse of the dual costs n^3 on the device, the primal n d^2 on a host of a hundredth of its rate. By
 * these counts; the border was not timed. */
#define MUCH_SMALLER 16

/* ---- designs ---- */

static bool same_rows(int64_t count, const int32_t *a, int64_t other, const int32_t *b) {
  return count == other && (a == b || count == 0 || !memcmp(a, b, (size_t)count * sizeof *a));
}

/* The same rows of the same numbers, in the same order. */
static bool same_design(const ebb_problem *a, const ebb_problem *b) {
  return a->x == b->x && a->n == b->n && a->d == b->d && a->stream == b->stream &&
         same_rows(a->train_count, a->train, b->train_count, b->train) &&
         same_rows(a->validation_count, a->validation, b->validation_count, b->validation) &&
         same_rows(a->test_count, a->test, b->test_count, b->test);
}

bool ebb_designs_make(ebb_designs *designs, int64_t count, const ebb_problem *problems, ebb_error *err) {
  *designs = (ebb_designs){.problem = malloc(((size_t)count + 1) * sizeof *designs->problem),
                           .first = malloc(((size_t)count + 1) * sizeof *designs->first)};
  if (!designs->problem || !designs->first)
    return ebb_fail(err, "not enough memory for a list of %lld probes", (long long)count);
  for (int64_t i = 0; i < count; i++)
    if (i == 0 || !same_design(&problems[i - 1], &problems[i])) {
      designs->problem[designs->count] = &problems[i];
      designs->first[designs->count++] = i;
    }
  designs->first[designs->count] = count;
  return true;
}

void ebb_designs_free(ebb_designs *designs) {
  free(designs->problem);
  free(designs->first);
  *designs = (ebb_designs){0};
}

int64_t ebb_designs_of_shape(const ebb_designs *designs, int64_t at) {
  const ebb_problem *one = designs->problem[at];
  int64_t end = at + 1;
  while (end < designs->count && designs->problem[end]->d == one->d && designs->problem[end]->n == one->n)
    end++;
  return end;
}

/* ---- batches ---- */

/* Rows that the largest inner fold has. */
static int64_t largest_fold(const ebb_problem *p, int64_t *count) {
  if (p->inner_folds == 0)
    return 1;
  int64_t largest = 0;
  memset(count, 0, (size_t)p->inner_folds * sizeof *count);
  for (int64_t i = 0; i < p->train_count; i++) {
    int64_t now = ++count[p->inner[i]];
    largest = now > largest ? now : largest;
  }
  return largest;
}

void ebb_batch_slots(const ebb_batch *b, const ebb_problem *p, int64_t *slot) {
  for (int64_t i = 0; i < p->train_count; i++) {
    int64_t before = 0; /* of the same fold */
    if (b->k > 1)
      for (int64_t j = i - 1; j >= 0; j--)
        if (p->inner[j] == p->inner[i]) {
          before = slot[j] - p->inner[j] * b->k + 1;
          break;
        }
    slot[i] = b->k > 1 ? p->inner[i] * b->k + before : i;
  }
}

static bool shapes(ebb_batch *b, bool by_fold) {
  const ebb_problem *first = b->problem[0];
  b->d = first->d;
  b->all = first->n;
  b->t = 1;
  int64_t *count = calloc((size_t)first->inner_folds + 1, sizeof *count);
  if (!count)
    return false;
  if (by_fold)
    b->folds = first->inner_folds > 0 ? first->inner_folds : first->train_count;
  for (int64_t i = 0; i < b->count; i++) {
    const ebb_problem *p = b->problem[i];
    int64_t k = by_fold ? largest_fold(p, count) : 0;
    b->n = p->train_count > b->n ? p->train_count : b->n;
    b->t = p->test_count > b->t ? p->test_count : b->t;
    b->k = k > b->k ? k : b->k;
    if (b->one_fold)
      b->one_fold[i] = k == p->train_count;
    b->tables += i == 0 || p->x != b->problem[i - 1]->x;
  }
  free(count);
  b->n = by_fold ? b->folds * b->k : (b->n + 7) / 8 * 8;
  return true;
}

bool ebb_batch_make(ebb_batch *b, ebb_context *c, int64_t count, const ebb_problem *const *problem,
                    bool by_fold, ebb_error *err) {
  *b = (ebb_batch){.c = c, .count = count, .problem = problem};
  b->one_fold = calloc((size_t)count + 1, sizeof *b->one_fold);
  bool ok = b->one_fold && shapes(b, by_fold);
  size_t entries = (size_t)(count * (b->n + b->t)) + (size_t)b->n;
  b->rows = ok ? malloc(entries * sizeof *b->rows) : NULL;
  if (!b->rows)
    return ebb_fail(err, "not enough memory for %lld designs", (long long)count);
  b->test = b->rows + count * b->n;
  int64_t *slot = b->test + count * b->t, table = -1;
  for (int64_t i = 0; i < count * (b->n + b->t); i++)
    b->rows[i] = -1;
  for (int64_t i = 0; i < count; i++) {
    const ebb_problem *p = problem[i];
    table += i == 0 || p->x != problem[i - 1]->x;
    ebb_batch_slots(b, p, slot);
    for (int64_t r = 0; r < p->train_count; r++)
      b->rows[i * b->n + slot[r]] = table * b->all + p->train[r];
    for (int64_t r = 0; r < p->test_count; r++)
      b->test[i * b->t + r] = table * b->all + p->test[r];
  }
  return true;
}

void ebb_batch_free(ebb_batch *b) {
  free(b->rows);
  free(b->one_fold);
  *b = (ebb_batch){0};
}

void ebb_batch_upload(ebb_batch *b) {
  ebb_context *c = b->c;
  b->x = EBB_ACTIVATION(c, "x", b->tables * b->all, b->d);
  b->row = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "rows", b->count, b->n);
  b->test_row = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "test rows", b->count, b->t);
  b->mean = EBB_F64_NEW(c, "mean", b->count, b->d);
  b->inverse = EBB_F64_NEW(c, "inverse", b->count, b->d);
  for (int64_t i = 0, table = 0; i < b->count; i++)
    if (i == 0 || b->problem[i]->x != b->problem[i - 1]->x)
      ebb_upload(c, ebb_slice(b->x, table++ * b->all, b->all), b->problem[i]->x);
  ebb_upload(c, b->row, b->rows);
  ebb_upload(c, b->test_row, b->test);
  ebb_column_scale(c, b->mean, b->inverse, b->x, b->row);
}

bool ebb_batch_units(const ebb_batch *b, double *unit, ebb_error *err) {
  if (b->c->counting)
    return true;
  double *inverse = malloc((size_t)(b->count * b->d) * sizeof *inverse);
  if (!inverse)
    return ebb_fail(err, "not enough memory for the scales of %lld designs", (long long)b->count);
  ebb_download(b->c, inverse, b->inverse);
  for (int64_t i = 0; i < b->count; i++) {
    unit[i] = 0;
    for (int64_t j = 0; j < b->d; j++) /* a column that varies has mean square 1 */
      unit[i] += inverse[i * b->d + j] != 0;
    unit[i] = unit[i] > 0 ? unit[i] : 1;
  }
  free(inverse);
  return true;
}

/* ---- where a problem is solved ---- */

static size_t room_of(ebb_context *c) {
  size_t free_bytes = 0, total = 0;
  ebb_context_memory(c, &free_bytes, &total);
  return (size_t)(SHARE * (double)(free_bytes + c->activations.size));
}

static bool for_device(ebb_context *c, const ebb_problem *p, ebb_form form, int64_t rows, bool by_fold,
                       size_t room) {
  ebb_batch one = {.c = c, .count = 1, .problem = &p};
  if (form == EBB_FORM_PRIMAL || (form == EBB_FORM_AUTO && p->d * MUCH_SMALLER <= p->train_count) ||
      !shapes(&one, by_fold))
    return false;
  double n = (double)one.n, t = (double)one.t, d = (double)one.d, K = (double)p->columns;
  /* Gram matrix, inverse with two panels and a block, fold blocks; z; vectors; x */
  double bytes =
      8 * (n * (2 * n + (double)one.k + 256) + 128 * 128 + (n + t) * d + K * (5 * n + d + t) + 16 * n) +
      4 * (double)one.all * d;
  return one.n <= rows && bytes <= (double)room;
}

int64_t ebb_batch_together(ebb_context *c, int64_t count, const ebb_problem *problems, ebb_form form,
                           int64_t rows, bool by_fold, bool *device) {
  *device = false;
  if (!ebb_on_device(c))
    return count;
  size_t room = room_of(c);
  *device = for_device(c, &problems[0], form, rows, by_fold, room);
  int64_t end = 1;
  while (end < count && for_device(c, &problems[end], form, rows, by_fold, room) == *device)
    end++;
  if (!*device)
    openblas_set_num_threads(1); /* a host context does: threads are outside the products */
  return end;
}

/* ---- pieces ---- */

/* Bytes of the activation arena that a piece needs. */
static bool count_piece(ebb_context *c, ebb_batch_solve *solve, void *user, int64_t first, int64_t count,
                        size_t *bytes, ebb_error *err) {
  ebb_counters before = c->counters;
  ebb_context_count(c);
  bool ok = solve(user, first, count, err) && ebb_context_ok(c, err);
  *bytes = c->activations.peak;
  ok = ebb_context_reserve(c, EBB_WEIGHTS, 0, ok ? err : NULL) && ok; /* ends counting, keeps the arena */
  c->counters = before;
  return ok;
}

bool ebb_batch_pieces(ebb_context *c, int64_t count, ebb_batch_solve *solve, void *user, ebb_error *err) {
  size_t one = 0, need = 0;
  for (int64_t first = 0, piece = 0; first < count; first += piece) {
    if (!count_piece(c, solve, user, first, 1, &one, err))
      return false;
    size_t room = room_of(c);
    int64_t most = one > 0 && room / one > 1 ? (int64_t)(room / one) : 1, left = count - first;
    int64_t pieces = (left + most - 1) / most; /* as even as can be */
    piece = (left + pieces - 1) / pieces;
    if (!count_piece(c, solve, user, first, piece, &need, err))
      return false;
    while (need > room && piece > 1) { /* later designs may be larger, and all have the room of the largest */
      piece /= 2;
      if (!count_piece(c, solve, user, first, piece, &need, err))
        return false;
    }
    if (need > c->activations.size && !ebb_context_reserve(c, EBB_ACTIVATIONS, need, err))
      return false;
    size_t mark = ebb_arena_mark(&c->activations);
    bool ok = solve(user, first, piece, err);
    ebb_arena_release(&c->activations, mark);
    if (!ebb_context_ok(c, ok ? err : NULL) || !ok)
      return false;
  }
  return true;
}
