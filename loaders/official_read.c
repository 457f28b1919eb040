#include "loaders/config.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/official.h"
#include "loaders/pt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHARD_VIDEOS = 16 };

typedef struct import {
  const char *dir;
  const ebb_official_import *how;
  ebb_dataset set;
  char **stems; /* [set.count] folders */
  int step_count, *steps;
  double *sigmas;
  bool nominal; /* sigmas are step / num_inference_steps */
  int block_count, *blocks;
  int64_t width, inference_steps;
  int latent_rank; /* -1: no noise latents */
  int64_t latent_shape[EBB_FEATURE_RANK];
  json_t *first; /* meta.json of the first scene */
} import;

static char *copy(const char *text) {
  return ebb_format("%s", text);
}

/* ---- scenes -------------------------------------------------------------------------------------------- */

/* Group and category of a stem as --scenario-mode says. */
static void scenario_of(const char *stem, ebb_scenarios mode, ebb_video *v) {
  const char *last = strrchr(stem, '_'), *first = strchr(stem, '_');
  if (mode == EBB_SCENARIOS_INTPHYS) {
    v->group = last ? ebb_format("%.*s", (int)(last - stem), stem) : copy(stem);
    v->category = first ? ebb_format("%.*s", (int)(first - stem), stem) : copy("all");
    return;
  }
  const char *part[7] = {stem};
  int parts = 1;
  for (const char *at = stem; parts < 7 && (at = strstr(at, "__")) != NULL; at += 2)
    part[parts++] = at + 2;
  if (mode == EBB_SCENARIOS_SCENE || (parts != 5 && parts != 6)) {
    v->group = copy(stem);
    v->category = copy("all");
    return;
  }
  int kept = (int)(part[4] - stem) - 2; /* the first four parts */
  v->group = parts == 5 ? ebb_format("%.*s", kept, stem) : ebb_format("%.*s__%s", kept, stem, part[5]);
  v->category = ebb_format("%.*s", (int)(part[2] - part[1]) - 2, part[1]);
}

/* Number of a target's name in the set, which it joins when there is room; -1: none. */
static int target_number(ebb_dataset *set, const char *name) {
  for (int t = 0; t < set->target_count; t++)
    if (strcmp(set->target_names[t], name) == 0)
      return t;
  if (set->target_count == EBB_TARGETS_MAX || name[0] == '\0' || strlen(name) >= EBB_TARGET_NAME)
    return -1;
  strcpy(set->target_names[set->target_count], name);
  return set->target_count++;
}

static void set_target(ebb_dataset *set, ebb_video *v, const char *name, double value) {
  int t = isfinite(value) ? target_number(set, name) : -1;
  if (t >= 0)
    v->targets[t] = value;
}

static char *text_of(const json_t *o, const char *key) {
  const char *text = json_string_value(json_object_get(o, key));
  return text ? copy(text) : NULL;
}

static bool read_label(ebb_json meta, const json_t *ours, bool has_targets, ebb_label *label) {
  const json_t *possible = json_object_get(ours, "possible");
  int64_t number = ebb_json_int_or(meta, "label", INT32_MIN, INT32_MAX, -1);
  *label = number == 1 ? EBB_POSSIBLE : number == 0 && !has_targets ? EBB_IMPOSSIBLE : EBB_UNLABELLED;
  if (has_targets) /* the official code writes a placeholder there */
    *label = EBB_UNLABELLED;
  if (ours)
    *label =
        json_is_boolean(possible) ? json_is_true(possible) ? EBB_POSSIBLE : EBB_IMPOSSIBLE : EBB_UNLABELLED;
  return meta.err->text[0] == '\0';
}

