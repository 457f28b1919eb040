#include <cblas.h>
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#define TILE_QUERIES 128

/* row [S] <- e^(row + bias - max); returns the sum. */
static double exponentials(float *row, const float *bias, int64_t S) {
  float max = -INFINITY;
  double total = 0;
  for (int64_t m = 0; m < S; m++) {
    row[m] += bias[m];
    max = row[m] > max ? row[m] : max;
  }
  for (int64_t m = 0; m < S; m++)
    row[m] = cpu_exp(row[m] - max);
  for (int64_t m = 0; m < S; m++)
    total += (double)row[m];
  return total;
}

void cpu_attention_relative(ebb_context *c, ebb_tensor out, ebb_tensor q, ebb_tensor k, ebb_tensor v,
                            ebb_tensor bias, int heads) {
  const int64_t S = q.shape[1], D = q.shape[2], P = D / heads, groups = q.shape[0] * heads;
  const cpu_cut tiles = cpu_cut_of(S, TILE_QUERIES, 8);
  cpu_memory memory;
  if (!cpu_scratch(c, 0, (size_t)(tiles.size * S) * sizeof(float), &memory))
    return;
  CPU_PARALLEL(c, 4.0 * (double)ebb_count(q) * (double)S)
  for (int64_t i = 0; i < groups * tiles.pieces; i++) {
    const int64_t b = i / tiles.pieces / heads, head = i / tiles.pieces % heads, tile = i % tiles.pieces;
    const int64_t first = cpu_first(tiles, tile), count = cpu_size(tiles, tile);
    const int64_t key = b * S * D + head * P, query = key + first * D;
    const float *far = cpu_f32(bias) + head * (2 * S - 1);
    float *scores = cpu_own(memory), *to = cpu_f32(out) + query, inverse[TILE_QUERIES + 8];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)S, (int)P, 1.0f, cpu_f32(q) + query,
                (int)D, cpu_f32(k) + key, (int)D, 0.0f, scores, (int)S);
    for (int64_t s = 0; s < count; s++)
      inverse[s] = (float)(1.0 / exponentials(scores + s * S, far + S - 1 - (first + s), S));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)P, (int)S, 1.0f, scores, (int)S,
                cpu_f32(v) + key, (int)D, 0.0f, to, (int)D);
    for (int64_t s = 0; s < count; s++)
      for (int64_t p = 0; p < P; p++)
        to[s * D + p] *= inverse[s];
  }
}
