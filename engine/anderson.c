#include "engine/anderson.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool ebb_anderson_open(ebb_anderson *a, int64_t n) {
  *a = (ebb_anderson){.n = n};
  size_t bytes = (size_t)n * sizeof(float);
  a->g = malloc(bytes);
  a->f = malloc(bytes);
  bool ok = a->g && a->f;
  for (int i = 0; i < EBB_ANDERSON_DEPTH; i++) {
    a->dg[i] = malloc(bytes);
    a->df[i] = malloc(bytes);
    ok = ok && a->dg[i] && a->df[i];
  }
  if (!ok)
    ebb_anderson_close(a);
  return ok;
}

void ebb_anderson_close(ebb_anderson *a) {
  free(a->g);
  free(a->f);
  for (int i = 0; i < EBB_ANDERSON_DEPTH; i++) {
    free(a->dg[i]);
    free(a->df[i]);
  }
  *a = (ebb_anderson){0};
}

static double dot(const float *a, const float *b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += (double)a[i] * (double)b[i];
  return sum;
}

/* Solves the m x m system in place by elimination with pivoting; a column without a pivot gets weight 0. */
static void solve(double m[EBB_ANDERSON_DEPTH][EBB_ANDERSON_DEPTH + 1], int size) {
  for (int k = 0; k < size; k++) {
    int pivot = k;
    for (int r = k + 1; r < size; r++)
      if (fabs(m[r][k]) > fabs(m[pivot][k]))
        pivot = r;
    for (int c = 0; c <= size; c++) {
      double swap = m[k][c];
      m[k][c] = m[pivot][c];
      m[pivot][c] = swap;
    }
    if (m[k][k] == 0)
      continue;
    for (int r = 0; r < size; r++) {
      double factor = r == k ? 0 : m[r][k] / m[k][k];
      for (int c = k; c <= size; c++)
        m[r][c] -= factor * m[k][c];
    }
  }
  for (int k = 0; k < size; k++)
    m[k][size] = m[k][k] != 0 ? m[k][size] / m[k][k] : 0;
}

void ebb_anderson_next(ebb_anderson *a, float *y, const float *g) {
  int slot = (a->count + EBB_ANDERSON_DEPTH - 1) % EBB_ANDERSON_DEPTH;
  for (int64_t i = 0; i < a->n; i++) {
    float f = g[i] - y[i];
    if (a->count > 0) {
      a->dg[slot][i] = g[i] - a->g[i];
      a->df[slot][i] = f - a->f[i];
    }
    a->g[i] = g[i];
    a->f[i] = f;
  }
  int size = a->count < EBB_ANDERSON_DEPTH ? a->count : EBB_ANDERSON_DEPTH;
  a->count++;
  double m[EBB_ANDERSON_DEPTH][EBB_ANDERSON_DEPTH + 1];
  for (int r = 0; r < size; r++) {
    for (int c = 0; c < size; c++)
      m[r][c] = dot(a->df[r], a->df[c], a->n);
    m[r][r] *= 1 + 1e-10; /* nearly parallel residuals share the weight instead of fighting over it */
    m[r][size] = dot(a->df[r], a->f, a->n);
  }
  solve(m, size);
  memcpy(y, g, (size_t)a->n * sizeof *y);
  for (int r = 0; r < size; r++)
    for (int64_t i = 0; i < a->n; i++)
      y[i] -= (float)m[r][size] * a->dg[r][i];
}
