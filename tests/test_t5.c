/* tier: reference Prompts, tokens and text encoders against diffusers, transformers and SentencePiece
 * (tests/fixtures/make_text.py): cleaned texts byte for byte, token numbers and buckets exactly, states at
 * the tolerance of case.json, on a GPU in float32 and bfloat16. */
#include "engine/t5.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/prompt_text.h"
#include "loaders/tokenizer.h"
#include "tests/test_files.h"

#include <math.h>

#include "tests/test_cuda.h"

#define FIXTURES "tests/fixtures"

static json_t *read_json(const char *path) {
  ebb_error err = {0};
  json_t *json = ebb_json_read(path, &err);
  if (!json)
    fail_msg("%s", err.text);
  return json;
}

static void prompts_are_cleaned_as_diffusers_does(void **state) {
  (void)state;
  json_t *rows = read_json(FIXTURES "/text/prompts.json");
  assert_true(json_array_size(rows) >= 30);
  for (size_t i = 0; i < json_array_size(rows); i++) {
    ebb_error err = {0};
    const json_t *row = json_array_get(rows, i);
    char *clean = ebb_prompt_clean(json_string_value(json_object_get(row, "text")), &err);
    assert_fine(&err);
    assert_string_equal(clean, json_string_value(json_object_get(row, "clean")));
    free(clean);
  }
  json_decref(rows);
}

/* The official code makes the text "nan" of a prompt that is missing; one that says "nan" is that text. */
static void defect_10_a_prompt_that_is_not_known_is_empty(void **state) {
  (void)state;
  ebb_error err = {0};
  char *none = ebb_prompt_clean(NULL, &err), *nan = ebb_prompt_clean("nan", &err);
  assert_string_equal(none, "");
  assert_string_equal(nan, "nan");
  free(none);
  free(nan);
}

static void texts_that_are_not_utf8_are_refused(void **state) {
  (void)state;
  static const char *const broken[] = {"a\x80",   "\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                       "\xE2\x82"};
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    ebb_error err = {0};
    assert_null(ebb_prompt_clean(broken[i], &err));
    assert_says(&err, "is not UTF-8 at byte");
  }
  ebb_error err = {0};
  char *large = malloc(EBB_PROMPT_BYTES + 2);
  memset(large, 'x', EBB_PROMPT_BYTES + 1);
  large[EBB_PROMPT_BYTES + 1] = '\0';
  assert_null(ebb_prompt_clean(large, &err));
  assert_says(&err, "more than 1048576 bytes");
  free(large);
}

/* ---- tokens ------------------------------------------------------------------------------------------ */

static ebb_tokenizer *open_tokenizer(const char *model) {
  ebb_error err = {0};
  ebb_tokenizer *t;
  if (!ebb_tokenizer_built_in())
    skip();
  char *folder_ = ebb_format(FIXTURES "/models/%s/tokenizer", model);
  if (!ebb_tokenizer_open(&t, folder_, &err))
    fail_msg("%s", err.text);
  free(folder_);
  return t;
}

static int compare_tokens(const ebb_tokenizer *t, const char *text, int64_t most, const json_t *want) {
  ebb_error err = {0};
  int64_t *ids = malloc((size_t)most * sizeof *ids), count, cut;
  if (!ebb_tokenizer_ids(t, text, most, ids, &count, &cut, &err))
    fail_msg("%s", err.text);
  int wrong = count != (int64_t)json_array_size(want);
  for (int64_t i = 0; !wrong && i < count; i++)
    wrong = ids[i] != json_integer_value(json_array_get(want, (size_t)i));
  for (int64_t i = count; i < most; i++)
    assert_int_equal(ids[i], 0);
  if (wrong) {
    print_error("\"%s\": tokens", text);
    for (int64_t i = 0; i < count; i++)
      print_error(" %lld", (long long)ids[i]);
    char *expected = json_dumps(want, 0);
    print_error(", expected %s\n", expected);
    free(expected);
  }
  free(ids);
  return wrong;
}

