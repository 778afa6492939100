// What emulated kernels use of src/backends/cuda/kernels/common.cuh, without PTX.
#pragma once

namespace planish {

inline constexpr int round_up(int x, int to) {
    return (x + to - 1) / to * to;
}

struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};
struct u8 {
    unsigned char bits;
};
struct e4m3 {
    unsigned char bits;
};

inline float to_float(f16 x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    const float sign = x.bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                 : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25));
}
inline float to_float(bf16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

/// Exponents from 2^-6 on, below it steps of 2^-9; all ones but the sign are NaN.
inline float to_float(e4m3 x) {
    const int exponent = x.bits >> 3 & 15, fraction = x.bits & 7;
    const float sign = x.bits & 0x80 ? -1.0f : 1.0f;
    if ((x.bits & 0x7f) == 0x7f) return NAN;
    return sign * (exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                 : std::ldexp(static_cast<float>(8 + fraction), exponent - 10));
}

template <typename T>
T from_float(float x);
/// To nearest, ties to even: in steps of 2^(exponent - 10), at least 2^-24; 65520 and more is infinite.
template <>
inline f16 from_float<f16>(float x) {
    const auto sign = static_cast<unsigned short>(__float_as_uint(x) >> 16 & 0x8000);
    const float a = std::fabs(x);
    if (a != a) return {static_cast<unsigned short>(sign | 0x7e00)};
    if (a >= 65520.0f) return {static_cast<unsigned short>(sign | 0x7c00)};
    int exponent = -14;
    if (a >= 0x1p-14f) exponent = std::ilogb(a);
    const auto steps = static_cast<unsigned>(std::nearbyint(std::ldexp(a, 10 - exponent)));  // 1024: 2^exponent
    return {static_cast<unsigned short>(sign | (static_cast<unsigned>(exponent + 14) * 1024 + steps))};
}
template <>
inline e4m3 from_float<e4m3>(float x) {
    const auto sign = static_cast<unsigned char>(__float_as_uint(x) >> 24 & 0x80);
    if (x != x) return {0x7f};
    const float a = std::fmin(std::fabs(x), 448.0f);
    int exponent = -6;
    if (a >= 0x1p-6f) exponent = std::ilogb(a);
    const auto steps = static_cast<unsigned>(std::nearbyint(std::ldexp(a, 3 - exponent)));  // 8: 2^exponent
    return {static_cast<unsigned char>(sign | (static_cast<unsigned>(exponent + 6) * 8 + steps))};
}
template <>
inline bf16 from_float<bf16>(float x) {
    const unsigned bits = __float_as_uint(x);
    if (x != x) return {static_cast<unsigned short>(bits >> 16 | 64)};
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <typename T>
unsigned pack2(float low, float high) {
    return from_float<T>(low).bits | static_cast<unsigned>(from_float<T>(high).bits) << 16;
}

inline char* dynamic_shared() {
    return emulation::dynamic_memory;
}
inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(static_cast<const char*>(pointer) - emulation::dynamic_memory);
}
inline unsigned reread_thread() {
    return threadIdx.x;
}
inline unsigned reread_block() {
    return blockIdx.x;
}
inline float4 load_l2(const float4* from) {
    return *from;
}

// ---- Asynchronous copies ----

inline void cp_async_16(unsigned to, const void* from, bool exists = true) {
    if (to % 16 != 0 || to + 16 > emulation::kDynamicBytes || (exists && reinterpret_cast<uintptr_t>(from) % 16 != 0)) {
        std::fprintf(stderr, "a copy of 16 bytes from %p to %u is not aligned\n", from, to);
        std::abort();
    }
    emulation::copies[emulation::current].back().push_back({to, from, exists});
}
inline void cp_async_commit() {
    emulation::copies[emulation::current].emplace_back();
}
template <int kPending>
void cp_async_wait() {
    emulation::finish_copies(kPending);
}

// ---- Fragments (PTX ISA, "Warp-level matrix instructions") ----
// With g = lane / 4 and t = lane % 4: of an 8x8 matrix of pairs of 16 bits, or of an 8x4 one of words, a lane has word
// t of row g. A is four such matrices, rows first; B is two, with columns for rows; C[g, 2t], C[g, 2t + 1] and those
// eight rows further are sums.

inline unsigned lane_of_warp() {
    return emulation::current % 32;
}
inline unsigned shared_word(unsigned address) {
    unsigned word;
    std::memcpy(&word, emulation::dynamic_memory + address, 4);
    return word;
}
/// Rows of a matrix that share banks would be read one after the other.
inline void check_banks(const emulation::Lanes<unsigned>& rows) {
    for (unsigned m = 0; m < 4; ++m) {
        unsigned banks = 0;
        for (unsigned i = 0; i < 8; ++i) banks |= 1u << rows[8 * m + i] / 16 % 8;
        if (banks == 0xff) continue;
        std::fprintf(stderr, "rows of a fragment share banks\n");
        std::abort();
    }
}
inline void ldmatrix_x4(unsigned (&to)[4], unsigned row) {
    const emulation::Lanes<unsigned> rows(row);
    check_banks(rows);
    for (unsigned m = 0; m < 4; ++m) to[m] = shared_word(rows[8 * m + lane_of_warp() / 4] + lane_of_warp() % 4 * 4);
}
inline void ldmatrix_x4_trans(unsigned (&to)[4], unsigned row) {
    const emulation::Lanes<unsigned> rows(row);
    check_banks(rows);
    const unsigned g = lane_of_warp() / 4, t = lane_of_warp() % 4;
    for (unsigned m = 0; m < 4; ++m) {
        unsigned short pair[2];
        for (unsigned i = 0; i < 2; ++i)
            std::memcpy(&pair[i], emulation::dynamic_memory + rows[8 * m + 2 * t + i] + 2 * g, 2);
        to[m] = pair[0] | static_cast<unsigned>(pair[1]) << 16;
    }
}

struct Factors {
    unsigned a[4], b[2];
};
/// `value_a(word, i)`, `value_b(word, i)`: number i of kIn in a word.
template <unsigned kIn, typename Sum, typename GetA, typename GetB>
void multiply_fragments(Sum (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, GetA value_a, GetB value_b) {
    const emulation::Lanes<Factors> lanes({{a[0], a[1], a[2], a[3]}, {b0, b1}});
    const unsigned g = lane_of_warp() / 4, t = lane_of_warp() % 4;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned column = 2 * t + i % 2;
        double sum = c[i];
        for (unsigned word = 0; word < 8; ++word) {  // along K
            const unsigned x = lanes[4 * g + word % 4].a[i / 2 + word / 4 * 2];
            const unsigned y = lanes[4 * column + word % 4].b[word / 4];
            for (unsigned j = 0; j < kIn; ++j) sum += static_cast<double>(value_a(x, j)) * value_b(y, j);
        }
        c[i] = static_cast<Sum>(sum);
    }
}
template <typename T>
void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const auto value = [](unsigned word, unsigned i) {
        return to_float(T{static_cast<unsigned short>(word >> 16 * i)});
    };
    multiply_fragments<2>(c, a, b0, b1, value, value);
}
inline void mma_m16n8k32(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply_fragments<4>(
        c, a, b0, b1, [](unsigned word, unsigned i) { return static_cast<unsigned char>(word >> 8 * i); },
        [](unsigned word, unsigned i) { return static_cast<signed char>(word >> 8 * i); });
}
inline void mma_m16n8k32(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const auto value = [](unsigned word, unsigned i) {
        return to_float(e4m3{static_cast<unsigned char>(word >> 8 * i)});
    };
    multiply_fragments<4>(c, a, b0, b1, value, value);
}
inline void mma_m16n8k8(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const auto value = [](unsigned word, unsigned) { return __uint_as_float(word & ~0x1fffu); };
    multiply_fragments<1>(c, a, b0, b1, value, value);
}
inline unsigned to_tf32(unsigned bits) {
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}

inline void pdl_wait() {}
inline void pdl_launch() {}

}  // namespace planish
