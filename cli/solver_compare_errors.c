#include "cli/solver_compare.h"

#include "cli/intervals.h"
#include "cli/progress.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "probe/correlate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *error_path(const ebb_solver_grid *g, int number) {
  const ebb_solver_case *c = &g->cases[number];
  return ebb_format("%s/errors/%s-%s-%d.json", g->out, c->solver, c->labels, c->steps);
}

/* The grid of the reference, on which the cases lie that are compared. */
static bool write_grid(const ebb_solver_grid *g, FILE *to, ebb_error *err) {
  const ebb_config *k = g->config;
  ebb_schedule *each = ebb_must(calloc((size_t)g->case_count + 1, sizeof *each)), fine = {0};
  const ebb_schedule **list = ebb_must(calloc((size_t)g->case_count + 1, sizeof *list));
  int *stop = NULL, stops = 0;
  bool ok = true;
  for (int i = 0; ok && i < g->case_count; i++) {
    list[i] = &each[i];
    ok = ebb_schedule_open(&each[i], k->model.path, k->inversion.schedule, g->cases[i].steps,
                           k->inversion.shift, err);
  }
  ok = ok && ebb_reference_grid(list, g->case_count, (int)g->reference_steps, &fine, &stop, &stops, err);
  for (int i = 0; ok && i <= fine.steps; i++)
    fprintf(to, "%.17g\n", fine.sigma[i]);
  for (int i = 0; i < g->case_count; i++)
    ebb_schedule_free(&each[i]);
  ebb_schedule_free(&fine);
  free(each);
  free(list);
  free(stop);
  return ok;
}

/* What a case's errors hang on besides the case. */
static bool error_key(const ebb_solver_grid *g, char key[65], ebb_error *err) {
  char *text = NULL, identity[65];
  size_t bytes = 0;
  ebb_config k = *g->config, plain;
  ebb_config_defaults(&plain);
  k.capture = plain.capture;
  k.probe = plain.probe;
  k.run = plain.run;
  FILE *memory = ebb_must(open_memstream(&text, &bytes));
  ebb_config_write(&k, memory);
  fprintf(memory, "%s %lld %lld %lld %lld\n", g->reference, (long long)g->reference_steps,
          (long long)g->videos, (long long)g->config->probe.bootstrap, (long long)g->config->probe.seed);
  ebb_identity_hash(&g->identity, g->videos, identity);
  fprintf(memory, "%s\n", identity);
  bool ok = write_grid(g, memory, err);
  fclose(memory);
  ebb_sha256(text, bytes, key);
  free(text);
  return ok;
}

static bool read_error(ebb_solver_grid *g, int n, const char *key) {
  char *path = error_path(g, n);
  ebb_error why = {0};
  json_t *o = ebb_is_there(path) ? ebb_json_read(path, &why) : NULL;
  const char *of = json_string_value(json_object_get(o, "experiment"));
  bool same = of && strcmp(of, key) == 0;
  if (same)
    g->errors[n] = (ebb_case_error){
        json_integer_value(json_object_get(o, "evaluations")),
        json_integer_value(json_object_get(o, "videos")), json_integer_value(json_object_get(o, "groups")),
        ebb_interval_in(json_object_get(o, "endpoint")), ebb_interval_in(json_object_get(o, "path"))};
  json_decref(o);
  free(path);
  return same;
}

static bool write_error(const ebb_solver_grid *g, int n, const char *key, ebb_error *err) {
  const ebb_case_error *e = &g->errors[n];
  char *path = error_path(g, n);
  ebb_file_writer w = {0};
  json_t *o =
      json_pack("{s:s, s:I, s:I, s:I, s:o, s:o}", "experiment", key, "evaluations",
                (json_int_t)e->evaluations, "videos", (json_int_t)e->videos, "groups", (json_int_t)e->groups,
                "endpoint", ebb_interval_json(&e->endpoint), "path", ebb_interval_json(&e->path));
  bool ok = ebb_file_create(&w, path, err) &&
            (json_dumpf(o, w.stream, JSON_INDENT(1) | JSON_REAL_PRECISION(10)) == 0 ||
             ebb_fail(err, "%s: cannot be written", path)) &&
            ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  json_decref(o);
  free(path);
  return ok;
}

static void show(void *user, double share) {
  ebb_progress_show(user, share);
}

/* Intervals of a case over the videos that did not fail. */
static bool judge_case(ebb_solver_grid *g, const ebb_solver_errors *r, int n, const int *group,
                       int64_t groups, ebb_error *err) {
  const ebb_config *k = g->config;
  const ebb_grouped of = {r->videos, groups, group};
  ebb_case_error *e = &g->errors[n];
  *e = (ebb_case_error){.evaluations = r->of[n].evaluations, .groups = groups};
  for (int64_t v = 0; v < r->videos; v++)
    e->videos += isfinite(r->of[n].endpoint[v]);
  return ebb_mean_interval(&of, r->of[n].endpoint, k->probe.bootstrap, (uint64_t)k->probe.seed, &e->endpoint,
                           err) &&
         ebb_mean_interval(&of, r->of[n].path, k->probe.bootstrap, (uint64_t)k->probe.seed, &e->path, err);
}

static bool measure(ebb_solver_grid *g, const bool *todo, const char *key, ebb_error *err) {
  ebb_progress_bar progress;
  ebb_solver_errors r;
  char *cache = ebb_path_join(g->out, "reference.safetensors"), *folder = ebb_path_join(g->out, "errors");
  const ebb_solver_errors_options options = {.reference = g->reference,
                                             .reference_steps = (int)g->reference_steps,
                                             .videos = g->videos,
                                             .cache = cache,
                                             .log = stderr,
                                             .progress = show,
                                             .progress_user = &progress};
  ebb_progress_start(&progress, "measuring errors", NULL, 1);
  bool ok = ebb_make_folders(folder, err) &&
            ebb_solver_errors_run(g->config, g->cases, todo, g->case_count, &options, &r, err);
  if (ok) {
    ebb_progress_end(&progress);
    int *group = ebb_must(calloc((size_t)r.videos + 1, sizeof *group));
    const int64_t groups = ebb_number_groups(r.videos, (const char *const *)r.group, group);
    for (int i = 0; ok && i < g->case_count; i++)
      if (todo[i])
        ok = judge_case(g, &r, i, group, groups, err) && write_error(g, i, key, err);
    free(group);
    ebb_solver_errors_free(&r);
  }
  free(folder);
  free(cache);
  return ok;
}

bool ebb_solver_grid_errors(ebb_solver_grid *g, ebb_error *err) {
  char key[65];
  int missing = 0;
  if (!error_key(g, key, err))
    return false;
  bool *todo = ebb_must(calloc((size_t)g->case_count, sizeof *todo));
  for (int i = 0; i < g->case_count; i++)
    missing += todo[i] = !read_error(g, i, key);
  if (missing < g->case_count)
    fprintf(stderr, "errors of %d of %d cases are there already\n", g->case_count - missing, g->case_count);
  bool ok = missing == 0 || measure(g, todo, key, err);
  free(todo);
  return ok;
}
