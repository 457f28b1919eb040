#include "loaders/video.h"
#include "loaders/video_ffmpeg.h"

#include "loaders/file.h"
#include "loaders/image.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool check_clip(const char *path, const ebb_clip *clip, ebb_error *err) {
  if (clip->frames >= 1 && clip->height >= 1 && clip->width >= 1 && clip->height <= EBB_IMAGE_SIDE_MAX &&
      clip->width <= EBB_IMAGE_SIDE_MAX)
    return true;
  return ebb_fail(err, "%s: a clip of %d frames of %dx%d cannot be written; sides are 1 to %d", path,
                  clip->frames, clip->width, clip->height, EBB_IMAGE_SIDE_MAX);
}

bool ebb_video_frames_write(const char *dir, const ebb_clip *clip, ebb_error *err) {
  if (!check_clip(dir, clip, err))
    return false;
  if (ebb_is_there(dir))
    return ebb_fail(err, "%s: is there already; frames go into a new folder", dir);
  char *partial = ebb_format("%s.partial", dir);
  bool ok = ebb_remove_folder(partial, err) && ebb_make_folders(partial, err);
  const size_t frame = (size_t)clip->height * (size_t)clip->width * 3;
  const int digits = clip->frames < 1000 ? 3 : snprintf(NULL, 0, "%d", clip->frames);
  for (int t = 0; ok && t < clip->frames; t++) {
    char *path = ebb_format("%s/frame_%0*d.png", partial, digits, t + 1);
    ok = ebb_image_write_png(path, clip->width, clip->height, clip->rgb + (size_t)t * frame, err);
    free(path);
  }
  if (ok && rename(partial, dir) != 0)
    ok = ebb_fail(err, "%s: cannot rename %s to it: %s", dir, partial, strerror(errno));
  if (!ok)
    ebb_remove_folder(partial, NULL);
  free(partial);
  return ok && ebb_sync_folder_of(dir, err);
}

#ifndef EBB_HAVE_FFMPEG

bool ebb_video_file_write(const char *path, const ebb_clip *clip, double fps, ebb_error *err) {
  (void)clip;
  (void)fps;
  return ebb_ffmpeg_absent(err, path, "writing mp4 files");
}

#else

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>

typedef struct writing {
  const char *path;
  ebb_error *err;
  ebb_file_writer file;
  AVIOContext *io;
  AVFormatContext *format;
  AVStream *stream;
  AVCodecContext *codec;
  struct SwsContext *convert;
  AVFrame *frame;
  AVPacket *packet;
} writing;

