/* Regression on planted truth: what is there is found, what is not is not, and the official files are its. */
#include "loaders/json.h"
#include "probe/regress.h"
#include "probe/regress_parts.h"
#include "probe/torch_order.h"
#include "tests/fixtures/probe/planted_targets.h"
#include "tests/test_files.h"

static ebb_context c;

static ebb_config settings(const char *targets, int permutations) {
  ebb_config k;
  ebb_error err = {""};
  char *set = ebb_format("probe.target=[%s]", targets);
  ebb_config_defaults(&k);
  assert_true(ebb_config_set(&k, set, &err));
  free(set);
  k.probe.repeats = 2;
  k.probe.bootstrap = 500;
  k.probe.permutations = permutations;
  k.probe.seed = 3;
  snprintf(k.probe.by, sizeof k.probe.by, "all");
  return k;
}

static ebb_regressions studied(const char *dir, const ebb_config *k, const char *files) {
  ebb_store store = {0};
  ebb_regressions r = {0};
  ebb_error err = {""};
  if (!ebb_store_open(&store, dir, &err) || !ebb_regress_study(&store, k, &c, files, NULL, NULL, &r, &err))
    fail_msg("%s", err.text);
  ebb_store_close(&store);
  return r;
}

static const ebb_regression *row_of(const ebb_regressions *r, const char *target, bool partial) {
  for (int i = 0; i < r->row_count; i++)
    if (strcmp(r->rows[i].target, target) == 0 && r->rows[i].partial == partial)
      return &r->rows[i];
  fail_msg("no row of %s", target);
  return NULL;
}

static const planted_targets world = {
    .groups = 150, .each = 1, .steps = 2, .blocks = 4, .width = 12, .noise = 1, .seed = 5};

/* The signal of 12 columns under noise of 1 is known up to 1/(1 + 12): R2 of 0.92 at best. */
static void planted_truth_is_found(void **state) {
  (void)state;
  assert_true(planted_targets_write(&world, at("truth"), NULL));
  ebb_config k = settings("speed, size", 99);
  ebb_regressions r = studied(at("truth"), &k, NULL);
  assert_int_equal(r.row_count, 4);
  const ebb_regression *speed = row_of(&r, "speed", false), *size = row_of(&r, "size", false);
  const ebb_interval *r2 = &speed->metric[EBB_R2];
  assert_true(r2->value > 0.85 && r2->value < 0.95 && r2->low > 0.7 && r2->low < r2->value &&
              r2->high > r2->value);
  assert_int_equal(speed->chosen, 1 * 4 + 2);
  assert_true(speed->selected[6] > 0.99 && speed->top == 6);
  assert_true(speed->nested_p <= 0.011 && speed->p <= 0.011);
  /* in units of the target: its deviation is 2 */
  assert_true(speed->metric[EBB_MSE].value < 0.7 && speed->metric[EBB_MAE].value < 0.7);
  assert_true(fabs(1 - speed->metric[EBB_MSE].value / 4 - r2->value) < 0.06);
  /* u + w stands in block 3: half of it is w, of which half is known there */
  assert_int_equal(size->chosen, 7);
  assert_true(size->metric[EBB_R2].value > 0.3 && size->metric[EBB_R2].value < 0.6);
  for (int cell = 0; cell < 8; cell++)
    if (cell != 6 && cell != 7)
      assert_true(speed->cell[EBB_R2][cell] < 0.1 && speed->cell_p[cell] > 0.05);
  for (int64_t i = 0; i < 2 * speed->videos; i++)
    assert_true(isfinite(speed->prediction[i]) && fabs(speed->prediction[i] - speed->truth[i]) < 4);
  ebb_regressions_free(&r);
}

