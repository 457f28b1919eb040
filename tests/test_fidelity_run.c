/* tier: host
 * Fidelity and solvers measured on whole videos, through the random fixture model: what is in every loop,
 * that batches do not matter, what a broken video leaves, the files, and that a killed comparison goes on. */
#include "engine/fidelity_run.h"
#include "engine/job.h"
#include "engine/solver_errors.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/store.h"
#include "loaders/synth.h"
#include "tests/test_files.h"

#include <math.h>
#include <sys/wait.h>

#include "tests/test_cuda.h"

#define MODEL "tests/fixtures/models/wan-a"

static char data[96];
static FILE *quiet;

static int make_data(void **state) {
  ebb_error err = {0};
  if (folder_make(state) != 0)
    return -1;
  snprintf(data, sizeof data, "%s/data", folder);
  quiet = fopen("/dev/null", "w");
  const ebb_synth_options world = {3, 32, 9};
  return quiet && ebb_synth_intphys(data, "O1", 4, &world, &err) ? 0 : -1;
}

static int remove_data(void **state) {
  fclose(quiet);
  return folder_remove(state);
}

static ebb_config config_for(const char *solver, const char *labels, int steps) {
  ebb_config k;
  ebb_config_defaults(&k);
  strcpy(k.model.path, MODEL);
  strcpy(k.data.path, data);
  k.data.height = k.data.width = 16;
  k.data.frames = 5;
  k.data.groups = 1;
  k.prompt.max_tokens = 2;
  strcpy(k.inversion.solver, solver);
  strcpy(k.inversion.labels, labels);
  k.inversion.steps = steps;
  k.capture.steps = (ebb_int_list){2, {0, 2}};
  k.run.batch = 3;
  strcpy(k.run.device, "cpu");
  return k;
}

static ebb_fidelity measured(const ebb_config *k, const char *local, const char *forward) {
  ebb_error err = {0};
  ebb_fidelity f;
  const ebb_fidelity_options options = {
      .local = local, .forward = forward, .generated = 2, .seed = 5, .log = quiet};
  if (!ebb_fidelity_run(k, &options, &f, &err))
    fail_msg("%s", err.text);
  return f;
}

static const ebb_fidelity_sample *sample_of(const ebb_fidelity *f, ebb_loop loop, int64_t number) {
  for (int64_t i = 0; i < f->count; i++)
    if (f->samples[i].loop == loop && number-- == 0)
      return &f->samples[i];
  fail_msg("no sample of %s", ebb_loop_names[loop]);
  return NULL;
}

/* ---- what is measured -----------------------------------------------------------------------------------
 */

static void test_every_loop_is_measured(void **state) {
  (void)state;
  ebb_config k = config_for("euler", "noisy", 4);
  ebb_fidelity f = measured(&k, "all", NULL);
  assert_int_equal(f.count, 4 + 2 + 2);
  assert_int_equal(f.failed, 0);
  assert_int_equal(f.captured, 1); /* the clean state is met by one way alone */
  assert_int_equal(f.capture[0], 2);
  for (int64_t i = 0; i < f.count; i++) {
    const ebb_fidelity_sample *s = &f.samples[i];
    for (int state_k = 0; state_k <= 4; state_k++)
      for (int m = 0; m < EBB_MEASURES; m++) {
        const bool of_step = m == EBB_IMPLICIT_RES || m == EBB_LOCAL_ERR || m == EBB_VEL_COS,
                   of_maps = m >= EBB_ATTN_COS;
        bool there = of_step ? state_k < 4 : of_maps ? state_k == 2 : true;
        /* the last batch of videos is one alone: there is no other to hold it against */
        if (m == EBB_OTHER_COS && i == 3)
          there = false;
        if (isfinite(s->value[m][state_k]) != there)
          fail_msg("sample %d: %s at state %d is %g", (int)i, ebb_measure_names[m], state_k,
                   s->value[m][state_k]);
      }
    assert_true(s->noise.std > 0 && s->by_channel[7].std > 0);
  }
  /* Where a loop begins the two paths are one: both from the recovered noise, or from the clean end. */
  assert_true(sample_of(&f, EBB_LOOP_DATA, 0)->value[EBB_RMSE][4] == 0);
  assert_true(sample_of(&f, EBB_LOOP_DATA, 0)->value[EBB_COS][4] == 1);
  assert_true(sample_of(&f, EBB_LOOP_DATA, 0)->value[EBB_RMSE][0] > 0);
  assert_true(sample_of(&f, EBB_LOOP_GENERATED, 1)->value[EBB_RMSE][0] == 0);
  assert_true(sample_of(&f, EBB_LOOP_GENERATED, 1)->value[EBB_RMSE][4] > 0);
  assert_true(sample_of(&f, EBB_LOOP_VAE, 1)->value[EBB_RMSE][0] > 0);
  ebb_fidelity_free(&f);
}

