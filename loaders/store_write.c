#include "loaders/file.h"
#include "loaders/safetensors.h"
#include "loaders/store.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct kept_set {
  ebb_feature_set is;
  int64_t shards;
  bool *written; /* [videos] */
} kept_set;

struct ebb_store_writer {
  char *dir;
  int64_t video_count;
  json_t *videos, *shards, *target_names; /* as they will stand in the index */
  char *notice;
  pthread_mutex_t mutex; /* of videos */
  kept_set *sets;
  int set_count;
};

/* ---- opening ----------------------------------------------------------------------------------------- */

static json_t *describe_video(const ebb_dataset *set, const ebb_video *v) {
  json_t *label = v->label == EBB_UNLABELLED ? json_null() : json_boolean(v->label == EBB_POSSIBLE);
  json_t *targets = NULL;
  for (int t = 0; v->targets != NULL && t < set->target_count; t++)
    if (isfinite(v->targets[t])) {
      targets = targets != NULL ? targets : json_object();
      json_object_set_new(targets, set->target_names[t], json_real(v->targets[t]));
    }
  return json_pack("{s:s, s:s, s:s, s:o, s:s, s:s*, s:s*, s:s*, s:s*, s:o*}", "id", v->id, "group", v->group,
                   "category", v->category, "possible", label, "status", "ok", "pair", v->pair, "view",
                   v->view, "split", v->split, "prompt", v->prompt, "targets", targets);
}

bool ebb_store_create(ebb_store_writer **out, const char *dir, const ebb_dataset *set, ebb_error *err) {
  *out = NULL;
  if (!ebb_make_folders(dir, err))
    return false;
  char *index = ebb_path_join(dir, "index.json");
  bool finished = ebb_is_there(index);
  free(index);
  if (finished)
    return ebb_fail(
        err,
        "%s: holds a finished run (index.json), which is never overwritten; choose another folder "
        "or remove it",
        dir);
  ebb_store_writer *w = ebb_must(calloc(1, sizeof *w));
  w->dir = ebb_format("%s", dir);
  w->videos = ebb_must(json_array());
  w->shards = ebb_must(json_array());
  w->target_names = set->target_count > 0 ? ebb_must(json_array()) : NULL;
  w->notice = set->notice != NULL ? ebb_format("%s", set->notice) : NULL;
  w->video_count = set->count;
  pthread_mutex_init(&w->mutex, NULL);
  *out = w;
  for (int64_t i = 0; i < set->count; i++)
    if (json_array_append_new(w->videos, describe_video(set, &set->videos[i])) != 0) {
      ebb_store_abandon(out);
      return ebb_fail(err, "%s: the video \"%.100s\" has a name or a prompt that is not UTF-8", dir,
                      set->videos[i].id);
    }
  for (int t = 0; t < set->target_count; t++)
    if (json_array_append_new(w->target_names, json_string(set->target_names[t])) != 0) {
      ebb_store_abandon(out);
      return ebb_fail(err, "%s: the target \"%.*s\" has a name that is not UTF-8", dir, EBB_TARGET_NAME,
                      set->target_names[t]);
    }
  return true;
}

/* ---- declaring --------------------------------------------------------------------------------------- */

static bool is_folder_name(const char *name) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
  return name[0] != '\0' && name[0] != '.' && name[strspn(name, letters)] == '\0';
}

