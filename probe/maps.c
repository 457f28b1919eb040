#include "probe/maps.h"

#include "kernels/tensor.h"
#include "probe/canvas.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- means ------------------------------------------------------------------------------------------- */

static bool is_meant(const ebb_store *store, int set, const char *category, int64_t v) {
  const ebb_store_video *video = &store->videos[v];
  return video->label != EBB_UNLABELLED && ebb_store_has(store, set, v) &&
         (!category || strcmp(video->category, category) == 0);
}

/* Adds what one block's maps of the videos say. x [n,width] */
static void add_block(ebb_mean_maps *m, const ebb_store *store, int64_t n, const int64_t *videos,
                      const float *x, int64_t block) {
  const int64_t width = m->heads * m->queries * m->keys;
  for (int64_t i = 0; i < n; i++) {
    const int label = store->videos[videos[i]].label == EBB_POSSIBLE;
    double *mean = m->mean[label] + block * width;
    for (int64_t k = 0; k < width; k++)
      mean[k] += (double)x[i * width + k] / (double)m->videos[label];
  }
}

/* [blocks, heads, frames, frames]; else err says what it is. */
static bool is_map(const ebb_store *store, int set, int feature, ebb_error *err) {
  const ebb_feature *f = &store->sets[set].features[feature];
  char shape[EBB_SHAPE_TEXT];
  return (f->by_block && f->by_head && f->rank == 4) ||
         ebb_fail(err,
                  "%s: %s of model \"%s\" is %s, by_block %s, by_head %s: expected [blocks, heads, frames, "
                  "frames], by_block true, by_head true",
                  store->dir, f->name, store->sets[set].model, ebb_shape_text(f->rank, f->shape, shape),
                  f->by_block ? "true" : "false", f->by_head ? "true" : "false");
}

bool ebb_mean_maps_make(ebb_mean_maps *m, const ebb_store *store, int set, int feature, const char *category,
                        int step, ebb_error *err) {
  const ebb_feature *f = &store->sets[set].features[feature];
  *m = (ebb_mean_maps){0};
  if (!is_map(store, set, feature, err))
    return false;
  *m = (ebb_mean_maps){
      .blocks = f->shape[0], .heads = f->shape[1], .queries = f->shape[2], .keys = f->shape[3]};
  const size_t width = (size_t)ebb_store_width(f), all = width * (size_t)m->blocks;
  int64_t *videos = calloc((size_t)store->video_count + 1, sizeof *videos), n = 0;
  for (int64_t v = 0; videos && v < store->video_count; v++)
    if (is_meant(store, set, category, v)) {
      m->videos[store->videos[v].label == EBB_POSSIBLE]++;
      videos[n++] = v;
    }
  float *x = calloc((size_t)n * width + 1, sizeof *x);
  m->mean[0] = calloc(2 * all + 1, sizeof **m->mean);
  m->mean[1] = m->mean[0] ? m->mean[0] + all : NULL;
  bool ok =
      (videos && x && m->mean[0]) || ebb_fail(err, "not enough memory for maps of %lld videos", (long long)n);
  for (int64_t block = 0; ok && block < m->blocks; block++) {
    ok = ebb_store_gather(store, set, feature, step, (int)block, EBB_ALL_HEADS, n, videos, x, err);
    if (ok)
      add_block(m, store, n, videos, x, block);
  }
  free(x);
  free(videos);
  if (!ok)
    ebb_mean_maps_free(m);
  return ok;
}

void ebb_mean_maps_free(ebb_mean_maps *m) {
  free(m->mean[0]);
  *m = (ebb_mean_maps){0};
}

/* ---- the picture ------------------------------------------------------------------------------------- */

#define SPACE 4   /* between maps */
#define LEFT 90   /* of the first panel: block numbers */
#define RIGHT 150 /* of a panel: its colour bar */
#define TOP 116
#define BOTTOM 64
#define MOST_PIXELS (1LL << 28)

/* Colours of one panel. A share's are those of its root, on 0 to 1 always: most of a map is far below its
 * diagonal. A difference's go from -top to top. */
typedef struct scale {
  bool difference;
  double top;
} scale;

/* Where in 0..1 of the colour bar a value is. */
static double place_on(const scale *s, double value) {
  return s->difference ? (value / s->top + 1) / 2 : sqrt(fmax(0, value));
}

