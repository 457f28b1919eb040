/* Norms over rows: a row is read once, kept in the registers of the threads that share it, and measured
 * there twice (the mean, then the squares about it). Which thread holds what hangs on the width of a row and
 * on the dtype of x alone, and every rounding of a norm is written out, so that its bytes are the same in
 * any batch, at any address and in the fused op. */
#include <type_traits>

#include "kernels/cuda/units.cuh"

#define ROW_FLOATS 24 /* numbers of a row that a thread holds at most */
#define FEW_FLOATS 8  /* the same for narrow rows: a warp of them, and more warps at a time */
#define MOST_WARPS 8  /* that share a row */
#define BLOCK_WARPS 4
#define ROW_BOUNDS __launch_bounds__(32 * MOST_WARPS, 3) /* 80 registers: enough rows are under way at once */
#define QK_UNITS 6 /* of a row that a thread holds at most, as they came */
#define QK_BOUNDS __launch_bounds__(32 * MOST_WARPS, 4) /* 64 registers */
#define WIDE_THREADS 256

/* Where rows are: a block has rows of one sample, blockDim.y at a time, blockDim.x threads each. */
typedef struct rows {
  int64_t S;       /* rows of a sample */
  int D;           /* numbers of a row */
  float per;       /* 1 / D */
  unsigned blocks; /* of a sample */
} rows;

/* What a normed row is multiplied by and added to, (scale + one) and shift, and what is added to it before is
 * multiplied by, which may be NULL. */
typedef struct vectors {
  const float *scale, *shift, *gate;
  int64_t stride, gate_stride; /* from one sample's to the next one's */
  float one;
} vectors;

typedef struct rotation {
  const float *cosine, *sine; /* [S, pairs]; NULL: none */
  int pairs;                  /* of a head */
  bool repeats;               /* all units of a thread are at the same place of a head */
} rotation;

static __device__ __forceinline__ unsigned sample_of(rows at) {
  return blockIdx.x / at.blocks;
}
/* The row of its sample that this thread works for; at.S or beyond: none. */
static __device__ __forceinline__ int64_t row_of(rows at) {
  return (int64_t)(blockIdx.x % at.blocks) * blockDim.y + threadIdx.y;
}

/* Sum over the threads of a row, in each of them: in the warps, then warp after warp. All threads of the
 * block must come here. */
static __device__ __forceinline__ float row_sum(float x) {
  __shared__ float sums[BLOCK_WARPS][MOST_WARPS];
  x = warp_sum(x);
  if (blockDim.x == 32)
    return x;
  __syncthreads(); /* the last sum has been read */
  if (threadIdx.x % 32 == 0)
    sums[threadIdx.y][threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < blockDim.x / 32; w++)
    x += sums[threadIdx.y][w];
  return x;
}

/* Unit u of this thread begins at that number of the row. */
template <int N> static __device__ __forceinline__ int begin_of(int u) {
  return ((int)threadIdx.x + u * (int)blockDim.x) * N;
}

/* Units whose vectors a thread reads together, before it writes the first: reads do not pass writes here. */
static __host__ __device__ constexpr int batch_of(int units, int N) {
  return 8 / N < units ? 8 / N : units;
}

/* v = the thread's units of row x. */
template <bool WHOLE, int UNITS, int N, typename X>
static __device__ __forceinline__ void load_row(float (&v)[UNITS][N], const X *x, int D) {
#pragma unroll
  for (int u = 0; u < UNITS; u++)
    if (begin_of<N>(u) < D)
      load_some<WHOLE>(v[u], x + begin_of<N>(u), D - begin_of<N>(u));
}

/* sum (v - about) or, squared, sum (v - about)^2 over the row. */
template <bool SQUARED, bool WHOLE, int UNITS, int N>
static __device__ __forceinline__ float sum_row(const float (&v)[UNITS][N], int D, float about) {
  float total = 0;
#pragma unroll
  for (int u = 0; u < UNITS; u++) {
    float part = 0;
#pragma unroll
    for (int i = 0; i < N; i++)
      if (begin_of<N>(u) + (WHOLE ? 0 : i) < D)
        part = SQUARED ? __fmaf_rn(v[u][i] - about, v[u][i] - about, part) : part + v[u][i];
    total += part;
  }
  return row_sum(total);
}

