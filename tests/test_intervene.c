/* tier: host
 * ebb intervene from the run to the tables, on the random fixture model: an intervention that does nothing, the closed
 * loop, what a result may hang on, resuming after a kill, and what is refused. Runs ebb from EBB_BIN. */
#include "engine/edit.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "probe/crossfit.h"
#include "tests/test_files.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>

#include "tests/test_cuda.h"

static char output[65536]; /* stdout and stderr of the last command */

static const char *program(void) {
  const char *bin = getenv("EBB_BIN");
  static char path[512];
  snprintf(path, sizeof path, "%s/ebb", bin ? bin : "build/cpu-release/bin");
  return path;
}

__attribute__((format(printf, 1, 2))) static int ebb(const char *format, ...) {
  char arguments[1500], command[2100];
  va_list list;
  va_start(list, format);
  vsnprintf(arguments, sizeof arguments, format, list);
  va_end(list);
  snprintf(command, sizeof command, "%s %s 2>&1", program(), arguments);
  FILE *p = popen(command, "r");
  assert_non_null(p);
  output[fread(output, 1, sizeof output - 1, p)] = '\0';
  int status = pclose(p);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

#define OK(...)                                                                                              \
  do {                                                                                                       \
    if (ebb(__VA_ARGS__) != 0)                                                                               \
      fail_msg("%s", output);                                                                                \
  } while (0)
#define REFUSED(words, ...)                                                                                  \
  do {                                                                                                       \
    int code_ = ebb(__VA_ARGS__);                                                                            \
    if (code_ == 0 || code_ > 2 || !strstr(output, words))                                                   \
      fail_msg("code %d, expected '%s' in: %s", code_, words, output);                                       \
  } while (0)

static int make_run(void **state) {
  if (folder_make(state) != 0)
    return -1;
  char text[1200];
  snprintf(text, sizeof text,
           "name: test\nmodel: {path: tests/fixtures/models/wan-a}\n"
           "data: {format: intphys, path: %s, size: 32x32, frames: 9}\n"
           "prompt: {embedding: zeros, max_tokens: 2}\n"
           "inversion: {solver: euler, labels: noisy, steps: 6}\n"
           "capture: {steps: [0, 2, 4], blocks: all, points: [block_out], pool: [mean]}\n"
           "probe: {folds: 3, inner_folds: 2, bootstrap: 200}\nrun: {batch: 6, device: cpu}\n",
           at("data"));
  put_text(at("config.yaml"), text);
  OK("synth %s --quadruplets 6 --categories O1,O2 --size 32 --frames 9 --seed 3", at("data"));
  OK("invert %s --out %s", at("config.yaml"), at("run"));
  return 0;
}

static json_t *scene(const char *out, int video) {
  ebb_error err = {0};
  char *path = ebb_format("%s/scenes/%05d/surprise.json", at(out), video);
  json_t *doc = ebb_json_read(path, &err);
  if (!doc)
    fail_msg("%s", err.text);
  free(path);
  return doc;
}

static const json_t *change(const json_t *doc, const char *key) {
  const json_t *o = json_object_get(json_object_get(doc, "interventions"), key);
  if (!o)
    fail_msg("no intervention '%s'", key);
  return o;
}

static double number(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_number(v))
    fail_msg("\"%s\" is no number", key);
  return json_number_value(v);
}

static char *file(const char *folder_name, const char *name) {
  ebb_error err = {0};
  size_t bytes;
  char *text, *path = ebb_path_join(at(folder_name), name);
  if (!ebb_file_read(path, 1 << 24, &text, &bytes, &err))
    fail_msg("%s", err.text);
  free(path);
  return text;
}

static const char *const tables[] = {"interventions.csv", "summary.csv", "surprise_per_scene.csv",
                                     "surprise_per_block.csv"};

static void same_tables(const char *a, const char *b) {
  for (int i = 0; i < 4; i++) {
    char *x = file(a, tables[i]), *y = file(b, tables[i]);
    assert_string_equal(x, y);
    free(x);
    free(y);
  }
}

