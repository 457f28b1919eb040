/* Small typed reading of JSON objects (jansson), with messages that name file and key. */
#ifndef EBB_LOADERS_JSON_H
#define EBB_LOADERS_JSON_H

#include "kernels/error.h"

#include <jansson.h>
#include <stdint.h>

/* Parses a file (<= 64 MB), duplicate keys refused; errors give line and column. NULL on failure. */
json_t *ebb_json_read(const char *path, ebb_error *err);

/* An object being read, with its file for messages. The first failure is kept in err; later reads return the
 * fallback, so that a config reads as a list of lines and is checked once at the end. */
typedef struct ebb_json {
  const json_t *object;
  const char *path;
  ebb_error *err;
} ebb_json;

/* `key` must be there unless a fallback is given in the *_or forms; null counts as absent. Out of [low, high]
 * or of another type: error. */
int64_t ebb_json_int(ebb_json j, const char *key, int64_t low, int64_t high);
int64_t ebb_json_int_or(ebb_json j, const char *key, int64_t low, int64_t high, int64_t fallback);
double ebb_json_real(ebb_json j, const char *key, double low, double high);
double ebb_json_real_or(ebb_json j, const char *key, double low, double high, double fallback);
bool ebb_json_bool_or(ebb_json j, const char *key, bool fallback);
const char *ebb_json_text_or(ebb_json j, const char *key,
                             const char *fallback); /* lives as long as the object */
/* An array of 1..most numbers; returns how many (0 when absent or wrong: then err is filled unless
 * `optional`). */
int ebb_json_ints(ebb_json j, const char *key, bool optional, int most, int64_t low, int64_t high,
                  int64_t *to);
int ebb_json_reals(ebb_json j, const char *key, bool optional, int most, double *to);
int ebb_json_bools(ebb_json j, const char *key, bool optional, int most, bool *to);
/* `key` must be absent or null: what it stands for is not supported. The error shows its value and `what`
 * ("image-to-video models"). */
void ebb_json_refuse(ebb_json j, const char *key, const char *what);

#endif
