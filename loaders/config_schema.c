#include "loaders/config_schema.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(ebb_config, field), sizeof(((ebb_config *)0)->field)
#define HUGE_SEED 9007199254740991.0 /* 2^53 - 1: every integer up to here is exact in JSON readers */

/* clang-format off */
const ebb_key ebb_keys[] = {
  {"name", EBB_KEY_TEXT, AT(name), "experiment", 0, 0, NULL, true, "", "what the run is called in its report"},

  {"model.path", EBB_KEY_TEXT, AT(model.path), "\"\"", 0, 0, NULL, false, "", "diffusers folder of the model (transformer/, vae/, scheduler/)"},
  {"model.transformer", EBB_KEY_TEXT, AT(model.transformer), "transformer", 0, 0, NULL, true, "", "its sub-folder with the transformer"},
  {"model.dtype", EBB_KEY_TEXT, AT(model.dtype), "float32", 0, 0, "float32|bfloat16", false, "", "arithmetic of the transformer"},
  {"model.vae_dtype", EBB_KEY_TEXT, AT(model.vae_dtype), "float32", 0, 0, "float32|bfloat16", false, "", "arithmetic of the VAE"},
  {"model.compare", EBB_KEY_NAMES, AT(model.compare), "[]", 0, 0, NULL, true, "", "other transformers taken through the same videos: random, or sub-folders"},
  {"model.seed", EBB_KEY_INT, AT(model.seed), "0", 0, HUGE_SEED, NULL, false, "", "seed of the weights of `random`"},

  {"data.format", EBB_KEY_TEXT, AT(data.format), "intphys", 0, 0, "intphys|inflevel|phyworld|manifest", false, "", "layout of the data set"},
  {"data.path", EBB_KEY_TEXT, AT(data.path), "\"\"", 0, 0, NULL, false, "", "folder or file of the data set"},
  {"data.size", EBB_KEY_SIZE, offsetof(ebb_config, data.height), 2 * sizeof(int64_t), "256x256", 8, 4096, NULL, false, "pixels", "height x width that the model sees"},
  {"data.frames", EBB_KEY_INT, AT(data.frames), "100", 1, 4096, NULL, false, "frames", "frames taken of each video; the VAE uses 4k+1 of them"},
  {"data.groups", EBB_KEY_INT, AT(data.groups), "0", 0, 1e9, NULL, false, "groups", "only the first n groups of each category; 0: all"},
  {"data.unlabelled", EBB_KEY_BOOL, AT(data.unlabelled), "false", 0, 0, NULL, false, "", "accept videos without a label"},
  {"data.padding", EBB_KEY_TEXT, AT(data.padding), "none", 0, 0, "none|repeat", false, "", "videos shorter than data.frames: refused, or their last frame repeated (official code)"},
  {"data.prompt", EBB_KEY_TEXT, AT(data.prompt), "neutral", 0, 0, "neutral|official", false, "", "official: PhyWorld's prompt that holds the targets in figures"},
  {"data.views", EBB_KEY_TEXT, AT(data.views), "across", 0, 0, "across|within", false, "", "groups hold all camera views of an event, or one (then it is in training and test)"},

  {"prompt.text", EBB_KEY_TEXT, AT(prompt.text), "\"\"", 0, 0, NULL, false, "", "prompt of every video that the data set gives none; empty: the empty prompt"},
  {"prompt.per_video", EBB_KEY_BOOL, AT(prompt.per_video), "true", 0, 0, NULL, false, "", "use the prompts that the data set gives; false: prompt.text for all"},
  {"prompt.embedding", EBB_KEY_TEXT, AT(prompt.embedding), "auto", 0, 0, NULL, false, "", "auto: the model's text encoder, zeros where it has none; zeros; a file of `ebb text embed`, or with `text` [1, tokens, width]"},
  {"prompt.max_tokens", EBB_KEY_INT, AT(prompt.max_tokens), "512", 1, 4096, NULL, false, "tokens", "length of a text with its padding, of a file too: 512 as Wan was trained, 226 as the official inversion has it"},
  {"prompt.negative", EBB_KEY_TEXT, AT(prompt.negative), "\"\"", 0, 0, NULL, false, "", "text of the unconditional branch, used when guidance > 1"},
  {"prompt.negative_embedding", EBB_KEY_TEXT, AT(prompt.negative_embedding), "auto", 0, 0, NULL, false, "", "auto: from where prompt.embedding is; else as prompt.embedding"},
  {"prompt.dtype", EBB_KEY_TEXT, AT(prompt.dtype), "float32", 0, 0, "float32|bfloat16", false, "", "arithmetic of the text encoder"},

  {"inversion.solver", EBB_KEY_TEXT, AT(inversion.solver), "euler", 0, 0, "euler|heun|midpoint|rk4|exact|unipc", false, "", "integrator; exact inverts the forward Euler step by fixed point, in float32 alone; unipc only generates"},
  {"inversion.labels", EBB_KEY_TEXT, AT(inversion.labels), "noisy", 0, 0, "noisy|matched", false, "", "time label of a step: of its noisy end (official code) or of its state"},
  {"inversion.schedule", EBB_KEY_TEXT, AT(inversion.schedule), "auto", 0, 0, "auto|unipc|unipc-old|flow-match-euler", false, "", "sigmas; auto goes by scheduler_config.json"},
  {"inversion.steps", EBB_KEY_INT, AT(inversion.steps), "100", 1, 10000, NULL, false, "steps", "integration steps from clean to noise"},
  {"inversion.guidance", EBB_KEY_REAL, AT(inversion.guidance), "1.0", 1, 100, NULL, false, "", "classifier-free guidance; 1: none"},
  {"inversion.shift", EBB_KEY_REAL, AT(inversion.shift), "0.0", 0, 1000, NULL, false, "", "flow shift; 0: from scheduler_config.json"},
  {"inversion.method", EBB_KEY_TEXT, AT(inversion.method), "invert", 0, 0, "invert|noise|both", false, "", "how a video gets to a noise level: inverted, or (1 - sigma) z + sigma eps; both: a set each"},
  {"inversion.draws", EBB_KEY_INT, AT(inversion.draws), "1", 1, 16, NULL, false, "draws", "of eps, for inversion.method noise"},
  {"inversion.keep_draws", EBB_KEY_BOOL, AT(inversion.keep_draws), "false", 0, 0, NULL, false, "", "keep the features of every draw, not their mean"},
  {"inversion.seed", EBB_KEY_INT, AT(inversion.seed), "0", 0, HUGE_SEED, NULL, false, "", "seed of eps, which also goes by the video's id and the draw"},

  {"capture.steps", EBB_KEY_INTS, AT(capture.steps), "all", 0, 9999, NULL, false, "", "evaluations captured: 0 (at the clean latent) to inversion.steps - 1"},
  {"capture.blocks", EBB_KEY_INTS, AT(capture.blocks), "all", 0, 10000, NULL, false, "", "transformer blocks captured, from 0"},
  {"capture.points", EBB_KEY_NAMES, AT(capture.points), "[block_out]", 0, 0, "block_in|attn_out|cross_out|mlp_out|block_out|attn_frames|attn_entropy|attn_lag|attn_rows|attn_columns|latent|velocity", false, "", "states in a block, statistics of its self-attention, latent, velocity"},
  {"capture.pool", EBB_KEY_NAMES, AT(capture.pool), "[mean]", 0, 0, "mean|frame_mean|moments|motion", false, "", "what is kept of the tokens"},

  {"probe.preset", EBB_KEY_TEXT, AT(probe.preset), "strict", 0, 0, "strict|referee|released|paper", false, "", "protocol: strict is nested, grouped, to convergence; the others are to compare with"},
  {"probe.target", EBB_KEY_NAMES, AT(probe.target), "[plausible]", 0, 0, NULL, false, "", "plausible, or targets of the data set (r, v, x0, ...): regression"},
  {"probe.allow_leak", EBB_KEY_BOOL, AT(probe.allow_leak), "false", 0, 0, NULL, false, "", "split by video where a preset's own protocol does, though groups then stand on both sides"},
  {"probe.by", EBB_KEY_TEXT, AT(probe.by), "category", 0, 0, "category|all", false, "", "one probe for each category or one for all"},
  {"probe.features", EBB_KEY_NAMES, AT(probe.features), "[]", 0, 0, NULL, false, "", "stored features to probe; []: all"},
  {"probe.heads", EBB_KEY_TEXT, AT(probe.heads), "joined", 0, 0, "joined|each|both", false, "", "attention's statistics: all heads in one probe, a probe for each head, or both"},
  {"probe.folds", EBB_KEY_INT, AT(probe.folds), "5", 2, 1000, NULL, false, "", "outer folds, cut by group"},
  {"probe.repeats", EBB_KEY_INT, AT(probe.repeats), "5", 1, 1000, NULL, false, "", "repetitions with other folds; of the other presets the seeds"},
  {"probe.inner_folds", EBB_KEY_INT, AT(probe.inner_folds), "4", 2, 1000, NULL, false, "", "folds inside the training part, for selection"},
  {"probe.bootstrap", EBB_KEY_INT, AT(probe.bootstrap), "2000", 0, 1000000, NULL, false, "draws", "cluster bootstrap over groups; 0: none"},
  {"probe.permutations", EBB_KEY_INT, AT(probe.permutations), "0", 0, 1000000, NULL, false, "draws", "permutation test; 0: none"},
  {"probe.seed", EBB_KEY_INT, AT(probe.seed), "0", 0, HUGE_SEED, NULL, false, "", "seed of folds, bootstrap and permutations"},

  {"generate.videos", EBB_KEY_INT, AT(generate.videos), "1", 1, 1000000, NULL, false, "videos", "how many `ebb generate` makes"},
  {"generate.seed", EBB_KEY_INT, AT(generate.seed), "0", 0, HUGE_SEED, NULL, false, "", "seed of their noise: video n is drawn by (seed, n)"},
  {"generate.noise", EBB_KEY_TEXT, AT(generate.noise), "\"\"", 0, 0, NULL, false, "", "safetensors file with `noise` [videos, C, T, h, w] in place of a seed"},
  {"generate.write", EBB_KEY_TEXT, AT(generate.write), "mp4", 0, 0, "mp4|png", false, "", "what generate and reconstruct write: mp4, or folders of PNG frames"},
  {"generate.fps", EBB_KEY_REAL, AT(generate.fps), "16.0", 0.001, 1000, NULL, false, "frames/s", "frame rate of an mp4"},

  {"run.device", EBB_KEY_TEXT, AT(run.device), "auto", 0, 0, "auto|cpu|cuda|cuda:N", false, "", "where to compute, probes too"},
  {"run.batch", EBB_KEY_INT, AT(run.batch), "1", 1, 4096, NULL, false, "videos", "videos in one forward; stored bytes do not depend on the device count"},
  {"run.memory", EBB_KEY_REAL, AT(run.memory), "0.0", 0, 1e6, NULL, false, "GiB", "most that weights and activations may take on the device; 0: what is free"},
  {"run.out", EBB_KEY_TEXT, AT(run.out), "\"\"", 0, 0, NULL, false, "", "run folder; --out sets it too"},
};
/* clang-format on */
const int ebb_key_count = (int)(sizeof ebb_keys / sizeof ebb_keys[0]);
_Static_assert(sizeof ebb_keys / sizeof ebb_keys[0] <= 128, "the reader keeps one bit per key in two words");
_Static_assert(offsetof(ebb_config, data.width) == offsetof(ebb_config, data.height) + sizeof(int64_t),
               "a size is height and width after one another");

