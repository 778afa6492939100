// Accuracy of generated elementwise functions against float64 libm, over a dense sample of all float bit patterns.
#include "backends/cpu/jit/vector_math.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace planish::cpu {
namespace {

using Kind = PostOp::Kind;
constexpr double kEps = 0x1p-24;  // half an ulp of 1

// y[i] := op(x[i]) for count floats, a multiple of the vector width.
class UnaryKernel : public Xbyak::CodeGenerator {
  public:
    UnaryKernel(const PostOp& op, Isa isa) : Xbyak::CodeGenerator(16384) {
        VectorMathEmitter math(*this, isa);
        const int step = vector_floats(isa);
        const int temps[] = {1, 2, 3, 4};
        Xbyak::Label loop;
        L(loop);
        vmovups(math.reg(0), ptr[rdi]);
        math.apply(op, 0, temps);
        vmovups(ptr[rsi], math.reg(0));
        add(rdi, step * 4);
        add(rsi, step * 4);
        sub(rdx, step);
        jnz(loop, T_NEAR);
        vzeroupper();
        ret();
        math.emit_tables();
        ready();
    }
    void run(const float* x, float* y, int64_t count) const {
        getCode<void (*)(const float*, float*, int64_t)>()(x, y, count);
    }
};

double ulp(double reference) {
    const double magnitude = std::max(std::fabs(reference), 0x1p-126);
    return std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

struct Function {
    friend std::ostream& operator<<(std::ostream& out, const Function& f) { return out << f.name; }

    std::string name;
    PostOp op;
    std::function<double(double)> reference;
    double max_ulp;
    /// Absolute error allowed beside max_ulp, for formulas that cancel; null = none.
    std::function<double(double)> slack = nullptr;
};

double sigmoid(double x) {
    return 1 / (1 + std::exp(-x));
}
double softplus(double x) {
    return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
}
double gelu_tanh_argument(double x) {
    return 2 * 0.7978845608028654 * (x + 0.044715 * x * x * x);
}

std::vector<Function> functions() {
    // exp(u) of a rounded u: each rounding of the argument costs |u| 2^-24 of the result.
    auto argument_error = [](auto u, auto value) {
        return [=](double x) {
            const double magnitude = std::fabs(u(x));
            return magnitude < 110 ? 4 * kEps * magnitude * std::fabs(value(x)) : 0.0;
        };
    };
    auto quick_gelu = [](double x) { return x * sigmoid(1.702f * x); };
    auto gelu_tanh = [](double x) { return x * sigmoid(gelu_tanh_argument(x)); };
    auto silu = [](double x) { return x * sigmoid(x); };
    // Below -88 exp(-x) overflows and 1 / inf is 0 where a denormal would be right.
    auto denormal_slack = [](double x) { return x < -80 ? 0x1p-126 * std::max(1.0, std::fabs(x)) : 0.0; };
    return {
        {"relu", {Kind::relu}, [](double x) { return std::isnan(x) ? x : std::max(x, 0.0); }, 0},
        {"clip", {Kind::clip, -1.5f, 6}, [](double x) { return std::isnan(x) ? x : std::clamp(x, -1.5, 6.0); }, 0},
        {"leaky_relu", {Kind::leaky_relu, 0.01f}, [](double x) { return x < 0 ? double(0.01f) * x : x; }, 0.5},
        {"hard_sigmoid",
         {Kind::hard_sigmoid, 0.2f, 0.5f},
         [](double x) { return std::isnan(x) ? x : std::clamp(double(0.2f) * x + 0.5, 0.0, 1.0); },
         0.5},
        {"hard_swish",
         {Kind::hard_swish},
         [](double x) { return std::isnan(x) ? x : x * std::clamp(x / 6 + 0.5, 0.0, 1.0); },
         1.5,
         [](double x) { return std::fabs(x) < 4 ? 2 * kEps * std::fabs(x) * 0.5 : 0.0; }},
        {"scale_shift", {Kind::scale_shift, 3, 1}, [](double x) { return 3 * x + 1; }, 0.5},
        {"sqrt", {Kind::sqrt}, [](double x) { return std::sqrt(x); }, 0.5},
        {"rsqrt", {Kind::rsqrt}, [](double x) { return 1 / std::sqrt(x); }, 1.5},
        {"abs", {Kind::abs}, [](double x) { return std::fabs(x); }, 0},
        {"neg", {Kind::neg}, [](double x) { return -x; }, 0},
        {"reciprocal", {Kind::reciprocal}, [](double x) { return 1 / x; }, 0.5},
        {"square", {Kind::square}, [](double x) { return x * x; }, 0.5},
        {"floor", {Kind::floor}, [](double x) { return std::floor(x); }, 0},
        {"ceil", {Kind::ceil}, [](double x) { return std::ceil(x); }, 0},
        {"round", {Kind::round}, [](double x) { return std::nearbyint(x); }, 0},
        {"softsign", {Kind::softsign}, [](double x) { return x / (1 + std::fabs(x)); }, 1.5},
        {"exp", {Kind::exp}, [](double x) { return std::exp(x); }, 1.1},
        {"log", {Kind::log}, [](double x) { return std::log(x); }, 1.1},
        {"sigmoid", {Kind::sigmoid}, sigmoid, 2.5, denormal_slack},
        {"silu", {Kind::silu, 1}, silu, 2.5, denormal_slack},
        {"quick_gelu",
         {Kind::silu, 1.702f},
         quick_gelu,
         2.5,
         [=](double x) {
             return denormal_slack(1.702 * x) + argument_error([](double x) { return 1.702 * x; }, quick_gelu)(x);
         }},
        {"tanh", {Kind::tanh}, [](double x) { return std::tanh(x); }, 4},
        {"erf", {Kind::erf}, [](double x) { return std::erf(x); }, 4.5},
        {"gelu_erf",
         {Kind::gelu_erf},
         [](double x) { return 0.5 * x * std::erfc(-x * 0.7071067811865476); },
         3,
         [](double x) { return x < 0 && x > -20 ? 4 * kEps * -x : 0.0; }},
        {"gelu_tanh",
         {Kind::gelu_tanh},
         gelu_tanh,
         3,
         [=](double x) {
             return denormal_slack(gelu_tanh_argument(x)) + argument_error(gelu_tanh_argument, gelu_tanh)(x);
         }},
        {"softplus", {Kind::softplus}, softplus, 3.6},
        {"mish",
         {Kind::mish},
         [](double x) { return std::isinf(x) && x < 0 ? -NAN : x * std::tanh(softplus(x)); },
         4.5,
         denormal_slack},
        {"elu", {Kind::elu, 0.7f}, [](double x) { return x > 0 ? x : double(0.7f) * std::expm1(x); }, 2.5},
        {"selu",
         {Kind::selu, 1.67326f, 1.0507f},
         [](double x) { return double(1.0507f) * (x > 0 ? x : double(1.67326f) * std::expm1(x)); },
         3.5},
        {"celu", {Kind::celu, 2}, [](double x) { return x > 0 ? x : 2 * std::expm1(x / 2); }, 2.5},
    };
}

class VectorMath : public testing::TestWithParam<std::tuple<Isa, Function>> {};

TEST_P(VectorMath, IsWithinUlpsOfLibm) {
    const auto& [isa, function] = GetParam();
    if (hardware_isa() < isa) GTEST_SKIP() << to_string(isa) << " not on this machine";
    const UnaryKernel kernel(function.op, isa);
    // PLANISH_TEST_FLOAT_STRIDE=1 walks through every float.
    const char* text = std::getenv("PLANISH_TEST_FLOAT_STRIDE");
    const uint64_t stride = text ? std::strtoull(text, nullptr, 10) : 8191;

    constexpr int kBlock = 4096;
    std::vector<float> x(kBlock), y(kBlock);
    double worst = 0, worst_at = 0;
    int failures = 0;
    auto check_block = [&] {
        kernel.run(x.data(), y.data(), kBlock);
        for (int i = 0; i < kBlock && failures < 5; ++i) {
            const double want = function.reference(x[i]);
            const float rounded = static_cast<float>(want);
            if (std::isnan(want) || std::isnan(y[i])) {
                // inf * 0 in a formula may be NaN on either side only where both sides agree.
                if (std::isnan(want) != std::isnan(y[i])) {
                    ADD_FAILURE() << function.name << "(" << x[i] << ") = " << y[i] << ", expected " << want;
                    ++failures;
                }
                continue;
            }
            if (y[i] == rounded) continue;
            double error = std::fabs(y[i] - want);
            if (std::isinf(rounded) || std::isinf(y[i])) {
                // Overflow is judged as if the exponent range went on: one ulp of the greatest float either side.
                const double capped = std::min(std::fabs(want), 0x1p128);
                const double mine = std::min<double>(std::fabs(y[i]), 0x1p128);
                error = std::fabs(mine - capped);
            }
            const double slack = function.slack ? function.slack(x[i]) : 0;
            const double ulps = std::max(0.0, error - slack) /
                                ulp(std::min(std::fabs(want), double(std::numeric_limits<float>::max())));
            if (ulps > worst) worst = ulps, worst_at = x[i];
            if (!(ulps <= function.max_ulp)) {
                ADD_FAILURE() << function.name << "(" << x[i] << ") = " << y[i] << ", expected " << want << ": " << ulps
                              << " ulp";
                ++failures;
            }
        }
    };
    const float specials[] = {0.0f,
                              -0.0f,
                              INFINITY,
                              -INFINITY,
                              NAN,
                              -NAN,
                              1.0f,
                              -1.0f,
                              0x1p-149f,
                              -0x1p-149f,
                              0x1p-126f,
                              std::numeric_limits<float>::max(),
                              std::numeric_limits<float>::lowest(),
                              88.72283f,
                              88.7229f,
                              -87.3365f,
                              -103.9f,
                              -104.0f,
                              0.99999994f,
                              1.0000001f};
    for (int i = 0; i < kBlock; ++i) x[i] = specials[i % std::size(specials)];
    check_block();
    int filled = 0;
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32) && failures < 5; bits += stride) {
        x[filled++] = std::bit_cast<float>(static_cast<uint32_t>(bits));
        if (filled == kBlock) check_block(), filled = 0;
    }
    std::fill(x.begin() + filled, x.end(), 1.0f);
    check_block();
    RecordProperty("max_ulp", std::to_string(worst));
    if (text)
        std::printf("%-14s %-8s max %.3f ulp at %.9g\n", function.name.c_str(), to_string(isa).data(), worst, worst_at);
}

