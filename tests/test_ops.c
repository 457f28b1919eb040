/* The CPU backend against the float64 definition (tests/op_truth.c), and what the contract promises about
 * bytes: the same for any number of threads, for a sample alone and in a batch, for attention with and
 * without statistics. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "tests/op_check.h"

static void open_cpu(ebb_context *c) {
  op_open(c, "cpu", 64);
}

static void matches_the_definition(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  int failed = 0;
  for (int n = 0; n < op_case_count; n++) {
    const op_case *k = &op_cases[n];
    double *is[OP_TENSORS], *should[OP_TENSORS];
    if (k->large)
      continue;
    op_run(&c, k, is);
    op_case_truth(k, should);
    failed += op_compare(k, is, should, "the definition", op_own_tolerance);
    op_case_free(is);
    op_case_free(should);
  }
  ebb_context_close(&c);
  assert_int_equal(failed, 0);
}

static void same_bytes_for_any_threads(void **state) {
  (void)state;
  const char *saved = getenv("OMP_NUM_THREADS"), *threads[] = {"1", "2", "3", "7"};
  char *restore = saved ? strdup(saved) : NULL;
  ebb_context c[4];
  for (int t = 0; t < 4; t++) {
    setenv("OMP_NUM_THREADS", threads[t], 1);
    open_cpu(&c[t]);
  }
  if (restore)
    setenv("OMP_NUM_THREADS", restore, 1);
  else
    unsetenv("OMP_NUM_THREADS");
  free(restore);
  for (int n = 0; n < op_case_count; n++) {
    if (op_cases[n].large)
      continue;
    double *one[OP_TENSORS], *many[OP_TENSORS];
    op_run(&c[0], &op_cases[n], one);
    for (int t = 1; t < 4; t++) {
      op_run(&c[t], &op_cases[n], many);
      op_assert_same(&op_cases[n], "with more threads", one, &op_cases[n], many);
      op_case_free(many);
    }
    op_case_free(one);
  }
  for (int t = 0; t < 4; t++)
    ebb_context_close(&c[t]);
}

static void same_bytes_alone_and_in_a_batch(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  for (int n = 0; n < op_case_count; n++)
    if (!op_cases[n].large)
      op_check_samples(&c, &op_cases[n]);
  ebb_context_close(&c);
}

static void attention_is_the_same_without_statistics(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  int compared = 0;
  for (int n = 0; n < op_case_count; n++)
    compared += !op_cases[n].large && op_check_statistics(&c, &op_cases[n]);
  ebb_context_close(&c);
  assert_true(compared >= 4);
}

static void rows_of_mass_add_to_one(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  for (int n = 0; n < op_case_count; n++)
    if (!op_cases[n].large)
      op_check_mass(&c, &op_cases[n], 1e-6);
  ebb_context_close(&c);
}

static void fused_norm_is_the_same(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  int compared = 0;
  for (int n = 0; n < op_case_count; n++)
    compared += !op_cases[n].large && op_check_fused_norm(&c, &op_cases[n]);
  ebb_context_close(&c);
  assert_true(compared >= 4);
}

static void in_place_is_the_same(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  op_check_in_place(&c);
  ebb_context_close(&c);
}

/* Element by element over the whole range: silu to a relative 3e-7 (two roundings and the exponential's
 * 2e-7), gelu relative to |x|, as its far negative tail is a difference of numbers of that size. */
static void activations_are_accurate_everywhere(void **state) {
  (void)state;
  enum { COUNT = 40001 };
  static float x[COUNT], y[COUNT];
  ebb_context c;
  open_cpu(&c);
  for (int i = 0; i < COUNT; i++)
    x[i] = (float)(i - COUNT / 2) * (80.0f / (COUNT / 2));
  ebb_tensor in = EBB_ACTIVATION(&c, "x", COUNT), out = EBB_ACTIVATION(&c, "y", COUNT);
  ebb_upload(&c, in, x);
  ebb_activate(&c, out, in, EBB_SILU);
  ebb_download(&c, y, out);
  double worst_silu = 0, worst_gelu = 0;
  for (int i = 0; i < COUNT; i++) {
    double a = (double)x[i], truth = a / (1 + exp(-a));
    worst_silu = fmax(worst_silu, fabs((double)y[i] - truth) / (truth == 0 ? 1 : fabs(truth)));
  }
  ebb_activate(&c, out, in, EBB_GELU_TANH);
  ebb_download(&c, y, out);
  for (int i = 0; i < COUNT; i++) {
    double a = (double)x[i], truth = a / (1 + exp(-2 * sqrt(2 / acos(-1.0)) * (a + 0.044715 * a * a * a)));
    worst_gelu = fmax(worst_gelu, fabs((double)y[i] - truth) / (a == 0 ? 1 : fabs(a)));
  }
  ebb_context_close(&c);
  print_message("largest error of silu %.1e, of gelu %.1e\n", worst_silu, worst_gelu);
  assert_true(worst_silu < 3e-7 && worst_gelu < 2e-7);
}

