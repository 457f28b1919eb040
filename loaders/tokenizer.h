/* From a prompt to token numbers: SentencePiece with the special tokens of a diffusers folder's tokenizer/,
 * as transformers' T5Tokenizer and T5TokenizerFast number them. */
#ifndef EBB_LOADERS_TOKENIZER_H
#define EBB_LOADERS_TOKENIZER_H

#include "kernels/error.h"

#include <stdint.h>

typedef struct ebb_tokenizer ebb_tokenizer;

/* False: this build has no SentencePiece; ebb_tokenizer_open says so too. */
bool ebb_tokenizer_built_in(void);

/* folder: ".../tokenizer", with spiece.model and, where it is there, tokenizer_config.json. Special tokens
 * and their numbers are those of "added_tokens_decoder"; without it pad_token, eos_token and unk_token as
 * spiece.model numbers them, and extra_ids (100 unless said) sentinels above its last piece: <extra_id_0> has
 * the highest number. Errors: no SentencePiece in this build, files missing or broken, a token_class that is
 * none of T5's, no padding or end token, tokens that want to stand alone as words. */
bool ebb_tokenizer_open(ebb_tokenizer **t, const char *folder, ebb_error *err);
void ebb_tokenizer_close(ebb_tokenizer **t); /* NULL inside is fine */
/* SHA-256 of what the numbers hang on: the model's bytes and the special tokens. */
const char *ebb_tokenizer_sha256(const ebb_tokenizer *t);
int64_t ebb_tokenizer_top(const ebb_tokenizer *t); /* the highest number that it gives */

/* ids[max_tokens] of UTF-8 text, already clean: the text's tokens, cut so that the end token follows as one
 * of at most max_tokens, then padding. Special tokens written out in the text are those tokens. *count: how
 * many before the padding (what transformers' attention mask adds to), *cut: how many of the text's did not
 * fit. max_tokens >= 1. U+2581, SentencePiece's own sign for a space, in a text is cut as SentencePiece cuts
 * it; the Fast tokenizer has one piece less where a word begins with it. Errors: text that SentencePiece
 * refuses. */
bool ebb_tokenizer_ids(const ebb_tokenizer *t, const char *text, int64_t max_tokens, int64_t *ids,
                       int64_t *count, int64_t *cut, ebb_error *err);

#endif
