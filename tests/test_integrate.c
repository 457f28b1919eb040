/* tier: host
 * The solvers on a field whose solution is known: orders of convergence, directions, labels, the exact inverse. */
#include "engine/integrate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 5 /* numbers in the state */

static ebb_context context;

static int open_context(void **state) {
  (void)state;
  ebb_error err = {0};
  if (!ebb_context_open(&context, "cpu", &err) ||
      !ebb_context_reserve(&context, EBB_ACTIVATIONS, 1 << 16, &err))
    return -1;
  return 0;
}

static int close_context(void **state) {
  (void)state;
  ebb_context_close(&context);
  return 0;
}

/* dx/ds = -5 x + 9 cos(3 s), told s through the label. No closed form; the truth is RK4 with 20,000 steps in double. */
static double field(double x, double s) {
  return -5 * x + 9 * cos(3 * s);
}

static double truth(double x, double from, double to) {
  int steps = 20000;
  double h = (to - from) / steps;
  for (int i = 0; i < steps; i++) {
    double s = from + i * h;
    double a = field(x, s), b = field(x + h / 2 * a, s + h / 2), c = field(x + h / 2 * b, s + h / 2);
    double d = field(x + h * c, s + h);
    x += h / 6 * (a + 2 * b + 2 * c + d);
  }
  return x;
}

static void told_by_label(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage) {
  const ebb_integration *plan = user;
  (void)stage;
  for (int i = 0; i < N; i++)
    ((float *)v.data)[i] = (float)field((double)((float *)x.data)[i], plan->labels[moment] / 1000);
}

/* A uniform grid 0 .. 1 with labels 1000 sigma. */
static ebb_schedule uniform(int steps) {
  ebb_schedule s = {.steps = steps, .shift = 1};
  s.sigma = calloc((size_t)steps + 1, sizeof *s.sigma);
  s.label = calloc((size_t)steps + 1, sizeof *s.label);
  for (int i = 0; i <= steps; i++) {
    s.sigma[i] = (double)i / steps;
    s.label[i] = 1000.0 * i / steps;
  }
  return s;
}

/* Integrates start values 0.1, 0.2, ... and returns the largest error against the truth. */
static double error_of(ebb_solver solver, int steps, bool generate) {
  ebb_error err = {0};
  ebb_schedule s = uniform(steps);
  ebb_integration plan;
  float x[N];
  for (int i = 0; i < N; i++)
    x[i] = 0.1f * (float)(i + 1);
  assert_true(ebb_integration_make(&plan, &s, solver, EBB_MATCHED, generate, &err));
  ebb_tensor state = EBB_TENSOR(x, EBB_F32, EBB_HOST, "x", N);
  for (int i = 0; i < steps; i++)
    ebb_integrate(&context, &plan, i, state, told_by_label, &plan, NULL);
  if (!ebb_context_ok(&context, &err))
    fail_msg("%s", err.text);
  double worst = 0;
  for (int i = 0; i < N; i++)
    worst = fmax(worst, fabs((double)x[i] - truth((double)(0.1f * (float)(i + 1)), generate, !generate)));
  ebb_integration_free(&plan);
  ebb_schedule_free(&s);
  return worst;
}

static void test_orders(void **state) {
  (void)state;
  static const struct {
    ebb_solver solver;
    int steps;
    double order;
  } cases[] = {{EBB_EULER, 400, 1}, {EBB_HEUN, 100, 2}, {EBB_MIDPOINT, 100, 2}, {EBB_RK4, 16, 4}};
  for (int generate = 0; generate < 2; generate++)
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      double coarse = error_of(cases[i].solver, cases[i].steps, generate);
      double fine = error_of(cases[i].solver, 2 * cases[i].steps, generate);
      double order = log2(coarse / fine);
      print_message("  solver %d, %s: error %.2e -> %.2e, order %.2f\n", (int)cases[i].solver,
                    generate ? "generation" : "inversion", coarse, fine, order);
      assert_true(fabs(order - cases[i].order) < 0.25);
    }
}

static void test_exact_inverts_euler(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_schedule s = uniform(40);
  ebb_integration forward, back;
  assert_true(ebb_integration_make(&forward, &s, EBB_EULER, EBB_MATCHED, true, &err));
  assert_true(ebb_integration_make(&back, &s, EBB_EXACT, EBB_NOISY, false, &err));
  float path[41][N], x[N];
  for (int i = 0; i < N; i++)
    path[0][i] = x[i] = 0.3f * (float)(i + 1) - 0.7f;
  ebb_tensor t = EBB_TENSOR(x, EBB_F32, EBB_HOST, "x", N);
  for (int i = 0; i < 40; i++) {
    ebb_integrate(&context, &forward, i, t, told_by_label, &forward, NULL);
    memcpy(path[i + 1], x, sizeof x);
  }
  for (int i = 0; i < 40; i++) {
    ebb_integrate(&context, &back, i, t, told_by_label, &back, NULL);
    for (int k = 0; k < N; k++)
      assert_true(fabsf(x[k] - path[39 - i][k]) <= 1e-5f * (1 + fabsf(x[k])));
  }
  assert_true(ebb_context_ok(&context, &err));
  ebb_integration_free(&forward);
  ebb_integration_free(&back);
  ebb_schedule_free(&s);
}

