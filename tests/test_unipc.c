/* tier: host
 * UniPC's weights and its history, where they can be told without a reference; numbers against diffusers'
 * scheduler are in test_fixtures.c (sample-a-unipc-*). */
#include "engine/unipc.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 4 };

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

/* A step keeps x = alpha z + sigma e for every z and e: what it says of alpha z is alpha_t of z, of sigma e
 * sigma_t of e. */
static void test_weights_keep_the_line(void **state) {
  (void)state;
  const double sigma[] = {1, 0.98, 0.7, 0.4, 0.05, 0};
  for (int order = 1; order < 3; order++)
    for (int i = order - 1; i < 5; i++) {
      if (i == 4 && order == 2)
        continue; /* the last step is of order 1: lambda is infinite at its end */
      const ebb_unipc_level p = ebb_unipc_level_at(sigma[i > 0 ? i - 1 : 0]),
                            s = ebb_unipc_level_at(sigma[i]), t = ebb_unipc_level_at(sigma[i + 1]);
      const ebb_unipc_weights w[] = {ebb_unipc_predictor(order, p, s, t),
                                     ebb_unipc_corrector(order, p, s, t)};
      for (int k = 0; k < (i == 4 ? 1 : 2); k++) {
        assert_true(fabs(w[k].state * s.sigma - t.sigma) < 1e-12);
        assert_true(fabs(w[k].state * s.alpha + w[k].now + w[k].last + w[k].new - t.alpha) < 1e-9);
        assert_int_equal(w[k].last != 0, order == 2);
        assert_int_equal(w[k].new != 0, k == 1);
      }
    }
}

/* Levels are what diffusers keeps: float32, never quite 1. */
static void test_levels(void **state) {
  (void)state;
  ebb_unipc_level top = ebb_unipc_level_at(1), clean = ebb_unipc_level_at(0),
                  middle = ebb_unipc_level_at(1.0 / 3);
  assert_true(top.sigma == (double)0.999999f && top.alpha > 0 && isfinite(top.lambda));
  assert_true(clean.alpha == 1 && clean.sigma == 0 && isinf(clean.lambda));
  assert_true(middle.sigma == (double)(1.0f / 3) && fabs(middle.lambda - log(2)) < 1e-6);
}

static const float clean_latent[N] = {0.3f, -1.2f, 0.8f, 2};

/* A model that knows the clean latent: v = (x - z) / sigma. Its label is the plan's. */
static void knows_it(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage) {
  const ebb_integration *plan = user;
  (void)stage;
  double sigma = plan->labels[moment] / 1000;
  for (int i = 0; i < N; i++)
    ((float *)v.data)[i] = (float)(((double)((float *)x.data)[i] - (double)clean_latent[i]) / sigma);
}

/* Then every state is on the straight line to it, whatever the steps; the last is the latent itself. */
static void test_a_known_latent_is_reached_along_the_line(void **state) {
  (void)state;
  for (int steps = 1; steps < 30; steps += 4) {
    ebb_error err = {0};
    ebb_schedule s;
    ebb_integration plan;
    ebb_unipc u;
    assert_true(ebb_schedule_make(&s, EBB_FLOW_MATCH_EULER, steps, 3,
                                  &err)); /* sigma[0] is 1, labels not truncated */
    assert_true(ebb_integration_named(&plan, &s, "unipc", "matched", true, &err));
    const float noise[N] = {1, -0.5f, 0.25f, -2};
    float x[N];
    memcpy(x, noise, sizeof x);
    ebb_tensor t = EBB_TENSOR(x, EBB_F32, EBB_HOST, "x", 1, N);
    ebb_unipc_open(&u, &context, t);
    for (int i = 0; i < steps; i++) {
      assert_int_equal(ebb_unipc_step(&u, &context, &plan, i, t, knows_it, &plan), 1);
      assert_int_equal(u.order, i == 0 || i == steps - 1 ? 1 : 2);
      const double sigma = plan.sigma[i + 1];
      for (int k = 0; k < N; k++)
        assert_true(fabs((double)x[k] - (sigma * (double)noise[k] + (1 - sigma) * (double)clean_latent[k])) <
                    2e-5);
    }
    assert_true(ebb_context_ok(&context, &err));
    ebb_arena_release(&context.activations, 0);
    ebb_integration_free(&plan);
    ebb_schedule_free(&s);
  }
}

/* It has no way back, and says why before anything runs. */
static void test_it_does_not_invert(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_schedule s;
  ebb_integration plan;
  assert_true(ebb_schedule_make(&s, EBB_UNIPC, 5, 3, &err));
  assert_false(ebb_integration_named(&plan, &s, "unipc", "matched", false, &err));
  assert_non_null(strstr(err.text, "which an inversion has yet to find"));
  err = (ebb_error){0};
  assert_false(ebb_solver_takes("inversion.solver", "unipc", "model.dtype", "float32", &err));
  assert_non_null(
      strstr(err.text, "inversion.solver: found unipc, expected euler, heun, midpoint, rk4 or exact"));
  ebb_schedule_free(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_weights_keep_the_line),
                                     cmocka_unit_test(test_levels),
                                     cmocka_unit_test(test_a_known_latent_is_reached_along_the_line),
                                     cmocka_unit_test(test_it_does_not_invert)};
  return cmocka_run_group_tests_name("unipc", tests, open_context, close_context);
}
