#include "kernels/cuda/conv_plan.h"

#include <cudnn_graph.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIGS 24     /* looked at in each of the heuristic's lists */
#define DESCRIPTORS 24 /* of one graph, at most */
#define WORKERS 8      /* threads that make plans, at most */

typedef cudnnBackendDescriptor_t descriptor;

/* The first call that failed, and what cuDNN said of it in the thread that called. */
typedef struct failure {
  cudnnStatus_t status;
  const char *call;
  char detail[256];
} failure;

typedef struct worker {
  cuda_convolutions *all;
  pthread_t thread;
  pthread_mutex_t turn; /* a handle is for one thread at a time: who makes a plan, or runs one */
  cudnnHandle_t handle;
  failure failed; /* there is no handle */
} worker;

struct conv_plan {
  conv_shape shape;
  worker *by;
  descriptor execution; /* of CONV_READY */
  failure failed;       /* of CONV_FAILED */
  conv_made made;       /* under the lock */
  conv_plan *next;
};

struct cuda_convolutions {
  int device;
  cudaStream_t stream;
  pthread_mutex_t lock;
  pthread_cond_t more, done; /* a plan is to be made, or all is to end; a plan is made */
  conv_plan *first, *last;   /* in the order in which they were asked for */
  conv_plan *pending;        /* the first that no worker has taken */
  worker workers[WORKERS];
  int count;
  bool closing;
};

/* Calls unless something failed before; true when all went well. */
#define TRY(f, call, ...) ((f)->status == CUDNN_STATUS_SUCCESS && kept((f), #call, call(__VA_ARGS__)))

static bool kept(failure *f, const char *call, cudnnStatus_t status) {
  if (status == CUDNN_STATUS_SUCCESS)
    return true;
  f->status = status;
  f->call = call;
  cudnnGetLastErrorString(f->detail, sizeof f->detail);
  return false;
}

/* ---- the graph: what is to be computed ------------------------------------------------------------------ */

/* Descriptors while they are made; after the first failure nothing more is done. */
typedef struct graph {
  failure failed;
  descriptor made[DESCRIPTORS];
  int count;
} graph;

static descriptor begin(graph *g, cudnnBackendDescriptorType_t type) {
  descriptor d = NULL;
  if (TRY(&g->failed, cudnnBackendCreateDescriptor, type, &d))
    g->made[g->count++] = d;
  return d;
}

static void set(graph *g, descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *values) {
  TRY(&g->failed, cudnnBackendSetAttribute, d, name, type, count, values);
}

static void set_number(graph *g, descriptor d, cudnnBackendAttributeName_t name, int64_t value) {
  set(g, d, name, CUDNN_TYPE_INT64, 1, &value);
}