static int lines_of(const char *text) {
  int n = 0;
  for (; *text; text++)
    n += *text == '\n';
  return n;
}

/* ---- what a result is -------------------------------------------------------------------------------- */

static void test_alpha_0_shifts_nothing(void **state) {
  (void)state;
  OK("intervene %s --out %s --alpha 0,0.5 --directions noise,random,orthogonal,probe --draws 1 --scenes 3",
     at("run"), at("zero"));
  for (int video = 0; video < 2; video++) { /* one possible, one impossible */
    char *path = ebb_format("%s/scenes/%05d", at("zero"), video);
    assert_int_equal(ebb_is_there(path), video == 0);
    free(path);
  }
  json_t *doc = scene("zero", 0);
  const json_t *base = change(doc, "baseline");
  static const char *const kinds[] = {"noise", "random", "orthogonal", "probe"};
  for (int k = 0; k < 4; k++)
    for (int b = 0; b < 2; b++) {
      char nothing[64], something[64];
      snprintf(nothing, sizeof nothing, "%s b%d a0 d0", kinds[k], b);
      snprintf(something, sizeof something, "%s b%d a0.5 d0", kinds[k], b);
      static const char *const keys[] = {"surprise_over_blocks", "surprise_over_steps", "psnr"};
      for (int i = 0; i < 3; i++) {
        assert_true(number(change(doc, nothing), keys[i]) == number(base, keys[i]));
        assert_true(number(change(doc, something), keys[i]) != number(base, keys[i]));
      }
    }
  assert_true(number(doc, "inversion_difference") ==
              0); /* the scene's first inversion is the run's, bit by bit */
  json_decref(doc);
}

/* One solver on one grid both ways, float32 latents, no bfloat16 noise: with the exact inverse of the Euler step the
 * baseline is the video itself. */
static void test_defect_22_the_loop_closes(void **state) {
  (void)state;
  OK("invert %s --out %s --set inversion.solver=exact", at("config.yaml"), at("exact"));
  OK("intervene %s --out %s --blocks 0 --directions noise --draws 1 --scenes 2", at("exact"), at("closed"));
  OK("intervene %s --out %s --blocks 0 --directions noise --draws 1 --scenes 2", at("run"), at("open"));
  json_t *closed = scene("closed", 0), *open = scene("open", 0);
  const json_t *base = change(closed, "baseline"), *original = json_object_get(closed, "original");
  assert_true(number(base, "psnr") > 90);
  assert_true(number(change(open, "baseline"), "psnr") < 60); /* the approximate inverse, for comparison */
  assert_true(fabs(number(base, "surprise_over_blocks") - number(original, "surprise_over_blocks")) <
              1e-3 * (1 + fabs(number(original, "surprise_over_blocks"))));
  json_decref(closed);
  json_decref(open);
}

/* The official average over all blocks at one step dilutes; the paper's is over steps. Both are there, and are the
 * means of what stands beside them. */
static void test_defect_31_surprise_by_both_definitions(void **state) {
  (void)state;
  OK("intervene %s --out %s --step 2 --read-block 1 --directions noise --draws 2 --scenes 2", at("run"),
     at("both"));
  json_t *doc = scene("both", 0);
  const char *key;
  json_t *one;
  assert_int_equal(number(doc, "read_block"), 1);
  json_object_foreach(json_object_get(doc, "interventions"), key, one) {
    const json_t *blocks = json_object_get(one, "by_block"), *steps = json_object_get(one, "by_step");
    double over_blocks = 0, over_steps = 0;
    assert_int_equal(json_array_size(blocks), 2);
    assert_int_equal(json_array_size(steps), 3);
    for (size_t i = 0; i < 2; i++)
      over_blocks += json_number_value(json_array_get(blocks, i)) / 2;
    for (size_t i = 0; i < 3; i++)
      over_steps += json_number_value(json_array_get(steps, i)) / 3;
    assert_true(fabs(over_blocks - number(one, "surprise_over_blocks")) < 1e-9 * (1 + fabs(over_blocks)));
    assert_true(fabs(over_steps - number(one, "surprise_over_steps")) < 1e-9 * (1 + fabs(over_steps)));
    /* the cell that both have: block 1 at step 2 */
    assert_true(json_number_value(json_array_get(blocks, 1)) == json_number_value(json_array_get(steps, 1)));
  }
  json_decref(doc);
}

