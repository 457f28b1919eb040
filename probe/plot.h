/* Results as pictures (PNG). */
#ifndef EBB_PROBE_PLOT_H
#define EBB_PROBE_PLOT_H

#include "probe/results.h"

/* dir/heat-<category>-<model>-<feature>.png: accuracy of every cell of a row, mean over repeats, block by
 * step, with the best cell of the first repeat framed and its floor on the colour bar; characters of the
 * names other than letters, digits, '.', '_' and '-' become '_'. */
bool ebb_plot_heat_map(const ebb_row *row, const char *dir, ebb_error *err);
/* The same for cells of another measure. */
typedef struct ebb_plot_scale {
  const char *what;        /* "R2 of speed": in the note above the map */
  const char *bottom_name; /* of the dark end: "chance", "nothing" */
  double bottom;           /* its value; what is below is as dark */
} ebb_plot_scale;
bool ebb_plot_cells(const ebb_row *row, const ebb_plot_scale *scale, const char *dir, ebb_error *err);
/* dir/overview.png: for each category the reported accuracy and pairwise accuracy of the trained model, its
 * comparisons and the VAE, with intervals; beside it the heat maps of the trained model. The feature is
 * block_out.mean, or else the first with blocks. */
bool ebb_plot_overview(const ebb_results *results, const char *dir, ebb_error *err);
/* Both, for all rows with more than one cell. */
bool ebb_plot_all(const ebb_results *results, const char *dir, ebb_error *err);

#endif
