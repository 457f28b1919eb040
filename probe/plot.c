#include "probe/plot.h"

#include "probe/canvas.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ".77"; "1.0", so that neighbouring cells do not run into one another */
static const char *hundredths(double v, char text[16]) {
  if (!isfinite(v))
    return strcpy(text, "-");
  snprintf(text, 16, "%.2f", fmax(-9, fmin(9, v)));
  if (text[0] == '0')
    memmove(text, text + 1, strlen(text));
  else if (strcmp(text, "1.00") == 0)
    text[3] = '\0';
  return text;
}

/* ---- heat maps ---- */

/* Steps from left to right, in each of them the heads where they are cells; block 0 at the bottom. */
typedef struct heat {
  const ebb_row *row;
  int x, y; /* upper left of the grid */
  int cell_w, cell_h;
  double top; /* value of the bright end */
  const ebb_plot_scale *scale;
} heat;

static const ebb_plot_scale accuracy_scale = {"accuracy", "chance", 0.5};

#define HEAD_GAP 5 /* between the heads of one step and those of the next */

static int step_width(const heat *h) {
  return h->row->head_count * h->cell_w + (h->row->head_count > 1 ? HEAD_GAP : 0);
}

static int grid_width(const heat *h) {
  return h->row->step_count * step_width(h);
}

static int grid_height(const heat *h) {
  return h->row->block_count * h->cell_h;
}

static double top_of(const ebb_row *row, const ebb_plot_scale *scale) {
  double top = 0.5 * (1 + scale->bottom);
  for (int i = 0; i < ebb_row_cells(row); i++)
    top = fmax(top, row->cell[EBB_ACCURACY][i]);
  return fmin(1, ceil(top * 20) / 20);
}

static double floor_of(const ebb_row *row) {
  return isfinite(row->permuted.mean) ? row->permuted.mean : row->independent.mean;
}

static double shade(const heat *h, double value) {
  return fmax(0, (value - h->scale->bottom) / (h->top - h->scale->bottom));
}

static int clamp(int v, int low, int high) {
  return v < low ? low : v > high ? high : v;
}

static int larger(int a, int b) {
  return a > b ? a : b;
}

/* Dark figures on bright cells; only where they fit. */
static void draw_value(ebb_canvas *c, const heat *h, int x, int y, double value) {
  int scale = h->cell_w >= 40 && h->cell_h >= 20 ? 2 : h->cell_w >= 20 && h->cell_h >= 10 ? 1 : 0;
  char text[16];
  if (scale)
    ebb_text(c, x + h->cell_w / 2, y + (h->cell_h - 7 * scale) / 2, scale, EBB_CENTRE,
             shade(h, value) > 0.6 ? EBB_INK : EBB_WHITE, hundredths(value, text));
}

static void corner_of(const heat *h, int cell, int *x, int *y) {
  const ebb_cell at = ebb_cell_of(h->row, cell);
  *x = h->x + at.step * step_width(h) + at.head * h->cell_w;
  *y = h->y + (h->row->block_count - 1 - at.block) * h->cell_h;
}

static void draw_cells(ebb_canvas *c, const heat *h) {
  int x, y;
  for (int cell = 0; cell < ebb_row_cells(h->row); cell++) {
    double value = h->row->cell[EBB_ACCURACY][cell];
    corner_of(h, cell, &x, &y);
    ebb_fill(c, x, y, h->cell_w, h->cell_h, ebb_viridis(shade(h, value)));
    draw_value(c, h, x, y, value);
  }
  corner_of(h, h->row->top, &x, &y);
  ebb_frame(c, x, y, h->cell_w, h->cell_h, 2, EBB_RED);
}

/* Every nth label so that none touches the next. */
static int stride(int room, int needed) {
  return needed > room ? (needed + room - 1) / (room > 0 ? room : 1) : 1;
}

