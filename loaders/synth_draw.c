#include "loaders/synth_draw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct paint {
  const char *name;
  double rgb[3];
} paint;

static const paint body_paint[EBB_BODY_COLOURS] = {
    {"red", {214, 40, 44}},  {"orange", {240, 132, 20}}, {"yellow", {246, 214, 36}}, {"green", {36, 150, 62}},
    {"blue", {36, 74, 206}}, {"purple", {136, 44, 168}}, {"cyan", {20, 170, 186}},
};
/* top of the sky, sky at the horizon */
static const double sky_paint[EBB_SKY_COLOURS][2][3] = {
    {{150, 188, 228}, {214, 230, 242}}, {{226, 204, 178}, {244, 232, 216}},
    {{184, 178, 214}, {226, 222, 238}}, {{170, 206, 196}, {222, 238, 230}},
    {{186, 190, 196}, {226, 228, 230}},
};
static const double floor_paint[EBB_FLOOR_COLOURS][3] = {
    {156, 132, 102}, {124, 126, 122}, {178, 168, 136}, {108, 112, 130}, {136, 112, 112},
};
static const paint panel_paint[EBB_PANEL_COLOURS] = {
    {"charcoal", {58, 58, 66}},
    {"white", {234, 234, 228}},
    {"brown", {104, 74, 54}},
    {"slate", {78, 100, 108}},
};

const char *ebb_synth_body_colour_name(int colour) {
  return body_paint[colour].name;
}

const char *ebb_synth_panel_colour_name(int colour) {
  return panel_paint[colour].name;
}

static double clamp(double v, double low, double high) {
  return v < low ? low : v > high ? high : v;
}

/* The part of pixel [p, p+1] that lies in [low, high]. */
static double overlap(double low, double high, int p) {
  double from = low > p ? low : p, to = high < p + 1 ? high : p + 1;
  return to > from ? to - from : 0.0;
}

/* c (1-a) + paint a, and not c + (paint - c) a: where a is 1 the layer below must leave no trace, to the last
 * bit. */
static void blend(double *pixel, const double *over, double a) {
  for (int c = 0; c < 3; c++)
    pixel[c] = pixel[c] * (1.0 - a) + over[c] * a;
}

/* A body as the canvas sees it, in pixels. */
typedef struct figure {
  int shape, size;
  double x, base, radius; /* centre line, lowest point, half side */
  double lift;            /* height of the lowest point over the ground, in radii */
  double ground;          /* the line below it */
  double light_side;
  double rgb[3]; /* lit */
} figure;

static figure figure_of(const ebb_synth_scene *s, const ebb_synth_body *body, int frame) {
  ebb_synth_state at = ebb_synth_state_at(body, frame);
  figure f = {.shape = body->shape, .size = s->size, .light_side = s->light_side};
  f.x = ebb_synth_px(s, at.x) * s->size;
  f.base = ebb_synth_py(s, at.z, body->depth) * s->size;
  f.ground = ebb_synth_py(s, 0.0, body->depth) * s->size;
  f.radius = body->radius * s->zoom * s->size;
  f.lift = at.z / body->radius;
  for (int c = 0; c < 3; c++)
    f.rgb[c] = body_paint[body->colour].rgb[c] * s->light[c];
  return f;
}

/* dx, dy from the centre of the bounding square to the centre of the pixel, in pixels, y down. */
static double sphere_at(const figure *f, double dx, double dy, double *rgb) {
  double nx = dx / f->radius, ny = dy / f->radius;
  double nn = nx * nx + ny * ny;
  double nz = nn < 1.0 ? sqrt(1.0 - nn) : 0.0;
  double lx = 0.55 * f->light_side;
  double facing = (lx * nx - 0.6 * ny + 0.6 * nz) / sqrt(lx * lx + 0.72);
  double diffuse = 0.64 + 0.48 * clamp(facing, 0.0, 1.0);
  double shine = clamp((facing - 0.86) / 0.14, 0.0, 1.0) * 0.6;
  for (int c = 0; c < 3; c++)
    rgb[c] = f->rgb[c] * diffuse * (1.0 - shine) + 255.0 * shine;
  return clamp(f->radius - sqrt(dx * dx + dy * dy) + 0.5, 0.0, 1.0);
}

