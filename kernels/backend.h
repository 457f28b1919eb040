/* What a backend is: a table of functions, chosen when a context opens. Private to kernels/: the engine calls
 * ops.h, and ops.c hands on only what it has checked. Formulas and shapes are in ops.h. */
#ifndef EBB_KERNELS_BACKEND_H
#define EBB_KERNELS_BACKEND_H

#include "kernels/ops.h"

typedef enum ebb_convolution {
  EBB_CONV3D_CAUSAL,
  EBB_DOWNSAMPLE_SPACE,
  EBB_DOWNSAMPLE_TIME,
  EBB_UPSAMPLE_TIME
} ebb_convolution;

typedef struct ebb_backend {
  const char *name;
  ebb_place place; /* where its tensors live */
  bool half;       /* computes on bfloat16 too */

  int (*devices)(const char **why); /* how many there are; why none: a constant text, else empty */
  bool (*open)(ebb_context *c, int device, ebb_error *err); /* fills c->state and c->device */
  void (*close)(ebb_context *c);
  void (*memory)(ebb_context *c, size_t *free_bytes, size_t *total_bytes);
  void *(*allocate)(ebb_context *c, size_t bytes); /* aligned to EBB_ARENA_ALIGN; NULL: not enough memory */
  void (*release)(ebb_context *c, void *memory);
  void *(*host_allocate)(ebb_context *c, size_t bytes); /* host memory for copies; NULL: not enough memory */
  void (*host_release)(ebb_context *c, void *memory);
  void (*wait)(ebb_context *c); /* until all that was asked for is done */
  void (*upload)(ebb_context *c, ebb_tensor to, const void *from);
  void (*download)(ebb_context *c, void *to, ebb_tensor from);
  void (*download_start)(ebb_context *c, void *to, ebb_tensor from);
  void (*download_wait)(ebb_context *c);
  bool (*upload_from)(ebb_context *c, int64_t count, const ebb_source *sources, ebb_error *err);
  /* All three or none. record: the ops of `work` become a recording, nothing is computed; NULL: the context's
   * error. */
  void *(*record)(ebb_context *c, void (*work)(void *user), void *user);
  void (*replay)(ebb_context *c, void *recording);
  void (*forget)(ebb_context *c, void *recording);
  /* Bytes that the op of that name, or of that kind, needs from the activation arena for the length of a call;
   * NULL: none. */
  size_t (*attention_scratch)(ebb_context *c, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                              int heads);
  size_t (*pool_scratch)(ebb_context *c, ebb_tensor x, int64_t frames); /* each of the pooling ops */
  size_t (*convolution_scratch)(ebb_context *c, ebb_convolution which, ebb_tensor y, ebb_tensor x,
                                ebb_tensor norm, ebb_tensor w, ebb_tensor residual);
  size_t (*spd_inverse_scratch)(ebb_context *c, ebb_tensor a);
  int64_t (*logistic_newton_rows)(ebb_context *c); /* the most that it takes; NULL: any number */
  size_t (*logistic_newton_scratch)(ebb_context *c, ebb_tensor a);
  size_t (*logistic_adam_scratch)(ebb_context *c, ebb_tensor w, ebb_tensor z);

  void (*linear)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act);
  void (*norm_modulate)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor shift, ebb_tensor scale,
                        float eps);
  void (*gate_add_norm)(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                        ebb_tensor shift, ebb_tensor scale, float eps);
  void (*gate_add_layer_norm)(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                              ebb_tensor w, ebb_tensor b, float eps);
  void (*qk_norm_rope)(ebb_context *c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk,
                       ebb_tensor cos, ebb_tensor sin, int heads, float eps);
  void (*channel_norm)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act);
  void (*rms_norm)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, float eps);
  void (*timestep_embedding)(ebb_context *c, ebb_tensor y, ebb_tensor t);
  void (*attention)(ebb_context *c, ebb_tensor out, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                    ebb_tensor v, int heads, int64_t repeats,
                    void *scratch); /* no statistics: all its tensors absent */
  void (*attention_weights)(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                            int64_t repeats, float eps);
  void (*projected_values)(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads);
  void (*attention_relative)(ebb_context *c, ebb_tensor out, ebb_tensor q, ebb_tensor k, ebb_tensor v,
                             ebb_tensor bias, int heads);
  void (*gate_add)(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate);
  void (*axpby)(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z);
  void (*convert)(ebb_context *c, ebb_tensor y, ebb_tensor x);
  void (*activate)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_activation act);
  void (*gated)(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, ebb_activation act);
  void (*add_table)(ebb_context *c, ebb_tensor y, ebb_tensor table, ebb_tensor x);
  void (*channel_affine)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor scale, ebb_tensor shift);
  void (*clamp)(ebb_context *c, ebb_tensor y, ebb_tensor x, float low, float high);
  void (*patchify)(ebb_context *c, ebb_tensor y, ebb_tensor x, const int patch[3]);
  void (*unpatchify)(ebb_context *c, ebb_tensor x, ebb_tensor y, const int patch[3]);
  void (*perturb)(ebb_context *c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when,
                  ebb_tensor direction, int64_t place);
  void (*add_noise)(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor keys,
                    int64_t stream);
  void (*replace_heads)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean, ebb_tensor source);
  void (*conv3d_causal)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                        ebb_tensor b, ebb_tensor residual, void *scratch);
  void (*downsample_space)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                           void *scratch);
  void (*downsample_time)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                          void *scratch);
  void (*upsample_space)(ebb_context *c, ebb_tensor y, ebb_tensor x);
  void (*upsample_time)(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                        void *scratch);
  void (*pool_mean)(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch);
  void (*pool_frames)(ebb_context *c, ebb_tensor y, ebb_tensor x, void *scratch);
  void (*pool_moments)(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch);
  void (*pool_motion)(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames, void *scratch);
  void (*gram)(ebb_context *c, ebb_tensor g, ebb_tensor x);
  void (*matmul)(ebb_context *c, ebb_tensor y, ebb_tensor a, bool transpose_a, ebb_tensor b,
                 bool transpose_b);
  void (*add_diagonal)(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor shift);
  void (*spd_inverse)(ebb_context *c, ebb_tensor a, void *scratch);
  void (*column_scale)(ebb_context *c, ebb_tensor mean, ebb_tensor inverse, ebb_tensor x, ebb_tensor rows);
  void (*standardise)(ebb_context *c, ebb_tensor z, ebb_tensor x, ebb_tensor rows, ebb_tensor mean,
                      ebb_tensor inverse);
  void (*logistic_newton)(ebb_context *c, ebb_tensor a, ebb_tensor b, ebb_tensor reached, ebb_tensor sweeps,
                          ebb_tensor g, ebb_tensor inverse, ebb_tensor y, ebb_tensor lambda, ebb_tensor mu,
                          ebb_tensor least, ebb_newton newton, void *scratch);
  void (*fold_blocks)(ebb_context *c, ebb_tensor s, ebb_tensor p, ebb_tensor rows, ebb_tensor lambda);
  void (*centred_labels)(ebb_context *c, ebb_tensor y, ebb_tensor mean, ebb_tensor labels, ebb_tensor rows);
  void (*keep_best)(ebb_context *c, ebb_tensor score, ebb_tensor best, ebb_tensor chosen, ebb_tensor kept,
                    ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number, bool explained);
  void (*count_hits)(ebb_context *c, ebb_tensor hits, ebb_tensor f, ebb_tensor shift, ebb_tensor labels,
                     ebb_tensor rows);
  void (*logistic_adam)(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                        ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                        ebb_adam adam, void *scratch);
} ebb_backend;

extern const ebb_backend ebb_cpu_backend;
extern const ebb_backend ebb_cuda_backend; /* in builds with CUDA: EBB_HAVE_CUDA */

#endif
