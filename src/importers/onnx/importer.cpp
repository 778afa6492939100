// From a file or bytes to a parsed, recognised model; every failure becomes one planish::Error.
#include "importers/onnx/importer.hpp"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>

#include <filesystem>
#include <limits>
#include <new>

#include "base/mapped_file.hpp"
#include "importers/onnx/builder.hpp"
#include "importers/onnx/external_data.hpp"
#include "importers/onnx/file_kind.hpp"
#include "importers/onnx/proto.hpp"
#include "planish/error.hpp"

namespace planish::onnx_import {
namespace {

constexpr int kMaxMessageDepth = 200;

void parse(std::span<const std::byte> bytes, const std::string& name, pb::ModelProto& model) {
    refuse_foreign(bytes, name);
    if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max()))
        fail(ErrorCode::invalid_model,
             fmt::format("{} has {} bytes; a protobuf file cannot have more than 2 GiB", name, bytes.size()),
             "save the weights beside the model: onnx.save(..., save_as_external_data=True)");
    google::protobuf::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                  static_cast<int>(bytes.size()));
    stream.SetTotalBytesLimit(std::numeric_limits<int>::max());
    stream.SetRecursionLimit(kMaxMessageDepth);
    if (!model.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage())
        fail(ErrorCode::invalid_model,
             fmt::format("{} ({} bytes) is not a complete ONNX model: it is truncated, damaged, or another format",
                         name, bytes.size()),
             "export or copy it again and compare the sizes");
    if (!model.has_graph() || model.opset_import_size() == 0)
        fail(ErrorCode::invalid_model,
             fmt::format("{} ({} bytes) is protobuf but not a complete ONNX model: it has no {}", name, bytes.size(),
                         model.has_graph() ? "opset" : "graph"),
             "it may be truncated, or a TensorFlow saved_model.pb (convert that with tf2onnx)");
    if (model.ir_version() > pb::IR_VERSION)
        fail(ErrorCode::unsupported,
             fmt::format("{} has ONNX IR version {}; this build knows up to {}", name, model.ir_version(),
                         static_cast<int>(pb::IR_VERSION)),
             "save it with an older onnx package, or use a newer Planish");
}

std::unique_ptr<Graph> import_parsed(pb::ModelProto& model, const std::filesystem::path& folder,
                                     const std::string& name) {
    try {
        ExternalData external(folder);
        return build_graph(model, external);
    } catch (const Error& e) {
        throw e.with_context(name);
    } catch (const std::bad_alloc&) {
        fail(ErrorCode::resource_exhausted, name + " needs more memory than there is",
             "free memory, or use a machine with more");
    } catch (const std::length_error&) {
        fail(ErrorCode::resource_exhausted, name + " has a tensor larger than memory can hold",
             "the file is probably damaged: export it again");
    } catch (const std::exception& e) {  // ONNX's library throws types of its own
        fail(ErrorCode::invalid_model, name + ": " + e.what(),
             "the model breaks ONNX's rules: check it with onnx.checker");
    }
}

}  // namespace

std::unique_ptr<Graph> import_file(const std::string& path) {
    const std::filesystem::path file(path);
    const std::string name = "'" + path + "'";
    pb::ModelProto model;
    parse(MappedFile(file).bytes(), name, model);
    std::filesystem::path folder = file.parent_path();
    return import_parsed(model, folder.empty() ? "." : folder, name);
}

std::unique_ptr<Graph> import_bytes(std::span<const std::byte> bytes, const std::string& model_folder) {
    pb::ModelProto model;
    parse(bytes, "the given model", model);
    return import_parsed(model, model_folder, "the given model");
}

}  // namespace planish::onnx_import
