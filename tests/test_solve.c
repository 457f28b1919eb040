/* Probes against the definitions: gradients and explicit refits in plain float64 here, scikit-learn in a
 * committed fixture. */
#include "kernels/random.h"
#include "probe/solve.h"

#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifndef EBB_TESTS_DIR
#define EBB_TESTS_DIR "tests"
#endif
#define ROWS 60
#define WIDTH 90

static ebb_context c;
static float x[ROWS * WIDTH];
static int8_t labels[3 * ROWS];
static int32_t train[ROWS], test[ROWS], inner[ROWS];

static double normal(uint64_t stream, uint64_t index) {
  double u = 1 - ebb_random_uniform(11, stream, 2 * index), v = ebb_random_uniform(11, stream, 2 * index + 1);
  return sqrt(-2 * log(u)) * cos(2 * acos(-1.0) * v);
}

/* Groups of four rows; columns of many scales, one constant, some with signal; the first 2/3 train, folds by
 * group. */
static ebb_problem make(int64_t d, double signal) {
  ebb_problem p = {.n = ROWS,
                   .d = d,
                   .x = x,
                   .columns = 3,
                   .labels = labels,
                   .train = train,
                   .test = test,
                   .inner = inner};
  p.inner_folds = 4;
  for (int64_t i = 0; i < ROWS; i++) {
    labels[i] = i % 2 ? 1 : -1;
    labels[ROWS + i] = i % 4 < 2 ? 1 : -1;
    labels[2 * ROWS + i] = i % 5 < 2 ? 1 : -1;
    for (int64_t j = 0; j < d; j++)
      x[i * d + j] = (float)(pow(10, (double)(j % 5) - 2) *
                             (normal((uint64_t)j, (uint64_t)i) + (j % 3 ? 0 : signal * labels[i])));
    x[i * d] = 3;
    if (i < ROWS * 2 / 3) {
      train[p.train_count] = (int32_t)i;
      inner[p.train_count++] = (int32_t)(i / 4 * 7 % 4);
    } else
      test[p.test_count++] = (int32_t)i;
  }
  return p;
}

/* z of the definition; returns mean |z|^2 over training rows. z [n,d]. */
static double standardise(const ebb_problem *p, double *z) {
  double unit = 0;
  for (int64_t j = 0; j < p->d; j++) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < p->train_count; i++)
      mean += p->x[p->train[i] * p->d + j] / (double)p->train_count;
    for (int64_t i = 0; i < p->train_count; i++)
      variance += pow(p->x[p->train[i] * p->d + j] - mean, 2) / (double)p->train_count;
    for (int64_t i = 0; i < p->n; i++)
      z[i * p->d + j] = variance > 1e-20 ? (p->x[i * p->d + j] - mean) / sqrt(variance) : 0;
    unit += variance > 1e-20;
  }
  return unit;
}

/* a [n,n] b = y by elimination with pivots; b replaces y. */
static void eliminate(int n, double *a, double *y) {
  for (int k = 0; k < n; k++) {
    int pivot = k;
    for (int i = k + 1; i < n; i++)
      pivot = fabs(a[i * n + k]) > fabs(a[pivot * n + k]) ? i : pivot;
    for (int j = 0; j < n; j++) {
      double t = a[k * n + j];
      a[k * n + j] = a[pivot * n + j];
      a[pivot * n + j] = t;
    }
    double t = y[k];
    y[k] = y[pivot];
    y[pivot] = t;
    for (int i = 0; i < n; i++) {
      double f = i == k ? 0 : a[i * n + k] / a[k * n + k];
      for (int j = 0; f != 0 && j < n; j++)
        a[i * n + j] -= f * a[k * n + j];
      y[i] -= f * y[k];
    }
  }
  for (int k = 0; k < n; k++)
    y[k] /= a[k * n + k];
}

/* Ridge on the rows of z listed, intercept free: w [d], b last. */
static void explicit_ridge(int64_t d, const double *z, const int8_t *y, int64_t count, const int32_t *rows,
                           double lambda, double *w) {
  int n = (int)d + 1;
  double *a = calloc((size_t)(n * n), sizeof *a);
  memset(w, 0, (size_t)n * sizeof *w);
  for (int64_t r = 0; r < count; r++)
    for (int i = 0; i < n; i++) {
      double zi = i < d ? z[rows[r] * d + i] : 1;
      w[i] += zi * y[rows[r]];
      for (int j = 0; j < n; j++)
        a[i * n + j] += zi * (j < d ? z[rows[r] * d + j] : 1);
    }
  for (int i = 0; i < d; i++)
    a[i * n + i] += lambda;
  eliminate(n, a, w);
  free(a);
}

