/* Attention in bfloat16 on tensor cores, head widths that are multiples of 8 up to 128: `flash` walks the
 * keys once with a running maximum. Up to 32 keys are attention_short.cu, heads of 64 and 128 on Hopper
 * attention_sm90.cu, everything else attention_general.cu. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/tensor_cores.cuh"

/* A row's maximum moves only when a score exceeds it by so much: exponentials stay under 2^8, and what is
 * summed so far is rescaled almost never. */
#define SLACK 8.0f

/* ---- copies ------------------------------------------------------------------------------------------ */

/* 16 bytes from global to shared memory without waiting; zeros when not `valid`. */
static __device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0));
}
static __device__ __forceinline__ void copies_commit() {
  asm volatile("cp.async.commit_group;\n" ::);
}
/* Until all but the last N groups have landed. */
template <int N> static __device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N));
}

/* Four 8x8 matrices; lanes 8i .. 8i+7 give the addresses of the rows of matrix i. */
static __device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from));
}
static __device__ __forceinline__ void load_transposed(uint32_t (&x)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from));
}

/* ---- long keys --------------------------------------------------------------------------------------- */

/* Tiles in shared memory are rows of W numbers in chunks of 16 bytes; chunk c of row r lies at c ^ (r % 8),
 * so that neither copies nor ldmatrix meet in a bank. */
template <int W> static __device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return (uint32_t)(row * W * 2 + ((chunk ^ (row & 7)) << 4));
}

/* threadIdx.x and blockIdx, read each time: flash has no registers to keep what follows from them. */
static __device__ __forceinline__ int thread_anew() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
  return thread;
}
static __device__ __forceinline__ int2 block_anew() {
  int2 block; /* head, sample of this launch */
  asm volatile("mov.u32 %0, %%ctaid.y;\n"
               "mov.u32 %1, %%ctaid.z;\n"
               : "=r"(block.x), "=r"(block.y));
  return block;
}

/* Starts copying ROWS rows of `width` numbers, of a matrix at x[at] with pitch D, from row `first` on; zeros
 * from row `count` on and beyond `width`. */
template <int W, int ROWS, int THREADS>
static __device__ __forceinline__ void copy_tile(uint32_t to, const bf16 *x, int64_t at, int first, int count,
                                                 int pitch, int width) {
  constexpr int chunks = W / 8, step = THREADS / chunks;
  static_assert(step % 8 == 0 && ROWS % step == 0, "a thread keeps its chunk");
  int thread = thread_anew(), chunk = thread % chunks, row = thread / chunks;
  int left = chunk * 8 < width ? count - first - row : 0;
  const bf16 *from = x + (at + (int64_t)(first + row) * pitch + chunk * 8);
  to += swizzled<W>(row, chunk);
#pragma unroll
  for (int i = 0; i < ROWS; i += step)
    copy_async(to + (uint32_t)(i * W * 2), from + (int64_t)i * pitch, i < left);
}

/* How the work is cut: a block has WARPS warps of 32 queries each; keys come in tiles of TILE, STAGES of them
 * in shared memory, and are worked on in steps of STEP. HELD: the queries stay in registers, which is for
 * narrow heads; otherwise in shared memory, after the stages. BLOCKS of a multiprocessor should find room. */
template <int W_, int WARPS_, int TILE_, int STEP_, int STAGES_, bool HELD_, int BLOCKS_> struct cut {
  static constexpr int W = W_, WARPS = WARPS_, TILE = TILE_, STEP = STEP_, STAGES = STAGES_, BLOCKS = BLOCKS_;
  static constexpr bool HELD = HELD_;
  static constexpr int ROWS = WARPS * 32, THREADS = WARPS * 32;
  static constexpr uint32_t TILE_BYTES = TILE * W * 2, STAGE_BYTES = 2 * TILE_BYTES;
  static constexpr uint32_t BYTES = STAGES * STAGE_BYTES + (HELD ? 0 : ROWS * W * 2); /* then `rows` */
  static_assert(!HELD || ROWS <= 2 * TILE, "held queries come through the last stage");
  static_assert(ROWS * W * 2 + 2 * ROWS * 4 <= BYTES, "the output leaves through the stages");
};

/* The four sums over a quad of four values: lane t gets that of value t. */
static __device__ __forceinline__ float quad_sums(const float (&x)[4], int t) {
  float even = (t & 1 ? x[1] : x[0]) + __shfl_xor_sync(FULL, t & 1 ? x[0] : x[1], 1);
  float odd = (t & 1 ? x[3] : x[2]) + __shfl_xor_sync(FULL, t & 1 ? x[2] : x[3], 1);
  return (t & 2 ? odd : even) + __shfl_xor_sync(FULL, t & 2 ? even : odd, 2);
}

