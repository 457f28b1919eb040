/* The official probe's files, and what is wrong with its protocol and not with ours. */
#include "probe/csv.h"
#include "probe/torch_order.h"
#include "tests/official_run.h"

/* ---- the official probe's files ---- */

#define FILES "probed/probe/official/transformer/block_out.mean/"

/* Rows of the per-video file against the curve and the pairs, all in one place. */
static void released_writes_the_official_files(void **state) {
  (void)state;
  assert_true(planted_write(&strong, at("probed"), NULL));
  ebb_config k = released(3);
  probed(at("probed"), &k);
  char *scenes = whole(at(FILES "probe_scenes_step0002.csv"));
  static const char scenes_head[] = "scene_dir,label\nO1_01_1/step_0002,1\nO1_01_2/step_0002,0\n";
  assert_memory_equal(scenes, scenes_head, strlen(scenes_head));
  assert_non_null(strstr(scenes, "\nO2_12_4/step_0002,1\n")); /* all of the run, whatever the category */
  char *curve = whole(at(FILES "probe_pairwise_results_step0002_O1.csv"));
  assert_memory_equal(curve, "block,per_video_acc,pair_acc\n0,", 31);
  char *videos = whole(at(FILES "probe_pairwise_pervideo_step0002_O1.csv"));
  static const char head[] =
      "scene_dir,label,scenario,block_00,score_block_00,pred_block_00,block_01,score_block_01,"
      "pred_block_01,block_02,score_block_02,pred_block_02\n";
  assert_memory_equal(videos, head, strlen(head));
  int64_t order[40];
  assert_true(ebb_torch_order(40, 3, order, NULL));
  bool held_out[40] = {false};
  for (int i = 0; i < 8; i++) /* round(40 * 0.2) */
    held_out[order[i]] = true;
  double right = 0, won = 0, score[32];
  int label[32], group[32], rows = 0;
  const char *line = videos + strlen(head);
  for (; *line; line = strchr(line, '\n') + 1, rows++) {
    int scene, scenario, flags[3], predicted[3];
    double scores[3];
    assert_true(rows < 32);
    assert_int_equal(sscanf(line, "O1_%d_%d/step_0002,%d,O1_%d,%d,%lf,%d,%d,%lf,%d,%d,%lf,%d", &group[rows],
                            &scene, &label[rows], &scenario, flags, scores, predicted, flags + 1, scores + 1,
                            predicted + 1, flags + 2, scores + 2, predicted + 2),
                     13);
    assert_true(scenario == group[rows] && held_out[group[rows] - 1]);
    assert_int_equal(label[rows], scene == 1 || scene == 4);
    for (int b = 0; b < 3; b++)
      assert_true(predicted[b] == (scores[b] > 0) && flags[b] == (predicted[b] == label[rows]));
    right += flags[1] / 32.0;
    score[rows] = scores[1];
  }
  assert_int_equal(rows, 32);
  for (int i = 0; i < 32; i++)
    for (int j = 0; j < 32; j++)
      won += label[i] && !label[j] && group[i] == group[j] ? (score[i] > score[j]) / 32.0 : 0;
  double accuracy, pairs;
  assert_int_equal(sscanf(strstr(curve, "\n1,"), "\n1,%lf,%lf", &accuracy, &pairs), 2);
  assert_true(fabs(accuracy - right) < 1e-6 && fabs(pairs - won) < 1e-6 && right > 0.6);
  char *matched = whole(at(FILES "probe_pairwise_perpair_step0002_O1.csv"));
  static const char pair_head[] =
      "scenario_id,plaus_video_idx,impos_video_idx,scenario,plaus_scene_dir,impos_scene_dir,"
      "block_00,block_01,block_02\n";
  assert_memory_equal(matched, pair_head, strlen(pair_head));
  int first, a, b;
  assert_int_equal(sscanf(matched + strlen(pair_head), "%d,%d,%d,O1_", &first, &a, &b), 3);
  assert_true(first == group[0] - 1 && a == 0 && b == 1);
  char *report = whole(at(FILES "probe_pairwise_results_step0002_O1.txt"));
  assert_non_null(
      strstr(report, "\nClass prefix:   O1\nEpochs:         50\nLR:             0.001\nBatch size:     32\n"
                     "Val split:      0.2 (group-aware by scenario)\nSeed:           3\n\n"));
  assert_non_null(strstr(
      report, "\nBlock         Per-video    Pair-wise\n------------------------------------\nblock_00   "));
  assert_non_null(strstr(report, "\nBest per-video block:    block_0"));
  free(scenes);
  free(curve);
  free(videos);
  free(matched);
  free(report);
}

