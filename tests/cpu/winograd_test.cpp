// Winograd convolutions against the definition in float64.
#include "backends/cpu/jit/winograd.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/thread_pool.hpp"
#include "cpu/product_testing.hpp"

namespace planish::cpu {
namespace {

using testing::AlignedFloats;
using testing::random_floats;
using testing::supported_isas;

/// Bias, residual and ReLU do not stretch an error, so the bound of the bare convolution holds for the result.
void check_winograd(const ConvShape& s, Isa isa, WinogradTile tile, int threads) {
    SCOPED_TRACE(std::to_string(s.h) + "x" + std::to_string(s.w) + " " + std::to_string(s.c) + "->" +
                 std::to_string(s.oc) + " tile " + std::to_string(static_cast<int>(tile)) + " threads " +
                 std::to_string(threads));
    const int64_t x_pixel = s.x_pixel_stride == 0 ? s.c : s.x_pixel_stride;
    const int64_t y_pixel = s.y_pixel_stride == 0 ? s.oc : s.y_pixel_stride;
    const int64_t oh = s.oh(), ow = s.ow();
    const std::vector<float> x = random_floats(s.n * s.h * s.w * x_pixel, 1), w = random_floats(s.oc * s.c * 9, 2);
    const std::vector<float> channel = random_floats(s.oc, 3), tensor = random_floats(s.n * oh * ow * y_pixel, 4);
    const std::array<const float*, 2> operands = {channel.data(), tensor.data()};
    const PostOps post_ops = {
        {PostOp::Kind::add_channel, 0, 0, 0}, {PostOp::Kind::add_tensor, 0, 0, 1}, {PostOp::Kind::relu}};

    const WinogradPlan plan(s, post_ops, isa, tile);
    AlignedFloats packed(plan.packed_weight_size());
    plan.pack_weights(w.data(), packed.data());
    AlignedFloats workspace(static_cast<int64_t>(plan.workspace(threads) / sizeof(float)));
    constexpr float kUntouched = -777;
    std::vector<float> got(tensor.size(), kUntouched);
    ThreadPool pool(3);
    plan.run(x.data(), packed.data(), got.data(), operands, workspace.data(), pool, threads);

    constexpr double kEps = std::numeric_limits<float>::epsilon();
    for (int64_t o = 0; o < s.oc; ++o) {
        double weight_sum = 0;
        for (int64_t i = 0; i < s.c * 9; ++i) weight_sum += std::fabs(w[static_cast<size_t>(o * s.c * 9 + i)]);
        const double tolerance =
            kWinogradErrorFactor * std::sqrt(static_cast<double>(9 * s.c + 40)) * kEps / 2 * weight_sum +
            4 * kEps * weight_sum;
        for (int64_t pixel = 0; pixel < s.n * oh * ow; ++pixel) {
            const int64_t n = pixel / (oh * ow), i = pixel / ow % oh, j = pixel % ow;
            double sum = channel[static_cast<size_t>(o)] + tensor[static_cast<size_t>(pixel * y_pixel + o)];
            for (int64_t tap = 0; tap < 9; ++tap) {
                const int64_t row = i * s.stride_h + tap / 3 - s.pad_top;
                const int64_t column = j * s.stride_w + tap % 3 - s.pad_left;
                if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
                for (int64_t c = 0; c < s.c; ++c) {
                    sum += static_cast<double>(x[static_cast<size_t>(((n * s.h + row) * s.w + column) * x_pixel + c)]) *
                           w[static_cast<size_t>((o * s.c + c) * 9 + tap)];
                }
            }
            ASSERT_NEAR(got[static_cast<size_t>(pixel * y_pixel + o)], std::max(sum, 0.0), tolerance)
                << "pixel " << pixel << " channel " << o;
        }
    }
    for (int64_t pixel = 0; pixel < s.n * oh * ow; ++pixel) {
        for (int64_t o = s.oc; o < y_pixel; ++o) ASSERT_EQ(got[static_cast<size_t>(pixel * y_pixel + o)], kUntouched);
    }
}

ConvShape image(int64_t h, int64_t w, int64_t c, int64_t oc, int64_t pad = 1) {
    ConvShape s;
    s.h = h;
    s.w = w;
    s.c = c;
    s.oc = oc;
    s.kh = s.kw = 3;
    s.pad_top = s.pad_left = s.pad_bottom = s.pad_right = pad;
    return s;
}

constexpr std::array kTiles = {WinogradTile::f4x4, WinogradTile::f2x2, WinogradTile::f2x2_stride2};

int64_t stride_of(WinogradTile tile) {
    return tile == WinogradTile::f2x2_stride2 ? 2 : 1;
}

class WinogradTest : public ::testing::TestWithParam<Isa> {
  protected:
    /// By every tile, which decides the stride.
    void check(ConvShape shape) {
        for (const WinogradTile tile : kTiles) {
            shape.stride_h = shape.stride_w = stride_of(tile);
            for (const int threads : {1, 3}) check_winograd(shape, GetParam(), tile, threads);
        }
    }
};

TEST_P(WinogradTest, EveryEdgeOfTheImage) {
    for (const int64_t h : {1, 2, 4, 7, 9, 14}) {
        for (const int64_t w : {1, 3, 4, 8, 10, 15}) check(image(h, w, 16, 8));
    }
    for (const int64_t pad : {0, 2, 5}) check(image(9, 12, 8, 24, pad));
}

TEST_P(WinogradTest, Channels) {
    for (const int64_t c : {8, 16, 40, 64}) {
        for (const int64_t oc : {8, 16, 24, 80}) check(image(10, 10, c, oc));
    }
}

TEST_P(WinogradTest, ManyBlocks) {
    ConvShape s = image(57, 60, 64, 64);
    s.n = 2;
    check(s);
}

TEST_P(WinogradTest, SlicesAndUnequalPads) {
    ConvShape s = image(11, 13, 16, 16);
    s.n = 3;
    s.pad_top = 0;
    s.pad_left = 2;
    s.pad_right = 3;
    s.x_pixel_stride = 21;
    s.y_pixel_stride = 19;
    check(s);
}

TEST_P(WinogradTest, SameBitsForAnyNumberOfThreads) {
    for (const WinogradTile tile : kTiles) {
        ConvShape s = image(28, 28, 64, 96);
        s.stride_h = s.stride_w = stride_of(tile);
        const std::vector<float> x = random_floats(s.h * s.w * s.c, 1), w = random_floats(s.oc * s.c * 9, 2);
        const WinogradPlan plan(s, {}, GetParam(), tile);
        AlignedFloats packed(plan.packed_weight_size());
        plan.pack_weights(w.data(), packed.data());
        AlignedFloats workspace(static_cast<int64_t>(plan.workspace(3) / sizeof(float)));
        std::vector<float> first(static_cast<size_t>(s.oh() * s.ow() * s.oc)), again(first.size());
        ThreadPool pool(3);
        plan.run(x.data(), packed.data(), first.data(), {}, workspace.data(), pool, 1);
        for (const int threads : {1, 2, 3}) {
            std::fill(again.begin(), again.end(), 0.0F);
            plan.run(x.data(), packed.data(), again.data(), {}, workspace.data(), pool, threads);
            ASSERT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof(float)), 0)
                << threads << " threads, tile " << static_cast<int>(tile);
        }
    }
}

