#include "probe/official.h"

#include "loaders/file.h"
#include "loaders/official.h"
#include "probe/csv.h"
#include "probe/metrics.h"
#include "probe/presets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One (row, seed, step), as the official validation loop sees it: tested videos in the order of their
 * stems. */
typedef struct page {
  const ebb_results *results;
  const ebb_row *row;
  const ebb_store *store;
  const ebb_config *config;
  const ebb_preset *preset;
  const char *run; /* the run folder, for the report */
  int seed, step;
  char **stem;           /* [videos] of the row */
  char **scenario;       /* [videos] */
  int64_t *order;        /* [videos] by stem */
  int *scenario_id;      /* [videos] place among the sorted names of all scenarios */
  int64_t tested, *test; /* [tested] positions in the row, by stem */
} page;

/* Margin of a tested video in a block, in the float32 that the official code has. */
static double margin_of(const page *p, int block, int64_t video) {
  int cell = ebb_cell_number(p->row, p->step, block, 0);
  return (float)p->row->cell_margins[((int64_t)cell * p->row->repeats + p->seed) * p->row->videos + video];
}

static bool possible(const page *p, int64_t video) {
  return p->store->videos[p->row->video[video]].label == EBB_POSSIBLE;
}

static void scene_dir(const page *p, int64_t video, FILE *f) {
  char *name = ebb_format("%s/step_%04d", p->stem[video], p->row->steps[p->step]);
  ebb_csv_text(f, name);
  free(name);
}

/* argmax of two logits: a tie goes to the first, impossible. */
static bool is_right(const page *p, int block, int64_t video) {
  return (margin_of(p, block, video) > 0) == possible(p, video);
}

static double per_video(const page *p, int block) {
  double right = 0;
  for (int64_t i = 0; i < p->tested; i++)
    right += is_right(p, block, p->test[i]);
  return (float)(right / (double)p->tested);
}

/* All possible x impossible of a scenario; NaN: there is no pair. */
static double per_pair(const page *p, int block) {
  double won = 0, pairs = 0;
  for (int64_t i = 0; i < p->tested; i++)
    for (int64_t j = 0; j < p->tested; j++) {
      int64_t a = p->test[i], b = p->test[j];
      if (!possible(p, a) || possible(p, b) || p->scenario_id[a] != p->scenario_id[b])
        continue;
      double x = margin_of(p, block, a), y = margin_of(p, block, b);
      won += x > y ? 1 : x == y ? 0.5 : 0;
      pairs += 1;
    }
  return pairs > 0 ? (float)(won / pairs) : NAN;
}

static double validation_loss(const page *p) {
  double sum = 0;
  for (int b = 0; b < p->row->block_count; b++)
    for (int64_t i = 0; i < p->tested; i++) {
      double m = margin_of(p, b, p->test[i]) * (possible(p, p->test[i]) ? 1 : -1);
      sum += m > 0 ? log1p(exp(-m)) : log1p(exp(m)) - m;
    }
  return sum / ((double)p->row->block_count * (double)p->tested);
}

/* ---- the files ----------------------------------------------------------------------------------------- */

/* All labelled scenes of the run: the file is the same for every category. */
static void write_scenes(const page *p, FILE *f) {
  const ebb_store *store = p->store;
  int set = ebb_store_find(store, p->row->model);
  ebb_name_at *scenes = ebb_must(calloc((size_t)store->video_count + 1, sizeof *scenes));
  size_t count = 0;
  for (int64_t v = 0; v < store->video_count; v++)
    if (store->videos[v].label != EBB_UNLABELLED && ebb_store_has(store, set, v))
      scenes[count++] = (ebb_name_at){ebb_official_stem(store->videos[v].id), v};
  ebb_sort_names(scenes, (int64_t)count);
  fputs("scene_dir,label\n", f);
  for (size_t i = 0; i < count; i++) {
    char *name = ebb_format("%s/step_%04d", scenes[i].name, p->row->steps[p->step]);
    ebb_csv_text(f, name);
    fprintf(f, ",%d\n", store->videos[scenes[i].at].label == EBB_POSSIBLE);
    free(name);
    free((char *)scenes[i].name);
  }
  free(scenes);
}

static void write_curve(const page *p, FILE *f) {
  fputs("block,per_video_acc,pair_acc\n", f);
  for (int b = 0; b < p->row->block_count; b++) {
    fprintf(f, "%d,", p->row->blocks[b]);
    ebb_csv_repr(f, per_video(p, b));
    fputc(',', f);
    ebb_csv_repr(f, per_pair(p, b));
    fputc('\n', f);
  }
}

static void rule(FILE *f, int width, char c) {
  for (int i = 0; i < width; i++)
    fputc(c, f);
  fputc('\n', f);
}

/* "%12.4f", and Python's "nan". */
static void twelve(FILE *f, double v) {
  if (isnan(v))
    fprintf(f, "%12s", "nan");
  else
    fprintf(f, "%12.4f", v);
}

