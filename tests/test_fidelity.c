/* tier: host
 * What fidelity measures, on fields whose flow is known: v = A z in closed form, so that orders, residuals
 * and error estimates have values of their own; distances and noise statistics against numbers worked out by
 * hand. */
#include "engine/fidelity.h"
#include "kernels/normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 4, MOST = 257 }; /* numbers in a state; states of a path */

static ebb_context context;

static int open_context(void **state) {
  (void)state;
  ebb_error err = {0};
  return ebb_context_open(&context, "cpu", &err) &&
                 ebb_context_reserve(&context, EBB_ACTIVATIONS, 1 << 16, &err)
             ? 0
             : -1;
}

static int close_context(void **state) {
  (void)state;
  ebb_context_close(&context);
  return 0;
}

/* ---- the field: two planes, each turned and stretched ---------------------------------------------------
 */

static const double turn[2] = {4, 2.5}, stretch[2] = {0.3, -0.4};

/* A z, z of two planes. */
static void apply(const double *z, double *v) {
  for (int p = 0; p < 2; p++) {
    v[2 * p] = stretch[p] * z[2 * p] - turn[p] * z[2 * p + 1];
    v[2 * p + 1] = turn[p] * z[2 * p] + stretch[p] * z[2 * p + 1];
  }
}

/* exp(A s) z */
static void flow(const double *z, double s, double *to) {
  for (int p = 0; p < 2; p++) {
    double grown = exp(stretch[p] * s), c = cos(turn[p] * s), d = sin(turn[p] * s);
    to[2 * p] = grown * (c * z[2 * p] - d * z[2 * p + 1]);
    to[2 * p + 1] = grown * (d * z[2 * p] + c * z[2 * p + 1]);
  }
}

static void linear(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage) {
  (void)user;
  (void)moment;
  (void)stage;
  for (int64_t b = 0; b < ebb_count(x) / N; b++) {
    double z[N], w[N];
    for (int i = 0; i < N; i++)
      z[i] = (double)((float *)x.data)[b * N + i];
    apply(z, w);
    for (int i = 0; i < N; i++)
      ((float *)v.data)[b * N + i] = (float)w[i];
  }
}

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

static ebb_integration plan_of(const ebb_schedule *s, ebb_solver solver, bool generate) {
  ebb_error err = {0};
  ebb_integration plan;
  if (!ebb_integration_make(&plan, s, solver, EBB_MATCHED, generate, &err))
    fail_msg("%s", err.text);
  return plan;
}

static void walk(void *user, int first, int count, ebb_tensor x) {
  const ebb_integration *plan = user;
  for (int i = first; i < first + count; i++)
    ebb_integrate(&context, plan, i, x, linear, NULL, NULL);
}

static const float start[2 * N] = {1, -0.5f, 0.7f, 0.2f, -0.3f, 0.9f, 0.1f, -1.1f};

/* Every state [steps+1][2 samples] of a plan, in its order. */
static void path_of(const ebb_integration *plan, const float *from, float *states) {
  ebb_error err = {0};
  float x[2 * N];
  memcpy(x, from, sizeof x);
  memcpy(states, x, sizeof x);
  ebb_tensor t = EBB_TENSOR(x, EBB_F32, EBB_HOST, "x", 2, N);
  for (int i = 0; i < plan->steps; i++) {
    walk((void *)plan, i, 1, t);
    memcpy(states + (i + 1) * 2 * N, x, sizeof x);
  }
  assert_true(ebb_context_ok(&context, &err));
}

/* ---- orders ------------------------------------------------------------------------------------------- */

/* Distance of the end of an inversion from the exact flow; and of a generation of its end from where it
 * began. */
