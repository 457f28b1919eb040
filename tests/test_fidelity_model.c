/* tier: weights
 * release only
 * The trained model that ships, there and back: a closed loop falls with the steps as the order of its solver
 * says. */
#include "engine/eval.h"
#include "engine/fidelity.h"
#include "kernels/normal.h"
#include "loaders/json.h"
#include "loaders/safetensors.h"
#include "tests/test_files.h"

#include <math.h>

#define MODEL "models/tiny-wan"
enum { C = 8, T = 3, H = 4, W = 4, STATE = C * T * H * W };

static int64_t text_dim;

static void write_state(const char *path, const char *name, const float *x) {
  ebb_error err = {0};
  const ebb_st_declare t[] = {{name, EBB_F32, 5, {1, C, T, H, W}}, {"text", EBB_F32, 3, {1, 1, text_dim}}};
  static const float text[4096];
  ebb_st_writer *w;
  if (!ebb_st_writer_open(&w, path, t, 2, NULL, 0, &err) ||
      !ebb_st_writer_append(w, x, STATE * sizeof *x, &err) ||
      !ebb_st_writer_append(w, text, (size_t)text_dim * sizeof *text, &err) ||
      !ebb_st_writer_finish(&w, &err))
    fail_msg("%s", err.text);
}

/* The last state of a way: `invert` from a latent, `sample` from a noise. flow-match-euler does not truncate
 * labels. */
static void end_of(const char *op, const char *solver, int steps, const float *from, float *to) {
  ebb_error err = {0};
  ebb_safetensors st;
  write_state(at("in"), strcmp(op, "sample") == 0 ? "noise" : "latents", from);
  const ebb_eval_options e = {.op = op,
                              .model = MODEL,
                              .transformer = "transformer",
                              .in = at("in"),
                              .out = at("out"),
                              .device = "cpu",
                              .dtype = "float32",
                              .steps = steps,
                              .solver = solver,
                              .labels = "matched",
                              .schedule = "flow-match-euler",
                              .guidance = 1};
  if (!ebb_eval(&e, &err) || !ebb_safetensors_open(&st, at("out"), &err) ||
      !ebb_safetensors_read(&st, ebb_safetensors_find(&st, "trajectory"),
                            (uint64_t)steps * STATE * sizeof *to, STATE * sizeof *to, to, &err))
    fail_msg("%s", err.text);
  ebb_safetensors_close(&st);
}

static float generated[STATE]; /* a clean latent that the model made */

static int generate(void **state) {
  ebb_error err = {0};
  float noise[STATE];
  if (folder_make(state) != 0)
    return -1;
  json_t *config = ebb_json_read(MODEL "/transformer/config.json", &err);
  text_dim = ebb_json_int((ebb_json){config, MODEL, &err}, "text_dim", 1, 4096);
  json_decref(config);
  ebb_normals(noise, STATE, 3, 0);
  end_of("sample", "rk4", 64, noise, generated);
  return 0;
}

static double loop_error(const char *solver, int steps) {
  float noise[STATE], back[STATE];
  end_of("invert", solver, steps, generated, noise);
  end_of("sample", solver, steps, noise, back);
  return ebb_distance_of(back, generated, STATE).rel;
}

/* Order 1 for Euler; 3 for the solvers of order 2, whose leading error meets itself with the other sign on
 * the way back. RK4's 5 shows where steps are shorter than the time embedding's shortest wave, and float32
 * ends there. */
static void test_closed_loops_have_their_orders(void **state) {
  (void)state;
  static const struct {
    const char *solver;
    int steps;
    double order, within;
  } cases[] = {{"euler", 128, 1, 0.1}, {"heun", 128, 3, 0.35}, {"midpoint", 128, 3, 0.35}};
  double last = INFINITY;
  for (int i = 0; i < 3; i++) {
    double coarse = loop_error(cases[i].solver, cases[i].steps),
           fine = loop_error(cases[i].solver, 2 * cases[i].steps);
    double order = log2(coarse / fine);
    print_message("  %-8s %d steps %.2e, %d steps %.2e: order %.2f\n", cases[i].solver, cases[i].steps,
                  coarse, 2 * cases[i].steps, fine, order);
    assert_true(fabs(order - cases[i].order) < cases[i].within);
    if (i < 2)
      assert_true(coarse < last / 50);
    last = coarse;
  }
  double coarse = loop_error("rk4", 32), fine = loop_error("rk4", 64);
  print_message("  rk4 32 steps %.2e, 64 steps %.2e: order %.2f\n", coarse, fine, log2(coarse / fine));
  assert_true(log2(coarse / fine) > 3); /* more than any solver of order 2 */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_closed_loops_have_their_orders)};
  return cmocka_run_group_tests_name("fidelity-model", tests, generate, folder_remove);
}
