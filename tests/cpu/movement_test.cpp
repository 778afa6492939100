// Copies against index arithmetic: random boxes, permutations, padding, gathering, resizing.
#include "backends/cpu/kernels/movement.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "backends/cpu/kernels/resize.hpp"
#include "cpu/kernel_test_util.hpp"

namespace planish::cpu {
namespace {

std::vector<uint8_t> counting_bytes(int64_t size) {
    std::vector<uint8_t> bytes(static_cast<size_t>(size));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37 + i / 251);
    return bytes;
}

// Element by element, in the order of the axes as given.
void copy_plainly(std::span<const CopyAxis> axes, int64_t element_size, const uint8_t* x, uint8_t* y) {
    if (axes.empty()) {
        std::memcpy(y, x, static_cast<size_t>(element_size));
        return;
    }
    for (int64_t i = 0; i < axes[0].size; ++i)
        copy_plainly(axes.subspan(1), element_size, x + i * axes[0].source, y + i * axes[0].target);
}

void run_pieces(const CopyPlan& plan, Isa isa, const void* x, void* y) {
    for (int64_t begin = 0, piece = 1; begin < plan.items(); begin += piece, piece = piece % 5 + 1)
        plan.run(kernels(isa), x, y, begin, std::min(plan.items(), begin + piece));
}

TEST(CopyPlan, EveryPermutationAndElementSize) {
    for (Isa isa : isas_here()) {
        for (int64_t element_size : {1, 2, 4, 8, 12, 16}) {
            for (const std::vector<int64_t>& shape :
                 std::vector<std::vector<int64_t>>{{2, 3, 5, 4}, {1, 20, 1, 33}, {2, 17, 3, 70}, {3, 1, 1, 2}}) {
                std::vector<int> perm = {0, 1, 2, 3};
                const int64_t size = shape[0] * shape[1] * shape[2] * shape[3] * element_size;
                const std::vector<uint8_t> x = counting_bytes(size);
                do {
                    std::vector<int64_t> strides(4);
                    for (int64_t i = 3, s = element_size; i >= 0; s *= shape[i], --i) strides[i] = s;
                    std::vector<CopyAxis> axes(4);
                    for (int64_t i = 3, s = element_size; i >= 0; s *= shape[perm[i]], --i)
                        axes[i] = {shape[perm[i]], strides[perm[i]], s};
                    std::vector<uint8_t> expected(size), actual(size);
                    copy_plainly(axes, element_size, x.data(), expected.data());
                    const CopyPlan plan = CopyPlan::transpose(shape, perm, element_size);
                    EXPECT_EQ(plan.bytes(), size);
                    run_pieces(plan, isa, x.data(), actual.data());
                    ASSERT_EQ(actual, expected);
                } while (std::next_permutation(perm.begin(), perm.end()));
            }
        }
    }
}

TEST(CopyPlan, RandomBoxesWithGapsBroadcastsAndReversals) {
    std::mt19937 random(7);
    const auto pick = [&](int64_t low, int64_t high) {
        return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    for (int round = 0; round < 3000; ++round) {
        const int64_t element_size = std::vector<int64_t>{1, 2, 4, 8, 16}[pick(0, 4)];
        const size_t rank = static_cast<size_t>(pick(0, 5));
        std::vector<CopyAxis> axes(rank);
        std::vector<size_t> source_order(rank), target_order(rank);
        std::iota(source_order.begin(), source_order.end(), 0);
        target_order = source_order;
        std::shuffle(source_order.begin(), source_order.end(), random);
        std::shuffle(target_order.begin(), target_order.end(), random);
        for (CopyAxis& axis : axes) axis.size = pick(0, 40) == 0 ? 0 : pick(1, rank > 3 ? 7 : 40);
        int64_t source_size = element_size, target_size = element_size, source_start = 0;
        for (size_t i : source_order) {
            const int64_t kind = pick(0, 5);
            axes[i].source = kind == 0 ? 0 : source_size + (kind == 1 ? 3 * element_size : 0);
            if (kind == 0) continue;
            source_size = axes[i].source * std::max<int64_t>(axes[i].size, 1);
            if (kind == 2) {  // reversed: starts at its far end
                source_start += axes[i].source * (std::max<int64_t>(axes[i].size, 1) - 1);
                axes[i].source = -axes[i].source;
            }
        }
        for (size_t i : target_order) {
            axes[i].target = target_size + (pick(0, 5) == 0 ? 2 * element_size : 0);
            target_size = axes[i].target * std::max<int64_t>(axes[i].size, 1);
        }
        const std::vector<uint8_t> x = counting_bytes(source_size);
        std::vector<uint8_t> expected(target_size, 0xee), actual(target_size, 0xee);
        copy_plainly(axes, element_size, x.data() + source_start, expected.data());
        run_pieces(CopyPlan(axes, element_size), isas_here().back(), x.data() + source_start, actual.data());
        ASSERT_EQ(actual, expected) << "round " << round;
    }
}

TEST(CopyPlan, LongRunsAreSplitForThreads) {
    const CopyAxis axis{int64_t{1} << 20, 4, 4};
    EXPECT_GE(CopyPlan({&axis, 1}, 4).items(), 32);
}

TEST(GridCopyPlan, PaddingInEveryMode) {
    constexpr int64_t P = GridCopyPlan::kPad;
    const std::vector<float> x = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};  // 3 x 4
    const float pad = 0.5f;
    const auto run = [&](std::vector<int64_t> rows, std::vector<int64_t> columns) {
        std::vector<float> y(rows.size() * columns.size(), -1);
        const GridCopyPlan plan({rows, columns}, 4);
        for (int64_t i = 0; i < plan.items(); ++i) plan.run(x.data(), &pad, y.data(), i, i + 1);
        return y;
    };
    // Constant, columns cropped at the end.
    EXPECT_THAT(run({P, 0, 4}, {P, P, 0, 1, 2}),
                testing::ElementsAre(.5, .5, .5, .5, .5, .5, .5, 0, 1, 2, .5, .5, 4, 5, 6));
    // Reflected rows, edge columns.
    EXPECT_THAT(run({4, 0, 4}, {0, 0, 1, 2, 3, 3}),
                testing::ElementsAre(4, 4, 5, 6, 7, 7, 0, 0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 7));
    // A dense last axis is merged with the one before, which has a pad of its own.
    EXPECT_THAT(run({P, 8}, {0, 1, 2, 3}), testing::ElementsAre(.5, .5, .5, .5, 8, 9, 10, 11));
}

TEST(Gather, RowsWithNegativeAndWrongIndices) {
    for (int64_t row_bytes : {1, 4, 8, 20, 100}) {
        const int64_t outer = 2, axis = 5;
        const std::vector<uint8_t> data = counting_bytes(outer * axis * row_bytes);
        const std::vector<int64_t> indices = {4, -1, 0, 2, -5, 3};
        const std::vector<int32_t> narrow(indices.begin(), indices.end());
        const int64_t items = outer * int64_t(indices.size());
        std::vector<uint8_t> expected, y(items * row_bytes), z(items * row_bytes);
        for (int64_t o = 0; o < outer; ++o)
            for (int64_t i : indices)
                for (int64_t b = 0; b < row_bytes; ++b)
                    expected.push_back(data[(o * axis + (i < 0 ? i + axis : i)) * row_bytes + b]);
        EXPECT_EQ(gather({data.data(), indices.data(), y.data(), axis, 6, row_bytes, false}, 0, items), -1);
        EXPECT_EQ(y, expected);
        EXPECT_EQ(gather({data.data(), narrow.data(), z.data(), axis, 6, row_bytes, true}, 0, items), -1);
        EXPECT_EQ(z, expected);
        const std::vector<int64_t> wrong = {0, 5, -6};
        EXPECT_EQ(gather({data.data(), wrong.data(), y.data(), axis, 3, row_bytes, false}, 0, 3), 1);
    }
}

// ---- Resize: tables against a direct reading of ONNX's definition, then the kernel against the tables.

TEST(ResizeTable, LinearHalfPixelByHand) {
    // ONNX's own example: [1, 2, 3, 4] scaled by 2.
    const ResizeTable table = resize_table({.in = 4, .out = 8, .scale = 2, .mode = ResizeMode::linear});
    const double x[] = {1, 2, 3, 4};
    std::vector<double> y;
    for (int64_t i = 0; i < 8; ++i)
        y.push_back(x[table.index[2 * i]] * table.weight[2 * i] + x[table.index[2 * i + 1]] * table.weight[2 * i + 1]);
    EXPECT_THAT(y, testing::ElementsAre(1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4));
}

TEST(ResizeTable, NearestModesAtHalves) {
    // Coordinates (i + 0.5) / 2 * 4 - 0.5 = 0.5, 2.5: exactly between pixels.
    const auto indices = [](ResizeNearest nearest) {
        return resize_table({.in = 4, .out = 2, .scale = 0.5, .nearest = nearest}).index;
    };
    EXPECT_THAT(indices(ResizeNearest::round_prefer_floor), testing::ElementsAre(0, 2));
    EXPECT_THAT(indices(ResizeNearest::round_prefer_ceil), testing::ElementsAre(1, 3));
    EXPECT_THAT(indices(ResizeNearest::floor), testing::ElementsAre(0, 2));
    EXPECT_THAT(indices(ResizeNearest::ceil), testing::ElementsAre(1, 3));
}

TEST(ResizeTable, CoordinatesOfEachMode) {
    const auto first_index = [](ResizeCoordinates coordinates, int64_t out, double scale) {
        return resize_table({.in = 10, .out = out, .scale = scale, .coordinates = coordinates}).index;
    };
    EXPECT_THAT(first_index(ResizeCoordinates::align_corners, 4, 0.4), testing::ElementsAre(0, 3, 6, 9));
    EXPECT_THAT(first_index(ResizeCoordinates::asymmetric, 4, 0.4), testing::ElementsAre(0, 2, 5, 7));
    EXPECT_THAT(first_index(ResizeCoordinates::half_pixel, 2, 0.2), testing::ElementsAre(2, 7));
    EXPECT_THAT(first_index(ResizeCoordinates::pytorch_half_pixel, 1, 0.1), testing::ElementsAre(0));
    const ResizeTable crop = resize_table({.in = 10,
                                           .out = 3,
                                           .scale = 0.3,
                                           .coordinates = ResizeCoordinates::tf_crop_and_resize,
                                           .roi_begin = 0.5,
                                           .roi_end = 1.5});
    EXPECT_THAT(crop.index, testing::ElementsAre(4, 9, 9));
    EXPECT_THAT(crop.outside, testing::ElementsAre(0, 0, 1));
}

TEST(ResizeTable, WeightsSumToOneAndStayInside) {
    for (ResizeMode mode : {ResizeMode::linear, ResizeMode::cubic}) {
        for (bool antialias : {false, true}) {
            for (bool exclude : {false, true}) {
                for (int64_t out : {1, 3, 7, 20}) {
                    const ResizeTable table = resize_table({.in = 7,
                                                            .out = out,
                                                            .scale = double(out) / 7,
                                                            .mode = mode,
                                                            .exclude_outside = exclude,
                                                            .antialias = antialias});
                    ASSERT_EQ(table.index.size(), size_t(out * table.taps));
                    for (int64_t i = 0; i < out; ++i) {
                        double sum = 0;
                        for (int t = 0; t < table.taps; ++t) {
                            sum += table.weight[i * table.taps + t];
                            EXPECT_GE(table.index[i * table.taps + t], 0);
                            EXPECT_LT(table.index[i * table.taps + t], 7);
                        }
                        EXPECT_NEAR(sum, 1, 8 * kEps);
                    }
                }
            }
        }
    }
}

class ResizeKernel : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Isa, ResizeKernel, testing::ValuesIn(isas_here()), isa_name);

