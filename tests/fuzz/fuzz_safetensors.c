/* libFuzzer target: a safetensors header. The input is what follows the length word; the file is taken to hold as many data bytes as
 * the last two bytes of the input say, so that offsets can be right. */
#include "loaders/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2)
    return 0;
  uint64_t extra = (uint64_t)data[size - 1] << 8 | data[size - 2], header = size - 2;
  ebb_safetensors st;
  ebb_error err = {""};
  bool ok = ebb_safetensors_parse(&st, "fuzz", (const char *)data, header, 8 + header + extra, &err);
  if (ok == (err.text[0] != '\0'))
    abort(); /* a failure has a message, a success none */
  uint64_t bytes = 0;
  for (int64_t i = 0; ok && i < st.count; i++) {
    const ebb_st_entry *e = &st.entries[i];
    if (e->offset < 8 + header || e->offset + e->bytes > 8 + header + extra || ebb_st_elements(e) < 0 ||
        (i > 0 && ebb_safetensors_find(&st, e->name) == NULL))
      abort();
    bytes += e->bytes;
  }
  if (ok && bytes != extra)
    abort(); /* every byte belongs to one tensor */
  if (ok)
    ebb_safetensors_close(&st);
  return 0;
}
