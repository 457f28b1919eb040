/* PhyWorld's HDF5: what the columns are, levels from values, prompts, frames. Host code; needs libhdf5, and
 * FFmpeg's libraries for frames. */
#include "tests/test_files.h"

#include "loaders/config.h"
#include "loaders/file.h"
#include "loaders/frames.h"
#include "loaders/phyworld.h"
#include "loaders/phyworld_file.h"
#include "loaders/trial.h"
#include "loaders/video.h"

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define FILE_NAME "tests/fixtures/data/phyworld.hdf5"

#if !defined(EBB_HAVE_HDF5)
#define NEEDS_HDF5 skip()
#else
#define NEEDS_HDF5 (void)0
#endif

static void open_set(ebb_dataset *set, bool official) {
  ebb_error err = {""};
  if (!ebb_dataset_open(set, "phyworld", FILE_NAME, &(ebb_dataset_options){.official_prompt = official}, NULL,
                        NULL, &err))
    fail_msg("%s", err.text);
}

static const ebb_video *find(const ebb_dataset *set, const char *id) {
  for (int64_t i = 0; i < set->count; i++)
    if (strcmp(set->videos[i].id, id) == 0)
      return &set->videos[i];
  fail_msg("no video %s", id);
  return NULL;
}

static double linspace(double low, double high, int n, int i) {
  return low + (high - low) * i / (n - 1);
}

/* The lists that the generator makes of the evaluation file, in its order; each is shuffled there. */
static const struct {
  const char *level;
  double r[2], v[2];
  int rs, vs;
} lists[] = {
    {"in_dist", {0.7, 1.4}, {1, 4}, 10, 16},         {"r_small", {0.3, 0.6}, {1, 4}, 8, 4},
    {"v_small", {0.7, 1.4}, {0, 0.8}, 4, 16},        {"both_small", {0.3, 0.6}, {0, 0.8}, 8, 16},
    {"r_large", {1.5, 2.0}, {1, 4}, 8, 16},          {"v_large", {0.7, 1.4}, {4.5, 6}, 10, 16},
    {"both_large", {1.5, 2.0}, {4.5, 6}, 8, 16},     {"r_small_v_large", {0.3, 0.6}, {4.5, 6}, 8, 16},
    {"r_large_v_small", {1.5, 2.0}, {0, 0.8}, 8, 16}};

static void test_levels_of_the_published_file(void **state) {
  (void)state;
  double sum[5] = {0};
  int total = 0;
  for (int l = 0; l < 9; l++) {
    int n = 0;
    for (int i = 0; i < lists[l].rs; i++)
      for (int j = 0; j < lists[l].vs; j++, n++) {
        const double r = linspace(lists[l].r[0], lists[l].r[1], lists[l].rs, i),
                     v = linspace(lists[l].v[0], lists[l].v[1], lists[l].vs, j);
        assert_string_equal(ebb_phyworld_level(r, v), lists[l].level);
        const double products[] = {r, v, r * r, v * v, r * v};
        for (int k = 0; k < 5; k++)
          sum[k] += products[k];
      }
    assert_string_equal(ebb_phyworld_parts[l].name, lists[l].level);
    assert_int_equal(ebb_phyworld_parts[l].videos, n);
    total += n;
  }
  assert_null(ebb_phyworld_parts[9].name);
  assert_int_equal(total, 1056);
  const double correlation = (total * sum[4] - sum[0] * sum[1]) /
                             sqrt((total * sum[2] - sum[0] * sum[0]) * (total * sum[3] - sum[1] * sum[1]));
  assert_true(fabs(correlation - -0.028) < 0.0005);
  const char *const between[] = {ebb_phyworld_level(0.65, 2), ebb_phyworld_level(1, 4.2),
                                 ebb_phyworld_level(2.1, 1), ebb_phyworld_level(NAN, 1)};
  for (int i = 0; i < 4; i++)
    assert_string_equal(between[i], "other");
}

/* Six published samples: index in the list, and "x0" and "v0" as their authors call them. Each lies in the
 * part of the list that radius and speed put it in, at a point of the generator's grid. */
