// The order of mixes, on tables of times and noises made by hand.
#include "precision/mixes.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace planish::precision {
namespace {

using testing::Each;
using testing::ElementsAre;

/// A part of two choices; float32 adds no noise.
std::vector<Choice> part(double floats, double integers, double noise) {
    return {{"fp32", floats, 0}, {"int8", integers, noise}};
}

TEST(SearchPath, PartsThatIntegersSlowDownNeverTakeThem) {
    const std::vector<std::vector<Choice>> parts = {part(2, 1, 0.1), part(1, 5, 0.1), part(2, 1, 0.2)};
    for (const Mix& mix : search_path(parts, {})) EXPECT_EQ(mix[1], 0u);
}

TEST(SearchPath, WhatSavesMostNoiseForItsTimeGoesFirst) {
    // Noise for each second: 0.1, 3, 0.5.
    const std::vector<std::vector<Choice>> parts = {part(2, 1, 0.1), part(2, 1, 3), part(3, 1, 1)};
    EXPECT_THAT(search_path(parts, {}), ElementsAre(Mix{1, 1, 1}, Mix{1, 0, 1}, Mix{1, 0, 0}, Mix{0, 0, 0}));
}

TEST(SearchPath, AGainThatConversionsEatIsNone) {
    const std::vector<std::vector<Choice>> parts = {part(1, 2, 0.1), part(2, 1.5, 0.1), part(1, 2, 0.1)};
    const std::vector<Crossing> cheap = {{0, 1, 0.1}, {1, 2, 0.1}}, dear = {{0, 1, 0.4}, {1, 2, 0.4}};
    EXPECT_EQ(search_path(parts, cheap).front(), (Mix{0, 1, 0}));
    EXPECT_THAT(search_path(parts, dear), Each(Mix{0, 0, 0}));
}

TEST(SearchPath, APartOfOneChoiceKeepsIt) {
    std::vector<std::vector<Choice>> parts = {part(2, 1, 0.1), {{"int8", 1, 9}}};
    EXPECT_THAT(search_path(parts, {}), ElementsAre(Mix{1, 0}, Mix{0, 0}));
}

TEST(SearchPath, AThirdPrecisionIsAnotherColumn) {
    const std::vector<std::vector<Choice>> parts = {{{"fp32", 4, 0}, {"fp16", 2, 0.01}, {"int8", 1, 1}}};
    EXPECT_THAT(search_path(parts, {}), ElementsAre(Mix{2}, Mix{1}, Mix{0}));
}

TEST(SearchPath, NoiseFallsAlongIt) {
    std::mt19937 generator(1);
    std::uniform_real_distribution<double> uniform(0, 1);
    for (int round = 0; round < 50; ++round) {
        std::vector<std::vector<Choice>> parts;
        std::vector<Crossing> crossings;
        for (size_t p = 0; p < 12; ++p) {
            parts.push_back(part(uniform(generator), uniform(generator), uniform(generator)));
            if (p > 0) crossings.push_back({p - 1, p, 0.2 * uniform(generator)});
        }
        const std::vector<Mix> path = search_path(parts, crossings);
        for (size_t i = 1; i < path.size(); ++i) EXPECT_LT(noise_of(path[i], parts), noise_of(path[i - 1], parts));
        EXPECT_EQ(noise_of(path.back(), parts), 0);
        // No single change makes the first of them faster.
        for (size_t p = 0; p < parts.size(); ++p) {
            Mix other = path.front();
            other[p] = 1 - other[p];
            EXPECT_GE(seconds_of(other, parts, crossings), seconds_of(path.front(), parts, crossings) - 1e-9);
        }
    }
}

}  // namespace
}  // namespace planish::precision
