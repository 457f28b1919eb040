/* tier: host
 * What works beside a run: the reader of clips and the writer of features. Order, failures, and ends at any time. */
#include "engine/reader.h"
#include "engine/writer.h"
#include "loaders/file.h"
#include "loaders/frames.h"
#include "loaders/synth.h"
#include "tests/test_files.h"

#include <math.h>

/* ---- the reader -------------------------------------------------------------------------------------- */

enum { SIDE = 32, FRAMES = 9, PIXELS = 3 * FRAMES * SIDE * SIDE };
static const ebb_clip_size size = {FRAMES, FRAMES, SIDE, SIDE, false};

static void open_data(ebb_dataset *data, ebb_context *c) {
  ebb_error err = {""};
  const ebb_synth_options world = {1, SIDE, FRAMES};
  if (!ebb_is_there(at("data")) && !ebb_synth_intphys(at("data"), "O1,O2", 1, &world, &err))
    fail_msg("%s", err.text);
  if (!ebb_dataset_open(data, "intphys", at("data"), false, NULL, NULL, &err) ||
      !ebb_context_open(c, "cpu", &err))
    fail_msg("%s", err.text);
  assert_int_equal(data->count, 8);
}

static void expect_clip(const ebb_video *video, const ebb_ready_clip *got) {
  ebb_error err = {""};
  ebb_clip clip;
  float pixels[PIXELS];
  char sha256[65];
  assert_true(ebb_video_read(video, &clip, &err) &&
              ebb_frames_prepare(&clip, FRAMES, FRAMES, SIDE, SIDE, pixels, &err));
  ebb_sha256(clip.rgb, (size_t)clip.frames * (size_t)clip.height * (size_t)clip.width * 3, sha256);
  ebb_clip_free(&clip);
  assert_string_equal(got->failure.text, "");
  assert_memory_equal(got->pixels, pixels, sizeof pixels);
  assert_string_equal(got->sha256, sha256);
}

/* Every video once, in order, whatever the number of places and threads; a broken one says why and stops
 * nobody. */
static void test_clips_come_in_order(void **state) {
  (void)state;
  ebb_dataset data;
  ebb_context c;
  ebb_error err = {""};
  open_data(&data, &c);
  char *path = data.videos[3].path;
  for (int round = 0; round < 9; round++) {
    const int64_t ahead = 1 + 4 * (round % 3);
    const int threads = (int[]){1, 3, 20}[round / 3];
    ebb_reader *r;
    data.videos[3].path = (char *)"/nowhere";
    assert_true(ebb_reader_open(&r, &c, &data, size, ahead, threads, &err));
    for (int64_t i = 0; i < data.count; i++) {
      const ebb_ready_clip *clip = ebb_reader_next(r);
      if (i == 3)
        assert_non_null(strstr(clip->failure.text, "/nowhere"));
      else
        expect_clip(&data.videos[i], clip);
      ebb_reader_done(r);
    }
    ebb_reader_close(&r);
    assert_null(r);
    data.videos[3].path = path;
  }
  ebb_dataset_close(&data);
  ebb_context_close(&c);
}

/* 24: the official run repeats the last frame of what is too short; here that is a failure of the video, or asked for.
 * Lengths of video files are known to the reader alone. */
static void defect_24_short_clips_are_padded_only_when_asked(void **state) {
  (void)state;
  ebb_dataset data;
  ebb_context c;
  ebb_error err = {""};
  open_data(&data, &c);
  ebb_clip_size longer = {FRAMES + 4, FRAMES + 4, SIDE, SIDE, false};
  for (int padded = 0; padded < 2; padded++) {
    ebb_reader *r;
    longer.padded = padded != 0;
    assert_true(ebb_reader_open(&r, &c, &data, longer, 2, 2, &err));
    const ebb_ready_clip *clip = ebb_reader_next(r);
    if (padded) {
      assert_string_equal(clip->failure.text, "");
      const float *last = clip->pixels + (size_t)(FRAMES + 3) * SIDE * SIDE;
      assert_memory_equal(last, last - (size_t)4 * SIDE * SIDE, SIDE * SIDE * sizeof(float));
    } else {
      assert_non_null(strstr(clip->failure.text, "has 9 frames, 13 are asked for"));
    }
    ebb_reader_done(r);
    ebb_reader_close(&r);
  }
  ebb_dataset_close(&data);
  ebb_context_close(&c);
}

