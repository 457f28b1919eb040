#include "probe/margins.h"

#include "loaders/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEAD "category,model,feature,video,group,possible,margin,right"
#define BYTES_MAX ((size_t)1 << 30)
enum { FIELDS = 8 };

/* Takes the next line of CSV apart, in place: fields end in NUL. Returns where the next line begins, or NULL
 * when this one has not FIELDS fields. */
static char *split_line(char *at, char *fields[FIELDS]) {
  for (int i = 0; i < FIELDS; i++) {
    char *to = at;
    fields[i] = at;
    bool quoted = *at == '"';
    at += quoted;
    while (*at && (quoted || (*at != ',' && *at != '\n' && *at != '\r'))) {
      if (quoted && *at == '"' && *++at != '"')
        break;
      *to++ = *at++;
    }
    char end = *at;
    if (end == '\r' && at[1] == '\n')
      end = *++at;
    if (i < FIELDS - 1 ? end != ',' : end != '\n' && end != '\0')
      return NULL;
    at += end != '\0';
    *to = '\0';
  }
  return at;
}

static bool number_in(const char *text, double *value) {
  char *end;
  *value = strtod(text, &end);
  return end != text && *end == '\0' && isfinite(*value);
}

static bool parse_lines(ebb_margins *m, const char *path, char *at, int64_t lines, ebb_error *err) {
  for (int64_t line = 2; *at; line++) {
    char *f[FIELDS], *next = split_line(at, f);
    ebb_margin *to = &m->items[m->count];
    if (!next || m->count == lines)
      return ebb_fail(err, "%s: line %lld: expected the %d fields " HEAD, path, (long long)line, FIELDS);
    *to = (ebb_margin){f[0], f[1], f[2], f[3], f[4], strcmp(f[5], "1") == 0, 0, 0};
    if ((!to->possible && strcmp(f[5], "0") != 0) || !number_in(f[6], &to->margin) ||
        !number_in(f[7], &to->right))
      return ebb_fail(
          err,
          "%s: line %lld: possible, margin and right are '%.40s', '%.40s', '%.40s': expected 0 or 1 "
          "and two numbers",
          path, (long long)line, f[5], f[6], f[7]);
    m->count++;
    at = next;
  }
  return true;
}

bool ebb_margins_parse(ebb_margins *m, const char *path, char *text, size_t bytes, ebb_error *err) {
  *m = (ebb_margins){.text = text};
  const size_t head = strlen(HEAD);
  int64_t lines = 1;
  for (size_t i = 0; i < bytes; i++)
    lines += text[i] == '\n';
  bool ok = (strlen(text) == bytes && strncmp(text, HEAD, head) == 0 && text[head] == '\n') ||
            ebb_fail(err, "%s: begins with '%.80s': expected the line " HEAD ", as `ebb probe` writes it",
                     path, strtok(text, "\r\n") ? text : "");
  if (ok) {
    m->items = calloc((size_t)lines, sizeof *m->items);
    ok = (m->items || ebb_fail(err, "%s: no memory for %lld lines", path, (long long)lines)) &&
         parse_lines(m, path, text + head + 1, lines, err);
  }
  if (!ok)
    ebb_margins_free(m);
  return ok;
}

bool ebb_margins_read(ebb_margins *m, const char *path, ebb_error *err) {
  char *text;
  size_t bytes;
  *m = (ebb_margins){0};
  return ebb_file_read(path, BYTES_MAX, &text, &bytes, err) && ebb_margins_parse(m, path, text, bytes, err);
}

void ebb_margins_free(ebb_margins *m) {
  free(m->items);
  free(m->text);
  *m = (ebb_margins){0};
}

int64_t ebb_margins_row_end(const ebb_margins *m, int64_t at) {
  int64_t end = at;
  while (end < m->count && strcmp(m->items[end].category, m->items[at].category) == 0 &&
         strcmp(m->items[end].model, m->items[at].model) == 0 &&
         strcmp(m->items[end].feature, m->items[at].feature) == 0)
    end++;
  return end;
}
