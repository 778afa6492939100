// 8-bit depthwise convolution against exact integer sums, over odd shapes, strides, paddings and epilogues.
#include "backends/cpu/jit/depthwise_i8.hpp"

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

std::vector<Isa> isas() {
    std::vector<Isa> result;
    for (Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512_vnni})
        if (hardware_isa() >= isa) result.push_back(isa);
    return result;
}

double stored(double real, const ByteFormat& output) {
    return std::clamp(std::nearbyint(real / output.scale) + output.zero, 0.0, 255.0);
}

void check(const DepthwiseShape& s, const PostOps& post_ops, const DepthwiseI8Options& options, unsigned seed) {
    SCOPED_TRACE("N " + std::to_string(s.batch) + " H " + std::to_string(s.height) + " W " + std::to_string(s.width) +
                 " C " + std::to_string(s.channels) + " k " + std::to_string(s.kernel_h) + "x" +
                 std::to_string(s.kernel_w) + " s " + std::to_string(s.stride_h) + "," + std::to_string(s.stride_w) +
                 " d " + std::to_string(s.dilation_h) + "," + std::to_string(s.dilation_w) + " pad " +
                 std::to_string(s.pad_top) + "," + std::to_string(s.pad_left) + "," + std::to_string(s.pad_bottom) +
                 "," + std::to_string(s.pad_right) + " x zero " + std::to_string(options.x_zero));
    std::mt19937 rng(seed);
    const auto bytes = [&](int64_t count, int low, int high) {
        std::uniform_int_distribution<int> uniform(low, high);
        std::vector<uint8_t> values(static_cast<size_t>(count));
        for (uint8_t& value : values) value = static_cast<uint8_t>(uniform(rng));
        return values;
    };
    const int64_t oh = s.out_height(), ow = s.out_width(), outputs = s.batch * oh * ow * s.channels;
    const int64_t taps = s.kernel_h * s.kernel_w;
    auto x = bytes(s.batch * s.height * s.width * s.channels, 0, 255);
    auto w = bytes(s.channels * taps, -127, 127);
    // Sums as large as they come.
    if (seed % 5 == 0) std::fill(x.begin(), x.end(), uint8_t{255});
    if (seed % 5 == 0) std::fill(w.begin(), w.end(), static_cast<uint8_t>(seed % 2 ? -127 : 127));
    const auto* weights = reinterpret_cast<const int8_t*>(w.data());
    std::vector<float> scales = testing::random_floats(s.channels, seed), bias = testing::random_floats(s.channels, 1);
    for (float& scale : scales) scale = (std::fabs(scale) + 0.01f) / static_cast<float>(500 * taps);
    std::vector<std::vector<float>> vectors, tensors;
    for (const PostOp& op : post_ops) {
        if (has_channel_operand(op.kind)) vectors.push_back(testing::random_floats(s.channels, seed + 2));
        if (!has_tensor_operand(op.kind)) continue;
        tensors.push_back(testing::random_floats(outputs, seed + 3));
        if (op.bytes) std::memcpy(tensors.back().data(), bytes(outputs, 0, 255).data(), static_cast<size_t>(outputs));
    }
    std::vector<const float*> vector_pointers, tensor_pointers, in_order;
    for (const auto& vector : vectors) vector_pointers.push_back(vector.data());
    for (const auto& tensor : tensors) tensor_pointers.push_back(tensor.data());

    std::vector<testing::Expected> want;
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t oy = 0; oy < oh; ++oy)
            for (int64_t ox = 0; ox < ow; ++ox)
                for (int64_t c = 0; c < s.channels; ++c) {
                    int64_t sum = 0;
                    for (int64_t ky = 0; ky < s.kernel_h; ++ky)
                        for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
                            const int64_t iy = oy * s.stride_h - s.pad_top + ky * s.dilation_h;
                            const int64_t ix = ox * s.stride_w - s.pad_left + kx * s.dilation_w;
                            if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
                            sum += (x[static_cast<size_t>(((n * s.height + iy) * s.width + ix) * s.channels + c)] -
                                    options.x_zero) *
                                   weights[(c * s.kernel_h + ky) * s.kernel_w + kx];
                        }
                    // The sum and its scale are rounded to float, then their fused sum with the bias; in units of the
                    // output scale and bias are rounded once more.
                    const double product = static_cast<double>(sum) * scales[static_cast<size_t>(c)];
                    const double addend = bias[static_cast<size_t>(c)];
                    testing::Expected value(product + addend, 0x1p-22 * (std::fabs(product) + std::fabs(addend)));
                    for (const PostOp& op : post_ops) {
                        const auto& operands = has_channel_operand(op.kind) ? vector_pointers : tensor_pointers;
                        value.apply({op}, operands, c, static_cast<int64_t>(want.size()));
                    }
                    want.push_back(value);
                }

    static ThreadPool pool(3);
    for (Isa isa : isas()) {
        SCOPED_TRACE(to_string(isa));
        const DepthwiseI8Plan plan(s, post_ops, options, isa);
        testing::AlignedFloats packed(static_cast<int64_t>(plan.packed_size() / 4 + 1)),
            workspace(static_cast<int64_t>(plan.workspace(3) / 4 + 1));
        auto* packed_bytes = reinterpret_cast<std::byte*>(packed.data());
        plan.pack(weights, {scales.data(), bias.data(), vector_pointers}, packed_bytes);
        // The image ends at an inaccessible page.
        std::vector<float> padded((x.size() + 3) / 4);
        const size_t lead = padded.size() * 4 - x.size();
        std::memcpy(reinterpret_cast<uint8_t*>(padded.data()) + lead, x.data(), x.size());
        testing::GuardedFloats guarded(padded);
        const uint8_t* image = reinterpret_cast<const uint8_t*>(guarded.data()) + lead;

        constexpr size_t kGuard = 64;
        const size_t element = options.output ? 1 : 4, size = static_cast<size_t>(outputs) * element;
        std::vector<uint8_t> y(size + kGuard, 77);
        plan.run(image, packed_bytes, y.data(), tensor_pointers, reinterpret_cast<std::byte*>(workspace.data()), pool,
                 1);
        for (size_t i = size; i < y.size(); ++i) ASSERT_EQ(y[i], 77) << "written past the end";
        for (size_t i = 0; i < want.size(); ++i) {
            const auto where = [&] {
                return "element " + std::to_string(i) + " channel " + std::to_string(i % s.channels) + " column " +
                       std::to_string(i / s.channels % ow) + " row " + std::to_string(i / (s.channels * ow) % oh);
            };
            if (options.output) {
                const double low = stored(want[i].value() - want[i].tolerance(), *options.output);
                const double high = stored(want[i].value() + want[i].tolerance(), *options.output);
                ASSERT_TRUE(y[i] >= low && y[i] <= high) << where() << ": " << int{y[i]} << " is not " << high;
            } else {
                float got;
                std::memcpy(&got, y.data() + 4 * i, 4);
                ASSERT_TRUE(want[i].matches(got)) << where() << ": " << got << want[i].text();
            }
        }
        std::vector<uint8_t> other(size, 1);
        plan.run(image, packed_bytes, other.data(), tensor_pointers, reinterpret_cast<std::byte*>(workspace.data()),
                 pool, 3);
        ASSERT_EQ(0, std::memcmp(y.data(), other.data(), size));
    }
}

