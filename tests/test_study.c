/* Planted truth (tests/fixtures/probe/planted_run.h): what is there is found, what is not is not, and the
 * files say so. */
#include "probe/probe.h"
#include "probe/report.h"
#include "probe/sample.h"
#include "tests/fixtures/probe/planted_run.h"

#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static ebb_context c;
static char folder[] = "/tmp/ebb-test-study-XXXXXX";

static char *fresh(const char *name) {
  return ebb_path_join(folder, name);
}

static ebb_config settings(int repeats, int permutations) {
  ebb_config k;
  ebb_config_defaults(&k);
  k.probe.folds = 5;
  k.probe.inner_folds = 4;
  k.probe.repeats = repeats;
  k.probe.bootstrap = 500;
  k.probe.permutations = permutations;
  k.probe.seed = 3;
  return k;
}

static const ebb_row *row_of(const ebb_results *r, const char *category, const char *model,
                             const char *feature) {
  for (int i = 0; i < r->row_count; i++)
    if (!strcmp(r->rows[i].category, category) && !strcmp(r->rows[i].model, model) &&
        !strcmp(r->rows[i].feature, feature))
      return &r->rows[i];
  fail_msg("no row %s %s %s", category, model, feature);
  return NULL;
}

static void study(const char *dir, const ebb_config *k, ebb_results *results) {
  ebb_store store = {0};
  ebb_error err = {""};
  if (!ebb_store_open(&store, dir, &err) || !ebb_study_run(&store, k, &c, NULL, NULL, results, &err))
    fail_msg("%s", err.text);
  ebb_store_close(&store);
}

static void wants(ebb_config *k, const char *feature) {
  k->probe.features.count = 1;
  snprintf(k->probe.features.names[0], sizeof k->probe.features.names[0], "%s", feature);
}

static void planted_truth_is_found(void **state) {
  (void)state;
  const planted p = {.categories = 2,
                     .groups = 20,
                     .steps = 4,
                     .blocks = 5,
                     .width = 24,
                     .block = 3,
                     .step = 1,
                     .signal = 2.0,
                     .seed = 1};
  char *dir = fresh("truth");
  assert_true(planted_write(&p, dir, NULL));
  ebb_config k = settings(2, 99);
  ebb_results r;
  study(dir, &k, &r);
  assert_int_equal(r.row_count, 2 * 5);
  const ebb_row *found = row_of(&r, "O1", "transformer", "block_out.mean");
  assert_int_equal(found->videos, 80);
  assert_int_equal(found->groups, 20);
  assert_true(found->metric[EBB_ACCURACY].low > 0.7);
  assert_true(found->metric[EBB_AUC].low > found->metric[EBB_ACCURACY].low);
  assert_true(found->metric[EBB_PAIRWISE].low > 0.85);
  const ebb_cell chosen = ebb_cell_of(found, found->chosen);
  assert_true(abs(chosen.block - 3) <= 1 && abs(chosen.step - 1) <= 1);
  assert_true(found->p <= 0.011 && found->nested_p <= 0.011);
  assert_true(found->top_once > found->permuted.high);
  double selected = 0;
  for (int i = 0; i < 20; i++)
    selected += found->selected[i];
  assert_true(fabs(selected - 1) < 1e-9);
  const char *nothing[4][3] = {{"O1", "random", "block_out.mean"},
                               {"O1", "transformer", "attn_entropy"},
                               {"O2", "transformer", "block_out.mean"},
                               {"O2", "transformer_lawless", "block_out.mean"}};
  for (int i = 0; i < 4; i++) {
    const ebb_row *row = row_of(&r, nothing[i][0], nothing[i][1], nothing[i][2]);
    assert_true(fabs(row->metric[EBB_ACCURACY].value - 0.5) < 0.12);
    assert_true(row->p > 0.011);
    /* the best cell is above chance although there is nothing to find: what the floor is for */
    double top = row->top_once;
    assert_true(top > 0.53);
    assert_true(fabs(top - row->permuted.mean) < 0.08);
    assert_true(fabs(row->independent.mean - row->permuted.mean) < 0.03);
  }
  /* additive over frames: nothing can be learnt, pairwise accuracy is exactly one half (REFERENCE 6.9) */
  for (int i = 0; i < 2; i++) {
    const ebb_row *vae = row_of(&r, i ? "O2" : "O1", "vae", "latent.mean");
    assert_true(fabs(vae->metric[EBB_PAIRWISE].value - 0.5) < 1e-12);
    assert_true(fabs(vae->metric[EBB_ACCURACY].value - 0.5) < 0.12);
  }
  int paired = 0;
  for (int i = 0; i < r.difference_count; i++) {
    const ebb_difference *d = &r.differences[i];
    double difference = row_of(&r, d->category, d->model, d->feature)->metric[EBB_ACCURACY].value -
                        row_of(&r, d->category, d->other_model, d->other_feature)->metric[EBB_ACCURACY].value;
    assert_true(fabs(d->metric[EBB_ACCURACY].value - difference) < 1e-12);
    paired += !strcmp(d->category, "O1") && d->metric[EBB_ACCURACY].low > 0.1;
  }
  assert_int_equal(r.difference_count, 2 * 3);
  assert_int_equal(paired, 3);
  ebb_results_free(&r);
  free(dir);
}

