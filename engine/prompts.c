#include "engine/prompts.h"

#include "loaders/file.h"

#include <stdlib.h>
#include <string.h>

/* ---- where states come from -------------------------------------------------------------------------- */

static bool has_encoder(const char *model) {
  char *encoder = ebb_path_join(model, "text_encoder"), *tokenizer = ebb_path_join(model, "tokenizer");
  const bool has = ebb_is_folder(encoder) && ebb_is_folder(tokenizer);
  free(tokenizer);
  free(encoder);
  return has;
}

/* Does the model's pipeline have a text encoder? By model_index.json, which a part of a download has, too. */
static bool wants_encoder(const char *model) {
  char *path = ebb_path_join(model, "model_index.json");
  ebb_error none = {""};
  json_t *index = ebb_is_there(path) ? ebb_json_read(path, &none) : NULL;
  const bool wants =
      index ? json_is_string(json_array_get(json_object_get(index, "text_encoder"), 1)) : has_encoder(model);
  json_decref(index);
  free(path);
  return wants;
}

static ebb_prompt_source source_of(const ebb_config *k, const char *embedding) {
  if (strcmp(embedding, "auto") == 0)
    return wants_encoder(k->model.path) ? EBB_PROMPT_ENCODER : EBB_PROMPT_ZEROS;
  if (strcmp(embedding, "zeros") == 0)
    return EBB_PROMPT_ZEROS;
  return ebb_texts_is_file(embedding) ? EBB_PROMPT_CACHE : EBB_PROMPT_FILE;
}

static const char *const source_names[] = {"zeros", "file", "cache", "encoder"};

static bool has_texts(ebb_prompt_source source) {
  return source == EBB_PROMPT_CACHE || source == EBB_PROMPT_ENCODER;
}

static bool guided(const ebb_prompts *p) {
  return p->config->inversion.guidance != 1;
}

/* A text that nothing would be made of is a mistake, not a wish. */
static bool refuse_text(const ebb_prompts *p, const char *key, const char *text, ebb_prompt_source source,
                        ebb_error *err) {
  if (!text[0] || has_texts(source))
    return true;
  return ebb_fail(
      err,
      "%s: %s is \"%.60s\", but the states are %s: expected an empty text, or prompt.embedding a file "
      "of `ebb text embed`, or auto with a model that has text_encoder/ and tokenizer/",
      p->config->path, key, text,
      source == EBB_PROMPT_ZEROS ? "zeros" : "those of a file that holds one text of its own");
}

/* The negative text's source is the text's own unless it is named. */
static bool choose_sources(ebb_prompts *p, ebb_error *err) {
  const ebb_config *k = p->config;
  p->source = source_of(k, k->prompt.embedding);
  const bool as_text = strcmp(k->prompt.negative_embedding, "auto") == 0;
  p->negative_source = as_text ? p->source : source_of(k, k->prompt.negative_embedding);
  if (p->source == EBB_PROMPT_ENCODER && !has_encoder(k->model.path))
    return ebb_fail(
        err,
        "%s: %s lists a text encoder, but has not both text_encoder/ and tokenizer/: expected them, or "
        "prompt.embedding a file of `ebb text embed` (zeros are not the empty prompt)",
        k->path, k->model.path);
  if (!refuse_text(p, "prompt.text", k->prompt.text, p->source, err))
    return false;
  if (!guided(p))
    return true;
  if (as_text && p->source == EBB_PROMPT_FILE)
    return ebb_fail(err,
                    "%s: prompt.embedding holds one text, and guidance needs a negative one: expected "
                    "prompt.negative_embedding, a file of that kind or zeros",
                    k->path);
  if (p->negative_source == EBB_PROMPT_CACHE && !as_text &&
      strcmp(k->prompt.embedding, k->prompt.negative_embedding) != 0)
    return ebb_fail(
        err,
        "%s: prompt.negative_embedding is another file of `ebb text embed` than prompt.embedding: "
        "expected both prompts in one",
        k->path);
  return refuse_text(p, "prompt.negative", k->prompt.negative, p->negative_source, err);
}

/* ---- texts ------------------------------------------------------------------------------------------- */

