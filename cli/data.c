/* ebb synth, ebb data check */
#include "cli/commands.h"
#include "cli/options.h"
#include "loaders/dataset.h"
#include "loaders/synth.h"

#include <string.h>

#define COUNT(table) ((int)(sizeof(table) / sizeof *(table)))

int ebb_synth_command(int argc, char **argv) {
  const char *dir = NULL, *categories = "O1,O2,O3", *bulk = NULL;
  int64_t quadruplets = 30, seed = 1, size = 64, frames = 33, first = 0, count = 0;
  int lawless = 0;
  const ebb_option options[] = {
      {"quadruplets", EBB_OPTION_INT, &quadruplets, "N", "quadruplets in each category (30)", 1, 9999, NULL},
      {"categories", EBB_OPTION_TEXT, &categories, "LIST", "of O1,O2,O3 (all)", 0, 0, NULL},
      {"seed", EBB_OPTION_INT, &seed, "N", "another seed, other scenes (1)", 0, INT64_MAX, NULL},
      {"size", EBB_OPTION_INT, &size, "PIXELS", "height and width (64)", 32, 512, NULL},
      {"frames", EBB_OPTION_INT, &frames, "N", "length of a movie (33)", 9, 512, NULL},
      {"bulk", EBB_OPTION_TEXT, &bulk, "FILE", "instead: training movies in one safetensors file", 0, 0,
       NULL},
      {"first", EBB_OPTION_INT, &first, "N", "number of the first training movie (0)", 0, (int64_t)1 << 32,
       NULL},
      {"count", EBB_OPTION_INT, &count, "N", "how many training movies", 1, (int64_t)1 << 32, NULL},
      {"lawless", EBB_OPTION_FLAG, &lawless, NULL, "training movies of the lawless world", 0, 0, NULL},
  };
  const ebb_command command = {
      "synth DIR [--quadruplets N] | synth --bulk FILE --count N [--lawless]",
      "Makes movies of bodies that move and bounce and pass behind an occluder: O1 object permanence, O2 "
      "shape constancy,\n"
      "O3 spatio-temporal continuity, in the IntPhys layout, as quadruplets whose possible and impossible "
      "movies consist\n"
      "of the same frames; or training movies in bulk. The same seed gives the same bytes everywhere.",
      options,
      COUNT(options),
      &dir,
      0,
      1,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if ((dir != NULL) == (bulk != NULL) || (bulk && count == 0)) {
    fprintf(stderr, "ebb: synth needs either DIR, or --bulk FILE and --count N (--help tells more)\n");
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {0};
  const ebb_synth_options world = {(uint64_t)seed, (int)size, (int)frames};
  bool ok = bulk ? ebb_synth_bulk(bulk, first, count, lawless != 0, &world, &err)
                 : ebb_synth_intphys(dir, categories, (int)quadruplets, &world, &err);
  if (!ok)
    fprintf(stderr, "ebb: %s\n", err.text);
  return ok ? EBB_EXIT_OK : EBB_EXIT_ERROR;
}

static void print_skipped(void *user, const char *id, const char *reason) {
  ++*(int64_t *)user;
  fprintf(stderr, "broken %s: %s\n", id, reason);
}

int ebb_data_command(int argc, char **argv) {
  const char *words[2] = {NULL, NULL}, *format = "intphys";
  int unlabelled = 0;
  const ebb_option options[] = {
      {"format", EBB_OPTION_TEXT, &format, "NAME", "intphys", 0, 0, NULL},
      {"unlabelled", EBB_OPTION_FLAG, &unlabelled, NULL, "status.json may be absent", 0, 0, NULL},
  };
  const ebb_command command = {
      "data check DIR [--format intphys]",
      "Reads every frame and reports balance by label, category and group, and whether the possible and the "
      "impossible\n"
      "movies of each quadruplet are made of the same frames. Exit code 3 when a group or a movie is broken.",
      options,
      COUNT(options),
      words,
      2,
      2,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (strcmp(words[0], "check") != 0) {
    fprintf(stderr, "ebb: data '%s': expected: data check DIR\n", words[0]);
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {0};
  ebb_dataset set = {0};
  int64_t skipped = 0, broken = 0;
  const ebb_dataset_options how = {.unlabelled = unlabelled != 0};
  bool ok = ebb_dataset_open(&set, format, words[1], &how, print_skipped, &skipped, &err) &&
            ebb_dataset_check(&set, stdout, &broken, &err);
  ebb_dataset_close(&set);
  if (!ok)
    fprintf(stderr, "ebb: %s\n", err.text);
  return !ok ? EBB_EXIT_ERROR : broken || skipped ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
}
