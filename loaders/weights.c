#include "loaders/weights.h"

#include "kernels/numeric.h"
#include "kernels/random.h"
#include "loaders/file.h"
#include "loaders/json.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS_MAX 1024
#define ENTRIES_MAX ((int64_t)1 << 20)

typedef struct found {
  const ebb_st_entry *entry;
  const ebb_safetensors *file;
} found;

struct ebb_weights {
  char *folder;
  ebb_safetensors *files; /* in order of name */
  int file_count;
  found *tensors; /* of all files, in order of name */
  int64_t count;
};

void ebb_parameters_add(ebb_parameters *list, ebb_tensor *to, int rank, const int64_t *shape, ebb_init init,
                        int64_t fan_in, const char *name, ...) {
  if (list->count == list->capacity) {
    list->capacity = list->capacity > 0 ? 2 * list->capacity : 64;
    list->items = ebb_must(realloc(list->items, (size_t)list->capacity * sizeof *list->items));
  }
  ebb_parameter *p = &list->items[list->count++];
  *p = (ebb_parameter){.to = to, .dtype = list->dtype, .rank = rank, .init = init, .fan_in = fan_in};
  memcpy(p->shape, shape, (size_t)rank * sizeof *shape);
  va_list args;
  va_start(args, name);
  vsnprintf(p->name, sizeof p->name, name, args);
  va_end(args);
}

void ebb_parameters_free(ebb_parameters *list) {
  free(list->items);
  *list = (ebb_parameters){0};
}

/* ---- findings of one kind, listed at once ------------------------------------------------------------ */

typedef struct findings {
  int64_t count;
  int shown_max;
  ebb_error list; /* "\n    a\n    b" */
} findings;

__attribute__((format(printf, 2, 3))) static void note(findings *f, const char *format, ...) {
  if (f->count++ >= f->shown_max)
    return;
  char line[400];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  ebb_fail_also(&f->list, "\n    %s", line);
}

static void tell(const findings *f, const char *title, ebb_error *text) {
  if (f->count == 0)
    return;
  ebb_fail_also(text, "\n  %s (%lld):%s", title, (long long)f->count, f->list.text);
  if (f->count > f->shown_max)
    ebb_fail_also(text, "\n    and %lld more", (long long)(f->count - f->shown_max));
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static bool is_there(const char *folder, const char *name) {
  char *path = ebb_path_join(folder, name);
  bool there = ebb_is_there(path);
  free(path);
  return there;
}

/* Nothing that we read was found: says what lies there instead, since that is usually the answer. */
static bool fail_empty(const char *folder, ebb_error *err) {
  char **names;
  int64_t count;
  if (!ebb_folder_list(folder, &names, &count, err))
    return false;
  findings other = {.shown_max = 8};
  for (int64_t i = 0; i < count; i++) {
    const char *dot = strrchr(names[i], '.');
    if (dot != NULL && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".bin") == 0 ||
                        strcmp(dot, ".pt") == 0 || strcmp(dot, ".pth") == 0 || strcmp(dot, ".ckpt") == 0))
      note(&other, "%.200s", names[i]);
  }
  ebb_names_free(names, count);
  ebb_error text = {""};
  ebb_fail(&text,
           "%s: no weights: expected diffusion_pytorch_model.safetensors (or model.safetensors), or the "
           "same with .index.json",
           folder);
  tell(&other, "found instead", &text);
  if (other.count > 0)
    ebb_fail_also(&text,
                  "\n  (.bin, .pt and .ckpt are pickles: convert them to safetensors; a variant such as "
                  ".fp16.safetensors must be renamed)");
  return ebb_fail(err, "%s", text.text);
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct shard names of an index's weight_map in order; how many, 0 on failure. They live in `map`. */
static size_t list_shards(const char *path, json_t *map, const char **names, ebb_error *err) {
  const char *key;
  json_t *value;
  if (!json_is_object(map) || json_object_size(map) == 0) {
    ebb_fail(err, "%s: \"weight_map\" is missing or empty, expected {tensor: shard file}", path);
    return 0;
  }
  size_t n = 0, all = json_object_size(map);
  const char **each = ebb_must(malloc(all * sizeof *each));
  json_object_foreach(map, key, value) {
    if (!json_is_string(value) || !ebb_is_plain_name(json_string_value(value))) {
      ebb_fail(err,
               "%s: tensor \"%.100s\" is in shard \"%.100s\", expected the name of a file in the same folder",
               path, key, json_is_string(value) ? json_string_value(value) : "(not a string)");
      free(each);
      return 0;
    }
    each[n++] = json_string_value(value);
  }
  qsort(each, n, sizeof *each, by_text);
  size_t count = 0;
  for (size_t i = 0; i < n; i++) {
    if (count > 0 && strcmp(each[i], names[count - 1]) == 0)
      continue;
    if (count == SHARDS_MAX) {
      ebb_fail(err, "%s: more than %d shards", path, SHARDS_MAX);
      count = 0;
      break;
    }
    names[count++] = each[i];
  }
  free(each);
  return count;
}

