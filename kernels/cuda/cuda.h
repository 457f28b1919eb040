/* What the files of the CUDA backend share: the state behind a context, checked calls, and small device
 * functions. Private to kernels/cuda/. Each file has its kernels first, its launchers after; a launcher is
 * named as its op, `cuda_` before, and is handed only what ops.c has checked. Kernels run on the context's one
 * stream, allocate nothing and wait for nothing, so that they can be recorded.
 *
 * No atomics on floats and no split whose borders depend on the batch: the bytes of a sample are the same in
 * any batch and in every run. Where a library chooses otherwise, the file says so. */
#ifndef EBB_KERNELS_CUDA_CUDA_H
#define EBB_KERNELS_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

extern "C" {
#include "kernels/backend.h"
}
#include "kernels/cuda/limits.h"

typedef struct cuda_ring cuda_ring;         /* upload.cu: page-locked pieces on their way to the device */
typedef struct cuda_products cuda_products; /* linear.cu: cuBLASLt's choices per shape */
typedef struct cuda_convolutions cuda_convolutions; /* conv_plan.cu: cuDNN's plans per shape */
typedef struct cuda_solvers cuda_solvers;           /* linalg.cu: cuBLAS's handle */

typedef struct cuda_state {
  int device;
  int processors;   /* streaming multiprocessors */
  int capability;   /* 80, 90 */
  size_t shared;    /* bytes of shared memory that one block may have: 99 to 227 KiB */
  int shared_bytes; /* of a multiprocessor; 0: attention.cu has not asked yet */
  int hopper;       /* attention_sm90.cu: 1 its kernels are here, -1 they are not, 0 it has not asked yet */
  cudaStream_t stream; /* all ops */
  cudaStream_t copies; /* downloads beside them */
  cudaEvent_t ready, landed;
  cuda_ring *ring;
  cuda_limits limits;
  /* Made by the file that owns them when first needed, never inside a recording; freed by their own
   * function. */
  cuda_products *products;
  cuda_convolutions *convolutions;
  cuda_solvers *solvers;
} cuda_state;

static inline cuda_state *cuda_of(ebb_context *c) {
  return (cuda_state *)c->state;
}
static inline cudaStream_t cuda_stream(ebb_context *c) {
  return ((cuda_state *)c->state)->stream;
}

/* True when the call went well; otherwise the context fails with the op, the call and what CUDA says. */
bool cuda_ok(ebb_context *c, const char *op, cudaError_t result);
/* After every launch: reports what the launch itself got wrong. */
static inline void cuda_launched(ebb_context *c, const char *op) {
  cuda_ok(c, op, cudaGetLastError());
}

/* Lets a kernel use more than 48 KiB of dynamic shared memory. */
template <typename Kernel>
static inline bool cuda_shared(ebb_context *c, const char *op, Kernel kernel, size_t bytes) {
  return cuda_ok(c, op,
                 cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

static inline int64_t cuda_ceil(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit;
}
static inline size_t cuda_round_up(size_t bytes) {
  return (bytes + 255) & ~(size_t)255;
}

/* for (first, count): pieces of a total, at most so large. */
#define CUDA_FOR_PIECES(total, most, first, count)                                                           \
  for (int64_t first = 0, count = 0; (count = (total)-first < (most) ? (total)-first : (most)) > 0;          \
       first += count)

typedef __nv_bfloat16 bf16;

/* The tensor's numbers as T; the caller knows the dtype. */
template <typename T> static inline T *cuda_at(ebb_tensor t) {
  return (T *)t.data;
}
static inline float *cuda_f32(ebb_tensor t) {
  return (float *)t.data;
}

/* The stride from one sample of a vector [B,D] or [1,D] to the next: 0 when all share it. */
static inline int64_t cuda_sample_stride(ebb_tensor t) {
  return t.shape[0] == 1 ? 0 : t.shape[1];
}

/* Calls f(X *, Y *) with null pointers whose types are the dtypes of two tensors that may be float32 or
 * bfloat16: CUDA_FOR_DTYPES(x, y, { kernel<X, Y><<<...>>>(...); }) */
#define CUDA_FOR_DTYPE(t, T, ...)                                                                            \
  do {                                                                                                       \
    if ((t).dtype == EBB_BF16) {                                                                             \
      using T = bf16;                                                                                        \
      __VA_ARGS__;                                                                                           \
    } else {                                                                                                 \
      using T = float;                                                                                       \
      __VA_ARGS__;                                                                                           \
    }                                                                                                        \
  } while (0)

#ifdef __CUDACC__

/* One number to and from float32. */
static __device__ __forceinline__ float to_float(float x) {
  return x;
}
static __device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
template <typename T> static __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

/* Sum and maximum over a warp, or over each LANES neighbouring lanes of it, in every lane. */
template <int LANES = 32> static __device__ __forceinline__ float warp_sum(float x) {
  for (int offset = LANES / 2; offset > 0; offset >>= 1)
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
template <int LANES = 32> static __device__ __forceinline__ float warp_max(float x) {
  for (int offset = LANES / 2; offset > 0; offset >>= 1)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

/* As ops.h defines them. a/2 (1 + tanh u) = a / (1 + e^-2u). The quotient is good to two units of the last place;
 * an exact one takes several times longer than all the rest. */
static __device__ __forceinline__ float activated(float a, ebb_activation act) {
  if (act == EBB_SILU)
    return __fdividef(a, 1.0f + __expf(-a));
  if (act == EBB_GELU_TANH)
    return __fdividef(a, 1.0f + __expf(a * (-1.59576912f - 0.0713548163f * (a * a))));
  if (act == EBB_RELU)
    return a < 0.0f ? 0.0f : a; /* NaN stays NaN */
  return a;
}

#endif

extern "C" {
bool cuda_upload_from(ebb_context *c, int64_t count, const ebb_source *sources, ebb_error *err);
void cuda_ring_close(cuda_ring *ring);
void cuda_linear(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act);
void cuda_products_close(cuda_products *products);
void cuda_norm_modulate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor shift, ebb_tensor scale,
                        float eps);
void cuda_gate_add_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                        ebb_tensor shift, ebb_tensor scale, float eps);
void cuda_gate_add_layer_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                              ebb_tensor w, ebb_tensor b, float eps);
void cuda_qk_norm_rope(ebb_context *c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk,
                       ebb_tensor cos, ebb_tensor sin, int heads, float eps);
void cuda_channel_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act);
void cuda_rms_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, float eps);
void cuda_timestep_embedding(ebb_context *c, ebb_tensor y, ebb_tensor t);
size_t cuda_attention_scratch(ebb_context *c, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                              int heads);
void cuda_attention(ebb_context *c, ebb_tensor out, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                    ebb_tensor v, int heads, int64_t repeats, void *scratch);
void cuda_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                            int64_t repeats, float eps);
void cuda_projected_values(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads);
void cuda_attention_relative(ebb_context *c, ebb_tensor out, ebb_tensor q, ebb_tensor k, ebb_tensor v,
                             ebb_tensor bias, int heads);
