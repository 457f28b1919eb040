/* One error, told once: what is wrong, where, what was expected, and what to do. Filled by everything that
 * can fail for a reason outside the program; the first message wins. Functions that take one return
 * true when all went well, and false after filling it. */
#ifndef EBB_KERNELS_ERROR_H
#define EBB_KERNELS_ERROR_H

#include <stdbool.h>

#define EBB_ERROR_TEXT 2048

typedef struct ebb_error {
  char text[EBB_ERROR_TEXT]; /* empty: no error */
} ebb_error;

/* Fills err with the formatted message unless it holds one already. Always returns false, so that a
 * failing function can end with `return ebb_fail(err, "%s: ...", path);`. err may be NULL. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
bool ebb_fail(ebb_error *err, const char *format, ...);

/* Appends to a message that is already there (another finding of the same kind: all wrong shapes at once);
 * text that no longer fits is cut and marked with "...". Always returns false. err may be NULL. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
bool ebb_fail_also(ebb_error *err, const char *format, ...);

#endif
