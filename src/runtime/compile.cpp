// Specialise and compile, or say why only the interpreter can run the graph.
#include "runtime/compile.hpp"

#include "backends/cpu/isa.hpp"
#include "passes/pass.hpp"
#include "planish/error.hpp"

namespace planish::runtime {
namespace {

/// The first value that keeps a graph with bound inputs from being compiled.
std::string why_not_static(const Graph& graph) {
    for (const Value* value : graph.values()) {
        const Type& type = value->type;
        const std::string who =
            "'" + value->name + "'" + (value->producer ? " (" + std::string(value->producer->op().name) + ")" : "");
        if (type.kind != Kind::tensor) return who + " is a sequence or an optional";
        if (type.dtype == DType::string) return who + " holds strings";
        if (!value->has_static_shape()) return "the shape of " + who + " depends on data";
    }
    return "the backend does not take it";
}

}  // namespace

Compiled compile(const Graph& graph, const std::vector<Dims>& shapes, const Backend& backend,
                 const CompileOptions& options) {
    Compiled result;
    std::unique_ptr<Graph> bound = passes::specialise(graph, shapes);
    if (is_static(*bound)) {
        result.program = backend.compile(std::move(bound), options);
    } else {
        result.interpreted = why_not_static(*bound);
        result.graph = std::move(bound);
    }
    return result;
}

Device find_device(const std::string& device) {
    const cpu::Isa isa = cpu::detect_isa();
    if (device == "auto" || device == "cpu") return {&cpu_backend(), "cpu", "cpu:" + std::string(to_string(isa))};
    if (device.starts_with("cpu:")) {
        const auto wanted = cpu::parse_isa(std::string_view(device).substr(4));
        if (wanted && *wanted <= isa) return {&cpu_backend(), "cpu", device};
        if (wanted)
            fail(ErrorCode::unsupported,
                 "device '" + device + "': this machine goes up to " + std::string(to_string(isa)),
                 "use device \"cpu\"");
    }
    if (device == "cuda" || device.starts_with("cuda:"))
        fail(ErrorCode::unsupported, "device '" + device + "': this build of Planish has no CUDA backend",
             "use device \"cpu\" or \"auto\"");
    fail(ErrorCode::invalid_argument, "unknown device '" + device + "'",
         "use \"auto\", \"cpu\", or \"cpu:avx2\" to stay below what the machine can do");
}

}  // namespace planish::runtime
