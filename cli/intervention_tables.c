#include "cli/intervention.h"

#include "kernels/random.h"
#include "loaders/file.h"
#include "loaders/json.h"
#include "probe/csv.h"
#include "probe/stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 17
#define FLIPS 9999

/* ---- files ------------------------------------------------------------------------------------------- */

/* `taken` NULL: what is there is replaced; else it stays and *taken says so. */
static bool write_json(const char *path, const json_t *doc, bool *taken, ebb_error *err) {
  ebb_file_writer w = {0};
  bool ok = ebb_file_create(&w, path, err);
  if (ok && json_dumpf(doc, w.stream, JSON_SORT_KEYS | JSON_INDENT(1) | JSON_REAL_PRECISION(DIGITS)) != 0)
    ok = ebb_fail(err, "%s: cannot be written", path);
  if (ok)
    fputc('\n', w.stream);
  ok = ok && (taken ? ebb_file_commit_new(&w, taken, err) : ebb_file_commit(&w, err));
  ebb_file_abandon(&w);
  return ok;
}

static void describe_value(const json_t *value, char *text, size_t size) {
  char *dump = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
  snprintf(text, size, "%s", dump ? dump : "nothing");
  free(dump);
}

/* Errors: the settings that the folder was made with are others. */
static bool compare_settings(const char *out, const char *path, const json_t *settings, ebb_error *err) {
  json_t *before = ebb_json_read(path, err);
  const char *key;
  json_t *value;
  bool ok = before != NULL;
  json_object_foreach((json_t *)settings, key, value) {
    char there[200], here[200];
    if (!ok || json_equal(value, json_object_get(before, key)))
      continue;
    describe_value(json_object_get(before, key), there, sizeof there);
    describe_value(value, here, sizeof here);
    ok = ebb_fail(
        err,
        "%s: these interventions were made with another %s (%s, now %s): results of both do not mix; "
        "take another --out, or remove this folder",
        out, key, there, here);
  }
  json_decref(before);
  return ok;
}

/* Shards may start at the same moment: the first to write decides, the others compare with it. */
bool ebb_intervention_settings(const char *out, const json_t *settings, ebb_error *err) {
  char *path = ebb_path_join(out, "settings.json");
  bool ok = ebb_make_folders(out, err), taken = ebb_is_there(path);
  ok = ok && (taken || write_json(path, settings, &taken, err)) &&
       (!taken || compare_settings(out, path, settings, err));
  free(path);
  return ok;
}

static char *scene_path(const char *out, int64_t video) {
  return ebb_format("%s/scenes/%05lld/surprise.json", out, (long long)video);
}

json_t *ebb_scene_read(const char *out, int64_t video, ebb_error *err) {
  char *path = scene_path(out, video);
  json_t *doc = NULL;
  if (ebb_is_there(path)) {
    doc = ebb_json_read(path, err);
    if (doc && (!json_is_string(json_object_get(doc, "scene")) ||
                !json_is_object(json_object_get(doc, "interventions")))) {
      ebb_fail(err, "%s: no results of `ebb intervene`: expected \"scene\" and \"interventions\"", path);
      json_decref(doc);
      doc = NULL;
    }
  }
  free(path);
  return doc;
}

bool ebb_scene_write(const char *out, int64_t video, const json_t *doc, ebb_error *err) {
  char *folder = ebb_format("%s/scenes/%05lld", out, (long long)video), *path = scene_path(out, video);
  bool ok = ebb_make_folders(folder, err) && write_json(path, doc, NULL, err);
  free(folder);
  free(path);
  return ok;
}

/* ---- what is in them --------------------------------------------------------------------------------- */

typedef struct result { /* one intervention on one scene */
  const char *scene, *group, *category;
  int64_t video;
  bool possible;
  int kind, block, head, draw;
  double alpha;
  double blocks, steps, psnr;                /* surprise over blocks, over steps; quality */
  double base_blocks, base_steps, base_psnr; /* of the baseline */
  const char *failed;
} result;

