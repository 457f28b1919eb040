/* Logistic regression by Adam: one block takes a design with up to four label sets through all epochs in one
 * launch. A batch of rows is read twice, once for the margins of all label sets and once for their gradients;
 * the second time it comes from the cache. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, WARPS = THREADS / 32, TOGETHER = 4, ROWS = 2 /* that a warp multiplies at once */ };

typedef struct adam_args {
  float *w, *accuracy, *f;
  int64_t *epochs;
  const float *z, *y;
  const int64_t *order, *which, *judged;
  float *scratch;                    /* [B,K,2,d+1]: the two moments */
  int64_t d, rows, n, orders, total; /* total: epochs in the table */
  int sets;
  ebb_adam adam;
} adam_args;

/* ---- kernels ----------------------------------------------------------------------------------------- */

/* margin[i*K + k] = w_k . (z[row], 1) of `count` rows, row(i) given. Lane l adds columns l, l + 32, ... in
 * order, then lanes in pairs. w shared [K, stride]. */
template <int K, typename Row>
static __device__ void margins(float *margin, const float *z, const float *w, int64_t d, int64_t stride,
                               int count, Row row) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int first = warp * ROWS; first < count; first += WARPS * ROWS) {
    const float *from[ROWS];
    float sum[ROWS][K] = {};
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      from[r] = z + row(first + r < count ? first + r : count - 1) * d;
#pragma unroll 4
    for (int64_t j = lane; j < d; j += 32)
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        float v = from[r][j];
#pragma unroll
        for (int k = 0; k < K; k++)
          sum[r][k] += v * w[k * stride + j];
      }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int k = 0; k < K; k++) {
        float s = warp_sum(sum[r][k]) + w[k * stride + d];
        if (lane == 0 && first + r < count)
          margin[(first + r) * K + k] = s;
      }
  }
}

/* pull [count,K]: margins -> what each pulls at the weights, -y sigma(-y f) / count. in: rows of the batch. */
template <int K>
static __device__ __forceinline__ void pulls(float *pull, const adam_args &args, const int64_t (&set)[K],
                                             const int64_t *in, int count) {
  for (int e = threadIdx.x; e < count * K; e += THREADS) {
    float yi = args.y[set[e % K] * args.rows + in[e / K]];
    pull[e] = -yi / (1.0f + expf(yi * pull[e])) / (float)count;
  }
}

/* One step of Adam on the live w shared [K,d+1]; moment [K,2,d+1]; size: the rate over its bias correction, root: the
 * second moment's, as torch has them. */
template <int K>
static __device__ __forceinline__ void descend(float *w, float *moment, const float *pull, const float *z,
                                               const int64_t *in, int count, int64_t d, const bool (&live)[K],
                                               float size, float root, float decay) {
  int64_t stride = d + 1;
  for (int64_t j = threadIdx.x; j < stride; j += THREADS) {
    float g[K] = {};
#pragma unroll 8
    for (int i = 0; i < count; i++) {
      float v = j < d ? z[in[i] * d + j] : 1.0f;
#pragma unroll
      for (int k = 0; k < K; k++)
        g[k] += pull[i * K + k] * v;
    }
#pragma unroll
    for (int k = 0; k < K; k++)
      if (live[k]) {
        float *m = moment + (2 * k) * stride + j, *v = m + stride, now_w = w[k * stride + j];
        float slope = g[k] + decay * now_w;
        *m = 0.9f * *m + 0.1f * slope;
        *v = 0.999f * *v + 0.001f * slope * slope;
        w[k * stride + j] = now_w - size * *m / (sqrtf(*v) / root + 1e-8f);
      }
  }
}

/* right [WARPS,K]: each warp's share of twice the hits on rows [from, end), ties 1. `batch` rows at a time, where the
 * margins have room. */