void cuda_gate_add(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate);
void cuda_axpby(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z);
void cuda_convert(ebb_context *c, ebb_tensor y, ebb_tensor x);
void cuda_activate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_activation act);
void cuda_gated(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, ebb_activation act);
void cuda_add_table(ebb_context *c, ebb_tensor y, ebb_tensor table, ebb_tensor x);
void cuda_channel_affine(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor scale, ebb_tensor shift);
void cuda_clamp(ebb_context *c, ebb_tensor y, ebb_tensor x, float low, float high);
void cuda_patchify(ebb_context *c, ebb_tensor y, ebb_tensor x, const int patch[3]);
void cuda_unpatchify(ebb_context *c, ebb_tensor x, ebb_tensor y, const int patch[3]);
void cuda_perturb(ebb_context *c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when,
                  ebb_tensor direction, int64_t place);
void cuda_add_noise(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor keys,
                    int64_t stream);
void cuda_replace_heads(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean, ebb_tensor source);
size_t cuda_convolution_scratch(ebb_context *c, ebb_convolution which, ebb_tensor y, ebb_tensor x,
                                ebb_tensor norm, ebb_tensor w, ebb_tensor residual);
void cuda_conv3d_causal(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                        ebb_tensor b, ebb_tensor residual, void *scratch);
void cuda_downsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                           void *scratch);
void cuda_downsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                          void *scratch);
void cuda_upsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x);
void cuda_upsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                        void *scratch);
size_t cuda_pool_scratch(ebb_context *c, ebb_tensor x, int64_t frames);
void cuda_pool_mean(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch);
void cuda_pool_frames(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch);
void cuda_pool_moments(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch);
void cuda_pool_motion(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch);
void cuda_gram(ebb_context *c, ebb_tensor g, ebb_tensor x);
void cuda_matmul(ebb_context *c, ebb_tensor y, ebb_tensor a, bool transpose_a, ebb_tensor b,
                 bool transpose_b);
void cuda_add_diagonal(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor shift);
size_t cuda_spd_inverse_scratch(ebb_context *c, ebb_tensor a);
void cuda_spd_inverse(ebb_context *c, ebb_tensor a, void *scratch);
void cuda_column_scale(ebb_context *c, ebb_tensor mean, ebb_tensor inverse, ebb_tensor x, ebb_tensor rows);
void cuda_standardise(ebb_context *c, ebb_tensor z, ebb_tensor x, ebb_tensor rows, ebb_tensor mean,
                      ebb_tensor inverse);
int64_t cuda_logistic_newton_rows(ebb_context *c);
size_t cuda_logistic_newton_scratch(ebb_context *c, ebb_tensor a);
void cuda_logistic_newton(ebb_context *c, ebb_tensor a, ebb_tensor b, ebb_tensor reached, ebb_tensor sweeps,
                          ebb_tensor g, ebb_tensor inverse, ebb_tensor y, ebb_tensor lambda, ebb_tensor mu,
                          ebb_tensor least, ebb_newton newton, void *scratch);
void cuda_fold_blocks(ebb_context *c, ebb_tensor s, ebb_tensor p, ebb_tensor rows, ebb_tensor lambda);
void cuda_centred_labels(ebb_context *c, ebb_tensor y, ebb_tensor mean, ebb_tensor labels, ebb_tensor rows);
void cuda_keep_best(ebb_context *c, ebb_tensor score, ebb_tensor best, ebb_tensor chosen, ebb_tensor kept,
                    ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number, bool explained);
void cuda_count_hits(ebb_context *c, ebb_tensor hits, ebb_tensor f, ebb_tensor shift, ebb_tensor labels,
                     ebb_tensor rows);
size_t cuda_logistic_adam_scratch(ebb_context *c, ebb_tensor w, ebb_tensor z);
void cuda_logistic_adam(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                        ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                        ebb_adam adam, void *scratch);
void cuda_convolutions_close(cuda_convolutions *convolutions);
void cuda_solvers_close(cuda_solvers *solvers);
}

#endif
