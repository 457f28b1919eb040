/* A tensor: a value that points at numbers it does not own. Contiguous, in the order of torch (the last
 * dimension runs fastest), so that a shape says everything. Views share the data. */
#ifndef EBB_KERNELS_TENSOR_H
#define EBB_KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EBB_DIMS 5

typedef enum ebb_dtype { EBB_F32, EBB_F64, EBB_F16, EBB_BF16, EBB_I64, EBB_U8 } ebb_dtype;
typedef enum ebb_place { EBB_HOST, EBB_DEVICE } ebb_place;

typedef struct ebb_tensor {
  void *data;
  const char *name; /* for messages; lives at least as long as the tensor; may be NULL */
  ebb_dtype dtype;
  ebb_place place;
  int rank; /* 0: no tensor (an absent bias), 1..EBB_DIMS otherwise */
  int64_t shape[EBB_DIMS];
} ebb_tensor;

#define EBB_NO_TENSOR ((ebb_tensor){0}) /* for optional arguments */
#define EBB_SHAPE_TEXT 96

size_t ebb_dtype_size(ebb_dtype dtype); /* bytes of one element */
const char *
ebb_dtype_name(ebb_dtype dtype); /* "float32", "float64", "float16", "bfloat16", "int64", "uint8" */

/* A tensor over `data`; trailing arguments are the shape: ebb_tensor_of(p, EBB_F32, EBB_HOST, "x", 2, B, D).
 * Dimensions are passed as int64_t; a macro counts them. */
#define EBB_TENSOR(data, dtype, place, name, ...)                                                            \
  ebb_tensor_of((data), (dtype), (place), (name), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                (const int64_t[]){__VA_ARGS__})
ebb_tensor ebb_tensor_of(void *data, ebb_dtype dtype, ebb_place place, const char *name, int rank,
                         const int64_t *shape);

static inline bool ebb_present(ebb_tensor t) {
  return t.rank > 0;
}
int64_t ebb_count(ebb_tensor t); /* number of elements; 0 for EBB_NO_TENSOR */
size_t ebb_bytes(ebb_tensor t);  /* bytes of the data */
int64_t ebb_last(ebb_tensor t);  /* size of the last dimension */
int64_t ebb_rows(ebb_tensor t);  /* product of all dimensions but the last */
bool ebb_same_shape(ebb_tensor a, ebb_tensor b);

/* The same data in another shape of the same number of elements (asserted). */
#define EBB_VIEW(t, ...)                                                                                     \
  ebb_view((t), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})
ebb_tensor ebb_view(ebb_tensor t, int rank, const int64_t *shape);
/* Entries [first, first + count) of the outermost dimension: still contiguous. Bounds are asserted. */
ebb_tensor ebb_slice(ebb_tensor t, int64_t first, int64_t count);
/* Entry i of the outermost dimension, that dimension dropped (rank >= 2). */
ebb_tensor ebb_at(ebb_tensor t, int64_t i);
ebb_tensor ebb_named(ebb_tensor t, const char *name);

/* "[2, 144, 192]" into text (EBB_SHAPE_TEXT bytes); returns text. */
const char *ebb_shape_text(int rank, const int64_t *shape, char *text);

#endif