static void test_a_reader_ends_at_any_time(void **state) {
  (void)state;
  ebb_dataset data;
  ebb_context c;
  ebb_error err = {""};
  open_data(&data, &c);
  for (int taken = 0; taken < 4; taken++) {
    ebb_reader *r;
    assert_true(ebb_reader_open(&r, &c, &data, size, 2, 2, &err));
    for (int i = 0; i < taken; i++) {
      expect_clip(&data.videos[i], ebb_reader_next(r));
      ebb_reader_done(r);
    }
    ebb_reader_close(&r);
    ebb_reader_close(&r);
  }
  ebb_dataset_close(&data);
  ebb_context_close(&c);
}

/* ---- the writer -------------------------------------------------------------------------------------- */

enum { BATCH = 3, BATCHES = 4, VIDEOS = BATCH * BATCHES, WIDTH = 5 };

typedef struct bench {
  ebb_context context;
  ebb_tap_plan plan;
  ebb_store_writer *store;
  ebb_writer *writer;
  int set;
  ebb_error reasons[VIDEOS];
} bench;

static void note_failure(void *user, int64_t video, const char *reason) {
  bench *b = user;
  ebb_fail(&b->reasons[video], "%s", reason);
  ebb_store_fail(b->store, video, reason);
}

static void open_bench(bench *b, const char *name, int ahead) {
  ebb_error err = {""};
  ebb_config k;
  static ebb_video videos[VIDEOS];
  static char ids[VIDEOS][16];
  ebb_dataset data = {.root = (char *)"", .videos = videos, .count = VIDEOS};
  for (int i = 0; i < VIDEOS; i++) {
    snprintf(ids[i], sizeof ids[i], "v%d", i);
    videos[i] = (ebb_video){.id = ids[i], .group = (char *)"g", .category = (char *)"c"};
  }
  ebb_config_defaults(&k);
  k.capture.steps = (ebb_int_list){1, {0}};
  k.capture.points = (ebb_name_list){1, {"latent"}};
  k.capture.pool = (ebb_name_list){1, {"mean"}};
  const ebb_tap_sizes sizes = {.channels = WIDTH, .latent_tokens = 1, .latent_frames = 1};
  static int step = 0;
  static double sigma = 0;
  *b = (bench){0};
  assert_true(ebb_context_open(&b->context, "cpu", &err));
  assert_true(ebb_context_reserve(&b->context, EBB_ACTIVATIONS, 1 << 16, &err));
  assert_true(ebb_tap_plan_make(&b->plan, &k, 1, sizes, &err));
  const ebb_feature_set set = {.model = "vae",
                               .step_count = 1,
                               .steps = &step,
                               .sigmas = &sigma,
                               .feature_count = 1,
                               .features = &b->plan.slots[0].feature};
  assert_true(ebb_store_create(&b->store, at(name), &data, &err));
  assert_true(ebb_store_declare(b->store, &set, &b->set, &err));
  assert_true(ebb_writer_open(&b->writer, b->store, ahead, note_failure, b, &err));
}

static void close_bench(bench *b) {
  ebb_writer_abandon(&b->writer);
  ebb_store_abandon(&b->store);
  ebb_context_close(&b->context);
}