const ebb_key *ebb_key_find(const char *name) {
  for (int i = 0; i < ebb_key_count; i++)
    if (strcmp(ebb_keys[i].name, name) == 0)
      return &ebb_keys[i];
  return NULL;
}

#define NAME_MAX_LEN 48

/* Levenshtein's distance between a[0..m) and b; both at most NAME_MAX_LEN. */
static int distance(const char *a, size_t m, const char *b, size_t n) {
  int row[NAME_MAX_LEN + 1];
  for (size_t j = 0; j <= n; j++)
    row[j] = (int)j;
  for (size_t i = 1; i <= m; i++) {
    int corner = row[0];
    row[0] = (int)i;
    for (size_t j = 1; j <= n; j++) {
      int swap = corner + (a[i - 1] != b[j - 1]), above = row[j] + 1, left = row[j - 1] + 1;
      corner = row[j];
      row[j] = swap < above ? (swap < left ? swap : left) : (above < left ? above : left);
    }
  }
  return row[n];
}

const char *ebb_key_nearest(const char *name) {
  static const char *const sections[] = {"model", "data", "prompt", "inversion", "capture", "probe", "generate", "run"};
  size_t n = strlen(name);
  if (n > NAME_MAX_LEN)
    return NULL;
  const char *dot = strchr(name, '.'), *last = dot == NULL ? name : dot + 1, *best = NULL;
  int least = 1 + (int)strlen(last) / 2; /* further than this is no suggestion */
  for (size_t i = 0; dot == NULL && i < sizeof sections / sizeof sections[0]; i++) {
    int d = distance(name, n, sections[i], strlen(sections[i]));
    if (d < least) {
      least = d;
      best = sections[i];
    }
  }
  for (int i = 0; i < ebb_key_count; i++) {
    const char *key = ebb_keys[i].name, *key_dot = strchr(key, '.'),
               *key_last = key_dot == NULL ? key : key_dot + 1;
    int whole = distance(name, n, key, strlen(key));
    int elsewhere =
        1 + distance(last, strlen(last), key_last, strlen(key_last)); /* the right key in another section */
    int d = whole < elsewhere ? whole : elsewhere;
    if (d < least) {
      least = d;
      best = key;
    }
  }
  return best;
}

