#include "bench/profile.h"

#include <stdio.h>
#include <string.h>

static void book(bench_profile *p) {
  ebb_context_wait(p->context);
  double now = bench_now();
  if (p->current >= 0)
    p->lines[p->current].seconds += now - p->since;
}

static int line_of(bench_profile *p, const char *name) {
  for (int i = 0; i < p->count; i++)
    if (strcmp(p->lines[i].name, name) == 0)
      return i;
  if (p->count == BENCH_PROFILE_LINES)
    return p->count - 1;
  snprintf(p->lines[p->count].name, sizeof p->lines->name, "%s",
           p->count == BENCH_PROFILE_LINES - 1 ? "all others" : name);
  return p->count++;
}

static void see(void *user, const ebb_op_seen *op) {
  bench_profile *p = user;
  char name[64];
  book(p);
  p->name(op, name);
  p->current = line_of(p, name);
  bench_profile_line *line = &p->lines[p->current];
  line->calls++;
  line->flops += op->flops;
  line->bytes += op->bytes;
  p->since = bench_now();
}

void bench_profile_start(bench_profile *p, ebb_context *c, void (*name)(const ebb_op_seen *, char text[64])) {
  *p = (bench_profile){.context = c, .name = name, .current = -1};
  ebb_context_wait(c);
  c->observer = see;
  c->observer_user = p;
}

void bench_profile_stop(bench_profile *p) {
  book(p);
  p->current = -1;
  p->context->observer = NULL;
}

void bench_profile_print(const bench_profile *p, const bench_sheet *sheet, const char *what,
                         const char *shape, const char *dtype, int runs) {
  const bench_ceilings *k = &sheet->ceilings;
  double all = 0;
  for (int i = 0; i < p->count; i++)
    all += p->lines[i].seconds;
  if (!sheet->csv)
    printf("\n%-40s %6s %12s %7s %9s %9s %9s %9s\n", what, "calls", "ms", "share", "TFLOP/s", "of matmul",
           "GB/s", "of copy");
  for (int i = 0; i < p->count; i++) {
    const bench_profile_line *l = &p->lines[i];
    double each = l->seconds / runs;
    double flops = l->seconds > 0 ? l->flops / l->seconds : 0,
           bytes = l->seconds > 0 ? l->bytes / l->seconds : 0;
    if (sheet->csv)
      bench_sheet_row(sheet, &(bench_row){what,
                                          l->name,
                                          shape,
                                          dtype,
                                          {each, each, (int)(l->calls / runs)},
                                          l->flops / runs,
                                          l->bytes / runs});
    else
      printf("%-40s %6lld %12.4f %6.1f%% %9.3f %9.3f %9.1f %9.3f\n", l->name, (long long)(l->calls / runs),
             each * 1e3, 100 * l->seconds / all, flops * 1e-12, flops / k->matmul, bytes * 1e-9,
             bytes / k->copy);
  }
  if (!sheet->csv)
    printf("%-40s %6s %12.4f  100.0%%  (op by op, each waited for)\n", "sum", "", all / runs * 1e3);
}
