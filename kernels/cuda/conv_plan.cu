#include "kernels/cuda/conv_plan.h"

#include <cudnn_graph.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CONFIGS 24     /* looked at in each of the heuristic's lists */
#define DESCRIPTORS 24 /* of one graph, at most */

typedef cudnnBackendDescriptor_t descriptor;

struct conv_plan {
  conv_shape shape;
  int device;
  cudaStream_t stream;
  pthread_t thread;
  bool joined;
  cudnnHandle_t handle; /* its own: a handle is for one thread at a time */
  descriptor execution; /* NULL: no engine takes this shape */
  conv_plan *next;
};

struct cuda_convolutions {
  conv_plan *plans;
};

/* ---- the graph: what is to be computed ------------------------------------------------------------------ */

/* Descriptors while they are made; after the first failure nothing more is done. */
typedef struct graph {
  cudnnStatus_t status;
  descriptor made[DESCRIPTORS];
  int count;
} graph;

static descriptor begin(graph *g, cudnnBackendDescriptorType_t type) {
  descriptor d = NULL;
  if (g->status == CUDNN_STATUS_SUCCESS)
    g->status = cudnnBackendCreateDescriptor(type, &d);
  if (d)
    g->made[g->count++] = d;
  return d;
}

static void set(graph *g, descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *values) {
  if (g->status == CUDNN_STATUS_SUCCESS)
    g->status = cudnnBackendSetAttribute(d, name, type, count, values);
}

static void set_number(graph *g, descriptor d, cudnnBackendAttributeName_t name, int64_t value) {
  set(g, d, name, CUDNN_TYPE_INT64, 1, &value);
}

