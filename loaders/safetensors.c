#include "loaders/safetensors.h"

#include "kernels/numeric.h"
#include "loaders/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the files' byte order is the memory's");

/* Bytes of one element; 0: a dtype we do not know. */
static uint64_t size_of_dtype(const char *dtype) {
  static const struct {
    const char *name;
    uint64_t bytes;
  } known[] = {{"F32", 4}, {"BF16", 2}, {"F16", 2},     {"F64", 8},     {"I64", 8},
               {"I32", 4}, {"U8", 1},   {"I8", 1},      {"I16", 2},     {"U16", 2},
               {"U32", 4}, {"U64", 8},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"BOOL", 1}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp(dtype, known[i].name) == 0)
      return known[i].bytes;
  return 0;
}

/* Where a message is about: the file and the tensor, the name cut to a sane length. */
typedef struct place {
  const char *path, *tensor;
  ebb_error *err;
} place;

#define FAIL_AT(p, format, ...)                                                                              \
  ebb_fail((p).err, "%s: tensor \"%.100s\": " format, (p).path, (p).tensor, __VA_ARGS__)

static bool parse_shape(place p, const json_t *shape, ebb_st_entry *e, uint64_t *bytes) {
  if (!json_is_array(shape))
    return FAIL_AT(p, "%s", "\"shape\" is not an array of dimensions");
  size_t rank = json_array_size(shape);
  if (rank > EBB_ST_RANK)
    return FAIL_AT(p, "%zu dimensions, at most %d are accepted", rank, EBB_ST_RANK);
  e->rank = (int)rank;
  uint64_t product = *bytes;
  for (size_t i = 0; i < rank; i++) {
    const json_t *d = json_array_get(shape, i);
    if (!json_is_integer(d) || json_integer_value(d) < 0)
      return FAIL_AT(p, "dimension %zu is not an integer >= 0", i);
    e->shape[i] = json_integer_value(d);
  }
  for (size_t i = 0; i < rank; i++) /* bounded by INT64_MAX so that the element count is one too */
    if (__builtin_mul_overflow(product, (uint64_t)e->shape[i], &product) || product > INT64_MAX)
      return FAIL_AT(p, "%s", "the dimensions' product overflows 64 bits");
  *bytes = product;
  return true;
}

/* One value of the header; offsets stay relative to the data here. */
static bool parse_entry(place p, const json_t *value, uint64_t data_bytes, ebb_st_entry *e) {
  const json_t *dtype = json_object_get(value, "dtype"), *offsets = json_object_get(value, "data_offsets");
  if (!json_is_object(value))
    return FAIL_AT(p, "%s", "its description is not an object {dtype, shape, data_offsets}");
  if (!json_is_string(dtype))
    return FAIL_AT(p, "%s", "\"dtype\" is missing or not a string");
  uint64_t bytes = size_of_dtype(json_string_value(dtype));
  if (bytes == 0)
    return FAIL_AT(p, "unknown dtype \"%.20s\", expected F64, F32, F16, BF16, F8_*, I*, U* or BOOL",
                   json_string_value(dtype));
  snprintf(e->dtype, sizeof e->dtype, "%s", json_string_value(dtype));
  if (!parse_shape(p, json_object_get(value, "shape"), e, &bytes))
    return false;
  const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
      json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
    return FAIL_AT(p, "%s", "\"data_offsets\" is not [begin, end] with 0 <= begin <= end");
  e->offset = (uint64_t)json_integer_value(begin);
  e->bytes = (uint64_t)json_integer_value(end) - e->offset;
  char shape[EBB_SHAPE_TEXT + 80];
  if (e->bytes != bytes)
    return FAIL_AT(p, "data_offsets span %llu bytes, but %s %s takes %llu", (unsigned long long)e->bytes,
                   e->dtype, ebb_st_shape(e, shape, sizeof shape), (unsigned long long)bytes);
  if (e->offset + e->bytes > data_bytes)
    return FAIL_AT(p, "data ends at byte %llu of %llu: the file is truncated (an unfinished download?)",
                   (unsigned long long)(e->offset + e->bytes), (unsigned long long)data_bytes);
  return true;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const ebb_st_entry *)a)->name, ((const ebb_st_entry *)b)->name);
}

