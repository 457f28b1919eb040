/* tier: host
 * Schedules: every number of tests/fixtures/schedules.json, the numbers of the reference notes, and what is
 * refused. */
#include "engine/schedule.h"
#include "loaders/file.h"
#include "loaders/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void make(ebb_schedule *s, ebb_schedule_kind kind, int steps, double shift) {
  ebb_error err = {""};
  if (!ebb_schedule_make(s, kind, steps, shift, &err))
    fail_msg("%s", err.text);
}

static ebb_schedule_kind kind_of(const char *class) {
  if (strcmp(class, "UniPCMultistepScheduler/new") == 0)
    return EBB_UNIPC;
  return strcmp(class, "UniPCMultistepScheduler/old") == 0 ? EBB_UNIPC_OLD : EBB_FLOW_MATCH_EULER;
}

/* One entry of the file: sigmas descending to 0, timesteps[i] of sigmas[i]. */
static void check_entry(const json_t *entry) {
  ebb_schedule s;
  int n = (int)json_integer_value(json_object_get(entry, "steps"));
  ebb_schedule_kind kind = kind_of(json_string_value(json_object_get(entry, "schedule")));
  const json_t *sigmas = json_object_get(entry, "sigmas"), *times = json_object_get(entry, "timesteps");
  assert_int_equal(json_array_size(sigmas), n + 1);
  make(&s, kind, n, json_number_value(json_object_get(entry, "shift")));
  assert_true(s.label[0] == 0 && s.sigma[0] == 0);
  for (int i = 0; i <= n; i++) {
    double sigma = json_number_value(json_array_get(sigmas, (size_t)i));
    double label = i < n ? json_number_value(json_array_get(times, (size_t)i)) : 0;
    double slack = kind == EBB_FLOW_MATCH_EULER ? 1e-3 : 0;
    if (!(fabs(s.sigma[n - i] - sigma) <= 1e-6 && fabs(s.label[n - i] - label) <= slack))
      fail_msg("%s, %d steps, number %d: %.9g and label %.9g, expected %.9g and %.9g",
               ebb_schedule_name(kind), n, i, s.sigma[n - i], s.label[n - i], sigma, label);
  }
  ebb_schedule_free(&s);
}

static void test_fixtures(void **state) {
  (void)state;
  ebb_error err = {""};
  json_t *json = ebb_json_read("tests/fixtures/schedules.json", &err);
  if (!json)
    fail_msg("%s", err.text);
  const json_t *all = json_object_get(json, "schedules");
  assert_true(json_array_size(all) >= 9);
  for (size_t i = 0; i < json_array_size(all); i++)
    check_entry(json_array_get(all, i));
  json_decref(json);
}

static void test_official_hundred(void **state) {
  (void)state;
  static const double sigma[] = {0, .03226, .06041, .08749}, old_sigma[] = {0, .02938, .05764};
  static const double label[] = {0, 32, 60, 87, 113}, old_label[] = {0, 29, 57, 84, 111};
  static const double at_ten[] = {0, .2519, .4298, .5633, .6672, .7504, .8184, .8752, .9232, .9643};
  ebb_schedule s, old;
  make(&s, EBB_UNIPC, 100, 3);
  make(&old, EBB_UNIPC_OLD, 100, 3);
  for (int i = 0; i < 4; i++)
    assert_true(fabs(s.sigma[i] - sigma[i]) < 6e-6);
  for (int i = 0; i < 3; i++)
    assert_true(fabs(old.sigma[i] - old_sigma[i]) < 6e-6);
  for (int i = 0; i < 5; i++)
    assert_true(s.label[i] == label[i] && old.label[i] == old_label[i]);
  for (int i = 0; i < 10; i++)
    assert_true(fabs(s.sigma[10 * i] - at_ten[i]) < 6e-5);
  assert_true(s.label[100] == 999 && s.sigma[100] == 1 - 1e-6);
  ebb_schedule_free(&s);
  ebb_schedule_free(&old);
}

