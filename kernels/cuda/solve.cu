/* Rows made ready for linear probes, and ridge regression. A thread or a warp for each column or label
 * set, in an order of summation that only the number of rows fixes. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, GRID_MAX = 32768 /* of the second and third dimension */ };

/* ---- kernels: standardised rows ---------------------------------------------------------------------- */

/* 32 columns and 8 strands of rows a block, added in order. */
static __global__ void column_scale_kernel(double *mean, double *inverse, const float *x, const int64_t *rows,
                                           int n, int64_t d) {
  __shared__ double strand[8][32];
  int64_t b = blockIdx.y, j = (int64_t)blockIdx.x * 32 + threadIdx.x;
  bool inside = j < d;
  rows += b * n;
  __shared__ double counts[8];
  double total = 0, square = 0, m = 0;
  int64_t count = 0;
  for (int i = threadIdx.y; i < n; i += 8)
    if (rows[i] >= 0) {
      total += inside ? (double)x[rows[i] * d + j] : 0;
      count++;
    }
  strand[threadIdx.y][threadIdx.x] = total;
  if (threadIdx.x == 0)
    counts[threadIdx.y] = (double)count;
  __syncthreads();
  double all = 0;
  for (int s = 0; s < 8; s++) {
    m += strand[s][threadIdx.x];
    all += counts[s];
  }
  m /= all;
  __syncthreads();
  for (int i = threadIdx.y; i < n; i += 8)
    if (rows[i] >= 0 && inside) {
      double off = x[rows[i] * d + j] - m;
      square += off * off;
    }
  strand[threadIdx.y][threadIdx.x] = square;
  __syncthreads();
  if (threadIdx.y != 0 || !inside)
    return;
  square = 0;
  for (int s = 0; s < 8; s++)
    square += strand[s][threadIdx.x];
  double deviation = sqrt(square / all);
  mean[b * d + j] = m;
  inverse[b * d + j] = deviation > 1e-6 * fabs(m) && deviation > 1e-30 ? 1 / deviation : 0;
}

template <typename Z>
static __global__ void standardise_kernel(Z *z, const float *x, const int64_t *rows, const double *mean,
                                          const double *inverse, int n, int64_t d) {
  int64_t b = blockIdx.z;
  for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
    int64_t row = rows[b * n + i];
    Z *to = z + (b * n + i) * d;
    for (int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; j < d;
         j += (int64_t)gridDim.x * blockDim.x)
      to[j] = row < 0 ? (Z)0
              : mean  ? (Z)((x[row * d + j] - mean[b * d + j]) * inverse[b * d + j])
                      : (Z)x[row * d + j];
  }
}

/* ---- kernels: ridge regression ----------------------------------------------------------------------- */

/* Rows of a design that are no padding. In every thread; shared room of THREADS. */
static __device__ double rows_of(const int64_t *rows, int n) {
  __shared__ int strand[THREADS];
  int count = 0;
  for (int i = threadIdx.x; i < n; i += THREADS)
    count += rows[i] >= 0;
  strand[threadIdx.x] = count;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if ((int)threadIdx.x < half)
      strand[threadIdx.x] += strand[threadIdx.x + half];
    __syncthreads();
  }
  return strand[0];
}

static __global__ void fold_blocks_kernel(double *s, const double *p, const int64_t *rows,
                                          const double *lambda, int n, int folds, int k) {
  int64_t b = blockIdx.z, f = blockIdx.y;
  rows += b * n;
  double less = 1 / (lambda[b] * rows_of(rows, n));
  s += (b * folds + f) * k * k;
  p += b * n * n;
  for (int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x; e < (int64_t)k * k;
       e += (int64_t)gridDim.x * THREADS) {
    int64_t i = f * k + e / k, j = f * k + e % k;
    s[e] = p[i * n + j] - (rows[i] >= 0 && rows[j] >= 0 ? less : 0);
  }
}

