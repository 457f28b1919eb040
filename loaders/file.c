#include "loaders/file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens without waiting (a FIFO would hang) and refuses everything but regular files. -1 on failure. */
static int open_regular(const char *path, uint64_t *bytes, ebb_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    ebb_fail(err, "%s: cannot open: %s", path, strerror(errno));
    return -1;
  }
  struct stat s;
  if (fstat(fd, &s) != 0)
    ebb_fail(err, "%s: cannot stat: %s", path, strerror(errno));
  else if (!S_ISREG(s.st_mode))
    ebb_fail(err, "%s: not a regular file%s", path, S_ISDIR(s.st_mode) ? " but a folder" : "");
  else {
    *bytes = (uint64_t)s.st_size;
    return fd;
  }
  close(fd);
  return -1;
}

bool ebb_file_read(const char *path, size_t most, char **text, size_t *bytes, ebb_error *err) {
  uint64_t size = 0;
  int fd = open_regular(path, &size, err);
  if (fd < 0)
    return false;
  char *p = NULL;
  size_t got = 0;
  if (size > most)
    ebb_fail(err, "%s: %llu bytes, at most %zu are accepted here", path, (unsigned long long)size, most);
  else if ((p = malloc((size_t)size + 1)) == NULL)
    ebb_fail(err, "%s: no memory for its %llu bytes", path, (unsigned long long)size);
  while (p != NULL && got < size) {
    ssize_t n = read(fd, p + got, (size_t)size - got);
    if (n > 0) {
      got += (size_t)n;
    } else if (n == 0) {
      break;
    } else if (errno != EINTR) {
      ebb_fail(err, "%s: cannot read: %s", path, strerror(errno));
      free(p);
      p = NULL;
    }
  }
  close(fd);
  if (p == NULL)
    return false;
  p[got] = '\0';
  *text = p;
  *bytes = got;
  return true;
}

bool ebb_is_plain_name(const char *name) {
  return name[0] != '\0' && name[0] != '.' && strlen(name) < 256 && strpbrk(name, "/\\") == NULL &&
         strstr(name, "..") == NULL;
}

bool ebb_read_at(int fd, const char *path, uint64_t from, uint64_t bytes, void *to, ebb_error *err) {
  for (uint64_t done = 0; done < bytes;) {
    uint64_t piece = bytes - done < ((uint64_t)1 << 30) ? bytes - done : (uint64_t)1 << 30;
    ssize_t n = pread(fd, (char *)to + done, (size_t)piece, (off_t)(from + done));
    if (n > 0)
      done += (uint64_t)n;
    else if (n == 0)
      return ebb_fail(err, "%s: ends at byte %llu, expected %llu more: it became shorter while being read",
                      path, (unsigned long long)(from + done), (unsigned long long)(bytes - done));
    else if (errno != EINTR)
      return ebb_fail(err, "%s: cannot read at byte %llu: %s", path, (unsigned long long)(from + done),
                      strerror(errno));
  }
  return true;
}

/* Where a file written at `path` belongs: behind a symbolic link, at what it points to; never in place of a device or a folder. */
static char *place_of(const char *path, ebb_error *err) {
  struct stat s;
  if (stat(path, &s) != 0) {
    if (lstat(path, &s) != 0 || !S_ISLNK(s.st_mode)) /* no link: another process has just made it */
      return ebb_format("%s", path);
    ebb_fail(err, "%s: a link to nothing: expected a file, or a name that is free", path);
    return NULL;
  }
  if (!S_ISREG(s.st_mode)) {
    ebb_fail(err, "%s: is there and is no regular file: expected a file, or a name that is free", path);
    return NULL;
  }
  char *real = realpath(path, NULL);
  return real ? real : ebb_format("%s", path);
}

/* A new file beside `place` that is this writer's alone: a name of random digits, as process ids are not unique where
 * containers or machines share a folder. -1: not created, errno says why. */
