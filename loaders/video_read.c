#include "loaders/video.h"
#include "loaders/video_ffmpeg.h"

#ifndef EBB_HAVE_FFMPEG

bool ebb_video_file_read(const char *path, ebb_clip *clip, ebb_error *err) {
  *clip = (ebb_clip){0};
  return ebb_ffmpeg_absent(err, path, "reading video files");
}

bool ebb_video_memory_read(const char *name, const void *bytes, size_t count, ebb_clip *clip,
                           ebb_error *err) {
  (void)bytes;
  (void)count;
  *clip = (ebb_clip){0};
  return ebb_ffmpeg_absent(err, name, "reading video files");
}

#else

#include "loaders/file.h"
#include "loaders/image.h"

#include <errno.h>
#include <fcntl.h>
#include <libavcodec/avcodec.h>
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Containers that hold their video themselves. FFmpeg knows more: lists of other files and addresses,
 * terminal recordings, subtitles; none of them is looked at. */
static const char containers[] = "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,gif,apng,h264,hevc,"
                                 "av1,obu,ivf,yuv4mpegpipe,nut,mxf,dv,rm";

/* Where the bytes are: an open file, or memory when fd < 0. */
typedef struct source {
  int fd;
  const uint8_t *bytes;
  int64_t at, size;
} source;

typedef struct reading {
  const char *name;
  ebb_error *err;
  source from;
  AVIOContext *io;
  AVFormatContext *format;
  AVStream *stream;
  AVCodecContext *codec;
  AVFilterGraph *graph;
  AVFilterContext *in, *out;
  AVPacket *packet;
  AVFrame *frame, *rgb;
  int width, height, pixel_format; /* of the decoded frames that `graph` was made for */
  int64_t packets;                 /* of the stream, so far */
  ebb_clip *clip;
  size_t room; /* bytes of clip->rgb */
} reading;

/* ---- bytes ------------------------------------------------------------------------------------------- */

static int source_read(void *user, uint8_t *to, int size) {
  source *s = user;
  int64_t left = s->size - s->at, n = size < left ? size : left;
  if (n <= 0)
    return AVERROR_EOF;
  if (s->fd < 0) {
    memcpy(to, s->bytes + s->at, (size_t)n);
  } else {
    do
      n = pread(s->fd, to, (size_t)n, (off_t)s->at);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
      return n < 0 ? AVERROR(errno) : AVERROR_EOF;
  }
  s->at += n;
  return (int)n;
}

static int64_t source_seek(void *user, int64_t offset, int whence) {
  source *s = user;
  if (whence == AVSEEK_SIZE)
    return s->size;
  switch (whence & ~AVSEEK_FORCE) {
  case SEEK_CUR:
    offset += s->at;
    break;
  case SEEK_END:
    offset += s->size;
    break;
  default:
    break;
  }
  if (offset < 0)
    return AVERROR(EINVAL);
  return s->at = offset;
}

/* A container that asks for another file or an address does not get it. */
static int refuse_to_open(AVFormatContext *format, AVIOContext **io, const char *url, int flags,
                          AVDictionary **options) {
  (void)format;
  (void)io;
  (void)url;
  (void)flags;
  (void)options;
  return AVERROR(EPERM);
}

/* ---- what is expected -------------------------------------------------------------------------------- */

/* Packets that the container says it holds of the stream, -1: it does not say. The index of mov and mp4 is
 * complete when the file is open, or, of fragmented files, when it was read. *shown: without those that an
 * edit list hides. */
static int64_t packets_expected(const reading *r, int64_t *shown) {
  int64_t n = -1;
  *shown = -1;
  if (strstr(r->format->iformat->name, "mp4")) {
    n = *shown = avformat_index_get_entries_count(r->stream);
    for (int i = 0; i < n; i++) {
      const AVIndexEntry *entry = avformat_index_get_entry(r->stream, i);
      *shown -= entry && entry->flags & AVINDEX_DISCARD_FRAME ? 1 : 0;
    }
  } else if (r->stream->nb_frames > 0) {
    n = *shown = r->stream->nb_frames;
  }
  return n;
}

/* An EBML number of up to 8 bytes at s->at, which moves on; with `id` its length marker stays part of it. -1:
 * none. */
