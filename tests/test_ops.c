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

#include "tests/op_cases.h"

static void open_cpu(ebb_context *c) {
  ebb_error err = {0};
  if (!ebb_context_open(c, "cpu", &err) || !ebb_context_reserve(c, EBB_ACTIVATIONS, (size_t)64 << 20, &err))
    fail_msg("%s", err.text);
}

static void run(ebb_context *c, const op_case *k, double *results[OP_TENSORS]) {
  ebb_error err = {0};
  if (!op_case_run(c, k, results, &err))
    fail_msg("%s", err.text);
}

/* Number of outputs beyond the tolerance. */
static int compare(const op_case *k, double *is[OP_TENSORS], double *should[OP_TENSORS]) {
  int failed = 0;
  for (int i = 0; i < OP_TENSORS; i++) {
    if (k->t[i].rank == 0 || !(k->t[i].flags & OP_OUT))
      continue;
    double error = op_relative_error(is[i], should[i], op_tensor_count(&k->t[i]));
    if (getenv("EBB_SHOW_ERRORS"))
      print_message("%-20s %-32s %-9s %.1e of %.0e\n", k->op, k->label, k->t[i].name, error, k->tolerance);
    if (!(error <= k->tolerance)) {
      print_error("%s (%s): %s has relative error %.3e, tolerance %.1e\n", k->op, k->label, k->t[i].name,
                  error, k->tolerance);
      failed++;
    }
  }
  return failed;
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
    run(&c, k, is);
    op_case_truth(k, should);
    failed += compare(k, is, should);
    op_case_free(is);
    op_case_free(should);
  }
  ebb_context_close(&c);
  assert_int_equal(failed, 0);
}

/* Bitwise: part (of part_case) is what stands in whole (of k) at that sample. */
static void assert_same(const op_case *k, const char *what, double *whole[OP_TENSORS],
                        const op_case *part_case, double *part[OP_TENSORS]) {
  for (int i = 0; i < OP_TENSORS; i++) {
    int64_t count = op_tensor_count(&part_case->t[i]);
    int64_t first = k->t[i].flags & OP_BATCHED ? part_case->first_sample * count : 0;
    if (count > 0 && memcmp(whole[i] + first, part[i], (size_t)count * sizeof(double)) != 0)
      fail_msg("%s (%s): %s is not bitwise the same %s", k->op, k->label, k->t[i].name, what);
  }
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
    run(&c[0], &op_cases[n], one);
    for (int t = 1; t < 4; t++) {
      run(&c[t], &op_cases[n], many);
      assert_same(&op_cases[n], "with more threads", one, &op_cases[n], many);
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
  for (int n = 0; n < op_case_count; n++) {
    const op_case *k = &op_cases[n];
    if (k->large || op_case_batch(k) == 1)
      continue;
    double *all[OP_TENSORS], *alone[OP_TENSORS];
    run(&c, k, all);
    for (int64_t b = 0; b < op_case_batch(k); b++) {
      op_case one = op_case_sample(k, b);
      run(&c, &one, alone);
      assert_same(k, "without the batch around it", all, &one, alone);
      op_case_free(alone);
    }
    op_case_free(all);
  }
  ebb_context_close(&c);
}

static void attention_is_the_same_without_statistics(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  int compared = 0;
  for (int n = 0; n < op_case_count; n++) {
    const op_case *k = &op_cases[n];
    if (strcmp(k->op, "attention") != 0 || k->large || k->t[4].rank + k->t[5].rank == 0)
      continue;
    op_case plain = *k;
    plain.t[4] = plain.t[5] = (op_tensor){0};
    double *with[OP_TENSORS], *without[OP_TENSORS];
    run(&c, k, with);
    run(&c, &plain, without);
    assert_same(k, "without statistics", with, &plain, without);
    op_case_free(with);
    op_case_free(without);
    compared++;
  }
  ebb_context_close(&c);
  assert_true(compared >= 4);
}

static void rows_of_mass_add_to_one(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  for (int n = 0; n < op_case_count; n++) {
    const op_case *k = &op_cases[n];
    if (strcmp(k->op, "attention") != 0 || k->large || k->t[4].rank == 0)
      continue;
    double *results[OP_TENSORS];
    run(&c, k, results);
    int64_t Tk = k->t[4].shape[3];
    for (int64_t row = 0; row < op_tensor_count(&k->t[4]) / Tk; row++) {
      double total = 0;
      for (int64_t t = 0; t < Tk; t++)
        total += results[4][row * Tk + t];
      assert_true(fabs(total - 1) < 1e-6);
    }
    op_case_free(results);
  }
  ebb_context_close(&c);
}

/* In place where the contract allows it: the same bytes as into another tensor. */
static void in_place_is_the_same(void **state) {
  (void)state;
  ebb_context c;
  open_cpu(&c);
  ebb_error err = {0};
  float values[768], apart[768], same[768];
  for (int i = 0; i < 768; i++)
    values[i] = sinf((float)(3 * i)) * 2;
  ebb_tensor x = EBB_ACTIVATION(&c, "x", 2, 3, 2, 8, 8), y = EBB_ACTIVATION(&c, "y", 2, 3, 2, 8, 8);
  ebb_tensor w = EBB_ACTIVATION(&c, "w", 8), u = EBB_ACTIVATION(&c, "u", 8),
             three = EBB_ACTIVATION(&c, "three", 3);
  ebb_upload(&c, w, values + 5);
  ebb_upload(&c, u, values + 50);
  ebb_upload(&c, three, values + 20);
  for (int op = 0; op < 6; op++) {
    for (int place = 0; place < 2; place++) {
      ebb_upload(&c, x, values);
      ebb_tensor to = place == 0 ? y : x;
      if (op == 0)
        ebb_layer_norm(&c, to, x, w, u, 1e-6f);
      else if (op == 1)
        ebb_channel_norm(&c, to, x, w, EBB_SILU);
      else if (op == 2)
        ebb_axpby(&c, to, 0.5f, x, 2.0f, x);
      else if (op == 3)
        ebb_activate(&c, to, x, EBB_GELU_TANH);
      else if (op == 4)
        ebb_channel_affine(&c, to, x, three, three);
      else
        ebb_clamp(&c, to, x, -0.5f, 1.0f);
      ebb_download(&c, place == 0 ? apart : same, to);
    }
    assert_memory_equal(apart, same, sizeof apart);
  }
  if (!ebb_context_ok(&c, &err))
    fail_msg("%s", err.text);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(matches_the_definition),
      cmocka_unit_test(same_bytes_for_any_threads),
      cmocka_unit_test(same_bytes_alone_and_in_a_batch),
      cmocka_unit_test(attention_is_the_same_without_statistics),
      cmocka_unit_test(rows_of_mass_add_to_one),
      cmocka_unit_test(in_place_is_the_same),
      cmocka_unit_test(activations_are_accurate_everywhere),
      cmocka_unit_test(not_positive_definite_is_not_a_number),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
