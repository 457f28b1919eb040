#include <cblas.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define TILE_POSITIONS 256 /* outputs of a tile: whole rows, at least one */
#define TILE_FLOATS 98304  /* of the im2col tile: stays in the second-level cache */
#define POINT_POSITIONS 1024

/* One strided convolution: out(t,h,w) = b + sum w(dt,dh,dw) in(t*step_t + dt - before_t, h*step + dh -
 * before, w*step + dw - before_w), zero outside. Frames of x and y may be a part of a longer video. */
typedef struct conv {
  const float *x; /* [Ci, T, H, W] of the sample, frames from the first one on */
  const float *w; /* [Co, Ci*kt*kh*kw] */
  const float *b; /* [Co] or NULL */
  float *y;       /* [Co, To, Ho, Wo] of the sample */
  int64_t Ci, Co, T, H, W, To, Ho, Wo;
  int64_t kt, kh, kw, step_t, step, before_t, before_h, before_w;
  int64_t x_channel, y_channel; /* floats from one channel to the next */
  int64_t y_frame;              /* floats from one output frame to the next */
} conv;

/* How one sample is cut: `rows` output rows (t, h) a tile, `channels` input channels a product. Tiles of a
 * convolution whose output frames do not follow one another stay within a frame. */
typedef struct plan {
  int64_t rows, rows_of_group, tiles_of_group, tiles, channels;
} plan;

static plan plan_of(const conv *v) {
  plan p;
  int64_t taps = v->kt * v->kh * v->kw;
  bool follow = v->y_frame == v->Ho * v->Wo;
  p.rows_of_group = follow ? v->To * v->Ho : v->Ho;
  p.rows = v->Wo < TILE_POSITIONS ? TILE_POSITIONS / v->Wo : 1;
  p.rows = p.rows < p.rows_of_group ? p.rows : p.rows_of_group;
  p.tiles_of_group = (p.rows_of_group + p.rows - 1) / p.rows;
  p.tiles = p.tiles_of_group * (follow ? 1 : v->To);
  p.channels = TILE_FLOATS / (taps * p.rows * v->Wo);
  p.channels = p.channels < 1 ? 1 : p.channels < v->Ci ? p.channels : v->Ci;
  return p;
}

/* One row of the im2col tile: to [Wo] = from [W] seen through tap dw. */
static void copy_row(const conv *v, float *restrict to, const float *restrict from, int64_t dw) {
  int64_t shift = dw - v->before_w;
  if (v->step == 1) {
    int64_t first = shift < 0 ? -shift : 0, end = v->W - shift < v->Wo ? v->W - shift : v->Wo;
    for (int64_t i = 0; i < first; i++)
      to[i] = 0.0f;
    for (int64_t i = first; i < end; i++)
      to[i] = from[i + shift];
    for (int64_t i = end > first ? end : first; i < v->Wo; i++)
      to[i] = 0.0f;
    return;
  }
  for (int64_t i = 0; i < v->Wo; i++) {
    int64_t at = i * v->step + shift;
    to[i] = at >= 0 && at < v->W ? from[at] : 0.0f;
  }
}

/* columns [channels*kt*kh*kw, rows*Wo] of `channels` inputs from `channel` on and output rows from `row` on,
 * counted over all frames. */
static void fill_columns(const conv *v, float *columns, int64_t channel, int64_t channels, int64_t row,
                         int64_t rows) {
  float *to = columns;
  for (int64_t ch = channel; ch < channel + channels; ch++)
    for (int64_t dt = 0; dt < v->kt; dt++)
      for (int64_t dh = 0; dh < v->kh; dh++)
        for (int64_t dw = 0; dw < v->kw; dw++)
          for (int64_t r = row; r < row + rows; r++, to += v->Wo) {
            int64_t t = r / v->Ho * v->step_t + dt - v->before_t, h = r % v->Ho * v->step + dh - v->before_h;
            if (t < 0 || t >= v->T || h < 0 || h >= v->H)
              memset(to, 0, (size_t)v->Wo * sizeof(float));
            else
              copy_row(v, to, v->x + ch * v->x_channel + (t * v->H + h) * v->W, dw);
          }
}

static void run_tile(const conv *v, const plan *p, float *columns, int64_t tile) {
  int64_t group = tile / p->tiles_of_group, first = tile % p->tiles_of_group * p->rows;
  int64_t rows = p->rows_of_group - first < p->rows ? p->rows_of_group - first : p->rows;
  int64_t taps = v->kt * v->kh * v->kw, positions = rows * v->Wo;
  float *y = v->y + group * v->y_frame + first * v->Wo;
  for (int64_t o = 0; v->b && o < v->Co; o++)
    for (int64_t i = 0; i < positions; i++)
      y[o * v->y_channel + i] = v->b[o];
  for (int64_t ch = 0; ch < v->Ci; ch += p->channels) {
    int64_t channels = v->Ci - ch < p->channels ? v->Ci - ch : p->channels;
    fill_columns(v, columns, ch, channels, group * p->rows_of_group + first, rows);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)v->Co, (int)positions, (int)(channels * taps),
                1.0f, v->w + ch * taps, (int)(v->Ci * taps), columns, (int)positions,
                v->b || ch > 0 ? 1.0f : 0.0f, y, (int)v->y_channel);
  }
}

/* Kernel 1x1x1: y [Co, n] = w [Co, Ci] x [Ci, n] + b, cut along n. */
static void run_point_tile(const conv *v, int64_t first, int64_t count) {
  float *y = v->y + first;
  for (int64_t o = 0; v->b && o < v->Co; o++)
    for (int64_t i = 0; i < count; i++)
      y[o * v->y_channel + i] = v->b[o];
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)v->Co, (int)count, (int)v->Ci, 1.0f, v->w,
              (int)v->Ci, v->x + first, (int)v->x_channel, v->b ? 1.0f : 0.0f, y, (int)v->y_channel);
}

