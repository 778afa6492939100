// What goes with a channel: golden groups for each kind of dependency, near misses, and networks made smaller.
#include "sparsity/channels.hpp"

#include <gmock/gmock.h>

#include "passes/pass_testing.hpp"

namespace planish::sparsity {
namespace {

using passes::testing::expect_same_results;

std::string groups_of(std::string_view body) {
    const auto graph = parse_graph("graph \"g\" {\n" + std::string(body) + "}");
    check(*graph);
    return print(find_channels(*graph));
}

/// Numbers without a pattern in every float constant but variances.
void fill(Graph& graph) {
    uint32_t seed = 7;
    for (Value* value : graph.values()) {
        if (!value->is_constant() || value->type.dtype != DType::f32 || value->name == "var") continue;
        Tensor t(DType::f32, value->constant->dims());
        for (int64_t i = 0; i < t.size(); ++i) {
            seed = seed * 1664525u + 1013904223u;
            t.set_double(i, (seed >> 8) * 0x1p-24 - 0.5);
        }
        value->constant = std::make_shared<const Tensor>(t);
    }
}

/// Zeroes what the removed channels occupy in every constant.
void clear(Graph& graph, const Channels& channels, const std::vector<bool>& removed) {
    for (const ChannelAxis& axis : channels.axes) {
        Value* value = graph.find_value(axis.value->name);
        if (!value->is_constant() || value->type.dtype != DType::f32) continue;
        Tensor t = value->constant->clone();
        int64_t inner = 1;
        for (int64_t i = axis.axis + 1; i < t.rank(); ++i) inner *= t.dim(i);
        for (int64_t i = 0; i < t.size(); ++i) {
            const int channel = axis.channel[static_cast<size_t>(i / inner % t.dim(axis.axis))];
            if (channel != kStays && removed[static_cast<size_t>(channel)]) t.set_double(i, 0);
        }
        value->constant = std::make_shared<const Tensor>(t);
    }
}

/// Removes every other channel of each group; what is computed is what the whole network computes with these at zero.
std::unique_ptr<Graph> expect_zeros_go_unseen(std::string_view body) {
    const auto graph = parse_graph("graph \"g\" {\n" + std::string(body) + "}");
    fill(*graph);
    const Channels channels = find_channels(*graph);
    std::vector<bool> removed(static_cast<size_t>(channels.count));
    for (const ChannelGroup& group : channels.groups)
        for (size_t i = 1; i < group.channels.size(); i += 2) removed[static_cast<size_t>(group.channels[i])] = true;
    clear(*graph, channels, removed);
    auto smaller = shrink(*graph, channels, removed);
    // Sums have the same terms but for zeros: they may be grouped differently by a blocked product.
    expect_same_results(*graph, *smaller, 16 * passes::testing::kUlp, 2);
    return smaller;
}

constexpr std::string_view kChain = R"(
  input %x : float32[N, 3, 8, 8]
  const %w1 : float32[8, 3, 3, 3] = dense<1>
  const %b1 : float32[8] = dense<1>
  const %w2 : float32[4, 8, 1, 1] = dense<1>
  %c = Conv(%x, %w1, %b1) {pads = [1, 1, 1, 1]} name "conv1"
  %r = Relu(%c) name "relu"
  %y = Conv(%r, %w2) name "conv2"
  output %y
)";

constexpr std::string_view kResidual = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[8, 3, 1, 1] = dense<1>
  const %w1 : float32[16, 8, 1, 1] = dense<1>
  const %w2 : float32[8, 16, 1, 1] = dense<1>
  const %w3 : float32[4, 8, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "stem"
  %b = Conv(%a, %w1) name "expand"
  %c = Relu(%b) name "relu"
  %d = Conv(%c, %w2) name "project"
  %e = Add(%a, %d) name "add"
  %y = Conv(%e, %w3) name "head"
  output %y
)";

constexpr std::string_view kDepthwise = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[8, 3, 1, 1] = dense<1>
  const %w1 : float32[8, 1, 3, 3] = dense<1>
  const %b1 : float32[8] = dense<1>
  const %w2 : float32[4, 8, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "expand"
  %b = Conv(%a, %w1, %b1) {group = 8} name "depthwise"
  %y = Conv(%b, %w2) name "project"
  output %y
)";

constexpr std::string_view kGrouped = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[16, 3, 1, 1] = dense<1>
  const %w1 : float32[32, 2, 3, 3] = dense<1>
  const %w2 : float32[4, 32, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "reduce"
  %b = Conv(%a, %w1) {group = 8} name "grouped"
  %y = Conv(%b, %w2) name "project"
  output %y
)";

constexpr std::string_view kFewGroups = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[8, 3, 1, 1] = dense<1>
  const %w1 : float32[12, 4, 3, 3] = dense<1>
  const %w2 : float32[4, 12, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "reduce"
  %b = Conv(%a, %w1) {group = 2} name "grouped"
  %y = Conv(%b, %w2) name "project"
  output %y
)";

constexpr std::string_view kConcat = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[4, 3, 1, 1] = dense<1>
  const %w1 : float32[6, 3, 1, 1] = dense<1>
  const %w2 : float32[4, 10, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "left"
  %b = Conv(%x, %w1) name "right"
  %c = Concat(%a, %b) {axis = 1} name "concat"
  %y = Conv(%c, %w2) name "head"
  output %y
)";

constexpr std::string_view kSplit = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[8, 3, 1, 1] = dense<1>
  const %w1 : float32[4, 4, 1, 1] = dense<1>
  const %w2 : float32[4, 4, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "both"
  %l, %r = Split(%a) {axis = 1, num_outputs = 2} name "split"
  %p = Conv(%l, %w1) name "left"
  %q = Conv(%r, %w2) name "right"
  %y = Add(%p, %q) name "add"
  output %y
)";

constexpr std::string_view kSlice = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[8, 3, 1, 1] = dense<1>
  const %w1 : float32[4, 5, 1, 1] = dense<1>
  const %starts : int64[1] = [-6]
  const %ends : int64[1] = [-1]
  const %axes : int64[1] = [1]
  %a = Conv(%x, %w0) name "conv"
  %s = Slice(%a, %starts, %ends, %axes) name "slice"
  %y = Conv(%s, %w1) name "head"
  output %y
)";

