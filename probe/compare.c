#include "probe/compare_parts.h"

#include "kernels/tensor.h"
#include "loaders/file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the same videos ---------------------------------------------------------------------------------- */

/* Place of a video of A in B: where it is in A, as a rule. -1: not there. */
static int64_t find_video(const ebb_store *b, const char *id, int64_t guess) {
  if (guess < b->video_count && strcmp(b->videos[guess].id, id) == 0)
    return guess;
  for (int64_t v = 0; v < b->video_count; v++)
    if (strcmp(b->videos[v].id, id) == 0)
      return v;
  return -1;
}

/* SHA-256 of a video's frames; "" where the index does not say it. */
static const char *frames_of(const ebb_store *s, int64_t video) {
  const json_t *v = json_array_get(json_object_get(s->index, "videos"), (size_t)video);
  const char *text = json_string_value(json_object_get(v, "sha256"));
  return text ? text : "";
}

static bool match_videos(ebb_comparison *c, ebb_error *err) {
  const ebb_store *a = &c->store[0], *b = &c->store[1];
  if (a->video_count != b->video_count)
    return ebb_fail(err, "%s has %lld videos, %s %lld: expected runs of the same videos", a->dir,
                    (long long)a->video_count, b->dir, (long long)b->video_count);
  c->count = a->video_count;
  for (int run = 0; run < 2; run++)
    c->video[run] = ebb_must(calloc((size_t)c->count + 1, sizeof *c->video[run]));
  for (int64_t v = 0; v < c->count; v++) {
    const int64_t w = find_video(b, a->videos[v].id, v);
    if (w < 0)
      return ebb_fail(err, "%s has no video \"%s\", which is in %s: expected runs of the same videos", b->dir,
                      a->videos[v].id, a->dir);
    const char *frames = frames_of(a, v), *other = frames_of(b, w);
    if (frames[0] && other[0] && strcmp(frames, other) != 0)
      return ebb_fail(
          err,
          "video \"%s\" has other frames in %s (SHA-256 %.12s...) than in %s (%.12s...): expected the same "
          "data set, data.size and data.frames",
          a->videos[v].id, b->dir, other, a->dir, frames);
    c->video[0][v] = v;
    c->video[1][v] = w;
  }
  return true;
}

/* Those that both sets have, and for each the next one of another group. */
static void take_videos(ebb_compared *s) {
  const ebb_comparison *c = s->runs;
  for (int run = 0; run < 2; run++)
    s->video[run] = ebb_must(calloc((size_t)c->count + 1, sizeof *s->video[run]));
  s->other = ebb_must(calloc((size_t)c->count + 1, sizeof *s->other));
  for (int64_t v = 0; v < c->count; v++) {
    if (!ebb_store_has(&c->store[0], s->set[0], c->video[0][v]) ||
        !ebb_store_has(&c->store[1], s->set[1], c->video[1][v])) {
      s->failed++;
      continue;
    }
    s->video[0][s->n] = c->video[0][v];
    s->video[1][s->n++] = c->video[1][v];
  }
  const ebb_store_video *videos = c->store[0].videos;
  for (int64_t i = 0; i < s->n; i++) {
    s->other[i] = -1;
    for (int64_t k = 1; k < s->n && s->other[i] < 0; k++)
      if (strcmp(videos[s->video[0][(i + k) % s->n]].group, videos[s->video[0][i]].group) != 0)
        s->other[i] = (i + k) % s->n;
  }
}

/* ---- the same model, feature and blocks ---------------------------------------------------------------- */

static bool other_flag(const ebb_compared *s, const char *flag, bool a, ebb_error *err) {
  return ebb_fail(err, "%s of model \"%s\": %s is %s in %s and %s in %s: expected the same of both indices",
                  ebb_compared_feature(s, 0)->name, ebb_compared_set(s, 0)->model, flag, a ? "true" : "false",
                  s->runs->store[0].dir, a ? "false" : "true", s->runs->store[1].dir);
}

