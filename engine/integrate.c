#include "engine/integrate.h"

#include "engine/anderson.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const solver_names[] = {"euler", "heun", "midpoint", "rk4", "exact", "unipc"};
static const char *const label_names[] = {"noisy", "matched"};

/* Where in a step each stage is evaluated, as a fraction of it. */
static const struct {
  int stages;
  double at[EBB_STAGES];
} tableau[] = {
    [EBB_EULER] = {1, {0}},         [EBB_HEUN] = {2, {0, 1}},
    [EBB_MIDPOINT] = {2, {0, 0.5}}, [EBB_RK4] = {4, {0, 0.5, 0.5, 1}},
    [EBB_EXACT] = {1, {0}},         [EBB_UNIPC_BH2] = {1, {0}},
};

bool ebb_solver_named(const char *name, ebb_solver *solver, ebb_error *err) {
  for (int i = 0; i < (int)(sizeof solver_names / sizeof *solver_names); i++)
    if (strcmp(name, solver_names[i]) == 0) {
      *solver = (ebb_solver)i;
      return true;
    }
  return ebb_fail(err, "solver '%s' is not known: expected euler, heun, midpoint, rk4, exact or unipc", name);
}

bool ebb_labels_named(const char *name, ebb_labels *labels, ebb_error *err) {
  for (int i = 0; i < (int)(sizeof label_names / sizeof *label_names); i++)
    if (strcmp(name, label_names[i]) == 0) {
      *labels = (ebb_labels)i;
      return true;
    }
  return ebb_fail(err, "labels '%s' are not known: expected noisy or matched", name);
}

#define NO_WAY_BACK                                                                                          \
  "expected euler, heun, midpoint, rk4 or exact: unipc is a sampler of generation alone - a step is made "   \
  "from what "                                                                                               \
  "the model said at the noisier states before it, which an inversion has yet to find"

bool ebb_solver_takes(const char *solver_key, const char *solver, const char *dtype_key, const char *dtype,
                      ebb_error *err) {
  if (strcmp(solver, solver_names[EBB_UNIPC_BH2]) == 0)
    return ebb_fail(err, "%s: found unipc, " NO_WAY_BACK, solver_key);
  if (strcmp(solver, solver_names[EBB_EXACT]) != 0 || strcmp(dtype, "bfloat16") != 0)
    return true;
  return ebb_fail(err,
                  "%s: found exact with %s bfloat16, expected %s float32: a fixed point to %.0e is beyond "
                  "velocities of 8 bits; compute in float32, or take another solver (euler, heun, midpoint, "
                  "rk4)",
                  solver_key, dtype_key, dtype_key, (double)EBB_EXACT_TOLERANCE);
}

/* The label at `fraction` of the way from grid point i to i + 1 (ascending). On the grid it is the schedule's own, which may be
 * truncated to an integer; between two points it is the exact 1000 sigma. */
static double matched_label(const ebb_schedule *s, int i, double fraction) {
  if (fraction == 0)
    return s->label[i];
  if (fraction == 1)
    return s->label[i + 1];
  return 1000.0 * (s->sigma[i] + fraction * (s->sigma[i + 1] - s->sigma[i]));
}

/* The official pairing in an inversion: everything is told one grid step later; there is none after the last. */
static double noisy_label(const ebb_schedule *s, int i, double fraction) {
  double next = s->label[i + 1];
  double after = i + 2 <= s->steps ? s->label[i + 2] : next;
  return next + fraction * (after - next);
}

static int moment_of(ebb_integration *plan, double label) {
  for (int m = plan->moments - 1; m >= 0; m--)
    if (plan->labels[m] == label)
      return m;
  plan->labels[plan->moments] = label;
  return plan->moments++;
}

