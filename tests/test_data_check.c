/* `ebb data check`: what is null by construction, what leaks, in small sets made for it. Host code, exact. */
#include "tests/test_files.h"

#include "loaders/dataset.h"
#include "loaders/file.h"
#include "loaders/image.h"
#include "loaders/video.h"

#include <stdbool.h>

static char text[20000];

static int64_t check(const char *format, const char *root, const ebb_dataset_options *options) {
  ebb_dataset set;
  ebb_error err = {""};
  int64_t broken = -1;
  if (!ebb_dataset_open(&set, format, root, options, NULL, NULL, &err))
    fail_msg("%s", err.text);
  FILE *out = fmemopen(text, sizeof text, "w");
  assert_true(ebb_dataset_check(&set, out, &broken, &err));
  fclose(out);
  ebb_dataset_close(&set);
  return broken;
}

static void says(const char *words) {
  if (strstr(text, words) == NULL)
    fail_msg("expected \"%s\" in\n%s", words, text);
}

static void says_not(const char *words) {
  if (strstr(text, words) != NULL)
    fail_msg("did not expect \"%s\" in\n%s", words, text);
}

/* A film of 8 x 8 pixels: each frame drawn from its number, never the same for two numbers. */
static void draw(uint8_t *rgb, int number) {
  uint32_t x = (uint32_t)number * 2654435761u + 12345;
  for (int i = 0; i < 8 * 8 * 3; i++) {
    x = x * 1664525u + 1013904223u;
    rgb[i] = (uint8_t)(x >> 24);
  }
}

static void put_film(const char *name, const int *frames, int n) {
  ebb_error err = {""};
  char *dir = ebb_format("%s/%s", folder, name);
  assert_true(ebb_make_folders(dir, &err));
  for (int i = 0; i < n; i++) {
    uint8_t rgb[8 * 8 * 3];
    char *path = ebb_format("%s/frame_%03d.png", dir, i + 1);
    draw(rgb, frames[i]);
    assert_true(ebb_image_write_png(path, 8, 8, rgb, &err));
    free(path);
  }
  free(dir);
}

/* Quadruplets of the design: P1 = ab, P2 = cd, I1 = ad, I2 = cb. Other lengths of a, b, c, d keep it. With
 * `retakes` each film is one of its own. */
static void put_matched(const char *root, int groups, bool retakes, const char *columns,
                        const char *(*more)(int, int)) {
  char *manifest = NULL;
  size_t bytes;
  FILE *f = open_memstream(&manifest, &bytes);
  fprintf(f, "id,path,label,group%s\n", columns);
  for (int g = 0; g < groups; g++)
    for (int v = 0; v < 4; v++) {
      static const int parts[4][2] = {{0, 1}, {2, 3}, {0, 3}, {2, 1}};
      int frames[8];
      for (int i = 0; i < 8; i++)
        frames[i] = 100 * g + 10 * parts[v][i / 4] + i % 4 + (retakes ? 1000 * (v + 1) : 0);
      char *name = ebb_format("%s/g%d_%d", root, g, v);
      put_film(name, frames, 8);
      fprintf(f, "g%d_%d,g%d_%d,%d,g%d%s\n", g, v, g, v, v < 2, g, more != NULL ? more(g, v) : "");
      free(name);
    }
  fclose(f);
  char *path = ebb_format("%s/%s/manifest.csv", folder, root);
  put_text(path, manifest);
  free(path);
  free(manifest);
}

/* REFERENCE 6.9: with the same frames in both classes a frame-additive feature has a pairwise accuracy of
 * exactly 0.5, in every set and for every feature; retakes of the same scenes end that. */
static void test_null_by_construction(void **state) {
  (void)state;
  put_matched("null", 12, false, "", NULL);
  assert_int_equal(check("manifest", at("null"), NULL), 0);
  says("Matched sets: 12, of which 12 have two possible and two impossible videos, and 12 are made of the "
       "same frames");
  says("exactly 0.5 in 12 of the 12 sets, and the same sum over both classes in 12;");
  says("their accuracies are 0.5000 to 0.5000.");
  says("Null by construction");
  says("no event and no video is in two of them");
  says_not("LEAK");
  put_matched("retakes", 12, true, "", NULL);
  assert_int_equal(check("manifest", at("retakes"), NULL), 0);
  says("and 0 are made of the same frames");
  says("and the same sum over both classes in 0;");
  says_not("Null by construction");
  /* a pair, one film forward and backward: every comparison is a tie */
  put_film("ties/there", (const int[]){1, 2, 3, 4}, 4);
  put_film("ties/back", (const int[]){4, 3, 2, 1}, 4);
  put_text(at("ties/manifest.csv"), "id,path,label,group,pair\na,there,1,g,p\nb,back,0,g,p\n"
                                    "c,there,1,g,q\nd,back,0,h,\n");
  assert_int_equal(check("manifest", at("ties"), NULL), 0);
  says("Matched sets: 1, of which 0 have two possible and two impossible videos, and 1 are made of the same");
  says("exactly 0.5 in 1 of the 1 sets, and the same sum over both classes in 1;");
}

