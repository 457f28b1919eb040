/* Video files: frames equal to what the ffmpeg program decodes, byte for byte, for clips that it makes here;
 * files that are cut, damaged or no video; mp4 and PNG frames out. Without the program or the libraries those
 * tests are skipped. */
#include "loaders/file.h"
#include "loaders/image.h"
#include "loaders/video.h"
#include "tests/test_files.h"

#include <math.h>
#include <sys/stat.h>

static bool have_program;

static int begin(void **state) {
  have_program = system("ffmpeg -version >/dev/null 2>&1") == 0;
  if (!have_program)
    print_message("the ffmpeg program is missing (Debian: ffmpeg): comparisons with it are skipped\n");
  return folder_make(state);
}

#define NEEDS_FFMPEG()                                                                                       \
  if (!ebb_video_supported() || !have_program)                                                               \
  skip()

/* Runs ffmpeg in the test's folder with the arguments; whether it went well. */
__attribute__((format(printf, 1, 2))) static bool ffmpeg(const char *format, ...) {
  char arguments[1024], command[1400];
  va_list list;
  va_start(list, format);
  vsnprintf(arguments, sizeof arguments, format, list);
  va_end(list);
  snprintf(command, sizeof command, "cd '%s' && ffmpeg -nostdin -y -loglevel error %s 2>ffmpeg.log", folder,
           arguments);
  return system(command) == 0;
}

static void *whole(const char *path, size_t *bytes) {
  char *text;
  ebb_error err = {{0}};
  ebb_file_read(path, (size_t)1 << 30, &text, bytes, &err);
  assert_fine(&err);
  return text;
}

/* The clip is what ffmpeg says, read from the file and from memory. */
static void assert_equals_ffmpeg(const char *name, int frames, int height, int width) {
  ebb_error err = {{0}};
  ebb_clip clip = {0}, again = {0};
  const char *path = at(name);
  size_t bytes, file_bytes;
  assert_true(ffmpeg("-i %s -map 0:v:0 -fps_mode passthrough -f rawvideo -pix_fmt rgb24 raw.rgb", name));
  uint8_t *raw = whole(at("raw.rgb"), &bytes), *file = whole(path, &file_bytes);
  ebb_video_file_read(path, &clip, &err);
  assert_fine(&err);
  ebb_video_memory_read("memory", file, file_bytes, &again, &err);
  assert_fine(&err);
  if (clip.frames != frames || clip.height != height || clip.width != width)
    fail_msg("%s: %d frames of %dx%d, expected %d of %dx%d", name, clip.frames, clip.width, clip.height,
             frames, width, height);
  assert_int_equal(bytes, (size_t)frames * (size_t)height * (size_t)width * 3);
  for (size_t i = 0; i < bytes; i++)
    if (clip.rgb[i] != raw[i])
      fail_msg("%s: byte %zu of frame %zu is %d, ffmpeg has %d", name, i % (bytes / (size_t)frames),
               i / (bytes / (size_t)frames), clip.rgb[i], raw[i]);
  assert_int_equal(again.frames, frames);
  assert_memory_equal(again.rgb, raw, bytes);
  ebb_clip_free(&clip);
  ebb_clip_free(&again);
  free(raw);
  free(file);
}

static bool fails(const char *name, ebb_error *err) {
  ebb_clip clip = {.frames = 7};
  if (ebb_video_file_read(at(name), &clip, err)) {
    ebb_clip_free(&clip);
    return false;
  }
  assert_null(clip.rgb);
  assert_int_equal(clip.frames, 0);
  return true;
}

/* `part` of name's bytes as `to`. */
static void cut(const char *name, double part, const char *to) {
  size_t bytes;
  void *file = whole(at(name), &bytes);
  put(at(to), file, (size_t)((double)bytes * part));
  free(file);
}

/* Moving, detailed, with noise, so that B-frames, residuals and chroma all matter. */
#define SOURCE(size, frames)                                                                                 \
  "-f lavfi -i testsrc2=s=" size ":r=25,format=yuv444p,noise=alls=12:all_seed=5 -frames:v " #frames " "
#define X264 "-c:v libx264 -bf 3 -g 12 "

/* ---- reading ----------------------------------------------------------------------------------------- */

