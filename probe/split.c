#include "probe/split.h"

#include "kernels/random.h"

#include <stdlib.h>

typedef struct card {
  int stratum;
  uint64_t key; /* random */
  int64_t group;
} card;

static int by_stratum_then_key(const void *pa, const void *pb) {
  const card *a = pa, *b = pb;
  if (a->stratum != b->stratum)
    return a->stratum < b->stratum ? -1 : 1;
  if (a->key != b->key)
    return a->key < b->key ? -1 : 1;
  return (a->group > b->group) - (a->group < b->group);
}

bool ebb_split_groups(int64_t groups, const int *stratum, int folds, uint64_t seed, uint64_t stream,
                      int *fold, ebb_error *err) {
  if (folds < 2)
    return ebb_fail(err, "%d folds: at least 2 are needed to hold anything out", folds);
  card *cards = malloc((size_t)(groups > 0 ? groups : 1) * sizeof *cards);
  if (!cards)
    return ebb_fail(err, "not enough memory to split %lld groups", (long long)groups);
  int64_t in_play = 0;
  for (int64_t g = 0; g < groups; g++) {
    fold[g] = -1;
    if (stratum && stratum[g] < 0)
      continue;
    ebb_random4 r = ebb_random_words(seed, stream, (uint64_t)g);
    cards[in_play++] = (card){stratum ? stratum[g] : 0, (uint64_t)r.v[0] << 32 | r.v[1], g};
  }
  bool ok = in_play >= folds;
  if (!ok)
    ebb_fail(err, "%lld groups for %d folds: at least one group for each fold is needed", (long long)in_play,
             folds);
  qsort(cards, (size_t)in_play, sizeof *cards, by_stratum_then_key);
  /* Dealing runs on from stratum to stratum, so that the remainders do not all land on the first folds. */
  for (int64_t i = 0; ok && i < in_play; i++)
    fold[cards[i].group] = (int)(i % folds);
  free(cards);
  return ok;
}

bool ebb_split_inner(int64_t groups, const int *stratum, const int *outer, int held_out, int folds,
                     uint64_t seed, uint64_t stream, int *fold, ebb_error *err) {
  int *training = malloc((size_t)(groups > 0 ? groups : 1) * sizeof *training);
  if (!training)
    return ebb_fail(err, "not enough memory to split %lld groups", (long long)groups);
  for (int64_t g = 0; g < groups; g++)
    training[g] = outer[g] == held_out || outer[g] < 0 ? -1 : stratum ? stratum[g] : 0;
  bool ok = ebb_split_groups(groups, training, folds, seed, stream, fold, err);
  free(training);
  return ok;
}
