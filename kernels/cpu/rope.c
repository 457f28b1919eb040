#include <math.h>

#include "kernels/cpu/cpu.h"

void cpu_timestep_embedding(ebb_context *c, ebb_tensor y, ebb_tensor t) {
  (void)c;
  int64_t B = y.shape[0], F = y.shape[1];
  for (int64_t b = 0; b < B; b++)
    for (int64_t i = 0; i < F / 2; i++) {
      double angle = (double)cpu_f32(t)[b] * pow(10000.0, -2.0 * (double)i / (double)F);
      cpu_f32(y)[b * F + i] = (float)cos(angle);
      cpu_f32(y)[b * F + F / 2 + i] = (float)sin(angle);
    }
}