static void equals_ffmpeg(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  static const struct {
    const char *name, *arguments;
    int frames, height, width;
  } clips[] = {
      {"b.mp4", SOURCE("96x64", 40) X264 "-pix_fmt yuv420p", 40, 64, 96},
      {"tail.mp4", SOURCE("96x64", 2) X264 "-pix_fmt yuv420p", 2, 64, 96},
      {"single.mp4", SOURCE("96x64", 1) X264 "-pix_fmt yuv420p", 1, 64, 96},
      {"odd444.mp4", SOURCE("97x63", 20) X264 "-pix_fmt yuv444p", 20, 63, 97},
      {"oddhigh.mkv", SOURCE("96x63", 9) "-c:v ffv1 -pix_fmt yuv420p", 9, 63, 96},
      {"oddboth.mp4", SOURCE("97x63", 20) "-c:v mpeg4 -bf 2 -q:v 3", 20, 63, 97},
      {"422.mp4", SOURCE("96x64", 12) X264 "-pix_fmt yuv422p", 12, 64, 96},
      {"deep.mp4", SOURCE("96x64", 12) X264 "-pix_fmt yuv420p10le", 12, 64, 96},
      {"full.mp4", SOURCE("96x64", 12) X264 "-vf scale=out_range=full -pix_fmt yuvj420p", 12, 64, 96},
      {"bt709.mp4",
       SOURCE("96x64", 12) X264 "-pix_fmt yuv420p -colorspace bt709 -color_primaries bt709 -color_trc bt709",
       12, 64, 96},
      {"interlaced.mp4", SOURCE("96x64", 12) X264 "-pix_fmt yuv420p -flags +ilme+ildct", 12, 64, 96},
      {"grey.mkv", SOURCE("96x64", 5) "-c:v ffv1 -pix_fmt gray", 5, 64, 96},
      {"rgb.mkv", SOURCE("97x63", 5) "-c:v ffv1 -pix_fmt bgr0", 5, 63, 97},
      {"vfr.mp4",
       SOURCE("96x64", 30) X264
       "-pix_fmt yuv420p -vf 'select=not(eq(mod(n\\,3)\\,1))*not(between(n\\,8\\,19))' "
       "-fps_mode vfr",
       30, 64, 96},
      {"vfr.avi",
       SOURCE("96x64", 30) "-c:v mpeg4 -q:v 3 -vf 'select=not(eq(mod(n\\,3)\\,1))*not(between(n\\,8\\,19))' "
                           "-fps_mode vfr",
       30, 64, 96},
      {"sound.mp4",
       "-f lavfi -i sine=f=440:d=2 " SOURCE("96x64", 25) X264 "-pix_fmt yuv420p -c:a aac -shortest", 25, 64,
       96},
      {"pieces.mp4", SOURCE("96x64", 40) X264 "-pix_fmt yuv420p -movflags frag_keyframe+empty_moov", 40, 64,
       96},
      {"front.mp4", SOURCE("96x64", 40) X264 "-pix_fmt yuv420p -movflags +faststart", 40, 64, 96},
      {"old.avi", SOURCE("96x64", 25) "-c:v mpeg4 -bf 2 -q:v 3", 25, 64, 96},
      {"stream.ts", SOURCE("96x64", 25) X264 "-pix_fmt yuv420p", 25, 64, 96},
      {"photo.mov", SOURCE("96x64", 6) "-c:v mjpeg -q:v 3 -pix_fmt yuvj422p", 6, 64, 96},
      {"few.gif", SOURCE("64x48", 6), 6, 48, 64},
  };
  for (size_t i = 0; i < sizeof clips / sizeof *clips; i++) {
    if (!ffmpeg("%s '%s'", clips[i].arguments, clips[i].name)) {
      size_t bytes;
      char *log = whole(at("ffmpeg.log"), &bytes);
      if (!strstr(log, "Unknown encoder"))
        fail_msg("%s: %s", clips[i].name, log);
      print_message("%s is skipped: %s", clips[i].name, log);
      free(log);
      continue;
    }
    assert_equals_ffmpeg(clips[i].name, clips[i].frames, clips[i].height, clips[i].width);
  }
}

/* Hidden reference frames of VP9 are packets without a frame of their own. */
static void vp9_shows_what_is_shown(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  if (!ffmpeg(SOURCE("96x64", 30) "-c:v libvpx-vp9 -b:v 200k -auto-alt-ref 1 -lag-in-frames 16 vp9.webm"))
    skip();
  assert_equals_ffmpeg("vp9.webm", 30, 64, 96);
}

