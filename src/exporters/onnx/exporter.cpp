// One walk over the graph: values get names that are unique in the whole model, subgraphs name what they capture,
// and the opset is the lowest in which every node means what the op table says.
#include "exporters/onnx/exporter.hpp"

#include <fmt/format.h>
#include <onnx/defs/schema.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <unordered_map>

#include "base/atomic_file.hpp"
#include "importers/onnx/tensor_proto.hpp"
#include "planish/error.hpp"

namespace planish::onnx_export {
namespace {

namespace pb = ONNX_NAMESPACE;

// From here on operators only gained element types and attributes, both of which a schema states; before, they changed
// their meaning under an equal signature too (GroupNormalization, Pad, ScatterND).
constexpr int kOldestOpset = 21;
constexpr int64_t kExternalAlignment = 4096;  // so that a file can be mapped tensor by tensor
constexpr int64_t kExternalFrom = 1024;       // bytes; smaller tensors stay in the model

int newest_opset() {
    return pb::OpSchemaRegistry::DomainToVersionRange::Instance().Map().at("").second;
}

/// "tensor(float)", as schemas call the type.
std::string schema_type(const Type& type) {
    const std::string element =
        *pb::Utils::DataTypeUtils::ToType(onnx_import::to_proto({Kind::tensor, type.dtype, std::nullopt}));
    const std::string inner = (type.kind == Kind::optional ? type.element_kind : type.kind) == Kind::sequence
                                  ? "seq(" + element + ")"
                                  : element;
    return type.kind == Kind::optional ? "optional(" + inner + ")" : inner;
}

bool same_signature(const pb::OpSchema& a, const pb::OpSchema& b) {
    if (a.inputs().size() != b.inputs().size() || a.outputs().size() != b.outputs().size()) return false;
    for (const auto& [name, attribute] : b.attributes()) {
        const auto it = a.attributes().find(name);
        if (it == a.attributes().end() || it->second.type != attribute.type ||
            it->second.default_value.SerializeAsString() != attribute.default_value.SerializeAsString())
            return false;
    }
    return a.attributes().size() == b.attributes().size();
}

bool accepts(const pb::OpSchema& schema, const Node& node) {
    const auto fits = [](const auto& formals, std::span<Value* const> values) {
        for (size_t i = 0; i < values.size() && !formals.empty(); ++i) {
            if (values[i] == nullptr || values[i]->type.dtype == DType::undefined) continue;
            const auto& types = formals[std::min(i, formals.size() - 1)].GetTypes();
            const std::string type = schema_type(values[i]->type);
            if (std::none_of(types.begin(), types.end(), [&](pb::DataType t) { return *t == type; })) return false;
        }
        return true;
    };
    const auto captures = node.op().attribute("captures") ? static_cast<size_t>(node.integer("captures")) : 0;
    return fits(schema.inputs(), node.inputs().first(node.inputs().size() - captures)) &&
           fits(schema.outputs(), node.outputs());
}

/// The lowest opset from kOldestOpset on in which the node is what the newest says.
int lowest_opset(const Node& node) {
    const std::string name(node.op().name);
    const pb::OpSchema* newest = pb::OpSchemaRegistry::Schema(name, newest_opset(), "");
    if (newest == nullptr || !node.op().domain.empty())
        fail(ErrorCode::unsupported, fmt::format("'{}' ({}) has no counterpart in ONNX", node.name, name),
             "export the portable graph, from before regions are formed");
    for (int version = kOldestOpset; version < newest_opset(); ++version) {
        const pb::OpSchema* schema = pb::OpSchemaRegistry::Schema(name, version, "");
        if (schema != nullptr && same_signature(*schema, *newest) && accepts(*schema, node)) return version;
    }
    return newest_opset();
}

/// The IR version that came with the newest element types; 10 is that of opset 21.
int ir_version_for(DType dtype) {
    switch (dtype) {
        case DType::f4e2m1:
            return 11;
        case DType::f8e8m0:
            return 12;
        case DType::u2:
        case DType::i2:
            return 13;
        default:
            return 10;
    }
}

/// Bytes of tensors that lie beside the model; null: everything goes into the message.
struct SideFile {
    AtomicFile file;
    std::string location;
};

class Writer {
  public:
    explicit Writer(SideFile* side) : side_(side) {}