static const char *told(int g, int v) {
  static char line[100];
  snprintf(line, sizeof line, ",\"a film, %s, mass %.2f\",%.4f,%d", v < 2 ? "as it should be" : "strange",
           0.37 + 0.11 * g + 0.029 * v, 0.37 + 0.11 * g + 0.029 * v, v < 2 ? 7 : 3);
  return line;
}

static const char *harmless(int g, int v) {
  static char line[100];
  snprintf(line, sizeof line, ",a film,%.4f,%d", 0.37 + 0.11 * g + 0.029 * v, (g * 5 + v * 3) % 7);
  return line;
}

static const char *by_class(int g, int v) {
  static char line[100];
  snprintf(line, sizeof line, ",%s,%.4f,%d", v < 2 ? "fine" : "odd", 0.37 + 0.11 * g + 0.029 * v,
           v < 2 ? 7 : 3);
  return line;
}

static void test_prompts_that_tell(void **state) {
  (void)state;
  put_matched("told", 12, false, ",prompt,target:mass,target:kind", told);
  assert_int_equal(check("manifest", at("told"), NULL), 0);
  says("LEAK: the prompt states the target mass in figures, in 48 of 48 videos");
  says_not("the target kind in figures");
  put_matched("harmless", 12, false, ",prompt,target:mass,target:kind", harmless);
  assert_int_equal(check("manifest", at("harmless"), NULL), 0);
  says("1 different of 48 videos: it tells nothing");
  says_not("LEAK");
  put_matched("class", 12, false, ",prompt,target:mass,target:kind", by_class);
  assert_int_equal(check("manifest", at("class"), NULL), 0);
  says("prompt                 AUC 1.000");
  says("LEAK: it predicts the label");
  says("LEAK: the prompt alone predicts the target kind across groups, R2 1.000");
}

/* Impossible films that are one frame longer: the container alone gives them away. */
static void test_container_that_tells(void **state) {
  (void)state;
  put_matched("long", 12, false, "", NULL);
  for (int g = 0; g < 12; g++)
    for (int v = 2; v < 4; v++) {
      uint8_t rgb[8 * 8 * 3];
      char name[64];
      ebb_error err = {""};
      draw(rgb, 5000 + g);
      snprintf(name, sizeof name, "long/g%d_%d/frame_009.png", g, v);
      assert_true(ebb_image_write_png(at(name), 8, 8, rgb, &err));
    }
  assert_int_equal(check("manifest", at("long"), NULL), 0);
  says("frames                 AUC 0.000 (chance 0.5 +- 0.084), furthest in all: 0.000 (+- 0.084)  LEAK");
  says("pixels of a frame      AUC 0.500 (chance 0.5 +- 0.084)\n");
}

static const char *with_view(int g, int v) {
  (void)v;
  return g % 2 ? "_left,left" : "_right,right";
}

static void test_groups_that_share(void **state) {
  (void)state;
  put_matched("views", 4, false, ",view", with_view); /* g0_right, g1_left: other events */
  assert_int_equal(check("manifest", at("views"), NULL), 0);
  says("view left               8        4          4          0");
  says_not("LEAK");
  char *manifest, *hit;
  size_t bytes;
  ebb_error err = {""};
  assert_true(ebb_file_read(at("views/manifest.csv"), 1 << 20, &manifest, &bytes, &err));
  while ((hit = strstr(manifest, ",g1_left")) != NULL) /* the same event from two sides, in two groups */
    hit[2] = '0';
  put_text(at("views/manifest.csv"), manifest);
  free(manifest);
  assert_int_equal(check("manifest", at("views"), NULL), 0);
  says("LEAK: 1 events are in several groups, by camera view (g0_left and g0_right)");
  put_film("views/g3_0", (const int[]){0, 1, 2, 3, 10, 11, 12, 13}, 8); /* g0_0 once more */
  assert_int_equal(check("manifest", at("views"), NULL), 0);
  says("LEAK: 1 videos are in several groups with the same pixels (");
  put_film("views/g3_0", (const int[]){10, 11, 12, 13, 0, 1, 2, 3},
           8); /* its frames in another order are another film */
  assert_int_equal(check("manifest", at("views"), NULL), 0);
  says_not("the same pixels");
  put_text(at("views/g3_0/frame_004.png"), "broken");
  assert_int_equal(check("manifest", at("views"), NULL), 1);
  says("g3_0 cannot be read");
}

