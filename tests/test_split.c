/* Host maths, exact: folds by group. */
#include "probe/sample.h"
#include "probe/split.h"
#include "probe/torch_order.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define GROUPS 47

/* Sizes of folds differ by at most one, overall and within each stratum, and everything in play has a fold.
 */
static void folds_are_even(void **state) {
  (void)state;
  int stratum[GROUPS], fold[GROUPS];
  for (int folds = 2; folds <= 9; folds++)
    for (uint64_t stream = 0; stream < 20; stream++) {
      for (int g = 0; g < GROUPS; g++)
        stratum[g] = g % 7 == 0 ? -1 : g % 3;
      assert_true(ebb_split_groups(GROUPS, stratum, folds, 5, stream, fold, NULL));
      for (int s = -1; s <= 2; s++) { /* -1: overall */
        int size[9] = {0}, low = GROUPS, high = 0;
        for (int g = 0; g < GROUPS; g++) {
          if (stratum[g] < 0) {
            assert_int_equal(fold[g], -1);
            continue;
          }
          assert_in_range(fold[g], 0, folds - 1);
          if (s < 0 || stratum[g] == s)
            size[fold[g]]++;
        }
        for (int f = 0; f < folds; f++) {
          low = size[f] < low ? size[f] : low;
          high = size[f] > high ? size[f] : high;
        }
        assert_true(high - low <= 1);
      }
    }
}

static void seeds_matter_and_repeat(void **state) {
  (void)state;
  int a[GROUPS], b[GROUPS], c[GROUPS], d[GROUPS];
  assert_true(ebb_split_groups(GROUPS, NULL, 5, 1, 0, a, NULL));
  assert_true(ebb_split_groups(GROUPS, NULL, 5, 1, 0, b, NULL));
  assert_true(ebb_split_groups(GROUPS, NULL, 5, 1, 1, c, NULL));
  assert_true(ebb_split_groups(GROUPS, NULL, 5, 2, 0, d, NULL));
  assert_memory_equal(a, b, sizeof a);
  assert_memory_not_equal(a, c, sizeof a);
  assert_memory_not_equal(a, d, sizeof a);
}

/* A known deal: written down once, so that no later change moves the folds of finished studies unseen. */
static void a_known_deal(void **state) {
  (void)state;
  int fold[10], expected[10] = {0, 0, 0, 2, 0, 1, 2, 2, 1, 1};
  assert_true(ebb_split_groups(10, NULL, 3, 7, 0, fold, NULL));
  assert_memory_equal(fold, expected, sizeof fold);
}

static void inner_folds_never_see_the_held_out(void **state) {
  (void)state;
  int outer[GROUPS], inner[GROUPS];
  assert_true(ebb_split_groups(GROUPS, NULL, 5, 1, 0, outer, NULL));
  for (int f = 0; f < 5; f++) {
    assert_true(ebb_split_inner(GROUPS, NULL, outer, f, 4, 1, 100 + (uint64_t)f, inner, NULL));
    for (int g = 0; g < GROUPS; g++) {
      if (outer[g] == f)
        assert_int_equal(inner[g], -1);
      else
        assert_in_range(inner[g], 0, 3);
    }
  }
}

static void too_few_groups(void **state) {
  (void)state;
  int fold[4], stratum[4] = {0, 0, -1, 0};
  ebb_error err = {""};
  assert_false(ebb_split_groups(4, stratum, 4, 1, 0, fold, &err));
  assert_non_null(strstr(err.text, "3 groups for 4 folds"));
  err.text[0] = '\0';
  assert_false(ebb_split_groups(4, NULL, 1, 1, 0, fold, &err));
  assert_non_null(strstr(err.text, "at least 2"));
}

/* ---- samples ---- */

static ebb_store_video videos[40];

static ebb_store store_of(int groups, int per_group) {
  static char ids[40][48], names[40][48];
  for (int v = 0; v < groups * per_group; v++) {
    snprintf(ids[v], sizeof ids[v], "O1/%d/%d", v / per_group, v % per_group);
    snprintf(names[v], sizeof names[v], "O1/%d", v / per_group);
    videos[v] = (ebb_store_video){.id = ids[v],
                                  .group = names[v],
                                  .category = v < 20 ? "O1" : "O2",
                                  .label = v % 2 ? EBB_POSSIBLE : EBB_IMPOSSIBLE};
  }
  return (ebb_store){.dir = "run", .video_count = groups * per_group, .videos = videos};
}

