/* Attention to few keys: the map, and values that have been through the output projection. The work is
 * reading q. */
#include "kernels/cuda/tensor_cores.cuh"
#include "kernels/cuda/units.cuh"

#define WARPS 8
#define ROWS 16     /* of q that a block takes at a time: those of a product */
#define ROW_WARPS 4 /* that share them, by heads */
#define SLICE 32    /* numbers of a row that four lanes take together, eight each */

/* ---- kernels ----------------------------------------------------------------------------------------- */

/* sum x y w over P; w NULL: ones. */
template <typename T>
static __device__ float warp_dot(const T *__restrict__ x, const T *__restrict__ y,
                                 const float *__restrict__ w, int P, int lane) {
  float sum = 0;
  for (int i = lane; i < P; i += 32)
    sum = fmaf(to_float(x[i]) * (w ? w[i] : 1.0f), to_float(y[i]), sum);
  return warp_sum(sum);
}

/* In place, scores beyond M being -infinity; the last of M has `repeats` times its weight. */
static __device__ void softmax(float (&score)[EBB_FEW_KEYS], int M, float repeats) {
  float max = score[0], total = 0;
#pragma unroll
  for (int m = 1; m < EBB_FEW_KEYS; m++)
    max = fmaxf(max, score[m]);
#pragma unroll
  for (int m = 0; m < EBB_FEW_KEYS; m++)
    if (m < M) {
      score[m] = expf(score[m] - max) * (m == M - 1 ? repeats : 1.0f);
      total += score[m];
    }
#pragma unroll
  for (int m = 0; m < EBB_FEW_KEYS; m++)
    if (m < M)
      score[m] /= total;
}

/* The map, any width. p [rows,N,M], q [rows,N,P], k [M,N,P] of the row's sample, `stride` numbers from one
 * sample's to the next, w [N,P] or NULL: no norm. A warp has a row. */
template <typename T>
static __global__ void weights(T *__restrict__ p, const T *__restrict__ q, const T *__restrict__ k,
                               const float *__restrict__ w, int64_t rows, int S, int N, int P, int M,
                               int64_t stride, float scale, float repeats, float eps) {
  const int lane = threadIdx.x % 32, D = N * P;
  const int64_t row = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
  if (row >= rows)
    return;
  const T *query = q + row * D, *key = k + row / S * stride;
  if (w)
    scale *= rsqrtf(warp_dot<T>(query, query, NULL, D, lane) / (float)D + eps);
  for (int n = 0; n < N; n++) {
    float score[EBB_FEW_KEYS];
#pragma unroll
    for (int m = 0; m < EBB_FEW_KEYS; m++)
      score[m] = m < M ? scale * warp_dot(query + n * P, key + m * D + n * P, w ? w + n * P : NULL, P, lane)
                       : -INFINITY;
    softmax(score, M, repeats);
#pragma unroll
    for (int m = 0; m < EBB_FEW_KEYS; m++)
      if (lane == m && m < M)
        p[(row * N + n) * M + m] = from_float<T>(score[m]);
  }
}

/* What a block of map_rows has in shared memory. */
typedef struct room {
  uint4 *keys;    /* [D/SLICE][2M][4]: eight numbers each */
  float *scores;  /* [ROWS][N][M]: before the norm */
  float *squares; /* [ROW_WARPS][ROWS]: sums over a warp's heads */
} room;

static __host__ __device__ size_t room_bytes(int D, int N, int M) {
  return (size_t)M * D * 2 * sizeof(bf16) + (size_t)ROWS * (N * M + ROW_WARPS) * sizeof(float);
}

static __device__ room room_of(uint4 *memory, int D, int N, int M) {
  float *scores = reinterpret_cast<float *>(memory + M * D / 4);
  return {memory, scores, scores + ROWS * N * M};
}

/* Column 2m of the keys is w k_m rounded to bfloat16, column 2m + 1 what that took: together good to 2^-18.
 */
