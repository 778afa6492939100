// Runs of neighbouring elements between memory and registers, in accesses of up to 16 bytes.
#pragma once

#include "planish/common.cuh"
#include "planish/indexing_params.h"

namespace planish {

inline __device__ unsigned quotient(unsigned n, const Divisor& d) {
    return (__umulhi(n, d.multiplier) + n) >> d.shift;
}

inline __device__ float infinity() {
    return __uint_as_float(0x7f800000u);
}

template <typename To, typename From>
inline __device__ To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

/// The type that an element is computed in, and the conversions between memory and register.
template <typename T>
struct Element {
    using Register = T;
    static __device__ T load(T x) { return x; }
    static __device__ T store(T x) { return x; }
};
template <>
struct Element<f16> {
    using Register = float;
    static __device__ float load(f16 x) { return to_float(x); }
    static __device__ f16 store(float x) { return from_float<f16>(x); }
};
template <>
struct Element<bf16> {
    using Register = float;
    static __device__ float load(bf16 x) { return to_float(x); }
    static __device__ bf16 store(float x) { return from_float<bf16>(x); }
};
template <>
struct Element<u8> {
    using Register = float;
    static __device__ float load(u8 x) { return x.bits; }
    static __device__ u8 store(float x) { return {static_cast<unsigned char>(rintf(fminf(fmaxf(x, 0.0f), 255.0f)))}; }
};
template <>
struct Element<e4m3> {
    using Register = float;
    static __device__ float load(e4m3 x) { return to_float(x); }
    static __device__ e4m3 store(float x) { return from_float<e4m3>(x); }
};
template <typename T>
using Register = typename Element<T>::Register;

namespace vector_detail {

template <int kBytes>
struct alignas(kBytes) Chunk {
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
    unsigned words[kBytes / 4];
};

template <typename T>
inline __device__ T element(const unsigned* words, int i) {
    if constexpr (sizeof(T) == 8)
        return bits_as<T>(static_cast<unsigned long long>(words[2 * i + 1]) << 32 | words[2 * i]);
    else if constexpr (sizeof(T) == 4)
        return bits_as<T>(words[i]);
    else if constexpr (sizeof(T) == 2)
        return bits_as<T>(static_cast<unsigned short>(words[i / 2] >> (i % 2 * 16)));
    else
        return bits_as<T>(static_cast<unsigned char>(words[i / 4] >> (i % 4 * 8)));
}

template <typename T>
inline __device__ void set_element(unsigned* words, int i, T x) {
    if constexpr (sizeof(T) == 8) {
        const auto bits = bits_as<unsigned long long>(x);
        words[2 * i] = static_cast<unsigned>(bits);
        words[2 * i + 1] = static_cast<unsigned>(bits >> 32);
    } else if constexpr (sizeof(T) == 4) {
        words[i] = bits_as<unsigned>(x);
    } else if constexpr (sizeof(T) == 2) {
        const unsigned bits = bits_as<unsigned short>(x);
        words[i / 2] = i % 2 == 0 ? bits : words[i / 2] | bits << 16;
    } else {
        const unsigned bits = bits_as<unsigned char>(x);
        words[i / 4] = i % 4 == 0 ? bits : words[i / 4] | bits << (i % 4 * 8);
    }
}

}  // namespace vector_detail

/// kVector neighbouring elements as they lie in memory. `from` is a multiple of their bytes (at most 16).
template <typename T, int kVector>
struct Pack {
    static constexpr int kBytes = sizeof(T) * kVector;
    static constexpr bool kScalar = kBytes < 4;
    static constexpr int kChunk = kBytes > 16 ? 16 : kBytes < 4 ? 4 : kBytes;
    unsigned words[kScalar ? 1 : kBytes / 4];

    static __device__ Pack load(const T* from) {
        Pack pack;
        if constexpr (kScalar) {
#pragma unroll
            for (int i = 0; i < kVector; ++i) vector_detail::set_element(pack.words, i, from[i]);
        } else {
            using Chunk = vector_detail::Chunk<kChunk>;
#pragma unroll
            for (int i = 0; i < kBytes / kChunk; ++i) {
                const Chunk chunk = reinterpret_cast<const Chunk*>(from)[i];
#pragma unroll
                for (int j = 0; j < kChunk / 4; ++j) pack.words[i * (kChunk / 4) + j] = chunk.words[j];
            }
        }
        return pack;
    }
    __device__ void store(T* to) const {
        if constexpr (kScalar) {
#pragma unroll
            for (int i = 0; i < kVector; ++i) to[i] = vector_detail::element<T>(words, i);
        } else {
            using Chunk = vector_detail::Chunk<kChunk>;
#pragma unroll
            for (int i = 0; i < kBytes / kChunk; ++i) {
                Chunk chunk;
#pragma unroll
                for (int j = 0; j < kChunk / 4; ++j) chunk.words[j] = words[i * (kChunk / 4) + j];
                reinterpret_cast<Chunk*>(to)[i] = chunk;
            }
        }
    }

    __device__ Register<T> get(int i) const {
        return Element<T>::load(vector_detail::element<T>(words, i));
    }
    /// In order: element 0 of a word before element 1.
    __device__ void set(int i, Register<T> x) {
        vector_detail::set_element(words, i, Element<T>::store(x));
    }
};

template <int kVector, typename T>
inline __device__ void load(Register<T> (&to)[kVector], const T* from) {
    const auto pack = Pack<T, kVector>::load(from);
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = pack.get(i);
}
template <int kVector, typename T>
inline __device__ void load_strided(Register<T> (&to)[kVector], const T* from, int stride) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = Element<T>::load(from[static_cast<long long>(i) * stride]);
}
template <int kVector, typename T>
inline __device__ void store(T* to, const Register<T> (&from)[kVector]) {
    Pack<T, kVector> pack;
#pragma unroll
    for (int i = 0; i < kVector; ++i) pack.set(i, from[i]);
    pack.store(to);
}
template <int kVector, typename T>
inline __device__ void store_strided(T* to, const Register<T> (&from)[kVector], int stride) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[static_cast<long long>(i) * stride] = Element<T>::store(from[i]);
}

}  // namespace planish
