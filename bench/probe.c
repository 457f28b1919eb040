/* bench probe: the logistic probes of a whole study in one call, on data with a planted answer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/sheet.h"
#include "cli/options.h"
#include "kernels/random.h"
#include "loaders/file.h"
#include "probe/solve.h"

/* blocks x steps matrices of features, each probed for seeds x classes. */
typedef struct study {
  const char *device;
  int64_t blocks, steps, seeds, classes, train, test, width, check;
  double c; /* scikit-learn's C: sum of losses + 1/(2C) |w|^2 */
  int csv;
  int64_t cells, count;  /* matrices; problems */
  float *x;              /* [cells][train+test, width] */
  int8_t *labels;        /* [classes][train+test] */
  int32_t *rows;         /* [seeds][train+test]: a permutation; the first `train` of it are trained on */
  ebb_problem *problems; /* [count], cell by cell */
  double *margins;       /* [count][test] */
  double *gradient;      /* [count] */
} study;

static int64_t all_rows(const study *s) {
  return s->train + s->test;
}

/* ---- planted data ------------------------------------------------------------------------------------ */

/* Row i of a cell: noise, plus a direction of each class by its label; later cells have more of it, so that some
 * probes are easy and some are not. */
static void plant_row(const study *s, int64_t cell, int64_t i, float *row) {
  double strength = 0.02 + 0.1 * (double)cell / (double)s->cells;
  for (int64_t j = 0; j < s->width; j += 4) {
    ebb_random4 r = ebb_random_words(21, (uint64_t)(cell * all_rows(s) + i), (uint64_t)j);
    for (int64_t k = 0; k < 4 && j + k < s->width; k++)
      row[j + k] = (float)((double)r.v[k] * (1 / 2147483648.0) - 1);
  }
  for (int64_t class = 0; class < s->classes; class ++)
    for (int64_t j = class; j < s->width; j += s->classes)
      row[j] += (float)(strength * s->labels[class * all_rows(s) + i]);
}

