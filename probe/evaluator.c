#include "probe/evaluator.h"

#include "loaders/file.h"
#include "loaders/inflevel.h"
#include "probe/pcg64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
  char *key;
  int64_t row;
} entry;

typedef struct group {
  int64_t first;  /* its first row: groups keep the order of the table, which the permutations go by */
  int64_t row[4]; /* by code, -1: not there */
} group;

static int by_key(const void *a, const void *b) {
  const entry *x = a, *y = b;
  int order = strcmp(x->key, y->key);
  return order != 0 ? order : (x->row > y->row) - (x->row < y->row);
}

static int by_first(const void *a, const void *b) {
  const group *x = a, *y = b;
  return (x->first > y->first) - (x->first < y->first);
}

typedef struct columns {
  int view, cover, object, code, direction, score;
} columns;

static bool find_columns(const ebb_table *t, const char *score, columns *c, ebb_error *err) {
  static const char *const names[] = {"camera_loc", "cover", "obj", "trial_type"};
  int *const to[] = {&c->view, &c->cover, &c->object, &c->code};
  for (int i = 0; i < 4; i++)
    if ((*to[i] = ebb_table_find(t, names[i])) < 0)
      return ebb_fail(err,
                      "%s:1: no column \"%s\", expected camera_loc, cover, obj, trial_type, dir (of "
                      "continuity) and the scores",
                      t->path, names[i]);
  c->direction = ebb_table_find(t, "dir");
  c->score = ebb_table_find(t, score);
  return c->score >= 0 ||
         ebb_fail(err, "%s:1: no column \"%s\" with the scores (--score names it)", t->path, score);
}

static int find_code(const char *const *codes, const char *code) {
  for (int i = 0; codes[i] != NULL; i++)
    if (strcmp(codes[i], code) == 0)
      return i;
  return -1;
}

/* The rows of one key, entries[0..n). */
static bool take_group(const ebb_table *t, const columns *c, const char *const *codes, const entry *entries,
                       int64_t n, group *g, ebb_error *err) {
  *g = (group){entries[0].row, {-1, -1, -1, -1}};
  for (int64_t i = 0; i < n; i++) {
    const ebb_cell *cell = ebb_table_cell(t, entries[i].row, c->code);
    const int code = find_code(codes, cell->text);
    if (code < 0)
      return ebb_fail(err, "%s:%d:%d: trial_type is \"%.60s\", expected %s, %s, %s or %s", t->path,
                      cell->line, cell->column, cell->text, codes[0], codes[1], codes[2], codes[3]);
    if (g->row[code] >= 0)
      return ebb_fail(err, "%s:%d:%d: %s of %s was on line %d already", t->path, cell->line, cell->column,
                      cell->text, entries[i].key, ebb_table_cell(t, g->row[code], c->code)->line);
    g->row[code] = entries[i].row;
  }
  return true;
}

static bool read_groups(const ebb_table *t, const columns *c, const char *const *codes, group *groups,
                        ebb_evaluation *r, ebb_error *err) {
  entry *entries = ebb_must(malloc(((size_t)t->rows + 1) * sizeof *entries));
  for (int64_t i = 0; i < t->rows; i++)
    entries[i] = (entry){ebb_format("%s__%s__%s%s%s", ebb_table_text(t, i, c->view),
                                    ebb_table_text(t, i, c->cover), ebb_table_text(t, i, c->object),
                                    c->direction < 0 ? "" : "__", ebb_table_text(t, i, c->direction)),
                         i};
  qsort(entries, (size_t)t->rows, sizeof *entries, by_key);
  bool ok = true;
  for (int64_t first = 0, next; ok && first < t->rows; first = next) {
    for (next = first + 1; next < t->rows && strcmp(entries[next].key, entries[first].key) == 0;)
      next++;
    ok = take_group(t, c, codes, entries + first, next - first, &groups[r->groups], err);
    if (ok && next - first == 4)
      r->groups++;
    else
      r->skipped++;
  }
  for (int64_t i = 0; i < t->rows; i++)
    free(entries[i].key);
  free(entries);
  qsort(groups, (size_t)r->groups, sizeof *groups, by_first);
  return ok;
}

