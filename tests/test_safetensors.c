/* safetensors: what is written is read back, and no header is believed. Host code, exact. */
#include "tests/test_files.h"

#include "kernels/numeric.h"
#include "loaders/safetensors.h"

/* A file with this header (its length in front) and `data` zero bytes after it. */
static void put_st(const char *path, const char *header, size_t data) {
  size_t n = strlen(header);
  uint64_t length = n;
  char *all = calloc(1, 8 + n + data);
  assert_non_null(all);
  memcpy(all, &length, 8);
  memcpy(all + 8, header, n);
  put(path, all, 8 + n + data);
  free(all);
}

static void refuse(const char *header, size_t data, const char *words) {
  ebb_error err = {""};
  ebb_safetensors st;
  put_st(at("bad.safetensors"), header, data);
  if (ebb_safetensors_open(&st, at("bad.safetensors"), &err))
    fail_msg("accepted: %s", header);
  assert_non_null(strstr(err.text, "bad.safetensors"));
  assert_says(&err, words);
  ebb_safetensors_close(&st);
}

static void test_round_trip(void **state) {
  (void)state;
  ebb_error err = {""};
  const ebb_st_declare tensors[] = {{"b/second", EBB_F32, 2, {2, 3}},
                                    {"a \"quoted\" \xC3\xA9", EBB_I64, 1, {3}},
                                    {"empty", EBB_F32, 2, {0, 5}},
                                    {"scalar", EBB_F64, 0, {0}},
                                    {"bytes", EBB_U8, 1, {5}}};
  const char *const metadata[] = {"made by", "a test", "two\nlines", "\"x\""};
  const float f[6] = {1.5f, -2, 3, 1e-30f, 5, -0.0f};
  const int64_t n[3] = {1, -2, (int64_t)1 << 53};
  const double d = 0.1;
  ebb_st_writer *w;
  assert_true(ebb_st_writer_open(&w, at("x.safetensors"), tensors, 5, metadata, 2, &err));
  assert_true(ebb_st_writer_append(w, f, 10, &err)); /* in pieces that ignore the elements */
  assert_true(ebb_st_writer_append(w, (const char *)f + 10, sizeof f - 10, &err));
  assert_true(ebb_st_writer_append(w, n, sizeof n, &err));
  assert_true(ebb_st_writer_append(w, &d, sizeof d, &err));
  assert_true(ebb_st_writer_append(w, "\1\2\3\4\5", 5, &err));
  assert_int_not_equal(access(at("x.safetensors"), F_OK), 0); /* not there before it is whole */
  assert_true(ebb_st_writer_finish(&w, &err));
  assert_null(w);
  assert_fine(&err);

  ebb_safetensors st;
  assert_true(ebb_safetensors_open(&st, at("x.safetensors"), &err));
  assert_int_equal(st.count, 5);
  assert_int_equal(st.metadata_count, 2);
  assert_string_equal(st.metadata[2], "two\nlines");
  assert_string_equal(st.metadata[3], "\"x\"");
  assert_string_equal(st.entries[0].name, "a \"quoted\" \xC3\xA9"); /* in order of name */
  const ebb_st_entry *e = ebb_safetensors_find(&st, "b/second");
  assert_non_null(e);
  assert_int_equal(e->rank, 2);
  assert_int_equal(e->shape[1], 3);
  assert_int_equal(e->offset % 8, 0); /* the header is padded */
  float back[6];
  assert_true(ebb_safetensors_read_f32(&st, e, back, &err));
  assert_memory_equal(back, f, sizeof f);
  assert_true(ebb_safetensors_read(&st, e, 8, 4, back, &err));
  assert_true(back[0] == 3.0f);
  assert_false(ebb_safetensors_read(&st, e, 20, 8, back, &err)); /* beyond the tensor, inside the file */
  assert_says(&err, "24 bytes");
  assert_true(ebb_safetensors_read_f32(&st, ebb_safetensors_find(&st, "scalar"), back, &err));
  assert_true(back[0] == 0.1f);
  assert_int_equal(ebb_st_elements(ebb_safetensors_find(&st, "scalar")), 1);
  assert_int_equal(ebb_st_elements(ebb_safetensors_find(&st, "empty")), 0);
  assert_true(ebb_safetensors_read_f32(&st, ebb_safetensors_find(&st, "bytes"), back, &err));
  assert_true(back[4] == 5.0f);
  assert_null(ebb_safetensors_find(&st, "b/secon"));
  assert_null(ebb_safetensors_find(&st, "z"));
  ebb_safetensors_close(&st);
}

/* Every dtype that can be read as float32, over a size that does not divide the reader's piece. */
static void test_conversions(void **state) {
  (void)state;
  enum { N = 600001 };
  ebb_error err = {""};
  uint16_t *half = malloc(N * sizeof *half);
  float *back = malloc(N * sizeof *back);
  for (int i = 0; i < N; i++)
    half[i] = (uint16_t)(i * 7);
  const ebb_dtype kinds[] = {EBB_F16, EBB_BF16};
  for (int k = 0; k < 2; k++) {
    ebb_st_declare t = {"x", kinds[k], 1, {N}};
    ebb_st_writer *w;
    assert_true(ebb_st_writer_open(&w, at("half.safetensors"), &t, 1, NULL, 0, &err));
    assert_true(ebb_st_writer_append(w, half, N * sizeof *half, &err));
    assert_true(ebb_st_writer_finish(&w, &err));
    ebb_safetensors st;
    assert_true(ebb_safetensors_open(&st, at("half.safetensors"), &err));
    assert_true(ebb_safetensors_read_f32(&st, &st.entries[0], back, &err));
    for (int i = 0; i < N; i++) {
      float expected = k == 0 ? ebb_float_of_f16(half[i]) : ebb_float_of_bf16(half[i]);
      assert_int_equal(ebb_bits_of_float(back[i]), ebb_bits_of_float(expected));
    }
    ebb_safetensors_close(&st);
  }
  free(half);
  free(back);
}