static __device__ __forceinline__ float modulated(float x, float mean, float inverse, float scale,
                                                  float shift) {
  return __fmaf_rn(__fmul_rn(x - mean, inverse), scale, shift);
}

/* to = `BATCH` units of a vector or of a row that is not written, from the thread's unit u0 on. */
template <bool WHOLE, int BATCH, int N, typename A>
static __device__ __forceinline__ void read_batch(float (&to)[BATCH][N], const A *from, int u0, int D) {
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (begin_of<N>(u0 + k) < D)
      read_some<WHOLE>(to[k], from + begin_of<N>(u0 + k), D - begin_of<N>(u0 + k));
}

/* v <- v + gate * a, rounded as it is stored in x. */
template <bool WHOLE, int UNITS, int N, typename X, typename A>
static __device__ __forceinline__ void add_row(float (&v)[UNITS][N], X *x, const A *a, const float *gate,
                                               int D) {
  constexpr int BATCH = batch_of(UNITS, N);
  float added[BATCH][N], g[BATCH][N];
#pragma unroll
  for (int u = 0; u < UNITS; u++) {
    if (u % BATCH == 0) {
      read_batch<WHOLE>(added, a, u, D);
      if (gate)
        read_batch<WHOLE>(g, gate, u, D);
    }
    if (begin_of<N>(u) >= D)
      continue;
#pragma unroll
    for (int i = 0; i < N; i++) {
      float sum = __fmaf_rn(gate ? g[u % BATCH][i] : 1.0f, added[u % BATCH][i], v[u][i]);
      v[u][i] = to_float(from_float<X>(sum));
    }
    store_some<WHOLE>(x + begin_of<N>(u), v[u], D - begin_of<N>(u));
  }
}

/* y = (v - mean) * inverse, modulated. */
template <bool WHOLE, int UNITS, int N, typename Y>
static __device__ __forceinline__ void write_row(Y *y, float (&v)[UNITS][N], float mean, float inverse,
                                                 vectors m, int64_t sample, int D) {
  constexpr int BATCH = batch_of(UNITS, N);
  float scale[BATCH][N], shift[BATCH][N];
#pragma unroll
  for (int u = 0; u < UNITS; u++) {
    if (u % BATCH == 0) {
      read_batch<WHOLE>(scale, m.scale + sample * m.stride, u, D);
      read_batch<WHOLE>(shift, m.shift + sample * m.stride, u, D);
    }
    if (begin_of<N>(u) >= D)
      continue;
#pragma unroll
    for (int i = 0; i < N; i++)
      v[u][i] = modulated(v[u][i], mean, inverse, scale[u % BATCH][i] + m.one, shift[u % BATCH][i]);
    store_some<WHOLE>(y + begin_of<N>(u), v[u], D - begin_of<N>(u));
  }
}

/* y = norm(x), modulated; y may be x. With A a number, x <- x + gate * a before. */
template <int FLOATS, bool WHOLE, typename Y, typename X, typename A>
static __global__ void ROW_BOUNDS norm_rows(Y *y, X *x, const A *a, vectors m, rows at, float eps) {
  constexpr int N = 16 / sizeof(X), UNITS = FLOATS / N;
  bool inside = row_of(at) < at.S;
  int64_t sample = sample_of(at), from = (sample * at.S + row_of(at)) * at.D;
  float v[UNITS][N] = {};
  if (inside)
    load_row<WHOLE>(v, x + from, at.D);
  if constexpr (!std::is_void_v<A>)
    if (inside)
      add_row<WHOLE>(v, x + from, a + from, m.gate ? m.gate + sample * m.gate_stride : NULL, at.D);
  float mean = __fmul_rn(sum_row<false, WHOLE>(v, at.D, 0.0f), at.per);
  float inverse = rsqrtf(__fmaf_rn(sum_row<true, WHOLE>(v, at.D, mean), at.per, eps));
  if (inside)
    write_row<WHOLE>(y + from, v, mean, inverse, m, sample, at.D);
}

