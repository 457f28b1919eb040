/* numpy.random.default_rng(seed): SeedSequence and PCG64 (M. E. O'Neill, "PCG: A Family of Simple Fast
 * Space-Efficient Statistically Good Algorithms for Random Number Generation", 2014; XSL-RR 128/64). The same
 * numbers as numpy's, for published results that were drawn with it; our own draws are ebb_random_words. */
#ifndef EBB_PROBE_PCG64_H
#define EBB_PROBE_PCG64_H

#include <stdint.h>

__extension__ typedef unsigned __int128 ebb_uint128;

typedef struct ebb_pcg64 {
  ebb_uint128 state, increment;
} ebb_pcg64;

void ebb_pcg64_seed(ebb_pcg64 *r, uint32_t seed);
uint64_t ebb_pcg64_next(ebb_pcg64 *r);
/* Generator.random(): uniform in [0, 1), 53 bits */
static inline double ebb_pcg64_uniform(ebb_pcg64 *r) {
  return (double)(ebb_pcg64_next(r) >> 11) * (1.0 / 9007199254740992.0);
}

#endif
