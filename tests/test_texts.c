/* tier: host Embeddings in a file, and runs that are conditioned on them: on one text, on a text of each
 * video's own, on a negative one. The model is a random one with a random text encoder beside it. */
#include "engine/texts.h"

#include "engine/eval.h"
#include "engine/fidelity_run.h"
#include "engine/job.h"
#include "engine/prompts.h"
#include "engine/reconstruct.h"
#include "engine/trials.h"
#include "loaders/file.h"
#include "loaders/safetensors.h"
#include "loaders/store.h"
#include "loaders/synth.h"
#include "loaders/tokenizer.h"
#include "tests/test_files.h"

#include <math.h>

#define FIXTURES "tests/fixtures/models"
#define TRIAL_FLOATS 120 /* blocks x width */

static FILE *quiet;
static char model[300], data[300], cwd[200];

static void link_to(const char *from, const char *name) {
  char target[600], path[600];
  snprintf(target, sizeof target, "%s/" FIXTURES "/%s/%s", cwd, from, name);
  snprintf(path, sizeof path, "%s/%s", model, name);
  assert_int_equal(symlink(target, path), 0);
}

/* A model folder with all its parts, and a data set of eight videos. */
static int make_all(void **state) {
  ebb_error err = {0};
  if (folder_make(state) != 0 || !getcwd(cwd, sizeof cwd))
    return -1;
  quiet = fopen("/dev/null", "w");
  snprintf(model, sizeof model, "%s/model", folder);
  snprintf(data, sizeof data, "%s/data", folder);
  if (!ebb_make_folders(model, &err))
    return -1;
  static const char *const parts[][2] = {{"wan-a", "transformer"}, {"wan-a", "vae"},
                                         {"wan-a", "scheduler"},   {"text-b", "text_encoder"},
                                         {"text-b", "tokenizer"},  {"text-b", "model_index.json"}};
  for (int i = 0; i < 6; i++)
    link_to(parts[i][0], parts[i][1]);
  const ebb_synth_options world = {3, 32, 9};
  return ebb_synth_intphys(data, "O1", 2, &world, &err) ? 0 : -1;
}

static int remove_all(void **state) {
  fclose(quiet);
  return folder_remove(state);
}

static void need_tokenizer(void) {
  if (!ebb_tokenizer_built_in())
    skip();
}

/* ---- the file ---------------------------------------------------------------------------------------- */

static void encode(ebb_texts *t, int64_t max_tokens, int count, const char *const *prompts) {
  ebb_error err = {0};
  ebb_context c;
  if (!ebb_texts_open(t, model, max_tokens, &err) || !ebb_context_open(&c, "cpu", &err))
    fail_msg("%s", err.text);
  for (int i = 0; i < count; i++)
    assert_true(ebb_texts_add(t, prompts[i], &err) >= 0);
  if (!ebb_texts_encode(t, model, &c, "float32", false, quiet, &err))
    fail_msg("%s", err.text);
  ebb_context_close(&c);
}

static const char *const prompts[] = {"", "A red ball rolls.", "the cube vanishes behind the wall",
                                      "A  red&nbsp;ball rolls."};

