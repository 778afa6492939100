// Runs one operator of the table on dense tensors: builds a graph of one node, checks the shape rule against the
// result.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

#include "ir/graph.hpp"
#include "reference/interpreter.hpp"

namespace planish::testing {

inline Tensor floats(Dims dims, std::vector<float> values) {
    return Tensor::from(std::span<const float>(values), std::move(dims));
}
inline Tensor ints(Dims dims, std::vector<int64_t> values) {
    return Tensor::from(std::span<const int64_t>(values), std::move(dims));
}
/// A tensor of any numeric type from doubles.
inline Tensor typed(DType dtype, Dims dims, std::vector<double> values) {
    Tensor t(dtype, std::move(dims));
    for (size_t i = 0; i < values.size(); ++i) t.set_double(static_cast<int64_t>(i), values[i]);
    return t;
}

/// Outputs of `op` on `inputs` (an empty Tensor is an omitted input). The types that the shape rule promises, for
/// inputs of known shape and unknown values, must hold for the result.
inline std::vector<Tensor> run_op(const std::string& op, std::vector<Tensor> inputs, Attributes attributes = {},
                                  int outputs = 1) {
    Graph graph;
    std::vector<Value*> values;
    std::vector<RefValue> feeds;
    for (const Tensor& t : inputs) {
        if (!t) {
            values.push_back(nullptr);
            continue;
        }
        Type type;
        type.dtype = t.dtype();
        type.shape = to_shape(t.dims());
        values.push_back(graph.add_input("x" + std::to_string(values.size()), type));
        feeds.emplace_back(t);
    }
    Node* node = graph.add_node(op, values, std::move(attributes), outputs);
    for (Value* v : node->outputs()) graph.add_output(v);
    std::vector<Tensor> results;
    for (RefValue& v : reference::run_graph(graph, std::move(feeds))) results.push_back(std::move(v.tensor));
    for (size_t i = 0; i < results.size(); ++i) {
        const Type& type = node->outputs()[i]->type;
        EXPECT_EQ(type.dtype, results[i].dtype()) << op;
        if (!type.shape) continue;
        EXPECT_EQ(type.shape->size(), results[i].dims().size()) << op << " inferred " << to_string(type);
        for (size_t d = 0; d < std::min(type.shape->size(), results[i].dims().size()); ++d)
            if (const auto size = (*type.shape)[d].value()) {
                EXPECT_EQ(*size, results[i].dims()[d]) << op << " inferred " << to_string(type);
            }
    }
    return results;
}

inline std::vector<double> values_of(const std::string& op, std::vector<Tensor> inputs, Attributes attributes = {}) {
    return run_op(op, std::move(inputs), std::move(attributes))[0].to_doubles();
}

}  // namespace planish::testing
