/* Linear probes, many at once: one block of threads takes a design with up to four label sets from beginning
 * to end, so that no decision goes through the host and a design that is done makes room for the next. What
 * it costs is reading the design's Gram matrix and inverse again and again. Sums run in an order that only n
 * fixes. */
#include "kernels/cuda/cuda.h"

enum {
  NEWTON_THREADS = 256,
  WARPS = NEWTON_THREADS / 32,
  TOGETHER = 4, /* label sets of one block, and rows that a warp multiplies at once */
  VECTORS = 10, /* of scratch: see newton_kernel */
  STEPS_CG = 200,
  HALVINGS = 40,
  THREADS = 256,
  GRID_MAX = 32768 /* of the second and third dimension */
};

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

/* ---- kernels: logistic regression -------------------------------------------------------------------- */

/* Sums of V numbers over the block, in every thread. room [WARPS * V]. */
template <int V> static __device__ void block_sum(double (&v)[V], double *room) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < V; i++)
    for (int offset = 16; offset > 0; offset >>= 1)
      v[i] += __shfl_xor_sync(0xffffffffu, v[i], offset);
  __syncthreads(); /* whoever still reads the room */
  if (lane == 0)
#pragma unroll
    for (int i = 0; i < V; i++)
      room[warp * V + i] = v[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < V; i++) {
    v[i] = room[i];
    for (int w = 1; w < WARPS; w++)
      v[i] += room[w * V + i];
  }
}

/* out[k*n + i] = sum_j a[i,j] x[k*side + j], k < K: a warp takes four rows at a time. n even; x shared. */
template <int K>
static __device__ __noinline__ void multiply(double *out, const double *__restrict__ a, const double *x,
                                             int n, int side) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncthreads();
  for (int first = warp * TOGETHER; first < n; first += WARPS * TOGETHER) {
    double sum[TOGETHER * K] = {0};
    const double *row[TOGETHER];
#pragma unroll
    for (int r = 0; r < TOGETHER; r++)
      row[r] = a + (int64_t)(first + r < n ? first + r : n - 1) * n;
#pragma unroll 4
    for (int j = 2 * lane; j < n; j += 64) {
      double2 m[TOGETHER];
#pragma unroll
      for (int r = 0; r < TOGETHER; r++)
        m[r] = __ldcs((const double2 *)(row[r] + j));
#pragma unroll
      for (int k = 0; k < K; k++) {
        double2 v = *(const double2 *)(x + k * side + j);
#pragma unroll
        for (int r = 0; r < TOGETHER; r++)
          sum[r * K + k] += m[r].x * v.x + m[r].y * v.y;
      }
    }
    /* Half of the numbers go to the other half of the warp, until each lane has one. */
    int offset = 16, mine = 0;
#pragma unroll
    for (int half = TOGETHER * K / 2; half >= 1; half /= 2, offset /= 2) {
      bool upper = lane & offset;
      mine += upper ? half : 0;
#pragma unroll
      for (int i = 0; i < half; i++) {
        double send = upper ? sum[i] : sum[i + half], keep = upper ? sum[i + half] : sum[i];
        sum[i] = keep + __shfl_xor_sync(0xffffffffu, send, offset);
      }
    }
    for (; offset > 0; offset /= 2)
      sum[0] += __shfl_xor_sync(0xffffffffu, sum[0], offset);
    int r = first + mine / K;
    if (lane % (32 / (TOGETHER * K)) == 0 && r < n)
      out[(mine % K) * n + r] = sum[0];
  }
  __syncthreads();
}

typedef struct newton_args {
  double *a, *b, *reached, *sweeps;
  const double *g, *inverse, *y, *lambda, *mu, *least;
  double *scratch; /* [B, groups, VECTORS, K, n] */
  int n, sets, side;
  ebb_newton newton;
} newton_args;

static __device__ __forceinline__ double log_loss(double a) {
  return a > 0 ? log1p(exp(-a)) : -a + log1p(exp(a));
}

/* Newton in w and b, where a vector of w's space is z' times the one kept here: its products with others need
 * g. Each thread keeps to its own rows i = thread, thread + NEWTON_THREADS, ... between products. Vectors
 * [K,n]: q = g a, residual rg = y sigma(-y f) - lambda a (z' rg is the descent), curvature h, t what a product
 * leaves; of the conjugate gradients for the step: residual r, z = (g + mu)^-1 r, direction p with gp = g p,
 * step delta with gd = g delta. As g z = r - mu z, the inverse is the only matrix that is read there.
 * r is kept to sum 0: g (1,..,1)' = 0, so that nothing would hold that part of it. */