static void test_writer_refuses(void **state) {
  (void)state;
  ebb_error err = {""};
  const ebb_st_declare one[] = {{"x", EBB_F32, 1, {2}}},
                       twice[] = {{"x", EBB_F32, 1, {2}}, {"x", EBB_F32, 1, {2}}},
                       vast[] = {{"x", EBB_F32, 3, {(int64_t)1 << 40, (int64_t)1 << 40, 4}}},
                       broken[] = {{"\xFF", EBB_F32, 1, {2}}};
  ebb_st_writer *w;
  assert_false(ebb_st_writer_open(&w, at("w"), twice, 2, NULL, 0, &err));
  assert_says(&err, "two tensors are named \"x\"");
  assert_false(ebb_st_writer_open(&w, at("w"), vast, 1, NULL, 0, &err));
  assert_says(&err, "too large");
  assert_false(ebb_st_writer_open(&w, at("w"), broken, 1, NULL, 0, &err));
  assert_says(&err, "UTF-8");
  assert_false(ebb_st_writer_open(&w, at("no/such/w"), one, 1, NULL, 0, &err));
  assert_says(&err, "cannot create");
  const int files = files_in(folder);
  float x[3] = {1, 2, 3};
  assert_true(ebb_st_writer_open(&w, at("w"), one, 1, NULL, 0, &err));
  assert_false(ebb_st_writer_append(w, x, 12, &err));
  assert_says(&err, "8 are left");
  assert_true(ebb_st_writer_append(w, x, 4, &err));
  assert_false(ebb_st_writer_finish(&w, &err));
  assert_says(&err, "4 bytes of tensors were written, 8 were declared");
  assert_null(w);
  assert_true(ebb_st_writer_open(&w, at("w"), one, 1, NULL, 0, &err));
  ebb_st_writer_abandon(&w);
  assert_int_not_equal(access(at("w"), F_OK), 0);
  assert_int_equal(files_in(folder), files);
}

static void test_hostile_headers(void **state) {
  (void)state;
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
         16, "duplicate");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
         12, "overlap");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
         8, "overlap");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, "belong to no tensor");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 12, "the tensors end at 8");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", 8, "truncated");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "takes 12");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "overflows");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4611686018427387904,2],\"data_offsets\":[0,0]}}", 0,
         "overflows");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,0]}}", 0, "dimension 0");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "dimension 0");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
         "9 dimensions");
  refuse("{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype \"Q4\"");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets");
  refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "not an array");
  refuse("{\"a\":[]}", 4, "not an object");
  refuse("{\"__metadata__\":{\"x\":1}}", 0, "not a string");
  refuse("{\"a\":", 40, "not valid JSON");
}

static void test_not_safetensors(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_safetensors st;
  const struct {
    const char *bytes, *words;
  } cases[] = {{"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"},
               {"\n<!DOCTYPE html><html><body>Sign in</body></html>", "HTML"},
               {"<HTML><head>", "HTML"},
               {"PK\3\4\x14\1\1\1\1\1\1\1\1\1\1\1", "zip"},
               {"\x80\2}q\1(X\4...........", "pickle"},
               {"abc", "3 bytes"},
               {"", "0 bytes"},
               {"hello, world, this is text", "no JSON object"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    put_text(at("odd.safetensors"), cases[i].bytes);
    assert_false(ebb_safetensors_open(&st, at("odd.safetensors"), &err));
    assert_says(&err, cases[i].words);
  }
  put(at("odd.safetensors"), "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F{}", 10);
  assert_false(ebb_safetensors_open(&st, at("odd.safetensors"), &err));
  assert_says(&err, "at most");
  put(at("odd.safetensors"), "\x64\0\0\0\0\0\0\0{}", 10);
  assert_false(ebb_safetensors_open(&st, at("odd.safetensors"), &err));
  assert_says(&err, "truncated");
  assert_false(ebb_safetensors_open(&st, at("none.safetensors"), &err));
  assert_says(&err, "No such file");
  assert_false(ebb_safetensors_open(&st, folder, &err));
  assert_says(&err, "not a regular file");
  put(at("odd.safetensors"), "\2\0\0\0\0\0\0\0{}", 10); /* no tensors at all is a valid file */
  assert_true(ebb_safetensors_open(&st, at("odd.safetensors"), &err));
  assert_int_equal(st.count, 0);
  ebb_safetensors_close(&st);
}

/* Every shorter version of a good file is refused. */
static void test_every_truncation(void **state) {
  (void)state;
  const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
  put_st(at("good"), header, 8);
  ebb_error err = {""};
  ebb_safetensors st;
  assert_true(ebb_safetensors_open(&st, at("good"), &err));
  ebb_safetensors_close(&st);
  for (long size = 8 + (long)sizeof header - 1 + 7; size >= 0; size--) {
    assert_int_equal(truncate(at("good"), size), 0);
    assert_false(ebb_safetensors_open(&st, at("good"), &err));
    assert_int_not_equal(err.text[0], '\0');
    err.text[0] = '\0';
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_conversions),
      cmocka_unit_test(test_writer_refuses),  cmocka_unit_test(test_hostile_headers),
      cmocka_unit_test(test_not_safetensors), cmocka_unit_test(test_every_truncation)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
