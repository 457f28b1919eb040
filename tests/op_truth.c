#include "tests/op_truth.h"

#include "kernels/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N(i, d) (k->t[i].shape[d])
#define HAS(i) (k->t[i].rank > 0)
#define SAMPLE(i, b) (N(i, 0) == 1 ? 0 : (b)) /* one row for all samples, or a row each */

static double activation(double a, int act) {
  switch (act) {
  case EBB_SILU:
    return a / (1 + exp(-a));
  case EBB_GELU_TANH:
    return a / 2 * (1 + tanh(sqrt(2 / acos(-1.0)) * (a + 0.044715 * a * a * a)));
  case EBB_RELU:
    return a > 0 ? a : 0;
  default:
    return a;
  }
}

void truth_linear(const op_case *k, double *const *t) { /* y, x, w, b; i: activation */
  int64_t n_out = N(2, 0), n_in = N(2, 1), rows = op_tensor_count(&k->t[1]) / n_in;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t n = 0; n < n_out; n++) {
      double a = HAS(3) ? t[3][n] : 0;
      for (int64_t i = 0; i < n_in; i++)
        a += t[1][r * n_in + i] * t[2][n * n_in + i];
      t[0][r * n_out + n] = activation(a, k->i[0]);
    }
}

/* y = (x - mean)/sqrt(var + eps) */
static void normalize(double *y, const double *x, int64_t D, double eps) {
  double mean = 0, var = 0;
  for (int64_t i = 0; i < D; i++)
    mean += x[i] / (double)D;
  for (int64_t i = 0; i < D; i++)
    var += (x[i] - mean) * (x[i] - mean) / (double)D;
  for (int64_t i = 0; i < D; i++)
    y[i] = (x[i] - mean) / sqrt(var + eps);
}

void truth_norm_modulate(const op_case *k, double *const *t) { /* y, x, shift, scale; f: eps */
  int64_t B = N(0, 0), S = N(0, 1), D = N(0, 2);
  for (int64_t b = 0; b < B; b++)
    for (int64_t s = 0; s < S; s++) {
      double *y = t[0] + (b * S + s) * D;
      normalize(y, t[1] + (b * S + s) * D, D, k->f[0]);
      for (int64_t i = 0; i < D; i++)
        y[i] = y[i] * (1 + t[3][SAMPLE(3, b) * D + i]) + t[2][SAMPLE(2, b) * D + i];
    }
}

/* x += gate * y */
static void add_gated(const op_case *k, int gate, double *x, const double *y, const double *gates) {
  int64_t S = N(1, 1), D = N(1, 2);
  for (int64_t i = 0; i < N(1, 0) * S * D; i++)
    x[i] += (HAS(gate) ? gates[SAMPLE(gate, i / (S * D)) * D + i % D] : 1) * y[i];
}

void truth_gate_add_norm(const op_case *k, double *const *t) { /* h, x, y, gate, shift, scale; f: eps */
  int64_t S = N(1, 1), D = N(1, 2);
  add_gated(k, 3, t[1], t[2], t[3]);
  for (int64_t r = 0; r < N(1, 0) * S; r++) {
    double *h = t[0] + r * D;
    normalize(h, t[1] + r * D, D, k->f[0]);
    for (int64_t i = 0; i < D; i++)
      h[i] = h[i] * (1 + t[5][SAMPLE(5, r / S) * D + i]) + t[4][SAMPLE(4, r / S) * D + i];
  }
}

void truth_gate_add_layer_norm(const op_case *k, double *const *t) { /* h, x, y, gate, w, b; f: eps */
  int64_t D = N(1, 2);
  add_gated(k, 3, t[1], t[2], t[3]);
  memcpy(t[0], t[1], (size_t)op_tensor_count(&k->t[1]) * sizeof(double));
  for (int64_t r = 0; HAS(4) && r < N(1, 0) * N(1, 1); r++) {
    double *h = t[0] + r * D;
    normalize(h, t[1] + r * D, D, k->f[0]);
    for (int64_t i = 0; i < D; i++)
      h[i] = h[i] * t[4][i] + t[5][i];
  }
}

