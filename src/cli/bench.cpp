// `planish bench`: latency of a plan, and with --profile where it goes.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "runtime/engine_impl.hpp"

namespace planish::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
    std::string plan;
    std::vector<std::string> inputs, shapes;
    LoadOptions load;
    int runs = 0, warmup = 3;
    double seconds = 2;
    bool profile = false, json = false;
};

double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The value below which a share `q` of the sorted samples lies.
double quantile(const std::vector<double>& sorted, double q) {
    const double at = q * static_cast<double>(sorted.size() - 1);
    const auto low = static_cast<size_t>(at);
    const size_t high = std::min(low + 1, sorted.size() - 1);
    return sorted[low] + (sorted[high] - sorted[low]) * (at - std::floor(at));
}

struct ProfileRow {
    StepInfo step;
    double seconds = 0;  // median
};

std::vector<ProfileRow> profile(Context::Impl& context, const std::vector<NamedView>& views, int runs) {
    context.run(views);
    const Program* program = context.current->compiled.program.get();
    if (program == nullptr)
        fail(ErrorCode::unsupported,
             "--profile: the reference interpreter runs this plan: " + context.current->compiled.interpreted);
    std::vector<ProfileRow> rows;
    for (StepInfo& step : program->steps()) rows.push_back({std::move(step), 0});
    std::vector<std::vector<double>> samples(rows.size());
    std::vector<double> seconds(rows.size());
    for (int r = 0; r < runs; ++r) {
        program->run_profiled(context.input_pointers, context.targets, context.arena.data(), context.engine->threads,
                              seconds);
        for (size_t i = 0; i < rows.size(); ++i) samples[i].push_back(seconds[i]);
    }
    for (size_t i = 0; i < rows.size(); ++i) {
        std::sort(samples[i].begin(), samples[i].end());
        rows[i].seconds = quantile(samples[i], 0.5);
    }
    return rows;
}

void print_profile(const std::vector<ProfileRow>& rows) {
    double total = 0;
    for (const ProfileRow& row : rows) total += row.seconds;
    Table table({"region", "op", "implementation", ">time", ">share", ">GFLOP/s", ">GB/s"});
    for (const ProfileRow& row : rows) {
        const double s = std::max(row.seconds, 1e-9);
        table.add({shorten(row.step.name, 40), shorten(row.step.op, 28), shorten(row.step.implementation, 44),
                   format_seconds(row.seconds), fmt::format("{:.1f} %", 100 * row.seconds / std::max(total, 1e-12)),
                   row.step.flops ? fmt::format("{:.1f}", static_cast<double>(row.step.flops) / s * 1e-9) : "",
                   row.step.bytes ? fmt::format("{:.1f}", static_cast<double>(row.step.bytes) / s * 1e-9) : ""});
    }
    fmt::print("\n{}", table.text());
}

