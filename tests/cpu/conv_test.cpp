// Generated convolutions against the definition in float64: strides, dilations, pads, groups, slices of wider tensors.
#include "backends/cpu/jit/conv.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/thread_pool.hpp"
#include "cpu/product_testing.hpp"

namespace planish::cpu {
namespace {

using testing::AlignedFloats;
using testing::Expected;
using testing::GuardedFloats;
using testing::random_floats;
using testing::supported_isas;

void check_conv(const ConvShape& s, const PostOps& post_ops, Isa isa, int threads = 1) {
    const int64_t x_pixel = s.x_pixel_stride == 0 ? s.c : s.x_pixel_stride;
    const int64_t y_pixel = s.y_pixel_stride == 0 ? s.oc : s.y_pixel_stride;
    const int64_t oh = s.oh(), ow = s.ow(), group_c = s.c / s.groups, group_oc = s.oc / s.groups;
    const std::vector<float> x = random_floats(s.n * s.h * s.w * x_pixel, 1);
    const std::vector<float> weights = random_floats(s.oc * group_c * s.kh * s.kw, 2);
    const std::vector<float> channel = random_floats(s.oc, 3), tensor = random_floats(s.n * oh * ow * y_pixel, 4);
    const std::array<const float*, 2> operands = {channel.data(), tensor.data()};

    const ConvPlan plan(s, post_ops, isa);
    AlignedFloats packed(plan.packed_weight_size());
    plan.pack_weights(weights.data(), packed.data());
    std::vector<float> unpacked(weights.size());
    plan.unpack_weights(packed.data(), unpacked.data());
    ASSERT_EQ(weights, unpacked);
    AlignedFloats workspace(static_cast<int64_t>(plan.workspace(threads) / sizeof(float)));
    constexpr float kUntouched = -777;
    std::vector<float> got(tensor.size(), kUntouched);
    ThreadPool pool(3);
    plan.run(x.data(), packed.data(), got.data(), operands, workspace.data(), pool, threads);

    const auto x_at = [&](int64_t n, int64_t h, int64_t w, int64_t c) {
        return x[static_cast<size_t>(s.x_nchw ? ((n * s.c + c) * s.h + h) * s.w + w
                                              : ((n * s.h + h) * s.w + w) * x_pixel + c)];
    };
    for (int64_t n = 0; n < s.n; ++n) {
        for (int64_t i = 0; i < oh; ++i) {
            for (int64_t j = 0; j < ow; ++j) {
                const int64_t pixel = ((n * oh + i) * ow + j) * y_pixel;
                for (int64_t o = 0; o < s.oc; ++o) {
                    Expected e;
                    for (int64_t c = 0; c < group_c; ++c) {
                        for (int64_t p = 0; p < s.kh; ++p) {
                            for (int64_t q = 0; q < s.kw; ++q) {
                                const int64_t h = i * s.stride_h + p * s.dilation_h - s.pad_top;
                                const int64_t w = j * s.stride_w + q * s.dilation_w - s.pad_left;
                                if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
                                e.add_product(x_at(n, h, w, o / group_oc * group_c + c),
                                              weights[static_cast<size_t>(((o * group_c + c) * s.kh + p) * s.kw + q)]);
                            }
                        }
                    }
                    e.apply(post_ops, operands, o, pixel + o);
                    ASSERT_TRUE(e.matches(got[static_cast<size_t>(pixel + o)]))
                        << "image " << n << " line " << i << " column " << j << " channel " << o << e.text();
                }
                for (int64_t o = s.oc; o < y_pixel; ++o) ASSERT_EQ(got[static_cast<size_t>(pixel + o)], kUntouched);
            }
        }
    }
}

const PostOps kBiasResidualRelu = {
    {PostOp::Kind::add_channel, 0, 0, 0}, {PostOp::Kind::add_tensor, 0, 0, 1}, {PostOp::Kind::relu}};

class ConvTest : public ::testing::TestWithParam<Isa> {
  protected:
    void check(const ConvShape& shape) {
        for (const int threads : {1, 3}) check_conv(shape, kBiasResidualRelu, GetParam(), threads);
    }
};

ConvShape square(int64_t size, int64_t c, int64_t oc, int64_t kernel, int64_t stride = 1, int64_t pad = 0) {
    ConvShape s;
    s.h = s.w = size;
    s.c = c;
    s.oc = oc;
    s.kh = s.kw = kernel;
    s.stride_h = s.stride_w = stride;
    s.pad_top = s.pad_left = s.pad_bottom = s.pad_right = pad;
    return s;
}

TEST_P(ConvTest, Pointwise) {
    for (const int64_t size : {1, 5, 14}) {
        for (const int64_t oc : {1, 24, 50}) check(square(size, 19, oc, 1));
    }
    ConvShape images = square(6, 8, 20, 1);
    images.n = 3;
    check(images);
}

TEST_P(ConvTest, PointwiseWithStride) {
    ConvShape s = square(11, 19, 33, 1, 2);
    s.n = 2;
    check(s);
    s.pad_left = 1;
    check(s);
}

TEST_P(ConvTest, DenseFilters) {
    for (const int64_t size : {7, 9, 17, 30}) {
        for (const int64_t stride : {1, 2, 3}) check(square(size, 5, 18, 3, stride, 1));
    }
    check(square(10, 6, 33, 5, 1, 0));
    check(square(12, 16, 16, 2, 2, 0));
}

TEST_P(ConvTest, UnequalGeometry) {
    ConvShape s;
    s.n = 2;
    s.h = 9;
    s.w = 23;
    s.c = 7;
    s.oc = 19;
    s.kh = 2;
    s.kw = 5;
    s.stride_h = 2;
    s.stride_w = 1;
    s.dilation_h = 3;
    s.dilation_w = 2;
    s.pad_top = 1;
    s.pad_left = 4;
    s.pad_bottom = 3;
    s.pad_right = 0;
    check(s);
}

TEST_P(ConvTest, OneDimension) {
    ConvShape s;
    s.w = 50;
    s.c = 12;
    s.oc = 30;
    s.kw = 3;
    s.pad_left = s.pad_right = 1;
    check(s);
}

TEST_P(ConvTest, FirstLayer) {
    for (const bool nchw : {false, true}) {
        ConvShape s = square(33, 3, 32, 3, 2, 1);
        s.n = 2;
        s.x_nchw = nchw;
        check(s);
        s = square(20, 3, 64, 7, 2, 3);
        s.x_nchw = nchw;
        check(s);
        s = square(9, 4, 8, 3);
        s.x_nchw = nchw;
        check(s);
    }
}

TEST_P(ConvTest, Groups) {
    for (const int64_t groups : {2, 4, 12}) {
        ConvShape s = square(8, 12, 36, 3, 1, 1);
        s.groups = groups;
        check(s);
        s.kh = s.kw = 1;
        s.pad_top = s.pad_left = s.pad_bottom = s.pad_right = 0;
        check(s);
    }
}

TEST_P(ConvTest, SlicesOfWiderTensors) {
    for (const int64_t kernel : {1, 3}) {
        for (const int64_t pad : {0, 1}) {
            ConvShape s = square(9, 10, 18, kernel, 1, pad);
            s.n = 2;
            s.x_pixel_stride = 13;
            s.y_pixel_stride = 40;
            check(s);
        }
    }
}

// Weights whose K needs blocks made of several segments, of one, and of parts of one.
TEST_P(ConvTest, LongK) {
    check(square(5, 300, 40, 3, 1, 1));
    check(square(4, 1500, 33, 2, 1, 0));
    check(square(3, 4000, 17, 3, 1, 1));
}

TEST_P(ConvTest, ManyBlocksOfLines) {
    ConvShape s = square(70, 24, 17, 3, 1, 1);
    s.n = 2;
    check(s);
}

TEST_P(ConvTest, TouchesNothingPastTheEnd) {
    for (const bool nchw : {false, true}) {
        for (const int64_t pad : {0, 1}) {
            ConvShape s = square(11, 3, 21, 3, 2, pad);
            s.x_nchw = nchw;
            const ConvPlan plan(s, {}, GetParam());
            GuardedFloats x(random_floats(s.h * s.w * s.c, 1));
            GuardedFloats y(std::vector<float>(static_cast<size_t>(s.oh() * s.ow() * s.oc)));
            GuardedFloats packed(std::vector<float>(static_cast<size_t>(plan.packed_weight_size())));
            GuardedFloats workspace(std::vector<float>(plan.workspace(1) / sizeof(float)));
            plan.pack_weights(random_floats(s.oc * s.c * 9, 2).data(), packed.data());
            plan.run(x.data(), packed.data(), y.data(), {}, workspace.data(), ThreadPool::process(), 1);
        }
    }
}

TEST_P(ConvTest, SameBitsForAnyNumberOfThreads) {
    const ConvShape s = square(28, 64, 96, 3, 1, 1);
    const std::vector<float> x = random_floats(s.h * s.w * s.c, 1), weights = random_floats(s.oc * s.c * 9, 2);
    const ConvPlan plan(s, {}, GetParam());
    AlignedFloats packed(plan.packed_weight_size());
    plan.pack_weights(weights.data(), packed.data());
    AlignedFloats workspace(static_cast<int64_t>(plan.workspace(3) / sizeof(float)));
    std::vector<float> first(static_cast<size_t>(s.oh() * s.ow() * s.oc)), again(first.size());
    ThreadPool pool(3);
    plan.run(x.data(), packed.data(), first.data(), {}, workspace.data(), pool, 1);
    for (const int threads : {1, 2, 3}) {
        std::fill(again.begin(), again.end(), 0.0F);
        plan.run(x.data(), packed.data(), again.data(), {}, workspace.data(), pool, threads);
        ASSERT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof(float)), 0) << threads << " threads";
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, ConvTest, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace planish::cpu
