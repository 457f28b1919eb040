/* Still images: every kind of PNG in, PNG out, JPEG and BMP in, and damaged files. Host code, exact. */
#include "loaders/image.h"
#include "tests/test_files.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#include <stb/stb_image_write.h>

static uint8_t *get_file(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  fseek(f, 0, SEEK_END);
  *size = (size_t)ftell(f);
  rewind(f);
  uint8_t *data = malloc(*size + 1);
  assert_int_equal(fread(data, 1, *size, f), *size);
  fclose(f);
  return data;
}

enum { W = 13, H = 7 };

/* 13 x 7: red 40 + 12 x, green 200 - 20 y, blue 100 (Pillow, quality 75, no subsampling) */
static const uint8_t tiny_jpeg[] = {
    0xff, 0xd8, 0xff, 0xe0, 0x00, 0x10, 0x4a, 0x46, 0x49, 0x46, 0x00, 0x01, 0x01, 0x00, 0x00, 0x01, 0x00,
    0x01, 0x00, 0x00, 0xff, 0xdb, 0x00, 0x43, 0x00, 0x08, 0x06, 0x06, 0x07, 0x06, 0x05, 0x08, 0x07, 0x07,
    0x07, 0x09, 0x09, 0x08, 0x0a, 0x0c, 0x14, 0x0d, 0x0c, 0x0b, 0x0b, 0x0c, 0x19, 0x12, 0x13, 0x0f, 0x14,
    0x1d, 0x1a, 0x1f, 0x1e, 0x1d, 0x1a, 0x1c, 0x1c, 0x20, 0x24, 0x2e, 0x27, 0x20, 0x22, 0x2c, 0x23, 0x1c,
    0x1c, 0x28, 0x37, 0x29, 0x2c, 0x30, 0x31, 0x34, 0x34, 0x34, 0x1f, 0x27, 0x39, 0x3d, 0x38, 0x32, 0x3c,
    0x2e, 0x33, 0x34, 0x32, 0xff, 0xdb, 0x00, 0x43, 0x01, 0x09, 0x09, 0x09, 0x0c, 0x0b, 0x0c, 0x18, 0x0d,
    0x0d, 0x18, 0x32, 0x21, 0x1c, 0x21, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32,
    0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32,
    0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32, 0x32,
    0x32, 0x32, 0x32, 0x32, 0x32, 0xff, 0xc0, 0x00, 0x11, 0x08, 0x00, 0x07, 0x00, 0x0d, 0x03, 0x01, 0x11,
    0x00, 0x02, 0x11, 0x01, 0x03, 0x11, 0x01, 0xff, 0xc4, 0x00, 0x15, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x05, 0xff, 0xc4, 0x00, 0x1c,
    0x10, 0x00, 0x00, 0x06, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x01, 0x02, 0x03, 0x06, 0x21, 0x04, 0x12, 0x31, 0xff, 0xc4, 0x00, 0x17, 0x01, 0x00, 0x03, 0x01,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x04, 0x05, 0x06,
    0xff, 0xc4, 0x00, 0x1b, 0x11, 0x00, 0x02, 0x03, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x04, 0x05, 0x02, 0x11, 0x12, 0xff, 0xda, 0x00, 0x0c, 0x03,
    0x01, 0x00, 0x02, 0x11, 0x03, 0x11, 0x00, 0x3f, 0x00, 0x0e, 0x24, 0x85, 0x55, 0x66, 0x01, 0x25, 0x34,
    0x4b, 0xa7, 0x9e, 0x8b, 0x4c, 0xc8, 0x55, 0xa7, 0x4c, 0x25, 0xce, 0x9a, 0xec, 0xd3, 0xc1, 0x9e, 0xbc,
    0x9f, 0xff, 0xd9};

static void fill(uint8_t *rgb) {
  for (int i = 0; i < W * H * 3; i++)
    rgb[i] = (uint8_t)(i * 37 + i / 5);
}

static void test_round_trip(void **state) {
  (void)state;
  uint8_t rgb[W * H * 3];
  fill(rgb);
  ebb_error err = {{0}};
  const char *path = at("a.png");
  assert_true(ebb_image_write_png(path, W, H, rgb, &err));
  ebb_image image;
  assert_true(ebb_image_read(path, &image, &err));
  assert_int_equal(image.width, W);
  assert_int_equal(image.height, H);
  assert_memory_equal(image.pixels, rgb, sizeof rgb);
  ebb_image_free(&image);
  assert_null(image.pixels);

  size_t n1, n2;
  uint8_t *first = get_file(path, &n1);
  assert_true(ebb_image_write_png(path, W, H, rgb, &err)); /* over an existing file */
  uint8_t *second = get_file(path, &n2);
  assert_int_equal(n1, n2);
  assert_memory_equal(first, second, n1);
  free(first);
  free(second);
}

