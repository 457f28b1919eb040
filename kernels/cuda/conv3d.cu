/* The VAE's video ops. A convolution is three steps: a pack kernel writes the operand into scratch memory (the
 * norm, SiLU, the zeros around it, and what the tensor cores want), cuDNN convolves it, adds bias and residual
 * and writes y. Small convolutions, and those that cuDNN has no engine for, go through a plain kernel instead.
 *
 * The tensor cores take bfloat16 and sum in float32. bfloat16 tensors are convolved as they are. A float32
 * number is the sum of two bfloat16, hi + lo, but for 2^-17 of it; so a float32 convolution is lo*hi + hi*lo +
 * hi*hi of bfloat16. Short sums are one convolution over three times the channels, [hi, lo, hi] of x against
 * [hi, hi, lo] of w. But tensor cores truncate their sums, an error that grows with the length: long sums are
 * three convolutions, each added to the one before. The relative error is then 2e-6 to 6e-6 up to 10,368
 * products (3x3x3 of 384 channels); at 21,600 it is 2e-5.
 *
 * Samples are convolved one by one, a long clip in slabs of frames; both follow from the shape of one sample. */
#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/units.cuh"

#define THREADS 256
#define KEEP 3                          /* vectors of 8 channels that a lane of pack_rows holds */
#define SMALL_WORK ((int64_t)1 << 22)   /* multiply-adds of a convolution that is not worth a plan */
#define PLAIN_WORK ((int64_t)1 << 30)   /* of one that the plain kernel takes minutes for, and is not given */
#define LONG_SUM 2048                   /* products of an output, from which they are three sums */
#define SLAB_NUMBERS ((int64_t)1 << 28) /* of the operand, and of y, at most: 512 MiB of bfloat16 */
#define GRID_MOST ((int64_t)1 << 20)

/* ---- kernels: operands ------------------------------------------------------------------------------------- */

/* Where the parts of a number that is split go, counted from where hi goes: neighbours among the channels, or
 * an operand of its own for lo. */
typedef struct parts {
  int64_t lo, again; /* again: hi once more; 0: not */
} parts;

/* operand [frames, Hq, Wq, P] from x [T, H, W, C]: frame 0 is frame `first` of x; zero outside x and in
 * channels that nothing is written to. */
typedef struct packing {
  int64_t positions; /* frames*Hq*Wq */
  int T, H, W, C, Hq, Wq, P, first;
  parts to;
} packing;

/* The row of x behind a position of the operand, or NULL. */
template <typename T>
static __device__ __forceinline__ const T *row_of(const T *x, const packing &p, int64_t position) {
  if (position >= p.positions)
    return NULL;
  const unsigned q = (unsigned)position, w = q % (unsigned)p.Wq, th = q / (unsigned)p.Wq,
                 h = th % (unsigned)p.Hq;
  const int t = (int)(th / (unsigned)p.Hq) + p.first;
  if (t < 0 || t >= p.T || (int)h >= p.H || (int)w >= p.W)
    return NULL;
  return x + (((int64_t)t * p.H + h) * p.W + w) * p.C;
}

