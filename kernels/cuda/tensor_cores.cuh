/* Products of bfloat16 on tensor cores (mma.sync, sm_80 and newer), and what is done with their results in
 * registers. Private to kernels/cuda/. */
#ifndef EBB_KERNELS_CUDA_TENSOR_CORES_CUH
#define EBB_KERNELS_CUDA_TENSOR_CORES_CUH

#include "kernels/cuda/cuda.h"

#define FULL 0xffffffffu
#define LOWEST -1e30f /* a masked score: its exponential is 0, and 0 times its exponent is 0 */

/* c [16,8] += a [16,16] b [16,8]. With g = lane/4, t = lane%4: c holds (g, 2t), (g, 2t+1), (g+8, 2t), (g+8,
 * 2t+1); a pairs of columns 2t of rows g and g+8, then of columns 2t+8; b pairs of rows 2t and 2t+8 of column
 * g. */
static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ uint32_t packed(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
/* Over the four lanes that share a row. */
static __device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(FULL, x, 1);
  return x + __shfl_xor_sync(FULL, x, 2);
}
static __device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(FULL, x, 1));
  return fmaxf(x, __shfl_xor_sync(FULL, x, 2));
}

#endif
