#include "probe/presets.h"
#include "probe/report.h"

#include <math.h>
#include <string.h>

#define TEXT 40

/* ".77", "1.0", "-.05"; "-" when undefined. */
static const char *short_number(double v, char *text) {
  char full[TEXT];
  if (!isfinite(v))
    return strcpy(text, "-");
  snprintf(full, sizeof full, "%.2f", fmax(-99, fmin(99, v)));
  const char *digits = full[0] == '-' ? full + 1 : full;
  bool zero = strcmp(digits, "0.00") == 0;
  if (strcmp(digits, "1.00") == 0)
    digits = "1.0";
  if (digits[0] == '0')
    digits++;
  text[0] = '\0';
  if (full[0] == '-' && !zero)
    strcat(text, "-");
  return strcat(text, digits);
}

static const char *with_interval(const ebb_interval *i, char *text) {
  char value[TEXT], low[TEXT], high[TEXT];
  snprintf(text, 3 * TEXT, "%3s [%s,%s]", short_number(i->value, value), short_number(i->low, low),
           short_number(i->high, high));
  return text;
}

/* "b3 s12", "b3h0s12" */
static const char *place(const ebb_row *r, int cell, char *text) {
  const ebb_cell at = ebb_cell_of(r, cell);
  if (r->by_head)
    snprintf(text, TEXT, "b%dh%ds%d", r->blocks[at.block], at.head, r->steps[at.step]);
  else if (r->blocks)
    snprintf(text, TEXT, "b%d s%d", r->blocks[at.block], r->steps[at.step]);
  else
    snprintf(text, TEXT, "s%d", r->steps[at.step]);
  return text;
}

/* ".012"; "-" when there were no permutations. */
static const char *probability(double p, char *text) {
  if (isfinite(p) && p < 0.9995)
    snprintf(text, TEXT, ".%03d", (int)lround(1000 * fmax(0, p)));
  else
    strcpy(text, isfinite(p) ? "1.0" : "-");
  return text;
}

/* Of the column of chosen cells: as wide as the widest, 9 at least. */
static int place_width(const ebb_results *results) {
  int width = 9;
  char text[TEXT];
  for (int i = 0; i < results->row_count; i++) {
    const int needed = (int)strlen(place(&results->rows[i], results->rows[i].chosen, text));
    width = needed > width ? needed : width;
  }
  return width;
}

static void print_row(const ebb_row *r, int width, FILE *out) {
  char accuracy[3 * TEXT], pairwise[3 * TEXT], auc[TEXT], chosen[TEXT], top[TEXT], low[TEXT], p[TEXT],
      nested_p[TEXT];
  bool have = isfinite(r->permuted.mean);
  fprintf(out, "%-19.19s %-20.20s %-13s %3s %-13s %4s %-*s %3s %3s %4s\n", r->model, r->feature,
          with_interval(&r->metric[EBB_ACCURACY], accuracy), short_number(r->metric[EBB_AUC].value, auc),
          with_interval(&r->metric[EBB_PAIRWISE], pairwise), probability(r->nested_p, nested_p), width,
          place(r, r->chosen, chosen), short_number(r->top_once, top),
          short_number(have ? r->permuted.mean : r->independent.mean, low), probability(r->p, p));
}

static void print_left_out(const ebb_row *r, FILE *out) {
  if (r->failed)
    fprintf(out, "  left out: %lld videos that failed in the run\n", (long long)r->failed);
  if (r->unlabelled)
    fprintf(out, "  left out: %lld videos without a label\n", (long long)r->unlabelled);
  if (r->one_sided)
    fprintf(out, "  left out: %lld groups with only possible or only impossible videos\n",
            (long long)r->one_sided);
}

static void print_differences(const ebb_results *results, const char *category, FILE *out) {
  for (int i = 0; i < results->difference_count; i++) {
    const ebb_difference *d = &results->differences[i];
    if (strcmp(d->category, category) != 0)
      continue;
    char accuracy[3 * TEXT], pairwise[3 * TEXT], other[160];
    bool same = strcmp(d->feature, d->other_feature) == 0;
    snprintf(other, sizeof other, "%s%s%s", d->other_model, same ? "" : " ", same ? "" : d->other_feature);
    fprintf(out, "  %-20.20s minus %-20.20s accuracy %-15s pairwise %s\n", d->feature, other,
            with_interval(&d->metric[EBB_ACCURACY], accuracy),
            with_interval(&d->metric[EBB_PAIRWISE], pairwise));
  }
}

/* Whether some number is exactly 1 or 0, so that its interval is an exact one (ebb_exact_ends). */
static bool any_exact(const ebb_results *results) {
  for (int i = 0; i < results->row_count; i++)
    for (int m = 0; m < EBB_METRICS; m++) {
      double value = results->rows[i].metric[m].value;
      if (value == 0 || value == 1)
        return true;
    }
  return false;
}

/* Of the steps the one nearest the middle of those captured: the paper's bars are of step 50 of 100. */
static int middle_step(const ebb_row *r) {
  double half = 0.5 * (r->steps[0] + r->steps[r->step_count - 1]);
  int best = 0;
  for (int s = 1; s < r->step_count; s++)
    if (fabs(r->steps[s] - half) < fabs(r->steps[best] - half))
      best = s;
  return best;
}

