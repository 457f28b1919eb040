#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#define TILE 16384 /* elements that a thread takes at a time */
#define CHUNK 2048 /* the same, where they are kept on the stack */

/* Both activations are a / (1 + e^-z): z = a for silu, and as (1 + tanh u)/2 = 1/(1 + e^-2u), z = 2u for
 * gelu_tanh. */
void cpu_activate_row(float *x, int64_t n, ebb_activation act) {
  if (act == EBB_SILU)
    for (int64_t i = 0; i < n; i++)
      x[i] = x[i] / (1.0f + cpu_exp(-x[i]));
  else if (act == EBB_GELU_TANH)
    for (int64_t i = 0; i < n; i++)
      x[i] = x[i] / (1.0f + cpu_exp(x[i] * (-1.59576912f - 0.0713548163f * (x[i] * x[i]))));
  else if (act == EBB_RELU)
    for (int64_t i = 0; i < n; i++)
      x[i] = x[i] < 0.0f ? 0.0f : x[i]; /* NaN stays NaN */
}

void cpu_convert(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  (void)c;
  memcpy(y.data, x.data, ebb_bytes(x));
}

void cpu_activate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_activation act) {
  cpu_cut tiles = cpu_cut_of(ebb_count(x), TILE, 16);
  CPU_PARALLEL(c, 10.0 * (double)ebb_count(x))
  for (int64_t tile = 0; tile < tiles.pieces; tile++) {
    int64_t first = cpu_first(tiles, tile), count = cpu_size(tiles, tile);
    if (y.data != x.data)
      memcpy(cpu_f32(y) + first, cpu_f32(x) + first, (size_t)count * sizeof(float));
    cpu_activate_row(cpu_f32(y) + first, count, act);
  }
}

void cpu_gated(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, ebb_activation act) {
  cpu_cut tiles = cpu_cut_of(ebb_count(a), CHUNK, 16);
  CPU_PARALLEL(c, 10.0 * (double)ebb_count(a))
  for (int64_t tile = 0; tile < tiles.pieces; tile++) {
    int64_t first = cpu_first(tiles, tile), count = cpu_size(tiles, tile);
    float gate[CHUNK], *to = cpu_f32(y) + first;
    const float *from = cpu_f32(b) + first;
    memcpy(gate, cpu_f32(a) + first, (size_t)count * sizeof *gate);
    cpu_activate_row(gate, count, act);
    for (int64_t i = 0; i < count; i++)
      to[i] = gate[i] * from[i];
  }
}

void cpu_gate_add(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate) {
  int64_t rows = ebb_rows(x), S = x.shape[1], D = x.shape[2];
  CPU_PARALLEL(c, 2.0 * (double)ebb_count(x))
  for (int64_t r = 0; r < rows; r++) {
    float *to = cpu_f32(x) + r * D;
    const float *from = cpu_f32(y) + r * D;
    if (!ebb_present(gate)) {
      for (int64_t i = 0; i < D; i++)
        to[i] += from[i];
      continue;
    }
    const float *g = cpu_f32(gate) + cpu_sample(gate, r / S) * D;
    for (int64_t i = 0; i < D; i++)
      to[i] += g[i] * from[i];
  }
}

void cpu_axpby(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z) {
  cpu_cut tiles = cpu_cut_of(ebb_count(x), TILE, 16);
  float *to = cpu_f32(y);
  const float *u = cpu_f32(x), *v = cpu_f32(z);
  CPU_PARALLEL(c, 3.0 * (double)ebb_count(x))
  for (int64_t tile = 0; tile < tiles.pieces; tile++) {
    int64_t first = cpu_first(tiles, tile), end = first + cpu_size(tiles, tile);
    if (v)
      for (int64_t i = first; i < end; i++)
        to[i] = a * u[i] + b * v[i];
    else
      for (int64_t i = first; i < end; i++)
        to[i] = a * u[i];
  }
}

void cpu_add_table(ebb_context *c, ebb_tensor y, ebb_tensor table, ebb_tensor x) {
  int64_t J = y.shape[0], B = y.shape[1], D = y.shape[2];
  CPU_PARALLEL(c, (double)ebb_count(y))
  for (int64_t b = 0; b < B; b++)
    for (int64_t j = 0; j < J; j++) {
      const float *from = cpu_f32(x) + (x.rank == 2 ? b : b * J + j) * D, *row = cpu_f32(table) + j * D;
      for (int64_t i = 0; i < D; i++)
        cpu_f32(y)[(j * B + b) * D + i] = row[i] + from[i];
    }
}

