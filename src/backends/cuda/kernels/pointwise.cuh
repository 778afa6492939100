// Expressions over strided operands: a thread computes kVector neighbours along the last axis.
//
// The translation unit gives a struct C: kVector, kRank, kInputs, kOutputs, and
//   template <int kVector> static __device__ void run(const PointwiseParams&, const int (&at)[kInputs + kOutputs]);
// which loads, computes and stores; `at` is where each operand's first element is.
#pragma once

#include "planish/math.cuh"
#include "planish/pointwise_params.h"
#include "planish/vector.cuh"

namespace planish {

template <typename C>
inline __device__ void pointwise(const PointwiseParams& p) {
    constexpr int kOperands = C::kInputs + C::kOutputs;
    const unsigned vector = blockIdx.x * blockDim.x + threadIdx.x, first = vector * C::kVector;
    if (first >= p.count) return;
    int at[kOperands] = {};
    unsigned rest = vector;
#pragma unroll
    for (int axis = C::kRank - 1; axis > 0; --axis) {
        const unsigned outer = quotient(rest, p.extents[axis]);
        const int here = static_cast<int>(rest - outer * p.extents[axis].divisor);
#pragma unroll
        for (int o = 0; o < kOperands; ++o) at[o] += here * p.strides[C::operand(o)][axis];
        rest = outer;
    }
#pragma unroll
    for (int o = 0; o < kOperands; ++o) at[o] += static_cast<int>(rest) * p.strides[C::operand(o)][0];
    pdl_wait();
    if (C::kRank > 1 || first + C::kVector <= p.count) {
        C::template run<C::kVector>(p, at);
    } else {
        for (unsigned i = first; i < p.count; ++i) {
            C::template run<1>(p, at);
#pragma unroll
            for (int o = 0; o < kOperands; ++o) at[o] += p.element_strides[C::operand(o)];
        }
    }
    pdl_launch();
}

}  // namespace planish
