/* Attention in bfloat16 on Hopper, heads of 64 and 128: what attention.cu's `flash` computes, by TMA and wgmma. A block
 * stays on its multiprocessor and takes one query tile after another; one thread of its last warpgroup copies, the other
 * warpgroups compute, 64 queries each, all on the same keys. Why it is cut this way: attention_sm90.md. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/tensor_cores.cuh"

#include <cudaTypedefs.h>

/* Exponents are relative to the highest score of a row's first tile of keys, and stay so: looking for the maximum of every
 * tile would cost a fifth of the arithmetic that is not products. Sums of exponentials find room for scores up to 2^100
 * times that one. A warpgroup in which some row had higher ones is marked, and done again by a second launch, CAREFUL:
 * there a row's maximum is looked for in every tile, and moves when a score exceeds it by SLACK. */
#define FAR 1.2676506e30f /* 2^100 */
#define SLACK 8.0f
#define ROWS ATTENTION_SM90_TILE /* queries of a warpgroup */
#define KEYS 128                 /* of a tile */
#define SLAB (KEYS * 128)        /* bytes of 64 columns of a tile of keys */
/* Floats from one key frame of a warpgroup's statistics to the next: four neighbouring rows of eight neighbouring frames
 * lie in 32 banks. */
#define PITCH 68

/* The work's cut for heads of P: WGS warpgroups compute; keys and values wait in STAGES places each; a computing thread has
 * UP registers and a copying one DOWN. */
template <int P_, int WGS_, int STAGES_, int UP_, int DOWN_> struct cut {
  static constexpr int P = P_, WGS = WGS_, STAGES = STAGES_, UP = UP_, DOWN = DOWN_;
  static constexpr int THREADS = (WGS + 1) * WARPGROUP, TILE = WGS * ROWS;
  static constexpr int OWN_BYTES = ROWS * P * 2, STAGE_BYTES = KEYS * P * 2;
  /* Shared memory, from an address that is a multiple of 1,024: queries and output of each warpgroup, keys, values,
   * barriers, then of each warpgroup what ends a row [2, ROWS], and masses [Tk + 1, PITCH], the last of them spare. */
  static constexpr int OUT = WGS * OWN_BYTES, KEY = 2 * OUT, VALUE = KEY + STAGES * STAGE_BYTES,
                       BARRIERS = VALUE + STAGES * STAGE_BYTES, ENDS = BARRIERS + 256,
                       MASSES = ENDS + WGS * 2 * ROWS * 4;
  static constexpr int bytes(int Tk) {
    return 1024 + MASSES + WGS * (Tk + 1) * PITCH * 4;
  }
};
typedef cut<128, 2, 2, 240, 24> cut_128;
typedef cut<64, 3, 4, 160, 32> cut_64;

/* What a kernel keeps for mass: nothing; frames of keys that end with a tile; that end with a half of one, at most one in
 * its middle; any. */
enum { NO_STATISTICS, WHOLE_TILES, HALF_TILES, ANY_FRAMES };

struct maps {
  CUtensorMap q, k, v, out; /* [B, chunks of 64 columns, rows, 64] */
};

#ifdef HOPPER

/* Barriers of a block, by number. */
template <typename C> struct bars {
  uint32_t at;
  __device__ uint32_t queries_full(int wg) const {
    return at + 8 * wg;
  }
  __device__ uint32_t queries_empty(int wg) const {
    return at + 8 * (C::WGS + wg);
  }
  __device__ uint32_t keys_full(int i) const {
    return at + 8 * (2 * C::WGS + i);
  }
  __device__ uint32_t keys_empty(int i) const {
    return at + 8 * (2 * C::WGS + C::STAGES + i);
  }
  __device__ uint32_t values_full(int i) const {
    return at + 8 * (2 * C::WGS + 2 * C::STAGES + i);
  }
  __device__ uint32_t values_empty(int i) const {
    return at + 8 * (2 * C::WGS + 3 * C::STAGES + i);
  }
};

/* Which place a tile of keys has, counted over all that a block works on. */
template <int STAGES> struct place {
  int index = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next(void) {
    if (++index == STAGES) {
      index = 0;
      parity ^= 1;
    }
  }
};