static void draw_axes(ebb_canvas *c, const heat *h) {
  const ebb_row *r = h->row;
  int bottom = h->y + grid_height(h), every_step = stride(step_width(h), 44),
      every_block = stride(h->cell_h, 16);
  char text[96];
  for (int s = 0; s < r->step_count; s += every_step) {
    int x = h->x + s * step_width(h) + r->head_count * h->cell_w / 2;
    snprintf(text, sizeof text, "%d", r->steps[s]);
    ebb_text(c, x, bottom + 8, 2, EBB_CENTRE, EBB_INK, text);
    snprintf(text, sizeof text, "%.2f", fmax(-99, fmin(99, r->sigmas[s])));
    ebb_text(c, x, bottom + 28, 1, EBB_CENTRE, EBB_GREY, text);
  }
  for (int b = 0; r->blocks && b < r->block_count; b += every_block) {
    snprintf(text, sizeof text, "%d", r->blocks[b]);
    ebb_text(c, h->x - 8, h->y + (r->block_count - 1 - b) * h->cell_h + (h->cell_h - 14) / 2, 2, EBB_RIGHT,
             EBB_INK, text);
  }
  snprintf(text, sizeof text, "%s", grid_width(h) >= 300 ? "step (sigma below)" : "step");
  if (r->by_head)
    snprintf(text, sizeof text, "%s, heads 0-%d in each",
             grid_width(h) >= 480 ? "step (sigma below)" : "step", r->head_count - 1);
  ebb_text(c, h->x + grid_width(h) / 2, bottom + 46, 2, EBB_CENTRE, EBB_INK, text);
  if (r->blocks)
    ebb_text_up(c, h->x - 62, h->y + grid_height(h) / 2, 2, EBB_INK, "block");
}

/* Colour bar from chance up, with the best-of-K floor marked. */
static void draw_bar(ebb_canvas *c, const heat *h, int height) {
  int x = h->x + grid_width(h) + 24, width = 18;
  for (int j = 0; j < height; j++)
    ebb_fill(c, x, h->y + height - 1 - j, width, 1, ebb_viridis((double)j / (height - 1)));
  ebb_frame(c, x, h->y, width, height, 1, EBB_GREY);
  char text[48];
  ebb_text(c, x + width + 8, h->y, 2, EBB_LEFT, EBB_INK, hundredths(h->top, text));
  snprintf(text, sizeof text, "%s %s", hundredths(h->scale->bottom, (char[16]){0}), h->scale->bottom_name);
  ebb_text(c, x + width + 8, h->y + height - 14, 2, EBB_LEFT, EBB_INK, text);
  double low = floor_of(h->row);
  if (!isfinite(low))
    return;
  int y = h->y + height - 1 - (int)lround(fmin(1, shade(h, low)) * (height - 1));
  ebb_fill(c, x - 5, y - 1, width + 10, 3, EBB_RED);
  snprintf(text, sizeof text, "%s floor", hundredths(low, (char[16]){0}));
  ebb_text(c, x + width + 8, clamp(y - 7, h->y + 20, h->y + height - 34), 2, EBB_LEFT, EBB_RED, text);
}

static void draw_heat(ebb_canvas *c, const heat *h) {
  draw_cells(c, h);
  draw_axes(c, h);
  draw_bar(c, h, larger(grid_height(h), 90));
}

bool ebb_plot_heat_map(const ebb_row *row, const char *dir, ebb_error *err) {
  return ebb_plot_cells(row, &accuracy_scale, dir, err);
}

