#include "probe/crossfit.h"

#include "loaders/file.h"
#include "probe/presets.h"
#include "probe/protocol.h"
#include "probe/sample.h"
#include "probe/study.h"

#include <math.h>
#include <string.h>

/* One sample being fitted. */
typedef struct fitting {
  ebb_crossfit *f;
  const ebb_store *store;
  const ebb_config *config;
  const ebb_preset *preset; /* NULL: strict */
  ebb_context *c;
  const ebb_sample *sample;
  ebb_plan plan;
  int first; /* of the fits, one a part of the plan */
  float *x;  /* [n, width] of the cell at hand */
} fitting;

static int64_t cell_of(const ebb_crossfit *f, int fit, int step, int block) {
  return ((int64_t)fit * f->step_count + step) * f->block_count + block;
}

static ebb_problem problem_of(const fitting *g, int part) {
  const ebb_part *p = &g->plan.part[part];
  return (ebb_problem){.n = g->sample->n,
                       .d = g->f->width,
                       .x = g->x,
                       .columns = 1,
                       .labels = g->sample->label,
                       .train_count = p->train_count,
                       .test_count = p->test_count,
                       .train = p->train,
                       .test = p->test,
                       .inner_folds = g->plan.inner_folds,
                       .inner = p->inner,
                       .validation_count = p->validation_count,
                       .validation = p->validation};
}

/* Ridge's inner folds choose the penalty of every fold, logistic regression is fitted at it. */
static bool fit_strict(fitting *g, int step, int block, ebb_error *err) {
  ebb_crossfit *f = g->f;
  ebb_parameters parameters = ebb_parameters_default;
  const int parts = g->plan.folds, penalties = parameters.penalty_count;
  ebb_problem *problem = ebb_room((size_t)parts, sizeof *problem, err);
  ebb_ridge_fit *ridge = ebb_room((size_t)parts, sizeof *ridge, err);
  double *score = ebb_room((size_t)(parts * penalties), sizeof *score, err);
  bool ok = problem && ridge && score;
  for (int part = 0; ok && part < parts; part++) {
    problem[part] = problem_of(g, part);
    ridge[part].score = score + part * penalties;
  }
  ok = ok && ebb_ridge_batch(g->c, parts, problem, &parameters, ridge, err);
  for (int part = 0; ok && part < parts; part++) {
    const int64_t cell = cell_of(f, g->first + part, step, block);
    int best = 0;
    for (int p = 1; p < penalties; p++)
      if (score[part * penalties + p] > score[part * penalties + best])
        best = p;
    ebb_parameters at = parameters;
    at.penalty_count = 1;
    at.penalties = parameters.penalties + best;
    ebb_logistic_fit fit = {.weights = f->weights + cell * (f->width + 1)};
    f->score[cell] = score[part * penalties + best];
    ok = ebb_logistic_batch(g->c, 1, &problem[part], &at, &fit, err);
  }
  free(problem);
  free(ridge);
  free(score);
  return ok;
}

/* The training of a preset, on its first split. */
static bool fit_preset(fitting *g, int step, int block, ebb_error *err) {
  ebb_crossfit *f = g->f;
  const int64_t cell = cell_of(f, g->first, step, block);
  ebb_training training = g->preset->training;
  ebb_problem problem = problem_of(g, 0);
  double *margin = ebb_room((size_t)problem.test_count, sizeof *margin, err), right = 0;
  ebb_adam_fit fit = {.margins = margin, .weights = f->weights + cell * (f->width + 1)};
  training.seed = (uint64_t)g->config->probe.seed;
  problem.start = (uint64_t)(step * f->block_count + block);
  bool ok = margin && ebb_adam_batch(g->c, 1, &problem, &training, &fit, err);
  for (int64_t i = 0; ok && i < problem.test_count; i++) {
    const double agreed = margin[i] * g->sample->label[problem.test[i]];
    right += agreed > 0 ? 1 : agreed == 0 ? 0.5 : 0;
  }
  if (ok)
    f->score[cell] = g->preset->choose_on_test ? right / (double)problem.test_count : fit.accuracy;
  free(margin);
  return ok;
}

