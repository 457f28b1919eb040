/* Attention's statistics when the kernels are through: means of their parts; and the spatial offsets, for
 * which attention runs once more with values that mark the keys' places, so that its output is the mass of
 * every query on every row and column. */
#include "kernels/cuda/attention.cuh"

/* ---- from parts -------------------------------------------------------------------------------------- */

/* Number `key` of a query frame of one sample and head: the parts of the tiles that it touches, in their
 * order. */
static __device__ __forceinline__ float of_frame(const attention_problem &p, int64_t group, int frame,
                                                 int key) {
  int64_t first = (int64_t)frame * p.queries;
  float sum = 0.0f;
  for (int64_t t = first / p.tile; t <= (first + p.queries - 1) / p.tile; t++)
    sum += p.parts[((group * p.tiles + t) * p.span + frame - t * p.tile / p.queries) * (p.Tk + 1) + key];
  return sum;
}

/* One number of mass [B*N, Tq, Tk] or entropy [B*N, Tq] per thread; NULL: not wanted. */
__global__ void add_frames(const attention_problem p, float *mass, float *entropy, int64_t count) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  int width = p.Tk + 1, key = (int)(i % width);
  int64_t frame = i / width; /* of all samples and heads */
  float *to = key < p.Tk ? mass + frame * p.Tk + key : entropy + frame;
  if (i < count && (key < p.Tk ? mass : entropy))
    *to = of_frame(p, frame / p.Tq, (int)(frame % p.Tq), key) / (float)p.queries;
}

/* One number of lag [B*N, 2T-1] per thread. */
__global__ void add_lags(const attention_problem p, float *lag, int64_t count) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  int lags = 2 * p.Tk - 1, later = (int)(i % lags) - (p.Tk - 1);
  if (i >= count)
    return;
  float sum = 0.0f;
  for (int frame = max(0, -later); frame < min(p.Tk, p.Tk - later); frame++)
    sum += of_frame(p, i / lags, frame, frame + later);
  lag[i] = sum / (float)p.S;
}

void attention_finish(ebb_context *c, const attention_problem *p, ebb_attention_stats stats, int64_t B) {
  if (ebb_present(stats.mass) || ebb_present(stats.entropy)) {
    int64_t count = B * p->heads * p->Tq * (p->Tk + 1);
    add_frames<<<(unsigned)cuda_ceil(count, 256), 256, 0, cuda_stream(c)>>>(*p, cuda_f32(stats.mass),
                                                                            cuda_f32(stats.entropy), count);
    cuda_launched(c, "attention");
  }
  if (ebb_present(stats.lag)) {
    int64_t count = ebb_count(stats.lag);
    add_lags<<<(unsigned)cuda_ceil(count, 256), 256, 0, cuda_stream(c)>>>(*p, cuda_f32(stats.lag), count);
    cuda_launched(c, "attention");
  }
}

/* ---- spatial offsets --------------------------------------------------------------------------------- */

#define CHUNK 256                /* queries whose masses are summed by one block */
#define MASSES_LIMIT (128 << 20) /* bytes of masses: samples go in several groups rather than pass it */

/* A query has H + W masses, its bins: on the rows of keys in all frames, then on the columns. They come P at
 * a time, in slices, as the output of one pass. */
typedef struct spatial {
  int H, W, bins, slices, chunks;
  int samples;   /* of a group */
  size_t marks;  /* bytes: [M, slices * P] */
  size_t masses; /* [samples, S, D] */
  size_t parts;  /* [samples * N, slices * chunks, bins] */
} spatial;

/* marks [M, pitch]: 1 where the bin is the key's row or column. */
template <typename T> __global__ void mark_places(const spatial s, T *marks, int pitch, int64_t count) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, key = i / pitch;
  int bin = (int)(i % pitch);
  if (i < count)
    marks[i] = from_float<T>(bin == key / s.W % s.H || bin == s.H + key % s.W ? 1.0f : 0.0f);
}

/* The sums over one chunk of queries of head y of sample z of a group, by distance, of the masses of one
 * slice. 256 threads: 32 distances at a time, of every eighth query each. */
template <typename T>
__global__ __launch_bounds__(256) void add_distances(const attention_problem p, const spatial s, float *parts,
                                                     const T *masses, int slice) {
  __shared__ float sums[8][32];
  const int lane = (int)threadIdx.x % 32, line = (int)threadIdx.x / 32, first = slice * p.P;
  const int begin = (int)blockIdx.x * CHUNK, end = min(p.S, begin + CHUNK);
  const int64_t group = (int64_t)blockIdx.z * p.heads + blockIdx.y;
  masses += (int64_t)blockIdx.z * p.S * p.D + (int64_t)blockIdx.y * p.P;
  parts += ((group * s.slices + slice) * s.chunks + blockIdx.x) * s.bins;
  for (int i = lane; i - lane < s.bins; i += 32) {
    const bool row = i < s.H;
    const int base = row ? 0 : s.H, size = row ? s.H : s.W, far = i - base;
    float sum = 0.0f;
    for (int query = begin + line; i < s.bins && query < end; query += 8) {
      const T *of = masses + (int64_t)query * p.D;
      int place = row ? query / s.W % s.H : query % s.W;
      auto mass = [&](int at) {
        int bin = base + at - first; /* not all are in this slice */
        bool here = at >= 0 && at < size && bin >= 0 && bin < p.P;
        return here ? to_float(of[bin]) : 0.0f;
      };
      sum += mass(place + far) + (far > 0 ? mass(place - far) : 0.0f);
    }
    sums[line][lane] = sum;
    __syncthreads();
    for (int l = 1; line == 0 && l < 8; l++)
      sum += sums[l][lane];
    if (line == 0 && i < s.bins)
      parts[i] = sum;
    __syncthreads();
  }
}

