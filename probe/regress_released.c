/* The official probe_regress.py (REFERENCE 3.9): a linear layer for each block and target, all trained
 * together by the mean of their squared errors with Adam 1e-3, batches of 32, 50 epochs, features and
 * targets as they are, on a random split of the videos whose validation part is also what is reported. Its
 * split is made again exactly (probe/torch_order.h); the order of batches and the starting weights are of
 * the same distributions. */
#include "kernels/random.h"
#include "loaders/file.h"
#include "loaders/official.h"
#include "probe/csv.h"
#include "probe/protocol.h"
#include "probe/regress_parts.h"
#include "probe/torch_order.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ORDER_STREAM 0x6f72645f72650000u /* "ord_re" */
#define START_STREAM 0x7374615f72650000u /* "sta_re" */
enum { BATCH = 32, EPOCHS = 50 };
static const double RATE = 1e-3, HELD_OUT = 0.2;

/* One seed. */
typedef struct fold {
  int64_t tested;    /* the first so many of order */
  int64_t *order;    /* [n] positions in the sample */
  int32_t *batches;  /* [EPOCHS, n - tested] training positions, shuffled anew every epoch */
  float *prediction; /* [blocks,targets,tested] of the step at hand */
} fold;

typedef struct released {
  regression *r;
  ebb_regression *rows; /* [targets] */
  int targets, blocks;
  int64_t n, width;
  uint64_t seed;         /* of the first repeat */
  char **stem;           /* [n] */
  const char **official; /* [targets] names in the files: r and v are called x0 and v0 there */
  int64_t *sorted;       /* [n] by stem */
  float *x;              /* [blocks,n,width] of the step at hand */
  float *y;              /* [targets,n] */
  double *best;          /* [targets,steps,repeats] R2 of the best block */
} released;

/* ---- one layer ----------------------------------------------------------------------------------------- */

typedef struct layer {
  float *w, *m, *v, *g; /* [width + 1], bias last */
} layer;

static float output(const float *w, const float *x, int64_t d) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < d; j++)
    sum += w[j] * x[j];
  return sum + w[d];
}

/* Adam (Kingma & Ba 2015) as PyTorch steps it, eps 1e-8. */
static void adam(layer *l, int64_t count, int step) {
  double correct1 = 1 - pow(0.9, step), correct2 = sqrt(1 - pow(0.999, step));
  float rate = (float)(RATE / correct1), root = (float)correct2;
  for (int64_t j = 0; j < count; j++) {
    float g = l->g[j];
    l->m[j] += 0.1f * (g - l->m[j]);
    l->v[j] = 0.999f * l->v[j] + 0.001f * g * g;
    l->w[j] -= rate * l->m[j] / (sqrtf(l->v[j]) / root + 1e-8f);
  }
}

/* Trains the layer of one block and target. share: of the loss that is the mean over all of them. */
static void train(const released *k, const fold *f, const float *x, const float *y, uint64_t stream,
                  float share, layer *l) {
  int64_t d = k->width, trained = k->n - f->tested;
  double bound = 1 / sqrt((double)d);
  memset(l->m, 0, (size_t)(d + 1) * sizeof *l->m);
  memset(l->v, 0, (size_t)(d + 1) * sizeof *l->v);
  for (int64_t j = 0; j <= d; j++)
    l->w[j] = (float)(bound * (2 * ebb_random_uniform(k->seed, START_STREAM + stream, (uint64_t)j) - 1));
  int step = 0;
  for (int epoch = 0; epoch < EPOCHS; epoch++)
    for (int64_t first = 0; first < trained; first += BATCH) {
      int64_t count = trained - first < BATCH ? trained - first : BATCH;
      memset(l->g, 0, (size_t)(d + 1) * sizeof *l->g);
      for (int64_t i = 0; i < count; i++) {
        int32_t video = f->batches[epoch * trained + first + i];
        const float *row = x + video * d;
        float slope = 2 * share * (output(l->w, row, d) - y[video]) / (float)count;
        for (int64_t j = 0; j < d; j++)
          l->g[j] += slope * row[j];
        l->g[d] += slope;
      }
      adam(l, d + 1, ++step);
    }
}

