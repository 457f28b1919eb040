/* Trials: what the trained model makes of a scene when a block or a head is tampered with. A scene's video is taken to its
 * noise (the inversion of its run), generated again from it, with the intervention (engine/edit.h) at every step, and
 * inverted again up to the steps that are wanted, where features are read as in the run. Generation and inversion are
 * one solver on one grid, told what its run was told, and latents stay float32 in between (REFERENCE 3.11, 22), so
 * that an intervention that does nothing closes the loop as far as the solver can. Trials of any scenes and
 * interventions share a batch; none depends on what stands beside it.
 *
 * Or the inversion itself is tampered with: the scene's own latents are inverted under the intervention, and what is
 * read is what the model can tell with a head or a block out of order. */
#ifndef EBB_ENGINE_TRIALS_H
#define EBB_ENGINE_TRIALS_H

#include "engine/edit.h"
#include "engine/tap.h"
#include "loaders/config.h"
#include "loaders/dataset.h"

typedef struct ebb_trials_options {
  const char *feature; /* of the tokens of blocks: "block_out.mean" */
  ebb_int_list steps;  /* steps of the inversion at which it is read */
  bool decode;    /* through pixels and back between generation and inversion, as for a video that is shown */
  bool inversion; /* the inversion itself is tampered with; nothing is generated */
  int64_t batch;  /* samples in one forward */
  FILE *log;      /* plain lines: memory, videos left out */
} ebb_trials_options;

/* A scene loaded and an intervention. A head's source may be the place of another loaded scene: that head of its
 * undisturbed generation (or inversion), at the same step. */
typedef struct ebb_trial {
  int64_t scene;
  ebb_intervention change;
  /* dB; NaN: none. Beside the intervention, white noise of change.key on what was generated (latents, or pixels when decoded), as
   * much as gives it this quality; none where it is no better to begin with. */
  double psnr;
} ebb_trial;

typedef struct ebb_trial_result {
  const char *failure;   /* NULL: none, and the following hold */
  const float *features; /* [steps, blocks, width] */
  /* Of the generated video against the scene's own: dB, 10 log10(peak^2 / mean square error). Pixels in [-1,1] with
   * peak 2 when decoded, else latents with the range of the scene's as the peak; 200 at most. NaN where
   * nothing was generated. */
  double psnr;
  const char *sha256; /* of a scene's decoded frames; NULL for a trial */
} ebb_trial_result;
/* What became of trial (or scene) number `number`; last: nothing else of its batch follows, a good moment to save. */
typedef bool ebb_trial_done(void *user, int64_t number, const ebb_trial_result *result, bool last,
                            ebb_error *err);

typedef struct ebb_trials ebb_trials;
/* The models of the run's config, its main transformer alone, and the videos of its data set. Errors: as of
 * ebb_job_invert; a feature that is not of blocks; more memory than there is, with the amount. */
bool ebb_trials_open(ebb_trials **t, const ebb_config *config, const ebb_trials_options *options,
                     ebb_error *err);
void ebb_trials_close(ebb_trials **t); /* NULL is fine */
const ebb_dataset *ebb_trials_data(const ebb_trials *t);
const ebb_tap_plan *ebb_trials_plan(const ebb_trials *t);
/* Hashes of the weights and the device, for provenance. Errors: weights that cannot be read to their end. */
typedef struct ebb_trials_about {
  char transformer[65], vae[65], prompt[65], negative[65];
  const char *device;
} ebb_trials_about;
bool ebb_trials_describe(ebb_trials *t, ebb_trials_about *about, ebb_error *err);

/* Makes videos[0..count) the loaded scenes 0..count-1, in place of those before. done is told of each what its first
 * inversion gave; one that fails stays without a noise. Errors: of the run as a whole, memory, those of done. */
bool ebb_trials_load(ebb_trials *t, int64_t count, const int64_t *videos, ebb_trial_done *done, void *user,
                     ebb_error *err);
/* Runs the trials in their order, as many at a time as options.batch holds with the scenes that heads come from. Errors:
 * as load; a scene that failed; a trial that does not fit into a batch. */
bool ebb_trials_run(ebb_trials *t, int64_t count, const ebb_trial *trials, ebb_trial_done *done, void *user,
                    ebb_error *err);

#endif
