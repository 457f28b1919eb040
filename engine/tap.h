/* Taps: what a forward lets out on the way. The plan (steps x blocks x points x poolings) is fixed before the
 * run and turned into bit masks; a point that is off costs one bit test, one that is on is reduced on the
 * device into the tap's staging memory. After the evaluation all of it goes to the host in one copy, beside
 * the computation. Outputs with taps on and off are bitwise equal.
 *
 * Between begin and end a tap does nothing but call ops, and which step it is makes no difference: a forward
 * can be recorded with its tap and replayed (ebb_replay). Recordings go by the plan's number and the staging's
 * address: a plan is not changed while models run with it. */
#ifndef EBB_ENGINE_TAP_H
#define EBB_ENGINE_TAP_H

#include "kernels/ops.h"
#include "loaders/config.h"
#include "loaders/store.h"

typedef enum ebb_point {
  EBB_BLOCK_IN,     /* residual stream before the block         tokens [B,S,D] */
  EBB_ATTN_OUT,     /* residual stream after self-attention */
  EBB_CROSS_OUT,    /* after cross-attention */
  EBB_MLP_OUT,      /* what the feed-forward adds, before its gate */
  EBB_BLOCK_OUT,    /* residual stream after the block */
  EBB_ATTN_FRAMES,  /* self-attention, frame-to-frame mass      [B,N,T,T] */
  EBB_ATTN_ENTROPY, /* self-attention, row entropy per frame    [B,N,T] nats */
  EBB_ATTN_LAG,     /* self-attention, mass by frames of lag    [B,N,2T-1], lag 0 in the middle */
  EBB_ATTN_ROWS,    /* self-attention, mass by rows away        [B,N,H] */
  EBB_ATTN_COLUMNS, /* self-attention, mass by columns away     [B,N,W] */
  EBB_LATENT,       /* the state itself                         [B,C,T,H,W], read as tokens [B,THW,C] */
  EBB_VELOCITY,     /* the branch's velocity at it, before guidance mixes the branches; likewise */
  EBB_POINTS
} ebb_point;

typedef enum ebb_pool {
  EBB_MEAN,       /* over all tokens           [D] */
  EBB_FRAME_MEAN, /* over the tokens of a frame [T,D] */
  EBB_MOMENTS,    /* second and third central moments over time of the frame means [2,D] */
  EBB_MOTION,     /* mean |first difference| and |second difference| over time, token by token [2,D] */
  EBB_TOKENS,     /* no pooling                 [S,D]; for comparison with other code */
  EBB_POOLS
} ebb_pool;

#define EBB_TAP_BLOCKS 128

/* What a transformer gives at each tap, besides its blocks: sizes that shapes follow from. */
typedef struct ebb_tap_sizes {
  int64_t blocks, width, heads, tokens;           /* L, D, N, S */
  int64_t frames, rows, columns;                  /* T, H, W in tokens: S = T*H*W */
  int64_t channels, latent_tokens, latent_frames; /* C, THW, T of the latent */
} ebb_tap_sizes;

/* A slot of the plan: one stored feature. */
typedef struct ebb_tap_slot {
  ebb_point point;
  ebb_pool pool; /* not for attention statistics */
  ebb_feature feature;
} ebb_tap_slot;

typedef struct ebb_tap_plan {
  int64_t number; /* no other plan has it: recordings go by it */
  ebb_tap_sizes sizes;
  int step_count, block_count, slot_count;
  int steps[EBB_LIST];  /* evaluation numbers, ascending */
  int blocks[EBB_LIST]; /* ascending */
  ebb_tap_slot slots[EBB_POINTS * EBB_POOLS];
  uint32_t points; /* bit p: point p is wanted at all */
} ebb_tap_plan;

/* Compiles `capture` for a run of `steps` evaluations. Errors: a step or block that does not exist, an
 * unknown point or pool (all known ones are listed). */
bool ebb_tap_plan_make(ebb_tap_plan *plan, const ebb_config *config, int steps, ebb_tap_sizes sizes,
                       ebb_error *err);
/* Floats that one video fills in one slot (all its steps and blocks), and in all. */
int64_t ebb_tap_slot_floats(const ebb_tap_plan *plan, int slot);
int64_t ebb_tap_plan_floats(const ebb_tap_plan *plan);

/* A tap on one batch. data[slot] f32 [B, steps, feature shape] in host memory: one malloc, free(data), which
 * whoever takes over sets NULL here. */
typedef struct ebb_tap {
  const ebb_tap_plan *plan;
  ebb_context *context;
  int64_t batch;
  float **data;
  ebb_tensor staging; /* f32, one evaluation's: slot after slot, in it block after block a piece [B, width] */
  ebb_tensor spare;   /* f32 [B,N,W] or [B,N,H]: what attention gives with rows or columns alone */
  int64_t first[EBB_POINTS * EBB_POOLS], stride[EBB_POINTS * EBB_POOLS]; /* of a slot's pieces, in floats */
  float *landing;                                                        /* the staging's copy on the host */
  int step;                             /* index into plan->steps, -1: this evaluation is not captured */
  int landing_step;                     /* whose copy is under way, -1: none */
  uint64_t blocks[EBB_TAP_BLOCKS / 64]; /* bit l: block l is wanted */
} ebb_tap;

/* Takes the staging memory from the activation arena (given back by whoever marked it) and the rest from the
 * host; when counting, only the former. */
bool ebb_tap_open(ebb_tap *tap, const ebb_tap_plan *plan, ebb_context *c, int64_t batch, ebb_error *err);
void ebb_tap_close(ebb_tap *tap);
/* Which evaluation follows; -1 for the inner stages of a solver, which are never captured. Waits for the last
 * capture's copy when this one is captured too. tap may be NULL, here and below. */
void ebb_tap_begin(ebb_tap *tap, int evaluation);
/* The evaluation is over: what was captured starts on its way to the host. */
void ebb_tap_end(ebb_tap *tap);
/* After the last evaluation: waits, then data is complete. */
void ebb_tap_finish(ebb_tap *tap);

static inline bool ebb_tap_wants(const ebb_tap *tap, ebb_point point, int block) {
  return tap && tap->step >= 0 && (tap->plan->points >> point & 1u) &&
         (tap->blocks[block >> 6] >> (block & 63) & 1u);
}
/* tokens [B,S,D], float32 or bfloat16, at `point` of block `block`: pooled as planned. Call only when wanted. */
void ebb_tap_take(ebb_tap *tap, ebb_point point, int block, ebb_tensor tokens);
/* One line in a forward. */
static inline void ebb_tap_tokens(ebb_tap *tap, ebb_point point, int block, ebb_tensor tokens) {
  if (ebb_tap_wants(tap, point, block))
    ebb_tap_take(tap, point, block, tokens);
}
/* The statistics that the self-attention of `block` shall write, or NULL. */
const ebb_attention_stats *ebb_tap_stats(ebb_tap *tap, int block, ebb_attention_stats *stats);
/* Latent or velocity [B,C,T,H,W]; between begin and end, outside the model's forward. */
void ebb_tap_latent(ebb_tap *tap, ebb_point point, ebb_tensor x);

#endif