const ByteFormat kOutput{0.01f, 121};

TEST(DepthwiseI8, GridOfShapes) {
    unsigned seed = 0;
    for (int64_t channels : {1, 7, 16, 24, 37, 40, 64, 72, 96, 120, 144})
        for (int64_t kernel : {1, 2, 3, 5, 7})
            for (int64_t stride : {1, 2, 3})
                for (int64_t size : {1, 2, 5, 14, 23}) {
                    const int64_t pad = kernel / 2;
                    DepthwiseShape s{
                        1, size, size + seed % 3, channels, kernel, kernel, stride, stride, 1, 1, pad, pad, pad, pad};
                    if (s.out_height() <= 0 || s.out_width() <= 0) continue;
                    ++seed;
                    DepthwiseI8Options options;
                    options.x_zero = seed % 3 == 0 ? 0 : static_cast<int>(seed * 37 % 256);
                    if (seed % 4 != 0) options.output = ByteFormat{0.01f, static_cast<int>(seed * 53 % 256)};
                    check(s, seed % 2 ? PostOps{} : PostOps{{Kind::clip, -0.25f, 0.75f}}, options, seed);
                    if (HasFatalFailure()) return;
                }
}

TEST(DepthwiseI8, RandomGeometry) {
    std::mt19937 rng(3);
    auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
    for (unsigned seed = 0; seed < 150; ++seed) {
        DepthwiseShape s;
        s.batch = pick(1, 3);
        s.height = pick(1, 20);
        s.width = pick(1, 40);
        s.channels = pick(1, 150);
        s.kernel_h = pick(1, 9);
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
        DepthwiseI8Options options{pick(0, 255), std::nullopt};
        if (seed % 3 != 0) options.output = ByteFormat{0.01f, pick(0, 255)};
        check(s, {}, options, seed);
        if (HasFatalFailure()) return;
    }
}

