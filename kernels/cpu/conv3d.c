#include <cblas.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define TILE_POSITIONS 256 /* outputs of a tile at most: whole rows, one at least */
#define TILES_WANTED 8     /* a small clip: smaller tiles, down to a quarter, until there are so many */
#define TILE_FLOATS 98304  /* of the im2col tile: stays in the second-level cache */
#define POINT_POSITIONS 1024

/* One strided convolution of one sample: y(t,h,w) = b + residual + sum w(dt,dh,dw) x(t*step_t + dt - before_t,
 * h*step + dh - before_h, w*step + dw - before_w), zero outside. Frames of x and y may be a part of a longer
 * video. */
typedef struct conv {
  const float *x;        /* [T, H, W, Ci], frames from the first one on */
  const float *w;        /* [Co, Ci, kt, kh, kw], as it is given */
  const float *b;        /* [Co] or NULL */
  const float *residual; /* as y, or NULL */
  float *y;              /* [To, Ho, Wo, Co] */
  int64_t Ci, Co, T, H, W, To, Ho, Wo;
  int64_t kt, kh, kw, step_t, step, before_t, before_h, before_w;
  int64_t y_frame; /* floats from one output frame to the next */
} conv;

/* How one sample is cut: `rows` output rows (t, h) a tile; products of `runs` pairs (dt, dh), each a run of kw
 * positions, all channels of them. Tiles of a convolution whose output frames do not follow one another stay
 * within a frame. */
typedef struct plan {
  int64_t rows, rows_of_group, tiles_of_group, tiles, runs;
} plan;

static plan plan_of(const conv *v) {
  plan p;
  bool follow = v->y_frame == v->Ho * v->Wo * v->Co;
  int64_t run = v->kw * v->Ci,
          positions = TILE_FLOATS / run < TILE_POSITIONS ? TILE_FLOATS / run : TILE_POSITIONS;
  p.rows_of_group = follow ? v->To * v->Ho : v->Ho;
  int64_t most = v->Wo < positions ? positions / v->Wo : 1, least = (most + 3) / 4;
  int64_t share = (p.rows_of_group + TILES_WANTED - 1) / TILES_WANTED;
  cpu_cut cut = cpu_cut_of(p.rows_of_group, share > most ? most : share < least ? least : share, 1);
  p.rows = cut.size;
  p.tiles_of_group = cut.pieces;
  p.tiles = p.tiles_of_group * (follow ? 1 : v->To);
  p.runs = TILE_FLOATS / (p.rows * v->Wo * run);
  p.runs = p.runs < 1 ? 1 : p.runs < v->kt * v->kh ? p.runs : v->kt * v->kh;
  return p;
}

/* One run of one output row: to, `pitch` floats apart for each of Wo positions, [kw, Ci] = from [W, Ci] around
 * the position. */
static void copy_runs(const conv *v, float *to, int64_t pitch, const float *from) {
  int64_t Ci = v->Ci, run = v->kw * Ci;
  for (int64_t w = 0; w < v->Wo; w++, to += pitch) {
    int64_t first = w * v->step - v->before_w, last = first + v->kw;
    int64_t left = first < 0 ? -first : 0, right = last > v->W ? last - v->W : 0;
    if (left + right >= v->kw) {
      memset(to, 0, (size_t)run * sizeof *to);
      continue;
    }
    if (left > 0)
      memset(to, 0, (size_t)(left * Ci) * sizeof *to);
    memcpy(to + left * Ci, from + (first + left) * Ci, (size_t)((v->kw - left - right) * Ci) * sizeof *to);
    if (right > 0)
      memset(to + (v->kw - right) * Ci, 0, (size_t)(right * Ci) * sizeof *to);
  }
}

/* columns [rows*Wo, runs, kw, Ci] of `runs` runs from `run` on and output rows from `row` on, counted over all
 * frames. */
static void fill_columns(const conv *v, float *columns, int64_t run, int64_t runs, int64_t row,
                         int64_t rows) {
  int64_t pitch = runs * v->kw * v->Ci;
  for (int64_t r = row; r < row + rows; r++, columns += v->Wo * pitch)
    for (int64_t i = 0; i < runs; i++) {
      float *to = columns + i * v->kw * v->Ci;
      int64_t t = r / v->Ho * v->step_t + (run + i) / v->kh - v->before_t,
              h = r % v->Ho * v->step + (run + i) % v->kh - v->before_h;
      if (t >= 0 && t < v->T && h >= 0 && h < v->H)
        copy_runs(v, to, pitch, v->x + (t * v->H + h) * v->W * v->Ci);
      else
        for (int64_t w = 0; w < v->Wo; w++, to += pitch)
          memset(to, 0, (size_t)(v->kw * v->Ci) * sizeof *to);
    }
}

