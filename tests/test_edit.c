/* tier: host
 * Interventions in a forward: what does nothing changes no bit, what does something does what it says, and no sample's
 * hangs on another's, on its batch, or on whether the forward was recorded. */
#include "engine/edit.h"

#include "engine/invert.h"
#include "kernels/normal.h"
#include "loaders/file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/recorder.h"

#define MODEL "tests/fixtures/models/wan-a/transformer"
enum { CHANNELS = 8, TEXT = 24, TOKENS = 2, BATCH = 4, LATENT = CHANNELS * 3 * 4 * 6, STEPS = 3 };
enum { BLOCKS = 2, WIDTH = 60, HEADS = 3, P = 20 };
static const ebb_latent_shape small = {CHANNELS, 3, 4, 6};
static const ebb_edit_sizes sizes = {BLOCKS, WIDTH, HEADS};

/* ---- a model that is run forward --------------------------------------------------------------------- */

typedef struct subject {
  ebb_context context;
  ebb_model model;
  ebb_schedule schedule;
  ebb_integration plan;
  ebb_condition text, negative;
  double guidance;
} subject;

static void must(bool ok, const ebb_error *err) {
  if (!ok)
    fail_msg("%s", err->text);
}

static void open_subject(subject *s, ebb_solver solver, double guidance) {
  ebb_error err = {""};
  float text[TOKENS * TEXT], negative[TOKENS * TEXT] = {0};
  for (int i = 0; i < TOKENS * TEXT; i++)
    text[i] = (float)sin(1.3 * i);
  *s = (subject){.guidance = guidance};
  must(ebb_context_open(&s->context, "cpu", &err) &&
           ebb_context_reserve(&s->context, EBB_WEIGHTS, (size_t)16 << 20, &err) &&
           ebb_context_reserve(&s->context, EBB_ACTIVATIONS, (size_t)64 << 20, &err) &&
           ebb_model_open(&s->model, &s->context, MODEL, EBB_F32, NULL, &err) &&
           ebb_schedule_make(&s->schedule, EBB_UNIPC, STEPS, 3, &err) &&
           ebb_integration_make(&s->plan, &s->schedule, solver, EBB_NOISY, true, &err) &&
           ebb_model_condition(&s->model, &s->text, small, (ebb_text){text, 1, TOKENS, TEXT}, s->plan.labels,
                               s->plan.moments, 1, &err) &&
           ebb_model_condition(&s->model, &s->negative, small, (ebb_text){negative, 1, TOKENS, TEXT},
                               s->plan.labels, s->plan.moments, 1, &err),
       &err);
}

static void close_subject(subject *s) {
  ebb_condition_free(&s->text);
  ebb_condition_free(&s->negative);
  ebb_model_close(&s->model);
  ebb_integration_free(&s->plan);
  ebb_schedule_free(&s->schedule);
  ebb_context_close(&s->context);
}

/* Latents [batch, LATENT] generated from noise of the scenes of that number, with changes [batch]; NULL: no edit. */
static void generate(subject *s, int batch, const int *scenes, const ebb_intervention *changes, float *to) {
  ebb_context *c = &s->context;
  ebb_error err = {""};
  ebb_edit edit;
  size_t mark = ebb_arena_mark(&c->activations);
  float *noise = malloc((size_t)batch * LATENT * sizeof *noise);
  for (int b = 0; b < batch; b++)
    for (int i = 0; i < LATENT; i++)
      noise[b * LATENT + i] = ebb_normal(5, (uint64_t)scenes[b], (uint64_t)i);
  if (changes)
    must(ebb_edit_open(&edit, c, sizes, batch, s->plan.steps, true, &err) &&
             ebb_edit_set(&edit, changes, &err),
         &err);
  ebb_tensor x = EBB_ACTIVATION(c, "x", batch, CHANNELS, 3, 4, 6);
  ebb_upload(c, x, noise);
  const ebb_run run = {.model = &s->model,
                       .plan = &s->plan,
                       .text = &s->text,
                       .negative = &s->negative,
                       .guidance = s->guidance,
                       .edit = changes ? &edit : NULL};
  ebb_invert(&run, x, NULL);
  ebb_download(c, to, x);
  must(ebb_context_ok(c, &err), &err);
  assert_null(s->model.edit);
  ebb_arena_release(&c->activations, mark);
  free(noise);
}

static double distance(const float *a, const float *b) {
  double d = 0, n = 0;
  for (int i = 0; i < LATENT; i++) {
    d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    n += (double)b[i] * b[i];
  }
  return sqrt(d / n);
}

