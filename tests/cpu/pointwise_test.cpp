// Generated point-wise kernels against a float64 interpreter of the same programs.
#include "backends/cpu/jit/pointwise.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

using Kind = PointwiseOp::Kind;
using Type = PointwiseType;

std::vector<Isa> isas() {
    std::vector<Isa> result;
    for (Isa isa : {Isa::avx2, Isa::avx512})
        if (hardware_isa() >= isa) result.push_back(isa);
    return result;
}

size_t size_of(Type type) {
    return type == Type::i64 ? 8 : type == Type::f32 || type == Type::i32 ? 4 : 1;
}

// A value and a bound of the float32 evaluation's error.
struct Bounded {
    double value = 0, error = 0;
};

constexpr double kEps = 0x1p-24;

Bounded rounded(double value, double error, double ulps = 1) {
    return {value, error + ulps * kEps * std::fabs(value) + 0x1p-149};
}

Bounded evaluate(const PointwiseOp& op, const Bounded& a, const Bounded& b, const Bounded& c) {
    switch (op.kind) {
        case Kind::constant:
            return {op.alpha, 0};
        case Kind::add:
            return rounded(a.value + b.value, a.error + b.error);
        case Kind::sub:
            return rounded(a.value - b.value, a.error + b.error);
        case Kind::mul:
            return rounded(a.value * b.value,
                           std::fabs(a.value) * b.error + std::fabs(b.value) * a.error + a.error * b.error);
        case Kind::min:
            return {std::min(a.value, b.value), std::max(a.error, b.error)};
        case Kind::max:
            return {std::max(a.value, b.value), std::max(a.error, b.error)};
        case Kind::where:
            return a.value != 0 ? b : c;
        case Kind::unary:
            switch (op.function) {
                case PostOp::Kind::tanh:
                    return rounded(std::tanh(a.value), a.error, 8);
                case PostOp::Kind::sigmoid:
                    return rounded(1 / (1 + std::exp(-a.value)), a.error, 8);
                case PostOp::Kind::abs:
                    return {std::fabs(a.value), a.error};
                case PostOp::Kind::neg:
                    return {-a.value, a.error};
                default:
                    return {std::max(a.value, 0.0), a.error};
            }
        default:
            ADD_FAILURE() << "not interpreted";
            return {};
    }
}

// Flat element index of a dense output coordinate in a strided input.
int64_t source_index(int64_t flat, const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
    int64_t index = 0;
    for (size_t d = shape.size(); d-- > 0;) {
        index += flat % shape[d] * strides[d];
        flat /= shape[d];
    }
    return index;
}

