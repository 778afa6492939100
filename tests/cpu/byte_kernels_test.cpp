// Kernels over bytes against plain loops, on every ISA and odd sizes.
#include <algorithm>
#include <limits>

#include "cpu/kernel_test_util.hpp"

namespace planish::cpu {
namespace {

class ByteKernels : public testing::TestWithParam<Isa> {
  protected:
    const KernelTable& table() const { return kernels(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Isa, ByteKernels, testing::ValuesIn(isas_here()), isa_name);

std::vector<uint8_t> random_bytes(int64_t size, uint32_t seed) {
    std::mt19937 generator(seed);
    std::vector<uint8_t> bytes(static_cast<size_t>(size));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(generator());
    return bytes;
}

/// The bytes that a real within `error` of `real` may be stored as, in units of the scale; the quotient is rounded,
/// too.
void expect_stored(uint8_t got, double real, double error, const ByteScale& s) {
    const double quanta = std::clamp(real / s.scale, -1e6, 1e6), slack = error / s.scale + 3 * kEps * std::fabs(quanta);
    const auto stored = [&](double q) { return std::clamp(std::nearbyint(q) + s.zero, 0.0, 255.0); };
    EXPECT_GE(got, stored(quanta - slack)) << real;
    EXPECT_LE(got, stored(quanta + slack)) << real;
}

TEST_P(ByteKernels, EncodeAndDecode) {
    for (const ByteScale scale : {ByteScale{0.02f, 0}, ByteScale{0.02f, 113}, ByteScale{0.011f, 255}})
        for (const int64_t n : {1, 3, 7, 16, 17, 64, 1001}) {
            Floats x = Floats::random(n, 5);
            if (n > 8) {
                x[0] = 1e30f, x[1] = -1e30f, x[2] = std::numeric_limits<float>::infinity(), x[3] = -x[2];
                x[4] = std::numeric_limits<float>::quiet_NaN();
                x[5] = 2.5f * scale.scale;
            }
            std::vector<uint8_t> y(static_cast<size_t>(n) + 16, 77);
            const int64_t half = n / 2;
            table().encode({x.data(), y.data(), scale}, half, n);
            table().encode({x.data(), y.data(), scale}, 0, half);
            for (int64_t i = 0; i < n; ++i)
                if (std::isnan(x[i]))
                    EXPECT_EQ(y[static_cast<size_t>(i)], 0);
                else
                    expect_stored(y[static_cast<size_t>(i)], x[i], 0, scale);
            for (size_t i = static_cast<size_t>(n); i < y.size(); ++i) ASSERT_EQ(y[i], 77) << "written past the end";
            const std::vector<uint8_t> stored = random_bytes(n, 6);
            Floats back(n);
            table().decode({stored.data(), back.data(), scale}, 0, n);
            for (int64_t i = 0; i < n; ++i)
                EXPECT_EQ(back[i], (static_cast<float>(stored[static_cast<size_t>(i)]) - scale.zero) * scale.scale);
            EXPECT_TRUE(back.intact());
        }
}

TEST_P(ByteKernels, EncodesByTheScaleItself) {
    const ByteScale scale{0.0123f, 117};
    for (const int64_t n : {1, 7, 16, 17, 4001}) {
        const Floats x = Floats::random(n, 5);
        std::vector<uint8_t> y(static_cast<size_t>(n));
        table().encode({x.data(), y.data(), scale, true}, 0, n);
        for (int64_t i = 0; i < n; ++i)
            ASSERT_EQ(y[static_cast<size_t>(i)],
                      std::clamp(std::nearbyint(x[i] / scale.scale) + scale.zero, 0.0f, 255.0f))
                << x[i];
    }
}

TEST_P(ByteKernels, Extremes) {
    for (const int64_t n : {1, 3, 16, 17, 63, 64, 65, 1001})
        for (const int64_t pieces : {int64_t{1}, std::min<int64_t>(n, 3)})
            for (const float shift : {0.0f, 5.0f, -5.0f}) {
                Floats x = Floats::random(n, 5);
                for (int64_t i = 0; i < n; ++i) x[i] += shift;
                if (n > 3) x[1] = std::numeric_limits<float>::quiet_NaN();
                std::vector<float> least(static_cast<size_t>(pieces), 77), greatest(least);
                table().extremes({x.data(), least.data(), greatest.data(), n, pieces}, 0, pieces);
                float low = 0, high = 0;
                for (int64_t i = 0; i < n; ++i) low = std::fmin(low, x[i]), high = std::fmax(high, x[i]);
                EXPECT_EQ(*std::min_element(least.begin(), least.end()), low);
                EXPECT_EQ(*std::max_element(greatest.begin(), greatest.end()), high);
            }
}

TEST_P(ByteKernels, Pool) {
    struct Geometry {
        int64_t kernel, stride, dilation, pad;
    };
    for (const Geometry g : {Geometry{1, 1, 1, 0}, {2, 2, 1, 0}, {3, 2, 1, 1}, {3, 1, 2, 2}, {5, 3, 1, 2}})
        for (const int64_t channels : {1, 3, 16, 19, 32, 64, 70, 130})
            for (int variant = 0; variant < 4; ++variant) {
                const int64_t batch = 2, in_h = 9, in_w = 11, reach = g.dilation * (g.kernel - 1) + 1;
                BytePoolArgs args;
                PoolArgs& w = args.window;
                w.channels = channels;
                w.in_height = in_h, w.in_width = in_w;
                w.out_height = (in_h + 2 * g.pad - reach) / g.stride + 1;
                w.out_width = (in_w + 2 * g.pad - reach) / g.stride + 1;
                w.kernel_h = w.kernel_w = g.kernel, w.stride_h = w.stride_w = g.stride;
                w.dilation_h = w.dilation_w = g.dilation;
                w.pad_top = w.pad_left = w.pad_bottom = w.pad_right = g.pad;
                w.average = variant > 0;
                w.count_include_pad = variant > 1;
                w.set_dense_strides();
                args.input_scale = {0.03f, 97};
                args.output_scale = {0.02f, 131};
                const std::vector<uint8_t> x = random_bytes(batch * in_h * in_w * channels, 30);
                const int64_t outputs = batch * w.out_height * w.out_width * channels, items = batch * w.out_height;
                std::vector<uint8_t> y(static_cast<size_t>(outputs) + 64, 77);
                Floats reals(outputs);
                args.input = x.data(), args.bytes = y.data();
                if (variant == 3) args.floats = reals.data();
                table().byte_pool(args, 1, items);
                table().byte_pool(args, 0, 1);
                for (size_t i = static_cast<size_t>(outputs); i < y.size(); ++i) ASSERT_EQ(y[i], 77);
                ASSERT_TRUE(reals.intact());
                int64_t at = 0;
                for (int64_t b = 0; b < batch; ++b)
                    for (int64_t oy = 0; oy < w.out_height; ++oy)
                        for (int64_t ox = 0; ox < w.out_width; ++ox)
                            for (int64_t c = 0; c < channels; ++c, ++at) {
                                int64_t sum = 0, top = 0, real = 0;
                                for (int64_t ky = 0; ky < g.kernel; ++ky)
                                    for (int64_t kx = 0; kx < g.kernel; ++kx) {
                                        const int64_t iy = oy * g.stride + ky * g.dilation - g.pad;
                                        const int64_t ix = ox * g.stride + kx * g.dilation - g.pad;
                                        if (iy < 0 || iy >= in_h || ix < 0 || ix >= in_w) continue;
                                        const int64_t v =
                                            x[static_cast<size_t>(((b * in_h + iy) * in_w + ix) * channels + c)];
                                        sum += v - 97, ++real, top = std::max(top, v);
                                    }
                                const uint8_t got = y[static_cast<size_t>(at)];
                                if (!w.average) {
                                    ASSERT_EQ(got, top);
                                    continue;
                                }
                                // The sum is exact; scale / divisor and the product are rounded.
                                const auto divisor =
                                    static_cast<double>(w.count_include_pad ? g.kernel * g.kernel : real);
                                const double mean = static_cast<double>(sum) * args.input_scale.scale / divisor;
                                const double error = 2 * kEps * std::fabs(mean);
                                if (variant == 3)
                                    ASSERT_NEAR(reals[at], mean, error);
                                else
                                    expect_stored(got, mean, error, args.output_scale);
                            }
            }
}

TEST_P(ByteKernels, Transpose) {
    for (const int64_t rows : {1, 15, 16, 17, 48, 70})
        for (const int64_t columns : {1, 3, 16, 33, 64}) {
            const int64_t input_stride = columns + 5, output_stride = rows + 3;
            const std::vector<uint8_t> x = random_bytes(rows * input_stride, 3);
            std::vector<uint8_t> y(static_cast<size_t>(columns * output_stride), 77);
            const ByteTransposeArgs args{x.data(), y.data(), columns, input_stride, output_stride};
            table().byte_transpose(args, rows / 3, rows);
            table().byte_transpose(args, 0, rows / 3);
            for (int64_t c = 0; c < columns; ++c)
                for (int64_t r = 0; r < output_stride; ++r)
                    ASSERT_EQ(y[static_cast<size_t>(c * output_stride + r)],
                              r < rows ? x[static_cast<size_t>(r * input_stride + c)] : 77);
        }
}

}  // namespace
}  // namespace planish::cpu
