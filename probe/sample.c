#include "probe/sample.h"

#include "loaders/file.h"
#include "probe/split.h"
#include "probe/torch_order.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OUTER_STREAM 0x6f75740000000000u /* "out" */
#define INNER_STREAM 0x696e6e0000000000u /* "inn" */

/* Number of `name` among the distinct names so far, which it joins when new. */
static int name_number(const char **names, int *count, const char *name) {
  for (int i = *count - 1; i >= 0; i--) /* videos of a group come together: the last is the likeliest */
    if (strcmp(names[i], name) == 0)
      return i;
  names[*count] = name;
  return (*count)++;
}

/* Counts of one group while a sample is made. */
typedef struct tally {
  int64_t of[2];
  int number; /* among the groups kept */
} tally;

/* What a sample is made of: labelled videos, or those that know the targets. */
typedef struct wanted {
  bool by_category;
  const char *category; /* NULL: all */
  int folds, inner_folds;
  const int *targets; /* NULL: labels */
  int target_count;
} wanted;

static bool knows(const ebb_store_video *video, const wanted *w) {
  for (int i = 0; i < w->target_count; i++)
    if (!video->targets || !isfinite(video->targets[w->targets[i]]))
      return false;
  return true;
}

/* Number of the matched pair that a video is in: the first video of its group with the same one. */
static int pair_of(const ebb_store *store, const ebb_sample *s, int64_t v) {
  const ebb_store_video *video = &store->videos[v];
  for (int64_t i = s->n - 1; video->pair && i >= 0; i--) {
    const ebb_store_video *other = &store->videos[s->video[i]];
    if (other->pair && strcmp(other->pair, video->pair) == 0 && strcmp(other->group, video->group) == 0)
      return s->pair[i];
  }
  return video->pair ? (int)s->n : -1;
}

/* Wanted videos that did not fail, with groups numbered by first appearance; counts in groups
 * [*group_count]. */
static void gather(const ebb_store *store, const wanted *w, const char **categories, int *category_count,
                   ebb_sample *s, tally *groups, const char **group_names, int *group_count) {
  for (int64_t v = 0; v < store->video_count; v++) {
    const ebb_store_video *video = &store->videos[v];
    if (w->category && strcmp(video->category, w->category) != 0)
      continue;
    bool labelled = video->label != EBB_UNLABELLED, known = knows(video, w);
    s->failed += video->failed != NULL;
    s->unlabelled += !video->failed && !labelled && !w->targets;
    s->missing += !video->failed && !known;
    if (video->failed || !(w->targets ? known : labelled))
      continue;
    int g = name_number(group_names, group_count, video->group);
    s->stratum[g] = name_number(categories, category_count, video->category);
    groups[g].of[video->label == EBB_POSSIBLE]++;
    s->names[g] = video->group;
    s->pair[s->n] = pair_of(store, s, v);
    s->video[s->n] = v;
    s->label[s->n] = video->label == EBB_POSSIBLE ? 1 : -1;
    s->group[s->n++] = g;
  }
}

static void keep_two_sided(ebb_sample *s, tally *groups, int group_count) {
  for (int g = 0; g < group_count; g++) {
    bool keep = groups[g].of[0] > 0 && groups[g].of[1] > 0;
    s->one_sided += !keep;
    groups[g].number = keep ? (int)s->groups : -1;
    if (!keep)
      continue;
    s->names[s->groups] = s->names[g];
    s->stratum[s->groups++] = s->stratum[g];
  }
  int64_t kept = 0;
  for (int64_t i = 0; i < s->n; i++) {
    int g = groups[s->group[i]].number;
    if (g < 0)
      continue;
    s->pair[kept] = s->pair[i];
    s->video[kept] = s->video[i];
    s->label[kept] = s->label[i];
    s->group[kept++] = g;
  }
  s->n = kept;
}

/* Whether every inner fold of every outer training set has a group. */
static bool enough(int64_t groups, int folds, int inner_folds) {
  int64_t largest = (groups + folds - 1) / folds;
  return groups >= folds && groups - largest >= inner_folds;
}

