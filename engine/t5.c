#include "engine/t5.h"

#include "loaders/file.h"
#include "loaders/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One layer's weights. */
typedef struct layer {
  ebb_tensor norm1, q, k, v, o; /* [D], [N P, D] three times, [D, N P] */
  ebb_tensor norm2, up, gate;   /* [D], [F, D]; gate absent without gating */
  ebb_tensor down;              /* [D, F] */
} layer;

/* ---- config ------------------------------------------------------------------------------------------ */

/* The class that the folder was saved from; config.json of transformers lists it, or says the family alone.
 * */
static void read_class(ebb_t5 *t, ebb_json config) {
  const json_t *list = json_object_get(config.object, "architectures");
  const char *type = ebb_json_text_or(config, "model_type", "");
  const char *name = json_string_value(json_array_get(list, 0));
  if (!name)
    name = strcmp(type, "umt5") == 0 ? "UMT5EncoderModel" : strcmp(type, "t5") == 0 ? "T5EncoderModel" : type;
  t->shared_bias = strcmp(name, "T5EncoderModel") == 0;
  if (!t->shared_bias && strcmp(name, "UMT5EncoderModel") != 0)
    ebb_fail(config.err, "%s: \"architectures\" is \"%.60s\", expected UMT5EncoderModel or T5EncoderModel",
             config.path, name);
  snprintf(t->class_name, sizeof t->class_name, "%s", t->shared_bias ? "T5EncoderModel" : "UMT5EncoderModel");
}

/* "gated-gelu" is T5 1.1's name for a gated linear unit with the tanh form of GELU. */
static void read_activation(ebb_t5 *t, ebb_json config) {
  static const struct {
    const char *name;
    ebb_activation act;
    bool gated;
  } known[] = {{"gated-gelu", EBB_GELU_TANH, true},     {"relu", EBB_RELU, false},
               {"gated-relu", EBB_RELU, true},          {"gelu_new", EBB_GELU_TANH, false},
               {"gated-gelu_new", EBB_GELU_TANH, true}, {"silu", EBB_SILU, false},
               {"gated-silu", EBB_SILU, true}};
  const char *name = ebb_json_text_or(config, "feed_forward_proj", t->shared_bias ? "relu" : "gated-gelu");
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(name, known[i].name) == 0) {
      t->act = known[i].act;
      t->gated = known[i].gated;
      return;
    }
  ebb_fail(config.err,
           "%s: \"feed_forward_proj\" is \"%.60s\", expected relu, silu or gelu_new, each alone or after "
           "gated-, or gated-gelu",
           config.path, name);
}

static void read_sizes(ebb_t5 *t, ebb_json config) {
  t->layers = ebb_json_int(config, "num_layers", 1, 1024);
  t->width = ebb_json_int(config, "d_model", 1, 65536);
  t->heads = ebb_json_int(config, "num_heads", 1, 1024);
  t->head_width = ebb_json_int(config, "d_kv", 1, 4096);
  t->hidden = ebb_json_int(config, "d_ff", 1, 1 << 20);
  t->vocabulary = ebb_json_int(config, "vocab_size", 1, 1 << 24);
  t->buckets = ebb_json_int_or(config, "relative_attention_num_buckets", 4, 65536, 32);
  t->distance = ebb_json_int_or(config, "relative_attention_max_distance", 2, 1 << 24, 128);
  t->eps = (float)ebb_json_real_or(config, "layer_norm_epsilon", 0, 1, 1e-6);
  if (config.err->text[0] == '\0' && (t->buckets % 4 != 0 || t->distance <= t->buckets / 4))
    ebb_fail(
        config.err,
        "%s: %lld buckets of relative positions up to a distance of %lld: expected a multiple of 4, and a "
        "distance beyond a quarter of it",
        config.path, (long long)t->buckets, (long long)t->distance);
}

static bool read_config(ebb_t5 *t, const char *folder, ebb_error *err) {
  ebb_error found = {""};
  char *path = ebb_path_join(folder, "config.json");
  json_t *json = ebb_json_read(path, &found);
  ebb_json config = {json, path, &found};
  if (json) {
    read_class(t, config);
    read_activation(t, config);
    read_sizes(t, config);
  }
  json_decref(json);
  free(path);
  return found.text[0] == '\0' || ebb_fail(err, "%s", found.text);
}

/* ---- weights ----------------------------------------------------------------------------------------- */

static const char *const words[] = {"shared.weight", "encoder.embed_tokens.weight"};
#define BIAS "encoder.block.%lld.layer.0.SelfAttention.relative_attention_bias.weight"

