// What every kernel needs: element types, conversions, asynchronous copies, tensor-core instructions, dependent launch.
// PTX instead of the toolkit's headers: a translation unit parses in milliseconds.
//
// The epilogue of a kernel is generated from the graph:
//
//   struct Epilogue {
//       enum Kind { channel, tensor };
//       static constexpr int kOperands = ...;
//       static constexpr __device__ Kind kind(int i);
//       static __device__ float apply(float x, const float* operands);
//   };
//
// For element (row, column) of the output, operand i is f32 [column] when its kind is channel, and lies like the
// output, in its element type, when it is tensor.
#pragma once

namespace planish {

inline __host__ __device__ constexpr int round_up(int x, int to) {
    return (x + to - 1) / to * to;
}

// IEEE half and bfloat16 as they lie in memory; arithmetic is in float.
struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};
/// A byte that stands for a number: 0 to 255 in registers; others are stored as the nearest of these, ties to even.
struct u8 {
    unsigned char bits;
};
/// A float of three fraction bits, up to 448; numbers beyond are stored as that (sm_89 and later).
struct e4m3 {
    unsigned char bits;
};

inline __device__ float to_float(float x) {
    return x;
}
inline __device__ float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
inline __device__ float to_float(bf16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

inline __device__ float to_float(e4m3 x) {
    float y;
    asm("{ .reg .b32 both; .reg .b16 l, h; cvt.rn.f16x2.e4m3x2 both, %1; mov.b32 {l, h}, both; cvt.f32.f16 %0, l; }"
        : "=f"(y)
        : "h"(static_cast<unsigned short>(x.bits)));
    return y;
}

template <typename T>
inline __device__ T from_float(float x);
template <>
inline __device__ float from_float<float>(float x) {
    return x;
}
template <>
inline __device__ f16 from_float<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <>
inline __device__ bf16 from_float<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

template <>
inline __device__ e4m3 from_float<e4m3>(float x) {
    unsigned short y;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(y) : "f"(0.0f), "f"(x));
    return {static_cast<unsigned char>(y)};
}

/// Two values in one register, `low` at the lower address.
template <typename T>
inline __device__ unsigned pack2(float low, float high);
template <>
inline __device__ unsigned pack2<f16>(float low, float high) {
    unsigned y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <>
inline __device__ unsigned pack2<bf16>(float low, float high) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

template <typename T>
inline __device__ void unpack2(unsigned word, float& low, float& high);
template <>
inline __device__ void unpack2<f16>(unsigned word, float& low, float& high) {
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
        : "=f"(low), "=f"(high)
        : "r"(word));
}
template <>
inline __device__ void unpack2<bf16>(unsigned word, float& low, float& high) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
}

/// Four values in one register, the first one at the lowest address.
template <typename T>
inline __device__ unsigned pack4(const float (&from)[4]);
template <>
inline __device__ unsigned pack4<u8>(const float (&from)[4]) {
    unsigned y;
    asm("{ .reg .s32 a, b, c, d; .reg .b32 high;\n"
        "cvt.rni.s32.f32 a, %1; cvt.rni.s32.f32 b, %2; cvt.rni.s32.f32 c, %3; cvt.rni.s32.f32 d, %4;\n"
        "cvt.pack.sat.u8.s32.b32 high, d, c, 0; cvt.pack.sat.u8.s32.b32 %0, b, a, high; }"
        : "=r"(y)
        : "f"(from[0]), "f"(from[1]), "f"(from[2]), "f"(from[3]));
    return y;
}

template <>
inline __device__ unsigned pack4<e4m3>(const float (&from)[4]) {
    unsigned y;
    asm("{ .reg .b16 l, h; cvt.rn.satfinite.e4m3x2.f32 l, %2, %1; cvt.rn.satfinite.e4m3x2.f32 h, %4, %3;\n"
        "mov.b32 %0, {l, h}; }"
        : "=r"(y)
        : "f"(from[0]), "f"(from[1]), "f"(from[2]), "f"(from[3]));
    return y;
}

template <typename T>
inline __device__ void unpack4(unsigned word, float (&to)[4]);
template <>
inline __device__ void unpack4<u8>(unsigned word, float (&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = static_cast<float>(word >> 8 * i & 0xff);
}
template <>
inline __device__ void unpack4<e4m3>(unsigned word, float (&to)[4]) {
    unsigned low, high;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }"
        : "=r"(low), "=r"(high)
        : "r"(word));
    unpack2<f16>(low, to[0], to[1]);
    unpack2<f16>(high, to[2], to[3]);
}

inline __device__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// ---- Asynchronous copies of 16 bytes, past L1 -----------------------------------------------------------------------

/// `exists` false: zeros are written and nothing is read; `from` must be a valid address all the same.
inline __device__ void cp_async_16(unsigned to, const void* from, bool exists = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(exists ? 16 : 0)
                 : "memory");
}
inline __device__ void cp_async_16(void* to, const void* from, bool exists = true) {
    cp_async_16(shared_address(to), from, exists);
}
inline __device__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
inline __device__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- Fragments and products -----------------------------------------------------------------------------------------

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. The rows may as well be
/// four elements of 32 bits: lane l gets element l % 4 of row l / 4.
inline __device__ void ldmatrix_x4(unsigned (&to)[4], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}
inline __device__ void ldmatrix_x4(unsigned (&to)[4], const void* row) {
    ldmatrix_x4(to, shared_address(row));
}
inline __device__ void ldmatrix_x4_trans(unsigned (&to)[4], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}
inline __device__ void ldmatrix_x4_trans(unsigned (&to)[4], const void* row) {
    ldmatrix_x4_trans(to, shared_address(row));
}

/// C[16, 8] += A[16, 16] B[16, 8] with T = f16 or bf16, accumulated in float32.
template <typename T>
inline __device__ void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
inline __device__ void mma_m16n8k16<f16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
inline __device__ void mma_m16n8k16<bf16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// C[16, 8] += A[16, 32] B[32, 8] of bytes, those of A without sign, exact.
inline __device__ void mma_m16n8k32(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// C[16, 8] += A[16, 32] B[32, 8] of e4m3 (sm_89 and later).
inline __device__ void mma_m16n8k32(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// C[16, 8] += A[16, 8] B[8, 8] of float32, whose lowest 13 bits count for nothing: see to_tf32.
inline __device__ void mma_m16n8k8(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// The bits of a float32, rounded to ten fraction bits, ties away from zero.
inline __device__ unsigned to_tf32(unsigned bits) {
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(bits)));
    return bits;
}

// ---- Places, read from their registers once more where they were not worth keeping in others ------------------------

inline __device__ unsigned reread_thread() {
    unsigned x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}
inline __device__ unsigned reread_block() {
    unsigned x;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
    return x;
}

// ---- Between blocks -------------------------------------------------------------------------------------------------

/// What other blocks have written to global memory: past L1.
inline __device__ float4 load_l2(const float4* from) {
    return __ldcg(from);
}
/// The block's memory that the launch asked for, at a multiple of 128.
inline __device__ char* dynamic_shared() {
    extern __shared__ __align__(128) char planish_shared[];
    return planish_shared;
}

// ---- Programmatic dependent launch (sm_90 and later) ----------------------------------------------------------------

/// Until the kernels before this one have finished and their results are visible.
inline __device__ void pdl_wait() {
#ifdef PLANISH_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel's blocks may start as room becomes free.
inline __device__ void pdl_launch() {
#ifdef PLANISH_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace planish
