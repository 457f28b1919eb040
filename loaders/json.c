#include "loaders/json.h"

#include "loaders/file.h"

#include <math.h>
#include <stdlib.h>

json_t *ebb_json_read(const char *path, ebb_error *err) {
  char *text;
  size_t bytes;
  if (!ebb_file_read(path, (size_t)64 << 20, &text, &bytes, err))
    return NULL;
  json_error_t e;
  json_t *json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &e);
  if (json == NULL) {
    const char *disguise = ebb_file_disguise(text, bytes);
    if (disguise != NULL)
      ebb_fail(err, "%s: this is %s", path, disguise);
    else
      ebb_fail(err, "%s:%d:%d: not valid JSON: %s", path, e.line, e.column, e.text);
  }
  free(text);
  return json;
}

static const char *type_of(const json_t *v) {
  switch (json_typeof(v)) {
  case JSON_OBJECT:
    return "an object";
  case JSON_ARRAY:
    return "an array";
  case JSON_STRING:
    return "a string";
  case JSON_INTEGER:
    return "an integer";
  case JSON_REAL:
    return "a real number";
  case JSON_TRUE:
  case JSON_FALSE:
    return "a boolean";
  default:
    return "null";
  }
}

/* The value of a key; NULL when absent or null. */
static const json_t *get(ebb_json j, const char *key) {
  const json_t *v = json_object_get(j.object, key);
  return v == NULL || json_is_null(v) ? NULL : v;
}

static const json_t *need(ebb_json j, const char *key, const char *expected) {
  const json_t *v = get(j, key);
  if (v == NULL)
    ebb_fail(j.err, "%s: \"%s\" is missing, expected %s", j.path, key, expected);
  return v;
}

int64_t ebb_json_int_or(ebb_json j, const char *key, int64_t low, int64_t high, int64_t fallback) {
  const json_t *v = get(j, key);
  if (v == NULL)
    return fallback;
  if (!json_is_integer(v)) {
    ebb_fail(j.err, "%s: \"%s\" is %s, expected an integer from %lld to %lld", j.path, key, type_of(v),
             (long long)low, (long long)high);
    return fallback;
  }
  int64_t n = json_integer_value(v);
  if (n < low || n > high) {
    ebb_fail(j.err, "%s: \"%s\" is %lld, expected an integer from %lld to %lld", j.path, key, (long long)n,
             (long long)low, (long long)high);
    return fallback;
  }
  return n;
}

int64_t ebb_json_int(ebb_json j, const char *key, int64_t low, int64_t high) {
  return need(j, key, "an integer") == NULL ? low : ebb_json_int_or(j, key, low, high, low);
}

double ebb_json_real_or(ebb_json j, const char *key, double low, double high, double fallback) {
  const json_t *v = get(j, key);
  if (v == NULL)
    return fallback;
  double x = json_number_value(v);
  if (!json_is_number(v))
    ebb_fail(j.err, "%s: \"%s\" is %s, expected a number from %g to %g", j.path, key, type_of(v), low, high);
  else if (!(x >= low && x <= high))
    ebb_fail(j.err, "%s: \"%s\" is %g, expected a number from %g to %g", j.path, key, x, low, high);
  else
    return x;
  return fallback;
}

double ebb_json_real(ebb_json j, const char *key, double low, double high) {
  return need(j, key, "a number") == NULL ? low : ebb_json_real_or(j, key, low, high, low);
}

bool ebb_json_bool_or(ebb_json j, const char *key, bool fallback) {
  const json_t *v = get(j, key);
  if (v == NULL)
    return fallback;
  if (json_is_boolean(v))
    return json_is_true(v);
  ebb_fail(j.err, "%s: \"%s\" is %s, expected true or false", j.path, key, type_of(v));
  return fallback;
}

const char *ebb_json_text_or(ebb_json j, const char *key, const char *fallback) {
  const json_t *v = get(j, key);
  if (v == NULL)
    return fallback;
  if (json_is_string(v))
    return json_string_value(v);
  ebb_fail(j.err, "%s: \"%s\" is %s, expected a string", j.path, key, type_of(v));
  return fallback;
}

/* The array under key with 1..most entries; NULL when absent or wrong. */
static const json_t *array(ebb_json j, const char *key, bool optional, int most, const char *of) {
  const json_t *v = get(j, key);
  if (v == NULL) {
    if (!optional)
      ebb_fail(j.err, "%s: \"%s\" is missing, expected an array of %s", j.path, key, of);
    return NULL;
  }
  if (!json_is_array(v)) {
    ebb_fail(j.err, "%s: \"%s\" is %s, expected an array of %s", j.path, key, type_of(v), of);
    return NULL;
  }
  size_t n = json_array_size(v);
  if (n < 1 || n > (size_t)most) {
    ebb_fail(j.err, "%s: \"%s\" has %zu entries, expected 1 to %d", j.path, key, n, most);
    return NULL;
  }
  return v;
}

int ebb_json_ints(ebb_json j, const char *key, bool optional, int most, int64_t low, int64_t high,
                  int64_t *to) {
  const json_t *v = array(j, key, optional, most, "integers");
  int n = v == NULL ? 0 : (int)json_array_size(v);
  for (int i = 0; i < n; i++) {
    const json_t *e = json_array_get(v, (size_t)i);
    int64_t x = json_integer_value(e);
    if (!json_is_integer(e) || x < low || x > high) {
      ebb_fail(j.err, "%s: \"%s\"[%d] is not an integer from %lld to %lld", j.path, key, i, (long long)low,
               (long long)high);
      return 0;
    }
    to[i] = x;
  }
  return n;
}

int ebb_json_reals(ebb_json j, const char *key, bool optional, int most, double *to) {
  const json_t *v = array(j, key, optional, most, "numbers");
  int n = v == NULL ? 0 : (int)json_array_size(v);
  for (int i = 0; i < n; i++) {
    const json_t *e = json_array_get(v, (size_t)i);
    double x = json_number_value(e);
    if (!json_is_number(e) || !isfinite(x)) {
      ebb_fail(j.err, "%s: \"%s\"[%d] is not a finite number", j.path, key, i);
      return 0;
    }
    to[i] = x;
  }
  return n;
}

int ebb_json_bools(ebb_json j, const char *key, bool optional, int most, bool *to) {
  const json_t *v = array(j, key, optional, most, "booleans");
  int n = v == NULL ? 0 : (int)json_array_size(v);
  for (int i = 0; i < n; i++) {
    const json_t *e = json_array_get(v, (size_t)i);
    if (!json_is_boolean(e)) {
      ebb_fail(j.err, "%s: \"%s\"[%d] is %s, expected true or false", j.path, key, i, type_of(e));
      return 0;
    }
    to[i] = json_is_true(e);
  }
  return n;
}

void ebb_json_refuse(ebb_json j, const char *key, const char *what) {
  const json_t *v = get(j, key);
  if (v == NULL)
    return;
  char *value = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
  ebb_fail(j.err, "%s: \"%s\" is %.60s, expected null: %s are not supported", j.path, key,
           value == NULL ? type_of(v) : value, what);
  free(value);
}
