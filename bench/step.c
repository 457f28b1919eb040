/* bench step: one evaluation of the velocity, or one encoding: whole, and where its time goes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/profile.h"
#include "bench/subject.h"

typedef struct step {
  bench_subject subject;
  ebb_model model;
  ebb_condition cond;
  ebb_vae vae;
  ebb_tensor x, v; /* latents and velocity, or video and latents */
  ebb_tap *tap;    /* of the measurement under way; may be NULL */
} step;

/* ---- names of stages --------------------------------------------------------------------------------- */

/* The stages of a Wan block, by the weight that a product has and by what an attention looks at. */
static const char *product_stage(const char *weight) {
  static const struct {
    const char *part, *stage;
  } stages[] = {{"patch_embedding", "patch embedding"},    {"attn1.to_out", "self-attention, out"},
                {"attn1.", "self-attention, q k v"},       {"attn2.to_out", "cross-attention, out"},
                {"attn2.", "cross-attention, q"},          {"ffn.net.0", "feed-forward, up"},
                {"ffn.net.2", "feed-forward, down"},       {"proj_out", "head"},
                {"projected text", "cross-attention, out"}};
  for (size_t i = 0; weight && i < sizeof stages / sizeof *stages; i++)
    if (strstr(weight, stages[i].part))
      return stages[i].stage;
  return "other products";
}

static void velocity_stage(const ebb_op_seen *op, char text[64]) {
  const ebb_tensor *t = op->tensors;
  const char *stage = op->name;
  if (strcmp(op->name, "linear") == 0)
    stage = product_stage(t[2].name);
  else if (strcmp(op->name, "attention_weights") == 0)
    stage = "cross-attention";
  else if (strcmp(op->name, "attention") == 0)
    stage = t[1].shape[1] == t[2].shape[1] ? "self-attention" : "cross-attention";
  else if (strcmp(op->name, "norm_modulate") == 0)
    stage = "norms, modulation";
  else if (strcmp(op->name, "qk_norm_rope") == 0)
    stage = "q k norm, positions";
  else if (strcmp(op->name, "gate_add_norm") == 0 || strcmp(op->name, "gate_add_layer_norm") == 0)
    stage = "gates, residuals and norms";
  else if (strcmp(op->name, "patchify") == 0)
    stage = "patch embedding";
  else if (strcmp(op->name, "unpatchify") == 0)
    stage = "head";
  snprintf(text, 64, "%s", stage);
}

/* Op and shape of its output: "conv3d_causal [1, 96, 97, 256, 256]". */
static void op_and_shape(const ebb_op_seen *op, char text[64]) {
  char shape[EBB_SHAPE_TEXT];
  snprintf(text, 64, "%s %.44s", op->name, ebb_shape_text(op->tensors[0].rank, op->tensors[0].shape, shape));
}

/* ---- the velocity ------------------------------------------------------------------------------------ */

static void evaluate(void *user, int i) {
  step *s = user;
  (void)i;
  ebb_tap_begin(s->tap, 0);
  ebb_model_velocity(&s->model, s->v, s->x, &s->cond, 0, s->tap);
  ebb_tap_end(s->tap);
}

static void print_rates(const step *s, const bench_time *time) {
  const bench_subject *b = &s->subject;
  double flops = bench_velocity_flops(b, &s->model);
  printf("%s%.4g tokens/s; %.4g TFLOP of mathematics, %.4g TFLOP/s, %.3f of the %lld^3 product's rate\n",
         b->sheet.csv ? "# " : "", (double)bench_tokens(b, &s->model) / time->median, flops * 1e-12,
         flops / time->median * 1e-12, flops / time->median / b->sheet.ceilings.matmul,
         (long long)b->sheet.ceilings.side);
}

/* One measurement: points captured as the mean over tokens, of every block. */
static bool measure(step *s, const char *which, ebb_name_list points, ebb_error *err) {
  bench_subject *b = &s->subject;
  ebb_context *c = &b->context;
  ebb_tap_plan plan;
  ebb_tap tap = {.plan = &plan};
  char shape[64];
  const size_t mark = ebb_arena_mark(&c->activations);
  ebb_config config;
  ebb_config_defaults(&config);
  config.capture.steps = (ebb_int_list){1, {0}};
  config.capture.blocks.count = -1;
  config.capture.points = points;
  config.capture.pool = (ebb_name_list){1, {"mean"}};
  if (points.count > 0 &&
      (!ebb_tap_plan_make(&plan, &config, 1, ebb_model_tap_sizes(&s->model, b->shape), err) ||
       !ebb_tap_open(&tap, &plan, c, b->options.batch, err)))
    return false;
  s->tap = points.count > 0 ? &tap : NULL;
  ebb_counters before = c->counters;
  evaluate(s, 0);
  double flops = c->counters.flops - before.flops, bytes = c->counters.bytes - before.bytes;
  bench_time time = bench_measure(c, evaluate, s, b->options.seconds);
  s->tap = NULL;
  if (points.count > 0)
    ebb_tap_close(&tap);
  ebb_arena_release(&c->activations, mark);
  if (!ebb_context_ok(c, err))
    return false;
  if (!c->counting)
    bench_sheet_row(&b->sheet, &(bench_row){"step", which, bench_latent_text(b, shape),
                                            ebb_dtype_name(b->dtype), time, flops, bytes});
  if (!c->counting && strcmp(which, "no capture") == 0)
    print_rates(s, &time);
  return true;
}