/* Groups of one video: the mean label of the others with a prompt is below the own label by construction. That
 * is no leak; a prompt that goes with the label in three of four videos is. */
static const char *two_prompts(int g, int v) {
  static char line[40];
  snprintf(line, sizeof line, "_%d,%s", v, g % 2 ? "a ball" : "a cube");
  return line;
}

static const char *most_by_class(int g, int v) {
  static char line[40];
  snprintf(line, sizeof line, "_%d,%s", v, (v < 2) == (g % 4 > 0) ? "fine" : "odd");
  return line;
}

static void test_prompts_of_single_videos(void **state) {
  (void)state;
  put_matched("single", 12, false, ",prompt", two_prompts);
  assert_int_equal(check("manifest", at("single"), NULL), 0);
  says("2 different of 48 videos");
  says("prompt                 AUC 0.250 (chance up to 0.5 +- 0.084)\n");
  says_not("LEAK");
  put_matched("most", 20, false, ",prompt", most_by_class);
  assert_int_equal(check("manifest", at("most"), NULL), 0);
  says("prompt                 AUC 0.750");
  says("LEAK: it predicts the label");
}

static const char *side_by_class(int g, int v) {
  (void)g;
  return v < 2 ? ",left" : ",right";
}

static void test_views_that_tell(void **state) {
  (void)state;
  put_matched("side", 12, false, ",view", side_by_class);
  assert_int_equal(check("manifest", at("side"), NULL), 0);
  says("view                   AUC 1.000 (chance 0.5 +- 0.084), furthest in all: 1.000 (+- 0.084)  LEAK");
}

static const char *counted(int g, int v) {
  static char line[60];
  snprintf(line, sizeof line, ",1 %s ball falls,%.4f", g % 2 ? "red" : "blue", 0.7 + 0.01 * g + 0.1 * v);
  return line;
}

static const char *one_ball(int g, int v) {
  static char line[60];
  snprintf(line, sizeof line, ",1 ball falls,%.4f", 0.7 + 0.01 * g + 0.1 * v);
  return line;
}

static const char *measured(int g, int v) {
  static char line[60];
  const double r = 0.7 + 0.01 * g + 0.1 * v;
  snprintf(line, sizeof line, ",1 ball of radius %.2f,%.4f", r, r);
  return line;
}

/* A whole number stands for half of the targets, the same in all prompts for none. */
static void test_numbers_that_tell_nothing(void **state) {
  (void)state;
  put_matched("one", 12, false, ",prompt,target:r", one_ball);
  assert_int_equal(check("manifest", at("one"), NULL), 0);
  says("1 different of 48 videos: it tells nothing");
  says_not("LEAK");
  put_matched("count", 12, false, ",prompt,target:r", counted);
  assert_int_equal(check("manifest", at("count"), NULL), 0);
  says("2 different of 48 videos\n");
  says_not("LEAK");
  put_matched("radius", 12, false, ",prompt,target:r", measured);
  assert_int_equal(check("manifest", at("radius"), NULL), 0);
  says("LEAK: the prompt states the target r in figures, in 48 of 48 videos");
}

static const char *numbered_view(int g, int v) {
  (void)v;
  return g % 2 ? ",1" : ",0";
}

static const char *shoes(int g, int v) {
  static char line[40];
  snprintf(line, sizeof line, "_%s_shoe,%s", g % 2 ? "left" : "right", v % 2 ? "left" : "right");
  return line;
}

/* Names that have a view's text in them, and are not those of views of one event. */
static void test_groups_that_only_sound_alike(void **state) {
  (void)state;
  put_matched("number", 2, false, ",view", numbered_view); /* groups g0, g1; views 0, 1 */
  assert_int_equal(check("manifest", at("number"), NULL), 0);
  says_not("LEAK");
  put_matched("shoes", 2, false, ",view", shoes);
  char *manifest, *hit;
  size_t bytes;
  ebb_error err = {""};
  assert_true(ebb_file_read(at("shoes/manifest.csv"), 1 << 20, &manifest, &bytes, &err));
  while ((hit = strstr(manifest, ",g1_left")) != NULL)
    hit[2] = '0';
  put_text(at("shoes/manifest.csv"),
           manifest); /* groups g0_left_shoe and g0_right_shoe, each of both views */
  free(manifest);
  assert_int_equal(check("manifest", at("shoes"), NULL), 0);
  says_not("LEAK");
}

