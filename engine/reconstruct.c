#include "engine/reconstruct.h"

#include "engine/films.h"
#include "engine/job_parts.h"
#include "engine/unipc.h"
#include "kernels/normal.h"
#include "loaders/file.h"
#include "loaders/frames.h"
#include "loaders/safetensors.h"
#include "loaders/video.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a run of this kind has beside the job. */
typedef struct reel {
  const char *name;     /* "generate", "reconstruct": of the folder and its files */
  const char *stem;     /* of the videos */
  ebb_integration back; /* from noise to video */
  char *folder;
  ebb_films *films;
  ebb_film_result *results; /* [videos], as the next two */
  char (*inputs)[65];
  char **failures;
  float *noise; /* of generate.noise [videos, C,T,h,w]; NULL: drawn */
} reel;

static void fail_video(ebb_job *j, int64_t number, const char *reason) {
  reel *r = j->user;
  r->failures[number] = ebb_format("%s", reason);
  fprintf(j->options->log, "failed %s: %s\n", j->data.videos[number].id, reason);
}

/* ---- a batch ----------------------------------------------------------------------------------------- */

typedef struct ways {
  const ebb_job *j;
  int64_t videos;
  int done, of; /* integrations */
} ways;

static void step_done(void *user, int step, int steps) {
  const ways *w = user;
  const double share = (w->done + (double)step / steps) / w->of;
  if (w->j->options->progress)
    w->j->options->progress(w->j->options->progress_user, (double)w->j->done + share * (double)w->videos,
                            w->j->data.count);
}

static const ebb_condition *text_of(ebb_job *j, int64_t count, const ebb_film *films, ebb_condition *own,
                                    ebb_error *err) {
  int64_t *videos = ebb_must(malloc((size_t)count * sizeof *videos));
  for (int64_t i = 0; i < count; i++)
    videos[i] = films[i].number;
  const ebb_condition *text = ebb_job_text_of(j, &j->models[0], count, videos, own, err);
  free(videos);
  return text;
}

/* Takes the films' latents, host [B,C,T,h,w], along the plans one after the other, in place. */
static bool integrate(ebb_job *j, int64_t count, const ebb_film *films, float *latents,
                      const ebb_integration *const *plans, int plan_count, ebb_error *failures,
                      ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_job_model *m = &j->models[0];
  ways w = {j, count, 0, plan_count};
  ebb_condition own;
  const size_t constants = ebb_arena_mark(&c->weights);
  ebb_run run = {.model = &m->model,
                 .text = text_of(j, count, films, &own, err),
                 .negative = &m->negative,
                 .guidance = j->config->inversion.guidance,
                 .failures = failures,
                 .progress = c->counting ? NULL : step_done,
                 .progress_user = &w};
  if (!run.text) {
    ebb_condition_free(&own);
    return false;
  }
  const size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor x = EBB_ACTIVATION(c, "latents", count, j->shape.channels, j->shape.frames, j->shape.height,
                                j->shape.width);
  ebb_upload(c, x, latents);
  for (; w.done < plan_count; w.done++) {
    run.plan = plans[w.done];
    ebb_invert(&run, x, NULL);
  }
  ebb_download(c, latents, x);
  ebb_arena_release(&c->activations, mark);
  ebb_condition_free(&own);
  ebb_arena_release(&c->weights, constants);
  return ebb_context_ok(c, err);
}

/* The frames of a latent, host [C,T,h,w]. False with *failure filled: this video fails; with err: the
 * run does. */