/* Copied from a place between two key frames: an edit list hides what comes before it. */
static void edit_list_hides_frames(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  assert_true(ffmpeg(SOURCE("96x64", 40) X264 "-pix_fmt yuv420p whole.mp4"));
  assert_true(ffmpeg("-ss 0.7 -i whole.mp4 -c copy edited.mp4"));
  size_t bytes;
  assert_true(ffmpeg("-i edited.mp4 -fps_mode passthrough -f rawvideo -pix_fmt rgb24 edited.rgb"));
  free(whole(at("edited.rgb"), &bytes));
  const int frames = (int)(bytes / (96 * 64 * 3));
  assert_in_range(frames, 15, 24); /* the packets go back to the key frame at 24 or 12 */
  assert_equals_ffmpeg("edited.mp4", frames, 64, 96);
}

static void rotation_is_applied(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  static const int angles[] = {90, 180, 270};
  assert_true(ffmpeg(SOURCE("96x64", 12) X264 "-pix_fmt yuv420p upright.mp4"));
  for (int i = 0; i < 3; i++) { /* the option since FFmpeg 6, the metadata before it */
    if (!ffmpeg("-display_rotation:v:0 %d -i upright.mp4 -c copy turned.mp4", angles[i]))
      assert_true(ffmpeg("-i upright.mp4 -c copy -metadata:s:v:0 rotate=%d turned.mp4", angles[i]));
    const bool across = angles[i] != 180;
    assert_equals_ffmpeg("turned.mp4", 12, across ? 96 : 64, across ? 64 : 96);
  }
}

/* ---- what is broken ---------------------------------------------------------------------------------- */

static void truncated_says_how_far(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  ebb_error err = {{0}};
  assert_true(ffmpeg(SOURCE("96x64", 40) X264 "-pix_fmt yuv420p -movflags +faststart front.mp4"));
  int least = 0;
  for (int percent = 30; percent < 100; percent += 6) {
    int got = -1, all = -1;
    cut("front.mp4", percent / 100.0, "cut.mp4");
    assert_true(fails("cut.mp4", &err));
    const char *words = strstr(err.text, "truncated");
    const char *count = words ? strchr(words, ';') : NULL;
    if (!count || sscanf(count, "; %d of %d frames were decoded", &got, &all) != 2 || all != 40 ||
        got < least || got >= 40)
      fail_msg("cut at %d%%: %s", percent, err.text);
    least = got;
    err.text[0] = '\0';
  }
  assert_in_range(least, 20, 39);
}

static void truncated_in_other_containers(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  static const char *names[] = {"whole.mp4", "whole.avi", "whole.mkv", "pieces.mp4"};
  ebb_error err = {{0}};
  assert_true(ffmpeg(SOURCE("96x64", 40) X264 "-pix_fmt yuv420p whole.mp4"));
  assert_true(ffmpeg("-i whole.mp4 -c copy whole.avi"));
  assert_true(ffmpeg("-i whole.mp4 -c copy whole.mkv"));
  assert_true(ffmpeg("-i whole.mp4 -c copy -movflags frag_keyframe+empty_moov pieces.mp4"));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    cut(names[i], 0.6, "cut");
    if (!fails("cut", &err))
      fail_msg("%s cut in the middle was read", names[i]);
    assert_non_null(strstr(err.text, i == 0 ? "moov atom not found" : "frames were decoded"));
    err.text[0] = '\0';
  }
}

/* Between two chunks nothing but the header's size tells that something is missing. */
static void avi_cut_between_frames(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  ebb_error err = {{0}};
  size_t bytes, end = 0;
  assert_true(ffmpeg(SOURCE("96x64", 20) "-c:v mpeg4 -q:v 3 whole.avi"));
  uint8_t *file = whole(at("whole.avi"), &bytes);
  for (size_t i = bytes / 2; !end && i + 4 < bytes; i++)
    if (memcmp(file + i, "00dc", 4) == 0)
      end = i;
  assert_true(end > 0);
  put(at("cut.avi"), file, end);
  free(file);
  assert_true(fails("cut.avi", &err));
  assert_non_null(strstr(err.text, "of 20 frames were decoded"));
  assert_says(&err, "truncated");
}