/* A key frame has ended `columns` keys into the 32 whose exponentials are s[first] and the next three: the
 * sum up to there, which is `sum` less what comes after, into rows [ROWS] of that frame. */
template <int NT>
static __device__ __forceinline__ void end_frame(float *rows, const float (&sum)[2][2],
                                                 const float (&s)[NT][2][4], int first, int columns) {
  int thread = thread_anew(), t = thread % 4;
  float upto[4] = {sum[0][0], sum[0][1], sum[1][0], sum[1][1]};
  if (columns < 32)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 2; e++)
        if (j * 8 + 2 * t + e >= columns)
#pragma unroll
          for (int x = 0; x < 4; x++)
            upto[x] -= s[first + j][x / 2][x % 2 * 2 + e];
  rows[thread / 32 * 32 + t * 8 + thread % 32 / 4] = quad_sums(upto, t);
}

/* The maxima have moved: what earlier frames left in rows [frames, PITCH] shrinks with the rest. */
template <int PITCH>
static __device__ __forceinline__ void shrink_frames(float *rows, int frames, const float (&shrink)[2][2]) {
  int thread = thread_anew(), t = thread % 4;
  float mine = t == 0 ? shrink[0][0] : t == 1 ? shrink[0][1] : t == 2 ? shrink[1][0] : shrink[1][1];
  rows += thread / 32 * 32 + t * 8 + thread % 32 / 4;
  if (mine != 1.0f)
    for (int f = 0; f < frames; f++)
      rows[f * PITCH] *= mine;
}

/* Scores of keys past the last are masked, the last one's gains what it has to; s begins at column `key`. */
template <int NT>
static __device__ __forceinline__ void mask_past(float (&s)[NT][2][4], const attention_problem &p, int key) {
  constexpr int MT = 2;
  int from = key + 2 * (thread_anew() % 4) - (p.M - 1);
#pragma unroll
  for (int j = 0; j < NT; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int past = from + j * 8 + e % 2;
#pragma unroll
      for (int i = 0; i < MT; i++)
        s[j][i][e] = past > 0 ? LOWEST : past == 0 ? s[j][i][e] + p.extra : s[j][i][e];
    }
}

/* p = 2^(scale s - max), in place, of the sixteen keys x; and their sums. */
template <bool STATS, int NT>
static __device__ __forceinline__ void exponentiate(float (&s)[NT][2][4], float (&sum)[2][2],
                                                    float (&entropy)[2][2], const float (&max)[2][2],
                                                    float scale, int x) {
  constexpr int MT = 2;
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float here = 0.0f;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float &y = s[2 * x + e / 2][i][2 * r + e % 2], exponent = __fmaf_rn(y, scale, -max[i][r]);
        y = exp2_fast(exponent);
        here = e == 0 ? y : __fadd_rn(here, y);
        if (STATS)
          entropy[i][r] = __fmaf_rn(y, exponent, entropy[i][r]);
      }
      sum[i][r] = __fadd_rn(sum[i][r], here);
    }
}

/* o += p v of the sixteen keys x, whose values are read at v. */
template <int W, int NT>
static __device__ __forceinline__ void add_values(float (&o)[2][W / 8][4], const float (&s)[NT][2][4],
                                                  uint32_t values, int x) {
  constexpr int MT = 2;
  uint32_t w[MT][4];
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      w[i][e] = packed(s[2 * x + e / 2][i][e % 2 * 2], s[2 * x + e / 2][i][e % 2 * 2 + 1]);
#pragma unroll
  for (int j = 0; j < W / 8; j += 2) {
    uint32_t b[4];
    load_transposed(b, (values ^ j / 2 << 5) + x * 16 * W * 2);
#pragma unroll
    for (int i = 0; i < MT; i++) {
      mma(o[i][j], w[i], b[0], b[1]);
      mma(o[i][j + 1], w[i], b[2], b[3]);
    }
  }
}

/* Is a score far above its row's maximum so far? best: the highest of each row. */
template <int NT>
static __device__ __forceinline__ bool far_above(float (&best)[2][2], const float (&s)[NT][2][4],
                                                 const float (&max)[2][2], float scale) {
  constexpr int MT = 2;
  bool above = false;
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      best[i][r] = s[0][i][2 * r];
#pragma unroll
      for (int j = 0; j < NT; j++)
        best[i][r] = fmaxf(best[i][r], fmaxf(s[j][i][2 * r], s[j][i][2 * r + 1]));
      above |= best[i][r] * scale > max[i][r] + SLACK;
    }
  return above;
}

