#include "engine/texts.h"

#include "loaders/file.h"
#include "loaders/prompt_text.h"
#include "loaders/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define FORMAT "ebb texts 1"
#define TOKENS_MAX 65536

/* ---- writing ----------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
  return strcmp((*(const ebb_text_entry *const *)a)->sha256, (*(const ebb_text_entry *const *)b)->sha256);
}

typedef struct pairs { /* key, value, key, value; all owned */
  char **texts;
  int64_t count;
} pairs;

static void add_pair(pairs *p, char *key, char *value) {
  p->texts = ebb_must(realloc(p->texts, (size_t)(2 * p->count + 2) * sizeof *p->texts));
  p->texts[2 * p->count] = key;
  p->texts[2 * p->count++ + 1] = value;
}

static pairs describe(const ebb_texts *t, const ebb_text_entry *const *order) {
  pairs p = {0};
  const char *const fixed[][2] = {{"format", FORMAT},
                                  {"pipeline", t->pipeline},
                                  {"encoder", t->encoder},
                                  {"encoder_sha256", t->encoder_sha256},
                                  {"tokenizer_sha256", t->tokenizer_sha256},
                                  {"dtype", t->dtype}};
  for (int i = 0; i < 6; i++)
    add_pair(&p, ebb_format("%s", fixed[i][0]), ebb_format("%s", fixed[i][1]));
  add_pair(&p, ebb_format("max_tokens"), ebb_format("%lld", (long long)t->max_tokens));
  for (int64_t i = 0; i < t->count; i++) {
    add_pair(&p, ebb_format("text.%s", order[i]->sha256), ebb_format("%s", order[i]->clean));
    add_pair(&p, ebb_format("length.%s", order[i]->sha256), ebb_format("%lld", (long long)order[i]->length));
    add_pair(&p, ebb_format("states.%s", order[i]->sha256), ebb_format("%s", order[i]->states_sha256));
  }
  return p;
}

