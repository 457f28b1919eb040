/* What video_read.c and video_write.c share of FFmpeg: its log, kept from the terminal and heard for
 * messages. */
#ifndef EBB_LOADERS_VIDEO_FFMPEG_H
#define EBB_LOADERS_VIDEO_FFMPEG_H

#include "kernels/error.h"

#define EBB_FFMPEG_PACKAGES "libavformat-dev libavcodec-dev libavfilter-dev libswscale-dev libavutil-dev"

/* The failure of a build without FFmpeg. */
bool ebb_ffmpeg_absent(ebb_error *err, const char *name, const char *what);

/* Forgets what was heard. From here on FFmpeg prints nothing; the first complaint on this thread is kept. */
void ebb_ffmpeg_listen(void);
/* "NAME: WHAT: FFmpeg's words for `code` (what its log said first)"; code 0: without words. Returns false. */
bool ebb_ffmpeg_fail(ebb_error *err, const char *name, const char *what, int code);

#endif