static bool check_set(const ebb_store_writer *w, const ebb_feature_set *s, ebb_error *err) {
  if (w->set_count == EBB_STORE_SETS)
    return ebb_fail(err, "%s: more than %d feature sets", w->dir, EBB_STORE_SETS);
  if (!is_folder_name(s->model))
    return ebb_fail(err,
                    "%s: the model name \"%s\" cannot be a folder: letters, digits, '_', '-' and '.' only",
                    w->dir, s->model);
  for (int i = 0; i < w->set_count; i++)
    if (strcmp(w->sets[i].is.model, s->model) == 0)
      return ebb_fail(err, "%s: two feature sets are of model \"%s\"", w->dir, s->model);
  if (s->step_count < 1 || s->step_count > EBB_STORE_LIST || s->block_count < 0 ||
      s->block_count > EBB_STORE_LIST || s->feature_count < 1 || s->feature_count > EBB_STORE_LIST)
    return ebb_fail(err,
                    "%s: model \"%s\": %d steps, %d blocks, %d features: expected at least one step and one "
                    "feature, at most %d of each",
                    w->dir, s->model, s->step_count, s->block_count, s->feature_count, EBB_STORE_LIST);
  for (int i = 0; i < s->step_count; i++)
    if (!isfinite(s->sigmas[i]))
      return ebb_fail(err, "%s: model \"%s\": the sigma of step %d is not finite", w->dir, s->model,
                      s->steps[i]);
  for (int f = 0; f < s->feature_count; f++) {
    const ebb_feature *x = &s->features[f];
    bool fits = x->rank >= (x->by_block ? 1 : 0) && x->rank <= EBB_FEATURE_RANK;
    for (int i = 0; fits && i < x->rank; i++)
      fits = x->shape[i] >= 1;
    fits = fits && !(x->by_head && (!x->by_block || x->rank < 2));
    if (!fits || (x->by_block && x->shape[0] != s->block_count) || strcmp(x->name, "video") == 0 ||
        x->name[0] == '\0' || ebb_store_feature(s, x->name) != f)
      return ebb_fail(
          err,
          "%s: model \"%s\": feature \"%s\" has a name that is taken or a shape that does not fit "
          "its %d blocks and its heads",
          w->dir, s->model, x->name, s->block_count);
  }
  return true;
}

static void *copy(const void *from, size_t bytes) {
  void *to = ebb_must(malloc(bytes + 1));
  if (bytes > 0)
    memcpy(to, from, bytes);
  return to;
}

/* Shards of an unfinished run go: this one may have fewer, and what is left would be taken for its own. */
static bool remove_shards(const char *folder, ebb_error *err) {
  char **names;
  int64_t count;
  if (!ebb_folder_list(folder, &names, &count, err))
    return false;
  bool ok = true;
  for (int64_t i = 0; i < count; i++) {
    char *path = ebb_path_join(folder, names[i]);
    if (strncmp(names[i], "shard-", 6) == 0 && strstr(names[i], ".safetensors") != NULL && remove(path) != 0)
      ok = ebb_fail(err, "%s: cannot remove the shard of an unfinished run: %s", path, strerror(errno));
    free(path);
  }
  ebb_names_free(names, count);
  return ok;
}

bool ebb_store_declare(ebb_store_writer *w, const ebb_feature_set *set, int *id, ebb_error *err) {
  if (!check_set(w, set, err))
    return false;
  char *name = ebb_format("features/%s", set->model), *folder = ebb_path_join(w->dir, name);
  bool ok = ebb_make_folders(folder, err) && remove_shards(folder, err);
  free(name);
  free(folder);
  if (!ok)
    return false;
  w->sets = ebb_must(realloc(w->sets, ((size_t)w->set_count + 1) * sizeof *w->sets));
  ebb_feature_set kept = *set;
  kept.steps = copy(set->steps, (size_t)set->step_count * sizeof *set->steps);
  kept.sigmas = copy(set->sigmas, (size_t)set->step_count * sizeof *set->sigmas);
  kept.blocks = copy(set->blocks, (size_t)set->block_count * sizeof *set->blocks);
  kept.features = copy(set->features, (size_t)set->feature_count * sizeof *set->features);
  w->sets[w->set_count] =
      (kept_set){.is = kept, .written = ebb_must(calloc((size_t)w->video_count + 1, sizeof(bool)))};
  *id = w->set_count++;
  return true;
}

/* ---- writing ----------------------------------------------------------------------------------------- */

