#include "loaders/synth.h"

#include "loaders/file.h"
#include "loaders/image.h"
#include "loaders/synth_draw.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CATEGORIES = 3, MOVIES = 4, QUADRUPLETS_MAX = 9999, PATH_ROOM = 4096 };

/* Movies of the bulk form take their scenes from here on: no training movie shares a scene with a quadruplet.
 */
static const int64_t bulk_scenes = INT64_C(1) << 32;
static const int64_t bulk_movies_max = INT64_C(1) << 32;

/* The movies of a quadruplet in the order P1 P2 I1 I2: the course before the cut and from it on. */
static const int movie_course[MOVIES][2] = {{0, 0}, {1, 1}, {0, 1}, {1, 0}};
static const char *const movie_name[MOVIES] = {"P1", "P2", "I1", "I2"};

static bool check_options(const ebb_synth_options *o, ebb_error *err) {
  if (o->size < 32 || o->size > 512)
    return ebb_fail(err, "synth: size is %d pixels; expected 32 to 512", o->size);
  if (o->frames < 9 || o->frames > 512)
    return ebb_fail(err, "synth: movies of %d frames; expected 9 to 512", o->frames);
  return true;
}

/* ---- status.json ---- */

static json_t *xyz(double x, double y, double z) {
  return json_pack("{s:f,s:f,s:f}", "x", x, "y", y, "z", z);
}

static json_t *object_json(const ebb_synth_body *body, int frame) {
  ebb_synth_state at = ebb_synth_state_at(body, frame);
  return json_pack("{s:o,s:o,s:s,s:f,s:o,s:o,s:s,s:f}", "location",
                   xyz(at.x, body->depth, at.z + body->radius), "rotation", xyz(0.0, 0.0, 0.0), "material",
                   ebb_synth_body_colour_name(body->colour), "mass", 1.0, "initial_force", xyz(0.0, 0.0, 0.0),
                   "velocity", xyz(at.vx, 0.0, at.vz), "shape", ebb_synth_shape_name(body->shape), "radius",
                   body->radius);
}

static json_t *frame_json(const ebb_synth_scene *s, int course, int frame) {
  json_t *root = json_object();
  if (s->course[course].present)
    json_object_set_new(root, "object_1", object_json(&s->course[course], frame));
  if (s->extra.present)
    json_object_set_new(root, "object_2", object_json(&s->extra, frame));
  json_t *panel =
      json_pack("{s:o,s:o,s:s,s:f,s:f,s:f,s:[]}", "location", xyz(0.0, s->panel_depth, 0.0), "rotation",
                xyz(0.0, 0.0, 0.0), "material", ebb_synth_panel_colour_name(s->panel_colour), "width",
                2.0 * s->panel_half, "height", s->panel_height, "speed", 0.0, "moves");
  json_object_set_new(root, "occluder_1", panel);
  json_object_set_new(root, "masks", json_object());
  return root;
}

/* seed is a string: JSON integers of many readers stop short of 64 bits. */
static json_t *header_json(const ebb_synth_scene *s, uint64_t seed, int movie) {
  char block[8], seed_text[24];
  snprintf(block, sizeof block, "O%d", s->category);
  snprintf(seed_text, sizeof seed_text, "%" PRIu64, seed);
  json_t *camera = json_pack("{s:o,s:o,s:f,s:f,s:f,s:s}", "location", xyz(-s->shift, 0.0, s->stand - 0.5),
                             "rotation", xyz(0.0, 0.0, 0.0), "zoom", s->zoom, "aspect_ratio", 1.0, "horizon",
                             s->horizon, "projection_mode", "orthographic");
  json_t *synth =
      json_pack("{s:s,s:I,s:i,s:i,s:s,s:i,s:i,s:i,s:f}", "seed", seed_text, "scene", (json_int_t)s->number,
                "size", s->size, "frames", s->frames, "movie", movie_name[movie], "cut", s->cut,
                "hidden_first", s->hidden_first, "hidden_count", s->hidden_count, "gravity", s->gravity);
  return json_pack("{s:s,s:s,s:b,s:o,s:{s:i},s:{s:f,s:[f,f,f]},s:o}", "block_name", block, "block_type",
                   "test", "is_possible", movie < 2, "camera", camera, "floor", "material", s->floor, "light",
                   "side", s->light_side, "colour", s->light[0], s->light[1], s->light[2], "synth", synth);
}

