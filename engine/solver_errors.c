#include "engine/solver_errors.h"

#include "engine/experiment.h"
#include "engine/fidelity.h"
#include "loaders/file.h"
#include "loaders/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAME_SIGMA 1e-7

typedef struct session {
  const ebb_solver_case *cases;
  const bool *todo;
  int count;
  const ebb_solver_errors_options *options;
  ebb_solver_errors *errors;
  ebb_experiment e;
  ebb_schedule *schedule; /* [count] */
  ebb_schedule fine;
  int *stop, stops;
  ebb_course reference, *course; /* [count] */
  int64_t batch;
  float *latents;     /* host [videos, latent]; videos that failed: NaN */
  float *truth;       /* host [stops, videos, latent] */
  char (*frames)[65]; /* [videos] SHA-256 of what was decoded; empty: failed */
  char key[65];       /* of the reference */
  double done, work;  /* steps */
} session;

/* ---- the reference's grid ---------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The sigmas of all, sorted, each once; malloc'ed. */
static double *all_sigmas(const ebb_schedule *const *schedules, int count, int *stops) {
  size_t most = 0, n = 0;
  for (int i = 0; i < count; i++)
    most += (size_t)schedules[i]->steps + 1;
  double *sigma = ebb_must(malloc((most + 1) * sizeof *sigma));
  for (int i = 0; i < count; i++)
    for (int k = 0; k <= schedules[i]->steps; k++)
      sigma[n++] = schedules[i]->sigma[k];
  qsort(sigma, n, sizeof *sigma, by_size);
  *stops = 0;
  for (size_t i = 0; i < n; i++)
    if (*stops == 0 || sigma[i] - sigma[*stops - 1] > SAME_SIGMA)
      sigma[(*stops)++] = sigma[i];
  return sigma;
}

bool ebb_reference_grid(const ebb_schedule *const *schedules, int count, int steps, ebb_schedule *grid,
                        int **stop, int *stops, ebb_error *err) {
  double *sigma = all_sigmas(schedules, count, stops);
  const int intervals = *stops - 1, each = intervals > 0 ? (steps + intervals - 1) / intervals : 1;
  const size_t entries = (size_t)intervals * (size_t)each + 1;
  *grid = (ebb_schedule){.kind = schedules[0]->kind, .steps = intervals * each, .shift = schedules[0]->shift};
  grid->sigma = calloc(entries, sizeof *grid->sigma);
  grid->label = calloc(entries, sizeof *grid->label);
  *stop = calloc((size_t)*stops, sizeof **stop);
  bool ok = (grid->sigma && grid->label && *stop) ||
            ebb_fail(err, "no memory for a reference of %zu states", entries);
  for (int i = 0; ok && i < *stops; i++)
    (*stop)[i] = i * each;
  for (size_t i = 0; ok && i < entries; i++) {
    const size_t at = i / (size_t)each, part = i % (size_t)each;
    grid->sigma[i] = part ? sigma[at] + (double)part / each * (sigma[at + 1] - sigma[at]) : sigma[at];
    grid->label[i] = 1000 * grid->sigma[i];
  }
  free(sigma);
  return ok;
}

static int nearest_stop(const session *s, double sigma) {
  int best = 0;
  for (int i = 1; i < s->stops; i++)
    if (fabs(s->fine.sigma[s->stop[i]] - sigma) < fabs(s->fine.sigma[s->stop[best]] - sigma))
      best = i;
  return best;
}

/* ---- plans ------------------------------------------------------------------------------------------- */

static bool make_plans(session *s, ebb_error *err) {
  const ebb_config *k = s->e.config;
  const ebb_schedule **list = ebb_must(calloc((size_t)s->count + 1, sizeof *list));
  bool ok = true;
  for (int i = 0; ok && i < s->count; i++) {
    const ebb_solver_case *x = &s->cases[i];
    list[i] = &s->schedule[i];
    ok = ebb_schedule_open(&s->schedule[i], k->model.path, k->inversion.schedule, x->steps,
                           k->inversion.shift, err) &&
         ebb_integration_named(&s->course[i].plan, &s->schedule[i], x->solver, x->labels, false, err);
  }
  ok = ok &&
       ebb_reference_grid(list, s->count, s->options->reference_steps, &s->fine, &s->stop, &s->stops, err) &&
       ebb_integration_named(&s->reference.plan, &s->fine, s->options->reference, "matched", false, err);
  s->errors->reference_steps = s->fine.steps;
  free(list);
  return ok;
}

