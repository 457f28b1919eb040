#include "loaders/dataset.h"

#include "loaders/config.h"
#include "loaders/file.h"
#include "loaders/formats.h"
#include "loaders/image.h"
#include "loaders/phyworld.h"
#include "loaders/video.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- listing ------------------------------------------------------------------------------------------ */

void ebb_listing_add(ebb_listing *w, ebb_video video) {
  ebb_dataset *set = w->set;
  if ((set->count & (set->count - 1)) == 0) /* room is made at powers of two */
    set->videos =
        ebb_must(realloc(set->videos, (set->count > 0 ? 2 * (size_t)set->count : 1) * sizeof video));
  set->videos[set->count++] = video;
}

void ebb_listing_leave_out(ebb_listing *w, const char *id, const ebb_error *why) {
  if (w->left_out++ == 0)
    w->first = *why;
  if (w->report != NULL)
    w->report(w->user, id, why->text);
}

bool ebb_listing_finish(const ebb_listing *w, const char *expected, ebb_error *err) {
  if (w->set->count > 0)
    return true;
  if (w->left_out > 0)
    return ebb_fail(err, "%s: none of the %lld videos can be used; the first: %s", w->set->root,
                    (long long)w->left_out, w->first.text);
  return ebb_fail(err, "%s: no videos, expected %s", w->set->root, expected);
}

