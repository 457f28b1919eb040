#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

static const int64_t *numbers(ebb_tensor t) {
  return (const int64_t *)t.data;
}

typedef struct adam {
  ebb_adam how;
  int64_t d, rows, n, epochs; /* n: entries of one epoch's order */
  const float *z, *y;
  const int64_t *order;
  int64_t judged, judged_end;     /* rows */
  float *w, *m, *v, *best, *pull; /* [d+1], [d+1], [d+1], [d+1]: the caller's, [batch] */
} adam;

/* w . (z, 1): lane l adds columns l, l + 32, ...; then lanes in pairs, as a warp does. */
static float margin_of(const float *w, const float *z, int64_t d) {
  float lane[32] = {0};
  int64_t whole = d / 32 * 32;
  for (int64_t j = 0; j < whole; j += 32)
    for (int64_t l = 0; l < 32; l++)
      lane[l] += z[j + l] * w[j + l];
  for (int64_t j = whole; j < d; j++)
    lane[j - whole] += z[j] * w[j];
  for (int64_t half = 16; half > 0; half /= 2)
    for (int64_t l = 0; l < half; l++)
      lane[l] += lane[l + half];
  return lane[0] + w[d];
}

/* A step on `count` rows; m, v decayed by powers bias1, bias2 so far. */
static void adam_step(adam *p, const int64_t *rows, int64_t count, double bias1, double bias2) {
  int64_t d = p->d;
  float decay = (float)p->how.decay, size = (float)((float)p->how.rate / (1 - bias1)),
        root = (float)sqrt(1 - bias2), *g = p->pull + p->how.batch;
  memset(g, 0, (size_t)(d + 1) * sizeof *g);
  for (int64_t i = 0; i < count; i++) {
    const float *z = p->z + rows[i] * d;
    float y = p->y[rows[i]];
    p->pull[i] = -y / (1.0f + expf(y * margin_of(p->w, z, d))) / (float)count;
    for (int64_t j = 0; j < d; j++)
      g[j] += p->pull[i] * z[j];
    g[d] += p->pull[i];
  }
  for (int64_t j = 0; j <= d; j++) {
    float slope = g[j] + decay * p->w[j];
    p->m[j] = 0.9f * p->m[j] + 0.1f * slope;
    p->v[j] = 0.999f * p->v[j] + 0.001f * slope * slope;
    p->w[j] -= size * p->m[j] / (sqrtf(p->v[j]) / root + 1e-8f);
  }
}

/* Twice the validation rows on the right side; how many there are. */
static int validate(const adam *p, int *labelled) {
  int right = 0;
  *labelled = 0;
  for (int64_t i = p->judged; i < p->judged_end; i++) {
    float agreed = p->y[i] * margin_of(p->w, p->z + i * p->d, p->d);
    right += agreed > 0 ? 2 : agreed == 0 && p->y[i] != 0;
    *labelled += p->y[i] != 0;
  }
  return right;
}

/* The fit into p->best; the epoch that counts. */
static int64_t train(adam *p, float *accuracy) {
  int64_t epoch_kept = p->epochs, trained = 0;
  int best = -1, stale = 0, labelled = 0;
  bool validated = p->judged_end > p->judged;
  while (trained < p->n && p->order[trained] >= 0) /* padding is at the end */
    trained++;
  double bias1 = 1, bias2 = 1;
  *accuracy = NAN;
  for (int64_t epoch = 0; epoch < p->epochs; epoch++) {
    for (int64_t at = 0; at < trained; at += p->how.batch) {
      int64_t count = trained - at < p->how.batch ? trained - at : p->how.batch;
      adam_step(p, p->order + epoch * p->n + at, count, bias1 *= 0.9, bias2 *= 0.999);
    }
    int right = validated ? validate(p, &labelled) : (int)epoch;
    if (right > best) {
      best = right;
      stale = 0;
      epoch_kept = epoch + 1;
      memcpy(p->best, p->w, (size_t)(p->d + 1) * sizeof *p->best);
      if (validated)
        *accuracy = 0.5f * (float)right / (float)labelled;
    } else if (++stale >= p->how.patience)
      break;
  }
  return epoch_kept;
}

void cpu_logistic_adam(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                       ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                       ebb_adam how, void *scratch) {
  (void)scratch;
  int64_t sets = y.shape[1], rows = z.shape[1], d = z.shape[2], n = order.shape[2];
  size_t side = (size_t)d + 1;
  cpu_memory memory;
  if (!cpu_scratch(c, 0, (4 * side + (size_t)how.batch) * sizeof(float), &memory))
    return;
  CPU_PARALLEL(c, 4.0 * (double)(z.shape[0] * sets * n * d) * (double)order.shape[1])
  for (int64_t i = 0; i < z.shape[0] * sets; i++) {
    int64_t design = i / sets;
    float *room = cpu_own(memory);
    memset(room, 0, 3 * side * sizeof *room);
    adam p = {.how = how,
              .d = d,
              .rows = rows,
              .n = n,
              .epochs = order.shape[1],
              .z = cpu_f32(z) + design * rows * d,
              .y = cpu_f32(y) + i * rows,
              .order = numbers(order) + numbers(which)[design] * order.shape[1] * n,
              .judged = numbers(judged)[2 * design],
              .judged_end = numbers(judged)[2 * design + 1],
              .w = room,
              .m = room + side,
              .v = room + 2 * side,
              .pull = room + 3 * side,
              .best = cpu_f32(w) + i * (d + 1)};
    memcpy(p.w, p.best, side * sizeof *p.w);
    ((int64_t *)epochs.data)[i] = train(&p, &cpu_f32(accuracy)[i]);
    for (int64_t r = 0; r < rows; r++)
      cpu_f32(f)[i * rows + r] = margin_of(p.best, p.z + r * d, d);
  }
}
