/* Videos read ahead: threads decode the clips of a data set and make them ready for the VAE, while others
 * compute. They come out in the order of the data set, the same whatever the number of threads. */
#ifndef EBB_ENGINE_READER_H
#define EBB_ENGINE_READER_H

#include "kernels/context.h"
#include "loaders/dataset.h"

/* What ebb_frames_prepare makes of a clip. */
typedef struct ebb_clip_size {
  int wanted, used; /* frames */
  int height, width;
  bool padded; /* clips shorter than wanted repeat their last frame; else they fail */
} ebb_clip_size;
/* What section `data` of an experiment gives a VAE that takes chunk k + 1 frames. */
struct ebb_config;
ebb_clip_size ebb_clip_size_of(const struct ebb_config *config, int chunk);

typedef struct ebb_ready_clip {
  float *pixels;     /* f32 [3,used,H,W] in [-1,1], memory of ebb_host_new */
  char sha256[65];   /* of the decoded frames, before they were cut */
  ebb_error failure; /* why there is none; else empty */
} ebb_ready_clip;

typedef struct ebb_reader ebb_reader;

/* How many threads read: as many as the machine has, no more than 8. */
int ebb_reader_threads(void);

/* Starts reading on `threads` threads (at least 1; more than `ahead` have nothing to do): `ahead` clips lie
 * ready or are being read at most. Decoded frames, whose size only the files know, take what one clip does at
 * a time until the first is there; from then on as many clips are decoded at once as fit into
 * EBB_READER_FRAMES bytes when they are as large as the largest so far, and never less than one. The data set
 * stays as it is until close. Errors: no memory, with the amount; no thread. */
#define EBB_READER_FRAMES ((uint64_t)4 << 30)
bool ebb_reader_open(ebb_reader **r, ebb_context *c, const ebb_dataset *data, ebb_clip_size size,
                     int64_t ahead, int threads, ebb_error *err);
/* The next video of the data set, waiting until it is there. Its memory is the reader's again with done. Only
 * as often as there are videos. */
const ebb_ready_clip *ebb_reader_next(ebb_reader *r);
void ebb_reader_done(ebb_reader *r);
void ebb_reader_close(ebb_reader **r); /* ends after the clips that are being read; NULL is fine */
/* Bytes of host memory that `ahead` clips take. */
size_t ebb_reader_bytes(ebb_clip_size size, int64_t ahead);

#endif
