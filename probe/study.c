#include "probe/study.h"

#include "probe/sample.h"
#include "probe/solve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Cells held in memory at once: as many as fit here, at least one. */
#define CELL_BYTES ((size_t)128 << 20)

/* One row being studied, and what its rows share. */
typedef struct study {
  const ebb_store *store;
  const ebb_config *config;
  ebb_context *c;
  const ebb_sample *sample;
  const ebb_plan *plan;
  const int8_t *labels; /* [1 + permutations, n] */
  int64_t permutations;
  ebb_parameters parameters;
  int set, feature;
  ebb_row *row;
  int cells, parts;       /* cells of the row; repeats x folds */
  double *score;          /* [cells,parts,penalties] inner score */
  double *margins;        /* [cells,repeats,n] of every cell alone */
  int32_t *hits;          /* [cells,1 + permutations] twice the hits of the first repeat */
  double *reached;        /* [folds,1 + permutations] first repeat: highest inner score over cells so far */
  int32_t *nested_hits;   /* [folds,1 + permutations] twice the hits of the cell that reached it */
  ebb_progress *progress; /* NULL: nobody looks */
  void *user;
  double done, work; /* cells, over all rows */
} study;

static void *room(size_t count, size_t size, ebb_error *err) {
  void *p = calloc(count + 1, size);
  if (!p)
    ebb_fail(err, "not enough memory for a probe (%.0f MB)", (double)count * (double)size / 1e6);
  return p;
}

/* x [n,width] of one cell, finite. */
static bool read_cell(const study *s, int cell, float *x, ebb_error *err) {
  const ebb_row *row = s->row;
  int step = cell / row->block_count, block = cell % row->block_count;
  if (!ebb_store_gather(s->store, s->set, s->feature, step, row->blocks ? block : 0, s->sample->n,
                        s->sample->video, x, err))
    return false;
  for (int64_t i = 0; i < s->sample->n * row->width; i++)
    if (!isfinite(x[i]))
      return ebb_fail(err, "%s: %s of %s at step %d%s is not finite for video %s", s->store->dir,
                      row->feature, row->model, row->steps[step], row->blocks ? " (one of its blocks)" : "",
                      s->store->videos[s->sample->video[i / row->width]].id);
  return true;
}

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
  ebb_problem *problem = room(problems, sizeof *problem, err);
  ebb_ridge_fit *fit = room(problems, sizeof *fit, err);
  double *margin = room(problems * (size_t)n, sizeof *margin, err);
  int32_t *hits = room((size_t)(count * folds) * (size_t)columns, sizeof *hits, err);
  double *reached = room((size_t)(count * folds) * (size_t)columns, sizeof *reached, err);
  bool ok = problem && fit && margin && hits && reached;
  for (int i = 0; ok && i < count; i++) {
    const float *cell = x + (int64_t)i * n * s->row->width;
    ok = read_cell(s, first + i, x + (int64_t)i * n * s->row->width, err);
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
  size_t cell_bytes = (size_t)(s->sample->n * s->row->width) * sizeof(float);
  int chunk = cell_bytes < CELL_BYTES ? (int)(CELL_BYTES / (cell_bytes + 1)) : 1;
  chunk = chunk < s->cells ? chunk : s->cells;
  chunk =
      chunk > 1 && s->progress && chunk > (s->cells + 3) / 4 ? (s->cells + 3) / 4 : chunk; /* signs of life */
  float *x = room((size_t)chunk * cell_bytes / sizeof *x, sizeof *x, err);
  bool ok = x != NULL;
  for (int first = 0; ok && first < s->cells; first += chunk) {
    int count = s->cells - first < chunk ? s->cells - first : chunk;
    ok = ridge_cells(s, first, count, x, err);
    s->done += count;
    if (s->progress)
      s->progress(s->user, s->done / s->work);
  }
  free(x);
  return ok;
}