static void errors_of(ebb_solver solver, int steps, double *end, double *loop) {
  ebb_schedule s = uniform(steps);
  ebb_integration there = plan_of(&s, solver, false), back = plan_of(&s, solver, true);
  static float up[MOST * 2 * N], down[MOST * 2 * N];
  path_of(&there, start, up);
  path_of(&back, up + steps * 2 * N, down);
  float truth[2 * N];
  for (int b = 0; b < 2; b++) {
    double z[N], to[N];
    for (int i = 0; i < N; i++)
      z[i] = (double)start[b * N + i];
    flow(z, 1, to);
    for (int i = 0; i < N; i++)
      truth[b * N + i] = (float)to[i];
  }
  *end = ebb_distance_of(up + steps * 2 * N, truth, 2 * N).rel;
  *loop = ebb_distance_of(down + steps * 2 * N, start, 2 * N).rel;
  ebb_integration_free(&there);
  ebb_integration_free(&back);
  ebb_schedule_free(&s);
}

/* Orders 1, 2, 2 and 4. There and back again, the leading error of an even order meets itself with the other
 * sign and is gone: 3, 3 and 5. All within 5 %. */
static void test_orders_of_a_linear_field(void **state) {
  (void)state;
  static const struct {
    ebb_solver solver;
    int steps;
    double order, loop_order;
  } cases[] = {{EBB_EULER, 128, 1, 1}, {EBB_HEUN, 32, 2, 3}, {EBB_MIDPOINT, 32, 2, 3}, {EBB_RK4, 8, 4, 5}};
  for (int i = 0; i < 4; i++) {
    double end[2], loop[2];
    for (int fine = 0; fine < 2; fine++)
      errors_of(cases[i].solver, cases[i].steps << fine, &end[fine], &loop[fine]);
    double order = log2(end[0] / end[1]), loop_order = log2(loop[0] / loop[1]);
    print_message("  solver %d: end %.2e -> %.2e, order %.3f; loop %.2e -> %.2e, order %.3f\n",
                  (int)cases[i].solver, end[0], end[1], order, loop[0], loop[1], loop_order);
    assert_true(fabs(order / cases[i].order - 1) < 0.05);
    assert_true(fabs(loop_order / cases[i].loop_order - 1) < 0.05);
  }
}

/* ---- labels ------------------------------------------------------------------------------------------- */

/* v = (1 + sin(3 s) / 2) A z with s = label / 1000: the flow of A over 1 + (1 - cos 3) / 6. */
static void told_by_label(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage) {
  const ebb_integration *plan = user;
  const double s = plan->labels[moment] / 1000;
  linear(NULL, v, x, moment, stage);
  for (int64_t i = 0; i < ebb_count(v); i++)
    ((float *)v.data)[i] *= (float)(1 + sin(3 * s) / 2);
}

static double labelled_error(ebb_solver solver, ebb_labels labels, int steps) {
  ebb_error err = {0};
  ebb_schedule s = uniform(steps);
  ebb_integration plan;
  assert_true(ebb_integration_make(&plan, &s, solver, labels, false, &err));
  float x[N], truth[N];
  double z[N], to[N];
  for (int i = 0; i < N; i++)
    z[i] = (double)(x[i] = start[i]);
  flow(z, 1 + (1 - cos(3)) / 6, to);
  for (int i = 0; i < N; i++)
    truth[i] = (float)to[i];
  for (int i = 0; i < steps; i++)
    ebb_integrate(&context, &plan, i, EBB_TENSOR(x, EBB_F32, EBB_HOST, "x", 1, N), told_by_label, &plan,
                  NULL);
  ebb_integration_free(&plan);
  ebb_schedule_free(&s);
  return ebb_distance_of(x, truth, N).rel;
}

/* Defect 5: the released inversion tells the model the label of the next state, and Heun's second stage that
 * of the one after, which leaves it no better than Euler's order. `matched` tells each stage its own; `noisy`
 * is there by name. */
