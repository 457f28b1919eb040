#include "loaders/phyworld.h"

#include "loaders/file.h"
#include "loaders/formats.h"
#include "loaders/phyworld_file.h"
#include "loaders/video.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* 10 x 16 cells in distribution; 8 x 4, 4 x 16 and 8 x 16 around them. */
const ebb_phyworld_part ebb_phyworld_parts[] = {
    {"in_dist", 160},         {"r_small", 32},  {"v_small", 64},     {"both_small", 128},
    {"r_large", 128},         {"v_large", 160}, {"both_large", 128}, {"r_small_v_large", 128},
    {"r_large_v_small", 128}, {NULL, 0}};

/* 0 small, 1 in distribution, 2 large, -1 between; the ends of a linspace are exact but for rounding. */
static int range_of(double value, const double limits[3][2]) {
  for (int i = 0; i < 3; i++)
    if (value >= limits[i][0] - 1e-6 && value <= limits[i][1] + 1e-6)
      return i;
  return -1;
}

const char *ebb_phyworld_level(double r, double v) {
  static const double radii[3][2] = {{0.3, 0.6}, {0.7, 1.4}, {1.5, 2.0}},
                      speeds[3][2] = {{0.0, 0.8}, {1.0, 4.0}, {4.5, 6.0}};
  static const char *const names[3][3] = {{"both_small", "r_small", "r_small_v_large"},
                                          {"v_small", "in_dist", "v_large"},
                                          {"r_large_v_small", "r_large", "both_large"}};
  const int i = range_of(r, radii), j = range_of(v, speeds);
  return i < 0 || j < 0 ? "other" : names[i][j];
}

bool ebb_phyworld_disc(const ebb_clip *clip, int frame, double *x, double *y, double *radius) {
  const uint8_t *p = clip->rgb + (size_t)frame * (size_t)clip->height * (size_t)clip->width * 3;
  double count = 0, across = 0, down = 0;
  for (int i = 0; i < clip->height; i++)
    for (int j = 0; j < clip->width; j++, p += 3)
      if (p[0] > 127 && p[1] < 127 && p[2] < 127) {
        count++;
        across += j;
        down += i;
      }
  if (count == 0)
    return false;
  const double unit = EBB_PHYWORLD_WORLD / clip->width; /* of a pixel, as the generator's authors have it */
  *x = across / count * unit;
  *y = (clip->height - 1 - down / count) * unit; /* rows go down, y goes up */
  *radius = sqrt(count / 3.14159265358979323846) * unit;
  return true;
}

/* r: the soft edge and the codec's half resolution of colour take up to 4 % and a pixel or two; x and y: two
 * pixels. */
enum { R, V, X0, Y0, X_MID, Y_MID, X_END, Y_END, TARGETS };
static const char *const target_names[TARGETS] = {"r", "v", "x0", "y0", "x_mid", "y_mid", "x_end", "y_end"};

static bool is_near(double pixels, double file, double part, double least) {
  return fabs(pixels - file) <= part * fabs(file) + least;
}

bool ebb_phyworld_compare(const ebb_dataset *set, const ebb_video *video, const ebb_clip *clip,
                          ebb_error *err) {
  const double *t = video->targets;
  double x, y, r;
  if (!ebb_phyworld_disc(clip, 0, &x, &y, &r))
    return ebb_fail(err, "%s: video %s: the first frame shows no red disc", set->root, video->id);
  if (!is_near(r, t[R], 0.04, 0.08))
    return ebb_fail(
        err,
        "%s: video %s: column 0 of init_streams is %g, but the disc in the first frame has radius %.3f%s",
        set->root, video->id, t[R], r,
        is_near(t[R], t[X0], 0, 0.1) ? ": column 0 is the position x of the first frame" : "");
  return (is_near(x, t[X0], 0, 0.12) && is_near(y, t[Y0], 0, 0.12)) ||
         ebb_fail(
             err,
             "%s: video %s: position_streams begin at (%.3f, %.3f), but the disc in the first frame is at "
             "(%.3f, %.3f)",
             set->root, video->id, t[X0], t[Y0], x, y);
}

