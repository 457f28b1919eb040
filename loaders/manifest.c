/* Any data set as a table: id, path, and what is known of each video. */
#include "loaders/manifest.h"

#include "loaders/file.h"
#include "loaders/formats.h"
#include "loaders/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ID, PATH, LABEL, GROUP, PAIR, CATEGORY, VIEW, SPLIT, PROMPT, COLUMNS };
static const char *const names[COLUMNS] = {"id",       "path", "label", "group", "pair",
                                           "category", "view", "split", "prompt"};

typedef struct layout {
  const ebb_table *table;
  int column[COLUMNS]; /* -1: not there */
  int target[EBB_TARGETS_MAX];
} layout;

static bool read_names(const ebb_table *t, ebb_dataset *set, layout *l, ebb_error *err) {
  l->table = t;
  for (int k = 0; k < COLUMNS; k++)
    l->column[k] = ebb_table_find(t, names[k]);
  for (int i = 0; i < t->columns; i++) {
    const ebb_cell *c = &t->cells[i];
    bool known = false;
    for (int k = 0; k < COLUMNS; k++)
      known |= l->column[k] == i;
    if (known)
      continue;
    if (strncmp(c->text, "target:", 7) != 0)
      return ebb_fail(err,
                      "%s:%d:%d: unknown column \"%.60s\", expected id, path, label, group, pair, category, "
                      "view, split, prompt or target:NAME",
                      t->path, c->line, c->column, c->text);
    if (set->target_count == EBB_TARGETS_MAX)
      return ebb_fail(err, "%s:%d:%d: more than %d targets", t->path, c->line, c->column, EBB_TARGETS_MAX);
    const char *name = c->text + 7;
    if (name[0] == '\0' || strlen(name) >= EBB_TARGET_NAME)
      return ebb_fail(err, "%s:%d:%d: the target's name \"%.60s\" has not 1 to %d bytes", t->path, c->line,
                      c->column, name, EBB_TARGET_NAME - 1);
    l->target[set->target_count] = i;
    memcpy(set->target_names[set->target_count++], name, strlen(name) + 1);
  }
  for (int k = ID; k <= PATH; k++)
    if (l->column[k] < 0)
      return ebb_fail(err, "%s:1: no column \"%s\"", t->path, names[k]);
  return true;
}

/* Inside the root: relative, and no step upward. */
static bool is_inside(const char *path) {
  if (path[0] == '\0' || path[0] == '/')
    return false;
  for (const char *part = path; part != NULL; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL)
    if (strcmp(part, "..") == 0 || strncmp(part, "../", 3) == 0)
      return false;
  return true;
}

static bool read_label(const ebb_table *t, const ebb_cell *c, ebb_label *label, ebb_error *err) {
  static const struct {
    const char *word;
    ebb_label label;
  } words[] = {{"", EBB_UNLABELLED},     {"possible", EBB_POSSIBLE}, {"impossible", EBB_IMPOSSIBLE},
               {"1", EBB_POSSIBLE},      {"0", EBB_IMPOSSIBLE},      {"true", EBB_POSSIBLE},
               {"false", EBB_IMPOSSIBLE}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcasecmp(c->text, words[i].word) == 0) {
      *label = words[i].label;
      return true;
    }
  return ebb_fail(
      err, "%s:%d:%d: label is \"%.60s\", expected possible, impossible (1, 0; true, false) or nothing",
      t->path, c->line, c->column, c->text);
}

static char *text_of(const layout *l, int64_t row, int k) {
  return l->column[k] < 0 ? NULL : ebb_format("%s", ebb_table_text(l->table, row, l->column[k]));
}

/* The same where an empty cell says nothing. */
static char *word_of(const layout *l, int64_t row, int k) {
  const char *text = ebb_table_text(l->table, row, l->column[k]);
  return text[0] == '\0' ? NULL : ebb_format("%s", text);
}

static bool read_targets(const layout *l, int64_t row, int count, double **targets, ebb_error *err) {
  *targets = count > 0 ? ebb_must(malloc((size_t)count * sizeof **targets)) : NULL;
  for (int i = 0; i < count; i++) {
    (*targets)[i] = NAN;
    if (ebb_table_text(l->table, row, l->target[i])[0] != '\0' &&
        !ebb_table_number(l->table, row, l->target[i], &(*targets)[i], err))
      return false;
  }
  return true;
}

