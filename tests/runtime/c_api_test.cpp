// The C ABI: the road of a C program, and that its errors are statuses.
#include <gtest/gtest.h>

#include <string>

#include "plan/plan_io.hpp"
#include "planish/planish.h"

namespace {

std::vector<std::byte> plan_bytes() {
    planish::plan::PlanContents contents;
    contents.graph = planish::parse_graph(R"(graph "g" {
        input %x : float32[N, 2]
        const %s : float32[] = [3.0]
        %y = Mul(%x, %s)
        output %y
    })");
    return planish::plan::write_bytes(contents);
}

TEST(CApi, LoadsAndRuns) {
    const auto bytes = plan_bytes();
    planish_engine* engine = nullptr;
    ASSERT_EQ(planish_load_bytes(bytes.data(), bytes.size(), nullptr, &engine), PLANISH_OK)
        << planish_last_error_message();
    ASSERT_EQ(planish_input_count(engine), 1u);
    planish_tensor_info info;
    ASSERT_EQ(planish_input_info(engine, 0, &info), PLANISH_OK);
    EXPECT_STREQ(info.name, "x");
    EXPECT_EQ(info.dtype, 1);
    ASSERT_EQ(info.rank, 2);
    EXPECT_EQ(info.dims[0], -1);
    EXPECT_STREQ(info.symbols[0], "N");
    EXPECT_EQ(info.dims[1], 2);

    planish_context* context = nullptr;
    ASSERT_EQ(planish_context_create(engine, &context), PLANISH_OK);
    planish_engine_free(engine);
    float x[4] = {1, 2, 3, 4};
    const int64_t dims[2] = {2, 2};
    const planish_tensor input = {"x", 1, 2, dims, x, sizeof x};
    planish_tensor output = {"y", 0, 0, nullptr, nullptr, 0};
    ASSERT_EQ(planish_run(context, &input, 1, &output, 1), PLANISH_OK) << planish_last_error_message();
    EXPECT_EQ(output.rank, 2);
    EXPECT_EQ(output.dims[0], 2);
    EXPECT_EQ(static_cast<float*>(output.data)[3], 12.0f);
    float y[4] = {};
    output = {"y", 0, 0, nullptr, y, sizeof y};
    ASSERT_EQ(planish_run(context, &input, 1, &output, 1), PLANISH_OK);
    EXPECT_EQ(y[2], 9.0f);
    output = {"y", 0, 0, nullptr, y, 4};
    EXPECT_EQ(planish_run(context, &input, 1, &output, 1), PLANISH_INVALID_ARGUMENT);
    planish_context_free(context);
}

TEST(CApi, FailuresAreStatuses) {
    planish_engine* engine = nullptr;
    EXPECT_EQ(planish_load("/no/such/file.plan", nullptr, &engine), PLANISH_NOT_FOUND);
    EXPECT_EQ(engine, nullptr);
    EXPECT_EQ(planish_last_error_code(), PLANISH_NOT_FOUND);
    EXPECT_NE(std::string(planish_last_error_message()).find("/no/such/file.plan"), std::string::npos);
    EXPECT_EQ(planish_load(nullptr, nullptr, &engine), PLANISH_INVALID_ARGUMENT);
    EXPECT_EQ(planish_load_bytes("text", 4, nullptr, &engine), PLANISH_INVALID_PLAN);
    EXPECT_STREQ(planish_status_name(PLANISH_INVALID_PLAN), "invalid_plan");
    EXPECT_EQ(planish_context_create(nullptr, nullptr), PLANISH_INVALID_ARGUMENT);
    planish_engine_free(nullptr);
    planish_context_free(nullptr);
    EXPECT_EQ(planish_input_count(nullptr), 0u);
}

}  // namespace
