// Hopper's own instructions (sm_90a) as PTX: barriers in shared memory, the tensor copy engine (TMA), products of
// warpgroups (wgmma), clusters. Section numbers are those of the PTX ISA 8.
//
// Define PLANISH_BOUNDED_WAITS to turn a wait that would never end into a trap.
#pragma once

#include "planish/vector.cuh"

namespace planish {

// ---- Barriers (9.7.13.15 mbarrier) ----------------------------------------------------------------------------------
// A barrier's phase ends when its pending arrivals and its pending bytes are both zero. wait(barrier, parity) returns
// when the phase of that parity has ended: a fresh barrier is in phase 0, so waiting for parity 1 returns at once.
// A waiter may be at most one phase behind or ahead, since it sees the parity alone.

using Barrier = unsigned;  ///< shared-memory address of 8 bytes

inline __device__ void barrier_init(Barrier barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Makes initialised barriers visible to the copy engine and to the cluster; a block or cluster barrier must follow.
inline __device__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
inline __device__ void barrier_arrive(Barrier barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives and adds `bytes` to what the phase still waits for.
inline __device__ void barrier_expect(Barrier barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Arrives at the same barrier of block `rank` of the cluster.
inline __device__ void barrier_arrive_remote(Barrier barrier, unsigned rank) {
    asm volatile(
        "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(barrier),
        "r"(rank)
        : "memory");
}
inline __device__ bool barrier_test(Barrier barrier, unsigned parity) {
    unsigned done;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}
inline __device__ void barrier_wait(Barrier barrier, unsigned parity) {
#ifdef PLANISH_BOUNDED_WAITS
    const long long start = clock64();
    while (!barrier_test(barrier, parity)) {
        if (clock64() - start > 1'000'000'000) asm volatile("trap;");
    }
#else
    while (!barrier_test(barrier, parity)) {
    }
#endif
}

/// Among `threads` threads of the block that name the same `id` (1 to 15).
inline __device__ void named_barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/// This thread is one of those that named_barrier(id, threads) waits for, and goes on.
inline __device__ void named_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Clusters -------------------------------------------------------------------------------------------------------

inline __device__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
/// All threads of the cluster pass wait() when all have arrived, and see what those wrote to shared memory before.
inline __device__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
inline __device__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// Four words to `address` (of this block's shared memory) as it lies in block `rank`, whose `barrier` gets the bytes.
template <typename T>
inline __device__ void send(unsigned address, Barrier barrier, unsigned rank, const T* from) {
    asm volatile(
        "{ .reg .b32 to, at; mapa.shared::cluster.u32 to, %0, %2; mapa.shared::cluster.u32 at, %1, %2;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [to], {%3, %4, %5, %6}, [at]; }" ::"r"(address),
        "r"(barrier), "r"(rank), "r"(bits_as<unsigned>(from[0])), "r"(bits_as<unsigned>(from[1])),
        "r"(bits_as<unsigned>(from[2])), "r"(bits_as<unsigned>(from[3]))
        : "memory");
}
inline __device__ float4 load_shared(unsigned address) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

// ---- Tensor copies (9.7.9.27 cp.async.bulk.tensor) ------------------------------------------------------------------
// Coordinates are innermost first. Elements outside the tensor arrive as zeros, count as bytes all the same, and are
// not stored. With the 128-byte swizzle the 16-byte unit u of row r of a box lies at unit u ^ (r % 8): the address is
// swizzled, so a box must start at a multiple of 1024 bytes. With rows and swizzles of 64 and 32 bytes, likewise, it is
// unit u ^ (r / 2 % 4) and u ^ (r / 4 % 2).

template <int kBytes>
inline __device__ unsigned swizzled(unsigned offset) {
    static_assert(kBytes == 128 || kBytes == 64 || kBytes == 32);
    return offset ^ ((offset >> 3) & (kBytes == 128 ? 0x70u : kBytes == 64 ? 0x30u : 0x10u));
}

inline __device__ void prefetch_map(const void* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
inline __device__ void copy_tile(unsigned to, const void* map, Barrier barrier, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(x), "r"(y)
        : "memory");
}
inline __device__ void copy_tile(unsigned to, const void* map, Barrier barrier, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
        : "memory");
}
inline __device__ void copy_tile(unsigned to, const void* map, Barrier barrier, int x, int y, int z, int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}
/// To the same offset in every block of the cluster whose bit is set in `blocks`; each one's own barrier, at the same
/// offset as `barrier`, gets the bytes.
inline __device__ void copy_tile_multicast(unsigned to, const void* map, Barrier barrier, unsigned blocks, int x,
                                           int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%4, %5}], [%2], %3;" ::"r"(to),
        "l"(map), "r"(barrier), "h"(static_cast<unsigned short>(blocks)), "r"(x), "r"(y)
        : "memory");
}
inline __device__ void copy_tile_multicast(unsigned to, const void* map, Barrier barrier, unsigned blocks, int x, int y,
                                           int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%4, %5, %6}], [%2], %3;" ::"r"(to),
        "l"(map), "r"(barrier), "h"(static_cast<unsigned short>(blocks)), "r"(x), "r"(y), "r"(z)
        : "memory");
}

