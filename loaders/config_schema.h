/* The schema of an experiment file: one row per key. Read, --set, write and help go by it. */
#ifndef EBB_LOADERS_CONFIG_SCHEMA_H
#define EBB_LOADERS_CONFIG_SCHEMA_H

#include "loaders/config.h"

typedef enum ebb_key_type {
  EBB_KEY_TEXT,
  EBB_KEY_INT,
  EBB_KEY_REAL,
  EBB_KEY_BOOL,
  EBB_KEY_SIZE, /* HxW: two int64_t after one another */
  EBB_KEY_INTS, /* ebb_int_list: ascending, or "all" */
  EBB_KEY_NAMES /* ebb_name_list: distinct */
} ebb_key_type;

typedef struct ebb_key {
  const char *name; /* "inversion.steps" */
  ebb_key_type type;
  size_t offset, size;  /* of the field in ebb_config */
  const char *standard; /* the default, as one would write it in YAML */
  double low, high;     /* of numbers and of the entries of lists */
  const char *choices;  /* "euler|heun"; "cuda:N" takes any number; NULL: any text */
  bool folder;          /* a name of a folder or file: no slash, no leading dot */
  const char *unit, *help;
} ebb_key;

extern const ebb_key ebb_keys[]; /* sections stand together */
extern const int ebb_key_count;

const ebb_key *ebb_key_find(const char *name); /* NULL: unknown */
const char *ebb_key_nearest(const char *name); /* the key or section most like it; NULL: none is near */
/* "an integer from 1 to 1000", "one of euler, heun": what a value has to be. Returns text. */
const char *ebb_key_expected(const ebb_key *key, char *text, size_t size);

#endif
