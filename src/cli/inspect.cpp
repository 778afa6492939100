// `planish inspect`: everything that a plan holds and says about itself.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/sparse_tensor.hpp"
#include "cli/common.hpp"
#include "cli/front.hpp"
#include "cli/terminal.hpp"
#include "plan/plan_io.hpp"
#include "runtime/engine_impl.hpp"

namespace planish::cli {
namespace {

struct Options {
    std::string plan;
    std::vector<std::string> shapes;
    bool layers = false, explain = false, graph = false, verification = false, json = false;
};

Json to_json(std::span<const TensorInfo> infos) {
    Json rows = Json::array();
    for (const TensorInfo& info : infos)
        rows.push_back({{"name", info.name},
                        {"dtype", to_string(info.dtype)},
                        {"kind", info.kind},
                        {"shape", info.ranked ? Json(info.shape) : Json()}});
    return rows;
}

std::map<std::string, int> op_counts(const Graph& graph) {
    std::map<std::string, int> counts;
    for (const auto& node : graph.nodes()) ++counts[std::string(node->op().name)];
    return counts;
}

void heading(std::string_view text) {
    fmt::print("\n{}\n", paint(text, Colour::bold));
}

void print_pairs(const StringPairs& pairs, std::string_view prefix) {
    for (const auto& [key, value] : pairs) fmt::print("  {}{}: {}\n", prefix, key, value);
}

void print_layers(const std::vector<LayerRow>& rows, bool explain) {
    heading(fmt::format("Regions ({})", rows.size()));
    Table table({"region", "op", "implementation", "dtype", ">MFLOP", ">kB", "layers"});
    for (const LayerRow& row : rows) {
        std::string layers;
        for (const std::string& layer : row.layers) layers += (layers.empty() ? "" : ", ") + layer;
        table.add({shorten(row.name, 40), shorten(row.op, 28), shorten(row.implementation, 44),
                   std::string(to_string(row.dtype)), fmt::format("{:.2f}", static_cast<double>(row.flops) * 1e-6),
                   fmt::format("{:.1f}", static_cast<double>(row.bytes) * 1e-3), shorten(layers, 60)});
    }
    fmt::print("{}", table.text());
    if (!explain) return;
    heading("Refusals");
    for (const LayerRow& row : rows)
        for (const auto& [implementation, reason] : row.refused)
            fmt::print("  {}: {} refused: {}\n", row.name, implementation, reason);
}

void print_verification(const std::vector<VerificationRow>& rows) {
    heading(fmt::format("Verification against the reference interpreter ({})", rows.size()));
    Table table({"region", "implementation", ">error", ">tolerance", "", "note"});
    for (const VerificationRow& row : rows)
        table.add({shorten(row.name, 48), shorten(row.implementation, 44), fmt::format("{:.3g}", row.error),
                   fmt::format("{:.3g}", row.tolerance), row.passed ? "ok" : "FAILED", row.note});
    fmt::print("{}", table.text());
}

/// Constants that the plan stores without their zeros.
struct Compressed {
    int64_t constants = 0, bytes = 0, stored = 0, elements = 0, nonzeros = 0;
};

Compressed compressed_constants(const Graph& graph) {
    Compressed sum;
    for (const Value* value : graph.values()) {
        const SparseSource* source = value->is_constant() ? sparse_source(*value->constant) : nullptr;
        if (source == nullptr) continue;
        ++sum.constants;
        sum.bytes += value->constant->bytes();
        sum.stored += source->stored().bytes();
        sum.elements += value->constant->size();
        sum.nonzeros += source->nonzeros();
    }
    return sum;
}

int run_inspect(const Options& options) {
    const Engine engine = load(std::filesystem::path(options.plan));
    const plan::PlanContents& contents = *engine.shared_impl()->contents;
    const plan::Provenance& p = contents.provenance;
    const EngineInfo info = engine.info();
    const Compressed sparse = compressed_constants(*contents.graph);
    const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(options.plan));
    std::vector<LayerRow> layers = p.layers;
    if (!options.shapes.empty() || info.compiled_at_load) {
        // What the plan recorded is not what runs here: ask the engine.
        try {
            layers = engine.layers(input_shapes(contents, parse_shapes(options.shapes), {}));
        } catch (const Error&) {
            if (!options.shapes.empty()) throw;
        }
    }
    if (options.json) {
        Json result = {{"plan", options.plan}, {"bytes", file_bytes}};
        result["inputs"] = to_json(engine.inputs());
        result["outputs"] = to_json(engine.outputs());
        result["device"] = info.device;
        result["target"] = info.target;
        result["precision"] = info.precision;
        result["compiled_at_load"] = info.compiled_at_load;
        if (!info.interpreted.empty()) result["interpreted"] = info.interpreted;
        result["sizes"] = {{"weights", info.weight_bytes}, {"packed", info.packed_bytes}, {"arena", info.arena_bytes}};
        result["compressed"] = {{"constants", sparse.constants},
                                {"bytes", sparse.bytes},
                                {"stored", sparse.stored},
                                {"elements", sparse.elements},
                                {"nonzeros", sparse.nonzeros}};
        Json sections = Json::array(), rows = Json::array(), passes = Json::array(), verification = Json::array(),
             profiles = Json::array();
        for (const plan::Profile& profile : contents.profiles) {
            Json shapes = Json::object();
            for (size_t i = 0; i < profile.opt.size(); ++i)
                shapes[engine.inputs()[i].name] = {
                    {"min", profile.min[i]}, {"opt", profile.opt[i]}, {"max", profile.max[i]}};
            profiles.push_back(shapes);
        }
        for (const plan::Section& section : contents.sections) {
            Json tactics = Json::object();
            for (const plan::Tactic& t : section.tactics) tactics[t.region] = t.implementation;
            sections.push_back({{"target", section.target}, {"tactics", tactics}});
        }
        for (const LayerRow& row : layers) rows.push_back(cli::to_json(row));
        for (const PassRow& row : p.passes) passes.push_back({{"name", row.name}, {"changes", row.changes}});
        for (const VerificationRow& row : p.verification) verification.push_back(cli::to_json(row));
        result["ops"] = op_counts(*contents.graph);
        result["profiles"] = profiles;
        result["sections"] = sections;
        result["layers"] = rows;
        result["provenance"] = {{"source", cli::to_json(p.source)},
                                {"options", cli::to_json(p.options)},
                                {"versions", cli::to_json(p.versions)},
                                {"metadata", cli::to_json(p.metadata)},
                                {"passes", passes},
                                {"verification", verification},
                                {"precision", cli::to_json(p.precision)},
                                {"output_errors", cli::to_json(p.output_errors)},
                                {"mixes", cli::to_json(p.mixes)}};
        if (options.graph) result["graph"] = print(*contents.graph);
        fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
        return 0;
    }

