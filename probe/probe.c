#include "probe/probe.h"

#include "loaders/file.h"
#include "probe/maps.h"
#include "probe/official.h"
#include "probe/plot.h"
#include "probe/protocol.h"
#include "probe/report.h"

#include <stdlib.h>
#include <string.h>

/* What the run says of itself, and the settings it was probed with: those that a preset has no use for are
 * left at their defaults. */
json_t *ebb_probe_provenance(const ebb_store *store, const ebb_config *config) {
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
  if (store->notice) /* of the makers of the data: it goes where the numbers go */
    json_object_set_new(o, "notice", json_string(store->notice));
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
    results.provenance = ebb_probe_provenance(&store, config);
    ok = ebb_make_folders(dir, err) && ebb_results_write(&results, &store, dir, err) &&
         ebb_official_pairwise(&results, &store, config, dir, err) && ebb_plot_all(&results, dir, err) &&
         ebb_plot_all_frame_mass(&store, &results, -1, dir, stderr, err);
  }
  if (ok && table)
    ebb_results_print(&results, table);
  ebb_results_free(&results);
  ebb_store_close(&store);
  free(dir);
  return ok;
}

static bool has_maps(const ebb_results *results) {
  for (int i = 0; i < results->row_count; i++)
    if (strcmp(results->rows[i].feature, "attn_frames") == 0 ||
        strcmp(results->rows[i].feature, "attn_frames" EBB_OF_A_HEAD) == 0)
      return true;
  return false;
}

/* Maps are drawn from the features, which are read and hashed whole: only for results that have maps, or
 * when a step is asked for. Only then is it an error that they are not there. */
static bool report_maps(const char *run_dir, const ebb_results *results, int64_t step, const char *dir,
                        ebb_error *err) {
  ebb_store store = {0};
  ebb_error why = {{0}};
  if (step < 0 && !has_maps(results))
    return true;
  if (!ebb_store_open(&store, run_dir, &why)) {
    if (step >= 0)
      return ebb_fail(err, "%s", why.text);
    fprintf(stderr, "ebb: note: attention maps are not drawn again: %s\n", why.text);
    return true;
  }
  bool ok = ebb_plot_all_frame_mass(&store, results, step, dir, stderr, err);
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
