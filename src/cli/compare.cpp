// `planish compare`: a plan against the reference interpreter region by region, and against ONNX Runtime.
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/temporary_folder.hpp"
#include "build/verify.hpp"
#include "cli/common.hpp"
#include "cli/npy.hpp"
#include "cli/terminal.hpp"
#include "passes/pass.hpp"
#include "plan/plan_io.hpp"
#include "reference/interpreter.hpp"
#include "runtime/engine_impl.hpp"

extern char** environ;

namespace planish::cli {
namespace {

struct Options {
    std::string plan, onnx, python;
    std::vector<std::string> inputs, shapes;
    LoadOptions load;
    int top = 20;
    bool json = false;
};

constexpr const char* kOnnxRuntimeScript = R"(
import sys
import numpy
try:
    import onnxruntime
except ImportError:
    sys.exit(77)
model, inputs, outputs = sys.argv[1:4]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
wanted = {i.name for i in session.get_inputs()}
with numpy.load(inputs) as archive:
    feeds = {name: archive[name] for name in archive.files if name in wanted}
names = [o.name for o in session.get_outputs()]
numpy.savez(outputs, **dict(zip(names, session.run(None, feeds))))
)";

/// ONNX Runtime's outputs; nullopt when it is not installed. Error when it fails on the model.
std::optional<TensorMap> run_onnx_runtime(const std::string& python, const std::string& model,
                                          const TensorMap& inputs) {
    const TemporaryFolder folder;
    const std::string in = (folder.path() / "in.npz").string(), out = (folder.path() / "out.npz").string();
    write_npz(in, inputs);
    const std::vector<std::string> words = {python, "-c", kOnnxRuntimeScript, model, in, out};
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_t child = 0;
    if (posix_spawnp(&child, python.c_str(), nullptr, nullptr, argv.data(), environ) != 0) return std::nullopt;
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127)) return std::nullopt;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail(ErrorCode::unsupported, "ONNX Runtime could not run '" + model + "' on these inputs",
             "its own message is above");
    return read_npz(out);
}

struct Difference {
    std::string name;
    double absolute = 0;  // largest |a - b|
    double relative = 0;  // the same over the largest |b|
    std::string note;
};

Difference difference(const std::string& name, const Tensor& actual, const Tensor& expected) {
    Difference d{name, 0, 0, {}};
    if (actual.dims() != expected.dims() || actual.dtype() != expected.dtype()) {
        d.note = fmt::format("{} {} against {} {}", to_string(actual.dtype()), to_string(actual.dims()),
                             to_string(expected.dtype()), to_string(expected.dims()));
        d.absolute = d.relative = INFINITY;
        return d;
    }
    double scale = 0;
    for (int64_t i = 0; i < actual.size(); ++i) {
        const double a = actual.at_double(i), b = expected.at_double(i);
        if (std::isnan(a) && std::isnan(b)) continue;
        if (a == b) continue;
        const double error = std::abs(a - b);
        d.absolute = std::max(d.absolute, std::isnan(error) ? INFINITY : error);
        if (std::isfinite(b)) scale = std::max(scale, std::abs(b));
    }
    for (int64_t i = 0; i < expected.size(); ++i)
        if (const double b = std::abs(expected.at_double(i)); std::isfinite(b)) scale = std::max(scale, b);
    d.relative = d.absolute / std::max(scale, 1e-30);
    return d;
}

std::string joined(const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
    return text;
}

