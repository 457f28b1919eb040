/* Standard normal numbers out of ebb_random_words (Box & Muller 1958), bitwise the same on every backend: the logarithm,
 * sine and cosine are series of exactly rounded operations, written out with fused multiply-adds, so that no compiler
 * has a product and a sum left to contract in its own way. Within 1e-6 of the exact transform of the same words.
 * Plain C that nvcc compiles too. */
#ifndef EBB_KERNELS_NORMAL_H
#define EBB_KERNELS_NORMAL_H

#include <math.h>

#include "kernels/random.h"

#if defined(__CUDA_ARCH__)
#define EBB_MULTIPLY_ADD(a, b, c) __fmaf_rn((a), (b), (c))
#define EBB_QUOTIENT(a, b) __fdiv_rn((a), (b))
#define EBB_ROOT(a) __fsqrt_rn(a)
#else
#define EBB_MULTIPLY_ADD(a, b, c) fmaf((a), (b), (c))
#define EBB_QUOTIENT(a, b) ((a) / (b))
#define EBB_ROOT(a) sqrtf(a)
#endif

/* ln((word + 1/2) / 2^32) */
EBB_RANDOM_FN float ebb_normal_log(uint32_t word) {
  int shift = 0; /* 2 word + 1 = odd / 2^shift with 2^32 <= odd < 2^33 */
  uint64_t odd = 2 * (uint64_t)word + 1;
  while (odd < (uint64_t)1 << 32) {
    odd <<= 1;
    shift++;
  }
  int high = odd >= (uint64_t)6074001000u; /* 2^33 sqrt(1/2): m = odd / one is within sqrt(2) of 1 */
  int64_t one = (int64_t)1 << (high ? 33 : 32);
  float s = EBB_QUOTIENT((float)((int64_t)odd - one), (float)((int64_t)odd + one)); /* ln m = 2 atanh s */
  float z = s * s, sum = EBB_MULTIPLY_ADD(z, 1.0f / 9.0f, 1.0f / 7.0f);
  sum = EBB_MULTIPLY_ADD(z, sum, 1.0f / 5.0f);
  sum = EBB_MULTIPLY_ADD(z, sum, 1.0f / 3.0f);
  sum = EBB_MULTIPLY_ADD(z, sum, 1.0f);
  float exponent = (float)(-shift - (high ? 0 : 1));
  return EBB_MULTIPLY_ADD(exponent, 0.693147180559945f, 2.0f * s * sum);
}

/* Two normal numbers out of two words: the radius from the first, the angle from the second, whose highest two bits
 * are the quadrant and whose others the angle in it, from -pi/4 to pi/4. */
EBB_RANDOM_FN void ebb_normal_pair(uint32_t radius, uint32_t angle, float *a, float *b) {
  float r = EBB_ROOT(-2.0f * ebb_normal_log(radius));
  float x = (float)((int32_t)(angle << 2) / 4) * (1.57079632679489662f / 1073741824.0f), z = x * x;
  float s = EBB_MULTIPLY_ADD(z, 1.0f / 362880.0f, -1.0f / 5040.0f);
  s = EBB_MULTIPLY_ADD(z, s, 1.0f / 120.0f);
  s = EBB_MULTIPLY_ADD(z, s, -1.0f / 6.0f);
  s = EBB_MULTIPLY_ADD(z * x, s, x);
  float c = EBB_MULTIPLY_ADD(z, -1.0f / 3628800.0f, 1.0f / 40320.0f);
  c = EBB_MULTIPLY_ADD(z, c, -1.0f / 720.0f);
  c = EBB_MULTIPLY_ADD(z, c, 1.0f / 24.0f);
  c = EBB_MULTIPLY_ADD(z, c, -1.0f / 2.0f);
  c = EBB_MULTIPLY_ADD(z, c, 1.0f);
  uint32_t quadrant = angle >> 30;
  float u = quadrant & 1 ? s : c, v = quadrant & 1 ? c : s;
  *a = r * (quadrant == 1 || quadrant == 2 ? -u : u);
  *b = r * (quadrant >= 2 ? -v : v);
}

/* Numbers 4 block to 4 block + 3 of (seed, stream). */
EBB_RANDOM_FN void ebb_normal4(uint64_t seed, uint64_t stream, uint64_t block, float normal[4]) {
  ebb_random4 r = ebb_random_words(seed, stream, block);
  ebb_normal_pair(r.v[0], r.v[1], &normal[0], &normal[1]);
  ebb_normal_pair(r.v[2], r.v[3], &normal[2], &normal[3]);
}

/* Number `index` of (seed, stream). */
EBB_RANDOM_FN float ebb_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  float four[4];
  ebb_normal4(seed, stream, index / 4, four);
  return four[index % 4];
}

/* x[i] = number i of (seed, stream). */
static inline void ebb_normals(float *x, int64_t n, uint64_t seed, uint64_t stream) {
  float four[4];
  for (int64_t i = 0; i < n; i++) {
    if (i % 4 == 0)
      ebb_normal4(seed, stream, (uint64_t)i / 4, four);
    x[i] = four[i % 4];
  }
}

#endif
