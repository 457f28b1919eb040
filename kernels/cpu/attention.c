#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#define TILE_QUERIES 128
#define LANES 16
#define BLOCK 512 /* keys that are summed in float32 before the sum goes on in double */

/* The shapes of one call. A tile of queries touches at most `span` frames; its part of the statistics is, for
 * each of them, Tk sums of probability and one sum of entropy; then the sums of probability at each distance
 * of rows, H of them, and of columns, W. */
typedef struct problem {
  int64_t S, M, D, P, heads;
  int64_t Tq, Tk, H, W; /* 0: that statistic is not wanted */
  int64_t span, part;   /* numbers of a part */
  float repeats;        /* how many equal keys the last one stands for */
  cpu_cut tiles;
} problem;

static float largest(const float *x, int64_t n) {
  float lane[LANES], max = x[0];
  int64_t i = 0;
  for (int l = 0; l < LANES; l++)
    lane[l] = x[0];
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++)
      lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  for (; i < n; i++)
    max = x[i] > max ? x[i] : max;
  for (int l = 0; l < LANES; l++)
    max = lane[l] > max ? lane[l] : max;
  return max;
}

static float sum_block(const float *x, int64_t n) {
  float lane[LANES] = {0}, total = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++)
      lane[l] += x[i + l];
  for (; i < n; i++)
    total += x[i];
  for (int l = 0; l < LANES; l++)
    total += lane[l];
  return total;
}

static double sum(const float *x, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += BLOCK)
    total += (double)sum_block(x + i, n - i < BLOCK ? n - i : BLOCK);
  return total;
}

static double dot(const float *x, const float *y, int64_t n) {
  double lane[LANES] = {0}, total = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++)
      lane[l] += (double)x[i + l] * (double)y[i + l];
  for (; i < n; i++)
    total += (double)x[i] * (double)y[i];
  for (int l = 0; l < LANES; l++)
    total += lane[l];
  return total;
}

/* Adds one query's row to the statistics of its frame, [Tk + 1]. e [M]: exponentials, shifted [M]: their
 * arguments s - max. With Z = sum e, p = e/Z and -sum p ln p = ln Z - sum e (s - max) / Z: no logarithm per
 * key. */
static void add_row(double *frame, const problem *p, const float *e, const float *shifted) {
  double Z = sum(e, p->M);
  if (p->Tk > 0) {
    int64_t keys = p->M / p->Tk;
    double total = 0; /* of the frames' own sums, so that the masses of a row add to 1 */
    for (int64_t t = 0; t < p->Tk; t++)
      total += sum(e + t * keys, keys);
    for (int64_t t = 0; t < p->Tk; t++)
      frame[t] += sum(e + t * keys, keys) / total;
  }
  frame[p->Tk] += log(Z) - dot(e, shifted, p->M) / Z;
}

/* Adds one query's row to the sums by distance, [H + W]; the query is the `place`-th token of its frame. */
static void add_distances(double *sums, const problem *p, const float *e, int64_t place) {
  int64_t y = place / p->W, x = place % p->W;
  double Z = 0;
  for (int64_t m = 0; m < p->M; m++)
    Z += (double)e[m];
  for (int64_t line = 0; line < p->M / p->W; line++)
    for (int64_t column = 0; column < p->W; column++) {
      double mass = (double)e[line * p->W + column] / Z;
      sums[llabs(line % p->H - y)] += mass;
      sums[p->H + llabs(column - x)] += mass;
    }
}

/* One tile: out, q [count, P] of row pitch D; k, v [M, P] of row pitch D; scores [count, M] and spare [M]
 * scratch. part: of the frames from that of query `first` on. lse [count]. Either NULL: not wanted. */
static void attend(const problem *p, float *out, const float *q, const float *k, const float *v,
                   float *scores, float *spare, double *part, float *lse, int64_t first, int64_t count) {
  int n = (int)count, M = (int)p->M, P = (int)p->P, D = (int)p->D;
  float inverse[TILE_QUERIES];
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, M, P, 1.0f / sqrtf((float)P), q, D, k, D, 0.0f,
              scores, M);
  if (part)
    memset(part, 0, (size_t)p->part * sizeof *part);
  for (int64_t i = 0; i < count; i++) {
    float *row = scores + i * p->M, max = largest(row, p->M);
    for (int64_t j = 0; part && j < p->M; j++)
      spare[j] = row[j] - max;
    for (int64_t j = 0; j < p->M; j++)
      row[j] = cpu_exp(row[j] - max);
    row[p->M - 1] *= p->repeats;
    inverse[i] = (float)(1.0 / sum(row, p->M));
    if (lse)
      lse[i] = (float)((double)max + log(sum(row, p->M)));
    if (part && p->Tq > 0) {
      int64_t queries = p->S / p->Tq, frame = (first + i) / queries - first / queries;
      add_row(part + frame * (p->Tk + 1), p, row, spare);
    }
    if (part && p->H > 0)
      add_distances(part + p->span * (p->Tk + 1), p, row, (first + i) % (p->H * p->W));
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, P, M, 1.0f, scores, M, v, D, 0.0f, out, D);
  for (int64_t i = 0; i < count; i++)
    for (int64_t j = 0; j < p->P; j++)
      out[i * p->D + j] *= inverse[i];
}