static void test_local_errors_where_asked(void **state) {
  (void)state;
  ebb_config k = config_for("heun", "matched", 4);
  ebb_fidelity none = measured(&k, "none", NULL), some = measured(&k, "captured", NULL);
  for (int step = 0; step < 4; step++) {
    assert_true(isnan(none.samples[0].value[EBB_LOCAL_ERR][step]));
    assert_int_equal(isfinite(some.samples[0].value[EBB_LOCAL_ERR][step]), step == 2);
  }
  assert_true(some.evaluations > none.evaluations);
  ebb_fidelity_free(&none);
  ebb_fidelity_free(&some);
}

/* The fixed point retraces a generated path, state by state; its steps have no residual. */
static void test_the_fixed_point_closes_the_loop(void **state) {
  (void)state;
  ebb_config exact = config_for("exact", "matched", 40), euler = config_for("euler", "matched", 40);
  ebb_fidelity f = measured(&exact, "captured", NULL), plain = measured(&euler, "captured", NULL);
  for (int64_t v = 0; v < 2; v++) {
    const ebb_fidelity_sample *s = sample_of(&f, EBB_LOOP_GENERATED, v);
    assert_null(s->failed);
    for (int step = 0; step <= 40; step++)
      assert_true(s->value[EBB_REL][step] < 1e-5);
    assert_true(s->value[EBB_IMPLICIT_RES][2] < 1e-5);
    assert_true(sample_of(&plain, EBB_LOOP_GENERATED, v)->value[EBB_REL][40] > 1e-3);
  }
  ebb_fidelity_free(&f);
  ebb_fidelity_free(&plain);
}

static void test_batches_do_not_matter(void **state) {
  (void)state;
  ebb_config k = config_for("heun", "noisy", 3);
  ebb_fidelity three = measured(&k, "all", NULL);
  k.run.batch = 1;
  ebb_fidelity one = measured(&k, "all", NULL);
  for (int loop = 0; loop < EBB_LOOPS; loop++)
    for (int64_t v = 0; v < (loop == EBB_LOOP_DATA ? 4 : 2); v++) {
      const ebb_fidelity_sample *a = sample_of(&three, (ebb_loop)loop, v),
                                *b = sample_of(&one, (ebb_loop)loop, v);
      assert_string_equal(a->id, b->id);
      for (int m = 0; m < EBB_OTHER_COS; m++)
        assert_memory_equal(a->value[m], b->value[m], 4 * sizeof(double));
      assert_memory_equal(&a->noise, &b->noise, sizeof a->noise);
    }
  ebb_fidelity_free(&three);
  ebb_fidelity_free(&one);
}

/* The way forward may be another sampler's: held against its own path the inversion is further off. */
static void test_another_way_forward(void **state) {
  (void)state;
  ebb_config k = config_for("euler", "matched", 12);
  ebb_fidelity own = measured(&k, "none", NULL), unipc = measured(&k, "none", "unipc");
  assert_true(sample_of(&own, EBB_LOOP_DATA, 0)->value[EBB_REL][0] !=
              sample_of(&unipc, EBB_LOOP_DATA, 0)->value[EBB_REL][0]);
  assert_true(isfinite(sample_of(&unipc, EBB_LOOP_GENERATED, 0)->value[EBB_REL][12]));
  ebb_fidelity_free(&own);
  ebb_fidelity_free(&unipc);
}