constexpr std::string_view kBatchNorm = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[8, 3, 1, 1] = dense<1>
  const %scale : float32[8] = dense<1>
  const %bias : float32[8] = dense<1>
  const %mean : float32[8] = dense<1>
  const %var : float32[8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
  const %w1 : float32[4, 8, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "conv"
  %n = BatchNormalization(%a, %scale, %bias, %mean, %var) name "bn"
  %y = Conv(%n, %w1) name "head"
  output %y
)";

constexpr std::string_view kSqueezeExcite = R"(
  input %x : float32[N, 3, 8, 8]
  const %w0 : float32[8, 3, 1, 1] = dense<1>
  const %r0 : float32[2, 8, 1, 1] = dense<1>
  const %r1 : float32[8, 2, 1, 1] = dense<1>
  const %w1 : float32[4, 8, 1, 1] = dense<1>
  %a = Conv(%x, %w0) name "conv"
  %p = GlobalAveragePool(%a) name "pool"
  %q = Conv(%p, %r0) name "squeeze"
  %s = Relu(%q) name "relu"
  %t = Conv(%s, %r1) name "excite"
  %g = Sigmoid(%t) name "gate"
  %m = Mul(%a, %g) name "scale"
  %y = Conv(%m, %w1) name "head"
  output %y
)";

constexpr std::string_view kFlatten = R"(
  input %x : float32[N, 3, 4, 4]
  const %w0 : float32[6, 3, 1, 1] = dense<1>
  const %shape : int64[2] = [-1, 96]
  const %w1 : float32[5, 96] = dense<1>
  const %b1 : float32[5] = dense<1>
  %a = Conv(%x, %w0) name "conv"
  %f = Reshape(%a, %shape) name "flatten"
  %y = Gemm(%f, %w1, %b1) {transB = 1} name "fc"
  output %y
)";