static bool open_files(ebb_weights *w, const char *const *names, size_t count, ebb_error *err) {
  findings missing = {.shown_max = 12};
  for (size_t i = 0; i < count; i++)
    if (!is_there(w->folder, names[i]))
      note(&missing, "%s", names[i]);
  if (missing.count > 0) {
    ebb_error text = {""};
    ebb_fail(&text, "%s: shards that the index names are not there; download them", w->folder);
    tell(&missing, "missing", &text);
    return ebb_fail(err, "%s", text.text);
  }
  w->files = ebb_must(calloc(count, sizeof *w->files));
  for (size_t i = 0; i < count; i++) {
    char *path = ebb_path_join(w->folder, names[i]);
    bool ok = ebb_safetensors_open(&w->files[i], path, err);
    free(path);
    if (!ok)
      return false;
    w->file_count = (int)i + 1;
  }
  return true;
}

static int by_tensor_name(const void *a, const void *b) {
  return strcmp(((const found *)a)->entry->name, ((const found *)b)->entry->name);
}

/* One list of all files' tensors; a name in two shards is refused. */
static bool collect(ebb_weights *w, ebb_error *err) {
  int64_t all = 0;
  for (int f = 0; f < w->file_count; f++)
    all += w->files[f].count;
  if (all > ENTRIES_MAX)
    return ebb_fail(err, "%s: %lld tensors, at most %lld are accepted", w->folder, (long long)all,
                    (long long)ENTRIES_MAX);
  w->tensors = ebb_must(malloc(((size_t)all + 1) * sizeof *w->tensors));
  for (int f = 0; f < w->file_count; f++)
    for (int64_t i = 0; i < w->files[f].count; i++)
      w->tensors[w->count++] = (found){&w->files[f].entries[i], &w->files[f]};
  qsort(w->tensors, (size_t)w->count, sizeof *w->tensors, by_tensor_name);
  for (int64_t i = 1; i < w->count; i++)
    if (strcmp(w->tensors[i - 1].entry->name, w->tensors[i].entry->name) == 0)
      return ebb_fail(err, "%s: tensor \"%.100s\" is in two shards: %s and %s", w->folder,
                      w->tensors[i].entry->name, w->tensors[i - 1].file->path, w->tensors[i].file->path);
  return true;
}

static const found *find(const ebb_weights *w, const char *name) {
  int64_t low = 0, high = w->count;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    int order = strcmp(w->tensors[middle].entry->name, name);
    if (order == 0)
      return &w->tensors[middle];
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return NULL;
}