/* x <- x / sqrt(mean(x^2) + eps) * w over one row */
static void rms_normalize(double *x, const double *w, int64_t D, double eps) {
  double square = 0;
  for (int64_t i = 0; i < D; i++)
    square += x[i] * x[i];
  for (int64_t i = 0; i < D; i++)
    x[i] = x[i] / sqrt(square / (double)D + eps) * w[i];
}

void truth_qk_norm_rope(const op_case *k, double *const *t) { /* q, k, wq, wk, cos, sin; i: heads; f: eps */
  int64_t B = N(0, 0), S = N(0, 1), D = N(0, 2), half = D / k->i[0] / 2;
  for (int which = 0; which < 1 + HAS(1); which++)
    for (int64_t r = 0; r < B * S; r++) {
      double *x = t[which] + r * D;
      if (HAS(2 + which))
        rms_normalize(x, t[2 + which], D, k->f[0]);
      for (int64_t pair = 0; HAS(4) && pair < D / 2; pair++) {
        double co = t[4][r % S * half + pair % half], si = t[5][r % S * half + pair % half];
        double u = x[2 * pair], v = x[2 * pair + 1];
        x[2 * pair] = u * co - v * si;
        x[2 * pair + 1] = u * si + v * co;
      }
    }
}

/* y [C] = act(x / ||x|| * sqrt(C) * w) of one position */
static void channel_norm(double *y, const double *x, const double *w, int64_t C, int act) {
  double square = 0;
  for (int64_t c = 0; c < C; c++)
    square += x[c] * x[c];
  for (int64_t c = 0; c < C; c++)
    y[c] = activation(x[c] / fmax(sqrt(square), 1e-12) * sqrt((double)C) * w[c], act);
}

void truth_channel_norm(const op_case *k, double *const *t) { /* y, x, w; i: activation */
  int64_t C = N(2, 0);
  for (int64_t at = 0; at < op_tensor_count(&k->t[1]); at += C)
    channel_norm(t[0] + at, t[1] + at, t[2], C, k->i[0]);
}

void truth_rms_norm(const op_case *k, double *const *t) { /* y, x, w; f: eps */
  int64_t D = N(2, 0);
  memcpy(t[0], t[1], (size_t)op_tensor_count(&k->t[1]) * sizeof(double));
  for (int64_t at = 0; at < op_tensor_count(&k->t[1]); at += D)
    rms_normalize(t[0] + at, t[2], D, k->f[0]);
}

void truth_timestep_embedding(const op_case *k, double *const *t) { /* y, t */
  int64_t B = N(0, 0), F = N(0, 1);
  for (int64_t b = 0; b < B; b++)
    for (int64_t i = 0; i < F / 2; i++) {
      double f = exp(-log(10000) * 2 * (double)i / (double)F);
      t[0][b * F + i] = cos(t[1][b] * f);
      t[0][b * F + F / 2 + i] = sin(t[1][b] * f);
    }
}

/* The softmax row p [M] of query s of sample b and head n; returns the logarithm of its sum. */
static double attention_row(const op_case *k, double *const *t, int64_t b, int64_t n, int64_t s, double *p) {
  int64_t S = N(1, 1), D = N(1, 2), M = N(2, 1), P = D / k->i[0];
  double max = -INFINITY, total = 0;
  for (int64_t m = 0; m < M; m++) {
    p[m] = 0;
    for (int64_t d = n * P; d < (n + 1) * P; d++)
      p[m] += t[1][(b * S + s) * D + d] * t[2][(SAMPLE(2, b) * M + m) * D + d] / sqrt((double)P);
    max = fmax(max, p[m]);
  }
  for (int64_t m = 0; m < M; m++)
    total += p[m] = (m == M - 1 && k->i[1] > 1 ? k->i[1] : 1) * exp(p[m] - max);
  for (int64_t m = 0; m < M; m++)
    p[m] /= total;
  return max + log(total);
}