static void defect_05_labels_are_of_the_state(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_schedule s;
  assert_true(ebb_schedule_make(&s, EBB_UNIPC, 100, 3, &err));
  for (int noisy = 0; noisy < 2; noisy++) {
    ebb_integration plan;
    assert_true(ebb_integration_named(&plan, &s, "heun", noisy ? "noisy" : "matched", false, &err));
    for (int i = 0; i + 2 < 100; i++) {
      assert_true(plan.labels[plan.step[i].moment[0]] == s.label[i + noisy]);
      assert_true(plan.labels[plan.step[i].moment[1]] == s.label[i + 1 + noisy]);
    }
    ebb_integration_free(&plan);
  }
  ebb_schedule_free(&s);
  double matched =
      log2(labelled_error(EBB_HEUN, EBB_MATCHED, 32) / labelled_error(EBB_HEUN, EBB_MATCHED, 64));
  double noisy = log2(labelled_error(EBB_HEUN, EBB_NOISY, 1024) / labelled_error(EBB_HEUN, EBB_NOISY, 2048));
  print_message("  heun: order %.3f, told the next label %.3f\n", matched, noisy);
  assert_true(fabs(matched / 2 - 1) < 0.05 && fabs(noisy - 1) < 0.1);
}

static double relative_gap(const float *a, const float *b, int64_t n) {
  return ebb_distance_of(a, b, n).rel;
}

/* REFERENCE 4.1: the fixed point returns the forward path, every state of it; the plain reverse does not. */
static void test_fixed_point_returns_the_forward_path(void **state) {
  (void)state;
  enum { STEPS = 50 };
  ebb_schedule s = uniform(STEPS);
  ebb_integration forward = plan_of(&s, EBB_EULER, true), exact = plan_of(&s, EBB_EXACT, false),
                  euler = plan_of(&s, EBB_EULER, false);
  static float there[MOST * 2 * N], back[MOST * 2 * N], plain[MOST * 2 * N];
  path_of(&forward, start, there);
  path_of(&exact, there + STEPS * 2 * N, back);
  path_of(&euler, there + STEPS * 2 * N, plain);
  for (int k = 0; k <= STEPS; k++)
    assert_true(relative_gap(back + k * 2 * N, there + (STEPS - k) * 2 * N, 2 * N) < 1e-5);
  assert_true(relative_gap(plain + STEPS * 2 * N, start, 2 * N) > 1e-2);
  ebb_integration_free(&forward);
  ebb_integration_free(&exact);
  ebb_integration_free(&euler);
  ebb_schedule_free(&s);
}

/* ---- what a step is worth ------------------------------------------------------------------------------ */

/* rms of h^2 A^2 z over the deviation of z. */
static double second_order(const float *z32, double h) {
  double z[N], v[N], w[N], sum = 0;
  for (int i = 0; i < N; i++)
    z[i] = (double)z32[i];
  apply(z, v);
  apply(v, w);
  for (int i = 0; i < N; i++)
    sum += w[i] * w[i];
  return h * h * sqrt(sum / N);
}

typedef struct measured {
  double residual[2 * MOST], local[2 * MOST];
  float states[MOST * 2 * N];
} measured;

static void measure(ebb_solver solver, int steps, const bool *wanted, measured *m) {
  ebb_error err = {0};
  ebb_schedule s = uniform(steps), fine;
  assert_true(ebb_schedule_halve(&s, &fine, &err));
  ebb_integration plan = plan_of(&s, solver, false), euler = plan_of(&s, EBB_EULER, true),
                  halves = plan_of(&fine, solver, false);
  float x[2 * N];
  path_of(&plan, start, m->states);
  const ebb_path path = {&context, m->states, steps, EBB_TENSOR(x, EBB_F32, EBB_HOST, "x", 2, N)};
  if (!ebb_implicit_residuals(&path, &(ebb_way){&euler, walk, &euler}, wanted, m->residual, &err) ||
      !ebb_local_errors(&path, &(ebb_way){&halves, walk, &halves}, ebb_solver_order(solver, EBB_MATCHED),
                        wanted, m->local, &err))
    fail_msg("%s", err.text);
  ebb_integration_free(&plan);
  ebb_integration_free(&euler);
  ebb_integration_free(&halves);
  ebb_schedule_free(&s);
  ebb_schedule_free(&fine);
}