/* H.264 has no checksums: what still decodes cannot be found. Most of such damage does not. */
static void damage_is_told(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  size_t bytes;
  int told = 0;
  uint32_t random = 7;
  assert_true(ffmpeg(SOURCE("96x64", 40) X264 "-pix_fmt yuv420p -movflags +faststart front.mp4"));
  uint8_t *file = whole(at("front.mp4"), &bytes), *copy = malloc(bytes);
  for (int trial = 0; trial < 20; trial++) {
    memcpy(copy, file, bytes);
    const size_t from = bytes / 10 + bytes / 25 * (size_t)trial;
    for (size_t i = from; i < from + 12; i++) {
      random = random * 1664525u + 1013904223u;
      copy[i] = (uint8_t)(random >> 24);
    }
    ebb_error err = {{0}};
    ebb_clip clip;
    if (!ebb_video_memory_read("damaged", copy, bytes, &clip, &err) &&
        strstr(err.text, "of 40 frames were decoded"))
      told++;
    ebb_clip_free(&clip);
  }
  free(file);
  free(copy);
  assert_in_range(told, 10, 20);
}

static void not_a_video(void **state) {
  (void)state;
  if (!ebb_video_supported())
    skip();
  ebb_error err = {{0}};
  ebb_clip clip;
  put(at("empty.mp4"), "", 0);
  put_text(at("text.mp4"), "This is a letter, not a film.\n");
  put_text(at("list.m3u8"),
           "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://localhost/a.ts\n#EXT-X-ENDLIST\n");
  put_text(at("concat.txt"), "ffconcat version 1.0\nfile '/etc/passwd'\n");
  assert_true(fails("empty.mp4", &err));
  assert_says(&err, "empty file");
  assert_true(fails("text.mp4", &err));
  assert_says(&err, "not a video");
  assert_true(fails("list.m3u8", &err));
  assert_says(&err, "not a video");
  assert_true(fails("concat.txt", &err));
  assert_says(&err, "not a video");
  assert_true(fails("missing.mp4", &err));
  assert_says(&err, "cannot open");
  assert_false(ebb_video_file_read(folder, &clip, &err));
  assert_says(&err, "not a regular file");
  assert_false(ebb_video_memory_read("bytes", "abcdef", 6, &clip, &err));
  assert_says(&err, "bytes: not a video");
  assert_false(ebb_video_memory_read("bytes", NULL, 0, &clip, &err));
  assert_says(&err, "empty");
  assert_int_equal(mkfifo(at("pipe.mp4"), 0600), 0);
  assert_true(fails("pipe.mp4", &err));
  assert_says(&err, "not a regular file");
}

static void sound_alone_is_no_video(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  ebb_error err = {{0}};
  assert_true(ffmpeg("-f lavfi -i sine=f=440:d=1 -c:a aac sound.mp4"));
  assert_true(fails("sound.mp4", &err));
  assert_says(&err, "no video in it");
}

static void change_of_size_is_an_error(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  ebb_error err = {{0}};
  assert_true(ffmpeg(SOURCE("96x64", 5) X264 "-pix_fmt yuv420p -f h264 first.h264"));
  assert_true(ffmpeg(SOURCE("64x64", 5) X264 "-pix_fmt yuv420p -f h264 second.h264"));
  char command[400];
  snprintf(command, sizeof command, "cd '%s' && cat first.h264 second.h264 >both.h264", folder);
  assert_int_equal(system(command), 0);
  assert_true(fails("both.h264", &err));
  assert_says(&err, "frame 6 is coded with 64x64 pixels (width x height), those before with 96x64");
}

static void sides_have_a_limit(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  ebb_error err = {{0}};
  assert_true(ffmpeg("-f lavfi -i color=s=16400x16 -frames:v 1 -c:v ffv1 wide.mkv"));
  assert_true(fails("wide.mkv", &err));
  assert_says(&err, "frames of 16400x16; sides are 1 to 16384");
}