static void nothing_is_not_found(void **state) {
  (void)state;
  planted_targets p = world;
  p.steps = 1; /* the signal is at step 1 */
  assert_true(planted_targets_write(&p, at("nothing"), NULL));
  ebb_config k = settings("speed", 49);
  ebb_regressions r = studied(at("nothing"), &k, NULL);
  const ebb_regression *row = row_of(&r, "speed", false);
  assert_true(fabs(row->metric[EBB_R2].value) < 0.1 && row->metric[EBB_R2].low < 0);
  assert_true(row->nested_p > 0.03 && row->p > 0.03);
  assert_true(row->top_once < row->permuted.high + 0.05);
  ebb_regressions_free(&r);
}

/* A function of another target: known as well as it, and nothing of it beyond. What features know of a sum
 * besides its one part is found. */
static void partial_r2_is_what_is_beyond(void **state) {
  (void)state;
  assert_true(planted_targets_write(&world, at("partial"), NULL));
  ebb_config k = settings("speed, twice", 0);
  ebb_regressions r = studied(at("partial"), &k, NULL);
  assert_true(row_of(&r, "twice", false)->metric[EBB_R2].value > 0.85);
  assert_true(fabs(row_of(&r, "twice", false)->metric[EBB_R2].value -
                   row_of(&r, "speed", false)->metric[EBB_R2].value) < 1e-6);
  assert_true(!(row_of(&r, "twice", true)->metric[EBB_R2].value > 0.05));
  ebb_regressions_free(&r);
  k = settings("speed, both", 49);
  r = studied(at("partial"), &k, NULL);
  const ebb_regression *beyond = row_of(&r, "both", true);
  assert_true(beyond->metric[EBB_R2].value > 0.8 && beyond->chosen == 7 && beyond->nested_p <= 0.021);
  assert_true(row_of(&r, "speed", true)->metric[EBB_R2].value > 0.8);
  ebb_regressions_free(&r);
}

/* The fold's residual is what least squares on its training rows leaves, at rows that took no part. */
static void residuals_are_of_the_training_rows(void **state) {
  (void)state;
  enum { N = 80 };
  double z[N], y[N], left[N], other[N];
  float x[2 * N], beyond[2 * N];
  int32_t train[60];
  for (int i = 0; i < N; i++) {
    z[i] = planted_normal(1, 1, (uint64_t)i);
    other[i] = i < 60 ? 0 : 100 * planted_normal(1, 2, (uint64_t)i); /* only where nothing is trained */
    y[i] = 3 - 2 * z[i] + 0.5 * z[i] * z[i] * z[i] + other[i];
    x[2 * i] = (float)(7 + 2 * z[i] * z[i]);
    x[2 * i + 1] = (float)(planted_normal(1, 3, (uint64_t)i) + z[i]);
    if (i < 60)
      train[i] = i;
  }
  const double *others[1] = {z};
  ebb_basis basis;
  assert_true(ebb_basis_make(&basis, N, 1, others, 60, train, NULL));
  assert_int_equal(basis.count, 4);
  ebb_basis_residual(&basis, y, left);
  for (int i = 0; i < N; i++)
    assert_true(fabs(left[i] - other[i]) < 1e-9);
  assert_true(ebb_basis_residuals(&basis, 2, x, beyond));
  double along = 0, square = 0;
  for (int i = 0; i < N; i++)
    assert_true(beyond[2 * i] == 0); /* a function of z: nothing is left, not even rounding */
  for (int i = 0; i < 60; i++) {
    along += beyond[2 * i + 1] * z[i];
    square += beyond[2 * i + 1] * beyond[2 * i + 1];
  }
  assert_true(fabs(along) < 1e-4 && square > 30);
  ebb_basis_free(&basis);
  others[0] = y;
  assert_true(ebb_basis_make(&basis, N, 1, others, 12, train, NULL)); /* few rows: no powers */
  assert_int_equal(basis.count, 2);
  ebb_basis_free(&basis);
}

