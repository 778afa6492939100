// `planish doctor`: what this machine has, and where it was found.
#include <fmt/format.h>

#include <algorithm>

#include "backends/cpu/isa.hpp"
#include "backends/cuda/gpu.hpp"
#include "base/cpu_budget.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "tuner/timing_cache.hpp"
#include "tuner/tuner.hpp"

namespace planish::cli {
namespace {

Json gpu_row(const cuda::Gpu& gpu) {
    const cuda::DeviceProperties& p = gpu.properties();
    return {{"device", "cuda:" + std::to_string(gpu.ordinal())},
            {"name", p.name},
            {"target", "cuda:" + gpu.arch().name()},
            {"multiprocessors", p.multiprocessors},
            {"memory", p.memory_bytes},
            {"free", gpu.free_bytes()},
            {"l2", p.l2_bytes},
            {"bandwidth", p.bandwidth},
            {"tensor_flops", p.tensor_flops}};
}

Json collect() {
    const CpuBudget budget = cpu_budget();
    const std::string target = "cpu:" + std::string(to_string(cpu::detect_isa()));
    Json result = {{"version", version()},
                   {"cpu", tuner::describe_machine(target, budget.cores)},
                   {"cores", budget.cores},
                   {"hardware_threads", budget.logical}};
    Json gpus = Json::array(), libraries = Json::array();
    for (int i = 0, count = cuda::Gpu::count(); i < count; ++i) gpus.push_back(gpu_row(cuda::Gpu::get(i)));
    for (const cuda::LibraryReport& library : cuda::library_reports())
        libraries.push_back({{"name", library.name},
                             {"path", library.path},
                             {"version", library.version},
                             {"problem", library.problem}});
    result["gpus"] = gpus;
    result["libraries"] = libraries;
    if (const cuda::Nvrtc* nvrtc = cuda::nvrtc()) {
        Json targets = Json::array();
        for (const cuda::KnownDevice& device : cuda::known_devices())
            if (std::find(nvrtc->archs.begin(), nvrtc->archs.end(), device.arch.number()) != nvrtc->archs.end())
                targets.push_back("cuda:" + device.arch.name());
        result["gpu_targets"] = targets;
        result["cuda_headers"] = nvrtc->include.string();
    }
    const cuda::KernelCache kernels = cuda::KernelCache::of_user();
    const auto [files, bytes] = kernels.size();
    result["caches"] = {{"timing", tuner::default_timing_cache().string()},
                        {"kernels", kernels.folder().string()},
                        {"kernel_files", files},
                        {"kernel_bytes", bytes}};
    return result;
}

int run_doctor(bool json) {
    const Json result = collect();
    if (json) {
        fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
        return 0;
    }
    fmt::print("planish {}\n{}\n", version(), result["cpu"].get<std::string>());
    if (result["gpus"].empty()) fmt::print("no GPU: {}\n", cuda::driver_problem());
    for (const Json& gpu : result["gpus"])
        fmt::print("{}: {}, {}, {} multiprocessors, {} ({} free), {:.1f} TB/s\n", gpu["device"].get<std::string>(),
                   gpu["name"].get<std::string>(), gpu["target"].get<std::string>(), gpu["multiprocessors"].get<int>(),
                   format_bytes(gpu["memory"].get<int64_t>()), format_bytes(gpu["free"].get<int64_t>()),
                   gpu["bandwidth"].get<double>() * 1e-12);
    Table table({"library", "version", "where"});
    for (const Json& library : result["libraries"]) {
        const auto problem = library["problem"].get<std::string>(), path = library["path"].get<std::string>();
        table.add({library["name"].get<std::string>(), library["version"].get<std::string>(),
                   path + (path.empty() || problem.empty() ? "" : ": ") + problem});
    }
    fmt::print("{}", table.text());
    if (result.contains("gpu_targets")) {
        std::string targets;
        for (const Json& target : result["gpu_targets"]) targets += " " + target.get<std::string>();
        fmt::print("compiles for{}\n", targets);
    } else {
        fmt::print("builds for GPUs need NVRTC: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime\n");
    }
    const Json& caches = result["caches"];
    fmt::print("timing cache {}\nkernel cache {}: {} kernels, {}\n", caches["timing"].get<std::string>(),
               caches["kernels"].get<std::string>(), caches["kernel_files"].get<int64_t>(),
               format_bytes(caches["kernel_bytes"].get<int64_t>()));
    return 0;
}

}  // namespace

Verb add_doctor(CLI::App& app) {
    auto json = std::make_shared<bool>(false);
    CLI::App* verb =
        app.add_subcommand("doctor", "Show what this machine has: processor, GPUs, CUDA libraries, caches");
    verb->footer("Examples:\n  planish doctor\n  planish doctor --json | jq .libraries");
    verb->add_flag("--json", *json, "Print as JSON");
    return [json] { return run_doctor(*json); };
}

}  // namespace planish::cli