static bool fit_cells(fitting *g, ebb_error *err) {
  ebb_crossfit *f = g->f;
  const ebb_feature_set *set = &g->store->sets[f->set];
  const int64_t n = g->sample->n;
  for (int s = 0; s < f->step_count; s++) {
    int step = 0;
    while (set->steps[step] != f->step[s])
      step++;
    for (int b = 0; b < f->block_count; b++) {
      if (!ebb_store_gather(g->store, f->set, f->feature, step, b, EBB_ALL_HEADS, n, g->sample->video, g->x,
                            err))
        return false;
      for (int64_t i = 0; i < n * f->width; i++)
        if (!isfinite(g->x[i]))
          return ebb_fail(err, "%s: step %d, block %d of video %s is not finite", g->store->dir, f->step[s],
                          f->block[b], g->store->videos[g->sample->video[i / f->width]].id);
      if (!(g->preset ? fit_preset(g, s, b, err) : fit_strict(g, s, b, err)))
        return false;
    }
  }
  return true;
}

/* Which fit of this sample reads each video: that of the fold that holds it out, or the only one. */
static void say_who_reads(const fitting *g) {
  for (int part = 0; part < g->plan.folds; part++) {
    const ebb_part *p = &g->plan.part[part];
    for (int64_t i = 0; i < p->test_count; i++)
      g->f->fit[g->sample->video[p->test[i]]] = g->first + part;
    for (int64_t i = 0; g->preset && i < p->validation_count; i++)
      g->f->fit[g->sample->video[p->validation[i]]] = g->first + part;
    for (int64_t i = 0; g->preset && i < p->train_count; i++) {
      g->f->fit[g->sample->video[p->train[i]]] = g->first + part;
      g->f->trained[g->sample->video[p->train[i]]] = true;
    }
  }
}

static bool fit_sample(fitting *g, ebb_error *err) {
  const ebb_config *k = g->config;
  const uint64_t seed = (uint64_t)k->probe.seed;
  if (!(g->preset ? ebb_plan_split(&g->plan, g->sample, 1, g->preset->test, g->preset->validation, seed, err)
                  : ebb_plan_make(&g->plan, g->sample, 1, (int)k->probe.folds, (int)k->probe.inner_folds,
                                  seed, err)))
    return false;
  g->x = ebb_room((size_t)(g->sample->n * g->f->width), sizeof *g->x, err);
  bool ok = g->x && fit_cells(g, err);
  if (ok)
    say_who_reads(g);
  free(g->x);
  ebb_plan_free(&g->plan);
  return ok;
}

/* Finds model, feature and steps, and takes memory for `fits`. */
static bool lay_out(ebb_crossfit *f, const ebb_store *store, const char *model, const char *feature,
                    const ebb_int_list *steps, int fits, ebb_error *err) {
  f->set = ebb_store_find(store, model);
  if (f->set < 0)
    return ebb_fail(err, "%s: this run has no features of '%s'", store->dir, model);
  const ebb_feature_set *set = &store->sets[f->set];
  f->feature = ebb_store_feature(set, feature);
  if (f->feature < 0 || !set->features[f->feature].by_block || set->features[f->feature].by_head)
    return ebb_fail(err, "%s: '%s' of '%s' is not a feature of blocks that this run has", store->dir, feature,
                    model);
  *f = (ebb_crossfit){.set = f->set,
                      .feature = f->feature,
                      .step_count = steps->count,
                      .block_count = set->block_count,
                      .width = ebb_store_width(&set->features[f->feature]),
                      .videos = store->video_count,
                      .fits = fits};
  const size_t cells = (size_t)fits * (size_t)f->step_count * (size_t)f->block_count;
  f->step = ebb_room((size_t)f->step_count, sizeof *f->step, err);
  f->block = ebb_room((size_t)f->block_count, sizeof *f->block, err);
  f->fit = ebb_room((size_t)f->videos, sizeof *f->fit, err);
  f->trained = ebb_room((size_t)f->videos, sizeof *f->trained, err);
  f->weights = ebb_room(cells * (size_t)(f->width + 1), sizeof *f->weights, err);
  f->score = ebb_room(cells, sizeof *f->score, err);
  if (!f->step || !f->block || !f->fit || !f->trained || !f->weights || !f->score)
    return false;
  memcpy(f->block, set->blocks, (size_t)f->block_count * sizeof *f->block);
  for (int64_t v = 0; v < f->videos; v++)
    f->fit[v] = -1;
  for (int s = 0; s < steps->count; s++) {
    int at = 0;
    while (at < set->step_count && set->steps[at] != steps->values[s])
      at++;
    if (at == set->step_count)
      return ebb_fail(err, "%s: step %lld was not captured in this run", store->dir,
                      (long long)steps->values[s]);
    f->step[s] = (int)steps->values[s];
  }
  return true;
}

