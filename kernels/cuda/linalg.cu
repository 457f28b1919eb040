/* Dense float64 algebra of many small matrices: products by cuBLAS (Hopper multiplies float64 in its tensor
 * cores), the inverse as a blocked sweep around them. cuBLAS may choose another kernel for another number of
 * matrices: the bytes of a matrix can depend on how many stand beside it, its digits do not. */
#include <cublas_v2.h>

#include "kernels/cuda/cuda.h"

enum {
  SIDE = 128,     /* of the block swept at once, and the largest matrix that one block inverts alone */
  STRIPE = 256,   /* rows of a symmetric result made by one product: left of its diagonal and little more */
  BATCH = 32768,  /* matrices of one call: a grid has at most 65535 in its second and third dimension */
  SWEEPERS = 512, /* threads: 16 x 32, each with 8 x 4 numbers of a block */
  TILE = 32
};

struct cuda_solvers {
  cublasHandle_t blas;
};

static cublasHandle_t blas_of(ebb_context *c, const char *op) {
  cuda_state *s = cuda_of(c);
  if (!s->solvers) {
    cuda_solvers *made = (cuda_solvers *)calloc(1, sizeof *made);
    cublasStatus_t status = made ? cublasCreate(&made->blas) : CUBLAS_STATUS_ALLOC_FAILED;
    if (status == CUBLAS_STATUS_SUCCESS)
      status = cublasSetStream(made->blas, s->stream);
    if (status != CUBLAS_STATUS_SUCCESS) {
      ebb_context_fail(c, "%s: cuBLAS does not start: %s", op, cublasGetStatusString(status));
      free(made);
      return NULL;
    }
    s->solvers = made;
  }
  return s->solvers->blas;
}

void cuda_solvers_close(cuda_solvers *solvers) {
  if (solvers)
    cublasDestroy(solvers->blas);
  free(solvers);
}

/* ---- kernels ----------------------------------------------------------------------------------------- */

/* Above the diagonal what is below it. a [B,n,n]. */
static __global__ void mirror_kernel(double *a, int n) {
  __shared__ double tile[TILE][TILE + 1];
  if (blockIdx.x > blockIdx.y)
    return;
  double *m = a + (int64_t)blockIdx.z * n * n;
  int row = blockIdx.y * TILE, column = blockIdx.x * TILE, j = threadIdx.x;
  for (int i = threadIdx.y; i < TILE; i += blockDim.y)
    if (row + i < n && column + j < n)
      tile[i][j] = m[(int64_t)(row + i) * n + column + j];
  __syncthreads();
  for (int i = threadIdx.y; i < TILE; i += blockDim.y)
    if (column + i < n && row + j < n && column + i < row + j)
      m[(int64_t)(column + i) * n + row + j] = tile[j][i];
}

static __global__ void add_diagonal_kernel(double *y, const double *a, const double *shift, int n) {
  int64_t at = (int64_t)blockIdx.y * n * n;
  double by = shift[blockIdx.y];
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (int64_t)n * n;
       i += (int64_t)gridDim.x * blockDim.x)
    y[at + i] = a[at + i] + (i % (n + 1) == 0 ? by : 0);
}

/* The sweep operator (Beaton 1964) on all of a matrix a [m,m], m <= SIDE, in registers: a <- -a^-1. Reads and
 * writes with a row stride; below the diagonal is read. A pivot that is not positive makes everything NaN. */
static __global__ __launch_bounds__(SWEEPERS) void sweep_kernel(double *to, int to_stride, int64_t to_step,
                                                                const double *from, int stride, int64_t step,
                                                                int m, double sign) {
  __shared__ double line[2][SIDE];
  const double *a = from + (int64_t)blockIdx.x * step;
  int row = threadIdx.x / 32, column = threadIdx.x % 32; /* and 16, 32 further on */
  double own[8][4];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int r = row + 16 * i, s = column + 32 * j;
      own[i][j] = r >= m || s >= m ? (double)(r == s) : r >= s ? a[r * stride + s] : a[s * stride + r];
    }
  for (int p = 0; p < m; p++) {
    double *pivots = line[p & 1]; /* two by turns: one barrier a pivot is enough */
    if (p % 16 == row) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        double v = 0; /* chosen by comparison: an index would move the numbers to local memory */
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (row + 16 * i == p)
            v = own[i][j];
        pivots[column + 32 * j] = v;
      }
    }
    __syncthreads();
    double pivot = pivots[p], d = pivot > 0 ? 1 / pivot : nan("");
    double across[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
      across[j] = pivots[column + 32 * j] * d;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      bool here = row + 16 * i == p;
      double down = pivots[row + 16 * i];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        bool there = column + 32 * j == p;
        own[i][j] = here && there ? -d : here ? across[j] : there ? down * d : own[i][j] - down * across[j];
      }
    }
  }
  double *out = to + (int64_t)blockIdx.x * to_step;
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (row + 16 * i < m && column + 32 * j < m)
        out[(row + 16 * i) * to_stride + column + 32 * j] = sign * own[i][j];
}

