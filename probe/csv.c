#include "probe/csv.h"

#include <math.h>
#include <string.h>

void ebb_csv_text(FILE *f, const char *text) {
  if (!strpbrk(text, ",\"\r\n")) {
    fputs(text, f);
    return;
  }
  fputc('"', f);
  for (; *text; text++) {
    if (*text == '"')
      fputc('"', f);
    fputc(*text, f);
  }
  fputc('"', f);
}

void ebb_csv_number(FILE *f, int digits, double v) {
  if (isfinite(v))
    fprintf(f, ",%.*g", digits, v);
  else
    fputc(',', f);
}
