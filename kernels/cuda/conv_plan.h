/* cuDNN's side of conv3d.cu: convolutions of bfloat16 operands as execution plans, one per shape. Private to
 * kernels/cuda/. */
#ifndef EBB_KERNELS_CUDA_CONV_PLAN_H
#define EBB_KERNELS_CUDA_CONV_PLAN_H

#include "kernels/cuda/cuda.h"

/* y [To,Ho,Wo,Co] = conv(x [T,H,W,Ci], w [Co,kt,kh,kw,Ci]) + b + r, summed in float32. x and w are bfloat16;
 * y, b and r all bfloat16 (`half`) or all float32. b is [Co]; r is [To,Ho,Wo,Co] (`residual`), y itself
 * perhaps, or [Co]. pad_h and pad_w zeros around rows and columns, none in time. Ci and Co are multiples of 8.
 * Numbers of one type throughout: shapes are compared as bytes. */
typedef struct conv_shape {
  int64_t Ci, T, H, W, Co, To, Ho, Wo;
  int64_t kt, kh, kw, step_t, step, pad_h, pad_w;
  int64_t half, residual;
} conv_shape;

#define CONV_WORKSPACE ((size_t)16 << 20) /* of every plan: engines that want more are passed over */

/* cuDNN compiles the kernel of a plan, which takes half a second: a few threads do it, from the first time that
 * a shape is asked for and in that order, so that a dry run starts all of them. */
typedef struct conv_plan conv_plan;
typedef enum conv_made {
  CONV_WAITING,
  CONV_READY,
  CONV_NO_ENGINE, /* cuDNN offers none, or those offered refuse: which hangs on shape, device and cuDNN alone */
  CONV_FAILED     /* anything else; the context has the error */
} conv_made;

/* The plan of a shape, perhaps still in the making. NULL: an error of the context. */
conv_plan *cuda_conv_plan(ebb_context *c, const char *op, const conv_shape *shape);
/* Waits until the plan is made, or is known not to be: never CONV_WAITING. */
conv_made cuda_conv_wait(ebb_context *c, const char *op, conv_plan *plan);
/* All pointers aligned to 16 bytes; workspace of CONV_WORKSPACE bytes. The plan is CONV_READY. */
void cuda_conv_run(ebb_context *c, const char *op, conv_plan *plan, void *y, const void *x, const void *w,
                   const void *b, const void *r, void *workspace);

#endif
