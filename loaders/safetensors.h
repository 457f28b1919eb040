/* safetensors files: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}},
 * the data (github.com/huggingface/safetensors, format section). Files are outside input: the header is
 * checked whole before anything is allocated by its word - length (<= 100 MB and inside the file), no
 * duplicate keys, ranks <= 8, dimensions and products without overflow, offsets that cover the data exactly
 * once: no gap, no overlap. */
#ifndef EBB_LOADERS_SAFETENSORS_H
#define EBB_LOADERS_SAFETENSORS_H

#include "kernels/error.h"
#include "kernels/tensor.h"

#define EBB_ST_RANK 8
#define EBB_ST_HEADER_MAX ((uint64_t)100 << 20)

typedef struct ebb_st_entry {
  char *name;
  char dtype[12]; /* as the file says it: "F32", "BF16", "I64", "F8_E4M3", ... */
  int rank;       /* 0: a scalar, one element */
  int64_t shape[EBB_ST_RANK];
  uint64_t offset, bytes; /* offset from the start of the file */
} ebb_st_entry;

typedef struct ebb_safetensors {
  char *path;
  int fd;
  int64_t count;
  ebb_st_entry *entries; /* in order of name */
  int64_t metadata_count;
  char **metadata; /* metadata[2i] key, metadata[2i+1] value */
} ebb_safetensors;

/* Opens and checks. Errors name the file, the tensor, what was found and what was expected; a Git LFS
 * pointer, an HTML page and a pickle are told by name, with what to do. */
bool ebb_safetensors_open(ebb_safetensors *st, const char *path, ebb_error *err);
void ebb_safetensors_close(ebb_safetensors *st);
/* Checks and parses a header in memory: `bytes` of it (after the length word) of a file of `file_bytes`. What
 * open uses, and what the fuzzer calls. */
bool ebb_safetensors_parse(ebb_safetensors *st, const char *path, const char *json, uint64_t bytes,
                           uint64_t file_bytes, ebb_error *err);

const ebb_st_entry *ebb_safetensors_find(const ebb_safetensors *st, const char *name); /* NULL: not there */
int64_t ebb_st_elements(const ebb_st_entry *entry);
const char *ebb_st_shape(const ebb_st_entry *entry, char *text,
                         size_t size);            /* "[2, 3]" into text; returns text */
bool ebb_st_is_number(const ebb_st_entry *entry); /* a dtype that ebb_safetensors_read_f32 takes */
/* The raw bytes [from, from+bytes) of a tensor's data, by pread. */
bool ebb_safetensors_read(const ebb_safetensors *st, const ebb_st_entry *entry, uint64_t from, uint64_t bytes,
                          void *to, ebb_error *err);
/* All elements as float32, from F64, F32, F16, BF16, I64, I32, U8. Other dtypes are an error. */
bool ebb_safetensors_read_f32(const ebb_safetensors *st, const ebb_st_entry *entry, float *to,
                              ebb_error *err);

/* Writing: tensors are declared first, then appended in the declared order in any pieces, then finished:
 * synced and renamed into place. Anything else leaves no file behind. Same input, same bytes. */
typedef struct ebb_st_writer ebb_st_writer;
typedef struct ebb_st_declare {
  const char *name;
  ebb_dtype dtype;
  int rank;
  int64_t shape[EBB_ST_RANK];
} ebb_st_declare;
/* metadata: pairs key, value; may be NULL. */
bool ebb_st_writer_open(ebb_st_writer **w, const char *path, const ebb_st_declare *tensors, int64_t count,
                        const char *const *metadata, int64_t metadata_count, ebb_error *err);
/* Bytes of the file that these tensors make. Errors as of open. */
bool ebb_st_file_bytes(const char *path, const ebb_st_declare *tensors, int64_t count, uint64_t *bytes,
                       ebb_error *err);
bool ebb_st_writer_append(ebb_st_writer *w, const void *data, size_t bytes, ebb_error *err);
bool ebb_st_writer_finish(ebb_st_writer **w,
                          ebb_error *err);     /* error when bytes are missing; frees w in any case */
void ebb_st_writer_abandon(ebb_st_writer **w); /* removes the temporary file; NULL is fine */

#endif
