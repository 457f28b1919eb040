/* tier: host
 * Stored attention maps: their means and where they stand in the picture, and the cosines between those of
 * two runs. Exact, on runs of four videos with two heads of 2 x 2 frames. */
#include "probe/canvas.h"
#include "probe/compare.h"
#include "probe/maps.h"

#include "loaders/file.h"
#include "loaders/image.h"
#include "tests/test_files.h"

#include <math.h>

enum { VIDEOS = 4, STEPS = 2, BLOCKS = 2, HEADS = 2, T = 2, MAP = T * T };

/* How a run differs from the plain one. */
typedef struct variant {
  float (*value)(int video, int step, int block, int head, int i);
  int videos;                           /* 0: all four */
  const char *renamed;                  /* id of the last video */
  const char *frames;                   /* SHA-256 of video 1; NULL: none is recorded */
  const char *model, *feature, *second; /* second: name of another model that has the same features */
  int last_block, wide, failed;         /* number of block 1; 1: 3 keys; this video failed, 0: none */
  double sigma;                         /* of step 1 */
  const char *labels;
  bool joined; /* the index says that maps are not by head */
} variant;

/* Even shares, but that block 1, head 1 of possible videos at step 1 looks one frame ahead. */
static float plain(int video, int step, int block, int head, int i) {
  if (video % 2 == 0 && step == 1 && block == 1 && head == 1)
    return i == 1 ? 0.75f : i == 0 ? 0.25f : 0.5f;
  return 0.5f;
}

/* (3, 4, 0, 0) against (4, 3, 0, 0) is 0.96; head 1 of block 0 is at right angles, head 0 of block 1 of B
 * zero. */
static float side_a(int video, int step, int block, int head, int i) {
  (void)step;
  (void)block;
  if (head == 1)
    return i == 0 ? 1.0f + (float)video : 0;
  return i == 0 ? 3 : i == 1 ? 4 : 0;
}

static float side_b(int video, int step, int block, int head, int i) {
  (void)video;
  (void)step;
  if (head == 1)
    return i == (block == 0 ? 1 : 0) ? 2 : 0;
  return block == 1 ? 0 : i == 0 ? 4 : i == 1 ? 3 : 0;
}

static void write_run(const char *dir, const variant *is) {
  static const char *const ids[VIDEOS] = {"O1/01/1", "O1/01/2", "O1/02/1", "O1/02/2"};
  ebb_error err = {""};
  ebb_store_writer *w;
  ebb_video videos[VIDEOS];
  const int count = is->videos ? is->videos : VIDEOS, keys = is->wide ? T + 1 : T;
  for (int v = 0; v < count; v++)
    videos[v] = (ebb_video){.id = (char *)(is->renamed && v == count - 1 ? is->renamed : ids[v]),
                            .path = (char *)"p",
                            .group = (char *)(v < 2 ? "O1/01" : "O1/02"),
                            .category = (char *)"O1",
                            .label = v % 2 == 0 ? EBB_POSSIBLE : EBB_IMPOSSIBLE};
  const ebb_dataset set = {.root = (char *)"r", .videos = videos, .count = count};
  ebb_feature feature = {"", true, true, 4, {BLOCKS, HEADS, T, keys}};
  feature.by_head = !is->joined;
  strcpy(feature.name, is->feature ? is->feature : "attn_frames");
  int steps[STEPS] = {0, 7}, blocks[BLOCKS] = {1, is->last_block ? is->last_block : 4}, id, other = -1;
  double sigmas[STEPS] = {0, is->sigma > 0 ? is->sigma : 0.5};
  ebb_feature_set s = {.step_count = STEPS,
                       .steps = steps,
                       .sigmas = sigmas,
                       .block_count = BLOCKS,
                       .blocks = blocks,
                       .feature_count = 1,
                       .features = &feature};
  strcpy(s.model, is->model ? is->model : "transformer");
  assert_true(ebb_store_create(&w, dir, &set, &err));
  assert_true(ebb_store_declare(w, &s, &id, &err));
  if (is->second) {
    strcpy(s.model, is->second);
    assert_true(ebb_store_declare(w, &s, &other, &err));
  }
  for (int64_t v = 0; v < count; v++) {
    float x[STEPS * BLOCKS * HEADS * T * (T + 1)], *at = x;
    const float *data = x;
    for (int step = 0; step < STEPS; step++)
      for (int block = 0; block < BLOCKS; block++)
        for (int head = 0; head < HEADS; head++)
          for (int i = 0; i < T * keys; i++)
            *at++ = is->value((int)v, step, block, head, i);
    if (is->failed && v == is->failed)
      ebb_store_fail(w, v, "broken");
    else
      assert_true(ebb_store_write(w, id, 1, &v, &data, &err) &&
                  (other < 0 || ebb_store_write(w, other, 1, &v, &data, &err)));
  }
  if (is->frames)
    ebb_store_input(w, 1, is->frames);
  json_t *about = json_pack("{s:s, s:s}", "solver", "euler", "labels", is->labels ? is->labels : "noisy");
  assert_true(ebb_store_finish(&w, about, &err));
  json_decref(about);
}