static bool check_videos(ebb_store_writer *w, kept_set *s, int64_t count, const int64_t *videos,
                         ebb_error *err) {
  if (count < 1)
    return ebb_fail(err, "%s: an empty shard for model \"%s\"", w->dir, s->is.model);
  for (int64_t i = 0; i < count; i++) {
    if (videos[i] < 0 || videos[i] >= w->video_count)
      return ebb_fail(err, "%s: video %lld is not one of the %lld of the data set", w->dir,
                      (long long)videos[i], (long long)w->video_count);
    if (s->written[videos[i]])
      return ebb_fail(err, "%s: video %lld is written twice for model \"%s\"", w->dir, (long long)videos[i],
                      s->is.model);
    s->written[videos[i]] = true;
  }
  return true;
}

/* One shard's tensors: "video" first, so that its 8-byte numbers stand aligned, then the features. Free it. */
static ebb_st_declare *shard_tensors(const ebb_feature_set *s, int64_t count) {
  ebb_st_declare *tensors = ebb_must(calloc((size_t)s->feature_count + 1, sizeof *tensors));
  tensors[0] = (ebb_st_declare){.name = "video", .dtype = EBB_I64, .rank = 1, .shape = {count}};
  for (int f = 0; f < s->feature_count; f++) {
    const ebb_feature *x = &s->features[f];
    tensors[f + 1] = (ebb_st_declare){
        .name = x->name, .dtype = EBB_F32, .rank = x->rank + 2, .shape = {count, s->step_count}};
    memcpy(tensors[f + 1].shape + 2, x->shape, (size_t)x->rank * sizeof *x->shape);
  }
  return tensors;
}

bool ebb_store_shard_bytes(const ebb_feature_set *set, int64_t count, uint64_t *bytes, ebb_error *err) {
  ebb_st_declare *tensors = shard_tensors(set, count);
  bool ok = ebb_st_file_bytes(set->model, tensors, set->feature_count + 1, bytes, err);
  free(tensors);
  return ok;
}

static bool write_shard(const kept_set *s, const char *path, int64_t count, const int64_t *videos,
                        const float *const *data, ebb_error *err) {
  int n = s->is.feature_count;
  ebb_st_declare *tensors = shard_tensors(&s->is, count);
  ebb_st_writer *st = NULL;
  bool ok = ebb_st_writer_open(&st, path, tensors, n + 1, NULL, 0, err) &&
            ebb_st_writer_append(st, videos, (size_t)count * sizeof *videos, err);
  for (int f = 0; ok && f < n; f++) {
    size_t width = sizeof(float);
    for (int i = 0; i < tensors[f + 1].rank; i++)
      width *= (size_t)tensors[f + 1].shape[i]; /* the writer has checked the product */
    ok = ebb_st_writer_append(st, data[f], width, err);
  }
  if (ok)
    ok = ebb_st_writer_finish(&st, err);
  ebb_st_writer_abandon(&st);
  free(tensors);
  return ok;
}

bool ebb_store_write(ebb_store_writer *w, int set, int64_t count, const int64_t *videos,
                     const float *const *data, ebb_error *err) {
  kept_set *s = &w->sets[set];
  if (!check_videos(w, s, count, videos, err))
    return false;
  char *name = ebb_format("features/%s/shard-%05lld.safetensors", s->is.model, (long long)s->shards);
  char *path = ebb_path_join(w->dir, name), hex[65];
  uint64_t bytes = 0;
  bool ok = write_shard(s, path, count, videos, data, err) && ebb_file_size(path, &bytes, err) &&
            ebb_file_sha256(path, hex, err);
  if (ok) {
    s->shards++;
    json_array_append_new(w->shards,
                          json_pack("{s:s, s:i, s:I, s:I, s:s}", "file", name, "set", set, "videos",
                                    (json_int_t)count, "bytes", (json_int_t)bytes, "sha256", hex));
  }
  free(name);
  free(path);
  return ok;
}

void ebb_store_input(ebb_store_writer *w, int64_t video, const char *sha256) {
  pthread_mutex_lock(&w->mutex);
  json_object_set_new(json_array_get(w->videos, (size_t)video), "sha256", json_string(sha256));
  pthread_mutex_unlock(&w->mutex);
}

