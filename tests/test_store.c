/* The feature store: what is written is gathered, bytes do not change, damage is seen. Host code, exact. */
#include "tests/test_files.h"

#include "loaders/file.h"
#include "loaders/store.h"

#include <math.h>

enum { VIDEOS = 7, STEPS = 3, BLOCKS = 2, D = 5, N = 2, T = 3, C = 4 };

static ebb_video videos[VIDEOS];
static ebb_dataset set = {.root = (char *)"root", .videos = videos, .count = VIDEOS};
static char ids[VIDEOS][24];

static int steps[STEPS] = {0, 10, 20}, blocks[BLOCKS] = {1, 3};
static double sigmas[STEPS] = {0, 0.1, 1.0};
static ebb_feature features[] = {{"block_out.mean", true, false, 2, {BLOCKS, D}},
                                 {"attn_frames", true, true, 4, {BLOCKS, N, T, T}},
                                 {"latent.mean", false, false, 1, {C}}};
static const ebb_feature_set described = {.model = "transformer",
                                          .step_count = STEPS,
                                          .steps = steps,
                                          .sigmas = sigmas,
                                          .block_count = BLOCKS,
                                          .blocks = blocks,
                                          .feature_count = 3,
                                          .features = features};

/* A number that says where it belongs. */
static float value(int s, int f, int64_t v, int step, int block, int k) {
  return (float)(s * 500000 + f * 100000 + (int)v * 10000 + step * 1000 + block * 100 + k);
}

static int make_set(void **state) {
  for (int i = 0; i < VIDEOS; i++) {
    snprintf(ids[i], sizeof ids[i], "O1/1/%d", i);
    videos[i] = (ebb_video){.id = ids[i],
                            .path = (char *)"p",
                            .group = (char *)"O1/1",
                            .category = (char *)"O1",
                            .label = i == 6       ? EBB_UNLABELLED
                                     : i % 2 == 0 ? EBB_POSSIBLE
                                                  : EBB_IMPOSSIBLE};
  }
  return folder_make(state);
}

static bool write_batch(ebb_store_writer *w, int s, int64_t n, const int64_t *which, ebb_error *err) {
  static float data[3][VIDEOS * STEPS * BLOCKS * N * T * T];
  for (int f = 0; f < 3; f++) {
    int width = (int)ebb_store_width(&features[f]), count = features[f].by_block ? BLOCKS : 1;
    float *x = data[f];
    for (int64_t i = 0; i < n; i++)
      for (int step = 0; step < STEPS; step++)
        for (int block = 0; block < count; block++)
          for (int k = 0; k < width; k++)
            *x++ = value(s, f, which[i], step, block, k);
  }
  const float *const pointers[] = {data[0], data[1], data[2]};
  return ebb_store_write(w, s, n, which, pointers, err);
}

/* Two sets; videos 0..5 in shards out of order, video 5 failed in both, video 6 in the first alone. */
static void write_run(const char *dir) {
  ebb_error err = {""};
  ebb_store_writer *w;
  int a, b;
  ebb_feature_set other = described;
  strcpy(other.model, "random");
  assert_true(ebb_store_create(&w, dir, &set, &err));
  assert_true(ebb_store_declare(w, &described, &a, &err));
  assert_true(ebb_store_declare(w, &other, &b, &err));
  assert_true(write_batch(w, a, 3, (const int64_t[]){4, 0, 2}, &err));
  assert_true(write_batch(w, b, 5, (const int64_t[]){0, 1, 2, 3, 4}, &err));
  assert_true(write_batch(w, a, 3, (const int64_t[]){1, 3, 6}, &err));
  ebb_store_fail(w, 5, "a frame is \"missing\"");
  json_t *provenance = json_pack("{s:s}", "code", "abc");
  assert_true(ebb_store_finish(&w, provenance, &err));
  json_decref(provenance);
  assert_null(w);
  assert_fine(&err);
}

