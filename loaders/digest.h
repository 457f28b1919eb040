/* The SHA-256 of large files, computed on a thread of its own: the hash of 57 GB of weights takes minutes, and nothing
 * but the provenance at the end of a run waits for it. */
#ifndef EBB_LOADERS_DIGEST_H
#define EBB_LOADERS_DIGEST_H

#include "kernels/error.h"

typedef struct ebb_digest ebb_digest;

/* Starts hashing `count` open files from their beginnings. The descriptors are duplicated: the caller may close its own,
 * and files that are renamed or removed meanwhile do no harm. paths are for messages. Errors: no descriptor, no
 * thread. */
bool ebb_digest_start(ebb_digest **d, int count, const int *fds, const char *const *paths, ebb_error *err);
/* Waits; hex becomes the SHA-256 over the files' SHA-256 (as hex digits), in their order. Frees d in any case. A digest
 * that is NULL is done already: hex stays. Errors: a file that cannot be read to its end. */
bool ebb_digest_finish(ebb_digest **d, char hex[65], ebb_error *err);
void ebb_digest_abandon(ebb_digest **d); /* stops it; NULL is fine */

#endif