/* Adds the row p [M] of query s to the statistics of group g = b * heads + n. */
static void attention_statistics(const op_case *k, double *const *t, int64_t g, int64_t s, const double *p) {
  int64_t S = N(1, 1), M = N(2, 1), L = N(6, 2), T = (L + 1) / 2, H = N(7, 2), W = N(8, 2);
  for (int64_t m = 0; m < M; m++) {
    if (HAS(4)) {
      int64_t Tq = N(4, 2), Tk = N(4, 3);
      t[4][(g * Tq + s / (S / Tq)) * Tk + m / (M / Tk)] += p[m] / (double)(S / Tq);
    }
    if (HAS(5) && p[m] > 0)
      t[5][g * N(5, 2) + s / (S / N(5, 2))] -= p[m] * log(p[m]) / (double)(S / N(5, 2));
    if (HAS(6))
      t[6][g * L + m / (M / T) - s / (S / T) + T - 1] += p[m] / (double)S;
    if (HAS(7)) {
      t[7][g * H + llabs(m / W % H - s / W % H)] += p[m] / (double)S;
      t[8][g * W + llabs(m % W - s % W)] += p[m] / (double)S;
    }
  }
}

void truth_attention(
    const op_case *k,
    double *const *t) { /* out, q, k, v, mass, entropy, lag, rows, columns, lse; i: heads, repeats */
  int64_t B = N(1, 0), S = N(1, 1), D = N(1, 2), M = N(2, 1), heads = k->i[0], P = D / heads;
  double *p = malloc((size_t)M * sizeof *p);
  for (int i = 4; i < 9; i++)
    for (int64_t j = 0; j < op_tensor_count(&k->t[i]); j++)
      t[i][j] = 0;
  for (int64_t b = 0; b < B; b++)
    for (int64_t n = 0; n < heads; n++)
      for (int64_t s = 0; s < S; s++) {
        double lse = attention_row(k, t, b, n, s, p);
        if (HAS(9))
          t[9][(b * heads + n) * S + s] = lse;
        attention_statistics(k, t, b * heads + n, s, p);
        for (int64_t d = n * P; d < (n + 1) * P; d++) {
          double sum = 0;
          for (int64_t m = 0; m < M; m++)
            sum += p[m] * t[3][(SAMPLE(3, b) * M + m) * D + d];
          t[0][(b * S + s) * D + d] = sum;
        }
      }
  free(p);
}

void truth_attention_weights(const op_case *k, double *const *t) { /* p, q, k, w; i: heads, repeats; f: eps */
  int64_t B = N(1, 0), S = N(1, 1), M = N(2, 1), D = N(1, 2), heads = k->i[0];
  for (int64_t r = 0; HAS(3) && r < B * S; r++)
    rms_normalize(t[1] + r * D, t[3], D, k->f[0]);
  for (int64_t b = 0; b < B; b++)
    for (int64_t s = 0; s < S; s++)
      for (int64_t n = 0; n < heads; n++)
        attention_row(k, t, b, n, s, t[0] + ((b * S + s) * heads + n) * M);
}

void truth_projected_values(const op_case *k, double *const *t) { /* u, v, w; i: heads */
  int64_t M = N(1, 1), D = N(1, 2), heads = k->i[0], P = D / heads;
  for (int64_t d = 0; d < D; d++)
    for (int64_t n = 0; n < heads; n++)
      for (int64_t m = 0; m < M; m++) {
        double sum = 0;
        for (int64_t j = n * P; j < (n + 1) * P; j++)
          sum += t[2][d * D + j] * t[1][m * D + j];
        t[0][(d * heads + n) * M + m] = sum;
      }
}

void truth_attention_relative(const op_case *k, double *const *t) { /* out, q, k, v, bias; i: heads */
  int64_t B = N(1, 0), S = N(1, 1), D = N(1, 2), heads = k->i[0], P = D / heads;
  double *p = malloc((size_t)S * sizeof *p);
  for (int64_t row = 0; row < B * heads * S; row++) {
    int64_t b = row / (heads * S), n = row / S % heads, s = row % S;
    double max = -INFINITY, total = 0;
    for (int64_t m = 0; m < S; m++) {
      p[m] = t[4][n * (2 * S - 1) + m - s + S - 1];
      for (int64_t d = n * P; d < (n + 1) * P; d++)
        p[m] += t[1][(b * S + s) * D + d] * t[2][(b * S + m) * D + d];
      max = fmax(max, p[m]);
    }
    for (int64_t m = 0; m < S; m++)
      total += p[m] = exp(p[m] - max);
    for (int64_t d = n * P; d < (n + 1) * P; d++) {
      t[0][(b * S + s) * D + d] = 0;
      for (int64_t m = 0; m < S; m++)
        t[0][(b * S + s) * D + d] += p[m] / total * t[3][(b * S + m) * D + d];
    }
  }
  free(p);
}