static const int scene_numbers[BATCH] = {0, 1, 2, 3};
static float plain[BATCH * LATENT], edited[BATCH * LATENT], again[BATCH * LATENT], direction[WIDTH];

static void some_direction(void) {
  for (int i = 0; i < WIDTH; i++)
    direction[i] = (float)cos(0.7 * i + 1);
}

/* ---- normal numbers ---------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Four standard errors of each moment, and Kolmogorov and Smirnov's distance at p = 0.001. */
static void test_normals_are_normal(void **state) {
  (void)state;
  enum { N = 1 << 18 };
  float *x = malloc(N * sizeof *x);
  for (int stream = 0; stream < 3; stream++) {
    double m[5] = {0}, neighbours = 0, distant = 0;
    for (int i = 0; i < N; i++) {
      x[i] = ebb_normal(42, (uint64_t)stream << 32 | 3, (uint64_t)i);
      for (int k = 1; k <= 4; k++)
        m[k] += pow((double)x[i], k) / N;
      neighbours += i > 0 ? (double)x[i] * x[i - 1] / N : 0;
      distant += (double)x[i] * ebb_normal(42, (uint64_t)stream << 32 | 4, (uint64_t)i) / N;
    }
    const double se = 1 / sqrt(N);
    assert_true(fabs(m[1]) < 4 * se && fabs(m[2] - 1) < 4 * sqrt(2) * se);
    assert_true(fabs(m[3]) < 4 * sqrt(15) * se && fabs(m[4] - 3) < 4 * sqrt(96) * se);
    assert_true(fabs(neighbours) < 4 * se && fabs(distant) < 4 * se);
    qsort(x, N, sizeof *x, ascending);
    double ks = 0;
    for (int i = 0; i < N; i++)
      ks = fmax(ks, fabs(0.5 * erfc(-(double)x[i] / sqrt(2)) - (i + 0.5) / N));
    assert_true(ks < 1.95 * se);
    assert_true(x[0] < -4 && x[N - 1] > 4 && x[N - 1] < 6.8f);
  }
  free(x);
}

/* The words at the ends of their range. */
static void test_normals_at_the_ends(void **state) {
  (void)state;
  static const uint32_t words[] = {0,           1,           2,           0x7fffffffu, 0x80000000u,
                                   3037000499u, 3037000500u, 0xfffffffeu, 0xffffffffu};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    const double truth = log((words[i] + 0.5) / 4294967296.0);
    assert_true(fabs((double)ebb_normal_log(words[i]) - truth) <= 2e-7 * fabs(truth));
    for (size_t k = 0; k < sizeof words / sizeof *words; k++) {
      float a, b;
      ebb_normal_pair(words[i], words[k], &a, &b);
      assert_true(fabs((double)a * a + (double)b * b + 2 * truth) <= 1e-6 * fabs(2 * truth));
    }
  }
}

/* ---- what does nothing ------------------------------------------------------------------------------- */

static void test_alpha_0_changes_no_bit(void **state) {
  (void)state;
  for (int guided = 0; guided < 2; guided++)
    for (int solver = EBB_EULER; solver <= EBB_RK4; solver++) {
      subject s;
      ebb_intervention none[BATCH];
      open_subject(&s, (ebb_solver)solver, guided ? 2.5 : 1);
      some_direction();
      for (int b = 0; b < BATCH;
           b++) /* beside one that has an effect at both blocks, so that their ops run */
        none[b] = (ebb_intervention){.block = b % BLOCKS, .direction = direction, .key = (uint64_t)b};
      generate(&s, BATCH, scene_numbers, NULL, plain);
      generate(&s, BATCH, scene_numbers, none, edited);
      assert_memory_equal(plain, edited, sizeof plain);
      none[2].noise = none[3].along = 0.5;
      generate(&s, BATCH, scene_numbers, none, edited);
      assert_memory_equal(plain, edited, 2 * LATENT * sizeof *plain);
      for (int b = 2; b < BATCH; b++)
        assert_true(distance(edited + b * LATENT, plain + b * LATENT) > 1e-3);
      close_subject(&s);
    }
}

/* Columns of the out-projection that a head's numbers go through. */
static void kill_head(subject *s, int block, int head) {
  char name[64];
  snprintf(name, sizeof name, "blocks.%d.attn1.to_out.0.weight", block);
  for (int64_t i = 0; i < s->model.list.count; i++)
    if (strcmp(s->model.list.items[i].name, name) == 0) {
      float *w = s->model.list.items[i].to->data;
      for (int row = 0; row < WIDTH; row++)
        memset(w + row * WIDTH + head * P, 0, P * sizeof *w);
      return;
    }
  fail_msg("no %s", name);
}

