/* What ebb_upload_from is made of: sources cut into pieces, and the pieces dealt to threads. Private to
 * kernels/. */
#ifndef EBB_KERNELS_PIECES_H
#define EBB_KERNELS_PIECES_H

#include "kernels/context.h"

/* Bytes, at most: one thread reads them, a device takes them in one copy. Large enough for nearly the full
 * rate of the bus (some 40 us of PCIe 5), small enough that eight threads share one matrix. */
#define EBB_PIECE ((size_t)2 << 20)

/* Threads that read at once, at most. One copies some 5 GB/s from the page cache, page-locked memory goes to
 * a device with 50: measured on an H200's host, where four threads that waited for each other delivered
 * 12.7. */
#ifndef EBB_READERS
#define EBB_READERS 8
#endif

typedef struct ebb_piece {
  const ebb_source *source;
  size_t first, count; /* numbers */
} ebb_piece;

/* Brings one piece to its place. thread: 0..readers-1, no other has the same. false: err says why, or the
 * context does. */
typedef bool ebb_piece_fn(void *user, int thread, const ebb_piece *piece, ebb_error *err);

/* EBB_READERS, or the fewer threads that the environment allows (ebb_context_threads). */
int ebb_readers(void);
/* Hands every piece of all sources to `take`, in their order, each to the next of `readers` threads (the
 * caller's is one) that is free; no more once one has failed. err is that of the first piece, in their
 * order, that failed: the same whatever the threads did. */
bool ebb_deal_pieces(int64_t count, const ebb_source *sources, int readers, ebb_piece_fn *take, void *user,
                     ebb_error *err);

#endif
