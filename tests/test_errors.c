/* Files that cannot be written or read: a message, nothing half-written. The disk is made full by a limit on
 * file size, which gives EFBIG where a full disk gives ENOSPC and takes the same way through the code. */
#include "tests/test_files.h"

#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/safetensors.h"
#include "loaders/store.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void limit(rlim_t bytes) {
  struct rlimit r;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
  r.rlim_cur = bytes;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static int set_up(void **state) {
  signal(SIGXFSZ, SIG_IGN);
  return folder_make(state);
}

static int tear_down(void **state) {
  limit(RLIM_INFINITY);
  return folder_remove(state);
}

static void test_error_is_told_once(void **state) {
  (void)state;
  ebb_error err = {""};
  assert_false(ebb_fail(&err, "first %d", 1));
  assert_false(ebb_fail(&err, "second"));
  assert_string_equal(err.text, "first 1");
  ebb_fail_also(&err, ", more");
  assert_string_equal(err.text, "first 1, more");
  for (int i = 0; i < 400; i++)
    ebb_fail_also(&err, "%s", "0123456789");
  assert_string_equal(err.text + strlen(err.text) - 3, "...");
  assert_false(ebb_fail(NULL, "nobody listens"));
}

static void test_writer_keeps_the_old_file(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_file_writer w;
  put_text(at("kept"), "old");
  assert_true(ebb_file_create(&w, at("kept"), &err));
  fputs("new", w.stream);
  ebb_file_abandon(&w);
  ebb_file_abandon(&w);
  assert_int_equal(files_in(folder), 1);
  limit(1000);
  assert_true(ebb_file_create(&w, at("kept"), &err));
  for (int i = 0; i < 5000; i++)
    fputs("0123456789", w.stream);
  assert_false(ebb_file_commit(&w, &err));
  limit(RLIM_INFINITY);
  assert_says(&err, "nothing was left behind");
  assert_int_equal(files_in(folder), 1);
  char *text;
  size_t bytes;
  assert_true(ebb_file_read(at("kept"), 100, &text, &bytes, &err));
  assert_string_equal(text, "old");
  free(text);
  assert_true(ebb_file_create(&w, at("kept"), &err));
  fputs("new", w.stream);
  assert_true(ebb_file_commit(&w, &err));
  assert_true(ebb_file_read(at("kept"), 100, &text, &bytes, &err));
  assert_string_equal(text, "new");
  free(text);
  assert_int_equal(remove(at("kept")), 0);
}

/* The last buffer does not fit: only the flush at commit sees it. */
static void test_full_at_the_last_flush(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_file_writer w;
  limit(8);
  assert_true(ebb_file_create(&w, at("late"), &err));
  assert_true(fputs("0123456789", w.stream) >= 0);
  assert_false(ebb_file_commit(&w, &err));
  limit(RLIM_INFINITY);
  assert_says(&err, "File too large");
  assert_int_equal(files_in(folder), 0);
}

static void test_safetensors_full(void **state) {
  (void)state;
  ebb_error err = {""};
  const ebb_st_declare t = {"x", EBB_F32, 1, {100000}};
  float *x = calloc(100000, sizeof *x);
  for (rlim_t most = 0; most <= 400000; most = 3 * most + 50) {
    ebb_st_writer *w = NULL;
    limit(most);
    bool ok = ebb_st_writer_open(&w, at("x.safetensors"), &t, 1, NULL, 0, &err);
    for (int i = 0; ok && i < 100; i++)
      ok = ebb_st_writer_append(w, x + 1000 * i, 4000, &err);
    ok = ok && ebb_st_writer_finish(&w, &err);
    ebb_st_writer_abandon(&w);
    limit(RLIM_INFINITY);
    assert_false(ok);
    assert_int_not_equal(err.text[0], '\0');
    err.text[0] = '\0';
    assert_int_equal(files_in(folder), 0);
  }
  free(x);
}

