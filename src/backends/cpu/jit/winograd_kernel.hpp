// Generated transforms of the Winograd convolution F(4x4, 3x3): input tiles in, output tiles out.
//
// By Toom-Cook with the 1-D points 0, a, -a, b, -b, infinity (Lavin and Gray, arXiv:1509.09308, take a = 1, b = 2):
//        | a2b2   0  -a2-b2   0   1  0 |                                      | 1  1   1   1   1  0 |
//        |   0  -ab2   -b2    a   1  0 |                                      | 0  a  -a   b  -b  0 |
//  B^T = |   0   ab2   -b2   -a   1  0 |   G(p, k) = p^k / prod (p - p'),  A^T = | 0  a2  a2  b2  b2 0 |
//        |   0  -ba2   -a2    b   1  0 |   last row 0 0 1                     | 0  a3 -a3  b3 -b3 1 |
//        |   0   ba2   -a2   -b   1  0 |
//        |   0   a2b2   0  -a2-b2 0  1 |
//  Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A,  d a 6x6 piece of input, Y the 4x4 outputs.
// a = 3/4, b = 3/2 make all constants exact in float32, and the largest error is a fifth of that with 1 and 2.
#pragma once

#include <cstdint>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

inline constexpr float kWinogradA = 0.75F, kWinogradB = 1.5F;

/// Transforms `tiles` neighbours in a row, each 4 pixels right of the last: for t < tiles, point p = 6i + j < 36:
///   transformed[p*point_stride + t*tile_stride + channel] = (B^T d B)(i, j) of x's 6x6 pixels.
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
WinogradInputKernel winograd_input_kernel(Isa isa);
/// `lines`, `columns` in 1..4: the valid part of each tile.
WinogradOutputKernel winograd_output_kernel(Isa isa, int lines, int columns, const PostOps& post_ops);

}  // namespace planish::cpu