/* (1 - hA)(1 + hA) z = z - h^2 A^2 z: the residual of an explicit reverse step. Two half steps less a whole
 * one are h^2 A^2 z / 4, twice that is the error of the whole step to leading order. */
static void test_residuals_and_local_errors_of_euler(void **state) {
  (void)state;
  enum { STEPS = 100 };
  static measured m;
  const double h = 1.0 / STEPS;
  measure(EBB_EULER, STEPS, NULL, &m);
  for (int k = 0; k < STEPS; k++)
    for (int b = 0; b < 2; b++) {
      const float *z = m.states + (2 * k + b) * N, *next = z + 2 * N;
      double residual = second_order(z, h) / ebb_deviation(z, N);
      double local = second_order(z, h) / 2 / ebb_deviation(next, N);
      assert_true(fabs(m.residual[2 * k + b] / residual - 1) < 2e-3);
      assert_true(fabs(m.local[2 * k + b] / local - 1) < 2e-3);
    }
}

/* The estimate of every solver against the error that its step has: one step from a state on the exact flow.
 */
static void test_local_errors_are_the_errors_of_steps(void **state) {
  (void)state;
  static const struct {
    ebb_solver solver;
    int steps;
  } cases[] = {{EBB_EULER, 40}, {EBB_HEUN, 16}, {EBB_MIDPOINT, 16}, {EBB_RK4, 6}};
  for (int i = 0; i < 4; i++) {
    static measured m;
    measure(cases[i].solver, cases[i].steps, NULL, &m);
    double z[N], to[N];
    float truth[N];
    for (int k = 0; k < N; k++)
      z[k] = (double)start[k];
    flow(z, 1.0 / cases[i].steps, to);
    for (int k = 0; k < N; k++)
      truth[k] = (float)to[k];
    double is = ebb_distance_of(m.states + 2 * N, truth, N).rmse / ebb_deviation(m.states + 2 * N, N);
    print_message("  solver %d: estimated %.3e, is %.3e\n", (int)cases[i].solver, m.local[0], is);
    assert_true(fabs(m.local[0] / is - 1) < 0.05);
  }
}

static void test_residual_of_the_fixed_point_is_zero(void **state) {
  (void)state;
  static measured euler, exact;
  measure(EBB_EULER, 50, NULL, &euler);
  measure(EBB_EXACT, 50, NULL, &exact);
  for (int i = 0; i < 100; i++) {
    assert_true(exact.residual[i] < 1e-5);
    assert_true(euler.residual[i] > 1e-3);
  }
}

static void test_only_wanted_steps_are_measured(void **state) {
  (void)state;
  static measured m;
  bool wanted[10] = {[3] = true, [9] = true};
  for (int i = 0; i < 20; i++)
    m.residual[i] = m.local[i] = -1;
  measure(EBB_HEUN, 10, wanted, &m);
  for (int i = 0; i < 20; i++) {
    assert_int_equal(m.residual[i] >= 0, wanted[i / 2]);
    assert_int_equal(m.local[i] >= 0, wanted[i / 2]);
  }
}

static void test_halved_schedule(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_schedule s, fine;
  assert_true(ebb_schedule_make(&s, EBB_UNIPC, 7, 3, &err) && ebb_schedule_halve(&s, &fine, &err));
  assert_int_equal(fine.steps, 14);
  for (int i = 0; i <= 14; i++) {
    assert_true(fine.sigma[i] == (s.sigma[i / 2] + s.sigma[(i + 1) / 2]) / 2);
    assert_true(i % 2 || fine.label[i] == s.label[i / 2]);
    assert_true(i == 0 || (fine.sigma[i] > fine.sigma[i - 1] && fine.label[i] > fine.label[i - 1]));
  }
  ebb_schedule_free(&s);
  ebb_schedule_free(&fine);
}