static int course_of(const ebb_synth_scene *s, int movie, int frame) {
  return movie_course[movie][frame >= s->cut];
}

static bool write_status(const char *path, const ebb_synth_scene *s, uint64_t seed, int movie,
                         ebb_error *err) {
  json_t *header = header_json(s, seed, movie), *frames = json_array();
  bool whole = header && frames;
  for (int t = 0; t < s->frames && whole; t++)
    whole = json_array_append_new(frames, frame_json(s, course_of(s, movie, t), t)) == 0;
  json_t *root = json_pack("{s:o?,s:o?}", "header", header, "frames", frames);
  char *text = whole && root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
  json_decref(root);
  if (!text)
    return ebb_fail(err, "%s: out of memory", path);
  ebb_file_writer file;
  bool ok = ebb_file_create(&file, path, err);
  if (ok) {
    ok = ebb_file_write(&file, text, strlen(text), err) && ebb_file_write(&file, "\n", 1, err);
    if (ok)
      ok = ebb_file_commit(&file, err);
    else
      ebb_file_abandon(&file);
  }
  free(text);
  return ok;
}

/* ---- the IntPhys layout ---- */

static bool make_folder(const char *path, ebb_error *err) {
  if (mkdir(path, 0777) != 0)
    return ebb_fail(err, "%s: cannot create the folder: %s", path, strerror(errno));
  return true;
}

/* dir must be absent or an empty folder; a link to nothing is neither. */
static bool check_free(const char *dir, ebb_error *err) {
  char **names;
  int64_t count = 0;
  struct stat s;
  if (!ebb_is_there(dir))
    return lstat(dir, &s) != 0 || ebb_fail(err, "%s: a link to nothing; name a folder", dir);
  if (!ebb_folder_list(dir, &names, &count, err))
    return false;
  ebb_names_free(names, count);
  return count == 0 ||
         ebb_fail(err, "%s: the folder is not empty (%lld entries); name a new one", dir, (long long)count);
}

static bool write_movie(const char *folder, ebb_synth_painter *painter, uint64_t seed, int movie,
                        uint8_t *rgb, ebb_error *err) {
  const ebb_synth_scene *s = painter->scene;
  char path[PATH_ROOM + 64];
  snprintf(path, sizeof path, "%s/scene", folder);
  if (!make_folder(folder, err) || !make_folder(path, err))
    return false;
  for (int t = 0; t < s->frames; t++) {
    snprintf(path, sizeof path, "%s/scene/scene_%03d.png", folder, t + 1);
    ebb_synth_paint(painter, course_of(s, movie, t), t, rgb);
    if (!ebb_image_write_png(path, s->size, s->size, rgb, err))
      return false;
  }
  snprintf(path, sizeof path, "%s/status.json", folder);
  return write_status(path, s, seed, movie, err);
}

