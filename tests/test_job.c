/* tier: host
 * A whole inversion run on a made data set through the random fixture model: what lands in the store, what happens to a
 * video that is broken, what a dry run leaves behind. On the CPU, and on a GPU in both dtypes where there is one. */
#include "engine/job.h"

#include "loaders/file.h"
#include "loaders/safetensors.h"
#include "loaders/store.h"
#include "loaders/synth.h"
#include "tests/test_files.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/test_cuda.h"

/* Where and in what the jobs of this round compute. */
static const char *device = "cpu", *dtype = "float32";
static const char *scratch = folder;
static char *data;
static FILE *quiet;

static int make_data(void **state) {
  ebb_error err = {0};
  if (folder_make(state) != 0)
    return -1;
  data = ebb_path_join(scratch, "data");
  quiet = fopen("/dev/null", "w");
  const ebb_synth_options world = {3, 32, 9};
  return quiet && ebb_synth_intphys(data, "O1,O2", 2, &world, &err) ? 0 : -1;
}

static int remove_data(void **state) {
  free(data);
  fclose(quiet);
  return folder_remove(state);
}

static ebb_config config_for(const char *out) {
  ebb_config k;
  ebb_config_defaults(&k);
  strcpy(k.model.path, "tests/fixtures/models/wan-a");
  snprintf(k.data.path, sizeof k.data.path, "%s", data);
  k.model.compare = (ebb_name_list){1, {"random"}};
  k.data.height = k.data.width = 32;
  k.data.frames = 9;
  strcpy(k.prompt.embedding, "zeros");
  k.prompt.max_tokens = 2;
  k.inversion.steps = 3;
  k.inversion.guidance = 1;
  k.capture.steps = (ebb_int_list){2, {0, 2}};
  k.capture.blocks.count = -1;
  k.capture.points = (ebb_name_list){4, {"block_out", "attn_frames", "attn_lag", "attn_rows"}};
  k.capture.pool = (ebb_name_list){1, {"mean"}};
  k.run.batch = 3;
  strcpy(k.run.device, device);
  strcpy(k.model.dtype, dtype);
  strcpy(k.model.vae_dtype, dtype);
  snprintf(k.run.out, sizeof k.run.out, "%s/%s", scratch, out);
  return k;
}

static void run(const ebb_config *k, bool dry_run, ebb_job_result *result) {
  ebb_error err = {0};
  const ebb_job_options options = {.version = "test", .dry_run = dry_run, .log = quiet};
  if (!ebb_job_invert(k, &options, result, &err))
    fail_msg("%s", err.text);
}

static bool exists(const char *dir, const char *name) {
  char *path = ebb_path_join(dir, name);
  bool there = access(path, F_OK) == 0;
  free(path);
  return there;
}

/* The feature of one video, all steps of block 0. */
static float *features_of(const ebb_store *s, const char *model, const char *feature, int step,
                          int64_t video) {
  ebb_error err = {0};
  int set = ebb_store_find(s, model);
  assert_true(set >= 0);
  int f = ebb_store_feature(&s->sets[set], feature);
  assert_true(f >= 0);
  float *x = calloc((size_t)ebb_store_width(&s->sets[set].features[f]), sizeof *x);
  if (!ebb_store_gather(s, set, f, step, 0, EBB_ALL_HEADS, 1, &video, x, &err))
    fail_msg("%s", err.text);
  return x;
}

/* With them what the official code has none of (defect 19 of REFERENCE 3.11): the same model with random weights, and the
 * latents alone. */
static void defect_19_a_run_fills_the_store_and_its_controls(void **state) {
  (void)state;
  ebb_config k = config_for("full");
  ebb_job_result result;
  ebb_error err = {0};
  run(&k, false, &result);
  assert_int_equal(result.videos, 16);
  assert_int_equal(result.failed, 0);
  ebb_store s;
  assert_true(ebb_store_open(&s, k.run.out, &err));
  assert_int_equal(s.video_count, 16);
  assert_int_equal(s.set_count, 3); /* vae, transformer, random */
  assert_true(exists(k.run.out, "config.yaml"));
  assert_int_equal(s.sets[ebb_store_find(&s, "transformer")].block_count, 2);
  assert_true(s.sets[ebb_store_find(&s, "transformer")].sigmas[0] == 0);
  float *a = features_of(&s, "transformer", "block_out.mean", 1, 5);
  float *b = features_of(&s, "random", "block_out.mean", 1, 5);
  assert_true(isfinite(a[0]) && a[0] != b[0]);
  free(a);
  free(b);
  const json_t *about = json_object_get(s.index, "provenance");
  assert_int_equal(json_array_size(json_object_get(about, "sigmas")), 4);
  assert_int_equal(strlen(json_string_value(json_object_get(
                       json_object_get(json_object_get(about, "models"), "transformer"), "sha256"))),
                   64);
  ebb_store_close(&s);
}

