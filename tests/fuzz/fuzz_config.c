/* libFuzzer target: experiment files. What is accepted is written, read again and must be the same. */
#include "loaders/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *written(const ebb_config *config, size_t *bytes) {
  char *text = NULL;
  FILE *out = open_memstream(&text, bytes);
  if (out == NULL || !ebb_config_write(config, out) || fclose(out) != 0)
    abort();
  return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static ebb_config config, back;
  ebb_error err = {""};
  bool ok = ebb_config_parse(&config, "fuzz", (const char *)data, size, &err);
  if (ok == (err.text[0] != '\0'))
    abort(); /* a failure has a message, a success none */
  if (!ok)
    return 0;
  size_t bytes, again_bytes;
  char *text = written(&config, &bytes);
  if (!ebb_config_parse(&back, "fuzz", text, bytes, &err))
    abort();
  char *again = written(&back, &again_bytes);
  if (bytes != again_bytes || memcmp(text, again, bytes) != 0)
    abort();
  free(text);
  free(again);
  return 0;
}