/* Two videos with scores that add like a quadruplet's: any linear readout, not only a fitted one, wins two of
 * four pairs. */
static void additive_pairs_are_even(void **state) {
  (void)state;
  const planted p = {.seed = 5};
  for (int64_t g = 0; g < 400; g++) {
    float x[4][16];
    double margin[4] = {0};
    const int8_t label[4] = {1, -1, -1, 1};
    const int group[4] = {0, 0, 0, 0};
    for (int64_t v = 0; v < 4; v++) {
      planted_additive(&p, 4 * g + v, 16, x[v]);
      for (int j = 0; j < 16; j++)
        margin[v] += round(1000 * planted_normal(8, (uint64_t)g, (uint64_t)j)) * x[v][j];
    }
    assert_true(fabs(ebb_pairwise(4, margin, label, group) - 0.5) < 1e-12);
  }
}

/* Where there is nothing, the reported number is unbiased over data sets; the best cell is not, by about what
 * the floor says. */
static void nested_is_unbiased(void **state) {
  (void)state;
  enum { worlds = 24 };
  double nested = 0, best = 0, floors = 0, square = 0;
  int rejected = 0, covered = 0, nested_rejected = 0;
  for (uint64_t w = 0; w < worlds; w++) {
    planted p = {
        .categories = 1, .groups = 16, .steps = 3, .blocks = 4, .width = 6, .signal = 0, .seed = 100 + w};
    char name[32], *dir;
    snprintf(name, sizeof name, "null-%d", (int)w);
    dir = fresh(name);
    assert_true(planted_write(&p, dir, NULL));
    ebb_config k = settings(1, 39);
    wants(&k, "block_out.mean");
    k.probe.bootstrap = 200;
    k.probe.seed = (int64_t)w;
    ebb_results r;
    study(dir, &k, &r);
    assert_int_equal(r.row_count, 3);
    for (int i = 0; i < 3; i++) {
      const ebb_row *row = &r.rows[i];
      double value = row->metric[EBB_ACCURACY].value;
      nested += value / (3 * worlds);
      square += (value - 0.5) * (value - 0.5) / (3 * worlds);
      best += row->top_once / (3 * worlds);
      floors += row->permuted.mean / (3 * worlds);
      rejected += row->p <= 0.1;
      nested_rejected += row->nested_p <= 0.1;
      covered += row->metric[EBB_ACCURACY].low <= 0.5 && 0.5 <= row->metric[EBB_ACCURACY].high;
    }
    ebb_results_free(&r);
    free(dir);
  }
  assert_true(fabs(nested - 0.5) < 3.5 * sqrt(square / (3 * worlds)));
  assert_true(best > 0.58);
  assert_true(fabs(best - floors) < 0.02);
  assert_in_range(covered, 62, 72); /* of 72; the plain bootstrap covers fewer (probe/stats.h) */
  assert_in_range(nested_rejected, 1, 17);
  assert_in_range(rejected, 1, 17); /* of 72 at the 10 % level: 7.2 expected, 3.9 standard deviations up */
}

/* What one head knows at one block and step is found there when each head is a cell, by groups that chose
 * nothing, and is more than all the others by what the best of so many reaches by chance. */
