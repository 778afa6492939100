// A region of the specialised graph as implementations of every backend look at it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/layout.hpp"
#include "ir/graph.hpp"

namespace planish {

/// A node of the specialised graph as implementations look at it. For a Region, `root` is the op that names its kind
/// (the convolution, the product) and values are those of the body; for any other node root == node.
class RegionView {
  public:
    /// `outer`: the region that `node` lies in, when it is part of one; it must outlive the view.
    explicit RegionView(const Node& node, const RegionView* outer = nullptr);

    const Node& node() const { return *node_; }
    const Node& root() const { return *root_; }
    /// The graph that holds root(): the region's body, or the node's own graph.
    bool has_body() const { return body_ != nullptr; }
    const Graph& body() const { return *body_; }

    /// Which of node()'s inputs `value` (of the body, or an input of the node) is; -1 when it is computed inside.
    int input_index(const Value* value) const;
    /// The constant behind `value`, looking through the region's boundary; null when it is not one.
    std::shared_ptr<const Tensor> constant(const Value* value) const;

    const Value& input(int i) const { return *node_->input(i); }
    const Value& output(int i = 0) const { return *node_->output(i); }

  private:
    const Node* node_;
    const Node* root_;
    const Graph* body_ = nullptr;
    const RegionView* outer_;
};

/// Layouts of the region's inputs and outputs, in the node's order.
struct Layouts {
    std::vector<Layout> inputs, outputs;
};

/// Is a second or later output of the node read, by a node or as an output of the graph?
bool uses_later_outputs(const Node& node);

/// Every input and output plain.
Layouts plain_layouts(const RegionView& region, std::span<const Layout> available);
/// All inputs and outputs of the output's rank channels-last when any available input is, else plain.
Layouts following_layouts(const RegionView& region, std::span<const Layout> available);

bool is_f32(const Value* value);  ///< null counts as yes (an omitted input)

/// Its output has the bytes of its input: no step is needed. Reshape, Squeeze, ...
bool is_alias(const Node& node);
/// A Transpose that only renames axes: channels-last memory read as [N, ..., C], or plain [N, ..., C] memory taken as a
/// channels-last tensor. The layout of the result, when its bytes are those of the input, which lies as `input`.
std::optional<Layout> transpose_alias(const Node& node, Layout input);

/// The user's layers that the node stands for.
std::vector<std::string> layers_of(const Node& node);
/// "Conv+Clip": the ops inside, dissolved regions included.
std::string op_of(const RegionView& region);

}  // namespace planish