bool ebb_texts_write(const ebb_texts *t, const char *path, ebb_error *err) {
  if (t->count == 0)
    return ebb_fail(err, "%s: no prompts to write, expected at least one", path);
  const ebb_text_entry **order = ebb_must(malloc((size_t)t->count * sizeof *order));
  ebb_st_declare *declared = ebb_must(calloc((size_t)t->count, sizeof *declared));
  bool ok = true;
  for (int64_t i = 0; i < t->count; i++) {
    order[i] = &t->entries[i];
    if (ok && !order[i]->states)
      ok = ebb_fail(err, "%s: the prompt \"%.40s\" has no states", path, order[i]->clean);
  }
  qsort(order, (size_t)t->count, sizeof *order, by_name);
  for (int64_t i = 0; i < t->count; i++)
    declared[i] = (ebb_st_declare){order[i]->sha256, EBB_F32, 2, {order[i]->rows, t->width}};
  pairs about = describe(t, order);
  ebb_st_writer *w = NULL;
  ok = ok &&
       ebb_st_writer_open(&w, path, declared, t->count, (const char *const *)about.texts, about.count, err);
  for (int64_t i = 0; ok && i < t->count; i++)
    ok = ebb_st_writer_append(w, order[i]->states, (size_t)(order[i]->rows * t->width) * sizeof(float), err);
  ok = ok && ebb_st_writer_finish(&w, err);
  ebb_st_writer_abandon(&w);
  for (int64_t i = 0; i < 2 * about.count; i++)
    free(about.texts[i]);
  free(about.texts);
  free(declared);
  free(order);
  return ok;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

static const char *value_of(const ebb_safetensors *st, const char *key) {
  for (int64_t i = 0; i < st->metadata_count; i++)
    if (strcmp(st->metadata[2 * i], key) == 0)
      return st->metadata[2 * i + 1];
  return NULL;
}

/* Into text of `size` bytes; false with err filled when it is missing or longer. */
static bool take(const ebb_safetensors *st, const char *key, char *to, size_t size, ebb_error *err) {
  const char *value = value_of(st, key);
  if (!value || strlen(value) >= size)
    return ebb_fail(err, "%s: metadata \"%s\" is %s, expected at most %zu bytes", st->path, key,
                    value ? "too long" : "missing", size - 1);
  strcpy(to, value);
  return true;
}

static bool take_number(const ebb_safetensors *st, const char *key, int64_t most, int64_t *to,
                        ebb_error *err) {
  const char *value = value_of(st, key);
  char *end = NULL;
  *to = value ? strtoll(value, &end, 10) : 0;
  return (value && end != value && !*end && *to >= 1 && *to <= most) ||
         ebb_fail(err, "%s: metadata \"%.100s\" is \"%.40s\", expected a number from 1 to %lld", st->path,
                  key, value ? value : "", (long long)most);
}

static bool read_text(ebb_texts *t, const ebb_safetensors *st, const ebb_st_entry *e, ebb_error *err) {
  char key[96], sha256[65], shape[EBB_SHAPE_TEXT];
  int64_t length;
  snprintf(key, sizeof key, "text.%.64s", e->name);
  const char *text = value_of(st, key);
  snprintf(key, sizeof key, "length.%.64s", e->name);
  if (!text)
    return ebb_fail(err, "%s: tensor \"%.70s\" has no text in the metadata", st->path, e->name);
  if (!take_number(st, key, t->max_tokens, &length, err))
    return false;
  ebb_texts_key(t, text, sha256);
  if (strcmp(sha256, e->name) != 0)
    return ebb_fail(err, "%s: the text \"%.40s\" is under the name %.64s, expected %s: the file was changed",
                    st->path, text, e->name, sha256);
  const int64_t rows = t->trimmed ? length : t->max_tokens;
  t->width = t->width ? t->width : e->shape[1];
  if (strcmp(e->dtype, "F32") != 0 || e->rank != 2 || e->shape[0] != rows || e->shape[1] != t->width ||
      t->width < 1)
    return ebb_fail(err, "%s: the states of \"%.40s\" are %s %s, expected F32 [%lld, %lld]", st->path, text,
                    e->dtype, ebb_st_shape(e, shape, sizeof shape), (long long)rows, (long long)t->width);
  char *copy = ebb_prompt_copy(text, err);
  if (!copy)
    return false;
  ebb_text_entry *x = ebb_texts_new(t, ebb_format("%s", text), copy);
  x->length = length;
  x->rows = rows;
  strcpy(x->sha256, sha256);
  x->states = malloc((size_t)e->bytes); /* no more than the file has */
  if (!x->states)
    return ebb_fail(err, "%s: no memory for %lld texts", st->path, (long long)st->count);
  snprintf(key, sizeof key, "states.%.64s", e->name);
  if (!take(st, key, x->states_sha256, sizeof x->states_sha256, err) ||
      !ebb_safetensors_read_f32(st, e, x->states, err))
    return false;
  ebb_texts_states_key(t, x, sha256);
  return strcmp(sha256, x->states_sha256) == 0 ||
         ebb_fail(
             err,
             "%s: the states of \"%.40s\" have SHA-256 %.16s..., expected %.16s...: the file was changed",
             st->path, text, sha256, x->states_sha256);
}

static bool read_table(ebb_texts *t, const ebb_safetensors *st, ebb_error *err) {
  char format[32], pipeline[64];
  if (!take(st, "format", format, sizeof format, err))
    return false;
  if (strcmp(format, FORMAT) != 0)
    return ebb_fail(err, "%s: the format is \"%s\", expected \"%s\"", st->path, format, FORMAT);
  bool ok = take(st, "pipeline", pipeline, sizeof pipeline, err) &&
            ebb_texts_rule(t, st->path, pipeline, err) &&
            take(st, "encoder", t->encoder, sizeof t->encoder, err) &&
            take(st, "encoder_sha256", t->encoder_sha256, sizeof t->encoder_sha256, err) &&
            take(st, "tokenizer_sha256", t->tokenizer_sha256, sizeof t->tokenizer_sha256, err) &&
            take(st, "dtype", t->dtype, sizeof t->dtype, err) &&
            take_number(st, "max_tokens", TOKENS_MAX, &t->max_tokens, err);
  if (ok && (st->count < 1 || st->count > EBB_TEXTS_MAX))
    ok = ebb_fail(err, "%s: %lld texts, expected 1 to %lld", st->path, (long long)st->count,
                  (long long)EBB_TEXTS_MAX);
  for (int64_t i = 0; ok && i < st->count; i++)
    ok = read_text(t, st, &st->entries[i], err);
  return ok;
}

bool ebb_texts_read(ebb_texts *t, const char *path, ebb_error *err) {
  ebb_safetensors st;
  *t = (ebb_texts){0};
  if (!ebb_safetensors_open(&st, path, err))
    return false;
  bool ok = read_table(t, &st, err);
  if (!ok)
    ebb_texts_free(t);
  ebb_safetensors_close(&st);
  return ok;
}

bool ebb_texts_is_file(const char *path) {
  ebb_safetensors st;
  ebb_error none = {""};
  if (!ebb_safetensors_open(&st, path, &none))
    return false;
  const char *format = value_of(&st, "format");
  const bool is = format && strncmp(format, "ebb texts", 9) == 0;
  ebb_safetensors_close(&st);
  return is;
}
