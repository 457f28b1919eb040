/* The device's way of solving probes (probe/solvers.h) against the host's solvers: on the CPU's
 * definitions of its operators everywhere, and on a GPU where there is one. */
#include "kernels/backend.h"
#include "kernels/random.h"
#include "probe/batch.h"
#include "probe/solvers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 60, WIDEST = 90, PROBLEMS = 7, SETS = 5, PENALTIES = 6 };

static ebb_context host, device;
static bool have_device;

/* Two tables of features, problems on different rows of them: five folds of groups of four, one row
 * missing in the third, leave one out in the last. */
typedef struct world {
  float x[2 * ROWS * WIDEST];
  int8_t labels[SETS * ROWS];
  double targets[SETS * ROWS];
  int32_t train[PROBLEMS][ROWS], test[PROBLEMS][ROWS], inner[PROBLEMS][ROWS];
  ebb_problem problem[PROBLEMS];
} world;

static double normal(uint64_t stream, uint64_t index) {
  double u = 1 - ebb_random_uniform(12, stream, 2 * index), v = ebb_random_uniform(12, stream, 2 * index + 1);
  return sqrt(-2 * log(u)) * cos(2 * acos(-1.0) * v);
}

static void make(world *w, int64_t d) {
  memset(w, 0, sizeof *w);
  for (uint64_t i = 0; i < SETS * ROWS; i++)
    w->labels[i] = i < ROWS ? (i % 2 ? 1 : -1) : ebb_random_uniform(5, 5, i) < 0.5 ? 1 : -1;
  for (int64_t i = 0; i < 2 * ROWS; i++)
    for (int64_t j = 0; j < d; j++)
      w->x[i * d + j] =
          j == 3 ? 7.0f
                 : (float)(pow(10, (double)(j % 5) - 2) * (2 + normal((uint64_t)j, (uint64_t)i) +
                                                           normal(77 + (uint64_t)j % 7, (uint64_t)i / 4) +
                                                           (j % 3 ? 0 : 0.4 * w->labels[i % ROWS])));
  for (int p = 0; p < PROBLEMS; p++) {
    ebb_problem *to = &w->problem[p];
    *to = (ebb_problem){.n = ROWS,
                        .d = d,
                        .x = w->x + p / 4 * ROWS * d,
                        .columns = p < 3 ? SETS : 1,
                        .labels = w->labels,
                        .train = w->train[p],
                        .test = w->test[p],
                        .inner = w->inner[p],
                        .inner_folds = p == PROBLEMS - 1 ? 0 : 4};
    for (int32_t r = 0; r < ROWS; r++)
      if ((r / 4 + p) % 5 == 0 && !(p == 2 && r == 12))
        w->test[p][to->test_count++] = r;
      else {
        w->inner[p][to->train_count] = r / 4 * 7 % 4;
        w->train[p][to->train_count++] = r;
      }
  }
}

static void near(const double *a, const double *b, int64_t count, double tolerance) {
  for (int64_t i = 0; i < count; i++)
    if (!(fabs(a[i] - b[i]) <= tolerance * (1 + fabs(b[i]))))
      fail_msg("%lld of %lld: %.12g, expected %.12g", (long long)i, (long long)count, a[i], b[i]);
}

typedef struct ridge_results {
  double inner[PROBLEMS][PENALTIES * ROWS], score[PROBLEMS][PENALTIES], reached[PROBLEMS][SETS],
      margins[PROBLEMS][ROWS], squares[PROBLEMS][SETS];
  int32_t best[PROBLEMS][SETS], hits[PROBLEMS][SETS];
  ebb_ridge_fit fit[PROBLEMS];
} ridge_results;

static void point_ridge(ridge_results *r) {
  memset(r, 0, sizeof *r);
  for (int p = 0; p < PROBLEMS; p++)
    r->fit[p] = (ebb_ridge_fit){r->inner[p],   r->score[p], r->reached[p], r->best[p],
                                r->margins[p], r->hits[p],  r->squares[p]};
}

