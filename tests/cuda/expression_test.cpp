// Generated expressions and epilogues, compiled as host C++, against the reference interpreter: no GPU is needed.
#include "backends/cuda/expression.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "cuda/host_library.hpp"
#include "passes/pass.hpp"
#include "reference/interpreter.hpp"

namespace planish::cuda {
namespace {

constexpr int64_t kCount = 512;

// Random values of both signs and several magnitudes, and those at which functions have corners.
Tensor random_input(DType dtype, unsigned seed) {
    std::mt19937 random(seed);
    Tensor tensor(dtype, {kCount});
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const double corners[] = {0, -0.0,      1,          -1,  0.5,   1.5, 2.5, -3,  3,
                              6, kInfinity, -kInfinity, NAN, 1e-30, -88, 88,  1e30};
    for (int64_t i = 0; i < kCount; ++i) {
        double value = std::normal_distribution<double>(0, 3)(random);
        if (i % 7 == 0) value = corners[random() % std::size(corners)];
        if (dtype == DType::boolean) value = static_cast<double>(random() % 2);
        if (dtype != DType::f32 && dtype != DType::f64 && dtype != DType::boolean)
            value = std::isfinite(value) && std::fabs(value) < 100 ? std::trunc(value) : 0;
        tensor.set_double(i, value);
    }
    return tensor;
}

struct Case {
    std::string inputs, nodes;  // of a graph with outputs %y
};

// Every op of the regions, then those that stand alone.
std::vector<Case> cases() {
    const std::string x = "input %x : float32[512]\n", xz = x + "input %z : float32[512]\n";
    const std::string bools = "input %p : bool[512]\ninput %q : bool[512]\n";
    std::vector<Case> result;
    for (const char* op :
         {"Relu", "LeakyRelu", "HardSigmoid",     "HardSwish", "Sigmoid",  "Swish",   "Gelu", "Tanh", "Elu",
          "Celu", "Selu",      "Softplus",        "Mish",      "Softsign", "Exp",     "Log",  "Sqrt", "Erf",
          "Abs",  "Neg",       "Reciprocal",      "Floor",     "Ceil",     "Round",   "Sign", "Sin",  "Cos",
          "Atan", "Shrink",    "ThresholdedRelu", "IsNaN",     "IsInf",    "Identity"})
        result.push_back({x, std::string("%y = ") + op + "(%x)\n"});
    for (const char* op : {"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Equal", "Less", "LessOrEqual", "Greater",
                           "GreaterOrEqual", "Sum", "Mean", "SwiGLU"})
        result.push_back({xz, std::string("%y = ") + op + "(%x, %z)\n"});
    for (const char* op : {"And", "Or", "Xor", "Equal"})
        result.push_back({bools, std::string("%y = ") + op + "(%p, %q)\n"});
    for (const char* type : {"int32", "int64", "uint8", "int8"}) {
        const std::string two = std::string("input %x : ") + type + "[512]\ninput %z : " + type + "[512]\n";
        for (const char* op : {"Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Less", "BitwiseXor"})
            result.push_back({two, std::string("%y = ") + op + "(%x, %z)\n"});
        result.push_back({two, "%y = Cast(%x) {to = 1}\n"});
        result.push_back({two, "%y = Cast(%x) {to = 9}\n"});
    }
    result.push_back({x, "%y = Cast(%x) {to = 6}\n"});
    result.push_back({x, "%y = Cast(%x) {to = 7}\n"});
    result.push_back({x, "%y = Cast(%x) {to = 9}\n"});
    result.push_back({bools, "%y = Cast(%p) {to = 1}\n"});
    result.push_back({bools, "%y = Not(%p)\n"});
    result.push_back({xz, "%y = Max(%x, %z, %x)\n"});
    result.push_back({xz, "%y = Mod(%x, %z) {fmod = 1}\n"});
    result.push_back({x, "%y = Gelu(%x) {approximate = \"tanh\"}\n"});
    result.push_back({x, "%y = IsInf(%x) {detect_negative = 0}\n"});
    result.push_back({x, "%y = Swish(%x) {alpha = 1.702}\n"});
    result.push_back({bools + xz, "%y = Where(%p, %x, %z)\n"});
    for (const char* exponent : {"2.0", "3.0", "1.0", "0.5", "-1.5"})
        result.push_back({x + "const %e : float32[] = [" + exponent + "]\n", "%y = Pow(%x, %e)\n"});
    result.push_back({xz, "%y = Pow(%x, %z)\n"});
    const std::string bounds = "const %low : float32[] = [-0.7]\nconst %high : float32[] = [1.1]\n";
    result.push_back({x + bounds, "%y = Clip(%x, %low, %high)\n"});
    result.push_back({x + bounds, "%y = Clip(%x, _, %high)\n"});
    result.push_back({x + bounds, "%y = Clip(%x, %high, %low)\n"});
    // Whole regions, with values that are read twice.
    result.push_back({xz + bounds,
                      "%s = Sigmoid(%x)\n%m = Mul(%s, %z)\n%t = Tanh(%m)\n%d = Sub(%t, %s)\n%c = Less(%d, %low)\n"
                      "%y = Where(%c, %d, %high)\n"});
    result.push_back({x, "%a = Abs(%x)\n%s = Sqrt(%a)\n%y = Add(%s, %x)\n"});
    return result;
}

// A value as float32 arithmetic may give it. Functions are good to a few units in the last place of their argument's
// rounding: for |argument| <= 64 in an exponential that is 64 k eps of the result, with k = 4 operations before it.
bool is_close(double got, double want, DType dtype) {
    if (std::isnan(want)) return std::isnan(got);
    if (dtype != DType::f32) return got == want;
    const double eps = 0x1p-24, smallest = 0x1p-126;
    if (std::isinf(want) || std::fabs(want) > 3e38) return std::fabs(got) > 3e38 && (got > 0) == (want > 0);
    return std::fabs(got - want) <= 256 * eps * std::fabs(want) + 4 * eps * 0x1p-20 + smallest;
}

using Evaluate = void(const void* const* in, void* const* out);

void compare(DType storage) {
    Environment environment;
    environment.storage = storage;
    std::vector<std::unique_ptr<Graph>> graphs;
    std::vector<Expression> expressions;
    std::string source = "#include \"planish/math.cuh\"\n";
    const std::vector<Case> all = cases();
    for (const Case& c : all) {
        graphs.push_back(parse_graph("graph \"g\" {\n" + c.inputs + c.nodes + "output %y\n}"));
        passes::form_regions(*graphs.back());
        ASSERT_EQ(graphs.back()->nodes().size(), 1u) << c.nodes;
        const RegionView region(*graphs.back()->nodes().front());
        auto expression = pointwise_expression(region, environment);
        ASSERT_TRUE(expression) << c.nodes;
        source += "extern \"C\" void f" + std::to_string(expressions.size()) +
                  "(const void* const* in, void* const* out) {\nfor (int i = 0; i < 512; ++i) {\n";
        for (size_t k = 0; k < expression->inputs.size(); ++k) {
            const std::string type(register_type(region.input(expression->inputs[k]).type.dtype));
            source += "const " + type + " a" + std::to_string(k) + " = ((const " + type + "*)in[" + std::to_string(k) +
                      "])[i];\n";
        }
        for (const std::string& line : expression->lines) source += line + "\n";
        source += "((" + std::string(register_type(region.output().type.dtype)) +
                  "*)out[0])[i] = " + expression->results[0] + ";\n}\n}\n";
        expressions.push_back(std::move(*expression));
    }
    const HostLibrary library(source);
    ASSERT_TRUE(library.is_open()) << source;
    for (size_t c = 0; c < all.size(); ++c) {
        const Graph& graph = *graphs[c];
        std::map<std::string, Tensor> feeds;
        for (size_t i = 0; i < graph.inputs().size(); ++i)
            feeds[graph.inputs()[i]->name] =
                random_input(graph.inputs()[i]->type.dtype, static_cast<unsigned>(i + 2 * c));
        const Tensor want = reference::run_graph(graph, feeds).at("y");
        Tensor got(want.dtype(), want.dims());
        std::vector<const void*> in;
        for (const int i : expressions[c].inputs) in.push_back(feeds.at(graph.nodes().front()->input(i)->name).raw());
        void* out[] = {got.raw()};
        library.get<Evaluate>("f" + std::to_string(c))(in.data(), out);
        const Node& last = *graph.nodes().back();
        const bool to_integer = last.is("Cast") && is_integer(want.dtype());
        for (int64_t i = 0; i < kCount; ++i) {
            // Floats that no integer of the type is near to: undefined.
            if (to_integer && !(std::fabs(feeds.at("x").at_double(i)) < 0x1p31)) continue;
            ASSERT_TRUE(is_close(got.at_double(i), want.at_double(i), want.dtype()))
                << all[c].nodes << "element " << i << " of inputs " << feeds.begin()->second.at_double(i) << ", "
                << feeds.rbegin()->second.at_double(i) << ": " << got.at_double(i) << ", not " << want.at_double(i);
        }
    }
}

TEST(CudaExpression, AgreesWithTheReference) {
    compare(DType::f32);
}

TEST(CudaExpression, FastFunctionsAgreeWithTheReference) {
    // On the host, exponentials are exact: this tests the formulas.
    Environment environment;
    environment.storage = DType::f16;
    std::string source = "#include \"planish/math.cuh\"\n";
    const std::vector<std::pair<std::string, std::string>> functions = {
        {"sigmoid(x)", "Sigmoid"}, {"swish(x, 1.0f)", "Swish"}, {"tanh_of(x)", "Tanh"},
        {"gelu(x)", "Gelu"},       {"softplus(x)", "Softplus"}, {"mish(x)", "Mish"},
    };
    for (size_t f = 0; f < functions.size(); ++f)
        source += "extern \"C\" float f" + std::to_string(f) +
                  "(float x) { return planish::fast::" + functions[f].first + "; }\n";
    const HostLibrary library(source);
    ASSERT_TRUE(library.is_open());
    const Tensor x = random_input(DType::f32, 7);
    for (size_t f = 0; f < functions.size(); ++f) {
        const auto graph =
            parse_graph("graph \"g\" {\ninput %x : float32[512]\n%y = " + functions[f].second + "(%x)\noutput %y\n}");
        const Tensor want = reference::run_graph(*graph, {{"x", x}}).at("y");
        for (int64_t i = 0; i < kCount; ++i) {
            const double w = want.at_double(i);
            const auto arg = static_cast<float>(x.at_double(i));
            const double got = library.get<float(float)>("f" + std::to_string(f))(arg);
            // -infinity times 0 and the like are NaN in both, or the limit.
            if (std::isnan(w) || std::isinf(w) || std::isinf(arg)) continue;
            ASSERT_LE(std::fabs(got - w),
                      0x1p-16 * std::fabs(w) + 0x1p-22 * std::min(1.0, std::fabs(double{arg})) + 0x1p-24)
                << functions[f].second << " at " << arg;
        }
    }
}

// Below half of float16's steps: the bound that kernels/math.cuh states.
TEST(CudaExpression, FastGeluIsFinerThanHalves) {
    const HostLibrary library(
        "#include \"planish/math.cuh\"\nextern \"C\" float gelu(float x) { return "
        "planish::fast::gelu(x); }\n");
    ASSERT_TRUE(library.is_open());
    const auto gelu = library.get<float(float)>("gelu");
    const auto check = [&](double x) {
        const double want = 0.5 * x * std::erfc(-x / std::sqrt(2.0));
        ASSERT_LE(std::fabs(gelu(static_cast<float>(x)) - want), std::max(0x1p-16 * std::fabs(want), 0x1p-27)) << x;
    };
    for (int i = -(12 << 12); i <= 12 << 12; ++i) check(i * 0x1p-12);
    for (double x = 0x1p-30; x < 0x1p100; x *= 2) check(x), check(-x);
    EXPECT_TRUE(std::isnan(gelu(NAN)));
    EXPECT_EQ(gelu(INFINITY), INFINITY);
    EXPECT_EQ(gelu(0.0F), 0.0F);
}

TEST(CudaEpilogue, ChannelsTensorsAndBias) {
    const auto graph = parse_graph(R"(graph "g" {
      input %x : float32[1, 2, 4, 4]
      input %w : float32[3, 2, 1, 1]
      input %bias : float32[3]
      input %s : float32[3, 1, 1]
      input %r : float32[1, 3, 4, 4]
      const %half : float32[] = [0.5]
      %c = Conv(%x, %w, %bias)
      %a = Mul(%c, %s)
      %b = Add(%r, %a)
      %g = HardSwish(%b)
      %y = Sub(%half, %g)
      output %y
    })");
    passes::form_regions(*graph);
    ASSERT_EQ(graph->nodes().size(), 1u);
    const RegionView region(*graph->nodes().front());
    const int bias = region.input_index(region.root().input(2));
    const auto code = read_epilogue(region, 1, {}, bias);
    ASSERT_TRUE(code);
    ASSERT_EQ(code->operands.size(), 3u);
    EXPECT_EQ(code->operands[0].input, bias);
    EXPECT_TRUE(code->operands[0].channel && code->operands[1].channel && !code->operands[2].channel);
    EXPECT_EQ(graph->nodes().front()->input(code->operands[1].input)->name, "s");
    EXPECT_EQ(graph->nodes().front()->input(code->operands[2].input)->name, "r");
    const HostLibrary library(code->source +
                              "extern \"C\" float f(float x, const float* o) { return Epilogue::apply(x, o); }\n"
                              "extern \"C\" int kind(int i) { return Epilogue::kind(i) == Epilogue::channel; }\n");
    ASSERT_TRUE(library.is_open()) << code->source;
    const float operands[] = {0.25f, -2.0f, 1.5f};
    const double t = (3.0 + 0.25) * -2.0 + 1.5;
    EXPECT_FLOAT_EQ(library.get<float(float, const float*)>("f")(3.0f, operands),
                    static_cast<float>(0.5 - t * std::clamp(t / 6 + 0.5, 0.0, 1.0)));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(library.get<int(int)>("kind")(i), i < 2);
    // A channel along another axis is no epilogue.
    EXPECT_FALSE(read_epilogue(region, 2, {}, bias));
}

TEST(CudaExpression, RefusesWhatIsNotPointwise) {
    for (const char* text : {"%y = Softmax(%x)", "%y = Tile(%x, %n)", "%y = MatMul(%x, %x)"}) {
        const auto graph =
            parse_graph(std::string("graph \"g\" {\ninput %x : float32[4, 4]\nconst %n : int64[2] = [1, 1]\n") + text +
                        "\noutput %y\n}");
        EXPECT_FALSE(pointwise_expression(RegionView(*graph->nodes().front()), {})) << text;
    }
}

TEST(CudaExpression, LiteralsAreExact) {
    EXPECT_EQ(literal(0.1, DType::f32), "0x1.99999ap-4f");
    EXPECT_EQ(literal(-2, DType::f32), "(-0x1p+1f)");
    EXPECT_EQ(literal(-INFINITY, DType::f32), "(-__int_as_float(0x7f800000))");
    EXPECT_EQ(literal(3, DType::i64), "static_cast<long long>(3LL)");
}

}  // namespace
}  // namespace planish::cuda
