// Histograms, grids, tables.
#include "precision/observer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "base/small_float.hpp"
#include "planish/error.hpp"
#include "precision/quantize.hpp"
#include "precision/table.hpp"

namespace planish::precision {
namespace {

std::vector<float> normal(size_t count, uint32_t seed, float mean = 0) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> distribution(mean, 1);
    std::vector<float> values(count);
    for (float& v : values) v = distribution(generator);
    return values;
}

double square_error(const std::vector<float>& values, const Grid& grid) {
    const Tensor x = Tensor::from(std::span<const float>(values), {static_cast<int64_t>(values.size())});
    const Tensor y = rounded_to(x, grid);
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += std::pow(double{y.data<float>()[i]} - values[i], 2);
    return sum / static_cast<double>(values.size());
}

TEST(Grid, FloatsOfEightBitsAreTheNearest) {
    for (int code = 0; code < 0x7e; ++code) {
        const auto low = static_cast<float>(decode_small_float(DType::f8e4m3fn, static_cast<uint32_t>(code))),
                   high = static_cast<float>(decode_small_float(DType::f8e4m3fn, static_cast<uint32_t>(code + 1)));
        for (int i = 0; i <= 8; ++i) {
            const float x = low + (high - low) * static_cast<float>(i) / 8;
            const auto stored =
                static_cast<float>(decode_small_float(DType::f8e4m3fn, encode_small_float(DType::f8e4m3fn, x, true)));
            EXPECT_EQ(nearest_float8(x), stored) << x;
            EXPECT_EQ(nearest_float8(-x), -stored) << x;
        }
    }
    EXPECT_EQ(nearest_float8(1e30f), 448);
    EXPECT_EQ(nearest_float8(-INFINITY), -448);
    const Grid grid = float_grid_of(-3.5, 7);
    EXPECT_EQ(grid.scale, 7 / 448.0f);
    EXPECT_EQ(grid.high(), 7);
    EXPECT_EQ(grid.low(), -7);
}

TEST(Grid, ZeroIsExactAndBothEndsAreHeld) {
    for (const auto& [low, high] : {std::pair(-1.0, 3.0), {0.0, 6.0}, {2.0, 5.0}, {-4.0, -1.0}, {-0.001, 1000.0}}) {
        const Grid grid = grid_of(low, high);
        EXPECT_GE(grid.zero, 0);
        EXPECT_LE(grid.zero, 255);
        EXPECT_NEAR(grid.low(), std::min(low, 0.0), grid.scale / 2 * 1.001);
        EXPECT_NEAR(grid.high(), std::max(high, 0.0), grid.scale / 2 * 1.001);
        EXPECT_EQ(rounded_to(Tensor::scalar(0.0f), grid).data<float>()[0], 0);
    }
    EXPECT_EQ(grid_of(0, 0), (Grid{1, 0}));
    EXPECT_EQ(grid_of(0, 1e-42), (Grid{1, 0}));
}

TEST(RoundedTo, TiesGoToEvenAndTheRestIsCutOff) {
    const std::vector<float> x = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 1e30f, -1e30f, NAN};
    const Tensor y = rounded_to(Tensor::from(std::span<const float>(x), {8}), Grid{1, 10});
    const std::vector<float> expected = {0, 2, 2, 0, -2, 245, -10};
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(y.data<float>()[i], expected[i]) << i;
    EXPECT_FALSE(std::isnan(y.data<float>()[7]));
}

TEST(Histogram, NeitherOrderNorBatchesMatter) {
    std::vector<float> values = normal(10000, 1);
    values.push_back(37);
    Histogram whole, parts, merged, other;
    whole.add(values);
    for (size_t i = values.size(); i-- > 0;) parts.add(std::span(values).subspan(i, 1));
    merged.add(std::span(values).first(5000));
    other.add(std::span(values).subspan(5000));
    merged.add(other);
    for (const Method method : {Method::min_max, Method::percentile, Method::entropy, Method::mse}) {
        EXPECT_EQ(whole.choose(method, 99.9), parts.choose(method, 99.9)) << to_string(method);
        EXPECT_EQ(whole.choose(method, 99.9), merged.choose(method, 99.9)) << to_string(method);
    }
}

TEST(Histogram, LeastSquaresFindsTheBestSpan) {
    std::vector<float> values = normal(20000, 2);
    for (float& v : values) v = v * v * v;  // long tails
    Histogram histogram;
    histogram.add(values);
    const double error = square_error(values, histogram.choose(Method::mse, 0));
    EXPECT_LT(error, square_error(values, histogram.choose(Method::min_max, 0)));
    // Nothing on a raster of spans is better by more than the histogram's resolution.
    double least = INFINITY;
    for (double high = 2; high <= histogram.high(); high += 2)
        for (double low = histogram.low(); low <= -2; low += 2)
            least = std::min(least, square_error(values, grid_of(low, high)));
    EXPECT_LT(error, 1.02 * least);
}

TEST(Histogram, OfAReluKeepsItsZerosAndItsBound) {
    std::vector<float> values = normal(50000, 3);
    for (float& v : values) v = std::clamp(3 * v, 0.0f, 6.0f);
    Histogram histogram;
    histogram.add(values);
    EXPECT_EQ(histogram.choose(Method::mse, 0).zero, 0);
    EXPECT_NEAR(histogram.choose(Method::mse, 0).high(), 6, 0.1);
}

TEST(Histogram, PercentileAndEntropyCutTails) {
    std::vector<float> values = normal(100000, 4);
    values.push_back(50);
    Histogram histogram;
    histogram.add(values);
    EXPECT_NEAR(histogram.choose(Method::percentile, 99.0).high(), 2.58, 0.1);
    EXPECT_LT(histogram.choose(Method::entropy, 0).high(), 25);
}

TEST(Method, UnknownNamesAreErrors) {
    EXPECT_EQ(parse_method("entropy"), Method::entropy);
    EXPECT_THROW(parse_method("best"), Error);
}

TEST(CalibrationTable, WrittenAndReadAgain) {
    const auto path = std::filesystem::temp_directory_path() / "planish_calibration_test.json";
    const CalibrationTable table = {{"a/b", grid_of(-1, 3)}, {"x", grid_of(0, 6)}};
    write_table(path, table);
    const CalibrationTable again = read_table(path);
    ASSERT_EQ(again.size(), 2u);
    for (const auto& [name, grid] : table) {
        EXPECT_NEAR(again.at(name).scale, grid.scale, 1e-6 * grid.scale);
        EXPECT_EQ(again.at(name).zero, grid.zero);
    }
    for (const char* text : {"", "{}", R"({"planish": "calibration", "tensors": {"a": {"low": 1}}})",
                             R"({"planish": "calibration", "tensors": {"a": {"low": 1, "high": 0}}})"}) {
        std::ofstream(path) << text;
        EXPECT_THROW(read_table(path), Error) << text;
    }
    std::filesystem::remove(path);
}

}  // namespace
}  // namespace planish::precision
