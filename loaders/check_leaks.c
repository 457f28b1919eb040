#include "loaders/check_parts.h"
#include "loaders/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the area under the curve ------------------------------------------------------------------------- */

typedef struct scored {
  double score;
  int64_t kind;
  int label;
} scored;

static int by_score(const void *a, const void *b) {
  const double x = ((const scored *)a)->score, y = ((const scored *)b)->score;
  return (x > y) - (x < y);
}

static int by_kind(const void *a, const void *b) {
  const scored *x = a, *y = b;
  return x->kind != y->kind ? (x->kind > y->kind) - (x->kind < y->kind) : by_score(a, b);
}

/* Pairs of a possible and an impossible video in which the possible one has the higher score, ties half; s in
 * order of scores. count: of either label. */
static double wins(const scored *s, int64_t m, double count[2]) {
  double ranks = 0;
  count[0] = count[1] = 0;
  for (int64_t first = 0, next; first < m; first = next) { /* equal scores share the mean of their ranks */
    for (next = first + 1; next < m && s[next].score == s[first].score;)
      next++;
    for (int64_t i = first; i < next; i++) {
      ranks += s[i].label * (1 + (double)(first + next - 1) / 2);
      count[s[i].label]++;
    }
  }
  return ranks - count[1] * (count[1] + 1) / 2;
}

/* Of scores against labels of the videos with both, ties 0.5; NaN without both classes. kinds, where given: what
 * the scores were made from; two videos of one kind are a tie. *spread: its standard deviation were there
 * nothing to it. */
static double auc_of(const ebb_video *const *videos, const double *scores, const int64_t *kinds, int64_t n,
                     double *spread) {
  scored *s = ebb_must(malloc(((size_t)n + 1) * sizeof *s));
  double count[2], within[2];
  int64_t m = 0;
  for (int64_t i = 0; i < n; i++)
    if (videos[i]->label != EBB_UNLABELLED && isfinite(scores[i])) {
      s[m++] = (scored){scores[i], kinds != NULL ? kinds[i] : 0, videos[i]->label == EBB_POSSIBLE};
    }
  qsort(s, (size_t)m, sizeof *s, by_score);
  double won = wins(s, m, count);
  if (kinds != NULL)
    qsort(s, (size_t)m, sizeof *s, by_kind);
  for (int64_t first = 0, next; kinds != NULL && first < m; first = next) {
    for (next = first + 1; next < m && s[next].kind == s[first].kind;)
      next++;
    won -= wins(s + first, next - first, within);
    won += within[0] * within[1] / 2;
  }
  free(s);
  const double p = count[1], q = count[0];
  *spread = p > 0 && q > 0 ? sqrt((p + q + 1) / (12 * p * q)) : NAN;
  return p > 0 && q > 0 ? won / (p * q) : NAN;
}

/* A quantity of the video may go with the label either way. What predicts the label from other groups tells it
 * above 1/2 only: their mean is below the own label by construction, down to an AUC of 0 where each group is one
 * video. */
typedef enum direction { EITHER_WAY, ABOVE } direction;

static double beyond_chance(double auc, direction way) {
  return way == ABOVE ? auc - 0.5 : fabs(auc - 0.5);
}

/* What is further from 1/2 than chance takes a statistic in a thousand sets. */
static bool is_leak(double auc, double spread, direction way) {
  return beyond_chance(auc, way) > 3.3 * spread;
}

/* ---- the container ------------------------------------------------------------------------------------ */

/* kinds: of scores that were predicted from them, NULL for quantities of the video. */
static int print_measure(const ebb_dataset *set, const char *name, const double *scores, const int64_t *kinds,
                         FILE *out) {
  const direction way = kinds != NULL ? ABOVE : EITHER_WAY;
  const ebb_video **videos = ebb_must(malloc((size_t)set->count * sizeof *videos));
  double spread, worst = 0.5, worst_spread = 0;
  const char *where = "";
  for (int64_t i = 0; i < set->count; i++)
    videos[i] = &set->videos[i];
  const double all = auc_of(videos, scores, kinds, set->count, &spread);
  for (int64_t first = 0, next; first < set->count; first = next) {
    for (next = first + 1; next < set->count && strcmp(videos[next]->category, videos[first]->category) == 0;)
      next++;
    double s;
    const double auc =
        auc_of(videos + first, scores + first, kinds != NULL ? kinds + first : NULL, next - first, &s);
    if (beyond_chance(auc, way) > beyond_chance(worst, way)) {
      worst = auc;
      worst_spread = s;
      where = videos[first]->category;
    }
  }
  free(videos);
  if (!isfinite(all))
    return 0;
  const bool leak = is_leak(all, spread, way) || is_leak(worst, worst_spread, way);
  fprintf(out, "  %-22s AUC %.3f (chance %s0.5 +- %.3f)", name, all,
          way == ABOVE && all < 0.5 ? "up to " : "", spread);
  if (where[0] != '\0')
    fprintf(out, ", furthest in %s: %.3f (+- %.3f)", where, worst, worst_spread);
  fprintf(out, "%s\n", leak ? "  LEAK: it predicts the label" : "");
  return leak;
}

