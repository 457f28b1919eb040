/* Attention to few keys: the map, and values that have been through the output projection. A warp has one
 * row of one head; the work is reading q. */
#include "kernels/cuda/cuda.h"

#define WARPS 8

/* ---- kernels ----------------------------------------------------------------------------------------- */

template <typename T>
static __device__ float warp_dot(const T *__restrict__ x, const T *__restrict__ y, int P, int lane) {
  float sum = 0;
  for (int i = lane; i < P; i += 32)
    sum = fmaf(to_float(x[i]), to_float(y[i]), sum);
  return warp_sum(sum);
}

/* Heads of 64 and 128: a lane's neighbouring numbers in one access. */
template <int EACH>
static __device__ float warp_dot_of(const bf16 *__restrict__ x, const bf16 *__restrict__ y, int lane) {
  __nv_bfloat162 a[EACH / 2], b[EACH / 2];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < EACH / 2; i++) {
    a[i] = reinterpret_cast<const __nv_bfloat162 *>(x + lane * EACH)[i];
    b[i] = reinterpret_cast<const __nv_bfloat162 *>(y + lane * EACH)[i];
  }
#pragma unroll
  for (int i = 0; i < EACH / 2; i++) {
    float2 u = __bfloat1622float2(a[i]), v = __bfloat1622float2(b[i]);
    sum = fmaf(u.x, v.x, sum);
    sum = fmaf(u.y, v.y, sum);
  }
  return warp_sum(sum);
}

template <typename T> static __device__ float head_dot(const T *x, const T *y, int P, int lane) {
  return warp_dot(x, y, P, lane);
}
template <> __device__ float head_dot<bf16>(const bf16 *x, const bf16 *y, int P, int lane) {
  if (P == 128)
    return warp_dot_of<4>(x, y, lane);
  if (P == 64)
    return warp_dot_of<2>(x, y, lane);
  return warp_dot(x, y, P, lane);
}

/* p [rows,N,M], q [rows,N,P], k [M,N,P] of the row's sample, `stride` numbers from one sample's to the next. */
template <typename T>
static __global__ void weights(T *__restrict__ p, const T *__restrict__ q, const T *__restrict__ k,
                               int64_t rows, int S, int N, int P, int M, int64_t stride, float scale,
                               float repeats) {
  __shared__ float scores[WARPS][EBB_FEW_KEYS];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int64_t item = blockIdx.x * (int64_t)WARPS + warp;
  if (item >= rows * N)
    return;
  int64_t row = item / N;
  int n = (int)(item % N);
  const T *query = q + item * P, *key = k + row / S * stride + n * (int64_t)P;
  float max = -INFINITY, total = 0;
  for (int m = 0; m < M; m++) {
    float score = scale * head_dot(query, key + m * (int64_t)N * P, P, lane);
    max = fmaxf(max, score);
    if (lane == 0)
      scores[warp][m] = score;
  }
  __syncwarp();
  for (int m = lane; m < M; m += 32) {
    float e = expf(scores[warp][m] - max) * (m == M - 1 ? repeats : 1.0f);
    scores[warp][m] = e; /* the lane's own */
    total += e;
  }
  total = warp_sum(total);
  for (int m = lane; m < M; m += 32)
    p[item * M + m] = from_float<T>(scores[warp][m] / total);
}

/* u [D,N,M] from v [M,N,P], w [D,N,P]: a warp has one (d, n). */
template <typename T>
static __global__ void project(T *__restrict__ u, const T *__restrict__ v, const T *__restrict__ w,
                               int64_t items, int N, int P, int M) {
  int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  if (item >= items)
    return;
  for (int m = 0; m < M; m++) {
    float sum = head_dot(w + item * P, v + (m * (int64_t)N + item % N) * P, P, lane);
    if (lane == 0)
      u[item * M + m] = from_float<T>(sum);
  }
}

/* ---- launchers --------------------------------------------------------------------------------------- */

void cuda_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, int heads,
                            int64_t repeats) {
  int P = (int)(q.shape[2] / heads), M = (int)k.shape[1];
  int64_t rows = ebb_rows(q), stride = k.shape[0] == 1 ? 0 : k.shape[1] * k.shape[2];
  unsigned blocks = (unsigned)cuda_ceil(rows * heads, WARPS);
  CUDA_FOR_DTYPE(q, T,
                 (weights<T><<<blocks, 32 * WARPS, 0, cuda_stream(c)>>>(
                     cuda_at<T>(p), cuda_at<T>(q), cuda_at<T>(k), rows, (int)q.shape[1], heads, P, M, stride,
                     1.0f / sqrtf((float)P), (float)repeats)));
  cuda_launched(c, "attention_weights");
}

void cuda_projected_values(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads) {
  int P = (int)(v.shape[2] / heads), M = (int)v.shape[1];
  int64_t items = w.shape[0] * heads;
  unsigned blocks = (unsigned)cuda_ceil(items, WARPS);
  CUDA_FOR_DTYPE(u, T,
                 (project<T><<<blocks, 32 * WARPS, 0, cuda_stream(c)>>>(cuda_at<T>(u), cuda_at<T>(v),
                                                                        cuda_at<T>(w), items, heads, P, M)));
  cuda_launched(c, "projected_values");
}
