// A node on its way from the file into the graph, and the table of adapters that lift it to the newest opset.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.hpp"

namespace planish::onnx_import {

/// What the file says of a node, with its inputs found. An adapter rewrites it in place, or adds nodes of its own in
/// front of it; with `finish` it hands over the outputs and no node is made of the draft itself.
struct Draft {
    Graph& graph;
    std::string domain;
    std::string op;
    int64_t version;             // the opset that `op` is written in
    std::string name;            // of the node; names of helper nodes and constants start with it
    std::vector<Value*> inputs;  // null: omitted
    Attributes attributes;
    std::vector<std::string> outputs;  // wanted names; "": not wanted
    std::vector<Value*> captured;      // outer values that are the last inputs of each body
    std::vector<Value*> results;       // set by finish
    bool finished = false;

    bool has_input(size_t i) const { return i < inputs.size() && inputs[i] != nullptr; }
    bool wants_output(size_t i) const { return i < outputs.size() && !outputs[i].empty(); }
    void set_input(size_t i, Value* value);
    DType dtype(size_t i) const;                                        ///< of input i; f32 when it is not known
    std::optional<int64_t> rank(size_t i) const;                        ///< of input i
    std::optional<int64_t> constant_dim(size_t i, int64_t axis) const;  ///< axis may be negative

    bool has(std::string_view attribute) const { return attributes.contains(attribute); }
    int64_t integer(std::string_view attribute, int64_t otherwise) const;
    double real(std::string_view attribute, double otherwise) const;
    std::string text(std::string_view attribute, std::string otherwise) const;
    std::vector<int64_t> integers(std::string_view attribute) const;
    Attribute take(std::string_view attribute);  ///< removed; must exist

    // Helpers that put things into the graph ahead of the node. `what` completes the name: "conv1/axes".
    Value* integers_constant(const std::vector<int64_t>& values, std::string_view what);
    Value* scalar(DType dtype, double value, std::string_view what);
    Value* constant(Tensor tensor, std::string_view what);
    Value* emit(std::string_view op, std::vector<Value*> inputs, Attributes attributes = {},
                std::string_view what = "");
    /// The draft's own first output: named as the user named it.
    Value* emit_output(std::string_view op, std::vector<Value*> inputs, Attributes attributes = {});
    std::vector<Value*> emit_many(std::string_view op, std::vector<Value*> inputs, Attributes attributes, int outputs,
                                  std::string_view what = "");
    void finish(std::vector<Value*> values);

    /// Throws when `list` lacks an input that the operator always has.
    void require_inputs(std::string_view op, std::span<Value* const> list) const;
    /// Throws when the operator does not have one of the attributes, or not of this type.
    void require_attributes(std::string_view op, const Attributes& list) const;

    [[noreturn]] void invalid(std::string message) const;
    [[noreturn]] void unsupported(std::string message, std::string hint) const;
};

struct Adapter {
    std::string_view domain;
    std::string_view op;
    int64_t until;  ///< applies to nodes of an older opset; afterwards the node counts as one of this opset
    void (*apply)(Draft&);
};

/// The adapter to apply next to a node of `op` written in `version`, or null when it is as the op table has it.
const Adapter* next_adapter(std::string_view domain, std::string_view op, int64_t version);

inline constexpr int64_t kEveryOpset = std::numeric_limits<int64_t>::max();

// The parts of the table, each sorted by nothing in particular; one file each.
std::span<const Adapter> shape_adapters();    ///< attributes that became inputs: axes, pads, splits, sizes
std::span<const Adapter> compute_adapters();  ///< operators whose meaning changed, and the operators of opsets 1-6
std::span<const Adapter> contrib_adapters();  ///< com.microsoft operators in terms of ONNX's
std::span<const Adapter> contrib_attention_adapters();

}  // namespace planish::onnx_import