/* A run on a full disk: no index, no half shard, and the same folder serves again. */
static void test_store_full(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_video video = {.id = (char *)"O1/1/1", .group = (char *)"O1/1", .category = (char *)"O1"};
  ebb_dataset set = {.root = (char *)"r", .videos = &video, .count = 1};
  ebb_feature feature = {"x", false, false, 1, {10000}};
  int step = 0, id;
  double sigma = 0;
  ebb_feature_set s = {.model = "m",
                       .step_count = 1,
                       .steps = &step,
                       .sigmas = &sigma,
                       .feature_count = 1,
                       .features = &feature};
  float *x = calloc(10000, sizeof *x);
  const float *data[] = {x};
  ebb_store_writer *w;
  const int64_t zero = 0;
  assert_true(ebb_store_create(&w, at("run"), &set, &err));
  assert_true(ebb_store_declare(w, &s, &id, &err));
  limit(20000);
  assert_false(ebb_store_write(w, id, 1, &zero, data, &err));
  limit(RLIM_INFINITY);
  assert_says(&err, "disk full");
  ebb_store_abandon(&w);
  assert_int_equal(files_in(folder), 0);
  assert_true(ebb_store_create(&w, at("run"), &set, &err));
  assert_true(ebb_store_declare(w, &s, &id, &err));
  assert_true(ebb_store_write(w, id, 1, &zero, data, &err));
  limit(50);
  assert_false(ebb_store_finish(&w, NULL, &err)); /* the index does not fit */
  limit(RLIM_INFINITY);
  assert_null(w);
  assert_says(&err, "index.json");
  assert_int_equal(files_in(folder), 1);
  ebb_store store;
  assert_false(ebb_store_open(&store, at("run"), &err));
  assert_says(&err, "not finished");
  free(x);
  char command[128];
  snprintf(command, sizeof command, "rm -r '%s/run'", folder);
  assert_int_equal(system(command), 0);
}

static void test_folders(void **state) {
  (void)state;
  ebb_error err = {""};
  assert_true(ebb_make_folders(at("a/b//c/"), &err));
  assert_true(ebb_is_folder(at("a/b/c")));
  assert_true(ebb_make_folders(at("a/b"), &err));
  put_text(at("a/file"), "x");
  assert_false(ebb_make_folders(at("a/file/d"), &err));
  assert_says(&err, "cannot make the folder");
  assert_false(ebb_make_folders(at("a/file"), &err));
  assert_says(&err, "something else is there");
  ebb_file_writer w;
  assert_false(ebb_file_create(&w, at("a/none/x"), &err));
  assert_says(&err, "cannot create");
  assert_false(ebb_file_create(&w, at("a/b"), &err)); /* a folder is in the way */
  assert_says(&err, "no regular file");
  assert_false(ebb_file_create(&w, "/dev/null", &err));
  assert_says(&err, "no regular file");
  assert_int_equal(symlink(at("a/file"), at("a/link")),
                   0); /* a link stays one; what it points to is written */
  assert_true(ebb_file_create(&w, at("a/link"), &err) && ebb_file_write(&w, "new", 3, &err) &&
              ebb_file_commit(&w, &err));
  char link[512];
  assert_true(readlink(at("a/link"), link, sizeof link) > 0);
  assert_int_equal(files_in(folder), 1);
}