static double predict(int64_t d, const double *w, const double *z) {
  double f = w[d];
  for (int64_t j = 0; j < d; j++)
    f += w[j] * z[j];
  return f;
}

static void gradient_vanishes(void **state) {
  (void)state;
  const int64_t widths[3] = {7, 30, WIDTH};
  for (int k = 0; k < 6; k++) {
    ebb_problem p = make(widths[k % 3], k < 3 ? 0.3 : 3.0); /* the second three are separable */
    int64_t d = p.d;
    ebb_parameters parameters = ebb_parameters_default;
    int penalties = parameters.penalty_count;
    double *z = calloc((size_t)(p.n * d), sizeof *z), *g = calloc((size_t)d + 1, sizeof *g);
    double *w = calloc((size_t)(penalties * (d + 1)), sizeof *w),
           *margins = calloc((size_t)(penalties * ROWS), sizeof *margins);
    double reached[8], unit = standardise(&p, z), scale = 0;
    ebb_logistic_fit fit = {margins, w, reached};
    assert_true(ebb_logistic_batch(&c, 1, &p, &parameters, &fit, NULL));
    for (int i = -1; i < penalties; i++) { /* -1: at zero, which is what the rest is relative to */
      double norm = 0, lambda = i < 0 ? 0 : 0.25 * parameters.penalties[i] * unit;
      const double *wi = w + i * (d + 1);
      memset(g, 0, ((size_t)d + 1) * sizeof *g);
      for (int64_t r = 0; r < p.train_count; r++) {
        double f = i < 0 ? 0 : wi[d], y = labels[train[r]];
        for (int64_t j = 0; i >= 0 && j < d; j++)
          f += wi[j] * x[train[r] * d + j];
        for (int64_t j = 0; j <= d; j++)
          g[j] -= y / (1 + exp(y * f)) * (j < d ? z[train[r] * d + j] : 1);
      }
      for (int64_t j = 0; i >= 0 && j < d; j++) { /* weights of z: those of x times the deviation */
        double deviation = 0, mean = 0;
        for (int64_t r = 0; r < p.train_count; r++)
          mean += x[train[r] * d + j] / (double)p.train_count;
        for (int64_t r = 0; r < p.train_count; r++)
          deviation += pow(x[train[r] * d + j] - mean, 2) / (double)p.train_count;
        g[j] += lambda * wi[j] * sqrt(deviation);
      }
      for (int64_t j = 0; j <= d; j++)
        norm += g[j] * g[j];
      if (i < 0)
        scale = sqrt(norm);
      else {
        assert_true(sqrt(norm) / scale < 1.1e-6);
        assert_true(reached[i] <= 1e-6);
        for (int64_t t = 0; t < p.test_count; t++) { /* weights in units of x say what the margins say */
          double f = wi[d];
          for (int64_t j = 0; j < d; j++)
            f += wi[j] * x[test[t] * d + j];
          assert_true(fabs(f - margins[i * p.test_count + t]) < 1e-8 * (1 + fabs(f)));
        }
      }
    }
    free(z);
    free(g);
    free(w);
    free(margins);
  }
}