/* By place in the file; empty tensors before the one that starts where they are. */
static int by_offset(const void *a, const void *b) {
  const ebb_st_entry *x = *(ebb_st_entry *const *)a, *y = *(ebb_st_entry *const *)b;
  if (x->offset != y->offset)
    return x->offset < y->offset ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Every byte of the data belongs to exactly one tensor. */
static bool check_cover(const ebb_safetensors *st, uint64_t data_bytes, ebb_error *err) {
  ebb_st_entry **order = malloc(((size_t)st->count + 1) * sizeof *order);
  if (order == NULL)
    return ebb_fail(err, "%s: no memory for %lld tensors", st->path, (long long)st->count);
  for (int64_t i = 0; i < st->count; i++)
    order[i] = &st->entries[i];
  qsort(order, (size_t)st->count, sizeof *order, by_offset);
  uint64_t at = 0;
  bool ok = true;
  for (int64_t i = 0; ok && i < st->count; i++) {
    const ebb_st_entry *e = order[i];
    if (e->offset < at)
      ok = ebb_fail(err, "%s: tensors \"%.100s\" and \"%.100s\" overlap at data byte %llu", st->path,
                    order[i - 1]->name, e->name, (unsigned long long)e->offset);
    else if (e->offset > at)
      ok = ebb_fail(err, "%s: data bytes %llu to %llu, before tensor \"%.100s\", belong to no tensor",
                    st->path, (unsigned long long)at, (unsigned long long)e->offset, e->name);
    at = e->offset + e->bytes;
  }
  if (ok && at != data_bytes)
    ok = ebb_fail(err, "%s: %llu bytes of data, but the tensors end at %llu", st->path,
                  (unsigned long long)data_bytes, (unsigned long long)at);
  free(order);
  return ok;
}

static bool parse_metadata(ebb_safetensors *st, json_t *object, ebb_error *err) {
  if (!json_is_object(object))
    return ebb_fail(err, "%s: \"__metadata__\" is not an object of strings", st->path);
  st->metadata = calloc(2 * json_object_size(object) + 1, sizeof *st->metadata);
  if (st->metadata == NULL)
    return ebb_fail(err, "%s: no memory for the metadata", st->path);
  const char *key;
  json_t *value;
  json_object_foreach(object, key, value) {
    if (!json_is_string(value))
      return ebb_fail(err, "%s: \"__metadata__\": \"%.100s\" is not a string", st->path, key);
    st->metadata[2 * st->metadata_count] = ebb_format("%s", key);
    st->metadata[2 * st->metadata_count + 1] = ebb_format("%s", json_string_value(value));
    st->metadata_count++;
  }
  return true;
}

static bool parse_entries(ebb_safetensors *st, json_t *root, uint64_t data_bytes, ebb_error *err) {
  st->entries = calloc(json_object_size(root) + 1, sizeof *st->entries);
  if (st->entries == NULL)
    return ebb_fail(err, "%s: no memory for %zu tensors", st->path, json_object_size(root));
  const char *key;
  json_t *value;
  json_object_foreach(root, key, value) {
    if (strcmp(key, "__metadata__") == 0) {
      if (!parse_metadata(st, value, err))
        return false;
      continue;
    }
    ebb_st_entry *e = &st->entries[st->count++];
    e->name = ebb_format("%s", key);
    if (!parse_entry((place){st->path, key, err}, value, data_bytes, e))
      return false;
  }
  return check_cover(st, data_bytes, err);
}

bool ebb_safetensors_parse(ebb_safetensors *st, const char *path, const char *json, uint64_t bytes,
                           uint64_t file_bytes, ebb_error *err) {
  *st = (ebb_safetensors){.path = ebb_format("%s", path), .fd = -1};
  bool ok = true;
  if (bytes > EBB_ST_HEADER_MAX)
    ok = ebb_fail(err, "%s: the header says it is %llu bytes long, at most %llu are accepted", path,
                  (unsigned long long)bytes, (unsigned long long)EBB_ST_HEADER_MAX);
  else if (file_bytes < 8 || bytes > file_bytes - 8)
    ok = ebb_fail(err,
                  "%s: the header says it is %llu bytes long, but the file has %llu: truncated or corrupt",
                  path, (unsigned long long)bytes, (unsigned long long)file_bytes);
  else if (bytes < 2 || json[0] != '{')
    ok = ebb_fail(err, "%s: not a safetensors file: the header is not a JSON object", path);
  json_error_t e;
  json_t *root = ok ? json_loadb(json, (size_t)bytes, JSON_REJECT_DUPLICATES, &e) : NULL;
  if (ok && root == NULL)
    ok = ebb_fail(err, "%s: the header is not valid JSON (byte %d): %s", path, e.position, e.text);
  ok = ok && parse_entries(st, root, file_bytes - 8 - bytes, err);
  json_decref(root);
  if (!ok) {
    ebb_safetensors_close(st);
    return false;
  }
  for (int64_t i = 0; i < st->count; i++)
    st->entries[i].offset += 8 + bytes;
  qsort(st->entries, (size_t)st->count, sizeof *st->entries, by_name);
  return true;
}

/* Header of an open file, malloc'ed; NULL on failure. */
static char *read_header(int fd, const char *path, uint64_t *bytes, uint64_t *file_bytes, ebb_error *err) {
  struct stat s;
  if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
    ebb_fail(err, "%s: not a regular file", path);
    return NULL;
  }
  char head[64] = {0};
  *file_bytes = (uint64_t)s.st_size;
  size_t have = *file_bytes < sizeof head ? (size_t)*file_bytes : sizeof head;
  if (!ebb_read_at(fd, path, 0, have, head, err))
    return NULL;
  if (have < 10 || head[8] != '{') {
    const char *disguise = ebb_file_disguise(head, have);
    if (disguise != NULL)
      ebb_fail(err, "%s: not a safetensors file: this is %s", path, disguise);
    else if (have < 10)
      ebb_fail(err, "%s: not a safetensors file: only %zu bytes", path, have);
    else
      ebb_fail(err, "%s: not a safetensors file: no JSON object after the 8-byte header length", path);
    return NULL;
  }
  memcpy(bytes, head, 8);
  /* parse repeats these checks with messages; nothing is allocated by an unchecked length */
  uint64_t wanted = *bytes > EBB_ST_HEADER_MAX || *bytes > *file_bytes - 8 ? 2 : *bytes;
  char *json = malloc((size_t)wanted + 1);
  if (json == NULL)
    ebb_fail(err, "%s: no memory for a header of %llu bytes", path, (unsigned long long)wanted);
  else if (!ebb_read_at(fd, path, 8, wanted, json, err)) {
    free(json);
    json = NULL;
  }
  return json;
}

