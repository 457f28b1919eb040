/* The context: devices, dry runs, and errors of ops, word for word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/ops.h"

static void open_cpu(ebb_context *c) {
  ebb_error err = {0};
  if (!ebb_context_open(c, "cpu", &err))
    fail_msg("%s", err.text);
}

static void reserve(ebb_context *c, ebb_arena_kind which, size_t bytes) {
  ebb_error err = {0};
  if (!ebb_context_reserve(c, which, bytes, &err))
    fail_msg("%s", err.text);
}

static void expect(ebb_context *c, const char *text) {
  ebb_error err = {0};
  assert_false(ebb_context_ok(c, &err));
  assert_string_equal(err.text, text);
  assert_true(ebb_context_ok(c, &err)); /* told once */
}

static void devices(void **state) {
  (void)state;
  ebb_context c;
  const char *why;
  const char *known[] = {"auto", "cpu"};
  for (int i = 0; i < 2; i++) {
    ebb_error err = {0};
    assert_true(ebb_context_open(&c, known[i], &err));
    ebb_context_close(&c);
  }
  const char *refused[][2] = {
      {"cuda:", "device \"cuda:\" is unknown; expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""},
      {"gpu", "device \"gpu\" is unknown; expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""},
      {"cuda", "device \"cuda\": this build has no CUDA backend; use \"cpu\" (or \"auto\")"},
      {"cuda:1", "device \"cuda:1\": this build has no CUDA backend; use \"cpu\" (or \"auto\")"},
  };
  for (int i = 0; i < (ebb_context_gpus(&why) < 0 ? 4 : 2); i++) {
    ebb_error err = {0};
    assert_false(ebb_context_open(&c, refused[i][0], &err));
    assert_string_equal(err.text, refused[i][1]);
    ebb_context_close(&c); /* nothing to close, and that is fine */
  }
}

/* A little of everything that takes memory; the shapes of a small block. */
static void forward(ebb_context *c) {
  ebb_tensor w = EBB_NEW(c, EBB_WEIGHTS, EBB_F32, "w", 24, 8), b = EBB_NEW(c, EBB_WEIGHTS, EBB_F32, "b", 24);
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor x = EBB_ACTIVATION(c, "x", 2, 5, 8), y = EBB_ACTIVATION(c, "y", 2, 5, 24);
  float zeros[24 * 8] = {0};
  ebb_upload(c, w, zeros);
  ebb_upload(c, b, zeros);
  ebb_upload(c, x, zeros);
  ebb_linear(c, y, x, w, b, EBB_SILU);
  size_t inner = ebb_arena_mark(&c->activations);
  ebb_tensor out = EBB_ACTIVATION(c, "out", 2, 5, 24);
  ebb_attention(c, out, NULL, y, y, y, 3, 1);
  ebb_gate_add(c, out, y, EBB_NO_TENSOR);
  ebb_arena_release(&c->activations, inner);
  ebb_tensor mean = EBB_ACTIVATION(c, "mean", 2, 24);
  ebb_pool_mean(c, mean, y);
  ebb_arena_release(&c->activations, mark);
}

static void a_dry_run_foretells_the_memory(void **state) {
  (void)state;
  ebb_context c;
  ebb_error err = {0};
  open_cpu(&c);
  ebb_context_count(&c);
  forward(&c);
  assert_true(ebb_context_ok(&c, &err));
  assert_int_equal(c.counters.ops, 4);
  /* linear 2*10*24*8, attention 4*2*5*5*24, gate_add 2*240, pool 240 */
  assert_true(c.counters.flops == 3840 + 4800 + 480 + 240);
  /* linear y, x, w, b; attention out, q, k, v; gate_add x twice, y; pool y, x; four bytes each */
  assert_true(c.counters.bytes == 4.0 * ((240 + 80 + 192 + 24) + 4 * 240 + 3 * 240 + (48 + 240)));
  ebb_counters dry = c.counters;
  size_t weights = c.weights.peak, activations = c.activations.peak;
  reserve(&c, EBB_WEIGHTS, c.weights.peak);
  reserve(&c, EBB_ACTIVATIONS, c.activations.peak);
  c.counters = (ebb_counters){0};
  forward(&c);
  assert_true(ebb_context_ok(&c, &err));
  assert_int_equal(c.weights.peak, weights);
  assert_int_equal(c.activations.peak, activations);
  assert_int_equal(c.activations.used, 0);
  assert_memory_equal(&c.counters, &dry, sizeof dry);
  ebb_context_close(&c);
}

static void a_full_arena_is_an_error(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  reserve(&c, EBB_ACTIVATIONS, 1024);
  ebb_tensor x = EBB_ACTIVATION(&c, "x", 2, 64);
  ebb_tensor y = EBB_ACTIVATION(&c, "y", 2, 65);
  assert_non_null(x.data);
  assert_null(y.data);
  ebb_activate(&c, y, x, EBB_SILU); /* touches nothing */
  expect(
      &c,
      "tensor \"y\" float32 [2, 65]: the activations arena is full: 512 of 1024 bytes used, 520 more needed");
  (void)EBB_ACTIVATION(&c, "huge", INT64_MAX, INT64_MAX);
  expect(&c, "tensor \"huge\" [9223372036854775807, 9223372036854775807]: impossible size");
  ebb_error err = {0};
  assert_false(ebb_context_reserve(&c, EBB_WEIGHTS, (size_t)PTRDIFF_MAX + 1, &err));
  assert_string_equal(err.text, "not enough memory on cpu for weights: 8589934592.000 GiB asked for "
                                "(9223372036854775808 bytes)");
  ebb_context_close(&c);
}

static void the_first_error_wins_and_later_ops_do_nothing(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  reserve(&c, EBB_ACTIVATIONS, 65536);
  ebb_tensor x = EBB_ACTIVATION(&c, "tokens", 2, 3, 8), y = EBB_ACTIVATION(&c, "mlp", 2, 3, 5);
  ebb_tensor w = EBB_ACTIVATION(&c, "blocks.0.ffn", 4, 8), z = EBB_ACTIVATION(&c, "z", 2, 3, 8);
  float ones[48], back[48];
  for (int i = 0; i < 48; i++)
    ones[i] = 1;
  ebb_upload(&c, x, ones);
  ebb_upload(&c, z, ones);
  ebb_linear(&c, y, x, w, EBB_NO_TENSOR, EBB_IDENTITY);
  ebb_axpby(&c, z, 5, x, 0, EBB_NO_TENSOR);
  ebb_clamp(&c, y, x, 0, 1); /* wrong too, but second */
  assert_int_equal(c.counters.ops, 0);
  expect(
      &c,
      "linear: y is [2, 3, 5], expected [2, 3, 4]; given y \"mlp\" float32 [2, 3, 5], x \"tokens\" float32 "
      "[2, 3, 8], w \"blocks.0.ffn\" float32 [4, 8], b absent");
  ebb_download(&c, back, z);
  assert_memory_equal(back, ones, sizeof ones);
  ebb_axpby(&c, z, 5, x, 0, EBB_NO_TENSOR); /* all is well again */
  ebb_download(&c, back, z);
  assert_true(back[0] == 5);
  ebb_context_close(&c);
}

static void what_ops_refuse(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  reserve(&c, EBB_ACTIVATIONS, 65536);
  ebb_tensor x = EBB_ACTIVATION(&c, "x", 2, 6, 8), y = EBB_ACTIVATION(&c, "y", 2, 6, 8),
             h = EBB_ACTIVATION(&c, "h", 2, 6, 8);
  ebb_tensor d = EBB_NEW(&c, EBB_ACTIVATIONS, EBB_F64, "d", 2, 6, 8),
             vector = EBB_ACTIVATION(&c, "vector", 8);
  ebb_tensor mass = EBB_ACTIVATION(&c, "mass", 2, 2, 4, 3),
             video = EBB_ACTIVATION(&c, "video", 1, 2, 2, 4, 6);
  ebb_activate(&c, d, x, EBB_SILU);
  expect(
      &c,
      "activate: y is float64, expected float32; given y \"d\" float64 [2, 6, 8], x \"x\" float32 [2, 6, 8]");
  ebb_activate(&c, y, EBB_NO_TENSOR, EBB_SILU);
  expect(&c, "activate: x is absent, expected a tensor; given y \"y\" float32 [2, 6, 8], x absent");
  ebb_gate_add(&c, x, ebb_named(x, "view"), EBB_NO_TENSOR);
  expect(&c,
         "gate_add: x overlaps y in memory; given x \"x\" float32 [2, 6, 8], y \"view\" float32 [2, 6, 8], "
         "gate absent");
  ebb_clamp(&c, ebb_slice(x, 0, 1), ebb_slice(x, 0, 2), 0, 1);
  expect(&c, "clamp: y overlaps x in memory; given y \"x\" float32 [1, 6, 8], x \"x\" float32 [2, 6, 8]");
  ebb_gate_add_layer_norm(&c, h, x, y, EBB_NO_TENSOR, vector, EBB_NO_TENSOR, 1e-6f);
  expect(&c, "gate_add_layer_norm: one of w and b is absent, expected both or neither; given h \"h\" float32 "
             "[2, 6, 8], x \"x\" float32 [2, 6, 8], y \"y\" float32 [2, 6, 8], gate absent, "
             "w \"vector\" float32 [8], b absent");
  ebb_attention(&c, y, NULL, x, x, x, 3, 1);
  expect(&c, "attention: the width of q is not a multiple of the number of heads; given out \"y\" float32 "
             "[2, 6, 8], "
             "q \"x\" float32 [2, 6, 8], k \"x\" float32 [2, 6, 8], v \"x\" float32 [2, 6, 8], mass absent, "
             "entropy absent, lag absent, rows absent, columns absent, lse absent");
  ebb_attention(&c, y, &(ebb_attention_stats){.mass = mass}, x, x, x, 2, 1);
  expect(
      &c,
      "attention: the queries do not fall into whole frames: S is not a multiple of Tq; given out \"y\" "
      "float32 [2, 6, 8], q \"x\" float32 [2, 6, 8], k \"x\" float32 [2, 6, 8], v \"x\" float32 [2, 6, 8], "
      "mass \"mass\" float32 [2, 2, 4, 3], entropy absent, lag absent, rows absent, columns absent, lse "
      "absent");
  ebb_patchify(&c, y, video, (const int[3]){1, 2, 4});
  expect(&c, "patchify: T, H, W are not multiples of the patch; given y \"y\" float32 [2, 6, 8], x \"video\" "
             "float32 "
             "[1, 2, 2, 4, 6]");
  ebb_downsample_time(&c, video, EBB_VIEW(x, 1, 2, 2, 4, 6), vector, EBB_NO_TENSOR);
  expect(&c, "downsample_time: the number of frames of x is even, expected odd; given y \"video\" float32 "
             "[1, 2, 2, 4, 6], x \"x\" float32 [1, 2, 2, 4, 6], w \"vector\" float32 [8], b absent");
  ebb_attention_relative(&c, y, x, x, x, mass, 2);
  expect(&c, "attention_relative: bias is [2, 2, 4, 3], expected [2, 11]; given out \"y\" float32 [2, 6, 8], "
             "q \"x\" "
             "float32 [2, 6, 8], k \"x\" float32 [2, 6, 8], v \"x\" float32 [2, 6, 8], bias \"mass\" float32 "
             "[2, 2, 4, 3]");
  ebb_gated(&c, h, x, vector, EBB_RELU);
  expect(&c,
         "gated: b is [8], expected [2, 6, 8]; given y \"h\" float32 [2, 6, 8], a \"x\" float32 [2, 6, 8], b "
         "\"vector\" float32 [8]");
  ebb_rms_norm(&c, y, x, h, 1e-6f);
  expect(
      &c,
      "rms_norm: w is [2, 6, 8], expected [8]; given y \"y\" float32 [2, 6, 8], x \"x\" float32 [2, 6, 8], w "
      "\"h\" float32 [2, 6, 8]");
  ebb_norm_modulate(&c, vector, vector, vector, vector, 0);
  expect(&c, "norm_modulate: x is [8], expected [B, S, D]; given y \"vector\" float32 [8], x \"vector\" "
             "float32 [8], "
             "shift \"vector\" float32 [8], scale \"vector\" float32 [8]");
  ebb_context_close(&c);
}

static void refused(ebb_context *c, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k, int64_t repeats,
                    const char *why) {
  ebb_error err = {0};
  ebb_tensor out = EBB_ACTIVATION(c, "out", q.shape[0], q.shape[1], q.shape[2]);
  double flops = c->counters.flops;
  ebb_attention(c, out, &stats, q, k, k, 2, repeats);
  if (ebb_context_ok(c, &err))
    fail_msg("attention takes what it should refuse: %s", why);
  if (!strstr(err.text, why))
    fail_msg("attention refuses: %s; expected %s", err.text, why);
  assert_true(c->counters.flops == flops);
}

static void which_statistics_attention_refuses(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  reserve(&c, EBB_ACTIVATIONS, 1 << 20);
  ebb_tensor q = EBB_ACTIVATION(&c, "q", 2, 24, 8), k = EBB_ACTIVATION(&c, "k", 2, 12, 8);
  ebb_tensor mass = EBB_ACTIVATION(&c, "mass", 2, 2, 4, 4), entropy = EBB_ACTIVATION(&c, "entropy", 2, 2, 4);
  ebb_tensor lag = EBB_ACTIVATION(&c, "lag", 2, 2, 7), lags = EBB_ACTIVATION(&c, "lags", 2, 2, 5);
  ebb_tensor even = EBB_ACTIVATION(&c, "even", 2, 2, 8), nine = EBB_ACTIVATION(&c, "nine", 2, 2, 9);
  ebb_tensor two = EBB_ACTIVATION(&c, "two", 2, 2, 2), three = EBB_ACTIVATION(&c, "three", 2, 2, 3);
  ebb_tensor lse = EBB_ACTIVATION(&c, "lse", 2, 2, 24), half = lse;
  half.dtype = EBB_BF16;
#define REFUSED(why, q, k, repeats, ...) refused(&c, (ebb_attention_stats){__VA_ARGS__}, q, k, repeats, why)
  REFUSED("lag is [2, 2, 8], expected [2, 2, 7]", q, q, 1, .lag = even);
  REFUSED("lag is [2, 2, 4, 4], expected [B, N, 2 T - 1]", q, q, 1, .lag = mass);
  REFUSED("S is not a multiple of the T that the lags say", q, q, 1, .lag = nine);
  REFUSED("lags between frames of queries and of keys that are not the same", q, k, 1, .lag = lag);
  REFUSED("lags between frames", q, q, 1, .mass = mass, .lag = lags);
  REFUSED("lags between frames", q, q, 1, .entropy = entropy, .lag = lags);
  REFUSED("lags between frames", q, q, 1, .mass = EBB_ACTIVATION(&c, "cross", 2, 2, 4, 3), .lag = lag);
  REFUSED("one of rows and columns is absent", q, q, 1, .rows = two);
  REFUSED("one of rows and columns is absent", q, q, 1, .columns = two);
  REFUSED("rows is [2, 2, 4, 4], expected [B, N, H]", q, q, 1, .rows = mass, .columns = two);
  REFUSED("columns is [2, 2], expected [B, N, W]", q, q, 1, .rows = two,
          .columns = EBB_ACTIVATION(&c, "vector", 2, 2));
  REFUSED("columns is [2, 1, 2], expected [2, 2, 2]", q, q, 1, .rows = two,
          .columns = EBB_ACTIVATION(&c, "one head", 2, 1, 2));
  REFUSED("S or M is not a multiple of H W", q, q, 1, .rows = lags, .columns = two);
  REFUSED("S or M is not a multiple of H W", q, k, 1, .rows = entropy, .columns = two);
  REFUSED("lse is [2, 2, 7], expected [2, 2, 24]", q, q, 1, .lse = lag);
  REFUSED("lse is bfloat16, expected float32", q, q, 1, .lse = half);
  REFUSED("rows overlaps columns", q, q, 1, .rows = two, .columns = ebb_named(two, "view"));
  REFUSED("statistics of a map whose last key stands for several", q, k, 2, .entropy = entropy);
  REFUSED("statistics of a map whose last key stands for several", q, q, 2, .lag = lag);
  REFUSED("statistics of a map whose last key stands for several", q, k, 2, .rows = two, .columns = three);
#undef REFUSED
  c.counters.flops = 0; /* a number of p into one frame, twice into p ln p, into one row and one column */
  ebb_tensor out = EBB_ACTIVATION(&c, "out", 2, 24, 8);
  ebb_attention(&c, out, &(ebb_attention_stats){mass, entropy, lag, two, three, lse}, q, q, q, 2, 1);
  assert_true(c.counters.flops == 4 * 2 * 24 * 24 * 8 + 5 * 2 * 2 * 24 * 24);
  ebb_attention(&c, out, &(ebb_attention_stats){.lse = lse}, q, q, q, 2, 2);
  assert_true(c.counters.flops == 2 * 4 * 2 * 24 * 24 * 8 + 5 * 2 * 2 * 24 * 24);
  assert_true(ebb_context_ok(&c, NULL));
  ebb_context_close(&c);
}

typedef struct seen {
  char names[256];
  double flops, bytes;
} seen;

static void note(void *user, const ebb_op_seen *op) {
  seen *s = user;
  strcat(strcat(s->names, op->name), " ");
  s->flops += op->flops;
  s->bytes += op->bytes;
  assert_true(op->tensor_count >= 2 && op->tensors[0].rank > 0); /* the destination */
}

/* All ops of a run, with what they count; none of a dry run. */
static void an_observer_sees_every_op(void **state) {
  (void)state;
  ebb_context c;
  seen s = {{0}, 0, 0};
  open_cpu(&c);
  c.observer = note;
  c.observer_user = &s;
  ebb_context_count(&c);
  forward(&c);
  assert_string_equal(s.names, "");
  size_t weights = c.weights.peak, activations = c.activations.peak;
  reserve(&c, EBB_WEIGHTS, weights);
  reserve(&c, EBB_ACTIVATIONS, activations);
  c.counters = (ebb_counters){0};
  forward(&c);
  assert_string_equal(s.names, "linear attention gate_add pool_mean ");
  assert_true(s.flops == c.counters.flops && s.bytes == c.counters.bytes);
  ebb_context_close(&c);
}

static void threads_come_from_the_environment(void **state) {
  (void)state;
  const char *saved = getenv("OMP_NUM_THREADS");
  char *restore = saved ? strdup(saved) : NULL;
  setenv("OMP_NUM_THREADS", "5", 1);
  assert_int_equal(ebb_context_threads(), 5);
  setenv("OMP_NUM_THREADS", "4,2", 1);
  assert_int_equal(ebb_context_threads(), 4);
  setenv("OMP_NUM_THREADS", "many", 1);
  assert_true(ebb_context_threads() >= 1);
  unsetenv("OMP_NUM_THREADS");
  assert_true(ebb_context_threads() >= 1);
  if (restore)
    setenv("OMP_NUM_THREADS", restore, 1);
  free(restore);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(devices),
      cmocka_unit_test(a_dry_run_foretells_the_memory),
      cmocka_unit_test(a_full_arena_is_an_error),
      cmocka_unit_test(the_first_error_wins_and_later_ops_do_nothing),
      cmocka_unit_test(what_ops_refuse),
      cmocka_unit_test(which_statistics_attention_refuses),
      cmocka_unit_test(an_observer_sees_every_op),
      cmocka_unit_test(threads_come_from_the_environment),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
