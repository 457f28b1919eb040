#include "loaders/table.h"

#include "loaders/file.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Reads fields out of text[at..bytes) and writes them, unquoted and NUL-terminated, over the same memory:
 * a field never grows, and what ends it leaves room for its NUL. */
typedef struct reader {
  ebb_table *table;
  char separator;
  size_t at, bytes, to;
  int line;
  size_t line_start; /* offset of the line's first byte */
  int64_t cells, capacity;
  ebb_error *err;
} reader;

static int column_at(const reader *r, size_t at) {
  return at - r->line_start < INT32_MAX ? (int)(at - r->line_start) + 1 : INT32_MAX;
}

static bool is_end(const reader *r, size_t at) {
  const char *t = r->table->text;
  return at == r->bytes || t[at] == r->separator || t[at] == '\n' ||
         (t[at] == '\r' && at + 1 < r->bytes && t[at + 1] == '\n');
}

static bool read_quoted(reader *r, int line, int column) {
  char *t = r->table->text;
  for (r->at++;; r->at++) {
    if (r->at == r->bytes)
      return ebb_fail(r->err, "%s:%d:%d: the quote that opens here is never closed", r->table->path, line,
                      column);
    if (t[r->at] == '"' && (r->at + 1 == r->bytes || t[r->at + 1] != '"'))
      break;
    if (t[r->at] == '\0')
      return ebb_fail(r->err, "%s:%d:%d: a NUL byte in text", r->table->path, r->line, column_at(r, r->at));
    if (t[r->at] == '\n') {
      r->line++;
      r->line_start = r->at + 1;
    }
    r->at += t[r->at] == '"'; /* of two quotes the second is kept */
    t[r->to++] = t[r->at];
  }
  r->at++;
  return is_end(r, r->at) ||
         ebb_fail(r->err, "%s:%d:%d: text behind the closing quote, expected '%s' or the end of the line",
                  r->table->path, r->line, column_at(r, r->at), r->separator == '\t' ? "\\t" : ",");
}

static bool read_plain(reader *r) {
  char *t = r->table->text;
  for (; !is_end(r, r->at); r->at++) {
    unsigned char c = (unsigned char)t[r->at];
    if (c == '"')
      return ebb_fail(r->err,
                      "%s:%d:%d: a quote inside a field, expected the whole field in quotes and \"\" for it",
                      r->table->path, r->line, column_at(r, r->at));
    if ((c < ' ' && c != '\t') || c == 127)
      return ebb_fail(r->err, "%s:%d:%d: control character %d, expected text", r->table->path, r->line,
                      column_at(r, r->at), c);
    t[r->to++] = (char)c;
  }
  return true;
}

static bool read_field(reader *r) {
  ebb_table *table = r->table;
  if (r->cells == r->capacity) {
    r->capacity = r->capacity > 0 ? 2 * r->capacity : 256; /* at most one cell a byte: no overflow */
    ebb_cell *cells = realloc(table->cells, (size_t)r->capacity * sizeof *cells);
    if (cells == NULL)
      return ebb_fail(r->err, "%s: no memory for %lld fields", table->path, (long long)r->capacity);
    table->cells = cells;
  }
  const size_t start = r->to;
  const int line = r->line, column = column_at(r, r->at);
  if (!(r->at < r->bytes && table->text[r->at] == '"' ? read_quoted(r, line, column) : read_plain(r)))
    return false;
  table->cells[r->cells++] = (ebb_cell){table->text + start, line, column};
  return true;
}

/* One line of fields. r->to never overtakes r->at, so the NULs go where a separator or line end was. */
static bool read_row(reader *r) {
  ebb_table *table = r->table;
  const int64_t first = r->cells;
  const int line = r->line;
  for (;;) {
    if (first == 0 && r->cells == EBB_TABLE_COLUMNS_MAX)
      return ebb_fail(r->err, "%s:%d: more than %d columns", table->path, line, EBB_TABLE_COLUMNS_MAX);
    if (!read_field(r))
      return false;
    bool more = r->at < r->bytes && table->text[r->at] == r->separator;
    if (more)
      r->at++;
    else if (r->at < r->bytes) { /* a line end */
      r->at += table->text[r->at] == '\r' ? 2 : 1;
      r->line++;
      r->line_start = r->at;
    }
    table->text[r->to++] = '\0';
    if (!more)
      break;
  }
  const int64_t fields = r->cells - first;
  if (first == 0)
    table->columns = (int)fields;
  else if (fields != table->columns)
    return ebb_fail(r->err, "%s:%d: %lld fields, but the first line names %d columns", table->path, line,
                    (long long)fields, table->columns);
  return true;
}

