#include "loaders/pt.h"

#include "kernels/numeric.h"
#include "loaders/file.h"
#include "loaders/pt_parts.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the files' byte order is the memory's");

const struct ebb_pt_storage ebb_pt_storages[EBB_PT_TYPES] = {
    {"FloatStorage", 4}, {"DoubleStorage", 8}, {"HalfStorage", 2},  {"BFloat16Storage", 2},
    {"LongStorage", 8},  {"IntStorage", 4},    {"ShortStorage", 2}, {"CharStorage", 1},
    {"ByteStorage", 1},  {"BoolStorage", 1}};

/* ---- zip (PKWARE's APPNOTE.TXT 6.3: local header, central directory, end of central directory) --------- */

#define LOCAL_SIGNATURE 0x04034b50u
#define CENTRAL_SIGNATURE 0x02014b50u
#define END_SIGNATURE 0x06054b50u
enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, COMMENT_MAX = 65535 };

static uint32_t word16(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t word32(const uint8_t *p) {
  return word16(p) | word16(p + 2) << 16;
}

/* CRC-32 of zip and PNG: polynomial 0xEDB88320, reflected. */
static uint32_t checksum(const uint8_t *p, size_t bytes) {
  uint32_t table[256], crc = 0xFFFFFFFFu;
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t v = i;
    for (int bit = 0; bit < 8; bit++)
      v = v >> 1 ^ (v & 1 ? 0xEDB88320u : 0);
    table[i] = v;
  }
  for (size_t i = 0; i < bytes; i++)
    crc = crc >> 8 ^ table[(crc ^ p[i]) & 0xFF];
  return ~crc;
}

/* The end record: the last signature whose comment reaches exactly to the end of the file. */
static const uint8_t *find_end(const uint8_t *file, size_t bytes) {
  size_t most = bytes < END_BYTES + COMMENT_MAX ? bytes : END_BYTES + COMMENT_MAX;
  for (size_t back = END_BYTES; back <= most; back++) {
    const uint8_t *p = file + bytes - back;
    if (word32(p) == END_SIGNATURE && word16(p + 20) == back - END_BYTES)
      return p;
  }
  return NULL;
}

/* One line of the central directory, of which `left` bytes are there; *next is where the following begins. */
static bool read_entry(const ebb_pt_archive *a, const uint8_t *file, size_t bytes, const uint8_t *p,
                       size_t left, ebb_pt_entry *to, size_t *next, ebb_error *err) {
  if (left < CENTRAL_BYTES || word32(p) != CENTRAL_SIGNATURE)
    return ebb_fail(err, "%s: the zip directory is damaged at entry %lld: expected a line of it", a->path,
                    (long long)a->count);
  size_t length = word16(p + 28), extra = word16(p + 30), comment = word16(p + 32);
  if (left < CENTRAL_BYTES + length + extra + comment)
    return ebb_fail(err, "%s: the zip directory ends inside entry %lld", a->path, (long long)a->count);
  const char *name = (const char *)p + CENTRAL_BYTES;
  int shown = length < 80 ? (int)length : 80;
  uint32_t flags = word16(p + 8), method = word16(p + 10), packed = word32(p + 20), size = word32(p + 24),
           at = word32(p + 42);
  if (packed == UINT32_MAX || size == UINT32_MAX || at == UINT32_MAX)
    return ebb_fail(err, "%s: entry \"%.*s\" is of 4 GiB or more (zip64), which is not read here", a->path,
                    shown, name);
  if (method != 0 || (flags & 1) || packed != size)
    return ebb_fail(err,
                    "%s: entry \"%.*s\" is %s (method %u): torch.save stores its entries as they are, and "
                    "nothing else is read",
                    a->path, shown, name, flags & 1 ? "encrypted" : "compressed", method);
  if (memchr(name, '\0', length) != NULL || (uint64_t)at + LOCAL_BYTES > bytes ||
      word32(file + at) != LOCAL_SIGNATURE)
    return ebb_fail(err, "%s: entry \"%.*s\" is not where the zip directory says (byte %u of %zu)", a->path,
                    shown, name, at, bytes);
  uint64_t data = (uint64_t)at + LOCAL_BYTES + word16(file + at + 26) + word16(file + at + 28);
  if (data + size > bytes)
    return ebb_fail(err, "%s: entry \"%.*s\" has %u bytes and reaches over the end of the file (%zu bytes)",
                    a->path, shown, name, size, bytes);
  if (checksum(file + data, size) != word32(p + 16))
    return ebb_fail(err, "%s: entry \"%.*s\" has another checksum than was written: the file is damaged",
                    a->path, shown, name);
  const char *folder = memchr(name, '/', length); /* all entries are in a folder named after the file */
  size_t skipped = folder == NULL ? 0 : (size_t)(folder - name) + 1;
  *to = (ebb_pt_entry){name + skipped, length - skipped, file + data, size};
  *next = CENTRAL_BYTES + length + extra + comment;
  return true;
}

