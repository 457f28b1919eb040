#include "kernels/tensor.h"

#include <assert.h>
#include <stdio.h>

static const struct {
  const char *name;
  size_t size;
} dtypes[] = {[EBB_F32] = {"float32", 4},   [EBB_F64] = {"float64", 8}, [EBB_F16] = {"float16", 2},
              [EBB_BF16] = {"bfloat16", 2}, [EBB_I64] = {"int64", 8},   [EBB_U8] = {"uint8", 1}};

size_t ebb_dtype_size(ebb_dtype dtype) {
  return dtypes[dtype].size;
}

const char *ebb_dtype_name(ebb_dtype dtype) {
  return dtypes[dtype].name;
}

ebb_tensor ebb_tensor_of(void *data, ebb_dtype dtype, ebb_place place, const char *name, int rank,
                         const int64_t *shape) {
  assert(rank >= 1 && rank <= EBB_DIMS);
  ebb_tensor t = {.data = data, .name = name, .dtype = dtype, .place = place, .rank = rank};
  for (int i = 0; i < rank; i++) {
    assert(shape[i] >= 0);
    t.shape[i] = shape[i];
  }
  return t;
}

int64_t ebb_count(ebb_tensor t) {
  if (t.rank == 0)
    return 0;
  int64_t count = 1;
  for (int i = 0; i < t.rank; i++)
    count *= t.shape[i];
  return count;
}

size_t ebb_bytes(ebb_tensor t) {
  return (size_t)ebb_count(t) * ebb_dtype_size(t.dtype);
}

int64_t ebb_last(ebb_tensor t) {
  return t.rank > 0 ? t.shape[t.rank - 1] : 0;
}

int64_t ebb_rows(ebb_tensor t) {
  if (t.rank == 0)
    return 0;
  int64_t rows = 1;
  for (int i = 0; i < t.rank - 1; i++)
    rows *= t.shape[i];
  return rows;
}

bool ebb_same_shape(ebb_tensor a, ebb_tensor b) {
  if (a.rank != b.rank)
    return false;
  for (int i = 0; i < a.rank; i++)
    if (a.shape[i] != b.shape[i])
      return false;
  return true;
}

ebb_tensor ebb_view(ebb_tensor t, int rank, const int64_t *shape) {
  ebb_tensor view = ebb_tensor_of(t.data, t.dtype, t.place, t.name, rank, shape);
  assert(ebb_count(view) == ebb_count(t));
  return view;
}

/* Moves the data pointer by whole entries of the outermost dimension. Placeholders of a counting arena pass
 * through here too, so the sum is one of integers. */
static void *advance(ebb_tensor t, int64_t first) {
  int64_t entry = t.shape[0] > 0 ? ebb_count(t) / t.shape[0] : 0;
  return (void *)((uintptr_t)t.data + (uintptr_t)(first * entry) * ebb_dtype_size(t.dtype));
}

ebb_tensor ebb_slice(ebb_tensor t, int64_t first, int64_t count) {
  assert(t.rank >= 1 && first >= 0 && count >= 0 && first <= t.shape[0] - count);
  t.data = advance(t, first);
  t.shape[0] = count;
  return t;
}

ebb_tensor ebb_at(ebb_tensor t, int64_t i) {
  assert(t.rank >= 2 && i >= 0 && i < t.shape[0]);
  return ebb_tensor_of(advance(t, i), t.dtype, t.place, t.name, t.rank - 1, t.shape + 1);
}

ebb_tensor ebb_named(ebb_tensor t, const char *name) {
  t.name = name;
  return t;
}

const char *ebb_shape_text(int rank, const int64_t *shape, char *text) {
  int at = snprintf(text, EBB_SHAPE_TEXT, "[");
  for (int i = 0; i < rank && at < EBB_SHAPE_TEXT; i++)
    at += snprintf(text + at, (size_t)(EBB_SHAPE_TEXT - at), i ? ", %lld" : "%lld", (long long)shape[i]);
  if (at < EBB_SHAPE_TEXT)
    snprintf(text + at, (size_t)(EBB_SHAPE_TEXT - at), "]");
  return text;
}
