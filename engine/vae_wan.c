/* Wan 2.1's video autoencoder (diffusers AutoencoderKLWan), any size. Both halves are straight lists of
 * stages, built from config.json and run one after the other on a whole clip, channels last [1,T,H,W,C];
 * diffusers' loop over chunks with caches gives the same numbers. Samples of a batch go one at a time, which
 * bounds the memory. */
#include "engine/vae.h"

#include "loaders/file.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEVELS_MAX 8
#define FRAMES_CHUNK 4 /* diffusers encodes frame 0, then four at a time, and drops the rest */

typedef enum stage_kind { CONV, RESIDUAL, ATTENTION, DOWN, UP, HEAD } stage_kind;

typedef struct layer {
  ebb_tensor w, b;
} layer;

/* y [T',H',W',out] from x [T,H,W,in]:
 *   CONV       y = a(x)
 *   RESIDUAL   y = b(silu(norm2(a(silu(norm1(x)))))) + x, or + shortcut(x) where in != out
 *   ATTENTION  y = b(attention within each frame of a(norm1(x))) + x, one head; a gives q, k, v
 *   DOWN       y = b(a(x)): a halves rows and columns, b, when there is one, time
 *   UP         y = a(repeat(b(x))): b, when there is one, doubles time; repeating doubles rows and columns
 *   HEAD       y = a(silu(norm1(x))) */
typedef struct stage {
  stage_kind kind;
  int64_t in, out;
  bool time;
  layer a, b, shortcut;
  ebb_tensor norm1, norm2; /* [C,1,1,1] or [C,1,1] */
} stage;

typedef struct coder { /* one half */
  int count, capacity;
  stage *stages;
} coder;

typedef struct vae_config {
  int64_t base, decoder_base, z, residuals, levels;
  int64_t mult[LEVELS_MAX];
  bool time[LEVELS_MAX]; /* level i halves time as well */
  double mean[4096], std[4096];
} vae_config;

typedef struct wan_vae {
  vae_config config;
  coder encoder, decoder;
  bool has_encoder, has_decoder;
  ebb_parameters list;
  ebb_tensor to_unit_scale, to_unit_shift;     /* [z]: (mode - mean) / std */
  ebb_tensor from_unit_scale, from_unit_shift; /* [z]: latent * std + mean */
} wan_vae;

/* ---- structure --------------------------------------------------------------------------------------- */

/* Where the stages and their parameters are being listed. */
typedef struct builder {
  coder *coder;
  ebb_parameters *list;
  bool wanted;     /* this half is loaded; otherwise its parameters are only checked */
  ebb_dtype dtype; /* of convolutions and attention; norm weights are float32 */
} builder;

static stage *add_stage(builder *b, stage_kind kind, int64_t in, int64_t out) {
  assert(b->coder->count < b->coder->capacity);
  stage *s = &b->coder->stages[b->coder->count++];
  *s = (stage){.kind = kind, .in = in, .out = out};
  return s;
}

/* A convolution's weight [out,in,...] of this rank and its bias [out]. */
static void list_conv(builder *b, layer *l, int rank, const int64_t *shape, const char *stem,
                      const char *name) {
  int64_t fan_in = 1;
  for (int i = 1; i < rank; i++)
    fan_in *= shape[i];
  b->list->dtype = b->dtype;
  ebb_parameters_add(b->list, b->wanted ? &l->w : NULL, rank, shape, EBB_INIT_LINEAR, fan_in, "%s%s.weight",
                     stem, name);
  ebb_parameters_add(b->list, b->wanted ? &l->b : NULL, 1, shape, EBB_INIT_LINEAR, fan_in, "%s%s.bias", stem,
                     name);
}

static void list_norm(builder *b, ebb_tensor *gamma, int rank, int64_t C, const char *stem,
                      const char *name) {
  b->list->dtype = EBB_F32;
  ebb_parameters_add(b->list, b->wanted ? gamma : NULL, rank, (const int64_t[]){C, 1, 1, 1}, EBB_INIT_ONES, 0,
                     "%s%s.gamma", stem, name);
}

static void add_conv(builder *b, int64_t in, int64_t out, int64_t k, const char *name) {
  stage *s = add_stage(b, CONV, in, out);
  list_conv(b, &s->a, EBB_SHAPE(out, in, k, k, k), name, "");
}