/* Every tensor is where the index says. */
static bool check_map(const ebb_weights *w, const char *path, json_t *map, ebb_error *err) {
  const char *key;
  json_t *value;
  json_object_foreach(map, key, value) {
    const found *t = find(w, key);
    const char *shard = json_string_value(value);
    if (t == NULL)
      return ebb_fail(err, "%s: tensor \"%.100s\" should be in %s but is in no shard", path, key, shard);
    const char *slash = strrchr(t->file->path, '/');
    if (strcmp(slash == NULL ? t->file->path : slash + 1, shard) != 0)
      return ebb_fail(err, "%s: tensor \"%.100s\" should be in %s but is in %s", path, key, shard,
                      t->file->path);
  }
  return true;
}

static bool open_index(ebb_weights *w, const char *name, ebb_error *err) {
  char *path = ebb_path_join(w->folder, name);
  json_t *index = ebb_json_read(path, err);
  const char **names = ebb_must(malloc(SHARDS_MAX * sizeof *names));
  bool ok = index != NULL;
  if (ok) {
    json_t *map = json_object_get(index, "weight_map");
    size_t count = list_shards(path, map, names, err);
    ok = count > 0 && open_files(w, names, count, err) && collect(w, err) && check_map(w, path, map, err);
  }
  free(names);
  json_decref(index);
  free(path);
  return ok;
}

bool ebb_weights_open(ebb_weights **out, const char *folder, ebb_error *err) {
  static const char *const names[] = {"diffusion_pytorch_model.safetensors",
                                      "diffusion_pytorch_model.safetensors.index.json", "model.safetensors",
                                      "model.safetensors.index.json"};
  ebb_weights *w = ebb_must(calloc(1, sizeof *w));
  w->folder = ebb_format("%s", folder);
  int which = 0;
  while (which < 4 && !is_there(folder, names[which]))
    which++;
  bool ok;
  if (which == 4)
    ok = fail_empty(folder, err);
  else if (which % 2 == 1)
    ok = open_index(w, names[which], err);
  else
    ok = open_files(w, &names[which], 1, err) && collect(w, err);
  if (!ok)
    ebb_weights_close(&w);
  *out = w;
  return ok;
}

void ebb_weights_close(ebb_weights **w) {
  if (*w == NULL)
    return;
  for (int i = 0; i < (*w)->file_count; i++)
    ebb_safetensors_close(&(*w)->files[i]);
  free((*w)->files);
  free((*w)->tensors);
  free((*w)->folder);
  free(*w);
  *w = NULL;
}

int64_t ebb_weights_count(const ebb_weights *w) {
  return w->count;
}

const ebb_st_entry *ebb_weights_entry(const ebb_weights *w, int64_t i) {
  return w->tensors[i].entry;
}

bool ebb_weights_digest(const ebb_weights *w, ebb_digest **digest, ebb_error *err) {
  int *fds = ebb_must(malloc((size_t)w->file_count * sizeof *fds));
  const char **paths = ebb_must(malloc((size_t)w->file_count * sizeof *paths));
  for (int i = 0; i < w->file_count; i++) {
    fds[i] = w->files[i].fd;
    paths[i] = w->files[i].path;
  }
  bool ok = ebb_digest_start(digest, w->file_count, fds, paths, err);
  free(paths);
  free(fds);
  return ok;
}

/* ---- loading ----------------------------------------------------------------------------------------- */

static bool agrees(const ebb_parameter *p, const ebb_st_entry *e) {
  return p->rank == e->rank && memcmp(p->shape, e->shape, (size_t)p->rank * sizeof *p->shape) == 0;
}

/* The dtype of a tensor in a file; false: one that weights cannot have. */
static bool dtype_of(const ebb_st_entry *e, ebb_dtype *dtype) {
  static const struct {
    const char *name;
    ebb_dtype dtype;
  } known[] = {{"F32", EBB_F32}, {"F16", EBB_F16}, {"BF16", EBB_BF16}};
  for (int i = 0; i < 3; i++)
    if (strcmp(e->dtype, known[i].name) == 0) {
      *dtype = known[i].dtype;
      return true;
    }
  return false;
}