/* Kolmogorov and Smirnov's distance of p from uniform, over data sets with nothing to find. */
static void p_is_uniform_under_the_null(void **state) {
  (void)state;
  enum { SETS = 60, PERMUTATIONS = 39 };
  double p[SETS], distance = 0;
  for (int i = 0; i < SETS; i++) {
    planted_targets w = {
        .groups = 24, .each = 1, .steps = 1, .blocks = 2, .width = 4, .noise = 1, .seed = 100 + (uint64_t)i};
    char name[32];
    snprintf(name, sizeof name, "null%d", i);
    assert_true(planted_targets_write(&w, at(name), NULL));
    ebb_config k = settings("speed", PERMUTATIONS);
    k.probe.repeats = 1;
    k.probe.bootstrap = 0;
    ebb_regressions r = studied(at(name), &k, NULL);
    p[i] = r.rows[0].nested_p;
    ebb_regressions_free(&r);
  }
  ebb_sort(SETS, p);
  for (int i = 0; i < SETS; i++) {
    distance = fmax(distance, fabs(p[i] - (i + 1.0) / SETS));
    distance = fmax(distance, fabs(p[i] - (double)i / SETS));
  }
  /* 1.63 / sqrt(60) is the 1 % point; p comes in steps of 1/40 */
  if (!(distance < 1.63 / sqrt(SETS) + 1.0 / (PERMUTATIONS + 1)))
    fail_msg("p is %.3f from uniform", distance);
}

/* Videos of a group share their target and their noise: dealt anew within groups nothing would change, so
 * that the null has to deal whole groups. */
static void the_null_deals_whole_groups(void **state) {
  (void)state;
  planted_targets p = world;
  p.groups = 40;
  p.each = 3;
  assert_true(planted_targets_write(&p, at("groups"), NULL));
  ebb_config k = settings("speed", 49);
  ebb_regressions r = studied(at("groups"), &k, NULL);
  assert_int_equal(r.rows[0].groups, 40);
  assert_int_equal(r.rows[0].videos, 120);
  assert_true(r.rows[0].nested_p <= 0.021 && r.rows[0].permuted.mean < 0.2);
  ebb_regressions_free(&r);
}

static void what_is_not_known_is_left_out(void **state) {
  (void)state;
  planted_targets p = world;
  p.missing = true;
  assert_true(planted_targets_write(&p, at("missing"), NULL));
  ebb_config k = settings("speed, size", 0);
  ebb_regressions r = studied(at("missing"), &k, NULL);
  assert_true(r.rows[0].videos == 149 && r.rows[0].missing == 1);
  ebb_regressions_free(&r);
  ebb_store store;
  ebb_error err = {""};
  assert_true(ebb_store_open(&store, at("missing"), &err));
  k = settings("speed, weight", 0);
  assert_false(ebb_regress_study(&store, &k, &c, NULL, NULL, NULL, &r, &err));
  assert_says(&err, "no video has the target weight; targets of this run: speed, size, twice, both");
  k = settings("speed, plausible", 0);
  assert_false(ebb_regress_study(&store, &k, &c, NULL, NULL, NULL, &r, &err));
  assert_says(&err, "plausible stands among targets");
  k = settings("speed", 0);
  strcpy(k.probe.preset, "referee");
  assert_false(ebb_regress_study(&store, &k, &c, NULL, NULL, NULL, &r, &err));
  assert_says(&err, "no regression");
  ebb_store_close(&store);
}

/* ---- released ---- */

__attribute__((noinline)) static char *whole(const char *path) {
  char *text = NULL;
  size_t bytes;
  ebb_error err = {""};
  if (!ebb_file_read(path, 1 << 24, &text, &bytes, &err))
    fail_msg("%s", err.text);
  return text;
}

static int lines_of(const char *text) {
  int n = 0;
  for (; *text; text++)
    n += *text == '\n';
  return n;
}

/* Names, headers, the order of rows (torch.randperm of 150 with seed 3), and numbers that agree with one
 * another. */