/* Work w or the next one of this block: when CAREFUL, only what the first run marked. */
template <int WGS, bool CAREFUL>
static __device__ __forceinline__ int work_from(int w, int work, const uint32_t *flags) {
  for (; CAREFUL && w < work; w += gridDim.x) {
    uint32_t marked = 0;
    for (int i = 0; i < WGS; i++)
      marked |= flags[w * WGS + i];
    if (marked)
      break;
  }
  return w;
}

/* ---- the copying thread ------------------------------------------------------------------------------ */

template <typename C, bool CAREFUL>
static __device__ __forceinline__ void copy_tiles(const attention_problem &p, const maps &m, uint32_t shared,
                                                  const bars<C> bar, int work, int tiles,
                                                  const uint32_t *flags) {
  constexpr int CHUNKS = C::P / 64;
  const int key_tiles = (p.M + KEYS - 1) / KEYS;
  place<C::STAGES> at;
  uint32_t queries = 0;
  for (int w = work_from<C::WGS, CAREFUL>(blockIdx.x, work, flags); w < work;
       w = work_from<C::WGS, CAREFUL>(w + gridDim.x, work, flags), queries ^= 1) {
    const int group = w / tiles, head = group % p.heads, sample = group / p.heads;
    const int first = w % tiles * C::TILE, key_sample = p.key_sample ? sample : 0;
    const int value_sample = p.value_sample ? sample : 0, value_chunk = p.value_head ? head * CHUNKS : 0;
    for (int t = 0; t < key_tiles; t++, at.next()) {
      barrier_wait(bar.keys_empty(at.index), at.parity ^ 1);
      barrier_expect(bar.keys_full(at.index), C::STAGE_BYTES);
      copy_box_in(shared + C::KEY + at.index * C::STAGE_BYTES, &m.k, bar.keys_full(at.index), 0, t * KEYS,
                  head * CHUNKS, key_sample);
      if (t == 0)
        for (int wg = 0; wg < C::WGS; wg++) {
          barrier_wait(bar.queries_empty(wg), queries ^ 1);
          barrier_expect(bar.queries_full(wg), C::OWN_BYTES);
          copy_box_in(shared + wg * C::OWN_BYTES, &m.q, bar.queries_full(wg), 0, first + wg * ROWS,
                      head * CHUNKS, sample);
        }
      barrier_wait(bar.values_empty(at.index), at.parity ^ 1);
      barrier_expect(bar.values_full(at.index), C::STAGE_BYTES);
      copy_box_in(shared + C::VALUE + at.index * C::STAGE_BYTES, &m.v, bar.values_full(at.index), 0, t * KEYS,
                  value_chunk, value_sample);
    }
  }
}

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

/* What a thread knows of its two rows, r = 0, 1: the maximum, and over its own columns so far the sums of p = 2^x, of the
 * frame at hand alone, and of p x. x is the score less the maximum. */
struct rows {
  float max[2], sum[2], mass[2], entropy[2];
};

/* The last tile, from key `key` on: columns past the last key get scores so low that nothing is left of them; the last one
 * counts several times. */
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

/* ---- frames of keys ---------------------------------------------------------------------------------- */

/* A mass of each row on its way into shared memory, as a logarithm of 2, so that no later move of a maximum touches it.
 * Three steps, each with the last one's delay behind it, between two moves of the maxima. */
struct publication {
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
static __device__ __forceinline__ void publish(const float (&mass)[2], const rows &row, uint32_t where) {
  publication now;
  now.start(mass, where), now.go_on(), now.finish(row);
}

/* Where the keys are among their frames: the one at hand, and the key after its last; where this thread's row has its mass
 * of that frame, and of the one that `ended` in the middle of the tile before (`spare` when none did). */
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
      publish(row.mass, row, f.to);
      row.mass[0] = row.mass[1] = 0.0f;
      next_frame(f, p);
    }
  }
}

/* ---- a computing warpgroup --------------------------------------------------------------------------- */

/* s = q k' of one tile; asked for, not waited for. */
template <int P> static __device__ __forceinline__ void ask_scores(float (&s)[64], uint64_t q, uint64_t k) {
#pragma unroll
  for (int x = 0; x < P / 16; x++)
    product(s, advanced(q, x / 4 * (ROWS * 128) + x % 4 * 32), advanced(k, x / 4 * SLAB + x % 4 * 32), x > 0);
  products_commit();
}
/* o (+)= p v */
template <int N>
static __device__ __forceinline__ void ask_values(float (&o)[N], const uint32_t (&p)[32], uint64_t v,
                                                  bool add) {
#pragma unroll
  for (int x = 0; x < KEYS / 16; x++)
    product(o, p + 4 * x, advanced(v, x * 2048), add || x > 0);
  products_commit();
}