/* ---- means and their picture -------------------------------------------------------------------------- */

static void test_means(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_store s;
  ebb_mean_maps m;
  write_run(at("plain"), &(variant){.value = plain});
  assert_true(ebb_store_open(&s, at("plain"), &err));
  assert_true(ebb_mean_maps_make(&m, &s, 0, 0, "O1", 1, &err));
  assert_true(m.blocks == BLOCKS && m.heads == HEADS && m.queries == T && m.keys == T);
  assert_true(m.videos[0] == 2 && m.videos[1] == 2);
  for (int at_map = 0; at_map < BLOCKS * HEADS; at_map++)
    for (int i = 0; i < MAP; i++)
      for (int label = 0; label < 2; label++) {
        double expected = (double)plain(label ? 0 : 1, 1, at_map / HEADS, at_map % HEADS, i);
        assert_true(m.mean[label][at_map * MAP + i] == expected);
      }
  ebb_mean_maps_free(&m);
  assert_true(ebb_mean_maps_make(&m, &s, 0, 0, "O2", 1, &err));
  assert_true(m.videos[0] == 0 && m.videos[1] == 0 && m.mean[0][0] == 0);
  ebb_mean_maps_free(&m);
  ebb_store_close(&s);
}

static void assert_colour(const ebb_image *p, int x, int y, ebb_colour c) {
  const uint8_t *is = p->pixels + 3 * (y * p->width + x);
  if (is[0] != c.r || is[1] != c.g || is[2] != c.b)
    fail_msg("(%d, %d) is %d %d %d, expected %d %d %d", x, y, is[0], is[1], is[2], c.r, c.g, c.b);
}

/* Maps of 8 pixels a frame, 4 apart, from (90, 116) on, and from 280 pixels further right on; block 0
 * below. */
static void test_picture(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_store s;
  ebb_image p;
  write_run(at("picture"), &(variant){.value = plain});
  assert_true(ebb_store_open(&s, at("picture"), &err));
  assert_true(ebb_plot_frame_mass(&s, 0, "O1", 1, EBB_STEP_BY_PROBE, folder, &err));
  assert_true(ebb_image_read(at("frame-mass-O1-transformer.png"), &p, &err));
  for (int block = 0; block < BLOCKS; block++)
    for (int head = 0; head < HEADS; head++)
      for (int i = 0; i < MAP; i++) {
        const int x = 90 + head * 20 + i % T * 8 + 3, y = 116 + (BLOCKS - 1 - block) * 20 + i / T * 8 + 3;
        const double a = (double)plain(0, 1, block, head, i), b = (double)plain(1, 1, block, head, i);
        assert_colour(&p, x, y, ebb_viridis(sqrt((a + b) / 2)));
        assert_colour(&p, x + 280, y, ebb_blue_red((a - b) / 0.25));
      }
  ebb_image_free(&p);
  ebb_store_close(&s);
}

/* The step: the one asked for, or the probe's, or the middle; each has its own picture, and the one asked for its own
 * file. */