static void ridge_is_the_same(ebb_context *c) {
  static world w;
  static ridge_results a, b;
  const int64_t widths[] = {5, 30, WIDEST};
  for (int k = 0; k < 3; k++) {
    make(&w, widths[k]);
    point_ridge(&a);
    point_ridge(&b);
    ebb_error err = {""};
    assert_true(ebb_ridge_batch(&host, PROBLEMS, w.problem, &ebb_parameters_default, a.fit, NULL));
    if (!ebb_ridge_device(c, PROBLEMS, w.problem, &ebb_parameters_default, b.fit, &err))
      fail_msg("%s", err.text);
    for (int p = 0; p < PROBLEMS; p++) {
      near(b.inner[p], a.inner[p], PENALTIES * w.problem[p].train_count, 1e-7);
      near(b.score[p], a.score[p], PENALTIES, 1e-8);
      near(b.reached[p], a.reached[p], w.problem[p].columns, 1e-8);
      near(b.margins[p], a.margins[p], w.problem[p].test_count, 1e-7);
      assert_memory_equal(b.best[p], a.best[p], sizeof a.best[p]);
      assert_memory_equal(b.hits[p], a.hits[p], sizeof a.hits[p]);
    }
  }
}

/* Targets of any size, a penalty chosen by what it explains. A device has targets in float32. */
static void values_are_the_same(ebb_context *c) {
  static world w;
  static ridge_results a, b;
  ebb_parameters how = ebb_parameters_default;
  how.score = EBB_SCORE_EXPLAINED;
  const int64_t widths[] = {5, 30, WIDEST};
  for (int k = 0; k < 3; k++) {
    make(&w, widths[k]);
    for (int p = 0; p < PROBLEMS; p++)
      w.problem[p].targets = w.targets;
    for (int i = 0; i < SETS * ROWS; i++)
      w.targets[i] =
          (float)(3 + normal(500, (uint64_t)i) + 0.02 * (i < ROWS) * w.x[i % ROWS * widths[k] + 4]);
    point_ridge(&a);
    point_ridge(&b);
    ebb_error err = {""};
    assert_true(ebb_ridge_batch(&host, PROBLEMS, w.problem, &how, a.fit, NULL));
    if (!ebb_ridge_device(c, PROBLEMS, w.problem, &how, b.fit, &err))
      fail_msg("%s", err.text);
    for (int p = 0; p < PROBLEMS; p++) {
      const ebb_problem *one = &w.problem[p];
      near(b.inner[p], a.inner[p], PENALTIES * one->train_count, 1e-6);
      near(b.score[p], a.score[p], PENALTIES, 1e-6);
      near(b.reached[p], a.reached[p], one->columns, 1e-6);
      near(b.margins[p], a.margins[p], one->test_count, 1e-6);
      near(b.squares[p], a.squares[p], one->columns, 1e-6);
      assert_memory_equal(b.best[p], a.best[p], sizeof a.best[p]);
      double squares = 0, mean = 0, spread = 0, left = 0;
      for (int64_t t = 0; t < one->test_count; t++)
        squares += pow(w.targets[one->test[t]] - a.margins[p][t], 2);
      assert_true(fabs(squares - a.squares[p][0]) < 1e-9 * squares);
      for (int64_t i = 0; i < one->train_count; i++)
        mean += w.targets[one->train[i]] / (double)one->train_count;
      for (int64_t i = 0; i < one->train_count; i++) {
        spread += pow(w.targets[one->train[i]] - mean, 2);
        left += pow(w.targets[one->train[i]] - a.inner[p][a.best[p][0] * one->train_count + i], 2);
      }
      near(&(double){fmax(-1, 1 - left / spread)}, &a.reached[p][0], 1, 1e-9);
    }
  }
}