typedef struct results {
  int64_t count, room;
  result *items;
  int64_t scene_count;
  json_t **scenes; /* their documents */
} results;

static void free_results(results *r) {
  for (int64_t i = 0; i < r->scene_count; i++)
    json_decref(r->scenes[i]);
  free(r->scenes);
  free(r->items);
}

static double number_of(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *text_of(const json_t *o, const char *key) {
  const char *text = json_string_value(json_object_get(o, key));
  return text ? text : "";
}

static int kind_named(const char *name) {
  for (int kind = 0; kind < EBB_CHANGES; kind++)
    if (strcmp(ebb_change_name((ebb_change_kind)kind), name) == 0)
      return kind;
  return -1;
}

static bool add_scene(results *r, int64_t video, json_t *doc, ebb_error *err) {
  json_t *all = json_object_get(doc, "interventions"), *one;
  const json_t *base = json_object_get(all, "baseline");
  const char *key;
  json_object_foreach(all, key, one) {
    if (r->count == r->room) {
      r->room = 2 * r->room + 1024;
      result *more = realloc(r->items, (size_t)r->room * sizeof *more);
      if (!more)
        return ebb_fail(err, "no memory for %lld results", (long long)r->room);
      r->items = more;
    }
    const result of = {.scene = text_of(doc, "scene"),
                       .group = text_of(doc, "group"),
                       .category = text_of(doc, "category"),
                       .video = video,
                       .possible = json_is_true(json_object_get(doc, "possible")),
                       .kind = kind_named(text_of(one, "kind")),
                       .block = (int)number_of(one, "block"),
                       .head = (int)number_of(one, "head"),
                       .draw = (int)number_of(one, "draw"),
                       .alpha = number_of(one, "alpha"),
                       .blocks = number_of(one, "surprise_over_blocks"),
                       .steps = number_of(one, "surprise_over_steps"),
                       .psnr = number_of(one, "psnr"),
                       .base_blocks = number_of(base, "surprise_over_blocks"),
                       .base_steps = number_of(base, "surprise_over_steps"),
                       .base_psnr = number_of(base, "psnr"),
                       .failed = json_string_value(json_object_get(one, "failed"))};
    if (of.kind < 0)
      return ebb_fail(err, "scene %s: '%s' is no kind of intervention that this program knows", of.scene,
                      key);
    r->items[r->count++] = of;
  }
  return true;
}

#define ORDER(a, b) (((a) > (b)) - ((a) < (b)))

static int by_scene(const void *x, const void *y) {
  const result *a = x, *b = y;
  int order = ORDER(a->video, b->video);
  order = order ? order : ORDER(a->kind, b->kind);
  order = order ? order : ORDER(a->alpha, b->alpha);
  order = order ? order : ORDER(a->block, b->block);
  order = order ? order : ORDER(a->head, b->head);
  return order ? order : ORDER(a->draw, b->draw);
}

static int by_change(const void *x, const void *y) {
  const result *a = x, *b = y;
  int order = ORDER(b->possible, a->possible);
  order = order ? order : ORDER(a->kind, b->kind);
  order = order ? order : ORDER(a->alpha, b->alpha);
  order = order ? order : ORDER(a->block, b->block);
  order = order ? order : ORDER(a->head, b->head);
  order = order ? order : strcmp(a->group, b->group);
  order = order ? order : ORDER(a->video, b->video);
  return order ? order : ORDER(a->draw, b->draw);
}

static bool same_change(const result *a, const result *b) {
  return a->possible == b->possible && a->kind == b->kind && a->alpha == b->alpha && a->block == b->block &&
         a->head == b->head;
}

static bool read_all(results *r, const char *out, ebb_error *err) {
  char *folder = ebb_path_join(out, "scenes"), **scenes = NULL;
  int64_t count = 0;
  bool ok = ebb_folder_list(folder, &scenes, &count, err);
  r->scenes = ok ? ebb_must(calloc((size_t)count + 1, sizeof *r->scenes)) : NULL;
  for (int64_t i = 0; ok && i < count; i++) {
    char *end = NULL;
    const long long video = strtoll(scenes[i], &end, 10);
    json_t *doc = *end ? NULL : ebb_scene_read(out, video, err);
    if (!doc) {
      ok = err->text[0] == '\0'; /* a folder that is nothing of ours */
      continue;
    }
    r->scenes[r->scene_count++] = doc;
    ok = add_scene(r, video, doc, err);
  }
  ebb_names_free(scenes, count);
  free(folder);
  return ok;
}

/* ---- tables ------------------------------------------------------------------------------------------ */

/* The number with as few digits as bring it back. */
static void print_shortest(FILE *f, double v) {
  char text[40];
  for (int digits = 1; digits <= DIGITS; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, v);
    if (strtod(text, NULL) == v)
      break;
  }
  fputs(isfinite(v) ? text : "", f);
}