static bool is_utf8(const char *text, size_t bytes) {
  json_t *string = json_stringn(text, bytes);
  json_decref(string);
  return string != NULL;
}

static bool check_cells(const ebb_table *t, int64_t cells, bool utf8, ebb_error *err) {
  for (int64_t i = 0; !utf8 && i < cells; i++)
    if (!is_utf8(t->cells[i].text, strlen(t->cells[i].text)))
      return ebb_fail(err, "%s:%d:%d: not UTF-8", t->path, t->cells[i].line, t->cells[i].column);
  for (int i = 0; i < t->columns; i++) {
    const ebb_cell *c = &t->cells[i];
    if (c->text[0] == '\0')
      return ebb_fail(err, "%s:%d:%d: column %d has no name", t->path, c->line, c->column, i + 1);
    if (ebb_table_find(t, c->text) != i)
      return ebb_fail(err, "%s:%d:%d: two columns are named \"%.80s\"", t->path, c->line, c->column, c->text);
  }
  return true;
}

bool ebb_table_parse(ebb_table *table, const char *path, char separator, const char *text, size_t bytes,
                     ebb_error *err) {
  *table = (ebb_table){0};
  if (bytes > EBB_TABLE_BYTES_MAX)
    return ebb_fail(err, "%s: %zu bytes, at most %zu are accepted", path, bytes, EBB_TABLE_BYTES_MAX);
  if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
    text += 3;
    bytes -= 3;
  }
  table->path = ebb_format("%s", path);
  table->text = malloc(bytes + 2);
  if (table->text == NULL)
    return ebb_fail(err, "%s: no memory for %zu bytes", path, bytes);
  memcpy(table->text, text, bytes);
  table->text[bytes] = '\n'; /* room for the last NUL; not read */
  reader r = {.table = table, .separator = separator, .bytes = bytes, .line = 1, .err = err};
  const bool utf8 = is_utf8(text, bytes);
  bool ok = true;
  while (ok && r.at < bytes) {
    size_t end = r.at + (table->text[r.at] == '\r' && r.at + 1 < bytes);
    if (table->text[end] == '\n') { /* an empty line */
      r.at = end + 1;
      r.line++;
      r.line_start = r.at;
      continue;
    }
    ok = read_row(&r);
  }
  if (ok && r.cells == 0)
    ok =
        ebb_fail(err, "%s: no table: the file is empty, expected a line with the names of the columns", path);
  ok = ok && check_cells(table, r.cells, utf8, err);
  if (!ok) {
    ebb_table_free(table);
    return false;
  }
  table->rows = r.cells / table->columns - 1;
  return true;
}

bool ebb_table_read(ebb_table *table, const char *path, ebb_error *err) {
  *table = (ebb_table){0};
  char *text;
  size_t bytes, n = strlen(path);
  if (!ebb_file_read(path, EBB_TABLE_BYTES_MAX, &text, &bytes, err))
    return false;
  const char *disguise = ebb_file_disguise(text, bytes);
  bool ok = disguise == NULL || ebb_fail(err, "%s: not a table: this is %s", path, disguise);
  ok = ok && ebb_table_parse(table, path, n > 4 && strcasecmp(path + n - 4, ".tsv") == 0 ? '\t' : ',', text,
                             bytes, err);
  free(text);
  return ok;
}

void ebb_table_free(ebb_table *table) {
  free(table->path);
  free(table->text);
  free(table->cells);
  *table = (ebb_table){0};
}

int ebb_table_find(const ebb_table *table, const char *name) {
  for (int i = 0; i < table->columns; i++)
    if (strcmp(table->cells[i].text, name) == 0)
      return i;
  return -1;
}

bool ebb_table_number(const ebb_table *table, int64_t row, int column, double *value, ebb_error *err) {
  const ebb_cell *cell = ebb_table_cell(table, row, column);
  char *end;
  *value = strtod(cell->text, &end);
  if (end == cell->text || *end != '\0' || !isfinite(*value))
    return ebb_fail(err, "%s:%d:%d: %s is \"%.80s\", expected a number", table->path, cell->line,
                    cell->column, ebb_table_text(table, -1, column), cell->text);
  return true;
}
