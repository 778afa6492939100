// Packed weights: made once, aligned, next to each other, alive as long as anyone holds them.
#include "backends/packed_store.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "planish/error.hpp"

namespace planish {
namespace {

TEST(PackedStore, PacksOnceAndKeepsMemoryAlive) {
    std::vector<std::shared_ptr<const Tensor>> constants;
    std::vector<Tensor> packed;
    {
        PackedStore store;
        int made = 0;
        int64_t total = 0;
        // Through the first slab, a whole one, and one that needs a slab of its own.
        for (const int64_t count : {1, 17, 100'000, 60'000, 1'500'000, 5, 3'000'000, 16}) {
            constants.push_back(std::make_shared<const Tensor>(Tensor::scalar(0.0F)));
            const auto fill = [&](std::span<float> to) {
                ASSERT_EQ(static_cast<int64_t>(to.size()), count);
                std::fill(to.begin(), to.end(), static_cast<float>(++made));
            };
            packed.push_back(store.get(constants.back(), "a", count, fill));
            total += count * 4;
            EXPECT_EQ(store.get(constants.back(), "a", count, fill).raw(), packed.back().raw());
        }
        EXPECT_EQ(made, static_cast<int>(packed.size()));
        EXPECT_EQ(store.bytes(), total);
        const Tensor other = store.get(constants[0], "b", 1, [](std::span<float> to) { to[0] = -1; });
        EXPECT_NE(other.raw(), packed[0].raw());
    }
    for (size_t i = 0; i < packed.size(); ++i) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(packed[i].raw()) % 64, 0U);
        const auto values = packed[i].data<float>();
        EXPECT_EQ(std::count(values.begin(), values.end(), static_cast<float>(i + 1)),
                  static_cast<int64_t>(values.size()));
    }
}

TEST(PackedStore, ForgetsWhatItsConstantTookAlong) {
    PackedStore store;
    auto constant = std::make_shared<const Tensor>(Tensor::scalar(0.0F));
    store.get(constant, "a", 1000, [](std::span<float> to) { std::fill(to.begin(), to.end(), 1.0F); });
    EXPECT_EQ(store.bytes(), 4000);
    constant.reset();
    EXPECT_EQ(store.bytes(), 0);
}

TEST(PackedStore, AFormThatLeavesSomethingOutIsAnError) {
    PackedStore store;
    const auto constant = std::make_shared<const Tensor>(Tensor::scalar(0.0F));
    const auto fill = [](std::span<float> to) { std::fill(to.begin(), to.end(), 1.0F); };
    store.get(constant, "rows of one image", 12, fill);
    EXPECT_THROW(store.get(constant, "rows of one image", 16, fill), Error);
}

}  // namespace
}  // namespace planish
