/* bench load: weights from disk to the device, and how long a user waits for the first evaluation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/subject.h"
#include "loaders/file.h"

typedef struct load {
  bench_subject subject;
  double open_seconds; /* of the last opening */
  /* Process age: in main, when the context was open, when memory was taken, when the weights had arrived, when the first
   * evaluation could begin, when its velocity was there. */
  double begun, opened, reserved, loaded, ready, there;
} load;

/* Bytes of the transformer's safetensors files. */
static bool file_bytes(const bench_subject *s, double *bytes, ebb_error *err) {
  char **names, *folder = ebb_path_join(s->folder, s->options.transformer);
  int64_t count;
  bool ok = ebb_folder_list(folder, &names, &count, err);
  *bytes = 0;
  for (int64_t i = 0; ok && i < count; i++) {
    const char *dot = strrchr(names[i], '.');
    uint64_t size = 0;
    char *path = ebb_path_join(folder, names[i]);
    if (dot && strcmp(dot, ".safetensors") == 0)
      ok = ebb_file_size(path, &size, err);
    *bytes += (double)size;
    free(path);
  }
  if (ok)
    ebb_names_free(names, count);
  free(folder);
  return ok && (*bytes > 0 || ebb_fail(err, "%s/%s: no safetensors", s->folder, s->options.transformer));
}

/* Opens, conditions, evaluates once, brings the velocity home. */
static bool first_evaluation(void *user, ebb_error *err) {
  load *l = user;
  bench_subject *s = &l->subject;
  ebb_context *c = &s->context;
  const ebb_latent_shape z = s->shape;
  const double label = 500;
  ebb_model m = {0};
  ebb_condition cond = {0};
  double start = bench_now();
  l->reserved = bench_process_age();
  bool ok = bench_open_transformer(s, &m, err);
  ebb_context_wait(c);
  l->open_seconds = bench_now() - start;
  l->loaded = bench_process_age();
  ok = ok && bench_condition(s, &m, &label, 1, &cond, err);
  ebb_context_wait(c);
  l->ready = bench_process_age();
  float *home =
      malloc((size_t)(s->options.batch * z.channels * z.frames * z.height * z.width) * sizeof *home);
  ok = ok && (home || ebb_fail(err, "no memory"));
  if (ok) {
    ebb_tensor x = EBB_ACTIVATION(c, "latents", s->options.batch, z.channels, z.frames, z.height, z.width);
    ebb_tensor v = EBB_ACTIVATION(c, "velocity", s->options.batch, z.channels, z.frames, z.height, z.width);
    bench_fill(c, x, 1.7, 5);
    ebb_model_velocity(&m, v, x, &cond, 0, NULL);
    ebb_download(c, home, v);
    ok = ebb_context_ok(c, err);
  }
  l->there = bench_process_age();
  free(home);
  ebb_condition_free(&cond);
  ebb_model_close(&m);
  return ok;
}

typedef struct upload {
  ebb_context *c;
  ebb_tensor to;
  void *from;
} upload;

static void upload_once(void *user, int i) {
  const upload *u = user;
  (void)i;
  ebb_upload(u->c, u->to, u->from);
}

/* The rate that no loading can beat: page-locked host memory to the device. */
static bool measure_upload(bench_subject *s, double *rate, ebb_error *err) {
  const int64_t numbers = s->context.activations.place == EBB_HOST ? 1 << 24 : 1 << 27; /* 64 or 512 MiB */
  ebb_context *c = &s->context;
  upload u = {.c = c, .from = ebb_host_new(c, (size_t)numbers * sizeof(float))};
  bool ok = (u.from || ebb_fail(err, "no memory for copies")) &&
            ebb_context_reserve(c, EBB_ACTIVATIONS, (size_t)numbers * sizeof(float), err);
  if (ok) {
    bench_draw(u.from, numbers, 1, 1);
    u.to = EBB_ACTIVATION(c, "upload", numbers);
    bench_time time = bench_measure(c, upload_once, &u, 0.3);
    *rate = 4.0 * (double)numbers / time.median;
    bench_sheet_row(&s->sheet, &(bench_row){"upload", "page-locked to device", "", "float32", time, 0,
                                            4.0 * (double)numbers});
    ok = ebb_context_ok(c, err);
  }
  ebb_host_free(c, u.from);
  return ok;
}

static void print(const bench_subject *s, const char *what, const char *which, bench_time time,
                  double bytes) {
  char shape[64] = "";
  if (bytes > 0)
    snprintf(shape, sizeof shape, "%.4g GB", bytes * 1e-9);
  bench_row row = {what, which, shape, s->options.dtype, time, 0, bytes};
  bench_sheet_row(&s->sheet, &row);
}

static bool run(load *l, ebb_error *err) {
  enum { WARM = 3 };
  bench_subject *s = &l->subject;
  double bytes, rate, warm[WARM];
  if (!file_bytes(s, &bytes, err) || !ebb_context_sized(&s->context, first_evaluation, l, err))
    return false;
  const load first = *l;
  for (int i = 0; i < WARM; i++) {
    if (!ebb_context_sized(&s->context, first_evaluation, l, err))
      return false;
    warm[i] = l->open_seconds;
  }
  double median = bench_median(warm, WARM), found = first.open_seconds;
  bench_sheet_start(&s->sheet, &s->context);
  print(s, "load", "files as they were found", (bench_time){found, found, 1}, bytes);
  print(s, "load", "files in the page cache", (bench_time){median, warm[0], WARM}, bytes);
  const struct {
    const char *name;
    double age;
  } stages[] = {{"to main", first.begun},
                {"to an open context", first.opened},
                {"to memory for all of it", first.reserved},
                {"to weights on the device", first.loaded},
                {"to a model that is ready", first.ready},
                {"to the first velocity", first.there}};
  for (int i = 0; i < (int)(sizeof stages / sizeof *stages); i++)
    print(s, "from process start", stages[i].name, (bench_time){stages[i].age, stages[i].age, 1}, 0);
  if (!measure_upload(s, &rate, err))
    return false;
  printf("%sloading is %.3f of the page-locked rate; process start to a model that is ready %.3f\n",
         s->sheet.csv ? "# " : "", bytes / median / rate, bytes / first.ready / rate);
  return true;
}

static const char *const summary =
    "Opens a transformer's weights: bytes of its files a second, as found on disk or in the page\n"
    "cache, then again; and the time from the start of this process to a model that is ready and to\n"
    "the first velocity in host memory, and to what comes before them. Beside them the rate of copies\n"
    "from page-locked memory, which no loading can beat. Folders with random weights:\n"
    "bench/peers/make_model.py.";

int bench_load(int argc, char **argv) {
  static load l;
  bench_subject_options o = bench_subject_defaults;
  ebb_option options[BENCH_SUBJECT_OPTIONS];
  int count =
      bench_subject_list(&o, "model transformer device dtype batch size frames text words csv", options);
  const ebb_command command = {"load --model DIR [options]", summary, options, count, NULL, 0, 0, NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (!o.model) {
    fprintf(stderr, "bench: load needs --model (bench load --help tells more)\n");
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {{0}};
  bool usage = false;
  l.begun = bench_process_age();
  bool ok = bench_subject_open(&l.subject, &o, &usage, &err);
  l.opened = bench_process_age();
  ok = ok && run(&l, &err);
  bench_subject_close(&l.subject);
  return ok ? EBB_EXIT_OK : usage ? (bench_fail(&err), EBB_EXIT_USAGE) : bench_fail(&err);
}