static bool read_directory(ebb_pt_archive *a, const uint8_t *file, size_t bytes, ebb_error *err) {
  const uint8_t *end = bytes < END_BYTES ? NULL : find_end(file, bytes);
  if (end == NULL) {
    const char *disguise = ebb_file_disguise((const char *)file, bytes < 512 ? bytes : 512);
    bool early = bytes > 2 && file[0] == 0x80 && file[1] <= 5;
    return ebb_fail(err, "%s: not a zip archive as torch.save writes it%s%s", a->path,
                    early ? ": a bare pickle, as PyTorch before 1.6 wrote; load it there and save it again"
                    : disguise ? ": "
                               : ": truncated, or something else",
                    !early && disguise ? disguise : "");
  }
  uint32_t count = word16(end + 10), size = word32(end + 12), at = word32(end + 16);
  if (word16(end + 4) != 0 || word16(end + 8) != count || (uint64_t)at + size > (uint64_t)(end - file))
    return ebb_fail(err, "%s: the zip directory of %u entries at byte %u does not lie in the file", a->path,
                    count, at);
  a->entries = ebb_must(calloc((size_t)count + 1, sizeof *a->entries));
  size_t from = at, left = size;
  for (uint32_t i = 0; i < count; i++) {
    size_t next = 0;
    if (!read_entry(a, file, bytes, file + from, left, &a->entries[a->count], &next, err))
      return false;
    a->count++;
    from += next;
    left -= next;
  }
  return true;
}