/* FFmpeg 7 made the bytes const. */
#if LIBAVFORMAT_VERSION_MAJOR >= 61
static int file_write(void *user, const uint8_t *data, int size) {
#else
static int file_write(void *user, uint8_t *data, int size) {
#endif
  const writing *w = user;
  return fwrite(data, 1, (size_t)size, w->file.stream) == (size_t)size ? size : AVERROR(errno ? errno : EIO);
}

static int64_t file_seek(void *user, int64_t offset, int whence) {
  const writing *w = user;
  if (whence & AVSEEK_SIZE)
    return AVERROR(ENOSYS);
  if (fseeko(w->file.stream, (off_t)offset, whence & ~AVSEEK_FORCE) != 0)
    return AVERROR(errno);
  return (int64_t)ftello(w->file.stream);
}

static bool codec_takes(const AVCodec *codec, enum AVPixelFormat format) {
  const enum AVPixelFormat *formats = NULL;
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(61, 13, 100)
  avcodec_get_supported_config(NULL, codec, AV_CODEC_CONFIG_PIX_FORMAT, 0, (const void **)&formats, NULL);
#else
  formats = codec->pix_fmts;
#endif
  while (formats && *formats != AV_PIX_FMT_NONE && *formats != format)
    formats++;
  return formats && *formats == format;
}

static bool open_encoder(writing *w, const ebb_clip *clip, AVRational rate) {
  const AVCodec *encoder = avcodec_find_encoder_by_name("libx264");
  const bool x264 = encoder != NULL;
  if (!encoder)
    encoder = avcodec_find_encoder(AV_CODEC_ID_MPEG4);
  if (!encoder)
    return ebb_fail(w->err,
                    "%s: this FFmpeg has neither libx264 nor an encoder for MPEG-4; PNG frames need none",
                    w->path);
  AVCodecContext *c = w->codec = avcodec_alloc_context3(encoder);
  if (!c)
    return ebb_fail(w->err, "%s: no memory for an encoder", w->path);
  const bool even = clip->width % 2 == 0 && clip->height % 2 == 0;
  c->width = clip->width;
  c->height = clip->height;
  c->pix_fmt = !even && codec_takes(encoder, AV_PIX_FMT_YUV444P) ? AV_PIX_FMT_YUV444P : AV_PIX_FMT_YUV420P;
  c->time_base = av_inv_q(rate);
  c->framerate = rate;
  c->color_range = AVCOL_RANGE_MPEG; /* as the converter below makes them */
  c->colorspace = AVCOL_SPC_SMPTE170M;
  c->thread_count = 1; /* x264 writes their number into the file */
  c->flags |= AV_CODEC_FLAG_BITEXACT;
  if (w->format->oformat->flags & AVFMT_GLOBALHEADER)
    c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  if (x264) {
    av_opt_set(c->priv_data, "crf", "10", 0);
    av_opt_set(c->priv_data, "preset", "medium", 0);
    /* x264's macroblock tree reads memory that nothing was written to (build 164, with assembly, small
     * frames) */
    av_opt_set(c->priv_data, "x264-params", "mbtree=0", 0);
  } else {
    c->flags |= AV_CODEC_FLAG_QSCALE;
    c->global_quality = FF_QP2LAMBDA; /* quantiser 1 */
  }
  int code = avcodec_open2(c, encoder, NULL);
  if (code >= 0)
    code = avcodec_parameters_from_context(w->stream->codecpar, c);
  return code >= 0 || ebb_ffmpeg_fail(w->err, w->path, "the encoder does not take these frames", code);
}

static bool open_output(writing *w, const ebb_clip *clip, AVRational rate) {
  uint8_t *buffer = av_malloc(1 << 16);
  w->io = buffer ? avio_alloc_context(buffer, 1 << 16, 1, w, NULL, file_write, file_seek) : NULL;
  if (!w->io)
    av_free(buffer);
  int code = avformat_alloc_output_context2(&w->format, NULL, "mp4", NULL);
  w->frame = av_frame_alloc();
  w->packet = av_packet_alloc();
  if (code < 0 || !w->io || !w->frame || !w->packet || !(w->stream = avformat_new_stream(w->format, NULL)))
    return ebb_fail(w->err, "%s: cannot make an mp4: no memory, or an FFmpeg without the format", w->path);
  w->format->pb = w->io;
  w->format->flags |= AVFMT_FLAG_BITEXACT; /* no version, no time of writing */
  if (!open_encoder(w, clip, rate))
    return false;
  w->stream->time_base = w->codec->time_base;
  w->stream->avg_frame_rate = rate;
  w->frame->format = w->codec->pix_fmt;
  w->frame->width = clip->width;
  w->frame->height = clip->height;
  w->frame->color_range = w->codec->color_range;
  w->frame->colorspace = w->codec->colorspace;
  w->convert = sws_getContext(clip->width, clip->height, AV_PIX_FMT_RGB24, clip->width, clip->height,
                              w->codec->pix_fmt, SWS_BICUBIC | SWS_ACCURATE_RND, NULL, NULL, NULL);
  if (!w->convert || av_frame_get_buffer(w->frame, 0) < 0)
    return ebb_fail(w->err, "%s: no memory to convert frames", w->path);
  code = avformat_write_header(w->format, NULL);
  return code >= 0 || ebb_ffmpeg_fail(w->err, w->path, "cannot be written", code);
}

/* One frame (NULL: the end) into the encoder, what comes out into the file. */
static bool encode(writing *w, const AVFrame *frame) {
  int code = avcodec_send_frame(w->codec, frame);
  while (code >= 0 && (code = avcodec_receive_packet(w->codec, w->packet)) >= 0) {
    if (w->packet->duration == 0)
      w->packet->duration = 1;
    av_packet_rescale_ts(w->packet, w->codec->time_base, w->stream->time_base);
    w->packet->stream_index = w->stream->index;
    code = av_interleaved_write_frame(w->format, w->packet);
  }
  return code == AVERROR(EAGAIN) || code == AVERROR_EOF ||
         ebb_ffmpeg_fail(w->err, w->path, "encoding failed", code);
}

static bool encode_clip(writing *w, const ebb_clip *clip) {
  const size_t frame = (size_t)clip->height * (size_t)clip->width * 3;
  for (int t = 0; t < clip->frames; t++) {
    const uint8_t *rgb[4] = {clip->rgb + (size_t)t * frame};
    const int stride[4] = {clip->width * 3};
    if (av_frame_make_writable(w->frame) < 0)
      return ebb_fail(w->err, "%s: no memory for a frame", w->path);
    sws_scale(w->convert, rgb, stride, 0, clip->height, w->frame->data, w->frame->linesize);
    w->frame->pts = t;
    if (!encode(w, w->frame))
      return false;
  }
  if (!encode(w, NULL))
    return false;
  int code = av_write_trailer(w->format);
  return code >= 0 || ebb_ffmpeg_fail(w->err, w->path, "cannot be written", code);
}

bool ebb_video_file_write(const char *path, const ebb_clip *clip, double fps, ebb_error *err) {
  if (!check_clip(path, clip, err))
    return false;
  if (!(fps > 0.0 && fps <= 1000.0))
    return ebb_fail(err, "%s: %g frames a second; expected more than 0 and at most 1000", path, fps);
  writing w = {.path = path, .err = err};
  ebb_ffmpeg_listen();
  if (!ebb_file_create(&w.file, path, err))
    return false;
  /* below a frame in 16 minutes the fraction would be 0 */
  AVRational rate = av_d2q(fps < 0.001 ? 0.001 : fps, 100000);
  bool ok = open_output(&w, clip, rate) && encode_clip(&w, clip);
  sws_freeContext(w.convert);
  avcodec_free_context(&w.codec);
  av_frame_free(&w.frame);
  av_packet_free(&w.packet);
  if (w.io) {
    avio_flush(w.io);
    if (ok && w.io->error < 0)
      ok = ebb_ffmpeg_fail(err, path, "cannot be written", w.io->error);
    av_freep(&w.io->buffer);
  }
  avio_context_free(&w.io);
  avformat_free_context(w.format);
  if (!ok) {
    ebb_file_abandon(&w.file);
    return false;
  }
  return ebb_file_commit(&w.file, err);
}

#endif
