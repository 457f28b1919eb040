/* bench probe: the probes of a whole study in one call, on data with a planted answer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/sheet.h"
#include "cli/options.h"
#include "kernels/random.h"
#include "loaders/file.h"
#include "probe/presets.h"

enum { INNER_FOLDS = 4 }; /* ridge chooses its penalty on them; as probe.inner_folds */

/* blocks x steps matrices of features, each probed for seeds x classes. */
typedef struct study {
  const char *device;
  unsigned solvers; /* bit i: solvers[i] is asked for */
  int64_t blocks, steps, seeds, classes, train, test, width, check;
  double c; /* scikit-learn's C: sum of losses + 1/(2C) |w|^2 */
  int csv;
  int64_t cells, count;  /* matrices; problems */
  float *x;              /* [cells][train+test, width] */
  int8_t *labels;        /* [classes][train+test] */
  int32_t *rows;         /* [seeds][train+test]: a permutation; the first `train` of it are trained on */
  int32_t *inner;        /* [train] ridge: the fold of each training row */
  ebb_problem *problems; /* [count], cell by cell */
  double *margins;       /* [count][test], of the solver at hand */
  double *gradient;      /* [count] Newton: relative gradient reached */
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
  s->inner = malloc((size_t)s->train * sizeof *s->inner);
  if (!s->x || !s->labels || !s->rows || !s->inner || !s->problems || !s->margins || !s->gradient)
    return ebb_fail(err, "no memory for %lld matrices of %lld x %lld", (long long)s->cells, (long long)n,
                    (long long)s->width);
  plant(s);
  for (int64_t i = 0; i < s->train; i++)
    s->inner[i] = (int32_t)(i % INNER_FOLDS);
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
                                   .test = s->rows + seed * n + s->train,
                                   .stream = (uint64_t)seed};
  }
  return true;
}

/* ---- solving ----------------------------------------------------------------------------------------- */

/* `count` problems (copies, the solver's to change) on a context; margins [count][test], gradient [count]. */
typedef bool solve_fn(const study *s, ebb_context *c, int64_t count, ebb_problem *problems, double *margins,
                      double *gradient, ebb_error *err);

static bool newton(const study *s, ebb_context *c, int64_t count, ebb_problem *problems, double *margins,
                   double *gradient, ebb_error *err) {
  /* lambda/8 |w|^2 with lambda = rho d is 1/(2C) |w|^2 */
  const double rho = 4 / (s->c * (double)s->width);
  ebb_parameters parameters = ebb_parameters_default;
  parameters.penalty_count = 1;
  parameters.penalties = &rho;
  ebb_logistic_fit *fits = ebb_must(calloc((size_t)count, sizeof *fits));
  for (int64_t i = 0; i < count; i++)
    fits[i] = (ebb_logistic_fit){.margins = margins + i * s->test, .gradient = gradient + i};
  bool ok = ebb_logistic_batch(c, count, problems, &parameters, fits, err);
  free(fits);
  return ok;
}

/* All penalties of the grid, the best on inner folds. */
static bool ridge(const study *s, ebb_context *c, int64_t count, ebb_problem *problems, double *margins,
                  double *gradient, ebb_error *err) {
  (void)gradient;
  ebb_ridge_fit *fits = ebb_must(calloc((size_t)count, sizeof *fits));
  for (int64_t i = 0; i < count; i++) {
    problems[i].inner_folds = INNER_FOLDS;
    problems[i].inner = s->inner;
    fits[i] = (ebb_ridge_fit){.margins = margins + i * s->test};
  }
  bool ok = ebb_ridge_batch(c, count, problems, &ebb_parameters_default, fits, err);
  free(fits);
  return ok;
}

/* A preset that stops on validation rows gets the training rows' last ones for it, its share of all. */
static bool adam(const study *s, const ebb_preset *preset, ebb_context *c, int64_t count,
                 ebb_problem *problems, double *margins, ebb_error *err) {
  const int64_t validation = (int64_t)(preset->validation * (double)all_rows(s));
  ebb_adam_fit *fits = ebb_must(calloc((size_t)count, sizeof *fits));
  for (int64_t i = 0; i < count; i++) {
    if (validation > 0 && validation < s->train) {
      problems[i].train_count = s->train - validation;
      problems[i].validation_count = validation;
      problems[i].validation = problems[i].train + s->train - validation;
    }
    fits[i] = (ebb_adam_fit){.margins = margins + i * s->test};
  }
  bool ok = ebb_adam_batch(c, count, problems, &preset->training, fits, err);
  free(fits);
  return ok;
}

