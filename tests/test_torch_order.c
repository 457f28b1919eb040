/* tier: reference
 * PyTorch's shuffles, against what PyTorch gave (tests/fixtures/make_pt.py). */
#include "probe/torch_order.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct {
  uint64_t seed;
  int64_t n, head[10], sum;
} known[] = {
#include "tests/fixtures/torch_order.inc"
};

static void orders_are_torchs(void **state) {
  (void)state;
  int64_t order[1056];
  const int count = (int)(sizeof known / sizeof *known);
  assert_true(count == 23 * 9); /* 20 seeds and three odd ones, nine sizes */
  for (int k = 0; k < count; k++) {
    int64_t sum = 0;
    assert_true(known[k].n <= 1056 && ebb_torch_order(known[k].n, known[k].seed, order, NULL));
    for (int64_t i = 0; i < known[k].n; i++) {
      sum += (i + 1) * order[i];
      if (i < 10)
        assert_int_equal(order[i], known[k].head[i]);
    }
    assert_int_equal(sum, known[k].sum);
  }
}

static void too_many_are_refused(void **state) {
  (void)state;
  ebb_error err = {""};
  assert_false(ebb_torch_order(EBB_TORCH_ORDER_MAX + 1, 0, NULL, &err));
  assert_false(ebb_torch_order(-1, 0, NULL, &err));
  assert_int_not_equal(err.text[0], '\0');
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(orders_are_torchs),
                                     cmocka_unit_test(too_many_are_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