static int by_place(const void *a, const void *b) {
  const ebb_video *v = a, *w = b;
  int order = ebb_compare_natural(v->category, w->category);
  order = order != 0 ? order : ebb_compare_natural(v->group, w->group);
  return order != 0 ? order : ebb_compare_natural(v->id, w->id);
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* An id stands for one video: results and official folders are named by it. */
static bool check_ids(const ebb_dataset *set, ebb_error *err) {
  const char **ids = ebb_must(malloc((size_t)set->count * sizeof *ids));
  for (int64_t i = 0; i < set->count; i++)
    ids[i] = set->videos[i].id;
  qsort(ids, (size_t)set->count, sizeof *ids, by_name);
  bool ok = true;
  for (int64_t i = 1; ok && i < set->count; i++)
    if (strcmp(ids[i], ids[i - 1]) == 0)
      ok = ebb_fail(err, "%s: two videos have the id \"%.200s\"", set->root, ids[i]);
  free(ids);
  return ok;
}

bool ebb_dataset_open(ebb_dataset *set, const char *format, const char *root,
                      const ebb_dataset_options *options, ebb_dataset_report *report, void *user,
                      ebb_error *err) {
  static const ebb_dataset_options none;
  static const struct {
    const char *name;
    ebb_format_list *list;
  } formats[] = {{"intphys", ebb_intphys_list},
                 {"inflevel", ebb_inflevel_list},
                 {"phyworld", ebb_phyworld_list},
                 {"manifest", ebb_manifest_list}};
  *set = (ebb_dataset){.root = ebb_format("%s", root)};
  ebb_listing w = {.set = set, .options = options != NULL ? options : &none, .report = report, .user = user};
  ebb_format_list *list = NULL;
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (strcmp(format, formats[i].name) == 0) {
      list = formats[i].list;
      set->format = formats[i].name;
    }
  bool ok = list != NULL ? list(&w, err) && check_ids(set, err)
                         : ebb_fail(err,
                                    "data format \"%s\" is not known, expected intphys, inflevel, phyworld "
                                    "or manifest",
                                    format);
  if (!ok) {
    ebb_dataset_close(set);
    return false;
  }
  qsort(set->videos, (size_t)set->count, sizeof *set->videos, by_place);
  return true;
}

/* Frozen frames are not what the video shows: they come in only when they are asked for. */
static bool check_lengths(const ebb_dataset *set, int64_t asked, ebb_error *err) {
  int64_t shorter = 0, first = -1;
  for (int64_t i = set->count - 1; i >= 0; i--)
    if (set->videos[i].frames > 0 && set->videos[i].frames < asked) {
      shorter++;
      first = i;
    }
  return first < 0 || ebb_fail(err,
                               "%s: %lld of %lld videos are shorter than data.frames, %lld: %s has %d "
                               "frames, and the other %lld "
                               "would be copies of its last. Set data.frames: %d, or data.padding: repeat to "
                               "do as the official code",
                               set->root, (long long)shorter, (long long)set->count, (long long)asked,
                               set->videos[first].id, set->videos[first].frames,
                               (long long)(asked - set->videos[first].frames), set->videos[first].frames);
}

bool ebb_dataset_open_config(ebb_dataset *set, const ebb_config *config, ebb_dataset_report *report,
                             void *user, ebb_error *err) {
  const ebb_dataset_options options = {.unlabelled = config->data.unlabelled,
                                       .official_prompt = strcmp(config->data.prompt, "official") == 0,
                                       .within_views = strcmp(config->data.views, "within") == 0};
  if (!ebb_dataset_open(set, config->data.format, config->data.path, &options, report, user, err))
    return false;
  if (config->data.groups > 0)
    ebb_dataset_keep(set, config->data.groups);
  if (strcmp(config->data.padding, "repeat") == 0 || check_lengths(set, config->data.frames, err))
    return true;
  ebb_dataset_close(set);
  return false;
}

void ebb_video_free(ebb_video *v) {
  free(v->id);
  free(v->path);
  free(v->group);
  free(v->category);
  free(v->pair);
  free(v->view);
  free(v->split);
  free(v->prompt);
  free(v->targets);
}

void ebb_dataset_keep(ebb_dataset *set, int64_t groups) {
  int64_t kept = 0, seen = 0;
  bool *keep = ebb_must(malloc((size_t)set->count + 1));
  for (int64_t i = 0; i < set->count; i++) {
    const ebb_video *v = &set->videos[i], *last = i > 0 ? v - 1 : NULL;
    if (last == NULL || strcmp(v->category, last->category) != 0)
      seen = 1;
    else
      seen += strcmp(v->group, last->group) != 0;
    keep[i] = seen <= groups;
  }
  for (int64_t i = 0; i < set->count; i++)
    if (keep[i])
      set->videos[kept++] = set->videos[i];
    else
      ebb_video_free(&set->videos[i]);
  set->count = kept;
  free(keep);
}

void ebb_dataset_close(ebb_dataset *set) {
  for (int64_t i = 0; i < set->count; i++)
    ebb_video_free(&set->videos[i]);
  free(set->videos);
  free(set->root);
  *set = (ebb_dataset){0};
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* The number in "scene_012.png" (.jpg, .jpeg; up to nine digits before the dot), -1: not the name of a frame.
 * *stem: how many bytes stand before the digits. */
static int64_t frame_number(const char *name, size_t *stem) {
  const char *dot = strrchr(name, '.');
  *stem = 0;
  if (dot == NULL ||
      (strcasecmp(dot, ".png") != 0 && strcasecmp(dot, ".jpg") != 0 && strcasecmp(dot, ".jpeg") != 0))
    return -1;
  const char *digits = dot;
  while (digits > name && digits[-1] >= '0' && digits[-1] <= '9')
    digits--;
  *stem = (size_t)(digits - name);
  return dot == digits || dot - digits > 9 ? -1 : strtoll(digits, NULL, 10);
}

int64_t ebb_frame_number(const char *name) {
  size_t stem;
  const int64_t number = frame_number(name, &stem);
  return stem == 6 && strncmp(name, "scene_", 6) == 0 ? number : -1;
}

/* Puts the frames first among the names, by number; how many. Where scenes are, they alone are frames:
 * IntPhys folders hold other pictures too. */
static int64_t pick_frames(char **names, int64_t count) {
  size_t stem;
  bool scenes = false;
  for (int64_t i = 0; i < count; i++)
    scenes |= ebb_frame_number(names[i]) >= 0;
  int64_t n = 0;
  for (int64_t i = 0; i < count; i++)
    if (scenes ? ebb_frame_number(names[i]) >= 0 : frame_number(names[i], &stem) >= 0) {
      char *name = names[i]; /* natural order: by number, then ".jpg" before ".png" */
      names[i] = names[n];
      names[n++] = name;
    }
  return n;
}

int ebb_count_frames(const char *folder, ebb_error *err) {
  char **names;
  int64_t count;
  if (!ebb_folder_list(folder, &names, &count, err))
    return 0;
  const int64_t n = pick_frames(names, count); /* a folder list is bounded */
  ebb_names_free(names, count);
  if (n == 0)
    ebb_fail(err, "%s: no frames, expected scene_001.png, scene_002.png, ...", folder);
  return (int)n;
}

/* The frames' names in order of number, from 1 (or 0, unless they are scenes) without a gap or a repetition;
 * how many, 0 on failure. */
static int64_t list_frames(const char *folder, char ***names, int64_t *count, ebb_error *err) {
  if (!ebb_folder_list(folder, names, count, err))
    return 0;
  const int64_t n = pick_frames(*names, *count);
  size_t stem = 0, first_stem = 0;
  const int64_t first = n > 0 ? frame_number((*names)[0], &first_stem) : 0;
  const bool from_zero = n > 0 && first == 0 && strncmp((*names)[0], "scene_", 6) != 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t number = frame_number((*names)[i], &stem), expected = from_zero ? i : i + 1;
    if (stem != first_stem || strncmp((*names)[i], (*names)[0], stem) != 0) {
      ebb_fail(err, "%s: frames of two kinds, %s and %s: expected one beginning before the numbers", folder,
               (*names)[0], (*names)[i]);
      return 0;
    }
    if (number == expected)
      continue;
    if (i > 0 && number == expected - 1)
      ebb_fail(err, "%s: two files are frame %lld: %s and %s", folder, (long long)number, (*names)[i - 1],
               (*names)[i]);
    else
      ebb_fail(err, "%s: frame %lld is missing: %s follows %s", folder, (long long)expected, (*names)[i],
               i > 0 ? (*names)[i - 1] : "nothing (numbers start at 1)");
    return 0;
  }
  if (n == 0)
    ebb_fail(err, "%s: no frames, expected scene_001.png, scene_002.png, ...", folder);
  return n;
}

static bool read_folder(const char *folder, ebb_clip *clip, ebb_error *err) {
  char **names;
  int64_t listed, n = list_frames(folder, &names, &listed, err);
  bool ok = n > 0;
  size_t bytes = 0;
  for (int64_t i = 0; ok && i < n; i++) {
    char *path = ebb_path_join(folder, names[i]);
    ebb_image image = {0};
    ok = ebb_image_read(path, &image, err);
    if (ok &&
        i == 0) { /* sides are bounded by EBB_IMAGE_SIDE_MAX and n by the folder: no overflow in 64 bits */
      bytes = (size_t)image.width * (size_t)image.height * 3;
      *clip = (ebb_clip){.frames = (int)n, .height = image.height, .width = image.width};
      if ((uint64_t)bytes * (uint64_t)n > EBB_CLIP_BYTES_MAX)
        ok = ebb_fail(err, "%s: %lld frames of %dx%d do not fit into %llu bytes", folder, (long long)n,
                      image.width, image.height, (unsigned long long)EBB_CLIP_BYTES_MAX);
      else if ((clip->rgb = malloc(bytes * (size_t)n)) == NULL)
        ok = ebb_fail(err, "%s: no memory for %lld frames of %dx%d", folder, (long long)n, image.width,
                      image.height);
    }
    if (ok && (image.height != clip->height || image.width != clip->width))
      ok = ebb_fail(err, "%s: %dx%d pixels (width x height), but frame 1 has %dx%d", path, image.width,
                    image.height, clip->width, clip->height);
    if (ok)
      memcpy(clip->rgb + (size_t)i * bytes, image.pixels, bytes);
    ebb_image_free(&image);
    free(path);
  }
  ebb_names_free(names, listed);
  if (!ok)
    ebb_clip_free(clip);
  return ok;
}

bool ebb_video_read(const ebb_video *video, ebb_clip *clip, ebb_error *err) {
  *clip = (ebb_clip){0};
  if (ebb_is_folder(video->path))
    return read_folder(video->path, clip, err);
  return video->item >= 0 ? ebb_phyworld_read(video, clip, err) : ebb_video_file_read(video->path, clip, err);
}

void ebb_clip_free(ebb_clip *clip) {
  free(clip->rgb);
  *clip = (ebb_clip){0};
}
