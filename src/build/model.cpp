#include "build/model.hpp"

#include "base/hash.hpp"
#include "base/mapped_file.hpp"
#include "importers/onnx/importer.hpp"
#include "plan/plan_io.hpp"

namespace planish {
namespace {

bool is_plan(std::span<const std::byte> bytes) {
    return plan::describe_foreign(bytes).empty();
}

StringPairs source_of(std::span<const std::byte> bytes) {
    return {{"format", is_plan(bytes) ? "plan" : "onnx"},
            {"xxh3", hash128(bytes).to_hex()},
            {"bytes", std::to_string(bytes.size())}};
}

}  // namespace

Model read_model(const std::filesystem::path& path) {
    const MappedFile file(path);
    return {is_plan(file.bytes()) ? std::move(plan::read(path).graph) : onnx_import::import_file(path.string()),
            source_of(file.bytes())};
}

Model read_model(std::span<const std::byte> bytes, const std::filesystem::path& external_data_folder) {
    return {is_plan(bytes) ? std::move(plan::read(bytes, nullptr).graph)
                           : onnx_import::import_bytes(bytes, external_data_folder.string()),
            source_of(bytes)};
}

std::vector<TensorMap> named(std::vector<TensorMap> samples, const Graph& graph) {
    for (TensorMap& sample : samples)
        if (graph.inputs().size() == 1 && sample.size() == 1 && sample.begin()->first.empty())
            sample = {{graph.inputs()[0]->name, sample.begin()->second}};
    return samples;
}

}  // namespace planish