static void test_reading(void **state) {
  (void)state;
  ebb_error err = {""};
  char *text, hex[65];
  size_t bytes;
  put_text(at("small"), "abc");
  assert_true(ebb_file_read(at("small"), 3, &text, &bytes, &err));
  assert_int_equal(bytes, 3);
  assert_string_equal(text, "abc");
  free(text);
  assert_false(ebb_file_read(at("small"), 2, &text, &bytes, &err));
  assert_says(&err, "at most 2");
  assert_false(ebb_file_read(at("nothing"), 2, &text, &bytes, &err));
  assert_says(&err, "No such file");
  assert_false(ebb_file_read("/dev/zero", 2, &text, &bytes, &err));
  assert_says(&err, "not a regular file");
  assert_int_equal(mkfifo(at("pipe"), 0600), 0);
  assert_false(ebb_file_read(at("pipe"), 2, &text, &bytes, &err)); /* and does not hang */
  assert_says(&err, "not a regular file");
  assert_true(ebb_file_sha256(at("small"), hex, &err));
  assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  ebb_sha256("", 0, hex);
  assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void test_json(void **state) {
  (void)state;
  ebb_error err = {""};
  put_text(at("j.json"), "{\n \"a\": 1,\n \"a\": 2}");
  assert_null(ebb_json_read(at("j.json"), &err));
  assert_says(&err, "j.json:3:");
  put_text(at("j.json"),
           "{\"n\": 5, \"x\": 1.5, \"b\": true, \"s\": \"t\", \"nil\": null, \"list\": [1, 2, 3], "
           "\"real\": [1, 0.5], \"odd\": [1, \"2\"], \"none\": [], \"truth\": [true, false]}");
  json_t *o = ebb_json_read(at("j.json"), &err);
  assert_non_null(o);
  ebb_json j = {o, "j.json", &err};
  int64_t ints[3];
  double reals[3];
  bool bools[2];
  assert_int_equal(ebb_json_int(j, "n", 0, 5), 5);
  assert_true(ebb_json_real(j, "x", 0, 2) == 1.5);
  assert_true(ebb_json_real(j, "n", 0, 9) == 5.0);
  assert_true(ebb_json_bool_or(j, "b", false));
  assert_string_equal(ebb_json_text_or(j, "s", "u"), "t");
  assert_int_equal(ebb_json_int_or(j, "nil", 0, 9, 7), 7);
  assert_int_equal(ebb_json_int_or(j, "absent", 0, 9, 8), 8);
  assert_int_equal(ebb_json_ints(j, "list", false, 3, 1, 3, ints), 3);
  assert_int_equal(ints[2], 3);
  assert_int_equal(ebb_json_reals(j, "real", false, 3, reals), 2);
  assert_int_equal(ebb_json_bools(j, "truth", false, 2, bools), 2);
  assert_true(bools[0] && !bools[1]);
  assert_int_equal(ebb_json_ints(j, "absent", true, 3, 1, 3, ints), 0);
  assert_fine(&err);
  ebb_json_int(j, "x", 0, 9);
  assert_says(&err, "\"x\" is a real number, expected an integer from 0 to 9");
  ebb_json_int(j, "n", 0, 4);
  assert_says(&err, "\"n\" is 5, expected an integer from 0 to 4");
  ebb_json_int(j, "nil", 0, 4);
  assert_says(&err, "\"nil\" is missing");
  ebb_json_text_or(j, "n", "");
  assert_says(&err, "expected a string");
  assert_int_equal(ebb_json_ints(j, "list", false, 2, 1, 3, ints), 0);
  assert_says(&err, "has 3 entries, expected 1 to 2");
  assert_int_equal(ebb_json_ints(j, "odd", false, 3, 1, 3, ints), 0);
  assert_says(&err, "\"odd\"[1]");
  assert_int_equal(ebb_json_ints(j, "none", true, 3, 1, 3, ints), 0);
  assert_says(&err, "0 entries");
  assert_int_equal(ebb_json_ints(j, "absent", false, 3, 1, 3, ints), 0);
  assert_says(&err, "\"absent\" is missing");
  ebb_json_bool_or(j, "n", true);
  ebb_json_real(j, "s", 0, 1); /* the first message stays */
  assert_says(&err, "\"n\" is an integer, expected true or false");
  json_decref(o);
}

static void test_names_in_order(void **state) {
  (void)state;
  const char *const order[] = {"",     "01", "1",   "2", "010", "10",  "O1",
                               "O1/2", "O2", "O10", "a", "a1",  "a1b", "b"};
  int n = sizeof order / sizeof *order;
  for (int i = 0; i < n; i++)
    for (int k = 0; k < n; k++) {
      int sign = ebb_compare_natural(order[i], order[k]);
      assert_int_equal((sign > 0) - (sign < 0), (i > k) - (i < k));
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_error_is_told_once),
                                     cmocka_unit_test(test_writer_keeps_the_old_file),
                                     cmocka_unit_test(test_full_at_the_last_flush),
                                     cmocka_unit_test(test_safetensors_full),
                                     cmocka_unit_test(test_store_full),
                                     cmocka_unit_test(test_folders),
                                     cmocka_unit_test(test_reading),
                                     cmocka_unit_test(test_json),
                                     cmocka_unit_test(test_names_in_order)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
