/* ONE table of operator cases: used by the CPU-against-definition test, the CUDA-against-CPU test and the
 * micro-benchmark. A case is an op, its tensors (roles and shapes as in kernels/ops.h), its numbers and a
 * tolerance; values are drawn from (seed, tensor, element), so that a case is the same everywhere. */
#ifndef EBB_TESTS_OP_CASES_H
#define EBB_TESTS_OP_CASES_H

#include "kernels/ops.h"

#define OP_TENSORS 10

enum {
  OP_IN = 1,
  OP_OUT = 2,
  OP_INOUT = 3,
  OP_BATCHED = 4, /* the outermost dimension is the batch */
  OP_INTEGER = 8  /* int64: keys, numbers of samples */
};

typedef struct op_tensor {
  const char *name;
  int flags; /* OP_IN, OP_OUT or OP_INOUT, with OP_BATCHED or without */
  int rank;  /* 0: absent */
  int64_t shape[EBB_DIMS];
  double scale; /* values are uniform in [-scale, scale); 0 means 1 */
} op_tensor;

typedef struct op_case op_case;
struct op_case {
  const char *op, *label;
  void (*run)(ebb_context *c, const op_case *k, const ebb_tensor *t); /* calls the op */
  void (*truth)(const op_case *k,
                double *const *t); /* tests/op_truth.c: fills the outputs from the inputs in float64 */
  uint64_t seed;
  double tolerance; /* relative L2 error of each output; 0: exact */
  op_tensor t[OP_TENSORS];
  int i[3];    /* heads, activation, frames, patch: what the op has */
  double f[2]; /* eps, or two factors */
  bool f64;    /* tensors are float64 */
  bool large;  /* too slow for the definition: for the micro-benchmark and device against CPU */
  bool huge;   /* full size, gigabytes: for devices, and for the micro-benchmark alone; large as well */
  int64_t first_sample; /* where the batch starts in the drawn values: op_case_sample() */
  unsigned bf16;        /* bit i: the numbers of tensor i are bfloat16; of op_case_halves() */
  bool widened;         /* and are given as float32 all the same, to a backend that has no bfloat16 */
};

extern const op_case op_cases[];
extern const int op_case_count;

/* The case with sample b of the batch alone, same values; b < op_case_batch(k). */
op_case op_case_sample(const op_case *k, int64_t b);
int64_t op_case_batch(const op_case *k);

/* The ways in which an op takes bfloat16 ("Half" in kernels/ops.h): values for op_case.bf16, the first with all
 * tensors that may be. Returns how many there are, 0 for an op that has float32 alone. */
#define OP_HALVES 4
int op_case_halves(const op_case *k, unsigned halves[OP_HALVES]);
ebb_dtype op_case_dtype(const op_case *k, int tensor); /* in which a tensor is given */

int64_t op_tensor_count(const op_tensor *t); /* elements; 0 when absent */

/* The drawn input value of an element, already rounded to its tensor's dtype. Outputs start as NaN. */
double op_case_value(const op_case *k, int tensor, int64_t element);

/* The case's tensors in the activation arena with the drawn inputs, outputs NaN; for timing. Works when
 * counting. */
void op_case_tensors(ebb_context *c, const op_case *k, ebb_tensor t[OP_TENSORS]);

/* Runs a case on a context: tensors with sentinels around them, then everything back as float64 in results[i]
 * (the caller frees). Errors: of the op, a sentinel or an input that was overwritten. */
bool op_case_run(ebb_context *c, const op_case *k, double *results[OP_TENSORS], ebb_error *err);
/* The same from the definition. */
void op_case_truth(const op_case *k, double *results[OP_TENSORS]);
void op_case_free(double *results[OP_TENSORS]);

/* ||a - b||_2 / ||b||_2; infinite when a holds anything but finite numbers. */
double op_relative_error(const double *a, const double *b, int64_t n);

#endif
