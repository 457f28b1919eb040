/* Videos out of the model: from noise (`ebb generate`), or there and back (`ebb reconstruct`): encoded, taken
 * backward to noise, forward again by the same solver, labels, prompt and text length, and decoded. Latents
 * are float32 all the way. */
#ifndef EBB_ENGINE_RECONSTRUCT_H
#define EBB_ENGINE_RECONSTRUCT_H

#include "engine/job.h"
#include "loaders/quality.h"

/* Writes config->run.out/generate: generated-00000.mp4 ... (or folders of PNG frames), generate.csv (video,
 * file, frames, seed, SHA-256 of the decoded frames) and, last, generate.json. Video n begins as noise drawn
 * by (generate.seed, n), whatever batch it is in, or as the n-th of generate.noise. model.compare and
 * capture.* play no part. Options, plan, result and errors as ebb_job_invert has them; a finished folder is
 * never overwritten. */
bool ebb_generate(const ebb_config *config, const ebb_job_options *options, ebb_job_result *result,
                  ebb_error *err);

/* Means over the videos that did not fail; gap = ceiling - made. */
typedef struct ebb_reconstruction {
  int64_t videos;
  ebb_quality made;    /* after inversion and generation */
  ebb_quality ceiling; /* after the VAE alone: what no inversion can exceed but by chance */
} ebb_reconstruction;

/* Writes config->run.out/reconstruct: reconstructed-00000.mp4 and original-00000.mp4 ... (or folders of PNG
 * frames), reconstruct.csv, a row a video with PSNR and SSIM (loaders/quality.h, on 8-bit frames) against the
 * prepared original of the reconstruction, of encoding and decoding alone, and their difference, and, last,
 * reconstruct.json with means, failures and provenance. *summary is filled after a run. */
bool ebb_reconstruct(const ebb_config *config, const ebb_job_options *options, ebb_job_result *result,
                     ebb_reconstruction *summary, ebb_error *err);

/* Whether the two can do what config asks, before anything is opened. */
bool ebb_generate_check(const ebb_config *config, ebb_error *err);
bool ebb_reconstruct_check(const ebb_config *config, ebb_error *err);

#endif
