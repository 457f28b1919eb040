/* The CUDA backend: its memory, streams, copies and recordings, and the table of its ops. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

/* What is not the arenas': workspaces of the libraries, their kernels and plans, recordings. */
#define LIBRARIES ((size_t)512 << 20)

/* ---- errors ------------------------------------------------------------------------------------------ */

bool cuda_ok(ebb_context *c, const char *op, cudaError_t result) {
  if (result == cudaSuccess)
    return true;
  cudaGetLastError(); /* told here, so that the next launch is not blamed for it */
  ebb_context_fail(c, "%s: CUDA on %s says: %s (%s)", op, c->device, cudaGetErrorString(result),
                   cudaGetErrorName(result));
  return false;
}

/* ---- opening and memory ------------------------------------------------------------------------------ */

/* How many; *why: why there are none, for the message of who asked for one. */
static int count_devices(const char **why) {
  int count = 0;
  cudaError_t result = cudaGetDeviceCount(&count);
  *why = result == cudaSuccess && count > 0
             ? ""
             : cudaGetErrorString(result == cudaSuccess ? cudaErrorNoDevice : result);
  cudaGetLastError(); /* not an error of what follows */
  return result == cudaSuccess ? count : 0;
}

static void close_backend(ebb_context *c) {
  cuda_state *s = cuda_of(c);
  if (s->stream)
    cudaStreamSynchronize(s->stream);
  if (s->copies)
    cudaStreamSynchronize(s->copies);
  cuda_ring_close(s->ring);
  cuda_products_close(s->products);
  cuda_convolutions_close(s->convolutions);
  cuda_solvers_close(s->solvers);
  if (s->ready)
    cudaEventDestroy(s->ready);
  if (s->landed)
    cudaEventDestroy(s->landed);
  if (s->copies)
    cudaStreamDestroy(s->copies);
  if (s->stream)
    cudaStreamDestroy(s->stream);
  free(s);
  c->state = NULL;
}

static bool open_backend(ebb_context *c, int device, ebb_error *err) {
  cuda_state *s = (cuda_state *)calloc(1, sizeof *s);
  if (!s)
    return ebb_fail(err, "not enough memory to open backend \"cuda\"");
  c->state = s;
  s->device = device;
  cudaDeviceProp about;
  cudaError_t result = cudaSetDevice(device);
  if (result == cudaSuccess)
    result = cudaGetDeviceProperties(&about, device);
  if (result == cudaSuccess)
    result = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
  if (result == cudaSuccess)
    result = cudaStreamCreateWithFlags(&s->copies, cudaStreamNonBlocking);
  if (result == cudaSuccess)
    result = cudaEventCreateWithFlags(&s->ready, cudaEventDisableTiming);
  if (result == cudaSuccess)
    result = cudaEventCreateWithFlags(&s->landed, cudaEventDisableTiming);
  if (result != cudaSuccess) {
    ebb_fail(err, "cuda:%d cannot be opened: %s", device, cudaGetErrorString(result));
    close_backend(c);
    return false;
  }
  s->processors = about.multiProcessorCount;
  s->capability = 10 * about.major + about.minor;
  s->shared = about.sharedMemPerBlockOptin;
  snprintf(c->device, sizeof c->device, "cuda:%d (%.40s, sm_%d)", device, about.name, s->capability);
  if (s->capability < 80) {
    ebb_fail(err,
             "%s has compute capability %d.%d, expected 8.0 or newer: use another GPU (cuda:N) or \"cpu\"",
             c->device, about.major, about.minor);
    close_backend(c);
    return false;
  }
  return true;
}

static void tell_memory(ebb_context *c, size_t *free_bytes, size_t *total_bytes) {
  *free_bytes = *total_bytes = 0;
  if (cuda_ok(c, "memory", cudaMemGetInfo(free_bytes, total_bytes)))
    *free_bytes -= *free_bytes < LIBRARIES ? *free_bytes : LIBRARIES;
}

static void *allocate(ebb_context *c, size_t bytes) {
  (void)c;
  void *memory = NULL;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) {
    cudaGetLastError();
    return NULL;
  }
  return memory;
}

static void release(ebb_context *c, void *memory) {
  cuda_ok(c, "release", cudaStreamSynchronize(cuda_stream(c)));
  cuda_ok(c, "release", cudaFree(memory));
}

static void *host_allocate(ebb_context *c, size_t bytes) {
  (void)c;
  void *memory = NULL;
  if (cudaHostAlloc(&memory, bytes, cudaHostAllocDefault) != cudaSuccess) {
    cudaGetLastError();
    return NULL;
  }
  return memory;
}

static void host_release(ebb_context *c, void *memory) {
  cuda_ok(c, "release", cudaFreeHost(memory));
}

/* ---- copies ------------------------------------------------------------------------------------------ */

static void wait(ebb_context *c) {
  cuda_ok(c, "wait", cudaStreamSynchronize(cuda_stream(c)));
}

static void upload(ebb_context *c, ebb_tensor to, const void *from) {
  if (cuda_ok(c, "upload",
              cudaMemcpyAsync(to.data, from, ebb_bytes(to), cudaMemcpyHostToDevice, cuda_stream(c))))
    wait(c);
}

