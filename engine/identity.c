#include "engine/identity.h"

#include "engine/experiment.h"
#include "loaders/file.h"
#include "loaders/weights.h"

#include <stdlib.h>
#include <string.h>

static bool start_digest(const ebb_config *k, const char *model, ebb_digest **digest, ebb_error *err) {
  char *folder = ebb_path_join(k->model.path, model);
  ebb_weights *w = NULL;
  bool ok = ebb_weights_open(&w, folder, err) && ebb_weights_digest(w, digest, err);
  ebb_weights_close(&w);
  free(folder);
  return ok;
}

static bool hash_videos(ebb_identity *identity, ebb_experiment *e, int64_t videos, ebb_error *err) {
  const int threads = ebb_reader_threads();
  ebb_reader *reader = NULL;
  identity->videos = videos < 0 || e->data.count < videos ? e->data.count : videos;
  identity->id = ebb_must(calloc((size_t)identity->videos + 1, sizeof *identity->id));
  identity->frames = ebb_must(calloc((size_t)identity->videos + 1, sizeof *identity->frames));
  bool ok =
      ebb_reader_open(&reader, &e->context, &e->data, ebb_clip_size_of(e->config, 1), threads, threads, err);
  for (int64_t v = 0; ok && v < identity->videos; v++) {
    const ebb_ready_clip *clip = ebb_reader_next(reader);
    identity->id[v] = ebb_format("%s", e->data.videos[v].id);
    if (!clip->failure.text[0])
      memcpy(identity->frames[v], clip->sha256, sizeof clip->sha256);
    ebb_reader_done(reader);
  }
  ebb_reader_close(&reader);
  return ok;
}

bool ebb_identity_find(ebb_identity *identity, const ebb_config *k, int64_t videos, FILE *log,
                       ebb_error *err) {
  ebb_digest *transformer = NULL, *vae = NULL;
  ebb_experiment e;
  *identity = (ebb_identity){0};
  bool ok = ebb_experiment_open(&e, k, log, err) &&
            start_digest(k, k->model.transformer, &transformer, err) && start_digest(k, "vae", &vae, err) &&
            hash_videos(identity, &e, videos, err) &&
            ebb_digest_finish(&transformer, identity->transformer, err) &&
            ebb_digest_finish(&vae, identity->vae, err);
  if (ok) {
    snprintf(identity->prompt, sizeof identity->prompt, "%s", e.prompts.sha256);
    snprintf(identity->negative, sizeof identity->negative, "%s", e.prompts.negative_sha256);
  }
  ebb_digest_abandon(&transformer);
  ebb_digest_abandon(&vae);
  ebb_experiment_close(&e);
  return ok;
}

void ebb_identity_hash(const ebb_identity *identity, int64_t videos, char hash[65]) {
  char *text = NULL;
  size_t bytes = 0;
  FILE *memory = ebb_must(open_memstream(&text, &bytes));
  fprintf(memory, "%s\n%s\n%s\n%s\n", identity->transformer, identity->vae, identity->prompt,
          identity->negative);
  for (int64_t v = 0; v < identity->videos && v < videos; v++)
    fprintf(memory, "%s %s\n", identity->id[v], identity->frames[v]);
  fclose(memory);
  ebb_sha256(text, bytes, hash);
  free(text);
}

void ebb_identity_free(ebb_identity *identity) {
  for (int64_t v = 0; v < identity->videos; v++)
    free(identity->id[v]);
  free(identity->id);
  free(identity->frames);
  *identity = (ebb_identity){0};
}
