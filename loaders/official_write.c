#include "loaders/official.h"

#include "loaders/config.h"
#include "loaders/file.h"
#include "loaders/pt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

char *ebb_official_stem(const char *id) {
  static const char *const video[] = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"};
  size_t end = strlen(id);
  for (size_t i = 0; i < sizeof video / sizeof *video; i++)
    if (end > strlen(video[i]) && strcmp(id + end - strlen(video[i]), video[i]) == 0) {
      end -= strlen(video[i]);
      break;
    }
  size_t from = end;
  for (int parts = 0; from > 0; from--) {
    parts += id[from - 1] == '/';
    if (parts == 3)
      break;
  }
  char *stem = ebb_format("%.*s", (int)(end - from), id + from);
  for (char *c = stem; *c; c++)
    *c = *c == '/' ? '_' : *c;
  return stem;
}

static int by_bytes(const void *a, const void *b) {
  const ebb_name_at *x = a, *y = b;
  int order = strcmp(x->name, y->name);
  return order ? order : (x->at > y->at) - (x->at < y->at);
}

void ebb_sort_names(ebb_name_at *names, int64_t count) {
  qsort(names, (size_t)count, sizeof *names, by_bytes);
}

typedef struct export {
  const ebb_store *store;
  const ebb_feature_set *set;
  int set_number, feature;
  int latent_set, latent; /* -1: no noise latents */
  ebb_config config;      /* as the run was made, or the defaults */
  const char *mode;       /* "T2V" */
  const char *dir;
  float *x;
}
export;

/* ---- meta.json ----------------------------------------------------------------------------------------- */

static json_t *text_or_null(const char *text) {
  return text ? json_string(text) : json_null();
}

static double target_of(const ebb_store *store, const ebb_store_video *v, const char *name) {
  for (int t = 0; v->targets && t < store->target_count; t++)
    if (strcmp(store->target_names[t], name) == 0)
      return v->targets[t];
  return NAN;
}

/* What our import takes back; the official code reads none of it. */
static json_t *our_part(const export *e, const ebb_store_video *v) {
  json_t *targets = json_object(), *blocks = json_array(), *sigmas = json_object();
  for (int t = 0; v->targets && t < e->store->target_count; t++)
    if (isfinite(v->targets[t]))
      json_object_set_new(targets, e->store->target_names[t], json_real(v->targets[t]));
  for (int b = 0; b < e->set->block_count; b++)
    json_array_append_new(blocks, json_integer(e->set->blocks[b]));
  for (int s = 0; s < e->set->step_count; s++) {
    char step[16];
    snprintf(step, sizeof step, "%d", e->set->steps[s]);
    json_object_set_new(sigmas, step, json_real(e->set->sigmas[s]));
  }
  return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:s}", "id", v->id, "group",
                   v->group, "category", v->category, "possible",
                   v->label == EBB_UNLABELLED ? json_null() : json_boolean(v->label == EBB_POSSIBLE), "pair",
                   text_or_null(v->pair), "view", text_or_null(v->view), "split", text_or_null(v->split),
                   "targets", targets, "blocks", blocks, "sigmas", sigmas, "model", e->set->model, "feature",
                   e->set->features[e->feature].name);
}

static bool write_meta(const export *e, const ebb_store_video *v, const char *path, ebb_error *err) {
  const ebb_config *k = &e->config;
  json_t *o =
      json_pack("{s:s, s:i, s:s, s:I, s:f, s:s, s:I, s:I, s:I, s:s}", "prompt", v->prompt ? v->prompt : "",
                "label", v->label == EBB_POSSIBLE, "path", v->id, "num_inference_steps",
                (json_int_t)k->inversion.steps, "guidance_scale", k->inversion.guidance, "integrator",
                k->inversion.solver, "height", (json_int_t)k->data.height, "width", (json_int_t)k->data.width,
                "num_frames", (json_int_t)k->data.frames, "mode", e->mode);
  double r = target_of(e->store, v, "r"), speed = target_of(e->store, v, "v");
  if (o && isfinite(r) && isfinite(speed))
    json_object_set_new(o, "init_conditions", json_pack("[f, f]", r, speed));
  ebb_file_writer w;
  bool ok = o && json_object_set_new(o, "ebb", our_part(e, v)) == 0;
  if (!ok)
    ebb_fail(err, "%s: the video \"%.100s\" has a name that is not UTF-8", path, v->id);
  ok = ok && ebb_file_create(&w, path, err);
  if (ok && json_dumpf(o, w.stream, JSON_INDENT(2)) != 0) {
    ebb_file_abandon(&w);
    ok = ebb_fail(err, "%s: cannot write (is the disk full?)", path);
  }
  ok = ok && ebb_file_commit(&w, err);
  json_decref(o);
  return ok;
}

/* ---- tensors ------------------------------------------------------------------------------------------- */

/* (blocks, 1, D) of one video at one step; (1, 1, D) of a feature without blocks. */
static bool write_step(const export *e, int64_t video, int step, const char *scene, ebb_error *err) {
  const ebb_feature *f = &e->set->features[e->feature];
  int blocks = f->by_block ? e->set->block_count : 1;
  int64_t width = ebb_store_width(f);
  for (int b = 0; b < blocks; b++)
    if (!ebb_store_gather(e->store, e->set_number, e->feature, step, b, EBB_ALL_HEADS, 1, &video,
                          e->x + (int64_t)b * width, err))
      return false;
  char *folder = ebb_format("%s/step_%04d", scene, e->set->steps[step]);
  char *path = ebb_path_join(folder, "block_outputs.pt");
  const int64_t shape[3] = {blocks, 1, width};
  bool ok = ebb_make_folders(folder, err) && ebb_pt_write(path, 3, shape, e->x, err);
  free(folder);
  free(path);
  return ok;
}

