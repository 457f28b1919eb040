/* `ebb data check`: is a set of movies what its design says? */
#include "loaders/check_parts.h"
#include "loaders/file.h"
#include "loaders/phyworld.h"

#include "kernels/context.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4 /* videos decoded side by side: a clip may take gigabytes */

typedef struct range {
  int low, high;
} range;

typedef struct tally {
  int64_t videos, possible, impossible, unlabelled, groups, broken;
  range frames, height, width;
} tally;

static void widen(range *r, int value) {
  if (r->high == 0 || value < r->low)
    r->low = value;
  if (value > r->high)
    r->high = value;
}

static void count_video(tally *t, const ebb_video *v, const ebb_look *m) {
  t->videos++;
  t->possible += v->label == EBB_POSSIBLE;
  t->impossible += v->label == EBB_IMPOSSIBLE;
  t->unlabelled += v->label == EBB_UNLABELLED;
  if (m->frames == 0)
    return;
  widen(&t->frames, m->frames);
  widen(&t->height, m->height);
  widen(&t->width, m->width);
}

static const char *range_text(range r, char *text, size_t size) {
  if (r.low == r.high)
    snprintf(text, size, "%d", r.low);
  else
    snprintf(text, size, "%d-%d", r.low, r.high);
  return text;
}

static void print_row(FILE *out, const char *name, const tally *t) {
  char frames[32], width[32], height[32];
  fprintf(out, "%-16.16s %8lld %8lld %10lld %10lld %8lld %8lld %9s %s x %s\n", name, (long long)t->videos,
          (long long)t->possible, (long long)t->impossible, (long long)t->unlabelled, (long long)t->groups,
          (long long)t->broken, range_text(t->frames, frames, sizeof frames),
          range_text(t->width, width, sizeof width), range_text(t->height, height, sizeof height));
}

static void merge(tally *all, const tally *t) {
  all->videos += t->videos;
  all->possible += t->possible;
  all->impossible += t->impossible;
  all->unlabelled += t->unlabelled;
  all->groups += t->groups;
  all->broken += t->broken;
  const range *from[] = {&t->frames, &t->height, &t->width};
  range *to[] = {&all->frames, &all->height, &all->width};
  for (int i = 0; i < 3; i++)
    if (from[i]->high > 0) {
      widen(to[i], from[i]->low);
      widen(to[i], from[i]->high);
    }
}

static void print_notes(FILE *out, const ebb_dataset *set, const tally *all) {
  if (all->unlabelled == all->videos && set->target_count == 0)
    fprintf(out, "No video has a label: nothing can be probed.\n");
  else if (all->unlabelled == all->videos)
    fprintf(out, "No video has a label; %d targets to regress.\n", set->target_count);
  else if (all->possible == 0 || all->impossible == 0)
    fprintf(out, "All labelled videos are %s: a probe needs both classes.\n",
            all->possible > 0 ? "possible" : "impossible");
  else if (all->possible != all->impossible)
    fprintf(out, "The classes are not balanced: chance is %.3f, not 0.5.\n",
            (double)(all->possible > all->impossible ? all->possible : all->impossible) /
                (double)(all->possible + all->impossible));
}

/* Balance by view, when the set has views. */
static void print_views(FILE *out, const ebb_dataset *set) {
  char seen[16][64];
  int count = 0;
  int64_t label[16][3] = {{0}};
  for (int64_t i = 0; i < set->count; i++) {
    const ebb_video *v = &set->videos[i];
    int k = 0;
    while (v->view != NULL && k < count && strncmp(seen[k], v->view, 63) != 0)
      k++;
    if (v->view == NULL || k == 16)
      continue;
    if (k == count)
      snprintf(seen[count++], sizeof seen[0], "%.63s", v->view);
    label[k][v->label == EBB_POSSIBLE ? 0 : v->label == EBB_IMPOSSIBLE ? 1 : 2]++;
  }
  for (int k = 0; k < count; k++)
    fprintf(out, "view %-11.11s %8lld %8lld %10lld %10lld\n", seen[k],
            (long long)(label[k][0] + label[k][1] + label[k][2]), (long long)label[k][0],
            (long long)label[k][1], (long long)label[k][2]);
}

