/* ebb intervene */
#include "cli/commands.h"
#include "cli/intervention.h"
#include "loaders/file.h"

#include <stdlib.h>
#include <string.h>

int ebb_intervene_command(int argc, char **argv) {
  ebb_intervene_options o = {.steps = "all",
                             .during = "generation",
                             .step = -1,
                             .read_block = -1,
                             .shards = 1,
                             .words = {.blocks = "all",
                                       .alphas = "0.5",
                                       .directions = "noise,random,orthogonal",
                                       .masks = "zero,mean",
                                       .draws = 3}};
  o.words.heads = &o.heads;
  const ebb_option list[] = {
      {"out", EBB_OPTION_TEXT, &o.out, "DIR", "results (RUN/intervene); what is done there is not done again",
       0, 0, NULL},
      {"probe", EBB_OPTION_TEXT, &o.preset, "PRESET",
       "strict: fitted on other groups than the scene's; released (probe.preset)", 0, 0, NULL},
      {"blocks", EBB_OPTION_TEXT, &o.words.blocks, "LIST",
       "blocks whose output is changed: all, or 0,5,10 (all)", 0, 0, NULL},
      {"alpha", EBB_OPTION_TEXT, &o.words.alphas, "LIST", "doses in units of the token's deviation (0.5)", 0,
       0, NULL},
      {"draws", EBB_OPTION_INT, &o.words.draws, "N", "of noise, directions and donors (3)", 1, 1000, NULL},
      {"during", EBB_OPTION_TEXT, &o.during, "WHAT",
       "generation, which is then inverted; or inversion itself", 0, 0, "generation|inversion"},
      {"directions", EBB_OPTION_TEXT, &o.words.directions, "LIST",
       "noise, random, orthogonal, probe, damage; none (noise,random,orthogonal)", 0, 0, NULL},
      {"heads", EBB_OPTION_LIST, &o.heads, "WHICH",
       "each, blocks, BLOCK:HEAD or BLOCK:all; again and again (none)", 0, 0, NULL},
      {"mask", EBB_OPTION_TEXT, &o.words.masks, "LIST",
       "what these heads become: zero, mean, resample (zero,mean)", 0, 0, NULL},
      {"step", EBB_OPTION_INT, &o.step, "N", "captured step of the surprise over blocks (the middle one)", 0,
       10000, NULL},
      {"steps", EBB_OPTION_TEXT, &o.steps, "LIST", "captured steps of the surprise over steps (all)", 0, 0,
       NULL},
      {"read-block", EBB_OPTION_INT, &o.read_block, "N", "its block (what the training groups chose)", 0,
       10000, NULL},
      {"all", EBB_OPTION_FLAG, &o.impossible, NULL, "impossible scenes too", 0, 0, NULL},
      {"scenes", EBB_OPTION_INT, &o.scenes, "N", "the first N scenes (all)", 1, 1000000, NULL},
      {"shard", EBB_OPTION_INT, &o.shard, "I", "every --shards-th scene, from this one on (0)", 0, 100000,
       NULL},
      {"shards", EBB_OPTION_INT, &o.shards, "N", "how many (1)", 1, 100000, NULL},
      {"decode", EBB_OPTION_FLAG, &o.decode, NULL, "through pixels and back between generation and inversion",
       0, 0, NULL},
      {"seed", EBB_OPTION_INT, &o.seed, "N", "of noise, directions and donors (0)", 0, 9007199254740991,
       NULL},
      {"batch", EBB_OPTION_INT, &o.batch, "N", "generations at once (run.batch)", 1, 4096, NULL},
      {"device", EBB_OPTION_TEXT, &o.device, "NAME", "auto, cpu, cuda or cuda:N (run.device)", 0, 0, NULL},
  };
  const ebb_command command = {"intervene RUN [options]",
                               "What a run's probes make of its scenes when they are generated again, from "
                               "their own noise, while a block's\n"
                               "output or a head is tampered with. Writes surprise.json for each scene, and "
                               "tables, into RUN/intervene.",
                               list,
                               (int)(sizeof list / sizeof *list),
                               &o.run,
                               1,
                               1,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (strcmp(o.during, "inversion") == 0 && (o.decode || strstr(o.words.directions, "damage"))) {
    fprintf(stderr, "ebb: --during inversion generates nothing: expected no --decode and no damage\n");
    return EBB_EXIT_USAGE;
  }
  if (o.shard >= o.shards) {
    fprintf(stderr, "ebb: --shard: found %lld, expected less than --shards, %lld\n", (long long)o.shard,
            (long long)o.shards);
    return EBB_EXIT_USAGE;
  }
  char *out = o.out ? NULL : ebb_path_join(o.run, "intervene");
  o.out = out ? out : o.out;
  ebb_error err = {0};
  int64_t failed = 0;
  bool ok = ebb_intervention_run(&o, stdout, &failed, &err);
  free(out);
  if (ok)
    return failed > 0 ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
  fprintf(stderr, "ebb: %s\n", err.text);
  return EBB_EXIT_ERROR;
}
