/* Model weights: single and sharded files, everything wrong told at once, initialisation. Host code, exact; and on a GPU where
 * there is one. */
#include "tests/test_files.h"

#include "kernels/context.h"
#include "kernels/numeric.h"
#include "loaders/file.h"
#include "loaders/weights.h"
#include "tests/test_cuda.h"

#include <math.h>

static void write_st(const char *path, const ebb_st_declare *tensors, int64_t count, float start) {
  ebb_error err = {""};
  ebb_st_writer *w;
  assert_true(ebb_st_writer_open(&w, path, tensors, count, NULL, 0, &err));
  for (int64_t i = 0; i < count; i++) {
    int64_t n = 1;
    for (int d = 0; d < tensors[i].rank; d++)
      n *= tensors[i].shape[d];
    for (int64_t k = 0; k < n; k++) {
      float x = start++;
      assert_true(ebb_st_writer_append(w, &x, sizeof x, &err));
    }
  }
  assert_true(ebb_st_writer_finish(&w, &err));
}

typedef struct model {
  ebb_tensor a, b, bias;
  ebb_parameters list;
} model;

static void describe(model *m) {
  memset(m, 0, sizeof *m);
  ebb_parameters_add(&m->list, &m->a, EBB_SHAPE(2, 3), EBB_INIT_LINEAR, 3, "layer.%d.weight", 0);
  ebb_parameters_add(&m->list, &m->b, EBB_SHAPE(4), EBB_INIT_ONES, 0, "norm.weight");
  ebb_parameters_add(&m->list, &m->bias, EBB_SHAPE(1, 2, 5), EBB_INIT_TABLE, 0, "table");
}

static const ebb_st_declare good[] = {{"layer.0.weight", EBB_F32, 2, {2, 3}},
                                      {"norm.weight", EBB_F32, 1, {4}},
                                      {"table", EBB_F32, 3, {1, 2, 5}}};

static const char *make_folder(const char *name) {
  ebb_error err = {""};
  assert_true(ebb_make_folders(at(name), &err));
  return at(name);
}

static const char *in(const char *sub, const char *name) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", sub, name);
  return at(path);
}

static void check_loaded(const char *path) {
  ebb_error err = {""};
  ebb_weights *w;
  if (!ebb_weights_open(&w, path, &err))
    fail_msg("%s", err.text);
  assert_int_equal(ebb_weights_count(w), 3);
  assert_string_equal(ebb_weights_entry(w, 1)->name, "norm.weight");
  ebb_context c;
  model m;
  describe(&m);
  assert_true(ebb_context_open(&c, "cpu", &err));
  ebb_context_count(&c);
  assert_true(ebb_weights_load(w, &c, &m.list, &err)); /* counting: memory alone */
  size_t peak = c.weights.peak;
  assert_true(peak >= (6 + 4 + 10) * sizeof(float));
  assert_true(ebb_context_reserve(&c, EBB_WEIGHTS, peak, &err));
  assert_true(ebb_weights_load(w, &c, &m.list, &err));
  assert_fine(&err);
  assert_string_equal(m.a.name, "layer.0.weight");
  assert_int_equal(m.bias.rank, 3);
  for (int i = 0; i < 6; i++)
    assert_true(((float *)m.a.data)[i] == (float)i);
  for (int i = 0; i < 4; i++)
    assert_true(((float *)m.b.data)[i] == (float)(6 + i));
  for (int i = 0; i < 10; i++)
    assert_true(((float *)m.bias.data)[i] == (float)(10 + i));
  ebb_context_close(&c);
  ebb_parameters_free(&m.list);
  ebb_weights_close(&w);
  ebb_weights_close(&w);
}

static void test_single(void **state) {
  (void)state;
  make_folder("single");
  write_st(in("single", "diffusion_pytorch_model.safetensors"), good, 3, 0);
  check_loaded(at("single"));
  make_folder("other");
  write_st(in("other", "model.safetensors"), good, 3, 0);
  check_loaded(at("other"));
  ebb_error err = {""};
  ebb_weights *w;
  ebb_digest *digest, *stopped;
  char hex[65], again[65], file[65];
  assert_true(ebb_weights_open(&w, at("single"), &err));
  assert_true(ebb_weights_digest(w, &digest, &err) && ebb_weights_digest(w, &stopped, &err));
  ebb_weights_close(&w); /* the hash goes on */
  ebb_digest_abandon(&stopped);
  assert_null(stopped);
  assert_true(ebb_digest_finish(&digest, hex, &err));
  assert_null(digest);
  assert_true(ebb_digest_finish(&digest, hex, &err)); /* done already: hex stays */
  assert_true(ebb_file_sha256(in("single", "diffusion_pytorch_model.safetensors"), file, &err));
  ebb_sha256(file, 64, again);
  assert_string_equal(hex, again);
}

