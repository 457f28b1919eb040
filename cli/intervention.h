/* What `ebb intervene` shares among its files: the list of what is changed, the results kept for each scene, and the
 * tables made of them. Private to cli/. */
#ifndef EBB_CLI_INTERVENTION_H
#define EBB_CLI_INTERVENTION_H

#include "cli/options.h"
#include "engine/edit.h"

#include <jansson.h>

/* In the order of the tables. Noise and the three directions act at a block's output, at one norm for one alpha: noise is
 * Eq. 5; random is a direction drawn for (scene, block, draw), orthogonal the same one without what it has of the
 * probe's weights, probe the weights themselves, towards impossible. damage is the undisturbed generation with white noise
 * on it, of the quality that noise (same block, alpha, draw) has left. zero, mean and resample act on heads. */
typedef enum ebb_change_kind {
  EBB_CHANGE_NOTHING, /* the baseline */
  EBB_CHANGE_NOISE,
  EBB_CHANGE_RANDOM,
  EBB_CHANGE_ORTHOGONAL,
  EBB_CHANGE_PROBE,
  EBB_CHANGE_DAMAGE,
  EBB_CHANGE_ZERO,
  EBB_CHANGE_MEAN,
  EBB_CHANGE_RESAMPLE,
  EBB_CHANGES
} ebb_change_kind;
const char *ebb_change_name(ebb_change_kind kind); /* "baseline", "noise" ... */

typedef struct ebb_change {
  ebb_change_kind kind;
  int block, head; /* -1: none; head EBB_EDIT_ALL_HEADS: all of the block */
  double alpha;
  int draw;
  char key[80]; /* in the results: "noise b3 a0.5 d0" */
} ebb_change;
/* The key of another kind at the same place, dose and draw: of two that act at blocks. */
void ebb_change_key(const ebb_change *change, ebb_change_kind kind, char key[80]);

/* As the command line has it. */
typedef struct ebb_change_words {
  const char *blocks, *alphas, *directions, *masks; /* "all" or "0,3"; "0.5,1"; "noise,random"; "zero,mean" */
  const ebb_text_list *heads;                       /* "BLOCK:HEAD", "BLOCK:all", "each", "blocks" */
  int64_t draws;
} ebb_change_words;
/* The baseline first. *changes is malloc'ed. Errors name the option, what was found and what was expected. */
bool ebb_changes_make(const ebb_change_words *words, ebb_edit_sizes sizes, ebb_change **changes,
                      int64_t *count, ebb_error *err);
/* "0,5,10" into a list of numbers below limit, ascending or not; "all": 0 .. limit-1. */
bool ebb_numbers_read(const char *option, const char *text, int64_t limit, int64_t most, int64_t *values,
                      int64_t *count, ebb_error *err);

/* What the command is asked for; -1 or NULL: as the run has it, or as the help says. */
typedef struct ebb_intervene_options {
  const char *run, *out, *preset, *device, *steps, *during;
  ebb_change_words words;
  ebb_text_list heads;
  int64_t step, read_block, scenes, shard, shards, seed, batch;
  int impossible, decode;
} ebb_intervene_options;
/* All of it: probes, scenes, trials, results, tables; failed: how many scenes and changes did. Errors: a run, probe or
 * option that is not as expected, results there of other settings, memory. */
bool ebb_intervention_run(const ebb_intervene_options *o, FILE *table, int64_t *failed, ebb_error *err);

/* ---- results ---- */

/* What holds for every result in OUT (seed, hashes of run, weights and probe, steps ...): written there by the first
 * run; later ones must have the same. Errors name what differs, there and here. */
bool ebb_intervention_settings(const char *out, const json_t *settings, ebb_error *err);
/* OUT/scenes/NNNNN/surprise.json of video number NNNNN: {"scene", ..., "interventions": {key: {...}}}. Reading one that
 * is not there gives NULL and no error. */
json_t *ebb_scene_read(const char *out, int64_t video, ebb_error *err);
bool ebb_scene_write(const char *out, int64_t video, const json_t *doc, ebb_error *err);
/* The tables of all scenes in OUT: interventions.csv, summary.csv, surprise_per_scene.csv, surprise_per_block.csv. Prints
 * a table to `table` (NULL: nowhere). bootstrap: draws of the intervals; seed: theirs; alpha: of the noise that the last
 * two, which have the official code's columns, speak of. */
bool ebb_intervention_tables(const char *out, int64_t bootstrap, uint64_t seed, double alpha, FILE *table,
                             ebb_error *err);

#endif
