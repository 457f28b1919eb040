#include "probe/study.h"

#include "probe/protocol.h"

#include <math.h>
#include <string.h>

/* ---- intervals ---- */

typedef struct contrast { /* b NULL: the metric of a */
  const ebb_tally *a, *b;
  ebb_metric metric;
} contrast;

static double contrast_value(const void *user, const double *weight) {
  const contrast *k = user;
  double value = ebb_tally_metric(k->a, k->metric, weight);
  return k->b ? value - ebb_tally_metric(k->b, k->metric, weight) : value;
}

/* Groups that were judged in some repeat. */
static int64_t judged_groups(const ebb_tally *t) {
  int64_t count = 0;
  for (int64_t g = 0; g < t->groups; g++)
    count += t->judged[g] > 0;
  return count;
}

/* Random splits overlap like folds do: a preset's are widened like 5 of them. */
static int widening_folds(const ebb_config *config) {
  return ebb_preset_find(config->probe.preset) ? 5 : (int)config->probe.folds;
}

static bool intervals(const ebb_config *config, const ebb_tally *a, const ebb_tally *b, ebb_interval *to,
                      ebb_error *err) {
  for (int m = 0; m < EBB_METRICS; m++) {
    contrast k = {a, b, (ebb_metric)m};
    if (!ebb_bootstrap(a->groups, config->probe.bootstrap, (uint64_t)config->probe.seed, contrast_value, &k,
                       &to[m], err))
      return false;
    ebb_widen(&to[m], widening_folds(config), b ? -1 : 0, 1);
    if (!b)
      ebb_exact_ends(&to[m], judged_groups(a));
  }
  return true;
}

static bool judge(study *s, ebb_tally *tally, ebb_error *err) {
  ebb_row *row = s->row;
  const ebb_sample *sample = s->sample;
  double *margin = ebb_room((size_t)sample->n, sizeof *margin, err);
  int8_t *label = ebb_room((size_t)sample->n, sizeof *label, err);
  if (!margin || !label) {
    free(margin);
    free(label);
    return false;
  }
  for (int r = 0; r < s->plan->repeats; r++) {
    int64_t judged = 0;
    for (int64_t i = 0; i < sample->n; i++)
      if (s->plan->fold[r * sample->groups + sample->group[i]] >= 0) {
        margin[judged] = row->margin[r * sample->n + i];
        label[judged++] = sample->label[i];
      }
    row->balanced_accuracy += ebb_balanced_accuracy(judged, margin, label) / s->plan->repeats;
    row->d_prime += ebb_d_prime(judged, margin, label) / s->plan->repeats;
  }
  free(margin);
  free(label);
  return ebb_tally_make(tally, sample->groups, sample->n, s->plan->repeats, row->margin, sample->label,
                        sample->group, sample->pair, s->plan->fold, err) &&
         intervals(s->config, tally, NULL, row->metric, err);
}

/* ---- a row from beginning to end ---- */