/* A second run of the probe leaves nothing of the first where it is read, and results say of what bytes
 * they are. */
static void defect_12_results_are_of_these_features(void **state) {
  (void)state;
  assert_true(planted_write(&world, at("stale"), NULL));
  ebb_config k = released(3);
  probed(at("stale"), &k);
#define CURVE "stale/probe/official/transformer/block_out.mean/probe_pairwise_pervideo_step0002_O1.csv"
  char *first = whole(at(CURVE)), hash[65];
  k.probe.seed = 4;
  probed(at("stale"), &k);
  char *second = whole(at(CURVE));
  assert_string_not_equal(first, second);
  json_t *o = ebb_json_read(at("stale/probe/results.json"), NULL);
  const json_t *about = json_object_get(o, "provenance");
  assert_true(ebb_file_sha256(at("stale/index.json"), hash, NULL));
  assert_string_equal(json_string_value(json_object_get(about, "index_sha256")), hash);
  assert_non_null(strstr(json_string_value(json_object_get(about, "config")), " seed: 4\n"));
  json_decref(o);
  free(first);
  free(second);
}

/* The paper's number, and what it is worth with nothing to find. */
static void paper_tells_the_best_block_of_each_seed(void **state) {
  (void)state;
  planted w = world;
  w.signal = 0;
  assert_true(planted_write(&w, at("paper"), NULL));
  ebb_config k = released(0);
  strcpy(k.probe.preset, "paper");
  k.probe.repeats = 5;
  char *table = NULL;
  size_t bytes = 0;
  ebb_error err = {""};
  FILE *f = open_memstream(&table, &bytes);
  if (!ebb_probe_run(at("paper"), &k, &c, NULL, NULL, f, &err))
    fail_msg("%s", err.text);
  fclose(f);
  assert_non_null(
      strstr(table, "best block of each seed on its test videos, mean and standard error over 5 seeds"));
  free(table);
  ebb_results r;
  assert_true(ebb_results_read(&r, at("paper/probe"), &err));
  const ebb_row *row = &r.rows[0];
  assert_string_equal(r.preset, "paper");
  for (int s = 0; s < 2; s++) { /* from what the official files say of each seed */
    double mean = 0, square = 0;
    for (int seed = 0; seed < 5; seed++) {
      char name[160];
      double best = 0, accuracy;
      snprintf(
          name, sizeof name,
          "paper/probe/official/transformer/block_out.mean/seed%d/probe_pairwise_results_step%04d_O1.csv",
          seed, 2 * s);
      char *curve = whole(at(name));
      const char *line = strchr(curve, '\n') + 1;
      for (int block = 0; block < 3; block++, line = strchr(line, '\n') + 1) {
        assert_int_equal(sscanf(line, "%*d,%lf", &accuracy), 1);
        best = fmax(best, accuracy);
      }
      free(curve);
      mean += best / 5;
      square += best * best;
    }
    assert_true(fabs(row->step_mean[s] - mean) < 1e-6);
    assert_true(fabs(row->step_error[s] - sqrt((square - 5 * mean * mean) / 4 / 5)) < 1e-6);
  }
  assert_int_equal(access(at("paper/probe/best_block.csv"), R_OK), 0);
  assert_int_equal(access(at("paper/probe/official/transformer/block_out.mean/seed4/"
                             "probe_pairwise_results_step0000_O2.csv"),
                          R_OK),
                   0);
  ebb_results_free(&r);
}

/* With nothing to find, the best block looked up on the test videos finds something; groups that chose
 * nothing do not. */