static bool read_meta(import *m, const char *stem, const char *path, ebb_error *err) {
  json_t *o = ebb_json_read(path, err);
  if (!o)
    return false;
  ebb_json meta = {o, path, err};
  const json_t *ours = json_object_get(o, "ebb"), *initial = json_object_get(o, "init_conditions"), *value;
  const char *id = json_string_value(json_object_get(ours, "id")), *name,
             *group = json_string_value(json_object_get(ours, "group")),
             *category = json_string_value(json_object_get(ours, "category"));
  ebb_video v = {.id = copy(id && id[0] ? id : stem), .path = copy(stem), .item = -1};
  if (group && group[0] && category && category[0]) {
    v.group = copy(group);
    v.category = copy(category);
  } else
    scenario_of(stem, m->how->scenarios, &v);
  v.pair = text_of(ours, "pair");
  v.view = text_of(ours, "view");
  v.split = text_of(ours, "split");
  v.prompt = text_of(o, "prompt");
  v.targets = ebb_must(malloc(EBB_TARGETS_MAX * sizeof *v.targets));
  for (int t = 0; t < EBB_TARGETS_MAX; t++)
    v.targets[t] = NAN;
  json_object_foreach((json_t *)json_object_get(ours, "targets"), name, value)
      set_target(&m->set, &v, name, json_is_number(value) ? json_number_value(value) : NAN);
  bool initially = json_is_array(initial) && json_array_size(initial) >= 2;
  for (int i = 0; initially && i < 2; i++) {
    value = json_array_get(initial, (size_t)i);
    set_target(&m->set, &v, i == 0 ? "r" : "v", json_is_number(value) ? json_number_value(value) : NAN);
  }
  bool ok = read_label(meta, ours, initially, &v.label);
  m->set.videos[m->set.count] = v;
  m->stems[m->set.count++] = copy(stem);
  if (!m->first)
    m->first = json_incref(o);
  json_decref(o);
  return ok;
}

/* Every folder with a meta.json is a scene; their names are in natural order. */
static bool list_scenes(import *m, ebb_error *err) {
  char **names;
  int64_t count;
  if (!ebb_folder_list(m->dir, &names, &count, err))
    return false;
  m->set.root = copy(m->dir);
  m->set.videos = ebb_must(calloc((size_t)count + 1, sizeof *m->set.videos));
  m->stems = ebb_must(calloc((size_t)count + 1, sizeof *m->stems));
  bool ok = true;
  for (int64_t i = 0; ok && i < count; i++) {
    char *path = ebb_format("%s/%s/meta.json", m->dir, names[i]);
    if (ebb_is_plain_name(names[i]) && ebb_is_there(path))
      ok = read_meta(m, names[i], path, err);
    free(path);
  }
  ebb_names_free(names, count);
  if (ok && m->set.count == 0)
    ok = ebb_fail(
        err,
        "%s: no folder with a meta.json: expected the official run folder, the one that --run-dir takes "
        "(<output-dir>/<date>)",
        m->dir);
  return ok;
}

/* ---- shapes -------------------------------------------------------------------------------------------- */

enum { BLOCK_MOST = 100000, STEPS_MOST = 1000000 }; /* of what a file may say */

/* The number of step_0050; -1: another name. */
static int step_of(const char *name) {
  int step = -1, end = 0;
  if (sscanf(name, "step_%4d%n", &step, &end) != 1 || name[end] != '\0' || strlen(name) != 9)
    return -1;
  return step;
}

/* Steps of the first scene, which all have to have. */
static bool list_steps(import *m, ebb_error *err) {
  char *scene = ebb_path_join(m->dir, m->stems[0]), **names;
  int64_t count;
  bool ok = ebb_folder_list(scene, &names, &count, err);
  if (ok) {
    m->steps = ebb_must(calloc((size_t)count + 1, sizeof *m->steps));
    for (int64_t i = 0; i < count; i++)
      if (step_of(names[i]) >= 0)
        m->steps[m->step_count++] = step_of(names[i]);
    ebb_names_free(names, count);
    if (m->step_count == 0)
      ok = ebb_fail(err, "%s: no step_NNNN folder", scene);
    else if (m->step_count > EBB_STORE_LIST)
      ok = ebb_fail(err, "%s: %d step_NNNN folders, a run can keep %d: move the others away", scene,
                    m->step_count, EBB_STORE_LIST);
  }
  free(scene);
  return ok;
}

/* One tensor of the file, its dimensions as (blocks, tokens, D). */
static bool open_tensor(ebb_pt *pt, const char *path, int64_t shape[3], ebb_error *err) {
  if (!ebb_pt_open(pt, path, err))
    return false;
  const ebb_pt_tensor *t = &pt->tensors[0];
  bool ok = pt->count == 1 && (t->rank == 3 || t->rank == 2) && t->count > 0;
  if (!ok) {
    ebb_fail(err, "%s: %lld tensors, the first of %d dimensions: expected one of (blocks, tokens, D)", path,
             (long long)pt->count, t->rank);
    ebb_pt_close(pt);
    return false;
  }
  shape[0] = t->shape[0];
  shape[1] = t->rank == 3 ? t->shape[1] : 1;
  shape[2] = t->shape[t->rank - 1];
  return true;
}

