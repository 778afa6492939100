// Parameters of excitation.cuh, read by host and device: plain C++ without headers.
#pragma once

namespace planish {

constexpr int kExcitationOperands = 8;

struct ExcitationParams {
    const void* means;                                 // T [n, channels]
    const void* first;                                 // T [hidden, channels]
    const void* second;                                // T [channels, hidden]
    const void* image;                                 // T [n, pixels, channels]
    void* output;                                      // as image
    const void* first_operands[kExcitationOperands];   // of the epilogues: f32 [hidden]
    const void* second_operands[kExcitationOperands];  // f32 [channels]
    int pixels, pixels_per_block;
};

}  // namespace planish