static void test_order_that_labels_leave(void **state) {
  (void)state;
  assert_int_equal(ebb_solver_order(EBB_EULER, EBB_MATCHED), 1);
  assert_int_equal(ebb_solver_order(EBB_HEUN, EBB_MATCHED), 2);
  assert_int_equal(ebb_solver_order(EBB_RK4, EBB_MATCHED), 4);
  assert_int_equal(ebb_solver_order(EBB_EXACT, EBB_MATCHED), 1);
  assert_int_equal(ebb_solver_order(EBB_HEUN, EBB_NOISY), 1);
}

/* ---- distances ------------------------------------------------------------------------------------------
 */

static void test_distances(void **state) {
  (void)state;
  const float a[] = {1, 2, 3, 4}, b[] = {1, 2, 3, 6}, far[] = {1001, 1002, 1003, 1006};
  ebb_distance d = ebb_distance_of(a, b, 4);
  assert_true(fabs(d.rmse - 1) < 1e-12);            /* one number is off by 2: sqrt(4 / 4) */
  assert_true(fabs(d.rel - 1 / sqrt(3.5)) < 1e-12); /* variance of b: (4 + 1 + 0 + 9) / 4 */
  assert_true(fabs(d.cos - 38 / sqrt(30.0 * 50)) < 1e-12);
  assert_true(fabs(ebb_deviation(far, 4) - sqrt(3.5)) < 1e-9); /* deviation knows no offset */
  const float zero[4] = {0};
  assert_true(isnan(ebb_cosine(a, zero, 4)));
}

/* What is compared with itself is exactly alike: attention maps of a trajectory held against the same
 * trajectory. */
static void test_a_map_and_itself_are_exactly_alike(void **state) {
  (void)state;
  float map[30 * 30];
  for (int trial = 0; trial < 2000; trial++) {
    const int n = 1 + trial % 900;
    ebb_normals(map, n, 7, (uint64_t)trial);
    for (int i = 0; i < n; i++)
      map[i] = expf((float)(trial % 9) * map[i]);
    ebb_distance d = ebb_distance_of(map, map, n);
    assert_true(d.cos == 1 && d.rmse == 0 && ebb_cosine(map, map, n) == 1);
  }
}

/* ---- noise ----------------------------------------------------------------------------------------------
 */

enum { C = 3, T = 5, H = 12, W = 10, VIDEO = T * H * W };

static void test_drawn_noise_is_normal(void **state) {
  (void)state;
  static float x[C * VIDEO], again[C * VIDEO];
  ebb_error err = {0};
  ebb_noise_statistics all, channel[C];
  ebb_normals(x, C * VIDEO, 1, 2);
  ebb_normals(again, C * VIDEO, 1, 2);
  assert_memory_equal(x, again, sizeof x);
  assert_true(ebb_noise_statistics_of(x, C, T, H, W, &all, channel, &err));
  const double n = C * VIDEO, sigma = 1 / sqrt(n); /* 4 standard errors, at a seed that is fixed */
  assert_true(fabs(all.mean) < 4 * sigma && fabs(all.std - 1) < 4 * sigma / sqrt(2));
  assert_true(fabs(all.skew) < 4 * sigma * sqrt(6) && fabs(all.kurtosis) < 4 * sigma * sqrt(24));
  assert_true(all.ks > 0 && all.ks < 1.95 * sigma); /* 0.1 % point of Kolmogorov's distribution */
  assert_true(fabs(all.frames_lag) < 0.1 && fabs(all.rows_lag) < 0.1 && fabs(all.columns_lag) < 0.1);
  double mean = 0;
  for (int c = 0; c < C; c++)
    mean += channel[c].mean / C;
  assert_true(fabs(mean - all.mean) < 1e-12);
}

