/* ebb fidelity */
#include "cli/commands.h"
#include "cli/fidelity_report.h"
#include "cli/options.h"
#include "cli/overrides.h"
#include "cli/progress.h"
#include "ebb_version.h"
#include "engine/job.h"
#include "loaders/file.h"

#include <stdlib.h>
#include <string.h>

static void show(void *user, double done, int64_t samples) {
  ebb_progress_bar *p = user;
  p->total = samples;
  ebb_progress_show(p, done);
}

/* The experiment that `where` is or holds; config->run.out is the run's folder afterwards. */
static bool read_experiment(ebb_config *config, const char *where, const char *out, ebb_overrides *o,
                            bool *usage, ebb_error *err) {
  const bool is_run = ebb_is_folder(where);
  char *path = is_run ? ebb_path_join(where, "config.yaml") : ebb_format("%s", where);
  bool ok = ebb_overrides_read(config, path, o, usage, err);
  free(path);
  const char *run = is_run ? where : config->run.out[0] ? NULL : out; /* NULL: as the file says */
  if (ok && run)
    ok = snprintf(config->run.out, sizeof config->run.out, "%s", run) < (int)sizeof config->run.out ||
         ebb_fail(err, "%s: longer than %d characters", run, (int)sizeof config->run.out - 1);
  return ok && ebb_job_check(config, err);
}

static bool measure(const ebb_config *config, const ebb_fidelity_options *asked, const char *out,
                    int64_t *failed, ebb_error *err) {
  ebb_progress_bar progress;
  ebb_fidelity f;
  ebb_fidelity_options options = *asked;
  options.log = stderr;
  options.progress = show;
  options.progress_user = &progress;
  ebb_progress_start(&progress, "measuring", "videos", 0);
  char *folder = out ? ebb_format("%s", out) : ebb_path_join(config->run.out, "fidelity");
  char *margins = ebb_path_join(config->run.out, "probe/margins.csv");
  bool ok = ebb_fidelity_run(config, &options, &f, err);
  if (ok)
    ebb_progress_end(&progress);
  const ebb_fidelity_report report = {&f, &options, config, EBB_VERSION " " EBB_COMMIT, margins, folder};
  ok = ok && ebb_fidelity_write(&report, stdout, err);
  *failed = f.failed;
  ebb_fidelity_free(&f);
  free(margins);
  free(folder);
  return ok;
}

int ebb_fidelity_command(int argc, char **argv) {
  const char *where = NULL, *out = NULL;
  ebb_overrides o = {0};
  ebb_fidelity_options asked = {.local = "all", .generated = 4};
  const ebb_option options[] = {
      {"set", EBB_OPTION_LIST, &o.sets, "KEY=VALUE", "overrides a key of the file; again and again", 0, 0,
       NULL},
      EBB_DEVICE_OPTION(&o.device),
      {"out", EBB_OPTION_TEXT, &out, "DIR", "folder to write (fidelity/ in the run's folder)", 0, 0, NULL},
      {"forward", EBB_OPTION_TEXT, &asked.forward, "NAME", "solver of the way forward (the inversion's own)",
       0, 0, "euler|heun|midpoint|rk4|exact|unipc"},
      {"generated", EBB_OPTION_INT, &asked.generated, "N", "noises drawn for the closed loops; 0: none (4)",
       0, 4096, NULL},
      {"local", EBB_OPTION_TEXT, &asked.local, "WHERE",
       "steps whose own errors are measured: all, captured, none (all)", 0, 0, "all|captured|none"},
      {"seed", EBB_OPTION_INT, &asked.seed, "N", "of the drawn noises (0)", 0, INT64_MAX, NULL},
  };
  const ebb_command command = {"fidelity CONFIG|RUN [options]",
                               "How exact an experiment's inversions are, always as files: every video "
                               "inverted and taken forward again, and\n"
                               "drawn noises taken forward, inverted again, and so through pixels too. Step "
                               "by step: distance of the two\n"
                               "paths, error of the step, attention on both; the recovered noise against "
                               "N(0,1); and whether any of it goes\n"
                               "with the probe's margins, where RUN was probed. Writes fidelity.csv, "
                               "fidelity_videos.csv, fidelity_noise.csv,\n"
                               "fidelity_attention.csv, fidelity_summary.json.",
                               options,
                               (int)(sizeof options / sizeof *options),
                               &where,
                               1,
                               1,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  ebb_config config;
  bool usage = false;
  int64_t failed = 0;
  if (read_experiment(&config, where, out, &o, &usage, &err) && measure(&config, &asked, out, &failed, &err))
    return failed ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
  fprintf(stderr, "ebb: %s\n", err.text);
  return usage ? EBB_EXIT_USAGE : EBB_EXIT_ERROR;
}
