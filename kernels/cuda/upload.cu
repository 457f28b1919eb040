/* Uploads from whatever delivers numbers: several threads read, each into page-locked pieces of its own. */
#include <pthread.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.h"
extern "C" {
#include "kernels/pieces.h"
}

/* Pieces of a thread: one is read while the other travels. */
#define SLOTS 2

typedef struct slot {
  char *host;       /* [EBB_PIECE], page-locked */
  cudaEvent_t free; /* it has been copied and may be written again */
} slot;

struct cuda_ring {
  int readers; /* that have slots */
  char *host;  /* of all slots */
  slot slots[EBB_READERS][SLOTS];
  int next[EBB_READERS];
  char *landing;        /* [EBB_PIECE] on the device: what is converted from there, one after the other */
  pthread_mutex_t turn; /* whose piece goes into the stream; the context's error */
};

/* ---- kernels ----------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float to_float(__half x) { /* files have it, ops do not */
  return __half2float(x);
}

/* to[i] = from[i], rounded once. */
template <typename From, typename To>
static __global__ void convert_piece(To *__restrict__ to, const From *__restrict__ from, int64_t n) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x)
    to[i] = from_float<To>(to_float(from[i]));
}

/* ---- the ring ---------------------------------------------------------------------------------------- */

void cuda_ring_close(cuda_ring *ring) {
  if (!ring)
    return;
  for (int i = 0; i < EBB_READERS; i++)
    for (int k = 0; k < SLOTS; k++)
      if (ring->slots[i][k].free)
        cudaEventDestroy(ring->slots[i][k].free);
  cudaFree(ring->landing);
  cudaFreeHost(ring->host);
  pthread_mutex_destroy(&ring->turn);
  free(ring);
}

static bool open_ring(ebb_context *c) {
  cuda_state *s = cuda_of(c);
  if (s->ring)
    return true;
  cuda_ring *ring = (cuda_ring *)calloc(1, sizeof *ring);
  if (!ring) {
    ebb_context_fail(c,
                     "upload: no memory for the bookkeeping of the page-locked pieces (%zu bytes): free some",
                     sizeof *ring);
    return false;
  }
  const int readers = ring->readers = ebb_readers();
  pthread_mutex_init(&ring->turn, NULL);
  bool ok = cuda_ok(c, "upload",
                    cudaHostAlloc((void **)&ring->host, (size_t)readers * SLOTS * EBB_PIECE,
                                  cudaHostAllocDefault)) &&
            cuda_ok(c, "upload", cudaMalloc((void **)&ring->landing, EBB_PIECE));
  for (int i = 0; ok && i < readers; i++)
    for (int k = 0; ok && k < SLOTS; k++) {
      ring->slots[i][k].host = ring->host + (size_t)(i * SLOTS + k) * EBB_PIECE;
      ok = cuda_ok(c, "upload", cudaEventCreateWithFlags(&ring->slots[i][k].free, cudaEventDisableTiming));
    }
  if (ok)
    s->ring = ring;
  else
    cuda_ring_close(ring);
  return ok;
}

/* ---- copies ------------------------------------------------------------------------------------------ */

template <typename From> static void convert_landed(ebb_context *c, const ebb_piece *p) {
  const From *from = (const From *)cuda_of(c)->ring->landing;
  int64_t n = (int64_t)p->count;
  int blocks = (int)(cuda_ceil(n, 1024) < 4096 ? cuda_ceil(n, 1024) : 4096);
  CUDA_FOR_DTYPE(p->source->to, To,
                 (convert_piece<From, To>
                  <<<blocks, 256, 0, cuda_stream(c)>>>(cuda_at<To>(p->source->to) + p->first, from, n)));
  cuda_launched(c, "upload");
}

/* What lies in the slot goes to its place. */
static void send_piece(ebb_context *c, const ebb_piece *p, const slot *from) {
  cuda_state *s = cuda_of(c);
  const ebb_tensor to = p->source->to;
  const ebb_dtype dtype = p->source->from;
  const size_t width = ebb_dtype_size(dtype);
  const bool same = to.dtype == dtype;
  char *target = same ? (char *)to.data + p->first * width : s->ring->landing;
  if (!cuda_ok(c, "upload",
               cudaMemcpyAsync(target, from->host, p->count * width, cudaMemcpyHostToDevice, s->stream)))
    return;
  if (!same && dtype == EBB_F32)
    convert_landed<float>(c, p);
  else if (!same && dtype == EBB_BF16)
    convert_landed<bf16>(c, p);
  else if (!same)
    convert_landed<__half>(c, p);
  cuda_ok(c, "upload", cudaEventRecord(from->free, s->stream));
}

/* An ebb_piece_fn. All pieces go through the one stream, in whatever order they come, so that ops see them arrived. */
static bool take_piece(void *user, int thread, const ebb_piece *p, ebb_error *err) {
  ebb_context *c = (ebb_context *)user;
  const ebb_source *source = p->source;
  const size_t width = ebb_dtype_size(source->from);
  cuda_ring *ring = cuda_of(c)->ring;
  const slot *to = &ring->slots[thread][ring->next[thread]];
  ring->next[thread] = (ring->next[thread] + 1) % SLOTS;
  cudaError_t ready = cudaSetDevice(cuda_of(c)->device); /* a thread's own setting */
  if (ready == cudaSuccess)
    ready = cudaEventSynchronize(to->free);
  if (ready == cudaSuccess && !source->read(source->user, to->host, p->first * width, p->count * width, err))
    return false;
  pthread_mutex_lock(&ring->turn);
  if (cuda_ok(c, "upload", ready) && !c->error.text[0])
    send_piece(c, p, to);
  bool ok = !c->error.text[0];
  pthread_mutex_unlock(&ring->turn);
  return ok;
}

/* What the device says stays in the context. */
bool cuda_upload_from(ebb_context *c, int64_t count, const ebb_source *sources, ebb_error *err) {
  return !open_ring(c) || ebb_deal_pieces(count, sources, cuda_of(c)->ring->readers, take_piece, c, err) ||
         c->error.text[0];
}