static int64_t ebml_number(source *s, bool id) {
  uint8_t b[8];
  if (source_read(s, b, 1) != 1 || b[0] == 0)
    return -1;
  int more = 0;
  while (!(b[0] & 0x80 >> more))
    more++;
  if (more > 0 && source_read(s, b + 1, more) != more)
    return -1;
  int64_t n = id ? b[0] : b[0] & (0x7f >> more);
  bool all_ones = n == 0x7f >> more;
  for (int i = 1; i <= more; i++) {
    n = n << 8 | b[i];
    all_ones = all_ones && b[i] == 0xff;
  }
  return all_ones && !id ? -1 : n; /* all ones: of unknown size, as live recordings are */
}

/* FFmpeg takes the end of a Matroska file wherever it comes; the file says where its segment should end. */
static bool matroska_is_short(source s) {
  s.at = 0;
  for (;;) {
    const int64_t id = ebml_number(&s, true), size = id < 0 ? -1 : ebml_number(&s, false);
    if (size < 0)
      return false;
    if (id == 0x18538067)
      return size > s.size - s.at;
    s.at += size; /* at most 2^56 */
    if (s.at > s.size)
      return false;
  }
}

/* AVI counts frames, but those too that stand for "as before" and have no packet: what its first chunk says of the file's
 * size tells better. */
static bool avi_is_short(source s) {
  uint8_t head[8];
  s.at = 0;
  if (source_read(&s, head, 8) != 8)
    return true;
  const uint32_t size =
      (uint32_t)head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16 | (uint32_t)head[7] << 24;
  return (int64_t)size > s.size - s.at;
}

/* The failure of a file that is a video, but not whole. */
static bool broken(reading *r, const char *what, int code) {
  int64_t shown;
  char text[160], of[48] = "";
  packets_expected(r, &shown);
  if (shown > 0)
    snprintf(of, sizeof of, " of %lld", (long long)shown);
  snprintf(text, sizeof text, "%s; %d%s frames were decoded", what, r->clip->frames, of);
  return ebb_ffmpeg_fail(r->err, r->name, text, code);
}

/* ---- to RGB ------------------------------------------------------------------------------------------ */

static const int32_t *display_matrix(const reading *r) {
  const AVFrameSideData *own = av_frame_get_side_data(r->frame, AV_FRAME_DATA_DISPLAYMATRIX);
  if (own && own->size >= 9 * sizeof(int32_t))
    return (const int32_t *)own->data;
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 30, 100)
  const AVPacketSideData *data =
      av_packet_side_data_get(r->stream->codecpar->coded_side_data, r->stream->codecpar->nb_coded_side_data,
                              AV_PKT_DATA_DISPLAYMATRIX);
  return data && data->size >= 9 * sizeof(int32_t) ? (const int32_t *)data->data : NULL;
#else
  size_t size = 0;
  const uint8_t *data = av_stream_get_side_data(r->stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  return data && size >= 9 * sizeof(int32_t) ? (const int32_t *)data : NULL;
#endif
}

/* The filters by which ffmpeg (fftools) turns frames upright: before the conversion to RGB, since the order
 * decides roundings. */
static void upright(const int32_t *m, char *filters, size_t size) {
  filters[0] = '\0';
  if (!m)
    return;
  double theta = -round(av_display_rotation_get(m));
  if (!isfinite(theta))
    return;
  theta -= 360 * floor(theta / 360 + 0.9 / 360);
  if (fabs(theta - 90) < 1.0)
    snprintf(filters, size, "transpose=%s,", m[3] > 0 ? "cclock_flip" : "clock");
  else if (fabs(theta - 180) < 1.0)
    snprintf(filters, size, "%s%s", m[0] < 0 ? "hflip," : "", m[4] < 0 ? "vflip," : "");
  else if (fabs(theta - 270) < 1.0)
    snprintf(filters, size, "transpose=%s,", m[3] < 0 ? "clock_flip" : "cclock");
  else if (fabs(theta) > 1.0)
    snprintf(filters, size, "rotate=%f*PI/180,", theta);
  else if (m[4] < 0)
    snprintf(filters, size, "vflip,");
}

/* The graph for frames like r->frame, as fftools makes it: the conversion is the scaler that negotiation puts
 * in. */
