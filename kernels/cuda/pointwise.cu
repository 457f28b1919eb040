/* What is done number by number. A thread takes BATCH units a block's width apart and reads them all before
 * it writes: enough is under way to keep the memory busy, and y may be x. */
#include "kernels/cuda/units.cuh"

#define THREADS 256
#define BATCH 4

/* Everything that is a function of one number. */
struct converted {
  __device__ float operator()(float x) const {
    return x;
  }
};
struct activation {
  ebb_activation act;
  __device__ float operator()(float x) const {
    return activated(x, act);
  }
};
struct times {
  float a;
  __device__ float operator()(float x) const {
    return a * x;
  }
};
struct clamped {
  float low, high;
  __device__ float operator()(float x) const {
    float v = x < low ? low : x; /* NaN stays NaN */
    return v > high ? high : v;
  }
};

template <int N, typename Y, typename X, typename F>
static __global__ void __launch_bounds__(THREADS) each(Y *y, const X *x, int64_t units, F f) {
  int64_t first = (int64_t)blockIdx.x * (THREADS * BATCH) + threadIdx.x;
  float v[BATCH][N];
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units)
      load_unit(v[k], x + (first + k * THREADS) * N);
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
#pragma unroll
      for (int i = 0; i < N; i++)
        v[k][i] = f(v[k][i]);
      store_unit(y + (first + k * THREADS) * N, v[k]);
    }
}

/* y = act(a) b */
template <int N, typename T>
static __global__ void __launch_bounds__(THREADS)
    gated(T *y, const T *a, const T *b, int64_t units, ebb_activation act) {
  int64_t first = (int64_t)blockIdx.x * (THREADS * BATCH) + threadIdx.x;
  float v[BATCH][N], u[BATCH][N];
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
      load_unit(v[k], a + (first + k * THREADS) * N);
      load_unit(u[k], b + (first + k * THREADS) * N);
    }
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
#pragma unroll
      for (int i = 0; i < N; i++)
        v[k][i] = activated(v[k][i], act) * u[k][i];
      store_unit(y + (first + k * THREADS) * N, v[k]);
    }
}

/* y = a x + b z */
template <int N>
static __global__ void __launch_bounds__(THREADS)
    axpby(float *y, float a, const float *x, float b, const float *z, int64_t units) {
  int64_t first = (int64_t)blockIdx.x * (THREADS * BATCH) + threadIdx.x;
  float v[BATCH][N], u[BATCH][N];
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
      load_unit(v[k], x + (first + k * THREADS) * N);
      load_unit(u[k], z + (first + k * THREADS) * N);
    }
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
#pragma unroll
      for (int i = 0; i < N; i++)
        v[k][i] = a * v[k][i] + b * u[k][i];
      store_unit(y + (first + k * THREADS) * N, v[k]);
    }
}

/* x <- x + gate * y: `units` of a sample, `columns` of them a row, `blocks` for them. */
template <int N, typename X, typename Y>
static __global__ void __launch_bounds__(THREADS)
    gate_add(X *x, const Y *y, const float *gate, int64_t gate_stride, int64_t units, unsigned columns,
             unsigned blocks) {
  unsigned sample = blockIdx.x / blocks;
  int64_t begin = (int64_t)(blockIdx.x % blocks) * (THREADS * BATCH), first = begin + threadIdx.x;
  unsigned column = (unsigned)(begin % columns) + threadIdx.x;
  x += sample * units * N;
  y += sample * units * N;
  float v[BATCH][N], added[BATCH][N];
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
      load_unit(v[k], x + (first + k * THREADS) * N);
      load_unit(added[k], y + (first + k * THREADS) * N);
    }
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
      float g[N];
      if (gate)
        load_unit(g, gate + sample * gate_stride + (int64_t)((column + k * THREADS) % columns) * N);
#pragma unroll
      for (int i = 0; i < N; i++)
        v[k][i] = __fmaf_rn(gate ? g[i] : 1.0f, added[k][i], v[k][i]);
      store_unit(x + (first + k * THREADS) * N, v[k]);
    }
}

/* y[b, channel, :] = x * scale[channel] + shift[channel]: `units` of a plane, `blocks` for them. */
template <int N>
static __global__ void __launch_bounds__(THREADS)
    channel_affine(float *y, const float *x, const float *scale, const float *shift, unsigned channels,
                   int64_t units, unsigned blocks) {
  unsigned plane = blockIdx.x / blocks;
  int64_t first = (int64_t)(blockIdx.x % blocks) * (THREADS * BATCH) + threadIdx.x;
  float factor = scale[plane % channels], offset = shift[plane % channels], v[BATCH][N];
  x += plane * units * N;
  y += plane * units * N;
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units)
      load_unit(v[k], x + (first + k * THREADS) * N);
#pragma unroll
  for (int k = 0; k < BATCH; k++)
    if (first + k * THREADS < units) {
#pragma unroll
      for (int i = 0; i < N; i++)
        v[k][i] = v[k][i] * factor + offset;
      store_unit(y + (first + k * THREADS) * N, v[k]);
    }
}

