#include "cli/fidelity_summary.h"

#include "cli/intervals.h"
#include "loaders/file.h"
#include "probe/correlate.h"
#include "probe/margins.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const ebb_scalar_names[EBB_SCALARS] = {
    "end_rel",       "worst_rel", "mean_implicit_res",     "mean_local_err", "mean_vel_cos",
    "mean_attn_cos", "noise_std", "noise_excess_kurtosis", "noise_ks",       "noise_columns_lag1"};

double ebb_log_snr(double sigma) {
  return 2 * (log(1 - sigma) - log(sigma));
}

static double mean_over_states(const double *x, int count) {
  double sum = 0;
  int finite = 0;
  for (int k = 0; k < count; k++)
    if (isfinite(x[k])) {
      sum += x[k];
      finite++;
    }
  return finite ? sum / finite : NAN;
}

double ebb_fidelity_scalar(const ebb_fidelity *f, const ebb_fidelity_sample *s, ebb_scalar which) {
  const int states = f->steps + 1;
  double worst = NAN;
  switch (which) {
  case EBB_END_REL:
    return s->value[EBB_REL][s->loop == EBB_LOOP_DATA ? 0 : f->steps];
  case EBB_WORST_REL:
    for (int k = 0; k < states; k++)
      worst = fmax(worst, s->value[EBB_REL][k]);
    return worst;
  case EBB_MEAN_IMPLICIT:
    return mean_over_states(s->value[EBB_IMPLICIT_RES], states);
  case EBB_MEAN_LOCAL:
    return mean_over_states(s->value[EBB_LOCAL_ERR], states);
  case EBB_MEAN_VEL_COS:
    return mean_over_states(s->value[EBB_VEL_COS], states);
  case EBB_MEAN_ATTN_COS:
    return mean_over_states(s->value[EBB_ATTN_COS], states);
  case EBB_NOISE_STD:
    return s->noise.std;
  case EBB_NOISE_KURTOSIS:
    return s->noise.kurtosis;
  case EBB_NOISE_KS:
    return s->noise.ks;
  default:
    return s->noise.columns_lag;
  }
}

/* ---- the videos of a loop that did not fail ---- */

bool ebb_loop_videos_gather(const ebb_fidelity_report *r, ebb_loop loop, ebb_loop_videos *v, ebb_error *err) {
  const ebb_fidelity *f = r->measured;
  const size_t n = (size_t)f->count + 1;
  *v = (ebb_loop_videos){.r = r,
                         .sample = calloc(n, sizeof *v->sample),
                         .group = calloc(n, sizeof *v->group),
                         .x = calloc(n, sizeof *v->x),
                         .y = calloc(n, sizeof *v->y)};
  const char **names = calloc(n, sizeof *names);
  bool ok = (v->sample && v->group && v->x && v->y && names) || ebb_fail(err, "no memory for %zu videos", n);
  for (int64_t i = 0; ok && i < f->count; i++)
    if (f->samples[i].loop == loop && !f->samples[i].failed) {
      names[v->of.n] = f->samples[i].group;
      v->sample[v->of.n++] = &f->samples[i];
    }
  if (ok)
    v->of.groups = ebb_number_groups(v->of.n, names, v->group);
  v->of.group = v->group;
  free(names);
  return ok;
}

void ebb_loop_videos_free(ebb_loop_videos *v) {
  free(v->sample);
  free(v->group);
  free(v->x);
  free(v->y);
}

/* The mean of v->x over videos, as JSON under `name`. */
static bool add_mean(const ebb_loop_videos *v, json_t *to, const char *name, ebb_interval *i,
                     ebb_error *err) {
  const ebb_config *k = v->r->config;
  if (!ebb_mean_interval(&v->of, v->x, k->probe.bootstrap, (uint64_t)k->probe.seed, i, err))
    return false;
  json_object_set_new(to, name, ebb_interval_json(i));
  return true;
}