static void ridge_equals_refits(void **state) {
  (void)state;
  const int64_t widths[2] = {7, 50};
  for (int k = 0; k < 4; k++) {
    ebb_problem p = make(widths[k % 2], 0.3);
    int64_t d = p.d;
    p.inner_folds = k < 2 ? 4 : 0; /* 0: leave one out */
    ebb_parameters parameters = ebb_parameters_default;
    int penalties = parameters.penalty_count;
    double *z = calloc((size_t)(p.n * d), sizeof *z), *w = calloc((size_t)d + 1, sizeof *w);
    double *margins = calloc(8 * ROWS, sizeof *margins), held_out[ROWS], score[8];
    int32_t best[3], rest[ROWS];
    ebb_ridge_fit fit = {.inner_margins = margins, .score = score, .best = best, .margins = held_out};
    assert_true(ebb_ridge_batch(&c, 1, &p, &parameters, &fit, NULL));
    double unit = standardise(&p, z);
    for (int i = 0; i < penalties; i++) {
      double lambda = parameters.penalties[i] * unit, sums[5] = {0};
      for (int64_t r = 0; r < p.train_count; r++) {
        int64_t count = 0;
        for (int64_t q = 0; q < p.train_count; q++)
          if (p.inner_folds ? inner[q] != inner[r] : q != r)
            rest[count++] = train[q];
        explicit_ridge(d, z, labels, count, rest, lambda, w);
        double f = predict(d, w, z + train[r] * d), y = labels[train[r]];
        assert_true(fabs(f - margins[i * p.train_count + r]) < 1e-7 * (1 + fabs(f)));
        sums[0] += f;
        sums[1] += y;
        sums[2] += f * f;
        sums[3] += y * y;
        sums[4] += f * y;
      }
      double n = (double)p.train_count;
      double correlation = (sums[4] - sums[0] * sums[1] / n) /
                           sqrt((sums[2] - sums[0] * sums[0] / n) * (sums[3] - sums[1] * sums[1] / n));
      assert_true(fabs(correlation - score[i]) < 1e-6);
      assert_true(score[best[0]] >= score[i]);
    }
    explicit_ridge(d, z, labels, p.train_count, train, parameters.penalties[best[0]] * unit, w);
    for (int64_t t = 0; t < p.test_count; t++)
      assert_true(fabs(predict(d, w, z + test[t] * d) - held_out[t]) < 1e-7);
    free(z);
    free(w);
    free(margins);
  }
}

/* A permuted label set among others is judged as if it were alone. */
static void label_sets_are_independent(void **state) {
  (void)state;
  ebb_problem p = make(WIDTH, 0.3), alone = p;
  int32_t hits[3], best[3], hit, one;
  ebb_ridge_fit all = {.hits = hits, .best = best}, single = {.hits = &hit, .best = &one};
  assert_true(ebb_ridge_batch(&c, 1, &p, &ebb_parameters_default, &all, NULL));
  alone.columns = 1;
  for (int k = 0; k < 3; k++) {
    alone.labels = labels + k * ROWS;
    assert_true(ebb_ridge_batch(&c, 1, &alone, &ebb_parameters_default, &single, NULL));
    assert_int_equal(hit, hits[k]);
    assert_int_equal(one, best[k]);
  }
}

static void dual_is_primal(void **state) {
  (void)state;
  for (int64_t d = 20; d <= WIDTH; d += 70) { /* 20 < 40 training rows < 90 */
    ebb_problem p = make(d, 0.3);
    p.columns = 1;
    double margins[2][8 * ROWS], ridge[2][8 * ROWS];
    for (int k = 0; k < 2; k++) {
      ebb_parameters parameters = ebb_parameters_default;
      parameters.tolerance = 1e-10;
      parameters.form = k ? EBB_FORM_DUAL : EBB_FORM_PRIMAL;
      ebb_logistic_fit fit = {.margins = margins[k]};
      ebb_ridge_fit other = {.inner_margins = ridge[k]};
      assert_true(ebb_logistic_batch(&c, 1, &p, &parameters, &fit, NULL));
      assert_true(ebb_ridge_batch(&c, 1, &p, &parameters, &other, NULL));
    }
    for (int64_t i = 0; i < ebb_parameters_default.penalty_count * p.test_count; i++)
      assert_true(fabs(margins[0][i] - margins[1][i]) < 1e-6 * (1 + fabs(margins[0][i])));
    for (int64_t i = 0; i < ebb_parameters_default.penalty_count * p.train_count; i++)
      assert_true(fabs(ridge[0][i] - ridge[1][i]) < 1e-6 * (1 + fabs(ridge[0][i])));
  }
}

/* Where the penalty is small a small gradient alone says little of the margins: those of the default tolerance are within
 * 1e-6 of those of 1e-12, each penalty reached from zero. */