int run_bench(const Options& options) {
    TensorMap inputs = read_inputs(options.inputs);
    const auto load_start = Clock::now();
    const Engine engine = load(std::filesystem::path(options.plan), options.load);
    const double load_seconds = since(load_start);
    const plan::PlanContents& contents = *engine.shared_impl()->contents;
    const auto shapes = input_shapes(contents, parse_shapes(options.shapes), inputs);
    add_random_inputs(contents, shapes, inputs);

    Context::Impl context(engine.shared_impl());
    std::vector<NamedView> views;
    for (auto& [name, tensor] : inputs) views.push_back({name, {tensor.dtype(), tensor.dims(), tensor.raw()}});
    const auto first_start = Clock::now();
    context.run(views);
    const double first_seconds = since(first_start);
    for (int i = 1; i < options.warmup; ++i) context.run(views);

    std::vector<double> samples;
    const auto start = Clock::now();
    while (options.runs > 0 ? static_cast<int>(samples.size()) < options.runs
                            : samples.size() < 5 || (since(start) < options.seconds && samples.size() < 1'000'000)) {
        const auto begin = Clock::now();
        context.run(views);
        samples.push_back(since(begin));
    }
    std::sort(samples.begin(), samples.end());
    const EngineInfo info = engine.info();
    const double median = quantile(samples, 0.5), p90 = quantile(samples, 0.9), low = samples.front();

    std::vector<ProfileRow> rows;
    if (options.profile) rows = profile(context, views, static_cast<int>(std::clamp<size_t>(samples.size(), 5, 50)));

    if (options.json) {
        Json result = {{"plan", options.plan},
                       {"device", info.device},
                       {"target", info.target},
                       {"threads", info.threads},
                       {"runs", samples.size()},
                       {"median_ms", median * 1e3},
                       {"p90_ms", p90 * 1e3},
                       {"min_ms", low * 1e3},
                       {"load_ms", load_seconds * 1e3},
                       {"first_ms", first_seconds * 1e3},
                       {"weight_bytes", info.weight_bytes},
                       {"packed_bytes", info.packed_bytes},
                       {"arena_bytes", info.arena_bytes}};
        Json dims = Json::object();
        for (const auto& [name, tensor] : inputs) dims[name] = tensor.dims();
        result["shapes"] = dims;
        if (!info.interpreted.empty()) result["interpreted"] = info.interpreted;
        if (options.profile) {
            Json steps = Json::array();
            for (const ProfileRow& row : rows)
                steps.push_back({{"name", row.step.name},
                                 {"layers", row.step.layers},
                                 {"op", row.step.op},
                                 {"implementation", row.step.implementation},
                                 {"ms", row.seconds * 1e3},
                                 {"flops", row.step.flops},
                                 {"bytes", row.step.bytes}});
            result["profile"] = steps;
        }
        fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
        return 0;
    }
    std::string dims;
    for (const auto& [name, tensor] : inputs)
        dims += fmt::format("{}{} {}", dims.empty() ? "" : ", ", name, to_string(tensor.dims()));
    fmt::print("{} on {} ({}), {} thread{}: {}\n", options.plan, info.device, info.target, info.threads,
               info.threads == 1 ? "" : "s", dims);
    if (!info.interpreted.empty())
        fmt::print(stderr, "{} runs in the reference interpreter: {}\n", paint("note:", Colour::yellow, stderr),
                   info.interpreted);
    fmt::print("median {}   p90 {}   min {}   ({} runs; load {}, first run {})\n",
               paint(format_seconds(median), Colour::bold), format_seconds(p90), format_seconds(low), samples.size(),
               format_seconds(load_seconds), format_seconds(first_seconds));
    fmt::print("weights {}, repacked {}, scratch per context {}\n", format_bytes(info.weight_bytes),
               format_bytes(info.packed_bytes), format_bytes(info.arena_bytes));
    if (options.profile) print_profile(rows);
    return 0;
}

}  // namespace

Verb add_bench(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("bench", "Measure a plan's latency");
    verb->footer(
        "Examples:\n"
        "  planish bench mobilenet_v2.plan --threads 1 --json\n"
        "  planish bench bert.plan --shape input_ids=4x128 --shape attention_mask=4x128 --profile");
    verb->add_option("plan", options->plan, "Plan file")->required();
    verb->add_option("-i,--input", options->inputs, "NAME=FILE.npy or FILE.npz (default: random values)")
        ->allow_extra_args(false);
    verb->add_option("--shape", options->shapes, "NAME=SHAPE of a random input (default: what the plan was built for)")
        ->allow_extra_args(false);
    verb->add_option("--device", options->load.device, "auto (default), cpu, cpu:avx2");
    verb->add_option("--threads", options->load.threads, "Threads of one run (default: all)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--runs", options->runs, "Timed runs (default: as many as fit in --seconds)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--seconds", options->seconds, "Time to spend on timed runs (default: 2)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--warmup", options->warmup, "Runs before the timed ones (default: 3)")
        ->check(CLI::PositiveNumber);
    verb->add_flag("--profile", options->profile, "Time, GFLOP/s and GB/s of every region");
    verb->add_flag("--only-reference", options->load.only_reference, "Run in the reference interpreter");
    verb->add_flag("--json", options->json, "Print the figures as JSON");
    return [options] { return run_bench(*options); };
}

}  // namespace planish::cli