static bool match_set(ebb_compared *s, ebb_error *err) {
  const ebb_comparison *c = s->runs;
  const char *model = ebb_compared_set(s, 0)->model;
  s->set[1] = ebb_store_find(&c->store[1], model);
  if (s->set[1] < 0)
    return ebb_fail(err,
                    "%s has no features of model \"%s\", which are in %s: name one that both have (--model)",
                    c->store[1].dir, model, c->store[0].dir);
  s->feature[1] = ebb_store_feature(ebb_compared_set(s, 1), c->options->feature);
  if (s->feature[1] < 0)
    return ebb_fail(err, "%s has no %s of model \"%s\", which is in %s (capture.points)", c->store[1].dir,
                    c->options->feature, model, c->store[0].dir);
  const ebb_feature *f = ebb_compared_feature(s, 0), *g = ebb_compared_feature(s, 1);
  if (f->by_block != g->by_block)
    return other_flag(s, "by_block", f->by_block, err);
  if (f->by_head != g->by_head)
    return other_flag(s, "by_head", f->by_head, err);
  char a[EBB_SHAPE_TEXT], b[EBB_SHAPE_TEXT];
  if (f->rank != g->rank || memcmp(f->shape, g->shape, (size_t)f->rank * sizeof *f->shape) != 0)
    return ebb_fail(
        err,
        "%s of model \"%s\" is %s in %s and %s in %s: expected the same data.size, data.frames and "
        "capture.blocks",
        f->name, model, ebb_shape_text(f->rank, f->shape, a), c->store[0].dir,
        ebb_shape_text(g->rank, g->shape, b), c->store[1].dir);
  s->blocks = f->by_block ? ebb_compared_set(s, 0)->block_count : 1;
  s->heads = ebb_store_heads(f);
  s->width = ebb_store_width(f) / s->heads;
  for (int64_t l = 0; f->by_block && l < s->blocks; l++)
    if (ebb_compared_set(s, 0)->blocks[l] != ebb_compared_set(s, 1)->blocks[l])
      return ebb_fail(err,
                      "model \"%s\": captured block number %lld is %d in %s and %d in %s (capture.blocks)",
                      model, (long long)l, ebb_compared_set(s, 0)->blocks[l], c->store[0].dir,
                      ebb_compared_set(s, 1)->blocks[l], c->store[1].dir);
  return true;
}

static int nearest(const ebb_feature_set *s, double sigma) {
  int best = 0;
  for (int i = 1; i < s->step_count; i++)
    if (fabs(s->sigmas[i] - sigma) < fabs(s->sigmas[best] - sigma))
      best = i;
  return best;
}

static void list_sigmas(const ebb_feature_set *s, const char *dir, ebb_error *err) {
  ebb_fail_also(err, "; %s has", dir);
  for (int i = 0; i < s->step_count && i < 12; i++)
    ebb_fail_also(err, "%s %.4f", i ? "," : "", s->sigmas[i]);
  ebb_fail_also(err, "%s", s->step_count > 12 ? ", ..." : "");
}

static bool match_steps(ebb_compared *s, ebb_error *err) {
  const ebb_feature_set *a = ebb_compared_set(s, 0), *b = ebb_compared_set(s, 1);
  for (int run = 0; run < 2; run++)
    s->step[run] = ebb_must(calloc((size_t)a->step_count + 1, sizeof *s->step[run]));
  for (int i = 0; i < a->step_count; i++) {
    const int k = nearest(b, a->sigmas[i]);
    if (nearest(a, b->sigmas[k]) != i || fabs(a->sigmas[i] - b->sigmas[k]) > s->runs->options->sigma)
      continue;
    s->step[0][s->pairs] = i;
    s->step[1][s->pairs++] = k;
  }
  if (s->pairs > 0)
    return true;
  ebb_fail(err, "model \"%s\": no captured step of one run has a sigma within %g of one of the other",
           a->model, s->runs->options->sigma);
  list_sigmas(a, s->runs->store[0].dir, err);
  list_sigmas(b, s->runs->store[1].dir, err);
  return false;
}

/* ---- cosines ------------------------------------------------------------------------------------------- */

static double cosine(int64_t n, const float *a, const float *b) {
  double ab = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < n; i++) {
    ab += (double)a[i] * (double)b[i];
    aa += (double)a[i] * (double)a[i];
    bb += (double)b[i] * (double)b[i];
  }
  const double c = aa > 0 && bb > 0 ? ab / (sqrt(aa) * sqrt(bb)) : NAN;
  return isfinite(c) ? fmax(-1, fmin(1, c)) : NAN; /* fmin and fmax would make a number of what is none */
}

