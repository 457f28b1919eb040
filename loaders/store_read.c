#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/safetensors.h"
#include "loaders/store.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct shard {
  char *path;
  int set;
  int64_t count;
  uint64_t *offsets; /* [features of the set]: where each tensor's data begins in the file */
} shard;

typedef struct row {
  int64_t shard, at; /* shard -1: the set does not have the video */
} row;

struct ebb_store_shards {
  int64_t count;
  shard *items;
  row **rows; /* [sets][videos] */
};

/* ---- the index --------------------------------------------------------------------------------------- */

static int find_target(const ebb_store *s, const char *name) {
  for (int t = 0; t < s->target_count; t++)
    if (strcmp(s->target_names[t], name) == 0)
      return t;
  return -1;
}

static bool read_target_names(ebb_store *s, const char *path, ebb_error *err) {
  const json_t *list = json_object_get(s->index, "target_names");
  if (list != NULL && (!json_is_array(list) || json_array_size(list) > EBB_TARGETS_MAX))
    return ebb_fail(err, "%s: \"target_names\" is not a list of at most %d names", path, EBB_TARGETS_MAX);
  for (size_t t = 0; t < json_array_size(list); t++) {
    const char *name = json_string_value(json_array_get(list, t));
    if (name == NULL || name[0] == '\0' || strlen(name) >= EBB_TARGET_NAME || find_target(s, name) >= 0)
      return ebb_fail(err, "%s: entry %zu of \"target_names\" is not a new name of 1 to %d bytes", path, t,
                      EBB_TARGET_NAME - 1);
    memcpy(s->target_names[s->target_count++], name, strlen(name) + 1);
  }
  return true;
}

static bool read_targets(const ebb_store *s, ebb_store_video *v, const json_t *object, const char *path,
                         ebb_error *err) {
  if (object != NULL && !json_is_object(object))
    return ebb_fail(err, "%s: \"targets\" of video \"%s\" is not {name: number}", path, v->id);
  if (s->target_count > 0)
    v->targets = ebb_must(malloc((size_t)s->target_count * sizeof *v->targets));
  for (int t = 0; t < s->target_count; t++)
    v->targets[t] = NAN;
  const char *name;
  json_t *value;
  json_object_foreach((json_t *)object, name, value) {
    int t = find_target(s, name);
    if (t < 0 || !json_is_number(value))
      return ebb_fail(err, "%s: target \"%.60s\" of video \"%s\" is not a number named in \"target_names\"",
                      path, name, v->id);
    v->targets[t] = json_number_value(value);
  }
  return true;
}

static char *text_or_null(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? ebb_format("%s", text) : NULL;
}

static bool read_videos(ebb_store *s, const char *path, ebb_error *err) {
  const json_t *list = json_object_get(s->index, "videos");
  if (!json_is_array(list))
    return ebb_fail(err, "%s: \"videos\" is missing", path);
  s->videos = ebb_must(calloc(json_array_size(list) + 1, sizeof *s->videos));
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *v = json_array_get(list, i), *possible = json_object_get(v, "possible");
    ebb_error local = {""};
    ebb_json j = {v, path, &local};
    const char *id = ebb_json_text_or(j, "id", ""), *group = ebb_json_text_or(j, "group", ""),
               *category = ebb_json_text_or(j, "category", ""), *status = ebb_json_text_or(j, "status", "");
    bool failed = strcmp(status, "failed") == 0;
    if (local.text[0] != '\0' || id[0] == '\0' || (!failed && strcmp(status, "ok") != 0) ||
        !(json_is_boolean(possible) || json_is_null(possible)))
      return ebb_fail(err, "%s: video %zu is not {id, group, category, possible, status: ok or failed}", path,
                      i);
    s->videos[s->video_count++] = (ebb_store_video){
        .id = ebb_format("%s", id),
        .group = ebb_format("%s", group),
        .category = ebb_format("%s", category),
        .label = json_is_null(possible)   ? EBB_UNLABELLED
                 : json_is_true(possible) ? EBB_POSSIBLE
                                          : EBB_IMPOSSIBLE,
        .failed = failed ? ebb_format("%s", ebb_json_text_or(j, "reason", "unknown")) : NULL,
        .pair = text_or_null(v, "pair"),
        .view = text_or_null(v, "view"),
        .split = text_or_null(v, "split"),
        .prompt = text_or_null(v, "prompt")};
    if (!read_targets(s, &s->videos[i], json_object_get(v, "targets"), path, err))
      return false;
  }
  return true;
}