/* Of two targets, over the videos where both are known; NaN when one is constant. */
static double correlation(const ebb_dataset *set, int s, int t) {
  double n = 0, first[2] = {0, 0}, mean[2] = {0, 0}, aa = 0, bb = 0, ab = 0;
  for (int pass = 0; pass < 2; pass++) { /* the means, counted from the first values; then about them */
    for (int64_t i = 0; i < set->count; i++) {
      const double x = set->videos[i].targets[s], y = set->videos[i].targets[t];
      if (!isfinite(x) || !isfinite(y))
        continue;
      if (pass == 0 && n++ == 0) {
        first[0] = x;
        first[1] = y;
      }
      const double u = x - first[0] - mean[0], v = y - first[1] - mean[1];
      aa += pass == 0 ? u : u * u;
      bb += pass == 0 ? v : v * v;
      ab += pass == 0 ? 0 : u * v;
    }
    if (pass == 0 && n > 0) {
      mean[0] = aa / n;
      mean[1] = bb / n;
      aa = bb = 0;
    }
  }
  return aa > 0 && bb > 0 ? ab / (sqrt(aa) * sqrt(bb)) : NAN;
}

static void print_targets(FILE *out, const ebb_dataset *set) {
  if (set->target_count > 0)
    fprintf(out, "%-16s %8s %12s %12s  most correlated with\n", "target", "known", "least", "most");
  for (int t = 0; t < set->target_count; t++) {
    double low = INFINITY, high = -INFINITY, most = NAN;
    int64_t known = 0;
    int with = -1;
    for (int64_t i = 0; i < set->count; i++)
      if (isfinite(set->videos[i].targets[t])) {
        low = fmin(low, set->videos[i].targets[t]);
        high = fmax(high, set->videos[i].targets[t]);
        known++;
      }
    for (int s = 0; s < set->target_count; s++) {
      const double c = s == t ? NAN : correlation(set, s, t);
      if (isfinite(c) && (with < 0 || fabs(c) > fabs(most))) {
        with = s;
        most = c;
      }
    }
    fprintf(out, "%-16.16s %8lld %12.6g %12.6g  ", set->target_names[t], (long long)known, low, high);
    if (with >= 0)
      fprintf(out, "%s, r = %.3f\n", set->target_names[with], most);
    else
      fprintf(out, "-\n");
  }
}

/* Levels of PhyWorld beside those of the published evaluation file. */
static void print_levels(FILE *out, const ebb_dataset *set) {
  bool same = true;
  for (const ebb_phyworld_part *p = ebb_phyworld_parts; p->name != NULL; p++) {
    int64_t n = 0;
    for (int64_t i = 0; i < set->count; i++)
      n += strcmp(set->videos[i].category, p->name) == 0;
    same = same && n == p->videos;
  }
  fprintf(out,
          "Levels follow from r and v%s.\n"
          "The first frame of every video that is not broken shows a disc of radius r (column 0 of "
          "init_streams) at "
          "(x0, y0).\n",
          same ? " and have the sizes of the published parabola_eval.hdf5"
               : "; their sizes are not those of the published parabola_eval.hdf5");
}

/* One group: its videos are looked at, its design is tested. */
static bool check_group(const ebb_dataset *set, int64_t first, int64_t n, bool digests, ebb_look *looks,
                        ebb_audit *audit, tally *t, ebb_error *why) {
  const ebb_video *videos = &set->videos[first];
  bool ok = true;
  const int threads = ebb_context_threads() < THREADS ? ebb_context_threads() : THREADS;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < n; i++)
    looks[i] = ebb_look_at(set, &videos[i], digests);
  for (int64_t i = 0; i < n; i++) {
    count_video(t, &videos[i], &looks[i]);
    if (looks[i].frames == 0)
      ok = ebb_fail(why, "%s cannot be read: %s", videos[i].id, looks[i].why);
  }
  t->groups++;
  if (ok && strcmp(set->format, "intphys") == 0)
    ok = ebb_check_quadruplet(videos, looks, n, why);
  ebb_audit_group(audit, videos, looks, n);
  for (int64_t i = 0; i < n; i++)
    ebb_look_free(&looks[i]);
  return ok;
}

