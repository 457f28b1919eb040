/* ebb: flow-matching models carry noise to video; ebb runs the flow backward and reads what the model knew on the way. */
#include "cli/commands.h"
#include "cli/options.h"
#include "ebb_version.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct {
  const char *name, *help;
  int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "an experiment from a config file: invert, probe, report", ebb_run_command},
    {"invert", "videos to features: the first half of a run", ebb_invert_command},
    {"probe", "features to conclusions: the second half", ebb_probe_command},
    {"report", "a finished run's tables and pictures again: overview, heat, frame-mass", ebb_report_command},
    {"regress", "features to targets: speed, position, size", ebb_regress_command},
    {"export", "a run as the official code's run folder", ebb_export_command},
    {"import", "the official code's run folder as a run", ebb_import_command},
    {"compare", "how alike the attention of two runs of the same videos is", ebb_compare_command},
    {"generate", "videos from noise", ebb_generate_command},
    {"reconstruct", "videos to noise and back, with PSNR and SSIM beside the VAE's own",
     ebb_reconstruct_command},
    {"fidelity", "how exact an experiment's inversions are, step by step", ebb_fidelity_command},
    {"solver-compare", "solvers, labels and steps: errors to a fine reference, and accuracies",
     ebb_solver_compare_command},
    {"intervene", "scenes generated again with a block or a head tampered with, and what probes make of it",
     ebb_intervene_command},
    {"text", "prompts to embeddings that runs take from a file", ebb_text_command},
    {"eval", "one operation on tensors in files, to compare with other code", ebb_eval_command},
    {"info", "what is in a safetensors file or a model folder", ebb_info_command},
    {"synth", "make a labelled physics data set", ebb_synth_command},
    {"data", "check a data set, score one by its official evaluator", ebb_data_command},
    {"doctor", "what this build and this machine can do", ebb_doctor_command},
};

static void print_help(FILE *out) {
  fprintf(out,
          "ebb %s: runs video diffusion transformers backward and reads what they knew on the way\n\n"
          "usage: ebb COMMAND [arguments]\n\n",
          EBB_VERSION);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    fprintf(out, "  %-14s %s\n", commands[i].name, commands[i].help);
  fprintf(out,
          "\n`ebb COMMAND --help` tells more. Exit codes: 0 ok, 1 error, 2 usage, 3 some videos failed.\n");
}

/* What was printed has to have arrived: a table on a full disk is no success. */
static int finish(int code) {
  if (fflush(stdout) == 0 && !ferror(stdout))
    return code;
  fprintf(stderr, "ebb: cannot write to standard output (is the disk full?)\n");
  return code == EBB_EXIT_USAGE ? code : EBB_EXIT_ERROR;
}

int main(int argc, char **argv) {
  signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error of the write, told like a full disk */
  if (argc < 2) {
    print_help(stderr);
    return EBB_EXIT_USAGE;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
    print_help(stdout);
    return EBB_EXIT_OK;
  }
  if (strcmp(argv[1], "--version") == 0) {
    printf("ebb %s %s\n", EBB_VERSION, EBB_COMMIT);
    return EBB_EXIT_OK;
  }
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strcmp(argv[1], commands[i].name) == 0)
      return finish(commands[i].run(argc - 1, argv + 1));
  fprintf(stderr, "ebb: unknown command '%s' (ebb --help lists them)\n", argv[1]);
  return EBB_EXIT_USAGE;
}