/* An array of integers as malloc'ed ints; absent or empty: count 0. */
static int read_ints(ebb_json j, const char *key, int **to) {
  int64_t *wide = ebb_must(malloc(EBB_STORE_LIST * sizeof *wide));
  int n = json_array_size(json_object_get(j.object, key)) == 0
              ? 0
              : ebb_json_ints(j, key, false, EBB_STORE_LIST, 0, INT32_MAX, wide);
  *to = ebb_must(malloc(((size_t)n + 1) * sizeof **to));
  for (int i = 0; i < n; i++)
    (*to)[i] = (int)wide[i];
  free(wide);
  return n;
}

/* A name of the index into a fixed field; empty or too long is an error. */
static void read_name(ebb_json j, const char *key, char *to, size_t size) {
  const char *text = ebb_json_text_or(j, key, "");
  if (text[0] == '\0' || strlen(text) >= size)
    ebb_fail(j.err, "%s: \"%s\" is \"%.80s\", expected a name of 1 to %zu bytes", j.path, key, text,
             size - 1);
  else
    memcpy(to, text, strlen(text) + 1);
}

static void read_feature(ebb_json j, int block_count, ebb_feature *x) {
  read_name(j, "name", x->name, sizeof x->name);
  x->by_block = ebb_json_bool_or(j, "by_block", false);
  bool early = strcmp(x->name, "attn_frames") == 0 || strcmp(x->name, "attn_entropy") == 0;
  x->by_head = ebb_json_bool_or(j, "by_head", x->by_block && early); /* early indices do not say it */
  if (json_array_size(json_object_get(j.object, "shape")) > 0)
    x->rank = ebb_json_ints(j, "shape", false, EBB_FEATURE_RANK, 1, INT32_MAX, x->shape);
  int64_t width = (int64_t)sizeof(float);
  for (int i = 0; i < x->rank; i++)
    if (__builtin_mul_overflow(width, x->shape[i], &width))
      ebb_fail(j.err, "%s: feature \"%s\" is too large", j.path, x->name);
  if (x->by_block && (x->rank < 1 || x->shape[0] != block_count))
    ebb_fail(j.err, "%s: feature \"%s\" is by block, but its first dimension is not the %d blocks", j.path,
             x->name, block_count);
  if (x->by_head && (!x->by_block || x->rank < 2))
    ebb_fail(j.err, "%s: feature \"%s\" is by head, but not by block and head", j.path, x->name);
}

static bool read_set(ebb_feature_set *s, const json_t *object, const char *path, ebb_error *err) {
  ebb_error local = {""};
  ebb_json j = {object, path, &local};
  read_name(j, "model", s->model, sizeof s->model);
  s->step_count = read_ints(j, "steps", &s->steps);
  s->sigmas = ebb_must(calloc(EBB_STORE_LIST, sizeof *s->sigmas));
  if (ebb_json_reals(j, "sigmas", false, EBB_STORE_LIST, s->sigmas) != s->step_count || s->step_count == 0)
    ebb_fail(&local, "%s: model \"%s\": steps and sigmas are not lists of one length", path, s->model);
  s->block_count = read_ints(j, "blocks", &s->blocks);
  const json_t *features = json_object_get(object, "features");
  size_t n = json_array_size(features);
  if (n < 1 || n > EBB_STORE_LIST)
    return ebb_fail(&local, "%s: model \"%s\": %zu features, expected 1 to %d", path, s->model, n,
                    EBB_STORE_LIST) ||
           ebb_fail(err, "%s", local.text);
  s->features = ebb_must(calloc(n, sizeof *s->features));
  for (size_t f = 0; f < n; f++) {
    read_feature((ebb_json){json_array_get(features, f), path, &local}, s->block_count, &s->features[f]);
    s->feature_count = (int)f + 1;
    if (ebb_store_feature(s, s->features[f].name) != (int)f)
      ebb_fail(&local, "%s: model \"%s\": two features are named \"%s\"", path, s->model,
               s->features[f].name);
  }
  return local.text[0] == '\0' || ebb_fail(err, "%s", local.text);
}

