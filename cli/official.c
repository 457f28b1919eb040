/* ebb export, import */
#include "loaders/official.h"
#include "cli/commands.h"
#include "cli/options.h"

#include <string.h>

static int fail(const ebb_error *err) {
  fprintf(stderr, "ebb: %s\n", err->text);
  return EBB_EXIT_ERROR;
}

int ebb_export_command(int argc, char **argv) {
  const char *run = NULL, *out = NULL, *layout = "official";
  ebb_official_export what = {0};
  const ebb_option options[] = {
      {"layout", EBB_OPTION_TEXT, &layout, "NAME", "official: <stem>/step_NNNN/block_outputs.pt, meta.json",
       0, 0, "official"},
      {"out", EBB_OPTION_TEXT, &out, "DIR", "where to; scenes that are there already are an error", 0, 0,
       NULL},
      {"model", EBB_OPTION_TEXT, &what.model, "NAME", "which model's features (transformer)", 0, 0, NULL},
      {"feature", EBB_OPTION_TEXT, &what.feature, "NAME", "which of them (block_out.mean)", 0, 0, NULL}};
  const ebb_command command = {"export RUN --out DIR [--layout official] [options]",
                               "Writes a run's features as the official code does, for its probes: DIR is "
                               "what its --run-dir takes. Files\n"
                               "are PyTorch's, and torch.load(..., weights_only=True) reads them.",
                               options,
                               4,
                               &run,
                               1,
                               1,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (!out) {
    fprintf(stderr, "ebb: export needs --out (--help tells more)\n");
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {0};
  ebb_store store = {0};
  int64_t videos = 0;
  if (!ebb_store_open(&store, run, &err))
    return fail(&err);
  bool ok = ebb_official_write(&store, &what, out, &videos, &err);
  ebb_store_close(&store);
  if (!ok)
    return fail(&err);
  printf("%lld scenes written to %s\n", (long long)videos, out);
  return EBB_EXIT_OK;
}

int ebb_import_command(int argc, char **argv) {
  const char *dir = NULL, *out = NULL, *mode = "intphys";
  int latents = 0;
  const ebb_option options[] = {
      {"out", EBB_OPTION_TEXT, &out, "RUN", "run folder to make", 0, 0, NULL},
      {"scenario-mode", EBB_OPTION_TEXT, &mode, "NAME",
       "how names tell groups, as in the official code: intphys, inflevel, scene (intphys)", 0, 0,
       "intphys|inflevel|scene"},
      {"latents", EBB_OPTION_FLAG, &latents, NULL, "noise_latent.pt too", 0, 0, NULL}};
  const ebb_command command = {"import DIR --out RUN [--scenario-mode intphys] [--latents]",
                               "Reads a run folder of the official code (the one that its --run-dir takes) "
                               "into one that `ebb probe` and\n"
                               "`ebb regress` take. Pickles are read as data: nothing in them is executed.",
                               options,
                               3,
                               &dir,
                               1,
                               1,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (!out) {
    fprintf(stderr, "ebb: import needs --out (--help tells more)\n");
    return EBB_EXIT_USAGE;
  }
  const ebb_official_import how = {.scenarios = strcmp(mode, "inflevel") == 0 ? EBB_SCENARIOS_INFLEVEL
                                                : strcmp(mode, "scene") == 0  ? EBB_SCENARIOS_SCENE
                                                                              : EBB_SCENARIOS_INTPHYS,
                                   .latents = latents};
  ebb_official_found found = {0};
  ebb_error err = {0};
  if (!ebb_official_read(dir, &how, out, &found, &err))
    return fail(&err);
  printf("%lld scenes, %lld steps, %lld blocks of %lld numbers: %s\n", (long long)found.videos,
         (long long)found.steps, (long long)found.blocks, (long long)found.width, out);
  return EBB_EXIT_OK;
}