static bool make_graph(reading *r) {
  const AVFrame *f = r->frame;
  const AVRational base = r->stream->time_base;
  char turn[64], text[160];
  avfilter_graph_free(&r->graph);
  r->graph = avfilter_graph_alloc();
  AVBufferSrcParameters *p = av_buffersrc_parameters_alloc();
  if (!r->graph || !p) {
    av_free(p);
    return ebb_fail(r->err, "%s: no memory for a conversion to RGB", r->name);
  }
  r->graph->nb_threads = 1;
  r->graph->scale_sws_opts = av_strdup("flags=bicubic");
  *p = (AVBufferSrcParameters){.format = f->format,
                               .time_base = base.num > 0 && base.den > 0 ? base : (AVRational){1, 1000},
                               .width = f->width,
                               .height = f->height,
                               .sample_aspect_ratio = f->sample_aspect_ratio};
#if LIBAVFILTER_VERSION_MAJOR >= 10
  p->color_space = f->colorspace;
  p->color_range = f->color_range;
#endif
  r->in = avfilter_graph_alloc_filter(r->graph, avfilter_get_by_name("buffer"), "in");
  int code = r->in ? av_buffersrc_parameters_set(r->in, p) : AVERROR(ENOMEM);
  av_free(p);
  if (code >= 0)
    code = avfilter_init_str(r->in, NULL);
  if (code >= 0)
    code = avfilter_graph_create_filter(&r->out, avfilter_get_by_name("buffersink"), "out", NULL, NULL,
                                        r->graph);
  upright(display_matrix(r), turn, sizeof turn);
  snprintf(text, sizeof text, "[in]%sformat=pix_fmts=rgb24[out]", turn);
  AVFilterInOut *inputs = avfilter_inout_alloc(), *outputs = avfilter_inout_alloc();
  if (code >= 0 && inputs && outputs) {
    *outputs = (AVFilterInOut){.name = av_strdup("in"), .filter_ctx = r->in};
    *inputs = (AVFilterInOut){.name = av_strdup("out"), .filter_ctx = r->out};
    code = avfilter_graph_parse_ptr(r->graph, text, &inputs, &outputs, NULL);
  }
  avfilter_inout_free(&inputs);
  avfilter_inout_free(&outputs);
  if (code >= 0)
    code = avfilter_graph_config(r->graph, NULL);
  r->width = f->width;
  r->height = f->height;
  r->pixel_format = f->format;
  return code >= 0 || ebb_ffmpeg_fail(r->err, r->name, "the frames cannot be converted to RGB", code);
}

/* Room for `frames` frames of r->clip's size, kept within the limit. */
static bool make_room(reading *r, int64_t frames) {
  const size_t frame = (size_t)r->clip->height * (size_t)r->clip->width * 3;
  if ((uint64_t)frames > EBB_CLIP_BYTES_MAX / frame)
    return ebb_fail(r->err, "%s: more than %lld frames of %dx%d: a clip may take %llu bytes", r->name,
                    (long long)(frames - 1), r->clip->width, r->clip->height,
                    (unsigned long long)EBB_CLIP_BYTES_MAX);
  if ((size_t)frames * frame <= r->room)
    return true;
  uint64_t want = r->room + r->room / 2; /* whatever the container promises: what is there decides */
  want = want > (uint64_t)frames * frame ? want : (uint64_t)frames * frame;
  want = want < EBB_CLIP_BYTES_MAX ? want : EBB_CLIP_BYTES_MAX;
  uint8_t *grown = realloc(r->clip->rgb, want);
  if (!grown)
    return ebb_fail(r->err, "%s: no memory for %lld frames of %dx%d", r->name, (long long)frames,
                    r->clip->width, r->clip->height);
  r->clip->rgb = grown;
  r->room = want;
  return true;
}

