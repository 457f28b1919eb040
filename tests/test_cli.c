/* tier: host
 * The program as a user meets it: exit codes, messages, and nothing half-written. Runs ebb from EBB_BIN. */
#include "tests/test_files.h"

#include <sys/wait.h>

static char output[65536]; /* stdout and stderr of the last command */

/* Runs `ebb ARGUMENTS` in a shell after `before` ("" or "ulimit ...;"); returns the exit code. */
static int ebb_after(const char *before, const char *arguments) {
  char command[2048];
  const char *bin = getenv("EBB_BIN");
  snprintf(command, sizeof command, "%s %s/ebb %s 2>&1", before, bin ? bin : "build/cpu-release/bin",
           arguments);
  FILE *p = popen(command, "r");
  assert_non_null(p);
  size_t n = fread(output, 1, sizeof output - 1, p);
  output[n] = '\0';
  int status = pclose(p);
  assert_true(WIFEXITED(status)); /* no signal: no crash */
  return WEXITSTATUS(status);
}

static int ebb(const char *arguments) {
  return ebb_after("", arguments);
}

static void expect(int code, const char *arguments, const char *words) {
  int got = ebb(arguments);
  if (got != code || !strstr(output, words))
    fail_msg("ebb %s: exit code %d, expected %d with '%s' in:\n%s", arguments, got, code, words, output);
}

static const char *line(const char *format, const char *a, const char *b) {
  static char text[1024];
  snprintf(text, sizeof text, format, a, b);
  return text;
}

static void test_usage(void **state) {
  (void)state;
  static const char *const commands[] = {"run",      "invert",         "probe",     "report",   "regress",
                                         "export",   "import",         "compare",   "generate", "reconstruct",
                                         "fidelity", "solver-compare", "intervene", "text",     "eval",
                                         "info",     "synth",          "data",      "doctor"};
  expect(2, "", "usage: ebb COMMAND");
  expect(0, "--help", "usage: ebb COMMAND");
  expect(0, "--version", "ebb ");
  expect(2, "invrt", "unknown command 'invrt'");
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    char help[64];
    snprintf(help, sizeof help, "%s --help", commands[i]);
    expect(0, help, "usage: ebb");
    snprintf(help, sizeof help, "%s --no-such-option", commands[i]);
    expect(2, help, "unknown option");
  }
  expect(0, "run --help", "inversion.solver");
  expect(2, "synth x --quadruplets 0", "--quadruplets");
  expect(2, "compare a b", "--out");
  expect(2, "compare a --out c", "compare");
  expect(2, "compare a b --out c --sigma -1", "--sigma");
  expect(2, "compare a b --out c --sigma inf", "--sigma");
  expect(2, "compare a b --out c --sigma nan", "--sigma");
  expect(2, "eval velocity", "--model");
  expect(2, "eval text --model m --out o", "eval text needs --model, --prompt and --out");
  expect(2, "eval text --model m --out o --prompt a --in i", "and no --in");
  expect(2, "eval velocity --model m --in i --out o --prompt a", "eval needs --model, --in and --out");
  expect(2, "text embed --model m --out o", "--prompt or --prompts");
  expect(2, "text imbed --model m --out o --prompt a", "expected embed");
  expect(1, "text embed --model no/such --out o --prompt a", "no/such/model_index.json");
  expect(0, "info tests/fixtures/models/text-b", "UMT5EncoderModel; 2 layers, width 24, 3 heads, 408 words");
  expect(2, "eval velocty --model m --in i --out o", "velocty");
  expect(2, "eval velocity --dtype int7", "float32|bfloat16");
  expect(0, "eval --help", "velocity-only");
  expect(2, "eval invert --model m --in i --out o --guidance inf", "--guidance");
  expect(0, "run --help", "--device NAME");
  expect(0, "probe --help", "auto, cpu, cuda or cuda:N");
  expect(2, "run configs/tiny-demo.yaml --device gpu",
         "--device: found 'gpu', expected auto, cpu, cuda or cuda:N");
  expect(0, "doctor", "backends");
  assert_int_equal(ebb_after("", "doctor >/dev/full"), 1);
}