/* folder/1 .. folder/4: the movies of one scene in random order. */
static bool write_quadruplet(const char *folder, const ebb_synth_options *options, int category, int number,
                             ebb_error *err) {
  if (!make_folder(folder, err))
    return false;
  ebb_synth_scene scene = ebb_synth_scene_of(options, category, number);
  ebb_synth_dice dice = ebb_synth_dice_of(options->seed, category, number, EBB_SYNTH_ORDER);
  int order[MOVIES];
  ebb_synth_shuffle(&dice, MOVIES, order);
  ebb_synth_painter painter;
  if (!ebb_synth_painter_open(&painter, &scene, err))
    return false;
  uint8_t *rgb = malloc((size_t)scene.size * (size_t)scene.size * 3);
  bool ok = rgb || ebb_fail(err, "%s: out of memory", folder);
  for (int i = 0; i < MOVIES && ok; i++) {
    char path[PATH_ROOM + 32];
    snprintf(path, sizeof path, "%s/%d", folder, i + 1);
    ok = write_movie(path, &painter, options->seed, order[i], rgb, err);
  }
  free(rgb);
  ebb_synth_painter_close(&painter);
  return ok;
}

/* "O1,O3" -> wanted[0], wanted[2]. Strict: no blanks, no repetition, nothing empty. */
static bool parse_categories(const char *text, bool wanted[CATEGORIES], ebb_error *err) {
  memset(wanted, 0, CATEGORIES * sizeof *wanted);
  for (const char *at = text;; at += 3) {
    int which = at[0] == 'O' && at[1] >= '1' && at[1] <= '3' ? at[1] - '1' : -1;
    if (which < 0 || (at[2] != ',' && at[2] != '\0'))
      return ebb_fail(err, "synth: categories \"%s\": cannot read \"%s\"; expected some of O1,O2,O3", text,
                      at);
    if (wanted[which])
      return ebb_fail(err, "synth: categories \"%s\": O%d is named twice", text, which + 1);
    wanted[which] = true;
    if (at[2] == '\0')
      return true;
  }
}

static bool write_quadruplets(const char *dir, const bool *wanted, int quadruplets,
                              const ebb_synth_options *options, ebb_error *err) {
  json_object_seed(1); /* once, before threads: jansson's hash tables start lazily */
  bool ok = true;
  for (int category = 1; category <= CATEGORIES && ok; category++) {
    char block[PATH_ROOM];
    snprintf(block, sizeof block, "%s/O%d", dir, category);
    if (!wanted[category - 1])
      continue;
    ok = make_folder(block, err);
    if (!ok)
      break;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) reduction(&& : ok)
#endif
    for (int number = 1; number <= quadruplets; number++) {
      char folder[PATH_ROOM + 16];
      ebb_error local = {{0}};
      snprintf(folder, sizeof folder, "%s/%02d", block, number);
      if (ok && !write_quadruplet(folder, options, category, number, &local)) {
        ok = false;
#ifdef _OPENMP
#pragma omp critical(ebb_synth_error)
#endif
        ebb_fail(err, "%s", local.text);
      }
    }
  }
  return ok;
}

/* Into a folder that is there and empty (a mount point, "."); what a failure leaves is removed again. */
static bool write_into(const char *dir, const bool *wanted, int quadruplets, const ebb_synth_options *options,
                       ebb_error *err) {
  bool ok = write_quadruplets(dir, wanted, quadruplets, options, err);
  for (int category = 1; category <= CATEGORIES && !ok; category++) {
    char *block = ebb_format("%s/O%d", dir, category);
    ebb_remove_folder(block, NULL);
    free(block);
  }
  return ok;
}

/* Written beside its place and renamed: the data set is there whole or not at all. */
static bool write_beside(const char *dir, const bool *wanted, int quadruplets,
                         const ebb_synth_options *options, ebb_error *err) {
  int length = (int)strlen(dir);
  while (length > 1 && dir[length - 1] == '/')
    length--;
  char *place = ebb_format("%.*s", length, dir), *partial = ebb_format("%s.partial.XXXXXX", place);
  char *slash = strrchr(place, '/'), *parent = slash ? ebb_format("%.*s", (int)(slash - place), place) : NULL;
  bool ok = !parent || !parent[0] || ebb_make_folders(parent, err);
  bool made = ok && mkdtemp(partial) != NULL;
  if (ok && !made)
    ok = ebb_fail(err, "%s: cannot create the folder: %s", partial, strerror(errno));
  if (made) {
    mode_t mask = umask(0);
    umask(mask);
    ok = (chmod(partial, 0777 & ~mask) == 0 ||
          ebb_fail(err, "%s: cannot set its rights: %s", partial, strerror(errno))) &&
         write_quadruplets(partial, wanted, quadruplets, options, err);
  }
  if (ok && rename(partial, place) != 0)
    ok = ebb_fail(err, "%s: cannot rename into place: %s", place, strerror(errno));
  ok = ok && ebb_sync_folder_of(place, err);
  if (made && !ok)
    ebb_remove_folder(partial, NULL);
  free(parent);
  free(partial);
  free(place);
  return ok;
}

