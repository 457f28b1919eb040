#include "loaders/dataset.h"

#include "loaders/config.h"
#include "loaders/file.h"
#include "loaders/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int by_id(const void *a, const void *b) {
  return ebb_compare_natural(((const ebb_video *)a)->id, ((const ebb_video *)b)->id);
}

bool ebb_dataset_open(ebb_dataset *set, const char *format, const char *root,
                      const ebb_dataset_options *options, ebb_dataset_report *report, void *user,
                      ebb_error *err) {
  static const ebb_dataset_options none;
  const ebb_dataset_options *o = options != NULL ? options : &none;
  *set = (ebb_dataset){.root = ebb_format("%s", root)};
  bool ok;
  if (strcmp(format, "intphys") == 0)
    ok = ebb_intphys_list(set, o->unlabelled, report, user, err);
  else
    ok = ebb_fail(err, "data format \"%s\" is not known, expected intphys", format);
  if (!ok) {
    ebb_dataset_close(set);
    return false;
  }
  qsort(set->videos, (size_t)set->count, sizeof *set->videos, by_id);
  return true;
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
  return true;
}

static void free_video(ebb_video *v) {
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
  char category[256] = "", group[256] = "";
  int64_t kept = 0, seen = 0;
  for (int64_t i = 0; i < set->count; i++) {
    ebb_video *v = &set->videos[i];
    if (strcmp(v->category, category) != 0)
      seen = 0;
    if (strcmp(v->group, group) != 0)
      seen++;
    snprintf(category, sizeof category, "%s", v->category);
    snprintf(group, sizeof group, "%s", v->group);
    if (seen <= groups)
      set->videos[kept++] = *v;
    else
      free_video(v);
  }
  set->count = kept;
}

void ebb_dataset_close(ebb_dataset *set) {
  for (int64_t i = 0; i < set->count; i++)
    free_video(&set->videos[i]);
  free(set->videos);
  free(set->root);
  *set = (ebb_dataset){0};
}

int64_t ebb_frame_number(const char *name) {
  static const char start[] = "scene_";
  if (strncmp(name, start, sizeof start - 1) != 0)
    return -1;
  const char *digits = name + sizeof start - 1;
  size_t n = strspn(digits, "0123456789");
  const char *end = digits + n;
  if (n < 1 || n > 9 ||
      (strcasecmp(end, ".png") != 0 && strcasecmp(end, ".jpg") != 0 && strcasecmp(end, ".jpeg") != 0))
    return -1;
  return strtoll(digits, NULL, 10);
}

/* The frames' names in order of number, 1..n without a gap or a repetition; how many, 0 on failure. */
static int64_t list_frames(const ebb_video *video, char ***names, int64_t *count, ebb_error *err) {
  if (!ebb_folder_list(video->path, names, count, err))
    return 0;
  int64_t n = 0;
  for (int64_t i = 0; i < *count; i++)
    if (ebb_frame_number((*names)[i]) >= 0) { /* natural order: by number, then ".jpg" before ".png" */
      char *name = (*names)[i];
      (*names)[i] = (*names)[n];
      (*names)[n++] = name;
    }
  for (int64_t i = 0; i < n; i++) {
    int64_t number = ebb_frame_number((*names)[i]);
    if (number == i + 1)
      continue;
    if (i > 0 && number == i)
      ebb_fail(err, "%s: two files are frame %lld: %s and %s", video->path, (long long)number,
               (*names)[i - 1], (*names)[i]);
    else
      ebb_fail(err, "%s: frame %lld is missing: %s follows %s", video->path, (long long)(i + 1), (*names)[i],
               i > 0 ? (*names)[i - 1] : "nothing (numbers start at 1)");
    return 0;
  }
  if (n == 0)
    ebb_fail(err, "%s: no frames, expected scene_001.png, scene_002.png, ...", video->path);
  else if (n > INT32_MAX)
    return 0;
  return n;
}

bool ebb_video_read(const ebb_video *video, ebb_clip *clip, ebb_error *err) {
  *clip = (ebb_clip){0};
  char **names;
  int64_t listed, n = list_frames(video, &names, &listed, err);
  bool ok = n > 0;
  size_t bytes = 0;
  for (int64_t i = 0; ok && i < n; i++) {
    char *path = ebb_path_join(video->path, names[i]);
    ebb_image image = {0};
    ok = ebb_image_read(path, &image, err);
    if (ok &&
        i == 0) { /* sides are bounded by EBB_IMAGE_SIDE_MAX and n by the folder: no overflow in 64 bits */
      bytes = (size_t)image.width * (size_t)image.height * 3;
      *clip = (ebb_clip){.frames = (int)n, .height = image.height, .width = image.width};
      if ((uint64_t)bytes * (uint64_t)n > EBB_CLIP_BYTES_MAX)
        ok = ebb_fail(err, "%s: %lld frames of %dx%d do not fit into %llu bytes", video->path, (long long)n,
                      image.width, image.height, (unsigned long long)EBB_CLIP_BYTES_MAX);
      else if ((clip->rgb = malloc(bytes * (size_t)n)) == NULL)
        ok = ebb_fail(err, "%s: no memory for %lld frames of %dx%d", video->path, (long long)n, image.width,
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

void ebb_clip_free(ebb_clip *clip) {
  free(clip->rgb);
  *clip = (ebb_clip){0};
}