/* panel[b,i,:] = columns [first, first + count) of row i of a symmetric a that is kept below its diagonal. */
static __global__ void take_panel_kernel(double *panel, const double *a, int n, int first, int count) {
  __shared__ double tile[TILE][TILE + 1];
  const double *m = a + (int64_t)blockIdx.z * n * n;
  double *to = panel + (int64_t)blockIdx.z * n * count;
  int row = blockIdx.y * TILE, column = blockIdx.x * TILE, lane = threadIdx.x;
  for (int i = threadIdx.y; i < TILE; i += blockDim.y) { /* above the diagonal: the transposed tile */
    int r = row + i, s = first + column + lane, r2 = first + column + i, s2 = row + lane;
    if (r < n && column + lane < count && r >= s)
      to[(int64_t)r * count + column + lane] = m[(int64_t)r * n + s];
    if (r2 < n && column + i < count && s2 < n && r2 > s2)
      tile[i][lane] = m[(int64_t)r2 * n + s2];
  }
  __syncthreads();
  for (int i = threadIdx.y; i < TILE; i += blockDim.y)
    if (row + i < n && column + lane < count && row + i < first + column + lane)
      to[(int64_t)(row + i) * count + column + lane] = tile[lane][i];
}

/* The swept block's rows and columns: a[k,k] = -d, a[:,k] = panel, kept below the diagonal. */
static __global__ void put_panel_kernel(double *a, const double *panel, const double *d, int n, int first,
                                        int count) {
  __shared__ double tile[TILE][TILE + 1];
  double *m = a + (int64_t)blockIdx.z * n * n;
  const double *from = panel + (int64_t)blockIdx.z * n * count,
               *square = d + (int64_t)blockIdx.z * SIDE * SIDE;
  int row = blockIdx.y * TILE, column = blockIdx.x * TILE, lane = threadIdx.x;
  for (int i = threadIdx.y; i < TILE; i += blockDim.y)
    if (row + i < n && column + lane < count) {
      int r = row + i, s = column + lane, local = r - first;
      double v = from[(int64_t)r * count + s];
      tile[i][lane] = v;
      if (r >= first)
        m[(int64_t)r * n + first + s] = local < count ? -square[local * SIDE + s] : v;
    }
  __syncthreads();
  for (int i = threadIdx.y; i < TILE; i += blockDim.y)
    if (column + i < count && row + lane < first)
      m[(int64_t)(first + column + i) * n + row + lane] = tile[lane][i];
}

static __global__ void negate_kernel(double *a, int64_t count) {
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
       i += (int64_t)gridDim.x * blockDim.x)
    a[i] = -a[i];
}

/* ---- launchers --------------------------------------------------------------------------------------- */

/* Row-major y_b [m,n] (row stride ldy) = alpha op(a_b) op(b_b) + beta y_b. */
typedef struct product {
  int64_t m, n, inner, batch;
  const double *a, *b;
  double *y;
  bool ta, tb;
  int64_t lda, ldb, ldy, step_a, step_b, step_y; /* from a row, from a matrix to the next */
  double alpha, beta;
} product;

static void multiply(ebb_context *c, const char *op, product p) {
  cublasHandle_t blas = blas_of(c, op);
  if (!blas)
    return;
  CUDA_FOR_PIECES(p.batch, BATCH, first, count) {
    cublasStatus_t status = cublasDgemmStridedBatched(
        blas, p.tb ? CUBLAS_OP_T : CUBLAS_OP_N, p.ta ? CUBLAS_OP_T : CUBLAS_OP_N, (int)p.n, (int)p.m,
        (int)p.inner, &p.alpha, p.b + first * p.step_b, (int)p.ldb, p.step_b, p.a + first * p.step_a,
        (int)p.lda, p.step_a, &p.beta, p.y + first * p.step_y, (int)p.ldy, p.step_y, (int)count);
    if (status != CUBLAS_STATUS_SUCCESS) {
      ebb_context_fail(c, "%s: cuBLAS, %lld products [%lld, %lld] x [%lld, %lld]: %s", op, (long long)count,
                       (long long)p.m, (long long)p.inner, (long long)p.inner, (long long)p.n,
                       cublasGetStatusString(status));
      return;
    }
  }
}

static void mirror(ebb_context *c, double *a, int64_t batch, int64_t n) {
  unsigned tiles = (unsigned)cuda_ceil(n, TILE);
  CUDA_FOR_PIECES(batch, BATCH, first, count)
  mirror_kernel<<<dim3(tiles, tiles, (unsigned)count), dim3(TILE, 8), 0, cuda_stream(c)>>>(a + first * n * n,
                                                                                           (int)n);
}

