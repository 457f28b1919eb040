/* ebb eval */
#include "engine/eval.h"
#include "cli/commands.h"
#include "cli/options.h"

#include <string.h>

int ebb_eval_command(int argc, char **argv) {
  const char *op = NULL;
  ebb_eval_options e = {.transformer = "transformer",
                        .device = "auto",
                        .dtype = "float32",
                        .solver = "euler",
                        .labels = "noisy",
                        .schedule = "auto",
                        .guidance = 1};
  int64_t steps = 50, max_tokens = 512;
  ebb_text_list prompts = {0};
  const ebb_option options[] = {
      {"model", EBB_OPTION_TEXT, &e.model, "DIR", "diffusers folder", 0, 0, NULL},
      {"transformer", EBB_OPTION_TEXT, &e.transformer, "NAME",
       "sub-folder with the transformer (transformer)", 0, 0, NULL},
      {"in", EBB_OPTION_TEXT, &e.in, "FILE", "safetensors, float32", 0, 0, NULL},
      {"out", EBB_OPTION_TEXT, &e.out, "FILE", "safetensors, float32", 0, 0, NULL},
      {"device", EBB_OPTION_TEXT, &e.device, "NAME", "auto, cpu, cuda or cuda:N (auto)", 0, 0, NULL},
      {"dtype", EBB_OPTION_TEXT, &e.dtype, "NAME", "float32, or bfloat16 on a GPU (float32)", 0, 0,
       "float32|bfloat16"},
      {"velocity-only", EBB_OPTION_FLAG, &e.velocity_only, NULL,
       "velocity: without the blocks' states and maps", 0, 0, NULL},
      {"steps", EBB_OPTION_INT, &steps, "N", "invert, sample: steps (50)", 1, 10000, NULL},
      {"solver", EBB_OPTION_TEXT, &e.solver, "NAME",
       "euler, heun, midpoint, rk4, exact; sample: unipc too; invert: exact in float32 alone (euler)", 0, 0,
       "euler|heun|midpoint|rk4|exact|unipc"},
      {"labels", EBB_OPTION_TEXT, &e.labels, "NAME", "noisy (official) or matched (noisy)", 0, 0,
       "noisy|matched"},
      {"guidance", EBB_OPTION_REAL, &e.guidance, "G", "1 is the prompt alone (1)", 0, 0, NULL},
      {"schedule", EBB_OPTION_TEXT, &e.schedule, "NAME", "auto, unipc, unipc-old, flow-match-euler (auto)", 0,
       0, "auto|unipc|unipc-old|flow-match-euler"},
      {"prompt", EBB_OPTION_LIST, &prompts, "TEXT", "text: a prompt; may be given again and again", 0, 0,
       NULL},
      {"max-tokens", EBB_OPTION_INT, &max_tokens, "N", "text: length with padding (512)", 1, 4096, NULL},
      {"shift", EBB_OPTION_REAL, &e.shift, "S", "flow shift (the model's)", 0, 0, NULL},
  };
  const ebb_command command = {
      "eval OP --model DIR --in X.safetensors --out Y.safetensors [options]",
      "OP, tensors in -> tensors out (all float32):\n"
      "  velocity  latents [B,C,T,H,W], timestep [B], text [B,M,text_dim] -> velocity, and for every block "
      "i\n"
      "            block.i [B,S,D], attn_frames.i [B,N,T,T], attn_entropy.i [B,N,T] in nats\n"
      "  encode    video [B,3,F,H,W] in [-1,1] -> latents (posterior mode, normalised)\n"
      "  decode    latents -> video\n"
      "  invert    latents, text, text_negative (when guidance is not 1) -> trajectory [steps+1,B,C,T,H,W]\n"
      "            from clean to noise, sigmas [steps+1], timesteps [steps]\n"
      "  sample    noise, text, text_negative -> the same from noise to clean\n"
      "  text      --prompt instead of --in -> ids [n,M], length [n] (both int64), text [n,M,text_dim]",
      options,
      (int)(sizeof options / sizeof *options),
      &op,
      1,
      1,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  static const char *const ops[] = {"velocity", "encode", "decode", "invert", "sample", "text"};
  const bool text = strcmp(op, "text") == 0;
  bool known = false;
  for (int i = 0; i < 6; i++)
    known = known || strcmp(op, ops[i]) == 0;
  if (!known || !e.model || !e.out || (text ? e.in || prompts.count == 0 : !e.in || prompts.count > 0)) {
    fprintf(stderr,
            !known ? "ebb: eval '%s': expected velocity, encode, decode, invert, sample or text\n"
            : text ? "ebb: eval text needs --model, --prompt and --out, and no --in (--help tells more)\n"
                   : "ebb: eval needs --model, --in and --out (--help tells more)\n",
            op);
    return EBB_EXIT_USAGE;
  }
  if (!(e.guidance >= 1 && e.guidance <= 100) || !(e.shift >= 0 && e.shift <= 1000)) {
    fprintf(stderr, "ebb: --guidance must be 1 (the prompt alone) to 100, --shift 0 (the model's) to 1000\n");
    return EBB_EXIT_USAGE;
  }
  e.op = op;
  e.steps = (int)steps;
  ebb_error err = {0};
  const ebb_eval_text_options t = {e.model,       e.out,         e.device,   e.dtype,
                                   prompts.count, prompts.items, max_tokens, stderr};
  if (text ? ebb_eval_text(&t, &err) : ebb_eval(&e, &err))
    return EBB_EXIT_OK;
  fprintf(stderr, "ebb: %s\n", err.text);
  return EBB_EXIT_ERROR;
}
