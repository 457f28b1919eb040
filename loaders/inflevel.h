/* Names of InfLevel-Lab's videos (Weihs et al., "Benchmarking Progress to Infant-Level Physical Reasoning in
 * AI", TMLR 2022): <view>__<category>__<cover>__<object>__<code>[__<direction>].mp4. */
#ifndef EBB_LOADERS_INFLEVEL_H
#define EBB_LOADERS_INFLEVEL_H

#include "loaders/dataset.h"

typedef struct ebb_inflevel_name {
  char view[8];      /* center, left, right: three cameras saw each event */
  char category[16]; /* continuity, gravity, solidity */
  char cover[64], object[64];
  char code[4]; /* what is shown first and last: vv ii | vi iv of continuity, cv ui | ci uv of the others */
  char direction[4]; /* LR, RL of continuity; "" */
  ebb_label label;   /* vv, ii, cv, ui are possible */
} ebb_inflevel_name;

/* Errors: what part of the name is not as it should be. */
bool ebb_inflevel_parse(const char *file, ebb_inflevel_name *name, ebb_error *err);

/* The codes of a category: two possible, then two impossible; NULL: no such category. */
const char *const *ebb_inflevel_codes(const char *category);

/* What its makers ask: to be said whenever a probe is trained on it. */
extern const char ebb_inflevel_notice[];

#endif
