/* Every experiment that comes with the program is read, and its probes are ones that its data can have. Host code. */
#include "loaders/config.h"
#include "loaders/file.h"
#include "probe/probe.h"
#include "probe/regress.h"
#include "probe/study.h"
#include "tests/test_files.h"

static void test_every_config_can_be_probed(void **state) {
  (void)state;
  ebb_error err = {0};
  char **names;
  int64_t count, read = 0;
  if (!ebb_folder_list("configs", &names, &count, &err))
    fail_msg("%s", err.text);
  for (int64_t i = 0; i < count; i++) {
    const size_t length = strlen(names[i]);
    if (length < 5 || strcmp(names[i] + length - 5, ".yaml") != 0)
      continue;
    ebb_config k;
    char *path = ebb_path_join("configs", names[i]);
    ebb_config_defaults(&k);
    if (!ebb_config_read(&k, path, &err))
      fail_msg("%s", err.text);
    const bool regress = ebb_regress_wanted(&k), labels = strcmp(k.data.format, "phyworld") != 0;
    if (regress == labels)
      fail_msg("%s: data of format %s has %s, and probe.target is %s", path, k.data.format,
               labels ? "labels" : "targets and no labels", regress ? "a target" : "plausible");
    if (!(regress ? ebb_regress_settings(&k, &err) : ebb_study_settings(&k, &err)))
      fail_msg("%s: %s", path, err.text);
    free(path);
    read++;
  }
  ebb_names_free(names, count);
  assert_true(read >= 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_config_can_be_probed)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