static void report(void *user, int step, int steps) {
  session *s = user;
  (void)step;
  (void)steps;
  s->done++;
  if (s->options->progress)
    s->options->progress(s->options->progress_user, fmin(s->done / s->work, 1));
}

/* ---- the reference ----------------------------------------------------------------------------------- */

/* What the reference hangs on, as one hash: settings, grid, text, weights and the frames that were encoded. */
static bool make_key(session *s, ebb_error *err) {
  char *text = NULL;
  size_t bytes = 0;
  ebb_config k = *s->e.config;
  ebb_config plain;
  ebb_config_defaults(&plain);
  k.capture = plain.capture; /* nothing of these changes the flow */
  k.probe = plain.probe;
  k.run = plain.run;
  k.generate = plain.generate;
  memcpy(k.inversion.solver, s->options->reference, strlen(s->options->reference) + 1);
  strcpy(k.inversion.labels, "matched");
  k.inversion.steps = 1;
  if (!ebb_digest_finish(&s->e.model.digest, s->e.model.sha256, err) ||
      !ebb_digest_finish(&s->e.vae.digest, s->e.vae.sha256, err))
    return false;
  FILE *memory = ebb_must(open_memstream(&text, &bytes));
  ebb_config_write(&k, memory);
  fprintf(memory, "%s %s\n", s->e.model.sha256, s->e.vae.sha256);
  for (int i = 0; i <= s->fine.steps; i++)
    fprintf(memory, "%.17g\n", s->fine.sigma[i]);
  for (int64_t v = 0; v < s->errors->videos; v++)
    fprintf(memory, "%s %s\n", s->errors->id[v], s->frames[v]);
  fprintf(memory, "%s %s\n", s->e.prompts.sha256, s->e.prompts.negative_sha256);
  fclose(memory);
  ebb_sha256(text, bytes, s->key);
  free(text);
  return true;
}

/* true: it was there, of this experiment, and read. What is wrong with it is no error: it is made again. */
static bool read_reference(session *s) {
  const int64_t shape[3] = {s->stops, s->errors->videos, ebb_experiment_latent(&s->e)};
  ebb_error why = {0};
  ebb_safetensors st;
  if (!ebb_is_there(s->options->cache) || !ebb_safetensors_open(&st, s->options->cache, &why))
    return false;
  const ebb_st_entry *e = ebb_safetensors_find(&st, "states");
  bool same = e && e->rank == 3 && memcmp(e->shape, shape, sizeof shape) == 0 && st.metadata_count == 1 &&
              strcmp(st.metadata[0], "experiment") == 0 && strcmp(st.metadata[1], s->key) == 0 &&
              ebb_safetensors_read_f32(&st, e, s->truth, &why);
  ebb_safetensors_close(&st);
  return same;
}

static bool write_reference(session *s, ebb_error *err) {
  const int64_t n = ebb_experiment_latent(&s->e);
  const ebb_st_declare states = {"states", EBB_F32, 3, {s->stops, s->errors->videos, n}};
  const char *const about[] = {"experiment", s->key};
  ebb_st_writer *w = NULL;
  bool ok =
      ebb_st_writer_open(&w, s->options->cache, &states, 1, about, 1, err) &&
      ebb_st_writer_append(w, s->truth, (size_t)(s->stops * s->errors->videos * n) * sizeof *s->truth, err) &&
      ebb_st_writer_finish(&w, err);
  ebb_st_writer_abandon(&w);
  return ok;
}

/* Latents of videos [first, first + count) along the reference; where it stops is kept. */
static bool follow_reference(session *s, int64_t first, int64_t count, ebb_error *err) {
  ebb_context *c = &s->e.context;
  const int64_t n = ebb_experiment_latent(&s->e);
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_error *failures = ebb_must(calloc((size_t)count, sizeof *failures));
  ebb_tensor x = ebb_experiment_state(&s->e, count);
  ebb_run run = ebb_course_run(&s->reference, &s->e, NULL, failures);
  run.progress = c->counting ? NULL : report;
  run.progress_user = s;
  if (!c->counting)
    ebb_upload(c, x, s->latents + first * n);
  for (int i = 0; i < s->stops; i++) {
    if (i > 0)
      ebb_invert_steps(&run, s->stop[i - 1], s->stop[i] - s->stop[i - 1], x, NULL);
    if (!c->counting)
      ebb_download(c, s->truth + ((int64_t)i * s->errors->videos + first) * n, x);
  }
  ebb_arena_release(&c->activations, mark);
  free(failures);
  return ebb_context_ok(c, err);
}