static void test_a_broken_video_is_recorded(void **state) {
  (void)state;
  ebb_config k = config_for("euler", "noisy", 3);
  ebb_fidelity whole = measured(&k, "none", NULL);
  char frame[160], aside[160];
  snprintf(frame, sizeof frame, "%s/O1/01/2/scene/scene_004.png", data);
  snprintf(aside, sizeof aside, "%s/aside.png", folder);
  assert_int_equal(rename(frame, aside), 0);
  put_text(frame, "no image");
  ebb_fidelity f = measured(&k, "none", NULL);
  assert_int_equal(rename(aside, frame), 0);
  assert_int_equal(f.failed, 1);
  assert_int_equal(f.count, whole.count);
  int64_t failed = 0;
  for (int64_t i = 0; i < f.count; i++)
    for (int64_t j = 0; j < whole.count; j++) {
      const ebb_fidelity_sample *a = &f.samples[i], *b = &whole.samples[j];
      if (a->loop != b->loop || strcmp(a->id, b->id) != 0)
        continue;
      if (a->failed) {
        assert_non_null(strstr(a->failed, "scene_004.png"));
        assert_string_equal(a->id, "O1/01/2");
        failed++;
      } else {
        assert_memory_equal(a->value[EBB_REL], b->value[EBB_REL], 4 * sizeof(double));
      }
    }
  assert_int_equal(failed, 1);
  ebb_fidelity_free(&f);
  ebb_fidelity_free(&whole);
}

/* On a GPU the same numbers, as far as a float32 path of four steps keeps them. */
static void test_on_a_gpu(void **state) {
  (void)state;
  skip_without_cuda();
  static const char *const forward[] = {NULL, "unipc"};
  for (int i = 0; i < 2; i++) {
    ebb_config k = config_for("heun", "matched", 4);
    ebb_fidelity here = measured(&k, "all", forward[i]);
    strcpy(k.run.device, "cuda");
    ebb_fidelity there = measured(&k, "all", forward[i]);
    assert_int_equal(here.count, there.count);
    for (int64_t n = 0; n < here.count; n++)
      for (int m = 0; m < EBB_MEASURES; m++)
        for (int step = 0; step <= 4; step++) {
          const double a = here.samples[n].value[m][step], b = there.samples[n].value[m][step];
          assert_int_equal(isfinite(a), isfinite(b));
          if (isfinite(a) && !(fabs(a - b) < 2e-3 * (1 + fabs(a))))
            fail_msg("sample %d: %s at state %d: %g on the CPU, %g on the GPU", (int)n, ebb_measure_names[m],
                     step, a, b);
        }
    ebb_fidelity_free(&here);
    ebb_fidelity_free(&there);
  }
}

/* ---- solvers against a reference ------------------------------------------------------------------------
 */

static void test_reference_grid(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_schedule a, b, grid;
  int *stop, stops;
  assert_true(ebb_schedule_make(&a, EBB_UNIPC, 20, 3, &err) && ebb_schedule_make(&b, EBB_UNIPC, 15, 3, &err));
  const ebb_schedule *const both[] = {&a, &b};
  assert_true(ebb_reference_grid(both, 2, 100, &grid, &stop, &stops, &err));
  assert_int_equal(stops, 21 + 16 - 6); /* 0, the top, and a half of one fifth steps: five of 1/5 in common */
  assert_true(grid.steps >= 100 && grid.steps < 100 + stops);
  for (int i = 1; i <= grid.steps; i++)
    assert_true(grid.sigma[i] > grid.sigma[i - 1] && grid.label[i] == 1000 * grid.sigma[i]);
  for (int s = 0; s < 2; s++)
    for (int k = 0; k <= both[s]->steps; k++) {
      double nearest = 1;
      for (int i = 0; i < stops; i++)
        nearest = fmin(nearest, fabs(grid.sigma[stop[i]] - both[s]->sigma[k]));
      assert_true(nearest <= 1e-7);
    }
  free(stop);
  ebb_schedule_free(&a);
  ebb_schedule_free(&b);
  ebb_schedule_free(&grid);
}

