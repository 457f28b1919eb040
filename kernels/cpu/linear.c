#include <cblas.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define TILE_ROWS 128
#define TILE_COLUMNS 512
#define PADDED_ROWS 16

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

/* Every row is a sample of its own (embeddings [B, n_in]): products of always PADDED_ROWS rows, the last one
 * filled up with zeros, so that a row is computed the same way wherever it stands. */
static void linear_of_rows(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, const float *b,
                           ebb_activation act) {
  int64_t n_in = ebb_last(x), n_out = ebb_last(y), rows = ebb_rows(x);
  cpu_cut bands = {rows, PADDED_ROWS, (rows + PADDED_ROWS - 1) / PADDED_ROWS};
  cpu_cut stripes = cpu_cut_of(n_out, TILE_COLUMNS, 16);
  cpu_memory memory;
  size_t x_bytes = PADDED_ROWS * (size_t)n_in * sizeof(float);
  if (!cpu_scratch(c, 0, x_bytes + PADDED_ROWS * (size_t)stripes.size * sizeof(float), &memory))
    return;
  CPU_PARALLEL(c, 2.0 * (double)(rows * n_in) * (double)n_out)
  for (int64_t tile = 0; tile < bands.pieces * stripes.pieces; tile++) {
    int64_t band = tile / stripes.pieces, stripe = tile % stripes.pieces, first = cpu_first(stripes, stripe);
    int64_t count = cpu_size(bands, band), columns = cpu_size(stripes, stripe);
    float *padded_x = cpu_own(memory), *padded_y = padded_x + PADDED_ROWS * n_in;
    memset(padded_x, 0, x_bytes);
    memcpy(padded_x, cpu_f32(x) + band * PADDED_ROWS * n_in, (size_t)(count * n_in) * sizeof(float));
    product(padded_y, columns, padded_x, cpu_f32(w) + first * n_in, b ? b + first : NULL, PADDED_ROWS,
            columns, n_in, act);
    for (int64_t r = 0; r < count; r++)
      memcpy(cpu_f32(y) + (band * PADDED_ROWS + r) * n_out + first, padded_y + r * columns,
             (size_t)columns * sizeof(float));
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
