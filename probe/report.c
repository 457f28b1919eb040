#include "probe/report.h"

#include "loaders/file.h"
#include "loaders/json.h"
#include "probe/csv.h"
#include "probe/plot.h"
#include "probe/presets.h"
#include "probe/probe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const METHOD =
    "accuracy, auc, pairwise: logistic regression, nested cross-validation by "
    "group; block, step and penalty are chosen by ridge "
    "regression on inner folds of the training groups; low, high: 95 % BCa "
    "intervals of a bootstrap over groups (null when bootstrap is 0), widened by "
    "sqrt(1 + folds/(folds-1)) for what the folds share (Nadeau & Bengio "
    "2003), and where the value is 1 or 0 in every group the exact binomial "
    "(Clopper-Pearson) limit over groups, for the AUC by convention; nested_p: accuracy of the same choice "
    "judged by ridge, labels "
    "permuted within groups. cells: ridge regression in every cell, penalty "
    "chosen on the training groups, mean over repeats; top, floors and p: "
    "best cell of the first repeat, its accuracy there (top_first_repeat), "
    "the same maximum under labels permuted within groups, and p = (1 + #{permuted >= observed}) / "
    "(permutations + 1); p of cells: every cell of the first repeat against the same maxima. heads: in a row "
    "whose feature ends in .head each head is a cell, [step, block, head], and chosen like block and step.";

/* ---- JSON ---- */

static json_t *number(double v) {
  return isfinite(v) ? json_real(v) : json_null();
}

static json_t *interval_json(const ebb_interval *i) {
  return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "value", number(i->value), "low", number(i->low), "high",
                   number(i->high), "bca_low", number(i->bca_low), "bca_high", number(i->bca_high),
                   "percentile_low", number(i->percentile_low), "percentile_high",
                   number(i->percentile_high));
}

static json_t *metrics_json(const ebb_interval *metric) {
  json_t *o = json_object();
  for (int m = 0; m < EBB_METRICS; m++)
    json_object_set_new(o, ebb_metric_names[m], interval_json(&metric[m]));
  return o;
}

static json_t *numbers(const double *v, int count) {
  json_t *a = json_array();
  for (int i = 0; i < count; i++)
    json_array_append_new(a, number(v[i]));
  return a;
}

static json_t *integers(const int *v, int count) {
  json_t *a = json_array();
  for (int i = 0; v && i < count; i++)
    json_array_append_new(a, json_integer(v[i]));
  return a;
}

static json_t *place_json(const ebb_row *r, int cell) {
  const ebb_cell at = ebb_cell_of(r, cell);
  return r->by_head ? json_pack("[i,i,i]", at.step, at.block, at.head)
                    : json_pack("[i,i]", at.step, at.block);
}

static json_t *row_json(const ebb_row *r) {
  int cells = ebb_row_cells(r);
  json_t *o =
      json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I}", "category", r->category, "model", r->model,
                "feature", r->feature, "videos", (json_int_t)r->videos, "groups", (json_int_t)r->groups,
                "width", (json_int_t)r->width, "failed_videos", (json_int_t)r->failed, "unlabelled_videos",
                (json_int_t)r->unlabelled, "one_sided_groups", (json_int_t)r->one_sided);
  json_object_set_new(o, "steps", integers(r->steps, r->step_count));
  json_object_set_new(o, "sigmas", numbers(r->sigmas, r->step_count));
  json_object_set_new(o, "blocks", r->blocks ? integers(r->blocks, r->block_count) : json_null());
  json_object_set_new(o, "heads", r->by_head ? json_integer(r->head_count) : json_null());
  json_object_set_new(o, "nested", metrics_json(r->metric));
  json_object_set_new(o, "balanced_accuracy", number(r->balanced_accuracy));
  json_object_set_new(o, "d_prime", number(r->d_prime));
  json_object_set_new(o, "nested_p", number(r->nested_p));
  json_object_set_new(o, "chosen", place_json(r, r->chosen));
  json_object_set_new(o, "selected", numbers(r->selected, cells));
  json_t *cell = json_object();
  for (int m = 0; m < EBB_METRICS; m++)
    json_object_set_new(cell, ebb_metric_names[m], numbers(r->cell[m], cells));
  json_object_set_new(cell, "p", numbers(r->cell_p, cells));
  json_object_set_new(o, "cells", cell);
  json_object_set_new(o, "top", place_json(r, r->top));
  json_object_set_new(o, "floor_independent",
                      json_pack("[o,o]", number(r->independent.mean), number(r->independent.high)));
  json_object_set_new(o, "floor_permuted",
                      json_pack("[o,o]", number(r->permuted.mean), number(r->permuted.high)));
  json_object_set_new(o, "top_first_repeat", number(r->top_once));
  json_object_set_new(o, "p", number(r->p));
  if (r->step_mean)
    json_object_set_new(o, "best_block",
                        json_pack("{s:o,s:o}", "mean", numbers(r->step_mean, r->step_count), "standard_error",
                                  numbers(r->step_error, r->step_count)));
  return o;
}

