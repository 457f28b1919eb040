#include "loaders/quality.h"

#include "loaders/file.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 11, MAPS = 5 };

/* Windowed means of a, b, a^2, b^2 and ab: first along rows, then down columns. */
typedef struct planes {
  int height, width, inside; /* inside: windows that fit into a row */
  double weight[WINDOW];
  double *pixels; /* [2, width]: a row of a and b */
  double *across; /* [MAPS, height, inside] */
  double *down;   /* [MAPS, inside]: a row of windows */
} planes;

static planes planes_new(int height, int width) {
  planes p = {.height = height, .width = width, .inside = width - WINDOW + 1};
  const size_t inside = (size_t)p.inside;
  double sum = 0.0;
  for (int i = 0; i < WINDOW; i++)
    sum += p.weight[i] = exp(-(double)((i - WINDOW / 2) * (i - WINDOW / 2)) / (2.0 * 1.5 * 1.5));
  for (int i = 0; i < WINDOW; i++)
    p.weight[i] /= sum;
  p.pixels = ebb_must(malloc(2 * (size_t)width * sizeof *p.pixels));
  p.across = ebb_must(malloc(MAPS * (size_t)height * inside * sizeof *p.across));
  p.down = ebb_must(malloc(MAPS * inside * sizeof *p.down));
  return p;
}

static void planes_free(planes *p) {
  free(p->pixels);
  free(p->across);
  free(p->down);
}

/* One channel's row y of both frames, filtered along the row. */
static void filter_row(planes *p, const uint8_t *a, const uint8_t *b, int y) {
  const size_t inside = (size_t)p->inside, map = (size_t)p->height * inside;
  double *of_a = p->pixels, *of_b = p->pixels + p->width, *to = p->across + (size_t)y * inside;
  for (int x = 0; x < p->width; x++) {
    of_a[x] = a[3 * x];
    of_b[x] = b[3 * x];
  }
  for (int m = 0; m < MAPS; m++)
    memset(to + (size_t)m * map, 0, inside * sizeof *to);
  for (int k = 0; k < WINDOW; k++) {
    const double w = p->weight[k];
    for (size_t x = 0; x < inside; x++) {
      const double u = of_a[x + (size_t)k], v = of_b[x + (size_t)k];
      to[x] += w * u;
      to[map + x] += w * v;
      to[2 * map + x] += w * u * u;
      to[3 * map + x] += w * v * v;
      to[4 * map + x] += w * u * v;
    }
  }
}

/* Sum over the windows of a row whose uppermost pixels are in row y. */
static double windows_of_row(planes *p, int y) {
  static const double c1 = (0.01 * 255.0) * (0.01 * 255.0), c2 = (0.03 * 255.0) * (0.03 * 255.0);
  const size_t inside = (size_t)p->inside, map = (size_t)p->height * inside;
  double *d = p->down, sum = 0.0;
  memset(d, 0, MAPS * inside * sizeof *d);
  for (int m = 0; m < MAPS; m++)
    for (int k = 0; k < WINDOW; k++) {
      const double w = p->weight[k], *from = p->across + (size_t)m * map + (size_t)(y + k) * inside;
      for (size_t x = 0; x < inside; x++)
        d[(size_t)m * inside + x] += w * from[x];
    }
  for (size_t x = 0; x < inside; x++) {
    const double mean_a = d[x], mean_b = d[inside + x], product = mean_a * mean_b;
    const double squares = mean_a * mean_a + mean_b * mean_b;
    const double variances = d[2 * inside + x] + d[3 * inside + x] - squares,
                 covariance = d[4 * inside + x] - product;
    sum += (2.0 * product + c1) * (2.0 * covariance + c2) / ((squares + c1) * (variances + c2));
  }
  return sum;
}

static double ssim_of(const ebb_clip *a, const ebb_clip *b) {
  if (a->height < WINDOW || a->width < WINDOW)
    return NAN;
  planes p = planes_new(a->height, a->width);
  const size_t row = (size_t)a->width * 3, frame = (size_t)a->height * row;
  const int down = a->height - WINDOW + 1;
  double sum = 0.0;
  for (int t = 0; t < a->frames; t++)
    for (int c = 0; c < 3; c++) {
      for (int y = 0; y < a->height; y++) {
        const size_t at = (size_t)t * frame + (size_t)y * row + (size_t)c;
        filter_row(&p, a->rgb + at, b->rgb + at, y);
      }
      for (int y = 0; y < down; y++)
        sum += windows_of_row(&p, y);
    }
  sum /= (double)a->frames * 3.0 * (double)down * (double)p.inside;
  planes_free(&p);
  return sum;
}

ebb_quality ebb_quality_of(const ebb_clip *a, const ebb_clip *b) {
  assert(a->frames == b->frames && a->height == b->height && a->width == b->width);
  const size_t n = (size_t)a->frames * (size_t)a->height * (size_t)a->width * 3;
  uint64_t squares = 0; /* at most 8 GiB of them: below 2^50 */
  for (size_t i = 0; i < n; i++) {
    const int d = (int)a->rgb[i] - (int)b->rgb[i];
    squares += (uint64_t)(d * d);
  }
  return (ebb_quality){.psnr = 10.0 * log10(255.0 * 255.0 * (double)n / (double)squares),
                       .ssim = ssim_of(a, b)};
}