static bool read_sets(ebb_store *s, const char *path, ebb_error *err) {
  const json_t *list = json_object_get(s->index, "sets");
  size_t n = json_array_size(list);
  if (n > EBB_STORE_SETS)
    return ebb_fail(err, "%s: %zu feature sets, at most %d are accepted", path, n, EBB_STORE_SETS);
  s->sets = ebb_must(calloc(n + 1, sizeof *s->sets));
  for (size_t i = 0; i < n; i++) {
    s->set_count = (int)i + 1; /* so that close frees a set that is half read */
    if (!read_set(&s->sets[i], json_array_get(list, i), path, err))
      return false;
    if (ebb_store_find(s, s->sets[i].model) != (int)i)
      return ebb_fail(err, "%s: two feature sets are of model \"%s\"", path, s->sets[i].model);
  }
  return true;
}

/* ---- shards ------------------------------------------------------------------------------------------ */

/* Does the tensor look as the index says? [count, steps, shape of the feature] */
static bool check_tensor(const ebb_safetensors *st, const ebb_feature_set *set, const ebb_feature *x,
                         int64_t count, uint64_t *offset, ebb_error *err) {
  const ebb_st_entry *e = ebb_safetensors_find(st, x->name);
  if (e == NULL)
    return ebb_fail(err, "%s: feature \"%s\" is missing", st->path, x->name);
  bool fits = strcmp(e->dtype, "F32") == 0 && e->rank == x->rank + 2 && e->shape[0] == count &&
              e->shape[1] == set->step_count &&
              memcmp(e->shape + 2, x->shape, (size_t)x->rank * sizeof *x->shape) == 0;
  char text[EBB_SHAPE_TEXT + 80];
  if (!fits)
    return ebb_fail(err, "%s: feature \"%s\" is %s %s, which is not what index.json says", st->path, x->name,
                    e->dtype, ebb_st_shape(e, text, sizeof text));
  *offset = e->offset;
  return true;
}

/* Puts the shard's videos into the set's rows. */
static bool take_rows(ebb_store *s, const ebb_safetensors *st, int64_t number, const shard *h,
                      ebb_error *err) {
  const ebb_st_entry *e = ebb_safetensors_find(st, "video");
  if (e == NULL || strcmp(e->dtype, "I64") != 0 || e->rank != 1 || e->shape[0] != h->count)
    return ebb_fail(err, "%s: \"video\" is not I64 [%lld]", st->path, (long long)h->count);
  int64_t *videos = ebb_must(malloc((size_t)e->bytes + 1)); /* inside the file: not larger than it */
  bool ok = ebb_safetensors_read(st, e, 0, e->bytes, videos, err);
  for (int64_t i = 0; ok && i < h->count; i++) {
    if (videos[i] < 0 || videos[i] >= s->video_count)
      ok = ebb_fail(err, "%s: video %lld is not in index.json", st->path, (long long)videos[i]);
    else if (s->shards->rows[h->set][videos[i]].shard >= 0)
      ok = ebb_fail(err, "%s: video %lld is in another shard too", st->path, (long long)videos[i]);
    else
      s->shards->rows[h->set][videos[i]] = (row){number, i};
  }
  free(videos);
  return ok;
}

static bool open_shard(ebb_store *s, int64_t number, const char *sha256, int64_t bytes, ebb_error *err) {
  shard *h = &s->shards->items[number];
  const ebb_feature_set *set = &s->sets[h->set];
  uint64_t size;
  char hex[65];
  if (!ebb_file_size(h->path, &size, err))
    return false;
  if (size != (uint64_t)bytes)
    return ebb_fail(err, "%s: %llu bytes, expected %lld: the run folder was changed or not copied whole",
                    h->path, (unsigned long long)size, (long long)bytes);
  if (!ebb_file_sha256(h->path, hex, err))
    return false;
  if (strcmp(hex, sha256) != 0)
    return ebb_fail(err, "%s: SHA-256 %s, expected %.64s: the file was changed or is damaged", h->path, hex,
                    sha256);
  ebb_safetensors st;
  if (!ebb_safetensors_open(&st, h->path, err))
    return false;
  h->offsets = ebb_must(calloc((size_t)set->feature_count, sizeof *h->offsets));
  bool ok = true;
  for (int f = 0; ok && f < set->feature_count; f++)
    ok = check_tensor(&st, set, &set->features[f], h->count, &h->offsets[f], err);
  ok = ok && take_rows(s, &st, number, h, err);
  ebb_safetensors_close(&st);
  return ok;
}

