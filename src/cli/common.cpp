// Parsing of shapes and inputs, JSON of rows.
#include "cli/common.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "build/verify.hpp"
#include "cli/npy.hpp"
#include "cli/terminal.hpp"
#include "passes/pass.hpp"

namespace planish::cli {

std::pair<std::string, std::string> split_assignment(const std::string& text, const std::string& option) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
        fail(ErrorCode::invalid_argument, fmt::format("{} {}: expected NAME=VALUE", option, text));
    return {text.substr(0, equals), text.substr(equals + 1)};
}

Dims parse_dims(const std::string& text, const std::string& option) {
    Dims dims;
    if (text == "scalar") return dims;
    const char* at = text.data();
    const char* end = at + text.size();
    for (;;) {
        int64_t value = 0;
        const auto [next, error] = std::from_chars(at, end, value);
        if (error != std::errc() || value < 0 || (next != end && *next != 'x' && *next != ','))
            fail(ErrorCode::invalid_argument, fmt::format("{}: '{}' is not a shape", option, text),
                 "write sizes with x between them, e.g. 1x3x224x224");
        dims.push_back(value);
        if (next == end) return dims;
        at = next + 1;
    }
}

std::map<std::string, ShapeRange> parse_shapes(const std::vector<std::string>& texts) {
    std::map<std::string, ShapeRange> result;
    for (const std::string& text : texts) {
        // Names may hold ':' and '=' themselves, so the last '=' separates.
        const size_t equals = text.rfind('=');
        if (equals == std::string::npos || equals == 0)
            fail(ErrorCode::invalid_argument, "--shape " + text + ": expected NAME=SHAPE or NAME=MIN:OPT:MAX");
        const std::string name = text.substr(0, equals);
        std::vector<Dims> parts;
        for (size_t at = equals + 1;;) {
            const size_t colon = text.find(':', at);
            parts.push_back(
                parse_dims(text.substr(at, colon == std::string::npos ? colon : colon - at), "--shape " + name));
            if (colon == std::string::npos) break;
            at = colon + 1;
        }
        if (parts.size() == 1) parts.resize(3, parts[0]);
        if (parts.size() != 3)
            fail(ErrorCode::invalid_argument, "--shape " + text + ": give one shape, or minimum:optimum:maximum");
        result[name] = {parts[0], parts[1], parts[2]};
    }
    return result;
}

TensorMap read_inputs(const std::vector<std::string>& texts) {
    TensorMap result;
    for (const std::string& text : texts) {
        if (text.ends_with(".npz") && text.find('=') == std::string::npos) {
            for (auto& [name, tensor] : read_npz(text)) result[name] = tensor;
        } else {
            const auto [name, path] = split_assignment(text, "--input");
            result[name] = read_npy(path);
        }
    }
    return result;
}

std::vector<TensorMap> read_calibration(const std::filesystem::path& path) {
    std::vector<TensorMap> samples;
    if (std::filesystem::is_directory(path)) {
        std::vector<std::filesystem::path> files;
        for (const auto& entry : std::filesystem::directory_iterator(path))
            if (entry.path().extension() == ".npy" || entry.path().extension() == ".npz") files.push_back(entry.path());
        std::sort(files.begin(), files.end());
        if (files.empty())
            fail(ErrorCode::invalid_argument, "'" + path.string() + "' holds no .npy or .npz files",
                 "one file is one sample; images are read by: python -m planish ... --calib FOLDER");
        for (const auto& file : files)
            samples.push_back(file.extension() == ".npz" ? read_npz(file) : TensorMap{{"", read_npy(file)}});
        return samples;
    }
    const TensorMap arrays = read_npz(path);
    int64_t count = -1;
    for (const auto& [name, array] : arrays) {
        const int64_t here = array.rank() > 0 ? array.dim(0) : 0;
        if (here < 1 || (count >= 0 && here != count))
            fail(ErrorCode::invalid_argument,
                 "'" + path.string() + "': array '" + name + "' does not hold as many samples as the others",
                 "samples lie along the first axis of every array");
        count = here;
    }
    for (int64_t i = 0; i < count; ++i) {
        TensorMap& sample = samples.emplace_back();
        for (const auto& [name, array] : arrays) {
            Dims dims = array.dims();
            dims[0] = 1;
            const int64_t bytes = array.bytes() / count;
            sample[name] = Tensor(array.dtype(), dims, static_cast<const std::byte*>(array.raw()) + i * bytes,
                                  std::make_shared<Tensor>(array));
        }
    }
    return samples;
}

