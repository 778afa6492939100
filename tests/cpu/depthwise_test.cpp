// Depthwise convolution against a plain float64 loop over odd shapes, strides, paddings and epilogues.
#include "backends/cpu/jit/depthwise.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/thread_pool.hpp"
#include "cpu/product_testing.hpp"

namespace planish::cpu {
namespace {

using Kind = PostOp::Kind;
constexpr double kEps = 0x1p-24;

std::vector<Isa> isas() {
    std::vector<Isa> result;
    for (Isa isa : {Isa::avx2, Isa::avx512})
        if (hardware_isa() >= isa) result.push_back(isa);
    return result;
}

std::vector<float> random_floats(size_t count, std::mt19937& rng) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> values(count);
    for (float& value : values) value = uniform(rng);
    return values;
}

struct Bounded {
    double value, error;
};

Bounded apply(const PostOp& op, Bounded x, double operand) {
    auto rounded = [](double value, double error, double ulps = 1) {
        return Bounded{value, error + ulps * 2 * kEps * std::fabs(value)};
    };
    switch (op.kind) {
        case Kind::relu:
            return {std::max(x.value, 0.0), x.error};
        case Kind::clip:
            return {std::clamp<double>(x.value, op.alpha, op.beta), x.error};
        case Kind::silu:
            return rounded(x.value / (1 + std::exp(-x.value)), 1.1 * x.error, 4);
        case Kind::hard_swish:
            return rounded(x.value * std::clamp(x.value / 6 + 0.5, 0.0, 1.0),
                           2 * x.error + 4 * kEps * std::fabs(x.value), 2);
        case Kind::add_channel:
        case Kind::add_tensor:
            return rounded(x.value + operand, x.error);
        case Kind::sub_tensor:
            return rounded(x.value - operand, x.error);
        case Kind::rsub_tensor:
            return rounded(operand - x.value, x.error);
        case Kind::mul_channel:
        case Kind::mul_tensor:
            return rounded(x.value * operand, x.error * std::fabs(operand));
        case Kind::max_tensor:
            return {std::max(x.value, operand), x.error};
        case Kind::min_tensor:
            return {std::min(x.value, operand), x.error};
        case Kind::prelu_channel:
            return rounded(x.value >= 0 ? x.value : x.value * operand, x.error * std::max(1.0, std::fabs(operand)));
        default:
            ADD_FAILURE() << "not covered";
            return x;
    }
}

void check(const DepthwiseShape& s, const PostOps& post_ops, unsigned seed) {
    SCOPED_TRACE("N " + std::to_string(s.batch) + " H " + std::to_string(s.height) + " W " + std::to_string(s.width) +
                 " C " + std::to_string(s.channels) + " k " + std::to_string(s.kernel_h) + "x" +
                 std::to_string(s.kernel_w) + " s " + std::to_string(s.stride_h) + "," + std::to_string(s.stride_w) +
                 " d " + std::to_string(s.dilation_h) + "," + std::to_string(s.dilation_w) + " pad " +
                 std::to_string(s.pad_top) + "," + std::to_string(s.pad_left) + "," + std::to_string(s.pad_bottom) +
                 "," + std::to_string(s.pad_right));
    std::mt19937 rng(seed);
    const auto x = random_floats(static_cast<size_t>(s.batch * s.height * s.width * s.channels), rng);
    const auto w = random_floats(static_cast<size_t>(s.channels * s.kernel_h * s.kernel_w), rng);
    const int64_t oh = s.out_height(), ow = s.out_width();
    const size_t outputs = static_cast<size_t>(s.batch * oh * ow * s.channels);
    std::vector<std::vector<float>> operands;
    for (const PostOp& op : post_ops)
        if (op.operand >= 0)
            operands.push_back(
                random_floats(has_channel_operand(op.kind) ? static_cast<size_t>(s.channels) : outputs, rng));
    std::vector<const float*> pointers;
    // Everything that is read ends at an inaccessible page.
    testing::GuardedFloats guarded_x(x);
    std::vector<std::unique_ptr<testing::GuardedFloats>> guarded;
    for (const auto& operand : operands) {
        guarded.push_back(std::make_unique<testing::GuardedFloats>(operand));
        pointers.push_back(guarded.back()->data());
    }

    std::vector<Bounded> want;
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t oy = 0; oy < oh; ++oy)
            for (int64_t ox = 0; ox < ow; ++ox)
                for (int64_t c = 0; c < s.channels; ++c) {
                    double sum = 0, magnitude = 0;
                    for (int64_t ky = 0; ky < s.kernel_h; ++ky)
                        for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
                            const int64_t iy = oy * s.stride_h - s.pad_top + ky * s.dilation_h;
                            const int64_t ix = ox * s.stride_w - s.pad_left + kx * s.dilation_w;
                            if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
                            const double product =
                                static_cast<double>(x[((n * s.height + iy) * s.width + ix) * s.channels + c]) *
                                w[(c * s.kernel_h + ky) * s.kernel_w + kx];
                            sum += product;
                            magnitude += std::fabs(product);
                        }
                    // A chain of k fused additions, begun at a bias of at most 1.
                    Bounded value{sum, static_cast<double>(s.kernel_h * s.kernel_w) * kEps * (magnitude + 1)};
                    for (const PostOp& op : post_ops) {
                        double operand = 0;
                        if (has_channel_operand(op.kind)) operand = operands[op.operand][c];
                        if (has_tensor_operand(op.kind)) operand = operands[op.operand][want.size()];
                        value = apply(op, value, operand);
                    }
                    want.push_back(value);
                }

    static ThreadPool pool(3);
    for (Isa isa : isas()) {
        SCOPED_TRACE(to_string(isa));
        const DepthwisePlan plan(s, post_ops, isa);
        std::vector<float> packed(depthwise_packed_size(s));
        pack_depthwise_weights(s, w.data(), packed.data());
        constexpr size_t kGuard = 32;
        std::vector<float> y(outputs + kGuard, 777.0f);
        plan.run(guarded_x.data(), packed.data(), y.data(), pointers, pool, 1);
        for (size_t i = 0; i < outputs; ++i)
            ASSERT_NEAR(y[i], want[i].value, want[i].error + 0x1p-140)
                << "element " << i << " channel " << i % s.channels << " column " << i / s.channels % ow << " row "
                << i / (s.channels * ow) % oh;
        for (size_t i = outputs; i < y.size(); ++i) ASSERT_EQ(y[i], 777.0f) << "written past the end";

        // The same bits from three threads, and row by row.
        std::vector<float> other(outputs, -1.0f);
        plan.run(guarded_x.data(), packed.data(), other.data(), pointers, pool, 3);
        ASSERT_EQ(0, std::memcmp(y.data(), other.data(), outputs * sizeof(float)));
        std::fill(other.begin(), other.end(), -1.0f);
        for (int64_t row = 0; row < s.batch * oh;) {
            const int64_t end = std::min<int64_t>(s.batch * oh, row + 1 + row % 3);
            plan.run_rows(guarded_x.data(), packed.data(), other.data(), pointers, row, end);
            row = end;
        }
        ASSERT_EQ(0, std::memcmp(y.data(), other.data(), outputs * sizeof(float)));
    }
}

