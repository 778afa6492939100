// Shared by the kernel tests: every ISA that this machine has, random data, splits of a range, tolerances.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/kernels/kernels.hpp"

namespace planish::cpu {

constexpr double kEps = 1.0 / (1 << 24);  // half a unit in the last place of 1.0f: the error of one rounding

inline std::vector<Isa> isas_here() {
    std::vector<Isa> isas = {Isa::baseline};
    if (hardware_isa() >= Isa::avx2) isas.push_back(Isa::avx2);
    if (hardware_isa() >= Isa::avx512) isas.push_back(Isa::avx512);
    return isas;
}

inline std::string isa_name(const testing::TestParamInfo<Isa>& info) {
    return std::string(to_string(info.param));
}

/// `size` floats that end right before `slack` canary floats, so that a kernel that writes beyond its end is seen.
class Floats {
  public:
    explicit Floats(int64_t size, float fill = 0) : size_(size), data_(static_cast<size_t>(size + kSlack), kCanary) {
        for (int64_t i = 0; i < size; ++i) data_[i] = fill;
    }
    static Floats random(int64_t size, uint32_t seed, float low = -3, float high = 3) {
        Floats floats(size);
        std::mt19937 generator(seed);
        std::uniform_real_distribution<float> uniform(low, high);
        for (int64_t i = 0; i < size; ++i) floats[i] = uniform(generator);
        return floats;
    }
    float& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
    const float& operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }
    float* data() { return data_.data(); }
    const float* data() const { return data_.data(); }
    int64_t size() const { return size_; }
    bool intact() const {
        for (int64_t i = 0; i < kSlack; ++i)
            if (data_[size_ + i] != kCanary) return false;
        return true;
    }

  private:
    static constexpr int64_t kSlack = 16;
    static constexpr float kCanary = -12345.5f;
    int64_t size_;
    std::vector<float> data_;
};

/// Runs kernel(begin, end) over [0, items) whole into `output`, then again in uneven pieces: both must agree bit for
/// bit.
template <typename Run>
void run_split(int64_t items, Floats& output, const Run& run) {
    run(int64_t{0}, items);
    ASSERT_TRUE(output.intact());
    const Floats whole = output;
    for (int64_t i = 0; i < output.size(); ++i) output[i] = -777;
    for (int64_t begin = 0, piece = 1; begin < items; piece = piece % 7 + 1) {
        const int64_t end = std::min(items, begin + piece);
        run(begin, end);
        begin = end;
    }
    ASSERT_TRUE(output.intact());
    ASSERT_EQ(std::memcmp(whole.data(), output.data(), sizeof(float) * output.size()), 0) << "depends on the split";
}

/// |actual - expected| <= tolerance for each element; NaN and infinity must match.
inline void expect_close(const Floats& actual, const std::vector<double>& expected,
                         const std::vector<double>& tolerance) {
    ASSERT_EQ(static_cast<size_t>(actual.size()), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
        if (std::isnan(expected[i])) {
            ASSERT_TRUE(std::isnan(actual[i])) << "at " << i;
        } else if (std::isinf(expected[i])) {
            ASSERT_EQ(actual[i], expected[i]) << "at " << i;
        } else {
            ASSERT_LE(std::abs(actual[i] - expected[i]), tolerance[tolerance.size() == 1 ? 0 : i])
                << "at " << i << ": " << actual[i] << " instead of " << expected[i];
        }
    }
}

}  // namespace planish::cpu
