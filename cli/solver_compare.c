/* ebb solver-compare */
#include "cli/solver_compare.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/overrides.h"
#include "ebb_version.h"
#include "engine/job.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "probe/probe.h"
#include "probe/regress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_MAX = 16 };

typedef struct names {
  int count;
  char item[LIST_MAX][16];
} names;

static bool split(const char *option, const char *text, names *to, ebb_error *err) {
  *to = (names){0};
  for (const char *at = text; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    size_t n = strcspn(at, ",");
    if (n == 0 || n >= sizeof to->item[0] || to->count == LIST_MAX)
      return ebb_fail(err, "--%s: found '%s', expected up to %d entries with commas between them", option,
                      text, LIST_MAX);
    memcpy(to->item[to->count++], at, n);
  }
  return true;
}

/* ---- the grid ---------------------------------------------------------------------------------------- */

typedef struct asked {
  names solvers, labels, steps;
} asked;

static bool check_lists(const ebb_config *k, const asked *a, const char *reference, ebb_error *err) {
  ebb_solver solver;
  ebb_labels labels;
  for (int i = 0; i < a->solvers.count; i++)
    if (!ebb_solver_named(a->solvers.item[i], &solver, err) ||
        !ebb_solver_takes("--solvers", a->solvers.item[i], "model.dtype", k->model.dtype, err))
      return false;
  for (int i = 0; i < a->labels.count; i++)
    if (!ebb_labels_named(a->labels.item[i], &labels, err))
      return false;
  for (int i = 0; i < a->steps.count; i++) {
    char *end;
    long steps = strtol(a->steps.item[i], &end, 10);
    if (*end || steps < 1 || steps > 10000)
      return ebb_fail(err, "--steps: found '%s', expected numbers from 1 to 10000", a->steps.item[i]);
  }
  return ebb_solver_takes("--reference", reference, "model.dtype", k->model.dtype, err);
}

/* The fixed point inverts a forward step that was told its own label, whatever the labels: one case for all.
 */
static void list_cases(ebb_solver_grid *g, const asked *a) {
  g->cases =
      ebb_must(calloc((size_t)(a->solvers.count * a->labels.count * a->steps.count), sizeof *g->cases));
  g->errors =
      ebb_must(calloc((size_t)(a->solvers.count * a->labels.count * a->steps.count), sizeof *g->errors));
  for (int i = 0; i < a->solvers.count; i++)
    for (int j = 0; j < a->labels.count; j++)
      for (int k = 0; k < a->steps.count && (j == 0 || strcmp(a->solvers.item[i], "exact") != 0); k++) {
        ebb_solver_case *c = &g->cases[g->case_count++];
        memcpy(c->solver, a->solvers.item[i], sizeof c->solver);
        memcpy(c->labels, a->labels.item[j], sizeof c->labels);
        c->steps = atoi(a->steps.item[k]);
      }
}

/* The steps of `schedule` nearest in sigma to those that the experiment captures on its own. */
static ebb_int_list capture_by_sigma(const ebb_config *k, const ebb_schedule *own,
                                     const ebb_schedule *schedule) {
  ebb_int_list list = {0};
  const int all = k->capture.steps.count < 0 ? own->steps : k->capture.steps.count;
  for (int i = 0; i < all; i++) {
    const double sigma = own->sigma[k->capture.steps.count < 0 ? i : k->capture.steps.values[i]];
    int64_t best = 0;
    for (int64_t n = 1; n < schedule->steps; n++)
      if (fabs(schedule->sigma[n] - sigma) < fabs(schedule->sigma[best] - sigma))
        best = n;
    if (list.count == 0 || best > list.values[list.count - 1])
      list.values[list.count++] = best;
  }
  return list;
}

/* The same step numbers, as far as they exist; none when all would be more than a run can keep. */
static ebb_int_list capture_by_index(const ebb_config *k, int steps) {
  ebb_int_list list = {0};
  const int all = k->capture.steps.count < 0 ? steps : k->capture.steps.count;
  for (int i = 0; i < all && all <= EBB_LIST; i++) {
    const int64_t n = k->capture.steps.count < 0 ? i : k->capture.steps.values[i];
    if (n < steps)
      list.values[list.count++] = n;
  }
  return list;
}

static void add_cell(ebb_solver_grid *g, int number, const ebb_int_list *capture, bool by_sigma,
                     bool by_index) {
  const ebb_solver_case *c = &g->cases[number];
  ebb_compare_cell *cell = &g->cells[g->cell_count++];
  *cell =
      (ebb_compare_cell){.number = number, .by_sigma = by_sigma, .by_index = by_index, .capture = *capture};
  cell->dir =
      ebb_format("%s/cells/%s-%s-%d-%s", g->out, c->solver, c->labels, c->steps, ebb_cell_captures(cell));
}