/* Several draws, control directions at the noise's norm, impossible scenes, quality beside plausibility, and a probe that
 * has not seen the scene. */
static void test_defect_21_draws_controls_and_quality(void **state) {
  (void)state;
  OK("intervene %s --out %s --all --draws 3 --blocks 1 --directions noise,random,orthogonal,probe --scenes 4",
     at("run"), at("controls"));
  char *all = file("controls", "interventions.csv"), *summary = file("controls", "summary.csv");
  assert_int_equal(lines_of(all), 1 + 4 * (1 + 3 * 3 + 1));
  assert_int_equal(lines_of(summary), 1 + 2 * 4); /* possible and impossible */
  assert_non_null(strstr(all, ",psnr,psnr_drop,"));
  assert_non_null(strstr(all, "O1/01/1,O1/01,O1,1,noise,1,,0.5,2,"));
  char *official = file("controls", "surprise_per_scene.csv");
  for (char *line = strchr(official, '\n'); line && line[1]; line = strchr(line + 1, '\n'))
    assert_int_equal(strncmp(line, "\nO1_01_", 7), 0);
  assert_int_equal(lines_of(official), 1 + 2); /* possible ones alone */
  json_t *doc = scene("controls", 0);
  assert_true(json_is_false(json_object_get(doc, "probe_trained_on_it")));
  double draws[3];
  for (int d = 0; d < 3; d++) {
    char key[64];
    snprintf(key, sizeof key, "noise b1 a0.5 d%d", d);
    draws[d] = number(change(doc, key), "surprise_over_steps");
  }
  assert_true(draws[0] != draws[1] && draws[1] != draws[2] && draws[0] != draws[2]);
  json_decref(doc);
  OK("intervene %s --out %s --probe released --draws 1 --blocks 1 --scenes 8", at("run"), at("released"));
  int trained = 0;
  for (int video = 0; video < 24; video++) {
    char *path = ebb_format("%s/scenes/%05d/surprise.json", at("released"), video);
    if (ebb_is_there(path)) {
      json_t *of = scene("released", video);
      trained += json_is_true(json_object_get(of, "probe_trained_on_it"));
      json_decref(of);
    }
    free(path);
  }
  assert_true(trained > 0); /* and it says so */
  free(all);
  free(summary);
  free(official);
}

/* White noise of equal damage: the quality that the block's noise has left, and another surprise. */
static void test_damage_has_the_quality_of_the_noise(void **state) {
  (void)state;
  for (int decode = 0; decode < 2; decode++) {
    const char *out = decode ? "damage-pixels" : "damage";
    OK("intervene %s --out %s --directions noise,damage --alpha 1 --draws 2 --scenes 2 %s", at("run"),
       at(out), decode ? "--decode" : "");
    json_t *doc = scene(out, 0);
    const double base = number(change(doc, "baseline"), "psnr");
    int damaged = 0;
    for (int b = 0; b < 2; b++)
      for (int d = 0; d < 2; d++) {
        char noise[64], damage[64];
        snprintf(noise, sizeof noise, "noise b%d a1 d%d", b, d);
        snprintf(damage, sizeof damage, "damage b%d a1 d%d", b, d);
        const double wanted = number(change(doc, noise), "psnr"), is = number(change(doc, damage), "psnr");
        assert_true(fabs(is - (wanted < base ? wanted : base)) < 1e-4);
        damaged += wanted < base;
        assert_true(number(change(doc, damage), "surprise_over_steps") !=
                    number(change(doc, noise), "surprise_over_steps"));
      }
    assert_true(decode || damaged > 0);
    json_decref(doc);
  }
}

/* A quality below 0 dB is one like any other, and no sign that the noise has failed. The fixture's last norm keeps its
 * noise above that, so it is written into the results that the command goes on from. */
