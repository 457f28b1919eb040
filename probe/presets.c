#include "probe/presets.h"

#include "probe/protocol.h"

#include <math.h>
#include <string.h>

static const char *const referee_defects[] = {
    "known defects: a tenth of the groups is tested, so that a seed's accuracy is of a few videos; seeds",
    "share groups, so that they do not add up like independent tests; the cell is chosen on as few videos",
    "as are tested. Split by group, not by video as the text has it.", NULL};
static const char *const released_defects[] = {
    "known defects: the best cell is looked up on the very test videos it is reported on, as high as flr",
    "with nothing to find; no early stopping, the last epoch counts; features are not scaled, so that the",
    "strength of a probe depends on the scale of its block; seeds share groups.", NULL};

static const char *const paper_defects[] = {
    "known defects: the best block of each seed is looked up on the very test videos it is reported on,",
    "as high as flr with nothing to find; the standard error over seeds is of splits that overlap, and",
    "says too little; no early stopping; features are not scaled.", NULL};

static const ebb_preset presets[] = {
    {.name = "referee",
     .test = 0.1,
     .validation = 0.1,
     .training = {.rate = 1e-3,
                  .decay = 0.01,
                  .batch = 64,
                  .epochs = 50,
                  .patience = 5,
                  .outputs = 1,
                  .standardise = true},
     .method =
         "accuracy, auc, pairwise: preset referee: linear layer, Adam 1e-3, L2 0.01, batch 64, at most 50 "
         "epochs, the epoch of the highest validation accuracy (patience 5), groups split 80/10/10 "
         "anew for each seed, features standardised on training videos; the cell of the highest "
         "validation accuracy is reported on the test videos. cells: test accuracy of every cell, mean "
         "over seeds; top: best cell of the first seed on its test videos. Known defects: few test "
         "videos a seed, seeds share groups, the cell is chosen on few validation videos.",
     .defect = referee_defects},
    {.name = "released",
     .test = 0.2,
     .choose_on_test = true,
     .training = {.rate = 1e-3, .batch = 32, .epochs = 50, .outputs = 2, .start = 1},
     .method = "accuracy, auc, pairwise: preset released: linear layer of two outputs, Adam 1e-3, batch 32, "
               "the last of 50 epochs, groups split 80/20 anew for each seed, features as they are. cells: "
               "test accuracy of every cell, mean over seeds; top: best cell of the first seed. Known "
               "defects: the test videos are the validation videos, the best cell of each seed is chosen on "
               "the test videos it is reported on, no early stopping, no scaling of features, seeds share "
               "groups.",
     .defect = released_defects},
    {.name = "paper",
     .test = 0.4,
     .choose_on_test = true,
     .training = {.rate = 1e-3, .batch = 32, .epochs = 50, .outputs = 2, .start = 1},
     .method =
         "accuracy, auc, pairwise: preset paper: linear layer of two outputs, Adam 1e-3, batch 32, the last "
         "of 50 epochs, groups split 60/40 anew for each seed, features as they are. best_block: accuracy of "
         "the best block of each seed at a step, mean and standard error over seeds. cells: test accuracy "
         "of every cell, mean over seeds; top: best cell of the first seed. Known defects: the best block "
         "of each seed is chosen on the test videos it is reported on, the standard error is of splits that "
         "overlap, no early stopping, no scaling of features.",
     .defect = paper_defects},
};

const ebb_preset *ebb_preset_find(const char *name) {
  for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
    if (strcmp(presets[i].name, name) == 0)
      return &presets[i];
  return NULL;
}

void ebb_preset_settings(ebb_config *config, char *names, size_t size) {
  ebb_config defaults;
  names[0] = '\0';
  if (!ebb_preset_find(config->probe.preset))
    return;
  ebb_config_defaults(&defaults);
  const struct {
    const char *name;
    int64_t *value, usual;
  } settings[] = {
      {"probe.folds", &config->probe.folds, defaults.probe.folds},
      {"probe.inner_folds", &config->probe.inner_folds, defaults.probe.inner_folds},
      {"probe.permutations", &config->probe.permutations, defaults.probe.permutations},
  };
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    size_t at = strlen(names);
    if (*settings[i].value != settings[i].usual)
      snprintf(names + at, size - at, "%s%s", at ? ", " : "", settings[i].name);
    *settings[i].value = settings[i].usual;
  }
}

/* Share of the videos of one part on the right side of 0; ties one half. */
static double accuracy_of(const study *s, const ebb_part *part, const double *margin) {
  double right = 0;
  for (int64_t t = 0; t < part->test_count; t++) {
    double agreed = margin[t] * s->labels[part->test[t]];
    right += agreed > 0 ? 1 : agreed == 0 ? 0.5 : 0;
  }
  return right / (double)part->test_count;
}