typedef struct mismatch {
  findings missing, shape, dtype, unknown;
} mismatch;

static void compare(const ebb_weights *w, const ebb_parameters *list, mismatch *m) {
  bool *used = ebb_must(calloc((size_t)w->count + 1, sizeof *used));
  for (int64_t i = 0; i < list->count; i++) {
    const ebb_parameter *p = &list->items[i];
    const found *t = find(w, p->name);
    char expected[EBB_SHAPE_TEXT];
    ebb_shape_text(p->rank, p->shape, expected);
    if (t == NULL) {
      note(&m->missing, "%s %s", p->name, expected);
      continue;
    }
    used[t - w->tensors] = true;
    char is[EBB_SHAPE_TEXT + 80];
    ebb_dtype dtype;
    if (!agrees(p, t->entry))
      note(&m->shape, "%s: expected %s, found %s", p->name, expected, ebb_st_shape(t->entry, is, sizeof is));
    else if (!dtype_of(t->entry, &dtype))
      note(&m->dtype, "%s: %s, expected F32, F16 or BF16", p->name, t->entry->dtype);
  }
  for (int64_t i = 0; i < w->count; i++)
    if (!used[i])
      note(&m->unknown, "%.100s", w->tensors[i].entry->name);
  free(used);
}

static bool check(const ebb_weights *w, const ebb_parameters *list, ebb_error *err) {
  mismatch m = {{.shown_max = 12}, {.shown_max = 12}, {.shown_max = 12}, {.shown_max = 12}};
  compare(w, list, &m);
  int kinds = (m.missing.count > 0) + (m.shape.count > 0) + (m.dtype.count > 0) + (m.unknown.count > 0);
  if (kinds == 0)
    return true;
  if (kinds > 1) { /* the message holds about a dozen lines: share them out */
    int most = kinds == 2 ? 6 : 4;
    m = (mismatch){{.shown_max = most}, {.shown_max = most}, {.shown_max = most}, {.shown_max = most}};
    compare(w, list, &m);
  }
  ebb_error text = {""};
  ebb_fail(&text, "%s: the weights are not those of the model that config.json describes", w->folder);
  tell(&m.missing, "missing", &text);
  tell(&m.shape, "of another shape", &text);
  tell(&m.dtype, "of a dtype that cannot be used", &text);
  tell(&m.unknown, "unknown to the model", &text);
  return ebb_fail(err, "%s", text.text);
}

/* Memory in the weight arena for every wanted parameter. */
static bool allocate(ebb_context *c, ebb_parameters *list, ebb_error *err) {
  for (int64_t i = 0; i < list->count; i++) {
    ebb_parameter *p = &list->items[i];
    if (p->to != NULL)
      *p->to = ebb_tensor_new(c, EBB_WEIGHTS, p->dtype, p->name, p->rank, p->shape);
  }
  return ebb_context_ok(c, err);
}

/* An ebb_read_fn over a found tensor. */
static bool read_tensor(const void *user, void *to, size_t offset, size_t bytes, ebb_error *err) {
  const found *t = user;
  return ebb_safetensors_read(t->file, t->entry, offset, bytes, to, err);
}

bool ebb_weights_load(const ebb_weights *w, ebb_context *c, ebb_parameters *list, ebb_error *err) {
  if (!check(w, list, err) || !allocate(c, list, err))
    return false;
  ebb_source *sources = ebb_must(malloc(((size_t)list->count + 1) * sizeof *sources));
  int64_t count = 0;
  for (int64_t i = 0; i < list->count; i++) {
    const found *t = find(w, list->items[i].name);
    ebb_dtype dtype;
    if (list->items[i].to != NULL && dtype_of(t->entry, &dtype))
      sources[count++] = (ebb_source){*list->items[i].to, dtype, read_tensor, t};
  }
  bool ok = ebb_upload_from(c, count, sources, err);
  free(sources);
  return ebb_context_ok(c, err) && ok;
}