/* NULL: a name that is not UTF-8. */
static json_t *results_json(const ebb_results *r) {
  const ebb_preset *preset = ebb_preset_find(r->preset);
  json_t *folds = preset ? json_null() : json_integer(r->folds),
         *inner = preset ? json_null() : json_integer(r->inner_folds),
         *permutations = preset ? json_null() : json_integer(r->permutations);
  json_t *o = json_pack("{s:s,s:s,s:s,s:o,s:i,s:o,s:I,s:o,s:I}", "name", r->name, "preset", r->preset,
                        "method", preset ? preset->method : METHOD, "folds", folds, "repeats", r->repeats,
                        "inner_folds", inner, "bootstrap", (json_int_t)r->bootstrap, "permutations",
                        permutations, "seed", (json_int_t)r->seed);
  if (r->not_used[0])
    json_object_set_new(o, "not_used", json_string(r->not_used));
  if (r->by_video)
    json_object_set_new(o, "split_by_video", json_true());
  json_t *rows = json_array(), *differences = json_array();
  bool ok = o != NULL;
  for (int i = 0; i < r->row_count; i++)
    ok = json_array_append_new(rows, row_json(&r->rows[i])) == 0 && ok;
  for (int i = 0; i < r->difference_count; i++) {
    const ebb_difference *d = &r->differences[i];
    json_t *one = json_pack("{s:s,s:s,s:s,s:s,s:s}", "category", d->category, "model", d->model, "feature",
                            d->feature, "other_model", d->other_model, "other_feature", d->other_feature);
    json_object_set_new(one, "nested", metrics_json(d->metric));
    ok = json_array_append_new(differences, one) == 0 && ok;
  }
  json_object_set_new(o, "rows", rows);
  json_object_set_new(o, "differences", differences);
  if (r->provenance)
    json_object_set(o, "provenance", r->provenance);
  if (ok)
    return o;
  json_decref(o);
  return NULL;
}

/* ---- reading back: the first thing that is not as it should be is remembered by name ---- */

typedef struct reader {
  const char *wrong;
  const ebb_row *large; /* the row that has more cells than may be; NULL: none */
} reader;

static void text_in(reader *r, const json_t *o, const char *key, char *to, size_t size) {
  const char *text = json_string_value(json_object_get(o, key));
  if (!text || strlen(text) >= size)
    r->wrong = key;
  else
    memcpy(to, text, strlen(text) + 1);
}

static int64_t integer_in(reader *r, const json_t *o, const char *key, int64_t most) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > most) {
    r->wrong = key;
    return 0;
  }
  return json_integer_value(v);
}

static double number_of(const json_t *v) {
  return json_is_number(v) ? json_number_value(v) : NAN;
}

/* count numbers, malloc'ed; NULL when the file has not as many */
static double *numbers_in(reader *r, const json_t *o, const char *key, int count) {
  const json_t *a = json_object_get(o, key);
  if (!json_is_array(a) || json_array_size(a) != (size_t)count) {
    r->wrong = key;
    return NULL;
  }
  double *v = ebb_must(calloc((size_t)count + 1, sizeof *v));
  for (int i = 0; i < count; i++)
    v[i] = number_of(json_array_get(a, (size_t)i));
  return v;
}