static void test_which_step(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_store s;
  int steps[] = {0, 7};
  ebb_row row = {.category = "O1",
                 .model = "transformer",
                 .feature = "attn_frames.head",
                 .step_count = 2,
                 .block_count = BLOCKS,
                 .head_count = HEADS,
                 .by_head = true,
                 .steps = steps};
  ebb_results results = {.row_count = 1, .rows = &row};
  write_run(at("steps"), &(variant){.value = plain});
  assert_true(ebb_store_open(&s, at("steps"), &err));
  char *png = strdup(at("frame-mass-O1-transformer.png"));
  char *asked[2] = {strdup(at("frame-mass-O1-transformer-step0.png")),
                    strdup(at("frame-mass-O1-transformer-step7.png"))};
  char by_probe[2][65], by_hand[2][65], middle[65];
  for (int step = 0; step < 2; step++) {
    row.chosen = ebb_cell_number(&row, step, 1, 1);
    assert_true(ebb_plot_all_frame_mass(&s, &results, -1, folder, NULL, &err) &&
                ebb_file_sha256(png, by_probe[step], &err));
    assert_true(ebb_plot_all_frame_mass(&s, &results, steps[step], folder, NULL, &err) &&
                ebb_file_sha256(asked[step], by_hand[step], &err));
    assert_true(ebb_file_sha256(png, middle, &err)); /* the probe's stays */
    assert_string_equal(middle, by_probe[step]);
    assert_string_not_equal(by_probe[step], by_hand[step]); /* it says how the step was chosen */
  }
  assert_string_not_equal(by_probe[0], by_probe[1]);
  assert_string_not_equal(by_hand[0], by_hand[1]);
  strcpy(row.feature, "attn_entropy"); /* no probe of the maps: the middle of two is the second */
  assert_true(ebb_plot_all_frame_mass(&s, &results, -1, folder, NULL, &err) &&
              ebb_file_sha256(png, middle, &err));
  assert_string_not_equal(middle, by_probe[1]);
  assert_true(ebb_plot_frame_mass(&s, 0, "O1", 1, EBB_STEP_MIDDLE, folder, &err) &&
              ebb_file_sha256(png, by_hand[0], &err));
  assert_string_equal(middle, by_hand[0]);
  free(png);
  free(asked[0]);
  free(asked[1]);
  assert_false(ebb_plot_all_frame_mass(&s, &results, 3, folder, NULL, &err));
  assert_says(&err, "transformer was not captured at step 3: there are 0, 7");
  ebb_store_close(&s);
  write_run(at("entropy"), &(variant){.value = plain, .feature = "attn_entropy"});
  assert_true(ebb_store_open(&s, at("entropy"), &err));
  assert_true(ebb_plot_all_frame_mass(&s, &results, -1, folder, NULL, &err));
  assert_false(ebb_plot_all_frame_mass(&s, &results, 7, folder, NULL, &err));
  assert_says(&err, "no attention maps");
  ebb_store_close(&s);
  write_run(at("joined"), &(variant){.value = plain, .joined = true}); /* left out, with a note */
  assert_true(ebb_store_open(&s, at("joined"), &err));
  char *note = NULL;
  size_t bytes = 0;
  FILE *notes = open_memstream(&note, &bytes);
  assert_true(ebb_plot_all_frame_mass(&s, &results, -1, folder, notes, &err));
  fclose(notes);
  assert_non_null(
      strstr(note, "attn_frames of model \"transformer\" is [2, 2, 2, 2], by_block true, by_head false"));
  assert_non_null(strstr(note, "expected [blocks, heads, frames, frames]"));
  free(note);
  ebb_store_close(&s);
}

/* ---- two runs ----------------------------------------------------------------------------------------- */

static ebb_compare_options options_for(const char *a, const char *b) {
  return (ebb_compare_options){.run = {a, b}, .feature = "attn_frames", .sigma = 0.01, .out = at("compared")};
}

static char *text_of(const char *path) {
  ebb_error err = {""};
  char *text;
  size_t bytes;
  assert_true(ebb_file_read(path, 1 << 20, &text, &bytes, &err));
  return text;
}

static void assert_has(const char *text, const char *words) {
  if (!strstr(text, words))
    fail_msg("no '%s' in:\n%s", words, text);
}

static void test_cosines(void **state) {
  (void)state;
  ebb_error err = {""};
  write_run(at("a"), &(variant){.value = side_a});
  write_run(at("b"), &(variant){.value = side_b, .labels = "matched", .sigma = 0.495});
  char *table = NULL, *a = strdup(at("a")), *b = strdup(at("b"));
  size_t bytes = 0;
  FILE *out = open_memstream(&table, &bytes);
  const ebb_compare_options o = options_for(a, b);
  if (!ebb_compare_runs(&o, out, &err))
    fail_msg("%s", err.text);
  fclose(out);
  char *cosines = text_of(at("compared/cosine.csv")), *summary = text_of(at("compared/summary.csv")),
       *json = text_of(at("compared/compare.json"));
  /* block 0: 0.96 and 0; block 1: nothing and 1 */
  assert_has(cosines, "model,video,step_a,step_b,block,head,cosine\n"
                      "transformer,O1/01/1,0,0,1,0,0.96\ntransformer,O1/01/1,0,0,1,1,0\n");
  assert_has(cosines, "\ntransformer,O1/02/2,7,7,4,0,\ntransformer,O1/02/2,7,7,4,1,1\n");
  int lines = 0;
  for (const char *p = cosines; *p; p++)
    lines += *p == '\n';
  assert_int_equal(lines, 1 + VIDEOS * STEPS * BLOCKS * HEADS);
  /* of 16, half 0: the 5 % quantile is 0; videos of another group have the same cosines here */
  assert_has(summary, "\ntransformer,1,,,,,16,0.48,0,0,0.48,0\n");
  assert_has(summary, "\ntransformer,1,7,0.5,7,0.495,8,0.48,0,0,0.48,0\n");
  assert_has(summary, "\ntransformer,4,,,,,8,1,1,1,1,1\n");
  assert_has(json, "\"noisy\",\n   \"matched\"");
  assert_has(table, "labels: \"noisy\" in A, \"matched\" in B");
  assert_has(table, "2 pairs of steps (of 2 and 2) at most 0.005 apart");
  assert_has(table, "\n  1          0.4800   0.0000   0.0000        0.4800   0.0000\n");
  assert_has(table, "\n  all        0.6533   0.0000   0.0000        0.6533   0.0000\n");
  free(table);
  free(cosines);
  free(summary);
  free(json);
  free(a);
  free(b);
}

