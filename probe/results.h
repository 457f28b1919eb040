/* What a study found: one row for each category, model and feature. Filled by study.c, written, read and
 * drawn by report.c and plot.c. Grids run [step][block][head]; a cell is a number in them. */
#ifndef EBB_PROBE_RESULTS_H
#define EBB_PROBE_RESULTS_H

#include "probe/metrics.h"
#include "probe/stats.h"

#include <jansson.h>

#define EBB_OF_A_HEAD ".head" /* how the name of a feature ends in a row whose cells are its heads */

typedef struct ebb_row {
  char category[64], model[64], feature[80];
  int64_t videos, groups, width;         /* width: numbers of one video in one cell */
  int64_t failed, unlabelled, one_sided; /* left out: videos, videos, groups */
  int step_count, block_count;           /* block_count 1 and blocks NULL for a feature without blocks */
  int *steps, *blocks;                   /* numbers as captured */
  bool by_head;                          /* each head is a cell; else all are in one, or there are none */
  int head_count;                        /* 1 when not by_head */
  double *sigmas;                        /* [step_count] */

  /* The reported numbers: logistic regression in the cell and at the penalty that the training groups chose.
   */
  ebb_interval metric[EBB_METRICS];
  double balanced_accuracy, d_prime; /* means over repeats; d' on margins in log odds */
  double nested_p;  /* of the accuracy of the same nested choice, judged by ridge, first repeat, labels
                       permuted */
  double *selected; /* [step,block,head] share of the fits that chose the cell */
  int chosen;       /* the cell chosen most often */

  /* Every cell alone: ridge regression, penalty chosen inside the training groups; means over repeats. */
  double *cell[EBB_METRICS]; /* [step,block,head] */
  /* The best cell, how high the best of so many reaches by chance, and how rarely permuted labels reach it:
   * one statistic throughout, the highest accuracy of the first repeat (refits under permuted labels have
   * only that). In `cell` the best cell may be lower and another the highest. */
  int top;            /* the cell */
  double top_once, p; /* its accuracy in the first repeat; p of that */
  double *cell_p; /* [step,block,head] p of every cell's accuracy in the first repeat against the same maxima:
                         corrected for all cells (REFERENCE 6.5 i); NaN without permutations */
  ebb_floor independent, permuted;

  /* Presets that choose on the test videos: accuracy of the best block of each seed, mean and standard
   * error over seeds. NULL for the others. */
  double *step_mean, *step_error; /* [step] */

  /* Held-out margins of the reported numbers; not in results.json. */
  int repeats, folds;
  int64_t *video;       /* [videos] numbers in the store */
  int *fold;            /* [repeats,videos] fold that held the video out; -1: not judged in that repeat */
  int *fit_cell;        /* [repeats,folds] cell that judged the fold */
  double *fit_penalty;  /* [repeats,folds] rho of solve.h; NaN: none */
  double *margin;       /* [repeats,videos]; NaN: not judged in that repeat */
  double *cell_margins; /* [cells,repeats,videos] of every cell, with step_mean; else NULL */
} ebb_row;

/* The first model minus the second, videos and resamples paired. */
typedef struct ebb_difference {
  char category[64], model[64], feature[80], other_model[64], other_feature[80];
  ebb_interval metric[EBB_METRICS];
} ebb_difference;

typedef struct ebb_results {
  char name[64];   /* of the experiment */
  char preset[16]; /* strict, referee, released, paper */
  bool by_video;   /* probe.allow_leak: split by video, so that groups stand on both sides */
  int folds, repeats, inner_folds;
  int64_t bootstrap, permutations, seed;
  char not_used[64]; /* settings that were not the defaults and that the preset has no use for; "": none */
  int row_count, difference_count;
  ebb_row *rows;
  ebb_difference *differences;
  json_t *provenance; /* owned; NULL: none */
} ebb_results;

void ebb_results_free(ebb_results *results); /* a zeroed struct is fine */

/* The model that others are compared with: "transformer", or else the first with blocks; "" when there is
 * none. */
const char *ebb_trained_model(const ebb_row *rows, int count);

#define EBB_MOST_CELLS (1 << 24) /* of one row */

/* Whether a row may have so many: what ebb_row_cells and ebb_cell_number compute then fits an int. Counts
 * are >= 1. */
static inline bool ebb_cells_fit(int64_t steps, int64_t blocks, int64_t heads) {
  int64_t cells;
  return !__builtin_mul_overflow(steps, blocks, &cells) && !__builtin_mul_overflow(cells, heads, &cells) &&
         cells <= EBB_MOST_CELLS;
}

static inline int ebb_row_cells(const ebb_row *row) {
  return row->step_count * row->block_count * row->head_count;
}

typedef struct ebb_cell { /* of a cell, as indices */
  int step, block, head;
} ebb_cell;

static inline ebb_cell ebb_cell_of(const ebb_row *row, int cell) {
  int column = cell / row->head_count;
  return (ebb_cell){column / row->block_count, column % row->block_count, cell % row->head_count};
}

static inline int ebb_cell_number(const ebb_row *row, int step, int block, int head) {
  return (step * row->block_count + block) * row->head_count + head;
}

#endif
