#include "bench/fidelity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/fidelity.h"
#include "kernels/normal.h"

/* One combination of solver, labels and steps. */
typedef struct loop {
  const bench_fidelity *of;
  ebb_model *model;
  const char *solver, *labels;
  ebb_integration there, back; /* clean to noise; noise to clean */
  ebb_condition cond_there, cond_back;
  float *first, *second; /* host [steps+1][B,C,T,H,W]: the way out, the way home */
  int64_t evaluations;
  int failed;             /* samples, of both loops */
  double *latent, *noise; /* [steps+1] error at each sigma, clean first */
} loop;

static int64_t numbers(const bench_subject *s) {
  return s->options.batch * s->shape.channels * s->shape.frames * s->shape.height * s->shape.width;
}

/* ---- errors ------------------------------------------------------------------------------------------ */

/* Median over the samples whose error is a number; NaN when there is none. */
static double error_of(const float *a, const float *b, int64_t batch, int64_t n) {
  double errors[4096];
  int count = 0;
  for (int64_t i = 0; i < batch && i < 4096; i++) {
    double e = ebb_relative_l2(a + i * n, b + i * n, n);
    if (isfinite(e))
      errors[count++] = e;
  }
  return count > 0 ? bench_median(errors, count) : NAN;
}

static double worst(const double *errors, int count) {
  double most = NAN;
  for (int i = 0; i < count; i++)
    most = isnan(most) || errors[i] > most ? errors[i] : most;
  return most;
}

/* ---- there and back ---------------------------------------------------------------------------------- */

/* From host `start` along a plan; every state into trajectory. */
static bool travel(loop *l, const ebb_integration *plan, const ebb_condition *cond, const float *start,
                   float *trajectory, ebb_error *err) {
  const bench_subject *s = l->of->subject;
  ebb_context *c = l->model->context;
  const ebb_latent_shape z = s->shape;
  const int64_t B = s->options.batch;
  ebb_error *failures = calloc((size_t)B, sizeof *failures);
  if (!failures)
    return ebb_fail(err, "no memory");
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor x = EBB_ACTIVATION(c, "latents", B, z.channels, z.frames, z.height, z.width);
  ebb_upload(c, x, start);
  ebb_run run = {.model = l->model, .plan = plan, .text = cond, .guidance = 1, .failures = failures};
  l->evaluations += ebb_invert(&run, x, trajectory);
  ebb_arena_release(&c->activations, mark);
  for (int64_t b = 0; b < B; b++)
    l->failed += failures[b].text[0] != '\0';
  free(failures);
  return ebb_context_ok(c, err);
}

static bool run_loops(loop *l, ebb_error *err) {
  const bench_subject *s = l->of->subject;
  const int steps = l->there.steps;
  const int64_t all = numbers(s), one = all / s->options.batch;
  const bool counting = l->model->context->counting;
  bool ok = travel(l, &l->there, &l->cond_there, l->of->latents, l->first, err) &&
            travel(l, &l->back, &l->cond_back, l->first + steps * all, l->second, err);
  for (int i = 0; ok && !counting && i <= steps; i++)
    l->latent[i] = error_of(l->second + (steps - i) * all, l->first + i * all, s->options.batch, one);
  if (ok && !counting)
    ebb_normals(l->first, all, 9, 1);
  ok = ok && travel(l, &l->back, &l->cond_back, l->first, l->first, err) &&
       travel(l, &l->there, &l->cond_there, l->first + steps * all, l->second, err);
  for (int i = 0; ok && !counting && i <= steps; i++)
    l->noise[i] = error_of(l->second + i * all, l->first + (steps - i) * all, s->options.batch, one);
  return ok;
}

static void print_number(FILE *to, bool csv, double value) {
  if (csv)
    isfinite(value) ? fprintf(to, ",%.6g", value) : fprintf(to, ",");
  else
    isfinite(value) ? fprintf(to, " %12.3e", value) : fprintf(to, " %12s", "-");
}

static void print_loop(const loop *l) {
  bool csv = l->of->subject->sheet.csv;
  int steps = l->there.steps;
  printf(csv ? "%s,%s,%d,%lld,%d" : "%-10s %-8s %6d %12lld %7d", l->solver, l->labels, steps,
         (long long)l->evaluations, l->failed);
  print_number(stdout, csv, l->latent[0]);
  print_number(stdout, csv, l->noise[steps]);
  print_number(stdout, csv, worst(l->latent, steps + 1));
  print_number(stdout, csv, worst(l->noise, steps + 1));
  printf("\n");
  fflush(stdout);
}

