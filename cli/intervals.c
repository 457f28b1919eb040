#include "cli/intervals.h"

#include <math.h>

json_t *ebb_number_json(double v) {
  return isfinite(v) ? json_real(v) : json_null();
}

json_t *ebb_interval_json(const ebb_interval *i) {
  return json_pack("{s:o, s:o, s:o}", "value", ebb_number_json(i->value), "low", ebb_number_json(i->low),
                   "high", ebb_number_json(i->high));
}

static double real(const json_t *object, const char *key) {
  const json_t *v = json_object_get(object, key);
  return json_is_number(v) ? json_number_value(v) : NAN;
}

ebb_interval ebb_interval_in(const json_t *o) {
  return (ebb_interval){.value = real(o, "value"), .low = real(o, "low"), .high = real(o, "high")};
}
