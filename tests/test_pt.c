/* tier: reference Files of torch.save: what tests/fixtures/make_pt.py wrote with PyTorch is read, what is
 * hostile is refused, and PyTorch reads what we write. */
#include "loaders/pt.h"
#include "tests/test_files.h"

#include <math.h>

#define FIXTURES "tests/fixtures/pt/"

static float value(int64_t i) {
  return (float)((i * 37) % 101 - 50);
}

static ebb_pt opened(const char *name) {
  ebb_pt pt;
  ebb_error err = {""};
  char path[128];
  snprintf(path, sizeof path, FIXTURES "%s.pt", name);
  if (!ebb_pt_open(&pt, path, &err))
    fail_msg("%s", err.text);
  return pt;
}

static void reads_every_type(void **state) {
  (void)state;
  static const char *const names[EBB_PT_TYPES] = {"float32", "float64", "float16", "bfloat16", "int64",
                                                  "int32",   "int16",   "int8",    "uint8",    "bool"};
  for (int k = 0; k < EBB_PT_TYPES; k++) {
    ebb_pt pt = opened(names[k]);
    float x[15];
    assert_int_equal(pt.count, 1);
    const ebb_pt_tensor *t = &pt.tensors[0];
    assert_string_equal(t->name, "");
    assert_int_equal(t->type, k);
    assert_true(t->rank == 3 && t->shape[0] == 3 && t->shape[1] == 1 && t->shape[2] == 5 && t->count == 15);
    ebb_pt_floats(t, x);
    for (int i = 0; i < 15; i++) {
      float want = k == EBB_PT_BYTE ? value(i) + 50 : k == EBB_PT_BOOL ? fmodf(value(i), 2) == 0 : value(i);
      assert_true(x[i] == want);
    }
    ebb_pt_close(&pt);
  }
}

static void reads_strides_and_protocols(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t rows, columns;
  } cases[] = {{"sliced", 4, 6},    {"protocol1", 3, 5}, {"protocol3", 3, 5},
               {"protocol4", 3, 5}, {"protocol5", 3, 5}, {"transposed", 6, 4}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    ebb_pt pt = opened(cases[k].name);
    float x[24];
    assert_int_equal(pt.tensors[0].count, cases[k].rows * cases[k].columns);
    assert_int_equal(pt.tensors[0].shape[0], cases[k].rows);
    ebb_pt_floats(&pt.tensors[0], x);
    for (int64_t i = 0; i < pt.tensors[0].count; i++)
      assert_true(x[i] == value(i));
    ebb_pt_close(&pt);
  }
  ebb_pt pt = opened("expanded");
  float x[6];
  ebb_pt_floats(&pt.tensors[0], x);
  for (int i = 0; i < 6; i++)
    assert_true(x[i] == value(i / 3));
  ebb_pt_close(&pt);
  pt = opened("one-stride"); /* of a dimension of one: no step is taken by it */
  ebb_pt_floats(&pt.tensors[0], x);
  assert_true(pt.tensors[0].count == 2 && pt.tensors[0].stride[1] == 0 && x[0] == value(0) &&
              x[1] == value(1));
  ebb_pt_close(&pt);
  pt = opened("scalar");
  ebb_pt_floats(&pt.tensors[0], x);
  assert_true(pt.tensors[0].rank == 0 && pt.tensors[0].count == 1 && x[0] == -50);
  ebb_pt_close(&pt);
  pt = opened("empty");
  assert_true(pt.tensors[0].rank == 3 && pt.tensors[0].count == 0 && pt.tensors[0].shape[2] == 3);
  ebb_pt_close(&pt);
}

static void names_what_is_in_dicts(void **state) {
  (void)state;
  static const char *const names[3] = {"a", "b/0/0", "b/0/1"};
  ebb_pt pt = opened("dict");
  float x[6];
  assert_int_equal(pt.count, 3);
  for (int i = 0; i < 3; i++) {
    assert_string_equal(pt.tensors[i].name, names[i]);
    ebb_pt_floats(&pt.tensors[i], x);
    for (int64_t k = 0; k < pt.tensors[i].count; k++)
      assert_true(x[k] == value(k));
  }
  ebb_pt_close(&pt);
}