/* Videos that differ are told apart from videos of another group: B's maps say which video they are of. */
static float by_group(int video, int step, int block, int head, int i) {
  (void)step;
  (void)block;
  (void)head;
  return i == video / 2 ? 1 : 0;
}

static void test_other_videos_and_failures(void **state) {
  (void)state;
  ebb_error err = {""};
  write_run(at("g"), &(variant){.value = by_group});
  write_run(at("h"), &(variant){.value = by_group, .failed = 2, .labels = "matched"});
  char *table = NULL, *a = strdup(at("g")), *b = strdup(at("h"));
  size_t bytes = 0;
  FILE *out = open_memstream(&table, &bytes);
  ebb_compare_options o = options_for(a, b);
  if (!ebb_compare_runs(&o, out, &err))
    fail_msg("%s", err.text);
  fclose(out);
  char *summary = text_of(at("compared/summary.csv"));
  assert_has(summary, "\ntransformer,1,,,,,12,1,1,1,0,0\n");
  assert_has(table, "left out: 1 videos that failed in one of the runs");
  free(summary);
  free(table);
  write_run(at("lone"),
            &(variant){.value = by_group, .videos = 2}); /* one group: nothing to hold it against */
  o.run[0] = o.run[1] = at("lone");
  if (!ebb_compare_runs(&o, NULL, &err))
    fail_msg("%s", err.text);
  summary = text_of(at("compared/summary.csv"));
  assert_has(summary, "\ntransformer,1,,,,,8,1,1,1,,\n");
  free(summary);
  free(a);
  free(b);
}

static void test_what_does_not_match(void **state) {
  (void)state;
  static const struct {
    variant is;
    const char *words;
  } cases[] = {
      {{.value = side_b, .videos = 3}, "has 4 videos"},
      {{.value = side_b, .renamed = "O1/09/1"}, "has no video \"O1/02/2\""},
      {{.value = side_b, .frames = "0123456789abcdef"}, "video \"O1/01/2\" has other frames"},
      {{.value = side_b, .model = "random"}, "has no features of model \"transformer\""},
      {{.value = side_b, .feature = "attn_rows"}, "has no attn_frames of model \"transformer\""},
      {{.value = side_b, .wide = 1}, "[2, 2, 2, 2]"},
      {{.value = side_b, .wide = 1}, "expected the same data.size, data.frames and capture.blocks"},
      {{.value = side_b, .joined = true}, "by_head is true in "},
      {{.value = side_b, .last_block = 5}, "captured block number 1 is 4"},
  };
  ebb_error err = {""};
  write_run(at("left"), &(variant){.value = side_a, .frames = "fedcba9876543210"});
  char *left = strdup(at("left")), *right = strdup(at("right"));
  ebb_compare_options o = options_for(left, right);
  o.out = at("nothing");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", right);
    assert_int_equal(system(command), 0);
    write_run(right, &cases[i].is);
    assert_false(ebb_compare_runs(&o, NULL, &err));
    assert_says(&err, cases[i].words);
  }
  o.run[1] = left;
  o.model = "vae";
  assert_false(ebb_compare_runs(&o, NULL, &err));
  assert_says(&err, "no features of model \"vae\"");
  o.model = NULL;
  o.feature = "attn_lag";
  assert_false(ebb_compare_runs(&o, NULL, &err));
  assert_says(&err, "has no attn_lag");
  o.feature = "attn_frames";
  o.run[1] = at("far");
  write_run(o.run[1], &(variant){.value = side_b, .sigma = 0.6});
  if (!ebb_compare_runs(&o, NULL, &err)) /* sigma 0 still has its pair */
    fail_msg("%s", err.text);
  o.out = at("none");
  o.sigma = -1;
  assert_false(ebb_compare_runs(&o, NULL, &err));
  assert_says(&err, "no captured step of one run has a sigma within");
  assert_int_equal(access(at("none"), F_OK), -1);
  o.sigma = INFINITY; /* JSON has no word for it */
  assert_false(ebb_compare_runs(&o, NULL, &err));
  assert_says(&err, "compare.json: cannot be made");
  assert_int_equal(access(at("none/compare.json"), F_OK), -1);
  free(left);
  free(right);
}

