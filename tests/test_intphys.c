/* The IntPhys layout: listing, labels, frames and the quadruplet check. Host code, exact. */
#include "tests/test_files.h"

#include "loaders/dataset.h"
#include "loaders/file.h"
#include "loaders/image.h"

enum { SIDE = 4 };

/* A frame whose pixels are all `grey`. */
static void put_frame(const char *movie, const char *name, int grey, int side) {
  uint8_t rgb[3 * 8 * 8];
  memset(rgb, grey, sizeof rgb);
  ebb_error err = {""};
  char *folder_name = ebb_format("%s/%s/scene", folder, movie), *path = ebb_path_join(folder_name, name);
  assert_true(ebb_make_folders(folder_name, &err));
  assert_true(ebb_image_write_png(path, side, side, rgb, &err));
  free(folder_name);
  free(path);
}

/* A movie whose frames have these grey levels; status NULL: none. */
static void put_movie(const char *movie, const int *greys, int n, const char *status) {
  for (int i = 0; i < n; i++) {
    char name[32];
    snprintf(name, sizeof name, "scene_%03d.png", i + 1);
    put_frame(movie, name, greys[i], SIDE);
  }
  char path[200];
  snprintf(path, sizeof path, "%s/%s/status.json", folder, movie);
  if (status != NULL)
    put_text(path, status);
}

static const char *const possible = "{\"header\": {\"is_possible\": true}}";
static const char *const impossible =
    "{\"header\": {\"is_possible\": false}, \"frames\": [{\"object_1\": {}}]}";

/* Possible 1,3 and impossible 2,4 of the same frames. */
static void put_quadruplet(const char *group) {
  static const int frames[4][3] = {{10, 20, 30}, {10, 20, 60}, {40, 50, 60}, {40, 50, 30}};
  for (int i = 0; i < 4; i++) {
    char movie[64];
    snprintf(movie, sizeof movie, "%s/%d", group, i + 1);
    put_movie(movie, frames[i], 3, i % 2 == 0 ? possible : impossible);
  }
}

static int reports;
static char last_report[3000];
static void report(void *user, const char *id, const char *reason) {
  (void)user;
  reports++;
  snprintf(last_report, sizeof last_report, "%s: %s", id, reason);
}

static void open_set(ebb_dataset *set, const char *root, bool unlabelled) {
  ebb_error err = {""};
  reports = 0;
  if (!ebb_dataset_open(set, "intphys", root, &(ebb_dataset_options){.unlabelled = unlabelled}, report, NULL, &err))
    fail_msg("%s", err.text);
}

static void test_listing(void **state) {
  (void)state;
  ebb_dataset set;
  put_quadruplet("set/O2/1");
  put_quadruplet("set/O1/10");
  put_quadruplet("set/O1/2");
  put_text(at("set/O1/2/1/scene/._scene_001.png"), "junk of a Mac");
  put_text(at("set/O1/2/1/scene/notes.txt"), "notes");
  put_text(at("set/O1/readme"), "not a group");
  put_text(at("set/O9"), "not a category");
  open_set(&set, at("set"), false);
  const char *const ids[] = {"O1/2/1",  "O1/2/2",  "O1/2/3", "O1/2/4", "O1/10/1", "O1/10/2",
                             "O1/10/3", "O1/10/4", "O2/1/1", "O2/1/2", "O2/1/3",  "O2/1/4"};
  assert_int_equal(set.count, 12);
  assert_int_equal(reports, 0);
  for (int i = 0; i < 12; i++) {
    assert_string_equal(set.videos[i].id, ids[i]);
    assert_int_equal(set.videos[i].frames, 3);
    assert_int_equal(set.videos[i].label, i % 2 == 0 ? EBB_POSSIBLE : EBB_IMPOSSIBLE);
  }
  assert_string_equal(set.videos[4].group, "O1/10");
  assert_string_equal(set.videos[8].category, "O2");
  ebb_clip clip;
  ebb_error err = {""};
  assert_true(ebb_video_read(&set.videos[1], &clip, &err));
  assert_int_equal(clip.frames, 3);
  assert_int_equal(clip.width, SIDE);
  assert_int_equal(clip.rgb[0], 10);
  assert_int_equal(clip.rgb[2 * SIDE * SIDE * 3 + 5], 60);
  ebb_clip_free(&clip);
  ebb_dataset_close(&set);
  ebb_dataset_close(&set);
}

static void test_dev_folder(void **state) {
  (void)state;
  ebb_dataset set;
  put_quadruplet("whole/dev/O1/01");
  open_set(&set, at("whole"), false);
  assert_int_equal(set.count, 4);
  assert_string_equal(set.videos[0].id, "O1/01/1");
  ebb_dataset_close(&set);
}

