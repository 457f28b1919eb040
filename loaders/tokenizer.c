#include "loaders/tokenizer.h"

#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/sentencepiece.h"

#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES ((size_t)64 << 20)
#define SPECIAL_MAX 4096
#define ID_MAX (1 << 24)

typedef struct special {
  char *text;
  size_t bytes;
  int64_t id;
} special;

struct ebb_tokenizer {
  ebb_spm *spm;
  special *special; /* longest first: where several begin at one place the longest is meant */
  int special_count;
  int64_t pad, eos, top;
  char sha256[65];
};

#ifdef EBB_HAVE_SENTENCEPIECE

bool ebb_tokenizer_built_in(void) {
  return true;
}

static void add_special(ebb_tokenizer *t, const char *text, int64_t id) {
  for (int i = 0; i < t->special_count; i++)
    if (strcmp(t->special[i].text, text) == 0) {
      t->special[i].id = id;
      return;
    }
  t->special = ebb_must(realloc(t->special, ((size_t)t->special_count + 1) * sizeof *t->special));
  t->special[t->special_count++] = (special){ebb_format("%s", text), strlen(text), id};
}

static int64_t id_of(const ebb_tokenizer *t, const char *text) {
  for (int i = 0; i < t->special_count; i++)
    if (strcmp(t->special[i].text, text) == 0)
      return t->special[i].id;
  return ebb_spm_piece(t->spm, text);
}

/* "eos_token": "</s>" or {"content": "</s>", ...}. */
static const char *token_text(ebb_json config, const char *key, const char *fallback) {
  const json_t *v = json_object_get(config.object, key);
  return json_is_object(v) ? ebb_json_text_or((ebb_json){v, config.path, config.err}, "content", fallback)
                           : ebb_json_text_or(config, key, fallback);
}

/* {"0": {"content": "<pad>", ...}, ...} */
static void read_added(ebb_tokenizer *t, ebb_json config, const json_t *added) {
  const char *key;
  const json_t *value;
  if (!json_is_object(added) || json_object_size(added) > SPECIAL_MAX) {
    ebb_fail(config.err, "%s: \"added_tokens_decoder\" is not an object of at most %d tokens", config.path,
             SPECIAL_MAX);
    return;
  }
  json_object_foreach((json_t *)added, key, value) {
    char *end;
    const long long id = strtoll(key, &end, 10);
    const ebb_json j = {value, config.path, config.err};
    const char *text = json_is_object(value) ? ebb_json_text_or(j, "content", "") : "";
    if (end == key || *end || id < 0 || id > ID_MAX || !text[0])
      ebb_fail(config.err,
               "%s: added_tokens_decoder: \"%.40s\" is no number of a token with a content, expected {\"0\": "
               "{\"content\": \"<pad>\"}}",
               config.path, key);
    else if (ebb_json_bool_or(j, "single_word", false))
      ebb_fail(config.err, "%s: the token \"%.40s\" is a single_word, which is not supported", config.path,
               text);
    else
      add_special(t, text, id);
  }
}

