/* tier: host
 * The sets that a run keeps of one transformer: both branches of guidance, and latents noised forward in place of
 * inverted ones. */
#include "engine/edit.h"
#include "engine/job.h"
#include "kernels/normal.h"
#include "loaders/file.h"
#include "loaders/safetensors.h"
#include "loaders/store.h"
#include "loaders/synth.h"
#include "tests/test_files.h"

#include <math.h>

#define MODEL "tests/fixtures/models/wan-a"
enum { TEXT = 24, TOKENS = 2, WIDTH = 60, BLOCKS = 2, C = 8, LATENT = 3 * 4 * 4 };
static FILE *quiet;

static int make_data(void **state) {
  ebb_error err = {0};
  const ebb_synth_options world = {3, 32, 9};
  quiet = fopen("/dev/null", "w");
  return folder_make(state) == 0 && quiet && ebb_synth_intphys(at("data"), "O1", 2, &world, &err) ? 0 : -1;
}

static int remove_data(void **state) {
  fclose(quiet);
  return folder_remove(state);
}

static ebb_config config_for(const char *out) {
  ebb_config k;
  ebb_config_defaults(&k);
  strcpy(k.model.path, MODEL);
  snprintf(k.data.path, sizeof k.data.path, "%s", at("data"));
  k.data.height = k.data.width = 32;
  k.data.frames = 9;
  k.prompt.max_tokens = TOKENS;
  k.inversion.steps = 4;
  k.capture.steps = (ebb_int_list){2, {0, 3}};
  k.capture.points = (ebb_name_list){2, {"block_out", "latent"}};
  k.run.batch = 3;
  strcpy(k.run.device, "cpu");
  snprintf(k.run.out, sizeof k.run.out, "%s", at(out));
  return k;
}

static ebb_store run(const ebb_config *k) {
  ebb_error err = {0};
  ebb_job_result result;
  ebb_store s;
  const ebb_job_options options = {.version = "test", .log = quiet};
  if (!ebb_job_invert(k, &options, &result, &err) || !ebb_store_open(&s, k->run.out, &err))
    fail_msg("%s", err.text);
  assert_int_equal(result.videos, 8);
  assert_int_equal(result.failed, 0);
  return s;
}

/* All of one feature at one step: [videos, blocks, width], or [videos, width]. */
static float *features(const ebb_store *s, const char *model, const char *name, int step) {
  ebb_error err = {0};
  const int set = ebb_store_find(s, model);
  if (set < 0)
    fail_msg("no set %s", model);
  const int f = ebb_store_feature(&s->sets[set], name);
  assert_true(f >= 0);
  const ebb_feature *feature = &s->sets[set].features[f];
  const int blocks = feature->by_block ? s->sets[set].block_count : 1;
  const int64_t width = ebb_store_width(feature);
  float *x = malloc((size_t)(s->video_count * blocks * width) * sizeof *x);
  for (int64_t v = 0; v < s->video_count; v++)
    for (int b = 0; b < blocks; b++)
      if (!ebb_store_gather(s, set, f, step, b, EBB_ALL_HEADS, 1, &v, x + (v * blocks + b) * width, &err))
        fail_msg("%s", err.text);
  return x;
}

static void same(const ebb_store *a, const char *in_a, const ebb_store *b, const char *in_b, const char *name,
                 int step, bool expected) {
  float *x = features(a, in_a, name, step), *y = features(b, in_b, name, step);
  const size_t bytes = 8 * sizeof *x * (strcmp(name, "latent.mean") == 0 ? C : BLOCKS * WIDTH);
  if ((memcmp(x, y, bytes) == 0) != expected)
    fail_msg("%s of %s and %s at step %d: %s bytes", name, in_a, in_b, step, expected ? "other" : "the same");
  free(x);
  free(y);
}

/* A prompt that is not zeros. */
static const char *write_prompt(void) {
  ebb_error err = {0};
  const char *path = at("prompt.safetensors");
  float text[TOKENS * TEXT];
  for (int i = 0; i < TOKENS * TEXT; i++)
    text[i] = (float)sin(1.9 * i);
  const ebb_st_declare t[] = {{"text", EBB_F32, 3, {1, TOKENS, TEXT}}};
  ebb_st_writer *w;
  if (!ebb_st_writer_open(&w, path, t, 1, NULL, 0, &err) ||
      !ebb_st_writer_append(w, text, sizeof text, &err) || !ebb_st_writer_finish(&w, &err))
    fail_msg("%s", err.text);
  return path;
}

/* The official hooks store the branch that came last, the unconditional one, under the prompt's name. Here the prompt's
 * set is what the prompt alone gives at the clean latent, where guidance has not yet moved the state, and the negative's
 * what the negative alone gives; further on both depend on guidance. */
