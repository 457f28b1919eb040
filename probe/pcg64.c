#include "probe/pcg64.h"

/* SeedSequence: a pool of four words, each stirred into all others. The constants are
 * O'Neill's seed_seq's. */
static uint32_t stir_in(uint32_t value, uint32_t *constant, uint32_t multiplier) {
  value ^= *constant;
  *constant *= multiplier;
  value *= *constant;
  return value ^ value >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y) {
  uint32_t mixed = 0xca01f9ddu * x - 0x4973f715u * y;
  return mixed ^ mixed >> 16;
}

static void seed_words(uint32_t seed, uint64_t words[4]) {
  uint32_t pool[4], constant = 0x43b0d7e5u;
  for (int i = 0; i < 4; i++)
    pool[i] = stir_in(i == 0 ? seed : 0, &constant, 0x931e8875u);
  for (int from = 0; from < 4; from++)
    for (int to = 0; to < 4; to++)
      if (to != from)
        pool[to] = mix(pool[to], stir_in(pool[from], &constant, 0x931e8875u));
  constant = 0x8b51f9ddu;
  for (int i = 0; i < 8; i++) {
    uint64_t word = stir_in(pool[i % 4], &constant, 0x58f38dedu);
    words[i / 2] = i % 2 == 0 ? word : words[i / 2] | word << 32;
  }
}

uint64_t ebb_pcg64_next(ebb_pcg64 *r) {
  const ebb_uint128 multiplier = (ebb_uint128)0x2360ED051FC65DA4u << 64 | 0x4385DF649FCCF645u;
  r->state = r->state * multiplier + r->increment;
  const uint64_t folded = (uint64_t)(r->state >> 64) ^ (uint64_t)r->state;
  const unsigned turn = (unsigned)(r->state >> 122);
  return folded >> turn | folded << (-turn & 63);
}

void ebb_pcg64_seed(ebb_pcg64 *r, uint32_t seed) {
  uint64_t words[4];
  seed_words(seed, words);
  r->increment = ((ebb_uint128)words[2] << 64 | words[3]) << 1 | 1;
  r->state = 0;
  ebb_pcg64_next(r);
  r->state += (ebb_uint128)words[0] << 64 | words[1];
  ebb_pcg64_next(r);
}
