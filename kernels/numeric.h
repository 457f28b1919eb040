/* 16-bit floating point <-> float32, round to nearest even; infinities and NaN kept. One definition for C and
 * CUDA. */
#ifndef EBB_KERNELS_NUMERIC_H
#define EBB_KERNELS_NUMERIC_H

#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define EBB_NUMERIC_FN static __host__ __device__ inline
#else
#define EBB_NUMERIC_FN static inline
#endif

EBB_NUMERIC_FN float ebb_float_of_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

EBB_NUMERIC_FN uint32_t ebb_bits_of_float(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

EBB_NUMERIC_FN float ebb_float_of_bf16(uint16_t h) {
  return ebb_float_of_bits((uint32_t)h << 16);
}

EBB_NUMERIC_FN uint16_t ebb_bf16_of_float(float f) {
  uint32_t b = ebb_bits_of_float(f);
  if ((b & 0x7FFFFFFFu) > 0x7F800000u)
    return (uint16_t)((b >> 16) | 0x40u); /* NaN stays NaN */
  return (uint16_t)((b + 0x7FFFu + ((b >> 16) & 1u)) >> 16);
}

EBB_NUMERIC_FN float ebb_float_of_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3FFu;
  if (exponent == 31)
    return ebb_float_of_bits(sign | 0x7F800000u | (mantissa << 13));
  if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact */
    float magnitude = (float)mantissa * (1.0f / 16777216.0f);
    return ebb_float_of_bits(sign | ebb_bits_of_float(magnitude));
  }
  return ebb_float_of_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

EBB_NUMERIC_FN uint16_t ebb_f16_of_float(float f) {
  uint32_t b = ebb_bits_of_float(f), sign = (b >> 16) & 0x8000u, a = b & 0x7FFFFFFFu;
  if (a > 0x7F800000u)
    return (uint16_t)(sign | 0x7E00u);
  if (a >= 0x477FF000u) /* rounds to 2^16 or beyond: infinity */
    return (uint16_t)(sign | 0x7C00u);
  if (a < 0x38800000u) { /* below 2^-14: subnormal; the addition rounds to nearest even at 2^-24 */
    float magnitude = ebb_float_of_bits(a) + 0.5f;
    return (uint16_t)(sign | (ebb_bits_of_float(magnitude) - 0x3F000000u));
  }
  return (uint16_t)(sign | ((a - 0x38000000u + 0xFFFu + ((a >> 13) & 1u)) >> 13));
}

#endif