    pb::ModelProto write(const Graph& graph) {
        pb::ModelProto model;
        model.set_producer_name("planish");
        for (const auto& [key, value] : graph.metadata)
            if (!key.starts_with("onnx.")) {  // what the importer noted of the file that it read
                auto* entry = model.add_metadata_props();
                entry->set_key(key);
                entry->set_value(value);
            }
        // The interface keeps its names, whatever a subgraph calls its own values.
        for (const Value* value : graph.inputs()) name_of(*value);
        for (const Value* value : graph.outputs()) name_of(*value);
        write_graph(graph, *model.mutable_graph(), 0);
        auto* opset = model.add_opset_import();
        opset->set_domain("");
        opset->set_version(opset_);
        model.set_ir_version(ir_version_);
        return model;
    }

  private:
    const std::string& name_of(const Value& value) {
        const auto it = names_.find(&value);
        if (it != names_.end()) return it->second;
        std::string name = value.name;
        for (int i = 1; !taken_.insert(name).second; ++i) name = fmt::format("{}_{}", value.name, i);
        return names_.emplace(&value, std::move(name)).first->second;
    }

    /// `captures`: how many of the graph's last inputs are names of the graph around it.
    void write_graph(const Graph& graph, pb::GraphProto& proto, size_t captures) {
        proto.set_name(graph.name);
        for (const Value* value : graph.values())
            ir_version_ = std::max(ir_version_, ir_version_for(value->type.dtype));
        for (const Value* value : std::span(graph.inputs()).first(graph.inputs().size() - captures)) {
            auto* info = proto.add_input();
            info->set_name(name_of(*value));
            *info->mutable_type() = onnx_import::to_proto(value->type);
        }
        for (const Value* value : graph.values())
            if (value->is_constant() && (!value->uses.empty() || graph.is_output(value)))
                write_tensor(*value->constant, name_of(*value), *proto.add_initializer());
        for (const auto& node : graph.nodes()) write_node(*node, *proto.add_node());
        for (const Value* value : graph.outputs()) {
            auto* info = proto.add_output();
            info->set_name(name_of(*value));
            if (value->type.dtype != DType::undefined) *info->mutable_type() = onnx_import::to_proto(value->type);
        }
    }

    void write_node(const Node& node, pb::NodeProto& proto) {
        opset_ = std::max(opset_, lowest_opset(node));
        proto.set_op_type(std::string(node.op().name));
        proto.set_name(node.name);
        const bool bodies = has(node.op().traits, Trait::body_captures);
        const auto captures = bodies ? static_cast<size_t>(node.integer("captures")) : 0;
        const auto inputs = node.inputs().first(node.inputs().size() - captures);
        for (const Value* value : inputs) proto.add_input(value ? name_of(*value) : "");
        for (const Value* value : node.outputs()) proto.add_output(name_of(*value));
        if (node.is("Optional") && node.inputs().empty()) {
            auto* type = proto.add_attribute();
            type->set_name("type");
            type->set_type(pb::AttributeProto::TYPE_PROTO);
            *type->mutable_tp() = onnx_import::to_proto(node.output()->type).optional_type().elem_type();
            return;
        }
        for (const auto& [name, attribute] : node.attributes) {
            if (bodies && name == "captures") continue;
            if (const GraphPtr* body = std::get_if<GraphPtr>(&attribute)) {
                const auto& formals = (*body)->inputs();
                for (size_t i = 0; i < captures; ++i)
                    names_[formals[formals.size() - captures + i]] = name_of(*node.inputs()[inputs.size() + i]);
            }
            write_attribute(name, attribute, captures, *proto.add_attribute());
        }
    }