static int *integers_in(reader *r, const json_t *o, const char *key, int *count) {
  const json_t *a = json_object_get(o, key);
  *count = (int)json_array_size(a);
  if (!json_is_array(a) || *count < 1 || *count > 4096) {
    r->wrong = key;
    *count = 0;
  }
  int *v = ebb_must(calloc((size_t)*count + 1, sizeof *v));
  for (int i = 0; i < *count; i++)
    v[i] = (int)json_integer_value(json_array_get(a, (size_t)i));
  return v;
}

/* [step, block], and the head where heads are cells -> the cell */
static int cell_in(reader *r, const json_t *o, const char *key, const ebb_row *row) {
  const json_t *place = json_object_get(o, key);
  const int high[3] = {row->step_count, row->block_count, row->head_count};
  int at[3] = {0}, count = row->by_head ? 3 : 2;
  bool ok = json_array_size(place) == (size_t)count;
  for (int i = 0; i < count; i++) {
    at[i] = (int)json_integer_value(json_array_get(place, (size_t)i));
    ok = ok && at[i] >= 0 && at[i] < high[i];
  }
  if (!ok)
    r->wrong = key;
  return ok ? ebb_cell_number(row, at[0], at[1], at[2]) : 0;
}

static void metrics_in(const json_t *o, ebb_interval *metric) {
  for (int m = 0; m < EBB_METRICS; m++) {
    const json_t *i = json_object_get(o, ebb_metric_names[m]);
    metric[m] = (ebb_interval){
        number_of(json_object_get(i, "value")),          number_of(json_object_get(i, "low")),
        number_of(json_object_get(i, "high")),           number_of(json_object_get(i, "bca_low")),
        number_of(json_object_get(i, "bca_high")),       number_of(json_object_get(i, "percentile_low")),
        number_of(json_object_get(i, "percentile_high"))};
  }
}

static ebb_floor floor_in(const json_t *o, const char *key) {
  const json_t *a = json_object_get(o, key);
  return (ebb_floor){number_of(json_array_get(a, 0)), number_of(json_array_get(a, 1))};
}

static double *nothing(int count) {
  double *v = ebb_must(calloc((size_t)count + 1, sizeof *v));
  for (int i = 0; i < count; i++)
    v[i] = NAN;
  return v;
}

static void row_in(reader *r, const json_t *o, ebb_row *row) {
  text_in(r, o, "category", row->category, sizeof row->category);
  text_in(r, o, "model", row->model, sizeof row->model);
  text_in(r, o, "feature", row->feature, sizeof row->feature);
  row->videos = integer_in(r, o, "videos", 1 << 30);
  row->groups = integer_in(r, o, "groups", 1 << 30);
  row->width = integer_in(r, o, "width", 1 << 30);
  row->failed = integer_in(r, o, "failed_videos", 1 << 30);
  row->unlabelled = integer_in(r, o, "unlabelled_videos", 1 << 30);
  row->one_sided = integer_in(r, o, "one_sided_groups", 1 << 30);
  row->steps = integers_in(r, o, "steps", &row->step_count);
  row->sigmas = numbers_in(r, o, "sigmas", row->step_count);
  row->block_count = 1;
  if (!json_is_null(json_object_get(o, "blocks")))
    row->blocks = integers_in(r, o, "blocks", &row->block_count);
  row->by_head = json_is_integer(json_object_get(o, "heads"));
  row->head_count = row->by_head ? (int)integer_in(r, o, "heads", 4096) : 1;
  if (row->head_count < 1 || (row->by_head && !row->blocks)) /* heads are of blocks */
    r->wrong = "heads";
  if (!r->wrong && !ebb_cells_fit(row->step_count, row->block_count, row->head_count))
    r->large = row;
  if (r->wrong || r->large)
    return;
  metrics_in(json_object_get(o, "nested"), row->metric);
  row->balanced_accuracy = number_of(json_object_get(o, "balanced_accuracy"));
  row->d_prime = number_of(json_object_get(o, "d_prime"));
  row->nested_p = number_of(json_object_get(o, "nested_p"));
  row->chosen = cell_in(r, o, "chosen", row);
  row->top = cell_in(r, o, "top", row);
  row->selected = numbers_in(r, o, "selected", ebb_row_cells(row));
  const json_t *cells = json_object_get(o, "cells");
  for (int m = 0; m < EBB_METRICS; m++)
    row->cell[m] = numbers_in(r, cells, ebb_metric_names[m], ebb_row_cells(row));
  bool with_p = json_object_get(cells, "p") != NULL; /* early probes have none */
  if (r->wrong)
    return; /* before anything is allocated by the counts alone */
  row->cell_p = with_p ? numbers_in(r, cells, "p", ebb_row_cells(row)) : nothing(ebb_row_cells(row));
  row->independent = floor_in(o, "floor_independent");
  row->permuted = floor_in(o, "floor_permuted");
  row->top_once = number_of(json_object_get(o, "top_first_repeat"));
  row->p = number_of(json_object_get(o, "p"));
  const json_t *best = json_object_get(o, "best_block");
  if (best) {
    row->step_mean = numbers_in(r, best, "mean", row->step_count);
    row->step_error = numbers_in(r, best, "standard_error", row->step_count);
  }
}

