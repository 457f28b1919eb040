/* Interventions. What a sample is given depends on its own numbers and keys alone; sums run in a fixed order. */
#include "kernels/cuda/units.cuh"
#include "kernels/normal.h"

#define THREADS 128
#define WARPS (THREADS / 32)

/* The sum over a block, in every thread. */
static __device__ __forceinline__ float block_sum(float x, float *part) {
  x = warp_sum(x);
  __syncthreads(); /* the last sum has been read */
  if (threadIdx.x % 32 == 0)
    part[threadIdx.x / 32] = x;
  __syncthreads();
  x = part[0];
#pragma unroll
  for (int i = 1; i < WARPS; i++)
    x += part[i];
  return x;
}

/* A block a token; x[0..D) is read three times, twice out of the cache. QUADS: rows are whole fours of numbers. */
template <bool QUADS, typename X>
static __global__ void __launch_bounds__(THREADS)
    perturb(X *x, const float *dose, const int64_t *keys, const float *when, const float *direction,
            uint64_t place, int64_t S, int64_t D) {
  constexpr int N = QUADS ? 4 : 1;
  __shared__ float part[WARPS];
  const int64_t row = blockIdx.x, b = row / S;
  const float noise = dose[2 * b], along = direction ? dose[2 * b + 1] : 0.0f;
  if (noise == 0.0f && along == 0.0f)
    return;
  const uint64_t stream = place << 32 | (uint64_t)when[0], first = (uint64_t)(row % S) * (uint64_t)D;
  x += row * D;
  float v[N], sum = 0, square = 0;
  for (int64_t i = threadIdx.x * N; i < D; i += THREADS * N) {
    load_unit(v, x + i);
#pragma unroll
    for (int j = 0; j < N; j++)
      sum += v[j];
  }
  const float mean = block_sum(sum, part) / (float)D;
  for (int64_t i = threadIdx.x * N; i < D; i += THREADS * N) {
    load_unit(v, x + i);
#pragma unroll
    for (int j = 0; j < N; j++)
      square += (v[j] - mean) * (v[j] - mean);
  }
  const float sigma = sqrtf(block_sum(square, part) / (float)(D - 1));
  for (int64_t i = threadIdx.x * N; i < D; i += THREADS * N) {
    load_unit(v, x + i);
    if (noise != 0.0f) {
      float e[4];
      ebb_normal4((uint64_t)keys[b], stream, (first + i) / 4, e);
#pragma unroll
      for (int j = 0; j < N; j++)
        v[j] += sigma * noise * (QUADS ? e[j] : e[(first + i) % 4]);
    }
    if (along != 0.0f)
#pragma unroll
      for (int j = 0; j < N; j++)
        v[j] += sigma * along * direction[b * D + i + j];
    store_unit(x + i, v);
  }
}

/* y[b, i] = a x[b, i] + scale e: a thread four numbers of one sample, `blocks` for all of them. */
static __global__ void __launch_bounds__(THREADS)
    add_noise(float *y, float a, const float *x, float scale, const int64_t *keys, uint64_t stream, int64_t n,
              unsigned blocks) {
  const int64_t b = blockIdx.x / blocks, four = (int64_t)(blockIdx.x % blocks) * THREADS + threadIdx.x;
  if (4 * four >= n)
    return;
  float e[4];
  ebb_normal4((uint64_t)keys[b], stream, (uint64_t)four, e);
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (4 * four + j < n) {
      const int64_t at = b * n + 4 * four + j;
      y[at] = a * x[at] + scale * e[j];
    }
}

/* A thread one unit of a head at one token. */
template <int N, typename X>
static __global__ void __launch_bounds__(THREADS)
    replace_heads(X *y, const X *x, const float *mean, const int64_t *source, int64_t B, int64_t S, int64_t D,
                  int heads, int64_t units) {
  const int64_t unit_at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (unit_at >= units)
    return;
  const int64_t at = unit_at * N, i = at % D, row = at / D, b = row / S;
  const int64_t from = source[b * heads + i / (D / heads)];
  float v[N];
  if (from == EBB_HEAD_ZERO) {
#pragma unroll
    for (int j = 0; j < N; j++)
      v[j] = 0.0f;
  } else if (from == EBB_HEAD_MEAN && mean) {
#pragma unroll
    for (int j = 0; j < N; j++)
      v[j] = mean[b * D + i + j];
  } else {
    load_unit(v, x + ((from >= 0 && from < B ? from : b) * S + row % S) * D + i);
  }
  store_unit(y + at, v);
}

/* ---- launchers --------------------------------------------------------------------------------------- */

extern "C" void cuda_perturb(ebb_context *c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when,
                             ebb_tensor direction, int64_t place) {
  const int64_t S = x.shape[1], D = x.shape[2];
  const bool quads = whole_units(x, 4, D);
  CUDA_FOR_DTYPE(x, X, {
    auto kernel = quads ? perturb<true, X> : perturb<false, X>;
    kernel<<<(unsigned)ebb_rows(x), THREADS, 0, cuda_stream(c)>>>(cuda_at<X>(x), cuda_f32(dose),
                                                                  cuda_at<int64_t>(keys), cuda_f32(when),
                                                                  cuda_f32(direction), (uint64_t)place, S, D);
  });
  cuda_launched(c, "perturb");
}

extern "C" void cuda_add_noise(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor keys,
                               int64_t stream) {
  const int64_t n = ebb_count(x) / x.shape[0];
  const unsigned blocks = (unsigned)cuda_ceil(n, 4 * THREADS);
  add_noise<<<(unsigned)x.shape[0] * blocks, THREADS, 0, cuda_stream(c)>>>(
      cuda_f32(y), a, cuda_f32(x), b, cuda_at<int64_t>(keys), (uint64_t)stream, n, blocks);
  cuda_launched(c, "add_noise");
}

template <int N, typename X>
static void launch_replace_heads(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean,
                                 ebb_tensor source) {
  const int64_t units = ebb_count(x) / N;
  replace_heads<N, X><<<(unsigned)cuda_ceil(units, THREADS), THREADS, 0, cuda_stream(c)>>>(
      cuda_at<X>(y), cuda_at<X>(x), cuda_f32(mean), cuda_at<int64_t>(source), x.shape[0], x.shape[1],
      x.shape[2], (int)source.shape[1], units);
}

extern "C" void cuda_replace_heads(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean,
                                   ebb_tensor source) {
  const int64_t P = x.shape[2] / source.shape[1];
  CUDA_FOR_DTYPE(x, X, {
    constexpr int N = 16 / sizeof(X);
    if (P % N == 0 && whole_units(x, N, x.shape[2]) && whole_units(y, N, x.shape[2]))
      launch_replace_heads<N, X>(c, y, x, mean, source);
    else
      launch_replace_heads<1, X>(c, y, x, mean, source);
  });
  cuda_launched(c, "replace_heads");
}