static void test_defect_04_guidance_keeps_both_branches_apart(void **state) {
  (void)state;
  ebb_config guided = config_for("guided"), prompt = config_for("prompt"), negative = config_for("negative");
  snprintf(guided.prompt.embedding, sizeof guided.prompt.embedding, "%s", write_prompt());
  strcpy(prompt.prompt.embedding, guided.prompt.embedding);
  strcpy(guided.prompt.negative_embedding, "zeros");
  guided.inversion.guidance = 3;
  ebb_store g = run(&guided), p = run(&prompt), n = run(&negative);
  same(&g, "transformer", &p, "transformer", "block_out.mean", 0, true);
  same(&g, "transformer.negative", &n, "transformer", "block_out.mean", 0, true);
  same(&g, "transformer", &g, "transformer.negative", "block_out.mean", 0, false);
  same(&g, "transformer", &p, "transformer", "block_out.mean", 1, false);
  same(&g, "transformer", &g, "transformer.negative", "block_out.mean", 1, false);
  same(&g, "transformer", &g, "transformer.negative", "latent.mean", 1, true); /* one state, seen twice */
  ebb_store_close(&g);
  ebb_store_close(&p);
  ebb_store_close(&n);
}

/* The mean over tokens of (1 - sigma) z + sigma eps, eps as the header of edit.h keys it, from the VAE's own set. */
static void test_noised_latents_are_the_formula(void **state) {
  (void)state;
  ebb_config k = config_for("noise");
  strcpy(k.inversion.method, "noise");
  k.inversion.seed = 11;
  ebb_store s = run(&k);
  assert_int_equal(ebb_store_find(&s, "transformer"), -1);
  const ebb_feature_set *set = &s.sets[ebb_store_find(&s, "transformer.noise")];
  float *z = features(&s, "vae", "latent.mean", 0);
  for (int step = 0; step < 2; step++) {
    const double sigma = set->sigmas[step];
    float *x = features(&s, "transformer.noise", "latent.mean", step);
    assert_true(step == 0 ? sigma == 0 : sigma > 0.5);
    for (int64_t v = 0; v < s.video_count; v++)
      for (int c = 0; c < C; c++) {
        double eps = 0;
        for (int i = 0; i < LATENT; i++)
          eps += (double)ebb_normal(ebb_edit_key(11, s.videos[v].id, 0), (uint64_t)EBB_STREAM_NOISED,
                                    (uint64_t)(c * LATENT + i)) /
                 LATENT;
        assert_true(fabs(x[v * C + c] - ((1 - sigma) * z[v * C + c] + sigma * eps)) < 1e-5);
      }
    free(x);
  }
  free(z);
  ebb_store_close(&s);
}

static void test_one_run_holds_inverted_and_noised(void **state) {
  (void)state;
  ebb_config invert = config_for("only"), both = config_for("both"), kept = config_for("kept");
  strcpy(both.inversion.method, "both");
  strcpy(kept.inversion.method, "both");
  both.inversion.draws = kept.inversion.draws = 3;
  kept.inversion.keep_draws = true;
  kept.run.batch = 8;
  ebb_store i = run(&invert), b = run(&both), k = run(&kept);
  assert_int_equal(b.set_count, 3); /* vae, transformer, transformer.noise */
  assert_int_equal(k.set_count, 5);
  for (int step = 0; step < 2; step++) {
    same(&i, "transformer", &b, "transformer", "block_out.mean", step, true);
    same(&i, "transformer", &b, "transformer.noise", "block_out.mean", step, false);
    same(&k, "transformer.noise-0", &k, "transformer.noise-1", "block_out.mean", step, step == 0);
    float *mean = features(&b, "transformer.noise", "block_out.mean", step), *draw[3];
    for (int d = 0; d < 3; d++)
      draw[d] = features(
          &k, (const char *[]){"transformer.noise-0", "transformer.noise-1", "transformer.noise-2"}[d],
          "block_out.mean", step);
    for (int n = 0; n < 8 * BLOCKS * WIDTH; n++)
      assert_true(fabs((double)mean[n] - ((double)draw[0][n] + draw[1][n] + draw[2][n]) / 3) <=
                  1e-5 * (1 + fabs((double)mean[n])));
    for (int d = 0; d < 3; d++)
      free(draw[d]);
    free(mean);
  }
  ebb_store_close(&i);
  ebb_store_close(&b);
  ebb_store_close(&k);
}

/* The plan that is printed before a run counts what the run then writes. */
static void test_the_disk_is_planned(void **state) {
  (void)state;
  ebb_config k = config_for("disk");
  ebb_error err = {0};
  ebb_job_result planned, result;
  ebb_job_options options = {.version = "test", .dry_run = true, .log = quiet};
  strcpy(k.inversion.method, "both");
  k.inversion.draws = 2;
  k.inversion.keep_draws = true;
  k.inversion.guidance = 2;
  assert_true(ebb_job_invert(&k, &options, &planned, &err));
  options.dry_run = false;
  assert_true(ebb_job_invert(&k, &options, &result, &err));
  assert_true(result.used.activations == planned.planned.activations);
  ebb_store s;
  uint64_t bytes = 0;
  assert_true(ebb_store_open(&s, k.run.out, &err));
  json_t *shards = json_object_get(s.index, "shards");
  for (size_t i = 0; i < json_array_size(shards); i++)
    bytes += (uint64_t)json_integer_value(json_object_get(json_array_get(shards, i), "bytes"));
  assert_true(bytes == planned.disk);
  ebb_store_close(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_defect_04_guidance_keeps_both_branches_apart),
                                     cmocka_unit_test(test_noised_latents_are_the_formula),
                                     cmocka_unit_test(test_one_run_holds_inverted_and_noised),
                                     cmocka_unit_test(test_the_disk_is_planned)};
  return cmocka_run_group_tests_name("noised", tests, make_data, remove_data);
}
