#include "loaders/inflevel.h"

#include "loaders/file.h"
#include "loaders/formats.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char ebb_inflevel_notice[] =
    "InfLevel is for evaluation only. Its authors do not allow training on it, \"even of a linear probe\", "
    "since "
    "that measures what can be learned from the videos, not what a model knows (README of allenai/inflevel). "
    "Report a probe trained on it as such; `ebb data evaluate --evaluator inflevel` scores without training.";

static const struct {
  const char *name;
  int parts; /* of a file's name */
  const char *codes[5];
} categories[] = {{"continuity", 6, {"vv", "ii", "iv", "vi", NULL}},
                  {"gravity", 5, {"ui", "cv", "uv", "ci", NULL}},
                  {"solidity", 5, {"ui", "cv", "uv", "ci", NULL}}};

static int find_category(const char *name) {
  for (int i = 0; i < 3; i++)
    if (strcmp(categories[i].name, name) == 0)
      return i;
  return -1;
}

const char *const *ebb_inflevel_codes(const char *category) {
  int i = find_category(category);
  return i < 0 ? NULL : categories[i].codes;
}

static bool is_video_name(const char *name) {
  size_t n = strlen(name);
  return n > 4 && strcasecmp(name + n - 4, ".mp4") == 0;
}

/* Splits at "__"; returns how many parts, at most 7; -1: one is empty or too long. */
static int split(const char *name, size_t bytes, char parts[7][64]) {
  int n = 0;
  for (const char *end = name + bytes; n < 7;) {
    const char *next = name;
    while (next < end && !(next + 1 < end && next[0] == '_' && next[1] == '_'))
      next++;
    size_t length = (size_t)(next - name);
    if (length == 0 || length >= 64)
      return -1;
    memcpy(parts[n], name, length);
    parts[n++][length] = '\0';
    if (next == end)
      break;
    name = next + 2;
  }
  return n;
}

bool ebb_inflevel_parse(const char *file, ebb_inflevel_name *name, ebb_error *err) {
  static const char shape[] = "<view>__<category>__<cover>__<object>__<code>[__<direction>].mp4";
  char parts[7][64] = {{0}};
  *name = (ebb_inflevel_name){0};
  if (!is_video_name(file))
    return ebb_fail(err, "%s: not an .mp4", file);
  const int n = split(file, strlen(file) - 4, parts), c = n < 5 ? -1 : find_category(parts[1]);
  if (n < 5)
    return ebb_fail(err, "%s: %s, expected %s", file, n < 0 ? "an empty or too long part" : "too few parts",
                    shape);
  if (c < 0)
    return ebb_fail(err, "%s: the category is \"%s\", expected continuity, gravity or solidity", file,
                    parts[1]);
  if (n != categories[c].parts)
    return ebb_fail(err, "%s: %d parts between \"__\", expected %d in %s%s", file, n, categories[c].parts,
                    categories[c].name, c == 0 ? " (the last is the direction)" : "");
  if (strcmp(parts[0], "center") != 0 && strcmp(parts[0], "left") != 0 && strcmp(parts[0], "right") != 0)
    return ebb_fail(err, "%s: the view is \"%s\", expected center, left or right", file, parts[0]);
  if (n == 6 && strcmp(parts[5], "LR") != 0 && strcmp(parts[5], "RL") != 0)
    return ebb_fail(err, "%s: the direction is \"%s\", expected LR or RL", file, parts[5]);
  int code = 0;
  while (code < 4 && strcmp(parts[4], categories[c].codes[code]) != 0)
    code++;
  if (code == 4)
    return ebb_fail(err, "%s: the code is \"%s\", expected %s, %s, %s or %s in %s", file, parts[4],
                    categories[c].codes[0], categories[c].codes[1], categories[c].codes[2],
                    categories[c].codes[3], categories[c].name);
  name->label = code < 2 ? EBB_POSSIBLE : EBB_IMPOSSIBLE;
  snprintf(name->view, sizeof name->view, "%.7s", parts[0]);
  snprintf(name->category, sizeof name->category, "%s", categories[c].name);
  memcpy(name->cover, parts[2], sizeof name->cover);
  memcpy(name->object, parts[3], sizeof name->object);
  snprintf(name->code, sizeof name->code, "%.3s", parts[4]);
  snprintf(name->direction, sizeof name->direction, "%.3s", parts[5]);
  return true;
}

static void add_video(ebb_listing *w, const char *folder, const char *file, const char *expected) {
  ebb_inflevel_name name;
  ebb_error why = {""};
  bool ok = ebb_inflevel_parse(file, &name, &why);
  if (ok && expected != NULL && strcmp(name.category, expected) != 0)
    ok = ebb_fail(&why, "%s: a video of %s in the folder %s", file, name.category, expected);
  if (!ok) {
    ebb_listing_leave_out(w, file, &why);
    return;
  }
  const char *mark = name.direction[0] != '\0' ? "__" : "";
  char *event = ebb_format("%s__%s%s%s", name.cover, name.object, mark, name.direction);
  ebb_listing_add(w, (ebb_video){.id = ebb_format("%s/%.*s", name.category, (int)strlen(file) - 4, file),
                                 .path = ebb_path_join(folder, file),
                                 .group = w->options->within_views
                                              ? ebb_format("%s/%s__%s", name.category, name.view, event)
                                              : ebb_format("%s/%s", name.category, event),
                                 .category = ebb_format("%s", name.category),
                                 .label = name.label,
                                 .pair = ebb_format("%s", name.view), /* compared within one camera */
                                 .view = ebb_format("%s", name.view),
                                 .item = -1});
  free(event);
}

/* The videos of a folder; `expected`: of one category. Names that start with a dot ("._left__..." of a Mac)
 * are in no list. */
static bool list_folder(ebb_listing *w, const char *folder, const char *expected, ebb_error *err) {
  char **names;
  int64_t count;
  if (!ebb_folder_list(folder, &names, &count, err))
    return false;
  for (int64_t i = 0; i < count; i++)
    if (is_video_name(names[i]))
      add_video(w, folder, names[i], expected);
  ebb_names_free(names, count);
  return true;
}

static bool list_root(ebb_listing *w, const char *root, ebb_error *err) {
  bool ok = list_folder(w, root, NULL, err);
  for (int i = 0; ok && i < 3; i++) {
    char *folder = ebb_path_join(root, categories[i].name);
    if (ebb_is_folder(folder))
      ok = list_folder(w, folder, categories[i].name, err);
    free(folder);
  }
  return ok;
}

bool ebb_inflevel_list(ebb_listing *w, ebb_error *err) {
  w->set->notice = ebb_inflevel_notice;
  bool ok = list_root(w, w->set->root, err);
  if (ok && w->set->count == 0 && w->left_out == 0) {
    char *lab = ebb_path_join(w->set->root, "inflevel_lab");
    ok = !ebb_is_folder(lab) || list_root(w, lab, err);
    free(lab);
  }
  return ok && ebb_listing_finish(w,
                                  "the InfLevel-Lab layout: gravity/left__gravity__<cover>__<object>__cv.mp4 "
                                  "and so on, here or in a folder inflevel_lab/",
                                  err);
}