static const ebb_st_entry *entry_of(const ebb_weights *w, const char *name) {
  for (int64_t i = 0; i < ebb_weights_count(w); i++)
    if (strcmp(ebb_weights_entry(w, i)->name, name) == 0)
      return ebb_weights_entry(w, i);
  return NULL;
}

/* One matrix or vector of layer l, into `to` or nowhere. */
static void list_one(ebb_parameters *list, ebb_dtype dtype, ebb_tensor *to, int64_t l, const char *name,
                     int64_t rows, int64_t columns) {
  list->dtype = dtype;
  ebb_parameters_add(list, to, rows ? 2 : 1, rows ? (int64_t[]){rows, columns} : &columns, EBB_INIT_LINEAR,
                     columns, "encoder.block.%lld.layer.%s.weight", (long long)l, name);
}

/* What one layer has; w NULL: for the check alone. */
static void list_layer(const ebb_t5 *t, ebb_parameters *list, int64_t l, layer *w) {
  const int64_t D = t->width, E = t->heads * t->head_width, F = t->hidden;
#define PLACE(field) (w ? &w->field : NULL)
  list_one(list, EBB_F32, PLACE(norm1), l, "0.layer_norm", 0, D);
  list_one(list, t->dtype, PLACE(q), l, "0.SelfAttention.q", E, D);
  list_one(list, t->dtype, PLACE(k), l, "0.SelfAttention.k", E, D);
  list_one(list, t->dtype, PLACE(v), l, "0.SelfAttention.v", E, D);
  list_one(list, t->dtype, PLACE(o), l, "0.SelfAttention.o", D, E);
  list_one(list, EBB_F32, PLACE(norm2), l, "1.layer_norm", 0, D);
  list_one(list, t->dtype, PLACE(up), l, t->gated ? "1.DenseReluDense.wi_1" : "1.DenseReluDense.wi", F, D);
  if (t->gated)
    list_one(list, t->dtype, PLACE(gate), l, "1.DenseReluDense.wi_0", F, D);
  list_one(list, t->dtype, PLACE(down), l, "1.DenseReluDense.wo", D, F);
#undef PLACE
  if (l == 0 || !t->shared_bias) /* read by the host: gathered by distance */
    list_one(list, EBB_F32, NULL, l, "0.SelfAttention.relative_attention_bias", t->buckets, t->heads);
}

/* Everything that the files may hold, of which layer `l` goes to w, and the final norm to `final`; either may
 * be NULL. The words' table has two names of which either may be there, or both; a whole T5 has a decoder
 * too. */
static void list_all(const ebb_t5 *t, ebb_parameters *list, int64_t l, layer *w, ebb_tensor *final) {
  bool listed = false;
  list->dtype = EBB_F32;
  for (int i = 0; i < 2; i++)
    if (entry_of(t->weights, words[i]) || (i == 1 && !listed)) {
      ebb_parameters_add(list, NULL, EBB_SHAPE(t->vocabulary, t->width), EBB_INIT_LINEAR, t->width, "%s",
                         words[i]);
      listed = true;
    }
  for (int64_t i = 0; i < ebb_weights_count(t->weights); i++) {
    const ebb_st_entry *e = ebb_weights_entry(t->weights, i);
    if ((strncmp(e->name, "decoder.", 8) == 0 || strcmp(e->name, "lm_head.weight") == 0) && e->rank >= 1 &&
        e->rank <= EBB_DIMS)
      ebb_parameters_add(list, NULL, e->rank, e->shape, EBB_INIT_LINEAR, 1, "%s", e->name);
  }
  for (int64_t i = 0; i < t->layers; i++)
    list_layer(t, list, i, i == l ? w : NULL);
  list->dtype = EBB_F32;
  ebb_parameters_add(list, final, EBB_SHAPE(t->width), EBB_INIT_ONES, 0, "encoder.final_layer_norm.weight");
}

/* Checks all names and shapes; loads one layer, or the final norm. The list keeps the tensors' names. */
static bool load(const ebb_t5 *t, ebb_parameters *list, int64_t l, layer *w, ebb_tensor *final,
                 ebb_error *err) {
  *list = (ebb_parameters){0};
  list_all(t, list, l, w, final);
  return ebb_weights_load(t->weights, t->context, list, err);
}