/* Probes from before there were presets say none: strict. A preset has no folds and no permutations. */
static void protocol_in(reader *r, const json_t *o, ebb_results *results) {
  strcpy(results->preset, "strict");
  if (json_object_get(o, "preset"))
    text_in(r, o, "preset", results->preset, sizeof results->preset);
  if (json_object_get(o, "not_used"))
    text_in(r, o, "not_used", results->not_used, sizeof results->not_used);
  bool preset = ebb_preset_find(results->preset);
  results->by_video = json_is_true(json_object_get(o, "split_by_video"));
  results->repeats = (int)integer_in(r, o, "repeats", 1 << 20);
  results->bootstrap = integer_in(r, o, "bootstrap", INT64_MAX);
  results->folds = preset ? 1 : (int)integer_in(r, o, "folds", 1 << 20);
  results->inner_folds = preset ? 1 : (int)integer_in(r, o, "inner_folds", 1 << 20);
  results->permutations = preset ? 0 : integer_in(r, o, "permutations", INT64_MAX);
}

bool ebb_results_read(ebb_results *results, const char *dir, ebb_error *err) {
  *results = (ebb_results){0};
  char *path = ebb_path_join(dir, "results.json");
  json_t *o = ebb_json_read(path, err);
  reader r = {0};
  if (o) {
    const json_t *rows = json_object_get(o, "rows"), *differences = json_object_get(o, "differences");
    text_in(&r, o, "name", results->name, sizeof results->name);
    protocol_in(&r, o, results);
    results->seed = json_integer_value(json_object_get(o, "seed"));
    results->provenance = json_incref(json_object_get(o, "provenance"));
    results->rows = ebb_must(calloc(json_array_size(rows) + 1, sizeof *results->rows));
    results->differences = ebb_must(calloc(json_array_size(differences) + 1, sizeof *results->differences));
    for (size_t i = 0; i < json_array_size(rows) && !r.wrong && !r.large; i++)
      row_in(&r, json_array_get(rows, i), &results->rows[results->row_count++]);
    for (size_t i = 0; i < json_array_size(differences) && !r.wrong && !r.large; i++) {
      const json_t *d = json_array_get(differences, i);
      ebb_difference *to = &results->differences[results->difference_count++];
      text_in(&r, d, "category", to->category, sizeof to->category);
      text_in(&r, d, "model", to->model, sizeof to->model);
      text_in(&r, d, "feature", to->feature, sizeof to->feature);
      text_in(&r, d, "other_model", to->other_model, sizeof to->other_model);
      text_in(&r, d, "other_feature", to->other_feature, sizeof to->other_feature);
      metrics_in(json_object_get(d, "nested"), to->metric);
    }
    if (!r.wrong && results->row_count == 0)
      r.wrong = "rows";
  }
  bool ok = o && !r.wrong && !r.large;
  if (r.large)
    ebb_fail(err, "%s: row %d (%s) says %d steps x %d blocks x %d heads: expected at most %d cells", path,
             results->row_count, r.large->feature, r.large->step_count, r.large->block_count,
             r.large->head_count, EBB_MOST_CELLS);
  else if (r.wrong)
    ebb_fail(err, "%s: \"%s\" is missing or not as `ebb probe` writes it: run `ebb probe` again", path,
             r.wrong);
  else if (!o)
    ebb_fail_also(err, " (`ebb probe` writes it)");
  if (!ok)
    ebb_results_free(results);
  json_decref(o);
  free(path);
  return ok;
}

/* ---- CSV ---- */

