/* A video diffusion transformer, whatever its family. A family is one file and five functions. */
#ifndef EBB_ENGINE_MODEL_H
#define EBB_ENGINE_MODEL_H

#include "engine/edit.h"
#include "engine/tap.h"
#include "kernels/ops.h"
#include "loaders/json.h"
#include "loaders/weights.h"

typedef struct ebb_latent_shape {
  int64_t channels, frames, height, width; /* C, T, H, W of a latent */
} ebb_latent_shape;

/* What is computed once per run: everything that depends only on the text, the latent's shape, or the time
 * labels. */
typedef struct ebb_condition {
  ebb_latent_shape shape;
  int64_t text_batch;        /* 1: one text for all samples, or B */
  int64_t text_repeats;      /* how many equal tokens of the text its last one stands for (padding) */
  int64_t labels_per_moment; /* 1: all samples share the label, or B */
  int64_t moments;
  int64_t number; /* no other condition of the model has it */
  void *state;    /* the family's own, one malloc; tensors live in the context's weight arena */
} ebb_condition;

struct ebb_model;
typedef struct ebb_family {
  const char *class_name; /* _class_name in config.json: "WanTransformer3DModel" */
  /* Reads the config (errors into config.err), fills the model's sizes and state, and lists the parameters,
   * which model.c then loads or initialises. */
  void (*open)(struct ebb_model *m, ebb_json config);
  /* Computes cond->state for cond's sizes. text f32 [text_batch, M, text_dim], labels f32 [moments *
   * labels_per_moment]. */
  bool (*condition)(struct ebb_model *m, ebb_condition *cond, ebb_tensor text, ebb_tensor labels,
                    ebb_error *err);
  /* Makes `moment` the one that velocity is at: what depends on it goes to a fixed place in cond's tensors. */
  void (*moment)(struct ebb_model *m, const ebb_condition *cond, int64_t moment);
  /* Ops only: recorded and replayed (ebb_replay), so that it runs no more often than its tensors change. */
  void (*velocity)(struct ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond, ebb_tap *tap);
  void (*close)(struct ebb_model *m); /* after a failed open too */
} ebb_family;

#define EBB_FORWARDS 16 /* rk4 with guidance and taps has 10 */

/* A recorded forward, with all that its pointers hang on. */
typedef struct ebb_forward {
  const void *x, *v, *arena,
      *staging; /* arena: of the activations; staging: of the tap, NULL: captures nothing */
  size_t mark;  /* of the activation arena */
  int64_t batch, condition, plan,
      edit;     /* condition, plan, edit: their numbers; plan 0: captures nothing; edit 0: changes nothing */
  int64_t used; /* when it was last run; 0: free */
  ebb_recording recording;
} ebb_forward;

typedef struct ebb_model {
  const ebb_family *family;
  ebb_context *context;
  ebb_dtype dtype;                                  /* of its matrices and of what runs through the blocks */
  int64_t blocks, width, heads, channels, text_dim; /* L, D, N, C, text width */
  int patch[3];
  int64_t parameters; /* how many numbers */
  char sha256
      [65]; /* of the weights, once ebb_digest_finish has put it here; "random:<seed>" when initialised */
  ebb_digest *digest;  /* NULL when counting or initialised */
  ebb_parameters list; /* names and places of all parameters */
  ebb_forward forwards[EBB_FORWARDS];
  int64_t conditions, evaluations; /* so far */
  ebb_edit *edit; /* what velocity changes on the way, begun (ebb_edit_begin); NULL: nothing */
  void *state;
} ebb_model;

/* Opens folder/config.json and its weights, to compute in `dtype`: float32, or bfloat16 where the context has it.
 * random_seed NULL: weights from the files; else torch's default
 * initialisation. Errors: no config, unknown class (the known ones are listed), values out of range or not
 * supported, weights that do not fit. When the context is counting, only memory is counted. The weight
 * arena's memory is given back by whoever reserved or marked the arena, not by close. */
bool ebb_model_open(ebb_model *m, ebb_context *c, const char *folder, ebb_dtype dtype,
                    const int64_t *random_seed, ebb_error *err);
void ebb_model_close(ebb_model *m); /* a zeroed model is fine */
/* "float32" or "bfloat16". Errors, which begin with `key`: another name, arithmetic that the context has not. */
bool ebb_model_dtype(const ebb_context *c, const char *key, const char *name, ebb_dtype *dtype,
                     ebb_error *err);

/* Text states in host memory: f32 [batch, tokens, width], batch 1 when all samples share one text. While
 * counting states may be NULL: no token is then taken for padding. */
typedef struct ebb_text {
  const float *states;
  int64_t batch, tokens, width;
} ebb_text;

/* Prepares the constants of a run. labels [moments * labels_per_moment]: moment j of
 * sample b has label labels[j*labels_per_moment + min(b, labels_per_moment-1)]. Equal tokens at the
 * end of a text that all samples share, as padding makes them, are computed once: the family gets the text without the repeats and
 * their number in cond->text_repeats, which is exact. A shared text may take a shorter way than texts of
 * each sample's own, so that those two agree to rounding only. text.batch and
 * labels_per_moment are 1 or the batch of velocity. Errors: a latent of other channels, sides that the
 * patches do not divide or beyond what positions reach, a text of another width. The weight arena keeps the
 * constants (see open). */
bool ebb_model_condition(ebb_model *m, ebb_condition *cond, ebb_latent_shape shape, ebb_text text,
                         const double *labels, int64_t moments, int64_t labels_per_moment, ebb_error *err);
/* The same for texts that have been shortened so already: the last token of each stands for `repeats` equal ones. */
bool ebb_model_condition_repeated(ebb_model *m, ebb_condition *cond, ebb_latent_shape shape, ebb_text text,
                                  int64_t repeats, const double *labels, int64_t moments,
                                  int64_t labels_per_moment, ebb_error *err);
void ebb_condition_free(ebb_condition *cond); /* a zeroed condition is fine */

/* v = dx/dsigma at state x and moment `moment` of the condition. x, v f32 [B,C,T,H,W]; tap may be NULL. Ops
 * only: errors stay in the context. Activations are taken from the arena and given back. What comes again with
 * the same tensors in the same place is replayed from a recording, where the device can. */
void ebb_model_velocity(ebb_model *m, ebb_tensor v, ebb_tensor x, const ebb_condition *cond, int64_t moment,
                        ebb_tap *tap);

/* The sizes a tap plan needs for latents of this shape. */
ebb_tap_sizes ebb_model_tap_sizes(const ebb_model *m, ebb_latent_shape shape);

extern const ebb_family ebb_family_wan; /* wan.c */

#endif