static void a_file_gives_back_what_was_put_in(void **state) {
  (void)state;
  need_tokenizer();
  ebb_error err = {0};
  ebb_texts t, back;
  encode(&t, 20, 4, prompts);
  assert_int_equal(t.count, 3); /* two are the same when cleaned */
  if (!ebb_texts_write(&t, at("cache"), &err) || !ebb_texts_read(&back, at("cache"), &err))
    fail_msg("%s", err.text);
  assert_true(ebb_texts_is_file(at("cache")) && !ebb_texts_is_file(at("nothing")));
  assert_int_equal(back.count, 3);
  assert_true(back.max_tokens == 20 && back.width == 24 && back.trimmed && back.cleaned);
  assert_string_equal(back.encoder, "UMT5EncoderModel");
  assert_string_equal(back.encoder_sha256, t.encoder_sha256);
  assert_string_equal(back.tokenizer_sha256, t.tokenizer_sha256);
  for (int64_t i = 0; i < 3; i++) {
    float one[20 * 24], other[20 * 24];
    const int64_t n = ebb_texts_find(&back, t.entries[i].given, &err);
    assert_true(n >= 0);
    assert_int_equal(back.entries[n].length, t.entries[i].length);
    ebb_texts_states(&t, i, one);
    ebb_texts_states(&back, n, other);
    assert_memory_equal(one, other, sizeof one);
    for (int64_t at_ = t.entries[i].length * 24; at_ < 20 * 24; at_++)
      assert_true(one[at_] == 0); /* as WanPipeline pads */
    assert_true(one[0] != 0);
  }
  assert_int_equal(ebb_texts_find(&back, "another", &err), -1);
  assert_fine(&err);
  if (!ebb_texts_write(&back, at("again"),
                       &err)) /* the same texts, the same bytes, in whatever order they came */
    fail_msg("%s", err.text);
  char first[65], second[65];
  assert_true(ebb_file_sha256(at("cache"), first, &err) && ebb_file_sha256(at("again"), second, &err));
  assert_string_equal(first, second);
  ebb_texts_free(&back);
  ebb_texts_free(&t);
}

/* Every number that stands for a text hangs on encoder, tokenizer, length and words. */
static void a_key_is_of_all_that_matters(void **state) {
  (void)state;
  ebb_texts t = {.max_tokens = 512};
  char keys[5][65];
  memset(t.encoder_sha256, 'a', 64);
  memset(t.tokenizer_sha256, 'b', 64);
  ebb_texts_key(&t, "a ball", keys[0]);
  ebb_texts_key(&t, "a  ball", keys[1]);
  t.max_tokens = 226;
  ebb_texts_key(&t, "a ball", keys[2]);
  t.max_tokens = 512;
  t.encoder_sha256[5] = 'c';
  ebb_texts_key(&t, "a ball", keys[3]);
  t.encoder_sha256[5] = 'a';
  t.tokenizer_sha256[5] = 'c';
  ebb_texts_key(&t, "a ball", keys[4]);
  for (int i = 0; i < 5; i++)
    for (int j = 0; j < i; j++)
      assert_string_not_equal(keys[i], keys[j]);
}

/* One byte of a text in the file: its name says so. */
static void a_changed_file_is_told(void **state) {
  (void)state;
  need_tokenizer();
  ebb_error err = {0};
  ebb_texts t;
  char *bytes;
  size_t count;
  encode(&t, 20, 4, prompts);
  assert_true(ebb_texts_write(&t, at("cache"), &err));
  ebb_texts_free(&t);
  static const struct {
    const char *find, *put, *says;
  } changes[] = {{"A red ball", "A bad ball", "the file was changed"},
                 {"\"max_tokens\":\"20\"", "\"max_tokens\":\"21\"", "the file was changed"},
                 {"ebb texts 1", "ebb texts 9", "the format is \"ebb texts 9\""},
                 {"WanPipeline", "FoxPipeline", "expected one of Wan, CogVideoX or LTX"},
                 {"\"encoder\"", "\"encodes\"", "metadata \"encoder\" is missing"},
                 {"\"text.", "\"next.", "has no text in the metadata"},
                 {"\"length.", "\"lengts.", "expected a number from 1 to 20"}};
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
    assert_true(ebb_file_read(at("cache"), 1 << 20, &bytes, &count, &err));
    char *found = memmem(bytes, count, changes[i].find, strlen(changes[i].find));
    assert_non_null(found);
    memcpy(found, changes[i].put, strlen(changes[i].put));
    put(at("changed"), bytes, count);
    free(bytes);
    assert_false(ebb_texts_read(&t, at("changed"), &err));
    assert_int_equal(t.count, 0);
    assert_says(&err, changes[i].says);
  }
  assert_true(
      ebb_file_read(at("cache"), 1 << 20, &bytes, &count, &err)); /* and one number of a text's states */
  bytes[count - 3] ^= 1;
  put(at("changed"), bytes, count);
  free(bytes);
  assert_false(ebb_texts_read(&t, at("changed"), &err));
  assert_says(&err, "the states of");
}

