/* What the formats of data sets share: each lists its videos into a set, in no order. */
#ifndef EBB_LOADERS_FORMATS_H
#define EBB_LOADERS_FORMATS_H

#include "loaders/dataset.h"

/* A set being listed, with the videos that had to be left out of it. */
typedef struct ebb_listing {
  ebb_dataset *set;
  const ebb_dataset_options *options;
  ebb_dataset_report *report; /* may be NULL */
  void *user;
  int64_t left_out;
  ebb_error first; /* why the first was left out: for the error of an empty set */
} ebb_listing;

typedef bool ebb_format_list(ebb_listing *listing, ebb_error *err);
ebb_format_list ebb_intphys_list, ebb_inflevel_list, ebb_phyworld_list, ebb_manifest_list;

/* Takes the video's texts and targets. Target counts and names of the set are set before the first. */
void ebb_listing_add(ebb_listing *listing, ebb_video video);
void ebb_video_free(ebb_video *video); /* what it points to */
/* Reports the video and counts it. */
void ebb_listing_leave_out(ebb_listing *listing, const char *id, const ebb_error *why);
/* The error of a set without videos: what the layout should have been, or why none can be used. */
bool ebb_listing_finish(const ebb_listing *listing, const char *expected, ebb_error *err);

/* Images in a folder, by the rules of ebb_video_read; 0 and an error when there are none. */
int ebb_count_frames(const char *folder, ebb_error *err);

#endif
