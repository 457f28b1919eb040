/* The built-in worlds: laws, hiding, quadruplets, files. Host code, exact. */
#include "loaders/image.h"
#include "loaders/synth_draw.h"
#include "tests/test_files.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const ebb_synth_options usual = {.seed = 7, .size = 64, .frames = 33};
static const ebb_synth_options corners[] = {{7, 64, 33}, {8, 32, 9},   {9, 32, 33},  {10, 33, 17},
                                            {11, 96, 9}, {12, 48, 65}, {13, 96, 100}};
enum { CORNERS = sizeof corners / sizeof *corners };

static size_t frame_size(const ebb_synth_scene *s) {
  return (size_t)s->size * (size_t)s->size * 3;
}

/* [2, frames, size, size, 3]: both courses */
static uint8_t *paint_courses(const ebb_synth_scene *s) {
  ebb_error err = {{0}};
  ebb_synth_painter painter;
  assert_true(ebb_synth_painter_open(&painter, s, &err));
  uint8_t *rgb = malloc(2 * (size_t)s->frames * frame_size(s));
  assert_non_null(rgb);
  for (int course = 0; course < 2; course++)
    for (int t = 0; t < s->frames; t++)
      ebb_synth_paint(&painter, course, t, rgb + (size_t)(course * s->frames + t) * frame_size(s));
  ebb_synth_painter_close(&painter);
  return rgb;
}

/* The frames of A and B are equal exactly while the body is hidden, and that is around the cut. */
static void test_courses_meet_only_while_hidden(void **state) {
  (void)state;
  for (int corner = 0; corner < CORNERS; corner++)
    for (int category = 1; category <= 3; category++)
      for (int64_t number = 0; number < (corner == 0 ? 200 : 12); number++) {
        ebb_synth_scene s = ebb_synth_scene_of(&corners[corner], category, number);
        size_t n = frame_size(&s);
        uint8_t *a = paint_courses(&s), *b = a + (size_t)s.frames * n;
        assert_true(s.hidden_count >= EBB_SYNTH_HIDDEN_MIN);
        assert_true(s.cut > s.hidden_first && s.cut <= s.hidden_first + s.hidden_count);
        int differ[2] = {0, 0};
        for (int t = 0; t < s.frames; t++) {
          bool same = memcmp(a + (size_t)t * n, b + (size_t)t * n, n) == 0;
          bool hidden = t >= s.hidden_first && t < s.hidden_first + s.hidden_count;
          if (hidden)
            assert_true(same);
          else
            differ[t >= s.cut] += !same;
        }
        assert_true(differ[0] > 0 && differ[1] > 0);
        if (corner ==
            0) /* in sight for nine frames on either side, as the world promises at its usual size */
          assert_true(differ[0] >= 9 && differ[1] >= 9);
        free(a);
      }
}

static bool equal(double x, double y) {
  double d = x - y;
  return d < 1e-12 && d > -1e-12;
}

/* Uniform motion across; between bounces the second difference of the height is -g; speeds at equal heights
 * are equal. */
static void expect_lawful(const ebb_synth_scene *s, const ebb_synth_body *body) {
  double energy = 0.0;
  for (int t = 0; t < s->frames; t++) {
    ebb_synth_state now = ebb_synth_state_at(body, t);
    assert_true(now.z >= 0.0 && now.z <= body->apex + 1e-12);
    double e = 0.5 * now.vz * now.vz + s->gravity * now.z;
    assert_true(t == 0 || equal(e, energy));
    energy = e;
    if (t < 2)
      continue;
    ebb_synth_state last = ebb_synth_state_at(body, t - 1), before = ebb_synth_state_at(body, t - 2);
    assert_true(equal(now.x - last.x, body->vx));
    bool flight = body->apex > 0.0 && (int64_t)(t / body->period + body->phase) ==
                                          (int64_t)((t - 2) / body->period + body->phase);
    if (flight)
      assert_true(equal(now.z - 2.0 * last.z + before.z, -s->gravity));
    if (body->apex == 0.0)
      assert_true(now.z == 0.0);
  }
}

static void test_courses_are_lawful(void **state) {
  (void)state;
  for (int corner = 0; corner < CORNERS; corner++)
    for (int category = 1; category <= 3; category++)
      for (int64_t number = 0; number < 100; number++) {
        ebb_synth_scene s = ebb_synth_scene_of(&corners[corner], category, number);
        const ebb_synth_body *a = &s.course[0], *b = &s.course[1];
        for (int i = 0; i < 2; i++)
          expect_lawful(&s, &s.course[i]);
        expect_lawful(&s, &s.extra);
        assert_true(a->radius == b->radius && a->colour == b->colour);
        assert_true(s.extra.vx == 0.0 && (!s.extra.present || s.extra.colour != a->colour));
        if (category == 1)
          assert_true(a->present != b->present);
        else
          assert_true(a->present && b->present);
        assert_true((a->shape != b->shape) == (category == 2));
        assert_true(a->vx == (category == 3 ? -b->vx : b->vx));
      }
}

