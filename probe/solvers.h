/* Private to the solvers: what solve.h's calls become on a device. Contracts as there. */
#ifndef EBB_PROBE_SOLVERS_H
#define EBB_PROBE_SOLVERS_H

#include "probe/solve.h"

#include <math.h>

bool ebb_ridge_device(ebb_context *c, int64_t count, const ebb_problem *problems,
                      const ebb_parameters *parameters, ebb_ridge_fit *fits, ebb_error *err);

/* The fit that was left with the largest relative gradient, and its problem. NaN is larger than any: a gradient
 * or margins that are not finite. */
typedef struct ebb_worst {
  double gradient;
  int64_t problem;
} ebb_worst;
static inline void ebb_worst_of(ebb_worst *worst, double gradient, int64_t problem) {
  if (!isnan(worst->gradient) && !(gradient <= worst->gradient))
    *worst = (ebb_worst){gradient, problem};
}

bool ebb_logistic_device(ebb_context *c, int64_t count, const ebb_problem *problems,
                         const ebb_parameters *parameters, ebb_logistic_fit *fits, ebb_worst *worst,
                         ebb_error *err);

#endif
