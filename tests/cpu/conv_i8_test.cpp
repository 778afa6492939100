// Generated integer convolutions against the definition: strides, dilations, pads, groups, slices of wider tensors.
#include "backends/cpu/jit/conv_i8.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/thread_pool.hpp"
#include "cpu/i8_testing.hpp"

namespace planish::cpu {
namespace {

using testing::AlignedFloats;
using testing::Expected;
using testing::Guarded;
using testing::random_bytes;
using testing::random_floats;

constexpr ByteFormat kX{0.02F, 117}, kY{0.011F, 101};

/// A residual in bytes and a ReLU behind the convolution.
const PostOps kResidualRelu = {{PostOp::Kind::add_tensor, 0.01F, -1.17F, 0, true}, {PostOp::Kind::relu}};

template <typename T>
std::vector<T> run(const ConvI8Plan& plan, const std::vector<uint8_t>& x, const int8_t* packed,
                   const ColumnTerms& terms, const std::vector<uint8_t>& tensor, int threads) {
    Guarded<uint8_t> image(x), residual(tensor);
    Guarded<T> y(std::vector<T>(tensor.size(), T{77}));
    AlignedFloats workspace(static_cast<int64_t>(plan.workspace(threads) / sizeof(float)));
    const std::array<const float*, 1> operands = {reinterpret_cast<const float*>(residual.data())};
    static ThreadPool pool(3);
    plan.run(image.data(), packed, terms, y.data(), operands, workspace.data(), pool, threads);
    return {y.data(), y.data() + tensor.size()};
}

void check_conv(const ConvShape& s, Isa isa) {
    SCOPED_TRACE(std::to_string(s.kh) + "x" + std::to_string(s.kw) + " " + std::to_string(s.c) + " to " +
                 std::to_string(s.oc));
    const int64_t x_pixel = s.x_pixel_stride == 0 ? s.c : s.x_pixel_stride;
    const int64_t y_pixel = s.y_pixel_stride == 0 ? s.oc : s.y_pixel_stride;
    const int64_t oh = s.oh(), ow = s.ow(), group_c = s.c / s.groups, group_oc = s.oc / s.groups;
    const auto x = random_bytes<uint8_t>((s.n * s.h * s.w - 1) * x_pixel + s.c, 1);
    const auto weights = random_bytes<int8_t>(s.oc * group_c * s.kh * s.kw, 2);
    const auto tensor = random_bytes<uint8_t>((s.n * oh * ow - 1) * y_pixel + s.oc, 3);
    std::vector<float> scales = random_floats(s.oc, 4), bias = random_floats(s.oc, 5);
    for (float& f : scales) f = (f + 2) / (3000 * std::sqrt(static_cast<float>(group_c * s.kh * s.kw)) * kX.scale);

    const ConvI8Plan to_floats(s, kResidualRelu, std::nullopt, isa);
    const ConvI8Plan to_bytes(s, kResidualRelu, kY, isa);
    AlignedFloats memory(to_floats.packed_weight_size() / 4);
    auto* packed = reinterpret_cast<int8_t*>(memory.data());
    to_floats.pack_weights(weights.data(), packed);
    const auto floats = run<float>(to_floats, x, packed, to_floats.terms(packed, kX, scales, bias), tensor, 1);
    to_bytes.pack_weights(weights.data(), packed);
    const ColumnTerms terms = to_bytes.terms(packed, kX, scales, bias);
    const auto bytes = run<uint8_t>(to_bytes, x, packed, terms, tensor, 1);
    for (const int threads : {2, 3})
        ASSERT_EQ(bytes, run<uint8_t>(to_bytes, x, packed, terms, tensor, threads)) << threads << " threads";

    const auto x_at = [&](int64_t n, int64_t h, int64_t w, int64_t c) {
        return x[static_cast<size_t>(s.x_nchw ? ((n * s.c + c) * s.h + h) * s.w + w
                                              : ((n * s.h + h) * s.w + w) * x_pixel + c)];
    };
    const std::array<const float*, 1> operands = {reinterpret_cast<const float*>(tensor.data())};
    for (int64_t at = 0; at < static_cast<int64_t>(tensor.size()); ++at) {
        const int64_t o = at % y_pixel, j = at / y_pixel % ow, i = at / y_pixel / ow % oh, n = at / y_pixel / ow / oh;
        const float got = floats[static_cast<size_t>(at)];
        const uint8_t byte = bytes[static_cast<size_t>(at)];
        if (o >= s.oc) {
            ASSERT_EQ(got, 77);
            ASSERT_EQ(byte, 77);
            continue;
        }
        int64_t sum = 0;
        for (int64_t c = 0; c < group_c; ++c)
            for (int64_t p = 0; p < s.kh; ++p)
                for (int64_t q = 0; q < s.kw; ++q) {
                    const int64_t h = i * s.stride_h + p * s.dilation_h - s.pad_top;
                    const int64_t w = j * s.stride_w + q * s.dilation_w - s.pad_left;
                    if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
                    sum += int64_t{x_at(n, h, w, o / group_oc * group_c + c) - kX.zero} *
                           weights[static_cast<size_t>(((o * group_c + c) * s.kh + p) * s.kw + q)];
                }
        const auto channel = static_cast<size_t>(o);
        Expected e = testing::rescaled(sum, double{scales[channel]} * kX.scale, bias[channel]);
        e.apply(kResidualRelu, operands, o, at);
        ASSERT_TRUE(e.matches(got)) << n << ", " << i << ", " << j << ", " << o << ": " << got << e.text();
        ASSERT_TRUE(testing::matches_byte(e, kY, byte)) << n << ", " << i << ", " << j << ", " << o << ": " << +byte;
    }
}

// Numbers that floats multiply exactly, so that both ways to the columns' terms give equal bits.
void check_format_at_run_time(const ConvShape& s, Isa isa) {
    const ByteFormat x_format{0.5F, 117};
    const auto x = random_bytes<uint8_t>(s.n * s.h * s.w * s.c, 1);
    const auto weights = random_bytes<int8_t>(s.oc * s.c * s.kh * s.kw, 2);
    const std::vector<float> scales(static_cast<size_t>(s.oc), 0.25F), bias = random_floats(s.oc, 5);
    const ConvI8Plan plan(s, {}, std::nullopt, isa);
    AlignedFloats memory(plan.packed_weight_size() / 4);
    auto* packed = reinterpret_cast<int8_t*>(memory.data());
    plan.pack_weights(weights.data(), packed);
    const ColumnTerms known = plan.terms(packed, x_format, scales, bias);
    const ColumnTerms unit = plan.terms(packed, {1, 1}, scales, bias);
    Guarded<std::byte> found(std::vector<std::byte>(Columns::bytes_of(unit)));
    AlignedFloats workspace(static_cast<int64_t>(plan.workspace(1) / sizeof(float)));
    std::vector<float> expected(static_cast<size_t>(s.n * s.oh() * s.ow() * s.oc)), got(expected);
    ThreadPool pool(1);
    plan.run(x.data(), packed, known, expected.data(), {}, workspace.data(), pool, 1);
    plan.run(x.data(), packed, Columns(unit, x_format, found.data()), got.data(), {}, workspace.data(), pool, 1);
    EXPECT_EQ(got, expected);
}

class ConvI8Test : public ::testing::TestWithParam<Isa> {
  protected:
    void check(const ConvShape& shape) { check_conv(shape, GetParam()); }
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

TEST_P(ConvI8Test, FormatAtRunTime) {
    check_format_at_run_time(square(7, 8, 24, 3, 1, 1), GetParam());
    check_format_at_run_time(square(7, 8, 24, 1), GetParam());
}

TEST_P(ConvI8Test, Pointwise) {
    for (const int64_t size : {1, 5, 14})
        for (const int64_t oc : {1, 24, 50}) check(square(size, 19, oc, 1));
    ConvShape s = square(6, 3, 20, 1);
    s.n = 3;
    check(s);
    s = square(11, 18, 33, 1, 2);
    s.n = 2;
    check(s);
    s.pad_left = 1;
    check(s);
}

TEST_P(ConvI8Test, DenseFilters) {
    for (const int64_t size : {7, 9, 17, 30})
        for (const int64_t stride : {1, 2, 3}) check(square(size, 5, 18, 3, stride, 1));
    check(square(10, 6, 33, 5, 1, 0));
    check(square(12, 16, 16, 2, 2, 0));
    check(square(9, 1, 8, 3, 1, 1));
    check(square(5, 300, 40, 3, 1, 1));
}

TEST_P(ConvI8Test, UnequalGeometry) {
    ConvShape s;
    s.n = 2;
    s.h = 9;
    s.w = 23;
    s.c = 7;
    s.oc = 19;
    s.kh = 2;
    s.kw = 5;
    s.stride_h = 2;
    s.dilation_h = 3;
    s.dilation_w = 2;
    s.pad_top = 1;
    s.pad_left = 4;
    s.pad_bottom = 3;
    check(s);
    s = {};
    s.w = 50;
    s.c = 12;
    s.oc = 30;
    s.kw = 3;
    s.pad_left = s.pad_right = 1;
    check(s);
}

TEST_P(ConvI8Test, FirstLayer) {
    for (const bool nchw : {false, true}) {
        for (ConvShape s : {square(33, 3, 32, 3, 2, 1), square(20, 3, 64, 7, 2, 3), square(9, 4, 8, 3)}) {
            s.n = 2;
            s.x_nchw = nchw;
            check(s);
        }
    }
}

TEST_P(ConvI8Test, Groups) {
    for (const int64_t groups : {2, 4, 6, 12}) {
        ConvShape s = square(8, 12, 36, 3, 1, 1);
        s.groups = groups;
        check(s);
        s.kh = s.kw = 1;
        s.pad_top = s.pad_left = s.pad_bottom = s.pad_right = 0;
        check(s);
    }
}

TEST_P(ConvI8Test, SlicesOfWiderTensors) {
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

TEST_P(ConvI8Test, ManyBlocksOfLines) {
    check(square(110, 29, 17, 3, 1, 1));
}

INSTANTIATE_TEST_SUITE_P(Isa, ConvI8Test, ::testing::ValuesIn(testing::integer_isas()), testing::isa_name);

}  // namespace
}  // namespace planish::cpu
