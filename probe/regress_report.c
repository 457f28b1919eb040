#include "loaders/file.h"
#include "probe/csv.h"
#include "probe/plot.h"
#include "probe/regress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 6

static const char *const STRICT = "r2, mae, mse: ridge regression, nested cross-validation by group; block, "
                                  "step and penalty are chosen by what inner "
                                  "folds of the training groups explain. r2 = 1 - squares / squares about "
                                  "the mean of the training videos. low, "
                                  "high: 95 % BCa intervals of a bootstrap over groups, widened by sqrt(1 + "
                                  "folds/(folds-1)) for what the folds share. "
                                  "partial: target and features residualised inside each fold on the powers "
                                  "of the other targets. nested_p, p: "
                                  "targets of whole groups permuted among groups of one category and size "
                                  "(of a partial row: residuals), everything "
                                  "refitted, first repeat; p of cells against the maximum over cells.";
static const char *const RELEASED = "r2, mae, mse: preset released, the official probe_regress.py: linear "
                                    "layers by Adam 1e-3, batch 32, the last of "
                                    "50 epochs, mean squared error, features and targets as they are, 80/20 "
                                    "random split of videos by torch.randperm. "
                                    "r2: mean over seeds of each seed's best cell. mae, mse: of the cell "
                                    "highest on average. Known defects: the best "
                                    "cell is chosen on the very videos it is reported on, the split knows no "
                                    "groups, no scaling of features, too few "
                                    "epochs for small ones, no intervals.";

static bool released(const ebb_regressions *r) {
  return strcmp(r->preset, "released") == 0;
}

