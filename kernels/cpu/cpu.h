/* What the files of the CPU backend share: threads, scratch memory, fixed cuts of work. Private to
 * kernels/cpu/.
 *
 * Work is cut into tiles whose borders depend on shapes alone, per sample (outermost dimension), and tiles
 * are dealt to threads: so the bytes of a sample are the same in any batch and for any number of threads,
 * although BLAS treats the last rows of a product differently from the others. */
#ifndef EBB_KERNELS_CPU_CPU_H
#define EBB_KERNELS_CPU_CPU_H

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "kernels/backend.h"

typedef struct cpu_state {
  int threads;
  char *scratch; /* working memory of the op that runs, all threads together; only grows */
  size_t scratch_bytes;
} cpu_state;

/* Scratch memory of one op: `shared` bytes for all, `own` bytes for each thread; contents undefined, valid
 * until the next op. Grown when an op needs more than any before it: a second forward allocates nothing.
 * False: not enough memory, an error of the context. */
typedef struct cpu_memory {
  char *shared, *own;
  size_t stride; /* bytes from one thread's own part to the next one's */
} cpu_memory;
bool cpu_scratch(ebb_context *c, size_t shared, size_t own, cpu_memory *memory);

/* Threads for so many operations: one when a parallel region would cost more than it saves. */
int cpu_threads(const ebb_context *c, double operations);

static inline int cpu_thread(void) {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

static inline size_t cpu_round_up(size_t bytes) {
  return (bytes + 255) & ~(size_t)255;
}

/* The calling thread's own part. */
static inline void *cpu_own(cpu_memory memory) {
  return memory.own + (size_t)cpu_thread() * memory.stride;
}

#define CPU_PRAGMA(text) _Pragma(#text)
#if defined(_OPENMP)
/* Before a for loop over tiles that write to different places. */
#define CPU_PARALLEL(c, operations)                                                                          \
  CPU_PRAGMA(omp parallel for schedule(dynamic) num_threads(cpu_threads((c), (operations))))
#else
#define CPU_PARALLEL(c, operations) (void)(c), (void)(operations);
#endif

/* A cut of n into pieces of at most `most`, as even as multiples of `grain` allow. */
typedef struct cpu_cut {
  int64_t n, size, pieces;
} cpu_cut;

static inline cpu_cut cpu_cut_of(int64_t n, int64_t most, int64_t grain) {
  int64_t pieces = (n + most - 1) / most, size = (n + pieces - 1) / pieces;
  size = (size + grain - 1) / grain * grain;
  return (cpu_cut){n, size, (n + size - 1) / size};
}
static inline int64_t cpu_first(cpu_cut cut, int64_t i) {
  return i * cut.size;
}
static inline int64_t cpu_size(cpu_cut cut, int64_t i) {
  int64_t rest = cut.n - i * cut.size;
  return rest < cut.size ? rest : cut.size;
}

/* The sample of t that goes with sample b: 0 when all share one. */
static inline int64_t cpu_sample(ebb_tensor t, int64_t b) {
  return t.shape[0] == 1 ? 0 : b;
}

static inline float *cpu_f32(ebb_tensor t) {
  return (float *)t.data;
}
static inline double *cpu_f64(ebb_tensor t) {
  return (double *)t.data;
}

/* x[i] = act(x[i]): pointwise.c, used by linear and channel_norm on what they have just written. */
void cpu_activate_row(float *x, int64_t n, ebb_activation act);

void cpu_linear(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act);
void cpu_norm_modulate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor shift, ebb_tensor scale,
                       float eps);
void cpu_gate_add_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                       ebb_tensor shift, ebb_tensor scale, float eps);
void cpu_gate_add_layer_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                             ebb_tensor w, ebb_tensor b, float eps);
void cpu_qk_norm_rope(ebb_context *c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk,
                      ebb_tensor cos, ebb_tensor sin, int heads, float eps);
