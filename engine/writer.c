#include "engine/writer.h"

#include "loaders/file.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct batch {
  const ebb_tap_plan *plan;
  int set;
  int64_t count;
  int64_t *videos;     /* [count], owned as all that follows */
  ebb_error *failures; /* [count] or NULL */
  float **data;        /* as of ebb_tap */
} batch;

struct ebb_writer {
  ebb_store_writer *store;
  ebb_writer_report *report;
  void *user;
  int ahead;
  batch *queue; /* [ahead]: batch n is in place n % ahead */
  pthread_t thread;
  pthread_mutex_t mutex; /* of what follows */
  pthread_cond_t moved;
  int64_t put, taken; /* batches */
  bool closed;        /* no more come */
  ebb_error error;
};

static void free_batch(batch *b) {
  free(b->videos);
  free(b->failures);
  free(b->data);
  *b = (batch){0};
}

static bool is_finite(const batch *b, int64_t video) {
  for (int s = 0; s < b->plan->slot_count; s++) {
    int64_t n = ebb_tap_slot_floats(b->plan, s);
    for (int64_t i = 0; i < n; i++)
      if (!isfinite(b->data[s][video * n + i]))
        return false;
  }
  return true;
}

/* Leaves out what failed, moving the others together, and writes the shard of the rest. */
static bool write_batch(ebb_writer *w, batch *b, ebb_error *err) {
  int64_t kept = 0;
  for (int64_t i = 0; i < b->count; i++) {
    bool failed = b->failures && b->failures[i].text[0];
    if (failed || !is_finite(b, i)) {
      w->report(w->user, b->videos[i], failed ? b->failures[i].text : "values that are not finite");
      continue;
    }
    for (int s = 0; s < b->plan->slot_count && kept != i; s++) {
      int64_t n = ebb_tap_slot_floats(b->plan, s);
      memcpy(b->data[s] + kept * n, b->data[s] + i * n, (size_t)n * sizeof(float));
    }
    b->videos[kept++] = b->videos[i];
  }
  return kept == 0 || ebb_store_write(w->store, b->set, kept, b->videos, (const float *const *)b->data, err);
}

static void *write_all(void *user) {
  ebb_writer *w = user;
  pthread_mutex_lock(&w->mutex);
  for (;;) {
    while (!w->closed && w->taken == w->put)
      pthread_cond_wait(&w->moved, &w->mutex);
    if (w->taken == w->put)
      break;
    batch b = w->queue[w->taken++ % w->ahead];
    bool ok = w->error.text[0] == '\0';
    ebb_error failure = {0};
    pthread_cond_signal(&w->moved);
    pthread_mutex_unlock(&w->mutex);
    ok = ok && write_batch(w, &b, &failure);
    free_batch(&b);
    pthread_mutex_lock(&w->mutex);
    if (failure.text[0])
      ebb_fail(&w->error, "%s", failure.text);
  }
  pthread_mutex_unlock(&w->mutex);
  return NULL;
}

static void release(ebb_writer **w) {
  pthread_cond_destroy(&(*w)->moved);
  pthread_mutex_destroy(&(*w)->mutex);
  free((*w)->queue);
  free(*w);
  *w = NULL;
}

bool ebb_writer_open(ebb_writer **out, ebb_store_writer *store, int ahead, ebb_writer_report *report,
                     void *user, ebb_error *err) {
  ebb_writer *w = *out = ebb_must(calloc(1, sizeof *w));
  *w = (ebb_writer){.store = store, .report = report, .user = user, .ahead = ahead};
  w->queue = ebb_must(calloc((size_t)ahead, sizeof *w->queue));
  pthread_mutex_init(&w->mutex, NULL);
  pthread_cond_init(&w->moved, NULL);
  int failure = pthread_create(&w->thread, NULL, write_all, w);
  if (failure == 0)
    return true;
  release(out);
  return ebb_fail(err, "no thread to write features: %s", strerror(failure));
}

static void *copy(const void *from, int64_t count, size_t size) {
  return from ? memcpy(ebb_must(malloc((size_t)count * size)), from, (size_t)count * size) : NULL;
}

bool ebb_writer_put(ebb_writer *w, int set, ebb_tap *tap, const int64_t *videos, const ebb_error *failures,
                    ebb_error *err) {
  batch b = {.plan = tap->plan,
             .set = set,
             .count = tap->batch,
             .videos = copy(videos, tap->batch, sizeof *videos),
             .failures = copy(failures, tap->batch, sizeof *failures),
             .data = tap->data};
  tap->data = NULL;
  pthread_mutex_lock(&w->mutex);
  while (w->put - w->taken == w->ahead)
    pthread_cond_wait(&w->moved, &w->mutex);
  w->queue[w->put++ % w->ahead] = b;
  pthread_cond_signal(&w->moved);
  bool ok = w->error.text[0] == '\0' || ebb_fail(err, "%s", w->error.text);
  pthread_mutex_unlock(&w->mutex);
  return ok;
}

/* Ends the thread: after all that waits, or, with `reason`, after the shard that is being written. */
static void join(ebb_writer *w, const char *reason) {
  pthread_mutex_lock(&w->mutex);
  w->closed = true;
  if (reason)
    ebb_fail(&w->error, "%s", reason);
  pthread_cond_signal(&w->moved);
  pthread_mutex_unlock(&w->mutex);
  pthread_join(w->thread, NULL);
}

bool ebb_writer_finish(ebb_writer **w, ebb_error *err) {
  join(*w, NULL);
  bool ok = (*w)->error.text[0] == '\0' || ebb_fail(err, "%s", (*w)->error.text);
  release(w);
  return ok;
}

void ebb_writer_abandon(ebb_writer **w) {
  if (!*w)
    return;
  join(*w, "abandoned");
  release(w);
}
