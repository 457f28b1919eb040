/* The order that PyTorch on a CPU shuffles things in, so that splits are those of the official code. */
#ifndef EBB_PROBE_TORCH_ORDER_H
#define EBB_PROBE_TORCH_ORDER_H

#include "kernels/error.h"

#include <stdint.h>

#define EBB_TORCH_ORDER_MAX ((int64_t)(UINT32_MAX / 20)) /* beyond, PyTorch draws 64 bits a place */

/* order [n] = torch.randperm(n, generator=torch.Generator().manual_seed(seed)): MT19937 (Matsumoto &
 * Nishimura 1998) of the seed's low 32 bits, and a shuffle from the front that takes one word a place,
 * modulo what is left. Errors: n < 0 or over EBB_TORCH_ORDER_MAX. */
bool ebb_torch_order(int64_t n, uint64_t seed, int64_t *order, ebb_error *err);

#endif