    fmt::print("{}: {} on disk\n", paint(options.plan, Colour::bold), format_bytes(file_bytes));
    for (const TensorInfo& input : engine.inputs()) fmt::print("  in   {}: {}\n", input.name, shape_text(input));
    for (const TensorInfo& output : engine.outputs()) fmt::print("  out  {}: {}\n", output.name, shape_text(output));
    for (const plan::Profile& profile : contents.profiles)
        for (size_t i = 0; i < profile.opt.size(); ++i)
            fmt::print("  built for {} {}\n", engine.inputs()[i].name, to_string(profile.opt[i]));

    heading("Runs here");
    fmt::print("  device {}, target {}, precision {}{}\n", info.device, info.target, info.precision,
               info.compiled_at_load ? ", compiled at load: the plan has no section for it" : "");
    if (!info.interpreted.empty()) fmt::print("  in the reference interpreter: {}\n", info.interpreted);
    fmt::print("  weights {}, repacked {}, scratch per context {}\n", format_bytes(info.weight_bytes),
               format_bytes(info.packed_bytes), format_bytes(info.arena_bytes));
    if (sparse.constants > 0)
        fmt::print(
            "  {} constants are stored without zeros, {} for {} ({:.1f} % zeros), and restored when first read\n",
            sparse.constants, format_bytes(sparse.stored), format_bytes(sparse.bytes),
            100 * (1 - static_cast<double>(sparse.nonzeros) / static_cast<double>(sparse.elements)));
    const auto reference = std::count_if(
        layers.begin(), layers.end(), [](const LayerRow& row) { return row.implementation.starts_with("reference"); });
    fmt::print("  {} regions, {} of them in the reference interpreter (--layers shows them)\n", layers.size(),
               reference);

    heading("Graph");
    std::string ops;
    for (const auto& [op, count] : op_counts(*contents.graph))
        ops += fmt::format("{}{} {}", ops.empty() ? "" : ", ", count, op);
    fmt::print("  {}\n", ops);

    heading("Provenance");
    print_pairs(p.source, "source.");
    print_pairs(p.options, "option.");
    print_pairs(p.versions, "version.");
    print_pairs(p.metadata, "metadata.");
    std::string passes;
    for (const PassRow& row : p.passes)
        if (row.changes > 0) passes += fmt::format("{}{} {}", passes.empty() ? "" : ", ", row.name, row.changes);
    if (!passes.empty()) fmt::print("  passes that changed something: {}\n", passes);
    for (const plan::Section& section : contents.sections)
        fmt::print("  section {}: {} tactics\n", section.target, section.tactics.size());
    const auto failed = std::count_if(p.verification.begin(), p.verification.end(),
                                      [](const VerificationRow& row) { return !row.passed; });
    if (p.verification.empty())
        fmt::print("  {}\n", paint("not verified", Colour::yellow));
    else
        fmt::print("  verified: {} rows, {} over tolerance\n", p.verification.size(), failed);

    if (!p.precision.empty()) {
        heading("Precision");
        print_precision(p.precision, p.output_errors);
        if (!p.mixes.empty()) fmt::print("\n{}", mixes_table(p.mixes));
    }
    if (options.layers || options.explain) print_layers(layers, options.explain);
    if (options.verification) print_verification(p.verification);
    if (options.graph) fmt::print("\n{}", print(*contents.graph));
    return 0;
}

}  // namespace

Verb add_inspect(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("inspect", "Show what a plan holds, where and how its layers run");
    verb->footer(
        "Examples:\n"
        "  planish inspect model.plan\n"
        "  planish inspect model.plan --layers --explain\n"
        "  planish inspect model.plan --json | jq .layers");
    verb->add_option("plan", options->plan, "Plan file")->required();
    verb->add_flag("--layers", options->layers, "Every region: op, implementation, precision, work");
    verb->add_flag("--explain", options->explain, "Also every implementation that refused a region, and why");
    verb->add_flag("--verification", options->verification, "Errors and tolerances of the build's own check");
    verb->add_flag("--graph", options->graph, "The optimised graph as text");
    verb->add_option("--shape", options->shapes, "NAME=SHAPE: show the regions for these input shapes")
        ->allow_extra_args(false);
    verb->add_flag("--json", options->json, "Print everything as JSON");
    return [options] { return run_inspect(*options); };
}

}  // namespace planish::cli
