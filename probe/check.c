#include "probe/presets.h"
#include "probe/probe.h"
#include "probe/regress.h"
#include "probe/sample.h"

#include <stdlib.h>
#include <string.h>

/* The samples that a store of these videos would give; none has failed yet. */
static bool check_samples(const ebb_dataset *set, const ebb_config *config, ebb_error *err) {
  ebb_store store = {.dir = set->root, .video_count = set->count, .target_count = set->target_count};
  memcpy(store.target_names, set->target_names, sizeof store.target_names);
  store.videos = calloc((size_t)set->count + 1, sizeof *store.videos);
  if (!store.videos)
    return ebb_fail(err, "not enough memory for a list of %lld videos", (long long)set->count);
  for (int64_t i = 0; i < set->count; i++) {
    const ebb_video *v = &set->videos[i];
    store.videos[i] = (ebb_store_video){.id = v->id,
                                        .group = v->group,
                                        .category = v->category,
                                        .label = v->label,
                                        .pair = v->pair,
                                        .view = v->view,
                                        .split = v->split,
                                        .prompt = v->prompt,
                                        .targets = v->targets};
  }
  ebb_sample *samples = NULL;
  int count = 0, number[EBB_TARGETS_MAX];
  const bool by = strcmp(config->probe.by, "all") != 0, regress = ebb_regress_wanted(config);
  const bool preset = strcmp(config->probe.preset, "strict") != 0;
  const int folds = preset ? 2 : (int)config->probe.folds,
            inner = preset ? 2 : (int)config->probe.inner_folds;
  bool ok = !regress || ebb_regress_targets(&store, config, number, err);
  ok = ok && (regress ? ebb_samples_targets(&store, by, folds, inner, number, config->probe.target.count,
                                            &samples, &count, err)
                      : ebb_samples_make(&store, by, folds, inner, &samples, &count, err));
  ebb_samples_free(samples, count);
  free(store.videos);
  return ok;
}

/* What attention tells: features with the name of their point, by head. */
static bool is_statistic(const char *point) {
  static const char *const statistics[] = {"attn_frames", "attn_entropy", "attn_lag", "attn_rows",
                                           "attn_columns"};
  for (int i = 0; i < 5; i++)
    if (strcmp(point, statistics[i]) == 0)
      return true;
  return false;
}

/* What the taps will call their features: statistics by their point, all else point.pool. */
typedef struct names {
  int count;
  char name[3 + 16 * 16][136];
  bool by_head[3 + 16 * 16];
} names;

static void list_features(const ebb_config *config, names *to) {
  static const char *const vae[3] = {"latent.mean", "latent.frame_mean", "latent.motion"};
  const ebb_name_list *points = &config->capture.points, *pools = &config->capture.pool;
  *to = (names){0};
  for (int i = 0; i < points->count; i++) {
    const char *point = points->names[i];
    bool statistic = is_statistic(point);
    for (int j = 0; j < (statistic ? 1 : pools->count); j++) {
      to->by_head[to->count] = statistic;
      snprintf(to->name[to->count++], sizeof to->name[0], "%s%s%s", point, statistic ? "" : ".",
               statistic ? "" : pools->names[j]);
    }
  }
  for (int i = 0; i < 3; i++)
    snprintf(to->name[to->count++], sizeof to->name[0], "%s", vae[i]);
}

static bool listed(const names *list, int count, const char *name) {
  for (int i = 0; i < count; i++)
    if (strcmp(list->name[i], name) == 0)
      return true;
  return false;
}

/* Heads as cells need a probed feature that has some. */
static bool check_heads(const names *have, const ebb_config *config, ebb_error *err) {
  bool any = strcmp(config->probe.heads, "joined") == 0;
  for (int i = 0; i < have->count; i++) {
    bool wanted = config->probe.features.count <= 0;
    for (int k = 0; k < config->probe.features.count; k++)
      wanted = wanted || strcmp(config->probe.features.names[k], have->name[i]) == 0;
    any = any || (wanted && have->by_head[i]);
  }
  return any || ebb_fail(err,
                         "probe.heads is %s, but no feature that will be probed has heads: attn_frames, ... "
                         "(capture.points, probe.features)",
                         config->probe.heads);
}

static bool check_features(const ebb_config *config, ebb_error *err) {
  names *have = malloc(sizeof *have);
  if (!have)
    return ebb_fail(err, "not enough memory for the names of features");
  list_features(config, have);
  bool ok = true;
  for (int i = 0; ok && i < config->probe.features.count; i++) {
    const char *wanted = config->probe.features.names[i];
    ok = listed(have, have->count, wanted);
    if (ok)
      continue;
    ebb_fail(err, "probe.features asks for %s; this run will have", wanted);
    for (int k = 0; k < have->count; k++)
      if (!listed(have, k, have->name[k]))
        ebb_fail_also(err, "%s %s", k ? "," : "", have->name[k]);
    ebb_fail_also(err, " (capture.points and capture.pool say what is kept)");
  }
  ok = ok && check_heads(have, config, err);
  free(have);
  return ok;
}

bool ebb_probe_check(const ebb_dataset *set, const ebb_config *config, ebb_error *err) {
  return (ebb_regress_wanted(config) ? ebb_regress_settings(config, err) : ebb_study_settings(config, err)) &&
         check_features(config, err) && check_samples(set, config, err);
}