/* Moves the maxima, and what was summed under the old ones. */
template <bool STATS, int W>
static __device__ __forceinline__ void
move_maxima(float (&o)[2][W / 8][4], float (&max)[2][2], float (&sum)[2][2], float (&entropy)[2][2],
            float (&shrink)[2][2], const float (&best)[2][2], float scale) {
  constexpr int MT = 2;
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float high = quad_max(best[i][r]) * scale, old = max[i][r];
      max[i][r] = high > old + SLACK ? high : old;
      shrink[i][r] = exp2_fast(old - max[i][r]);
      if (STATS) /* sum of p 2^-d (x - d), d what the maximum moved by */
        entropy[i][r] = shrink[i][r] * (entropy[i][r] - (max[i][r] - old) * sum[i][r]);
      sum[i][r] *= shrink[i][r];
#pragma unroll
      for (int j = 0; j < W / 8; j++) {
        o[i][j][2 * r] *= shrink[i][r];
        o[i][j][2 * r + 1] *= shrink[i][r];
      }
    }
}

/* The output's rows into shared memory, as bfloat16; inverse sums and entropies into finals [2, ROWS]; the
 * first `left` logarithms of sums into lse, unless that is NULL. */
template <typename C, bool STATS>
static __device__ __forceinline__ void
put_rows(char *shared, float *finals, const float (&o)[2][C::W / 8][4], const float (&max)[2][2],
         const float (&sum)[2][2], const float (&entropy)[2][2], float *lse, int left, int lane, int warp) {
  constexpr int W = C::W, MT = 2;
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int row = warp * MT * 16 + i * 16 + r * 8 + lane / 4;
      float total = quad_sum(sum[i][r]), inverse = 1.0f / total;
      if (lse && lane % 4 == 0 && row < left)
        lse[row] = 0.693147181f * (max[i][r] + log2f(total));
      if (STATS) {
        float mean = quad_sum(entropy[i][r]) / total;
        if (lane % 4 == 0) {
          finals[row] = inverse;
          finals[C::ROWS + row] = 0.693147181f * (log2f(total) - mean);
        }
      }
#pragma unroll
      for (int j = 0; j < W / 8; j++)
        *(uint32_t *)(shared + swizzled<W>(row, j) + lane % 4 * 4) =
            packed(o[i][j][2 * r] * inverse, o[i][j][2 * r + 1] * inverse);
    }
}

/* One tile of queries of one head (y) of one sample (z). What happens to `o` is the same with and without
 * STATS. out NULL: statistics only. */
