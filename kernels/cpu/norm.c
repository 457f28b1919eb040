#include <math.h>

#include "kernels/cpu/cpu.h"

#define LANES 8
#define TILE_ROWS 16

/* sum x over n, in double, in LANES interleaved parts. */
static double sum(const float *x, int64_t n) {
  double lane[LANES] = {0}, total = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++)
      lane[l] += (double)x[i + l];
  for (; i < n; i++)
    total += (double)x[i];
  for (int l = 0; l < LANES; l++)
    total += lane[l];
  return total;
}

/* sum (x - about)^2 over n, likewise. */
static double sum_squares(const float *x, int64_t n, double about) {
  double lane[LANES] = {0}, total = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) {
      double d = (double)x[i + l] - about;
      lane[l] += d * d;
    }
  for (; i < n; i++)
    total += ((double)x[i] - about) * ((double)x[i] - about);
  for (int l = 0; l < LANES; l++)
    total += lane[l];
  return total;
}

/* y = (x - mean)/sqrt(var + eps) * (w + one) + b over one row of D. */
static void norm_row(float *y, const float *x, int64_t D, float eps, const float *w, float one,
                     const float *b) {
  double mean = sum(x, D) / (double)D, var = sum_squares(x, D, mean) / (double)D;
  float m = (float)mean, inverse = (float)(1.0 / sqrt(var + (double)eps));
  for (int64_t i = 0; i < D; i++)
    y[i] = (x[i] - m) * inverse * (w[i] + one) + b[i];
}

void cpu_norm_modulate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor shift, ebb_tensor scale,
                       float eps) {
  int64_t S = x.shape[1], D = x.shape[2];
  cpu_cut bands = {ebb_rows(x), TILE_ROWS, (ebb_rows(x) + TILE_ROWS - 1) / TILE_ROWS};
  CPU_PARALLEL(c, 8.0 * (double)ebb_count(x))
  for (int64_t band = 0; band < bands.pieces; band++)
    for (int64_t r = cpu_first(bands, band); r < cpu_first(bands, band) + cpu_size(bands, band); r++)
      norm_row(cpu_f32(y) + r * D, cpu_f32(x) + r * D, D, eps, cpu_f32(scale) + cpu_sample(scale, r / S) * D,
               1.0f, cpu_f32(shift) + cpu_sample(shift, r / S) * D);
}

void cpu_gate_add_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                       ebb_tensor shift, ebb_tensor scale, float eps) {
  cpu_gate_add(c, x, y, gate);
  cpu_norm_modulate(c, h, x, shift, scale, eps);
}

void cpu_gate_add_layer_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                             ebb_tensor w, ebb_tensor b, float eps) {
  cpu_gate_add(c, x, y, gate);
  if (!ebb_present(w)) {
    cpu_convert(c, h, x);
    return;
  }
  int64_t D = x.shape[2];
  cpu_cut bands = {ebb_rows(x), TILE_ROWS, (ebb_rows(x) + TILE_ROWS - 1) / TILE_ROWS};
  CPU_PARALLEL(c, 8.0 * (double)ebb_count(x))
  for (int64_t band = 0; band < bands.pieces; band++)
    for (int64_t r = cpu_first(bands, band); r < cpu_first(bands, band) + cpu_size(bands, band); r++)
      norm_row(cpu_f32(h) + r * D, cpu_f32(x) + r * D, D, eps, cpu_f32(w), 0.0f, cpu_f32(b));
}

/* Pairs (2i, 2i+1) of one head x [2*pairs] turned by the angles of its token. */
static void rotate(float *x, const float *cosine, const float *sine, int64_t pairs) {
  for (int64_t i = 0; i < pairs; i++) {
    float u = x[2 * i], v = x[2 * i + 1];
    x[2 * i] = u * cosine[i] - v * sine[i];
    x[2 * i + 1] = u * sine[i] + v * cosine[i];
  }
}

/* Queries, or keys. */
static void make_ready(ebb_context *c, ebb_tensor x, ebb_tensor w, ebb_tensor cos, ebb_tensor sin, int heads,
                       float eps) {
  int64_t S = x.shape[1], D = x.shape[2], P = D / heads;
  const float *weight = cpu_f32(w);
  cpu_cut bands = {ebb_rows(x), TILE_ROWS, (ebb_rows(x) + TILE_ROWS - 1) / TILE_ROWS};
  CPU_PARALLEL(c, 8.0 * (double)ebb_count(x))
  for (int64_t band = 0; band < bands.pieces; band++)
    for (int64_t r = cpu_first(bands, band); r < cpu_first(bands, band) + cpu_size(bands, band); r++) {
      float *row = cpu_f32(x) + r * D;
      if (ebb_present(w)) {
        float inverse = (float)(1.0 / sqrt(sum_squares(row, D, 0.0) / (double)D + (double)eps));
        for (int64_t i = 0; i < D; i++)
          row[i] = row[i] * inverse * weight[i];
      }
      if (ebb_present(cos))
        for (int n = 0; n < heads; n++)
          rotate(row + n * P, cpu_f32(cos) + r % S * (P / 2), cpu_f32(sin) + r % S * (P / 2), P / 2);
    }
}

void cpu_qk_norm_rope(ebb_context *c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk,
                      ebb_tensor cos, ebb_tensor sin, int heads, float eps) {
  make_ready(c, q, wq, cos, sin, heads, eps);
  if (ebb_present(k))
    make_ready(c, k, wk, cos, sin, heads, eps);
}

void cpu_rms_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, float eps) {
  int64_t D = ebb_last(x), rows = ebb_rows(x);
  const float *weight = cpu_f32(w);
  CPU_PARALLEL(c, 4.0 * (double)ebb_count(x))
  for (int64_t r = 0; r < rows; r++) {
    const float *from = cpu_f32(x) + r * D;
    float *to = cpu_f32(y) + r * D;
    float inverse = (float)(1.0 / sqrt(sum_squares(from, D, 0.0) / (double)D + (double)eps));
    for (int64_t i = 0; i < D; i++)
      to[i] = from[i] * inverse * weight[i];
  }
}

void cpu_channel_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act) {
  int64_t C = ebb_last(x), rows = ebb_rows(x) / x.shape[0];
  const float *weight = cpu_f32(w);
  cpu_cut bands = {rows, TILE_ROWS, (rows + TILE_ROWS - 1) / TILE_ROWS};
  CPU_PARALLEL(c, 8.0 * (double)ebb_count(x))
  for (int64_t i = 0; i < x.shape[0] * bands.pieces; i++) {
    int64_t count = cpu_size(bands, i % bands.pieces);
    int64_t at = (i / bands.pieces * rows + cpu_first(bands, i % bands.pieces)) * C;
    for (int64_t r = 0; r < count; r++) {
      const float *from = cpu_f32(x) + at + r * C;
      float *to = cpu_f32(y) + at + r * C;
      double norm = sqrt(sum_squares(from, C, 0.0));
      float factor = (float)(sqrt((double)C) / (norm > 1e-12 ? norm : 1e-12));
      for (int64_t ch = 0; ch < C; ch++)
        to[ch] = from[ch] * factor * weight[ch];
    }
    cpu_activate_row(cpu_f32(y) + at, count * C, act);
  }
}
