// Symbolic dimensions: canonical form, arithmetic, substitution, text.
#include "ir/dim.hpp"

#include <gtest/gtest.h>

#include <random>

#include "planish/error.hpp"

namespace planish {
namespace {

const Dim N = Dim::symbol("N"), S = Dim::symbol("S");

TEST(Dim, EqualSizesCompareEqual) {
    EXPECT_EQ(N * 2 + 1, Dim(1) + N + N);
    EXPECT_EQ((N + 1) * (N - 1), N * N - 1);
    EXPECT_EQ(N - N, Dim(0));
    EXPECT_TRUE((N - N + 4).is_constant());
    EXPECT_FALSE(N == S);
    EXPECT_FALSE(N == Dim(1));
    EXPECT_EQ(N * S, S * N);
}

TEST(Dim, DivisionTakesOutWhatDivides) {
    EXPECT_EQ(*Dim::exact_div(N * S * 4, S * 2), N * 2);
    EXPECT_FALSE(Dim::exact_div(N * 4 + 1, 2).has_value());
    EXPECT_FALSE(Dim::exact_div(N, S).has_value());
    EXPECT_FALSE(Dim::exact_div(N, 0).has_value());
    EXPECT_EQ(Dim::floor_div(N * 2 + 1, 2), N);
    EXPECT_EQ(Dim::floor_div(N * 2 - 1, 2), N - 1);
    EXPECT_EQ(Dim::floor_div(-7, 2), Dim(-4));
    EXPECT_EQ(Dim::ceil_div(7, 2), Dim(4));
    EXPECT_THROW(Dim::floor_div(N, 0), Error);
}

TEST(Dim, MaxAndMinOfKnownDifferences) {
    EXPECT_EQ(Dim::max(N, N + 2), N + 2);
    EXPECT_EQ(Dim::min(N, N + 2), N);
    EXPECT_EQ(Dim::max(N, S), Dim::max(S, N));
}

TEST(Dim, UnknownsEqualOnlyThemselves) {
    const Dim a = Dim::unknown(), b = Dim::unknown();
    EXPECT_EQ(a, a);
    EXPECT_FALSE(a == b);
    EXPECT_TRUE((a + 1).contains_unknown());
    // An unknown read back from text must not collide with one made later.
    const Dim read = Dim::parse((a + 1).to_string());
    EXPECT_EQ(read, a + 1);
    EXPECT_FALSE(Dim::unknown() == a);
}

TEST(Dim, OverflowIsAnError) {
    EXPECT_THROW(Dim(INT64_MAX) + Dim(1), Error);
    EXPECT_THROW(Dim(INT64_MAX) * Dim(2), Error);
}

TEST(Dim, MalformedTextIsAnError) {
    for (const char* text : {"", "N +", "(N", "floor(N)", "2N", "N N", "99999999999999999999", "*"})
        EXPECT_THROW(Dim::parse(text), Error) << text;
    EXPECT_THROW(Dim::parse(std::string(100000, '(')), Error);
}

// Random expressions: text reads back equal, and substitution commutes with arithmetic.
TEST(Dim, RandomExpressions) {
    std::mt19937 random(1);
    const SymbolTable values{{"N", 3}, {"S", 7}, {"batch size", 2}};
    struct Pair {
        Dim dim;
        int64_t value;
    };
    auto floor_div = [](int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); };
    for (int round = 0; round < 300; ++round) {
        std::vector<Pair> pool{{N, 3}, {S, 7}, {Dim::symbol("batch size"), 2}, {5, 5}, {1, 1}};
        for (int step = 0; step < 6; ++step) {
            const Pair a = pool[random() % pool.size()], b = pool[random() % pool.size()];
            switch (random() % 6) {
                case 0:
                    pool.push_back({a.dim + b.dim, a.value + b.value});
                    break;
                case 1:
                    pool.push_back({a.dim - b.dim, a.value - b.value});
                    break;
                case 2:
                    if (std::abs(a.value * b.value) < 100000) pool.push_back({a.dim * b.dim, a.value * b.value});
                    break;
                case 3:
                    pool.push_back({Dim::max(a.dim, b.dim), std::max(a.value, b.value)});
                    break;
                case 4:
                    pool.push_back({Dim::min(a.dim, b.dim), std::min(a.value, b.value)});
                    break;
                case 5: {
                    const int64_t c = 1 + static_cast<int64_t>(random() % 4);
                    pool.push_back({Dim::floor_div(a.dim, c), floor_div(a.value, c)});
                    break;
                }
            }
        }
        for (const Pair& p : pool) {
            EXPECT_EQ(p.dim.substitute(values), Dim(p.value)) << p.dim.to_string();
            EXPECT_EQ(Dim::parse(p.dim.to_string()), p.dim) << p.dim.to_string();
        }
    }
}

}  // namespace
}  // namespace planish