static bool decode(ebb_job *j, const float *latent, ebb_clip *clip, ebb_error *failure, ebb_error *err) {
  ebb_context *c = &j->context;
  const ebb_clip_size s = j->clip;
  const size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor z =
      EBB_ACTIVATION(c, "latent", 1, j->shape.channels, j->shape.frames, j->shape.height, j->shape.width);
  ebb_tensor video = EBB_ACTIVATION(c, "video", 1, 3, s.used, s.height, s.width);
  float *pixels =
      c->counting ? NULL : malloc(3 * (size_t)s.used * (size_t)s.height * (size_t)s.width * sizeof *pixels);
  bool ok = c->counting || pixels || ebb_fail(err, "no memory for decoded frames");
  if (ok) {
    ebb_upload(c, z, latent);
    ebb_vae_decode(&j->vae, video, z);
    ebb_download(c, pixels, video);
    ok = ebb_context_ok(c, err);
  }
  if (ok && pixels)
    ok = ebb_frames_quantise(pixels, s.used, s.height, s.width, clip, failure);
  free(pixels);
  ebb_arena_release(&c->activations, mark);
  return ok;
}

/* What the decoder gives has to be as large as what it is compared with. */
static bool check_shape(const ebb_job *j, ebb_error *err) {
  const ebb_vae *v = &j->vae;
  if (j->shape.height * v->space_stride == j->clip.height &&
      j->shape.width * v->space_stride == j->clip.width &&
      (j->shape.frames - 1) * v->time_stride + 1 == j->clip.used)
    return true;
  return ebb_fail(err, "%s: data.size is %dx%d: videos come out of the VAE in multiples of %d pixels",
                  j->config->path, j->clip.height, j->clip.width, v->space_stride);
}

/* Decodes what has arrived and hands it on; a latent that has failed is its video's failure. */
static bool hand_on(ebb_job *j, int64_t count, const float *latents, ebb_film *films,
                    const ebb_error *failures, ebb_error *err) {
  reel *r = j->user;
  bool ok = true;
  for (int64_t i = 0; ok && i < count; i++) {
    ebb_error failure = failures[i];
    const bool made =
        !failure.text[0] && decode(j, latents + i * ebb_job_latent_count(j), &films[i].made, &failure, err);
    if (j->context.counting)
      ok = made;
    else if (made)
      ok = ebb_films_put(r->films, &films[i], err);
    else if (failure.text[0])
      fail_video(j, films[i].number, failure.text);
    else
      ok = false;
  }
  return ok;
}

/* Reads and encodes [first, first+count); what fails is left out. Returns how many are there, -1: the run
 * fails. */
static int64_t read_batch(ebb_job *j, int64_t first, int64_t count, float *latents, ebb_film *films,
                          ebb_error *err) {
  reel *r = j->user;
  int64_t read = 0;
  for (int64_t number = first; number < first + count; number++) {
    ebb_film *film = &films[read];
    float *latent = latents + read * ebb_job_latent_count(j);
    ebb_error failure = {{0}};
    *film = (ebb_film){.number = number};
    bool ok = ebb_job_encode(j, number, latent, &film->original, r->inputs[number], &failure);
    if (!ebb_context_ok(&j->context, err))
      return -1;
    ok = ok && decode(j, latent, &film->ceiling, &failure, err);
    if (!ok && !failure.text[0])
      return -1;
    if (ok) {
      read++;
    } else {
      fail_video(j, number, failure.text);
      ebb_film_free(film);
    }
  }
  return read;
}

/* Noise of [first, first+count): number i of a video is number i of the stream with the video's number. */
static int64_t draw_batch(const ebb_job *j, int64_t first, int64_t count, float *latents, ebb_film *films) {
  const reel *r = j->user;
  const int64_t n = ebb_job_latent_count(j);
  for (int64_t v = 0; v < count; v++) {
    films[v] = (ebb_film){.number = first + v};
    if (j->context.counting)
      continue;
    if (r->noise)
      memcpy(latents + v * n, r->noise + (first + v) * n, (size_t)n * sizeof *latents);
    else
      ebb_normals(latents + v * n, n, (uint64_t)j->config->generate.seed, (uint64_t)(first + v));
  }
  return count;
}