/* One number of rows [samples * N, H] or columns [samples * N, W] per thread: the parts in their order. */
__global__ void add_chunks(const spatial s, const float *parts, float *rows, float *columns, int S,
                           int64_t count) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, group = i / s.bins;
  int bin = (int)(i % s.bins);
  float sum = 0.0f;
  for (int part = 0; i < count && part < s.slices * s.chunks; part++)
    sum += parts[(group * s.slices * s.chunks + part) * s.bins + bin];
  if (i < count)
    *(bin < s.H ? rows + group * s.H + bin : columns + group * s.W + bin - s.H) = sum / (float)S;
}

static spatial spatial_of(ebb_context *c, const attention_problem *p, ebb_attention_stats stats,
                          ebb_tensor q) {
  const int64_t limit = cuda_of(c)->limits.map_bytes, most = limit > 0 ? limit : MASSES_LIMIT;
  const int64_t size = (int64_t)ebb_dtype_size(q.dtype), one = (int64_t)p->S * p->D * size, B = q.shape[0];
  spatial s = {};
  s.H = (int)stats.rows.shape[2], s.W = (int)stats.columns.shape[2], s.bins = s.H + s.W;
  s.slices = (int)cuda_ceil(s.bins, p->P), s.chunks = (int)cuda_ceil(p->S, CHUNK);
  s.samples = (int)(one > most ? 1 : most / one < B ? most / one : B);
  s.marks = cuda_round_up((size_t)((int64_t)p->M * s.slices * p->P * size));
  s.masses = cuda_round_up((size_t)(s.samples * one));
  s.parts = (size_t)((int64_t)s.samples * p->heads * s.slices * s.chunks * s.bins) * sizeof(float);
  return s;
}

size_t attention_spatial_scratch(ebb_context *c, const attention_problem *p, ebb_attention_stats stats,
                                 ebb_tensor q) {
  spatial s = spatial_of(c, p, stats, q);
  return ebb_present(stats.rows) ? s.marks + s.masses + s.parts : 0;
}

template <typename T>
static void find_offsets(ebb_context *c, const attention_problem *p, const spatial *s, float *rows,
                         float *columns, ebb_tensor q, ebb_tensor k, void *scratch) {
  T *marks = (T *)scratch, *masses = (T *)((char *)scratch + s->marks);
  float *parts = (float *)((char *)masses + s->masses);
  attention_problem pass = *p;
  pass.Tq = pass.Tk = 0, pass.parts = pass.rows = pass.lse = NULL;
  pass.sample = 0, pass.value_sample = 0, pass.value_row = s->slices * p->P, pass.value_head = 0;
  int64_t numbers = (int64_t)p->M * pass.value_row;
  mark_places<<<(unsigned)cuda_ceil(numbers, 256), 256, 0, cuda_stream(c)>>>(*s, marks, pass.value_row,
                                                                             numbers);
  cuda_launched(c, "attention");
  CUDA_FOR_PIECES(q.shape[0], s->samples, first, samples) {
    for (int slice = 0; slice < s->slices; slice++) {
      attention_launch(c, &pass, q.dtype, masses, cuda_at<T>(q) + first * p->S * p->D,
                       cuda_at<T>(k) + first * p->key_sample, marks + slice * p->P, (int)samples);
      dim3 grid((unsigned)s->chunks, (unsigned)p->heads, (unsigned)samples);
      add_distances<<<grid, 256, 0, cuda_stream(c)>>>(pass, *s, parts, masses, slice);
      cuda_launched(c, "attention");
    }
    int64_t groups = first * p->heads, count = samples * p->heads * s->bins;
    add_chunks<<<(unsigned)cuda_ceil(count, 256), 256, 0, cuda_stream(c)>>>(
        *s, parts, rows + groups * s->H, columns + groups * s->W, p->S, count);
    cuda_launched(c, "attention");
  }
}

void attention_spatial(ebb_context *c, const attention_problem *p, ebb_attention_stats stats, ebb_tensor q,
                       ebb_tensor k, void *scratch) {
  spatial s = spatial_of(c, p, stats, q);
  float *rows = cuda_f32(stats.rows), *columns = cuda_f32(stats.columns);
  CUDA_FOR_DTYPE(q, T, { find_offsets<T>(c, p, &s, rows, columns, q, k, scratch); });
}
