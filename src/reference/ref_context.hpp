// What a reference function sees: dense inputs, attributes, and where to put the outputs.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "ir/graph.hpp"

namespace planish {

/// A tensor, a sequence of tensors, or an optional of either (empty when neither).
struct RefValue {
    Kind kind = Kind::tensor;
    Tensor tensor;                 // kind tensor, or optional holding a tensor
    std::vector<Tensor> sequence;  // kind sequence, or optional holding a sequence
    bool present = true;           // optional: false = empty
    bool holds_sequence = false;   // optional only

    RefValue() = default;
    RefValue(Tensor t) : tensor(std::move(t)) {}
};

class RefContext {
  public:
    RefContext(const Node& node, std::vector<const RefValue*> inputs);

    const Node& node() const { return node_; }
    int input_count() const { return static_cast<int>(inputs_.size()); }
    bool has_input(int i) const { return i < input_count() && inputs_[static_cast<size_t>(i)] != nullptr; }
    const Tensor& input(int i) const;    ///< throws invalid_model when omitted or not a tensor
    const RefValue& value(int i) const;  ///< any kind
    int output_count() const;            ///< outputs that the node has (unused trailing ones excluded)
    bool wants_output(int i) const { return i < output_count(); }

    /// Allocates output i, zero-filled, and returns it.
    Tensor& output(int i, DType dtype, Dims dims);
    void set_output(int i, RefValue value);
    std::vector<RefValue> take_outputs() { return std::move(outputs_); }

    // Attributes with the row's defaults.
    int64_t integer(std::string_view name) const { return node_.integer(name); }
    double real(std::string_view name) const { return node_.real(name); }
    const std::string& text(std::string_view name) const { return node_.text(name); }
    const std::vector<int64_t>& integers(std::string_view name) const { return node_.integers(name); }
    bool has(std::string_view name) const { return node_.find(name) != nullptr; }
    int64_t axis(std::string_view name, int64_t rank) const;  ///< normalised to [0, rank)

    [[noreturn]] void error(std::string message) const;  ///< invalid_argument naming the node

  private:
    const Node& node_;
    std::vector<const RefValue*> inputs_;
    std::vector<RefValue> outputs_;
};

}  // namespace planish
