/* Products through cuBLASLt. Its choice for a shape is asked once and kept.
 *
 * A sample is one product of a strided batch, and the choice depends on the sample's shape alone, asked as if
 * for a full batch: so the bytes of a sample are the same in any batch. Reductions across blocks (split K)
 * are ruled out. float32 means float32: no TF32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

#define WORKSPACE ((size_t)32 << 20) /* what cuBLAS asks for on Hopper */
#define CHOICES_MAX 1024
#define BATCH_MAX 32768 /* samples of one product: what every kernel's grid holds */
#define FULL_ROWS 32768 /* rows of a batch that fills a device: what choices are made for */

/* y [B,S,N] = x [B,S,K] w' [N,K]: everything that a choice depends on. */
typedef struct shape {
  int64_t S, N, K, B;
  ebb_dtype in, out;
  int bias, gelu;
  int alignment; /* bytes, of all addresses and strides */
} shape;

typedef struct choice {
  shape of;
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t w, x, y;
  cublasLtMatmulAlgo_t algorithm;
} choice;

struct cuda_products {
  cublasLtHandle_t handle;
  void *workspace;
  choice *choices; /* [CHOICES_MAX] */
  int count;
};

/* ---- choosing ---------------------------------------------------------------------------------------- */

static bool lt_ok(ebb_context *c, cublasStatus_t status, const shape *s, const char *doing) {
  if (status == CUBLAS_STATUS_SUCCESS)
    return true;
  ebb_context_fail(c, "linear: cuBLASLt on %s says %s while %s [%lld, %lld, %lld] x [%lld, %lld]", c->device,
                   cublasLtGetStatusName(status), doing, (long long)s->B, (long long)s->S, (long long)s->K,
                   (long long)s->N, (long long)s->K);
  return false;
}

