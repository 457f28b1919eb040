/* ebb synth; ebb data check, manifest, evaluate */
#include "cli/commands.h"
#include "cli/options.h"
#include "loaders/dataset.h"
#include "loaders/file.h"
#include "loaders/synth.h"
#include "probe/csv.h"
#include "probe/evaluator.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(table) ((int)(sizeof(table) / sizeof *(table)))

int ebb_synth_command(int argc, char **argv) {
  const char *dir = NULL, *categories = "O1,O2,O3", *bulk = NULL;
  int64_t quadruplets = 30, seed = 1, size = 64, frames = 33, first = 0, count = 0;
  int lawless = 0;
  const ebb_option options[] = {
      {"quadruplets", EBB_OPTION_INT, &quadruplets, "N", "quadruplets in each category (30)", 1, 9999, NULL},
      {"categories", EBB_OPTION_TEXT, &categories, "LIST", "of O1,O2,O3 (all)", 0, 0, NULL},
      {"seed", EBB_OPTION_INT, &seed, "N", "another seed, other scenes (1)", 0, INT64_MAX, NULL},
      {"size", EBB_OPTION_INT, &size, "PIXELS", "height and width (64)", 32, 512, NULL},
      {"frames", EBB_OPTION_INT, &frames, "N", "length of a movie (33)", 9, 512, NULL},
      {"bulk", EBB_OPTION_TEXT, &bulk, "FILE", "instead: training movies in one safetensors file", 0, 0,
       NULL},
      {"first", EBB_OPTION_INT, &first, "N", "number of the first training movie (0)", 0, (int64_t)1 << 32,
       NULL},
      {"count", EBB_OPTION_INT, &count, "N", "how many training movies", 1, (int64_t)1 << 32, NULL},
      {"lawless", EBB_OPTION_FLAG, &lawless, NULL, "training movies of the lawless world", 0, 0, NULL},
  };
  const ebb_command command = {
      "synth DIR [--quadruplets N] | synth --bulk FILE --count N [--lawless]",
      "Makes movies of bodies that move and bounce and pass behind an occluder: O1 object permanence, O2 "
      "shape constancy,\n"
      "O3 spatio-temporal continuity, in the IntPhys layout, as quadruplets whose possible and impossible "
      "movies consist\n"
      "of the same frames; or training movies in bulk. The same seed gives the same bytes everywhere.",
      options,
      COUNT(options),
      &dir,
      0,
      1,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if ((dir != NULL) == (bulk != NULL) || (bulk && count == 0)) {
    fprintf(stderr, "ebb: synth needs either DIR, or --bulk FILE and --count N (--help tells more)\n");
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {0};
  const ebb_synth_options world = {(uint64_t)seed, (int)size, (int)frames};
  bool ok = bulk ? ebb_synth_bulk(bulk, first, count, lawless != 0, &world, &err)
                 : ebb_synth_intphys(dir, categories, (int)quadruplets, &world, &err);
  if (!ok)
    fprintf(stderr, "ebb: %s\n", err.text);
  return ok ? EBB_EXIT_OK : EBB_EXIT_ERROR;
}

static void print_skipped(void *user, const char *id, const char *reason) {
  ++*(int64_t *)user;
  fprintf(stderr, "broken %s: %s\n", id, reason);
}

static int check_command(int argc, char **argv) {
  const char *words[2] = {NULL, NULL}, *format = "intphys", *views = "across", *prompt = "neutral";
  int unlabelled = 0;
  const ebb_option options[] = {
      {"format", EBB_OPTION_TEXT, &format, "NAME", "intphys (default), inflevel, phyworld, manifest", 0, 0,
       "intphys|inflevel|phyworld|manifest"},
      {"unlabelled", EBB_OPTION_FLAG, &unlabelled, NULL, "labels may be absent", 0, 0, NULL},
      {"views", EBB_OPTION_TEXT, &views, "HOW", "groups across camera views (default) or within each", 0, 0,
       "across|within"},
      {"prompt", EBB_OPTION_TEXT, &prompt, "WHICH",
       "neutral (default) or official: what data.prompt would give", 0, 0, "neutral|official"},
  };
  const ebb_command command = {
      "data check PATH [--format NAME]",
      "Reads every frame of a data set. Tells broken videos and groups, balance by label, category and view, "
      "lengths and\n"
      "sizes, whether classes are made of the same frames, what is null by that construction, and leaks: "
      "what tells\n"
      "labels or targets without looking at the frames. PATH is a folder; of phyworld the HDF5 file, of "
      "manifest the CSV\n"
      "or the folder of a manifest.csv. Exit code 3 when a group or a video is broken.",
      options,
      COUNT(options),
      words,
      2,
      2,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  ebb_dataset set = {0};
  int64_t skipped = 0, broken = 0;
  const ebb_dataset_options how = {.unlabelled = unlabelled != 0,
                                   .within_views = strcmp(views, "within") == 0,
                                   .official_prompt = strcmp(prompt, "official") == 0};
  bool ok = ebb_dataset_open(&set, format, words[1], &how, print_skipped, &skipped, &err) &&
            ebb_dataset_check(&set, stdout, &broken, &err);
  ebb_dataset_close(&set);
  if (!ok)
    fprintf(stderr, "ebb: %s\n", err.text);
  return !ok ? EBB_EXIT_ERROR : broken || skipped ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
}

/* The path of a video below the set's folder; NULL: it is not there. A root that is a file is a manifest: its
 * folder is the set's, as loaders/manifest.c joins them. */
static const char *below(const ebb_dataset *set, const ebb_video *v) {
  const char *slash = strrchr(set->root, '/');
  size_t n = ebb_is_folder(set->root) ? strlen(set->root) : slash != NULL ? (size_t)(slash - set->root) : 0;
  if (n == 0 && slash == NULL) /* in the folder where we are, which is joined as "." */
    return v->item < 0 && strncmp(v->path, "./", 2) == 0 ? v->path + 2 : NULL;
  while (n > 1 && set->root[n - 1] == '/')
    n--;
  const char *rest = strncmp(v->path, set->root, n) == 0 && v->path[n] == '/' ? v->path + n : "";
  rest += strspn(rest, "/");
  return v->item < 0 && rest[0] != '\0' ? rest : NULL;
}

static bool write_manifest(const ebb_dataset *set, FILE *out, ebb_error *err) {
  bool has[4] = {false}; /* columns that some video fills */
  static const char *const names[4] = {"pair", "view", "split", "prompt"};
  for (int64_t i = 0; i < set->count; i++) {
    const ebb_video *v = &set->videos[i];
    const char *const more[] = {v->pair, v->view, v->split, v->prompt};
    for (int k = 0; k < 4; k++)
      has[k] |= more[k] != NULL;
    if (below(set, v) == NULL)
      return ebb_fail(err, "%s: video %s is not a file or folder below it: a manifest cannot name it",
                      set->root, v->id);
  }
  fprintf(out, "id,path,label,group,category");
  for (int k = 0; k < 4; k++)
    fprintf(out, "%s%s", has[k] ? "," : "", has[k] ? names[k] : "");
  for (int t = 0; t < set->target_count; t++) {
    char *name = ebb_format("target:%s", set->target_names[t]);
    fputc(',', out);
    ebb_csv_text(out, name);
    free(name);
  }
  fputc('\n', out);
  for (int64_t i = 0; i < set->count; i++) {
    const ebb_video *v = &set->videos[i];
    const char *label = v->label == EBB_POSSIBLE     ? "possible"
                        : v->label == EBB_IMPOSSIBLE ? "impossible"
                                                     : "";
    const char *const cells[] = {v->id,   below(set, v), label,    v->group, v->category,
                                 v->pair, v->view,       v->split, v->prompt};
    for (int k = 0; k < 9; k++)
      if (k < 5 || has[k - 5]) {
        if (k > 0)
          fputc(',', out);
        ebb_csv_text(out, cells[k] != NULL ? cells[k] : "");
      }
    for (int t = 0; t < set->target_count; t++)
      ebb_csv_number(out, 17, v->targets[t]);
    fputc('\n', out);
  }
  return true;
}

static int manifest_command(int argc, char **argv) {
  const char *words[2] = {NULL, NULL}, *format = "intphys", *views = "across";
  const ebb_option options[] = {
      {"format", EBB_OPTION_TEXT, &format, "NAME", "intphys (default), inflevel, manifest", 0, 0,
       "intphys|inflevel|manifest"},
      {"views", EBB_OPTION_TEXT, &views, "HOW", "groups across camera views (default) or within each", 0, 0,
       "across|within"},
  };
  const ebb_command command = {
      "data manifest DIR [--format NAME]",
      "Prints a data set as the CSV that format manifest reads, to be edited and kept as DIR/manifest.csv: "
      "ids, paths,\n"
      "labels, groups and what else is known of each video. DIR may be a manifest itself. Not of phyworld: a "
      "manifest\n"
      "names files, and its videos lie inside one HDF5 file. Exit code 3 when a video is broken.",
      options,
      COUNT(options),
      words,
      2,
      2,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  ebb_dataset set = {0};
  int64_t skipped = 0;
  const ebb_dataset_options how = {.within_views = strcmp(views, "within") == 0};
  bool ok = ebb_dataset_open(&set, format, words[1], &how, print_skipped, &skipped, &err) &&
            write_manifest(&set, stdout, &err);
  ebb_dataset_close(&set);
  if (!ok)
    fprintf(stderr, "ebb: %s\n", err.text);
  return !ok ? EBB_EXIT_ERROR : skipped ? EBB_EXIT_SOME_FAILED : EBB_EXIT_OK;
}

/* The shortest decimal number that reads back as x, as Python prints it. */
static const char *shortest(double x, char text[32]) {
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, 32, "%.*g", digits, x);
    if (strtod(text, NULL) == x)
      break;
  }
  return text;
}

static int evaluate_command(int argc, char **argv) {
  const char *words[2] = {NULL, NULL}, *evaluator = "inflevel", *category = NULL, *score = "score";
  int64_t permutations = 1000;
  const ebb_option options[] = {
      {"evaluator", EBB_OPTION_TEXT, &evaluator, "NAME", "inflevel", 0, 0, "inflevel"},
      {"category", EBB_OPTION_TEXT, &category, "NAME", "of the videos: continuity, gravity or solidity", 0, 0,
       "continuity|gravity|solidity"},
      {"score", EBB_OPTION_TEXT, &score, "COLUMN", "column of the scores, large where plausible (score)", 0,
       0, NULL},
      {"permutations", EBB_OPTION_INT, &permutations, "N", "draws of the permutation test (1000); 0: none", 0,
       10000000, NULL},
  };
  const ebb_command command = {
      "data evaluate SCORES.csv --category NAME [--score COLUMN]",
      "The official evaluator of InfLevel: accuracy over the four comparisons of each complete group "
      "(camera_loc, cover,\n"
      "obj[, dir]), p-values of its permutation test with its own draws. Columns: camera_loc, cover, obj, "
      "trial_type,\n"
      "dir where there is one, and the scores; .tsv has tabs. No training: this is what its makers allow.",
      options,
      COUNT(options),
      words,
      2,
      2,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (category == NULL) {
    fprintf(stderr,
            "ebb: data evaluate needs --category continuity, gravity or solidity (--help tells more)\n");
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {0};
  ebb_table table = {0};
  ebb_evaluation r;
  char text[3][32];
  bool ok = ebb_table_read(&table, words[1], &err) &&
            ebb_inflevel_evaluate(&table, category, score, permutations, &r, &err);
  ebb_table_free(&table);
  if (!ok) {
    fprintf(stderr, "ebb: %s\n", err.text);
    return EBB_EXIT_ERROR;
  }
  printf("accuracy     %s\ngroups       %lld\nskipped      %lld%s\n", shortest(r.accuracy, text[0]),
         (long long)r.groups, (long long)r.skipped,
         r.skips_as_expected ? ", as in the published videos" : ", not as many as in the published videos");
  if (permutations > 0)
    printf("pval_1sided  %s\npval         %s\n", shortest(r.p_one_sided, text[1]),
           shortest(r.p_two_sided, text[2]));
  return EBB_EXIT_OK;
}

int ebb_data_command(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
  } commands[] = {{"check", check_command}, {"manifest", manifest_command}, {"evaluate", evaluate_command}};
  const char *word = argc > 1 ? argv[1] : NULL;
  for (int i = 0; i < COUNT(commands); i++)
    if (word != NULL && strcmp(word, commands[i].name) == 0)
      return commands[i].run(argc, argv);
  static const char usage[] = "usage: ebb data check PATH [--format NAME]\n"
                              "       ebb data manifest DIR [--format NAME]\n"
                              "       ebb data evaluate SCORES.csv --category NAME [--score COLUMN]\n"
                              "(`ebb data check --help` and so on tell more)\n";
  const bool help = word != NULL && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0);
  if (word != NULL && !help)
    fprintf(stderr, "ebb: data: unknown %s '%s', expected check, manifest or evaluate\n",
            word[0] == '-' ? "option" : "word", word);
  fputs(usage, help ? stdout : stderr);
  return help ? EBB_EXIT_OK : EBB_EXIT_USAGE;
}
