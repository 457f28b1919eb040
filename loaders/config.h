/* An experiment as a file (configs/NAME.yaml). One schema table (config_schema.c) gives every key its type,
 * default, range, unit and help; reading, --set, the resolved copy written with each run, and the help text
 * all come from it. */
#ifndef EBB_LOADERS_CONFIG_H
#define EBB_LOADERS_CONFIG_H

#include "kernels/error.h"

#include <stdint.h>
#include <stdio.h>

#define EBB_TEXT 512
#define EBB_LIST 128
#define EBB_PROMPT_TEXT 4096

typedef struct ebb_int_list { /* "all" is count -1 */
  int count;
  int64_t values[EBB_LIST];
} ebb_int_list;

typedef struct ebb_name_list {
  int count;
  char names[16][64];
} ebb_name_list;

typedef struct ebb_config {
  char path[EBB_TEXT]; /* the file it came from; not a key */
  char name[64];
  struct {
    char path[EBB_TEXT];  /* diffusers folder */
    char transformer[64]; /* its sub-folder: "transformer" */
    char dtype[16];       /* float32 | bfloat16 */
    char vae_dtype[16];
    ebb_name_list
        compare;  /* other transformers taken through the same videos: "random" or sub-folder names */
    int64_t seed; /* of "random" */
  } model;
  struct {
    char format[16]; /* intphys | inflevel | phyworld | manifest */
    char path[EBB_TEXT];
    int64_t height, width; /* key `size: HxW` */
    int64_t frames;        /* asked for; the VAE uses 4k+1 of them */
    int64_t groups;        /* first n groups of each category; 0: all */
    bool unlabelled;
    char prompt[16];  /* neutral | official */
    char views[16];   /* across | within */
    char padding[16]; /* none | repeat */
  } data;
  struct {
    char text[EBB_PROMPT_TEXT]; /* of every video that the data set gives no prompt */
    bool per_video;             /* prompts of the data set's own count */
    char embedding[EBB_TEXT];   /* auto | zeros | file: `text` [1,M,text_dim], or of `ebb text embed` */
    int64_t max_tokens; /* M, also of a file: 512 for Wan as trained, 226 for the official inversion */
    char negative[EBB_PROMPT_TEXT];    /* text of the unconditional branch, used when guidance > 1 */
    char negative_embedding[EBB_TEXT]; /* auto: as embedding */
    char dtype[16];                    /* arithmetic of the text encoder */
  } prompt;
  struct {
    char solver[16];   /* euler | heun | midpoint | rk4 | exact; where videos are generated unipc too */
    char labels[16];   /* noisy (official) | matched */
    char schedule[24]; /* auto (scheduler_config.json) | unipc | unipc-old | flow-match-euler */
    int64_t steps;
    double guidance;
    double shift;    /* 0: from scheduler_config.json */
    char method[16]; /* invert | noise: straight to x_sigma = (1 - sigma) z + sigma eps | both */
    int64_t draws;   /* of eps, for noise */
    bool keep_draws; /* a set of features for each, not their mean */
    int64_t seed;    /* of eps */
  } inversion;
  struct {
    ebb_int_list steps; /* evaluations captured, 0 .. steps-1: number i sees the state at sigma[i]; 0 is the
                           clean latent */
    ebb_int_list blocks;
    ebb_name_list points; /* block_in attn_out cross_out mlp_out block_out; attn_frames attn_entropy attn_lag
                             attn_rows attn_columns; latent velocity */
    ebb_name_list pool;   /* mean frame_mean moments motion */
  } capture;
  struct {
    char preset[16];        /* strict | referee | released | paper */
    ebb_name_list target;   /* plausible, or names of the data set's targets: regression */
    bool allow_leak;        /* split by video where a preset's own protocol does */
    char by[16];            /* category | all */
    ebb_name_list features; /* which stored features to probe; empty: all */
    char heads[16];         /* joined | each | both */
    int64_t folds, repeats; /* outer folds by group, repeated with other fold seeds */
    int64_t inner_folds;
    int64_t bootstrap, permutations;
    int64_t seed;
  } probe;
  struct {
    int64_t videos;       /* how many `ebb generate` makes */
    int64_t seed;         /* of their noise */
    char noise[EBB_TEXT]; /* safetensors with `noise` [videos or more,C,T,h,w] in place of a seed; "": none */
    char write[8];        /* mp4 | png; of `ebb reconstruct` too, like fps */
    double fps;
  } generate;
  struct {
    char device[16]; /* auto | cpu | cuda | cuda:N */
    int64_t batch;
    double memory;      /* GiB that the run may take on the device; 0: what is free */
    char out[EBB_TEXT]; /* run folder */
  } run;
} ebb_config;

/* All keys at their defaults. */
void ebb_config_defaults(ebb_config *config);
/* Reads a file over the defaults. Errors give file and line, the key, what was found and what was expected;
 * an unknown key names the nearest known one. Relative paths stay as written. */
bool ebb_config_read(ebb_config *config, const char *path, ebb_error *err);
/* The same from memory (what the fuzzer calls). */
bool ebb_config_parse(ebb_config *config, const char *path, const char *text, size_t bytes, ebb_error *err);
/* One `--set section.key=value`; the value is YAML. */
bool ebb_config_set(ebb_config *config, const char *assignment, ebb_error *err);
/* The resolved configuration as YAML that ebb_config_read takes back unchanged. */
bool ebb_config_write(const ebb_config *config, FILE *out);
/* Every key with type, default, range, unit and help. */
void ebb_config_help(FILE *out);

#endif