/* n numbers of `dtype`, i -> value(i), in a file of their own. */
static void write_large(const char *path, ebb_dtype dtype, int64_t n, uint32_t (*value)(int64_t i)) {
  ebb_error err = {""};
  ebb_st_writer *w;
  const ebb_st_declare large = {"large", dtype, 2, {n / 8, 8}};
  assert_true(ebb_st_writer_open(&w, path, &large, 1, NULL, 0, &err));
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = value(i);
    assert_true(ebb_st_writer_append(w, &bits, ebb_dtype_size(dtype), &err));
  }
  assert_true(ebb_st_writer_finish(&w, &err));
}

static uint32_t as_f32(int64_t i) {
  float x = (float)i / 8;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static uint32_t as_bf16(int64_t i) {
  return 0x3f80u + (uint32_t)(i % 64);
}

static uint32_t as_f16(int64_t i) {
  return 0x3c00u + (uint32_t)(i % 64);
}

static char *set_threads(const char *threads) {
  const char *before = getenv("OMP_NUM_THREADS");
  char *saved = before ? strdup(before) : NULL;
  setenv("OMP_NUM_THREADS", threads, 1);
  return saved;
}

static void restore_threads(char *saved) {
  if (saved)
    setenv("OMP_NUM_THREADS", saved, 1);
  else
    unsetenv("OMP_NUM_THREADS");
  free(saved);
}

enum { LARGE = 8 * 200003 }; /* 6.1 MiB of float32: no whole number of pieces */

static const struct {
  ebb_dtype dtype;
  uint32_t (*value)(int64_t i);
} larges[] = {{EBB_F32, as_f32}, {EBB_BF16, as_bf16}, {EBB_F16, as_f16}};

static double expected_of(int which, int64_t k) {
  return which == 0 ? (double)k / 8 : which == 1 ? 1 + (double)(k % 64) / 128 : 1 + (double)(k % 64) / 1024;
}

/* The file of larges[which], loaded as `dtype`, has the numbers that were written, rounded once. */
static void check_large(ebb_context *c, const ebb_weights *w, ebb_dtype dtype, int which) {
  ebb_error err = {""};
  ebb_tensor large;
  ebb_parameters list = {.dtype = dtype};
  ebb_parameters_add(&list, &large, EBB_SHAPE(LARGE / 8, 8), EBB_INIT_ZEROS, 0, "large");
  char *got = malloc(LARGE * sizeof(float));
  if (!got || !ebb_context_reserve(c, EBB_WEIGHTS, LARGE * ebb_dtype_size(dtype), &err) ||
      !ebb_weights_load(w, c, &list, &err))
    fail_msg("%s", err.text);
  ebb_download(c, got, large);
  for (int64_t k = 0; k < LARGE; k++) {
    float number = (float)expected_of(which, k);
    uint16_t half = ebb_bf16_of_float(number);
    if (memcmp(got + k * (int64_t)ebb_dtype_size(dtype), dtype == EBB_F32 ? (void *)&number : (void *)&half,
               ebb_dtype_size(dtype)) != 0)
      fail_msg("file %d to %s on %s: number %lld", which, ebb_dtype_name(dtype), ebb_context_device(c),
               (long long)k);
  }
  free(got);
  ebb_parameters_free(&list);
}

/* Of a file that ends too early the first byte that is missing is told, whichever thread was the first to miss one. */
static void check_cut(ebb_context *c, const ebb_weights *w, const char *path, int64_t cut) {
  ebb_error err = {""};
  ebb_tensor large;
  ebb_parameters list = {0};
  char words[80];
  snprintf(words, sizeof words, "model.safetensors: ends at byte %lld, expected", (long long)cut);
  assert_int_equal(truncate(path, cut), 0); /* while it is open */
  ebb_parameters_add(&list, &large, EBB_SHAPE(LARGE / 8, 8), EBB_INIT_ZEROS, 0, "large");
  for (int times = 0; times < 20; times++) {
    err.text[0] = '\0';
    assert_true(ebb_context_reserve(c, EBB_WEIGHTS, LARGE * sizeof(float), &err));
    assert_false(ebb_weights_load(w, c, &list, &err));
    assert_non_null(strstr(err.text, "it became shorter while being read"));
    if (!strstr(err.text, words))
      fail_msg("'%s' does not say '%s'", err.text, words);
  }
  ebb_parameters_free(&list);
}

/* Tensors of many pieces, read by many threads, from each dtype that weights have. */
static void large_pieces_on(const char *device) {
  char *saved = set_threads("8");
  make_folder("large");
  for (int i = 0; i < 3; i++) {
    ebb_error err = {""};
    ebb_context c;
    ebb_weights *w;
    const char *path = in("large", "model.safetensors");
    write_large(path, larges[i].dtype, LARGE, larges[i].value);
    assert_true(ebb_context_open(&c, device, &err) && ebb_weights_open(&w, at("large"), &err));
    check_large(&c, w, EBB_F32, i);
    if (ebb_context_has_half(&c))
      check_large(&c, w, EBB_BF16, i);
    check_cut(&c, w, path, LARGE / 8 * (int64_t)ebb_dtype_size(larges[i].dtype));
    ebb_digest *digest;
    char hex[65];
    assert_true(ebb_weights_digest(w, &digest, &err)); /* of what is there now */
    assert_true(ebb_digest_finish(&digest, hex, &err));
    ebb_weights_close(&w);
    ebb_context_close(&c);
  }
  restore_threads(saved);
}

static void test_large_pieces(void **state) {
  (void)state;
  large_pieces_on("cpu");
}

static void test_large_pieces_on_a_gpu(void **state) {
  (void)state;
  skip_without_cuda();
  large_pieces_on("cuda");
}

/* Parameters are of the dtype that the list had when they were added. */
static void test_dtypes_of_a_list(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_context c;
  ebb_tensor a, b;
  ebb_parameters list = {0};
  ebb_parameters_add(&list, &a, EBB_SHAPE(1024), EBB_INIT_ONES, 0, "a");
  list.dtype = EBB_BF16;
  ebb_parameters_add(&list, &b, EBB_SHAPE(1024), EBB_INIT_ONES, 0, "b");
  assert_true(ebb_context_open(&c, "cpu", &err));
  ebb_context_count(&c);
  assert_true(ebb_weights_initialise(&c, &list, 0, &err));
  assert_int_equal(a.dtype, EBB_F32);
  assert_int_equal(b.dtype, EBB_BF16);
  assert_int_equal(c.weights.peak, 1024 * (4 + 2));
  ebb_parameters_free(&list);
  ebb_context_close(&c);
}

static const char *index_name = "diffusion_pytorch_model.safetensors.index.json";

static void test_sharded(void **state) {
  (void)state;
  make_folder("shards");
  write_st(in("shards", "w-00001.safetensors"), good, 2, 0);
  write_st(in("shards", "w-00002.safetensors"), good + 2, 1, 10);
  put_text(
      in("shards", index_name),
      "{\"metadata\": {\"total_size\": 80}, \"weight_map\": {\"layer.0.weight\": \"w-00001.safetensors\","
      "\"norm.weight\": \"w-00001.safetensors\", \"table\": \"w-00002.safetensors\"}}");
  check_loaded(at("shards"));
}

static void refuse_index(const char *json, const char *words) {
  ebb_error err = {""};
  ebb_weights *w;
  put_text(in("shards", index_name), json);
  assert_false(ebb_weights_open(&w, at("shards"), &err));
  assert_null(w);
  assert_says(&err, words);
}

static void test_hostile_index(void **state) {
  (void)state;
  refuse_index("{\"weight_map\": {\"a\": \"../single/diffusion_pytorch_model.safetensors\"}}", "same folder");
  refuse_index("{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "same folder");
  refuse_index("{\"weight_map\": {\"a\": \"..\"}}", "same folder");
  refuse_index("{\"weight_map\": {\"a\": \"\"}}", "same folder");
  refuse_index("{\"weight_map\": {\"a\": \".hidden.safetensors\"}}", "same folder");
  refuse_index("{\"weight_map\": {\"a\": 5}}", "not a string");
  refuse_index("{\"weight_map\": {\"a\": \"x.safetensors\", \"a\": \"y.safetensors\"}}", "duplicate");
  refuse_index("{\"weight_map\": {}}", "missing or empty");
  refuse_index("{\"weight_map\": []}", "missing or empty");
  refuse_index("{}", "missing or empty");
  refuse_index("[", "not valid JSON");
  refuse_index("<html>", "HTML");
  refuse_index("{\"weight_map\": {\"a\": \"gone-1.safetensors\", \"b\": \"gone-2.safetensors\"}}",
               "missing (2):\n    gone-1.safetensors\n    gone-2.safetensors");
  refuse_index("{\"weight_map\": {\"nowhere\": \"w-00001.safetensors\"}}", "is in no shard");
  refuse_index(
      "{\"weight_map\": {\"table\": \"w-00001.safetensors\", \"norm.weight\": \"w-00002.safetensors\"}}",
      "should be in");
  write_st(in("shards", "w-00003.safetensors"), good, 1, 0);
  refuse_index(
      "{\"weight_map\": {\"layer.0.weight\": \"w-00001.safetensors\", \"x\": \"w-00003.safetensors\"}}",
      "in two shards");
}

static void test_nothing_there(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_weights *w;
  make_folder("empty");
  assert_false(ebb_weights_open(&w, at("empty"), &err));
  assert_says(&err, "expected diffusion_pytorch_model.safetensors");
  put_text(in("empty", "diffusion_pytorch_model.bin"), "x");
  assert_false(ebb_weights_open(&w, at("empty"), &err));
  assert_says(&err, "diffusion_pytorch_model.bin\n  (.bin, .pt and .ckpt are pickles");
  assert_false(ebb_weights_open(&w, at("none"), &err));
  assert_says(&err, "No such file");
  put_text(in("empty", "diffusion_pytorch_model.safetensors"),
           "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  assert_false(ebb_weights_open(&w, at("empty"), &err));
  assert_says(&err, "git lfs pull");
}

/* Missing, misshapen and unknown tensors stand in one message; nothing is loaded. */
static void test_all_mismatches_at_once(void **state) {
  (void)state;
  const ebb_st_declare odd[] = {
      {"layer.0.weight", EBB_F32, 2, {3, 2}}, {"table", EBB_F32, 2, {2, 5}}, {"stranger", EBB_F32, 1, {1}}};
  make_folder("odd");
  write_st(in("odd", "model.safetensors"), odd, 3, 0);
  ebb_error err = {""};
  ebb_weights *w;
  ebb_context c;
  model m;
  describe(&m);
  assert_true(ebb_context_open(&c, "cpu", &err));
  assert_true(ebb_weights_open(&w, at("odd"), &err));
  assert_false(ebb_weights_load(w, &c, &m.list, &err));
  const char *const words[] = {"missing (1):\n    norm.weight [4]",
                               "of another shape (2):", "layer.0.weight: expected [2, 3], found [3, 2]",
                               "table: expected [1, 2, 5], found [2, 5]",
                               "unknown to the model (1):\n    stranger"};
  for (int i = 0; i < 5; i++)
    if (strstr(err.text, words[i]) == NULL)
      fail_msg("expected \"%s\" in \"%s\"", words[i], err.text);
  ebb_parameters_free(&m.list);
  err.text[0] = '\0';

  ebb_tensor many[30]; /* a long list is cut with its length */
  ebb_parameters list = {0};
  for (int i = 0; i < 30; i++)
    ebb_parameters_add(&list, &many[i], EBB_SHAPE(1), EBB_INIT_ZEROS, 0, "p.%d", i);
  ebb_weights_close(&w);
  make_folder("void");
  put(in("void", "model.safetensors"), "\2\0\0\0\0\0\0\0{}", 10);
  assert_true(ebb_weights_open(&w, at("void"), &err));
  assert_false(ebb_weights_load(w, &c, &list, &err));
  assert_non_null(strstr(err.text, "missing (30)"));
  assert_non_null(strstr(err.text, "p.11 [1]"));
  assert_null(strstr(err.text, "p.12 [1]"));
  assert_says(&err, "and 18 more");
  ebb_parameters_free(&list);
  ebb_weights_close(&w);
  ebb_context_close(&c);
}

static void test_memory_too_small(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_weights *w;
  ebb_context c;
  model m;
  describe(&m);
  assert_true(ebb_context_open(&c, "cpu", &err));
  assert_true(ebb_context_reserve(&c, EBB_WEIGHTS, 256, &err));
  assert_true(ebb_weights_open(&w, at("single"), &err));
  assert_false(ebb_weights_load(w, &c, &m.list, &err));
  assert_int_not_equal(err.text[0], '\0');
  ebb_weights_close(&w);
  ebb_parameters_free(&m.list);
  ebb_context_close(&c);
}

static void test_initialise(void **state) {
  (void)state;
  enum { N = 200, FAN = 64, D = 50 };
  ebb_error err = {""};
  ebb_context c;
  ebb_tensor linear, ones, zeros, table, other;
  ebb_parameters list = {0};
  ebb_parameters_add(&list, &linear, EBB_SHAPE(N, FAN), EBB_INIT_LINEAR, FAN, "w");
  ebb_parameters_add(&list, &ones, EBB_SHAPE(7), EBB_INIT_ONES, 0, "ones");
  ebb_parameters_add(&list, &zeros, EBB_SHAPE(7), EBB_INIT_ZEROS, 0, "zeros");
  ebb_parameters_add(&list, &table, EBB_SHAPE(1, N, D), EBB_INIT_TABLE, 0, "table");
  ebb_parameters_add(&list, &other, EBB_SHAPE(N, FAN), EBB_INIT_LINEAR, FAN, "w2");
  assert_true(ebb_context_open(&c, "cpu", &err));
  assert_true(ebb_context_reserve(&c, EBB_WEIGHTS, (size_t)1 << 20, &err));
  assert_true(ebb_weights_initialise(&c, &list, 5, &err));
  const float *x = linear.data, *y = table.data;
  double sum = 0, square = 0, low = 1, high = -1;
  for (int i = 0; i < N * FAN; i++) {
    sum += x[i];
    low = fmin(low, x[i]);
    high = fmax(high, x[i]);
  }
  assert_true(low >= -0.125 && low < -0.1245 && high <= 0.125 && high > 0.1245 &&
              fabs(sum) < 0.125 * 4 * 113 / 1.7);
  sum = 0;
  for (int i = 0; i < N * D; i++) {
    sum += y[i];
    square += (double)y[i] * y[i];
  }
  assert_true(fabs(square / (N * D) * D - 1.0) < 0.06 && fabs(sum / (N * D)) < 4.0 / sqrt(D) / sqrt(N * D));
  for (int i = 0; i < 7; i++)
    assert_true(((float *)ones.data)[i] == 1.0f && ((float *)zeros.data)[i] == 0.0f);
  assert_memory_not_equal(linear.data, other.data, ebb_bytes(linear)); /* another stream */
  float first[FAN];
  memcpy(first, x, sizeof first);
  assert_true(ebb_context_reserve(&c, EBB_WEIGHTS, (size_t)1 << 20, &err));
  assert_true(ebb_weights_initialise(&c, &list, 5, &err));
  assert_memory_equal(first, linear.data, sizeof first);
  assert_true(ebb_context_reserve(&c, EBB_WEIGHTS, (size_t)1 << 20, &err));
  assert_true(ebb_weights_initialise(&c, &list, 6, &err));
  assert_memory_not_equal(first, linear.data, sizeof first);
  ebb_context_close(&c);
  ebb_parameters_free(&list);
}

/* Long enough that threads share the drawing. */
static void test_initialise_with_threads(void **state) {
  (void)state;
  const char *threads[] = {"1", "3"};
  ebb_error err = {""};
  ebb_context c[2];
  ebb_tensor w[2];
  for (int i = 0; i < 2; i++) {
    ebb_parameters list = {0};
    ebb_parameters_add(&list, &w[i], EBB_SHAPE(5000, 301), EBB_INIT_LINEAR, 301, "w");
    char *saved = set_threads(threads[i]);
    assert_true(ebb_context_open(&c[i], "cpu", &err));
    assert_true(ebb_context_reserve(&c[i], EBB_WEIGHTS, (size_t)8 << 20, &err));
    assert_true(ebb_weights_initialise(&c[i], &list, 5, &err));
    ebb_parameters_free(&list);
    restore_threads(saved);
  }
  assert_memory_equal(w[0].data, w[1].data, ebb_bytes(w[0]));
  for (int i = 0; i < 2; i++)
    ebb_context_close(&c[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_single),
                                     cmocka_unit_test(test_sharded),
                                     cmocka_unit_test(test_large_pieces),
                                     cmocka_unit_test(test_large_pieces_on_a_gpu),
                                     cmocka_unit_test(test_dtypes_of_a_list),
                                     cmocka_unit_test(test_hostile_index),
                                     cmocka_unit_test(test_nothing_there),
                                     cmocka_unit_test(test_all_mismatches_at_once),
                                     cmocka_unit_test(test_memory_too_small),
                                     cmocka_unit_test(test_initialise),
                                     cmocka_unit_test(test_initialise_with_threads)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