bool ebb_plot_cells(const ebb_row *row, const ebb_plot_scale *scale, const char *dir, ebb_error *err) {
  heat h = {.row = row, .x = 90, .y = 84, .top = top_of(row, scale), .scale = scale};
  h.cell_w = clamp(1100 / (row->step_count * row->head_count), row->by_head ? 4 : 8, 46);
  h.cell_h = clamp(760 / row->block_count, 8, 26);
  char title[256], name[280], note[320], best[16], low[16], heads[64] = "";
  snprintf(title, sizeof title, "%s  %s  %s", row->category, row->model, row->feature);
  if (row->by_head)
    snprintf(heads, sizeof heads, "; in every step heads 0 to %d from left to right", row->head_count - 1);
  snprintf(note, sizeof note,
           "%s of each cell, mean over repeats, %lld videos%s; red: best of the first repeat, there %s "
           "against a floor of %s",
           scale->what, (long long)row->videos, heads, hundredths(row->top_once, best),
           hundredths(floor_of(row), low));
  int width = h.x + grid_width(&h) + 190, text_w = 24 + ebb_text_width(2, title),
      note_w = 24 + ebb_text_width(1, note);
  width = larger(larger(width, text_w), note_w);
  ebb_canvas c;
  if (!ebb_canvas_open(&c, width, h.y + larger(grid_height(&h), 90) + 76))
    return ebb_fail(err, "not enough memory for a picture");
  ebb_text(&c, 16, 18, 2, EBB_LEFT, EBB_INK, title);
  ebb_text(&c, 16, 46, 1, EBB_LEFT, EBB_GREY, note);
  draw_heat(&c, &h);
  snprintf(name, sizeof name, "heat-%s-%s-%s.png", row->category, row->model, row->feature);
  return ebb_canvas_save(&c, dir, name, err);
}

/* ---- overview ---- */

#define BARS 8
#define CATEGORIES 8

/* What the overview shows: bars of each category, the trained model first. */
typedef struct overview {
  int categories, bars;
  const ebb_row *row[CATEGORIES][BARS]; /* NULL: not there */
  char label[BARS][160];
  ebb_colour colour[BARS];
} overview;

static const ebb_row *find(const ebb_results *r, const char *category, const char *model,
                           const char *feature) {
  for (int i = 0; i < r->row_count; i++)
    if (strcmp(r->rows[i].category, category) == 0 && strcmp(r->rows[i].model, model) == 0 &&
        strcmp(r->rows[i].feature, feature) == 0)
      return &r->rows[i];
  return NULL;
}

static void add_bar(overview *o, const ebb_results *r, const ebb_row *like, bool with_feature) {
  static const ebb_colour trained = {42, 120, 142},
                          others[3] = {{150, 150, 150}, {222, 143, 5}, {120, 94, 60}},
                          latents[3] = {{170, 120, 190}, {204, 170, 215}, {230, 210, 236}};
  if (o->bars >= BARS)
    return;
  int k = o->bars, others_before = 0, latents_before = 0;
  for (int i = 1; i < k; i++)
    *(strchr(o->label[i], ' ') ? &latents_before : &others_before) += 1;
  o->colour[k] = k == 0 ? trained : with_feature ? latents[latents_before % 3] : others[others_before % 3];
  snprintf(o->label[k], sizeof o->label[k], "%s%s%s", like->model, with_feature ? " " : "",
           with_feature ? like->feature : "");
  for (int i = 0; i < o->categories; i++)
    o->row[i][k] =
        find(r, o->row[i][0] ? o->row[i][0]->category : like->category, like->model, like->feature);
  o->bars++;
}

static bool plan_overview(overview *o, const ebb_results *r) {
  const char *trained = ebb_trained_model(r->rows, r->row_count), *feature = NULL;
  for (int i = 0; i < r->row_count; i++)
    if (strcmp(r->rows[i].model, trained) == 0 && r->rows[i].blocks &&
        (!feature || strcmp(r->rows[i].feature, "block_out.mean") == 0))
      feature = r->rows[i].feature;
  *o = (overview){0};
  for (int i = 0; feature && i < r->row_count && o->categories < CATEGORIES; i++)
    if (strcmp(r->rows[i].model, trained) == 0 && strcmp(r->rows[i].feature, feature) == 0)
      o->row[o->categories++][0] = &r->rows[i];
  if (o->categories == 0)
    return false;
  const ebb_row *first = o->row[0][0];
  add_bar(o, r, first, false);
  for (int latents = 0; latents < 2; latents++)
    for (int i = 0; i < r->row_count; i++) {
      const ebb_row *row = &r->rows[i];
      bool other = strcmp(row->model, trained) != 0 && strcmp(row->category, first->category) == 0;
      if (other && (latents ? !row->blocks : row->blocks && strcmp(row->feature, feature) == 0))
        add_bar(o, r, row, latents);
    }
  return true;
}