static void test_published_samples_are_radius_and_speed(void **state) {
  (void)state;
  const struct {
    int index;
    double r, v;
  } samples[] = {{320, .51, .59},   {448, 1.79, 1.40}, {23, .70, 2.80},
                 {497, 1.50, 3.80}, {563, .78, 5.00},  {626, 1.17, 6.00}};
  for (int s = 0; s < 6; s++) {
    int part = 0, first = 0;
    while (samples[s].index >= first + ebb_phyworld_parts[part].videos)
      first += ebb_phyworld_parts[part++].videos;
    assert_string_equal(ebb_phyworld_level(samples[s].r, samples[s].v), ebb_phyworld_parts[part].name);
    double dr = 1, dv = 1;
    for (int i = 0; i < lists[part].rs; i++)
      dr = fmin(dr, fabs(samples[s].r - linspace(lists[part].r[0], lists[part].r[1], lists[part].rs, i)));
    for (int j = 0; j < lists[part].vs; j++)
      dv = fmin(dv, fabs(samples[s].v - linspace(lists[part].v[0], lists[part].v[1], lists[part].vs, j)));
    assert_true(dr <= 0.005 && dv <= 0.005); /* two digits were published */
  }
}

/* 1: column 0 of init_streams is the radius; the official loader calls it x0. The pixels tell. */
static void defect_01_column_0_is_the_radius(void **state) {
  (void)state;
  NEEDS_HDF5;
  ebb_dataset set;
  ebb_error err = {""};
  open_set(&set, false);
  const char *const names[] = {"r", "v", "x0", "y0", "x_mid", "y_mid", "x_end", "y_end"};
  assert_int_equal(set.target_count, 8);
  for (int t = 0; t < 8; t++)
    assert_string_equal(set.target_names[t], names[t]);
  ebb_phyworld_file file;
  assert_true(ebb_phyworld_file_read(&file, FILE_NAME, &err));
  assert_int_equal(file.count, 2);
  for (int64_t p = 0; p < 2; p++)
    for (int64_t row = 0; row < file.pieces[p].rows; row++) {
      char id[32];
      snprintf(id, sizeof id, "%05d/%05d", (int)p, (int)row);
      const ebb_video *v = find(&set, id);
      const double *at_first = file.pieces[p].positions + row * 64;
      const double want[] = {file.pieces[p].init[2 * row],
                             file.pieces[p].init[2 * row + 1],
                             at_first[0],
                             at_first[1],
                             at_first[32],
                             at_first[33],
                             at_first[62],
                             at_first[63]};
      assert_memory_equal(v->targets, want, sizeof want);
      assert_true(v->label == EBB_UNLABELLED && v->frames == 32 && v->item == p * 1000000 + row);
      ebb_clip clip;
      if (!ebb_video_supported())
        continue;
      assert_true(ebb_video_read(v, &clip, &err));
      assert_true(clip.frames == 32 && clip.height == 256 && clip.width == 256);
      if (!ebb_phyworld_compare(&set, v, &clip, &err))
        fail_msg("%s", err.text);
      double x, y, r;
      assert_true(ebb_phyworld_disc(&clip, 0, &x, &y, &r));
      assert_true(fabs(r - want[0]) < 0.04 * want[0] + 0.02);
      assert_true(fabs(x - want[2]) > 0.5 || fabs(want[0] - want[2]) > 0.05); /* and radius is no position */
      ebb_clip_free(&clip);
    }
  ebb_phyworld_file_free(&file);
  ebb_dataset_close(&set);
  if (!ebb_video_supported())
    return;
  assert_false(
      ebb_dataset_open(&set, "phyworld", "tests/fixtures/data/swapped.hdf5", NULL, NULL, NULL, &err));
  assert_says(&err, "column 0 is the position x of the first frame");
}

/* 2: the official code takes piece 00000 for in and 00001 for out of distribution; they count thousands. */
static void defect_02_levels_follow_from_values_not_from_pieces(void **state) {
  (void)state;
  NEEDS_HDF5;
  ebb_dataset set;
  open_set(&set, false);
  const char *const levels[][2] = {{"00000/00000", "in_dist"},         {"00000/00001", "both_small"},
                                   {"00000/00002", "r_large"},         {"00000/00003", "v_large"},
                                   {"00000/00004", "r_small"},         {"00000/00005", "r_small_v_large"},
                                   {"00001/00000", "r_large_v_small"}, {"00001/00001", "r_large_v_small"}};
  assert_int_equal(set.count, 8);
  for (int i = 0; i < 8; i++) {
    const ebb_video *v = find(&set, levels[i][0]);
    assert_string_equal(v->category, levels[i][1]);
    assert_string_equal(v->split, levels[i][1]);
  }
  assert_string_equal(find(&set, "00000/00000")->group, "in_dist/r0.7000_v2.8000");
  assert_string_not_equal(find(&set, "00001/00000")->group, find(&set, "00001/00001")->group);
  ebb_dataset_close(&set);
}

