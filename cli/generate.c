/* ebb generate, reconstruct */
#include "cli/commands.h"
#include "cli/overrides.h"
#include "cli/progress.h"
#include "ebb_version.h"
#include "engine/reconstruct.h"
#include "loaders/file.h"

#include <stdlib.h>

static void show(void *user, double done, int64_t videos) {
  ebb_progress_bar *p = user;
  p->total = videos;
  ebb_progress_show(p, done);
}

static void print_summary(const ebb_config *k, const ebb_reconstruction *s) {
  printf("%-24s %10s %10s\n", "", "PSNR (dB)", "SSIM");
  printf("%-24s %10.3f %10.4f\n", "VAE alone (the ceiling)", s->ceiling.psnr, s->ceiling.ssim);
  printf("%-24s %10.3f %10.4f\n", "reconstruction", s->made.psnr, s->made.ssim);
  printf("%-24s %10.3f %10.4f\n", "gap", s->ceiling.psnr - s->made.psnr, s->ceiling.ssim - s->made.ssim);
  printf("means over %lld videos, %s with labels %s, %lld steps each way; by video in "
         "%s/reconstruct/reconstruct.csv\n",
         (long long)s->videos, k->inversion.solver, k->inversion.labels, (long long)k->inversion.steps,
         k->run.out);
}

static int run(int argc, char **argv, bool reconstruct) {
  const char *path = NULL;
  ebb_overrides o = {0};
  int dry_run = 0;
  const ebb_option options[] = {
      {"set", EBB_OPTION_LIST, &o.sets, "KEY=VALUE", "overrides a key of the file; again and again", 0, 0,
       NULL},
      {"out", EBB_OPTION_TEXT, &o.out, "DIR", "run folder (run.out)", 0, 0, NULL},
      EBB_DEVICE_OPTION(&o.device),
      {"dry-run", EBB_OPTION_FLAG, &dry_run, NULL, "print what it will take, and stop", 0, 0, NULL},
  };
  const ebb_command command = {
      reconstruct ? "reconstruct CONFIG [--set KEY=VALUE] [--out DIR] [--device NAME] [--dry-run]"
                  : "generate CONFIG [--set KEY=VALUE] [--out DIR] [--device NAME] [--dry-run]",
      reconstruct
          ? "Takes every video to noise and back by the same solver, labels, prompt and text length, and "
            "writes\n"
            "DIR/reconstruct: the videos and their originals, PSNR and SSIM of each beside those of the VAE "
            "alone\n"
            "(reconstruct.csv), and their means (reconstruct.json). Exit code 3 when some videos failed."
          : "Draws noise (generate.seed) or reads it (generate.noise), takes it to videos by "
            "inversion.solver, and\n"
            "writes DIR/generate: the videos, generate.csv and generate.json.",
      options,
      (int)(sizeof options / sizeof *options),
      &path,
      1,
      1,
      ebb_config_help};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {{0}};
  ebb_config config;
  ebb_job_result result = {0};
  ebb_reconstruction summary = {0};
  ebb_progress_bar progress;
  const ebb_job_options job = {.version = EBB_VERSION " " EBB_COMMIT,
                               .dry_run = dry_run,
                               .log = stderr,
                               .progress = show,
                               .progress_user = &progress};
  bool usage = false, ok = ebb_overrides_read(&config, path, &o, &usage, &err);
  ebb_progress_start(&progress, reconstruct ? "reconstructing" : "generating", "videos", 0);
  if (ok)
    ok = reconstruct ? ebb_reconstruct(&config, &job, &result, &summary, &err)
                     : ebb_generate(&config, &job, &result, &err);
  progress.total = result.videos;
  if (ok && !dry_run) {
    ebb_progress_end(&progress);
    if (reconstruct)
      print_summary(&config, &summary);
  }
  if (!ok)
    fprintf(stderr, "ebb: %s\n", err.text);
  return !ok ? (usage ? EBB_EXIT_USAGE : EBB_EXIT_ERROR) : result.failed ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
}

int ebb_generate_command(int argc, char **argv) {
  return run(argc, argv, false);
}

int ebb_reconstruct_command(int argc, char **argv) {
  return run(argc, argv, true);
}