/* The convolution `v` of sample 0, for `samples` samples that lie x_sample and y_sample floats apart. */
static void run(ebb_context *c, conv v, int64_t samples, int64_t x_sample, int64_t y_sample) {
  double work =
      2.0 * (double)(samples * v.Co * v.To) * (double)(v.Ho * v.Wo) * (double)(v.Ci * v.kt * v.kh * v.kw);
  if (v.kt * v.kh * v.kw == 1 && v.step == 1) {
    cpu_cut cut = cpu_cut_of(v.To * v.Ho * v.Wo, POINT_POSITIONS, 16);
    CPU_PARALLEL(c, work)
    for (int64_t i = 0; i < samples * cut.pieces; i++) {
      conv sample = v;
      sample.x += i / cut.pieces * x_sample;
      sample.y += i / cut.pieces * y_sample;
      run_point_tile(&sample, cpu_first(cut, i % cut.pieces), cpu_size(cut, i % cut.pieces));
    }
    return;
  }
  plan p = plan_of(&v);
  cpu_memory memory;
  size_t bytes = (size_t)(p.channels * v.kt * v.kh * v.kw * p.rows * v.Wo) * sizeof(float);
  if (!cpu_scratch(c, 0, bytes, &memory))
    return;
  CPU_PARALLEL(c, work)
  for (int64_t i = 0; i < samples * p.tiles; i++) {
    conv sample = v;
    sample.x += i / p.tiles * x_sample;
    sample.y += i / p.tiles * y_sample;
    run_tile(&sample, &p, cpu_own(memory), i % p.tiles);
  }
}

/* A convolution from all of x to all of y, both [B,C,T,H,W], one tap, step 1. */
static conv conv_of(ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  return (conv){.x = cpu_f32(x),
                .w = cpu_f32(w),
                .b = ebb_present(b) ? cpu_f32(b) : NULL,
                .y = cpu_f32(y),
                .Ci = x.shape[1],
                .Co = y.shape[1],
                .T = x.shape[2],
                .H = x.shape[3],
                .W = x.shape[4],
                .To = y.shape[2],
                .Ho = y.shape[3],
                .Wo = y.shape[4],
                .kt = 1,
                .kh = 1,
                .kw = 1,
                .step_t = 1,
                .step = 1,
                .x_channel = x.shape[2] * x.shape[3] * x.shape[4],
                .y_channel = y.shape[2] * y.shape[3] * y.shape[4],
                .y_frame = y.shape[3] * y.shape[4]};
}

static int64_t sample_of(ebb_tensor t) {
  return ebb_count(t) / t.shape[0];
}

void cpu_conv3d_causal(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  conv v = conv_of(y, x, w, b);
  v.kt = w.shape[2], v.kh = w.shape[3], v.kw = w.shape[4];
  v.before_t = v.kt - 1, v.before_h = (v.kh - 1) / 2, v.before_w = (v.kw - 1) / 2;
  run(c, v, x.shape[0], sample_of(x), sample_of(y));
}

void cpu_downsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  conv v = conv_of(y, x, w, b);
  v.kh = v.kw = 3;
  v.step = 2;
  run(c, v, x.shape[0], sample_of(x), sample_of(y));
}

/* y [B,C,Ty,H,W] frame 0 = x [B,C,Tx,H,W] frame 0. */
static void copy_first_frame(ebb_tensor y, ebb_tensor x) {
  int64_t frame = x.shape[3] * x.shape[4];
  for (int64_t i = 0; i < x.shape[0] * x.shape[1]; i++)
    memcpy(cpu_f32(y) + i * y.shape[2] * frame, cpu_f32(x) + i * x.shape[2] * frame,
           (size_t)frame * sizeof(float));
}

void cpu_downsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  copy_first_frame(y, x);
  if (x.shape[2] == 1)
    return;
  conv v = conv_of(y, x, w, b);
  v.kt = 3;
  v.step_t = 2;
  v.To = y.shape[2] - 1;
  v.y += v.y_frame;
  run(c, v, x.shape[0], sample_of(x), sample_of(y));
}

void cpu_upsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  int64_t W = x.shape[4], rows = ebb_rows(x);
  CPU_PARALLEL(c, 4.0 * (double)ebb_count(x))
  for (int64_t r = 0; r < rows; r++) {
    const float *from = cpu_f32(x) + r * W;
    float *to = cpu_f32(y) + 4 * r * W; /* rows 2r and 2r + 1 of width 2W */
    for (int64_t i = 0; i < W; i++)
      to[2 * i] = to[2 * i + 1] = from[i];
    memcpy(to + 2 * W, to, (size_t)(2 * W) * sizeof(float));
  }
}

void cpu_upsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  copy_first_frame(y, x);
  if (x.shape[2] == 1)
    return;
  int64_t C = x.shape[1], frame = x.shape[3] * x.shape[4];
  for (int64_t half = 0; half < 2; half++) {
    conv v = conv_of(y, x, w, b);
    v.x += frame; /* frame 0 is not seen: zeros stand before frame 1 */
    v.T = v.To = x.shape[2] - 1;
    v.kt = 3;
    v.before_t = 2;
    v.w += half * C * C * 3;
    v.b = v.b ? v.b + half * C : NULL;
    v.y += (1 + half) * frame;
    v.y_frame = 2 * frame;
    run(c, v, x.shape[0], sample_of(x), sample_of(y));
  }
}
