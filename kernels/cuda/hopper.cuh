/* What sm_90a has and older GPUs lack: barriers in shared memory that count bytes, the copy engine for
 * tensors (TMA), products of a warpgroup (wgmma), registers that move between warpgroups. Thin functions
 * over PTX; the words are those of its manual. Private to kernels/cuda/. */
#ifndef EBB_KERNELS_CUDA_HOPPER_CUH
#define EBB_KERNELS_CUDA_HOPPER_CUH

#include <cuda.h>
#include <stdint.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#endif

#define WARPGROUP 128 /* threads: four warps, a quarter of the rows each */

/* ---- barriers ---------------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* An mbarrier at shared address `bar` passes a phase when `count` arrivals and all bytes expected are there.
 */
static __device__ __forceinline__ void barrier_init(uint32_t bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(bar), "r"(count) : "memory");
}
static __device__ __forceinline__ void barrier_inits_done(void) {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
static __device__ __forceinline__ void barrier_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(bar) : "memory");
}
static __device__ __forceinline__ void barrier_expect(uint32_t bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(bar), "r"(bytes) : "memory");
}
/* Until the phase of that parity is over: the first is 0; parity 1 of a fresh barrier is over at once. */
static __device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity) {
  asm volatile("{\n"
               ".reg .pred done;\n"
               "again:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@!done bra again;\n"
               "}\n" ::"r"(bar),
               "r"(parity)
               : "memory");
}

/* The same for two barriers; the second one's delay is hidden behind the first one's. */
static __device__ __forceinline__ void barrier_wait_both(uint32_t a, uint32_t parity_a, uint32_t b,
                                                         uint32_t parity_b) {
  asm volatile("{\n"
               ".reg .pred done_a, done_b;\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done_a, [%0], %1;\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done_b, [%2], %3;\n"
               "@done_a bra first;\n"
               "again_a:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done_a, [%0], %1;\n"
               "@!done_a bra again_a;\n"
               "first:\n"
               "@done_b bra second;\n"
               "again_b:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done_b, [%2], %3;\n"
               "@!done_b bra again_b;\n"
               "second:\n"
               "}\n" ::"r"(a),
               "r"(parity_a), "r"(b), "r"(parity_b)
               : "memory");
}

/* The sixteen barriers of a block that count threads; 0 is __syncthreads's. */
static __device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
static __device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/* ---- the copy engine --------------------------------------------------------------------------------- */

/* A box of a 4-d tensor into shared memory at `to` (1,024-byte aligned); its bytes count on `bar`. What lies
 * outside the tensor becomes 0. */
static __device__ __forceinline__ void copy_box_in(uint32_t to, const CUtensorMap *map, uint32_t bar, int x0,
                                                   int x1, int x2, int x3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], [%2];\n" ::"r"(to),
      "l"(map), "r"(bar), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
      : "memory");
}
/* The way back; what lies outside the tensor is dropped. */
static __device__ __forceinline__ void copy_box_out(const CUtensorMap *map, uint32_t from, int x0, int x1,
                                                    int x2, int x3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];\n"
               "cp.async.bulk.commit_group;\n" ::"l"(map),
               "r"(from), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
               : "memory");
}
/* Until this thread's boxes on the way out have been read, and their shared memory is free again. */
static __device__ __forceinline__ void copies_out_read(void) {
  asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}
/* Until they have been written. */
static __device__ __forceinline__ void copies_out_done(void) {
  asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory");
}
/* Shared memory written so far will be seen by the copy engine and by wgmma. */
static __device__ __forceinline__ void fence_async(void) {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
/* ---- products of a warpgroup ------------------------------------------------------------------------- */

/* Where an operand lies, rows of 128 bytes swizzled as the copy engine does it, eight rows after eight rows
 * (1,024 bytes). `chunk`: bytes from one column of such rows to the next, which only operands with several
 * columns side by side in the direction of N want ("leading byte offset" of the transposed ones). */
static __device__ __forceinline__ uint64_t operand(uint32_t address, uint32_t chunk) {
  return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(chunk >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
         (uint64_t)1 << 62;
}
/* The same operand `bytes` further. */
static __device__ __forceinline__ uint64_t advanced(uint64_t operand, uint32_t bytes) {
  return operand + (bytes >> 4);
}

/* Registers written so far may be used by the products that follow. */
static __device__ __forceinline__ void products_fence(void) {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
static __device__ __forceinline__ void products_commit(void) {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
/* Keeps the compiler from moving what touches these registers across. */
template <int N> static __device__ __forceinline__ void pin(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++)
    asm volatile("" : "+f"(x[i])::"memory");
}
template <int N> static __device__ __forceinline__ void pin(uint32_t (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++)
    asm volatile("" : "+r"(x[i])::"memory");
}
/* Until all but the last LEFT groups of products are done: then d is complete. */
template <int LEFT, int N> static __device__ __forceinline__ void products_wait(float (&d)[N]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(LEFT) : "memory");
  pin(d);
}

/* The accumulators of the products below, as PTX lists them and as the compiler binds them. */
#define LIST_32                                                                                              \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                   \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LIST_64                                                                                              \
  LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "               \
          "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define BIND_8(i)                                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),                \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define BIND_32(i) BIND_8(i), BIND_8(i + 8), BIND_8(i + 16), BIND_8(i + 24)

/* d [64,128] (+)= a [64,16] b [16,128], a and b as operands whose rows run along the sum. With g = lane/4, t =
 * lane%4, warp w of the warpgroup: d[4j], d[4j+1] are row 16w + g, columns 8j + 2t and the next; d[4j+2],
 * d[4j+3] row 16w + g + 8. */
static __device__ __forceinline__ void product(float (&d)[64], uint64_t a, uint64_t b, int add) {
  asm volatile("{\n"
               ".reg .pred add;\n"
               "setp.ne.b32 add, %66, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" LIST_64
               "}, %64, %65, add, 1, 1, 0, 0;\n"
               "}\n"
               : BIND_32(0), BIND_32(32)
               : "l"(a), "l"(b), "r"(add));
}
/* The same with a from registers, in pairs the places that two neighbouring j of d have, and b's rows across the
 * sum. */
static __device__ __forceinline__ void product(float (&d)[64], const uint32_t *a, uint64_t b, int add) {
  asm volatile("{\n"
               ".reg .pred add;\n"
               "setp.ne.b32 add, %69, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" LIST_64
               "}, {%64, %65, %66, %67}, %68, "
               "add, 1, 1, 1;\n"
               "}\n"
               : BIND_32(0), BIND_32(32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
/* d [64,64] (+)= a [64,16] b [16,64], likewise. */
static __device__ __forceinline__ void product(float (&d)[32], const uint32_t *a, uint64_t b, int add) {
  asm volatile("{\n"
               ".reg .pred add;\n"
               "setp.ne.b32 add, %37, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" LIST_32
               "}, {%32, %33, %34, %35}, %36, "
               "add, 1, 1, 1;\n"
               "}\n"
               : BIND_32(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

#undef LIST_32
#undef LIST_64
#undef BIND_8
#undef BIND_32

/* ---- registers --------------------------------------------------------------------------------------- */

/* All warps of a warpgroup together: from here on each of its threads has N registers. */
template <int N> static __device__ __forceinline__ void registers_up(void) {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void registers_down(void) {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));
}

/* Four 8x8 matrices of bfloat16 to shared memory; lanes 8i .. 8i+7 give the addresses of the rows of matrix
 * i. */
static __device__ __forceinline__ void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c,
                                                      uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

#endif
