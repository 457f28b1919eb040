/* tier: host
 * A transformer on a GPU, in both dtypes and both widths of head that have kernels of their own: the velocity's bytes are
 * the same every time, computed, recorded and replayed, with and without captures, alone and in a batch. */
#include "engine/model.h"
#include "loaders/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/test_cuda.h"

enum { BATCH = 5, CHANNELS = 8, FRAMES = 5, SIDE = 20, TEXT = 24, TOKENS = 6, MOMENTS = 2, TIMES = 4 };
enum { LATENT = CHANNELS * FRAMES * SIDE * SIDE };

typedef struct subject {
  ebb_context context;
  ebb_dtype dtype;
  char folder[64];
  float x[BATCH * LATENT], text[TOKENS * TEXT];
  float first[BATCH * LATENT], again[BATCH * LATENT];
} subject;

static void write_config(const char *folder, int head_width) {
  char *path = ebb_path_join(folder, "config.json");
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fprintf(
      f,
      "{\"_class_name\": \"WanTransformer3DModel\", \"patch_size\": [1, 2, 2], \"num_attention_heads\": 3, "
      "\"attention_head_dim\": %d, \"in_channels\": %d, \"out_channels\": %d, \"text_dim\": %d, "
      "\"freq_dim\": 64, "
      "\"ffn_dim\": 512, \"num_layers\": 3, \"cross_attn_norm\": true, \"qk_norm\": "
      "\"rms_norm_across_heads\", \"eps\": 1e-06}",
      head_width, CHANNELS, CHANNELS, TEXT);
  fclose(f);
  free(path);
}

static void must(subject *s) {
  ebb_error err = {""};
  if (!ebb_context_ok(&s->context, &err))
    fail_msg("%s", err.text);
}

static void velocity(subject *s, ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond,
                     int moment, ebb_tap *tap, float *to) {
  ebb_tap_begin(tap, 0);
  ebb_model_velocity(m, v, x, cond, moment, tap);
  ebb_tap_end(tap);
  ebb_tap_finish(tap);
  if (!s->context.counting)
    memset(to, 0xff, ebb_bytes(v));
  ebb_download(&s->context, to, v);
}

static void same(const subject *s, const float *a, const float *b, size_t bytes, const char *what) {
  if (!s->context.counting && memcmp(a, b, bytes) != 0)
    fail_msg("%s, %s: other bytes %s", s->folder, ebb_dtype_name(s->dtype), what);
}

/* The captures of every block: the same every time, and no change to the velocity. */
static void with_captures(subject *s, ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond) {
  ebb_error err = {""};
  ebb_config config;
  ebb_tap_plan plan;
  ebb_tap tap;
  ebb_config_defaults(&config);
  config.capture.steps = (ebb_int_list){1, {0}};
  config.capture.blocks.count = -1;
  config.capture.points = (ebb_name_list){
      7, {"block_out", "mlp_out", "attn_frames", "attn_entropy", "attn_lag", "attn_rows", "attn_columns"}};
  config.capture.pool = (ebb_name_list){4, {"mean", "frame_mean", "motion", "moments"}};
  if (!ebb_tap_plan_make(&plan, &config, 1, ebb_model_tap_sizes(m, cond->shape), &err) ||
      !ebb_tap_open(&tap, &plan, &s->context, BATCH, &err))
    fail_msg("%s", err.text);
  size_t floats = (size_t)ebb_tap_plan_floats(&plan) * BATCH;
  float *seen = malloc(floats * sizeof *seen);
  assert_non_null(seen);
  for (int i = 0; i < TIMES; i++) {
    velocity(s, m, v, x, cond, 0, &tap, s->again);
    same(s, s->again, s->first, sizeof s->first, "with captures");
    for (int slot = 0, at = 0; !s->context.counting && slot < plan.slot_count; slot++) {
      int64_t n = ebb_tap_slot_floats(&plan, slot) * BATCH;
      if (i == 0)
        memcpy(seen + at, tap.data[slot], (size_t)n * sizeof *seen);
      same(s, tap.data[slot], seen + at, (size_t)n * sizeof *seen, "captured the next time");
      at += (int)n;
    }
  }
  free(seen);
  ebb_tap_close(&tap);
}

/* Noise along and beside a direction in one sample, other heads in another: the same bytes every time, and the samples
 * that are left alone are what they were. */
