/* A trial of hostile input in a process of its own, for libraries that crash or loop on some damaged files. */
#ifndef EBB_LOADERS_TRIAL_H
#define EBB_LOADERS_TRIAL_H

#include "kernels/error.h"

/* Calls try(path) in a child and waits for its end; the child ends with it, with its parent (on Linux), after
 * `seconds` by the clock or of CPU, and by the signals that end a program, whatever this program does with
 * them. Nothing of what it reads comes back. False: it did not come to its end; errors name the path and
 * `library`. No other thread may hold a lock that `try` takes. */
bool ebb_survives(const char *path, const char *library, void (*try)(const char *path), int seconds,
                  ebb_error *err);

#endif