bool ebb_integration_make(ebb_integration *plan, const ebb_schedule *s, ebb_solver solver, ebb_labels labels,
                          bool generate, ebb_error *err) {
  if (solver == EBB_UNIPC_BH2 && !generate)
    return ebb_fail(err, "inversion by unipc: " NO_WAY_BACK);
  *plan =
      (ebb_integration){.solver = generate && solver == EBB_EXACT ? EBB_EULER : solver, .steps = s->steps};
  size_t n = (size_t)s->steps;
  plan->step = calloc(n, sizeof *plan->step);
  plan->sigma = calloc(n + 1, sizeof *plan->sigma);
  plan->timestep = calloc(n, sizeof *plan->timestep);
  plan->labels = calloc(n * EBB_STAGES, sizeof *plan->labels);
  if (!plan->step || !plan->sigma || !plan->timestep || !plan->labels) {
    ebb_integration_free(plan);
    return ebb_fail(err, "no memory for a plan of %d steps", s->steps);
  }
  for (int i = 0; i <= s->steps; i++)
    plan->sigma[i] = s->sigma[generate ? s->steps - i : i];
  for (int i = 0; i < s->steps; i++) {
    ebb_integration_step *step = &plan->step[i];
    *step = (ebb_integration_step){plan->sigma[i], plan->sigma[i + 1], tableau[plan->solver].stages, {0}};
    if (labels == EBB_NOISY && solver == EBB_HEUN && i == s->steps - 1)
      step->stages = 1; /* as the official code has it, in both directions */
    for (int k = 0; k < step->stages; k++) {
      double at = tableau[plan->solver].at[k], label;
      if (solver == EBB_EXACT && !generate)
        label = s->label[i + 1]; /* the forward step that it inverts was told the noisier end's label */
      else if (generate)
        label = matched_label(s, s->steps - 1 - i, 1 - at);
      else
        label = labels == EBB_NOISY ? noisy_label(s, i, at) : matched_label(s, i, at);
      step->moment[k] = moment_of(plan, label);
    }
    plan->timestep[i] = plan->labels[step->moment[0]];
  }
  return true;
}

bool ebb_integration_named(ebb_integration *plan, const ebb_schedule *schedule, const char *solver_name,
                           const char *labels_name, bool generate, ebb_error *err) {
  ebb_solver solver = EBB_EULER;
  ebb_labels labels = EBB_NOISY;
  return ebb_solver_named(solver_name, &solver, err) && ebb_labels_named(labels_name, &labels, err) &&
         ebb_integration_make(plan, schedule, solver, labels, generate, err);
}

bool ebb_integration_share_labels(ebb_integration *plan, ebb_integration *other, ebb_error *err) {
  const size_t most = (size_t)plan->moments + (size_t)other->moments;
  double *labels = realloc(plan->labels, most * sizeof *labels);
  plan->labels = labels ? labels : plan->labels;
  int *place = malloc((size_t)other->moments * sizeof *place);
  if (!labels || !place) {
    free(place);
    return ebb_fail(err, "no memory for %zu time labels", most);
  }
  for (int m = 0; m < other->moments; m++) {
    int p = 0;
    while (p < plan->moments && labels[p] != other->labels[m])
      p++;
    if (p == plan->moments)
      labels[plan->moments++] = other->labels[m];
    place[m] = p;
  }
  for (int i = 0; i < other->steps; i++)
    for (int s = 0; s < other->step[i].stages; s++)
      other->step[i].moment[s] = place[other->step[i].moment[s]];
  free(place);
  return true;
}

void ebb_integration_free(ebb_integration *plan) {
  free(plan->step);
  free(plan->sigma);
  free(plan->timestep);
  free(plan->labels);
  *plan = (ebb_integration){0};
}

static ebb_tensor scratch_like(ebb_context *c, const char *name, ebb_tensor x) {
  return ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, name, x.rank, x.shape);
}

static int euler(ebb_context *c, const ebb_integration_step *s, ebb_tensor x, ebb_velocity_fn *velocity,
                 void *user) {
  ebb_tensor v = scratch_like(c, "velocity", x);
  velocity(user, v, x, s->moment[0], 0);
  ebb_axpby(c, x, 1, x, (float)(s->to - s->from), v);
  return 1;
}

