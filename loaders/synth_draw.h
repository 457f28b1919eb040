/* The pictures of the built-in worlds. Shapes are covered analytically per pixel, layers blended back to
 * front: sky and floor, the main body and its shadow, the panel, the extra body and its shadow. */
#ifndef EBB_LOADERS_SYNTH_DRAW_H
#define EBB_LOADERS_SYNTH_DRAW_H

#include "loaders/synth_scene.h"

#include <stddef.h>

/* What stays the same through a movie. */
typedef struct ebb_synth_painter {
  const ebb_synth_scene *scene; /* borrowed */
  double *backdrop;             /* [size, 3] one colour per row */
  double *panel;                /* [size, size, 3] */
  double *panel_cover;          /* [size, size] 0..1 */
  double *canvas;               /* [size, size, 3] the frame in the making, 0..255 */
} ebb_synth_painter;

bool ebb_synth_painter_open(ebb_synth_painter *painter, const ebb_synth_scene *scene, ebb_error *err);
void ebb_synth_painter_close(ebb_synth_painter *painter); /* a zeroed struct is fine */

/* Paints frame `frame` of course 0 (A) or 1 (B) into rgb [size, size, 3]. Not reentrant on one painter. */
void ebb_synth_paint(ebb_synth_painter *painter, int course, int frame, uint8_t *rgb);

const char *ebb_synth_body_colour_name(int colour);
const char *ebb_synth_panel_colour_name(int colour);

#endif
