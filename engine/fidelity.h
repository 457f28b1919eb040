/* How exact an inversion is (REFERENCE 4.1): two paths through the same states held against one another, what
 * one step of a path is worth, and what the noise at its end is like. On the host, in double; knows no model:
 * a way is a plan and a function that walks along it. */
#ifndef EBB_ENGINE_FIDELITY_H
#define EBB_ENGINE_FIDELITY_H

#include "engine/integrate.h"

/* One state [n] against another that it should be. */
typedef struct ebb_distance {
  double rmse; /* |a - b| / sqrt(n) */
  double rel;  /* rmse / std(b): in units of what the state should be */
  double cos;  /* of the angle between them; exactly 1 for a state and itself */
} ebb_distance;
ebb_distance ebb_distance_of(const float *a, const float *b, int64_t n);
/* NaN where one of them is zeros. */
double ebb_cosine(const float *a, const float *b, int64_t n);
double ebb_relative_l2(const float *a, const float *b, int64_t n); /* |a - b| / |b| */
double ebb_deviation(const float *x, int64_t n); /* standard deviation, of the n themselves */

/* A noise that an inversion recovered, against N(0,1) without correlations. */
typedef struct ebb_noise_statistics {
  double mean, std, skew, kurtosis; /* kurtosis: excess, 0 for a normal distribution */
  double ks; /* largest distance between its distribution and N(0,1) (Kolmogorov-Smirnov) */
  double frames_lag, rows_lag,
      columns_lag; /* autocorrelation of neighbours in time and space; NaN: there are none */
} ebb_noise_statistics;
/* x [channels, T, H, W] -> of all of it, and of each channel ([channels]; NULL: not wanted). Errors: memory.
 */
bool ebb_noise_statistics_of(const float *x, int64_t channels, int64_t frames, int64_t height, int64_t width,
                             ebb_noise_statistics *all, ebb_noise_statistics *channel, ebb_error *err);

/* ---- what one step of a path is worth ---- */

typedef struct ebb_way {
  const ebb_integration *plan;
  /* Takes x in place over steps [first, first + count) of the plan. Errors stay in the context. */
  void (*walk)(void *user, int first, int count, ebb_tensor x);
  void *user;
} ebb_way;

/* The path of an inversion: f32 host [steps+1, B, ...], clean first; x is room for a state [B, ...] on the
 * device. */
typedef struct ebb_path {
  ebb_context *context;
  const float *states;
  int steps;
  ebb_tensor x;
} ebb_path;

/* Eq. 3 against Eq. 4: how far the forward Euler step from state k+1, told its own label, misses state k: rms
 * in units of std(state k). to [steps, B], of the steps that `wanted` [steps] marks (NULL: all); the others
 * stay. euler: the generation over the same grid. Errors: the context's, memory. */
bool ebb_implicit_residuals(const ebb_path *path, const ebb_way *euler, const bool *wanted, double *to,
                            ebb_error *err);
/* Step doubling: the error of step k, estimated from two steps of half its length from the same state: rms in
 * units of std(state k+1). order: of the solver as it was run. halves: the inversion over the grid of
 * ebb_schedule_halve. As above. */
bool ebb_local_errors(const ebb_path *path, const ebb_way *halves, int order, const bool *wanted, double *to,
                      ebb_error *err);
/* The order of a plan with these labels: `noisy` ones are wrong by a step, which leaves order 1. */
int ebb_solver_order(ebb_solver solver, ebb_labels labels);
/* The grid with a state half-way between every two; its label is half-way too. */
bool ebb_schedule_halve(const ebb_schedule *s, ebb_schedule *fine, ebb_error *err);

#endif
