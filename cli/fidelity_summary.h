/* A loop's numbers by video, and what fidelity_summary.json says of them. */
#ifndef EBB_CLI_FIDELITY_SUMMARY_H
#define EBB_CLI_FIDELITY_SUMMARY_H

#include "cli/fidelity_report.h"
#include "probe/correlate.h"

#include <jansson.h>

/* A video's loop in single numbers, in the order of fidelity_videos.csv. */
typedef enum ebb_scalar {
  EBB_END_REL,       /* rel where the loop closes: data: the clean latent; generated: the noise */
  EBB_WORST_REL,     /* the largest rel of all states */
  EBB_MEAN_IMPLICIT, /* means over states */
  EBB_MEAN_LOCAL,
  EBB_MEAN_VEL_COS,
  EBB_MEAN_ATTN_COS,
  EBB_NOISE_STD,
  EBB_NOISE_KURTOSIS,
  EBB_NOISE_KS,
  EBB_NOISE_COLUMNS_LAG,
  EBB_SCALARS
} ebb_scalar;
extern const char *const ebb_scalar_names[EBB_SCALARS];
double ebb_fidelity_scalar(const ebb_fidelity *f, const ebb_fidelity_sample *s, ebb_scalar which);
double ebb_log_snr(double sigma); /* 2 ln((1 - sigma) / sigma); infinite at the ends */

/* The videos of a loop that did not fail, numbered by group. */
typedef struct ebb_loop_videos {
  const ebb_fidelity_report *r;
  ebb_grouped of;                     /* of.n videos; of.group is group */
  const ebb_fidelity_sample **sample; /* [n] */
  int *group;                         /* [n] */
  double *x, *y;                      /* [n], the caller's to fill */
} ebb_loop_videos;
/* Error: no memory. What there is is freed by free, after an error too. */
bool ebb_loop_videos_gather(const ebb_fidelity_report *r, ebb_loop loop, ebb_loop_videos *v, ebb_error *err);
void ebb_loop_videos_free(ebb_loop_videos *v);

/* The whole of fidelity_summary.json; the table on the way. NULL: an error. */
json_t *ebb_fidelity_summary(const ebb_fidelity_report *r, FILE *table, ebb_error *err);

#endif
