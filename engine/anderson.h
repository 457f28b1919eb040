/* Anderson acceleration of a fixed-point iteration y <- g(y) (Walker and Ni, "Anderson acceleration for
 * fixed-point iterations", SIAM J. Numer. Anal. 49, 2011, type II): the next iterate is the combination of
 * the last few whose residuals g(y) - y cancel best. On the host. */
#ifndef EBB_ENGINE_ANDERSON_H
#define EBB_ENGINE_ANDERSON_H

#include <stdbool.h>
#include <stdint.h>

#define EBB_ANDERSON_DEPTH 6

typedef struct ebb_anderson {
  int64_t n;                                              /* unknowns */
  int count;                                              /* iterations seen */
  float *g, *f;                                           /* [n] the last g(y) and its residual */
  float *dg[EBB_ANDERSON_DEPTH], *df[EBB_ANDERSON_DEPTH]; /* [n] each: their last differences */
} ebb_anderson;

bool ebb_anderson_open(ebb_anderson *a, int64_t n); /* false: no memory */
void ebb_anderson_close(ebb_anderson *a);           /* a zeroed struct is fine */
/* y [n] and g = g(y) [n] -> the next iterate, in y. */
void ebb_anderson_next(ebb_anderson *a, float *y, const float *g);

#endif