int64_t count_of(const std::vector<int64_t>& shape) {
    return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

struct Case {
    std::vector<int64_t> shape;
    std::vector<std::vector<int64_t>> input_shapes;
    std::vector<Type> input_types;
    PointwiseProgram program;
};

// Bytes that end where an inaccessible page begins: reading past the end faults.
class GuardedBytes {
  public:
    explicit GuardedBytes(size_t size) : size_(size) {
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t data = (size + page - 1) / page * page;
        mapped_ = data + page;
        base_ =
            static_cast<std::byte*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (base_ == MAP_FAILED || mprotect(base_ + data, page, PROT_NONE) != 0) throw std::bad_alloc();
        begin_ = base_ + data - size;
    }
    ~GuardedBytes() {
        if (base_ != nullptr) munmap(base_, mapped_);
    }
    GuardedBytes(GuardedBytes&& other) noexcept
        : base_(std::exchange(other.base_, nullptr)),
          begin_(other.begin_),
          mapped_(other.mapped_),
          size_(other.size_) {}
    std::byte* data() { return begin_; }
    const std::byte* data() const { return begin_; }
    size_t size() const { return size_; }

  private:
    std::byte *base_, *begin_;
    size_t mapped_, size_;
};

double read(const GuardedBytes& memory, Type type, int64_t index) {
    const std::byte* at = memory.data() + index * static_cast<int64_t>(size_of(type));
    auto as = [&](auto value) {
        std::memcpy(&value, at, sizeof value);
        return static_cast<double>(static_cast<float>(value));
    };
    switch (type) {
        case Type::f32:
            return as(float{});
        case Type::boolean:
        case Type::u8:
            return as(uint8_t{});
        case Type::i8:
            return as(int8_t{});
        case Type::i32:
            return as(int32_t{});
        case Type::i64:
            return as(int64_t{});
    }
    return 0;
}

GuardedBytes random_tensor(Type type, int64_t count, std::mt19937& rng) {
    GuardedBytes memory(static_cast<size_t>(count) * size_of(type));
    std::uniform_real_distribution<float> real(-2, 2);
    std::uniform_int_distribution<int> integer(-100, 100);
    auto fill = [&](auto example, auto draw) {
        for (int64_t i = 0; i < count; ++i) {
            example = static_cast<decltype(example)>(draw());
            std::memcpy(memory.data() + i * static_cast<int64_t>(sizeof example), &example, sizeof example);
        }
    };
    switch (type) {
        case Type::f32:
            fill(float{}, [&] { return real(rng); });
            break;
        case Type::boolean:
            fill(uint8_t{}, [&] { return integer(rng) > 0; });
            break;
        case Type::u8:
            fill(uint8_t{}, [&] { return integer(rng) + 100; });
            break;
        case Type::i8:
            fill(int8_t{}, [&] { return integer(rng); });
            break;
        case Type::i32:
            fill(int32_t{}, [&] { return integer(rng) * 1000003; });
            break;
        case Type::i64:
            fill(int64_t{}, [&] { return integer(rng) * int64_t{1000000000039}; });
            break;
    }
    return memory;
}

std::vector<std::vector<float>> run_f32(const PointwiseKernel& kernel, const std::vector<GuardedBytes>& inputs,
                                        size_t outputs, int64_t count, int threads) {
    constexpr size_t kGuard = 64;
    std::vector<std::vector<float>> result(outputs, std::vector<float>(static_cast<size_t>(count) + kGuard, 12345.0f));
    std::vector<const void*> in;
    std::vector<void*> out;
    for (const auto& input : inputs) in.push_back(input.data());
    for (auto& output : result) out.push_back(output.data());
    static ThreadPool pool(3);
    kernel.run(in, out, pool, threads);
    for (auto& output : result) {
        for (size_t i = 0; i < kGuard; ++i)
            EXPECT_EQ(output[static_cast<size_t>(count) + i], 12345.0f) << "written past the end";
        output.resize(static_cast<size_t>(count));
    }
    return result;
}

void check(const Case& test, std::mt19937& rng) {
    const int64_t count = count_of(test.shape);
    std::vector<PointwiseInput> inputs;
    std::vector<GuardedBytes> memory;
    for (size_t i = 0; i < test.input_shapes.size(); ++i) {
        inputs.push_back({test.input_types[i], broadcast_strides(test.input_shapes[i], test.shape)});
        memory.push_back(random_tensor(test.input_types[i], count_of(test.input_shapes[i]), rng));
    }
    const std::vector<Type> output_types(test.program.outputs.size(), Type::f32);
    std::vector<Bounded> values(test.program.inputs + test.program.ops.size());
    for (Isa isa : isas()) {
        const PointwiseKernel kernel(test.program, test.shape, inputs, output_types, isa);
        const auto got = run_f32(kernel, memory, output_types.size(), count, 1);
        const auto threaded = run_f32(kernel, memory, output_types.size(), count, 3);
        for (size_t o = 0; o < got.size(); ++o)
            EXPECT_EQ(0, std::memcmp(got[o].data(), threaded[o].data(), got[o].size() * sizeof(float)));
        for (int64_t i = 0; i < count; ++i) {
            for (size_t t = 0; t < inputs.size(); ++t)
                values[t] = {read(memory[t], inputs[t].type, source_index(i, test.shape, inputs[t].strides)), 0};
            const Bounded none;
            for (const PointwiseOp& op : test.program.ops)
                values[op.dst] = evaluate(op, op.a < 0 ? none : values[op.a], op.b < 0 ? none : values[op.b],
                                          op.c < 0 ? none : values[op.c]);
            for (size_t o = 0; o < got.size(); ++o) {
                const Bounded& want = values[test.program.outputs[o]];
                ASSERT_NEAR(got[o][i], want.value, 2 * want.error)
                    << to_string(isa) << " output " << o << " element " << i;
            }
        }
    }
}

Case random_case(std::mt19937& rng) {
    auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
    Case test;
    const int rank = pick(0, 5);
    for (int d = 0; d < rank; ++d) test.shape.push_back(pick(0, 3) == 0 ? pick(1, 40) : pick(1, 7));
    // From few values, which stay in registers, to many more than there are registers.
    const int inputs = pick(1, pick(0, 3) == 0 ? 14 : 4);
    for (int i = 0; i < inputs; ++i) {
        std::vector<int64_t> shape(test.shape.begin() + pick(0, pick(0, rank)), test.shape.end());
        if (pick(0, 1) == 0)
            for (auto& d : shape)
                if (pick(0, 2) == 0) d = 1;
        test.input_shapes.push_back(shape);
        test.input_types.push_back(pick(0, 2) != 0 ? Type::f32 : static_cast<Type>(pick(1, 5)));
    }
    test.program.inputs = inputs;
    const int ops = pick(1, pick(0, 3) == 0 ? 60 : 8);
    int values = inputs;
    // Integer inputs are brought into [-1, 1] so that products stay finite.
    std::vector<int> small;
    for (int i = 0; i < inputs; ++i) {
        if (test.input_types[i] == Type::f32) {
            small.push_back(i);
            continue;
        }
        test.program.ops.push_back({Kind::constant, values, -1, -1, -1,
                                    test.input_types[i] == Type::i64   ? 1e-14f
                                    : test.input_types[i] == Type::i32 ? 1e-8f
                                                                       : 1e-2f});
        test.program.ops.push_back({Kind::mul, values + 1, pick(0, 1) ? i : values, 0});
        auto& mul = test.program.ops.back();
        mul.b = mul.a == i ? values : i;
        small.push_back(values + 1);
        values += 2;
    }
    for (int n = 0; n < ops; ++n) {
        auto any = [&] { return small[static_cast<size_t>(pick(0, static_cast<int>(small.size()) - 1))]; };
        PointwiseOp op;
        const Kind kinds[] = {Kind::constant, Kind::unary, Kind::add, Kind::sub,
                              Kind::mul,      Kind::min,   Kind::max, Kind::where};
        op.kind = kinds[pick(0, 7)];
        op.dst = values++;
        op.alpha = static_cast<float>(pick(-8, 8)) / 8;
        if (op.kind != Kind::constant) op.a = any();
        if (op.kind > Kind::unary) op.b = any();
        if (op.kind == Kind::where) {
            // A condition that float32 rounding cannot flip: a constant.
            const int constant = values++;
            test.program.ops.push_back({Kind::constant, constant, -1, -1, -1, static_cast<float>(pick(0, 1))});
            op.c = any();
            op.a = constant;
        }
        const PostOp::Kind functions[] = {PostOp::Kind::tanh, PostOp::Kind::sigmoid, PostOp::Kind::abs,
                                          PostOp::Kind::neg, PostOp::Kind::relu};
        op.function = functions[pick(0, 4)];
        // Repeated squaring would leave the range of floats: results go through tanh now and then.
        test.program.ops.push_back(op);
        if (op.kind == Kind::mul || op.kind == Kind::add || op.kind == Kind::sub) {
            test.program.ops.push_back({Kind::unary, values, op.dst, -1, -1, 0, 0, PostOp::Kind::tanh});
            small.push_back(values++);
        } else {
            small.push_back(op.dst);
        }
    }
    const int outputs = pick(1, 3);
    for (int o = 0; o < outputs; ++o)
        test.program.outputs.push_back(
            o == 0 ? small.back() : small[static_cast<size_t>(pick(0, static_cast<int>(small.size()) - 1))]);
    return test;
}

TEST(Pointwise, RandomProgramsMatchFloat64) {
    for (unsigned seed = 0; seed < 300; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937 rng(seed);
        const Case test = random_case(rng);
        check(test, rng);
        if (testing::Test::HasFatalFailure()) return;
    }
}

PointwiseProgram binary(Kind kind) {
    return {2, {{kind, 2, 0, 1}}, {2}};
}

TEST(Pointwise, LongRowsAreCutIntoBlocks) {
    std::mt19937 rng(1);
    check({{20011}, {{20011}, {1}}, {Type::f32, Type::f32}, binary(Kind::add)}, rng);
    check({{3, 9001}, {{3, 1}, {9001}}, {Type::f32, Type::f32}, binary(Kind::mul)}, rng);
    check({{5000, 13}, {{5000, 13}, {13}}, {Type::f32, Type::i8}, binary(Kind::sub)}, rng);
}

TEST(Pointwise, EmptyTensor) {
    std::mt19937 rng(1);
    check({{0, 5}, {{0, 5}, {5}}, {Type::f32, Type::f32}, binary(Kind::add)}, rng);
    check({{5, 0}, {{5, 0}, {1}}, {Type::f32, Type::f32}, binary(Kind::add)}, rng);
}

template <typename F>
void check_exact(Kind kind, F expected) {
    const float inf = INFINITY;
    const std::vector<float> interesting = {0.0f, -0.0f, 1.0f, -1.0f, 2.5f, -3.0f, inf, -inf, NAN, 1e-40f, 3e38f};
    std::vector<float> a, b;
    for (float x : interesting)
        for (float y : interesting) a.push_back(x), b.push_back(y);
    const std::vector<int64_t> shape = {static_cast<int64_t>(a.size())};
    for (Isa isa : isas()) {
        const std::vector<PointwiseInput> inputs(2, PointwiseInput{Type::f32, {1}});
        const PointwiseKernel kernel(binary(kind), shape, inputs, std::vector{Type::f32}, isa);
        std::vector<float> y(a.size());
        kernel.run_items(std::vector<const void*>{a.data(), b.data()}, std::vector<void*>{y.data()}, 0, kernel.items());
        for (size_t i = 0; i < a.size(); ++i) {
            const float want = expected(a[i], b[i]);
            if (std::isnan(want))
                EXPECT_TRUE(std::isnan(y[i])) << a[i] << ", " << b[i] << ": " << y[i] << " " << to_string(isa);
            else
                EXPECT_EQ(y[i], want) << a[i] << ", " << b[i] << " " << to_string(isa);
        }
    }
}

TEST(Pointwise, SpecialValues) {
    auto nan_or = [](auto f) {
        return [f](float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : f(a, b); };
    };
    check_exact(Kind::min, nan_or([](float a, float b) { return std::min(a, b); }));
    check_exact(Kind::max, nan_or([](float a, float b) { return std::max(a, b); }));
    check_exact(Kind::div, [](float a, float b) { return a / b; });
    check_exact(Kind::equal, [](float a, float b) { return a == b ? 1.0f : 0.0f; });
    check_exact(Kind::not_equal, [](float a, float b) { return a != b ? 1.0f : 0.0f; });
    check_exact(Kind::less, [](float a, float b) { return a < b ? 1.0f : 0.0f; });
    check_exact(Kind::less_equal, [](float a, float b) { return a <= b ? 1.0f : 0.0f; });
    check_exact(Kind::greater, [](float a, float b) { return a > b ? 1.0f : 0.0f; });
    check_exact(Kind::greater_equal, [](float a, float b) { return a >= b ? 1.0f : 0.0f; });
}

float pow_at(Isa isa, float x, float y, bool constant_exponent) {
    PointwiseProgram program;
    program.inputs = 2;
    if (constant_exponent)
        program = {2, {{Kind::constant, 2, -1, -1, -1, y}, {Kind::pow, 3, 0, 2}}, {3}};
    else
        program = binary(Kind::pow);
    const std::vector<PointwiseInput> inputs(2, PointwiseInput{Type::f32, {}});
    const PointwiseKernel kernel(program, {}, inputs, std::vector{Type::f32}, isa);
    float result = -7;
    kernel.run_items(std::vector<const void*>{&x, &y}, std::vector<void*>{&result}, 0, 1);
    return result;
}

TEST(Pointwise, PowHasTheSpecialCasesOfC) {
    const float inf = INFINITY;
    const std::vector<float> values = {0.0f, -0.0f, 1.0f, -1.0f, 2.0f, -2.0f, 3.0f,   -3.0f,  0.5f,       -0.5f,
                                       1.5f, -2.5f, inf,  -inf,  NAN,  1e30f, -1e30f, 1e-40f, 16777217.0f};
    for (Isa isa : isas()) {
        for (float x : values) {
            for (float y : values) {
                const float want = static_cast<float>(std::pow(static_cast<double>(x), static_cast<double>(y)));
                for (bool constant : {false, true}) {
                    const float got = pow_at(isa, x, y, constant);
                    SCOPED_TRACE("pow(" + std::to_string(x) + ", " + std::to_string(y) + ") " +
                                 (constant ? "constant" : ""));
                    if (std::isnan(want)) {
                        EXPECT_TRUE(std::isnan(got)) << got;
                    } else if (want == 0 || std::isinf(want)) {
                        EXPECT_EQ(got, want);
                        EXPECT_EQ(std::signbit(got), std::signbit(want));
                    } else {
                        EXPECT_NEAR(got, want, 8 * 2 * kEps * std::fabs(want) + 0x1p-149);
                    }
                }
            }
        }
    }
}

TEST(Pointwise, PowIsAccurate) {
    constexpr int kCount = 400000;
    std::mt19937 rng(7);
    std::uniform_real_distribution<double> exponent(-40, 40), magnitude(-87, 88);
    std::vector<float> x(kCount), y(kCount), z(kCount);
    for (int i = 0; i < kCount; ++i) {
        y[i] = static_cast<float>(i % 2 ? exponent(rng) : exponent(rng) / 40);
        x[i] = static_cast<float>(std::exp(magnitude(rng) / y[i]));
        if (!std::isnormal(x[i])) x[i] = 1.25f;
    }
    for (Isa isa : isas()) {
        const std::vector<PointwiseInput> inputs(2, PointwiseInput{Type::f32, {1}});
        const std::vector<int64_t> shape = {kCount};
        const PointwiseKernel kernel(binary(Kind::pow), shape, inputs, std::vector{Type::f32}, isa);
        kernel.run_items(std::vector<const void*>{x.data(), y.data()}, std::vector<void*>{z.data()}, 0, kernel.items());
        double worst = 0;
        for (int i = 0; i < kCount; ++i) {
            const double want = std::pow(static_cast<double>(x[i]), static_cast<double>(y[i]));
            if (want > 3.4e38 || want < 1.2e-38) continue;
            const double ulps = std::fabs(z[i] - want) / std::ldexp(1.0, std::ilogb(want) - 23);
            worst = std::max(worst, ulps);
        }
        RecordProperty(std::string(to_string(isa)) + "_max_ulp", std::to_string(worst));
        EXPECT_LT(worst, 2.5);
    }
}

TEST(Pointwise, IntegerAndBooleanTensors) {
    constexpr int64_t kCount = 37;
    std::vector<float> x(kCount);
    for (int64_t i = 0; i < kCount; ++i) x[i] = static_cast<float>(i * 7) - 11.75f;
    for (Isa isa : isas()) {
        PointwiseProgram program{1,
                                 {{Kind::constant, 1, -1, -1, -1, 20.0f},
                                  {Kind::greater, 2, 0, 1},
                                  {Kind::logical_not, 3, 2},
                                  {Kind::unary, 4, 0, -1, -1, 0, 0, PostOp::Kind::abs}},
                                 {2, 3, 0, 4, 0}};
        const std::vector<PointwiseInput> inputs = {{Type::f32, {1}}};
        const std::vector<Type> types = {Type::boolean, Type::f32, Type::i32, Type::u8, Type::boolean};
        const std::vector<int64_t> shape = {kCount};
        const PointwiseKernel kernel(program, shape, inputs, types, isa);
        std::vector<uint8_t> above(kCount + 1, 77), magnitude(kCount + 1, 77), nonzero(kCount + 1, 77);
        std::vector<float> below(kCount);
        std::vector<int32_t> truncated(kCount);
        kernel.run_items(
            std::vector<const void*>{x.data()},
            std::vector<void*>{above.data(), below.data(), truncated.data(), magnitude.data(), nonzero.data()}, 0,
            kernel.items());
        for (int64_t i = 0; i < kCount; ++i) {
            EXPECT_EQ(above[i], x[i] > 20);
            EXPECT_EQ(below[i], x[i] > 20 ? 0.0f : 1.0f);
            EXPECT_EQ(truncated[i], static_cast<int32_t>(x[i]));
            EXPECT_EQ(magnitude[i], static_cast<uint8_t>(std::fabs(x[i])));
            EXPECT_EQ(nonzero[i], 1);
        }
        EXPECT_EQ(above[kCount], 77);
        EXPECT_EQ(magnitude[kCount], 77);
    }
}

// Two outputs that swap the roles of two inputs, written over them.
TEST(Pointwise, OutputsMayOverwriteInputs) {
    for (Isa isa : isas()) {
        std::vector<float> a(45), b(45);
        for (int i = 0; i < 45; ++i) a[i] = static_cast<float>(i), b[i] = static_cast<float>(-i) / 3;
        const auto a0 = a, b0 = b;
        const PointwiseProgram program{2, {{Kind::add, 2, 0, 1}}, {1, 0}};
        const std::vector<PointwiseInput> inputs(2, PointwiseInput{Type::f32, {1}});
        const std::vector<int64_t> shape = {45};
        const PointwiseKernel kernel(program, shape, inputs, std::vector{Type::f32, Type::f32}, isa);
        kernel.run_items(std::vector<const void*>{a.data(), b.data()}, std::vector<void*>{a.data(), b.data()}, 0,
                         kernel.items());
        EXPECT_EQ(a, b0);
        EXPECT_EQ(b, a0);
    }
}

TEST(Pointwise, RefusesAnInnermostStride) {
    const std::vector<PointwiseInput> inputs = {{Type::f32, {1, 4}}, {Type::f32, {8, 1}}};
    const std::vector<int64_t> shape = {4, 8};
    EXPECT_THROW(PointwiseKernel(binary(Kind::add), shape, inputs, std::vector{Type::f32}, Isa::avx2), Error);
}

}  // namespace
}  // namespace planish::cpu
