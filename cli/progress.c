#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const char *duration(double seconds, char text[32]) {
  if (seconds < 90)
    snprintf(text, 32, "%.0f s", seconds);
  else if (seconds < 5400)
    snprintf(text, 32, "%.1f min", seconds / 60);
  else
    snprintf(text, 32, "%.1f h", seconds / 3600);
  return text;
}

void ebb_progress_start(ebb_progress_bar *p, const char *what, const char *unit, int64_t total) {
  *p =
      (ebb_progress_bar){.what = what, .unit = unit, .total = total, .started = now(), .terminal = isatty(2)};
}

void ebb_progress_show(ebb_progress_bar *p, double done) {
  double t = now(), spent = t - p->started;
  if (done <= 0 || t - p->last < (p->terminal ? 0.1 : 15))
    return;
  p->last = t;
  p->shown = true;
  char left[32], rate[48] = "";
  duration(spent / done * ((double)p->total - done), left);
  if (p->unit)
    snprintf(rate, sizeof rate, "%.0f/%lld %s, %.2f/s, ", done, (long long)p->total, p->unit, done / spent);
  if (!p->terminal) {
    fprintf(stderr, "%s: %.0f %%, %s%s left\n", p->what, 100 * done / (double)p->total, rate, left);
    return;
  }
  char bar[31] = "..............................";
  for (int i = 0; i < (int)(30 * done / (double)p->total) && i < 30; i++)
    bar[i] = '#';
  fprintf(stderr, "\r%s [%s] %s%s left   ", p->what, bar, rate, left);
}

void ebb_progress_end(ebb_progress_bar *p) {
  double spent = now() - p->started;
  char text[32];
  if (p->shown && p->terminal)
    fprintf(stderr, "\r\033[K");
  if (p->unit)
    fprintf(stderr, "%s: %lld %s in %s, %.2f/s\n", p->what, (long long)p->total, p->unit,
            duration(spent, text), (double)p->total / (spent > 0 ? spent : 1));
  else
    fprintf(stderr, "%s: %s\n", p->what, duration(spent, text));
}