int run_compare(const Options& options) {
    TensorMap inputs = read_inputs(options.inputs);
    const Engine engine = load(std::filesystem::path(options.plan), options.load);
    const Engine::Impl& impl = *engine.shared_impl();
    const plan::PlanContents& contents = *impl.contents;
    const auto shapes = input_shapes(contents, parse_shapes(options.shapes), inputs);
    add_random_inputs(contents, shapes, inputs);

    ProgressLine line(!options.json);
    std::vector<Tensor> outputs;
    std::vector<VerificationRow> rows;
    const runtime::Compiled compiled =
        runtime::compile(*contents.graph, shapes, *impl.device.backend, impl.options_for(shapes));
    if (compiled.program) {
        std::vector<Tensor> ports;
        for (const Port& port : compiled.program->inputs()) {
            const Tensor& given = inputs.at(port.name);
            if (given.dtype() != port.dtype)
                fail(ErrorCode::invalid_argument, fmt::format("input '{}' is {}, expected {}", port.name,
                                                              to_string(given.dtype()), to_string(port.dtype)));
            ports.push_back(given);
        }
        rows = verification::verify_regions(*compiled.program, ports, impl.threads, &outputs,
                                            [&](double fraction) { line.update("compare", "", fraction); });
    } else {
        std::vector<RefValue> values;
        for (const Value* input : contents.graph->inputs()) values.emplace_back(inputs.at(input->name));
        for (RefValue& value : reference::run_graph(*compiled.graph, std::move(values)))
            outputs.push_back(std::move(value.tensor));
    }
    std::vector<Difference> peers;
    std::string peer_note = "give --onnx MODEL.onnx to compare with ONNX Runtime as well";
    if (!options.onnx.empty()) {
        line.update("compare", "ONNX Runtime", 1);
        const char* configured = std::getenv("PLANISH_PYTHON");
        const std::string python = !options.python.empty() ? options.python : configured ? configured : "python3";
        if (const auto peer = run_onnx_runtime(python, options.onnx, inputs)) {
            peer_note.clear();
            for (size_t i = 0; i < outputs.size(); ++i) {
                const std::string& name = contents.graph->outputs()[i]->name;
                if (const auto it = peer->find(name); it != peer->end())
                    peers.push_back(difference(name, outputs[i], it->second));
                else
                    peers.push_back({name, INFINITY, INFINITY, "ONNX Runtime's model has no such output"});
            }
        } else {
            peer_note = fmt::format("{} has no onnxruntime: not compared with it", python);
        }
    }
    line.clear();
    auto excess = [](const VerificationRow& row) { return row.error / std::max(row.tolerance, 1e-300); };
    std::stable_sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) { return excess(a) > excess(b); });
    const auto failed = std::count_if(rows.begin(), rows.end(), [](const VerificationRow& row) { return !row.passed; });
    // Float32 networks of any depth agree to about 1e-3 of the output's scale when both sides are right.
    const bool peers_agree =
        std::all_of(peers.begin(), peers.end(), [](const Difference& d) { return d.relative < 1e-3; });

    if (options.json) {
        Json regions = Json::array(), peer_rows = Json::array();
        for (const VerificationRow& row : rows) regions.push_back(to_json(row));
        for (const Difference& d : peers)
            peer_rows.push_back(
                {{"output", d.name}, {"max_abs", d.absolute}, {"max_rel", d.relative}, {"note", d.note}});
        Json result = {{"plan", options.plan}, {"failed", failed}, {"regions", regions}, {"onnxruntime", peer_rows}};
        if (!compiled.program) result["interpreted"] = compiled.interpreted;
        fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
    } else {
        if (!compiled.program)
            fmt::print("the reference interpreter runs this plan, there is nothing to compare: {}\n",
                       compiled.interpreted);
        Table table({">error/tolerance", ">error", ">tolerance", "region", "implementation", "layers"});
        for (size_t i = 0; i < rows.size() && static_cast<int>(i) < options.top; ++i)
            table.add({fmt::format("{:.3f}{}", excess(rows[i]), rows[i].passed ? "" : " FAILED"),
                       fmt::format("{:.3g}", rows[i].error), fmt::format("{:.3g}", rows[i].tolerance),
                       shorten(rows[i].name, 40), shorten(rows[i].implementation, 44),
                       shorten(joined(rows[i].layers), 60)});
        if (!rows.empty()) fmt::print("{}", table.text());
        if (static_cast<int>(rows.size()) > options.top)
            fmt::print("... {} more regions (--top shows them)\n", static_cast<int>(rows.size()) - options.top);
        if (compiled.program)
            fmt::print("{} regions against the reference: {}\n", rows.size(),
                       failed == 0 ? paint("all within tolerance", Colour::green)
                                   : paint(fmt::format("{} over tolerance", failed), Colour::red));
        for (const Difference& d : peers)
            fmt::print("output {} against ONNX Runtime: largest difference {:.3g} ({:.2g} of the largest value) {}\n",
                       d.name, d.absolute, d.relative, d.note);
        if (!peer_note.empty()) fmt::print("{}\n", peer_note);
    }
    return failed == 0 && peers_agree ? 0 : 1;
}

}  // namespace

Verb add_compare(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("compare", "Compare a plan with the reference and with ONNX Runtime");
    verb->footer(
        "Each region runs on the plan's own intermediate values, so its row shows its own error only; regions are\n"
        "ranked by error over tolerance and named by the model's layers. The exit code is 0 only when all agree.\n"
        "Examples:\n"
        "  planish compare mobilenet_v2.plan --onnx mobilenet_v2.onnx\n"
        "  planish compare bert.plan --input inputs.npz --top 50");
    verb->add_option("plan", options->plan, "Plan file")->required();
    verb->add_option("--onnx", options->onnx, "The model, for ONNX Runtime (needs a Python with onnxruntime)");
    verb->add_option("--python", options->python, "That Python (default: $PLANISH_PYTHON or python3)");
    verb->add_option("-i,--input", options->inputs, "NAME=FILE.npy or FILE.npz (default: random values)")
        ->allow_extra_args(false);
    verb->add_option("--shape", options->shapes, "NAME=SHAPE of a random input")->allow_extra_args(false);
    verb->add_option("--device", options->load.device, "auto (default), cpu, cpu:avx2, cuda:0");
    verb->add_option("--threads", options->load.threads, "Threads of one run (default: all)")
        ->check(CLI::PositiveNumber);
    verb->add_option("--top", options->top, "Regions to show (default: 20)")->check(CLI::NonNegativeNumber);
    verb->add_flag("--json", options->json, "Print all rows as JSON");
    return [options] { return run_compare(*options); };
}

}  // namespace planish::cli
