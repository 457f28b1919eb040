/* Self-attention of a text encoder. It runs once per prompt: a warp takes a query, reads keys and values
 * along their rows, and keeps the scores of the query in shared memory. */
#include "kernels/cuda/cuda.h"

#define WARPS 4                   /* of a block, where their scores fit */
#define SCORES ((size_t)96 << 10) /* bytes of shared memory, at most */

/* The largest of, and the sum over, numbers that the lanes have in turn. */
static __device__ __forceinline__ float largest(const float *x, int n) {
  float top = -INFINITY;
  for (int i = (int)threadIdx.x; i < n; i += 32)
    top = fmaxf(top, x[i]);
  return warp_max(top);
}

/* Query blockIdx.x * blockDim.y + threadIdx.y of head blockIdx.y of sample blockIdx.z. */
template <typename T>
static __global__ void __launch_bounds__(32 * WARPS)
    attend_relative(T *out, const T *q, const T *k, const T *v, const float *bias, int S, int D, int P) {
  extern __shared__ float all_scores[];
  const int lane = (int)threadIdx.x, s = (int)(blockIdx.x * blockDim.y + threadIdx.y), head = (int)blockIdx.y;
  float *scores = all_scores + (size_t)threadIdx.y * S;
  if (s >= S)
    return;
  const int64_t keys = (int64_t)blockIdx.z * S * D + (int64_t)head * P, query = keys + (int64_t)s * D;
  const float *far = bias + (int64_t)head * (2 * S - 1) + S - 1 - s;
  for (int m = 0; m < S; m++) {
    float dot = 0;
    for (int p = lane; p < P; p += 32)
      dot = fmaf(to_float(q[query + p]), to_float(k[keys + (int64_t)m * D + p]), dot);
    dot = warp_sum(dot);
    if (lane == 0)
      scores[m] = dot + far[m];
  }
  __syncwarp();
  const float top = largest(scores, S);
  float total = 0;
  for (int m = lane; m < S; m += 32) {
    scores[m] = expf(scores[m] - top);
    total += scores[m];
  }
  total = warp_sum(total);
  __syncwarp();
  for (int p = lane; p < P; p += 32) {
    float sum = 0;
    for (int m = 0; m < S; m++)
      sum = fmaf(scores[m], to_float(v[keys + (int64_t)m * D + p]), sum);
    out[query + p] = from_float<T>(sum / total);
  }
}

/* ---- launchers --------------------------------------------------------------------------------------- */

extern "C" void cuda_attention_relative(ebb_context *c, ebb_tensor out, ebb_tensor q, ebb_tensor k,
                                        ebb_tensor v, ebb_tensor bias, int heads) {
  const int64_t S = q.shape[1], D = q.shape[2];
  int warps = WARPS;
  while (warps > 1 && (size_t)warps * (size_t)S * sizeof(float) > SCORES)
    warps /= 2;
  const size_t bytes = (size_t)warps * (size_t)S * sizeof(float);
  if (bytes > SCORES) {
    ebb_context_fail(c, "attention_relative: %lld tokens, expected at most %d on a GPU: take shorter texts",
                     (long long)S, (int)(SCORES / sizeof(float)));
    return;
  }
  const dim3 grid((unsigned)cuda_ceil(S, warps), (unsigned)heads, (unsigned)q.shape[0]);
  CUDA_FOR_DTYPE(q, T, {
    if (cuda_shared(c, "attention_relative", attend_relative<T>, bytes))
      attend_relative<T><<<grid, dim3(32, (unsigned)warps), bytes, cuda_stream(c)>>>(
          cuda_at<T>(out), cuda_at<T>(q), cuda_at<T>(k), cuda_at<T>(v), cuda_f32(bias), (int)S, (int)D,
          (int)(D / heads));
  });
  cuda_launched(c, "attention_relative");
}
