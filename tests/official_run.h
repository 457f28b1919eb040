/* What tests of the official code's folder and files share: small runs, there and back, probed. */
#ifndef EBB_TESTS_OFFICIAL_RUN_H
#define EBB_TESTS_OFFICIAL_RUN_H

#include "loaders/json.h"
#include "loaders/official.h"
#include "loaders/pt.h"
#include "probe/probe.h"
#include "probe/report.h"
#include "tests/fixtures/probe/planted_targets.h"
#include "tests/test_files.h"

static ebb_context c;
static const planted world = {.categories = 2,
                              .groups = 12,
                              .steps = 2,
                              .blocks = 3,
                              .width = 8,
                              .block = 1,
                              .step = 1,
                              .signal = 3,
                              .seed = 4};
static const planted strong = {/* enough for the official training, which begins far off */
                               .categories = 2, .groups = 40, .steps = 2,  .blocks = 3, .width = 8,
                               .block = 1,      .step = 1,    .signal = 6, .seed = 4};
static const planted_targets numbers = {
    .groups = 12, .each = 1, .steps = 2, .blocks = 4, .width = 5, .noise = 1, .seed = 5, .missing = true};

__attribute__((noinline, unused)) static char *whole(const char *path) {
  char *text = NULL;
  size_t bytes;
  ebb_error err = {""};
  if (!ebb_file_read(path, 1 << 24, &text, &bytes, &err))
    fail_msg("%s", err.text);
  return text;
}

static inline void opened(ebb_store *store, const char *dir) {
  ebb_error err = {""};
  if (!ebb_store_open(store, dir, &err))
    fail_msg("%s", err.text);
}

static inline int64_t exported(const char *run, const char *dir, const ebb_official_export *what) {
  ebb_store store;
  ebb_error err = {""};
  int64_t videos = 0;
  opened(&store, run);
  if (!ebb_official_write(&store, what, dir, &videos, &err))
    fail_msg("%s", err.text);
  ebb_store_close(&store);
  return videos;
}

static inline ebb_official_found imported(const char *dir, ebb_official_import how, const char *run) {
  ebb_official_found found;
  ebb_error err = {""};
  if (!ebb_official_read(dir, &how, run, &found, &err))
    fail_msg("%s", err.text);
  return found;
}

static inline ebb_config released(int64_t seed) {
  ebb_config k;
  ebb_config_defaults(&k);
  strcpy(k.probe.preset, "released");
  snprintf(k.probe.features.names[0], sizeof k.probe.features.names[0], "block_out.mean");
  k.probe.features.count = 1;
  k.probe.bootstrap = 200;
  k.probe.repeats = 1;
  k.probe.seed = seed;
  return k;
}

static inline void probed(const char *run, const ebb_config *k) {
  ebb_error err = {""};
  if (!ebb_probe_run(run, k, &c, NULL, NULL, NULL, &err))
    fail_msg("%s", err.text);
}

static inline int begin(void **state) {
  return folder_make(state) == 0 && ebb_context_open(&c, "cpu", NULL) ? 0 : -1;
}

static inline int end(void **state) {
  ebb_context_close(&c);
  return folder_remove(state);
}

#endif
