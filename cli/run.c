/* ebb run, invert, probe, report */
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/overrides.h"
#include "cli/progress.h"
#include "ebb_version.h"
#include "engine/job.h"
#include "loaders/file.h"
#include "probe/probe.h"
#include "probe/regress.h"

#include <stdlib.h>
#include <string.h>

static int fail(const ebb_error *err, bool usage) {
  fprintf(stderr, "ebb: %s\n", err->text);
  return usage ? EBB_EXIT_USAGE : EBB_EXIT_ERROR;
}

static void show_inversion(void *user, double done, int64_t videos) {
  ebb_progress_bar *p = user;
  p->total = videos;
  ebb_progress_show(p, done);
}

static void show_fraction(void *user, double fraction) {
  ebb_progress_show(user, fraction);
}

#define LEAK_OPTION(to)                                                                                      \
  {                                                                                                          \
    "allow-leak", EBB_OPTION_FLAG, (to), NULL,                                                               \
        "split by video where a preset's own protocol does, groups or not (probe.allow_leak)", 0, 0, NULL    \
  }

static bool invert(const ebb_config *config, bool dry_run, ebb_job_result *result, ebb_error *err) {
  ebb_progress_bar progress;
  ebb_job_options options = {.version = EBB_VERSION " " EBB_COMMIT,
                             .dry_run = dry_run,
                             .log = stderr,
                             .progress = show_inversion,
                             .progress_user = &progress};
  ebb_progress_start(&progress, "inverting", "videos", 0);
  bool ok = ebb_job_invert(config, &options, result, err);
  progress.total = result->videos;
  if (ok && !dry_run)
    ebb_progress_end(&progress);
  return ok;
}

static bool probe(const ebb_config *config, const char *run, ebb_error *err) {
  ebb_context c = {0};
  ebb_progress_bar progress;
  ebb_progress_start(&progress, "probing", NULL, 1);
  bool ok =
      ebb_context_open(&c, config->run.device, err) &&
      (ebb_regress_wanted(config) ? ebb_regress_run(run, config, &c, show_fraction, &progress, stdout, err)
                                  : ebb_probe_run(run, config, &c, show_fraction, &progress, stdout, err));
  ebb_context_close(&c);
  fflush(stdout); /* the table first, where both streams go to one place */
  if (ok)
    ebb_progress_end(&progress);
  return ok;
}

static int run_config(int argc, char **argv, bool with_probe) {
  const char *path = NULL;
  ebb_overrides o = {0};
  int dry_run = 0;
  const ebb_option options[] = {
      {"set", EBB_OPTION_LIST, &o.sets, "KEY=VALUE", "overrides a key of the file; again and again", 0, 0,
       NULL},
      {"out", EBB_OPTION_TEXT, &o.out, "DIR", "run folder (run.out)", 0, 0, NULL},
      EBB_DEVICE_OPTION(&o.device),
      {"dry-run", EBB_OPTION_FLAG, &dry_run, NULL, "print memory, features and disk, and stop", 0, 0, NULL},
  };
  const ebb_command command = {
      with_probe ? "run CONFIG [--set KEY=VALUE] [--out DIR] [--device NAME] [--dry-run]"
                 : "invert CONFIG [--set KEY=VALUE] [--out DIR] [--device NAME] [--dry-run]",
      with_probe ? "Takes every video through the VAE and backward through the transformers, keeps what the "
                   "taps saw, and fits\n"
                   "the probes. Exit code 3 when some videos failed; they are named, recorded and left out."
                 : "The first half of `ebb run`: videos to the feature store. `ebb probe RUN` does the rest.",
      options,
      (int)(sizeof options / sizeof *options),
      &path,
      1,
      1,
      ebb_config_help};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  ebb_config config;
  ebb_job_result result = {0};
  bool usage = false;
  bool ok = ebb_overrides_read(&config, path, &o, &usage, &err) && ebb_job_check(&config, &err);
  if (ok && dry_run) /* the plan is printed even when the probe cannot follow */
    ok = invert(&config, true, &result, &err) && (!with_probe || ebb_overrides_check_probe(&config, &err));
  else if (ok)
    ok = (!with_probe || ebb_overrides_check_probe(&config, &err)) && invert(&config, false, &result, &err) &&
         (!with_probe || probe(&config, config.run.out, &err));
  return !ok ? fail(&err, usage) : result.failed ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
}

