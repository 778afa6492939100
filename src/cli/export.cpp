// `planish export`: a plan's portable graph as an ONNX model.
#include <fmt/format.h>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "plan/plan_io.hpp"

namespace planish::cli {
namespace {

struct Options {
    std::string plan, output;
    bool json = false, quiet = false;
};

int run_export(Options& options) {
    if (options.output.empty())
        options.output = std::filesystem::path(options.plan).replace_extension(".onnx").string();
    plan::check_writable(options.output);
    export_onnx(std::filesystem::path(options.plan), options.output);
    const auto bytes = static_cast<int64_t>(std::filesystem::file_size(options.output));
    if (options.json)
        fmt::print("{}\n", Json{{"model", options.output}, {"bytes", bytes}}.dump(2, ' ', false,
                                                                                  Json::error_handler_t::replace));
    else if (!options.quiet)
        fmt::print("{} {} ({})\n", paint("wrote", Colour::green), options.output, format_bytes(bytes));
    return 0;
}

}  // namespace

Verb add_export(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("export", "Write a plan's portable graph as an ONNX model");
    verb->footer("Example:\n  planish export model.plan -o model.onnx");
    verb->add_option("plan", options->plan, "Plan file")->required();
    verb->add_option("-o,--output", options->output, "Where the model goes (default: PLAN.onnx)");
    verb->add_flag("--json", options->json, "Print what was written as JSON");
    verb->add_flag("-q,--quiet", options->quiet, "Print nothing but errors");
    return [options] { return run_export(*options); };
}

}  // namespace planish::cli