/* N numbers as they stand in memory; 0 beyond `count`. */
template <bool WHOLE, int N, typename X>
static __device__ __forceinline__ void load_packed(unit<X, N> &to, const X *x, int count) {
  if constexpr (WHOLE) {
    to = *reinterpret_cast<const unit<X, N> *>(x);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++)
      if (i < count)
        to.v[i] = x[i];
  }
}

template <typename X, int N>
static __device__ __forceinline__ void unpack(float (&v)[N], const unit<X, N> &from) {
#pragma unroll
  for (int i = 0; i < N; i++)
    v[i] = to_float(from.v[i]);
}

/* Makes the compiler take apart again what it has taken apart before, in place of keeping all the parts. */
template <typename X, int N> static __device__ __forceinline__ void forget_parts(unit<X, N> &x) {
  uint4 &words = reinterpret_cast<uint4 &>(x);
  asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
}

/* sum x^2 over the row */
template <int UNITS, typename X, int N>
static __device__ __forceinline__ float packed_squares(const unit<X, N> (&x)[UNITS]) {
  float total = 0;
#pragma unroll
  for (int u = 0; u < UNITS; u++) {
    float v[N], part = 0;
    unpack(v, x[u]);
#pragma unroll
    for (int i = 0; i < N; i++)
      part = __fmaf_rn(v[i], v[i], part);
    total += part;
  }
  return row_sum(total);
}

/* The angles of the N / 2 pairs from number i0 of the row of token s on. */
template <int N> struct angles { float cosine[N / 2], sine[N / 2]; };

template <bool WHOLE, int N>
static __device__ __forceinline__ void load_angles(angles<N> &to, rotation r, int64_t s, int i0) {
  if constexpr (WHOLE) { /* all in one head */
    read_unit(to.cosine, r.cosine + s * r.pairs + i0 / 2 % r.pairs);
    read_unit(to.sine, r.sine + s * r.pairs + i0 / 2 % r.pairs);
  } else {
#pragma unroll
    for (int p = 0; p < N / 2; p++) {
      to.cosine[p] = r.cosine[s * r.pairs + (i0 / 2 + p) % r.pairs];
      to.sine[p] = r.sine[s * r.pairs + (i0 / 2 + p) % r.pairs];
    }
  }
}

template <int N> static __device__ __forceinline__ void rotate(float (&v)[N], const angles<N> &by) {
#pragma unroll
  for (int p = 0; p < N / 2; p++) {
    float a = v[2 * p], b = v[2 * p + 1];
    v[2 * p] = a * by.cosine[p] - b * by.sine[p];
    v[2 * p + 1] = a * by.sine[p] + b * by.cosine[p];
  }
}

/* Queries alone, or queries and keys: two 1. Their rows take turns, so that those of one token are in one
 * block, which reads its angles once. */
template <typename X> struct made_ready {
  X *q, *k;
  const float *wq, *wk;
  unsigned two;
};

/* x <- x / sqrt(mean(x^2) + eps) * w, then turned. A thread keeps its numbers as they came. */
template <int FLOATS, bool WHOLE, typename X>
static __global__ void QK_BOUNDS qk_rows(made_ready<X> of, rotation r, rows at, float eps) {
  constexpr int N = 16 / sizeof(X), UNITS = FLOATS / N;
  const unsigned turn = (unsigned)row_of(at), s = turn >> of.two;
  const bool inside = turn < (unsigned)at.S, key = turn & of.two;
  const float *w = key ? of.wk : of.wq;
  X *row = (key ? of.k : of.q) + (sample_of(at) * (at.S >> of.two) + s) * at.D;
  unit<X, N> packed[UNITS] = {};
  angles<N> by;
#pragma unroll
  for (int u = 0; u < UNITS; u++)
    if (inside && begin_of<N>(u) < at.D)
      load_packed<WHOLE>(packed[u], row + begin_of<N>(u), at.D - begin_of<N>(u));
  if (r.repeats && inside && begin_of<N>(0) < at.D) /* on their way while the row is measured */
    load_angles<WHOLE>(by, r, s, begin_of<N>(0));
  float inverse = 1.0f;
  if (of.wq || of.wk) /* not w: all threads of the block come here, or none */
    inverse = rsqrtf(__fmaf_rn(packed_squares(packed), at.per, eps));
#pragma unroll
  for (int u = 0; u < UNITS; u++) {
    const int i0 = begin_of<N>(u);
    if (!inside || i0 >= at.D)
      continue;
    float v[N], weight[N];
    forget_parts(packed[u]);
    unpack(v, packed[u]);
    if (w) {
      read_some<WHOLE>(weight, w + i0, at.D - i0);
#pragma unroll
      for (int i = 0; i < N; i++)
        v[i] = v[i] * inverse * weight[i];
    }
    if (r.cosine) {
      if (!r.repeats)
        load_angles<WHOLE>(by, r, s, i0);
      rotate(v, by);
    }
    store_some<WHOLE>(row + i0, v, at.D - i0);
  }
}

