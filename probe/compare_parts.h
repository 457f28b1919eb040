/* What compare.c (which videos, models and steps of two runs go together, and their cosines) and
 * compare_report.c (what is written of them) share. Theirs alone. */
#ifndef EBB_PROBE_COMPARE_PARTS_H
#define EBB_PROBE_COMPARE_PARTS_H

#include "loaders/store.h"
#include "probe/compare.h"

#include <jansson.h>

/* The two runs and what they share. Index 0 is A, 1 is B. */
typedef struct ebb_comparison {
  const ebb_compare_options *options;
  ebb_store store[2];
  int64_t count;     /* videos in both data sets */
  int64_t *video[2]; /* [count] their numbers */
  json_t *only[2];   /* names of models with the feature that the other run has not: they are left out */
  FILE *cosine, *summary, *table;
  json_t *models; /* for compare.json */
} ebb_comparison;

/* One model of both. Numbers are indices into its lists. */
typedef struct ebb_compared {
  const ebb_comparison *runs;
  int set[2], feature[2];
  int64_t blocks, heads, width; /* width: numbers of a head */
  int64_t n, failed;
  int64_t *video[2];     /* [n] */
  int64_t *other;        /* [n] place of a video of another group; -1: there is none */
  int pairs, *step[2];   /* [pairs] */
  double *same, *others; /* [blocks,pairs,n,heads] cosines; NaN: undefined */
} ebb_compared;

static inline const ebb_feature_set *ebb_compared_set(const ebb_compared *s, int run) {
  return &s->runs->store[run].sets[s->set[run]];
}

static inline const ebb_feature *ebb_compared_feature(const ebb_compared *s, int run) {
  return &ebb_compared_set(s, run)->features[s->feature[run]];
}

/* cosine.csv: a line for each video, block, head and pair of steps of one model. */
void ebb_compared_cosines(const ebb_compared *s);
/* summary.csv, the table and compare.json's entry of one model: a line for every block and pair of steps, one for
 * all pairs. Errors: memory; means that are not finite, a name that is not UTF-8. */
bool ebb_compared_report(const ebb_compared *s, ebb_error *err);
/* What the runs record and differ in, {"labels": ["noisy", "matched"]}; for json_decref. */
json_t *ebb_comparison_differences(const ebb_comparison *c);
/* The same, and the models that only one of them has, into the table. */
void ebb_comparison_print(const ebb_comparison *c, const json_t *differ);
/* OUT/compare.json. Errors: texts that are not UTF-8, the file. */
bool ebb_comparison_json(const ebb_comparison *c, const json_t *differ, ebb_error *err);

#endif