static ebb_solver_errors errors_of(const ebb_config *k, const ebb_solver_case *cases, int count, int steps) {
  ebb_error err = {0};
  ebb_solver_errors r;
  static const bool all[8] = {true, true, true, true, true, true, true, true};
  char *cache = ebb_path_join(folder, "reference.safetensors");
  const ebb_solver_errors_options options = {
      .reference = "rk4", .reference_steps = steps, .videos = 3, .cache = cache, .log = quiet};
  if (!ebb_solver_errors_run(k, cases, all, count, &options, &r, &err))
    fail_msg("%s", err.text);
  free(cache);
  return r;
}

/* The reference's own solver on its own grid is off by nothing but the rounding of labels; the others by more
 * the lower their order, and by noisy labels. How fast that falls is told where the field is smooth:
 * test_fidelity.c, and test_fidelity_model.c of the trained model. */
static void test_errors_to_the_reference(void **state) {
  (void)state;
  ebb_config k = config_for("euler", "noisy", 4);
  strcpy(k.inversion.schedule, "flow-match-euler"); /* labels are not truncated */
  const ebb_solver_case same[] = {{"rk4", "matched", 6}};
  ebb_solver_errors r = errors_of(&k, same, 1, 6);
  for (int v = 0; v < 3; v++)
    assert_true(r.of[0].endpoint[v] < 1e-5 && r.of[0].path[v] < 1e-5);
  assert_int_equal(r.of[0].evaluations, 24);
  ebb_solver_errors_free(&r);
  const ebb_solver_case cases[] = {
      {"euler", "matched", 12}, {"heun", "matched", 12}, {"rk4", "matched", 12}, {"rk4", "noisy", 12}};
  r = errors_of(&k, cases, 4, 96);
  for (int v = 0; v < 3; v++) {
    assert_true(r.of[0].endpoint[v] > r.of[1].endpoint[v] && r.of[1].endpoint[v] > r.of[2].endpoint[v]);
    assert_true(r.of[3].endpoint[v] > r.of[2].endpoint[v]);
  }
  ebb_solver_errors_free(&r);
}

/* What is kept of the reference is what it was, and only of the same experiment. */
static void test_the_reference_is_kept(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_config k = config_for("euler", "noisy", 4);
  const ebb_solver_case cases[] = {{"heun", "matched", 4}};
  ebb_solver_errors first = errors_of(&k, cases, 1, 20), again = errors_of(&k, cases, 1, 20);
  assert_memory_equal(first.of[0].path, again.of[0].path, 3 * sizeof(double));
  char before[65], after[65];
  assert_true(ebb_file_sha256(at("reference.safetensors"), before, &err));
  k.inversion.shift = 5; /* other states of the flow */
  ebb_solver_errors other = errors_of(&k, cases, 1, 20);
  assert_true(ebb_file_sha256(at("reference.safetensors"), after, &err));
  assert_string_not_equal(before, after);
  assert_true(other.of[0].path[0] != first.of[0].path[0]);
  put_text(at("reference.safetensors"), "broken");
  k.inversion.shift = 0;
  ebb_solver_errors mended = errors_of(&k, cases, 1, 20);
  assert_memory_equal(first.of[0].path, mended.of[0].path, 3 * sizeof(double));
  ebb_solver_errors *all[] = {&first, &again, &other, &mended};
  for (int i = 0; i < 4; i++)
    ebb_solver_errors_free(all[i]);
}

/* ---- the commands -----------------------------------------------------------------------------------------
 */

static char output[1 << 20];

