/* Probes trained by Adam and the presets that use them: against gradients and PyTorch's rules written out here,
 * and end to end on planted truth. */
#include "probe/presets.h"
#include "probe/probe.h"
#include "probe/report.h"
#include "tests/fixtures/probe/planted_run.h"

#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 80, WIDTH = 37 };

static ebb_context c;
static char folder[] = "/tmp/ebb-test-presets-XXXXXX";
static float x[ROWS * WIDTH];
static int8_t labels[2 * ROWS];
static int32_t train[ROWS], validation[ROWS], test[ROWS];

/* 50 rows train, 14 decide, 16 are judged. The first label set follows three columns, the second nothing. */
static ebb_problem make(double noise) {
  ebb_problem p = {.n = ROWS,
                   .d = WIDTH,
                   .x = x,
                   .columns = 1,
                   .labels = labels,
                   .train = train,
                   .validation = validation,
                   .test = test,
                   .stream = 3,
                   .start = 3};
  for (int32_t i = 0; i < ROWS; i++) {
    double signal = noise * planted_normal(1, 99, (uint64_t)i);
    for (int j = 0; j < WIDTH; j++) {
      double v = planted_normal(1, (uint64_t)j, (uint64_t)i);
      x[i * WIDTH + j] = (float)(j == 5 ? 2.5 : (1 + j % 3) * v + j % 4);
      signal += j < 3 ? v : 0;
    }
    labels[i] = signal > 0 ? 1 : -1;
    labels[ROWS + i] = planted_normal(2, 0, (uint64_t)i) > 0 ? 1 : -1;
    *(i % 5 == 4                              ? &test[p.test_count++]
      : i % 5 == 3 && p.validation_count < 14 ? &validation[p.validation_count++]
                                              : &train[p.train_count++]) = i;
  }
  return p;
}

static void solve(int64_t count, const ebb_problem *p, const ebb_training *t, ebb_adam_fit *fit) {
  ebb_error err = {""};
  if (!ebb_adam_batch(&c, count, p, t, fit, &err))
    fail_msg("%s", err.text);
}

/* The mean loss plus decay/2 |(w, b)|^2 in standardised columns has no slope where long training ends. */
static void reaches_the_optimum(void **state) {
  (void)state;
  ebb_problem p = make(1);
  p.validation_count = 0;
  ebb_training t = {.rate = 0.01,
                    .decay = 0.02,
                    .batch = ROWS,
                    .epochs = 6000,
                    .outputs = 1,
                    .start = 1,
                    .standardise = true};
  double weights[WIDTH + 1], mean[WIDTH], deviation[WIDTH], worst = 0;
  ebb_adam_fit fit = {.weights = weights};
  solve(1, &p, &t, &fit);
  assert_int_equal(fit.epoch, 6000);
  assert_true(isnan(fit.accuracy));
  for (int j = 0; j < WIDTH; j++) {
    mean[j] = deviation[j] = 0;
    for (int64_t r = 0; r < p.train_count; r++)
      mean[j] += x[train[r] * WIDTH + j] / (double)p.train_count;
    for (int64_t r = 0; r < p.train_count; r++)
      deviation[j] += pow(x[train[r] * WIDTH + j] - mean[j], 2) / (double)p.train_count;
    deviation[j] = sqrt(deviation[j]);
  }
  double intercept = weights[WIDTH]; /* of standardised columns */
  for (int j = 0; j < WIDTH; j++)
    intercept += weights[j] * mean[j];
  for (int j = 0; j <= WIDTH; j++) {
    bool constant = j < WIDTH && deviation[j] < 1e-6;
    double slope = t.decay * (j == WIDTH ? intercept : weights[j] * deviation[j]);
    for (int64_t r = 0; r < p.train_count; r++) {
      double f = weights[WIDTH], y = labels[train[r]];
      for (int k = 0; k < WIDTH; k++)
        f += weights[k] * x[train[r] * WIDTH + k];
      double z = j == WIDTH ? 1 : constant ? 0 : (x[train[r] * WIDTH + j] - mean[j]) / deviation[j];
      slope -= y / (1 + exp(y * f)) * z / (double)p.train_count;
    }
    worst = fmax(worst, fabs(slope));
  }
  assert_true(worst < 1e-4);
}

