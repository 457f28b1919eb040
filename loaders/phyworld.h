/* PhyWorld (Kang et al., arXiv 2411.02385): one ball flies freely. HDF5 files with three groups, in each of
 * which pieces are named "00000", "00001", ...:
 *   init_streams      f64 [n, 2]     radius r and speed v (column 0 is the radius, whatever it was called)
 *   position_streams  f64 [n, T, 2]  x, y of the centre in each frame, y up; the world is 10 x 10
 *   video_streams     vlen u8 [n]    one whole mp4 each
 * Targets x_mid, y_mid are of frame T / 2 and x_end, y_end of frame T - 1 of the video, whatever a run takes of
 * it: of 32 frames Wan takes 29 (0 to 28), and the end is then 0.3 s after the last frame that it sees.
 * The names count pieces of 1000 of one list; what is in distribution follows from r and v. */
#ifndef EBB_LOADERS_PHYWORLD_H
#define EBB_LOADERS_PHYWORLD_H

#include "loaders/dataset.h"

#define EBB_PHYWORLD_WORLD 10.0 /* width and height of the world, in its units */
#define EBB_PHYWORLD_FRAME 0.1  /* seconds between frames */

/* The ranges that the generator draws from: "in_dist" (r 0.7 to 1.4, v 1 to 4), "r_small" (0.3 to 0.6),
 * "v_small" (0 to 0.8), "both_small", "r_large" (1.5 to 2), "v_large" (4.5 to 6), "both_large",
 * "r_small_v_large", "r_large_v_small"; "other" between them. */
const char *ebb_phyworld_level(double r, double v);

/* The levels of the published parabola_eval.hdf5 in the order of its list, with their sizes; name NULL ends
 * it. */
typedef struct ebb_phyworld_part {
  const char *name;
  int videos;
} ebb_phyworld_part;
extern const ebb_phyworld_part ebb_phyworld_parts[];

/* What the pixels of a frame say in the world's units, as the generator's authors measure it (red above 127,
 * green and blue below): centre, and the radius of a disc of that area. False: no red. */
bool ebb_phyworld_disc(const ebb_clip *clip, int frame, double *x, double *y, double *radius);

/* Does the first frame of a video show a disc of its targets r, x0 and y0? Errors: what it shows instead. */
bool ebb_phyworld_compare(const ebb_dataset *set, const ebb_video *video, const ebb_clip *clip,
                          ebb_error *err);

/* The frames of an item. One call at a time reads the file; decoding is side by side. */
bool ebb_phyworld_read(const ebb_video *video, ebb_clip *clip, ebb_error *err);

/* The pieces' names and rows from an item, and back. */
#define EBB_PHYWORLD_ROWS 1000000
static inline int64_t ebb_phyworld_item(int64_t piece, int64_t row) {
  return piece * EBB_PHYWORLD_ROWS + row;
}

#endif