/* Cells [first, first + count): margins of the test videos, and what each seed chooses by. */
static bool train_cells(study *s, int first, int count, float *x, double *tested, ebb_error *err) {
  int64_t n = s->sample->n, width = s->row->width;
  size_t problems = (size_t)(count * s->parts);
  ebb_problem *problem = ebb_room(problems, sizeof *problem, err);
  ebb_adam_fit *fit = ebb_room(problems, sizeof *fit, err);
  double *margin = ebb_room(problems * (size_t)n, sizeof *margin, err);
  bool ok = problem && fit && margin;
  ebb_training training = s->preset->training;
  training.seed = (uint64_t)s->config->probe.seed;
  for (int i = 0; ok && i < count; i++) {
    float *cell = x + (int64_t)i * n * width;
    ok = ebb_study_read(s, first + i, cell, err);
    for (int part = 0; part < s->parts; part++) {
      const ebb_part *p = &s->plan->part[part];
      int64_t at = (int64_t)i * s->parts + part;
      problem[at] = (ebb_problem){.n = n,
                                  .d = width,
                                  .x = cell,
                                  .columns = 1,
                                  .labels = s->labels,
                                  .train_count = p->train_count,
                                  .test_count = p->test_count,
                                  .train = p->train,
                                  .test = p->test,
                                  .validation_count = p->validation_count,
                                  .validation = p->validation,
                                  .stream = (uint64_t)part,
                                  .start = (uint64_t)part << 32 | (uint64_t)(first + i)};
      fit[at].margins = margin + at * n;
    }
  }
  ok = ok && ebb_adam_batch(s->c, (int64_t)problems, problem, &training, fit, err);
  for (int64_t at = 0; ok && at < (int64_t)problems; at++) {
    int64_t cell = first + at / s->parts, part = at % s->parts;
    for (int64_t t = 0; t < problem[at].test_count; t++)
      s->margins[(cell * s->plan->repeats + part) * n + problem[at].test[t]] = fit[at].margins[t];
    tested[cell * s->parts + part] = accuracy_of(s, &s->plan->part[part], fit[at].margins);
    s->score[cell * s->parts + part] =
        s->preset->choose_on_test ? tested[cell * s->parts + part] : fit[at].accuracy;
  }
  free(problem);
  free(fit);
  free(margin);
  return ok;
}

static bool all_cells(study *s, double *tested, ebb_error *err) {
  int64_t margins = (int64_t)s->cells * s->plan->repeats * s->sample->n;
  int chunk = ebb_study_chunk(s);
  size_t numbers = (size_t)chunk * (size_t)(s->sample->n * s->row->width);
  float *x = ebb_host_new(s->c, numbers * sizeof *x + 1);
  bool ok = x || ebb_fail(err, "not enough memory for a probe (%.0f MB)", (double)numbers * sizeof *x / 1e6);
  for (int64_t i = 0; i < margins; i++)
    s->margins[i] = NAN;
  for (int first = 0; ok && first < s->cells; first += chunk) {
    int count = s->cells - first < chunk ? s->cells - first : chunk;
    ok = train_cells(s, first, count, x, tested, err);
    ebb_study_progress(s, count);
  }
  ebb_host_free(s->c, x);
  return ok;
}

/* Each seed's cell: the first of the highest scores. Its margins are the reported ones. */
static void choose(study *s) {
  ebb_row *row = s->row;
  int64_t n = s->sample->n;
  for (int part = 0; part < s->parts; part++) {
    int best = 0;
    for (int cell = 1; cell < s->cells; cell++)
      if (s->score[cell * s->parts + part] > s->score[best * s->parts + part])
        best = cell;
    row->selected[best] += 1.0 / s->parts;
    row->fit_cell[part] = best;
    row->fit_penalty[part] = NAN;
    memcpy(row->margin + part * n, s->margins + ((int64_t)best * s->parts + part) * n,
           (size_t)n * sizeof *row->margin);
  }
  int most = 0;
  for (int cell = 1; cell < s->cells; cell++)
    if (row->selected[cell] > row->selected[most] + 1e-9)
      most = cell;
  row->chosen = most;
}

/* The best cell of the first seed, and how high the best of so many independent ones is by chance. */
static void best_of_cells(study *s, const double *tested) {
  ebb_row *row = s->row;
  int top = 0;
  for (int cell = 1; cell < s->cells; cell++)
    if (tested[cell * s->parts] > tested[top * s->parts])
      top = cell;
  row->top = top;
  row->top_once = tested[top * s->parts];
  row->p = row->nested_p = NAN;
  for (int cell = 0; cell < s->cells; cell++)
    row->cell_p[cell] = NAN;
  row->permuted = (ebb_floor){NAN, NAN};
  row->independent = ebb_floor_independent(s->plan->part[0].test_count, s->cells);
}

/* The best block (and head) of each seed at every step: mean and standard error over seeds. */
static bool best_blocks(study *s, const double *tested, ebb_error *err) {
  ebb_row *row = s->row;
  int at_step = s->cells / row->step_count;
  row->step_mean = ebb_room((size_t)row->step_count, sizeof *row->step_mean, err);
  row->step_error = ebb_room((size_t)row->step_count, sizeof *row->step_error, err);
  for (int step = 0; row->step_mean && row->step_error && step < row->step_count; step++) {
    double sum = 0, square = 0, n = s->parts;
    for (int part = 0; part < s->parts; part++) {
      double best = 0;
      for (int i = 0; i < at_step; i++)
        best = fmax(best, tested[(step * at_step + i) * s->parts + part]);
      sum += best;
      square += best * best;
    }
    row->step_mean[step] = sum / n;
    row->step_error[step] = n > 1 ? sqrt(fmax(0, (square - sum * sum / n) / (n - 1)) / n) : NAN;
  }
  return row->step_mean && row->step_error;
}

bool ebb_preset_row(study *s, ebb_error *err) {
  double *tested = ebb_room((size_t)(s->cells * s->parts), sizeof *tested, err);
  bool ok = tested && all_cells(s, tested, err) && ebb_study_map(s, err);
  if (ok) {
    choose(s);
    best_of_cells(s, tested);
  }
  if (ok && s->preset->choose_on_test) { /* and all margins, for the files of the official code */
    ok = best_blocks(s, tested, err);
    s->row->cell_margins = s->margins;
    s->margins = NULL;
  }
  free(tested);
  return ok;
}
