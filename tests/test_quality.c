/* tier: reference
 * PSNR and SSIM against numbers that PyTorch and scikit-image computed (tests/fixtures/make_quality.py). */
#include "loaders/quality.h"
#include "tests/test_files.h"

#include <math.h>

typedef struct pair {
  const char *kind;
  int frames, height, width;
  double psnr, ssim;
} pair;

static const pair pairs[] = {
#include "tests/quality.inc"
};

static int clamped(int v) {
  return v < 0 ? 0 : v > 255 ? 255 : v;
}

/* As the script's clip(). */
static void make_pair(const pair *p, ebb_clip *a, ebb_clip *b) {
  const size_t n = (size_t)p->frames * (size_t)p->height * (size_t)p->width * 3;
  *a = (ebb_clip){p->frames, p->height, p->width, malloc(n)};
  *b = (ebb_clip){p->frames, p->height, p->width, malloc(n)};
  size_t i = 0;
  for (int t = 0; t < p->frames; t++)
    for (int y = 0; y < p->height; y++)
      for (int x = 0; x < p->width; x++)
        for (int c = 0; c < 3; c++, i++) {
          const int v = (7 * x + 13 * y + 29 * c + 5 * t * x + x * y) % 256;
          int u = v, w = v;
          if (strcmp(p->kind, "near") == 0)
            w = clamped(v + (31 * x + 17 * y + 7 * c + 3 * t) % 41 - 20);
          else if (strcmp(p->kind, "far") == 0)
            w = 255 - v;
          else if (strcmp(p->kind, "other") == 0)
            w = (11 * y + 3 * x * x + 50 * t + 17 * c) % 256;
          else if (strcmp(p->kind, "flat") == 0) {
            u = 90;
            w = 100;
          }
          a->rgb[i] = (uint8_t)u;
          b->rgb[i] = (uint8_t)w;
        }
}

static void equals_other_programs(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    const pair *p = &pairs[i];
    ebb_clip a, b;
    make_pair(p, &a, &b);
    const ebb_quality q = ebb_quality_of(&a, &b), back = ebb_quality_of(&b, &a);
    if (!(q.psnr == p->psnr || fabs(q.psnr - p->psnr) < 1e-10) || fabs(q.ssim - p->ssim) > 1e-10)
      fail_msg("%s: PSNR %.15g, SSIM %.15g; expected %.15g, %.15g", p->kind, q.psnr, q.ssim, p->psnr,
               p->ssim);
    assert_true(fabs(back.ssim - q.ssim) < 1e-12 && back.psnr == q.psnr);
    ebb_clip_free(&a);
    ebb_clip_free(&b);
  }
}

static void frames_without_a_window(void **state) {
  (void)state;
  const pair small = {"near", 2, 10, 40, 0, 0};
  ebb_clip a, b;
  make_pair(&small, &a, &b);
  const ebb_quality q = ebb_quality_of(&a, &b);
  assert_true(isnan(q.ssim) && isfinite(q.psnr));
  ebb_clip_free(&a);
  ebb_clip_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equals_other_programs),
      cmocka_unit_test(frames_without_a_window),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