template <int K>
static __device__ __forceinline__ void judge(int (*right)[K], float *pull, const float *w, const float *z,
                                             const adam_args &args, const int64_t (&set)[K], int64_t from,
                                             int64_t end) {
  int t = threadIdx.x, hit[K] = {};
  for (int64_t at = from; at < end; at += args.adam.batch) {
    int count = (int)(end - at < args.adam.batch ? end - at : args.adam.batch);
    margins<K>(pull, z, w, args.d, args.d + 1, count, [=](int i) { return at + i; });
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; k++)
      for (int i = t; i < count; i += THREADS) {
        float v = args.y[set[k] * args.rows + at + i] * pull[i * K + k];
        hit[k] += v > 0 ? 2 : v == 0 && args.y[set[k] * args.rows + at + i] != 0;
      }
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < K; k++) {
    for (int offset = 16; offset > 0; offset >>= 1)
      hit[k] += __shfl_xor_sync(0xffffffffu, hit[k], offset);
    if (t % 32 == 0)
      right[t / 32][k] = hit[k];
  }
}

/* After an epoch: the weights with the most hits so far go to args.w; a label set without better ones for `patience`
 * epochs is no longer live. */
template <int K>
static __device__ __forceinline__ void keep(const adam_args &args, const int (*right)[K], const float *w,
                                            const int64_t (&set)[K], int64_t epoch, int (&best)[K],
                                            int64_t (&best_epoch)[K], int (&stale)[K], bool (&live)[K]) {
  int64_t stride = args.d + 1;
#pragma unroll
  for (int k = 0; k < K; k++) {
    int all = 0;
    for (int s = 0; s < WARPS; s++)
      all += right[s][k];
    if (!live[k])
      continue;
    if (all > best[k]) {
      best[k] = all;
      best_epoch[k] = epoch + 1;
      stale[k] = 0;
      for (int64_t j = threadIdx.x; j < stride; j += THREADS)
        args.w[set[k] * stride + j] = w[k * stride + j];
    } else
      live[k] = ++stale[k] < args.adam.patience;
  }
}

/* f: the fit's margins of all rows, for the label sets that there are. */
template <int K>
static __device__ __forceinline__ void say_margins(float *pull, const float *w, const float *z,
                                                   const adam_args &args, const int64_t (&set)[K],
                                                   int first) {
  for (int64_t at = 0; at < args.rows; at += args.adam.batch) {
    int count = (int)(args.rows - at < args.adam.batch ? args.rows - at : args.adam.batch);
    __syncthreads();
    margins<K>(pull, z, w, args.d, args.d + 1, count, [=](int i) { return at + i; });
    __syncthreads();
    for (int e = threadIdx.x; e < count * K; e += THREADS)
      if (first + e % K < args.sets)
        args.f[set[e % K] * args.rows + at + e / K] = pull[e];
  }
}

template <int K> static __global__ __launch_bounds__(THREADS) void adam_kernel(adam_args args) {
  extern __shared__ float shared[];
  int64_t d = args.d, rows = args.rows, stride = d + 1, b = blockIdx.x, n = args.n;
  int t = threadIdx.x, first = blockIdx.y * K, sets = args.sets;
  float *w = shared, *pull = w + K * stride; /* [batch,K] */
  __shared__ int right[WARPS][K];
  const float *z = args.z + b * rows * d;
  float *moment = args.scratch + (b * gridDim.y + blockIdx.y) * K * 2 * stride;
  const int64_t *order = args.order + args.which[b] * args.total * n;
  int64_t judged_first = args.judged[2 * b], judged_end = args.judged[2 * b + 1];
  bool validated = judged_end > judged_first;
  int64_t set[K], best_epoch[K];
  int best[K], stale[K];
  bool live[K]; /* still being trained */
#pragma unroll
  for (int k = 0; k < K; k++) {
    set[k] = b * sets + (first + k < sets ? first + k : sets - 1);
    live[k] = first + k < sets;
    best[k] = -1;
    best_epoch[k] = stale[k] = 0;
    for (int64_t j = t; j < stride; j += THREADS) {
      w[k * stride + j] = args.w[set[k] * stride + j];
      moment[(2 * k) * stride + j] = moment[(2 * k + 1) * stride + j] = 0;
    }
  }
  float rate = (float)args.adam.rate, decay = (float)args.adam.decay;
  int64_t trained = 0; /* rows: what comes before the padding */
  for (int64_t i = 0; i < n; i += THREADS)
    trained += __syncthreads_count(i + t < n && order[i + t] >= 0);
  double bias1 = 1, bias2 = 1;
  for (int64_t epoch = 0; epoch < args.total; epoch++) {
    bool any = false;
#pragma unroll
    for (int k = 0; k < K; k++)
      any = any || live[k];
    if (!any)
      break;
    for (int64_t at = 0; at < trained; at += args.adam.batch) {
      int count = (int)(trained - at < args.adam.batch ? trained - at : args.adam.batch);
      const int64_t *in = order + epoch * n + at;
      __syncthreads();
      margins<K>(pull, z, w, d, stride, count, [=](int i) { return in[i]; });
      __syncthreads();
      pulls<K>(pull, args, set, in, count);
      __syncthreads();
      bias1 *= 0.9;
      bias2 *= 0.999;
      descend<K>(w, moment, pull, z, in, count, d, live, (float)(rate / (1 - bias1)), (float)sqrt(1 - bias2),
                 decay);
    }
    if (!validated)
      continue;
    __syncthreads();
    judge<K>(right, pull, w, z, args, set, judged_first, judged_end);
    __syncthreads();
    keep<K>(args, right, w, set, epoch, best, best_epoch, stale, live);
    __syncthreads();
  }
  __syncthreads();
  int64_t labelled = 0;
  for (int64_t i = judged_first; i < judged_end; i++)
    labelled += args.y[set[0] * rows + i] != 0;
#pragma unroll
  for (int k = 0; k < K; k++) {
    if (first + k < sets && !validated)
      for (int64_t j = t; j < stride; j += THREADS)
        args.w[set[k] * stride + j] = w[k * stride + j];
    else
      for (int64_t j = t; j < stride; j += THREADS)
        w[k * stride + j] = args.w[set[k] * stride + j];
    if (t == 0 && first + k < sets) {
      args.epochs[set[k]] = validated ? best_epoch[k] : args.total;
      args.accuracy[set[k]] = validated ? 0.5f * (float)best[k] / (float)labelled : nanf("");
    }
  }
  say_margins<K>(pull, w, z, args, set, first);
}

