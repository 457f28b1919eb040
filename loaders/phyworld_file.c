#include "loaders/phyworld_file.h"

#include "loaders/file.h"
#include "loaders/phyworld.h"
#include "loaders/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ebb_phyworld_file_free(ebb_phyworld_file *file) {
  for (int64_t i = 0; i < file->count; i++) {
    free(file->pieces[i].init);
    free(file->pieces[i].positions);
  }
  free(file->pieces);
  *file = (ebb_phyworld_file){0};
}

#if defined(EBB_HAVE_HDF5)

#define H5_USE_110_API /* the same names from 1.10 on */
#include <hdf5.h>
#include <pthread.h>

#define PIECES_MAX 1000
#define FRAMES_MAX 4096
#define TRY_SECONDS 600
#define REALS_BYTES_MAX ((hsize_t)1 << 30) /* pieces have 1000 rows: half a megabyte */
#define DEFLATE_MAX 1040                   /* the most that a compressed number shrinks by */
#define VIDEO_BYTES_MAX ((hsize_t)1 << 30)

/* libhdf5 as distributions build it may be used by one thread at a time. */
static pthread_mutex_t hdf5 = PTHREAD_MUTEX_INITIALIZER;

static hid_t open_file(const char *path, ebb_error *err) {
  uint64_t size;
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* its errors become ours */
  H5PLset_loading_state(0);
  if (!ebb_file_size(path, &size, err)) /* a regular file that can be read, or a plain message */
    return H5I_INVALID_HID;
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0)
    ebb_fail(err, "%s: not an HDF5 file, or a damaged one (%llu bytes)", path, (unsigned long long)size);
  return file;
}

