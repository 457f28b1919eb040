#include "probe/compare_parts.h"

#include "loaders/file.h"
#include "probe/csv.h"
#include "probe/stats.h"

#include <math.h>
#include <stdlib.h>

/* ---- summaries ----------------------------------------------------------------------------------------- */

typedef struct summary {
  int64_t count;           /* cosines that are defined */
  double mean, low, least; /* low: 5 % quantile; NaN without any */
} summary;

/* Of count cosines from `first` on; sorted [count] is scratch. */
static summary summarise(const double *first, int64_t count, double *sorted) {
  summary s = {0, 0, NAN, NAN};
  for (int64_t i = 0; i < count; i++)
    if (!isnan(first[i]))
      sorted[s.count++] = first[i];
  for (int64_t i = 0; i < s.count; i++)
    s.mean += sorted[i] / (double)s.count;
  if (s.count == 0)
    return (summary){0, NAN, NAN, NAN};
  ebb_sort(s.count, sorted);
  s.low = ebb_quantile(s.count, sorted, 0.05);
  s.least = sorted[0];
  return s;
}

/* ---- files and the table ------------------------------------------------------------------------------- */

#define DIGITS 9

/* Number of a block as captured; nothing for a feature without blocks. */
static void csv_block(FILE *f, const ebb_compared *s, int64_t block) {
  if (ebb_compared_feature(s, 0)->by_block)
    fprintf(f, "%d", ebb_compared_set(s, 0)->blocks[block]);
}

void ebb_compared_cosines(const ebb_compared *s) {
  FILE *f = s->runs->cosine;
  const double *cosine_of = s->same;
  for (int64_t block = 0; block < s->blocks; block++)
    for (int pair = 0; pair < s->pairs; pair++)
      for (int64_t i = 0; i < s->n; i++)
        for (int64_t head = 0; head < s->heads; head++) {
          ebb_csv_text(f, ebb_compared_set(s, 0)->model);
          fputc(',', f);
          ebb_csv_text(f, s->runs->store[0].videos[s->video[0][i]].id);
          fprintf(f, ",%d,%d,", ebb_compared_set(s, 0)->steps[s->step[0][pair]],
                  ebb_compared_set(s, 1)->steps[s->step[1][pair]]);
          csv_block(f, s, block);
          fputc(',', f);
          if (ebb_compared_feature(s, 0)->by_head)
            fprintf(f, "%lld", (long long)head);
          ebb_csv_number(f, DIGITS, *cosine_of++);
          fputc('\n', f);
        }
}

/* pair -1: over all. */
static void write_summary(const ebb_compared *s, int64_t block, int pair, const summary of[2], FILE *f) {
  ebb_csv_text(f, ebb_compared_set(s, 0)->model);
  fputc(',', f);
  csv_block(f, s, block);
  for (int run = 0; run < 2; run++)
    if (pair >= 0)
      fprintf(f, ",%d,%.9g", ebb_compared_set(s, run)->steps[s->step[run][pair]],
              ebb_compared_set(s, run)->sigmas[s->step[run][pair]]);
    else
      fputs(",,", f);
  fprintf(f, ",%lld", (long long)of[0].count);
  ebb_csv_number(f, DIGITS, of[0].mean);
  ebb_csv_number(f, DIGITS, of[0].low);
  ebb_csv_number(f, DIGITS, of[0].least);
  ebb_csv_number(f, DIGITS, of[1].mean);
  ebb_csv_number(f, DIGITS, of[1].low);
  fputc('\n', f);
}

static void print_line(FILE *out, const char *name, const summary of[2]) {
  if (!out)
    return;
  fprintf(out, "  %-8s %8.4f %8.4f %8.4f    ", name, of[0].mean, of[0].low, of[0].least);
  if (of[1].count > 0)
    fprintf(out, "%10.4f %8.4f\n", of[1].mean, of[1].low);
  else
    fprintf(out, "%10s %8s\n", "-", "-");
}