static bool append(reading *r) {
  ebb_clip *clip = r->clip;
  const AVFrame *f = r->rgb;
  if (clip->frames == 0) {
    if (f->width < 1 || f->height < 1 || f->width > EBB_IMAGE_SIDE_MAX || f->height > EBB_IMAGE_SIDE_MAX)
      return ebb_fail(r->err, "%s: frames of %dx%d; sides are 1 to %d", r->name, f->width, f->height,
                      EBB_IMAGE_SIDE_MAX);
    clip->width = f->width;
    clip->height = f->height;
  }
  if (f->width != clip->width || f->height != clip->height)
    return ebb_fail(r->err, "%s: frame %d has %dx%d pixels (width x height), but frame 1 has %dx%d", r->name,
                    clip->frames + 1, f->width, f->height, clip->width, clip->height);
  if (!make_room(r, (int64_t)clip->frames + 1))
    return false;
  const size_t row = (size_t)clip->width * 3;
  uint8_t *to = clip->rgb + (size_t)clip->frames * (size_t)clip->height * row;
  for (int y = 0; y < clip->height; y++)
    memcpy(to + (size_t)y * row, f->data[0] + (ptrdiff_t)y * f->linesize[0], row);
  clip->frames++;
  return true;
}

/* r->frame through the graph to the clip. */
static bool take_frame(reading *r) {
  const AVFrame *f = r->frame;
  if (f->decode_error_flags || f->flags & AV_FRAME_FLAG_CORRUPT)
    return broken(r, "the video is damaged", 0);
  if (r->clip->frames > 0 && (f->width != r->width || f->height != r->height))
    return ebb_fail(r->err,
                    "%s: frame %d is coded with %dx%d pixels (width x height), those before with %dx%d",
                    r->name, r->clip->frames + 1, f->width, f->height, r->width, r->height);
  if ((!r->graph || f->format != r->pixel_format) && !make_graph(r))
    return false;
  int code = av_buffersrc_write_frame(r->in, f);
  if (code >= 0)
    code = av_buffersink_get_frame(r->out, r->rgb);
  if (code < 0)
    return broken(r, "a frame cannot be converted to RGB", code);
  bool ok = append(r);
  av_frame_unref(r->rgb);
  return ok;
}

/* ---- decoding ---------------------------------------------------------------------------------------- */

/* Feeds a packet (NULL: the end) and takes what comes out. */
static bool decode(reading *r, const AVPacket *packet) {
  int code = avcodec_send_packet(r->codec, packet);
  if (code < 0 && code != AVERROR_EOF)
    return broken(r, "the video is damaged", code);
  while ((code = avcodec_receive_frame(r->codec, r->frame)) >= 0) {
    bool ok = take_frame(r);
    av_frame_unref(r->frame);
    if (!ok)
      return false;
  }
  return code == AVERROR(EAGAIN) || code == AVERROR_EOF || broken(r, "the video is damaged", code);
}

static bool read_packets(reading *r) {
  int code;
  bool ok = true;
  while (ok && (code = av_read_frame(r->format, r->packet)) >= 0) {
    if (r->packet->stream_index == r->stream->index) {
      r->packets++;
      ok = r->packet->flags & AV_PKT_FLAG_CORRUPT ? broken(r, "the video is truncated or damaged", 0)
                                                  : decode(r, r->packet);
    }
    av_packet_unref(r->packet);
  }
  if (!ok)
    return false;
  int64_t shown, expected = packets_expected(r, &shown);
  const char *container = r->format->iformat->name;
  const bool cut = (strstr(container, "matroska") && matroska_is_short(r->from)) ||
                   (strstr(container, "avi") && avi_is_short(r->from));
  if (code != AVERROR_EOF || (r->packets < expected && !strstr(container, "avi")) || cut) {
    decode(r, NULL); /* what the decoder holds counts as decoded */
    return broken(r, "the video is truncated", code == AVERROR_EOF ? 0 : code);
  }
  return decode(r, NULL) && (r->clip->frames > 0 || broken(r, "the video has no frames", 0));
}