static void a_head_is_found(void **state) {
  (void)state;
  const planted p = {.categories = 1,
                     .groups = 20,
                     .steps = 3,
                     .blocks = 4,
                     .width = 6,
                     .block = 2,
                     .step = 1,
                     .head_signal = 2.5,
                     .seed = 6};
  char *dir = fresh("heads");
  assert_true(planted_write(&p, dir, NULL));
  ebb_config k = settings(2, 99);
  wants(&k, "attn_entropy");
  for (int with = 0; with < 3; with++) {
    static const char *const heads[3] = {"joined", "each", "both"};
    strcpy(k.probe.heads, heads[with]);
    ebb_results r;
    study(dir, &k, &r);
    assert_int_equal(r.row_count, with == 2 ? 2 : 1);
    if (with != 1) {
      const ebb_row *joined = row_of(&r, "O1", "transformer", "attn_entropy");
      assert_true(!joined->by_head && joined->width == 18 && ebb_row_cells(joined) == 12);
      assert_int_equal(joined->top, 1 * 4 + 2);
    }
    if (with != 0) {
      const ebb_row *row = row_of(&r, "O1", "transformer", "attn_entropy.head");
      const int planted_cell = ebb_cell_number(row, 1, 2, 1);
      const ebb_cell at = ebb_cell_of(row, planted_cell);
      assert_true(row->by_head && row->head_count == 2 && row->width == 9 && ebb_row_cells(row) == 24);
      assert_true(planted_cell == 13 && at.step == 1 && at.block == 2 && at.head == 1);
      assert_true(row->chosen == planted_cell && row->top == planted_cell);
      assert_true(row->selected[planted_cell] > 1 - 1e-9);
      assert_true(row->metric[EBB_ACCURACY].low > 0.8);
      assert_true(row->nested_p <= 0.011 && row->p <= 0.011 && row->cell_p[planted_cell] == row->p);
      for (int cell = 0; cell < 24; cell++)
        if (cell != planted_cell)
          assert_true(row->cell[EBB_ACCURACY][cell] < 0.75 && row->cell_p[cell] > 0.02);
    }
    ebb_results_free(&r);
  }
  free(dir);
}

static bool same_file(const char *a, const char *b, const char *name) {
  char *pa = ebb_path_join(a, name), *pb = ebb_path_join(b, name), ha[65], hb[65];
  bool same = ebb_file_sha256(pa, ha, NULL) && ebb_file_sha256(pb, hb, NULL) && !strcmp(ha, hb);
  free(pa);
  free(pb);
  return same;
}

/* results.json as it was before there were presets and every cell had a p. */
static void forget_preset(const char *probe) {
  char *path = ebb_path_join(probe, "results.json");
  json_t *o = json_load_file(path, 0, NULL), *row;
  size_t i;
  assert_int_equal(json_object_del(o, "preset"), 0);
  json_array_foreach(json_object_get(o, "rows"), i, row)
      assert_int_equal(json_object_del(json_object_get(row, "cells"), "p"), 0);
  assert_int_equal(json_dump_file(o, path, JSON_REAL_PRECISION(10)), 0);
  json_decref(o);
  free(path);
}

static void files_are_written_and_read_back(void **state) {
  (void)state;
  const planted p = {.categories = 2,
                     .groups = 8,
                     .steps = 3,
                     .blocks = 4,
                     .width = 10,
                     .block = 2,
                     .step = 1,
                     .signal = 2,
                     .head_signal = 1,
                     .seed = 4};
  char *dir = fresh("files"), *probe = ebb_path_join(dir, "probe"), *keep = fresh("keep");
  char *first = NULL, *second = NULL;
  size_t a = 0, b = 0;
  ebb_config k = settings(2, 9);
  strcpy(k.probe.heads, "both");
  ebb_error err = {""};
  FILE *table = open_memstream(&first, &a);
  int threads = omp_get_max_threads();
  assert_true(planted_write(&p, dir, NULL));
  assert_false(ebb_report_run(dir, -1, NULL, &err)); /* not probed yet */
  assert_non_null(strstr(err.text, "ebb probe"));
  omp_set_num_threads(1);
  assert_true(ebb_probe_run(dir, &k, &c, NULL, NULL, table, NULL));
  fclose(table);
  assert_int_equal(rename(probe, keep), 0);
  omp_set_num_threads(3); /* the same bytes from any number of threads */
  assert_true(ebb_probe_run(dir, &k, &c, NULL, NULL, NULL, NULL));
  omp_set_num_threads(threads);
  const char *names[] = {"results.json", "results.csv",  "cells.csv",
                         "margins.csv",  "overview.png", "heat-O1-transformer-attn_entropy.head.png"};
  for (int i = 0; i < 6; i++)
    assert_true(same_file(probe, keep, names[i]));
  table = open_memstream(&second, &b);
  for (int i = 4; i < 6; i++) {
    char *path = ebb_path_join(probe, names[i]);
    assert_int_equal(unlink(path), 0);
    free(path);
  }
  assert_true(ebb_report_run(dir, -1, table, NULL));
  fclose(table);
  assert_string_equal(first, second);
  for (int i = 4; i < 6; i++)
    assert_true(same_file(probe, keep, names[i]));
  char *shard = ebb_path_join(dir, "features/transformer/shard-00000.safetensors");
  assert_int_equal(unlink(shard), 0); /* no maps, no step: the features are not needed */
  free(shard);
  assert_true(ebb_report_run(dir, -1, NULL, NULL));
  assert_false(ebb_report_run(dir, 1, NULL, &err));
  err.text[0] = '\0';
  forget_preset(probe);
  free(second);
  table = open_memstream(&second, &b);
  if (!ebb_report_run(dir, -1, table, &err))
    fail_msg("%s", err.text);
  fclose(table);
  assert_string_equal(first, second);
  for (char *line = strtok(second, "\n"); line; line = strtok(NULL, "\n"))
    assert_true(strlen(line) <= 100);
  free(first);
  free(second);
  free(keep);
  free(probe);
  free(dir);
}

