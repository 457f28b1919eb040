/* Bump allocation: a named block of memory taken once, handed out from the front, given back by mark and
 * release. In counting mode there is no block: the same calls run, pointers are placeholders that must not be
 * followed, and `peak` is what a real run will need. */
#ifndef EBB_KERNELS_ARENA_H
#define EBB_KERNELS_ARENA_H

#include "kernels/error.h"
#include "kernels/tensor.h"

#define EBB_ARENA_ALIGN 256

typedef struct ebb_arena {
  const char *name; /* for messages: "weights", "activations" */
  char *base;       /* owned by whoever took the memory (the context) */
  size_t size, used, peak;
  ebb_place place;
  bool counting;
} ebb_arena;

/* The next `bytes`, aligned to EBB_ARENA_ALIGN; NULL when the arena is full (never in counting mode). */
void *ebb_arena_take(ebb_arena *arena, size_t bytes);
size_t ebb_arena_mark(const ebb_arena *arena);
void ebb_arena_release(ebb_arena *arena, size_t mark);

#endif
