/* The CUDA backend against the float64 definition and against the CPU, in float32 and in bfloat16, and what the
 * contract promises about bytes. Skipped where there is no device.
 *
 * Tolerances: float32 1e-5; bfloat16 twice the error that PyTorch's own makes on a case of that shape
 * (tests/op_bf16.inc, made by tests/fixtures/make_op_bf16.py), and 1e-5 where that is less. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/limits.h"
#include "tests/op_check.h"

typedef struct bf16_error {
  const char *op, *label, *output;
  double error;
} bf16_error;

static const bf16_error bf16_errors[] = {
#include "tests/op_bf16.inc"
};

/* `test_ops_cuda small|all [OP,OP...]`: without the large cases, for the sanitizers, which are slow; of the ops that
 * contain one of these alone. */
static bool small_only;
static const char *only;

static bool left_out(const op_case *k) {
  bool named = !only;
  for (const char *at = only; at && *at && !named; at += strspn(at, ",")) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(at, ","), at);
    named = strstr(k->op, name) != NULL;
    at += strcspn(at, ",");
  }
  return k->huge || (small_only && k->large) || !named;
}

typedef struct contexts {
  ebb_context cuda, cpu;
  bool present;
} contexts;

static int open_both(void **state) {
  static contexts both;
  ebb_error err = {0};
  both.present = ebb_context_open(&both.cuda, "cuda", &err);
  *state = &both;
  if (!both.present) {
    print_message("skipped: no CUDA device (%s)\n", err.text);
    return 0;
  }
  if (!ebb_context_reserve(&both.cuda, EBB_ACTIVATIONS, (size_t)2048 << 20, &err))
    fail_msg("%s", err.text);
  op_open(&both.cpu, "cpu", 512);
  return 0;
}

static int close_both(void **state) {
  contexts *both = *state;
  if (both->present) {
    ebb_context_close(&both->cuda);
    ebb_context_close(&both->cpu);
  }
  return 0;
}

static ebb_context *cuda_of(void **state) {
  contexts *both = *state;
  if (!both->present)
    skip();
  return &both->cuda;
}

static double f32_tolerance(const op_case *k, int tensor) {
  (void)tensor;
  return k->f64 || k->tolerance == 0 ? k->tolerance : fmax(k->tolerance, 1e-5);
}

/* What attention says of its map, whose exponentials and sums are float32. */
static bool is_map(const char *output) {
  return strcmp(output, "mass") == 0 || strcmp(output, "entropy") == 0 || strcmp(output, "lag") == 0;
}

static double bf16_tolerance(const op_case *k, int tensor) {
  for (size_t i = 0; i < sizeof bf16_errors / sizeof bf16_errors[0]; i++) {
    const bf16_error *e = &bf16_errors[i];
    if (strcmp(e->op, k->op) == 0 && strcmp(e->label, k->label) == 0 &&
        strcmp(e->output, k->t[tensor].name) == 0)
      return fmax(fmin(2 * e->error, is_map(e->output) ? 1e-3 : INFINITY), 1e-5);
  }
  fail_msg("tests/op_bf16.inc has no line for %s (%s), output %s: run tests/fixtures/make_op_bf16.py", k->op,
           k->label, k->t[tensor].name);
  return 0;
}

/* Calls `check` with every case that is not large, in float32 and in every bfloat16 that it takes; returns for
 * how many it said true. */
static int for_all(ebb_context *c, bool (*check)(ebb_context *c, const op_case *k)) {
  int checked = 0;
  for (int n = 0; n < op_case_count; n++) {
    unsigned halves[OP_HALVES];
    op_case k = op_cases[n];
    if (k.large)
      continue;
    checked += check(c, &k);
    for (int i = op_case_halves(&k, halves); i-- > 0;) {
      k.bf16 = halves[i];
      checked += check(c, &k);
    }
  }
  return checked;
}