static __device__ void prepare_keys(uint4 *keys, const bf16 *k, const float *w, int D, int M) {
  for (int i = threadIdx.x; i < M * D / 8; i += blockDim.x) {
    const int m = i / (D / 8), unit = i % (D / 8);
    float key[8], weight[8];
    read_unit(key, k + i * 8);
    if (w)
      read_unit(weight, w + unit * 8);
    float rest[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const float exact = w ? key[j] * weight[j] : key[j];
      key[j] = to_float(from_float<bf16>(exact));
      rest[j] = exact - key[j];
    }
    uint4 *to = keys + (unit / 4 * 2 * M + 2 * m) * 4 + unit % 4;
    store_unit(reinterpret_cast<bf16 *>(to), key);
    store_unit(reinterpret_cast<bf16 *>(to + 4), rest);
  }
}

static __device__ __forceinline__ float add_squares(float sum, uint4 x) {
  const __nv_bfloat162 *pairs = reinterpret_cast<const __nv_bfloat162 *>(&x);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 v = __bfloat1622float2(pairs[i]);
    sum = fmaf(v.x, v.x, sum);
    sum = fmaf(v.y, v.y, sum);
  }
  return sum;
}

/* Scores of rows g and g + 8 of a tile, g = lane / 4, for the warp's heads, and their squares. Which numbers
 * of a SLICE are multiplied together is free as long as q and keys agree: a lane takes eight neighbours. */
template <int SLICES>
static __device__ __forceinline__ void score_heads(room r, const bf16 *low, const bf16 *high, int N, int M) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float square[2] = {};
  for (int n = threadIdx.x / 32; n < N; n += ROW_WARPS) {
    const uint4 *x = reinterpret_cast<const uint4 *>(low) + n * SLICES * 4 + t,
                *y = reinterpret_cast<const uint4 *>(high) + n * SLICES * 4 + t;
    const uint4 *key = r.keys + (n * SLICES * 2 * M + g) * 4 + t;
    uint4 a[SLICES], b[SLICES];
    float c[4] = {};
#pragma unroll
    for (int j = 0; j < SLICES; j++) {
      a[j] = __ldcs(x + j * 4);
      b[j] = __ldcs(y + j * 4);
    }
#pragma unroll
    for (int j = 0; j < SLICES; j++, key += 2 * M * 4) {
      const uint4 k = g < 2 * M ? *key : make_uint4(0, 0, 0, 0);
      mma(c, {a[j].x, b[j].x, a[j].y, b[j].y}, k.x, k.y);
      mma(c, {a[j].z, b[j].z, a[j].w, b[j].w}, k.z, k.w);
      square[0] = add_squares(square[0], a[j]);
      square[1] = add_squares(square[1], b[j]);
    }
    if (t < M) {
      r.scores[(g * N + n) * M + t] = c[0] + c[1];
      r.scores[((g + 8) * N + n) * M + t] = c[2] + c[3];
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float sum = quad_sum(square[i]);
    if (t == 0)
      r.squares[threadIdx.x / 32 * ROWS + g + 8 * i] = sum;
  }
}

/* The map for heads of SLICE * SLICES numbers in bfloat16 and one k [M,D], on tensor cores: the scores of a
 * tile of whole rows, then its norms and softmax. */
template <int SLICES>
static __global__ void __launch_bounds__(32 * ROW_WARPS, 8)
    map_rows(bf16 *__restrict__ p, const bf16 *__restrict__ q, const bf16 *__restrict__ k,
             const float *__restrict__ w, int64_t rows, int N, int M, float scale, float repeats, float eps) {
  extern __shared__ uint4 memory[];
  const int D = N * SLICES * SLICE, g = threadIdx.x % 32 / 4;
  const room r = room_of(memory, D, N, M);
  prepare_keys(r.keys, k, w, D, M);
  for (int64_t first = blockIdx.x * (int64_t)ROWS; first < rows; first += (int64_t)gridDim.x * ROWS) {
    __syncthreads(); /* the keys are there; the last tile's scores have been read */
    const int count = (int)min((int64_t)ROWS, rows - first); /* beyond them, the last once more */
    score_heads<SLICES>(r, q + (first + min(g, count - 1)) * D, q + (first + min(g + 8, count - 1)) * D, N,
                        M);
    __syncthreads();
    for (int i = threadIdx.x; i < count * N; i += blockDim.x) {
      float square = 0, score[EBB_FEW_KEYS];
      for (int warp = 0; warp < ROW_WARPS; warp++)
        square += r.squares[warp * ROWS + i / N];
      const float factor = w ? scale * rsqrtf(square / (float)D + eps) : scale;
#pragma unroll
      for (int m = 0; m < EBB_FEW_KEYS; m++)
        score[m] = m < M ? factor * r.scores[i * M + m] : -INFINITY;
      softmax(score, M, repeats);
#pragma unroll
      for (int m = 0; m < EBB_FEW_KEYS; m++)
        if (m < M)
          p[(first * N + i) * M + m] = __float2bfloat16_rn(score[m]);
    }
  }
}

