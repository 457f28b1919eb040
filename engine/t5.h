/* Text encoders of the T5 family, from a diffusers folder's text_encoder/: UMT5EncoderModel (Wan; a relative
 * position bias of its own in every layer) and T5EncoderModel (CogVideoX, LTX; the first layer's bias in
 * all). Raffel et al. 2020, with T5 1.1's gated feed-forward; Chung et al. 2023 for UMT5.
 *
 * Weights pass through the device a layer at a time, and the table of words stays in its file: a prompt
 * needs a few of its 250 thousand rows. So the encoder of 5.7 billion numbers needs the memory of one layer,
 * and one reading of its files serves all texts of a call.
 *
 * Padding: transformers masks padded keys with the lowest number there is, which makes their weight exactly
 * 0 in the softmax; a text without its padding gives the same states. What the pipelines of diffusers 0.42.1
 * do:
 *   WanPipeline         hands the attention mask on, cuts the states to the text's length and fills up with
 *                       zeros
 *   CogVideoXPipeline,  hand no mask to the encoder: padding is tokens like others, attended to, and its states
 *   LTXPipeline         are kept (LTX's transformer masks them later)
 * So Wan's texts are given here at their length, the others' with their padding. */
#ifndef EBB_ENGINE_T5_H
#define EBB_ENGINE_T5_H

#include "kernels/ops.h"
#include "loaders/weights.h"

typedef struct ebb_t5 {
  ebb_context *context;
  ebb_dtype dtype;                          /* of matrices and of what runs between them; the residual stream,
                                                  norms and biases are float32 */
  char class_name[32];                      /* "UMT5EncoderModel", "T5EncoderModel" */
  int64_t layers, width, heads, head_width; /* L, D, N, P */
  int64_t hidden, vocabulary;               /* F; words */
  int64_t buckets, distance;                /* of the relative positions */
  bool shared_bias, gated;
  ebb_activation act;
  float eps;
  int64_t parameters;
  char sha256[65];    /* of the weights, once ebb_digest_finish has put it here */
  ebb_digest *digest; /* NULL when counting */
  ebb_weights *weights;
} ebb_t5;

/* folder/config.json and its weights, to compute in `dtype`: float32, or bfloat16 where the context has it.
 * Errors: no config, another architecture, values out of range or not supported, weights that do not fit. */
bool ebb_t5_open(ebb_t5 *t5, ebb_context *c, const char *folder, ebb_dtype dtype, ebb_error *err);
void ebb_t5_close(ebb_t5 *t5); /* a zeroed encoder is fine */

typedef struct ebb_t5_text {
  const int64_t *ids; /* [tokens] */
  int64_t tokens;     /* S, at least 1 */
  float *states;      /* [S, D] host memory, filled: the last layer's, after the final norm */
} ebb_t5_text;
/* All texts, each by itself. Weights take the context's weight arena for a layer at a time and give it back;
 * states and what a layer needs come from the activation arena. When counting, nothing is read or written.
 * Errors: a token beyond the vocabulary, files that cannot be read. */
bool ebb_t5_encode(ebb_t5 *t5, int64_t count, const ebb_t5_text *texts, ebb_error *err);

/* The bucket of a key `distance` tokens after its query (before it: negative), bidirectional, as
 * transformers' T5Attention has it, in float32. For tests. */
int64_t ebb_t5_bucket(int64_t distance, int64_t buckets, int64_t max_distance);

#endif
