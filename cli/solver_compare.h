/* What the files of `ebb solver-compare` share: solver_compare.c (the grid, its runs),
 * solver_compare_errors.c (errors to the reference), solver_compare_report.c (what is read off them). Theirs
 * alone. */
#ifndef EBB_CLI_SOLVER_COMPARE_H
#define EBB_CLI_SOLVER_COMPARE_H

#include "engine/identity.h"
#include "engine/solver_errors.h"
#include "probe/stats.h"

#include <stdio.h>

/* A run of its own, probed: one case with one list of captured steps. */
typedef struct ebb_compare_cell {
  int number; /* of its case */
  bool by_sigma,
      by_index; /* captured at the experiment's sigmas; at its step numbers. Both: the two lists are one */
  ebb_int_list capture;
  char *dir;
  int64_t failed; /* videos */
} ebb_compare_cell;

/* A case's errors, with intervals over groups. */
typedef struct ebb_case_error {
  int64_t evaluations, videos, groups;
  ebb_interval endpoint, path;
} ebb_case_error;

typedef struct ebb_solver_grid {
  const ebb_config *config;
  const char *out;
  const char *reference;
  int64_t reference_steps, videos;
  bool probed; /* cells were run; else there are errors alone */
  int case_count, cell_count;
  ebb_solver_case *cases; /* [case_count], solvers outermost, then labels, then steps */
  ebb_case_error *errors; /* [case_count] */
  ebb_compare_cell *cells;
  ebb_identity identity; /* of the videos that are measured; probed: of all */
} ebb_solver_grid;

static inline const char *ebb_cell_captures(const ebb_compare_cell *c) {
  return c->by_sigma && c->by_index ? "both" : c->by_sigma ? "sigma" : "index";
}

/* Errors of every case against the reference: read from OUT/errors, or measured and written there, a file a
 * case. */
bool ebb_solver_grid_errors(ebb_solver_grid *g, ebb_error *err);

/* OUT/solver_compare.csv (a line a cell, category and feature), solver_compare_effects.csv (pairs of cells
 * that differ in one thing, videos paired) and solver_compare.json, from finished cells; and the table. */
bool ebb_solver_grid_report(const ebb_solver_grid *g, const char *version, FILE *table, ebb_error *err);

#endif