static void test_any_length_ascends(void **state) {
  (void)state;
  for (int kind = EBB_UNIPC; kind <= EBB_FLOW_MATCH_EULER; kind++)
    for (int n = 1; n <= 10000; n = 3 * n + 1) {
      ebb_schedule s;
      make(&s, (ebb_schedule_kind)kind, n, 5);
      for (int i = 0; i < n; i++)
        assert_true(s.sigma[i] < s.sigma[i + 1] && s.label[i] <= s.label[i + 1]);
      assert_true(s.sigma[n] <= 1 && s.label[n] <= 1000);
      ebb_schedule_free(&s);
    }
}

static void test_bad_numbers(void **state) {
  (void)state;
  static const struct {
    int steps;
    double shift;
  } bad[] = {{0, 3}, {-1, 3}, {10001, 3}, {6, 0}, {6, -1}, {6, NAN}, {6, INFINITY}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ebb_schedule s;
    ebb_error err = {""};
    assert_false(ebb_schedule_make(&s, EBB_UNIPC, bad[i].steps, bad[i].shift, &err));
    assert_true(err.text[0] != '\0');
    ebb_schedule_free(&s);
  }
}

static void test_names(void **state) {
  (void)state;
  ebb_schedule_kind kind = EBB_UNIPC_OLD;
  ebb_error err = {""};
  assert_true(ebb_schedule_named("auto", &kind, &err) && kind == EBB_UNIPC_OLD);
  for (int k = EBB_UNIPC; k <= EBB_FLOW_MATCH_EULER; k++)
    assert_true(ebb_schedule_named(ebb_schedule_name((ebb_schedule_kind)k), &kind, &err) && (int)kind == k);
  assert_false(ebb_schedule_named("ddim", &kind, &err));
  assert_non_null(strstr(err.text, "'ddim'"));
}

static void test_read(void **state) {
  (void)state;
  ebb_schedule_kind kind;
  double shift;
  ebb_error err = {""};
  assert_true(ebb_schedule_read("tests/fixtures/models/wan-a/scheduler", &kind, &shift, &err));
  assert_true(kind == EBB_UNIPC && shift == 3);
  assert_true(ebb_schedule_read("tests/fixtures/models/wan-b/scheduler", &kind, &shift, &err));
  assert_true(kind == EBB_FLOW_MATCH_EULER && shift == 3);
}

static void test_refused(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"{}", "_class_name"},
      {"{\"_class_name\": \"DDIMScheduler\"}", "DDIMScheduler"},
      {"{\"_class_name\": \"UniPCMultistepScheduler\"}", "use_flow_sigmas"},
      {"{\"_class_name\": \"UniPCMultistepScheduler\", \"use_flow_sigmas\": true}", "prediction_type"},
      {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"use_dynamic_shifting\": true}",
       "use_dynamic_shifting"},
      {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift_terminal\": 0.1}", "shift_terminal"},
      {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": -3}", "\"shift\""},
      {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"num_train_timesteps\": 100}",
       "num_train_timesteps"},
      {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"", "scheduler_config.json"},
  };
  char folder[] = "/tmp/ebb-schedule-XXXXXX";
  assert_non_null(mkdtemp(folder));
  char *path = ebb_path_join(folder, "scheduler_config.json");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ebb_schedule_kind kind;
    double shift;
    ebb_error err = {""};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(cases[i][0], f);
    fclose(f);
    assert_false(ebb_schedule_read(folder, &kind, &shift, &err));
    if (!strstr(err.text, cases[i][1]) || !strstr(err.text, path))
      fail_msg("case %zu: \"%s\" does not name %s and the file", i, err.text, cases[i][1]);
  }
  unlink(path);
  rmdir(folder);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fixtures),
      cmocka_unit_test(test_official_hundred),
      cmocka_unit_test(test_any_length_ascends),
      cmocka_unit_test(test_bad_numbers),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_read),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests_name("schedule", tests, NULL, NULL);
}
