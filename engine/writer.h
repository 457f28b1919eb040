/* Features written beside the computation: a thread takes what taps have brought, leaves out the videos that failed and
 * writes shards, in the order in which they were handed over. */
#ifndef EBB_ENGINE_WRITER_H
#define EBB_ENGINE_WRITER_H

#include "engine/tap.h"
#include "loaders/store.h"

typedef struct ebb_writer ebb_writer;

/* A video that is left out; called on the writer's thread. */
typedef void ebb_writer_report(void *user, int64_t video, const char *reason);

/* Writes into `store` alone, until finish or abandon; at most `ahead` batches wait. Errors: no thread. */
bool ebb_writer_open(ebb_writer **w, ebb_store_writer *store, int ahead, ebb_writer_report *report,
                     void *user, ebb_error *err);
/* Takes the data of a finished tap: shard of videos[0..tap->batch) for `set`, without those that have a failure (may be
 * NULL) or values that are not finite. Waits while `ahead` batches wait. Errors: of a shard handed over earlier;
 * nothing is written after it. */
bool ebb_writer_put(ebb_writer *w, int set, ebb_tap *tap, const int64_t *videos, const ebb_error *failures,
                    ebb_error *err);
/* Waits until all is written. Frees w in any case. */
bool ebb_writer_finish(ebb_writer **w, ebb_error *err);
void ebb_writer_abandon(ebb_writer **w); /* ends after the shard that is being written; NULL is fine */

#endif
