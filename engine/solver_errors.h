/* How far solvers are from the flow itself: the same latents inverted by each of them and, in many small
 * steps told the label of where they are, by a reference. */
#ifndef EBB_ENGINE_SOLVER_ERRORS_H
#define EBB_ENGINE_SOLVER_ERRORS_H

#include "engine/integrate.h"
#include "loaders/config.h"

#include <stdio.h>

typedef struct ebb_solver_case {
  char solver[16], labels[16];
  int steps;
} ebb_solver_case;

/* What a case came to. endpoint: |noise - reference| / |reference| (L2); path: the same, mean over the states
 * after the first. [videos]; NaN: the video failed. */
typedef struct ebb_solver_error {
  double *endpoint, *path;
  int64_t evaluations; /* of the model, for one video */
} ebb_solver_error;

typedef struct ebb_solver_errors_options {
  const char *reference; /* solver of the reference: "rk4" */
  int reference_steps;   /* at least; the grid holds every sigma of every case */
  int64_t videos;        /* the first so many of the data set */
  const char *cache; /* file that keeps the reference; read when it is of the same experiment, else written */
  FILE *log;
  void (*progress)(void *user, double share); /* may be NULL */
  void *progress_user;
} ebb_solver_errors_options;

typedef struct ebb_solver_errors {
  int64_t videos, failed; /* failed: could not be read */
  char **id, **group;     /* [videos] */
  ebb_solver_error *of;   /* [cases] */
  int count, reference_steps;
} ebb_solver_errors;

/* The grid of the reference: ascending, the sigmas of every case's schedule (within 1e-7 one and the same)
 * and between two of them as many steps of one length as make `steps` in all or more; labels 1000 sigma. stop
 * [*stops] says which entries are sigmas of the cases. For tests. Errors: memory, a schedule that cannot be
 * made. */
bool ebb_reference_grid(const ebb_schedule *const *schedules, int count, int steps, ebb_schedule *grid,
                        int **stop, int *stops, ebb_error *err);

/* config gives everything but solver, labels and steps. `todo` [count]: cases that are wanted; the others
 * stay empty. Errors: what keeps all from going on. Free in any case. */
bool ebb_solver_errors_run(const ebb_config *config, const ebb_solver_case *cases, const bool *todo,
                           int count, const ebb_solver_errors_options *options, ebb_solver_errors *errors,
                           ebb_error *err);
void ebb_solver_errors_free(ebb_solver_errors *errors);

#endif
