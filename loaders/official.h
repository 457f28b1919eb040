/* The run folder of the official code (REFERENCE 3.7), both ways:
 *   <stem>/step_NNNN/block_outputs.pt   float32 (blocks, 1, D)
 *   <stem>/noise_latent.pt              float32 (1, ...)
 *   <stem>/meta.json                    prompt, label, path, ..., [init_conditions]
 * A stem is the last three parts of a video's path with '_' between them: O1_01_1. */
#ifndef EBB_LOADERS_OFFICIAL_H
#define EBB_LOADERS_OFFICIAL_H

#include "loaders/store.h"

/* malloc'ed stem of a video's id: its last three parts, without a video file's suffix. Always a plain
 * name. */
char *ebb_official_stem(const char *id);

typedef struct ebb_official_export {
  const char *model;   /* NULL: transformer, or else the first set with blocks */
  const char *feature; /* NULL: block_out.mean */
} ebb_official_export;

/* Writes dir/<stem>/... for every video that the model has, at every captured step; with noise_latent.pt
 * where some set has a feature noise_latent, and init_conditions in meta.json where targets r and v are
 * known. meta.json also holds "ebb": id, group, category, pair, view, split, targets, blocks and sigma,
 * which the official code does not look at and ebb_official_import takes back. dir may exist, a stem in it
 * may not. Errors: no such model or feature, two videos of one stem, a file that is there. */
bool ebb_official_write(const ebb_store *store, const ebb_official_export *what, const char *dir,
                        int64_t *videos, ebb_error *err);

/* --scenario-mode of the official code:
 *   intphys     O1_01_1: group O1_01, category O1
 *   inflevel    view__principle__a__b__code[__direction]: group all but the code, category principle
 *   scene       each scene alone, in the category "all" */
typedef enum ebb_scenarios {
  EBB_SCENARIOS_INTPHYS,
  EBB_SCENARIOS_INFLEVEL,
  EBB_SCENARIOS_SCENE
} ebb_scenarios;

typedef struct ebb_official_import {
  ebb_scenarios scenarios; /* where meta.json does not say it in "ebb" */
  bool latents;            /* noise_latent.pt too, as feature noise_latent of set "noise" */
} ebb_official_import;

typedef struct ebb_official_found {
  int64_t videos, steps, blocks, width;
} ebb_official_found;

/* Reads such a folder into a run folder `out` that `ebb probe` takes (index.json, features, config.yaml):
 * model transformer, feature block_out.mean, averaged over tokens where a file has more than one. Every
 * scene must have every step that the first has. Scenes with init_conditions have targets r and v (what
 * the official code calls x0 is the radius) and no label. Where meta.json has no sigma it is step /
 * num_inference_steps, and the provenance says so. Errors name the file: missing meta.json, a tensor of
 * another shape, two scenes of one name, nothing there. */
bool ebb_official_read(const char *dir, const ebb_official_import *how, const char *out,
                       ebb_official_found *found, ebb_error *err);

/* Names as Python sorts strings of them, by their bytes in UTF-8; equal ones by `at`, what they are names of. */
typedef struct ebb_name_at {
  const char *name; /* of the caller */
  int64_t at;
} ebb_name_at;
void ebb_sort_names(ebb_name_at *names, int64_t count);

#endif