// Self-attention of two heads of four, spelled out, behind a layer normalisation, with a residual sum.
constexpr std::string_view kHeads = R"(
  input %x : float32[N, 5, 8]
  const %g : float32[8] = dense<1>
  const %wq : float32[8, 16] = dense<1>
  const %wk : float32[8, 16] = dense<1>
  const %wv : float32[8, 16] = dense<1>
  const %wo : float32[16, 8] = dense<1>
  const %split : int64[4] = [0, 0, 4, 4]
  const %join : int64[3] = [0, 0, 16]
  %n = LayerNormalization(%x, %g) name "norm"
  %q0 = MatMul(%n, %wq) name "query"
  %k0 = MatMul(%n, %wk) name "key"
  %v0 = MatMul(%n, %wv) name "value"
  %q1 = Reshape(%q0, %split) name "q1"
  %k1 = Reshape(%k0, %split) name "k1"
  %v1 = Reshape(%v0, %split) name "v1"
  %q = Transpose(%q1) {perm = [0, 2, 1, 3]} name "q"
  %k = Transpose(%k1) {perm = [0, 2, 3, 1]} name "k"
  %v = Transpose(%v1) {perm = [0, 2, 1, 3]} name "v"
  %s = MatMul(%q, %k) name "scores"
  %p = Softmax(%s) name "softmax"
  %c = MatMul(%p, %v) name "context"
  %t = Transpose(%c) {perm = [0, 2, 1, 3]} name "t"
  %j = Reshape(%t, %join) name "j"
  %o = MatMul(%j, %wo) name "out"
  %y = Add(%x, %o) name "add"
  output %y
)";

constexpr std::string_view kAttention = R"(
  input %x : float32[N, 5, 8]
  const %wq : float32[8, 16] = dense<1>
  const %wk : float32[8, 8] = dense<1>
  const %wv : float32[8, 8] = dense<1>
  const %wo : float32[16, 8] = dense<1>
  %q = MatMul(%x, %wq) name "query"
  %k = MatMul(%x, %wk) name "key"
  %v = MatMul(%x, %wv) name "value"
  %a = Attention(%q, %k, %v) {kv_num_heads = 2, q_num_heads = 4} name "attention"
  %y = MatMul(%a, %wo) name "out"
  output %y
)";

// Query, key and value in one product, taken apart along an axis of three: the heads are the axis behind it.
constexpr std::string_view kMerged = R"(
  input %x : float32[N, 5, 8]
  const %w : float32[8, 48] = dense<1>
  const %wo : float32[16, 8] = dense<1>
  const %split : int64[5] = [0, 0, 3, 4, 4]
  const %first : int64[] = [0]
  const %second : int64[] = [1]
  const %third : int64[] = [2]
  const %join : int64[3] = [0, 0, 16]
  %m = MatMul(%x, %w) name "qkv"
  %r = Reshape(%m, %split) name "r"
  %t = Transpose(%r) {perm = [2, 0, 3, 1, 4]} name "t"
  %q = Gather(%t, %first) name "q"
  %k = Gather(%t, %second) name "k"
  %v = Gather(%t, %third) name "v"
  %a = Attention(%q, %k, %v) name "attention"
  %b = Transpose(%a) {perm = [0, 2, 1, 3]} name "b"
  %j = Reshape(%b, %join) name "j"
  %y = MatMul(%j, %wo) name "out"
  output %y
)";

TEST(Channels, GroupsByDependency) {
    EXPECT_EQ(groups_of(kChain), "conv1: 8 channels, width 1: w1[0] b1[0] w2[1]\n");
    EXPECT_EQ(groups_of(kResidual),
              "stem: 8 channels, width 1: w0[0] w1[1] w2[0] w3[1]\n"
              "expand: 16 channels, width 1: w1[0] w2[1]\n");
    EXPECT_EQ(groups_of(kDepthwise), "expand: 8 channels, width 1: w0[0] w1[0] b1[0] w2[1]\n");
    EXPECT_EQ(groups_of(kGrouped), "reduce: 8 channels, width 2: w0[0] w1[0] w2[1]\n");
    EXPECT_EQ(groups_of(kFewGroups),
              "reduce: 4 channels, width 1: w0[0] w1[1]\n"
              "grouped: 6 channels, width 2: w1[0] w2[1]\n");
    EXPECT_EQ(groups_of(kConcat),
              "left: 4 channels, width 1: w0[0] w2[1]\n"
              "right: 6 channels, width 1: w1[0] w2[1]\n");
    EXPECT_EQ(groups_of(kSplit),
              "both: 4 channels, width 1: w0[0] w1[1]\n"
              "both: 4 channels, width 1: w0[0] w2[1]\n");
    EXPECT_EQ(groups_of(kBatchNorm), "conv: 8 channels, width 1: w0[0] scale[0] bias[0] mean[0] var[0] w1[1]\n");
    EXPECT_EQ(groups_of(kSqueezeExcite),
              "conv: 8 channels, width 1: w0[0] r0[1] r1[0] w1[1]\n"
              "squeeze: 2 channels, width 1: r0[0] r1[1]\n");
    EXPECT_EQ(groups_of(kFlatten), "conv: 6 channels, width 1: w0[0] w1[1]\n");
    EXPECT_EQ(groups_of(kHeads), "query: 4 channels, width 4: wq[1] wk[1] wv[1] wo[0]\n");
    EXPECT_EQ(groups_of(kAttention), "query: 2 channels, width 4: wq[1] wk[1] wv[1] wo[0]\n");
    EXPECT_EQ(groups_of(kMerged), "qkv: 4 channels, width 4: w[1] wo[0]\n");
}