static bool open_row(study *s, const ebb_feature_set *set, ebb_error *err) {
  ebb_row *row = s->row;
  const ebb_feature *feature = &set->features[s->feature];
  snprintf(row->category, sizeof row->category, "%s", s->sample->name);
  snprintf(row->model, sizeof row->model, "%s", set->model);
  snprintf(row->feature, sizeof row->feature, "%s%s", feature->name, s->by_head ? EBB_OF_A_HEAD : "");
  row->videos = s->sample->n;
  row->groups = s->sample->groups;
  row->failed = s->sample->failed;
  row->unlabelled = s->sample->unlabelled;
  row->one_sided = s->sample->one_sided;
  row->by_head = s->by_head;
  const int64_t heads = s->by_head ? ebb_store_heads(feature) : 1,
                of_blocks = feature->by_block ? set->block_count : 1;
  if (!ebb_cells_fit(set->step_count, of_blocks, heads))
    return ebb_fail(err,
                    "%s: %s of %s: %d steps x %lld blocks x %lld heads: expected at most %d cells; "
                    "probe.heads: joined, fewer capture.steps or capture.blocks make them fewer",
                    s->store->dir, row->feature, set->model, set->step_count, (long long)of_blocks,
                    (long long)heads, EBB_MOST_CELLS);
  row->head_count = (int)heads;
  row->width = ebb_store_width(feature) / row->head_count;
  row->repeats = s->plan->repeats;
  row->step_count = set->step_count;
  row->block_count = feature->by_block ? set->block_count : 1;
  size_t cells = (size_t)ebb_row_cells(row), steps = (size_t)row->step_count,
         blocks = (size_t)row->block_count;
  row->steps = ebb_room(steps, sizeof *row->steps, err);
  row->sigmas = ebb_room(steps, sizeof *row->sigmas, err);
  row->blocks = feature->by_block ? ebb_room(blocks, sizeof *row->blocks, err) : NULL;
  row->selected = ebb_room(cells, sizeof *row->selected, err);
  row->video = ebb_room((size_t)row->videos, sizeof *row->video, err);
  size_t judged = (size_t)(row->repeats * row->videos), fits = (size_t)(row->repeats * s->plan->folds);
  row->folds = s->plan->folds;
  row->margin = ebb_room(judged, sizeof *row->margin, err);
  row->fold = ebb_room(judged, sizeof *row->fold, err);
  row->fit_cell = ebb_room(fits, sizeof *row->fit_cell, err);
  row->fit_penalty = ebb_room(fits, sizeof *row->fit_penalty, err);
  for (int m = 0; m < EBB_METRICS; m++)
    row->cell[m] = ebb_room(cells, sizeof *row->cell[m], err);
  row->cell_p = ebb_room(cells, sizeof *row->cell_p, err);
  if (err->text[0])
    return false;
  memcpy(row->video, s->sample->video, (size_t)row->videos * sizeof *row->video);
  for (int64_t i = 0; i < row->repeats * row->videos; i++)
    row->fold[i] = s->plan->fold[i / row->videos * s->sample->groups + s->sample->group[i % row->videos]];
  memcpy(row->steps, set->steps, steps * sizeof *row->steps);
  memcpy(row->sigmas, set->sigmas, steps * sizeof *row->sigmas);
  if (row->blocks)
    memcpy(row->blocks, set->blocks, blocks * sizeof *row->blocks);
  s->cells = (int)cells;
  s->parts = s->plan->repeats * s->plan->folds;
  s->score = ebb_room(cells * (size_t)(s->parts * s->parameters.penalty_count), sizeof *s->score, err);
  s->margins = ebb_room(cells * (size_t)(row->repeats * row->videos), sizeof *s->margins, err);
  s->hits = ebb_room(cells * (size_t)(1 + s->permutations), sizeof *s->hits, err);
  size_t nested = (size_t)s->plan->folds * (size_t)(1 + s->permutations);
  s->reached = ebb_room(nested, sizeof *s->reached, err);
  s->nested_hits = ebb_room(nested, sizeof *s->nested_hits, err);
  return s->score && s->margins && s->hits && s->reached && s->nested_hits;
}