static void encoding_again_adds_what_is_new(void **state) {
  (void)state;
  need_tokenizer();
  ebb_error err = {0};
  ebb_texts t, all;
  ebb_context c;
  encode(&t, 20, 2, prompts);
  assert_true(ebb_texts_write(&t, at("part"), &err));
  ebb_texts_free(&t);
  assert_true(ebb_texts_read(&t, at("part"), &err) && ebb_context_open(&c, "cpu", &err));
  assert_int_equal(ebb_texts_add(&t, " A red ball   rolls.", &err), ebb_texts_find(&t, prompts[1], &err));
  assert_int_equal(ebb_texts_add(&t, prompts[2], &err), 2);
  if (!ebb_texts_encode(&t, model, &c, "float32", false, quiet, &err) ||
      !ebb_texts_write(&t, at("part"), &err))
    fail_msg("%s", err.text);
  encode(&all, 20, 4, prompts);
  assert_true(ebb_texts_write(&all, at("all"), &err));
  char first[65], second[65];
  assert_true(ebb_file_sha256(at("part"), first, &err) && ebb_file_sha256(at("all"), second, &err));
  assert_string_equal(first, second);
  t.encoder_sha256[0] = t.encoder_sha256[0] == '0' ? '1' : '0'; /* as if another encoder had made them */
  assert_int_equal(ebb_texts_add(&t, "one more", &err), 3);
  assert_false(ebb_texts_encode(&t, model, &c, "float32", false, quiet, &err));
  assert_says(&err, "the encoder is not the one that the embeddings were made with");
  t.tokenizer_sha256[0] = t.tokenizer_sha256[0] == '0' ? '1' : '0';
  assert_false(ebb_texts_encode(&t, model, &c, "float32", false, quiet, &err));
  assert_says(&err, "the tokenizer is not the one");
  ebb_context_close(&c);
  ebb_texts_free(&all);
  ebb_texts_free(&t);
}

/* ---- runs -------------------------------------------------------------------------------------------- */

static ebb_config config_for(const char *out) {
  ebb_config k;
  ebb_config_defaults(&k);
  strcpy(k.model.path, model);
  strcpy(k.data.path, data);
  k.data.height = k.data.width = 32;
  k.data.frames = 5;
  k.prompt.max_tokens = 20;
  k.inversion.steps = 2;
  k.capture.steps = (ebb_int_list){1, {1}};
  k.run.batch = 3;
  strcpy(k.run.device, "cpu");
  snprintf(k.run.out, sizeof k.run.out, "%s/%s", folder, out);
  return k;
}

/* A run, and before it a dry one, which encodes nothing and still says what the run takes. */
static void run(const ebb_config *k, ebb_store *store) {
  ebb_error err = {0};
  ebb_job_result planned, result;
  ebb_job_options options = {.version = "test", .log = quiet, .dry_run = true};
  if (!ebb_job_invert(k, &options, &planned, &err))
    fail_msg("%s", err.text);
  assert_false(ebb_is_there(k->run.out));
  options.dry_run = false;
  if (!ebb_job_invert(k, &options, &result, &err) || !ebb_store_open(store, k->run.out, &err))
    fail_msg("%s", err.text);
  assert_int_equal(result.failed, 0);
  assert_memory_equal(&planned.planned, &result.planned, sizeof planned.planned);
  assert_true(result.used.weights <= result.planned.weights &&
              result.used.activations <= result.planned.activations);
}

