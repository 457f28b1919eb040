#include "probe/regress.h"

#include "loaders/file.h"
#include "probe/protocol.h"
#include "probe/regress_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const ebb_error_names[EBB_ERRORS] = {"r2", "mae", "mse"};

bool ebb_regress_wanted(const ebb_config *config) {
  const ebb_name_list *t = &config->probe.target;
  return t->count > 0 && !(t->count == 1 && strcmp(t->names[0], "plausible") == 0);
}

static bool released(const ebb_config *config) {
  return strcmp(config->probe.preset, "released") == 0;
}

bool ebb_regress_settings(const ebb_config *config, ebb_error *err) {
  const ebb_name_list *t = &config->probe.target;
  if (!released(config) && strcmp(config->probe.preset, "strict") != 0)
    return ebb_fail(err, "probe.preset: \"%s\" has no regression; there are strict and released",
                    config->probe.preset);
  if (strcmp(config->probe.by, "category") != 0 && strcmp(config->probe.by, "all") != 0)
    return ebb_fail(err, "probe.by: \"%s\" is not known; there are category and all", config->probe.by);
  if (strcmp(config->probe.heads, "joined") != 0)
    return ebb_fail(err, "probe.heads is %s: regression takes heads joined", config->probe.heads);
  if (config->probe.allow_leak && !released(config))
    return ebb_fail(err,
                    "probe.allow_leak (--allow-leak) is for the preset released: strict splits by group");
  for (int i = 0; i < t->count; i++)
    if (strcmp(t->names[i], "plausible") == 0)
      return ebb_fail(err,
                      "probe.target: plausible stands among targets of regression; they are probed apart");
  return true;
}

/* ---- what protocols ask for ---------------------------------------------------------------------------- */

bool ebb_regress_read(const regression *r, const ebb_regression *row, int cell, float *x, ebb_error *err) {
  int step = cell / row->block_count, block = cell % row->block_count;
  const ebb_sample *s = r->sample;
  if (!ebb_store_gather(r->store, r->set, r->feature, step, block, EBB_ALL_HEADS, s->n, s->video, x, err))
    return false;
  for (int64_t i = 0; i < s->n * row->width; i++)
    if (!isfinite(x[i]))
      return ebb_fail(err, "%s: %s of %s at step %d is not finite for video %s", r->store->dir, row->feature,
                      row->model, row->steps[step], r->store->videos[s->video[i / row->width]].id);
  return true;
}