static void test_broken_videos_are_left_out(void **state) {
  (void)state;
  ebb_dataset set;
  ebb_error err = {""};
  put_quadruplet("broken/O1/01");
  assert_int_equal(remove(at("broken/O1/01/2/status.json")), 0);
  open_set(&set, at("broken"), false);
  assert_int_equal(set.count, 3);
  assert_int_equal(reports, 1);
  assert_non_null(strstr(last_report, "O1/01/2: "));
  assert_non_null(strstr(last_report, "status.json: cannot open"));
  ebb_dataset_close(&set);
  open_set(&set, at("broken"), true); /* unlabelled sets may lack it */
  assert_int_equal(set.count, 4);
  assert_int_equal(set.videos[1].label, EBB_UNLABELLED);
  ebb_dataset_close(&set);
  put_text(at("broken/O1/01/2/status.json"), "{");
  open_set(&set, at("broken"), true); /* but a broken one is broken */
  assert_int_equal(set.count, 3);
  assert_non_null(strstr(last_report, "not valid JSON"));
  ebb_dataset_close(&set);
  assert_true(ebb_make_folders(at("broken/O1/01/5/scene"), &err));
  open_set(&set, at("broken"), false);
  assert_int_equal(reports, 2);
  assert_non_null(strstr(last_report, "O1/01/5: "));
  assert_non_null(strstr(last_report, "no frames"));
  ebb_dataset_close(&set);
}

static void refuse_set(const char *root, const char *format, const char *words) {
  ebb_error err = {""};
  ebb_dataset set;
  assert_false(ebb_dataset_open(&set, format, root, NULL, NULL, NULL, &err));
  assert_says(&err, words);
}

static void test_empty_sets(void **state) {
  (void)state;
  ebb_error err = {""};
  refuse_set(at("nowhere"), "intphys", "cannot open the folder");
  refuse_set(at("whole"), "physion", "expected intphys, inflevel, phyworld or manifest");
  assert_true(ebb_make_folders(at("empty"), &err));
  refuse_set(at("empty"), "intphys", "expected the IntPhys layout");
  put_movie("lone/O1/01/1", (const int[]){1}, 1, NULL);
  refuse_set(at("lone"), "intphys", "none of the 1 videos can be used; the first: ");
}

static void test_status(void **state) {
  (void)state;
  const struct {
    const char *text, *words;
  } cases[] = {{"", "not valid JSON"},
               {"[]", "no object \"header\""},
               {"{\"header\": []}", "no object \"header\""},
               {"{\"header\": {}}", "is_possible"},
               {"{\"header\": {\"is_possible\": 1}}", "is_possible"},
               {"{\"header\": {\"is_possible\": \"true\"}}", "is_possible"},
               {"{\"header\": {\"is_possible\": true, \"is_possible\": false}}", "duplicate"},
               {"{\"header\": {\"is_possible\": true}} x", "not valid JSON"},
               {"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"}};
  ebb_error err = {""};
  bool is = false;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_false(ebb_intphys_status("s.json", cases[i].text, strlen(cases[i].text), &is, &err));
    assert_non_null(strstr(err.text, "s.json"));
    assert_says(&err, cases[i].words);
  }
  assert_true(ebb_intphys_status("s.json", possible, strlen(possible), &is, &err));
  assert_true(is);
  assert_true(ebb_intphys_status("s.json", impossible, strlen(impossible), &is, &err));
  assert_false(is);
}

static void refuse_video(const char *scene, const char *words) {
  ebb_error err = {""};
  ebb_clip clip;
  char path[300];
  snprintf(path, sizeof path, "%s/%s/scene", folder, scene);
  ebb_video v = {.id = (char *)"x", .path = path};
  assert_false(ebb_video_read(&v, &clip, &err));
  assert_null(clip.rgb);
  assert_says(&err, words);
}