static void with_edits(subject *s, ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond) {
  ebb_error err = {""};
  ebb_edit edit;
  static float direction[384], edited[BATCH * LATENT];
  const ebb_edit_head heads[] = {{0, 1, EBB_HEAD_ZERO}, {2, EBB_EDIT_ALL_HEADS, EBB_HEAD_MEAN}, {1, 2, 4}};
  ebb_intervention changes[BATCH] = {
      {.block = -1},
      {.block = 1, .noise = 0.5, .along = 0.25, .direction = direction, .key = 77},
      {.block = -1, .head_count = 3, .heads = heads},
      {.block = 1, .key = 9},
      {.block = -1}};
  for (int i = 0; i < 384; i++)
    direction[i] = (float)((i * 37) % 11) - 5;
  if (!ebb_edit_open(&edit, &s->context, (ebb_edit_sizes){m->blocks, m->width, m->heads}, BATCH, 2, true,
                     &err) ||
      !ebb_edit_set(&edit, changes, &err))
    fail_msg("%s", err.text);
  m->edit = &edit;
  for (int i = 0; i < TIMES; i++) {
    ebb_edit_begin(&edit, 1, 0, 0);
    velocity(s, m, v, x, cond, 0, NULL, i ? s->again : edited);
    same(s, i ? s->again : edited, edited, sizeof edited, "edited the next time");
  }
  for (int b = 0; b < BATCH; b++)
    if (b != 1 && b != 2)
      same(s, edited + b * LATENT, s->first + b * LATENT, LATENT * sizeof(float), "beside an edited sample");
  ebb_edit_begin(&edit, 0, 0, 0);
  velocity(s, m, v, x, cond, 0, NULL, s->again);
  if (!s->context.counting &&
      (memcmp(s->again + LATENT, edited + LATENT, LATENT * sizeof(float)) == 0 ||
       memcmp(s->first + 2 * LATENT, edited + 2 * LATENT, LATENT * sizeof(float)) == 0))
    fail_msg("an edit that changes nothing, or the same at two steps");
  m->edit = NULL;
}

static bool work(void *user, ebb_error *err) {
  subject *s = user;
  ebb_context *c = &s->context;
  const double labels[MOMENTS] = {500, 125.5};
  const int64_t seed = 5;
  ebb_model m;
  ebb_condition cond;
  ebb_latent_shape shape = {CHANNELS, FRAMES, SIDE, SIDE};
  if (!ebb_model_open(&m, c, s->folder, s->dtype, &seed, err))
    return false;
  bool ok =
      ebb_model_condition(&m, &cond, shape, (ebb_text){s->text, 1, TOKENS, TEXT}, labels, MOMENTS, 1, err);
  if (ok) {
    ebb_tensor x = EBB_ACTIVATION(c, "x", BATCH, CHANNELS, FRAMES, SIDE, SIDE);
    ebb_tensor v = EBB_ACTIVATION(c, "v", BATCH, CHANNELS, FRAMES, SIDE, SIDE);
    ebb_upload(c, x, s->x);
    velocity(s, &m, v, x, &cond, 0, NULL, s->first);
    for (int i = 1; i < TIMES; i++) {
      velocity(s, &m, v, x, &cond, 0, NULL, s->again);
      same(s, s->again, s->first, sizeof s->first, "the next time");
    }
    velocity(s, &m, v, x, &cond, 1, NULL, s->again);
    if (!c->counting && memcmp(s->again, s->first, sizeof s->first) == 0)
      fail_msg("another moment gives the same velocity");
    with_captures(s, &m, v, x, &cond);
    with_edits(s, &m, v, x, &cond);
    for (int b = 0; b < BATCH; b++) {
      velocity(s, &m, ebb_slice(v, b, 1), ebb_slice(x, b, 1), &cond, 0, NULL, s->again);
      same(s, s->again, s->first + b * LATENT, LATENT * sizeof(float), "without the batch around it");
    }
    must(s);
    ebb_condition_free(&cond);
  }
  ebb_model_close(&m);
  return ok;
}

static void same_bytes(void **state) {
  (void)state;
  skip_without_cuda();
  static subject s;
  for (int i = 0; i < BATCH * LATENT; i++)
    s.x[i] = (float)((i * 7919LL) % 2003) / 600 - 1.7f;
  for (int i = 0; i < TOKENS * TEXT; i++) /* the last three tokens are padding */
    s.text[i] = i < (TOKENS - 3) * TEXT ? (float)((i * 31) % 17) / 8 - 1 : 0;
  for (int width = 64; width <= 128; width += 64)
    for (int half = 0; half < 2; half++) {
      ebb_error err = {""};
      s.dtype = half ? EBB_BF16 : EBB_F32;
      snprintf(s.folder, sizeof s.folder, "/tmp/ebb-run-cuda-XXXXXX");
      assert_non_null(mkdtemp(s.folder));
      write_config(s.folder, width);
      if (!ebb_context_open(&s.context, "cuda", &err) || !ebb_context_sized(&s.context, work, &s, &err))
        fail_msg("%s", err.text);
      ebb_context_close(&s.context);
      ebb_remove_folder(s.folder, &err);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(same_bytes)};
  return cmocka_run_group_tests_name("run on CUDA", tests, NULL, NULL);
}