/* The number of a text: added for the encoder, looked up in a cache. */
static bool number_of(ebb_prompts *p, const char *text, int64_t *number, ebb_error *err) {
  if (p->source == EBB_PROMPT_ENCODER)
    return (*number = ebb_texts_add(&p->texts, text, err)) >= 0;
  ebb_error found = {""};
  *number = ebb_texts_find(&p->texts, text, &found);
  if (*number >= 0)
    return true;
  if (found.text[0])
    return ebb_fail(err, "%s", found.text);
  return ebb_fail(
      err,
      "%s: no embedding of \"%.80s\" among its %lld texts of %lld tokens: add it with `ebb text embed "
      "--model MODEL --out %s --max-tokens %lld --prompt ...`",
      p->config->prompt.embedding, text, (long long)p->texts.count, (long long)p->texts.max_tokens,
      p->config->prompt.embedding, (long long)p->texts.max_tokens);
}

/* A video whose text is not the run's own. */
static bool has_own(const ebb_prompts *p, const ebb_video *v) {
  return v->prompt && strcmp(v->prompt, p->config->prompt.text) != 0;
}

/* Prompts of the data set count where states can be had for them, unless prompt.per_video is off. */
static bool take_videos(ebb_prompts *p, const ebb_dataset *set, FILE *log, ebb_error *err) {
  const ebb_config *k = p->config;
  int64_t own = 0;
  for (int64_t i = 0; set && i < set->count; i++)
    own += has_own(p, &set->videos[i]);
  if (own == 0 || !k->prompt.per_video)
    return true;
  if (!has_texts(p->source) && strcmp(k->prompt.embedding, "auto") == 0)
    return ebb_fail(
        err,
        "%s: the data set gives prompts for %lld videos, and %s has no text_encoder/ and tokenizer/: "
        "expected prompt.embedding a file of `ebb text embed`, or prompt.per_video false",
        k->path, (long long)own, k->model.path);
  if (!has_texts(p->source)) {
    fprintf(log,
            "prompt       the data set's prompts for %lld videos are not used: prompt.embedding is for all\n",
            (long long)own);
    return true;
  }
  p->videos = set->count;
  p->of_video = ebb_must(malloc((size_t)set->count * sizeof *p->of_video));
  bool differ = false;
  for (int64_t i = 0; i < set->count; i++) {
    const char *text = set->videos[i].prompt ? set->videos[i].prompt : k->prompt.text;
    if (!number_of(p, text, &p->of_video[i], err))
      return ebb_fail_also(err, " (the prompt of video %s)", set->videos[i].id);
    differ = differ || p->of_video[i] != p->of_video[0];
  }
  p->per_video = differ;
  if (!differ) /* one text for all is the run's own */
    p->text = p->of_video[0];
  return true;
}

/* All that the run's texts have before padding, and one token of that: what follows is as many more of it. */
static void find_kept(ebb_prompts *p) {
  int64_t most = 0;
  for (int64_t i = 0; i < p->videos; i++) {
    const int64_t rows = p->texts.entries[p->of_video[i]].rows;
    most = rows > most ? rows : most;
  }
  most = most < EBB_FEW_KEYS ? EBB_FEW_KEYS : most; /* one way for a batch of one video and of many */
  p->kept = most < p->texts.max_tokens ? most + 1 : p->texts.max_tokens;
}

static bool open_texts(ebb_prompts *p, ebb_error *err) {
  const ebb_config *k = p->config;
  if (p->source == EBB_PROMPT_ENCODER)
    return ebb_texts_open(&p->texts, k->model.path, k->prompt.max_tokens, err);
  if (!ebb_texts_read(&p->texts, k->prompt.embedding, err))
    return false;
  return p->texts.max_tokens == k->prompt.max_tokens ||
         ebb_fail(err, "%s: texts of %lld tokens, prompt.max_tokens is %lld: expected the same length",
                  k->prompt.embedding, (long long)p->texts.max_tokens, (long long)k->prompt.max_tokens);
}

