/* What is measured: a model, named or on disk, on a device, at a shape. */
#ifndef EBB_BENCH_SUBJECT_H
#define EBB_BENCH_SUBJECT_H

#include "bench/sheet.h"
#include "cli/options.h"
#include "engine/vae.h"

typedef struct bench_subject_options {
  const char *arch;  /* "tiny", "wan2.1-1.3b", "wan2.1-14b": random weights; NULL: what suits the device */
  const char *model; /* a diffusers folder with weights, in place of arch */
  const char *transformer, *device, *dtype, *size;
  int64_t batch, frames, text_tokens, words, seed; /* 0, NULL: the architecture's */
  double seconds;
  int csv;
} bench_subject_options;

extern const bench_subject_options bench_subject_defaults;

/* The options of a command that has a subject: an entry of its table each. */
#define BENCH_SUBJECT_OPTIONS(o)                                                                               \
  {"arch",                                                                                                     \
   EBB_OPTION_TEXT,                                                                                            \
   &(o)->arch,                                                                                                 \
   "NAME",                                                                                                     \
   "random weights of: tiny (CPU), wan2.1-1.3b (GPU), wan2.1-14b",                                             \
   0,                                                                                                          \
   0,                                                                                                          \
   "tiny|wan2.1-1.3b|wan2.1-14b"},                                                                             \
      {"model",                                                                                                \
       EBB_OPTION_TEXT,                                                                                        \
       &(o)->model,                                                                                            \
       "DIR",                                                                                                  \
       "a diffusers folder with its weights, in place of --arch",                                              \
       0,                                                                                                      \
       0,                                                                                                      \
       NULL},                                                                                                  \
      {"transformer", EBB_OPTION_TEXT, &(o)->transformer, "NAME", "its sub-folder (transformer)", 0, 0, NULL}, \
      {"device", EBB_OPTION_TEXT, &(o)->device, "NAME", "auto, cpu, cuda, cuda:N (auto)", 0, 0, NULL},         \
      {"dtype",                                                                                                \
       EBB_OPTION_TEXT,                                                                                        \
       &(o)->dtype,                                                                                            \
       "NAME",                                                                                                 \
       "of the transformer: float32 or bfloat16 (float32)",                                                    \
       0,                                                                                                      \
       0,                                                                                                      \
       "float32|bfloat16"},                                                                                    \
      {"batch", EBB_OPTION_INT, &(o)->batch, "N", "videos at once (16; tiny 16)", 1, 4096, NULL},              \
      {"size", EBB_OPTION_TEXT, &(o)->size, "HxW", "pixels (256x256; tiny 64x64)", 0, 0, NULL},                \
      {"frames", EBB_OPTION_INT, &(o)->frames, "N", "of a clip, 4k+1 (97; tiny 33)", 1, 100000, NULL},         \
      {"text", EBB_OPTION_INT, &(o)->text_tokens, "N", "text positions (512; tiny 1)", 1, 100000, NULL},       \
      {"words", EBB_OPTION_INT, &(o)->words, "N", "of them not padding (1, as the empty prompt)",              \
       1,       100000,         NULL},                                                                         \
      {"seed", EBB_OPTION_INT, &(o)->seed, "N", "of random weights (0)", 0, INT64_MAX, NULL},                  \
      {"seconds", EBB_OPTION_REAL, &(o)->seconds, "X", "time given to each measurement (2)", 0, 0, NULL}, {    \
    "csv", EBB_OPTION_FLAG, &(o)->csv, NULL, "comma-separated values", 0, 0, NULL                              \
  }

typedef struct bench_subject {
  bench_subject_options options; /* with all defaults filled in */
  ebb_context context;
  ebb_dtype dtype;
  char folder[1024]; /* with transformer/, vae/ and scheduler/ */
  bool random;
  int64_t height, width; /* pixels */
  ebb_latent_shape shape;
  bench_sheet sheet;
} bench_subject;

/* Opens the context, finds the folder and the shape of a latent. *usage: it is the command line that is wrong. */
bool bench_subject_find(bench_subject *s, const bench_subject_options *options, bool *usage, ebb_error *err);
/* The same, and the ceilings measured. */
bool bench_subject_open(bench_subject *s, const bench_subject_options *options, bool *usage, ebb_error *err);
void bench_subject_close(bench_subject *s);

/* For the work of ebb_context_sized: models and texts live in the weight arena. */
bool bench_open_transformer(bench_subject *s, ebb_model *m, ebb_error *err);
bool bench_open_vae(bench_subject *s, ebb_vae *vae, ebb_error *err); /* encoder only */
/* A text of `words` drawn states, the rest padding. */
bool bench_condition(bench_subject *s, ebb_model *m, const double *labels, int64_t moments,
                     ebb_condition *cond, ebb_error *err);

/* "16x16x25x32x32": batch, then a latent. */
const char *bench_latent_text(const bench_subject *s, char text[64]);
int64_t bench_tokens(const bench_subject *s, const ebb_model *m); /* of the whole batch */
/* Multiply-adds, counted as two, that the mathematics of one evaluation asks for: all text positions attended,
 * text keys and time modulation made once a run. What an engine saves by algebra does not lower it. */
double bench_velocity_flops(const bench_subject *s, const ebb_model *m);

#endif
