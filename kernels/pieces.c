#include "kernels/pieces.h"

#include <assert.h>
#include <pthread.h>

typedef struct deal {
  int64_t count;
  const ebb_source *sources;
  ebb_piece_fn *take;
  void *user;
  pthread_mutex_t lock; /* of what follows */
  int64_t source;       /* where the next piece begins */
  size_t first;
  int64_t dealt;  /* pieces so far */
  int64_t failed; /* the first in their order that failed; -1: none */
  ebb_error failure;
} deal;

typedef struct reader {
  deal *of;
  int number;
  pthread_t thread;
} reader;

int ebb_readers(void) {
  int threads = ebb_context_threads();
  return threads < EBB_READERS ? threads : EBB_READERS;
}

/* The next piece and its place in the order; false: there is none, or one has failed. */
static bool next_piece(deal *d, ebb_piece *piece, int64_t *number) {
  pthread_mutex_lock(&d->lock);
  while (d->source < d->count && d->first == (size_t)ebb_count(d->sources[d->source].to)) {
    d->source++;
    d->first = 0;
  }
  bool there = d->failed < 0 && d->source < d->count;
  if (there) {
    const ebb_source *s = &d->sources[d->source];
    size_t rest = (size_t)ebb_count(s->to) - d->first, most = EBB_PIECE / ebb_dtype_size(s->from);
    *piece = (ebb_piece){s, d->first, rest < most ? rest : most};
    *number = d->dealt++;
    d->first += piece->count;
  }
  pthread_mutex_unlock(&d->lock);
  return there;
}

/* Pieces before this one have all been dealt: the first of all that fail is told in the end. */
static void fail_piece(deal *d, int64_t number, const ebb_error *why) {
  pthread_mutex_lock(&d->lock);
  if (d->failed < 0 || number < d->failed) {
    d->failed = number;
    d->failure = *why;
  }
  pthread_mutex_unlock(&d->lock);
}

static void *read_pieces(void *user) {
  const reader *r = user;
  ebb_piece piece;
  int64_t number;
  while (next_piece(r->of, &piece, &number)) {
    ebb_error why = {""};
    if (!r->of->take(r->of->user, r->number, &piece, &why))
      fail_piece(r->of, number, &why);
  }
  return NULL;
}

/* No more than there is work for. */
static int threads_for(int64_t count, const ebb_source *sources, int readers) {
  size_t bytes = 0;
  for (int64_t i = 0; i < count; i++)
    bytes += (size_t)ebb_count(sources[i].to) * ebb_dtype_size(sources[i].from);
  return bytes / EBB_PIECE < (size_t)readers ? (int)(bytes / EBB_PIECE) + 1 : readers;
}

bool ebb_deal_pieces(int64_t count, const ebb_source *sources, int readers, ebb_piece_fn *take, void *user,
                     ebb_error *err) {
  deal d = {.count = count, .sources = sources, .take = take, .user = user, .failed = -1};
  reader threads[EBB_READERS];
  int most = threads_for(count, sources, readers), started = 1;
  assert(readers >= 1 && readers <= EBB_READERS);
  pthread_mutex_init(&d.lock, NULL);
  for (int i = 0; i < most; i++)
    threads[i] = (reader){.of = &d, .number = i};
  while (started < most &&
         pthread_create(&threads[started].thread, NULL, read_pieces, &threads[started]) == 0)
    started++; /* the pieces of one that cannot be started are left to the others */
  read_pieces(&threads[0]);
  for (int i = 1; i < started; i++)
    pthread_join(threads[i].thread, NULL);
  pthread_mutex_destroy(&d.lock);
  return d.failed < 0 || ebb_fail(err, "%s", d.failure.text);
}
