/* Attention to few keys: the map, and values that have been through the output projection. */
#include <math.h>

#include "kernels/cpu/cpu.h"

static double dot(const float *x, const float *y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += (double)x[i] * (double)y[i];
  return sum;
}

/* sum x y w */
static double weighted_dot(const float *x, const float *y, const float *w, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += (double)x[i] * (double)y[i] * (double)w[i];
  return sum;
}

/* p [M] <- softmax of scores in p, the last of weight `repeats`. */
static void softmax(float *p, int64_t M, float repeats) {
  float max = p[0];
  double total = 0;
  for (int64_t m = 1; m < M; m++)
    max = p[m] > max ? p[m] : max;
  for (int64_t m = 0; m < M; m++) {
    p[m] = expf(p[m] - max) * (m == M - 1 ? repeats : 1.0f);
    total += (double)p[m];
  }
  for (int64_t m = 0; m < M; m++)
    p[m] = (float)((double)p[m] / total);
}

void cpu_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                           int64_t repeats, float eps) {
  int64_t S = q.shape[1], D = q.shape[2], P = D / heads, M = k.shape[1];
  CPU_PARALLEL(c, 2.0 * (double)ebb_count(q) * (double)M)
  for (int64_t row = 0; row < ebb_rows(q); row++) {
    const float *query = cpu_f32(q) + row * D, *weight = cpu_f32(w);
    double scale = 1.0 / sqrt((double)P);
    if (ebb_present(w))
      scale /= sqrt(dot(query, query, D) / (double)D + (double)eps);
    for (int64_t n = 0; n < heads; n++) {
      float *to = cpu_f32(p) + (row * heads + n) * M;
      for (int64_t m = 0; m < M; m++) {
        const float *key = cpu_f32(k) + (cpu_sample(k, row / S) * M + m) * D;
        to[m] = (float)(scale * (ebb_present(w) ? weighted_dot(query + n * P, key + n * P, weight + n * P, P)
                                                : dot(query + n * P, key + n * P, P)));
      }
      softmax(to, M, (float)repeats);
    }
  }
}

void cpu_projected_values(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads) {
  int64_t M = v.shape[1], D = v.shape[2], P = D / heads;
  CPU_PARALLEL(c, 2.0 * (double)ebb_count(w) * (double)M)
  for (int64_t d = 0; d < D; d++)
    for (int64_t n = 0; n < heads; n++)
      for (int64_t m = 0; m < M; m++)
        cpu_f32(u)[(d * heads + n) * M + m] =
            (float)dot(cpu_f32(w) + d * D + n * P, cpu_f32(v) + m * D + n * P, P);
}