void ebb_regress_progress(regression *r, double cells) {
  r->done += cells;
  if (r->progress)
    r->progress(r->user, r->done / r->work);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static void *copied(const void *from, size_t bytes, ebb_error *err) {
  void *to = ebb_room(bytes, 1, err);
  if (to)
    memcpy(to, from, bytes);
  return to;
}

static bool open_row(const regression *r, const ebb_regressions *results, int target, bool partial,
                     ebb_regression *row, ebb_error *err) {
  const ebb_feature_set *set = &r->store->sets[r->set];
  const ebb_feature *feature = &set->features[r->feature];
  snprintf(row->category, sizeof row->category, "%s", r->sample->name);
  snprintf(row->model, sizeof row->model, "%s", set->model);
  snprintf(row->feature, sizeof row->feature, "%s", feature->name);
  snprintf(row->target, sizeof row->target, "%s", results->targets[target]);
  row->partial = partial;
  row->videos = r->sample->n;
  row->groups = r->sample->groups;
  row->failed = r->sample->failed;
  row->missing = r->sample->missing;
  row->width = ebb_store_width(feature);
  row->repeats = results->repeats;
  row->step_count = set->step_count;
  row->block_count = feature->by_block ? set->block_count : 1;
  if (!ebb_cells_fit(row->step_count, row->block_count, 1))
    return ebb_fail(err, "%s: %d steps x %d blocks: expected at most %d cells", r->store->dir,
                    row->step_count, row->block_count, EBB_MOST_CELLS);
  size_t cells = (size_t)ebb_regression_cells(row), judged = (size_t)(row->repeats * row->videos);
  row->steps = copied(set->steps, (size_t)row->step_count * sizeof *row->steps, err);
  row->sigmas = copied(set->sigmas, (size_t)row->step_count * sizeof *row->sigmas, err);
  row->blocks =
      feature->by_block ? copied(set->blocks, (size_t)row->block_count * sizeof *row->blocks, err) : NULL;
  row->video = copied(r->sample->video, (size_t)row->videos * sizeof *row->video, err);
  row->selected = ebb_room(cells, sizeof *row->selected, err);
  row->cell_p = ebb_room(cells, sizeof *row->cell_p, err);
  row->truth = ebb_room(judged, sizeof *row->truth, err);
  row->prediction = ebb_room(judged, sizeof *row->prediction, err);
  for (int e = 0; e < EBB_ERRORS; e++)
    row->cell[e] = ebb_room(cells, sizeof *row->cell[e], err);
  if (err->text[0])
    return false;
  for (size_t i = 0; i < judged; i++)
    row->truth[i] = row->prediction[i] = NAN;
  return true;
}

static bool wanted(const ebb_config *config, const char *feature) {
  for (int i = 0; i < config->probe.features.count; i++)
    if (strcmp(config->probe.features.names[i], feature) == 0)
      return true;
  return config->probe.features.count <= 0;
}

/* All rows of one feature. */
static bool study_feature(regression *r, ebb_regressions *results, ebb_error *err) {
  int first = results->row_count, kinds = results->target_count > 1 && !released(r->config) ? 2 : 1;
  for (int t = 0; t < results->target_count; t++)
    for (int partial = 0; partial < kinds; partial++) {
      ebb_regression *row = &results->rows[results->row_count++];
      if (!open_row(r, results, t, partial, row, err))
        return false;
      if (!released(r->config) && !ebb_regress_strict(r, t, row, err))
        return false;
    }
  return !released(r->config) || ebb_regress_released(r, results->rows + first, err);
}

static bool study_sample(regression *r, ebb_regressions *results, ebb_error *err) {
  ebb_plan plan = {0};
  const ebb_config *k = r->config;
  if (released(k)) {
    if (ebb_sample_grouped(r->sample) && !k->probe.allow_leak)
      return ebb_fail(
          err,
          "%s: the preset released splits by video, and %lld videos are in %lld groups here, so that "
          "videos of one group would be trained on and judged: --allow-leak (probe.allow_leak) does it "
          "all the same, the preset strict splits by group",
          r->sample->name, (long long)r->sample->n, (long long)r->sample->groups);
    results->by_video = results->by_video || ebb_sample_grouped(r->sample);
  } else if (!ebb_plan_make(&plan, r->sample, results->repeats, results->folds, results->inner_folds,
                            (uint64_t)k->probe.seed, err))
    return false;
  r->plan = &plan;
  bool ok = true;
  for (r->set = 0; ok && r->set < r->store->set_count; r->set++)
    for (r->feature = 0; ok && r->feature < r->store->sets[r->set].feature_count; r->feature++)
      if (wanted(k, r->store->sets[r->set].features[r->feature].name))
        ok = study_feature(r, results, err);
  ebb_plan_free(&plan);
  return ok;
}

/* ---- the study ----------------------------------------------------------------------------------------- */

bool ebb_regress_targets(const ebb_store *store, const ebb_config *config, int *number, ebb_error *err) {
  for (int i = 0; i < config->probe.target.count; i++) {
    const char *name = config->probe.target.names[i];
    number[i] = -1;
    for (int t = 0; t < store->target_count; t++)
      if (strcmp(store->target_names[t], name) == 0)
        number[i] = t;
    if (number[i] >= 0)
      continue;
    ebb_fail(err, "%s: no video has the target %s; targets of this run:%s", store->dir, name,
             store->target_count ? "" : " none (a data set without targets)");
    for (int t = 0; t < store->target_count; t++)
      ebb_fail_also(err, "%s %s", t ? "," : "", store->target_names[t]);
    return false;
  }
  return true;
}

static bool find_targets(const ebb_store *store, const ebb_config *config, ebb_regressions *results,
                         int *number, ebb_error *err) {
  if (!ebb_regress_targets(store, config, number, err))
    return false;
  for (int i = 0; i < config->probe.target.count; i++)
    snprintf(results->targets[results->target_count++], EBB_TARGET_NAME, "%s",
             store->target_names[number[i]]);
  return true;
}

/* Features wanted, and cells of a sample. */
static bool count_work(const ebb_store *store, const ebb_config *config, int *features, double *cells,
                       ebb_error *err) {
  char have[512] = "";
  for (int i = 0; i < store->set_count; i++)
    for (int f = 0; f < store->sets[i].feature_count; f++) {
      const ebb_feature *feature = &store->sets[i].features[f];
      size_t length = strlen(have);
      if (!strstr(have, feature->name))
        snprintf(have + length, sizeof have - length, "%s%s", length ? ", " : "", feature->name);
      if (!wanted(config, feature->name))
        continue;
      ++*features;
      *cells += (double)store->sets[i].step_count * (feature->by_block ? store->sets[i].block_count : 1);
    }
  return *features > 0 ||
         ebb_fail(err, "%s: no feature to probe (probe.features); this run has %s", store->dir, have);
}

bool ebb_regress_study(const ebb_store *store, const ebb_config *config, ebb_context *c, const char *dir,
                       ebb_progress *progress, void *user, ebb_regressions *results, ebb_error *err) {
  *results = (ebb_regressions){.folds = (int)config->probe.folds,
                               .repeats = (int)config->probe.repeats,
                               .inner_folds = (int)config->probe.inner_folds,
                               .bootstrap = config->probe.bootstrap,
                               .permutations = released(config) ? 0 : config->probe.permutations,
                               .seed = config->probe.seed};
  snprintf(results->name, sizeof results->name, "%s", config->name);
  snprintf(results->preset, sizeof results->preset, "%s", config->probe.preset);
  int number[EBB_TARGETS_MAX], sample_count = 0, features = 0;
  double cells = 0;
  ebb_sample *samples = NULL;
  ebb_error local = {{0}};     /* ebb_room() tells by the text alone */
  bool one = released(config); /* a single random split needs no folds */
  bool ok = ebb_regress_settings(config, &local) && find_targets(store, config, results, number, &local) &&
            count_work(store, config, &features, &cells, &local) &&
            ebb_samples_targets(store, strcmp(config->probe.by, "all") != 0, one ? 2 : results->folds,
                                one ? 2 : results->inner_folds, number, results->target_count, &samples,
                                &sample_count, &local);
  int kinds = results->target_count > 1 ? 2 : 1;
  if (ok) {
    size_t rows = (size_t)(features * sample_count * results->target_count * kinds);
    results->rows = ebb_room(rows, sizeof *results->rows, &local);
    ok = results->rows != NULL;
  }
  regression r = {.store = store,
                  .config = config,
                  .c = c,
                  .dir = dir,
                  .target_count = results->target_count,
                  .permutations = results->permutations,
                  .progress = progress,
                  .user = user,
                  .work = cells * sample_count * (one ? 1 : results->target_count * kinds)};
  for (int i = 0; ok && i < sample_count; i++) {
    r.sample = &samples[i];
    ok = study_sample(&r, results, &local);
  }
  ebb_samples_free(samples, sample_count);
  if (!ok) {
    ebb_fail(err, "%s", local.text);
    ebb_regressions_free(results);
  }
  return ok;
}

void ebb_regressions_free(ebb_regressions *results) {
  for (int i = 0; i < results->row_count; i++) {
    ebb_regression *row = &results->rows[i];
    free(row->steps);
    free(row->blocks);
    free(row->sigmas);
    free(row->selected);
    free(row->cell_p);
    free(row->video);
    free(row->truth);
    free(row->prediction);
    free(row->step_mean);
    free(row->step_error);
    for (int e = 0; e < EBB_ERRORS; e++)
      free(row->cell[e]);
  }
  free(results->rows);
  json_decref(results->provenance);
  *results = (ebb_regressions){0};
}

bool ebb_regress_run(const char *run_dir, const ebb_config *config, ebb_context *c, ebb_progress *progress,
                     void *user, FILE *table, ebb_error *err) {
  ebb_store store = {0};
  ebb_regressions results = {0};
  if (!ebb_regress_settings(config, err) || !ebb_store_open(&store, run_dir, err))
    return false;
  char *dir = ebb_path_join(run_dir, "regress");
  bool ok = ebb_regress_study(&store, config, c, dir, progress, user, &results, err);
  if (ok) {
    results.provenance = ebb_probe_provenance(&store, config);
    ok = ebb_make_folders(dir, err) && ebb_regressions_write(&results, &store, dir, err);
  }
  if (ok && table)
    ebb_regressions_print(&results, table);
  ebb_regressions_free(&results);
  ebb_store_close(&store);
  free(dir);
  return ok;
}
