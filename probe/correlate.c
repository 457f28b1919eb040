#include "probe/correlate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t ebb_number_groups(int64_t n, const char *const *name, int *group) {
  int64_t groups = 0, *first = malloc((size_t)(n > 0 ? n : 1) * sizeof *first);
  if (!first)
    return 0;
  for (int64_t i = 0; i < n; i++) {
    int64_t g = groups; /* videos of a group mostly follow one another */
    while (g > 0 && strcmp(name[first[g - 1]], name[i]) != 0)
      g--;
    if (g == 0)
      first[groups++] = i;
    group[i] = (int)(g == 0 ? groups - 1 : g - 1);
  }
  free(first);
  return groups;
}

/* ---- mean ---- */

typedef struct mean {
  const ebb_grouped *of;
  const double *x;
} mean;

static double mean_of(const void *user, const double *weight) {
  const mean *m = user;
  double sum = 0, count = 0;
  for (int64_t i = 0; i < m->of->n; i++) {
    double w = weight ? weight[m->of->group[i]] : 1;
    if (!isfinite(m->x[i]))
      continue;
    sum += w * m->x[i];
    count += w;
  }
  return count > 0 ? sum / count : NAN;
}

bool ebb_mean_interval(const ebb_grouped *of, const double *x, int64_t replicates, uint64_t seed,
                       ebb_interval *interval, ebb_error *err) {
  return ebb_bootstrap(of->groups, replicates, seed, mean_of, &(mean){of, x}, interval, err);
}

/* ---- Spearman ---- */

typedef struct ranked { /* a video's number, in ascending order of them */
  double value;
  int64_t video;
} ranked;

typedef struct pairs {
  int64_t n;
  int *group;    /* [n] */
  ranked *by[2]; /* [n] */
} pairs;

static int by_value(const void *a, const void *b) {
  double x = ((const ranked *)a)->value, y = ((const ranked *)b)->value;
  return (x > y) - (x < y);
}

/* Mean ranks of a sample in which video i comes weight[i] times. */
static void rank_them(const ranked *r, int64_t n, const double *weight, double *rank) {
  double below = 0;
  for (int64_t i = 0; i < n;) {
    int64_t end = i;
    double tied = 0;
    for (; end < n && r[end].value == r[i].value; end++)
      tied += weight[r[end].video];
    for (; i < end; i++)
      rank[r[i].video] = below + (tied + 1) / 2;
    below += tied;
  }
}

static double weighted_correlation(int64_t n, const double *w, const double *x, const double *y) {
  double count = 0, mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
  for (int64_t i = 0; i < n; i++) {
    count += w[i];
    mx += w[i] * x[i];
    my += w[i] * y[i];
  }
  mx /= count;
  my /= count;
  for (int64_t i = 0; i < n; i++) {
    xx += w[i] * (x[i] - mx) * (x[i] - mx);
    yy += w[i] * (y[i] - my) * (y[i] - my);
    xy += w[i] * (x[i] - mx) * (y[i] - my);
  }
  return count >= 3 && xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}

static double spearman(const void *user, const double *weight) {
  const pairs *p = user;
  double *room = calloc((size_t)(3 * p->n + 1), sizeof *room);
  if (!room)
    return NAN;
  double *w = room, *x = room + p->n, *y = x + p->n;
  for (int64_t i = 0; i < p->n; i++)
    w[i] = weight ? weight[p->group[i]] : 1;
  rank_them(p->by[0], p->n, w, x);
  rank_them(p->by[1], p->n, w, y);
  double r = weighted_correlation(p->n, w, x, y);
  free(room);
  return r;
}

/* Keeps the videos where both are finite. */
static void keep_finite(pairs *p, const ebb_grouped *of, const double *x, const double *y) {
  for (int64_t i = 0; i < of->n; i++)
    if (isfinite(x[i]) && isfinite(y[i])) {
      p->group[p->n] = of->group[i];
      p->by[0][p->n] = (ranked){x[i], p->n};
      p->by[1][p->n] = (ranked){y[i], p->n};
      p->n++;
    }
}

bool ebb_spearman_interval(const ebb_grouped *of, const double *x, const double *y, int64_t replicates,
                           uint64_t seed, ebb_interval *interval, ebb_error *err) {
  const size_t n = (size_t)of->n + 1;
  pairs p = {0, malloc(n * sizeof *p.group), {malloc(n * sizeof **p.by), malloc(n * sizeof **p.by)}};
  bool ok = (p.group && p.by[0] && p.by[1]) ||
            ebb_fail(err, "not enough memory to rank %lld videos", (long long)of->n);
  if (ok) {
    keep_finite(&p, of, x, y);
    for (int k = 0; k < 2; k++)
      qsort(p.by[k], (size_t)p.n, sizeof **p.by, by_value);
    ok = ebb_bootstrap(of->groups, replicates, seed, spearman, &p, interval, err);
  }
  free(p.by[0]);
  free(p.by[1]);
  free(p.group);
  return ok;
}
