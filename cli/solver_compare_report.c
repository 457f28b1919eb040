#include "cli/solver_compare.h"

#include "cli/intervals.h"
#include "loaders/file.h"
#include "probe/correlate.h"
#include "probe/csv.h"
#include "probe/margins.h"
#include "probe/presets.h"
#include "probe/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 6

/* A finished cell, read back. */
typedef struct finished {
  ebb_results results;
  ebb_margins margins;
} finished;

typedef struct report {
  const ebb_solver_grid *g;
  finished *of;     /* [cells] */
  FILE *table;      /* NULL: nowhere */
  char feature[80]; /* the one that the table is about */
} report;

static const ebb_solver_case *case_of(const report *r, int cell) {
  return &r->g->cases[r->g->cells[cell].number];
}

static bool is_told(const report *r, const char *model, const char *feature) {
  const char *end = strrchr(feature, '.');
  return strcmp(model, r->g->config->model.transformer) == 0 && !(end && strcmp(end, EBB_OF_A_HEAD) == 0);
}

static bool read_cells(report *r, ebb_error *err) {
  bool ok = true;
  for (int i = 0; ok && r->g->probed && i < r->g->cell_count; i++) {
    char *dir = ebb_path_join(r->g->cells[i].dir, "probe"), *margins = ebb_path_join(dir, "margins.csv");
    ok = ebb_results_read(&r->of[i].results, dir, err) && ebb_margins_read(&r->of[i].margins, margins, err);
    free(dir);
    free(margins);
  }
  const ebb_results *first = r->g->probed && r->g->cell_count ? &r->of[0].results : NULL;
  for (int i = 0; ok && first && i < first->row_count && !r->feature[0]; i++)
    if (is_told(r, first->rows[i].model, first->rows[i].feature))
      memcpy(r->feature, first->rows[i].feature, sizeof r->feature);
  return ok;
}

/* ---- cells ----------------------------------------------------------------------------------------------
 */

static void csv_interval(FILE *to, const ebb_interval *i) {
  ebb_csv_number(to, DIGITS, i->value);
  ebb_csv_number(to, DIGITS, i->low);
  ebb_csv_number(to, DIGITS, i->high);
}

/* Solver to path error. */
static void csv_cell(FILE *to, const report *r, int cell) {
  const ebb_compare_cell *c = &r->g->cells[cell];
  const ebb_solver_case *x = case_of(r, cell);
  const ebb_case_error *e = &r->g->errors[c->number];
  fprintf(to, "%s,%s,%d,%s,%d,%lld", x->solver, x->labels, x->steps, ebb_cell_captures(c), c->capture.count,
          (long long)e->evaluations);
  csv_interval(to, &e->endpoint);
  csv_interval(to, &e->path);
}

static void write_cells(const report *r, FILE *to) {
  fputs("solver,labels,steps,captures,captured,evaluations,endpoint_error,endpoint_error_lo,endpoint_error_"
        "hi,path_"
        "error,path_error_lo,path_error_hi,category,feature,videos,groups,accuracy,accuracy_lo,accuracy_hi,"
        "pairwise,"
        "pairwise_lo,pairwise_hi,chosen_step,chosen_sigma\n",
        to);
  for (int i = 0; i < r->g->cell_count; i++) {
    const ebb_results *results = &r->of[i].results;
    if (!r->g->probed) {
      csv_cell(to, r, i);
      fputs(",,,,,,,,,,,,\n", to);
    }
    for (int n = 0; n < results->row_count; n++) {
      const ebb_row *row = &results->rows[n];
      if (!is_told(r, row->model, row->feature))
        continue;
      const int step = ebb_cell_of(row, row->chosen).step;
      csv_cell(to, r, i);
      fputc(',', to);
      ebb_csv_text(to, row->category);
      fprintf(to, ",%s,%lld,%lld", row->feature, (long long)row->videos, (long long)row->groups);
      csv_interval(to, &row->metric[EBB_ACCURACY]);
      csv_interval(to, &row->metric[EBB_PAIRWISE]);
      fprintf(to, ",%d", row->steps[step]);
      ebb_csv_number(to, DIGITS, row->sigmas[step]);
      fputc('\n', to);
    }
  }
}

static void print_interval(FILE *to, const ebb_interval *i) {
  char text[64];
  snprintf(text, sizeof text, "%.2e [%.1e, %.1e]", i->value, i->low, i->high);
  fprintf(to, "  %-27s", text);
}