bool ebb_safetensors_open(ebb_safetensors *st, const char *path, ebb_error *err) {
  *st = (ebb_safetensors){.fd = -1};
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
  if (fd < 0)
    return ebb_fail(err, "%s: cannot open: %s", path, strerror(errno));
  uint64_t bytes = 0, file_bytes = 0;
  char *json = read_header(fd, path, &bytes, &file_bytes, err);
  bool ok = json != NULL && ebb_safetensors_parse(st, path, json, bytes, file_bytes, err);
  free(json);
  if (!ok) {
    close(fd);
    return false;
  }
  st->fd = fd;
  return true;
}

void ebb_safetensors_close(ebb_safetensors *st) {
  for (int64_t i = 0; i < st->count; i++)
    free(st->entries[i].name);
  for (int64_t i = 0; i < 2 * st->metadata_count; i++)
    free(st->metadata[i]);
  free(st->entries);
  free(st->metadata);
  if (st->path != NULL && st->fd >= 0) /* a zeroed struct has no file: its fd 0 is not ours */
    close(st->fd);
  free(st->path);
  *st = (ebb_safetensors){.fd = -1};
}

const ebb_st_entry *ebb_safetensors_find(const ebb_safetensors *st, const char *name) {
  int64_t low = 0, high = st->count;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    int order = strcmp(st->entries[middle].name, name);
    if (order == 0)
      return &st->entries[middle];
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return NULL;
}

