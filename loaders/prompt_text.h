/* A prompt before its tokens: what diffusers' pipelines do to the text. */
#ifndef EBB_LOADERS_PROMPT_TEXT_H
#define EBB_LOADERS_PROMPT_TEXT_H

#include "kernels/error.h"

#include <stddef.h>

/* prompt_clean of WanPipeline (diffusers 0.42.1), malloc'ed: HTML character references resolved twice, as
 * Python's html.unescape does, then every run of Unicode's white space becomes one space, and none at the
 * ends (where ASCII's separators 1C to 1F go too, as str.strip has it). Not done: ftfy.fix_text, which the
 * pipeline calls first where that package is installed (it mends wrongly decoded text and straightens quotes;
 * plain ASCII without control characters is what it leaves alone). NULL text (a prompt that is not known) is
 * empty. Errors: text that is not UTF-8, more than EBB_PROMPT_BYTES of it; NULL then. */
#define EBB_PROMPT_BYTES ((size_t)1 << 20)
char *ebb_prompt_clean(const char *text, ebb_error *err);
/* The text as it is, malloc'ed, for pipelines that clean nothing. Errors as above. */
char *ebb_prompt_copy(const char *text, ebb_error *err);

/* True when ftfy might have changed the text: it holds something beyond printable ASCII and white space. */
bool ebb_prompt_is_beyond_ascii(const char *text);

/* The next character at text[*at], which moves on; -1 for bytes that are not UTF-8 (surrogates and more than
 * U+10FFFF are not). */
int ebb_utf8_next(const char *text, size_t bytes, size_t *at);

#endif