template <int K> static __global__ __launch_bounds__(NEWTON_THREADS, 2) void newton_kernel(newton_args args) {
  extern __shared__ double shared[];
  int n = args.n, side = args.side, t0 = threadIdx.x, sets = args.sets;
  int64_t b = blockIdx.x, first = (int64_t)blockIdx.y * K;
  double *x = shared, *room = shared + K * side;
  double *vectors = args.scratch + (b * gridDim.y + blockIdx.y) * VECTORS * K * n;
  double *q = vectors, *rg = q + K * n, *h = rg + K * n, *tt = h + K * n, *r = tt + K * n, *z = r + K * n,
         *p = z + K * n, *gp = p + K * n, *delta = gp + K * n, *gd = delta + K * n;
  const double *g = args.g + b * n * (int64_t)n, *inverse = args.inverse + b * n * (int64_t)n;
  double lambda = args.lambda[b], mu = args.mu[b];
  const double *y[K];
  double *a[K], bias[K], scale[K], value[K], reached[K], moved[K];
  bool done[K];
  int products = 0;
#pragma unroll
  for (int k = 0; k < K; k++) {
    int64_t set = first + k < sets ? first + k : sets - 1; /* one too many reads the last and is done */
    y[k] = args.y + (b * sets + set) * n;
    a[k] = args.a + (b * sets + set) * n;
    bias[k] = args.b[b * sets + set];
    moved[k] = 0;
    done[k] = false;
  }
  for (int i = t0; i < K * side; i += NEWTON_THREADS)
    x[i] = 0;
  __syncthreads();

  /* The gradient at zero, and q. */
  double count[1] = {0};
  for (int i = t0; i < n; i += NEWTON_THREADS) {
    count[0] += y[0][i] != 0;
#pragma unroll
    for (int k = 0; k < K; k++)
      x[k * side + i] = 0.5 * y[k][i];
  }
  block_sum(count, room);
  multiply<K>(tt, g, x, n, side);
  double at_zero[2 * K] = {0};
  for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++) {
      at_zero[k] += x[k * side + i] * tt[k * n + i];
      at_zero[K + k] += x[k * side + i];
    }
  block_sum(at_zero, room);