/* What must be even over many scenes is: which course is which, directions, shapes, colours, the second body.
 */
static void test_variety(void **state) {
  (void)state;
  enum { N = 3000 };
  int absent_first = 0, right = 0, extra = 0, rolls = 0, shapes[EBB_SHAPES] = {0},
      colours[EBB_BODY_COLOURS] = {0};
  for (int64_t number = 0; number < N; number++) {
    ebb_synth_scene s = ebb_synth_scene_of(&usual, 1, number);
    absent_first += !s.course[0].present;
    right += s.course[0].vx > 0.0;
    extra += s.extra.present;
    rolls += s.course[0].apex == 0.0;
    shapes[s.course[0].shape]++;
    colours[s.course[0].colour]++;
    assert_true(s.cut >= 12 && s.cut <= 21 && s.hidden_count >= 3 && s.hidden_count <= 6);
  }
  assert_in_range(absent_first, N * 46 / 100, N * 54 / 100);
  assert_in_range(right, N * 46 / 100, N * 54 / 100);
  assert_in_range(extra, N * 22 / 100, N * 28 / 100);
  assert_in_range(rolls, N * 26 / 100, N * 34 / 100);
  for (int i = 0; i < EBB_SHAPES; i++)
    assert_in_range(shapes[i], N * 30 / 100, N * 37 / 100);
  for (int i = 0; i < EBB_BODY_COLOURS; i++)
    assert_in_range(colours[i], N * 11 / 100, N * 18 / 100);
}

/* A fixed point in the space of bytes: a change of the worlds must be noticed, on every machine. FNV-1a. */
static void test_bytes_are_the_known_ones(void **state) {
  (void)state;
  uint64_t hash = 14695981039346656037u;
  for (int category = 1; category <= 3; category++) {
    ebb_synth_scene s = ebb_synth_scene_of(&usual, category, 5);
    size_t n = 2 * (size_t)s.frames * frame_size(&s);
    uint8_t *rgb = paint_courses(&s);
    for (size_t i = 0; i < n; i++)
      hash = (hash ^ rgb[i]) * 1099511628211u;
    free(rgb);
  }
  if (hash != 0x9e0140fbab764b4eu)
    fail_msg("hash of the worlds is 0x%016llx", (unsigned long long)hash);
}

/* ---- the IntPhys layout ---- */

static int by_bytes(const void *x, const void *y) {
  return memcmp(x, y, 64 * 64 * 3);
}

/* Reads dir/O<category>/<scene>/<movie>: frames [33, 64, 64, 3], returns is_possible. */
static bool read_movie(const char *dir, int category, int number, int movie, uint8_t *rgb) {
  char path[256];
  ebb_error err = {{0}};
  for (int t = 1; t <= 33; t++) {
    snprintf(path, sizeof path, "%s/O%d/%02d/%d/scene/scene_%03d.png", dir, category, number, movie, t);
    ebb_image image;
    if (!ebb_image_read(path, &image, &err))
      fail_msg("%s", err.text);
    assert_true(image.width == 64 && image.height == 64);
    memcpy(rgb + (size_t)(t - 1) * 64 * 64 * 3, image.pixels, 64 * 64 * 3);
    ebb_image_free(&image);
  }
  snprintf(path, sizeof path, "%s/O%d/%02d/%d/status.json", dir, category, number, movie);
  json_error_t why;
  json_t *status = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
  assert_non_null(status);
  int possible = -1;
  const char *block = NULL;
  assert_int_equal(
      json_unpack(status, "{s:{s:b,s:s}}", "header", "is_possible", &possible, "block_name", &block), 0);
  assert_true(block[0] == 'O' && block[1] == '0' + category && block[2] == '\0');
  assert_int_equal(json_array_size(json_object_get(status, "frames")), 33);
  json_decref(status);
  return possible;
}

