// What a generated kernel does to its results while they are still in registers.
#pragma once

#include <algorithm>
#include <bit>
#include <compare>
#include <cstdint>
#include <vector>

namespace planish::cpu {

/// One step of a kernel's epilogue, applied element by element to the kernel's result x, in list order.
struct PostOp {
    enum class Kind : uint8_t {
        // Arithmetic, no operand.
        relu,          ///< max(x, 0)
        clip,          ///< min(max(x, alpha), beta)
        leaky_relu,    ///< x >= 0 ? x : alpha * x
        hard_sigmoid,  ///< min(max(alpha * x + beta, 0), 1)
        hard_swish,    ///< x * min(max(x / 6 + 1/2, 0), 1)
        scale_shift,   ///< alpha * x + beta
        sqrt,
        abs,
        neg,
        reciprocal,  ///< 1 / x
        square,      ///< x * x
        rsqrt,       ///< 1 / sqrt x
        floor,
        ceil,
        round,     ///< to nearest, ties to even
        softsign,  ///< x / (1 + |x|)
        // Transcendental, no operand.
        sigmoid,  ///< 1 / (1 + exp(-x))
        silu,     ///< x * sigmoid(alpha * x); alpha = 1 is SiLU, 1.702 the quick GELU
        tanh,
        gelu_erf,   ///< x * (1 + erf(x / sqrt 2)) / 2
        gelu_tanh,  ///< x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2
        gelu_near,  ///< gelu_erf of finite x within kGeluNearError, for results of few bits; same as that without
                    ///< AVX-512
        exp,
        log,
        erf,
        elu,       ///< x >= 0 ? x : alpha * (exp(x) - 1)
        selu,      ///< beta * elu(x)
        celu,      ///< x >= 0 ? x : alpha * (exp(x / alpha) - 1)
        softplus,  ///< log(1 + exp(x))
        mish,      ///< x * tanh(softplus(x))
        // One float for each output column (channel).
        add_channel,
        mul_channel,
        prelu_channel,  ///< x >= 0 ? x : slope[column] * x
        // A tensor laid out as the output, with the output's row stride.
        add_tensor,
        sub_tensor,   ///< x - operand
        rsub_tensor,  ///< operand - x
        mul_tensor,
        div_tensor,  ///< x / operand
        max_tensor,
        min_tensor,
    };

    Kind kind = Kind::relu;
    float alpha = 0;
    float beta = 0;
    int operand = -1;    ///< index into the list of operand pointers given at run time; -1 = none
    bool bytes = false;  ///< a tensor operand is stored in bytes (u8): its elements are alpha * byte + beta

    friend bool operator==(const PostOp&, const PostOp&) = default;
};

using PostOps = std::vector<PostOp>;

constexpr float kGeluNearError = 1e-5F;

/// Whether both give the same machine code. Bits decide: 0 and -0 are different constants, a NaN equals itself.
inline bool same_code(const PostOps& x, const PostOps& y) {
    const auto same = [](const PostOp& p, const PostOp& q) {
        return p.kind == q.kind && p.operand == q.operand && p.bytes == q.bytes &&
               std::bit_cast<uint32_t>(p.alpha) == std::bit_cast<uint32_t>(q.alpha) &&
               std::bit_cast<uint32_t>(p.beta) == std::bit_cast<uint32_t>(q.beta);
    };
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), same);
}

constexpr bool has_channel_operand(PostOp::Kind kind) {
    return kind >= PostOp::Kind::add_channel && kind <= PostOp::Kind::prelu_channel;
}
constexpr bool has_tensor_operand(PostOp::Kind kind) {
    return kind >= PostOp::Kind::add_tensor;
}
constexpr bool is_transcendental(PostOp::Kind kind) {
    return kind >= PostOp::Kind::sigmoid && kind <= PostOp::Kind::mish;
}

}  // namespace planish::cpu
