/* Floors against REFERENCE 6.5, intervals and permutation p against simulated truth. */
#include "kernels/random.h"
#include "probe/stats.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void near(double a, double b, double tolerance) {
  if (!(fabs(a - b) <= tolerance))
    fail_msg("%.15g is not %.15g", a, b);
}

static void normal_quantiles(void **state) {
  (void)state;
  near(ebb_normal_quantile(0.975), 1.959963984540054, 1e-12);
  near(ebb_normal_quantile(0.025), -1.959963984540054, 1e-12);
  near(ebb_normal_quantile(0.5), 0, 1e-12);
  near(ebb_normal_quantile(1e-9), -5.997807015007686, 1e-9);
  for (double p = 0.001; p < 1; p += 0.0127)
    near(ebb_normal_cdf(ebb_normal_quantile(p)), p, 1e-13);
}

static void floors_of_the_reference(void **state) {
  (void)state;
  const struct {
    int videos, cells;
    double mean, high; /* high 0: not given there */
  } known[] = {{48, 1, .500, .625},   {48, 6, .591, .667}, {48, 25, .641, .708}, {48, 30, .646, .708},
               {48, 330, .707, .750}, {24, 30, .705, 0},   {144, 30, .585, 0},   {364, 30, .554, 0}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    ebb_floor f = ebb_floor_independent(known[i].videos, known[i].cells);
    near(f.mean, known[i].mean, 6e-4); /* .70556 stands there as .705 */
    if (known[i].high > 0)
      near(f.high, known[i].high, 5e-4);
  }
  double values[5] = {0.5, 0.7, 0.6, 0.4, 0.8};
  ebb_floor f = ebb_floor_of(5, values);
  near(f.mean, 0.6, 1e-12);
  near(f.high, 0.78, 1e-12); /* 0.95 of the way from first to last: between 0.7 and 0.8 */
}

static void permutation_p(void **state) {
  (void)state;
  const double null[4] = {0.5, 0.6, 0.7, 0.6};
  near(ebb_permutation_p(4, null, 0.8), 1.0 / 5, 1e-15);
  near(ebb_permutation_p(4, null, 0.6 + 1e-15), 4.0 / 5, 1e-15);
  near(ebb_permutation_p(4, null, 0.1), 1, 1e-15);
}

/* Each of the six ways to call two of four possible comes up equally often; class sizes stay. */
static void labels_are_dealt_within_groups(void **state) {
  (void)state;
  const int group[8] = {0, 1, 0, 1, 0, 1, 0, 1};
  const int8_t label[8] = {1, 1, 1, -1, -1, -1, -1, -1}; /* 2 of 4, 1 of 4 */
  int seen[16] = {0}, single[4] = {0};
  for (uint64_t k = 0; k < 6000; k++) {
    int8_t permuted[8];
    assert_true(ebb_permute_labels(8, 2, group, label, 3, k, permuted, NULL));
    int code = 0, ones = 0;
    for (int i = 0; i < 4; i++) {
      code |= (permuted[2 * i] > 0) << i;
      ones += permuted[2 * i + 1] > 0;
      single[i] += permuted[2 * i + 1] > 0;
    }
    assert_int_equal(ones, 1);
    seen[code]++;
  }
  int kinds = 0;
  for (int code = 0; code < 16; code++)
    if (seen[code]) {
      assert_int_equal(__builtin_popcount((unsigned)code), 2);
      assert_in_range(seen[code], 860, 1140); /* 1000 +- 4.9 standard deviations */
      kinds++;
    }
  assert_int_equal(kinds, 6);
  for (int i = 0; i < 4; i++)
    assert_in_range(single[i], 1340, 1660);
}

/* ---- bootstrap ---- */

typedef struct sample {
  int groups;
  const double *value;
} sample;

static double mean_of(const void *user, const double *weight) {
  const sample *s = user;
  double a = 0, b = 0;
  for (int g = 0; g < s->groups; g++) {
    double w = weight ? weight[g] : 1;
    a += w * s->value[g];
    b += w;
  }
  return a / b;
}

/* Group means of four videos, each right with a probability that the group shares (0.5 or 0.9 in expectation
 * 0.7). */
static void draw(uint64_t seed, int groups, double *value) {
  for (int g = 0; g < groups; g++) {
    double p = ebb_random_uniform(seed, 1, (uint64_t)g) < 0.5 ? 0.5 : 0.9;
    value[g] = 0;
    for (int v = 0; v < 4; v++)
      value[g] += 0.25 * (ebb_random_uniform(seed, 2, (uint64_t)(4 * g + v)) < p);
  }
}

static void intervals_cover(void **state) {
  (void)state;
  enum { trials = 1500, groups = 40 };
  int covered[2] = {0, 0};
  for (uint64_t t = 0; t < trials; t++) {
    double value[groups];
    sample s = {groups, value};
    ebb_interval i;
    draw(t + 1, groups, value);
    assert_true(ebb_bootstrap(groups, 600, t, mean_of, &s, &i, NULL));
    covered[0] += i.low <= 0.7 && 0.7 <= i.high;
    covered[1] += i.percentile_low <= 0.7 && 0.7 <= i.percentile_high;
    assert_true(i.low <= i.value && i.value <= i.high);
  }
  for (int k = 0; k < 2; k++)
    if (covered[k] < trials * 0.93 || covered[k] > trials * 0.97)
      fail_msg("%s intervals cover in %.1f %% of cases", k ? "percentile" : "BCa",
               100.0 * covered[k] / trials);
}