/* Features do not depend on how the videos are cut into batches, nor on the run. */
static void test_batches_do_not_matter(void **state) {
  (void)state;
  ebb_config one = config_for("one"), many = config_for("many");
  ebb_job_result result;
  ebb_error err = {0};
  one.run.batch = 1;
  many.run.batch = 7;
  run(&one, false, &result);
  run(&many, false, &result);
  static const struct {
    const char *model, *feature;
    int floats;
  } features[] = {
      {"vae", "latent.mean", 8}, {"transformer", "block_out.mean", 60}, {"transformer", "attn_frames", 27}};
  ebb_store a, b;
  assert_true(ebb_store_open(&a, one.run.out, &err) && ebb_store_open(&b, many.run.out, &err));
  for (int64_t v = 0; v < a.video_count; v++)
    for (int f = 0; f < 3; f++)
      for (int step = 0; step < (f == 0 ? 1 : 2); step++) {
        float *x = features_of(&a, features[f].model, features[f].feature, step, v);
        float *y = features_of(&b, features[f].model, features[f].feature, step, v);
        assert_memory_equal(x, y, (size_t)features[f].floats * sizeof *x);
        free(x);
        free(y);
      }
  ebb_store_close(&a);
  ebb_store_close(&b);
}

static void test_a_broken_video_is_recorded_and_skipped(void **state) {
  (void)state;
  ebb_config k = config_for("broken"), whole = config_for("whole");
  ebb_job_result result;
  ebb_error err = {0};
  run(&whole, false, &result);
  char *frame = ebb_path_join(data, "O1/01/2/scene/scene_004.png"),
       *aside = ebb_path_join(scratch, "aside.png");
  assert_int_equal(rename(frame, aside), 0);
  FILE *f = fopen(frame, "w");
  fputs("no image", f);
  fclose(f);
  run(&k, false, &result);
  assert_int_equal(rename(aside, frame), 0);
  assert_int_equal(result.failed, 1);
  ebb_store s, w;
  assert_true(ebb_store_open(&s, k.run.out, &err) && ebb_store_open(&w, whole.run.out, &err));
  assert_non_null(s.videos[1].failed);
  assert_non_null(strstr(s.videos[1].failed, "scene_004.png"));
  assert_false(ebb_store_has(&s, ebb_store_find(&s, "transformer"), 1));
  for (int64_t v = 0; v < 4; v++) {
    if (v == 1)
      continue;
    float *x = features_of(&s, "transformer", "block_out.mean", 1, v);
    float *y = features_of(&w, "transformer", "block_out.mean", 1, v);
    assert_memory_equal(x, y, 60 * sizeof *x);
    free(x);
    free(y);
  }
  ebb_store_close(&s);
  ebb_store_close(&w);
  free(frame);
  free(aside);
}

/* A sample that a solver cannot carry through fails alone, with the reason, and the run goes on: a text so large that
 * the velocity overflows leaves the exact step without a fixed point. */
static void test_a_video_that_fails_numerically_is_recorded(void **state) {
  (void)state;
  ebb_config k = config_for("exact");
  ebb_job_result result;
  ebb_error err = {0};
  float text[2 * 24];
  for (int i = 0; i < 2 * 24; i++)
    text[i] = 3e38f;
  const ebb_st_declare declared = {"text", EBB_F32, 3, {1, 2, 24}};
  ebb_st_writer *w;
  snprintf(k.prompt.embedding, sizeof k.prompt.embedding, "%s/text.safetensors", scratch);
  assert_true(ebb_st_writer_open(&w, k.prompt.embedding, &declared, 1, NULL, 0, &err) &&
              ebb_st_writer_append(w, text, sizeof text, &err) && ebb_st_writer_finish(&w, &err));
  strcpy(k.inversion.solver, "exact");
  strcpy(k.model.dtype, "float32");
  k.inversion.steps = 1;
  k.capture.steps = (ebb_int_list){1, {0}};
  k.model.compare.count = 0;
  k.data.groups = 1;
  run(&k, false, &result);
  assert_true(result.failed > 0);
  ebb_store s;
  assert_true(ebb_store_open(&s, k.run.out, &err));
  int64_t failed = 0;
  for (int64_t v = 0; v < s.video_count; v++)
    if (s.videos[v].failed) {
      failed++;
      assert_non_null(strstr(s.videos[v].failed, "no fixed point"));
    }
  assert_int_equal(failed, result.failed);
  ebb_store_close(&s);
  k = config_for("tokens"); /* a text of another length than the experiment says is another velocity field */
  snprintf(k.prompt.embedding, sizeof k.prompt.embedding, "%s/text.safetensors", scratch);
  k.prompt.max_tokens = 3;
  const ebb_job_options options = {.version = "test", .log = quiet};
  assert_false(ebb_job_invert(&k, &options, &result, &err));
  assert_non_null(strstr(err.text, "expected [1, 3, 24]"));
}

