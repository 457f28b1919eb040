/* Tables in text: CSV as RFC 4180 has it (quoted fields, "" in them, line ends CRLF or LF) and its sister
 * with tabs. The first row names the columns. */
#ifndef EBB_LOADERS_TABLE_H
#define EBB_LOADERS_TABLE_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

#define EBB_TABLE_BYTES_MAX ((size_t)64 << 20)
#define EBB_TABLE_COLUMNS_MAX 256

typedef struct ebb_cell {
  const char *text; /* NUL-terminated, UTF-8; an empty field is "" */
  int line, column; /* where it begins in the file, from 1; the column counts bytes */
} ebb_cell;

typedef struct ebb_table {
  char *path, *text; /* text holds the cells */
  int columns;
  int64_t rows;    /* without the names */
  ebb_cell *cells; /* [1 + rows, columns] */
} ebb_table;

/* path is for messages. separator: ',' or '\t' (the same quoting). A byte order mark and a missing last line
 * end are fine; empty lines are left out. Errors, with line and column: no names, two columns of one name, a
 * row of another length, a quote inside a field or unclosed, text behind a closing quote, a control
 * character outside quotes, bytes that are not UTF-8. */
bool ebb_table_parse(ebb_table *table, const char *path, char separator, const char *text, size_t bytes,
                     ebb_error *err);
/* A file; the separator follows its name: tabs in .tsv, else commas. */
bool ebb_table_read(ebb_table *table, const char *path, ebb_error *err);
void ebb_table_free(ebb_table *table); /* a zeroed table is fine */

int ebb_table_find(const ebb_table *table, const char *name); /* column, -1: not there */
static inline const ebb_cell *ebb_table_cell(const ebb_table *table, int64_t row, int column) {
  return &table->cells[(row + 1) * table->columns + column];
}
static inline const char *ebb_table_text(const ebb_table *table, int64_t row, int column) {
  return column < 0 ? "" : ebb_table_cell(table, row, column)->text;
}
/* The cell as a finite number: errors with line, column and name of the column. */
bool ebb_table_number(const ebb_table *table, int64_t row, int column, double *value, ebb_error *err);

#endif
