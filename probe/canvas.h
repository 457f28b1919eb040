/* A picture in memory to draw figures on: rectangles, and text in a 5 x 7 bitmap font. Origin at the upper
 * left; what falls outside is not drawn. */
#ifndef EBB_PROBE_CANVAS_H
#define EBB_PROBE_CANVAS_H

#include "kernels/error.h"

#include <stdint.h>

typedef struct ebb_colour {
  uint8_t r, g, b;
} ebb_colour;

typedef struct ebb_canvas {
  int width, height;
  uint8_t *rgb; /* [height,width,3] */
} ebb_canvas;

static const ebb_colour EBB_INK = {34, 34, 34}, EBB_GREY = {130, 130, 130}, EBB_PALE = {225, 225, 225},
                        EBB_WHITE = {255, 255, 255}, EBB_RED = {200, 30, 30};

bool ebb_canvas_open(ebb_canvas *c, int width, int height); /* white; false when memory is out */
void ebb_canvas_close(ebb_canvas *c);
/* dir/name as PNG, and closes. Names are made of what data sets say: characters other than letters, digits,
 * '.', '_' and '-' become '_', so that they never lead out of the folder. */
bool ebb_canvas_save(ebb_canvas *c, const char *dir, const char *name, ebb_error *err);

void ebb_fill(ebb_canvas *c, int x, int y, int width, int height, ebb_colour colour);
void ebb_frame(ebb_canvas *c, int x, int y, int width, int height, int thickness,
               ebb_colour colour); /* inside */
/* Dashes of `dash` pixels along x. */
void ebb_dashes(ebb_canvas *c, int x, int y, int width, int thickness, int dash, ebb_colour colour);

typedef enum ebb_align { EBB_LEFT, EBB_CENTRE, EBB_RIGHT } ebb_align;
/* ASCII; y is the top; capitals are 5 x 7 times scale, tails reach two lower, characters are 6 x scale apart.
 * Returns the width. */
int ebb_text(ebb_canvas *c, int x, int y, int scale, ebb_align align, ebb_colour colour, const char *text);
/* Turned to read upwards, centred on y; x is its left side. */
void ebb_text_up(ebb_canvas *c, int x, int y, int scale, ebb_colour colour, const char *text);
int ebb_text_width(int scale, const char *text);

/* Perceptually uniform, dark to bright (viridis, van der Walt & Smith 2015, interpolated between eleven of
 * its colours); at in 0..1. */
ebb_colour ebb_viridis(double at);
/* Blue below, red above, white at 0 (ColorBrewer's RdBu, Brewer 2003, interpolated); at in -1..1. */
ebb_colour ebb_blue_red(double at);

#endif