static void released_writes_the_official_files(void **state) {
  (void)state;
  assert_true(planted_targets_write(&world, at("released"), NULL));
  ebb_config k = settings("speed, size", 0);
  strcpy(k.probe.preset, "released");
  k.probe.repeats = 1;
  ebb_error err = {""};
  char *table = NULL;
  size_t bytes = 0;
  FILE *f = open_memstream(&table, &bytes);
  if (!ebb_regress_run(at("released"), &k, &c, NULL, NULL, f, &err))
    fail_msg("%s", err.text);
  fclose(f);
  assert_non_null(strstr(table, "known defects"));
  assert_null(strstr(table, "LEAK"));
  free(table);
#define OFFICIAL "released/regress/official/transformer/block_out.mean/"
  char *curve = whole(at(OFFICIAL "probe_regress_results_step0010.csv"));
  assert_memory_equal(curve, "block,speed_mse,speed_mae,speed_r2,size_mse,size_mae,size_r2\n0,", 62);
  assert_int_equal(lines_of(curve), 5);
  char *samples = whole(at(OFFICIAL "probe_regress_persample_step0010.csv"));
  static const char head[] =
      "scene_dir,target,true,block_00_pred,block_01_pred,block_02_pred,block_03_pred\n";
  assert_memory_equal(samples, head, strlen(head));
  assert_int_equal(lines_of(samples), 1 + 2 * 30);
  int64_t order[150];
  assert_true(ebb_torch_order(150, 3, order, NULL));
  const char *line = samples + strlen(head);
  double square = 0;
  for (int i = 0; i < 30; i++) {
    char want[64];
    double truth, p[4];
    int from = 0;
    snprintf(want, sizeof want, "set_%03d_0/step_0010,speed,", (int)order[i]);
    assert_memory_equal(line, want, strlen(want));
    from = (int)strlen(want);
    assert_int_equal(sscanf(line + from, "%lf,%lf,%lf,%lf,%lf", &truth, p, p + 1, p + 2, p + 3), 5);
    assert_true(fabs(truth - (3 + 2 * planted_u(&world, order[i]))) < 1e-6);
    square += (p[2] - truth) * (p[2] - truth) / 30;
    line = strchr(line, '\n') + 1;
  }
  double mse, mae, r2;
  assert_int_equal(sscanf(strstr(curve, "\n2,"), "\n2,%lf,%lf,%lf", &mse, &mae, &r2), 3);
  assert_true(fabs(mse / square - 1) < 1e-5 && mae * mae <= mse);
  char *report = whole(at(OFFICIAL "probe_regress_results_step0010.txt"));
  assert_non_null(
      strstr(report, "\nTargets:    ['speed', 'size']\nEpochs:     50\nLR:         0.001\nBatch size: 32\n"
                     "Val split:  0.2 (random)\nSeed:       3\n\n"));
  assert_non_null(
      strstr(report,
             "\nBlock     speed MSE  speed MAE   speed R\xc2\xb2   size MSE   size MAE    size R\xc2\xb2\n"));
  assert_non_null(strstr(report, "\nBest block for speed: block_0"));
  free(curve);
  free(samples);
  free(report);
}

/* Features and targets as they are, too few epochs: what the protocol makes of a signal that is there
 * (defect 26), and ours in the same cell. */
static void defect_26_scale_decides_what_released_finds(void **state) {
  (void)state;
  assert_true(planted_targets_write(&world, at("scale"), NULL));
  ebb_config k = settings("speed", 0);
  ebb_regressions ours = studied(at("scale"), &k, NULL);
  strcpy(k.probe.preset, "released");
  ebb_regressions theirs = studied(at("scale"), &k, NULL);
  assert_true(ours.rows[0].cell[EBB_R2][6] > 0.85);
  assert_true(theirs.rows[0].cell[EBB_R2][6] < ours.rows[0].cell[EBB_R2][6] - 0.1);
  assert_true(theirs.rows[0].step_mean[1] >= theirs.rows[0].cell[EBB_R2][6]); /* the best of four blocks */
  assert_true(isnan(theirs.rows[0].metric[EBB_R2].low));
  ebb_regressions_free(&ours);
  ebb_regressions_free(&theirs);
}