/* The heat map: means over repeats. */
static bool map_cells(study *s, ebb_error *err) {
  ebb_row *row = s->row;
  const ebb_sample *sample = s->sample;
  bool ok = true;
#pragma omp parallel for schedule(dynamic)
  for (int cell = 0; cell < s->cells; cell++) {
    ebb_tally t;
    if (ebb_tally_make(&t, sample->groups, sample->n, s->plan->repeats,
                       s->margins + (int64_t)cell * s->plan->repeats * sample->n, sample->label,
                       sample->group, s->plan->fold, NULL)) {
      for (int m = 0; m < EBB_METRICS; m++)
        row->cell[m][cell] = ebb_tally_metric(&t, (ebb_metric)m, NULL);
      ebb_tally_free(&t);
    } else {
#pragma omp atomic write
      ok = false;
    }
  }
  if (!ok)
    return ebb_fail(err, "not enough memory for a probe");
  return true;
}

/* Maximum over cells, then accuracy of the nested choice, under the true labels and each permutation: the
 * same statistic, of the first repeat, so that p compares like with like. */
static bool best_of_cells(study *s, ebb_error *err) {
  ebb_row *row = s->row;
  int64_t columns = 1 + s->permutations;
  double *highest = room((size_t)columns, sizeof *highest, err);
  if (!highest)
    return false;
  for (int64_t k = 0; k < columns; k++)
    for (int cell = 0; cell < s->cells; cell++)
      highest[k] = fmax(highest[k], 0.5 * s->hits[cell * columns + k] / (double)s->sample->n);
  int top = 0;
  for (int cell = 1; cell < s->cells; cell++) /* the first of the highest */
    if (s->hits[cell * columns] > s->hits[top * columns])
      top = cell;
  row->top_step = top / row->block_count;
  row->top_block = top % row->block_count;
  row->top_once = highest[0];
  bool permuted = s->permutations > 0;
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
    s->row->selected[chosen[part] / penalties] += 1.0 / s->parts;
  }
  int most = 0;
  for (int cell = 1; cell < s->cells; cell++)
    if (s->row->selected[cell] > s->row->selected[most] + 1e-9)
      most = cell;
  s->row->chosen_step = most / s->row->block_count;
  s->row->chosen_block = most % s->row->block_count;
}

