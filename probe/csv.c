#include "probe/csv.h"

#include <math.h>
#include <stdlib.h>
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

/* Digits and exponent of v >= 0: v = 0.d1d2... x 10^(*point), as few digits as read back as v. */
static int shortest(double v, char digits[32], int *point) {
  char text[40];
  int precision = 0;
  do
    snprintf(text, sizeof text, "%.*e", precision, v);
  while (strtod(text, NULL) != v && ++precision < 17);
  int count = 0;
  for (const char *p = text; *p != 'e'; p++)
    if (*p != '.')
      digits[count++] = *p;
  *point = atoi(strchr(text, 'e') + 1) + 1;
  while (count > 1 && digits[count - 1] == '0')
    count--;
  digits[count] = '\0';
  return count;
}

void ebb_csv_repr(FILE *f, double v) {
  char digits[32];
  int point;
  if (isnan(v))
    return;
  if (signbit(v))
    fputc('-', f);
  v = fabs(v);
  if (isinf(v)) {
    fputs("inf", f);
    return;
  }
  int count = shortest(v, digits, &point);
  if (v != 0 && (point - 1 < -4 || point - 1 >= 16)) { /* 1.5e-07, 1e+16 */
    fprintf(f, "%c%s%se%+03d", digits[0], count > 1 ? "." : "", digits + 1, point - 1);
    return;
  }
  if (point <= 0) {
    fputs("0.", f);
    for (int i = point; i < 0; i++)
      fputc('0', f);
    fputs(digits, f);
    return;
  }
  for (int i = 0; i < point; i++)
    fputc(i < count ? digits[i] : '0', f);
  fprintf(f, ".%s", count > point ? digits + point : "0");
}
