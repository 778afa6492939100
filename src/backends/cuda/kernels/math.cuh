// The functions that generated expressions call. Their meaning at NaN, infinities and zeros is that of the reference
// interpreter; `precise` is float32 (or float64) to a few units in the last place, `fast` is for results that are
// stored in 16 bits: relative error below 2^-16, or below 2^-22 of the argument where the function vanishes.
#pragma once

namespace planish {

/// NaN when either is.
template <typename T>
inline __device__ T nan_max(T a, T b) {
    return a != a || a > b ? a : b;
}
template <typename T>
inline __device__ T nan_min(T a, T b) {
    return a != a || a < b ? a : b;
}
#ifdef __CUDA_ARCH__
template <>
inline __device__ float nan_max<float>(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
template <>
inline __device__ float nan_min<float>(float a, float b) {
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
#endif

/// 2^x, to two units in the last place; results below 2^-126 are 0.
inline __device__ float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2(x);
#endif
}

/// Rounded toward zero. Beyond 64 bits (which ONNX leaves undefined) the nearest 64-bit integer's low bits.
template <typename T, typename F>
inline __device__ T truncate(F x) {
    if (x >= F(0x1p63)) return static_cast<T>(T(-1) > T(0) ? static_cast<unsigned long long>(x) : ~0ULL >> 1);
    return static_cast<T>(static_cast<long long>(x));
}

// Integers, modulo 2^bits, without undefined behaviour.
template <typename T>
inline __device__ T wrap_add(T a, T b) {
    return static_cast<T>(static_cast<unsigned long long>(a) + static_cast<unsigned long long>(b));
}
template <typename T>
inline __device__ T wrap_sub(T a, T b) {
    return static_cast<T>(static_cast<unsigned long long>(a) - static_cast<unsigned long long>(b));
}
template <typename T>
inline __device__ T wrap_mul(T a, T b) {
    return static_cast<T>(static_cast<unsigned long long>(a) * static_cast<unsigned long long>(b));
}
/// Toward zero; by zero: 0.
template <typename T>
inline __device__ T quotient(T a, T b) {
    if (b == 0) return 0;
    if (T(-1) < T(0) && b == T(-1)) return wrap_sub(T(0), a);
    return a / b;
}
/// With the sign of the dividend; by zero: 0.
template <typename T>
inline __device__ T remainder_truncated(T a, T b) {
    return b == 0 || (T(-1) < T(0) && b == T(-1)) ? T(0) : static_cast<T>(a % b);
}
/// With the sign of the divisor; by zero: 0.
template <typename T>
inline __device__ T remainder_floored(T a, T b) {
    const T r = remainder_truncated(a, b);
    return r != 0 && (r < 0) != (b < 0) ? static_cast<T>(r + b) : r;
}
template <typename T>
inline __device__ T remainder_floored_real(T a, T b) {
    const T r = fmod(a, b);
    if (r == 0) return copysign(r, b);
    return (r < 0) != (b < 0) ? r + b : r;
}

struct Precise {
    template <typename T>
    static __device__ T exponential(T x) {
        return exp(x);
    }
    template <typename T>
    static __device__ T logarithm(T x) {
        return log(x);
    }
    template <typename T>
    static __device__ T divide(T a, T b) {
        return a / b;
    }
    template <typename T>
    static __device__ T tangent(T x) {
        return tanh(x);
    }
    template <typename T>
    static __device__ T log1p_exp(T x) {  // x <= 0
        return log1p(exp(x));
    }
    /// x Phi(x): by erfc, which keeps its relative precision where Phi vanishes.
    template <typename T>
    static __device__ T gelu(T x) {
        return T(0.5) * x * erfc(x * T(-0.70710678118654752440));
    }
};

struct Fast {
    static __device__ float exponential(float x) { return __expf(x); }
    static __device__ float logarithm(float x) { return logf(x); }
    static __device__ float divide(float a, float b) { return __fdividef(a, b); }
    /// 1 - 2 / (1 + e^2x), and its series where that cancels.
    static __device__ float tangent(float x) {
        const float y = 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * nan_min(x, 20.0f)));
        return fabsf(x) < 0.03125f ? x - x * x * x * 0.333333333f : y;
    }
    static __device__ float log1p_exp(float x) { return __logf(1.0f + __expf(x)); }
    /// x Phi(x) = max(x, 0) - |x| Phi(-|x|), and log2 Phi(-a) is nearly a parabola: a polynomial of degree six, minimax
    /// on [0, 6]. Off by at most 2^-16 of the value or by 2^-27, whichever is greater: less than half of the step
    /// that float16 rounds to. Beyond 6 the last term is below 2^-27 and stays what it is there.
    static __device__ float gelu(float x) {
        const float a = nan_min(fabsf(x), 6.0f);
        float log2_phi = fmaf(a, 0x1.2b9e46p-15f, -0x1.9d5abep-11f);
        log2_phi = fmaf(a, log2_phi, 0x1.0a404ep-7f);
        log2_phi = fmaf(a, log2_phi, -0x1.b5c6a2p-5f);
        log2_phi = fmaf(a, log2_phi, -0x1.d5ce44p-2f);
        log2_phi = fmaf(a, log2_phi, -0x1.26b368p+0f);
        log2_phi = fmaf(a, log2_phi, -0x1.ffffbap-1f);
        return fmaf(-a, fast_exp2(log2_phi), fmaxf(x, 0.0f));
    }
};