void truth_gated(const op_case *k, double *const *t) { /* y, a, b; i: activation */
  for (int64_t i = 0; i < op_tensor_count(&k->t[0]); i++)
    t[0][i] = activation(t[1][i], k->i[0]) * t[2][i];
}

void truth_gate_add(const op_case *k, double *const *t) { /* x, y, gate */
  int64_t B = N(0, 0), S = N(0, 1), D = N(0, 2);
  for (int64_t i = 0; i < B * S * D; i++)
    t[0][i] += (HAS(2) ? t[2][SAMPLE(2, i / (S * D)) * D + i % D] : 1) * t[1][i];
}

void truth_axpby(const op_case *k, double *const *t) { /* y, x, z; f: a, b */
  for (int64_t i = 0; i < op_tensor_count(&k->t[0]); i++)
    t[0][i] = k->f[0] * t[1][i] + (HAS(2) ? k->f[1] * t[2][i] : 0);
}

/* Standard normal number `index` of (seed, stream): Box & Muller on the words of kernels/random.h, the first of two for
 * the radius, the second, a signed 30 bits in each quadrant, for the angle. */
static double truth_normal(uint64_t seed, uint64_t stream, int64_t index) {
  const ebb_random4 r = ebb_random_words(seed, stream, (uint64_t)(index / 4));
  const uint32_t radius = r.v[index % 4 / 2 * 2], angle = r.v[index % 4 / 2 * 2 + 1];
  const double u = (radius + 0.5) / 4294967296.0, quarter = acos(-1.0) / 2;
  double part = (double)(angle & 0x3fffffffu) / 1073741824.0;
  part = angle & 0x20000000u ? part - 1 : part;
  const double turn = quarter * ((double)(angle >> 30) + part);
  return sqrt(-2 * log(u)) * (index % 2 ? sin(turn) : cos(turn));
}

void truth_perturb(const op_case *k, double *const *t) { /* x, dose, keys, when, direction; i: place */
  const int64_t B = N(0, 0), S = N(0, 1), D = N(0, 2);
  for (int64_t r = 0; r < B * S; r++) {
    double *x = t[0] + r * D, mean = 0, square = 0;
    for (int64_t i = 0; i < D; i++)
      mean += x[i] / (double)D;
    for (int64_t i = 0; i < D; i++)
      square += (x[i] - mean) * (x[i] - mean) / (double)(D - 1);
    const uint64_t seed = (uint64_t)(int64_t)t[2][r / S],
                   stream = (uint64_t)k->i[0] << 32 | (uint64_t)t[3][0];
    for (int64_t i = 0; i < D; i++)
      x[i] += sqrt(square) * (t[1][r / S * 2] * truth_normal(seed, stream, r % S * D + i) +
                              (HAS(4) ? t[1][r / S * 2 + 1] * t[4][r / S * D + i] : 0));
  }
}

void truth_add_noise(const op_case *k, double *const *t) { /* y, x, keys; f: a, b; i: stream */
  const int64_t B = N(0, 0), n = op_tensor_count(&k->t[0]) / B;
  for (int64_t i = 0; i < B * n; i++)
    t[0][i] =
        k->f[0] * t[1][i] + k->f[1] * truth_normal((uint64_t)(int64_t)t[2][i / n], (uint64_t)k->i[0], i % n);
}

void truth_replace_heads(const op_case *k, double *const *t) { /* y, x, mean, source */
  const int64_t B = N(1, 0), S = N(1, 1), D = N(1, 2), heads = N(3, 1);
  for (int64_t i = 0; i < B * S * D; i++) {
    const int64_t b = i / (S * D), d = i % D;
    const double source = t[3][b * heads + d / (D / heads)];
    if (source == EBB_HEAD_ZERO)
      t[0][i] = 0;
    else if (source == EBB_HEAD_MEAN && HAS(2))
      t[0][i] = t[2][b * D + d];
    else
      t[0][i] = t[1][source < 0 ? i : i + ((int64_t)source - b) * S * D];
  }
}

