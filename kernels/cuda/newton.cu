/* Logistic regression in the dual, many at once: one block of threads takes a design with up to four label
 * sets from beginning to end, so that no decision goes through the host and a design that is done makes room
 * for the next. What it costs is reading the design's Gram matrix and inverse again and again. Sums run in an
 * order that only n fixes. */
#include "kernels/cuda/cuda.h"

enum {
  NEWTON_THREADS = 256,
  WARPS = NEWTON_THREADS / 32,
  TOGETHER = 4, /* label sets of one block, and rows that a warp multiplies at once */
  VECTORS = 10, /* of scratch: see dual */
  STEPS_CG = 200,
  HALVINGS = 40
};

/* ---- kernels -------------------------------------------------------------------- */

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

/* What a block of threads works on: K label sets of a design. Each thread keeps to its own rows i = thread,
 * thread + NEWTON_THREADS, ... between products. Functions of it are inlined: its arrays are registers. */
template <int K> struct dual {
  int n, side, sets, products;
  int64_t b, first;         /* the design, and the first of its label sets here */
  double lambda, mu, count; /* count: rows that are no padding */
  const double *g, *inverse, *y[K];
  double *a[K], *x, *room;                              /* x [K,side], shared: what is multiplied */
  double *q, *rg, *h, *t, *r, *z, *p, *gp, *delta, *gd; /* [K,n] */
  double bias[K], scale[K], value[K], reached[K], moved[K];
  bool done[K];
};

template <int K>
static __device__ __forceinline__ void take_up(dual<K> &d, const newton_args &args, double *shared) {
  int n = d.n = args.n, sets = d.sets = args.sets;
  int64_t b = d.b = blockIdx.x;
  d.side = args.side;
  d.first = (int64_t)blockIdx.y * K;
  d.products = 0;
  d.x = shared;
  d.room = shared + K * d.side;
  d.q = args.scratch + (b * gridDim.y + blockIdx.y) * VECTORS * K * n;
  d.rg = d.q + K * n;
  d.h = d.rg + K * n;
  d.t = d.h + K * n;
  d.r = d.t + K * n;
  d.z = d.r + K * n;
  d.p = d.z + K * n;
  d.gp = d.p + K * n;
  d.delta = d.gp + K * n;
  d.gd = d.delta + K * n;
  d.g = args.g + b * n * (int64_t)n;
  d.inverse = args.inverse + b * n * (int64_t)n;
  d.lambda = args.lambda[b];
  d.mu = args.mu[b];
#pragma unroll
  for (int k = 0; k < K; k++) {
    int64_t set = d.first + k < sets ? d.first + k : sets - 1; /* one too many reads the last and is done */
    d.y[k] = args.y + (b * sets + set) * n;
    d.a[k] = args.a + (b * sets + set) * n;
    d.bias[k] = args.b[b * sets + set];
    d.moved[k] = 0;
    d.done[k] = false;
  }
  for (int i = threadIdx.x; i < K * d.side; i += NEWTON_THREADS)
    d.x[i] = 0;
  __syncthreads();
}

/* out = matrix x */
template <int K>
static __device__ __forceinline__ void product(dual<K> &d, double *out, const double *matrix) {
  multiply<K>(out, matrix, d.x, d.n, d.side);
  d.products++;
}

/* The gradient at zero: what the others are relative to. */
template <int K> static __device__ __forceinline__ void find_scale(dual<K> &d, double least) {
  double count[1] = {0};
  for (int i = threadIdx.x; i < d.n; i += NEWTON_THREADS) {
    count[0] += d.y[0][i] != 0;
#pragma unroll
    for (int k = 0; k < K; k++)
      d.x[k * d.side + i] = 0.5 * d.y[k][i];
  }
  block_sum(count, d.room);
  d.count = count[0];
  product(d, d.t, d.g);
  double at_zero[2 * K] = {0};
  for (int i = threadIdx.x; i < d.n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++) {
      at_zero[k] += d.x[k * d.side + i] * d.t[k * d.n + i];
      at_zero[K + k] += d.x[k * d.side + i];
    }
  block_sum(at_zero, d.room);
#pragma unroll
  for (int k = 0; k < K; k++)
    d.scale[k] = fmax(sqrt(fmax(0.0, at_zero[k]) + at_zero[K + k] * at_zero[K + k]), least);
}

