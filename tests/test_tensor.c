/* Tensors as values, arenas, and the 16-bit formats: exact. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/arena.h"
#include "kernels/numeric.h"

static void views_share_data(void **state) {
  (void)state;
  float data[2 * 3 * 4];
  ebb_tensor t = EBB_TENSOR(data, EBB_F32, EBB_HOST, "t", 2, 3, 4);
  assert_int_equal(ebb_count(t), 24);
  assert_int_equal(ebb_bytes(t), 96);
  assert_int_equal(ebb_rows(t), 6);
  assert_int_equal(ebb_last(t), 4);
  ebb_tensor flat = EBB_VIEW(t, 6, 4), part = ebb_slice(flat, 2, 3), row = ebb_at(ebb_at(t, 1), 2);
  assert_ptr_equal(flat.data, data);
  assert_ptr_equal(part.data, data + 8);
  assert_true(ebb_same_shape(part, EBB_TENSOR(NULL, EBB_F32, EBB_HOST, "", 3, 4)));
  assert_false(ebb_same_shape(part, flat));
  assert_ptr_equal(row.data, data + 20);
  assert_int_equal(row.rank, 1);
  assert_int_equal(row.shape[0], 4);
  assert_int_equal(row.shape[1], 0);
  assert_string_equal(ebb_named(row, "row").name, "row");
  assert_string_equal(row.name, "t");
}

static void no_tensor_is_empty(void **state) {
  (void)state;
  assert_false(ebb_present(EBB_NO_TENSOR));
  assert_int_equal(ebb_count(EBB_NO_TENSOR), 0);
  assert_int_equal(ebb_bytes(EBB_NO_TENSOR), 0);
  assert_int_equal(ebb_rows(EBB_NO_TENSOR), 0);
  assert_int_equal(ebb_last(EBB_NO_TENSOR), 0);
}

static void shapes_and_dtypes_in_words(void **state) {
  (void)state;
  char text[EBB_SHAPE_TEXT];
  assert_string_equal(ebb_shape_text(3, (const int64_t[]){2, 144, 192}, text), "[2, 144, 192]");
  assert_string_equal(ebb_shape_text(0, NULL, text), "[]");
  int64_t longest[] = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
  assert_true(strlen(ebb_shape_text(5, longest, text)) < EBB_SHAPE_TEXT);
  const char *names[] = {"float32", "float64", "float16", "bfloat16", "int64", "uint8"};
  size_t sizes[] = {4, 8, 2, 2, 8, 1};
  for (int i = 0; i < 6; i++) {
    assert_string_equal(ebb_dtype_name((ebb_dtype)i), names[i]);
    assert_int_equal(ebb_dtype_size((ebb_dtype)i), sizes[i]);
  }
}

/* The same takes, marks and releases on any arena. */
static void use_arena(ebb_arena *a) {
  (void)ebb_arena_take(a, 1);
  (void)ebb_arena_take(a, 1000);
  size_t mark = ebb_arena_mark(a);
  (void)ebb_arena_take(a, 5000);
  ebb_arena_release(a, mark);
  (void)ebb_arena_take(a, 300);
  (void)ebb_arena_take(a, 0);
}

static void a_counting_arena_foretells_the_peak(void **state) {
  (void)state;
  ebb_arena counting = {.name = "counting", .counting = true};
  use_arena(&counting);
  ebb_arena real = {.name = "real", .base = aligned_alloc(EBB_ARENA_ALIGN, 65536), .size = counting.peak};
  use_arena(&real);
  assert_int_equal(real.peak, counting.peak);
  assert_int_equal(real.peak, 6280); /* 1 at 0, 1000 at 256, 5000 at 1280 */
  ebb_arena tight = {.name = "tight", .base = real.base, .size = counting.peak - 1};
  (void)ebb_arena_take(&tight, 1);
  (void)ebb_arena_take(&tight, 1000);
  assert_null(ebb_arena_take(&tight, 5000));
  assert_non_null(ebb_arena_take(&tight, 4999));
  assert_null(ebb_arena_take(&tight, SIZE_MAX - 300));
  free(real.base);
}