static cudaDataType_t type_of(ebb_dtype dtype) {
  return dtype == EBB_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* Column-major rows x columns with B matrices `stride` apart; cuBLAS sees our row-major tensors transposed. */
static cublasStatus_t layout(cublasLtMatrixLayout_t *to, ebb_dtype dtype, int64_t rows, int64_t columns,
                             int64_t B, int64_t stride) {
  int32_t count = (int32_t)B;
  cublasStatus_t s = cublasLtMatrixLayoutCreate(to, type_of(dtype), (uint64_t)rows, (uint64_t)columns, rows);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatrixLayoutSetAttribute(*to, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatrixLayoutSetAttribute(*to, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                         sizeof stride);
  return s;
}

static cublasStatus_t layouts(choice *k, int64_t B) {
  const shape *s = &k->of;
  cublasStatus_t r = layout(&k->w, s->in, s->K, s->N, B, 0);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = layout(&k->x, s->in, s->K, s->S, B, s->S * s->K);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = layout(&k->y, s->out, s->N, s->S, B, s->S * s->N);
  return r;
}

static void drop_layouts(choice *k) {
  cublasLtMatrixLayout_t *all[] = {&k->w, &k->x, &k->y};
  for (int i = 0; i < 3; i++) {
    if (*all[i])
      cublasLtMatrixLayoutDestroy(*all[i]);
    *all[i] = NULL;
  }
}

static cublasStatus_t describe(choice *k) {
  cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtEpilogue_t epilogue = k->of.bias
                                    ? (k->of.gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS)
                                    : (k->of.gelu ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT);
  cudaDataType_t bias = type_of(k->of.out);
  cublasStatus_t r = cublasLtMatmulDescCreate(&k->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = cublasLtMatmulDescSetAttribute(k->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof transposed);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = cublasLtMatmulDescSetAttribute(k->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  if (r == CUBLAS_STATUS_SUCCESS && k->of.bias)
    r = cublasLtMatmulDescSetAttribute(k->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias);
  return r;
}

/* The first algorithm that cuBLASLt proposes for the layouts of k. */
static cublasStatus_t propose(const cuda_products *p, choice *k) {
  cublasLtMatmulPreference_t wish = NULL;
  size_t workspace = WORKSPACE;
  uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = (uint32_t)k->of.alignment;
  const cublasLtMatmulPreferenceAttributes_t aligned[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  cublasStatus_t r = cublasLtMatmulPreferenceCreate(&wish);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                             sizeof workspace);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                             sizeof reduction);
  for (int i = 0; i < 4 && r == CUBLAS_STATUS_SUCCESS; i++)
    r = cublasLtMatmulPreferenceSetAttribute(wish, aligned[i], &alignment, sizeof alignment);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = cublasLtMatmulAlgoGetHeuristic(p->handle, k->product, k->w, k->x, k->y, k->y, wish, 1, &found,
                                       &count);
  if (r == CUBLAS_STATUS_SUCCESS && count == 0)
    r = CUBLAS_STATUS_NOT_SUPPORTED;
  if (r == CUBLAS_STATUS_SUCCESS)
    k->algorithm = found.algo;
  if (wish)
    cublasLtMatmulPreferenceDestroy(wish);
  return r;
}

static bool same_but_batch(const shape *a, const shape *b) {
  return a->S == b->S && a->N == b->N && a->K == b->K && a->in == b->in && a->out == b->out &&
         a->bias == b->bias && a->gelu == b->gelu && a->alignment == b->alignment;
}

static void drop(choice *k) {
  drop_layouts(k);
  if (k->product)
    cublasLtMatmulDescDestroy(k->product);
  memset(k, 0, sizeof *k);
}

static choice *choose(ebb_context *c, const shape *s) {
  cuda_products *p = cuda_of(c)->products;
  for (int i = 0; i < p->count; i++)
    if (same_but_batch(&p->choices[i].of, s) && p->choices[i].of.B == s->B)
      return &p->choices[i];
  if (p->count == CHOICES_MAX) { /* a run has a few dozen shapes; a benchmark of many starts over */
    while (p->count > 0)
      drop(&p->choices[--p->count]);
  }
  choice *k = &p->choices[p->count];
  memset(k, 0, sizeof *k);
  k->of = *s;
  int64_t full = s->S < FULL_ROWS ? FULL_ROWS / s->S : 1;
  cublasStatus_t r = describe(k);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = layouts(k, full);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = propose(p, k);
  drop_layouts(k);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = layouts(k, s->B);
  if (!lt_ok(c, r, s, "choosing how to multiply")) {
    drop(k);
    return NULL;
  }
  p->count++;
  return k;
}

/* ---- launching --------------------------------------------------------------------------------------- */

void cuda_products_close(cuda_products *p) {
  if (!p)
    return;
  while (p->count > 0)
    drop(&p->choices[--p->count]);
  cudaFree(p->workspace);
  if (p->handle)
    cublasLtDestroy(p->handle);
  free(p->choices);
  free(p);
}

static bool open_products(ebb_context *c) {
  cuda_state *s = cuda_of(c);
  if (s->products)
    return true;
  cuda_products *p = (cuda_products *)calloc(1, sizeof *p);
  if (p)
    p->choices = (choice *)calloc(CHOICES_MAX, sizeof *p->choices);
  if (!p || !p->choices) {
    ebb_context_fail(c, "linear: no memory");
    free(p);
    return false;
  }
  shape none = {0};
  bool ok = lt_ok(c, cublasLtCreate(&p->handle), &none, "opening") &&
            cuda_ok(c, "linear", cudaMalloc(&p->workspace, WORKSPACE));
  if (ok)
    s->products = p;
  else
    cuda_products_close(p);
  return ok;
}

/* The largest power of two up to 16 that divides all of them. */
static int alignment_of(const uintptr_t *numbers, int count) {
  uintptr_t all = 16;
  for (int i = 0; i < count; i++)
    all |= numbers[i];
  return (int)(all & (~all + 1));
}

static void multiply(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b,
                     ebb_activation act) {
  cuda_products *p = cuda_of(c)->products;
  shape s = {.N = w.shape[0], .K = w.shape[1], .in = x.dtype, .out = y.dtype, .bias = ebb_present(b)};
  s.S = x.rank <= 2 ? 1 : ebb_rows(x) / x.shape[0];
  s.B = ebb_rows(x) / s.S;
  /* cuBLASLt's GELU is the tanh form, with an approximate tanh: good enough when the result is rounded to 8
   * bits. */
  s.gelu = act == EBB_GELU_TANH && y.dtype == EBB_BF16;
  const uintptr_t numbers[] = {(uintptr_t)y.data,
                               (uintptr_t)x.data,
                               (uintptr_t)w.data,
                               (uintptr_t)b.data,
                               (uintptr_t)s.K * ebb_dtype_size(x.dtype),
                               (uintptr_t)s.N * ebb_dtype_size(y.dtype)};
  s.alignment = alignment_of(numbers, 6);
  choice *k = choose(c, &s);
  if (!k)
    return;
  const float one = 1, zero = 0;
  cublasStatus_t r = CUBLAS_STATUS_SUCCESS;
  if (s.bias)
    r = cublasLtMatmulDescSetAttribute(k->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &b.data, sizeof b.data);
  if (r == CUBLAS_STATUS_SUCCESS)
    r = cublasLtMatmul(p->handle, k->product, &one, w.data, k->w, x.data, k->x, &zero, y.data, k->y, y.data,
                       k->y, &k->algorithm, p->workspace, WORKSPACE, cuda_stream(c));
  if (lt_ok(c, r, &s, "multiplying") && act != EBB_IDENTITY && !s.gelu)
    cuda_activate(c, y, y, act);
}

void cuda_linear(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act) {
  if (!open_products(c))
    return;
  if (x.rank == 1) {
    multiply(c, y, x, w, b, act);
    return;
  }
  for (int64_t first = 0; first < x.shape[0]; first += BATCH_MAX) {
    int64_t count = x.shape[0] - first < BATCH_MAX ? x.shape[0] - first : BATCH_MAX;
    multiply(c, ebb_slice(y, first, count), ebb_slice(x, first, count), w, b, act);
  }
}