static bool list_cells(ebb_solver_grid *g, bool with_index, ebb_error *err) {
  const ebb_config *k = g->config;
  ebb_schedule own = {0};
  bool ok = ebb_schedule_open(&own, k->model.path, k->inversion.schedule, (int)k->inversion.steps,
                              k->inversion.shift, err);
  for (int i = 0; ok && i < k->capture.steps.count; i++)
    if (k->capture.steps.values[i] >= own.steps)
      ok = ebb_fail(err, "%s: capture.steps: %lld does not exist: expected numbers from 0 to %d", k->path,
                    (long long)k->capture.steps.values[i], own.steps - 1);
  if (ok && k->capture.steps.count < 0 && own.steps > EBB_LIST)
    ok = ebb_fail(
        err, "%s: capture.steps: all %d are more than the %d that one run can keep: list the ones you want",
        k->path, own.steps, EBB_LIST);
  g->cells = ebb_must(calloc((size_t)(2 * g->case_count), sizeof *g->cells));
  for (int i = 0; ok && i < g->case_count; i++) {
    ebb_schedule schedule = {0};
    ok = ebb_schedule_open(&schedule, k->model.path, k->inversion.schedule, g->cases[i].steps,
                           k->inversion.shift, err);
    if (ok) {
      const ebb_int_list sigma = capture_by_sigma(k, &own, &schedule),
                         index = capture_by_index(k, schedule.steps);
      const bool one = sigma.count == index.count &&
                       memcmp(sigma.values, index.values, (size_t)sigma.count * sizeof *sigma.values) == 0;
      add_cell(g, i, &sigma, true, one);
      if (!one && with_index && index.count > 0)
        add_cell(g, i, &index, false, true);
    }
    ebb_schedule_free(&schedule);
  }
  ebb_schedule_free(&own);
  return ok;
}

/* ---- cells: runs of their own -------------------------------------------------------------------------- */

static char *config_text(const ebb_config *k) {
  char *text = NULL;
  size_t bytes = 0;
  FILE *memory = ebb_must(open_memstream(&text, &bytes));
  ebb_config_write(k, memory);
  fclose(memory);
  return text;
}

/* A cell's folder holds this very experiment, or nothing. */
static bool check_cell(const ebb_compare_cell *cell, const ebb_config *k, ebb_error *err) {
  char *path = ebb_path_join(cell->dir, "config.yaml"), *was = NULL, *is = config_text(k);
  size_t bytes;
  bool ok =
      !ebb_is_there(path) ||
      (ebb_file_read(path, 1 << 20, &was, &bytes, err) &&
       (strcmp(was, is) == 0 || ebb_fail(err,
                                         "%s: a run of other settings: expected those of this experiment; "
                                         "remove the folder, or take another --out",
                                         cell->dir)));
  free(was);
  free(is);
  free(path);
  return ok;
}

static bool other_input(const ebb_compare_cell *cell, const char *what, const char *was, const char *is,
                        ebb_error *err) {
  return ebb_fail(err,
                  "%s: made with another %s (SHA-256 %.16s..., now %.16s...): bring it back, remove the "
                  "folder, or take another --out",
                  cell->dir, what, was && was[0] ? was : "unknown", is);
}

/* A finished run is of the weights, the text and the frames that are there now. */
static bool check_identity(const ebb_solver_grid *g, const ebb_compare_cell *cell, const json_t *run,
                           ebb_error *err) {
  const ebb_identity *now = &g->identity;
  const json_t *about = json_object_get(run, "provenance"), *models = json_object_get(about, "models"),
               *videos = json_object_get(run, "videos");
  const char *transformer = g->config->model.transformer;
  const struct {
    const char *what, *was, *is;
  } all[] = {
      {transformer, json_string_value(json_object_get(json_object_get(models, transformer), "sha256")),
       now->transformer},
      {"vae", json_string_value(json_object_get(json_object_get(models, "vae"), "sha256")), now->vae},
      {"prompt", json_string_value(json_object_get(about, "prompt_sha256")), now->prompt},
      {"negative prompt", json_string_value(json_object_get(about, "negative_sha256")), now->negative}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!all[i].was || strcmp(all[i].was, all[i].is) != 0)
      return other_input(cell, all[i].what, all[i].was, all[i].is, err);
  if (json_array_size(videos) != (size_t)now->videos)
    return ebb_fail(err,
                    "%s: of %zu videos, the data set has now %lld: remove the folder, or take another --out",
                    cell->dir, json_array_size(videos), (long long)now->videos);
  for (int64_t v = 0; v < now->videos; v++) {
    const json_t *video = json_array_get(videos, (size_t)v);
    const char *id = json_string_value(json_object_get(video, "id")),
               *was = json_string_value(json_object_get(video, "sha256"));
    if (!id || strcmp(id, now->id[v]) != 0)
      return ebb_fail(
          err, "%s: video %lld is %s, in the data set it is now %s: remove the folder, or take another --out",
          cell->dir, (long long)v, id ? id : "unknown", now->id[v]);
    if (was && was[0] && strcmp(was, now->frames[v]) != 0) /* none: it failed then, which the run says */
      return other_input(cell, id, was, now->frames[v][0] ? now->frames[v] : "unreadable", err);
  }
  return true;
}