TEST(Channels, ZerosGoUnseen) {
    for (const std::string_view body : {kChain, kResidual, kDepthwise, kGrouped, kFewGroups, kConcat, kSplit, kSlice,
                                        kBatchNorm, kSqueezeExcite, kFlatten, kHeads, kAttention, kMerged}) {
        SCOPED_TRACE(body);
        expect_zeros_go_unseen(body);
    }
}

TEST(Channels, SizesInAttributesAndShapesFollow) {
    const auto node = [](const Graph& graph, std::string_view op) -> const Node& {
        return **std::find_if(graph.nodes().begin(), graph.nodes().end(), [&](const auto& n) { return n->is(op); });
    };
    EXPECT_EQ((*std::next(expect_zeros_go_unseen(kDepthwise)->nodes().begin()))->integer("group"), 4);
    EXPECT_EQ((*std::next(expect_zeros_go_unseen(kFewGroups)->nodes().begin()))->integer("group"), 2);
    EXPECT_EQ(node(*expect_zeros_go_unseen(kFlatten), "Reshape").input(1)->constant->to_int64s(),
              (std::vector<int64_t>{-1, 48}));
    EXPECT_EQ(node(*expect_zeros_go_unseen(kSplit), "Split").input(1)->constant->to_int64s(),
              (std::vector<int64_t>{2, 2}));
    EXPECT_EQ(node(*expect_zeros_go_unseen(kAttention), "Attention").integer("q_num_heads"), 2);
    EXPECT_EQ(node(*expect_zeros_go_unseen(kAttention), "Attention").integer("kv_num_heads"), 1);
}

TEST(Channels, WhatIsNeededWholeStays) {
    // The normalised axis: every element counts for the mean.
    EXPECT_EQ(groups_of(R"(
  input %x : float32[N, 4]
  const %w : float32[4, 8] = dense<1>
  const %g : float32[8] = dense<1>
  const %v : float32[8, 2] = dense<1>
  %a = MatMul(%x, %w) name "a"
  %n = LayerNormalization(%a, %g) name "n"
  %y = MatMul(%n, %v) name "y"
  output %y
)"),
              "");
    // Softmax over the channels.
    EXPECT_EQ(groups_of(R"(
  input %x : float32[N, 4]
  const %w : float32[4, 8] = dense<1>
  const %v : float32[8, 2] = dense<1>
  %a = MatMul(%x, %w) name "a"
  %n = Softmax(%a) name "n"
  %y = MatMul(%n, %v) name "y"
  output %y
)"),
              "");
    // The network's input is added: its channels are the caller's.
    EXPECT_EQ(groups_of(R"(
  input %x : float32[N, 8]
  const %w : float32[8, 8] = dense<1>
  const %v : float32[8, 2] = dense<1>
  %a = MatMul(%x, %w) name "a"
  %n = Add(%a, %x) name "n"
  %y = MatMul(%n, %v) name "y"
  output %y
)"),
              "");
    // An operator without a rule.
    EXPECT_EQ(groups_of(R"(
  input %x : float32[N, 4]
  const %w : float32[4, 8] = dense<1>
  const %v : float32[8, 2] = dense<1>
  const %axis : int64[] = [1]
  %a = MatMul(%x, %w) name "a"
  %n = CumSum(%a, %axis) name "n"
  %y = MatMul(%n, %v) name "y"
  output %y
)"),
              "");
}

}  // namespace
}  // namespace planish::sparsity