static void failed_and_one_sided_are_left_out(void **state) {
  (void)state;
  ebb_store store = store_of(10, 4);
  videos[0].failed = "broken";
  videos[4].failed = videos[6].failed = "broken"; /* group 1 loses its impossible half */
  videos[9].label = EBB_UNLABELLED;
  ebb_sample *samples;
  int count;
  assert_true(ebb_samples_make(&store, true, 2, 2, &samples, &count, NULL));
  assert_int_equal(count, 2);
  assert_string_equal(samples[0].name, "O1");
  assert_int_equal(samples[0].groups, 4);
  assert_int_equal(samples[0].n, 20 - 1 - 4 - 1);
  assert_int_equal(samples[0].failed, 3);
  assert_int_equal(samples[0].unlabelled, 1);
  assert_int_equal(samples[0].one_sided, 1);
  assert_int_equal(samples[0].video[0], 1);
  assert_int_equal(samples[1].n, 20);
  assert_int_equal(samples[1].video[0], 20);
  ebb_samples_free(samples, count);
  assert_true(ebb_samples_make(&store, false, 5, 4, &samples, &count, NULL));
  assert_int_equal(count, 1);
  assert_string_equal(samples[0].name, "all");
  assert_int_equal(samples[0].groups, 9);
  ebb_samples_free(samples, count);
}

static void plans_never_split_a_group(void **state) {
  (void)state;
  ebb_store store = store_of(10, 4);
  ebb_sample *samples;
  int count;
  ebb_plan plan;
  assert_true(ebb_samples_make(&store, false, 5, 4, &samples, &count, NULL));
  assert_true(ebb_plan_make(&plan, samples, 3, 5, 4, 1, NULL));
  for (int part = 0; part < 15; part++) {
    const ebb_part *p = &plan.part[part];
    int side[10], inner[10];
    memset(side, -1, sizeof side);
    memset(inner, -1, sizeof inner);
    assert_int_equal(p->train_count + p->test_count, 40);
    for (int64_t i = 0; i < p->test_count; i++)
      side[samples->group[p->test[i]]] = 1;
    for (int64_t i = 0; i < p->train_count; i++) {
      int g = samples->group[p->train[i]];
      assert_int_not_equal(side[g], 1);
      assert_true(inner[g] < 0 || inner[g] == p->inner[i]);
      inner[g] = p->inner[i];
      assert_in_range(inner[g], 0, 3);
    }
  }
  ebb_plan_free(&plan);
  ebb_samples_free(samples, count);
}

static void clear_errors(void **state) {
  (void)state;
  ebb_store store = store_of(10, 4);
  ebb_sample *samples;
  int count;
  ebb_error err = {""};
  for (int v = 0; v < 20; v++)
    videos[v].label = EBB_POSSIBLE;
  assert_false(ebb_samples_make(&store, true, 2, 2, &samples, &count, &err));
  assert_string_equal(err.text,
                      "O1: labels of one class only: all 20 videos are possible; a probe needs possible and "
                      "impossible videos in every group");
  store = store_of(5, 4);
  err.text[0] = '\0';
  assert_false(ebb_samples_make(&store, true, 5, 5, &samples, &count, &err));
  assert_non_null(strstr(err.text, "5 groups"));
  assert_non_null(strstr(err.text, "needs at least 7"));
  for (int v = 0; v < 20; v++)
    videos[v].failed = "broken";
  err.text[0] = '\0';
  assert_false(ebb_samples_make(&store, true, 5, 4, &samples, &count, &err));
  assert_non_null(strstr(err.text, "no labelled video"));
  assert_non_null(strstr(err.text, "20 failed"));
}

/* The official sets: names in order of their bytes ("O1_10" before "O1_2"), torch.randperm of the seed,
 * the first round(n * share) tested; torch.randperm(10) of seeds 3 and 4 begins as written in
 * torch_order.inc. */