/* Names of shards are not taken from the index: they follow from set and number, and must be found there. */
static bool open_shards(ebb_store *s, const char *path, ebb_error *err) {
  const json_t *list = json_object_get(s->index, "shards");
  size_t n = json_array_size(list);
  int64_t *numbers = ebb_must(calloc((size_t)s->set_count + 1, sizeof *numbers));
  s->shards->items = ebb_must(calloc(n + 1, sizeof *s->shards->items));
  bool ok = true;
  for (size_t i = 0; ok && i < n; i++) {
    ebb_error local = {""};
    ebb_json j = {json_array_get(list, i), path, &local};
    int set = (int)ebb_json_int(j, "set", 0, (int64_t)s->set_count - 1);
    int64_t count = ebb_json_int(j, "videos", 1, s->video_count);
    int64_t bytes = ebb_json_int(j, "bytes", 1, INT64_MAX);
    const char *sha256 = ebb_json_text_or(j, "sha256", ""), *file = ebb_json_text_or(j, "file", "");
    if (local.text[0] != '\0') {
      ok = ebb_fail(err, "%s", local.text);
      break;
    }
    char *expected =
        ebb_format("features/%s/shard-%05lld.safetensors", s->sets[set].model, (long long)numbers[set]++);
    if (strchr(s->sets[set].model, '/') != NULL || s->sets[set].model[0] == '.' ||
        strcmp(file, expected) != 0) {
      ok = ebb_fail(err, "%s: shard %zu is \"%.100s\", expected \"%s\"", path, i, file, expected);
    } else {
      s->shards->items[i] = (shard){.path = ebb_path_join(s->dir, expected), .set = set, .count = count};
      s->shards->count = (int64_t)i + 1;
      ok = open_shard(s, (int64_t)i, sha256, bytes, err);
    }
    free(expected);
  }
  free(numbers);
  return ok;
}

static bool read_index(ebb_store *s, const char *path, ebb_error *err) {
  s->index = ebb_json_read(path, err);
  if (s->index == NULL)
    return false;
  ebb_json j = {s->index, path, err};
  ebb_error local = {""};
  j.err = &local;
  if (strcmp(ebb_json_text_or(j, "format", ""), "ebb feature store") != 0 ||
      ebb_json_int_or(j, "version", 1, 1, 0) != 1)
    return ebb_fail(err, "%s: not an index of an ebb feature store of version 1", path);
  s->notice = json_string_value(json_object_get(s->index, "notice"));
  if (!read_target_names(s, path, err) || !read_videos(s, path, err) || !read_sets(s, path, err))
    return false;
  s->shards->rows = ebb_must(calloc((size_t)s->set_count + 1, sizeof *s->shards->rows));
  for (int i = 0; i < s->set_count; i++) {
    s->shards->rows[i] = ebb_must(malloc(((size_t)s->video_count + 1) * sizeof(row)));
    for (int64_t v = 0; v < s->video_count; v++)
      s->shards->rows[i][v] = (row){-1, 0};
  }
  return open_shards(s, path, err);
}

bool ebb_store_open(ebb_store *store, const char *dir, ebb_error *err) {
  *store = (ebb_store){.dir = ebb_format("%s", dir), .shards = ebb_must(calloc(1, sizeof *store->shards))};
  char *path = ebb_path_join(dir, "index.json");
  bool ok;
  if (!ebb_is_folder(dir))
    ok = ebb_fail(err, "%s: no such run folder", dir);
  else if (!ebb_is_there(path))
    ok = ebb_fail(err,
                  "%s: no index.json: the run is not finished; start `ebb invert` again with the same folder",
                  dir);
  else
    ok = read_index(store, path, err);
  free(path);
  if (!ok)
    ebb_store_close(store);
  return ok;
}

