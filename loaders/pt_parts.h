/* Private to pt.c and pt_pickle.c. */
#ifndef EBB_LOADERS_PT_PARTS_H
#define EBB_LOADERS_PT_PARTS_H

#include "loaders/pt.h"

/* One stored entry of the archive, its name without the folder that all are in: "data.pkl", "data/0". */
typedef struct ebb_pt_entry {
  const char *name;
  size_t length; /* of the name, which has no NUL */
  const uint8_t *data;
  size_t bytes;
} ebb_pt_entry;

typedef struct ebb_pt_archive {
  const char *path; /* for messages */
  size_t bytes;     /* of the file */
  int64_t count;
  ebb_pt_entry *entries;
} ebb_pt_archive;

/* NULL: not there. */
const ebb_pt_entry *ebb_pt_find(const ebb_pt_archive *archive, const char *name, size_t length);
/* Runs the pickle of an archive and fills pt->tensors. */
bool ebb_pt_unpickle(ebb_pt *pt, const ebb_pt_archive *archive, const ebb_pt_entry *pickle, ebb_error *err);

extern const struct ebb_pt_storage {
  const char *name; /* "FloatStorage" */
  int bytes;        /* of an element */
} ebb_pt_storages[EBB_PT_TYPES];

#endif