static bool make_reference(session *s, ebb_error *err) {
  ebb_context *c = &s->e.context;
  size_t mark = ebb_arena_mark(&c->weights);
  bool ok = ebb_course_condition(&s->reference, &s->e, err);
  for (int64_t first = 0; ok && first < s->errors->videos; first += s->batch) {
    const int64_t left = s->errors->videos - first;
    ok = follow_reference(s, first, left < s->batch ? left : s->batch, err);
    if (c->counting)
      break;
  }
  ebb_course_forget(&s->reference);
  ebb_arena_release(&c->weights, mark);
  return ok && (c->counting || write_reference(s, err));
}

/* ---- a case ------------------------------------------------------------------------------------------ */

static void compare(session *s, int number, int64_t first, int64_t count, const float *path,
                    const ebb_error *failures) {
  const int64_t n = ebb_experiment_latent(&s->e), all = s->errors->videos;
  const ebb_integration *plan = &s->course[number].plan;
  ebb_solver_error *to = &s->errors->of[number];
  for (int64_t b = 0; b < count; b++) {
    double sum = 0, error = NAN;
    for (int k = 1; k <= plan->steps; k++) {
      const float *should = s->truth + ((int64_t)nearest_stop(s, plan->sigma[k]) * all + first + b) * n;
      error = ebb_relative_l2(path + ((int64_t)k * count + b) * n, should, n);
      sum += error / plan->steps;
    }
    const bool failed = failures[b].text[0] != '\0' || !isfinite(sum);
    to->endpoint[first + b] = failed ? NAN : error;
    to->path[first + b] = failed ? NAN : sum;
  }
}

static bool follow_case(session *s, int number, int64_t first, int64_t count, ebb_error *err) {
  ebb_context *c = &s->e.context;
  const int64_t n = ebb_experiment_latent(&s->e);
  const int steps = s->course[number].plan.steps;
  float *path = c->counting ? NULL : malloc((size_t)((steps + 1) * count * n) * sizeof *path);
  if (!c->counting && !path)
    return ebb_fail(err, "no memory for a path of %d states; a smaller run.batch takes less", steps + 1);
  ebb_error *failures = ebb_must(calloc((size_t)count, sizeof *failures));
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor x = ebb_experiment_state(&s->e, count);
  if (!c->counting)
    ebb_upload(c, x, s->latents + first * n);
  ebb_run run = ebb_course_run(&s->course[number], &s->e, NULL, failures);
  run.progress = c->counting ? NULL : report;
  run.progress_user = s;
  const int64_t spent = ebb_invert(&run, x, path);
  ebb_arena_release(&c->activations, mark);
  bool ok = ebb_context_ok(c, err);
  if (ok && !c->counting) {
    if (spent > s->errors->of[number].evaluations) /* exact: of the batch that took most */
      s->errors->of[number].evaluations = spent;
    compare(s, number, first, count, path, failures);
  }
  free(failures);
  free(path);
  return ok;
}

static bool run_case(session *s, int number, ebb_error *err) {
  ebb_context *c = &s->e.context;
  size_t mark = ebb_arena_mark(&c->weights);
  bool ok = ebb_course_condition(&s->course[number], &s->e, err);
  for (int64_t first = 0; ok && first < s->errors->videos; first += s->batch) {
    const int64_t left = s->errors->videos - first;
    ok = follow_case(s, number, first, left < s->batch ? left : s->batch, err);
    if (c->counting)
      break;
  }
  ebb_course_forget(&s->course[number]);
  ebb_arena_release(&c->weights, mark);
  return ok;
}

/* ---- all --------------------------------------------------------------------------------------------- */

/* A video that cannot be read is NaN from here on, and so are its errors. */
static bool encode_videos(session *s, ebb_error *err) {
  const int64_t n = ebb_experiment_latent(&s->e);
  ebb_reader *reader = NULL;
  bool ok = ebb_experiment_open_reader(&s->e, s->batch, &reader, err);
  for (int64_t v = 0; ok && v < s->errors->videos; v++) {
    const ebb_ready_clip *clip = ebb_reader_next(reader);
    if (clip->failure.text[0]) {
      fprintf(s->options->log, "failed %s: %s\n", s->errors->id[v], clip->failure.text);
      s->errors->failed++;
      for (int64_t i = 0; i < n; i++)
        s->latents[v * n + i] = NAN;
    } else {
      memcpy(s->frames[v], clip->sha256, sizeof clip->sha256);
      ebb_experiment_encode(&s->e, clip->pixels, s->latents + v * n);
    }
    ebb_reader_done(reader);
    ok = ebb_context_ok(&s->e.context, err);
  }
  ebb_reader_close(&reader);
  return ok;
}