/* Whatever is done to the bytes: frames or an error, nothing else (the sanitizers look on). */
static void hostile_bytes_do_no_harm(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  static const char *names[] = {"small.mp4", "small.mkv", "small.avi"};
  size_t bytes;
  for (int n = 0; n < 3; n++) {
    assert_true(ffmpeg(SOURCE("32x32", 8) "-c:v %s '%s'", n == 2 ? "mpeg4" : "libx264 -bf 3 -pix_fmt yuv420p",
                       names[n]));
    uint8_t *file = whole(at(names[n]), &bytes), *copy = malloc(bytes);
    uint32_t random = 12345;
    for (int trial = 0; trial < 150; trial++) {
      memcpy(copy, file, bytes);
      for (int k = 0; k < 1 + trial % 8; k++) {
        random = random * 1664525u + 1013904223u;
        copy[(random >> 8) % bytes] = (uint8_t)(random >> 3);
      }
      ebb_clip clip;
      ebb_error err = {{0}};
      if (ebb_video_memory_read("hostile", copy, bytes, &clip, &err))
        assert_true(clip.frames > 0 && clip.rgb != NULL);
      else
        assert_true(err.text[0] != '\0' && clip.rgb == NULL);
      ebb_clip_free(&clip);
    }
    free(file);
    free(copy);
  }
}

/* ---- writing ----------------------------------------------------------------------------------------- */

/* Smooth in space and time, as decoded latents are. */
static ebb_clip make_clip(int frames, int height, int width) {
  ebb_clip clip = {frames, height, width, malloc((size_t)frames * (size_t)height * (size_t)width * 3)};
  uint8_t *p = clip.rgb;
  for (int t = 0; t < frames; t++)
    for (int y = 0; y < height; y++)
      for (int x = 0; x < width; x++)
        for (int c = 0; c < 3; c++)
          *p++ = (uint8_t)(128.0 + 90.0 * sin(0.11 * x + 0.3 * t + c) * cos(0.13 * y - 0.2 * t));
  return clip;
}

static void mp4_there_and_back(void **state) {
  (void)state;
  if (!ebb_video_supported())
    skip();
  static const int sizes[][3] = {{17, 64, 96}, {5, 63, 97}, {1, 16, 16}, {9, 2, 2}};
  for (int i = 0; i < 4; i++) {
    ebb_error err = {{0}};
    ebb_clip clip = make_clip(sizes[i][0], sizes[i][1], sizes[i][2]), back = {0};
    ebb_video_file_write(at("out.mp4"), &clip, 8.0, &err);
    assert_fine(&err);
    ebb_video_file_read(at("out.mp4"), &back, &err);
    assert_fine(&err);
    assert_int_equal(back.frames, clip.frames);
    assert_int_equal(back.height, clip.height);
    assert_int_equal(back.width, clip.width);
    double sum = 0.0;
    const size_t n = (size_t)clip.frames * (size_t)clip.height * (size_t)clip.width * 3;
    for (size_t k = 0; k < n; k++)
      sum += ((double)clip.rgb[k] - back.rgb[k]) * ((double)clip.rgb[k] - back.rgb[k]);
    const double psnr = 10.0 * log10(255.0 * 255.0 / (sum / (double)n + 1e-9));
    if (psnr < (i == 3 ? 20.0 : 36.0)) /* of 2x2 pixels one chroma sample is left */
      fail_msg("%dx%d came back with %.2f dB", clip.width, clip.height, psnr);
    ebb_clip_free(&clip);
    ebb_clip_free(&back);
  }
}

static void mp4_is_the_same_bytes_again(void **state) {
  (void)state;
  if (!ebb_video_supported())
    skip();
  ebb_error err = {{0}};
  ebb_clip clip = make_clip(17, 64, 96);
  char a[65], b[65];
  assert_true(ebb_video_file_write(at("a.mp4"), &clip, 16.0, &err));
  assert_true(ebb_video_file_write(at("b.mp4"), &clip, 16.0, &err));
  assert_true(ebb_file_sha256(at("a.mp4"), a, &err) && ebb_file_sha256(at("b.mp4"), b, &err));
  assert_string_equal(a, b);
  ebb_clip_free(&clip);
}

static void mp4_says_its_rate(void **state) {
  (void)state;
  NEEDS_FFMPEG();
  ebb_error err = {{0}};
  ebb_clip clip = make_clip(15, 32, 32);
  assert_true(ebb_video_file_write(at("rate.mp4"), &clip, 29.97, &err));
  char command[400], words[128] = "";
  snprintf(command, sizeof command,
           "ffprobe -v error -select_streams v -show_entries stream=r_frame_rate,nb_frames,duration -of "
           "csv=p=0 '%s'",
           at("rate.mp4"));
  FILE *p = popen(command, "r");
  assert_non_null(p);
  assert_non_null(fgets(words, sizeof words, p));
  pclose(p);
  double duration;
  int above, below, frames;
  assert_int_equal(sscanf(words, "%d/%d,%lf,%d", &above, &below, &duration, &frames), 4);
  assert_true(fabs((double)above / below - 29.97) < 1e-3);
  assert_true(fabs(duration - 15 / 29.97) < 1e-3);
  assert_int_equal(frames, 15);
  ebb_clip_free(&clip);
}

