// Shape rules of the math and nn families on symbolic sizes.
#include <gtest/gtest.h>

#include "ir/graph.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

class Infer : public ::testing::Test {
  protected:
    Value* input(std::string name, Shape shape, DType dtype = DType::f32) {
        Type type;
        type.dtype = dtype;
        type.shape = std::move(shape);
        return graph_.add_input(std::move(name), type);
    }
    Value* ints(std::vector<int64_t> values) {
        const Dims dims{static_cast<int64_t>(values.size())};
        return graph_.add_constant("", Tensor::from(std::span<const int64_t>(values), dims));
    }
    std::string shape_of(std::string_view op, std::vector<Value*> inputs, Attributes attributes = {}) {
        return to_string(graph_.add_node(op, std::move(inputs), std::move(attributes))->output()->type);
    }
    Graph graph_;
    const Dim n = Dim::symbol("N"), s = Dim::symbol("S");
};

TEST_F(Infer, BroadcastKeepsWhatIsKnown) {
    Value* a = input("a", {n, 1, s});
    EXPECT_EQ(shape_of("Add", {a, input("b", {s, 1})}), "float32[N, S, S]");
    EXPECT_EQ(shape_of("Add", {a, input("c", {4, 1})}), "float32[N, 4, S]");
    EXPECT_EQ(shape_of("Less", {a, input("d", {})}), "bool[N, 1, S]");
    EXPECT_THROW(shape_of("Add", {input("e", {3}), input("f", {4})}), Error);
    EXPECT_THROW(shape_of("Add", {a, input("g", {s}, DType::i64)}), Error);
}

TEST_F(Infer, ProductsAndReductions) {
    Value* x = input("x", {n, s, 768});
    EXPECT_EQ(shape_of("MatMul", {x, input("w", {768, 3072})}), "float32[N, S, 3072]");
    EXPECT_THROW(shape_of("MatMul", {x, input("v", {769, 2})}), Error);
    EXPECT_EQ(shape_of("ReduceMean", {x, ints({-1})}), "float32[N, S, 1]");
    EXPECT_EQ(shape_of("ReduceMean", {x, ints({1})}, {{"keepdims", int64_t{0}}}), "float32[N, 768]");
    EXPECT_EQ(shape_of("ArgMax", {x}, {{"axis", int64_t{-1}}, {"keepdims", int64_t{0}}}), "int64[N, S]");
    EXPECT_EQ(shape_of("Einsum", {x, x}, {{"equation", "bid,bjd->bij"}}), "float32[N, S, S]");
}

TEST_F(Infer, WindowsOverSymbolicSizes) {
    const Dim h = Dim::symbol("H");
    Value* x = input("x", {n, 3, h, 224});
    Value* w = input("w", {32, 3, 3, 3});
    const auto pair = [](int64_t v) { return std::vector<int64_t>{v, v}; };
    const auto pads = std::vector<int64_t>{1, 1, 1, 1};
    EXPECT_EQ(shape_of("Conv", {x, w}, {{"pads", pads}}), "float32[N, 32, H, 224]");
    Node* strided = graph_.add_node("Conv", {x, w}, {{"pads", pads}, {"strides", pair(2)}});
    const Dim rows = (*strided->output()->type.shape)[2];
    EXPECT_EQ(rows.substitute({{"H", 7}}), Dim(4));
    EXPECT_EQ(rows.substitute({{"H", 8}}), Dim(4));
    EXPECT_EQ((*strided->output()->type.shape)[3], Dim(112));
    EXPECT_EQ(shape_of("ConvTranspose", {input("y", {n, 8, h, h}), input("v", {8, 4, 2, 2})}, {{"strides", pair(2)}}),
              "float32[N, 4, 2*H, 2*H]");
    EXPECT_EQ(shape_of("GlobalAveragePool", {x}), "float32[N, 3, 1, 1]");
    EXPECT_THROW(shape_of("Conv", {x, input("u", {32, 4, 3, 3})}), Error);
}

TEST_F(Infer, ShapeArithmeticStaysSymbolic) {
    Value* x = input("x", {n, s, 768});
    Value* shape = graph_.add_node("Shape", {x})->output();
    Value* size = graph_.add_node("ReduceProd", {shape}, {{"keepdims", int64_t{0}}})->output();
    ASSERT_TRUE(size->symbolic);
    EXPECT_EQ((*size->symbolic)[0], n * s * 768);
    Value* per_head = graph_.add_node("Div", {size, ints({12})})->output();
    ASSERT_TRUE(per_head->symbolic);
    EXPECT_EQ((*per_head->symbolic)[0], n * s * 64);
    // Where(shape == -1, 1, shape): no size is -1.
    Value* is_open = graph_.add_node("Equal", {shape, ints({-1})})->output();
    Value* chosen = graph_.add_node("Where", {is_open, ints({1}), shape})->output();
    ASSERT_TRUE(chosen->symbolic);
    EXPECT_EQ((*chosen->symbolic)[1], s);
}

}  // namespace
}  // namespace planish
