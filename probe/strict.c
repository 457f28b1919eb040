/* The strict protocol: probe/study.h says what and why. */
#include "probe/protocol.h"

#include <math.h>
#include <string.h>

static ebb_problem problem_of(const study *s, const float *x, int part) {
  const ebb_part *p = &s->plan->part[part];
  return (ebb_problem){.n = s->sample->n,
                       .d = s->row->width,
                       .x = x,
                       .columns = part < s->plan->folds ? 1 + s->permutations : 1,
                       .labels = s->labels,
                       .train_count = p->train_count,
                       .test_count = p->test_count,
                       .train = p->train,
                       .test = p->test,
                       .inner_folds = s->plan->inner_folds,
                       .inner = p->inner};
}

/* ---- every cell alone ---- */

/* Ridge on cells [first, first + count): inner scores, held-out margins, hits under permuted labels. */
static bool ridge_cells(study *s, int first, int count, float *x, ebb_error *err) {
  int64_t n = s->sample->n, columns = 1 + s->permutations;
  int parts = s->parts, penalties = s->parameters.penalty_count, folds = s->plan->folds;
  size_t problems = (size_t)count * (size_t)parts;
  ebb_problem *problem = ebb_room(problems, sizeof *problem, err);
  ebb_ridge_fit *fit = ebb_room(problems, sizeof *fit, err);
  double *margin = ebb_room(problems * (size_t)n, sizeof *margin, err);
  int32_t *hits = ebb_room((size_t)(count * folds) * (size_t)columns, sizeof *hits, err);
  double *reached = ebb_room((size_t)(count * folds) * (size_t)columns, sizeof *reached, err);
  bool ok = problem && fit && margin && hits && reached;
  for (int i = 0; ok && i < count; i++) {
    const float *cell = x + (int64_t)i * n * s->row->width;
    ok = ebb_study_read(s, first + i, x + (int64_t)i * n * s->row->width, err);
    for (int part = 0; part < parts; part++) {
      int64_t at = (int64_t)i * parts + part;
      problem[at] = problem_of(s, cell, part);
      fit[at].score = s->score + ((int64_t)(first + i) * parts + part) * penalties;
      fit[at].margins = margin + at * n;
      if (part < folds) { /* the first repeat */
        fit[at].hits = hits + (int64_t)(i * folds + part) * columns;
        fit[at].reached = reached + (int64_t)(i * folds + part) * columns;
      }
    }
  }
  ok = ok && ebb_ridge_batch(s->c, (int64_t)problems, problem, &s->parameters, fit, err);
  for (int64_t at = 0; ok && at < (int64_t)problems; at++) {
    int64_t cell = first + at / parts, part = at % parts, repeat = part / folds;
    for (int64_t t = 0; t < problem[at].test_count; t++)
      s->margins[(cell * s->plan->repeats + repeat) * n + problem[at].test[t]] = fit[at].margins[t];
    for (int64_t k = 0; fit[at].hits && k < columns; k++) {
      s->hits[cell * columns + k] += fit[at].hits[k];
      if (cell == 0 || fit[at].reached[k] > s->reached[part * columns + k]) {
        s->reached[part * columns + k] = fit[at].reached[k];
        s->nested_hits[part * columns + k] = fit[at].hits[k];
      }
    }
  }
  free(problem);
  free(fit);
  free(margin);
  free(hits);
  free(reached);
  return ok;
}

static bool all_cells(study *s, ebb_error *err) {
  int chunk = ebb_study_chunk(s);
  size_t numbers = (size_t)chunk * (size_t)(s->sample->n * s->row->width);
  float *x = ebb_host_new(s->c, numbers * sizeof *x + 1);
  bool ok = x || ebb_fail(err, "not enough memory for a probe (%.0f MB)", (double)numbers * sizeof *x / 1e6);
  for (int first = 0; ok && first < s->cells; first += chunk) {
    int count = s->cells - first < chunk ? s->cells - first : chunk;
    ok = ridge_cells(s, first, count, x, err);
    ebb_study_progress(s, count);
  }
  ebb_host_free(s->c, x);
  return ok;
}

/* Maximum over cells, then accuracy of the nested choice, under the true labels and each permutation: the
 * same statistic, of the first repeat, so that p compares like with like. */
