/* Experiment files: one schema, errors with line and remedy, and back again. Host code, exact. */
#include "tests/test_files.h"

#include "loaders/config.h"
#include "loaders/config_schema.h"

static void parse(ebb_config *c, const char *text) {
  ebb_error err = {""};
  if (!ebb_config_parse(c, "a.yaml", text, strlen(text), &err))
    fail_msg("%s", err.text);
}

/* The text is refused with these words, and the caller's config stays as it was. */
static void refuse(const char *text, const char *words) {
  ebb_error err = {""};
  ebb_config c, before;
  ebb_config_defaults(&c);
  c.model.seed = 77;
  before = c;
  if (ebb_config_parse(&c, "a.yaml", text, strlen(text), &err))
    fail_msg("accepted: %s", text);
  assert_says(&err, words);
  assert_memory_equal(&c, &before, sizeof c);
}

static void refuse_set(const char *assignment, const char *words) {
  ebb_error err = {""};
  ebb_config c;
  ebb_config_defaults(&c);
  if (ebb_config_set(&c, assignment, &err))
    fail_msg("accepted: %s", assignment);
  assert_says(&err, words);
}

static void set(ebb_config *c, const char *assignment) {
  ebb_error err = {""};
  if (!ebb_config_set(c, assignment, &err))
    fail_msg("%s", err.text);
}

static void test_reads(void **state) {
  (void)state;
  ebb_config c;
  parse(&c, "# an experiment\n"
            "name: intphys-wan1.3b\n"
            "model:     {path: ~/ckpt/Wan, dtype: bfloat16, compare: [random, transformer_lawless]}\n"
            "data:\n"
            "  path: \"/data/int phys\"\n"
            "  size: 64x48\n"
            "  unlabelled: true\n"
            "prompt:    {embedding: zeros, max_tokens: 226}\n"
            "inversion: {solver: heun, labels: matched, steps: 20, guidance: 1.5, shift: 3}\n"
            "capture:   {steps: [0, 5, 10], blocks: all, points: [block_out, attn_frames], pool: mean}\n"
            "run:       {device: cuda:3, batch: 16}\n");
  assert_string_equal(c.path, "a.yaml");
  assert_string_equal(c.name, "intphys-wan1.3b");
  assert_string_equal(c.model.path, "~/ckpt/Wan");
  assert_string_equal(c.model.dtype, "bfloat16");
  assert_string_equal(c.model.vae_dtype, "float32"); /* a default */
  assert_int_equal(c.model.compare.count, 2);
  assert_string_equal(c.model.compare.names[1], "transformer_lawless");
  assert_string_equal(c.data.path, "/data/int phys");
  assert_int_equal(c.data.height, 64);
  assert_int_equal(c.data.width, 48);
  assert_true(c.data.unlabelled);
  assert_int_equal(c.prompt.max_tokens, 226);
  assert_string_equal(c.inversion.solver, "heun");
  assert_true(c.inversion.guidance == 1.5 && c.inversion.shift == 3.0);
  assert_int_equal(c.capture.steps.count, 3);
  assert_int_equal(c.capture.steps.values[2], 10);
  assert_int_equal(c.capture.blocks.count, -1);
  assert_int_equal(c.capture.points.count, 2);
  assert_int_equal(c.capture.pool.count, 1); /* one name stands for a list of one */
  assert_string_equal(c.run.device, "cuda:3");
}

static void test_lists_replace_the_default(void **state) {
  (void)state;
  ebb_config c;
  parse(&c, "capture: {points: [latent]}\n");
  assert_int_equal(c.capture.points.count, 1);
  assert_string_equal(c.capture.points.names[0], "latent");
  set(&c, "capture.points=[velocity, attn_out]");
  assert_int_equal(c.capture.points.count, 2);
  set(&c, "capture.points=[]");
  assert_int_equal(c.capture.points.count, 0);
  set(&c, "capture.steps=all");
  assert_int_equal(c.capture.steps.count, -1);
  set(&c, "capture.steps=7");
  assert_int_equal(c.capture.steps.count, 1);
  assert_int_equal(c.capture.steps.values[0], 7);
}

