/* Private to the study: what a protocol is given and what it fills. study.c makes rows, samples and
 * intervals; strict.c and presets.c say who is trained on, who is judged, and which cell speaks;
 * protocol.c is what both of them need. */
#ifndef EBB_PROBE_PROTOCOL_H
#define EBB_PROBE_PROTOCOL_H

#include "probe/presets.h"
#include "probe/sample.h"
#include "probe/study.h"

#include <stdlib.h>

/* Cells held in memory at once: as many as fit here, at least one. A device takes more at a time. */
#define CELL_BYTES ((size_t)128 << 20)
#define CELL_BYTES_DEVICE ((size_t)2 << 30)

/* One row being studied, and what its rows share. */
typedef struct study {
  const ebb_store *store;
  const ebb_config *config;
  ebb_context *c;
  const ebb_sample *sample;
  const ebb_plan *plan;
  const ebb_preset *preset; /* NULL: strict */
  const int8_t *labels;     /* [1 + permutations, n] */
  int64_t permutations;
  ebb_parameters parameters;
  int set, feature;
  bool by_head; /* each head of the feature is a cell */
  ebb_row *row;
  int cells, parts;       /* cells of the row; repeats x folds */
  double *score;          /* [cells,parts,penalties] inner score */
  double *margins;        /* [cells,repeats,n] of every cell alone; NaN: not judged */
  int32_t *hits;          /* [cells,1 + permutations] twice the hits of the first repeat */
  double *reached;        /* [folds,1 + permutations] first repeat: highest inner score over cells so far */
  int32_t *nested_hits;   /* [folds,1 + permutations] twice the hits of the cell that reached it */
  ebb_progress *progress; /* NULL: nobody looks */
  void *user;
  double done, work; /* cells, over all rows */
} study;

/* calloc with one entry to spare, or an error. */
static inline void *ebb_room(size_t count, size_t size, ebb_error *err) {
  void *p = calloc(count + 1, size);
  if (!p)
    ebb_fail(err, "not enough memory for a probe (%.0f MB)", (double)count * (double)size / 1e6);
  return p;
}

/* Cells of a row that are read at once. */
int ebb_study_chunk(const study *s);
/* x [n,width] of one cell, finite. */
bool ebb_study_read(const study *s, int cell, float *x, ebb_error *err);
/* Cells [0, done) of the row are done: progress. */
void ebb_study_progress(study *s, int cells);
/* The heat map from s->margins: means over repeats. */
bool ebb_study_map(study *s, ebb_error *err);

/* What results say of where they are from: the run's own provenance, the settings probed with, the hash of
 * the index (which has those of the shards), the notice of the data. Owned by the caller. */
json_t *ebb_probe_provenance(const ebb_store *store, const ebb_config *config);

/* Fill s->row: cells, the best cell, selected, margin. */
bool ebb_strict_row(study *s, ebb_error *err);
bool ebb_preset_row(study *s, ebb_error *err);

#endif