/* Moves the maxima where a score is far above them. True: one of this warp's moved, and the output is to be shrunk. */
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

/* The warpgroup's rows of the output, through shared memory at `staging`, into the tensor. */
template <typename C>
static __device__ __forceinline__ void put_rows(const float (&o)[C::P / 2], const float (&inverse)[2],
                                                uint32_t staging, int wg, const CUtensorMap *out, int first,
                                                int chunk, int sample) {
  const int thread = threadIdx.x % WARPGROUP, lane = thread % 32;
  if (thread == 0)
    copies_out_read(); /* of the tile before */
  named_sync(C::WGS + 1 + wg, WARPGROUP);
  const int row = thread / 32 * 16 + lane / 8 % 2 * 8 + lane % 8, right = lane / 16;
  const uint32_t to = staging + row * 128;
#pragma unroll
  for (int j = 0; j < C::P / 8; j += 2)
    store_matrices(to + j / 8 * (ROWS * 128) + (((j % 8 + right) ^ (row % 8)) << 4),
                   packed(o[4 * j] * inverse[0], o[4 * j + 1] * inverse[0]),
                   packed(o[4 * j + 2] * inverse[1], o[4 * j + 3] * inverse[1]),
                   packed(o[4 * j + 4] * inverse[0], o[4 * j + 5] * inverse[0]),
                   packed(o[4 * j + 6] * inverse[1], o[4 * j + 7] * inverse[1]));
  fence_async();
  named_sync(C::WGS + 1 + wg, WARPGROUP);
  if (thread == 0)
    copy_box_out(out, staging, 0, first, chunk, sample);
}

/* The part of a warpgroup's rows in the statistics, [span, Tk + 1]: eight threads a number, rows in a fixed order. ends:
 * log2 of each row's sum of e^score, then its entropy. */
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
    const float total = quad_sum(row.sum[r]), log_total = log2_fast(total), whole = row.max[r] + log_total;
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