static char *step_path(const import *m, int64_t scene, int step) {
  return ebb_format("%s/%s/step_%04d/block_outputs.pt", m->dir, m->stems[scene], m->steps[step]);
}

/* Numbers of the blocks: those that meta.json at `path` says, else 0, 1, 2 ... */
static bool read_blocks(import *m, const char *path, ebb_error *err) {
  const json_t *blocks = json_object_get(json_object_get(m->first, "ebb"), "blocks");
  m->blocks = ebb_must(calloc((size_t)m->block_count + 1, sizeof *m->blocks));
  const bool named = json_array_size(blocks) == (size_t)m->block_count;
  for (int b = 0; b < m->block_count; b++) {
    const json_t *number = json_array_get(blocks, (size_t)b);
    const json_int_t is = json_integer_value(number), before = b > 0 ? m->blocks[b - 1] : -1;
    if (named && (!json_is_integer(number) || is <= before || is > BLOCK_MOST))
      return ebb_fail(err,
                      "%s: ebb.blocks: entry %d is %lld after %lld: expected ascending numbers from 0 to %d",
                      path, b, (long long)is, (long long)before, BLOCK_MOST);
    m->blocks[b] = named ? (int)is : b;
  }
  return true;
}

/* The number of steps and the sigmas, those that meta.json at `path` says, else nominal ones. */
static bool read_sigmas(import *m, const char *path, ebb_error *err) {
  const json_t *sigmas = json_object_get(json_object_get(m->first, "ebb"), "sigmas"),
               *steps = json_object_get(m->first, "num_inference_steps");
  if (json_is_integer(steps) && (json_integer_value(steps) < 1 || json_integer_value(steps) > STEPS_MOST))
    return ebb_fail(err, "%s: num_inference_steps is %lld, expected 1 to %d", path,
                    (long long)json_integer_value(steps), STEPS_MOST);
  m->inference_steps = json_is_integer(steps) ? json_integer_value(steps) : 100;
  m->sigmas = ebb_must(calloc((size_t)m->step_count + 1, sizeof *m->sigmas));
  for (int s = 0; s < m->step_count; s++) {
    char key[16];
    snprintf(key, sizeof key, "%d", m->steps[s]);
    const json_t *sigma = json_object_get(sigmas, key);
    const bool said = json_is_number(sigma);
    m->nominal = m->nominal || !said;
    m->sigmas[s] = said ? json_number_value(sigma) : (double)m->steps[s] / (double)m->inference_steps;
    if (!(m->sigmas[s] >= 0 && m->sigmas[s] <= 1 && (s == 0 || m->sigmas[s] > m->sigmas[s - 1])))
      return ebb_fail(err, "%s: sigma of step %d is %g%s: expected ascending numbers from 0 to 1", path,
                      m->steps[s], m->sigmas[s], said ? " in ebb.sigmas" : ", step / num_inference_steps");
  }
  return true;
}

/* Blocks, width, sigmas from the first scene. */
static bool measure(import *m, ebb_error *err) {
  char *path = step_path(m, 0, 0);
  ebb_pt pt;
  int64_t shape[3];
  bool ok = open_tensor(&pt, path, shape, err);
  if (ok)
    ebb_pt_close(&pt);
  if (ok && shape[0] > EBB_STORE_LIST)
    ok = ebb_fail(err, "%s: %lld blocks, at most %d are possible", path, (long long)shape[0], EBB_STORE_LIST);
  free(path);
  if (!ok)
    return false;
  m->block_count = (int)shape[0];
  m->width = shape[2];
  path = ebb_format("%s/%s/meta.json", m->dir, m->stems[0]);
  ok = read_blocks(m, path, err) && read_sigmas(m, path, err);
  free(path);
  return ok;
}

/* ---- features ------------------------------------------------------------------------------------------ */

