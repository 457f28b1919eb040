/* tier: host
 * Means and rank correlations over groups, and margins read back. */
#include "probe/correlate.h"
#include "probe/margins.h"
#include "tests/test_files.h"

#include <math.h>

enum { VIDEOS = 40, GROUPS = 10 };

static void test_group_numbers(void **state) {
  (void)state;
  const char *const names[] = {"b", "b", "a", "c", "b", "a"};
  const int is[] = {0, 0, 1, 2, 0, 1};
  int group[6];
  assert_int_equal(ebb_number_groups(6, names, group), 3);
  assert_memory_equal(group, is, sizeof is);
}

static ebb_interval spearman(int64_t n, const double *x, const double *y) {
  ebb_error err = {0};
  ebb_interval i;
  int group[VIDEOS];
  for (int k = 0; k < VIDEOS; k++)
    group[k] = k % GROUPS;
  assert_true(n <= VIDEOS);
  const ebb_grouped of = {n, n < GROUPS ? n : GROUPS, group};
  if (!ebb_spearman_interval(&of, x, y, 500, 1, &i, &err))
    fail_msg("%s", err.text);
  return i;
}

static void test_spearman_by_hand(void **state) {
  (void)state;
  const double x[] = {1, 2, 3, 4, 5}, up[] = {1, 8, 27, 64, 1e9}, down[] = {5, 4, 3, 2, 1};
  const double tied[] = {1, 2, 2, 3, 4}, mixed[] = {2, 1, 4, 3, 5}, still[] = {7, 7, 7, 7, 7};
  assert_true(fabs(spearman(5, x, up).value - 1) < 1e-12);
  assert_true(fabs(spearman(5, x, down).value + 1) < 1e-12);
  assert_true(fabs(spearman(5, x, mixed).value - 0.8) < 1e-12);           /* 1 - 6 * 4 / (5 * 24) */
  assert_true(fabs(spearman(5, x, tied).value - 9.5 / sqrt(95)) < 1e-12); /* ranks 1, 2.5, 2.5, 4, 5 */
  assert_true(isnan(spearman(5, x, still).value) && isnan(spearman(2, x, up).value));
  const double gaps[] = {1, NAN, 3, 4, INFINITY};
  assert_true(fabs(spearman(5, gaps, up).value - 1) < 1e-12);
}

/* A group that comes twice in a sample counts twice: the interval of groups that are copies of one another is
 * that of fewer, not of more videos. */
static void test_groups_are_what_is_resampled(void **state) {
  (void)state;
  ebb_error err = {0};
  double x[VIDEOS], y[VIDEOS];
  int group[VIDEOS], alone[VIDEOS];
  for (int i = 0; i < VIDEOS; i++) {
    group[i] = i / 4; /* four copies each */
    alone[i] = i;
    x[i] = (group[i] * 7) % 10;
    y[i] = x[i] + 3 * ((group[i] * 3) % 10);
  }
  ebb_interval grouped, single, mean, mean_alone;
  assert_true(ebb_spearman_interval(&(ebb_grouped){VIDEOS, GROUPS, group}, x, y, 2000, 1, &grouped, &err));
  assert_true(ebb_spearman_interval(&(ebb_grouped){VIDEOS, VIDEOS, alone}, x, y, 2000, 1, &single, &err));
  assert_true(grouped.value == single.value);
  assert_true(grouped.high - grouped.low > 1.5 * (single.high - single.low));
  assert_true(ebb_mean_interval(&(ebb_grouped){VIDEOS, GROUPS, group}, x, 2000, 1, &mean, &err));
  assert_true(ebb_mean_interval(&(ebb_grouped){VIDEOS, VIDEOS, alone}, x, 2000, 1, &mean_alone, &err));
  assert_true(fabs(mean.value - 4.5) < 1e-12 && mean.low < 4.5 && mean.high > 4.5);
  const double ratio = (mean.high - mean.low) / (mean_alone.high - mean_alone.low);
  assert_true(ratio > 1.6 && ratio < 2.4); /* sqrt(4) */
}

