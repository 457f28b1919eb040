/* Two runs of the same videos (other time labels, another number of steps, another solver or dtype) side by
 * side: how alike the maps of attention are that the model drew on the two trajectories (REFERENCE 4.1 f).
 *
 * For each video, block, head and step: cosine of the feature's numbers in A and in B. Steps are a pair
 * when each is the other's nearest in sigma and they are no more than a tolerance apart, so that 50 steps
 * can be held against 100. All maps of one head resemble one another: a cosine says something only above
 * that between A's video and another video in B, the next of another group, which stands beside it. */
#ifndef EBB_PROBE_COMPARE_H
#define EBB_PROBE_COMPARE_H

#include "loaders/store.h"

#include <stdio.h>

typedef struct ebb_compare_options {
  const char *run[2];  /* folders of A and B */
  const char *feature; /* "attn_frames", or any that is stored; one without heads has one cosine a block */
  const char *model;   /* NULL: every one that has the feature in both; the others are named as left out */
  double sigma;        /* how far apart a pair's sigmas may be */
  const char *out;     /* folder, made */
} ebb_compare_options;

/* Writes OUT/cosine.csv (a line a video, block, head and pair of steps), OUT/summary.csv (a line a block
 * and pair of steps, and a block over all) and OUT/compare.json (what was compared; an old one goes first,
 * the new one is written last). The table goes to `table` (NULL: nowhere). Videos that failed in either are
 * left out and counted, models that only one has are left out and named. Errors say what does not match:
 * videos, their frames, models, features, shapes, blocks, sigmas; a number that is not finite is one, with
 * its place. A cosine with a map of zeros is empty. */
bool ebb_compare_runs(const ebb_compare_options *options, FILE *table, ebb_error *err);

#endif
