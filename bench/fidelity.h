/* How exact an inversion is: the same way there and back, state by state. */
#ifndef EBB_BENCH_FIDELITY_H
#define EBB_BENCH_FIDELITY_H

#include "bench/subject.h"
#include "engine/invert.h"

typedef struct bench_names { /* "euler,heun" taken apart */
  int count;
  char names[16][16];
} bench_names;

typedef struct bench_fidelity {
  bench_subject *subject;
  bench_names solvers, labels, steps; /* every combination of them */
  const float *latents;               /* host [B,C,T,H,W] */
  bool every_step;                    /* a second table: every state on the way */
} bench_fidelity;

/* Relative L2 errors, the median over samples; samples that a solver gave up are counted, not averaged:
 *   latent   a latent inverted to noise and generated again, against itself
 *   noise    a drawn noise generated to a latent and inverted again, against itself
 *   worst    the largest distance between the two trajectories at one sigma, for either loop */
bool bench_fidelity_run(const bench_fidelity *f, ebb_error *err);

#endif
