/* Attention in bfloat16 on Hopper, heads of 64 and 128: what attention.cu's `flash` computes, by TMA and
 * wgmma. A block stays on its multiprocessor and takes one query tile after another; one thread of its last
 * warpgroup is the producer, the other warpgroups are consumers, 64 queries each, all on the same keys. Why
 * it is cut this way: attention_sm90.md. */
#include "kernels/cuda/attention_sm90.cuh"

#include <cudaTypedefs.h>

/* The work's cut for heads of P: WGS consumer warpgroups; keys and values have STAGES stages each; a
 * consumer's thread has UP registers, the producer's DOWN. */
template <int P_, int WGS_, int STAGES_, int UP_, int DOWN_> struct cut {
  static constexpr int P = P_, WGS = WGS_, STAGES = STAGES_, UP = UP_, DOWN = DOWN_;
  static constexpr int THREADS = (WGS + 1) * WARPGROUP, TILE = WGS * ROWS;
  static constexpr int OWN_BYTES = ROWS * P * 2, STAGE_BYTES = KEYS * P * 2;
  /* Shared memory, from an address that is a multiple of 1,024: queries and output of each warpgroup, keys,
   * values, barriers, then of each warpgroup what ends a row [2, ROWS], and masses [Tk + 1, PITCH], the last
   * of them spare. */
  static constexpr int OUT = WGS * OWN_BYTES, KEY = 2 * OUT, VALUE = KEY + STAGES * STAGE_BYTES,
                       BARRIERS = VALUE + STAGES * STAGE_BYTES, ENDS = BARRIERS + 256,
                       MASSES = ENDS + WGS * 2 * ROWS * 4;
  static constexpr int bytes(int Tk) {
    return 1024 + MASSES + WGS * (Tk + 1) * PITCH * 4;
  }
};
typedef cut<128, 2, 2, 240, 24> cut_128;
typedef cut<64, 3, 4, 160, 32> cut_64;

