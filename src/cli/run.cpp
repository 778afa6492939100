// `planish run`: one inference from files to files.
#include <fmt/format.h>

#include <cmath>

#include "cli/common.hpp"
#include "cli/npy.hpp"
#include "cli/terminal.hpp"
#include "runtime/engine_impl.hpp"

namespace planish::cli {
namespace {

struct Options {
    std::string plan;
    std::vector<std::string> inputs, outputs, shapes;
    LoadOptions load;
    bool random = false, json = false;
};

bool is_number(DType dtype) {
    return is_float(dtype) || is_integer(dtype) || dtype == DType::boolean;
}

Json summary(const Tensor& tensor) {
    Json row = {{"dtype", to_string(tensor.dtype())}, {"shape", tensor.dims()}};
    if (!is_number(tensor.dtype()) || tensor.size() == 0) return row;
    double low = INFINITY, high = -INFINITY, sum = 0;
    int64_t nans = 0;
    for (int64_t i = 0; i < tensor.size(); ++i) {
        const double x = tensor.at_double(i);
        if (std::isnan(x)) {
            ++nans;
            continue;
        }
        low = std::min(low, x);
        high = std::max(high, x);
        sum += x;
    }
    row["min"] = low;
    row["max"] = high;
    row["mean"] = sum / static_cast<double>(std::max<int64_t>(1, tensor.size() - nans));
    if (nans > 0) row["nans"] = nans;
    return row;
}

std::string first_values(const Tensor& tensor) {
    std::string text;
    const int64_t shown = std::min<int64_t>(tensor.size(), 6);
    for (int64_t i = 0; i < shown; ++i) {
        if (i > 0) text += ", ";
        if (tensor.dtype() == DType::string)
            text += "\"" + shorten(tensor.strings()[static_cast<size_t>(i)], 24) + "\"";
        else if (is_number(tensor.dtype()))
            text += fmt::format("{:.5g}", tensor.at_double(i));
        else
            text += "?";
    }
    return text + (tensor.size() > shown ? ", ..." : "");
}

void write_outputs(const std::vector<std::string>& targets, const TensorMap& results) {
    for (const std::string& target : targets) {
        if (target.ends_with(".npz") && target.find('=') == std::string::npos) {
            write_npz(target, results);
            continue;
        }
        const auto [name, path] = split_assignment(target, "--output");
        write_npy(path, results.at(name));
    }
}

int run_plan(const Options& options) {
    TensorMap inputs = read_inputs(options.inputs);
    const Engine engine = load(std::filesystem::path(options.plan), options.load);
    const plan::PlanContents& contents = *engine.shared_impl()->contents;
    // A misspelt output is reported before the work, not after it.
    for (const std::string& target : options.outputs) {
        if (target.ends_with(".npz") && target.find('=') == std::string::npos) continue;
        const auto [name, path] = split_assignment(target, "--output");
        std::string known;
        for (const TensorInfo& info : engine.outputs()) known += (known.empty() ? "'" : ", '") + info.name + "'";
        if (engine.shared_impl()->output_index(name) < 0)
            fail(ErrorCode::invalid_argument, "there is no output named '" + name + "'", "the outputs are: " + known);
    }
    if (options.random)
        add_random_inputs(contents, input_shapes(contents, parse_shapes(options.shapes), inputs), inputs);
    const TensorMap results = engine.run(inputs);
    write_outputs(options.outputs, results);
    if (options.json) {
        Json rows = Json::object();
        for (const auto& [name, tensor] : results) rows[name] = summary(tensor);
        fmt::print("{}\n", Json{{"plan", options.plan}, {"outputs", rows}}.dump(2));
        return 0;
    }
    for (const TensorInfo& info : engine.outputs()) {
        const Tensor& tensor = results.at(info.name);
        const Json row = summary(tensor);
        fmt::print("{}: {} {}", paint(info.name, Colour::bold), to_string(tensor.dtype()), to_string(tensor.dims()));
        if (row.contains("min"))
            fmt::print(", min {:.5g}, max {:.5g}, mean {:.5g}", row["min"].get<double>(), row["max"].get<double>(),
                       row["mean"].get<double>());
        fmt::print("\n  {}\n", first_values(tensor));
    }
    return 0;
}

}  // namespace

Verb add_run(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("run", "Run a plan once on arrays from files");
    verb->footer(
        "Examples:\n"
        "  planish run mobilenet_v2.plan --input input=image.npy --output logits=out.npy\n"
        "  planish run bert.plan --input inputs.npz --output results.npz --json\n"
        "  planish run model.plan --random");
    verb->add_option("plan", options->plan, "Plan file")->required();
    verb->add_option("-i,--input", options->inputs, "NAME=FILE.npy, or FILE.npz with members named as the inputs")
        ->allow_extra_args(false);
    verb->add_option("-o,--output", options->outputs, "NAME=FILE.npy, or FILE.npz for all outputs")
        ->allow_extra_args(false);
    verb->add_flag("--random", options->random, "Random values for the inputs that are not given");
    verb->add_option("--shape", options->shapes, "NAME=SHAPE of a random input")->allow_extra_args(false);
    verb->add_option("--device", options->load.device, "auto (default), cpu, cpu:avx2, cuda:0");
    verb->add_option("--threads", options->load.threads, "Threads of one run (default: all)")
        ->check(CLI::PositiveNumber);
    verb->add_flag("--only-reference", options->load.only_reference, "Run in the reference interpreter");
    verb->add_flag("--json", options->json, "Print a summary of the outputs as JSON");
    return [options] { return run_plan(*options); };
}

}  // namespace planish::cli
