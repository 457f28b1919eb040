/* A video diffusion transformer, whatever its family. A family is one file and four functions. */
#ifndef EBB_ENGINE_MODEL_H
#define EBB_ENGINE_MODEL_H

#include "engine/tap.h"
#include "kernels/ops.h"

typedef struct ebb_latent_shape {
  int64_t channels, frames, height, width; /* C, T, H, W of a latent */
} ebb_latent_shape;

/* What is computed once per run: everything that depends only on the text, the latent's shape, or the time labels. */
typedef struct ebb_condition {
  ebb_latent_shape shape;
  int64_t text_batch;        /* 1: one text for all samples, or B */
  int64_t labels_per_moment; /* 1: all samples share the label, or B */
  int64_t moments;
  void *state; /* the family's own; tensors live in the context's weight arena */
} ebb_condition;

struct ebb_model;
typedef struct ebb_family {
  const char *class_name; /* _class_name in config.json: "WanTransformer3DModel" */
  bool (*open)(struct ebb_model *m, const char *folder, const int64_t *random_seed, ebb_error *err);
  bool (*condition)(struct ebb_model *m, ebb_condition *cond, ebb_tensor text, ebb_error *err);
  void (*velocity)(struct ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond, int64_t moment,
                   ebb_tap *tap);
  void (*close)(struct ebb_model *m);
} ebb_family;

typedef struct ebb_model {
  const ebb_family *family;
  ebb_context *context;
  int64_t blocks, width, heads, channels, text_dim; /* L, D, N, C, text width */
  int patch[3];
  int64_t parameters; /* how many numbers */
  char sha256[65];    /* of the weights; "random:<seed>" when initialised */
  void *state;
} ebb_model;

/* Opens folder/config.json and its weights. random_seed NULL: weights from the files; else torch's default initialisation. Errors: no config, unknown
 * class (the known ones are listed), values out of range or not supported, weights that do not fit. When the context is counting, only memory
 * is counted. */
bool ebb_model_open(ebb_model *m, ebb_context *c, const char *folder, const int64_t *random_seed, ebb_error *err);
void ebb_model_close(ebb_model *m);

/* Prepares the constants of a run. text f32 host [1 or B, M, text_dim]; labels [moments * labels_per_moment]: moment j of sample b has
 * label labels[j*labels_per_moment + min(b, labels_per_moment-1)]. Errors: a latent shape that the patches do not divide, a text of another width. */
bool ebb_model_condition(ebb_model *m, ebb_condition *cond, ebb_latent_shape shape, const float *text,
                         int64_t text_batch, int64_t text_tokens, const double *labels, int64_t moments,
                         int64_t labels_per_moment, ebb_error *err);
void ebb_condition_free(ebb_condition *cond);

/* v = dx/dsigma at state x and moment `moment` of the condition. x, v f32 [B,C,T,H,W]; tap may be NULL. Ops only: errors stay in the context.
 * Activations are taken from the arena and given back. */
void ebb_model_velocity(ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond, int64_t moment,
                        ebb_tap *tap);

/* The sizes a tap plan needs for latents of this shape. */
ebb_tap_sizes ebb_model_tap_sizes(const ebb_model *m, ebb_latent_shape shape);

extern const ebb_family ebb_family_wan; /* wan.c */

#endif