static void print_head(const ebb_compared *s, FILE *out) {
  const ebb_feature_set *a = ebb_compared_set(s, 0), *b = ebb_compared_set(s, 1);
  double apart = 0;
  if (!out)
    return;
  for (int i = 0; i < s->pairs; i++)
    apart = fmax(apart, fabs(a->sigmas[s->step[0][i]] - b->sigmas[s->step[1][i]]));
  fprintf(out, "%s: %s of %lld videos, %d pairs of steps (of %d and %d) at most %.2g apart in sigma\n",
          a->model, ebb_compared_feature(s, 0)->name, (long long)s->n, s->pairs, a->step_count, b->step_count,
          apart);
  if (s->failed)
    fprintf(out, "  left out: %lld videos that failed in one of the runs\n", (long long)s->failed);
  fprintf(out, "  %-8s %8s %8s %8s    %10s %8s\n", ebb_compared_feature(s, 0)->by_block ? "block" : "",
          "cosine", "5 %", "least", "two videos", "5 %");
}

static json_t *number(double v) {
  return isnan(v) ? json_null() : json_real(v);
}

bool ebb_compared_report(const ebb_compared *s, ebb_error *err) {
  const ebb_comparison *c = s->runs;
  const int64_t each = s->n * s->heads, all = each * s->pairs;
  double *sorted = malloc((size_t)(all * s->blocks) * sizeof *sorted + 1);
  if (!sorted)
    return ebb_fail(err, "not enough memory for %lld cosines", (long long)(all * s->blocks));
  print_head(s, c->table);
  for (int64_t block = 0; block < s->blocks; block++)
    for (int pair = -1; pair < s->pairs; pair++) {
      const int64_t first = block * all + (pair < 0 ? 0 : pair * each), count = pair < 0 ? all : each;
      const summary of[2] = {summarise(s->same + first, count, sorted),
                             summarise(s->others + first, count, sorted)};
      char name[16] = "all";
      if (ebb_compared_feature(s, 0)->by_block)
        snprintf(name, sizeof name, "%d", ebb_compared_set(s, 0)->blocks[block]);
      write_summary(s, block, pair, of, c->summary);
      if (pair < 0)
        print_line(c->table, name, of);
    }
  const summary of[2] = {summarise(s->same, all * s->blocks, sorted),
                         summarise(s->others, all * s->blocks, sorted)};
  if (s->blocks > 1)
    print_line(c->table, "all", of);
  const bool said =
      json_object_set_new(c->models, ebb_compared_set(s, 0)->model,
                          json_pack("{s:I, s:I, s:i, s:o, s:o, s:o, s:o}", "videos", (json_int_t)s->n,
                                    "failed_videos", (json_int_t)s->failed, "pairs_of_steps", s->pairs,
                                    "mean", number(of[0].mean), "q05", number(of[0].low), "other_video_mean",
                                    number(of[1].mean), "other_video_q05", number(of[1].low))) == 0;
  free(sorted);
  return said || ebb_fail(err, "model \"%s\": its means are not finite or its name is not UTF-8",
                          ebb_compared_set(s, 0)->model);
}

/* ---- what the runs say of themselves ------------------------------------------------------------------- */

/* Models of one name with other weights. */
static void add_models(json_t *list, json_t *a, json_t *b) {
  const char *name;
  json_t *model;
  json_object_foreach(a, name, model) {
    json_t *one = json_object_get(model, "sha256"),
           *two = json_object_get(json_object_get(b, name), "sha256");
    if (one && two && !json_equal(one, two))
      json_object_set_new(list, name, json_pack("[O,O]", one, two));
  }
}