typedef struct logistic_results {
  double margins[3 * PROBLEMS][PENALTIES * ROWS], weights[3 * PROBLEMS][PENALTIES * (WIDEST + 1)],
      gradient[3 * PROBLEMS][PENALTIES];
  ebb_logistic_fit fit[3 * PROBLEMS];
} logistic_results;

/* Three label sets on every design but the second, which has one. */
static int64_t label_sets(const world *w, ebb_problem *to) {
  int64_t count = 0;
  for (int p = 0; p < PROBLEMS; p++)
    for (int k = 0; k < (p == 1 ? 1 : 3); k++) {
      to[count] = w->problem[p];
      to[count].columns = 1;
      to[count++].labels = w->labels + k * ROWS;
    }
  return count;
}

static void logistic_is_the_same(ebb_context *c) {
  static world w;
  static logistic_results a, b;
  const int64_t widths[] = {5, 30, WIDEST};
  for (int k = 0; k < 3; k++) {
    make(&w, widths[k]);
    ebb_problem problems[3 * PROBLEMS];
    int64_t count = label_sets(&w, problems);
    for (int p = 0; p < 3 * PROBLEMS; p++) {
      a.fit[p] = (ebb_logistic_fit){a.margins[p], a.weights[p], a.gradient[p]};
      b.fit[p] = (ebb_logistic_fit){b.margins[p], b.weights[p], b.gradient[p]};
    }
    ebb_parameters exact = ebb_parameters_default;
    exact.tolerance = 1e-10;
    ebb_worst worst;
    ebb_error err = {""};
    assert_true(ebb_logistic_batch(&host, count, problems, &exact, a.fit, NULL));
    if (!ebb_logistic_device(c, count, problems, &ebb_parameters_default, b.fit, &worst, &err))
      fail_msg("%s", err.text);
    assert_true(worst.gradient <= 1e-6);
    for (int64_t p = 0; p < count; p++) {
      near(b.margins[p], a.margins[p], PENALTIES * problems[p].test_count, 1e-5);
      near(b.weights[p], a.weights[p], PENALTIES * (problems[p].d + 1), 1e-5);
      for (int i = 0; i < PENALTIES; i++)
        assert_true(b.gradient[p][i] <= worst.gradient);
    }
  }
}

/* The same bytes whatever stands beside: alone, and among others. */
static void batches_do_not_matter(ebb_context *c) {
  static world w;
  static ridge_results a, b;
  make(&w, 30);
  point_ridge(&a);
  point_ridge(&b);
  assert_true(ebb_ridge_device(c, 2, w.problem, &ebb_parameters_default, a.fit, NULL));
  for (int p = 0; p < 2; p++)
    assert_true(ebb_ridge_device(c, 1, &w.problem[p], &ebb_parameters_default, &b.fit[p], NULL));
  for (int p = 0; p < 2; p++) {
    near(b.margins[p], a.margins[p], w.problem[p].test_count, 1e-10);
    near(b.inner[p], a.inner[p], PENALTIES * w.problem[p].train_count, 1e-10);
    assert_memory_equal(b.best[p], a.best[p], sizeof a.best[p]);
  }
}

/* Where one inner fold has all training rows, no penalty can be judged: the first one serves. */
static void one_inner_fold_judges_nothing(ebb_context *c) {
  static world w;
  static ridge_results a, b;
  make(&w, 30);
  memset(w.inner[1], 0, sizeof w.inner[1]);
  point_ridge(&a);
  point_ridge(&b);
  assert_true(ebb_ridge_batch(&host, 3, w.problem, &ebb_parameters_default, a.fit, NULL));
  assert_true(ebb_ridge_device(c, 3, w.problem, &ebb_parameters_default, b.fit, NULL));
  for (int p = 0; p < 3; p++) {
    near(b.inner[p], a.inner[p], PENALTIES * w.problem[p].train_count, 1e-7);
    near(b.score[p], a.score[p], PENALTIES, 1e-8);
    near(b.reached[p], a.reached[p], SETS, 1e-8);
    near(b.margins[p], a.margins[p], w.problem[p].test_count, 1e-7);
    assert_memory_equal(b.best[p], a.best[p], sizeof a.best[p]);
    assert_memory_equal(b.hits[p], a.hits[p], sizeof a.hits[p]);
  }
  for (int i = 0; i < PENALTIES; i++)
    assert_true(b.score[1][i] == -1);
}

