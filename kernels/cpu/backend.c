#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"
#include "kernels/numeric.h"
#include "kernels/pieces.h"

/* Below this many operations a parallel region costs more than it saves. */
#define SMALL_WORK 200e3

bool cpu_scratch(ebb_context *c, size_t shared, size_t own, cpu_memory *memory) {
  cpu_state *s = (cpu_state *)c->state;
  size_t stride = cpu_round_up(own), total = cpu_round_up(shared) + stride * (size_t)s->threads;
  if (total > s->scratch_bytes) {
    free(s->scratch);
    s->scratch = aligned_alloc(256, total);
    s->scratch_bytes = s->scratch ? total : 0;
  }
  if (!s->scratch) {
    ebb_context_fail(c, "not enough memory on cpu: %zu bytes of scratch for %d threads", total, s->threads);
    return false;
  }
  *memory = (cpu_memory){s->scratch, s->scratch + cpu_round_up(shared), stride};
  return true;
}

int cpu_threads(const ebb_context *c, double operations) {
  return operations < SMALL_WORK ? 1 : ((const cpu_state *)c->state)->threads;
}

static bool cpu_open(ebb_context *c, int device, ebb_error *err) {
  (void)device;
  cpu_state *s = calloc(1, sizeof *s);
  if (!s)
    return ebb_fail(err, "not enough memory to open backend \"cpu\"");
#if defined(_OPENMP)
  s->threads = ebb_context_threads();
#else
  s->threads = 1;
#endif
  openblas_set_num_threads(1); /* threads are ours, outside the products */
  c->state = s;
  return true;
}

static void cpu_close(ebb_context *c) {
  cpu_state *s = (cpu_state *)c->state;
  free(s->scratch);
  free(s);
}

static int cpu_devices(const char **why) {
  *why = "";
  return 1;
}

/* Free is what can be had without swapping: Linux says so in MemAvailable; pages that merely cache files count. */
static void cpu_free_memory(ebb_context *c, size_t *free_bytes, size_t *total_bytes) {
  (void)c;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  *free_bytes = page * (size_t)sysconf(_SC_AVPHYS_PAGES);
  *total_bytes = page * (size_t)sysconf(_SC_PHYS_PAGES);
  FILE *f = fopen("/proc/meminfo", "r");
  char line[128];
  size_t kib;
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1)
      *free_bytes = 1024 * kib;
  if (f)
    fclose(f);
}

static void *cpu_allocate(ebb_context *c, size_t bytes) {
  (void)c;
  return bytes > PTRDIFF_MAX ? NULL : aligned_alloc(EBB_ARENA_ALIGN, cpu_round_up(bytes));
}

static void cpu_release(ebb_context *c, void *memory) {
  (void)c;
  free(memory);
}

static void cpu_upload(ebb_context *c, ebb_tensor to, const void *from) {
  (void)c;
  memcpy(to.data, from, ebb_bytes(to));
}

static void cpu_download(ebb_context *c, void *to, ebb_tensor from) {
  (void)c;
  memcpy(to, from.data, ebb_bytes(from));
}

static void cpu_wait(ebb_context *c) { /* everything is done when it is asked for */
  (void)c;
}

static float as_float(const unsigned char *bytes, ebb_dtype dtype) {
  uint16_t half;
  float single;
  if (dtype == EBB_F32)
    return memcpy(&single, bytes, sizeof single), single;
  memcpy(&half, bytes, sizeof half);
  return dtype == EBB_BF16 ? ebb_float_of_bf16(half) : ebb_float_of_f16(half);
}

/* Reads a piece to its place; `user`: EBB_PIECE bytes for every thread, of what is converted. */
static bool take_piece(void *user, int thread, const ebb_piece *p, ebb_error *err) {
  const ebb_source *s = p->source;
  const size_t width = ebb_dtype_size(s->from);
  const bool same = s->from == EBB_F32;
  float *to = (float *)s->to.data + p->first;
  unsigned char *from = same ? (unsigned char *)to : (unsigned char *)user + (size_t)thread * EBB_PIECE;
  if (!s->read(s->user, from, p->first * width, p->count * width, err))
    return false;
  for (size_t i = 0; !same && i < p->count; i++)
    to[i] = as_float(from + i * width, s->from);
  return true;
}

static bool cpu_upload_from(ebb_context *c, int64_t count, const ebb_source *sources, ebb_error *err) {
  (void)c;
  bool convert = false;
  for (int64_t i = 0; i < count; i++)
    convert = convert || sources[i].from != EBB_F32;
  int readers = ebb_readers();
  void *pieces = convert ? malloc((size_t)readers * EBB_PIECE) : NULL;
  bool ok = pieces || !convert || ebb_fail(err, "no memory for pieces that %d threads read", readers);
  ok = ok && ebb_deal_pieces(count, sources, readers, take_piece, pieces, err);
  free(pieces);
  return ok;
}

const ebb_backend ebb_cpu_backend = {
    .name = "cpu",
    .place = EBB_HOST,
    .devices = cpu_devices,
    .open = cpu_open,
    .close = cpu_close,
    .memory = cpu_free_memory,
    .allocate = cpu_allocate,
    .release = cpu_release,
    .upload = cpu_upload,
    .download = cpu_download,
    .host_allocate = cpu_allocate,
    .host_release = cpu_release,
    .wait = cpu_wait,
    .download_start = cpu_download,
    .download_wait = cpu_wait,
    .upload_from = cpu_upload_from,
    .convolution_scratch = cpu_convolution_scratch,
    .linear = cpu_linear,
    .norm_modulate = cpu_norm_modulate,
    .gate_add_norm = cpu_gate_add_norm,
    .gate_add_layer_norm = cpu_gate_add_layer_norm,
    .qk_norm_rope = cpu_qk_norm_rope,
    .channel_norm = cpu_channel_norm,
    .rms_norm = cpu_rms_norm,
    .timestep_embedding = cpu_timestep_embedding,
    .attention = cpu_attention,
    .attention_weights = cpu_attention_weights,
    .projected_values = cpu_projected_values,
    .attention_relative = cpu_attention_relative,
    .gate_add = cpu_gate_add,
    .axpby = cpu_axpby,
    .convert = cpu_convert,
    .activate = cpu_activate,
    .gated = cpu_gated,
    .add_table = cpu_add_table,
    .channel_affine = cpu_channel_affine,
    .clamp = cpu_clamp,
    .patchify = cpu_patchify,
    .unpatchify = cpu_unpatchify,
    .perturb = cpu_perturb,
    .add_noise = cpu_add_noise,
    .replace_heads = cpu_replace_heads,
    .conv3d_causal = cpu_conv3d_causal,
    .downsample_space = cpu_downsample_space,
    .downsample_time = cpu_downsample_time,
    .upsample_space = cpu_upsample_space,
    .upsample_time = cpu_upsample_time,
    .pool_mean = cpu_pool_mean,
    .pool_frames = cpu_pool_frames,
    .pool_moments = cpu_pool_moments,
    .pool_motion = cpu_pool_motion,
    .gram = cpu_gram,
    .matmul = cpu_matmul,
    .add_diagonal = cpu_add_diagonal,
    .spd_inverse = cpu_spd_inverse,
    .column_scale = cpu_column_scale,
    .standardise = cpu_standardise,
    .logistic_newton = cpu_logistic_newton,
    .fold_blocks = cpu_fold_blocks,
    .centred_labels = cpu_centred_labels,
    .keep_best = cpu_keep_best,
    .count_hits = cpu_count_hits,
    .logistic_adam = cpu_logistic_adam,
};