/* What T5Tokenizer makes of a spiece.model alone. */
static void make_special(ebb_tokenizer *t, ebb_json config) {
  static const char *const keys[][2] = {
      {"pad_token", "<pad>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}};
  for (int i = 0; i < 3; i++) {
    const char *text = token_text(config, keys[i][0], keys[i][1]);
    const int id = ebb_spm_piece(t->spm, text);
    if (id < 0)
      ebb_fail(config.err,
               "%s: %s \"%.40s\" is no piece of spiece.model: expected one, or "
               "\"added_tokens_decoder\" with its number",
               config.path, keys[i][0], text);
    else
      add_special(t, text, id);
  }
  const int64_t extra = ebb_json_int_or(config, "extra_ids", 0, SPECIAL_MAX, 100);
  for (int64_t i = 0; i < extra; i++) {
    char text[32];
    snprintf(text, sizeof text, "<extra_id_%lld>", (long long)i);
    const int id = ebb_spm_piece(t->spm, text);
    add_special(t, text, id >= 0 ? id : ebb_spm_pieces(t->spm) + extra - 1 - i);
  }
}

static int longest_first(const void *a, const void *b) {
  const special *x = a, *y = b;
  return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : strcmp(x->text, y->text);
}

static void read_config(ebb_tokenizer *t, ebb_json config) {
  const char *class_name = ebb_json_text_or(config, "tokenizer_class", "T5Tokenizer");
  if (strcmp(class_name, "T5Tokenizer") != 0 && strcmp(class_name, "T5TokenizerFast") != 0)
    ebb_fail(config.err, "%s: \"tokenizer_class\" is \"%.60s\", expected T5Tokenizer or T5TokenizerFast",
             config.path, class_name);
  const json_t *added = json_object_get(config.object, "added_tokens_decoder");
  if (added && json_object_size(added) > 0)
    read_added(t, config, added);
  else
    make_special(t, config);
  t->pad = id_of(t, token_text(config, "pad_token", "<pad>"));
  t->eos = id_of(t, token_text(config, "eos_token", "</s>"));
  if (t->pad < 0 || t->eos < 0)
    ebb_fail(config.err, "%s: %s is no token: expected one of spiece.model or of added_tokens_decoder",
             config.path, t->pad < 0 ? "pad_token" : "eos_token");
  if (t->special_count > 0)
    qsort(t->special, (size_t)t->special_count, sizeof *t->special, longest_first);
  t->top = ebb_spm_pieces(t->spm) - 1;
  for (int i = 0; i < t->special_count; i++)
    t->top = t->special[i].id > t->top ? t->special[i].id : t->top;
}

/* Of the model's own hash, the end and padding, and every special token. */
static void hash_all(ebb_tokenizer *t, const char model[65]) {
  char *all =
      ebb_format("ebb tokenizer 1\n%s\npad %lld\neos %lld\n", model, (long long)t->pad, (long long)t->eos);
  for (int i = 0; i < t->special_count; i++) {
    char *more = ebb_format("%s%lld %s\n", all, (long long)t->special[i].id, t->special[i].text);
    free(all);
    all = more;
  }
  ebb_sha256(all, strlen(all), t->sha256);
  free(all);
}

static bool open_model(ebb_tokenizer *t, const char *folder, char sha256[65], ebb_error *err) {
  char *path = ebb_path_join(folder, "spiece.model"), *bytes = NULL, why[256];
  size_t count;
  bool ok = ebb_file_read(path, MODEL_BYTES, &bytes, &count, err);
  const char *disguise = ok ? ebb_file_disguise(bytes, count) : NULL;
  if (disguise)
    ok = ebb_fail(err, "%s: this is %s", path, disguise);
  if (ok) {
    ebb_sha256(bytes, count, sha256);
    t->spm = ebb_spm_open(bytes, count, why, sizeof why);
    ok = t->spm || ebb_fail(err, "%s: not a SentencePiece model: %s", path, why);
  }
  free(bytes);
  free(path);
  return ok;
}

bool ebb_tokenizer_open(ebb_tokenizer **out, const char *folder, ebb_error *err) {
  ebb_tokenizer *t = *out = ebb_must(calloc(1, sizeof *t));
  char model[65];
  if (!open_model(t, folder, model, err)) {
    ebb_tokenizer_close(out);
    return false;
  }
  ebb_error found = {""};
  char *path = ebb_path_join(folder, "tokenizer_config.json");
  json_t *json = ebb_is_there(path) ? ebb_json_read(path, &found) : json_object();
  if (json)
    read_config(t, (ebb_json){json, path, &found});
  json_decref(json);
  free(path);
  if (found.text[0]) {
    ebb_tokenizer_close(out);
    return ebb_fail(err, "%s", found.text);
  }
  hash_all(t, model);
  return true;
}

void ebb_tokenizer_close(ebb_tokenizer **t) {
  if (!*t)
    return;
  for (int i = 0; i < (*t)->special_count; i++)
    free((*t)->special[i].text);
  free((*t)->special);
  if ((*t)->spm)
    ebb_spm_close((*t)->spm);
  free(*t);
  *t = NULL;
}

/* A list that keeps the first `most` of what is put into it and counts all. */
typedef struct id_list {
  int64_t *ids, most, count;
} id_list;

static void put(id_list *l, int64_t id) {
  if (l->count < l->most)
    l->ids[l->count] = id;
  l->count++;
}

static bool put_text(const ebb_tokenizer *t, const char *text, size_t bytes, id_list *l, ebb_error *err) {
  size_t count = 0;
  char why[256];
  if (bytes == 0)
    return true;
  int *ids = ebb_spm_encode(t->spm, text, bytes, &count, why, sizeof why);
  if (!ids)
    return ebb_fail(err, "the prompt \"%.60s\" has no tokens: %s", text, why);
  for (size_t i = 0; i < count; i++)
    put(l, ids[i]);
  free(ids);
  return true;
}

static const special *special_at(const ebb_tokenizer *t, const char *text) {
  for (int i = 0; i < t->special_count; i++)
    if (strncmp(text, t->special[i].text, t->special[i].bytes) == 0)
      return &t->special[i];
  return NULL;
}

bool ebb_tokenizer_ids(const ebb_tokenizer *t, const char *text, int64_t max_tokens, int64_t *ids,
                       int64_t *count, int64_t *cut, ebb_error *err) {
  id_list l = {ids, max_tokens - 1, 0};
  const char *from = text, *p = text;
  while (*p) {
    const special *s = special_at(t, p);
    if (!s) {
      p++;
      continue;
    }
    if (!put_text(t, from, (size_t)(p - from), &l, err))
      return false;
    put(&l, s->id);
    from = p += s->bytes;
  }
  if (!put_text(t, from, (size_t)(p - from), &l, err))
    return false;
  *cut = l.count > l.most ? l.count - l.most : 0;
  *count = l.count - *cut;
  ids[(*count)++] = t->eos;
  for (int64_t i = *count; i < max_tokens; i++)
    ids[i] = t->pad;
  return true;
}

#else

bool ebb_tokenizer_built_in(void) {
  return false;
}

bool ebb_tokenizer_open(ebb_tokenizer **out, const char *folder, ebb_error *err) {
  *out = NULL;
  return ebb_fail(
      err,
      "%s: this build has no SentencePiece, which prompts as text need: install "
      "libsentencepiece-dev and build again, or take embeddings made elsewhere (prompt.embedding)",
      folder);
}

void ebb_tokenizer_close(ebb_tokenizer **t) {
  *t = NULL;
}

bool ebb_tokenizer_ids(const ebb_tokenizer *t, const char *text, int64_t max_tokens, int64_t *ids,
                       int64_t *count, int64_t *cut, ebb_error *err) {
  (void)t, (void)text, (void)max_tokens, (void)ids, (void)count, (void)cut;
  return ebb_fail(err, "this build has no SentencePiece");
}

#endif

const char *ebb_tokenizer_sha256(const ebb_tokenizer *t) {
  return t->sha256;
}

int64_t ebb_tokenizer_top(const ebb_tokenizer *t) {
  return t->top;
}
