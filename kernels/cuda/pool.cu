/* Means over tokens. The tokens of a group (a sample, a frame of it) fall into pieces of PIECE, a block sums a
 * piece, and a second kernel adds the pieces in their order. Pieces and the order inside them hang on the shape
 * of a sample alone. Sums are as good as in double, as the central moments of features far from zero want it. */
#include "kernels/cuda/units.cuh"

#define ROWS 8    /* threads that share a column of a block: one sums tokens r, r + ROWS, ... of its piece */
#define ACROSS 64 /* units of a row that a block takes at most */
#define PIECE 128
#define AHEAD 8         /* reads of a thread under way */
#define MOTION_PIECE 16 /* places of a frame, each followed through all frames */
#define THREADS 256

/* sums[v] over the ROWS threads of a column, in their order, into `to`. All threads of the block come here. */
template <int N>
static __device__ __forceinline__ void add_rows(double *to, const double (&sums)[N], bool inside) {
  __shared__ double all[ROWS * ACROSS * N];
  int threads = blockDim.x * N;
  __syncthreads(); /* the last sums have been read */
#pragma unroll
  for (int i = 0; i < N; i++)
    all[threadIdx.y * threads + i * blockDim.x + threadIdx.x] = sums[i];
  __syncthreads();
  for (int i = threadIdx.y; inside && i < N; i += ROWS) {
    double total = 0;
    for (int r = 0; r < ROWS; r++)
      total += all[r * threads + i * blockDim.x + threadIdx.x];
    to[i] = total;
  }
}

/* sum += x, and what rounding took from it to `lost`: seven additions, where a conversion to double would take
 * the time of thirty. */
static __device__ __forceinline__ void add_exactly(float &sum, float &lost, float x) {
  float total = __fadd_rn(sum, x), of_x = __fsub_rn(total, sum), of_sum = __fsub_rn(total, of_x);
  lost = __fadd_rn(lost, __fadd_rn(__fsub_rn(x, of_x), __fsub_rn(sum, of_sum)));
  sum = total;
}

/* partial [groups, pieces, D]: the sums of every piece; x [groups, tokens, D], a row is `units`. */
template <int N, typename X>
static __global__ void __launch_bounds__(ROWS *ACROSS, 2)
    sum_pieces(double *partial, const X *x, int64_t tokens, int64_t units, unsigned pieces, unsigned tiles) {
  int64_t column = (int64_t)(blockIdx.x % tiles) * blockDim.x + threadIdx.x,
          group = blockIdx.x / tiles / pieces;
  int64_t piece = blockIdx.x / tiles % pieces, s = piece * PIECE + threadIdx.y;
  int64_t end = piece * PIECE + PIECE < tokens ? piece * PIECE + PIECE : tokens;
  bool inside = column < units;
  x += (group * tokens * units + column) * N;
  float sums[N] = {}, lost[N] = {};
  for (; inside && s < end; s += ROWS * AHEAD) {
    float v[AHEAD][N] = {};
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
      if (s + k * ROWS < end)
        load_unit(v[k], x + (s + k * ROWS) * units * N);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int i = 0; i < N; i++)
        add_exactly(sums[i], lost[i], v[k][i]); /* beyond the end: + 0 */
  }
  double both[N];
#pragma unroll
  for (int i = 0; i < N; i++)
    both[i] = (double)sums[i] + (double)lost[i];
  add_rows(partial + ((group * pieces + piece) * units + column) * N, both, inside);
}

/* Sum of the pieces of a group for one number of D. */
static __device__ __forceinline__ double sum_of(const double *partial, int64_t group, int64_t pieces,
                                                int64_t D, int64_t i) {
  double total = 0;
#pragma unroll 8
  for (int64_t p = 0; p < pieces; p++)
    total += partial[(group * pieces + p) * D + i];
  return total;
}

/* y [groups, D] */
static __global__ void __launch_bounds__(THREADS)
    mean_of_pieces(float *y, const double *partial, int64_t groups, int64_t pieces, int64_t tokens,
                   int64_t D) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (at < groups * D)
    y[at] = (float)(sum_of(partial, at / D, pieces, D, at % D) / (double)tokens);
}

