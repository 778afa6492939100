// Specialise and compile, or say why only the interpreter can run the graph.
#include "runtime/compile.hpp"

#include <algorithm>
#include <charconv>

#include "backends/cpu/isa.hpp"
#include "backends/cuda/gpu.hpp"
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

namespace {

constexpr std::string_view kTargets =
    "targets are cpu, cpu:avx2, cpu:avx512, cuda:sm_80, cuda:sm_86, cuda:sm_89, cuda:sm_90a, cuda:sm_100, cuda:sm_120";

Device gpu(int ordinal) {
    return {&cuda_backend(), "cuda:" + std::to_string(ordinal), "cuda:" + cuda::Gpu::get(ordinal).arch().name(),
            ordinal};
}

/// The N of "cuda:N"; -1: it is no number.
int ordinal_of(std::string_view device) {
    device.remove_prefix(std::min<size_t>(5, device.size()));
    int ordinal = -1;
    const auto [end, error] = std::from_chars(device.data(), device.data() + device.size(), ordinal);
    return error == std::errc() && end == device.data() + device.size() ? ordinal : -1;
}

}  // namespace

Device find_device(const std::string& device, std::span<const std::string> targets) {
    const cpu::Isa isa = cpu::detect_isa();
    if (device == "auto") {
        const bool for_gpus = std::any_of(targets.begin(), targets.end(),
                                          [](const std::string& target) { return target.starts_with("cuda:"); });
        for (int i = 0, count = for_gpus ? cuda::Gpu::count() : 0; i < count; ++i)
            if (Device found = gpu(i); std::find(targets.begin(), targets.end(), found.target) != targets.end())
                return found;
    }
    if (device == "auto" || device == "cpu") return {&cpu_backend(), "cpu", "cpu:" + std::string(to_string(isa))};
    if (device.starts_with("cpu:")) {
        const auto wanted = cpu::parse_isa(std::string_view(device).substr(4));
        if (wanted && *wanted <= isa) return {&cpu_backend(), "cpu", device};
        if (wanted)
            fail(ErrorCode::unsupported,
                 "device '" + device + "': this machine goes up to " + std::string(to_string(isa)),
                 "use device \"cpu\"");
    }
    if (device == "cuda") return gpu(0);
    if (device.starts_with("cuda:") && ordinal_of(device) >= 0) return gpu(ordinal_of(device));
    fail(ErrorCode::invalid_argument, "unknown device '" + device + "'",
         "use \"auto\", \"cpu\", \"cuda:0\", or \"cpu:avx2\" to stay below what the machine can do");
}

std::string full_target(const std::string& target) {
    if (target == "cpu") return "cpu:" + std::string(to_string(cpu::detect_isa()));
    if (target.starts_with("cpu:") && cpu::parse_isa(target.substr(4))) return target;
    if (target == "cuda")
        return "cuda:" + (cuda::Gpu::count() > 0 ? cuda::Gpu::get(0).arch().name() : std::string("sm_90a"));
    if (target.starts_with("cuda:") && ordinal_of(target) >= 0 && ordinal_of(target) < cuda::Gpu::count())
        return "cuda:" + cuda::Gpu::get(ordinal_of(target)).arch().name();
    if (target.starts_with("cuda:")) {
        const auto arch = cuda::Arch::parse(target.substr(5));
        if (arch && cuda::known_device(*arch) != nullptr) return target;
    }
    fail(ErrorCode::invalid_argument, "unknown target '" + target + "'", std::string(kTargets));
}

const Backend& backend_of(const std::string& target) {
    return target.starts_with("cuda:") ? cuda_backend() : cpu_backend();
}

Device device_of(const std::string& target) {
    if (target.starts_with("cuda:")) {
        for (int i = 0, count = cuda::Gpu::count(); i < count; ++i)
            if (Device found = gpu(i); found.target == target) return found;
    } else if (*cpu::parse_isa(target.substr(4)) <= cpu::detect_isa()) {
        return {&cpu_backend(), "cpu", target};
    }
    return {&backend_of(target), "", target};
}

}  // namespace planish::runtime