/* Videos of a finished run that failed, or never made it into its list. */
static bool count_failed(const ebb_solver_grid *g, ebb_compare_cell *cell, const char *index,
                         ebb_error *err) {
  size_t i;
  const json_t *video;
  json_t *o = ebb_json_read(index, err);
  bool ok = o && check_identity(g, cell, o, err);
  cell->failed = (int64_t)json_array_size(json_object_get(json_object_get(o, "provenance"), "skipped"));
  json_array_foreach(json_object_get(o, "videos"), i, video) {
    const char *status = json_string_value(json_object_get(video, "status"));
    cell->failed += status && strcmp(status, "failed") == 0;
  }
  json_decref(o);
  return ok;
}

static bool invert_cell(const ebb_config *k, ebb_error *err) {
  const ebb_job_options options = {.version = EBB_VERSION " " EBB_COMMIT, .log = stderr};
  ebb_job_result result;
  return ebb_job_invert(k, &options, &result, err);
}

static bool run_cell(ebb_solver_grid *g, ebb_compare_cell *cell, ebb_error *err) {
  const ebb_solver_case *c = &g->cases[cell->number];
  ebb_config k = *g->config;
  memcpy(k.inversion.solver, c->solver, sizeof c->solver);
  memcpy(k.inversion.labels, c->labels, sizeof c->labels);
  k.inversion.steps = c->steps;
  k.capture.steps = cell->capture;
  k.model.compare.count = 0;
  if (snprintf(k.run.out, sizeof k.run.out, "%s", cell->dir) >= (int)sizeof k.run.out)
    return ebb_fail(err, "%s: longer than %d characters", cell->dir, (int)sizeof k.run.out - 1);
  char *index = ebb_path_join(cell->dir, "index.json"),
       *results = ebb_path_join(cell->dir, "probe/results.json");
  bool ok = check_cell(cell, &k, err);
  if (ok && !ebb_is_there(index)) {
    fprintf(stderr, "---- %s\n", cell->dir);
    ok = invert_cell(&k, err);
  }
  ok = ok && count_failed(g, cell, index, err);
  if (ok && !ebb_is_there(results)) {
    ebb_context context = {0};
    ok = ebb_context_open(&context, k.run.device, err) &&
         ebb_probe_run(cell->dir, &k, &context, NULL, NULL, NULL, err);
    ebb_context_close(&context);
  }
  free(index);
  free(results);
  return ok;
}

/* ---- the command --------------------------------------------------------------------------------------- */

static bool run_all(ebb_solver_grid *g, const asked *a, bool with_index, ebb_error *err) {
  list_cases(g, a);
  if (g->probed && ebb_regress_wanted(g->config))
    return ebb_fail(
        err,
        "%s: probe.target is %s, and solvers are compared by the accuracy of plausibility: expected "
        "[plausible] (--set probe.target=[plausible]), or --errors-only",
        g->config->path, g->config->probe.target.names[0]);
  bool ok = list_cells(g, with_index, err) && (!g->probed || ebb_overrides_check_probe(g->config, err)) &&
            ebb_identity_find(&g->identity, g->config, g->probed ? -1 : g->videos, stderr, err) &&
            ebb_make_folders(g->out, err) && ebb_solver_grid_errors(g, err);
  for (int i = 0; ok && g->probed && i < g->cell_count; i++)
    ok = run_cell(g, &g->cells[i], err);
  return ok && ebb_solver_grid_report(g, EBB_VERSION " " EBB_COMMIT, stdout, err);
}

static void free_grid(ebb_solver_grid *g) {
  ebb_identity_free(&g->identity);
  for (int i = 0; i < g->cell_count; i++)
    free(g->cells[i].dir);
  free(g->cells);
  free(g->cases);
  free(g->errors);
}