/* 3: the official default prompt states what is to be regressed. */
static void defect_03_the_prompt_does_not_tell_the_targets(void **state) {
  (void)state;
  NEEDS_HDF5;
  ebb_dataset set;
  ebb_config config;
  ebb_config_defaults(&config);
  assert_string_equal(config.data.prompt, "neutral");
  open_set(&set, false);
  for (int64_t i = 0; i < set.count; i++) {
    assert_null(strpbrk(set.videos[i].prompt, "0123456789"));
    assert_string_equal(set.videos[i].prompt, set.videos[0].prompt);
  }
  ebb_dataset_close(&set);
  open_set(&set, true); /* by name only */
  assert_string_equal(
      find(&set, "00000/00000")->prompt,
      "a small ball thrown into the air following a parabolic trajectory, initial horizontal position "
      "0.70 m, initial speed 2.80 m/s");
  ebb_dataset_close(&set);
}

/* 24: the official run makes 100 frames of 32 by repeating the last. */
static void defect_24_short_videos_are_not_padded(void **state) {
  (void)state;
  NEEDS_HDF5;
  ebb_dataset set;
  ebb_error err = {""};
  ebb_config config;
  assert_true(ebb_config_read(&config, "configs/wan2.1-1.3b-phyworld.yaml", &err));
  snprintf(config.data.path, sizeof config.data.path, "%s", FILE_NAME);
  if (!ebb_dataset_open_config(&set, &config, NULL, NULL, &err))
    fail_msg("%s", err.text);
  const int wanted = (int)config.data.frames, used = ebb_frames_usable(wanted, 4);
  int index[32];
  assert_true(wanted == 32 && used == 29 && set.videos[0].frames == 32);
  ebb_frames_align(set.videos[0].frames, wanted, index);
  for (int i = 0; i < used; i++)
    assert_int_equal(index[i], i); /* every frame once, none frozen */
  ebb_dataset_close(&set);
  config.data.frames = 100;
  assert_false(ebb_dataset_open_config(&set, &config, NULL, NULL, &err));
  assert_says(
      &err,
      "8 of 8 videos are shorter than data.frames, 100: 00000/00001 has 32 frames, and the other 68 would be "
      "copies");
  snprintf(config.data.padding, sizeof config.data.padding, "repeat");
  assert_true(ebb_dataset_open_config(&set, &config, NULL, NULL, &err));
  ebb_dataset_close(&set);
}

static void refuse(const char *path, const char *words) {
  ebb_error err = {""};
  ebb_dataset set;
  assert_false(ebb_dataset_open(&set, "phyworld", path, NULL, NULL, NULL, &err));
  assert_says(&err, words);
}

/* What libhdf5 itself loses of a damaged file: LeakSanitizer asks for this. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
  return "leak:libhdf5\n";
}

static void test_damaged_files(void **state) {
  (void)state;
  NEEDS_HDF5;
  ebb_error err = {""};
  char *bytes;
  size_t size;
  refuse("nowhere.hdf5", "nowhere.hdf5: cannot open");
  refuse(folder, "not a regular file");
  put_text(at("page.hdf5"), "<html>not found</html>");
  refuse(at("page.hdf5"), "not an HDF5 file");
  assert_true(ebb_file_read(FILE_NAME, 1 << 20, &bytes, &size, &err));
  for (size_t cut = 0; cut < size; cut += size / 24 + 1) { /* a download that ended early */
    put(at("cut.hdf5"), bytes, cut);
    refuse(at("cut.hdf5"), "cut.hdf5");
  }
  refuse("tests/fixtures/data/unwritten.hdf5",
         "\"position_streams/00000\" is declared to hold 1024000 bytes, but 0 were written");
  uint32_t random = 7; /* bytes changed: a clear error or sound numbers, where libhdf5 itself would crash */
  for (int i = 0; i < 400; i++) {
    ebb_phyworld_file file;
    char changed[4];
    size_t where[4];
    for (int k = 0; k < 4; k++) {
      random = random * 1664525u + 1013904223u;
      where[k] = (random >> 8) % (i % 2 ? 8192 : size);
      changed[k] = bytes[where[k]];
      random = random * 1664525u + 1013904223u;
      bytes[where[k]] = (char)(random >> 24);
    }
    put(at("changed.hdf5"), bytes, size);
    if (ebb_phyworld_file_read(&file, at("changed.hdf5"), &err))
      for (int64_t row = 0; row < 8; row++) {
        void *video;
        size_t count;
        ebb_error why = {""};
        const bool ok = ebb_phyworld_bytes(at("changed.hdf5"), row / 6, row % 6, &video, &count, &why);
        assert_int_equal(ok, why.text[0] == '\0');
        free(video);
      }
    else
      assert_says(&err, "changed.hdf5");
    ebb_phyworld_file_free(&file);
    assert_fine(&err);
    for (int k = 3; k >= 0; k--)
      bytes[where[k]] = changed[k];
  }
  free(bytes);
  ebb_dataset set;
  ebb_clip clip;
  open_set(&set, false);
  ebb_video beyond = *find(&set, "00001/00001");
  beyond.item++;
  assert_false(ebb_video_read(&beyond, &clip, &err));
  assert_says(&err, "\"video_streams/00001\" has 2 rows, row 2 is asked for");
  ebb_dataset_close(&set);
}

