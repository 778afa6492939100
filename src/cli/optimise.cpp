// Options, outputs and their files.
#include "cli/optimise.hpp"

#include <fmt/format.h>

#include "build/model.hpp"
#include "cli/terminal.hpp"
#include "plan/plan_io.hpp"

namespace planish::cli {

void add_options(CLI::App& verb, OptimiseOptions& options, const std::string& suffix) {
    verb.add_option("model", options.model, "ONNX file or plan")->required();
    verb.add_option("-o,--output", options.output,
                    "Where the plan goes, or the model when it ends in .onnx (default: MODEL" + suffix + ".plan)");
    verb.add_option("--onnx", options.onnx, "Where the model goes as ONNX");
    verb.add_option("--calib", options.calibration,
                    "Real inputs: a folder of .npz (a sample each) or .npy files, or an .npz whose arrays hold the "
                    "samples along their first axis");
    verb.add_option("--shape", options.shapes, "NAME=SHAPE to time with; may be repeated")->allow_extra_args(false);
    verb.add_option("--threads", options.threads, "Threads to run with (default: all)")->check(CLI::NonNegativeNumber);
    verb.add_flag("--no-measure", options.no_measure, "Do not time the network");
    verb.add_flag("--json", options.json, "Print the report as JSON");
    verb.add_flag("-q,--quiet", options.quiet, "Print nothing but errors");
}

void choose_outputs(OptimiseOptions& options, const std::string& suffix) {
    if (options.output.empty() && options.onnx.empty())
        options.output = std::filesystem::path(options.model).replace_extension().string() + suffix + ".plan";
    if (options.output.ends_with(".onnx")) std::swap(options.output, options.onnx);
    for (const std::string& path : {options.output, options.onnx})
        if (!path.empty()) plan::check_writable(path);
}

void write_outputs(const OptimiseOptions& options, const Optimised& network, BuildOptions build,
                   const std::vector<TensorMap>& calibration, const std::function<Plan(const Plan&)>& finish) {
    if (!options.onnx.empty()) network.save_onnx(options.onnx);
    if (options.output.empty()) return;
    build.threads = options.threads;
    build.shapes = parse_shapes(options.shapes);
    if (!calibration.empty()) build.samples = named({calibration.front()}, network.graph());
    finish(network.build(build)).save(options.output);
}

void print_outputs(const OptimiseOptions& options) {
    if (options.json || options.quiet) return;
    for (const std::string& path : {options.output, options.onnx})
        if (!path.empty())
            fmt::print("{} {} ({})\n", paint("wrote", Colour::green), path,
                       format_bytes(static_cast<int64_t>(std::filesystem::file_size(path))));
}

}  // namespace planish::cli
