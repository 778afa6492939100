// `planish build`: model in, verified plan out.
#include <fmt/format.h>

#include <algorithm>

#include "cli/common.hpp"
#include "cli/front.hpp"
#include "cli/terminal.hpp"
#include "passes/pass.hpp"
#include "plan/plan_io.hpp"
#include "tuner/timing_cache.hpp"

namespace planish::cli {
namespace {

struct Options {
    std::string model, output;
    std::vector<std::string> shapes, metadata, samples;
    std::string timing_cache, calibration, held_out, plot;
    std::vector<std::string> layer_precision;
    BuildOptions build;
    bool no_verify = false, list_passes = false, json = false, quiet = false;
};

int list_passes() {
    Table table({"pass", "why here"});
    for (const passes::Pass& pass : passes::portable_pipeline())
        table.add({std::string(pass.name), std::string(pass.why)});
    fmt::print("{}", table.text());
    return 0;
}

void print_json(const Options& options, const BuildReport& report, int64_t bytes) {
    Json result = {{"plan", options.output}, {"bytes", bytes}};
    Json tactics = Json::array(), passes = Json::array(), layers = Json::array(), verification = Json::array(),
         seconds = Json::object();
    for (const TacticRow& row : report.tactics) {
        Json seconds_by_tactic = Json::object();
        for (const auto& [tactic, time] : row.seconds) seconds_by_tactic[tactic] = time;
        tactics.push_back({{"region", row.region},
                           {"layers", row.layers},
                           {"chosen", row.chosen},
                           {"seconds", seconds_by_tactic},
                           {"from_cache", row.from_cache}});
    }
    for (const PassRow& row : report.passes)
        passes.push_back({{"name", row.name}, {"changes", row.changes}, {"seconds", row.seconds}});
    for (const LayerRow& row : report.layers) layers.push_back(to_json(row));
    for (const VerificationRow& row : report.verification) verification.push_back(to_json(row));
    for (const auto& [stage, time] : report.seconds) seconds[stage] = time;
    result["precision"] = to_json(report.precision);
    result["output_errors"] = to_json(report.output_errors);
    if (!report.budget.empty()) {
        result["budget"] = report.budget;
        result["groups"] = to_json(report.groups);
        result["mixes"] = to_json(report.mixes);
    }
    result["seconds"] = seconds;
    result["warnings"] = report.warnings;
    result["timing_cache"] = report.timing_cache.empty() ? Json() : Json(report.timing_cache);
    result["tactics"] = tactics;
    result["passes"] = passes;
    result["layers"] = layers;
    result["verification"] = verification;
    fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
}

// The network as a whole: by default, with other implementations only, with regions dissolved too.
void print_network(const TacticRow& network) {
    std::string times;
    for (const auto& [variant, seconds] : network.seconds)
        times += fmt::format("{}{} {}", times.empty() ? "" : ", ", variant, format_seconds(seconds));
    fmt::print("network: {}; kept: {}\n", times, network.chosen);
}

// What the choices of the tuner gained: where it left the default, against that; else against the next best.
void print_tactics(const BuildReport& report) {
    struct Gain {
        const TacticRow* row;
        double chosen, other;
        std::string instead;
        bool changed;
    };
    std::vector<Gain> gains;
    const TacticRow* network = nullptr;
    int from_cache = 0, timed = 0, changed = 0;
    for (const TacticRow& row : report.tactics) {
        if (row.seconds.size() < 2) continue;
        if (row.layers.empty()) {
            network = &row;
            continue;
        }
        ++(row.from_cache ? from_cache : timed);
        Gain gain{&row, 0, 0, {}, row.chosen != row.seconds[0].first};
        changed += gain.changed;
        for (const auto& [tactic, seconds] : row.seconds) {
            if (tactic == row.chosen) {
                gain.chosen = seconds;
            } else if (gain.instead.empty() || (!gain.changed && seconds < gain.other)) {
                gain.instead = tactic;
                gain.other = seconds;
            }
        }
        gains.push_back(std::move(gain));
    }
    if (gains.empty()) return;
    fmt::print("tuned {} regions ({} timed, {} from the timing cache), {} differ from the default; {}\n", gains.size(),
               timed, from_cache, changed,
               report.timing_cache.empty() ? "the times were not kept" : "timing cache: " + report.timing_cache);
    std::stable_sort(gains.begin(), gains.end(), [](const Gain& a, const Gain& b) {
        return std::pair(a.changed, a.other - a.chosen) > std::pair(b.changed, b.other - b.chosen);
    });
    constexpr size_t kShown = 10;
    Table table({"region", "chosen", ">time", "instead of", ">time", ">gain"});
    for (size_t i = 0; i < std::min(gains.size(), kShown); ++i) {
        const Gain& gain = gains[i];
        table.add({shorten(gain.row->region, 44), gain.row->chosen, format_seconds(gain.chosen), gain.instead,
                   format_seconds(gain.other), fmt::format("{:.0f} %", 100 * (1 - gain.chosen / gain.other))});
    }
    fmt::print("{}", table.text());
    if (gains.size() > kShown) fmt::print("... and {} more (--json lists all)\n", gains.size() - kShown);
    if (network) print_network(*network);
}

void print_text(const Options& options, const BuildReport& report, int64_t bytes) {
    double seconds = 0;
    std::string stages;
    for (const auto& [stage, time] : report.seconds) {
        seconds += time;
        stages += fmt::format("{}{} {}", stages.empty() ? "" : ", ", stage, format_seconds(time));
    }
    const auto reference = std::count_if(report.layers.begin(), report.layers.end(), [](const LayerRow& row) {
        return row.implementation.starts_with("reference");
    });
    fmt::print("{} {} ({}) in {}: {}\n", paint("wrote", Colour::green), options.output, format_bytes(bytes),
               format_seconds(seconds), stages);
    fmt::print("{} regions, {} of them in the reference interpreter\n", report.layers.size(), reference);
    print_tactics(report);
    double worst = 0;
    const VerificationRow* where = nullptr;
    for (const VerificationRow& row : report.verification)
        if (row.tolerance > 0 && row.error / row.tolerance >= worst) worst = row.error / row.tolerance, where = &row;
    if (where)
        fmt::print("verified {} regions and outputs; closest to its tolerance: {} (error {:.2g}, tolerance {:.2g})\n",
                   report.verification.size(), where->name, where->error, where->tolerance);
    for (const std::string& warning : report.warnings)
        fmt::print(stderr, "{} {}\n", paint("warning:", Colour::yellow, stderr), warning);
}

// A damaged file of the user's own naming is an error; the default one must never be in the way.
void choose_timing_cache(Options& options) {
    if (options.timing_cache == "none") return;
    if (!options.timing_cache.empty()) {
        options.build.timing_cache = options.timing_cache;
        return;
    }
    try {
        tuner::TimingCache::read(tuner::default_timing_cache());
        options.build.timing_cache = tuner::default_timing_cache();
    } catch (const Error& error) {
        fmt::print(stderr, "{} {}; built without a timing cache\n", paint("warning:", Colour::yellow, stderr),
                   error.message());
    }
}

int run_build(Options& options) {
    if (options.list_passes) return list_passes();
    if (options.model.empty())
        fail(ErrorCode::invalid_argument, "no model given", "planish build MODEL.onnx -o MODEL.plan");
    if (options.output.empty())
        options.output = std::filesystem::path(options.model).replace_extension(".plan").string();
    if (std::error_code none; std::filesystem::equivalent(options.model, options.output, none))
        fail(ErrorCode::invalid_argument, "the plan would replace '" + options.model + "', which it is built from",
             "say where it goes: --output OTHER.plan");
    BuildOptions& build_options = options.build;
    build_options.shapes = parse_shapes(options.shapes);
    build_options.verify = !options.no_verify;
    choose_timing_cache(options);
    for (const std::string& text : options.metadata)
        build_options.metadata.push_back(split_assignment(text, "--metadata"));
    for (const std::string& text : options.samples) build_options.samples.push_back(read_inputs({text}));
    if (!options.calibration.empty()) build_options.calibration.samples = read_calibration(options.calibration);
    for (const std::string& text : options.layer_precision)
        build_options.calibration.layer_precision.push_back(split_assignment(text, "--layer-precision"));
    if (!options.held_out.empty()) build_options.accuracy.held_out = read_calibration(options.held_out);
    if (!options.plot.empty()) check_plot(options.plot, build_options.precision);
    plan::check_writable(options.output);
    ProgressLine line(!options.quiet && !options.json);
    build_options.progress = [&](const Progress& p) {
        line.update(p.stage, p.detail, p.fraction);
        return true;
    };
    const Plan plan = build(std::filesystem::path(options.model), build_options);
    line.update("write", options.output, 1);
    plan.save(options.output);
    line.clear();
    if (!options.plot.empty()) write_plot(options.plot, plan.report().mixes, plan.report().budget);
    const auto bytes = static_cast<int64_t>(std::filesystem::file_size(options.output));
    if (options.json)
        print_json(options, plan.report(), bytes);
    else if (!options.quiet) {
        print_precision(plan.report().precision, plan.report().output_errors);
        print_mixes(plan.report());
        print_text(options, plan.report(), bytes);
    }
    return 0;
}

/// The options that building has under either of its names.
Verb add_verb(CLI::App* verb, std::shared_ptr<Options> options) {
    const std::string fallback = tuner::default_timing_cache().string();
    verb->add_option("model,--input_file", options->model,
                     "ONNX file, or a plan to build again from its portable core");
    verb->add_option("-o,--output,--output_file", options->output, "Where the plan goes (default: MODEL.plan)");
    verb->add_option("--target", options->build.targets,
                     "cpu, cpu:avx2, cpu:avx512, cuda, cuda:sm_90a, ...; may be repeated")
        ->take_all()
        ->allow_extra_args(false);
    verb->add_option(
        "--precision", options->build.precision,
        "Of GPU targets: fp32 (default), tf32, fp16, bf16, int8, fp8 (both with --calib); of the CPU: fp32, int8, "
        "auto: the fastest mix of both within --budget");
    CalibrationOptions& calibration = options->build.calibration;
    verb->add_option("--calib", options->calibration,
                     "Real inputs for int8, fp8 and auto: a folder of .npz (a sample each) or .npy files, or an .npz "
                     "whose arrays hold "
                     "the samples along their first axis");
    verb->add_option("--calib-method", calibration.method,
                     "How the range of a tensor is chosen: mse (default), min_max, percentile, entropy");
    verb->add_option("--calib-table", calibration.table, "JSON file of ranges to take");
    verb->add_option("--save-calib-table", calibration.save_table, "Write the ranges to this JSON file");
    verb->add_option("--layer-precision", options->layer_precision,
                     "PATTERN=fp32 or PATTERN=int8 (fp8) for layers of these names (* and ?); may be repeated")
        ->allow_extra_args(false);
    verb->add_option("--accuracy-budget", calibration.accuracy_budget,
                     "Least signal to quantisation noise of every output on the calibration data, in dB");
    AccuracyOptions& accuracy = options->build.accuracy;
    verb->add_option("--budget", accuracy.budget,
                     "What auto must keep: top1>=0.99 (agreement with float32), cosine>=0.999, sqnr>=25 (dB), "
                     "error<=0.05, or of --metric metric>=0.75, metric>=fp32-0.005");
    verb->add_option("--metric", accuracy.command,
                     "Shell command that prints the accuracy of a plan last; {plan} in it is the plan's file");
    verb->add_option("--held-out", options->held_out,
                     "Inputs to verify the budget with, in the forms of --calib (default: every fifth of those)");
    verb->add_option("--mixes", accuracy.mixes, "Most mixes of precisions to build and measure (default: 6)")
        ->check(CLI::NonNegativeNumber);
    verb->add_option("--search-time", accuracy.time_limit, "Seconds after which no other mix is tried (default: none)")
        ->check(CLI::NonNegativeNumber);
    verb->add_option("--plot", options->plot, "Write the mixes' times and accuracies as a picture to this .svg file");
    verb->add_option("--shape", options->shapes,
                     "NAME=SHAPE or NAME=MIN:OPT:MAX, sizes with x between; may be repeated")
        ->allow_extra_args(false);
    verb->add_option("--threads", options->build.threads, "Threads to build with (default: all)")
        ->check(CLI::NonNegativeNumber);
    verb->add_option(
            "--optimization-level", options->build.optimization_level,
            "0: the graph as imported; 1: optimised, the first kernel that can; 2: and the timing cache's choices; "
            "3 (default): and what it lacks is timed; 4, 5: timed 3 and 10 times as often")
        ->check(CLI::Range(0, 5));
    verb->add_option("--timing-cache", options->timing_cache,
                     "File of measurements to use and to add to, or 'none' (default: " +
                         (fallback.empty() ? std::string("none") : fallback) + ")");
    verb->add_option(
            "--time-budget", options->build.time_budget,
            "Seconds to spend on timing; regions not reached keep their default (default: as many as it takes)")
        ->check(CLI::NonNegativeNumber);
    verb->add_flag("--replay-only", options->build.replay_only,
                   "Time nothing: fail when the timing cache lacks a region");
    verb->add_flag("--no-verify", options->no_verify, "Do not compare with the reference interpreter");
    verb->add_option("--sample", options->samples, ".npz of inputs to verify with (default: random)")
        ->allow_extra_args(false);
    verb->add_option("--metadata", options->metadata, "KEY=VALUE kept in the plan; may be repeated")
        ->allow_extra_args(false);
    verb->add_option("--disable-pass", options->build.disabled_passes, "Skip a pass; may be repeated")
        ->allow_extra_args(false);
    verb->add_option("--disable", options->build.disabled_implementations,
                     "Do not use kernels whose name begins so; may be repeated")
        ->allow_extra_args(false);
    verb->add_flag("--only-reference", options->build.only_reference, "Run everything in the reference interpreter");
    verb->add_option("--dump-after", options->build.dump_after, "Write the graph's text after a pass, or 'all'")
        ->allow_extra_args(false);
    verb->add_option("--dump-folder", options->build.dump_folder, "Where the dumps go (default: .)");
    verb->add_flag("--list-passes", options->list_passes, "Print the passes in order, each with its reason");
    verb->add_flag("--json", options->json, "Print the report as JSON");
    verb->add_flag("-q,--quiet", options->quiet, "Print nothing but errors");
    return [options] { return run_build(*options); };
}

}  // namespace

Verb add_build(CLI::App& app) {
    CLI::App* verb = app.add_subcommand("build", "Compile an ONNX model to a plan and verify it");
    verb->footer(
        "Examples:\n"
        "  planish build mobilenet_v2.onnx -o mobilenet_v2.plan\n"
        "  planish build bert.onnx --shape input_ids=1x8:1x128:8x512 --shape attention_mask=1x8:1x128:8x512\n"
        "  planish build model.onnx --precision int8 --calib samples/\n"
        "  planish build model.onnx --precision auto --budget 'top1>=0.99' --calib samples/\n"
        "  planish build model.onnx --timing-cache team.json --replay-only\n"
        "  planish build model.onnx --dump-after all --dump-folder passes/");
    return add_verb(verb, std::make_shared<Options>());
}

Verb add_quantize(CLI::App& app) {
    CLI::App* verb = app.add_subcommand("quantize", "Compile an ONNX model to a plan of 8-bit integers");
    verb->footer(
        "The same as planish build --precision int8; with --budget: as --precision auto. Examples:\n"
        "  planish quantize mobilenet_v2.onnx --calib samples/ --budget 'top1>=0.99' --plot front.svg\n"
        "  planish quantize mobilenet_v2.onnx --calib samples/ -o mobilenet_v2_int8.plan\n"
        "  planish quantize model.onnx --calib samples.npz --layer-precision 'head*=fp32' --save-calib-table "
        "ranges.json");
    auto options = std::make_shared<Options>();
    options->build.precision = "int8";
    const Verb run = add_verb(verb, options);
    return [options, run] {
        if (!options->build.accuracy.budget.empty()) options->build.precision = "auto";
        return run();
    };
}

}  // namespace planish::cli
