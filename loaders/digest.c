#include "loaders/digest.h"

#include "loaders/file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE ((size_t)4 << 20)

struct ebb_digest {
  int count;
  int *fds;
  char **paths;
  pthread_t thread;
  atomic_bool stop;
  /* the thread's, until it is joined */
  char sha256[65];
  ebb_error error;
};

/* SHA-256 of one file as 64 hex digits; false when it cannot be read or the digest was told to stop. */
static bool hash_file(ebb_digest *d, int i, EVP_MD_CTX *ctx, char *piece, char hex[64]) {
  struct stat s;
  if (fstat(d->fds[i], &s) != 0)
    return ebb_fail(&d->error, "%s: cannot stat: %s", d->paths[i], strerror(errno));
  if (EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
    return ebb_fail(&d->error, "%s: cannot compute SHA-256", d->paths[i]);
  const uint64_t size = (uint64_t)s.st_size;
  for (uint64_t at = 0; at < size; at += PIECE) {
    size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;
    if (atomic_load(&d->stop))
      return false;
    if (!ebb_read_at(d->fds[i], d->paths[i], at, n, piece, &d->error))
      return false;
    EVP_DigestUpdate(ctx, piece, n);
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  if (EVP_DigestFinal_ex(ctx, digest, NULL) != 1)
    return ebb_fail(&d->error, "%s: cannot compute SHA-256", d->paths[i]);
  for (int k = 0; k < 32; k++) {
    hex[2 * k] = "0123456789abcdef"[digest[k] >> 4];
    hex[2 * k + 1] = "0123456789abcdef"[digest[k] & 15];
  }
  return true;
}

static void *hash_files(void *user) {
  ebb_digest *d = user;
  char *all = ebb_must(malloc(64 * (size_t)d->count + 1)), *piece = ebb_must(malloc(PIECE));
  EVP_MD_CTX *ctx = ebb_must(EVP_MD_CTX_new());
  bool ok = true;
  for (int i = 0; ok && i < d->count; i++)
    ok = hash_file(d, i, ctx, piece, all + 64 * i);
  if (ok)
    ebb_sha256(all, 64 * (size_t)d->count, d->sha256);
  EVP_MD_CTX_free(ctx);
  free(piece);
  free(all);
  return NULL;
}

static void release(ebb_digest **d) {
  for (int i = 0; i < (*d)->count; i++) {
    close((*d)->fds[i]);
    free((*d)->paths[i]);
  }
  free((*d)->fds);
  free((*d)->paths);
  free(*d);
  *d = NULL;
}

bool ebb_digest_start(ebb_digest **out, int count, const int *fds, const char *const *paths, ebb_error *err) {
  ebb_digest *d = *out = ebb_must(calloc(1, sizeof *d));
  d->fds = ebb_must(malloc(((size_t)count + 1) * sizeof *d->fds));
  d->paths = ebb_must(malloc(((size_t)count + 1) * sizeof *d->paths));
  atomic_init(&d->stop, false);
  bool ok = true;
  for (int i = 0; ok && i < count; i++) {
    int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
      ok = ebb_fail(err, "%s: cannot be opened a second time, to compute its SHA-256: %s", paths[i],
                    strerror(errno));
    } else {
      d->fds[d->count] = fd;
      d->paths[d->count++] = ebb_format("%s", paths[i]);
    }
  }
  int failure = ok ? pthread_create(&d->thread, NULL, hash_files, d) : 0;
  if (failure != 0)
    ok = ebb_fail(err, "%s: no thread to compute its SHA-256: %s", paths[0], strerror(failure));
  if (!ok)
    release(out);
  return ok;
}

bool ebb_digest_finish(ebb_digest **d, char hex[65], ebb_error *err) {
  if (*d == NULL)
    return true;
  pthread_join((*d)->thread, NULL);
  bool ok = (*d)->error.text[0] == '\0' || ebb_fail(err, "%s", (*d)->error.text);
  if (ok)
    memcpy(hex, (*d)->sha256, 65);
  release(d);
  return ok;
}

void ebb_digest_abandon(ebb_digest **d) {
  if (*d == NULL)
    return;
  atomic_store(&(*d)->stop, true);
  pthread_join((*d)->thread, NULL);
  release(d);
}