static void print_cells(const report *r) {
  FILE *to = r->table;
  fprintf(to, "\nevaluations and relative L2 errors to the reference (%s, %lld steps, matched)\n",
          r->g->reference, (long long)r->g->reference_steps);
  fprintf(to, "%-9s %-8s %6s %6s  %-27s  %-27s\n", "solver", "labels", "steps", "evals", "noise",
          "mean of the path");
  for (int i = 0; i < r->g->case_count; i++) {
    const ebb_solver_case *x = &r->g->cases[i];
    const ebb_case_error *e = &r->g->errors[i];
    fprintf(to, "%-9s %-8s %6d %6lld", x->solver, x->labels, x->steps, (long long)e->evaluations);
    print_interval(to, &e->endpoint);
    print_interval(to, &e->path);
    fputc('\n', to);
  }
  if (!r->feature[0])
    return;
  fprintf(to, "\naccuracy of %s\n%-9s %-8s %6s %-8s", r->feature, "solver", "labels", "steps", "captures");
  const ebb_results *first = &r->of[0].results;
  for (int n = 0; n < first->row_count; n++)
    if (is_told(r, first->rows[n].model, first->rows[n].feature) &&
        strcmp(first->rows[n].feature, r->feature) == 0)
      fprintf(to, "  %-22s", first->rows[n].category);
  fputc('\n', to);
  for (int i = 0; i < r->g->cell_count; i++) {
    const ebb_solver_case *x = case_of(r, i);
    fprintf(to, "%-9s %-8s %6d %-8s", x->solver, x->labels, x->steps, ebb_cell_captures(&r->g->cells[i]));
    for (int n = 0; n < r->of[i].results.row_count; n++) {
      const ebb_row *row = &r->of[i].results.rows[n];
      if (is_told(r, row->model, row->feature) && strcmp(row->feature, r->feature) == 0)
        fprintf(to, "  %.3f [%.3f, %.3f]  ", row->metric[EBB_ACCURACY].value, row->metric[EBB_ACCURACY].low,
                row->metric[EBB_ACCURACY].high);
    }
    fputc('\n', to);
  }
}

/* ---- effects: two cells that differ in one thing --------------------------------------------------------
 */

static int most_steps(const ebb_solver_grid *g) {
  int most = 0;
  for (int i = 0; i < g->case_count; i++)
    most = g->cases[i].steps > most ? g->cases[i].steps : most;
  return most;
}

/* What tells `b` from `a`, when it is one thing and a is the side it is held against; else NULL. Labels:
 * noisy. Steps: the most, both captured by sigma. Captures: by sigma. Solver: the first of the list. */
static const char *factor_between(const ebb_solver_grid *g, const ebb_compare_cell *a,
                                  const ebb_compare_cell *b) {
  const ebb_solver_case *x = &g->cases[a->number], *y = &g->cases[b->number];
  const bool solver = strcmp(x->solver, y->solver) == 0, labels = strcmp(x->labels, y->labels) == 0,
             steps = x->steps == y->steps,
             captures = a->by_sigma == b->by_sigma && a->by_index == b->by_index;
  if (solver && !labels && steps && captures)
    return strcmp(x->labels, "noisy") == 0 ? "labels" : NULL;
  if (solver && labels && !steps)
    return x->steps == most_steps(g) && a->by_sigma && b->by_sigma ? "steps" : NULL;
  if (solver && labels && steps && !captures)
    return a->by_sigma ? "captures" : NULL;
  if (!solver && labels && steps && captures)
    return strcmp(x->solver, g->cases[0].solver) == 0 ? "solver" : NULL;
  return NULL;
}

static void say_side(char *to, size_t size, const char *factor, const ebb_solver_case *x,
                     const ebb_compare_cell *c) {
  if (strcmp(factor, "labels") == 0)
    snprintf(to, size, "%s", x->labels);
  else if (strcmp(factor, "steps") == 0)
    snprintf(to, size, "%d", x->steps);
  else if (strcmp(factor, "captures") == 0)
    snprintf(to, size, "%s", ebb_cell_captures(c));
  else
    snprintf(to, size, "%s", x->solver);
}

/* Row [from, end) of a cell's margins. */
typedef struct row_range {
  int64_t from, end;
} row_range;