static void test_a_dead_head_can_be_masked(void **state) {
  (void)state;
  subject s;
  open_subject(&s, EBB_EULER, 1);
  kill_head(&s, 1, 2);
  generate(&s, BATCH, scene_numbers, NULL, plain);
  for (int head = 0; head < HEADS; head++) {
    const ebb_edit_head zero = {1, head, EBB_HEAD_ZERO}, mean = {1, head, EBB_HEAD_MEAN},
                        other = {1, head, 0};
    const ebb_intervention masks[BATCH] = {{.block = -1},
                                           {.block = -1, .head_count = 1, .heads = &zero},
                                           {.block = -1, .head_count = 1, .heads = &mean},
                                           {.block = -1, .head_count = 1, .heads = &other}};
    generate(&s, BATCH, scene_numbers, masks, edited);
    assert_memory_equal(plain, edited, LATENT * sizeof *plain); /* where heads come from */
    for (int b = 1; b < BATCH; b++)
      if (head == 2)
        assert_memory_equal(plain + b * LATENT, edited + b * LATENT, LATENT * sizeof *plain);
      else
        assert_true(distance(edited + b * LATENT, plain + b * LATENT) > 1e-6);
  }
  close_subject(&s);
}

/* A head of its own sample, or of an equal one, is the head. */
static void test_a_head_may_come_from_an_equal_sample(void **state) {
  (void)state;
  static const int twins[BATCH] = {7, 7, 8, 9};
  subject s;
  open_subject(&s, EBB_EULER, 1);
  const ebb_edit_head other = {0, EBB_EDIT_ALL_HEADS, 1}, own = {1, 0, 2};
  const ebb_intervention masks[BATCH] = {{.block = -1, .head_count = 1, .heads = &other},
                                         {.block = -1},
                                         {.block = -1, .head_count = 1, .heads = &own},
                                         {.block = -1, .head_count = 1, .heads = &other}};
  generate(&s, BATCH, twins, NULL, plain);
  generate(&s, BATCH, twins, masks, edited);
  assert_memory_equal(plain, edited, 3 * LATENT * sizeof *plain);
  assert_true(distance(edited + 3 * LATENT, plain + 3 * LATENT) > 1e-6);
  close_subject(&s);
}

/* ---- what it does ------------------------------------------------------------------------------------ */

/* h <- h + alpha sigma(h) eps on known tokens, with noise as the header keys it; a direction has the noise's norm. */
static void test_the_op_is_equation_5(void **state) {
  (void)state;
  enum { S = 50 };
  subject s;
  ebb_edit edit;
  ebb_error err = {""};
  open_subject(&s, EBB_EULER, 1);
  ebb_context *c = &s.context;
  static float h[2 * S * WIDTH], out[2 * S * WIDTH];
  some_direction();
  const ebb_intervention changes[2] = {{.block = 1, .noise = 0.5, .key = ebb_edit_key(3, "O1/02/1", 1)},
                                       {.block = 1, .along = 0.5, .direction = direction}};
  for (int i = 0; i < 2 * S * WIDTH; i++)
    h[i] = (float)(2 + sin(0.37 * i) * (1 + i / WIDTH % 5));
  must(ebb_edit_open(&edit, c, sizes, 2, STEPS, true, &err) && ebb_edit_set(&edit, changes, &err), &err);
  ebb_tensor x = EBB_ACTIVATION(c, "h", 2, S, WIDTH);
  ebb_upload(c, x, h);
  ebb_edit_begin(&edit, 2, 1, 1);
  assert_false(ebb_edit_output(&edit, 0, x));
  assert_false(ebb_edit_output(NULL, 1, x));
  assert_true(ebb_edit_output(&edit, 1, x));
  ebb_download(c, out, x);
  must(ebb_context_ok(c, &err), &err);
  const uint64_t stream = (uint64_t)1 << 32 | ((2 * EBB_EDIT_STAGES + 1) * 2 + 1);
  double norm[2] = {0}, scale = 0;
  for (int i = 0; i < WIDTH; i++)
    scale += (double)direction[i] * direction[i] / WIDTH;
  for (int token = 0; token < 2 * S; token++) {
    const float *from = h + token * WIDTH, *to = out + token * WIDTH;
    double mean = 0, variance = 0;
    for (int i = 0; i < WIDTH; i++)
      mean += (double)from[i] / WIDTH;
    for (int i = 0; i < WIDTH; i++)
      variance += (from[i] - mean) * (from[i] - mean) / (WIDTH - 1);
    for (int i = 0; i < WIDTH; i++) {
      const double e = token < S ? ebb_normal(changes[0].key, stream, (uint64_t)(token * WIDTH + i))
                                 : direction[i] / sqrt(scale);
      assert_true(fabs(to[i] - (from[i] + 0.5 * sqrt(variance) * e)) < 2e-5);
      norm[token / S] += ((double)to[i] - from[i]) * ((double)to[i] - from[i]) / variance / (S * WIDTH);
    }
  }
  assert_true(fabs(norm[0] / norm[1] - 1) < 4 * sqrt(2.0 / (S * WIDTH)));
  assert_true(fabs(norm[1] - 0.25) < 1e-4);
  close_subject(&s);
}

