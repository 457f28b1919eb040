#include "loaders/newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* O_EXCL under a name of process and counter: neither a second thread nor a planted link can share the file.
 */
static int create_beside(const char *path, char *temp, size_t room) {
  static atomic_uint counter;
  int fd = -1;
  for (int attempt = 0; attempt < 100 && fd < 0; attempt++) {
    snprintf(temp, room, "%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&counter, 1u));
    fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno != EEXIST)
      break;
  }
  return fd;
}

bool ebb_newfile_open(ebb_newfile *file, const char *path, ebb_error *err) {
  *file = (ebb_newfile){0};
  size_t room = strlen(path) + 48;
  char *temp = malloc(room);
  file->path = strdup(path);
  if (!temp || !file->path) {
    free(temp);
    ebb_newfile_discard(file);
    return ebb_fail(err, "%s: out of memory", path);
  }
  int fd = create_beside(path, temp, room);
  if (fd < 0) {
    ebb_fail(err, "%s: cannot create a file beside it: %s", path, strerror(errno));
    free(temp);
    ebb_newfile_discard(file);
    return false;
  }
  file->temp = temp;
  file->stream = fdopen(fd, "wb");
  if (!file->stream) {
    ebb_fail(err, "%s: cannot open for writing: %s", path, strerror(errno));
    close(fd);
    ebb_newfile_discard(file);
    return false;
  }
  return true;
}

bool ebb_newfile_write(ebb_newfile *file, const void *data, size_t size, ebb_error *err) {
  if (size > 0 && fwrite(data, 1, size, file->stream) != size)
    return ebb_fail(err, "%s: writing failed: %s", file->path, strerror(errno));
  return true;
}

bool ebb_newfile_commit(ebb_newfile *file, ebb_error *err) {
  bool ok = !ferror(file->stream) && fflush(file->stream) == 0 && fsync(fileno(file->stream)) == 0;
  int why = errno;
  if (fclose(file->stream) != 0 && ok) {
    ok = false;
    why = errno;
  }
  file->stream = NULL;
  if (ok && rename(file->temp, file->path) != 0) {
    ok = false;
    why = errno;
  }
  if (!ok) {
    ebb_fail(err, "%s: writing failed: %s", file->path, strerror(why));
  } else {
    free(file->temp);
    file->temp = NULL;
  }
  ebb_newfile_discard(file);
  return ok;
}

void ebb_newfile_discard(ebb_newfile *file) {
  if (file->stream)
    fclose(file->stream);
  if (file->temp)
    unlink(file->temp);
  free(file->temp);
  free(file->path);
  *file = (ebb_newfile){0};
}