static void margins_are_converged(void **state) {
  (void)state;
  const double rhos[] = {1e-2, 1e-3, 1e-4, 1e-6};
  double worst = 0;
  for (int k = 0; k < 24; k++) {
    ebb_problem p = make(k % 3 == 0 ? 7 : k % 3 == 1 ? 30 : WIDTH, k < 12 ? 0.3 : 1);
    ebb_parameters parameters = ebb_parameters_default;
    parameters.penalty_count = 1;
    parameters.penalties = &rhos[k / 3 % 4];
    double margins[2][ROWS], difference = 0, norm = 0;
    for (int i = 0; i < 2; i++) {
      ebb_error err = {""};
      ebb_logistic_fit fit = {.margins = margins[i]};
      parameters.tolerance = i ? 1e-12 : ebb_parameters_default.tolerance;
      if (!ebb_logistic_batch(&c, 1, &p, &parameters, &fit, &err))
        fail_msg("%s", err.text);
    }
    for (int64_t t = 0; t < p.test_count; t++) {
      difference += pow(margins[0][t] - margins[1][t], 2);
      norm += pow(margins[1][t], 2);
    }
    worst = fmax(worst, sqrt(difference / norm));
  }
  print_message("  margins at most %.1e apart\n", worst);
  assert_true(worst < 1e-6);
}

/* A gradient within the tolerance is no optimum while steps move margins: when steps run out, that is said. */
static void steps_that_run_out_are_told(void **state) {
  (void)state;
  static const struct {
    double tolerance;
    int iterations;
    const char *words;
  } cases[] = {{1e-12, 1, "stopped at a relative gradient of"},
               {10, 1, "still moved margins by more than 1e-4"},
               {10, 0, "still moved margins by more than 1e-4"},
               {10, 100, NULL}};
  const double rho = 1e-3;
  ebb_problem p = make(30, 1);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ebb_error err = {""};
    double margins[ROWS], gradient = 0;
    ebb_parameters parameters = ebb_parameters_default;
    ebb_logistic_fit fit = {.margins = margins, .gradient = &gradient};
    parameters.penalty_count = 1;
    parameters.penalties = &rho;
    parameters.tolerance = cases[i].tolerance;
    parameters.iterations = cases[i].iterations;
    assert_int_equal(ebb_logistic_batch(&c, 1, &p, &parameters, &fit, &err), !cases[i].words);
    if (cases[i].words && !strstr(err.text, cases[i].words))
      fail_msg("'%s' does not say '%s'", err.text, cases[i].words);
    assert_int_equal(gradient > parameters.tolerance, cases[i].words != NULL);
  }
}

/* Features additive over frames have equal class means in complete groups: the optimum is w = 0
 * (REFERENCE 6.9 ii). */
static void additive_features_teach_nothing(void **state) {
  (void)state;
  ebb_problem p = make(12, 0);
  for (int64_t g = 0; g < ROWS / 4; g++)
    for (int64_t j = 0; j < p.d; j++) { /* rows 1, 3 possible: a + b = e + d, in numbers that add exactly */
      float *row = x + 4 * g * p.d + j, v[3];
      for (int k = 0; k < 3; k++)
        v[k] = (float)round(64 * normal(500 + (uint64_t)k, (uint64_t)(g * p.d + j)));
      row[0] = v[0];
      row[p.d] = v[1];
      row[2 * p.d] = v[1] + v[2] - v[0];
      row[3 * p.d] = v[2];
    }
  double weights[8 * 13], margins[8 * ROWS];
  ebb_logistic_fit fit = {.margins = margins, .weights = weights};
  assert_true(ebb_logistic_batch(&c, 1, &p, &ebb_parameters_default, &fit, NULL));
  for (int i = 0; i < ebb_parameters_default.penalty_count * 13; i++)
    assert_true(fabs(weights[i]) < 1e-9);
}

static void nothing_varies(void **state) {
  (void)state;
  ebb_problem p = make(5, 0);
  for (int64_t i = 0; i < ROWS * 5; i++)
    x[i] = (float)(i % 5) * 0.1f;
  double margins[8 * ROWS], score[8];
  int32_t hits[3];
  ebb_logistic_fit fit = {.margins = margins};
  ebb_ridge_fit ridge = {.score = score, .hits = hits};
  assert_true(ebb_logistic_batch(&c, 1, &p, &ebb_parameters_default, &fit, NULL));
  assert_true(ebb_ridge_batch(&c, 1, &p, &ebb_parameters_default, &ridge, NULL));
  for (int64_t i = 0; i < p.test_count; i++)
    assert_true(fabs(margins[i]) < 1e-9); /* as many of each class: the odds are even */
}