static row_range find_row(const ebb_margins *m, const char *category, const char *model,
                          const char *feature) {
  for (int64_t at = 0, end; at < m->count; at = end) {
    end = ebb_margins_row_end(m, at);
    if (strcmp(m->items[at].category, category) == 0 && strcmp(m->items[at].model, model) == 0 &&
        strcmp(m->items[at].feature, feature) == 0)
      return (row_range){at, end};
  }
  return (row_range){0, 0};
}

/* Share right of b minus that of a, over the videos that both judged. */
static bool difference_of(const report *r, const ebb_margins *a, row_range in_a, const ebb_margins *b,
                          row_range in_b, ebb_interval *i, int64_t *videos, int64_t *groups, ebb_error *err) {
  const ebb_config *k = r->g->config;
  const size_t n = (size_t)(in_a.end - in_a.from) + 1;
  const char **name = ebb_must(calloc(n, sizeof *name));
  double *x = ebb_must(calloc(n, sizeof *x));
  int *group = ebb_must(calloc(n, sizeof *group));
  *videos = 0;
  for (int64_t p = in_a.from; p < in_a.end; p++)
    for (int64_t q = in_b.from; q < in_b.end; q++)
      if (strcmp(a->items[p].video, b->items[q].video) == 0) {
        name[*videos] = a->items[p].group;
        x[(*videos)++] = b->items[q].right - a->items[p].right;
        break;
      }
  *groups = ebb_number_groups(*videos, name, group);
  bool ok = ebb_mean_interval(&(ebb_grouped){*videos, *groups, group}, x, k->probe.bootstrap,
                              (uint64_t)k->probe.seed, i, err);
  if (ok) /* as the probe's own: folds share their training data */
    ebb_widen(i, ebb_preset_find(k->probe.preset) ? 5 : (int)k->probe.folds, -1, 1);
  free(name);
  free(x);
  free(group);
  return ok;
}

static void print_effect(const report *r, const char *factor, const char *category, const ebb_solver_case *x,
                         const ebb_compare_cell *cell, const char *from, const char *to,
                         const ebb_interval *i) {
  char where[80];
  if (strcmp(factor, "labels") == 0)
    snprintf(where, sizeof where, "%s, %d steps, captures %s", x->solver, x->steps, ebb_cell_captures(cell));
  else if (strcmp(factor, "steps") == 0)
    snprintf(where, sizeof where, "%s, %s", x->solver, x->labels);
  else if (strcmp(factor, "captures") == 0)
    snprintf(where, sizeof where, "%s, %s, %d steps", x->solver, x->labels, x->steps);
  else
    snprintf(where, sizeof where, "%s, %d steps, captures %s", x->labels, x->steps, ebb_cell_captures(cell));
  fprintf(r->table, "%-9s %8s -> %-8s %-36s %-8s %+.3f [%+.3f, %+.3f]\n", factor, from, to, where, category,
          i->value, i->low, i->high);
}

static bool write_pair(const report *r, int a, int b, const char *factor, FILE *to, ebb_error *err) {
  const ebb_margins *ma = &r->of[a].margins, *mb = &r->of[b].margins;
  const ebb_solver_case *y = case_of(r, b);
  char from[16], until[16];
  say_side(from, sizeof from, factor, case_of(r, a), &r->g->cells[a]);
  say_side(until, sizeof until, factor, y, &r->g->cells[b]);
  for (int64_t at = 0, end; at < ma->count; at = end) {
    end = ebb_margins_row_end(ma, at);
    const ebb_margin *row = &ma->items[at];
    const row_range other = find_row(mb, row->category, row->model, row->feature);
    ebb_interval i;
    int64_t videos, groups;
    if (!is_told(r, row->model, row->feature) || other.end == other.from)
      continue;
    if (!difference_of(r, ma, (row_range){at, end}, mb, other, &i, &videos, &groups, err))
      return false;
    fprintf(to, "%s,%s,%s,%s,%s,%d,%s,", factor, from, until, y->solver, y->labels, y->steps,
            ebb_cell_captures(&r->g->cells[b]));
    ebb_csv_text(to, row->category);
    fprintf(to, ",%s,%lld,%lld", row->feature, (long long)videos, (long long)groups);
    csv_interval(to, &i);
    fputc('\n', to);
    if (r->table && strcmp(row->feature, r->feature) == 0)
      print_effect(r, factor, row->category, y, &r->g->cells[b], from, until, &i);
  }
  return true;
}

