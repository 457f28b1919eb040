/* Videos read ahead: a thread decodes the clips of a data set, in order, and makes them ready for the VAE, while others
 * compute. */
#ifndef EBB_ENGINE_READER_H
#define EBB_ENGINE_READER_H

#include "kernels/context.h"
#include "loaders/dataset.h"

/* What ebb_frames_prepare makes of a clip. */
typedef struct ebb_clip_size {
  int wanted, used; /* frames */
  int height, width;
} ebb_clip_size;

typedef struct ebb_ready_clip {
  float *pixels;     /* f32 [3,used,H,W] in [-1,1], memory of ebb_host_new */
  char sha256[65];   /* of the decoded frames, before they were cut */
  ebb_error failure; /* why there is none; else empty */
} ebb_ready_clip;

typedef struct ebb_reader ebb_reader;

/* Starts reading: `ahead` clips lie ready at most. The data set stays as it is until close. Errors: no memory, with the
 * amount; no thread. */
bool ebb_reader_open(ebb_reader **r, ebb_context *c, const ebb_dataset *data, ebb_clip_size size,
                     int64_t ahead, ebb_error *err);
/* The next video of the data set, waiting until it is there. Its memory is the reader's again with done. Only as often
 * as there are videos. */
const ebb_ready_clip *ebb_reader_next(ebb_reader *r);
void ebb_reader_done(ebb_reader *r);
void ebb_reader_close(ebb_reader **r); /* ends after the clip that is being read; NULL is fine */
/* Bytes of host memory that `ahead` clips take. */
size_t ebb_reader_bytes(ebb_clip_size size, int64_t ahead);

#endif