/* x [steps, blocks, width] of a scene: means over tokens. */
static bool read_scene(const import *m, int64_t scene, float *x, ebb_error *err) {
  bool ok = true;
  for (int s = 0; ok && s < m->step_count; s++) {
    char *path = step_path(m, scene, s);
    ebb_pt pt;
    int64_t shape[3];
    ok = open_tensor(&pt, path, shape, err);
    if (ok && (shape[0] != m->block_count || shape[2] != m->width)) {
      ok = ebb_fail(err, "%s: (%lld, %lld, %lld), expected (%d, tokens, %lld) as in %s", path,
                    (long long)shape[0], (long long)shape[1], (long long)shape[2], m->block_count,
                    (long long)m->width, m->stems[0]);
      ebb_pt_close(&pt);
    }
    if (ok) {
      float *all = malloc((size_t)pt.tensors[0].count * sizeof *all);
      ok = all ||
           ebb_fail(err, "%s: not enough memory for its %lld numbers", path, (long long)pt.tensors[0].count);
      if (ok)
        ebb_pt_floats(&pt.tensors[0], all);
      for (int64_t i = 0; ok && i < shape[0] * shape[2]; i++) {
        const float *of = all + i / shape[2] * shape[1] * shape[2] + i % shape[2];
        double sum = 0;
        for (int64_t t = 0; t < shape[1]; t++)
          sum += of[t * shape[2]];
        x[s * shape[0] * shape[2] + i] = (float)(sum / (double)shape[1]);
      }
      free(all);
      ebb_pt_close(&pt);
    }
    free(path);
  }
  return ok;
}

/* latent [shape] of a scene, from noise_latent.pt (1, ...). x NULL: only its shape, into m. */
static bool read_latent(import *m, int64_t scene, float *x, ebb_error *err) {
  char *path = ebb_format("%s/%s/noise_latent.pt", m->dir, m->stems[scene]);
  ebb_pt pt;
  bool ok = ebb_pt_open(&pt, path, err);
  if (ok) {
    const ebb_pt_tensor *t = &pt.tensors[0];
    ok = pt.count == 1 && t->rank >= 2 && t->rank <= EBB_FEATURE_RANK + 1 && t->shape[0] == 1 && t->count > 0;
    if (ok && !x) {
      m->latent_rank = t->rank - 1;
      memcpy(m->latent_shape, t->shape + 1, (size_t)m->latent_rank * sizeof *t->shape);
    }
    ok = ok && t->rank == m->latent_rank + 1 &&
         memcmp(m->latent_shape, t->shape + 1, (size_t)m->latent_rank * sizeof *t->shape) == 0;
    if (!ok)
      ebb_fail(err, "%s: expected one tensor (1, ...) of the same shape in every scene", path);
    if (ok && x)
      ebb_pt_floats(t, x);
    ebb_pt_close(&pt);
  }
  free(path);
  return ok;
}

/* A set of one feature, a shard of SHARD_VIDEOS scenes at a time. */
static bool write_set(import *m, ebb_store_writer *w, const ebb_feature_set *set, bool latent,
                      ebb_error *err) {
  int id;
  uint64_t bytes;
  if (!ebb_store_declare(w, set, &id, err) || !ebb_store_shard_bytes(set, SHARD_VIDEOS, &bytes, err))
    return false;
  float *x = malloc(bytes);
  if (!x)
    return ebb_fail(err, "not enough memory for %d scenes (%.0f MB)", SHARD_VIDEOS, (double)bytes / 1e6);
  int64_t each = set->step_count * ebb_store_width(&set->features[0]) * (latent ? 1 : set->block_count);
  bool ok = true;
  for (int64_t first = 0; ok && first < m->set.count; first += SHARD_VIDEOS) {
    int64_t videos[SHARD_VIDEOS], count = 0;
    for (; ok && count < SHARD_VIDEOS && first + count < m->set.count; count++) {
      videos[count] = first + count;
      ok = latent ? read_latent(m, first + count, x + count * each, err)
                  : read_scene(m, first + count, x + count * each, err);
    }
    const float *data[1] = {x};
    ok = ok && ebb_store_write(w, id, count, videos, data, err);
  }
  free(x);
  return ok;
}

static bool write_features(import *m, ebb_store_writer *w, ebb_error *err) {
  ebb_feature blocks = {"block_out.mean", true, false, 2, {m->block_count, m->width}},
              latent = {.name = "noise_latent"};
  ebb_feature_set set = {"transformer",  m->step_count, m->steps, m->sigmas,
                         m->block_count, m->blocks,     1,        &blocks};
  if (!write_set(m, w, &set, false, err))
    return false;
  if (!m->how->latents)
    return true;
  if (!read_latent(m, 0, NULL, err))
    return false;
  int last = (int)m->inference_steps;
  double sigma = 1;
  latent.rank = m->latent_rank;
  memcpy(latent.shape, m->latent_shape, sizeof latent.shape);
  ebb_feature_set noise = {"noise", 1, &last, &sigma, 0, NULL, 1, &latent};
  return write_set(m, w, &noise, true, err);
}

/* ---- the run folder ------------------------------------------------------------------------------------ */

