#include "kernels/random.h"
#include "probe/batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ORDER_STREAM 0x6f726465720000u /* "order" */
#define START_STREAM 0x73746172740000u /* "start" */

typedef struct adam_job {
  ebb_context *c;
  const ebb_training *training;
  const ebb_problem *const *design; /* [designs] of one d, n and batch */
  const int64_t *first;             /* [designs+1] its problems: consecutive, one label set each */
  const ebb_problem *problems;
  ebb_adam_fit *fits;
} adam_job;

/* What a piece has on the host. Rows of a design: training with padding, validation, test. */
typedef struct piece {
  ebb_batch batch;
  int64_t sets, validation, rows, orders;
  int64_t *row, *order, *which, *judged, *epoch; /* [B,R], [O,E,n], [B], [B,2], [B,K] */
  float *y, *w, *f, *accuracy;                   /* [B,K,R], [B,K,d+1], [B,K,R], [B,K] */
  double *mean, *inverse;                        /* [B,d] */
} piece;

/* One epoch after another of shuffled rows 0..count-1 (Fisher & Yates). */
static void shuffle(int64_t *order, int64_t n, int64_t count, const ebb_training *t, uint64_t stream) {
  for (int epoch = 0; epoch < t->epochs; epoch++, order += n) {
    for (int64_t i = 0; i < n; i++)
      order[i] = i < count ? i : -1;
    for (int64_t i = count - 1; i > 0; i--) {
      int64_t j = ebb_random_below(t->seed, ORDER_STREAM + stream, (uint64_t)epoch << 32 | (uint64_t)i,
                                   (uint32_t)i + 1);
      int64_t swap = order[i];
      order[i] = order[j];
      order[j] = swap;
    }
  }
}

static void start(float *w, int64_t d, const ebb_training *t, uint64_t number) {
  double bound = t->start / sqrt((double)d);
  for (int64_t j = 0; j <= d; j++) {
    double v = 0; /* of the second logit minus the first */
    for (int o = 0; o < t->outputs; o++) {
      double u = 2 * ebb_random_uniform(t->seed, START_STREAM + number, (uint64_t)(2 * j + o)) - 1;
      v = bound * u - v;
    }
    w[j] = (float)v;
  }
}

/* The first of the designs before i that goes through its rows in the same order. */
static int64_t order_of(const ebb_batch *b, int64_t i) {
  for (int64_t k = 0; k < i; k++)
    if (b->problem[k]->stream == b->problem[i]->stream &&
        b->problem[k]->train_count == b->problem[i]->train_count)
      return k;
  return i;
}

static bool piece_make(piece *p, const adam_job *j, int64_t first, int64_t count, ebb_error *err) {
  *p = (piece){0};
  if (!ebb_batch_make(&p->batch, j->c, count, j->design + first, false, err))
    return false;
  const ebb_batch *b = &p->batch;
  p->which = calloc((size_t)count, sizeof *p->which);
  for (int64_t i = 0; p->which && i < count; i++) {
    int64_t sets = j->first[first + i + 1] - j->first[first + i], same = order_of(b, i);
    p->sets = sets > p->sets ? sets : p->sets;
    p->validation =
        b->problem[i]->validation_count > p->validation ? b->problem[i]->validation_count : p->validation;
    p->which[i] = same < i ? p->which[same] : p->orders++;
  }
  p->rows = b->n + p->validation + b->t;
  int64_t probes = count * p->sets, d = b->d, per_order = j->training->epochs * b->n;
  size_t integers = (size_t)(count * (p->rows + 2) + p->orders * per_order + probes);
  size_t reals = (size_t)(probes * (2 * p->rows + d + 2));
  p->row = malloc(integers * sizeof *p->row);
  p->y = calloc(reals, sizeof *p->y);
  p->mean = calloc((size_t)(2 * count * d), sizeof *p->mean);
  if (!p->which || !p->row || !p->y || !p->mean)
    return ebb_fail(err, "not enough memory to train %lld probes", (long long)probes);
  p->order = p->row + count * p->rows;
  p->judged = p->order + p->orders * per_order;
  p->epoch = p->judged + 2 * count;
  p->w = p->y + probes * p->rows;
  p->f = p->w + probes * (d + 1);
  p->accuracy = p->f + probes * p->rows;
  p->inverse = p->mean + count * d;
  return true;
}

static void piece_free(piece *p) {
  ebb_batch_free(&p->batch);
  free(p->which);
  free(p->row);
  free(p->y);
  free(p->mean);
}

