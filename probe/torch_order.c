#include "probe/torch_order.h"

enum { WORDS = 624, MIDDLE = 397 };

typedef struct twister {
  uint32_t state[WORDS];
  int at; /* of the next word */
} twister;

static void seed_twister(twister *t, uint32_t seed) {
  t->state[0] = seed;
  for (uint32_t i = 1; i < WORDS; i++)
    t->state[i] = 1812433253u * (t->state[i - 1] ^ t->state[i - 1] >> 30) + i;
  t->at = WORDS;
}

static void twist(twister *t) {
  for (int i = 0; i < WORDS; i++) {
    uint32_t y = (t->state[i] & 0x80000000u) | (t->state[(i + 1) % WORDS] & 0x7fffffffu);
    t->state[i] = t->state[(i + MIDDLE) % WORDS] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
  }
  t->at = 0;
}

static uint32_t next_word(twister *t) {
  if (t->at == WORDS)
    twist(t);
  uint32_t y = t->state[t->at++];
  y ^= y >> 11;
  y ^= y << 7 & 0x9d2c5680u;
  y ^= y << 15 & 0xefc60000u;
  return y ^ y >> 18;
}

bool ebb_torch_order(int64_t n, uint64_t seed, int64_t *order, ebb_error *err) {
  if (n < 0 || n > EBB_TORCH_ORDER_MAX)
    return ebb_fail(err, "an order of %lld: expected 0 to %lld", (long long)n,
                    (long long)EBB_TORCH_ORDER_MAX);
  twister t;
  seed_twister(&t, (uint32_t)seed);
  for (int64_t i = 0; i < n; i++)
    order[i] = i;
  for (int64_t i = 0; i + 1 < n; i++) {
    int64_t other = i + next_word(&t) % (n - i), kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
  return true;
}