/* The run_batch of both. */
static bool run_batch(ebb_job *j, int64_t first, int64_t count, ebb_error *err) {
  const reel *r = j->user;
  const ebb_integration *plans[] = {&j->plan, &r->back};
  float *latents = calloc((size_t)(count * ebb_job_latent_count(j)), sizeof *latents);
  ebb_film *films = calloc((size_t)count, sizeof *films);
  ebb_error *failures = calloc((size_t)count, sizeof *failures);
  bool ok =
      check_shape(j, err) && ((latents && films && failures) ||
                              ebb_fail(err, "no memory for the latents of %lld videos", (long long)count));
  int64_t read = 0;
  if (ok) {
    read = j->draw ? draw_batch(j, first, count, latents, films)
                   : read_batch(j, first, count, latents, films, err);
    ok = read >= 0;
  }
  if (ok && read > 0)
    ok = integrate(j, read, films, latents, j->draw ? plans + 1 : plans, j->draw ? 1 : 2, failures, err) &&
         hand_on(j, read, latents, films, failures, err);
  for (int64_t i = 0; films && i < count; i++)
    ebb_film_free(&films[i]);
  free(failures);
  free(films);
  free(latents);
  return ok;
}

/* ---- what is left ------------------------------------------------------------------------------------ */

static void put_text(FILE *out, const char *text) {
  fputc('"', out);
  for (; *text; text++)
    fputs(*text == '"' ? "\"\"" : (char[2]){*text, '\0'}, out);
  fputc('"', out);
}

static void put_row(FILE *out, const ebb_job *j, int64_t number) {
  const reel *r = j->user;
  const ebb_film_result *is = &r->results[number];
  const ebb_video *v = &j->data.videos[number];
  char file[128];
  ebb_film_name(r->stem, j->config->generate.write, number, file, sizeof file);
  fprintf(out, "%lld,", (long long)number);
  if (j->draw) {
    fprintf(out, "%s,%d,", file, j->clip.used);
    if (!r->noise)
      fprintf(out, "%lld", (long long)j->config->generate.seed);
    fprintf(out, ",%s\n", is->sha256);
    return;
  }
  put_text(out, v->id);
  fprintf(out, ",%s,%d,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%s\n", file, j->clip.used, is->made.psnr, is->made.ssim,
          is->ceiling.psnr, is->ceiling.ssim, is->ceiling.psnr - is->made.psnr,
          is->ceiling.ssim - is->made.ssim, r->inputs[number]);
}

static bool write_table(const ebb_job *j, ebb_error *err) {
  const reel *r = j->user;
  char *path = ebb_format("%s/%s.csv", r->folder, r->name);
  ebb_file_writer w = {0};
  bool ok = ebb_file_create(&w, path, err);
  if (ok) {
    fputs(j->draw
              ? "video,file,frames,seed,sha256\n"
              : "video,id,file,frames,psnr,ssim,ceiling_psnr,ceiling_ssim,gap_psnr,gap_ssim,input_sha256\n",
          w.stream);
    for (int64_t i = 0; i < j->data.count; i++)
      if (r->results[i].there)
        put_row(w.stream, j, i);
    ok = ebb_file_commit(&w, err);
  }
  ebb_file_abandon(&w);
  free(path);
  return ok;
}

static ebb_reconstruction summarise(const ebb_job *j) {
  const reel *r = j->user;
  ebb_reconstruction s = {0};
  for (int64_t i = 0; i < j->data.count; i++) {
    const ebb_film_result *is = &r->results[i];
    if (!is->there)
      continue;
    s.videos++;
    s.made.psnr += is->made.psnr;
    s.made.ssim += is->made.ssim;
    s.ceiling.psnr += is->ceiling.psnr;
    s.ceiling.ssim += is->ceiling.ssim;
  }
  double *sums[] = {&s.made.psnr, &s.made.ssim, &s.ceiling.psnr, &s.ceiling.ssim};
  for (int i = 0; i < 4; i++)
    *sums[i] /= (double)s.videos;
  return s;
}

static json_t *finite_or_null(double x) {
  return isfinite(x) ? json_real(x) : json_null(); /* equal clips have an infinite PSNR, none have no mean */
}

