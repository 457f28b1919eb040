/* The official code's run folder: what we write, what we read, and that both are the same run. */
#include "tests/official_run.h"

#include <sys/wait.h>

static void same_text(const char *a, const char *b) {
  assert_int_equal(a != NULL, b != NULL);
  if (a)
    assert_string_equal(a, b);
}

/* Features, steps, blocks, sigmas and all that is said of the videos. */
static void same_run(const char *one, const char *other) {
  ebb_store a, b;
  float x[64], y[64];
  opened(&a, one);
  opened(&b, other);
  assert_int_equal(a.video_count, b.video_count);
  int set = ebb_store_find(&a, "transformer"), again = ebb_store_find(&b, "transformer");
  const ebb_feature_set *s = &a.sets[set], *t = &b.sets[again];
  assert_true(s->step_count == t->step_count && s->block_count == t->block_count);
  assert_memory_equal(s->steps, t->steps, (size_t)s->step_count * sizeof *s->steps);
  assert_memory_equal(s->blocks, t->blocks, (size_t)s->block_count * sizeof *s->blocks);
  for (int i = 0; i < s->step_count; i++)
    assert_true(s->sigmas[i] == t->sigmas[i]);
  for (int64_t v = 0; v < a.video_count; v++) {
    const ebb_store_video *p = &a.videos[v], *q = &b.videos[v];
    same_text(p->id, q->id);
    same_text(p->group, q->group);
    same_text(p->category, q->category);
    assert_int_equal(p->label, q->label);
    for (int k = 0; k < a.target_count; k++) {
      int there = -1;
      for (int m = 0; m < b.target_count; m++)
        there = strcmp(a.target_names[k], b.target_names[m]) == 0 ? m : there;
      assert_true(there >= 0);
      assert_true(isnan(p->targets[k]) ? isnan(q->targets[there]) : p->targets[k] == q->targets[there]);
    }
    for (int step = 0; step < s->step_count; step++)
      for (int block = 0; block < s->block_count; block++) {
        int64_t width = ebb_store_width(&s->features[ebb_store_feature(s, "block_out.mean")]);
        assert_true(ebb_store_gather(&a, set, ebb_store_feature(s, "block_out.mean"), step, block,
                                     EBB_ALL_HEADS, 1, &v, x, NULL));
        assert_true(ebb_store_gather(&b, again, 0, step, block, EBB_ALL_HEADS, 1, &v, y, NULL));
        assert_memory_equal(x, y, (size_t)width * sizeof *x);
      }
  }
  ebb_store_close(&a);
  ebb_store_close(&b);
}