/* A linear layer of two outputs under a softmax, as PyTorch trains it, in float64 and in one batch an epoch. */
static void two_outputs_are_one_difference(void **state) {
  (void)state;
  ebb_problem p = make(1);
  p.validation_count = 0;
  enum { EPOCHS = 25 };
  ebb_training t = {.rate = 1e-3, .batch = ROWS, .epochs = EPOCHS, .outputs = 2, .start = 1, .seed = 7};
  double margins[ROWS], w[2][WIDTH + 1], m[2][WIDTH + 1] = {{0}}, v[2][WIDTH + 1] = {{0}};
  ebb_adam_fit fit = {.margins = margins};
  solve(1, &p, &t, &fit);
  for (int o = 0; o < 2; o++)
    for (int j = 0; j <= WIDTH; j++)
      w[o][j] = (2 * ebb_random_uniform(7, 0x73746172740000u + 3, (uint64_t)(2 * j + o)) - 1) / sqrt(WIDTH);
  for (int epoch = 1; epoch <= EPOCHS; epoch++) {
    double g[2][WIDTH + 1] = {{0}};
    for (int64_t r = 0; r < p.train_count; r++) {
      double f[2], z;
      for (int o = 0; o < 2; o++) {
        f[o] = w[o][WIDTH];
        for (int j = 0; j < WIDTH; j++)
          f[o] += w[o][j] * x[train[r] * WIDTH + j];
      }
      for (int o = 0; o < 2; o++)
        for (int j = 0; j <= WIDTH; j++) {
          z = j < WIDTH ? x[train[r] * WIDTH + j] : 1;
          g[o][j] +=
              (1 / (1 + exp(f[1 - o] - f[o])) - (o == (labels[train[r]] > 0))) * z / (double)p.train_count;
        }
    }
    for (int o = 0; o < 2; o++)
      for (int j = 0; j <= WIDTH; j++) {
        m[o][j] = 0.9 * m[o][j] + 0.1 * g[o][j];
        v[o][j] = 0.999 * v[o][j] + 0.001 * g[o][j] * g[o][j];
        w[o][j] -= 1e-3 * m[o][j] / (1 - pow(0.9, epoch)) / (sqrt(v[o][j] / (1 - pow(0.999, epoch))) + 1e-8);
      }
  }
  for (int64_t r = 0; r < p.test_count; r++) {
    double f = w[1][WIDTH] - w[0][WIDTH];
    for (int j = 0; j < WIDTH; j++)
      f += (w[1][j] - w[0][j]) * x[test[r] * WIDTH + j];
    assert_true(fabs(margins[r] - f) < 1e-5);
  }
}

/* The epoch kept is the one that training for just so many epochs ends with, and its accuracy is that fit's. */
static void early_stopping_keeps_the_best(void **state) {
  (void)state;
  ebb_problem p = make(2), q;
  ebb_training t = {
      .rate = 0.02, .batch = 16, .epochs = 60, .patience = 5, .outputs = 1, .standardise = true};
  double margins[ROWS], again[ROWS], deciding[ROWS];
  ebb_adam_fit fit = {.margins = margins}, other = {.margins = again}, validated = {.margins = deciding};
  solve(1, &p, &t, &fit);
  assert_true(fit.epoch >= 1 && fit.epoch < 60);
  t.epochs = (int)fit.epoch;
  q = p;
  q.validation_count = 0;
  solve(1, &q, &t, &other);
  assert_memory_equal(margins, again, (size_t)p.test_count * sizeof *margins);
  q.test = validation;
  q.test_count = p.validation_count;
  solve(1, &q, &t, &validated);
  double right = 0;
  for (int64_t i = 0; i < p.validation_count; i++)
    right += deciding[i] * labels[validation[i]] > 0;
  assert_true(fabs(right / (double)p.validation_count - fit.accuracy) < 1e-6);
  t.epochs = 60;
  t.patience = 60;
  solve(1, &p, &t, &other);
  assert_true(other.accuracy >= fit.accuracy);
}