static int ebb(const char *arguments) {
  char command[2048];
  const char *bin = getenv("EBB_BIN");
  snprintf(command, sizeof command, "OMP_NUM_THREADS=1 %s/ebb %s 2>&1", bin ? bin : "build/cpu-release/bin",
           arguments);
  FILE *p = popen(command, "r");
  assert_non_null(p);
  size_t n = fread(output, 1, sizeof output - 1, p);
  output[n] = '\0';
  int status = pclose(p);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void expect(int code, const char *words, const char *arguments) {
  int got = ebb(arguments);
  if (got != code || !strstr(output, words))
    fail_msg("ebb %s: exit code %d, expected %d with '%s' in:\n%s", arguments, got, code, words, output);
}

static char experiment[96];

static void write_experiment(void) {
  char text[1024];
  snprintf(experiment, sizeof experiment, "%s/e.yaml", folder);
  snprintf(text, sizeof text,
           "name: fidelity\nmodel: {path: " MODEL "}\ndata: {path: %s, size: 32x32, frames: 9}\n"
           "prompt: {max_tokens: 2}\ninversion: {steps: 4}\ncapture: {steps: [0, 1, 2, 3], points: "
           "[block_out], pool: [motion]}\n"
           "probe: {folds: 2, inner_folds: 2, repeats: 1, bootstrap: 50}\nrun: {device: cpu, batch: 8, out: "
           "%s/run}\n",
           data, folder);
  put_text(experiment, text);
}

static char *text_of(const char *path) {
  ebb_error err = {0};
  char *text;
  size_t bytes;
  if (!ebb_file_read(path, 1 << 24, &text, &bytes, &err))
    fail_msg("%s", err.text);
  return text;
}

static int lines_in(const char *path) {
  char *text = text_of(path);
  int lines = 0;
  for (const char *c = text; *c; c++)
    lines += *c == '\n';
  free(text);
  return lines;
}

/* Defect 18: the released code's only number on fidelity is a line in its log, of random noise, of one model.
 * Here it is files, of the experiment's own videos, for any model, with the noise and attention too; and
 * joined with the probe. */
static void defect_18_fidelity_is_always_a_file(void **state) {
  (void)state;
  ebb_error err = {0};
  char line[256];
  write_experiment();
  snprintf(line, sizeof line, "run %s", experiment);
  expect(0, "", line);
  snprintf(line, sizeof line, "fidelity %s/run --generated 2", folder);
  expect(0, "rank correlation of end_rel", line);
  const int data_states = 16 * 5, generated_states = 2 * 2 * 5;
  assert_int_equal(lines_in(at("run/fidelity/fidelity.csv")), 1 + data_states + generated_states);
  char *text = text_of(at("run/fidelity/fidelity.csv"));
  const char *head = "video,step,sigma,logsnr,rmse,rel,cos,implicit_res,local_err,vel_cos,attn_cos_mean,";
  assert_int_equal(strncmp(text, head, strlen(head)), 0);
  free(text);
  assert_int_equal(lines_in(at("run/fidelity/fidelity_videos.csv")), 1 + 16 + 4);
  assert_int_equal(lines_in(at("run/fidelity/fidelity_noise.csv")), 1 + 20 * (1 + 8));
  /* three loops, states 1 to 3, three maps, 2 blocks of 3 heads */
  assert_int_equal(lines_in(at("run/fidelity/fidelity_attention.csv")), 1 + 3 * 3 * 3 * 6);
  json_t *o = ebb_json_read(at("run/fidelity/fidelity_summary.json"), &err);
  assert_non_null(o);
  const json_t *loops = json_object_get(o, "loops"), *loop = json_object_get(loops, "data");
  assert_int_equal(json_object_size(loops), 3);
  assert_int_equal(json_integer_value(json_object_get(loop, "videos")), 16);
  assert_int_equal(json_integer_value(json_object_get(loop, "groups")), 4);
  const json_t *end = json_object_get(json_object_get(loop, "means"), "end_rel");
  double value = json_number_value(json_object_get(end, "value"));
  assert_true(json_number_value(json_object_get(end, "low")) < value &&
              value < json_number_value(json_object_get(end, "high")));
  const json_t *rows = json_object_get(json_object_get(o, "margins"), "rows"), *row = json_array_get(rows, 0);
  assert_int_equal(json_array_size(rows),
                   1); /* block_out.motion of O1; the VAE's rows are not of this model */
  assert_int_equal(json_integer_value(json_object_get(row, "videos")), 16);
  double rank = json_number_value(
      json_object_get(json_object_get(json_object_get(row, "spearman"), "end_rel"), "value"));
  assert_true(fabs(rank) <= 1 && rank != 0);
  json_decref(o);
}

/* Defect 25: which grid of sigmas a run takes hangs on the version of diffusers that is installed. Here both
 * have names, and a run says which it took, number by number. */
static void defect_25_both_schedules_have_names(void **state) {
  (void)state;
  static const char *const names[] = {"unipc", "unipc-old"};
  static const double second[] = {0.03226, 0.02938}; /* REFERENCE 3.4, 100 steps */
  static const int label[] = {32, 29};
  for (int i = 0; i < 2; i++) {
    ebb_error err = {0};
    ebb_config k = config_for("euler", "noisy", 100);
    ebb_job_result result;
    const ebb_job_options options = {.version = "test", .log = quiet};
    strcpy(k.inversion.schedule, names[i]);
    snprintf(k.run.out, sizeof k.run.out, "%s/schedule-%s", folder, names[i]);
    k.data.frames = 1;
    k.capture.blocks = (ebb_int_list){1, {0}};
    if (!ebb_job_invert(&k, &options, &result, &err))
      fail_msg("%s", err.text);
    ebb_store s;
    assert_true(ebb_store_open(&s, k.run.out, &err));
    const json_t *about = json_object_get(s.index, "provenance");
    assert_string_equal(json_string_value(json_object_get(about, "schedule")), names[i]);
    assert_true(fabs(json_number_value(json_array_get(json_object_get(about, "sigmas"), 1)) - second[i]) <
                5e-6);
    assert_int_equal((int)json_number_value(json_array_get(json_object_get(about, "timesteps"), 0)),
                     label[i]);
    ebb_store_close(&s);
  }
}

/* The number in field `field` of the line that begins with `start`, where `middle` comes later. */
static double number_of(const char *text, const char *start, const char *middle, int field) {
  for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
    const char *at = line, *end = strchr(line, '\n'), *found = strstr(line, middle);
    if (strncmp(line, start, strlen(start)) != 0 || !found || !end || found > end)
      continue;
    for (int i = 0; i < field; i++)
      at = strchr(at, ',') + 1;
    return strtod(at, NULL);
  }
  fail_msg("no line %s ... %s", start, middle);
  return NAN;
}

