#include "engine/unipc.h"

#include "loaders/file.h"
#include "loaders/json.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void want_flag(ebb_json j, const char *key, bool wanted, bool fallback) {
  if (ebb_json_bool_or(j, key, fallback) != wanted)
    ebb_fail(j.err, "%s: \"%s\" is %s: the sampler unipc has it %s", j.path, key, wanted ? "false" : "true",
             wanted ? "true" : "false");
}

static void check_settings(ebb_json j) {
  const char *type = ebb_json_text_or(j, "solver_type", "bh2");
  int64_t order = ebb_json_int_or(j, "solver_order", 1, 100, 2);
  if (order != 2)
    ebb_fail(j.err, "%s: \"solver_order\" is %lld: the sampler unipc is of order 2", j.path,
             (long long)order);
  if (strcmp(type, "bh1") == 0) /* other names stand for bh2 in diffusers */
    ebb_fail(j.err, "%s: \"solver_type\" is \"bh1\": the sampler unipc is bh2", j.path);
  if (json_array_size(json_object_get(j.object, "disable_corrector")) > 0)
    ebb_fail(j.err, "%s: \"disable_corrector\" names steps: the sampler unipc corrects every step", j.path);
  want_flag(j, "predict_x0", true, true);
  want_flag(j, "lower_order_final", true, true);
  want_flag(j, "thresholding", false, false);
  ebb_json_refuse(j, "solver_p", "another predictor");
}

bool ebb_unipc_check(const char *model_folder, ebb_error *err) {
  ebb_error found = {""};
  char *path = ebb_format("%s/scheduler/scheduler_config.json", model_folder);
  json_t *json = ebb_is_there(path) ? ebb_json_read(path, &found) : NULL;
  ebb_json j = {json, path, &found};
  if (json && strcmp(ebb_json_text_or(j, "_class_name", ""), "UniPCMultistepScheduler") == 0)
    check_settings(j);
  json_decref(json);
  free(path);
  return found.text[0] == '\0' || ebb_fail(err, "%s", found.text);
}

ebb_unipc_level ebb_unipc_level_at(double sigma) {
  double s = (double)(float)fmin(sigma, 1 - 1e-6);
  return (ebb_unipc_level){s, 1 - s, s > 0 ? log(1 - s) - log(s) : INFINITY};
}

/* Both steps are x_t = sigma_t / sigma_s x - alpha_t B (m + sum of rho_k D_k), B = e^-h - 1, where m is the
 * clean latent at s and D_k the difference to it of another one, divided by that one's distance in lambda as
 * a share of h. */
ebb_unipc_weights ebb_unipc_predictor(int order, ebb_unipc_level p, ebb_unipc_level s, ebb_unipc_level t) {
  const double h = t.lambda - s.lambda, b = -t.alpha * expm1(-h);
  const double r = order == 2 ? (p.lambda - s.lambda) / h : 1, rho = order == 2 ? 0.5 : 0;
  return (ebb_unipc_weights){.state = t.sigma / s.sigma, .now = b * (1 - rho / r), .last = b * rho / r};
}

ebb_unipc_weights ebb_unipc_corrector(int order, ebb_unipc_level p, ebb_unipc_level s, ebb_unipc_level t) {
  const double h = t.lambda - s.lambda, phi = expm1(-h), b = -t.alpha * phi;
  double r = 1, rho_last = 0, rho_new = 0.5;
  if (order == 2) { /* [1 1; r 1] rho = (phi_2, 2 phi_3) / B */
    r = (p.lambda - s.lambda) / h;
    const double first = phi / -h - 1, second = first / -h - 0.5;
    rho_last = (first / phi - 2 * second / phi) / (1 - r);
    rho_new = first / phi - rho_last;
  }
  return (ebb_unipc_weights){.state = t.sigma / s.sigma,
                             .now = b * (1 - rho_last / r - rho_new),
                             .last = b * rho_last / r,
                             .new = b *rho_new};
}

void ebb_unipc_open(ebb_unipc *u, ebb_context *c, ebb_tensor x) {
  static const char *const names[] = {"clean latent", "last clean latent", "clean latent before"};
  for (int k = 0; k < 3; k++)
    u->clean[k] = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, names[k], x.rank, x.shape);
  u->from = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "corrected state", x.rank, x.shape);
  u->order = 0;
}

/* y <- the weighted sum; state may be y. */
static void combine(ebb_context *c, ebb_tensor y, ebb_unipc_weights w, ebb_tensor state, ebb_tensor now,
                    ebb_tensor last, ebb_tensor new) {
  ebb_axpby(c, y, (float)w.state, state, (float)w.now, now);
  if (w.last != 0)
    ebb_axpby(c, y, 1, y, (float)w.last, last);
  if (w.new != 0)
    ebb_axpby(c, y, 1, y, (float)w.new, new);
}

int ebb_unipc_step(ebb_unipc *u, ebb_context *c, const ebb_integration *plan, int i, ebb_tensor x,
                   ebb_velocity_fn *velocity, void *user) {
  assert(plan->solver == EBB_UNIPC_BH2 && i >= 0 && i < plan->steps);
  const double *sigma = plan->sigma;
  const ebb_unipc_level now = ebb_unipc_level_at(sigma[i]), next = ebb_unipc_level_at(sigma[i + 1]);
  const ebb_unipc_level last = ebb_unipc_level_at(sigma[i > 0 ? i - 1 : 0]);
  const ebb_unipc_level before = ebb_unipc_level_at(sigma[i > 1 ? i - 2 : 0]);
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor v = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "velocity", x.rank, x.shape);
  ebb_tensor clean = u->clean[2];
  velocity(user, v, x, plan->step[i].moment[0], 0);
  ebb_axpby(c, clean, 1, x, (float)-now.sigma, v);
  if (i == 0)
    ebb_axpby(c, u->from, 1, x, 0, EBB_NO_TENSOR);
  else
    combine(c, u->from, ebb_unipc_corrector(u->order, before, last, now), u->from, u->clean[0], u->clean[1],
            clean);
  u->clean[2] = u->clean[1];
  u->clean[1] = u->clean[0];
  u->clean[0] = clean;
  u->order = i == 0 || i == plan->steps - 1 ? 1 : 2;
  combine(c, x, ebb_unipc_predictor(u->order, last, now, next), u->from, clean, u->clean[1], EBB_NO_TENSOR);
  ebb_arena_release(&c->activations, mark);
  return 1;
}