static bool check_folds(const ebb_sample *s, const wanted *w, ebb_error *err) {
  int64_t needed = 1;
  while (!enough(needed, w->folds, w->inner_folds))
    needed++;
  if (enough(s->groups, w->folds, w->inner_folds))
    return true;
  return ebb_fail(err,
                  "%s: %lld groups%s (%lld groups with one class left out); probe.folds %d with "
                  "probe.inner_folds %d needs at least %lld: add videos or lower the folds",
                  s->name, (long long)s->groups, w->targets ? "" : " with possible and impossible videos",
                  (long long)s->one_sided, w->folds, w->inner_folds, (long long)needed);
}

static bool check(const ebb_sample *s, const wanted *w, const int64_t of[2], ebb_error *err) {
  if (w->folds < 2 || w->inner_folds < 2)
    return ebb_fail(err, "probe.folds %d, probe.inner_folds %d: at least 2 of each are needed", w->folds,
                    w->inner_folds);
  if (w->targets && s->n == 0)
    return ebb_fail(err, "%s: no video that knows the targets (%lld failed, %lld without one of them)",
                    s->name, (long long)s->failed, (long long)s->missing);
  if (w->targets)
    return check_folds(s, w, err);
  if (of[0] + of[1] == 0)
    return ebb_fail(err, "%s: no labelled video to probe (%lld failed, %lld without a label)", s->name,
                    (long long)s->failed, (long long)s->unlabelled);
  if (of[0] == 0 || of[1] == 0)
    return ebb_fail(
        err,
        "%s: labels of one class only: all %lld videos are %s; a probe needs possible and impossible videos "
        "in every group",
        s->name, (long long)(of[0] + of[1]), of[1] ? "possible" : "impossible");
  return check_folds(s, w, err);
}

static bool copy_targets(const ebb_store *store, const wanted *w, ebb_sample *s) {
  s->target = calloc((size_t)w->target_count * (size_t)s->n + 1, sizeof *s->target);
  for (int t = 0; s->target && t < w->target_count; t++)
    for (int64_t i = 0; i < s->n; i++)
      s->target[t * s->n + i] = store->videos[s->video[i]].targets[w->targets[t]];
  return s->target != NULL;
}

static bool make(const ebb_store *store, const wanted *w, ebb_sample *s, ebb_error *err) {
  size_t n = (size_t)store->video_count + 1;
  snprintf(s->name, sizeof s->name, "%s", w->category ? w->category : "all");
  s->by_category = w->by_category;
  s->video = calloc(n, sizeof *s->video);
  s->label = calloc(n, sizeof *s->label);
  s->group = calloc(n, sizeof *s->group);
  s->pair = calloc(n, sizeof *s->pair);
  s->stratum = calloc(n, sizeof *s->stratum);
  s->names = calloc(n, sizeof *s->names);
  tally *groups = calloc(n, sizeof *groups);
  const char **names = calloc(2 * n, sizeof *names);
  int group_count = 0, category_count = 0;
  bool ok = s->video && s->label && s->group && s->pair && s->stratum && s->names && groups && names;
  if (ok) {
    gather(store, w, names + n, &category_count, s, groups, names, &group_count);
    int64_t of[2] = {0, 0};
    for (int g = 0; g < group_count; g++)
      for (int k = 0; k < 2; k++)
        of[k] += groups[g].of[k];
    s->groups = group_count;
    if (!w->targets) {
      s->groups = 0;
      keep_two_sided(s, groups, group_count);
    }
    ok = check(s, w, of, err) && (!w->targets || copy_targets(store, w, s));
  }
  if (!ok)
    ebb_fail(err, "not enough memory for a sample of %lld videos", (long long)store->video_count);
  free(groups);
  free(names);
  return ok;
}

static bool make_samples(const ebb_store *store, wanted w, ebb_sample **samples, int *count, ebb_error *err) {
  const char **categories = calloc((size_t)store->video_count + 1, sizeof *categories);
  *samples = calloc((size_t)store->video_count + 1, sizeof **samples);
  *count = 0;
  bool ok = categories && *samples;
  if (!ok)
    ebb_fail(err, "not enough memory for samples of %lld videos", (long long)store->video_count);
  int names = 0;
  for (int64_t v = 0; ok && w.by_category && v < store->video_count; v++)
    name_number(categories, &names, store->videos[v].category);
  if (!w.by_category || names == 0)
    names = 1; /* categories[0] is NULL: all; an empty store fails there */
  for (int i = 0; ok && i < names; i++) {
    w.category = categories[i];
    ok = make(store, &w, &(*samples)[(*count)++], err);
  }
  free(categories);
  if (!ok) {
    ebb_samples_free(*samples, *count);
    *samples = NULL;
    *count = 0;
  }
  return ok;
}