std::vector<Dims> input_shapes(const plan::PlanContents& contents, const std::map<std::string, ShapeRange>& shapes,
                               const TensorMap& inputs) {
    const auto& known = contents.graph->inputs();
    std::string names;
    for (const Value* value : known) names += (names.empty() ? "" : ", ") + value->name;
    for (const auto& [name, range] : shapes)
        if (std::none_of(known.begin(), known.end(), [&name = name](const Value* v) { return v->name == name; }))
            fail(ErrorCode::invalid_argument, "there is no input named '" + name + "'", "the inputs are: " + names);
    std::vector<Dims> result;
    for (size_t i = 0; i < known.size(); ++i) {
        const Value& value = *known[i];
        if (const auto input = inputs.find(value.name); input != inputs.end()) {
            result.push_back(input->second.dims());
        } else if (const auto given = shapes.find(value.name); given != shapes.end()) {
            result.push_back(given->second.opt);
        } else if (!contents.profiles.empty()) {
            result.push_back(contents.profiles[0].opt[i]);
        } else if (value.has_static_shape()) {
            result.push_back(value.dims());
        } else {
            fail(ErrorCode::invalid_argument,
                 "the shape of input '" + value.name + "' is open: " + to_string(value.type),
                 "give it with --shape " + value.name + "=...");
        }
    }
    return result;
}

void add_random_inputs(const plan::PlanContents& contents, const std::vector<Dims>& shapes, TensorMap& inputs) {
    const auto bound = passes::specialise(*contents.graph, shapes);
    const std::vector<Tensor> random = verification::random_inputs(*bound);
    for (size_t i = 0; i < random.size(); ++i) inputs.try_emplace(contents.graph->inputs()[i]->name, random[i]);
}

std::string shape_text(const TensorInfo& info) {
    std::string shape = info.ranked ? "" : "*";
    for (const std::string& d : info.shape) shape += (shape.empty() ? "" : ", ") + d;
    return fmt::format("{}{}[{}]", info.kind == "tensor" ? "" : info.kind + " of ", to_string(info.dtype), shape);
}

Json to_json(const StringPairs& pairs) {
    Json object = Json::object();
    for (const auto& [key, value] : pairs) object[key] = value;
    return object;
}

Json to_json(const LayerRow& row) {
    return {{"name", row.name},
            {"layers", row.layers},
            {"op", row.op},
            {"implementation", row.implementation},
            {"placement", row.placement},
            {"dtype", to_string(row.dtype)},
            {"flops", row.flops},
            {"bytes", row.bytes},
            {"refused", to_json(row.refused)}};
}

Json to_json(const VerificationRow& row) {
    return {{"name", row.name},   {"layers", row.layers},       {"implementation", row.implementation},
            {"error", row.error}, {"tolerance", row.tolerance}, {"passed", row.passed},
            {"note", row.note}};
}

Json to_json(const std::vector<PrecisionRow>& rows) {
    Json result = Json::array();
    for (const PrecisionRow& row : rows)
        result.push_back({{"layer", row.layer},
                          {"op", row.op},
                          {"before", row.before},
                          {"after", row.after},
                          {"sqnr", row.sqnr},
                          {"note", row.note}});
    return result;
}

Json to_json(const std::vector<OutputErrorRow>& rows) {
    Json result = Json::array();
    for (const OutputErrorRow& row : rows)
        result.push_back({{"name", row.name}, {"sqnr", row.sqnr}, {"cosine", row.cosine}});
    return result;
}

void print_precision(const std::vector<PrecisionRow>& layers, const std::vector<OutputErrorRow>& outputs) {
    if (layers.empty()) return;
    Table table({"layer", "op", "before", "after", ">SQNR", "note"});
    for (const PrecisionRow& row : layers)
        table.add({shorten(row.layer, 60), row.op, row.before, row.after,
                   row.after == "int8" || row.after == "fp8" ? fmt::format("{:.1f} dB", row.sqnr) : "", row.note});
    fmt::print("{}", table.text());
    for (const OutputErrorRow& row : outputs)
        fmt::print("output {}: {:.1f} dB, cosine {:.4f} against the float model on the calibration data\n", row.name,
                   row.sqnr, row.cosine);
}

}  // namespace planish::cli
