/* What ops.c and ops_probe.c check with: every op lists its tensors, states their shapes, and is counted.
 * Private to kernels/. */
#ifndef EBB_KERNELS_OPS_CHECK_H
#define EBB_KERNELS_OPS_CHECK_H

#include <stdio.h>

#include "kernels/backend.h"

enum {
  OUT = 1,      /* written */
  INOUT = 2,    /* read and written */
  OPTIONAL = 4, /* may be EBB_NO_TENSOR */
  IN_PLACE = 8, /* with OUT: may be the same memory as an input, all of it */
  HALF = 16,    /* may be bfloat16 where the backend has it */
  SINGLE = 32,  /* is float32, whatever the op's dtype */
  INTEGER = 64, /* is int64 */
  EITHER = 128  /* is float32 or float64 */
};

typedef struct arg {
  const char *role; /* the name in ops.h: "y", "x", "w" */
  ebb_tensor t;
  unsigned flags;
} arg;

typedef struct call {
  ebb_context *c;
  const char *op;
  const arg *args;
  int n;
} call;

#define CALL(c, op, args)                                                                                    \
  { (c), (op), (args), (int)(sizeof(args) / sizeof((args)[0])) }

/* ` "tokens" float32 [2, 144, 192]` after the role; returns the new end of text. */
static inline int describe(char *text, int at, int size, const arg *a) {
  char shape[EBB_SHAPE_TEXT];
  if (at >= size)
    return at;
  if (!ebb_present(a->t))
    return at + snprintf(text + at, (size_t)(size - at), "%s absent", a->role);
  return at + snprintf(text + at, (size_t)(size - at), "%s \"%s\" %s %s", a->role, a->t.name ? a->t.name : "",
                       ebb_dtype_name(a->t.dtype), ebb_shape_text(a->t.rank, a->t.shape, shape));
}

/* Records `op: what; given y "..." float32 [...], x ...`. Returns false. */
static inline bool refuse(const call *k, const char *what) {
  char given[EBB_ERROR_TEXT / 2];
  int at = 0, size = (int)sizeof given;
  for (int i = 0; i < k->n && at < size; i++) {
    if (i > 0)
      at += snprintf(given + at, (size_t)(size - at), ", ");
    at = describe(given, at, size, &k->args[i]);
  }
  ebb_context_fail(k->c, "%s: %s; given %s", k->op, what, given);
  return false;
}

static inline bool overlap(ebb_tensor a, ebb_tensor b) {
  uintptr_t a0 = (uintptr_t)a.data, b0 = (uintptr_t)b.data;
  return a0 < b0 + ebb_bytes(b) && b0 < a0 + ebb_bytes(a);
}

static inline bool check_overlaps(const call *k) {
  char what[128];
  for (int i = 0; i < k->n; i++)
    for (int j = 0; j < k->n; j++) {
      const arg *a = &k->args[i], *b = &k->args[j];
      if (i == j || !(a->flags & (OUT | INOUT)) || !ebb_present(a->t) || !ebb_present(b->t))
        continue;
      bool same = a->t.data == b->t.data && ebb_bytes(a->t) == ebb_bytes(b->t);
      if (overlap(a->t, b->t) && !(same && (a->flags & IN_PLACE))) {
        snprintf(what, sizeof what, "%s overlaps %s in memory", a->role, b->role);
        return refuse(k, what);
      }
    }
  return true;
}

/* What holds for every op: no failure before, required tensors there, of the dtype, in the backend's memory,
 * no dimension zero or beyond a 32-bit index (BLAS counts in int). */
static inline bool start(const call *k, ebb_dtype dtype) {
  char what[160];
  if (k->c->error.text[0])
    return false;
  for (int i = 0; i < k->n; i++) {
    const arg *a = &k->args[i];
    if (!ebb_present(a->t)) {
      if (a->flags & OPTIONAL)
        continue;
      snprintf(what, sizeof what, "%s is absent, expected a tensor", a->role);
      return refuse(k, what);
    }
    bool half = a->t.dtype == EBB_BF16 && (a->flags & HALF);
    bool either = (a->t.dtype == EBB_F32 || a->t.dtype == EBB_F64) && (a->flags & EITHER);
    ebb_dtype expected = a->flags & SINGLE ? EBB_F32 : a->flags & INTEGER ? EBB_I64 : dtype;
    if (a->t.dtype != expected && !half && !either) {
      snprintf(what, sizeof what, "%s is %s, expected %s", a->role, ebb_dtype_name(a->t.dtype),
               ebb_dtype_name(expected));
      return refuse(k, what);
    }
    if (half && !k->c->backend->half) {
      snprintf(what, sizeof what, "%s is bfloat16, backend \"%s\" computes in float32", a->role,
               k->c->backend->name);
      return refuse(k, what);
    }
    for (int d = 0; d < a->t.rank; d++)
      if (a->t.shape[d] < 1 || a->t.shape[d] > INT32_MAX) {
        snprintf(what, sizeof what, "dimension %d of %s is %lld, expected 1 to 2147483647", d, a->role,
                 (long long)a->t.shape[d]);
        return refuse(k, what);
      }
    if (a->t.place != k->c->backend->place || (!k->c->counting && !a->t.data)) {
      snprintf(what, sizeof what, "%s is not in the memory of backend \"%s\"", a->role, k->c->backend->name);
      return refuse(k, what);
    }
  }
  return k->c->counting || check_overlaps(k);
}

