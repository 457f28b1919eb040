#include "loaders/check_parts.h"
#include "loaders/file.h"

#include "kernels/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

__extension__ typedef __int128 wide;

static int by_hex(const void *a, const void *b) {
  return memcmp(a, b, sizeof(ebb_frame_digest));
}

/* The frames of n looks in one sorted list; *count of them. NULL: one has no digests. */
static ebb_frame_digest *frames_of(const ebb_look *const *looks, int n, int64_t *count) {
  *count = 0;
  for (int i = 0; i < n; i++) {
    if (looks[i]->digests == NULL)
      return NULL;
    *count += looks[i]->frames;
  }
  ebb_frame_digest *all = ebb_must(malloc((size_t)*count * sizeof *all));
  for (int64_t i = 0, at = 0; i < n; at += looks[i++]->frames)
    memcpy(all + at, looks[i]->digests, (size_t)looks[i]->frames * sizeof *all);
  qsort(all, (size_t)*count, sizeof *all, by_hex);
  return all;
}

static bool same_frames(const ebb_look *const *a, int m, const ebb_look *const *b, int n) {
  int64_t count_a, count_b;
  ebb_frame_digest *in_a = frames_of(a, m, &count_a), *in_b = frames_of(b, n, &count_b);
  const bool same = in_a != NULL && in_b != NULL && count_a == count_b &&
                    memcmp(in_a, in_b, (size_t)count_a * sizeof *in_a) == 0;
  free(in_a);
  free(in_b);
  return same;
}

bool ebb_same_frames(const ebb_look *a, const ebb_look *b, const ebb_look *x, const ebb_look *y) {
  const ebb_look *const ab[] = {a, b}, *const xy[] = {x, y};
  return same_frames(ab, 2, xy, 2);
}

bool ebb_check_quadruplet(const ebb_video *videos, const ebb_look *looks, int64_t n, ebb_error *why) {
  int kind[2][4], count[2] = {0, 0}, unlabelled = 0;
  for (int64_t i = 1; i < n; i++)
    if (looks[i].height != looks[0].height || looks[i].width != looks[0].width)
      return ebb_fail(why, "%s is %dx%d, %s is %dx%d", videos[0].id, looks[0].width, looks[0].height,
                      videos[i].id, looks[i].width, looks[i].height);
  if (n != 4)
    return ebb_fail(why, "%lld movies, expected 4", (long long)n);
  for (int i = 0; i < 4; i++)
    if (videos[i].label == EBB_UNLABELLED)
      unlabelled++;
    else
      kind[videos[i].label][count[videos[i].label]++] = i;
  if (unlabelled == 4) { /* which two belong together is not known: some division into pairs must do */
    for (int j = 1; j < 4; j++)
      if (ebb_same_frames(&looks[0], &looks[j], &looks[j == 1 ? 2 : 1], &looks[j == 3 ? 2 : 3]))
        return true;
    return ebb_fail(why, "no division into two pairs has the same frames in both");
  }
  if (count[EBB_POSSIBLE] != 2 || count[EBB_IMPOSSIBLE] != 2)
    return ebb_fail(why, "%d possible, %d impossible and %d unlabelled movies, expected 2 and 2",
                    count[EBB_POSSIBLE], count[EBB_IMPOSSIBLE], unlabelled);
  const int *p = kind[EBB_POSSIBLE], *q = kind[EBB_IMPOSSIBLE];
  return ebb_same_frames(&looks[p[0]], &looks[p[1]], &looks[q[0]], &looks[q[1]]) ||
         ebb_fail(
             why,
             "the possible movies (%s, %s) and the impossible ones (%s, %s) are not made of the same frames",
             videos[p[0]].id, videos[p[1]].id, videos[q[0]].id, videos[q[1]].id);
}

/* ---- the additive audit ------------------------------------------------------------------------------- */

/* Feature d of a video times its number of frames: a sum over frames with weights of -8 to 8. Squares are
 * weighed against values of 8 bits. */
static int64_t total(const ebb_look *look, int d) {
  int64_t s = 0;
  for (int k = 0; k < EBB_LOOK_SUMS; k++) {
    const int weight = (int)(ebb_random_words(0x61756469, (uint64_t)d, (uint64_t)k).v[0] % 17) - 8;
    s += weight * (k < EBB_LOOK_CELLS ? 255 * look->sums[k] : look->sums[k]);
  }
  return s;
}

/* Means over frames are compared crosswise: no division, no rounding. */
static int compare(int64_t a, int frames_a, int64_t b, int frames_b) {
  const wide x = (wide)a * frames_b, y = (wide)b * frames_a;
  return (x > y) - (x < y);
}

static void take(double to[3][EBB_AUDIT_FEATURES], int d, double value) {
  to[0][d]++;
  to[1][d] += value;
  to[2][d] += value * value;
}

