/* What attention.cu (tensor cores), attention_sm90.cu (Hopper's), attention_short.cu (few keys),
 * attention_general.cu (any width, float32) and attention_stats.cu (what is left to do for statistics)
 * share: the shapes of a call, and how the rows of a query tile become statistics. */
#ifndef EBB_KERNELS_CUDA_ATTENTION_CUH
#define EBB_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/cuda.h"

/* Scores are kept as dot products; x = scale * dot - max is the exponent of 2. Statistics: a query tile
 * touches at most `span` query frames; its part is, for each of them, Tk sums of probability and one sum of
 * entropy. Until a row's whole sum is known, a tile keeps for each of its rows and each key frame the sum of
 * exponentials up to the frame's end: `rows`, in shared memory where that fits, otherwise here. */
typedef struct attention_problem {
  int S, M, D, P, heads;
  int sample;                /* the first of this launch */
  int64_t key_sample;        /* numbers from one sample's keys to the next: M * D, or 0 when all share them */
  int64_t value_sample;      /* and to the next sample's values, the next key's, the next head's: */
  int value_row, value_head; /* key_sample, D, P, unless samples and heads share them */
  float scale;               /* log2(e) / sqrt(P) */
  float extra;               /* what the last key's dot product gains so that it counts `repeats` times */
  int Tq, Tk;                /* 0: that statistic is not wanted */
  int queries, keys;         /* tokens of a query frame and of a key frame */
  int tile, tiles, span;     /* queries of a tile; how many tiles */
  float *parts;              /* [B*N, tiles, span, Tk + 1] */
  float *rows;               /* [samples of a launch * N, tiles, Tk, pitch]; NULL: in shared memory */
  float *lse;                /* [B*N, S], in nats; NULL: not wanted */
  uint32_t *flags;           /* attention_sm90.cu's own, attention_sm90_flags bytes of them */
} attention_problem;

/* Floats from one frame of `rows` to the next: the sums of many frames are read side by side, each from its
 * own bank. */
#define ATTENTION_PITCH(tile) ((tile) + 1)

/* The part of one tile of one sample and head (`group`), all threads of the block together. rows [Tk, pitch],
 * and of each row the inverse of its sum, and its entropy, [TILE]. */
template <int TILE>
static __device__ void attention_part(const attention_problem &p, int64_t group, int tile, const float *rows,
                                      const float *inverse, const float *entropy) {
  int width = p.Tk + 1, first = tile * TILE, first_frame = first / p.queries;
  float *part = p.parts + (group * p.tiles + tile) * p.span * width;
  for (int i = (int)threadIdx.x; i < p.span * width; i += (int)blockDim.x) {
    int64_t begin = (int64_t)(first_frame + i / width) * p.queries - first; /* of the frame, in the tile */
    int key = i % width, end = (int)min(begin + p.queries, (int64_t)min(TILE, p.S - first));
    const float *upto = rows + key * ATTENTION_PITCH(TILE), *before = upto - ATTENTION_PITCH(TILE);
    float sum = 0.0f;
#pragma unroll 4
    for (int r = (int)max(begin, (int64_t)0); r < end; r++)
      sum += key == p.Tk ? entropy[r] : fmaxf(upto[r] - (key > 0 ? before[r] : 0.0f), 0.0f) * inverse[r];
    part[i] = sum;
  }
}

/* attention.cu: samples p->sample on, by the kernel that takes shapes and dtype. */
void attention_launch(ebb_context *c, const attention_problem *p, ebb_dtype dtype, void *out, const void *q,
                      const void *k, const void *v, int samples);

/* attention_stats.cu. Means of the parts, when all B samples are through: mass, entropy, lag. */
void attention_finish(ebb_context *c, const attention_problem *p, ebb_attention_stats stats, int64_t B);
/* Rows and columns, and the bytes of scratch that they want; p as for output and parts. */
size_t attention_spatial_scratch(ebb_context *c, const attention_problem *p, ebb_attention_stats stats,
                                 ebb_tensor q);
void attention_spatial(ebb_context *c, const attention_problem *p, ebb_attention_stats stats, ebb_tensor q,
                       ebb_tensor k, void *scratch);

/* attention_sm90.cu: heads of 64 and 128 in bfloat16 on Hopper, more keys than attention_short takes,
 * statistics of a number of key frames that finds room; with statistics all samples in one launch. Tiles of
 * ATTENTION_SM90_TILE queries. */
#define ATTENTION_SM90_TILE 64
bool attention_sm90_takes(ebb_context *c, ebb_dtype dtype, int P, int M, int Tk);
size_t attention_sm90_flags(int S, int heads, int64_t B);
void attention_sm90(ebb_context *c, const attention_problem *p, bf16 *out, const bf16 *q, const bf16 *k,
                    const bf16 *v, int samples);

/* attention_short.cu: output and lse alone. False: not its kind of problem. */
#define ATTENTION_SHORT_KEYS 32
bool attention_short(ebb_context *c, const attention_problem *p, bf16 *out, const bf16 *q, const bf16 *k,
                     const bf16 *v, int samples);

/* attention_general.cu: float32 or bfloat16, any width. TILE queries per block. */
#define ATTENTION_GENERAL_TILE 64
void attention_general(ebb_context *c, const attention_problem *p, ebb_dtype dtype, void *out, const void *q,
                       const void *k, const void *v, int samples);

#endif