/* y [B, 2, D]: central moments over T of the frame means */
static __global__ void __launch_bounds__(THREADS)
    moments_of_pieces(float *y, const double *partial, int64_t B, int64_t T, int64_t pieces, int64_t tokens,
                      int64_t D) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, b = at / D, i = at % D;
  if (b >= B)
    return;
  double mean = 0, second = 0, third = 0, n = (double)tokens; /* of sums over frames: n times the means */
#pragma unroll 4
  for (int64_t t = 0; t < T; t++)
    mean += sum_of(partial, b * T + t, pieces, D, i);
  mean /= (double)T;
#pragma unroll 4
  for (int64_t t = 0; t < T; t++) {
    double d = sum_of(partial, b * T + t, pieces, D, i) - mean;
    second += d * d;
    third += d * d * d;
  }
  y[b * 2 * D + i] = (float)(second / ((double)T * n * n));
  y[(b * 2 + 1) * D + i] = (float)(third / ((double)T * n * n * n));
}

/* partial [B, pieces, 2, D]: sums over the places of a piece and over time of |first| and |second difference|;
 * x [B, T, tokens, D]. */
template <int N, typename X>
static __global__ void __launch_bounds__(ROWS *ACROSS, 2)
    motion_pieces(double *partial, const X *x, int64_t T, int64_t tokens, int64_t units, unsigned pieces,
                  unsigned tiles) {
  int64_t column = (int64_t)(blockIdx.x % tiles) * blockDim.x + threadIdx.x, b = blockIdx.x / tiles / pieces;
  int64_t piece = blockIdx.x / tiles % pieces, frame = tokens * units * N;
  int64_t end = piece * MOTION_PIECE + MOTION_PIECE < tokens ? piece * MOTION_PIECE + MOTION_PIECE : tokens;
  bool inside = column < units;
  x += (b * T * tokens * units + column) * N;
  double speed[N] = {}, turn[N] = {};
  for (int64_t s = piece * MOTION_PIECE + threadIdx.y; inside && s < end; s += ROWS) {
    float before[N], now[N];
    load_unit(before, x + s * units * N);
    load_unit(now, x + s * units * N + frame);
#pragma unroll 4
    for (int64_t t = 1; t < T; t++) {
      float next[N] = {};
      if (t + 1 < T)
        load_unit(next, x + s * units * N + (t + 1) * frame);
#pragma unroll
      for (int i = 0; i < N; i++) {
        double step = (double)now[i] - (double)before[i];
        speed[i] += fabs(step);
        if (t + 1 < T)
          turn[i] += fabs((double)next[i] - (double)now[i] - step);
        before[i] = now[i];
        now[i] = next[i];
      }
    }
  }
  double *to = partial + ((b * pieces + piece) * 2 * units + column) * N;
  add_rows(to, speed, inside);
  add_rows(to + units * N, turn, inside);
}

/* y [B, 2, D] */
static __global__ void __launch_bounds__(THREADS)
    motion_of_pieces(float *y, const double *partial, int64_t B, int64_t T, int64_t pieces, int64_t tokens,
                     int64_t D) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, b = at / (2 * D),
          differences = T - 1 - at / D % 2;
  if (b >= B)
    return;
  double total = sum_of(partial, b, pieces, 2 * D, at % (2 * D));
  y[at] = differences > 0 ? (float)(total / (double)(differences * tokens)) : 0.0f;
}

/* ---- launchers --------------------------------------------------------------------------------------- */

/* Enough for each of the pooling ops: the partial sums of all frames, or those of motion. */
extern "C" size_t cuda_pool_scratch(ebb_context *c, ebb_tensor x, int64_t frames) {
  (void)c;
  int64_t tokens = x.shape[1] / frames, means = frames * cuda_ceil(tokens, PIECE);
  int64_t motion = frames > 1 ? 2 * cuda_ceil(tokens, MOTION_PIECE) : 0;
  return (size_t)(x.shape[0] * x.shape[2] * (means > motion ? means : motion)) * sizeof(double);
}