bool ebb_synth_intphys(const char *dir, const char *categories, int quadruplets,
                       const ebb_synth_options *options, ebb_error *err) {
  bool wanted[CATEGORIES];
  if (!check_options(options, err) || !parse_categories(categories, wanted, err))
    return false;
  if (quadruplets < 1 || quadruplets > QUADRUPLETS_MAX)
    return ebb_fail(err, "synth: %d quadruplets; expected 1 to %d", quadruplets, QUADRUPLETS_MAX);
  if (strlen(dir) == 0 || strlen(dir) > PATH_ROOM - 64)
    return ebb_fail(err, "synth: the folder's name has %zu characters; expected 1 to %d", strlen(dir),
                    PATH_ROOM - 64);
  if (!check_free(dir, err))
    return false;
  return ebb_is_there(dir) ? write_into(dir, wanted, quadruplets, options, err)
                           : write_beside(dir, wanted, quadruplets, options, err);
}

/* ---- the bulk form ---- */

static int bulk_category(int64_t movie) {
  return 1 + (int)(movie % CATEGORIES);
}

static int bulk_course(int64_t movie) {
  return (int)(movie / CATEGORIES % 2);
}

/* rgb [frames, size, size, 3] */
static bool paint_movie(const ebb_synth_options *options, int64_t movie, bool lawless, uint8_t *rgb,
                        ebb_error *err) {
  int category = bulk_category(movie);
  int64_t number = bulk_scenes + movie;
  ebb_synth_scene scene = ebb_synth_scene_of(options, category, number);
  int *order = malloc((size_t)scene.frames * sizeof *order);
  ebb_synth_painter painter = {0};
  bool ok = order || ebb_fail(err, "synth: out of memory");
  ok = ok && ebb_synth_painter_open(&painter, &scene, err);
  if (ok && lawless) {
    ebb_synth_dice dice = ebb_synth_dice_of(options->seed, category, number, EBB_SYNTH_LAWLESS);
    ebb_synth_shuffle(&dice, scene.frames, order);
  }
  size_t frame_size = (size_t)scene.size * (size_t)scene.size * 3;
  for (int t = 0; t < scene.frames && ok; t++)
    ebb_synth_paint(&painter, bulk_course(movie), lawless ? order[t] : t, rgb + (size_t)t * frame_size);
  ebb_synth_painter_close(&painter);
  free(order);
  return ok;
}

/* Eight-byte tensors first, so that every tensor is aligned; the header is padded with blanks to eight bytes.
 */