/* Rows, labels, orders and starts of the designs of a piece. */
static void fill(piece *p, const adam_job *j, int64_t first) {
  const ebb_batch *b = &p->batch;
  for (int64_t i = 0, made = 0; i < b->count; i++) {
    const ebb_problem *one = b->problem[i];
    int64_t *row = p->row + i * p->rows, table = b->rows[i * b->n] / b->all * b->all;
    for (int64_t r = 0; r < p->rows; r++)
      row[r] = -1;
    memcpy(row, b->rows + i * b->n, (size_t)b->n * sizeof *row);
    for (int64_t r = 0; r < one->validation_count; r++)
      row[b->n + r] = table + one->validation[r];
    memcpy(row + b->n + p->validation, b->test + i * b->t, (size_t)b->t * sizeof *row);
    p->judged[2 * i] = b->n;
    p->judged[2 * i + 1] = b->n + one->validation_count;
    if (p->which[i] == made)
      shuffle(p->order + made++ * j->training->epochs * b->n, b->n, one->train_count, j->training,
              one->stream);
    for (int64_t at = j->first[first + i]; at < j->first[first + i + 1]; at++) {
      int64_t probe = i * p->sets + at - j->first[first + i];
      for (int64_t r = 0; r < p->rows; r++)
        p->y[probe * p->rows + r] = row[r] >= 0 ? j->problems[at].labels[row[r] - table] : 0;
      start(p->w + probe * (b->d + 1), b->d, j->training, j->problems[at].start);
    }
  }
}

static void hand_out(const piece *p, const adam_job *j, int64_t first) {
  int64_t d = p->batch.d, test = p->rows - p->batch.t;
  for (int64_t i = 0; i < p->batch.count; i++)
    for (int64_t at = j->first[first + i]; at < j->first[first + i + 1]; at++) {
      int64_t probe = i * p->sets + at - j->first[first + i];
      ebb_adam_fit *fit = &j->fits[at];
      fit->accuracy = p->accuracy[probe];
      fit->epoch = p->epoch[probe];
      for (int64_t t = 0; fit->margins && t < j->problems[at].test_count; t++)
        fit->margins[t] = p->f[probe * p->rows + test + t];
      if (!fit->weights)
        continue;
      const float *w = p->w + probe * (d + 1);
      fit->weights[d] = w[d];
      for (int64_t k = 0; k < d; k++) {
        fit->weights[k] = w[k] * (j->training->standardise ? p->inverse[i * d + k] : 1);
        fit->weights[d] -= j->training->standardise ? fit->weights[k] * p->mean[i * d + k] : 0;
      }
    }
}

static bool finite_margins(const piece *p, const adam_job *j, int64_t first, ebb_error *err) {
  for (int64_t i = 0; i < p->batch.count; i++)
    for (int64_t r = 0; r < (j->first[first + i + 1] - j->first[first + i]) * p->rows; r++)
      if (!isfinite(p->f[i * p->sets * p->rows + r]))
        return ebb_fail(err,
                        "a probe trained by Adam has margins that are not finite: its features or the rate "
                        "are too large");
  return true;
}

static bool solve_piece(void *user, int64_t first, int64_t count, ebb_error *err) {
  adam_job *j = user;
  ebb_context *c = j->c;
  const ebb_training *training = j->training;
  piece p;
  bool ok = piece_make(&p, j, first, count, err);
  if (ok) {
    ebb_batch *b = &p.batch;
    int64_t K = p.sets, R = p.rows, d = b->d;
    if (!c->counting)
      fill(&p, j, first);
    ebb_batch_upload(b);
    ebb_tensor row = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "all rows", count, R),
               order = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "order", p.orders, training->epochs, b->n),
               which = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "which order", count),
               judged = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "validation rows", count, 2),
               epoch = EBB_NEW(c, EBB_ACTIVATIONS, EBB_I64, "epoch", count, K),
               z = EBB_ACTIVATION(c, "z", count, R, d), y = EBB_ACTIVATION(c, "y", count, K, R),
               w = EBB_ACTIVATION(c, "w", count, K, d + 1), f = EBB_ACTIVATION(c, "f", count, K, R),
               accuracy = EBB_ACTIVATION(c, "accuracy", count, K);
    ebb_upload(c, row, p.row);
    ebb_upload(c, order, p.order);
    ebb_upload(c, which, p.which);
    ebb_upload(c, judged, p.judged);
    ebb_upload(c, y, p.y);
    ebb_upload(c, w, p.w);
    ebb_standardise(c, z, b->x, row, training->standardise ? b->mean : EBB_NO_TENSOR,
                    training->standardise ? b->inverse : EBB_NO_TENSOR);
    ebb_adam how = {training->rate * training->outputs, training->decay, training->batch, training->patience};
    ebb_logistic_adam(c, w, epoch, accuracy, f, z, y, order, which, judged, how);
    ebb_download(c, p.w, w);
    ebb_download(c, p.f, f);
    ebb_download(c, p.accuracy, accuracy);
    ebb_download(c, p.epoch, epoch);
    ebb_download(c, p.mean, b->mean);
    ebb_download(c, p.inverse, b->inverse);
    if (!c->counting && !c->error.text[0]) {
      ok = finite_margins(&p, j, first, err);
      hand_out(&p, j, first);
    }
  }
  piece_free(&p);
  return ok;
}

bool ebb_adam_batch(ebb_context *c, int64_t count, const ebb_problem *problems, const ebb_training *training,
                    ebb_adam_fit *fits, ebb_error *err) {
  ebb_designs designs;
  bool ok = ebb_designs_make(&designs, count, problems, err);
  for (int64_t at = 0, end = 0; ok && at < designs.count; at = end) {
    end = ebb_designs_of_shape(&designs, at);
    adam_job job = {c, training, designs.problem + at, designs.first + at, problems, fits};
    ok = ebb_batch_pieces(c, end - at, solve_piece, &job, err);
  }
  ebb_designs_free(&designs);
  return ok;
}