#pragma unroll
  for (int k = 0; k < K; k++)
    scale[k] = fmax(sqrt(fmax(0.0, at_zero[k]) + at_zero[K + k] * at_zero[K + k]), args.least[b]);
  for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++)
      x[k * side + i] = a[k][i];
  multiply<K>(q, g, x, n, side);
  products = 2;
  bool fresh = true;

  for (int step = 0;; step++) {
    /* Margins, residual, objective; the gradient. */
    double at[4 * K] = {0};
    for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
      for (int k = 0; k < K; k++) {
        double yi = y[k][i], ai = a[k][i], m = yi * (q[k * n + i] + bias[k]), wrong = 1 / (1 + exp(m));
        double pull = yi * wrong, residual = yi != 0 ? pull - lambda * ai : 0;
        rg[k * n + i] = residual;
        h[k * n + i] = yi != 0 ? wrong * (1 - wrong) : 0;
        x[k * side + i] = residual;
        at[k] += yi != 0 ? log_loss(m) + 0.5 * lambda * ai * q[k * n + i] : 0;
        at[K + k] += pull;
        at[3 * K + k] += residual;
      }
    multiply<K>(tt, g, x, n, side);
    products++;
    for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
      for (int k = 0; k < K; k++)
        at[2 * K + k] += rg[k * n + i] * tt[k * n + i];
    block_sum(at, room);
    bool all = true;
#pragma unroll
    for (int k = 0; k < K; k++) {
      value[k] = at[k];
      reached[k] = sqrt(fmax(0.0, at[2 * K + k]) + at[K + k] * at[K + k]) / scale[k];
      done[k] = (reached[k] <= args.newton.tolerance && moved[k] <= 1e-4) || first + k >= sets;
      all = all && done[k];
    }
    bool last = step >= args.newton.steps;
    if ((all || last) && fresh)
      break;
    if (all || last) { /* q anew from a: what the steps have added up is checked before it is believed */
      for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
        for (int k = 0; k < K; k++)
          x[k * side + i] = a[k][i];
      multiply<K>(q, g, x, n, side);
      products++;
      fresh = true;
      continue;
    }

    /* Conjugate gradients. */
    double rz[K], enough[K], rb[K], pb[K], db[K];
    bool active[K];
#pragma unroll
    for (int k = 0; k < K; k++) {
      double forcing = fmin(0.1, fmax(sqrt(reached[k]), 1e-4));
      enough[k] = forcing * forcing;
      rb[k] = at[K + k];
      rz[k] = pb[k] = db[k] = 0;
      active[k] = !done[k];
    }
    for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
      for (int k = 0; k < K; k++) {
        int e = k * n + i;
        r[e] = x[k * side + i] = done[k] || y[k][i] == 0 ? 0 : rg[e] - at[3 * K + k] / count[0];
        p[e] = gp[e] = delta[e] = gd[e] = 0;
      }
    for (int cg = 0; cg < STEPS_CG; cg++) {
      multiply<K>(z, inverse, x, n, side);
      products++;
      double next[K] = {0};
      for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
        for (int k = 0; k < K; k++)
          next[k] += r[k * n + i] * (r[k * n + i] - mu * z[k * n + i]);
      block_sum(next, room);
      double beta[K];
      bool any = false;
#pragma unroll
      for (int k = 0; k < K; k++) {
        next[k] += rb[k] * rb[k] / count[0];
        enough[k] *= cg == 0 ? next[k] : 1;
        active[k] = active[k] && (cg == 0 ? next[k] > 0 : next[k] > enough[k]);
        beta[k] = cg > 0 && active[k] ? next[k] / rz[k] : 0;
        rz[k] = next[k];
        pb[k] = rb[k] / count[0] + beta[k] * pb[k];
        any = any || active[k];
      }
      if (!any)
        break;
      double php[3 * K] = {0};
      for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
        for (int k = 0; k < K; k++) {
          int e = k * n + i;
          double pi = z[e] + beta[k] * p[e], gpi = r[e] - mu * z[e] + beta[k] * gp[e];
          double bent = h[e] * (gpi + pb[k]);
          p[e] = pi;
          gp[e] = gpi;
          php[k] += lambda * pi * gpi + bent * (gpi + pb[k]);
          php[K + k] += bent;
          php[2 * K + k] += lambda * pi + bent;
        }
      block_sum(php, room);
      double length[K];
#pragma unroll
      for (int k = 0; k < K; k++) {
        active[k] = active[k] && php[k] > 0;
        length[k] = active[k] ? rz[k] / php[k] : 0;
        db[k] += length[k] * pb[k];
        rb[k] -= length[k] * php[K + k];
      }
      for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
        for (int k = 0; k < K; k++) {
          int e = k * n + i;
          double pi = p[e], gpi = gp[e],
                 change = lambda * pi + h[e] * (gpi + pb[k]) - php[2 * K + k] / count[0];
          double left = r[e] - (y[k][i] != 0 ? length[k] * change : 0);
          delta[e] += length[k] * pi;
          gd[e] += length[k] * gpi;
          r[e] = x[k * side + i] = left;
        }
    }

    /* Line search: the objective along the step needs no product. */
    double sums[4 * K] = {0};
    for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
      for (int k = 0; k < K; k++) {
        int e = k * n + i;
        double ai = a[k][i];
        sums[k] += rg[e] * gd[e];
        sums[K + k] += ai * q[e];
        sums[2 * K + k] += ai * gd[e];
        sums[3 * K + k] += delta[e] * gd[e];
      }
    block_sum(sums, room);
    double length[K];
    bool accepted[K];
#pragma unroll
    for (int k = 0; k < K; k++) {
      length[k] = 1;
      accepted[k] = done[k];
    }
    for (int halving = 0; halving < HALVINGS; halving++) {
      double trial[K] = {0};
      for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
        for (int k = 0; k < K; k++)
          if (!accepted[k] && y[k][i] != 0)
            trial[k] += log_loss(y[k][i] * (q[k * n + i] + bias[k] + length[k] * (gd[k * n + i] + db[k])));
      block_sum(trial, room);
      bool any = false;
#pragma unroll
      for (int k = 0; k < K; k++) {
        double descent = sums[k] + db[k] * at[K + k];
        double bend = sums[K + k] + length[k] * (2 * sums[2 * K + k] + length[k] * sums[3 * K + k]);
        double next = trial[k] + 0.5 * lambda * bend;
        if (!accepted[k] && next <= value[k] - 1e-4 * length[k] * descent + 1e-13 * fabs(value[k]))
          accepted[k] = true;
        else if (!accepted[k])
          length[k] *= 0.5;
        any = any || !accepted[k];
      }
      if (!any)
        break;
    }
    double far[K] = {0};
    for (int i = t0; i < n; i += NEWTON_THREADS)
#pragma unroll
      for (int k = 0; k < K; k++)
        if (!done[k] && y[k][i] != 0) {
          double move = length[k] * gd[k * n + i];
          a[k][i] += length[k] * delta[k * n + i];
          q[k * n + i] += move;
          far[k] = fmax(far[k], fabs(move + length[k] * db[k]));
        }
#pragma unroll
    for (int k = 0; k < K; k++) {
      for (int offset = 16; offset > 0; offset >>= 1)
        far[k] = fmax(far[k], __shfl_xor_sync(0xffffffffu, far[k], offset));
      bias[k] += done[k] ? 0 : length[k] * db[k];
    }
    __syncthreads();
    if (t0 % 32 == 0)
#pragma unroll
      for (int k = 0; k < K; k++)
        room[t0 / 32 * K + k] = far[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; k++)
      for (int w = 0; w < WARPS; w++)
        moved[k] = w == 0 ? room[k] : fmax(moved[k], room[w * K + k]);
    fresh = false;
  }
  if (t0 == 0)
