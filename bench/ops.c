#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "ebb_version.h"
#include "kernels/ops.h"
#include "kernels/random.h"

/* A case takes its tensors from the activation arena, whose memory holds small positive numbers beforehand, and calls
 * its operator once. Sizes are in the order of the letters beside them. */
typedef struct op_case {
  const char *name, *letters;
  void (*call)(ebb_context *c, const int64_t *n);
  int64_t n[7];
} op_case;

#define NEW(...) EBB_ACTIVATION(c, "", __VA_ARGS__)
#define NEW64(...) EBB_NEW(c, EBB_ACTIVATIONS, EBB_F64, "", __VA_ARGS__)

static void linear(ebb_context *c, const int64_t *n) {
  ebb_linear(c, NEW(n[0], n[1], n[3]), NEW(n[0], n[1], n[2]), NEW(n[3], n[2]), NEW(n[3]), EBB_IDENTITY);
}
static void linear_gelu(ebb_context *c, const int64_t *n) {
  ebb_linear(c, NEW(n[0], n[1], n[3]), NEW(n[0], n[1], n[2]), NEW(n[3], n[2]), NEW(n[3]), EBB_GELU_TANH);
}
static void layer_norm(ebb_context *c, const int64_t *n) {
  ebb_layer_norm(c, NEW(n[0], n[1], n[2]), NEW(n[0], n[1], n[2]), NEW(n[2]), NEW(n[2]), 1e-6f);
}
static void norm_modulate(ebb_context *c, const int64_t *n) {
  ebb_norm_modulate(c, NEW(n[0], n[1], n[2]), NEW(n[0], n[1], n[2]), NEW(n[0], n[2]), NEW(n[0], n[2]), 1e-6f);
}
static void qk_norm_rope(ebb_context *c, const int64_t *n) {
  int64_t half = n[2] / n[3] / 2;
  ebb_qk_norm_rope(c, NEW(n[0], n[1], n[2]), NEW(n[2]), NEW(n[1], half), NEW(n[1], half), (int)n[3], 1e-6f);
}
static void attention(ebb_context *c, const int64_t *n) {
  ebb_attention(c, NEW(n[0], n[1], n[3]), NULL, NEW(n[0], n[1], n[3]), NEW(n[0], n[2], n[3]),
                NEW(n[0], n[2], n[3]), (int)n[4]);
}
static void attention_stats(ebb_context *c, const int64_t *n) {
  ebb_attention_stats stats = {NEW(n[0], n[4], n[5], n[5]), NEW(n[0], n[4], n[5])};
  ebb_attention(c, NEW(n[0], n[1], n[3]), &stats, NEW(n[0], n[1], n[3]), NEW(n[0], n[2], n[3]),
                NEW(n[0], n[2], n[3]), (int)n[4]);
}
static void gate_add(ebb_context *c, const int64_t *n) {
  ebb_gate_add(c, NEW(n[0], n[1], n[2]), NEW(n[0], n[1], n[2]), NEW(n[0], n[2]));
}
static void axpby(ebb_context *c, const int64_t *n) {
  ebb_axpby(c, NEW(n[0], n[1], n[2]), 0.5f, NEW(n[0], n[1], n[2]), 0.5f, NEW(n[0], n[1], n[2]));
}
static void patchify(ebb_context *c, const int64_t *n) {
  ebb_patchify(c, NEW(n[0], n[2] * (n[3] / 2) * (n[4] / 2), n[1] * 4), NEW(n[0], n[1], n[2], n[3], n[4]),
               (const int[3]){1, 2, 2});
}
static void pool_mean(ebb_context *c, const int64_t *n) {
  ebb_pool_mean(c, NEW(n[0], n[2]), NEW(n[0], n[1], n[2]));
}
static void conv3d_causal(ebb_context *c, const int64_t *n) {
  ebb_conv3d_causal(c, NEW(n[0], n[2], n[3], n[4], n[5]), NEW(n[0], n[1], n[3], n[4], n[5]),
                    NEW(n[2], n[1], 3, 3, 3), NEW(n[2]));
}
static void downsample_space(ebb_context *c, const int64_t *n) {
  ebb_downsample_space(c, NEW(n[0], n[1], n[2], (n[3] - 2) / 2 + 1, (n[4] - 2) / 2 + 1),
                       NEW(n[0], n[1], n[2], n[3], n[4]), NEW(n[1], n[1], 3, 3), NEW(n[1]));
}
static void upsample_time(ebb_context *c, const int64_t *n) {
  ebb_upsample_time(c, NEW(n[0], n[1], 2 * n[2] - 1, n[3], n[4]), NEW(n[0], n[1], n[2], n[3], n[4]),
                    NEW(2 * n[1], n[1], 3, 1, 1), NEW(2 * n[1]));
}
static void channel_norm(ebb_context *c, const int64_t *n) {
  ebb_channel_norm(c, NEW(n[0], n[1], n[2], n[3], n[4]), NEW(n[0], n[1], n[2], n[3], n[4]), NEW(n[1]),
                   EBB_SILU);
}
static void gram(ebb_context *c, const int64_t *n) {
  ebb_gram(c, NEW64(n[0], n[0]), NEW64(n[0], n[1]));
}
static void matmul(ebb_context *c, const int64_t *n) {
  ebb_matmul(c, NEW64(n[0], n[2]), NEW64(n[0], n[1]), NEW64(n[1], n[2]), false);
}