static void hash(ebb_crossfit *f) {
  char both[2][65];
  ebb_sha256(f->weights, (size_t)cell_of(f, f->fits, 0, 0) * (size_t)(f->width + 1) * sizeof *f->weights,
             both[0]);
  ebb_sha256(f->fit, (size_t)f->videos * sizeof *f->fit, both[1]);
  ebb_sha256(both, sizeof both, f->sha256);
}

bool ebb_crossfit_make(ebb_crossfit *f, const ebb_store *store, const ebb_config *config, const char *model,
                       const char *feature, const ebb_int_list *steps, ebb_context *c, ebb_error *err) {
  *f = (ebb_crossfit){0};
  if (!ebb_study_settings(config, err))
    return false;
  fitting g = {.f = f, .store = store, .config = config, .c = c};
  g.preset = ebb_preset_find(config->probe.preset);
  const int folds = g.preset ? 2 : (int)config->probe.folds,
            inner = g.preset ? 2 : (int)config->probe.inner_folds;
  const int each = g.preset ? 1 : folds;
  ebb_sample *samples = NULL;
  int count = 0;
  ebb_error local = {0};
  bool ok =
      ebb_samples_make(store, strcmp(config->probe.by, "all") != 0, folds, inner, &samples, &count, &local) &&
      lay_out(f, store, model, feature, steps, each * count, &local);
  for (int i = 0; ok && i < count; i++) {
    g.sample = &samples[i];
    g.first = i * each;
    ok = fit_sample(&g, &local);
  }
  ebb_samples_free(samples, count);
  if (ok) {
    hash(f);
    return true;
  }
  ebb_crossfit_free(f);
  return ebb_fail(err, "%s", local.text);
}

void ebb_crossfit_free(ebb_crossfit *f) {
  free(f->step);
  free(f->block);
  free(f->fit);
  free(f->trained);
  free(f->weights);
  free(f->score);
  *f = (ebb_crossfit){0};
}

const double *ebb_crossfit_weights(const ebb_crossfit *f, int64_t video, int step, int block) {
  return f->weights + cell_of(f, f->fit[video], step, block) * (f->width + 1);
}

double ebb_crossfit_surprise(const ebb_crossfit *f, int64_t video, int step, int block, const float *x) {
  const double *w = ebb_crossfit_weights(f, video, step, block);
  double margin = w[f->width];
  for (int64_t i = 0; i < f->width; i++)
    margin += w[i] * (double)x[i];
  return -margin;
}

int ebb_crossfit_best_block(const ebb_crossfit *f, int64_t video) {
  int best = 0;
  double most = -INFINITY;
  for (int b = 0; b < f->block_count; b++) {
    double sum = 0;
    for (int s = 0; s < f->step_count; s++)
      sum += f->score[cell_of(f, f->fit[video], s, b)];
    if (sum > most) {
      most = sum;
      best = b;
    }
  }
  return best;
}