static void test_round_trip(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_store s;
  write_run(at("runs/a"));
  if (!ebb_store_open(&s, at("runs/a"), &err))
    fail_msg("%s", err.text);
  assert_int_equal(s.video_count, VIDEOS);
  assert_string_equal(s.videos[3].id, "O1/1/3");
  assert_int_equal(s.videos[3].label, EBB_IMPOSSIBLE);
  assert_int_equal(s.videos[6].label, EBB_UNLABELLED);
  assert_null(s.videos[3].failed);
  assert_string_equal(s.videos[5].failed, "a frame is \"missing\"");
  assert_string_equal(json_string_value(json_object_get(json_object_get(s.index, "provenance"), "code")),
                      "abc");
  assert_int_equal(s.set_count, 2);
  int r = ebb_store_find(&s, "random"), t = ebb_store_find(&s, "transformer");
  assert_true(r == 1 && t == 0 && ebb_store_find(&s, "vae") == -1);
  assert_int_equal(s.sets[t].steps[2], 20);
  assert_true(s.sets[t].sigmas[1] == 0.1);
  assert_int_equal(s.sets[t].blocks[1], 3);
  assert_int_equal(ebb_store_feature(&s.sets[t], "latent.mean"), 2);
  assert_int_equal(ebb_store_feature(&s.sets[t], "latent"), -1);
  assert_int_equal(ebb_store_width(&s.sets[t].features[1]), N * T * T);
  assert_int_equal(ebb_store_heads(&s.sets[t].features[0]), 1);
  assert_int_equal(ebb_store_heads(&s.sets[t].features[1]), N);
  assert_true(ebb_store_has(&s, t, 6) && !ebb_store_has(&s, r, 6) && !ebb_store_has(&s, t, 5));
  const int64_t which[] = {3, 0, 4, 4, 1};
  for (int m = 0; m < 2; m++)
    for (int f = 0; f < 3; f++)
      for (int step = 0; step < STEPS; step++)
        for (int block = 0; block < (features[f].by_block ? BLOCKS : 1); block++) {
          int width = (int)ebb_store_width(&features[f]);
          float x[5 * N * T * T + 1];
          x[5 * width] = -1;
          assert_true(ebb_store_gather(&s, m, f, step, block, EBB_ALL_HEADS, 5, which, x, &err));
          for (int i = 0; i < 5; i++)
            for (int k = 0; k < width; k++)
              assert_true(x[i * width + k] == value(m, f, which[i], step, block, k));
          assert_true(x[5 * width] == -1);
        }
  float x[5 * T * T + 1];
  for (int head = 0; head < N; head++) {
    x[5 * T * T] = -1;
    assert_true(ebb_store_gather(&s, t, 1, 2, 1, head, 5, which, x, &err));
    for (int i = 0; i < 5; i++)
      for (int k = 0; k < T * T; k++)
        assert_true(x[i * T * T + k] == value(t, 1, which[i], 2, 1, head * T * T + k));
    assert_true(x[5 * T * T] == -1);
  }
  assert_false(ebb_store_gather(&s, t, 0, 0, 0, EBB_ALL_HEADS, 1, (const int64_t[]){5}, x, &err));
  assert_says(&err, "video \"O1/1/5\" has no features of model \"transformer\": a frame is \"missing\"");
  ebb_store_close(&s);
  ebb_store_close(&s);
}