void truth_convert(const op_case *k, double *const *t) { /* y, x */
  memcpy(t[0], t[1], (size_t)op_tensor_count(&k->t[0]) * sizeof(double));
}

void truth_activate(const op_case *k, double *const *t) { /* y, x; i: activation */
  for (int64_t i = 0; i < op_tensor_count(&k->t[0]); i++)
    t[0][i] = activation(t[1][i], k->i[0]);
}

void truth_add_table(const op_case *k, double *const *t) { /* y, table, x */
  int64_t J = N(0, 0), B = N(0, 1), D = N(0, 2);
  for (int64_t j = 0; j < J; j++)
    for (int64_t b = 0; b < B; b++)
      for (int64_t d = 0; d < D; d++)
        t[0][(j * B + b) * D + d] =
            t[1][j * D + d] + (k->t[2].rank == 2 ? t[2][b * D + d] : t[2][(b * J + j) * D + d]);
}

void truth_channel_affine(const op_case *k, double *const *t) { /* y, x, scale, shift */
  int64_t C = N(0, 1), places = N(0, 2) * N(0, 3) * N(0, 4);
  for (int64_t i = 0; i < op_tensor_count(&k->t[0]); i++)
    t[0][i] = t[1][i] * t[2][i / places % C] + t[3][i / places % C];
}

void truth_clamp(const op_case *k, double *const *t) { /* y, x; f: low, high */
  for (int64_t i = 0; i < op_tensor_count(&k->t[0]); i++)
    t[0][i] = fmin(fmax(t[1][i], k->f[0]), k->f[1]);
}

/* tokens <- video, or with `back` video <- tokens, for every element; channel_first: feature order (c, pt,
 * ph, pw), else (pt, ph, pw, c). */
static void walk_patches(const op_tensor *video, const int *patch, bool channel_first, double *v,
                         double *tokens, bool back) {
  const int64_t *n = video->shape;
  int64_t pt = patch[0], ph = patch[1], pw = patch[2], rows = n[3] / ph, columns = n[4] / pw;
  int64_t S = n[2] / pt * rows * columns, features = n[1] * pt * ph * pw, at = 0;
  for (int64_t b = 0; b < n[0]; b++)
    for (int64_t c = 0; c < n[1]; c++)
      for (int64_t t = 0; t < n[2]; t++)
        for (int64_t h = 0; h < n[3]; h++)
          for (int64_t w = 0; w < n[4]; w++, at++) {
            int64_t token = (t / pt * rows + h / ph) * columns + w / pw;
            int64_t inside = (t % pt * ph + h % ph) * pw + w % pw;
            int64_t feature = channel_first ? c * pt * ph * pw + inside : inside * n[1] + c;
            double *token_value = tokens + (b * S + token) * features + feature;
            if (back)
              v[at] = *token_value;
            else
              *token_value = v[at];
          }
}

void truth_patchify(const op_case *k, double *const *t) { /* y, x; i: patch */
  walk_patches(&k->t[1], k->i, true, t[1], t[0], false);
}

void truth_unpatchify(const op_case *k, double *const *t) { /* x, y; i: patch */
  walk_patches(&k->t[0], k->i, false, t[0], t[1], true);
}

/* x [B,T,H,W,C] at an index, zero outside. */
static double at(const op_tensor *x, const double *values, int64_t b, int64_t t, int64_t h, int64_t w,
                 int64_t c) {
  const int64_t *n = x->shape;
  if (t < 0 || t >= n[1] || h < 0 || h >= n[2] || w < 0 || w >= n[3])
    return 0;
  return values[(((b * n[1] + t) * n[2] + h) * n[3] + w) * n[4] + c];
}

/* For every output of y = t[0] [B,T,H,W,C], in order: its place b, f, h, w, o and its index i. */
#define EACH_OUTPUT                                                                                          \
  int64_t i = 0;                                                                                             \
  for (int64_t b = 0; b < N(0, 0); b++)                                                                      \
    for (int64_t f = 0; f < N(0, 1); f++)                                                                    \
      for (int64_t h = 0; h < N(0, 2); h++)                                                                  \
        for (int64_t w = 0; w < N(0, 3); w++)                                                                \
          for (int64_t o = 0; o < N(0, 4); o++, i++)