static int check_container(const ebb_dataset *set, const ebb_look *looks, FILE *out) {
  double *scores = ebb_must(malloc((size_t)set->count * sizeof *scores));
  int leaks = 0;
  static const char *const names[] = {"bytes", "frames", "bytes per frame", "pixels of a frame"};
  for (int k = 0; k < 4; k++) {
    for (int64_t i = 0; i < set->count; i++) {
      const ebb_look *l = &looks[i];
      const double of[] = {(double)l->bytes, l->frames, (double)l->bytes / (l->frames > 0 ? l->frames : 1),
                           (double)l->height * l->width};
      scores[i] = l->frames > 0 ? of[k] : NAN;
    }
    leaks += print_measure(set, names[k], scores, NULL, out);
  }
  free(scores);
  return leaks;
}

/* ---- the prompt --------------------------------------------------------------------------------------- */

/* The number of the text that, rounded as it is written, stands for the value; the nearest of several, NaN when
 * there is none. */
static double stated_number(const char *text, double value) {
  double nearest = NAN;
  for (const char *p = text; *p != '\0';) {
    if (*p < '0' || *p > '9') {
      p++;
      continue;
    }
    char *end;
    const double sign = p > text && p[-1] == '-' ? -1 : 1;
    const size_t whole = strspn(p, "0123456789");
    const size_t decimals = p[whole] == '.' ? strspn(p + whole + 1, "0123456789") : 0;
    const double number = sign * strtod(p, &end), off = fabs(number - value);
    if (off <= 0.5001 * pow(10, -(double)decimals) && !(off >= fabs(nearest - value)))
      nearest = number;
    p += whole + (decimals > 0 ? decimals + 1 : 0);
  }
  return nearest;
}