/* An effect is the second side minus the first: with one repeat, of the two cells' accuracies. */
static void check_effects(const char *table, const char *effects) {
  const int accuracy = 16, difference = 11;
  double noisy4 = number_of(table, "euler,noisy,4,", "O1,block_out", accuracy),
         noisy2 = number_of(table, "euler,noisy,2,", "O1,block_out", accuracy),
         matched2 = number_of(table, "euler,matched,2,", "O1,block_out", accuracy);
  double steps = number_of(effects, "steps,4,2,euler,noisy", "O1,block_out", difference),
         labels = number_of(effects, "labels,noisy,matched,euler,matched,2", "O1,block_out", difference);
  print_message("  accuracies %g, %g, %g; effects %g, %g\n", noisy4, noisy2, matched2, steps, labels);
  assert_true(fabs(noisy2 - noisy4 - steps) < 1e-5 && fabs(matched2 - noisy2 - labels) < 1e-5);
  assert_true(steps != 0 || labels != 0); /* else there is nothing to tell apart */
}

static void test_comparison_goes_on_where_it_was(void **state) {
  (void)state;
  char line[512], first[1024];
  write_experiment();
  snprintf(line, sizeof line,
           "solver-compare %s --solvers euler --steps 2,4 --reference-steps 8 --videos 4 --out %s/sc",
           experiment, folder);
  expect(0, "what one change makes of the accuracy of block_out.motion", line);
  /* 2 labels; 4 steps: indices and sigmas are one list; 2 steps: [0, 1] either way */
  assert_int_equal(lines_in(at("sc/solver_compare.csv")), 1 + 4);
  assert_int_equal(lines_in(at("sc/solver_compare_effects.csv")), 1 + 2 + 2);
  char *table = text_of(at("sc/solver_compare.csv")), *effects = text_of(at("sc/solver_compare_effects.csv"));
  check_effects(table, effects);
  snprintf(first, sizeof first,
           "rm -r %s/sc/cells/euler-noisy-2-both %s/sc/cells/euler-matched-4-both/probe "
           "%s/sc/errors/euler-noisy-4.json %s/sc/reference.safetensors %s/sc/*.csv",
           folder, folder, folder, folder, folder);
  assert_int_equal(system(first), 0);
  snprintf(first, sizeof first, "%s/sc/cells/euler-noisy-4-both/index.json", folder);
  char before[65], after[65];
  ebb_error err = {0};
  assert_true(ebb_file_sha256(first, before, &err));
  expect(0, "errors of 3 of 4 cases are there already", line);
  assert_true(ebb_file_sha256(first, after, &err));
  assert_string_equal(before, after);
  char *table2 = text_of(at("sc/solver_compare.csv")),
       *effects2 = text_of(at("sc/solver_compare_effects.csv"));
  assert_string_equal(table, table2);
  assert_string_equal(effects, effects2);
  char *all[] = {table, effects, table2, effects2};
  for (int i = 0; i < 4; i++)
    free(all[i]);
  strcat(line, " --set probe.bootstrap=60");
  expect(1, "a run of other settings", line);
}