// Small integers pass through sums and differences unchanged: whatever differs from the definition is a wrong term.
// (F(2x2)'s halves of sums of filters are exact too.)
TEST_P(WinogradTest, TilesOfTwoAreExactOnSmallIntegers) {
    for (const WinogradTile tile : {WinogradTile::f2x2, WinogradTile::f2x2_stride2}) {
        ConvShape s = image(9, 7, 16, 24);
        s.stride_h = s.stride_w = stride_of(tile);
        std::vector<float> x(static_cast<size_t>(s.h * s.w * s.c)), w(static_cast<size_t>(s.oc * s.c * 9));
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7919 % 17) - 8;
        for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i * 104729 % 13) - 6;
        const WinogradPlan plan(s, {}, GetParam(), tile);
        const ConvPlan direct(s, {}, GetParam());
        const auto result = [&](const auto& of) {
            AlignedFloats packed(of.packed_weight_size());
            of.pack_weights(w.data(), packed.data());
            AlignedFloats workspace(static_cast<int64_t>(of.workspace(1) / sizeof(float)));
            std::vector<float> y(static_cast<size_t>(s.oh() * s.ow() * s.oc));
            ThreadPool pool(1);
            of.run(x.data(), packed.data(), y.data(), {}, workspace.data(), pool, 1);
            return y;
        };
        EXPECT_EQ(result(plan), result(direct)) << "tile " << static_cast<int>(tile);
    }
}

TEST_P(WinogradTest, RefusesWhatItCannotDo) {
    EXPECT_EQ(WinogradPlan::refusal(image(8, 8, 16, 16), GetParam()), "");
    EXPECT_NE(WinogradPlan::refusal(image(8, 8, 16, 16), GetParam(), WinogradTile::f2x2_stride2), "");
    ConvShape s = image(8, 8, 16, 16);
    s.stride_w = 2;
    for (const WinogradTile tile : kTiles) EXPECT_NE(WinogradPlan::refusal(s, GetParam(), tile), "");
    s.stride_h = 2;
    EXPECT_EQ(WinogradPlan::refusal(s, GetParam(), WinogradTile::f2x2_stride2), "");
    EXPECT_NE(WinogradPlan::refusal(image(8, 8, 12, 16), GetParam()), "");
    EXPECT_NE(WinogradPlan::refusal(image(2, 8, 16, 16, 0), GetParam()), "");
}

INSTANTIATE_TEST_SUITE_P(Isa, WinogradTest, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace planish::cpu
