/* Tables in text and manifest.csv: quoting, places in messages, paths, missing files. Host code, exact. */
#include "tests/test_files.h"

#include "loaders/file.h"
#include "loaders/image.h"
#include "loaders/manifest.h"
#include "loaders/store.h"
#include "loaders/table.h"

#include <math.h>

static void test_quoting(void **state) {
  (void)state;
  ebb_table t;
  ebb_error err = {""};
  static const char text[] = "\xEF\xBB\xBF"
                             "a,\"b \"\"x\"\"\",c\r\n"
                             "\r\n"
                             "1,\"two, and\r\nmore\",\"\"\n"
                             ",\xC3\xA9,  spaced \r\n"
                             "\"\",x,last";
  assert_true(ebb_table_parse(&t, "t", ',', text, sizeof text - 1, &err));
  assert_int_equal(t.columns, 3);
  assert_int_equal(t.rows, 3);
  assert_int_equal(ebb_table_find(&t, "b \"x\""), 1);
  assert_int_equal(ebb_table_find(&t, "b"), -1);
  assert_string_equal(ebb_table_text(&t, 0, 0), "1");
  assert_string_equal(ebb_table_text(&t, 0, 1), "two, and\r\nmore");
  assert_string_equal(ebb_table_text(&t, 0, 2), "");
  assert_string_equal(ebb_table_text(&t, 1, 0), "");
  assert_string_equal(ebb_table_text(&t, 1, 1), "\xC3\xA9");
  assert_string_equal(ebb_table_text(&t, 1, 2), "  spaced ");
  assert_string_equal(ebb_table_text(&t, 2, 2), "last");
  assert_int_equal(ebb_table_cell(&t, 1, 1)->line, 5); /* the quoted line end counts */
  assert_int_equal(ebb_table_cell(&t, 1, 1)->column, 2);
  ebb_table_free(&t);
  assert_true(ebb_table_parse(&t, "t", '\t', "a\tb\n1,5\t\"x\ty\"\n", 14, &err));
  assert_string_equal(ebb_table_text(&t, 0, 0), "1,5");
  assert_string_equal(ebb_table_text(&t, 0, 1), "x\ty");
  ebb_table_free(&t);
  ebb_table_free(&t);
}

static void refuse_table(const char *text, size_t bytes, const char *words) {
  ebb_table t;
  ebb_error err = {""};
  assert_false(ebb_table_parse(&t, "t", ',', text, bytes, &err));
  assert_says(&err, words);
  assert_null(t.cells);
}

