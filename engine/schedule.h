/* Noise levels: which sigmas a run visits and what time label the model is told at each. Pure host
 * mathematics in double. */
#ifndef EBB_ENGINE_SCHEDULE_H
#define EBB_ENGINE_SCHEDULE_H

#include "kernels/error.h"

/* Named as in the experiment file; formulas as in diffusers' schedulers, flow sigmas with static shift,
 * shifted(s) = shift s / (1 + (shift-1) s):
 *   unipc             UniPCMultistepScheduler(use_flow_sigmas), diffusers today: s = linspace(1, 1/1000, N+1)[:-1]
 *                     shifted, the first less 1e-6
 *   unipc-old         the same class in older diffusers: 1 - a for a = linspace(1, 1/1000, N+1), shifted, flipped,
 *                     without the last
 *   flow-match-euler  FlowMatchEulerDiscreteScheduler */
typedef enum ebb_schedule_kind { EBB_UNIPC, EBB_UNIPC_OLD, EBB_FLOW_MATCH_EULER } ebb_schedule_kind;

typedef struct ebb_schedule {
  ebb_schedule_kind kind;
  int steps;
  double shift;
  double *sigma; /* [steps+1], ascending: sigma[0] = 0 is the clean latent, sigma[steps] the noise */
  double *label; /* [steps+1]: the model time of sigma[i]; label[0] = 0; integers for unipc as diffusers
                    truncates them */
} ebb_schedule;

bool ebb_schedule_make(ebb_schedule *s, ebb_schedule_kind kind, int steps, double shift,
                       ebb_error *err); /* steps 1..10000, shift > 0 */
void ebb_schedule_free(ebb_schedule *s);
const char *ebb_schedule_name(ebb_schedule_kind kind);
/* Kind and shift from folder/scheduler_config.json. Errors: another class, flow sigmas off, dynamic shifting,
 * each with what was found. */
bool ebb_schedule_read(const char *folder, ebb_schedule_kind *kind, double *shift, ebb_error *err);
/* By name; "auto" leaves kind as it is. */
bool ebb_schedule_named(const char *name, ebb_schedule_kind *kind, ebb_error *err);
/* The schedule of a run: `name` as above, steps, shift; what is "auto" or 0 comes from
 * model_folder/scheduler/scheduler_config.json. */
bool ebb_schedule_open(ebb_schedule *s, const char *model_folder, const char *name, int steps, double shift,
                       ebb_error *err);

#endif