void cpu_channel_affine(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor scale, ebb_tensor shift) {
  int64_t C = x.shape[1], positions = x.shape[2] * x.shape[3] * x.shape[4];
  CPU_PARALLEL(c, 2.0 * (double)ebb_count(x))
  for (int64_t plane = 0; plane < x.shape[0] * C; plane++) {
    float factor = cpu_f32(scale)[plane % C], offset = cpu_f32(shift)[plane % C];
    for (int64_t i = plane * positions; i < (plane + 1) * positions; i++)
      cpu_f32(y)[i] = cpu_f32(x)[i] * factor + offset;
  }
}

void cpu_clamp(ebb_context *c, ebb_tensor y, ebb_tensor x, float low, float high) {
  cpu_cut tiles = cpu_cut_of(ebb_count(x), TILE, 16);
  float *to = cpu_f32(y);
  const float *from = cpu_f32(x);
  CPU_PARALLEL(c, 2.0 * (double)ebb_count(x))
  for (int64_t tile = 0; tile < tiles.pieces; tile++)
    for (int64_t i = cpu_first(tiles, tile); i < cpu_first(tiles, tile) + cpu_size(tiles, tile); i++) {
      float v = from[i] < low ? low : from[i]; /* NaN stays NaN */
      to[i] = v > high ? high : v;
    }
}

/* A video [B,C,T,H,W] seen as tokens: the offset of the first of pw neighbours of (sample, channel, token,
 * place in patch). */
typedef struct patches {
  int64_t C, T, H, W, pt, ph, pw, rows, columns, S;
} patches;

static patches patches_of(ebb_tensor video, const int patch[3]) {
  const int64_t *n = video.shape;
  patches p = {.C = n[1], .T = n[2], .H = n[3], .W = n[4], .pt = patch[0], .ph = patch[1], .pw = patch[2]};
  p.rows = p.H / p.ph;
  p.columns = p.W / p.pw;
  p.S = p.T / p.pt * p.rows * p.columns;
  return p;
}

static int64_t offset_of(const patches *p, int64_t b, int64_t ch, int64_t s, int64_t dt, int64_t dh) {
  int64_t t = s / (p->rows * p->columns), h = s / p->columns % p->rows, w = s % p->columns;
  return (((b * p->C + ch) * p->T + t * p->pt + dt) * p->H + h * p->ph + dh) * p->W + w * p->pw;
}

void cpu_patchify(ebb_context *c, ebb_tensor y, ebb_tensor x, const int patch[3]) {
  patches p = patches_of(x, patch);
  CPU_PARALLEL(c, 4.0 * (double)ebb_count(x))
  for (int64_t token = 0; token < ebb_rows(y); token++) {
    float *to = cpu_f32(y) + token * ebb_last(y);
    for (int64_t ch = 0; ch < p.C; ch++)
      for (int64_t dt = 0; dt < p.pt; dt++)
        for (int64_t dh = 0; dh < p.ph; dh++) {
          const float *from = cpu_f32(x) + offset_of(&p, token / p.S, ch, token % p.S, dt, dh);
          for (int64_t dw = 0; dw < p.pw; dw++)
            *to++ = from[dw];
        }
  }
}

void cpu_unpatchify(ebb_context *c, ebb_tensor x, ebb_tensor y, const int patch[3]) {
  patches p = patches_of(x, patch);
  CPU_PARALLEL(c, 4.0 * (double)ebb_count(x))
  for (int64_t token = 0; token < ebb_rows(y); token++)
    for (int64_t dt = 0; dt < p.pt; dt++)
      for (int64_t dh = 0; dh < p.ph; dh++) {
        const float *from = cpu_f32(y) + token * ebb_last(y) + (dt * p.ph + dh) * p.pw * p.C;
        for (int64_t ch = 0; ch < p.C; ch++) {
          float *to = cpu_f32(x) + offset_of(&p, token / p.S, ch, token % p.S, dt, dh);
          for (int64_t dw = 0; dw < p.pw; dw++)
            to[dw] = from[dw * p.C + ch];
        }
      }
}