/* Returns the cover of pixel (px, py) and its colour. No shape covers more than a pixel that its bounding
 * square touches: being hidden does not depend on the shape. */
static double figure_at(const figure *f, int px, int py, double *rgb) {
  double top = f->base - 2.0 * f->radius;
  double dx = px + 0.5 - f->x, down = py + 0.5 - top;
  if (f->shape == EBB_SHAPE_SPHERE)
    return sphere_at(f, dx, down - f->radius, rgb);
  double rows = overlap(top, f->base, py);
  if (f->shape == EBB_SHAPE_CUBE) {
    double lid = rows > 0.0 ? overlap(top, top + 0.5 * f->radius, py) / rows : 0.0;
    for (int c = 0; c < 3; c++) {
      double front = f->rgb[c] * (0.90 + 0.10 * f->light_side * dx / f->radius);
      rgb[c] = front * (1.0 - lid) + (f->rgb[c] * 0.55 + 255.0 * 0.45) * lid;
    }
    return rows * overlap(f->x - f->radius, f->x + f->radius, px);
  }
  double half = clamp(down, 0.5, 2.0 * f->radius) * 0.5;
  double round = clamp(dx / half, -1.0, 1.0);
  for (int c = 0; c < 3; c++)
    rgb[c] = f->rgb[c] * (0.90 + 0.26 * f->light_side * round);
  const double slant = 0.8944271909999159; /* 2 / sqrt 5: horizontal distance to distance from the edge */
  return rows * clamp((down * 0.5 - (dx < 0.0 ? -dx : dx)) * slant + 0.5, 0.0, 1.0) *
         overlap(f->x - f->radius, f->x + f->radius, px);
}

static int pixel_index(double v, int size) {
  return (int)clamp(v, 0.0, size);
}

/* A soft ellipse on the ground, inside the body's width, that fades as the body rises. */
static void paint_shadow(double *canvas, const figure *f) {
  double strength = 0.5 * clamp(1.0 - 0.5 * f->lift, 0.0, 1.0);
  double rx = f->radius * 0.95, ry = f->radius * 0.15;
  static const double black[3] = {20, 20, 26};
  int x1 = pixel_index(f->x + rx + 1.0, f->size), y1 = pixel_index(f->ground + ry + 1.0, f->size);
  for (int y = pixel_index(f->ground - ry, f->size); y < y1; y++)
    for (int x = pixel_index(f->x - rx, f->size); x < x1; x++) {
      double u = (x + 0.5 - f->x) / rx, v = (y + 0.5 - f->ground) / ry;
      double inside = 1.0 - (u * u + v * v);
      if (inside > 0.0)
        blend(canvas + ((size_t)y * (size_t)f->size + (size_t)x) * 3, black,
              strength * (inside * (2.0 - inside)));
    }
}

static void paint_body(double *canvas, const ebb_synth_scene *s, const ebb_synth_body *body, int frame) {
  if (!body->present)
    return;
  figure f = figure_of(s, body, frame);
  paint_shadow(canvas, &f);
  int x1 = pixel_index(f.x + f.radius + 2.0, f.size), y1 = pixel_index(f.base + 2.0, f.size);
  for (int y = pixel_index(f.base - 2.0 * f.radius - 1.0, f.size); y < y1; y++)
    for (int x = pixel_index(f.x - f.radius - 1.0, f.size); x < x1; x++) {
      double rgb[3];
      double cover = figure_at(&f, x, y, rgb);
      if (cover > 0.0)
        blend(canvas + ((size_t)y * (size_t)f.size + (size_t)x) * 3, rgb, cover);
    }
}