static bool profile(step *s, void (*call)(void *user, int i), const char *what, const char *shape,
                    ebb_dtype dtype, void (*name)(const ebb_op_seen *op, char text[64]), ebb_error *err) {
  enum { RUNS = 3 };
  bench_subject *b = &s->subject;
  static bench_profile p;
  if (b->context.counting)
    return true;
  call(s, 0);
  bench_profile_start(&p, &b->context, name);
  for (int i = 0; i < RUNS; i++)
    call(s, i);
  bench_profile_stop(&p);
  if (!ebb_context_ok(&b->context, err))
    return false;
  bench_profile_print(&p, &b->sheet, what, shape, ebb_dtype_name(dtype), RUNS);
  return true;
}

static bool velocity(void *user, ebb_error *err) {
  step *s = user;
  bench_subject *b = &s->subject;
  ebb_context *c = &b->context;
  const ebb_latent_shape z = b->shape;
  const double label = 500;
  char shape[64];
  bool ok =
      bench_open_transformer(b, &s->model, err) && bench_condition(b, &s->model, &label, 1, &s->cond, err);
  if (ok) {
    s->x = EBB_ACTIVATION(c, "latents", b->options.batch, z.channels, z.frames, z.height, z.width);
    s->v = EBB_ACTIVATION(c, "velocity", b->options.batch, z.channels, z.frames, z.height, z.width);
    bench_fill(c, s->x, 1.7, 5); /* a deviation of one */
    ok = measure(s, "no capture", (ebb_name_list){0}, err) &&
         measure(s, "block means", (ebb_name_list){1, {"block_out"}}, err) &&
         measure(s, "block means, attention maps",
                 (ebb_name_list){3, {"block_out", "attn_frames", "attn_entropy"}}, err) &&
         measure(s, "no capture, again", (ebb_name_list){0}, err) && /* how far apart two of the same are */
         profile(s, evaluate, "stage", bench_latent_text(b, shape), b->dtype, velocity_stage, err);
  }
  ebb_condition_free(&s->cond);
  ebb_model_close(&s->model);
  return ok;
}

/* ---- the encoder ------------------------------------------------------------------------------------- */

static void encode(void *user, int i) {
  step *s = user;
  (void)i;
  ebb_vae_encode(&s->vae, s->v, s->x);
}

static bool encoding(void *user, ebb_error *err) {
  step *s = user;
  bench_subject *b = &s->subject;
  ebb_context *c = &b->context;
  const ebb_latent_shape z = b->shape;
  char shape[64];
  if (!bench_open_vae(b, &s->vae, err))
    return false;
  s->x = EBB_ACTIVATION(c, "video", 1, 3, b->options.frames, b->height, b->width);
  s->v = EBB_ACTIVATION(c, "latents", 1, z.channels, z.frames, z.height, z.width);
  bench_fill(c, s->x, 1, 6);
  ebb_counters before = c->counters;
  encode(s, 0);
  double flops = c->counters.flops - before.flops, bytes = c->counters.bytes - before.bytes;
  bench_time time = bench_measure(c, encode, s, b->options.seconds);
  bool ok = ebb_context_ok(c, err);
  snprintf(shape, sizeof shape, "1x3x%lldx%lldx%lld", (long long)b->options.frames, (long long)b->height,
           (long long)b->width);
  if (ok && !c->counting)
    bench_sheet_row(&b->sheet, &(bench_row){"vae encode", "one clip", shape, ebb_dtype_name(b->vae_dtype),
                                            time, flops, bytes});
  ok = ok && profile(s, encode, "vae op", shape, b->vae_dtype, op_and_shape, err);
  ebb_vae_close(&s->vae);
  return ok;
}

/* ---- the command ------------------------------------------------------------------------------------- */

static const char *const summary =
    "Times one evaluation of the velocity on a batch: alone, with the token means of every block\n"
    "captured, and with the statistics of every self-attention as well; then, op by op, by stage.\n"
    "Tokens a second, and the fraction of the matmul ceiling that the mathematics of the evaluation\n"
    "reaches. With --vae, one encoding by op (bench step --vae --help).";

/* The two kinds of step have their own options. */
static bool is_of_vae(int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], "--vae") == 0)
      return true;
  return false;
}

int bench_step(int argc, char **argv) {
  bench_subject_options o = bench_subject_defaults;
  int vae = is_of_vae(argc, argv);
  enum { OWN = 1 };
  ebb_option options[OWN + BENCH_SUBJECT_OPTIONS] = {
      {"vae", EBB_OPTION_FLAG, &vae, NULL, "the VAE's encoder on one clip, in place of the transformer", 0, 0,
       NULL},
  };
  int count =
      OWN + bench_subject_list(
                &o,
                vae ? "arch model device vae-dtype size frames seed seconds csv"
                    : "arch model transformer device dtype batch size frames text words seed seconds csv",
                options + OWN);
  const ebb_command command = {vae ? "step --vae [--arch NAME | --model DIR] [options]"
                                   : "step [--vae] [--arch NAME | --model DIR] [options]",
                               summary,
                               options,
                               count,
                               NULL,
                               0,
                               0,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  static step s;
  ebb_error err = {{0}};
  bench_subject *b = &s.subject;
  bool usage = false, ok = bench_subject_open(b, &o, &usage, &err);
  const ebb_dtype dtype = vae ? b->vae_dtype : b->dtype;
  ok = ok && bench_find_ceilings(&b->context, dtype, &b->sheet.ceilings, &err);
  if (ok) {
    bench_sheet_start(&b->sheet, &b->context);
    bench_sheet_ceilings(&b->sheet, dtype);
    ok = ebb_context_sized(&b->context, vae ? encoding : velocity, &s, &err);
  }
  bench_subject_close(b);
  return ok ? EBB_EXIT_OK : usage ? (bench_fail(&err), EBB_EXIT_USAGE) : bench_fail(&err);
}