static void test_mean_leaves_gaps_out(void **state) {
  (void)state;
  ebb_error err = {0};
  const double x[] = {1, NAN, 5}, none[] = {NAN, NAN, NAN};
  const int group[] = {0, 1, 2};
  ebb_interval i;
  assert_true(ebb_mean_interval(&(ebb_grouped){3, 3, group}, x, 100, 1, &i, &err) && i.value == 3);
  assert_true(ebb_mean_interval(&(ebb_grouped){3, 3, group}, none, 100, 1, &i, &err) && isnan(i.value));
}

#define HEAD "category,model,feature,video,group,possible,margin,right\n"

static bool read_back(const char *text, ebb_margins *m, ebb_error *err) {
  put_text(at("margins.csv"), text);
  return ebb_margins_read(m, at("margins.csv"), err);
}

static void test_margins(void **state) {
  (void)state;
  ebb_error err = {0};
  ebb_margins m;
  if (!read_back(HEAD "O1,transformer,block_out.mean,O1/01/1,O1/01,1,0.5,1\n"
                      "O1,transformer,block_out.mean,\"a, \"\"b\"\"\",O1/01,0,-1.5,0.8\r\n"
                      "O1,transformer,attn_frames,O1/01/1,O1/01,1,-0.25,0",
                 &m, &err))
    fail_msg("%s", err.text);
  assert_int_equal(m.count, 3);
  assert_string_equal(m.items[1].video, "a, \"b\"");
  assert_true(m.items[0].possible && !m.items[1].possible && m.items[1].margin == -1.5 &&
              m.items[1].right == 0.8);
  assert_string_equal(m.items[2].feature, "attn_frames");
  assert_int_equal(ebb_margins_row_end(&m, 0), 2);
  assert_int_equal(ebb_margins_row_end(&m, 2), 3);
  ebb_margins_free(&m);
  assert_true(read_back(HEAD, &m, &err) && m.count == 0);
  ebb_margins_free(&m);
}

static void test_margins_that_are_none(void **state) {
  (void)state;
  static const char *const bad[][2] = {
      {"", "begins with ''"},
      {"category,model\n", "begins with 'category,model'"},
      {"category,model,feature,video,group,possible,margin,right,more\n", "begins with"},
      {HEAD "O1,t,f,v,g,1,0.5\n", "line 2: expected the 8 fields"},
      {HEAD "O1,t,f,v,g,1,0.5,1,9\n", "line 2: expected the 8 fields"},
      {HEAD "O1,t,f,v,g,1,0.5,1\nO1,t,f,v,g,2,0.5,1\n", "line 3: possible, margin and right are '2'"},
      {HEAD "O1,t,f,v,g,1,half,1\n", "'half'"},
      {HEAD "O1,t,f,v,g,1,nan,1\n", "'nan'"},
      {HEAD "O1,t,f,\"v,g,1,0.5,1\n", "line 2"},
      {HEAD "\n", "line 2"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ebb_error err = {0};
    ebb_margins m;
    assert_false(read_back(bad[i][0], &m, &err));
    assert_says(&err, bad[i][1]);
    ebb_margins_free(&m);
  }
  ebb_error err = {0};
  ebb_margins m;
  assert_false(ebb_margins_read(&m, at("none.csv"), &err));
  assert_says(&err, "none.csv");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_group_numbers),
                                     cmocka_unit_test(test_spearman_by_hand),
                                     cmocka_unit_test(test_groups_are_what_is_resampled),
                                     cmocka_unit_test(test_mean_leaves_gaps_out),
                                     cmocka_unit_test(test_margins),
                                     cmocka_unit_test(test_margins_that_are_none)};
  return cmocka_run_group_tests_name("correlate", tests, folder_make, folder_remove);
}