/* store_unit() in words: in pack_rows the compiler takes that one's struct apart, into twice the writes. */
static __device__ __forceinline__ void store8(float *to, const float v[8]) {
  ((float4 *)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
  ((float4 *)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void store8(bf16 *to, const float v[8]) {
  __nv_bfloat162 pairs[4];
  for (int i = 0; i < 4; i++)
    pairs[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  *(uint4 *)to = *(const uint4 *)pairs;
}

static __device__ __forceinline__ float low_part(float x) {
  return x - __bfloat162float(__float2bfloat16_rn(x));
}

/* sqrt(C)/||x||, the norm's factor of one position */
static __device__ __forceinline__ float norm_factor(float squares, int C) {
  return sqrtf((float)C) / fmaxf(sqrtf(squares), 1e-12f);
}

static __device__ __forceinline__ float normed(float x, float factor, float weight, ebb_activation act) {
  return activated(x * factor * weight, act);
}

/* C a multiple of 8, at most LANES*KEEP*8; LANES lanes a position, x read once. Also y = norm(x), in place too. */
template <typename T, typename To, bool split, int LANES>
static __global__ void __launch_bounds__(THREADS)
    pack_rows(To *operand, const T *x, const float *norm, packing p, ebb_activation act) {
  const int64_t position = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES;
  const int lane = threadIdx.x % LANES;
  const T *row = row_of(x, p, position);
  float v[KEEP][8], squares = 0;
  for (int k = 0; k < KEEP; k++) {
    const int channel = (lane + k * LANES) * 8;
    for (int i = 0; i < 8; i++)
      v[k][i] = 0;
    if (row && channel < p.C)
      load_unit(v[k], row + channel);
    for (int i = 0; i < 8; i++)
      squares += v[k][i] * v[k][i];
  }
  if (norm) {
    for (int offset = LANES / 2; offset > 0; offset >>= 1)
      squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    const float factor = norm_factor(squares, p.C);
    for (int k = 0; k < KEEP; k++) {
      const int channel = (lane + k * LANES) * 8;
      float weights[8];
      if (channel < p.C) {
        load_unit(weights, norm + channel);
        for (int i = 0; i < 8; i++)
          v[k][i] = normed(v[k][i], factor, weights[i], act);
      }
    }
  }
  for (int k = 0; k < KEEP; k++) {
    const int channel = (lane + k * LANES) * 8;
    if (position >= p.positions || channel >= p.C)
      continue;
    To *to = operand + position * p.P + channel;
    store8(to, v[k]);
    if (split) {
      if (p.to.again > 0)
        store8(to + p.to.again, v[k]);
      for (int i = 0; i < 8; i++)
        v[k][i] = low_part(v[k][i]);
      store8(to + p.to.lo, v[k]);
    }
  }
}

/* v, or its parts, to a channel of an operand. */
template <typename To, bool split> static __device__ __forceinline__ void put(To *to, float v, parts p) {
  *to = from_float<To>(v);
  if (split) {
    to[p.lo] = from_float<To>(low_part(v));
    if (p.again > 0)
      to[p.again] = from_float<To>(v);
  }
}

/* Any C. */
template <typename T, typename To, bool split, int LANES>
static __global__ void __launch_bounds__(THREADS)
    pack_any(To *operand, const T *x, const float *norm, packing p, ebb_activation act) {
  const int64_t position = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES;
  const int lane = threadIdx.x % LANES;
  const T *row = row_of(x, p, position);
  float squares = 0;
  for (int channel = lane; norm && row && channel < p.C; channel += LANES)
    squares += to_float(row[channel]) * to_float(row[channel]);
  for (int offset = LANES / 2; offset > 0; offset >>= 1)
    squares += __shfl_xor_sync(0xffffffffu, squares, offset);
  if (position >= p.positions)
    return;
  const float factor = norm_factor(squares, p.C);
  To *to = operand + position * p.P;
  for (int channel = lane; channel < p.C; channel += LANES) {
    float v = row ? to_float(row[channel]) : 0.0f;
    if (norm)
      v = normed(v, factor, norm[channel], act);
    put<To, split>(to + channel, v, p.to);
  }
  const bool inside = split && p.to.again > 0; /* the parts are neighbours */
  for (int channel = (inside ? 3 * p.C : p.C) + lane; channel < p.P; channel += LANES)
    if (inside)
      to[channel] = from_float<To>(0.0f);
    else
      put<To, split>(to + channel, 0.0f, p.to);
}

/* weights [rows, taps, P], all zero before, from w [Co, C, taps]. A thread makes one input channel of one output,
 * so that a warp writes neighbours. */
template <typename T, typename To, bool split>
static __global__ void __launch_bounds__(THREADS)
    pack_weights(To *weights, const T *w, int C, int taps, int P, parts parts_to) {
  const int64_t o = blockIdx.y;
  const int channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= C)
    return;
  for (int tap = 0; tap < taps; tap++)
    put<To, split>(weights + (o * taps + tap) * P + channel, to_float(w[(o * C + channel) * taps + tap]),
                   parts_to);
}

/* ---- kernels: sums ----------------------------------------------------------------------------------------- */

/* Where output i of [n, Co] lies in y: there, or, with `frame` positions a frame, as time is doubled: the first
 * half of the channels of frame t is frame 2t of y [.., Co/2], the second half is frame 2t+1. */
static __device__ __forceinline__ int64_t place_in_y(int64_t i, int Co, int64_t frame) {
  if (frame == 0)
    return i;
  const int64_t position = i / Co;
  const int o = (int)(i % Co), half = Co / 2;
  return ((2 * (position / frame) + (o >= half)) * frame + position % frame) * half + o % half;
}

/* y [To,Ho,Wo,Co] = conv(operand [T,H,W,P], weights [..,taps,P]) + b + residual; a thread an output. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    plain_conv(T *y, const T *operand, const T *weights, const T *b, const T *residual, conv_shape s, int Co,
               int64_t frame) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= s.To * s.Ho * s.Wo * Co)
    return;
  const int64_t position = i / Co, w = position % s.Wo, h = position / s.Wo % s.Ho,
                t = position / (s.Wo * s.Ho);
  const int o = (int)(i % Co), P = (int)s.Ci;
  const T *tap = weights + (int64_t)o * s.kt * s.kh * s.kw * P;
  float sum = 0;
  for (int dt = 0; dt < s.kt; dt++)
    for (int dh = 0; dh < s.kh; dh++)
      for (int dw = 0; dw < s.kw; dw++, tap += P) {
        const int64_t row = h * s.step + dh - s.pad_h, column = w * s.step + dw - s.pad_w;
        if (row < 0 || row >= s.H || column < 0 || column >= s.W)
          continue;
        const T *from = operand + (((t * s.step_t + dt) * s.H + row) * s.W + column) * P;
        for (int channel = 0; channel < P; channel++)
          sum += to_float(from[channel]) * to_float(tap[channel]);
      }
  const int64_t to = place_in_y(i, Co, frame);
  sum += b ? to_float(b[o]) : 0.0f;
  y[to] = from_float<T>(sum + (residual ? to_float(residual[to]) : 0.0f));
}

/* y = sums + b + residual for sums [n, pitch] of which Co channels count. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    finish(T *y, const float *sums, const T *b, const T *residual, int64_t n, int Co, int pitch,
           int64_t frame) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n * Co)
    return;
  const int o = (int)(i % Co);
  const int64_t to = place_in_y(i, Co, frame);
  const float sum = sums[i / Co * pitch + o] + (b ? to_float(b[o]) : 0.0f);
  y[to] = from_float<T>(sum + (residual ? to_float(residual[to]) : 0.0f));
}

/* y [frames, 2H, 2W, row] = x [frames, H, W, row], rows of bytes in pieces of Piece */
template <typename Piece>
static __global__ void __launch_bounds__(THREADS)
    double_space(Piece *y, const Piece *x, int64_t n, int H, int W, int row) {
  const int64_t stride = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += stride) {
    const int64_t position = i / row, w = position % (2 * W), h = position / (2 * W) % (2 * H),
                  t = position / (4 * (int64_t)H * W);
    y[i] = x[((t * H + h / 2) * W + w / 2) * row + i % row];
  }
}

/* ---- launchers: packing ------------------------------------------------------------------------------------ */

template <typename T, typename To, bool split>
static void pack(ebb_context *c, const char *op, To *operand, const T *x, const float *norm, packing p,
                 ebb_activation act) {
  const bool whole = p.C % 8 == 0 && p.P == (p.to.again > 0 ? 3 * p.C : p.C); /* no channels to be zeroed */
  const int lanes = !whole                 ? 0
                    : p.C <= 4 * KEEP * 8  ? 4
                    : p.C <= 8 * KEEP * 8  ? 8
                    : p.C <= 16 * KEEP * 8 ? 16
                    : p.C <= 32 * KEEP * 8 ? 32
                                           : 0;
  const unsigned grid = (unsigned)cuda_ceil(p.positions * (lanes ? lanes : p.C <= 16 ? 4 : 32), THREADS);
  cudaStream_t stream = cuda_stream(c);
  switch (lanes) {
  case 4:
    pack_rows<T, To, split, 4><<<grid, THREADS, 0, stream>>>(operand, x, norm, p, act);
    break;
  case 8:
    pack_rows<T, To, split, 8><<<grid, THREADS, 0, stream>>>(operand, x, norm, p, act);
    break;
  case 16:
    pack_rows<T, To, split, 16><<<grid, THREADS, 0, stream>>>(operand, x, norm, p, act);
    break;
  case 32:
    pack_rows<T, To, split, 32><<<grid, THREADS, 0, stream>>>(operand, x, norm, p, act);
    break;
  default:
    if (p.C <= 16)
      pack_any<T, To, split, 4><<<grid, THREADS, 0, stream>>>(operand, x, norm, p, act);
    else
      pack_any<T, To, split, 32><<<grid, THREADS, 0, stream>>>(operand, x, norm, p, act);
  }
  cuda_launched(c, op);
}

void cuda_channel_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act) {
  const int64_t limit = cuda_of(c)->limits.norm_rows;
  const int C = (int)ebb_last(x), most = limit > 0 ? (int)limit : INT32_MAX / 32;
  for (int64_t first = 0; first < ebb_rows(x); first += most) { /* as one row of positions, in pieces */
    const int n = ebb_rows(x) - first < most ? (int)(ebb_rows(x) - first) : most;
    const packing p = {n, 1, 1, n, C, 1, n, C, 0, {0, 0}};
    CUDA_FOR_DTYPE(x, T, {
      pack<T, T, false>(c, "channel_norm", cuda_at<T>(y) + first * C, cuda_at<T>(x) + first * C, cuda_f32(w),
                        p, act);
    });
  }
}

/* ---- launchers: one convolution ---------------------------------------------------------------------------- */

/* y(t,h,w) = b + r + sum w(dt,dh,dw) a(x)(t*step_t + dt - before_t, h*step + dh - before_h, w*step + dw -
 * before_w), zero outside x; a is silu(norm) or nothing. x and y of one sample. */
typedef struct conv {
  int64_t Ci, T, H, W, Co, To, Ho, Wo; /* x [T,H,W,Ci], y [To,Ho,Wo,Co] */
  int64_t kt, kh, kw, step_t, step, before_t, before_h, before_w;
  int64_t x_first, y_first; /* frames of the tensors' own before x and y */
  bool half, norm, residual;
  bool doubling; /* y is [2 To,Ho,Wo,Co/2]: finish() */
  int64_t work;  /* multiply-adds */
} conv;

/* How it is done, and where in the scratch memory what lies. */
typedef struct layout {
  conv_shape shape;   /* of one slab: To frames of y from T frames of the operand */
  conv_plan *first;   /* cuDNN's; NULL: the plain kernel */
  conv_plan *further; /* of the second and third of three sums */
  bool as_is;         /* x is the operand */
  bool three;         /* sums, hi and lo each an operand of its own */
  bool aside;         /* the sums are float32 and in memory of their own before they are y */
  size_t operand, weights, zeros, sums, turn, workspace, bytes;
} layout;

static conv conv_of(ebb_convolution which, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                    ebb_tensor residual) {
  conv v = {x.shape[4], x.shape[1], x.shape[2], x.shape[3], y.shape[4], y.shape[1], y.shape[2], y.shape[3]};
  v.kt = v.kh = v.kw = v.step_t = v.step = 1;
  v.half = x.dtype == EBB_BF16;
  v.norm = ebb_present(norm);
  v.residual = ebb_present(residual);
  switch (which) {
  case EBB_CONV3D_CAUSAL:
    v.kt = w.shape[2], v.kh = w.shape[3], v.kw = w.shape[4];
    v.before_t = v.kt - 1, v.before_h = v.kh / 2, v.before_w = v.kw / 2;
    break;
  case EBB_DOWNSAMPLE_SPACE:
    v.kh = v.kw = 3, v.step = 2;
    break;
  case EBB_DOWNSAMPLE_TIME:
    v.kt = 3, v.step_t = 2, v.To -= 1, v.y_first = 1;
    break;
  case EBB_UPSAMPLE_TIME:
    v.kt = 3, v.before_t = 2, v.T -= 1, v.To = v.T, v.Co *= 2, v.x_first = v.y_first = 1, v.doubling = true;
    break;
  }
  v.work = v.To * v.Ho * v.Wo * v.Co * v.kt * v.kh * v.kw * v.Ci;
  return v;
}

static int64_t multiple_of_8(int64_t n) {
  return (n + 7) / 8 * 8;
}

/* Takes `bytes` more of the scratch memory; returns where they begin. */
static size_t place(layout *l, int64_t bytes) {
  const size_t at = l->bytes;
  l->bytes += cuda_round_up((size_t)bytes);
  return at;
}

static layout layout_of(ebb_context *c, const char *op, const conv *v) {
  const int64_t limit = cuda_of(c)->limits.slab_numbers, slab = limit > 0 ? limit : SLAB_NUMBERS;
  layout l = {{0}};
  conv_shape *s = &l.shape;
  const int64_t taps = v->kt * v->kh * v->kw;
  const bool small = v->work < SMALL_WORK;
  l.three = !v->half && !small && taps * v->Ci >= LONG_SUM;
  const int64_t Ci = multiple_of_8(v->half || small || l.three ? v->Ci : 3 * v->Ci);
  *s = (conv_shape){Ci,    0,     v->H,      v->W,    multiple_of_8(v->Co), 0,          v->Ho, v->Wo, v->kt,
                    v->kh, v->kw, v->step_t, v->step, v->before_h,          v->before_w};
  if (v->step == 2) /* the zeros below and on the right are written: cuDNN would put them on all sides */
    s->H = 2 * v->Ho + 1, s->W = 2 * v->Wo + 1;
  const int64_t frame = s->H * s->W * s->Ci, y_frame = s->Ho * s->Wo * s->Co;
  const int64_t operand_fits = (slab / frame - s->kt) / s->step_t + 1, y_fits = slab / y_frame;
  const int64_t fit = operand_fits < y_fits ? operand_fits : y_fits;
  s->To = fit < 1 ? 1 : cuda_ceil(v->To, cuda_ceil(v->To, fit)); /* even slabs */
  s->T = (s->To - 1) * s->step_t + s->kt;
  l.aside = v->doubling || v->Co % 8 != 0;
  l.as_is = v->half && !v->norm && v->before_t == 0 && s->H == v->H && s->W == v->W && s->Ci == v->Ci;
  s->half = v->half && !l.aside;
  s->residual = v->residual && !l.aside;
  if (!small) {
    l.first = cuda_conv_plan(c, op, s);
    s->residual = s->residual || l.three;
    l.further = cuda_conv_plan(c, op, s);
  }
  /* of float32 where the plain kernel may convolve, or of hi and lo */
  const int64_t element = v->half || (v->work > PLAIN_WORK && !l.three) ? 2 : 4;
  const int64_t sums = 4 * s->To * y_frame;
  l.operand = place(&l, l.as_is ? 0 : element * s->T * frame);
  l.weights = place(&l, element * s->Co * taps * s->Ci);
  l.zeros = place(&l, 4 * s->Co);
  l.sums = place(&l, !small && l.aside ? sums : 0);
  l.turn = place(&l, l.three ? sums : 0);
  l.workspace = place(&l, small ? 0 : (int64_t)CONV_WORKSPACE);
  return l;
}

/* y = conv + b + r of one slab by the tensor cores; b and r NULL: none. */
static void convolve_slab(ebb_context *c, const char *op, const layout *l, void *y, const bf16 *operand,
                          const bf16 *weights, const void *b, const void *r, char *scratch) {
  const conv_shape *s = &l->shape;
  const void *zeros = scratch + l->zeros;
  void *workspace = scratch + l->workspace, *turn = scratch + l->turn;
  b = b ? b : zeros;
  r = r ? r : zeros;
  if (!l->three) {
    cuda_conv_run(c, op, l->first, y, operand, weights, b, r, workspace);
    return;
  }
  const bf16 *operand_lo = operand + s->T * s->H * s->W * s->Ci;
  const bf16 *weights_lo = weights + s->Co * s->kt * s->kh * s->kw * s->Ci;
  /* The small sums first; and never in place, as an engine may write an output twice. */
  cuda_conv_run(c, op, l->first, y, operand_lo, weights, b, r, workspace);
  cuda_conv_run(c, op, l->further, turn, operand, weights_lo, zeros, y, workspace);
  cuda_conv_run(c, op, l->further, y, operand, weights, zeros, turn, workspace);
}

/* What the samples of a call share: the weights as In, and the zeros. */
template <typename T, typename In, bool split>
static void prepare(ebb_context *c, const char *op, const conv *v, const layout *l, const T *w,
                    char *scratch) {
  const conv_shape *s = &l->shape;
  const int taps = (int)(s->kt * s->kh * s->kw);
  const int64_t size = s->Co * taps * s->Ci;
  const parts parts_to = l->three ? (parts){size, 0} : (parts){2 * v->Ci, v->Ci};
  const dim3 grid((unsigned)cuda_ceil(v->Ci, THREADS), (unsigned)v->Co);
  cudaStream_t stream = cuda_stream(c);
  cuda_ok(c, op, cudaMemsetAsync(scratch + l->weights, 0, l->sums - l->weights, stream)); /* and the zeros */
  pack_weights<T, In, split>
      <<<grid, THREADS, 0, stream>>>((In *)(scratch + l->weights), w, (int)v->Ci, taps, (int)s->Ci, parts_to);
  cuda_launched(c, op);
}

/* One sample; operands are made of In: bfloat16, or, where the plain kernel convolves, T. */
template <typename T, typename In, bool split>
static void convolve_sample(ebb_context *c, const char *op, const conv *v, const layout *l, bool plain, T *y,
                            const T *x, const float *norm, const T *b, const T *residual, char *scratch) {
  const conv_shape *s = &l->shape;
  const int64_t y_frame = v->Ho * v->Wo * v->Co, n = s->To * v->Ho * v->Wo,
                doubled = v->doubling ? v->Ho * v->Wo : 0;
  const int Co = (int)v->Co;
  const unsigned outputs = (unsigned)cuda_ceil(n * v->Co, THREADS);
  const int64_t operand_size = s->T * s->H * s->W * s->Ci;
  const parts operand_parts = l->three ? (parts){operand_size, 0} : (parts){v->Ci, 2 * v->Ci};
  const In *weights = (const In *)(scratch + l->weights);
  cudaStream_t stream = cuda_stream(c);
  for (int64_t done = 0; done < v->To; done += s->To) {
    /* The last slab begins early rather than being shorter: one plan for all. */
    const int64_t t = done + s->To <= v->To ? done : v->To - s->To;
    const int first = (int)(t * s->step_t - v->before_t);
    In *operand = l->as_is ? (In *)(x + first * v->H * v->W * v->Ci) : (In *)(scratch + l->operand);
    float *sums = (float *)(scratch + l->sums);
    T *to = y + t * y_frame;
    const T *r = residual ? residual + t * y_frame : NULL;
    if (!l->as_is) {
      const packing p = {
          s->T * s->H * s->W, (int)v->T, (int)v->H,  (int)v->W, (int)v->Ci,
          (int)s->H,          (int)s->W, (int)s->Ci, first,     split ? operand_parts : (parts){0, 0}};
      pack<T, In, split>(c, op, operand, x, norm, p, EBB_SILU);
    }
    if (plain) {
      plain_conv<<<outputs, THREADS, 0, stream>>>(to, (const T *)operand, (const T *)weights, b, r, *s, Co,
                                                  doubled);
      cuda_launched(c, op);
    } else if (!l->aside) {
      convolve_slab(c, op, l, to, (bf16 *)operand, (const bf16 *)weights, b, r, scratch);
    } else {
      convolve_slab(c, op, l, sums, (bf16 *)operand, (const bf16 *)weights, NULL, NULL, scratch);
      finish<<<outputs, THREADS, 0, stream>>>(to, sums, b, r, n, Co, (int)s->Co, doubled);
      cuda_launched(c, op);
    }
  }
}

/* Whether the plain kernel convolves; false for *ok where nobody can. */
static bool is_plain(ebb_context *c, const char *op, const conv *v, const layout *l, bool *ok) {
  conv_plan *const plans[2] = {l->first, l->further};
  bool none = v->work < SMALL_WORK;
  *ok = true;
  for (int i = 0; i < 2 && !none && *ok; i++) {
    const conv_made made = plans[i] ? cuda_conv_wait(c, op, plans[i]) : CONV_FAILED;
    none = made == CONV_NO_ENGINE;
    *ok = made != CONV_FAILED;
  }
  if (none && v->work > PLAIN_WORK) {
    const conv_shape *s = &l->shape;
    ebb_context_fail(
        c,
        "%s: cuDNN on %s has no engine for [1, %lld, %lld, %lld, %lld] of %lld x %lld x %lld into "
        "%lld channels, %.1e multiply-adds, which take minutes without; expected one: use another "
        "release of cuDNN 9, or device \"cpu\"",
        op, c->device, (long long)v->T, (long long)v->H, (long long)v->W, (long long)v->Ci, (long long)s->kt,
        (long long)s->kh, (long long)s->kw, (long long)v->Co, (double)v->work);
    *ok = false;
  }
  return none;
}

static void convolve(ebb_context *c, const char *op, ebb_convolution which, ebb_tensor y, ebb_tensor x,
                     ebb_tensor norm, ebb_tensor w, ebb_tensor b, ebb_tensor residual, void *scratch) {
  const conv v = conv_of(which, y, x, norm, w, residual);
  if (v.T < 1 || v.To < 1) /* one frame: there is nothing but the first */
    return;
  const layout l = layout_of(c, op, &v);
  bool ok;
  const bool plain = is_plain(c, op, &v, &l, &ok);
  if (!ok)
    return;
  const int64_t x_frame = v.H * v.W * v.Ci, y_frame = v.Ho * v.Wo * y.shape[4];
  CUDA_FOR_DTYPE(x, T, {
    constexpr bool split = sizeof(T) == 4;
    char *const memory = (char *)scratch;
    if (plain)
      prepare<T, T, false>(c, op, &v, &l, cuda_at<T>(w), memory);
    else
      prepare<T, bf16, split>(c, op, &v, &l, cuda_at<T>(w), memory);
    for (int64_t i = 0; i < x.shape[0] && !c->error.text[0]; i++) {
      T *to = cuda_at<T>(y) + (i * y.shape[1] + v.y_first) * y_frame;
      const T *from = cuda_at<T>(x) + (i * x.shape[1] + v.x_first) * x_frame;
      const T *r = v.residual ? cuda_at<T>(residual) + i * y.shape[1] * y_frame : NULL;
      if (plain)
        convolve_sample<T, T, false>(c, op, &v, &l, true, to, from, cuda_f32(norm), cuda_at<T>(b), r, memory);
      else
        convolve_sample<T, bf16, split>(c, op, &v, &l, false, to, from, cuda_f32(norm), cuda_at<T>(b), r,
                                        memory);
    }
  });
}

size_t cuda_convolution_scratch(ebb_context *c, ebb_convolution which, ebb_tensor y, ebb_tensor x,
                                ebb_tensor norm, ebb_tensor w, ebb_tensor residual) {
  const conv v = conv_of(which, y, x, norm, w, residual);
  return v.T < 1 || v.To < 1 ? 0 : layout_of(c, "convolution", &v).bytes;
}

/* ---- launchers: the ops ------------------------------------------------------------------------------------ */

void cuda_conv3d_causal(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                        ebb_tensor b, ebb_tensor residual, void *scratch) {
  convolve(c, "conv3d_causal", EBB_CONV3D_CAUSAL, y, x, norm, w, b, residual, scratch);
}

void cuda_downsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                           void *scratch) {
  convolve(c, "downsample_space", EBB_DOWNSAMPLE_SPACE, y, x, EBB_NO_TENSOR, w, b, EBB_NO_TENSOR, scratch);
}

