#include <cblas.h>

#include "kernels/cpu/cpu.h"

#define TILE_ROWS 128
#define TILE_COLUMNS 512
#define ROW_COLUMNS 64
#define LANES 16

/* y [rows, columns] of row pitch ldy = act(x [rows, n_in] w' + b), w [columns, n_in], b [columns] or NULL. */
static void product(float *y, int64_t ldy, const float *x, const float *w, const float *b, int64_t rows,
                    int64_t columns, int64_t n_in, ebb_activation act) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)columns, (int)n_in, 1.0f, x, (int)n_in,
              w, (int)n_in, 0.0f, y, (int)ldy);
  for (int64_t r = 0; r < rows; r++) {
    float *row = y + r * ldy;
    if (b)
      for (int64_t i = 0; i < columns; i++)
        row[i] += b[i];
    cpu_activate_row(row, columns, act);
  }
}

static float dot(const float *x, const float *w, int64_t n) {
  float lane[LANES] = {0}, total = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++)
      lane[l] += x[i + l] * w[i + l];
  for (; i < n; i++)
    total += x[i] * w[i];
  for (int l = 0; l < LANES; l++)
    total += lane[l];
  return total;
}

/* Every row is a sample of its own (embeddings [B, n_in]): sums of our own, because BLAS may compute a row of
 * a product differently where it stands first and where it stands last. Each row of w is read once for all of
 * x. */
static void linear_of_rows(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, const float *b,
                           ebb_activation act) {
  int64_t n_in = ebb_last(x), n_out = ebb_last(y), rows = ebb_rows(x);
  cpu_cut stripes = cpu_cut_of(n_out, ROW_COLUMNS, 16);
  CPU_PARALLEL(c, 2.0 * (double)(rows * n_in) * (double)n_out)
  for (int64_t stripe = 0; stripe < stripes.pieces; stripe++) {
    int64_t first = cpu_first(stripes, stripe), count = cpu_size(stripes, stripe);
    for (int64_t n = first; n < first + count; n++)
      for (int64_t r = 0; r < rows; r++)
        cpu_f32(y)[r * n_out + n] =
            dot(cpu_f32(x) + r * n_in, cpu_f32(w) + n * n_in, n_in) + (b ? b[n] : 0.0f);
    for (int64_t r = 0; r < rows; r++)
      cpu_activate_row(cpu_f32(y) + r * n_out + first, count, act);
  }
}

void cpu_linear(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act) {
  const float *bias = ebb_present(b) ? cpu_f32(b) : NULL;
  if (x.rank <= 2) {
    linear_of_rows(c, y, x, w, bias, act);
    return;
  }
  int64_t n_in = ebb_last(x), n_out = ebb_last(y), samples = x.shape[0], rows = ebb_rows(x) / samples;
  cpu_cut bands = cpu_cut_of(rows, TILE_ROWS, 8), stripes = cpu_cut_of(n_out, TILE_COLUMNS, 16);
  int64_t tiles_of_sample = bands.pieces * stripes.pieces;
  CPU_PARALLEL(c, 2.0 * (double)ebb_count(x) * (double)n_out)
  for (int64_t tile = 0; tile < samples * tiles_of_sample; tile++) {
    int64_t sample = tile / tiles_of_sample, stripe = tile % tiles_of_sample / bands.pieces,
            band = tile % bands.pieces;
    int64_t row = sample * rows + cpu_first(bands, band), column = cpu_first(stripes, stripe);
    product(cpu_f32(y) + row * n_out + column, n_out, cpu_f32(x) + row * n_in, cpu_f32(w) + column * n_in,
            bias ? bias + column : NULL, cpu_size(bands, band), cpu_size(stripes, stripe), n_in, act);
  }
}