/* [count] zeros. */
static json_t *zeros(int count) {
  json_t *a = json_array();
  for (int i = 0; i < count; i++)
    json_array_append_new(a, json_integer(0));
  return a;
}

/* Reads a results.json of one row, changed; the error must say `words`. */
static void refuses(json_t *o, const char *dir, const char *words) {
  char *path = ebb_path_join(dir, "results.json");
  ebb_results r;
  ebb_error err = {""};
  assert_int_equal(json_dump_file(o, path, 0), 0);
  assert_false(ebb_results_read(&r, dir, &err));
  if (!strstr(err.text, words))
    fail_msg("'%s' does not say '%s'", err.text, words);
  json_decref(o);
  free(path);
}

/* Counts from a file: more cells than an int holds, and arrays of another size. */
static void hostile_counts_are_refused(void **state) {
  (void)state;
  const planted p = {.categories = 1, .groups = 8, .steps = 1, .blocks = 1, .width = 3, .seed = 4};
  char *dir = fresh("hostile"), *probe = ebb_path_join(dir, "probe"),
       *path = ebb_path_join(probe, "results.json");
  ebb_config k = settings(1, 0);
  assert_true(planted_write(&p, dir, NULL));
  wants(&k, "attn_entropy");
  strcpy(k.probe.heads, "each");
  assert_true(ebb_probe_run(dir, &k, &c, NULL, NULL, NULL, NULL));
  json_t *good = json_load_file(path, 0, NULL);
  for (int i = 0; i < 5; i++) {
    json_t *o = json_deep_copy(good), *row = json_array_get(json_object_get(o, "rows"), 0);
    if (i == 0 || i == 1) { /* 2^36 and 2^25 */
      json_object_set_new(row, "steps", zeros(4096));
      json_object_set_new(row, "sigmas", zeros(4096));
      json_object_set_new(row, "blocks", zeros(4096));
      json_object_set_new(row, "heads", json_integer(i ? 2 : 4096));
    } else if (i == 2) {
      json_object_set_new(row, "blocks", zeros(2));
    } else if (i == 3) {
      json_object_set_new(row, "blocks", json_null());
    } else {
      json_object_set_new(row, "sigmas", zeros(2));
    }
    static const char *const words[] = {
        "4096 steps x 4096 blocks x 4096 heads: expected at most 16777216 cells",
        "4096 steps x 4096 blocks x 2 heads: expected at most 16777216 cells",
        "\"pairwise\" is missing or not", "\"heads\" is missing or not", "\"sigmas\" is missing or not"};
    refuses(o, probe, words[i]);
  }
  json_decref(good);
  assert_true(ebb_cells_fit(4096, 4096, 1) && !ebb_cells_fit(4096, 4096, 2));
  assert_false(ebb_cells_fit(1, INT64_MAX, 2));
  ebb_store store = {0};
  ebb_results r;
  ebb_error err = {""};
  assert_true(ebb_store_open(&store, dir, &err));
  for (int i = 0; i < store.set_count; i++) {
    int f = ebb_store_feature(&store.sets[i], "attn_entropy");
    if (f >= 0)
      store.sets[i].features[f].shape[1] = (int64_t)1 << 32; /* (int) of it is 0 */
  }
  assert_false(ebb_study_run(&store, &k, &c, NULL, NULL, &r, &err));
  assert_non_null(strstr(err.text, "1 steps x 1 blocks x 4294967296 heads: expected at most 16777216 cells"));
  ebb_store_close(&store);
  free(path);
  free(probe);
  free(dir);
}