const ebb_pt_entry *ebb_pt_find(const ebb_pt_archive *a, const char *name, size_t length) {
  for (int64_t i = 0; i < a->count; i++)
    if (a->entries[i].length == length && memcmp(a->entries[i].name, name, length) == 0)
      return &a->entries[i];
  return NULL;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

bool ebb_pt_parse(ebb_pt *pt, const char *path, const void *bytes, size_t count, ebb_error *err) {
  *pt = (ebb_pt){0};
  ebb_pt_archive a = {.path = path, .bytes = count};
  bool ok = read_directory(&a, bytes, count, err);
  if (ok) {
    const ebb_pt_entry *pickle = ebb_pt_find(&a, "data.pkl", 8), *order = ebb_pt_find(&a, "byteorder", 9);
    if (pickle == NULL)
      ok = ebb_fail(err, "%s: a zip archive without data.pkl: not written by torch.save", path);
    else if (order != NULL && (order->bytes != 6 || memcmp(order->data, "little", 6) != 0))
      ok = ebb_fail(err, "%s: byteorder is \"%.*s\", expected little", path,
                    (int)(order->bytes < 16 ? order->bytes : 16), (const char *)order->data);
    else
      ok = ebb_pt_unpickle(pt, &a, pickle, err);
  }
  free(a.entries);
  if (!ok)
    ebb_pt_close(pt);
  return ok;
}

bool ebb_pt_open(ebb_pt *pt, const char *path, ebb_error *err) {
  char *bytes;
  size_t count;
  *pt = (ebb_pt){0};
  if (!ebb_file_read(path, EBB_PT_BYTES, &bytes, &count, err))
    return false;
  if (!ebb_pt_parse(pt, path, bytes, count, err)) {
    free(bytes);
    return false;
  }
  pt->bytes = bytes;
  return true;
}

void ebb_pt_close(ebb_pt *pt) {
  for (int64_t i = 0; i < pt->count; i++)
    free(pt->tensors[i].name);
  free(pt->tensors);
  free(pt->bytes);
  *pt = (ebb_pt){0};
}

/* One element; unaligned. */
static float element(const uint8_t *p, ebb_pt_type type) {
  union {
    float f;
    double d;
    int64_t l;
    int32_t i;
    int16_t s;
    uint16_t h;
  } v;
  memcpy(&v, p, (size_t)ebb_pt_storages[type].bytes);
  switch (type) {
  case EBB_PT_FLOAT:
    return v.f;
  case EBB_PT_DOUBLE:
    return (float)v.d;
  case EBB_PT_HALF:
    return ebb_float_of_f16(v.h);
  case EBB_PT_BFLOAT16:
    return ebb_float_of_bf16(v.h);
  case EBB_PT_LONG:
    return (float)v.l;
  case EBB_PT_INT:
    return (float)v.i;
  case EBB_PT_SHORT:
    return v.s;
  case EBB_PT_CHAR:
    return (int8_t)*p;
  case EBB_PT_BYTE:
    return *p;
  case EBB_PT_BOOL:
  case EBB_PT_TYPES:
    break;
  }
  return *p != 0;
}

void ebb_pt_floats(const ebb_pt_tensor *t, float *to) {
  int64_t index[EBB_PT_RANK] = {0}, at = 0;
  const int size = ebb_pt_storages[t->type].bytes;
  for (int64_t i = 0; i < t->count; i++) {
    to[i] = element(t->data + at * size, t->type);
    for (int k = t->rank - 1; k >= 0; k--) { /* the next index, as an odometer */
      at += t->stride[k];
      if (++index[k] < t->shape[k])
        break;
      at -= t->shape[k] * t->stride[k];
      index[k] = 0;
    }
  }
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* What torch.save pickles for one tensor (protocol 2), without the memo that nothing refers to. 0: no memory. */
static size_t pickle_of(int rank, const int64_t *shape, int64_t count, uint8_t *to, size_t room) {
  FILE *f = fmemopen(to, room, "wb");
  if (f == NULL)
    return 0;
  const char *storage[3] = {"storage", "0", "cpu"};
  int64_t strides[EBB_PT_RANK], stride = 1;
  for (int k = rank - 1; k >= 0; k--) {
    strides[k] = stride;
    stride *= shape[k];
  }
  fputs("\x80\x02"
        "ctorch._utils\n_rebuild_tensor_v2\n((",
        f);
  for (int i = 0; i < 3; i++) {
    uint32_t length = (uint32_t)strlen(storage[i]);
    fputc('X', f);
    fwrite(&length, 4, 1, f);
    fputs(storage[i], f);
    if (i == 0)
      fputs("ctorch\nFloatStorage\n", f);
  }
  const uint8_t eight[2] = {0x8a, 8}; /* LONG1: room for any count */
  fwrite(eight, 2, 1, f);
  fwrite(&count, 8, 1, f);
  fputs("tQK", f);
  fputc(0, f);
  for (int list = 0; list < 2; list++) {
    fputc('(', f);
    for (int k = 0; k < rank; k++) {
      fwrite(eight, 2, 1, f);
      fwrite(list == 0 ? &shape[k] : &strides[k], 8, 1, f);
    }
    fputc('t', f);
  }
  fputs("\x89"
        "ccollections\nOrderedDict\n)RtR.",
        f);
  long bytes = ftell(f);
  return fclose(f) == 0 && bytes > 0 ? (size_t)bytes : 0;
}

typedef struct written {
  const char *name;
  const void *data;
  size_t bytes;
  uint32_t crc, at;
} written;

static void put16(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v) {
  put16(p, v);
  put16(p + 2, v >> 16);
}

#define FOLDER "archive/"
#define ALIGNMENT 64 /* of tensors' data, as torch.save has it, so that files can be mapped */

/* What local and central headers share: versions, flags, method, times, checksum, sizes, name. */
static void shared_header(uint8_t *p, const written *w) {
  put32(p + 10, w->crc);
  put32(p + 14, (uint32_t)w->bytes);
  put32(p + 18, (uint32_t)w->bytes);
  put16(p + 22, (uint32_t)(strlen(FOLDER) + strlen(w->name)));
}

/* Local header, name, padding as an extra field, data. Returns where the next begins. */
static uint32_t put_local(FILE *f, written *w, uint32_t at) {
  uint8_t header[LOCAL_BYTES] = {0}, padding[4 + ALIGNMENT] = {'F', 'B'};
  uint32_t data = at + LOCAL_BYTES + (uint32_t)(strlen(FOLDER) + strlen(w->name)) + 4;
  uint32_t pad = (ALIGNMENT - data % ALIGNMENT) % ALIGNMENT;
  w->at = at;
  w->crc = checksum(w->data, w->bytes);
  put32(header, LOCAL_SIGNATURE);
  shared_header(header + 4, w);
  put16(header + 28, 4 + pad);
  put16(padding + 2, pad);
  fwrite(header, sizeof header, 1, f);
  fprintf(f, FOLDER "%s", w->name);
  fwrite(padding, 4 + pad, 1, f);
  if (w->bytes > 0)
    fwrite(w->data, w->bytes, 1, f);
  return data + pad + (uint32_t)w->bytes;
}

static uint32_t put_central(FILE *f, const written *w) {
  uint8_t header[CENTRAL_BYTES] = {0};
  put32(header, CENTRAL_SIGNATURE);
  shared_header(header + 6, w);
  put32(header + 42, w->at);
  fwrite(header, sizeof header, 1, f);
  fprintf(f, FOLDER "%s", w->name);
  return CENTRAL_BYTES + (uint32_t)(strlen(FOLDER) + strlen(w->name));
}

bool ebb_pt_write(const char *path, int rank, const int64_t *shape, const float *data, ebb_error *err) {
  uint64_t bytes = sizeof *data;
  bool fits = rank >= 0 && rank <= EBB_PT_RANK;
  for (int k = 0; fits && k < rank; k++)
    fits =
        shape[k] >= 0 && !__builtin_mul_overflow(bytes, (uint64_t)shape[k], &bytes) && bytes < EBB_PT_BYTES;
  if (!fits)
    return ebb_fail(err,
                    "%s: a tensor of %d dimensions that is too large to write: expected at most %d, and "
                    "less than 2 GiB",
                    path, rank, EBB_PT_RANK);
  uint8_t pickle[1024];
  size_t pickled = pickle_of(rank, shape, (int64_t)(bytes / sizeof *data), pickle, sizeof pickle);
  if (pickled == 0)
    return ebb_fail(err, "%s: its pickle cannot be made: no memory for a stream", path);
  written entries[] = {{"data.pkl", pickle, pickled, 0, 0},
                       {"byteorder", "little", 6, 0, 0},
                       {"data/0", data, (size_t)bytes, 0, 0},
                       {"version", "3\n", 2, 0, 0}};
  enum { COUNT = sizeof entries / sizeof *entries };
  ebb_file_writer w;
  if (!ebb_file_create(&w, path, err))
    return false;
  uint32_t at = 0, directory = 0;
  for (int i = 0; i < COUNT; i++)
    at = put_local(w.stream, &entries[i], at);
  for (int i = 0; i < COUNT; i++)
    directory += put_central(w.stream, &entries[i]);
  uint8_t end[END_BYTES] = {0};
  put32(end, END_SIGNATURE);
  put16(end + 8, COUNT);
  put16(end + 10, COUNT);
  put32(end + 12, directory);
  put32(end + 16, at);
  fwrite(end, sizeof end, 1, w.stream);
  return ebb_file_commit(&w, err);
}
