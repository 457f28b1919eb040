#include "loaders/video_ffmpeg.h"

#include "loaders/video.h"

bool ebb_ffmpeg_absent(ebb_error *err, const char *name, const char *what) {
  return ebb_fail(
      err,
      "%s: %s needs FFmpeg's libraries, and this ebb was built without them: install " EBB_FFMPEG_PACKAGES
      " and build again",
      name, what);
}

#ifndef EBB_HAVE_FFMPEG

bool ebb_video_supported(void) {
  return false;
}

#else

#include <libavutil/error.h>
#include <libavutil/log.h>
#include <pthread.h>
#include <string.h>

bool ebb_video_supported(void) {
  return true;
}

static _Thread_local char heard[256];

static void hear(void *from, int level, const char *format, va_list list) {
  if (level > AV_LOG_ERROR || heard[0])
    return;
  int prefix = 1;
  av_log_format_line2(from, level, format, list, heard, sizeof heard, &prefix);
  /* "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x5581...] words\n": the address tells nobody anything */
  const char *words = heard[0] == '[' ? strstr(heard, "] ") : NULL;
  if (words)
    memmove(heard, words + 2, strlen(words + 2) + 1);
  heard[strcspn(heard, "\r\n")] = '\0';
}

static void start_hearing(void) {
  av_log_set_callback(hear);
}

void ebb_ffmpeg_listen(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, start_hearing);
  heard[0] = '\0';
}

bool ebb_ffmpeg_fail(ebb_error *err, const char *name, const char *what, int code) {
  char words[AV_ERROR_MAX_STRING_SIZE] = "";
  if (code)
    av_strerror(code, words, sizeof words);
  return ebb_fail(err, "%s: %s%s%s%s%s%s", name, what, code ? ": " : "", words, heard[0] ? " (" : "", heard,
                  heard[0] ? ")" : "");
}

#endif