static void nothing_varies(ebb_context *c) {
  static world w;
  static ridge_results r;
  make(&w, 5);
  for (int i = 0; i < 2 * ROWS * 5; i++)
    w.x[i] = (float)(i % 5) * 0.1f;
  double margins[PENALTIES * ROWS];
  ebb_worst worst;
  ebb_logistic_fit fit = {.margins = margins};
  assert_true(ebb_logistic_device(c, 1, w.problem, &ebb_parameters_default, &fit, &worst, NULL));
  for (int64_t i = 0; i < w.problem[0].test_count; i++)
    assert_true(fabs(margins[i]) < 1e-9); /* as many of each class */
  point_ridge(&r);
  assert_true(ebb_ridge_device(c, 1, w.problem, &ebb_parameters_default, r.fit, NULL));
}

static void what_is_not_finite_is_told(ebb_context *c) {
  static world w;
  make(&w, 30);
  w.x[5] = NAN;
  double margins[PENALTIES * ROWS];
  ebb_worst worst;
  ebb_error err = {""};
  ebb_ridge_fit ridge = {.margins = margins};
  ebb_logistic_fit logistic = {.margins = margins};
  assert_false(ebb_ridge_device(c, 1, w.problem + 1, &ebb_parameters_default, &ridge, &err));
  assert_non_null(strstr(err.text, "not finite"));
  bool ok = ebb_logistic_device(c, 1, w.problem + 1, &ebb_parameters_default, &logistic, &worst, NULL);
  assert_false(ok && worst.gradient <= 1e-6);
}

/* A fit that is not finite between two that are is told, and which it is. */
static void good_neighbours_hide_nothing(ebb_context *c) {
  static world w;
  static double margins[3][PENALTIES * ROWS];
  make(&w, 30);
  ebb_problem problems[3] = {w.problem[4], w.problem[0], w.problem[5]}; /* of the second, the first table */
  ebb_logistic_fit fits[3] = {{.margins = margins[0]}, {.margins = margins[1]}, {.margins = margins[2]}};
  ebb_ridge_fit ridges[3] = {{.score = NULL}};
  for (int i = 0; i < 3; i++)
    problems[i].columns = 1;
  for (int test = 0; test < 2; test++) {
    int32_t row = test ? w.test[0][0] : w.train[0][0];
    float was = w.x[row * 30 + 5];
    w.x[row * 30 + 5] = NAN;
    ebb_worst worst;
    ebb_error err = {""};
    assert_true(ebb_logistic_device(c, 3, problems, &ebb_parameters_default, fits, &worst, NULL));
    assert_true(isnan(worst.gradient));
    assert_int_equal(worst.problem, 1);
    assert_false(ebb_logistic_batch(c, 3, problems, &ebb_parameters_default, fits, &err));
    assert_non_null(strstr(err.text, "logistic regression 2 of 3 [48, 30]"));
    assert_non_null(strstr(err.text, "not finite"));
    assert_false(ebb_ridge_batch(c, 3, problems, &ebb_parameters_default, ridges, &err));
    assert_non_null(strstr(err.text, "not finite"));
    w.x[row * 30 + 5] = was;
  }
}

/* ---- pieces of a small memory ------------------------------------------------------------------------ */

enum { LITTLE = 1 << 20 };