static int told; /* the write end of a pipe that trials tell on, and keep open while they live */

static void tell_and_wait(const char *path) {
  (void)path;
  struct rlimit cpu;
  struct sigaction act[3];
  sigaction(SIGINT, NULL, &act[0]);
  sigaction(SIGTERM, NULL, &act[1]);
  sigaction(SIGHUP, NULL, &act[2]);
  bool plain = getrlimit(RLIMIT_CPU, &cpu) == 0 && cpu.rlim_cur == 60;
  for (int i = 0; i < 3; i++)
    plain = plain && act[i].sa_handler == SIG_DFL;
  if (write(told, plain ? "y" : "n", 1) == 1)
    sleep(60);
}

static void end_by_signal(const char *path) {
  raise(path[0] == 'i' ? SIGINT : SIGSEGV);
}

static void spin(const char *path) {
  for (volatile const char *p = path; *p != '\0';)
    ;
}

static void come_to_an_end(const char *path) {
  (void)path;
}

static void test_trials(void **state) {
  (void)state;
  int ends[2];
  char byte = 0;
  ebb_error err = {""};
  assert_true(ebb_survives("sound", "lib", come_to_an_end, 60, &err));
  assert_false(ebb_survives("crash", "lib", end_by_signal, 60, &err));
  assert_says(&err, "crash: lib crashes when it reads it");
  assert_false(ebb_survives("loop", "lib", spin, 1, &err));
  assert_says(&err, "loop: lib did not read it in 1 seconds");
  signal(SIGINT, SIG_IGN); /* a program that finishes its work first */
  assert_false(ebb_survives("interrupt", "lib", end_by_signal, 60, &err));
  assert_says(&err, "interrupt: interrupted");
  assert_int_equal(pipe(ends), 0);
  told = ends[1];
  const pid_t program = fork();
  if (program == 0) {
    ebb_survives("x", "lib", tell_and_wait, 60, NULL);
    _exit(0);
  }
  close(ends[1]);
  assert_int_equal(read(ends[0], &byte, 1), 1);
  assert_int_equal(byte, 'y');
  kill(program, SIGKILL); /* its trial goes with it: the pipe has no writer any more */
  waitpid(program, NULL, 0);
  struct pollfd end = {.fd = ends[0], .events = POLLIN};
  assert_int_equal(poll(&end, 1, 20000), 1);
  assert_int_equal(read(ends[0], &byte, 1), 0);
  close(ends[0]);
  signal(SIGINT, SIG_DFL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels_of_the_published_file),
                                     cmocka_unit_test(test_published_samples_are_radius_and_speed),
                                     cmocka_unit_test(defect_01_column_0_is_the_radius),
                                     cmocka_unit_test(defect_02_levels_follow_from_values_not_from_pieces),
                                     cmocka_unit_test(defect_03_the_prompt_does_not_tell_the_targets),
                                     cmocka_unit_test(defect_24_short_videos_are_not_padded),
                                     cmocka_unit_test(test_damaged_files),
                                     cmocka_unit_test(test_trials)};
  return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
