// Which CUDA implementations an op has, best first. The reference on the CPU closes every list.
#include <algorithm>
#include <array>
#include <string_view>

#include "backends/cuda/implementation.hpp"
#include "backends/cuda/implementations/indexed.hpp"
#include "backends/quantized.hpp"

namespace planish::cuda {
namespace {

using namespace families;

struct Row {
    std::string_view op;
    std::array<const Implementation*, 8> list;  // null-terminated
};

constexpr Row kRows[] = {
    {"Conv", {&kDepthwise, &kConvStem, &kWgmma, &kMma, &kConvSimt, &kReference}},
    {"ConvTranspose", {&kMma, &kConvSimt, &kReference}},
    {"Gemm", {&kWgmma, &kMma, &kConvSimt, &kReference}},
    {"MatMul", {&kWgmma, &kMma, &kConvSimt, &kReference}},
    {"Attention", {&kAttention, &kAttentionSimt, &kReference}},
    {"Softmax", {&kSoftmax, &kReference}},
    {"LogSoftmax", {&kLogSoftmax, &kReference}},
    {"LayerNormalization", {&kLayerNorm, &kReference}},
    {"RMSNormalization", {&kRmsNorm, &kReference}},
    {"GroupNormalization", {&kGroupNorm, &kReference}},
    {"InstanceNormalization", {&kGroupNorm, &kReference}},
    {"ReduceSum", {&kReduce, &kReference}},
    {"ReduceMean", {&kReduce, &kReference}},
    {"ReduceMax", {&kReduce, &kReference}},
    {"ReduceMin", {&kReduce, &kReference}},
    {"ReduceProd", {&kReduce, &kReference}},
    {"ReduceL1", {&kReduce, &kReference}},
    {"ReduceL2", {&kReduce, &kReference}},
    {"ReduceSumSquare", {&kReduce, &kReference}},
    {"ReduceLogSum", {&kReduce, &kReference}},
    {"ReduceLogSumExp", {&kReduce, &kReference}},
    {"GlobalAveragePool", {&kReduce, &kReference}},
    {"GlobalMaxPool", {&kReduce, &kReference}},
    {"ArgMax", {&kReduce, &kReference}},
    {"ArgMin", {&kReduce, &kReference}},
    {"MaxPool", {&kPool, &kReference}},
    {"AveragePool", {&kPool, &kReference}},
    {"Resize", {&kResize, &kReference}},
    {"Transpose", {&kTranspose, &kReference}},
    {"Concat", {&kConcat, &kReference}},
    {"Split", {&kSplit, &kReference}},
    {"Slice", {&kSlice, &kReference}},
    {"Expand", {&kExpand, &kReference}},
    {"Pad", {&kPad, &kReference}},
    {"Gather", {&kGather, &kReference}},
    {"GatherElements", {&kElements, &kReference}},
    {"ScatterElements", {&kElements, &kReference}},
    {"GatherND", {&kTuples, &kReference}},
    {"ScatterND", {&kTuples, &kReference}},
    {"CumSum", {&kCumSum, &kReference}},
    {"TopK", {&kTopK, &kReference}},
    {"DepthToSpace", {&kRearrange, &kReference}},
    {"SpaceToDepth", {&kRearrange, &kReference}},
    {"Tile", {&kRearrange, &kReference}},
};

// Of regions of other kinds than their root op tells. Refused, they are dissolved.
constexpr const Implementation* kSlicedAttention[] = {&kAttention, &kAttentionSimt};
constexpr const Implementation* kChains[] = {&kConvChain};
constexpr const Implementation* kExcitations[] = {&kExcitation};
constexpr const Implementation* kByteProducts[] = {&kByteWgmma, &kByteMma};
constexpr const Implementation* kByteNorms[] = {&kByteNorm};
constexpr const Implementation* kByteOthers[] = {&kPointwise};
constexpr const Implementation* kOthers[] = {&kPointwise, &kReference};

}  // namespace

std::span<const Implementation* const> implementations(const RegionView& region) {
    const std::string_view kind = region.has_body() ? std::string_view(region.node().text("kind")) : "";
    if (kind == "attention") return kSlicedAttention;
    if (kind == "conv_chain") return kChains;
    if (kind == "excitation") return kExcitations;
    if (kind == "quantized") {
        const auto quantized = QuantizedRegion::read(region);
        if (!quantized) return {};
        const Node& root = quantized->inner().root();
        if (root.is("Conv") || root.is("Gemm") || root.is("MatMul")) return kByteProducts;
        if (root.is("LayerNormalization") || root.is("RMSNormalization")) return kByteNorms;
        return kByteOthers;
    }
    const Node& root = region.root();
    if (root.op().domain.empty()) {
        for (const Row& row : kRows) {
            if (row.op != root.op().name) continue;
            const auto end = std::find(row.list.begin(), row.list.end(), nullptr);
            return {row.list.data(), static_cast<size_t>(end - row.list.begin())};
        }
    }
    return kOthers;
}

}  // namespace planish::cuda