int64_t ebb_st_elements(const ebb_st_entry *entry) {
  int64_t n = 1;
  for (int i = 0; i < entry->rank; i++)
    n *= entry->shape[i];
  return n;
}

const char *ebb_st_shape(const ebb_st_entry *entry, char *text, size_t size) {
  size_t at = (size_t)snprintf(text, size, "[");
  for (int i = 0; i < entry->rank && at < size; i++)
    at += (size_t)snprintf(text + at, size - at, "%s%lld", i > 0 ? ", " : "", (long long)entry->shape[i]);
  if (at < size)
    snprintf(text + at, size - at, "]");
  return text;
}

bool ebb_safetensors_read(const ebb_safetensors *st, const ebb_st_entry *entry, uint64_t from, uint64_t bytes,
                          void *to, ebb_error *err) {
  if (from > entry->bytes || bytes > entry->bytes - from)
    return ebb_fail(err, "%s: tensor \"%.100s\" has %llu bytes, %llu from %llu were asked for", st->path,
                    entry->name, (unsigned long long)entry->bytes, (unsigned long long)bytes,
                    (unsigned long long)from);
  return ebb_read_at(st->fd, st->path, entry->offset + from, bytes, to, err);
}

#define EACH(type, expression)                                                                               \
  for (size_t i = 0; i < n; i++) {                                                                           \
    type x;                                                                                                  \
    memcpy(&x, from + i * sizeof x, sizeof x);                                                               \
    to[i] = (expression);                                                                                    \
  }

static void to_f32(const char *dtype, const char *from, size_t n, float *to) {
  if (strcmp(dtype, "F64") == 0)
    EACH(double, (float)x)
  else if (strcmp(dtype, "F16") == 0)
    EACH(uint16_t, ebb_float_of_f16(x))
  else if (strcmp(dtype, "BF16") == 0)
    EACH(uint16_t, ebb_float_of_bf16(x))
  else if (strcmp(dtype, "I64") == 0)
    EACH(int64_t, (float)x)
  else if (strcmp(dtype, "I32") == 0)
    EACH(int32_t, (float)x)
  else
    EACH(uint8_t, (float)x)
}

bool ebb_st_is_number(const ebb_st_entry *entry) {
  static const char *const known[] = {"F32", "BF16", "F16", "F64", "I64", "I32", "U8"};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp(entry->dtype, known[i]) == 0)
      return true;
  return false;
}

bool ebb_safetensors_read_f32(const ebb_safetensors *st, const ebb_st_entry *entry, float *to,
                              ebb_error *err) {
  if (strcmp(entry->dtype, "F32") == 0)
    return ebb_safetensors_read(st, entry, 0, entry->bytes, to, err);
  if (!ebb_st_is_number(entry))
    return ebb_fail(err, "%s: tensor \"%.100s\" is %s, expected F64, F32, F16, BF16, I64, I32 or U8",
                    st->path, entry->name, entry->dtype);
  const uint64_t piece = (uint64_t)1 << 20;
  uint64_t size = size_of_dtype(entry->dtype);
  char *buffer = ebb_must(malloc((size_t)piece));
  bool ok = true;
  for (uint64_t at = 0; ok && at < entry->bytes; at += piece) {
    uint64_t now = entry->bytes - at < piece ? entry->bytes - at : piece;
    ok = ebb_safetensors_read(st, entry, at, now, buffer, err);
    if (ok)
      to_f32(entry->dtype, buffer, (size_t)(now / size), to + at / size);
  }
  free(buffer);
  return ok;
}
