/* What the files of a fidelity measurement share: fidelity_run.c (what it runs with, all batches),
 * fidelity_loop.c (one batch there and back). Theirs alone. */
#ifndef EBB_ENGINE_FIDELITY_PARTS_H
#define EBB_ENGINE_FIDELITY_PARTS_H

#include "engine/experiment.h"
#include "engine/fidelity_run.h"

typedef enum ebb_course_kind {
  EBB_COURSE_BACK,    /* the inversion */
  EBB_COURSE_FORWARD, /* the generation it is held against */
  EBB_COURSE_EULER,   /* the generation by Euler steps told their own label: Eq. 3 */
  EBB_COURSE_HALVES,  /* the inversion in steps of half the length */
  EBB_COURSES
} ebb_course_kind;

typedef struct ebb_session {
  const ebb_fidelity_options *options;
  ebb_fidelity *result;
  ebb_experiment e;
  ebb_course course[EBB_COURSES];
  int order;                            /* of the inversion */
  ebb_tap_plan back_plan, forward_plan; /* of attention, at the same states */
  bool *local;                          /* [steps] where a step's own errors are measured */
  int64_t batch;
  float *inverted, *forward, *start; /* host [steps+1, batch, ...], clean first; [batch, ...] */
} ebb_session;

/* A batch through a loop: samples[0..count) of the result begin empty and are filled in. EBB_LOOP_DATA:
 * session->start holds latents. EBB_LOOP_GENERATED and, when `with_vae`, EBB_LOOP_VAE after it:
 * session->start holds noises, and the samples of the second loop are again[0..count). When counting samples
 * are not looked at. */
bool ebb_session_loop_data(ebb_session *s, int64_t count, ebb_fidelity_sample *samples, ebb_error *err);
bool ebb_session_loop_generated(ebb_session *s, int64_t count, ebb_fidelity_sample *samples,
                                ebb_fidelity_sample *again, ebb_error *err);

#endif
