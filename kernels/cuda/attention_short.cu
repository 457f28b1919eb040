/* Attention to up to 32 keys in bfloat16 on tensor cores, heads of 64 or 128: the text of a video model. All
 * keys and values are held in registers, the queries streamed. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/tensor_cores.cuh"

/* Lanes g = lane/4, t = lane%4 of a warp, as mma() counts them. */

/* Keys as operands: x, y of a group's first slice of 16, z, w of its second. */
template <int NT, int GROUPS>
static __device__ __forceinline__ void take_keys(uint4 (&keys)[NT][GROUPS], const attention_problem &p,
                                                 const bf16 *k, int g, int t) {
#pragma unroll
  for (int j = 0; j < NT; j++)
#pragma unroll
    for (int c = 0; c < GROUPS; c++)
      keys[j][c] = j * 8 + g < p.M ? *(const uint4 *)(k + (int64_t)(j * 8 + g) * p.D + c * 32 + 8 * t)
                                   : make_uint4(0, 0, 0, 0);
}

/* Values as operands. Column g of tile j of a group is the group's column 8 (g/2) + 2j + g%2: the same lanes
 * write 16 bytes. */
template <int SLICES, int GROUPS>
static __device__ __forceinline__ void take_values(uint32_t (&values)[SLICES][GROUPS][4][2],
                                                   const attention_problem &p, const bf16 *v, int g, int t) {
#pragma unroll
  for (int x = 0; x < SLICES; x++)
#pragma unroll
    for (int c = 0; c < GROUPS; c++)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          int key = x * 16 + h * 8 + 2 * t;
          const unsigned short *from =
              (const unsigned short *)v + (int64_t)key * p.value_row + c * 32 + 8 * (g / 2) + 2 * j + g % 2;
          uint32_t low = key < p.M ? from[0] : 0, high = key + 1 < p.M ? from[p.value_row] : 0;
          values[x][c][j][h] = low | high << 16;
        }
}

/* Scores become their exponentials; the inverse of the sum of rows g and g + 8, and its logarithm into lse,
 * of which these rows are `left` from row g's on. */
template <int NT>
static __device__ __forceinline__ void exponentiate(float (&s)[NT][4], float (&inverse)[2],
                                                    const attention_problem &p, float *lse, int left, int t) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float best = LOWEST, sum = 0.0f;
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; e++) {
        int past = j * 8 + 2 * t + e % 2 - (p.M - 1);
        s[j][e] = past > 0 ? LOWEST : past == 0 ? s[j][e] + p.extra : s[j][e];
        best = fmaxf(best, s[j][e]);
      }
    best = quad_max(best) * p.scale;
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; e++) {
        s[j][e] = exp2_fast(__fmaf_rn(s[j][e], p.scale, -best));
        sum += s[j][e];
      }
    sum = quad_sum(sum);
    inverse[r] = 1.0f / sum;
    if (lse && t == 0 && r * 8 < left)
      lse[r * 8] = 0.693147181f * (best + log2f(sum));
  }
}

/* Up to KEYS keys, all in registers as operands, and the values too; a warp reads 16 queries at a time
 * straight into operands and writes their output. A product's inner index may run in any order as long as
 * both sides agree: lane t of a quad takes numbers 8t .. 8t+7 of every 32, so that all reads and writes are
 * 16 bytes. A block takes ROWS queries of one head (y) of one sample (z). */
