/* What attention_sm90.cu does with the rows of a tile of scores, 64 queries of a warpgroup by KEYS keys:
 * exponentials, sums and maxima; and what it keeps of the map: mass of frames, entropy. In registers as
 * wgmma leaves them (hopper.cuh): of row r = 0, 1 a thread has the columns 2t + 8j and the next. */
#ifndef EBB_KERNELS_CUDA_ATTENTION_SM90_CUH
#define EBB_KERNELS_CUDA_ATTENTION_SM90_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/tensor_cores.cuh"

/* Exponents are relative to the highest score of a row's first tile of keys, and stay so: looking for the
 * maximum of every tile would cost a fifth of the arithmetic that is not products. Sums of exponentials find
 * room for scores up to 2^100 times that one. A block's queries among which a row had higher ones are
 * marked, and done again by a second launch, CAREFUL: there a row's maximum is looked for in every tile, and
 * moves when a score exceeds it by SLACK. */
#define FAR 1.2676506e30f /* 2^100 */
#define SLACK 8.0f
#define ROWS ATTENTION_SM90_TILE /* queries of a warpgroup */
#define KEYS 128                 /* of a tile */
#define SLAB (KEYS * 128)        /* bytes of 64 columns of a tile of keys */
/* Floats from one key frame of a warpgroup's statistics to the next: four neighbouring rows of eight
 * neighbouring frames lie in 32 banks. */
#define PITCH 68

/* What a kernel keeps for mass: nothing; frames of keys that end with a tile; that end with a half of one,
 * at most one in its middle; any. */
enum { NO_STATISTICS, WHOLE_TILES, HALF_TILES, ANY_FRAMES };

#ifdef HOPPER

/* What follows from x, or from threadIdx.x, is worked out each time: there are no registers to keep it. */
static __device__ __forceinline__ int anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
static __device__ __forceinline__ int thread_anew(void) {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
  return thread;
}

/* The first of this thread's two rows among those of its warpgroup; the other is 8 further. */
static __device__ __forceinline__ int own_row(void) {
  const int thread = thread_anew();
  return thread % WARPGROUP / 32 * 16 + thread % 32 / 4;
}

static __device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/* ---- rows -------------------------------------------------------------------------------------------- */

/* What a thread knows of its two rows, r = 0, 1: the maximum, and over its own columns so far the sums of p
 * = 2^x, of the frame at hand alone, and of p x. x is the score less the maximum. */
struct rows {
  float max[2], sum[2], mass[2], entropy[2];
};

/* The last tile, from key `key` on: columns past the last key get scores so low that nothing is left of
 * them; the last one counts several times. */
static __device__ __forceinline__ void mask_past(float (&s)[64], const attention_problem &p, int key) {
  const int left =
      anew(p.M - key - thread_anew() % 4 * 2); /* or 64 comparisons are made beforehand, and kept */
#pragma unroll
  for (int i = 0; i < 64; i++) {
    int column = i / 4 * 8 + i % 2;
    s[i] = left <= column ? LOWEST : left == column + 1 ? s[i] + p.extra : s[i];
    asm volatile("" : "+f"(s[i])); /* one after the other: all 64 sums at once find no registers */
  }
}

/* s <- 2^(s scale - max), columns FIRST to FIRST + 64; their sums of each row. */
template <int STATS, int FIRST>
static __device__ __forceinline__ void exponentiate(float (&s)[64], float (&sum)[2], rows &row, float scale) {
#pragma unroll
  for (int i = FIRST / 2; i < FIRST / 2 + 32; i++) {
    const int r = i / 2 % 2;
    float x = fmaf(s[i], scale, -row.max[r]);
    float y = exp2_fast(x);
    if (STATS)
      row.entropy[r] = fmaf(y, x, row.entropy[r]);
    sum[r] = i % 32 < 4 && i % 2 == 0 ? y : sum[r] + y;
    s[i] = y;
  }
}