/* How the rows of x are dealt to threads: `units` of N, blocks of `across` of them. */
typedef struct stripes {
  int64_t units;
  unsigned tiles;
  dim3 block;
} stripes;

static stripes stripes_of(int64_t D, int N) {
  int64_t units = D / N, across = units <= ACROSS ? units : ACROSS / 2;
  return {units, (unsigned)cuda_ceil(units, across), dim3((unsigned)across, ROWS)};
}

/* partial [B * T, pieces, D] from x [B, T * tokens, D] */
static void launch_sums(ebb_context *c, double *partial, ebb_tensor x, int64_t T) {
  int64_t D = x.shape[2], tokens = x.shape[1] / T, pieces = cuda_ceil(tokens, PIECE);
  CUDA_FOR_DTYPE(x, X, {
    bool whole = whole_units(x, 4, D);
    stripes s = stripes_of(D, whole ? 4 : 1);
    auto kernel = whole ? sum_pieces<4, X> : sum_pieces<1, X>;
    kernel<<<(unsigned)(x.shape[0] * T * pieces * s.tiles), s.block, 0, cuda_stream(c)>>>(
        partial, cuda_at<X>(x), tokens, s.units, (unsigned)pieces, s.tiles);
  });
}

static void launch_means(ebb_context *c, const char *op, ebb_tensor y, ebb_tensor x, int64_t T,
                         void *scratch) {
  int64_t D = x.shape[2], groups = x.shape[0] * T, tokens = x.shape[1] / T;
  launch_sums(c, (double *)scratch, x, T);
  mean_of_pieces<<<(unsigned)cuda_ceil(groups * D, THREADS), THREADS, 0, cuda_stream(c)>>>(
      cuda_f32(y), (double *)scratch, groups, cuda_ceil(tokens, PIECE), tokens, D);
  cuda_launched(c, op);
}

extern "C" void cuda_pool_mean(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch) {
  launch_means(c, "pool_mean", y, x, 1, scratch);
}

extern "C" void cuda_pool_frames(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch) {
  launch_means(c, "pool_frames", y, x, y.shape[1], scratch);
}

extern "C" void cuda_pool_moments(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch) {
  int64_t B = x.shape[0], D = x.shape[2], tokens = x.shape[1] / frames;
  launch_sums(c, (double *)scratch, x, frames);
  moments_of_pieces<<<(unsigned)cuda_ceil(B * D, THREADS), THREADS, 0, cuda_stream(c)>>>(
      cuda_f32(y), (double *)scratch, B, frames, cuda_ceil(tokens, PIECE), tokens, D);
  cuda_launched(c, "pool_moments");
}

extern "C" void cuda_pool_motion(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch) {
  int64_t B = x.shape[0], D = x.shape[2], tokens = x.shape[1] / frames,
          pieces = cuda_ceil(tokens, MOTION_PIECE);
  if (frames == 1) {
    cuda_ok(c, "pool_motion", cudaMemsetAsync(y.data, 0, ebb_bytes(y), cuda_stream(c)));
    return;
  }
  CUDA_FOR_DTYPE(x, X, {
    bool whole = whole_units(x, 4, D);
    stripes s = stripes_of(D, whole ? 4 : 1);
    auto kernel = whole ? motion_pieces<4, X> : motion_pieces<1, X>;
    kernel<<<(unsigned)(B * pieces * s.tiles), s.block, 0, cuda_stream(c)>>>(
        (double *)scratch, cuda_at<X>(x), frames, tokens, s.units, (unsigned)pieces, s.tiles);
  });
  motion_of_pieces<<<(unsigned)cuda_ceil(B * 2 * D, THREADS), THREADS, 0, cuda_stream(c)>>>(
      cuda_f32(y), (double *)scratch, B, frames, pieces, tokens, D);
  cuda_launched(c, "pool_motion");
}