template <typename C, bool STATS>
__global__ __launch_bounds__(C::THREADS, C::BLOCKS) void flash(const attention_problem p, bf16 *out,
                                                               const bf16 *q, const bf16 *k, const bf16 *v) {
  constexpr int W = C::W, MT = 2, STEP = C::STEP, NT = STEP / 8, SLICES = W / 16;
  constexpr int PITCH = ATTENTION_PITCH(C::ROWS);
  extern __shared__ __align__(1024) char shared[];
  const uint32_t stages = (uint32_t)__cvta_generic_to_shared(shared);
  const uint32_t queries = stages + (C::STAGES - C::HELD) * C::STAGE_BYTES;
  const int first = (int)blockIdx.x * C::ROWS, tiles = (p.M + C::TILE - 1) / C::TILE;
  const int sample = p.sample + (int)blockIdx.z;

  /* Tile t and its values, into the stage that is its. */
  auto copy_keys = [&](int t) {
    uint32_t to = stages + t % C::STAGES * C::STAGE_BYTES;
    int2 block = block_anew();
    int64_t at_key = (p.sample + block.y) * p.key_sample + block.x * p.P;
    int64_t at_value = (p.sample + block.y) * p.value_sample + block.x * p.value_head;
    copy_tile<W, C::TILE, C::THREADS>(to, k, at_key, t * C::TILE, p.M, p.D, p.P);
    copy_tile<W, C::TILE, C::THREADS>(to + C::TILE_BYTES, v, at_value, t * C::TILE, p.M, p.value_row, p.P);
  };
  copy_tile<W, C::ROWS, C::THREADS>(queries, q, (int64_t)sample * p.S * p.D + blockIdx.y * p.P, first, p.S,
                                    p.D, p.P);
  copies_commit();
#pragma unroll
  for (int t = 0; t < C::STAGES - 1; t++) {
    copy_keys(t);
    copies_commit();
  }

  /* Where this lane reads matrices: low address bits pick the chunk, so that slice i lies at `^ i << 5`. */
  const int at_lane = (int)threadIdx.x % 32;
  const uint32_t a_lane =
      queries + threadIdx.x / 32 * MT * 16 * W * 2 + swizzled<W>(at_lane % 16, at_lane / 16);
  const uint32_t k_lane = stages + swizzled<W>(at_lane / 16 * 8 + at_lane % 8, at_lane / 8 % 2);
  const uint32_t v_lane = stages + C::TILE_BYTES + swizzled<W>(at_lane % 16, at_lane / 16);
  uint32_t a[SLICES][MT][4];
  auto read_queries = [&](int x) {
#pragma unroll
    for (int i = 0; i < MT; i++)
      load_matrices(a[x][i], (a_lane ^ x << 5) + i * 16 * W * 2);
  };
  copies_wait<C::STAGES - 1>();
  __syncthreads();
#pragma unroll
  for (int x = 0; C::HELD && x < SLICES; x++)
    read_queries(x);

  float o[MT][W / 8][4] = {}, max[MT][2], sum[MT][2] = {};
  float entropy[MT][2] = {}; /* STATS: sum p x */
#pragma unroll
  for (int i = 0; i < MT; i++)
    max[i][0] = max[i][1] = LOWEST;
  int frame = 0, frame_end = p.keys;
  float *rows = (float *)(shared + C::BYTES); /* [Tk, PITCH] */
  if (STATS && p.rows)
    rows = p.rows + (((int64_t)blockIdx.z * p.heads + blockIdx.y) * p.tiles + blockIdx.x) * p.Tk * PITCH;

  for (int t = 0; t < tiles; t++) {
    copies_wait<C::STAGES - 2>();
    __syncthreads(); /* tile t is here, and tile t-1 is no longer read */
    if (t + C::STAGES - 1 < tiles)
      copy_keys(t + C::STAGES - 1);
    copies_commit();
#pragma unroll
    for (int step = 0; step < C::TILE; step += STEP) {
      const int key = t * C::TILE + step;
      const uint32_t at = t % C::STAGES * C::STAGE_BYTES + step * W * 2;
      if (step > 0 && key >= p.M)
        break;

      /* s = q k' */
      float s[NT][MT][4] = {};
#pragma unroll
      for (int x = 0; x < SLICES; x++) {
        if (!C::HELD)
          read_queries(x);
#pragma unroll
        for (int j = 0; j < NT; j += 2) {
          uint32_t b[4];
          load_matrices(b, ((k_lane + at) ^ x << 5) + j * 8 * W * 2);
#pragma unroll
          for (int i = 0; i < MT; i++) {
            mma(s[j][i], a[x][i], b[0], b[1]);
            mma(s[j + 1][i], a[x][i], b[2], b[3]);
          }
        }
      }
      if (key + STEP >= p.M) { /* the last key is here: it may count several times; none is after it */
        mask_past(s, p, key);
      }

      /* The maximum so far, moved where a score is far above it. */
      float best[MT][2];
      if (__any_sync(FULL, far_above(best, s, max, p.scale))) {
        float shrink[MT][2];
        move_maxima<STATS, W>(o, max, sum, entropy, shrink, best, p.scale);
        if (STATS)
          shrink_frames<PITCH>(rows, frame, shrink);
      }

      /* 32 keys between the branches that frames make: the compiler would leave all sums for last, and have
       * no registers until then. */
#pragma unroll
      for (int x = 0; x < STEP / 16; x += 2) {
        exponentiate<STATS>(s, sum, entropy, max, p.scale, x);
        exponentiate<STATS>(s, sum, entropy, max, p.scale, x + 1);
        if (STATS)
#pragma unroll 1
          for (; frame < p.Tk && frame_end <= key + x * 16 + 32; frame++, frame_end += p.keys)
            end_frame(rows + frame * PITCH, sum, s, 2 * x, frame_end - key - x * 16);
        add_values<W>(o, s, v_lane + at, x);
        add_values<W>(o, s, v_lane + at, x + 1);
      }
    }
  }

  copies_wait<0>();
  __syncthreads(); /* the stages are free: the output passes through them, to be written in whole lines */
  const int thread = thread_anew(), lane = thread % 32, warp = thread / 32;
  float *finals = (float *)(shared + C::ROWS * W * 2); /* inverse, entropy [ROWS] */
  float *lse = p.lse ? p.lse + ((int64_t)sample * p.heads + blockIdx.y) * p.S + first : NULL;
  put_rows<C, STATS>(shared, finals, o, max, sum, entropy, lse, p.S - first, lane, warp);
  __syncwarp();
  bf16 *to = out + ((int64_t)sample * p.S + first) * p.D + blockIdx.y * p.P;
  for (int i = lane; out && i < MT * 16 * (W / 8); i += 32) {
    int row = warp * MT * 16 + i / (W / 8), chunk = i % (W / 8);
    if (first + row < p.S && chunk * 8 < p.P)
      *(uint4 *)(to + (int64_t)row * p.D + chunk * 8) = *(uint4 *)(shared + swizzled<W>(row, chunk));
  }
  if (STATS) {
    __syncthreads();
    attention_part<C::ROWS>(p, (int64_t)sample * p.heads + blockIdx.y, (int)blockIdx.x, rows, finals,
                            finals + C::ROWS);
  }
}

