/* The context: one backend, its memory and its error. Everything that computes takes one.
 *
 * Errors of operators stay here: the first is kept, with the op, the tensors' names and their shapes; later
 * ops do nothing until it is read, so that a forward reads like the paper (as CUDA's own sticky errors work).
 */
#ifndef EBB_KERNELS_CONTEXT_H
#define EBB_KERNELS_CONTEXT_H

#include "kernels/arena.h"

struct ebb_backend;

typedef struct ebb_counters { /* filled by every op, also when counting */
  int64_t ops;
  double flops; /* multiply and add count as two */
  double bytes; /* each input read once, each output written once */
} ebb_counters;

#define EBB_OP_TENSORS 10 /* the most that an op has: attention */

/* An op that is about to be computed, for those who watch (a profile). */
typedef struct ebb_op_seen {
  const char *name; /* as in ops.h, without ebb_ */
  int tensor_count;
  ebb_tensor tensors[EBB_OP_TENSORS]; /* in the order of ops.h, absent ones too */
  double flops, bytes;                /* of this op */
} ebb_op_seen;
typedef void ebb_observer_fn(void *user, const ebb_op_seen *op);

typedef struct ebb_context {
  const struct ebb_backend *backend;
  void *state;           /* the backend's own: scratch memory, streams, library handles */
  ebb_arena weights;     /* parameters and what is computed once per run */
  ebb_arena activations; /* what a forward needs; empty between forwards */
  ebb_error error;
  ebb_counters counters;
  ebb_observer_fn
      *observer; /* NULL, or told of every op before it is computed; recordings are not replayed then */
  void *observer_user;
  char device[64]; /* what it computes on: "cpu", "cuda:0 (NVIDIA H200, sm_90)" */
  bool counting;   /* dry run: ops check and count, nothing is computed and no memory is touched */
} ebb_context;

typedef enum ebb_arena_kind { EBB_WEIGHTS, EBB_ACTIVATIONS } ebb_arena_kind;

/* How many GPUs "cuda:N" can name; -1: this build has no CUDA. *why says why there are none. */
int ebb_context_gpus(const char **why);
/* device: "auto" (the first GPU that can be used, or the CPU), "cpu", "cuda" (= "cuda:0") or "cuda:N".
 * Arenas are empty; no memory yet. Errors: unknown device, or one that this build or machine does not have,
 * with what it has. */
bool ebb_context_open(ebb_context *c, const char *device, ebb_error *err);
/* What it computes on, for messages and provenance: "cpu", "cuda:0 (NVIDIA H200, sm_90)". */
const char *ebb_context_device(const ebb_context *c);
bool ebb_context_has_half(const ebb_context *c); /* computes on bfloat16 */
/* Bytes of memory of the device: free for arenas now, and in all. */
void ebb_context_memory(ebb_context *c, size_t *free_bytes, size_t *total_bytes);
void ebb_context_close(ebb_context *c); /* gives all memory back; a zeroed context is fine */

/* Starts counting: arenas become counting arenas; what they held is forgotten, peaks and counters are zero.
 */
void ebb_context_count(ebb_context *c);
/* Ends counting (if any; the other arena's peak stays readable) and takes `bytes` for the arena, releasing
 * what it held. Errors: not enough memory, with the amount asked for. */
bool ebb_context_reserve(ebb_context *c, ebb_arena_kind which, size_t bytes, ebb_error *err);

/* Runs `work` twice: first counting, then for real with arenas of just the size that the first run needed.
 * `work` opens what it needs, computes and closes it again; it can ask c->counting where only the second run
 * has results. Errors: work's own, not enough memory. */
bool ebb_context_sized(ebb_context *c, bool (*work)(void *user, ebb_error *err), void *user, ebb_error *err);

/* A tensor in the arena, uninitialised. A full arena is an error of the context and gives a tensor that no op
 * touches. EBB_ACTIVATION(c, "q", B, S, D) is float32 from the activation arena. */
ebb_tensor ebb_tensor_new(ebb_context *c, ebb_arena_kind which, ebb_dtype dtype, const char *name, int rank,
                          const int64_t *shape);
#define EBB_NEW(c, which, dtype, name, ...)                                                                  \
  ebb_tensor_new((c), (which), (dtype), (name), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),   \
                 (const int64_t[]){__VA_ARGS__})
#define EBB_ACTIVATION(c, name, ...) EBB_NEW(c, EBB_ACTIVATIONS, EBB_F32, name, __VA_ARGS__)

/* Copies between host memory and a tensor of the context (same number of bytes), waiting for both. No-ops
 * when counting or failed. */
void ebb_upload(ebb_context *c, ebb_tensor to, const void *from);
void ebb_download(ebb_context *c, void *to, ebb_tensor from);

/* Downloads that run beside the computation: they take what `from` holds when all ops before them are done.
 * `to` (best from ebb_host_new) is complete, and `from` may be written again, after ebb_download_wait, which
 * waits for all of them. */
void ebb_download_start(ebb_context *c, void *to, ebb_tensor from);
void ebb_download_wait(ebb_context *c);
/* Until everything asked for so far is done. No-op when counting or failed. */
void ebb_context_wait(ebb_context *c);
/* Host memory that copies to and from the device are fast with; NULL: not enough memory. */
void *ebb_host_new(ebb_context *c, size_t bytes);
void ebb_host_free(ebb_context *c, void *memory); /* NULL is fine */

/* Delivers `bytes` bytes that begin at `offset` of a source: whole numbers. Several threads call it at once,
 * each for a piece of its own. */
typedef bool ebb_read_fn(const void *user, void *to, size_t offset, size_t bytes, ebb_error *err);
/* Where a tensor's numbers come from. */
typedef struct ebb_source {
  ebb_tensor to;
  ebb_dtype from; /* of the numbers that read delivers: float32, float16, bfloat16 */
  ebb_read_fn *read;
  const void *user;
} ebb_source;
/* Fills tensors from their sources, converted with one rounding. Pieces of all of them are read by up to
 * eight threads (no more than ebb_context_threads); on a device each goes through page-locked memory, is
 * converted there, and travels while others are read; the last may still be under way on return. Errors:
 * that of read for the first piece, in order of sources and offsets, which could not be read; the device's
 * stay in the context. No-op when counting or failed. */
bool ebb_upload_from(ebb_context *c, int64_t count, const ebb_source *sources, ebb_error *err);

/* Ops that are run again and again on the same tensors with the same numbers. The first time they are run,
 * the second time recorded where the device can (a CUDA graph), from then on replayed, which calls none of
 * the work's code: it may only call ops, and do nothing that the host must see. A zeroed recording is new. */
typedef struct ebb_recording {
  void *graph; /* the backend's own */
  int runs;
  ebb_counters counters; /* of one run */
} ebb_recording;
void ebb_replay(ebb_context *c, ebb_recording *r, void (*work)(void *user), void *user);
void ebb_recording_free(ebb_context *c, ebb_recording *r);

/* Records an op's failure unless there is one already. */
__attribute__((format(printf, 2, 3))) void ebb_context_fail(ebb_context *c, const char *format, ...);
/* True when no op has failed since the last call; otherwise moves the failure into err. */
bool ebb_context_ok(ebb_context *c, ebb_error *err);

/* Threads that the CPU backend of the next context will use: OMP_NUM_THREADS or all cores. Built without
 * OpenMP it uses one, whatever this says. */
int ebb_context_threads(void);

#endif
