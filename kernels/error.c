#include "kernels/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void append(ebb_error *err, size_t at, const char *format, va_list args) {
  int n = vsnprintf(err->text + at, sizeof err->text - at, format, args);
  if (n >= 0 && (size_t)n >= sizeof err->text - at)
    memcpy(err->text + sizeof err->text - 4, "...", 4);
}

bool ebb_fail(ebb_error *err, const char *format, ...) {
  if (err == NULL || err->text[0] != '\0')
    return false;
  va_list args;
  va_start(args, format);
  append(err, 0, format, args);
  va_end(args);
  return false;
}

bool ebb_fail_also(ebb_error *err, const char *format, ...) {
  if (err == NULL)
    return false;
  size_t at = strlen(err->text);
  if (at >= sizeof err->text - 1)
    return false;
  va_list args;
  va_start(args, format);
  append(err, at, format, args);
  va_end(args);
  return false;
}