static bool write_header(ebb_file_writer *file, int64_t count, int64_t movie_size, const ebb_synth_options *o,
                         int64_t first, bool lawless, ebb_error *err) {
  char text[1024];
  int64_t labels = count * 8;
  int n = snprintf(
      text, sizeof text,
      "{\"__metadata__\":{\"world\":\"%s\",\"seed\":\"%" PRIu64 "\",\"first\":\"%" PRId64 "\"},"
      "\"category\":{\"dtype\":\"I64\",\"shape\":[%" PRId64 "],\"data_offsets\":[0,%" PRId64 "]},"
      "\"course\":{\"dtype\":\"I64\",\"shape\":[%" PRId64 "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]},"
      "\"scene\":{\"dtype\":\"I64\",\"shape\":[%" PRId64 "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]},"
      "\"video\":{\"dtype\":\"U8\",\"shape\":[%" PRId64 ",%d,%d,%d,3],"
      "\"data_offsets\":[%" PRId64 ",%" PRId64 "]}}",
      lawless ? "lawless" : "lawful", o->seed, first, count, labels, count, labels, 2 * labels, count,
      2 * labels, 3 * labels, count, o->frames, o->size, o->size, 3 * labels,
      3 * labels + count * movie_size);
  while (n % 8 != 0)
    text[n++] = ' ';
  uint8_t length[8];
  for (int i = 0; i < 8; i++)
    length[i] = (uint8_t)((uint64_t)n >> (8 * i));
  return ebb_file_write(file, length, sizeof length, err) && ebb_file_write(file, text, (size_t)n, err);
}

enum { LABEL_CATEGORY, LABEL_COURSE, LABEL_SCENE, LABELS };

/* The three label tensors, in the order of the header. */
static bool write_labels(ebb_file_writer *file, int64_t first, int64_t count, ebb_error *err) {
  for (int label = 0; label < LABELS; label++)
    for (int64_t movie = first; movie < first + count; movie++) {
      int64_t value = label == LABEL_CATEGORY ? bulk_category(movie)
                      : label == LABEL_COURSE ? bulk_course(movie)
                                              : bulk_scenes + movie;
      uint8_t bytes[8];
      for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)value >> (8 * i));
      if (!ebb_file_write(file, bytes, sizeof bytes, err))
        return false;
    }
  return true;
}

/* Painted by all threads a chunk at a time, written in order. */
static bool write_videos(ebb_file_writer *file, int64_t first, int64_t count, bool lawless,
                         int64_t movie_size, const ebb_synth_options *options, ebb_error *err) {
  int64_t chunk = (INT64_C(64) << 20) / movie_size;
  chunk = chunk < 1 ? 1 : chunk > count ? count : chunk;
  uint8_t *rgb = malloc((size_t)(chunk * movie_size));
  if (!rgb)
    return ebb_fail(err, "%s: out of memory", file->path);
  bool ok = true;
  for (int64_t done = 0; done < count && ok; done += chunk) {
    int64_t now = count - done < chunk ? count - done : chunk;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) reduction(&& : ok)
#endif
    for (int64_t i = 0; i < now; i++)
      ok = ok && paint_movie(options, first + done + i, lawless, rgb + i * movie_size, NULL);
    if (!ok)
      ebb_fail(err, "%s: out of memory while painting", file->path);
    ok = ok && ebb_file_write(file, rgb, (size_t)(now * movie_size), err);
  }
  free(rgb);
  return ok;
}

bool ebb_synth_bulk(const char *path, int64_t first, int64_t count, bool lawless,
                    const ebb_synth_options *options, ebb_error *err) {
  if (!check_options(options, err))
    return false;
  if (first < 0 || count < 1 || first > bulk_movies_max - 1 || count > bulk_movies_max - first)
    return ebb_fail(
        err, "synth: movies from %" PRId64 ", %" PRId64 " of them; expected numbers within 0 to %" PRId64,
        first, count, bulk_movies_max - 1);
  /* at most 2^32 movies of 2^28.6 bytes: below 2^63 */
  int64_t movie_size = (int64_t)options->frames * options->size * options->size * 3;
  ebb_file_writer file;
  if (!ebb_file_create(&file, path, err))
    return false;
  if (!write_header(&file, count, movie_size, options, first, lawless, err) ||
      !write_labels(&file, first, count, err) ||
      !write_videos(&file, first, count, lawless, movie_size, options, err)) {
    ebb_file_abandon(&file);
    return false;
  }
  return ebb_file_commit(&file, err);
}