/* The same for rows wider than the registers of a block: a block each, read once for every sum. */
template <typename Y, typename X>
static __global__ void __launch_bounds__(WIDE_THREADS)
    norm_wide(Y *y, const X *x, vectors m, rows at, float eps) {
  int64_t sample = blockIdx.x / at.S, from = blockIdx.x * (int64_t)at.D;
  float total = 0, squares = 0;
  for (int i = threadIdx.x; i < at.D; i += WIDE_THREADS)
    total += to_float(x[from + i]);
  float mean = __fmul_rn(row_sum(total), at.per);
  for (int i = threadIdx.x; i < at.D; i += WIDE_THREADS)
    squares += (to_float(x[from + i]) - mean) * (to_float(x[from + i]) - mean);
  float inverse = rsqrtf(__fmaf_rn(row_sum(squares), at.per, eps));
  for (int i = threadIdx.x; i < at.D; i += WIDE_THREADS)
    y[from + i] =
        from_float<Y>(modulated(to_float(x[from + i]), mean, inverse, m.scale[sample * m.stride + i] + m.one,
                                m.shift[sample * m.stride + i]));
}

template <typename X>
static __global__ void __launch_bounds__(WIDE_THREADS)
    qk_wide(made_ready<X> of, rotation r, rows at, float eps) {
  const int64_t token = blockIdx.x >> of.two, s = token % (at.S >> of.two);
  const bool key = blockIdx.x & of.two;
  const float *w = key ? of.wk : of.wq;
  X *row = (key ? of.k : of.q) + token * at.D;
  float squares = 0;
  for (int i = threadIdx.x; w && i < at.D; i += WIDE_THREADS)
    squares += to_float(row[i]) * to_float(row[i]);
  float inverse = w ? rsqrtf(__fmaf_rn(row_sum(squares), at.per, eps)) : 1.0f;
  for (int i = 2 * threadIdx.x; i < at.D; i += 2 * WIDE_THREADS) {
    float v[2];
    load_some<false>(v, row + i, at.D - i);
    for (int k = 0; w && k < 2 && i + k < at.D; k++)
      v[k] = v[k] * inverse * w[i + k];
    if (r.cosine) {
      angles<2> by;
      load_angles<false>(by, r, s, i);
      rotate(v, by);
    }
    store_some<false>(row + i, v, at.D - i);
  }
}

#define RMS_THREADS 256

/* y = x / sqrt(mean(x^2) + eps) * w: a block a row, its numbers read twice. */
template <int N, typename Y, typename X>
static __global__ void __launch_bounds__(RMS_THREADS)
    rms_norm(Y *y, const X *x, const float *w, int D, float eps) {
  __shared__ float sums[RMS_THREADS / 32];
  float v[N], u[N], total = 0;
  x += (int64_t)blockIdx.x * D;
  y += (int64_t)blockIdx.x * D;
  for (int i = (int)threadIdx.x * N; i < D; i += RMS_THREADS * N) {
    load_unit(v, x + i);
#pragma unroll
    for (int k = 0; k < N; k++)
      total = fmaf(v[k], v[k], total);
  }
  total = warp_sum(total);
  if (threadIdx.x % 32 == 0)
    sums[threadIdx.x / 32] = total;
  __syncthreads();
  total = 0;
  for (int warp = 0; warp < RMS_THREADS / 32; warp++)
    total += sums[warp];
  const float inverse = 1.0f / sqrtf(total / (float)D + eps);
  for (int i = (int)threadIdx.x * N; i < D; i += RMS_THREADS * N) {
    load_unit(v, x + i);
    read_unit(u, w + i);
#pragma unroll
    for (int k = 0; k < N; k++)
      v[k] = v[k] * inverse * u[k];
    store_unit(y + i, v);
  }
}

