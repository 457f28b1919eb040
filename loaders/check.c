/* `ebb data check`: is a set of movies what its design says? */
#include "loaders/dataset.h"
#include "loaders/file.h"

#include <stdlib.h>
#include <string.h>

typedef struct digest {
  char hex[65];
} digest;

/* What was seen of one movie: the SHA-256 of each frame's size and pixels, sorted. */
typedef struct movie {
  digest *frames;
  int count, height, width;
  char *why; /* not readable: the reason */
} movie;

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

static int by_hex(const void *a, const void *b) {
  return memcmp(a, b, sizeof(digest));
}

static movie look(const ebb_video *video) {
  movie m = {0};
  ebb_clip clip;
  ebb_error err = {""};
  if (!ebb_video_read(video, &clip, &err)) {
    m.why = ebb_format("%s", err.text);
    return m;
  }
  m.count = clip.frames;
  m.height = clip.height;
  m.width = clip.width;
  size_t bytes = (size_t)clip.height * (size_t)clip.width * 3;
  m.frames = ebb_must(malloc((size_t)clip.frames * sizeof *m.frames));
  for (int i = 0; i < clip.frames; i++)
    ebb_sha256(clip.rgb + (size_t)i * bytes, bytes, m.frames[i].hex);
  qsort(m.frames, (size_t)m.count, sizeof *m.frames, by_hex);
  ebb_clip_free(&clip);
  return m;
}

/* The frames of two movies in one sorted list of a->count + b->count. */
static digest *both(const movie *a, const movie *b) {
  size_t m = (size_t)a->count, n = (size_t)b->count;
  digest *all = ebb_must(malloc((m + n) * sizeof *all));
  memcpy(all, a->frames, m * sizeof *all);
  memcpy(all + m, b->frames, n * sizeof *all);
  qsort(all, m + n, sizeof *all, by_hex);
  return all;
}

static bool same_frames(const movie *a, const movie *b, const movie *x, const movie *y) {
  if (a->count + b->count != x->count + y->count)
    return false;
  digest *ab = both(a, b), *xy = both(x, y);
  bool same = memcmp(ab, xy, (size_t)(a->count + b->count) * sizeof *ab) == 0;
  free(ab);
  free(xy);
  return same;
}

/* Is this group of n movies a quadruplet? Fills `why` when not. */
static bool check_group(const ebb_video *videos, const movie *movies, int64_t n, ebb_error *why) {
  int kind[2][4], count[2] = {0, 0}, unlabelled = 0;
  for (int64_t i = 0; i < n; i++) {
    if (movies[i].frames == NULL)
      return ebb_fail(why, "%s cannot be read: %s", videos[i].id, movies[i].why);
    if (movies[i].height != movies[0].height || movies[i].width != movies[0].width)
      return ebb_fail(why, "%s is %dx%d, %s is %dx%d", videos[0].id, movies[0].width, movies[0].height,
                      videos[i].id, movies[i].width, movies[i].height);
  }
  if (n != 4)
    return ebb_fail(why, "%lld movies, expected 4", (long long)n);
  for (int i = 0; i < 4; i++)
    if (videos[i].label == EBB_UNLABELLED)
      unlabelled++;
    else
      kind[videos[i].label][count[videos[i].label]++] = i;
  if (unlabelled == 4) { /* which two belong together is not known: some division into pairs must do */
    for (int j = 1; j < 4; j++)
      if (same_frames(&movies[0], &movies[j], &movies[j == 1 ? 2 : 1], &movies[j == 3 ? 2 : 3]))
        return true;
    return ebb_fail(why, "no division into two pairs has the same frames in both");
  }
  if (count[EBB_POSSIBLE] != 2 || count[EBB_IMPOSSIBLE] != 2)
    return ebb_fail(why, "%d possible, %d impossible and %d unlabelled movies, expected 2 and 2",
                    count[EBB_POSSIBLE], count[EBB_IMPOSSIBLE], unlabelled);
  const int *p = kind[EBB_POSSIBLE], *q = kind[EBB_IMPOSSIBLE];
  if (!same_frames(&movies[p[0]], &movies[p[1]], &movies[q[0]], &movies[q[1]]))
    return ebb_fail(
        why, "the possible movies (%s, %s) and the impossible ones (%s, %s) are not made of the same frames",
        videos[p[0]].id, videos[p[1]].id, videos[q[0]].id, videos[q[1]].id);
  return true;
}