/* All layers of a step on one split. */
static bool train_all(const released *k, fold *f, int seed, ebb_error *err) {
  int layers = k->blocks * k->targets;
  bool ok = true;
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < layers; i++) {
    int block = i / k->targets, target = i % k->targets;
    float *room = malloc(4 * (size_t)(k->width + 1) * sizeof *room);
    if (!room) {
#pragma omp atomic write
      ok = false;
      continue;
    }
    layer l = {room, room + k->width + 1, room + 2 * (k->width + 1), room + 3 * (k->width + 1)};
    const float *x = k->x + (int64_t)block * k->n * k->width;
    train(k, f, x, k->y + target * k->n, (uint64_t)seed << 32 | (uint64_t)i, 1.0f / (float)layers, &l);
    for (int64_t t = 0; t < f->tested; t++)
      f->prediction[(int64_t)i * f->tested + t] = output(l.w, x + f->order[t] * k->width, k->width);
    free(room);
  }
  return ok || ebb_fail(err, "not enough memory to train %d layers", layers);
}

/* MSE, MAE and R2 (spread at least 1e-12) of one layer on the held-out videos. */
static void errors_of(const released *k, const fold *f, int block, int target, double to[EBB_ERRORS]) {
  const float *p = f->prediction + ((int64_t)block * k->targets + target) * f->tested,
              *y = k->y + target * k->n;
  double mean = 0, spread = 0, square = 0, distance = 0, n = (double)f->tested;
  for (int64_t t = 0; t < f->tested; t++)
    mean += y[f->order[t]] / n;
  for (int64_t t = 0; t < f->tested; t++) {
    double error = p[t] - y[f->order[t]], away = y[f->order[t]] - mean;
    square += error * error;
    distance += fabs(error);
    spread += away * away;
  }
  to[EBB_R2] = 1 - square / fmax(spread, 1e-12);
  to[EBB_MAE] = distance / n;
  to[EBB_MSE] = square / n;
}

/* ---- the official files -------------------------------------------------------------------------------- */

typedef struct page {
  const released *k;
  const fold *f;
  int seed, step; /* step as an index */
} page;

static int step_number(const page *p) {
  return p->k->rows[0].steps[p->step];
}

static int block_number(const page *p, int block) {
  return p->k->rows[0].blocks ? p->k->rows[0].blocks[block] : block;
}

static void scene(const page *p, int64_t video, FILE *f) {
  char *name = ebb_format("%s/step_%04d", p->k->stem[video], step_number(p));
  ebb_csv_text(f, name);
  free(name);
}

static void write_scenes(const page *p, FILE *f) {
  fputs("scene_dir", f);
  for (int t = 0; t < p->k->targets; t++)
    fprintf(f, ",%s", p->k->official[t]);
  fputc('\n', f);
  for (int64_t i = 0; i < p->k->n; i++) {
    scene(p, p->k->sorted[i], f);
    for (int t = 0; t < p->k->targets; t++) {
      fputc(',', f);
      ebb_csv_repr(f, p->k->r->sample->target[t * p->k->n + p->k->sorted[i]]);
    }
    fputc('\n', f);
  }
}

static void write_curve(const page *p, FILE *f) {
  fputs("block", f);
  for (int t = 0; t < p->k->targets; t++)
    fprintf(f, ",%s_mse,%s_mae,%s_r2", p->k->official[t], p->k->official[t], p->k->official[t]);
  fputc('\n', f);
  for (int b = 0; b < p->k->blocks; b++) {
    fprintf(f, "%d", block_number(p, b));
    for (int t = 0; t < p->k->targets; t++) {
      double e[EBB_ERRORS];
      errors_of(p->k, p->f, b, t, e);
      const ebb_error_kind order[3] = {EBB_MSE, EBB_MAE, EBB_R2};
      for (int i = 0; i < 3; i++) {
        fputc(',', f);
        ebb_csv_repr(f, (float)e[order[i]]);
      }
    }
    fputc('\n', f);
  }
}

static void rule(FILE *f, int width, char c) {
  for (int i = 0; i < width; i++)
    fputc(c, f);
  fputc('\n', f);
}

/* Right in ten characters; R2 is one byte more than it is wide. */
static void heading(FILE *f, const char *target, const char *what, int wide) {
  char text[64];
  snprintf(text, sizeof text, "%s %s", target, what);
  fprintf(f, " %*s", 10 + wide, text);
}