static int create_beside(const char *place, char **name) {
  for (int attempt = 0;; attempt++) {
    uint64_t digits = 0;
    if (getentropy(&digits, sizeof digits) != 0)
      digits = (uint64_t)getpid() << 32 | (uint32_t)attempt;
    *name = ebb_format("%s.partial.%016llx", place, (unsigned long long)digits);
    int fd = open(*name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST || attempt == 100)
      return fd;
    free(*name);
  }
}

bool ebb_file_create(ebb_file_writer *w, const char *path, ebb_error *err) {
  char *place = place_of(path, err);
  *w = (ebb_file_writer){0};
  if (place == NULL)
    return false;
  w->path = place;
  int fd = create_beside(place, &w->temporary);
  if (fd >= 0 && (w->stream = fdopen(fd, "wb")) != NULL)
    return true;
  ebb_fail(err, "%s: cannot create: %s", w->temporary, strerror(errno));
  if (fd >= 0) {
    close(fd);
    unlink(w->temporary);
  }
  free(w->path);
  free(w->temporary);
  *w = (ebb_file_writer){0};
  return false;
}

static const char *hint(int code) {
  bool full = code == 0 || code == ENOSPC || code == EDQUOT || code == EFBIG;
  return full ? " (is the disk full?)" : "";
}

bool ebb_file_write(ebb_file_writer *w, const void *data, size_t bytes, ebb_error *err) {
  errno = 0;
  if (bytes == 0 || fwrite(data, 1, bytes, w->stream) == bytes)
    return true;
  return ebb_fail(err, "%s: cannot write: %s%s", w->path, errno != 0 ? strerror(errno) : "a write failed",
                  hint(errno));
}

void ebb_file_abandon(ebb_file_writer *w) {
  if (w->stream != NULL)
    fclose(w->stream);
  if (w->temporary != NULL)
    unlink(w->temporary);
  free(w->path);
  free(w->temporary);
  *w = (ebb_file_writer){0};
}

/* A renamed file is only safe when its folder is on the disk too. File systems that cannot sync a folder say
 * EINVAL. */
bool ebb_sync_folder_of(const char *path, ebb_error *err) {
  const char *slash = strrchr(path, '/');
  char *folder = slash == NULL   ? ebb_format(".")
                 : slash == path ? ebb_format("/")
                                 : ebb_format("%.*s", (int)(slash - path), path);
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool ok = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP);
  if (!ok)
    ebb_fail(err, "%s: cannot sync the folder: %s", folder, strerror(errno));
  if (fd >= 0)
    close(fd);
  free(folder);
  return ok;
}

/* Everything written is on the disk and the stream closed; false: *what failed, and *code. */
static bool flush(ebb_file_writer *w, const char **what, int *code) {
  *what = NULL;
  errno = 0;
  bool broken =
      ferror(w->stream) != 0; /* an earlier write failed; its errno is gone unless the flush fails too */
  if (fflush(w->stream) != 0 || broken)
    *what = "cannot write";
  else if (fsync(fileno(w->stream)) != 0)
    *what = "cannot sync";
  *code = errno;
  if (fclose(w->stream) != 0 && *what == NULL) {
    *what = "cannot close";
    *code = errno;
  }
  w->stream = NULL;
  return *what == NULL;
}

static bool fail_commit(ebb_file_writer *w, const char *what, int code, ebb_error *err) {
  ebb_fail(err, "%s: %s: %s; nothing was left behind%s", w->path, what,
           code != 0 ? strerror(code) : "a write failed", hint(code));
  ebb_file_abandon(w);
  return false;
}

bool ebb_file_commit(ebb_file_writer *w, ebb_error *err) {
  const char *what;
  int code;
  if (!flush(w, &what, &code))
    return fail_commit(w, what, code, err);
  if (rename(w->temporary, w->path) != 0)
    return fail_commit(w, "cannot rename into place", errno, err);
  free(w->temporary);
  w->temporary = NULL;
  bool ok = ebb_sync_folder_of(w->path, err);
  ebb_file_abandon(w);
  return ok;
}