static void run_fails(const ebb_config *k, const char *says) {
  ebb_error err = {0};
  ebb_job_result result;
  const ebb_job_options options = {.version = "test", .log = quiet};
  assert_false(ebb_job_invert(k, &options, &result, &err));
  assert_says(&err, says);
}

/* block_out.mean of all videos in all blocks at the captured step. */
static float *features_of(const ebb_store *s, const char *set_name, int64_t *count) {
  ebb_error err = {0};
  const int set = ebb_store_find(s, set_name), f = ebb_store_feature(&s->sets[set], "block_out.mean");
  const int64_t width = ebb_store_width(&s->sets[set].features[f]), blocks = s->sets[set].block_count;
  float *x = malloc((size_t)(s->video_count * width * blocks) * sizeof *x);
  for (int64_t v = 0; v < s->video_count; v++)
    for (int64_t b = 0; b < blocks; b++)
      if (!ebb_store_gather(s, set, f, 0, (int)b, EBB_ALL_HEADS, 1, &v, x + (v * blocks + b) * width, &err))
        fail_msg("%s", err.text);
  *count = s->video_count * width * blocks;
  return x;
}

static double off(const float *x, const float *y, int64_t n) {
  double d = 0, norm = 0;
  for (int64_t i = 0; i < n; i++) {
    d += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    norm += (double)y[i] * y[i];
  }
  return sqrt(d / norm);
}

static double distance(const ebb_store *a, const ebb_store *b, const char *set) {
  int64_t n, m;
  float *x = features_of(a, set, &n), *y = features_of(b, set, &m);
  assert_int_equal(n, m);
  const double d = off(x, y, n);
  free(x);
  free(y);
  return d;
}

static void alike_where_told_alike(const ebb_store *each, const ebb_store *alone, const char *set,
                                   const char *const texts[8], const char *text) {
  int64_t n, m;
  float *got = features_of(each, set, &n), *want = features_of(alone, set, &m);
  assert_int_equal(n, m);
  for (int v = 0; v < 8; v++) {
    const double error = off(got + v * n / 8, want + v * n / 8, n / 8);
    if (strcmp(texts[v], text) == 0 ? error > 1e-5 : error < 1e-4)
      fail_msg("%s: video %d with \"%s\" is %.1e from the run with \"%s\"", set, v, texts[v], error, text);
  }
  free(got);
  free(want);
}

static const json_t *told(const ebb_store *s, const char *key) {
  return json_object_get(json_object_get(json_object_get(s->index, "provenance"), "prompts"), key);
}

/* From the encoder itself, from a file of `ebb text embed`, and from `ebb eval text`: the same bytes. Zeros:
 * others. */