TEST_P(ResizeKernel, MatchesItsTables) {
    for (ResizeMode mode : {ResizeMode::nearest, ResizeMode::linear, ResizeMode::cubic}) {
        for (int64_t channels : {1, 3, 16, 37}) {
            for (bool rows_only : {false, true}) {
                for (bool antialias : {false, true}) {
                    const int64_t batch = 2, in_h = 7, in_w = 5, out_h = 4, out_w = rows_only ? 5 : 11;
                    const ResizeTable h = resize_table({.in = in_h,
                                                        .out = out_h,
                                                        .scale = double(out_h) / in_h,
                                                        .mode = mode,
                                                        .antialias = antialias});
                    const ResizeTable w = resize_table({.in = in_w,
                                                        .out = out_w,
                                                        .scale = double(out_w) / in_w,
                                                        .mode = rows_only ? ResizeMode::nearest : mode,
                                                        .antialias = antialias});
                    const Floats x = Floats::random(batch * in_h * in_w * channels, 60);
                    Floats y(batch * out_h * out_w * channels);
                    ResizeArgs args;
                    std::vector<int64_t> offset_h, offset_w;
                    for (int64_t i : h.index) offset_h.push_back(i * in_w * channels);
                    for (int64_t i : w.index) offset_w.push_back(i * channels);
                    args.input = x.data(), args.output = y.data(), args.channels = channels;
                    args.out_height = out_h, args.out_width = out_w;
                    args.in_image_stride = in_h * in_w * channels;
                    args.out_row_stride = out_w * channels, args.out_image_stride = out_h * out_w * channels;
                    args.taps_h = h.taps, args.taps_w = w.taps;
                    args.offset_h = offset_h.data(), args.offset_w = offset_w.data();
                    args.weight_h = h.weight.data(), args.weight_w = w.weight.data();
                    run_split(batch * out_h, y, [&](int64_t b, int64_t e) { kernels(GetParam()).resize(args, b, e); });
                    std::vector<double> expected;
                    for (int64_t b = 0; b < batch; ++b) {
                        for (int64_t oy = 0; oy < out_h; ++oy) {
                            for (int64_t ox = 0; ox < out_w; ++ox) {
                                for (int64_t c = 0; c < channels; ++c) {
                                    double sum = 0;
                                    for (int i = 0; i < h.taps; ++i)
                                        for (int j = 0; j < w.taps; ++j)
                                            sum += double(h.weight[oy * h.taps + i]) * w.weight[ox * w.taps + j] *
                                                   x[((b * in_h + h.index[oy * h.taps + i]) * in_w +
                                                      w.index[ox * w.taps + j]) *
                                                         channels +
                                                     c];
                                    expected.push_back(sum);
                                }
                            }
                        }
                    }
                    // Weights add up to at most about 2 in magnitude, elements to 3, in taps_h + taps_w roundings.
                    expect_close(y, expected, {6 * (h.taps + w.taps + 2) * kEps});
                }
            }
        }
    }
}

}  // namespace
}  // namespace planish::cpu
