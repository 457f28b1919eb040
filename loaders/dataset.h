/* Data sets: labelled videos in matched groups. A format is one file (intphys.c; others follow) that lists
 * the videos; reading the frames is common. */
#ifndef EBB_LOADERS_DATASET_H
#define EBB_LOADERS_DATASET_H

#include "kernels/error.h"

#include <stdint.h>
#include <stdio.h>

typedef enum ebb_label { EBB_IMPOSSIBLE = 0, EBB_POSSIBLE = 1, EBB_UNLABELLED = -1 } ebb_label;

typedef struct ebb_video {
  char *id;       /* "O1/01/1": unique in the set, stable, never used as a path */
  char *path;     /* where the frames are */
  char *group;    /* "O1/01": what may not be split between training and test */
  char *category; /* "O1" */
  ebb_label label;
  int frames; /* on disk */
} ebb_video;

typedef struct ebb_dataset {
  char *root;
  ebb_video *videos; /* in order of (category, group, id) by number, so "O1/2/1" comes before "O1/10/1" */
  int64_t count;
} ebb_dataset;

/* format "intphys": root/O*\/NN/{1,2,3,4}/{scene/scene_001.png.., status.json}; also with a dev/ folder
 * between. status.json minimal
 * ({"header": {"is_possible": b}}) or full. A video without frames or without a valid status.json is reported
 * through `report` (may be NULL) with its id and reason and left out; a set without any video is an error.
 * unlabelled: status.json may be absent. */
typedef void ebb_dataset_report(void *user, const char *id, const char *reason);
bool ebb_dataset_open(ebb_dataset *set, const char *format, const char *root, bool unlabelled,
                      ebb_dataset_report *report, void *user, ebb_error *err);
void ebb_dataset_close(ebb_dataset *set);
/* Keeps the first `groups` groups of each category and forgets the others. */
void ebb_dataset_keep(ebb_dataset *set, int64_t groups);

/* What ebb_dataset_open calls for "intphys"; leaves the videos in no order. */
bool ebb_intphys_list(ebb_dataset *set, bool unlabelled, ebb_dataset_report *report, void *user,
                      ebb_error *err);

/* is_possible of an IntPhys status.json in memory (what the fuzzer calls). `path` is for messages. */
bool ebb_intphys_status(const char *path, const char *text, size_t bytes, bool *possible, ebb_error *err);

/* The number in "scene_012.png" (.jpg, .jpeg; any digits), -1 for any other name. */
int64_t ebb_frame_number(const char *name);

/* Decoded frames, host memory: rgb u8 [frames, height, width, 3]. */
typedef struct ebb_clip {
  int frames, height, width;
  uint8_t *rgb;
} ebb_clip;
#define EBB_CLIP_BYTES_MAX ((uint64_t)8 << 30)
/* All frames, in order of their number; numbers must run 1..n without a gap, sizes must agree. */
bool ebb_video_read(const ebb_video *video, ebb_clip *clip, ebb_error *err);
void ebb_clip_free(ebb_clip *clip); /* frees and zeroes; a zeroed clip is fine */

/* `ebb data check`: reads every frame; checks that each group is a quadruplet with two possible and two
 * impossible movies made of the same multiset of frames (SHA-256 of decoded pixels), reports counts by label,
 * category and group, frame counts and sizes, and the null-by-construction note (additive features are at
 * chance, REFERENCE 6.9). Prints to `out`; `broken` counts the groups that fail. Errors only for what keeps
 * it from checking. */
bool ebb_dataset_check(const ebb_dataset *set, FILE *out, int64_t *broken, ebb_error *err);

#endif