/* x [n,heads,width] of one run, block and pair of steps. */
static bool all_finite(const ebb_compared *s, int run, int64_t block, int pair, const float *x,
                       ebb_error *err) {
  const ebb_store *store = &s->runs->store[run];
  const int64_t each = s->heads * s->width;
  int64_t i = 0;
  while (i < s->n * each && isfinite(x[i]))
    i++;
  if (i == s->n * each)
    return true;
  ebb_fail(err, "%s: model \"%s\": %s of video \"%s\" at step %d", store->dir,
           ebb_compared_set(s, run)->model, ebb_compared_feature(s, run)->name,
           store->videos[s->video[run][i / each]].id, ebb_compared_set(s, run)->steps[s->step[run][pair]]);
  if (ebb_compared_feature(s, run)->by_block)
    ebb_fail_also(err, ", block %d", ebb_compared_set(s, run)->blocks[block]);
  return ebb_fail_also(err,
                       " is %g: expected finite numbers; invert this run again (model.dtype: float32), or "
                       "compare another model (--model) or feature (--feature)",
                       (double)x[i]);
}

/* All of one block and pair of steps. x [2][n,heads,width] */
static bool compare_block(ebb_compared *s, int64_t block, int pair, float *const x[2], ebb_error *err) {
  for (int run = 0; run < 2; run++)
    if (!ebb_store_gather(&s->runs->store[run], s->set[run], s->feature[run], s->step[run][pair], (int)block,
                          EBB_ALL_HEADS, s->n, s->video[run], x[run], err) ||
        !all_finite(s, run, block, pair, x[run], err))
      return false;
  const int64_t first = (block * s->pairs + pair) * s->n * s->heads;
  for (int64_t i = 0; i < s->n * s->heads; i++) {
    const int64_t other = s->other[i / s->heads] * s->heads + i % s->heads;
    s->same[first + i] = cosine(s->width, x[0] + i * s->width, x[1] + i * s->width);
    s->others[first + i] = other >= 0 ? cosine(s->width, x[0] + i * s->width, x[1] + other * s->width) : NAN;
  }
  return true;
}

static bool compare_all(ebb_compared *s, ebb_error *err) {
  const size_t cosines = (size_t)(s->blocks * s->pairs * s->n * s->heads);
  const size_t numbers = (size_t)(s->n * s->heads * s->width);
  float *x[2] = {malloc(2 * numbers * sizeof(float) + 1), NULL};
  s->same = malloc(2 * cosines * sizeof *s->same + 1);
  bool ok = (x[0] && s->same) || ebb_fail(err, "not enough memory for %zu cosines", cosines);
  s->others = ok ? s->same + cosines : NULL;
  x[1] = ok ? x[0] + numbers : NULL;
  for (int64_t block = 0; block < s->blocks; block++)
    for (int pair = 0; ok && pair < s->pairs; pair++)
      ok = compare_block(s, block, pair, x, err);
  free(x[0]);
  return ok;
}

/* ---- the models ---------------------------------------------------------------------------------------- */

static bool open_subject(ebb_compared *s, ebb_error *err) {
  if (!match_set(s, err) || !match_steps(s, err))
    return false;
  take_videos(s);
  return s->n > 0 ||
         ebb_fail(err, "model \"%s\": no video is in both runs: all failed", ebb_compared_set(s, 0)->model);
}

static void close_subject(ebb_compared *s) {
  for (int run = 0; run < 2; run++) {
    free(s->video[run]);
    free(s->step[run]);
  }
  free(s->other);
  free(s->same);
}

/* Number of a model that has the feature in a run; -1: none. */
static int find_set(const ebb_comparison *c, int run, const char *model) {
  const int set = ebb_store_find(&c->store[run], model);
  return set >= 0 && ebb_store_feature(&c->store[run].sets[set], c->options->feature) >= 0 ? set : -1;
}

/* Models of `run` that have the feature there and not in the other; all of them count. */
static bool list_only(ebb_comparison *c, int run, ebb_error *err) {
  c->only[run] = json_array();
  for (int i = 0; !c->options->model && i < c->store[run].set_count; i++) {
    const char *model = c->store[run].sets[i].model;
    if (find_set(c, run, model) >= 0 && find_set(c, 1 - run, model) < 0 &&
        json_array_append_new(c->only[run], json_string(model)) != 0)
      return ebb_fail(err, "%s: the name of model \"%s\" is not UTF-8", c->store[run].dir, model);
  }
  return true;
}

/* No model of A has its like in B: what there is. */
static bool nothing_shared(const ebb_comparison *c, ebb_error *err) {
  const ebb_store *a = &c->store[0], *b = &c->store[1];
  if (json_array_size(c->only[0]) == 0)
    return ebb_fail(err, "%s has no %s%s%s (capture.points)", a->dir, c->options->feature,
                    c->options->model ? " of model " : "", c->options->model ? c->options->model : "");
  const char *model = json_string_value(json_array_get(c->only[0], 0));
  if (ebb_store_find(b, model) < 0)
    return ebb_fail(err,
                    "%s has no features of model \"%s\", which are in %s: expected a model that both have",
                    b->dir, model, a->dir);
  return ebb_fail(err, "%s has no %s of model \"%s\", which is in %s (capture.points)", b->dir,
                  c->options->feature, model, a->dir);
}