static void test_table_refuses(void **state) {
  (void)state;
  const char *const wrong[][2] = {{"", "the file is empty"},
                                  {"\n\n", "the file is empty"},
                                  {"a,b\n1\n", "t:2: 1 fields, but the first line names 2 columns"},
                                  {"a,b\n1,2,3\n", "t:2: 3 fields"},
                                  {"a,b\n1,x\"y\n", "t:2:4: a quote inside a field"},
                                  {"a,b\n1,\"x\ny\n", "t:2:3: the quote that opens here is never closed"},
                                  {"a,b\n1,\"x\ny\"z\n", "t:3:3: text behind the closing quote"},
                                  {"a,a\n", "t:1:3: two columns are named \"a\""},
                                  {"a,\n", "t:1:3: column 2 has no name"},
                                  {"a,b\n1,\x01\n", "t:2:3: control character 1"},
                                  {"a,b\r1,2\n", "t:1:4: control character 13"},
                                  {"a,b\n1,\xC3\n", "t:2:3: not UTF-8"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    refuse_table(wrong[i][0], strlen(wrong[i][0]), wrong[i][1]);
  refuse_table("a\n\"x\0y\"\n", 8, "t:2:3: a NUL byte");
  refuse_table("a\nx\0y\n", 6, "t:2:2: control character 0");
  char wide[600];
  for (int i = 0; i < 300; i++)
    memcpy(wide + 2 * i, "a,", 2);
  refuse_table(wide, sizeof wide, "more than 256 columns");
}

static int reports;
static char last_report[600];
static void report(void *user, const char *id, const char *reason) {
  (void)user;
  reports++;
  snprintf(last_report, sizeof last_report, "%.100s: %.490s", id, reason);
}

static void put_frame(const char *name, int grey) {
  uint8_t rgb[3 * 4 * 4];
  ebb_error err = {""};
  memset(rgb, grey, sizeof rgb);
  assert_true(ebb_image_write_png(at(name), 4, 4, rgb, &err));
}

static const char whole[] = "id,path,label,group,pair,category,view,split,prompt,target:v,target:the mass\n"
                            "b,clips/b,impossible,g1,p,fall,left,train,\"a, b\",-1.5e-3,\n"
                            "a,clips/a,possible,g1,p,fall,left,test,,2,7\n"
                            "c,clips/a,,,,,,,nan,,\n";

static void put_whole(const char *manifest) {
  ebb_error err = {""};
  assert_true(ebb_make_folders(at("set/clips/a"), &err));
  assert_true(ebb_make_folders(at("set/clips/b"), &err));
  put_frame("set/clips/a/000.png", 10);
  put_frame("set/clips/a/001.png", 20);
  put_frame("set/clips/b/frame_1.png", 30);
  put_text(at("set/manifest.csv"), manifest);
}

static void open_set(ebb_dataset *set, const char *root) {
  ebb_error err = {""};
  reports = 0;
  if (!ebb_dataset_open(set, "manifest", root, NULL, report, NULL, &err))
    fail_msg("%s", err.text);
}

static void test_everything_a_manifest_says(void **state) {
  (void)state;
  ebb_dataset set;
  put_whole(whole);
  open_set(&set, at("set"));
  assert_int_equal(set.count, 3);
  assert_int_equal(set.target_count, 2);
  assert_string_equal(set.target_names[0], "v");
  assert_string_equal(set.target_names[1], "the mass");
  const ebb_video *c = &set.videos[0], *a = &set.videos[1], *b = &set.videos[2]; /* "all" before "fall" */
  assert_string_equal(a->id, "a");
  assert_string_equal(b->id, "b");
  assert_true(a->label == EBB_POSSIBLE && b->label == EBB_IMPOSSIBLE && c->label == EBB_UNLABELLED);
  assert_string_equal(b->group, "g1");
  assert_string_equal(b->pair, "p");
  assert_string_equal(b->view, "left");
  assert_string_equal(b->split, "train");
  assert_string_equal(b->prompt, "a, b");
  assert_true(b->targets[0] == -1.5e-3 && isnan(b->targets[1]));
  assert_true(a->targets[0] == 2 && a->targets[1] == 7);
  assert_true(a->frames == 2 && b->frames == 1 && a->item == -1);
  assert_string_equal(c->group, "c"); /* alone */
  assert_string_equal(c->category, "all");
  assert_true(!c->pair && !c->view && !c->split);
  ebb_clip clip;
  ebb_error err = {""};
  assert_true(ebb_video_read(a, &clip, &err)); /* any names, numbers from 0 */
  assert_true(clip.frames == 2 && clip.rgb[0] == 10 && clip.rgb[48] == 20);
  ebb_clip_free(&clip);
  ebb_dataset_close(&set);
  open_set(&set, at("set/manifest.csv")); /* the file itself */
  assert_int_equal(set.count, 3);
  ebb_dataset_close(&set);
}

/* 10: the official reader makes "nan" of an empty prompt and conditions the model on it. */
static void defect_10_an_empty_prompt_is_empty(void **state) {
  (void)state;
  ebb_dataset set;
  put_whole(whole);
  open_set(&set, at("set"));
  assert_string_equal(set.videos[1].prompt, "");
  assert_string_equal(set.videos[0].prompt, "nan"); /* who writes nan means it */
  ebb_dataset_close(&set);
  put_whole("id,path,label\na,clips/a,1\n");
  open_set(&set, at("set"));
  assert_null(set.videos[0].prompt); /* no column: the run's own prompt */
  ebb_dataset_close(&set);
}

/* 6: the official loader takes another scene, at random, for one that is not there. */
static void defect_06_a_missing_video_is_recorded_never_replaced(void **state) {
  (void)state;
  ebb_dataset set;
  ebb_error err = {""};
  put_whole("id,path,label\na,clips/a,1\nb,clips/none.mp4,0\nc,clips,0\nd,clips/b,0\n");
  open_set(&set, at("set"));
  assert_int_equal(set.count, 2);
  assert_int_equal(reports, 2);
  assert_non_null(strstr(last_report, "c: "));
  assert_non_null(strstr(last_report, "no frames"));
  assert_string_equal(set.videos[0].id, "a");
  assert_string_equal(set.videos[1].id, "d");
  char command[200];
  snprintf(command, sizeof command, "rm '%s/set/clips/b/frame_1.png'",
           folder); /* after listing: the read fails */
  assert_int_equal(system(command), 0);
  ebb_clip clip;
  assert_false(ebb_video_read(&set.videos[1], &clip, &err));
  assert_says(&err, "no frames");
  assert_null(clip.rgb);
  ebb_dataset_close(&set);
  put_text(at("set/manifest.csv"), "id,path,label\nb,clips/none.mp4,0\n");
  assert_false(ebb_dataset_open(&set, "manifest", at("set"), NULL, NULL, NULL, &err));
  assert_says(&err, "none of the 1 videos can be used; the first: ");
}

/* Groups of any name's length, each category its first. */
static void test_the_first_groups_are_kept(void **state) {
  (void)state;
  char text[4096];
  ebb_dataset set;
  int n = snprintf(text, sizeof text, "id,path,label,group,category\n");
  for (int i = 0; i < 8; i++) /* two videos in each of two groups of two categories */
    n += snprintf(text + n, sizeof text - (size_t)n, "v%d,clips/a,%d,%0300d,c%d\n", i, i % 2, i / 2 % 2,
                  i / 4);
  put_whole(text);
  open_set(&set, at("set"));
  assert_int_equal(set.count, 8);
  ebb_dataset_keep(&set, 1);
  const char *const ids[] = {"v0", "v1", "v4", "v5"};
  assert_int_equal(set.count, 4);
  for (int i = 0; i < 4; i++)
    assert_string_equal(set.videos[i].id, ids[i]);
  ebb_dataset_close(&set);
}

static void refuse(const char *text, const char *words) {
  ebb_error err = {""};
  ebb_dataset set;
  put_text(at("set/manifest.csv"), text);
  assert_false(ebb_dataset_open(&set, "manifest", at("set"), NULL, NULL, NULL, &err));
  assert_says(&err, words);
}

static void test_manifest_refuses(void **state) {
  (void)state;
  put_whole(whole);
  refuse("id,label\na,1\n", "manifest.csv:1: no column \"path\"");
  refuse("id,path,lable\na,clips/a,1\n", "manifest.csv:1:9: unknown column \"lable\"");
  refuse("id,path,target:\na,clips/a,1\n", "the target's name \"\" has not 1 to 31 bytes");
  refuse("id,path,label\n,clips/a,1\n", "manifest.csv:2:1: a video without an id");
  refuse("id,path,label\na,clips/a,maybe\n", "manifest.csv:2:11: label is \"maybe\"");
  refuse("id,path,target:v\na,clips/a,1.5m\n", "manifest.csv:2:11: target:v is \"1.5m\", expected a number");
  refuse("id,path,target:v\na,clips/a,inf\n", "expected a number");
  refuse("id,path,label\na,clips/a,1\na,clips/b,0\n", "two videos have the id \"a\"");
  refuse("id,path\na,clips/a\n", "no video has a label or a target");
  refuse("id,path,label\n", "no videos, expected a line for each video");
  const char *const outside[] = {"/etc/passwd", "../x", "clips/../../x", "clips/..", "..", ""};
  for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
    char text[100];
    snprintf(text, sizeof text, "id,path,label\na,%s,1\n", outside[i]);
    refuse(text, "manifest.csv:2:3: the path");
  }
  put_text(at("set/manifest.csv"), "id,path\na,clips/a\n");
  ebb_dataset set;
  ebb_error err = {""};
  assert_true(ebb_dataset_open(&set, "manifest", at("set"), &(ebb_dataset_options){.unlabelled = true}, NULL,
                               NULL, &err));
  ebb_dataset_close(&set);
  put_frame("set/clips/a/frame_002.png", 3);
  put_text(at("set/manifest.csv"), "id,path,label\na,clips/a,1\n");
  open_set(&set, at("set"));
  ebb_clip clip;
  assert_false(ebb_video_read(&set.videos[0], &clip, &err));
  assert_says(&err, "frames of two kinds, 000.png and frame_002.png");
  ebb_dataset_close(&set);
}

/* 11: the official encode-only run writes no targets, so nothing can be regressed on the VAE's features. */
static void defect_11_targets_reach_every_feature_set(void **state) {
  (void)state;
  ebb_dataset set;
  ebb_error err = {""};
  ebb_store_writer *w;
  int vae;
  put_whole(whole);
  open_set(&set, at("set"));
  int steps[] = {0};
  double sigmas[] = {0};
  ebb_feature features[] = {{"latent.mean", false, false, 1, {1}}};
  const ebb_feature_set encoded = {.model = "vae",
                                   .step_count = 1,
                                   .steps = steps,
                                   .sigmas = sigmas,
                                   .feature_count = 1,
                                   .features = features};
  const float x[] = {1, 2, 3}, *const data[] = {x};
  assert_true(ebb_store_create(&w, at("run"), &set, &err)); /* the VAE alone */
  assert_true(ebb_store_declare(w, &encoded, &vae, &err));
  assert_true(ebb_store_write(w, vae, 3, (const int64_t[]){0, 1, 2}, data, &err));
  assert_true(ebb_store_finish(&w, NULL, &err));
  ebb_dataset_close(&set);
  ebb_store s;
  if (!ebb_store_open(&s, at("run"), &err))
    fail_msg("%s", err.text);
  assert_int_equal(s.target_count, 2);
  assert_true(s.videos[1].targets[0] == 2 && s.videos[1].targets[1] == 7 &&
              s.videos[2].targets[0] == -1.5e-3);
  assert_true(isnan(s.videos[0].targets[0]));
  ebb_store_close(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_quoting),
                                     cmocka_unit_test(test_table_refuses),
                                     cmocka_unit_test(test_everything_a_manifest_says),
                                     cmocka_unit_test(defect_10_an_empty_prompt_is_empty),
                                     cmocka_unit_test(defect_06_a_missing_video_is_recorded_never_replaced),
                                     cmocka_unit_test(test_the_first_groups_are_kept),
                                     cmocka_unit_test(test_manifest_refuses),
                                     cmocka_unit_test(defect_11_targets_reach_every_feature_set)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
