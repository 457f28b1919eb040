/* Video files, both ways, through FFmpeg's libraries: frames of mp4 and other containers in, mp4 and PNG
 * frames out. A build without these libraries has every function; those that need them fail, naming the
 * packages. */
#ifndef EBB_LOADERS_VIDEO_H
#define EBB_LOADERS_VIDEO_H

#include "loaders/dataset.h"

#include <stddef.h>

/* Every frame of the video stream once, in order of presentation, 8-bit RGB: bit for bit what
 *   ffmpeg -i PATH -fps_mode passthrough -f rawvideo -pix_fmt rgb24 -
 * of the same FFmpeg writes, rotated as the file says. A variable frame rate is not evened out, sound is
 * ignored; of several video streams FFmpeg's choice is taken. The content decides what the file is, not its
 * name. One thread; only the file itself is opened, whatever it refers to. Errors, with *clip zeroed: not a
 * regular file; no video; truncated or damaged (how many frames were decoded of how many); frames that change
 * their size; a side over EBB_IMAGE_SIDE_MAX; more than EBB_CLIP_BYTES_MAX. */
bool ebb_video_file_read(const char *path, ebb_clip *clip, ebb_error *err);
/* The same of a file that lies in memory; `name` is for messages. */
bool ebb_video_memory_read(const char *name, const void *bytes, size_t count, ebb_clip *clip, ebb_error *err);

/* An mp4 of `fps` frames a second, above 0 and at most 1000, near lossless: H.264 by libx264 at crf 10, or,
 * where it is missing, MPEG-4 part 2 at its best quality; 4:2:0 when both sides are even, which every player
 * shows, else 4:4:4 where the codec has it. The bytes depend on clip, fps and the libraries alone. Written to
 * a temporary name, synced and renamed. */
bool ebb_video_file_write(const char *path, const ebb_clip *clip, double fps, ebb_error *err);
/* dir/frame_001.png, ...: exact. Needs no FFmpeg. The folder appears when it is complete; one that is there
 * already is an error. */
bool ebb_video_frames_write(const char *dir, const ebb_clip *clip, ebb_error *err);

/* Whether this build reads and writes video files. */
bool ebb_video_supported(void);

#endif