static void plant(study *s) {
  const int64_t n = all_rows(s), rows = s->cells * n;
  for (int64_t class = 0; class < s->classes; class ++)
    for (int64_t i = 0; i < n; i++)
      s->labels[class * n + i] = ebb_random_below(22, (uint64_t) class, (uint64_t)i, 2) ? 1 : -1;
  for (int64_t seed = 0; seed < s->seeds; seed++) {
    int32_t *order = s->rows + seed * n;
    for (int64_t i = 0; i < n; i++)
      order[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
      uint32_t j = ebb_random_below(23, (uint64_t)seed, (uint64_t)i, (uint32_t)i + 1);
      int32_t kept = order[i];
      order[i] = order[j];
      order[j] = kept;
    }
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(ebb_context_threads())
#endif
  for (int64_t row = 0; row < rows; row++)
    plant_row(s, row / n, row % n, s->x + row * s->width);
}

static bool make(study *s, ebb_error *err) {
  const int64_t n = all_rows(s);
  s->cells = s->blocks * s->steps;
  s->count = s->cells * s->seeds * s->classes;
  s->x = malloc((size_t)(s->cells * n * s->width) * sizeof *s->x);
  s->labels = malloc((size_t)(s->classes * n));
  s->rows = malloc((size_t)(s->seeds * n) * sizeof *s->rows);
  s->problems = malloc((size_t)s->count * sizeof *s->problems);
  s->margins = malloc((size_t)(s->count * s->test) * sizeof *s->margins);
  s->gradient = malloc((size_t)s->count * sizeof *s->gradient);
  if (!s->x || !s->labels || !s->rows || !s->problems || !s->margins || !s->gradient)
    return ebb_fail(err, "no memory for %lld matrices of %lld x %lld", (long long)s->cells, (long long)n,
                    (long long)s->width);
  plant(s);
  for (int64_t p = 0; p < s->count; p++) {
    int64_t class = p % s->classes, seed = p / s->classes % s->seeds, cell = p / s->classes / s->seeds;
    s->problems[p] = (ebb_problem){.n = n,
                                   .d = s->width,
                                   .x = s->x + cell * n * s->width,
                                   .columns = 1,
                                   .labels = s->labels + class * n,
                                   .train_count = s->train,
                                   .test_count = s->test,
                                   .train = s->rows + seed * n,
                                   .test = s->rows + seed * n + s->train};
  }
  return true;
}

/* ---- solving ----------------------------------------------------------------------------------------- */

/* `count` problems, `stride` apart, on a context; results at the same places. */
static bool solve(study *s, ebb_context *c, int64_t count, int64_t stride, double *margins, double *gradient,
                  ebb_error *err) {
  /* lambda/8 |w|^2 with lambda = rho d is 1/(2C) |w|^2 */
  const double rho = 4 / (s->c * (double)s->width);
  ebb_parameters parameters = ebb_parameters_default;
  parameters.penalty_count = 1;
  parameters.penalties = &rho;
  ebb_problem *problems = ebb_must(malloc((size_t)count * sizeof *problems));
  ebb_logistic_fit *fits = ebb_must(calloc((size_t)count, sizeof *fits));
  for (int64_t i = 0; i < count; i++) {
    problems[i] = s->problems[i * stride];
    fits[i] = (ebb_logistic_fit){.margins = margins + i * s->test, .gradient = gradient + i};
  }
  bool ok = ebb_logistic_batch(c, count, problems, &parameters, fits, err) && ebb_context_ok(c, err);
  free(problems);
  free(fits);
  return ok;
}

static double accuracy(const study *s) {
  int64_t right = 0;
  for (int64_t p = 0; p < s->count; p++)
    for (int64_t i = 0; i < s->test; i++)
      right += s->margins[p * s->test + i] * s->problems[p].labels[s->problems[p].test[i]] > 0;
  return (double)right / (double)(s->count * s->test);
}

/* A few problems again on the CPU: their time, and how far apart the margins are. */
static bool check_on_cpu(study *s, const bench_sheet *sheet, const char *shape, ebb_error *err) {
  int64_t count = s->check < s->count ? s->check : s->count, stride = count > 0 ? s->count / count : 1;
  if (count == 0)
    return true;
  ebb_context cpu = {0};
  double *margins = ebb_must(malloc((size_t)(count * s->test) * sizeof *margins));
  double *gradient = ebb_must(malloc((size_t)count * sizeof *gradient)), worst = 0;
  bool ok = ebb_context_open(&cpu, "cpu", err);
  double start = bench_now();
  ok = ok && solve(s, &cpu, count, stride, margins, gradient, err);
  double each = (bench_now() - start) / (double)count;
  for (int64_t i = 0; ok && i < count; i++) {
    double difference = 0, norm = 0;
    for (int64_t k = 0; k < s->test; k++) {
      double a = s->margins[i * stride * s->test + k], b = margins[i * s->test + k];
      difference += (a - b) * (a - b);
      norm += b * b;
    }
    worst = fmax(worst, sqrt(difference / norm));
  }
  if (ok) {
    bench_sheet_row(
        sheet, &(bench_row){"one probe", "CPU solver", shape, "float64", {each, each, (int)count}, 0, 0});
    printf("%smargins of these %lld: at most %.2e apart (relative L2)\n", sheet->csv ? "# " : "",
           (long long)count, worst);
  }
  ebb_context_close(&cpu);
  free(margins);
  free(gradient);
  return ok;
}

static bool run(study *s, ebb_context *c, ebb_error *err) {
  enum { REPEATS = 3 };
  bench_sheet sheet = {.csv = s->csv};
  double times[REPEATS], worst = 0;
  char shape[64], which[64];
  if (!make(s, err))
    return false;
  bench_sheet_start(&sheet, c);
  snprintf(shape, sizeof shape, "%lldx%lld", (long long)s->train, (long long)s->width);
  snprintf(which, sizeof which, "%lld in all", (long long)s->count);
  int repeats = 0;
  double begun = bench_now();
  for (; repeats < REPEATS && (repeats == 0 || bench_now() - begun < 60); repeats++) {
    double start = bench_now();
    if (!solve(s, c, s->count, 1, s->margins, s->gradient, err))
      return false;
    times[repeats] = bench_now() - start;
  }
  double first = times[0], median = bench_median(times, repeats);
  for (int64_t p = 0; p < s->count; p++)
    worst = fmax(worst, s->gradient[p]);
  bench_sheet_row(&sheet, &(bench_row){"probes", which, shape, "float64", {median, times[0], repeats}, 0, 0});
  printf("%sfirst call %.4g s; largest relative gradient %.2e; accuracy on held-out rows %.3f\n",
         sheet.csv ? "# " : "", first, worst, accuracy(s));
  return check_on_cpu(s, &sheet, shape, err);
}

static const char *const summary =
    "Fits blocks x steps x seeds x classes logistic probes in one call, from features in host memory\n"
    "to margins in host memory, to a relative gradient of 1e-6. Features are uniform noise with\n"
    "planted directions. Then a few again on the CPU: time, and how far apart the two are.";

int bench_probe(int argc, char **argv) {
  study s = {.device = "auto",
             .blocks = 30,
             .steps = 11,
             .seeds = 5,
             .classes = 4,
             .train = 1080,
             .test = 270,
             .width = 1536,
             .check = 4,
             .c = 1};
  const ebb_option options[] = {
      {"device", EBB_OPTION_TEXT, &s.device, "NAME", "auto, cpu, cuda, cuda:N (auto)", 0, 0, NULL},
      {"blocks", EBB_OPTION_INT, &s.blocks, "N", "(30)", 1, 1000, NULL},
      {"steps", EBB_OPTION_INT, &s.steps, "N", "(11)", 1, 1000, NULL},
      {"seeds", EBB_OPTION_INT, &s.seeds, "N", "splits (5)", 1, 1000, NULL},
      {"classes", EBB_OPTION_INT, &s.classes, "N", "label sets (4)", 1, 1000, NULL},
      {"train", EBB_OPTION_INT, &s.train, "N", "rows to train on (1080)", 2, 100000, NULL},
      {"test", EBB_OPTION_INT, &s.test, "N", "rows held out (270)", 1, 100000, NULL},
      {"width", EBB_OPTION_INT, &s.width, "N", "of the features (1536)", 1, 100000, NULL},
      {"c", EBB_OPTION_REAL, &s.c, "C", "as scikit-learn's: 1/(2C) |w|^2 beside the sum of losses (1)", 0, 0,
       NULL},
      {"check", EBB_OPTION_INT, &s.check, "N", "problems solved again on the CPU (4)", 0, 1000, NULL},
      {"csv", EBB_OPTION_FLAG, &s.csv, NULL, "comma-separated values", 0, 0, NULL},
  };
  const ebb_command command = {
      "probe [options]", summary, options, (int)(sizeof options / sizeof *options), NULL, 0, 0, NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (!(s.c > 0 && s.c <= 1e9)) {
    fprintf(stderr, "bench: --c: expected a number above 0, up to 1e9\n");
    return EBB_EXIT_USAGE;
  }
  ebb_context c = {0};
  ebb_error err = {{0}};
  bool ok = ebb_context_open(&c, s.device, &err) && run(&s, &c, &err);
  ebb_context_close(&c);
  free(s.x);
  free(s.labels);
  free(s.rows);
  free(s.problems);
  free(s.margins);
  free(s.gradient);
  return ok ? EBB_EXIT_OK : bench_fail(&err);
}