static void print_place(FILE *f, const result *r) {
  if (r->block >= 0)
    fprintf(f, ",%d,", r->block);
  else
    fputs(",,", f);
  if (r->kind >= EBB_CHANGE_ZERO)
    fputs(r->head == EBB_EDIT_ALL_HEADS ? "all" : "", f);
  if (r->head >= 0)
    fprintf(f, "%d", r->head);
}

static bool finish(ebb_file_writer *w, bool ok, ebb_error *err) {
  ok = ok && ebb_file_commit(w, err);
  ebb_file_abandon(w);
  return ok;
}

static bool open_table(ebb_file_writer *w, const char *out, const char *name, ebb_error *err) {
  char *path = ebb_path_join(out, name);
  *w = (ebb_file_writer){0};
  bool ok = ebb_file_create(w, path, err);
  free(path);
  return ok;
}

/* Every result, a line each. */
static bool write_interventions(results *r, const char *out, ebb_error *err) {
  ebb_file_writer w;
  if (!open_table(&w, out, "interventions.csv", err))
    return false;
  FILE *f = w.stream;
  qsort(r->items, (size_t)r->count, sizeof *r->items, by_scene);
  fputs("scene,group,category,label,kind,block,head,alpha,draw,surprise_over_blocks,delta_over_blocks,"
        "surprise_over_steps,delta_over_steps,psnr,psnr_drop,failed\n",
        f);
  for (int64_t i = 0; i < r->count; i++) {
    const result *x = &r->items[i];
    ebb_csv_text(f, x->scene);
    fputc(',', f);
    ebb_csv_text(f, x->group);
    fputc(',', f);
    ebb_csv_text(f, x->category);
    fprintf(f, ",%d,%s", x->possible, ebb_change_name((ebb_change_kind)x->kind));
    print_place(f, x);
    if (x->kind >= EBB_CHANGE_NOISE && x->kind < EBB_CHANGE_ZERO)
      ebb_csv_number(f, DIGITS, x->alpha);
    else
      fputc(',', f);
    fprintf(f, ",%d", x->draw);
    ebb_csv_number(f, DIGITS, x->blocks);
    ebb_csv_number(f, DIGITS, x->blocks - x->base_blocks);
    ebb_csv_number(f, DIGITS, x->steps);
    ebb_csv_number(f, DIGITS, x->steps - x->base_steps);
    ebb_csv_number(f, DIGITS, x->psnr);
    ebb_csv_number(f, DIGITS, x->base_psnr - x->psnr);
    fputc(',', f);
    ebb_csv_text(f, x->failed ? x->failed : "");
    fputc('\n', f);
  }
  return finish(&w, true, err);
}

/* The official code's two tables: noise at the alpha that was given first, surprise over blocks, possible scenes, means over
 * draws. */
