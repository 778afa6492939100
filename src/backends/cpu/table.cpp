// Which implementations an op has, best first. The reference closes every list.
#include <algorithm>
#include <array>
#include <string_view>

#include "backends/cpu/implementation.hpp"

namespace planish::cpu {
namespace {

using namespace families;

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
};

// Regions of regions; refused: those inside stand for themselves.
constexpr const Implementation* kChains[] = {&kConvChain};
constexpr const Implementation* kReductions[] = {&kReductionRegion};
constexpr const Implementation* kSlicedAttention[] = {&kAttention};
constexpr const Implementation* kOthers[] = {&kPointwise, &kReference};

}  // namespace

std::span<const Implementation* const> implementations(const RegionView& region) {
    if (region.has_body() && region.node().text("kind") == "conv_chain") return kChains;
    if (region.has_body() && region.node().text("kind") == "attention") return kSlicedAttention;
    if (region.has_body() && region.node().text("kind") == "reduction") return kReductions;
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

}  // namespace planish::cpu