/* v = x + 1: with a step of 1, no y satisfies y = x + v(y). */
static void without_a_way_back(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage) {
  (void)user;
  (void)moment;
  (void)stage;
  for (int64_t i = 0; i < ebb_count(x); i++)
    ((float *)v.data)[i] = ((float *)x.data)[i] + 1;
}

/* A step that nothing inverts is an error that says so, not a wrong number. */
static void test_exact_that_does_not_converge(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_schedule s = uniform(1);
  ebb_integration plan;
  assert_true(ebb_integration_make(&plan, &s, EBB_EXACT, EBB_NOISY, false, &err));
  float x[N] = {1, 2, 3, 4, 5};
  ebb_integrate(&context, &plan, 0, EBB_TENSOR(x, EBB_F32, EBB_HOST, "x", 1, N), without_a_way_back, NULL,
                NULL);
  assert_false(ebb_context_ok(&context, &err));
  assert_non_null(strstr(err.text, "no fixed point"));
  float y[2 * N] = {1,  2,  3,  4,  5,
                    -1, -1, -1, -1, -1}; /* -1 + (y + 1) = y for any y: the second sample has a way back */
  ebb_error failures[2] = {0};
  ebb_integrate(&context, &plan, 0, EBB_TENSOR(y, EBB_F32, EBB_HOST, "y", 2, N), without_a_way_back, NULL,
                failures);
  assert_true(ebb_context_ok(&context, &err));
  assert_non_null(strstr(failures[0].text, "no fixed point"));
  assert_true(isnan(y[0]) && !failures[1].text[0] && isfinite(y[N]));
  ebb_integration_free(&plan);
  ebb_schedule_free(&s);
}

/* Only the two together are refused, in the user's words. */
static void test_exact_wants_float32(void **state) {
  (void)state;
  static const char *const solvers[] = {"euler", "heun", "midpoint", "rk4", "exact"};
  for (int i = 0; i < 5; i++) {
    ebb_error err = {0};
    assert_true(ebb_solver_takes("a", solvers[i], "b", "float32", &err));
    assert_int_equal(ebb_solver_takes("a", solvers[i], "b", "bfloat16", &err), i < 4);
    assert_int_equal(strncmp(err.text, "a: found exact with b bfloat16, expected b float32", 50) == 0,
                     i == 4);
  }
}

static void test_labels(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_schedule s = uniform(4);
  ebb_integration p;
  assert_true(ebb_integration_make(&p, &s, EBB_EULER, EBB_NOISY, false, &err));
  for (int i = 0; i < 4; i++)
    assert_true(p.timestep[i] == s.label[i + 1] && p.sigma[i] == s.sigma[i]);
  ebb_integration_free(&p);
  assert_true(ebb_integration_make(&p, &s, EBB_EULER, EBB_MATCHED, false, &err));
  for (int i = 0; i < 4; i++)
    assert_true(p.timestep[i] == s.label[i]);
  ebb_integration_free(&p);
  assert_true(ebb_integration_make(&p, &s, EBB_HEUN, EBB_NOISY, false, &err));
  for (int i = 0; i < 3;
       i++) /* the second stage is told the label after the next; the last step is Euler's */
    assert_true(p.step[i].stages == 2 && p.labels[p.step[i].moment[1]] == s.label[i + 2]);
  assert_int_equal(p.step[3].stages, 1);
  ebb_integration_free(&p);
  assert_true(ebb_integration_make(&p, &s, EBB_MIDPOINT, EBB_MATCHED, false, &err));
  assert_true(p.labels[p.step[1].moment[1]] == 375);
  assert_int_equal(p.moments, 8); /* four grid points, four mid-points: each label once */
  ebb_integration_free(&p);
  assert_true(ebb_integration_make(&p, &s, EBB_RK4, EBB_MATCHED, true, &err));
  assert_true(p.sigma[0] == 1 && p.labels[p.step[0].moment[1]] == 875 && p.labels[p.step[3].moment[3]] == 0);
  ebb_integration_free(&p);
  ebb_schedule_free(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_orders), cmocka_unit_test(test_exact_inverts_euler),
      cmocka_unit_test(test_exact_that_does_not_converge), cmocka_unit_test(test_exact_wants_float32),
      cmocka_unit_test(test_labels)};
  return cmocka_run_group_tests_name("integrate", tests, open_context, close_context);
}