bool ebb_weights_read_f32(const ebb_weights *w, const char *name, int64_t first, int64_t count, float *to,
                          ebb_error *err) {
  const found *t = find(w, name);
  ebb_dtype dtype;
  if (t == NULL || !dtype_of(t->entry, &dtype))
    return ebb_fail(err, "%s: tensor \"%.100s\" is %s, expected one of F32, F16 or BF16", w->folder, name,
                    t == NULL ? "missing" : t->entry->dtype);
  if (first < 0 || count < 0 || count > ebb_st_elements(t->entry) - first)
    return ebb_fail(err, "%s: tensor \"%.100s\" has %lld numbers, asked for %lld from %lld on", w->folder,
                    name, (long long)ebb_st_elements(t->entry), (long long)count, (long long)first);
  const size_t width = ebb_dtype_size(dtype);
  char *raw = (char *)to + (size_t)count * (sizeof *to - width); /* behind what is converted already */
  if (!ebb_safetensors_read(t->file, t->entry, (uint64_t)first * width, (uint64_t)count * width, raw, err))
    return false;
  for (int64_t i = 0; dtype != EBB_F32 && i < count; i++) {
    uint16_t half;
    memcpy(&half, raw + (size_t)i * width, sizeof half);
    to[i] = dtype == EBB_BF16 ? ebb_float_of_bf16(half) : ebb_float_of_f16(half);
  }
  return true;
}

/* Numbers [first, first + n) of one parameter's start. Draws depend on (seed, stream, element) alone. */
static void fill(const ebb_parameter *p, uint64_t seed, uint64_t stream, uint64_t first, size_t n,
                 float *to) {
  double bound = 1.0 / sqrt((double)(p->fan_in > 0 ? p->fan_in : 1));
  double scale = 1.0 / sqrt((double)p->shape[p->rank - 1]);
  for (size_t i = 0; i < n; i++) {
    uint64_t k = first + i;
    switch (p->init) {
    case EBB_INIT_LINEAR:
      to[i] = (float)((2.0 * ebb_random_uniform(seed, stream, k) - 1.0) * bound);
      break;
    case EBB_INIT_ONES:
      to[i] = 1.0f;
      break;
    case EBB_INIT_ZEROS:
      to[i] = 0.0f;
      break;
    case EBB_INIT_TABLE: { /* Box-Muller, one normal from two draws; 1 - u is never 0 */
      double u = ebb_random_uniform(seed, stream, 2 * k), v = ebb_random_uniform(seed, stream, 2 * k + 1);
      to[i] = (float)(sqrt(-2.0 * log(1.0 - u)) * cos(2.0 * 3.14159265358979323846 * v) * scale);
      break;
    }
    }
  }
}

typedef struct start {
  const ebb_parameter *parameter;
  uint64_t seed, stream;
} start;

/* An ebb_read_fn over a parameter's start. */
static bool draw(const void *user, void *to, size_t offset, size_t bytes, ebb_error *err) {
  (void)err;
  const start *s = user;
  fill(s->parameter, s->seed, s->stream, offset / sizeof(float), bytes / sizeof(float), to);
  return true;
}

bool ebb_weights_initialise(ebb_context *c, ebb_parameters *list, uint64_t seed, ebb_error *err) {
  if (!allocate(c, list, err))
    return false;
  ebb_source *sources = ebb_must(malloc(((size_t)list->count + 1) * sizeof *sources));
  start *starts = ebb_must(malloc(((size_t)list->count + 1) * sizeof *starts));
  int64_t count = 0;
  for (int64_t i = 0; i < list->count; i++) {
    starts[i] = (start){&list->items[i], seed, (uint64_t)i};
    if (list->items[i].to != NULL)
      sources[count++] = (ebb_source){*list->items[i].to, EBB_F32, draw, &starts[i]};
  }
  bool ok = ebb_upload_from(c, count, sources, err);
  free(starts);
  free(sources);
  return ebb_context_ok(c, err) && ok;
}