/* Those to compare, all of which fit: what is wrong with two runs is found before anything is written.
 * Without --model they are the ones that both runs have. */
static bool open_subjects(ebb_comparison *c, ebb_compared *subjects, int *count, ebb_error *err) {
  const ebb_compare_options *o = c->options;
  const ebb_store *a = &c->store[0];
  *count = 0;
  if (o->model && ebb_store_find(a, o->model) < 0)
    return ebb_fail(err, "%s has no features of model \"%s\"", a->dir, o->model);
  if (!list_only(c, 0, err) || !list_only(c, 1, err))
    return false;
  for (int i = 0; i < a->set_count; i++) {
    const int feature = ebb_store_feature(&a->sets[i], o->feature);
    if (feature < 0 ||
        (o->model ? strcmp(a->sets[i].model, o->model) != 0 : find_set(c, 1, a->sets[i].model) < 0))
      continue;
    ebb_compared *s = &subjects[(*count)++];
    *s = (ebb_compared){.runs = c, .set = {i, -1}, .feature = {feature, -1}};
    if (!open_subject(s, err))
      return false;
  }
  return *count > 0 || nothing_shared(c, err);
}

/* Opens OUT/name for writing. */
static bool create(ebb_file_writer *w, const char *out, const char *name, const char *header,
                   ebb_error *err) {
  char *path = ebb_path_join(out, name);
  bool ok = ebb_file_create(w, path, err);
  free(path);
  if (ok)
    fprintf(w->stream, "%s\n", header);
  return ok;
}

/* What says that the others are whole is written last, so an old one goes first. */
static bool forget(const char *out, const char *name, ebb_error *err) {
  char *path = ebb_path_join(out, name);
  bool ok = unlink(path) == 0 || errno == ENOENT ||
            ebb_fail(err, "%s: cannot be removed: %s", path, strerror(errno));
  free(path);
  return ok;
}

static bool write_all(ebb_comparison *c, ebb_compared *subjects, int count, ebb_error *err) {
  const char *out = c->options->out;
  ebb_file_writer cosines = {0}, summaries = {0};
  bool ok =
      ebb_make_folders(out, err) && forget(out, "compare.json", err) &&
      create(&cosines, out, "cosine.csv", "model,video,step_a,step_b,block,head,cosine", err) &&
      create(
          &summaries, out, "summary.csv",
          "model,block,step_a,sigma_a,step_b,sigma_b,cosines,mean,q05,least,other_video_mean,other_video_q05",
          err);
  json_t *differ = ebb_comparison_differences(c);
  c->models = json_object();
  c->cosine = cosines.stream;
  c->summary = summaries.stream;
  if (ok)
    ebb_comparison_print(c, differ);
  for (int i = 0; ok && i < count; i++) {
    ok = compare_all(&subjects[i], err);
    if (ok)
      ebb_compared_cosines(&subjects[i]);
    ok = ok && ebb_compared_report(&subjects[i], err);
  }
  ok = ok && ebb_file_commit(&cosines, err) && ebb_file_commit(&summaries, err) &&
       ebb_comparison_json(c, differ, err);
  ebb_file_abandon(&cosines);
  ebb_file_abandon(&summaries);
  json_decref(differ);
  json_decref(c->models);
  return ok;
}

static bool compare(ebb_comparison *c, ebb_error *err) {
  ebb_compared subjects[EBB_STORE_SETS];
  int count = 0;
  bool ok =
      match_videos(c, err) && open_subjects(c, subjects, &count, err) && write_all(c, subjects, count, err);
  for (int i = 0; i < count; i++)
    close_subject(&subjects[i]);
  return ok;
}

bool ebb_compare_runs(const ebb_compare_options *options, FILE *table, ebb_error *err) {
  ebb_comparison c = {.options = options, .table = table};
  ebb_error local = {{0}};
  bool ok = ebb_store_open(&c.store[0], options->run[0], &local) &&
            ebb_store_open(&c.store[1], options->run[1], &local) && compare(&c, &local);
  for (int run = 0; run < 2; run++) {
    ebb_store_close(&c.store[run]);
    free(c.video[run]);
    json_decref(c.only[run]);
  }
  return ok || ebb_fail(err, "%s", local.text);
}
