/* The layout of IntPhys (Riochet et al., arXiv 1803.07616): root[/dev]/O1/01/1/scene/scene_001.png and
 * status.json. */
#include "loaders/file.h"
#include "loaders/formats.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_MAX ((size_t)64 << 20)

bool ebb_intphys_status(const char *path, const char *text, size_t bytes, bool *possible, ebb_error *err) {
  json_error_t e;
  json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &e);
  if (root == NULL) {
    const char *disguise = ebb_file_disguise(text, bytes);
    if (disguise != NULL)
      return ebb_fail(err, "%s: this is %s", path, disguise);
    return ebb_fail(err, "%s:%d:%d: not valid JSON: %s", path, e.line, e.column, e.text);
  }
  const json_t *header = json_object_get(root, "header"), *is = json_object_get(header, "is_possible");
  bool ok = json_is_boolean(is);
  if (ok)
    *possible = json_is_true(is);
  else if (!json_is_object(header))
    ebb_fail(err, "%s: no object \"header\", expected {\"header\": {\"is_possible\": true or false}}", path);
  else
    ebb_fail(err, "%s: \"header\" has no \"is_possible\" that is true or false", path);
  json_decref(root);
  return ok;
}

static bool read_label(const ebb_listing *w, const char *folder, ebb_label *label, ebb_error *err) {
  char *path = ebb_path_join(folder, "status.json"), *text = NULL;
  size_t bytes;
  bool possible = false, ok;
  if (w->options->unlabelled && !ebb_is_there(path)) {
    *label = EBB_UNLABELLED;
    ok = true;
  } else {
    ok = ebb_file_read(path, STATUS_MAX, &text, &bytes, err) &&
         ebb_intphys_status(path, text, bytes, &possible, err);
    *label = possible ? EBB_POSSIBLE : EBB_IMPOSSIBLE;
  }
  free(text);
  free(path);
  return ok;
}

static void add_video(ebb_listing *w, const char *folder, const char *category, const char *group,
                      const char *movie) {
  char *id = ebb_format("%s/%s/%s", category, group, movie), *scene = ebb_path_join(folder, "scene");
  ebb_label label = EBB_UNLABELLED;
  ebb_error why = {""};
  const int frames = ebb_count_frames(scene, &why);
  if (frames > 0 && read_label(w, folder, &label, &why)) {
    ebb_listing_add(w, (ebb_video){.id = id,
                                   .path = scene,
                                   .group = ebb_format("%s/%s", category, group),
                                   .category = ebb_format("%s", category),
                                   .label = label,
                                   .frames = frames,
                                   .item = -1});
    return;
  }
  ebb_listing_leave_out(w, id, &why);
  free(id);
  free(scene);
}

static bool is_number(const char *name) {
  size_t n = strspn(name, "0123456789");
  return n > 0 && n <= 9 && name[n] == '\0';
}

static bool is_category(const char *name) {
  return name[0] == 'O' && is_number(name + 1);
}

/* Calls visit for every sub-folder whose name is accepted. An unreadable folder is an error: what is in it is
 * unknown. */
typedef bool visitor(ebb_listing *w, const char *folder, const char *const *names, ebb_error *err);

static bool each_folder(ebb_listing *w, const char *folder, bool (*accept)(const char *), int depth,
                        const char *const *above, visitor *visit, ebb_error *err) {
  char **names;
  int64_t count;
  if (!ebb_folder_list(folder, &names, &count, err))
    return false;
  bool ok = true;
  for (int64_t i = 0; ok && i < count; i++) {
    if (!accept(names[i]))
      continue;
    char *path = ebb_path_join(folder, names[i]);
    const char *here[3] = {depth > 0 ? above[0] : names[i], depth > 1 ? above[1] : names[i], names[i]};
    if (ebb_is_folder(path))
      ok = visit(w, path, here, err);
    free(path);
  }
  ebb_names_free(names, count);
  return ok;
}

static bool visit_movie(ebb_listing *w, const char *folder, const char *const *names, ebb_error *err) {
  (void)err;
  add_video(w, folder, names[0], names[1], names[2]);
  return true;
}

static bool visit_group(ebb_listing *w, const char *folder, const char *const *names, ebb_error *err) {
  return each_folder(w, folder, is_number, 2, names, visit_movie, err);
}

static bool visit_category(ebb_listing *w, const char *folder, const char *const *names, ebb_error *err) {
  return each_folder(w, folder, is_number, 1, names, visit_group, err);
}

bool ebb_intphys_list(ebb_listing *w, ebb_error *err) {
  const char *root = w->set->root;
  if (!each_folder(w, root, is_category, 0, NULL, visit_category, err))
    return false;
  if (w->set->count == 0 && w->left_out == 0) {
    char *dev = ebb_path_join(root, "dev");
    bool ok = !ebb_is_folder(dev) || each_folder(w, dev, is_category, 0, NULL, visit_category, err);
    free(dev);
    if (!ok)
      return false;
  }
  return ebb_listing_finish(w,
                            "the IntPhys layout: O1/01/1/scene/scene_001.png and O1/01/1/status.json, here "
                            "or in a folder dev/",
                            err);
}