static void set_part(graph *g, descriptor d, cudnnBackendAttributeName_t name, descriptor part) {
  set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static descriptor finish(graph *g, descriptor d) {
  TRY(&g->failed, cudnnBackendFinalize, d);
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

/* cuDNN cannot convolve the shape, as opposed to: cannot do what it otherwise could. */
static bool refused(cudnnStatus_t status) {
  switch (status) {
  case CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDA_DRIVER:
  case CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDART:
  case CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING:
  case CUDNN_STATUS_NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE:
    return false;
  default:
    return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED;
  }
}

/* What may go well in the next run: another engine would give this one other bytes. */
static bool passing(cudnnStatus_t status) {
  return status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
         status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ||
         CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_EXECUTION_FAILED ||
         CUDNN_STATUS_CATEGORY(status) == 1000 /* not initialised, a library that does not load */;
}

/* Keeps the first that is no refusal; false: no use in going on. */
static bool note(conv_plan *plan, const failure *f) {
  if (f->status != CUDNN_STATUS_SUCCESS && !refused(f->status) && plan->failed.status == CUDNN_STATUS_SUCCESS)
    plan->failed = *f;
  return !passing(f->status);
}

/* No engine that sums in an order of its own, or in less than float32: the same bytes in every run, and the error
 * that conv3d.cu counts on. */
static bool acceptable(failure *f, descriptor config) {
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  descriptor engine = NULL;
  int64_t n = 0, count = 0;
  bool ok = TRY(f, cudnnBackendCreateDescriptor, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) &&
            TRY(f, cudnnBackendGetAttribute, config, CUDNN_ATTR_ENGINECFG_ENGINE,
                CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine) &&
            TRY(f, cudnnBackendGetAttribute, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes);
  for (int64_t i = 0; ok && i < count; i++)
    ok = notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || notes[i] == CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP;
  if (engine)
    cudnnBackendDestroyDescriptor(engine);
  return ok;
}

/* The execution plan of an engine configuration, or NULL where it cannot, or wants too much memory. */
static descriptor plan_of(failure *f, cudnnHandle_t handle, descriptor config) {
  descriptor plan = NULL;
  int64_t bytes = 0, n = 0;
  if (!TRY(f, cudnnBackendCreateDescriptor, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan))
    return NULL;
  bool ok = TRY(f, cudnnBackendSetAttribute, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                &handle) &&
            TRY(f, cudnnBackendSetAttribute, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) &&
            TRY(f, cudnnBackendFinalize, plan) &&
            TRY(f, cudnnBackendGetAttribute, plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                1, &n, &bytes) &&
            bytes <= (int64_t)CONV_WORKSPACE;
  if (!ok) {
    cudnnBackendDestroyDescriptor(plan);
    return NULL;
  }
  return plan;
}

/* The engine configurations that cuDNN recommends for the graph, best first; returns how many. */
static int configs_of(failure *f, descriptor operations, cudnnBackendHeurMode_t mode,
                      descriptor configs[CONFIGS]) {
  graph g = {{CUDNN_STATUS_SUCCESS}};
  int64_t count = 0;
  descriptor d = begin(&g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set_part(&g, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations);
  set(&g, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  finish(&g, d);
  for (int i = 0; i < CONFIGS; i++)
    TRY(&g.failed, cudnnBackendCreateDescriptor, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]);
  bool ok = TRY(&g.failed, cudnnBackendGetAttribute, d, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS, &count, configs);
  free_graph(&g);
  *f = g.failed;
  return !ok ? 0 : (int)(count < CONFIGS ? count : CONFIGS);
}

static void free_configs(descriptor configs[CONFIGS]) {
  for (int i = 0; i < CONFIGS; i++)
    if (configs[i])
      cudnnBackendDestroyDescriptor(configs[i]);
}

/* The first engine of a list that will do; false: no use in looking further. */
static bool look_in(conv_plan *plan, cudnnHandle_t handle, descriptor operations,
                    cudnnBackendHeurMode_t mode) {
  descriptor configs[CONFIGS] = {NULL};
  failure offered = {CUDNN_STATUS_SUCCESS};
  int n = configs_of(&offered, operations, mode, configs);
  bool on = note(plan, &offered);
  for (int i = 0; i < n && on && !plan->execution; i++) {
    failure f = {CUDNN_STATUS_SUCCESS};
    if (acceptable(&f, configs[i]))
      plan->execution = plan_of(&f, handle, configs[i]);
    on = note(plan, &f);
  }
  free_configs(configs);
  return on && !plan->execution;
}

static conv_made make_plan(conv_plan *plan, cudnnHandle_t handle) {
  graph g = {{CUDNN_STATUS_SUCCESS}};
  descriptor operations = graph_of(&g, handle, &plan->shape);
  note(plan, &g.failed);
  if (g.failed.status == CUDNN_STATUS_SUCCESS)
    (void)(look_in(plan, handle, operations, CUDNN_HEUR_MODE_A) &&
           look_in(plan, handle, operations, CUDNN_HEUR_MODE_B) &&
           look_in(plan, handle, operations, CUDNN_HEUR_MODE_FALLBACK));
  free_graph(&g);
  return plan->execution                               ? CONV_READY
         : plan->failed.status == CUDNN_STATUS_SUCCESS ? CONV_NO_ENGINE
                                                       : CONV_FAILED;
}

/* ---- the workers -------------------------------------------------------------------------------------------- */

static void open_handle(worker *w) {
  cudaError_t result = cudaSetDevice(w->all->device);
  if (result != cudaSuccess) {
    w->failed = (failure){CUDNN_STATUS_NOT_INITIALIZED, "cudaSetDevice"};
    snprintf(w->failed.detail, sizeof w->failed.detail, "%s", cudaGetErrorString(result));
    return;
  }
  TRY(&w->failed, cudnnCreate, &w->handle);
  TRY(&w->failed, cudnnSetStream, w->handle, w->all->stream);
}

/* The body of a thread: makes plans, the oldest first, until all is to end. */
static void *work(void *argument) {
  worker *w = (worker *)argument;
  cuda_convolutions *all = w->all;
  open_handle(w);
  pthread_mutex_lock(&all->lock);
  for (;;) {
    while (!all->pending && !all->closing)
      pthread_cond_wait(&all->more, &all->lock);
    if (all->closing)
      break;
    conv_plan *plan = all->pending;
    all->pending = plan->next;
    pthread_mutex_unlock(&all->lock);
    plan->by = w;
    plan->failed = w->failed;
    conv_made made = CONV_FAILED;
    if (w->failed.status == CUDNN_STATUS_SUCCESS) {
      pthread_mutex_lock(&w->turn);
      made = make_plan(plan, w->handle);
      pthread_mutex_unlock(&w->turn);
    }
    pthread_mutex_lock(&all->lock);
    plan->made = made;
    pthread_cond_broadcast(&all->done);
  }
  pthread_mutex_unlock(&all->lock);
  return NULL;
}

/* One worker more, while there are fewer than cores. False: there is none at all. */
static bool add_worker(cuda_convolutions *all) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  if (all->count < WORKERS && (all->count == 0 || all->count < cores)) {
    worker *w = &all->workers[all->count];
    w->all = all;
    pthread_mutex_init(&w->turn, NULL);
    if (pthread_create(&w->thread, NULL, work, w) == 0)
      all->count++;
    else
      pthread_mutex_destroy(&w->turn);
  }
  return all->count > 0;
}

static cuda_convolutions *convolutions_of(ebb_context *c) {
  cuda_state *s = cuda_of(c);
  if (!s->convolutions && (s->convolutions = (cuda_convolutions *)calloc(1, sizeof *s->convolutions))) {
    s->convolutions->device = s->device;
    s->convolutions->stream = s->stream;
    pthread_mutex_init(&s->convolutions->lock, NULL);
    pthread_cond_init(&s->convolutions->more, NULL);
    pthread_cond_init(&s->convolutions->done, NULL);
  }
  return s->convolutions;
}

/* ---- what conv3d.cu calls --------------------------------------------------------------------------------- */

conv_plan *cuda_conv_plan(ebb_context *c, const char *op, const conv_shape *shape) {
  cuda_convolutions *all = convolutions_of(c);
  for (conv_plan *p = all ? all->first : NULL; p; p = p->next)
    if (memcmp(&p->shape, shape, sizeof *shape) == 0)
      return p;
  conv_plan *plan = all && add_worker(all) ? (conv_plan *)calloc(1, sizeof *plan) : NULL;
  if (!plan) {
    ebb_context_fail(c, "%s: no memory or no thread to make cuDNN's plan with", op);
    return NULL;
  }
  plan->shape = *shape;
  pthread_mutex_lock(&all->lock);
  if (all->last)
    all->last->next = plan;
  else
    all->first = plan;
  all->last = plan;
  all->pending = all->pending ? all->pending : plan;
  pthread_cond_signal(&all->more);
  pthread_mutex_unlock(&all->lock);
  return plan;
}

/* cuDNN's failure as the context's. */
static void tell(ebb_context *c, const char *op, const char *what, const failure *f) {
  ebb_context_fail(c, "%s: cuDNN %zu on %s cannot %s: %s says: %s: %s", op, cudnnGetVersion(), c->device,
                   what, f->call, cudnnGetErrorString(f->status), f->detail);
}

conv_made cuda_conv_wait(ebb_context *c, const char *op, conv_plan *plan) {
  cuda_convolutions *all = cuda_of(c)->convolutions;
  pthread_mutex_lock(&all->lock);
  while (plan->made == CONV_WAITING)
    pthread_cond_wait(&all->done, &all->lock);
  conv_made made = plan->made;
  pthread_mutex_unlock(&all->lock);
  if (made == CONV_FAILED)
    tell(c, op,
         "make its plan (it needs some memory beside ours, on the device and on the host, and its own "
         "libraries "
         "and NVRTC of the same CUDA)",
         &plan->failed);
  return made;
}

void cuda_conv_run(ebb_context *c, const char *op, conv_plan *plan, void *y, const void *x, const void *w,
                   const void *b, const void *r, void *workspace) {
  const int64_t ids[] = {X, W, B, R, Y};
  const void *const data[] = {x, w, b, r, y};
  graph g = {{CUDNN_STATUS_SUCCESS}};
  descriptor pack = begin(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 5, ids);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 5, data);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  finish(&g, pack);
  pthread_mutex_lock(&plan->by->turn);
  TRY(&g.failed, cudnnBackendExecute, plan->by->handle, plan->execution, pack);
  pthread_mutex_unlock(&plan->by->turn);
  if (g.failed.status != CUDNN_STATUS_SUCCESS)
    tell(c, op, "run its plan", &g.failed);
  free_graph(&g);
}

void cuda_convolutions_close(cuda_convolutions *all) {
  if (!all)
    return;
  pthread_mutex_lock(&all->lock);
  all->closing = true; /* what no worker has taken stays unmade */
  pthread_cond_broadcast(&all->more);
  pthread_mutex_unlock(&all->lock);
  for (int i = 0; i < all->count; i++)
    pthread_join(all->workers[i].thread, NULL);
  for (conv_plan *plan = all->first, *next; plan; plan = next) {
    next = plan->next;
    if (plan->execution)
      cudnnBackendDestroyDescriptor(plan->execution);
    free(plan);
  }
  for (int i = 0; i < all->count; i++) {
    if (all->workers[i].handle)
      cudnnDestroy(all->workers[i].handle);
    pthread_mutex_destroy(&all->workers[i].turn);
  }
  pthread_cond_destroy(&all->more);
  pthread_cond_destroy(&all->done);
  pthread_mutex_destroy(&all->lock);
  free(all);
}