typedef struct panel {
  int x, y, width, height; /* the plot area */
  double low, high;        /* of the value axis */
} panel;

static int at_value(const panel *p, double v) {
  return p->y + p->height -
         (int)lround((fmax(p->low, fmin(p->high, v)) - p->low) / (p->high - p->low) * p->height);
}

static void draw_bars(ebb_canvas *c, const overview *o, const panel *p, ebb_metric metric,
                      const char *title) {
  char text[16];
  ebb_text(c, p->x, p->y - 40, 2, EBB_LEFT, EBB_INK, title);
  for (int k = (int)ceil(p->low * 10 - 1e-9); k <= (int)(p->high * 10 + 1e-9); k++) {
    ebb_fill(c, p->x, at_value(p, k * 0.1), p->width, 1, EBB_PALE);
    ebb_text(c, p->x - 8, at_value(p, k * 0.1) - 7, 2, EBB_RIGHT, EBB_INK, hundredths(k * 0.1, text));
  }
  int cluster = p->width / o->categories, step = cluster * 5 / 6 / o->bars, bar = step * 4 / 5;
  for (int i = 0; i < o->categories; i++) {
    int left = p->x + i * cluster + (cluster - step * o->bars) / 2;
    for (int k = 0; k < o->bars; k++) {
      if (!o->row[i][k])
        continue;
      const ebb_interval *v = &o->row[i][k]->metric[metric];
      if (!isfinite(v->value))
        continue;
      int x = left + k * step, top = at_value(p, v->value), base = at_value(p, 0.5), highest = top;
      ebb_fill(c, x, top < base ? top : base, bar, abs(base - top) + 1, o->colour[k]);
      int middle = x + bar / 2;
      if (isfinite(v->low) && isfinite(v->high)) {
        int high = at_value(p, v->high), low = at_value(p, v->low);
        highest = high < top ? high : top;
        ebb_fill(c, middle - 1, high, 2, low - high + 1, EBB_INK);
        ebb_fill(c, middle - 5, high, 10, 2, EBB_INK);
        ebb_fill(c, middle - 5, low, 10, 2, EBB_INK);
      }
      ebb_text(c, middle, highest - 12, 1, EBB_CENTRE, EBB_INK, hundredths(v->value, text));
    }
    ebb_text(c, p->x + i * cluster + cluster / 2, p->y + p->height + 10, 2, EBB_CENTRE, EBB_INK,
             o->row[i][0]->category);
  }
  ebb_dashes(c, p->x, at_value(p, 0.5), p->width, 2, 8, EBB_RED);
  ebb_text(c, p->x + p->width + 6, at_value(p, 0.5) - 3, 1, EBB_LEFT, EBB_RED, "chance");
}

/* Lowest value of the axis that keeps every interval in sight. */
static double lowest(const overview *o) {
  double low = 0.4;
  for (int i = 0; i < o->categories; i++)
    for (int k = 0; k < o->bars; k++)
      for (int m = 0; o->row[i][k] && m < EBB_METRICS; m++)
        if (m != EBB_AUC)
          low = fmin(low, floor(o->row[i][k]->metric[m].low * 20) / 20);
  return fmax(0, low);
}

