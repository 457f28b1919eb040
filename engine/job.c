#include "engine/job_parts.h"

#include <string.h>

static void note_skipped(void *user, const char *id, const char *reason) {
  ebb_job *j = user;
  json_array_append_new(j->skipped, json_pack("{s:s, s:s}", "id", id, "reason", reason));
  fprintf(j->options->log, "skipped %s: %s\n", id, reason);
}

bool ebb_job_open_data(ebb_job *j, ebb_error *err) {
  j->skipped = json_array();
  return ebb_dataset_open_config(&j->data, j->config, note_skipped, j, err);
}

static bool make_grid(ebb_job *j, ebb_error *err) {
  const ebb_config *k = j->config;
  return ebb_schedule_open(&j->schedule, k->model.path, k->inversion.schedule, (int)k->inversion.steps,
                           k->inversion.shift, err) &&
         ebb_integration_named(&j->plan, &j->schedule, k->inversion.solver, k->inversion.labels, false, err);
}

bool ebb_job_rehearse(ebb_job *j, ebb_error *err) {
  if (!ebb_prompts_open(&j->prompts, j->config, &j->data, &j->context, j->options->dry_run, j->options->log,
                        err))
    return false;
  ebb_context_count(&j->context);
  bool ok = ebb_job_open_models(j, err) && ebb_job_print_plan(j, err);
  ebb_job_close_models(j);
  return ok;
}

bool ebb_job_begin(ebb_job *j, ebb_error *err) {
  ebb_context *c = &j->context;
  return ebb_context_reserve(c, EBB_WEIGHTS, j->result->planned.weights, err) &&
         ebb_context_reserve(c, EBB_ACTIVATIONS, j->result->planned.activations, err) &&
         ebb_job_open_models(j, err);
}

bool ebb_job_open_reader(ebb_job *j, ebb_error *err) {
  return ebb_reader_open(&j->reader, &j->context, &j->data, j->clip, ebb_job_ahead(j), ebb_reader_threads(),
                         err);
}

/* All batches: while one integrates, the next one's clips are read and the last one's features are written. */
static bool run_batches(ebb_job *j, ebb_error *err) {
  const int64_t batch = ebb_job_batch_size(j);
  const int sets = 1 + j->model_count * (int)ebb_job_sets(j);
  bool ok =
      ebb_job_open_reader(j, err) && ebb_writer_open(&j->writer, j->store, sets, ebb_job_fail_video, j, err);
  for (j->done = 0; ok && j->done < j->data.count;) {
    int64_t left = j->data.count - j->done, count = left < batch ? left : batch;
    ok = j->run_batch(j, j->done, count, err);
    j->done += count;
  }
  ok = ok && ebb_writer_finish(&j->writer, err);
  ebb_writer_abandon(&j->writer);
  ebb_reader_close(&j->reader);
  return ok;
}

static bool run(ebb_job *j, ebb_error *err) {
  ebb_context *c = &j->context;
  ebb_job_result *r = j->result;
  bool ok = ebb_job_begin(j, err) && ebb_job_open_store(j, err) && run_batches(j, err);
  if (ok) {
    r->videos = j->data.count;
    r->failed = ebb_store_failed(j->store) + (int64_t)json_array_size(j->skipped);
    r->used = (ebb_job_memory){c->weights.peak, c->activations.peak};
    ok = ebb_job_finish_store(j, err);
  }
  if (ok)
    ebb_job_print_used(j);
  ebb_job_close_models(j);
  return ok;
}

void ebb_job_end(ebb_job *j) {
  ebb_prompts_free(&j->prompts);
  ebb_integration_free(&j->plan);
  ebb_schedule_free(&j->schedule);
  ebb_dataset_close(&j->data);
  json_decref(j->skipped);
  ebb_context_close(&j->context);
}

bool ebb_job_check(const ebb_config *k, ebb_error *err) {
  const struct {
    const char *key, *value, *what;
  } needed[] = {{"model.path", k->model.path, "a diffusers model folder"},
                {"data.path", k->data.path, "the data set's folder"},
                {"run.out", k->run.out, "the folder to write (or --out)"}};
  for (int i = 0; i < 3; i++)
    if (!needed[i].value[0])
      return ebb_fail(err, "%s: %s is not set: expected %s", k->path, needed[i].key, needed[i].what);
  for (int i = 0; i < k->model.compare.count; i++) {
    const char *name = k->model.compare.names[i];
    bool taken = strcmp(name, "vae") == 0 || strcmp(name, k->model.transformer) == 0;
    for (int n = 0; n < i; n++)
      taken = taken || strcmp(name, k->model.compare.names[n]) == 0;
    if (taken)
      return ebb_fail(
          err, "%s: model.compare: '%s' is taken or listed twice: expected other transformers than '%s'",
          k->path, name, k->model.transformer);
  }
  ebb_error coarse = {0};
  return ebb_solver_takes("inversion.solver", k->inversion.solver, "model.dtype", k->model.dtype, &coarse) ||
         ebb_fail(err, "%s: %s", k->path, coarse.text);
}

bool ebb_job_invert(const ebb_config *config, const ebb_job_options *options, ebb_job_result *result,
                    ebb_error *err) {
  ebb_job j = {.config = config, .options = options, .result = result, .run_batch = ebb_job_run_batch};
  *result = (ebb_job_result){0};
  if (!ebb_job_check(config, err))
    return false;
  bool ok = ebb_context_open(&j.context, config->run.device, err) && ebb_job_open_data(&j, err) &&
            make_grid(&j, err) && ebb_job_rehearse(&j, err) && (options->dry_run || run(&j, err));
  ebb_store_abandon(&j.store);
  ebb_job_end(&j);
  return ok;
}