INSTANTIATE_TEST_SUITE_P(All, VectorMath,
                         testing::Combine(testing::Values(Isa::avx2, Isa::avx512), testing::ValuesIn(functions())),
                         [](const auto& info) {
                             return std::string(to_string(std::get<0>(info.param))) + "_" +
                                    std::get<1>(info.param).name;
                         });

TEST(VectorMath, GeluForBytesIsNearEverywhere) {
    for (Isa isa : {Isa::avx2, Isa::avx512}) {
        if (hardware_isa() < isa) continue;
        const UnaryKernel kernel({Kind::gelu_near}, isa);
        std::vector<float> x;
        for (int i = -8000; i <= 8000; ++i) x.push_back(static_cast<float>(i) * 0x1p-10F);
        for (float large = 8; large < 1e30F; large *= 1.7F) x.insert(x.end(), {large, -large});
        x.resize((x.size() + 15) / 16 * 16, 4.7F);
        std::vector<float> y(x.size());
        kernel.run(x.data(), y.data(), static_cast<int64_t>(x.size()));
        for (size_t i = 0; i < x.size(); ++i) {
            const double exact = 0.5 * x[i] * std::erfc(-x[i] * 0.7071067811865476);
            ASSERT_LE(std::fabs(y[i] - exact), kGeluNearError + 4 * kEps * std::fabs(exact)) << x[i] << to_string(isa);
        }
    }
}

// Saturation must be exact: gelu multiplies 1 + erf by x, however large.
TEST(VectorMath, SaturatesExactly) {
    for (Isa isa : {Isa::avx2, Isa::avx512}) {
        if (hardware_isa() < isa) continue;
        std::vector<float> x(16), y(16);
        for (int i = 0; i < 16; ++i) x[i] = -6.0f * std::pow(10.0f, static_cast<float>(i));
        UnaryKernel({Kind::gelu_erf}, isa).run(x.data(), y.data(), 16);
        for (float v : y) EXPECT_EQ(v, 0.0f);
        UnaryKernel({Kind::tanh}, isa).run(x.data(), y.data(), 16);
        EXPECT_EQ(y[1], -1.0f);
        UnaryKernel({Kind::erf}, isa).run(x.data(), y.data(), 16);
        EXPECT_EQ(y[0], -1.0f);
    }
}

}  // namespace
}  // namespace planish::cpu
