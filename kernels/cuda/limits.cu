#include "kernels/cuda/cuda.h"

void cuda_limit(ebb_context *c, cuda_limits limits) {
  cuda_of(c)->limits = limits;
}