/* Moves the maxima, and what was summed under the old ones; returns by what factor. */
template <int STATS>
static __device__ __forceinline__ void move_maxima(rows &row, float (&shrink)[2], const float (&best)[2],
                                                   float scale) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float high = quad_max(best[r]) * scale, old = row.max[r];
    row.max[r] = high > old + SLACK ? high : old;
    shrink[r] = exp2_fast(old - row.max[r]);
    if (STATS) { /* sum of p 2^-d (x - d), d what the maximum moved by */
      row.entropy[r] = shrink[r] * (row.entropy[r] - (row.max[r] - old) * row.sum[r]);
      row.mass[r] *= shrink[r];
    }
    row.sum[r] *= shrink[r];
  }
}

/* Moves the maxima where a score is far above them. True: one of this warp's moved, and the output is to be
 * shrunk. */
template <int STATS>
static __device__ __forceinline__ bool find_maxima(float (&s)[64], rows &row, float (&shrink)[2],
                                                   const attention_problem &p) {
  float high[4][2], best[2]; /* four chains a row: one would wait for each comparison */
#pragma unroll
  for (int i = 0; i < 64; i++) {
    const int chain = i / 4 % 4, r = i / 2 % 2;
    high[chain][r] = i < 16 && i % 2 == 0 ? s[i] : fmaxf(high[chain][r], s[i]);
  }
#pragma unroll
  for (int r = 0; r < 2; r++)
    best[r] = fmaxf(fmaxf(high[0][r], high[1][r]), fmaxf(high[2][r], high[3][r]));
  bool moved =
      __any_sync(FULL, best[0] * p.scale > row.max[0] + SLACK || best[1] * p.scale > row.max[1] + SLACK);
  if (__builtin_expect(moved, 0))
    move_maxima<STATS>(row, shrink, best, p.scale);
  return moved;
}

/* 64 columns from column FIRST on */
template <int FIRST> static __device__ __forceinline__ void pack(uint32_t (&p)[32], const float (&s)[64]) {
#pragma unroll
  for (int i = FIRST / 4; i < FIRST / 4 + 16; i++)
    p[i] = packed(s[2 * i], s[2 * i + 1]);
}

/* ---- frames of keys ---------------------------------------------------------------------------------- */

/* A mass of each row on its way into shared memory, as a logarithm of 2, so that no later move of a maximum
 * touches it. Three steps, each with the last one's delay behind it, between two moves of the maxima. */
struct mass_store {
  float mass[2], other[2];
  uint32_t to;
  __device__ __forceinline__ void start(const float (&x)[2], uint32_t where) {
    to = where;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      mass[r] = x[r];
      other[r] = __shfl_xor_sync(FULL, x[r], 1);
    }
  }
  __device__ __forceinline__ void go_on(void) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      mass[r] += other[r];
      other[r] = __shfl_xor_sync(FULL, mass[r], 2);
    }
  }
  __device__ __forceinline__ void finish(const rows &row) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float whole = log2_fast(mass[r] + other[r]) + row.max[r];
      if (threadIdx.x % 4 == 0)
        asm volatile("st.shared.f32 [%0], %1;\n" ::"r"(to + r * 32), "f"(whole) : "memory");
    }
  }
};
static __device__ __forceinline__ void store_mass(const float (&mass)[2], const rows &row, uint32_t where) {
  mass_store now;
  now.start(mass, where), now.go_on(), now.finish(row);
}

/* Where the keys are among their frames: the one at hand, and the key after its last; where this thread's
 * row has its mass of that frame, and of the one that `ended` in the middle of the tile before (`spare` when
 * none did). */
struct frames {
  int number, end;
  uint32_t to, ended_to, spare;
  float ended[2];
};

static __device__ __forceinline__ frames first_frame(const attention_problem &p, uint32_t own_masses) {
  const uint32_t spare = own_masses + p.Tk * PITCH * 4;
  return {0, p.Tk > 0 ? p.keys : 0x7fffffff, own_masses, spare, spare};
}
static __device__ __forceinline__ void next_frame(frames &f, const attention_problem &p) {
  f.to += PITCH * 4;
  f.end = ++f.number < p.Tk ? f.end + p.keys : 0x7fffffff;
}