void ebb_store_close(ebb_store *store) {
  for (int64_t i = 0; i < store->video_count; i++) {
    free(store->videos[i].id);
    free(store->videos[i].group);
    free(store->videos[i].category);
    free(store->videos[i].failed);
    free(store->videos[i].pair);
    free(store->videos[i].view);
    free(store->videos[i].split);
    free(store->videos[i].prompt);
    free(store->videos[i].targets);
  }
  free(store->videos);
  struct ebb_store_shards *h = store->shards;
  for (int i = 0; h != NULL && h->rows != NULL && i < store->set_count; i++)
    free(h->rows[i]);
  for (int64_t i = 0; h != NULL && i < h->count; i++) {
    free(h->items[i].path);
    free(h->items[i].offsets);
  }
  if (h != NULL) {
    free(h->rows);
    free(h->items);
    free(h);
  }
  for (int i = 0; i < store->set_count; i++) {
    free(store->sets[i].steps);
    free(store->sets[i].sigmas);
    free(store->sets[i].blocks);
    free(store->sets[i].features);
  }
  free(store->sets);
  json_decref(store->index);
  free(store->dir);
  *store = (ebb_store){0};
}

/* ---- looking things up ------------------------------------------------------------------------------- */

int ebb_store_find(const ebb_store *store, const char *model) {
  for (int i = 0; i < store->set_count; i++)
    if (strcmp(store->sets[i].model, model) == 0)
      return i;
  return -1;
}

int ebb_store_feature(const ebb_feature_set *set, const char *name) {
  for (int f = 0; f < set->feature_count; f++)
    if (strcmp(set->features[f].name, name) == 0)
      return f;
  return -1;
}

bool ebb_store_has(const ebb_store *store, int set, int64_t video) {
  return store->shards->rows[set][video].shard >= 0;
}

int64_t ebb_store_width(const ebb_feature *feature) {
  int64_t width = 1;
  for (int i = feature->by_block ? 1 : 0; i < feature->rank; i++)
    width *= feature->shape[i];
  return width;
}

int64_t ebb_store_heads(const ebb_feature *feature) {
  return feature->by_head ? feature->shape[1] : 1;
}

bool ebb_store_gather(const ebb_store *store, int set, int feature, int step, int block, int head, int64_t n,
                      const int64_t *videos, float *x, ebb_error *err) {
  const ebb_feature_set *s = &store->sets[set];
  const ebb_feature *f = &s->features[feature];
  const int64_t all = ebb_store_width(f), blocks = f->by_block ? s->block_count : 1;
  const int64_t width = head == EBB_ALL_HEADS ? all : all / ebb_store_heads(f);
  int64_t opened = -1;
  int fd = -1;
  bool ok = true;
  for (int64_t i = 0; ok && i < n; i++) {
    row r = store->shards->rows[set][videos[i]];
    if (r.shard < 0) {
      ok =
          ebb_fail(err, "%s: video \"%s\" has no features of model \"%s\"%s%s", store->dir,
                   store->videos[videos[i]].id, s->model, store->videos[videos[i]].failed != NULL ? ": " : "",
                   store->videos[videos[i]].failed != NULL ? store->videos[videos[i]].failed : "");
      break;
    }
    const shard *h = &store->shards->items[r.shard];
    if (r.shard !=
        opened) { /* one open file per call at a time: runs have more shards than a process may open */
      if (fd >= 0)
        close(fd);
      fd = open(h->path, O_RDONLY | O_CLOEXEC);
      opened = r.shard;
      if (fd < 0) {
        ok = ebb_fail(err, "%s: cannot open: %s", h->path, strerror(errno));
        break;
      }
    }
    int64_t at = ((r.at * s->step_count + step) * blocks + (f->by_block ? block : 0)) * all;
    at += head == EBB_ALL_HEADS ? 0 : head * width;
    ok = ebb_read_at(fd, h->path, h->offsets[feature] + (uint64_t)at * sizeof(float),
                     (size_t)width * sizeof(float), x + i * width, err);
  }
  if (fd >= 0)
    close(fd);
  return ok;
}