/* q = g a */
template <int K> static __device__ __forceinline__ void multiply_anew(dual<K> &d) {
  for (int i = threadIdx.x; i < d.n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++)
      d.x[k * d.side + i] = d.a[k][i];
  product(d, d.q, d.g);
}

/* Margins, residual, objective; the gradient. Sums at [4,K]: objective, slope of b, |slope of w|^2, residual.
 * x is left the residual. */
template <int K>
static __device__ __forceinline__ void find_slope(dual<K> &d, double (&at)[4 * K], double tolerance) {
  int n = d.n;
  for (int i = threadIdx.x; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++) {
      double yi = d.y[k][i], ai = d.a[k][i], m = yi * (d.q[k * n + i] + d.bias[k]), wrong = 1 / (1 + exp(m));
      double pull = yi * wrong, residual = yi != 0 ? pull - d.lambda * ai : 0;
      d.rg[k * n + i] = residual;
      d.h[k * n + i] = yi != 0 ? wrong * (1 - wrong) : 0;
      d.x[k * d.side + i] = residual;
      at[k] += yi != 0 ? log_loss(m) + 0.5 * d.lambda * ai * d.q[k * n + i] : 0;
      at[K + k] += pull;
      at[3 * K + k] += residual;
    }
  product(d, d.t, d.g);
  for (int i = threadIdx.x; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++)
      at[2 * K + k] += d.rg[k * n + i] * d.t[k * n + i];
  block_sum(at, d.room);
#pragma unroll
  for (int k = 0; k < K; k++) {
    d.value[k] = at[k];
    d.reached[k] = sqrt(fmax(0.0, at[2 * K + k]) + at[K + k] * at[K + k]) / d.scale[k];
    d.done[k] = (d.reached[k] <= tolerance && d.moved[k] <= EBB_NEWTON_SETTLED) || d.first + k >= d.sets;
  }
}

/* The conjugate gradients' numbers, one for each label set: r'z now, and where it is small enough; r, p and
 * delta of b. */
template <int K> struct gradients {
  double rz[K], enough[K], rb[K], pb[K], db[K];
  bool active[K];
};

template <int K>
static __device__ __forceinline__ void begin_gradients(dual<K> &d, gradients<K> &cg,
                                                       const double (&at)[4 * K]) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    double forcing = fmin(0.1, fmax(sqrt(d.reached[k]), 1e-4));
    cg.enough[k] = forcing * forcing;
    cg.rb[k] = at[K + k];
    cg.rz[k] = cg.pb[k] = cg.db[k] = 0;
    cg.active[k] = !d.done[k];
  }
  for (int i = threadIdx.x; i < d.n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++) {
      int e = k * d.n + i;
      d.r[e] = d.x[k * d.side + i] = d.done[k] || d.y[k][i] == 0 ? 0 : d.rg[e] - at[3 * K + k] / d.count;
      d.p[e] = d.gp[e] = d.delta[e] = d.gd[e] = 0;
    }
}

/* z, and beta of the next direction; false: all are small enough. */
template <int K>
static __device__ __forceinline__ bool precondition(dual<K> &d, gradients<K> &cg, double (&beta)[K],
                                                    bool first) {
  product(d, d.z, d.inverse);
  double next[K] = {0};
  for (int i = threadIdx.x; i < d.n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++)
      next[k] += d.r[k * d.n + i] * (d.r[k * d.n + i] - d.mu * d.z[k * d.n + i]);
  block_sum(next, d.room);
  bool any = false;
#pragma unroll
  for (int k = 0; k < K; k++) {
    next[k] += cg.rb[k] * cg.rb[k] / d.count;
    cg.enough[k] *= first ? next[k] : 1;
    cg.active[k] = cg.active[k] && (first ? next[k] > 0 : next[k] > cg.enough[k]);
    beta[k] = !first && cg.active[k] ? next[k] / cg.rz[k] : 0;
    cg.rz[k] = next[k];
    cg.pb[k] = cg.rb[k] / d.count + beta[k] * cg.pb[k];
    any = any || cg.active[k];
  }
  return any;
}

