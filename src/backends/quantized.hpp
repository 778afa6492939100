// A region of kind "quantized" as its kernels look at it: what is computed, and how what it reads and writes is stored.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backends/packed_store.hpp"
#include "backends/region.hpp"

namespace planish {

/// real = scale * (stored - zero), with one scale for the tensor, one for each place along an axis, or one for each
/// `block` places along it, in each line.
struct Quantization {
    DType dtype = DType::undefined;         ///< u8, s8, u4 or s4
    int64_t axis = 0;                       ///< that `scales` run along, from 0; of no meaning for one scale
    int64_t block = 0;                      ///< 0: no blocks
    std::shared_ptr<const Tensor> scales;   ///< float32; null: found at run time, one for the tensor
    std::shared_ptr<const Tensor> zeros;    ///< of `dtype`, as many as scales; null: zero
    int scale_input = -1, zero_input = -1;  ///< of the region, where found at run time; no zero_input: zero

    bool at_run_time() const { return scales == nullptr; }
    bool per_tensor() const { return scales != nullptr && scales->size() == 1 && block == 0; }
    bool per_axis(int64_t of) const { return scales != nullptr && block == 0 && axis == of; }
    float scale() const { return scales->data<float>()[0]; }  ///< per_tensor() only
    int zero(int64_t i = 0) const { return zeros == nullptr ? 0 : static_cast<int>(zeros->at_int64(i)); }
    bool symmetric() const;  ///< every zero point is 0
    /// As the CPU's kernels read and write activations.
    bool is_bytes() const { return dtype == DType::u8 && per_tensor(); }
};

/// Of a QuantizeLinear or DequantizeLinear that `region` is or holds. Nullopt: scales that are neither float32
/// constants nor one float32 input of the region.
std::optional<Quantization> read_quantization(const RegionView& region, const Node& border);

/// The region's inner node (a product, a point-wise region, ...) and what stands at its borders.
class QuantizedRegion {
  public:
    /// An input of the inner node.
    struct Operand {
        int input = -1;                            ///< of the region; -1: omitted, or a constant inside
        std::optional<Quantization> quantization;  ///< how that input is stored; nullopt: as the inner node reads it
        std::vector<int> scale_inputs;             ///< inputs of the region that hold its scales and zero points
    };

    /// Nullopt: not a region of this kind, or scales that are not float32. `region` must outlive the result.
    static std::optional<QuantizedRegion> read(const RegionView& region);

    /// Its constants are those of the region; an input that is decoded on the way is none.
    const RegionView& inner() const { return *inner_; }
    const Operand& operand(int inner_input) const { return operands_[static_cast<size_t>(inner_input)]; }
    const std::vector<Operand>& operands() const { return operands_; }
    /// How the result is stored; nullopt: in float32.
    const std::optional<Quantization>& result() const { return result_; }

  private:
    std::unique_ptr<RegionView> inner_;
    std::vector<Operand> operands_;
    std::optional<Quantization> result_;
};

/// Replaces a DequantizeLinear of constants by the float32 constant that it makes, once for each store. False: it is
/// none.
bool decode_constant(Graph& graph, Node* node, PackedStore& store);

}  // namespace planish