/* Two cells of a seed: one order of batches, other weights to begin with. */
static void starts_have_a_number_of_their_own(void **state) {
  (void)state;
  ebb_problem p = make(1), both[2] = {p, p};
  both[1].start = 4;
  ebb_training t = {.rate = 1e-9, .batch = 16, .epochs = 1, .outputs = 2, .start = 1, .seed = 7};
  double weights[3][WIDTH + 1];
  ebb_adam_fit fit[2] = {{.weights = weights[0]}, {.weights = weights[1]}}, alone = {.weights = weights[2]};
  solve(2, both, &t, fit);
  for (int j = 0; j <= WIDTH; j++)
    assert_true(weights[0][j] != weights[1][j]);
  p.start = 4;
  solve(1, &p, &t, &alone);
  assert_memory_equal(weights[1], weights[2], sizeof weights[1]);
  t.start = 0; /* what is left is the order */
  t.rate = 1e-2;
  solve(2, both, &t, fit);
  assert_memory_equal(weights[0], weights[1], sizeof weights[0]);
}

/* The same bytes for any number of threads, and alone or among others. */
static void neither_threads_nor_neighbours_matter(void **state) {
  (void)state;
  ebb_problem p = make(1), all[12];
  double margins[3][12][ROWS];
  ebb_adam_fit fit[3][12];
  ebb_training t = {
      .rate = 1e-3, .batch = 16, .epochs = 6, .patience = 2, .outputs = 1, .start = 1, .standardise = true};
  memset(margins, 0, sizeof margins);
  for (int i = 0; i < 12; i++) {
    all[i] = p;
    all[i].labels = labels + i % 2 * ROWS;
    all[i].train_count -= i / 2;
    all[i].stream = (uint64_t)(i / 4);
  }
  int threads = omp_get_max_threads();
  for (int k = 0; k < 3; k++) {
    for (int i = 0; i < 12; i++)
      fit[k][i] = (ebb_adam_fit){.margins = margins[k][i]};
    omp_set_num_threads(k == 1 ? 4 : 1);
    if (k < 2)
      solve(12, all, &t, fit[k]);
    for (int i = 0; k == 2 && i < 12; i++)
      solve(1, &all[i], &t, &fit[k][i]);
  }
  omp_set_num_threads(threads);
  assert_memory_equal(margins[0], margins[1], sizeof margins[0]);
  assert_memory_equal(margins[0], margins[2], sizeof margins[0]);
  assert_memory_not_equal(margins[0][0], margins[0][1], sizeof margins[0][0]);
  assert_memory_not_equal(margins[0][0], margins[0][4], sizeof margins[0][0]); /* another stream */
}

static void a_device_says_the_same(void **state) {
  (void)state;
  ebb_context device;
  if (!ebb_context_open(&device, "cuda", NULL)) {
    print_message("skipped: no CUDA device\n");
    skip();
  }
  ebb_problem p = make(1), both[2] = {p, p};
  both[1].labels = labels + ROWS;
  for (int k = 0; k < 4; k++) {
    ebb_training t = k % 2 ? ebb_preset_find("referee")->training : ebb_preset_find("released")->training;
    t.epochs = k < 2 ? 3 : 50;
    double margins[2][2][ROWS] = {{{0}}};
    ebb_adam_fit a[2] = {{.margins = margins[0][0]}, {.margins = margins[0][1]}},
                 b[2] = {{.margins = margins[1][0]}, {.margins = margins[1][1]}};
    ebb_error err = {""};
    solve(2, both, &t, a);
    if (!ebb_adam_batch(&device, 2, both, &t, b, &err))
      fail_msg("%s", err.text);
    for (int i = 0; i < 2; i++) {
      assert_int_equal(a[i].epoch, b[i].epoch);
      for (int64_t r = 0; r < p.test_count; r++)
        assert_true(fabs(margins[0][i][r] - margins[1][i][r]) < (k < 2 ? 1e-5 : 1e-4));
    }
  }
  ebb_context_close(&device);
}

/* ---- end to end -------------------------------------------------------------------------------------- */

static ebb_config settings(const char *preset) {
  ebb_config k;
  ebb_config_defaults(&k);
  snprintf(k.probe.preset, sizeof k.probe.preset, "%s", preset);
  k.probe.bootstrap = 200;
  k.probe.seed = 3;
  snprintf(k.probe.features.names[0], sizeof k.probe.features.names[0], "block_out.mean");
  k.probe.features.count = 1;
  return k;
}

static const ebb_row *row_of(const ebb_results *r, const char *category, const char *model) {
  for (int i = 0; i < r->row_count; i++)
    if (!strcmp(r->rows[i].category, category) && !strcmp(r->rows[i].model, model))
      return &r->rows[i];
  fail_msg("no row %s %s", category, model);
  return NULL;
}