/* Writes rows [H][row bytes] as a PNG of any kind; palette and trns may be NULL. */
static void write_kind(const char *path, int colour, int depth, int interlace, uint8_t *rows, size_t row,
                       const png_color *palette, int colours) {
  FILE *f = fopen(path, "wb");
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
  png_infop info = png_create_info_struct(png);
  png_init_io(png, f);
  png_set_IHDR(png, info, W, H, depth, colour, interlace, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  if (palette) {
    const png_byte alpha[2] = {0, 128};
    png_set_PLTE(png, info, palette, colours);
    png_set_tRNS(png, info, alpha, 2, NULL);
  }
  png_bytep pointers[H];
  for (int y = 0; y < H; y++)
    pointers[y] = rows + (size_t)y * row;
  png_set_rows(png, info, pointers);
  png_write_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
  png_destroy_write_struct(&png, &info);
  fclose(f);
}

static void expect_pixels(const char *path, const uint8_t *rgb) {
  ebb_error err = {{0}};
  ebb_image image;
  if (!ebb_image_read(path, &image, &err))
    fail_msg("%s", err.text);
  assert_int_equal(image.width, W);
  assert_int_equal(image.height, H);
  assert_memory_equal(image.pixels, rgb, (size_t)W * H * 3);
  ebb_image_free(&image);
}

static void test_kinds_of_png(void **state) {
  (void)state;
  const char *path = at("kind.png");
  uint8_t rgb[W * H * 3], want[W * H * 3], raw[W * H * 8];
  fill(rgb);
  for (int interlace = 0; interlace < 2; interlace++) {
    write_kind(path, PNG_COLOR_TYPE_RGB, 8, interlace, rgb, W * 3, NULL, 0);
    expect_pixels(path, rgb);

    for (int i = 0; i < W * H; i++)
      for (int c = 0; c < 4; c++)
        raw[i * 4 + c] = c < 3 ? rgb[i * 3 + c] : (uint8_t)(i * 3);
    write_kind(path, PNG_COLOR_TYPE_RGB_ALPHA, 8, interlace, raw, W * 4, NULL, 0);
    expect_pixels(path, rgb);

    for (int i = 0; i < W * H * 3; i++) {
      raw[i * 2] = rgb[i];
      raw[i * 2 + 1] = 0xEE;
    }
    write_kind(path, PNG_COLOR_TYPE_RGB, 16, interlace, raw, W * 6, NULL, 0);
    expect_pixels(path, rgb);

    for (int i = 0; i < W * H; i++)
      want[i * 3] = want[i * 3 + 1] = want[i * 3 + 2] = rgb[i];
    write_kind(path, PNG_COLOR_TYPE_GRAY, 8, interlace, rgb, W, NULL, 0);
    expect_pixels(path, want);

    for (int i = 0; i < W * H; i++) {
      raw[i * 2] = rgb[i];
      raw[i * 2 + 1] = (uint8_t)i;
    }
    write_kind(path, PNG_COLOR_TYPE_GRAY_ALPHA, 8, interlace, raw, W * 2, NULL, 0);
    expect_pixels(path, want);

    memset(raw, 0xA5, sizeof raw); /* 1 bit: 10100101... in every row */
    for (int i = 0; i < W * H; i++)
      want[i * 3] = want[i * 3 + 1] = want[i * 3 + 2] = (0xA5 >> (7 - i % W % 8)) & 1 ? 255 : 0;
    write_kind(path, PNG_COLOR_TYPE_GRAY, 1, interlace, raw, 2, NULL, 0);
    expect_pixels(path, want);

    const png_color palette[3] = {{1, 2, 3}, {40, 50, 60}, {200, 100, 0}};
    for (int i = 0; i < W * H; i++) {
      raw[i] = (uint8_t)(i % 3);
      memcpy(want + i * 3, &palette[i % 3], 3);
    }
    write_kind(path, PNG_COLOR_TYPE_PALETTE, 8, interlace, raw, W, palette, 3);
    expect_pixels(path, want);
  }
}

static void expect_error(const char *path, const char *part) {
  ebb_error err = {{0}};
  ebb_image image;
  assert_false(ebb_image_read(path, &image, &err));
  assert_null(image.pixels);
  if (!strstr(err.text, path) || !strstr(err.text, part))
    fail_msg("\"%s\" should name %s and say \"%s\"", err.text, path, part);
}

static void test_every_truncation_is_an_error(void **state) {
  (void)state;
  uint8_t rgb[W * H * 3];
  fill(rgb);
  ebb_error err = {{0}};
  const char *path = at("cut.png");
  assert_true(ebb_image_write_png(path, W, H, rgb, &err));
  size_t size;
  uint8_t *data = get_file(path, &size);
  for (size_t n = 0; n < size; n++) {
    put(path, data, n);
    expect_error(path, n == 0 ? "empty" : "");
  }
  free(data);
  path = at("cut.jpg");
  for (size_t n = 0; n + 2 <= sizeof tiny_jpeg;
       n++) { /* all but half of the end marker is all of the picture */
    put(path, tiny_jpeg, n);
    expect_error(path, "");
  }
}

static void test_every_flipped_byte_is_survived(void **state) {
  (void)state;
  uint8_t rgb[W * H * 3];
  fill(rgb);
  for (int kind = 0; kind < 3; kind++) {
    char path[256];
    strcpy(path, at("flip"));
    ebb_error err = {{0}};
    if (kind == 0)
      assert_true(ebb_image_write_png(path, W, H, rgb, &err));
    else if (kind == 1)
      put(path, tiny_jpeg, sizeof tiny_jpeg);
    else
      assert_true(stbi_write_bmp(path, W, H, 3, rgb));
    size_t size;
    uint8_t *data = get_file(path, &size);
    for (size_t i = 0; i < size; i++) {
      data[i] ^= 0x55;
      put(path, data, size);
      err.text[0] = '\0';
      ebb_image image;
      bool ok = ebb_image_read(path, &image, &err);
      assert_true(ok == (image.pixels != NULL) && ok == (err.text[0] == '\0'));
      if (kind == 0) /* every byte of a PNG is under a signature, a length or a checksum */
        assert_false(ok);
      ebb_image_free(&image);
      data[i] ^= 0x55;
    }
    free(data);
  }
}

static void test_other_stills(void **state) {
  (void)state;
  uint8_t rgb[W * H * 3];
  fill(rgb);
  const char *path = at("named.png"); /* the content decides */
  assert_true(stbi_write_bmp(path, W, H, 3, rgb));
  expect_pixels(path, rgb);
  put(path, tiny_jpeg, sizeof tiny_jpeg);
  ebb_error err = {{0}};
  ebb_image image;
  if (!ebb_image_read(path, &image, &err))
    fail_msg("%s", err.text);
  assert_true(image.width == W && image.height == H);
  for (int y = 0; y < H; y++)
    for (int x = 0; x < W; x++) {
      const int want[3] = {40 + 12 * x, 200 - 20 * y, 100};
      for (int c = 0; c < 3; c++)
        assert_in_range(image.pixels[(y * W + x) * 3 + c], want[c] - 8, want[c] + 8);
    }
  ebb_image_free(&image);
}

static void test_hostile_files(void **state) {
  (void)state;
  char path[256];
  strcpy(path, at("none.png"));
  expect_error(path, "cannot open");
  strcpy(path, folder);
  expect_error(path, "not a regular file");
  strcpy(path, at("pipe"));
  assert_int_equal(mkfifo(path, 0600), 0);
  expect_error(path, "not a regular file");
  strcpy(path, at("text.png"));
  put(path, "this is no image at all, is it?", 31);
  expect_error(path, "not an image");
  /* sides of 65535 under a right checksum: refused before pixels are allocated */
  FILE *f = fopen(path, "wb");
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
  png_infop info = png_create_info_struct(png);
  png_init_io(png, f);
  png_set_IHDR(png, info, 65535, 65535, 8, PNG_COLOR_TYPE_RGB, 0, 0, 0);
  png_write_info(png, info);
  png_destroy_write_struct(&png, &info);
  fclose(f);
  expect_error(path, "IHDR");
  static const uint8_t ppm[] = "P6 20000 20000 255\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
  put(path, ppm, sizeof ppm);
  expect_error(path, "");
  put(path, "P6 20 20 255\nxxxxxxxxxxxxxxxxx", 30);
  expect_error(path, "");
}

static void expect_write_error(const char *path, int width, const uint8_t *rgb, const char *part) {
  ebb_error err = {{0}};
  assert_false(ebb_image_write_png(path, width, H, rgb, &err));
  if (!strstr(err.text, path) || !strstr(err.text, part))
    fail_msg("\"%s\" should name %s and say \"%s\"", err.text, path, part);
}

static void test_write_errors_leave_nothing(void **state) {
  (void)state;
  uint8_t rgb[W * H * 3];
  fill(rgb);
  expect_write_error(at("no/such.png"), W, rgb, strerror(ENOENT));
  expect_write_error(at("zero.png"), 0, rgb, "0 x 7");
  /* a file size limit stands in for a full disk */
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit old, small;
  getrlimit(RLIMIT_FSIZE, &old);
  small = (struct rlimit){64, old.rlim_max};
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  char path[256];
  strcpy(path, at("full.png"));
  ebb_error err = {{0}};
  bool ok = ebb_image_write_png(path, W, H, rgb, &err);
  setrlimit(RLIMIT_FSIZE, &old);
  assert_false(ok);
  assert_non_null(strstr(err.text, strerror(EFBIG)));
  char command[160];
  snprintf(command, sizeof command, "test -z \"$(ls '%s' | grep full)\"", folder);
  assert_int_equal(system(command), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_kinds_of_png),
      cmocka_unit_test(test_other_stills),
      cmocka_unit_test(test_every_truncation_is_an_error),
      cmocka_unit_test(test_every_flipped_byte_is_survived),
      cmocka_unit_test(test_hostile_files),
      cmocka_unit_test(test_write_errors_leave_nothing),
  };
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