static ebb_colour colour_at(const scale *s, double place) {
  return s->difference ? ebb_blue_red(2 * place - 1) : ebb_viridis(place);
}

typedef struct panel {
  const ebb_mean_maps *maps;
  const double *value; /* [L,N,Tq,Tk] */
  scale scale;
  int x, y, pixel; /* upper left; pixels of one frame */
} panel;

static int map_width(const panel *p) {
  return p->pixel * (int)p->maps->keys + SPACE;
}

static int map_height(const panel *p) {
  return p->pixel * (int)p->maps->queries + SPACE;
}

/* Block 0 at the bottom, head 0 on the left; in a map the first query is at the top, the first key on the
 * left. */
static void draw_grid(ebb_canvas *c, const panel *p) {
  const ebb_mean_maps *m = p->maps;
  const double *v = p->value;
  for (int64_t block = 0; block < m->blocks; block++)
    for (int64_t head = 0; head < m->heads; head++) {
      int x = p->x + (int)head * map_width(p), y = p->y + (int)(m->blocks - 1 - block) * map_height(p);
      for (int64_t i = 0; i < m->queries * m->keys; i++)
        ebb_fill(c, x + (int)(i % m->keys) * p->pixel, y + (int)(i / m->keys) * p->pixel, p->pixel, p->pixel,
                 colour_at(&p->scale, place_on(&p->scale, *v++)));
      if (p->scale.difference) /* white on white */
        ebb_frame(c, x - 1, y - 1, map_width(p) - SPACE + 2, map_height(p) - SPACE + 2, 1, EBB_PALE);
    }
}

static int every(int room, int needed) {
  return needed > room ? (needed + room - 1) / room : 1;
}

static void draw_axes(ebb_canvas *c, const panel *p, const int *blocks, const char *title) {
  const int L = (int)p->maps->blocks, N = (int)p->maps->heads, w = map_width(p), h = map_height(p);
  char text[32];
  ebb_text(c, p->x, p->y - 26, 2, EBB_LEFT, EBB_INK, title);
  for (int b = 0; b < L; b += every(h, 16)) {
    snprintf(text, sizeof text, "%d", blocks[b]);
    ebb_text(c, p->x - 8, p->y + (L - 1 - b) * h + (h - SPACE - 14) / 2, 2, EBB_RIGHT, EBB_INK, text);
  }
  for (int n = 0; n < N; n += every(w, 30)) {
    snprintf(text, sizeof text, "%d", n);
    ebb_text(c, p->x + n * w + (w - SPACE) / 2, p->y + L * h + 4, 2, EBB_CENTRE, EBB_INK, text);
  }
  ebb_text(c, p->x + N * w / 2, p->y + L * h + 30, 2, EBB_CENTRE, EBB_INK, "head");
  ebb_text_up(c, p->x - 62, p->y + L * h / 2, 2, EBB_INK, "block");
}

static void draw_tick(ebb_canvas *c, const panel *p, int height, double value, const char *text) {
  int x = p->x + (int)p->maps->heads * map_width(p) + 16;
  int y = p->y + height - 1 - (int)lround(place_on(&p->scale, value) * (height - 1));
  ebb_fill(c, x + 18, y, 5, 1, EBB_INK);
  ebb_text(c, x + 28, y - 6, 2, EBB_LEFT, EBB_INK, text);
}

static void draw_bar(ebb_canvas *c, const panel *p) {
  int height = (int)p->maps->blocks * map_height(p) - SPACE;
  height = height < 150 ? 150 : height > 300 ? 300 : height;
  int x = p->x + (int)p->maps->heads * map_width(p) + 16;
  char text[32];
  for (int j = 0; j < height; j++)
    ebb_fill(c, x, p->y + height - 1 - j, 18, 1, colour_at(&p->scale, (double)j / (height - 1)));
  ebb_frame(c, x, p->y, 18, height, 1, EBB_GREY);
  ebb_text(c, x, p->y - 20, 1, EBB_LEFT, EBB_GREY, p->scale.difference ? "difference of mass" : "mass");
  if (p->scale.difference) {
    for (int i = -1; i <= 1; i++) {
      snprintf(text, sizeof text, i ? "%+.2g" : "0", i * p->scale.top);
      draw_tick(c, p, height, i * p->scale.top, text);
    }
    return;
  }
  const double even = 1.0 / (double)p->maps->keys;
  for (int i = 0; i <= 4; i += i < 1 ? 1 : i) { /* 0, 1/4, 1/2, 1 */
    snprintf(text, sizeof text, "%g", i / 4.0);
    if (fabs(sqrt(i / 4.0) - sqrt(even)) * height > 18)
      draw_tick(c, p, height, i / 4.0, text);
  }
  snprintf(text, sizeof text, "%.2f even", even);
  draw_tick(c, p, height, even, text);
}

