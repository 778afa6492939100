// Post-ops in float64, one element at a time: what the generated epilogues are measured against.
#pragma once

#include <cmath>
#include <span>

#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu::testing {

/// `column` indexes a channel operand, `element` a tensor operand (of bytes, where the post-op says so).
inline double apply_reference(const PostOp& op, double x, std::span<const float* const> operands, int64_t column,
                              int64_t element) {
    using Kind = PostOp::Kind;
    const double alpha = op.alpha, beta = op.beta;
    const auto channel = [&] { return static_cast<double>(operands[static_cast<size_t>(op.operand)][column]); };
    const auto tensor = [&] {
        const float* operand = operands[static_cast<size_t>(op.operand)];
        if (op.bytes) return alpha * reinterpret_cast<const uint8_t*>(operand)[element] + beta;
        return static_cast<double>(operand[element]);
    };
    switch (op.kind) {
        case Kind::relu:
            return std::max(x, 0.0);
        case Kind::clip:
            return std::min(std::max(x, alpha), beta);
        case Kind::leaky_relu:
            return x >= 0 ? x : alpha * x;
        case Kind::hard_sigmoid:
            return std::min(std::max(alpha * x + beta, 0.0), 1.0);
        case Kind::hard_swish:
            return x * std::min(std::max(x / 6 + 0.5, 0.0), 1.0);
        case Kind::scale_shift:
            return alpha * x + beta;
        case Kind::sqrt:
            return std::sqrt(x);
        case Kind::abs:
            return std::fabs(x);
        case Kind::neg:
            return -x;
        case Kind::reciprocal:
            return 1 / x;
        case Kind::square:
            return x * x;
        case Kind::rsqrt:
            return 1 / std::sqrt(x);
        case Kind::floor:
            return std::floor(x);
        case Kind::ceil:
            return std::ceil(x);
        case Kind::round:
            return std::nearbyint(x);
        case Kind::softsign:
            return x / (1 + std::fabs(x));
        case Kind::sigmoid:
            return 1 / (1 + std::exp(-x));
        case Kind::silu:
            return x / (1 + std::exp(-alpha * x));
        case Kind::tanh:
            return std::tanh(x);
        case Kind::gelu_erf:
        case Kind::gelu_near:
            return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
        case Kind::gelu_tanh:
            return x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))) / 2;
        case Kind::exp:
            return std::exp(x);
        case Kind::log:
            return std::log(x);
        case Kind::erf:
            return std::erf(x);
        case Kind::elu:
            return x >= 0 ? x : alpha * std::expm1(x);
        case Kind::selu:
            return beta * (x >= 0 ? x : alpha * std::expm1(x));
        case Kind::celu:
            return x >= 0 ? x : alpha * std::expm1(x / alpha);
        case Kind::softplus:
            return std::log1p(std::exp(x));
        case Kind::mish:
            return x * std::tanh(std::log1p(std::exp(x)));
        case Kind::add_channel:
            return x + channel();
        case Kind::mul_channel:
            return x * channel();
        case Kind::prelu_channel:
            return x >= 0 ? x : channel() * x;
        case Kind::add_tensor:
            return x + tensor();
        case Kind::sub_tensor:
            return x - tensor();
        case Kind::rsub_tensor:
            return tensor() - x;
        case Kind::mul_tensor:
            return x * tensor();
        case Kind::div_tensor:
            return x / tensor();
        case Kind::max_tensor:
            return std::max(x, tensor());
        case Kind::min_tensor:
            return std::min(x, tensor());
    }
    return std::nan("");
}

}  // namespace planish::cpu::testing