static void test_damage_below_zero_decibels(void **state) {
  (void)state;
  const char *line = "intervene %s --out %s --directions %s --alpha 1 --draws 1 --scenes 1 --blocks 1";
  OK(line, at("run"), at("drowned"), "noise");
  json_t *doc = scene("drowned", 0);
  json_object_set_new((json_t *)change(doc, "noise b1 a1 d0"), "psnr", json_real(-3));
  assert_int_equal(json_dump_file(doc, at("drowned/scenes/00000/surprise.json"), 0), 0);
  json_decref(doc);
  OK(line, at("run"), at("drowned"), "noise,damage");
  doc = scene("drowned", 0);
  assert_true(fabs(number(change(doc, "damage b1 a1 d0"), "psnr") + 3) < 1e-3);
  json_decref(doc);
}

/* Steps may be given in any order. */
static void test_steps_in_any_order(void **state) {
  (void)state;
  static const char *const steps[] = {"0,4", "4,0"};
  static const char *const out[] = {"up", "down"};
  for (int i = 0; i < 2; i++)
    OK("intervene %s --out %s --steps %s --step 4 --directions noise --alpha 0.5 --draws 1 --scenes 1 "
       "--blocks 0",
       at("run"), at(out[i]), steps[i]);
  json_t *up = scene("up", 0), *down = scene("down", 0);
  assert_true(json_equal(up, down));
  json_decref(up);
  json_decref(down);
}

/* With a head masked in the inversion itself nothing is generated; without, it is the run's. */
static void test_the_inversion_can_be_tampered_with(void **state) {
  (void)state;
  OK("intervene %s --out %s --during inversion --directions noise --alpha 0,1 --draws 1 --heads 1:all --mask "
     "zero,resample --scenes 2",
     at("run"), at("inversion"));
  json_t *doc = scene("inversion", 0);
  const json_t *base = change(doc, "baseline"), *original = json_object_get(doc, "original");
  assert_true(json_equal(json_object_get(base, "by_block"), json_object_get(original, "by_block")));
  assert_true(json_equal(json_object_get(base, "by_step"), json_object_get(original, "by_step")));
  assert_null(json_object_get(base, "psnr"));
  static const char *const same[] = {"noise b0 a0 d0", "noise b1 a0 d0"};
  static const char *const other[] = {"noise b1 a1 d0", "zero b1 all d0", "resample b1 all d0"};
  for (int i = 0; i < 2; i++)
    assert_true(
        json_equal(json_object_get(base, "by_step"), json_object_get(change(doc, same[i]), "by_step")));
  for (int i = 0; i < 3; i++)
    assert_false(
        json_equal(json_object_get(base, "by_step"), json_object_get(change(doc, other[i]), "by_step")));
  OK("intervene %s --out %s --during inversion --directions none --draws 1 --heads 1:all --mask resample "
     "--scenes 1 "
     "--batch 2",
     at("run"), at("inversion-2"));
  json_t *alone = scene("inversion-2", 0);
  assert_true(json_equal(change(alone, "resample b1 all d0"), change(doc, "resample b1 all d0")));
  json_decref(alone);
  json_decref(doc);
}

