// What a CUDA implementation of an op or region is: can it, in which formats, which tactics, and what it compiles to.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.hpp"
#include "backends/cuda/device.hpp"
#include "backends/cuda/kernel.hpp"
#include "backends/region.hpp"

namespace planish::cuda {

inline int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/// How a value lies in device memory.
struct Format {
    Layout layout = Layout::plain;
    DType dtype = DType::undefined;  ///< of the elements in memory

    friend bool operator==(const Format&, const Format&) = default;
};

/// Formats of the region's inputs and outputs, in the node's order.
struct Formats {
    std::vector<Format> inputs, outputs;
};

/// What is compiled for.
struct Environment {
    Arch arch;
    DeviceProperties device;       ///< of the GPU, else of the one that stands for the architecture
    DType storage = DType::f32;    ///< what float32 values of the graph are kept as between kernels: f32, f16, bf16
    bool tf32 = false;             ///< storage f32: tensor cores may round factors to tf32
    bool batch_invariant = false;  ///< the bits of a row must not depend on how many there are: no split sums
    PackedStore* packed = nullptr;

    /// The element type that `value` is kept as unless somebody asks for another.
    DType stored_as(const Value& value) const { return value.type.dtype == DType::f32 ? storage : value.type.dtype; }
};

/// One way in which an implementation can run a region: a tile, a split, a number of stages.
struct Tactic {
    std::string name;    ///< "128x128x32_s4_k2"; unique in its implementation
    double seconds = 0;  ///< by the cost model; 0: not estimated
};

/// Least estimate first; equals keep their order.
void sort_by_estimate(std::vector<Tactic>& tactics);

/// A row of an op's implementation list, best first.
///
/// Without measurements the region gets the tactic with the least estimate among those of the implementations that can
/// and pay, up to the first one that does not estimate; that one is taken when none before it can.
struct Implementation {
    std::string_view name;
    Refusal (*can_implement)(const RegionView&, const Environment&);
    /// The formats that it works in, given those that its inputs are available in; conversions are inserted where they
    /// differ. Inputs of the program come as float32 and plain: an implementation that can read them so, says so.
    Formats (*formats)(const RegionView&, std::span<const Format> available, const Environment&);
    CudaKernel (*compile)(const RegionView&, const Formats&, std::string_view tactic, const Environment&);
    /// The tactics worth timing for a region that it can implement, best first, at least one. Null: one, named "".
    std::vector<Tactic> (*tactics)(const RegionView&, const Environment&) = nullptr;
    /// Whether it is expected to beat dissolving the region or those after it. Null: always.
    bool (*pays)(const RegionView&, const Environment&) = nullptr;
};

/// The implementations of a region's root op, best first. The last one is the reference, which never refuses a
/// region without a body.
std::span<const Implementation* const> implementations(const RegionView& region);

/// Every input and output plain and stored as the environment says.
Formats plain_formats(const RegionView& region, std::span<const Format> available, const Environment& environment);
/// As following_layouts(): values of the output's rank channels-last when any available input is; stored as the
/// environment says.
Formats following_formats(const RegionView& region, std::span<const Format> available, const Environment& environment);
/// Input and output 0 channels-last where they have rank >= 3, all else plain: convolutions, pooling.
Formats image_formats(const RegionView& region, std::span<const Format> available, const Environment& environment);

/// Whether kernels that read an operand as it lies convert elements of this type themselves: f32, f16, bf16.
bool is_read_as_float(DType dtype);

/// `tensor` with its elements rounded to `dtype` (f32, f16, bf16; ties to even, overflow to infinity) and its axes
/// moved from plain to `layout`. The dims stay logical.
Tensor stored(const Tensor& tensor, Format format);

/// "float", "__half", "__nv_bfloat16", "long long", ...: an element type in CUDA C++.
std::string_view cuda_type(DType dtype);
/// The type that stands for elements of 1, 2, 4, 8 or 16 bytes where they are only moved: fewer kernels.
std::string_view moved_type(int64_t bytes);
/// "f32", "f16", ...: an element type in a kernel's name.
std::string_view short_name(DType dtype);

// One list a family; table.cpp joins them by op name. A family's file defines its rows here as it lands.
namespace families {
extern const Implementation kAttention, kAttentionSimt, kDepthwise, kConvStem, kConvChain, kExcitation;
extern const Implementation kPointwise;
extern const Implementation kSoftmax, kLogSoftmax, kLayerNorm, kRmsNorm, kByteNorm, kGroupNorm;
extern const Implementation kReduce, kPool, kResize;
extern const Implementation kTranspose, kConcat, kSplit, kSlice, kExpand, kPad, kGather;
extern const Implementation kReference;
extern const Implementation kWgmma, kMma, kByteWgmma, kByteMma, kConvSimt;
}  // namespace families

}  // namespace planish::cuda
