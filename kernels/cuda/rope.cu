#include "kernels/cuda/cuda.h"

/* One thread a frequency of a label, in double: labels go to 1000, where a float32 angle has lost its digits. */
static __global__ void timestep_embedding(float *y, const float *t, int64_t B, int64_t F) {
  int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, b = at / (F / 2), i = at % (F / 2);
  if (b >= B)
    return;
  double angle = (double)t[b] * pow(10000.0, -2.0 * (double)i / (double)F), sine, cosine;
  sincos(angle, &sine, &cosine);
  y[b * F + i] = (float)cosine;
  y[b * F + F / 2 + i] = (float)sine;
}

extern "C" void cuda_timestep_embedding(ebb_context *c, ebb_tensor y, ebb_tensor t) {
  int64_t B = y.shape[0], F = y.shape[1];
  timestep_embedding<<<(unsigned)cuda_ceil(B * F / 2, 128), 128, 0, cuda_stream(c)>>>(cuda_f32(y),
                                                                                      cuda_f32(t), B, F);
  cuda_launched(c, "timestep_embedding");
}