bool ebb_t5_open(ebb_t5 *t, ebb_context *c, const char *folder, ebb_dtype dtype, ebb_error *err) {
  *t = (ebb_t5){.context = c, .dtype = dtype};
  ebb_parameters list = {0};
  bool ok = read_config(t, folder, err) && ebb_weights_open(&t->weights, folder, err) &&
            load(t, &list, -1, NULL, NULL, err) &&
            (c->counting || ebb_weights_digest(t->weights, &t->digest, err));
  for (int64_t i = 0; ok && i < list.count; i++) {
    int64_t numbers = 1;
    for (int d = 0; d < list.items[i].rank; d++)
      numbers *= list.items[i].shape[d];
    t->parameters += strncmp(list.items[i].name, "encoder.block", 13) == 0 ? numbers : 0;
  }
  t->parameters +=
      ok ? t->width * (t->vocabulary + 1) : 0; /* the words, whatever their names; the last norm */
  ebb_parameters_free(&list);
  if (!ok)
    ebb_t5_close(t);
  return ok;
}

void ebb_t5_close(ebb_t5 *t) {
  ebb_digest_abandon(&t->digest);
  ebb_weights_close(&t->weights);
  *t = (ebb_t5){0};
}

/* ---- positions --------------------------------------------------------------------------------------- */

int64_t ebb_t5_bucket(int64_t distance, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2, n = distance < 0 ? -distance : distance;
  const int64_t side = distance > 0 ? half : 0;
  if (n < exact)
    return side + n;
  const float range = (float)log((double)max_distance / (double)exact);
  const float share = logf((float)n / (float)exact) / range * (float)(half - exact);
  const int64_t far = exact + (int64_t)share;
  return side + (far < half ? far : half - 1);
}

/* bias [N, 2 S - 1] by distance from table [buckets, N]. */
static void gather_bias(const ebb_t5 *t, const float *table, int64_t S, float *bias) {
  for (int64_t d = 1 - S; d < S; d++) {
    const float *row = table + ebb_t5_bucket(d, t->buckets, t->distance) * t->heads;
    for (int64_t n = 0; n < t->heads; n++)
      bias[n * (2 * S - 1) + d + S - 1] = row[n];
  }
}

static ebb_tensor upload_bias(const ebb_t5 *t, const float *table, int64_t S, float *scratch) {
  ebb_tensor bias = EBB_ACTIVATION(t->context, "position bias", t->heads, 2 * S - 1);
  if (!t->context->counting)
    gather_bias(t, table, S, scratch);
  ebb_upload(t->context, bias, scratch);
  return bias;
}

/* ---- the encoder ------------------------------------------------------------------------------------- */

static void linear(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act) {
  ebb_linear(c, y, x, w, EBB_NO_TENSOR, act);
}

/* x [1,S,D] through one layer. */
static void run_layer(const ebb_t5 *t, const layer *w, ebb_tensor x, ebb_tensor bias) {
  ebb_context *c = t->context;
  const int64_t S = x.shape[1], D = t->width, E = t->heads * t->head_width, F = t->hidden;
  const ebb_tensor none = EBB_NO_TENSOR;
  const size_t mark = ebb_arena_mark(&c->activations);
#define NEW(name, width) EBB_NEW(c, EBB_ACTIVATIONS, t->dtype, name, 1, S, width)
  ebb_tensor h = NEW("h", D), q = NEW("q", E), k = NEW("k", E), v = NEW("v", E), a = NEW("a", E);
  ebb_tensor up = NEW("up", F), gate = t->gated ? NEW("gate", F) : none;
  ebb_tensor y = EBB_ACTIVATION(c, "y", 1, S, D);
#undef NEW
  /* x <- x + W_o Attention(norm(x)) */
  ebb_rms_norm(c, h, x, w->norm1, t->eps);
  linear(c, q, h, w->q, EBB_IDENTITY);
  linear(c, k, h, w->k, EBB_IDENTITY);
  linear(c, v, h, w->v, EBB_IDENTITY);
  ebb_attention_relative(c, a, q, k, v, bias, (int)t->heads);
  linear(c, y, a, w->o, EBB_IDENTITY);
  ebb_gate_add(c, x, y, none);
  /* x <- x + W_down (act(W_gate norm(x)) * W_up norm(x)), or W_down act(W_up norm(x)) */
  ebb_rms_norm(c, h, x, w->norm2, t->eps);
  linear(c, up, h, w->up, t->gated ? EBB_IDENTITY : t->act);
  if (t->gated) {
    linear(c, gate, h, w->gate, EBB_IDENTITY);
    ebb_gated(c, up, gate, up, t->act);
  }
  linear(c, y, up, w->down, EBB_IDENTITY);
  ebb_gate_add(c, x, y, none);
  ebb_arena_release(&c->activations, mark);
}