static json_t *describe_means(const ebb_reconstruction *s) {
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "psnr", finite_or_null(s->made.psnr), "ssim",
                   finite_or_null(s->made.ssim), "ceiling_psnr", finite_or_null(s->ceiling.psnr),
                   "ceiling_ssim", finite_or_null(s->ceiling.ssim), "gap_psnr",
                   finite_or_null(s->ceiling.psnr - s->made.psnr), "gap_ssim",
                   finite_or_null(s->ceiling.ssim - s->made.ssim));
}

/* The last file: a folder that has it is finished. */
static bool write_summary(ebb_job *j, const ebb_reconstruction *s, ebb_error *err) {
  const reel *r = j->user;
  json_t *about = ebb_job_provenance(j, err);
  if (!about)
    return false;
  json_t *failed = json_array();
  for (int64_t i = 0; i < j->data.count; i++)
    if (r->failures[i])
      json_array_append_new(failed,
                            json_pack("{s:s, s:s}", "id", j->data.videos[i].id, "reason", r->failures[i]));
  json_t *all = ebb_must(
      json_pack("{s:I, s:o, s:o}", "videos", (json_int_t)s->videos, "failed", failed, "provenance", about));
  json_object_set_new(about, "generated_sigmas", ebb_job_reals(r->back.sigma, r->back.steps + 1));
  json_object_set_new(about, "generated_timesteps", ebb_job_reals(r->back.timestep, r->back.steps));
  if (!j->draw) {
    json_object_set_new(all, "mean", describe_means(s));
    json_object_set_new(all, "quality",
                        json_string("8-bit RGB; PSNR over all frames, SSIM 11x11 Gaussian 1.5 by "
                                    "channel; gap = ceiling - reconstruction"));
  }
  char *path = ebb_format("%s/%s.json", r->folder, r->name), *text = json_dumps(all, JSON_INDENT(1));
  ebb_file_writer w = {0};
  bool ok = (text || ebb_fail(err, "%s: a name in it is not UTF-8", path)) &&
            ebb_file_create(&w, path, err) && ebb_file_write(&w, text, strlen(text), err) &&
            ebb_file_commit(&w, err);
  ebb_file_abandon(&w);
  free(text);
  free(path);
  json_decref(all);
  return ok;
}

/* ---- the run ----------------------------------------------------------------------------------------- */

/* Both ways of a reconstruction. A generation's j->plan is the way back as well: it is what plans show. */
static bool make_grids(ebb_job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  reel *r = j->user;
  const char *solver = k->inversion.solver, *labels = k->inversion.labels;
  if (!ebb_schedule_open(&j->schedule, k->model.path, k->inversion.schedule, (int)k->inversion.steps,
                         k->inversion.shift, err) ||
      !ebb_integration_named(&r->back, &j->schedule, solver, labels, true, err) ||
      !ebb_integration_named(&j->plan, &j->schedule, solver, labels, j->draw, err))
    return false;
  return ebb_integration_share_labels(&j->plan, &r->back, err);
}

/* The list of videos to make, in place of a data set. */
static bool list_drawn(ebb_job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  const int64_t count = k->generate.videos;
  j->skipped = json_array();
  j->data.root = k->generate.noise[0] ? ebb_format("%s", k->generate.noise)
                                      : ebb_format("noise, seed %lld", (long long)k->generate.seed);
  j->data.videos = calloc((size_t)count, sizeof *j->data.videos);
  if (!j->data.videos)
    return ebb_fail(err, "no memory for a list of %lld videos", (long long)count);
  for (j->data.count = 0; j->data.count < count; j->data.count++)
    j->data.videos[j->data.count] = (ebb_video){.id = ebb_format("generated/%lld", (long long)j->data.count),
                                                .path = ebb_format("%s", ""),
                                                .group = ebb_format("%s", ""),
                                                .category = ebb_format("%s", ""),
                                                .label = EBB_UNLABELLED};
  return true;
}

