#include "loaders/frames.h"

#include "loaders/file.h"
#include "loaders/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ebb_frames_align(int have, int want, int *index) {
  if (have <= want) {
    for (int i = 0; i < want; i++)
      index[i] = i < have ? i : have - 1;
    return;
  }
  /* torch.linspace(0, have - 1, want) on the CPU: the step rounded to float32, the first half counted from
   * the start, the second from the end. Its AVX2 and AVX512 builds fuse the multiplication with the
   * subtraction, which decides some truncations: (33, 15) and (65, 31) among them. */
  float end = (float)(have - 1), step = want > 1 ? end / (float)(want - 1) : 0.0f;
  for (int i = 0; i < want; i++) {
    float at = i < want / 2 ? step * (float)i : fmaf(-step, (float)(want - i - 1), end);
    index[i] = want == 1 ? 0 : (int)at;
  }
}

int ebb_frames_usable(int frames, int stride) {
  return frames < 1 ? 0 : (frames - 1) / stride * stride + 1;
}

void ebb_frames_note(int have, int want, int used, char *text, size_t size) {
  char lost[64] = "";
  if (used < want)
    snprintf(lost, sizeof lost, " (4k+1): the last %d dropped", want - used);
  snprintf(text, size, "%d frames on disk, %d asked for%s, %d used%s", have, want,
           have > want   ? " (sampled evenly)"
           : have < want ? " (the last one repeated)"
                         : "",
           used, lost);
}

/* ---- resize ------------------------------------------------------------------------------------------ */

/* One axis of the antialiased triangle filter in fixed point, as torch's uint8 kernel has it (which took it
 * from Pillow): out = (sum_j weight[j] in[first + j] + half) >> precision, clamped to 8 bits. */
typedef struct filter {
  int taps, precision; /* taps: room per output */
  int *first, *count;  /* [out] */
  int32_t *weight;     /* [out, taps] */
} filter;

static void filter_free(filter *f) {
  free(f->first);
  free(f->count);
  free(f->weight);
}

static filter filter_make(int in, int out) {
  double scale = (double)in / (double)out;
  double support = scale >= 1.0 ? scale : 1.0, inverse = scale >= 1.0 ? 1.0 / scale : 1.0;
  filter f = {.taps = (int)ceil(support) * 2 + 1};
  size_t n = (size_t)out;
  f.first = ebb_must(malloc(n * sizeof *f.first));
  f.count = ebb_must(malloc(n * sizeof *f.count));
  f.weight = ebb_must(calloc(n * (size_t)f.taps, sizeof *f.weight));
  double *w = ebb_must(calloc(n * (size_t)f.taps, sizeof *w)), largest = 0.0;
  for (int i = 0; i < out; i++) {
    double centre = scale * (i + 0.5), sum = 0.0;
    int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
    low = low > 0 ? low : 0;
    high = high < in ? high : in;
    f.first[i] = low;
    f.count[i] = high - low < f.taps ? high - low : f.taps;
    double *row = w + (size_t)i * (size_t)f.taps;
    for (int j = 0; j < f.count[i]; j++) {
      double x = fabs((j + low - centre + 0.5) * inverse);
      row[j] = x < 1.0 ? 1.0 - x : 0.0;
      sum += row[j];
    }
    for (int j = 0; j < f.count[i]; j++) {
      row[j] /= sum;
      largest = row[j] > largest ? row[j] : largest;
    }
  }
  while (f.precision < 22 && (int)(0.5 + largest * (double)(1 << (f.precision + 1))) < 1 << 15)
    f.precision++;
  for (size_t i = 0; i < n * (size_t)f.taps; i++)
    f.weight[i] = (int32_t)(0.5 + w[i] * (double)(1 << f.precision));
  free(w);
  return f;
}