json_t *ebb_comparison_differences(const ebb_comparison *c) {
  static const char *const keys[] = {"solver",    "labels",        "schedule", "guidance", "dtype",
                                     "vae_dtype", "prompt_sha256", "device",   "version"};
  const json_t *about[2];
  json_t *list = json_object();
  for (int run = 0; run < 2; run++)
    about[run] = json_object_get(c->store[run].index, "provenance");
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    json_t *a = json_object_get(about[0], keys[i]), *b = json_object_get(about[1], keys[i]);
    if (a && b && !json_equal(a, b))
      json_object_set_new(list, keys[i], json_pack("[O,O]", a, b));
  }
  const json_int_t steps[2] = {(json_int_t)json_array_size(json_object_get(about[0], "timesteps")),
                               (json_int_t)json_array_size(json_object_get(about[1], "timesteps"))};
  if (steps[0] != steps[1])
    json_object_set_new(list, "steps", json_pack("[I,I]", steps[0], steps[1]));
  add_models(list, json_object_get(about[0], "models"), json_object_get(about[1], "models"));
  return list;
}

void ebb_comparison_print(const ebb_comparison *c, const json_t *differ) {
  FILE *out = c->table;
  const char *key;
  json_t *pair;
  if (!out)
    return;
  fprintf(out, "A  %s\nB  %s\n", c->store[0].dir, c->store[1].dir);
  json_object_foreach((json_t *)differ, key, pair) {
    char *a = json_dumps(json_array_get(pair, 0), JSON_ENCODE_ANY),
         *b = json_dumps(json_array_get(pair, 1), JSON_ENCODE_ANY);
    fprintf(out, "   %s: %s in A, %s in B\n", key, a ? a : "", b ? b : "");
    free(a);
    free(b);
  }
  if (json_object_size(differ) == 0)
    fprintf(out, "   nothing that the runs record differs\n");
  for (int run = 0; run < 2; run++)
    for (size_t i = 0; i < json_array_size(c->only[run]); i++)
      fprintf(out, "left out: model \"%s\", whose %s only %c has\n",
              json_string_value(json_array_get(c->only[run], i)), c->options->feature, 'A' + run);
  fputc('\n', out);
}

/* NULL, or with err filled: it cannot be said. */
static json_t *describe(const ebb_comparison *c, const json_t *differ, ebb_error *err) {
  const ebb_compare_options *o = c->options;
  json_t *runs = json_array();
  for (int run = 0; run < 2; run++) {
    char *path = ebb_path_join(o->run[run], "index.json"), hex[65] = "";
    if (ebb_file_sha256(path, hex, err) &&
        json_array_append_new(runs, json_pack("{s:s, s:s}", "run", o->run[run], "index_sha256", hex)) != 0)
      ebb_fail(err, "%s: the name of this folder is not UTF-8: compare.json cannot hold it", o->run[run]);
    free(path);
  }
  return json_pack("{s:o, s:s, s:f, s:O, s:O, s:{s:O, s:O}}", "runs", runs, "feature", o->feature, "sigma",
                   o->sigma, "differ", differ, "models", c->models, "left_out_models", "only_in_a",
                   c->only[0], "only_in_b", c->only[1]);
}

bool ebb_comparison_json(const ebb_comparison *c, const json_t *differ, ebb_error *err) {
  char *path = ebb_path_join(c->options->out, "compare.json");
  json_t *o = describe(c, differ, err);
  ebb_file_writer w;
  bool ok = (o && !err->text[0]) ||
            ebb_fail(err, "%s: cannot be made: expected UTF-8 texts and a finite sigma", path);
  ok = ok && ebb_file_create(&w, path, err);
  if (ok) {
    ok = json_dumpf(o, w.stream, JSON_INDENT(1) | JSON_REAL_PRECISION(10)) == 0 ||
         ebb_fail(err, "%s: cannot be written whole", path);
    fputc('\n', w.stream);
    if (ok)
      ok = ebb_file_commit(&w, err);
    else
      ebb_file_abandon(&w);
  }
  json_decref(o);
  free(path);
  return ok;
}
