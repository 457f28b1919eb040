#include "loaders/synth_scene.h"

#include "kernels/random.h"

#include <math.h>

/* All ranges are stated for the reference movie, 64 pixels and 33 frames, and scale from there. */
#define PIXEL (1.0 / 64.0)
#define REFERENCE_STEPS 32

static const double gravity_reference = 0.36 * PIXEL; /* per frame^2: a bounce of 8 pixels lasts 13 frames */
static const double speed_low = 1.3 * PIXEL, speed_high = 2.1 * PIXEL;
static const double radius_low = 0.118, radius_high = 0.132; /* times zoom: 0.109 .. 0.143 */
static const double apex_low = 4.0 * PIXEL, apex_high = 12.0 * PIXEL;
static const double visible_reference = 9.0; /* frames in sight on either side of the panel */

ebb_synth_dice ebb_synth_dice_of(uint64_t seed, int category, int64_t number, int stream) {
  uint64_t scene = (uint64_t)number * 4u + (uint64_t)category;
  return (ebb_synth_dice){seed, scene * EBB_SYNTH_STREAMS + (uint64_t)stream, 0};
}

double ebb_synth_between(ebb_synth_dice *dice, double low, double high) {
  return low + (high - low) * ebb_random_uniform(dice->seed, dice->stream, dice->index++);
}

int ebb_synth_pick(ebb_synth_dice *dice, int n) {
  return (int)ebb_random_below(dice->seed, dice->stream, dice->index++, (uint32_t)n);
}

void ebb_synth_shuffle(ebb_synth_dice *dice, int n, int *order) {
  for (int i = 0; i < n; i++)
    order[i] = i;
  for (int i = n - 1; i > 0; i--) {
    int j = ebb_synth_pick(dice, i + 1);
    int held = order[i];
    order[i] = order[j];
    order[j] = held;
  }
}

const char *ebb_synth_shape_name(int shape) {
  static const char *const names[EBB_SHAPES] = {"Sphere", "Cube", "Cone"};
  return names[shape];
}

ebb_synth_state ebb_synth_state_at(const ebb_synth_body *body, int frame) {
  ebb_synth_state s = {.x = body->x0 + body->vx * frame, .vx = body->vx};
  if (body->apex > 0.0) {
    double turns = frame / body->period + body->phase;
    double u = turns - (double)(int64_t)turns;
    s.z = 4.0 * body->apex * u * (1.0 - u);
    s.vz = 4.0 * body->apex * (1.0 - 2.0 * u) / body->period;
  }
  return s;
}

double ebb_synth_px(const ebb_synth_scene *scene, double x) {
  return 0.5 + scene->shift + scene->zoom * x;
}

double ebb_synth_py(const ebb_synth_scene *scene, double z, double depth) {
  return scene->stand + scene->zoom * (depth - z);
}

static void choose_look(ebb_synth_scene *s, ebb_synth_dice *dice) {
  s->zoom = ebb_synth_between(dice, 0.92, 1.08);
  s->shift = ebb_synth_between(dice, -0.04, 0.04);
  s->horizon = ebb_synth_between(dice, 0.68, 0.78);
  s->stand = s->horizon + 0.05 * s->zoom;
  s->light_side = ebb_synth_between(dice, -1.0, 1.0);
  double brightness = ebb_synth_between(dice, 0.86, 1.02);
  for (int c = 0; c < 3; c++)
    s->light[c] = brightness * ebb_synth_between(dice, 0.95, 1.05);
  s->sky = ebb_synth_pick(dice, EBB_SKY_COLOURS);
  s->floor = ebb_synth_pick(dice, EBB_FLOOR_COLOURS);
  s->panel_colour = ebb_synth_pick(dice, EBB_PANEL_COLOURS);
  s->panel_style = ebb_synth_pick(dice, EBB_PANEL_STYLES);
}

static void choose_bounce(ebb_synth_body *body, double apex, double gravity, ebb_synth_dice *dice) {
  double phase = ebb_synth_between(dice, 0.0, 1.0);
  body->apex = apex;
  body->period = apex > 0.0 ? sqrt(8.0 * apex / gravity) : 0.0;
  body->phase = apex > 0.0 ? phase : 0.0;
}

static double choose_apex(ebb_synth_dice *dice) {
  bool rolls = ebb_synth_between(dice, 0.0, 1.0) < 0.3;
  double apex = ebb_synth_between(dice, apex_low, apex_high);
  return rolls ? 0.0 : apex;
}

/* Width, in image widths, of the part of the body that is neither behind the panel nor outside the picture.
 */
static double width_in_sight(const ebb_synth_scene *s, const ebb_synth_body *body, int frame) {
  double x = ebb_synth_state_at(body, frame).x;
  double left = ebb_synth_px(s, x - body->radius), right = ebb_synth_px(s, x + body->radius);
  double panel_left = ebb_synth_px(s, -s->panel_half), panel_right = ebb_synth_px(s, s->panel_half);
  left = left < 0.0 ? 0.0 : left;
  right = right > 1.0 ? 1.0 : right;
  double before = (right < panel_left ? right : panel_left) - left;
  double after = right - (left > panel_right ? left : panel_right);
  return (before > 0.0 ? before : 0.0) + (after > 0.0 ? after : 0.0);
}

/* The course starts and ends in the picture, and at least a quarter of the body shows for `need` frames on
 * either side. */
