// `planish bench`: latency and throughput of a plan, and with --profile where the time goes.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <memory>
#include <optional>
#include <thread>

#include "base/atomic_file.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "runtime/engine_impl.hpp"
#include "runtime/profile.hpp"

namespace planish::cli {
namespace {

using Clock = std::chrono::steady_clock;
using runtime::Profile;
using runtime::ProfileRow;

struct Options {
    std::string plan;
    std::vector<std::string> inputs, shapes;
    LoadOptions load;
    int runs = 0, warmup = 3, contexts = 1;
    double seconds = 2;
    std::string sort = "order", trace;
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

struct Sample {
    std::vector<double> seconds;  // of each run, ascending
    double runs_per_second = 0;   // of all contexts together

    double at(double q) const { return quantile(seconds, q); }
};

/// Runs one context, or several at once, each on a thread of its own, until the time or the number of runs is spent.
Sample measure(const Options& options, const Engine& engine, Context::Impl& first,
               const std::vector<NamedView>& views) {
    std::vector<std::unique_ptr<Context::Impl>> others;
    for (int i = 1; i < options.contexts; ++i) {
        others.push_back(std::make_unique<Context::Impl>(engine.shared_impl()));
        for (int k = 0; k < options.warmup; ++k) others.back()->run(views);
    }
    std::vector<std::vector<double>> samples(static_cast<size_t>(options.contexts));
    std::vector<std::exception_ptr> errors(samples.size());
    const auto start = Clock::now();
    const auto work = [&](size_t c) {
        std::vector<double>& mine = samples[c];
        Context::Impl& context = c == 0 ? first : *others[c - 1];
        try {
            while (options.runs > 0 ? static_cast<int>(mine.size()) < options.runs
                                    : mine.size() < 5 || (since(start) < options.seconds && mine.size() < 1'000'000)) {
                const auto begin = Clock::now();
                context.run(views);
                mine.push_back(since(begin));
            }
        } catch (...) {
            errors[c] = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> threads;
        for (size_t c = 1; c < samples.size(); ++c) threads.emplace_back(work, c);
        work(0);
    }
    for (const std::exception_ptr& error : errors)
        if (error) std::rethrow_exception(error);
    Sample result;
    const double elapsed = since(start);
    for (const auto& mine : samples) result.seconds.insert(result.seconds.end(), mine.begin(), mine.end());
    std::sort(result.seconds.begin(), result.seconds.end());
    result.runs_per_second = static_cast<double>(result.seconds.size()) / elapsed;
    return result;
}

/// The rows as --sort asks for them.
std::vector<ProfileRow> sorted_rows(const Profile& profile, const std::string& order) {
    std::vector<ProfileRow> rows = profile.rows;
    const auto descending = [&](auto key) {
        std::ranges::stable_sort(rows, [&](const ProfileRow& a, const ProfileRow& b) { return key(a) > key(b); });
    };
    if (order == "time") descending([](const ProfileRow& row) { return row.seconds; });
    if (order == "excess") descending([](const ProfileRow& row) { return row.seconds - row.bound; });
    return rows;
}

std::string rate(int64_t amount, double seconds) {
    return amount ? fmt::format("{:.1f}", static_cast<double>(amount) / std::max(seconds, 1e-9) * 1e-9) : "";
}

void print_profile(const Profile& profile, const std::string& order) {
    std::vector<ProfileRow> rows = sorted_rows(profile, order);
    const ProfileRow total = profile.total();
    rows.push_back(total);
    std::vector<std::string> headers = {"region", "op",       "implementation", ">time",
                                        ">share", ">GFLOP/s", ">GB/s",          ">roofline"};
    if (profile.threads > 1) headers.emplace_back(">busy");
    Table table(headers);
    for (const ProfileRow& row : rows) {
        std::vector<std::string> cells = {shorten(row.step.name, 40),
                                          shorten(row.step.op, 28),
                                          shorten(row.step.implementation, 44),
                                          format_seconds(row.seconds),
                                          fmt::format("{:.1f} %", 100 * row.seconds / std::max(total.seconds, 1e-12)),
                                          rate(row.step.flops, row.seconds),
                                          rate(row.step.bytes, row.seconds),
                                          fmt::format("{:.0f} %", 100 * row.roofline())};
        if (profile.threads > 1) cells.push_back(fmt::format("{:.2f}", row.busy));
        table.add(cells);
    }
    fmt::print("\n{}", table.text());
    const bool integer =
        std::any_of(profile.rows.begin(), profile.rows.end(), [](const ProfileRow& row) { return row.step.integer; });
    fmt::print("roofline: {:.0f} GFLOP/s{} and {:.1f} GB/s, measured with {} thread{} (reading {} again and again)\n",
               profile.roofline.flops * 1e-9,
               integer ? fmt::format(", {:.0f} GOP/s of 8-bit integers", profile.roofline.integer_ops * 1e-9) : "",
               profile.roofline.bandwidth * 1e-9, profile.threads, profile.threads == 1 ? "" : "s",
               format_bytes(profile.working_set));
}

Json to_json(const ProfileRow& row) {
    return {{"name", row.step.name},       {"layers", row.step.layers},
            {"op", row.step.op},           {"implementation", row.step.implementation},
            {"ms", row.seconds * 1e3},     {"flops", row.step.flops},
            {"integer", row.step.integer}, {"bytes", row.step.bytes},
            {"bound_ms", row.bound * 1e3}, {"roofline", row.roofline()},
            {"busy_threads", row.busy}};
}

void add_profile(Json& result, const Profile& profile, const std::string& order) {
    Json steps = Json::array();
    for (const ProfileRow& row : sorted_rows(profile, order)) steps.push_back(to_json(row));
    const ProfileRow total = profile.total();
    result["profile"] = steps;
    result["profile_total"] = {{"ms", total.seconds * 1e3},    {"flops", total.step.flops},
                               {"bytes", total.step.bytes},    {"bound_ms", total.bound * 1e3},
                               {"roofline", total.roofline()}, {"busy_threads", total.busy}};
    result["peak"] = {{"gflops", profile.roofline.flops * 1e-9},
                      {"integer_gops", profile.roofline.integer_ops * 1e-9},
                      {"gbs", profile.roofline.bandwidth * 1e-9},
                      {"working_set_bytes", profile.working_set}};
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

    const Sample sample = measure(options, engine, context, views);
    const EngineInfo info = engine.info();
    const double median = sample.at(0.5), p90 = sample.at(0.9), low = sample.seconds.front();

    std::optional<Profile> profile;
    if (options.profile || !options.trace.empty())
        profile = runtime::profile(context, views, static_cast<int>(std::clamp<size_t>(sample.seconds.size(), 5, 50)));
    if (!options.trace.empty()) {
        const std::string text =
            runtime::chrome_trace(*profile, std::filesystem::path(options.plan).filename().string());
        write_file_atomically(options.trace, std::as_bytes(std::span(text)));
    }

    if (options.json) {
        Json result = {{"plan", options.plan},
                       {"device", info.device},
                       {"target", info.target},
                       {"threads", info.threads},
                       {"contexts", options.contexts},
                       {"runs", sample.seconds.size()},
                       {"runs_per_second", sample.runs_per_second},
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
        if (options.profile) add_profile(result, *profile, options.sort);
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
               paint(format_seconds(median), Colour::bold), format_seconds(p90), format_seconds(low),
               sample.seconds.size(), format_seconds(load_seconds), format_seconds(first_seconds));
    if (options.contexts > 1)
        fmt::print("{} contexts at once: {} runs/s\n", options.contexts,
                   paint(fmt::format("{:.4g}", sample.runs_per_second), Colour::bold));
    fmt::print("weights {}, repacked {}, scratch per context {}\n", format_bytes(info.weight_bytes),
               format_bytes(info.packed_bytes), format_bytes(info.arena_bytes));
    if (options.profile) print_profile(*profile, options.sort);
    return 0;
}

}  // namespace

Verb add_bench(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("bench", "Measure a plan's latency and throughput");
    verb->footer(
        "Examples:\n"
        "  planish bench mobilenet_v2.plan --threads 1 --json\n"
        "  planish bench mobilenet_v2.plan --threads 1 --contexts 4\n"
        "  planish bench bert.plan --shape input_ids=4x128 --shape attention_mask=4x128 --profile --sort excess");
    verb->add_option("plan", options->plan, "Plan file")->required();
    verb->add_option("-i,--input", options->inputs, "NAME=FILE.npy or FILE.npz (default: random values)")
        ->allow_extra_args(false);
    verb->add_option("--shape", options->shapes, "NAME=SHAPE of a random input (default: what the plan was built for)")
        ->allow_extra_args(false);
    verb->add_option("--device", options->load.device, "auto (default), cpu, cpu:avx2, cuda:0");
    verb->add_option("--threads", options->load.threads, "Threads of one run (default: all)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--runs", options->runs, "Timed runs (default: as many as fit in --seconds)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--seconds", options->seconds, "Time to spend on timed runs (default: 2)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--warmup", options->warmup, "Runs before the timed ones (default: 3)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--contexts", options->contexts, "Contexts of one engine that run at once (default: 1)")
        ->check(CLI::Range(1, 1024));
    CLI::Option* profile = verb->add_flag("--profile", options->profile,
                                          "Time, GFLOP/s, GB/s and share of the machine's roofline of every region");
    verb->add_option("--sort", options->sort,
                     "Rows of the profile: in order (default), by time, or by excess over the roofline's time")
        ->check(CLI::IsMember({"order", "time", "excess"}))
        ->needs(profile);
    verb->add_option("--trace", options->trace, "Write one profiled run as a trace for Perfetto or chrome://tracing");
    verb->add_flag("--only-reference", options->load.only_reference, "Run in the reference interpreter");
    verb->add_flag("--json", options->json, "Print the figures as JSON");
    return [options] { return run_bench(*options); };
}

}  // namespace planish::cli