static void test_errors_in_files(void **state) {
  (void)state;
  refuse("inversion:\n  step: 5\n",
         "a.yaml:2: unknown key \"inversion.step\"; did you mean \"inversion.steps\"?");
  refuse("inverson:\n  steps: 5\n", "a.yaml:1: unknown key \"inverson\"; did you mean \"inversion\"?");
  refuse("data: {solver: euler}\n", "did you mean \"inversion.solver\"?");
  refuse("zzzzzzzzzzzzzz: 1\n", "lists all keys");
  refuse("model.path: x\n", "unknown key");
  refuse("inversion:\n  solver: euler\n  steps: many\n",
         "a.yaml:3: inversion.steps: found many, expected an integer "
         "from 1 to 10000");
  refuse("inversion: {steps: \"20\"}\n", "found \"20\", expected an integer");
  refuse("inversion: {steps: 0}\n", "expected an integer from 1");
  refuse("inversion: {steps: 1.0}\n", "expected an integer");
  refuse("inversion: {steps: 99999999999999999999}\n", "expected an integer");
  refuse("inversion: {steps: [1]}\n", "found a list, expected an integer");
  refuse("inversion: {steps: }\n", "expected an integer");
  refuse("inversion: {guidance: .inf}\n", "expected a number from 1 to 100");
  refuse("inversion: {guidance: 0x10}\n", "expected a number");
  refuse("inversion: {guidance: 1e999}\n", "expected a number");
  refuse("inversion: {solver: eular}\n", "one of euler, heun, midpoint, rk4, exact");
  refuse("inversion: {solver: eule}\n", "one of euler");
  refuse("inversion: {solver: euler|heun}\n", "one of euler");
  refuse("data: {unlabelled: yes}\n", "expected true or false");
  refuse("data: {size: 64}\n", "HEIGHTxWIDTH");
  refuse("data: {size: 64x4}\n", "HEIGHTxWIDTH");
  refuse("data: {size: 64x64x64}\n", "HEIGHTxWIDTH");
  refuse("data: {path: }\n", "expected text");
  refuse("model: {transformer: ../../etc}\n", "a name of at most 63 bytes without '/'");
  refuse("model: {transformer: ..}\n", "without '/'");
  refuse("model: {compare: [a/b]}\n", "a list of at most 16 names");
  refuse("capture: {points: [block_out, blockout]}\n", "found blockout");
  refuse("capture: {points: [block_out, block_out]}\n", "listed twice");
  refuse("capture: {steps: [0, 5, 5]}\n", "ascend");
  refuse("capture: {steps: [[0]]}\n", "single values");
  refuse("capture: {steps: none}\n", "all, or a list");
  refuse("run: {device: \"cuda:\"}\n", "one of auto");
  refuse("run: {device: cuda:x}\n", "one of auto");
  refuse("run: {device: tpu}\n", "one of auto");
  refuse("inversion: {steps: 5, steps: 6}\n", "inversion.steps is given twice");
  refuse("data: {frames: 9}\ndata: {groups: 1}\n", "a.yaml:2: section data is given twice");
  refuse("data: 5\n", "expected a section of keys");
  refuse("data: &a {frames: 9}\n", "anchors");
  refuse("data: {frames: &a 9, groups: *a}\n", "anchors");
  refuse("data: {frames: *a}\n", "anchors");
  refuse("data: {frames: !!int 9}\n", "anchors");
  refuse("name: a\n---\nname: b\n", "one experiment per file");
  refuse("- a\n- b\n", "expected sections of keys");
  refuse("", "the file is empty");
  refuse("name: \"a\n", "not valid YAML");
  refuse("name: \"a\\0b\"\n", "zero byte");
  refuse("name: \xFF\xFE\n", "not valid YAML");
  refuse("[a]: b\n", "found a list, expected a key");
  refuse("version https://git-lfs.github.com/spec/v1\n", "git lfs pull");
  refuse("<!doctype html>\n", "HTML");
}

static void test_long_values(void **state) {
  (void)state;
  char text[2000], name[100];
  memset(name, 'n', sizeof name);
  name[64] = '\0';
  snprintf(text, sizeof text, "name: %s\n", name);
  refuse(text, "at most 63 bytes");
  name[63] = '\0';
  snprintf(text, sizeof text, "name: %s\n", name);
  ebb_config c;
  parse(&c, text);
  assert_string_equal(c.name, name);
  size_t n = (size_t)snprintf(text, sizeof text, "capture: {steps: [0");
  for (int i = 1; i < EBB_LIST; i++)
    n += (size_t)snprintf(text + n, sizeof text - n, ",%d", i);
  snprintf(text + n, sizeof text - n, "]}");
  parse(&c, text);
  assert_int_equal(c.capture.steps.count, EBB_LIST);
  snprintf(text + n, sizeof text - n, ",1000]}");
  refuse(text, "at most 128");
}