static void print_best_blocks(const ebb_results *results, FILE *out) {
  fprintf(out, "\nbest block of each seed on its test videos, mean and standard error over %d seeds:\n",
          results->repeats);
  for (int i = 0; i < results->row_count; i++) {
    const ebb_row *r = &results->rows[i];
    int middle = middle_step(r), best = 0;
    for (int s = 1; s < r->step_count; s++)
      best = r->step_mean[s] > r->step_mean[best] ? s : best;
    char error[TEXT] = "";
    if (isfinite(r->step_error[middle])) /* one seed has none */
      snprintf(error, sizeof error, " +- %.4f", r->step_error[middle]);
    fprintf(out, "  %-8.8s %-19.19s %-20.20s s%d: %.4f%s; highest s%d: %.4f\n", r->category, r->model,
            r->feature, r->steps[middle], r->step_mean[middle], error, r->steps[best], r->step_mean[best]);
  }
}

static void print_preset(const ebb_results *results, const ebb_preset *preset, FILE *out) {
  const ebb_training *t = &preset->training;
  fprintf(out,
          "\naccuracy, AUC, pairwise: preset %s: linear layer by Adam %g, L2 %g, batch %d,\n"
          "%s %d epochs, features %s; %d random splits by %s, %.0f %% trained;\n",
          preset->name, t->rate, t->decay, t->batch,
          preset->validation > 0 ? "the best of at most" : "the last of", t->epochs,
          t->standardise ? "standardised" : "as they are", results->repeats,
          results->by_video ? "video" : "group", 100 * (1 - preset->test - preset->validation));
  if (results->bootstrap > 0)
    fprintf(out, "[95 %% bootstrap over groups, widened by %.2f for what splits share];\n",
            sqrt(1 + 5 / 4.0));
  else
    fprintf(out, "no intervals: probe.bootstrap is 0;\n");
  fprintf(out,
          "chosen: cell that seeds picked most often, on %s videos. top: highest cell of the first\n"
          "seed; flr: what such a highest reaches with labels tossed, cells independent; p: none.\n",
          preset->choose_on_test ? "the test" : "validation");
  for (const char *const *line = preset->defect; *line; line++)
    fprintf(out, "%s\n", *line);
  if (results->by_video)
    fprintf(
        out,
        "LEAK: videos of one group are trained on and tested (probe.allow_leak), which is no evidence.\n");
  if (results->not_used[0])
    fprintf(out, "not used by this preset: %s\n", results->not_used);
}

static void print_strict(const ebb_results *results, FILE *out) {
  fprintf(out,
          "\naccuracy, AUC, pairwise: logistic regression on groups that chose nothing, %d x %d-fold nested\n"
          "cross-validation by group; ",
          results->repeats, results->folds);
  if (results->bootstrap > 0)
    fprintf(out, "[95 %% bootstrap over groups, widened by %.2f for what folds share%s];\n",
            sqrt(1 + results->folds / (results->folds - 1.0)),
            any_exact(results) ? ";\nat 1.0 and .00 exact binomial over groups" : "");
  else
    fprintf(out, "no intervals: probe.bootstrap is 0;\n");
  fprintf(
      out,
      "p: of the same choice judged by ridge, labels permuted within groups. chosen: block and step that\n"
      "training groups picked most often. top: highest of all cells, looked up on the data it is\n"
      "reported on; flr: what such a highest reaches with labels %s; p\n"
      "beside it: of top. top, flr and this p: of the first repeat.\n",
      results->permutations > 0 ? "permuted within groups" : "tossed, cells independent");
}

static void print_footer(const ebb_results *results, FILE *out) {
  const ebb_preset *preset = ebb_preset_find(results->preset);
  bool by_head = false;
  for (int i = 0; i < results->row_count; i++)
    by_head = by_head || results->rows[i].by_head;
  if (preset && preset->choose_on_test && results->row_count > 0 && results->rows[0].step_mean)
    print_best_blocks(results, out);
  if (preset)
    print_preset(results, preset, out);
  else
    print_strict(results, out);
  if (by_head)
    fprintf(out, EBB_OF_A_HEAD ": one head's numbers at a time; the head is chosen with block and step.\n");
}

void ebb_results_print(const ebb_results *results, FILE *out) {
  const char *trained = ebb_trained_model(results->rows, results->row_count);
  const int width = place_width(results);
  for (int i = 0; i < results->row_count; i++) {
    const ebb_row *r = &results->rows[i];
    if (i == 0 || strcmp(r->category, results->rows[i - 1].category) != 0) {
      fprintf(out, "%s%s: %lld videos in %lld groups\n", i ? "\n" : "", r->category, (long long)r->videos,
              (long long)r->groups);
      print_left_out(r, out);
      fprintf(out, "%-19s %-20s %-13s %3s %-13s %4s %-*s %3s %3s %4s\n", "model", "feature", "accuracy",
              "AUC", "pairwise", "p", width, "chosen", "top", "flr", "p");
    }
    print_row(r, width, out);
    if (i + 1 == results->row_count || strcmp(r->category, results->rows[i + 1].category) != 0) {
      if (trained[0])
        fprintf(out, "%s minus the others, same videos:\n", trained);
      print_differences(results, r->category, out);
    }
  }
  print_footer(results, out);
  const char *notice = json_string_value(json_object_get(results->provenance, "notice"));
  if (notice)
    fprintf(out, "\n%s\n", notice);
}