/* What the data set knows of its videos is in the index, and comes back; what it does not know is absent. */
static void test_what_the_set_knows(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_store_writer *w;
  ebb_store s;
  int a;
  double first[] = {0.7, NAN, -3e-7}, second[] = {NAN, NAN, NAN};
  ebb_video two[] = {{.id = (char *)"a",
                      .group = (char *)"g",
                      .category = (char *)"c",
                      .pair = (char *)"p 1",
                      .view = (char *)"left",
                      .split = (char *)"train",
                      .prompt = (char *)"a \"red\" ball",
                      .label = EBB_UNLABELLED,
                      .targets = first},
                     {.id = (char *)"b", .group = (char *)"g", .category = (char *)"c", .targets = second}};
  const ebb_dataset known = {.root = (char *)"root",
                             .videos = two,
                             .count = 2,
                             .target_count = 3,
                             .target_names = {"r", "x0", "v"},
                             .notice = "do not train"};
  assert_true(ebb_store_create(&w, at("runs/k"), &known, &err));
  assert_true(ebb_store_declare(w, &described, &a, &err));
  assert_true(write_batch(w, a, 2, (const int64_t[]){0, 1}, &err));
  assert_true(ebb_store_finish(&w, NULL, &err));
  if (!ebb_store_open(&s, at("runs/k"), &err))
    fail_msg("%s", err.text);
  const ebb_store_video *v = s.videos;
  assert_string_equal(s.notice, "do not train");
  assert_int_equal(s.target_count, 3);
  assert_string_equal(s.target_names[1], "x0");
  assert_string_equal(s.target_names[2], "v");
  assert_string_equal(v[0].pair, "p 1");
  assert_string_equal(v[0].view, "left");
  assert_string_equal(v[0].split, "train");
  assert_string_equal(v[0].prompt, "a \"red\" ball");
  assert_true(v[0].targets[0] == 0.7 && isnan(v[0].targets[1]) && v[0].targets[2] == -3e-7);
  assert_true(!v[1].pair && !v[1].view && !v[1].split && !v[1].prompt);
  assert_true(isnan(v[1].targets[0]) && isnan(v[1].targets[1]) && isnan(v[1].targets[2]));
  assert_null(json_object_get(json_array_get(json_object_get(s.index, "videos"), 1), "targets"));
  ebb_store_close(&s);
  char *index;
  size_t bytes;
  const struct {
    const char *from, *to, *words;
  } damage[] = {{"\"v\": -", "\"w\": -", "target \"w\" of video \"a\""},
                {"\"r\": 0.69", "\"r\": \"x\", \"s\": 0.69", "target \"r\" of video \"a\""},
                {"\"targets\": {", "\"targets\": 3, \"t\": {", "\"targets\" of video \"a\" is not"},
                {"\"x0\",", "\"r\",", "entry 1 of \"target_names\""},
                {"\"target_names\": [", "\"target_names\": 3, \"t\": [", "not a list of at most 16"}};
  assert_true(ebb_file_read(at("runs/k/index.json"), 1 << 20, &index, &bytes, &err));
  for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
    const char *hit = strstr(index, damage[i].from);
    assert_non_null(hit);
    char *text =
        ebb_format("%.*s%s%s", (int)(hit - index), index, damage[i].to, hit + strlen(damage[i].from));
    put_text(at("runs/k/index.json"), text);
    free(text);
    assert_false(ebb_store_open(&s, at("runs/k"), &err));
    assert_says(&err, damage[i].words);
  }
  free(index);
}

static void test_same_bytes(void **state) {
  (void)state;
  char command[300];
  write_run(at("runs/b"));
  write_run(at("runs/c"));
  snprintf(command, sizeof command, "diff -r '%s/runs/b' '%s/runs/c'", folder, folder);
  assert_int_equal(system(command), 0);
}

/* What a killed run left is replaced; what a finished one left is not. */
static void test_unfinished_and_finished(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_store_writer *w;
  ebb_store s;
  int a;
  assert_true(ebb_store_create(&w, at("runs/d"), &set, &err));
  assert_true(ebb_store_declare(w, &described, &a, &err));
  for (int64_t v = 0; v < 5; v++)
    assert_true(write_batch(w, a, 1, &v, &err));
  ebb_store_abandon(&w);
  put_text(at("runs/d/features/transformer/shard-00009.safetensors.partial"), "half");
  assert_false(ebb_store_open(&s, at("runs/d"), &err));
  assert_says(&err, "not finished");
  write_run(at("runs/d"));
  assert_int_equal(files_in(at("runs/d")), 4); /* the index and three shards: nothing stale */
  assert_true(ebb_store_open(&s, at("runs/d"), &err));
  ebb_store_close(&s);
  assert_false(ebb_store_create(&w, at("runs/d"), &set, &err));
  assert_says(&err, "never overwritten");
  assert_null(w);
  assert_false(ebb_store_open(&s, at("runs/none"), &err));
  assert_says(&err, "no such run folder");
}

static void test_writer_refuses(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_store_writer *w;
  int a;
  assert_true(ebb_store_create(&w, at("runs/e"), &set, &err));
  const char *const names[] = {"../x", "a/b", "", ".", ".hidden", "a b"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    ebb_feature_set bad = described;
    strcpy(bad.model, names[i]);
    assert_false(ebb_store_declare(w, &bad, &a, &err));
    assert_says(&err, "cannot be a folder");
  }
  ebb_feature odd[] = {{"x", true, false, 2, {BLOCKS + 1, D}},
                       {"x", true, true, 1, {BLOCKS}},
                       {"x", false, true, 2, {BLOCKS, D}}};
  ebb_feature_set bad = described;
  bad.feature_count = 1;
  for (int i = 0; i < 3; i++) {
    bad.features = &odd[i];
    assert_false(ebb_store_declare(w, &bad, &a, &err));
    assert_says(&err, "does not fit");
  }
  ebb_feature same[] = {{"x", false, false, 1, {D}}, {"x", false, false, 1, {D}}};
  bad.features = same;
  bad.feature_count = 2;
  assert_false(ebb_store_declare(w, &bad, &a, &err));
  assert_says(&err, "taken");
  assert_true(ebb_store_declare(w, &described, &a, &err));
  assert_false(ebb_store_declare(w, &described, &a, &err));
  assert_says(&err, "two feature sets");
  assert_false(write_batch(w, a, 1, (const int64_t[]){VIDEOS}, &err));
  assert_says(&err, "not one of the 7");
  assert_true(write_batch(w, a, 1, (const int64_t[]){0}, &err));
  assert_false(write_batch(w, a, 2, (const int64_t[]){1, 0}, &err));
  assert_says(&err, "written twice");
  ebb_store_abandon(&w);
  ebb_store_abandon(&w);
}

