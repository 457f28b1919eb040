#include "kernels/context.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"

#if defined(EBB_HAVE_CUDA)
static const ebb_backend *const cuda = &ebb_cuda_backend;
#else
static const ebb_backend *const cuda = NULL;
#endif

int ebb_context_gpus(const char **why) {
  *why = "not in this build";
  return cuda ? cuda->devices(why) : -1;
}

static bool open_on(ebb_context *c, const ebb_backend *backend, int number, ebb_error *err) {
  memset(c, 0, sizeof *c);
  c->backend = backend;
  snprintf(c->device, sizeof c->device, "%s", backend->name);
  c->weights = (ebb_arena){.name = "weights", .place = backend->place};
  c->activations = (ebb_arena){.name = "activations", .place = backend->place};
  if (!backend->open(c, number, err))
    c->backend = NULL;
  return c->backend != NULL;
}

/* The first GPU that can be used, or the CPU. */
static bool open_auto(ebb_context *c, ebb_error *err) {
  const char *why;
  for (int i = 0; i < ebb_context_gpus(&why); i++) {
    ebb_error unsuitable = {0};
    if (open_on(c, cuda, i, &unsuitable))
      return true;
  }
  return open_on(c, &ebb_cpu_backend, 0, err);
}

bool ebb_context_open(ebb_context *c, const char *device, ebb_error *err) {
  const char *why;
  memset(c, 0, sizeof *c);
  if (strcmp(device, "auto") == 0)
    return open_auto(c, err);
  if (strcmp(device, "cpu") == 0)
    return open_on(c, &ebb_cpu_backend, 0, err);
  size_t digits = strncmp(device, "cuda:", 5) == 0 ? strspn(device + 5, "0123456789") : 0;
  bool numbered = digits > 0 && digits < 4 && device[5 + digits] == '\0';
  if (strcmp(device, "cuda") != 0 && !numbered)
    return ebb_fail(err, "device \"%s\" is unknown; expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\"",
                    device);
  int number = numbered ? atoi(device + 5) : 0, gpus = ebb_context_gpus(&why);
  if (gpus < 0)
    return ebb_fail(err, "device \"%s\": this build has no CUDA backend; use \"cpu\" (or \"auto\")", device);
  if (gpus == 0)
    return ebb_fail(err, "device \"%s\": no GPU can be used (%s); use \"cpu\" (or \"auto\")", device, why);
  if (number >= gpus)
    return ebb_fail(err, "device \"%s\" does not exist: there are %d, \"cuda:0\" to \"cuda:%d\"", device,
                    gpus, gpus - 1);
  return open_on(c, cuda, number, err);
}

static void release_arena(ebb_context *c, ebb_arena *arena) {
  if (arena->base)
    c->backend->release(c, arena->base);
  arena->base = NULL;
  arena->size = arena->used = 0;
}

const char *ebb_context_device(const ebb_context *c) {
  return c->device;
}

bool ebb_context_has_half(const ebb_context *c) {
  return c->backend->half;
}

void ebb_context_memory(ebb_context *c, size_t *free_bytes, size_t *total_bytes) {
  c->backend->memory(c, free_bytes, total_bytes);
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
    return ebb_fail(err, "not enough memory on %s for %s: %.3f GiB asked for (%zu bytes)", c->device,
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

void ebb_download_start(ebb_context *c, void *to, ebb_tensor from) {
  if (!c->counting && !c->error.text[0])
    c->backend->download_start(c, to, from);
}

void ebb_download_wait(ebb_context *c) {
  if (!c->counting) /* after a failure too: a copy may be under way into memory that is about to be freed */
    c->backend->download_wait(c);
}

void ebb_context_wait(ebb_context *c) {
  if (!c->counting && !c->error.text[0])
    c->backend->wait(c);
}

void *ebb_host_new(ebb_context *c, size_t bytes) {
  return c->backend->host_allocate(c, bytes);
}

void ebb_host_free(ebb_context *c, void *memory) {
  if (memory)
    c->backend->host_release(c, memory);
}

bool ebb_upload_from(ebb_context *c, int64_t count, const ebb_source *sources, ebb_error *err) {
  if (c->counting || c->error.text[0])
    return true;
  return c->backend->upload_from(c, count, sources, err);
}

static void add_counters(ebb_counters *to, ebb_counters n, double sign) {
  to->ops += (int64_t)sign * n.ops;
  to->flops += sign * n.flops;
  to->bytes += sign * n.bytes;
}

void ebb_replay(ebb_context *c, ebb_recording *r, void (*work)(void *user), void *user) {
  const ebb_backend *b = c->backend;
  if (c->counting || c->error.text[0] || !b->record || r->runs == 0 || c->observer) {
    ebb_counters before = c->counters;
    work(user);
    r->counters = c->counters;
    add_counters(&r->counters, before, -1);
    r->runs += !c->counting && !c->error.text[0];
    return;
  }
  if (!r->graph) {
    ebb_counters before = c->counters;
    r->graph = b->record(c, work, user);
    c->counters = before;
  }
  if (r->graph && !c->error.text[0]) {
    b->replay(c, r->graph);
    add_counters(&c->counters, r->counters, 1);
    r->runs++;
  }
}

void ebb_recording_free(ebb_context *c, ebb_recording *r) {
  if (r->graph)
    c->backend->forget(c, r->graph);
  *r = (ebb_recording){0};
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
