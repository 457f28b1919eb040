/* tier: weights
 * release only
 * The trained model that ships: a movie drawn from noise by forward Euler steps is taken back to the same noise by the exact inverse,
 * state by state; the plain reverse Euler step does not get there. */
#include "engine/eval.h"
#include "kernels/random.h"
#include "loaders/json.h"
#include "loaders/safetensors.h"
#include "tests/test_files.h"

#include <math.h>

#define MODEL "models/tiny-wan"
enum { STEPS = 100, C = 8, T = 9, H = 8, W = 8, STATE = C * T * H * W };

static void write_tensors(const char *path, const char *latents, const float *x, int64_t text_dim) {
  ebb_error err = {0};
  const ebb_st_declare t[] = {{latents, EBB_F32, 5, {1, C, T, H, W}}, {"text", EBB_F32, 3, {1, 1, text_dim}}};
  float text[4096] = {0};
  ebb_st_writer *w;
  if (!ebb_st_writer_open(&w, path, t, 2, NULL, 0, &err) ||
      !ebb_st_writer_append(w, x, STATE * sizeof *x, &err) ||
      !ebb_st_writer_append(w, text, (size_t)text_dim * sizeof *text, &err) ||
      !ebb_st_writer_finish(&w, &err))
    fail_msg("%s", err.text);
}

static float *read_trajectory(const char *path) {
  ebb_error err = {0};
  ebb_safetensors st;
  float *x = malloc((STEPS + 1) * STATE * sizeof *x);
  if (!ebb_safetensors_open(&st, path, &err) ||
      !ebb_safetensors_read_f32(&st, ebb_safetensors_find(&st, "trajectory"), x, &err))
    fail_msg("%s", err.text);
  ebb_safetensors_close(&st);
  return x;
}

static float *evaluate(const char *op, const char *solver, const char *in) {
  ebb_error err = {0};
  const ebb_eval_options e = {.op = op,
                              .model = MODEL,
                              .transformer = "transformer",
                              .in = in,
                              .out = at("out"),
                              .device = "cpu",
                              .dtype = "float32",
                              .steps = STEPS,
                              .solver = solver,
                              .labels = "noisy",
                              .schedule = "auto",
                              .guidance = 1};
  if (!ebb_eval(&e, &err))
    fail_msg("%s", err.text);
  return read_trajectory(at("out"));
}

static double relative_distance(const float *a, const float *b) {
  double d = 0, n = 0;
  for (int i = 0; i < STATE; i++) {
    d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    n += (double)b[i] * b[i];
  }
  return sqrt(d / n);
}

static void test_exact_inverts_forward_euler(void **state) {
  (void)state;
  ebb_error err = {0};
  json_t *config = ebb_json_read(MODEL "/transformer/config.json", &err);
  assert_non_null(config);
  int64_t text_dim = ebb_json_int((ebb_json){config, MODEL, &err}, "text_dim", 1, 4096);
  json_decref(config);
  float noise[STATE];
  for (int i = 0; i < STATE; i++) {
    double u = ebb_random_uniform(11, 0, (uint64_t)i), v = ebb_random_uniform(11, 1, (uint64_t)i);
    noise[i] = (float)(sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
  }
  write_tensors(at("noise"), "noise", noise, text_dim);
  float *forward = evaluate("sample", "euler", at("noise"));
  write_tensors(at("clean"), "latents", forward + STEPS * STATE, text_dim);
  float *exact = evaluate("invert", "exact", at("clean")), *euler = evaluate("invert", "euler", at("clean"));
  double worst = 0;
  for (int i = 0; i <= STEPS; i++) {
    double d = relative_distance(exact + i * STATE, forward + (STEPS - i) * STATE);
    worst = d > worst ? d : worst;
  }
  double plain = relative_distance(euler + STEPS * STATE, forward);
  print_message("  exact: worst state %.1e from the forward path; reverse Euler ends %.2f from the noise\n",
                worst, plain);
  assert_true(worst <= 1e-5);
  assert_true(plain > 1e-2);
  free(forward);
  free(exact);
  free(euler);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact_inverts_forward_euler)};
  return cmocka_run_group_tests_name("tiny-wan", tests, folder_make, folder_remove);
}