bool ebb_file_commit_new(ebb_file_writer *w, bool *taken, ebb_error *err) {
  const char *what;
  int code;
  *taken = false;
  if (!flush(w, &what, &code))
    return fail_commit(w, what, code, err);
  if (link(w->temporary, w->path) != 0) {
    code = errno;
    *taken = code == EEXIST || ebb_is_there(w->path);
    bool linkless = code == EPERM || code == ENOTSUP || code == ENOSYS; /* a file system without hard links */
    if (!*taken && (!linkless || rename(w->temporary, w->path) != 0))
      return fail_commit(w, "cannot put it in place", linkless ? errno : code, err);
  }
  bool ok = ebb_sync_folder_of(w->path, err);
  ebb_file_abandon(w); /* with the temporary name */
  return ok;
}

const char *ebb_file_disguise(const char *head, size_t bytes) {
  static const char lfs[] = "version https://git-lfs";
  if (bytes >= sizeof lfs - 1 && memcmp(head, lfs, sizeof lfs - 1) == 0)
    return "a Git LFS pointer, not the file itself; fetch it with `git lfs pull` or download it again";
  size_t i = 0;
  while (i < bytes && (head[i] == ' ' || head[i] == '\n' || head[i] == '\r' || head[i] == '\t'))
    i++;
  if ((bytes - i >= 5 && strncasecmp(head + i, "<html", 5) == 0) ||
      (bytes - i >= 9 && strncasecmp(head + i, "<!doctype", 9) == 0))
    return "an HTML page (a login or error page saved by a download?); download the file itself";
  if (bytes >= 4 && memcmp(head, "PK\3\4", 4) == 0)
    return "a zip archive (PyTorch's pickled .bin and .pt are such); convert it to safetensors";
  if (bytes >= 2 && (unsigned char)head[0] == 0x80 && head[1] >= 2 && head[1] <= 5)
    return "a Python pickle, which can run any code when read; convert it to safetensors";
  return NULL;
}

bool ebb_make_folders(const char *path, ebb_error *err) {
  char *p = ebb_format("%s", path);
  bool ok = true;
  for (char *end = p + 1; ok && p[0] != '\0'; end++) {
    if (*end != '/' && *end != '\0')
      continue;
    char was = *end;
    *end = '\0';
    struct stat s;
    if (mkdir(p, 0777) != 0 && errno != EEXIST)
      ok = ebb_fail(err, "%s: cannot make the folder: %s", p, strerror(errno));
    else if (stat(p, &s) != 0 || !S_ISDIR(s.st_mode))
      ok = ebb_fail(err, "%s: cannot make the folder: something else is there", p);
    *end = was;
    if (was == '\0')
      break;
  }
  free(p);
  return ok;
}

void *ebb_must(void *memory) {
  if (memory == NULL) {
    fputs("ebb: out of memory\n", stderr);
    abort();
  }
  return memory;
}

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *where) {
  (void)s;
  (void)kind;
  (void)where;
  return remove(path);
}

bool ebb_remove_folder(const char *path, ebb_error *err) {
  struct stat s;
  if (lstat(path, &s) != 0 && errno == ENOENT)
    return true;
  return nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0 ||
         ebb_fail(err, "%s: cannot remove: %s", path, strerror(errno));
}

char *ebb_path_join(const char *folder, const char *name) {
  size_t n = strlen(folder);
  if (n == 0)
    return ebb_format("%s", name);
  return ebb_format("%s%s%s", folder, folder[n - 1] == '/' ? "" : "/", name);
}

char *ebb_format(const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (n < 0)
    abort();
  char *text = ebb_must(malloc((size_t)n + 1));
  vsnprintf(text, (size_t)n + 1, format, again);
  va_end(again);
  return text;
}

