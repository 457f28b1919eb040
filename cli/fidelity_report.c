#include "cli/fidelity_report.h"

#include "cli/fidelity_summary.h"
#include "loaders/file.h"
#include "probe/correlate.h"
#include "probe/csv.h"

#include <math.h>
#include <stdlib.h>

#define DIGITS 6

/* Video, loop, group, category, possible: 1, 0 or empty. */
static void csv_sample(FILE *to, const ebb_fidelity_sample *s) {
  fprintf(to, ",%s,", ebb_loop_names[s->loop]);
  ebb_csv_text(to, s->group);
  fputc(',', to);
  ebb_csv_text(to, s->category);
  fprintf(to, s->label == EBB_UNLABELLED ? "," : ",%d", s->label == EBB_POSSIBLE);
}

static bool write_states(const ebb_fidelity_report *r, FILE *to, ebb_error *err) {
  const ebb_fidelity *f = r->measured;
  (void)err;
  fputs("video,step,sigma,logsnr", to);
  for (int m = 0; m < EBB_MEASURES; m++)
    fprintf(to, ",%s", ebb_measure_names[m]);
  fputs(",loop,group,category,possible\n", to);
  for (int64_t i = 0; i < f->count; i++) {
    const ebb_fidelity_sample *s = &f->samples[i];
    for (int k = 0; k <= f->steps && !s->failed; k++) {
      ebb_csv_text(to, s->id);
      fprintf(to, ",%d", k);
      ebb_csv_number(to, 9, f->sigma[k]);
      ebb_csv_number(to, DIGITS, ebb_log_snr(f->sigma[k]));
      for (int m = 0; m < EBB_MEASURES; m++)
        ebb_csv_number(to, DIGITS, s->value[m][k]);
      csv_sample(to, s);
      fputc('\n', to);
    }
  }
  return true;
}

static bool write_videos(const ebb_fidelity_report *r, FILE *to, ebb_error *err) {
  const ebb_fidelity *f = r->measured;
  (void)err;
  fputs("video,loop,group,category,possible", to);
  for (int m = 0; m < EBB_SCALARS; m++)
    fprintf(to, ",%s", ebb_scalar_names[m]);
  fputs(",failed\n", to);
  for (int64_t i = 0; i < f->count; i++) {
    const ebb_fidelity_sample *s = &f->samples[i];
    ebb_csv_text(to, s->id);
    csv_sample(to, s);
    for (int m = 0; m < EBB_SCALARS; m++)
      ebb_csv_number(to, DIGITS, s->failed ? NAN : ebb_fidelity_scalar(f, s, (ebb_scalar)m));
    fputc(',', to);
    ebb_csv_text(to, s->failed ? s->failed : "");
    fputc('\n', to);
  }
  return true;
}

static bool write_noise(const ebb_fidelity_report *r, FILE *to, ebb_error *err) {
  const ebb_fidelity *f = r->measured;
  (void)err;
  fputs("video,loop,channel,mean,std,skew,excess_kurtosis,ks,frames_lag1,rows_lag1,columns_lag1\n", to);
  for (int64_t i = 0; i < f->count; i++)
    for (int64_t c = -1; c < f->channels && !f->samples[i].failed; c++) {
      const ebb_fidelity_sample *s = &f->samples[i];
      const ebb_noise_statistics *n = c < 0 ? &s->noise : &s->by_channel[c];
      const double numbers[] = {n->mean, n->std,        n->skew,     n->kurtosis,
                                n->ks,   n->frames_lag, n->rows_lag, n->columns_lag};
      ebb_csv_text(to, s->id);
      fprintf(to, ",%s,", ebb_loop_names[s->loop]);
      fprintf(to, c < 0 ? "all" : "%lld", (long long)c);
      for (int k = 0; k < 8; k++)
        ebb_csv_number(to, DIGITS, numbers[k]);
      fputc('\n', to);
    }
  return true;
}

/* ---- attention: means over the videos of a loop, head by head ---- */

static bool write_map_lines(const ebb_fidelity_report *r, ebb_loop loop, ebb_loop_videos *m, FILE *to,
                            ebb_error *err) {
  const ebb_fidelity *f = r->measured;
  const int64_t heads = f->blocks * f->heads;
  for (int map = 0; map < EBB_FIDELITY_MAPS; map++)
    for (int64_t at = 0; at < f->captured * heads; at++) {
      const int k = f->capture[at / heads];
      ebb_interval mean;
      for (int64_t i = 0; i < m->of.n; i++)
        m->x[i] = (double)m->sample[i]->map_cos[map][at];
      if (!ebb_mean_interval(&m->of, m->x, r->config->probe.bootstrap, (uint64_t)r->config->probe.seed, &mean,
                             err))
        return false;
      fprintf(to, "%s,%d", ebb_loop_names[loop], k);
      ebb_csv_number(to, 9, f->sigma[k]);
      fprintf(to, ",%s,%d,%lld", ebb_fidelity_maps[map], f->block[at % heads / f->heads],
              (long long)(at % f->heads));
      ebb_csv_number(to, DIGITS, mean.value);
      ebb_csv_number(to, DIGITS, mean.low);
      ebb_csv_number(to, DIGITS, mean.high);
      fprintf(to, ",%lld\n", (long long)m->of.n);
    }
  return true;
}

static bool write_attention(const ebb_fidelity_report *r, FILE *to, ebb_error *err) {
  bool ok = true;
  fputs("loop,step,sigma,map,block,head,cos,low,high,videos\n", to);
  for (int loop = 0; ok && loop < EBB_LOOPS; loop++) {
    ebb_loop_videos m;
    ok = ebb_loop_videos_gather(r, (ebb_loop)loop, &m, err) &&
         (m.of.n == 0 || write_map_lines(r, (ebb_loop)loop, &m, to, err));
    ebb_loop_videos_free(&m);
  }
  return ok;
}

/* ---- all ---- */

static bool write_file(const ebb_fidelity_report *r, const char *name,
                       bool (*write)(const ebb_fidelity_report *, FILE *, ebb_error *), ebb_error *err) {
  char *path = ebb_path_join(r->out, name);
  ebb_file_writer w = {0};
  bool ok = ebb_file_create(&w, path, err) && write(r, w.stream, err) && ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  free(path);
  return ok;
}

static bool write_summary(const ebb_fidelity_report *r, FILE *table, ebb_error *err) {
  char *path = ebb_path_join(r->out, "fidelity_summary.json");
  ebb_file_writer w = {0};
  json_t *o = ebb_fidelity_summary(r, table, err);
  bool ok = o != NULL && ebb_file_create(&w, path, err);
  if (ok && json_dumpf(o, w.stream, JSON_INDENT(1) | JSON_REAL_PRECISION(10)) != 0)
    ok = ebb_fail(err, "%s: cannot be written whole: expected names in UTF-8 and room on the disk", path);
  if (ok)
    fputc('\n', w.stream);
  ok = ok && ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  json_decref(o);
  free(path);
  return ok;
}

bool ebb_fidelity_write(const ebb_fidelity_report *r, FILE *table, ebb_error *err) {
  return ebb_make_folders(r->out, err) && write_file(r, "fidelity.csv", write_states, err) &&
         write_file(r, "fidelity_videos.csv", write_videos, err) &&
         write_file(r, "fidelity_noise.csv", write_noise, err) &&
         write_file(r, "fidelity_attention.csv", write_attention, err) && write_summary(r, table, err);
}
