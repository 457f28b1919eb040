#include "probe/probe.h"

#include "loaders/file.h"
#include "probe/maps.h"
#include "probe/plot.h"
#include "probe/presets.h"
#include "probe/report.h"

#include <stdlib.h>

/* What the run says of itself, and the settings it was probed with: those that a preset has no use for are left
 * at their defaults. */
static json_t *provenance(const ebb_store *store, const ebb_config *config) {
  json_t *run = json_object_get(store->index, "provenance"), *o = json_object();
  char *text = NULL, *path = ebb_path_join(store->dir, "index.json"), hash[65] = "";
  size_t bytes = 0;
  FILE *memory = open_memstream(&text, &bytes);
  ebb_config used = *config;
  char not_used[64];
  ebb_preset_settings(&used, not_used, sizeof not_used);
  if (memory) {
    ebb_config_write(&used, memory);
    fclose(memory);
    json_object_set_new(o, "config", json_string(text));
  }
  if (run)
    json_object_set(o, "run", run);
  if (ebb_file_sha256(path, hash, NULL))
    json_object_set_new(o, "index_sha256", json_string(hash));
  free(text);
  free(path);
  return o;
}

bool ebb_probe_run(const char *run_dir, const ebb_config *config, ebb_context *c, ebb_progress *progress,
                   void *user, FILE *table, ebb_error *err) {
  ebb_store store = {0};
  ebb_results results = {0};
  if (!ebb_store_open(&store, run_dir, err))
    return false;
  char *dir = ebb_path_join(run_dir, "probe");
  bool ok = ebb_study_run(&store, config, c, progress, user, &results, err);
  if (ok) {
    results.provenance = provenance(&store, config);
    ok = ebb_make_folders(dir, err) && ebb_results_write(&results, &store, dir, err) &&
         ebb_plot_all(&results, dir, err) && ebb_plot_all_frame_mass(&store, &results, -1, dir, err);
  }
  if (ok && table)
    ebb_results_print(&results, table);
  ebb_results_free(&results);
  ebb_store_close(&store);
  free(dir);
  return ok;
}

/* Maps are drawn from the features: not where there is only RUN/probe, unless they are asked for. */
static bool report_maps(const char *run_dir, const ebb_results *results, int64_t step, const char *dir,
                        ebb_error *err) {
  ebb_store store = {0};
  char *index = ebb_path_join(run_dir, "index.json");
  bool there = step >= 0 || ebb_is_there(index);
  free(index);
  if (!there)
    return true;
  bool ok = ebb_store_open(&store, run_dir, err) && ebb_plot_all_frame_mass(&store, results, step, dir, err);
  ebb_store_close(&store);
  return ok;
}

bool ebb_report_run(const char *run_dir, int64_t step, FILE *table, ebb_error *err) {
  ebb_results results = {0};
  char *dir = ebb_path_join(run_dir, "probe");
  bool ok = ebb_results_read(&results, dir, err) && ebb_plot_all(&results, dir, err);
  if (ok && table)
    ebb_results_print(&results, table);
  ok = ok && report_maps(run_dir, &results, step, dir, err);
  ebb_results_free(&results);
  free(dir);
  return ok;
}