static bool write_latent(const export *e, int64_t video, const char *scene, ebb_error *err) {
  if (e->latent_set < 0 || !ebb_store_has(e->store, e->latent_set, video))
    return true;
  const ebb_feature_set *set = &e->store->sets[e->latent_set];
  const ebb_feature *f = &set->features[e->latent];
  int64_t shape[EBB_FEATURE_RANK + 1] = {1};
  memcpy(shape + 1, f->shape, (size_t)f->rank * sizeof *shape);
  char *path = ebb_path_join(scene, "noise_latent.pt");
  bool ok = ebb_store_gather(e->store, e->latent_set, e->latent, set->step_count - 1, 0, EBB_ALL_HEADS, 1,
                             &video, e->x, err) &&
            ebb_pt_write(path, f->rank + 1, shape, e->x, err);
  free(path);
  return ok;
}

static bool write_scene(const export *e, int64_t video, ebb_error *err) {
  const ebb_store_video *v = &e->store->videos[video];
  char *stem = ebb_official_stem(v->id);
  if (!ebb_is_plain_name(stem)) {
    ebb_fail(err, "%s: the video \"%.100s\" has no name that can be a folder", e->store->dir, v->id);
    free(stem);
    return false;
  }
  char *scene = ebb_path_join(e->dir, stem), *meta = ebb_path_join(scene, "meta.json");
  bool ok =
      !ebb_is_there(scene) ||
      ebb_fail(err, "%s: is there already (of another export, or of another video whose id ends like %.100s)",
               scene, v->id);
  ok = ok && ebb_make_folders(scene, err);
  for (int s = 0; ok && s < e->set->step_count; s++)
    ok = write_step(e, video, s, scene, err);
  ok = ok && write_latent(e, video, scene, err) && write_meta(e, v, meta, err);
  free(stem);
  free(scene);
  free(meta);
  return ok;
}

/* ---- what to write ------------------------------------------------------------------------------------- */

static bool choose(export *e, const ebb_official_export *what, ebb_error *err) {
  const ebb_store *store = e->store;
  const char *feature = what->feature ? what->feature : "block_out.mean";
  e->set_number = ebb_store_find(store, what->model ? what->model : "transformer");
  for (int i = 0; !what->model && e->set_number < 0 && i < store->set_count; i++)
    if (store->sets[i].block_count > 0)
      e->set_number = i;
  if (e->set_number < 0)
    return ebb_fail(err, "%s: no model \"%s\" in this run", store->dir,
                    what->model ? what->model : "transformer");
  e->set = &store->sets[e->set_number];
  e->feature = ebb_store_feature(e->set, feature);
  if (e->feature < 0) {
    ebb_fail(err, "%s: model %s has no feature %s; it has", store->dir, e->set->model, feature);
    for (int f = 0; f < e->set->feature_count; f++)
      ebb_fail_also(err, "%s %s", f ? "," : "", e->set->features[f].name);
    return false;
  }
  e->latent_set = e->latent = -1;
  for (int i = 0; i < store->set_count && e->latent < 0; i++) {
    e->latent_set = i;
    e->latent = ebb_store_feature(&store->sets[i], "noise_latent");
  }
  if (e->latent < 0)
    e->latent_set = -1;
  return true;
}

/* The run's settings, and what its model is called in the official meta.json. */
static void read_provenance(export *e) {
  const json_t *about = json_object_get(e->store->index, "provenance");
  const char *config = json_string_value(json_object_get(about, "config"));
  const char *class = json_string_value(
      json_object_get(json_object_get(json_object_get(about, "models"), e->set->model), "class"));
  ebb_config_defaults(&e->config);
  ebb_error unreadable = {""};
  if (config && !ebb_config_parse(&e->config, "index.json", config, strlen(config), &unreadable))
    ebb_config_defaults(&e->config);
  e->mode = class && strstr(class, "CogVideoX") ? "T2V_cogvideox"
            : class && strstr(class, "LTX")     ? "T2V_ltx"
                                                : "T2V";
}

bool ebb_official_write(const ebb_store *store, const ebb_official_export *what, const char *dir,
                        int64_t *videos, ebb_error *err) {
  export *e = ebb_must(calloc(1, sizeof *e));
  e->store = store;
  e->dir = dir;
  *videos = 0;
  bool ok = choose(e, what, err);
  if (ok) {
    const ebb_feature *f = &e->set->features[e->feature];
    size_t numbers = (size_t)ebb_store_width(f) * (size_t)(f->by_block ? e->set->block_count : 1);
    size_t latent =
        e->latent < 0 ? 0 : (size_t)ebb_store_width(&store->sets[e->latent_set].features[e->latent]);
    read_provenance(e);
    e->x = malloc((numbers > latent ? numbers : latent) * sizeof *e->x + 1);
    ok = (e->x || ebb_fail(err, "not enough memory for a tensor of %zu numbers", numbers)) &&
         ebb_make_folders(dir, err);
  }
  for (int64_t v = 0; ok && v < store->video_count; v++)
    if (ebb_store_has(store, e->set_number, v)) {
      ok = write_scene(e, v, err);
      *videos += ok;
    }
  if (ok && *videos == 0)
    ok = ebb_fail(err, "%s: model %s has no video to export", store->dir, e->set->model);
  free(e->x);
  free(e);
  return ok;
}
