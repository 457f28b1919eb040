/* libFuzzer target: a file of torch.save. Checksums of the zip entries stand in the way of changes, so
 * that they are set right first: the input is the pickle and, after its last byte 0xFF, the storage. */
#include "loaders/pt.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(uint8_t *p, size_t bytes, uint64_t v) {
  for (size_t i = 0; i < bytes; i++)
    p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t checksum(const uint8_t *p, size_t n) {
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < n; i++) {
    crc ^= p[i];
    for (int bit = 0; bit < 8; bit++)
      crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

static size_t header(uint8_t *to, int central, const char *name, const uint8_t *data, size_t bytes,
                     size_t at) {
  size_t n = strlen(name), fixed = central ? 46 : 30;
  memset(to, 0, fixed);
  put(to, 4, central ? 0x02014b50u : 0x04034b50u);
  uint8_t *p = to + (central ? 16 : 14);
  put(p, 4, checksum(data, bytes));
  put(p + 4, 4, bytes);
  put(p + 8, 4, bytes);
  put(p + 12, 2, n);
  if (central)
    put(to + 42, 4, at);
  memcpy(to + fixed, name, n);
  return fixed + n;
}

static void use(const ebb_pt *pt) {
  for (int64_t i = 0; i < pt->count; i++) {
    const ebb_pt_tensor *t = &pt->tensors[i];
    if (t->name == NULL || t->count < 0 || t->rank > EBB_PT_RANK)
      abort();
    if (t->count > 65536)
      continue;
    float *x = malloc(((size_t)t->count + 1) * sizeof *x);
    if (x == NULL)
      abort();
    ebb_pt_floats(t, x);
    free(x);
  }
}

static void check(const void *bytes, size_t size) {
  ebb_pt pt;
  ebb_error err = {""};
  bool ok = ebb_pt_parse(&pt, "fuzz", bytes, size, &err);
  if (ok == (err.text[0] != '\0') || (!ok && pt.tensors != NULL))
    abort();
  use(&pt);
  ebb_pt_close(&pt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  check(data, size); /* as a whole file */
  size_t pickle = size;
  while (pickle > 0 && data[pickle - 1] != 0xFF)
    pickle--;
  pickle = pickle > 0 ? pickle - 1 : size;
  const uint8_t *storage = data + (pickle < size ? pickle + 1 : size);
  size_t stored = (size_t)(data + size - storage);
  uint8_t *file = malloc(2 * size + 512);
  if (file == NULL)
    abort();
  size_t first = header(file, 0, "f/data.pkl", data, pickle, 0);
  memcpy(file + first, data, pickle);
  size_t second = first + pickle, at = second + header(file + second, 0, "f/data/0", storage, stored, 0);
  memcpy(file + at, storage, stored);
  size_t directory = at + stored,
         end = directory + header(file + directory, 1, "f/data.pkl", data, pickle, 0);
  end += header(file + end, 1, "f/data/0", storage, stored, second);
  memset(file + end, 0, 22);
  put(file + end, 4, 0x06054b50u);
  put(file + end + 8, 2, 2);
  put(file + end + 10, 2, 2);
  put(file + end + 12, 4, end - directory);
  put(file + end + 16, 4, directory);
  check(file, end + 22);
  free(file);
  return 0;
}