static void refuses_all_else(void **state) {
  (void)state;
  static const struct {
    const char *name, *says;
  } cases[] = {{"hostile-code", "global posix.system"},
               {"hostile-deflated", "compressed"},
               {"hostile-storage", "too few for"},
               {"hostile-stride", "reaches over its storage of 4 elements"},
               {"hostile-overflow", "more than 2147483648 elements"},
               {"hostile-huge", "more than 2147483648 elements"},
               {"hostile-expanded", "2013265920 elements, which its strides make of a file of"},
               {"hostile-missing", "\"data/0\" is not in the archive"},
               {"hostile-bomb", "more than 16 deep"},
               {"list", "opcode 0x5d (EMPTY_LIST)"},
               {"parameter", "global torch._utils._rebuild_parameter"},
               {"legacy", "PyTorch before 1.6"}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    ebb_pt pt;
    ebb_error err = {""};
    char path[128];
    snprintf(path, sizeof path, FIXTURES "%s.pt", cases[k].name);
    assert_false(ebb_pt_open(&pt, path, &err));
    assert_says(&err, cases[k].says);
    assert_null(pt.tensors);
  }
  assert_int_not_equal(access("/tmp/ebb-was-here", F_OK), 0);
}

/* Every file cut short anywhere, or with one byte changed, is refused or read: never read beyond. */
static void damage_is_found(void **state) {
  (void)state;
  char bytes[2048], changed[2048];
  FILE *f = fopen(FIXTURES "dict.pt", "rb");
  assert_non_null(f);
  size_t n = fread(bytes, 1, sizeof bytes, f);
  fclose(f);
  int refused = 0;
  for (size_t i = 0; i < n; i++) {
    ebb_pt pt;
    ebb_error err = {""};
    assert_false(ebb_pt_parse(&pt, "cut", bytes, i, &err));
    assert_int_not_equal(err.text[0], '\0');
    memcpy(changed, bytes, n);
    changed[i] ^= 0x41;
    bool ok = ebb_pt_parse(&pt, "changed", changed, n, NULL);
    refused += !ok;
    ebb_pt_close(&pt);
  }
  assert_true(refused > 300); /* what is left are names, times and padding */
}

/* What we write we read, PyTorch reads, and the same numbers are the same bytes. */
static void writes_what_torch_loads(void **state) {
  (void)state;
  float x[30], back[30];
  const int64_t shape[3] = {2, 1, 15};
  ebb_error err = {""};
  for (int i = 0; i < 30; i++)
    x[i] = value(i) / 8;
  assert_true(ebb_pt_write(at("a.pt"), 3, shape, x, &err) && ebb_pt_write(at("b.pt"), 3, shape, x, &err));
  char command[1200];
  snprintf(command, sizeof command, "cmp -s %s %s", at("a.pt"), at("b.pt"));
  assert_int_equal(system(command), 0);
  ebb_pt pt;
  assert_true(ebb_pt_open(&pt, at("a.pt"), &err));
  ebb_pt_floats(&pt.tensors[0], back);
  assert_true(pt.tensors[0].rank == 3 && pt.tensors[0].shape[2] == 15);
  assert_memory_equal(x, back, sizeof x);
  assert_int_equal((pt.tensors[0].data - (const uint8_t *)pt.bytes) % 64, 0);
  ebb_pt_close(&pt);
  const char *python = getenv("EBB_TORCH_PYTHON");
  python = python ? python : "python3";
  snprintf(command, sizeof command, "%s -c 'import torch' 2>/dev/null", python);
  if (system(command) != 0) {
    print_message("skipped: no Python with torch (EBB_TORCH_PYTHON names one)\n");
    skip();
  }
  snprintf(command, sizeof command,
           "%s -c 'import torch; x = torch.load(\"%s\", weights_only=True); "
           "assert x.dtype == torch.float32 and x.shape == (2, 1, 15) and x.is_contiguous(); "
           "assert x.flatten().tolist() == [((i * 37) %% 101 - 50) / 8 for i in range(30)]'",
           python, at("a.pt"));
  assert_int_equal(system(command), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_every_type),       cmocka_unit_test(reads_strides_and_protocols),
      cmocka_unit_test(names_what_is_in_dicts), cmocka_unit_test(refuses_all_else),
      cmocka_unit_test(damage_is_found),        cmocka_unit_test(writes_what_torch_loads),
  };
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