/* The cases of replaced heads have all that a head can become. */
static void heads_become_everything(void **state) {
  (void)state;
  int seen[4] = {0}; /* mean, zero, kept, another sample */
  for (int n = 0; n < op_case_count; n++) {
    const op_case *k = &op_cases[n];
    for (int64_t i = 0; strcmp(k->op, "replace_heads") == 0 && i < op_tensor_count(&k->t[3]); i++) {
      const double source = op_case_value(k, 3, i);
      assert_true(source >= EBB_HEAD_MEAN && source < (double)k->t[3].shape[0] && source == floor(source));
      seen[source >= 0 ? 3 : (int)source - EBB_HEAD_MEAN]++;
    }
  }
  for (int i = 0; i < 4; i++)
    assert_true(seen[i] >= 3);
}

static void not_positive_definite_is_not_a_number(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  double values[8] = {1, 2, 2, 1, 2, 1, 1, 2};
  ebb_tensor a = EBB_NEW(&c, EBB_ACTIVATIONS, EBB_F64, "kernel", 2, 2, 2);
  ebb_upload(&c, a, values);
  ebb_spd_inverse(&c, a);
  ebb_download(&c, values, a);
  assert_true(ebb_context_ok(&c, NULL));
  for (int i = 0; i < 4; i++)
    assert_true(isnan(values[i]) && fabs(values[4 + i] - (i % 3 ? -1 : 2) / 3.0) < 1e-15);
  ebb_context_close(&c);
}

/* A device as ops.c sees one: the CPU's memory under another name. */
static void devices_want_aligned_tensors(void **state) {
  (void)state;
  static const char *const aligned[] = {"channel_norm",   "attention",        "attention_weights",
                                        "conv3d_causal",  "downsample_space", "downsample_time",
                                        "upsample_space", "upsample_time"};
  enum { OPS = sizeof aligned / sizeof aligned[0] };
  int refused[OPS] = {0};
  ebb_backend device = ebb_cpu_backend;
  device.place = EBB_DEVICE;
  ebb_context c;
  open_cpu(&c);
  c.backend = &device;
  c.activations.place = EBB_DEVICE;
  for (int n = 0; n < op_case_count; n++) {
    const op_case *k = &op_cases[n];
    int which = 0;
    while (which < OPS && strcmp(aligned[which], k->op) != 0)
      which++;
    if (which == OPS || k->large)
      continue;
    ebb_tensor t[OP_TENSORS];
    size_t mark = ebb_arena_mark(&c.activations);
    op_case_tensors(&c, k, t);
    for (int i = 0; i < OP_TENSORS; i++) {
      if (!ebb_present(t[i]))
        continue;
      ebb_error err = {0};
      ebb_tensor shifted[OP_TENSORS];
      memcpy(shifted, t, sizeof t);
      k->run(&c, k, t);
      assert_true(ebb_context_ok(&c, &err));
      shifted[i].data = (char *)t[i].data + sizeof(float);
      shifted[i].name = "slice";
      k->run(&c, k, shifted);
      assert_false(ebb_context_ok(&c, &err));
      if (strstr(err.text, "overlaps")) /* the next tensor follows at once */
        continue;
      assert_non_null(strstr(err.text, "starts 4 bytes after a multiple of 16, expected at one"));
      assert_non_null(strstr(err.text, " \"slice\" float32"));
      refused[which]++;
    }
    ebb_arena_release(&c.activations, mark);
  }
  for (int i = 0; i < OPS; i++)
    assert_true(refused[i] >= 2);
  float values[40] = {0}; /* what takes any address: the samples of a batch of odd size */
  ebb_tensor x = EBB_ACTIVATION(&c, "x", 2, 1, 1, 3, 3), y = EBB_ACTIVATION(&c, "y", 2, 9, 1);
  ebb_upload(&c, x, values);
  ebb_patchify(&c, ebb_slice(y, 1, 1), ebb_slice(x, 1, 1), (const int[]){1, 1, 1});
  assert_true(ebb_context_ok(&c, NULL));
  ebb_context_close(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(matches_the_definition),
      cmocka_unit_test(same_bytes_for_any_threads),
      cmocka_unit_test(same_bytes_alone_and_in_a_batch),
      cmocka_unit_test(attention_is_the_same_without_statistics),
      cmocka_unit_test(rows_of_mass_add_to_one),
      cmocka_unit_test(fused_norm_is_the_same),
      cmocka_unit_test(in_place_is_the_same),
      cmocka_unit_test(activations_are_accurate_everywhere),
      cmocka_unit_test(heads_become_everything),
      cmocka_unit_test(not_positive_definite_is_not_a_number),
      cmocka_unit_test(devices_want_aligned_tensors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