static void test_set(void **state) {
  (void)state;
  ebb_config c;
  ebb_config_defaults(&c);
  set(&c, "inversion.steps=20");
  set(&c, "data.size=64x64");
  set(&c, "prompt.embedding='a: b'");
  set(&c, "model.compare=[random]");
  set(&c, "data.path=/a=b");
  assert_int_equal(c.inversion.steps, 20);
  assert_int_equal(c.data.width, 64);
  assert_string_equal(c.prompt.embedding, "a: b");
  assert_string_equal(c.model.compare.names[0], "random");
  assert_string_equal(c.data.path, "/a=b");
  refuse_set("inversion.steps", "expected section.key=value");
  refuse_set("=5", "expected section.key=value");
  refuse_set("inversion.stepz=5",
             "--set: unknown key \"inversion.stepz\"; did you mean \"inversion.steps\"?");
  refuse_set("inversion=5", "unknown key");
  refuse_set("inversion.steps=", "found nothing, expected an integer");
  refuse_set("inversion.steps=  ", "found nothing");
  refuse_set("inversion.steps=five", "--set: inversion.steps: found five");
  refuse_set("inversion.steps=5\n---\n6", "single value");
  refuse_set("inversion.steps={a: b}", "found a section of keys");
  refuse_set("data.path=# comment", "a value");
}

static void test_round_trip(void **state) {
  (void)state;
  ebb_config c, back;
  ebb_config_defaults(&c);
  set(&c, "inversion.guidance=1.1");
  set(&c, "inversion.shift=3.0000000000000004");
  set(&c, "capture.steps=[0, 3, 99]");
  set(&c, "capture.blocks=[]");
  set(&c, "model.seed=9007199254740991");
  set(&c, "data.unlabelled=true");
  set(&c, "data.size=480x832");
  strcpy(c.path, "a.yaml");
  strcpy(c.data.path, "a \"b\" \\ : # {x} \xC3\xA9 \xE2\x80\xA8 \xF0\x9F\x99\x82 \xC2\x85 \t\n\x01 ~");
  strcpy(c.model.path, "~");
  strcpy(c.name, "null");
  char *text = NULL;
  size_t bytes = 0;
  FILE *out = open_memstream(&text, &bytes);
  assert_true(ebb_config_write(&c, out));
  fclose(out);
  memset(&back, 0x55, sizeof back);
  ebb_error err = {""};
  if (!ebb_config_parse(&back, "a.yaml", text, bytes, &err))
    fail_msg("%s\n%s", err.text, text);
  ebb_config_defaults(&c); /* compare by value over a clean ground: bytes after a text's end do not count */
  assert_string_equal(back.data.path,
                      "a \"b\" \\ : # {x} \xC3\xA9 \xE2\x80\xA8 \xF0\x9F\x99\x82 \xC2\x85 \t\n\x01 ~");
  assert_string_equal(back.model.path, "~");
  assert_string_equal(back.name, "null");
  assert_true(back.inversion.guidance == 1.1);
  assert_true(back.inversion.shift == 3.0000000000000004);
  assert_int_equal(back.capture.steps.count, 3);
  assert_int_equal(back.capture.blocks.count, 0);
  assert_int_equal(back.model.seed, 9007199254740991);
  assert_true(back.data.unlabelled);
  assert_int_equal(back.data.width, 832);
  char *again = NULL;
  out = open_memstream(&again, &bytes);
  assert_true(ebb_config_write(&back, out));
  fclose(out);
  assert_string_equal(again, text);
  free(text);
  free(again);
}

/* The defaults of the schema, written and read, are the defaults. */
static void test_defaults(void **state) {
  (void)state;
  ebb_config c, back;
  ebb_config_defaults(&c);
  char *text = NULL, *help = NULL;
  size_t bytes = 0;
  FILE *out = open_memstream(&text, &bytes);
  assert_true(ebb_config_write(&c, out));
  fclose(out);
  parse(&back, text);
  memset(back.path, 0, sizeof back.path);
  assert_memory_equal(&back, &c, sizeof c);
  free(text);
  out = open_memstream(&help, &bytes);
  ebb_config_help(out);
  fclose(out);
  for (int i = 0; i < ebb_key_count; i++)
    assert_non_null(strstr(help, ebb_keys[i].name));
  free(help);
}

static void test_files(void **state) {
  (void)state;
  ebb_error err = {""};
  ebb_config c;
  put_text(at("e.yaml"), "name: here\n");
  assert_true(ebb_config_read(&c, at("e.yaml"), &err));
  assert_string_equal(c.name, "here");
  assert_false(ebb_config_read(&c, at("none.yaml"), &err));
  assert_says(&err, "No such file");
  assert_false(ebb_config_read(&c, folder, &err));
  assert_says(&err, "a folder");
  FILE *full = fopen("/dev/full", "w");
  if (full != NULL) {
    assert_false(ebb_config_write(&c, full));
    fclose(full);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_reads),
                                     cmocka_unit_test(test_lists_replace_the_default),
                                     cmocka_unit_test(test_errors_in_files),
                                     cmocka_unit_test(test_long_values),
                                     cmocka_unit_test(test_set),
                                     cmocka_unit_test(test_round_trip),
                                     cmocka_unit_test(test_defaults),
                                     cmocka_unit_test(test_files)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