/* The next direction p, the step along it, and what that leaves of r (x too). */
template <int K>
static __device__ __forceinline__ void go_along(dual<K> &d, gradients<K> &cg, const double (&beta)[K]) {
  int n = d.n;
  double php[3 * K] = {0}; /* p'hp; what it takes from b's residual, and from the sum of the rows' */
  for (int i = threadIdx.x; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++) {
      int e = k * n + i;
      double pi = d.z[e] + beta[k] * d.p[e], gpi = d.r[e] - d.mu * d.z[e] + beta[k] * d.gp[e];
      double bent = d.h[e] * (gpi + cg.pb[k]);
      d.p[e] = pi;
      d.gp[e] = gpi;
      php[k] += d.lambda * pi * gpi + bent * (gpi + cg.pb[k]);
      php[K + k] += bent;
      php[2 * K + k] += d.lambda * pi + bent;
    }
  block_sum(php, d.room);
  double length[K];
#pragma unroll
  for (int k = 0; k < K; k++) {
    cg.active[k] = cg.active[k] && php[k] > 0;
    length[k] = cg.active[k] ? cg.rz[k] / php[k] : 0;
    cg.db[k] += length[k] * cg.pb[k];
    cg.rb[k] -= length[k] * php[K + k];
  }
  for (int i = threadIdx.x; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++) {
      int e = k * n + i;
      double pi = d.p[e], gpi = d.gp[e],
             change = d.lambda * pi + d.h[e] * (gpi + cg.pb[k]) - php[2 * K + k] / d.count;
      double left = d.r[e] - (d.y[k][i] != 0 ? length[k] * change : 0);
      d.delta[e] += length[k] * pi;
      d.gd[e] += length[k] * gpi;
      d.r[e] = d.x[k * d.side + i] = left;
    }
}

/* The longest of 1, 1/2, ... that descends enough: the objective along the step needs no product. */
template <int K>
static __device__ __forceinline__ void search(const dual<K> &d, const double (&db)[K],
                                              const double (&at)[4 * K], double (&length)[K]) {
  int n = d.n;
  double sums[4 * K] = {0};
  for (int i = threadIdx.x; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++) {
      int e = k * n + i;
      double ai = d.a[k][i];
      sums[k] += d.rg[e] * d.gd[e];
      sums[K + k] += ai * d.q[e];
      sums[2 * K + k] += ai * d.gd[e];
      sums[3 * K + k] += d.delta[e] * d.gd[e];
    }
  block_sum(sums, d.room);
  bool accepted[K];
#pragma unroll
  for (int k = 0; k < K; k++) {
    length[k] = 1;
    accepted[k] = d.done[k];
  }
  for (int halving = 0; halving < HALVINGS; halving++) {
    double trial[K] = {0};
    for (int i = threadIdx.x; i < n; i += NEWTON_THREADS)
#pragma unroll
      for (int k = 0; k < K; k++)
        if (!accepted[k] && d.y[k][i] != 0)
          trial[k] +=
              log_loss(d.y[k][i] * (d.q[k * n + i] + d.bias[k] + length[k] * (d.gd[k * n + i] + db[k])));
    block_sum(trial, d.room);
    bool any = false;
#pragma unroll
    for (int k = 0; k < K; k++) {
      double descent = sums[k] + db[k] * at[K + k];
      double bend = sums[K + k] + length[k] * (2 * sums[2 * K + k] + length[k] * sums[3 * K + k]);
      double next = trial[k] + 0.5 * d.lambda * bend;
      if (!accepted[k] && next <= d.value[k] - 1e-4 * length[k] * descent + 1e-13 * fabs(d.value[k]))
        accepted[k] = true;
      else if (!accepted[k])
        length[k] *= 0.5;
      any = any || !accepted[k];
    }
    if (!any)
      break;
  }
}

/* a, b and q after the step; the largest move of a margin. */
template <int K>
static __device__ __forceinline__ void take_step(dual<K> &d, const double (&db)[K],
                                                 const double (&length)[K]) {
  int n = d.n;
  double far[K] = {0};
  for (int i = threadIdx.x; i < n; i += NEWTON_THREADS)
#pragma unroll
    for (int k = 0; k < K; k++)
      if (!d.done[k] && d.y[k][i] != 0) {
        double move = length[k] * d.gd[k * n + i];
        d.a[k][i] += length[k] * d.delta[k * n + i];
        d.q[k * n + i] += move;
        far[k] = fmax(far[k], fabs(move + length[k] * db[k]));
      }
#pragma unroll
  for (int k = 0; k < K; k++) {
    for (int offset = 16; offset > 0; offset >>= 1)
      far[k] = fmax(far[k], __shfl_xor_sync(0xffffffffu, far[k], offset));
    d.bias[k] += d.done[k] ? 0 : length[k] * db[k];
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int k = 0; k < K; k++)
      d.room[threadIdx.x / 32 * K + k] = far[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; k++)
    for (int w = 0; w < WARPS; w++)
      d.moved[k] = w == 0 ? d.room[k] : fmax(d.moved[k], d.room[w * K + k]);
}