static void download(ebb_context *c, void *to, ebb_tensor from) {
  if (cuda_ok(c, "download",
              cudaMemcpyAsync(to, from.data, ebb_bytes(from), cudaMemcpyDeviceToHost, cuda_stream(c))))
    wait(c);
}

static void download_start(ebb_context *c, void *to, ebb_tensor from) {
  cuda_state *s = cuda_of(c);
  (void)(cuda_ok(c, "download", cudaEventRecord(s->ready, s->stream)) &&
         cuda_ok(c, "download", cudaStreamWaitEvent(s->copies, s->ready, 0)) &&
         cuda_ok(c, "download",
                 cudaMemcpyAsync(to, from.data, ebb_bytes(from), cudaMemcpyDeviceToHost, s->copies)) &&
         cuda_ok(c, "download", cudaEventRecord(s->landed, s->copies)));
}

static void download_wait(ebb_context *c) {
  cuda_ok(c, "download", cudaEventSynchronize(cuda_of(c)->landed));
}

/* ---- recordings -------------------------------------------------------------------------------------- */

static void *record(ebb_context *c, void (*work)(void *user), void *user) {
  cudaStream_t stream = cuda_stream(c);
  cudaGraph_t graph = NULL;
  cudaGraphExec_t recording = NULL;
  if (!cuda_ok(c, "record", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)))
    return NULL;
  work(user);
  bool ok = cuda_ok(c, "record", cudaStreamEndCapture(stream, &graph)) && !c->error.text[0];
  ok = ok && cuda_ok(c, "record", cudaGraphInstantiate(&recording, graph, 0));
  if (graph)
    cudaGraphDestroy(graph);
  return ok ? recording : NULL;
}

static void replay(ebb_context *c, void *recording) {
  cuda_ok(c, "replay", cudaGraphLaunch((cudaGraphExec_t)recording, cuda_stream(c)));
}

static void forget(ebb_context *c, void *recording) {
  wait(c);
  cuda_ok(c, "forget", cudaGraphExecDestroy((cudaGraphExec_t)recording));
}

/* ---- the table --------------------------------------------------------------------------------------- */

extern "C" const ebb_backend ebb_cuda_backend;
const ebb_backend ebb_cuda_backend = {
    .name = "cuda",
    .place = EBB_DEVICE,
    .half = true,
    .devices = count_devices,
    .open = open_backend,
    .close = close_backend,
    .memory = tell_memory,
    .allocate = allocate,
    .release = release,
    .host_allocate = host_allocate,
    .host_release = host_release,
    .wait = wait,
    .upload = upload,
    .download = download,
    .download_start = download_start,
    .download_wait = download_wait,
    .upload_from = cuda_upload_from,
    .record = record,
    .replay = replay,
    .forget = forget,
    .attention_scratch = cuda_attention_scratch,
    .pool_scratch = cuda_pool_scratch,
    .convolution_scratch = cuda_convolution_scratch,
    .spd_inverse_scratch = cuda_spd_inverse_scratch,
    .logistic_newton_rows = cuda_logistic_newton_rows,
    .logistic_newton_scratch = cuda_logistic_newton_scratch,
    .logistic_adam_scratch = cuda_logistic_adam_scratch,
    .linear = cuda_linear,
    .norm_modulate = cuda_norm_modulate,
    .gate_add_norm = cuda_gate_add_norm,
    .gate_add_layer_norm = cuda_gate_add_layer_norm,
    .qk_norm_rope = cuda_qk_norm_rope,
    .channel_norm = cuda_channel_norm,
    .rms_norm = cuda_rms_norm,
    .timestep_embedding = cuda_timestep_embedding,
    .attention = cuda_attention,
    .attention_weights = cuda_attention_weights,
    .projected_values = cuda_projected_values,
    .attention_relative = cuda_attention_relative,
    .gate_add = cuda_gate_add,
    .axpby = cuda_axpby,
    .convert = cuda_convert,
    .activate = cuda_activate,
    .gated = cuda_gated,
    .add_table = cuda_add_table,
    .channel_affine = cuda_channel_affine,
    .clamp = cuda_clamp,
    .patchify = cuda_patchify,
    .unpatchify = cuda_unpatchify,
    .perturb = cuda_perturb,
    .add_noise = cuda_add_noise,
    .replace_heads = cuda_replace_heads,
    .conv3d_causal = cuda_conv3d_causal,
    .downsample_space = cuda_downsample_space,
    .downsample_time = cuda_downsample_time,
    .upsample_space = cuda_upsample_space,
    .upsample_time = cuda_upsample_time,
    .pool_mean = cuda_pool_mean,
    .pool_frames = cuda_pool_frames,
    .pool_moments = cuda_pool_moments,
    .pool_motion = cuda_pool_motion,
    .gram = cuda_gram,
    .matmul = cuda_matmul,
    .add_diagonal = cuda_add_diagonal,
    .spd_inverse = cuda_spd_inverse,
    .column_scale = cuda_column_scale,
    .standardise = cuda_standardise,
    .logistic_newton = cuda_logistic_newton,
    .fold_blocks = cuda_fold_blocks,
    .centred_labels = cuda_centred_labels,
    .keep_best = cuda_keep_best,
    .count_hits = cuda_count_hits,
    .logistic_adam = cuda_logistic_adam,
};
