/* How much the CUDA backend does at once, for tests that want to see it cut a small problem. Private to
 * kernels/cuda/ and tests. */
#ifndef EBB_KERNELS_CUDA_LIMITS_H
#define EBB_KERNELS_CUDA_LIMITS_H

#include "kernels/context.h"

typedef struct cuda_limits { /* 0: as usual */
  int64_t slab_numbers;      /* of a convolution's operand, and of its y: slabs of frames */
  int64_t norm_rows;         /* of channel_norm in one launch */
  int64_t map_bytes;         /* of attention's statistics in the making: samples in several launches */
} cuda_limits;

#ifdef __cplusplus
extern "C"
#endif
    void
    cuda_limit(ebb_context *c, cuda_limits limits); /* of a context on "cuda", between ops */

#endif
