/* `ebb fidelity`: how exact an experiment's inversions are, measured on its videos and on videos that the
 * model makes itself, where the true path is known. */
#ifndef EBB_ENGINE_FIDELITY_RUN_H
#define EBB_ENGINE_FIDELITY_RUN_H

#include "engine/fidelity.h"
#include "loaders/config.h"
#include "loaders/dataset.h"

typedef enum ebb_loop {
  EBB_LOOP_DATA, /* a video's latent -> inverted -> its noise taken forward again: inverted against forward */
  EBB_LOOP_GENERATED, /* a drawn noise -> forward -> the clean end inverted: inverted against the true path */
  EBB_LOOP_VAE, /* the same, with the clean end decoded to pixels and encoded again before it is inverted */
  EBB_LOOPS
} ebb_loop;
extern const char *const ebb_loop_names[EBB_LOOPS]; /* "data", "generated", "generated.vae" */

/* What is measured at every state k of a loop (sigma[k], 0 is clean), in the order of fidelity.csv. */
typedef enum ebb_measure {
  EBB_RMSE,         /* inverted against forward state: |difference| / sqrt(n) */
  EBB_REL,          /* the same in units of the forward state's std */
  EBB_COS,          /* cosine of the two */
  EBB_IMPLICIT_RES, /* of the inversion's step from k to k+1: ebb_implicit_residuals */
  EBB_LOCAL_ERR,    /* of that step: ebb_local_errors */
  EBB_VEL_COS,  /* of that step: cosine of the two paths' displacements, which for euler are their velocities
                 */
  EBB_ATTN_COS, /* attention at state k, mean over blocks and heads: cosine of the frame-to-frame mass */
  EBB_ROWS_COS, /* of the mass by rows away */
  EBB_COLUMNS_COS, /* of the mass by columns away */
  EBB_OTHER_COS, /* of the frame-to-frame mass with that of the next video of the batch: what is alike anyway
                  */
  EBB_MEASURES
} ebb_measure;
extern const char *const ebb_measure_names[EBB_MEASURES]; /* columns of fidelity.csv */

#define EBB_FIDELITY_MAPS 3 /* attn_frames, attn_rows, attn_columns */
extern const char *const ebb_fidelity_maps[EBB_FIDELITY_MAPS];

/* One video of a loop. */
typedef struct ebb_fidelity_sample {
  ebb_loop loop;
  char *id, *group, *category; /* of a drawn noise: "generated/0", each its own group */
  ebb_label label;
  char *failed;                      /* why it could not be measured; NULL */
  double *value[EBB_MEASURES];       /* [steps+1]; NaN: not measured there */
  ebb_noise_statistics noise;        /* of the inverted path's end */
  ebb_noise_statistics *by_channel;  /* [channels] */
  float *map_cos[EBB_FIDELITY_MAPS]; /* [captured, blocks, heads]; NaN: undefined */
} ebb_fidelity_sample;

typedef struct ebb_fidelity {
  int steps;
  double *sigma; /* [steps+1], ascending */
  int64_t channels, heads;
  int captured, blocks;
  int capture[EBB_LIST], block[EBB_LIST]; /* state and block numbers of map_cos */
  int64_t count, failed;
  ebb_fidelity_sample *samples;
  int64_t evaluations; /* of the model, all samples of a batch together */
  char device[64], model_sha256[65];
} ebb_fidelity;

typedef struct ebb_fidelity_options {
  const char *forward; /* solver of the way forward; NULL: the inversion's own */
  const char *local;   /* where implicit_res and local_err are measured: "all", "captured", "none" */
  int64_t generated;   /* noises drawn for the closed loops; 0: none */
  int64_t seed;        /* of them */
  FILE *log;           /* videos that fail; a line */
  void (*progress)(void *user, double done, int64_t samples); /* may be NULL */
  void *progress_user;
} ebb_fidelity_options;

/* Measures config's inversion with the first transformer; attention at config->capture.steps and blocks.
 * Errors: what keeps all of it from going on; a video that fails is recorded and left out. Free in any case.
 */
bool ebb_fidelity_run(const ebb_config *config, const ebb_fidelity_options *options, ebb_fidelity *f,
                      ebb_error *err);
void ebb_fidelity_free(ebb_fidelity *f);

#endif