static __global__ void centred_labels_kernel(double *y, double *mean, const float *labels,
                                             const int64_t *rows, int n, int64_t sets, int64_t all) {
  int64_t b = blockIdx.y, k = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  rows += b * n;
  double count = rows_of(rows, n), m = 0;
  if (k >= sets)
    return;
  for (int i = 0; i < n; i++)
    m += rows[i] >= 0 ? labels[k * all + rows[i] % all] / count : 0;
  mean[b * sets + k] = m;
  for (int i = 0; i < n; i++)
    y[(b * n + i) * sets + k] = rows[i] >= 0 ? labels[k * all + rows[i] % all] - m : 0;
}

/* A thread for each label set goes down its rows. */
static __global__ void keep_best_kernel(double *score, double *best, double *chosen, double *kept,
                                        const double *e, const double *y, const double *a,
                                        const int64_t *rows, int n, int64_t sets, double number,
                                        bool explained) {
  int64_t b = blockIdx.y, k = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  double count = rows_of(rows + b * n, n), f = 0, ff = 0, fy = 0, yy = 0, ee = 0;
  if (k >= sets)
    return;
  int64_t at = b * n * sets + k;
  for (int64_t i = 0; i < n; i++) {
    double yi = y[at + i * sets], ei = e[at + i * sets], v = yi - ei;
    ee += ei * ei;
    f += v;
    ff += v * v;
    fy += v * yi;
    yy += yi * yi;
  }
  double variance = (ff - f * f / count) * yy, reached = variance > 0 ? fy / sqrt(variance) : 0;
  if (explained)
    reached = yy > 0 ? fmax(-1.0, 1 - ee / yy) : 0;
  if (!isfinite(ff))
    reached = nan("");
  int64_t to = b * sets + k;
  score[to] = reached;
  if (!(reached > best[to]))
    return;
  best[to] = reached;
  chosen[to] = number;
  for (int64_t i = 0; i < n; i++)
    kept[at + i * sets] = a[at + i * sets];
}

static __global__ void count_hits_kernel(double *hits, double *f, const double *shift, const float *labels,
                                         const int64_t *rows, int n, int64_t sets, int64_t all) {
  int64_t b = blockIdx.y, k = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (k >= sets)
    return;
  double right = 0;
  for (int64_t i = 0; i < n; i++) {
    int64_t row = rows[b * n + i], at = (b * n + i) * sets + k;
    f[at] += shift[b * sets + k];
    if (row >= 0) {
      double v = f[at] * labels[k * all + row % all];
      right += v > 0 ? 2 : v == 0;
    }
  }
  hits[b * sets + k] = right;
}

/* ---- launchers --------------------------------------------------------------------------------------- */

#define FOR_BATCHES(total, first, count)                                                                     \
  for (int64_t first = 0, count = 0; (count = (total)-first < GRID_MAX ? (total)-first : GRID_MAX) > 0;      \
       first += count)

void cuda_column_scale(ebb_context *c, ebb_tensor mean, ebb_tensor inverse, ebb_tensor x, ebb_tensor rows) {
  int64_t n = rows.shape[1], d = x.shape[1];
  FOR_BATCHES(rows.shape[0], first, count)
  column_scale_kernel<<<dim3((unsigned)cuda_ceil(d, 32), (unsigned)count), dim3(32, 8), 0, cuda_stream(c)>>>(
      cuda_at<double>(mean) + first * d, cuda_at<double>(inverse) + first * d, cuda_f32(x),
      cuda_at<const int64_t>(rows) + first * n, (int)n, d);
  cuda_launched(c, "column_scale");
}

