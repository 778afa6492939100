// The op table's shape: one row an op, from which everything known of the op is derived.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/attribute.hpp"
#include "ir/dim.hpp"

namespace planish {

class Node;
struct Value;

/// What a value is. A sequence or optional carries its element's dtype and, where known, shape.
enum class Kind : uint8_t { tensor, sequence, optional };

struct Type {
    Kind kind = Kind::tensor;
    DType dtype = DType::undefined;
    std::optional<Shape> shape;        // nullopt: not even the rank is known
    Kind element_kind = Kind::tensor;  // of an optional: optional(sequence(tensor))

    friend bool operator==(const Type&, const Type&) = default;
};
std::string to_string(const Type& type);  ///< "float32[N, 3, 224, 224]", "int64[?]" rank unknown: "float32[*]"

/// Given to a shape rule: the node with its input types, constants and attributes. Fills the output types.
class InferContext {
  public:
    explicit InferContext(const Node& node);

    const Node& node() const { return node_; }
    int input_count() const;
    bool has_input(int i) const;
    const Type& input(int i) const;       ///< throws internal when omitted
    bool has_shape(int i) const;          ///< input i present with known rank
    const Shape& shape(int i) const;      ///< of input i; call has_shape first
    const Tensor* constant(int i) const;  ///< input i's value when it is a constant, else null
    /// Input i as a list of symbolic integers (a shape being computed), when known: from a constant or through
    /// Shape/Gather/Concat/Add... chains (Value::symbolic).
    std::optional<std::vector<Dim>> symbolic(int i) const;

    int64_t integer(std::string_view name) const;  ///< attribute, or the row's default
    double real(std::string_view name) const;
    const std::string& text(std::string_view name) const;
    const std::vector<int64_t>& integers(std::string_view name) const;  ///< empty when absent
    bool has(std::string_view name) const;
    int64_t axis(std::string_view name, int64_t rank) const;  ///< normalised to [0, rank), else invalid_model

    void set_output(int i, Type type);
    void set_output(int i, DType dtype, std::optional<Shape> shape);
    void set_symbolic(int i, std::vector<Dim> values);   ///< output i is a small integer tensor with these values
    [[noreturn]] void error(std::string message) const;  ///< invalid_model naming the node

    std::vector<Type> outputs;
    std::vector<std::optional<std::vector<Dim>>> output_symbolic;

  private:
    const Node& node_;
};
using InferFn = void (*)(InferContext&);

/// Given to a reference function: dense inputs (null = omitted), the node's attributes; fills outputs.
struct RefValue;   // tensor | sequence | optional, see reference/ref_value.hpp
class RefContext;  // see reference/ref_context.hpp
using ReferenceFn = void (*)(RefContext&);

enum class Trait : uint32_t {
    none = 0,
    elementwise = 1,  ///< each output element depends on the broadcast input elements at the same place
    commutative = 2,
    data_movement = 4,     ///< moves elements, computes none
    nondeterministic = 8,  ///< never folded or merged
    shape_of_input = 16,   ///< reads only its input's shape (Shape, Size)
    variadic = 32,         ///< last input may repeat
    body_captures = 64,    ///< has subgraphs whose captured outer values are appended to the inputs
};
constexpr Trait operator|(Trait a, Trait b) {
    return static_cast<Trait>(static_cast<uint32_t>(a) | static_cast<uint32_t>(b));
}
constexpr bool has(Trait set, Trait t) {
    return (static_cast<uint32_t>(set) & static_cast<uint32_t>(t)) != 0;
}

struct AttrDef {
    std::string name;
    AttrType type;
    bool required = false;
    std::optional<Attribute> default_value;  // absent and not required: the op treats absence as its own case
};

struct OpDef {
    std::string_view domain;  // "" = ONNX, "planish" = ours, "com.microsoft" = ONNX Runtime's contrib ops
    std::string_view name;
    int min_inputs, max_inputs;  // max -1: any number
    int min_outputs, max_outputs;
    std::vector<AttrDef> attributes;
    Trait traits;
    InferFn infer;
    ReferenceFn reference;  // null only for ops that the interpreter itself handles (none in a released table)

    const AttrDef* attribute(std::string_view name) const;
};

/// The row of an op, or null. `all_ops` is sorted by (domain, name).
const OpDef* find_op(std::string_view name, std::string_view domain = "");
std::span<const OpDef> all_ops();

}  // namespace planish
