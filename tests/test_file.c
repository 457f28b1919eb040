/* Files are there whole or not at all, also when several processes write one path. Host code, exact. */
#include "tests/test_files.h"

#include "loaders/file.h"

#include <sys/stat.h>
#include <sys/wait.h>

#define ROUNDS 60
#define BYTES 20000 /* more than a stream's buffer: written in pieces */

/* BYTES of `letter` to path; 0: written, 1: somebody was first (only when `new`), 2: an error. */
static int write_letters(const char *path, char letter, bool new) {
  ebb_error err = {0};
  ebb_file_writer w;
  bool taken = false;
  char *text = ebb_must(malloc(BYTES));
  memset(text, letter, BYTES);
  bool ok = ebb_file_create(&w, path, &err) && ebb_file_write(&w, text, BYTES, &err) &&
            (new ? ebb_file_commit_new(&w, &taken, &err) : ebb_file_commit(&w, &err));
  free(text);
  return ok ? taken : 2;
}

/* The exit codes of three processes that write path at the same moment: how many of each. */
static void write_together(const char *path, bool new, int counts[3]) {
  pid_t child[3];
  int go[2];
  assert_int_equal(pipe(go), 0);
  for (int i = 0; i < 3; i++) {
    child[i] = fork();
    assert_true(child[i] >= 0);
    if (child[i] == 0) {
      char c;
      close(go[1]);
      if (read(go[0], &c, 1) != 0) /* until all are there: end of file */
        _exit(2);
      _exit(write_letters(path, (char)('a' + i), new));
    }
  }
  close(go[0]);
  close(go[1]);
  for (int i = 0; i < 3; i++) {
    int status;
    assert_int_equal(waitpid(child[i], &status, 0), child[i]);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 3);
    counts[WEXITSTATUS(status)]++;
  }
}

static char letter_in(const char *path) {
  ebb_error err = {0};
  char *text;
  size_t bytes;
  assert_true(ebb_file_read(path, 1 << 20, &text, &bytes, &err));
  assert_int_equal(bytes, BYTES);
  const char letter = text[0];
  for (size_t i = 0; i < bytes; i++)
    assert_int_equal(text[i], letter);
  free(text);
  return letter;
}

static void test_processes_write_one_path(void **state) {
  (void)state;
  int counts[3] = {0};
  for (int round = 0; round < ROUNDS; round++) {
    write_together(at("one"), false, counts);
    letter_in(at("one"));
  }
  assert_int_equal(counts[0], 3 * ROUNDS);
  assert_int_equal(files_in(folder), 1); /* no temporary file is left */
  unlink(at("one"));
}

static void test_one_is_first(void **state) {
  (void)state;
  for (int round = 0; round < ROUNDS; round++) {
    int counts[3] = {0};
    write_together(at("first"), true, counts);
    assert_int_equal(counts[0], 1);
    assert_int_equal(counts[1], 2);
    const char letter = letter_in(at("first"));
    assert_int_equal(write_letters(at("first"), 'z', true), 1);
    assert_int_equal(letter_in(at("first")), letter);
    assert_int_equal(files_in(folder), 1);
    unlink(at("first"));
  }
}

static void test_rights_are_those_of_the_process(void **state) {
  (void)state;
  struct stat s;
  const mode_t before = umask(027);
  assert_int_equal(write_letters(at("rights"), 'a', false), 0);
  umask(before);
  assert_int_equal(stat(at("rights"), &s), 0);
  assert_int_equal(s.st_mode & 0777, 0640);
  unlink(at("rights"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_processes_write_one_path),
                                     cmocka_unit_test(test_one_is_first),
                                     cmocka_unit_test(test_rights_are_those_of_the_process)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