/* The mean over all videos, and possible minus impossible, behind one another. */
static double *panel_values(const ebb_mean_maps *m, double *largest) {
  const size_t all = (size_t)(m->blocks * m->heads * m->queries * m->keys);
  const double n = (double)(m->videos[0] + m->videos[1]), share = (double)m->videos[1] / n;
  double *v = malloc(2 * all * sizeof *v + 1);
  *largest = 0;
  for (size_t i = 0; v && i < all; i++) {
    v[i] = (1 - share) * m->mean[0][i] + share * m->mean[1][i];
    v[all + i] = m->mean[1][i] - m->mean[0][i];
    *largest = fmax(*largest, fabs(v[all + i]));
  }
  return v;
}

static int smaller(int64_t a, int64_t b) {
  return (int)(a < b ? a : b);
}

static bool draw(const ebb_mean_maps *m, const double *v, double largest, const int *blocks,
                 const char *title, const char *notes[2], const char *dir, const char *name, ebb_error *err) {
  const int64_t across = m->heads * m->keys, down = m->blocks * m->queries;
  int pixel = smaller(900 / across, 1600 / down);
  pixel = pixel < 1 ? 1 : pixel > 8 ? 8 : pixel;
  int64_t grid_w = across * pixel + m->heads * SPACE, grid_h = down * pixel + m->blocks * SPACE;
  int64_t width = 2 * (LEFT + grid_w + RIGHT), height = TOP + (grid_h > 150 ? grid_h : 150) + BOTTOM;
  const int needed[3] = {ebb_text_width(2, title), ebb_text_width(1, notes[0]), ebb_text_width(1, notes[1])};
  for (int i = 0; i < 3; i++)
    width = needed[i] + 32 > width ? needed[i] + 32 : width;
  ebb_canvas c;
  if (width * height > MOST_PIXELS || !ebb_canvas_open(&c, (int)width, (int)height))
    return ebb_fail(err, "not enough memory for a picture of %lld x %lld maps of %lld x %lld frames",
                    (long long)m->blocks, (long long)m->heads, (long long)m->queries, (long long)m->keys);
  ebb_text(&c, 16, 18, 2, EBB_LEFT, EBB_INK, title);
  ebb_text(&c, 16, 44, 1, EBB_LEFT, EBB_GREY, notes[0]);
  ebb_text(&c, 16, 58, 1, EBB_LEFT, EBB_GREY, notes[1]);
  panel p = {m, v, {false, 1}, LEFT, TOP, pixel};
  for (int i = 0; i < 2; i++) {
    draw_grid(&c, &p);
    draw_axes(&c, &p, blocks, i ? "possible minus impossible" : "mean of all");
    draw_bar(&c, &p);
    p.value += m->blocks * m->heads * m->queries * m->keys;
    p.scale = (scale){true, largest > 0 ? largest : 1};
    p.x += (int)(LEFT + grid_w + RIGHT);
  }
  return ebb_canvas_save(&c, dir, name, err);
}

/* How a step was chosen, in words for the picture. */
static const char *const how_words[] = {[EBB_STEP_BY_PROBE] = "the one that the probe chose",
                                        [EBB_STEP_MIDDLE] =
                                            "the middle captured step: no probe of attn_frames chose one",
                                        [EBB_STEP_ASKED] = "the one asked for"};