static void set_part(graph *g, descriptor d, cudnnBackendAttributeName_t name, descriptor part) {
  set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static descriptor finish(graph *g, descriptor d) {
  if (g->status == CUDNN_STATUS_SUCCESS)
    g->status = cudnnBackendFinalize(d);
  return d;
}

static void free_graph(graph *g) {
  while (g->count > 0)
    cudnnBackendDestroyDescriptor(g->made[--g->count]);
}

enum { X = 1, W, B, R, Y, PRODUCTS, SUM /* the last two live in registers only */ };

/* A tensor [n, t, h, w, c] in memory, which cuDNN wants to hear of as n, c, t, h, w. */
static descriptor tensor(graph *g, int64_t id, cudnnDataType_t type, int64_t n, int64_t t, int64_t h,
                         int64_t w, int64_t c) {
  const int64_t shape[5] = {n, c, t, h, w}, strides[5] = {t * h * w * c, 1, h * w * c, w * c, c};
  const bool in_registers = id >= PRODUCTS;
  descriptor d = begin(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 5, shape);
  set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 5, strides);
  set_number(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  set_number(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
  set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &in_registers);
  return finish(g, d);
}

static descriptor convolution(graph *g, const conv_shape *s, descriptor x, descriptor w, descriptor y) {
  const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const int64_t pads[3] = {0, s->pad_h, s->pad_w}, steps[3] = {s->step_t, s->step, s->step},
                ones[3] = {1, 1, 1};
  const float alpha = 1, beta = 0;
  descriptor v = begin(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  set(g, v, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
  set(g, v, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  set_number(g, v, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 3);
  set(g, v, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 3, pads);
  set(g, v, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 3, pads);
  set(g, v, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 3, steps);
  set(g, v, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 3, ones);
  finish(g, v);
  descriptor op = begin(g, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
  set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, v);
  set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
  set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
  set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
  set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha);
  set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
  return finish(g, op);
}

/* y = x + b, b broadcast where it is 1 long */
static descriptor addition(graph *g, descriptor x, descriptor b, descriptor y) {
  const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
  const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
  descriptor v = begin(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(g, v, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  set(g, v, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &sums);
  finish(g, v);
  descriptor op = begin(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, v);
  set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
  set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  return finish(g, op);
}

/* Always two additions: without a residual, r is a vector. A graph of fewer is a pattern that cuDNN has ready
 * kernels for, and none of those writes float32 or is as fast. */
static descriptor graph_of(graph *g, cudnnHandle_t handle, const conv_shape *s) {
  const cudnnDataType_t outside = s->half ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT, in = CUDNN_DATA_BFLOAT16,
                        inside = CUDNN_DATA_FLOAT;
  const int64_t To = s->To, Ho = s->Ho, Wo = s->Wo, Co = s->Co;
  descriptor x = tensor(g, X, in, 1, s->T, s->H, s->W, s->Ci),
             w = tensor(g, W, in, Co, s->kt, s->kh, s->kw, s->Ci);
  descriptor b = tensor(g, B, outside, 1, 1, 1, 1, Co), y = tensor(g, Y, outside, 1, To, Ho, Wo, Co);
  descriptor products = tensor(g, PRODUCTS, inside, 1, To, Ho, Wo, Co),
             sum = tensor(g, SUM, inside, 1, To, Ho, Wo, Co);
  descriptor r =
      s->residual ? tensor(g, R, outside, 1, To, Ho, Wo, Co) : tensor(g, R, outside, 1, 1, 1, 1, Co);
  descriptor ops[3] = {convolution(g, s, x, w, products), addition(g, products, b, sum),
                       addition(g, sum, r, y)};
  descriptor d = begin(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(g, d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 3, ops);
  set(g, d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  return finish(g, d);
}

/* ---- the plan: who computes it ---------------------------------------------------------------------------- */

/* No engine that sums in an order of its own, or in less than float32: the same bytes in every run, and the error
 * that conv3d.cu counts on. */
static bool acceptable(descriptor config) {
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  descriptor engine = NULL;
  int64_t n = 0, count = 0;
  bool ok = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) == CUDNN_STATUS_SUCCESS &&
            cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                     &n, &engine) == CUDNN_STATUS_SUCCESS &&
            cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                     CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes) == CUDNN_STATUS_SUCCESS;
  for (int64_t i = 0; ok && i < count; i++)
    ok = notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || notes[i] == CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP;
  if (engine)
    cudnnBackendDestroyDescriptor(engine);
  return ok;
}

/* The execution plan of an engine configuration, or NULL where it cannot, or wants too much memory. */
static descriptor plan_of(cudnnHandle_t handle, descriptor config) {
  descriptor plan = NULL;
  int64_t bytes = 0, n = 0;
  if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) != CUDNN_STATUS_SUCCESS)
    return NULL;
  bool ok = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle) ==
                CUDNN_STATUS_SUCCESS &&
            cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) == CUDNN_STATUS_SUCCESS &&
            cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS &&
            cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n,
                                     &bytes) == CUDNN_STATUS_SUCCESS &&
            bytes <= (int64_t)CONV_WORKSPACE;
  if (!ok) {
    cudnnBackendDestroyDescriptor(plan);
    return NULL;
  }
  return plan;
}

/* The engine configurations that cuDNN recommends for the graph, best first; returns how many. */
static int configs_of(descriptor operations, cudnnBackendHeurMode_t mode, descriptor configs[CONFIGS]) {
  graph g = {CUDNN_STATUS_SUCCESS};
  int64_t count = 0;
  descriptor d = begin(&g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set_part(&g, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations);
  set(&g, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  finish(&g, d);
  for (int i = 0; i < CONFIGS && g.status == CUDNN_STATUS_SUCCESS; i++)
    g.status = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]);
  if (g.status == CUDNN_STATUS_SUCCESS)
    g.status = cudnnBackendGetAttribute(d, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                        CONFIGS, &count, configs);
  free_graph(&g);
  return g.status == CUDNN_STATUS_SUCCESS ? (int)(count < CONFIGS ? count : CONFIGS) : 0;
}

