/* Edits: what an intervention changes in a forward on the way. Like the tap's, the plan is fixed before the run and turned into
 * bit masks: a place that is off costs one bit test, and outputs are then bitwise those of a forward without an edit.
 * Samples of one batch may each have another intervention. All that differs between samples and evaluations is in
 * device memory, so that a forward is recorded with its edit and replayed (ebb_replay).
 *
 * At a block's output h, at every evaluation (Eq. 5 of the paper): h <- h + sigma(h) (noise eps + along u), sigma(h) the
 * standard deviation of each token over its features, eps a standard normal number for every feature, u a fixed
 * direction of the residual stream, the same at every token and step, with mean square 1: at equal doses a noise and
 * a direction have the same norm. eps is a pure function of (key, block, evaluation, branch, token, feature): with a
 * key made of (seed, scene, draw), it depends on no other block, scene or sample of the batch.
 *
 * After self-attention, in any (block, head): the head's output becomes zero, its mean over tokens, or the same head
 * of another sample of the batch. */
#ifndef EBB_ENGINE_EDIT_H
#define EBB_ENGINE_EDIT_H

#include "kernels/ops.h"

#define EBB_EDIT_BLOCKS 128
#define EBB_EDIT_ALL_HEADS (-1)

/* Streams of ebb_edit_key for other draws than eps of an edit, whose streams (block and evaluation) end below
 * EBB_STREAM_NOISED: draws of two purposes never share a number. */
#define EBB_STREAM_NOISED ((int64_t)1 << 61)     /* latents noised forward */
#define EBB_STREAM_DIRECTION ((uint64_t)1 << 62) /* | block: a random direction */
#define EBB_STREAM_DONOR ((uint64_t)2 << 62)     /* the scene that a head comes from */
#define EBB_STREAM_DAMAGE ((uint64_t)3 << 62)    /* noise on what was generated */

typedef struct ebb_edit_sizes {
  int64_t blocks, width, heads; /* L, D, N */
} ebb_edit_sizes;

/* What one sample of the batch gets, at one block's output or in heads; either part may say nothing. */
typedef struct ebb_edit_head {
  int block, head; /* EBB_EDIT_ALL_HEADS: every head of the block */
  int64_t source;  /* EBB_HEAD_ZERO, EBB_HEAD_MEAN, or the number of a sample of the batch */
} ebb_edit_head;
typedef struct ebb_intervention {
  int block;              /* -1: no block's output is changed */
  double noise, along;    /* in units of sigma(h) */
  const float *direction; /* [D], any length but 0; NULL: none */
  uint64_t key;           /* of eps */
  int head_count;
  const ebb_edit_head *heads;
} ebb_intervention;

typedef struct ebb_edit {
  ebb_context *context;
  int64_t number; /* no other setting of an edit has it: recordings go by it */
  ebb_edit_sizes sizes;
  uint64_t outputs[EBB_EDIT_BLOCKS / 64],
      heads[EBB_EDIT_BLOCKS / 64]; /* bit l: something is changed at block l */
  bool means;                      /* some head becomes its mean */
  ebb_tensor keys;                 /* int64 [B] */
  ebb_tensor dose;                 /* [L,B,2]; noise, along */
  ebb_tensor direction;            /* [L,B,D]; absent: no sample has one */
  ebb_tensor source;               /* int64 [L,B,N] */
  ebb_tensor moments;              /* [evaluations]: 0, 1, 2 ... */
  ebb_tensor when;                 /* [1]: that of the evaluation at hand */
} ebb_edit;

/* Room in the activation arena (given back by whoever marked it) for interventions on a batch along a plan of so
 * many steps; when counting, all that follows needs no more. directions: whether any will have one. Errors: more
 * blocks than EBB_EDIT_BLOCKS. */
bool ebb_edit_open(ebb_edit *edit, ebb_context *c, ebb_edit_sizes sizes, int64_t batch, int steps,
                   bool directions, ebb_error *err);
/* What every sample gets from now on: interventions [B]. Errors: a block, head or sample that does not exist, a
 * direction of no length or where the edit was opened without; memory. */
bool ebb_edit_set(ebb_edit *edit, const ebb_intervention *interventions, ebb_error *err);
/* Which evaluation follows: stage of a solver's step, and the branch of guidance (0: the prompt's). edit may be NULL,
 * here and below. */
#define EBB_EDIT_STAGES 4
void ebb_edit_begin(ebb_edit *edit, int step, int stage, int branch);

static inline bool ebb_edit_wants(const uint64_t *mask, int block) {
  return mask[block >> 6] >> (block & 63) & 1u;
}
/* h [B,S,D] at the output of `block`. Call only when wanted. */
void ebb_edit_apply_output(ebb_edit *edit, int block, ebb_tensor h);
/* One line in a forward; true: h has changed, and so must what has been computed from it. */
static inline bool ebb_edit_output(ebb_edit *edit, int block, ebb_tensor h) {
  if (!edit || !ebb_edit_wants(edit->outputs, block))
    return false;
  ebb_edit_apply_output(edit, block, h);
  return true;
}
/* heads [B,S,D], what self-attention gave. Call only when wanted. */
ebb_tensor ebb_edit_apply_heads(ebb_edit *edit, int block, ebb_tensor heads, ebb_tensor room);
/* One line in a forward: heads, or `room` (alike) with the edited ones in it. */
static inline ebb_tensor ebb_edit_heads(ebb_edit *edit, int block, ebb_tensor heads, ebb_tensor room) {
  return edit && ebb_edit_wants(edit->heads, block) ? ebb_edit_apply_heads(edit, block, heads, room) : heads;
}

/* A key for what was drawn for (seed, scene, draw): scene is named, not numbered, so that it does not hang on which
 * others are there. */
uint64_t ebb_edit_key(uint64_t seed, const char *scene, int64_t draw);

#endif