static void one_text_from_anywhere(void **state) {
  (void)state;
  need_tokenizer();
  ebb_error err = {0};
  ebb_store encoder, cache, file, zeros;
  ebb_texts t;
  encode(&t, 20, 4, prompts);
  assert_true(ebb_texts_write(&t, at("cache"), &err));
  ebb_texts_free(&t);
  const char *const one[] = {"A red  ball rolls."};
  const ebb_eval_text_options text = {model, at("single"), "cpu", "float32", 1, one, 20, quiet};
  if (!ebb_eval_text(&text, &err))
    fail_msg("%s", err.text);
  ebb_config k = config_for("encoder");
  strcpy(k.prompt.text, " A red &#98;all\trolls.");
  run(&k, &encoder);
  strcpy(k.prompt.embedding, at("cache"));
  snprintf(k.run.out, sizeof k.run.out, "%s/cache-run", folder);
  run(&k, &cache);
  k = config_for("file");
  strcpy(k.prompt.embedding, at("single"));
  run(&k, &file);
  k = config_for("zeros");
  strcpy(k.prompt.embedding, "zeros");
  run(&k, &zeros);
  assert_true(distance(&encoder, &cache, "transformer") == 0);
  assert_true(distance(&encoder, &file, "transformer") == 0);
  assert_true(distance(&encoder, &zeros, "transformer") > 1e-4);
  assert_string_equal(json_string_value(told(&encoder, "source")), "encoder");
  assert_string_equal(json_string_value(told(&cache, "source")), "cache");
  assert_string_equal(json_string_value(told(&file, "source")), "file");
  assert_string_equal(json_string_value(told(&zeros, "source")), "zeros");
  for (int i = 0; i < 2; i++) {
    const ebb_store *s = i ? &cache : &encoder;
    const json_t *of = told(s, "text");
    assert_string_equal(json_string_value(json_object_get(of, "given")), " A red &#98;all\trolls.");
    assert_string_equal(json_string_value(json_object_get(of, "cleaned")), "A red ball rolls.");
    assert_int_equal(strlen(json_string_value(json_object_get(of, "sha256"))), 64);
    assert_true(json_integer_value(json_object_get(of, "length")) > 2);
    assert_int_equal(json_integer_value(told(s, "max_tokens")), 20);
    assert_string_equal(json_string_value(told(s, "pipeline")), "WanPipeline");
    assert_int_equal(strlen(json_string_value(told(s, "encoder_sha256"))), 64);
    assert_int_equal(strlen(json_string_value(told(s, "tokenizer_sha256"))), 64);
    assert_true(json_is_null(told(s, "negative")));
  }
  ebb_store *all[] = {&encoder, &cache, &file, &zeros};
  for (int i = 0; i < 4; i++)
    ebb_store_close(all[i]);
}

/* Defect 29: the length of a text is part of the velocity field. It is the experiment's for every source,
 * recorded, and a file of another length is an error. */
static void defect_29_one_length_for_all(void **state) {
  (void)state;
  need_tokenizer();
  ebb_error err = {0};
  ebb_store shorter, longer;
  ebb_config k = config_for("226");
  k.prompt.max_tokens = 226;
  run(&k, &shorter);
  k = config_for("512");
  k.prompt.max_tokens = 512;
  run(&k, &longer);
  assert_true(distance(&shorter, &longer, "transformer") > 1e-6);
  assert_int_equal(json_integer_value(told(&shorter, "max_tokens")), 226);
  assert_int_equal(json_integer_value(told(&longer, "max_tokens")), 512);
  ebb_config defaults;
  ebb_config_defaults(&defaults);
  assert_int_equal(defaults.prompt.max_tokens, 512);
  ebb_store_close(&shorter);
  ebb_store_close(&longer);
  ebb_texts t;
  encode(&t, 226, 1, prompts);
  assert_true(ebb_texts_write(&t, at("short"), &err));
  ebb_texts_free(&t);
  k = config_for("mixed");
  k.prompt.max_tokens = 512;
  strcpy(k.prompt.embedding, at("short"));
  run_fails(&k, "texts of 226 tokens, prompt.max_tokens is 512");
}

/* Videos 1 to 8 as a manifest with prompts; an empty cell is the empty prompt. */
static void write_manifest(const char *name, const char *const texts[8]) {
  FILE *f = fopen(at(name), "w");
  assert_non_null(f);
  fprintf(f, "id,path,label,group,prompt\n");
  for (int i = 0; i < 8; i++)
    fprintf(f, "v%d,data/O1/%02d/%d/scene,%d,g%d,%s\n", i, i / 4 + 1, i % 4 + 1, i % 2, i / 4, texts[i]);
  assert_int_equal(fclose(f), 0);
}

/* A text of each video's own gives each video what a run with that text alone gives it, to rounding, inverted and
 * noised. */