/* What the case should give: the definition, or for large cases the CPU in float32. */
static const char *expected(contexts *both, const op_case *k, double *should[OP_TENSORS]) {
  op_case wide = *k;
  wide.widened = true;
  if (k->large)
    op_run(&both->cpu, &wide, should);
  else
    op_case_truth(k, should);
  return k->large ? "the CPU" : "the definition";
}

static int compare_with(contexts *both, const op_case *k, op_tolerance_fn *tolerance) {
  double *is[OP_TENSORS], *should[OP_TENSORS];
  op_run(&both->cuda, k, is);
  const char *against = expected(both, k, should);
  int failed = op_compare(k, is, should, against, tolerance);
  op_case_free(is);
  op_case_free(should);
  return failed;
}

static void matches_the_definition(void **state) {
  cuda_of(state);
  int failed = 0;
  for (int n = 0; n < op_case_count; n++)
    if (!left_out(&op_cases[n]))
      failed += compare_with(*state, &op_cases[n], f32_tolerance);
  assert_int_equal(failed, 0);
}

static void matches_the_cpu(void **state) {
  ebb_context *c = cuda_of(state), *cpu = &((contexts *)*state)->cpu;
  int failed = 0;
  for (int n = 0; n < op_case_count; n++) {
    const op_case *k = &op_cases[n];
    double *is[OP_TENSORS], *should[OP_TENSORS];
    if (k->large) /* done above */
      continue;
    op_run(c, k, is);
    op_run(cpu, k, should);
    failed += op_compare(k, is, should, "the CPU", f32_tolerance);
    op_case_free(is);
    op_case_free(should);
  }
  assert_int_equal(failed, 0);
}

/* What interventions draw: the very bits, so that a scene's noise does not hang on where it is computed. */
static void normals_are_those_of_the_cpu(void **state) {
  contexts *both = *state;
  cuda_of(state);
  int compared = 0;
  for (int n = 0; n < op_case_count; n++) {
    op_case k = op_cases[n];
    double *device[OP_TENSORS], *host[OP_TENSORS];
    if (strcmp(k.op, "add_noise") != 0)
      continue;
    k.f[0] = 0; /* nothing to round but the normals themselves */
    k.f[1] = 1;
    op_run(&both->cuda, &k, device);
    op_run(&both->cpu, &k, host);
    op_assert_same(&k, "on both backends", host, &k, device);
    op_case_free(device);
    op_case_free(host);
    compared++;
  }
  assert_true(compared >= 3);
}

static void bfloat16_is_as_good_as_pytorch(void **state) {
  cuda_of(state);
  int failed = 0;
  for (int n = 0; n < op_case_count; n++) {
    unsigned halves[OP_HALVES];
    op_case k = op_cases[n];
    for (int i = op_case_halves(&k, halves); i-- > 0 && !left_out(&k);) {
      k.bf16 = halves[i];
      failed += compare_with(*state, &k, bf16_tolerance);
    }
  }
  assert_int_equal(failed, 0);
}

static bool check_twice(ebb_context *c, const op_case *k) {
  double *once[OP_TENSORS], *again[OP_TENSORS];
  op_run(c, k, once);
  op_run(c, k, again);
  op_assert_same(k, "when it is run again", once, k, again);
  op_case_free(once);
  op_case_free(again);
  return true;
}

static void same_bytes_in_every_run(void **state) {
  assert_true(for_all(cuda_of(state), check_twice) > op_case_count / 2);
}

static void same_bytes_alone_and_in_a_batch(void **state) {
  assert_true(for_all(cuda_of(state), op_check_samples) > op_case_count / 4);
}

static void attention_is_the_same_without_statistics(void **state) {
  assert_true(for_all(cuda_of(state), op_check_statistics) >= 8);
}

static bool check_mass(ebb_context *c, const op_case *k) {
  return op_check_mass(c, k, 1e-5);
}

static void rows_of_mass_add_to_one(void **state) {
  assert_true(for_all(cuda_of(state), check_mass) >= 8);
}

