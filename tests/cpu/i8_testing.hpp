// What the tests of integer products share: bytes, and what a result may be given its float64 value.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backends/cpu/jit/i8_product.hpp"
#include "cpu/product_testing.hpp"

namespace planish::cpu::testing {

template <typename T>
std::vector<T> random_bytes(int64_t count, uint32_t seed, int low = std::numeric_limits<T>::min(),
                            int high = std::numeric_limits<T>::max()) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int> uniform(low, high);
    std::vector<T> bytes(static_cast<size_t>(count));
    for (T& b : bytes) b = static_cast<T>(uniform(generator));
    return bytes;
}

/// Every level with an integer kernel of its own that this machine can run.
inline std::vector<Isa> integer_isas() {
    std::vector<Isa> isas;
    for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512_vnni})
        if (isa <= hardware_isa()) isas.push_back(isa);
    return isas;
}
inline std::string isa_name(const ::testing::TestParamInfo<Isa>& info) {
    return info.param == Isa::avx512_vnni ? "avx512_vnni" : std::string(to_string(info.param));
}

/// sum * scale + bias of exact factors: the sum and both terms are rounded to float32, and so is the result, which
/// makes four halves of a unit in the last place of either.
inline Expected rescaled(int64_t sum, double scale, double bias) {
    constexpr double kEps = std::numeric_limits<float>::epsilon();
    const double product = static_cast<double>(sum) * scale;
    return {product + bias, 2 * kEps * (std::fabs(product) + std::fabs(bias))};
}

/// Whether `got` is the rounding of a number within the tolerance of y / s + z; the division, the zero point and terms
/// merged with them cost some roundings of numbers of that size.
inline bool matches_byte(const Expected& e, const ByteFormat& format, uint8_t got) {
    constexpr double kEps = std::numeric_limits<float>::epsilon();
    const double y = e.value() / format.scale + format.zero;
    const double tolerance = e.tolerance() / format.scale + 4 * kEps * (std::fabs(e.value() / format.scale) + 255);
    const auto byte = [](double x) { return std::clamp(x, 0.0, 255.0); };
    return got >= byte(std::ceil(y - tolerance - 0.5)) && got <= byte(std::floor(y + tolerance + 0.5));
}

}  // namespace planish::cpu::testing
