/* What the files of `ebb data check` share: check.c (the way through a set and its tables), check_look.c (one
 * video), check_match.c (matched videos, and what is null by their construction), check_leaks.c (what gives
 * labels and targets away beside the frames). Theirs alone. */
#ifndef EBB_LOADERS_CHECK_PARTS_H
#define EBB_LOADERS_CHECK_PARTS_H

#include "loaders/dataset.h"

#define EBB_LOOK_CELLS 48 /* 4 x 4 parts of the picture, 3 colours */
#define EBB_LOOK_SUMS (2 * EBB_LOOK_CELLS)

typedef struct ebb_frame_digest {
  char hex[65];
} ebb_frame_digest;

/* What was seen of one video. */
typedef struct ebb_look {
  int frames, height, width; /* 0 frames: not readable */
  char *why;                 /* then the reason */
  int64_t bytes;             /* of its file, its images, or its item in a container */
  /* Features that are sums over frames of something of each frame alone, exact: values and squares of the
   * pixels in each part of the picture. */
  int64_t sums[EBB_LOOK_SUMS];
  char content[65];          /* SHA-256 of the above: the same for the same video */
  ebb_frame_digest *digests; /* [frames], sorted SHA-256 of the frames' pixels; NULL when not asked for */
} ebb_look;

ebb_look ebb_look_at(const ebb_dataset *set, const ebb_video *video, bool digests);
void ebb_look_free(ebb_look *look); /* the digests alone: numbers stay */

/* The frames of looks a, b are those of x, y (as multisets). */
bool ebb_same_frames(const ebb_look *a, const ebb_look *b, const ebb_look *x, const ebb_look *y);
/* Are these n movies of one group a quadruplet of IntPhys? Fills `why` when not. */
bool ebb_check_quadruplet(const ebb_video *videos, const ebb_look *looks, int64_t n, ebb_error *why);

/* The additive audit: pairwise accuracy of random frame-additive features in every matched set of videos (of
 * one group and one pair, both labels there), in exact integers. */
#define EBB_AUDIT_FEATURES 64
typedef struct ebb_audit {
  int64_t sets;                        /* matched sets */
  int64_t complete;                    /* of two possible and two impossible videos */
  int64_t same;                        /* whose classes are made of the same frames; with digests */
  int64_t even;                        /* where every feature has a pairwise accuracy of exactly 0.5 */
  int64_t equal;                       /* where every feature has the same sum over both classes */
  int64_t null;                        /* both: no frame-additive feature can tell them */
  double accuracy[EBB_AUDIT_FEATURES]; /* sum over the sets */
  /* Of complete sets: count, sum and sum of squares of s(P1)+s(P2)-s(I1)-s(I2), and of s over their videos,
   * counted from the first score so that little cancels. */
  double gap[3][EBB_AUDIT_FEATURES], score[3][EBB_AUDIT_FEATURES], origin[EBB_AUDIT_FEATURES];
} ebb_audit;
/* The videos of one group, in any order. */
void ebb_audit_group(ebb_audit *audit, const ebb_video *videos, const ebb_look *looks, int64_t n);
void ebb_audit_print(const ebb_audit *audit, bool digests, FILE *out);

/* Container, prompt, targets, views, repetitions. looks [set.count] without digests. Prints; returns how many
 * leaks. */
int ebb_check_leaks(const ebb_dataset *set, const ebb_look *looks, FILE *out);

#endif
