/* tier: host
 * Taps: what they let out is what they should, and the forward does not feel them. */
#include "engine/invert.h"

#include "kernels/random.h"
#include "tests/recorder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { B = 3, C = 8, T = 3, H = 6, W = 4, STEPS = 4, COUNT = B * C * T * H * W };

/* Two blocks of the random fixture model, a batch of B through STEPS steps; tap may be NULL. */
typedef struct trial {
  ebb_context context;
  const ebb_config *config; /* NULL: no taps */
  bool recorded;            /* on a backend with recordings */
  recorder_counts counts;
  double guidance;
  int64_t batch;
  float result[COUNT];
  ebb_tap_plan plan;
  ebb_tap tap, negative;
} trial;

static bool work(void *user, ebb_error *err) {
  trial *t = user;
  ebb_schedule schedule = {0};
  ebb_integration plan = {0};
  ebb_model model = {0};
  ebb_condition text = {0}, negative = {0};
  float states[2 * 24], noise[COUNT];
  for (int i = 0; i < 2 * 24; i++)
    states[i] = (float)ebb_random_uniform(7, 0, (uint64_t)i) - 0.5f;
  for (int i = 0; i < COUNT; i++)
    noise[i] = 2 * (float)ebb_random_uniform(7, 1, (uint64_t)i) - 1;
  bool ok =
      ebb_schedule_make(&schedule, EBB_UNIPC, STEPS, 3, err) &&
      ebb_integration_make(&plan, &schedule, EBB_HEUN, EBB_MATCHED, false, err) &&
      ebb_model_open(&model, &t->context, "tests/fixtures/models/wan-a/transformer", EBB_F32, NULL, err) &&
      ebb_model_condition(&model, &text, (ebb_latent_shape){C, T, H, W}, (ebb_text){states, 1, 1, 24},
                          plan.labels, plan.moments, 1, err) &&
      ebb_model_condition(&model, &negative, (ebb_latent_shape){C, T, H, W},
                          (ebb_text){states + 24, 1, 1, 24}, plan.labels, plan.moments, 1, err);
  if (ok && t->config) /* counting, it holds nothing */
    ok = ebb_tap_plan_make(&t->plan, t->config, STEPS, ebb_model_tap_sizes(&model, text.shape), err) &&
         ebb_tap_open(&t->tap, &t->plan, &t->context, t->batch, err) &&
         ebb_tap_open(&t->negative, &t->plan, &t->context, t->batch, err);
  if (ok) {
    ebb_tensor x = EBB_ACTIVATION(&t->context, "x", t->batch, C, T, H, W);
    ebb_upload(&t->context, x, noise);
    ebb_run run = {.model = &model,
                   .plan = &plan,
                   .text = &text,
                   .negative = &negative,
                   .guidance = t->guidance,
                   .tap = t->config ? &t->tap : NULL,
                   .negative_tap = t->config ? &t->negative : NULL};
    ebb_invert(&run, x, NULL);
    ebb_download(&t->context, t->result, x);
    ok = ebb_context_ok(&t->context, err);
  }
  ebb_condition_free(&negative);
  ebb_condition_free(&text);
  ebb_model_close(&model);
  ebb_integration_free(&plan);
  ebb_schedule_free(&schedule);
  return ok;
}

static void run_trial(trial *t) {
  ebb_error err = {0};
  t->guidance = t->guidance != 0 ? t->guidance : 1;
  t->batch = t->batch ? t->batch : B;
  if (!ebb_context_open(&t->context, "cpu", &err))
    fail_msg("%s", err.text);
  if (t->recorded)
    recorder_install(&t->context, &t->counts);
  if (!ebb_context_sized(&t->context, work, t, &err))
    fail_msg("%s", err.text);
}

static void end_trial(trial *t) {
  ebb_tap_close(&t->tap);
  ebb_tap_close(&t->negative);
  ebb_context_close(&t->context);
  free(t);
}

static ebb_config everything(void) {
  ebb_config k;
  ebb_config_defaults(&k);
  k.capture.steps = (ebb_int_list){2, {0, 3}};
  k.capture.blocks.count = -1;
  k.capture.points =
      (ebb_name_list){12,
                      {"block_in", "attn_out", "cross_out", "mlp_out", "block_out", "attn_frames",
                       "attn_entropy", "attn_lag", "attn_rows", "attn_columns", "latent", "velocity"}};
  k.capture.pool = (ebb_name_list){5, {"mean", "frame_mean", "moments", "motion", "tokens"}};
  return k;
}

