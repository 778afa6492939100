// Budgets: what is understood and what is refused.
#include "build/accuracy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace planish {
namespace {

TEST(Budget, SaysWhatItBounds) {
    const Budget top1 = parse_budget("top1>=0.99");
    EXPECT_EQ(top1.metric, "top1");
    EXPECT_TRUE(top1.met(0.99, 1) && top1.met(1, 1));
    EXPECT_FALSE(top1.met(0.9899, 1));
    const Budget error = parse_budget("error <= 5e-2");
    EXPECT_TRUE(error.met(0.05, 0));
    EXPECT_FALSE(error.met(0.0501, 0));
    EXPECT_TRUE(error.better(0.01, 0.02));
}

TEST(Budget, OwnMetricsMayBeHeldAgainstFloat32) {
    const Budget relative = parse_budget("metric>=fp32-0.005");
    EXPECT_TRUE(relative.met(0.745, 0.75));
    EXPECT_FALSE(relative.met(0.744, 0.75));
    EXPECT_TRUE(parse_budget("metric<=fp32+0.1").met(2.1, 2.0));
    EXPECT_TRUE(parse_budget("metric>=fp32").met(0.75, 0.75));
    EXPECT_FALSE(parse_budget("metric>=0.76").met(0.75, 0.75));
}

TEST(Budget, RefusesWhatItCannotMean) {
    for (const char* text : {"", "top1", "top1=0.9", "top1>0.9", "top1>=", "top1>=much", "top1>=1.5", "top1<=0.9",
                             "error>=0.1", "top1>=fp32-0.1", "mse<=1", "metric>=fp64", "cosine>=nan"}) {
        try {
            parse_budget(text);
            ADD_FAILURE() << text;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << text;
            EXPECT_THAT(error.hint(), testing::HasSubstr("top1>=0.99")) << text;
        }
    }
}

}  // namespace
}  // namespace planish