TEST(DepthwiseI8, Epilogues) {
    const std::vector<PostOps> epilogues = {
        {{Kind::relu}},
        {{Kind::relu}, {Kind::clip, -1, 0.5f}},
        {{Kind::clip, 0.25f, 6}, {Kind::relu}},
        {{Kind::silu, 1}},
        {{Kind::hard_swish}},
        {{Kind::add_channel, 0, 0, 0}, {Kind::mul_channel, 0, 0, 1}, {Kind::tanh}},
        {{Kind::prelu_channel, 0, 0, 0}},
        {{Kind::add_tensor, 0, 0, 0}, {Kind::relu}},
        {{Kind::sub_tensor, 0, 0, 0}, {Kind::mul_tensor, 0, 0, 1}},
        {{Kind::add_tensor, 0.01f, -1.2f, 0, true}, {Kind::mul_tensor, 0, 0, 1}, {Kind::clip, 0, 1}},
        {{Kind::rsub_tensor, 0, 0, 0}, {Kind::max_tensor, 0, 0, 1}, {Kind::min_tensor, 0, 0, 2}},
    };
    unsigned seed = 0;
    for (const PostOps& post_ops : epilogues)
        for (const int64_t channels : {16, 24, 56, 64, 100})
            for (const bool quantized : {false, true}) {
                const DepthwiseShape s{2, 5, 17, channels, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
                check(s, post_ops, {99, quantized ? std::optional(kOutput) : std::nullopt}, ++seed);
                if (HasFatalFailure()) return;
            }
}

// Reals far outside of what is stored saturate.
TEST(DepthwiseI8, OutOfRangeSaturates) {
    const DepthwiseShape s{1, 4, 9, 80, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
    for (const int zero : {0, 3, 255})
        for (const PostOps& post_ops : {PostOps{}, PostOps{{Kind::scale_shift, 1e6f, 0}}})
            check(s, post_ops, {7, ByteFormat{1e-9f, zero}}, 5 + static_cast<unsigned>(zero));
}

TEST(DepthwiseI8, RefusesTensorsOfFewChannels) {
    const DepthwiseShape s{1, 4, 4, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
    EXPECT_ANY_THROW(DepthwiseI8Plan(s, {{Kind::add_tensor, 0, 0, 0}}, {}, Isa::avx2));
}

}  // namespace
}  // namespace planish::cpu