/* Every part of the key counts: seed, scene, draw; block, step, stage, branch. */
static void test_noise_goes_by_its_whole_key(void **state) {
  (void)state;
  static const struct {
    uint64_t seed;
    const char *scene;
    int draw, block, step, stage, branch;
  } keys[] = {{1, "O1/1/1", 0, 0, 0, 0, 0}, {2, "O1/1/1", 0, 0, 0, 0, 0}, {1, "O1/1/2", 0, 0, 0, 0, 0},
              {1, "O1/1/1", 1, 0, 0, 0, 0}, {1, "O1/1/1", 0, 1, 0, 0, 0}, {1, "O1/1/1", 0, 0, 1, 0, 0},
              {1, "O1/1/1", 0, 0, 0, 1, 0}, {1, "O1/1/1", 0, 0, 0, 0, 1}};
  enum { KEYS = sizeof keys / sizeof *keys };
  static float out[KEYS][WIDTH];
  subject s;
  ebb_error err = {""};
  open_subject(&s, EBB_EULER, 1);
  ebb_context *c = &s.context;
  float h[WIDTH];
  for (int i = 0; i < WIDTH; i++)
    h[i] = (float)sin(1.1 * i);
  for (int k = 0; k < KEYS; k++) {
    ebb_edit edit;
    const ebb_intervention change = {
        .block = keys[k].block, .noise = 1, .key = ebb_edit_key(keys[k].seed, keys[k].scene, keys[k].draw)};
    size_t mark = ebb_arena_mark(&c->activations);
    must(ebb_edit_open(&edit, c, sizes, 1, STEPS, false, &err) && ebb_edit_set(&edit, &change, &err), &err);
    ebb_tensor x = EBB_ACTIVATION(c, "h", 1, 1, WIDTH);
    ebb_upload(c, x, h);
    ebb_edit_begin(&edit, keys[k].step, keys[k].stage, keys[k].branch);
    assert_true(ebb_edit_output(&edit, keys[k].block, x));
    ebb_download(c, out[k], x);
    ebb_arena_release(&c->activations, mark);
    for (int other = 0; other < k; other++)
      for (int i = 0; i < WIDTH; i++)
        assert_true(out[k][i] != out[other][i]);
  }
  must(ebb_context_ok(c, &err), &err);
  close_subject(&s);
}

/* The official code's random numbers are consumed block after block, so that a block's result hangs on the list of
 * blocks: here a scene's result is the same bytes alone, beside other scenes, and beside other blocks. */
static void test_defect_30_no_result_hangs_on_the_blocks_beside_it(void **state) {
  (void)state;
  subject s;
  some_direction();
  open_subject(&s, EBB_HEUN, 2);
  const ebb_edit_head zero = {0, 1, EBB_HEAD_ZERO}, mean = {1, EBB_EDIT_ALL_HEADS, EBB_HEAD_MEAN};
  const ebb_intervention together[BATCH] = {
      {.block = 1, .noise = 0.5, .key = ebb_edit_key(0, "a", 0)},
      {.block = 0, .noise = 0.5, .key = ebb_edit_key(0, "b", 0)},
      {.block = 0, .along = 1, .direction = direction, .head_count = 1, .heads = &mean},
      {.block = -1, .head_count = 1, .heads = &zero}};
  generate(&s, BATCH, scene_numbers, together, edited);
  for (int b = 0; b < BATCH; b++) {
    generate(&s, 1, scene_numbers + b, together + b, again);
    assert_memory_equal(again, edited + b * LATENT, LATENT * sizeof *again);
  }
  static const int turned[BATCH] = {3, 0, 2, 1};
  const ebb_intervention other[BATCH] = {together[3], together[0], together[2], together[1]};
  generate(&s, BATCH, turned, other, again);
  for (int b = 0; b < BATCH; b++)
    assert_memory_equal(again + b * LATENT, edited + turned[b] * LATENT, LATENT * sizeof *again);
  close_subject(&s);
}