/* Batch n: video v has the numbers v, v + 0.5, ...; `hole` of the batch is not a number. */
static bool put_batch(bench *b, int n, int hole, const ebb_error *failures, ebb_error *err) {
  ebb_tap tap;
  int64_t videos[BATCH];
  size_t mark = ebb_arena_mark(&b->context.activations);
  assert_true(ebb_tap_open(&tap, &b->plan, &b->context, BATCH, err));
  for (int i = 0; i < BATCH; i++) {
    videos[i] = n * BATCH + i;
    for (int k = 0; k < WIDTH; k++)
      tap.data[0][i * WIDTH + k] = i == hole ? NAN : (float)videos[i] + 0.5f * (float)k;
  }
  bool ok = ebb_writer_put(b->writer, b->set, &tap, videos, failures, err);
  assert_null(tap.data); /* it has a new owner, in any case */
  ebb_tap_close(&tap);
  ebb_arena_release(&b->context.activations, mark);
  return ok;
}

static void test_shards_hold_what_was_given(void **state) {
  (void)state;
  for (int ahead = 1; ahead <= 3; ahead++) {
    bench b;
    ebb_error err = {""}, failures[BATCH] = {{""}};
    char name[32];
    snprintf(name, sizeof name, "given-%d", ahead);
    open_bench(&b, name, ahead);
    ebb_fail(&failures[0], "no fixed point");
    for (int n = 0; n < BATCHES; n++)
      assert_true(put_batch(&b, n, n == 1 ? 1 : -1, n == 2 ? failures : NULL, &err));
    assert_true(ebb_writer_finish(&b.writer, &err));
    assert_string_equal(b.reasons[4].text, "values that are not finite");
    assert_string_equal(b.reasons[6].text, "no fixed point");
    assert_int_equal(ebb_store_failed(b.store), 2);
    assert_true(ebb_store_finish(&b.store, NULL, &err));
    ebb_store s;
    if (!ebb_store_open(&s, at(name), &err))
      fail_msg("%s", err.text);
    for (int64_t v = 0; v < VIDEOS; v++) {
      float x[WIDTH];
      assert_int_equal(ebb_store_has(&s, 0, v), v != 4 && v != 6);
      if (!ebb_store_has(&s, 0, v))
        continue;
      assert_true(ebb_store_gather(&s, 0, 0, 0, 0, EBB_ALL_HEADS, 1, &v, x, &err));
      for (int k = 0; k < WIDTH; k++)
        assert_true(x[k] == (float)v + 0.5f * (float)k);
    }
    ebb_store_close(&s);
    close_bench(&b);
  }
}

/* The place of the shards is gone: the error comes with a later batch or at the end, and nothing is written any more. */
static void test_what_cannot_be_written_is_told(void **state) {
  (void)state;
  bench b;
  ebb_error err = {""}, unlike = {""};
  open_bench(&b, "gone", 1);
  assert_true(ebb_remove_folder(at("gone/features/vae"), &err));
  bool ok = true;
  for (int n = 0; ok && n < BATCHES; n++)
    ok = put_batch(&b, n, -1, NULL, &err);
  assert_false(ok); /* one batch waits at most: the fourth comes when the first has failed */
  assert_non_null(strstr(err.text, "shard-00000.safetensors"));
  assert_false(ebb_writer_finish(&b.writer, &unlike));
  assert_string_equal(unlike.text, err.text);
  assert_int_equal(files_in(at("gone")), 0);
  close_bench(&b);
}

static void test_an_abandoned_writer_frees_what_it_has(void **state) {
  (void)state;
  bench b;
  ebb_error err = {""};
  open_bench(&b, "left", 4);
  for (int n = 0; n < BATCHES; n++)
    assert_true(put_batch(&b, n, -1, NULL, &err));
  close_bench(&b);
  assert_false(ebb_is_there(at("left/index.json")));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_clips_come_in_order),
                                     cmocka_unit_test(defect_24_short_clips_are_padded_only_when_asked),
                                     cmocka_unit_test(test_a_reader_ends_at_any_time),
                                     cmocka_unit_test(test_shards_hold_what_was_given),
                                     cmocka_unit_test(test_what_cannot_be_written_is_told),
                                     cmocka_unit_test(test_an_abandoned_writer_frees_what_it_has)};
  return cmocka_run_group_tests_name("threads", tests, folder_make, folder_remove);
}
