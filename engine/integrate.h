/* Integrating dx/dsigma = v(x, label) over a grid of sigmas. Knows no model: a solver sees a velocity
 * function. The direction is the order of the grid: ascending sigma is inversion, descending is generation.
 */
#ifndef EBB_ENGINE_INTEGRATE_H
#define EBB_ENGINE_INTEGRATE_H

#include "engine/schedule.h"
#include "kernels/ops.h"

typedef enum ebb_solver {
  EBB_EULER,    /* order 1, one evaluation a step */
  EBB_HEUN,     /* order 2, two: the trapezoid */
  EBB_MIDPOINT, /* order 2, two */
  EBB_RK4,      /* order 4, four: the classical one */
  EBB_EXACT,    /* inversion: the inverse of the forward Euler step, x' = x + h v(x', sigma'), the fixed point
                 * found by Anderson's iteration, each sample by itself; generation:
                 * the Euler step itself */
  EBB_UNIPC_BH2 /* generation alone: diffusers' multistep sampler (engine/unipc.h), one evaluation a step */
} ebb_solver;

typedef enum ebb_labels {
  EBB_NOISY,  /* as the official code pairs them: inversion tells the model the label of the *next* sigma;
               * Heun's second stage that of the one after, and its last step is Euler's; generation is told
               * the label of the state it is at, and Heun's last step is Euler's there too */
  EBB_MATCHED /* the label of the sigma the state is at */
} ebb_labels;

#define EBB_STAGES 4
#define EBB_EXACT_ITERATIONS 100
#define EBB_EXACT_TOLERANCE 1e-6f /* an exact step has failed above this |x + h v(y) - y| / |y| */
#define EBB_EXACT_FLOOR 1e-7f     /* and below which it is as good as float32 gets */

typedef struct ebb_integration_step {
  double from, to; /* sigma */
  int stages;
  int moment[EBB_STAGES]; /* which label each stage is told: index into labels */
} ebb_integration_step;

/* All evaluations of a run, known before it: the labels go to ebb_model_condition. */
typedef struct ebb_integration {
  ebb_solver solver;
  int steps;
  ebb_integration_step *step; /* [steps] */
  double *sigma;              /* [steps+1] in the order of integration */
  double *timestep;           /* [steps]: the label told at the first stage of each step */
  int moments;
  double *labels; /* [moments], distinct */
} ebb_integration;

/* Errors: an inversion by unipc, memory. */
bool ebb_integration_make(ebb_integration *plan, const ebb_schedule *schedule, ebb_solver solver,
                          ebb_labels labels, bool generate, ebb_error *err);
/* The same with solver and labels by name. */
bool ebb_integration_named(ebb_integration *plan, const ebb_schedule *schedule, const char *solver,
                           const char *labels, bool generate, ebb_error *err);
/* plan's labels are completed by other's, and other is told by its place among them: one condition serves
 * both. Errors: memory. */
bool ebb_integration_share_labels(ebb_integration *plan, ebb_integration *other, ebb_error *err);
void ebb_integration_free(ebb_integration *plan);
/* "euler" ..., "noisy", "matched". Errors list what is known. */
bool ebb_solver_named(const char *name, ebb_solver *solver, ebb_error *err);
bool ebb_labels_named(const char *name, ebb_labels *labels, ebb_error *err);
/* Whether inversions by `solver` are possible with a model that computes in `dtype` ("float32", "bfloat16"):
 * `unipc` only generates; `exact` looks for a fixed point to EBB_EXACT_TOLERANCE, and velocities of 8 bits jump
 * by far more than that. solver_key and dtype_key are what the user calls the two ("inversion.solver",
 * "--dtype"). Asked before a run begins. */
bool ebb_solver_takes(const char *solver_key, const char *solver, const char *dtype_key, const char *dtype,
                      ebb_error *err);

/* v = velocity at x told label `moment`; stage 0 is the evaluation at the step's own state, the one that taps
 * see. */
typedef void ebb_velocity_fn(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage);

/* One step in place, by any solver but unipc: x [B, ...] f32 goes from step[i].from to step[i].to. Scratch comes
 * from the activation arena. Returns the evaluations spent. A sample whose exact step finds no fixed point
 * becomes NaN and says why in failures[sample]; with failures NULL that is an error of the context. */
int ebb_integrate(ebb_context *c, const ebb_integration *plan, int i, ebb_tensor x, ebb_velocity_fn *velocity,
                  void *user, ebb_error *failures);

#endif