/* Recorded and replayed as on a GPU: the same bytes, noise of its own at every step, and no recording of one edit
 * serves another. */
static void test_recorded_forwards_are_edited_too(void **state) {
  (void)state;
  subject s;
  some_direction();
  open_subject(&s, EBB_RK4, 2);
  const ebb_edit_head other = {0, 0, 1}, mean = {1, 2, EBB_HEAD_MEAN};
  const ebb_edit_head two[] = {other, mean};
  const ebb_intervention first[BATCH] = {{.block = 0, .noise = 1, .key = 5},
                                         {.block = -1},
                                         {.block = 1, .along = 1, .direction = direction},
                                         {.block = -1, .head_count = 2, .heads = two}};
  const ebb_intervention second[BATCH] = {first[1], first[0], first[1], first[1]}; /* fewer places */
  static float direct[2][BATCH * LATENT];
  generate(&s, BATCH, scene_numbers, first, direct[0]);
  generate(&s, BATCH, scene_numbers, second, direct[1]);
  close_subject(&s);
  recorder_counts counts;
  open_subject(&s, EBB_RK4, 2);
  recorder_install(&s.context, &counts);
  for (int round = 0; round < 2; round++) {
    generate(&s, BATCH, scene_numbers, second, edited);
    assert_memory_equal(edited, direct[1], sizeof edited);
    generate(&s, BATCH, scene_numbers, first, edited);
    assert_memory_equal(edited, direct[0], sizeof edited);
    generate(&s, BATCH, scene_numbers, NULL, edited);
    assert_true(distance(edited, direct[0]) > 1e-3);
  }
  assert_true(counts.recorded > 0 && counts.replayed > counts.recorded);
  close_subject(&s);
}

static void test_errors_say_what_is_wrong(void **state) {
  (void)state;
  subject s;
  ebb_edit edit;
  ebb_error err = {""};
  static const float zeros[WIDTH];
  const ebb_edit_head block = {2, 0, EBB_HEAD_ZERO}, head = {0, 3, EBB_HEAD_ZERO}, source = {0, 0, 2};
  const struct {
    ebb_intervention change;
    const char *words;
  } cases[] = {{{.block = 2, .noise = 1}, "there is no block 2, expected 0 to 1"},
               {{.block = 0, .along = 1, .direction = zeros}, "a direction of no length"},
               {{.block = 0, .along = 1}, "a direction of no length"},
               {{.block = -1, .head_count = 1, .heads = &block}, "there is no head 0 in block 2"},
               {{.block = -1, .head_count = 1, .heads = &head}, "heads 0 to 2"},
               {{.block = -1, .head_count = 1, .heads = &source}, "a head of sample 2, the batch has 1"}};
  open_subject(&s, EBB_EULER, 1);
  must(ebb_edit_open(&edit, &s.context, sizes, 1, STEPS, true, &err), &err);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    err.text[0] = '\0';
    assert_false(ebb_edit_set(&edit, &cases[i].change, &err));
    if (!strstr(err.text, cases[i].words))
      fail_msg("\"%s\" does not say %s", err.text, cases[i].words);
  }
  err.text[0] = '\0';
  assert_false(ebb_edit_open(&edit, &s.context, (ebb_edit_sizes){200, WIDTH, HEADS}, 1, STEPS, true, &err));
  assert_non_null(strstr(err.text, "200 blocks, expected at most 128"));
  close_subject(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_normals_are_normal),
      cmocka_unit_test(test_normals_at_the_ends),
      cmocka_unit_test(test_alpha_0_changes_no_bit),
      cmocka_unit_test(test_a_dead_head_can_be_masked),
      cmocka_unit_test(test_a_head_may_come_from_an_equal_sample),
      cmocka_unit_test(test_the_op_is_equation_5),
      cmocka_unit_test(test_noise_goes_by_its_whole_key),
      cmocka_unit_test(test_defect_30_no_result_hangs_on_the_blocks_beside_it),
      cmocka_unit_test(test_recorded_forwards_are_edited_too),
      cmocka_unit_test(test_errors_say_what_is_wrong),
  };
  return cmocka_run_group_tests_name("edit", tests, NULL, NULL);
}
