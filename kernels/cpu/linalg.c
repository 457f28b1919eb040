#include <cblas.h>

#include "kernels/cpu/cpu.h"
#include "kernels/lapack.h"

#define TILE 128

void cpu_gram(ebb_context *c, ebb_tensor g, ebb_tensor x) {
  int64_t n = x.shape[0], d = x.shape[1];
  cpu_cut cut = cpu_cut_of(n, TILE, 8);
  CPU_PARALLEL(c, (double)(n * n) * (double)d)
  for (int64_t tile = 0; tile < cut.pieces * cut.pieces; tile++) {
    int64_t i = tile / cut.pieces, j = tile % cut.pieces, row = cpu_first(cut, i), column = cpu_first(cut, j);
    const double *rows = cpu_f64(x) + row * d, *columns = cpu_f64(x) + column * d;
    double *to = cpu_f64(g) + row * n + column;
    if (j < i)
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)cpu_size(cut, i), (int)cpu_size(cut, j),
                  (int)d, 1.0, rows, (int)d, columns, (int)d, 0.0, to, (int)n);
    else if (j == i)
      cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, (int)cpu_size(cut, i), (int)d, 1.0, rows, (int)d,
                  0.0, to, (int)n);
  }
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < i; j++)
      cpu_f64(g)[j * n + i] = cpu_f64(g)[i * n + j];
}

void cpu_matmul(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, bool transpose_a) {
  int64_t m = y.shape[0], n = y.shape[1], inner = b.shape[0];
  cpu_cut bands = cpu_cut_of(m, TILE, 8), stripes = cpu_cut_of(n, 2 * TILE, 8);
  CPU_PARALLEL(c, 2.0 * (double)(m * n) * (double)inner)
  for (int64_t tile = 0; tile < bands.pieces * stripes.pieces; tile++) {
    int64_t band = tile % bands.pieces, stripe = tile / bands.pieces;
    int64_t row = cpu_first(bands, band), column = cpu_first(stripes, stripe);
    cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, CblasNoTrans,
                (int)cpu_size(bands, band), (int)cpu_size(stripes, stripe), (int)inner, 1.0,
                cpu_f64(a) + (transpose_a ? row : row * inner), (int)(transpose_a ? m : inner),
                cpu_f64(b) + column, (int)n, 0.0, cpu_f64(y) + row * n + column, (int)n);
  }
}

void cpu_cholesky_solve(ebb_context *c, ebb_tensor a, ebb_tensor b) {
  int n = (int)a.shape[0], info = 0;
  dpotrf_("U", &n, cpu_f64(a), &n, &info, 1); /* the upper triangle by columns is the lower one by rows */
  if (info != 0) {
    ebb_context_fail(
        c, "cholesky_solve: a \"%s\" is not positive definite: the leading minor of order %d is not",
        a.name ? a.name : "", info);
    return;
  }
  int64_t m = b.shape[1];
  cpu_cut stripes = cpu_cut_of(m, TILE, 8);
  CPU_PARALLEL(c, 2.0 * (double)n * (double)n * (double)m)
  for (int64_t stripe = 0; stripe < stripes.pieces; stripe++) {
    double *x = cpu_f64(b) + cpu_first(stripes, stripe);
    int count = (int)cpu_size(stripes, stripe);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, n, count, 1.0, cpu_f64(a),
                n, x, (int)m);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, n, count, 1.0, cpu_f64(a), n,
                x, (int)m);
  }
}

void cpu_eigh(ebb_context *c, ebb_tensor w, ebb_tensor a) {
  int n = (int)a.shape[0], info = 0, lwork = -1, liwork = -1, needed_integers = 0;
  double needed = 0;
  dsyevd_("V", "U", &n, cpu_f64(a), &n, cpu_f64(w), &needed, &lwork, &needed_integers, &liwork, &info, 1, 1);
  lwork = (int)needed;
  liwork = needed_integers;
  cpu_memory memory;
  if (!cpu_scratch(c, (size_t)lwork * sizeof(double) + (size_t)liwork * sizeof(int), 0, &memory))
    return;
  double *work = (double *)memory.shared;
  dsyevd_("V", "U", &n, cpu_f64(a), &n, cpu_f64(w), work, &lwork, (int *)(work + lwork), &liwork, &info, 1,
          1);
  if (info != 0) {
    ebb_context_fail(c, "eigh: a \"%s\" [%d, %d]: the eigenvalues did not converge (dsyevd info %d)",
                     a.name ? a.name : "", n, n, info);
    return;
  }
  double *v = cpu_f64(a); /* LAPACK's columns are our rows */
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < i; j++) {
      double swap = v[i * n + j];
      v[i * n + j] = v[j * n + i];
      v[j * n + i] = swap;
    }
}
