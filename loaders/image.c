#include "loaders/image.h"

#include "loaders/file.h"

#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Formats with a signature only: TGA has none, and a damaged file of another kind could pass for one. */
#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_STDIO
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_PNM
#define STBI_MAX_DIMENSIONS EBB_IMAGE_SIDE_MAX
#include <stb/stb_image.h>

void ebb_image_free(ebb_image *image) {
  free(image->pixels);
  *image = (ebb_image){0};
}

/* ---- PNG ---- */

/* What survives a longjmp out of libpng: everything that must be freed lives here, not in locals. */
typedef struct png_job {
  const char *path;
  const char *verb;
  ebb_error *err;
  ebb_file_writer *file; /* writing only */
  png_structp png;
  png_infop info;
} png_job;

static void png_failed(png_structp png, png_const_charp message) {
  png_job *job = png_get_error_ptr(png);
  ebb_fail(job->err, "%s: %s: %s", job->path, job->verb, message);
  longjmp(png_jmpbuf(png), 1);
}

static void png_warned(png_structp png, png_const_charp message) {
  (void)png;
  (void)message;
}

/* Every kind of PNG becomes rows of 8-bit RGB. tRNS is left alone, so alpha exists only where it is a
 * channel. */
static void png_ask_rgb(png_structp png, png_infop info) {
  int colour = png_get_color_type(png, info);
  int depth = png_get_bit_depth(png, info);
  if (depth == 16)
    png_set_strip_16(png);
  if (colour == PNG_COLOR_TYPE_PALETTE)
    png_set_palette_to_rgb(png);
  if (colour == PNG_COLOR_TYPE_GRAY && depth < 8)
    png_set_expand_gray_1_2_4_to_8(png);
  if (colour == PNG_COLOR_TYPE_GRAY || colour == PNG_COLOR_TYPE_GRAY_ALPHA)
    png_set_gray_to_rgb(png);
  /* palette_to_rgb also turns a palette's tRNS into alpha; stripping is a no-op where there is none */
  png_set_strip_alpha(png);
}

static void png_read_body(png_job *job, FILE *stream, ebb_image *image) {
  png_init_io(job->png, stream);
  png_set_user_limits(job->png, EBB_IMAGE_SIDE_MAX, EBB_IMAGE_SIDE_MAX);
  png_set_chunk_cache_max(job->png, 64);
  png_set_chunk_malloc_max(job->png, 8u << 20);
  png_read_info(job->png, job->info);
  png_uint_32 width = png_get_image_width(job->png, job->info);
  png_uint_32 height = png_get_image_height(job->png, job->info);
  png_ask_rgb(job->png, job->info);
  int passes = png_set_interlace_handling(job->png);
  png_read_update_info(job->png, job->info);
  size_t row = (size_t)width * 3;
  if (png_get_rowbytes(job->png, job->info) != row)
    png_error(job->png, "does not convert to 8-bit RGB");
  /* calloc: an interlaced pass combines with what is there */
  image->pixels = calloc(height, row);
  if (!image->pixels)
    png_error(job->png, "out of memory");
  image->width = (int)width;
  image->height = (int)height;
  for (int pass = 0; pass < passes; pass++)
    for (png_uint_32 y = 0; y < height; y++)
      png_read_row(job->png, image->pixels + y * row, NULL);
  png_read_end(job->png, NULL);
}

static bool read_png(const char *path, FILE *stream, ebb_image *image, ebb_error *err) {
  png_job job = {.path = path, .verb = "not a valid PNG", .err = err};
  job.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, png_failed, png_warned);
  job.info = job.png ? png_create_info_struct(job.png) : NULL;
  if (!job.info) {
    png_destroy_read_struct(&job.png, NULL, NULL);
    return ebb_fail(err, "%s: out of memory", path);
  }
  if (setjmp(png_jmpbuf(job.png))) {
    png_destroy_read_struct(&job.png, &job.info, NULL);
    ebb_image_free(image);
    return false;
  }
  png_read_body(&job, stream, image);
  png_destroy_read_struct(&job.png, &job.info, NULL);
  return true;
}

static void png_put(png_structp png, png_bytep data, size_t size) {
  png_job *job = png_get_io_ptr(png);
  if (!ebb_file_write(job->file, data, size, job->err))
    png_error(png, "writing failed");
}

static void png_flushed(png_structp png) {
  (void)png;
}

static void png_write_body(png_job *job, int width, int height, const uint8_t *rgb) {
  png_set_write_fn(job->png, job, png_put, png_flushed);
  png_set_user_limits(job->png, EBB_IMAGE_SIDE_MAX, EBB_IMAGE_SIDE_MAX);
  png_set_IHDR(job->png, job->info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB,
               PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_compression_level(job->png, 6);
  png_write_info(job->png, job->info);
  for (int y = 0; y < height; y++)
    png_write_row(job->png, rgb + (size_t)y * (size_t)width * 3);
  png_write_end(job->png, NULL);
}

static bool encode_png(png_job *job, int width, int height, const uint8_t *rgb) {
  job->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, job, png_failed, png_warned);
  job->info = job->png ? png_create_info_struct(job->png) : NULL;
  if (!job->info) {
    png_destroy_write_struct(&job->png, NULL);
    return ebb_fail(job->err, "%s: out of memory", job->path);
  }
  if (setjmp(png_jmpbuf(job->png))) {
    png_destroy_write_struct(&job->png, &job->info);
    return false;
  }
  png_write_body(job, width, height, rgb);
  png_destroy_write_struct(&job->png, &job->info);
  return true;
}

