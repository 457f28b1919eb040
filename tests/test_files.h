/* What tests of files share: a folder of their own, files in it, errors with words in them. */
#ifndef EBB_TESTS_TEST_FILES_H
#define EBB_TESTS_TEST_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/error.h"

static char folder[64];

static inline int folder_make(void **state) {
  (void)state;
  strcpy(folder, "/tmp/ebb-test-XXXXXX");
  return mkdtemp(folder) != NULL ? 0 : -1;
}

static inline int folder_remove(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

/* folder/name, in one of four static buffers. */
static inline const char *at(const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static inline void put(const char *path, const void *data, size_t bytes) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, bytes, f), bytes);
  assert_int_equal(fclose(f), 0);
}

static inline void put_text(const char *path, const char *text) {
  put(path, text, strlen(text));
}

static inline int files_in(const char *path) {
  char command[600];
  snprintf(command, sizeof command, "find '%s' -type f | wc -l", path);
  FILE *p = popen(command, "r");
  int n = -1;
  assert_non_null(p);
  assert_int_equal(fscanf(p, "%d", &n), 1);
  pclose(p);
  return n;
}

/* The message has these words; the error is cleared. */
static inline void assert_says(ebb_error *err, const char *words) {
  if (strstr(err->text, words) == NULL)
    fail_msg("expected \"%s\" in \"%s\"", words, err->text);
  err->text[0] = '\0';
}

static inline void assert_fine(const ebb_error *err) {
  assert_string_equal(err->text, "");
}

#endif
