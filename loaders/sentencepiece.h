/* SentencePiece behind C: the one place of the tree that is C++ (loaders/sentencepiece.cc), in builds that
 * have the library (EBB_HAVE_SENTENCEPIECE). Private to loaders/tokenizer.c. */
#ifndef EBB_LOADERS_SENTENCEPIECE_H
#define EBB_LOADERS_SENTENCEPIECE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ebb_spm ebb_spm;

/* A model from the bytes of its file; NULL with a message in `why` (of `size` bytes). */
ebb_spm *ebb_spm_open(const void *bytes, size_t count, char *why, size_t size);
void ebb_spm_close(ebb_spm *spm);
int ebb_spm_pieces(const ebb_spm *spm);
/* The number of a piece; -1: there is none (the unknown piece's own name has one). */
int ebb_spm_piece(const ebb_spm *spm, const char *piece);
/* The numbers of the pieces of UTF-8 text, malloc'ed; NULL with a message in `why`. */
int *ebb_spm_encode(const ebb_spm *spm, const char *text, size_t bytes, size_t *count, char *why,
                    size_t size);

#ifdef __cplusplus
}
#endif

#endif