void cpu_channel_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act);
void cpu_rms_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, float eps);
void cpu_timestep_embedding(ebb_context *c, ebb_tensor y, ebb_tensor t);
void cpu_attention(ebb_context *c, ebb_tensor out, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                   ebb_tensor v, int heads, int64_t repeats, void *scratch);
void cpu_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                           int64_t repeats, float eps);
void cpu_projected_values(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads);
void cpu_attention_relative(ebb_context *c, ebb_tensor out, ebb_tensor q, ebb_tensor k, ebb_tensor v,
                            ebb_tensor bias, int heads);
void cpu_gate_add(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate);
void cpu_axpby(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z);
void cpu_convert(ebb_context *c, ebb_tensor y, ebb_tensor x);
void cpu_activate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_activation act);
void cpu_gated(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, ebb_activation act);
void cpu_add_table(ebb_context *c, ebb_tensor y, ebb_tensor table, ebb_tensor x);
void cpu_channel_affine(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor scale, ebb_tensor shift);
void cpu_clamp(ebb_context *c, ebb_tensor y, ebb_tensor x, float low, float high);
void cpu_patchify(ebb_context *c, ebb_tensor y, ebb_tensor x, const int patch[3]);
void cpu_unpatchify(ebb_context *c, ebb_tensor x, ebb_tensor y, const int patch[3]);
void cpu_perturb(ebb_context *c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when,
                 ebb_tensor direction, int64_t place);
void cpu_add_noise(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor keys,
                   int64_t stream);
void cpu_replace_heads(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean, ebb_tensor source);
size_t cpu_convolution_scratch(ebb_context *c, ebb_convolution which, ebb_tensor y, ebb_tensor x,
                               ebb_tensor norm, ebb_tensor w, ebb_tensor residual);
void cpu_conv3d_causal(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                       ebb_tensor b, ebb_tensor residual, void *scratch);
void cpu_downsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                          void *scratch);
void cpu_downsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                         void *scratch);
void cpu_upsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x);
void cpu_upsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, void *scratch);
void cpu_pool_mean(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch);
void cpu_pool_frames(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch);
void cpu_pool_moments(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch);
void cpu_pool_motion(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch);
void cpu_gram(ebb_context *c, ebb_tensor g, ebb_tensor x);
void cpu_matmul(ebb_context *c, ebb_tensor y, ebb_tensor a, bool transpose_a, ebb_tensor b, bool transpose_b);
void cpu_add_diagonal(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor shift);
void cpu_spd_inverse(ebb_context *c, ebb_tensor a, void *scratch);
void cpu_column_scale(ebb_context *c, ebb_tensor mean, ebb_tensor inverse, ebb_tensor x, ebb_tensor rows);
void cpu_standardise(ebb_context *c, ebb_tensor z, ebb_tensor x, ebb_tensor rows, ebb_tensor mean,
                     ebb_tensor inverse);
void cpu_logistic_newton(ebb_context *c, ebb_tensor a, ebb_tensor b, ebb_tensor reached, ebb_tensor sweeps,
                         ebb_tensor g, ebb_tensor inverse, ebb_tensor y, ebb_tensor lambda, ebb_tensor mu,
                         ebb_tensor least, ebb_newton newton, void *scratch);
void cpu_fold_blocks(ebb_context *c, ebb_tensor s, ebb_tensor p, ebb_tensor rows, ebb_tensor lambda);
void cpu_centred_labels(ebb_context *c, ebb_tensor y, ebb_tensor mean, ebb_tensor labels, ebb_tensor rows);
void cpu_keep_best(ebb_context *c, ebb_tensor score, ebb_tensor best, ebb_tensor chosen, ebb_tensor kept,
                   ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number, bool explained);
void cpu_count_hits(ebb_context *c, ebb_tensor hits, ebb_tensor f, ebb_tensor shift, ebb_tensor labels,
                    ebb_tensor rows);
void cpu_logistic_adam(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                       ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                       ebb_adam adam, void *scratch);

#endif
