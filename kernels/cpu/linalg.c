#include <cblas.h>
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/lapack.h"

#define TILE 128

static void gram_of(ebb_context *c, double *g, const double *x, int64_t n, int64_t d) {
  cpu_cut cut = cpu_cut_of(n, TILE, 8);
  CPU_PARALLEL(c, (double)(n * n) * (double)d)
  for (int64_t tile = 0; tile < cut.pieces * cut.pieces; tile++) {
    int64_t i = tile / cut.pieces, j = tile % cut.pieces, row = cpu_first(cut, i), column = cpu_first(cut, j);
    const double *rows = x + row * d, *columns = x + column * d;
    double *to = g + row * n + column;
    if (j < i)
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)cpu_size(cut, i), (int)cpu_size(cut, j),
                  (int)d, 1.0, rows, (int)d, columns, (int)d, 0.0, to, (int)n);
    else if (j == i)
      cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, (int)cpu_size(cut, i), (int)d, 1.0, rows, (int)d,
                  0.0, to, (int)n);
  }
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < i; j++)
      g[j * n + i] = g[i * n + j];
}

void cpu_gram(ebb_context *c, ebb_tensor g, ebb_tensor x) {
  int64_t n = x.shape[1], d = x.shape[2];
  for (int64_t b = 0; b < x.shape[0]; b++)
    gram_of(c, cpu_f64(g) + b * n * n, cpu_f64(x) + b * n * d, n, d);
}

void cpu_matmul(ebb_context *c, ebb_tensor y, ebb_tensor a, bool transpose_a, ebb_tensor b,
                bool transpose_b) {
  int64_t m = y.shape[1], n = y.shape[2], inner = b.shape[transpose_b ? 2 : 1];
  cpu_cut bands = cpu_cut_of(m, TILE, 8), stripes = cpu_cut_of(n, 2 * TILE, 8);
  int64_t tiles = bands.pieces * stripes.pieces;
  CPU_PARALLEL(c, 2.0 * (double)(y.shape[0] * m * n) * (double)inner)
  for (int64_t tile = 0; tile < y.shape[0] * tiles; tile++) {
    int64_t matrix = tile / tiles, band = tile % bands.pieces, stripe = tile % tiles / bands.pieces;
    int64_t row = cpu_first(bands, band), column = cpu_first(stripes, stripe);
    const double *left = cpu_f64(a) + matrix * m * inner, *right = cpu_f64(b) + matrix * inner * n;
    cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, (int)cpu_size(bands, band),
                (int)cpu_size(stripes, stripe), (int)inner, 1.0, left + (transpose_a ? row : row * inner),
                (int)(transpose_a ? m : inner), right + (transpose_b ? column * inner : column),
                (int)(transpose_b ? inner : n), 0.0, cpu_f64(y) + (matrix * m + row) * n + column, (int)n);
  }
}

void cpu_add_diagonal(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor shift) {
  (void)c;
  int64_t n = a.shape[1];
  for (int64_t i = 0; i < a.shape[0] * n * n; i++)
    cpu_f64(y)[i] = cpu_f64(a)[i] + (i % (n * n) % (n + 1) == 0 ? cpu_f64(shift)[i / (n * n)] : 0);
}

void cpu_spd_inverse(ebb_context *c, ebb_tensor a, void *scratch) {
  (void)scratch;
  int n = (int)a.shape[1];
  CPU_PARALLEL(c, (double)ebb_count(a) * n)
  for (int64_t b = 0; b < a.shape[0]; b++) {
    double *m = cpu_f64(a) + b * n * n; /* "L" by columns is the upper triangle by rows */
    int info = 0;
    dpotrf_("L", &n, m, &n, &info, 1);
    if (info == 0)
      dpotri_("L", &n, m, &n, &info, 1);
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j <= i; j++)
        m[i * n + j] = m[j * n + i] = info == 0 ? m[j * n + i] : NAN;
  }
}