static void the_official_sets_are_made_again(void **state) {
  (void)state;
  ebb_store store = store_of(10, 4);
  for (int v = 0; v < 40; v++)
    videos[v].category = "O1";
  ebb_sample *samples;
  int count;
  ebb_plan plan;
  assert_true(ebb_samples_make(&store, true, 2, 2, &samples, &count, NULL));
  assert_true(ebb_plan_split(&plan, samples, 2, 0.25, 0.1, 3, NULL));
  static const struct {
    uint64_t seed;
    int64_t n, head[10], sum;
  } known[] = {
#include "tests/fixtures/torch_order.inc"
  };
  for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
    if (known[k].n != 10 || (known[k].seed != 3 && known[k].seed != 4))
      continue;
    const ebb_part *p = &plan.part[known[k].seed - 3];
    assert_int_equal(p->test_count, 2 * 4); /* 2.5 rounds to the even one */
    assert_int_equal(p->validation_count, 1 * 4);
    for (int64_t i = 0; i < p->test_count; i++) {
      int64_t group = samples->group[p->test[i]];
      assert_true(group == known[k].head[0] || group == known[k].head[1]);
    }
    assert_int_equal(samples->group[p->validation[0]], known[k].head[2]);
  }
  ebb_plan_free(&plan);
  ebb_samples_free(samples, count);
}

static void names_are_in_order_of_their_bytes(void **state) {
  (void)state;
  ebb_store store = store_of(5, 4);
  static const char *const names[5] = {"a/2", "a/10", "a_1", "b", "a/1/1"}; /* a_1, a_10, a_1_1, a_2, b */
  for (int v = 0; v < 20; v++)
    videos[v].category = "O1", videos[v].group = (char *)names[v / 4];
  ebb_sample *samples;
  int count, place[5] = {3, 1, 0, 4, 2}; /* of each group among the sorted names */
  ebb_plan plan;
  assert_true(ebb_samples_make(&store, true, 2, 2, &samples, &count, NULL));
  for (uint64_t seed = 0; seed < 8; seed++) {
    int64_t order[5];
    assert_true(ebb_torch_order(5, seed, order, NULL));
    assert_true(ebb_plan_split(&plan, samples, 1, 0.2, 0, seed, NULL));
    assert_int_equal(plan.part[0].test_count, 4);
    assert_int_equal(place[samples->group[plan.part[0].test[0]]], order[0]);
    ebb_plan_free(&plan);
  }
  ebb_samples_free(samples, count);
}

/* Matched pairs are numbered within their group, and a sample without groups has none. */
static void pairs_are_of_their_group(void **state) {
  (void)state;
  ebb_store store = store_of(10, 4);
  static char *const pairs[4] = {"x", "x", "y", NULL};
  for (int v = 0; v < 40; v++)
    videos[v].pair = pairs[v % 4];
  ebb_sample *samples;
  int count;
  assert_true(ebb_samples_make(&store, false, 2, 2, &samples, &count, NULL));
  for (int v = 0; v < 40; v += 4) {
    const int *p = samples->pair + v;
    assert_true(p[0] >= 0 && p[0] == p[1] && p[2] >= 0 && p[2] != p[0] && p[3] == -1);
    assert_true(v == 0 || p[0] != p[-4]);
  }
  assert_true(ebb_sample_grouped(samples));
  ebb_sample_ungroup(samples, &store);
  assert_false(ebb_sample_grouped(samples));
  assert_int_equal(samples->groups, 40);
  assert_string_equal(samples->names[7], "O1/1/3");
  assert_int_equal(samples->pair[0], -1);
  ebb_samples_free(samples, count);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(folds_are_even),
      cmocka_unit_test(seeds_matter_and_repeat),
      cmocka_unit_test(a_known_deal),
      cmocka_unit_test(inner_folds_never_see_the_held_out),
      cmocka_unit_test(too_few_groups),
      cmocka_unit_test(failed_and_one_sided_are_left_out),
      cmocka_unit_test(plans_never_split_a_group),
      cmocka_unit_test(clear_errors),
      cmocka_unit_test(the_official_sets_are_made_again),
      cmocka_unit_test(names_are_in_order_of_their_bytes),
      cmocka_unit_test(pairs_are_of_their_group),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