/* ---- launchers --------------------------------------------------------------------------------------- */

static int together(int64_t sets) {
  return sets >= 3 ? TOGETHER : (int)sets;
}

size_t cuda_logistic_adam_scratch(ebb_context *c, ebb_tensor w, ebb_tensor z) {
  (void)c;
  (void)z;
  int64_t sets = w.shape[1], k = together(sets);
  return (size_t)(w.shape[0] * cuda_ceil(sets, k) * k * 2 * w.shape[2]) * sizeof(float);
}

template <int K> static void adam(ebb_context *c, adam_args args, int64_t designs, size_t bytes) {
  if (!cuda_shared(c, "logistic_adam", adam_kernel<K>, bytes))
    return;
  adam_kernel<K>
      <<<dim3((unsigned)designs, (unsigned)cuda_ceil(args.sets, K)), THREADS, bytes, cuda_stream(c)>>>(args);
  cuda_launched(c, "logistic_adam");
}

void cuda_logistic_adam(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                        ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                        ebb_adam how, void *scratch) {
  int64_t d = z.shape[2];
  int sets = (int)w.shape[1], k = together(sets);
  size_t most = cuda_of(c)->shared - 1024; /* the rest is for what kernels declare themselves */
  while (k > 1 && (size_t)k * (size_t)(d + 1 + how.batch) * sizeof(float) > most)
    k /= 2;
  size_t bytes = (size_t)k * (size_t)(d + 1 + how.batch) * sizeof(float);
  if (bytes > most) {
    ebb_context_fail(c,
                     "logistic_adam: %lld columns, batches of %d: weights and margins must fit in %zu bytes",
                     (long long)d, how.batch, most);
    return;
  }
  adam_args args = {cuda_f32(w),
                    cuda_f32(accuracy),
                    cuda_f32(f),
                    cuda_at<int64_t>(epochs),
                    cuda_f32(z),
                    cuda_f32(y),
                    cuda_at<const int64_t>(order),
                    cuda_at<const int64_t>(which),
                    cuda_at<const int64_t>(judged),
                    (float *)scratch,
                    d,
                    z.shape[1],
                    order.shape[2],
                    order.shape[0],
                    order.shape[1],
                    sets,
                    how};
  if (k == 4)
    adam<4>(c, args, z.shape[0], bytes);
  else if (k == 2)
    adam<2>(c, args, z.shape[0], bytes);
  else
    adam<1>(c, args, z.shape[0], bytes);
}
