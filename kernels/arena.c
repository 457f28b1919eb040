#include "kernels/arena.h"

#include <assert.h>

void *ebb_arena_take(ebb_arena *arena, size_t bytes) {
  size_t first = (arena->used + (EBB_ARENA_ALIGN - 1)) & ~(size_t)(EBB_ARENA_ALIGN - 1);
  if (first < arena->used || bytes > SIZE_MAX - 2 * EBB_ARENA_ALIGN - first)
    return NULL;
  if (!arena->counting && (first > arena->size || bytes > arena->size - first))
    return NULL;
  arena->used = first + bytes;
  if (arena->used > arena->peak)
    arena->peak = arena->used;
  if (arena->counting) /* never followed, but distinct and not NULL */
    return (void *)(uintptr_t)(EBB_ARENA_ALIGN + first);
  return arena->base + first;
}

size_t ebb_arena_mark(const ebb_arena *arena) {
  return arena->used;
}

void ebb_arena_release(ebb_arena *arena, size_t mark) {
  assert(mark <= arena->used);
  arena->used = mark;
}
