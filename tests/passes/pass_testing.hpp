// Helpers of the pass tests: run a pass on text, compare graphs as text, and compare what two graphs compute.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <string_view>

#include "passes/pass.hpp"
#include "reference/interpreter.hpp"

namespace planish::passes::testing {

using PassFn = int (*)(Graph&);

/// `pass` run on the graph, which is checked before and after.
inline std::unique_ptr<Graph> after(PassFn pass, std::string_view text) {
    std::unique_ptr<Graph> graph = parse_graph(text);
    check(*graph);
    pass(*graph);
    check(*graph);
    return graph;
}

/// Text in the printer's own form, so that a golden text may leave types out.
inline std::string canonical(std::string_view text) {
    return print(*parse_graph(text), -1);
}

/// The golden test: `before` becomes `expected`, and running the pass again changes nothing.
inline void expect_becomes(PassFn pass, std::string_view before, std::string_view expected) {
    const std::unique_ptr<Graph> graph = after(pass, before);
    EXPECT_EQ(print(*graph, -1), canonical(expected));
    EXPECT_EQ(pass(*graph), 0) << "a second run changes something";
}

inline void expect_unchanged(PassFn pass, std::string_view text) {
    std::unique_ptr<Graph> graph = parse_graph(text);
    const std::string before = print(*graph, -1);
    EXPECT_EQ(pass(*graph), 0);
    EXPECT_EQ(print(*graph, -1), before);
}

/// Inputs in [-2, 2) (integers and booleans in {0, 1}); symbolic sizes become `size`.
inline std::map<std::string, Tensor> random_feeds(const Graph& graph, int64_t size, uint32_t seed) {
    std::map<std::string, Tensor> feeds;
    for (const Value* input : graph.inputs()) {
        Dims dims;
        for (const Dim& d : *input->type.shape) dims.push_back(d.value().value_or(size));
        Tensor t(input->type.dtype, dims);
        for (int64_t i = 0; i < t.size(); ++i) {
            seed = seed * 1664525u + 1013904223u;
            const double u = (seed >> 8) * 0x1p-24;
            t.set_double(i, is_float(t.dtype()) ? 4 * u - 2 : std::floor(2 * u));
        }
        feeds.emplace(input->name, std::move(t));
    }
    return feeds;
}

/// max |a - b| <= tolerance · max(1, max |a|), output by output, under the same names.
inline void expect_same_results(const Graph& a, const Graph& b, double tolerance, int64_t size = 3) {
    for (uint32_t seed : {1u, 2u, 3u}) {
        const auto feeds = random_feeds(a, size, seed);
        const auto x = reference::run_graph(a, feeds), y = reference::run_graph(b, feeds);
        ASSERT_EQ(x.size(), y.size());
        for (const auto& [name, expected] : x) {
            ASSERT_TRUE(y.contains(name)) << name;
            const Tensor& actual = y.at(name);
            ASSERT_EQ(expected.dims(), actual.dims()) << name;
            ASSERT_EQ(expected.dtype(), actual.dtype()) << name;
            double largest = 1;
            for (double v : expected.to_doubles()) largest = std::max(largest, std::fabs(v));
            for (int64_t i = 0; i < expected.size(); ++i)
                ASSERT_NEAR(expected.at_double(i), actual.at_double(i), tolerance * largest) << name << " at " << i;
        }
    }
}

/// The metamorphic test: a pass changes how, not what. `tolerance` in units of the result's magnitude.
inline void expect_keeps_results(PassFn pass, std::string_view text, double tolerance, int64_t size = 3) {
    const std::unique_ptr<Graph> before = parse_graph(text);
    const std::unique_ptr<Graph> graph = after(pass, text);
    expect_same_results(*before, *graph, tolerance, size);
}

/// Different ways to write one thing become the same graph (names of nodes and inner values aside).
inline void expect_same_graph(PassFn pass, std::initializer_list<std::string_view> texts, std::string_view op) {
    for (std::string_view text : texts) {
        const std::unique_ptr<Graph> graph = after(pass, text);
        eliminate_dead_code(*graph);
        ASSERT_EQ(graph->nodes().size(), 1u) << print(*graph);
        EXPECT_EQ(graph->nodes().front()->op().name, op) << print(*graph);
    }
}

/// One float32 rounding.
constexpr double kUlp = 0x1p-24;

}  // namespace planish::passes::testing
