/* From decoded frames to what a video VAE takes: time alignment, resize, crop, range. As the official code
 * does it, saying what is dropped. */
#ifndef EBB_LOADERS_FRAMES_H
#define EBB_LOADERS_FRAMES_H

#include "loaders/dataset.h"

/* The frames that stand for `want` output frames of a clip of `have`: have > want: trunc(linspace(0, have-1,
 * want)) computed in float32 as torch.linspace does on a CPU with AVX2; have < want: the last frame repeated;
 * equal: all. index [want]. */
void ebb_frames_align(int have, int want, int *index);

/* The largest n <= frames with n = stride*k + 1: what a causal VAE with temporal stride 4 (or 8) uses of
 * them. */
int ebb_frames_usable(int frames, int stride);

/* One sentence on what happens to a clip: "100 frames on disk, 100 asked for, 97 used (4k+1): the last 3
 * dropped". */
void ebb_frames_note(int have, int want, int used, char *text, size_t size);

/* Bilinear with antialiasing, 8 bits in and out: to u8 [new_height, new_width, 3] from u8 [height, width, 3],
 * all sides >= 1. Bit for bit torch's F.interpolate(uint8, mode="bilinear", antialias=True) on a CPU with
 * AVX2: fixed-point weights, columns first, rounded to 8 bits in between. */
void ebb_frames_resize(const uint8_t *from, int height, int width, uint8_t *to, int new_height,
                       int new_width);

/* video f32 [3, used, height, width] in [-1,1]: alignment to `want`, the first `used` of them; shorter side
 * resized to cover (bilinear with antialiasing, 8-bit result, as torchvision's v2.Resize(antialias=True) on
 * uint8 whose argument is the target height), centre crop, x/255*2-1. Errors: a target larger than the
 * resized frame, sizes out of range. */
bool ebb_frames_prepare(const ebb_clip *clip, int want, int used, int height, int width, float *video,
                        ebb_error *err);

/* Back to 8 bits: clip [frames, height, width, 3] of video f32 [3, frames, height, width] in [-1,1], to the
 * nearest level (diffusers' VideoProcessor does the same); exact for what ebb_frames_prepare made. Errors: a
 * value that is not finite, no memory; *clip is then zeroed. */
bool ebb_frames_quantise(const float *video, int frames, int height, int width, ebb_clip *clip,
                         ebb_error *err);

#endif