static bool write_official(results *r, const char *out, double alpha, ebb_error *err) {
  ebb_file_writer scenes, blocks = {0};
  double sum[EBB_EDIT_BLOCKS] = {0}, *delta = calloc((size_t)r->count + 1, sizeof *delta);
  int *block = calloc((size_t)r->count + 1, sizeof *block), count[EBB_EDIT_BLOCKS] = {0};
  int64_t lines = 0;
  bool ok = ((delta && block) || ebb_fail(err, "no memory for %lld results", (long long)r->count)) &&
            open_table(&scenes, out, "surprise_per_scene.csv", err);
  if (!ok) {
    free(delta);
    free(block);
    return false;
  }
  fputs("scene,block,delta_surprise\n", scenes.stream);
  for (int64_t i = 0, next; i < r->count; i = next) { /* sorted by scene */
    const result *x = &r->items[i];
    double total = 0;
    for (next = i; next < r->count && r->items[next].video == x->video && same_change(&r->items[next], x);
         next++)
      total += r->items[next].blocks - r->items[next].base_blocks;
    if (x->kind != EBB_CHANGE_NOISE || x->alpha != alpha || !x->possible || !isfinite(total) ||
        x->block < 0 || x->block >= EBB_EDIT_BLOCKS)
      continue;
    delta[lines] = total / (double)(next - i);
    block[lines] = x->block;
    sum[x->block] += delta[lines];
    count[x->block]++;
    char *name = ebb_format("%s", x->scene);
    for (char *p = name; *p; p++) /* as the official code names its folders */
      *p = *p == '/' ? '_' : *p;
    ebb_csv_text(scenes.stream, name);
    fprintf(scenes.stream, ",%d,", x->block);
    print_shortest(scenes.stream, delta[lines++]);
    fputc('\n', scenes.stream);
    free(name);
  }
  ok = finish(&scenes, true, err) && open_table(&blocks, out, "surprise_per_block.csv", err);
  if (ok)
    fputs("block,mean_delta_surprise,std_delta_surprise,num_scenes\n", blocks.stream);
  for (int b = 0; ok && b < EBB_EDIT_BLOCKS; b++) {
    double square = 0, mean = sum[b] / (count[b] > 0 ? count[b] : 1);
    for (int64_t i = 0; i < lines; i++)
      square += block[i] == b ? (delta[i] - mean) * (delta[i] - mean) : 0;
    if (count[b] == 0)
      continue;
    fprintf(blocks.stream, "%d,", b);
    print_shortest(blocks.stream, mean);
    fputc(',', blocks.stream);
    print_shortest(blocks.stream, count[b] > 1 ? sqrt(square / (count[b] - 1)) : NAN);
    fprintf(blocks.stream, ",%d\n", count[b]);
  }
  ok = finish(&blocks, ok, err);
  free(delta);
  free(block);
  return ok;
}

/* ---- means over scenes, with intervals --------------------------------------------------------------- */

enum { OVER_BLOCKS, OVER_STEPS, DROP, QUANTITIES };

typedef struct summary { /* one change over all its scenes; [groups] sums over a group's scenes */
  const result *of;
  int64_t scenes, groups;
  double *sum[QUANTITIES], *size;
  ebb_interval interval[QUANTITIES];
  double p,
      q; /* of the mean over steps: groups' signs flipped; q among the places of one kind, dose and label */
} summary;

typedef struct mean_of {
  const summary *s;
  int quantity;
} mean_of;

static double weighted_mean(const void *user, const double *weight) {
  const mean_of *m = user;
  double sum = 0, size = 0;
  for (int64_t g = 0; g < m->s->groups; g++) {
    sum += (weight ? weight[g] : 1) * m->s->sum[m->quantity][g];
    size += (weight ? weight[g] : 1) * m->s->size[g];
  }
  return sum / size;
}

