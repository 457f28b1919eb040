#include "probe/protocol.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* x [n,width] of one cell, finite. */
bool ebb_study_read(const study *s, int cell, float *x, ebb_error *err) {
  const ebb_row *row = s->row;
  const ebb_cell at = ebb_cell_of(row, cell);
  if (!ebb_store_gather(s->store, s->set, s->feature, at.step, at.block,
                        row->by_head ? at.head : EBB_ALL_HEADS, s->sample->n, s->sample->video, x, err))
    return false;
  for (int64_t i = 0; i < s->sample->n * row->width; i++)
    if (!isfinite(x[i]))
      return ebb_fail(err, "%s: %s of %s at step %d%s is not finite for video %s", s->store->dir,
                      row->feature, row->model, row->steps[at.step],
                      row->blocks ? " (one of its blocks)" : "",
                      s->store->videos[s->sample->video[i / row->width]].id);
  return true;
}

int ebb_study_chunk(const study *s) {
  size_t cell_bytes = (size_t)(s->sample->n * s->row->width) * sizeof(float);
  size_t most = s->c->activations.place == EBB_DEVICE ? CELL_BYTES_DEVICE : CELL_BYTES;
  int chunk = cell_bytes < most ? (int)(most / (cell_bytes + 1)) : 1, quarter = (s->cells + 3) / 4;
  chunk = chunk < s->cells ? chunk : s->cells;
  return s->progress && chunk > quarter ? quarter : chunk; /* signs of life */
}

void ebb_study_progress(study *s, int cells) {
  s->done += cells;
  if (s->progress)
    s->progress(s->user, s->done / s->work);
}

/* The heat map: means over repeats. */
bool ebb_study_map(study *s, ebb_error *err) {
  ebb_row *row = s->row;
  const ebb_sample *sample = s->sample;
  bool ok = true;
#pragma omp parallel for schedule(dynamic)
  for (int cell = 0; cell < s->cells; cell++) {
    ebb_tally t;
    if (ebb_tally_make(&t, sample->groups, sample->n, s->plan->repeats,
                       s->margins + (int64_t)cell * s->plan->repeats * sample->n, sample->label,
                       sample->group, sample->pair, s->plan->fold, NULL)) {
      for (int m = 0; m < EBB_METRICS; m++)
        row->cell[m][cell] = ebb_tally_metric(&t, (ebb_metric)m, NULL);
      ebb_tally_free(&t);
    } else {
#pragma omp atomic write
      ok = false;
    }
  }
  if (!ok)
    return ebb_fail(err, "not enough memory for a probe");
  return true;
}