/* Rows of the words' table into to [tokens, D]. Where the table is there twice, both must say the same. */
static bool read_words(const ebb_t5 *t, const ebb_t5_text *text, float *to, ebb_error *err) {
  const int64_t D = t->width;
  const bool first = entry_of(t->weights, words[0]) != NULL, both = first && entry_of(t->weights, words[1]);
  float *again = both ? ebb_must(malloc((size_t)D * sizeof *again)) : NULL;
  bool ok = true;
  for (int64_t s = 0; ok && s < text->tokens; s++) {
    const int64_t id = text->ids[s];
    if (id < 0 || id >= t->vocabulary)
      ok = ebb_fail(
          err, "token %lld of a text is %lld, and the encoder has %lld words: the tokenizer is another's",
          (long long)s, (long long)id, (long long)t->vocabulary);
    ok = ok && ebb_weights_read_f32(t->weights, words[first ? 0 : 1], id * D, D, to + s * D, err);
    ok = ok && (!both || ebb_weights_read_f32(t->weights, words[1], id * D, D, again, err));
    if (ok && both && memcmp(again, to + s * D, (size_t)D * sizeof *again) != 0)
      ok = ebb_fail(err, "row %lld of %s and of %s differ, expected one table under two names", (long long)id,
                    words[0], words[1]);
  }
  free(again);
  return ok;
}

/* x [1,S,D] of every text, in the activation arena. host [longest text, D] */
static bool embed(const ebb_t5 *t, int64_t count, const ebb_t5_text *texts, ebb_tensor *x, float *host,
                  ebb_error *err) {
  bool ok = true;
  for (int64_t i = 0; ok && i < count; i++) {
    x[i] = EBB_ACTIVATION(t->context, "states", 1, texts[i].tokens, t->width);
    ok = t->context->counting || read_words(t, &texts[i], host, err);
    ebb_upload(t->context, x[i], host);
  }
  return ok;
}

/* All texts through layer l. table [buckets, N]: of this layer, or kept from the first. */
static bool run_texts(const ebb_t5 *t, int64_t l, int64_t count, ebb_tensor *x, float *table, float *host,
                      ebb_error *err) {
  ebb_context *c = t->context;
  ebb_parameters list;
  layer w = {0};
  char name[128];
  const size_t mark = ebb_arena_mark(&c->weights);
  snprintf(name, sizeof name, BIAS, (long long)l);
  bool ok = load(t, &list, l, &w, NULL, err);
  if (ok && !c->counting && (l == 0 || !t->shared_bias))
    ok = ebb_weights_read_f32(t->weights, name, 0, t->buckets * t->heads, table, err);
  for (int64_t i = 0; ok && i < count; i++) {
    const size_t own = ebb_arena_mark(&c->activations);
    run_layer(t, &w, x[i], upload_bias(t, table, x[i].shape[1], host));
    ebb_arena_release(&c->activations, own);
  }
  ok = ebb_context_ok(c, err) && ok;
  ebb_parameters_free(&list);
  ebb_arena_release(&c->weights, mark);
  return ok;
}

static bool finish(const ebb_t5 *t, int64_t count, const ebb_t5_text *texts, const ebb_tensor *x,
                   ebb_error *err) {
  ebb_context *c = t->context;
  ebb_parameters list;
  ebb_tensor norm = {0};
  const size_t mark = ebb_arena_mark(&c->weights);
  bool ok = load(t, &list, -1, NULL, &norm, err);
  for (int64_t i = 0; ok && i < count; i++) {
    ebb_rms_norm(c, x[i], x[i], norm, t->eps);
    ebb_download(c, texts[i].states, x[i]);
  }
  ok = ebb_context_ok(c, err) && ok;
  ebb_parameters_free(&list);
  ebb_arena_release(&c->weights, mark);
  return ok;
}

bool ebb_t5_encode(ebb_t5 *t, int64_t count, const ebb_t5_text *texts, ebb_error *err) {
  int64_t longest = 1;
  for (int64_t i = 0; i < count; i++)
    longest = texts[i].tokens > longest ? texts[i].tokens : longest;
  const size_t mark = ebb_arena_mark(&t->context->activations);
  ebb_tensor *x = calloc((size_t)count + 1, sizeof *x);
  float *host = malloc((size_t)longest * (size_t)(t->width + 2 * t->heads) * sizeof *host);
  float *table = malloc((size_t)(t->buckets * t->heads) * sizeof *table);
  bool ok = (x && host && table) || ebb_fail(err, "no memory for %lld texts", (long long)count);
  ok = ok && embed(t, count, texts, x, host, err);
  for (int64_t l = 0; ok && l < t->layers; l++)
    ok = run_texts(t, l, count, x, table, host, err);
  ok = ok && finish(t, count, texts, x, err);
  free(table);
  free(host);
  free(x);
  ebb_arena_release(&t->context->activations, mark);
  return ok;
}