/// A place in an NHWC image as an im2col map sees it (5.5.4): w and h are those of a filter's corner, within the map's
/// bounding box; a copy takes as many pixels as the map says, w fastest, stepping by the map's element strides and from
/// the end of the box to its start in the next row or image. The filter's tap is added to each pixel.
struct Pixel {
    int w, h, n;
};
inline __device__ void copy_im2col(unsigned to, const void* map, Barrier barrier, int c, Pixel at, int tap_w,
                                   int tap_h) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6}], [%2], {%7, %8};" ::"r"(to),
        "l"(map), "r"(barrier), "r"(c), "r"(at.w), "r"(at.h), "r"(at.n), "h"(static_cast<short>(tap_w)),
        "h"(static_cast<short>(tap_h))
        : "memory");
}

/// From shared memory. Ordinary stores to it must be followed by async_fence() in the threads that made them and a
/// barrier. Completion is that of the issuing thread's bulk groups.
inline __device__ void store_tile(const void* map, unsigned from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(from), "r"(x), "r"(y)
                 : "memory");
}
inline __device__ void store_tile(const void* map, unsigned from, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(from), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}
inline __device__ void store_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Until at most kPending of this thread's groups still read shared memory.
template <int kPending>
inline __device__ void store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
/// Orders this thread's ordinary accesses to shared memory before those of the copy engine and the tensor cores.
inline __device__ void async_fence() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Four 8x8 matrices of 16-bit elements, as ldmatrix_x4 has them.
inline __device__ void stmatrix_x4(unsigned address, const unsigned (&from)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(from[0]),
                 "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
}

// ---- Products of a warpgroup (9.7.15 wgmma) -------------------------------------------------------------------------

