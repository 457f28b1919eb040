/* manifest.csv in memory: what the fuzzer calls. */
#ifndef EBB_LOADERS_MANIFEST_H
#define EBB_LOADERS_MANIFEST_H

#include "loaders/dataset.h"

/* Adds the videos of a manifest to an empty set, their paths inside `folder`; looks at no file. A name that
 * ends in .tsv has tabs between its fields. Errors, with line and column: those of ebb_table_parse, an
 * unknown column, no id or path, a path that leads out of the folder, a label or a target that is none. ids
 * are compared by ebb_dataset_open. */
bool ebb_manifest_parse(ebb_dataset *set, const char *path, const char *text, size_t bytes,
                        const char *folder, ebb_error *err);

#endif
