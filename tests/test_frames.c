/* Frames: which are taken, resized and cropped as torch does. Against values made by torch
 * (fixtures/make_frames.py). */
#include "tests/test_files.h"

#include "loaders/file.h"
#include "loaders/frames.h"
#include "loaders/safetensors.h"

#include <math.h>

#ifndef EBB_FIXTURES
#define EBB_FIXTURES "tests/fixtures"
#endif

static ebb_safetensors fixture;

static int open_fixture(void **state) {
  (void)state;
  ebb_error err = {""};
  if (ebb_safetensors_open(&fixture, EBB_FIXTURES "/frames.safetensors", &err))
    return 0;
  fprintf(stderr, "%s\n", err.text);
  return -1;
}

static int close_fixture(void **state) {
  (void)state;
  ebb_safetensors_close(&fixture);
  return 0;
}

static void *load(const char *name, const ebb_st_entry **e) {
  ebb_error err = {""};
  *e = ebb_safetensors_find(&fixture, name);
  assert_non_null(*e);
  void *data = malloc((size_t)(*e)->bytes);
  assert_true(ebb_safetensors_read(&fixture, *e, 0, (*e)->bytes, data, &err));
  return data;
}

static void test_align_rows(void **state) {
  (void)state;
  int rows = 0;
  for (int64_t i = 0; i < fixture.count; i++) {
    int have, want, index[200];
    if (sscanf(fixture.entries[i].name, "align.%d.%d", &have, &want) != 2)
      continue;
    const ebb_st_entry *e;
    int64_t *expected = load(fixture.entries[i].name, &e);
    ebb_frames_align(have, want, index);
    for (int t = 0; t < want; t++)
      assert_int_equal(index[t], expected[t]);
    free(expected);
    rows++;
  }
  assert_int_equal(rows, 7);
}

/* All (have, want) with want < have <= 130 at once, by the hash that Python computed. */
static void test_align_all(void **state) {
  (void)state;
  static int32_t all[130 * 130 * 65];
  size_t n = 0;
  for (int have = 2; have <= 130; have++)
    for (int want = 1; want < have; want++) {
      int index[130];
      ebb_frames_align(have, want, index);
      for (int t = 0; t < want; t++)
        all[n++] = index[t];
    }
  char hex[65];
  ebb_sha256(all, n * sizeof *all, hex);
  const char *expected = NULL;
  for (int64_t i = 0; i < fixture.metadata_count; i++)
    if (strcmp(fixture.metadata[2 * i], "align.sha256") == 0)
      expected = fixture.metadata[2 * i + 1];
  assert_non_null(expected);
  assert_string_equal(hex, expected);
}

static void test_align_short(void **state) {
  (void)state;
  int index[9];
  ebb_frames_align(4, 9, index); /* the last frame is repeated */
  const int expected[9] = {0, 1, 2, 3, 3, 3, 3, 3, 3};
  assert_memory_equal(index, expected, sizeof expected);
  ebb_frames_align(9, 9, index);
  for (int i = 0; i < 9; i++)
    assert_int_equal(index[i], i);
}