/* y [count, Co] = b + residual; false when there is neither, and y is untouched. */
static bool begin_sums(const conv *v, float *y, const float *residual, int64_t count) {
  int64_t Co = v->Co;
  if (residual)
    memcpy(y, residual, (size_t)(count * Co) * sizeof *y);
  if (v->b && residual)
    for (int64_t i = 0; i < count; i++)
      for (int64_t o = 0; o < Co; o++)
        y[i * Co + o] += v->b[o];
  else if (v->b)
    for (int64_t i = 0; i < count; i++)
      memcpy(y + i * Co, v->b, (size_t)Co * sizeof *y);
  return v->b || residual;
}

/* weights [Co, kt, kh, kw, Ci] */
static void run_tile(const conv *v, const plan *p, const float *weights, float *columns, int64_t tile) {
  int64_t group = tile / p->tiles_of_group, first = tile % p->tiles_of_group * p->rows;
  int64_t rows = p->rows_of_group - first < p->rows ? p->rows_of_group - first : p->rows;
  int64_t run = v->kw * v->Ci, all = v->kt * v->kh, positions = rows * v->Wo;
  int64_t at = group * v->y_frame + first * v->Wo * v->Co;
  bool begun = begin_sums(v, v->y + at, v->residual ? v->residual + at : NULL, positions);
  for (int64_t i = 0; i < all; i += p->runs) {
    int64_t runs = all - i < p->runs ? all - i : p->runs;
    fill_columns(v, columns, i, runs, group * p->rows_of_group + first, rows);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)positions, (int)v->Co, (int)(runs * run), 1.0f,
                columns, (int)(runs * run), weights + i * run, (int)(all * run), begun || i > 0 ? 1.0f : 0.0f,
                v->y + at, (int)v->Co);
  }
}

/* Kernel 1x1x1: y [n, Co] = x [n, Ci] w' + b + residual, cut along n. */
static void run_point_tile(const conv *v, int64_t first, int64_t count) {
  float *y = v->y + first * v->Co;
  bool begun = begin_sums(v, y, v->residual ? v->residual + first * v->Co : NULL, count);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)v->Co, (int)v->Ci, 1.0f,
              v->x + first * v->Ci, (int)v->Ci, v->w, (int)v->Ci, begun ? 1.0f : 0.0f, y, (int)v->Co);
}

/* The convolution of sample i of x and y. */
static conv sample_of(conv v, int64_t i, int64_t x_sample, int64_t y_sample) {
  v.x += i * x_sample;
  v.y += i * y_sample;
  v.residual = v.residual ? v.residual + i * y_sample : NULL;
  return v;
}

/* weights [Co, taps, Ci] from w [Co, Ci, taps] */
static void reorder(ebb_context *c, float *weights, const conv *v, int64_t taps) {
  CPU_PARALLEL(c, 2.0 * (double)(v->Co * v->Ci * taps))
  for (int64_t o = 0; o < v->Co; o++)
    for (int64_t tap = 0; tap < taps; tap++)
      for (int64_t ch = 0; ch < v->Ci; ch++)
        weights[(o * taps + tap) * v->Ci + ch] = v->w[(o * v->Ci + ch) * taps + tap];
}

/* The convolution `v` of sample 0, for `samples` samples that lie x_sample and y_sample floats apart. */
static void run(ebb_context *c, conv v, int64_t samples, int64_t x_sample, int64_t y_sample) {
  int64_t taps = v.kt * v.kh * v.kw;
  double work = 2.0 * (double)(samples * v.Co * v.To) * (double)(v.Ho * v.Wo) * (double)(v.Ci * taps);
  if (taps == 1 && v.step == 1) {
    cpu_cut cut = cpu_cut_of(v.To * v.Ho * v.Wo, POINT_POSITIONS, 16);
    CPU_PARALLEL(c, work)
    for (int64_t i = 0; i < samples * cut.pieces; i++) {
      conv sample = sample_of(v, i / cut.pieces, x_sample, y_sample);
      run_point_tile(&sample, cpu_first(cut, i % cut.pieces), cpu_size(cut, i % cut.pieces));
    }
    return;
  }
  plan p = plan_of(&v);
  cpu_memory memory;
  size_t weights = (size_t)(v.Co * taps * v.Ci) * sizeof(float);
  size_t columns = (size_t)(p.runs * v.kw * v.Ci * p.rows * v.Wo) * sizeof(float);
  if (!cpu_scratch(c, weights, columns, &memory))
    return;
  reorder(c, (float *)memory.shared, &v, taps);
  CPU_PARALLEL(c, work)
  for (int64_t i = 0; i < samples * p.tiles; i++) {
    conv sample = sample_of(v, i / p.tiles, x_sample, y_sample);
    run_tile(&sample, &p, (const float *)memory.shared, cpu_own(memory), i % p.tiles);
  }
}