static bool shows_enough(const ebb_synth_scene *s, const ebb_synth_body *body, double need) {
  int last = s->frames - 1, counts[2] = {0, 0};
  for (int frame = 0; frame <= last; frame++)
    if (width_in_sight(s, body, frame) >= 0.5 * body->radius * s->zoom)
      counts[frame >= s->hidden_first]++;
  double half = body->radius * s->zoom;
  return width_in_sight(s, body, 0) >= half && width_in_sight(s, body, last) >= half && counts[0] >= need &&
         counts[1] >= need;
}

/* Draws speed, radius, panel and the time of crossing: at that time the body is on the panel's axis, and the
 * panel is as wide as it takes to hide the body, with a pixel to spare, at exactly hidden_count frames. */
static void choose_crossing(ebb_synth_scene *s, ebb_synth_body *body, ebb_synth_dice *dice) {
  double steps = s->frames - 1, stretch = steps / REFERENCE_STEPS;
  int direction = ebb_synth_pick(dice, 2) ? 1 : -1;
  double speed = ebb_synth_between(dice, speed_low, speed_high) / stretch;
  int hidden = (int)((3 + ebb_synth_pick(dice, 4)) * stretch + 0.5);
  s->hidden_count = hidden < EBB_SYNTH_HIDDEN_MIN ? EBB_SYNTH_HIDDEN_MIN : hidden;
  double half_hidden = (s->hidden_count - 1) * 0.5;
  s->hidden_first = (int)(ebb_synth_between(dice, 0.42, 0.60) * steps - half_hidden + 0.5);
  s->cut = s->hidden_first + (s->hidden_count + 1) / 2;
  double crossing = s->hidden_first + half_hidden + ebb_synth_between(dice, -0.25, 0.25);
  body->radius = ebb_synth_between(dice, radius_low, radius_high);
  double spare = 1.1 / (s->size * s->zoom);
  s->panel_half = body->radius + spare + speed * (half_hidden + 0.3);
  s->panel_height = apex_high + 2.0 * body->radius + spare + ebb_synth_between(dice, 0.0, 0.05);
  s->panel_depth = 0.07;
  body->vx = direction * speed;
  body->x0 = -body->vx * crossing;
}

static void choose_motion(ebb_synth_scene *s, ebb_synth_dice *dice) {
  double need = visible_reference * (s->frames - 1) / REFERENCE_STEPS;
  ebb_synth_body *a = &s->course[0], *b = &s->course[1];
  /* Short movies must hide the body for the same three frames and cannot show it as long: ask for less by and
   * by. */
  int attempt = 0;
  do {
    choose_crossing(s, a, dice);
    if (++attempt % 256 == 0)
      need *= 0.75;
  } while (attempt < 4096 && !shows_enough(s, a, need));
  a->present = true;
  a->shape = ebb_synth_pick(dice, EBB_SHAPES);
  a->colour = ebb_synth_pick(dice, EBB_BODY_COLOURS);
  choose_bounce(a, choose_apex(dice), s->gravity, dice);
  *b = *a;
  if (s->category == 1) {
    b->present = false;
  } else if (s->category == 2) {
    b->shape = (a->shape + 1 + ebb_synth_pick(dice, EBB_SHAPES - 1)) % EBB_SHAPES;
  } else {
    b->vx = -a->vx;
    b->x0 = -a->x0;
    choose_bounce(b, choose_apex(dice), s->gravity, dice);
  }
  /* Which of the two is called A must say nothing. */
  if (ebb_synth_pick(dice, 2)) {
    ebb_synth_body held = *a;
    *a = *b;
    *b = held;
  }
}

/* A small second body, in a quarter of the scenes: nearer the camera than path and panel, beside the panel.
 */
static void choose_extra(ebb_synth_scene *s, ebb_synth_dice *dice) {
  ebb_synth_body *e = &s->extra;
  e->present = ebb_synth_between(dice, 0.0, 1.0) < 0.25;
  e->shape = ebb_synth_pick(dice, EBB_SHAPES);
  e->colour = (s->course[0].colour + 1 + ebb_synth_pick(dice, EBB_BODY_COLOURS - 1)) % EBB_BODY_COLOURS;
  e->radius = ebb_synth_between(dice, 0.052, 0.062);
  e->x0 = (ebb_synth_pick(dice, 2) ? 1 : -1) * ebb_synth_between(dice, 0.33, 0.38);
  e->depth = 0.14;
  double apex = ebb_synth_between(dice, 0.03, 0.06);
  choose_bounce(e, ebb_synth_pick(dice, 2) ? apex : 0.0, s->gravity, dice);
}

ebb_synth_scene ebb_synth_scene_of(const ebb_synth_options *options, int category, int64_t number) {
  ebb_synth_scene s = {
      .category = category, .number = number, .size = options->size, .frames = options->frames};
  double stretch = (options->frames - 1) / (double)REFERENCE_STEPS;
  s.gravity = gravity_reference / (stretch * stretch);
  ebb_synth_dice look = ebb_synth_dice_of(options->seed, category, number, EBB_SYNTH_LOOK);
  ebb_synth_dice motion = ebb_synth_dice_of(options->seed, category, number, EBB_SYNTH_MOTION);
  ebb_synth_dice extra = ebb_synth_dice_of(options->seed, category, number, EBB_SYNTH_EXTRA);
  choose_look(&s, &look);
  choose_motion(&s, &motion);
  choose_extra(&s, &extra);
  return s;
}
