/* PyTorch's files of tensors, both ways: torch.save since 1.6, a zip archive of stored entries with a pickle
 * (data.pkl) that says which bytes are which tensor. The pickle is read as data: dicts, tuples, integers,
 * booleans and strings, torch._utils._rebuild_tensor_v2 of torch.*Storage, and the empty OrderedDict of hooks
 * that goes with it. Nothing is called, and any other opcode or global is an error that names it. */
#ifndef EBB_LOADERS_PT_H
#define EBB_LOADERS_PT_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

#define EBB_PT_RANK 8
#define EBB_PT_TENSORS 65536           /* most of a file */
#define EBB_PT_BYTES ((size_t)2 << 30) /* largest file that is read */
#define EBB_PT_ELEMENTS                                                                                      \
  ((int64_t)1                                                                                                \
   << 31) /* most elements of one tensor, and no more than the file has bytes for, strides or not */

typedef enum ebb_pt_type {
  EBB_PT_FLOAT,
  EBB_PT_DOUBLE,
  EBB_PT_HALF,
  EBB_PT_BFLOAT16,
  EBB_PT_LONG,
  EBB_PT_INT,
  EBB_PT_SHORT,
  EBB_PT_CHAR,
  EBB_PT_BYTE,
  EBB_PT_BOOL,
  EBB_PT_TYPES
} ebb_pt_type;

typedef struct ebb_pt_tensor {
  char *name; /* where it stands: "" for a file that is one tensor, "a", "a/0" in dicts and tuples */
  ebb_pt_type type;
  int rank;
  int64_t shape[EBB_PT_RANK], stride[EBB_PT_RANK]; /* stride in elements, >= 0; 0 where shape is 1 */
  int64_t count;                                   /* elements: product of shape */
  const uint8_t *data;                             /* its first element; all of them lie in the file */
} ebb_pt_tensor;

typedef struct ebb_pt {
  int64_t count;
  ebb_pt_tensor *tensors; /* in the order of the file */
  char *bytes;            /* the file; NULL when it was parsed from the caller's memory */
} ebb_pt;

/* Errors: not an archive (with what it is instead, as far as that can be told), an entry that is compressed,
 * encrypted, outside the file or of another checksum, a pickle with anything but the above, a tensor that
 * does not lie in its storage. */
bool ebb_pt_open(ebb_pt *pt, const char *path, ebb_error *err);
/* The same from memory that has to live as long as pt. */
bool ebb_pt_parse(ebb_pt *pt, const char *path, const void *bytes, size_t count, ebb_error *err);
void ebb_pt_close(ebb_pt *pt); /* a zeroed struct is fine */
/* to [tensor->count] as float32, last dimension fastest; numbers that float32 does not have are rounded. */
void ebb_pt_floats(const ebb_pt_tensor *tensor, float *to);

/* One float32 tensor, contiguous, as torch.save writes it; torch.load(weights_only=True) reads it. The same
 * numbers give the same bytes. */
bool ebb_pt_write(const char *path, int rank, const int64_t *shape, const float *data, ebb_error *err);

#endif
