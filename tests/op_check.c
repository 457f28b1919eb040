#include "tests/op_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void op_open(ebb_context *c, const char *device, size_t megabytes) {
  ebb_error err = {0};
  if (!ebb_context_open(c, device, &err) || !ebb_context_reserve(c, EBB_ACTIVATIONS, megabytes << 20, &err))
    fail_msg("%s", err.text);
}

void op_run(ebb_context *c, const op_case *k, double *results[OP_TENSORS]) {
  ebb_error err = {0};
  if (!op_case_run(c, k, results, &err))
    fail_msg("%s", err.text);
}

double op_own_tolerance(const op_case *k, int tensor) {
  (void)tensor;
  return k->tolerance;
}

int op_compare(const op_case *k, double *is[OP_TENSORS], double *should[OP_TENSORS], const char *against,
               op_tolerance_fn *tolerance) {
  int failed = 0;
  for (int i = 0; i < OP_TENSORS; i++) {
    if (k->t[i].rank == 0 || !(k->t[i].flags & OP_OUT))
      continue;
    double error = op_relative_error(is[i], should[i], op_tensor_count(&k->t[i])), allowed = tolerance(k, i);
    if (getenv("EBB_SHOW_ERRORS"))
      print_message("%-20s %-32s %-9s bf16 %x %.1e of %.0e of %s\n", k->op, k->label, k->t[i].name, k->bf16,
                    error, allowed, against);
    if (!(error <= allowed)) {
      print_error("%s (%s, bf16 %x): %s is %.3e away from %s, expected at most %.1e\n", k->op, k->label,
                  k->bf16, k->t[i].name, error, against, allowed);
      failed++;
    }
  }
  return failed;
}

void op_assert_same(const op_case *k, const char *what, double *whole[OP_TENSORS], const op_case *part_case,
                    double *part[OP_TENSORS]) {
  for (int i = 0; i < OP_TENSORS; i++) {
    int64_t count = op_tensor_count(&part_case->t[i]);
    int64_t first = k->t[i].flags & OP_BATCHED ? part_case->first_sample * count : 0;
    if (count > 0 && memcmp(whole[i] + first, part[i], (size_t)count * sizeof(double)) != 0)
      fail_msg("%s (%s, bf16 %x): %s is not bitwise the same %s", k->op, k->label, k->bf16, k->t[i].name,
               what);
  }
}

bool op_check_samples(ebb_context *c, const op_case *k) {
  double *all[OP_TENSORS], *alone[OP_TENSORS];
  if (op_case_batch(k) == 1)
    return false;
  op_run(c, k, all);
  for (int64_t b = 0; b < op_case_batch(k); b++) {
    op_case one = op_case_sample(k, b);
    op_run(c, &one, alone);
    op_assert_same(k, "without the batch around it", all, &one, alone);
    op_case_free(alone);
  }
  op_case_free(all);
  return true;
}

bool op_check_statistics(ebb_context *c, const op_case *k) {
  op_case plain = *k;
  int statistics = 0;
  for (int i = 4; i < OP_TENSORS; i++) {
    statistics += k->t[i].rank > 0;
    plain.t[i] = (op_tensor){0};
  }
  if (strcmp(k->op, "attention") != 0 || statistics == 0)
    return false;
  double *with[OP_TENSORS], *without[OP_TENSORS];
  op_run(c, k, with);
  op_run(c, &plain, without);
  op_assert_same(k, "without statistics", with, &plain, without);
  op_case_free(with);
  op_case_free(without);
  return true;
}

bool op_check_mass(ebb_context *c, const op_case *k, double tolerance) {
  int checked = 0;
  double *results[OP_TENSORS];
  if (strcmp(k->op, "attention") != 0)
    return false;
  op_run(c, k, results);
  for (int i = 4; i < 9; i++) {
    const op_tensor *t = &k->t[i];
    if (t->rank == 0 || i == 5)
      continue;
    int64_t width = t->shape[t->rank - 1];
    for (int64_t row = 0; row < op_tensor_count(t) / width; row++) {
      double total = 0;
      for (int64_t at = 0; at < width; at++)
        total += results[i][row * width + at];
      if (!(fabs(total - 1) < (k->bf16 && i >= 7 ? 1e-3 : tolerance)))
        fail_msg("attention (%s, bf16 %x): row %lld of %s adds to %.9g, expected 1", k->label, k->bf16,
                 (long long)row, t->name, total);
    }
    checked++;
  }
  op_case_free(results);
  return checked > 0;
}

/* gate_add_norm, or gate_add_layer_norm without its h. */
static void run_apart(ebb_context *c, const op_case *k, const ebb_tensor *t) {
  ebb_gate_add(c, t[1], t[2], t[3]);
  if (ebb_present(t[0]))
    ebb_norm_modulate(c, t[0], t[1], t[4], t[5], (float)k->f[0]);
}

bool op_check_fused_norm(ebb_context *c, const op_case *k) {
  const bool affine = strcmp(k->op, "gate_add_layer_norm") == 0;
  if (!affine && strcmp(k->op, "gate_add_norm") != 0)
    return false;
  op_case apart = *k;
  apart.run = run_apart;
  if (affine)
    apart.t[0] = (op_tensor){0};
  double *together[OP_TENSORS], *one_by_one[OP_TENSORS];
  op_run(c, k, together);
  op_run(c, &apart, one_by_one);
  op_assert_same(k, "as gate_add, then norm_modulate, give it", together, &apart, one_by_one);
  op_case_free(together);
  op_case_free(one_by_one);
  return true;
}

void op_check_in_place(ebb_context *c) {
  ebb_error err = {0};
  float values[768], apart[768], same[768];
  for (int i = 0; i < 768; i++)
    values[i] = sinf((float)(3 * i)) * 2;
  ebb_tensor x = EBB_ACTIVATION(c, "x", 2, 3, 2, 8, 8), y = EBB_ACTIVATION(c, "y", 2, 3, 2, 8, 8);
  ebb_tensor w = EBB_ACTIVATION(c, "w", 8), u = EBB_ACTIVATION(c, "u", 8),
             three = EBB_ACTIVATION(c, "three", 3);
  ebb_upload(c, w, values + 5);
  ebb_upload(c, u, values + 50);
  ebb_upload(c, three, values + 20);
  ebb_tensor shift = EBB_VIEW(w, 1, 8), scale = EBB_VIEW(u, 1, 8);
  for (int op = 0; op < 8; op++) {
    for (int place = 0; place < 2; place++) {
      ebb_upload(c, x, values);
      ebb_tensor to = place == 0 ? y : x;
      if (op == 0)
        ebb_norm_modulate(c, EBB_VIEW(to, 2, 48, 8), EBB_VIEW(x, 2, 48, 8), shift, scale, 1e-6f);
      else if (op == 1)
        ebb_channel_norm(c, to, x, w, EBB_SILU);
      else if (op == 2)
        ebb_axpby(c, to, 0.5f, x, 2.0f, x);
      else if (op == 3)
        ebb_activate(c, to, x, EBB_GELU_TANH);
      else if (op == 4)
        ebb_channel_affine(c, to, x, three, three);
      else if (op == 5)
        ebb_rms_norm(c, to, x, w, 1e-6f);
      else if (op == 6)
        ebb_gated(c, to, x, x, EBB_SILU);
      else
        ebb_clamp(c, to, x, -0.5f, 1.0f);
      ebb_download(c, place == 0 ? apart : same, to);
    }
    assert_memory_equal(apart, same, sizeof apart);
  }
  if (!ebb_context_ok(c, &err))
    fail_msg("%s", err.text);
}
