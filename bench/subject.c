#include "bench/subject.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loaders/file.h"

const bench_subject_options bench_subject_defaults = {
    .transformer = "transformer", .device = "auto", .dtype = "float32", .vae_dtype = "float32", .seconds = 2};

static const struct {
  const char *name, *folder, *size;
  int64_t batch, frames, text_tokens;
} architectures[] = {
    {"tiny", "models/tiny-wan", "64x64", 16, 33, 1},
    {"wan2.1-1.3b", "bench/architectures/wan2.1-1.3b", "256x256", 16, 97, 512},
    {"wan2.1-14b", "bench/architectures/wan2.1-14b", "256x256", 1, 97, 512},
};

/* ---- options ----------------------------------------------------------------------------------------- */

static bool is_among(const char *names, const char *name) {
  size_t n = strlen(name);
  for (const char *at = names; (at = strstr(at, name)) != NULL; at += n)
    if ((at == names || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
      return true;
  return false;
}

int bench_subject_list(bench_subject_options *o, const char *names, ebb_option to[BENCH_SUBJECT_OPTIONS]) {
  const char *archs = "tiny|wan2.1-1.3b|wan2.1-14b", *dtypes = "float32|bfloat16";
  const ebb_option options[BENCH_SUBJECT_OPTIONS] = {
      {"arch", EBB_OPTION_TEXT, &o->arch, "NAME", "tiny (CPU), wan2.1-1.3b (GPU), wan2.1-14b", 0, 0, archs},
      {"model", EBB_OPTION_TEXT, &o->model, "DIR", "a folder with weights, in place of --arch", 0, 0, NULL},
      {"transformer", EBB_OPTION_TEXT, &o->transformer, "NAME", "its sub-folder (transformer)", 0, 0, NULL},
      {"device", EBB_OPTION_TEXT, &o->device, "NAME", "auto, cpu, cuda, cuda:N (auto)", 0, 0, NULL},
      {"dtype", EBB_OPTION_TEXT, &o->dtype, "NAME", "of the transformer (float32)", 0, 0, dtypes},
      {"vae-dtype", EBB_OPTION_TEXT, &o->vae_dtype, "NAME", "of the VAE (float32)", 0, 0, dtypes},
      {"batch", EBB_OPTION_INT, &o->batch, "N", "videos at once (16; 14b 1)", 1, 4096, NULL},
      {"size", EBB_OPTION_TEXT, &o->size, "HxW", "pixels (256x256; tiny 64x64)", 0, 0, NULL},
      {"frames", EBB_OPTION_INT, &o->frames, "N", "of a clip, 4k+1 (97; tiny 33)", 1, 100000, NULL},
      {"text", EBB_OPTION_INT, &o->text_tokens, "N", "text positions (512; tiny 1)", 1, 100000, NULL},
      {"words", EBB_OPTION_INT, &o->words, "N", "of them not padding (1: an empty prompt)", 1, 100000, NULL},
      {"seed", EBB_OPTION_INT, &o->seed, "N", "of random weights (0)", 0, INT64_MAX, NULL},
      {"seconds", EBB_OPTION_REAL, &o->seconds, "X", "time for each measurement (2)", 0, 0, NULL},
      {"csv", EBB_OPTION_FLAG, &o->csv, NULL, "comma-separated values", 0, 0, NULL},
  };
  int count = 0;
  for (int i = 0; i < BENCH_SUBJECT_OPTIONS; i++)
    if (is_among(names, options[i].name))
      to[count++] = options[i];
  return count;
}

static void fill_in(bench_subject *s) {
  bench_subject_options *o = &s->options;
  bool host = s->context.activations.place == EBB_HOST;
  size_t which = 1; /* a folder is taken to be like the real thing */
  if (!o->model && !o->arch)
    o->arch = host ? "tiny" : "wan2.1-1.3b";
  for (size_t i = 0; !o->model && i < sizeof architectures / sizeof *architectures; i++)
    which = strcmp(o->arch, architectures[i].name) == 0 ? i : which;
  o->size = o->size ? o->size : architectures[which].size;
  o->batch = o->batch ? o->batch : architectures[which].batch;
  o->frames = o->frames ? o->frames : architectures[which].frames;
  o->text_tokens = o->text_tokens ? o->text_tokens : architectures[which].text_tokens;
  o->words = o->words ? o->words : 1;
  s->random = !o->model;
  if (o->model)
    snprintf(s->folder, sizeof s->folder, "%s", o->model);
  else if (ebb_is_folder(architectures[which].folder)) /* run from the root of the tree */
    snprintf(s->folder, sizeof s->folder, "%s", architectures[which].folder);
  else
    snprintf(s->folder, sizeof s->folder, "%s/%s", EBB_SOURCE_FOLDER, architectures[which].folder);
}

static bool check(bench_subject *s, ebb_error *err) {
  const bench_subject_options *o = &s->options;
  long long height, width;
  char rest;
  if (!(o->seconds >= 0 && o->seconds <= 3600))
    return ebb_fail(err, "--seconds: expected a number from 0 to 3600");
  if (sscanf(o->size, "%lldx%lld%c", &height, &width, &rest) != 2 || height < 1 || width < 1 ||
      height > 16384 || width > 16384)
    return ebb_fail(err, "--size: found '%s', expected HEIGHTxWIDTH, as 256x256", o->size);
  if (o->words > o->text_tokens)
    return ebb_fail(err, "--words %lld: more than the %lld positions of --text", (long long)o->words,
                    (long long)o->text_tokens);
  s->height = height;
  s->width = width;
  return true;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static bool find_shape(bench_subject *s, ebb_error *err) {
  ebb_vae vae = {0};
  ebb_context_count(&s->context);
  bool ok = bench_open_vae(s, &vae, err) &&
            ebb_vae_latent_shape(&vae, s->options.frames, s->height, s->width, &s->shape, err);
  ebb_vae_close(&vae);
  return ok;
}

/* "float32" or "bfloat16", which the device must know. */
static bool find_dtype(const bench_subject *s, const char *option, const char *name, ebb_dtype *dtype,
                       ebb_error *err) {
  *dtype = strcmp(name, "bfloat16") == 0 ? EBB_BF16 : EBB_F32;
  return *dtype == EBB_F32 || ebb_context_has_half(&s->context) ||
         ebb_fail(err, "--%s bfloat16: %s computes in float32", option, ebb_context_device(&s->context));
}

bool bench_subject_open(bench_subject *s, const bench_subject_options *options, bool *usage, ebb_error *err) {
  *s = (bench_subject){.options = *options, .sheet = {.csv = options->csv}};
  *usage = options->arch && options->model;
  if (*usage)
    return ebb_fail(err, "--arch and --model: one of them, not both");
  if (!ebb_context_open(&s->context, options->device, err))
    return false;
  fill_in(s);
  *usage = !check(s, err);
  if (*usage)
    return false;
  return find_dtype(s, "dtype", options->dtype, &s->dtype, err) &&
         find_dtype(s, "vae-dtype", options->vae_dtype, &s->vae_dtype, err) && find_shape(s, err);
}

void bench_subject_close(bench_subject *s) {
  ebb_context_close(&s->context);
}

bool bench_open_transformer(bench_subject *s, ebb_model *m, ebb_error *err) {
  char *folder = ebb_path_join(s->folder, s->options.transformer);
  bool ok = ebb_model_open(m, &s->context, folder, s->dtype, s->random ? &s->options.seed : NULL, err);
  free(folder);
  if (ok && m->channels != s->shape.channels) {
    ok = ebb_fail(err, "%s: the transformer takes latents of %lld channels, the VAE gives %lld", s->folder,
                  (long long)m->channels, (long long)s->shape.channels);
    ebb_model_close(m);
  }
  return ok;
}

bool bench_open_vae(bench_subject *s, ebb_vae *vae, ebb_error *err) {
  char *folder = ebb_path_join(s->folder, "vae");
  bool ok = ebb_vae_open(vae, &s->context, folder, s->vae_dtype, s->random ? &s->options.seed : NULL, true,
                         false, err);
  free(folder);
  return ok;
}

bool bench_condition(bench_subject *s, ebb_model *m, const double *labels, int64_t moments,
                     ebb_condition *cond, ebb_error *err) {
  const bench_subject_options *o = &s->options;
  size_t n = (size_t)(o->text_tokens * m->text_dim);
  float *states = calloc(n, sizeof *states);
  if (!states)
    return ebb_fail(err, "no memory for a text of %lld tokens", (long long)o->text_tokens);
  bench_draw(states, o->words * m->text_dim, 1, 11);
  ebb_text text = {states, 1, o->text_tokens, m->text_dim};
  bool ok = ebb_model_condition(m, cond, s->shape, text, labels, moments, 1, err);
  free(states);
  return ok;
}

/* ---- counting ---------------------------------------------------------------------------------------- */

const char *bench_latent_text(const bench_subject *s, char text[64]) {
  const ebb_latent_shape *z = &s->shape;
  snprintf(text, 64, "%lldx%lldx%lldx%lldx%lld", (long long)s->options.batch, (long long)z->channels,
           (long long)z->frames, (long long)z->height, (long long)z->width);
  return text;
}

int64_t bench_tokens(const bench_subject *s, const ebb_model *m) {
  return s->options.batch * ebb_model_tap_sizes(m, s->shape).tokens;
}

/* Is it a matrix that every token goes through? */
static bool sees_tokens(const char *name, int rank) {
  bool text_side = strstr(name, "attn2.to_k") || strstr(name, "attn2.to_v");
  if (strcmp(name, "patch_embedding.weight") == 0)
    return true;
  return rank == 2 && !text_side &&
         (strncmp(name, "blocks.", 7) == 0 || strcmp(name, "proj_out.weight") == 0);
}

double bench_velocity_flops(const bench_subject *s, const ebb_model *m) {
  double tokens = (double)bench_tokens(s, m), width = (double)m->width, blocks = (double)m->blocks;
  double keys = tokens / (double)s->options.batch + (double)s->options.text_tokens; /* self and cross */
  double flops = 4 * tokens * keys * width * blocks;
  for (int64_t i = 0; i < m->list.count; i++)
    if (sees_tokens(m->list.items[i].name, m->list.items[i].rank)) {
      double numbers = 1;
      for (int d = 0; d < m->list.items[i].rank; d++)
        numbers *= (double)m->list.items[i].shape[d];
      flops += 2 * tokens * numbers;
    }
  return flops;
}