static void count_video(tally *t, const ebb_video *v, const movie *m) {
  t->videos++;
  t->possible += v->label == EBB_POSSIBLE;
  t->impossible += v->label == EBB_IMPOSSIBLE;
  t->unlabelled += v->label == EBB_UNLABELLED;
  if (m->frames == NULL)
    return;
  widen(&t->frames, m->count);
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
  fprintf(out, "%-10.10s %8lld %8lld %10lld %10lld %8lld %8lld %9s %s x %s\n", name, (long long)t->videos,
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

static void print_notes(FILE *out, const tally *all) {
  if (all->unlabelled == all->videos)
    fprintf(out, "No video has a label: nothing can be probed.\n");
  else if (all->possible == 0 || all->impossible == 0)
    fprintf(out, "All labelled videos are %s: a probe needs both classes.\n",
            all->possible > 0 ? "possible" : "impossible");
  else if (all->possible != all->impossible)
    fprintf(out, "The classes are not balanced: chance is %.3f, not 0.5.\n",
            (double)(all->possible > all->impossible ? all->possible : all->impossible) /
                (double)(all->possible + all->impossible));
  if (all->broken == 0 && all->unlabelled == 0)
    fprintf(
        out,
        "Every group is a quadruplet: its possible and its impossible movies are made of the same frames.\n"
        "Null by construction: a feature that is a mean over frames of something computed from each frame "
        "alone\n"
        "has the same sum over both pairs, so its pairwise accuracy in a quadruplet is exactly 0.5. That "
        "such a\n"
        "feature is at chance says nothing about what the frames hold.\n");
}

bool ebb_dataset_check(const ebb_dataset *set, FILE *out, int64_t *broken, ebb_error *err) {
  *broken = 0;
  if (set->count == 0)
    return ebb_fail(err, "%s: no videos to check", set->root);
  tally all = {0}, one = {0};
  fprintf(out, "%s\n%-10s %8s %8s %10s %10s %8s %8s %9s %s\n", set->root, "category", "videos", "possible",
          "impossible", "unlabelled", "groups", "broken", "frames", "size");
  ebb_error list = {""};
  for (int64_t first = 0, next; first < set->count; first = next) {
    const ebb_video *v = &set->videos[first];
    for (next = first + 1; next < set->count && strcmp(set->videos[next].group, v->group) == 0;)
      next++;
    movie *movies = ebb_must(calloc((size_t)(next - first), sizeof *movies));
    for (int64_t i = first; i < next; i++) {
      movies[i - first] = look(&set->videos[i]);
      count_video(&one, &set->videos[i], &movies[i - first]);
    }
    ebb_error why = {""};
    one.groups++;
    if (!check_group(v, movies, next - first, &why)) {
      if (++*broken <= 12)
        ebb_fail_also(&list, "  %s: %.140s\n", v->group, why.text);
      one.broken++;
    }
    for (int64_t i = 0; i < next - first; i++) {
      free(movies[i].frames);
      free(movies[i].why);
    }
    free(movies);
    if (next == set->count || strcmp(set->videos[next].category, v->category) != 0) {
      print_row(out, v->category, &one);
      merge(&all, &one);
      one = (tally){0};
    }
  }
  print_row(out, "all", &all);
  if (*broken > 0)
    fprintf(out, "%lld of %lld groups are not quadruplets of the design:\n%s", (long long)*broken,
            (long long)all.groups, list.text);
  if (*broken > 12)
    fprintf(out, "  and %lld more\n", (long long)(*broken - 12));
  print_notes(out, &all);
  if (fflush(out) != 0 || ferror(out))
    return ebb_fail(err, "the result of the check cannot be written (is the disk full?)");
  return true;
}
