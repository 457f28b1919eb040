/* What the tests of every backend ask of the op cases (tests/op_cases.h). Each fails the cmocka test it is
 * called from. */
#ifndef EBB_TESTS_OP_CHECK_H
#define EBB_TESTS_OP_CHECK_H

#include "tests/op_cases.h"

/* A context with so much activation memory. */
void op_open(ebb_context *c, const char *device, size_t megabytes);
void op_run(ebb_context *c, const op_case *k, double *results[OP_TENSORS]);

/* Number of outputs that differ by more than `tolerance`, or by more than their own when a function tells it;
 * each is printed, with `against` what. EBB_SHOW_ERRORS in the environment prints all. */
typedef double op_tolerance_fn(const op_case *k, int tensor);
int op_compare(const op_case *k, double *is[OP_TENSORS], double *should[OP_TENSORS], const char *against,
               op_tolerance_fn *tolerance);
double op_own_tolerance(const op_case *k, int tensor); /* k->tolerance */

/* Bitwise: part (of part_case) is what stands in whole (of k) at that sample. */
void op_assert_same(const op_case *k, const char *what, double *whole[OP_TENSORS], const op_case *part_case,
                    double *part[OP_TENSORS]);

/* The promises of the contract about bytes, for one case: a sample alone and in its batch; attention with and
 * without statistics. And that masses add to 1: those of a frame, of lags, of rows and of columns; the last two
 * within 1e-3 where a device sums bfloat16. True when the case has what is asked for. */
bool op_check_samples(ebb_context *c, const op_case *k);
bool op_check_statistics(ebb_context *c, const op_case *k);
bool op_check_mass(ebb_context *c, const op_case *k, double tolerance);
/* gate_add_norm gives the bytes of gate_add, then norm_modulate. */
bool op_check_fused_norm(ebb_context *c, const op_case *k);
/* In place where the contract allows it: the same bytes as into another tensor. */
void op_check_in_place(ebb_context *c);

#endif
