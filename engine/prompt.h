/* The text states of a prompt: made elsewhere and kept in a file, or zeros for a model without a text
 * encoder. */
#ifndef EBB_ENGINE_PROMPT_H
#define EBB_ENGINE_PROMPT_H

#include "engine/model.h"

typedef struct ebb_prompt {
  ebb_text text;   /* [1, tokens, width] */
  float *states;   /* owned */
  char sha256[65]; /* of the file; "zeros" */
} ebb_prompt;

/* embedding: a safetensors file with `text` [1, tokens, width], or "zeros". tokens: the length it must have
 * (a cross-attention without mask gives another velocity field for every length, so a file of another length
 * is an error, not a choice). */
bool ebb_prompt_read(ebb_prompt *p, const char *embedding, int64_t tokens, int64_t width, ebb_error *err);
void ebb_prompt_free(ebb_prompt *p); /* a zeroed prompt is fine */

#endif