template <int W, int KEYS, int ROWS>
__global__ __launch_bounds__(128) void few_keys(const attention_problem p, bf16 *out, const bf16 *q,
                                                const bf16 *k, const bf16 *v) {
  constexpr int GROUPS = W / 32, NT = KEYS / 8;
  const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int sample = p.sample + (int)blockIdx.z;
  k += sample * p.key_sample + blockIdx.y * W;
  v += sample * p.value_sample + blockIdx.y * p.value_head;
  q += (int64_t)sample * p.S * p.D + blockIdx.y * W + 8 * t;
  out += (int64_t)sample * p.S * p.D + blockIdx.y * W + 8 * t;
  float *lse = p.lse + ((int64_t)sample * p.heads + blockIdx.y) * p.S + g;

  uint4 keys[NT][GROUPS];
  take_keys(keys, p, k, g, t);
  uint32_t values[KEYS / 16][GROUPS][4][2];
  take_values(values, p, v, g, t);

  const int end = min(p.S, ((int)blockIdx.x + 1) * ROWS);
  int first = (int)blockIdx.x * ROWS + (int)threadIdx.x / 32 * 16;
  uint4 a[2][GROUPS]; /* rows g and g + 8 */
  auto read = [&](int row) {
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
      for (int c = 0; c < GROUPS; c++)
        a[r][c] = row + r * 8 + g < end
                      ? __ldcs((const uint4 *)(q + (int64_t)(row + r * 8 + g) * p.D + c * 32))
                      : make_uint4(0, 0, 0, 0);
  };
  read(first);
  for (; first < end; first += 64) {
    float s[NT][4] = {};
#pragma unroll
    for (int c = 0; c < GROUPS; c++) {
      const uint32_t low[4] = {a[0][c].x, a[1][c].x, a[0][c].y, a[1][c].y};
      const uint32_t high[4] = {a[0][c].z, a[1][c].z, a[0][c].w, a[1][c].w};
#pragma unroll
      for (int j = 0; j < NT; j++) {
        mma(s[j], low, keys[j][c].x, keys[j][c].y);
        mma(s[j], high, keys[j][c].z, keys[j][c].w);
      }
    }
    read(first + 64); /* while this one is worked on */
    float inverse[2];
    exponentiate(s, inverse, p, p.lse ? lse + first : NULL, end - first - g, t);
    uint32_t weights[KEYS / 16][4];
#pragma unroll
    for (int x = 0; x < KEYS / 16; x++)
#pragma unroll
      for (int h = 0; h < 4; h++)
        weights[x][h] = packed(s[2 * x + h / 2][2 * (h % 2)], s[2 * x + h / 2][2 * (h % 2) + 1]);
#pragma unroll
    for (int c = 0; c < GROUPS; c++) {
      float o[4][4] = {};
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int x = 0; x < KEYS / 16; x++)
          mma(o[j], weights[x], values[x][c][j][0], values[x][c][j][1]);
#pragma unroll
      for (int r = 0; r < 2; r++)
        if (first + r * 8 + g < end)
          __stcs((uint4 *)(out + (int64_t)(first + r * 8 + g) * p.D + c * 32),
                 make_uint4(packed(o[0][2 * r] * inverse[r], o[0][2 * r + 1] * inverse[r]),
                            packed(o[1][2 * r] * inverse[r], o[1][2 * r + 1] * inverse[r]),
                            packed(o[2][2 * r] * inverse[r], o[2][2 * r + 1] * inverse[r]),
                            packed(o[3][2 * r] * inverse[r], o[3][2 * r + 1] * inverse[r])));
    }
  }
}

template <int W, int KEYS>
static void launch_few_keys(ebb_context *c, const attention_problem *p, bf16 *out, const bf16 *q,
                            const bf16 *k, const bf16 *v, int samples) {
  constexpr int rows = 512;
  dim3 grid((unsigned)cuda_ceil(p->S, rows), (unsigned)p->heads, (unsigned)samples);
  few_keys<W, KEYS, rows><<<grid, 128, 0, cuda_stream(c)>>>(*p, out, q, k, v);
  cuda_launched(c, "attention");
}

bool attention_short(ebb_context *c, const attention_problem *p, bf16 *out, const bf16 *q, const bf16 *k,
                     const bf16 *v, int samples) {
  if (p->M > 32 || (p->P != 64 && p->P != 128))
    return false;
  if (p->P == 64)
    (p->M <= 16 ? launch_few_keys<64, 16> : launch_few_keys<64, 32>)(c, p, out, q, k, v, samples);
  else
    (p->M <= 16 ? launch_few_keys<128, 16> : launch_few_keys<128, 32>)(c, p, out, q, k, v, samples);
  return true;
}