static void test_quadruplets_on_disk(void **state) {
  (void)state;
  char dir[128];
  snprintf(dir, sizeof dir, "%s/ip", folder);
  ebb_error err = {{0}};
  if (!ebb_synth_intphys(dir, "O1,O2,O3", 2, &usual, &err))
    fail_msg("%s", err.text);
  const size_t n = 64 * 64 * 3, movie_bytes = 33 * n;
  uint8_t *possible = malloc(2 * movie_bytes), *impossible = malloc(2 * movie_bytes);
  for (int category = 1; category <= 3; category++)
    for (int number = 1; number <= 2; number++) {
      int counts[2] = {0, 0};
      uint8_t *rgb = malloc(movie_bytes);
      for (int movie = 1; movie <= 4; movie++) {
        bool yes = read_movie(dir, category, number, movie, rgb);
        assert_true(counts[yes] < 2);
        memcpy((yes ? possible : impossible) + (size_t)counts[yes]++ * movie_bytes, rgb, movie_bytes);
      }
      free(rgb);
      ebb_synth_scene s = ebb_synth_scene_of(&usual, category, number);
      uint8_t *courses = paint_courses(&s);
      bool in_order = memcmp(courses, possible, movie_bytes) == 0;
      assert_memory_equal(courses, possible + (in_order ? 0 : movie_bytes), movie_bytes);
      assert_memory_equal(courses + movie_bytes, possible + (in_order ? movie_bytes : 0), movie_bytes);
      free(courses);
      qsort(possible, 66, n, by_bytes);
      qsort(impossible, 66, n, by_bytes);
      assert_memory_equal(possible, impossible, 2 * movie_bytes);
    }
  free(possible);
  free(impossible);
  assert_false(ebb_synth_intphys(dir, "O1", 1, &usual, &err));
  assert_non_null(strstr(err.text, "not empty"));
}

static void test_same_seed_same_files(void **state) {
  (void)state;
  ebb_synth_options small = {3, 32, 9};
  for (int i = 0; i < 2; i++) {
    char dir[128];
    ebb_error err = {{0}};
    snprintf(dir, sizeof dir, "%s/twin%d", folder, i);
    if (!ebb_synth_intphys(dir, "O3,O1", 3, &small, &err))
      fail_msg("%s", err.text);
  }
  char command[256];
  snprintf(command, sizeof command,
           "cd '%s' && diff -r twin0 twin1 && test ! -e twin0/O2 && test -d twin0/O3/03/4", folder);
  assert_int_equal(system(command), 0);
}

static void test_refusals(void **state) {
  (void)state;
  static const char *const bad[] = {"", "O4", "O1,", ",O1", "O1, O2", "o1", "O1,O1", "O12", "all"};
  char dir[128];
  snprintf(dir, sizeof dir, "%s/refused", folder);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ebb_error err = {{0}};
    assert_false(ebb_synth_intphys(dir, bad[i], 1, &usual, &err));
    assert_non_null(strstr(err.text, "categories"));
  }
  static const ebb_synth_options out[] = {{1, 31, 33}, {1, 513, 33}, {1, 64, 8}, {1, 64, 513}};
  for (size_t i = 0; i < sizeof out / sizeof *out; i++) {
    ebb_error err = {{0}};
    assert_false(ebb_synth_intphys(dir, "O1", 1, &out[i], &err));
    assert_false(ebb_synth_bulk(dir, 0, 1, false, &out[i], &err));
    assert_true(err.text[0] != '\0');
  }
  ebb_error err = {{0}};
  assert_false(ebb_synth_intphys(dir, "O1", 0, &usual, &err));
  assert_false(ebb_synth_bulk(dir, -1, 1, false, &usual, &err));
  assert_false(ebb_synth_bulk(dir, 0, 0, false, &usual, &err));
  assert_false(ebb_synth_bulk(dir, INT64_MAX, INT64_MAX, false, &usual, &err));
  assert_int_not_equal(access(dir, F_OK), 0); /* nothing was created */
}

/* ---- the bulk form ---- */

typedef struct bulk {
  uint8_t *bytes;
  size_t size;
  const uint8_t *video;
  const int64_t *category, *course, *scene;
} bulk;

static const uint8_t *tensor(const bulk *b, json_t *header, const char *name, const char *dtype,
                             size_t bytes) {
  const char *found = NULL;
  json_int_t from = -1, to = -1;
  assert_int_equal(
      json_unpack(header, "{s:{s:s,s:[I,I]}}", name, "dtype", &found, "data_offsets", &from, &to), 0);
  assert_string_equal(found, dtype);
  assert_int_equal((size_t)(to - from), bytes);
  uint64_t length;
  memcpy(&length, b->bytes, 8);
  assert_true(8 + length + (uint64_t)to <= b->size);
  return b->bytes + 8 + length + (size_t)from;
}

