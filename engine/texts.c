#include "engine/texts.h"

#include "engine/model.h"
#include "engine/t5.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/prompt_text.h"
#include "loaders/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#define PASS_TOKENS                                                                                          \
  32768 /* of the texts that go through the encoder together: half a GiB of UMT5-XXL's states */

/* ---- the table --------------------------------------------------------------------------------------- */

bool ebb_texts_rule(ebb_texts *t, const char *where, const char *pipeline, ebb_error *err) {
  static const struct {
    const char *begins;
    bool cleaned, trimmed;
  } known[] = {{"Wan", true, true}, {"CogVideoX", false, false}, {"LTX", false, false}}; /* see t5.h */
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strncmp(pipeline, known[i].begins, strlen(known[i].begins)) == 0) {
      snprintf(t->pipeline, sizeof t->pipeline, "%.63s", pipeline);
      t->cleaned = known[i].cleaned;
      t->trimmed = known[i].trimmed;
      return true;
    }
  return ebb_fail(
      err,
      "%s: the pipeline is \"%.60s\", expected one of Wan, CogVideoX or LTX, whose way with prompts "
      "is known",
      where, pipeline);
}

bool ebb_texts_open(ebb_texts *t, const char *model, int64_t max_tokens, ebb_error *err) {
  *t = (ebb_texts){.max_tokens = max_tokens};
  char *path = ebb_path_join(model, "model_index.json");
  json_t *json = ebb_json_read(path, err);
  ebb_error found = {""};
  const char *name = json ? ebb_json_text_or((ebb_json){json, path, &found}, "_class_name", "") : "";
  bool ok = json != NULL && ebb_texts_rule(t, path, name, err);
  json_decref(json);
  free(path);
  return ok;
}

static void free_entry(ebb_text_entry *e) {
  free(e->given);
  free(e->clean);
  free(e->ids);
  free(e->states);
}

void ebb_texts_free(ebb_texts *t) {
  for (int64_t i = 0; i < t->count; i++)
    free_entry(&t->entries[i]);
  free(t->entries);
  *t = (ebb_texts){0};
}

static char *cleaned(const ebb_texts *t, const char *text, ebb_error *err) {
  return t->cleaned ? ebb_prompt_clean(text, err) : ebb_prompt_copy(text, err);
}

static int64_t find_clean(const ebb_texts *t, const char *clean) {
  for (int64_t i = 0; i < t->count; i++)
    if (strcmp(t->entries[i].clean, clean) == 0)
      return i;
  return -1;
}

ebb_text_entry *ebb_texts_new(ebb_texts *t, char *given, char *clean) {
  if (t->count == t->capacity) {
    t->capacity = 2 * t->capacity + 16;
    t->entries = ebb_must(realloc(t->entries, (size_t)t->capacity * sizeof *t->entries));
  }
  t->entries[t->count] = (ebb_text_entry){.given = given, .clean = clean};
  return &t->entries[t->count++];
}

int64_t ebb_texts_find(const ebb_texts *t, const char *text, ebb_error *err) {
  char *clean = cleaned(t, text, err);
  const int64_t found = clean ? find_clean(t, clean) : -1;
  free(clean);
  return found;
}

int64_t ebb_texts_add(ebb_texts *t, const char *text, ebb_error *err) {
  char *clean = cleaned(t, text, err);
  if (!clean)
    return -1;
  const int64_t found = find_clean(t, clean);
  if (found >= 0 || t->count == EBB_TEXTS_MAX) {
    free(clean);
    if (found < 0)
      ebb_fail(err, "more than %lld different prompts", (long long)EBB_TEXTS_MAX);
    return found;
  }
  ebb_texts_new(t, ebb_format("%s", text ? text : ""), clean);
  return t->count - 1;
}

void ebb_texts_key(const ebb_texts *t, const char *clean, char sha256[65]) {
  char *all = ebb_format("ebb texts 1\n%s\n%s\n%lld\n%s", t->encoder_sha256, t->tokenizer_sha256,
                         (long long)t->max_tokens, clean);
  ebb_sha256(all, strlen(all), sha256);
  free(all);
}

void ebb_texts_states_key(const ebb_texts *t, const ebb_text_entry *e, char sha256[65]) {
  ebb_sha256(e->states, (size_t)(e->rows * t->width) * sizeof(float), sha256);
}

