/* ebb compare */
#include "probe/compare.h"
#include "cli/commands.h"
#include "cli/options.h"

#include <math.h>

int ebb_compare_command(int argc, char **argv) {
  ebb_compare_options o = {.feature = "attn_frames", .sigma = 0.01};
  const ebb_option options[] = {
      {"out", EBB_OPTION_TEXT, &o.out, "DIR", "folder for cosine.csv, summary.csv and compare.json", 0, 0,
       NULL},
      {"feature", EBB_OPTION_TEXT, &o.feature, "NAME", "stored feature, e.g. attn_rows (attn_frames)", 0, 0,
       NULL},
      {"model", EBB_OPTION_TEXT, &o.model, "NAME", "one model alone, e.g. transformer (all that both have)",
       0, 0, NULL},
      {"sigma", EBB_OPTION_REAL, &o.sigma, "S", "how far apart in sigma a pair of steps may be (0.01)", 0, 0,
       NULL},
  };
  const ebb_command command = {"compare RUN_A RUN_B --out DIR [options]",
                               "How alike the attention maps are that two runs of the same videos drew - "
                               "other time labels, another number of\n"
                               "steps, another solver: the cosine for every video, block, head and step, and "
                               "beside it what maps of two\n"
                               "videos have. Steps are matched by sigma.",
                               options,
                               (int)(sizeof options / sizeof *options),
                               o.run,
                               2,
                               2,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (!o.out || !(o.sigma >= 0) || !isfinite(o.sigma)) {
    fprintf(stderr, o.out ? "ebb: --sigma must be a number, 0 or more\n"
                          : "ebb: compare needs --out (--help tells more)\n");
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {0};
  if (ebb_compare_runs(&o, stdout, &err))
    return EBB_EXIT_OK;
  fprintf(stderr, "ebb: %s\n", err.text);
  return EBB_EXIT_ERROR;
}
