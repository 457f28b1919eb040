/* How close a video came to another: peak signal-to-noise ratio and structural similarity of 8-bit RGB. */
#ifndef EBB_LOADERS_QUALITY_H
#define EBB_LOADERS_QUALITY_H

#include "loaders/dataset.h"

typedef struct ebb_quality {
  double
      psnr; /* dB: 10 log10(255^2 / MSE), the MSE over all frames, pixels and channels; infinite when equal */
  double ssim; /* at most 1 */
} ebb_quality;

/* Of two clips with the same frames and sides. SSIM as Wang, Bovik, Sheikh and Simoncelli defined it ("Image
 * quality assessment", IEEE TIP 2004): windows of 11x11 pixels weighted by a Gaussian of sigma 1.5, K1 =
 * 0.01, K2 = 0.03, L = 255, variances of the population; of each channel (R, G, B) by itself, over all
 * windows that lie inside the frame, then the mean over windows, channels and frames - skimage's
 * structural_similarity(gaussian_weights=True, use_sample_covariance=False, data_range=255, channel_axis=-1),
 * mean over frames. NaN when a side is below 11. */
ebb_quality ebb_quality_of(const ebb_clip *a, const ebb_clip *b);

#endif