/* u [D,N,M] from v [M,N,P], w [D,N,P]: a warp has one (d, n). */
template <typename T>
static __global__ void project(T *__restrict__ u, const T *__restrict__ v, const T *__restrict__ w,
                               int64_t items, int N, int P, int M) {
  int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  if (item >= items)
    return;
  for (int m = 0; m < M; m++) {
    float sum = warp_dot(w + item * P, v + (m * (int64_t)N + item % N) * P, NULL, P, lane);
    if (lane == 0)
      u[item * M + m] = from_float<T>(sum);
  }
}

/* ---- launchers --------------------------------------------------------------------------------------- */

/* True when the rows were taken: keys that fit into shared memory. A launch for all samples that share their
 * keys: the path does not hang on the batch. */
template <int SLICES>
static bool take_rows(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int N,
                      float repeats, float eps) {
  const int D = (int)q.shape[2], M = (int)k.shape[1];
  const int64_t texts = k.shape[0], rows = ebb_rows(q) / texts;
  const int64_t blocks = cuda_ceil(rows, ROWS), most = 8 * (int64_t)cuda_of(c)->processors;
  const size_t bytes = room_bytes(D, N, M);
  if (bytes > cuda_of(c)->shared || !cuda_shared(c, "attention_weights", map_rows<SLICES>, bytes))
    return false;
  for (int64_t t = 0; t < texts; t++)
    map_rows<SLICES><<<(unsigned)(blocks < most ? blocks : most), 32 * ROW_WARPS, bytes, cuda_stream(c)>>>(
        cuda_at<bf16>(p) + t * rows * ebb_last(p), cuda_at<bf16>(q) + t * rows * D,
        cuda_at<bf16>(k) + t * M * D, cuda_f32(w), rows, N, M, 1.0f / sqrtf((float)(D / N)), repeats, eps);
  return true;
}

static void take_any(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                     float repeats, float eps) {
  const int P = (int)(q.shape[2] / heads), M = (int)k.shape[1];
  const int64_t rows = ebb_rows(q), stride = k.shape[0] == 1 ? 0 : k.shape[1] * k.shape[2];
  CUDA_FOR_DTYPE(q, T,
                 (weights<T><<<(unsigned)cuda_ceil(rows, WARPS), 32 * WARPS, 0, cuda_stream(c)>>>(
                     cuda_at<T>(p), cuda_at<T>(q), cuda_at<T>(k), cuda_f32(w), rows, (int)q.shape[1], heads,
                     P, M, stride, 1.0f / sqrtf((float)P), repeats, eps)));
}

void cuda_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                            int64_t repeats, float eps) {
  const int64_t P = q.shape[2] / heads;
  const bool half = q.dtype == EBB_BF16;
  if (!(half && P == 128 && take_rows<128 / SLICE>(c, p, q, k, w, heads, (float)repeats, eps)) &&
      !(half && P == 64 && take_rows<64 / SLICE>(c, p, q, k, w, heads, (float)repeats, eps)))
    take_any(c, p, q, k, w, heads, (float)repeats, eps);
  cuda_launched(c, "attention_weights");
}

void cuda_projected_values(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads) {
  int P = (int)(v.shape[2] / heads), M = (int)v.shape[1];
  int64_t items = w.shape[0] * heads;
  unsigned blocks = (unsigned)cuda_ceil(items, WARPS);
  CUDA_FOR_DTYPE(u, T,
                 (project<T><<<blocks, 32 * WARPS, 0, cuda_stream(c)>>>(cuda_at<T>(u), cuda_at<T>(v),
                                                                        cuda_at<T>(w), items, heads, P, M)));
  cuda_launched(c, "projected_values");
}
