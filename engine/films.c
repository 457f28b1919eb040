#include "engine/films.h"

#include "loaders/file.h"
#include "loaders/video.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 16

struct ebb_films {
  char *folder, *stem;
  bool png;
  double fps;
  ebb_film_result *results;
  int thread_count;
  pthread_t threads[THREADS];
  pthread_mutex_t mutex; /* of what follows */
  pthread_cond_t moved;
  ebb_film waiting[THREADS]; /* a ring of thread_count */
  int first, count;
  bool last, stop; /* none comes any more; what waits is dropped */
  ebb_error failure;
};

void ebb_film_free(ebb_film *film) {
  ebb_clip_free(&film->made);
  ebb_clip_free(&film->original);
  ebb_clip_free(&film->ceiling);
}

void ebb_film_name(const char *stem, const char *format, int64_t number, char *text, size_t size) {
  snprintf(text, size, "%s-%05lld%s", stem, (long long)number, strcmp(format, "mp4") == 0 ? ".mp4" : "");
}

static bool write_clip(const ebb_films *f, const char *stem, int64_t number, const ebb_clip *clip,
                       ebb_error *err) {
  char name[128];
  ebb_film_name(stem, f->png ? "png" : "mp4", number, name, sizeof name);
  char *path = ebb_path_join(f->folder, name);
  bool ok = f->png ? ebb_remove_folder(path, err) && ebb_video_frames_write(path, clip, err)
                   : ebb_video_file_write(path, clip, f->fps, err);
  free(path);
  return ok;
}

static bool finish_film(const ebb_films *f, const ebb_film *film, ebb_error *err) {
  ebb_film_result *r = &f->results[film->number];
  const ebb_clip *c = &film->made;
  if (film->original.rgb) {
    r->made = ebb_quality_of(&film->original, c);
    r->ceiling = ebb_quality_of(&film->original, &film->ceiling);
  }
  ebb_sha256(c->rgb, (size_t)c->frames * (size_t)c->height * (size_t)c->width * 3, r->sha256);
  r->there = write_clip(f, f->stem, film->number, c, err) &&
             (!film->original.rgb || write_clip(f, "original", film->number, &film->original, err));
  return r->there;
}

static void *work(void *user) {
  ebb_films *f = user;
  pthread_mutex_lock(&f->mutex);
  for (;;) {
    while (!f->stop && !f->last && f->count == 0)
      pthread_cond_wait(&f->moved, &f->mutex);
    if (f->stop || f->count == 0)
      break;
    ebb_film film = f->waiting[f->first];
    f->first = (f->first + 1) % f->thread_count;
    f->count--;
    pthread_cond_broadcast(&f->moved);
    pthread_mutex_unlock(&f->mutex);
    ebb_error failure = {{0}};
    const bool ok = finish_film(f, &film, &failure);
    ebb_film_free(&film);
    pthread_mutex_lock(&f->mutex);
    if (!ok) {
      ebb_fail(&f->failure, "%s", failure.text);
      f->stop = true;
      pthread_cond_broadcast(&f->moved);
    }
  }
  pthread_mutex_unlock(&f->mutex);
  return NULL;
}

/* Ends the threads and frees; what failed goes to err. */
static bool end(ebb_films **films, bool stop, ebb_error *err) {
  ebb_films *f = *films;
  pthread_mutex_lock(&f->mutex);
  f->last = true;
  f->stop = f->stop || stop;
  pthread_cond_broadcast(&f->moved);
  pthread_mutex_unlock(&f->mutex);
  for (int i = 0; i < f->thread_count; i++)
    pthread_join(f->threads[i], NULL);
  for (; f->count > 0; f->count--) {
    ebb_film_free(&f->waiting[f->first]);
    f->first = (f->first + 1) % f->thread_count;
  }
  const bool ok = !f->failure.text[0] || ebb_fail(err, "%s", f->failure.text);
  pthread_cond_destroy(&f->moved);
  pthread_mutex_destroy(&f->mutex);
  free(f->folder);
  free(f->stem);
  free(f);
  *films = NULL;
  return ok;
}

bool ebb_films_open(ebb_films **out, const char *folder, const char *stem, const char *format, double fps,
                    int threads, ebb_film_result *results, ebb_error *err) {
  *out = NULL;
  if (!ebb_make_folders(folder, err))
    return false;
  ebb_films *f = *out = ebb_must(calloc(1, sizeof *f));
  f->folder = ebb_format("%s", folder);
  f->stem = ebb_format("%s", stem);
  f->png = strcmp(format, "png") == 0;
  f->fps = fps;
  f->results = results;
  pthread_mutex_init(&f->mutex, NULL);
  pthread_cond_init(&f->moved, NULL);
  threads = threads < 1 ? 1 : threads < THREADS ? threads : THREADS;
  pthread_mutex_lock(&f->mutex); /* thread_count is what the ring is long */
  int failure = 0;
  while (failure == 0 && f->thread_count < threads) {
    failure = pthread_create(&f->threads[f->thread_count], NULL, work, f);
    f->thread_count += failure == 0;
  }
  pthread_mutex_unlock(&f->mutex);
  if (failure == 0)
    return true;
  end(out, true, NULL);
  return ebb_fail(err, "no thread to write videos: %s", strerror(failure));
}

bool ebb_films_put(ebb_films *f, ebb_film *film, ebb_error *err) {
  pthread_mutex_lock(&f->mutex);
  while (!f->stop && f->count == f->thread_count)
    pthread_cond_wait(&f->moved, &f->mutex);
  const bool ok = !f->stop;
  if (ok) {
    f->waiting[(f->first + f->count++) % f->thread_count] = *film;
    *film = (ebb_film){.number = film->number};
    pthread_cond_broadcast(&f->moved);
  } else {
    ebb_fail(err, "%s", f->failure.text);
  }
  pthread_mutex_unlock(&f->mutex);
  ebb_film_free(film);
  return ok;
}

bool ebb_films_finish(ebb_films **f, ebb_error *err) {
  return end(f, false, err);
}

void ebb_films_abandon(ebb_films **f) {
  if (*f)
    end(f, true, NULL);
}
