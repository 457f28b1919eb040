/* tier: reference
 * `ebb eval` against tensors that diffusers computed in float64 (tests/fixtures/README.md): every case folder, every
 * expected tensor, at the tolerance its case.json states; on a GPU in float32 and bfloat16. */
#include "engine/eval.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/safetensors.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/test_cuda.h"

#define FIXTURES "tests/fixtures"

static float *read_all(const ebb_safetensors *st, const ebb_st_entry *e) {
  ebb_error err = {0};
  float *x = malloc((size_t)ebb_st_elements(e) * sizeof *x);
  assert_non_null(x);
  if (!ebb_safetensors_read_f32(st, e, x, &err))
    fail_msg("%s", err.text);
  return x;
}

/* |got - want|_2 / |want|_2 */
static double relative_error(const float *got, const float *want, int64_t n) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < n; i++) {
    difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    norm += (double)want[i] * want[i];
  }
  return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

/* Where and in what a case is computed, and how far it may be from diffusers in float64. */
typedef struct setting {
  const char *device, *dtype;
} setting;

/* `table`'s entry for a tensor; block.3 may be listed as block. */
static double listed(const json_t *about, const char *table, const char *tensor) {
  const json_t *list = json_object_get(about, table), *value = json_object_get(list, tensor);
  char stem[64];
  snprintf(stem, sizeof stem, "%s", tensor);
  if (!value && strchr(stem, '.')) {
    *strchr(stem, '.') = '\0';
    value = json_object_get(list, stem);
  }
  if (!value)
    fail_msg("no %s for %s", table, tensor);
  return json_number_value(value);
}

/* float32: what the case states, on a device 1e-4; bfloat16: twice the error of diffusers in bfloat16. */
static double tolerance_of(const json_t *about, const setting *s, const char *tensor) {
  double stated = listed(about, "tolerance", tensor);
  if (strcmp(s->dtype, "bfloat16") == 0)
    return fmax(stated, 2 * listed(about, "reference_bf16_error", tensor));
  return strcmp(s->device, "cpu") == 0 ? stated : fmax(stated, 1e-4);
}

static int compare(const char *name, const json_t *about, const setting *s, const char *got_path,
                   const char *want_path) {
  ebb_error err = {0};
  ebb_safetensors got, want;
  if (!ebb_safetensors_open(&got, got_path, &err) || !ebb_safetensors_open(&want, want_path, &err))
    fail_msg("%s", err.text);
  int failures = 0;
  double worst = 0;
  for (int64_t i = 0; i < want.count; i++) {
    const ebb_st_entry *w = &want.entries[i], *g = ebb_safetensors_find(&got, w->name);
    if (!g || g->rank != w->rank || memcmp(g->shape, w->shape, (size_t)w->rank * sizeof *w->shape) != 0) {
      print_error("%s: %s is missing or of another shape\n", name, w->name);
      failures++;
      continue;
    }
    float *a = read_all(&got, g), *b = read_all(&want, w);
    double error = relative_error(a, b, ebb_st_elements(w)), tolerance = tolerance_of(about, s, w->name);
    worst = error > worst ? error : worst;
    if (!(error <= tolerance)) {
      print_error("%s: %s relative error %.2e, expected <= %.1e\n", name, w->name, error, tolerance);
      failures++;
    }
    free(a);
    free(b);
  }
  print_message("  %-28s worst relative error %.1e\n", name, worst);
  ebb_safetensors_close(&got);
  ebb_safetensors_close(&want);
  return failures;
}

static int run_case(const char *name, const setting *s, const char *scratch) {
  ebb_error err = {0};
  char *about_path = ebb_format(FIXTURES "/%s/case.json", name);
  char *in = ebb_format(FIXTURES "/%s/in.safetensors", name);
  char *want = ebb_format(FIXTURES "/%s/expected.safetensors", name);
  json_t *about = ebb_json_read(about_path, &err);
  if (!about)
    fail_msg("%s", err.text);
  const json_t *o = json_object_get(about, "options");
  char *model = ebb_format(FIXTURES "/models/%s", json_string_value(json_object_get(about, "model")));
  const char *solver = json_string_value(json_object_get(o, "solver"));
  const char *labels = json_string_value(json_object_get(o, "labels"));
  const json_t *steps = json_object_get(o, "steps"), *guidance = json_object_get(o, "guidance"),
               *shift = json_object_get(o, "shift");
  ebb_eval_options e = {.op = json_string_value(json_object_get(about, "op")),
                        .model = model,
                        .transformer = "transformer",
                        .in = in,
                        .out = scratch,
                        .device = s->device,
                        .dtype = s->dtype,
                        .steps = steps ? (int)json_integer_value(steps) : 1,
                        .solver = solver ? solver : "euler",
                        .labels = labels ? labels : "matched",
                        .schedule = "auto",
                        .shift = shift ? json_number_value(shift) : 0,
                        .guidance = guidance ? json_number_value(guidance) : 1};
  int failures = 1;
  if (ebb_eval(&e, &err))
    failures = compare(name, about, s, scratch, want);
  else
    print_error("%s: %s\n", name, err.text);
  json_decref(about);
  free(model);
  free(about_path);
  free(in);
  free(want);
  return failures;
}

static int is_case(const struct dirent *d) {
  char *path = ebb_format(FIXTURES "/%s/case.json", d->d_name);
  bool there = access(path, R_OK) == 0;
  free(path);
  return there;
}

static void all_cases(const setting *s) {
  struct dirent **cases;
  int count = scandir(FIXTURES, &cases, is_case, alphasort), failures = 0;
  assert_true(count >= 30);
  char scratch[] = "/tmp/ebb-fixture-XXXXXX";
  int fd = mkstemp(scratch);
  assert_true(fd >= 0);
  close(fd);
  for (int i = 0; i < count; i++) {
    failures += run_case(cases[i]->d_name, s, scratch);
    free(cases[i]);
  }
  free(cases);
  unlink(scratch);
  assert_int_equal(failures, 0);
}

static void test_cpu(void **state) {
  (void)state;
  all_cases(&(setting){"cpu", "float32"});
}

static void test_cuda(void **state) {
  (void)state;
  skip_without_cuda();
  all_cases(&(setting){"cuda", "float32"});
}

static void test_cuda_bfloat16(void **state) {
  (void)state;
  skip_without_cuda();
  all_cases(&(setting){"cuda", "bfloat16"});
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cpu), cmocka_unit_test(test_cuda),
                                     cmocka_unit_test(test_cuda_bfloat16)};
  return cmocka_run_group_tests_name("fixtures", tests, NULL, NULL);
}