static bool take_texts(ebb_prompts *p, const ebb_dataset *set, ebb_context *c, bool plan_only, FILE *log,
                       ebb_error *err) {
  const ebb_config *k = p->config;
  const bool texts = has_texts(p->source), negative = guided(p) && has_texts(p->negative_source);
  if (!texts)
    return take_videos(p, set, log, err);
  if (!open_texts(p, err) || !take_videos(p, set, log, err) ||
      (p->text < 0 && !p->per_video && !number_of(p, k->prompt.text, &p->text, err)) ||
      (negative && !number_of(p, k->prompt.negative, &p->negative, err)))
    return false;
  if (p->source == EBB_PROMPT_ENCODER &&
      !ebb_texts_encode(&p->texts, k->model.path, c, k->prompt.dtype, plan_only, log, err))
    return false;
  if (p->per_video)
    find_kept(p);
  return true;
}

static bool identify(const ebb_prompts *p, ebb_prompt_source source, const char *embedding, int64_t number,
                     char sha256[65], ebb_error *err) {
  strcpy(sha256, source == EBB_PROMPT_ZEROS ? "zeros"
                 : number >= 0              ? p->texts.entries[number].states_sha256
                                            : "");
  return source != EBB_PROMPT_FILE || ebb_file_sha256(embedding, sha256, err);
}

bool ebb_prompts_open(ebb_prompts *p, const ebb_config *config, const ebb_dataset *set, ebb_context *c,
                      bool plan_only, FILE *log, ebb_error *err) {
  *p = (ebb_prompts){.config = config, .text = -1, .negative = -1};
  bool ok = choose_sources(p, err) && take_texts(p, set, c, plan_only, log, err) &&
            identify(p, p->source, config->prompt.embedding, p->text, p->sha256, err) &&
            (!guided(p) || identify(p, p->negative_source, config->prompt.negative_embedding, p->negative,
                                    p->negative_sha256, err));
  if (!ok)
    ebb_prompts_free(p);
  return ok;
}

void ebb_prompts_free(ebb_prompts *p) {
  free(p->of_video);
  ebb_texts_free(&p->texts);
  *p = (ebb_prompts){0};
}

void ebb_prompts_print(const ebb_prompts *p, FILE *out) {
  const ebb_config *k = p->config;
  fprintf(out, "prompt       ");
  if (p->per_video)
    fprintf(out, "%lld texts of the data set", (long long)p->texts.count - (p->negative >= 0));
  else if (p->text >= 0)
    fprintf(out, "\"%.60s\"", p->texts.entries[p->text].clean);
  else
    fprintf(out, "%s", p->source == EBB_PROMPT_ZEROS ? "zeros" : k->prompt.embedding);
  fprintf(out, ", %lld tokens", (long long)k->prompt.max_tokens);
  if (p->text >= 0)
    fprintf(out, " (%lld before the padding)", (long long)p->texts.entries[p->text].length);
  if (has_texts(p->source))
    fprintf(out, ", from %s",
            p->source == EBB_PROMPT_CACHE ? k->prompt.embedding : "the model's text encoder");
  fprintf(out, "\n");
}

/* ---- conditions -------------------------------------------------------------------------------------- */

/* While counting, texts of the encoder have lengths and no states: zeros stand for them in a text that is
 * shared, which then counts the tokens that it will have. */
static bool shared_states(const ebb_prompts *p, int64_t number, int64_t width, float *to, ebb_error *err) {
  const ebb_text_entry *e = &p->texts.entries[number];
  if (p->texts.width != width)
    return ebb_fail(err, "the text's states have %lld numbers, the model expects %lld (text_dim)",
                    (long long)p->texts.width, (long long)width);
  if (e->states) {
    ebb_texts_states(&p->texts, number, to);
    return true;
  }
  memset(to, 0, (size_t)(p->texts.max_tokens * width) * sizeof *to);
  for (int64_t row = 0; row < e->rows; row++)
    to[row * width] = (float)(row + 1);
  return true;
}