/* Cells of a large model have long names: none is cut, and columns stay one below the other. */
static void places_are_not_cut(void **state) {
  (void)state;
  int steps[] = {250}, blocks[] = {29};
  ebb_row rows[2] = {{.category = "O1",
                      .model = "transformer",
                      .feature = "attn_frames.head",
                      .step_count = 1,
                      .block_count = 1,
                      .head_count = 12,
                      .by_head = true,
                      .steps = steps,
                      .blocks = blocks,
                      .chosen = 11,
                      .top_once = 0.5},
                     {.category = "O1",
                      .model = "vae",
                      .feature = "latent.mean",
                      .step_count = 1,
                      .block_count = 1,
                      .head_count = 1,
                      .steps = steps,
                      .top_once = 0.5}};
  const ebb_results results = {.preset = "strict", .folds = 5, .repeats = 1, .row_count = 2, .rows = rows};
  char *text = NULL;
  size_t bytes = 0;
  FILE *out = open_memstream(&text, &bytes);
  ebb_results_print(&results, out);
  fclose(out);
  assert_non_null(strstr(text, " chosen     top flr "));
  assert_non_null(strstr(text, " b29h11s250 .50 "));
  assert_non_null(strstr(text, " s250       .50 "));
  free(text);
}

static void errors_are_told(void **state) {
  (void)state;
  const planted p = {.categories = 1, .groups = 4, .steps = 1, .blocks = 1, .width = 3, .seed = 4};
  char *dir = fresh("errors"), *none = fresh("none");
  ebb_config k = settings(1, 0);
  ebb_error err = {""};
  assert_false(ebb_probe_run(none, &k, &c, NULL, NULL, NULL, &err));
  assert_non_null(strstr(err.text, "none"));
  assert_true(planted_write(&p, dir, NULL));
  err.text[0] = '\0';
  assert_false(ebb_probe_run(dir, &k, &c, NULL, NULL, NULL, &err));
  assert_non_null(strstr(err.text, "O1: 4 groups"));
  k.probe.folds = k.probe.inner_folds = 2;
  wants(&k, "blok_out");
  err.text[0] = '\0';
  assert_false(ebb_probe_run(dir, &k, &c, NULL, NULL, NULL, &err));
  assert_non_null(
      strstr(err.text, "asks for blok_out; this run has block_out.mean, attn_entropy, latent.mean"));
  wants(&k, "block_out.mean");
  strcpy(k.probe.heads, "each");
  err.text[0] = '\0';
  assert_false(ebb_probe_run(dir, &k, &c, NULL, NULL, NULL, &err));
  assert_non_null(strstr(err.text, "probe.heads is each, but no probed feature has heads"));
  char *probe = ebb_path_join(dir, "probe");
  assert_int_not_equal(access(probe, F_OK), 0); /* nothing half-written */
  free(probe);
  free(none);
  free(dir);
}

static char *slurp(const char *dir, const char *name) {
  char *path = ebb_path_join(dir, name), *text = calloc(1 << 20, 1);
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  size_t n = fread(text, 1, (1 << 20) - 1, f);
  assert_true(n > 0);
  fclose(f);
  free(path);
  return text;
}

/* Terms of the data's makers stand below the table, now and when it is printed again, and with the numbers. */
static void the_notice_of_the_data_is_shown(void **state) {
  (void)state;
  const planted p = {.categories = 1,
                     .groups = 8,
                     .steps = 1,
                     .blocks = 1,
                     .width = 4,
                     .signal = 2,
                     .seed = 4,
                     .notice = "not to be trained on"};
  char *dir = fresh("notice"), *probe = ebb_path_join(dir, "probe"), *table[2] = {NULL, NULL};
  size_t bytes;
  ebb_config k = settings(1, 0);
  wants(&k, "block_out.mean");
  assert_true(planted_write(&p, dir, NULL));
  for (int again = 0; again < 2; again++) {
    FILE *out = open_memstream(&table[again], &bytes);
    assert_true(again ? ebb_report_run(dir, -1, out, NULL)
                      : ebb_probe_run(dir, &k, &c, NULL, NULL, out, NULL));
    fclose(out);
    assert_non_null(strstr(table[again], "\nnot to be trained on\n"));
    free(table[again]);
  }
  char *json = slurp(probe, "results.json");
  assert_non_null(strstr(json, "\"notice\": \"not to be trained on\""));
  free(json);
  free(probe);
  free(dir);
}

