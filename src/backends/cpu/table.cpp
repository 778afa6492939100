// Which implementations an op has, best first. The reference closes every list.
#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "backends/cpu/implementation.hpp"
#include "backends/quantized.hpp"

namespace planish::cpu {
namespace {

using namespace families;

using List = std::span<const Implementation* const>;

struct Row {
    std::string_view op;
    std::array<const Implementation*, 7> list;  // null-terminated
};

constexpr Row kRows[] = {
    {"Conv", {&kConvDepthwise, &kConvWinograd, &kConvWinograd2, &kConvJit, &kConvStrassen, &kReference}},
    {"ConvTranspose", {&kConvTranspose, &kReference}},
    {"Gemm", {&kGemm, &kStrassen, &kReference}},
    {"MatMul", {&kGemm, &kStrassen, &kBatchedMatMul, &kReference}},
    {"Attention", {&kAttention, &kReference}},
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
    {"ArgMax", {&kArgExtreme, &kReference}},
    {"ArgMin", {&kArgExtreme, &kReference}},
    {"MaxPool", {&kPool, &kBytePool, &kReference}},
    {"AveragePool", {&kPool, &kReference}},
    {"Resize", {&kResize, &kReference}},
    {"Transpose", {&kTranspose, &kReference}},
    {"Concat", {&kConcat, &kReference}},
    {"Split", {&kSplit, &kReference}},
    {"Slice", {&kSlice, &kReference}},
    {"Expand", {&kExpand, &kReference}},
    {"Pad", {&kPad, &kReference}},
    {"Gather", {&kGather, &kReference}},
    {"QuantizeLinear", {&kQuantize, &kReference}},
    {"DequantizeLinear", {&kDequantize, &kDynamicDequantize, &kReference}},
    {"DynamicQuantizeLinear", {&kDynamicQuantize, &kReference}},
};

// What of a region of kind "quantized" has integer kernels, by the op that names its inner node.
constexpr Row kQuantizedRows[] = {
    {"Conv", {&kQuantizedDepthwise, &kQuantizedConv}},
    {"Gemm", {&kQuantizedGemm, &kWeightOnlyGemm}},
    {"MatMul", {&kQuantizedGemm, &kWeightOnlyGemm}},
    {"Attention", {&kQuantizedAttention}},
    {"AveragePool", {&kQuantizedAverage}},
    {"GlobalAveragePool", {&kQuantizedAverage}},
    {"ReduceMean", {&kQuantizedAverage}},
    {"LayerNormalization", {&kQuantizedRowOps}},
    {"RMSNormalization", {&kQuantizedRowOps}},
    {"Softmax", {&kQuantizedRowOps}},
};

// Regions of regions; refused: those inside stand for themselves.
constexpr const Implementation* kChains[] = {&kConvChain};
constexpr const Implementation* kReductions[] = {&kReductionRegion};
constexpr const Implementation* kSlicedAttention[] = {&kAttention};
constexpr const Implementation* kQuantizedOthers[] = {&kQuantizedPointwise};
constexpr const Implementation* kOthers[] = {&kPointwise, &kReference};
constexpr List kNone;

std::optional<List> find(std::span<const Row> rows, const RegionView& region) {
    const OpDef& op = region.root().op();
    for (const Row& row : rows) {
        if (!op.domain.empty() || row.op != op.name) continue;
        const auto end = std::find(row.list.begin(), row.list.end(), nullptr);
        return List{row.list.data(), static_cast<size_t>(end - row.list.begin())};
    }
    return std::nullopt;
}

}  // namespace

std::span<const Implementation* const> implementations(const RegionView& region) {
    if (region.has_body() && region.node().text("kind") == "conv_chain") return kChains;
    if (region.has_body() && region.node().text("kind") == "attention") return kSlicedAttention;
    if (region.has_body() && region.node().text("kind") == "reduction") return kReductions;
    if (region.has_body() && region.node().text("kind") == "excitation") return kNone;
    if (region.has_body() && region.node().text("kind") == "quantized") {
        const auto quantized = QuantizedRegion::read(region);
        return quantized ? find(kQuantizedRows, quantized->inner()).value_or(kQuantizedOthers) : kNone;
    }
    return find(kRows, region).value_or(kOthers);
}

}  // namespace planish::cpu