void truth_conv3d_causal(const op_case *k, double *const *t) { /* y, x, norm, w, b, residual */
  int64_t Ci = N(3, 1), kt = N(3, 2), kh = N(3, 3), kw = N(3, 4), count = op_tensor_count(&k->t[1]);
  double *a = malloc((size_t)count * sizeof *a);
  memcpy(a, t[1], (size_t)count * sizeof *a);
  for (int64_t p = 0; HAS(2) && p < count; p += Ci)
    channel_norm(a + p, t[1] + p, t[2], Ci, EBB_SILU);
  EACH_OUTPUT {
    double sum = (HAS(4) ? t[4][o] : 0) + (HAS(5) ? t[5][i] : 0);
    for (int64_t c = 0; c < Ci; c++)
      for (int64_t dt = 0; dt < kt; dt++)
        for (int64_t dh = 0; dh < kh; dh++)
          for (int64_t dw = 0; dw < kw; dw++)
            sum += t[3][(((o * Ci + c) * kt + dt) * kh + dh) * kw + dw] *
                   at(&k->t[1], a, b, f + dt - (kt - 1), h + dh - kh / 2, w + dw - kw / 2, c);
    t[0][i] = sum;
  }
  free(a);
}

void truth_downsample_space(const op_case *k, double *const *t) { /* y, x, w, b */
  int64_t Ci = N(2, 1);
  EACH_OUTPUT {
    double sum = HAS(3) ? t[3][o] : 0;
    for (int64_t c = 0; c < Ci; c++)
      for (int64_t tap = 0; tap < 9; tap++)
        sum += t[2][(o * Ci + c) * 9 + tap] * at(&k->t[1], t[1], b, f, 2 * h + tap / 3, 2 * w + tap % 3, c);
    t[0][i] = sum;
  }
}

void truth_downsample_time(const op_case *k, double *const *t) { /* y, x, w, b */
  int64_t C = N(1, 4);
  EACH_OUTPUT {
    double sum = HAS(3) ? t[3][o] : 0;
    for (int64_t c = 0; c < C; c++)
      for (int64_t tap = 0; tap < 3; tap++)
        sum += t[2][(o * C + c) * 3 + tap] * at(&k->t[1], t[1], b, 2 * (f - 1) + tap, h, w, c);
    t[0][i] = f == 0 ? at(&k->t[1], t[1], b, 0, h, w, o) : sum;
  }
}

void truth_upsample_space(const op_case *k, double *const *t) { /* y, x */
  EACH_OUTPUT t[0][i] = at(&k->t[1], t[1], b, f, h / 2, w / 2, o);
}

void truth_upsample_time(const op_case *k, double *const *t) { /* y, x, w, b */
  int64_t C = N(1, 4);
  EACH_OUTPUT {
    int64_t from = (f + 1) / 2, output = o + (f % 2 == 0 ? C : 0);
    double sum = HAS(3) ? t[3][output] : 0;
    for (int64_t c = 0; c < C; c++)
      for (int64_t tap = 0; tap < 3; tap++)
        if (from - 2 + tap >= 1)
          sum += t[2][(output * C + c) * 3 + tap] * at(&k->t[1], t[1], b, from - 2 + tap, h, w, c);
    t[0][i] = f == 0 ? at(&k->t[1], t[1], b, 0, h, w, o) : sum;
  }
}

/* means [B,T,D] of x [B,S,D] */
static void frame_means(const op_tensor *x, const double *values, int64_t T, double *means) {
  int64_t S = x->shape[1], D = x->shape[2];
  memset(means, 0, (size_t)(x->shape[0] * T * D) * sizeof *means);
  for (int64_t i = 0; i < x->shape[0] * S * D; i++)
    means[(i / (S * D) * T + i / D % S / (S / T)) * D + i % D] += values[i] / (double)(S / T);
}

void truth_pool_mean(const op_case *k, double *const *t) { /* y, x */
  frame_means(&k->t[1], t[1], 1, t[0]);
}

void truth_pool_frames(const op_case *k, double *const *t) { /* y, x */
  frame_means(&k->t[1], t[1], N(0, 1), t[0]);
}