/* tiny: 9x8x8 latents of 64x64 videos; wan: 5x32x32 latents (17 frames of 256x256), 12 heads of 128. */
static const op_case cases[] = {
    {"tiny linear", "BSKN", linear, {8, 144, 256, 256}},
    {"tiny linear gelu", "BSKN", linear_gelu, {8, 144, 256, 1024}},
    {"tiny layer_norm", "BSD", layer_norm, {8, 144, 256}},
    {"tiny norm_modulate", "BSD", norm_modulate, {8, 144, 256}},
    {"tiny qk_norm_rope", "BSDN", qk_norm_rope, {8, 144, 256, 8}},
    {"tiny attention", "BSMDN", attention, {8, 144, 144, 256, 8}},
    {"tiny attention stats", "BSMDNT", attention_stats, {8, 144, 144, 256, 8, 9}},
    {"tiny gate_add", "BSD", gate_add, {8, 144, 256}},
    {"tiny axpby", "BSD", axpby, {8, 144, 256}},
    {"tiny patchify", "BCTHW", patchify, {8, 8, 9, 8, 8}},
    {"tiny pool_mean", "BSD", pool_mean, {8, 144, 256}},
    {"wan linear", "BSKN", linear, {1, 1280, 1536, 1536}},
    {"wan linear gelu", "BSKN", linear_gelu, {1, 1280, 1536, 8960}},
    {"wan norm_modulate", "BSD", norm_modulate, {1, 1280, 1536}},
    {"wan qk_norm_rope", "BSDN", qk_norm_rope, {1, 1280, 1536, 12}},
    {"wan attention", "BSMDN", attention, {1, 1280, 1280, 1536, 12}},
    {"wan attention stats", "BSMDNT", attention_stats, {1, 1280, 1280, 1536, 12, 5}},
    {"wan attention cross", "BSMDN", attention, {1, 1280, 512, 1536, 12}},
    {"wan gate_add", "BSD", gate_add, {1, 1280, 1536}},
    {"vae conv3d_causal", "BCDTHW", conv3d_causal, {1, 24, 24, 9, 64, 64}},
    {"vae conv3d_causal wide", "BCDTHW", conv3d_causal, {1, 96, 96, 9, 16, 16}},
    {"vae channel_norm", "BCTHW", channel_norm, {1, 96, 9, 32, 32}},
    {"vae downsample_space", "BCTHW", downsample_space, {1, 48, 9, 32, 32}},
    {"vae upsample_time", "BCTHW", upsample_time, {1, 96, 9, 16, 16}},
    {"probe gram", "nd", gram, {600, 2048}},
    {"probe matmul", "mkn", matmul, {600, 2048, 64}},
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Fills the whole activation arena with numbers in [1/2, 3/4): as float32 so, as float64 (two of them) finite and near. */
static bool fill(ebb_context *c, size_t bytes, ebb_error *err) {
  int64_t count = (int64_t)(bytes / sizeof(float));
  float *host = malloc(bytes);
  if (!host)
    return ebb_fail(err, "not enough memory: %zu bytes", bytes);
  for (int64_t i = 0; i < count; i++)
    host[i] = 0.5f + 0.25f * (float)ebb_random_uniform(1, 0, (uint64_t)i);
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_upload(c, NEW(count), host);
  ebb_arena_release(&c->activations, mark);
  free(host);
  return ebb_context_ok(c, err);
}

/* One call. Returns its seconds; a download of one number waits for a device. */
static double timed_call(ebb_context *c, const op_case *k) {
  float last;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor any = NEW(1);
  double start = now();
  k->call(c, k->n);
  if (any.place != EBB_HOST)
    ebb_download(c, &last, any);
  double seconds = now() - start;
  ebb_arena_release(&c->activations, mark);
  return seconds;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

enum { CALLS_MIN = 5, CALLS_MAX = 10000 };

/* Median seconds of one case and how many calls it is of; the counters of one call. */
static bool measure(ebb_context *c, const op_case *k, double seconds, double *median, int *calls,
                    ebb_counters *counted, ebb_error *err) {
  static double times[CALLS_MAX];
  ebb_context_count(c);
  timed_call(c, k);
  *counted = c->counters;
  size_t bytes = c->activations.peak;
  if (!ebb_context_ok(c, err) || !ebb_context_reserve(c, EBB_ACTIVATIONS, bytes, err) || !fill(c, bytes, err))
    return false;
  timed_call(c, k);
  double end = now() + seconds;
  int n = 0;
  while (n < CALLS_MAX && (n < CALLS_MIN || now() < end))
    times[n++] = timed_call(c, k);
  qsort(times, (size_t)n, sizeof *times, by_value);
  *median = n % 2 ? times[n / 2] : (times[n / 2 - 1] + times[n / 2]) / 2;
  *calls = n;
  return ebb_context_ok(c, err);
}

static void sizes_text(const op_case *k, char *text, size_t size) {
  size_t at = 0;
  text[0] = '\0';
  for (size_t i = 0; k->letters[i] && at < size; i++)
    at += (size_t)snprintf(text + at, size - at, "%s%c%lld", i ? " " : "", k->letters[i], (long long)k->n[i]);
}

int bench_ops(const bench_options *options) {
  ebb_context c = {0};
  ebb_error err = {{0}};
  if (!ebb_context_open(&c, options->device, &err)) {
    fprintf(stderr, "bench: %s\n", err.text);
    return 1;
  }
  if (options->csv)
    printf("case,sizes,calls,median_us,gflops,gbytes_per_s\n");
  else
    printf("ebb %s, commit %s, device %s, %d threads\n%-24s %-34s %6s %12s %9s %9s\n", EBB_VERSION,
           EBB_COMMIT, options->device, ebb_context_threads(), "case", "sizes", "calls", "median us",
           "GFLOP/s", "GB/s");
  int ran = 0;
  bool good = true;
  for (size_t i = 0; good && i < sizeof cases / sizeof *cases; i++) {
    const op_case *k = &cases[i];
    if (options->only && !strstr(k->name, options->only))
      continue;
    double median;
    int calls;
    ebb_counters counted;
    char sizes[96];
    good = measure(&c, k, options->seconds, &median, &calls, &counted, &err);
    if (!good)
      break;
    ran++;
    sizes_text(k, sizes, sizeof sizes);
    printf(options->csv ? "%s,%s,%d,%.3f,%.3f,%.3f\n" : "%-24s %-34s %6d %12.1f %9.2f %9.2f\n", k->name,
           sizes, calls, median * 1e6, counted.flops / median * 1e-9, counted.bytes / median * 1e-9);
    fflush(stdout);
  }
  ebb_context_close(&c);
  if (!good)
    fprintf(stderr, "bench: %s\n", err.text);
  else if (ran == 0)
    fprintf(stderr, "bench: no case has '%s' in its name\n", options->only);
  return good && ran > 0 && !ferror(stdout) ? 0 : 1;
}
