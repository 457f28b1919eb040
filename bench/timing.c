#include "bench/timing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/numeric.h"
#include "kernels/random.h"
#include "loaders/file.h"

/* ---- clocks ------------------------------------------------------------------------------------------ */

static double clock_of(clockid_t which) {
  struct timespec t;
  clock_gettime(which, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_now(void) {
  return clock_of(CLOCK_MONOTONIC);
}

static double main_began;

void bench_process_started(void) {
  main_began = bench_now();
}

/* Field 22 of /proc/self/stat: clock ticks since boot when the process was started. Field 2 may hold spaces. */
static double started_after_boot(void) {
  char line[1024] = "";
  unsigned long long ticks = 0;
  FILE *f = fopen("/proc/self/stat", "r");
  const char *rest = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
  if (f)
    fclose(f);
  for (int field = 2; rest && field < 22; field++)
    rest = strchr(rest + 1, ' ');
  return rest && sscanf(rest, "%llu", &ticks) == 1 ? (double)ticks / (double)sysconf(_SC_CLK_TCK) : -1;
}

double bench_process_age(void) {
  double since_main = bench_now() - main_began, started = started_after_boot();
  double age = clock_of(CLOCK_BOOTTIME) - started;
  return started < 0 || age < since_main || age > since_main + 60 ? since_main : age;
}

/* ---- repeats ----------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double bench_median(double *times, int count) {
  qsort(times, (size_t)count, sizeof *times, by_value);
  return count % 2 ? times[count / 2] : (times[count / 2 - 1] + times[count / 2]) / 2;
}

enum { REPEATS_MIN = 3, REPEATS = 11, CALLS_MAX = 1000 };
#define LONG_ENOUGH 2e-3 /* seconds between two waits that make a wait of some 10 us small */

static double timed_calls(ebb_context *c, void (*call)(void *user, int i), void *user, int first, int count) {
  double start = bench_now();
  for (int i = first; i < first + count; i++)
    call(user, i);
  ebb_context_wait(c);
  return bench_now() - start;
}

bench_time bench_measure(ebb_context *c, void (*call)(void *user, int i), void *user, double seconds) {
  if (c->counting) {
    call(user, 0);
    return (bench_time){0};
  }
  double times[REPEATS], each = seconds / REPEATS > LONG_ENOUGH ? seconds / REPEATS : LONG_ENOUGH;
  int n = 1, repeats = 0, calls = 0;
  timed_calls(c, call, user, 0, 1);
  double one = timed_calls(c, call, user, 1, n); /* the first call's preparations are over */
  calls += 2;
  while (n < CALLS_MAX && one * n < each)
    n = one * n * 2 < each ? n * 2 : (int)(each / one) + 1;
  n = n < CALLS_MAX ? n : CALLS_MAX;
  double end = bench_now() + seconds;
  while (repeats < REPEATS && (repeats < REPEATS_MIN || bench_now() < end) && !c->error.text[0]) {
    times[repeats++] = timed_calls(c, call, user, calls, n) / n;
    calls += n;
  }
  double median = repeats > 0 ? bench_median(times, repeats) : 0;
  return (bench_time){median, repeats > 0 ? times[0] : 0, n * repeats};
}

/* ---- data -------------------------------------------------------------------------------------------- */

enum { STRETCH = (1 << 17) + 7 }; /* numbers drawn; odd, so that rows of a matrix are not all alike */

void bench_draw(float *to, int64_t n, double scale, uint64_t seed) {
  for (int64_t i = 0; i < n && i < STRETCH; i++)
    to[i] = (float)(scale * (2 * ebb_random_uniform(seed, 0, (uint64_t)i) - 1));
  for (int64_t at = STRETCH; at < n; at += STRETCH)
    memcpy(to + at, to, (size_t)(n - at < STRETCH ? n - at : STRETCH) * sizeof *to);
}

static void write_number(char *to, ebb_dtype dtype, float value) {
  uint16_t half = ebb_bf16_of_float(value);
  double wide = (double)value;
  if (dtype == EBB_F32)
    memcpy(to, &value, sizeof value);
  else if (dtype == EBB_BF16)
    memcpy(to, &half, sizeof half);
  else
    memcpy(to, &wide, sizeof wide);
}

void bench_fill(ebb_context *c, ebb_tensor t, double scale, uint64_t seed) {
  int64_t n = ebb_count(t), most = 64 * (int64_t)STRETCH, drawn = n < most ? n : most; /* 32 MiB an upload */
  size_t size = ebb_dtype_size(t.dtype);
  if (c->counting || !t.data)
    return;
  float *values = ebb_must(malloc((size_t)drawn * sizeof *values));
  char *block = ebb_must(malloc((size_t)drawn * size));
  bench_draw(values, drawn, scale, seed);
  for (int64_t i = 0; i < drawn; i++)
    write_number(block + (size_t)i * size, t.dtype, values[i]);
  ebb_tensor flat = EBB_VIEW(t, n);
  for (int64_t at = 0; at < n; at += drawn)
    ebb_upload(c, ebb_slice(flat, at, n - at < drawn ? n - at : drawn), block);
  free(block);
  free(values);
}

/* ---- ceilings ---------------------------------------------------------------------------------------- */

typedef struct ceiling_work {
  ebb_context *c;
  ebb_tensor x, w, y, from, to;
} ceiling_work;

static void multiply(void *user, int i) {
  const ceiling_work *k = user;
  (void)i;
  ebb_linear(k->c, k->y, k->x, k->w, EBB_NO_TENSOR, EBB_IDENTITY);
}

static void copy(void *user, int i) {
  const ceiling_work *k = user;
  (void)i;
  ebb_convert(k->c, k->to, k->from);
}

static void take(ceiling_work *k, ebb_dtype dtype, int64_t side, int64_t numbers) {
  ebb_context *c = k->c;
  k->x = EBB_NEW(c, EBB_ACTIVATIONS, dtype, "x", 1, side, side);
  k->w = EBB_NEW(c, EBB_ACTIVATIONS, dtype, "w", side, side);
  k->y = EBB_NEW(c, EBB_ACTIVATIONS, dtype, "y", 1, side, side);
  k->from = EBB_ACTIVATION(c, "from", numbers);
  k->to = EBB_ACTIVATION(c, "to", numbers);
  bench_fill(c, k->x, 1, 1);
  bench_fill(c, k->w, 1, 2);
  bench_fill(c, k->from, 1, 3);
}

bool bench_find_ceilings(ebb_context *c, ebb_dtype dtype, bench_ceilings *k, ebb_error *err) {
  bool host = c->activations.place == EBB_HOST;
  int64_t numbers = host ? 1 << 24 : 1 << 29; /* 64 MiB, or 2 GiB: far more than any cache holds */
  ceiling_work work = {.c = c};
  *k = (bench_ceilings){.side = host ? 1024 : 8192, .copy_bytes = 8.0 * (double)numbers};
  ebb_context_count(c);
  take(&work, dtype, k->side, numbers);
  multiply(&work, 0);
  copy(&work, 0);
  size_t bytes = c->activations.peak;
  if (!ebb_context_ok(c, err) || !ebb_context_reserve(c, EBB_ACTIVATIONS, bytes, err))
    return false;
  take(&work, dtype, k->side, numbers);
  k->matmul_time = bench_measure(c, multiply, &work, host ? 0.1 : 0.5);
  k->copy_time = bench_measure(c, copy, &work, host ? 0.1 : 0.3);
  double side = (double)k->side;
  k->matmul = 2 * side * side * side / k->matmul_time.median;
  k->copy = k->copy_bytes / k->copy_time.median;
  return ebb_context_ok(c, err) && ebb_context_reserve(c, EBB_ACTIVATIONS, 0, err);
}