/* The probe that reads a scene is the same whatever its group's features are: it has not seen them. */
static void test_strict_probes_do_not_know_the_scene(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_store store;
  ebb_config k;
  ebb_context c;
  ebb_crossfit before, after;
  const ebb_int_list steps = {2, {2, 4}};
  ebb_config_defaults(&k);
  strcpy(k.probe.preset, "strict");
  k.probe.folds = 3;
  k.probe.inner_folds = 2;
  if (!ebb_context_open(&c, "cpu", &err) || !ebb_store_open(&store, at("run"), &err) ||
      !ebb_crossfit_make(&before, &store, &k, "transformer", "block_out.mean", &steps, &c, &err))
    fail_msg("%s", err.text);
  for (int64_t v = 0; v < store.video_count; v++) /* its group's labels turned over */
    if (strcmp(store.videos[v].group, store.videos[0].group) == 0)
      store.videos[v].label = store.videos[v].label == EBB_POSSIBLE ? EBB_IMPOSSIBLE : EBB_POSSIBLE;
  if (!ebb_crossfit_make(&after, &store, &k, "transformer", "block_out.mean", &steps, &c, &err))
    fail_msg("%s", err.text);
  int others = 0;
  for (int64_t v = 0; v < store.video_count; v++) {
    assert_true(before.fit[v] >= 0 && before.fit[v] == after.fit[v] && !before.trained[v]);
    const double *w = ebb_crossfit_weights(&before, v, 1, 1), *u = ebb_crossfit_weights(&after, v, 1, 1);
    const bool same = memcmp(w, u, (size_t)(before.width + 1) * sizeof *w) == 0;
    if (before.fit[v] == before.fit[0])
      assert_true(same);
    else
      others += !same;
  }
  assert_true(others > 0); /* those that were trained on it have changed */
  assert_string_not_equal(before.sha256, after.sha256);
  ebb_crossfit_free(&before);
  ebb_crossfit_free(&after);
  ebb_store_close(&store);
  ebb_context_close(&c);
}

/* ---- what it may hang on ----------------------------------------------------------------------------- */

#define WIDE "--draws 2 --scenes 4 --heads each --mask zero,mean,resample"

static void test_defect_30_lists_and_batches_do_not_matter(void **state) {
  (void)state;
  OK("intervene %s --out %s " WIDE, at("run"), at("wide"));
  OK("intervene %s --out %s --draws 1 --scenes 2 --blocks 1 --directions random,noise --heads 1:2 --mask "
     "resample "
     "--batch 2",
     at("run"), at("narrow"));
  json_t *wide = scene("wide", 0), *narrow = scene("narrow", 0), *one;
  const char *key;
  int compared = 0;
  json_object_foreach(json_object_get(narrow, "interventions"), key, one) {
    assert_true(json_equal(one, change(wide, key)));
    compared++;
  }
  assert_int_equal(compared, 4);
  json_decref(wide);
  json_decref(narrow);
}

static int count_done(const char *out) {
  int done = 0;
  for (int video = 0; video < 48; video++) {
    char *path = ebb_format("%s/scenes/%05d/surprise.json", at(out), video);
    if (ebb_is_there(path)) {
      json_t *doc = scene(out, video);
      done += (int)json_object_size(json_object_get(doc, "interventions"));
      json_decref(doc);
    }
    free(path);
  }
  return done;
}

static void test_killed_and_resumed_it_is_the_same(void **state) {
  (void)state;
  const int all = 4 * (1 + 3 * 2 * 2 + 2 * 3 * (1 + 1 + 2));
  char *run = strdup(at("run")), *out = strdup(at("killed"));
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    dup2(null, 2);
    execl(program(), "ebb", "intervene", run, "--out", out, "--draws", "2", "--scenes", "4", "--heads",
          "each", "--mask", "zero,mean,resample", "--batch", "2", (char *)NULL);
    _exit(127);
  }
  int status = 0;
  for (int i = 0; i < 60000 && count_done("killed") < 3 && waitpid(child, &status, WNOHANG) == 0; i++)
    usleep(1000);
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  const int done = count_done("killed");
  print_message("killed after %d of %d\n", done, all);
  assert_true(done >= 3 && done < all);
  char *table = ebb_path_join(at("killed"), "interventions.csv");
  assert_false(ebb_is_there(table));
  free(table);
  OK("intervene %s --out %s " WIDE, at("run"), at("killed"));
  assert_int_equal(count_done("killed"), all);
  same_tables("killed", "wide"); /* of the test before */
  OK("intervene %s --out %s " WIDE, at("run"), at("killed"));
  same_tables("killed", "wide");
  free(run);
  free(out);
}

/* ---- what is refused --------------------------------------------------------------------------------- */

/* The official code looks for a checkpoint by name and may find another run's; here results carry the hashes of what
 * made them, and are not continued with anything else. */
