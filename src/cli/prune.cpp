// `planish prune`: whole channels out of a network.
#include "planish/prune.hpp"

#include <fmt/format.h>

#include "cli/optimise.hpp"
#include "cli/terminal.hpp"

namespace planish::cli {
namespace {

constexpr const char* kSuffix = "_pruned";

struct Options {
    OptimiseOptions common;
    std::string scope = "global";
    PruneOptions prune;
    bool no_reconstruct = false;
};

Json to_json(const PruneReport& report) {
    Json layers = Json::array();
    for (const PruneRow& row : report.layers)
        layers.push_back({{"layer", row.layer},
                          {"op", row.op},
                          {"inputs_before", row.inputs_before},
                          {"inputs", row.inputs},
                          {"channels_before", row.channels_before},
                          {"channels", row.channels},
                          {"error", row.error},
                          {"seconds_before", row.seconds_before},
                          {"seconds", row.seconds},
                          {"bytes_before", row.bytes_before},
                          {"bytes", row.bytes}});
    return {{"criterion", report.criterion},
            {"channels_before", report.channels_before},
            {"channels", report.channels},
            {"seconds_before", report.seconds_before},
            {"seconds", report.seconds},
            {"bytes_before", report.bytes_before},
            {"bytes", report.bytes},
            {"warnings", report.warnings},
            {"layers", layers}};
}

void print_text(const PruneReport& report) {
    Table table({"layer", "op", ">in", ">", ">channels", ">", ">error", ">time", ">", ">size", ">"});
    const auto time = [](double seconds) { return seconds > 0 ? format_seconds(seconds) : std::string("-"); };
    for (const PruneRow& row : report.layers)
        table.add({shorten(row.layer, 44), row.op, std::to_string(row.inputs_before), std::to_string(row.inputs),
                   std::to_string(row.channels_before), std::to_string(row.channels),
                   row.error > 0 ? fmt::format("{:.3f}", row.error) : "-", time(row.seconds_before), time(row.seconds),
                   format_bytes(row.bytes_before), format_bytes(row.bytes)});
    fmt::print("{}", table.text());
    fmt::print("criterion {}: {} of {} channels stay, weights {} -> {}", report.criterion, report.channels,
               report.channels_before, format_bytes(report.bytes_before), format_bytes(report.bytes));
    if (report.seconds > 0)
        fmt::print(", one run {} -> {} ({:.2f}x)", format_seconds(report.seconds_before),
                   format_seconds(report.seconds), report.seconds_before / report.seconds);
    fmt::print("\n");
}

int run_prune(Options& options) {
    OptimiseOptions& common = options.common;
    choose_outputs(common, kSuffix);
    PruneOptions& prune_options = options.prune;
    prune_options.global = options.scope == "global";
    prune_options.reconstruct = !options.no_reconstruct;
    prune_options.measure = !common.no_measure;
    prune_options.shapes = parse_shapes(common.shapes);
    prune_options.threads = common.threads;
    if (!common.calibration.empty()) prune_options.calibration = read_calibration(common.calibration);
    ProgressLine line(!common.quiet && !common.json);
    prune_options.progress = [&](const Progress& p) {
        line.update(p.stage, p.detail, p.fraction);
        return true;
    };
    const Pruned pruned = prune(std::filesystem::path(common.model), prune_options);
    BuildOptions build;
    build.progress = prune_options.progress;
    write_outputs(common, pruned, build, prune_options.calibration, [](const Plan& plan) { return plan; });
    line.clear();
    if (common.json)
        fmt::print("{}\n", to_json(pruned.report()).dump(2, ' ', false, Json::error_handler_t::replace));
    else if (!common.quiet)
        print_text(pruned.report());
    print_outputs(common);
    return 0;
}

}  // namespace

Verb add_prune(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("prune", "Remove channels and heads from a model or plan");
    verb->footer(
        "Examples:\n"
        "  planish prune model.onnx --ratio 0.3 --calib inputs/ -o model_pruned.plan\n"
        "  planish prune model.plan --speedup 1.5 --calib inputs.npz --onnx model_pruned.onnx");
    add_options(*verb, options->common, kSuffix);
    CLI::Option* ratio =
        verb->add_option("--ratio", options->prune.ratio, "Share of channels to remove (default: 0.5)");
    verb->add_option("--speedup", options->prune.speedup, "How many times as fast the measured network shall be")
        ->excludes(ratio);
    verb->add_option("--scope", options->scope,
                     "Does the ratio hold over all layers together, or in each: global (default), layer")
        ->check(CLI::IsMember({"global", "layer"}));
    verb->add_option("--criterion", options->prune.criterion,
                     "What makes a channel important: auto (default), l1, l2, bn, activation");
    verb->add_option("--multiple", options->prune.multiple,
                     "What is left of a layer's channels is a multiple of this (default: 8)")
        ->check(CLI::PositiveNumber);
    verb->add_flag("--no-reconstruct", options->no_reconstruct, "Leave the other weights as they are");
    verb->add_option("--ridge", options->prune.ridge, "How strongly weights hold on to their values (default: 0.001)")
        ->check(CLI::NonNegativeNumber);
    verb->add_option("--keep", options->prune.keep, "Layer whose channels all stay, '*' for anything; may be repeated")
        ->allow_extra_args(false);
    return [options] { return run_prune(*options); };
}

}  // namespace planish::cli