static int heun(ebb_context *c, const ebb_integration_step *s, ebb_tensor x, ebb_velocity_fn *velocity,
                void *user) {
  float h = (float)(s->to - s->from);
  ebb_tensor v1 = scratch_like(c, "velocity 1", x), v2 = scratch_like(c, "velocity 2", x);
  ebb_tensor y = scratch_like(c, "predicted state", x);
  velocity(user, v1, x, s->moment[0], 0);
  ebb_axpby(c, y, 1, x, h, v1);
  velocity(user, v2, y, s->moment[1], 1);
  ebb_axpby(c, v1, 0.5f, v1, 0.5f, v2);
  ebb_axpby(c, x, 1, x, h, v1);
  return 2;
}

static int midpoint(ebb_context *c, const ebb_integration_step *s, ebb_tensor x, ebb_velocity_fn *velocity,
                    void *user) {
  float h = (float)(s->to - s->from);
  ebb_tensor v = scratch_like(c, "velocity", x), y = scratch_like(c, "half-way state", x);
  velocity(user, v, x, s->moment[0], 0);
  ebb_axpby(c, y, 1, x, h / 2, v);
  velocity(user, v, y, s->moment[1], 1);
  ebb_axpby(c, x, 1, x, h, v);
  return 2;
}

static int rk4(ebb_context *c, const ebb_integration_step *s, ebb_tensor x, ebb_velocity_fn *velocity,
               void *user) {
  static const float advance[] = {0, 0.5f, 0.5f, 1}, weight[] = {1.0f / 6, 1.0f / 3, 1.0f / 3, 1.0f / 6};
  float h = (float)(s->to - s->from);
  ebb_tensor v = scratch_like(c, "velocity", x), y = scratch_like(c, "stage state", x);
  ebb_tensor sum = scratch_like(c, "weighted velocity", x);
  for (int k = 0; k < 4; k++) {
    ebb_axpby(c, y, 1, x, advance[k] * h, k ? v : EBB_NO_TENSOR);
    velocity(user, v, y, s->moment[k], k);
    ebb_axpby(c, sum, weight[k], v, 1, k ? sum : EBB_NO_TENSOR);
  }
  ebb_axpby(c, x, 1, x, h, sum);
  return 4;
}

/* One sample of an exact step: the fixed point of g(y) = x + h v(y). */
typedef struct fixed_point {
  ebb_anderson anderson;
  float best, last; /* relative residual |g(y) - y| / |g(y)| */
  int stalled;      /* iterations without a better one */
  bool done;
} fixed_point;

static float relative_residual(const float *y, const float *g, int64_t n) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < n; i++) {
    double d = (double)g[i] - (double)y[i];
    difference += d * d;
    norm += (double)g[i] * (double)g[i];
  }
  return (float)sqrt(difference / (norm > 0 ? norm : 1));
}

/* Takes g = g(y) of one sample and moves y on. Done when the residual is as small as float32 lets it become. */
static void iterate(fixed_point *p, float *y, const float *g, int64_t n) {
  p->last = relative_residual(y, g, n);
  p->stalled = p->last < p->best ? 0 : p->stalled + 1;
  p->best = p->last < p->best ? p->last : p->best;
  p->done =
      !isfinite(p->last) || p->last <= EBB_EXACT_FLOOR || (p->last <= EBB_EXACT_TOLERANCE && p->stalled >= 5);
  if (p->done)
    memcpy(y, g, (size_t)n * sizeof *y);
  else
    ebb_anderson_next(&p->anderson, y, g);
}

/* A sample that ran out of iterations within the tolerance: g is what was measured, y an iterate beyond it. */
static void accept(const fixed_point *p, float *y, const float *g, int64_t n) {
  if (!p->done)
    memcpy(y, g, (size_t)n * sizeof *y);
}

/* A sample without a fixed point: its state becomes NaN and its failure is recorded, or it is the context's error. */
static void give_up(ebb_context *c, const ebb_integration_step *s, int64_t sample, const fixed_point *p,
                    float *y, int64_t n, ebb_error *failures) {
  ebb_error why = {0};
  ebb_fail(&why,
           "exact step from sigma %.5g to %.5g: no fixed point (relative residual %.3g, expected <= %.1g); "
           "take more steps, or another solver",
           s->from, s->to, (double)p->last, (double)EBB_EXACT_TOLERANCE);
  for (int64_t i = 0; i < n; i++)
    y[i] = NAN;
  if (failures)
    ebb_fail(&failures[sample], "%s", why.text);
  else
    ebb_context_fail(c, "sample %lld: %s", (long long)sample, why.text);
}

