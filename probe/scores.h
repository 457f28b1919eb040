/* Private to the solvers: standardised rows turned to their principal axes. */
#ifndef EBB_PROBE_SCORES_H
#define EBB_PROBE_SCORES_H

#include "kernels/lapack.h"
#include "probe/solve.h"

/* With z the standardised training rows, z = u v' where v has orthonormal columns: u = z v. A linear function
 * of z with its weights in the span of the rows (every penalised optimum is) is a linear function of u with
 * the same norm. */
typedef struct ebb_scores {
  int64_t train, test, d, rank;
  double *mean, *inverse; /* [d] of x over training rows; inverse of the deviation, 0 for a constant column */
  double *z;              /* [train + test, d], training rows first */
  double *u, *u_test;     /* [train,rank], [test,rank] */
  double *s;              /* [rank] squared norms of the columns of u, ascending, all > 0 */
  double unit;            /* mean over training rows of |z|^2: what relative penalties are relative to; > 0 */
} ebb_scores;

/* order [train_count] is the order of training rows wanted, as positions in p->train; NULL: as they come.
 * false: out of memory, or training rows that are not finite; *scores is then empty. */
bool ebb_scores_make(ebb_scores *scores, const ebb_problem *p, const int64_t *order, ebb_form form);
void ebb_scores_free(ebb_scores *scores);

#endif
