#include "engine/invert.h"

#include "engine/unipc.h"

#include <assert.h>

typedef struct branches {
  const ebb_run *run;
  int step;
  int64_t evaluations;
} branches;

/* v of one branch, with its tap told which evaluation this is: state, velocity and what the blocks held. */
static void branch_velocity(branches *b, ebb_tensor v, ebb_tensor x, const ebb_condition *text, int moment,
                            int stage, ebb_tap *tap) {
  const int evaluation = stage == 0 ? b->step : -1, branch = text != b->run->text;
  const bool exact = b->run->plan->solver == EBB_EXACT; /* whose evaluations are all of one function */
  ebb_edit_begin(b->run->edit, b->step, exact ? 0 : stage, branch);
  ebb_tap_begin(tap, evaluation);
  ebb_model_velocity(b->run->model, v, x, text, moment, tap);
  ebb_tap_latent(tap, EBB_LATENT, x);
  ebb_tap_latent(tap, EBB_VELOCITY, v);
  ebb_tap_end(tap);
  b->evaluations++;
}

static void guided_velocity(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage) {
  branches *b = user;
  const ebb_run *r = b->run;
  ebb_context *c = r->model->context;
  branch_velocity(b, v, x, r->text, moment, stage, r->tap);
  if (r->guidance == 1)
    return;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor negative = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "negative velocity", x.rank, x.shape);
  branch_velocity(b, negative, x, r->negative, moment, stage, r->negative_tap);
  ebb_axpby(c, v, (float)r->guidance, v, (float)(1 - r->guidance), negative);
  ebb_arena_release(&c->activations, mark);
}

int64_t ebb_invert_steps(const ebb_run *r, int first, int count, ebb_tensor x, float *trajectory) {
  ebb_context *c = r->model->context;
  branches b = {r, 0, 0};
  const bool multistep = r->plan->solver == EBB_UNIPC_BH2;
  int64_t n = ebb_count(x);
  ebb_unipc history;
  size_t mark = ebb_arena_mark(&c->activations);
  assert(first >= 0 && first + count <= r->plan->steps && (first == 0 || !multistep));
  r->model->edit = r->edit;
  if (multistep)
    ebb_unipc_open(&history, c, x);
  if (trajectory)
    ebb_download(c, trajectory, x);
  for (int i = 0; i < count; i++) {
    b.step = first + i;
    if (multistep)
      ebb_unipc_step(&history, c, r->plan, b.step, x, guided_velocity, &b);
    else
      ebb_integrate(c, r->plan, b.step, x, guided_velocity, &b, r->failures);
    if (trajectory)
      ebb_download(c, trajectory + (i + 1) * n, x);
    if (r->progress)
      r->progress(r->progress_user, b.step + 1, r->plan->steps);
  }
  r->model->edit = NULL;
  ebb_arena_release(&c->activations, mark);
  ebb_tap_finish(r->tap);
  ebb_tap_finish(r->negative_tap);
  return b.evaluations;
}

int64_t ebb_invert(const ebb_run *r, ebb_tensor x, float *trajectory) {
  return ebb_invert_steps(r, 0, r->plan->steps, x, trajectory);
}
