/* bench ops: the operators on the cases of tests/op_table.inc. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/sheet.h"
#include "cli/options.h"
#include "tests/op_cases.h"

/* Cases with at least this many numbers are worth timing. */
enum { NUMBERS_MIN = 50000 };

/* What memory-bound calls on a device take turns over: more than its second-level cache holds. */
#define ROTATE_BYTES ((size_t)256 << 20)
enum { COPIES_MAX = 64 };

typedef struct ops_options {
  const char *device, *dtype, *only;
  double seconds;
  int csv, huge;
} ops_options;

/* ---- tensors of a case ------------------------------------------------------------------------------- */

/* What of the case is bfloat16, as op_case.bf16 has it: what a forward gives the op. That is all that may be (the
 * first variant of op_case_halves), but where `x` is the residual stream - in norms and in sums into it - the first
 * variant that leaves it in float32: x float32 -> y bfloat16, x float32 += y bfloat16. */
static unsigned halves_of_forward(const op_case *k) {
  unsigned halves[OP_HALVES], x = 0;
  int count = op_case_halves(k, halves);
  for (int i = 0; i < OP_TENSORS; i++)
    if (k->t[i].rank > 0 && strcmp(k->t[i].name, "x") == 0)
      x = 1u << i;
  for (int i = 0; i < count; i++)
    if (x != 0 && !(halves[i] & x))
      return halves[i];
  return count > 0 ? halves[0] : 0;
}

/* An input that must be symmetric, as drawn for the tests; the others need only be like data. */
static void fill(ebb_context *c, const op_case *k, int i, ebb_tensor t) {
  const op_tensor *of = &k->t[i];
  if (strcmp(of->name, "spd") != 0 && strcmp(of->name, "symmetric") != 0) {
    bench_fill(c, t, of->scale != 0 ? of->scale : 1, k->seed + (uint64_t)i);
    return;
  }
  int64_t n = op_tensor_count(of);
  double *values = malloc((size_t)n * sizeof *values);
  for (int64_t e = 0; values && e < n; e++)
    values[e] = op_case_value(k, i, e);
  if (values && !c->counting)
    ebb_upload(c, t, values);
  free(values);
}

static void take_tensors(ebb_context *c, const op_case *k, ebb_tensor t[OP_TENSORS]) {
  for (int i = 0; i < OP_TENSORS; i++) {
    t[i] = EBB_NO_TENSOR;
    if (k->t[i].rank == 0)
      continue;
    t[i] = ebb_tensor_new(c, EBB_ACTIVATIONS, op_case_dtype(k, i), k->t[i].name, k->t[i].rank, k->t[i].shape);
    fill(c, k, i, t[i]);
  }
}

/* ---- one case ---------------------------------------------------------------------------------------- */

typedef struct rotation {
  ebb_context *c;
  const op_case *k;
  int copies;
  ebb_tensor t[COPIES_MAX][OP_TENSORS];
} rotation;

static void call(void *user, int i) {
  rotation *r = user;
  r->k->run(r->c, r->k, r->t[i % r->copies]);
}

/* Opens the case: memory for as many copies of its tensors as rotation asks for; *once: what one call counts. */
static bool open_case(rotation *r, ebb_counters *once, ebb_error *err) {
  ebb_context *c = r->c;
  bool host = c->activations.place == EBB_HOST;
  ebb_context_count(c);
  take_tensors(c, r->k, r->t[0]);
  size_t tensors = c->activations.used;
  r->copies = 1;
  call(r, 0);
  *once = c->counters;
  size_t peak = c->activations.peak;
  if (!host && tensors > 0 && tensors < ROTATE_BYTES)
    r->copies = (int)((ROTATE_BYTES + tensors - 1) / tensors);
  r->copies = r->copies < COPIES_MAX ? r->copies : COPIES_MAX;
  if (!ebb_context_ok(c, err) ||
      !ebb_context_reserve(c, EBB_ACTIVATIONS, peak + (size_t)(r->copies - 1) * tensors, err))
    return false;
  for (int i = 0; i < r->copies; i++)
    take_tensors(c, r->k, r->t[i]);
  return ebb_context_ok(c, err);
}

static bool run_case(ebb_context *c, const op_case *k, double seconds, const bench_sheet *sheet,
                     ebb_error *err) {
  static rotation r;
  ebb_counters once;
  char shape[EBB_SHAPE_TEXT];
  r = (rotation){.c = c, .k = k};
  if (!open_case(&r, &once, err))
    return false;
  bench_time time = bench_measure(c, call, &r, seconds);
  if (!ebb_context_ok(c, err))
    return false;
  ebb_shape_text(k->t[0].rank, k->t[0].shape, shape);
  ebb_dtype shown = k->f64 ? EBB_F64 : k->bf16 != 0 ? EBB_BF16 : EBB_F32;
  bench_sheet_row(sheet,
                  &(bench_row){k->op, k->label, shape, ebb_dtype_name(shown), time, once.flops, once.bytes});
  return true;
}

