#include "engine/invert.h"

typedef struct branches {
  const ebb_run *run;
  int step;
  int64_t evaluations;
} branches;

static void guided_velocity(void *user, ebb_tensor v, ebb_tensor x, int moment, int stage) {
  branches *b = user;
  const ebb_run *r = b->run;
  ebb_context *c = r->model->context;
  int seen = stage == 0 ? b->step : -1;
  ebb_tap_step(r->tap, seen);
  ebb_model_velocity(r->model, v, x, r->text, moment, r->tap);
  b->evaluations++;
  if (r->guidance != 1) {
    size_t mark = ebb_arena_mark(&c->activations);
    ebb_tensor negative = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "negative velocity", x.rank, x.shape);
    ebb_tap_step(r->negative_tap, seen);
    ebb_model_velocity(r->model, negative, x, r->negative, moment, r->negative_tap);
    ebb_axpby(c, v, (float)r->guidance, v, (float)(1 - r->guidance), negative);
    ebb_arena_release(&c->activations, mark);
    b->evaluations++;
  }
  ebb_tap_latent(r->tap, EBB_LATENT, x);
  ebb_tap_latent(r->tap, EBB_VELOCITY, v);
  ebb_tap_step(r->tap, -1);
  ebb_tap_step(r->negative_tap, -1);
}

int64_t ebb_invert(const ebb_run *r, ebb_tensor x, float *trajectory) {
  ebb_context *c = r->model->context;
  branches b = {r, 0, 0};
  int64_t n = ebb_count(x);
  if (trajectory)
    ebb_download(c, trajectory, x);
  for (int i = 0; i < r->plan->steps; i++) {
    b.step = i;
    ebb_integrate(c, r->plan, i, x, guided_velocity, &b);
    if (trajectory)
      ebb_download(c, trajectory + (i + 1) * n, x);
    if (r->progress)
      r->progress(r->progress_user, i + 1, r->plan->steps);
  }
  return b.evaluations;
}
