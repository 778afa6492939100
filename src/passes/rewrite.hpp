// What rewrites are made of: constants read as numbers, producers matched by op, nodes replaced with their origins
// kept.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "ir/graph.hpp"

namespace planish::passes {

/// The producer of `value` when it is the ONNX op `op`, else null. Null values have no producer.
Node* producer(const Value* value, std::string_view op);

/// Exactly one reader, and not a graph output: the value may vanish when its reader is rewritten.
bool only_use(const Graph& graph, const Value* value);
/// The single reader of `value` (null: none, several, or a graph output), when it is the ONNX op `op`.
Node* only_reader(const Graph& graph, const Value* value, std::string_view op);

/// The nodes of these ONNX ops: where patterns are anchored. A rewrite must erase no anchor but its own.
std::vector<Node*> nodes_of(const Graph& graph, std::initializer_list<std::string_view> ops);

/// The number that a constant of one element holds.
std::optional<double> scalar(const Value* value);
/// A constant whose elements are all equal to one number.
std::optional<double> uniform(const Value* value);
/// Equal within a few float32 roundings.
bool is_near(double a, double b);
bool is_scalar(const Value* value, double expected);

/// For a node of two inputs where one is a constant scalar: the other input and the number. In either order when the
/// op is commutative, else the scalar must be the second input.
std::optional<std::pair<Value*, double>> with_scalar(const Node* node);

/// Constant integers (axes, shapes), from an input.
std::optional<std::vector<int64_t>> integers(const Value* value);

/// Both shapes known and equal, dimension by dimension (symbols too).
bool same_shape(const Value* a, const Value* b);
std::optional<int64_t> rank(const Value* value);

/// Adds to `node` the user layers that `merged` stand for.
void add_origins(Node* node, std::initializer_list<const Node*> merged);
std::vector<std::string> origins_of(const Node& node);

/// Where a node that reads `value` can stand first: the node behind its producer, null at the end.
Node* after(const Graph& graph, const Value* value);

/// Replaces the only output of `old` by `value`; erases `old` and whatever only fed it.
void replace(Graph& graph, Node* old, Value* value);
/// Erases `node` if nothing reads it, then its producers likewise. Constants that fall idle go too.
void erase_unused(Graph& graph, Node* node);

/// Copies the nodes of `body` into `graph` before `before`, its inputs standing for `inputs`; returns the values of
/// its outputs.
std::vector<Value*> splice(Graph& graph, const Graph& body, const std::vector<Value*>& inputs, Node* before);

/// Makes one Region node of `nodes` (in topological order, their last one's output the region's) in their place.
/// Constants of one element become constants of its body, every other value that they read an input, weights included.
Node* make_region(Graph& graph, std::span<Node* const> nodes, const Node& named_after, std::string_view kind);

/// Replaces `node` by constants where its inputs decide it (see fold_constants.cpp). True when it did.
bool fold_node(Graph& graph, Node* node);

/// float32 (or float64, ...) constant of the dtype of `like`.
Value* make_scalar(Graph& graph, double value, DType dtype, std::string_view name);
Value* make_integers(Graph& graph, const std::vector<int64_t>& values, std::string_view name);

}  // namespace planish::passes