static void a_split_by_video_has_to_be_asked_for(void **state) {
  (void)state;
  planted_targets p = world;
  p.groups = 40;
  p.each = 2;
  assert_true(planted_targets_write(&p, at("leak"), NULL));
  ebb_config k = settings("speed", 0);
  strcpy(k.probe.preset, "released");
  k.probe.repeats = 1;
  ebb_store store;
  ebb_regressions r;
  ebb_error err = {""};
  assert_true(ebb_store_open(&store, at("leak"), &err));
  assert_false(ebb_regress_study(&store, &k, &c, NULL, NULL, NULL, &r, &err));
  assert_says(&err, "--allow-leak");
  k.probe.allow_leak = true;
  assert_true(ebb_regress_study(&store, &k, &c, NULL, NULL, NULL, &r, &err));
  assert_true(r.by_video);
  ebb_regressions_free(&r);
  ebb_store_close(&store);
}

/* results.json of strict says what was done, and the CSVs have what they should. */
static void strict_files(void **state) {
  (void)state;
  assert_true(planted_targets_write(&world, at("files"), NULL));
  ebb_config k = settings("speed, size", 9);
  ebb_error err = {""};
  char *table = NULL;
  size_t bytes = 0;
  FILE *f = open_memstream(&table, &bytes);
  if (!ebb_regress_run(at("files"), &k, &c, NULL, NULL, f, &err))
    fail_msg("%s", err.text);
  fclose(f);
  for (char *line = strtok(table, "\n"); line; line = strtok(NULL, "\n"))
    if (strlen(line) > 100)
      fail_msg("a line of %zu characters: %s", strlen(line), line);
  free(table);
  json_t *o = ebb_json_read(at("files/regress/results.json"), &err);
  assert_non_null(o);
  assert_int_equal(json_array_size(json_object_get(o, "rows")), 4);
  assert_int_equal(json_integer_value(json_object_get(o, "permutations")), 9);
  const json_t *about = json_object_get(o, "provenance");
  assert_int_equal(strlen(json_string_value(json_object_get(about, "index_sha256"))), 64);
  assert_non_null(strstr(json_string_value(json_object_get(about, "config")), "speed"));
  json_decref(o);
  char *text = whole(at("files/regress/cells.csv"));
  assert_int_equal(lines_of(text), 1 + 4 * 8);
  free(text);
  text = whole(at("files/regress/predictions.csv"));
  assert_int_equal(lines_of(text), 1 + 4 * 2 * 150);
  free(text);
  assert_int_equal(access(at("files/regress/heat-all-transformer-block_out.mean-speed.png"), R_OK), 0);
  assert_int_equal(access(at("files/regress/heat-all-transformer-block_out.mean-size-partial.png"), R_OK), 0);
}

static int begin(void **state) {
  return folder_make(state) == 0 && ebb_context_open(&c, "cpu", NULL) ? 0 : -1;
}

static int end(void **state) {
  ebb_context_close(&c);
  return folder_remove(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(planted_truth_is_found),
      cmocka_unit_test(nothing_is_not_found),
      cmocka_unit_test(partial_r2_is_what_is_beyond),
      cmocka_unit_test(residuals_are_of_the_training_rows),
      cmocka_unit_test(p_is_uniform_under_the_null),
      cmocka_unit_test(the_null_deals_whole_groups),
      cmocka_unit_test(what_is_not_known_is_left_out),
      cmocka_unit_test(released_writes_the_official_files),
      cmocka_unit_test(defect_26_scale_decides_what_released_finds),
      cmocka_unit_test(a_split_by_video_has_to_be_asked_for),
      cmocka_unit_test(strict_files),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