/* Means over draws of each scene, summed by group. items: results of one change, by group and scene. */
static bool gather(summary *s, const result *items, int64_t count, ebb_error *err) {
  double *room = calloc((size_t)count * (QUANTITIES + 1), sizeof *room);
  if (!room)
    return ebb_fail(err, "no memory for %lld results", (long long)count);
  *s = (summary){.of = items, .size = room + (size_t)count * QUANTITIES};
  for (int k = 0; k < QUANTITIES; k++)
    s->sum[k] = room + (size_t)count * (size_t)k;
  const char *group = NULL;
  for (int64_t i = 0, next; i < count; i = next) {
    double mean[QUANTITIES] = {0};
    for (next = i; next < count && items[next].video == items[i].video; next++) {
      mean[OVER_BLOCKS] += items[next].blocks - items[next].base_blocks;
      mean[OVER_STEPS] += items[next].steps - items[next].base_steps;
      mean[DROP] += items[next].base_psnr - items[next].psnr;
    }
    if (!isfinite(mean[OVER_BLOCKS]) || !isfinite(mean[OVER_STEPS]))
      continue; /* one of its draws failed */
    if (!group || strcmp(group, items[i].group) != 0)
      s->groups++;
    group = items[i].group;
    s->scenes++;
    s->size[s->groups - 1] += 1;
    for (int k = 0; k < QUANTITIES; k++)
      s->sum[k][s->groups - 1] += mean[k] / (double)(next - i);
  }
  return true;
}

/* Two-sided: how often the mean is as far from 0 when the signs of whole groups are tossed. */
static double flip_p(const summary *s, uint64_t seed) {
  double *null = ebb_must(malloc(FLIPS * sizeof *null)), observed = 0;
  for (int64_t g = 0; g < s->groups; g++)
    observed += s->sum[OVER_STEPS][g];
  for (int64_t k = 0; k < FLIPS; k++) {
    double sum = 0;
    for (int64_t g = 0; g < s->groups; g++)
      sum += ebb_random_words(seed, (uint64_t)k, (uint64_t)g).v[0] & 1u ? s->sum[OVER_STEPS][g]
                                                                        : -s->sum[OVER_STEPS][g];
    null[k] = fabs(sum);
  }
  double p = ebb_permutation_p(FLIPS, null, fabs(observed));
  free(null);
  return p;
}

static int by_p(const void *x, const void *y) {
  const summary *const *a = x, *const *b = y;
  return ORDER((*a)->p, (*b)->p);
}

/* Benjamini & Hochberg over the places of one kind, dose and label: runs of summaries, as they are sorted. */
static void correct(summary *all, int64_t count) {
  summary **sorted = ebb_must(malloc(((size_t)count + 1) * sizeof *sorted));
  for (int64_t first = 0, end; first < count; first = end) {
    const result *of = all[first].of;
    for (end = first; end < count && all[end].of->kind == of->kind && all[end].of->alpha == of->alpha &&
                      all[end].of->possible == of->possible;
         end++)
      sorted[end - first] = &all[end];
    const int64_t n = end - first;
    qsort(sorted, (size_t)n, sizeof(summary *), by_p);
    double least = 1;
    for (int64_t i = n - 1; i >= 0; i--) {
      least = fmin(least, sorted[i]->p * (double)n / (double)(i + 1));
      sorted[i]->q = least;
    }
  }
  free(sorted);
}

static void print_interval(FILE *f, const ebb_interval *i) {
  ebb_csv_number(f, DIGITS, i->value);
  ebb_csv_number(f, DIGITS, i->low);
  ebb_csv_number(f, DIGITS, i->high);
}

