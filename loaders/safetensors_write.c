#include "loaders/file.h"
#include "loaders/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct ebb_st_writer {
  ebb_file_writer file;
  uint64_t expected, written; /* bytes of data */
};

static const char *name_of_dtype(ebb_dtype dtype) {
  switch (dtype) {
  case EBB_F32:
    return "F32";
  case EBB_F64:
    return "F64";
  case EBB_F16:
    return "F16";
  case EBB_BF16:
    return "BF16";
  case EBB_I64:
    return "I64";
  case EBB_U8:
    return "U8";
  }
  return "?";
}

static uint64_t size_of_dtype(ebb_dtype dtype) {
  return dtype == EBB_U8 ? 1 : dtype == EBB_F16 || dtype == EBB_BF16 ? 2 : dtype == EBB_F32 ? 4 : 8;
}

/* Adds one tensor to the header; `at` is where its data begins and moves behind it. */
static bool declare(json_t *header, const ebb_st_declare *t, const char *path, uint64_t *at, ebb_error *err) {
  if (json_object_get(header, t->name) != NULL)
    return ebb_fail(err, "%s: two tensors are named \"%.100s\"", path, t->name);
  if (t->rank < 0 || t->rank > EBB_ST_RANK)
    return ebb_fail(err, "%s: tensor \"%.100s\" has %d dimensions, at most %d are possible", path, t->name,
                    t->rank, EBB_ST_RANK);
  uint64_t bytes = size_of_dtype(t->dtype), end;
  json_t *shape = json_array();
  bool ok = true;
  for (int i = 0; i < t->rank; i++) {
    ok = ok && t->shape[i] >= 0 && !__builtin_mul_overflow(bytes, (uint64_t)t->shape[i], &bytes);
    json_array_append_new(shape, json_integer(t->shape[i]));
  }
  if (!ok || __builtin_add_overflow(*at, bytes, &end) || end > INT64_MAX) {
    json_decref(shape);
    return ebb_fail(err, "%s: tensor \"%.100s\" is too large", path, t->name);
  }
  json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", name_of_dtype(t->dtype), "shape", shape,
                            "data_offsets", (json_int_t)*at, (json_int_t)end);
  if (entry == NULL || json_object_set_new(header, t->name, entry) != 0)
    return ebb_fail(err, "%s: the tensor name \"%.100s\" is not UTF-8", path, t->name);
  *at = end;
  return true;
}

/* The header as text padded to a multiple of 8 with spaces (as the reference writer has it); NULL on failure.
 */
static char *make_header(const char *path, const ebb_st_declare *tensors, int64_t count,
                         const char *const *metadata, int64_t metadata_count, uint64_t *data_bytes,
                         ebb_error *err) {
  json_t *header = ebb_must(json_object());
  bool ok = true;
  if (metadata_count > 0) {
    json_t *m = ebb_must(json_object());
    for (int64_t i = 0; ok && i < metadata_count; i++)
      if (json_object_set_new(m, metadata[2 * i], json_string(metadata[2 * i + 1])) != 0)
        ok = ebb_fail(err, "%s: metadata \"%.100s\" is not UTF-8", path, metadata[2 * i]);
    json_object_set_new(header, "__metadata__", m);
  }
  *data_bytes = 0;
  for (int64_t i = 0; ok && i < count; i++)
    ok = declare(header, &tensors[i], path, data_bytes, err);
  char *text = NULL;
  if (ok) {
    char *dense = ebb_must(json_dumps(header, JSON_COMPACT)); /* keeps the order of insertion */
    size_t n = strlen(dense);
    text = ebb_format("%s%*s", dense, (int)((8 - n % 8) % 8), "");
    free(dense);
    if (strlen(text) > EBB_ST_HEADER_MAX) {
      ebb_fail(err, "%s: %lld tensors make a header over %llu bytes", path, (long long)count,
               (unsigned long long)EBB_ST_HEADER_MAX);
      free(text);
      text = NULL;
    }
  }
  json_decref(header);
  return text;
}

bool ebb_st_file_bytes(const char *path, const ebb_st_declare *tensors, int64_t count, uint64_t *bytes,
                       ebb_error *err) {
  char *header = make_header(path, tensors, count, NULL, 0, bytes, err);
  if (header != NULL)
    *bytes += 8 + strlen(header);
  free(header);
  return header != NULL;
}

bool ebb_st_writer_open(ebb_st_writer **w, const char *path, const ebb_st_declare *tensors, int64_t count,
                        const char *const *metadata, int64_t metadata_count, ebb_error *err) {
  *w = NULL;
  uint64_t expected;
  char *header = make_header(path, tensors, count, metadata, metadata_count, &expected, err);
  if (header == NULL)
    return false;
  ebb_st_writer *n = ebb_must(calloc(1, sizeof *n));
  n->expected = expected;
  if (!ebb_file_create(&n->file, path, err)) {
    free(n);
    free(header);
    return false;
  }
  uint64_t length = strlen(header);
  fwrite(&length, 8, 1, n->file.stream); /* failures are found at commit */
  fwrite(header, 1, (size_t)length, n->file.stream);
  free(header);
  *w = n;
  return true;
}

bool ebb_st_writer_append(ebb_st_writer *w, const void *data, size_t bytes, ebb_error *err) {
  if (bytes > w->expected - w->written)
    return ebb_fail(err, "%s: %zu bytes appended where %llu are left of what was declared", w->file.path,
                    bytes, (unsigned long long)(w->expected - w->written));
  if (!ebb_file_write(&w->file, data, bytes, err))
    return false;
  w->written += bytes;
  return true;
}

bool ebb_st_writer_finish(ebb_st_writer **w, ebb_error *err) {
  bool ok = (*w)->written == (*w)->expected;
  if (!ok)
    ebb_fail(err, "%s: %llu bytes of tensors were written, %llu were declared; nothing was left behind",
             (*w)->file.path, (unsigned long long)(*w)->written, (unsigned long long)(*w)->expected);
  ok = ok && ebb_file_commit(&(*w)->file, err);
  ebb_st_writer_abandon(w);
  return ok;
}

void ebb_st_writer_abandon(ebb_st_writer **w) {
  if (*w == NULL)
    return;
  ebb_file_abandon(&(*w)->file);
  free(*w);
  *w = NULL;
}