const char *ebb_key_expected(const ebb_key *k, char *text, size_t size) {
  char choices[384] = "";
  size_t at = 0;
  for (const char *c = k->choices; c != NULL && *c != '\0' && at < sizeof choices - 3; c++)
    at += (size_t)snprintf(choices + at, sizeof choices - at, "%s", *c == '|' ? ", " : (char[2]){*c, '\0'});
  switch (k->type) {
  case EBB_KEY_TEXT:
    if (k->choices != NULL)
      snprintf(text, size, "one of %s", choices);
    else
      snprintf(text, size, "%s of at most %zu bytes%s", k->folder ? "a name" : "text", k->size - 1,
               k->folder ? " without '/'" : " (\"\" for none)");
    break;
  case EBB_KEY_INT:
    snprintf(text, size, "an integer from %.0f to %.0f", k->low, k->high);
    break;
  case EBB_KEY_REAL:
    snprintf(text, size, "a number from %g to %g", k->low, k->high);
    break;
  case EBB_KEY_BOOL:
    snprintf(text, size, "true or false");
    break;
  case EBB_KEY_SIZE:
    snprintf(text, size, "HEIGHTxWIDTH, each from %.0f to %.0f, such as 256x256", k->low, k->high);
    break;
  case EBB_KEY_INTS:
    snprintf(text, size,
             "all, or a list of at most %d ascending integers from %.0f to %.0f, such as [0, 5, 10]",
             EBB_LIST, k->low, k->high);
    break;
  case EBB_KEY_NAMES:
    snprintf(text, size, "a list of at most 16 names%s%s", k->choices != NULL ? " out of " : "", choices);
    break;
  }
  return text;
}
