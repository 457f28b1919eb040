#include "engine/reader.h"

#include "loaders/file.h"
#include "loaders/frames.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct ebb_reader {
  ebb_context *context; /* for its memory alone */
  const ebb_dataset *data;
  ebb_clip_size size;
  int64_t ahead;
  float *pixels;
  ebb_ready_clip *ring; /* [ahead]: video n is in place n % ahead */
  pthread_t thread;
  pthread_mutex_t mutex; /* of what follows */
  pthread_cond_t moved;
  int64_t read, done; /* videos that have become ready, and that are no longer needed */
  bool stop;
  int64_t given; /* the caller's: videos that next has returned */
};

static size_t clip_floats(ebb_clip_size z) {
  return 3 * (size_t)z.used * (size_t)z.height * (size_t)z.width;
}

size_t ebb_reader_bytes(ebb_clip_size size, int64_t ahead) {
  return (size_t)ahead * clip_floats(size) * sizeof(float);
}

static void read_clip(const ebb_reader *r, int64_t number, ebb_ready_clip *to) {
  const ebb_clip_size z = r->size;
  ebb_clip clip = {0};
  to->failure.text[0] = '\0';
  if (ebb_video_read(&r->data->videos[number], &clip, &to->failure) &&
      ebb_frames_prepare(&clip, z.wanted, z.used, z.height, z.width, to->pixels, &to->failure))
    ebb_sha256(clip.rgb, (size_t)clip.frames * (size_t)clip.height * (size_t)clip.width * 3, to->sha256);
  ebb_clip_free(&clip);
}

static void *read_all(void *user) {
  ebb_reader *r = user;
  pthread_mutex_lock(&r->mutex);
  while (r->read < r->data->count) {
    while (!r->stop && r->read - r->done == r->ahead)
      pthread_cond_wait(&r->moved, &r->mutex);
    if (r->stop)
      break;
    const int64_t number = r->read;
    pthread_mutex_unlock(&r->mutex);
    read_clip(r, number, &r->ring[number % r->ahead]);
    pthread_mutex_lock(&r->mutex);
    r->read++;
    pthread_cond_signal(&r->moved);
  }
  pthread_mutex_unlock(&r->mutex);
  return NULL;
}

static void release(ebb_reader **r) {
  pthread_cond_destroy(&(*r)->moved);
  pthread_mutex_destroy(&(*r)->mutex);
  ebb_host_free((*r)->context, (*r)->pixels);
  free((*r)->ring);
  free(*r);
  *r = NULL;
}

bool ebb_reader_open(ebb_reader **out, ebb_context *c, const ebb_dataset *data, ebb_clip_size size,
                     int64_t ahead, ebb_error *err) {
  ebb_reader *r = *out = ebb_must(calloc(1, sizeof *r));
  *r = (ebb_reader){.context = c, .data = data, .size = size, .ahead = ahead};
  pthread_mutex_init(&r->mutex, NULL);
  pthread_cond_init(&r->moved, NULL);
  r->ring = calloc((size_t)ahead, sizeof *r->ring);
  r->pixels = ebb_host_new(c, ebb_reader_bytes(size, ahead));
  if (!r->ring || !r->pixels) {
    release(out);
    return ebb_fail(err, "no memory for %lld clips read ahead: %.1f MiB", (long long)ahead,
                    (double)ebb_reader_bytes(size, ahead) / (1 << 20));
  }
  for (int64_t i = 0; i < ahead; i++)
    r->ring[i].pixels = r->pixels + (size_t)i * clip_floats(size);
  int failure = pthread_create(&r->thread, NULL, read_all, r);
  if (failure == 0)
    return true;
  release(out);
  return ebb_fail(err, "no thread to read videos: %s", strerror(failure));
}

const ebb_ready_clip *ebb_reader_next(ebb_reader *r) {
  assert(r->given < r->data->count);
  const int64_t number = r->given++;
  pthread_mutex_lock(&r->mutex);
  while (r->read <= number)
    pthread_cond_wait(&r->moved, &r->mutex);
  pthread_mutex_unlock(&r->mutex);
  return &r->ring[number % r->ahead];
}

void ebb_reader_done(ebb_reader *r) {
  pthread_mutex_lock(&r->mutex);
  r->done = r->given;
  pthread_cond_signal(&r->moved);
  pthread_mutex_unlock(&r->mutex);
}

void ebb_reader_close(ebb_reader **r) {
  if (!*r)
    return;
  pthread_mutex_lock(&(*r)->mutex);
  (*r)->stop = true;
  pthread_cond_signal(&(*r)->moved);
  pthread_mutex_unlock(&(*r)->mutex);
  pthread_join((*r)->thread, NULL);
  release(r);
}