static bool read_row(const layout *l, int64_t row, const char *folder, ebb_listing *w, ebb_error *err) {
  const ebb_table *t = l->table;
  const ebb_cell *id = ebb_table_cell(t, row, l->column[ID]), *path = ebb_table_cell(t, row, l->column[PATH]);
  if (id->text[0] == '\0')
    return ebb_fail(err, "%s:%d:%d: a video without an id", t->path, id->line, id->column);
  if (!is_inside(path->text))
    return ebb_fail(err,
                    "%s:%d:%d: the path \"%.200s\" does not lead into the manifest's folder: expected a "
                    "relative path without \"..\"",
                    t->path, path->line, path->column, path->text);
  ebb_video v = {.item = -1, .label = EBB_UNLABELLED};
  if (l->column[LABEL] >= 0 && !read_label(t, ebb_table_cell(t, row, l->column[LABEL]), &v.label, err))
    return false;
  if (!read_targets(l, row, w->set->target_count, &v.targets, err)) {
    free(v.targets);
    return false;
  }
  v.id = ebb_format("%s", id->text);
  v.path = ebb_path_join(folder, path->text);
  v.category = word_of(l, row, CATEGORY);
  v.category = v.category != NULL ? v.category : ebb_format("all");
  v.group = word_of(l, row, GROUP);
  v.group = v.group != NULL ? v.group : ebb_format("%s", id->text);
  v.pair = word_of(l, row, PAIR);
  v.view = word_of(l, row, VIEW);
  v.split = word_of(l, row, SPLIT);
  v.prompt = text_of(l, row, PROMPT); /* an empty prompt is a prompt */
  ebb_listing_add(w, v);
  return true;
}

bool ebb_manifest_parse(ebb_dataset *set, const char *path, const char *text, size_t bytes,
                        const char *folder, ebb_error *err) {
  ebb_table table;
  const size_t n = strlen(path);
  const char separator = n > 4 && strcasecmp(path + n - 4, ".tsv") == 0 ? '\t' : ',';
  if (!ebb_table_parse(&table, path, separator, text, bytes, err))
    return false;
  ebb_listing w = {.set = set};
  layout l;
  bool ok = read_names(&table, set, &l, err);
  for (int64_t row = 0; ok && row < table.rows; row++)
    ok = read_row(&l, row, folder, &w, err);
  ebb_table_free(&table);
  return ok;
}

/* Files that are not there and folders without frames go, each with its reason. */
static void leave_out_missing(ebb_listing *w) {
  ebb_dataset *set = w->set;
  int64_t kept = 0;
  for (int64_t i = 0; i < set->count; i++) {
    ebb_video *v = &set->videos[i];
    ebb_error why = {""};
    bool ok = ebb_is_there(v->path) || ebb_fail(&why, "%s: no such file or folder", v->path);
    if (ok && ebb_is_folder(v->path))
      ok = (v->frames = ebb_count_frames(v->path, &why)) > 0;
    if (ok) {
      set->videos[kept++] = *v;
    } else {
      ebb_listing_leave_out(w, v->id, &why);
      ebb_video_free(v);
    }
  }
  set->count = kept;
}

bool ebb_manifest_list(ebb_listing *w, ebb_error *err) {
  const char *root = w->set->root;
  char *path = ebb_is_folder(root) ? ebb_path_join(root, "manifest.csv") : ebb_format("%s", root);
  const char *slash = strrchr(path, '/');
  char *folder =
      slash != NULL ? ebb_format("%.*s", (int)(slash - path) + (slash == path), path) : ebb_format(".");
  char *text = NULL;
  size_t bytes;
  bool ok = ebb_file_read(path, EBB_TABLE_BYTES_MAX, &text, &bytes, err) &&
            ebb_manifest_parse(w->set, path, text, bytes, folder, err);
  bool labelled = w->options->unlabelled || w->set->target_count > 0;
  for (int64_t i = 0; ok && !labelled && i < w->set->count; i++)
    labelled = w->set->videos[i].label != EBB_UNLABELLED;
  if (ok && w->set->count > 0 && !labelled)
    ok = ebb_fail(err,
                  "%s: no video has a label or a target: nothing can be probed (data.unlabelled: true, "
                  "--unlabelled, when that is meant)",
                  path);
  if (ok)
    leave_out_missing(w);
  free(text);
  free(folder);
  free(path);
  return ok && ebb_listing_finish(w, "a line for each video below the names of the columns", err);
}