static bool referee(const study *s, ebb_context *c, int64_t count, ebb_problem *problems, double *margins,
                    double *gradient, ebb_error *err) {
  (void)gradient;
  return adam(s, ebb_preset_find("referee"), c, count, problems, margins, err);
}

static bool released(const study *s, ebb_context *c, int64_t count, ebb_problem *problems, double *margins,
                     double *gradient, ebb_error *err) {
  (void)gradient;
  return adam(s, ebb_preset_find("released"), c, count, problems, margins, err);
}

static const struct solver {
  const char *name, *dtype;
  solve_fn *solve;
} solvers[] = {{"newton", "float64", newton},
               {"ridge", "float64", ridge},
               {"referee", "float32", referee},
               {"released", "float32", released}};
enum { SOLVERS = sizeof solvers / sizeof *solvers };

/* `count` of the study's problems, `stride` apart. */
static bool solve(const study *s, const struct solver *by, ebb_context *c, int64_t count, int64_t stride,
                  double *margins, double *gradient, ebb_error *err) {
  ebb_problem *problems = ebb_must(malloc((size_t)count * sizeof *problems));
  for (int64_t i = 0; i < count; i++)
    problems[i] = s->problems[i * stride];
  bool ok = by->solve(s, c, count, problems, margins, gradient, err) && ebb_context_ok(c, err);
  free(problems);
  return ok;
}

/* ---- measuring --------------------------------------------------------------------------------------- */

/* The larger; what is not a number is larger than all that are. */
static double worse(double a, double b) {
  return isnan(a) || isnan(b) ? INFINITY : fmax(a, b);
}

static double accuracy(const study *s) {
  int64_t right = 0;
  for (int64_t p = 0; p < s->count; p++)
    for (int64_t i = 0; i < s->test; i++)
      right += s->margins[p * s->test + i] * s->problems[p].labels[s->problems[p].test[i]] > 0;
  return (double)right / (double)(s->count * s->test);
}

/* A few problems again on the CPU: their time, and how far apart the margins are. */
static bool check_on_cpu(const study *s, const struct solver *by, const bench_sheet *sheet, const char *shape,
                         ebb_error *err) {
  int64_t count = s->check < s->count ? s->check : s->count, stride = count > 0 ? s->count / count : 1;
  char which[64];
  if (count == 0)
    return true;
  ebb_context cpu = {0};
  double *margins = ebb_must(malloc((size_t)(count * s->test) * sizeof *margins));
  double *gradient = ebb_must(malloc((size_t)count * sizeof *gradient)), worst = 0;
  bool ok = ebb_context_open(&cpu, "cpu", err);
  double start = bench_now();
  ok = ok && solve(s, by, &cpu, count, stride, margins, gradient, err);
  double each = (bench_now() - start) / (double)count;
  for (int64_t i = 0; ok && i < count; i++) {
    double difference = 0, norm = 0;
    for (int64_t k = 0; k < s->test; k++) {
      double a = s->margins[i * stride * s->test + k], b = margins[i * s->test + k];
      difference += (a - b) * (a - b);
      norm += b * b;
    }
    worst = worse(worst, sqrt(difference / norm));
  }
  snprintf(which, sizeof which, "%s on the CPU", by->name);
  if (ok) {
    bench_sheet_row(sheet,
                    &(bench_row){"one probe", which, shape, by->dtype, {each, each, (int)count}, 0, 0});
    printf("%s%s: margins of these %lld at most %.2e apart (relative L2)\n", sheet->csv ? "# " : "", by->name,
           (long long)count, worst);
  }
  ebb_context_close(&cpu);
  free(margins);
  free(gradient);
  return ok;
}