void cuda_standardise(ebb_context *c, ebb_tensor z, ebb_tensor x, ebb_tensor rows, ebb_tensor mean,
                      ebb_tensor inverse) {
  int64_t n = rows.shape[1], d = x.shape[1];
  bool scaled = ebb_present(mean);
  unsigned across = (unsigned)cuda_ceil(d, THREADS), down = (unsigned)(n < 1024 ? n : 1024);
  FOR_BATCHES(rows.shape[0], first, count) {
    dim3 grid(across < 16 ? across : 16, down, (unsigned)count);
    const double *m = scaled ? cuda_at<const double>(mean) + first * d : NULL,
                 *s = scaled ? cuda_at<const double>(inverse) + first * d : NULL;
    const int64_t *r = cuda_at<const int64_t>(rows) + first * n;
    if (z.dtype == EBB_F64)
      standardise_kernel<<<grid, THREADS, 0, cuda_stream(c)>>>(cuda_at<double>(z) + first * n * d,
                                                               cuda_f32(x), r, m, s, (int)n, d);
    else
      standardise_kernel<<<grid, THREADS, 0, cuda_stream(c)>>>(cuda_f32(z) + first * n * d, cuda_f32(x), r, m,
                                                               s, (int)n, d);
  }
  cuda_launched(c, "standardise");
}

void cuda_fold_blocks(ebb_context *c, ebb_tensor s, ebb_tensor p, ebb_tensor rows, ebb_tensor lambda) {
  int64_t n = p.shape[1], folds = s.shape[1], k = s.shape[2];
  unsigned across = (unsigned)cuda_ceil(k * k, THREADS * 8);
  FOR_BATCHES(p.shape[0], first, count)
  fold_blocks_kernel<<<dim3(across, (unsigned)folds, (unsigned)count), THREADS, 0, cuda_stream(c)>>>(
      cuda_at<double>(s) + first * folds * k * k, cuda_at<const double>(p) + first * n * n,
      cuda_at<const int64_t>(rows) + first * n, cuda_at<const double>(lambda) + first, (int)n, (int)folds,
      (int)k);
  cuda_launched(c, "fold_blocks");
}

void cuda_centred_labels(ebb_context *c, ebb_tensor y, ebb_tensor mean, ebb_tensor labels, ebb_tensor rows) {
  int64_t n = rows.shape[1], sets = labels.shape[0];
  FOR_BATCHES(rows.shape[0], first, count)
  centred_labels_kernel<<<dim3((unsigned)cuda_ceil(sets, THREADS), (unsigned)count), THREADS, 0,
                          cuda_stream(c)>>>(
      cuda_at<double>(y) + first * n * sets, cuda_at<double>(mean) + first * sets, cuda_f32(labels),
      cuda_at<const int64_t>(rows) + first * n, (int)n, sets, labels.shape[1]);
  cuda_launched(c, "centred_labels");
}

void cuda_keep_best(ebb_context *c, ebb_tensor score, ebb_tensor best, ebb_tensor chosen, ebb_tensor kept,
                    ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number,
                    bool explained) {
  int64_t n = rows.shape[1], sets = y.shape[2];
  FOR_BATCHES(rows.shape[0], first, count) {
    int64_t at = first * sets, all = first * n * sets;
    keep_best_kernel<<<dim3((unsigned)cuda_ceil(sets, THREADS), (unsigned)count), THREADS, 0,
                       cuda_stream(c)>>>(
        cuda_at<double>(score) + at, cuda_at<double>(best) + at, cuda_at<double>(chosen) + at,
        cuda_at<double>(kept) + all, cuda_at<const double>(e) + all, cuda_at<const double>(y) + all,
        cuda_at<const double>(a) + all, cuda_at<const int64_t>(rows) + first * n, (int)n, sets, number,
        explained);
  }
  cuda_launched(c, "keep_best");
}

void cuda_count_hits(ebb_context *c, ebb_tensor hits, ebb_tensor f, ebb_tensor shift, ebb_tensor labels,
                     ebb_tensor rows) {
  int64_t n = rows.shape[1], sets = labels.shape[0];
  FOR_BATCHES(rows.shape[0], first, count)
  count_hits_kernel<<<dim3((unsigned)cuda_ceil(sets, THREADS), (unsigned)count), THREADS, 0,
                      cuda_stream(c)>>>(
      cuda_at<double>(hits) + first * sets, cuda_at<double>(f) + first * n * sets,
      cuda_at<const double>(shift) + first * sets, cuda_f32(labels), cuda_at<const int64_t>(rows) + first * n,
      (int)n, sets, labels.shape[1]);
  cuda_launched(c, "count_hits");
}