/* A CPU that has LITTLE memory. */
static void tell_little(ebb_context *c, size_t *free_bytes, size_t *total_bytes) {
  *total_bytes = LITTLE;
  *free_bytes = LITTLE - c->activations.size;
}

typedef struct pieces {
  ebb_context *c;
  const int64_t *need; /* [designs] bytes of one; in a piece all have those of the largest */
  int64_t solved;
  size_t most; /* bytes of a piece */
} pieces;

static bool take_piece(void *user, int64_t first, int64_t count, ebb_error *err) {
  (void)err;
  pieces *p = user;
  int64_t most = 0;
  for (int64_t i = first; i < first + count; i++)
    most = p->need[i] > most ? p->need[i] : most;
  EBB_NEW(p->c, EBB_ACTIVATIONS, EBB_F64, "room", count, most / 8);
  if (p->c->counting)
    return true;
  assert_int_equal(first, p->solved);
  p->solved += count;
  p->most = (size_t)(count * most) > p->most ? (size_t)(count * most) : p->most;
  return true;
}

/* The first design says little about the next. */
static void pieces_fit_whatever_comes_next(void **state) {
  (void)state;
  int64_t need[40];
  for (int i = 0; i < 40; i++)
    need[i] = i == 0 ? 1 << 10 : i < 20 ? LITTLE / 4 : i < 39 ? LITTLE / 16 : LITTLE / 2;
  ebb_backend small = ebb_cpu_backend;
  small.memory = tell_little;
  ebb_context c;
  ebb_error err = {""};
  assert_true(ebb_context_open(&c, "cpu", NULL));
  c.backend = &small;
  pieces p = {.c = &c, .need = need};
  if (!ebb_batch_pieces(&c, 40, take_piece, &p, &err))
    fail_msg("%s", err.text);
  assert_int_equal(p.solved, 40);
  assert_true(p.most <= LITTLE && p.most > LITTLE / 4);
  assert_true(c.activations.size <= LITTLE);
  ebb_context_close(&c);
}

/* ---- what the host takes over ------------------------------------------------------------------------ */

static int64_t few_rows(ebb_context *c) {
  (void)c;
  return 47;
}

/* Of 7 problems: how many the first place takes, and whether that is the device. */
static void takes(ebb_context *c, const world *w, ebb_form form, int64_t rows, int64_t count,
                  bool by_device) {
  bool there;
  assert_int_equal(ebb_batch_together(c, PROBLEMS, w->problem, form, rows, false, &there), count);
  assert_int_equal(there, by_device);
}