static void add_residual(builder *b, int64_t in, int64_t out, const char *stem) {
  stage *s = add_stage(b, RESIDUAL, in, out);
  list_norm(b, &s->norm1, 4, in, stem, ".norm1");
  list_conv(b, &s->a, EBB_SHAPE(out, in, 3, 3, 3), stem, ".conv1");
  list_norm(b, &s->norm2, 4, out, stem, ".norm2");
  list_conv(b, &s->b, EBB_SHAPE(out, out, 3, 3, 3), stem, ".conv2");
  if (in != out)
    list_conv(b, &s->shortcut, EBB_SHAPE(out, in, 1, 1, 1), stem, ".conv_shortcut");
}

static void add_attention(builder *b, int64_t C, const char *stem) {
  stage *s = add_stage(b, ATTENTION, C, C);
  list_norm(b, &s->norm1, 3, C, stem, ".norm");
  list_conv(b, &s->a, EBB_SHAPE(3 * C, C, 1, 1), stem, ".to_qkv");
  list_conv(b, &s->b, EBB_SHAPE(C, C, 1, 1), stem, ".proj");
}

static void add_down(builder *b, int64_t C, bool time, const char *stem) {
  stage *s = add_stage(b, DOWN, C, C);
  s->time = time;
  list_conv(b, &s->a, EBB_SHAPE(C, C, 3, 3), stem, ".resample.1");
  if (time)
    list_conv(b, &s->b, EBB_SHAPE(C, C, 3, 1, 1), stem, ".time_conv");
}

static void add_up(builder *b, int64_t C, bool time, const char *stem) {
  stage *s = add_stage(b, UP, C, C / 2);
  s->time = time;
  list_conv(b, &s->a, EBB_SHAPE(C / 2, C, 3, 3), stem, ".resample.1");
  if (time)
    list_conv(b, &s->b, EBB_SHAPE(2 * C, C, 3, 1, 1), stem, ".time_conv");
}

static void add_middle(builder *b, int64_t C, const char *half) {
  char *first = ebb_format("%s.mid_block.resnets.0", half),
       *second = ebb_format("%s.mid_block.resnets.1", half);
  char *attention = ebb_format("%s.mid_block.attentions.0", half);
  add_residual(b, C, C, first);
  add_attention(b, C, attention);
  add_residual(b, C, C, second);
  free(first);
  free(second);
  free(attention);
}

static void add_head(builder *b, int64_t in, int64_t out, const char *half) {
  stage *s = add_stage(b, HEAD, in, out);
  list_norm(b, &s->norm1, 4, in, half, ".norm_out");
  list_conv(b, &s->a, EBB_SHAPE(out, in, 3, 3, 3), half, ".conv_out");
}

static void build_encoder(builder *b, const vae_config *v) {
  int64_t C = v->base, index = 0;
  add_conv(b, 3, C, 3, "encoder.conv_in");
  for (int i = 0; i < v->levels; i++) {
    for (int r = 0; r < v->residuals; r++, C = v->base * v->mult[i]) {
      char *stem = ebb_format("encoder.down_blocks.%lld", (long long)index++);
      add_residual(b, C, v->base * v->mult[i], stem);
      free(stem);
    }
    if (i + 1 == v->levels)
      break;
    char *stem = ebb_format("encoder.down_blocks.%lld", (long long)index++);
    add_down(b, C, v->time[i], stem);
    free(stem);
  }
  add_middle(b, C, "encoder");
  add_head(b, C, 2 * v->z, "encoder");
  add_conv(b, 2 * v->z, 2 * v->z, 1, "quant_conv");
}

static void build_decoder(builder *b, const vae_config *v) {
  int64_t C = v->decoder_base * v->mult[v->levels - 1];
  add_conv(b, v->z, v->z, 1, "post_quant_conv");
  add_conv(b, v->z, C, 3, "decoder.conv_in");
  add_middle(b, C, "decoder");
  for (int i = 0; i < v->levels; i++) {
    int64_t out = v->decoder_base * v->mult[v->levels - 1 - i];
    for (int r = 0; r <= v->residuals; r++, C = out) {
      char *stem = ebb_format("decoder.up_blocks.%d.resnets.%d", i, r);
      add_residual(b, C, out, stem);
      free(stem);
    }
    if (i + 1 == v->levels)
      break;
    char *stem = ebb_format("decoder.up_blocks.%d.upsamplers.0", i);
    add_up(b, C, v->time[v->levels - 2 - i], stem);
    free(stem);
    C /= 2;
  }
  add_head(b, C, 3, "decoder");
}

