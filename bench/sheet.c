#include "bench/sheet.h"

#include <stdio.h>

#include "cli/options.h"
#include "ebb_version.h"

void bench_sheet_start(const bench_sheet *sheet, const ebb_context *c) {
  printf("%sebb %s, commit %s, on %s, %d CPU threads\n", sheet->csv ? "# " : "", EBB_VERSION, EBB_COMMIT,
         ebb_context_device(c), ebb_context_threads());
  if (sheet->csv)
    printf("who,what,case,shape,dtype,calls,median_s,least_s,tflops,gbytes_per_s,of_matmul,of_copy\n");
  else
    printf("%-18s %-28s %-24s %-8s %6s %12s %12s %9s %9s %9s %9s\n", "what", "case", "shape", "dtype",
           "calls", "median ms", "least ms", "TFLOP/s", "GB/s", "of matmul", "of copy");
}

/* "," or " " and a rate or a fraction; nothing or "-" where it does not apply. */
static void print_number(bool csv, int width, int decimals, double value) {
  if (csv && value > 0)
    printf(",%.6g", value);
  else if (csv)
    printf(",");
  else if (value > 0)
    printf(" %*.*f", width, decimals, value);
  else
    printf(" %*s", width, "-");
}

void bench_sheet_row(const bench_sheet *sheet, const bench_row *r) {
  bool csv = sheet->csv;
  const bench_ceilings *k = &sheet->ceilings;
  double flops = r->time.median > 0 ? r->flops / r->time.median : 0;
  double bytes = r->time.median > 0 ? r->bytes / r->time.median : 0;
  if (csv)
    printf("ebb,\"%s\",\"%s\",\"%s\",%s,%d,%.9g,%.9g", r->what, r->which, r->shape, r->dtype, r->time.calls,
           r->time.median, r->time.least);
  else
    printf("%-18s %-28s %-24s %-8s %6d %12.4f %12.4f", r->what, r->which, r->shape, r->dtype, r->time.calls,
           r->time.median * 1e3, r->time.least * 1e3);
  print_number(csv, 9, 3, flops * 1e-12);
  print_number(csv, 9, 1, bytes * 1e-9);
  print_number(csv, 9, 3, k->matmul > 0 ? flops / k->matmul : 0);
  print_number(csv, 9, 3, k->copy > 0 ? bytes / k->copy : 0);
  printf("\n");
  fflush(stdout);
}

void bench_sheet_ceilings(const bench_sheet *sheet, ebb_dtype dtype) {
  const bench_ceilings *k = &sheet->ceilings;
  char shape[64];
  double side = (double)k->side;
  snprintf(shape, sizeof shape, "%lld^3", (long long)k->side);
  bench_sheet_row(sheet, &(bench_row){"matmul", "ceiling", shape, ebb_dtype_name(dtype), k->matmul_time,
                                      2 * side * side * side, 0});
  snprintf(shape, sizeof shape, "%.0f MiB", k->copy_bytes / 2 / (1 << 20));
  bench_sheet_row(sheet, &(bench_row){"copy", "ceiling", shape, "float32", k->copy_time, 0, k->copy_bytes});
}

int bench_fail(const ebb_error *err) {
  fflush(stdout);
  fprintf(stderr, "bench: %s\n", err->text);
  return EBB_EXIT_ERROR;
}