/* generate.noise, whose shape the rehearsal has told. */
static bool read_noise(ebb_job *j, ebb_error *err) {
  reel *r = j->user;
  const char *path = j->config->generate.noise;
  const int64_t n = ebb_job_latent_count(j),
                want[] = {j->shape.channels, j->shape.frames, j->shape.height, j->shape.width};
  char found[EBB_SHAPE_TEXT];
  ebb_safetensors st;
  if (!path[0])
    return true;
  if (!ebb_safetensors_open(&st, path, err))
    return false;
  const ebb_st_entry *e = ebb_safetensors_find(&st, "noise");
  bool ok = e != NULL || ebb_fail(err, "%s: no tensor 'noise'", path);
  if (ok && (e->rank != 5 || memcmp(e->shape + 1, want, sizeof want) != 0 || e->shape[0] < j->data.count))
    ok =
        ebb_fail(err, "%s: 'noise' is %s, expected [%lld or more, %lld, %lld, %lld, %lld] for %lld videos",
                 path, ebb_shape_text(e->rank, e->shape, found), (long long)j->data.count, (long long)want[0],
                 (long long)want[1], (long long)want[2], (long long)want[3], (long long)j->data.count);
  if (ok) {
    r->noise = malloc((size_t)(e->shape[0] * n) * sizeof *r->noise);
    ok = (r->noise || ebb_fail(err, "%s: no memory for it", path)) &&
         ebb_safetensors_read_f32(&st, e, r->noise, err);
  }
  ebb_safetensors_close(&st);
  return ok;
}

static bool run_batches(ebb_job *j, ebb_error *err) {
  reel *r = j->user;
  const int64_t batch = ebb_job_batch_size(j);
  bool ok = read_noise(j, err) && (j->draw || ebb_job_open_reader(j, err)) &&
            ebb_films_open(&r->films, r->folder, r->stem, j->config->generate.write, j->config->generate.fps,
                           ebb_reader_threads(), r->results, err);
  for (j->done = 0; ok && j->done < j->data.count;) {
    const int64_t left = j->data.count - j->done, count = left < batch ? left : batch;
    ok = run_batch(j, j->done, count, err);
    j->done += count;
  }
  ok = ok && ebb_films_finish(&r->films, err);
  ebb_films_abandon(&r->films);
  ebb_reader_close(&j->reader);
  return ok;
}

/* A killed run leaves films and its settings: films of the same settings are made again, the same bytes; of others they
 * would stay among this run's. */
static bool same_settings(const char *folder, const ebb_config *config, ebb_error *err) {
  char *path = ebb_path_join(folder, "config.yaml"), *there = NULL, *text = NULL;
  size_t bytes = 0, there_bytes = 0;
  bool ok = true;
  if (ebb_is_there(path)) {
    FILE *memory = ebb_must(open_memstream(&text, &bytes));
    ebb_config_write(config, memory);
    fclose(memory);
    ok = ebb_file_read(path, 1 << 20, &there, &there_bytes, err);
    if (ok && (bytes != there_bytes || memcmp(text, there, bytes) != 0))
      ok = ebb_fail(err,
                    "%s: belongs to an unfinished run of other settings: remove %s, or choose another --out",
                    path, folder);
  }
  free(text);
  free(there);
  free(path);
  return ok;
}

/* config: as it was asked for. */
static bool open_folder(ebb_job *j, const ebb_config *config, ebb_error *err) {
  reel *r = j->user;
  r->folder = ebb_path_join(j->config->run.out, r->name);
  char *last = ebb_format("%s/%s.json", r->folder, r->name);
  const bool finished = ebb_is_there(last);
  if (finished)
    ebb_fail(err,
             "%s: is there: a finished run, which is never overwritten; choose another --out or remove %s",
             last, r->folder);
  free(last);
  if (finished || !ebb_make_folders(r->folder, err) || !same_settings(r->folder, config, err))
    return false;
  const ebb_config *own = j->config;
  j->config = config;
  const bool ok = ebb_job_write_config(j, r->folder, err);
  j->config = own;
  return ok;
}