static void text_setting(ebb_config *k, const char *key, const json_t *value) {
  ebb_error unlike = {""}; /* what is not one of ours stays at its default; meta.json keeps it */
  char *set = json_is_string(value) ? ebb_format("%s=%s", key, json_string_value(value)) : NULL;
  if (set)
    ebb_config_set(k, set, &unlike);
  free(set);
}

static void settings(const import *m, const char *out, ebb_config *k) {
  const char *slash = strrchr(m->dir, '/'), *name = slash && slash[1] ? slash + 1 : m->dir;
  ebb_config_defaults(k);
  snprintf(k->name, sizeof k->name, "%s", ebb_is_plain_name(name) ? name : "imported");
  snprintf(k->run.out, sizeof k->run.out, "%s", out);
  k->inversion.steps = m->inference_steps < 10000 ? m->inference_steps : 10000;
  text_setting(k, "inversion.solver", json_object_get(m->first, "integrator"));
  const json_t *guidance = json_object_get(m->first, "guidance_scale");
  if (json_is_number(guidance) && json_number_value(guidance) >= 1 && json_number_value(guidance) <= 100)
    k->inversion.guidance = json_number_value(guidance);
  if (m->how->scenarios == EBB_SCENARIOS_INFLEVEL)
    ebb_config_set(k, "data.format=inflevel", &(ebb_error){""});
  bool one = true;
  for (int64_t i = 1; i < m->set.count; i++)
    one = one && strcmp(m->set.videos[i].category, m->set.videos[0].category) == 0;
  if (one)
    snprintf(k->probe.by, sizeof k->probe.by, "all");
  k->capture.steps.count = 0;
  for (int s = 0; s < m->step_count && s < EBB_LIST; s++)
    k->capture.steps.values[k->capture.steps.count++] = m->steps[s];
}

static bool write_config(const ebb_config *k, const char *out, ebb_error *err) {
  char *path = ebb_path_join(out, "config.yaml");
  ebb_file_writer w;
  bool ok = ebb_file_create(&w, path, err);
  if (ok) {
    ebb_config_write(k, w.stream);
    ok = ebb_file_commit(&w, err);
  }
  free(path);
  return ok;
}

static json_t *provenance(const import *m, const ebb_config *k) {
  char *text = NULL;
  size_t bytes = 0;
  FILE *memory = open_memstream(&text, &bytes);
  if (memory) {
    ebb_config_write(k, memory);
    fclose(memory);
  }
  json_t *o =
      json_pack("{s:s, s:s, s:s, s:O}", "imported_from", m->dir, "config", text ? text : "", "sigmas_are",
                m->nominal ? "step / num_inference_steps, as the folder does not say them"
                           : "of the run that was exported",
                "first_meta", m->first);
  free(text);
  return o;
}

static void close_import(import *m) {
  for (int64_t i = 0; i < m->set.count; i++)
    free(m->stems[i]);
  free(m->stems);
  ebb_dataset_close(&m->set);
  free(m->steps);
  free(m->sigmas);
  free(m->blocks);
  json_decref(m->first);
}

/* Two scenes may say the same id in "ebb". */
static bool check_ids(const import *m, ebb_error *err) {
  for (int64_t i = 1; i < m->set.count; i++)
    for (int64_t j = 0; j < i; j++)
      if (strcmp(m->set.videos[i].id, m->set.videos[j].id) == 0)
        return ebb_fail(err, "%s: scenes %s and %s are both \"%.100s\"", m->dir, m->stems[j], m->stems[i],
                        m->set.videos[i].id);
  return true;
}

bool ebb_official_read(const char *dir, const ebb_official_import *how, const char *out,
                       ebb_official_found *found, ebb_error *err) {
import m = {.dir = dir, .how = how, .latent_rank = - 1 };
  ebb_store_writer *w = NULL;
  ebb_config *k = ebb_must(calloc(1, sizeof *k));
  bool ok = list_scenes(&m, err) && check_ids(&m, err) && list_steps(&m, err) && measure(&m, err) &&
            ebb_store_create(&w, out, &m.set, err) && write_features(&m, w, err);
  if (ok) {
    settings(&m, out, k);
    json_t *about = provenance(&m, k);
    ok = write_config(k, out, err) && ebb_store_finish(&w, about, err);
    json_decref(about);
  }
  *found = (ebb_official_found){m.set.count, m.step_count, m.block_count, m.width};
  ebb_store_abandon(&w);
  close_import(&m);
  free(k);
  return ok;
}