static void mp4_that_cannot_be_written(void **state) {
  (void)state;
  if (!ebb_video_supported())
    skip();
  ebb_error err = {{0}};
  ebb_clip clip = make_clip(3, 16, 16), none = {0};
  const int files = files_in(folder);
  assert_false(ebb_video_file_write(at("x.mp4"), &none, 8.0, &err));
  assert_says(&err, "0 frames");
  assert_false(ebb_video_file_write(at("x.mp4"), &clip, 0.0, &err));
  assert_says(&err, "0 frames a second");
  assert_false(ebb_video_file_write(at("x.mp4"), &clip, NAN, &err));
  assert_says(&err, "frames a second");
  assert_false(ebb_video_file_write(at("absent/x.mp4"), &clip, 8.0, &err));
  assert_says(&err, "absent/x.mp4");
  assert_false(ebb_is_there(at("x.mp4")));
  assert_int_equal(files_in(folder), files);
  ebb_clip_free(&clip);
}

static void frames_are_exact(void **state) {
  (void)state;
  ebb_error err = {{0}};
  ebb_clip clip = make_clip(12, 15, 21);
  assert_true(ebb_video_frames_write(at("frames"), &clip, &err));
  assert_int_equal(files_in(at("frames")), 12);
  for (int t = 0; t < 12; t++) {
    ebb_image image;
    char name[40];
    snprintf(name, sizeof name, "frames/frame_%03d.png", t + 1);
    assert_true(ebb_image_read(at(name), &image, &err));
    assert_int_equal(image.width, 21);
    assert_memory_equal(image.pixels, clip.rgb + t * 15 * 21 * 3, 15 * 21 * 3);
    ebb_image_free(&image);
  }
  assert_false(ebb_video_frames_write(at("frames"), &clip, &err));
  assert_says(&err, "is there already");
  put_text(at("plain"), "");
  assert_false(ebb_video_frames_write(at("plain/frames"), &clip, &err));
  assert_true(err.text[0] != '\0');
  ebb_clip_free(&clip);
}

static void absence_names_the_packages(void **state) {
  (void)state;
  if (ebb_video_supported())
    skip();
  ebb_error err = {{0}};
  ebb_clip clip = make_clip(3, 16, 16), read = {.frames = 1};
  assert_false(ebb_video_file_read(at("x.mp4"), &read, &err));
  assert_int_equal(read.frames, 0);
  assert_says(&err, "libavformat-dev");
  assert_false(ebb_video_memory_read("x.mp4", "abc", 3, &read, &err));
  assert_says(&err, "libavformat-dev");
  assert_false(ebb_video_file_write(at("x.mp4"), &clip, 8.0, &err));
  assert_says(&err, "libavformat-dev");
  ebb_clip_free(&clip);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equals_ffmpeg),
      cmocka_unit_test(vp9_shows_what_is_shown),
      cmocka_unit_test(edit_list_hides_frames),
      cmocka_unit_test(rotation_is_applied),
      cmocka_unit_test(truncated_says_how_far),
      cmocka_unit_test(truncated_in_other_containers),
      cmocka_unit_test(avi_cut_between_frames),
      cmocka_unit_test(damage_is_told),
      cmocka_unit_test(not_a_video),
      cmocka_unit_test(sound_alone_is_no_video),
      cmocka_unit_test(change_of_size_is_an_error),
      cmocka_unit_test(sides_have_a_limit),
      cmocka_unit_test(hostile_bytes_do_no_harm),
      cmocka_unit_test(mp4_there_and_back),
      cmocka_unit_test(mp4_is_the_same_bytes_again),
      cmocka_unit_test(mp4_says_its_rate),
      cmocka_unit_test(mp4_that_cannot_be_written),
      cmocka_unit_test(frames_are_exact),
      cmocka_unit_test(absence_names_the_packages),
  };
  return cmocka_run_group_tests(tests, begin, folder_remove);
}
