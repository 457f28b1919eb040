/* The CPU backend with recordings and late downloads, as a GPU has them: recorded ops are kept with their arguments and
 * computed when replayed, without the code that called them; ebb_download_start delivers at ebb_download_wait. For the
 * ops of a transformer's forward: others, and copies, are refused while recording. One context at a time. */
#ifndef EBB_TESTS_RECORDER_H
#define EBB_TESTS_RECORDER_H

#include "kernels/backend.h"

typedef struct recorder_counts {
  int recorded, replayed, forgotten;
} recorder_counts;

/* An open context of the CPU becomes a recording one; counts are zeroed, and filled from here on. */
void recorder_install(ebb_context *c, recorder_counts *counts);

#endif