/* A signal that nothing misses, with and without a bootstrap: exact limits over 8 groups (.025^(1/8) = .6306), or no
 * interval anywhere. */
static void intervals_that_are_none(void **state) {
  (void)state;
  const planted p = {
      .categories = 1, .groups = 8, .steps = 2, .blocks = 2, .width = 8, .signal = 200, .seed = 4};
  char *dir = fresh("limits"), *probe = ebb_path_join(dir, "probe");
  assert_true(planted_write(&p, dir, NULL));
  for (int with = 0; with < 2; with++) {
    ebb_config k = settings(1, 0);
    k.probe.bootstrap = with ? 100 : 0;
    wants(&k, "block_out.mean");
    char *table = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&table, &bytes);
    assert_true(ebb_probe_run(dir, &k, &c, NULL, NULL, out, NULL));
    fclose(out);
    ebb_results r;
    assert_true(ebb_results_read(&r, probe, NULL));
    const ebb_row *row = row_of(&r, "O1", "transformer", "block_out.mean");
    char *json = slurp(probe, "results.json"), *csv = slurp(probe, "results.csv");
    for (int m = 0; m < EBB_METRICS; m++) {
      const ebb_interval *i = &row->metric[m];
      assert_true(i->value == 1);
      assert_true(with ? fabs(i->low - 0.6306) < 5e-5 && i->high == 1 : isnan(i->low) && isnan(i->high));
      assert_true(with ? i->bca_low == 1 && i->percentile_low == 1 : isnan(i->bca_low));
    }
    assert_int_equal(strstr(json, "\"low\": null") != NULL, !with);
    assert_int_equal(strstr(csv, ",1,,,1,,,1,,,") != NULL, !with);
    assert_int_equal(strstr(csv, ",1,0.630") != NULL, with);
    assert_int_equal(strstr(table, "[-,-]") != NULL, !with);
    assert_int_equal(strstr(table, "bootstrap over groups") != NULL, with);
    assert_int_equal(strstr(table, "exact binomial") != NULL, with);
    for (char *line = strtok(table, "\n"); line; line = strtok(NULL, "\n"))
      assert_true(strlen(line) <= 100);
    free(json);
    free(csv);
    free(table);
    ebb_results_free(&r);
  }
  free(probe);
  free(dir);
}

/* Best cell, floor and p are one statistic, of the first repeat: more repeats change the map and leave them. */
static void best_is_of_the_first_repeat(void **state) {
  (void)state;
  const planted p = {
      .categories = 1, .groups = 12, .steps = 3, .blocks = 3, .width = 6, .signal = 0, .seed = 8};
  char *dir = fresh("first");
  assert_true(planted_write(&p, dir, NULL));
  ebb_results one, three;
  for (int i = 0; i < 2; i++) {
    ebb_config k = settings(i ? 3 : 1, 19);
    wants(&k, "block_out.mean");
    k.probe.bootstrap = 50;
    study(dir, &k, i ? &three : &one);
  }
  int moved = 0;
  for (int i = 0; i < one.row_count; i++) {
    const ebb_row *a = &one.rows[i], *b = &three.rows[i];
    int top = a->top;
    assert_true(a->top_once == b->top_once && a->p == b->p && a->permuted.mean == b->permuted.mean);
    assert_int_equal(top, b->top);
    assert_true(fabs(a->cell[EBB_ACCURACY][top] - a->top_once) <
                1e-12); /* one repeat: the map is that repeat */
    for (int cell = 0; cell < ebb_row_cells(a); cell++)
      assert_true(a->cell[EBB_ACCURACY][cell] <= a->top_once + 1e-12);
    moved += fabs(b->cell[EBB_ACCURACY][top] - b->top_once) > 1e-12;
  }
  assert_true(moved > 0);
  ebb_results_free(&one);
  ebb_results_free(&three);
  free(dir);
}

/* ---- before an inversion ---- */