/* ---- launchers --------------------------------------------------------------------------------------- */

typedef struct layout {
  rows at;
  dim3 block;
  unsigned grid;
  bool wide, few, whole;
} layout;

/* B samples of S rows of D, a thread holding `floats` of one at most; whole: every tensor can be read in
 * units. */
static layout layout_of(int64_t B, int64_t S, int64_t D, int floats, bool whole) {
  int64_t warps = cuda_ceil(D, 32 * floats), together = warps < BLOCK_WARPS ? BLOCK_WARPS / warps : 1;
  layout l = {};
  l.wide = warps > MOST_WARPS;
  l.few = D <= 32 * FEW_FLOATS;
  l.whole = whole;
  l.block = l.wide ? dim3(WIDE_THREADS) : dim3((unsigned)(32 * warps), (unsigned)together);
  l.at = {S, (int)D, 1.0f / (float)D, (unsigned)cuda_ceil(S, l.wide ? 1 : together)};
  l.grid = (unsigned)(B * l.at.blocks);
  return l;
}

/* kernel<FLOATS, WHOLE, types...> as the layout has it; `floats` as it was asked for. */
#define LAUNCH_ROWS(c, l, floats, kernel, types, ...)                                                        \
  do {                                                                                                       \
    auto chosen = !(l).whole ? kernel<floats, false, LAUNCH_TYPES types>                                     \
                  : (l).few  ? kernel<FEW_FLOATS, true, LAUNCH_TYPES types>                                  \
                             : kernel<floats, true, LAUNCH_TYPES types>;                                      \
    chosen<<<(l).grid, (l).block, 0, cuda_stream(c)>>>(__VA_ARGS__);                                         \
  } while (0)
#define LAUNCH_TYPES(...) __VA_ARGS__

static int unit_of(ebb_tensor x) {
  return 16 / (int)ebb_dtype_size(x.dtype);
}

/* y = norm(x), modulated. */
static void launch_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, vectors m, layout l, float eps) {
  CUDA_FOR_DTYPE(x, X, CUDA_FOR_DTYPE(y, Y, {
                   if (l.wide)
                     norm_wide<<<l.grid, l.block, 0, cuda_stream(c)>>>(cuda_at<Y>(y), cuda_at<X>(x), m, l.at,
                                                                       eps);
                   else
                     LAUNCH_ROWS(c, l, ROW_FLOATS, norm_rows, (Y, X, void), cuda_at<Y>(y), cuda_at<X>(x),
                                 nullptr, m, l.at, eps);
                 }));
}

/* x <- x + gate * y, then h = norm(x), modulated. */
static void launch_add_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                            vectors m, layout l, float eps) {
  if (l.wide) {
    cuda_gate_add(c, x, y, gate);
    launch_norm(c, h, x, m, l, eps);
    return;
  }
  CUDA_FOR_DTYPE(x, X, CUDA_FOR_DTYPE(y, Y, CUDA_FOR_DTYPE(h, H, {
                                        LAUNCH_ROWS(c, l, ROW_FLOATS, norm_rows, (H, X, Y), cuda_at<H>(h),
                                                    cuda_at<X>(x), cuda_at<Y>(y), m, l.at, eps);
                                      })));
}

extern "C" void cuda_norm_modulate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor shift,
                                   ebb_tensor scale, float eps) {
  int64_t D = x.shape[2];
  int N = unit_of(x);
  bool whole =
      whole_units(x, N, D) && whole_units(y, N, D) && whole_units(shift, N, D) && whole_units(scale, N, D);
  vectors m = {cuda_f32(scale), cuda_f32(shift), NULL, cuda_sample_stride(scale), 0, 1.0f};
  launch_norm(c, y, x, m, layout_of(x.shape[0], x.shape[1], D, ROW_FLOATS, whole), eps);
  cuda_launched(c, "norm_modulate");
}