void ebb_texts_states(const ebb_texts *t, int64_t text, float *to) {
  const ebb_text_entry *e = &t->entries[text];
  const size_t known = (size_t)(e->rows * t->width), all = (size_t)(t->max_tokens * t->width);
  memcpy(to, e->states, known * sizeof *to);
  memset(to + known, 0, (all - known) * sizeof *to);
}

/* ---- tokens ------------------------------------------------------------------------------------------ */

bool ebb_texts_tokenize(ebb_texts *t, const char *model, ebb_error *err) {
  ebb_tokenizer *tokenizer;
  char *folder = ebb_path_join(model, "tokenizer");
  bool ok = ebb_tokenizer_open(&tokenizer, folder, err);
  if (ok && t->tokenizer_sha256[0] && strcmp(t->tokenizer_sha256, ebb_tokenizer_sha256(tokenizer)) != 0)
    ok = ebb_fail(err,
                  "%s: the tokenizer is not the one that the embeddings were made with (SHA-256 %.16s..., "
                  "expected %.16s...): write into another file",
                  folder, ebb_tokenizer_sha256(tokenizer), t->tokenizer_sha256);
  if (ok)
    strcpy(t->tokenizer_sha256, ebb_tokenizer_sha256(tokenizer));
  for (int64_t i = 0; ok && i < t->count; i++) {
    ebb_text_entry *e = &t->entries[i];
    if (e->ids || e->states)
      continue;
    e->ids = ebb_must(malloc((size_t)t->max_tokens * sizeof *e->ids));
    ok = ebb_tokenizer_ids(tokenizer, e->clean, t->max_tokens, e->ids, &e->length, &e->cut, err);
    e->rows = t->trimmed ? e->length : t->max_tokens;
  }
  ebb_tokenizer_close(&tokenizer);
  free(folder);
  return ok;
}

/* ---- states ------------------------------------------------------------------------------------------ */

typedef struct encoding {
  ebb_texts *texts;
  ebb_context *context;
  const char *folder;
  ebb_dtype dtype;
  ebb_t5 t5;
  int64_t *pending, pending_count; /* numbers of the texts without states */
  FILE *log;
} encoding;

static double mib(size_t bytes) {
  return (double)bytes / (1024.0 * 1024.0);
}

/* Texts from pending[first] on that go through the encoder together; `into` [at least as many]. */
static int64_t next_pass(const encoding *e, int64_t first, ebb_t5_text *into) {
  int64_t tokens = 0, n = 0;
  for (; first + n < e->pending_count; n++) {
    const ebb_text_entry *text = &e->texts->entries[e->pending[first + n]];
    if (n > 0 && tokens + text->rows > PASS_TOKENS)
      break;
    tokens += text->rows;
    into[n] = (ebb_t5_text){text->ids, text->rows, text->states};
  }
  return n;
}

static bool run_passes(encoding *e, ebb_error *err) {
  ebb_t5_text *texts = ebb_must(malloc((size_t)e->pending_count * sizeof *texts));
  bool ok = true;
  for (int64_t first = 0; ok && first < e->pending_count;) {
    const int64_t n = next_pass(e, first, texts);
    ok = ebb_t5_encode(&e->t5, n, texts, err);
    first += n;
  }
  free(texts);
  return ok;
}

static void print_plan(const encoding *e) {
  const ebb_t5 *t = &e->t5;
  const ebb_context *c = e->context;
  size_t available, total;
  int64_t most = 0;
  for (int64_t i = 0; i < e->pending_count; i++) {
    const ebb_text_entry *x = &e->texts->entries[e->pending[i]];
    most = x->length > most ? x->length : most;
    if (x->cut > 0)
      fprintf(e->log, "text         cut: the last %lld tokens of \"%.40s...\" are beyond %lld\n",
              (long long)x->cut, x->clean, (long long)e->texts->max_tokens);
    if (e->texts->cleaned && ebb_prompt_is_beyond_ascii(x->given))
      fprintf(
          e->log,
          "text         \"%.40s\" is more than plain ASCII: %s mends it by ftfy where that is installed\n",
          x->given, e->texts->pipeline);
  }
  ebb_context_memory(e->context, &available, &total);
  fprintf(
      e->log,
      "text         %lld prompts of up to %lld tokens (of %lld) by %s, %s: %.2f M parameters, %lld layers, "
      "width %lld\n",
      (long long)e->pending_count, (long long)most, (long long)e->texts->max_tokens, t->class_name,
      t->dtype == EBB_BF16 ? "bfloat16" : "float32", (double)t->parameters / 1e6, (long long)t->layers,
      (long long)t->width);
  fprintf(e->log,
          "memory       text encoder: weights %.1f MiB (a layer at a time), activations %.1f MiB: %.1f MiB "
          "of %.1f "
          "free on %s\n",
          mib(c->weights.peak), mib(c->activations.peak), mib(c->weights.peak + c->activations.peak),
          mib(available), ebb_context_device(c));
}