/* ---- all --------------------------------------------------------------------------------------------- */

static int64_t numbers(const op_case *k) {
  int64_t n = 0;
  for (int i = 0; i < OP_TENSORS; i++)
    n += op_tensor_count(&k->t[i]);
  return n;
}

static bool wanted(const ops_options *o, const op_case *k, bool host) {
  if (strcmp(k->op, "cholesky_solve") == 0) /* a second call would find its own factor: no repeats */
    return false;
  if (o->only && !strstr(k->op, o->only) && !strstr(k->label, o->only))
    return false;
  if (k->huge && host && !o->huge)
    return false;
  if (o->huge)
    return k->huge;
  return o->only || numbers(k) >= NUMBERS_MIN;
}

static bool run(const ops_options *o, ebb_context *c, ebb_error *err) {
  ebb_dtype dtype = strcmp(o->dtype, "bfloat16") == 0 ? EBB_BF16 : EBB_F32;
  if (dtype == EBB_BF16 && !ebb_context_has_half(c))
    return ebb_fail(err, "--dtype bfloat16: %s computes in float32", ebb_context_device(c));
  bench_sheet sheet = {.csv = o->csv};
  bench_sheet_start(&sheet, c);
  if (!bench_find_ceilings(c, dtype, &sheet.ceilings, err))
    return false;
  bench_sheet_ceilings(&sheet, dtype);
  int ran = 0, failed = 0;
  for (int i = 0; i < op_case_count; i++) {
    if (!wanted(o, &op_cases[i], c->activations.place == EBB_HOST))
      continue;
    ran++;
    ebb_error why = {{0}};
    op_case k = op_cases[i];
    k.bf16 = dtype == EBB_BF16 ? halves_of_forward(&k) : 0;
    if (!run_case(c, &k, o->seconds, &sheet, &why)) {
      fprintf(stderr, "bench: %s (%s): %s\n", k.op, k.label, why.text);
      failed++;
    }
  }
  if (failed > 0)
    return ebb_fail(err, "%d of %d cases failed; the others are in the table", failed, ran);
  return ran > 0 || ebb_fail(err, "no op or case has '%s' in its name", o->only ? o->only : "");
}

static const char *const summary =
    "Times the operators on the cases that test them (tests/op_table.inc): sizes of the small model\n"
    "that ships and of Wan 2.1 1.3B with its VAE; on a device the full-size ones too. Many calls\n"
    "between two waits, the median of repeats, after calls that are not counted; on a device over\n"
    "more memory than its cache holds. TFLOP/s and GB/s follow from the operator's own count: a\n"
    "multiply-add is two, each input is read once, each output written once. Fractions are of what\n"
    "this run measures first: one product of its own, 8192^3 (on a GPU cuBLASLt through ebb_linear, a\n"
    "batch of one; on the CPU BLAS, 1024^3), and one large copy.";

int bench_ops(int argc, char **argv) {
  ops_options o = {.device = "auto", .dtype = "float32", .seconds = 0.2};
  const ebb_option options[] = {
      {"device", EBB_OPTION_TEXT, &o.device, "NAME", "auto, cpu, cuda, cuda:N (auto)", 0, 0, NULL},
      {"dtype", EBB_OPTION_TEXT, &o.dtype, "NAME", "of what may be half: float32 or bfloat16 (float32)", 0, 0,
       "float32|bfloat16"},
      {"only", EBB_OPTION_TEXT, &o.only, "TEXT", "cases whose op or label contains TEXT, small ones too", 0,
       0, NULL},
      {"huge", EBB_OPTION_FLAG, &o.huge, NULL, "only the full-size cases of Wan 1.3B at batch 16", 0, 0,
       NULL},
      {"seconds", EBB_OPTION_REAL, &o.seconds, "X", "time given to each case (0.2)", 0, 0, NULL},
      {"csv", EBB_OPTION_FLAG, &o.csv, NULL, "comma-separated values", 0, 0, NULL},
  };
  const ebb_command command = {
      "ops [options]", summary, options, (int)(sizeof options / sizeof *options), NULL, 0, 0, NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  if (!(o.seconds >= 0 && o.seconds <= 3600)) {
    fprintf(stderr, "bench: --seconds: expected a number from 0 to 3600\n");
    return EBB_EXIT_USAGE;
  }
  ebb_context c = {0};
  ebb_error err = {{0}};
  bool ok = ebb_context_open(&c, o.device, &err) && run(&o, &c, &err);
  ebb_context_close(&c);
  return ok ? EBB_EXIT_OK : bench_fail(&err);
}