/* Mean and best of one column of the report. */
static void summary(const page *p, const char *name, const char *best_of, double (*of)(const page *, int),
                    FILE *f) {
  double mean = 0, best = -1;
  int at = 0;
  for (int b = 0; b < p->row->block_count; b++) {
    double v = of(p, b);
    mean += (isnan(v) ? 0 : v) / p->row->block_count;
    if (!isnan(v) && v > best) {
      best = v;
      at = b;
    }
  }
  fprintf(f, "Mean %s accuracy: %.4f\n", name, mean);
  fprintf(f, "%sblock_%02d (", best_of, p->row->blocks[at]);
  if (best < 0)
    fputs("nan)\n", f);
  else
    fprintf(f, "%.4f)\n", best);
}

static void write_report(const page *p, FILE *f) {
  const ebb_training *t = &p->preset->training;
  const char *format = p->config->data.format;
  bool known = strcmp(format, "intphys") == 0 || strcmp(format, "inflevel") == 0;
  fputs("Probe pairwise training results\n", f);
  rule(f, 50, '=');
  fprintf(f, "Run dir:        %s\nCSV:            None\nStep:           %d\nScenario mode:  %s\n", p->run,
          p->row->steps[p->step], known ? format : "scene");
  fprintf(f, "Class prefix:   %s\nEpochs:         %d\nLR:             ",
          strcmp(p->config->probe.by, "all") == 0 ? "None" : p->row->category, t->epochs);
  ebb_csv_repr(f, t->rate);
  fprintf(f, "\nBatch size:     %d\nVal split:      ", t->batch);
  ebb_csv_repr(f, p->preset->test);
  fprintf(f, " (group-aware by scenario)\nSeed:           %lld\n\n", (long long)(p->results->seed + p->seed));
  rule(f, 50, '=');
  fputs("Final validation\n", f);
  rule(f, 50, '=');
  fprintf(f, "val_loss: %.4f\n\n%-10s %12s %12s\n", validation_loss(p), "Block", "Per-video", "Pair-wise");
  rule(f, 36, '-');
  for (int b = 0; b < p->row->block_count; b++) {
    fprintf(f, "block_%02d   ", p->row->blocks[b]);
    twelve(f, per_video(p, b));
    fputc(' ', f);
    twelve(f, per_pair(p, b));
    fputc('\n', f);
  }
  fputc('\n', f);
  rule(f, 50, '=');
  summary(p, "per-video", "Best per-video block:    ", per_video, f);
  summary(p, "pair-wise", "Best pair-wise block:    ", per_pair, f);
}

static void write_videos(const page *p, FILE *f) {
  const int *blocks = p->row->blocks;
  fputs("scene_dir,label,scenario", f);
  for (int b = 0; b < p->row->block_count; b++)
    fprintf(f, ",block_%02d,score_block_%02d,pred_block_%02d", blocks[b], blocks[b], blocks[b]);
  fputc('\n', f);
  for (int64_t i = 0; i < p->tested; i++) {
    int64_t v = p->test[i];
    scene_dir(p, v, f);
    fprintf(f, ",%d,", possible(p, v));
    ebb_csv_text(f, p->scenario[v]);
    for (int b = 0; b < p->row->block_count; b++) {
      fprintf(f, ",%d,", is_right(p, b, v));
      ebb_csv_repr(f, margin_of(p, b, v));
      fprintf(f, ",%d", margin_of(p, b, v) > 0);
    }
    fputc('\n', f);
  }
}

static void write_pair(const page *p, int64_t i, int64_t j, FILE *f) {
  int64_t a = p->test[i], b = p->test[j];
  fprintf(f, "%d,%lld,%lld,", p->scenario_id[a], (long long)i, (long long)j);
  ebb_csv_text(f, p->scenario[a]);
  fputc(',', f);
  scene_dir(p, a, f);
  fputc(',', f);
  scene_dir(p, b, f);
  for (int k = 0; k < p->row->block_count; k++) {
    double x = margin_of(p, k, a), y = margin_of(p, k, b);
    fprintf(f, ",%s", x > y ? "1.0" : x == y ? "0.5" : "0.0");
  }
  fputc('\n', f);
}

/* Scenarios in the order of their first tested video, in each every possible with every impossible one. */
static void write_pairs(const page *p, FILE *f) {
  fputs("scenario_id,plaus_video_idx,impos_video_idx,scenario,plaus_scene_dir,impos_scene_dir", f);
  for (int b = 0; b < p->row->block_count; b++)
    fprintf(f, ",block_%02d", p->row->blocks[b]);
  fputc('\n', f);
  for (int64_t first = 0; first < p->tested; first++) {
    int id = p->scenario_id[p->test[first]];
    bool seen = false;
    for (int64_t i = 0; i < first && !seen; i++)
      seen = p->scenario_id[p->test[i]] == id;
    for (int64_t i = first; !seen && i < p->tested; i++)
      for (int64_t j = first; j < p->tested; j++)
        if (p->scenario_id[p->test[i]] == id && p->scenario_id[p->test[j]] == id && possible(p, p->test[i]) &&
            !possible(p, p->test[j]))
          write_pair(p, i, j, f);
  }
}