/* The sums `low` and `high` of the tile's two halves go to the frames they belong to. */
template <int STATS>
static __device__ __forceinline__ void add_tile(frames &f, rows &row, const float (&s)[64],
                                                const float (&low)[2], const float (&high)[2],
                                                const attention_problem &p, int key) {
  if (STATS == HALF_TILES && f.end == key + KEYS / 2) {
    f.ended[0] = row.mass[0] + low[0];
    f.ended[1] = row.mass[1] + low[1];
    f.ended_to = f.to;
    row.mass[0] = high[0];
    row.mass[1] = high[1];
    next_frame(f, p);
  } else if (STATS != ANY_FRAMES || __builtin_expect(f.end > key + KEYS, 1)) {
    row.mass[0] += low[0] + high[0];
    row.mass[1] += low[1] + high[1];
  } else { /* column by column */
    for (int begin = 0, end = f.end - key; begin < KEYS; begin = end, end = min(f.end - key, KEYS)) {
#pragma unroll
      for (int i = 0; i < 64; i++) {
        int column = (int)threadIdx.x % 4 * 2 + i / 4 * 8 + i % 2;
        row.mass[i / 2 % 2] += column >= begin && column < end ? s[i] : 0.0f;
      }
      if (f.end - key > KEYS)
        break;
      store_mass(row.mass, row, f.to);
      row.mass[0] = row.mass[1] = 0.0f;
      next_frame(f, p);
    }
  }
}

/* ---- the end of a row ------------------------------------------------------------------------------- */

/* The part of a warpgroup's rows in the statistics, [span, Tk + 1]: eight threads a number, rows in a fixed
 * order. ends: log2 of each row's sum of e^score, then its entropy. */
static __device__ __forceinline__ void put_part(const attention_problem &p, int64_t group, int tile,
                                                const float *masses, const float *ends) {
  constexpr int LANES = 8;
  const int width = p.Tk + 1, first = tile * ROWS, first_frame = first / p.queries;
  const int part_of_rows = threadIdx.x % LANES, count = p.span * width;
  float *part = p.parts + (group * p.tiles + tile) * count;
  for (int i = threadIdx.x % WARPGROUP / LANES; i - (int)threadIdx.x % 32 / LANES < count;
       i += WARPGROUP / LANES) {
    const int key = i % width;
    const int64_t from = (int64_t)(first_frame + i / width) * p.queries - first; /* the frame, in the tile */
    const int begin = (int)max(from, (int64_t)0),
              end = (int)min(from + p.queries, (int64_t)min(ROWS, p.S - first));
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < ROWS / LANES; j++) {
      const int r = j * LANES + part_of_rows;
      const float x = key == p.Tk ? ends[ROWS + r] : exp2_fast(masses[key * PITCH + r] - ends[r]);
      sum += i < count && r >= begin && r < end ? x : 0.0f;
    }
    sum = warp_sum<LANES>(sum); /* all lanes come here equally often */
    if (part_of_rows == 0 && i < count)
      part[i] = sum;
  }
}

/* What ends a row: [ROWS] log2 of its sum of e^score, then [ROWS] its entropy. */
template <int STATS>
static __device__ __forceinline__ void end_rows(const rows &row, float (&inverse)[2], float *ends,
                                                int own_row, float *lse, int left) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    /* log2f, not the fast one: the entropy is a difference that may be small */
    const float total = quad_sum(row.sum[r]), log_total = log2f(total), whole = row.max[r] + log_total;
    const int query = own_row + r * 8;
    inverse[r] = 1.0f / total;
    if (STATS) {
      const float mean = quad_sum(row.entropy[r]) * inverse[r];
      if (threadIdx.x % 4 == 0) {
        ends[query] = whole;
        ends[ROWS + query] = 0.693147181f * (log_total - mean);
      }
    }
    if (lse && threadIdx.x % 4 == 0 && query < left)
      lse[query] = 0.693147181f * whole;
  }
}

#endif

#endif
