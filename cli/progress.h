/* Progress on stderr: one line that renews itself on a terminal, a plain line now and then in a log. */
#ifndef EBB_CLI_PROGRESS_H
#define EBB_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ebb_progress_bar {
  const char *what; /* "inverting" */
  const char *unit; /* "videos"; NULL: only the share done is shown */
  int64_t total;
  double started, last; /* seconds */
  bool terminal, shown;
} ebb_progress_bar;

void ebb_progress_start(ebb_progress_bar *p, const char *what, const char *unit, int64_t total);
void ebb_progress_show(ebb_progress_bar *p, double done); /* of total, with a fraction */
void ebb_progress_end(ebb_progress_bar *p); /* a last line with rate and time; nothing when never shown */

#endif
