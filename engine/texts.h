/* Prompts and their states: a table that is filled by a model's tokenizer and text encoder, or read from a
 * file that an earlier filling left, so that a run needs no text encoder.
 *
 * The file is safetensors. A text's tensor is F32 [rows, width] under the name
 *   SHA-256("ebb texts 1\n" encoder_sha256 "\n" tokenizer_sha256 "\n" max_tokens "\n" cleaned text)
 * and its metadata hold format, pipeline, encoder, encoder_sha256, tokenizer_sha256, dtype, max_tokens, and
 * for every text "text.<name>", cleaned, "length.<name>", its tokens before the padding, and "states.<name>",
 * the SHA-256 of its numbers. Texts are in order of name: the same texts make the same bytes. */
#ifndef EBB_ENGINE_TEXTS_H
#define EBB_ENGINE_TEXTS_H

#include "kernels/context.h"

#include <stdio.h>

#define EBB_TEXTS_MAX ((int64_t)1 << 16) /* texts of a table */

typedef struct ebb_text_entry {
  char *given, *clean;    /* as given (of a file: cleaned), and as tokenised */
  int64_t *ids;           /* [max_tokens]; NULL: not tokenised */
  int64_t length, cut;    /* tokens before the padding, the end token among them; tokens that did not fit */
  int64_t rows;           /* of states: length where the pipeline pads with zeros, else max_tokens */
  float *states;          /* [rows, width]; NULL: not encoded */
  char sha256[65];        /* its name in a file; empty: not encoded */
  char states_sha256[65]; /* of the states' bytes: what a run was conditioned on, whoever made it */
} ebb_text_entry;

typedef struct ebb_texts {
  int64_t max_tokens;    /* M: one length for all, both ways (REFERENCE 3.11, 29) */
  int64_t width;         /* of states; 0: none yet */
  char pipeline[64];     /* _class_name of model_index.json: "WanPipeline" */
  bool cleaned, trimmed; /* what it does: prompt_clean first; zeros in place of padding's states */
  char encoder[32];      /* "UMT5EncoderModel"; empty: none yet */
  char encoder_sha256[65], tokenizer_sha256[65];
  char dtype[16];
  int64_t count, capacity;
  ebb_text_entry *entries;
} ebb_texts;

/* An empty table by the rules of the pipeline that model/model_index.json names: those of Wan, CogVideoX, LTX
 * are known. Errors: no such file, another pipeline. */
bool ebb_texts_open(ebb_texts *t, const char *model, int64_t max_tokens, ebb_error *err);
void ebb_texts_free(ebb_texts *t); /* a zeroed table is fine */

/* The number of a text, which is added unless it, or one that is the same when cleaned, is there. -1: not
 * UTF-8, too long, or too many. NULL is the empty text. */
int64_t ebb_texts_add(ebb_texts *t, const char *text, ebb_error *err);
/* -1: not there (no error), or not UTF-8. */
int64_t ebb_texts_find(const ebb_texts *t, const char *text, ebb_error *err);

/* Tokens of all texts that have none, by model/tokenizer. Errors: the tokenizer's; one that is not the one
 * whose texts the table holds. */
bool ebb_texts_tokenize(ebb_texts *t, const char *model, ebb_error *err);
/* States of all texts that have none, by model/text_encoder in dtype "float32" or "bfloat16", tokenised first
 * where needed. What it takes is printed to `log` beforehand, and texts that were cut; with `plan_only` that
 * is all (entries have tokens and `rows`, no states). The context's arenas are taken for the length of the
 * call, and empty after it. Errors: the encoder's; not enough memory; a table with states of another encoder
 * or dtype. */
bool ebb_texts_encode(ebb_texts *t, const char *model, ebb_context *c, const char *dtype, bool plan_only,
                      FILE *log, ebb_error *err);

/* to [max_tokens, width]: states of a text, then zeros. */
void ebb_texts_states(const ebb_texts *t, int64_t text, float *to);

/* Every text must have states. Written whole or not at all. */
bool ebb_texts_write(const ebb_texts *t, const char *path, ebb_error *err);
/* Errors: another kind of file (ebb_texts_is_file tells before), a text whose name, or whose states, are not
 * what their hash says, shapes that do not fit the metadata. */
bool ebb_texts_read(ebb_texts *t, const char *path, ebb_error *err);
/* True when the file's metadata say that it is one of these; false for any other file, or none. */
bool ebb_texts_is_file(const char *path);

/* Private to texts.c and texts_file.c. */
bool ebb_texts_rule(ebb_texts *t, const char *where, const char *pipeline, ebb_error *err);
ebb_text_entry *ebb_texts_new(ebb_texts *t, char *given, char *clean); /* takes both over */
void ebb_texts_key(const ebb_texts *t, const char *clean, char sha256[65]);
void ebb_texts_states_key(const ebb_texts *t, const ebb_text_entry *e, char sha256[65]);

#endif