/* Events of InfLevel that lack a code in a view: its evaluator drops them. */
static void print_incomplete(FILE *out, const ebb_dataset *set) {
  int64_t incomplete = 0, groups = 0;
  ebb_error list = {""};
  for (int64_t first = 0, next; first < set->count; first = next) {
    const ebb_video *v = &set->videos[first];
    for (next = first + 1; next < set->count && strcmp(set->videos[next].group, v->group) == 0;)
      next++;
    int64_t missing = 0;
    for (int64_t i = first; i < next; i++) { /* each view once, at its first video */
      int count = 0;
      bool seen = false;
      for (int64_t j = first; j < next; j++)
        if (strcmp(set->videos[j].view, set->videos[i].view) == 0) {
          seen |= j < i;
          count++;
        }
      missing += !seen && count != 4;
    }
    incomplete += missing;
    if (missing > 0 && ++groups <= 12)
      ebb_fail_also(&list, "  %s: %lld views\n", v->group, (long long)missing);
  }
  if (incomplete == 0)
    return;
  fprintf(out, "%lld views of %lld events have not all four codes; the official evaluator drops them:\n%s",
          (long long)incomplete, (long long)groups, list.text);
  if (groups > 12)
    fprintf(out, "  and %lld more\n", (long long)(groups - 12));
}

static void print_findings(const ebb_dataset *set, const ebb_look *looks, const ebb_audit *audit,
                           bool digests, const tally *all, const char *list, FILE *out) {
  print_row(out, "all", all);
  print_views(out, set);
  if (all->broken > 0)
    fprintf(out, "%lld of %lld groups are broken:\n%s", (long long)all->broken, (long long)all->groups, list);
  if (all->broken > 12)
    fprintf(out, "  and %lld more\n", (long long)(all->broken - 12));
  print_notes(out, set, all);
  print_targets(out, set);
  if (strcmp(set->format, "phyworld") == 0)
    print_levels(out, set);
  if (strcmp(set->format, "inflevel") == 0)
    print_incomplete(out, set);
  if (strcmp(set->format, "intphys") == 0 && all->broken == 0 && all->unlabelled == 0)
    fprintf(
        out,
        "Every group is a quadruplet: its possible and its impossible movies are made of the same frames.\n");
  ebb_audit_print(audit, digests, out);
  ebb_check_leaks(set, looks, out);
  if (set->notice != NULL)
    fprintf(out, "%s\n", set->notice);
}

bool ebb_dataset_check(const ebb_dataset *set, FILE *out, int64_t *broken, ebb_error *err) {
  *broken = 0;
  if (set->count == 0)
    return ebb_fail(err, "%s: no videos to check", set->root);
  const bool digests = strcmp(set->format, "inflevel") != 0; /* films of real events share no frame */
  ebb_look *looks = calloc((size_t)set->count, sizeof *looks);
  if (looks == NULL)
    return ebb_fail(err, "no memory for what is seen of %lld videos", (long long)set->count);
  ebb_audit audit = {0};
  tally all = {0}, one = {0};
  fprintf(out, "%s (%s)\n%-16s %8s %8s %10s %10s %8s %8s %9s %s\n", set->root, set->format, "category",
          "videos", "possible", "impossible", "unlabelled", "groups", "broken", "frames", "size");
  ebb_error list = {""};
  for (int64_t first = 0, next; first < set->count; first = next) {
    const ebb_video *v = &set->videos[first];
    for (next = first + 1; next < set->count && strcmp(set->videos[next].group, v->group) == 0;)
      next++;
    ebb_error why = {""};
    if (!check_group(set, first, next - first, digests, looks + first, &audit, &one, &why)) {
      if (++*broken <= 12)
        ebb_fail_also(&list, "  %s: %.140s\n", v->group, why.text);
      one.broken++;
    }
    if (next == set->count || strcmp(set->videos[next].category, v->category) != 0) {
      print_row(out, v->category, &one);
      merge(&all, &one);
      one = (tally){0};
    }
  }
  print_findings(set, looks, &audit, digests, &all, list.text, out);
  for (int64_t i = 0; i < set->count; i++)
    free(looks[i].why);
  free(looks);
  if (fflush(out) != 0 || ferror(out))
    return ebb_fail(err, "the result of the check cannot be written (is the disk full?)");
  return true;
}