#define DIGITS 6

static void csv_row_name(FILE *f, const ebb_row *r) {
  ebb_csv_text(f, r->category);
  fputc(',', f);
  ebb_csv_text(f, r->model);
  fputc(',', f);
  ebb_csv_text(f, r->feature);
}

/* Step, block, head; empty where there is none. */
static void csv_place(FILE *f, const ebb_row *r, int cell) {
  const ebb_cell at = ebb_cell_of(r, cell);
  fprintf(f, ",%d,", r->steps[at.step]);
  if (r->blocks)
    fprintf(f, "%d", r->blocks[at.block]);
  fputc(',', f);
  if (r->by_head)
    fprintf(f, "%d", at.head);
}

static bool write_rows(const ebb_results *results, const ebb_store *store, FILE *f) {
  (void)store;
  fputs("category,model,feature,videos,groups,width,accuracy,accuracy_lo,accuracy_hi,auc,auc_lo,auc_hi,"
        "pairwise,pairwise_lo,"
        "pairwise_hi,balanced_accuracy,d_prime,nested_p,chosen_step,chosen_block,chosen_head,"
        "chosen_share,cells,best_first_repeat,best_step,best_block,best_head,floor_independent,floor_"
        "permuted,floor_permuted_95,p\n",
        f);
  for (int i = 0; i < results->row_count; i++) {
    const ebb_row *r = &results->rows[i];
    csv_row_name(f, r);
    fprintf(f, ",%lld,%lld,%lld", (long long)r->videos, (long long)r->groups, (long long)r->width);
    for (int m = 0; m < EBB_METRICS; m++) {
      ebb_csv_number(f, DIGITS, r->metric[m].value);
      ebb_csv_number(f, DIGITS, r->metric[m].low);
      ebb_csv_number(f, DIGITS, r->metric[m].high);
    }
    ebb_csv_number(f, DIGITS, r->balanced_accuracy);
    ebb_csv_number(f, DIGITS, r->d_prime);
    ebb_csv_number(f, DIGITS, r->nested_p);
    csv_place(f, r, r->chosen);
    ebb_csv_number(f, DIGITS, r->selected[r->chosen]);
    fprintf(f, ",%d", ebb_row_cells(r));
    ebb_csv_number(f, DIGITS, r->top_once);
    csv_place(f, r, r->top);
    ebb_csv_number(f, DIGITS, r->independent.mean);
    ebb_csv_number(f, DIGITS, r->permuted.mean);
    ebb_csv_number(f, DIGITS, r->permuted.high);
    ebb_csv_number(f, DIGITS, r->p);
    fputc('\n', f);
  }
  return true;
}

static bool write_cells(const ebb_results *results, const ebb_store *store, FILE *f) {
  (void)store;
  fputs("category,model,feature,step,block,head,sigma,accuracy,auc,pairwise,selected,p\n", f);
  for (int i = 0; i < results->row_count; i++) {
    const ebb_row *r = &results->rows[i];
    for (int cell = 0; cell < ebb_row_cells(r); cell++) {
      csv_row_name(f, r);
      csv_place(f, r, cell);
      ebb_csv_number(f, DIGITS, r->sigmas[ebb_cell_of(r, cell).step]);
      for (int m = 0; m < EBB_METRICS; m++)
        ebb_csv_number(f, DIGITS, r->cell[m][cell]);
      ebb_csv_number(f, DIGITS, r->selected[cell]);
      ebb_csv_number(f, DIGITS, r->cell_p[cell]);
      fputc('\n', f);
    }
  }
  return true;
}

/* Accuracy of the best block of each seed, at every step. */
static bool write_best_blocks(const ebb_results *results, const ebb_store *store, FILE *f) {
  (void)store;
  fputs("category,model,feature,step,sigma,best_block_mean,standard_error,seeds\n", f);
  for (int i = 0; i < results->row_count; i++) {
    const ebb_row *r = &results->rows[i];
    for (int s = 0; r->step_mean && s < r->step_count; s++) {
      csv_row_name(f, r);
      fprintf(f, ",%d", r->steps[s]);
      ebb_csv_number(f, DIGITS, r->sigmas[s]);
      ebb_csv_number(f, DIGITS, r->step_mean[s]);
      ebb_csv_number(f, DIGITS, r->step_error[s]);
      fprintf(f, ",%d\n", r->repeats);
    }
  }
  return true;
}

