/* A probe's margins read back from RUN/probe/margins.csv (probe/report.c writes it): a line a video and row.
 */
#ifndef EBB_PROBE_MARGINS_H
#define EBB_PROBE_MARGINS_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ebb_margin {
  const char *category, *model, *feature, *video, *group;
  bool possible;
  double margin; /* in log odds, above 0 says possible; mean over the repeats that judged the video */
  double right;  /* share of them on the right side */
} ebb_margin;

typedef struct ebb_margins {
  int64_t count;
  ebb_margin *items; /* rows of a (category, model, feature) together, as in the file */
  char *text;        /* what the names point into */
} ebb_margins;

/* Errors: no such file, another head line, a line of other fields, each with the line's number. */
bool ebb_margins_read(ebb_margins *m, const char *path, ebb_error *err);
bool ebb_margins_parse(ebb_margins *m, const char *path, char *text, size_t bytes,
                       ebb_error *err); /* owns text */
void ebb_margins_free(ebb_margins *m);  /* a zeroed struct is fine */
/* One past the last item from `at` on that has its category, model and feature. */
int64_t ebb_margins_row_end(const ebb_margins *m, int64_t at);

#endif