static void test_usable(void **state) {
  (void)state;
  const int cases[][3] = {{1, 4, 1},   {4, 4, 1},    {5, 4, 5},    {12, 4, 9},    {33, 4, 33},
                          {97, 4, 97}, {100, 4, 97}, {100, 8, 97}, {105, 8, 105}, {0, 4, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(ebb_frames_usable(cases[i][0], cases[i][1]), cases[i][2]);
  char text[128];
  ebb_frames_note(100, 100, 97, text, sizeof text);
  assert_string_equal(text, "100 frames on disk, 100 asked for, 97 used (4k+1): the last 3 dropped");
  ebb_frames_note(33, 33, 33, text, sizeof text);
  assert_string_equal(text, "33 frames on disk, 33 asked for, 33 used");
  ebb_frames_note(32, 100, 97, text, 30); /* too small a buffer is cut, not overrun */
  assert_int_equal(strlen(text), 29);
}

/* torch's fixed-point path, bit for bit. */
static void test_resize(void **state) {
  (void)state;
  const char *const names[] = {"down", "far", "up", "mixed"};
  for (int i = 0; i < 4; i++) {
    char in_name[32], out_name[32];
    snprintf(in_name, sizeof in_name, "resize.%s.in", names[i]);
    snprintf(out_name, sizeof out_name, "resize.%s.out", names[i]);
    const ebb_st_entry *in, *out;
    uint8_t *from = load(in_name, &in), *expected = load(out_name, &out), *to = malloc((size_t)out->bytes);
    ebb_frames_resize(from, (int)in->shape[0], (int)in->shape[1], to, (int)out->shape[0], (int)out->shape[1]);
    assert_memory_equal(to, expected, (size_t)out->bytes);
    free(from);
    free(expected);
    free(to);
  }
}

static void test_prepare(void **state) {
  (void)state;
  ebb_error err = {""};
  const ebb_st_entry *in, *out;
  uint8_t *frame = load("prepare.in", &in);
  float *expected = load("prepare.out", &out);
  size_t bytes = (size_t)in->bytes;
  uint8_t *rgb =
      calloc(3, bytes); /* the frame of the fixture is the middle of three, the others black and white */
  memcpy(rgb + bytes, frame, bytes);
  memset(rgb + 2 * bytes, 255, bytes);
  ebb_clip clip = {.frames = 3, .height = (int)in->shape[0], .width = (int)in->shape[1], .rgb = rgb};
  enum { PLANE = 16 * 16 };
  float video[3 * 5 * PLANE + 1];
  video[3 * 5 * PLANE] = 7.0f;
  assert_true(
      ebb_frames_prepare(&clip, 8, 5, 16, 16, video, &err)); /* 8 asked for, 5 used, frame 2 repeated */
  for (int c = 0; c < 3; c++)
    for (int i = 0; i < PLANE; i++) {
      assert_true(video[(c * 5 + 0) * PLANE + i] == -1.0f);
      assert_true(video[(c * 5 + 1) * PLANE + i] == expected[c * PLANE + i]);
      for (int t = 2; t < 5; t++)
        assert_true(video[(c * 5 + t) * PLANE + i] == 1.0f);
    }
  assert_true(video[3 * 5 * PLANE] == 7.0f);
  assert_false(ebb_frames_prepare(&clip, 8, 5, 16, 64, video, &err));
  assert_says(&err, "does not fit");
  assert_false(ebb_frames_prepare(&clip, 4, 5, 16, 16, video, &err));
  assert_says(&err, "5 frames to be used of 4");
  assert_false(ebb_frames_prepare(&clip, 8, 5, 0, 16, video, &err));
  assert_says(&err, "out of range");
  free(rgb);
  free(frame);
  free(expected);
}

/* A size that is there already is not touched. */
static void test_prepare_same_size(void **state) {
  (void)state;
  ebb_error err = {""};
  uint8_t rgb[2 * 4 * 6 * 3];
  for (size_t i = 0; i < sizeof rgb; i++)
    rgb[i] = (uint8_t)(i * 5);
  ebb_clip clip = {.frames = 2, .height = 4, .width = 6, .rgb = rgb};
  float video[3 * 2 * 4 * 6];
  assert_true(ebb_frames_prepare(&clip, 2, 2, 4, 6, video, &err));
  for (int c = 0; c < 3; c++)
    for (int t = 0; t < 2; t++)
      for (int i = 0; i < 24; i++)
        assert_true(video[(c * 2 + t) * 24 + i] == (float)rgb[(t * 24 + i) * 3 + c] / 255.0f * 2.0f - 1.0f);
}

/* Every level comes back; between levels the nearest one, beyond them the last; what is no number is refused.
 * */
static void test_quantise(void **state) {
  (void)state;
  enum { FRAMES = 2, HEIGHT = 8, WIDTH = 16, VOLUME = FRAMES * HEIGHT * WIDTH };
  ebb_error err = {""};
  uint8_t rgb[VOLUME * 3];
  float video[VOLUME * 3];
  for (int i = 0; i < VOLUME * 3; i++)
    rgb[i] = (uint8_t)(i * 7 % 256);
  ebb_clip clip = {.frames = FRAMES, .height = HEIGHT, .width = WIDTH, .rgb = rgb}, back;
  assert_true(ebb_frames_prepare(&clip, FRAMES, FRAMES, HEIGHT, WIDTH, video, &err));
  assert_true(ebb_frames_quantise(video, FRAMES, HEIGHT, WIDTH, &back, &err));
  assert_memory_equal(back.rgb, rgb, sizeof rgb);
  ebb_clip_free(&back);
  const float values[] = {-1.5f, -1.0f, 1.0f, 7.0f, 0.0f, (100.4f / 255) * 2 - 1, (100.6f / 255) * 2 - 1};
  const uint8_t levels[] = {0, 0, 255, 255, 128, 100, 101};
  memcpy(video + VOLUME, values, sizeof values); /* green */
  assert_true(ebb_frames_quantise(video, FRAMES, HEIGHT, WIDTH, &back, &err));
  for (int i = 0; i < 7; i++)
    assert_int_equal(back.rgb[i * 3 + 1], levels[i]);
  ebb_clip_free(&back);
  const float broken[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 3; i++) {
    video[VOLUME * 3 - 1] = broken[i];
    assert_false(ebb_frames_quantise(video, FRAMES, HEIGHT, WIDTH, &back, &err));
    assert_says(&err, "not finite");
    assert_null(back.rgb);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_align_rows),
                                     cmocka_unit_test(test_align_all),
                                     cmocka_unit_test(test_align_short),
                                     cmocka_unit_test(test_usable),
                                     cmocka_unit_test(test_resize),
                                     cmocka_unit_test(test_prepare),
                                     cmocka_unit_test(test_prepare_same_size),
                                     cmocka_unit_test(test_quantise)};
  return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
