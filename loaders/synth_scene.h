/* The physics of the built-in worlds: what is where at which frame. No pixels.
 *
 * Lengths are in image heights, in world coordinates: x to the right of the occluder's axis, z up from the
 * ground. Times are in frames. The camera maps a point of the plane of motion to the picture (0..1, y down)
 * by px = 0.5 + shift + zoom * x        py = stand + zoom * (depth - z) where depth >= 0 is how far down the
 * picture the line is on which a thing stands (nearer the camera). */
#ifndef EBB_LOADERS_SYNTH_SCENE_H
#define EBB_LOADERS_SYNTH_SCENE_H

#include "loaders/synth.h"

#include <stdbool.h>
#include <stdint.h>

enum { EBB_SHAPE_SPHERE, EBB_SHAPE_CUBE, EBB_SHAPE_CONE, EBB_SHAPES };
enum {
  EBB_BODY_COLOURS = 7,
  EBB_SKY_COLOURS = 5,
  EBB_FLOOR_COLOURS = 5,
  EBB_PANEL_COLOURS = 4,
  EBB_PANEL_STYLES = 3
};

/* One law for all bodies: constant horizontal velocity; flight under gravity and elastic bounces,
 *     x(t) = x0 + vx t,    z(t) = 4 apex u (1 - u),  u = frac(t / period + phase),  period = sqrt(8 apex /
 * g). apex 0 rolls or rests on the ground. z is the height of the lowest point. */
typedef struct ebb_synth_body {
  bool present;
  int shape, colour;
  double radius; /* half the side of the bounding square, the same for every shape */
  double x0, vx;
  double apex, period, phase;
  double depth;
} ebb_synth_body;

typedef struct ebb_synth_state {
  double x, z, vx, vz; /* heights, heights per frame */
} ebb_synth_state;

typedef struct ebb_synth_scene {
  int category; /* 1..3 for O1..O3 */
  int64_t number;
  int size, frames;
  double gravity; /* heights per frame^2 */
  double zoom, shift, horizon, stand;
  double light_side, light[3]; /* -1 from the left .. 1 from the right; factor per colour channel */
  int sky, floor;
  int panel_colour, panel_style;
  double panel_half, panel_height, panel_depth; /* stands on depth, reaches z = height */
  ebb_synth_body course[2];                     /* the main body in A and in B */
  ebb_synth_body extra;                         /* in front at one side, the same in A and B */
  int hidden_first, hidden_count;               /* the frames at which the main body is behind the panel */
  int cut;                                      /* impossible movies change course before this frame */
} ebb_synth_scene;

/* The independent random streams of a scene. */
enum {
  EBB_SYNTH_LOOK,
  EBB_SYNTH_MOTION,
  EBB_SYNTH_EXTRA,
  EBB_SYNTH_ORDER,
  EBB_SYNTH_LAWLESS,
  EBB_SYNTH_STREAMS
};

/* A sequence of draws from one stream of one scene. */
typedef struct ebb_synth_dice {
  uint64_t seed, stream, index;
} ebb_synth_dice;

ebb_synth_dice ebb_synth_dice_of(uint64_t seed, int category, int64_t number, int stream);
double ebb_synth_between(ebb_synth_dice *dice, double low, double high); /* [low, high) */
int ebb_synth_pick(ebb_synth_dice *dice, int n);                         /* 0..n-1 */

/* A random order of 0..n-1 (Fisher, Yates). */
void ebb_synth_shuffle(ebb_synth_dice *dice, int n, int *order);

/* The scene of (options, category 1..3, number >= 0). Total: options within their ranges always give a scene
 * whose main body is hidden, by at least one pixel on every side, at hidden_count >= EBB_SYNTH_HIDDEN_MIN
 * frames. */
ebb_synth_scene ebb_synth_scene_of(const ebb_synth_options *options, int category, int64_t number);

ebb_synth_state ebb_synth_state_at(const ebb_synth_body *body, int frame);

/* Where the picture of a world point is: image widths and heights from the top left corner. */
double ebb_synth_px(const ebb_synth_scene *scene, double x);
double ebb_synth_py(const ebb_synth_scene *scene, double z, double depth);

const char *ebb_synth_shape_name(int shape); /* "Sphere" "Cube" "Cone", as IntPhys writes them */

#endif