/* ---- launchers --------------------------------------------------------------------------------------- */

typedef cut<128, 4, 64, 64, 2, false, 2> cut_128;
typedef cut<128, 4, 32, 32, 2, false, 2> cut_128_small; /* where two of those find no shared memory */
typedef cut<64, 4, 64, 64, 2, true, 2> cut_64;
#define FLASH_TILE 128 /* queries of a block of each */
#define ROWS_SHARED 32 /* key frames whose rows are kept in shared memory */
/* Bytes of rows elsewhere: samples go in several launches rather than pass it. */
#define ROWS_LIMIT (64 << 20)

static bool on_tensor_cores(ebb_dtype dtype, int P) {
  return dtype == EBB_BF16 && P % 8 == 0 && P <= 128;
}

/* A call: its shapes, how many samples go in one launch, and the bytes of flags, parts and rows. */
typedef struct attention_plan {
  attention_problem p;
  int samples;
  size_t flags, parts, rows;
} attention_plan;

static attention_plan plan_of(ebb_context *c, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                              int heads) {
  const size_t limit = (size_t)cuda_of(c)->limits.map_bytes, most = limit > 0 ? limit : ROWS_LIMIT;
  attention_plan plan = {};
  attention_problem &p = plan.p;
  int64_t B = q.shape[0];
  plan.samples = (int)B;
  p.S = (int)q.shape[1], p.M = (int)k.shape[1], p.D = (int)q.shape[2], p.heads = heads, p.P = p.D / heads;
  p.key_sample = p.value_sample = k.shape[0] == 1 ? 0 : (int64_t)p.M * p.D;
  p.value_row = p.D, p.value_head = p.P;
  p.scale = 1.44269504f / sqrtf((float)p.P);
  if (ebb_present(stats.mass))
    p.Tq = (int)stats.mass.shape[2], p.Tk = (int)stats.mass.shape[3];
  else if (ebb_present(stats.lag))
    p.Tq = p.Tk = (int)(stats.lag.shape[2] + 1) / 2;
  else
    p.Tq = (int)stats.entropy.shape[2];
  const bool tensor_cores = on_tensor_cores(q.dtype, p.P),
             hopper = attention_sm90_takes(c, q.dtype, p.P, p.M, p.Tk);
  if (attention_sm90_takes(c, q.dtype, p.P, p.M, 0))
    plan.flags = cuda_round_up(attention_sm90_flags(p.S, heads, B));
  p.tile = hopper ? ATTENTION_SM90_TILE : tensor_cores ? FLASH_TILE : ATTENTION_GENERAL_TILE;
  p.tiles = (int)cuda_ceil(p.S, p.tile);
  if (p.Tq == 0)
    return plan;
  p.queries = p.S / p.Tq, p.keys = p.Tk > 0 ? p.M / p.Tk : 0;
  p.span = p.queries % p.tile == 0 ? 1 : (p.tile - 1) / p.queries + 2;
  plan.parts = cuda_round_up((size_t)(B * heads * p.tiles * p.span * (p.Tk + 1)) * sizeof(float));
  if (p.Tk > 0 && !hopper && !(tensor_cores && p.Tk <= ROWS_SHARED)) {
    size_t one =
        (size_t)heads * (size_t)p.tiles * (size_t)p.Tk * (size_t)ATTENTION_PITCH(p.tile) * sizeof(float);
    plan.samples = one < most ? (int)(most / one) : 1;
    plan.samples = plan.samples < B ? plan.samples : (int)B;
    plan.rows = one * (size_t)plan.samples;
  }
  return plan;
}

