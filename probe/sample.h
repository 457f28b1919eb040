/* Which videos a probe may use, and who is held out when: the store's videos cut into samples (one for each
 * category, or one of all), and the folds of a sample. Rows of all features of a sample share both. */
#ifndef EBB_PROBE_SAMPLE_H
#define EBB_PROBE_SAMPLE_H

#include <stddef.h>

#include "loaders/store.h"

typedef struct ebb_sample {
  char name[64]; /* category, or "all" */
  bool by_category;
  int64_t n, groups;
  int64_t *video;     /* [n] numbers in the store, ascending */
  int8_t *label;      /* [n] +1 possible, -1 impossible */
  int *group;         /* [n] 0..groups-1 */
  int *pair;          /* [n] number of the matched pair, -1: none is named */
  int *stratum;       /* [groups] category */
  const char **names; /* [groups] as in the store; after ebb_sample_ungroup the videos' */
  int64_t failed;     /* videos left out: the run recorded a failure */
  int64_t unlabelled; /* videos left out: no label */
  int64_t one_sided;  /* groups left out: only possible or only impossible videos (after the above) */
  int64_t missing;    /* of ebb_samples_targets: videos left out because a target is not known */
  double *target;     /* of ebb_samples_targets: [targets,n], all finite; else NULL */
} ebb_sample;

/* by_category: a sample for each category, else one. Errors: a sample with no or only one class of label, or
 * with fewer usable groups than nested folds need, each with what was found and what is needed. */
bool ebb_samples_make(const ebb_store *store, bool by_category, int folds, int inner_folds,
                      ebb_sample **samples, int *count, ebb_error *err);
/* The same for regression: videos that know every one of `targets` (numbers in store.target_names),
 * labelled or not, groups of any labels. */
bool ebb_samples_targets(const ebb_store *store, bool by_category, int folds, int inner_folds,
                         const int *targets, int target_count, ebb_sample **samples, int *count,
                         ebb_error *err);
void ebb_samples_free(ebb_sample *samples, int count);
/* Every video a group of its own: for protocols that split by video, so that groups stand on both sides. */
void ebb_sample_ungroup(ebb_sample *sample, const ebb_store *store);
/* Whether some group has more than one video, so that a split by video would cut groups. */
bool ebb_sample_grouped(const ebb_sample *sample);

/* Who is trained on and who is judged, for every repeat and outer fold. */
typedef struct ebb_part {
  int64_t train_count, test_count;
  int32_t *train, *test; /* positions in the sample */
  int32_t *inner;        /* [train_count] inner fold of each training video; NULL: none */
  int64_t validation_count;
  int32_t *validation; /* of ebb_plan_split: neither trained on nor judged */
} ebb_part;
typedef struct ebb_plan {
  int repeats, folds, inner_folds;
  int *fold;      /* [repeats,groups] */
  ebb_part *part; /* [repeats,folds] */
} ebb_plan;
bool ebb_plan_make(ebb_plan *plan, const ebb_sample *sample, int repeats, int folds, int inner_folds,
                   uint64_t seed, ebb_error *err);
/* One random split of the groups for each repeat, as one fold: shares of them for test and validation,
 * rounded half to even, at least one group where a share is above 0; the others train. fold is 0 for
 * groups tested, -1 for others. As the official code does it (REFERENCE 3.8), so that its sets are these:
 * names of groups in order of their bytes, '/' as '_', shuffled by torch.randperm with seed + repeat; the
 * first ones are tested, the next ones decide. Errors: no group left to train on, memory. */
bool ebb_plan_split(ebb_plan *plan, const ebb_sample *sample, int repeats, double test, double validation,
                    uint64_t seed, ebb_error *err);
void ebb_plan_free(ebb_plan *plan);

#endif