/* y[j, b, :] = table[j, :] + x[b, j, :] or x[b, :] */
static __global__ void __launch_bounds__(THREADS)
    add_table(float *y, const float *table, const float *x, int64_t J, int64_t B, int64_t D, bool row_each) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (at >= J * B * D)
    return;
  int64_t j = at / D / B, b = at / D % B, i = at % D;
  y[at] = table[j * D + i] + x[(row_each ? b * J + j : b) * D + i];
}

/* A video [B,C,T,H,W] seen as tokens, and where the numbers of a token are. Index: wide enough for all. */
template <typename Index> struct patches { Index C, T, H, W, pt, ph, pw, count; };

/* y [B, S, (c, pt, ph, pw)], a thread a number */
template <typename Index, typename Y>
static __global__ void __launch_bounds__(THREADS) patchify(Y *y, const float *x, patches<Index> p) {
  Index at = blockIdx.x * (Index)THREADS + threadIdx.x, rest = at;
  if (at >= p.count)
    return;
  Index dw = rest % p.pw, dh = (rest /= p.pw) % p.ph, dt = (rest /= p.ph) % p.pt, ch = (rest /= p.pt) % p.C;
  Index w = (rest /= p.C) % (p.W / p.pw), h = (rest /= p.W / p.pw) % (p.H / p.ph);
  Index t = (rest /= p.H / p.ph) % (p.T / p.pt), b = rest / (p.T / p.pt);
  Index from = (((b * p.C + ch) * p.T + t * p.pt + dt) * p.H + h * p.ph + dh) * p.W + w * p.pw + dw;
  y[at] = from_float<Y>(x[from]);
}

/* x [B,C,T,H,W] from y [B, S, (pt, ph, pw, c)], a thread a number */
template <typename Index, typename Y>
static __global__ void __launch_bounds__(THREADS) unpatchify(float *x, const Y *y, patches<Index> p) {
  Index at = blockIdx.x * (Index)THREADS + threadIdx.x, rest = at;
  if (at >= p.count)
    return;
  Index w = rest % p.W, h = (rest /= p.W) % p.H, t = (rest /= p.H) % p.T, ch = (rest /= p.T) % p.C;
  Index b = rest / p.C;
  Index token = ((b * (p.T / p.pt) + t / p.pt) * (p.H / p.ph) + h / p.ph) * (p.W / p.pw) + w / p.pw;
  Index inside = (t % p.pt * p.ph + h % p.ph) * p.pw + w % p.pw;
  x[at] = to_float(y[(token * (p.pt * p.ph * p.pw) + inside) * p.C + ch]);
}

/* ---- launchers --------------------------------------------------------------------------------------- */

static unsigned blocks_for(int64_t units) {
  return (unsigned)cuda_ceil(units, THREADS * BATCH);
}

/* The unit of tensors that are read together: 16 bytes of the widest. */
static int unit_of(ebb_tensor a, ebb_tensor b) {
  return a.dtype == EBB_BF16 && b.dtype == EBB_BF16 ? 8 : 4;
}

template <typename F>
static void launch_each(ebb_context *c, const char *op, ebb_tensor y, ebb_tensor x, F f) {
  int64_t n = ebb_count(x);
  bool whole = whole_units(x, 4, n) && whole_units(y, 4, n);
  CUDA_FOR_DTYPE(
      x, X, CUDA_FOR_DTYPE(y, Y, {
        if (whole)
          each<4><<<blocks_for(n / 4), THREADS, 0, cuda_stream(c)>>>(cuda_at<Y>(y), cuda_at<X>(x), n / 4, f);
        else
          each<1><<<blocks_for(n), THREADS, 0, cuda_stream(c)>>>(cuda_at<Y>(y), cuda_at<X>(x), n, f);
      }));
  cuda_launched(c, op);
}

extern "C" void cuda_convert(ebb_context *c, ebb_tensor y, ebb_tensor x) {
  if (y.dtype == x.dtype)
    cuda_ok(c, "convert",
            cudaMemcpyAsync(y.data, x.data, ebb_bytes(x), cudaMemcpyDeviceToDevice, cuda_stream(c)));
  else
    launch_each(c, "convert", y, x, converted{});
}

extern "C" void cuda_activate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_activation act) {
  launch_each(c, "activate", y, x, activation{act});
}

extern "C" void cuda_gated(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, ebb_activation act) {
  int64_t n = ebb_count(a);
  bool whole = whole_units(a, 4, n) && whole_units(b, 4, n) && whole_units(y, 4, n);
  CUDA_FOR_DTYPE(y, T, {
    if (whole)
      gated<4><<<blocks_for(n / 4), THREADS, 0, cuda_stream(c)>>>(cuda_at<T>(y), cuda_at<T>(a), cuda_at<T>(b),
                                                                  n / 4, act);
    else
      gated<1><<<blocks_for(n), THREADS, 0, cuda_stream(c)>>>(cuda_at<T>(y), cuda_at<T>(a), cuda_at<T>(b), n,
                                                              act);
  });
  cuda_launched(c, "gated");
}

extern "C" void cuda_clamp(ebb_context *c, ebb_tensor y, ebb_tensor x, float low, float high) {
  launch_each(c, "clamp", y, x, clamped{low, high});
}