/* ---- pages --------------------------------------------------------------------------------------------- */

static bool write_file(const page *p, const char *dir, const char *name, const char *ending,
                       void (*write)(const page *, FILE *), ebb_error *err) {
  bool all = strcmp(p->config->probe.by, "all") == 0 || write == write_scenes;
  char *file = ebb_format("%s_step%04d%s%s.%s", name, p->row->steps[p->step], all ? "" : "_",
                          all ? "" : p->row->category, ending);
  for (char *c = file; *c; c++) /* a category may have any name */
    *c = *c == '/' ? '_' : *c;
  char *path = ebb_path_join(dir, file);
  ebb_file_writer w;
  bool ok = ebb_file_create(&w, path, err);
  if (ok) {
    write(p, w.stream);
    ok = ebb_file_commit(&w, err);
  }
  free(file);
  free(path);
  return ok;
}

/* Stems, scenarios and their orders, which all pages of a row share. */
static void open_row(page *p) {
  int64_t n = p->row->videos;
  ebb_name_at *sorted = ebb_must(calloc((size_t)n + 1, sizeof *sorted));
  p->stem = ebb_must(calloc((size_t)n + 1, sizeof *p->stem));
  p->scenario = ebb_must(calloc((size_t)n + 1, sizeof *p->scenario));
  p->order = ebb_must(calloc((size_t)n + 1, sizeof *p->order));
  p->test = ebb_must(calloc((size_t)n + 1, sizeof *p->test));
  p->scenario_id = ebb_must(calloc((size_t)n + 1, sizeof *p->scenario_id));
  for (int64_t i = 0; i < n; i++) {
    const ebb_store_video *v = &p->store->videos[p->row->video[i]];
    p->stem[i] = ebb_official_stem(v->id);
    p->scenario[i] = ebb_format("%s", v->group);
    for (char *c = p->scenario[i]; *c; c++)
      *c = *c == '/' ? '_' : *c;
    sorted[i] = (ebb_name_at){p->stem[i], i};
  }
  ebb_sort_names(sorted, n);
  for (int64_t i = 0; i < n; i++)
    p->order[i] = sorted[i].at;
  for (int64_t i = 0; i < n; i++)
    sorted[i] = (ebb_name_at){p->scenario[i], i};
  ebb_sort_names(sorted, n);
  for (int64_t i = 0, id = 0; i < n; i++) {
    id += i > 0 && strcmp(sorted[i].name, sorted[i - 1].name) != 0;
    p->scenario_id[sorted[i].at] = (int)id;
  }
  free(sorted);
}

static void close_row(page *p) {
  for (int64_t i = 0; i < p->row->videos; i++) {
    free(p->stem[i]);
    free(p->scenario[i]);
  }
  free(p->stem);
  free(p->scenario);
  free(p->order);
  free(p->test);
  free(p->scenario_id);
}

static bool write_page(page *p, const char *dir, ebb_error *err) {
  p->tested = 0;
  for (int64_t i = 0; i < p->row->videos; i++)
    if (p->row->fold[p->seed * p->row->videos + p->order[i]] >= 0)
      p->test[p->tested++] = p->order[i];
  return write_file(p, dir, "probe_scenes", "csv", write_scenes, err) &&
         write_file(p, dir, "probe_pairwise_results", "txt", write_report, err) &&
         write_file(p, dir, "probe_pairwise_results", "csv", write_curve, err) &&
         write_file(p, dir, "probe_pairwise_pervideo", "csv", write_videos, err) &&
         write_file(p, dir, "probe_pairwise_perpair", "csv", write_pairs, err);
}

bool ebb_official_pairwise(const ebb_results *results, const ebb_store *store, const ebb_config *config,
                           const char *dir, ebb_error *err) {
  page p = {.results = results,
            .store = store,
            .config = config,
            .preset = ebb_preset_find(results->preset),
            .run = store->dir};
  bool ok = true;
  for (int i = 0; ok && i < results->row_count; i++) {
    p.row = &results->rows[i];
    if (!p.row->cell_margins || !p.row->blocks || p.row->by_head)
      continue;
    open_row(&p);
    for (p.seed = 0; ok && p.seed < p.row->repeats; p.seed++) {
      char *folder = ebb_format("%s/official/%s/%s", dir, p.row->model, p.row->feature);
      char *below = p.row->repeats > 1
                        ? ebb_format("%s/seed%lld", folder, (long long)(results->seed + p.seed))
                        : ebb_format("%s", folder);
      ok = ebb_make_folders(below, err);
      for (p.step = 0; ok && p.step < p.row->step_count; p.step++)
        ok = write_page(&p, below, err);
      free(folder);
      free(below);
    }
    close_row(&p);
  }
  return ok;
}
