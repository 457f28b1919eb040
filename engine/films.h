/* Decoded videos finished beside the computation: threads compare each with what it should be and write it as
 * mp4 or PNG frames. What they find out goes to the video's own place, so that the order in which they finish
 * leaves no trace. */
#ifndef EBB_ENGINE_FILMS_H
#define EBB_ENGINE_FILMS_H

#include "loaders/quality.h"

typedef struct ebb_film {
  int64_t number; /* of the video: its place among the results, and in its name */
  ebb_clip made;
  ebb_clip original,
      ceiling; /* what it should be, and what the VAE alone makes of that; zeroed: nothing is compared */
} ebb_film;

typedef struct ebb_film_result {
  bool there;
  ebb_quality made, ceiling; /* against the original */
  char sha256[65];           /* of the frames made */
} ebb_film_result;

typedef struct ebb_films ebb_films;

/* Writes folder/STEM-00012.mp4, or a folder STEM-00012 of PNG frames, for video 12, and beside it
 * original-00012 where there is one; what has these names is replaced. format "mp4" or "png"; results
 * [videos]. Errors: no folder, no thread. */
bool ebb_films_open(ebb_films **f, const char *folder, const char *stem, const char *format, double fps,
                    int threads, ebb_film_result *results, ebb_error *err);
/* Takes the film's clips in any case. Waits while as many films wait as there are threads. Errors: of a film
 * handed over earlier; nothing is written after it. */
bool ebb_films_put(ebb_films *f, ebb_film *film, ebb_error *err);
/* Waits until all are written. Frees f in any case. */
bool ebb_films_finish(ebb_films **f, ebb_error *err);
void ebb_films_abandon(ebb_films **f); /* ends after the films that are being written; NULL is fine */

/* "reconstructed-00012.mp4", in the folder. */
void ebb_film_name(const char *stem, const char *format, int64_t number, char *text, size_t size);
void ebb_film_free(ebb_film *film); /* its clips; a zeroed film is fine */

#endif
