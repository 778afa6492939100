// The generated epilogue (see common.cuh) over runs of neighbouring elements of one row of the output.
#pragma once

#include "planish/vector.cuh"

namespace planish {

/// output[i] = epilogue(x[i]): kRun elements, of channel `channel` and the next ones, `at` elements into the output and
/// the tensors that lie like it.
template <class E, int kRun, typename Output>
inline __device__ void store_epilogue(void* output, const void* const* operands, long long at, int channel,
                                      const float (&x)[kRun]) {
    float of[kRun][E::kOperands > 0 ? E::kOperands : 1];
#pragma unroll
    for (int o = 0; o < E::kOperands; ++o) {
        float values[kRun];
        if (E::kind(o) == E::channel)
            load<kRun>(values, static_cast<const float*>(operands[o]) + channel);
        else
            load<kRun>(values, static_cast<const Output*>(operands[o]) + at);
#pragma unroll
        for (int i = 0; i < kRun; ++i) of[i][o] = values[i];
    }
    float y[kRun];
#pragma unroll
    for (int i = 0; i < kRun; ++i) y[i] = E::apply(x[i], of[i]);
    store<kRun>(static_cast<Output*>(output) + at, y);
}

}  // namespace planish