static int run(ebb_solver_grid *g, const asked *a, bool with_index, const char *path, const ebb_overrides *o,
               const char *out) {
  ebb_error err = {0};
  ebb_config config;
  bool usage = false;
  ebb_overrides with_out = *o;
  with_out.out = out;
  bool ok = ebb_overrides_read(&config, path, &with_out, &usage, &err);
  const size_t length = strlen(config.run.out);
  if (ok && !out && config.run.out[0]) /* beside the experiment's own run, not in it */
    ok = snprintf(config.run.out + length, sizeof config.run.out - length, "-solvers") <
             (int)(sizeof config.run.out - length) ||
         ebb_fail(&err, "%s: run.out: too long to put -solvers behind it", path);
  g->config = &config;
  g->out = config.run.out;
  ok = ok && ebb_job_check(&config, &err);
  if (ok && !check_lists(&config, a, g->reference, &err))
    ok = !(usage = true);
  ok = ok && run_all(g, a, with_index, &err);
  int64_t failed = 0;
  for (int i = 0; i < g->cell_count; i++)
    failed += g->cells[i].failed;
  free_grid(g);
  if (ok)
    return failed ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
  fprintf(stderr, "ebb: %s\n", err.text);
  return usage ? EBB_EXIT_USAGE : EBB_EXIT_ERROR;
}

int ebb_solver_compare_command(int argc, char **argv) {
  const char *path = NULL, *out = NULL, *solvers = "euler,heun", *labels = "noisy,matched", *steps = "20,100";
  const char *captures = "both";
  int errors_only = 0;
  ebb_overrides o = {0};
  ebb_solver_grid g = {.reference = "rk4", .reference_steps = 1000, .videos = 16};
  const ebb_option options[] = {
      {"set", EBB_OPTION_LIST, &o.sets, "KEY=VALUE", "overrides a key of the file; again and again", 0, 0,
       NULL},
      EBB_DEVICE_OPTION(&o.device),
      {"out", EBB_OPTION_TEXT, &out, "DIR", "folder to write (run.out with -solvers behind it)", 0, 0, NULL},
      {"solvers", EBB_OPTION_TEXT, &solvers, "LIST", "of euler,heun,midpoint,rk4,exact (euler,heun)", 0, 0,
       NULL},
      {"labels", EBB_OPTION_TEXT, &labels, "LIST", "of noisy,matched (both)", 0, 0, NULL},
      {"steps", EBB_OPTION_TEXT, &steps, "LIST", "numbers of steps (20,100)", 0, 0, NULL},
      {"captures", EBB_OPTION_TEXT, &captures, "HOW",
       "captured at the experiment's sigmas (sigma), also at its step numbers (both); (both)", 0, 0,
       "sigma|both"},
      {"reference", EBB_OPTION_TEXT, &g.reference, "NAME",
       "solver of the fine reference, labels matched (rk4)", 0, 0, "euler|heun|midpoint|rk4"},
      {"reference-steps", EBB_OPTION_INT, &g.reference_steps, "N", "its steps, at least (1000)", 1, 100000,
       NULL},
      {"videos", EBB_OPTION_INT, &g.videos, "N", "the first N are held against the reference (16)", 1, 100000,
       NULL},
      {"errors-only", EBB_OPTION_FLAG, &errors_only, NULL,
       "no runs and probes: errors to the reference alone", 0, 0, NULL},
  };
  const ebb_command command = {"solver-compare CONFIG [options]",
                               "Every solver with every labels and steps: evaluations, error to a fine "
                               "reference at the end and on the way,\n"
                               "and what the probe reads off - a run and a probe of its own each, captured "
                               "at the same sigmas and at the same\n"
                               "step numbers. Says whether fewer steps lose accuracy by labels, by "
                               "discretisation or by where was captured.\n"
                               "What is finished is not done again. Writes solver_compare.csv, "
                               "solver_compare_effects.csv, solver_compare.json.",
                               options,
                               (int)(sizeof options / sizeof *options),
                               &path,
                               1,
                               1,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  asked a;
  g.probed = !errors_only;
  if (!split("solvers", solvers, &a.solvers, &err) || !split("labels", labels, &a.labels, &err) ||
      !split("steps", steps, &a.steps, &err)) {
    fprintf(stderr, "ebb: %s\n", err.text);
    return EBB_EXIT_USAGE;
  }
  return run(&g, &a, strcmp(captures, "both") == 0, path, &o, out);
}
