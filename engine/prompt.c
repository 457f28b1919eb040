#include "engine/prompt.h"

#include "loaders/file.h"
#include "loaders/safetensors.h"

#include <stdlib.h>
#include <string.h>

static bool read_file(ebb_prompt *p, const char *path, ebb_error *err) {
  char shape[EBB_SHAPE_TEXT];
  const ebb_text *t = &p->text;
  ebb_safetensors st;
  if (!ebb_safetensors_open(&st, path, err))
    return false;
  const ebb_st_entry *e = ebb_safetensors_find(&st, "text");
  bool ok;
  if (!e)
    ok = ebb_fail(err, "%s: no tensor 'text' [1, %lld, %lld]", path, (long long)t->tokens,
                  (long long)t->width);
  else if (e->rank != 3 || e->shape[0] != 1 || e->shape[1] != t->tokens || e->shape[2] != t->width)
    ok = ebb_fail(err,
                  "%s: 'text' is %s, expected [1, %lld, %lld]: one text of prompt.max_tokens states as wide "
                  "as the model's "
                  "text_dim",
                  path, ebb_shape_text(e->rank, e->shape, shape), (long long)t->tokens, (long long)t->width);
  else
    ok = ebb_safetensors_read_f32(&st, e, p->states, err) && ebb_file_sha256(path, p->sha256, err);
  ebb_safetensors_close(&st);
  return ok;
}

bool ebb_prompt_read(ebb_prompt *p, const char *embedding, int64_t tokens, int64_t width, ebb_error *err) {
  *p = (ebb_prompt){.text = {NULL, 1, tokens, width}, .sha256 = "zeros"};
  p->states = calloc((size_t)(tokens * width), sizeof *p->states);
  p->text.states = p->states;
  if (!p->states)
    return ebb_fail(err, "no memory for a text of %lld tokens", (long long)tokens);
  return strcmp(embedding, "zeros") == 0 || read_file(p, embedding, err);
}

void ebb_prompt_free(ebb_prompt *p) {
  free(p->states);
  *p = (ebb_prompt){0};
}