/* The second table: every state on the way, clean first. */
static void print_states(const loop *l, FILE *to) {
  bool csv = l->of->subject->sheet.csv;
  int steps = l->there.steps;
  for (int i = 0; i <= steps; i++) {
    fprintf(to, csv ? "%s,%s,%d,%d,%.8g" : "%-10s %-8s %6d %6d %9.5f", l->solver, l->labels, steps, i,
            l->there.sigma[i]);
    print_number(to, csv, l->latent[i]);
    print_number(to, csv, l->noise[i]);
    fprintf(to, "\n");
  }
}

/* ---- all combinations -------------------------------------------------------------------------------- */

static bool make_plans(loop *l, int steps, ebb_error *err) {
  const bench_subject *s = l->of->subject;
  ebb_schedule schedule = {0};
  bool ok = ebb_schedule_open(&schedule, s->folder, "auto", steps, 0, err) &&
            ebb_integration_named(&l->there, &schedule, l->solver, l->labels, false, err) &&
            ebb_integration_named(&l->back, &schedule, l->solver, l->labels, true, err);
  ebb_schedule_free(&schedule);
  return ok;
}

/* states_to: where the second table gathers until the first has ended; NULL: not asked for. */
static bool run_combination(const bench_fidelity *f, ebb_model *m, const char *solver, const char *labels,
                            int steps, FILE *states_to, ebb_error *err) {
  bench_subject *s = f->subject;
  ebb_context *c = m->context;
  size_t states = (size_t)(steps + 1), mark = ebb_arena_mark(&c->weights);
  loop l = {.of = f, .model = m, .solver = solver, .labels = labels};
  l.first = malloc(states * (size_t)numbers(s) * sizeof *l.first);
  l.second = malloc(states * (size_t)numbers(s) * sizeof *l.second);
  l.latent = calloc(states, sizeof *l.latent);
  l.noise = calloc(states, sizeof *l.noise);
  bool ok = (l.first && l.second && l.latent && l.noise) ||
            ebb_fail(err, "no memory for two trajectories of %d states", steps + 1);
  ok = ok && make_plans(&l, steps, err) &&
       bench_condition(s, m, l.there.labels, l.there.moments, &l.cond_there, err) &&
       bench_condition(s, m, l.back.labels, l.back.moments, &l.cond_back, err) && run_loops(&l, err);
  if (ok && !c->counting)
    print_loop(&l);
  if (ok && !c->counting && states_to)
    print_states(&l, states_to);
  ebb_condition_free(&l.cond_there);
  ebb_condition_free(&l.cond_back);
  ebb_integration_free(&l.there);
  ebb_integration_free(&l.back);
  ebb_arena_release(&c->weights, mark);
  free(l.first);
  free(l.second);
  free(l.latent);
  free(l.noise);
  return ok;
}

static void print_head(const bench_fidelity *f) {
  if (f->subject->sheet.csv)
    printf("\nsolver,labels,steps,evaluations,failed,latent,noise,worst_latent,worst_noise\n");
  else
    printf("\n%-10s %-8s %6s %12s %7s %12s %12s %12s %12s\n", "solver", "labels", "steps", "evaluations",
           "failed", "latent", "noise", "worst latent", "worst noise");
}

static void print_states_head(const bench_fidelity *f) {
  if (f->subject->sheet.csv)
    printf("\nsolver,labels,steps,state,sigma,latent,noise\n");
  else
    printf("\n%-10s %-8s %6s %6s %9s %12s %12s\n", "solver", "labels", "steps", "state", "sigma", "latent",
           "noise");
}

static bool run_all(const bench_fidelity *f, ebb_model *m, FILE *states, ebb_error *err) {
  bool ok = true;
  for (int i = 0; ok && i < f->solvers.count; i++)
    for (int j = 0; ok && j < f->labels.count; j++)
      for (int k = 0; ok && k < f->steps.count; k++)
        ok = run_combination(f, m, f->solvers.names[i], f->labels.names[j], atoi(f->steps.names[k]), states,
                             err);
  return ok;
}

static bool work(void *user, ebb_error *err) {
  const bench_fidelity *f = user;
  const bool counting = f->subject->context.counting;
  ebb_model m = {0};
  char *text = NULL;
  size_t length = 0;
  FILE *states = f->every_step && !counting ? open_memstream(&text, &length) : NULL;
  bool ok = states || !f->every_step || counting || ebb_fail(err, "no memory for the table of states");
  ok = ok && bench_open_transformer(f->subject, &m, err);
  if (ok && !counting)
    print_head(f);
  ok = ok && run_all(f, &m, states, err);
  if (states && (fclose(states) != 0 || !text) && ok)
    ok = ebb_fail(err, "no memory for the table of states");
  if (text && length > 0) { /* of what ended before a failure, too */
    print_states_head(f);
    fwrite(text, 1, length, stdout);
  }
  free(text);
  ebb_model_close(&m);
  return ok;
}

bool bench_fidelity_run(const bench_fidelity *f, ebb_error *err) {
  return ebb_context_sized(&f->subject->context, work, (void *)f, err);
}
