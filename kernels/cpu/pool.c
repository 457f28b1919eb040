#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define TILE 64 /* features that a thread takes at a time */

/* sums[0..width) = sum over tokens of x [tokens, D] at `x`, in token order. */
static void sum_tokens(double *sums, const float *x, int64_t tokens, int64_t D, int64_t width) {
  memset(sums, 0, (size_t)width * sizeof *sums);
  for (int64_t s = 0; s < tokens; s++)
    for (int64_t i = 0; i < width; i++)
      sums[i] += (double)x[s * D + i];
}

/* y [groups, D] from x [groups, tokens, D]: the mean over tokens. */
static void pool_groups(ebb_context *c, float *y, const float *x, int64_t groups, int64_t tokens, int64_t D) {
  cpu_cut stripes = cpu_cut_of(D, TILE, 8);
  CPU_PARALLEL(c, (double)(groups * tokens * D))
  for (int64_t tile = 0; tile < groups * stripes.pieces; tile++) {
    int64_t group = tile / stripes.pieces, first = cpu_first(stripes, tile % stripes.pieces);
    int64_t width = cpu_size(stripes, tile % stripes.pieces);
    double sums[TILE];
    sum_tokens(sums, x + group * tokens * D + first, tokens, D, width);
    for (int64_t i = 0; i < width; i++)
      y[group * D + first + i] = (float)(sums[i] / (double)tokens);
  }
}

void cpu_pool_mean(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch) {
  (void)scratch;
  pool_groups(c, cpu_f32(y), cpu_f32(x), x.shape[0], x.shape[1], x.shape[2]);
}

void cpu_pool_frames(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch) {
  (void)scratch;
  int64_t T = y.shape[1];
  pool_groups(c, cpu_f32(y), cpu_f32(x), x.shape[0] * T, x.shape[1] / T, x.shape[2]);
}

/* means [T, TILE] of one stripe -> second and third central moments over T, y [2, D] at `y`. */
static void moments(float *y, const double *means, int64_t T, int64_t D, int64_t width) {
  for (int64_t i = 0; i < width; i++) {
    double mean = 0, second = 0, third = 0;
    for (int64_t t = 0; t < T; t++)
      mean += means[t * TILE + i];
    mean /= (double)T;
    for (int64_t t = 0; t < T; t++) {
      double d = means[t * TILE + i] - mean;
      second += d * d;
      third += d * d * d;
    }
    y[i] = (float)(second / (double)T);
    y[D + i] = (float)(third / (double)T);
  }
}

void cpu_pool_moments(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch) {
  (void)scratch;
  int64_t B = x.shape[0], S = x.shape[1], D = x.shape[2], tokens = S / frames;
  cpu_cut stripes = cpu_cut_of(D, TILE, 8);
  cpu_memory memory;
  if (!cpu_scratch(c, 0, (size_t)frames * TILE * sizeof(double), &memory))
    return;
  CPU_PARALLEL(c, (double)ebb_count(x))
  for (int64_t tile = 0; tile < B * stripes.pieces; tile++) {
    int64_t b = tile / stripes.pieces, first = cpu_first(stripes, tile % stripes.pieces);
    int64_t width = cpu_size(stripes, tile % stripes.pieces);
    double *means = cpu_own(memory);
    for (int64_t t = 0; t < frames; t++) {
      sum_tokens(means + t * TILE, cpu_f32(x) + (b * S + t * tokens) * D + first, tokens, D, width);
      for (int64_t i = 0; i < width; i++)
        means[t * TILE + i] /= (double)tokens;
    }
    moments(cpu_f32(y) + b * 2 * D + first, means, frames, D, width);
  }
}

/* Mean over tokens of |first difference| and |second difference| over time; x [T, tokens, D] at `x`, y [2, D] at `y`. */
static void motion(float *y, const float *x, int64_t T, int64_t tokens, int64_t D, int64_t width) {
  double speed[TILE] = {0}, turn[TILE] = {0};
  const int64_t frame = tokens * D;
  for (int64_t t = 1; t < T; t++)
    for (int64_t s = 0; s < tokens; s++) {
      const float *now = x + t * frame + s * D, *before = now - frame, *next = now + frame;
      for (int64_t i = 0; i < width; i++)
        speed[i] += fabs((double)now[i] - (double)before[i]);
      for (int64_t i = 0; t + 1 < T && i < width; i++)
        turn[i] += fabs((double)next[i] - 2 * (double)now[i] + (double)before[i]);
    }
  for (int64_t i = 0; i < width; i++) {
    y[i] = T > 1 ? (float)(speed[i] / (double)((T - 1) * tokens)) : 0;
    y[D + i] = T > 2 ? (float)(turn[i] / (double)((T - 2) * tokens)) : 0;
  }
}

void cpu_pool_motion(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch) {
  (void)scratch;
  int64_t B = x.shape[0], S = x.shape[1], D = x.shape[2];
  cpu_cut stripes = cpu_cut_of(D, TILE, 8);
  CPU_PARALLEL(c, 4 * (double)ebb_count(x))
  for (int64_t tile = 0; tile < B * stripes.pieces; tile++) {
    int64_t b = tile / stripes.pieces, first = cpu_first(stripes, tile % stripes.pieces);
    motion(cpu_f32(y) + b * 2 * D + first, cpu_f32(x) + b * S * D + first, frames, S / frames, D,
           cpu_size(stripes, tile % stripes.pieces));
  }
}