static void test_frames_are_complete(void **state) {
  (void)state;
  assert_int_equal(ebb_frame_number("scene_001.png"), 1);
  assert_int_equal(ebb_frame_number("scene_12345.JPG"), 12345);
  assert_int_equal(ebb_frame_number("scene_1.jpeg"), 1);
  assert_int_equal(ebb_frame_number("scene_.png"), -1);
  assert_int_equal(ebb_frame_number("scene_1.png.tmp"), -1);
  assert_int_equal(ebb_frame_number("scene_1234567890.png"), -1);
  assert_int_equal(ebb_frame_number("depth_001.png"), -1);
  put_frame("v1", "scene_001.png", 1, SIDE);
  put_frame("v1", "scene_003.png", 3, SIDE);
  refuse_video("v1", "frame 2 is missing: scene_003.png follows scene_001.png");
  put_frame("v1", "scene_002.png", 2, 5);
  refuse_video("v1", "scene_002.png: 5x5 pixels (width x height), but frame 1 has 4x4");
  put_text(at("v1/scene/scene_002.png"), "\x89PNG\r\n\x1a\nbroken");
  refuse_video("v1", "scene_002.png");
  put_frame("v1", "scene_2.png", 2, SIDE);
  refuse_video("v1", "two files are frame 2: scene_002.png and scene_2.png");
  put_frame("v2", "scene_002.png", 1, SIDE);
  refuse_video("v2", "frame 1 is missing");
  refuse_video("v3", "v3/scene: cannot open");
  for (int i = 1; i <= 11; i++) { /* by number, not by letter: 2 before 10 */
    char name[32];
    snprintf(name, sizeof name, "scene_%d.png", i);
    put_frame("v4", name, i, SIDE);
  }
  char path[300];
  snprintf(path, sizeof path, "%s/v4/scene", folder);
  ebb_error err = {""};
  ebb_clip clip;
  assert_true(ebb_video_read(&(ebb_video){.id = (char *)"x", .path = path}, &clip, &err));
  for (int i = 0; i < 11; i++)
    assert_int_equal(clip.rgb[i * SIDE * SIDE * 3], i + 1);
  ebb_clip_free(&clip);
}

/* The printed check of a set, and how many groups it calls broken. */
static int64_t check(const char *root, bool unlabelled, char *text, size_t size) {
  ebb_dataset set;
  ebb_error err = {""};
  int64_t broken = -1;
  open_set(&set, root, unlabelled);
  FILE *out = fmemopen(text, size, "w");
  assert_true(ebb_dataset_check(&set, out, &broken, &err));
  fclose(out);
  ebb_dataset_close(&set);
  return broken;
}

static void test_check(void **state) {
  (void)state;
  static char text[8000];
  put_quadruplet("c/O1/01");
  put_quadruplet("c/O2/01");
  assert_int_equal(check(at("c"), false, text, sizeof text), 0);
  assert_non_null(strstr(text, "Every group is a quadruplet"));
  assert_non_null(strstr(text, "Null by construction"));
  put_frame("c/O1/01/3", "scene_002.png", 51, SIDE); /* one grey level of one frame */
  assert_int_equal(check(at("c"), false, text, sizeof text), 1);
  assert_non_null(strstr(text, "O1/01: the possible movies (O1/01/1, O1/01/3)"));
  assert_null(strstr(text, "Null by construction"));
  put_frame("c/O1/01/3", "scene_002.png", 50, SIDE);
  put_text(at("c/O2/01/2/status.json"), possible);
  assert_int_equal(check(at("c"), false, text, sizeof text), 1);
  assert_non_null(strstr(text, "3 possible, 1 impossible"));
  assert_non_null(strstr(text, "not balanced: chance is 0.625"));
  put_text(at("c/O2/01/2/status.json"), impossible);
  put_movie("c/O2/01/5", (const int[]){1, 2}, 2, impossible);
  assert_int_equal(check(at("c"), false, text, sizeof text), 1);
  assert_non_null(strstr(text, "5 movies, expected 4"));
  put_text(at("c/O2/01/5/scene/scene_002.png"), "broken");
  assert_int_equal(check(at("c"), false, text, sizeof text), 1);
  assert_non_null(strstr(text, "O2/01/5 cannot be read"));
}

static void test_check_unlabelled_and_one_class(void **state) {
  (void)state;
  static char text[8000];
  put_quadruplet("u/O1/01");
  for (int i = 1; i <= 4; i++) {
    char name[64];
    snprintf(name, sizeof name, "u/O1/01/%d/status.json", i);
    assert_int_equal(remove(at(name)), 0);
  }
  assert_int_equal(check(at("u"), true, text, sizeof text), 0);
  assert_non_null(strstr(text, "No video has a label"));
  put_frame("u/O1/01/1", "scene_001.png", 99, SIDE);
  assert_int_equal(check(at("u"), true, text, sizeof text), 1);
  for (int i = 1; i <= 2; i++) {
    char name[64];
    snprintf(name, sizeof name, "one/O1/01/%d", i);
    put_movie(name, (const int[]){1, 2}, 2, possible);
  }
  assert_int_equal(check(at("one"), false, text, sizeof text), 1);
  assert_non_null(strstr(text, "a probe needs both classes"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_listing),
                                     cmocka_unit_test(test_dev_folder),
                                     cmocka_unit_test(test_broken_videos_are_left_out),
                                     cmocka_unit_test(test_empty_sets),
                                     cmocka_unit_test(test_status),
                                     cmocka_unit_test(test_frames_are_complete),
                                     cmocka_unit_test(test_check),
                                     cmocka_unit_test(test_check_unlabelled_and_one_class)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