/* A device made of the CPU's definitions. */
static void what_a_device_leaves_to_the_host(void **state) {
  (void)state;
  static world w;
  ebb_backend fake = ebb_cpu_backend;
  ebb_context c;
  bool there;
  assert_true(ebb_context_open(&c, "cpu", NULL));
  make(&w, 30);
  takes(&c, &w, EBB_FORM_DUAL, INT64_MAX, PROBLEMS, false);
  fake.place = EBB_DEVICE;
  fake.logistic_newton_rows = few_rows;
  c.backend = &fake;
  c.activations.place = c.weights.place = EBB_DEVICE;
  takes(&c, &w, EBB_FORM_AUTO, INT64_MAX, PROBLEMS, true);
  takes(&c, &w, EBB_FORM_PRIMAL, INT64_MAX, PROBLEMS, false);
  takes(&c, &w, EBB_FORM_AUTO, 47, PROBLEMS, false);
  takes(&c, &w, EBB_FORM_AUTO, 48, 2, true); /* the third has 49 rows */
  w.problem[4].d = 3;                        /* 48 training rows: 1/16 */
  takes(&c, &w, EBB_FORM_AUTO, INT64_MAX, 4, true);
  takes(&c, &w, EBB_FORM_DUAL, INT64_MAX, PROBLEMS, true);
  fake.memory = tell_little;
  takes(&c, &w, EBB_FORM_DUAL, INT64_MAX, PROBLEMS, true);
  w.problem[0].d = 4000;
  takes(&c, &w, EBB_FORM_AUTO, INT64_MAX, 1, false);
  fake.memory = ebb_cpu_backend.memory;

  /* Batches in both places: the limit of 47 rows, all by the host; and ridge, by the device but for one. */
  static double margins[2][PROBLEMS][PENALTIES * ROWS];
  make(&w, 3);
  ebb_ridge_fit ridge[2][PROBLEMS];
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < PROBLEMS; i++)
      ridge[k][i] = (ebb_ridge_fit){.margins = margins[k][i]};
  w.problem[6].train_count = 47; /* more than 3 * 16 no longer */
  assert_int_equal(ebb_batch_together(&c, PROBLEMS, w.problem, EBB_FORM_AUTO, INT64_MAX, true, &there), 6);
  assert_false(there);
  assert_true(ebb_ridge_batch(&host, PROBLEMS, w.problem, &ebb_parameters_default, ridge[0], NULL));
  assert_true(ebb_ridge_batch(&c, PROBLEMS, w.problem, &ebb_parameters_default, ridge[1], NULL));
  for (int i = 0; i < PROBLEMS; i++)
    near(margins[1][i], margins[0][i], w.problem[i].test_count, 1e-7);
  assert_memory_equal(margins[1][0], margins[0][0], sizeof margins[0][0]);
  ebb_logistic_fit fit[2][PROBLEMS];
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < PROBLEMS; i++)
      fit[k][i] = (ebb_logistic_fit){.margins = margins[k][i]};
  assert_true(ebb_logistic_batch(&host, PROBLEMS, w.problem, &ebb_parameters_default, fit[0], NULL));
  assert_true(ebb_logistic_batch(&c, PROBLEMS, w.problem, &ebb_parameters_default, fit[1], NULL));
  assert_memory_equal(margins[1], margins[0], sizeof margins[0]);
  ebb_context_close(&c);
}

/* ---- each on the CPU's definitions, and on a device -------------------------------------------------- */

#define BOTH(name)                                                                                           \
  static void name##_on_cpu(void **state) {                                                                  \
    (void)state;                                                                                             \
    name(&host);                                                                                             \
  }                                                                                                          \
  static void name##_on_cuda(void **state) {                                                                 \
    (void)state;                                                                                             \
    if (!have_device) {                                                                                      \
      print_message("skipped: no CUDA device\n");                                                            \
      skip();                                                                                                \
    }                                                                                                        \
    name(&device);                                                                                           \
  }
BOTH(ridge_is_the_same)
BOTH(values_are_the_same)
BOTH(logistic_is_the_same)
BOTH(batches_do_not_matter)
BOTH(one_inner_fold_judges_nothing)
BOTH(nothing_varies)
BOTH(what_is_not_finite_is_told)
BOTH(good_neighbours_hide_nothing)

static int begin(void **state) {
  (void)state;
  have_device = ebb_context_open(&device, "cuda", NULL);
  return ebb_context_open(&host, "cpu", NULL) ? 0 : -1;
}

static int end(void **state) {
  (void)state;
  if (have_device)
    ebb_context_close(&device);
  ebb_context_close(&host);
  return 0;
}

#define TESTS(name) cmocka_unit_test(name##_on_cpu), cmocka_unit_test(name##_on_cuda)

int main(void) {
  const struct CMUnitTest tests[] = {
      TESTS(ridge_is_the_same),
      TESTS(values_are_the_same),
      TESTS(logistic_is_the_same),
      TESTS(batches_do_not_matter),
      TESTS(nothing_varies),
      TESTS(what_is_not_finite_is_told),
      TESTS(good_neighbours_hide_nothing),
      TESTS(one_inner_fold_judges_nothing),
      cmocka_unit_test(pieces_fit_whatever_comes_next),
      cmocka_unit_test(what_a_device_leaves_to_the_host),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
