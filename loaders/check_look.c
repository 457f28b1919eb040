#include "loaders/check_parts.h"
#include "loaders/file.h"
#include "loaders/phyworld.h"
#include "loaders/phyworld_file.h"

#include <stdlib.h>
#include <string.h>

static int by_hex(const void *a, const void *b) {
  return memcmp(a, b, sizeof(ebb_frame_digest));
}

/* Bytes on disk; what cannot be told is 0. */
static int64_t bytes_of(const ebb_video *v) {
  uint64_t bytes = 0;
  ebb_error err = {""};
  if (ebb_is_folder(v->path)) {
    char **names;
    int64_t count, total = 0;
    if (!ebb_folder_list(v->path, &names, &count, &err))
      return 0;
    for (int64_t i = 0; i < count; i++) {
      char *path = ebb_path_join(v->path, names[i]);
      total += ebb_file_size(path, &bytes, &err) ? (int64_t)bytes : 0;
      free(path);
    }
    ebb_names_free(names, count);
    return total;
  }
  if (v->item >= 0) {
    void *data;
    size_t n;
    bool ok = ebb_phyworld_bytes(v->path, v->item / EBB_PHYWORLD_ROWS, v->item % EBB_PHYWORLD_ROWS, &data, &n,
                                 &err);
    free(data);
    return ok ? (int64_t)n : 0;
  }
  return ebb_file_size(v->path, &bytes, &err) ? (int64_t)bytes : 0;
}

static void add_frame(const uint8_t *rgb, int height, int width, int64_t sums[EBB_LOOK_SUMS]) {
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++, rgb += 3) {
      const int cell = 3 * (4 * (y * 4 / height) + x * 4 / width);
      for (int c = 0; c < 3; c++) {
        sums[cell + c] += rgb[c];
        sums[EBB_LOOK_CELLS + cell + c] += rgb[c] * rgb[c];
      }
    }
}

ebb_look ebb_look_at(const ebb_dataset *set, const ebb_video *video, bool digests) {
  ebb_look look = {.bytes = bytes_of(video)};
  ebb_clip clip;
  ebb_error err = {""};
  bool ok = ebb_video_read(video, &clip, &err);
  if (ok && strcmp(set->format, "phyworld") == 0)
    ok = ebb_phyworld_compare(set, video, &clip, &err);
  if (!ok) {
    look.why = ebb_format("%s", err.text);
    ebb_clip_free(&clip);
    return look;
  }
  look.frames = clip.frames;
  look.height = clip.height;
  look.width = clip.width;
  const size_t bytes = (size_t)clip.height * (size_t)clip.width * 3;
  look.digests = digests ? ebb_must(malloc((size_t)clip.frames * sizeof *look.digests)) : NULL;
  struct {
    int64_t shape[3], sums[EBB_LOOK_SUMS];
    char frames[72]; /* a multiple of 8: no bytes between that nobody has written */
  } content = {.shape = {clip.frames, clip.height, clip.width}};
  for (int i = 0; i < clip.frames; i++) {
    add_frame(clip.rgb + (size_t)i * bytes, clip.height, clip.width, look.sums);
    if (digests)
      ebb_sha256(clip.rgb + (size_t)i * bytes, bytes, look.digests[i].hex);
  }
  memcpy(content.sums, look.sums, sizeof look.sums);
  if (digests) { /* in the order of the film: its other orders are other videos */
    ebb_sha256(look.digests, (size_t)clip.frames * sizeof *look.digests, content.frames);
    qsort(look.digests, (size_t)clip.frames, sizeof *look.digests, by_hex);
  }
  ebb_sha256(&content, sizeof content, look.content);
  ebb_clip_free(&clip);
  return look;
}

void ebb_look_free(ebb_look *look) {
  free(look->digests);
  look->digests = NULL;
}
