// Recognise activations: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kHead = R"(graph "g" {
  input %x : float32[N, 4]
  const %zero : float32[] = [0.0]
  const %three : float32[] = [3.0]
  const %six : float32[] = [6.0]
  const %sixth : float32[] = [0.16666667]
  const %slope : float32[] = [0.1]
  const %two : float32[] = [2.0]
)";

struct Case {
    std::string_view body, op;
};
constexpr Case kCases[] = {
    {R"(  %s = Sigmoid(%x) name "s"
  %y = Mul(%x, %s) name "y")",
     "Swish"},
    {R"(  %m = Mul(%x, %two) name "m"
  %s = Sigmoid(%m) name "s"
  %y = Mul(%s, %x) name "y")",
     "Swish"},
    {R"(  %a = Add(%x, %three) name "a"
  %c = Clip(%a, %zero, %six) name "c"
  %y = Div(%c, %six) name "y")",
     "HardSigmoid"},
    {R"(  %a = Add(%three, %x) name "a"
  %c = Clip(%a, %zero, %six) name "c"
  %m = Mul(%x, %c) name "m"
  %y = Div(%m, %six) name "y")",
     "HardSwish"},
    {R"(  %a = Add(%x, %three) name "a"
  %r = Max(%a, %zero) name "r"
  %c = Min(%r, %six) name "c"
  %g = Mul(%c, %sixth) name "g"
  %y = Mul(%g, %x) name "y")",
     "HardSwish"},
    {R"(  %g = HardSigmoid(%x) {alpha = 0.16666667, beta = 0.5} name "g"
  %y = Mul(%x, %g) name "y")",
     "HardSwish"},
    {R"(  %p = Softplus(%x) name "p"
  %t = Tanh(%p) name "t"
  %y = Mul(%x, %t) name "y")",
     "Mish"},
    {R"(  %m = Mul(%x, %slope) name "m"
  %y = Max(%x, %m) name "y")",
     "LeakyRelu"},
    {R"(  %r = Relu(%x) name "r"
  %y = Min(%r, %six) name "y")",
     "Clip"},
    {R"(  %y = Max(%zero, %x) name "y")", "Relu"},
    {R"(  %y = Clip(%x, %zero) name "y")", "Relu"},
    {R"(  %y = Pow(%x, %two) name "y")", "Mul"},
};

std::string whole(const Case& c) {
    return std::string(kHead) + std::string(c.body) + "\n  output %y\n}";
}

TEST(RecogniseActivations, Golden) {
    expect_becomes(
        [](Graph& graph) {
            const int changes = recognise_activations(graph);
            eliminate_dead_code(graph);
            return changes;
        },
        whole(kCases[0]), R"(graph "g" {
  input %x : float32[N, 4]
  %y = Swish(%x) name "y" origins ["s", "y"]
  output %y
})");
}

TEST(RecogniseActivations, EachBecomesOneOp) {
    for (const Case& c : kCases) expect_same_graph(recognise_activations, {whole(c)}, c.op);
}

TEST(RecogniseActivations, KeepsResults) {
    for (const Case& c : kCases) expect_keeps_results(recognise_activations, whole(c), 4 * kUlp);
}

TEST(RecogniseActivations, AGateThatOthersReadStays) {
    expect_unchanged(recognise_activations, R"(graph "g" {
  input %x : float32[N, 4]
  %s = Sigmoid(%x) name "s"
  %y = Mul(%x, %s) name "y"
  output %s
  output %y
})");
}

}  // namespace
}  // namespace planish::passes::testing