static void test_noise_that_is_none(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_noise_statistics s;
  const float one[] = {0};
  assert_true(ebb_noise_statistics_of(one, 1, 1, 1, 1, &s, NULL, &err));
  assert_true(s.ks == 0.5 && isnan(s.frames_lag) && isnan(s.columns_lag));
  const float low[] = {-10}, high[] = {10};
  assert_true(ebb_noise_statistics_of(low, 1, 1, 1, 1, &s, NULL, &err) && fabs(s.ks - 1) < 1e-9);
  assert_true(ebb_noise_statistics_of(high, 1, 1, 1, 1, &s, NULL, &err) && fabs(s.ks - 1) < 1e-9);
  const float rows[] = {1, -1, -1,
                        1, 1,  -1}; /* three rows of two: neighbours differ, and no row goes on in the next */
  assert_true(ebb_noise_statistics_of(rows, 1, 1, 3, 2, &s, NULL, &err));
  assert_true(fabs(s.columns_lag + 1) < 1e-12 && fabs(s.rows_lag + 1) < 1e-12 && isnan(s.frames_lag));
  static float x[VIDEO];
  for (int i = 0; i < VIDEO; i++)
    x[i] =
        i < VIDEO / 5 ? 5 : 0; /* one in five: skew (1 - 2p)/sqrt(pq) = 1.5, excess (1 - 6pq)/(pq) = 0.25 */
  assert_true(ebb_noise_statistics_of(x, 1, 1, 1, VIDEO, &s, NULL, &err));
  assert_true(fabs(s.mean - 1) < 1e-12 && fabs(s.std - 2) < 1e-12);
  assert_true(fabs(s.skew - 1.5) < 1e-12 && fabs(s.kurtosis - 0.25) < 1e-12);
  assert_true(fabs(s.ks - 0.5) < 1e-3); /* at 0: from nothing to 0.8, against a half */
}

/* A sum of two neighbours along one axis is correlated by a half along it, and not along the others. */
static void test_autocorrelation_by_axis(void **state) {
  (void)state;
  enum { S = 24 };
  static float e[(S + 1) * (S + 1) * (S + 1)], x[S * S * S];
  static const int step[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
  ebb_normals(e, (S + 1) * (S + 1) * (S + 1), 3, 3);
  for (int axis = 0; axis < 3; axis++) {
    for (int t = 0; t < S; t++)
      for (int h = 0; h < S; h++)
        for (int w = 0; w < S; w++)
          x[(t * S + h) * S + w] =
              e[(t * (S + 1) + h) * (S + 1) + w] +
              e[((t + step[axis][0]) * (S + 1) + h + step[axis][1]) * (S + 1) + w + step[axis][2]];
    ebb_error err = {0};
    ebb_noise_statistics s;
    assert_true(ebb_noise_statistics_of(x, 1, S, S, S, &s, NULL, &err));
    const double lags[3] = {s.frames_lag, s.rows_lag, s.columns_lag};
    for (int k = 0; k < 3; k++)
      assert_true(fabs(lags[k] - (k == axis ? 0.5 : 0)) < 0.05);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_orders_of_a_linear_field),
                                     cmocka_unit_test(defect_05_labels_are_of_the_state),
                                     cmocka_unit_test(test_fixed_point_returns_the_forward_path),
                                     cmocka_unit_test(test_residuals_and_local_errors_of_euler),
                                     cmocka_unit_test(test_local_errors_are_the_errors_of_steps),
                                     cmocka_unit_test(test_residual_of_the_fixed_point_is_zero),
                                     cmocka_unit_test(test_only_wanted_steps_are_measured),
                                     cmocka_unit_test(test_halved_schedule),
                                     cmocka_unit_test(test_order_that_labels_leave),
                                     cmocka_unit_test(test_distances),
                                     cmocka_unit_test(test_a_map_and_itself_are_exactly_alike),
                                     cmocka_unit_test(test_drawn_noise_is_normal),
                                     cmocka_unit_test(test_noise_that_is_none),
                                     cmocka_unit_test(test_autocorrelation_by_axis)};
  return cmocka_run_group_tests_name("fidelity", tests, open_context, close_context);
}
