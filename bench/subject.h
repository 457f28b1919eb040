/* What is measured: a model, named or on disk, on a device, at a shape. */
#ifndef EBB_BENCH_SUBJECT_H
#define EBB_BENCH_SUBJECT_H

#include "bench/sheet.h"
#include "cli/options.h"
#include "engine/vae.h"

typedef struct bench_subject_options {
  const char *arch;  /* "tiny", "wan2.1-1.3b", "wan2.1-14b": random weights; NULL: what suits the device */
  const char *model; /* a diffusers folder with weights, in place of arch */
  const char *transformer, *device, *size;
  const char *dtype, *vae_dtype;                   /* of the transformer, of the VAE */
  int64_t batch, frames, text_tokens, words, seed; /* 0, NULL: the architecture's */
  double seconds;
  int csv;
} bench_subject_options;

extern const bench_subject_options bench_subject_defaults;

/* The options that a command with a subject uses, by name ("arch model size"), into the end of its table; returns how
 * many. One that it does not name is unknown to it: no option is without effect. */
enum { BENCH_SUBJECT_OPTIONS = 14 };
int bench_subject_list(bench_subject_options *o, const char *names, ebb_option to[BENCH_SUBJECT_OPTIONS]);

typedef struct bench_subject {
  bench_subject_options options; /* with all defaults filled in */
  ebb_context context;
  ebb_dtype dtype, vae_dtype; /* of the transformer, of the VAE */
  char folder[1024];          /* with transformer/, vae/ and scheduler/ */
  bool random;
  int64_t height, width; /* pixels */
  ebb_latent_shape shape;
  bench_sheet sheet;
} bench_subject;

/* Opens the context, finds the folder and the shape of a latent. *usage: it is the command line that is wrong. Ceilings
 * (bench_find_ceilings) are the caller's to measure, who knows the dtype of its products. */
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