/* Is group/name there, as a thing of this file? */
static bool is_hard_link(hid_t file, const char *name) {
  H5L_info_t info;
  return H5Lget_info(file, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

/* A dataset with its data inside the file, of a rank and a class; *space and *type are opened with it. */
static hid_t open_dataset(hid_t file, const char *path, const char *name, int rank, H5T_class_t class,
                          hsize_t *shape, ebb_error *err) {
  hid_t data = is_hard_link(file, name) ? H5Dopen2(file, name, H5P_DEFAULT) : H5I_INVALID_HID;
  if (data < 0) {
    ebb_fail(err, "%s: no dataset \"%s\" that can be read", path, name);
    return data;
  }
  hid_t space = H5Dget_space(data), type = H5Dget_type(data), made = H5Dget_create_plist(data);
  const int found = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
  bool ok = H5Pget_external_count(made) == 0 && H5Pget_layout(made) != H5D_VIRTUAL;
  if (!ok)
    ebb_fail(err, "%s: \"%s\" has its data in other files, expected them in this one", path, name);
  else if (found != rank || H5Sget_simple_extent_dims(space, shape, NULL) != rank)
    ok = ebb_fail(err, "%s: \"%s\" has %d dimensions, expected %d%s", path, name, found, rank,
                  found > rank ? " (sets with two balls are not supported)" : "");
  else if (H5Tget_class(type) != class)
    ok = ebb_fail(err, "%s: \"%s\" holds no %s", path, name,
                  class == H5T_FLOAT ? "floating point numbers" : "lists of bytes");
  H5Sclose(space);
  H5Tclose(type);
  H5Pclose(made);
  if (!ok) {
    H5Dclose(data);
    return H5I_INVALID_HID;
  }
  return data;
}

/* Are n numbers of 8 bytes in the file? libhdf5 makes up those that never were written. */
static bool is_stored(hid_t data, const char *path, const char *name, hsize_t n, ebb_error *err) {
  uint64_t file;
  hid_t made = H5Dget_create_plist(data), type = H5Dget_type(data);
  const bool filtered = H5Pget_nfilters(made) > 0;
  const hsize_t size = H5Tget_size(type), wanted = n * size; /* n below 2^34, a float of a few bytes */
  H5Pclose(made);
  H5Tclose(type);
  if (size < 1 || size > 64 || n > REALS_BYTES_MAX / sizeof(double))
    return ebb_fail(err, "%s: \"%s\": %llu numbers of %llu bytes, expected at most %llu bytes", path, name,
                    (unsigned long long)n, (unsigned long long)size, (unsigned long long)REALS_BYTES_MAX);
  if (!ebb_file_size(path, &file, err))
    return false;
  hsize_t stored = H5Dget_storage_size(data);
  stored = stored > file ? file : stored;
  return stored >= (filtered ? wanted / DEFLATE_MAX : wanted) ||
         ebb_fail(
             err,
             "%s: \"%s\" is declared to hold %llu bytes, but %llu were written: the file is damaged or cut "
             "short",
             path, name, (unsigned long long)wanted, (unsigned long long)stored);
}

/* f64 [shape], every number finite; rank 2 or 3, bounded. */
static double *read_reals(hid_t file, const char *path, const char *name, int rank, hsize_t shape[3],
                          ebb_error *err) {
  hid_t data = open_dataset(file, path, name, rank, H5T_FLOAT, shape, err);
  if (data < 0)
    return NULL;
  double *x = NULL;
  if (shape[0] < 1 || shape[0] > EBB_PHYWORLD_ROWS || shape[rank - 1] != 2 ||
      (rank == 3 && (shape[1] < 2 || shape[1] > FRAMES_MAX))) {
    ebb_fail(err, "%s: \"%s\" is %llu x %llu%s, expected n x %s2", path, name, (unsigned long long)shape[0],
             (unsigned long long)shape[1], rank == 3 ? " x ..." : "", rank == 3 ? "frames x " : "");
  } else {
    const size_t n = (size_t)shape[0] * (rank == 3 ? (size_t)shape[1] : 1) * 2;
    bool ok = is_stored(data, path, name, n, err);
    x = ok ? malloc(n * sizeof *x) : NULL;
    ok = ok && (x != NULL || ebb_fail(err, "%s: \"%s\": no memory for %zu numbers", path, name, n));
    if (ok && H5Dread(data, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, x) < 0)
      ok = ebb_fail(err, "%s: \"%s\" cannot be read: the file is damaged or cut short", path, name);
    for (size_t i = 0; ok && i < n; i++)
      if (!isfinite(x[i]))
        ok = ebb_fail(err, "%s: \"%s\": number %zu is not finite", path, name, i);
    if (!ok) {
      free(x);
      x = NULL;
    }
  }
  H5Dclose(data);
  return x;
}

static bool read_piece(hid_t file, const char *path, ebb_phyworld_piece *p, ebb_error *err) {
  char name[64];
  hsize_t init[3] = {0}, positions[3] = {0}, videos[1] = {0};
  snprintf(name, sizeof name, "init_streams/%05lld", (long long)p->number);
  if ((p->init = read_reals(file, path, name, 2, init, err)) == NULL)
    return false;
  snprintf(name, sizeof name, "position_streams/%05lld", (long long)p->number);
  if ((p->positions = read_reals(file, path, name, 3, positions, err)) == NULL)
    return false;
  snprintf(name, sizeof name, "video_streams/%05lld", (long long)p->number);
  hid_t data = open_dataset(file, path, name, 1, H5T_VLEN, videos, err);
  if (data < 0)
    return false;
  H5Dclose(data);
  p->rows = (int64_t)init[0];
  p->frames = (int64_t)positions[1];
  return (positions[0] == init[0] && videos[0] == init[0]) ||
         ebb_fail(err,
                  "%s: piece %05lld has %llu rows of init_streams, %llu of position_streams and %llu videos",
                  path, (long long)p->number, (unsigned long long)init[0], (unsigned long long)positions[0],
                  (unsigned long long)videos[0]);
}

static herr_t take_name(hid_t group, const char *name, const H5L_info_t *info, void *user) {
  (void)group;
  (void)info;
  ebb_phyworld_file *f = user;
  const size_t n = strlen(name);
  if (n < 5 || n > 6 || strspn(name, "0123456789") != n || f->count == PIECES_MAX)
    return -1;
  f->pieces = ebb_must(realloc(f->pieces, ((size_t)f->count + 1) * sizeof *f->pieces));
  f->pieces[f->count++] = (ebb_phyworld_piece){.number = strtoll(name, NULL, 10)};
  return 0;
}

static bool read_pieces(hid_t file, const char *path, ebb_phyworld_file *f, ebb_error *err) {
  static const char *const groups[] = {"init_streams", "position_streams", "video_streams"};
  for (int i = 0; i < 3; i++)
    if (!is_hard_link(file, groups[i]))
      return ebb_fail(err,
                      "%s: no group \"%s\", expected a PhyWorld file: init_streams, position_streams and "
                      "video_streams",
                      path, groups[i]);
  hid_t group = H5Gopen2(file, groups[0], H5P_DEFAULT);
  hsize_t at = 0;
  const bool listed = group >= 0 && H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, &at, take_name, f) >= 0;
  if (group >= 0)
    H5Gclose(group);
  if (!listed || f->count == 0)
    return ebb_fail(err, "%s: \"init_streams\" is not a group of datasets named 00000, 00001, ...", path);
  for (int64_t i = 0; i < f->count; i++)
    if (!read_piece(file, path, &f->pieces[i], err))
      return false;
  return true;
}

/* The one element `row` of an open dataset of lists of bytes. */
static bool read_list(hid_t data, const char *path, const char *name, hsize_t row, void **bytes,
                      size_t *count, ebb_error *err) {
  const hsize_t one = 1;
  hid_t kind = H5Dget_type(data), of = H5Tget_super(kind), type = H5Tvlen_create(H5T_NATIVE_UINT8);
  hid_t from = H5Dget_space(data), to = H5Screate_simple(1, &one, NULL);
  hsize_t size = 0;
  hvl_t list = {0};
  bool ok = (H5Tget_class(of) == H5T_INTEGER && H5Tget_size(of) == 1) ||
            ebb_fail(err, "%s: \"%s\" holds no lists of bytes", path, name);
  ok = ok && ((H5Sselect_hyperslab(from, H5S_SELECT_SET, &row, NULL, &one, NULL) >= 0 &&
               H5Dvlen_get_buf_size(data, type, from, &size) >= 0) ||
              ebb_fail(err, "%s: \"%s\": row %llu cannot be read: the file is damaged or cut short", path,
                       name, (unsigned long long)row));
  if (ok && (size < 1 || size > VIDEO_BYTES_MAX))
    ok = ebb_fail(err, "%s: \"%s\": row %llu has %llu bytes, expected 1 to %llu", path, name,
                  (unsigned long long)row, (unsigned long long)size, (unsigned long long)VIDEO_BYTES_MAX);
  if (ok && (H5Dread(data, type, to, from, H5P_DEFAULT, &list) < 0 || list.p == NULL || list.len != size))
    ok = ebb_fail(err, "%s: \"%s\": row %llu cannot be read: the file is damaged or cut short", path, name,
                  (unsigned long long)row);
  if (ok && (*bytes = malloc(list.len)) == NULL)
    ok = ebb_fail(err, "%s: \"%s\": no memory for %zu bytes", path, name, list.len);
  if (ok) {
    memcpy(*bytes, list.p, list.len);
    *count = list.len;
  }
  if (list.p != NULL)
    H5Dvlen_reclaim(type, to, H5P_DEFAULT, &list);
  H5Sclose(to);
  H5Sclose(from);
  H5Tclose(type);
  H5Tclose(of);
  H5Tclose(kind);
  return ok;
}

/* Everything that is ever read of a file, for the sake of reading it. */
static void read_all(const char *path) {
  ebb_phyworld_file f = {0};
  hid_t file = open_file(path, NULL);
  if (file < 0 || !read_pieces(file, path, &f, NULL))
    return;
  for (int64_t i = 0; i < f.count; i++) {
    char name[64];
    hsize_t rows[1];
    snprintf(name, sizeof name, "video_streams/%05lld", (long long)f.pieces[i].number);
    hid_t data = open_dataset(file, path, name, 1, H5T_VLEN, rows, NULL);
    for (int64_t row = 0; row < f.pieces[i].rows; row++) {
      void *bytes = NULL;
      size_t count;
      read_list(data, path, name, (hsize_t)row, &bytes, &count, NULL);
      free(bytes);
    }
    H5Dclose(data);
  }
  H5Fclose(file);
  ebb_phyworld_file_free(&f);
}

bool ebb_phyworld_file_read(ebb_phyworld_file *f, const char *path, ebb_error *err) {
  *f = (ebb_phyworld_file){0};
  uint64_t size;
  if (!ebb_file_size(path, &size, err)) /* what is no file at all needs no trial */
    return false;
  pthread_mutex_lock(&hdf5);
  /* libhdf5 1.10 writes past its buffers on some damaged files. So a process of its own reads the file first;
   * the lock is held: no other thread is inside libhdf5. */
  const bool sound = ebb_survives(path, "libhdf5", read_all, TRY_SECONDS, err);
  hid_t file = sound ? open_file(path, err) : H5I_INVALID_HID;
  bool ok = file >= 0 && read_pieces(file, path, f, err);
  if (file >= 0)
    H5Fclose(file);
  pthread_mutex_unlock(&hdf5);
  if (!ok)
    ebb_phyworld_file_free(f);
  return ok;
}

bool ebb_phyworld_bytes(const char *path, int64_t piece, int64_t row, void **bytes, size_t *count,
                        ebb_error *err) {
  char name[64];
  hsize_t rows[1] = {0};
  *bytes = NULL;
  *count = 0;
  snprintf(name, sizeof name, "video_streams/%05lld", (long long)piece);
  pthread_mutex_lock(&hdf5);
  hid_t file = open_file(path, err);
  hid_t data = file < 0 ? file : open_dataset(file, path, name, 1, H5T_VLEN, rows, err);
  bool ok = data >= 0 &&
            (row < (int64_t)rows[0] || ebb_fail(err, "%s: \"%s\" has %llu rows, row %lld is asked for", path,
                                                name, (unsigned long long)rows[0], (long long)row));
  ok = ok && read_list(data, path, name, (hsize_t)row, bytes, count, err);
  if (data >= 0)
    H5Dclose(data);
  if (file >= 0)
    H5Fclose(file);
  pthread_mutex_unlock(&hdf5);
  return ok;
}

#else

static bool absent(const char *path, ebb_error *err) {
  return ebb_fail(
      err,
      "%s: HDF5 files cannot be read: this build has no libhdf5. Install libhdf5-dev (Debian) and "
      "configure again",
      path);
}

bool ebb_phyworld_file_read(ebb_phyworld_file *f, const char *path, ebb_error *err) {
  *f = (ebb_phyworld_file){0};
  return absent(path, err);
}

bool ebb_phyworld_bytes(const char *path, int64_t piece, int64_t row, void **bytes, size_t *count,
                        ebb_error *err) {
  (void)piece;
  (void)row;
  *bytes = NULL;
  *count = 0;
  return absent(path, err);
}

#endif