static float with_infinity(int video, int step, int block, int head, int i) {
  return video == 2 && step == 1 && block == 1 && head == 1 && i == 2 ? INFINITY : 0.5f;
}

static float with_nan(int video, int step, int block, int head, int i) {
  return video == 2 && step == 1 && block == 1 && head == 1 && i == 2 ? NAN : 0.5f;
}

/* In A or in B: never a cosine of 1 and never an empty field. */
static void test_numbers_that_are_not_finite(void **state) {
  (void)state;
  char *good = strdup(at("good")), *bad[2] = {strdup(at("infinite")), strdup(at("undefined"))};
  write_run(good, &(variant){.value = plain});
  write_run(bad[0], &(variant){.value = with_infinity});
  write_run(bad[1], &(variant){.value = with_nan});
  for (int i = 0; i < 4; i++) {
    ebb_error err = {""};
    ebb_compare_options o = i % 2 ? options_for(good, bad[i / 2]) : options_for(bad[i / 2], good);
    o.out = at("unmade");
    assert_false(ebb_compare_runs(&o, NULL, &err));
    assert_true(strncmp(err.text, bad[i / 2], strlen(bad[i / 2])) == 0);
    assert_has(err.text, "attn_frames of video \"O1/02/1\" at step 7, block 4 is");
    assert_has(err.text, "expected finite numbers");
    assert_int_equal(access(at("unmade/cosine.csv"), F_OK), -1);
    assert_int_equal(access(at("unmade/compare.json"), F_OK), -1);
  }
  free(good);
  free(bad[0]);
  free(bad[1]);
}

/* Each run has a model that the other has not: both are named, the one they share is compared. */
static void test_models_of_one_run_alone(void **state) {
  (void)state;
  ebb_error err = {""};
  char *a = strdup(at("one")), *b = strdup(at("two")), *broken = strdup(at("three")), *table = NULL;
  size_t bytes = 0;
  write_run(a, &(variant){.value = plain, .second = "random"});
  write_run(b, &(variant){.value = plain, .second = "transformer_lawless"});
  ebb_compare_options o = options_for(a, b);
  char *shared = strdup(at("shared")), *written = strdup(at("shared/compare.json"));
  o.out = shared;
  FILE *out = open_memstream(&table, &bytes);
  if (!ebb_compare_runs(&o, out, &err))
    fail_msg("%s", err.text);
  fclose(out);
  assert_has(table, "left out: model \"random\", whose attn_frames only A has\n");
  assert_has(table, "left out: model \"transformer_lawless\", whose attn_frames only B has\n");
  assert_has(table, "\ntransformer: attn_frames of 4 videos");
  free(table);
  json_t *json = json_load_file(written, 0, NULL), *left = json_object_get(json, "left_out_models");
  assert_string_equal(json_string_value(json_array_get(json_object_get(left, "only_in_a"), 0)), "random");
  assert_string_equal(json_string_value(json_array_get(json_object_get(left, "only_in_b"), 0)),
                      "transformer_lawless");
  assert_int_equal(json_object_size(json_object_get(json, "models")), 1);
  json_decref(json);
  o.model = "random";
  assert_false(ebb_compare_runs(&o, NULL, &err));
  assert_says(&err, "two has no features of model \"random\"");
  assert_int_equal(access(written, F_OK), 0); /* runs that do not match: nothing is touched */
  write_run(broken, &(variant){.value = with_nan});
  o.model = NULL;
  o.run[1] = broken;
  assert_false(ebb_compare_runs(&o, NULL, &err));
  assert_says(&err, "expected finite numbers");
  assert_int_equal(access(written, F_OK), -1); /* no old one beside what broke off */
  free(a);
  free(b);
  free(broken);
  free(shared);
  free(written);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_means),
      cmocka_unit_test(test_picture),
      cmocka_unit_test(test_which_step),
      cmocka_unit_test(test_cosines),
      cmocka_unit_test(test_other_videos_and_failures),
      cmocka_unit_test(test_what_does_not_match),
      cmocka_unit_test(test_numbers_that_are_not_finite),
      cmocka_unit_test(test_models_of_one_run_alone),
  };
  return cmocka_run_group_tests_name("maps", tests, folder_make, folder_remove);
}