static const char *constant(int g, int v) {
  static char line[60];
  snprintf(line, sizeof line, ",0.1,%d,%d", g + v, 100000000 + (g + v) % 5);
  return line;
}

static const char *far(int g, int v) {
  static char line[80];
  snprintf(line, sizeof line, ",%d,%.6f", g + 5 * v, 1e9 + 1e-3 * (g + 5 * v));
  return line;
}

/* A constant target goes with none; targets far from 0 keep their digits. */
static void test_correlation(void **state) {
  (void)state;
  put_matched("constant", 12, false, ",target:k,target:r,target:q", constant);
  assert_int_equal(check("manifest", at("constant"), NULL), 0);
  says("k                      48          0.1          0.1  -\n");
  put_matched("far", 12, false, ",target:r,target:q", far);
  assert_int_equal(check("manifest", at("far"), NULL), 0);
  says("q, r = 1.000");
  says("r, r = 1.000");
}

/* 3: official prompts of PhyWorld tell what is regressed, and the check says so; the default does not. 1:
 * every first frame is compared with column 0. */
static void defect_03_the_check_finds_the_prompt_that_tells(void **state) {
  (void)state;
#if !defined(EBB_HAVE_HDF5)
  skip();
#endif
  if (!ebb_video_supported())
    skip();
  assert_int_equal(check("phyworld", "tests/fixtures/data/phyworld.hdf5", NULL), 0);
  says("No video has a label; 8 targets to regress.");
  says("1 different of 8 videos: it tells nothing");
  says("disc of radius r");
  says_not("LEAK");
  assert_int_equal(
      check("phyworld", "tests/fixtures/data/phyworld.hdf5", &(ebb_dataset_options){.official_prompt = true}),
      0);
  says("LEAK: the prompt states the target r in figures, in 8 of 8 videos");
  says("LEAK: the prompt states the target v in figures, in 8 of 8 videos");
}

/* InfLevel from files: views stay together or are told, lacking codes are told, the notice is printed. */
static void defect_16_the_check_finds_events_in_several_groups(void **state) {
  (void)state;
  if (!ebb_video_supported())
    skip();
  static const char *const views[] = {"center", "left", "right"}, *const codes[] = {"ui", "cv", "uv", "ci"};
  ebb_error err = {""};
  assert_true(ebb_make_folders(at("lab/gravity"), &err));
  uint8_t *rgb = malloc(5 * 16 * 16 * 3);
  for (int v = 0; v < 3; v++)
    for (int c = 0; c < 4; c++) {
      char name[100];
      for (int i = 0; i < 5 * 16 * 16 * 3; i++)
        rgb[i] = (uint8_t)(60 * v + 20 * c + i % (7 + v + c));
      snprintf(name, sizeof name, "lab/gravity/%s__gravity__tube__duck__%s.mp4", views[v], codes[c]);
      const ebb_clip clip = {.frames = 5, .height = 16, .width = 16, .rgb = rgb};
      if (!ebb_video_file_write(at(name), &clip, 10, &err))
        fail_msg("%s", err.text);
    }
  free(rgb);
  assert_int_equal(check("inflevel", at("lab"), NULL), 0);
  says("Matched sets: 3, of which 3 have two possible and two impossible videos.");
  says("view left               4        2          2          0");
  says("no event and no video is in two of them");
  says("do not allow training");
  says_not("not all four codes");
  assert_int_equal(check("inflevel", at("lab"), &(ebb_dataset_options){.within_views = true}), 0);
  says("LEAK: 1 events are in several groups, by camera view");
  assert_int_equal(remove(at("lab/gravity/left__gravity__tube__duck__ci.mp4")), 0);
  assert_int_equal(check("inflevel", at("lab"), NULL), 0);
  says("1 views of 1 events have not all four codes");
  put_text(at("lab/gravity/right__gravity__tube__duck__ci.mp4"), "cut");
  assert_int_equal(check("inflevel", at("lab"), NULL), 1);
  says("gravity/right__gravity__tube__duck__ci cannot be read");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_null_by_construction),
                                     cmocka_unit_test(test_prompts_that_tell),
                                     cmocka_unit_test(test_container_that_tells),
                                     cmocka_unit_test(test_groups_that_share),
                                     cmocka_unit_test(test_prompts_of_single_videos),
                                     cmocka_unit_test(test_views_that_tell),
                                     cmocka_unit_test(test_numbers_that_tell_nothing),
                                     cmocka_unit_test(test_groups_that_only_sound_alike),
                                     cmocka_unit_test(test_correlation),
                                     cmocka_unit_test(defect_03_the_check_finds_the_prompt_that_tells),
                                     cmocka_unit_test(defect_16_the_check_finds_events_in_several_groups)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