bool ebb_samples_make(const ebb_store *store, bool by_category, int folds, int inner_folds,
                      ebb_sample **samples, int *count, ebb_error *err) {
  return make_samples(store, (wanted){.by_category = by_category, .folds = folds, .inner_folds = inner_folds},
                      samples, count, err);
}

bool ebb_samples_targets(const ebb_store *store, bool by_category, int folds, int inner_folds,
                         const int *targets, int target_count, ebb_sample **samples, int *count,
                         ebb_error *err) {
  return make_samples(store, (wanted){by_category, NULL, folds, inner_folds, targets, target_count}, samples,
                      count, err);
}

bool ebb_sample_grouped(const ebb_sample *s) {
  return s->groups < s->n;
}

void ebb_sample_ungroup(ebb_sample *s, const ebb_store *store) {
  int *stratum = ebb_must(calloc((size_t)s->n + 1, sizeof *stratum));
  for (int64_t i = 0; i < s->n; i++)
    stratum[i] = s->stratum[s->group[i]];
  for (int64_t i = 0; i < s->n; i++) { /* arrays have room for every video of the store */
    s->stratum[i] = stratum[i];
    s->pair[i] = -1;
    s->group[i] = (int)i;
    s->names[i] = store->videos[s->video[i]].id;
  }
  s->groups = s->n;
  free(stratum);
}

void ebb_samples_free(ebb_sample *samples, int count) {
  for (int i = 0; i < count; i++) {
    free(samples[i].video);
    free(samples[i].label);
    free(samples[i].group);
    free(samples[i].pair);
    free(samples[i].stratum);
    free(samples[i].names);
    free(samples[i].target);
  }
  free(samples);
}

/* ---- folds ---- */

static bool make_part(ebb_part *part, const ebb_sample *s, const int *outer, int held_out, const int *inner) {
  part->train = malloc(3 * ((size_t)s->n + 1) * sizeof *part->train);
  if (!part->train)
    return false;
  part->test = part->train + s->n;
  part->inner = part->test + s->n;
  for (int64_t i = 0; i < s->n; i++) {
    int g = s->group[i];
    if (outer[g] == held_out)
      part->test[part->test_count++] = (int32_t)i;
    else {
      part->inner[part->train_count] = inner[g];
      part->train[part->train_count++] = (int32_t)i;
    }
  }
  return true;
}

bool ebb_plan_make(ebb_plan *plan, const ebb_sample *s, int repeats, int folds, int inner_folds,
                   uint64_t seed, ebb_error *err) {
  *plan = (ebb_plan){repeats, folds, inner_folds, NULL, NULL};
  plan->fold = calloc((size_t)(repeats * s->groups) + 1, sizeof *plan->fold);
  plan->part = calloc((size_t)(repeats * folds) + 1, sizeof *plan->part);
  int *inner = calloc((size_t)s->groups + 1, sizeof *inner);
  bool ok = plan->fold && plan->part && inner;
  if (!ok)
    ebb_fail(err, "not enough memory for the folds of %lld groups", (long long)s->groups);
  for (int r = 0; ok && r < repeats; r++) {
    int *outer = plan->fold + r * s->groups;
    ok = ebb_split_groups(s->groups, s->stratum, folds, seed, OUTER_STREAM + (uint64_t)r, outer, err);
    for (int f = 0; ok && f < folds; f++) {
      uint64_t stream = INNER_STREAM + (uint64_t)r * 65536 + (uint64_t)f;
      ok = ebb_split_inner(s->groups, s->stratum, outer, f, inner_folds, seed, stream, inner, err);
      if (ok && !make_part(&plan->part[r * folds + f], s, outer, f, inner))
        ok = ebb_fail(err, "not enough memory for the folds of %lld videos", (long long)s->n);
    }
  }
  free(inner);
  if (!ok)
    ebb_plan_free(plan);
  return ok;
}