/* The speed is what the ball moves by: sideways nothing acts on it. */
static bool check_speed(const char *path, const ebb_phyworld_piece *p, int64_t row, ebb_error *err) {
  const double *at = p->positions + row * p->frames * 2, v = p->init[2 * row + 1];
  const double moved = fabs(at[2 * (p->frames - 1)] - at[0]) / (EBB_PHYWORLD_FRAME * (double)(p->frames - 1));
  return fabs(moved - fabs(v)) <= 0.01 + 0.01 * fabs(v) ||
         ebb_fail(err,
                  "%s: row %lld of piece %05lld: column 1 of init_streams is %g, but position_streams move "
                  "sideways by "
                  "%g a second: not a file of one ball in free flight, or another order of columns",
                  path, (long long)row, (long long)p->number, v, moved);
}

static char *prompt_of(const ebb_listing *w, double r, double v) {
  static const char neutral[] = "a small ball thrown into the air following a parabolic trajectory";
  /* The official code calls the radius a position, and tells the answer. */
  return w->options->official_prompt
             ? ebb_format("%s, initial horizontal position %.2f m, initial speed %.2f m/s", neutral, r, v)
             : ebb_format("%s", neutral);
}

static void add_row(ebb_listing *w, const ebb_phyworld_piece *p, int64_t row) {
  const double *at = p->positions + row * p->frames * 2, *mid = at + p->frames / 2 * 2,
               *end = at + (p->frames - 1) * 2, r = p->init[2 * row], v = p->init[2 * row + 1];
  const char *level = ebb_phyworld_level(r, v);
  double *targets = ebb_must(malloc(TARGETS * sizeof *targets));
  memcpy(targets, (const double[TARGETS]){r, v, at[0], at[1], mid[0], mid[1], end[0], end[1]},
         TARGETS * sizeof *targets);
  ebb_listing_add(w, (ebb_video){.id = ebb_format("%05lld/%05lld", (long long)p->number, (long long)row),
                                 .path = ebb_format("%s", w->set->root),
                                 .group = ebb_format("%s/r%.4f_v%.4f", level, r, v),
                                 .category = ebb_format("%s", level),
                                 .label = EBB_UNLABELLED,
                                 .frames = (int)p->frames,
                                 .split = ebb_format("%s", level),
                                 .prompt = prompt_of(w, r, v),
                                 .item = ebb_phyworld_item(p->number, row),
                                 .targets = targets});
}

/* The pixels of three videos, before anything is built on what the columns are taken for; `data check` looks
 * at all. One that cannot be decoded says nothing here: it is recorded when its turn comes. */
static bool check_pixels(const ebb_dataset *set, ebb_error *err) {
  bool ok = true;
  for (int i = 0; ok && i < 3; i++) {
    const ebb_video *v = &set->videos[(set->count - 1) * i / 2];
    ebb_clip clip;
    ebb_error unread = {""};
    if (ebb_phyworld_read(v, &clip, &unread)) {
      ok = ebb_phyworld_compare(set, v, &clip, err);
      ebb_clip_free(&clip);
    }
  }
  return ok;
}

bool ebb_phyworld_list(ebb_listing *w, ebb_error *err) {
  ebb_dataset *set = w->set;
  ebb_phyworld_file file;
  if (!ebb_phyworld_file_read(&file, set->root, err))
    return false;
  set->target_count = TARGETS;
  for (int t = 0; t < TARGETS; t++)
    snprintf(set->target_names[t], EBB_TARGET_NAME, "%s", target_names[t]);
  bool ok = true;
  for (int64_t i = 0; ok && i < file.count; i++)
    for (int64_t row = 0; ok && row < file.pieces[i].rows; row++) {
      ok = check_speed(set->root, &file.pieces[i], row, err);
      if (ok)
        add_row(w, &file.pieces[i], row);
    }
  ebb_phyworld_file_free(&file);
  return ok && ebb_listing_finish(w, "videos", err) && check_pixels(set, err);
}

bool ebb_phyworld_read(const ebb_video *video, ebb_clip *clip, ebb_error *err) {
  void *bytes;
  size_t count;
  *clip = (ebb_clip){0};
  if (!ebb_phyworld_bytes(video->path, video->item / EBB_PHYWORLD_ROWS, video->item % EBB_PHYWORLD_ROWS,
                          &bytes, &count, err))
    return false;
  char *name = ebb_format("%s: video %s", video->path, video->id);
  bool ok = ebb_video_memory_read(name, bytes, count, clip, err);
  free(name);
  free(bytes);
  return ok;
}