TEST(Depthwise, GridOfShapes) {
    unsigned seed = 0;
    for (int64_t channels : {1, 7, 8, 16, 24, 37, 64})
        for (int64_t kernel : {1, 2, 3, 5, 7})
            for (int64_t stride : {1, 2, 3})
                for (int64_t size : {1, 2, 5, 14, 23}) {
                    const int64_t pad = kernel / 2;
                    DepthwiseShape s{
                        1, size, size + seed % 3, channels, kernel, kernel, stride, stride, 1, 1, pad, pad, pad, pad};
                    if (s.out_height() <= 0 || s.out_width() <= 0) continue;
                    ++seed;
                    check(s, seed % 2 ? PostOps{} : PostOps{{Kind::add_channel, 0, 0, 0}, {Kind::clip, 0, 6}}, seed);
                    if (HasFatalFailure()) return;
                }
}

TEST(Depthwise, RandomGeometry) {
    std::mt19937 rng(3);
    auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
    for (unsigned seed = 0; seed < 200; ++seed) {
        DepthwiseShape s;
        s.batch = pick(1, 3);
        s.height = pick(1, 20);
        s.width = pick(1, 40);
        s.channels = pick(1, 50);
        s.kernel_h = pick(1, 6);
        s.kernel_w = pick(1, 14);
        s.stride_h = pick(1, 3);
        s.stride_w = pick(1, 3);
        s.dilation_h = pick(1, 3);
        s.dilation_w = pick(1, 3);
        s.pad_top = pick(0, 12);
        s.pad_left = pick(0, 12);
        s.pad_bottom = pick(0, 12);
        s.pad_right = pick(0, 12);
        if (s.height + s.pad_top + s.pad_bottom < (s.kernel_h - 1) * s.dilation_h + 1) continue;
        if (s.width + s.pad_left + s.pad_right < (s.kernel_w - 1) * s.dilation_w + 1) continue;
        check(s, {}, seed);
        if (HasFatalFailure()) return;
    }
}

