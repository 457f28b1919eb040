#include "cli/overrides.h"

#include "loaders/dataset.h"
#include "loaders/file.h"
#include "probe/probe.h"

#include <stdlib.h>

static bool set_device(ebb_config *config, const char *device, ebb_error *err) {
  ebb_error unlike = {0};
  char *assignment = ebb_format("run.device=%s", device);
  bool ok = ebb_config_set(config, assignment, &unlike);
  free(assignment);
  return ok || ebb_fail(err, "--device: found '%s', expected auto, cpu, cuda or cuda:N", device);
}

bool ebb_overrides_read(ebb_config *config, const char *path, const ebb_overrides *o, bool *usage,
                        ebb_error *err) {
  ebb_config_defaults(config);
  if (!ebb_config_read(config, path, err))
    return false;
  *usage = true;
  for (int i = 0; i < o->sets.count; i++)
    if (!ebb_config_set(config, o->sets.items[i], err))
      return false;
  if (o->device && !set_device(config, o->device, err))
    return false;
  if (o->out &&
      snprintf(config->run.out, sizeof config->run.out, "%s", o->out) >= (int)sizeof config->run.out)
    return ebb_fail(err, "--out: longer than %d characters", (int)sizeof config->run.out - 1);
  *usage = false;
  return true;
}

static void nothing_to_say(void *user, const char *id, const char *reason) {
  (void)user;
  (void)id;
  (void)reason; /* the inversion says it */
}

bool ebb_overrides_check_probe(const ebb_config *config, ebb_error *err) {
  ebb_dataset set = {0};
  if (!ebb_dataset_open_config(&set, config, nothing_to_say, NULL, err))
    return false;
  bool ok = ebb_probe_check(&set, config, err);
  ebb_dataset_close(&set);
  return ok;
}