int ebb_compare_natural(const char *a, const char *b) {
  const char *x = a, *y = b;
  while (*x != '\0' && *y != '\0') {
    if (!isdigit((unsigned char)*x) || !isdigit((unsigned char)*y)) {
      if (*x != *y)
        return (unsigned char)*x < (unsigned char)*y ? -1 : 1;
      x++, y++;
      continue;
    }
    x += strspn(x, "0");
    y += strspn(y, "0");
    size_t m = strspn(x, "0123456789"), n = strspn(y, "0123456789");
    int order = m != n ? (m < n ? -1 : 1) : memcmp(x, y, m);
    if (order != 0)
      return order;
    x += m;
    y += n;
  }
  return *x != *y ? (*x == '\0' ? -1 : 1) : strcmp(a, b);
}

static int by_nature(const void *a, const void *b) {
  return ebb_compare_natural(*(char *const *)a, *(char *const *)b);
}

bool ebb_folder_list(const char *path, char ***names, int64_t *count, ebb_error *err) {
  *names = NULL;
  *count = 0;
  DIR *d = opendir(path);
  if (d == NULL)
    return ebb_fail(err, "%s: cannot open the folder: %s", path, strerror(errno));
  int64_t capacity = 0;
  bool ok = true;
  for (;;) {
    errno = 0;
    struct dirent *e = readdir(d);
    if (e == NULL && errno != 0)
      ok = ebb_fail(err, "%s: cannot read the folder: %s", path, strerror(errno));
    if (e == NULL)
      break;
    if (e->d_name[0] == '.')
      continue;
    if (*count == 1000000) {
      ok = ebb_fail(err, "%s: more than 1000000 entries in one folder", path);
      break;
    }
    if (*count == capacity) {
      capacity = capacity > 0 ? 2 * capacity : 64;
      *names = ebb_must(realloc(*names, (size_t)capacity * sizeof **names));
    }
    (*names)[(*count)++] = ebb_format("%s", e->d_name);
  }
  closedir(d);
  if (!ok) {
    ebb_names_free(*names, *count);
    *names = NULL;
    *count = 0;
    return false;
  }
  if (*count > 0)
    qsort(*names, (size_t)*count, sizeof **names, by_nature);
  return true;
}

void ebb_names_free(char **names, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    free(names[i]);
  free(names);
}

bool ebb_file_size(const char *path, uint64_t *bytes, ebb_error *err) {
  int fd = open_regular(path, bytes, err);
  if (fd >= 0)
    close(fd);
  return fd >= 0;
}

bool ebb_is_there(const char *path) {
  struct stat s;
  return stat(path, &s) == 0;
}

bool ebb_is_folder(const char *path) {
  struct stat s;
  return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static void to_hex(const unsigned char *digest, char hex[65]) {
  for (int i = 0; i < 32; i++)
    snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void ebb_sha256(const void *data, size_t bytes, char hex[65]) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  if (EVP_Digest(data, bytes, digest, NULL, EVP_sha256(), NULL) != 1)
    abort(); /* libcrypto without SHA-256 or memory */
  to_hex(digest, hex);
}

bool ebb_file_sha256(const char *path, char hex[65], ebb_error *err) {
  uint64_t size = 0;
  int fd = open_regular(path, &size, err);
  if (fd < 0)
    return false;
  const size_t piece = (size_t)1 << 20;
  char *buffer = ebb_must(malloc(piece));
  EVP_MD_CTX *ctx = ebb_must(EVP_MD_CTX_new());
  unsigned char digest[EVP_MAX_MD_SIZE];
  bool ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;
  for (;;) {
    ssize_t n = read(fd, buffer, piece);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      ok = ebb_fail(err, "%s: cannot read: %s", path, strerror(errno));
    if (n <= 0)
      break;
    ok = ok && EVP_DigestUpdate(ctx, buffer, (size_t)n) == 1;
  }
  ok = ok && EVP_DigestFinal_ex(ctx, digest, NULL) == 1;
  EVP_MD_CTX_free(ctx);
  free(buffer);
  close(fd);
  if (!ok)
    return ebb_fail(err, "%s: cannot compute SHA-256", path);
  to_hex(digest, hex);
  return true;
}
