/* UniPC, the multistep predictor-corrector of Zhao et al., "UniPC: A Unified Predictor-Corrector Framework
 * for Fast Sampling of Diffusion Models" (NeurIPS 2023), as diffusers' UniPCMultistepScheduler runs Wan: flow
 * prediction with flow sigmas, order 2, B(h) = e^h - 1 ("bh2"), prediction of the clean latent, lower orders
 * in the first and the last step. Generation alone: a step is made from what the model said at the states
 * before it. */
#ifndef EBB_ENGINE_UNIPC_H
#define EBB_ENGINE_UNIPC_H

#include "engine/integrate.h"

/* Whether the sampler that model_folder/scheduler/ asks for is this one. A scheduler of another class, or
 * none, has nothing to say. Errors: a UniPC of other settings (order, bh1, correction off, thresholding,
 * ...), each with what was found. */
bool ebb_unipc_check(const char *model_folder, ebb_error *err);

/* A state of the grid as the sampler sees it: alpha = 1 - sigma, lambda = ln(alpha / sigma), of the sigma
 * rounded to float32 and at most 1 - 1e-6, as diffusers keeps it: near 1, lambda hangs on that rounding. */
typedef struct ebb_unipc_level {
  double sigma, alpha, lambda; /* lambda is infinite at sigma 0 */
} ebb_unipc_level;
ebb_unipc_level ebb_unipc_level_at(double sigma);

/* What stands before each term of a step from level s to level t; p is the level before s. */
typedef struct ebb_unipc_weights {
  double state;          /* of the state at s */
  double now, last, new; /* of the clean latents predicted at s, at p (order 2) and, in a corrector, at t */
} ebb_unipc_weights;
ebb_unipc_weights ebb_unipc_predictor(int order, ebb_unipc_level p, ebb_unipc_level s, ebb_unipc_level t);
ebb_unipc_weights ebb_unipc_corrector(int order, ebb_unipc_level p, ebb_unipc_level s, ebb_unipc_level t);

/* What a step takes over from those before it. */
typedef struct ebb_unipc {
  ebb_tensor clean[3]; /* predicted clean latents: of the last state, of the one before; room for the next */
  ebb_tensor from;     /* the state that the last step began at, corrected */
  int order;           /* of the last step's predictor */
} ebb_unipc;

/* Takes memory for states like x from the activation arena; whoever marked it gives it back. */
void ebb_unipc_open(ebb_unipc *u, ebb_context *c, ebb_tensor x);
/* Step i of a generation by EBB_UNIPC_BH2, steps in order from 0: x f32 [B, ...] goes in place from sigma[i]
 * to sigma[i+1]. It leaves the predicted state, as diffusers does: the correction is made when the next step
 * has asked the model. Returns the evaluations spent. */
int ebb_unipc_step(ebb_unipc *u, ebb_context *c, const ebb_integration *plan, int i, ebb_tensor x,
                   ebb_velocity_fn *velocity, void *user);

#endif