bool ebb_image_write_png(const char *path, int width, int height, const uint8_t *rgb, ebb_error *err) {
  if (width < 1 || height < 1 || width > EBB_IMAGE_SIDE_MAX || height > EBB_IMAGE_SIDE_MAX)
    return ebb_fail(err, "%s: cannot write an image of %d x %d pixels; sides are 1 to %d", path, width,
                    height, EBB_IMAGE_SIDE_MAX);
  ebb_file_writer file;
  if (!ebb_file_create(&file, path, err))
    return false;
  png_job job = {.path = path, .verb = "cannot encode as PNG", .err = err, .file = &file};
  if (!encode_png(&job, width, height, rgb)) {
    ebb_file_abandon(&file);
    return false;
  }
  return ebb_file_commit(&file, err);
}

/* ---- other stills, through stb_image ---- */

/* stb_image reads zeros after the end of a file and calls that success; the callbacks remember that it asked.
 */
typedef struct still_source {
  FILE *stream;
  int64_t at, size;
  bool past_end;
} still_source;

static int still_read(void *user, char *data, int size) {
  still_source *s = user;
  size_t got = fread(data, 1, (size_t)size, s->stream);
  s->at += (int64_t)got;
  if (got == 0)
    s->past_end = true;
  return (int)got;
}

static void still_skip(void *user, int n) {
  still_source *s = user;
  s->at += n;
  if (s->at < 0 || s->at > s->size || fseeko(s->stream, (off_t)s->at, SEEK_SET) != 0)
    s->past_end = true;
}

static int still_eof(void *user) {
  still_source *s = user;
  return s->past_end || s->at >= s->size;
}

static bool read_still(const char *path, FILE *stream, int64_t size, ebb_image *image, ebb_error *err) {
  static const stbi_io_callbacks callbacks = {still_read, still_skip, still_eof};
  still_source source = {.stream = stream, .size = size};
  int width = 0, height = 0, channels = 0;
  if (!stbi_info_from_callbacks(&callbacks, &source, &width, &height, &channels))
    return ebb_fail(err, "%s: not an image that can be read (PNG, JPEG, BMP, PPM): %s", path,
                    stbi_failure_reason());
  if (width < 1 || height < 1 || width > EBB_IMAGE_SIDE_MAX || height > EBB_IMAGE_SIDE_MAX)
    return ebb_fail(err, "%s: image of %d x %d pixels; sides are 1 to %d", path, width, height,
                    EBB_IMAGE_SIDE_MAX);
  source = (still_source){.stream = stream, .size = size};
  rewind(stream);
  stbi_uc *pixels = stbi_load_from_callbacks(&callbacks, &source, &width, &height, &channels, 3);
  if (!pixels)
    return ebb_fail(err, "%s: damaged image: %s", path, stbi_failure_reason());
  if (source.past_end) {
    stbi_image_free(pixels);
    return ebb_fail(err, "%s: damaged image: the file ends before the picture does", path);
  }
  *image = (ebb_image){width, height, pixels};
  return true;
}

/* ---- either ---- */

static bool read_stream(const char *path, FILE *stream, ebb_image *image, ebb_error *err) {
  struct stat st;
  if (fstat(fileno(stream), &st) != 0)
    return ebb_fail(err, "%s: cannot read: %s", path, strerror(errno));
  if (!S_ISREG(st.st_mode))
    return ebb_fail(err, "%s: not a regular file", path);
  unsigned char head[8];
  size_t got = fread(head, 1, sizeof head, stream);
  if (ferror(stream))
    return ebb_fail(err, "%s: cannot read: %s", path, strerror(errno));
  if (got == 0)
    return ebb_fail(err, "%s: empty file, expected an image", path);
  rewind(stream);
  /* four bytes decide, so that a PNG cut inside its signature is called a broken PNG */
  if (got >= 4 && png_sig_cmp(head, 0, got) == 0)
    return read_png(path, stream, image, err);
  return read_still(path, stream, (int64_t)st.st_size, image, err);
}

bool ebb_image_read(const char *path, ebb_image *image, ebb_error *err) {
  *image = (ebb_image){0};
  /* O_NONBLOCK: a named pipe in a data folder must be refused, not waited for */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  FILE *stream = fd < 0 ? NULL : fdopen(fd, "rb");
  if (!stream) {
    ebb_fail(err, "%s: cannot open: %s", path, strerror(errno));
    if (fd >= 0)
      close(fd);
    return false;
  }
  bool ok = read_stream(path, stream, image, err);
  fclose(stream);
  return ok;
}
