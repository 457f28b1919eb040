/* An experiment file, what the command line says beside it, and whether it can end in a probe. */
#ifndef EBB_CLI_OVERRIDES_H
#define EBB_CLI_OVERRIDES_H

#include "cli/options.h"
#include "loaders/config.h"

typedef struct ebb_overrides {
  ebb_text_list sets;       /* --set KEY=VALUE */
  const char *out, *device; /* NULL: nothing is said */
} ebb_overrides;

#define EBB_DEVICE_OPTION(to)                                                                                \
  { "device", EBB_OPTION_TEXT, (to), "NAME", "auto, cpu, cuda or cuda:N (run.device)", 0, 0, NULL }

/* *usage is set when it is the command line that is wrong, not the file. */
bool ebb_overrides_read(ebb_config *config, const char *path, const ebb_overrides *o, bool *usage,
                        ebb_error *err);
/* Before hours are spent on an inversion: can what it will leave be probed as the experiment asks? */
bool ebb_overrides_check_probe(const ebb_config *config, ebb_error *err);

#endif