static bool write_summary(const summary *all, int64_t count, const char *out, FILE *table, ebb_error *err) {
  ebb_file_writer w;
  if (!open_table(&w, out, "summary.csv", err))
    return false;
  fputs("kind,block,head,alpha,label,scenes,groups,delta_over_steps,low,high,p,q,delta_over_blocks,low,high,"
        "psnr_drop,low,high\n",
        w.stream);
  if (table)
    fprintf(table, "%-10s %5s %4s %6s %-10s %6s  %-26s %6s  %-26s %9s\n", "kind", "block", "head", "alpha",
            "scenes of", "scenes", "surprise, over steps", "q", "over blocks", "PSNR drop");
  for (int64_t i = 0; i < count; i++) {
    const summary *s = &all[i];
    const result *of = s->of;
    fputs(ebb_change_name((ebb_change_kind)of->kind), w.stream);
    print_place(w.stream, of);
    if (of->kind < EBB_CHANGE_ZERO)
      ebb_csv_number(w.stream, DIGITS, of->alpha);
    else
      fputc(',', w.stream);
    fprintf(w.stream, ",%d,%lld,%lld", of->possible, (long long)s->scenes, (long long)s->groups);
    print_interval(w.stream, &s->interval[OVER_STEPS]);
    ebb_csv_number(w.stream, DIGITS, s->p);
    ebb_csv_number(w.stream, DIGITS, s->q);
    print_interval(w.stream, &s->interval[OVER_BLOCKS]);
    print_interval(w.stream, &s->interval[DROP]);
    fputc('\n', w.stream);
    if (!table)
      continue;
    char head[16] = "", alpha[16] = "", steps[64], blocks[64];
    if (of->kind >= EBB_CHANGE_ZERO)
      snprintf(head, sizeof head, of->head < 0 ? "all" : "%d", of->head);
    else
      snprintf(alpha, sizeof alpha, "%.3g", of->alpha);
    snprintf(steps, sizeof steps, "%+.3f [%+.3f, %+.3f]", s->interval[OVER_STEPS].value,
             s->interval[OVER_STEPS].low, s->interval[OVER_STEPS].high);
    snprintf(blocks, sizeof blocks, "%+.3f [%+.3f, %+.3f]", s->interval[OVER_BLOCKS].value,
             s->interval[OVER_BLOCKS].low, s->interval[OVER_BLOCKS].high);
    char drop[16] = "";
    if (isfinite(s->interval[DROP].value))
      snprintf(drop, sizeof drop, "%.2f", s->interval[DROP].value);
    fprintf(table, "%-10s %5d %4s %6s %-10s %6lld  %-26s %6.3f  %-26s %9s\n",
            ebb_change_name((ebb_change_kind)of->kind), of->block, head, alpha,
            of->possible ? "possible" : "impossible", (long long)s->scenes, steps, s->q, blocks, drop);
  }
  return finish(&w, true, err);
}

static bool summarise(results *r, const char *out, int64_t bootstrap, uint64_t seed, FILE *table,
                      ebb_error *err) {
  summary *all = ebb_must(calloc((size_t)r->count + 1, sizeof *all));
  int64_t count = 0;
  bool ok = true;
  qsort(r->items, (size_t)r->count, sizeof *r->items, by_change);
  for (int64_t i = 0, next; ok && i < r->count; i = next) {
    for (next = i; next < r->count && same_change(&r->items[next], &r->items[i]); next++)
      ;
    if (r->items[i].kind == EBB_CHANGE_NOTHING)
      continue;
    summary *s = &all[count++];
    ok = gather(s, &r->items[i], next - i, err);
    if (ok && s->groups == 0) {
      free(s->sum[0]);
      count--;
      continue;
    }
    for (int k = 0; ok && k < QUANTITIES; k++) {
      const mean_of m = {s, k};
      ok = ebb_bootstrap(s->groups, bootstrap, seed, weighted_mean, &m, &s->interval[k], err);
    }
    s->p = ok ? flip_p(s, seed) : NAN;
  }
  if (ok)
    correct(all, count);
  ok = ok && write_summary(all, count, out, table, err);
  for (int64_t i = 0; i < count; i++)
    free(all[i].sum[0]);
  free(all);
  return ok;
}

bool ebb_intervention_tables(const char *out, int64_t bootstrap, uint64_t seed, double alpha, FILE *table,
                             ebb_error *err) {
  results r = {0};
  bool ok = read_all(&r, out, err) && write_interventions(&r, out, err) &&
            write_official(&r, out, alpha, err) && summarise(&r, out, bootstrap, seed, table, err);
  free_results(&r);
  return ok;
}
