#include "engine/reader.h"

#include "loaders/config.h"
#include "loaders/file.h"
#include "loaders/frames.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 8

struct ebb_reader {
  ebb_context *context; /* for its memory alone */
  const ebb_dataset *data;
  ebb_clip_size size;
  int64_t ahead;
  float *pixels;
  ebb_ready_clip *ring; /* [ahead]: video n is in place n % ahead */
  int thread_count;
  pthread_t threads[THREADS];
  pthread_mutex_t mutex; /* of what follows */
  pthread_cond_t moved;
  bool *ready;         /* [ahead] */
  int64_t taken, done; /* videos that a thread has taken, and that are no longer needed */
  int reading;         /* videos taken and not ready */
  uint64_t largest;    /* bytes of decoded frames in one video, so far; 0: none is known */
  bool stop;
  int64_t given; /* the caller's: videos that next has returned */
};

static size_t clip_floats(ebb_clip_size z) {
  return 3 * (size_t)z.used * (size_t)z.height * (size_t)z.width;
}

size_t ebb_reader_bytes(ebb_clip_size size, int64_t ahead) {
  return (size_t)ahead * clip_floats(size) * sizeof(float);
}

ebb_clip_size ebb_clip_size_of(const ebb_config *k, int chunk) {
  return (ebb_clip_size){.wanted = (int)k->data.frames,
                         .used = ebb_frames_usable((int)k->data.frames, chunk),
                         .height = (int)k->data.height,
                         .width = (int)k->data.width,
                         .padded = strcmp(k->data.padding, "repeat") == 0};
}

int ebb_reader_threads(void) {
  const int threads = ebb_context_threads();
  return threads < THREADS ? threads : THREADS;
}

/* Returns the bytes of the decoded frames. */
static uint64_t read_clip(const ebb_reader *r, int64_t number, ebb_ready_clip *to) {
  const ebb_clip_size z = r->size;
  ebb_clip clip = {0};
  to->failure.text[0] = '\0';
  const bool read = ebb_video_read(&r->data->videos[number], &clip, &to->failure);
  const size_t bytes = (size_t)clip.frames * (size_t)clip.height * (size_t)clip.width * 3;
  const bool whole =
      read && (z.padded || clip.frames >= z.wanted ||
               ebb_fail(&to->failure,
                        "%s has %d frames, %d are asked for, and the others would be copies of the "
                        "last: lower data.frames, or set data.padding: repeat",
                        r->data->videos[number].id, clip.frames, z.wanted));
  if (whole && ebb_frames_prepare(&clip, z.wanted, z.used, z.height, z.width, to->pixels, &to->failure))
    ebb_sha256(clip.rgb, bytes, to->sha256);
  ebb_clip_free(&clip);
  return bytes;
}

/* Whether a thread may begin another video now. */
static bool may_take(const ebb_reader *r) {
  if (r->taken - r->done == r->ahead)
    return false;
  if (r->reading == 0)
    return true;
  return r->largest > 0 && (uint64_t)(r->reading + 1) <= EBB_READER_FRAMES / r->largest;
}

static void *read_all(void *user) {
  ebb_reader *r = user;
  pthread_mutex_lock(&r->mutex);
  while (!r->stop && r->taken < r->data->count) {
    if (!may_take(r)) {
      pthread_cond_wait(&r->moved, &r->mutex);
      continue;
    }
    const int64_t number = r->taken++;
    r->reading++;
    pthread_mutex_unlock(&r->mutex);
    const uint64_t bytes = read_clip(r, number, &r->ring[number % r->ahead]);
    pthread_mutex_lock(&r->mutex);
    r->largest = bytes > r->largest ? bytes : r->largest;
    r->reading--;
    r->ready[number % r->ahead] = true;
    pthread_cond_broadcast(&r->moved);
  }
  pthread_mutex_unlock(&r->mutex);
  return NULL;
}

static void join(ebb_reader *r) {
  pthread_mutex_lock(&r->mutex);
  r->stop = true;
  pthread_cond_broadcast(&r->moved);
  pthread_mutex_unlock(&r->mutex);
  for (int i = 0; i < r->thread_count; i++)
    pthread_join(r->threads[i], NULL);
}

static void release(ebb_reader **r) {
  pthread_cond_destroy(&(*r)->moved);
  pthread_mutex_destroy(&(*r)->mutex);
  ebb_host_free((*r)->context, (*r)->pixels);
  free((*r)->ring);
  free((*r)->ready);
  free(*r);
  *r = NULL;
}

bool ebb_reader_open(ebb_reader **out, ebb_context *c, const ebb_dataset *data, ebb_clip_size size,
                     int64_t ahead, int threads, ebb_error *err) {
  ebb_reader *r = *out = ebb_must(calloc(1, sizeof *r));
  *r = (ebb_reader){.context = c, .data = data, .size = size, .ahead = ahead};
  pthread_mutex_init(&r->mutex, NULL);
  pthread_cond_init(&r->moved, NULL);
  r->ring = calloc((size_t)ahead, sizeof *r->ring);
  r->ready = calloc((size_t)ahead, sizeof *r->ready);
  r->pixels = ebb_host_new(c, ebb_reader_bytes(size, ahead));
  if (!r->ring || !r->ready || !r->pixels) {
    release(out);
    return ebb_fail(err, "no memory for %lld clips read ahead: %.1f MiB", (long long)ahead,
                    (double)ebb_reader_bytes(size, ahead) / (1 << 20));
  }
  for (int64_t i = 0; i < ahead; i++)
    r->ring[i].pixels = r->pixels + (size_t)i * clip_floats(size);
  threads = threads < THREADS ? threads : THREADS;
  for (int i = 0; i < threads; i++) {
    int failure = pthread_create(&r->threads[i], NULL, read_all, r);
    if (failure == 0) {
      r->thread_count++;
      continue;
    }
    join(r);
    release(out);
    return ebb_fail(err, "no thread to read videos: %s", strerror(failure));
  }
  return true;
}

const ebb_ready_clip *ebb_reader_next(ebb_reader *r) {
  assert(r->given < r->data->count);
  const int64_t place = r->given++ % r->ahead;
  pthread_mutex_lock(&r->mutex);
  while (!r->ready[place])
    pthread_cond_wait(&r->moved, &r->mutex);
  pthread_mutex_unlock(&r->mutex);
  return &r->ring[place];
}

void ebb_reader_done(ebb_reader *r) {
  pthread_mutex_lock(&r->mutex);
  for (; r->done < r->given; r->done++)
    r->ready[r->done % r->ahead] = false;
  pthread_cond_broadcast(&r->moved);
  pthread_mutex_unlock(&r->mutex);
}

void ebb_reader_close(ebb_reader **r) {
  if (!*r)
    return;
  join(*r);
  release(r);
}