static bool study_row(study *s, ebb_tally *tally, ebb_error *err) {
  s->score = s->margins = s->reached = NULL;
  s->hits = s->nested_hits = NULL;
  bool ok = open_row(s, &s->store->sets[s->set], err) &&
            (s->preset ? ebb_preset_row(s, err) : ebb_strict_row(s, err)) && judge(s, tally, err);
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

/* Whether a feature has a row with its heads joined, or all there is without heads; and one with each head a
 * cell. */
static bool has_row(const ebb_config *config, const ebb_feature *feature, bool by_head) {
  const char *unwanted = by_head ? "joined" : "each";
  return wanted(config, feature->name) &&
         (feature->by_head ? strcmp(config->probe.heads, unwanted) != 0 : !by_head);
}

/* Number of rows of one sample and their cells; every wanted feature must be somewhere. */
static bool plan_rows(const ebb_store *store, const ebb_config *config, int *rows, double *cells,
                      ebb_error *err) {
  char have[512] = "";
  int by_head = 0;
  *rows = 0;
  *cells = 0;
  for (int i = 0; i < store->set_count; i++)
    for (int f = 0; f < store->sets[i].feature_count; f++) {
      const ebb_feature_set *set = &store->sets[i];
      const ebb_feature *feature = &set->features[f];
      size_t length = strlen(have);
      if (!strstr(have, feature->name))
        snprintf(have + length, sizeof have - length, "%s%s", length ? ", " : "", feature->name);
      for (int heads = 0; heads < 2; heads++)
        if (has_row(config, feature, heads)) {
          ++*rows;
          by_head += heads;
          *cells += (double)set->step_count * (feature->by_block ? set->block_count : 1) *
                    (heads ? (double)ebb_store_heads(feature) : 1);
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
  if (by_head == 0 && strcmp(config->probe.heads, "joined") != 0)
    return ebb_fail(err, "%s: probe.heads is %s, but no probed feature has heads: %s", store->dir,
                    config->probe.heads, have);
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
  int8_t *labels = ebb_room((size_t)((1 + permutations) * sample->n), 1, err);
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
  uint64_t seed = (uint64_t)config->probe.seed;
  if (!(s->preset ? ebb_plan_split(&plan, s->sample, results->repeats, s->preset->test, s->preset->validation,
                                   seed, err)
                  : ebb_plan_make(&plan, s->sample, results->repeats, results->folds, results->inner_folds,
                                  seed, err)))
    return false;
  int8_t *labels = label_sets(s->sample, s->permutations, (uint64_t)config->probe.seed, err);
  ebb_tally *tallies = ebb_room((size_t)rows, sizeof *tallies, err);
  bool ok = labels && tallies;
  ebb_row *first = results->rows + results->row_count;
  int count = 0;
  s->plan = &plan;
  s->labels = labels;
  for (int i = 0; ok && i < s->store->set_count; i++)
    for (int f = 0; ok && f < s->store->sets[i].feature_count; f++)
      for (int heads = 0; ok && heads < 2; heads++) {
        if (!has_row(config, &s->store->sets[i].features[f], heads))
          continue;
        s->set = i;
        s->feature = f;
        s->by_head = heads;
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
  const char *preset = config->probe.preset;
  if (strcmp(preset, "strict") != 0 && !ebb_preset_find(preset))
    return ebb_fail(err, "probe.preset: \"%s\" is not known; there are strict, referee, released and paper",
                    preset);
  if (config->probe.allow_leak && strcmp(preset, "referee") != 0)
    return ebb_fail(
        err,
        "probe.allow_leak (--allow-leak) splits by video where a protocol of others asks for it: of the "
        "presets for plausibility referee does; %s splits by group",
        preset);
  if (strcmp(config->probe.by, "category") != 0 && strcmp(config->probe.by, "all") != 0)
    return ebb_fail(err, "probe.by: \"%s\" is not known; there are category and all", config->probe.by);
  const char *heads = config->probe.heads;
  if (strcmp(heads, "joined") != 0 && strcmp(heads, "each") != 0 && strcmp(heads, "both") != 0)
    return ebb_fail(err, "probe.heads: \"%s\" is not known; there are joined, each and both", heads);
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
  snprintf(results->preset, sizeof results->preset, "%s", config->probe.preset);
  if (!ebb_study_settings(config, err))
    return false;
  const ebb_preset *preset = ebb_preset_find(config->probe.preset);
  if (preset) { /* a random split a repeat, no labels permuted */
    ebb_config used = *config;
    ebb_preset_settings(&used, results->not_used, sizeof results->not_used);
    results->folds = results->inner_folds = 1;
    results->permutations = 0;
    results->by_video = config->probe.allow_leak;
  }
  ebb_sample *samples = NULL;
  int sample_count = 0, rows = 0;
  double cells = 0;
  ebb_error local = {{0}}; /* ebb_room() tells by the text alone */
  bool ok = plan_rows(store, config, &rows, &cells, &local) &&
            ebb_samples_make(store, strcmp(config->probe.by, "all") != 0, preset ? 2 : results->folds,
                             preset ? 2 : results->inner_folds, &samples, &sample_count, &local);
  if (ok) {
    size_t all = (size_t)rows * (size_t)sample_count;
    results->rows = ebb_room(all, sizeof *results->rows, &local);
    results->differences = ebb_room(all * (size_t)(rows + 1), sizeof *results->differences, &local);
    ok = results->rows && results->differences;
  }
  study s = {.store = store,
             .config = config,
             .c = c,
             .preset = preset,
             .permutations = results->permutations,
             .parameters = ebb_parameters_default,
             .progress = progress,
             .user = user,
             .work = cells * sample_count};
  for (int i = 0; ok && i < sample_count; i++) {
    if (results->by_video)
      ebb_sample_ungroup(&samples[i], store);
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
    free(row->fold);
    free(row->fit_cell);
    free(row->fit_penalty);
    free(row->cell_p);
    free(row->step_mean);
    free(row->step_error);
    free(row->cell_margins);
    for (int m = 0; m < EBB_METRICS; m++)
      free(row->cell[m]);
  }
  free(results->rows);
  free(results->differences);
  json_decref(results->provenance);
  *results = (ebb_results){0};
}