template <typename C, int STATS, bool CAREFUL>
static __device__ __forceinline__ void compute_tiles(const attention_problem &p, const maps &m, char *memory,
                                                     uint32_t shared, const bars<C> bar, int work, int tiles,
                                                     uint32_t *flags) {
  constexpr int TURN = 1, STAGES = C::STAGES; /* TURN: the first of the barriers that turns are passed by */
  const int wg = __shfl_sync(FULL, (int)threadIdx.x / WARPGROUP, 0), lane = threadIdx.x % 32;
  const int key_tiles = (p.M + KEYS - 1) / KEYS;
  const uint64_t q = operand(shared + wg * C::OWN_BYTES, 16);
  const uint64_t k = operand(shared + C::KEY, 16), v = operand(shared + C::VALUE, SLAB);

  auto full = [&](uint32_t b, int i) { barrier_wait(b, (uint32_t)i & 1); };
  auto release = [&](uint32_t b) {
    if (lane == 0)
      barrier_arrive(b);
  };
  /* Warpgroups ask for their products in turn, so that one's exponentials run beside the others' products. */
  auto my_turn = [&] { named_sync(TURN + wg, 2 * WARPGROUP); };
  auto pass_turn = [&] {
    int own = anew(wg);
    named_arrive(TURN + (own + 1 == C::WGS ? 0 : own + 1), 2 * WARPGROUP);
  };

  float s[64], o[C::P / 2], shrink[2];
  uint32_t probabilities[32];
  int at = 0, queries = 0; /* tiles of keys and of queries so far */
  if (wg == C::WGS - 1)
    pass_turn();
  full(bar.queries_full(wg), 0);
  full(bar.keys_full(0), 0);
  my_turn();
  pin(s);
  products_fence();
  ask_scores<C::P>(s, q, k);
  pass_turn();
  products_wait<0>(s);
  release(bar.keys_empty(0));
  if (key_tiles == 1)
    release(bar.queries_empty(wg));

  int w = work_from<C::WGS, CAREFUL>(blockIdx.x, work, flags), t = 0;
  auto own_masses = [&] { return shared + C::MASSES + (anew(wg) * (p.Tk + 1) * PITCH + own_row()) * 4; };
  rows row = {{LOWEST, LOWEST}};
  frames f = first_frame(p, own_masses());
#pragma unroll 1
  for (;; at++) {
    /* Scores of tile t of keys are in s and become probabilities, while values of the tile before are being added to o. */
    const int key = t * KEYS;
    float low[2], high[2];
    if (__builtin_expect(key + KEYS >= p.M, 0))
      mask_past(s, p, key);
    bool moved = false;
    if (CAREFUL || __builtin_expect(t == 0, 0))
      moved = find_maxima<STATS>(s, row, shrink, p);
    if (CAREFUL && STATS == HALF_TILES && moved) {
      f.ended[0] *= shrink[0];
      f.ended[1] *= shrink[1];
    }
    publication mass, ended;
    if (STATS == WHOLE_TILES || STATS == HALF_TILES) {
      mass.start(row.mass, f.to); /* so far of the frame at hand: what is written last is complete */
      if (f.end == key) {
        row.mass[0] = row.mass[1] = 0.0f;
        next_frame(f, p);
      }
    }
    if (STATS == HALF_TILES) {
      ended.start(f.ended, f.ended_to);
      f.ended_to = f.spare;
    }
    exponentiate<STATS, 0>(s, low, row, p.scale);
    if (STATS == WHOLE_TILES || STATS == HALF_TILES)
      mass.go_on();
    if (STATS == HALF_TILES)
      ended.go_on();
    products_wait<0>(o);
    if (t > 0) {
      release(bar.values_empty((at - 1) % STAGES));
      if (CAREFUL && moved)
#pragma unroll
        for (int i = 0; i < C::P / 2; i++)
          o[i] *= shrink[i / 2 % 2];
    }
    pack<0>(probabilities, s);
    exponentiate<STATS, 64>(s, high, row, p.scale);
    row.sum[0] += low[0] + high[0];
    row.sum[1] += low[1] + high[1];
    pack<64>(probabilities, s);
    if (STATS == WHOLE_TILES || STATS == HALF_TILES)
      mass.finish(row);
    if (STATS == HALF_TILES)
      ended.finish(row);
    if (STATS)
      add_tile<STATS>(f, row, s, low, high, p, key);

    /* The next scores, which may be those of the next queries, and this tile's values. */
    const bool last = t + 1 == key_tiles;
    const int next_work = last ? work_from<C::WGS, CAREFUL>(w + gridDim.x, work, flags) : w;
    const bool another = next_work < work;
    const uint64_t values = advanced(v, at % STAGES * C::STAGE_BYTES);
    if (!last || another) {
      const int next = at + 1;
      if (last)
        full(bar.queries_full(wg), ++queries);
      barrier_wait_both(bar.keys_full(next % STAGES), (uint32_t)(next / STAGES) & 1,
                        bar.values_full(at % STAGES), (uint32_t)(at / STAGES) & 1);
      my_turn();
      pin(s), pin(o), pin(probabilities);
      products_fence();
      ask_scores<C::P>(s, q, advanced(k, next % STAGES * C::STAGE_BYTES));
      ask_values(o, probabilities, values, t > 0);
      pass_turn();
      products_wait<1>(s);
      release(bar.keys_empty(next % STAGES));
      if (t + 2 == key_tiles || key_tiles == 1) /* those were the last scores of their queries */
        release(bar.queries_empty(wg));
    } else {
      full(bar.values_full(at % STAGES), at / STAGES);
      pin(o), pin(probabilities);
      products_fence();
      ask_values(o, probabilities, values, t > 0);
    }
    t++;
    if (__builtin_expect(!last, 1))
      continue;

    /* All keys have been seen. */
    products_wait<0>(o);
    release(bar.values_empty(at % STAGES));
    const int group = w / tiles, first = w % tiles * C::TILE + wg * ROWS;
    float inverse[2];
    if (STATS) {
      publish(row.mass, row, f.to);
      if (STATS == HALF_TILES)
        publish(f.ended, row, f.ended_to);
    }
    if (!CAREFUL) { /* did a score rise too far above the first tile's? */
      const bool far = !(row.sum[0] < FAR && row.sum[1] < FAR), any = __any_sync(FULL, far);
      if (lane == 0)
        ((uint8_t *)flags)[(w * C::WGS + wg) * 4 + (int)threadIdx.x % WARPGROUP / 32] = any;
    }
    float *ends = (float *)(memory + C::ENDS) + anew(wg) * 2 * ROWS;
    end_rows<STATS>(row, inverse, ends, own_row(), p.lse ? p.lse + (int64_t)group * p.S + first : NULL,
                    p.S - first);
    put_rows<C>(o, inverse, shared + C::OUT + wg * C::OWN_BYTES, wg, &m.out, first,
                group % p.heads * (C::P / 64), group / p.heads);
    if (STATS) {
      if (first < p.S)
        put_part(p, group, first / ROWS, (float *)(memory + C::MASSES) + anew(wg) * (p.Tk + 1) * PITCH, ends);
      named_sync(C::WGS + 1 + wg, WARPGROUP); /* all have read before the next masses are written */
    }
    if (!another)
      break;
    w = next_work;
    t = 0;
    row = {{LOWEST, LOWEST}};
    f = first_frame(p, own_masses());
  }
  if (threadIdx.x % WARPGROUP == 0)
    asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory");
}