/* Defect 12: what is kept is of the weights, the frames and the grid that it was made with, not of whatever lies now
 * under the same names. */
static void defect_12_what_is_kept_knows_its_inputs(void **state) {
  (void)state;
  char line[700], shell[700];
  write_experiment();
  snprintf(shell, sizeof shell,
           "cp -rL " MODEL " %s/own && cp -r %s %s/own-data && cp %s/own/transformer/*.safetensors "
           "%s/weights.kept",
           folder, data, folder, folder, folder);
  assert_int_equal(system(shell), 0);
  const char *how = "solver-compare %s --set model.path=%s/own --set data.path=%s/own-data --solvers euler "
                    "--labels matched --steps %s --reference-steps 4 --videos 4 --out %s/kept%s";
  snprintf(line, sizeof line, how, experiment, folder, folder, "2", folder, "");
  expect(0, "", line);
  expect(0, "errors of 1 of 1 cases are there already", line);
  char before[65], after[65], errors[700];
  ebb_error err = {0};
  snprintf(errors, sizeof errors, how, experiment, folder, folder, "2", folder, " --errors-only");
  assert_true(ebb_file_sha256(at("kept/reference.safetensors"), before, &err));
  /* the weights of the same name: a bit of the last number */
  snprintf(shell, sizeof shell,
           "f=$(ls %s/own/transformer/*.safetensors) && n=$(($(stat -c %%s $f) - 4)) && "
           "printf '\\001' | dd of=$f bs=1 seek=$n conv=notrunc 2>/dev/null",
           folder);
  assert_int_equal(system(shell), 0);
  expect(0, "", errors);
  assert_null(strstr(output, "there already"));
  assert_true(ebb_file_sha256(at("kept/reference.safetensors"), after, &err));
  assert_string_not_equal(before, after);
  expect(1, "made with another transformer", line);
  snprintf(shell, sizeof shell, "cp %s/weights.kept %s/own/transformer/*.safetensors", folder, folder);
  assert_int_equal(system(shell), 0);
  expect(0, "", line);
  /* the frames of the same name: those of another video */
  snprintf(shell, sizeof shell, "cp %s/own-data/O1/01/2/scene/* %s/own-data/O1/01/1/scene/", folder, folder);
  assert_int_equal(system(shell), 0);
  expect(1, "made with another O1/01/1", line);
  assert_null(strstr(output, "there already"));
  /* another case moves the grid of the reference */
  expect(0, "errors of 1 of 1 cases are there already", errors);
  snprintf(errors, sizeof errors, how, experiment, folder, folder, "2,3", folder, " --errors-only");
  expect(0, "", errors);
  assert_null(strstr(output, "there already"));
}

/* A video that fails makes exit code 3, also when the comparison only reads back what is finished. */
static void test_failed_videos_are_told_again(void **state) {
  (void)state;
  char line[512], frame[160], aside[160];
  write_experiment();
  snprintf(frame, sizeof frame, "%s/O1/01/2/scene/scene_004.png", data);
  snprintf(aside, sizeof aside, "%s/aside.png", folder);
  assert_int_equal(rename(frame, aside), 0);
  put_text(frame, "no image");
  snprintf(line, sizeof line,
           "solver-compare %s --solvers euler --labels matched --steps 2 --reference-steps 4 --out %s/some",
           experiment, folder);
  expect(3, "failed O1/01/2", line);
  expect(3, "errors of 1 of 1 cases are there already", line);
  assert_int_equal(rename(aside, frame), 0);
  /* its error is not in the mean: 15 videos, all of the first 16 but one */
  char *text = text_of(at("some/errors/euler-matched-2.json"));
  assert_non_null(strstr(text, "\"videos\": 15"));
  free(text);
}