bool ebb_prompts_condition(const ebb_prompts *p, bool negative, ebb_model *m, ebb_condition *cond,
                           ebb_latent_shape shape, const double *labels, int64_t moments, ebb_error *err) {
  const ebb_config *k = p->config;
  const ebb_prompt_source source = negative ? p->negative_source : p->source;
  const char *named = negative && strcmp(k->prompt.negative_embedding, "auto") != 0
                          ? k->prompt.negative_embedding
                          : k->prompt.embedding;
  ebb_prompt prompt;
  bool ok = ebb_prompt_read(&prompt, source == EBB_PROMPT_FILE ? named : "zeros", k->prompt.max_tokens,
                            m->text_dim, err);
  if (ok && has_texts(source))
    ok = shared_states(p, negative ? p->negative : p->text, m->text_dim, prompt.states, err);
  ok = ok && ebb_model_condition(m, cond, shape, prompt.text, labels, moments, 1, err);
  ebb_prompt_free(&prompt);
  return ok;
}

bool ebb_prompts_condition_videos(const ebb_prompts *p, int64_t count, const int64_t *videos, ebb_model *m,
                                  ebb_condition *cond, ebb_latent_shape shape, const double *labels,
                                  int64_t moments, ebb_error *err) {
  const int64_t D = m->text_dim, K = p->kept, M = p->texts.max_tokens;
  if (p->texts.width != D)
    return ebb_fail(err, "the texts' states have %lld numbers, the model expects %lld (text_dim)",
                    (long long)p->texts.width, (long long)D);
  float *states = malloc((size_t)(count * K * D) * sizeof *states),
        *whole = malloc((size_t)(M * D) * sizeof *whole);
  bool ok = (states && whole) || ebb_fail(err, "no memory for %lld texts", (long long)count);
  for (int64_t i = 0; ok && i < count; i++) {
    ok = shared_states(p, p->of_video[videos[i]], D, whole, err);
    memcpy(states + i * K * D, whole, (size_t)(K * D) * sizeof *states);
  }
  const ebb_text text = {states, count, K, D};
  ok = ok && ebb_model_condition_repeated(m, cond, shape, text, M - K + 1, labels, moments, 1, err);
  free(whole);
  free(states);
  return ok;
}

/* ---- provenance -------------------------------------------------------------------------------------- */

static json_t *describe_text(const ebb_text_entry *e) {
  return ebb_must(json_pack("{s:s, s:s, s:I, s:s, s:s}", "given", e->given, "cleaned", e->clean, "length",
                            (json_int_t)e->length, "sha256", e->sha256, "states_sha256", e->states_sha256));
}

/* The text as the experiment gives it, though a text of the same words may have come first. */
static json_t *describe_own(const ebb_prompts *p, int64_t number, const char *given) {
  if (number < 0)
    return json_null();
  json_t *text = describe_text(&p->texts.entries[number]);
  if (given)
    json_object_set_new(text, "given", json_string(given));
  return text;
}

json_t *ebb_prompts_describe(const ebb_prompts *p) {
  const ebb_config *k = p->config;
  json_t *about = ebb_must(json_pack("{s:s, s:I, s:b}", "source", source_names[p->source], "max_tokens",
                                     (json_int_t)k->prompt.max_tokens, "per_video", p->per_video));
  if (has_texts(p->source)) {
    const ebb_texts *t = &p->texts;
    const char *const named[][2] = {{"pipeline", t->pipeline},
                                    {"encoder", t->encoder},
                                    {"encoder_sha256", t->encoder_sha256},
                                    {"tokenizer_sha256", t->tokenizer_sha256},
                                    {"dtype", t->dtype}};
    for (int i = 0; i < 5; i++)
      json_object_set_new(about, named[i][0], json_string(named[i][1]));
  }
  json_object_set_new(about, "text", describe_own(p, p->text, p->of_video ? NULL : k->prompt.text));
  json_object_set_new(about, "negative", describe_own(p, p->negative, k->prompt.negative));
  if (p->per_video) {
    json_t *list = json_array();
    for (int64_t i = 0; i < p->texts.count; i++) {
      bool used = false;
      for (int64_t v = 0; v < p->videos; v++)
        used = used || p->of_video[v] == i;
      if (used)
        json_array_append_new(list, describe_text(&p->texts.entries[i]));
    }
    json_object_set_new(about, "videos", list);
  }
  return about;
}
