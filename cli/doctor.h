/* `ebb doctor`: what this build is and what it found. */
#ifndef EBB_CLI_DOCTOR_H
#define EBB_CLI_DOCTOR_H

#include <stdio.h>

/* Prints version, commit, compiler, backends, required and optional libraries. Returns the exit code: 0, or 1
 * when `out` could not be written. */
int ebb_doctor(FILE *out);

#endif
