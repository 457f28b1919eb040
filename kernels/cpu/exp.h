/* e^x in float32 as a few plain operations, so that the compiler can run it on whole vectors; expf is a call.
 */
#ifndef EBB_KERNELS_CPU_EXP_H
#define EBB_KERNELS_CPU_EXP_H

#include "kernels/numeric.h"

/* Relative error below 2e-7. x is taken to [-87, 88] first, where the result is a normal number; NaN stays
 * NaN. e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2)/2, e^r by its Taylor series (next term: 6e-9).
 */
static inline float cpu_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's last mantissa bits are n */
  float n = shifted - 12582912.0f;
  float r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts, the first exact times n */
  float series = 1.0f / 5040.0f;
  series = series * r + 1.0f / 720.0f;
  series = series * r + 1.0f / 120.0f;
  series = series * r + 1.0f / 24.0f;
  series = series * r + 1.0f / 6.0f;
  series = series * r + 0.5f;
  series = (r * r) * series + r;
  float power = ebb_float_of_bits((ebb_bits_of_float(shifted) << 23) + 0x3F800000u);
  return power * series + power;
}

#endif
