/* tier: weights
 * release only
 * Reconstruction by the trained model that ships: how far it stays below the VAE's ceiling, and that the
 * solver and the labels decide it. */
#include "engine/reconstruct.h"

#include "loaders/file.h"
#include "loaders/synth.h"
#include "tests/test_files.h"

#include <math.h>

static ebb_reconstruction reconstruct(const char *solver, const char *labels) {
  ebb_config k;
  ebb_error err = {{0}};
  ebb_job_result result;
  ebb_reconstruction s;
  FILE *quiet = fopen("/dev/null", "w");
  ebb_config_defaults(&k);
  strcpy(k.model.path, "models/tiny-wan");
  snprintf(k.data.path, sizeof k.data.path, "%s/data", folder);
  snprintf(k.run.out, sizeof k.run.out, "%s/%s-%s", folder, solver, labels);
  strcpy(k.inversion.solver, solver);
  strcpy(k.inversion.labels, labels);
  strcpy(k.generate.write, "png");
  strcpy(k.run.device, "cpu");
  k.data.height = k.data.width = 64;
  k.data.frames = 33;
  k.prompt.max_tokens = 1;
  k.inversion.steps = 8;
  k.run.batch = 4;
  const ebb_job_options options = {.version = "test", .log = quiet};
  if (!ebb_reconstruct(&k, &options, &result, &s, &err))
    fail_msg("%s", err.text);
  fclose(quiet);
  assert_int_equal(s.videos, 4);
  return s;
}

static void the_better_the_solver_the_smaller_the_gap(void **state) {
  (void)state;
  ebb_error err = {{0}};
  const ebb_synth_options world = {5, 64, 33};
  if (!ebb_synth_intphys(at("data"), "O3", 1, &world, &err))
    fail_msg("%s", err.text);
  const ebb_reconstruction euler = reconstruct("euler", "noisy"), heun = reconstruct("heun", "matched");
  print_message("ceiling %.2f dB %.4f, heun matched %.2f dB %.4f, euler noisy %.2f dB %.4f\n",
                euler.ceiling.psnr, euler.ceiling.ssim, heun.made.psnr, heun.made.ssim, euler.made.psnr,
                euler.made.ssim);
  assert_true(heun.ceiling.psnr == euler.ceiling.psnr && heun.ceiling.ssim == euler.ceiling.ssim);
  assert_true(heun.ceiling.psnr > 35 && heun.ceiling.ssim > 0.97);
  assert_true(heun.made.psnr < heun.ceiling.psnr && heun.made.ssim < heun.ceiling.ssim);
  assert_true(heun.made.psnr > euler.made.psnr + 1);
  assert_true(heun.made.ssim > euler.made.ssim);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_better_the_solver_the_smaller_the_gap)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
