/* Memory in units of up to 16 bytes: N neighbours at once, float32 in registers whatever their dtype. Private
 * to kernels/cuda/. */
#ifndef EBB_KERNELS_CUDA_UNITS_CUH
#define EBB_KERNELS_CUDA_UNITS_CUH

#include "kernels/cuda/cuda.h"

/* The widest access of a thread is 16 bytes; more neighbours take several. */
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) unit { T v[N]; };

/* v = p[0..N); p is aligned to a unit. */
template <int N, typename T> static __device__ __forceinline__ void load_unit(float (&v)[N], const T *p) {
  const unit<T, N> u = *reinterpret_cast<const unit<T, N> *>(p);
#pragma unroll
  for (int i = 0; i < N; i++)
    v[i] = to_float(u.v[i]);
}

/* The same of what the kernel does not write: such reads may pass writes, so that many are under way. */
template <int N, typename T> static __device__ __forceinline__ void read_unit(float (&v)[N], const T *p) {
  unit<T, N> u;
  if constexpr (sizeof u == 2)
    *reinterpret_cast<unsigned short *>(&u) = __ldg(reinterpret_cast<const unsigned short *>(p));
  else if constexpr (sizeof u == 4)
    *reinterpret_cast<unsigned *>(&u) = __ldg(reinterpret_cast<const unsigned *>(p));
  else if constexpr (sizeof u == 8)
    *reinterpret_cast<uint2 *>(&u) = __ldg(reinterpret_cast<const uint2 *>(p));
  else
#pragma unroll
    for (int i = 0; i < (int)sizeof u / 16; i++)
      reinterpret_cast<uint4 *>(&u)[i] = __ldg(reinterpret_cast<const uint4 *>(p) + i);
#pragma unroll
  for (int i = 0; i < N; i++)
    v[i] = to_float(u.v[i]);
}

template <int N, typename T> static __device__ __forceinline__ void store_unit(T *p, const float (&v)[N]) {
  unit<T, N> u;
#pragma unroll
  for (int i = 0; i < N; i++)
    u.v[i] = from_float<T>(v[i]);
  *reinterpret_cast<unit<T, N> *>(p) = u;
}

/* Whole units, or the first `count` of N neighbours one by one, at any address. */
template <bool WHOLE, int N, typename T>
static __device__ __forceinline__ void load_some(float (&v)[N], const T *p, int count) {
  if constexpr (WHOLE) {
    load_unit(v, p);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++)
      v[i] = i < count ? to_float(p[i]) : 0.0f;
  }
}

template <bool WHOLE, int N, typename T>
static __device__ __forceinline__ void read_some(float (&v)[N], const T *p, int count) {
  if constexpr (WHOLE)
    read_unit(v, p);
  else
    load_some<false>(v, p, count);
}

template <bool WHOLE, int N, typename T>
static __device__ __forceinline__ void store_some(T *p, const float (&v)[N], int count) {
  if constexpr (WHOLE) {
    store_unit(p, v);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++)
      if (i < count)
        p[i] = from_float<T>(v[i]);
  }
}

/* Does every row of `width` numbers of t begin at a unit of N? Absent tensors do. */
static inline bool whole_units(ebb_tensor t, int N, int64_t width) {
  size_t bytes = N * ebb_dtype_size(t.dtype);
  return !ebb_present(t) || (width % N == 0 && (uintptr_t)t.data % (bytes < 16 ? bytes : 16) == 0);
}

#endif