static int cells_of(const ebb_regression *row) {
  return row->step_count * row->block_count;
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

static json_t *number(double v) {
  return isfinite(v) ? json_real(v) : json_null();
}

static json_t *numbers(const double *v, int count) {
  json_t *a = json_array();
  for (int i = 0; i < count; i++)
    json_array_append_new(a, number(v[i]));
  return a;
}

static json_t *integers(const int *v, int count) {
  json_t *a = json_array();
  for (int i = 0; i < count; i++)
    json_array_append_new(a, json_integer(v[i]));
  return a;
}

static json_t *place(const ebb_regression *row, int cell) {
  return json_pack("[i,i]", cell / row->block_count, cell % row->block_count);
}

static json_t *row_json(const ebb_regression *row) {
  json_t *o =
      json_pack("{s:s,s:s,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I}", "category", row->category, "model", row->model,
                "feature", row->feature, "target", row->target, "partial", row->partial, "videos",
                (json_int_t)row->videos, "groups", (json_int_t)row->groups, "width", (json_int_t)row->width,
                "failed_videos", (json_int_t)row->failed, "videos_without_target", (json_int_t)row->missing);
  json_t *metric = json_object(), *cell = json_object();
  for (int e = 0; e < EBB_ERRORS; e++) {
    const ebb_interval *i = &row->metric[e];
    json_object_set_new(metric, ebb_error_names[e],
                        json_pack("{s:o,s:o,s:o}", "value", number(i->value), "low", number(i->low), "high",
                                  number(i->high)));
    json_object_set_new(cell, ebb_error_names[e], numbers(row->cell[e], cells_of(row)));
  }
  json_object_set_new(cell, "p", numbers(row->cell_p, cells_of(row)));
  json_object_set_new(o, "steps", integers(row->steps, row->step_count));
  json_object_set_new(o, "sigmas", numbers(row->sigmas, row->step_count));
  json_object_set_new(o, "blocks", row->blocks ? integers(row->blocks, row->block_count) : json_null());
  json_object_set_new(o, "nested", metric);
  json_object_set_new(o, "nested_p", number(row->nested_p));
  json_object_set_new(o, "chosen", place(row, row->chosen));
  json_object_set_new(o, "selected", numbers(row->selected, cells_of(row)));
  json_object_set_new(o, "cells", cell);
  json_object_set_new(o, "top", place(row, row->top));
  json_object_set_new(o, "top_first_repeat", number(row->top_once));
  json_object_set_new(o, "p", number(row->p));
  json_object_set_new(o, "floor_permuted",
                      json_pack("[o,o]", number(row->permuted.mean), number(row->permuted.high)));
  if (row->step_mean)
    json_object_set_new(o, "best_block",
                        json_pack("{s:o,s:o}", "mean", numbers(row->step_mean, row->step_count),
                                  "standard_error", numbers(row->step_error, row->step_count)));
  return o;
}

static bool write_json(const ebb_regressions *r, const ebb_store *store, FILE *f) {
  json_t *rows = json_array();
  (void)store;
  bool ok = true;
  for (int i = 0; i < r->row_count; i++)
    ok = json_array_append_new(rows, row_json(&r->rows[i])) == 0 && ok;
  bool strict = !released(r);
  json_t *o = json_pack(
      "{s:s,s:s,s:s,s:o,s:i,s:o,s:I,s:o,s:I,s:b,s:o,s:O?}", "name", r->name, "preset", r->preset, "method",
      strict ? STRICT : RELEASED, "folds", strict ? json_integer(r->folds) : json_null(), "repeats",
      r->repeats, "inner_folds", strict ? json_integer(r->inner_folds) : json_null(), "bootstrap",
      (json_int_t)r->bootstrap, "permutations", strict ? json_integer(r->permutations) : json_null(), "seed",
      (json_int_t)r->seed, "groups_on_both_sides", r->by_video, "rows", rows, "provenance", r->provenance);
  ok = ok && o && json_dumpf(o, f, JSON_INDENT(1) | JSON_REAL_PRECISION(10)) == 0;
  fputc('\n', f);
  json_decref(o);
  return ok;
}

/* ---- CSV ----------------------------------------------------------------------------------------------- */

static void csv_name(FILE *f, const ebb_regression *row) {
  const char *names[4] = {row->category, row->model, row->feature, row->target};
  for (int i = 0; i < 4; i++) {
    ebb_csv_text(f, names[i]);
    fputc(',', f);
  }
  fprintf(f, "%d", row->partial);
}

static void csv_place(FILE *f, const ebb_regression *row, int cell) {
  fprintf(f, ",%d,", row->steps[cell / row->block_count]);
  if (row->blocks)
    fprintf(f, "%d", row->blocks[cell % row->block_count]);
}

static bool write_rows(const ebb_regressions *r, const ebb_store *store, FILE *f) {
  (void)store;
  fputs("category,model,feature,target,partial,videos,groups,r2,r2_lo,r2_hi,mae,mae_lo,mae_hi,mse,mse_lo,mse_"
        "hi,"
        "nested_p,chosen_step,chosen_block,chosen_share,cells,best_first_repeat,best_step,best_block,"
        "floor_permuted,floor_permuted_95,p\n",
        f);
  for (int i = 0; i < r->row_count; i++) {
    const ebb_regression *row = &r->rows[i];
    csv_name(f, row);
    fprintf(f, ",%lld,%lld", (long long)row->videos, (long long)row->groups);
    for (int e = 0; e < EBB_ERRORS; e++) {
      ebb_csv_number(f, DIGITS, row->metric[e].value);
      ebb_csv_number(f, DIGITS, row->metric[e].low);
      ebb_csv_number(f, DIGITS, row->metric[e].high);
    }
    ebb_csv_number(f, DIGITS, row->nested_p);
    csv_place(f, row, row->chosen);
    ebb_csv_number(f, DIGITS, row->selected[row->chosen]);
    fprintf(f, ",%d", cells_of(row));
    ebb_csv_number(f, DIGITS, row->top_once);
    csv_place(f, row, row->top);
    ebb_csv_number(f, DIGITS, row->permuted.mean);
    ebb_csv_number(f, DIGITS, row->permuted.high);
    ebb_csv_number(f, DIGITS, row->p);
    fputc('\n', f);
  }
  return true;
}

static bool write_cells(const ebb_regressions *r, const ebb_store *store, FILE *f) {
  (void)store;
  fputs("category,model,feature,target,partial,step,block,sigma,r2,mae,mse,selected,p\n", f);
  for (int i = 0; i < r->row_count; i++)
    for (int cell = 0; cell < cells_of(&r->rows[i]); cell++) {
      const ebb_regression *row = &r->rows[i];
      csv_name(f, row);
      csv_place(f, row, cell);
      ebb_csv_number(f, DIGITS, row->sigmas[cell / row->block_count]);
      for (int e = 0; e < EBB_ERRORS; e++)
        ebb_csv_number(f, DIGITS, row->cell[e][cell]);
      ebb_csv_number(f, DIGITS, row->selected[cell]);
      ebb_csv_number(f, DIGITS, row->cell_p[cell]);
      fputc('\n', f);
    }
  return true;
}

/* Of partial rows what the other targets leave, and what features make of it. */
static bool write_predictions(const ebb_regressions *r, const ebb_store *store, FILE *f) {
  fputs("category,model,feature,target,partial,repeat,video,group,true,predicted\n", f);
  for (int i = 0; i < r->row_count; i++) {
    const ebb_regression *row = &r->rows[i];
    for (int64_t at = 0; at < row->repeats * row->videos; at++) {
      const ebb_store_video *v = &store->videos[row->video[at % row->videos]];
      if (isnan(row->prediction[at]))
        continue;
      csv_name(f, row);
      fprintf(f, ",%lld,", (long long)(at / row->videos));
      ebb_csv_text(f, v->id);
      fputc(',', f);
      ebb_csv_text(f, v->group);
      ebb_csv_number(f, 9, row->truth[at]);
      ebb_csv_number(f, 9, row->prediction[at]);
      fputc('\n', f);
    }
  }
  return true;
}

/* ---- pictures ------------------------------------------------------------------------------------------ */

static bool plot_row(const ebb_regression *row, const char *dir, ebb_error *err) {
  ebb_row view = {.videos = row->videos,
                  .groups = row->groups,
                  .step_count = row->step_count,
                  .block_count = row->block_count,
                  .steps = row->steps,
                  .blocks = row->blocks,
                  .head_count = 1,
                  .sigmas = row->sigmas,
                  .top = row->top,
                  .top_once = row->top_once,
                  .permuted = row->permuted,
                  .independent = {NAN, NAN}};
  char what[64];
  snprintf(what, sizeof what, "%sR2 of %s", row->partial ? "partial " : "", row->target);
  snprintf(view.category, sizeof view.category, "%s", row->category);
  snprintf(view.model, sizeof view.model, "%s", row->model);
  snprintf(view.feature, sizeof view.feature, "%.36s-%s%s", row->feature, row->target,
           row->partial ? "-partial" : "");
  view.cell[EBB_ACCURACY] = row->cell[EBB_R2];
  return cells_of(row) < 2 || ebb_plot_cells(&view, &(ebb_plot_scale){what, "nothing", 0}, dir, err);
}

bool ebb_regressions_write(const ebb_regressions *r, const ebb_store *store, const char *dir,
                           ebb_error *err) {
  static const struct {
    const char *name;
    bool (*write)(const ebb_regressions *, const ebb_store *, FILE *);
  } files[] = {/* results.json last: it is what tells that all is there */
               {"results.csv", write_rows},
               {"cells.csv", write_cells},
               {"predictions.csv", write_predictions},
               {"results.json", write_json}};
  bool ok = true;
  for (int i = 0; ok && i < r->row_count; i++)
    ok = plot_row(&r->rows[i], dir, err);
  for (size_t i = 0; ok && i < sizeof files / sizeof *files; i++) {
    char *path = ebb_path_join(dir, files[i].name);
    ebb_file_writer w;
    ok = ebb_file_create(&w, path, err);
    if (ok && !files[i].write(r, store, w.stream)) {
      ebb_file_abandon(&w);
      ok = ebb_fail(err, "%s: cannot be made or written whole: expected names in UTF-8 and room on the disk",
                    path);
    }
    ok = ok && ebb_file_commit(&w, err);
    free(path);
  }
  return ok;
}

/* ---- table --------------------------------------------------------------------------------------------- */

static void print_row(const ebb_regressions *r, const ebb_regression *row, FILE *out) {
  char name[64], r2[64], cell[32], p[16] = "-", block[16] = "";
  const ebb_interval *i = &row->metric[EBB_R2];
  snprintf(name, sizeof name, "%s", row->partial ? " beyond others" : row->target);
  if (isfinite(i->low))
    snprintf(r2, sizeof r2, "%.3f [%.3f,%.3f]", i->value, i->low, i->high);
  else
    snprintf(r2, sizeof r2, "%.3f", i->value);
  if (row->blocks)
    snprintf(block, sizeof block, "b%d ", row->blocks[row->chosen % row->block_count]);
  snprintf(cell, sizeof cell, "%ss%d", block, row->steps[row->chosen / row->block_count]);
  if (isfinite(row->nested_p))
    snprintf(p, sizeof p, "%.3f", row->nested_p);
  fprintf(out, "%-14.14s %-16.16s %-14.14s %-22s %7.3g %7.3g %5s %s\n", row->model, row->feature, name, r2,
          row->metric[EBB_MAE].value, row->metric[EBB_MSE].value, released(r) ? "-" : p, cell);
}

static void print_strict(const ebb_regressions *r, FILE *out) {
  fprintf(out,
          "\nR2, MAE, MSE: ridge regression on groups that chose nothing, %d x %d-fold nested "
          "cross-validation by\n"
          "group; R2 is against the mean of the training videos: below 0, worse than it.\n",
          r->repeats, r->folds);
  if (r->bootstrap > 0)
    fprintf(out, "[95 %% bootstrap over groups, widened by %.2f for what folds share].\n",
            sqrt(1 + r->folds / (r->folds - 1.0)));
  fprintf(
      out,
      "chosen: block and step that training groups picked most often; p: targets permuted among groups, all\n"
      "refitted.\n");
  if (r->target_count > 1)
    fprintf(
        out,
        "beyond others: what features tell of the target above beyond the other targets (partial R2); both\n"
        "are residualised inside the fold.\n");
}

static void print_released(const ebb_regressions *r, FILE *out) {
  fprintf(
      out,
      "\npreset released: linear layer by Adam 0.001, batch 32, the last of 50 epochs, features and targets\n"
      "as they are; %d random splits by video, 80 %% trained. R2: mean of each seed's best cell; MAE, MSE "
      "of\n"
      "the cell highest on average (chosen).\n"
      "known defects: the best cell is looked up on the very videos it is reported on; the split knows no\n"
      "groups; the strength of a probe depends on the scale of its block; no intervals.\n",
      r->repeats);
  if (r->by_video)
    fprintf(
        out,
        "LEAK: videos of one group are trained on and judged (probe.allow_leak), which is no evidence.\n");
}

void ebb_regressions_print(const ebb_regressions *r, FILE *out) {
  for (int i = 0; i < r->row_count; i++) {
    const ebb_regression *row = &r->rows[i];
    if (i == 0 || strcmp(row->category, r->rows[i - 1].category) != 0) {
      fprintf(out, "%s%s: %lld videos in %lld groups\n", i ? "\n" : "", row->category, (long long)row->videos,
              (long long)row->groups);
      if (row->failed)
        fprintf(out, "  left out: %lld videos that failed in the run\n", (long long)row->failed);
      if (row->missing)
        fprintf(out, "  left out: %lld videos of which a target is not known\n", (long long)row->missing);
      fprintf(out, "%-14s %-16s %-14s %-22s %7s %7s %5s %s\n", "model", "feature", "target", "R2", "MAE",
              "MSE", "p", "chosen");
    }
    print_row(r, row, out);
  }
  (released(r) ? print_released : print_strict)(r, out);
  const char *notice = json_string_value(json_object_get(r->provenance, "notice"));
  if (notice)
    fprintf(out, "\n%s\n", notice);
}
