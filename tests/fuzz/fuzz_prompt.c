/* Prompts before their tokens. Any bytes: a message, or text that is UTF-8 and has no white space at its ends. */
#include "loaders/prompt_text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ebb_error err = {""};
  char *text = malloc(size + 1);
  if (!text)
    return 0;
  memcpy(text, data, size);
  text[size] = '\0';
  char *clean = ebb_prompt_clean(text, &err);
  if (!clean != (err.text[0] != '\0'))
    abort();
  const size_t bytes = clean ? strlen(clean) : 0;
  for (size_t at = 0; at < bytes;)
    if (ebb_utf8_next(clean, bytes, &at) < 0)
      abort();
  if (bytes > 0 && (clean[0] == ' ' || clean[bytes - 1] == ' '))
    abort();
  free(clean);
  free(text);
  return 0;
}