static void write_report(const page *p, FILE *f) {
  const released *k = p->k;
  double loss = 0, e[EBB_ERRORS];
  for (int b = 0; b < k->blocks; b++)
    for (int t = 0; t < k->targets; t++) {
      errors_of(k, p->f, b, t, e);
      loss += e[EBB_MSE] / (k->blocks * k->targets);
    }
  fputs("Probe regression training results\n", f);
  rule(f, 60, '=');
  fprintf(f, "Run dir:    %s\nCSV:        None\nStep:       %d\nTargets:    [", k->r->store->dir,
          step_number(p));
  for (int t = 0; t < k->targets; t++)
    fprintf(f, "%s'%s'", t ? ", " : "", k->official[t]);
  fprintf(
      f,
      "]\nEpochs:     %d\nLR:         0.001\nBatch size: %d\nVal split:  0.2 (random)\nSeed:       %llu\n\n",
      EPOCHS, BATCH, (unsigned long long)k->seed + (unsigned)p->seed);
  rule(f, 60, '=');
  fputs("Final validation\n", f);
  rule(f, 60, '=');
  fprintf(f, "val_loss: %.4f\n\n%-8s", loss, "Block");
  for (int t = 0; t < k->targets; t++) {
    heading(f, k->official[t], "MSE", 0);
    heading(f, k->official[t], "MAE", 0);
    heading(f, k->official[t], "R\xc2\xb2", 1);
  }
  fputc('\n', f);
  rule(f, 8 + 33 * k->targets, '-');
  for (int b = 0; b < k->blocks; b++) {
    fprintf(f, "block_%02d", block_number(p, b));
    for (int t = 0; t < k->targets; t++) {
      errors_of(k, p->f, b, t, e);
      fprintf(f, " %10.4f %10.4f %10.4f", e[EBB_MSE], e[EBB_MAE], e[EBB_R2]);
    }
    fputc('\n', f);
  }
  fputc('\n', f);
  rule(f, 60, '=');
  for (int t = 0; t < k->targets; t++) {
    int best = 0;
    double highest = -INFINITY;
    for (int b = 0; b < k->blocks; b++) {
      errors_of(k, p->f, b, t, e);
      if (e[EBB_R2] > highest) {
        highest = e[EBB_R2];
        best = b;
      }
    }
    fprintf(f, "Best block for %s: block_%02d  R\xc2\xb2=%.4f\n", k->official[t], block_number(p, best),
            highest);
  }
}

static void write_samples(const page *p, FILE *f) {
  const released *k = p->k;
  fputs("scene_dir,target,true", f);
  for (int b = 0; b < k->blocks; b++)
    fprintf(f, ",block_%02d_pred", block_number(p, b));
  fputc('\n', f);
  for (int t = 0; t < k->targets; t++)
    for (int64_t i = 0; i < p->f->tested; i++) {
      scene(p, p->f->order[i], f);
      fprintf(f, ",%s,", k->official[t]);
      ebb_csv_repr(f, k->y[t * k->n + p->f->order[i]]);
      for (int b = 0; b < k->blocks; b++) {
        fputc(',', f);
        ebb_csv_repr(f, p->f->prediction[((int64_t)b * k->targets + t) * p->f->tested + i]);
      }
      fputc('\n', f);
    }
}