int ebb_run_command(int argc, char **argv) {
  return run_config(argc, argv, true);
}

int ebb_invert_command(int argc, char **argv) {
  return run_config(argc, argv, false);
}

int ebb_probe_command(int argc, char **argv) {
  const char *run = NULL;
  ebb_overrides o = {0};
  int leak = 0;
  const ebb_option options[] = {{"set", EBB_OPTION_LIST, &o.sets, "KEY=VALUE",
                                 "overrides a key of the run's config, e.g. probe.preset=referee", 0, 0,
                                 NULL},
                                EBB_DEVICE_OPTION(&o.device),
                                LEAK_OPTION(&leak)};
  const ebb_command command = {
      "probe RUN [--set probe.KEY=VALUE] [--device NAME]",
      "Fits the probes on a finished run's features; writes RUN/probe and prints the table.",
      options,
      3,
      &run,
      1,
      1,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  char *path = ebb_path_join(run, "config.yaml");
  ebb_config config;
  bool usage = false;
  bool ok = ebb_overrides_read(&config, path, &o, &usage, &err);
  config.probe.allow_leak = config.probe.allow_leak || leak;
  ok = ok && probe(&config, run, &err);
  free(path);
  return ok ? EBB_EXIT_OK : fail(&err, usage);
}

int ebb_regress_command(int argc, char **argv) {
  const char *run = NULL, *targets = NULL;
  ebb_overrides o = {0};
  int leak = 0;
  const ebb_option options[] = {{"targets", EBB_OPTION_TEXT, &targets, "LIST",
                                 "r,v,x0,y0,...: targets of the data set (probe.target)", 0, 0, NULL},
                                {"set", EBB_OPTION_LIST, &o.sets, "KEY=VALUE",
                                 "overrides a key of the run's config, e.g. probe.preset=released", 0, 0,
                                 NULL},
                                EBB_DEVICE_OPTION(&o.device),
                                LEAK_OPTION(&leak)};
  const ebb_command command = {
      "regress RUN [--targets r,v,x0,...] [--set probe.KEY=VALUE] [--device NAME] [--allow-leak]",
      "Fits the data set's numbers - speed, size, positions - to a finished run's features; writes "
      "RUN/regress and\n"
      "prints R2, MAE and MSE, and with two targets or more what features tell of each beyond the others.",
      options,
      4,
      &run,
      1,
      1,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  char *path = ebb_path_join(run, "config.yaml"),
       *set = targets ? ebb_format("probe.target=[%s]", targets) : NULL;
  ebb_config config;
  bool usage = false;
  bool ok = ebb_overrides_read(&config, path, &o, &usage, &err);
  config.probe.allow_leak = config.probe.allow_leak || leak;
  if (ok && set && !ebb_config_set(&config, set, &err)) {
    usage = true;
    ok = false;
  }
  if (ok && !ebb_regress_wanted(&config)) {
    usage = true;
    ok = ebb_fail(&err, "regress needs targets: --targets r,v or probe.target in the run's config");
  }
  ok = ok && probe(&config, run, &err);
  free(path);
  free(set);
  return ok ? EBB_EXIT_OK : fail(&err, usage);
}

int ebb_report_command(int argc, char **argv) {
  const char *run = NULL;
  int64_t step = -1;
  const ebb_option options[] = {{"step", EBB_OPTION_INT, &step, "N",
                                 "attention maps at this captured step (the one that each probe chose)", 0,
                                 10000, NULL}};
  const ebb_command command = {
      "report RUN [--step N]",
      "Prints the tables of a probed run again and draws its pictures again, into RUN/probe:\n"
      "overview.png, heat-*.png, and frame-mass-*.png of attention maps, with --step "
      "frame-mass-*-stepN.png.",
      options,
      1,
      &run,
      1,
      1,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  return ebb_report_run(run, step, stdout, &err) ? EBB_EXIT_OK : fail(&err, false);
}