static void test_a_dry_run_leaves_nothing(void **state) {
  (void)state;
  ebb_config k = config_for("dry");
  ebb_job_result result;
  run(&k, true, &result);
  assert_false(exists(k.run.out, ""));
}

static uint64_t bytes_in(const char *path) {
  char command[600];
  snprintf(command, sizeof command, "find '%s' -type f -printf '%%s\\n' | awk '{n += $1} END {print n + 0}'",
           path);
  FILE *p = popen(command, "r");
  unsigned long long n = 0;
  assert_non_null(p);
  assert_int_equal(fscanf(p, "%llu", &n), 1);
  pclose(p);
  return n;
}

/* What a dry run says is what the run takes: never under, and not 5 % over. */
static void test_the_plan_is_what_is_used(void **state) {
  (void)state;
  const struct {
    const char *solver;
    double guidance;
    int64_t batch, steps;
  } cases[] = {{"euler", 1, 3, 3}, {"heun", 2, 5, 3}, {"exact", 1, 16, 2}};
  for (int i = 0; i < 3; i++) {
    char name[32];
    snprintf(name, sizeof name, "planned-%d", i);
    ebb_config k = config_for(name);
    ebb_job_result dry, real;
    strcpy(k.inversion.solver, cases[i].solver);
    if (strcmp(cases[i].solver, "exact") == 0)
      strcpy(k.model.dtype, "float32");
    k.inversion.guidance = cases[i].guidance;
    k.inversion.steps = cases[i].steps;
    k.capture.steps = (ebb_int_list){2, {0, 1}};
    k.capture.points = (ebb_name_list){3, {"block_out", "attn_frames", "latent"}};
    k.capture.pool = (ebb_name_list){2, {"mean", "motion"}};
    k.run.batch = cases[i].batch;
    run(&k, true, &dry);
    run(&k, false, &real);
    assert_memory_equal(&dry.planned, &real.planned, sizeof dry.planned);
    assert_true(real.used.weights > 0 && real.used.activations > 0);
    assert_in_range(dry.planned.weights, real.used.weights, real.used.weights + real.used.weights / 20);
    assert_in_range(dry.planned.activations, real.used.activations,
                    real.used.activations + real.used.activations / 20);
    char *features = ebb_path_join(k.run.out, "features");
    assert_int_equal(dry.disk, bytes_in(features));
    free(features);
  }
}

static bool refused(const ebb_config *k, bool dry_run, ebb_job_result *result, ebb_error *err) {
  const ebb_job_options options = {.version = "test", .dry_run = dry_run, .log = quiet};
  err->text[0] = '\0';
  return !ebb_job_invert(k, &options, result, err) && !exists(k->run.out, "");
}

static double gib(ebb_job_memory m) {
  return (double)(m.weights + m.activations) / (1 << 30);
}

/* More than run.memory allows is an error before anything is written, which names the largest batch that fits: that one runs
 * and the next does not. */
static void test_what_does_not_fit_is_refused(void **state) {
  (void)state;
  ebb_config k = config_for("large");
  ebb_job_result result, least;
  ebb_error err;
  k.data.height = k.data.width =
      16; /* few pixels and much to capture: it is the batch that takes the memory */
  k.inversion.guidance = 2;
  k.capture.points = (ebb_name_list){5, {"block_in", "attn_out", "cross_out", "mlp_out", "block_out"}};
  k.capture.pool = (ebb_name_list){4, {"mean", "frame_mean", "moments", "motion"}};
  k.run.batch = 5;
  run(&k, true, &least);
  k.run.memory = gib(least.planned) * 1.0001;
  run(&k, true, &result); /* 5 fit, of their own size */
  k.run.batch = 16;
  for (int dry_run = 0; dry_run < 2; dry_run++) {
    assert_true(refused(&k, dry_run, &result, &err));
    assert_non_null(strstr(err.text, "not enough memory: batches of 16 need"));
    assert_non_null(
        strstr(err.text, "allowed by run.memory; the largest batch that fits is 5 (--set run.batch=5)"));
  }
  k.run.batch = 6;
  assert_true(refused(&k, true, &result, &err));
  k.run.memory = 1e-6;
  assert_true(refused(&k, true, &result, &err));
  assert_non_null(strstr(err.text, "even one video needs"));
  assert_null(strstr(err.text, "largest batch"));
  k.run.memory = 0;
  k.run.batch = 5;
  k.data.groups = 1;
  run(&k, false, &result);
}