/* Counts, and says what it will take. The encoder's width is known after it. */
static bool plan(encoding *e, ebb_error *err) {
  ebb_texts *t = e->texts;
  ebb_context_count(e->context);
  bool ok = ebb_t5_open(&e->t5, e->context, e->folder, e->dtype, err) && run_passes(e, err);
  if (ok && t->width && t->width != e->t5.width)
    ok = ebb_fail(err, "%s: the encoder's states have %lld numbers, those of the table %lld", e->folder,
                  (long long)e->t5.width, (long long)t->width);
  if (ok) {
    t->width = e->t5.width;
    strcpy(t->encoder, e->t5.class_name);
    print_plan(e);
  }
  ebb_t5_close(&e->t5);
  return ok;
}

/* The encoder's identity: at once where there are states already, else after the encoding, which it runs
 * beside. */
static bool identify(encoding *e, ebb_error *err) {
  ebb_texts *t = e->texts;
  if (!ebb_digest_finish(&e->t5.digest, e->t5.sha256, err))
    return false;
  if (t->encoder_sha256[0] && strcmp(t->encoder_sha256, e->t5.sha256) != 0)
    return ebb_fail(
        err,
        "%s: the encoder is not the one that the embeddings were made with (SHA-256 %.16s..., expected "
        "%.16s...): write into another file",
        e->folder, e->t5.sha256, t->encoder_sha256);
  strcpy(t->encoder_sha256, e->t5.sha256);
  return true;
}

static bool run(encoding *e, ebb_error *err) {
  ebb_texts *t = e->texts;
  ebb_context *c = e->context;
  const size_t weights = c->weights.peak, activations = c->activations.peak;
  for (int64_t i = 0; i < e->pending_count; i++) {
    ebb_text_entry *x = &t->entries[e->pending[i]];
    x->states = malloc((size_t)(x->rows * t->width) * sizeof *x->states);
    if (!x->states)
      return ebb_fail(err, "no memory for the states of %lld prompts", (long long)e->pending_count);
  }
  bool ok = ebb_context_reserve(c, EBB_WEIGHTS, weights, err) &&
            ebb_context_reserve(c, EBB_ACTIVATIONS, activations, err) &&
            ebb_t5_open(&e->t5, c, e->folder, e->dtype, err) && (!t->encoder_sha256[0] || identify(e, err)) &&
            run_passes(e, err) && identify(e, err);
  for (int64_t i = 0; ok && i < e->pending_count; i++) {
    ebb_text_entry *x = &t->entries[e->pending[i]];
    ebb_texts_key(t, x->clean, x->sha256);
    ebb_texts_states_key(t, x, x->states_sha256);
  }
  ebb_t5_close(&e->t5);
  return ok;
}

/* The arenas are given back, counting or not. */
static void give_back(ebb_context *c) {
  ebb_error none = {""};
  ebb_context_reserve(c, EBB_WEIGHTS, 0, &none);
  ebb_context_reserve(c, EBB_ACTIVATIONS, 0, &none);
}

bool ebb_texts_encode(ebb_texts *t, const char *model, ebb_context *c, const char *dtype, bool plan_only,
                      FILE *log, ebb_error *err) {
  encoding e = {.texts = t, .context = c, .log = log};
  if (!ebb_model_dtype(c, "the text encoder's dtype", dtype, &e.dtype, err))
    return false;
  if (t->dtype[0] && strcmp(t->dtype, dtype) != 0)
    return ebb_fail(err, "the embeddings were made in %s, asked for in %s: write into another file", t->dtype,
                    dtype);
  if (!ebb_texts_tokenize(t, model, err))
    return false;
  snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
  e.pending = ebb_must(malloc(((size_t)t->count + 1) * sizeof *e.pending));
  for (int64_t i = 0; i < t->count; i++)
    if (!t->entries[i].states)
      e.pending[e.pending_count++] = i;
  char *folder = ebb_path_join(model, "text_encoder");
  e.folder = folder;
  bool ok = e.pending_count == 0 || (plan(&e, err) && (plan_only || run(&e, err)));
  give_back(c);
  free(folder);
  free(e.pending);
  return ok;
}