static void defect_14_what_chooses_is_not_judged(void **state) {
  (void)state;
  double chosen_on_test = 0, nested = 0;
  int rows = 0;
  planted w = world;
  w.signal = 0;
  w.blocks = 8;
  assert_true(planted_write(&w, at("chosen"), NULL));
  for (int strict = 0; strict < 2; strict++) {
    ebb_config k = released(1);
    strcpy(k.probe.preset, strict ? "strict" : "paper");
    k.probe.repeats = 3;
    probed(at("chosen"), &k);
    ebb_results r;
    assert_true(ebb_results_read(&r, at("chosen/probe"), NULL));
    for (int i = 0; i < r.row_count; i++) {
      *(strict ? &nested : &chosen_on_test) += r.rows[i].metric[EBB_ACCURACY].value;
      rows += strict;
    }
    ebb_results_free(&r);
  }
  assert_true(rows == 6 && fabs(nested / rows - 0.5) < 0.05);
  assert_true(chosen_on_test / rows > 0.6);
}

/* Groups of one possible and one impossible video, one block of many columns that each say a little: there
 * the official training arrives. */
static void centred_write(const char *dir, int groups, int width, double signal, uint64_t seed) {
  int64_t n = 2 * (int64_t)groups, all[128];
  ebb_video videos[128];
  assert_true(n <= 128);
  float *x = calloc((size_t)(n * width), sizeof *x);
  for (int64_t v = 0; v < n; v++) {
    videos[v] = (ebb_video){.id = ebb_format("O1/%02d/%d", (int)v / 2, (int)v % 2),
                            .path = "",
                            .group = ebb_format("O1/%02d", (int)v / 2),
                            .category = "O1",
                            .label = v % 2 ? EBB_POSSIBLE : EBB_IMPOSSIBLE,
                            .item = -1};
    all[v] = v;
    for (int j = 0; j < width; j++)
      x[v * width + j] =
          (float)(planted_normal(seed, (uint64_t)j, (uint64_t)v) + (v % 2 ? 1 : -1) * signal / sqrt(width));
  }
  int steps[1] = {50}, blocks[1] = {0}, id;
  double sigma[1] = {0.5};
  ebb_dataset set = {.root = "", .videos = videos, .count = n};
  ebb_feature mean = {"block_out.mean", true, false, 2, {1, width}};
  ebb_feature_set fs = {"transformer", 1, steps, sigma, 1, blocks, 1, &mean};
  const float *data[1] = {x};
  ebb_store_writer *w;
  assert_true(ebb_store_create(&w, dir, &set, NULL) && ebb_store_declare(w, &fs, &id, NULL) &&
              ebb_store_write(w, id, n, all, data, NULL) && ebb_store_finish(&w, NULL, NULL));
  for (int64_t v = 0; v < n; v++) {
    free(videos[v].id);
    free(videos[v].group);
  }
  free(x);
}

/* The standard error over seeds is of splits of the same few groups: over data sets of one world the
 * paper's number errs by more than it says, and more seeds make it smaller, not the error. The interval
 * over groups covers. */
static void defect_15_seeds_do_not_replace_an_interval(void **state) {
  (void)state;
  enum { SETS = 30 };
  double mean[SETS], error[SETS], low[SETS], high[SETS], grand = 0, outside = 0, covered = 0;
  for (int i = 0; i < SETS; i++) {
    char name[32], probe[40];
    snprintf(name, sizeof name, "seeds%d", i);
    snprintf(probe, sizeof probe, "%s/probe", name);
    centred_write(at(name), 20, 256, 2.5, 70 + (uint64_t)i);
    ebb_config k = released(0);
    strcpy(k.probe.preset, "paper");
    k.probe.repeats = 20;
    probed(at(name), &k);
    ebb_results r;
    assert_true(ebb_results_read(&r, at(probe), NULL));
    const ebb_row *row = &r.rows[0];
    mean[i] = row->step_mean[0];
    error[i] = row->step_error[0];
    grand += mean[i] / SETS;
    low[i] = row->metric[EBB_ACCURACY].low;
    high[i] = row->metric[EBB_ACCURACY].high;
    ebb_results_free(&r);
  }
  for (int i = 0; i < SETS; i++) {
    outside += fabs(mean[i] - grand) > 1.96 * error[i];
    covered += low[i] < grand && grand < high[i];
  }
  assert_true(outside / SETS > 0.25); /* 0.05, if it meant what it seems to */
  assert_true(covered / SETS > 0.85);
}