static bool run_solver(study *s, const struct solver *by, ebb_context *c, const bench_sheet *sheet,
                       ebb_error *err) {
  enum { REPEATS = 3 };
  double times[REPEATS], worst = 0;
  char shape[64], which[64], gradient[64] = "";
  snprintf(shape, sizeof shape, "%lldx%lld", (long long)s->train, (long long)s->width);
  snprintf(which, sizeof which, "%s, %lld in all", by->name, (long long)s->count);
  int repeats = 0;
  double begun = bench_now();
  for (; repeats < REPEATS && (repeats == 0 || bench_now() - begun < 60); repeats++) {
    double start = bench_now();
    if (!solve(s, by, c, s->count, 1, s->margins, s->gradient, err))
      return false;
    times[repeats] = bench_now() - start;
  }
  double first = times[0], median = bench_median(times, repeats);
  for (int64_t p = 0; by->solve == newton && p < s->count; p++)
    worst = worse(worst, s->gradient[p]);
  if (by->solve == newton)
    snprintf(gradient, sizeof gradient, "largest relative gradient %.2e; ", worst);
  bench_sheet_row(sheet, &(bench_row){"probes", which, shape, by->dtype, {median, times[0], repeats}, 0, 0});
  printf("%s%s: first call %.4g s; %saccuracy on held-out rows %.3f\n", sheet->csv ? "# " : "", by->name,
         first, gradient, accuracy(s));
  fflush(stdout);
  return check_on_cpu(s, by, sheet, shape, err);
}

static bool run(study *s, ebb_context *c, ebb_error *err) {
  bench_sheet sheet = {.csv = s->csv};
  bool ok = make(s, err);
  if (ok)
    bench_sheet_start(&sheet, c);
  for (int i = 0; ok && i < SOLVERS; i++)
    if (s->solvers >> i & 1)
      ok = run_solver(s, &solvers[i], c, &sheet, err);
  return ok;
}

/* ---- the command ------------------------------------------------------------------------------------- */

static bool parse_solvers(const char *list, unsigned *wanted) {
  *wanted = 0;
  for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    int n = (int)strcspn(at, ","), i = 0;
    while (i < SOLVERS && ((int)strlen(solvers[i].name) != n || strncmp(at, solvers[i].name, (size_t)n) != 0))
      i++;
    if (i == SOLVERS) {
      fprintf(stderr,
              "bench: --solver: found '%.*s', expected of newton,ridge,referee,released with commas "
              "between them\n",
              n, at);
      return false;
    }
    *wanted |= 1u << i;
  }
  return true;
}

static const char *const summary =
    "Fits blocks x steps x seeds x classes probes in one call, from features in host memory to margins\n"
    "in host memory. Features are uniform noise with planted directions. Solvers: newton, logistic\n"
    "probes to a relative gradient of 1e-6; ridge, six penalties and the best on four inner folds;\n"
    "referee and released, Adam as these presets have it (referee: validation rows out of the training\n"
    "rows). Then a few again on the CPU: time, and how far apart the two are.";

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
  const char *names = "newton";
  const ebb_option options[] = {
      {"solver", EBB_OPTION_TEXT, &names, "LIST", "of newton,ridge,referee,released (newton)", 0, 0, NULL},
      {"device", EBB_OPTION_TEXT, &s.device, "NAME", "auto, cpu, cuda, cuda:N (auto)", 0, 0, NULL},
      {"blocks", EBB_OPTION_INT, &s.blocks, "N", "(30)", 1, 1000, NULL},
      {"steps", EBB_OPTION_INT, &s.steps, "N", "(11)", 1, 1000, NULL},
      {"seeds", EBB_OPTION_INT, &s.seeds, "N", "splits (5)", 1, 1000, NULL},
      {"classes", EBB_OPTION_INT, &s.classes, "N", "label sets (4)", 1, 1000, NULL},
      {"train", EBB_OPTION_INT, &s.train, "N", "rows to train on (1080)", 2, 100000, NULL},
      {"test", EBB_OPTION_INT, &s.test, "N", "rows held out (270)", 1, 100000, NULL},
      {"width", EBB_OPTION_INT, &s.width, "N", "of the features (1536)", 1, 100000, NULL},
      {"c", EBB_OPTION_REAL, &s.c, "C",
       "newton: as scikit-learn's, 1/(2C) |w|^2 beside the sum of losses (1)", 0, 0, NULL},
      {"check", EBB_OPTION_INT, &s.check, "N", "problems solved again on the CPU (4)", 0, 1000, NULL},
      {"csv", EBB_OPTION_FLAG, &s.csv, NULL, "comma-separated values", 0, 0, NULL},
  };
  const ebb_command command = {
      "probe [options]", summary, options, (int)(sizeof options / sizeof *options), NULL, 0, 0, NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (!parse_solvers(names, &s.solvers))
    return EBB_EXIT_USAGE;
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
  free(s.inner);
  free(s.problems);
  free(s.margins);
  free(s.gradient);
  return ok ? EBB_EXIT_OK : bench_fail(&err);
}