static void test_guidance_stores_both_branches(void **state) {
  (void)state;
  ebb_config k = config_for("guided");
  ebb_job_result result;
  ebb_error err = {0};
  k.inversion.guidance = 3;
  k.data.groups = 1;
  run(&k, false, &result);
  ebb_store s;
  assert_true(ebb_store_open(&s, k.run.out, &err));
  assert_int_equal(s.video_count, 8);
  assert_true(ebb_store_find(&s, "transformer.negative") >= 0 && ebb_store_find(&s, "random.negative") >= 0);
  ebb_store_close(&s);
}

static void expect_error(const ebb_config *k, const char *words) {
  ebb_error err = {0};
  ebb_job_result result;
  const ebb_job_options options = {.version = "test", .log = quiet};
  assert_false(ebb_job_invert(k, &options, &result, &err));
  if (!strstr(err.text, words))
    fail_msg("'%s' does not say '%s'", err.text, words);
  assert_false(exists(k->run.out, "index.json"));
}

static void test_errors_say_what_is_wrong(void **state) {
  (void)state;
  ebb_config k = config_for("error");
  ebb_error err = {0};
  ebb_job_result result;
  strcpy(k.model.path, "tests/fixtures/models/none");
  expect_error(&k, "tests/fixtures/models/none");
  k = config_for("error");
  strcpy(k.data.path, "tests/fixtures/models");
  expect_error(&k, "tests/fixtures/models");
  k = config_for("error");
  k.capture.steps = (ebb_int_list){1, {3}};
  expect_error(&k, "capture.steps");
  k = config_for("error");
  k.capture.blocks.count = 0;
  expect_error(&k, "capture.blocks");
  k = config_for("error");
  k.capture.points.count = 0;
  expect_error(&k, "capture.points");
  k = config_for("error");
  k.model.compare = (ebb_name_list){1, {"transformer"}};
  expect_error(&k, "model.compare");
  k = config_for("error");
  k.data.height = k.data.width = 40; /* latents of 5 x 5, patches of 2 x 2 */
  expect_error(&k, "patch");
  k = config_for("error");
  strcpy(k.run.device, "cpu");
  strcpy(k.model.dtype, "bfloat16");
  strcpy(k.model.vae_dtype, "float32");
  expect_error(&k, "model.dtype: found bfloat16, but cpu computes in float32 alone");
  k = config_for("error");
  strcpy(k.run.device, "cpu");
  strcpy(k.model.vae_dtype, "bfloat16");
  expect_error(&k, "model.vae_dtype: found bfloat16");
  k = config_for("error"); /* before the device is asked what it can do */
  strcpy(k.path, "some.yaml");
  strcpy(k.inversion.solver, "exact");
  strcpy(k.model.dtype, "bfloat16");
  expect_error(&k, "some.yaml: inversion.solver: found exact with model.dtype bfloat16, expected model.dtype "
                   "float32");
  assert_true(refused(&k, true, &result, &err)); /* by a dry run, too */
  k = config_for("error");
  strcpy(k.run.device, "cuda:999");
  expect_error(&k, "device \"cuda:999\"");
  k = config_for("full"); /* written by the first test */
  err.text[0] = '\0';
  const ebb_job_options options = {.version = "test", .log = quiet};
  assert_false(ebb_job_invert(&k, &options, &result, &err));
  assert_non_null(strstr(err.text, "index.json"));
}

#define EVERYWHERE                                                                                           \
  cmocka_unit_test(defect_19_a_run_fills_the_store_and_its_controls),                                        \
      cmocka_unit_test(test_batches_do_not_matter),                                                          \
      cmocka_unit_test(test_a_broken_video_is_recorded_and_skipped),                                         \
      cmocka_unit_test(test_a_dry_run_leaves_nothing),                                                       \
      cmocka_unit_test(test_a_video_that_fails_numerically_is_recorded),                                     \
      cmocka_unit_test(test_the_plan_is_what_is_used), cmocka_unit_test(test_guidance_stores_both_branches), \
      cmocka_unit_test(test_errors_say_what_is_wrong)

int main(void) {
  const struct CMUnitTest on_cpu[] = {EVERYWHERE, cmocka_unit_test(test_what_does_not_fit_is_refused)};
  const struct CMUnitTest on_gpu[] = {EVERYWHERE};
  int failed = cmocka_run_group_tests_name("job", on_cpu, make_data, remove_data);
  if (!cuda_is_there()) {
    print_message("skipped on a GPU: no CUDA device\n");
    return failed;
  }
  device = "cuda";
  failed += cmocka_run_group_tests_name("job on a GPU", on_gpu, make_data, remove_data);
  dtype = "bfloat16";
  return failed + cmocka_run_group_tests_name("job on a GPU in bfloat16", on_gpu, make_data, remove_data);
}