void truth_pool_moments(const op_case *k, double *const *t) { /* y, x; i: frames */
  int64_t B = N(0, 0), T = k->i[0], D = N(0, 2);
  double *means = malloc((size_t)(B * T * D) * sizeof *means);
  frame_means(&k->t[1], t[1], T, means);
  for (int64_t b = 0; b < B; b++)
    for (int64_t d = 0; d < D; d++) {
      double mean = 0;
      for (int64_t f = 0; f < T; f++)
        mean += means[(b * T + f) * D + d] / (double)T;
      for (int power = 2; power <= 3; power++) {
        double moment = 0;
        for (int64_t f = 0; f < T; f++)
          moment += pow(means[(b * T + f) * D + d] - mean, power) / (double)T;
        t[0][(b * 2 + power - 2) * D + d] = moment;
      }
    }
  free(means);
}

void truth_pool_motion(const op_case *k, double *const *t) { /* y, x; i: frames */
  int64_t B = N(1, 0), T = k->i[0], tokens = N(1, 1) / T, D = N(1, 2);
  for (int64_t b = 0; b < B; b++)
    for (int64_t d = 0; d < D; d++) {
      double sums[2] = {0, 0};
      for (int64_t f = 0; f < T; f++)
        for (int64_t s = 0; s < tokens; s++) {
          const double *x = t[1] + ((b * T + f) * tokens + s) * D + d;
          if (f >= 1)
            sums[0] += fabs(x[0] - x[-tokens * D]) / (double)((T - 1) * tokens);
          if (f >= 2)
            sums[1] += fabs(x[0] - 2 * x[-tokens * D] + x[-2 * tokens * D]) / (double)((T - 2) * tokens);
        }
      t[0][b * 2 * D + d] = sums[0];
      t[0][(b * 2 + 1) * D + d] = sums[1];
    }
}

void truth_gram(const op_case *k, double *const *t) { /* g, x */
  int64_t B = N(1, 0), n = N(1, 1), d = N(1, 2);
  for (int64_t e = 0; e < B * n * n; e++) {
    const double *x = t[1] + e / (n * n) * n * d, *a = x + e / n % n * d, *b = x + e % n * d;
    t[0][e] = 0;
    for (int64_t m = 0; m < d; m++)
      t[0][e] += a[m] * b[m];
  }
}

void truth_matmul(const op_case *k, double *const *t) { /* y, a, b; i: transpose_a, transpose_b */
  int64_t B = N(0, 0), m = N(0, 1), n = N(0, 2), inner = k->i[1] ? N(2, 2) : N(2, 1);
  for (int64_t e = 0; e < B * m * n; e++) {
    int64_t b = e / (m * n), i = e / n % m, j = e % n;
    const double *left = t[1] + b * m * inner, *right = t[2] + b * inner * n;
    t[0][e] = 0;
    for (int64_t l = 0; l < inner; l++)
      t[0][e] += (k->i[0] ? left[l * m + i] : left[i * inner + l]) *
                 (k->i[1] ? right[j * inner + l] : right[l * n + j]);
  }
}

void truth_add_diagonal(const op_case *k, double *const *t) { /* y, a, shift */
  int64_t n = N(0, 1);
  for (int64_t e = 0; e < N(0, 0) * n * n; e++)
    t[0][e] = t[1][e] + (e / n % n == e % n ? t[2][e / (n * n)] : 0);
}

/* One matrix after another by Gauss and Jordan's elimination beside the unit matrix. */
void truth_spd_inverse(const op_case *k, double *const *t) { /* a */
  int64_t n = N(0, 1);
  double *unit = calloc((size_t)(n * n), sizeof *unit);
  for (int64_t b = 0; b < N(0, 0); b++) {
    double *a = t[0] + b * n * n;
    for (int64_t e = 0; e < n * n; e++)
      unit[e] = e / n == e % n;
    for (int64_t p = 0; p < n; p++)
      for (int64_t i = 0; i < n; i++) {
        double factor = i == p ? 0 : a[i * n + p] / a[p * n + p];
        for (int64_t j = 0; j < n && factor != 0; j++) {
          a[i * n + j] -= factor * a[p * n + j];
          unit[i * n + j] -= factor * unit[p * n + j];
        }
      }
    for (int64_t e = 0; e < n * n; e++)
      unit[e] /= a[e / n * n + e / n];
    memcpy(a, unit, (size_t)(n * n) * sizeof *a);
  }
  free(unit);
}