static void test_info(void **state) {
  (void)state;
  expect(0, "info tests/fixtures/models/wan-a", "WanTransformer3DModel");
  expect(0, "info tests/fixtures/velocity-a-t5/in.safetensors", "latents");
  expect(1, "info no/such/place", "no/such/place");
  expect(1, "info configs", "expected a diffusers model folder");
  put_text(at("lfs.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n");
  expect(1, line("info %s%s", at("lfs.safetensors"), ""), "LFS");
  put_text(at("page.safetensors"), "<!DOCTYPE html><html><body>Not found</body></html>");
  expect(1, line("info %s%s", at("page.safetensors"), ""), "HTML");
  put(at("short.safetensors"), "\x10\0\0\0\0\0\0\0{}", 10);
  expect(1, line("info %s%s", at("short.safetensors"), ""), "short.safetensors");
}

static void test_eval_errors(void **state) {
  (void)state;
  const char *in = "tests/fixtures/velocity-a-t5/in.safetensors";
  expect(1, line("eval velocity --model tests/fixtures/models/wan-a --in none --out %s%s", at("o"), ""),
         "none");
  expect(1, line("eval encode --model tests/fixtures/models/wan-a --in %s --out %s", in, at("o")), "'video'");
  expect(1, line("eval velocity --model tests/fixtures/models/wan-b --in %s --out %s", in, at("o")),
         "channels");
  expect(
      1,
      line("eval velocity --device cuda --model tests/fixtures/models/wan-a --in %s --out %s", in, at("o")),
      "CUDA");
  expect(1,
         line("eval velocity --dtype bfloat16 --model tests/fixtures/models/wan-a --in %s --out %s", in,
              at("o")),
         "float32");
  assert_int_equal(access(at("o"), F_OK), -1);
  expect(0, line("eval velocity --model tests/fixtures/models/wan-a --in %s --out %s", in, at("o")), "");
  expect(1, line("eval velocity --model tests/fixtures/models/wan-a --in %s --out %s", in, "/dev/null"),
         "no regular file");
  /* a disk that is full: an error, and no file */
  char command[1024];
  snprintf(command, sizeof command, "eval velocity --model tests/fixtures/models/wan-a --in %s --out %s", in,
           at("p"));
  assert_int_equal(ebb_after("ulimit -f 8;", command), 1);
  assert_non_null(strstr(output, at("p")));
  assert_int_equal(access(at("p"), F_OK), -1);
}

static const char *experiment =
    "name: cli\n"
    "model: {path: tests/fixtures/models/wan-a}\n"
    "data: {format: intphys, path: %s, size: 32x32, frames: 9}\n"
    "prompt: {embedding: zeros, max_tokens: 1}\n"
    "inversion: {steps: 2}\n"
    "capture: {steps: [0, 1], blocks: all, points: [block_out, attn_frames], pool: [mean]}\n"
    "probe: {folds: 2, inner_folds: 2, bootstrap: 100, permutations: 9}\n"
    "run: {batch: 4, device: cpu, out: %s}\n%s";

static void write_experiment(const char *path, const char *data, const char *out, const char *more) {
  char text[2048];
  snprintf(text, sizeof text, experiment, data, out, more);
  put_text(path, text);
}

static void test_data_commands(void **state) {
  (void)state;
  expect(2, "data", "usage: ebb data check");
  expect(2, "data verify x", "unknown word 'verify'");
  expect(2, "data check x --format video", "expected one of intphys|inflevel|phyworld|manifest");
  expect(2, "data evaluate tests/fixtures/data/gravity.tsv", "needs --category");
  expect(1, "data evaluate tests/fixtures/data/gravity.tsv --category gravity", "no column \"score\"");
  expect(
      0,
      "data evaluate tests/fixtures/data/gravity.tsv --evaluator inflevel --category gravity --score model",
      "accuracy     0.49264705882352944\n");
  expect(0, "data evaluate tests/fixtures/data/continuity.csv --category continuity --score model",
         "pval         0.052000000000000005\n");
  expect(0, line("synth %s --quadruplets 2 --categories O2 --size 32 --frames 9%s", at("made"), ""), "");
  char command[512]; /* what is printed is read back as the same set */
  snprintf(command, sizeof command,
           "data manifest %s/made >%s/made.csv && mv %s/made.csv %s/made/manifest.csv", folder, folder,
           folder, folder);
  expect(0, command, "");
  expect(0, line("data check %s --format manifest%s", at("made"), ""),
         "8        4          4          0        2");
  expect(0, line("data check %s --format manifest%s", at("made"), ""), "and 2 are made of the same frames");
  expect(2, "data manifest tests/fixtures/data/phyworld.hdf5 --format phyworld", "expected one of");
  snprintf(command, sizeof command,
           "data manifest %s/made/manifest.csv --format manifest >%s/again.csv && cmp %s/again.csv "
           "%s/made/manifest.csv",
           folder, folder, folder, folder);
  expect(0, command, ""); /* of the CSV itself, as of its folder */
  snprintf(command, sizeof command, "data manifest %s/nowhere.csv --format manifest", folder);
  expect(1, command, "nowhere.csv");
}

/* A list of prompts as other systems write it: a byte order mark, lines that end in CR LF. */
static void test_lines_of_prompts(void **state) {
  (void)state;
  put_text(at("prompts.txt"), "\xef\xbb\xbf"
                              "a ball\r\na ball\na cube\r\n");
  expect(
      0,
      line("text embed --model tests/fixtures/models/text-a --prompt 'a ball' --prompts %s --max-tokens 20 "
           "--device cpu --out %s",
           at("prompts.txt"), at("texts.safetensors")),
      "2 prompts of 20 tokens, 2 of them new");
}

static void test_run_probe_report(void **state) {
  (void)state;
  expect(0, line("synth %s --quadruplets 6 --categories O1 --size 32 --frames 9%s", at("data"), ""), "");
  expect(0, line("data check %s%s", at("data"), ""), "quadruplet");
  write_experiment(at("run.yaml"), at("data"), at("run"), "");
  expect(0, line("run %s --dry-run%s", at("run.yaml"), ""), "memory");
  assert_int_equal(access(at("run"), F_OK), -1);
  expect(0, line("run %s%s", at("run.yaml"), ""), "block_out.mean");
  expect(0, line("report %s%s", at("run"), ""), "block_out.mean");
  expect(0, line("probe %s --device cpu --set probe.seed=2%s", at("run"), ""), "block_out.mean");
  assert_int_equal(access(at("run/probe/overview.png"), F_OK), 0);
  assert_int_equal(access(at("run/probe/frame-mass-O1-transformer.png"), F_OK), 0);
  expect(0, line("report %s --step 1%s", at("run"), ""), "block_out.mean");
  assert_int_equal(access(at("run/probe/frame-mass-O1-transformer-step1.png"), F_OK), 0);
  expect(1, line("report %s --step 2%s", at("run"), ""), "not captured at step 2: there are 0, 1");
  expect(0, line("probe %s --device cpu --set probe.heads=each%s", at("run"), ""), "attn_frames.head");
  char command[512];
  snprintf(command, sizeof command, "compare %s/run %s/run --out %s/compared", folder, folder, folder);
  expect(0, command, "nothing that the runs record differs");
  assert_int_equal(access(at("compared/compare.json"), F_OK), 0);
  expect(1, line("compare %s %s --out o", at("run"), at("data")), "no index.json");
  expect(1, line("run %s%s", at("run.yaml"), ""), "index.json"); /* a finished run is not overwritten */
  expect(1, line("report %s%s", at("data"), ""), at("data"));
  put_text(at("run/features/transformer/shard-00000.safetensors"), "cut");
  expect(0, line("report %s%s", at("run"), ""), "attn_frames");
  expect(0, line("report %s%s", at("run"), ""), "note: attention maps are not drawn again: ");
  expect(1, line("report %s --step 1%s", at("run"), ""), "shard-00000.safetensors");
}

static void test_generate_and_reconstruct(void **state) {
  (void)state;
  const char *more = "generate: {videos: 2, write: png}\n";
  char command[1024];
  expect(0, "generate --help", "generate.seed");
  expect(0, "reconstruct --help", "generate.write");
  expect(2, "reconstruct", "CONFIG");
  write_experiment(at("films.yaml"), at("data"), at("films"), more);
  expect(0, line("reconstruct %s --dry-run%s", at("films.yaml"), ""), "videos before they are written");
  assert_int_equal(access(at("films"), F_OK), -1);
  expect(0, line("reconstruct %s%s", at("films.yaml"), ""), "VAE alone (the ceiling)");
  expect(1, line("reconstruct %s%s", at("films.yaml"), ""), "never overwritten");
  expect(0, line("generate %s%s", at("films.yaml"), ""), "generating: 2 videos");
  assert_int_equal(files_in(at("films/generate/generated-00001")), 9);
  expect(2, line("generate %s --set generate.write=avi%s", at("films.yaml"), ""), "mp4, png");
  expect(1, line("generate %s --set data.size=36x36 --out %s", at("films.yaml"), at("odd")),
         "multiples of 8");
  expect(1, line("generate %s --set generate.noise=none.safetensors --out %s", at("films.yaml"), at("odd")),
         "none.safetensors");
  snprintf(command, sizeof command, "generate %s --set data.size=64x64 --out %s", at("films.yaml"),
           at("full-films"));
  assert_int_equal(ebb_after("ulimit -f 8;", command), 1);
  assert_int_equal(access(at("full-films/generate/generate.json"), F_OK), -1);
  expect(0, command, ""); /* what a stopped run has left is replaced */
  assert_int_equal(access(at("full-films/generate/generate.json"), F_OK), 0);
}

static void test_synth_leaves_nothing_and_takes_nothing(void **state) {
  (void)state;
  char command[1024];
  snprintf(command, sizeof command,
           "cd '%s' && mkdir full.partial vacant full && echo x > full/x && echo y > full.partial/y && ln -s "
           "nothing dangling",
           folder);
  assert_int_equal(system(command), 0);
  const char *small = "synth %s --quadruplets 1 --size 32 --frames 9%s";
  expect(1, line(small, at("full"), ""), "not empty");
  assert_int_equal(access(at("full.partial/y"), F_OK), 0); /* somebody else's */
  expect(1, line(small, at("dangling"), ""), "a link to nothing");
  expect(0, line(small, at("vacant"), ""), "");
  expect(0, line(small, at("deep/er/"), ""), "");
  assert_int_equal(access(at("deep/er/O3/01/4/status.json"), F_OK), 0);
  snprintf(command, sizeof command, "synth %s --quadruplets 1 --size 64 --frames 33", at("cut"));
  assert_int_equal(ebb_after("ulimit -f 2;", command), 1);
  snprintf(command, sizeof command, "test $(ls -d %s/cut* 2>/dev/null | wc -l) = 0", folder);
  assert_int_equal(system(command), 0);
}

static void test_config_errors(void **state) {
  (void)state;
  write_experiment(at("bad.yaml"), at("data"), at("bad"), "invertion: {steps: 3}\n");
  expect(1, line("run %s%s", at("bad.yaml"), ""), "bad.yaml:9");
  write_experiment(at("bad.yaml"), at("data"), at("bad"), "");
  expect(2, line("run %s --set inversion.steps=many%s", at("bad.yaml"), ""), "inversion.steps");
  expect(2, line("run %s --set inversion.solver=elur%s", at("bad.yaml"), ""), "euler");
  expect(1, line("run %s%s", at("none.yaml"), ""), "none.yaml");
  expect(1, line("run %s --set probe.folds=50%s", at("bad.yaml"), ""),
         "probe.folds"); /* before anything is inverted */
  expect(1, line("run %s --set probe.features=[block_out.men] --dry-run%s", at("bad.yaml"), ""),
         "block_out.mean");
  expect(
      1,
      line("run %s --set inversion.solver=exact --set model.dtype=bfloat16 --dry-run%s", at("bad.yaml"), ""),
      "inversion.solver: found exact with model.dtype bfloat16");
  expect(1, "eval invert --model m --in i --out o --solver exact --dtype bfloat16",
         "--solver: found exact with --dtype bfloat16, expected --dtype float32");
  expect(1, line("run %s --set data.path='\"\"' --dry-run%s", at("bad.yaml"), ""), "data.path is not set");
  expect(2, "eval invert --model m --in i --out o --solver 'euler|heun'", "--solver");
  assert_int_equal(access(at("bad"), F_OK), -1);
}

static void test_broken_videos_exit_with_3(void **state) {
  (void)state;
  char command[1024];
  snprintf(command, sizeof command, "echo x > '%s/O1/02/3/scene/scene_002.png'; rm '%s/O1/03/1/status.json'",
           at("data"), at("data"));
  assert_int_equal(system(command), 0);
  expect(3, line("data check %s%s", at("data"), ""), "O1/02");
  write_experiment(at("some.yaml"), at("data"), at("some"), "");
  expect(3, line("run %s%s", at("some.yaml"), ""), "scene_002.png");
  assert_non_null(strstr(output, "O1/03/1"));
  write_experiment(at("some-films.yaml"), at("data"), at("some-films"), "generate: {write: png}\n");
  expect(3, line("reconstruct %s%s", at("some-films.yaml"), ""), "scene_002.png");
}

static void test_one_class_and_no_videos(void **state) {
  (void)state;
  char command[2048];
  snprintf(command, sizeof command,
           "cp -r '%s' '%s'; mkdir '%s'; for f in %s/same/O1/*/*/status.json; do "
           "echo '{\"header\": {\"is_possible\": true}}' > $f; done",
           at("data"), at("same"), at("empty"), folder);
  assert_int_equal(system(command), 0);
  write_experiment(at("same.yaml"), at("same"), at("same-run"), "");
  int code = ebb(line("run %s%s", at("same.yaml"), ""));
  assert_int_equal(code, 1);
  assert_non_null(strstr(output, "class"));
  write_experiment(at("empty.yaml"), at("empty"), at("empty-run"), "");
  expect(1, line("run %s%s", at("empty.yaml"), ""), at("empty"));
}

static void test_full_disk_in_a_run(void **state) {
  (void)state;
  char command[512];
  write_experiment(at("full.yaml"), at("data"), at("full"), "");
  snprintf(command, sizeof command, "invert %s", at("full.yaml"));
  assert_int_equal(ebb_after("ulimit -f 2;", command), 1);
  assert_int_equal(access(at("full/index.json"), F_OK), -1);
  assert_int_equal(ebb_after("", command), 3); /* the two broken videos; the run itself goes through */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_usage),
      cmocka_unit_test(test_info),
      cmocka_unit_test(test_eval_errors),
      cmocka_unit_test(test_data_commands),
      cmocka_unit_test(test_lines_of_prompts),
      cmocka_unit_test(test_run_probe_report),
      cmocka_unit_test(test_generate_and_reconstruct),
      cmocka_unit_test(test_config_errors),
      cmocka_unit_test(test_synth_leaves_nothing_and_takes_nothing),
      cmocka_unit_test(test_broken_videos_exit_with_3),
      cmocka_unit_test(test_full_disk_in_a_run),
      cmocka_unit_test(test_one_class_and_no_videos),
  };
  return cmocka_run_group_tests_name("cli", tests, folder_make, folder_remove);
}