static bulk make_bulk(int64_t first, int64_t count, bool lawless, const ebb_synth_options *o) {
  char path[128];
  ebb_error err = {{0}};
  snprintf(path, sizeof path, "%s/bulk.safetensors", folder);
  if (!ebb_synth_bulk(path, first, count, lawless, o, &err))
    fail_msg("%s", err.text);
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  fseek(f, 0, SEEK_END);
  bulk b = {.size = (size_t)ftell(f)};
  rewind(f);
  b.bytes = malloc(b.size);
  assert_int_equal(fread(b.bytes, 1, b.size, f), b.size);
  fclose(f);
  uint64_t length;
  memcpy(&length, b.bytes, 8);
  assert_true(length % 8 == 0 && length < b.size);
  json_error_t why;
  json_t *header = json_loadb((const char *)b.bytes + 8, length, JSON_REJECT_DUPLICATES, &why);
  assert_non_null(header);
  size_t movie = (size_t)o->frames * (size_t)o->size * (size_t)o->size * 3, n = (size_t)count;
  b.video = tensor(&b, header, "video", "U8", n * movie);
  b.category = (const int64_t *)(const void *)tensor(&b, header, "category", "I64", n * 8);
  b.course = (const int64_t *)(const void *)tensor(&b, header, "course", "I64", n * 8);
  b.scene = (const int64_t *)(const void *)tensor(&b, header, "scene", "I64", n * 8);
  assert_int_equal(b.size, 8 + length + n * (movie + 24)); /* no holes, nothing after */
  json_int_t shape[5];
  assert_int_equal(json_unpack(header, "{s:{s:[I,I,I,I,I]}}", "video", "shape", &shape[0], &shape[1],
                               &shape[2], &shape[3], &shape[4]),
                   0);
  assert_true(shape[0] == count && shape[1] == o->frames && shape[2] == o->size && shape[3] == o->size &&
              shape[4] == 3);
  json_decref(header);
  return b;
}

static void test_bulk(void **state) {
  (void)state;
  const size_t n = 64 * 64 * 3, movie = 33 * n;
  bulk lawful = make_bulk(5, 13, false, &usual), lawless = make_bulk(5, 13, true, &usual);
  uint8_t *x = malloc(movie), *y = malloc(movie);
  for (int i = 0; i < 13; i++) {
    assert_in_range(lawful.category[i], 1, 3);
    assert_in_range(lawful.course[i], 0, 1);
    assert_true(lawful.scene[i] > 9999);
    ebb_synth_scene s = ebb_synth_scene_of(&usual, (int)lawful.category[i], lawful.scene[i]);
    uint8_t *courses = paint_courses(&s);
    assert_memory_equal(courses + (size_t)lawful.course[i] * movie, lawful.video + (size_t)i * movie, movie);
    free(courses);
    memcpy(x, lawful.video + (size_t)i * movie, movie);
    memcpy(y, lawless.video + (size_t)i * movie, movie);
    bool empty = lawful.category[i] == 1 && !s.course[lawful.course[i]].present;
    assert_true(memcmp(x, y, movie) != 0 || empty);
    qsort(x, 33, n, by_bytes);
    qsort(y, 33, n, by_bytes);
    assert_memory_equal(x, y, movie);
  }
  /* a movie does not depend on where the file begins */
  bulk later = make_bulk(9, 2, false, &usual);
  assert_memory_equal(later.video, lawful.video + 4 * movie, 2 * movie);
  assert_int_equal(later.scene[1], lawful.scene[5]);
  free(x);
  free(y);
  free(later.bytes);
  free(lawful.bytes);
  free(lawless.bytes);
  bulk odd = make_bulk(0, 3, false, &(ebb_synth_options){1, 33, 9});
  free(odd.bytes);
}

static void test_bulk_is_even(void **state) {
  (void)state;
  bulk b = make_bulk(0, 60, true, &(ebb_synth_options){2, 32, 9});
  int counts[3][2] = {{0}};
  for (int i = 0; i < 60; i++)
    counts[b.category[i] - 1][b.course[i]]++;
  for (int i = 0; i < 6; i++)
    assert_int_equal(counts[i / 2][i % 2], 10);
  free(b.bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_courses_meet_only_while_hidden),
      cmocka_unit_test(test_courses_are_lawful),
      cmocka_unit_test(test_variety),
      cmocka_unit_test(test_bytes_are_the_known_ones),
      cmocka_unit_test(test_quadruplets_on_disk),
      cmocka_unit_test(test_same_seed_same_files),
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_bulk),
      cmocka_unit_test(test_bulk_is_even),
  };
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