static void test_defect_12_results_know_their_probe_and_weights(void **state) {
  (void)state;
  OK("intervene %s --out %s --directions noise --draws 1 --scenes 1", at("run"), at("known"));
  json_t *doc = scene("known", 0);
  static const char *const hashes[] = {"transformer_sha256", "vae_sha256", "probe_sha256"};
  for (int i = 0; i < 3; i++)
    assert_int_equal(strlen(json_string_value(json_object_get(doc, hashes[i]))), 64);
  json_decref(doc);
  REFUSED("another probe (\"strict\", now \"released\")",
          "intervene %s --out %s --probe released --directions noise --draws 1 --scenes 1", at("run"),
          at("known"));
  REFUSED("another seed (0, now 1)", "intervene %s --out %s --seed 1 --directions noise --draws 1 --scenes 1",
          at("run"), at("known"));
  REFUSED("another decode", "intervene %s --out %s --decode --directions noise --scenes 1", at("run"),
          at("known"));
  OK("invert %s --out %s --set inversion.steps=7", at("config.yaml"), at("other"));
  REFUSED("another index_sha256", "intervene %s --out %s --directions noise --scenes 1", at("other"),
          at("known"));
  /* the run's model with one weight changed */
  char command[2400], model[300], changed[300];
  snprintf(model, sizeof model, "%s", at("model"));
  snprintf(changed, sizeof changed, "%s", at("changed"));
  snprintf(command, sizeof command,
           "cp -r tests/fixtures/models/wan-a %s && f=$(ls %s/transformer/*.safetensors | head -1) && "
           "printf '\\100' | dd of=$f bs=1 seek=$(($(stat -c %%s $f) - 1)) conv=notrunc 2>/dev/null && "
           "cp -r %s %s && sed -i 's|path: .*wan-a.*|path: %s|' %s/config.yaml",
           model, model, at("run"), changed, model, changed);
  assert_int_equal(system(command), 0);
  REFUSED("the run was made with other weights of 'transformer'",
          "intervene %s --directions noise --scenes 1", at("changed"));
}

static void test_errors_say_what_is_wrong(void **state) {
  (void)state;
  const char *run = strdup(at("run"));
  REFUSED("--blocks: found '2', expected all or numbers from 0 to 1", "intervene %s --blocks 2", run);
  REFUSED("--blocks: 1 is listed twice", "intervene %s --blocks 1,1", run);
  REFUSED("--alpha: found '0.5,-1'", "intervene %s --alpha 0.5,-1", run);
  REFUSED("generates nothing: expected no --decode and no damage", "intervene %s --during inversion --decode",
          run);
  REFUSED("found damage without noise", "intervene %s --directions damage", run);
  REFUSED("expected none, or a list of noise, random, orthogonal, probe, damage",
          "intervene %s --directions nose", run);
  REFUSED("expected none, or a list of zero, mean, resample", "intervene %s --heads each --mask one", run);
  REFUSED("--heads: found '0:3'", "intervene %s --heads 0:3", run);
  REFUSED("'mean b0 h1 d0' is asked for twice", "intervene %s --heads each --heads 0:1", run);
  REFUSED("nothing to change", "intervene %s --directions none", run);
  REFUSED("step 3 was not captured in this run", "intervene %s --steps 0,3 --step 0", run);
  REFUSED("--step: step 3 is not among those that are read", "intervene %s --step 3", run);
  REFUSED("--read-block: block 2 was not captured", "intervene %s --read-block 2", run);
  REFUSED("--shard: found 2, expected less than --shards, 2", "intervene %s --shard 2 --shards 2", run);
  REFUSED("batches of 1 cannot hold a trial and the scenes its heads come from",
          "intervene %s --out %s --batch 1 --directions none --heads 0:0 --mask resample --scenes 1", run,
          at("small"));
  free((char *)run);
}

/* On a GPU in both dtypes: alpha 0 shifts nothing, no result hangs on its batch, and in float32 the noise is the CPU's, so
 * that a generation under it is, up to rounding. */