static void test_commands_say_what_is_wrong(void **state) {
  (void)state;
  char line[512];
  write_experiment();
  snprintf(line, sizeof line, "invert %s --set inversion.solver=unipc --out %s/u", experiment, folder);
  expect(1, "inversion.solver: found unipc, expected euler, heun, midpoint, rk4 or exact", line);
  snprintf(line, sizeof line, "fidelity %s --set inversion.solver=unipc --out %s/u", experiment, folder);
  expect(1, "unipc is a sampler of generation alone", line);
  snprintf(line, sizeof line, "solver-compare %s --solvers euler,unipc --out %s/u", experiment, folder);
  expect(2, "--solvers: found unipc", line);
  snprintf(line, sizeof line, "solver-compare %s --steps 20,x --out %s/u", experiment, folder);
  expect(2, "--steps: found 'x'", line);
  snprintf(line, sizeof line,
           "solver-compare %s --set capture.steps=all --set inversion.steps=200 --steps 2 --out %s/u",
           experiment, folder);
  expect(1, "capture.steps: all 200 are more than the 128", line);
  snprintf(line, sizeof line, "solver-compare %s --set probe.folds=9 --steps 2 --out %s/u", experiment,
           folder);
  expect(1, "probe.folds", line); /* before anything is inverted */
  snprintf(line, sizeof line, "solver-compare %s --set probe.target=[v] --steps 2 --out %s/u", experiment,
           folder);
  expect(1, "probe.target is v", line);
  snprintf(line, sizeof line, "fidelity %s --set capture.steps=[9] --out %s/u", experiment, folder);
  expect(1, "capture.steps: 9 does not exist", line);
  expect(1, "no/such", "fidelity no/such");
  snprintf(line, sizeof line, "eval invert --model " MODEL " --solver unipc --in x --out %s/u", folder);
  expect(1, "--solver: found unipc", line);
  assert_int_equal(access(at("u"), F_OK), -1);
  /* a folder whose sampler is another UniPC */
  snprintf(line, sizeof line,
           "mkdir -p %s/m && cp -r " MODEL "/* %s/m && sed -i 's/\"solver_order\": 2/\"solver_order\": 3/' "
           "%s/m/scheduler/scheduler_config.json",
           folder, folder, folder);
  assert_int_equal(system(line), 0);
  snprintf(
      line, sizeof line,
      "eval sample --model %s/m --solver unipc --in tests/fixtures/sample-a-unipc/in.safetensors --out %s/u",
      folder, folder);
  expect(1, "\"solver_order\" is 3: the sampler unipc is of order 2", line);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_loop_is_measured),
                                     cmocka_unit_test(test_local_errors_where_asked),
                                     cmocka_unit_test(test_the_fixed_point_closes_the_loop),
                                     cmocka_unit_test(test_batches_do_not_matter),
                                     cmocka_unit_test(test_another_way_forward),
                                     cmocka_unit_test(test_a_broken_video_is_recorded),
                                     cmocka_unit_test(test_on_a_gpu),
                                     cmocka_unit_test(test_reference_grid),
                                     cmocka_unit_test(test_errors_to_the_reference),
                                     cmocka_unit_test(test_the_reference_is_kept),
                                     cmocka_unit_test(defect_18_fidelity_is_always_a_file),
                                     cmocka_unit_test(defect_25_both_schedules_have_names),
                                     cmocka_unit_test(test_comparison_goes_on_where_it_was),
                                     cmocka_unit_test(defect_12_what_is_kept_knows_its_inputs),
                                     cmocka_unit_test(test_failed_videos_are_told_again),
                                     cmocka_unit_test(test_commands_say_what_is_wrong)};
  return cmocka_run_group_tests_name("fidelity-run", tests, make_data, remove_data);
}
