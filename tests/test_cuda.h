/* For tests that need a GPU: skipped, and said so, where there is none. After <cmocka.h>. */
#ifndef EBB_TESTS_TEST_CUDA_H
#define EBB_TESTS_TEST_CUDA_H

#include "kernels/context.h"

static inline bool cuda_is_there(void) {
  ebb_context c;
  ebb_error err = {""};
  bool there = ebb_context_open(&c, "cuda", &err);
  if (there)
    ebb_context_close(&c);
  return there;
}

static inline void skip_without_cuda(void) {
  if (cuda_is_there())
    return;
  print_message("skipped: no CUDA device\n");
  skip();
}

#endif
