#include "engine/eval.h"

#include "engine/texts.h"
#include "loaders/safetensors.h"

#include <stdlib.h>
#include <string.h>

static bool write_all(const ebb_texts *t, const int64_t *numbers, int count, const char *path,
                      ebb_error *err) {
  const int64_t n = count, M = t->max_tokens, D = t->width;
  const ebb_st_declare out[] = {
      {"ids", EBB_I64, 2, {n, M}}, {"length", EBB_I64, 1, {n}}, {"text", EBB_F32, 3, {n, M, D}}};
  float *states = malloc((size_t)(M * D) * sizeof *states);
  ebb_st_writer *w = NULL;
  bool ok = (states || ebb_fail(err, "no memory for a text of %lld tokens", (long long)M)) &&
            ebb_st_writer_open(&w, path, out, 3, NULL, 0, err);
  for (int i = 0; ok && i < count; i++)
    ok = ebb_st_writer_append(w, t->entries[numbers[i]].ids, (size_t)M * sizeof(int64_t), err);
  for (int i = 0; ok && i < count; i++)
    ok = ebb_st_writer_append(w, &t->entries[numbers[i]].length, sizeof(int64_t), err);
  for (int i = 0; ok && i < count; i++) {
    ebb_texts_states(t, numbers[i], states);
    ok = ebb_st_writer_append(w, states, (size_t)(M * D) * sizeof *states, err);
  }
  ok = ok && ebb_st_writer_finish(&w, err);
  ebb_st_writer_abandon(&w);
  free(states);
  return ok;
}

bool ebb_eval_text(const ebb_eval_text_options *o, ebb_error *err) {
  ebb_context c = {0};
  ebb_texts t = {0};
  int64_t *numbers = malloc((size_t)o->count * sizeof *numbers + 1);
  bool ok = (numbers || ebb_fail(err, "no memory")) && ebb_texts_open(&t, o->model, o->max_tokens, err);
  for (int i = 0; ok && i < o->count; i++)
    ok = (numbers[i] = ebb_texts_add(&t, o->prompts[i], err)) >= 0;
  ok = ok && ebb_context_open(&c, o->device, err) &&
       ebb_texts_encode(&t, o->model, &c, o->dtype, false, o->log, err) &&
       write_all(&t, numbers, o->count, o->out, err);
  ebb_context_close(&c);
  ebb_texts_free(&t);
  free(numbers);
  return ok;
}
