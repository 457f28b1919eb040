/* The HDF5 side of PhyWorld, through libhdf5. The file is taken as hostile: no external or soft links, no
 * external or virtual storage, no filter plugins, sizes checked before memory is taken, and
 * everything is read once by a process of its own, since libhdf5 crashes on some damaged files. A build without
 * libhdf5 has the functions; they fail, naming the package. */
#ifndef EBB_LOADERS_PHYWORLD_FILE_H
#define EBB_LOADERS_PHYWORLD_FILE_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ebb_phyworld_piece {
  int64_t number; /* of its name */
  int64_t rows, frames;
  double *init;      /* [rows, 2] */
  double *positions; /* [rows, frames, 2] */
} ebb_phyworld_piece;

typedef struct ebb_phyworld_file {
  int64_t count;
  ebb_phyworld_piece *pieces; /* by number */
} ebb_phyworld_file;

/* All but the videos, whose number is checked, and which are read once and let go. */
bool ebb_phyworld_file_read(ebb_phyworld_file *file, const char *path, ebb_error *err);
void ebb_phyworld_file_free(ebb_phyworld_file *file);

/* The bytes of one video, malloc'ed, of a file that ebb_phyworld_file_read has found sound. */
bool ebb_phyworld_bytes(const char *path, int64_t piece, int64_t row, void **bytes, size_t *count,
                        ebb_error *err);

#endif
