// Convolutions and pooling: against the definition on random data, and the corners of padding.
#include <gmock/gmock.h>

#include <cmath>
#include <random>

#include "op_runner.hpp"

namespace planish::testing {
namespace {

using ::testing::ElementsAre;

Tensor random(Dims dims, uint32_t seed) {
    Tensor t(DType::f32, dims);
    std::mt19937 bits(seed);
    // Small integers: every product and sum is exact, so that results must agree bit for bit.
    for (float& v : t.data<float>()) v = static_cast<float>(static_cast<int>(bits() % 15) - 7);
    return t;
}

struct Case {
    int64_t batch, channels, height, width, out_channels, groups, kernel, stride, dilation, pad_begin, pad_end;
};

class Conv2d : public ::testing::TestWithParam<Case> {};

TEST_P(Conv2d, AgreesWithTheDefinition) {
    const Case c = GetParam();
    const Tensor x = random({c.batch, c.channels, c.height, c.width}, 1);
    const Tensor w = random({c.out_channels, c.channels / c.groups, c.kernel, c.kernel}, 2);
    const Tensor b = random({c.out_channels}, 3);
    const auto pair = [](int64_t v) { return std::vector<int64_t>{v, v}; };
    const Tensor y = run_op("Conv", {x, w, b},
                            {{"group", c.groups},
                             {"strides", pair(c.stride)},
                             {"dilations", pair(c.dilation)},
                             {"pads", std::vector<int64_t>{c.pad_begin, c.pad_begin, c.pad_end, c.pad_end}}})[0];
    const int64_t extent = (c.kernel - 1) * c.dilation + 1;
    const auto out_size = [&](int64_t in) { return (in + c.pad_begin + c.pad_end - extent) / c.stride + 1; };
    const int64_t oh = out_size(c.height), ow = out_size(c.width), per_group = c.channels / c.groups;
    ASSERT_EQ(y.dims(), (Dims{c.batch, c.out_channels, oh, ow}));
    int64_t at = 0;
    for (int64_t n = 0; n < c.batch; ++n)
        for (int64_t o = 0; o < c.out_channels; ++o)
            for (int64_t i = 0; i < oh; ++i)
                for (int64_t j = 0; j < ow; ++j, ++at) {
                    double sum = b.at_double(o);
                    for (int64_t k = 0; k < per_group * c.kernel * c.kernel; ++k) {
                        const int64_t channel = o / (c.out_channels / c.groups) * per_group + k / (c.kernel * c.kernel);
                        const int64_t r = i * c.stride - c.pad_begin + k / c.kernel % c.kernel * c.dilation;
                        const int64_t s = j * c.stride - c.pad_begin + k % c.kernel * c.dilation;
                        if (r < 0 || r >= c.height || s < 0 || s >= c.width) continue;
                        sum += x.at_double(((n * c.channels + channel) * c.height + r) * c.width + s) *
                               w.at_double(o * per_group * c.kernel * c.kernel + k);
                    }
                    ASSERT_EQ(y.at_double(at), sum) << n << ' ' << o << ' ' << i << ' ' << j;
                }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Conv2d,
                         ::testing::Values(Case{1, 3, 9, 8, 8, 1, 3, 1, 1, 1, 1}, Case{2, 4, 7, 7, 4, 1, 1, 1, 1, 0, 0},
                                           Case{1, 6, 10, 11, 6, 6, 3, 2, 1, 1, 0},
                                           Case{1, 4, 9, 9, 8, 2, 3, 1, 2, 2, 2}, Case{1, 2, 5, 6, 5, 1, 5, 3, 1, 4, 3},
                                           Case{1, 8, 6, 6, 16, 8, 2, 2, 1, 0, 1},
                                           Case{1, 3, 40, 40, 7, 1, 7, 2, 1, 3, 3}));

TEST(Conv, OneAndThreeSpatialAxes) {
    EXPECT_THAT(values_of("Conv", {floats({1, 1, 4}, {1, 2, 3, 4}), floats({1, 1, 2}, {1, 10})}),
                ElementsAre(21, 32, 43));
    const Tensor ones = typed(DType::f32, {1, 1, 2, 2, 2}, std::vector<double>(8, 1));
    EXPECT_THAT(values_of("Conv", {ones, ones}), ElementsAre(8));
}

TEST(Conv, SamePaddingPutsTheOddPixelWhereItBelongs) {
    const Tensor x = floats({1, 1, 4}, {1, 2, 3, 4}), w = floats({1, 1, 2}, {1, 10});
    EXPECT_THAT(values_of("Conv", {x, w}, {{"auto_pad", "SAME_UPPER"}}), ElementsAre(21, 32, 43, 4));
    EXPECT_THAT(values_of("Conv", {x, w}, {{"auto_pad", "SAME_LOWER"}}), ElementsAre(10, 21, 32, 43));
}

TEST(ConvTranspose, IsTheAdjointOfConv) {
    // <conv(x), y> = <x, conv_transpose(y)> for all x and y.
    const Tensor x = random({1, 4, 7, 6}, 4), w = random({6, 2, 3, 3}, 5);
    const Attributes attributes{
        {"group", int64_t{2}}, {"strides", std::vector<int64_t>{2, 1}}, {"pads", std::vector<int64_t>{1, 0, 1, 1}}};
    const Tensor y = run_op("Conv", {x, w}, attributes)[0];
    const Tensor other = random(y.dims(), 6);
    const Tensor back = run_op("ConvTranspose", {other, w}, attributes)[0];
    ASSERT_EQ(back.dims(), x.dims());
    double left = 0, right = 0;
    for (int64_t i = 0; i < y.size(); ++i) left += y.at_double(i) * other.at_double(i);
    for (int64_t i = 0; i < x.size(); ++i) right += x.at_double(i) * back.at_double(i);
    EXPECT_EQ(left, right);
}

TEST(Pool, AveragesCountPaddingOnlyWhenAsked) {
    const Tensor x = floats({1, 1, 3}, {3, 6, 9});
    const Attributes base{{"kernel_shape", std::vector<int64_t>{2}}, {"pads", std::vector<int64_t>{1, 1}}};
    Attributes with_padding = base;
    with_padding["count_include_pad"] = int64_t{1};
    EXPECT_THAT(values_of("AveragePool", {x}, base), ElementsAre(3, 4.5, 7.5, 9));
    EXPECT_THAT(values_of("AveragePool", {x}, with_padding), ElementsAre(1.5, 4.5, 7.5, 4.5));
}

TEST(Pool, CeilModeDropsWindowsThatStartInTheRightPadding) {
    const Tensor x = floats({1, 1, 4}, {1, 2, 3, 4});
    EXPECT_THAT(values_of("MaxPool", {x},
                          {{"kernel_shape", std::vector<int64_t>{3}},
                           {"strides", std::vector<int64_t>{2}},
                           {"ceil_mode", int64_t{1}}}),
                ElementsAre(3, 4));
    EXPECT_THAT(values_of("MaxPool", {x},
                          {{"kernel_shape", std::vector<int64_t>{1}},
                           {"strides", std::vector<int64_t>{3}},
                           {"pads", std::vector<int64_t>{0, 1}},
                           {"ceil_mode", int64_t{1}}}),
                ElementsAre(1, 4));
}

TEST(Pool, MaxUnpoolPutsBackWhatMaxPoolTook) {
    const Tensor x = floats({1, 1, 2, 4}, {1, 9, 3, 4, 5, 6, 8, 7});
    const Attributes window{{"kernel_shape", std::vector<int64_t>{2, 2}}, {"strides", std::vector<int64_t>{2, 2}}};
    const auto pooled = run_op("MaxPool", {x}, window, 2);
    EXPECT_THAT(pooled[0].to_doubles(), ElementsAre(9, 8));
    EXPECT_THAT(pooled[1].to_int64s(), ElementsAre(1, 6));
    EXPECT_THAT(values_of("MaxUnpool", {pooled[0], pooled[1]}, window), ElementsAre(0, 9, 0, 0, 0, 0, 8, 0));
}

TEST(Resize, NearestLinearAndAntialias) {
    const Tensor x = floats({1, 1, 1, 4}, {0, 1, 2, 3});
    const Tensor none, down = floats({4}, {1, 1, 1, 0.5f}), up = floats({4}, {1, 1, 1, 2});
    EXPECT_THAT(values_of("Resize", {x, none, down}, {{"mode", "nearest"}}), ElementsAre(0, 2));
    EXPECT_THAT(values_of("Resize", {x, none, down}, {{"mode", "linear"}}), ElementsAre(0.5, 2.5));
    EXPECT_THAT(values_of("Resize", {x, none, up}, {{"mode", "linear"}}),
                ElementsAre(0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3));
    EXPECT_THAT(values_of("Resize", {x, none, none, ints({4}, {1, 1, 1, 2})},
                          {{"mode", "linear"}, {"coordinate_transformation_mode", "align_corners"}}),
                ElementsAre(0, 3));
}

}  // namespace
}  // namespace planish::testing