static void refuse(const char *words) {
  ebb_error err = {""};
  ebb_store s;
  assert_false(ebb_store_open(&s, at("runs/f"), &err));
  assert_says(&err, words);
}

/* The text of runs/f/index.json with `from` replaced by `to`. */
static void edit(const char *original, const char *from, const char *to) {
  const char *hit = strstr(original, from);
  assert_non_null(hit);
  char *text = ebb_format("%.*s%s%s", (int)(hit - original), original, to, hit + strlen(from));
  put_text(at("runs/f/index.json"), text);
  free(text);
}

static void test_damage(void **state) {
  (void)state;
  ebb_error err = {""};
  write_run(at("runs/f"));
  char *shard, *index;
  size_t bytes, n;
  const char *name = "runs/f/features/transformer/shard-00001.safetensors";
  assert_true(ebb_file_read(at(name), 1 << 20, &shard, &bytes, &err));
  assert_true(ebb_file_read(at("runs/f/index.json"), 1 << 20, &index, &n, &err));
  shard[bytes - 1] ^= 1;
  put(at(name), shard, bytes);
  refuse("SHA-256");
  put(at(name), shard, bytes - 1);
  refuse("bytes, expected");
  assert_int_equal(remove(at(name)), 0);
  refuse("cannot open");
  shard[bytes - 1] ^= 1;
  put(at(name), shard, bytes);
  edit(index, "shard-00001.safetensors", "../../../x.safetensors");
  refuse("expected \"features/transformer/shard-00001.safetensors\"");
  edit(index, "\"model\": \"transformer\"", "\"model\": \"..\"");
  refuse("shard 0 is");
  edit(index, "\"steps\": [\n    0,", "\"steps\": [\n    ");
  refuse("steps and sigmas are not lists of one length");
  edit(index, "\"name\": \"latent.mean\"", "\"name\": \"latent.main\"");
  refuse("feature \"latent.main\" is missing");
  edit(index, "\"by_head\": true", "\"by_head\": 1");
  refuse("by_head");
  edit(index, "\"by_block\": false,\n     \"by_head\": false",
       "\"by_block\": false,\n     \"by_head\": true");
  refuse("\"latent.mean\" is by head");
  edit(index, "\"version\": 1", "\"version\": 2");
  refuse("not an index");
  edit(index, "\"status\": \"failed\"", "\"status\": \"odd\"");
  refuse("video 5 is not");
  edit(index, "\"possible\": true", "\"possible\": 1");
  refuse("video 0 is not");
  put_text(at("runs/f/index.json"), "{\"format\":");
  refuse("not valid JSON");
  ebb_store s;
  edit(index, ",\n     \"by_head\": true", ""); /* an early index: heads are known by the name */
  assert_true(ebb_store_open(&s, at("runs/f"), &err));
  assert_int_equal(ebb_store_heads(&s.sets[0].features[1]), N);
  ebb_store_close(&s);
  put_text(at("runs/f/index.json"), index);
  assert_true(ebb_store_open(&s, at("runs/f"), &err));
  assert_int_equal(remove(at(name)), 0); /* gone while open */
  float x[D];
  assert_false(ebb_store_gather(&s, 0, 0, 0, 0, EBB_ALL_HEADS, 1, (const int64_t[]){3}, x, &err));
  assert_says(&err, "cannot open");
  ebb_store_close(&s);
  free(shard);
  free(index);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_what_the_set_knows),
      cmocka_unit_test(test_same_bytes),     cmocka_unit_test(test_unfinished_and_finished),
      cmocka_unit_test(test_writer_refuses), cmocka_unit_test(test_damage)};
  return cmocka_run_group_tests(tests, make_set, folder_remove);
}
