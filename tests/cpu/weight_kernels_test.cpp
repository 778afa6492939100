// Products with weights in 4 or 8 bits against plain loops, on every ISA: odd sizes, cut-off blocks, all zero points.
#include <array>

#include "cpu/kernel_test_util.hpp"

namespace planish::cpu {
namespace {

class WeightKernels : public testing::TestWithParam<Isa> {
  protected:
    const KernelTable& table() const { return kernels(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Isa, WeightKernels, testing::ValuesIn(isas_here()), isa_name);

/// Codes, scales and zero points that know their places; what lies past k or n is random, too.
struct Weights {
    CodedWeights layout;
    std::vector<uint32_t> codes;
    Floats scales;
    std::vector<uint8_t> zeros;

    Weights(int64_t k, int64_t n, int64_t block, int bits)
        : layout{nullptr, nullptr, nullptr, k, n, block, bits},
          codes(static_cast<size_t>(layout.panels() * layout.words() * CodedWeights::kPanel)),
          scales(Floats::random(layout.panels() * layout.blocks() * CodedWeights::kPanel, 1, 0.01f, 0.02f)),
          zeros(static_cast<size_t>(scales.size())) {
        std::mt19937 generator(2);
        for (uint32_t& word : codes) word = static_cast<uint32_t>(generator());
        for (uint8_t& zero : zeros) zero = static_cast<uint8_t>(generator() % (1U << bits));
        layout.codes = codes.data();
        layout.scales = scales.data();
        layout.zeros = zeros.data();
    }
    double operator()(int64_t row, int64_t column) const {
        const int64_t panel = column / CodedWeights::kPanel, j = column % CodedWeights::kPanel;
        const int64_t per_word = layout.rows_per_word(), word = row / per_word;
        const uint32_t packed = codes[static_cast<size_t>((panel * layout.words() + word) * CodedWeights::kPanel + j)];
        const uint32_t code = packed >> (row % per_word * layout.bits) & ((1U << layout.bits) - 1);
        const int64_t format = (panel * layout.blocks() + row / layout.block) * CodedWeights::kPanel + j;
        return (double{static_cast<double>(code)} - zeros[static_cast<size_t>(format)]) * scales[format];
    }
};

struct Size {
    int64_t k, n, block;
};
constexpr Size kSizes[] = {{1, 1, 1},    {7, 5, 7},     {8, 16, 8},     {64, 33, 32}, {96, 17, 32},
                           {90, 40, 32}, {100, 16, 16}, {131, 50, 131}, {24, 100, 8}};

TEST_P(WeightKernels, Product) {
    for (const int bits : {4, 8})
        for (const Size& size : kSizes)
            for (const int64_t m : {1, 2, 3, 4, 7, 8, 13}) {
                SCOPED_TRACE(std::to_string(bits) + " bits, k " + std::to_string(size.k) + ", n " +
                             std::to_string(size.n) + ", m " + std::to_string(m));
                const Weights b(size.k, size.n, size.block, bits);
                const Floats a = Floats::random(m * size.k, 3);
                Floats c(m * size.n);
                run_split(b.layout.panels(), c, [&](int64_t begin, int64_t end) {
                    table().coded_product({b.layout, a.data(), c.data(), m, size.k, size.n}, begin, end);
                });
                std::vector<double> expected, tolerance;
                for (int64_t i = 0; i < m; ++i)
                    for (int64_t j = 0; j < size.n; ++j) {
                        double sum = 0, magnitude = 0;
                        for (int64_t r = 0; r < size.k; ++r) {
                            sum += a[i * size.k + r] * b(r, j);
                            magnitude += std::fabs(a[i * size.k + r] * b(r, j));
                        }
                        expected.push_back(sum);
                        // A rounding for each product and addition, the scale and its sum: k + 3 at most.
                        tolerance.push_back(static_cast<double>(size.k + 3) * kEps * magnitude);
                    }
                expect_close(c, expected, tolerance);
            }
}

TEST_P(WeightKernels, Decode) {
    for (const int bits : {4, 8})
        for (const Size& size : kSizes) {
            const Weights b(size.k, size.n, size.block, bits);
            for (int64_t first = 0; first < b.layout.panels(); first += 2) {
                const int64_t last = std::min(b.layout.panels(), first + 2);
                const int64_t width = (last - first) * CodedWeights::kPanel;
                Floats rows(size.k * width);
                table().decode_weights({b.layout, rows.data(), width}, first, last);
                ASSERT_TRUE(rows.intact());
                for (int64_t r = 0; r < size.k; ++r)
                    for (int64_t j = 0; j < width && first * CodedWeights::kPanel + j < size.n; ++j) {
                        const double w = b(r, first * CodedWeights::kPanel + j);
                        EXPECT_EQ(rows[r * width + j], static_cast<float>(w));
                    }
            }
        }
}

}  // namespace
}  // namespace planish::cpu