static void texts_of_videos(void **state) {
  (void)state;
  need_tokenizer();
  static const char *const texts[8] = {"A red ball rolls.", "the cube", "", "A red ball rolls.", "a wall",
                                       "the cube",          "",         ""};
  static const char *const distinct[] = {"A red ball rolls.", "the cube", "", "a wall"};
  ebb_store each, alone;
  write_manifest("manifest.csv", texts);
  ebb_config k = config_for("each");
  strcpy(k.data.format, "manifest");
  strcpy(k.data.path, at("manifest.csv"));
  strcpy(k.prompt.text, "of no video");
  strcpy(k.inversion.method, "both");
  k.run.batch = 7; /* a last batch of one video */
  run(&k, &each);
  assert_true(json_is_true(told(&each, "per_video")));
  assert_int_equal(json_array_size(told(&each, "videos")), 4);
  for (int i = 0; i < 4; i++) {
    char out[32];
    snprintf(out, sizeof out, "alone%d", i);
    ebb_config a = config_for(out);
    strcpy(a.data.format, "manifest");
    strcpy(a.data.path, at("manifest.csv"));
    strcpy(a.prompt.text, distinct[i]);
    a.prompt.per_video = false;
    strcpy(a.inversion.method, "both");
    run(&a, &alone);
    assert_true(json_is_false(told(&alone, "per_video")));
    alike_where_told_alike(&each, &alone, "transformer", texts, distinct[i]);
    alike_where_told_alike(&each, &alone, "transformer.noise", texts, distinct[i]);
    ebb_store_close(&alone);
  }
  ebb_store_close(&each);
}

static bool keep_features(void *user, int64_t number, const ebb_trial_result *r, bool last, ebb_error *err) {
  (void)last;
  if (r->failure)
    return ebb_fail(err, "%s", r->failure);
  memcpy((float *)user + number * TRIAL_FLOATS, r->features, TRIAL_FLOATS * sizeof(float));
  return true;
}