static void free_configs(descriptor configs[CONFIGS]) {
  for (int i = 0; i < CONFIGS; i++)
    if (configs[i])
      cudnnBackendDestroyDescriptor(configs[i]);
}

/* The body of a plan's thread. */
static void *make_plan(void *argument) {
  const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK};
  conv_plan *plan = (conv_plan *)argument;
  if (cudaSetDevice(plan->device) != cudaSuccess || cudnnCreate(&plan->handle) != CUDNN_STATUS_SUCCESS ||
      cudnnSetStream(plan->handle, plan->stream) != CUDNN_STATUS_SUCCESS)
    return NULL;
  graph g = {CUDNN_STATUS_SUCCESS};
  descriptor operations = graph_of(&g, plan->handle, &plan->shape);
  for (int m = 0; m < 3 && g.status == CUDNN_STATUS_SUCCESS && !plan->execution; m++) {
    descriptor configs[CONFIGS] = {NULL};
    int n = configs_of(operations, modes[m], configs);
    for (int i = 0; i < n && !plan->execution; i++)
      if (acceptable(configs[i]))
        plan->execution = plan_of(plan->handle, configs[i]);
    free_configs(configs);
  }
  free_graph(&g);
  return NULL;
}

/* ---- what conv3d.cu calls --------------------------------------------------------------------------------- */

conv_plan *cuda_conv_plan(ebb_context *c, const char *op, const conv_shape *shape) {
  cuda_state *s = cuda_of(c);
  if (!s->convolutions)
    s->convolutions = (cuda_convolutions *)calloc(1, sizeof *s->convolutions);
  for (conv_plan *p = s->convolutions ? s->convolutions->plans : NULL; p; p = p->next)
    if (memcmp(&p->shape, shape, sizeof *shape) == 0)
      return p;
  conv_plan *plan = s->convolutions ? (conv_plan *)calloc(1, sizeof *plan) : NULL;
  if (plan) {
    plan->shape = *shape;
    plan->device = s->device;
    plan->stream = s->stream;
  }
  if (!plan || pthread_create(&plan->thread, NULL, make_plan, plan) != 0) {
    free(plan);
    ebb_context_fail(c, "%s: no memory or no thread to make cuDNN's plan with", op);
    return NULL;
  }
  plan->next = s->convolutions->plans;
  return s->convolutions->plans = plan;
}

bool cuda_conv_ready(conv_plan *plan) {
  if (!plan->joined)
    pthread_join(plan->thread, NULL);
  plan->joined = true;
  return plan->execution != NULL;
}

void cuda_conv_run(ebb_context *c, const char *op, conv_plan *plan, void *y, const void *x, const void *w,
                   const void *b, const void *r, void *workspace) {
  const int64_t ids[] = {X, W, B, R, Y};
  const void *const data[] = {x, w, b, r, y};
  graph g = {CUDNN_STATUS_SUCCESS};
  descriptor pack = begin(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 5, ids);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 5, data);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  finish(&g, pack);
  if (g.status == CUDNN_STATUS_SUCCESS)
    g.status = cudnnBackendExecute(plan->handle, plan->execution, pack);
  if (g.status != CUDNN_STATUS_SUCCESS) {
    char detail[256] = "";
    cudnnGetLastErrorString(detail, sizeof detail);
    ebb_context_fail(c, "%s: cuDNN %zu on %s: %s: %s", op, cudnnGetVersion(), c->device,
                     cudnnGetErrorString(g.status), detail);
  }
  free_graph(&g);
}

void cuda_convolutions_close(cuda_convolutions *all) {
  while (all && all->plans) {
    conv_plan *plan = all->plans;
    all->plans = plan->next;
    cuda_conv_ready(plan);
    if (plan->execution)
      cudnnBackendDestroyDescriptor(plan->execution);
    if (plan->handle)
      cudnnDestroy(plan->handle);
    free(plan);
  }
  free(all);
}