static int draw_legend(ebb_canvas *c, const overview *o, int x, int y, int width) {
  int left = x;
  for (int k = 0; k < o->bars; k++) {
    int needed = 24 + ebb_text_width(2, o->label[k]) + 24;
    if (left > x && left + needed > x + width) {
      left = x;
      y += 24;
    }
    ebb_fill(c, left, y, 16, 14, o->colour[k]);
    ebb_text(c, left + 24, y, 2, EBB_LEFT, EBB_INK, o->label[k]);
    left += needed;
  }
  return y + 24;
}

static void draw_maps(ebb_canvas *c, const overview *o, heat h, int each) {
  for (int i = 0; i < o->categories; i++)
    h.top = fmax(h.top, top_of(o->row[i][0], &accuracy_scale)); /* one scale for all */
  for (int i = 0; i < o->categories; i++, h.y += each) {
    char name[256];
    h.row = o->row[i][0];
    snprintf(name, sizeof name, "%s: %s, accuracy of each cell", h.row->category, h.row->model);
    ebb_text(c, h.x, h.y - 26, 2, EBB_LEFT, EBB_INK, name);
    draw_heat(c, &h);
  }
}

bool ebb_plot_overview(const ebb_results *results, const char *dir, ebb_error *err) {
  overview o;
  if (!plan_overview(&o, results))
    return true; /* no model with blocks: nothing to set side by side */
  const ebb_row *first = o.row[0][0];
  char title[256], note[256];
  snprintf(title, sizeof title, "%s%sprobes on %s: possible or impossible?", results->name,
           results->name[0] ? ": " : "", first->feature);
  snprintf(
      note, sizeof note,
      "%lld videos in %lld groups in %s; %d x %d-fold nested cross-validation by group%s; maps: means over "
      "repeats, red: best cell and floor of the first repeat",
      (long long)first->videos, (long long)first->groups, first->category, results->repeats, results->folds,
      results->bootstrap > 0 ? "; whiskers: 95 % intervals over groups" : "");
  int bars_w = clamp(o.categories * o.bars * 34, 420, 900);
  heat h = {.row = first, .x = 70 + bars_w + 150, .y = 110, .top = 0.75, .scale = &accuracy_scale};
  h.cell_w = clamp(520 / (first->step_count * first->head_count), first->by_head ? 2 : 6, 46);
  h.cell_h = clamp(220 / first->block_count, 6, 22);
  int each = larger(grid_height(&h), 90) + 120;
  int width = h.x + larger(grid_width(&h) + 190, 36 * 12 + ebb_text_width(2, first->model) - 60);
  width = larger(larger(width, 40 + ebb_text_width(3, title)), 40 + ebb_text_width(1, note));
  int height = 110 + larger(o.categories * each, 660);
  ebb_canvas c;
  if (!ebb_canvas_open(&c, width, height))
    return ebb_fail(err, "not enough memory for a picture");
  ebb_text(&c, 20, 18, 3, EBB_LEFT, EBB_INK, title);
  ebb_text(&c, 20, 52, 1, EBB_LEFT, EBB_GREY, note);
  int below = draw_legend(&c, &o, 20, 74, bars_w + 100), panel_h = (height - below - 190) / 2;
  panel p = {70, below + 48, bars_w, panel_h, lowest(&o), 1.0};
  draw_bars(&c, &o, &p, EBB_ACCURACY, "accuracy per video");
  p.y += panel_h + 90;
  draw_bars(&c, &o, &p, EBB_PAIRWISE, "pairwise accuracy inside the group");
  draw_maps(&c, &o, h, each);
  return ebb_canvas_save(&c, dir, "overview.png", err);
}

bool ebb_plot_all(const ebb_results *results, const char *dir, ebb_error *err) {
  bool ok = ebb_plot_overview(results, dir, err);
  for (int i = 0; ok && i < results->row_count; i++)
    if (ebb_row_cells(&results->rows[i]) > 1)
      ok = ebb_plot_heat_map(&results->rows[i], dir, err);
  return ok;
}