static bool write_file(const page *p, const char *dir, const char *name, const char *ending,
                       void (*write)(const page *, FILE *), ebb_error *err) {
  char *file = ebb_format("%s_step%04d.%s", name, step_number(p), ending), *path = ebb_path_join(dir, file);
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

/* dir/official[/category]/model/feature[/seedS] */
static bool write_page(const page *p, ebb_error *err) {
  const released *k = p->k;
  const ebb_regression *row = &k->rows[0];
  if (!k->r->dir)
    return true;
  char *category = ebb_format("%s%s", k->r->sample->by_category ? "/" : "",
                              k->r->sample->by_category ? row->category : "");
  for (char *c = category + (category[0] != '\0'); *c; c++)
    *c = *c == '/' || (*c == '.' && c == category + 1) ? '_' : *c;
  char *seed = row->repeats > 1 ? ebb_format("/seed%llu", (unsigned long long)k->seed + (unsigned)p->seed)
                                : ebb_format("%s", "");
  char *dir = ebb_format("%s/official%s/%s/%s%s", k->r->dir, category, row->model, row->feature, seed);
  bool ok = ebb_make_folders(dir, err) && write_file(p, dir, "regress_scenes", "csv", write_scenes, err) &&
            write_file(p, dir, "probe_regress_results", "csv", write_curve, err) &&
            write_file(p, dir, "probe_regress_results", "txt", write_report, err) &&
            write_file(p, dir, "probe_regress_persample", "csv", write_samples, err);
  free(category);
  free(seed);
  free(dir);
  return ok;
}

/* ---- all seeds, steps and blocks ----------------------------------------------------------------------- */

static bool sort_scenes(released *k, ebb_error *err) {
  ebb_name_at *scenes = ebb_room((size_t)k->n, sizeof *scenes, err);
  for (int64_t i = 0; scenes && i < k->n; i++) {
    k->stem[i] = ebb_official_stem(k->r->store->videos[k->r->sample->video[i]].id);
    scenes[i] = (ebb_name_at){k->stem[i], i};
  }
  if (scenes)
    ebb_sort_names(scenes, k->n);
  for (int64_t i = 0; scenes && i < k->n; i++)
    k->sorted[i] = scenes[i].at;
  free(scenes);
  return scenes != NULL;
}

/* r and v under the names that the official code gives them, where nothing else has those. */
static void name_targets(released *k) {
  bool r = false, v = false, taken = false;
  for (int t = 0; t < k->targets; t++) {
    r = r || strcmp(k->rows[t].target, "r") == 0;
    v = v || strcmp(k->rows[t].target, "v") == 0;
    taken = taken || strcmp(k->rows[t].target, "x0") == 0 || strcmp(k->rows[t].target, "v0") == 0;
  }
  for (int t = 0; t < k->targets; t++) {
    const char *own = k->rows[t].target;
    bool theirs = r && v && !taken;
    k->official[t] = theirs && strcmp(own, "r") == 0 ? "x0" : theirs && strcmp(own, "v") == 0 ? "v0" : own;
  }
}

static bool open_fold(const released *k, int seed, fold *f, ebb_error *err) {
  f->tested = (int64_t)nearbyint((double)k->n * HELD_OUT);
  f->tested = f->tested < 1 ? 1 : f->tested;
  int64_t trained = k->n - f->tested;
  f->order = ebb_room((size_t)k->n, sizeof *f->order, err);
  f->batches = ebb_room((size_t)EPOCHS * (size_t)(trained > 0 ? trained : 0), sizeof *f->batches, err);
  f->prediction = ebb_room((size_t)(k->blocks * k->targets * f->tested), sizeof *f->prediction, err);
  if (!f->order || !f->batches || !f->prediction ||
      !ebb_torch_order(k->n, k->seed + (uint64_t)seed, f->order, err))
    return false;
  if (trained < 1)
    return ebb_fail(err, "%s: %lld videos: none is left to train on", k->r->sample->name, (long long)k->n);
  for (int64_t i = 0; i < k->n; i++)
    f->order[i] = k->sorted[f->order[i]];
  for (int epoch = 0; epoch < EPOCHS; epoch++) { /* Fisher & Yates */
    int32_t *b = f->batches + epoch * trained;
    for (int64_t i = 0; i < trained; i++)
      b[i] = (int32_t)f->order[f->tested + i];
    for (int64_t i = trained - 1; i > 0; i--) {
      int64_t j = ebb_random_below(k->seed, ORDER_STREAM + (uint64_t)seed,
                                   (uint64_t)epoch << 32 | (uint64_t)i, (uint32_t)i + 1);
      int32_t swap = b[i];
      b[i] = b[j];
      b[j] = swap;
    }
  }
  return true;
}

/* One step on all seeds. */
static bool run_step(released *k, fold *folds, int step, ebb_error *err) {
  int repeats = k->rows[0].repeats;
  for (int b = 0; b < k->blocks; b++)
    if (!ebb_regress_read(k->r, &k->rows[0], step * k->blocks + b, k->x + (int64_t)b * k->n * k->width, err))
      return false;
  for (int seed = 0; seed < repeats; seed++) {
    fold *f = &folds[seed];
    if (!train_all(k, f, seed, err) || !write_page(&(page){k, f, seed, step}, err))
      return false;
    for (int t = 0; t < k->targets; t++) {
      ebb_regression *row = &k->rows[t];
      double *best = &k->best[((int64_t)t * row->step_count + step) * repeats + seed];
      *best = -INFINITY;
      for (int b = 0; b < k->blocks; b++) {
        double e[EBB_ERRORS];
        int cell = step * k->blocks + b;
        errors_of(k, f, b, t, e);
        for (int i = 0; i < EBB_ERRORS; i++)
          row->cell[i][cell] += e[i] / repeats;
        *best = fmax(*best, e[EBB_R2]);
        if (seed == 0 && e[EBB_R2] > row->top_once) {
          row->top_once = e[EBB_R2];
          row->top = cell;
        }
      }
    }
  }
  return true;
}

/* Means over seeds of each seed's best block at a step, and of its best cell. */
static bool summarise(const released *k, ebb_error *err) {
  for (int t = 0; t < k->targets; t++) {
    ebb_regression *row = &k->rows[t];
    double n = row->repeats, mean = 0;
    row->step_mean = ebb_room((size_t)row->step_count, sizeof *row->step_mean, err);
    row->step_error = ebb_room((size_t)row->step_count, sizeof *row->step_error, err);
    if (!row->step_mean || !row->step_error)
      return false;
    for (int seed = 0; seed < row->repeats; seed++) {
      double best = -INFINITY;
      for (int s = 0; s < row->step_count; s++)
        best = fmax(best, k->best[((int64_t)t * row->step_count + s) * row->repeats + seed]);
      mean += best / n;
    }
    for (int s = 0; s < row->step_count; s++) {
      const double *b = &k->best[((int64_t)t * row->step_count + s) * row->repeats];
      double sum = 0, square = 0;
      for (int seed = 0; seed < row->repeats; seed++)
        sum += b[seed] / n;
      for (int seed = 0; seed < row->repeats; seed++)
        square += (b[seed] - sum) * (b[seed] - sum);
      row->step_mean[s] = sum;
      row->step_error[s] = n > 1 ? sqrt(square / (n - 1) / n) : NAN;
    }
    for (int i = 0; i < EBB_ERRORS; i++)
      row->metric[i] = (ebb_interval){NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    row->metric[EBB_R2].value = mean;
    int best = 0;
    for (int cell = 1; cell < ebb_regression_cells(row); cell++)
      best = row->cell[EBB_R2][cell] > row->cell[EBB_R2][best] ? cell : best;
    row->chosen = best; /* of the means over seeds; their MAE and MSE go with it */
    row->metric[EBB_MAE].value = row->cell[EBB_MAE][best];
    row->metric[EBB_MSE].value = row->cell[EBB_MSE][best];
    row->p = row->nested_p = NAN;
    row->permuted = (ebb_floor){NAN, NAN};
    for (int cell = 0; cell < ebb_regression_cells(row); cell++)
      row->cell_p[cell] = NAN;
  }
  return true;
}

bool ebb_regress_released(regression *r, ebb_regression *rows, ebb_error *err) {
  released k = {.r = r,
                .rows = rows,
                .targets = r->target_count,
                .blocks = rows[0].block_count,
                .n = r->sample->n,
                .width = rows[0].width,
                .seed = (uint64_t)r->config->probe.seed};
  int repeats = rows[0].repeats, steps = rows[0].step_count;
  fold *folds = ebb_room((size_t)repeats, sizeof *folds, err);
  k.stem = ebb_room((size_t)k.n, sizeof *k.stem, err);
  k.official = ebb_room((size_t)k.targets, sizeof *k.official, err);
  k.sorted = ebb_room((size_t)k.n, sizeof *k.sorted, err);
  k.x = ebb_room((size_t)k.blocks * (size_t)(k.n * k.width), sizeof *k.x, err);
  k.y = ebb_room((size_t)(k.targets * k.n), sizeof *k.y, err);
  k.best = ebb_room((size_t)(k.targets * steps * repeats), sizeof *k.best, err);
  bool ok = folds && k.stem && k.official && k.sorted && k.x && k.y && k.best && sort_scenes(&k, err);
  for (int64_t i = 0; ok && i < k.targets * k.n; i++)
    k.y[i] = (float)r->sample->target[i];
  if (ok)
    name_targets(&k);
  for (int t = 0; ok && t < k.targets; t++)
    rows[t].top_once = -INFINITY;
  for (int seed = 0; ok && seed < repeats; seed++)
    ok = open_fold(&k, seed, &folds[seed], err);
  for (int step = 0; ok && step < steps; step++) {
    ok = run_step(&k, folds, step, err);
    ebb_regress_progress(r, k.blocks);
  }
  ok = ok && summarise(&k, err);
  for (int seed = 0; folds && seed < repeats; seed++) {
    free(folds[seed].order);
    free(folds[seed].batches);
    free(folds[seed].prediction);
  }
  for (int64_t i = 0; k.stem && i < k.n; i++)
    free(k.stem[i]);
  free(folds);
  free(k.stem);
  free(k.official);
  free(k.sorted);
  free(k.x);
  free(k.y);
  free(k.best);
  return ok;
}