static bool run(ebb_job *j, const ebb_config *config, ebb_reconstruction *summary, ebb_error *err) {
  bool ok = open_folder(j, config, err) && ebb_job_begin(j, err) && run_batches(j, err);
  if (ok) {
    const reel *r = j->user;
    *summary = summarise(j);
    j->result->videos = j->data.count;
    j->result->failed = (int64_t)json_array_size(j->skipped);
    for (int64_t i = 0; i < j->data.count; i++)
      j->result->failed += r->failures[i] != NULL;
    j->result->used = (ebb_job_memory){j->context.weights.peak, j->context.activations.peak};
    j->config = config; /* as it was asked for, in what is written */
    ok = write_table(j, err) && write_summary(j, summary, err);
  }
  if (ok)
    ebb_job_print_used(j);
  ebb_job_close_models(j);
  return ok;
}

static bool film(ebb_job *j, const char *name, const char *stem, ebb_reconstruction *summary,
                 ebb_error *err) {
  const ebb_config *config = j->config;
  ebb_config own = *config;
  own.model.compare.count = 0;
  strcpy(own.inversion.method, "invert");     /* "noise" is a way to features alone */
  own.capture.steps = (ebb_int_list){1, {0}}; /* taps are planned with the models, and not used */
  own.capture.blocks = (ebb_int_list){.count = -1};
  own.capture.points = (ebb_name_list){1, {"latent"}};
  own.capture.pool = (ebb_name_list){1, {"mean"}};
  reel r = {.name = name, .stem = stem};
  j->config = &own;
  j->user = &r;
  j->decode = true;
  j->run_batch = run_batch;
  *j->result = (ebb_job_result){0};
  bool ok = ebb_context_open(&j->context, own.run.device, err) &&
            (j->draw ? list_drawn(j, err) : ebb_job_open_data(j, err)) && make_grids(j, err);
  if (ok) {
    r.results = ebb_must(calloc((size_t)j->data.count, sizeof *r.results));
    r.inputs = ebb_must(calloc((size_t)j->data.count, sizeof *r.inputs));
    r.failures = ebb_must(calloc((size_t)j->data.count, sizeof *r.failures));
    ok = ebb_job_rehearse(j, err) && (j->options->dry_run || run(j, config, summary, err));
  }
  for (int64_t i = 0; r.failures && i < j->data.count; i++)
    free(r.failures[i]);
  free(r.failures);
  free(r.inputs);
  free(r.results);
  free(r.noise);
  free(r.folder);
  ebb_integration_free(&r.back);
  ebb_job_end(j);
  return ok;
}

static bool check_writing(const ebb_config *k, ebb_error *err) {
  if (!k->model.path[0] || !k->run.out[0])
    return ebb_fail(err, "%s: %s is not set", k->path,
                    k->model.path[0] ? "run.out (or --out)" : "model.path");
  if (strcmp(k->generate.write, "mp4") == 0 && !ebb_video_supported())
    return ebb_fail(
        err,
        "%s: generate.write is mp4, which needs FFmpeg's libraries: this ebb was built without them; "
        "png needs none (--set generate.write=png)",
        k->path);
  return true;
}

bool ebb_generate_check(const ebb_config *k, ebb_error *err) {
  return check_writing(k, err) &&
         (strcmp(k->inversion.solver, "unipc") != 0 || ebb_unipc_check(k->model.path, err));
}

bool ebb_reconstruct_check(const ebb_config *k, ebb_error *err) {
  return ebb_job_check(k, err) && check_writing(k, err);
}

bool ebb_generate(const ebb_config *config, const ebb_job_options *options, ebb_job_result *result,
                  ebb_error *err) {
  ebb_job j = {.config = config, .options = options, .result = result, .draw = true};
  ebb_reconstruction nothing_compared;
  return ebb_generate_check(config, err) && film(&j, "generate", "generated", &nothing_compared, err);
}

bool ebb_reconstruct(const ebb_config *config, const ebb_job_options *options, ebb_job_result *result,
                     ebb_reconstruction *summary, ebb_error *err) {
  ebb_job j = {.config = config, .options = options, .result = result};
  *summary = (ebb_reconstruction){0};
  return ebb_reconstruct_check(config, err) && film(&j, "reconstruct", "reconstructed", summary, err);
}
