/* ebb text */
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/texts.h"
#include "loaders/file.h"

#include <stdlib.h>
#include <string.h>

#define PROMPTS_BYTES ((size_t)64 << 20)

/* Every line of a file is a prompt, an empty one too; the last needs no end of line. A byte order mark and the
 * CR of a CR LF are no part of one. */
static bool add_lines(ebb_texts *t, const char *path, ebb_error *err) {
  char *text;
  size_t bytes;
  int64_t line = 0;
  if (!ebb_file_read(path, PROMPTS_BYTES, &text, &bytes, err))
    return false;
  bool ok = strlen(text) == bytes || ebb_fail(err, "%s: a zero byte, expected text of a prompt a line", path);
  for (char *from = text + (strncmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0), *end; ok && *from; from = end) {
    const size_t length = strcspn(from, "\n");
    end = from + length + (from[length] == '\n');
    from[length] = '\0';
    if (length > 0 && end > from + length && from[length - 1] == '\r')
      from[length - 1] = '\0';
    line++;
    ebb_error found = {""};
    if (ebb_texts_add(t, from, &found) < 0)
      ok = ebb_fail(err, "%s:%lld: %s", path, (long long)line, found.text);
  }
  free(text);
  return ok;
}

typedef struct embedding {
  const char *model, *out, *prompts, *device, *dtype;
  ebb_text_list texts;
  int64_t max_tokens;
} embedding;

/* The table that is there already, or a new one. */
static bool open_table(const embedding *o, ebb_texts *t, ebb_error *err) {
  ebb_texts fresh;
  if (!ebb_is_there(o->out))
    return ebb_texts_open(t, o->model, o->max_tokens, err);
  bool ok = ebb_texts_open(&fresh, o->model, o->max_tokens, err) && ebb_texts_read(t, o->out, err);
  if (ok && (t->max_tokens != o->max_tokens || strcmp(t->pipeline, fresh.pipeline) != 0))
    ok =
        ebb_fail(err, "%s: holds texts of %lld tokens for %s, asked for %lld for %s: write into another file",
                 o->out, (long long)t->max_tokens, t->pipeline, (long long)o->max_tokens, fresh.pipeline);
  ebb_texts_free(&fresh);
  return ok;
}

static bool embed(const embedding *o, ebb_error *err) {
  ebb_context c = {0};
  ebb_texts t = {0};
  bool ok = open_table(o, &t, err);
  const int64_t before = t.count;
  for (int i = 0; ok && i < o->texts.count; i++)
    ok = ebb_texts_add(&t, o->texts.items[i], err) >= 0;
  ok = ok && (!o->prompts || add_lines(&t, o->prompts, err));
  if (ok && t.count == before && before > 0)
    printf("%s: all prompts are there already, %lld in all\n", o->out, (long long)before);
  else
    ok = ok && ebb_context_open(&c, o->device, err) &&
         ebb_texts_encode(&t, o->model, &c, o->dtype, false, stdout, err) && ebb_texts_write(&t, o->out, err);
  if (ok && t.count > before)
    printf("%s: %lld prompts of %lld tokens, %lld of them new\n", o->out, (long long)t.count,
           (long long)t.max_tokens, (long long)(t.count - before));
  ebb_context_close(&c);
  ebb_texts_free(&t);
  return ok;
}

int ebb_text_command(int argc, char **argv) {
  const char *what = NULL;
  embedding o = {.device = "auto", .dtype = "float32", .max_tokens = 512};
  const ebb_option options[] = {
      {"model", EBB_OPTION_TEXT, &o.model, "DIR", "diffusers folder with text_encoder/ and tokenizer/", 0, 0,
       NULL},
      {"out", EBB_OPTION_TEXT, &o.out, "FILE", "safetensors; one that is there is added to", 0, 0, NULL},
      {"prompt", EBB_OPTION_LIST, &o.texts, "TEXT", "a prompt, \"\" too; may be given again and again", 0, 0,
       NULL},
      {"prompts", EBB_OPTION_TEXT, &o.prompts, "FILE", "a prompt a line", 0, 0, NULL},
      {"max-tokens", EBB_OPTION_INT, &o.max_tokens, "N",
       "length of a text with its padding: 512 as Wan was trained, 226 as the official inversion has it "
       "(512)",
       1, 4096, NULL},
      {"device", EBB_OPTION_TEXT, &o.device, "NAME", "auto, cpu, cuda or cuda:N (auto)", 0, 0, NULL},
      {"dtype", EBB_OPTION_TEXT, &o.dtype, "NAME", "float32, or bfloat16 on a GPU (float32)", 0, 0,
       "float32|bfloat16"},
  };
  const ebb_command command = {
      "text embed --model DIR --out FILE [--prompt TEXT] [--prompts FILE] [options]",
      "Prompts to the states of the model's text encoder, kept in a file that runs take as prompt.embedding, "
      "so that "
      "they\n"
      "need no text encoder. A text is found by its encoder, tokenizer, length and cleaned words.",
      options,
      (int)(sizeof options / sizeof *options),
      &what,
      1,
      1,
      NULL};
  int code = ebb_command_parse(&command, argc, argv);
  if (code >= 0)
    return code;
  const bool known = strcmp(what, "embed") == 0;
  if (!known || !o.model || !o.out || (o.texts.count == 0 && !o.prompts)) {
    fprintf(stderr,
            known ? "ebb: text embed needs --model, --out, and --prompt or --prompts (--help tells more)\n"
                  : "ebb: text '%s': expected embed\n",
            what);
    return EBB_EXIT_USAGE;
  }
  ebb_error err = {0};
  if (embed(&o, &err))
    return EBB_EXIT_OK;
  fprintf(stderr, "ebb: %s\n", err.text);
  return EBB_EXIT_ERROR;
}