static void test_on_a_gpu(void **state) {
  (void)state;
  skip_without_cuda();
  static const char *const dtypes[] = {"float32", "bfloat16"};
  for (int i = 0; i < 2; i++) {
    char run[300], wide[300], narrow[300];
    snprintf(run, sizeof run, "%s-%s", at("cuda"), dtypes[i]);
    snprintf(wide, sizeof wide, "%s-%s", at("cuda-wide"), dtypes[i]);
    snprintf(narrow, sizeof narrow, "%s-%s", at("cuda-narrow"), dtypes[i]);
    OK("invert %s --out %s --device cuda --set model.dtype=%s", at("config.yaml"), run, dtypes[i]);
    OK("intervene %s --out %s --draws 1 --scenes 3 --alpha 0,0.5 --heads each --mask zero,mean,resample", run,
       wide);
    OK("intervene %s --out %s --draws 1 --scenes 1 --blocks 1 --directions noise --alpha 0.5 --heads 0:1 "
       "--mask resample "
       "--batch 2",
       run, narrow);
    json_t *a = scene(strrchr(wide, '/') + 1, 0), *b = scene(strrchr(narrow, '/') + 1, 0), *one;
    const char *key;
    assert_true(number(change(a, "noise b0 a0 d0"), "surprise_over_steps") ==
                number(change(a, "baseline"), "surprise_over_steps"));
    json_object_foreach(json_object_get(b, "interventions"), key, one)
        assert_true(json_equal(one, change(a, key)));
    if (i == 0) {
      OK("intervene %s --out %s --draws 1 --scenes 1 --directions noise", at("run"), at("cpu-beside"));
      json_t *cpu = scene("cpu-beside", 0);
      assert_true(fabs(number(change(a, "noise b1 a0.5 d0"), "psnr") -
                       number(change(cpu, "noise b1 a0.5 d0"), "psnr")) < 1e-2);
      json_decref(cpu);
    }
    json_decref(a);
    json_decref(b);
  }
}

static void test_through_pixels_and_in_shards(void **state) {
  (void)state;
  pid_t child[2]; /* at the same time, as on two machines */
  for (int shard = 0; shard < 2; shard++) {
    child[shard] = fork();
    assert_true(child[shard] >= 0);
    if (child[shard] == 0)
      _exit(
          ebb("intervene %s --out %s --decode --blocks 0 --draws 1 --directions noise --shard %d --shards 2",
              at("run"), at("sharded"), shard));
  }
  for (int shard = 0; shard < 2; shard++) {
    int status;
    assert_int_equal(waitpid(child[shard], &status, 0), child[shard]);
    assert_int_equal(status, 0);
  }
  OK("intervene %s --out %s --decode --blocks 0 --draws 1 --directions noise --batch 5", at("run"),
     at("whole"));
  same_tables("sharded", "whole");
  char *all = file("whole", "interventions.csv");
  assert_int_equal(lines_of(all), 1 + 24 * 2); /* every possible scene: the baseline and one */
  free(all);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_alpha_0_shifts_nothing),
      cmocka_unit_test(test_defect_22_the_loop_closes),
      cmocka_unit_test(test_defect_31_surprise_by_both_definitions),
      cmocka_unit_test(test_defect_21_draws_controls_and_quality),
      cmocka_unit_test(test_damage_has_the_quality_of_the_noise),
      cmocka_unit_test(test_damage_below_zero_decibels),
      cmocka_unit_test(test_steps_in_any_order),
      cmocka_unit_test(test_the_inversion_can_be_tampered_with),
      cmocka_unit_test(test_strict_probes_do_not_know_the_scene),
      cmocka_unit_test(test_defect_30_lists_and_batches_do_not_matter),
      cmocka_unit_test(test_killed_and_resumed_it_is_the_same),
      cmocka_unit_test(test_defect_12_results_know_their_probe_and_weights),
      cmocka_unit_test(test_errors_say_what_is_wrong),
      cmocka_unit_test(test_through_pixels_and_in_shards),
      cmocka_unit_test(test_on_a_gpu),
  };
  return cmocka_run_group_tests_name("intervene", tests, make_run, folder_remove);
}