/* A convolution from all of x to all of y, one tap, step 1. */
static conv conv_of(ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b) {
  return (conv){.x = cpu_f32(x),
                .w = cpu_f32(w),
                .b = ebb_present(b) ? cpu_f32(b) : NULL,
                .y = cpu_f32(y),
                .T = x.shape[1],
                .H = x.shape[2],
                .W = x.shape[3],
                .Ci = x.shape[4],
                .To = y.shape[1],
                .Ho = y.shape[2],
                .Wo = y.shape[3],
                .Co = y.shape[4],
                .kt = 1,
                .kh = 1,
                .kw = 1,
                .step_t = 1,
                .step = 1,
                .y_frame = y.shape[2] * y.shape[3] * y.shape[4]};
}

static int64_t sample_size(ebb_tensor t) {
  return ebb_count(t) / t.shape[0];
}

size_t cpu_convolution_scratch(ebb_context *c, ebb_convolution which, ebb_tensor y, ebb_tensor x,
                               ebb_tensor norm, ebb_tensor w, ebb_tensor residual) {
  (void)c, (void)which, (void)y, (void)w, (void)residual;
  return ebb_present(norm) ? ebb_bytes(x) : 0;
}

/* scratch: memory for silu(norm(x)), when there is a norm */
void cpu_conv3d_causal(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                       ebb_tensor b, ebb_tensor residual, void *scratch) {
  if (ebb_present(norm)) {
    ebb_tensor normed = x;
    normed.data = scratch;
    cpu_channel_norm(c, normed, x, norm, EBB_SILU);
    x = normed;
  }
  conv v = conv_of(y, x, w, b);
  v.residual = ebb_present(residual) ? cpu_f32(residual) : NULL;
  v.kt = w.shape[2], v.kh = w.shape[3], v.kw = w.shape[4];
  v.before_t = v.kt - 1, v.before_h = (v.kh - 1) / 2, v.before_w = (v.kw - 1) / 2;
  run(c, v, x.shape[0], sample_size(x), sample_size(y));
}

void cpu_downsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                          void *scratch) {
  (void)scratch;
  conv v = conv_of(y, x, w, b);
  v.kh = v.kw = 3;
  v.step = 2;
  run(c, v, x.shape[0], sample_size(x), sample_size(y));
}

/* y [B,Ty,H,W,C] frame 0 = x [B,Tx,H,W,C] frame 0. */
static void copy_first_frame(ebb_tensor y, ebb_tensor x) {
  int64_t frame = x.shape[2] * x.shape[3] * x.shape[4];
  for (int64_t i = 0; i < x.shape[0]; i++)
    memcpy(cpu_f32(y) + i * y.shape[1] * frame, cpu_f32(x) + i * x.shape[1] * frame,
           (size_t)frame * sizeof(float));
}

void cpu_downsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                         void *scratch) {
  (void)scratch;
  copy_first_frame(y, x);
  if (x.shape[1] == 1)
    return;
  conv v = conv_of(y, x, w, b);
  v.kt = 3;
  v.step_t = 2;
  v.To = y.shape[1] - 1;
  v.y += v.y_frame;
  run(c, v, x.shape[0], sample_size(x), sample_size(y));
}

void cpu_upsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  int64_t W = x.shape[3], C = x.shape[4], rows = ebb_rows(x) / W;
  CPU_PARALLEL(c, 4.0 * (double)ebb_count(x))
  for (int64_t r = 0; r < rows; r++) {
    const float *from = cpu_f32(x) + r * W * C;
    float *to = cpu_f32(y) + 4 * r * W * C; /* rows 2r and 2r + 1 of width 2W */
    for (int64_t i = 0; i < 2 * W; i++)
      memcpy(to + i * C, from + i / 2 * C, (size_t)C * sizeof *to);
    memcpy(to + 2 * W * C, to, (size_t)(2 * W * C) * sizeof *to);
  }
}

void cpu_upsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                       void *scratch) {
  (void)scratch;
  copy_first_frame(y, x);
  if (x.shape[1] == 1)
    return;
  int64_t C = x.shape[4], frame = x.shape[2] * x.shape[3] * C;
  for (int64_t half = 0; half < 2; half++) {
    conv v = conv_of(y, x, w, b);
    v.x += frame; /* frame 0 is not seen: zeros stand before frame 1 */
    v.T = v.To = x.shape[1] - 1;
    v.kt = 3;
    v.before_t = 2;
    v.w += half * C * C * 3;
    v.b = v.b ? v.b + half * C : NULL;
    v.y += (1 + half) * frame;
    v.y_frame = 2 * frame;
    run(c, v, x.shape[0], sample_size(x), sample_size(y));
  }
}