/* Columns of other sizes: strict does not see them, what the official code finds hangs on them. */
static void defect_26_scale_is_taken_out_inside_the_fold(void **state) {
  (void)state;
  assert_true(planted_write(&world, at("as-it-is"), NULL));
  exported(at("as-it-is"), at("scaled-folder"), &(ebb_official_export){0});
  ebb_store store;
  opened(&store, at("as-it-is"));
  for (int64_t v = 0; v < store.video_count; v++) {
    char *stem = ebb_official_stem(store.videos[v].id);
    for (int s = 0; s < 2; s++) {
      char name[96];
      float x[24];
      ebb_pt pt;
      snprintf(name, sizeof name, "scaled-folder/%s/step_%04d/block_outputs.pt", stem, 2 * s);
      assert_true(ebb_pt_open(&pt, at(name), NULL));
      ebb_pt_floats(&pt.tensors[0], x);
      ebb_pt_close(&pt);
      for (int i = 0; i < 24; i++)
        x[i] *= i % 8 == 0 ? 1.0f / 1024 : 64; /* the signal is in columns 0, 8, ... */
      assert_true(ebb_pt_write(at(name), 3, (const int64_t[3]){3, 1, 8}, x, NULL));
    }
    free(stem);
  }
  ebb_store_close(&store);
  imported(at("scaled-folder"), (ebb_official_import){0}, at("scaled"));
  double accuracy[2][2];
  for (int run = 0; run < 2; run++)
    for (int strict = 0; strict < 2; strict++) {
      ebb_config k = released(3);
      k.probe.repeats = 2;
      if (strict)
        strcpy(k.probe.preset, "strict");
      probed(at(run ? "scaled" : "as-it-is"), &k);
      ebb_results r;
      assert_true(ebb_results_read(&r, at(run ? "scaled/probe" : "as-it-is/probe"), NULL));
      accuracy[strict][run] = r.rows[0].cell[EBB_ACCURACY][4]; /* step 1, block 1, of O1's transformer */
      ebb_results_free(&r);
    }
  assert_true(accuracy[1][0] > 0.8 && fabs(accuracy[1][1] - accuracy[1][0]) < 1e-9);
  assert_true(accuracy[0][1] < accuracy[0][0] - 0.1);
}

/* ---- numbers as Python writes them ---- */

static void numbers_are_pythons(void **state) {
  (void)state;
  static const struct {
    double v;
    const char *text;
  } cases[] = {{1, "1.0"},
               {0, "0.0"},
               {-0.0, "-0.0"},
               {0.8541666865348816, "0.8541666865348816"},
               {0.1, "0.1"},
               {1e-4, "0.0001"},
               {1e-5, "1e-05"},
               {-1.5e-7, "-1.5e-07"},
               {123456789.5, "123456789.5"},
               {1e15, "1000000000000000.0"},
               {1e16, "1e+16"},
               {1.25e300, "1.25e+300"},
               {5e-324, "5e-324"},
               {(double)0.1f, "0.10000000149011612"},
               {1.0 / 3, "0.3333333333333333"},
               {100, "100.0"},
               {NAN, ""}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    ebb_csv_repr(f, cases[i].v);
    fclose(f);
    assert_string_equal(text, cases[i].text);
    free(text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(released_writes_the_official_files),
      cmocka_unit_test(defect_12_results_are_of_these_features),
      cmocka_unit_test(paper_tells_the_best_block_of_each_seed),
      cmocka_unit_test(defect_14_what_chooses_is_not_judged),
      cmocka_unit_test(defect_15_seeds_do_not_replace_an_interval),
      cmocka_unit_test(defect_26_scale_is_taken_out_inside_the_fold),
      cmocka_unit_test(numbers_are_pythons),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
