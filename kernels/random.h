/* Counter-based random numbers (Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
 * as 1, 2, 3", SC'11). A draw is a pure function of (seed, stream, index): no state, no order, the same on
 * every machine, thread count and backend. Plain C that nvcc compiles too. */
#ifndef EBB_KERNELS_RANDOM_H
#define EBB_KERNELS_RANDOM_H

#include <stdint.h>

#if defined(__CUDACC__)
#define EBB_RANDOM_FN static __host__ __device__ inline
#else
#define EBB_RANDOM_FN static inline
#endif

typedef struct ebb_random4 {
  uint32_t v[4];
} ebb_random4;

/* Four independent uniform 32-bit words for (seed, stream, index). */
EBB_RANDOM_FN ebb_random4 ebb_random_words(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
  uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  ebb_random4 r = {{c0, c1, c2, c3}};
  return r;
}

/* Uniform in [0, 1) with 53 random bits. */
EBB_RANDOM_FN double ebb_random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  ebb_random4 r = ebb_random_words(seed, stream, index);
  return (double)((((uint64_t)r.v[0] << 32) | r.v[1]) >> 11) * (1.0 / 9007199254740992.0);
}

/* Uniform integer in [0, n), n >= 1, without modulo bias beyond 2^-64 * n. */
EBB_RANDOM_FN uint32_t ebb_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint32_t n) {
  return (uint32_t)(ebb_random_uniform(seed, stream, index) * (double)n);
}

#endif
