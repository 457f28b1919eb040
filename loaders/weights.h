/* The weights of one component of a diffusers model folder (transformer/, vae/): one safetensors file or a
 * sharded set with its index, seen as one list of tensors, checked against what the model expects, and loaded
 * in the dtype that the model computes in. */
#ifndef EBB_LOADERS_WEIGHTS_H
#define EBB_LOADERS_WEIGHTS_H

#include "kernels/context.h"
#include "loaders/digest.h"
#include "loaders/safetensors.h"

/* How a parameter starts when there is no file: torch's defaults. */
typedef enum ebb_init {
  EBB_INIT_LINEAR, /* weights and biases of linear and conv layers: uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)) */
  EBB_INIT_ONES,   /* norm weights */
  EBB_INIT_ZEROS,  /* norm biases */
  EBB_INIT_TABLE   /* scale_shift_table: normal / sqrt(D), D the last dimension */
} ebb_init;

/* One parameter that a model expects. */
typedef struct ebb_parameter {
  ebb_tensor *to;  /* filled by load or initialise; NULL: checked against the file, but neither loaded nor
                     given memory */
  char name[112];  /* in the file */
  ebb_dtype dtype; /* of the loaded tensor */
  int rank;
  int64_t shape[EBB_DIMS];
  ebb_init init;
  int64_t fan_in; /* for EBB_INIT_LINEAR */
} ebb_parameter;

/* A growing list of parameters: what a family fills in while it walks through its own structure. The names of
 * the loaded tensors live in it: it is freed after the last use of the tensors. */
typedef struct ebb_parameters {
  ebb_parameter *items;
  int64_t count, capacity;
  ebb_dtype
      dtype; /* of parameters added from now on: float32 (a zeroed list), or bfloat16 where the context has it */
} ebb_parameters;
/* Adds one of the list's dtype; `name` is printf-formatted. Aborts when memory is out. */
#define EBB_SHAPE(...)                                                                                       \
  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) {                             \
    __VA_ARGS__                                                                                              \
  }
__attribute__((format(printf, 7, 8))) void ebb_parameters_add(ebb_parameters *list, ebb_tensor *to, int rank,
                                                              const int64_t *shape, ebb_init init,
                                                              int64_t fan_in, const char *name, ...);
void ebb_parameters_free(ebb_parameters *list);

typedef struct ebb_weights ebb_weights;
/* folder: ".../transformer". Looks for diffusion_pytorch_model.safetensors,
 * diffusion_pytorch_model.safetensors.index.json, model.safetensors and its index. Shards named by an index
 * may not leave the folder. */
bool ebb_weights_open(ebb_weights **w, const char *folder, ebb_error *err);
void ebb_weights_close(ebb_weights **w);
int64_t ebb_weights_count(const ebb_weights *w);
const ebb_st_entry *ebb_weights_entry(const ebb_weights *w, int64_t i);
/* Starts the SHA-256 over the shards' SHA-256, in order of name: the identity written into every run. w may be closed
 * before it is done. */
bool ebb_weights_digest(const ebb_weights *w, ebb_digest **digest, ebb_error *err);

/* Finds every parameter (shapes must agree, counting dimensions of size 1 as written), lists all that are
 * missing, all of another shape or dtype and all tensors of the file that the model does not know at once; then
 * takes memory from the context's weight arena and reads, by several threads (ebb_upload_from). When the context is
 * counting, memory is counted and nothing is read. */
bool ebb_weights_load(const ebb_weights *w, ebb_context *c, ebb_parameters *list, ebb_error *err);
/* Numbers [first, first + count) of a tensor of the files as float32, read by the caller's thread. Errors: no such
 * tensor or numbers, a dtype other than F32, F16, BF16. */
bool ebb_weights_read_f32(const ebb_weights *w, const char *name, int64_t first, int64_t count, float *to,
                          ebb_error *err);
/* The same memory, filled with torch's default initialisation from the seed (parameter i uses stream i), drawn in
 * float32 and rounded once. */
bool ebb_weights_initialise(ebb_context *c, ebb_parameters *list, uint64_t seed, ebb_error *err);

#endif