#pragma unroll
    for (int k = 0; k < K; k++)
      if (first + k < sets) {
        int64_t at = b * sets + first + k;
        args.b[at] = bias[k];
        args.reached[at] = reached[k];
        args.sweeps[at] = products;
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
                                        const int64_t *rows, int n, int64_t sets, double number) {
  int64_t b = blockIdx.y, k = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  double count = rows_of(rows + b * n, n), f = 0, ff = 0, fy = 0, yy = 0;
  if (k >= sets)
    return;
  int64_t at = b * n * sets + k;
  for (int64_t i = 0; i < n; i++) {
    double yi = y[at + i * sets], v = yi - e[at + i * sets];
    f += v;
    ff += v * v;
    fy += v * yi;
    yy += yi * yi;
  }
  double variance = (ff - f * f / count) * yy, correlation = variance > 0 ? fy / sqrt(variance) : 0;
  if (!isfinite(ff))
    correlation = nan("");
  int64_t to = b * sets + k;
  score[to] = correlation;
  if (!(correlation > best[to]))
    return;
  best[to] = correlation;
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

static int together(int64_t sets) {
  return sets >= 3 ? 4 : (int)sets;
}

size_t cuda_logistic_newton_scratch(ebb_context *c, ebb_tensor a) {
  (void)c;
  int64_t sets = a.shape[1], k = together(sets);
  return (size_t)(a.shape[0] * cuda_ceil(sets, k) * k * VECTORS * a.shape[2]) * sizeof(double);
}

template <int K> static void newton(ebb_context *c, newton_args args, int64_t designs) {
  size_t bytes = (size_t)(K * args.side + WARPS * 4 * K) * sizeof(double);
  if (!cuda_shared(c, "logistic_newton", newton_kernel<K>, bytes))
    return;
  newton_kernel<K>
      <<<dim3((unsigned)designs, (unsigned)cuda_ceil(args.sets, K)), NEWTON_THREADS, bytes, cuda_stream(c)>>>(
          args);
  cuda_launched(c, "logistic_newton");
}

void cuda_logistic_newton(ebb_context *c, ebb_tensor a, ebb_tensor b, ebb_tensor reached, ebb_tensor sweeps,
                          ebb_tensor g, ebb_tensor inverse, ebb_tensor y, ebb_tensor lambda, ebb_tensor mu,
                          ebb_tensor least, ebb_newton how, void *scratch) {
  int64_t n = a.shape[2], sets = a.shape[1];
  int k = together(sets), side = (int)cuda_ceil(n, 64) * 64;
  if (n % 2 != 0 || (k * side + WARPS * 4 * k) * sizeof(double) > 200 * 1024) {
    ebb_context_fail(
        c, "logistic_newton: %lld rows of %lld label sets; expected an even number of rows, at most %d",
        (long long)n, (long long)sets, 200 * 1024 / 8 / k - 64);
    return;
  }
  newton_args args = {cuda_at<double>(a),
                      cuda_at<double>(b),
                      cuda_at<double>(reached),
                      cuda_at<double>(sweeps),
                      cuda_at<const double>(g),
                      cuda_at<const double>(inverse),
                      cuda_at<const double>(y),
                      cuda_at<const double>(lambda),
                      cuda_at<const double>(mu),
                      cuda_at<const double>(least),
                      (double *)scratch,
                      (int)n,
                      (int)sets,
                      side,
                      how};
  if (k == 4)
    newton<4>(c, args, a.shape[0]);
  else if (k == 2)
    newton<2>(c, args, a.shape[0]);
  else
    newton<1>(c, args, a.shape[0]);
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
                    ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number) {
  int64_t n = rows.shape[1], sets = y.shape[2];
  FOR_BATCHES(rows.shape[0], first, count) {
    int64_t at = first * sets, all = first * n * sets;
    keep_best_kernel<<<dim3((unsigned)cuda_ceil(sets, THREADS), (unsigned)count), THREADS, 0,
                       cuda_stream(c)>>>(
        cuda_at<double>(score) + at, cuda_at<double>(best) + at, cuda_at<double>(chosen) + at,
        cuda_at<double>(kept) + all, cuda_at<const double>(e) + all, cuda_at<const double>(y) + all,
        cuda_at<const double>(a) + all, cuda_at<const int64_t>(rows) + first * n, (int)n, sets, number);
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