static bool write_effects(const report *r, FILE *to, ebb_error *err) {
  static const char *const factors[] = {"labels", "steps", "captures", "solver"};
  fputs("factor,from,to,solver,labels,steps,captures,category,feature,videos,groups,difference,low,high\n",
        to);
  if (!r->g->probed)
    return true;
  if (r->table)
    fprintf(r->table, "\nwhat one change makes of the accuracy of %s, videos paired\n", r->feature);
  for (int f = 0; f < 4; f++)
    for (int a = 0; a < r->g->cell_count; a++)
      for (int b = 0; b < r->g->cell_count; b++) {
        const char *factor = factor_between(r->g, &r->g->cells[a], &r->g->cells[b]);
        if (factor && strcmp(factor, factors[f]) == 0 && !write_pair(r, a, b, factor, to, err))
          return false;
      }
  return true;
}

/* ---- files ----------------------------------------------------------------------------------------------
 */

static bool write_csv(const report *r, const char *name, bool effects, ebb_error *err) {
  char *path = ebb_path_join(r->g->out, name);
  ebb_file_writer w = {0};
  bool ok = ebb_file_create(&w, path, err);
  if (ok && !effects)
    write_cells(r, w.stream);
  ok = ok && (!effects || write_effects(r, w.stream, err)) && ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  free(path);
  return ok;
}

static json_t *cells_json(const report *r) {
  json_t *list = json_array();
  for (int i = 0; i < r->g->cell_count; i++) {
    const ebb_compare_cell *c = &r->g->cells[i];
    const ebb_solver_case *x = case_of(r, i);
    const ebb_case_error *e = &r->g->errors[c->number];
    json_t *steps = json_array();
    for (int k = 0; k < c->capture.count; k++)
      json_array_append_new(steps, json_integer(c->capture.values[k]));
    json_array_append_new(
        list, json_pack("{s:s, s:s, s:i, s:s, s:o, s:s, s:I, s:I, s:o, s:o}", "solver", x->solver, "labels",
                        x->labels, "steps", x->steps, "captures", ebb_cell_captures(c), "capture_steps",
                        steps, "run", c->dir, "evaluations", (json_int_t)e->evaluations, "videos",
                        (json_int_t)e->videos, "endpoint_error", ebb_interval_json(&e->endpoint),
                        "path_error", ebb_interval_json(&e->path)));
  }
  return list;
}

static bool write_json(const report *r, const char *version, ebb_error *err) {
  char *path = ebb_path_join(r->g->out, "solver_compare.json"), *text = NULL;
  size_t bytes = 0;
  FILE *memory = ebb_must(open_memstream(&text, &bytes));
  ebb_config_write(r->g->config, memory);
  fclose(memory);
  char videos[65];
  ebb_identity_hash(&r->g->identity, r->g->identity.videos, videos);
  json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:b, s:o}", "version", version, "config",
                        text, "transformer_sha256", r->g->identity.transformer, "vae_sha256",
                        r->g->identity.vae, "identity_sha256", videos, "reference", r->g->reference,
                        "reference_steps", (json_int_t)r->g->reference_steps, "videos",
                        (json_int_t)r->g->videos, "probed", r->g->probed, "cells", cells_json(r));
  ebb_file_writer w = {0};
  bool ok =
      ebb_file_create(&w, path, err) &&
      ((o && json_dumpf(o, w.stream, JSON_INDENT(1) | JSON_REAL_PRECISION(10)) == 0 &&
        fputc('\n', w.stream) > 0) ||
       ebb_fail(err, "%s: cannot be written whole: expected names in UTF-8 and room on the disk", path)) &&
      ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  json_decref(o);
  free(text);
  free(path);
  return ok;
}

bool ebb_solver_grid_report(const ebb_solver_grid *g, const char *version, FILE *table, ebb_error *err) {
  report r = {.g = g, .table = table, .of = ebb_must(calloc((size_t)g->cell_count + 1, sizeof *r.of))};
  bool ok = read_cells(&r, err);
  if (ok && table)
    print_cells(&r);
  ok = ok && write_csv(&r, "solver_compare.csv", false, err) &&
       write_csv(&r, "solver_compare_effects.csv", true, err) && write_json(&r, version, err);
  for (int i = 0; i < g->cell_count; i++) {
    ebb_results_free(&r.of[i].results);
    ebb_margins_free(&r.of[i].margins);
  }
  free(r.of);
  return ok;
}
