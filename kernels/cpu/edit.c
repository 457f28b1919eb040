#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/normal.h"

static const int64_t *keys_of(ebb_tensor keys) {
  return (const int64_t *)keys.data;
}

/* y = a x + b e over n numbers, the first of them number `first` of the stream; x NULL: none. */
static void add_normals(float *y, float a, const float *x, float b, int64_t n, uint64_t seed, uint64_t stream,
                        uint64_t first) {
  float four[4] = {0};
  for (int64_t i = 0; i < n; i++) {
    uint64_t index = first + (uint64_t)i;
    if (i == 0 || index % 4 == 0)
      ebb_normal4(seed, stream, index / 4, four);
    y[i] = a * x[i] + b * four[index % 4];
  }
}

/* The standard deviation of a row, D - 1 in the denominator. */
static double deviation(const float *x, int64_t D) {
  double mean = 0, square = 0;
  for (int64_t i = 0; i < D; i++)
    mean += (double)x[i] / (double)D;
  for (int64_t i = 0; i < D; i++)
    square += ((double)x[i] - mean) * ((double)x[i] - mean);
  return sqrt(square / (double)(D - 1));
}

void cpu_perturb(ebb_context *c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when,
                 ebb_tensor direction, int64_t place) {
  const int64_t S = x.shape[1], D = x.shape[2];
  const uint64_t stream = (uint64_t)place << 32 | (uint64_t)cpu_f32(when)[0];
  CPU_PARALLEL(c, 40.0 * (double)ebb_count(x))
  for (int64_t r = 0; r < ebb_rows(x); r++) {
    const int64_t b = r / S;
    const float noise = cpu_f32(dose)[2 * b], along = cpu_f32(dose)[2 * b + 1];
    if (noise == 0 && along == 0)
      continue;
    float *row = cpu_f32(x) + r * D;
    const float sigma = (float)deviation(row, D);
    if (noise != 0)
      add_normals(row, 1, row, sigma * noise, D, (uint64_t)keys_of(keys)[b], stream,
                  (uint64_t)(r % S) * (uint64_t)D);
    for (int64_t i = 0; along != 0 && ebb_present(direction) && i < D; i++)
      row[i] += sigma * along * cpu_f32(direction)[b * D + i];
  }
}

void cpu_add_noise(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor keys,
                   int64_t stream) {
  const int64_t n = ebb_count(x) / x.shape[0];
  cpu_cut tiles = cpu_cut_of(n, 16384, 16);
  CPU_PARALLEL(c, 33.0 * (double)ebb_count(x))
  for (int64_t tile = 0; tile < tiles.pieces * x.shape[0]; tile++) {
    const int64_t sample = tile / tiles.pieces, first = cpu_first(tiles, tile % tiles.pieces);
    add_normals(cpu_f32(y) + sample * n + first, a, cpu_f32(x) + sample * n + first, b,
                cpu_size(tiles, tile % tiles.pieces), (uint64_t)keys_of(keys)[sample], (uint64_t)stream,
                (uint64_t)first);
  }
}

void cpu_replace_heads(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean, ebb_tensor source) {
  const int64_t S = x.shape[1], D = x.shape[2], N = source.shape[1], P = D / N;
  CPU_PARALLEL(c, (double)ebb_count(x))
  for (int64_t r = 0; r < ebb_rows(x); r++)
    for (int64_t n = 0; n < N; n++) {
      const int64_t b = r / S, s = r % S, from = keys_of(source)[b * N + n];
      float *to = cpu_f32(y) + r * D + n * P;
      if (from == EBB_HEAD_ZERO)
        memset(to, 0, (size_t)P * sizeof *to);
      else if (from == EBB_HEAD_MEAN && ebb_present(mean))
        memcpy(to, cpu_f32(mean) + b * D + n * P, (size_t)P * sizeof *to);
      else
        memcpy(to, cpu_f32(x) + ((from >= 0 && from < x.shape[0] ? from : b) * S + s) * D + n * P,
               (size_t)P * sizeof *to);
    }
}