/* y [B,Ty,H,W,C] frame 0 = x [B,Tx,H,W,C] frame 0 */
static void copy_first_frame(ebb_context *c, const char *op, ebb_tensor y, ebb_tensor x) {
  const size_t frame = ebb_bytes(x) / (size_t)(x.shape[0] * x.shape[1]);
  for (int64_t i = 0; i < x.shape[0]; i++)
    cuda_ok(c, op,
            cudaMemcpyAsync((char *)y.data + (size_t)(i * y.shape[1]) * frame,
                            (char *)x.data + (size_t)(i * x.shape[1]) * frame, frame,
                            cudaMemcpyDeviceToDevice, cuda_stream(c)));
}

void cuda_downsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                          void *scratch) {
  copy_first_frame(c, "downsample_time", y, x);
  convolve(c, "downsample_time", EBB_DOWNSAMPLE_TIME, y, x, EBB_NO_TENSOR, w, b, EBB_NO_TENSOR, scratch);
}

void cuda_upsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                        void *scratch) {
  copy_first_frame(c, "upsample_time", y, x);
  convolve(c, "upsample_time", EBB_UPSAMPLE_TIME, y, x, EBB_NO_TENSOR, w, b, EBB_NO_TENSOR, scratch);
}

template <typename Piece> static void double_space_of(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  const int64_t n = (int64_t)(ebb_bytes(y) / sizeof(Piece)), row = n / ebb_rows(y),
                blocks = cuda_ceil(n, THREADS);
  double_space<Piece><<<(unsigned)(blocks < GRID_MOST ? blocks : GRID_MOST), THREADS, 0, cuda_stream(c)>>>(
      cuda_at<Piece>(y), cuda_at<Piece>(x), n, (int)x.shape[2], (int)x.shape[3], (int)row);
  cuda_launched(c, "upsample_space");
}

void cuda_upsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  const size_t row = ebb_bytes(x) / (size_t)ebb_rows(x);
  if (row % 16 == 0)
    double_space_of<uint4>(c, y, x);
  else if (row % 4 == 0)
    double_space_of<float>(c, y, x);
  else
    double_space_of<bf16>(c, y, x);
}