static void there_and_back(void **state) {
  (void)state;
  assert_true(planted_write(&world, at("run"), NULL));
  assert_int_equal(exported(at("run"), at("folder"), &(ebb_official_export){0}), 96);
  ebb_official_found found = imported(at("folder"), (ebb_official_import){0}, at("again"));
  assert_true(found.videos == 96 && found.steps == 2 && found.blocks == 3 && found.width == 8);
  same_run(at("run"), at("again"));
  /* what the official reader looks at */
  ebb_pt pt;
  assert_true(ebb_pt_open(&pt, at("folder/O1_01_1/step_0002/block_outputs.pt"), NULL));
  assert_true(pt.tensors[0].rank == 3 && pt.tensors[0].shape[0] == 3 && pt.tensors[0].shape[1] == 1 &&
              pt.tensors[0].shape[2] == 8 && pt.tensors[0].type == EBB_PT_FLOAT);
  ebb_pt_close(&pt);
  json_t *meta = ebb_json_read(at("folder/O1_01_2/meta.json"), NULL);
  assert_non_null(meta);
  static const char *const keys[] = {"prompt",     "label",  "path",  "num_inference_steps", "guidance_scale",
                                     "integrator", "height", "width", "num_frames",          "mode"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    assert_non_null(json_object_get(meta, keys[i]));
  assert_int_equal(json_integer_value(json_object_get(meta, "label")), 0);
  assert_null(json_object_get(meta, "init_conditions"));
  json_decref(meta);
  ebb_config k;
  ebb_error err = {""};
  if (!ebb_config_read(&k, at("again/config.yaml"), &err)) /* what `ebb probe` begins with */
    fail_msg("%s", err.text);
  assert_string_equal(k.name, "folder");
}

/* A folder without our part, as the official code writes it: names tell groups. */
static void names_tell_groups(void **state) {
  (void)state;
  static const struct {
    const char *stem, *group, *category;
    ebb_scenarios mode;
  } cases[] = {
      {"O3_12_4", "O3_12", "O3", EBB_SCENARIOS_INTPHYS},
      {"left__gravity__cup__ball__aab", "left__gravity__cup__ball", "gravity", EBB_SCENARIOS_INFLEVEL},
      {"left__continuity__cup__ball__ab__r2l", "left__continuity__cup__ball__r2l", "continuity",
       EBB_SCENARIOS_INFLEVEL},
      {"O3_12_4", "O3_12_4", "all", EBB_SCENARIOS_SCENE}};
  const float x[6] = {1, 3, 10, 30, 100, 300};
  const int64_t shape[3] = {1, 2, 3}; /* two tokens: their mean is taken */
  for (int i = 0; i < 4; i++) {
    char name[160], out[32];
    snprintf(name, sizeof name, "plain%d/%s/step_0050", i, cases[i].stem);
    assert_true(ebb_make_folders(at(name), NULL));
    strcat(name, "/block_outputs.pt");
    assert_true(ebb_pt_write(at(name), 3, shape, x, NULL));
    snprintf(name, sizeof name, "plain%d/%s/meta.json", i, cases[i].stem);
    put_text(at(name),
             "{\"prompt\": \"\", \"label\": 1, \"num_inference_steps\": 100, \"integrator\": \"heun\"}");
    snprintf(name, sizeof name, "plain%d", i);
    snprintf(out, sizeof out, "plain-run%d", i);
    imported(at(name), (ebb_official_import){.scenarios = cases[i].mode}, at(out));
    ebb_store store;
    opened(&store, at(out));
    assert_string_equal(store.videos[0].group, cases[i].group);
    assert_string_equal(store.videos[0].category, cases[i].category);
    assert_int_equal(store.videos[0].label, EBB_POSSIBLE);
    assert_true(store.sets[0].steps[0] == 50 && store.sets[0].sigmas[0] == 0.5);
    float back[3];
    int64_t video = 0;
    assert_true(ebb_store_gather(&store, 0, 0, 0, 0, EBB_ALL_HEADS, 1, &video, back, NULL));
    assert_true(back[0] == 15.5f && back[1] == 51.5f && back[2] == 155);
    ebb_store_close(&store);
  }
}

/* init_conditions are the ball's radius and speed, whatever the official code calls them. */
static void defect_01_the_first_initial_condition_is_r(void **state) {
  (void)state;
  const float x[2] = {1, 2};
  const int64_t shape[3] = {2, 1, 1};
  assert_true(ebb_make_folders(at("phy/00000_sample_00007/step_0000"), NULL));
  assert_true(ebb_pt_write(at("phy/00000_sample_00007/step_0000/block_outputs.pt"), 3, shape, x, NULL));
  put_text(at("phy/00000_sample_00007/meta.json"), "{\"label\": 0, \"init_conditions\": [0.75, 2.5]}");
  imported(at("phy"), (ebb_official_import){.scenarios = EBB_SCENARIOS_SCENE}, at("phy-run"));
  ebb_store store;
  opened(&store, at("phy-run"));
  assert_int_equal(store.target_count, 2);
  assert_string_equal(store.target_names[0], "r");
  assert_string_equal(store.target_names[1], "v");
  assert_true(store.videos[0].targets[0] == 0.75 && store.videos[0].targets[1] == 2.5);
  assert_int_equal(store.videos[0].label, EBB_UNLABELLED); /* 0 is a placeholder there */
  ebb_store_close(&store);
  exported(at("phy-run"), at("phy-back"), &(ebb_official_export){0});
  json_t *meta = ebb_json_read(at("phy-back/00000_sample_00007/meta.json"), NULL);
  const json_t *initial = json_object_get(meta, "init_conditions");
  assert_true(json_number_value(json_array_get(initial, 0)) == 0.75 &&
              json_number_value(json_array_get(initial, 1)) == 2.5);
  json_decref(meta);
}

/* noise_latent.pt comes in when it is asked for, and goes out where it is. */
static void latents_go_there_and_back(void **state) {
  (void)state;
  const float x[2] = {1, 2};
  float latent[24], back[24];
  const int64_t shape[3] = {2, 1, 1}, latent_shape[5] = {1, 2, 3, 2, 2};
  for (int scene = 0; scene < 2; scene++) {
    char name[128];
    snprintf(name, sizeof name, "noise/O1_01_%d/step_0000", scene + 1);
    assert_true(ebb_make_folders(at(name), NULL));
    strcat(name, "/block_outputs.pt");
    assert_true(ebb_pt_write(at(name), 3, shape, x, NULL));
    snprintf(name, sizeof name, "noise/O1_01_%d/meta.json", scene + 1);
    put_text(at(name), "{\"label\": 1}");
    for (int i = 0; i < 24; i++)
      latent[i] = (float)(100 * scene + i);
    snprintf(name, sizeof name, "noise/O1_01_%d/noise_latent.pt", scene + 1);
    assert_true(ebb_pt_write(at(name), 5, latent_shape, latent, NULL));
  }
  imported(at("noise"), (ebb_official_import){0}, at("noise-without"));
  ebb_store store;
  opened(&store, at("noise-without"));
  assert_int_equal(store.set_count, 1);
  ebb_store_close(&store);
  imported(at("noise"), (ebb_official_import){.latents = true}, at("noise-run"));
  exported(at("noise-run"), at("noise-back"), &(ebb_official_export){0});
  ebb_pt pt;
  assert_true(ebb_pt_open(&pt, at("noise-back/O1_01_2/noise_latent.pt"), NULL));
  assert_int_equal(pt.tensors[0].rank, 5);
  assert_memory_equal(pt.tensors[0].shape, latent_shape, sizeof latent_shape);
  ebb_pt_floats(&pt.tensors[0], back);
  assert_memory_equal(back, latent, sizeof back);
  ebb_pt_close(&pt);
}

/* A scene without one of its steps is an error that names it, not another scene in its place. */
static void defect_06_what_is_missing_is_told(void **state) {
  (void)state;
  assert_true(planted_targets_write(&numbers, at("gap"), NULL));
  exported(at("gap"), at("gap-folder"), &(ebb_official_export){0});
  assert_int_equal(remove(at("gap-folder/set_003_0/step_0010/block_outputs.pt")), 0);
  ebb_official_found found;
  ebb_error err = {""};
  assert_false(ebb_official_read(at("gap-folder"), &(ebb_official_import){0}, at("gap-run"), &found, &err));
  assert_says(&err, "set_003_0/step_0010/block_outputs.pt");
  assert_int_not_equal(access(at("gap-run/index.json"), F_OK), 0);
  const int64_t shape[3] = {4, 1, 6};
  float x[24] = {0};
  assert_true(ebb_pt_write(at("gap-folder/set_003_0/step_0010/block_outputs.pt"), 3, shape, x, NULL));
  assert_false(ebb_official_read(at("gap-folder"), &(ebb_official_import){0}, at("gap-run"), &found, &err));
  assert_says(&err, "(4, 1, 6), expected (4, tokens, 5)");
  assert_false(ebb_official_read(at("gap"), &(ebb_official_import){0}, at("gap-run"), &found, &err));
  assert_says(&err, "no folder with a meta.json");
  ebb_store store;
  int64_t videos;
  opened(&store, at("gap"));
  assert_false(ebb_official_write(&store, &(ebb_official_export){0}, at("gap-folder"), &videos, &err));
  assert_says(&err, "is there already");
  assert_false(
      ebb_official_write(&store, &(ebb_official_export){.feature = "none"}, at("gap-2"), &videos, &err));
  assert_says(&err, "has no feature none; it has block_out.mean");
  ebb_store_close(&store);
}

/* A run of some blocks: their numbers go out and come back, and stand in the columns of the official
 * files. */
/* With `from` (extended regular expression) as `to` in every meta.json the folder is refused with these words. */
static void meta_is_refused(const char *dir, const char *from, const char *to, const char *words) {
  char command[1200];
  ebb_official_found found;
  ebb_error err = {""};
  snprintf(command, sizeof command,
           "rm -rf %s-bad && cp -r %s %s-bad && sed -i -E 's/%s/%s/' %s-bad/*/meta.json && ! diff -rq %s "
           "%s-bad >/dev/null",
           dir, dir, dir, from, to, dir, dir, dir);
  assert_int_equal(system(command), 0);
  snprintf(command, sizeof command, "%s-bad", dir);
  assert_false(ebb_official_read(command, &(ebb_official_import){0}, at("refused"), &found, &err));
  assert_says(&err, words);
}

static void defect_09_blocks_keep_their_numbers(void **state) {
  (void)state;
  ebb_video videos[16];
  for (int i = 0; i < 16; i++)
    videos[i] = (ebb_video){.id = ebb_format("O1/%02d/%d", i / 4 + 1, i % 4 + 1),
                            .path = "",
                            .group = ebb_format("O1/%02d", i / 4 + 1),
                            .category = "O1",
                            .label = i % 2 ? EBB_POSSIBLE : EBB_IMPOSSIBLE,
                            .item = -1};
  ebb_dataset set = {.root = "", .videos = videos, .count = 16};
  int steps[1] = {50}, blocks[2] = {7, 23}, id;
  double sigma[1] = {0.5};
  ebb_feature mean = {"block_out.mean", true, false, 2, {2, 3}};
  ebb_feature_set fs = {"transformer", 1, steps, sigma, 2, blocks, 1, &mean};
  float x[16 * 6];
  int64_t all[16];
  for (int i = 0; i < 96; i++)
    x[i] = (float)planted_normal(1, 1, (uint64_t)i) + (i / 6 % 2 ? 1 : -1);
  for (int i = 0; i < 16; i++)
    all[i] = i;
  const float *data[1] = {x};
  ebb_store_writer *w;
  ebb_error err = {""};
  assert_true(ebb_store_create(&w, at("some"), &set, &err) && ebb_store_declare(w, &fs, &id, &err) &&
              ebb_store_write(w, id, 16, all, data, &err) && ebb_store_finish(&w, NULL, &err));
  for (int i = 0; i < 16; i++) {
    free(videos[i].id);
    free(videos[i].group);
  }
  exported(at("some"), at("some-folder"), &(ebb_official_export){0});
  imported(at("some-folder"), (ebb_official_import){0}, at("some-again"));
  same_run(at("some"), at("some-again"));
  ebb_config k;
  ebb_config_defaults(&k);
  strcpy(k.probe.preset, "released");
  k.probe.repeats = 1;
  k.probe.bootstrap = 0;
  if (!ebb_probe_run(at("some-again"), &k, &c, NULL, NULL, NULL, &err))
    fail_msg("%s", err.text);
  meta_is_refused(at("some-folder"), "\\b23\\b", "7", "meta.json: ebb.blocks: entry 1 is 7 after 7");
  meta_is_refused(at("some-folder"), "\\b7\\b", "-7", "meta.json: ebb.blocks: entry 0 is -7");
  meta_is_refused(at("some-folder"), "\\b0\\.5[0-9]*", "1.5",
                  "meta.json: sigma of step 50 is 1.5 in ebb.sigmas");
  meta_is_refused(at("some-folder"), "(num_inference_steps.: )[0-9]+", "\\1-1",
                  "meta.json: num_inference_steps is -1");
  char *text = whole(
      at("some-again/probe/official/transformer/block_out.mean/probe_pairwise_results_step0050_O1.csv"));
  assert_non_null(strstr(text, "\n7,"));
  assert_non_null(strstr(text, "\n23,"));
  free(text);
  text = whole(
      at("some-again/probe/official/transformer/block_out.mean/probe_pairwise_pervideo_step0050_O1.csv"));
  static const char head[] =
      "scene_dir,label,scenario,block_07,score_block_07,pred_block_07,block_23,score_block_23,"
      "pred_block_23\n";
  assert_memory_equal(text, head, strlen(head));
  free(text);
}

/* Targets go with whatever is stored: also with latents alone. */
static void defect_11_targets_stay_with_every_feature(void **state) {
  (void)state;
  assert_true(planted_targets_write(&numbers, at("with"), NULL));
  exported(at("with"), at("with-folder"), &(ebb_official_export){0});
  imported(at("with-folder"), (ebb_official_import){.scenarios = EBB_SCENARIOS_SCENE}, at("with-again"));
  same_run(at("with"), at("with-again"));
  assert_true(planted_write(&world, at("vae"), NULL));
  assert_int_equal(
      exported(at("vae"), at("vae-folder"), &(ebb_official_export){.model = "vae", .feature = "latent.mean"}),
      96);
  ebb_pt pt;
  assert_true(ebb_pt_open(&pt, at("vae-folder/O2_12_4/step_0000/block_outputs.pt"), NULL));
  assert_true(pt.tensors[0].shape[0] == 1 && pt.tensors[0].shape[2] == 16);
  ebb_pt_close(&pt);
}

/* ---- the commands ---- */

static int run_ebb(const char *arguments) {
  char command[2048];
  const char *bin = getenv("EBB_BIN");
  snprintf(command, sizeof command, "%s/ebb %s > %s 2>&1", bin ? bin : "build/h/bin", arguments, at("said"));
  int status = system(command);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What a command is told, with the folder in place of each '@'. */
static int told(const char *arguments) {
  char line[1500];
  size_t n = 0;
  for (const char *p = arguments; *p && n + sizeof folder < sizeof line; p++)
    n += (size_t)snprintf(line + n, sizeof line - n, "%s%.*s", *p == '@' ? folder : "", *p != '@', p);
  return run_ebb(line);
}

static void said(const char *words) {
  char *text = whole(at("said"));
  if (!strstr(text, words))
    fail_msg("expected \"%s\" in \"%s\"", words, text);
  free(text);
}

static void commands_go_all_the_way(void **state) {
  (void)state;
  planted_targets w = numbers;
  w.groups = 40;
  w.missing = false;
  assert_true(planted_targets_write(&w, at("c"), NULL));
  assert_int_equal(told("export @/c --layout official --out @/c-official"), 0);
  said("40 scenes written");
  assert_int_equal(told("import @/c-official --out @/c-run --scenario-mode scene"), 0);
  said("40 scenes, 2 steps, 4 blocks of 5 numbers");
  assert_int_equal(told("regress @/c-run --targets speed,size --device cpu --set probe.repeats=1"), 0);
  said("beyond others");
  assert_int_equal(access(at("c-run/regress/results.json"), R_OK), 0);
  assert_int_equal(told("probe @/c-run --device cpu --set probe.target=[speed] --set probe.preset=released"),
                   0);
  said("preset released");
  assert_int_equal(told("regress @/c-run --device cpu"), 2);
  said("--targets r,v");
  assert_int_equal(told("regress @/c-run --targets heat --device cpu"), 1);
  said("targets of this run: speed, size, twice, both");
  assert_int_equal(told("import @/c-official --out @/c-run"), 1);
  said("never overwritten");
  assert_int_equal(told("export @/c"), 2);
  assert_true(planted_write(&world, at("l"), NULL));
  assert_int_equal(told("export @/l --out @/l-official"), 0);
  assert_int_equal(told("import @/l-official --out @/l-run"), 0);
  assert_int_equal(
      told("probe @/l-run --device cpu --allow-leak --set probe.preset=referee --set probe.repeats=2"), 0);
  said("LEAK");
  assert_int_equal(told("probe @/l-run --device cpu --allow-leak --set probe.preset=paper"), 1);
  said("paper splits by group");
}

static void stems_are_the_last_three_parts(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"O1/01/1", "O1_01_1"},
                                         {"/data/dev/O1/01/1", "O1_01_1"},
                                         {"a/b.mp4", "a_b"},
                                         {"clip_v1.5.mp4", "clip_v1.5"},
                                         {"x", "x"},
                                         {"00000/sample_00001", "00000_sample_00001"},
                                         {"a/b/c/d.avi", "b_c_d"},
                                         {".mp4", ".mp4"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *stem = ebb_official_stem(cases[i][0]);
    assert_string_equal(stem, cases[i][1]);
    free(stem);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(there_and_back),
      cmocka_unit_test(names_tell_groups),
      cmocka_unit_test(defect_01_the_first_initial_condition_is_r),
      cmocka_unit_test(latents_go_there_and_back),
      cmocka_unit_test(defect_06_what_is_missing_is_told),
      cmocka_unit_test(defect_09_blocks_keep_their_numbers),
      cmocka_unit_test(defect_11_targets_stay_with_every_feature),
      cmocka_unit_test(commands_go_all_the_way),
      cmocka_unit_test(stems_are_the_last_three_parts),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
