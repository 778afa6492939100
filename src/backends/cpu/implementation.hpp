// What a CPU implementation of an op or region is: can it, in which layouts, and the kernel it compiles to.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.hpp"
#include "backends/cpu/isa.hpp"
#include "backends/region.hpp"
#include "ir/graph.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

struct Environment {
    Isa isa = Isa::baseline;
    int threads = 1;  ///< that run will be given at most
    PackedStore* packed = nullptr;
    std::vector<ConstantUse>* uses = nullptr;  ///< gets every constant that a kernel packs; null: nobody asks

    /// A permutation of `weights`, from the store.
    Tensor packed_weights(const std::shared_ptr<const Tensor>& weights, const Packing& packing) const {
        if (uses != nullptr) uses->push_back({weights, packing});
        return packed->get(weights, packing, threads);
    }
    /// What is made of `weights` in another way; as PackedStore::get.
    Tensor transformed_weights(const std::shared_ptr<const Tensor>& weights, const std::string& layout, int64_t count,
                               const std::function<void(std::span<float>)>& fill) const {
        if (uses != nullptr) uses->push_back({weights, std::nullopt});
        return packed->get(weights, layout, count, fill);
    }
};

/// One launch: pointers in the node's order (null = omitted or consumed at compile time).
struct Launch {
    std::span<const std::byte* const> in;
    std::span<std::byte* const> out;
    std::byte* workspace = nullptr;
    ThreadPool* pool = nullptr;
    int threads = 1;

    const float* f32(int i) const {
        return i < 0 ? nullptr : reinterpret_cast<const float*>(in[static_cast<size_t>(i)]);
    }
    float* out_f32(int i = 0) const { return reinterpret_cast<float*>(out[static_cast<size_t>(i)]); }
};

/// Compiled code of one step. Immutable; run() may be called by many threads at once with different memory.
class Kernel {
  public:
    virtual ~Kernel() = default;
    virtual void run(const Launch& launch) const = 0;

    std::string name;      ///< grammar: operation_types_tile_isa
    size_t workspace = 0;  ///< bytes of scratch, 64-byte aligned
    int64_t flops = 0;
    double factor_roundoff = 0;  ///< see StepInfo
    std::vector<int> in_place;   ///< inputs whose memory output 0 may take over
    std::vector<int> consumed;   ///< constant inputs that were packed: run() does not read them
};

/// A Kernel from a lambda.
template <typename F>
class LambdaKernel final : public Kernel {
  public:
    LambdaKernel(std::string kernel_name, F function) : function_(std::move(function)) {
        name = std::move(kernel_name);
    }
    void run(const Launch& launch) const override { function_(launch); }

  private:
    F function_;
};
template <typename F>
std::unique_ptr<Kernel> make_kernel(std::string name, F function) {
    return std::make_unique<LambdaKernel<F>>(std::move(name), std::move(function));
}

/// A row of an op's implementation list, best first.
struct Implementation {
    std::string_view name;
    Refusal (*can_implement)(const RegionView&, const Environment&);
    /// The layouts that it works in, given those that its inputs are available in.
    Layouts (*layouts)(const RegionView&, std::span<const Layout> available);
    std::unique_ptr<Kernel> (*compile)(const RegionView&, const Layouts&, const Environment&);
    /// Whether it is expected to beat those after it, for a region that it can implement and that nobody has timed.
    /// Null: always.
    bool (*pays)(const RegionView&) = nullptr;
};

/// The implementations of a region's root op, best first. The last one is the reference, which never refuses a
/// region without a body.
std::span<const Implementation* const> implementations(const RegionView& region);

/// Copies a value of `dims` (elements of `element` bytes) from one layout to another.
std::unique_ptr<Kernel> make_reorder_kernel(const Dims& dims, int64_t element, Layout from, Layout to, Isa isa);

// One list a family; table.cpp joins them by op name.
namespace families {
extern const Implementation kConvJit, kConvWinograd, kConvWinograd2, kConvStrassen, kConvDepthwise, kConvTranspose,
    kConvChain;
extern const Implementation kGemm, kStrassen, kBatchedMatMul, kAttention;
extern const Implementation kPointwise;
extern const Implementation kSoftmax, kLogSoftmax, kLayerNorm, kRmsNorm, kGroupNorm;
extern const Implementation kReduce, kReductionRegion, kArgExtreme, kPool, kResize;
extern const Implementation kTranspose, kConcat, kSplit, kSlice, kGather, kPad, kExpand;
extern const Implementation kQuantizedPointwise, kQuantize, kDequantize, kQuantizedDepthwise, kQuantizedConv,
    kQuantizedGemm, kQuantizedAttention, kQuantizedAverage, kQuantizedRowOps, kBytePool, kWeightOnlyGemm,
    kDynamicQuantize, kDynamicDequantize;
extern const Implementation kReference;
}  // namespace families

}  // namespace planish::cpu
