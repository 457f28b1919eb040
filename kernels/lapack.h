/* LAPACK as OpenBLAS has it: column-major, every argument by reference, and last, where Fortran hides them,
 * the lengths of the characters. A symmetric matrix reads the same in either order; "L" by columns is the
 * upper triangle by rows. */
#ifndef EBB_KERNELS_LAPACK_H
#define EBB_KERNELS_LAPACK_H

#include <stddef.h>

/* a = l l' or u' u; *info > 0: not positive definite. */
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info, size_t uplo_length);
/* Solves a x = b from the factor of dpotrf_; b [ldb,nrhs] becomes x. */
void dpotrs_(const char *uplo, const int *n, const int *nrhs, const double *a, const int *lda, double *b,
             const int *ldb, int *info, size_t uplo_length);
/* The inverse from the factor of dpotrf_, in the same triangle. */
void dpotri_(const char *uplo, const int *n, double *a, const int *lda, int *info, size_t uplo_length);
/* Eigenvalues w ascending and, for jobz "V", eigenvectors in the columns of a. lwork = liwork = -1 asks for
 * the sizes, which come back in work[0] and iwork[0]. */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info, size_t jobz_length,
             size_t uplo_length);

#endif
