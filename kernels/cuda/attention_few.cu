/* Attention to few keys: the map, and values that have been through the output projection. The work is reading q. */
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

static __device__ float dot_of_eight(uint4 a, uint4 b) {
  const __nv_bfloat162 *x = reinterpret_cast<const __nv_bfloat162 *>(&a),
                       *y = reinterpret_cast<const __nv_bfloat162 *>(&b);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 u = __bfloat1622float2(x[i]), v = __bfloat1622float2(y[i]);
    sum = fmaf(u.x, v.x, sum);
    sum = fmaf(u.y, v.y, sum);
  }
  return sum;
}

/* In place, scores beyond M being -infinity; the last of M has `repeats` times its weight. */
static __device__ void softmax(float (&score)[EBB_FEW_KEYS], int M, float repeats) {
  float max = score[0], total = 0;
#pragma unroll
  for (int m = 1; m < EBB_FEW_KEYS; m++)
    max = fmaxf(max, score[m]);
#pragma unroll
  for (int m = 0; m < EBB_FEW_KEYS; m++) {
    score[m] = expf(score[m] - max) * (m == M - 1 ? repeats : 1.0f);
    total += score[m];
  }
#pragma unroll
  for (int m = 0; m < EBB_FEW_KEYS; m++)
    score[m] /= total;
}

/* The map, any width. p [rows,N,M], q [rows,N,P], k [M,N,P] of the row's sample, `stride` numbers from one sample's to
 * the next. A warp has one (row, head). */
template <typename T>
static __global__ void weights(T *__restrict__ p, const T *__restrict__ q, const T *__restrict__ k,
                               int64_t rows, int S, int N, int P, int M, int64_t stride, float scale,
                               float repeats) {
  int lane = threadIdx.x % 32;
  int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
  if (item >= rows * N)
    return;
  const T *query = q + item * P, *key = k + item / N / S * stride + item % N * (int64_t)P;
  float score[EBB_FEW_KEYS];
#pragma unroll
  for (int m = 0; m < EBB_FEW_KEYS; m++)
    score[m] = m < M ? scale * head_dot(query, key + m * (int64_t)N * P, P, lane) : -INFINITY;
  softmax(score, M, repeats);
#pragma unroll
  for (int m = 0; m < EBB_FEW_KEYS; m++)
    if (lane == m && m < M)
      p[item * M + m] = from_float<T>(score[m]);
}

/* The same for heads of P = 8 G numbers in bfloat16 and one k: a warp takes whole rows, a lane eight
 * numbers at a time, so that G neighbouring lanes have a head; the keys wait in shared memory. */
template <int G, int M>
static __global__ void weights_of_rows(bf16 *__restrict__ p, const bf16 *__restrict__ q,
                                       const bf16 *__restrict__ k, int64_t rows, int D, float scale,
                                       float repeats) {
  extern __shared__ uint4 keys[]; /* [M][D/8] */
  const int units = D / 8, lane = threadIdx.x % 32, N = units / G;
  for (int i = threadIdx.x; i < M * units; i += blockDim.x)
    keys[i] = reinterpret_cast<const uint4 *>(k)[i];
  __syncthreads();
  for (int64_t row = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32; row < rows;
       row += (int64_t)gridDim.x * WARPS) {
    const uint4 *query = reinterpret_cast<const uint4 *>(q) + row * units;
#pragma unroll 3
    for (int first = 0; first < units; first += 32) { /* every lane takes part in the shuffles */
      const int unit = first + lane;
      const uint4 mine = unit < units ? __ldcs(query + unit) : make_uint4(0, 0, 0, 0);
      float score[EBB_FEW_KEYS] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
#pragma unroll
      for (int m = 0; m < M; m++) {
        float sum = unit < units ? dot_of_eight(mine, keys[m * units + unit]) : 0;
        score[m] = scale * warp_sum<G>(sum);
      }
      softmax(score, M, repeats);
      const int m = lane % G;
#pragma unroll
      for (int i = 0; i < M; i++)
        if (m == i && unit < units)
          p[(row * N + unit / G) * M + i] = __float2bfloat16_rn(score[i]);
    }
  }
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

/* A launch for all samples that share their keys: the path does not hang on the batch. */
template <int G, int M>
static void launch_rows(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, float repeats) {
  const int D = (int)q.shape[2];
  const int64_t texts = k.shape[0], rows = ebb_rows(q) / texts;
  const int64_t blocks = cuda_ceil(rows, WARPS), most = 8 * (int64_t)cuda_of(c)->processors;
  for (int64_t t = 0; t < texts; t++)
    weights_of_rows<G, M>
        <<<(unsigned)(blocks < most ? blocks : most), 32 * WARPS, (size_t)M * D * sizeof(bf16),
           cuda_stream(c)>>>(cuda_at<bf16>(p) + t * rows * ebb_last(p), cuda_at<bf16>(q) + t * rows * D,
                             cuda_at<bf16>(k) + t * M * D, rows, D, 1.0f / sqrtf(8.0f * G), repeats);
}

/* True when the rows were taken: heads of 64 or 128, and keys whose copy fits into what a block always has. */
template <int G>
static bool take_rows(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, float repeats) {
  if (k.shape[1] * k.shape[2] * (int64_t)sizeof(bf16) > 48 << 10)
    return false;
  switch (k.shape[1]) {
  case 1:
    launch_rows<G, 1>(c, p, q, k, repeats);
    return true;
  case 2:
    launch_rows<G, 2>(c, p, q, k, repeats);
    return true;
  case 3:
    launch_rows<G, 3>(c, p, q, k, repeats);
    return true;
  case 4:
    launch_rows<G, 4>(c, p, q, k, repeats);
    return true;
  default:
    return false;
  }
}

static void take_any(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, int heads, float repeats) {
  const int P = (int)(q.shape[2] / heads), M = (int)k.shape[1];
  const int64_t rows = ebb_rows(q), stride = k.shape[0] == 1 ? 0 : k.shape[1] * k.shape[2];
  const unsigned blocks = (unsigned)cuda_ceil(rows * heads, WARPS);
  CUDA_FOR_DTYPE(q, T,
                 (weights<T><<<blocks, 32 * WARPS, 0, cuda_stream(c)>>>(
                     cuda_at<T>(p), cuda_at<T>(q), cuda_at<T>(k), rows, (int)q.shape[1], heads, P, M, stride,
                     1.0f / sqrtf((float)P), repeats)));
}

void cuda_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, int heads,
                            int64_t repeats) {
  const int64_t P = q.shape[2] / heads;
  const bool half = q.dtype == EBB_BF16;
  if (!(half && P == 128 && take_rows<16>(c, p, q, k, (float)repeats)) &&
      !(half && P == 64 && take_rows<8>(c, p, q, k, (float)repeats)))
    take_any(c, p, q, k, heads, (float)repeats);
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
