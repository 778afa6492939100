// Matrix products and convolutions as kernels see them:
//
//   C[m, n] = epilogue(alpha * sum_k A[m, k] B[k, n])
//
// for every position of a batch. Rows of A are those of a matrix, or output pixels that are gathered from an image
// (k = tap, channel); groups of a convolution are a batch whose outputs lie side by side.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backends/cuda/expression.hpp"
#include "backends/cuda/implementation.hpp"
#include "backends/cuda/kernels/indexing_params.h"
#include "backends/image_window.hpp"

namespace planish::cuda {

/// How a quantised region's factors and result are stored; result nullopt: in floats.
struct Bytes {
    Quantization a, b;
    std::optional<Quantization> result;
    std::vector<int> consumed;           ///< inputs of the region that are part of the columns' terms
    std::shared_ptr<const Tensor> bias;  ///< likewise; null: none
};

struct Product {
    /// A convolution's rows of A; [0] is the height, [1] the width.
    struct Gather {
        ImageWindow window;
        int64_t images = 0, channels = 0, group_channels = 0, out[2] = {};
        bool transposed = false;  ///< pixel y reads (y + pad - tap * dilation) / stride where that is whole

        int64_t taps() const { return window.kernel[0] * window.kernel[1]; }
        int64_t image_elements() const { return channels * window.in[0] * window.in[1]; }
        bool is_identity() const;  ///< pixels are those of the image: 1x1, stride 1, no padding
    };
    /// An axis of the batch: elements from one position to the next, 0 where an operand is broadcast.
    struct Axis {
        int64_t extent, a, b;
    };

    int64_t m = 0, n = 0, k = 0;  ///< of one position of the batch
    std::vector<Axis> batch;      ///< outermost first; of a convolution: its groups, A's stride left open
    std::optional<Gather> gather;
    int a = -1, b = -1, bias = -1;  ///< inputs of the region; bias -1: none
    bool constant = false;          ///< B is, and may be packed; a batch of constant matrices is read as it lies
    std::shared_ptr<const Tensor> weights;         ///< that constant
    int64_t a_row = 0, a_k = 1, b_k = 0, b_n = 1;  ///< strides in elements of matrices
    double alpha = 1;
    std::optional<Bytes> bytes;  ///< of a quantised region; alpha and a constant bias are parts of the columns' terms

    int64_t batches() const;
    int64_t groups() const { return gather ? batches() : 1; }
    int64_t output_row() const { return n * groups(); }
    int64_t flops() const { return 2 * batches() * m * n * k; }
    int64_t output_elements() const { return batches() * m * n; }
    /// Elements that are read and written at least, once each: of A, B and the output.
    double elements() const;
};

/// Of a region whose root is a Conv, ConvTranspose, Gemm or MatMul with something to compute. nullopt: it is none of
/// these, sizes are beyond 31 bits, or operands are computed inside the region.
std::optional<Product> read_product(const RegionView& region);

bool is_convolution(const Node& node);

/// Whether a region's root, if it is a product, is one of bytes.
bool is_of_bytes(const RegionView& region);

/// As read_product(), of a quantised region: indices are those of its inputs. nullopt also where factors are not bytes
/// with one scale for A and scales of columns for constant B.
std::optional<Product> read_product_of_bytes(const RegionView& region);

/// The chain behind the product, its bias first.
std::optional<EpilogueCode> product_epilogue(const RegionView& region, const Product& product,
                                             const Environment& environment);

/// That of a product of bytes. Its first two operands are constants of the columns, see bind_columns(): y = scale * sum
/// + shift is the product of what the bytes stand for. Results are numbers that the kernel rounds to bytes.
std::optional<EpilogueCode> byte_epilogue(const RegionView& region, const Product& product,
                                          const Environment& environment);

/// isa_missing: tensor cores of that architecture do not multiply what the product's factors are stored as.
Refusal check_arch(const Product& product, const Arch& arch);

/// Binds the columns' scales and shifts to the first two of the epilogue's operands, at `offset`.
void bind_columns(CudaKernel& kernel, Launch& launch, size_t offset, const Product& product);

/// Why no kernel multiplies the region, whatever its size: another op or type, or a convolution's weights vary.
Refusal check_product(const RegionView& region);

/// The order of B's columns in which a lane of tensor cores has four neighbours of the output in its sums: column 4j +
/// 2i
/// + e of every 16 at place 8i + 2j + e.
inline int64_t place_in_fours(int64_t column) {
    return column / 16 * 16 + column / 2 % 2 * 8 + column % 16 / 4 * 2 + column % 2;
}

/// How the elements of a constant B lie for a kernel.
struct WeightOrder {
    bool k_inner = false;  ///< [batch, n, k], else [batch, k, n]; k = tap, channel
    int64_t k = 0;         ///< elements along k, zeros behind those that there are
    double factor = 1;     ///< of every element
    bool tf32 = false;     ///< rounded to what tensor cores multiply
    bool fours = false;    ///< columns by place_in_fours(): see kernels/gemm_wgmma.cuh
};

/// Adds the constant B in `dtype` to the kernel's constants, packed once for all programs of an engine. Its index.
int add_weights(CudaKernel& kernel, const Product& product, const WeightOrder& order, DType dtype,
                const Environment& environment);

/// The batch as kernels walk it, filled up with axes of one position. `a_group`: elements of A from a convolution's
/// group to the next.
void set_batch(BatchAxis (&axes)[kBatchAxes], const Product& product, int64_t a_group);

}  // namespace planish::cuda