/* Frame t of the tiles' parts of one sample and head, [Tk + 1], added up tile by tile. */
static void add_frame(double *frame, const problem *p, const double *parts, int64_t t) {
  int64_t queries = p->S / p->Tq, width = p->Tk + 1, last = (t * queries + queries - 1) / p->tiles.size;
  memset(frame, 0, (size_t)width * sizeof *frame);
  for (int64_t tile = t * queries / p->tiles.size; tile <= last; tile++) {
    const double *part = parts + tile * p->part + (t - cpu_first(p->tiles, tile) / queries) * width;
    for (int64_t i = 0; i < width; i++)
      frame[i] += part[i];
  }
}

/* mass [Tq,Tk], entropy [Tq] and lag [2 T - 1] of one sample and head; NULL: not wanted. `own` is scratch, [Tk
 * + 1] and [2 T - 1]. */
static void finish_frames(const problem *p, const double *parts, float *mass, float *entropy, float *lag,
                          double *own) {
  int64_t queries = p->S / p->Tq, lags = lag ? 2 * p->Tk - 1 : 0;
  double *frame = own, *by_lag = own + p->Tk + 1;
  memset(by_lag, 0, (size_t)lags * sizeof *by_lag);
  for (int64_t t = 0; t < p->Tq; t++) {
    add_frame(frame, p, parts, t);
    for (int64_t i = 0; mass && i < p->Tk; i++)
      mass[t * p->Tk + i] = (float)(frame[i] / (double)queries);
    if (entropy)
      entropy[t] = (float)(frame[p->Tk] / (double)queries);
    for (int64_t i = 0; lag && i < p->Tk; i++)
      by_lag[i - t + p->Tk - 1] += frame[i];
  }
  for (int64_t i = 0; i < lags; i++)
    lag[i] = (float)(by_lag[i] / (double)p->S);
}

/* rows [H] and columns [W] of one sample and head. */
static void finish_distances(const problem *p, const double *parts, float *rows, float *columns) {
  for (int64_t i = 0; i < p->H + p->W; i++) {
    double total = 0;
    for (int64_t tile = 0; tile < p->tiles.pieces; tile++)
      total += parts[tile * p->part + p->span * (p->Tk + 1) + i];
    *(i < p->H ? rows + i : columns + i - p->H) = (float)(total / (double)p->S);
  }
}

static problem problem_of(ebb_attention_stats stats, ebb_tensor q, ebb_tensor k, int heads, int64_t repeats) {
  problem p = {.S = q.shape[1], .M = k.shape[1], .D = q.shape[2], .P = q.shape[2] / heads, .heads = heads};
  p.repeats = (float)repeats;
  p.tiles = cpu_cut_of(p.S, TILE_QUERIES, 8);
  p.H = stats.rows.shape[2], p.W = stats.columns.shape[2];
  if (ebb_present(stats.mass))
    p.Tq = stats.mass.shape[2], p.Tk = stats.mass.shape[3];
  else if (ebb_present(stats.lag))
    p.Tq = p.Tk = (stats.lag.shape[2] + 1) / 2;
  else
    p.Tq = stats.entropy.shape[2];
  p.span = p.Tq > 0 ? (p.tiles.size - 1) / (p.S / p.Tq) + 2 : 0;
  p.part = p.span * (p.Tk + 1) + p.H + p.W;
  return p;
}

/* A statistic's numbers of the g-th sample and head; NULL: not wanted. */
static float *group(ebb_tensor t, int64_t g) {
  return ebb_present(t) ? cpu_f32(t) + g * (ebb_count(t) / t.shape[0] / t.shape[1]) : NULL;
}

void cpu_attention(ebb_context *c, ebb_tensor out, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                   ebb_tensor v, int heads, int64_t repeats, void *scratch) {
  (void)scratch;
  problem p = problem_of(stats, q, k, heads, repeats);
  int64_t groups = q.shape[0] * heads, own = 3 * p.Tk + 1; /* doubles: of finish_frames */
  size_t parts_bytes = (size_t)(groups * p.tiles.pieces * p.part) * sizeof(double);
  size_t own_bytes = (size_t)((p.tiles.size + 1) * p.M) * sizeof(float) + (size_t)own * sizeof(double);
  cpu_memory memory;
  if (!cpu_scratch(c, parts_bytes, own_bytes, &memory))
    return;
  double *parts = (double *)memory.shared, work = 4.0 * (double)ebb_count(q) * (double)p.M;
  CPU_PARALLEL(c, work)
  for (int64_t i = 0; i < groups * p.tiles.pieces; i++) {
    int64_t g = i / p.tiles.pieces, b = g / heads, head = g % heads, tile = i % p.tiles.pieces;
    int64_t first = cpu_first(p.tiles, tile), query = (b * p.S + first) * p.D + head * p.P;
    int64_t key = cpu_sample(k, b) * p.M * p.D + head * p.P;
    float *scores = (float *)((double *)cpu_own(memory) + own), *lse = group(stats.lse, g);
    attend(&p, cpu_f32(out) + query, cpu_f32(q) + query, cpu_f32(k) + key, cpu_f32(v) + key, scores,
           scores + p.tiles.size * p.M, p.part > 0 ? parts + i * p.part : NULL, lse ? lse + first : NULL,
           first, cpu_size(p.tiles, tile));
  }
  if (p.part == 0)
    return;
  CPU_PARALLEL(c, (double)(groups * p.tiles.pieces * p.part))
  for (int64_t g = 0; g < groups; g++) {
    const double *of_group = parts + g * p.tiles.pieces * p.part;
    if (p.Tq > 0)
      finish_frames(&p, of_group, group(stats.mass, g), group(stats.entropy, g), group(stats.lag, g),
                    cpu_own(memory));
    if (p.H > 0)
      finish_distances(&p, of_group, group(stats.rows, g), group(stats.columns, g));
  }
}