static bool take_host_memory(session *s, ebb_error *err) {
  const size_t state = (size_t)(s->errors->videos * ebb_experiment_latent(&s->e));
  s->latents = malloc(state * sizeof *s->latents);
  s->truth = malloc((size_t)s->stops * state * sizeof *s->truth);
  s->frames = ebb_must(calloc((size_t)s->errors->videos + 1, sizeof *s->frames));
  return (s->latents && s->truth) ||
         ebb_fail(err, "no memory for a reference of %d states: %.2f GiB; fewer videos take less", s->stops,
                  (double)s->stops * (double)state * 4 / (1 << 30));
}

static bool work(void *user, ebb_error *err) {
  session *s = user;
  const bool counting = s->e.context.counting;
  bool ok = ebb_experiment_open_models(&s->e, false, err);
  if (ok && counting)
    ebb_experiment_encode(&s->e, NULL, NULL);
  else
    ok = ok && take_host_memory(s, err) && encode_videos(s, err);
  ok = ok && (counting || make_key(s, err));
  if (ok && (counting || !read_reference(s)))
    ok = make_reference(s, err);
  else
    s->work -= counting ? 0 : s->fine.steps * (double)((s->errors->videos + s->batch - 1) / s->batch);
  for (int i = 0; ok && i < s->count; i++)
    if (s->todo[i])
      ok = run_case(s, i, err);
  ebb_experiment_close_models(&s->e);
  return ok;
}

static void name_videos(session *s) {
  ebb_solver_errors *r = s->errors;
  r->videos = s->e.data.count < s->options->videos ? s->e.data.count : s->options->videos;
  s->batch = s->e.config->run.batch < r->videos ? s->e.config->run.batch : r->videos;
  r->id = ebb_must(calloc((size_t)r->videos + 1, sizeof *r->id));
  r->group = ebb_must(calloc((size_t)r->videos + 1, sizeof *r->group));
  for (int64_t v = 0; v < r->videos; v++) {
    r->id[v] = ebb_format("%s", s->e.data.videos[v].id);
    r->group[v] = ebb_format("%s", s->e.data.videos[v].group);
  }
  r->count = s->count;
  r->of = ebb_must(calloc((size_t)s->count + 1, sizeof *r->of));
  for (int i = 0; i < s->count; i++) {
    r->of[i].endpoint = ebb_must(calloc((size_t)r->videos + 1, sizeof(double)));
    r->of[i].path = ebb_must(calloc((size_t)r->videos + 1, sizeof(double)));
  }
}

/* Steps that will be reported. */
static double steps_of_all(const session *s) {
  double steps = s->fine.steps;
  for (int i = 0; i < s->count; i++)
    steps += s->todo[i] ? s->cases[i].steps : 0;
  return steps * (double)((s->errors->videos + s->batch - 1) / s->batch);
}

bool ebb_solver_errors_run(const ebb_config *config, const ebb_solver_case *cases, const bool *todo,
                           int count, const ebb_solver_errors_options *options, ebb_solver_errors *errors,
                           ebb_error *err) {
  session s = {.cases = cases, .todo = todo, .count = count, .options = options, .errors = errors};
  *errors = (ebb_solver_errors){0};
  s.schedule = ebb_must(calloc((size_t)count + 1, sizeof *s.schedule));
  s.course = ebb_must(calloc((size_t)count + 1, sizeof *s.course));
  bool ok = ebb_experiment_open(&s.e, config, options->log, err);
  if (ok) {
    name_videos(&s);
    ok = make_plans(&s, err);
    s.work = ok ? steps_of_all(&s) : 0;
    ok = ok && ebb_context_sized(&s.e.context, work, &s, err);
  }
  for (int i = 0; i < count; i++) {
    ebb_schedule_free(&s.schedule[i]);
    ebb_integration_free(&s.course[i].plan);
  }
  ebb_integration_free(&s.reference.plan);
  ebb_schedule_free(&s.fine);
  free(s.schedule);
  free(s.course);
  free(s.stop);
  free(s.latents);
  free(s.truth);
  free(s.frames);
  ebb_experiment_close(&s.e);
  return ok;
}

void ebb_solver_errors_free(ebb_solver_errors *r) {
  for (int64_t v = 0; v < r->videos && r->id; v++) {
    free(r->id[v]);
    free(r->group[v]);
  }
  for (int i = 0; i < r->count; i++) {
    free(r->of[i].endpoint);
    free(r->of[i].path);
  }
  free(r->id);
  free(r->group);
  free(r->of);
  *r = (ebb_solver_errors){0};
}