/* out[i] from in[.. * stride + channel] */
static uint8_t filter_apply(const filter *f, int i, const uint8_t *in, size_t stride) {
  const int32_t *w = f->weight + (size_t)i * (size_t)f->taps;
  int32_t sum = 1 << (f->precision - 1);
  for (int j = 0; j < f->count[i]; j++)
    sum += w[j] * in[(size_t)(f->first[i] + j) * stride];
  sum >>= f->precision;
  return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

void ebb_frames_resize(const uint8_t *from, int height, int width, uint8_t *to, int new_height,
                       int new_width) {
  filter across = filter_make(width, new_width), down = filter_make(height, new_height);
  size_t row = (size_t)new_width * 3;
  uint8_t *middle = ebb_must(malloc((size_t)height * row));
  for (int y = 0; y < height; y++)
    for (int x = 0; x < new_width; x++)
      for (int c = 0; c < 3; c++)
        middle[(size_t)y * row + (size_t)x * 3 + (size_t)c] =
            filter_apply(&across, x, from + (size_t)y * (size_t)width * 3 + c, 3);
  for (int y = 0; y < new_height; y++)
    for (size_t x = 0; x < row; x++)
      to[(size_t)y * row + x] = filter_apply(&down, y, middle + x, row);
  free(middle);
  filter_free(&across);
  filter_free(&down);
}

/* ---- the whole way ----------------------------------------------------------------------------------- */

/* Python's round((have - want) / 2.0): halves go to the even number. */
static int crop_start(int have, int want) {
  int d = have - want;
  return d / 2 + (d % 2 != 0 && d / 2 % 2 != 0);
}

/* Size after torchvision's Resize(side): the shorter side becomes `side`, the longer is truncated. */
static void resized(int height, int width, int side, int64_t *new_height, int64_t *new_width) {
  *new_height = height <= width ? side : (int64_t)((double)side * height / width);
  *new_width = width <= height ? side : (int64_t)((double)side * width / height);
}

static bool check_sizes(const ebb_clip *clip, int want, int used, int height, int width, ebb_error *err) {
  if (clip->frames < 1 || clip->height < 1 || clip->width < 1 || clip->height > EBB_IMAGE_SIDE_MAX ||
      clip->width > EBB_IMAGE_SIDE_MAX)
    return ebb_fail(err, "a clip of %d frames of %dx%d cannot be prepared", clip->frames, clip->height,
                    clip->width);
  if (used < 1 || used > want)
    return ebb_fail(err, "%d frames to be used of %d asked for: expected 1 to %d", used, want, want);
  if (height < 1 || width < 1 || height > EBB_IMAGE_SIDE_MAX || width > EBB_IMAGE_SIDE_MAX)
    return ebb_fail(err, "the target size %dx%d is out of range, expected sides of 1 to %d", height, width,
                    EBB_IMAGE_SIDE_MAX);
  int64_t h, w;
  resized(clip->height, clip->width, height, &h, &w);
  if (h < height || w < width || h > EBB_IMAGE_SIDE_MAX || w > EBB_IMAGE_SIDE_MAX)
    return ebb_fail(err,
                    "frames of %dx%d become %lldx%lld when the shorter side is made %d: a crop of %dx%d does "
                    "not fit; choose a size no wider than that",
                    clip->height, clip->width, (long long)h, (long long)w, height, height, width);
  return true;
}

bool ebb_frames_prepare(const ebb_clip *clip, int want, int used, int height, int width, float *video,
                        ebb_error *err) {
  if (!check_sizes(clip, want, used, height, width, err))
    return false;
  int64_t h, w;
  resized(clip->height, clip->width, height, &h, &w);
  int top = crop_start((int)h, height), left = crop_start((int)w, width);
  bool same = h == clip->height && w == clip->width;
  int *index = ebb_must(malloc((size_t)want * sizeof *index));
  uint8_t *buffer = same ? NULL : ebb_must(malloc((size_t)h * (size_t)w * 3));
  ebb_frames_align(clip->frames, want, index);
  size_t plane = (size_t)height * (size_t)width;
  for (int t = 0; t < used; t++) {
    const uint8_t *frame = clip->rgb + (size_t)index[t] * (size_t)clip->height * (size_t)clip->width * 3;
    bool again = t > 0 && index[t] == index[t - 1];
    if (!same && !again)
      ebb_frames_resize(frame, clip->height, clip->width, buffer, (int)h, (int)w);
    const uint8_t *rgb = same ? frame : buffer;
    for (int y = 0; y < height; y++)
      for (int x = 0; x < width; x++)
        for (int c = 0; c < 3; c++)
          video[((size_t)c * (size_t)used + (size_t)t) * plane + (size_t)y * (size_t)width + (size_t)x] =
              (float)rgb[((size_t)(y + top) * (size_t)w + (size_t)(x + left)) * 3 + (size_t)c] / 255.0f *
                  2.0f -
              1.0f;
  }
  free(index);
  free(buffer);
  return true;
}

bool ebb_frames_quantise(const float *video, int frames, int height, int width, ebb_clip *clip,
                         ebb_error *err) {
  const size_t plane = (size_t)height * (size_t)width, volume = (size_t)frames * plane;
  *clip = (ebb_clip){.frames = frames, .height = height, .width = width, .rgb = malloc(volume * 3)};
  if (!clip->rgb) {
    ebb_clip_free(clip);
    return ebb_fail(err, "no memory for %d frames of %dx%d", frames, width, height);
  }
  bool finite = true;
  for (size_t c = 0; c < 3; c++)
    for (size_t i = 0; i < volume; i++) {
      const float x = video[c * volume + i];
      if (!isfinite(x)) {
        finite = false;
        continue;
      }
      clip->rgb[i * 3 + c] = (uint8_t)(x <= -1.0f ? 0 : x >= 1.0f ? 255 : (int)((x + 1.0f) * 127.5f + 0.5f));
    }
  if (finite)
    return true;
  ebb_clip_free(clip);
  return ebb_fail(err, "decoded frames have values that are not finite");
}