extern "C" void cuda_gate_add_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                                   ebb_tensor shift, ebb_tensor scale, float eps) {
  int64_t D = x.shape[2];
  int N = unit_of(x);
  bool whole = whole_units(h, N, D) && whole_units(x, N, D) && whole_units(y, N, D) &&
               whole_units(gate, N, D) && whole_units(shift, N, D) && whole_units(scale, N, D);
  vectors m = {cuda_f32(scale),           cuda_f32(shift),          cuda_f32(gate),
               cuda_sample_stride(scale), cuda_sample_stride(gate), 1.0f};
  launch_add_norm(c, h, x, y, gate, m, layout_of(x.shape[0], x.shape[1], D, ROW_FLOATS, whole), eps);
  cuda_launched(c, "gate_add_norm");
}

extern "C" void cuda_gate_add_layer_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y,
                                         ebb_tensor gate, ebb_tensor w, ebb_tensor b, float eps) {
  int64_t D = x.shape[2];
  int N = unit_of(x);
  if (!ebb_present(w)) {
    cuda_gate_add(c, x, y, gate);
    cuda_convert(c, h, x);
    return;
  }
  bool whole = whole_units(h, N, D) && whole_units(x, N, D) && whole_units(y, N, D) &&
               whole_units(gate, N, D) && whole_units(w, N, D) && whole_units(b, N, D);
  vectors m = {cuda_f32(w), cuda_f32(b), cuda_f32(gate), 0, cuda_sample_stride(gate), 0.0f};
  launch_add_norm(c, h, x, y, gate, m, layout_of(x.shape[0], x.shape[1], D, ROW_FLOATS, whole), eps);
  cuda_launched(c, "gate_add_layer_norm");
}

extern "C" void cuda_qk_norm_rope(ebb_context *c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk,
                                  ebb_tensor cos, ebb_tensor sin, int heads, float eps) {
  int64_t D = q.shape[2], pairs = D / heads / 2;
  int N = unit_of(q);
  bool whole = whole_units(q, N, D) && whole_units(k, N, D) && whole_units(wq, N, D) &&
               whole_units(wk, N, D) && whole_units(cos, N / 2, pairs) && whole_units(sin, N / 2, pairs);
  const unsigned two = ebb_present(k);
  layout l = layout_of(q.shape[0], q.shape[1] << two, D, QK_UNITS * N, whole);
  bool repeats = ebb_present(cos) && l.block.x * N % (2 * pairs) == 0;
  rotation r = {cuda_f32(cos), cuda_f32(sin), (int)pairs, repeats};
  CUDA_FOR_DTYPE(q, X, {
    made_ready<X> of = {cuda_at<X>(q), cuda_at<X>(k), cuda_f32(wq), cuda_f32(wk), two};
    if (l.wide)
      qk_wide<<<l.grid, l.block, 0, cuda_stream(c)>>>(of, r, l.at, eps);
    else
      LAUNCH_ROWS(c, l, QK_UNITS * 16 / sizeof(X), qk_rows, (X), of, r, l.at, eps);
  });
  cuda_launched(c, "qk_norm_rope");
}

extern "C" void cuda_rms_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, float eps) {
  const int D = (int)ebb_last(x);
  const unsigned rows = (unsigned)ebb_rows(x);
  const bool whole = whole_units(x, 4, D) && whole_units(y, 4, D) && whole_units(w, 4, D);
  CUDA_FOR_DTYPE(x, X, CUDA_FOR_DTYPE(y, Y, {
                   if (whole)
                     rms_norm<4><<<rows, RMS_THREADS, 0, cuda_stream(c)>>>(cuda_at<Y>(y), cuda_at<X>(x),
                                                                           cuda_f32(w), D, eps);
                   else
                     rms_norm<1><<<rows, RMS_THREADS, 0, cuda_stream(c)>>>(cuda_at<Y>(y), cuda_at<X>(x),
                                                                           cuda_f32(w), D, eps);
                 }));
  cuda_launched(c, "rms_norm");
}
