// Winograd's minimal filtering for 3x3 convolutions: the tiles that there are, their algebra and their sizes.
//
//   Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A,   g the filter, d a piece of input, Y a piece of output.
//
// F(4x4), by Toom-Cook with the 1-D points 0, a, -a, b, -b, infinity (Lavin and Gray, arXiv:1509.09308, take a = 1,
// b = 2). a = 3/4, b = 3/2 make all constants exact in float32, and the largest error is a fifth of that with 1 and 2:
//        | a2b2   0  -a2-b2   0   1  0 |                                      | 1  1   1   1   1  0 |
//        |   0  -ab2   -b2    a   1  0 |                                      | 0  a  -a   b  -b  0 |
//  B^T = |   0   ab2   -b2   -a   1  0 |   G(p, k) = p^k / prod (p - p'),  A^T = | 0  a2  a2  b2  b2 0 |
//        |   0  -ba2   -a2    b   1  0 |   last row 0 0 1                     | 0  a3 -a3  b3 -b3 1 |
//        |   0   ba2   -a2   -b   1  0 |
//        |   0   a2b2   0  -a2-b2 0  1 |
//
// F(2x2), with 0, 1, -1, infinity: 16 products for 4 outputs, weights of 16/9 of the filter's size.
//        | 1  0 -1  0 |        | 1    0   0  |
//  B^T = | 0  1  1  0 |    G = | 1/2  1/2 1/2|    A^T = | 1  1  1  0 |
//        | 0 -1  1  0 |        | 1/2 -1/2 1/2|          | 0  1 -1  1 |
//        | 0 -1  0  1 |        | 0    0   1  |
//
// Stride 2, 2x2 outputs of 5x5 inputs: even inputs meet the taps 0 and 2, a filter of two taps with stride 1, for which
// the points 0, 1, infinity need three products where the sum has four; odd inputs meet tap 1 only. So 25 products
// for 4 outputs instead of 36; the last two rows have the same weights.
//        | 1  0 -1  0  0 |        | 1  0  0 |
//        | 0  0  1  0  0 |        | 1  0  1 |
//  B^T = | 0  0 -1  0  1 |    G = | 0  0  1 |    A^T = | 1  1  0  1  0 |
//        | 0  1  0  0  0 |        | 0  1  0 |          | 0  1  1  0  1 |
//        | 0  0  0  1  0 |        | 0  1  0 |
#pragma once

#include <cstdint>

namespace planish::cpu {

enum class WinogradTile : uint8_t { f4x4, f2x2, f2x2_stride2 };

/// Sizes along either axis.
struct WinogradSizes {
    int outputs = 4;
    int inputs = 6;   ///< also the points at which products are taken
    int step = 4;     ///< inputs from one tile to the next
    int weights = 6;  ///< rows of G that differ, which come first
};

constexpr WinogradSizes winograd_sizes(WinogradTile tile) {
    switch (tile) {
        case WinogradTile::f2x2:
            return {2, 4, 2, 4};
        case WinogradTile::f2x2_stride2:
            return {2, 5, 4, 4};
        default:
            return {4, 6, 4, 6};
    }
}

inline constexpr float kWinogradA = 0.75F, kWinogradB = 1.5F;

}  // namespace planish::cpu