static void tokens_are_those_of_transformers(void **state) {
  (void)state;
  json_t *rows = read_json(FIXTURES "/text/prompts.json");
  const char *key;
  json_t *want;
  int wrong = 0, compared = 0;
  ebb_tokenizer *t[3] = {open_tokenizer("text-a"), open_tokenizer("text-b"), open_tokenizer("text-c")};
  for (size_t i = 0; i < json_array_size(rows); i++) {
    const json_t *row = json_array_get(rows, i);
    json_object_foreach(json_object_get(row, "tokens"), key, want) {
      wrong += compare_tokens(t[key[5] - 'a'], json_string_value(json_object_get(row, "clean")),
                              atoi(key + 6), want);
      compared++;
    }
  }
  for (int i = 0; i < 3; i++)
    ebb_tokenizer_close(&t[i]);
  json_decref(rows);
  assert_true(compared >= 150);
  assert_int_equal(wrong, 0);
}

static void long_texts_are_cut_and_said_so(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_tokenizer *t = open_tokenizer("text-a");
  int64_t ids[64], few[5], count, cut;
  assert_true(ebb_tokenizer_ids(t, "The ball rolls down.", 64, ids, &count, &cut, &err));
  assert_int_equal(cut, 0);
  const int64_t whole = count;
  assert_true(whole > 6);
  assert_true(ebb_tokenizer_ids(t, "The ball rolls down.", 5, few, &count, &cut, &err));
  assert_int_equal(count, 5);
  assert_int_equal(cut, whole - 5);
  assert_memory_equal(few, ids, 4 * sizeof *ids);
  assert_int_equal(few[4], 1);
  assert_true(ebb_tokenizer_ids(t, "The ball", 1, few, &count, &cut, &err));
  assert_true(count == 1 && few[0] == 1);
  ebb_tokenizer_close(&t);
}

static void broken_tokenizers_are_told(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_tokenizer *t = NULL;
  char *model, config[600];
  size_t bytes;
  if (!ebb_tokenizer_built_in()) {
    assert_false(ebb_tokenizer_open(&t, folder, &err));
    assert_says(&err, "libsentencepiece-dev");
    skip();
  }
  assert_false(ebb_tokenizer_open(&t, at("nowhere"), &err));
  assert_null(t);
  assert_says(&err, "spiece.model");
  put_text(at("spiece.model"), "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n");
  assert_false(ebb_tokenizer_open(&t, folder, &err));
  assert_says(&err, "Git LFS");
  put_text(at("spiece.model"), "no model at all, but long enough to be read as one");
  assert_false(ebb_tokenizer_open(&t, folder, &err));
  assert_says(&err, "not a SentencePiece model");
  assert_true(ebb_file_read(FIXTURES "/models/text-c/tokenizer/spiece.model", 1 << 20, &model, &bytes, &err));
  put(at("spiece.model"), model, bytes);
  static const struct {
    const char *config, *says;
  } wrong[] = {
      {"{", "not valid JSON"},
      {"{\"tokenizer_class\": \"CLIPTokenizer\"}", "\"CLIPTokenizer\", expected T5Tokenizer"},
      {"{\"eos_token\": \"<end>\"}", "eos_token \"<end>\" is no piece"},
      {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"<a>\"}}}", "\"x\" is no number of a token"},
      {"{\"added_tokens_decoder\": {\"-1\": {\"content\": \"<a>\"}}}", "\"-1\" is no number of a token"},
      {"{\"added_tokens_decoder\": {\"5\": {\"content\": \"\"}}}", "\"5\" is no number of a token"},
      {"{\"added_tokens_decoder\": {\"5\": {\"content\": \"a\", \"single_word\": true}}}",
       "is a single_word"},
      {"{\"added_tokens_decoder\": {\"5\": {\"content\": \"<a>\"}}, \"pad_token\": \"<none>\"}",
       "pad_token is no token"},
      {"{\"extra_ids\": 100000}", "extra_ids"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    put_text(at("tokenizer_config.json"), wrong[i].config);
    assert_false(ebb_tokenizer_open(&t, folder, &err));
    assert_null(t);
    assert_says(&err, wrong[i].says);
  }
  char hashes[3][65]; /* what the numbers hang on is in the hash */
  for (int i = 0; i < 3; i++) {
    snprintf(config, sizeof config, "{\"extra_ids\": %d}", i == 1 ? 7 : 5);
    put_text(at("tokenizer_config.json"), config);
    if (!ebb_tokenizer_open(&t, folder, &err))
      fail_msg("%s", err.text);
    strcpy(hashes[i], ebb_tokenizer_sha256(t));
    assert_int_equal(ebb_tokenizer_top(t), 120 + (i == 1 ? 7 : 5) - 1);
    ebb_tokenizer_close(&t);
  }
  assert_string_equal(hashes[0], hashes[2]);
  assert_string_not_equal(hashes[0], hashes[1]);
  free(model);
}

/* ---- encoders ---------------------------------------------------------------------------------------- */

static void buckets_are_those_of_transformers(void **state) {
  (void)state;
  json_t *tables = read_json(FIXTURES "/text/buckets.json");
  for (size_t i = 0; i < json_array_size(tables); i++) {
    const json_t *table = json_array_get(tables, i), *want = json_object_get(table, "bucket");
    const int64_t buckets = json_integer_value(json_object_get(table, "buckets"));
    const int64_t most = json_integer_value(json_object_get(table, "max_distance"));
    for (int64_t d = -600; d <= 600; d++)
      assert_int_equal(ebb_t5_bucket(d, buckets, most),
                       json_integer_value(json_array_get(want, (size_t)(d + 600))));
  }
  json_decref(tables);
}

typedef struct encoding {
  ebb_context context;
  const char *folder;
  ebb_dtype dtype;
  int64_t count;
  ebb_t5_text *texts;
} encoding;

static bool encode(void *user, ebb_error *err) {
  encoding *e = user;
  ebb_t5 t5;
  bool ok =
      ebb_t5_open(&t5, &e->context, e->folder, e->dtype, err) && ebb_t5_encode(&t5, e->count, e->texts, err);
  if (ok)
    assert_true(e->context.weights.used == 0 && e->context.activations.used == 0);
  ebb_t5_close(&t5);
  return ok;
}

static double relative_error(const float *got, const float *want, int64_t n) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < n; i++) {
    difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    norm += (double)want[i] * want[i];
  }
  return sqrt(difference / norm);
}