static void fused_norm_is_the_same(void **state) {
  assert_true(for_all(cuda_of(state), op_check_fused_norm) >= 20);
}

static void in_place_is_the_same(void **state) {
  op_check_in_place(cuda_of(state));
}

/* ---- problems of full size are cut: small ones, cut as they are ------------------------------------------ */

#if defined(EBB_HAVE_CUDA)
static void limit(ebb_context *c, cuda_limits limits) {
  cuda_limit(c, limits);
}
#else
static void limit(ebb_context *c, cuda_limits limits) {
  (void)c, (void)limits;
}
#endif

/* Slabs of one frame, and slabs that do not divide a clip; a row or three, a sample at a time. */
static const cuda_limits cuts[] = {{1, 1, 1}, {2000, 3, 1}, {20000, 7, 4096}};

static bool is_cut(const op_case *k) {
  static const char *const ops[] = {"conv3d_causal", "downsample_space", "downsample_time",
                                    "upsample_time", "channel_norm",     "attention"};
  for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
    if (strcmp(k->op, ops[i]) == 0)
      return true;
  return false;
}

/* A slab of another size may have another engine of cuDNN's; norms and attention do the same sums. */
static bool check_cuts(ebb_context *c, const op_case *k) {
  if (!is_cut(k))
    return false;
  const bool same = strcmp(k->op, "channel_norm") == 0 || strcmp(k->op, "attention") == 0;
  double *whole[OP_TENSORS], *cut[OP_TENSORS], *should[OP_TENSORS];
  op_run(c, k, whole);
  op_case_truth(k, should);
  for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
    limit(c, cuts[i]);
    op_run(c, k, cut);
    limit(c, (cuda_limits){0});
    if (same)
      op_assert_same(k, "when it is cut", whole, k, cut);
    assert_int_equal(op_compare(k, cut, should, "the definition", k->bf16 ? bf16_tolerance : f32_tolerance),
                     0);
    op_case_free(cut);
  }
  op_case_free(whole);
  op_case_free(should);
  return true;
}

static void cut_problems_are_the_same(void **state) {
  assert_true(for_all(cuda_of(state), check_cuts) >= 20);
}

int main(int argc, char **argv) {
  small_only = argc > 1 && strcmp(argv[1], "small") == 0;
  only = argc > 2 ? argv[2] : NULL;
  const struct CMUnitTest each_once[] = {cmocka_unit_test(matches_the_definition),
                                         cmocka_unit_test(bfloat16_is_as_good_as_pytorch)};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(matches_the_definition),
      cmocka_unit_test(matches_the_cpu),
      cmocka_unit_test(normals_are_those_of_the_cpu),
      cmocka_unit_test(bfloat16_is_as_good_as_pytorch),
      cmocka_unit_test(same_bytes_in_every_run),
      cmocka_unit_test(same_bytes_alone_and_in_a_batch),
      cmocka_unit_test(attention_is_the_same_without_statistics),
      cmocka_unit_test(rows_of_mass_add_to_one),
      cmocka_unit_test(fused_norm_is_the_same),
      cmocka_unit_test(in_place_is_the_same),
      cmocka_unit_test(cut_problems_are_the_same),
  };
  const struct CMUnitTest of_some[] = {
      cmocka_unit_test(matches_the_definition),
      cmocka_unit_test(matches_the_cpu),
      cmocka_unit_test(bfloat16_is_as_good_as_pytorch),
      cmocka_unit_test(same_bytes_in_every_run),
      cmocka_unit_test(same_bytes_alone_and_in_a_batch),
      cmocka_unit_test(attention_is_the_same_without_statistics),
      cmocka_unit_test(rows_of_mass_add_to_one),
  };
  return !only        ? cmocka_run_group_tests(tests, open_both, close_both)
         : small_only ? cmocka_run_group_tests(each_once, open_both, close_both)
                      : cmocka_run_group_tests(of_some, open_both, close_both);
}