/* One logistic regression for each part, in its cell, into row->margin. */
static bool fit_chosen(study *s, const int64_t *chosen, ebb_error *err) {
  int penalties = s->parameters.penalty_count;
  int64_t n = s->sample->n;
  float *x = room((size_t)(n * s->row->width), sizeof *x, err);
  double *margin = room((size_t)s->parts * (size_t)n, sizeof *margin, err);
  bool ok = x && margin;
  for (int cell = 0; ok && cell < s->cells; cell++) {
    if (s->row->selected[cell] == 0)
      continue;
    ok = read_cell(s, cell, x, err);
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

typedef struct contrast { /* b NULL: the metric of a */
  const ebb_tally *a, *b;
  ebb_metric metric;
} contrast;

static double contrast_value(const void *user, const double *weight) {
  const contrast *k = user;
  double value = ebb_tally_metric(k->a, k->metric, weight);
  return k->b ? value - ebb_tally_metric(k->b, k->metric, weight) : value;
}

static bool intervals(const ebb_config *config, const ebb_tally *a, const ebb_tally *b, ebb_interval *to,
                      ebb_error *err) {
  for (int m = 0; m < EBB_METRICS; m++) {
    contrast k = {a, b, (ebb_metric)m};
    if (!ebb_bootstrap(a->groups, config->probe.bootstrap, (uint64_t)config->probe.seed, contrast_value, &k,
                       &to[m], err))
      return false;
    ebb_widen(&to[m], (int)config->probe.folds, b ? -1 : 0, 1);
    if (!b)
      ebb_exact_ends(&to[m], a->groups);
  }
  return true;
}

static bool judge(study *s, ebb_tally *tally, ebb_error *err) {
  ebb_row *row = s->row;
  const ebb_sample *sample = s->sample;
  for (int r = 0; r < s->plan->repeats; r++) {
    const double *margin = row->margin + (int64_t)r * sample->n;
    row->balanced_accuracy += ebb_balanced_accuracy(sample->n, margin, sample->label) / s->plan->repeats;
    row->d_prime += ebb_d_prime(sample->n, margin, sample->label) / s->plan->repeats;
  }
  return ebb_tally_make(tally, sample->groups, sample->n, s->plan->repeats, row->margin, sample->label,
                        sample->group, s->plan->fold, err) &&
         intervals(s->config, tally, NULL, row->metric, err);
}

/* ---- a row from beginning to end ---- */

static bool open_row(study *s, const ebb_feature_set *set, ebb_error *err) {
  ebb_row *row = s->row;
  const ebb_feature *feature = &set->features[s->feature];
  snprintf(row->category, sizeof row->category, "%s", s->sample->name);
  snprintf(row->model, sizeof row->model, "%s", set->model);
  snprintf(row->feature, sizeof row->feature, "%s", feature->name);
  row->videos = s->sample->n;
  row->groups = s->sample->groups;
  row->failed = s->sample->failed;
  row->unlabelled = s->sample->unlabelled;
  row->one_sided = s->sample->one_sided;
  row->width = ebb_store_width(feature);
  row->repeats = s->plan->repeats;
  row->step_count = set->step_count;
  row->block_count = feature->by_block ? set->block_count : 1;
  size_t cells = (size_t)ebb_row_cells(row), steps = (size_t)row->step_count,
         blocks = (size_t)row->block_count;
  row->steps = room(steps, sizeof *row->steps, err);
  row->sigmas = room(steps, sizeof *row->sigmas, err);
  row->blocks = feature->by_block ? room(blocks, sizeof *row->blocks, err) : NULL;
  row->selected = room(cells, sizeof *row->selected, err);
  row->video = room((size_t)row->videos, sizeof *row->video, err);
  row->margin = room((size_t)(row->repeats * row->videos), sizeof *row->margin, err);
  for (int m = 0; m < EBB_METRICS; m++)
    row->cell[m] = room(cells, sizeof *row->cell[m], err);
  if (err->text[0])
    return false;
  memcpy(row->video, s->sample->video, (size_t)row->videos * sizeof *row->video);
  memcpy(row->steps, set->steps, steps * sizeof *row->steps);
  memcpy(row->sigmas, set->sigmas, steps * sizeof *row->sigmas);
  if (row->blocks)
    memcpy(row->blocks, set->blocks, blocks * sizeof *row->blocks);
  s->cells = (int)cells;
  s->parts = s->plan->repeats * s->plan->folds;
  s->score = room(cells * (size_t)(s->parts * s->parameters.penalty_count), sizeof *s->score, err);
  s->margins = room(cells * (size_t)(row->repeats * row->videos), sizeof *s->margins, err);
  s->hits = room(cells * (size_t)(1 + s->permutations), sizeof *s->hits, err);
  size_t nested = (size_t)s->plan->folds * (size_t)(1 + s->permutations);
  s->reached = room(nested, sizeof *s->reached, err);
  s->nested_hits = room(nested, sizeof *s->nested_hits, err);
  return s->score && s->margins && s->hits && s->reached && s->nested_hits;
}

static bool study_row(study *s, ebb_tally *tally, ebb_error *err) {
  int64_t *chosen = NULL;
  s->score = s->margins = s->reached = NULL;
  s->hits = s->nested_hits = NULL;
  bool ok = open_row(s, &s->store->sets[s->set], err) && all_cells(s, err) && map_cells(s, err) &&
            best_of_cells(s, err);
  if (ok) {
    chosen = room((size_t)s->parts, sizeof *chosen, err);
    ok = chosen != NULL;
  }
  if (ok)
    choose(s, chosen);
  ok = ok && fit_chosen(s, chosen, err) && judge(s, tally, err);
  free(chosen);
  free(s->score);
  free(s->margins);
  free(s->hits);
  free(s->reached);
  free(s->nested_hits);
  return ok;
}

/* ---- all rows ---- */

static bool wanted(const ebb_config *config, const char *feature) {
  for (int i = 0; i < config->probe.features.count; i++)
    if (strcmp(config->probe.features.names[i], feature) == 0)
      return true;
  return config->probe.features.count <= 0;
}

/* Number of rows of one sample and their cells; every wanted feature must be somewhere. */
static bool plan_rows(const ebb_store *store, const ebb_config *config, int *rows, double *cells,
                      ebb_error *err) {
  char have[512] = "";
  *rows = 0;
  *cells = 0;
  for (int i = 0; i < store->set_count; i++)
    for (int f = 0; f < store->sets[i].feature_count; f++) {
      const ebb_feature_set *set = &store->sets[i];
      const ebb_feature *feature = &set->features[f];
      size_t length = strlen(have);
      if (!strstr(have, feature->name))
        snprintf(have + length, sizeof have - length, "%s%s", length ? ", " : "", feature->name);
      if (wanted(config, feature->name)) {
        ++*rows;
        *cells += set->step_count * (feature->by_block ? set->block_count : 1);
      }
    }
  for (int i = 0; i < config->probe.features.count; i++) {
    bool found = false;
    for (int j = 0; j < store->set_count; j++)
      found = found || ebb_store_feature(&store->sets[j], config->probe.features.names[i]) >= 0;
    if (!found)
      return ebb_fail(err, "%s: probe.features asks for %s; this run has %s", store->dir,
                      config->probe.features.names[i], have);
  }
  return *rows > 0 || ebb_fail(err, "%s: no feature to probe in this run", store->dir);
}

/* The trained model minus every other, feature by feature; its first feature also minus those that have no
 * blocks (the VAE). */
static bool compare(const ebb_config *config, const ebb_row *rows, const ebb_tally *tallies, int count,
                    ebb_results *results, ebb_error *err) {
  const char *trained = ebb_trained_model(rows, count);
  bool first = true;
  for (int a = 0; a < count; a++) {
    if (strcmp(rows[a].model, trained) != 0)
      continue;
    for (int b = 0; b < count; b++) {
      bool same = strcmp(rows[a].feature, rows[b].feature) == 0;
      if (strcmp(rows[b].model, trained) == 0 || !(same || (first && !rows[b].blocks)))
        continue;
      ebb_difference *d = &results->differences[results->difference_count++];
      snprintf(d->category, sizeof d->category, "%s", rows[a].category);
      snprintf(d->model, sizeof d->model, "%s", rows[a].model);
      snprintf(d->feature, sizeof d->feature, "%s", rows[a].feature);
      snprintf(d->other_model, sizeof d->other_model, "%s", rows[b].model);
      snprintf(d->other_feature, sizeof d->other_feature, "%s", rows[b].feature);
      if (!intervals(config, &tallies[a], &tallies[b], d->metric, err))
        return false;
    }
    first = false;
  }
  return true;
}

/* The true labels, then permutations of them within groups. */
static int8_t *label_sets(const ebb_sample *sample, int64_t permutations, uint64_t seed, ebb_error *err) {
  int8_t *labels = room((size_t)((1 + permutations) * sample->n), 1, err);
  if (!labels)
    return NULL;
  memcpy(labels, sample->label, (size_t)sample->n);
  for (int64_t k = 1; k <= permutations; k++)
    if (!ebb_permute_labels(sample->n, sample->groups, sample->group, sample->label, seed, (uint64_t)k,
                            labels + k * sample->n, err)) {
      free(labels);
      return NULL;
    }
  return labels;
}

static bool study_sample(study *s, int rows, ebb_results *results, ebb_error *err) {
  const ebb_config *config = s->config;
  ebb_plan plan;
  if (!ebb_plan_make(&plan, s->sample, results->repeats, results->folds, results->inner_folds,
                     (uint64_t)config->probe.seed, err))
    return false;
  int8_t *labels = label_sets(s->sample, s->permutations, (uint64_t)config->probe.seed, err);
  ebb_tally *tallies = room((size_t)rows, sizeof *tallies, err);
  bool ok = labels && tallies;
  ebb_row *first = results->rows + results->row_count;
  int count = 0;
  s->plan = &plan;
  s->labels = labels;
  for (int i = 0; ok && i < s->store->set_count; i++)
    for (int f = 0; ok && f < s->store->sets[i].feature_count; f++) {
      if (!wanted(config, s->store->sets[i].features[f].name))
        continue;
      s->set = i;
      s->feature = f;
      s->row = &results->rows[results->row_count++];
      ok = study_row(s, &tallies[count++], err);
    }
  ok = ok && compare(config, first, tallies, count, results, err);
  for (int i = 0; tallies && i < count; i++)
    ebb_tally_free(&tallies[i]);
  free(tallies);
  free(labels);
  ebb_plan_free(&plan);
  return ok;
}

bool ebb_study_settings(const ebb_config *config, ebb_error *err) {
  if (strcmp(config->probe.preset, "strict") != 0)
    return ebb_fail(err, "probe.preset: \"%s\" is not known; there is strict", config->probe.preset);
  if (strcmp(config->probe.by, "category") != 0 && strcmp(config->probe.by, "all") != 0)
    return ebb_fail(err, "probe.by: \"%s\" is not known; there are category and all", config->probe.by);
  return true;
}

bool ebb_study_run(const ebb_store *store, const ebb_config *config, ebb_context *c, ebb_progress *progress,
                   void *user, ebb_results *results, ebb_error *err) {
  *results = (ebb_results){.folds = (int)config->probe.folds,
                           .repeats = (int)config->probe.repeats,
                           .inner_folds = (int)config->probe.inner_folds,
                           .bootstrap = config->probe.bootstrap,
                           .permutations = config->probe.permutations,
                           .seed = config->probe.seed};
  snprintf(results->name, sizeof results->name, "%s", config->name);
  if (!ebb_study_settings(config, err))
    return false;
  ebb_sample *samples = NULL;
  int sample_count = 0, rows = 0;
  double cells = 0;
  ebb_error local = {{0}}; /* room() tells by the text alone */
  bool ok = plan_rows(store, config, &rows, &cells, &local) &&
            ebb_samples_make(store, strcmp(config->probe.by, "all") != 0, results->folds,
                             results->inner_folds, &samples, &sample_count, &local);
  if (ok) {
    size_t all = (size_t)rows * (size_t)sample_count;
    results->rows = room(all, sizeof *results->rows, &local);
    results->differences = room(all * (size_t)(rows + 1), sizeof *results->differences, &local);
    ok = results->rows && results->differences;
  }
  study s = {.store = store,
             .config = config,
             .c = c,
             .permutations = config->probe.permutations,
             .parameters = ebb_parameters_default,
             .progress = progress,
             .user = user,
             .work = cells * sample_count};
  for (int i = 0; ok && i < sample_count; i++) {
    s.sample = &samples[i];
    ok = study_sample(&s, rows, results, &local);
  }
  ebb_samples_free(samples, sample_count);
  if (!ok) {
    ebb_fail(err, "%s", local.text);
    ebb_results_free(results);
  }
  return ok;
}

const char *ebb_trained_model(const ebb_row *rows, int count) {
  for (int i = 0; i < count; i++)
    if (strcmp(rows[i].model, "transformer") == 0)
      return rows[i].model;
  for (int i = 0; i < count; i++)
    if (rows[i].blocks)
      return rows[i].model;
  return "";
}

void ebb_results_free(ebb_results *results) {
  for (int i = 0; i < results->row_count; i++) {
    ebb_row *row = &results->rows[i];
    free(row->steps);
    free(row->blocks);
    free(row->sigmas);
    free(row->selected);
    free(row->video);
    free(row->margin);
    for (int m = 0; m < EBB_METRICS; m++)
      free(row->cell[m]);
  }
  free(results->rows);
  free(results->differences);
  json_decref(results->provenance);
  *results = (ebb_results){0};
}
