/* Fields of CSV files. */
#ifndef EBB_PROBE_CSV_H
#define EBB_PROBE_CSV_H

#include <stdio.h>

void ebb_csv_text(FILE *f, const char *text); /* in quotes where it has to be */
/* A comma and the number to so many digits; nothing behind the comma where it is not finite. */
void ebb_csv_number(FILE *f, int digits, double v);
/* As Python's repr (and pandas' to_csv) writes a float: the fewest digits that read back as v, "1.0",
 * "1e-05"; nothing for NaN. No comma. */
void ebb_csv_repr(FILE *f, double v);

#endif