/* Captured numbers of slot `name`: [B, steps, feature]. */
static const float *captured(const trial *t, const char *name, int64_t *floats) {
  for (int i = 0; i < t->plan.slot_count; i++)
    if (strcmp(t->plan.slots[i].feature.name, name) == 0) {
      *floats = ebb_tap_slot_floats(&t->plan, i);
      return t->tap.data[i];
    }
  fail_msg("no slot %s", name);
  return NULL;
}

static void test_off_and_on_are_bitwise_equal(void **state) {
  (void)state;
  ebb_config k = everything();
  trial *off = calloc(1, sizeof *off), *on = calloc(1, sizeof *on);
  on->config = &k;
  run_trial(off);
  run_trial(on);
  assert_memory_equal(off->result, on->result, sizeof on->result);
  end_trial(off);
  end_trial(on);
}

static void test_a_video_is_the_same_alone_and_in_a_batch(void **state) {
  (void)state;
  ebb_config k = everything();
  trial *many = calloc(1, sizeof *many), *one = calloc(1, sizeof *one);
  many->config = one->config = &k;
  one->batch = 1;
  run_trial(many);
  run_trial(one);
  assert_memory_equal(many->result, one->result, sizeof many->result / B);
  for (int i = 0; i < one->plan.slot_count; i++)
    assert_memory_equal(many->tap.data[i], one->tap.data[i],
                        (size_t)ebb_tap_slot_floats(&one->plan, i) * sizeof(float));
  end_trial(many);
  end_trial(one);
}

static void test_pools_agree_with_the_tokens(void **state) {
  (void)state;
  ebb_config k = everything();
  trial *t = calloc(1, sizeof *t);
  t->config = &k;
  run_trial(t);
  int64_t n = 0, m = 0, L = 2, S = T * (H / 2) * (W / 2), D = 60, rows = B * 2 * L;
  const float *tokens = captured(t, "block_out.tokens", &n), *mean = captured(t, "block_out.mean", &m);
  const float *motion = captured(t, "block_out.motion", &m);
  assert_int_equal(n, 2 * L * S * D);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t d = 0; d < D; d++) {
      double sum = 0, speed = 0;
      for (int64_t s = 0; s < S; s++)
        sum += (double)tokens[(r * S + s) * D + d];
      for (int64_t s = S / T; s < S; s++)
        speed += fabs((double)tokens[(r * S + s) * D + d] - (double)tokens[(r * S + s - S / T) * D + d]);
      assert_true(fabs(sum / (double)S - (double)mean[r * D + d]) < 1e-5);
      assert_true(fabs(speed / (double)(S - S / T) - (double)motion[r * 2 * D + d]) < 1e-5);
    }
  end_trial(t);
}

static void assert_rows_add_to_one(const float *x, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; r++) {
    double sum = 0;
    for (int64_t i = 0; i < width; i++)
      sum += (double)x[r * width + i];
    assert_true(fabs(sum - 1) < 1e-5);
  }
}

/* Statistics of one map: what falls on keys so many frames away is what falls on these frames; shares add
 * to one. */
static void test_statistics_agree_with_each_other(void **state) {
  (void)state;
  enum { N = 3, ROWS = H / 2, COLUMNS = W / 2, MAPS = B * 2 * 2 * N };
  ebb_config k = everything();
  trial *t = calloc(1, sizeof *t);
  t->config = &k;
  run_trial(t);
  int64_t n = 0, lags = 0, rows = 0, columns = 0;
  const float *mass = captured(t, "attn_frames", &n), *lag = captured(t, "attn_lag", &lags);
  assert_true(n * B == MAPS * T * T && lags * B == MAPS * (2 * T - 1));
  assert_rows_add_to_one(mass, MAPS * T, T);
  assert_rows_add_to_one(lag, MAPS, 2 * T - 1);
  for (int64_t m = 0; m < MAPS; m++)
    for (int64_t i = 0; i < 2 * T - 1; i++) {
      double sum = 0;
      for (int64_t query = 0; query < T; query++) {
        int64_t key = query + i - (T - 1);
        sum += key >= 0 && key < T ? (double)mass[(m * T + query) * T + key] / T : 0;
      }
      assert_true(fabs(sum - (double)lag[m * (2 * T - 1) + i]) < 1e-6);
    }
  assert_rows_add_to_one(captured(t, "attn_rows", &rows), MAPS, ROWS);
  assert_rows_add_to_one(captured(t, "attn_columns", &columns), MAPS, COLUMNS);
  assert_true(rows * B == MAPS * ROWS && columns * B == MAPS * COLUMNS);
  end_trial(t);
}

