#include "engine/schedule.h"

#include "loaders/file.h"
#include "loaders/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TRAIN_STEPS 1000 /* model time is sigma * 1000 in every family that these schedules serve */
#define STEPS_MAX 10000

static const char *const names[] = {
    [EBB_UNIPC] = "unipc", [EBB_UNIPC_OLD] = "unipc-old", [EBB_FLOW_MATCH_EULER] = "flow-match-euler"};

static double shifted(double shift, double s) {
  return shift * s / (1 + (shift - 1) * s);
}

/* Entry i of numpy.linspace(from, to, intervals + 1), in numpy's order of operations: a label is truncated to
 * an integer, so the last bit may matter. */
static double linspace(double from, double to, int intervals, int i) {
  if (i == intervals && intervals > 0)
    return to;
  return i * ((to - from) / (intervals > 0 ? intervals : 1)) + from;
}

/* Sigma number i of the sampler's descending list, i in [0, steps). */
static double descending(ebb_schedule_kind kind, int steps, double shift, int i) {
  const double least = 1.0 / TRAIN_STEPS;
  if (kind == EBB_UNIPC) {
    double s = shifted(shift, linspace(1, least, steps, i));
    return fabs(s - 1) < 1e-6 && i == 0 ? s - 1e-6 : s;
  }
  if (kind == EBB_UNIPC_OLD)
    return shifted(shift, 1 - linspace(1, least, steps, steps - i));
  /* Shifted twice, as diffusers does: once for the ends of the grid, in float32, and once for the grid. */
  double low = (double)(float)shifted(shift, least) * TRAIN_STEPS, high = shifted(shift, 1) * TRAIN_STEPS;
  return shifted(shift, linspace(high, low, steps - 1, i) / TRAIN_STEPS);
}

bool ebb_schedule_make(ebb_schedule *s, ebb_schedule_kind kind, int steps, double shift, ebb_error *err) {
  *s = (ebb_schedule){.kind = kind, .steps = steps, .shift = shift};
  if (steps < 1 || steps > STEPS_MAX)
    return ebb_fail(err, "schedule: %d steps, expected 1 to %d", steps, STEPS_MAX);
  if (!(shift > 0) || !isfinite(shift))
    return ebb_fail(err, "schedule: shift %g, expected a positive number", shift);
  s->sigma = calloc((size_t)steps + 1, sizeof *s->sigma);
  s->label = calloc((size_t)steps + 1, sizeof *s->label);
  if (!s->sigma || !s->label) {
    ebb_schedule_free(s);
    return ebb_fail(err, "no memory for a schedule of %d steps", steps);
  }
  for (int i = 0; i < steps; i++) {
    double sigma = descending(kind, steps, shift, i);
    s->sigma[steps - i] = sigma;
    s->label[steps - i] = kind == EBB_FLOW_MATCH_EULER ? (double)((float)sigma * (float)TRAIN_STEPS)
                                                       : trunc(sigma * TRAIN_STEPS);
  }
  return true;
}

void ebb_schedule_free(ebb_schedule *s) {
  free(s->sigma);
  free(s->label);
  *s = (ebb_schedule){0};
}

const char *ebb_schedule_name(ebb_schedule_kind kind) {
  return names[kind];
}

bool ebb_schedule_named(const char *name, ebb_schedule_kind *kind, ebb_error *err) {
  if (strcmp(name, "auto") == 0)
    return true;
  for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
    if (strcmp(name, names[i]) == 0) {
      *kind = (ebb_schedule_kind)i;
      return true;
    }
  return ebb_fail(err, "schedule '%s' is not known: expected auto, unipc, unipc-old or flow-match-euler",
                  name);
}

/* `key` must be false or absent. */
static void refuse_true(ebb_json j, const char *key) {
  if (ebb_json_bool_or(j, key, false))
    ebb_fail(j.err,
             "%s: \"%s\" is true: this schedule is not supported, only flow sigmas with a static shift",
             j.path, key);
}

static void refuse_other(ebb_json j, const char *key, const char *only, const char *fallback) {
  const char *text = ebb_json_text_or(j, key, fallback);
  if (strcmp(text, only) != 0)
    ebb_fail(j.err, "%s: \"%s\" is \"%.60s\", only \"%s\" is supported", j.path, key, text, only);
}

static void read_unipc(ebb_json j, double *shift) {
  if (!ebb_json_bool_or(j, "use_flow_sigmas", false))
    ebb_fail(j.err, "%s: \"use_flow_sigmas\" is not true: only flow matching models are supported", j.path);
  refuse_other(j, "prediction_type", "flow_prediction", "epsilon");
  refuse_other(j, "final_sigmas_type", "zero", "zero");
  *shift = ebb_json_real_or(j, "flow_shift", 1e-6, 1e6, 1);
}

static void read_flow_match(ebb_json j, double *shift) {
  refuse_true(j, "invert_sigmas");
  refuse_true(j, "stochastic_sampling");
  *shift = ebb_json_real_or(j, "shift", 1e-6, 1e6, 1);
}

bool ebb_schedule_read(const char *folder, ebb_schedule_kind *kind, double *shift, ebb_error *err) {
  char *path = ebb_path_join(folder, "scheduler_config.json");
  ebb_error found = {""};
  json_t *json = ebb_json_read(path, &found);
  if (json) {
    ebb_json j = {json, path, &found};
    const char *class = ebb_json_text_or(j, "_class_name", "");
    if (strcmp(class, "UniPCMultistepScheduler") == 0) {
      *kind = EBB_UNIPC;
      read_unipc(j, shift);
    } else if (strcmp(class, "FlowMatchEulerDiscreteScheduler") == 0) {
      *kind = EBB_FLOW_MATCH_EULER;
      read_flow_match(j, shift);
    } else {
      ebb_fail(&found,
               "%s: \"_class_name\" is \"%.60s\", expected UniPCMultistepScheduler or "
               "FlowMatchEulerDiscreteScheduler",
               path, class);
    }
    refuse_true(j, "use_dynamic_shifting");
    refuse_true(j, "use_karras_sigmas");
    refuse_true(j, "use_exponential_sigmas");
    refuse_true(j, "use_beta_sigmas");
    ebb_json_int_or(j, "num_train_timesteps", TRAIN_STEPS, TRAIN_STEPS, TRAIN_STEPS);
    if (ebb_json_real_or(j, "shift_terminal", -1e6, 1e6, 0) != 0)
      ebb_fail(&found, "%s: \"shift_terminal\" is set: only a static shift is supported", path);
    json_decref(json);
  }
  free(path);
  return found.text[0] == '\0' || ebb_fail(err, "%s", found.text);
}

bool ebb_schedule_open(ebb_schedule *s, const char *model_folder, const char *name, int steps, double shift,
                       ebb_error *err) {
  ebb_schedule_kind kind = EBB_UNIPC;
  double own_shift = shift;
  char *folder = ebb_path_join(model_folder, "scheduler");
  bool from_file = strcmp(name, "auto") == 0 || shift == 0;
  bool ok = (!from_file || ebb_schedule_read(folder, &kind, &own_shift, err)) &&
            ebb_schedule_named(name, &kind, err) &&
            ebb_schedule_make(s, kind, steps, shift != 0 ? shift : own_shift, err);
  free(folder);
  return ok;
}