#endif

template <typename C, int STATS, bool CAREFUL>
__global__ __launch_bounds__(C::THREADS, 1) void flash_sm90(const attention_problem p,
                                                            const __grid_constant__ maps m, int work,
                                                            int tiles, uint32_t *flags) {
#ifdef HOPPER
  if (CAREFUL) {
    bool any = false;
    for (int64_t i = blockIdx.x + (int64_t)threadIdx.x * gridDim.x; i < (int64_t)work * C::WGS;
         i += (int64_t)gridDim.x * C::THREADS)
      any |= flags[i] != 0;
    if (!__syncthreads_or(any))
      return;
  }
  extern __shared__ char unaligned[];
  const uint32_t pad = -shared_address(unaligned) & 1023, shared = shared_address(unaligned) + pad;
  char *memory = unaligned + pad;
  const bars<C> bar = {shared + C::BARRIERS};
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::WGS; i++) {
      barrier_init(bar.queries_full(i), 1);
      barrier_init(bar.queries_empty(i), 4);
    }
    for (int i = 0; i < C::STAGES; i++) {
      barrier_init(bar.keys_full(i), 1);
      barrier_init(bar.values_full(i), 1);
      barrier_init(bar.keys_empty(i), C::WGS * 4);
      barrier_init(bar.values_empty(i), C::WGS * 4);
    }
    barrier_inits_done();
    fence_async();
  }
  __syncthreads();
  if (threadIdx.x / WARPGROUP == C::WGS) {
    registers_down<C::DOWN>();
    if (threadIdx.x % WARPGROUP == 0)
      copy_tiles<C, CAREFUL>(p, m, shared, bar, work, tiles, flags);
  } else {
    registers_up<C::UP>();
    compute_tiles<C, STATS, CAREFUL>(p, m, memory, shared, bar, work, tiles, flags);
  }
#endif
}

/* ---- launchers --------------------------------------------------------------------------------------- */

/* cuTensorMapEncodeTiled, which lives in the driver. */
static PFN_cuTensorMapEncodeTiled_v12000 encoder(ebb_context *c) {
  static PFN_cuTensorMapEncodeTiled_v12000 encode;
  if (!encode) {
    void *found = NULL;
    cudaDriverEntryPointQueryResult how;
    if (!cuda_ok(c, "attention",
                 cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                                  &how)))
      return NULL;
    encode = how == cudaDriverEntryPointSuccess ? (PFN_cuTensorMapEncodeTiled_v12000)found : NULL;
  }
  return encode;
}

/* Boxes of `box` rows and `box_chunks` times 64 columns of x: samples, rows and chunks of 64 columns lie `sample`, `row`
 * and 64 numbers apart. */