/* The official code brings every block's whole states to the host, and never captures attention (REFERENCE 3.11). */
static void defect_13_what_leaves_the_device_is_pooled(void **state) {
  (void)state;
  enum { BLOCKS = 2, WIDTH = 60 };
  ebb_config k = everything();
  k.capture.points = (ebb_name_list){1, {"block_out"}};
  k.capture.pool = (ebb_name_list){1, {"mean"}};
  trial *t = calloc(1, sizeof *t);
  t->config = &k;
  run_trial(t);
  assert_int_equal(ebb_tap_plan_floats(&t->plan),
                   2 * BLOCKS * WIDTH); /* two steps; tokens do not come into it */
  const int64_t padded = (B * WIDTH * 4 + EBB_ARENA_ALIGN - 1) / EBB_ARENA_ALIGN * EBB_ARENA_ALIGN;
  assert_int_equal(ebb_bytes(t->tap.staging), BLOCKS * padded); /* what one step copies to the host */
  end_trial(t);
}

/* A query's attention is of its video: frame mass of a forward differs from the uniform map, and between videos. */
static void defect_20_attention_is_captured(void **state) {
  (void)state;
  enum { N = 3, EACH = 2 * 2 * N * T * T };
  ebb_config k = everything();
  trial *t = calloc(1, sizeof *t);
  t->config = &k;
  run_trial(t);
  int64_t n = 0;
  double from_uniform = 0, between = 0;
  const float *mass = captured(t, "attn_frames", &n);
  assert_int_equal(n, EACH);
  for (int64_t i = 0; i < EACH; i++) {
    from_uniform = fmax(from_uniform, fabs((double)mass[i] - 1.0 / T));
    between = fmax(between, fabs((double)mass[i] - (double)mass[EACH + i]));
  }
  assert_true(from_uniform > 1e-4 && between > 1e-5);
  end_trial(t);
}

/* Rows without columns, and columns without rows, are the same numbers. */
static void test_offsets_one_at_a_time(void **state) {
  (void)state;
  ebb_config k = everything();
  trial *both = calloc(1, sizeof *both);
  both->config = &k;
  run_trial(both);
  for (int i = 0; i < 2; i++) {
    const char *name = i ? "attn_columns" : "attn_rows";
    int64_t n = 0, m = 0;
    ebb_config one = everything();
    one.capture.points.count = 1;
    strcpy(one.capture.points.names[0], name);
    trial *t = calloc(1, sizeof *t);
    t->config = &one;
    run_trial(t);
    assert_int_equal(t->plan.slot_count, 1);
    assert_true(t->plan.slots[0].feature.by_head);
    const float *alone = captured(t, name, &n), *with = captured(both, name, &m);
    assert_int_equal(n, m);
    assert_memory_equal(alone, with, (size_t)(B * n) * sizeof *alone);
    end_trial(t);
  }
  end_trial(both);
}

/* What one block gives is what the next one takes. */
static void test_block_out_is_the_next_block_in(void **state) {
  (void)state;
  ebb_config k = everything();
  trial *t = calloc(1, sizeof *t);
  t->config = &k;
  run_trial(t);
  int64_t n = 0, width = 60;
  const float *in = captured(t, "block_in.mean", &n), *out = captured(t, "block_out.mean", &n);
  for (int64_t r = 0; r < B * 2; r++)
    assert_memory_equal(in + (2 * r + 1) * width, out + 2 * r * width, (size_t)width * sizeof(float));
  end_trial(t);
}