    void write_attribute(const std::string& name, const Attribute& attribute, size_t captures,
                         pb::AttributeProto& proto) {
        proto.set_name(name);
        using Kinds = pb::AttributeProto;
        std::visit(
            [&]<typename T>(const T& value) {
                if constexpr (std::is_same_v<T, int64_t>) {
                    proto.set_type(Kinds::INT);
                    proto.set_i(value);
                } else if constexpr (std::is_same_v<T, double>) {
                    proto.set_type(Kinds::FLOAT);
                    proto.set_f(static_cast<float>(value));
                } else if constexpr (std::is_same_v<T, std::string>) {
                    proto.set_type(Kinds::STRING);
                    proto.set_s(value);
                } else if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
                    proto.set_type(Kinds::INTS);
                    for (const int64_t v : value) proto.add_ints(v);
                } else if constexpr (std::is_same_v<T, std::vector<double>>) {
                    proto.set_type(Kinds::FLOATS);
                    for (const double v : value) proto.add_floats(static_cast<float>(v));
                } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
                    proto.set_type(Kinds::STRINGS);
                    for (const std::string& v : value) proto.add_strings(v);
                } else if constexpr (std::is_same_v<T, Tensor>) {
                    proto.set_type(Kinds::TENSOR);
                    write_tensor(value, {}, *proto.mutable_t());
                } else {
                    proto.set_type(Kinds::GRAPH);
                    write_graph(*value, *proto.mutable_g(), captures);
                }
            },
            attribute);
    }

    void write_tensor(const Tensor& tensor, const std::string& name, pb::TensorProto& proto) {
        if (!name.empty()) proto.set_name(name);
        proto.set_data_type(static_cast<int>(tensor.dtype()));
        for (const int64_t d : tensor.dims()) proto.add_dims(d);
        if (tensor.dtype() == DType::string) {
            for (const std::string& text : tensor.strings()) proto.add_string_data(text);
            return;
        }
        const std::span bytes(static_cast<const std::byte*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
        if (side_ == nullptr || tensor.bytes() < kExternalFrom || name.empty()) {
            proto.set_raw_data(bytes.data(), bytes.size());
            return;
        }
        const std::vector<std::byte> padding((kExternalAlignment - side_->file.size() % kExternalAlignment) %
                                             kExternalAlignment);
        side_->file.write(padding);
        const auto note = [&](const char* key, std::string value) {
            auto* entry = proto.add_external_data();
            entry->set_key(key);
            entry->set_value(std::move(value));
        };
        note("location", side_->location);
        note("offset", std::to_string(side_->file.size()));
        note("length", std::to_string(bytes.size()));
        proto.set_data_location(pb::TensorProto::EXTERNAL);
        side_->file.write(bytes);
    }

    SideFile* side_;
    int opset_ = kOldestOpset, ir_version_ = 10;
    std::unordered_map<const Value*, std::string> names_;
    std::set<std::string> taken_;
};

std::vector<std::byte> serialise(const pb::ModelProto& model) {
    const size_t size = model.ByteSizeLong();
    if (size > static_cast<size_t>(std::numeric_limits<int>::max()))
        fail(ErrorCode::resource_exhausted, fmt::format("the model has {} bytes; protobuf holds 2 GiB", size),
             "write it to a file: its weights then go beside it");
    std::vector<std::byte> bytes(size);
    if (!model.SerializeToArray(bytes.data(), static_cast<int>(size)))
        fail(ErrorCode::internal, "the model could not be serialised");
    return bytes;
}

int64_t weight_bytes(const Graph& graph) {
    int64_t bytes = 0;
    for (const Value* value : graph.values())
        if (value->is_constant()) bytes += value->constant->bytes();
    return bytes;
}

}  // namespace

std::vector<std::byte> to_bytes(const Graph& graph) {
    return serialise(Writer(nullptr).write(graph));
}

void write(const Graph& graph, const std::filesystem::path& path, int64_t inline_limit) {
    if (weight_bytes(graph) <= inline_limit) return write_file_atomically(path, to_bytes(graph));
    const std::filesystem::path data = path.string() + ".data";
    SideFile side{AtomicFile(data), data.filename().string()};
    const std::vector<std::byte> bytes = serialise(Writer(&side).write(graph));
    side.file.commit();
    write_file_atomically(path, bytes);
}

}  // namespace planish::onnx_export