static void encode_case(const char *name, const char *device, const char *dtype) {
  ebb_error err = {0};
  ebb_safetensors st;
  char *path = ebb_format(FIXTURES "/text/%s/states.safetensors", name);
  char *about_path = ebb_format(FIXTURES "/text/%s/case.json", name);
  char *model = ebb_format(FIXTURES "/models/%s/text_encoder", name);
  json_t *about = read_json(about_path);
  if (!ebb_safetensors_open(&st, path, &err))
    fail_msg("%s", err.text);
  const ebb_st_entry *w = ebb_safetensors_find(&st, "states"), *i = ebb_safetensors_find(&st, "ids");
  const int64_t n = w->shape[0], M = w->shape[1], D = w->shape[2];
  float *want = malloc((size_t)(n * M * D) * sizeof *want), *got = calloc((size_t)(n * M * D), sizeof *got);
  int64_t *ids = malloc((size_t)(n * M) * sizeof *ids);
  assert_true(ebb_safetensors_read_f32(&st, w, want, &err) &&
              ebb_safetensors_read(&st, i, 0, i->bytes, ids, &err));
  const bool half = strcmp(dtype, "bfloat16") == 0, trimmed = strcmp(name, "text-b") == 0;
  encoding e = {.folder = model, .dtype = half ? EBB_BF16 : EBB_F32, .count = n};
  e.texts = calloc((size_t)n, sizeof *e.texts);
  for (int64_t t = 0; t < n; t++) {
    int64_t tokens = M; /* WanPipeline cuts the padding off, CogVideoXPipeline attends to it */
    while (trimmed && ids[t * M + tokens - 1] == 0)
      tokens--;
    e.texts[t] = (ebb_t5_text){ids + t * M, tokens, got + t * M * D};
  }
  if (!ebb_context_open(&e.context, device, &err) || !ebb_context_sized(&e.context, encode, &e, &err))
    fail_msg("%s", err.text);
  double tolerance = json_number_value(json_object_get(about, "tolerance"));
  if (half)
    tolerance = 2 * json_number_value(json_object_get(about, "reference_bf16_error"));
  else if (strcmp(device, "cpu") != 0)
    tolerance *= 10;
  for (int64_t t = 0; t < n; t++) {
    const double error = relative_error(got + t * M * D, want + t * M * D, M * D);
    print_message("  %s on %s in %s: text of %lld tokens, relative error %.1e\n", name, device, dtype,
                  (long long)e.texts[t].tokens, error);
    if (!(error <= tolerance))
      fail_msg("%s: text %lld is %.2e away, expected at most %.1e", name, (long long)t, error, tolerance);
  }
  uint64_t bytes; /* a layer at a time: a part of what the files have */
  char *config =
      ebb_format("%s/%s", model, trimmed ? "model-00001-of-00002.safetensors" : "model.safetensors");
  assert_true(ebb_file_size(config, &bytes, &err) && e.context.weights.peak > 0);
  assert_true(e.context.weights.peak < bytes * (trimmed ? 2 : 1));
  free(config);
  ebb_context_close(&e.context);
  ebb_safetensors_close(&st);
  json_decref(about);
  free(e.texts), free(ids), free(got), free(want), free(model), free(about_path), free(path);
}