static bool map_of(PFN_cuTensorMapEncodeTiled_v12000 encode, CUtensorMap *map, const void *x, int64_t samples,
                   int64_t rows, int64_t chunks, int64_t sample, int64_t row, int box, int64_t box_chunks) {
  cuuint64_t shape[4] = {64, (cuuint64_t)rows, (cuuint64_t)chunks, (cuuint64_t)samples};
  cuuint64_t strides[3] = {(cuuint64_t)row * 2, 128, (cuuint64_t)sample * 2};
  cuuint32_t boxes[4] = {64, (cuuint32_t)box, (cuuint32_t)box_chunks, 1}, steps[4] = {1, 1, 1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (void *)x, shape, strides, boxes, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename C, int STATS, bool CAREFUL>
static void launch(ebb_context *c, const attention_problem *p, const maps *m, int samples, uint32_t *flags) {
  const int tiles = (int)cuda_ceil(p->S, C::TILE), work = tiles * p->heads * samples;
  const int bytes = C::bytes(STATS ? p->Tk : 0), blocks = min(work, cuda_of(c)->processors);
  if (!cuda_shared(c, "attention", flash_sm90<C, STATS, CAREFUL>, (size_t)bytes))
    return;
  flash_sm90<C, STATS, CAREFUL>
      <<<(unsigned)blocks, C::THREADS, (size_t)bytes, cuda_stream(c)>>>(*p, *m, work, tiles, flags);
  cuda_launched(c, "attention");
}

template <typename C, int STATS>
static void launch(ebb_context *c, const attention_problem *p, const maps *m, int samples, uint32_t *flags) {
  launch<C, STATS, false>(c, p, m, samples, flags);
  launch<C, STATS, true>(c, p, m, samples, flags);
}

template <typename C>
static void launch(ebb_context *c, const attention_problem *p, const maps *m, int samples, uint32_t *flags) {
  if (p->Tq == 0)
    launch<C, NO_STATISTICS>(c, p, m, samples, flags);
  else if (p->Tk == 0 || p->keys % KEYS == 0)
    launch<C, WHOLE_TILES>(c, p, m, samples, flags);
  else if (p->keys % (KEYS / 2) == 0)
    launch<C, HALF_TILES>(c, p, m, samples, flags);
  else
    launch<C, ANY_FRAMES>(c, p, m, samples, flags);
}

bool attention_sm90_takes(ebb_context *c, ebb_dtype dtype, int P, int M, int Tk) {
  cuda_state *s = cuda_of(c);
  if (dtype != EBB_BF16 || (P != 64 && P != 128) || M <= ATTENTION_SHORT_KEYS || s->capability != 90)
    return false;
  if ((size_t)(P == 64 ? cut_64::bytes(Tk) : cut_128::bytes(Tk)) > s->shared)
    return false;
  if (s->hopper == 0) { /* built for another target they are there, but empty: a few registers */
    cudaFuncAttributes built;
    s->hopper = cudaFuncGetAttributes(&built, flash_sm90<cut_128, NO_STATISTICS, false>) == cudaSuccess &&
                        built.numRegs > 100
                    ? 1
                    : -1;
  }
  return s->hopper > 0;
}

size_t attention_sm90_flags(int S, int heads, int64_t B) {
  const int64_t most = cuda_ceil(S, ROWS) + 2; /* tiles of three warpgroups, rounded up */
  return (size_t)(most * heads * B) * sizeof(uint32_t);
}

void attention_sm90(ebb_context *c, const attention_problem *p, bf16 *out, const bf16 *q, const bf16 *k,
                    const bf16 *v, int samples) {
  const int64_t chunks = p->P / 64, all = p->heads * chunks, queries = (int64_t)p->S * p->D,
                keys = (int64_t)p->M * p->D;
  PFN_cuTensorMapEncodeTiled_v12000 encode = encoder(c);
  maps m;
  if (!encode || !map_of(encode, &m.q, q, samples, p->S, all, queries, p->D, ROWS, chunks) ||
      !map_of(encode, &m.out, out, samples, p->S, all, queries, p->D, ROWS, chunks) ||
      !map_of(encode, &m.k, k, p->key_sample ? samples : 1, p->M, all, keys, p->D, KEYS, chunks) ||
      !map_of(encode, &m.v, v, p->value_sample ? samples : 1, p->M, p->value_head ? all : chunks,
              (int64_t)p->M * p->value_row, p->value_row, KEYS, chunks)) {
    ebb_context_fail(
        c,
        "attention: the driver describes no tensor of %d samples, %d queries, %d keys, %d heads of %d: "
        "found driver API without cuTensorMapEncodeTiled, or a shape beyond it",
        samples, p->S, p->M, p->heads, p->P);
    return;
  }
  (p->P == 64 ? launch<cut_64> : launch<cut_128>)(c, p, &m, samples, p->flags);
}
