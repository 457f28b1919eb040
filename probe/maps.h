/* Pictures of stored attention maps: where in time each head looks, and whether it looks elsewhere when
 * the laws are broken. From the features alone. */
#ifndef EBB_PROBE_MAPS_H
#define EBB_PROBE_MAPS_H

#include "loaders/store.h"
#include "probe/results.h"

#include <stdio.h>

/* Frame mass (attn_frames), as means over videos. */
typedef struct ebb_mean_maps {
  int64_t blocks, heads, queries, keys; /* L, N, Tq, Tk */
  int64_t videos[2];                    /* impossible, possible */
  double *mean[2];                      /* [L,N,Tq,Tk], of each; zeros where there are no videos */
} ebb_mean_maps;

/* Of the labelled videos of a category (NULL: all) that the set has, at a step, as an index. Errors: a
 * feature that is no map of each head, memory, what the store can bring. */
bool ebb_mean_maps_make(ebb_mean_maps *m, const ebb_store *store, int set, int feature, const char *category,
                        int step, ebb_error *err);
void ebb_mean_maps_free(ebb_mean_maps *m);

typedef enum ebb_step_choice { /* how the step of a picture was chosen: it says so */
  EBB_STEP_BY_PROBE,
  EBB_STEP_MIDDLE,
  EBB_STEP_ASKED
} ebb_step_choice;

/* dir/frame-mass-<category>-<model>.png, or ...-<model>-step<number>.png for a step that was asked for: blocks
 * by heads, a small map of query frame by key frame in each: the mean over videos, and possible minus
 * impossible. step is an index into the set's. */
bool ebb_plot_frame_mass(const ebb_store *store, int set, const char *category, int step, ebb_step_choice how,
                         const char *dir, ebb_error *err);

/* For every category of the results and every model that has attn_frames: at step number `step`, or, when
 * it is -1, at the one that the probe of this row chose (the middle one where it was not probed). Errors:
 * a step that a model was not captured at, and, with a step, a run without maps. A model whose attn_frames
 * are no maps of each head has no picture, and a line in `notes` (NULL: nowhere). */
bool ebb_plot_all_frame_mass(const ebb_store *store, const ebb_results *results, int64_t step,
                             const char *dir, FILE *notes, ebb_error *err);

#endif