/* ---- loops ---- */

static bool add_scalars(ebb_loop_videos *v, json_t *to, FILE *table, ebb_error *err) {
  const ebb_fidelity *f = v->r->measured;
  for (int m = 0; m < EBB_SCALARS; m++) {
    ebb_interval i;
    for (int64_t n = 0; n < v->of.n; n++)
      v->x[n] = ebb_fidelity_scalar(f, v->sample[n], (ebb_scalar)m);
    if (!add_mean(v, to, ebb_scalar_names[m], &i, err))
      return false;
    if (table && isfinite(i.value))
      fprintf(table, "  %-22s %10.4g  [%.4g, %.4g]\n", ebb_scalar_names[m], i.value, i.low, i.high);
  }
  return true;
}

static bool add_steps(ebb_loop_videos *v, json_t *list, ebb_error *err) {
  const ebb_fidelity *f = v->r->measured;
  for (int k = 0; k <= f->steps; k++) {
    json_t *o = json_pack("{s:i, s:f, s:o}", "step", k, "sigma", f->sigma[k], "logsnr",
                          ebb_number_json(ebb_log_snr(f->sigma[k])));
    json_array_append_new(list, o);
    for (int m = 0; m < EBB_MEASURES; m++) {
      ebb_interval i;
      for (int64_t n = 0; n < v->of.n; n++)
        v->x[n] = v->sample[n]->value[m][k];
      if (!add_mean(v, o, ebb_measure_names[m], &i, err))
        return false;
    }
  }
  return true;
}

/* A loop without a video has no entry. */
static bool add_loop(const ebb_fidelity_report *r, ebb_loop loop, json_t *loops, FILE *table,
                     ebb_error *err) {
  ebb_loop_videos v;
  bool ok = ebb_loop_videos_gather(r, loop, &v, err);
  if (ok && v.of.n > 0) {
    json_t *scalars = json_object(), *steps = json_array();
    json_object_set_new(loops, ebb_loop_names[loop],
                        json_pack("{s:I, s:I, s:o, s:o}", "videos", (json_int_t)v.of.n, "groups",
                                  (json_int_t)v.of.groups, "means", scalars, "by_step", steps));
    if (table)
      fprintf(table, "%s: %lld videos in %lld groups, mean and 95 %% interval\n", ebb_loop_names[loop],
              (long long)v.of.n, (long long)v.of.groups);
    ok = add_scalars(&v, scalars, table, err) && add_steps(&v, steps, err);
  }
  ebb_loop_videos_free(&v);
  return ok;
}

/* ---- does fidelity go with what the probe says? ---- */

static const ebb_margin *margin_of(const ebb_margins *m, int64_t from, int64_t end, const char *video) {
  for (int64_t i = from; i < end; i++)
    if (strcmp(m->items[i].video, video) == 0)
      return &m->items[i];
  return NULL;
}

/* Row [from, end) of the margins against every scalar. y: margins towards the right side. */
static bool add_row(ebb_loop_videos *v, const ebb_margins *m, int64_t from, int64_t end, json_t *rows,
                    FILE *table, ebb_error *err) {
  const ebb_config *k = v->r->config;
  const ebb_margin *row = &m->items[from];
  int64_t both = 0;
  for (int64_t n = 0; n < v->of.n; n++) {
    const ebb_margin *margin = margin_of(m, from, end, v->sample[n]->id);
    v->y[n] = margin ? (margin->possible ? margin->margin : -margin->margin) : NAN;
    both += margin != NULL;
  }
  json_t *of = json_object();
  json_array_append_new(rows,
                        json_pack("{s:s, s:s, s:s, s:I, s:o}", "category", row->category, "model", row->model,
                                  "feature", row->feature, "videos", (json_int_t)both, "spearman", of));
  for (int s = 0; s < EBB_SCALARS; s++) {
    ebb_interval i;
    for (int64_t n = 0; n < v->of.n; n++)
      v->x[n] = ebb_fidelity_scalar(v->r->measured, v->sample[n], (ebb_scalar)s);
    if (!ebb_spearman_interval(&v->of, v->x, v->y, k->probe.bootstrap, (uint64_t)k->probe.seed, &i, err))
      return false;
    json_object_set_new(of, ebb_scalar_names[s], ebb_interval_json(&i));
    if (table && s == EBB_END_REL)
      fprintf(table, "  %-12s %-20s %6lld %8.3f  [%.3f, %.3f]\n", row->category, row->feature,
              (long long)both, i.value, i.low, i.high);
  }
  return true;
}

