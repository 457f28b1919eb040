/* Host maths, exact: metrics on small lists counted by hand. */
#include "probe/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void near(double a, double b) {
  if (!(fabs(a - b) <= 1e-12))
    fail_msg("%.15g is not %.15g", a, b);
}

static const double margin[8] = {2, -1, 0, 0.5, -3, 1, 0.5, -2};
static const int8_t label[8] = {1, 1, 1, -1, -1, 1, -1, -1};
static const int group[8] = {0, 0, 1, 0, 0, 1, 1, 1};

static void counted_by_hand(void **state) {
  (void)state;
  near(ebb_accuracy(8, margin, label), (1 + 0 + 0.5 + 0 + 1 + 1 + 0 + 1) / 8.0);
  near(ebb_balanced_accuracy(8, margin, label), 0.5 * (2.5 / 4 + 2.0 / 4));
  /* possible 2, -1, 0, 1 against impossible 0.5, -3, 0.5, -2: 4 + 2 + 2 + 4 of 16 */
  near(ebb_auc(8, margin, label), 12.0 / 16);
  /* group 0: 2, -1 against 0.5, -3: 2 + 1; group 1: 0, 1 against 0.5, -2: 1 + 2 */
  near(ebb_pairwise(8, margin, label, group), 6.0 / 8);
  double low = -1.0, high = 0.5, v1 = (2.25 + 2.25 + 0.25 + 0.25) / 3, v0 = (2.25 + 4 + 2.25 + 1) / 3;
  near(ebb_d_prime(8, margin, label), (high - low) / sqrt(0.5 * (v0 + v1)));
}

static void corners(void **state) {
  (void)state;
  const double same[4] = {1, 1, 1, 1};
  const int8_t two[4] = {1, -1, 1, -1}, one[4] = {1, 1, 1, 1};
  const int pairs[4] = {0, 0, 1, 1}, apart[4] = {0, 1, 2, 3};
  near(ebb_accuracy(4, same, two), 0.5);
  near(ebb_auc(4, same, two), 0.5);
  near(ebb_pairwise(4, same, two, pairs), 0.5);
  near(ebb_d_prime(4, same, two), 0);
  assert_true(isnan(ebb_auc(4, same, one)));
  assert_true(isnan(ebb_balanced_accuracy(4, same, one)));
  assert_true(isnan(ebb_pairwise(4, same, two, apart)));
  assert_true(isnan(ebb_accuracy(0, NULL, NULL)));
}

/* With one fold a tally says what the plain metrics say; a group of weight 2 counts as if it were there
 * twice. */
static void tallies_agree(void **state) {
  (void)state;
  const int fold[2] = {0, 0};
  ebb_tally t;
  assert_true(ebb_tally_make(&t, 2, 8, 1, margin, label, group, NULL, fold, NULL));
  near(ebb_tally_metric(&t, EBB_ACCURACY, NULL), ebb_accuracy(8, margin, label));
  near(ebb_tally_metric(&t, EBB_AUC, NULL), ebb_auc(8, margin, label));
  near(ebb_tally_metric(&t, EBB_PAIRWISE, NULL), ebb_pairwise(8, margin, label, group));
  double m[12], weight[2] = {1, 2};
  int8_t l[12];
  int g[12], n = 0;
  for (int i = 0; i < 8; i++)
    for (int k = 0; k <= group[i]; k++) {
      m[n] = margin[i];
      l[n] = label[i];
      g[n++] = group[i];
    }
  near(ebb_tally_metric(&t, EBB_ACCURACY, weight), ebb_accuracy(n, m, l));
  near(ebb_tally_metric(&t, EBB_AUC, weight), ebb_auc(n, m, l));
  near(ebb_tally_metric(&t, EBB_PAIRWISE, weight), ebb_pairwise(n, m, l, g));
  ebb_tally_free(&t);
}

/* Margins of different folds are never compared; repeats are averaged; a group without a fold is not there.
 */
static void tallies_keep_folds_apart(void **state) {
  (void)state;
  const int fold[4] = {0, 1, 0, -1};
  double twice[16];
  for (int i = 0; i < 8; i++) {
    twice[i] = margin[i] + (group[i] ? 1000 : 0); /* another probe, another scale */
    twice[8 + i] = margin[i];
  }
  ebb_tally t;
  assert_true(ebb_tally_make(&t, 2, 8, 2, twice, label, group, NULL, fold, NULL));
  near(ebb_tally_metric(&t, EBB_AUC, NULL), (3 + 3 + 3) / 12.0);
  near(ebb_tally_metric(&t, EBB_PAIRWISE, NULL), (3 + 3 + 3) / 12.0);
  near(ebb_tally_metric(&t, EBB_ACCURACY, NULL), (2 + 2 + 2) / 12.0);
  ebb_tally_free(&t);
}

/* Two matched pairs in a group: won only within the pair; a video without one is compared with all. */
static void matched_pairs_alone_are_compared(void **state) {
  (void)state;
  const double said[5] = {1, 3, 0, 2, 2.5};
  const int8_t truth[5] = {1, 1, -1, -1, -1};
  const int scene[5] = {0, 0, 0, 0, 0}, held[1] = {0}, pair[5] = {4, 7, 4, 7, 4};
  const int alone[5] = {4, 7, 4, 7, -1};
  ebb_tally t;
  assert_true(ebb_tally_make(&t, 1, 5, 1, said, truth, scene, pair, held, NULL));
  assert_true(fabs(ebb_tally_metric(&t, EBB_PAIRWISE, NULL) - 2.0 / 3) < 1e-12); /* 1>0, 1<2.5, 3>2 */
  ebb_tally_free(&t);
  assert_true(ebb_tally_make(&t, 1, 5, 1, said, truth, scene, alone, held, NULL));
  assert_true(fabs(ebb_tally_metric(&t, EBB_PAIRWISE, NULL) - 3.0 / 4) < 1e-12); /* and 3>2.5 */
  ebb_tally_free(&t);
  assert_true(ebb_tally_make(&t, 1, 5, 1, said, truth, scene, NULL, held, NULL));
  assert_true(fabs(ebb_tally_metric(&t, EBB_PAIRWISE, NULL) - 4.0 / 6) < 1e-12);
  assert_true(fabs(ebb_tally_metric(&t, EBB_AUC, NULL) - 4.0 / 6) < 1e-12);
  ebb_tally_free(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(matched_pairs_alone_are_compared),
      cmocka_unit_test(counted_by_hand),
      cmocka_unit_test(corners),
      cmocka_unit_test(tallies_agree),
      cmocka_unit_test(tallies_keep_folds_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