/* On a device, data of all tensors at multiples of EBB_DATA_ALIGN bytes. */
static inline bool want_aligned(const call *k) {
  char what[160];
  if (k->c->counting || k->c->backend->place != EBB_DEVICE)
    return true;
  for (int i = 0; i < k->n; i++) {
    const arg *a = &k->args[i];
    if (ebb_present(a->t) && (uintptr_t)a->t.data % EBB_DATA_ALIGN != 0) {
      snprintf(what, sizeof what,
               "%s starts %d bytes after a multiple of %d, expected at one: a tensor of its own, not a slice",
               a->role, (int)((uintptr_t)a->t.data % EBB_DATA_ALIGN), EBB_DATA_ALIGN);
      return refuse(k, what);
    }
  }
  return true;
}

/* args[i] must have this shape; absent optional ones pass. */
static inline bool want_shape(const call *k, int i, int rank, const int64_t *shape) {
  const arg *a = &k->args[i];
  ebb_tensor expected = {.rank = rank};
  for (int d = 0; d < rank; d++)
    expected.shape[d] = shape[d];
  if (!ebb_present(a->t) || ebb_same_shape(a->t, expected))
    return true;
  char is[EBB_SHAPE_TEXT], should[EBB_SHAPE_TEXT], what[2 * EBB_SHAPE_TEXT + 64];
  snprintf(what, sizeof what, "%s is %s, expected %s", a->role, ebb_shape_text(a->t.rank, a->t.shape, is),
           ebb_shape_text(rank, shape, should));
  return refuse(k, what);
}
#define WANT(k, i, ...)                                                                                      \
  want_shape((k), (i), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                            \
             (const int64_t[]){__VA_ARGS__})

static inline bool want_like(const call *k, int i, ebb_tensor t) {
  return want_shape(k, i, t.rank, t.shape);
}

/* args[i] must have this rank, written as `letters` ("[B, S, D]"). */
static inline bool want_rank(const call *k, int i, int rank, const char *letters) {
  const arg *a = &k->args[i];
  if (!ebb_present(a->t) || a->t.rank == rank)
    return true;
  char is[EBB_SHAPE_TEXT], what[2 * EBB_SHAPE_TEXT + 64];
  snprintf(what, sizeof what, "%s is %s, expected %s", a->role, ebb_shape_text(a->t.rank, a->t.shape, is),
           letters);
  return refuse(k, what);
}

/* args[i] must be of the dtype of args[j]; absent ones pass. */
static inline bool want_dtype_of(const call *k, int i, int j) {
  const arg *a = &k->args[i], *b = &k->args[j];
  if (!ebb_present(a->t) || a->t.dtype == b->t.dtype)
    return true;
  char what[160];
  snprintf(what, sizeof what, "%s is %s, expected %s as %s", a->role, ebb_dtype_name(a->t.dtype),
           ebb_dtype_name(b->t.dtype), b->role);
  return refuse(k, what);
}

static inline bool want(const call *k, bool condition, const char *what) {
  return condition || refuse(k, what);
}

static inline void tell_observer(const call *k, double flops, double bytes) {
  ebb_op_seen seen = {.name = k->op, .tensor_count = k->n, .flops = flops, .bytes = bytes};
  for (int i = 0; i < k->n; i++)
    seen.tensors[i] = k->args[i].t;
  k->c->observer(k->c->observer_user, &seen);
}

/* Counts the op; true when it is to be computed. */
static inline bool count(const call *k, double flops) {
  ebb_counters *n = &k->c->counters;
  double bytes = 0;
  for (int i = 0; i < k->n; i++)
    bytes += (k->args[i].flags & INOUT ? 2.0 : 1.0) * (double)ebb_bytes(k->args[i].t);
  n->ops++;
  n->flops += flops;
  n->bytes += bytes;
  if (k->c->observer && !k->c->counting)
    tell_observer(k, flops, bytes);
  return !k->c->counting;
}

/* The batch that t must have: 1 when it is shared by all B samples. */
static inline int64_t shared(ebb_tensor t, int64_t B) {
  return ebb_present(t) && t.shape[0] == 1 ? 1 : B;
}

static inline double numel(ebb_tensor t) {
  return (double)ebb_count(t);
}

/* Memory that an op's backend needs for the length of the call, from the activation arena, so that a dry run
 * counts it; the caller gives it back. NULL with false: the arena is full. */
static inline bool take_scratch(const call *k, size_t bytes, void **scratch) {
  ebb_arena *arena = &k->c->activations;
  *scratch = bytes > 0 ? ebb_arena_take(arena, bytes) : NULL;
  if (bytes == 0 || *scratch)
    return true;
  ebb_context_fail(k->c, "%s: the %s arena is full: %zu of %zu bytes used, %zu more needed as scratch", k->op,
                   arena->name, arena->used, arena->size, bytes);
  return false;
}

#endif
