/* ebb info */
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/model.h"
#include "engine/t5.h"
#include "engine/vae.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "loaders/weights.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void print_entry(const ebb_st_entry *e) {
  char shape[EBB_SHAPE_TEXT];
  printf("  %-64s %-5s %s\n", e->name, e->dtype, ebb_shape_text(e->rank, e->shape, shape));
}

static bool info_file(const char *path, ebb_error *err) {
  ebb_safetensors st;
  if (!ebb_safetensors_open(&st, path, err))
    return false;
  int64_t elements = 0;
  for (int64_t i = 0; i < st.count; i++) {
    print_entry(&st.entries[i]);
    elements += ebb_st_elements(&st.entries[i]);
  }
  for (int64_t i = 0; i < st.metadata_count; i++)
    printf("  metadata %s = %s\n", st.metadata[2 * i], st.metadata[2 * i + 1]);
  printf("safetensors file: %lld tensors, %lld numbers\n", (long long)st.count, (long long)elements);
  ebb_safetensors_close(&st);
  return true;
}

/* The family of a component and whether its weights fit its config: opened in counting mode, nothing is loaded. */
static bool check_component(const char *folder, const char *class_name, ebb_error *err) {
  ebb_context c = {0};
  if (!ebb_context_open(&c, "cpu", err))
    return false;
  ebb_context_count(&c);
  ebb_model model = {0};
  ebb_vae vae = {0};
  bool ok = true;
  if (strstr(class_name, "Transformer3DModel")) {
    ok = ebb_model_open(&model, &c, folder, EBB_F32, NULL, err);
    if (ok)
      printf("  family: %s; %lld blocks, width %lld, %lld heads, %lld latent channels, text width %lld\n",
             class_name, (long long)model.blocks, (long long)model.width, (long long)model.heads,
             (long long)model.channels, (long long)model.text_dim);
    ebb_model_close(&model);
  } else if (strncmp(class_name, "AutoencoderKL", 13) == 0) {
    ok = ebb_vae_open(&vae, &c, folder, EBB_F32, NULL, true, true, err);
    if (ok)
      printf("  family: %s; %lld latent channels, compression %d in time, %d in space\n", class_name,
             (long long)vae.channels, vae.time_stride, vae.space_stride);
    ebb_vae_close(&vae);
  } else if (strstr(class_name, "T5EncoderModel")) {
    ebb_t5 t5;
    ok = ebb_t5_open(&t5, &c, folder, EBB_F32, err);
    if (ok)
      printf("  family: %s; %lld layers, width %lld, %lld heads, %lld words\n", t5.class_name,
             (long long)t5.layers, (long long)t5.width, (long long)t5.heads, (long long)t5.vocabulary);
    ebb_t5_close(&t5);
  } else {
    printf("  family: %s (not run by this version)\n", class_name);
  }
  ebb_context_close(&c);
  return ok;
}

static bool info_component(const char *folder, ebb_error *err) {
  ebb_weights *w = NULL;
  char *config = ebb_path_join(folder, "config.json");
  json_t *object = ebb_json_read(config, err);
  bool ok = object != NULL;
  if (ok) {
    const char *class_name = ebb_json_text_or((ebb_json){object, config, err}, "_class_name", "");
    if (!class_name[0] && json_is_array(json_object_get(object, "architectures"))) /* of transformers */
      class_name = json_string_value(json_array_get(json_object_get(object, "architectures"), 0));
    class_name = class_name ? class_name : "";
    printf("%s\n", folder);
    ok = ebb_weights_open(&w, folder, err);
    int64_t parameters = 0;
    for (int64_t i = 0; ok && i < ebb_weights_count(w); i++) {
      print_entry(ebb_weights_entry(w, i));
      parameters += ebb_st_elements(ebb_weights_entry(w, i));
    }
    if (ok)
      printf("  %lld tensors, %lld parameters\n", (long long)ebb_weights_count(w), (long long)parameters);
    ok = ok && check_component(folder, class_name, err);
    ebb_weights_close(&w);
  }
  json_decref(object);
  free(config);
  return ok;
}

static bool exists(const char *path) {
  struct stat s;
  return stat(path, &s) == 0;
}

/* A diffusers folder: its components are the keys of model_index.json whose folder holds a config.json. */
static bool info_folder(const char *path, ebb_error *err) {
  char *index = ebb_path_join(path, "model_index.json"), *config = ebb_path_join(path, "config.json");
  bool ok = true;
  if (exists(index)) {
    json_t *object = ebb_json_read(index, err);
    const char *key;
    json_t *value;
    ok = object != NULL;
    if (ok)
      printf("model folder: %s\n",
             ebb_json_text_or((ebb_json){object, index, err}, "_class_name", "of no class"));
    json_object_foreach(object, key, value) {
      if (!ok || key[0] == '_' || strchr(key, '/') || !json_is_array(value) ||
          !json_is_string(json_array_get(value, 1)))
        continue;
      char *folder = ebb_path_join(path, key), *inner = ebb_path_join(folder, "config.json");
      if (exists(inner))
        ok = info_component(folder, err);
      else if (exists(folder))
        printf("%s\n  family: %s\n", folder, json_string_value(json_array_get(value, 1)));
      else
        ok = ebb_fail(err, "%s: %s lists '%s', expected this folder beside it", folder, index, key);
      free(inner);
      free(folder);
    }
    json_decref(object);
  } else if (exists(config)) {
    ok = info_component(path, err);
  } else {
    ok = ebb_fail(
        err,
        "%s: neither model_index.json nor config.json: expected a diffusers model folder, one of its "
        "components, or a safetensors file",
        path);
  }
  free(index);
  free(config);
  return ok;
}

int ebb_info_command(int argc, char **argv) {
  const char *path = NULL;
  const ebb_command command = {"info PATH",
                               "What is in a safetensors file, a diffusers model folder or one component of "
                               "it: names, shapes, dtypes,\n"
                               "parameter count, family. Exit code 1 with the reason when it is not valid.",
                               NULL,
                               0,
                               &path,
                               1,
                               1,
                               NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  ebb_error err = {0};
  struct stat s;
  bool ok = stat(path, &s) == 0 || ebb_fail(&err, "%s: no such file or folder", path);
  ok = ok && (S_ISDIR(s.st_mode) ? info_folder(path, &err) : info_file(path, &err));
  if (!ok)
    fprintf(stderr, "ebb: %s\n", err.text);
  return ok ? EBB_EXIT_OK : EBB_EXIT_ERROR;
}