extern "C" void cuda_axpby(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z) {
  int64_t n = ebb_count(x);
  if (!ebb_present(z)) {
    launch_each(c, "axpby", y, x, times{a});
    return;
  }
  if (whole_units(x, 4, n) && whole_units(y, 4, n) && whole_units(z, 4, n))
    axpby<4><<<blocks_for(n / 4), THREADS, 0, cuda_stream(c)>>>(cuda_f32(y), a, cuda_f32(x), b, cuda_f32(z),
                                                                n / 4);
  else
    axpby<1><<<blocks_for(n), THREADS, 0, cuda_stream(c)>>>(cuda_f32(y), a, cuda_f32(x), b, cuda_f32(z), n);
  cuda_launched(c, "axpby");
}

template <int N, typename X, typename Y>
static void launch_gate_add(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate) {
  int64_t D = x.shape[2], units = x.shape[1] * D / N;
  gate_add<N><<<(unsigned)x.shape[0] * blocks_for(units), THREADS, 0, cuda_stream(c)>>>(
      cuda_at<X>(x), cuda_at<Y>(y), cuda_f32(gate), cuda_sample_stride(gate), units, (unsigned)(D / N),
      blocks_for(units));
}

extern "C" void cuda_gate_add(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate) {
  int N = unit_of(x, y);
  bool whole =
      whole_units(x, N, x.shape[2]) && whole_units(y, N, x.shape[2]) && whole_units(gate, N, x.shape[2]);
  CUDA_FOR_DTYPE(x, X, CUDA_FOR_DTYPE(y, Y, {
                   if (whole)
                     launch_gate_add<sizeof(X) + sizeof(Y) == 4 ? 8 : 4, X, Y>(c, x, y, gate);
                   else
                     launch_gate_add<1, X, Y>(c, x, y, gate);
                 }));
  cuda_launched(c, "gate_add");
}

extern "C" void cuda_add_table(ebb_context *c, ebb_tensor y, ebb_tensor table, ebb_tensor x) {
  add_table<<<(unsigned)cuda_ceil(ebb_count(y), THREADS), THREADS, 0, cuda_stream(c)>>>(
      cuda_f32(y), cuda_f32(table), cuda_f32(x), y.shape[0], y.shape[1], y.shape[2], x.rank == 3);
  cuda_launched(c, "add_table");
}

extern "C" void cuda_channel_affine(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor scale,
                                    ebb_tensor shift) {
  int64_t planes = x.shape[0] * x.shape[1], positions = x.shape[2] * x.shape[3] * x.shape[4];
  bool whole = whole_units(x, 4, positions) && whole_units(y, 4, positions);
  int64_t units = whole ? positions / 4 : positions;
  auto kernel = whole ? channel_affine<4> : channel_affine<1>;
  kernel<<<(unsigned)planes * blocks_for(units), THREADS, 0, cuda_stream(c)>>>(
      cuda_f32(y), cuda_f32(x), cuda_f32(scale), cuda_f32(shift), (unsigned)x.shape[1], units,
      blocks_for(units));
  cuda_launched(c, "channel_affine");
}

template <typename Index> static patches<Index> patches_of(ebb_tensor video, const int patch[3]) {
  const int64_t *n = video.shape;
  return {(Index)n[1],     (Index)n[2],     (Index)n[3],     (Index)n[4],
          (Index)patch[0], (Index)patch[1], (Index)patch[2], (Index)ebb_count(video)};
}

/* Indices of 32 bits are divided several times faster; THREADS beyond the count must still fit. */
static bool narrow(ebb_tensor video) {
  return ebb_count(video) <= INT32_MAX;
}

extern "C" void cuda_patchify(ebb_context *c, ebb_tensor y, ebb_tensor x, const int patch[3]) {
  unsigned grid = (unsigned)cuda_ceil(ebb_count(x), THREADS);
  CUDA_FOR_DTYPE(y, Y, {
    if (narrow(x))
      patchify<<<grid, THREADS, 0, cuda_stream(c)>>>(cuda_at<Y>(y), cuda_f32(x),
                                                     patches_of<uint32_t>(x, patch));
    else
      patchify<<<grid, THREADS, 0, cuda_stream(c)>>>(cuda_at<Y>(y), cuda_f32(x),
                                                     patches_of<int64_t>(x, patch));
  });
  cuda_launched(c, "patchify");
}

extern "C" void cuda_unpatchify(ebb_context *c, ebb_tensor x, ebb_tensor y, const int patch[3]) {
  unsigned grid = (unsigned)cuda_ceil(ebb_count(x), THREADS);
  CUDA_FOR_DTYPE(y, Y, {
    if (narrow(x))
      unpatchify<<<grid, THREADS, 0, cuda_stream(c)>>>(cuda_f32(x), cuda_at<Y>(y),
                                                       patches_of<uint32_t>(x, patch));
    else
      unpatchify<<<grid, THREADS, 0, cuda_stream(c)>>>(cuda_f32(x), cuda_at<Y>(y),
                                                       patches_of<int64_t>(x, patch));
  });
  cuda_launched(c, "unpatchify");
}