static bool open_container(reading *r) {
  int code;
  uint8_t *buffer = av_malloc(1 << 16);
  r->io = buffer ? avio_alloc_context(buffer, 1 << 16, 0, &r->from, source_read, NULL, source_seek) : NULL;
  r->format = avformat_alloc_context();
  r->packet = av_packet_alloc();
  r->frame = av_frame_alloc();
  r->rgb = av_frame_alloc();
  if (!r->io)
    av_free(buffer);
  if (!r->io || !r->format || !r->packet || !r->frame || !r->rgb)
    return ebb_fail(r->err, "%s: no memory to read it", r->name);
  r->format->pb = r->io;
  r->format->io_open = refuse_to_open;
  r->format->format_whitelist = av_strdup(containers);
  if ((code = avformat_open_input(&r->format, "", NULL, NULL)) < 0)
    return ebb_ffmpeg_fail(r->err, r->name, "not a video that can be read", code);
  if ((code = avformat_find_stream_info(r->format, NULL)) < 0)
    return ebb_ffmpeg_fail(r->err, r->name, "not a video that can be read", code);
  code = av_find_best_stream(r->format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
  if (code < 0 || r->format->streams[code]->disposition & AV_DISPOSITION_ATTACHED_PIC)
    return ebb_ffmpeg_fail(r->err, r->name, "there is no video in it", 0);
  r->stream = r->format->streams[code];
  for (unsigned i = 0; i < r->format->nb_streams; i++)
    if (r->format->streams[i] != r->stream)
      r->format->streams[i]->discard = AVDISCARD_ALL;
  return true;
}

static bool open_decoder(reading *r) {
  const AVCodecParameters *p = r->stream->codecpar;
  if (p->width > EBB_IMAGE_SIDE_MAX || p->height > EBB_IMAGE_SIDE_MAX)
    return ebb_fail(r->err, "%s: frames of %dx%d; sides are 1 to %d", r->name, p->width, p->height,
                    EBB_IMAGE_SIDE_MAX);
  const AVCodec *decoder = avcodec_find_decoder(p->codec_id);
  if (!decoder)
    return ebb_fail(r->err, "%s: this FFmpeg has no decoder for %s", r->name, avcodec_get_name(p->codec_id));
  int code = (r->codec = avcodec_alloc_context3(decoder)) ? 0 : AVERROR(ENOMEM);
  if (code >= 0)
    code = avcodec_parameters_to_context(r->codec, p);
  if (code >= 0) {
    r->codec->pkt_timebase = r->stream->time_base;
    r->codec->thread_count =
        1; /* clips are read side by side, and a thread's log tells which clip it is about */
    r->codec->max_pixels = (int64_t)EBB_IMAGE_SIDE_MAX * EBB_IMAGE_SIDE_MAX;
    r->codec->flags |=
        AV_CODEC_FLAG_OUTPUT_CORRUPT; /* a damaged frame is to be seen, not skipped in silence */
    code = avcodec_open2(r->codec, decoder, NULL);
  }
  return code >= 0 || ebb_ffmpeg_fail(r->err, r->name, "the decoder does not take it", code);
}

static bool read_source(const char *name, source from, ebb_clip *clip, ebb_error *err) {
  reading r = {.name = name, .err = err, .from = from, .clip = clip};
  *clip = (ebb_clip){0};
  ebb_ffmpeg_listen();
  bool ok = from.size > 0 || ebb_fail(err, "%s: empty file, expected a video", name);
  ok = ok && open_container(&r) && open_decoder(&r) && read_packets(&r);
  avfilter_graph_free(&r.graph);
  avcodec_free_context(&r.codec);
  av_packet_free(&r.packet);
  av_frame_free(&r.frame);
  av_frame_free(&r.rgb);
  avformat_close_input(&r.format);
  if (r.io)
    av_freep(&r.io->buffer);
  avio_context_free(&r.io);
  if (!ok) {
    ebb_clip_free(clip);
    return false;
  }
  uint8_t *fit = realloc(clip->rgb, (size_t)clip->frames * (size_t)clip->height * (size_t)clip->width * 3);
  clip->rgb = fit ? fit : clip->rgb;
  return true;
}

bool ebb_video_memory_read(const char *name, const void *bytes, size_t count, ebb_clip *clip,
                           ebb_error *err) {
  return read_source(name, (source){.fd = -1, .bytes = bytes, .size = (int64_t)count}, clip, err);
}

bool ebb_video_file_read(const char *path, ebb_clip *clip, ebb_error *err) {
  *clip = (ebb_clip){0};
  struct stat st;
  /* O_NONBLOCK: a named pipe in a data folder must be refused, not waited for */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return ebb_fail(err, "%s: cannot open: %s", path, strerror(errno));
  bool ok = fstat(fd, &st) == 0 || ebb_fail(err, "%s: cannot read: %s", path, strerror(errno));
  ok = ok && (S_ISREG(st.st_mode) || ebb_fail(err, "%s: not a regular file", path));
  ok = ok && read_source(path, (source){.fd = fd, .size = (int64_t)st.st_size}, clip, err);
  close(fd);
  return ok;
}

#endif