static const char *checked(const ebb_dataset *set, const ebb_config *k) {
  static ebb_error err;
  err.text[0] = '\0';
  bool ok = ebb_probe_check(set, k, &err);
  assert_int_equal(ok, err.text[0] == '\0');
  return err.text;
}

static void checks_before_an_inversion(void **state) {
  (void)state;
  static char ids[32][32], groups[32][32];
  ebb_video videos[32];
  for (int v = 0; v < 32; v++) { /* 2 categories of 4 groups */
    snprintf(ids[v], sizeof ids[v], "O%d/%d/%d", v / 16 + 1, v / 4, v % 4);
    snprintf(groups[v], sizeof groups[v], "O%d/%d", v / 16 + 1, v / 4);
    videos[v] = (ebb_video){.id = ids[v],
                            .group = groups[v],
                            .category = v < 16 ? "O1" : "O2",
                            .label = v % 2 ? EBB_POSSIBLE : EBB_IMPOSSIBLE};
  }
  ebb_dataset set = {.root = "set", .videos = videos, .count = 32};
  ebb_config k = settings(1, 0);
  assert_non_null(strstr(checked(&set, &k), "O1: 4 groups with possible and impossible videos"));
  assert_non_null(strstr(checked(&set, &k), "needs at least 5"));
  strcpy(k.probe.by, "all");
  assert_string_equal(checked(&set, &k), "");
  strcpy(k.probe.by, "block");
  assert_non_null(strstr(checked(&set, &k), "probe.by"));
  strcpy(k.probe.by, "category");
  k.probe.folds = k.probe.inner_folds = 2;
  assert_string_equal(checked(&set, &k), "");
  videos[17].label = videos[19].label = EBB_IMPOSSIBLE;
  assert_non_null(strstr(checked(&set, &k), "O2: 3 groups"));
  videos[21].label = videos[23].label = EBB_UNLABELLED;
  assert_non_null(strstr(checked(&set, &k), "O2: 2 groups"));
  set.count = 16;
  assert_string_equal(checked(&set, &k), "");
  strcpy(k.probe.preset, "loose");
  assert_non_null(strstr(checked(&set, &k), "probe.preset"));
  strcpy(k.probe.preset, "strict");
  const char *const there[4] = {"block_out.mean", "latent.mean", "latent.frame_mean", "latent.motion"};
  for (int i = 0; i < 4; i++) {
    wants(&k, there[i]);
    assert_string_equal(checked(&set, &k), "");
  }
  wants(&k, "attn_entropy");
  assert_non_null(strstr(checked(&set, &k),
                         "asks for attn_entropy; this run will have block_out.mean, latent.mean, "
                         "latent.frame_mean, latent.motion ("));
  assert_true(ebb_config_set(&k, "capture.points=[attn_entropy, latent]", NULL));
  assert_true(ebb_config_set(&k, "capture.pool=[moments, mean]", NULL));
  assert_string_equal(checked(&set, &k), "");
  wants(&k, "latent.moments");
  assert_string_equal(checked(&set, &k), "");
  strcpy(k.probe.heads, "both");
  assert_non_null(
      strstr(checked(&set, &k), "probe.heads is both, but no feature that will be probed has heads"));
  k.probe.features.count = 0;
  assert_string_equal(checked(&set, &k), "");
  strcpy(k.probe.heads, "all");
  assert_non_null(strstr(checked(&set, &k), "probe.heads"));
  strcpy(k.probe.heads, "joined");
  wants(&k, "attn_entropy.mean");
  assert_non_null(strstr(checked(&set, &k), "attn_entropy, latent.moments, latent.mean, latent.frame_mean"));
  set.count = 0;
  wants(&k, "latent.mean");
  assert_non_null(strstr(checked(&set, &k), "no labelled video"));
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
      cmocka_unit_test(planted_truth_is_found),
      cmocka_unit_test(additive_pairs_are_even),
      cmocka_unit_test(nested_is_unbiased),
      cmocka_unit_test(a_head_is_found),
      cmocka_unit_test(files_are_written_and_read_back),
      cmocka_unit_test(places_are_not_cut),
      cmocka_unit_test(errors_are_told),
      cmocka_unit_test(hostile_counts_are_refused),
      cmocka_unit_test(intervals_that_are_none),
      cmocka_unit_test(the_notice_of_the_data_is_shown),
      cmocka_unit_test(best_is_of_the_first_repeat),
      cmocka_unit_test(checks_before_an_inversion),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