static void bootstrap_repeats(void **state) {
  (void)state;
  double value[30], equal[30];
  sample s = {30, value}, flat = {30, equal};
  ebb_interval a, b;
  draw(99, 30, value);
  int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  assert_true(ebb_bootstrap(30, 2000, 5, mean_of, &s, &a, NULL));
  omp_set_num_threads(4);
  assert_true(ebb_bootstrap(30, 2000, 5, mean_of, &s, &b, NULL));
  omp_set_num_threads(threads);
  assert_memory_equal(&a, &b, sizeof a);
  for (int g = 0; g < 30; g++)
    equal[g] = 1; /* nothing varies: the percentile interval stands in for BCa */
  assert_true(ebb_bootstrap(30, 500, 5, mean_of, &flat, &a, NULL));
  near(a.low, 1, 0);
  near(a.high, 1, 0);
}

static void widening(void **state) {
  (void)state;
  ebb_interval i = {.value = 0.8, .low = 0.7, .high = 0.95, .bca_low = 0.7, .bca_high = 0.95};
  ebb_widen(&i, 5, 0, 1); /* sqrt(1 + 5/4) = 1.5 */
  near(i.low, 0.65, 1e-12);
  near(i.high, 1, 0);
  near(i.bca_low, 0.7, 0);
}

static double undefined(const void *user, const double *weight) {
  (void)user;
  return weight ? 0.5 : NAN;
}

/* No replicates, or no value: no interval, whatever is made of it later. */
static void undefined_stays_undefined(void **state) {
  (void)state;
  const double value[4] = {0.5, 1, 1, 0.75};
  sample s = {4, value};
  ebb_interval i[2];
  assert_true(ebb_bootstrap(4, 0, 1, mean_of, &s, &i[0], NULL));
  assert_true(ebb_bootstrap(4, 100, 1, undefined, NULL, &i[1], NULL));
  near(i[0].value, 0.8125, 1e-15);
  assert_true(isnan(i[1].value));
  for (int k = 0; k < 2; k++) {
    ebb_widen(&i[k], 5, 0, 1);
    ebb_exact_ends(&i[k], 4);
    assert_true(isnan(i[k].low) && isnan(i[k].high) && isnan(i[k].bca_low) && isnan(i[k].bca_high));
    assert_true(isnan(i[k].percentile_low) && isnan(i[k].percentile_high));
  }
  ebb_interval open = {.value = 0.8, .low = -INFINITY, .high = 0.9};
  ebb_widen(&open, 5, 0, 1);
  assert_true(isinf(open.low));
  near(open.high, 0.9, 0);
}

/* All right or all wrong in 16 groups: 0.025^(1/16) = .7941; elsewhere an interval of no width stays one. */
static void exact_at_the_ends(void **state) {
  (void)state;
  double value[16];
  sample s = {16, value};
  const double flat[3] = {1, 0, 0.5}, low[3] = {0.7941, 0, 0.5}, high[3] = {1, 0.2059, 0.5};
  for (int k = 0; k < 3; k++) {
    ebb_interval i;
    for (int g = 0; g < 16; g++)
      value[g] = flat[k];
    assert_true(ebb_bootstrap(16, 200, 3, mean_of, &s, &i, NULL));
    ebb_widen(&i, 4, 0, 1);
    ebb_exact_ends(&i, 16);
    near(i.low, low[k], 5e-5);
    near(i.high, high[k], 5e-5);
    near(i.bca_low, flat[k], 0);
    near(i.percentile_high, flat[k], 0);
  }
  ebb_interval one = {1, 1, 1, 1, 1, 1, 1},
               spread = {.value = 1, .low = 0.9, .high = 1, .percentile_low = 0.9};
  ebb_exact_ends(&one, 1);
  near(one.low, 0.025, 1e-15);
  ebb_exact_ends(&spread, 16);
  near(spread.low, 0.9, 0);
}

/* Skewed data: BCa moves the interval the right way (towards the long tail) relative to the percentile. */
static void bca_follows_the_skew(void **state) {
  (void)state;
  double value[25];
  sample s = {25, value};
  ebb_interval i;
  for (int g = 0; g < 25; g++)
    value[g] = -log(1 - ebb_random_uniform(7, 7, (uint64_t)g));
  assert_true(ebb_bootstrap(25, 20000, 1, mean_of, &s, &i, NULL));
  assert_true(i.low > i.percentile_low && i.high > i.percentile_high);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(normal_quantiles),
      cmocka_unit_test(floors_of_the_reference),
      cmocka_unit_test(permutation_p),
      cmocka_unit_test(labels_are_dealt_within_groups),
      cmocka_unit_test(intervals_cover),
      cmocka_unit_test(bootstrap_repeats),
      cmocka_unit_test(widening),
      cmocka_unit_test(bca_follows_the_skew),
      cmocka_unit_test(undefined_stays_undefined),
      cmocka_unit_test(exact_at_the_ends),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
