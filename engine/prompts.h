/* The prompts of a run, from section `prompt` and the data set, as what a model is conditioned on. */
#ifndef EBB_ENGINE_PROMPTS_H
#define EBB_ENGINE_PROMPTS_H

#include "engine/model.h"
#include "engine/prompt.h"
#include "engine/texts.h"
#include "loaders/config.h"
#include "loaders/dataset.h"

/* Where states come from. `auto` of prompt.embedding becomes one of these before anything else. */
typedef enum ebb_prompt_source {
  EBB_PROMPT_ZEROS,   /* "zeros", or auto with a model whose model_index.json has no text_encoder */
  EBB_PROMPT_FILE,    /* one text: `text` [1, M, text_dim] */
  EBB_PROMPT_CACHE,   /* a file of `ebb text embed` */
  EBB_PROMPT_ENCODER, /* auto with a model that has text_encoder/ and tokenizer/ */
} ebb_prompt_source;

typedef struct ebb_prompts {
  const ebb_config *config; /* outlives it */
  ebb_prompt_source source, negative_source;
  ebb_texts texts;           /* of CACHE and ENCODER: every text of the run */
  int64_t text, negative;    /* their numbers there; -1: another source, or no guidance */
  bool per_video;            /* videos have texts of their own */
  int64_t videos, *of_video; /* [videos] number of each video's text; NULL unless per_video */
  int64_t kept; /* tokens that any of the run's texts has before padding that all share, and one of that */
  char sha256[65], negative_sha256[65]; /* of the run's own text: its states, the file, or "zeros" */
} ebb_prompts;

/* Finds every text of the run and, with ENCODER, its states: the encoder is loaded, run and gone when this
 * returns, and what it takes is printed to `log`. A video's text is its `prompt`, or prompt.text where that
 * is NULL; with prompt.per_video false prompt.text for all. set NULL: no videos. plan_only: nothing is
 * computed, texts have lengths alone. Nothing is ever fetched from anywhere. Errors: a text that the cache
 * has not, a text where states are zeros or a file's, an encoder that is not there or fails, lengths that
 * differ from prompt.max_tokens. */
bool ebb_prompts_open(ebb_prompts *p, const ebb_config *config, const ebb_dataset *set, ebb_context *c,
                      bool plan_only, FILE *log, ebb_error *err);
void ebb_prompts_free(ebb_prompts *p); /* zeroed prompts are fine */
/* One line: what the text is and where its states come from. */
void ebb_prompts_print(const ebb_prompts *p, FILE *out);

/* Prepares a condition (ebb_model_condition) on the run's own text, or on the negative one. */
bool ebb_prompts_condition(const ebb_prompts *p, bool negative, ebb_model *m, ebb_condition *cond,
                           ebb_latent_shape shape, const double *labels, int64_t moments, ebb_error *err);
/* On the texts of videos[0..count), one for each sample; with per_video only. */
bool ebb_prompts_condition_videos(const ebb_prompts *p, int64_t count, const int64_t *videos, ebb_model *m,
                                  ebb_condition *cond, ebb_latent_shape shape, const double *labels,
                                  int64_t moments, ebb_error *err);

/* For provenance, a new object: {"source", "max_tokens", "per_video", "pipeline", "encoder",
 * "encoder_sha256", "tokenizer_sha256", "dtype", "text": {"given", "cleaned", "length", "sha256", "states_sha256"},
 * "negative": the same or null, "videos": [the texts of videos]}; what a source has not is null or left out.
 * */
json_t *ebb_prompts_describe(const ebb_prompts *p);

#endif