static bool best_of_cells(study *s, ebb_error *err) {
  ebb_row *row = s->row;
  int64_t columns = 1 + s->permutations;
  double *highest = ebb_room((size_t)columns, sizeof *highest, err);
  if (!highest)
    return false;
  for (int64_t k = 0; k < columns; k++)
    for (int cell = 0; cell < s->cells; cell++)
      highest[k] = fmax(highest[k], 0.5 * s->hits[cell * columns + k] / (double)s->sample->n);
  int top = 0;
  for (int cell = 1; cell < s->cells; cell++) /* the first of the highest */
    if (s->hits[cell * columns] > s->hits[top * columns])
      top = cell;
  row->top = top;
  row->top_once = highest[0];
  bool permuted = s->permutations > 0;
  for (int cell = 0; cell < s->cells; cell++)
    row->cell_p[cell] = permuted ? ebb_permutation_p(s->permutations, highest + 1,
                                                     0.5 * s->hits[cell * columns] / (double)s->sample->n)
                                 : NAN;
  row->p = permuted ? ebb_permutation_p(s->permutations, highest + 1, highest[0]) : NAN;
  row->permuted = ebb_floor_of(s->permutations, highest + 1);
  row->independent = ebb_floor_independent(s->sample->n, s->cells);
  for (int64_t k = 0; k < columns; k++) {
    highest[k] = 0;
    for (int f = 0; f < s->plan->folds; f++)
      highest[k] += 0.5 * s->nested_hits[f * columns + k] / (double)s->sample->n;
  }
  row->nested_p = permuted ? ebb_permutation_p(s->permutations, highest + 1, highest[0]) : NAN;
  free(highest);
  return true;
}

/* ---- the reported number ---- */

/* Each part's choice as cell * penalties + penalty: the first of the highest inner scores. */
static void choose(const study *s, int64_t *chosen) {
  int penalties = s->parameters.penalty_count;
  for (int part = 0; part < s->parts; part++) {
    double best = -2;
    for (int cell = 0; cell < s->cells; cell++)
      for (int p = 0; p < penalties; p++) {
        double score = s->score[((int64_t)cell * s->parts + part) * penalties + p];
        if (score > best) {
          best = score;
          chosen[part] = (int64_t)cell * penalties + p;
        }
      }
    s->row->fit_cell[part] = (int)(chosen[part] / penalties);
    s->row->fit_penalty[part] = s->parameters.penalties[chosen[part] % penalties];
    s->row->selected[chosen[part] / penalties] += 1.0 / s->parts;
  }
  int most = 0;
  for (int cell = 1; cell < s->cells; cell++)
    if (s->row->selected[cell] > s->row->selected[most] + 1e-9)
      most = cell;
  s->row->chosen = most;
}

/* One logistic regression for each part, in its cell, into row->margin. */
static bool fit_chosen(study *s, const int64_t *chosen, ebb_error *err) {
  int penalties = s->parameters.penalty_count;
  int64_t n = s->sample->n;
  float *x = ebb_room((size_t)(n * s->row->width), sizeof *x, err);
  double *margin = ebb_room((size_t)s->parts * (size_t)n, sizeof *margin, err);
  bool ok = x && margin;
  for (int cell = 0; ok && cell < s->cells; cell++) {
    if (s->row->selected[cell] == 0)
      continue;
    ok = ebb_study_read(s, cell, x, err);
    for (int p = 0; ok && p < penalties; p++) {
      ebb_problem problem[64];
      ebb_logistic_fit fit[64];
      int part_of[64], count = 0;
      ebb_parameters at = s->parameters;
      at.penalty_count = 1;
      at.penalties = s->parameters.penalties + p;
      for (int part = 0; ok && part <= s->parts; part++) {
        if (count == 64 || (part == s->parts && count > 0)) {
          ok = ebb_logistic_batch(s->c, count, problem, &at, fit, err);
          for (int i = 0; ok && i < count; i++)
            for (int64_t t = 0; t < problem[i].test_count; t++)
              s->row->margin[part_of[i] / s->plan->folds * n + problem[i].test[t]] = fit[i].margins[t];
          count = 0;
        }
        if (part == s->parts || chosen[part] != (int64_t)cell * penalties + p)
          continue;
        problem[count] = problem_of(s, x, part);
        fit[count] = (ebb_logistic_fit){.margins = margin + (int64_t)part * n};
        part_of[count++] = part;
      }
    }
  }
  free(x);
  free(margin);
  return ok;
}

bool ebb_strict_row(study *s, ebb_error *err) {
  int64_t *chosen = NULL;
  bool ok = all_cells(s, err) && ebb_study_map(s, err) && best_of_cells(s, err);
  if (ok) {
    chosen = ebb_room((size_t)s->parts, sizeof *chosen, err);
    ok = chosen != NULL;
  }
  if (ok)
    choose(s, chosen);
  ok = ok && fit_chosen(s, chosen, err);
  free(chosen);
  return ok;
}