size_t cuda_attention_scratch(ebb_context *c, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                              int heads) {
  attention_plan plan = plan_of(c, stats, q, k, heads);
  size_t frames = plan.parts + plan.rows, spatial = attention_spatial_scratch(c, &plan.p, stats, q);
  return plan.flags + (frames > spatial ? frames : spatial);
}

/* Whether two blocks of cut_128 find room in a multiprocessor's shared memory, with statistics too. */
static bool much_shared(ebb_context *c) {
  cuda_state *s = cuda_of(c);
  if (s->shared_bytes == 0)
    cuda_ok(c, "attention",
            cudaDeviceGetAttribute(&s->shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, s->device));
  return s->shared_bytes >= 228 << 10;
}

template <typename C, bool STATS>
static void launch_flash(ebb_context *c, const attention_problem *p, bf16 *out, const bf16 *q, const bf16 *k,
                         const bf16 *v, int samples) {
  size_t bytes = C::BYTES;
  if (STATS && !p->rows)
    bytes += (size_t)p->Tk * ATTENTION_PITCH(C::ROWS) * sizeof(float);
  static_assert(C::ROWS == FLASH_TILE, "the tile that the scratch memory is for");
  if (!cuda_shared(c, "attention", flash<C, STATS>, bytes))
    return;
  dim3 grid((unsigned)p->tiles, (unsigned)p->heads, (unsigned)samples);
  flash<C, STATS><<<grid, C::THREADS, bytes, cuda_stream(c)>>>(*p, out, q, k, v);
  cuda_launched(c, "attention");
}

template <typename C>
static void launch_flash(ebb_context *c, const attention_problem *p, bf16 *out, const bf16 *q, const bf16 *k,
                         const bf16 *v, int samples) {
  (p->Tq > 0 ? launch_flash<C, true> : launch_flash<C, false>)(c, p, out, q, k, v, samples);
}

void attention_launch(ebb_context *c, const attention_problem *p, ebb_dtype dtype, void *out, const void *q,
                      const void *k, const void *v, int samples) {
  if (!on_tensor_cores(dtype, p->P)) {
    attention_general(c, p, dtype, out, q, k, v, samples);
    return;
  }
  if (attention_sm90_takes(c, dtype, p->P, p->M, p->Tk)) {
    attention_sm90(c, p, (bf16 *)out, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, samples);
    return;
  }
  /* Output and lse come from the kernel that they come from without statistics; those are left for flash. */
  attention_problem left = *p;
  bool done = attention_short(c, p, (bf16 *)out, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, samples);
  if (!done && attention_sm90_takes(c, dtype, p->P, p->M, 0)) {
    left.Tq = left.Tk = 0;
    attention_sm90(c, &left, (bf16 *)out, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, samples);
    left.Tq = p->Tq, left.Tk = p->Tk, done = true;
  }
  if (done && p->Tq == 0)
    return;
  if (done)
    out = NULL, left.lse = NULL;
  auto attend = p->P <= 64       ? launch_flash<cut_64>
                : much_shared(c) ? launch_flash<cut_128>
                                 : launch_flash<cut_128_small>;
  attend(c, &left, (bf16 *)out, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, samples);
}

void cuda_attention(ebb_context *c, ebb_tensor out, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                    ebb_tensor v, int heads, int64_t repeats, void *scratch) {
  attention_plan plan = plan_of(c, stats, q, k, heads);
  attention_problem &p = plan.p;
  p.extra = repeats > 1 ? log2f((float)repeats) / p.scale : 0.0f;
  p.lse = cuda_f32(stats.lse);
  p.flags = (uint32_t *)scratch;
  scratch = (char *)scratch + plan.flags;
  p.parts = (float *)scratch;
  p.rows = plan.rows ? (float *)((char *)scratch + plan.parts) : NULL;
  CUDA_FOR_PIECES((int)q.shape[0], plan.samples, first, count) {
    p.sample = (int)first;
    attention_launch(c, &p, q.dtype, out.data, q.data, k.data, v.data, (int)count);
  }
  if (p.Tq > 0)
    attention_finish(c, &p, stats, q.shape[0]);
  if (ebb_present(stats.rows)) /* in the same memory: the parts have been read */
    attention_spatial(c, &p, stats, q, k, scratch);
}