TEST(Depthwise, PostOps) {
    const std::vector<PostOps> lists = {
        {{Kind::relu}},
        {{Kind::silu, 1}},
        {{Kind::add_channel, 0, 0, 0}, {Kind::silu, 1}},
        {{Kind::add_channel, 0, 0, 0}, {Kind::add_tensor, 0, 0, 1}, {Kind::relu}},
        {{Kind::mul_channel, 0, 0, 0}, {Kind::add_channel, 0, 0, 1}, {Kind::hard_swish}},
        {{Kind::add_channel, 0, 0, 0}, {Kind::prelu_channel, 0, 0, 1}, {Kind::mul_tensor, 0, 0, 2}},
        {{Kind::sub_tensor, 0, 0, 0}, {Kind::rsub_tensor, 0, 0, 1}},
        {{Kind::max_tensor, 0, 0, 0}, {Kind::min_tensor, 0, 0, 1}},
    };
    unsigned seed = 0;
    for (const PostOps& ops : lists)
        for (int64_t channels : {16, 29, 40})
            for (int64_t kernel : {3, 5}) {
                check({2, 9, 17, channels, kernel, kernel, 1, 1, 1, 1, 1, 1, 1, 1}, ops, ++seed);
                if (HasFatalFailure()) return;
            }
}

// A tensor operand may be the output itself.
TEST(Depthwise, AddsIntoItsOutput) {
    const DepthwiseShape s{1, 9, 9, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
    std::mt19937 rng(5);
    const auto x = random_floats(9 * 9 * 20, rng), w = random_floats(9 * 20, rng),
               base = random_floats(9 * 9 * 20, rng);
    std::vector<float> packed(depthwise_packed_size(s));
    pack_depthwise_weights(s, w.data(), packed.data());
    for (Isa isa : isas()) {
        const DepthwisePlan plan(s, {{Kind::add_tensor, 0, 0, 0}}, isa);
        std::vector<float> apart(base.size()), in_place = base;
        plan.run_rows(x.data(), packed.data(), apart.data(), std::vector<const float*>{base.data()}, 0, 9);
        plan.run_rows(x.data(), packed.data(), in_place.data(), std::vector<const float*>{in_place.data()}, 0, 9);
        EXPECT_EQ(apart, in_place);
    }
}

// A caller who holds only the rows that input_rows names passes the pointer at which row 0 would be.
TEST(Depthwise, ReadsOnlyTheRowsItNames) {
    const DepthwiseShape s{1, 20, 11, 16, 5, 5, 2, 2, 1, 1, 2, 2, 2, 2};
    std::mt19937 rng(6);
    const size_t row = static_cast<size_t>(s.width * s.channels);
    const auto x = random_floats(20 * row, rng), w = random_floats(25 * 16, rng);
    std::vector<float> packed(depthwise_packed_size(s));
    pack_depthwise_weights(s, w.data(), packed.data());
    for (Isa isa : isas()) {
        const DepthwisePlan plan(s, {}, isa);
        const size_t out_row = static_cast<size_t>(s.out_width() * s.channels);
        std::vector<float> whole(out_row * static_cast<size_t>(s.out_height())), bands(whole.size());
        plan.run_rows(x.data(), packed.data(), whole.data(), {}, 0, s.out_height());
        for (int64_t begin = 0; begin < s.out_height(); begin += 3) {
            const int64_t end = std::min(begin + 3, s.out_height());
            const auto [first, last] = plan.input_rows(begin, end);
            std::vector<float> poisoned(x.size(), NAN);
            std::copy(x.begin() + first * static_cast<int64_t>(row), x.begin() + last * static_cast<int64_t>(row),
                      poisoned.begin() + first * static_cast<int64_t>(row));
            plan.run_rows(poisoned.data(), packed.data(), bands.data(), {}, begin, end);
        }
        EXPECT_EQ(whole, bands);
    }
}

}  // namespace
}  // namespace planish::cpu