static void build(wan_vae *v, ebb_dtype dtype) {
  const vae_config *k = &v->config;
  int capacity = (int)(k->levels * (k->residuals + 2)) + 8;
  coder *coders[] = {&v->encoder, &v->decoder};
  for (int i = 0; i < 2; i++)
    *coders[i] = (coder){.capacity = capacity, .stages = ebb_must(calloc((size_t)capacity, sizeof(stage)))};
  build_encoder(&(builder){&v->encoder, &v->list, v->has_encoder, dtype}, k);
  build_decoder(&(builder){&v->decoder, &v->list, v->has_decoder, dtype}, k);
  if (v->has_encoder) /* the encoder's last stage gives mean and log variance: only the mean is wanted */
    v->encoder.stages[v->encoder.count - 1].out = k->z;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static void read_statistics(ebb_json j, const char *key, int64_t z, double *to) {
  int n = ebb_json_reals(j, key, false, 4096, to);
  if (n != 0 && n != z)
    ebb_fail(j.err, "%s: \"%s\" has %d entries, expected z_dim = %lld", j.path, key, n, (long long)z);
}

static void read_config(ebb_vae *vae, wan_vae *v, ebb_json j) {
  vae_config *k = &v->config;
  const char *class = ebb_json_text_or(j, "_class_name", "");
  if (strcmp(class, "AutoencoderKLWan") != 0)
    ebb_fail(j.err, "%s: \"_class_name\" is \"%.60s\", expected AutoencoderKLWan", j.path, class);
  if (ebb_json_bool_or(j, "is_residual", false))
    ebb_fail(j.err, "%s: \"is_residual\" is true: Wan 2.2's autoencoder is not supported", j.path);
  ebb_json_refuse(j, "patch_size", "Wan 2.2's autoencoder");
  if (json_array_size(json_object_get(j.object, "attn_scales")) > 0)
    ebb_json_refuse(j, "attn_scales", "attention outside the middle");
  ebb_json_int_or(j, "in_channels", 3, 3, 3);
  ebb_json_int_or(j, "out_channels", 3, 3, 3);
  k->base = ebb_json_int(j, "base_dim", 1, 4096);
  k->decoder_base = ebb_json_int_or(j, "decoder_base_dim", 1, 4096, k->base);
  k->z = ebb_json_int(j, "z_dim", 1, 4096);
  k->residuals = ebb_json_int(j, "num_res_blocks", 1, 64);
  k->levels = ebb_json_ints(j, "dim_mult", false, LEVELS_MAX, 1, 64, k->mult);
  int halvings = ebb_json_bools(j, "temperal_downsample", k->levels == 1, LEVELS_MAX, k->time);
  if (k->levels > 0 && halvings != k->levels - 1)
    ebb_fail(j.err, "%s: \"temperal_downsample\" has %d entries, expected %lld: one fewer than \"dim_mult\"",
             j.path, halvings, (long long)k->levels - 1);
  read_statistics(j, "latents_mean", k->z, k->mean);
  read_statistics(j, "latents_std", k->z, k->std);
  vae->channels = k->z;
  vae->class_name = "AutoencoderKLWan";
  vae->chunk = FRAMES_CHUNK;
  vae->time_stride = vae->space_stride = 1;
  for (int i = 0; i + 1 < k->levels; i++) {
    vae->space_stride *= 2;
    vae->time_stride *= k->time[i] ? 2 : 1;
  }
  if (vae->time_stride > FRAMES_CHUNK)
    ebb_fail(j.err, "%s: \"temperal_downsample\" divides time by %d, at most %d is supported", j.path,
             vae->time_stride, FRAMES_CHUNK);
  for (int64_t i = 0; i < k->z; i++)
    if (k->std[i] <= 0)
      ebb_fail(j.err, "%s: \"latents_std\"[%lld] is %g, expected a positive number", j.path, (long long)i,
               k->std[i]);
}

static bool open_config(ebb_vae *vae, wan_vae *v, const char *folder, ebb_error *err) {
  ebb_error found = {""};
  char *path = ebb_path_join(folder, "config.json");
  json_t *json = ebb_json_read(path, &found);
  if (json)
    read_config(vae, v, (ebb_json){json, path, &found});
  json_decref(json);
  free(path);
  return found.text[0] == '\0' || ebb_fail(err, "%s", found.text);
}

/* The two affine maps between the posterior mode and the transformer's latent. */
static void make_units(ebb_context *c, wan_vae *v) {
  const vae_config *k = &v->config;
  ebb_tensor *tensors[] = {&v->to_unit_scale, &v->to_unit_shift, &v->from_unit_scale, &v->from_unit_shift};
  float *host = ebb_must(malloc(4 * (size_t)k->z * sizeof *host));
  for (int64_t i = 0; i < k->z; i++) {
    host[i] = (float)(1 / k->std[i]);
    host[k->z + i] = (float)(-k->mean[i] / k->std[i]);
    host[2 * k->z + i] = (float)k->std[i];
    host[3 * k->z + i] = (float)k->mean[i];
  }
  for (int i = 0; i < 4; i++) {
    *tensors[i] = EBB_NEW(c, EBB_WEIGHTS, EBB_F32, "latents_mean and latents_std", k->z);
    ebb_upload(c, *tensors[i], host + i * k->z);
  }
  free(host);
}

static bool load(ebb_vae *vae, ebb_parameters *list, const char *folder, ebb_error *err) {
  ebb_weights *weights;
  if (!ebb_weights_open(&weights, folder, err))
    return false;
  bool ok = (vae->context->counting || ebb_weights_digest(weights, &vae->digest, err)) &&
            ebb_weights_load(weights, vae->context, list, err);
  ebb_weights_close(&weights);
  return ok;
}

bool ebb_vae_open(ebb_vae *vae, ebb_context *c, const char *folder, ebb_dtype dtype,
                  const int64_t *random_seed, bool with_encoder, bool with_decoder, ebb_error *err) {
  wan_vae *v = ebb_must(calloc(1, sizeof *v));
  *vae = (ebb_vae){.context = c, .dtype = dtype, .state = v};
  v->has_encoder = with_encoder;
  v->has_decoder = with_decoder;
  bool ok = open_config(vae, v, folder, err);
  if (ok)
    build(v, dtype);
  if (ok && random_seed) {
    snprintf(vae->sha256, sizeof vae->sha256, "random:%lld", (long long)*random_seed);
    ok = ebb_weights_initialise(c, &v->list, (uint64_t)*random_seed, err);
  } else if (ok) {
    ok = load(vae, &v->list, folder, err);
  }
  if (ok) {
    make_units(c, v);
    ok = ebb_context_ok(c, err);
  }
  for (int64_t i = 0; ok && i < v->list.count; i++)
    vae->parameters += v->list.items[i].to ? ebb_count(*v->list.items[i].to) : 0;
  if (!ok)
    ebb_vae_close(vae);
  return ok;
}

void ebb_vae_close(ebb_vae *vae) {
  wan_vae *v = vae->state;
  ebb_digest_abandon(&vae->digest);
  if (v) {
    free(v->encoder.stages);
    free(v->decoder.stages);
    ebb_parameters_free(&v->list);
  }
  free(v);
  *vae = (ebb_vae){0};
}

/* ---- shapes ------------------------------------------------------------------------------------------ */

static ebb_latent_shape after(const stage *s, ebb_latent_shape x) {
  x.channels = s->out;
  if (s->kind == DOWN) {
    x.height /= 2;
    x.width /= 2;
    x.frames = s->time ? (x.frames + 1) / 2 : x.frames;
  } else if (s->kind == UP) {
    x.height *= 2;
    x.width *= 2;
    x.frames = s->time ? 2 * x.frames - 1 : x.frames;
  }
  return x;
}

static int64_t numbers(ebb_latent_shape x) {
  return x.channels * x.frames * x.height * x.width;
}

bool ebb_vae_latent_shape(const ebb_vae *vae, int64_t frames, int64_t height, int64_t width,
                          ebb_latent_shape *shape, ebb_error *err) {
  if (frames < 1 || (frames - 1) % vae->chunk != 0)
    return ebb_fail(err, "%lld frames: the autoencoder takes %d*k + 1", (long long)frames, vae->chunk);
  if (height < vae->space_stride || width < vae->space_stride)
    return ebb_fail(err, "frames of %lld x %lld: the autoencoder takes sides of at least %d",
                    (long long)height, (long long)width, vae->space_stride);
  *shape = (ebb_latent_shape){vae->channels, (frames - 1) / vae->time_stride + 1, height / vae->space_stride,
                              width / vae->space_stride};
  return true;
}

/* ---- running ----------------------------------------------------------------------------------------- */

static ebb_tensor flat(ebb_tensor gamma) { /* [C,1,1,1] -> [C] */
  return EBB_VIEW(gamma, gamma.shape[0]);
}

/* A video [1,T,H,W,C] like x but for its channels. */
static ebb_tensor video_like(ebb_context *c, const char *name, ebb_tensor x, int64_t channels) {
  return EBB_NEW(c, EBB_ACTIVATIONS, x.dtype, name, 1, x.shape[1], x.shape[2], x.shape[3], channels);
}

static void run_residual(ebb_context *c, const stage *s, ebb_tensor y, ebb_tensor x) {
  ebb_tensor h = video_like(c, "residual", x, s->out), shortcut = x;
  ebb_conv3d_causal(c, h, x, flat(s->norm1), s->a.w, s->a.b, EBB_NO_TENSOR);
  if (s->in != s->out) {
    shortcut = video_like(c, "shortcut", x, s->out);
    ebb_conv3d_causal(c, shortcut, x, EBB_NO_TENSOR, s->shortcut.w, s->shortcut.b, EBB_NO_TENSOR);
  }
  ebb_conv3d_causal(c, y, h, flat(s->norm2), s->b.w, s->b.b, shortcut);
}

static void run_attention(ebb_context *c, const stage *s, ebb_tensor y, ebb_tensor x) {
  const int64_t C = s->in, T = x.shape[1], S = x.shape[2] * x.shape[3];
  const ebb_tensor w = EBB_VIEW(s->a.w, 3, C, C), b = EBB_VIEW(s->a.b, 3, C);
  ebb_tensor tokens = EBB_NEW(c, EBB_ACTIVATIONS, x.dtype, "tokens", T, S, C);
  ebb_tensor q = EBB_NEW(c, EBB_ACTIVATIONS, x.dtype, "q", T, S, C);
  ebb_tensor k = EBB_NEW(c, EBB_ACTIVATIONS, x.dtype, "k", T, S, C);
  ebb_tensor v = EBB_NEW(c, EBB_ACTIVATIONS, x.dtype, "v", T, S, C);
  ebb_tensor out = EBB_VIEW(y, T, S, C);
  ebb_channel_norm(c, tokens, EBB_VIEW(x, T, S, C), flat(s->norm1), EBB_IDENTITY);
  ebb_linear(c, q, tokens, ebb_at(w, 0), ebb_at(b, 0), EBB_IDENTITY);
  ebb_linear(c, k, tokens, ebb_at(w, 1), ebb_at(b, 1), EBB_IDENTITY);
  ebb_linear(c, v, tokens, ebb_at(w, 2), ebb_at(b, 2), EBB_IDENTITY);
  ebb_attention(c, tokens, NULL, q, k, v, 1, 1);
  ebb_linear(c, out, tokens, EBB_VIEW(s->b.w, C, C), s->b.b, EBB_IDENTITY);
  ebb_gate_add(c, out, EBB_VIEW(x, T, S, C), EBB_NO_TENSOR);
}

static void run_down(ebb_context *c, const stage *s, ebb_tensor y, ebb_tensor x) {
  ebb_tensor h = y;
  if (s->time)
    h = EBB_NEW(c, EBB_ACTIVATIONS, x.dtype, "halved", 1, x.shape[1], y.shape[2], y.shape[3], s->out);
  ebb_downsample_space(c, h, x, s->a.w, s->a.b);
  if (s->time)
    ebb_downsample_time(c, y, h, s->b.w, s->b.b);
}

static void run_up(ebb_context *c, const stage *s, ebb_tensor y, ebb_tensor x) {
  ebb_tensor h = x;
  if (s->time) {
    h = EBB_NEW(c, EBB_ACTIVATIONS, x.dtype, "doubled in time", 1, y.shape[1], x.shape[2], x.shape[3], s->in);
    ebb_upsample_time(c, h, x, s->b.w, s->b.b);
  }
  ebb_tensor wide = video_like(c, "doubled", y, s->in);
  ebb_upsample_space(c, wide, h);
  ebb_conv3d_causal(c, y, wide, EBB_NO_TENSOR, EBB_VIEW(s->a.w, s->out, s->in, 1, 3, 3), s->a.b,
                    EBB_NO_TENSOR);
}

/* x [1,T,H,W,in]; y as after() says. What a stage takes it gives back. */
static void run_stage(ebb_context *c, const stage *s, ebb_tensor y, ebb_tensor x) {
  size_t mark = ebb_arena_mark(&c->activations);
  switch (s->kind) {
  case CONV: /* outer slices: fewer outputs than the weight has, where only the first are wanted */
    ebb_conv3d_causal(c, y, x, EBB_NO_TENSOR, ebb_slice(s->a.w, 0, s->out), ebb_slice(s->a.b, 0, s->out),
                      EBB_NO_TENSOR);
    break;
  case RESIDUAL:
    run_residual(c, s, y, x);
    break;
  case ATTENTION:
    run_attention(c, s, y, x);
    break;
  case DOWN:
    run_down(c, s, y, x);
    break;
  case UP:
    run_up(c, s, y, x);
    break;
  case HEAD:
    ebb_conv3d_causal(c, y, x, flat(s->norm1), s->a.w, s->a.b, EBB_NO_TENSOR);
    break;
  }
  ebb_arena_release(&c->activations, mark);
}

/* A video [1,T,H,W,C] of this shape at the beginning of a buffer. */
static ebb_tensor video_in(ebb_tensor buffer, ebb_latent_shape x) {
  return EBB_VIEW(ebb_slice(buffer, 0, numbers(x)), 1, x.frames, x.height, x.width, x.channels);
}

/* A video [1,T,H,W,C] as the patches of one position that ebb_patchify and ebb_unpatchify know. */
static ebb_tensor positions(ebb_tensor x) {
  return EBB_VIEW(x, 1, x.shape[1] * x.shape[2] * x.shape[3], x.shape[4]);
}

/* All stages; two buffers take turns. x [1,C,T,H,W]; y [1,C',T',H',W'], the last stage's output. */
static void run(const ebb_vae *vae, const coder *half, ebb_tensor y, ebb_tensor x) {
  ebb_context *c = vae->context;
  const int each[3] = {1, 1, 1};
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_latent_shape shape = {x.shape[1], x.shape[2], x.shape[3], x.shape[4]}, at = shape;
  int64_t most[2] = {1, numbers(at)};
  for (int i = 0; i < half->count; i++) {
    at = after(&half->stages[i], at);
    most[i & 1] = numbers(at) > most[i & 1] ? numbers(at) : most[i & 1];
  }
  ebb_tensor buffers[2] = {EBB_NEW(c, EBB_ACTIVATIONS, vae->dtype, "even stages", most[0]),
                           EBB_NEW(c, EBB_ACTIVATIONS, vae->dtype, "odd stages", most[1])};
  ebb_tensor from = video_in(buffers[1], shape);
  ebb_patchify(c, positions(from), x, each);
  for (int i = 0; i < half->count; i++) {
    shape = after(&half->stages[i], shape);
    ebb_tensor to = video_in(buffers[i & 1], shape);
    run_stage(c, &half->stages[i], to, from);
    from = to;
  }
  ebb_unpatchify(c, y, positions(from), each);
  ebb_arena_release(&c->activations, mark);
}

void ebb_vae_encode(ebb_vae *vae, ebb_tensor latents, ebb_tensor video) {
  const wan_vae *v = vae->state;
  assert(v->has_encoder && latents.shape[0] == video.shape[0]);
  for (int64_t b = 0; b < video.shape[0]; b++)
    run(vae, &v->encoder, ebb_slice(latents, b, 1), ebb_slice(video, b, 1));
  ebb_channel_affine(vae->context, latents, latents, v->to_unit_scale, v->to_unit_shift);
}

void ebb_vae_decode(ebb_vae *vae, ebb_tensor video, ebb_tensor latents) {
  const wan_vae *v = vae->state;
  ebb_context *c = vae->context;
  assert(v->has_decoder && latents.shape[0] == video.shape[0]);
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor z = ebb_tensor_new(c, EBB_ACTIVATIONS, EBB_F32, "posterior mode", latents.rank, latents.shape);
  ebb_channel_affine(c, z, latents, v->from_unit_scale, v->from_unit_shift);
  for (int64_t b = 0; b < video.shape[0]; b++)
    run(vae, &v->decoder, ebb_slice(video, b, 1), ebb_slice(z, b, 1));
  ebb_clamp(c, video, video, -1, 1);
  ebb_arena_release(&c->activations, mark);
}
