/* Data sets: labelled videos in matched groups. A format is one file (intphys.c, inflevel.c, phyworld.c,
 * manifest.c) that lists the videos; reading the frames is common. */
#ifndef EBB_LOADERS_DATASET_H
#define EBB_LOADERS_DATASET_H

#include "kernels/error.h"

#include <stdint.h>
#include <stdio.h>

typedef enum ebb_label { EBB_IMPOSSIBLE = 0, EBB_POSSIBLE = 1, EBB_UNLABELLED = -1 } ebb_label;

typedef struct ebb_video {
  char *id;       /* "O1/01/1": unique in the set, stable, never used as a path */
  char *path;     /* where the frames are: a folder of images, a video file, a container file */
  char *group;    /* "O1/01": what may not be split between training and test */
  char *category; /* "O1" */
  ebb_label label;
  int frames; /* on disk; 0: not known before the video is decoded */
  /* NULL when unknown. Videos of a group with the same pair are matched; without it every possible one is
   * matched with every impossible one of the group. prompt NULL: the run's own; "" is an empty prompt. */
  char *pair, *view, *split, *prompt;
  int64_t item;    /* place in a container file, -1: `path` is one video */
  double *targets; /* [set.target_count] in the order of its names, NaN: unknown; NULL when there are none */
} ebb_video;

#define EBB_TARGETS_MAX 16
#define EBB_TARGET_NAME 32
typedef struct ebb_dataset {
  const char *format; /* "intphys" */
  char *root;
  ebb_video *videos; /* in order of (category, group, id) by number, so "O1/2/1" comes before "O1/10/1" */
  int64_t count;
  int target_count;
  char target_names[EBB_TARGETS_MAX][EBB_TARGET_NAME]; /* "v", "x0": what a regression can be fitted to */
  const char *notice; /* terms of its makers that a user of probes has to know; NULL: none */
} ebb_dataset;

typedef struct ebb_dataset_options {
  bool unlabelled;      /* a label may be absent where the format has one */
  bool official_prompt; /* the prompt of the official code, with the targets in it, where the set has one */
  bool within_views;    /* cut groups within each camera view, as the official code does: the same event is
                           then in training and test */
} ebb_dataset_options;

/* Formats, and where `root` points:
 *   intphys   folder: O*\/NN/{1,2,3,4}/{scene/scene_001.png.., status.json}, also with dev/ between;
 *             status.json minimal ({"header": {"is_possible": b}}) or full. Group: the quadruplet
 *   inflevel  InfLevel-Lab, folder: {continuity,gravity,solidity}/
 *             <view>__<category>__<cover>__<object>__<code>[__<direction>].mp4, also with inflevel_lab/ between.
 *             Group: cover, object and direction, with all camera views; pair: the view
 *   phyworld  file: HDF5 with init_streams, position_streams and video_streams, for regression (no labels).
 *             Targets r, v, x0, y0, ...; category and split: the level, from the values; group: the (r, v)
 *             cell
 *   manifest  file: a CSV with id, path (inside its folder) and any of label, group, pair, category, view,
 *             split, prompt, target:NAME; or the folder of a manifest.csv
 * A video that cannot be listed is reported through `report` (may be NULL) with its id and reason and left
 * out, never replaced by another; a set without any video is an error. options NULL: all false. */
typedef void ebb_dataset_report(void *user, const char *id, const char *reason);
bool ebb_dataset_open(ebb_dataset *set, const char *format, const char *root,
                      const ebb_dataset_options *options, ebb_dataset_report *report, void *user,
                      ebb_error *err);
/* The set that section `data` of an experiment names, with the groups it keeps. */
struct ebb_config;
bool ebb_dataset_open_config(ebb_dataset *set, const struct ebb_config *config, ebb_dataset_report *report,
                             void *user, ebb_error *err);
void ebb_dataset_close(ebb_dataset *set);
/* Keeps the first `groups` groups of each category and forgets the others. */
void ebb_dataset_keep(ebb_dataset *set, int64_t groups);

/* is_possible of an IntPhys status.json in memory (what the fuzzer calls). `path` is for messages. */
bool ebb_intphys_status(const char *path, const char *text, size_t bytes, bool *possible, ebb_error *err);

/* The number in "scene_012.png" (.jpg, .jpeg; up to nine digits), -1 for any other name. */
int64_t ebb_frame_number(const char *name);

/* Decoded frames, host memory: rgb u8 [frames, height, width, 3]. */
typedef struct ebb_clip {
  int frames, height, width;
  uint8_t *rgb;
} ebb_clip;
#define EBB_CLIP_BYTES_MAX ((uint64_t)8 << 30)
/* All frames of a folder of images, a video file or an item of a container. Images are named by number after
 * a common beginning ("scene_001.png", .jpg, .jpeg): numbers must run from 1 (or 0) without a gap, sizes must
 * agree; where there is a scene_..., other images are not frames. */
bool ebb_video_read(const ebb_video *video, ebb_clip *clip, ebb_error *err);
void ebb_clip_free(ebb_clip *clip); /* frees and zeroes; a zeroed clip is fine */

/* `ebb data check`: reads every frame; checks that each group is a quadruplet with two possible and two
 * impossible movies made of the same multiset of frames (SHA-256 of decoded pixels), reports counts by label,
 * category and group, frame counts and sizes, and the null-by-construction note (additive features are at
 * chance, REFERENCE 6.9). Prints to `out`; `broken` counts the groups that fail. Errors only for what keeps
 * it from checking. */
bool ebb_dataset_check(const ebb_dataset *set, FILE *out, int64_t *broken, ebb_error *err);

#endif
