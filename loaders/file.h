/* What every reader and writer of files needs: whole small files, and writing that leaves either the whole
 * new file or the old state. */
#ifndef EBB_LOADERS_FILE_H
#define EBB_LOADERS_FILE_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The bytes of a regular file, NUL-terminated (not counted), malloc'ed. Errors: missing, unreadable, over
 * `most`. */
bool ebb_file_read(const char *path, size_t most, char **text, size_t *bytes, ebb_error *err);

/* Bytes [from, from+bytes) of an open file, whole, by pread; `path` is for messages. */
bool ebb_read_at(int fd, const char *path, uint64_t from, uint64_t bytes, void *to, ebb_error *err);
/* A name from outside that may stand for a file or folder inside another: not empty, not hidden, no way out. */
bool ebb_is_plain_name(const char *name);

/* A file being written under a temporary name beside `path`: "<path>.partial." and random digits, so that any number
 * of processes may write one path at once; what is there is always whole, of the last to commit. A killed process
 * leaves its temporary file, which nothing reads. */
typedef struct ebb_file_writer {
  FILE *stream; /* write here; errors are found at commit */
  char *path, *temporary;
} ebb_file_writer;
bool ebb_file_create(ebb_file_writer *w, const char *path, ebb_error *err);
bool ebb_file_write(ebb_file_writer *w, const void *data, size_t bytes,
                    ebb_error *err); /* fwrite with a message */
/* Flushes, syncs the file, renames it into place, syncs the folder. On failure nothing is left. Closes w in
 * any case. */
bool ebb_file_commit(ebb_file_writer *w, ebb_error *err);
/* The same, but what is there stays: *taken says that somebody was first and this file is gone, which is no error. */
bool ebb_file_commit_new(ebb_file_writer *w, bool *taken, ebb_error *err);
void ebb_file_abandon(ebb_file_writer *w); /* a zeroed or committed writer is fine */

/* What the first bytes of a file are when they are what people have in place of weights, images and configs:
 * "a Git LFS pointer, not the file itself (fetch it with `git lfs pull`)", an HTML page, a pickle or zip
 * (.bin, .pt). NULL: none of these. */
const char *ebb_file_disguise(const char *head, size_t bytes);

/* Syncs the folder that holds `path`: what was renamed there is safe after it. */
bool ebb_sync_folder_of(const char *path, ebb_error *err);
bool ebb_make_folders(const char *path, ebb_error *err); /* mkdir -p */
bool ebb_remove_folder(const char *path,
                       ebb_error *err); /* with all that is in it, following no links; absent is fine */
/* `memory`, or an abort with a message when it is NULL: for small allocations whose failure nobody can
 * handle. Sizes that a file asks for are not small. */
void *ebb_must(void *memory);
/* "a/b" from parts, malloc'ed; never fails (aborts when memory is out). */
char *ebb_path_join(const char *folder, const char *name);
/* malloc'ed printf. */
__attribute__((format(printf, 1, 2))) char *ebb_format(const char *format, ...);

/* Order of names with numbers in them: "O1/2" before "O1/10"; equal numbers of other lengths ("1", "01") by
 * their bytes. */
int ebb_compare_natural(const char *a, const char *b);
/* The names in a folder in natural order, without those that start with a dot (".", "..", "._scene_001.png").
 * At most 10^6. Free with ebb_names_free. */
bool ebb_folder_list(const char *path, char ***names, int64_t *count, ebb_error *err);
void ebb_names_free(char **names, int64_t count);
bool ebb_is_folder(const char *path);
bool ebb_file_size(const char *path, uint64_t *bytes, ebb_error *err); /* of a regular file */
bool ebb_is_there(const char *path);                                   /* anything, links followed */

/* SHA-256 of bytes or of a whole file as 64 hex digits and NUL. */
void ebb_sha256(const void *data, size_t bytes, char hex[65]);
bool ebb_file_sha256(const char *path, char hex[65], ebb_error *err);

#endif