void cuda_gram(ebb_context *c, ebb_tensor g, ebb_tensor x) {
  int64_t batch = x.shape[0], n = x.shape[1], d = x.shape[2];
  const double *from = cuda_at<const double>(x);
  double *to = cuda_at<double>(g);
  for (int64_t row = 0; row < n; row += STRIPE) {
    int64_t end = row + STRIPE < n ? row + STRIPE : n;
    multiply(c, "gram",
             {end - row, end, d, batch, from + row * d, from, to + row * n, false, true, d, d, n, n * d,
              n * d, n * n, 1, 0});
  }
  mirror(c, to, batch, n);
  cuda_launched(c, "gram");
}

void cuda_matmul(ebb_context *c, ebb_tensor y, ebb_tensor a, bool transpose_a, ebb_tensor b,
                 bool transpose_b) {
  int64_t batch = y.shape[0], m = y.shape[1], n = y.shape[2], inner = a.shape[transpose_a ? 1 : 2];
  multiply(c, "matmul",
           {m, n, inner, batch, cuda_at<const double>(a), cuda_at<const double>(b), cuda_at<double>(y),
            transpose_a, transpose_b, a.shape[2], b.shape[2], n, m * inner, inner * n, m * n, 1, 0});
}

void cuda_add_diagonal(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor shift) {
  int64_t n = a.shape[1];
  unsigned blocks = (unsigned)cuda_ceil(n * n, 2048);
  CUDA_FOR_PIECES(a.shape[0], BATCH, first, count)
  add_diagonal_kernel<<<dim3(blocks, (unsigned)count), 256, 0, cuda_stream(c)>>>(
      cuda_at<double>(y) + first * n * n, cuda_at<const double>(a) + first * n * n,
      cuda_at<const double>(shift) + first, (int)n);
  cuda_launched(c, "add_diagonal");
}

/* Two panels and the inverse of the diagonal block, for every matrix. */
size_t cuda_spd_inverse_scratch(ebb_context *c, ebb_tensor a) {
  (void)c;
  int64_t batch = a.shape[0], n = a.shape[1];
  return n <= SIDE ? 0 : (size_t)(batch * (2 * n * SIDE + SIDE * SIDE)) * sizeof(double);
}

/* Sweeps one block of rows and columns after another: with k the block, d = a_kk^-1 and * all else,
 * a_** -= a_*k d a_k*, a_*k <- a_*k d, a_kk <- -d. When all are swept a is -a^-1. Twice the operations of a
 * Cholesky factor and its inverse, nearly all of them in products. */
void cuda_spd_inverse(ebb_context *c, ebb_tensor t, void *scratch) {
  int64_t batch = t.shape[0], n = t.shape[1];
  double *a = cuda_at<double>(t);
  cudaStream_t stream = cuda_stream(c);
  if (n <= SIDE) {
    sweep_kernel<<<(unsigned)batch, SWEEPERS, 0, stream>>>(a, (int)n, n * n, a, (int)n, n * n, (int)n, -1);
    cuda_launched(c, "spd_inverse");
    return;
  }
  double *panel = (double *)scratch, *divided = panel + batch * n * SIDE, *d = divided + batch * n * SIDE;
  unsigned rows = (unsigned)cuda_ceil(n, TILE);
  for (int64_t k = 0; k < n; k += SIDE) {
    int count = (int)(n - k < SIDE ? n - k : SIDE);
    unsigned columns = (unsigned)cuda_ceil(count, TILE);
    CUDA_FOR_PIECES(batch, BATCH, first, some)
    take_panel_kernel<<<dim3(columns, rows, (unsigned)some), dim3(TILE, 8), 0, stream>>>(
        panel + first * n * count, a + first * n * n, (int)n, (int)k, count);
    sweep_kernel<<<(unsigned)batch, SWEEPERS, 0, stream>>>(d, SIDE, SIDE * SIDE, a + k * n + k, (int)n, n * n,
                                                           count, -1);
    multiply(c, "spd_inverse",
             {n, count, count, batch, panel, d, divided, false, false, count, SIDE, count, n * count,
              SIDE * SIDE, n * count, 1, 0});
    for (int64_t row = 0; row < n; row += STRIPE) {
      int64_t end = row + STRIPE < n ? row + STRIPE : n;
      multiply(c, "spd_inverse",
               {end - row, end, count, batch, divided + row * count, panel, a + row * n, false, true, count,
                count, n, n * count, n * count, n * n, -1, 1});
    }
    CUDA_FOR_PIECES(batch, BATCH, first, some)
    put_panel_kernel<<<dim3(columns, rows, (unsigned)some), dim3(TILE, 8), 0, stream>>>(
        a + first * n * n, divided + first * n * count, d + first * SIDE * SIDE, (int)n, (int)k, count);
  }
  negate_kernel<<<(unsigned)(cuda_of(c)->processors * 8), 256, 0, stream>>>(a, batch * n * n);
  mirror(c, a, batch, n);
  cuda_launched(c, "spd_inverse");
}
