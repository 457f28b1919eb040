/* The loop over steps: the only one. Inversion and generation are the same function; the plan's grid says
 * which. */
#ifndef EBB_ENGINE_INVERT_H
#define EBB_ENGINE_INVERT_H

#include "engine/integrate.h"
#include "engine/model.h"

/* One batch taken along a plan. */
typedef struct ebb_run {
  ebb_model *model;
  const ebb_integration *plan;
  const ebb_condition *text;     /* the prompt */
  const ebb_condition *negative; /* the unconditional branch; used when guidance != 1 */
  double guidance;               /* v = v_negative + guidance (v_text - v_negative); 1: v_text alone */
  ebb_tap *tap;                  /* of the prompt's branch; may be NULL */
  ebb_tap *negative_tap;         /* of the unconditional branch; may be NULL */
  ebb_edit *edit;                /* what is changed on the way, in both branches; NULL: nothing */
  ebb_error *failures; /* [B]: why a sample failed, see ebb_integrate; NULL: its failure is the run's */
  void (*progress)(void *user, int step, int steps); /* after each step; may be NULL */
  void *progress_user;
} ebb_run;

/* x f32 [B,C,T,H,W] goes from one end of the grid to the other, in place. trajectory: NULL, or f32 host
 * [steps+1, B,C,T,H,W], every state. Returns the evaluations spent (each branch counts). Errors stay in the
 * context. */
int64_t ebb_invert(const ebb_run *run, ebb_tensor x, float *trajectory);
/* Steps [first, first + count) alone: x is at sigma[first]. unipc begins at step 0. Taps are told the steps'
 * numbers. */
int64_t ebb_invert_steps(const ebb_run *run, int first, int count, ebb_tensor x, float *trajectory);

#endif