/* A video's margin is its mean over the repeats that judged it, in log odds; `right` the share of them on the
 * right side. One that none judged has no line. */
static bool write_margins(const ebb_results *results, const ebb_store *store, FILE *f) {
  fputs("category,model,feature,video,group,possible,margin,right\n", f);
  for (int i = 0; i < results->row_count; i++) {
    const ebb_row *r = &results->rows[i];
    for (int64_t v = 0; v < r->videos; v++) {
      const ebb_store_video *video = &store->videos[r->video[v]];
      double y = video->label == EBB_POSSIBLE ? 1 : -1, mean = 0, right = 0;
      int judged = 0;
      for (int k = 0; k < r->repeats; k++)
        judged += !isnan(r->margin[k * r->videos + v]);
      for (int k = 0; k < r->repeats; k++) {
        double margin = r->margin[k * r->videos + v];
        if (isnan(margin))
          continue;
        mean += margin / judged;
        right += (y * margin > 0 ? 1.0 : margin == 0 ? 0.5 : 0.0) / judged;
      }
      if (judged == 0)
        continue;
      csv_row_name(f, r);
      fputc(',', f);
      ebb_csv_text(f, video->id);
      fputc(',', f);
      ebb_csv_text(f, video->group);
      fprintf(f, ",%d", video->label == EBB_POSSIBLE);
      ebb_csv_number(f, DIGITS, mean);
      ebb_csv_number(f, DIGITS, right);
      fputc('\n', f);
    }
  }
  return true;
}

/* Every held-out margin with all that another program needs to make it again: who was held out with whom, in
 * which cell, at which penalty. */
static bool write_heldout(const ebb_results *results, const ebb_store *store, FILE *f) {
  fputs("category,model,feature,repeat,fold,step,block,head,penalty,video,margin\n", f);
  for (int i = 0; i < results->row_count; i++) {
    const ebb_row *r = &results->rows[i];
    for (int64_t at = 0; at < r->repeats * r->videos; at++) {
      int64_t repeat = at / r->videos, fit = repeat * r->folds + r->fold[at];
      if (r->fold[at] < 0)
        continue;
      csv_row_name(f, r);
      fprintf(f, ",%lld,%d", (long long)repeat, r->fold[at]);
      csv_place(f, r, r->fit_cell[fit]);
      ebb_csv_number(f, DIGITS, r->fit_penalty[fit]);
      fputc(',', f);
      ebb_csv_text(f, store->videos[r->video[at % r->videos]].id);
      fprintf(f, ",%.12g\n", r->margin[at]);
    }
  }
  return true;
}

static bool write_json(const ebb_results *results, const ebb_store *store, FILE *f) {
  (void)store;
  json_t *o = results_json(results);
  bool ok = o && json_dumpf(o, f, JSON_INDENT(1) | JSON_REAL_PRECISION(10)) == 0;
  fputc('\n', f);
  json_decref(o);
  return ok;
}

bool ebb_results_write(const ebb_results *results, const ebb_store *store, const char *dir, ebb_error *err) {
  static const struct {
    const char *name;
    bool (*write)(const ebb_results *, const ebb_store *, FILE *);
  } files[] = {/* results.json last: it is what tells that a probe is finished */
               {"results.csv", write_rows},           {"cells.csv", write_cells},
               {"margins.csv", write_margins},        {"heldout.csv", write_heldout},
               {"best_block.csv", write_best_blocks}, {"results.json", write_json}};
  bool ok = true;
  for (size_t i = 0; ok && i < sizeof files / sizeof *files; i++) {
    if (files[i].write == write_best_blocks && !(results->row_count > 0 && results->rows[0].step_mean))
      continue;
    char *path = ebb_path_join(dir, files[i].name);
    ebb_file_writer w;
    ok = ebb_file_create(&w, path, err);
    if (ok) {
      ok = files[i].write(results, store, w.stream) ||
           ebb_fail(err, "%s: cannot be made or written whole: expected names in UTF-8 and room on the disk",
                    path);
      if (ok)
        ok = ebb_file_commit(&w, err);
      else
        ebb_file_abandon(&w);
    }
    free(path);
  }
  return ok;
}