void ebb_store_fail(ebb_store_writer *w, int64_t video, const char *reason) {
  pthread_mutex_lock(&w->mutex);
  json_t *v = json_array_get(w->videos, (size_t)video);
  json_object_set_new(v, "status", json_string("failed"));
  json_t *text = json_string(reason);
  json_object_set_new(v, "reason", text != NULL ? text : json_string("(a reason that is not UTF-8)"));
  pthread_mutex_unlock(&w->mutex);
}

int64_t ebb_store_failed(ebb_store_writer *w) {
  int64_t failed = 0;
  pthread_mutex_lock(&w->mutex);
  for (size_t i = 0; i < json_array_size(w->videos); i++)
    failed +=
        strcmp(json_string_value(json_object_get(json_array_get(w->videos, i), "status")), "failed") == 0;
  pthread_mutex_unlock(&w->mutex);
  return failed;
}

/* ---- the index --------------------------------------------------------------------------------------- */

static json_t *describe_set(const ebb_feature_set *s) {
  json_t *steps = json_array(), *sigmas = json_array(), *blocks = json_array(), *features = json_array();
  for (int i = 0; i < s->step_count; i++) {
    json_array_append_new(steps, json_integer(s->steps[i]));
    json_array_append_new(sigmas, json_real(s->sigmas[i]));
  }
  for (int i = 0; i < s->block_count; i++)
    json_array_append_new(blocks, json_integer(s->blocks[i]));
  for (int f = 0; f < s->feature_count; f++) {
    json_t *shape = json_array();
    for (int i = 0; i < s->features[f].rank; i++)
      json_array_append_new(shape, json_integer(s->features[f].shape[i]));
    json_array_append_new(features, json_pack("{s:s, s:b, s:b, s:o}", "name", s->features[f].name, "by_block",
                                              s->features[f].by_block, "by_head", s->features[f].by_head,
                                              "shape", shape));
  }
  return json_pack("{s:s, s:o, s:o, s:o, s:o}", "model", s->model, "steps", steps, "sigmas", sigmas, "blocks",
                   blocks, "features", features);
}

static bool write_index(const ebb_store_writer *w, json_t *provenance, ebb_error *err) {
  json_t *sets = ebb_must(json_array());
  for (int i = 0; i < w->set_count; i++)
    if (json_array_append_new(sets, describe_set(&w->sets[i].is)) != 0) {
      json_decref(sets);
      return ebb_fail(err, "%s: a feature of model \"%s\" has a name that is not UTF-8", w->dir,
                      w->sets[i].is.model);
    }
  json_t *index =
      ebb_must(json_pack("{s:s, s:i, s:s*, s:O*, s:O, s:o, s:O, s:O?}", "format", "ebb feature store",
                         "version", 1, "notice", w->notice, "target_names", w->target_names, "videos",
                         w->videos, "sets", sets, "shards", w->shards, "provenance", provenance));
  char *path = ebb_path_join(w->dir, "index.json");
  ebb_file_writer file;
  bool ok = ebb_file_create(&file, path, err);
  if (ok && (json_dumpf(index, file.stream, JSON_INDENT(1)) != 0 || fputc('\n', file.stream) == EOF)) {
    ebb_file_abandon(&file);
    ok = ebb_fail(err, "%s: cannot write (is the disk full?); nothing was left behind", path);
  }
  ok = ok && ebb_file_commit(&file, err);
  free(path);
  json_decref(index);
  return ok;
}

bool ebb_store_finish(ebb_store_writer **w, json_t *provenance, ebb_error *err) {
  bool ok = write_index(*w, provenance, err);
  ebb_store_abandon(w);
  return ok;
}

void ebb_store_abandon(ebb_store_writer **out) {
  ebb_store_writer *w = *out;
  if (w == NULL)
    return;
  for (int i = 0; i < w->set_count; i++) {
    free(w->sets[i].is.steps);
    free(w->sets[i].is.sigmas);
    free(w->sets[i].is.blocks);
    free(w->sets[i].is.features);
    free(w->sets[i].written);
  }
  free(w->sets);
  pthread_mutex_destroy(&w->mutex);
  json_decref(w->videos);
  json_decref(w->shards);
  json_decref(w->target_names);
  free(w->notice);
  free(w->dir);
  free(w);
  *out = NULL;
}