static void paint_backdrop(ebb_synth_painter *p) {
  const ebb_synth_scene *s = p->scene;
  double line = s->horizon * s->size;
  for (int y = 0; y < s->size; y++) {
    double high = clamp((y + 0.5) / line, 0.0, 1.0);
    double near = clamp((y + 0.5 - line) / (s->size - line), 0.0, 1.0);
    double sky_part = overlap(0.0, line, y);
    for (int c = 0; c < 3; c++) {
      double sky = sky_paint[s->sky][0][c] * (1.0 - high) + sky_paint[s->sky][1][c] * high;
      double floor = floor_paint[s->floor][c] * (0.90 + 0.20 * near);
      p->backdrop[y * 3 + c] = (sky * sky_part + floor * (1.0 - sky_part)) * s->light[c];
    }
  }
}

/* Style 0 plain, 1 with a frame, 2 with a band across. */
static void paint_panel(ebb_synth_painter *p) {
  const ebb_synth_scene *s = p->scene;
  double n = s->size;
  double left = ebb_synth_px(s, -s->panel_half) * n, right = ebb_synth_px(s, s->panel_half) * n;
  double top = ebb_synth_py(s, s->panel_height, 0.0) * n, bottom = ebb_synth_py(s, 0.0, s->panel_depth) * n;
  const double *base = panel_paint[s->panel_colour].rgb;
  double border = s->panel_style == 1 ? 0.03 * n : 0.0;
  double band = top + 0.12 * n, band_end = s->panel_style == 2 ? band + 0.06 * n : band;
  for (int y = 0; y < s->size; y++)
    for (int x = 0; x < s->size; x++) {
      size_t at = (size_t)y * (size_t)s->size + (size_t)x;
      double inner = overlap(left + border, right - border, x) * overlap(top + border, bottom, y);
      double marked = s->panel_style == 2 ? overlap(band, band_end, y) : border > 0.0 ? 1.0 - inner : 0.0;
      for (int c = 0; c < 3; c++) {
        double other = base[c] > 128.0 ? base[c] * 0.72 : base[c] * 0.75 + 255.0 * 0.25;
        p->panel[at * 3 + (size_t)c] = (base[c] * (1.0 - marked) + other * marked) * s->light[c];
      }
      p->panel_cover[at] = overlap(left, right, x) * overlap(top, bottom, y);
    }
}

bool ebb_synth_painter_open(ebb_synth_painter *painter, const ebb_synth_scene *scene, ebb_error *err) {
  size_t n = (size_t)scene->size;
  *painter = (ebb_synth_painter){.scene = scene};
  painter->backdrop = malloc(n * 3 * sizeof(double));
  painter->panel = malloc(n * n * 3 * sizeof(double));
  painter->panel_cover = malloc(n * n * sizeof(double));
  painter->canvas = malloc(n * n * 3 * sizeof(double));
  if (!painter->backdrop || !painter->panel || !painter->panel_cover || !painter->canvas) {
    ebb_synth_painter_close(painter);
    return ebb_fail(err, "synth: out of memory for pictures of %d x %d", scene->size, scene->size);
  }
  paint_backdrop(painter);
  paint_panel(painter);
  return true;
}

void ebb_synth_painter_close(ebb_synth_painter *painter) {
  free(painter->backdrop);
  free(painter->panel);
  free(painter->panel_cover);
  free(painter->canvas);
  *painter = (ebb_synth_painter){0};
}

void ebb_synth_paint(ebb_synth_painter *painter, int course, int frame, uint8_t *rgb) {
  const ebb_synth_scene *s = painter->scene;
  size_t n = (size_t)s->size;
  for (size_t y = 0; y < n; y++)
    for (size_t x = 0; x < n; x++)
      memcpy(painter->canvas + (y * n + x) * 3, painter->backdrop + y * 3, 3 * sizeof(double));
  paint_body(painter->canvas, s, &s->course[course], frame);
  for (size_t i = 0; i < n * n; i++)
    if (painter->panel_cover[i] > 0.0)
      blend(painter->canvas + i * 3, painter->panel + i * 3, painter->panel_cover[i]);
  paint_body(painter->canvas, s, &s->extra, frame);
  for (size_t i = 0; i < n * n * 3; i++)
    rgb[i] = (uint8_t)(clamp(painter->canvas[i], 0.0, 255.0) + 0.5);
}
