/* Attention for any head width in float32 or bfloat16, computed in float32 with plain fused multiply-adds:
 * the tensor cores would round float32 to tf32. Sums run over one tile of keys at a time and those sums are
 * added, so that the error of a long row stays that of two short ones. */
#include "kernels/cuda/attention.cuh"

#define TILE ATTENTION_GENERAL_TILE /* queries, and keys, of a tile */
#define SLICE 32          /* of the head width, or of the keys, that is in shared memory at a time */
#define PITCH (SLICE + 4) /* floats: eight rows, 16 bytes each, lie in different banks */
#define LOWEST -1e30f

/* Rows first .. first+TILE-1 of x, columns of one slice, into to [TILE][PITCH]; zeros beyond `rows` and
 * `columns`. */
template <typename T>
static __device__ __forceinline__ void load_slice(float *to, const T *x, int first, int rows, int slice,
                                                  int columns, int pitch) {
  int column = (int)threadIdx.x % SLICE;
#pragma unroll
  for (int r = (int)threadIdx.x / SLICE; r < TILE; r += 256 / SLICE)
    to[r * PITCH + column] = first + r < rows && slice + column < columns
                                 ? to_float(x[(int64_t)(first + r) * pitch + slice + column])
                                 : 0.0f;
}

/* Adds to rows ty + 16 i and columns tx + 16 j of a tile: dot products over one slice. */
static __device__ __forceinline__ void multiply_slice(float (&s)[4][4], const float *q, const float *k,
                                                      int ty, int tx, int width) {
#pragma unroll 2
  for (int d = 0; d < width; d += 4) {
    float4 a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      a[i] = *(const float4 *)(q + (ty + 16 * i) * PITCH + d);
      b[i] = *(const float4 *)(k + (tx + 16 * i) * PITCH + d);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        s[i][j] =
            fmaf(a[i].w, b[j].w, fmaf(a[i].z, b[j].z, fmaf(a[i].y, b[j].y, fmaf(a[i].x, b[j].x, s[i][j]))));
  }
}

/* Values of rows `first` on of one slice into to [SLICE, COLUMNS]; zeros beyond M and `columns`. */
template <int COLUMNS, typename T>
static __device__ __forceinline__ void load_values(float *slices, const attention_problem &p, const T *v,
                                                   int first, int columns) {
  for (int i = (int)threadIdx.x; i < SLICE * COLUMNS; i += 256) {
    int row = first + i / COLUMNS, column = i % COLUMNS;
    slices[i] = row < p.M && column < columns ? to_float(v[(int64_t)row * p.value_row + column]) : 0.0f;
  }
}

/* part += weights v of one slice. */
template <int COLUMNS>
static __device__ __forceinline__ void multiply_values(float (&part)[4][COLUMNS / 64][4],
                                                       const float (&weights)[TILE][TILE + 4],
                                                       const float *slices, int ty, int tx, int slice) {
  constexpr int QUADS = COLUMNS / 64;
#pragma unroll 1
  for (int d = 0; d < SLICE; d += 4) {
    float4 a[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      a[i] = *(const float4 *)&weights[ty + 16 * i][slice + d];
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int j = 0; j < QUADS; j++) {
        float4 b = *(const float4 *)(slices + (d + e) * COLUMNS + 4 * tx + 64 * j);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float w = e == 0 ? a[i].x : e == 1 ? a[i].y : e == 2 ? a[i].z : a[i].w;
          part[i][j][0] = fmaf(w, b.x, part[i][j][0]);
          part[i][j][1] = fmaf(w, b.y, part[i][j][1]);
          part[i][j][2] = fmaf(w, b.z, part[i][j][2]);
          part[i][j][3] = fmaf(w, b.w, part[i][j][3]);
        }
      }
  }
}

/* One tile of queries of one sample (z) and COLUMNS of the output's columns of one head (y): wide heads are
 * cut, and every part computes the scores again. 256 threads as [16 ty][16 tx]: scores of rows ty + 16 i and
 * keys tx + 16 j; output of the same rows and columns 4 tx + 64 j. Frames' ends stand in the
 * body: as a function they get other, longer code. */
