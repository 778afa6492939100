// Generated transforms of Winograd convolutions: input tiles in, output tiles out.
#pragma once

#include <cstdint>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/post_op.hpp"
#include "backends/cpu/jit/winograd_tile.hpp"

namespace planish::cpu {

/// Transforms `tiles` neighbours in a row, each `step` pixels right of the last: for t < tiles, i, j < inputs:
///   transformed[(i*inputs + j)*point_stride + t*tile_stride + channel] = (B^T d B)(i, j) of x's inputs^2 pixels.
/// Strides in bytes. `vectors` = channels / floats in a vector.
struct WinogradInputArgs {
    const float* x = nullptr;  ///< upper left pixel of the first tile
    int64_t line_stride = 0;
    int64_t pixel_stride = 0;
    float* transformed = nullptr;
    int64_t point_stride = 0;
    int64_t tile_stride = 0;
    int64_t tiles = 0;
    int64_t vectors = 0;
};

/// The way back, then the post-ops, then stores of the tile's valid lines and columns.
struct WinogradOutputArgs {
    const float* products = nullptr;
    int64_t point_stride = 0;
    int64_t tile_stride = 0;
    float* y = nullptr;  ///< upper left pixel of the first tile
    int64_t line_stride = 0;
    int64_t pixel_stride = 0;
    int64_t tiles = 0;
    int64_t vectors = 0;
    const float* const* operands = nullptr;
    int64_t tensor_offset = 0;  ///< bytes from a tensor operand's base to y's counterpart
};

using WinogradInputKernel = void (*)(const WinogradInputArgs*);
using WinogradOutputKernel = void (*)(const WinogradOutputArgs*);

/// Cached by key for the process; thread-safe. `isa` decides the width of vectors: 8 or 16 floats.
WinogradInputKernel winograd_input_kernel(WinogradTile tile, Isa isa);
/// `lines`, `columns` in 1..outputs: the valid part of each tile.
WinogradOutputKernel winograd_output_kernel(WinogradTile tile, Isa isa, int lines, int columns,
                                            const PostOps& post_ops);

}  // namespace planish::cpu