/* Where the tensors lie, for the copy engine. */
struct tensor_maps {
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

/* Which stage a tile of keys is in, counted over all that a block works on. */
template <int STAGES> struct stage {
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

/* ---- the producer ------------------------------------------------------------------------------------ */

template <typename C, bool CAREFUL>
static __device__ __forceinline__ void produce(const attention_problem &p, const tensor_maps &m,
                                               uint32_t shared, const bars<C> bar, int work, int tiles,
                                               const uint32_t *flags) {
  constexpr int CHUNKS = C::P / 64;
  const int key_tiles = (p.M + KEYS - 1) / KEYS;
  stage<C::STAGES> at;
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

/* ---- a consumer warpgroup ---------------------------------------------------------------------------- */

/* s = q k' of one tile; issued, not waited for. */
template <int P> static __device__ __forceinline__ void issue_scores(float (&s)[64], uint64_t q, uint64_t k) {
#pragma unroll
  for (int x = 0; x < P / 16; x++)
    product(s, advanced(q, x / 4 * (ROWS * 128) + x % 4 * 32), advanced(k, x / 4 * SLAB + x % 4 * 32), x > 0);
  products_commit();
}
/* o (+)= p v */
template <int N>
static __device__ __forceinline__ void issue_values(float (&o)[N], const uint32_t (&p)[32], uint64_t v,
                                                    bool add) {
#pragma unroll
  for (int x = 0; x < KEYS / 16; x++)
    product(o, p + 4 * x, advanced(v, x * 2048), add || x > 0);
  products_commit();
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

static __device__ __forceinline__ void release(uint32_t barrier) {
  if (threadIdx.x % 32 == 0)
    barrier_arrive(barrier);
}

/* What a thread of a consumer warpgroup has under way: scores of one tile of keys, or their exponentials;
 * those as wgmma takes them; the output so far; its rows and frames. `tile` of these queries' keys, `at` of
 * all that the block has seen. */
template <typename C> struct consumer {
  float s[64], o[C::P / 2], shrink[2];
  uint32_t probabilities[32];
  rows row;
  frames frame;
  int tile, at;
};

/* Scores become probabilities, while values of the tile before are being added to the output. */
template <typename C, int STATS, bool CAREFUL>
static __device__ __forceinline__ void softmax_tile(consumer<C> &x, const attention_problem &p,
                                                    const bars<C> bar) {
  constexpr bool STAGED = STATS == WHOLE_TILES || STATS == HALF_TILES;
  const int key = x.tile * KEYS;
  float low[2], high[2];
  bool moved = false;
  mass_store mass, ended;
  if (__builtin_expect(key + KEYS >= p.M, 0))
    mask_past(x.s, p, key);
  if (CAREFUL || __builtin_expect(x.tile == 0, 0))
    moved = find_maxima<STATS>(x.s, x.row, x.shrink, p);
  if (CAREFUL && STATS == HALF_TILES && moved) {
    x.frame.ended[0] *= x.shrink[0];
    x.frame.ended[1] *= x.shrink[1];
  }
  if (STAGED) {
    mass.start(x.row.mass, x.frame.to); /* so far of the frame at hand: what is written last is complete */
    if (x.frame.end == key) {
      x.row.mass[0] = x.row.mass[1] = 0.0f;
      next_frame(x.frame, p);
    }
  }
  if (STATS == HALF_TILES) {
    ended.start(x.frame.ended, x.frame.ended_to);
    x.frame.ended_to = x.frame.spare;
  }
  exponentiate<STATS, 0>(x.s, low, x.row, p.scale);
  if (STAGED)
    mass.go_on();
  if (STATS == HALF_TILES)
    ended.go_on();
  products_wait<0>(x.o);
  if (x.tile > 0) {
    release(bar.values_empty((x.at - 1) % C::STAGES));
    if (CAREFUL && moved)
#pragma unroll
      for (int i = 0; i < C::P / 2; i++)
        x.o[i] *= x.shrink[i / 2 % 2];
  }
  pack<0>(x.probabilities, x.s);
  exponentiate<STATS, 64>(x.s, high, x.row, p.scale);
  x.row.sum[0] += low[0] + high[0];
  x.row.sum[1] += low[1] + high[1];
  pack<64>(x.probabilities, x.s);
  if (STAGED)
    mass.finish(x.row);
  if (STATS == HALF_TILES)
    ended.finish(x.row);
  if (STATS)
    add_tile<STATS>(x.frame, x.row, x.s, low, high, p, key);
}

/* All keys have been seen: the rows of work w leave the warpgroup. */
template <typename C, int STATS, bool CAREFUL>
static __device__ __forceinline__ void end_queries(consumer<C> &x, const attention_problem &p,
                                                   const tensor_maps &m, char *memory, uint32_t shared,
                                                   int wg, int w, int tiles, uint32_t *flags) {
  const int group = w / tiles, first = w % tiles * C::TILE + wg * ROWS;
  float inverse[2], *ends = (float *)(memory + C::ENDS) + anew(wg) * 2 * ROWS;
  if (STATS)
    store_mass(x.row.mass, x.row, x.frame.to);
  if (STATS == HALF_TILES)
    store_mass(x.frame.ended, x.row, x.frame.ended_to);
  if (!CAREFUL) {
    const bool any = __any_sync(FULL, !(x.row.sum[0] < FAR && x.row.sum[1] < FAR)); /* true of NaN */
    if (threadIdx.x % 32 == 0)
      ((uint8_t *)flags)[(w * C::WGS + wg) * 4 + (int)threadIdx.x % WARPGROUP / 32] = any;
  }
  end_rows<STATS>(x.row, inverse, ends, own_row(), p.lse ? p.lse + (int64_t)group * p.S + first : NULL,
                  p.S - first);
  put_rows<C>(x.o, inverse, shared + C::OUT + wg * C::OWN_BYTES, wg, &m.out, first,
              group % p.heads * (C::P / 64), group / p.heads);
  if (STATS && first < p.S)
    put_part(p, group, first / ROWS, (float *)(memory + C::MASSES) + anew(wg) * (p.Tk + 1) * PITCH, ends);
  if (STATS)
    named_sync(C::WGS + 1 + wg, WARPGROUP); /* all have read before the next masses are written */
}

template <typename C, int STATS, bool CAREFUL>
static __device__ __forceinline__ void consume(const attention_problem &p, const tensor_maps &m, char *memory,
                                               uint32_t shared, const bars<C> bar, int work, int tiles,
                                               uint32_t *flags) {
  constexpr int TURN = 1, STAGES = C::STAGES; /* TURN: the first of the barriers that turns are passed by */
  const int wg = __shfl_sync(FULL, (int)threadIdx.x / WARPGROUP, 0);
  const int key_tiles = (p.M + KEYS - 1) / KEYS;
  const uint64_t q = operand(shared + wg * C::OWN_BYTES, 16);
  const uint64_t k = operand(shared + C::KEY, 16), v = operand(shared + C::VALUE, SLAB);
  auto parity = [](int i) { return (uint32_t)i & 1; };
  /* Warpgroups issue their products in turn, so that one's exponentials run beside the others' products. */
  auto my_turn = [&] { named_sync(TURN + wg, 2 * WARPGROUP); };
  auto pass_turn = [&] {
    int own = anew(wg);
    named_arrive(TURN + (own + 1 == C::WGS ? 0 : own + 1), 2 * WARPGROUP);
  };
  auto own_masses = [&] { return shared + C::MASSES + (anew(wg) * (p.Tk + 1) * PITCH + own_row()) * 4; };

  consumer<C> x;
  int w = work_from<C::WGS, CAREFUL>(blockIdx.x, work, flags),
      queries = 0; /* queries: of all that the block has seen */
  x.tile = x.at = 0;
  if (wg == C::WGS - 1)
    pass_turn();
  barrier_wait(bar.queries_full(wg), 0);
  barrier_wait(bar.keys_full(0), 0);
  my_turn();
  pin(x.s);
  products_fence();
  issue_scores<C::P>(x.s, q, k);
  pass_turn();
  products_wait<0>(x.s);
  release(bar.keys_empty(0));
  if (key_tiles == 1)
    release(bar.queries_empty(wg));
  x.row = {{LOWEST, LOWEST}};
  x.frame = first_frame(p, own_masses());
#pragma unroll 1
  for (;; x.at++) {
    softmax_tile<C, STATS, CAREFUL>(x, p, bar);

    /* The next scores, which may be those of the next queries, and this tile's values. */
    const bool first = x.tile == 0, last = x.tile + 1 == key_tiles;
    const int stage = x.at % STAGES, next = x.at + 1, next_stage = next % STAGES;
    const int next_work = last ? work_from<C::WGS, CAREFUL>(w + gridDim.x, work, flags) : w;
    const uint64_t values = advanced(v, stage * C::STAGE_BYTES);
    if (!last || next_work < work) {
      if (last)
        barrier_wait(bar.queries_full(wg), parity(++queries));
      barrier_wait_both(bar.keys_full(next_stage), parity(next / STAGES), bar.values_full(stage),
                        parity(x.at / STAGES));
      my_turn();
      pin(x.s), pin(x.o), pin(x.probabilities);
      products_fence();
      issue_scores<C::P>(x.s, q, advanced(k, next_stage * C::STAGE_BYTES));
      issue_values(x.o, x.probabilities, values, !first);
      pass_turn();
      products_wait<1>(x.s);
      release(bar.keys_empty(next_stage));
      if (x.tile + 2 == key_tiles || key_tiles == 1) /* those were the last scores of their queries */
        release(bar.queries_empty(wg));
    } else {
      barrier_wait(bar.values_full(stage), parity(x.at / STAGES));
      pin(x.o), pin(x.probabilities);
      products_fence();
      issue_values(x.o, x.probabilities, values, !first);
    }
    x.tile++;
    if (__builtin_expect(!last, 1))
      continue;
    products_wait<0>(x.o);
    release(bar.values_empty(stage));
    end_queries<C, STATS, CAREFUL>(x, p, m, memory, shared, wg, w, tiles, flags);
    if (next_work >= work)
      break;
    w = next_work;
    x.tile = 0;
    x.row = {{LOWEST, LOWEST}};
    x.frame = first_frame(p, own_masses());
  }
  if (threadIdx.x % WARPGROUP == 0)
    copies_out_done();
}

#endif

template <typename C, int STATS, bool CAREFUL>
__global__ __launch_bounds__(C::THREADS, 1) void flash_sm90(const attention_problem p,
                                                            const __grid_constant__ tensor_maps m, int work,
                                                            int tiles, uint32_t *flags) {
#ifdef HOPPER
  if (CAREFUL) { /* nothing to do, almost always: all of this block's marks at once */
    bool any = false;
    for (int64_t w = blockIdx.x + (int64_t)threadIdx.x * gridDim.x; w < work;
         w += (int64_t)gridDim.x * C::THREADS)
      for (int i = 0; i < C::WGS; i++)
        any |= flags[w * C::WGS + i] != 0;
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
      produce<C, CAREFUL>(p, m, shared, bar, work, tiles, flags);
  } else {
    registers_up<C::UP>();
    consume<C, STATS, CAREFUL>(p, m, memory, shared, bar, work, tiles, flags);
  }
#endif
}

/* ---- launchers --------------------------------------------------------------------------------------- */

/* cuTensorMapEncodeTiled, which lives in the driver; NULL: the context has failed. */
static PFN_cuTensorMapEncodeTiled_v12000 encoder(ebb_context *c) {
  static PFN_cuTensorMapEncodeTiled_v12000 encode;
  void *found = NULL;
  cudaDriverEntryPointQueryResult how;
  if (encode)
    return encode;
  if (!cuda_ok(
          c, "attention",
          cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &how)))
    return NULL;
  if (how != cudaDriverEntryPointSuccess)
    ebb_context_fail(
        c, "attention: found a driver without cuTensorMapEncodeTiled, expected one of CUDA 12.0 or newer: "
           "update the NVIDIA driver");
  else
    encode = (PFN_cuTensorMapEncodeTiled_v12000)found;
  return encode;
}

/* Boxes of `box` rows and `box_chunks` times 64 columns of x: samples, rows and chunks of 64 columns lie
 * `sample`, `row` and 64 numbers apart. */
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
static void launch(ebb_context *c, const attention_problem *p, const tensor_maps *m, int samples,
                   uint32_t *flags) {
  const int tiles = (int)cuda_ceil(p->S, C::TILE), work = tiles * p->heads * samples;
  const int bytes = C::bytes(STATS ? p->Tk : 0), blocks = min(work, cuda_of(c)->processors);
  if (!cuda_shared(c, "attention", flash_sm90<C, STATS, CAREFUL>, (size_t)bytes))
    return;
  flash_sm90<C, STATS, CAREFUL>
      <<<(unsigned)blocks, C::THREADS, (size_t)bytes, cuda_stream(c)>>>(*p, *m, work, tiles, flags);
  cuda_launched(c, "attention");
}

template <typename C, int STATS>
static void launch(ebb_context *c, const attention_problem *p, const tensor_maps *m, int samples,
                   uint32_t *flags) {
  launch<C, STATS, false>(c, p, m, samples, flags);
  launch<C, STATS, true>(c, p, m, samples, flags);
}

template <typename C>
static void launch(ebb_context *c, const attention_problem *p, const tensor_maps *m, int samples,
                   uint32_t *flags) {
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
  attention_problem own = *p; /* of the samples of this launch */
  own.sample = 0;
  out += p->sample * queries, q += p->sample * queries;
  k += p->sample * p->key_sample, v += p->sample * p->value_sample;
  if (p->lse)
    own.lse += (int64_t)p->sample * p->heads * p->S;
  PFN_cuTensorMapEncodeTiled_v12000 encode = encoder(c);
  tensor_maps m;
  if (!encode)
    return;
  if (!map_of(encode, &m.q, q, samples, p->S, all, queries, p->D, ROWS, chunks) ||
      !map_of(encode, &m.out, out, samples, p->S, all, queries, p->D, ROWS, chunks) ||
      !map_of(encode, &m.k, k, p->key_sample ? samples : 1, p->M, all, keys, p->D, KEYS, chunks) ||
      !map_of(encode, &m.v, v, p->value_sample ? samples : 1, p->M, p->value_head ? all : chunks,
              (int64_t)p->M * p->value_row, p->value_row, KEYS, chunks)) {
    ebb_context_fail(
        c,
        "attention: the copy engine takes no tensor of %d samples, %d queries, %d keys, %d heads of %d: "
        "expected strides below 2^40 bytes; compute fewer samples at once",
        samples, p->S, p->M, p->heads, p->P);
    return;
  }
  (p->P == 64 ? launch<cut_64> : launch<cut_128>)(c, &own, &m, samples, p->flags);
}