/* Newton in w and b, where a vector of w's space is z' times the one kept here: its products with others need
 * g. Vectors [K,n]: q = g a, residual rg = y sigma(-y f) - lambda a (z' rg is the descent), curvature h, t what
 * a product leaves; of the conjugate gradients for the step: residual r, z = (g + mu)^-1 r, direction p with
 * gp = g p, step delta with gd = g delta. As g z = r - mu z, the inverse is the only matrix that is read there.
 * r is kept to sum 0: g (1,..,1)' = 0, so that nothing would hold that part of it. */
template <int K> static __global__ __launch_bounds__(NEWTON_THREADS, 2) void newton_kernel(newton_args args) {
  extern __shared__ double shared[];
  dual<K> d;
  take_up(d, args, shared);
  find_scale(d, args.least[d.b]);
  multiply_anew(d);
  bool fresh = true;
  for (int step = 0;; step++) {
    double at[4 * K] = {0}, length[K];
    find_slope(d, at, args.newton.tolerance);
    bool all = true, last = step >= args.newton.steps;
#pragma unroll
    for (int k = 0; k < K; k++)
      all = all && d.done[k];
    if ((all || last) && fresh)
      break;
    if (all || last) { /* what the steps have added up is checked before it is believed */
      multiply_anew(d);
      fresh = true;
      continue;
    }
    gradients<K> cg;
    begin_gradients(d, cg, at);
    for (int i = 0; i < STEPS_CG; i++) {
      double beta[K];
      if (!precondition(d, cg, beta, i == 0))
        break;
      go_along(d, cg, beta);
    }
    search(d, cg.db, at, length);
    take_step(d, cg.db, length);
    fresh = false;
  }
  if (threadIdx.x == 0)
#pragma unroll
    for (int k = 0; k < K; k++)
      if (d.first + k < d.sets) {
        int64_t at = d.b * d.sets + d.first + k;
        args.b[at] = d.bias[k];
        args.reached[at] = d.reached[k] <= args.newton.tolerance && d.moved[k] > EBB_NEWTON_SETTLED
                               ? INFINITY
                               : d.reached[k];
        args.sweeps[at] = d.products;
      }
}

/* ---- launchers --------------------------------------------------------------------------------------- */

/* Shared memory of a block with k label sets: x and the room of sums. */
static size_t shared_bytes(int64_t k, int64_t side) {
  return (size_t)(k * side + WARPS * 4 * k) * sizeof(double);
}

static int64_t side_of(int64_t n) {
  return cuda_ceil(n, 64) * 64;
}

/* Label sets of one block: as many as its shared memory takes, at least one. */
static int together(ebb_context *c, int64_t sets, int64_t n) {
  int k = sets >= 3 ? 4 : (int)sets;
  while (k > 1 && shared_bytes(k, side_of(n)) > cuda_of(c)->shared)
    k /= 2;
  return k;
}

int64_t cuda_logistic_newton_rows(ebb_context *c) {
  return ((int64_t)(cuda_of(c)->shared / sizeof(double)) - WARPS * 4) / 64 * 64;
}

size_t cuda_logistic_newton_scratch(ebb_context *c, ebb_tensor a) {
  int64_t sets = a.shape[1], n = a.shape[2], k = together(c, sets, n);
  return (size_t)(a.shape[0] * cuda_ceil(sets, k) * k * VECTORS * n) * sizeof(double);
}

template <int K> static void newton(ebb_context *c, newton_args args, int64_t designs) {
  size_t bytes = shared_bytes(K, args.side);
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
  if (n % 2 != 0 || n > cuda_logistic_newton_rows(c)) {
    ebb_context_fail(
        c, "logistic_newton: %lld rows; expected an even number, at most %lld by the shared memory of %s",
        (long long)n, (long long)cuda_logistic_newton_rows(c), c->device);
    return;
  }
  int k = together(c, sets, n);
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
                      (int)side_of(n),
                      how};
  if (k == 4)
    newton<4>(c, args, a.shape[0]);
  else if (k == 2)
    newton<2>(c, args, a.shape[0]);
  else
    newton<1>(c, args, a.shape[0]);
}