static bool add_margins(const ebb_fidelity_report *r, json_t *o, FILE *table, ebb_error *err) {
  if (!ebb_is_there(r->margins)) {
    json_object_set_new(o, "margins", json_null());
    if (table)
      fprintf(table, "no probe margins: %s is not there (`ebb probe` writes it)\n", r->margins);
    return true;
  }
  ebb_margins m;
  ebb_loop_videos v = {0};
  json_t *rows = json_array();
  json_object_set_new(o, "margins", json_pack("{s:s, s:o}", "file", r->margins, "rows", rows));
  bool ok = ebb_margins_read(&m, r->margins, err);
  if (!ok)
    return false;
  ok = ebb_loop_videos_gather(r, EBB_LOOP_DATA, &v, err);
  if (ok && table)
    fprintf(table,
            "rank correlation of end_rel with the probe's margin towards the right side, over videos\n");
  for (int64_t at = 0, end; ok && at < m.count; at = end) {
    end = ebb_margins_row_end(&m, at);
    if (strcmp(m.items[at].model, r->config->model.transformer) == 0)
      ok = add_row(&v, &m, at, end, rows, table, err);
  }
  ebb_loop_videos_free(&v);
  ebb_margins_free(&m);
  return ok;
}

/* ---- all ---- */

static json_t *about(const ebb_fidelity_report *r) {
  const ebb_fidelity *f = r->measured;
  const ebb_config *k = r->config;
  char *text = NULL;
  size_t bytes = 0;
  FILE *memory = open_memstream(&text, &bytes);
  if (memory) {
    ebb_config_write(k, memory);
    fclose(memory);
  }
  json_t *o =
      json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "version",
                r->version, "name", k->name, "config", text ? text : "", "solver", k->inversion.solver,
                "forward", r->options->forward ? r->options->forward : k->inversion.solver, "labels",
                k->inversion.labels, "steps", f->steps, "device", f->device, "model_sha256", f->model_sha256,
                "local", r->options->local, "generated", (json_int_t)r->options->generated, "seed",
                (json_int_t)r->options->seed, "evaluations", (json_int_t)f->evaluations, "bootstrap",
                (json_int_t)k->probe.bootstrap, "failed", (json_int_t)f->failed);
  free(text);
  return o;
}

json_t *ebb_fidelity_summary(const ebb_fidelity_report *r, FILE *table, ebb_error *err) {
  json_t *o = about(r), *loops = json_object();
  if (!o) {
    json_decref(loops);
    ebb_fail(err, "a name is not UTF-8");
    return NULL;
  }
  json_object_set_new(
      o, "units",
      json_string("rel, implicit_res, local_err: rms in units of the state's standard deviation; "
                  "intervals: 95 % BCa, bootstrap over groups"));
  json_object_set_new(o, "loops", loops);
  json_object_set_new(o, "pixels",
                      json_null()); /* PSNR and SSIM of reconstructions: of fidelity_videos.csv, when there */
  bool ok = true;
  for (int loop = 0; ok && loop < EBB_LOOPS; loop++)
    ok = add_loop(r, (ebb_loop)loop, loops, table, err);
  if (ok && add_margins(r, o, table, err))
    return o;
  json_decref(o);
  return NULL;
}
