/* Still images. PNG in and out through libpng, JPEG, BMP and PPM in through stb_image. */
#ifndef EBB_LOADERS_IMAGE_H
#define EBB_LOADERS_IMAGE_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

/* 8-bit RGB, rows top to bottom: pixels[(y * width + x) * 3 + channel]. */
typedef struct ebb_image {
  int width, height;
  uint8_t *pixels; /* malloc'ed, width * height * 3 bytes; owned by the struct */
} ebb_image;

/* Largest side accepted from a file (checked before any allocation). */
#define EBB_IMAGE_SIDE_MAX 16384

/* Reads a PNG (grey, palette, 16 bit and alpha are converted to 8-bit RGB; alpha is dropped, not blended,
 * as PIL's convert("RGB") does), a JPEG, BMP or PPM; the content decides, not the name.
 * Errors: missing, unreadable, not an image, truncated, side over EBB_IMAGE_SIDE_MAX; *image is then zeroed.
 */
bool ebb_image_read(const char *path, ebb_image *image, ebb_error *err);

/* Writes an 8-bit RGB PNG; the bytes depend on the pixels alone (no time stamps). Written to a temporary
 * name beside `path`, synced and renamed: a reader never sees half a file. */
bool ebb_image_write_png(const char *path, int width, int height, const uint8_t *rgb, ebb_error *err);

void ebb_image_free(ebb_image *image); /* frees and zeroes; a zeroed struct is fine */

#endif