/* Eight scenes, then each with a head of the next one's. */
static void try_all(const ebb_config *k, float *features) {
  ebb_error err = {0};
  ebb_trials *t;
  const ebb_trials_options how = {
      .feature = "block_out.mean", .steps = k->capture.steps, .batch = 4, .log = quiet};
  const int64_t videos[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  ebb_edit_head heads[8];
  ebb_trial trials[8];
  for (int i = 0; i < 8; i++) {
    heads[i] = (ebb_edit_head){.block = 0, .head = 1, .source = (i + 1) % 8};
    trials[i] = (ebb_trial){.scene = i, .change = {.block = -1, .head_count = 1, .heads = &heads[i]}, .psnr = NAN};
  }
  if (!ebb_trials_open(&t, k, &how, &err))
    fail_msg("%s", err.text);
  assert_int_equal(ebb_tap_slot_floats(ebb_trials_plan(t), 0), TRIAL_FLOATS);
  if (!ebb_trials_load(t, 8, videos, keep_features, features, &err) ||
      !ebb_trials_run(t, 8, trials, keep_features, features + 8 * TRIAL_FLOATS, &err))
    fail_msg("%s", err.text);
  ebb_trials_close(&t);
}

/* Trials tell a scene, and the scene its head comes from, each its own text; what is measured on one says so. */
static void trials_on_texts_of_videos(void **state) {
  (void)state;
  need_tokenizer();
  static const char *const texts[8] = {"a wall", "the cube", "the cube", "a wall",
                                       "a wall", "the cube", "a wall",   "the cube"};
  static float each[16 * TRIAL_FLOATS], alone[16 * TRIAL_FLOATS];
  write_manifest("trials.csv", texts);
  ebb_config k = config_for("trials");
  strcpy(k.data.format, "manifest");
  strcpy(k.data.path, at("trials.csv"));
  try_all(&k, each);
  ebb_error err = {0};
  ebb_fidelity fidelity; /* a measurement of solvers, not of texts */
  const ebb_fidelity_options measured = {.local = "none", .log = quiet};
  assert_false(ebb_fidelity_run(&k, &measured, &fidelity, &err));
  assert_says(&err, "(--set prompt.per_video=false)");
  ebb_fidelity_free(&fidelity);
  k.prompt.per_video = false;
  strcpy(k.prompt.text, "the cube");
  try_all(&k, alone);
  for (int i = 0; i < 16; i++) {
    const bool same =
        strcmp(texts[i % 8], "the cube") == 0 && (i < 8 || strcmp(texts[(i + 1) % 8], "the cube") == 0);
    const double error = off(each + i * TRIAL_FLOATS, alone + i * TRIAL_FLOATS, TRIAL_FLOATS);
    if (same ? error > 1e-5 : error < 1e-6)
      fail_msg("%s %d is %.1e from that on \"the cube\" alone", i < 8 ? "scene" : "trial", i % 8, error);
  }
}

/* PSNR of all videos, from reconstruct.csv: video,id,file,frames,psnr,... */
static void read_psnr(const ebb_config *k, double psnr[8]) {
  char *path = ebb_format("%s/reconstruct/reconstruct.csv", k->run.out), line[1000];
  FILE *f = fopen(path, "r");
  int n = 0;
  assert_non_null(f);
  assert_non_null(fgets(line, sizeof line, f));
  while (fgets(line, sizeof line, f))
    assert_int_equal(sscanf(line, "%*d,%*[^,],%*[^,],%*d,%lf", &psnr[n++]), 1);
  assert_int_equal(n, 8);
  fclose(f);
  free(path);
}

static void reconstruct(const ebb_config *k, double psnr[8]) {
  ebb_error err = {0};
  ebb_job_result result;
  ebb_reconstruction summary;
  const ebb_job_options options = {.version = "test", .log = quiet};
  if (!ebb_reconstruct(k, &options, &result, &summary, &err))
    fail_msg("%s", err.text);
  assert_true(result.used.weights <= result.planned.weights);
  read_psnr(k, psnr);
}

/* There and back on each video's own text. */
static void reconstruction_on_texts_of_videos(void **state) {
  (void)state;
  need_tokenizer();
  static const char *const texts[8] = {
      "A red ball rolls.", "the cube", "the cube",         "a wall", "a wall",
      "the cube",          "a wall",   "A red ball rolls."};
  double each[8], alone[8];
  write_manifest("films.csv", texts);
  ebb_config k = config_for("films");
  strcpy(k.data.format, "manifest");
  strcpy(k.data.path, at("films.csv"));
  strcpy(k.generate.write, "png");
  k.inversion.guidance = 3;
  reconstruct(&k, each);
  k.prompt.per_video = false;
  strcpy(k.prompt.text, "the cube");
  snprintf(k.run.out, sizeof k.run.out, "%s/films-alone", folder);
  reconstruct(&k, alone);
  for (int v = 0; v < 8; v++) {
    const double error = fabs(each[v] - alone[v]);
    if (strcmp(texts[v], "the cube") == 0 ? error > 1e-3 : error < 2e-3)
      fail_msg("video %d: PSNR %.6f on its own text \"%s\", %.6f on \"the cube\"", v, each[v], texts[v],
               alone[v]);
  }
}

/* One text in all cells is the run's own: the same bytes as if prompt.text had said it. */
static void one_text_for_all_videos(void **state) {
  (void)state;
  need_tokenizer();
  static const char *const texts[8] = {"the cube", "the cube", "the cube", "the cube",
                                       "the cube", "the cube", "the cube", "the cube"};
  ebb_store each, own;
  write_manifest("same.csv", texts);
  ebb_config k = config_for("same");
  strcpy(k.data.format, "manifest");
  strcpy(k.data.path, at("same.csv"));
  run(&k, &each);
  assert_true(json_is_false(told(&each, "per_video")));
  assert_string_equal(json_string_value(json_object_get(told(&each, "text"), "cleaned")), "the cube");
  snprintf(k.run.out, sizeof k.run.out, "%s/own", folder);
  strcpy(k.prompt.text, "the cube");
  k.prompt.per_video = false;
  run(&k, &own);
  assert_true(distance(&each, &own, "transformer") == 0);
  ebb_store_close(&each);
  ebb_store_close(&own);
}

static void negative_texts(void **state) {
  (void)state;
  need_tokenizer();
  ebb_store a, b, c;
  ebb_config k = config_for("negative-a");
  k.inversion.guidance = 3;
  strcpy(k.prompt.text, "the cube");
  strcpy(k.prompt.negative, "a wall");
  run(&k, &a);
  assert_string_equal(json_string_value(json_object_get(told(&a, "negative"), "given")), "a wall");
  k = config_for("negative-b");
  k.inversion.guidance = 3;
  strcpy(k.prompt.text, "the cube");
  run(&k, &b);
  assert_true(distance(&a, &b, "transformer.negative") > 1e-4);
  k = config_for("negative-c");
  k.inversion.guidance = 3;
  strcpy(k.prompt.text, "the cube");
  strcpy(k.prompt.negative_embedding, "zeros");
  run(&k, &c);
  assert_true(distance(&c, &b, "transformer.negative") > 1e-4);
  ebb_store_close(&a);
  ebb_store_close(&b);
  ebb_store_close(&c);
  strcpy(k.prompt.negative, "a wall");
  run_fails(&k, "prompt.negative is \"a wall\", but the states are zeros");
}

static void what_cannot_be_is_told(void **state) {
  (void)state;
  need_tokenizer();
  static const char *const texts[8] = {"the cube", "", "", "", "", "", "", ""};
  ebb_error err = {0};
  ebb_texts t;
  ebb_config k = config_for("wrong");
  encode(&t, 20, 4, prompts);
  assert_true(ebb_texts_write(&t, at("cache"), &err));
  ebb_texts_free(&t);
  strcpy(k.prompt.embedding, at("cache"));
  strcpy(k.prompt.text, "a text that it has not");
  run_fails(&k, "no embedding of \"a text that it has not\" among its 3 texts of 20 tokens: add it with `ebb "
                "text embed");
  strcpy(k.prompt.embedding, "zeros");
  run_fails(&k, "prompt.text is \"a text that it has not\", but the states are zeros");
  k = config_for("wrong");
  write_manifest("few.csv", texts);
  strcpy(k.data.format, "manifest");
  strcpy(k.data.path, at("few.csv"));
  strcpy(k.model.path, FIXTURES "/wan-a"); /* has no text encoder */
  run_fails(&k, "the data set gives prompts for 1 videos");
  k = config_for("wrong"); /* a download of a part: zeros would not be the empty prompt */
  strcpy(k.model.path, at("part-of-it"));
  char command[2000];
  snprintf(command, sizeof command, "cp -r '%s' '%s' && rm '%s/text_encoder'", model, k.model.path,
           k.model.path);
  assert_int_equal(system(command), 0);
  run_fails(&k, "lists a text encoder, but has not both text_encoder/ and tokenizer/");
  k = config_for("wrong");
  strcpy(k.prompt.dtype, "bfloat16");
  run_fails(&k, "computes in float32 alone");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_file_gives_back_what_was_put_in),
      cmocka_unit_test(a_key_is_of_all_that_matters),
      cmocka_unit_test(a_changed_file_is_told),
      cmocka_unit_test(encoding_again_adds_what_is_new),
      cmocka_unit_test(one_text_from_anywhere),
      cmocka_unit_test(defect_29_one_length_for_all),
      cmocka_unit_test(texts_of_videos),
      cmocka_unit_test(one_text_for_all_videos),
      cmocka_unit_test(reconstruction_on_texts_of_videos),
      cmocka_unit_test(trials_on_texts_of_videos),
      cmocka_unit_test(negative_texts),
      cmocka_unit_test(what_cannot_be_is_told),
  };
  return cmocka_run_group_tests(tests, make_all, remove_all);
}
