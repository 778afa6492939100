// Recognise attention: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

// Multi-head self-attention as torch exports its eager form.
constexpr std::string_view kEager = R"(graph "g" {
  input %q : float32[B, S, 8]
  input %k : float32[B, S, 8]
  input %v : float32[B, S, 8]
  input %mask : float32[B, 1, S, S]
  const %cut : int64[4] = [0, 0, 2, 4]
  const %join : int64[3] = [0, 0, 8]
  const %scale : float32[] = [0.5]
  %qr = Reshape(%q, %cut) name "qr"
  %kr = Reshape(%k, %cut) name "kr"
  %vr = Reshape(%v, %cut) name "vr"
  %qt = Transpose(%qr) {perm = [0, 2, 1, 3]} name "qt"
  %kt = Transpose(%kr) {perm = [0, 2, 3, 1]} name "kt"
  %vt = Transpose(%vr) {perm = [0, 2, 1, 3]} name "vt"
  %qk = MatMul(%qt, %kt) name "qk"
  %s = Mul(%qk, %scale) name "s"
  %m = Add(%s, %mask) name "m"
  %p = Softmax(%m) name "p"
  %o = MatMul(%p, %vt) name "o"
  %ot = Transpose(%o) {perm = [0, 2, 1, 3]} name "ot"
  %y = Reshape(%ot, %join) name "y"
  output %y
})";

// torch's scaled_dot_product_attention: √scale on both operands, the guard against rows without a key.
constexpr std::string_view kSdpa = R"(graph "g" {
  input %q : float32[2, 3, 5, 4]
  input %k : float32[2, 3, 6, 4]
  input %v : float32[2, 3, 6, 4]
  input %keep : bool[5, 6]
  const %root : float32[] = [0.70710677]
  const %zero : float32[] = [0.0]
  const %low : float32[] = [-10000000000.0]
  %kt = Transpose(%k) {perm = [0, 1, 3, 2]} name "kt"
  %qs = Mul(%q, %root) name "qs"
  %ks = Mul(%kt, %root) name "ks"
  %qk = MatMul(%qs, %ks) name "qk"
  %m = Where(%keep, %qk, %low) name "m"
  %p = Softmax(%m) name "p"
  %nan = IsNaN(%p) name "nan"
  %w = Where(%nan, %zero, %p) name "w"
  %y = MatMul(%w, %v) name "y"
  output %y
})";

// Batches and heads in one axis, the scale as a division, no mask.
constexpr std::string_view kFlat = R"(graph "g" {
  input %q : float32[6, 5, 4]
  input %k : float32[6, 7, 4]
  input %v : float32[6, 7, 4]
  const %two : float32[] = [2.0]
  %kt = Transpose(%k) {perm = [0, 2, 1]} name "kt"
  %qk = MatMul(%q, %kt) name "qk"
  %s = Div(%qk, %two) name "s"
  %p = Softmax(%s) {axis = 2} name "p"
  %y = MatMul(%p, %v) name "y"
  output %y
})";

// torch.nn.MultiheadAttention: one product for Q, K and V, the sequence first, batches and heads in one axis on the
// way.
constexpr std::string_view kPacked = R"(graph "g" {
  input %x : float32[N, 5, 12]
  const %zero : int64[] = [0]
  const %one : int64[] = [1]
  const %two : int64[] = [2]
  const %three : int64[1] = [3]
  const %cut : int64[5] = [1, 5, -1, 3, 4]
  const %join : int64[3] = [5, -1, 2]
  const %heads : int64[4] = [-1, 2, 5, 2]
  const %flat : int64[2] = [-1, 4]
  const %scale : float32[] = [0.5]
  %t = Transpose(%x) {perm = [1, 0, 2]} name "t"
  %c = Reshape(%t, %cut) name "c"
  %ct = Transpose(%c) {perm = [3, 1, 2, 0, 4]} name "ct"
  %s = Squeeze(%ct, %three) name "s"
  %q = Gather(%s, %zero) name "q"
  %k = Gather(%s, %one) name "k"
  %v = Gather(%s, %two) name "v"
  %qj = Reshape(%q, %join) name "qj"
  %kj = Reshape(%k, %join) name "kj"
  %vj = Reshape(%v, %join) name "vj"
  %qt = Transpose(%qj) {perm = [1, 0, 2]} name "qt"
  %kt = Transpose(%kj) {perm = [1, 0, 2]} name "kt"
  %vt = Transpose(%vj) {perm = [1, 0, 2]} name "vt"
  %qh = Reshape(%qt, %heads) name "qh"
  %kh = Reshape(%kt, %heads) name "kh"
  %vh = Reshape(%vt, %heads) name "vh"
  %kht = Transpose(%kh) {perm = [0, 1, 3, 2]} name "kht"
  %qk = MatMul(%qh, %kht) name "qk"
  %sc = Mul(%qk, %scale) name "sc"
  %p = Softmax(%sc) name "p"
  %o = MatMul(%p, %vh) name "o"
  %ot = Transpose(%o) {perm = [2, 0, 1, 3]} name "ot"
  %y = Reshape(%ot, %flat) name "y"
  output %y
})";

int recognise(Graph& graph) {
    simplify_transposes(graph);
    const int changes = recognise_attention(graph);
    eliminate_dead_code(graph);
    return changes;
}

TEST(RecogniseAttention, TakesHeadsUncut) {
    expect_becomes(recognise, kEager, R"(graph "g" {
  input %q : float32[B, S, 8]
  input %k : float32[B, S, 8]
  input %v : float32[B, S, 8]
  input %mask : float32[B, 1, S, S]
  %y = Attention(%q, %k, %v, %mask) {kv_num_heads = 2, q_num_heads = 2, scale = 0.5} name "p_attention" origins ["m", "s", "qk", "p", "o"]
  output %y
})");
}

TEST(RecogniseAttention, KeepsResults) {
    // Scores of |q·k| ≤ 16 go through one exp: an error of 16 roundings there is one of 16 roundings of the weights.
    for (std::string_view text : {kEager, kSdpa, kFlat, kPacked}) {
        expect_keeps_results(recognise, text, 32 * kUlp);
        const auto graph = after(recognise, text);
        int found = 0;
        for (const auto& node : graph->nodes()) found += node->is("Attention");
        EXPECT_EQ(found, 1) << print(*graph);
    }
}

TEST(RecogniseAttention, ReadsSlicesOfAPackedProduct) {
    const auto graph = after(recognise, kPacked);
    std::vector<std::string_view> ops;
    for (const auto& node : graph->nodes()) ops.push_back(node->op().name);
    EXPECT_EQ(ops, (std::vector<std::string_view>{"Slice", "Slice", "Slice", "Attention", "Transpose", "Reshape"}));
}

TEST(RecogniseAttention, AMaskThatIsScaledTooIsAnotherThing) {
    std::string text(kEager);
    text.replace(text.find("%s = Mul(%qk, %scale)"), 21, "%s = Add(%qk, %mask)");
    text.replace(text.find("%m = Add(%s, %mask)"), 19, "%m = Mul(%s, %scale)");
    const auto graph = after(recognise, text);
    for (const auto& node : graph->nodes()) EXPECT_FALSE(node->is("Attention"));
}

}  // namespace
}  // namespace planish::passes::testing