/* rank [groups]: 0.. in random order; the first `test` are judged, the next `validation` decide. */
static bool split_part(ebb_part *part, const ebb_sample *s, const int *rank, int64_t test,
                       int64_t validation) {
  part->train = malloc(3 * ((size_t)s->n + 1) * sizeof *part->train);
  if (!part->train)
    return false;
  part->test = part->train + s->n;
  part->validation = part->test + s->n;
  for (int64_t i = 0; i < s->n; i++) {
    int r = rank[s->group[i]];
    if (r < test)
      part->test[part->test_count++] = (int32_t)i;
    else if (r < test + validation)
      part->validation[part->validation_count++] = (int32_t)i;
    else
      part->train[part->train_count++] = (int32_t)i;
  }
  return true;
}

/* int(round(groups * share)) of Python, which rounds half to even. */
static int64_t share_of(int64_t groups, double share) {
  int64_t count = (int64_t)nearbyint((double)groups * share);
  return share > 0 && count < 1 ? 1 : count;
}

/* Names of scenes as the official run folder has them: "O1/01" is O1_01. */
static int official_order(const char *a, const char *b) {
  for (;; a++, b++) {
    unsigned char x = *a == '/' ? '_' : (unsigned char)*a, y = *b == '/' ? '_' : (unsigned char)*b;
    if (x != y)
      return x < y ? -1 : 1;
    if (x == '\0')
      return 0;
  }
}

typedef struct named {
  const char *name;
  int64_t group;
} named;

static int by_name(const void *a, const void *b) {
  int order = official_order(((const named *)a)->name, ((const named *)b)->name);
  int64_t x = ((const named *)a)->group, y = ((const named *)b)->group;
  return order ? order : (x > y) - (x < y);
}

/* rank [groups]: the place of each group in the shuffled order of names. */
static bool rank_groups(const ebb_sample *s, uint64_t seed, int *rank, ebb_error *err) {
  named *sorted = calloc((size_t)s->groups + 1, sizeof *sorted);
  int64_t *order = calloc((size_t)s->groups + 1, sizeof *order);
  bool ok = sorted && order && ebb_torch_order(s->groups, seed, order, err);
  for (int64_t g = 0; ok && g < s->groups; g++)
    sorted[g] = (named){s->names[g], g};
  if (ok)
    qsort(sorted, (size_t)s->groups, sizeof *sorted, by_name);
  for (int64_t i = 0; ok && i < s->groups; i++)
    rank[sorted[order[i]].group] = (int)i;
  free(sorted);
  free(order);
  return ok;
}

bool ebb_plan_split(ebb_plan *plan, const ebb_sample *s, int repeats, double test, double validation,
                    uint64_t seed, ebb_error *err) {
  int64_t tested = share_of(s->groups, test), deciding = share_of(s->groups, validation);
  *plan = (ebb_plan){repeats, 1, 0, NULL, NULL};
  if (tested + deciding >= s->groups)
    return ebb_fail(
        err,
        "%s: %lld groups, of which %lld are tested and %lld decide: none is left to train on; add videos",
        s->name, (long long)s->groups, (long long)tested, (long long)deciding);
  plan->fold = calloc((size_t)(repeats * s->groups) + 1, sizeof *plan->fold);
  plan->part = calloc((size_t)repeats + 1, sizeof *plan->part);
  bool ok = plan->fold && plan->part;
  for (int r = 0; ok && r < repeats; r++) {
    int *rank = plan->fold + r * s->groups;
    ok = rank_groups(s, seed + (uint64_t)r, rank, err) &&
         split_part(&plan->part[r], s, rank, tested, deciding);
    for (int64_t g = 0; ok && g < s->groups; g++)
      rank[g] = rank[g] < tested ? 0 : -1;
  }
  if (!ok) {
    ebb_fail(err, "not enough memory for the splits of %lld videos", (long long)s->n);
    ebb_plan_free(plan);
  }
  return ok;
}

void ebb_plan_free(ebb_plan *plan) {
  for (int i = 0; plan->part && i < plan->repeats * plan->folds; i++)
    free(plan->part[i].train);
  free(plan->part);
  free(plan->fold);
  *plan = (ebb_plan){0};
}