/// Orders register and shared-memory accesses before the products that follow.
inline __device__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
inline __device__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
inline __device__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Describes rows of 128 bytes, K innermost, as copied with the 128-byte swizzle: bits 0-13 address / 16, 32-45
/// distance / 16 of groups of eight rows (1024 bytes), 62-63 the swizzle (1: 128 bytes). The leading dimension's
/// distance (16-29) is not used by swizzled K-major operands. A product takes 32 bytes along K: the next one adds 2.
inline __device__ unsigned long long wgmma_operand(unsigned address) {
    return static_cast<unsigned long long>((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

/// Each warp of a warpgroup gives up registers, or waits for registers that others gave up; the kernel must have been
/// compiled for a known number of blocks on a multiprocessor.
template <int kRegisters>
inline __device__ void registers_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
inline __device__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// How the instruction for factors T is spelled behind its number of columns and behind its operands.
template <typename T>
struct WgmmaForm;
template <>
struct WgmmaForm<f16> {
    using Sum = float;
    static constexpr char types[] = "k16.f32.f16.f16", rest[] = ", 1, 1, 0, 0";
};
template <>
struct WgmmaForm<bf16> {
    using Sum = float;
    static constexpr char types[] = "k16.f32.bf16.bf16", rest[] = ", 1, 1, 0, 0";
};
/// Hopper adds such products with fewer bits than float32 has: about 14.
template <>
struct WgmmaForm<e4m3> {
    using Sum = float;
    static constexpr char types[] = "k32.f32.e4m3.e4m3", rest[] = ", 1, 1";
};
/// Bytes of A have no sign, those of B have one; sums are exact.
template <>
struct WgmmaForm<u8> {
    using Sum = int;
    static constexpr char types[] = "k32.s32.u8.s8", rest[] = "";
};

/// d[64, N] = a[64, K] b[N, K]^T (+ d), K of 32 bytes. Warp w of the group has rows 16w + l / 4 (elements 4j and 4j +
/// 1) and 16w + l / 4 + 8 (4j + 2 and 4j + 3) of columns 8j + 2 (l % 4) and the next, l the lane.
template <typename T, int N>
struct Wgmma;

// clang-format off
#define PLANISH_8(c, i) \
    c(d[i]), c(d[(i) + 1]), c(d[(i) + 2]), c(d[(i) + 3]), c(d[(i) + 4]), c(d[(i) + 5]), c(d[(i) + 6]), c(d[(i) + 7])
#define PLANISH_16(c, i) PLANISH_8(c, i), PLANISH_8(c, (i) + 8)
#define PLANISH_32(c, i) PLANISH_16(c, i), PLANISH_16(c, (i) + 16)
// A thread's sums of an instruction for N columns, as it names them and as operands. Other kernels' products use these, too.
#define PLANISH_NAMES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PLANISH_NAMES_64 \
    PLANISH_NAMES_32 ", " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PLANISH_NAMES_96 \
    PLANISH_NAMES_64 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define PLANISH_NAMES_128 \
    PLANISH_NAMES_96 ", " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PLANISH_NAMES_192 \
    PLANISH_NAMES_128 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" ", " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define PLANISH_NAMES_256 \
    PLANISH_NAMES_192 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" ", " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define PLANISH_SUMS_32(c) PLANISH_16(c, 0)
#define PLANISH_SUMS_64(c) PLANISH_32(c, 0)
#define PLANISH_SUMS_96(c) PLANISH_SUMS_64(c), PLANISH_16(c, 32)
#define PLANISH_SUMS_128(c) PLANISH_SUMS_64(c), PLANISH_32(c, 32)
#define PLANISH_SUMS_192(c) PLANISH_SUMS_128(c), PLANISH_32(c, 64)
#define PLANISH_SUMS_256(c) PLANISH_SUMS_192(c), PLANISH_32(c, 96)
// The instruction: its other operands come behind the sums.
#define PLANISH_MULTIPLY(N, constraint, a_, b_, add_, types_, rest_)                                              \
    asm volatile(                                                                                                 \
        "{ .reg .pred p; setp.ne.b32 p, " add_ ", 0;\n"                                                           \
        "wgmma.mma_async.sync.aligned.m64n" #N types_ " {" PLANISH_NAMES_##N "}, " a_ ", " b_ ", p" rest_ "; }"   \
        : PLANISH_SUMS_##N(constraint)                                                                            \
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "C"(WgmmaForm<T>::types), "C"(WgmmaForm<T>::rest))
#define PLANISH_PRODUCT(N, ...)                                                                                   \
    template <typename T>                                                                                         \
    struct Wgmma<T, N> {                                                                                          \
        using Sum = typename WgmmaForm<T>::Sum;                                                                   \
        static __device__ void multiply(Sum(&d)[N / 2], unsigned long long a, unsigned long long b, bool add) {   \
            if constexpr (static_cast<Sum>(0.5f) == 0)                                                            \
                PLANISH_MULTIPLY(N, "+r", __VA_ARGS__);                                                           \
            else                                                                                                  \
                PLANISH_MULTIPLY(N, "+f", __VA_ARGS__);                                                           \
        }                                                                                                         \
    }
PLANISH_PRODUCT(32, "%16", "%17", "%18", "%19", "%20");
PLANISH_PRODUCT(64, "%32", "%33", "%34", "%35", "%36");
PLANISH_PRODUCT(96, "%48", "%49", "%50", "%51", "%52");
PLANISH_PRODUCT(128, "%64", "%65", "%66", "%67", "%68");
PLANISH_PRODUCT(192, "%96", "%97", "%98", "%99", "%100");
PLANISH_PRODUCT(256, "%128", "%129", "%130", "%131", "%132");
// clang-format on
#undef PLANISH_MULTIPLY
#undef PLANISH_PRODUCT

}  // namespace planish
