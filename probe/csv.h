/* Fields of CSV files. */
#ifndef EBB_PROBE_CSV_H
#define EBB_PROBE_CSV_H

#include <stdio.h>

void ebb_csv_text(FILE *f, const char *text); /* in quotes where it has to be */
/* A comma and the number to so many digits; nothing behind the comma where it is not finite. */
void ebb_csv_number(FILE *f, int digits, double v);

#endif