static void encoders_match_transformers(void **state) {
  (void)state;
  encode_case("text-a", "cpu", "float32");
  encode_case("text-b", "cpu", "float32");
  encode_case("text-c", "cpu", "float32");
}

static void encoders_match_transformers_on_a_gpu(void **state) {
  (void)state;
  skip_without_cuda();
  for (int half = 0; half < 2; half++) {
    encode_case("text-a", "cuda", half ? "bfloat16" : "float32");
    encode_case("text-b", "cuda", half ? "bfloat16" : "float32");
    encode_case("text-c", "cuda", half ? "bfloat16" : "float32");
  }
}

static void wrong_encoders_are_told(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_context c;
  ebb_t5 t5;
  static const struct {
    const char *config, *says;
  } wrong[] = {
      {"{\"architectures\": [\"CLIPTextModel\"]}", "\"CLIPTextModel\", expected UMT5EncoderModel"},
      {"{\"model_type\": \"umt5\", \"feed_forward_proj\": \"gelu\"}", "\"feed_forward_proj\" is \"gelu\""},
      {"{\"model_type\": \"umt5\", \"num_layers\": 2}", "d_model"},
      {"{\"model_type\": \"t5\", \"num_layers\": 2, \"d_model\": 8, \"num_heads\": 2, \"d_kv\": 4, \"d_ff\": "
       "8, "
       "\"vocab_size\": 9, \"relative_attention_num_buckets\": 6}",
       "expected a multiple of 4"},
      {"{\"model_type\": \"t5\", \"num_layers\": 2, \"d_model\": 8, \"num_heads\": 2, \"d_kv\": 4, \"d_ff\": "
       "8, "
       "\"vocab_size\": 9}",
       "no weights"},
  };
  assert_true(ebb_context_open(&c, "cpu", &err));
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    put_text(at("config.json"), wrong[i].config);
    assert_false(ebb_t5_open(&t5, &c, folder, EBB_F32, &err));
    assert_says(&err, wrong[i].says);
  }
  char *text, *longer;
  size_t bytes;
  assert_true(
      ebb_file_read(FIXTURES "/models/text-c/text_encoder/config.json", 1 << 20, &text, &bytes, &err));
  char *found = strstr(text, "\"num_layers\": 2");
  assert_non_null(found);
  found[14] = '3'; /* a layer that the files have not */
  put_text(at("config.json"), text);
  free(text);
  assert_true(ebb_file_read(FIXTURES "/models/text-c/text_encoder/model.safetensors", 1 << 20, &longer,
                            &bytes, &err));
  put(at("model.safetensors"), longer, bytes);
  free(longer);
  assert_false(ebb_t5_open(&t5, &c, folder, EBB_F32, &err));
  assert_says(&err, "encoder.block.2.layer.0.SelfAttention.q.weight");
  const int64_t beyond[] = {5, 220};
  float states[2 * 24];
  encoding e = {.context = c, .folder = FIXTURES "/models/text-c/text_encoder", .count = 1};
  e.texts = &(ebb_t5_text){beyond, 2, states};
  assert_false(ebb_context_sized(&e.context, encode, &e, &err));
  assert_says(&err, "token 1 of a text is 220, and the encoder has 220 words");
  ebb_context_close(&e.context);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(prompts_are_cleaned_as_diffusers_does),
      cmocka_unit_test(defect_10_a_prompt_that_is_not_known_is_empty),
      cmocka_unit_test(texts_that_are_not_utf8_are_refused),
      cmocka_unit_test(tokens_are_those_of_transformers),
      cmocka_unit_test(long_texts_are_cut_and_said_so),
      cmocka_unit_test_setup_teardown(broken_tokenizers_are_told, folder_make, folder_remove),
      cmocka_unit_test(buckets_are_those_of_transformers),
      cmocka_unit_test(encoders_match_transformers),
      cmocka_unit_test(encoders_match_transformers_on_a_gpu),
      cmocka_unit_test_setup_teardown(wrong_encoders_are_told, folder_make, folder_remove),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