template <typename M>
struct Functions {
    template <typename T>
    static __device__ T relu(T x) {
        return x < T(0) ? T(0) : x;
    }
    template <typename T>
    static __device__ T sign(T x) {
        return x > T(0) ? T(1) : x < T(0) ? T(-1) : x;
    }
    template <typename T>
    static __device__ T unit_clamp(T x) {
        return nan_min(nan_max(x, T(0)), T(1));
    }
    /// e^-x = infinity gives the right limit, 0.
    template <typename T>
    static __device__ T sigmoid(T x) {
        return M::divide(T(1), T(1) + M::exponential(-x));
    }
    template <typename T>
    static __device__ T hard_sigmoid(T x, T alpha, T beta) {
        return unit_clamp(alpha * x + beta);
    }
    template <typename T>
    static __device__ T hard_swish(T x) {
        return x * unit_clamp(x * T(1.0 / 6) + T(0.5));
    }
    template <typename T>
    static __device__ T swish(T x, T alpha) {
        return x * sigmoid(alpha * x);
    }
    template <typename T>
    static __device__ T gelu(T x) {
        return M::gelu(x);
    }
    template <typename T>
    static __device__ T gelu_tanh(T x) {
        // 1 + tanh(u) = 2 sigmoid(2u)
        return x * sigmoid(T(1.5957691216057307117) * (x + T(0.044715) * x * x * x));
    }
    template <typename T>
    static __device__ T leaky_relu(T x, T alpha) {
        return x < T(0) ? alpha * x : x;
    }
    template <typename T>
    static __device__ T thresholded_relu(T x, T alpha) {
        return x <= alpha ? T(0) : x;
    }
    template <typename T>
    static __device__ T elu(T x, T alpha) {
        return x < T(0) ? alpha * expm1(x) : x;
    }
    template <typename T>
    static __device__ T celu(T x, T alpha) {
        return x < T(0) ? alpha * expm1(x / alpha) : x;
    }
    template <typename T>
    static __device__ T selu(T x, T alpha, T gamma) {
        return gamma * (x <= T(0) ? alpha * expm1(x) : x);
    }
    template <typename T>
    static __device__ T softplus(T x) {
        return nan_max(x, T(0)) + M::log1p_exp(-fabs(x));
    }
    template <typename T>
    static __device__ T softsign(T x) {
        return x / (T(1) + fabs(x));
    }
    /// x tanh(log(1 + e)) = x n / (n + 2) with n = e (e + 2), e = e^x: no cancellation. Above 20 the factor is 1.
    template <typename T>
    static __device__ T mish(T x) {
        const T e = M::exponential(nan_min(x, T(20))), n = e * (e + T(2));
        return x > T(40) ? x : x * M::divide(n, n + T(2));
    }
    template <typename T>
    static __device__ T shrink(T x, T bias, T lambd) {
        return x < -lambd ? x + bias : x > lambd ? x - bias : T(0);
    }
    template <typename T>
    static __device__ T tanh_of(T x) {
        return M::tangent(x);
    }
    template <typename T>
    static __device__ T exp_of(T x) {
        return M::exponential(x);
    }
    template <typename T>
    static __device__ T log_of(T x) {
        return M::logarithm(x);
    }
};

using precise = Functions<Precise>;
using fast = Functions<Fast>;

}  // namespace planish