/* With guidance the two branches are kept apart: neither overwrites the other, and the prompt's equals a run without guidance at step 0. */
static void test_guidance_keeps_both_branches(void **state) {
  (void)state;
  ebb_config k = everything();
  trial *plain = calloc(1, sizeof *plain), *guided = calloc(1, sizeof *guided);
  plain->config = guided->config = &k;
  guided->guidance = 3;
  run_trial(plain);
  run_trial(guided);
  for (int i = 0; i < plain->plan.slot_count; i++) {
    if (plain->plan.slots[i].point == EBB_LATENT)
      continue; /* the same state goes into both branches */
    int64_t per_step = ebb_tap_slot_floats(&plain->plan, i) / 2;
    assert_memory_equal(plain->tap.data[i], guided->tap.data[i], (size_t)per_step * sizeof(float));
    float largest = 0;
    for (int64_t n = 0; n < per_step; n++)
      largest = fmaxf(largest, fabsf(guided->negative.data[i][n]));
    assert_true(largest > 0); /* filled, not left at zero */
    if (guided->plan.slots[i].point != EBB_BLOCK_IN && guided->plan.slots[i].point != EBB_ATTN_FRAMES)
      assert_memory_not_equal(guided->tap.data[i], guided->negative.data[i],
                              (size_t)per_step * sizeof(float));
  }
  end_trial(plain);
  end_trial(guided);
}

/* Recorded forwards, replayed at other steps and moments, and copies that arrive late change no bit. */
static void test_recordings_change_nothing(void **state) {
  (void)state;
  ebb_config k = everything();
  trial *plain = calloc(1, sizeof *plain), *recorded = calloc(1, sizeof *recorded);
  plain->config = recorded->config = &k;
  plain->guidance = recorded->guidance = 3;
  recorded->recorded = true;
  run_trial(plain);
  run_trial(recorded);
  /* forwards: two branches, each captured at steps 0 and 3, not at 1 and 2, and at the second stage of all four: the
   * first time plainly, from the second on replayed */
  assert_int_equal(recorded->counts.recorded, 2 * 3);
  assert_int_equal(recorded->counts.replayed, 2 * (1 + 1 + 3));
  assert_int_equal(recorded->counts.forgotten, recorded->counts.recorded);
  assert_memory_equal(&plain->context.counters, &recorded->context.counters, sizeof(ebb_counters));
  assert_memory_equal(plain->result, recorded->result, sizeof plain->result);
  for (int i = 0; i < plain->plan.slot_count; i++) {
    size_t bytes = B * (size_t)ebb_tap_slot_floats(&plain->plan, i) * sizeof(float);
    assert_memory_equal(plain->tap.data[i], recorded->tap.data[i], bytes);
    assert_memory_equal(plain->negative.data[i], recorded->negative.data[i], bytes);
  }
  end_trial(plain);
  end_trial(recorded);
}

static void test_what_does_not_exist_is_refused(void **state) {
  (void)state;
  ebb_tap_sizes sizes = {.blocks = 2,
                         .width = 60,
                         .heads = 3,
                         .tokens = 18,
                         .frames = 3,
                         .channels = 8,
                         .latent_tokens = 72,
                         .latent_frames = 3};
  ebb_tap_plan plan;
  ebb_config k = everything();
  ebb_error err = {0};
  k.capture.steps = (ebb_int_list){1, {4}};
  assert_false(ebb_tap_plan_make(&plan, &k, 4, sizes, &err));
  assert_non_null(strstr(err.text, "capture.steps: 4 does not exist"));
  k = everything();
  k.capture.blocks = (ebb_int_list){2, {1, 0}};
  err.text[0] = '\0';
  assert_false(ebb_tap_plan_make(&plan, &k, 4, sizes, &err));
  k = everything();
  strcpy(k.capture.points.names[0], "block_inn");
  err.text[0] = '\0';
  assert_false(ebb_tap_plan_make(&plan, &k, 4, sizes, &err));
  assert_non_null(strstr(err.text, "block_in,"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_off_and_on_are_bitwise_equal),
      cmocka_unit_test(test_a_video_is_the_same_alone_and_in_a_batch),
      cmocka_unit_test(test_pools_agree_with_the_tokens),
      cmocka_unit_test(test_statistics_agree_with_each_other),
      cmocka_unit_test(defect_13_what_leaves_the_device_is_pooled),
      cmocka_unit_test(defect_20_attention_is_captured),
      cmocka_unit_test(test_offsets_one_at_a_time),
      cmocka_unit_test(test_block_out_is_the_next_block_in),
      cmocka_unit_test(test_guidance_keeps_both_branches),
      cmocka_unit_test(test_recordings_change_nothing),
      cmocka_unit_test(test_what_does_not_exist_is_refused),
  };
  return cmocka_run_group_tests_name("tap", tests, NULL, NULL);
}
