#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#define TILE_QUERIES 128
#define LANES 16
#define BLOCK 512 /* keys that are summed in float32 before the sum goes on in double */

/* The shapes of one call. A tile of queries touches at most `span` frames; its part of the statistics is, for
 * each of them, Tk sums of probability and one sum of entropy. */
typedef struct problem {
  int64_t S, M, D, P, heads;
  int64_t Tq, Tk; /* 0: that statistic is not wanted */
  int64_t span;
  float repeats; /* how many equal keys the last one stands for */
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

/* One tile: out, q [count, P] of row pitch D; k, v [M, P] of row pitch D; scores [count, M] and spare [M]
 * scratch. stats [span, Tk + 1] of the frames from that of query `first` on; NULL: none. */
static void attend(const problem *p, float *out, const float *q, const float *k, const float *v,
                   float *scores, float *spare, double *stats, int64_t first, int64_t count) {
  int n = (int)count, M = (int)p->M, P = (int)p->P, D = (int)p->D;
  float inverse[TILE_QUERIES];
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, M, P, 1.0f / sqrtf((float)P), q, D, k, D, 0.0f,
              scores, M);
  if (stats)
    memset(stats, 0, (size_t)(p->span * (p->Tk + 1)) * sizeof *stats);
  for (int64_t i = 0; i < count; i++) {
    float *row = scores + i * p->M, max = largest(row, p->M);
    for (int64_t j = 0; stats && j < p->M; j++)
      spare[j] = row[j] - max;
    for (int64_t j = 0; j < p->M; j++)
      row[j] = cpu_exp(row[j] - max);
    row[p->M - 1] *= p->repeats;
    inverse[i] = (float)(1.0 / sum(row, p->M));
    if (stats) {
      int64_t queries = p->S / p->Tq, frame = (first + i) / queries - first / queries;
      add_row(stats + frame * (p->Tk + 1), p, row, spare);
    }
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, P, M, 1.0f, scores, M, v, D, 0.0f, out, D);
  for (int64_t i = 0; i < count; i++)
    for (int64_t j = 0; j < p->P; j++)
      out[i * p->D + j] *= inverse[i];
}

/* The tiles' parts, [tiles, span, Tk + 1] of one sample and head, added up tile by tile: mass [Tq,Tk],
 * entropy [Tq] or NULL. A frame's sum is carried across the tiles that it straddles. */
static void finish_stats(const problem *p, const double *parts, float *mass, float *entropy, double *frame) {
  int64_t queries = p->S / p->Tq, width = p->Tk + 1;
  for (int64_t t = 0; t < p->Tq; t++) {
    memset(frame, 0, (size_t)width * sizeof *frame);
    int64_t last = (t * queries + queries - 1) / p->tiles.size;
    for (int64_t tile = t * queries / p->tiles.size; tile <= last; tile++) {
      const double *part = parts + (tile * p->span + t - cpu_first(p->tiles, tile) / queries) * width;
      for (int64_t i = 0; i < width; i++)
        frame[i] += part[i];
    }
    if (mass)
      for (int64_t i = 0; i < p->Tk; i++)
        mass[t * p->Tk + i] = (float)(frame[i] / (double)queries);
    if (entropy)
      entropy[t] = (float)(frame[p->Tk] / (double)queries);
  }
}

void cpu_attention(ebb_context *c, ebb_tensor out, ebb_attention_stats stats, ebb_tensor q, ebb_tensor k,
                   ebb_tensor v, int heads, int64_t repeats, void *scratch) {
  (void)scratch;
  problem p = {.S = q.shape[1], .M = k.shape[1], .D = q.shape[2], .P = q.shape[2] / heads, .heads = heads};
  p.repeats = (float)repeats;
  p.tiles = cpu_cut_of(p.S, TILE_QUERIES, 8);
  p.Tq = ebb_present(stats.mass) ? stats.mass.shape[2] : stats.entropy.shape[2];
  p.Tk = stats.mass.shape[3];
  p.span = p.Tq > 0 ? (p.tiles.size - 1) / (p.S / p.Tq) + 2 : 0;
  int64_t groups = q.shape[0] * heads, part = p.span * (p.Tk + 1), width = p.Tk + 1;
  size_t parts_bytes = (size_t)(groups * p.tiles.pieces * part) * sizeof(double);
  size_t own_bytes = (size_t)((p.tiles.size + 1) * p.M) * sizeof(float) + (size_t)width * sizeof(double);
  cpu_memory memory;
  if (!cpu_scratch(c, parts_bytes, own_bytes, &memory))
    return;
  double *parts = (double *)memory.shared, work = 4.0 * (double)ebb_count(q) * (double)p.M;
  CPU_PARALLEL(c, work)
  for (int64_t i = 0; i < groups * p.tiles.pieces; i++) {
    int64_t b = i / p.tiles.pieces / heads, head = i / p.tiles.pieces % heads, tile = i % p.tiles.pieces;
    int64_t first = cpu_first(p.tiles, tile), query = (b * p.S + first) * p.D + head * p.P;
    int64_t key = cpu_sample(k, b) * p.M * p.D + head * p.P;
    float *scores = (float *)((double *)cpu_own(memory) + width);
    attend(&p, cpu_f32(out) + query, cpu_f32(q) + query, cpu_f32(k) + key, cpu_f32(v) + key, scores,
           scores + p.tiles.size * p.M, p.Tq > 0 ? parts + i * part : NULL, first, cpu_size(p.tiles, tile));
  }
  if (p.Tq == 0)
    return;
  CPU_PARALLEL(c, (double)(groups * p.tiles.pieces * part))
  for (int64_t g = 0; g < groups; g++)
    finish_stats(&p, parts + g * p.tiles.pieces * part,
                 ebb_present(stats.mass) ? cpu_f32(stats.mass) + g * p.Tq * p.Tk : NULL,
                 ebb_present(stats.entropy) ? cpu_f32(stats.entropy) + g * p.Tq : NULL, cpu_own(memory));
}