static void threads_do_not_matter(void **state) {
  (void)state;
  ebb_problem p = make(WIDTH, 0.3), batch[40];
  double logistic[2][40][8 * 20], ridge[2][40][8 * 40];
  memset(logistic, 0, sizeof logistic);
  memset(ridge, 0, sizeof ridge);
  int threads = omp_get_max_threads();
  for (int k = 0; k < 2; k++) {
    ebb_logistic_fit fits[40];
    ebb_ridge_fit others[40];
    for (int i = 0; i < 40; i++) {
      batch[i] = p;
      batch[i].train_count -= i % 7;
      fits[i] = (ebb_logistic_fit){.margins = logistic[k][i]};
      others[i] = (ebb_ridge_fit){.inner_margins = ridge[k][i]};
    }
    omp_set_num_threads(k ? 4 : 1);
    assert_true(ebb_logistic_batch(&c, 40, batch, &ebb_parameters_default, fits, NULL));
    assert_true(ebb_ridge_batch(&c, 40, batch, &ebb_parameters_default, others, NULL));
  }
  omp_set_num_threads(threads);
  assert_memory_equal(logistic[0], logistic[1], sizeof logistic[0]);
  assert_memory_equal(ridge[0], ridge[1], sizeof ridge[0]);
}

static void as_scikit_learn(void **state) {
  (void)state;
  json_t *root = json_load_file(EBB_TESTS_DIR "/fixtures/probe/probe.json", 0, NULL);
  assert_non_null(root);
  size_t k, f, i;
  json_t *problem, *one, *number;
  json_array_foreach(json_object_get(root, "problems"), k, problem) {
    int64_t d = json_integer_value(json_object_get(problem, "d"));
    ebb_problem p = {
        .d = d, .x = x, .columns = 1, .labels = labels, .train = train, .test = test, .inner_folds = 0};
    p.train_count = json_integer_value(json_object_get(problem, "train"));
    p.test_count = json_integer_value(json_object_get(problem, "test"));
    p.n = p.train_count + p.test_count;
    assert_true(p.n * d <= ROWS * WIDTH);
    json_array_foreach(json_object_get(problem, "x"), i, number) x[i] = (float)json_number_value(number);
    json_array_foreach(json_object_get(problem, "y"), i, number) labels[i] =
        (int8_t)json_integer_value(number);
    for (int64_t r = 0; r < p.n; r++)
      *(r < p.train_count ? &train[r] : &test[r - p.train_count]) = (int32_t)r;
    json_array_foreach(json_object_get(problem, "fits"), f, one) {
      double rho = json_number_value(json_object_get(one, "rho")), logistic[ROWS], ridge[ROWS];
      ebb_parameters parameters = ebb_parameters_default;
      parameters.penalty_count = 1;
      parameters.penalties = &rho;
      parameters.tolerance = 1e-10;
      ebb_logistic_fit fit = {.margins = logistic};
      ebb_ridge_fit other = {.margins = ridge};
      assert_true(ebb_logistic_batch(&c, 1, &p, &parameters, &fit, NULL));
      assert_true(ebb_ridge_batch(&c, 1, &p, &parameters, &other, NULL));
      for (int64_t t = 0; t < p.test_count; t++) {
        double expected = json_number_value(json_array_get(json_object_get(one, "logistic"), (size_t)t));
        assert_true(fabs(logistic[t] - expected) < 1e-6 * (1 + fabs(expected)));
        expected = json_number_value(json_array_get(json_object_get(one, "ridge"), (size_t)t));
        assert_true(fabs(ridge[t] - expected) < 1e-8 * (1 + fabs(expected)));
      }
    }
  }
  json_decref(root);
}

static int begin(void **state) {
  (void)state;
  return ebb_context_open(&c, "cpu", NULL) ? 0 : -1;
}

static int end(void **state) {
  (void)state;
  ebb_context_close(&c);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gradient_vanishes),
      cmocka_unit_test(ridge_equals_refits),
      cmocka_unit_test(label_sets_are_independent),
      cmocka_unit_test(dual_is_primal),
      cmocka_unit_test(margins_are_converged),
      cmocka_unit_test(steps_that_run_out_are_told),
      cmocka_unit_test(additive_features_teach_nothing),
      cmocka_unit_test(nothing_varies),
      cmocka_unit_test(threads_do_not_matter),
      cmocka_unit_test(as_scikit_learn),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
