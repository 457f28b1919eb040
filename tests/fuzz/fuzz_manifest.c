/* libFuzzer target: manifest.csv. What is accepted stays in its folder and has a name for everything. */
#include "loaders/manifest.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ebb_dataset set = {0};
  ebb_error err = {""};
  const bool tabs = size % 2 != 0;
  bool ok = ebb_manifest_parse(&set, tabs ? "fuzz.tsv" : "fuzz.csv", (const char *)data, size, "root", &err);
  if (ok == (err.text[0] != '\0'))
    abort(); /* a failure has a message, a success none */
  for (int64_t i = 0; ok && i < set.count; i++) {
    const ebb_video *v = &set.videos[i];
    if (v->id[0] == '\0' || v->group[0] == '\0' || v->category[0] == '\0' ||
        strncmp(v->path, "root/", 5) != 0 || strstr(v->path, "/../") != NULL ||
        (v->targets == NULL) != (set.target_count == 0))
      abort();
  }
  ebb_dataset_close(&set);
  return 0;
}
