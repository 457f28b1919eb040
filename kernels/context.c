#include "kernels/context.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"

/* The backend named by `device`, NULL after filling err. */
static const ebb_backend *find_backend(const char *device, ebb_error *err) {
  if (strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0)
    return &ebb_cpu_backend;
  size_t digits = strncmp(device, "cuda:", 5) == 0 ? strspn(device + 5, "0123456789") : 0;
  if (strcmp(device, "cuda") == 0 || (digits > 0 && device[5 + digits] == '\0'))
    ebb_fail(err, "device \"%s\": this build has no CUDA backend; use \"cpu\" (or \"auto\")", device);
  else
    ebb_fail(err, "device \"%s\" is unknown; expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\"", device);
  return NULL;
}

bool ebb_context_open(ebb_context *c, const char *device, ebb_error *err) {
  memset(c, 0, sizeof *c);
  const ebb_backend *backend = find_backend(device, err);
  if (!backend)
    return false;
  c->backend = backend;
  c->weights = (ebb_arena){.name = "weights", .place = backend->place};
  c->activations = (ebb_arena){.name = "activations", .place = backend->place};
  if (!backend->open(c, 0, err)) {
    c->backend = NULL;
    return false;
  }
  return true;
}

static void release_arena(ebb_context *c, ebb_arena *arena) {
  if (arena->base)
    c->backend->release(c, arena->base);
  arena->base = NULL;
  arena->size = arena->used = 0;
}

const char *ebb_context_device(const ebb_context *c) {
  return c->backend->name;
}

void ebb_context_close(ebb_context *c) {
  if (!c->backend)
    return;
  release_arena(c, &c->weights);
  release_arena(c, &c->activations);
  c->backend->close(c);
  memset(c, 0, sizeof *c);
}

void ebb_context_count(ebb_context *c) {
  ebb_arena *arenas[] = {&c->weights, &c->activations};
  for (int i = 0; i < 2; i++) {
    arenas[i]->counting = true;
    arenas[i]->used = arenas[i]->peak = 0;
  }
  c->counters = (ebb_counters){0};
  c->counting = true;
}

bool ebb_context_reserve(ebb_context *c, ebb_arena_kind which, size_t bytes, ebb_error *err) {
  if (c->counting) { /* what was handed out were placeholders; the peaks stay for the caller to read */
    c->weights.counting = c->activations.counting = c->counting = false;
    c->weights.used = c->activations.used = 0;
  }
  ebb_arena *arena = which == EBB_WEIGHTS ? &c->weights : &c->activations;
  release_arena(c, arena);
  arena->peak = 0;
  if (bytes == 0)
    return true;
  arena->base = c->backend->allocate(c, bytes);
  if (!arena->base)
    return ebb_fail(err, "not enough memory on %s for %s: %.3f GiB asked for (%zu bytes)", c->backend->name,
                    arena->name, (double)bytes / (1 << 30), bytes);
  arena->size = bytes;
  return true;
}

bool ebb_context_sized(ebb_context *c, bool (*work)(void *user, ebb_error *err), void *user, ebb_error *err) {
  ebb_context_count(c);
  if (!work(user, err))
    return false;
  size_t weights = c->weights.peak, activations = c->activations.peak;
  return ebb_context_reserve(c, EBB_WEIGHTS, weights, err) &&
         ebb_context_reserve(c, EBB_ACTIVATIONS, activations, err) && work(user, err);
}

/* Bytes of a tensor of that shape; false when they do not fit in a size_t or a dimension is negative. */
static bool shape_bytes(ebb_dtype dtype, int rank, const int64_t *shape, size_t *bytes) {
  *bytes = ebb_dtype_size(dtype);
  for (int i = 0; i < rank; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(*bytes, (size_t)shape[i], bytes))
      return false;
  return true;
}

ebb_tensor ebb_tensor_new(ebb_context *c, ebb_arena_kind which, ebb_dtype dtype, const char *name, int rank,
                          const int64_t *shape) {
  ebb_arena *arena = which == EBB_WEIGHTS ? &c->weights : &c->activations;
  char text[EBB_SHAPE_TEXT];
  size_t bytes;
  if (!shape_bytes(dtype, rank, shape, &bytes)) {
    ebb_context_fail(c, "tensor \"%s\" %s: impossible size", name, ebb_shape_text(rank, shape, text));
    return (ebb_tensor){.name = name, .dtype = dtype, .place = arena->place};
  }
  void *data = ebb_arena_take(arena, bytes);
  if (!data)
    ebb_context_fail(c, "tensor \"%s\" %s %s: the %s arena is full: %zu of %zu bytes used, %zu more needed",
                     name, ebb_dtype_name(dtype), ebb_shape_text(rank, shape, text), arena->name, arena->used,
                     arena->size, bytes);
  return ebb_tensor_of(data, dtype, arena->place, name, rank, shape);
}

void ebb_upload(ebb_context *c, ebb_tensor to, const void *from) {
  if (!c->counting && !c->error.text[0])
    c->backend->upload(c, to, from);
}

void ebb_download(ebb_context *c, void *to, ebb_tensor from) {
  if (!c->counting && !c->error.text[0])
    c->backend->download(c, to, from);
}

void ebb_context_fail(ebb_context *c, const char *format, ...) {
  char text[EBB_ERROR_TEXT];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  ebb_fail(&c->error, "%s", text);
}

bool ebb_context_ok(ebb_context *c, ebb_error *err) {
  if (!c->error.text[0])
    return true;
  ebb_fail(err, "%s", c->error.text);
  c->error.text[0] = '\0';
  return false;
}

int ebb_context_threads(void) {
  const char *text = getenv("OMP_NUM_THREADS");
  long threads = text ? strtol(text, NULL, 10) : 0; /* of a list per nesting level the first number counts */
  if (threads < 1)
    threads = sysconf(_SC_NPROCESSORS_ONLN);
  return threads < 1 ? 1 : threads > 1024 ? 1024 : (int)threads;
}