template <typename T, int COLUMNS, bool STATS>
__global__ __launch_bounds__(256, STATS ? 1 : 2) void attend(const attention_problem p, int cuts, T *out,
                                                             const T *q, const T *k, const T *v) {
  constexpr int QUADS = COLUMNS / 64;
  __shared__ __align__(16) float slices[2 * TILE * PITCH]; /* of queries and keys; then of values */
  __shared__ __align__(16) float weights[TILE][TILE + 4];
  static_assert(SLICE * COLUMNS <= 2 * TILE * PITCH, "a slice of values fits");
  const int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16, first = (int)blockIdx.x * TILE;
  const int sample = p.sample + (int)blockIdx.z, head = (int)blockIdx.y / cuts;
  const int cut = (int)blockIdx.y % cuts * COLUMNS, columns = min(COLUMNS, p.P - cut);
  const bool counting = STATS && cut == 0; /* of the cuts of a head, which all find the same, the first */
  q += (int64_t)sample * p.S * p.D + head * p.P;
  k += sample * p.key_sample + head * p.P;
  v += sample * p.value_sample + head * p.value_head + cut;
  out += (int64_t)sample * p.S * p.D + head * p.P + cut;

  float o[4][QUADS][4] = {}, top[4], sum[4] = {}, entropy[4] = {};
  for (int i = 0; i < 4; i++)
    top[i] = LOWEST;
  int frame = 0, frame_end = p.keys;
  float *rows = NULL; /* [Tk, pitch] */
  if (STATS)
    rows = p.rows +
           (((int64_t)blockIdx.z * p.heads + head) * p.tiles + blockIdx.x) * p.Tk * ATTENTION_PITCH(TILE);

  for (int key = 0; key < p.M; key += TILE) {
    float s[4][4] = {};
    for (int slice = 0; slice < p.P; slice += SLICE) {
      __syncthreads();
      load_slice(slices, q, first, p.S, slice, p.P, p.D);
      load_slice(slices + TILE * PITCH, k, key, p.M, slice, p.P, p.D);
      __syncthreads();
      multiply_slice(s, slices, slices + TILE * PITCH, ty, tx, min(SLICE, p.P - slice));
    }

    float shrink[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float best = LOWEST, here = 0.0f, entropy_here = 0.0f;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int past = key + tx + 16 * j - (p.M - 1);
        s[i][j] = past > 0 ? LOWEST : past == 0 ? s[i][j] + p.extra : s[i][j];
        best = fmaxf(best, s[i][j]);
      }
      best = fmaxf(top[i], warp_max<16>(best));
      float moved = __fmul_rn(best - top[i], p.scale);
      top[i] = best;
      shrink[i] = exp2f(-moved);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float x = __fmul_rn(s[i][j] - best, p.scale);
        s[i][j] = exp2f(x);
        here += s[i][j];
        entropy_here += s[i][j] * x;
        weights[ty + 16 * i][tx + 16 * j] = s[i][j];
      }
      if (STATS) /* sum of p 2^-d (x - d), d what the maximum moved by */
        entropy[i] = shrink[i] * (entropy[i] - moved * sum[i]) + entropy_here;
      if (counting && moved > 0.0f) /* what earlier frames left shrinks with the rest */
#pragma unroll 1
        for (int f = tx; f < frame; f += 16)
          rows[f * ATTENTION_PITCH(TILE) + ty + 16 * i] *= shrink[i];
      sum[i] = fmaf(sum[i], shrink[i], here);
    }
    if (counting)
#pragma unroll 1
      for (; frame < p.Tk && frame_end <= key + TILE; frame++, frame_end += p.keys) /* frames that end here */
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float upto = sum[i];
#pragma unroll
          for (int j = 0; j < 4; j++)
            upto -= key + tx + 16 * j >= frame_end ? s[i][j] : 0.0f;
          upto = warp_sum<16>(upto);
          if (tx == 0)
            rows[frame * ATTENTION_PITCH(TILE) + ty + 16 * i] = upto;
        }

    float part[4][QUADS][4] = {}; /* p v of this tile */
    for (int slice = 0; slice < TILE && key + slice < p.M; slice += SLICE) {
      __syncthreads();
      load_values<COLUMNS>(slices, p, v, key + slice, columns);
      __syncthreads();
      multiply_values<COLUMNS>(part, weights, slices, ty, tx, slice);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < QUADS; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          o[i][j][e] = fmaf(o[i][j][e], shrink[i], part[i][j][e]);
  }

  __syncthreads();
  float *finals = slices; /* inverse, entropy [TILE] */
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int row = ty + 16 * i;
    float total = warp_sum<16>(sum[i]), inverse = 1.0f / total;
    if (p.lse && cut == 0 && tx == 0 && first + row < p.S)
      p.lse[((int64_t)sample * p.heads + head) * p.S + first + row] =
          0.693147181f * (top[i] * p.scale + log2f(total));
    if (STATS) {
      float mean = warp_sum<16>(entropy[i]) / total;
      if (tx == 0) {
        finals[row] = inverse;
        finals[TILE + row] = 0.693147181f * (log2f(total) - mean);
      }
    }
#pragma unroll
    for (int j = 0; j < QUADS; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (first + row < p.S && 4 * tx + 64 * j + e < columns)
          out[(int64_t)(first + row) * p.D + 4 * tx + 64 * j + e] = from_float<T>(o[i][j][e] * inverse);
  }
  if (counting) {
    __syncthreads();
    attention_part<TILE>(p, (int64_t)sample * p.heads + head, (int)blockIdx.x, rows, finals, finals + TILE);
  }
}

template <typename T, int COLUMNS, bool STATS>
static void launch(ebb_context *c, const attention_problem *p, void *out, const void *q, const void *k,
                   const void *v, int samples) {
  int cuts = (int)cuda_ceil(p->P, COLUMNS);
  dim3 grid((unsigned)p->tiles, (unsigned)(p->heads * cuts), (unsigned)samples);
  attend<T, COLUMNS, STATS>
      <<<grid, 256, 0, cuda_stream(c)>>>(*p, cuts, (T *)out, (const T *)q, (const T *)k, (const T *)v);
  cuda_launched(c, "attention");
}

template <typename T, int COLUMNS>
static void launch(ebb_context *c, const attention_problem *p, void *out, const void *q, const void *k,
                   const void *v, int samples) {
  (p->Tq > 0 ? launch<T, COLUMNS, true> : launch<T, COLUMNS, false>)(c, p, out, q, k, v, samples);
}

void attention_general(ebb_context *c, const attention_problem *p, ebb_dtype dtype, void *out, const void *q,
                       const void *k, const void *v, int samples) {
  if (dtype == EBB_BF16)
    (p->P <= 64 ? launch<bf16, 64> : launch<bf16, 128>)(c, p, out, q, k, v, samples);
  else
    (p->P <= 64 ? launch<float, 64> : launch<float, 128>)(c, p, out, q, k, v, samples);
}
