/* libFuzzer target: status.json of IntPhys. */
#include "loaders/dataset.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bool possible = false;
  ebb_error err = {""};
  bool ok = ebb_intphys_status("fuzz", (const char *)data, size, &possible, &err);
  if (ok == (err.text[0] != '\0'))
    abort(); /* a failure has a message, a success none */
  return 0;
}