/* Samples are iterated each for itself, so that none depends on the batch around it. host: two states. */
static int exact_samples(ebb_context *c, const ebb_integration_step *s, ebb_tensor x,
                         ebb_velocity_fn *velocity, void *user, fixed_point *points, float *host,
                         ebb_error *failures) {
  int64_t samples = x.shape[0], n = ebb_count(x) / samples, undone = samples;
  ebb_tensor v = scratch_like(c, "velocity", x), state = scratch_like(c, "next state", x);
  float *y = host, *g = host + samples * n;
  int spent = 0;
  ebb_download(c, y, x);
  while (undone > 0 && spent < EBB_EXACT_ITERATIONS && !c->error.text[0]) {
    ebb_upload(c, state, y);
    velocity(user, v, state, s->moment[0], spent++);
    ebb_axpby(c, state, 1, x, (float)(s->to - s->from), v);
    ebb_download(c, g, state);
    undone = 0;
    for (int64_t b = 0; b < samples; b++) {
      if (!points[b].done)
        iterate(&points[b], y + b * n, g + b * n, n);
      undone += !points[b].done;
    }
  }
  for (int64_t b = 0; b < samples && !c->error.text[0]; b++)
    if (points[b].last <= EBB_EXACT_TOLERANCE)
      accept(&points[b], y + b * n, g + b * n, n);
    else
      give_up(c, s, b, &points[b], y + b * n, n, failures);
  ebb_upload(c, x, y);
  return spent;
}

static int exact(ebb_context *c, const ebb_integration_step *s, ebb_tensor x, ebb_velocity_fn *velocity,
                 void *user, ebb_error *failures) {
  if (c->counting) { /* the same scratch and one evaluation: what a real step takes at most */
    ebb_tensor v = scratch_like(c, "velocity", x), state = scratch_like(c, "next state", x);
    velocity(user, v, state, s->moment[0], 0);
    return 1;
  }
  int64_t samples = x.shape[0], n = ebb_count(x) / samples;
  fixed_point *points = calloc((size_t)samples, sizeof *points);
  float *host = malloc(2 * ebb_bytes(x));
  bool ok = points && host;
  for (int64_t b = 0; ok && b < samples; b++) {
    points[b].best = INFINITY;
    ok = ebb_anderson_open(&points[b].anderson, n);
  }
  int spent = 0;
  if (ok)
    spent = exact_samples(c, s, x, velocity, user, points, host, failures);
  else
    ebb_context_fail(c, "exact step: no memory for %d states on the host", 2 * EBB_ANDERSON_DEPTH + 4);
  for (int64_t b = 0; points && b < samples; b++)
    ebb_anderson_close(&points[b].anderson);
  free(points);
  free(host);
  return spent;
}

int ebb_integrate(ebb_context *c, const ebb_integration *plan, int i, ebb_tensor x, ebb_velocity_fn *velocity,
                  void *user, ebb_error *failures) {
  assert(i >= 0 && i < plan->steps && plan->solver != EBB_UNIPC_BH2);
  const ebb_integration_step *s = &plan->step[i];
  size_t mark = ebb_arena_mark(&c->activations);
  int spent = 0;
  if (plan->solver == EBB_EXACT)
    spent = exact(c, s, x, velocity, user, failures);
  else if (s->stages == 1)
    spent = euler(c, s, x, velocity, user);
  else if (plan->solver == EBB_HEUN)
    spent = heun(c, s, x, velocity, user);
  else if (plan->solver == EBB_MIDPOINT)
    spent = midpoint(c, s, x, velocity, user);
  else
    spent = rk4(c, s, x, velocity, user);
  ebb_arena_release(&c->activations, mark);
  return spent;
}
