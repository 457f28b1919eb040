/* Private to the solvers: what solve.h's calls become on a device. Contracts as there. */
#ifndef EBB_PROBE_SOLVERS_H
#define EBB_PROBE_SOLVERS_H

#include "probe/solve.h"

bool ebb_ridge_device(ebb_context *c, int64_t count, const ebb_problem *problems,
                      const ebb_parameters *parameters, ebb_ridge_fit *fits, ebb_error *err);
/* worst: the largest relative gradient that a fit was left with. */
bool ebb_logistic_device(ebb_context *c, int64_t count, const ebb_problem *problems,
                         const ebb_parameters *parameters, ebb_logistic_fit *fits, double *worst,
                         ebb_error *err);

#endif