/* results.json: no folds, no permutations, and the settings in its provenance without those asked for. */
static void says_only_what_was_used(const char *probe) {
  char *path = ebb_path_join(probe, "results.json");
  json_t *o = json_load_file(path, 0, NULL);
  assert_non_null(o);
  assert_true(json_is_null(json_object_get(o, "folds")) && json_is_null(json_object_get(o, "permutations")));
  const char *config = json_string_value(json_object_get(json_object_get(o, "provenance"), "config"));
  assert_non_null(config);
  assert_non_null(strstr(config, " folds: 5\n"));
  assert_non_null(strstr(config, " permutations: 0\n"));
  json_decref(o);
  free(path);
}

static void planted_truth_and_its_defects(void **state) {
  (void)state;
  const planted p = {.categories = 2,
                     .groups = 120,
                     .steps = 2,
                     .blocks = 5,
                     .width = 8,
                     .block = 3,
                     .step = 1,
                     .signal = 4.0,
                     .seed = 1};
  char *dir = ebb_path_join(folder, "truth"), *probe = ebb_path_join(dir, "probe");
  assert_true(planted_write(&p, dir, NULL));
  const char *const names[2] = {"referee", "released"};
  const int64_t tested[2] = {12, 24}; /* groups of a seed */
  for (int i = 0; i < 2; i++) {
    ebb_config k = settings(names[i]);
    k.probe.permutations = i ? 7 : 0;
    k.probe.folds = i ? 9 : 5;
    char *text = NULL;
    size_t bytes = 0;
    ebb_error err = {""};
    FILE *table = open_memstream(&text, &bytes);
    if (!ebb_probe_run(dir, &k, &c, NULL, NULL, table, &err))
      fail_msg("%s", err.text);
    fclose(table);
    ebb_results r;
    assert_true(ebb_results_read(&r, probe, NULL));
    assert_string_equal(r.preset, names[i]);
    const ebb_row *found = row_of(&r, "O1", "transformer"), *nothing = row_of(&r, "O2", "random");
    assert_true(found->metric[EBB_ACCURACY].value > 0.75);
    assert_true(abs(ebb_cell_of(found, found->chosen).block - 3) <= 1);
    assert_true(isnan(nothing->p) && isnan(nothing->permuted.mean));
    /* 10 cells of 48 or 96 videos: what choosing on the test set makes of nothing */
    ebb_floor chance = ebb_floor_independent(4 * tested[i], 10);
    assert_true(fabs(nothing->independent.mean - chance.mean) < 1e-6);
    if (i == 1)
      assert_true(fabs(nothing->metric[EBB_ACCURACY].value - chance.mean) < 0.1);
    else
      assert_true(fabs(nothing->metric[EBB_ACCURACY].value - 0.5) < 0.2);
    assert_non_null(strstr(text, i ? "preset released" : "preset referee"));
    assert_non_null(strstr(text, "known defects"));
    assert_int_equal(strstr(text, "the test videos") != NULL, i);
    assert_int_equal(strstr(text, "\nnot used by this preset: probe.folds, probe.permutations\n") != NULL, i);
    assert_int_equal(strstr(text, "not used") != NULL, i);
    assert_string_equal(r.not_used, i ? "probe.folds, probe.permutations" : "");
    assert_int_equal(r.permutations, 0);
    says_only_what_was_used(probe);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
      if (strlen(line) > 100)
        fail_msg("a line of %zu characters: %s", strlen(line), line);
    free(text);
    ebb_results_free(&r);
  }
  free(probe);
  free(dir);
}

static int begin(void **state) {
  (void)state;
  return mkdtemp(folder) && ebb_context_open(&c, "cpu", NULL) ? 0 : -1;
}

static int end(void **state) {
  (void)state;
  char command[64];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  ebb_context_close(&c);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reaches_the_optimum),
      cmocka_unit_test(two_outputs_are_one_difference),
      cmocka_unit_test(early_stopping_keeps_the_best),
      cmocka_unit_test(starts_have_a_number_of_their_own),
      cmocka_unit_test(neither_threads_nor_neighbours_matter),
      cmocka_unit_test(a_device_says_the_same),
      cmocka_unit_test(planted_truth_and_its_defects),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