bool ebb_plot_frame_mass(const ebb_store *store, int set, const char *category, int step, ebb_step_choice how,
                         const char *dir, ebb_error *err) {
  const ebb_feature_set *s = &store->sets[set];
  ebb_mean_maps m;
  if (!ebb_mean_maps_make(&m, store, set, ebb_store_feature(s, "attn_frames"), category, step, err))
    return false;
  double largest, *v = panel_values(&m, &largest);
  char title[256], first[256], second[256], name[192];
  snprintf(title, sizeof title, "%s  %s  attn_frames at step %d (sigma %.2f)", category ? category : "all",
           s->model, s->steps[step], s->sigmas[step]);
  snprintf(first, sizeof first,
           "in each map the frame of the query from top to bottom, that of the key from left to right, %lld "
           "x %lld; the "
           "mass of a row adds to 1",
           (long long)m.queries, (long long)m.keys);
  snprintf(second, sizeof second,
           "step: %s; means over %lld possible and %lld impossible videos, not tested here; colours of the "
           "mean by "
           "its square root",
           how_words[how], (long long)m.videos[1], (long long)m.videos[0]);
  int length = snprintf(name, sizeof name, "frame-mass-%s-%s", category ? category : "all", s->model);
  if (how == EBB_STEP_ASKED) /* beside the one of the probe's step */
    length += snprintf(name + length, sizeof name - (size_t)length, "-step%d", s->steps[step]);
  snprintf(name + length, sizeof name - (size_t)length, ".png");
  const char *notes[2] = {first, second};
  bool ok = v ? draw(&m, v, largest, s->blocks, title, notes, dir, name, err)
              : ebb_fail(err, "not enough memory for a picture");
  free(v);
  ebb_mean_maps_free(&m);
  return ok;
}

/* ---- all of a run ------------------------------------------------------------------------------------ */

/* Of the row with all heads, or else of that with each; -1: not probed. */
static int chosen_step(const ebb_results *results, const char *category, const char *model) {
  static const char *const names[2] = {"attn_frames", "attn_frames" EBB_OF_A_HEAD};
  for (int n = 0; n < 2; n++)
    for (int i = 0; i < results->row_count; i++) {
      const ebb_row *r = &results->rows[i];
      if (!strcmp(r->category, category) && !strcmp(r->model, model) && !strcmp(r->feature, names[n]))
        return r->steps[ebb_cell_of(r, r->chosen).step];
    }
  return -1;
}

/* Index of a step's number; -1: not captured. */
static int step_index(const ebb_feature_set *s, int64_t number) {
  for (int i = 0; i < s->step_count; i++)
    if (s->steps[i] == number)
      return i;
  return -1;
}

static bool not_captured(const ebb_store *store, const ebb_feature_set *s, int64_t step, ebb_error *err) {
  ebb_fail(err, "%s: %s was not captured at step %lld: there are", store->dir, s->model, (long long)step);
  for (int i = 0; i < s->step_count; i++)
    ebb_fail_also(err, "%s %d", i ? "," : "", s->steps[i]);
  return false;
}

static bool plot_category(const ebb_store *store, const ebb_results *results, const char *category,
                          int64_t step, const char *dir, bool *any, ebb_error *err) {
  bool ok = true;
  for (int i = 0; ok && i < store->set_count; i++) {
    const ebb_feature_set *s = &store->sets[i];
    const int feature = ebb_store_feature(s, "attn_frames");
    if (feature < 0 || !is_map(store, i, feature, NULL))
      continue;
    int at = step_index(s, step >= 0 ? step : chosen_step(results, category, s->model));
    if (step >= 0 && at < 0)
      return not_captured(store, s, step, err);
    ok = ebb_plot_frame_mass(store, i, strcmp(category, "all") != 0 ? category : NULL,
                             at < 0 ? s->step_count / 2 : at,
                             step >= 0 ? EBB_STEP_ASKED
                             : at < 0  ? EBB_STEP_MIDDLE
                                       : EBB_STEP_BY_PROBE,
                             dir, err);
    *any = true;
  }
  return ok;
}

bool ebb_plot_all_frame_mass(const ebb_store *store, const ebb_results *results, int64_t step,
                             const char *dir, FILE *notes, ebb_error *err) {
  bool ok = true, any = false;
  for (int i = 0; i < store->set_count; i++) {
    const int feature = ebb_store_feature(&store->sets[i], "attn_frames");
    ebb_error why = {{0}};
    if (notes && feature >= 0 && !is_map(store, i, feature, &why))
      fprintf(notes, "ebb: note: no picture of attention: %s\n", why.text);
  }
  for (int i = 0; ok && i < results->row_count; i++) /* rows of a category stand together */
    if (i == 0 || strcmp(results->rows[i].category, results->rows[i - 1].category) != 0)
      ok = plot_category(store, results, results->rows[i].category, step, dir, &any, err);
  if (ok && !any && step >= 0)
    return ebb_fail(err, "%s: no attention maps in this run: capture.points is to have attn_frames",
                    store->dir);
  return ok;
}