static int compare_text(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Numbers texts by their order; how many there are. */
static int64_t number_texts(char **texts, int64_t n, int64_t *number) {
  char **sorted = ebb_must(malloc(((size_t)n + 1) * sizeof *sorted));
  memcpy(sorted, texts, (size_t)n * sizeof *sorted);
  qsort(sorted, (size_t)n, sizeof *sorted, compare_text);
  int64_t distinct = 0;
  for (int64_t i = 0; i < n; i++)
    if (i == 0 || strcmp(sorted[i], sorted[distinct - 1]) != 0)
      sorted[distinct++] = sorted[i];
  for (int64_t i = 0; i < n; i++)
    number[i] = (char **)bsearch(&texts[i], sorted, (size_t)distinct, sizeof *sorted, compare_text) - sorted;
  free(sorted);
  return distinct;
}

/* The mean of `of` over the videos of other groups with the same prompt (or view), NaN where there are none. Videos
 * stand in order of groups. */
static void predict(const ebb_dataset *set, const int64_t *prompt, int64_t prompts, const double *of,
                    double *to) {
  double *sum = ebb_must(calloc((size_t)prompts * 2, sizeof *sum)), *count = sum + prompts;
  for (int64_t i = 0; i < set->count; i++)
    if (isfinite(of[i])) {
      sum[prompt[i]] += of[i];
      count[prompt[i]]++;
    }
  for (int64_t first = 0, next; first < set->count; first = next) {
    for (next = first + 1;
         next < set->count && strcmp(set->videos[next].group, set->videos[first].group) == 0;)
      next++;
    for (int64_t i = first; i < next; i++) {
      double s = sum[prompt[i]], n = count[prompt[i]];
      for (int64_t j = first; j < next; j++)
        if (prompt[j] == prompt[i] && isfinite(of[j])) {
          s -= of[j];
          n--;
        }
      to[i] = n > 0 ? s / n : NAN;
    }
  }
  free(sum);
}

static double explained(const double *of, const double *predicted, int64_t n) {
  double first = 0, sum = 0, total = 0, left = 0, m = 0;
  for (int64_t i = 0; i < n; i++)
    if (isfinite(of[i]) && isfinite(predicted[i])) {
      if (m++ == 0)
        first = of[i];
      sum += of[i] - first; /* so that a constant leaves exactly nothing */
      left += (of[i] - predicted[i]) * (of[i] - predicted[i]);
    }
  for (int64_t i = 0; i < n; i++)
    if (isfinite(of[i]) && isfinite(predicted[i]))
      total += (of[i] - first - sum / m) * (of[i] - first - sum / m);
  return m > 1 && total > 0 ? 1 - left / total : NAN;
}

static int check_targets(const ebb_dataset *set, const int64_t *prompt, int64_t prompts, double *of,
                         double *to, FILE *out) {
  int leaks = 0;
  for (int t = 0; t < set->target_count; t++) {
    int64_t stated = 0, known = 0;
    double first = NAN;
    bool differ = false; /* "1 ball" in all prompts states the radius of none */
    for (int64_t i = 0; i < set->count; i++) {
      of[i] = set->videos[i].targets[t];
      known += isfinite(of[i]) != 0;
      const char *text = set->videos[i].prompt;
      const double number = isfinite(of[i]) && text != NULL ? stated_number(text, of[i]) : NAN;
      if (!isfinite(number))
        continue;
      differ |= stated++ > 0 && number != first;
      first = number;
    }
    predict(set, prompt, prompts, of, to);
    const double r2 = prompts > 1 ? explained(of, to, set->count) : NAN;
    if (differ && 10 * stated >= 9 * known) {
      fprintf(out, "  LEAK: the prompt states the target %s in figures, in %lld of %lld videos\n",
              set->target_names[t], (long long)stated, (long long)known);
      leaks++;
    } else if (r2 > 0.1) {
      fprintf(out, "  LEAK: the prompt alone predicts the target %s across groups, R2 %.3f\n",
              set->target_names[t], r2);
      leaks++;
    }
  }
  return leaks;
}

static double label_of(const ebb_video *v) {
  return v->label == EBB_UNLABELLED ? NAN : v->label;
}

static int check_views(const ebb_dataset *set, FILE *out) {
  const size_t n = (size_t)set->count;
  char **texts = ebb_must(malloc(n * sizeof *texts));
  int64_t *view = ebb_must(malloc(n * sizeof *view));
  double *of = ebb_must(malloc(2 * n * sizeof *of)), *to = of + n;
  static char nothing[] = "";
  for (size_t i = 0; i < n; i++) {
    texts[i] = set->videos[i].view != NULL ? set->videos[i].view : nothing;
    of[i] = label_of(&set->videos[i]);
  }
  const int64_t views = number_texts(texts, set->count, view);
  predict(set, view, views, of, to);
  const int leaks = views > 1 ? print_measure(set, "view", to, view, out) : 0;
  free(texts);
  free(view);
  free(of);
  return leaks;
}

static int check_prompts(const ebb_dataset *set, FILE *out) {
  const size_t n = (size_t)set->count;
  char **texts = ebb_must(malloc(n * sizeof *texts));
  int64_t *prompt = ebb_must(malloc(n * sizeof *prompt)), without = 0;
  double *of = ebb_must(malloc(2 * n * sizeof *of)), *to = of + n;
  static char nothing[] = "";
  for (size_t i = 0; i < n; i++) {
    without += set->videos[i].prompt == NULL;
    texts[i] = set->videos[i].prompt != NULL ? set->videos[i].prompt : nothing;
    of[i] = label_of(&set->videos[i]);
  }
  int leaks = 0;
  if (without == set->count) {
    fprintf(out, "  %-22s none in the set: all videos get the run's\n", "prompt");
  } else {
    const int64_t prompts = number_texts(texts, set->count, prompt);
    fprintf(out, "  %-22s %lld different of %lld videos%s\n", "prompt", (long long)prompts,
            (long long)set->count, prompts == 1 ? ": it tells nothing" : "");
    predict(set, prompt, prompts, of, to);
    leaks += prompts > 1 ? print_measure(set, "prompt", to, prompt, out) : 0;
    leaks += check_targets(set, prompt, prompts, of, to, out);
  }
  free(texts);
  free(prompt);
  free(of);
  return leaks;
}

/* ---- the same event or video in several groups -------------------------------------------------------- */

typedef struct named {
  char *key;
  const ebb_video *video;
} named;

static int by_key(const void *a, const void *b) {
  const named *x = a, *y = b;
  const int order = strcmp(x->key, y->key);
  return order != 0 ? order : strcmp(x->video->group, y->video->group);
}

/* How many keys stand for videos of more than one group; *example: two of them. */
static int64_t in_many_groups(named *list, int64_t n, const named *example[2]) {
  int64_t keys = 0;
  qsort(list, (size_t)n, sizeof *list, by_key);
  for (int64_t first = 0, next; first < n; first = next) {
    for (next = first + 1; next < n && strcmp(list[next].key, list[first].key) == 0;)
      next++;
    if (strcmp(list[first].video->group, list[next - 1].video->group) == 0)
      continue;
    if (keys++ == 0) {
      example[0] = &list[first];
      example[1] = &list[next - 1];
    }
  }
  return keys;
}

/* Where the text stands in the name as a whole part, between '_', '/', '-' or the ends; NULL: nowhere. */
static const char *whole_part(const char *name, const char *text) {
  const size_t n = strlen(text);
  for (const char *hit = name; n > 0 && (hit = strstr(hit, text)) != NULL; hit++)
    if ((hit == name || strchr("_/-", hit[-1]) != NULL) && strchr("_/-", hit[n]) != NULL) /* its end, too */
      return hit;
  return NULL;
}

/* The group's name without its view: "gravity/left__tube__duck" and "gravity/right__tube__duck" become one. A
 * group with several views is not cut by view: "left_shoe" is another event than "right_shoe". */
static char *without_view(const ebb_video *v, bool one_view) {
  const char *hit = one_view && v->view != NULL ? whole_part(v->group, v->view) : NULL;
  return hit == NULL ? ebb_format("%s", v->group)
                     : ebb_format("%.*s|%s", (int)(hit - v->group), v->group, hit + strlen(v->view));
}

static int check_groups(const ebb_dataset *set, const ebb_look *looks, FILE *out) {
  named *list = ebb_must(malloc((size_t)set->count * sizeof *list));
  const named *example[2];
  int leaks = 0;
  for (int64_t first = 0, next; first < set->count; first = next) {
    const ebb_video *v = &set->videos[first];
    bool one = v->view != NULL;
    for (next = first; next < set->count && strcmp(set->videos[next].group, v->group) == 0; next++)
      one = one && set->videos[next].view != NULL && strcmp(set->videos[next].view, v->view) == 0;
    for (int64_t i = first; i < next; i++)
      list[i] = (named){without_view(&set->videos[i], one), &set->videos[i]};
  }
  const int64_t events = in_many_groups(list, set->count, example);
  if (events > 0)
    fprintf(out,
            "  LEAK: %lld events are in several groups, by camera view (%s and %s): the same event in "
            "training and test\n",
            (long long)events, example[0]->video->group, example[1]->video->group);
  leaks += events > 0;
  for (int64_t i = 0; i < set->count; i++)
    free(list[i].key);
  int64_t n = 0;
  for (int64_t i = 0; i < set->count; i++)
    if (looks[i].frames > 0)
      list[n++] = (named){(char *)looks[i].content, &set->videos[i]};
  const int64_t twice = in_many_groups(list, n, example);
  if (twice > 0)
    fprintf(out, "  LEAK: %lld videos are in several groups with the same pixels (%s and %s)\n",
            (long long)twice, example[0]->video->id, example[1]->video->id);
  leaks += twice > 0;
  if (events + twice == 0)
    fprintf(out, "  %-22s no event and no video is in two of them\n", "groups");
  free(list);
  return leaks;
}

int ebb_check_leaks(const ebb_dataset *set, const ebb_look *looks, FILE *out) {
  fprintf(out, "Leaks: what tells labels or targets without looking at the frames\n");
  int leaks = check_container(set, looks, out);
  leaks += check_views(set, out);
  leaks += check_prompts(set, out);
  return leaks + check_groups(set, looks, out);
}