/* One matched set: p possible videos, then q impossible ones. */
static void audit_set(ebb_audit *a, const ebb_look *const *looks, int p, int q) {
  bool even = true, equal = true;
  int64_t *s = ebb_must(malloc((size_t)(p + q) * sizeof *s));
  for (int d = 0; d < EBB_AUDIT_FEATURES; d++) {
    int64_t halves = 0; /* twice the comparisons won */
    wide difference =
        0; /* of the class means, times p q; sums stand for means where all videos are as long */
    double gap = 0;
    for (int i = 0; i < p + q; i++) {
      s[i] = total(looks[i], d);
      difference += i < p ? (wide)q * s[i] : -(wide)p * s[i];
      equal = equal && looks[i]->frames == looks[0]->frames;
    }
    equal = equal && difference == 0;
    for (int i = 0; i < p; i++)
      for (int j = p; j < p + q; j++)
        halves += 1 + compare(s[i], looks[i]->frames, s[j], looks[j]->frames);
    even = even && halves == (int64_t)p * q;
    a->accuracy[d] += (double)halves / (2.0 * p * q);
    for (int i = 0; p == 2 && q == 2 && i < 4; i++) {
      const double mean = (double)s[i] / looks[i]->frames;
      a->origin[d] = a->complete == 0 && i == 0 ? mean : a->origin[d];
      gap += i < p ? mean : -mean;
      take(a->score, d, mean - a->origin[d]);
    }
    if (p == 2 && q == 2)
      take(a->gap, d, gap);
  }
  free(s);
  a->sets++;
  a->even += even;
  a->equal += equal;
  a->null += even && equal;
  a->complete += p == 2 && q == 2;
  a->same += same_frames(looks, p, looks + p, q);
}

static bool is_matched(const ebb_video *a, const ebb_video *b) {
  return a->pair == NULL || b->pair == NULL ? a->pair == b->pair : strcmp(a->pair, b->pair) == 0;
}

void ebb_audit_group(ebb_audit *audit, const ebb_video *videos, const ebb_look *looks, int64_t n) {
  const ebb_look **set = ebb_must(malloc((size_t)n * sizeof *set));
  for (int64_t first = 0; first < n; first++) {
    bool seen = false;
    for (int64_t i = 0; i < first; i++)
      seen |= is_matched(&videos[i], &videos[first]);
    int count[2] = {0, 0};
    for (int label = EBB_POSSIBLE; !seen && label >= EBB_IMPOSSIBLE; label--)
      for (int64_t i = first; i < n; i++)
        if (is_matched(&videos[i], &videos[first]) && (int)videos[i].label == label && looks[i].frames > 0) {
          set[count[EBB_POSSIBLE] + count[EBB_IMPOSSIBLE]] = &looks[i];
          count[label]++;
        }
    if (count[EBB_POSSIBLE] > 0 && count[EBB_IMPOSSIBLE] > 0)
      audit_set(audit, set, count[EBB_POSSIBLE], count[EBB_IMPOSSIBLE]);
  }
  free(set);
}

static double variance(const double of[3][EBB_AUDIT_FEATURES], int d) {
  const double n = of[0][d], mean = of[1][d] / n;
  return of[2][d] / n - mean * mean;
}

void ebb_audit_print(const ebb_audit *a, bool digests, FILE *out) {
  if (a->sets == 0)
    return;
  double low = INFINITY, high = -INFINITY, index = 0;
  int counted = 0;
  for (int d = 0; d < EBB_AUDIT_FEATURES; d++) {
    low = fmin(low, a->accuracy[d] / (double)a->sets);
    high = fmax(high, a->accuracy[d] / (double)a->sets);
    if (a->complete > 0 && variance(a->score, d) > 0) {
      index += variance(a->gap, d) / variance(a->score, d);
      counted++;
    }
  }
  fprintf(out, "Matched sets: %lld, of which %lld have two possible and two impossible videos",
          (long long)a->sets, (long long)a->complete);
  if (digests)
    fprintf(out, ", and %lld are made of the same frames in both classes", (long long)a->same);
  fprintf(
      out,
      ".\nAdditive audit: %d random features that are means over frames of something of each frame alone "
      "have "
      "a\npairwise accuracy of exactly 0.5 in %lld of the %lld sets, and the same sum over both classes in "
      "%lld; over the sets\ntheir accuracies are %.4f to %.4f.",
      EBB_AUDIT_FEATURES, (long long)a->even, (long long)a->sets, (long long)a->equal, low, high);
  if (counted > 0)
    fprintf(out,
            "\nAdditivity index (variance of s(P1)+s(P2)-s(I1)-s(I2) over that of s; 0: additive): %.3g.",
            index / counted);
  fprintf(out, "\n");
  if (a->null == a->sets)
    fprintf(out,
            "Null by construction: that a frame-additive feature is at chance here says nothing about what "
            "the frames "
            "hold;\nneither does a probe on features averaged over time, as far as they are additive.\n");
  else if (a->complete == a->sets && low > 0.4 && high < 0.6)
    fprintf(out, "Nearly null: as in designs whose label is the parity of an early and a late event, "
                 "frame-additive features "
                 "are\nclose to chance up to the differences between takes. Read controls that average over "
                 "time with that "
                 "in mind.\n");
}