static void arena_memory_is_aligned_and_apart(void **state) {
  (void)state;
  ebb_arena a = {.name = "a", .base = aligned_alloc(EBB_ARENA_ALIGN, 4096), .size = 4096};
  char *first = ebb_arena_take(&a, 3), *second = ebb_arena_take(&a, 257), *third = ebb_arena_take(&a, 1);
  assert_int_equal((uintptr_t)first % EBB_ARENA_ALIGN, 0);
  assert_int_equal(second - first, 256);
  assert_int_equal(third - second, 512);
  free(a.base);
  ebb_arena counting = {.name = "counting", .counting = true};
  void *p = ebb_arena_take(&counting, 3), *q = ebb_arena_take(&counting, 3);
  assert_non_null(p);
  assert_ptr_not_equal(p, q);
}

/* What a 16-bit pattern means, by definition: (-1)^s 2^(e-bias) (1 + m/2^bits), subnormals without the 1. */
static double meaning(unsigned h, int exponent_bits, int mantissa_bits) {
  int sign = (h >> 15) & 1, bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  int exponent = (int)(h >> mantissa_bits) & top, mantissa = (int)h & ((1 << mantissa_bits) - 1);
  double magnitude;
  if (exponent == top)
    magnitude = mantissa ? NAN : INFINITY;
  else if (exponent == 0)
    magnitude = ldexp(mantissa, 1 - bias - mantissa_bits);
  else
    magnitude = ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
  return sign ? -magnitude : magnitude;
}

typedef struct format {
  int exponent_bits, mantissa_bits;
  float (*to_float)(uint16_t);
  uint16_t (*of_float)(float);
} format;

static float float_of_f16(uint16_t h) {
  return ebb_float_of_f16(h);
}
static float float_of_bf16(uint16_t h) {
  return ebb_float_of_bf16(h);
}
static uint16_t f16_of_float(float f) {
  return ebb_f16_of_float(f);
}
static uint16_t bf16_of_float(float f) {
  return ebb_bf16_of_float(f);
}
static const format formats[] = {{5, 10, float_of_f16, f16_of_float}, {8, 7, float_of_bf16, bf16_of_float}};

static void every_16_bit_number_goes_there_and_back(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++)
    for (unsigned h = 0; h < 65536; h++) {
      double value = meaning(h, formats[i].exponent_bits, formats[i].mantissa_bits);
      float f = formats[i].to_float((uint16_t)h);
      if (isnan(value)) {
        assert_true(isnan(f));
        assert_true(isnan(formats[i].to_float(formats[i].of_float(f))));
        continue;
      }
      assert_true((double)f == value && !signbit(f) == !signbit(value));
      assert_int_equal(formats[i].of_float(f), h);
    }
}

/* Between two neighbours: below the middle the lower, above it the upper, at the middle the even one. The
 * neighbour above the largest is where the next power of two would be. */
static void rounding_is_to_nearest_even(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    const format *f = &formats[i];
    unsigned infinity = ((1u << f->exponent_bits) - 1) << f->mantissa_bits;
    for (unsigned h = 0; h < infinity; h++) {
      double lower = meaning(h, f->exponent_bits, f->mantissa_bits);
      double upper = h + 1 < infinity ? meaning(h + 1, f->exponent_bits, f->mantissa_bits)
                                      : ldexp(1, 1 << (f->exponent_bits - 1));
      float middle = (float)((lower + upper) / 2);
      unsigned even = h % 2 == 0 ? h : h + 1;
      assert_true((double)middle == (lower + upper) / 2); /* exact in float32 */
      assert_int_equal(f->of_float(middle), even);
      assert_int_equal(f->of_float(nextafterf(middle, 0)), h);
      assert_int_equal(f->of_float(nextafterf(middle, INFINITY)), h + 1);
      assert_int_equal(f->of_float(-middle), even | 0x8000);
    }
    assert_int_equal(f->of_float(INFINITY), infinity);
    assert_int_equal(f->of_float(-INFINITY), infinity | 0x8000);
    assert_int_equal(f->of_float(-0.0f), 0x8000);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(views_share_data),
      cmocka_unit_test(no_tensor_is_empty),
      cmocka_unit_test(shapes_and_dtypes_in_words),
      cmocka_unit_test(a_counting_arena_foretells_the_peak),
      cmocka_unit_test(arena_memory_is_aligned_and_apart),
      cmocka_unit_test(every_16_bit_number_goes_there_and_back),
      cmocka_unit_test(rounding_is_to_nearest_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
