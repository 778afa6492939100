// `planish sparsify`: zeros in the weights of a network.
#include "planish/sparsify.hpp"

#include <fmt/format.h>

#include "cli/optimise.hpp"
#include "cli/terminal.hpp"

namespace planish::cli {
namespace {

constexpr const char* kSuffix = "_sparse";

struct Options {
    OptimiseOptions common;
    std::string test;
    SparsifyOptions sparsify;
    bool no_compress = false;
};

Json to_json(const SparsifyReport& report) {
    Json layers = Json::array(), outputs = Json::array();
    for (const SparsifyRow& row : report.layers)
        layers.push_back({{"layer", row.layer},
                          {"op", row.op},
                          {"weights", row.weights},
                          {"zeros_before", row.zeros_before},
                          {"zeros", row.zeros},
                          {"error", row.error},
                          {"bytes_before", row.bytes_before},
                          {"bytes", row.bytes},
                          {"note", row.note}});
    for (const OutputAccuracyRow& row : report.outputs)
        outputs.push_back(
            {{"name", row.name}, {"sqnr", row.sqnr}, {"cosine", row.cosine}, {"agreement", row.agreement}});
    return {{"pattern", report.pattern}, {"criterion", report.criterion},
            {"samples", report.samples}, {"tests", report.tests},
            {"weights", report.weights}, {"zeros_before", report.zeros_before},
            {"zeros", report.zeros},     {"bytes_before", report.bytes_before},
            {"bytes", report.bytes},     {"seconds_before", report.seconds_before},
            {"seconds", report.seconds}, {"outputs", outputs},
            {"layers", layers}};
}

std::string percent(int64_t part, int64_t whole) {
    return fmt::format("{:.1f} %", whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0);
}

void print_text(const SparsifyReport& report) {
    Table table({"layer", "op", ">weights", ">zeros", ">", ">error", ">size", ">", "note"});
    for (const SparsifyRow& row : report.layers)
        table.add({shorten(row.layer, 44), row.op, std::to_string(row.weights), percent(row.zeros_before, row.weights),
                   percent(row.zeros, row.weights), row.error > 0 ? fmt::format("{:.3f}", row.error) : "-",
                   format_bytes(row.bytes_before), format_bytes(row.bytes), row.note});
    fmt::print("{}", table.text());
    fmt::print("{} by {}: {} of {} weights are zeros, constants {} -> {} without them\n", report.pattern,
               report.criterion, report.zeros, report.weights, format_bytes(report.bytes_before),
               format_bytes(report.bytes));
    for (const OutputAccuracyRow& row : report.outputs)
        fmt::print("output {}: {:.1f} dB, cosine {:.4f}, largest element kept in {:.1f} % of rows, on {} samples\n",
                   row.name, row.sqnr, row.cosine, 100 * row.agreement, report.tests);
    if (report.seconds > 0)
        fmt::print("one run {} -> {} ({:.2f}x): no gain, kernels of the CPU read zeros as any weight\n",
                   format_seconds(report.seconds_before), format_seconds(report.seconds),
                   report.seconds_before / report.seconds);
}

int run_sparsify(Options& options) {
    OptimiseOptions& common = options.common;
    choose_outputs(common, kSuffix);
    SparsifyOptions& how = options.sparsify;
    how.measure = !common.no_measure;
    how.shapes = parse_shapes(common.shapes);
    how.threads = common.threads;
    if (!common.calibration.empty()) how.calibration = read_calibration(common.calibration);
    if (!options.test.empty()) how.test = read_calibration(options.test);
    ProgressLine line(!common.quiet && !common.json);
    how.progress = [&](const Progress& p) {
        line.update(p.stage, p.detail, p.fraction);
        return true;
    };
    const Sparsified sparse = sparsify(std::filesystem::path(common.model), how);
    BuildOptions build;
    build.progress = how.progress;
    write_outputs(common, sparse, build, how.calibration,
                  [&](const Plan& plan) { return options.no_compress ? plan : compress_weights(plan); });
    line.clear();
    if (common.json)
        fmt::print("{}\n", to_json(sparse.report()).dump(2, ' ', false, Json::error_handler_t::replace));
    else if (!common.quiet)
        print_text(sparse.report());
    print_outputs(common);
    return 0;
}

}  // namespace

Verb add_sparsify(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("sparsify", "Make weights of a model or plan zero");
    verb->footer(
        "Examples:\n"
        "  planish sparsify model.onnx --calib inputs/ -o model_24.plan\n"
        "  planish sparsify model.plan --pattern unstructured --sparsity 0.7 --calib inputs.npz --test others.npz\n"
        "  planish sparsify model_pruned.plan --criterion magnitude --onnx model_24.onnx");
    add_options(*verb, options->common, kSuffix);
    verb->add_option("--pattern", options->sparsify.pattern,
                     "2:4 (default): two zeros in four neighbouring input channels; unstructured: anywhere")
        ->check(CLI::IsMember({"2:4", "unstructured"}));
    verb->add_option("--sparsity", options->sparsify.sparsity,
                     "Of unstructured: the share of each layer's weights that become zero (default: 0.5)");
    verb->add_option("--criterion", options->sparsify.criterion,
                     "Which: magnitude, wanda, sparsegpt; auto (default): sparsegpt with calibration data");
    verb->add_option("--damping", options->sparsify.damping,
                     "Of sparsegpt: how strongly weights hold on to their values (default: 0.1)")
        ->check(CLI::NonNegativeNumber);
    verb->add_option("--test", options->test,
                     "Inputs to measure the accuracy with, as --calib (default: a fifth of the calibration data)");
    verb->add_option("--keep", options->sparsify.keep, "Layer that stays dense, '*' for anything; may be repeated")
        ->allow_extra_args(false);
    verb->add_flag("--no-compress", options->no_compress,
                   "Store zeros in the plan, so that it is mapped, not restored");
    return [options] { return run_sparsify(*options); };
}

}  // namespace planish::cli
