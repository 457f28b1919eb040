/* A file that appears whole or not at all: written under a temporary name beside its place, synced, renamed.
 */
#ifndef EBB_LOADERS_NEWFILE_H
#define EBB_LOADERS_NEWFILE_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdio.h>

typedef struct ebb_newfile {
  FILE *stream; /* for libraries that want one; NULL once closed */
  char *path;   /* where it will be */
  char *temp;   /* where it is until the commit */
} ebb_newfile;

/* Creates the temporary file. Errors: folder missing, not writable, no memory. */
bool ebb_newfile_open(ebb_newfile *file, const char *path, ebb_error *err);

/* Appends `size` bytes. Errors: disk full and the like. */
bool ebb_newfile_write(ebb_newfile *file, const void *data, size_t size, ebb_error *err);

/* Flushes, syncs, renames to `path` and releases the struct. On failure the temporary file is removed. */
bool ebb_newfile_commit(ebb_newfile *file, ebb_error *err);

/* Removes the temporary file and releases the struct; a zeroed or committed struct is fine. */
void ebb_newfile_discard(ebb_newfile *file);

#endif
