/* `ebb eval`: one operation on tensors in files, for people who compare us with their own code. */
#ifndef EBB_ENGINE_EVAL_H
#define EBB_ENGINE_EVAL_H

#include "kernels/error.h"

#include <stdint.h>
#include <stdio.h>

typedef struct ebb_eval_options {
  const char *op;          /* velocity | encode | decode | invert | sample */
  const char *model;       /* diffusers folder */
  const char *transformer; /* its sub-folder, "transformer" */
  const char *in, *out;    /* safetensors, all float32 */
  const char *device, *dtype;
  int velocity_only; /* velocity: without the blocks' states and maps, which are large */
  /* invert and sample */
  int steps;
  const char *solver, *labels, *schedule; /* schedule "auto": from the folder's scheduler/ */
  double guidance, shift;                 /* shift 0: from the folder's scheduler/ */
} ebb_eval_options;

/* Tensors in and out:
 *   velocity  latents [B,C,T,H,W], timestep [B], text [1 or B,M,text_dim] -> velocity [B,C,T,H,W] and for every
 *             block i block.i [B,S,D], attn_frames.i [B,N,T,T], attn_entropy.i [B,N,T] (nats), unless velocity_only
 *   encode    video [B,3,F,H,W] in [-1,1] (the first 4k+1 frames are used) -> latents [B,C,T,h,w]: posterior
 *             mode, normalised
 *   decode    latents -> video
 *   invert    latents, text, text_negative (when guidance is above 1) -> trajectory [steps+1,B,C,T,H,W],
 *             sigmas [steps+1], timesteps [steps]
 *   sample    noise, text, text_negative -> the same, from noise to clean; solver "unipc" too
 * Errors: tensors missing or of another shape, the model's own, an inversion by `exact` in bfloat16 or by
 * `unipc`, a folder whose UniPC scheduler has other settings than ours, a step that does not converge; nothing
 * is written then. */
bool ebb_eval(const ebb_eval_options *options, ebb_error *err);

/* `ebb eval text`: prompts -> ids I64 [n,M], length I64 [n] (tokens before the padding) and text [n,M,text_dim], as the
 * pipeline hands them to its transformer; of one prompt, a file that prompt.embedding takes. Errors: those of
 * engine/texts.h; nothing is written then. */
typedef struct ebb_eval_text_options {
  const char *model, *out, *device, *dtype;
  int count; /* n, at least 1 */
  const char *const *prompts;
  int64_t max_tokens; /* M */
  FILE *log;          /* what it takes */
} ebb_eval_text_options;
bool ebb_eval_text(const ebb_eval_text_options *options, ebb_error *err);

#endif