/* score [4, n]: two rows of possible videos, two of impossible; from[4 j ..]: which row each place of group j
 * takes its score from, NULL: its own. */
static double accuracy(const double *score, int64_t n, const unsigned char *from) {
  double count = 0;
  for (int64_t j = 0; j < n; j++)
    for (int p = 0; p < 2; p++)
      for (int m = 2; m < 4; m++) {
        const double real = score[(from ? from[4 * j + p] : p) * n + j];
        const double magic = score[(from ? from[4 * j + m] : m) * n + j];
        count += real > magic ? 1 : real == magic ? 0.5 : 0;
      }
  return count / (4.0 * (double)n);
}

/* The rows of four numbers a stride apart, ascending. */
static void sort_rows(const double *u, int64_t stride, unsigned char *row) {
  for (int i = 0; i < 4; i++) {
    int at = i;
    for (; at > 0 && u[row[at - 1] * stride] > u[i * stride]; at--)
      row[at] = row[at - 1];
    row[at] = (unsigned char)i;
  }
}

static void permute(const double *score, int64_t n, ebb_evaluation *r) {
  double *u = ebb_must(malloc((size_t)n * 4 * sizeof *u));
  unsigned char *from = ebb_must(malloc((size_t)n * 4));
  ebb_pcg64 random;
  ebb_pcg64_seed(&random, 0);
  const double scaled = fabs((r->accuracy - 0.5) / 0.5);
  int64_t as_high = 0, far_up = 0, far_down = 0;
  for (int64_t i = 0; i < r->permutations; i++) {
    for (int64_t k = 0; k < 4 * n; k++)
      u[k] = ebb_pcg64_uniform(&random);
    for (int64_t j = 0; j < n; j++)
      sort_rows(u + j, n, from + 4 * j);
    const double a = accuracy(score, n, from), far = (a - 0.5) / 0.5;
    as_high += a >= r->accuracy;
    far_up += far >= scaled;
    far_down += far <= -scaled;
  }
  free(u);
  free(from);
  const double draws = (double)r->permutations;
  r->p_one_sided = (double)as_high / draws;
  r->p_two_sided = scaled == 0 ? 1 : (double)far_up / draws + (double)far_down / draws;
}

bool ebb_inflevel_evaluate(const ebb_table *t, const char *category, const char *score, int64_t permutations,
                           ebb_evaluation *r, ebb_error *err) {
  *r = (ebb_evaluation){.permutations = permutations, .p_one_sided = NAN, .p_two_sided = NAN};
  const char *const *codes = ebb_inflevel_codes(category);
  columns c;
  if (codes == NULL)
    return ebb_fail(err, "category \"%s\", expected continuity, gravity or solidity", category);
  if (!find_columns(t, score, &c, err))
    return false;
  group *groups = ebb_must(malloc(((size_t)t->rows + 1) * sizeof *groups));
  bool ok = read_groups(t, &c, codes, groups, r, err);
  if (ok && r->groups == 0)
    ok = ebb_fail(err, "%s: none of the %lld groups has all of %s, %s, %s, %s", t->path,
                  (long long)r->skipped, codes[0], codes[1], codes[2], codes[3]);
  const int64_t n = r->groups;
  double *scores = ebb_must(malloc(((size_t)n + 1) * 4 * sizeof *scores));
  for (int64_t j = 0; ok && j < n; j++)
    for (int k = 0; ok && k < 4; k++)
      ok = ebb_table_number(t, groups[j].row[k], c.score, &scores[k * n + j], err);
  if (ok) {
    const int64_t expected = category[0] == 'c' ? 36 : category[0] == 'g' ? 114 : 6;
    r->skips_as_expected = r->skipped == expected;
    r->accuracy = accuracy(scores, n, NULL);
    if (permutations > 0)
      permute(scores, n, r);
  }
  free(scores);
  free(groups);
  return ok;
}
