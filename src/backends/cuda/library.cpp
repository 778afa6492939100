// Finding and opening CUDA's libraries.
//
// Looked for in this order: what the process has loaded already (PyTorch's copy), $PLANISH_CUDA_PATH, NVIDIA's pip
// packages in the Python environment around this library or the active one, a toolkit ($CUDA_HOME, $CUDA_PATH,
// /usr/local/cuda), the loader's own path.
#include "backends/cuda/library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>

namespace planish::cuda {
namespace {

namespace fs = std::filesystem;

std::mutex g_folders_mutex;
std::vector<fs::path> g_folders;

/// The folders below `parent`, sorted, newest name first ("cu13" before "cu12").
std::vector<fs::path> subfolders(const fs::path& parent) {
    std::vector<fs::path> found;
    std::error_code error;
    for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error))
        if (it->is_directory(error)) found.push_back(it->path());
    std::sort(found.rbegin(), found.rend());
    return found;
}

/// Folders that may hold lib/ and include/ of pip packages: site-packages/nvidia/*.
void add_packages(const fs::path& nvidia, std::vector<fs::path>& roots) {
    for (const fs::path& package : subfolders(nvidia)) roots.push_back(package);
}

void add_environment(const fs::path& prefix, std::vector<fs::path>& roots) {
    for (const fs::path& python : subfolders(prefix / "lib"))
        if (python.filename().string().starts_with("python"))
            for (const char* site : {"site-packages", "dist-packages"}) add_packages(python / site / "nvidia", roots);
}

/// Folders with lib, lib64 or the libraries themselves, and include beside.
std::vector<fs::path> search_roots() {
    std::vector<fs::path> roots;
    const auto variable = [&](const char* name) {
        const char* value = std::getenv(name);
        return value == nullptr ? fs::path() : fs::path(value);
    };
    if (const fs::path path = variable("PLANISH_CUDA_PATH"); !path.empty()) roots.push_back(path);
    {
        const std::lock_guard lock(g_folders_mutex);
        for (const fs::path& folder : g_folders) add_packages(folder, roots);
    }
    // site-packages/planish/_planish.so has site-packages/nvidia beside its folder.
    Dl_info self{};
    if (dladdr(reinterpret_cast<void*>(&search_roots), &self) != 0 && self.dli_fname != nullptr) {
        std::error_code error;
        const fs::path here = fs::weakly_canonical(self.dli_fname, error).parent_path();
        add_packages(here.parent_path() / "nvidia", roots);
        add_environment(here.parent_path(), roots);  // bin/planish of an environment
    }
    for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
        if (const fs::path path = variable(name); !path.empty()) add_environment(path, roots);
    for (const char* name : {"CUDA_HOME", "CUDA_PATH"})
        if (const fs::path path = variable(name); !path.empty()) roots.push_back(path);
    roots.emplace_back("/usr/local/cuda");
    for (const char* prefix : {"/usr/local", "/usr"}) {
        add_environment(prefix, roots);
        for (const char* site : {"python3/dist-packages"})
            add_packages(fs::path(prefix) / "lib" / site / "nvidia", roots);
    }
    return roots;
}

/// The name that dlopen was told and the file behind it.
struct Opened {
    void* handle = nullptr;
    std::string path;
};

std::string path_of(void* handle, const char* symbol) {
    Dl_info info{};
    void* address = dlsym(handle, symbol);
    return address != nullptr && dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

/// `names`: file names, best first; `symbol`: one that it must have.
Opened open_library(std::span<const char* const> names, const char* symbol) {
    for (const char* name : names)
        if (void* handle = dlopen(name, RTLD_LAZY | RTLD_NOLOAD))
            if (dlsym(handle, symbol) != nullptr) return {handle, path_of(handle, symbol)};
    for (const fs::path& root : search_roots()) {
        for (const char* folder : {"lib", "lib64", ""}) {
            for (const char* name : names) {
                const fs::path file = root / folder / name;
                std::error_code error;
                if (!fs::exists(file, error)) continue;
                if (void* handle = dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL))
                    if (dlsym(handle, symbol) != nullptr) return {handle, fs::canonical(file, error).string()};
            }
        }
    }
    for (const char* name : names)
        if (void* handle = dlopen(name, RTLD_LAZY | RTLD_LOCAL))
            if (dlsym(handle, symbol) != nullptr) return {handle, path_of(handle, symbol)};
    return {};
}

/// NVRTC opens its builtins by name when it compiles, along the loader's path of whoever calls dlopen for it, which
/// need not be its own (a sanitizer's wrapper, say): opened beforehand, they are found by that name.
void open_builtins(const fs::path& nvrtc) {
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(nvrtc.parent_path(), error))
        if (entry.path().filename().string().starts_with("libnvrtc-builtins.so"))
            dlopen(entry.path().c_str(), RTLD_LAZY | RTLD_LOCAL);
}

/// Fills in one function; the names that are missing are collected.
class Resolver {
  public:
    explicit Resolver(void* handle) : handle_(handle) {}
    template <typename F>
    void operator()(F& function, const char* name) {
        function = reinterpret_cast<F>(dlsym(handle_, name));
        if (function == nullptr && missing_.empty()) missing_ = name;
    }
    const std::string& missing() const { return missing_; }

  private:
    void* handle_;
    std::string missing_;
};

void resolve_driver(Driver& d, Resolver& get) {
    get(d.Init, "cuInit");
    get(d.DriverGetVersion, "cuDriverGetVersion");
    get(d.GetErrorName, "cuGetErrorName");
    get(d.GetErrorString, "cuGetErrorString");
    get(d.DeviceGetCount, "cuDeviceGetCount");
    get(d.DeviceGet, "cuDeviceGet");
    get(d.DeviceGetName, "cuDeviceGetName");
    get(d.DeviceTotalMem, "cuDeviceTotalMem_v2");
    get(d.DeviceGetAttribute, "cuDeviceGetAttribute");
    get(d.DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
    get(d.CtxPushCurrent, "cuCtxPushCurrent_v2");
    get(d.CtxPopCurrent, "cuCtxPopCurrent_v2");
    get(d.MemGetInfo, "cuMemGetInfo_v2");
    get(d.MemAlloc, "cuMemAlloc_v2");
    get(d.MemFree, "cuMemFree_v2");
    get(d.MemHostAlloc, "cuMemHostAlloc");
    get(d.MemFreeHost, "cuMemFreeHost");
    get(d.MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2");
    get(d.MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2");
    get(d.MemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2");
    get(d.MemsetD8Async, "cuMemsetD8Async");
    get(d.PointerGetAttribute, "cuPointerGetAttribute");
    get(d.StreamCreate, "cuStreamCreate");
    get(d.StreamDestroy, "cuStreamDestroy_v2");
    get(d.StreamSynchronize, "cuStreamSynchronize");
    get(d.StreamBeginCapture, "cuStreamBeginCapture_v2");
    get(d.StreamGetCaptureInfo, "cuStreamGetCaptureInfo_v3");
    get(d.StreamEndCapture, "cuStreamEndCapture");
    get(d.EventCreate, "cuEventCreate");
    get(d.EventDestroy, "cuEventDestroy_v2");
    get(d.EventRecord, "cuEventRecord");
    get(d.EventRecordWithFlags, "cuEventRecordWithFlags");
    get(d.EventSynchronize, "cuEventSynchronize");
    get(d.EventElapsedTime, "cuEventElapsedTime");
    get(d.ModuleLoadData, "cuModuleLoadData");
    get(d.ModuleUnload, "cuModuleUnload");
    get(d.ModuleGetFunction, "cuModuleGetFunction");
    get(d.FuncGetAttribute, "cuFuncGetAttribute");
    get(d.FuncSetAttribute, "cuFuncSetAttribute");
    get(d.LaunchKernelEx, "cuLaunchKernelEx");
    get(d.GraphInstantiate, "cuGraphInstantiateWithFlags");
    get(d.GraphLaunch, "cuGraphLaunch");
    get(d.GraphExecKernelNodeSetParams, "cuGraphExecKernelNodeSetParams_v2");
    get(d.GraphExecDestroy, "cuGraphExecDestroy");
    get(d.GraphDestroy, "cuGraphDestroy");
    get(d.TensorMapEncodeTiled, "cuTensorMapEncodeTiled");
    get(d.TensorMapEncodeIm2col, "cuTensorMapEncodeIm2col");
}

struct OpenDriver {
    Driver table{};
    LibraryReport report{"driver", {}, {}, {}};
    bool usable = false;

    OpenDriver() {
        static constexpr const char* kNames[] = {"libcuda.so.1"};
        // The driver belongs to the kernel module: the loader's path only, never a toolkit's stub.
        void* handle = dlopen(kNames[0], RTLD_LAZY | RTLD_LOCAL);
        if (handle == nullptr) {
            report.problem = "libcuda.so.1 is not there: no NVIDIA driver is installed";
            return;
        }
        report.path = path_of(handle, "cuInit");
        Resolver get(handle);
        resolve_driver(table, get);
        int version = 0;
        if (table.DriverGetVersion != nullptr) table.DriverGetVersion(&version);
        report.version = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
        if (!get.missing().empty()) {
            report.problem = "the driver is too old: it has no " + get.missing() + "; 12.3 or later is needed";
            return;
        }
        if (const CUresult result = table.Init(0); result != kSuccess) {
            const char* text = nullptr;
            table.GetErrorString(result, &text);
            report.problem = result == kErrorNoDevice ? "the driver finds no GPU"
                                                      : "the driver does not start: " + std::string(text ? text : "?");
            return;
        }
        usable = true;
    }
};

const OpenDriver& open_driver() {
    static const OpenDriver instance;
    return instance;
}

std::atomic<const Driver*> g_driver_for_tests{nullptr};

struct OpenNvrtc {
    Nvrtc table{};
    LibraryReport report{"nvrtc", {}, {}, {}};
    bool usable = false;

    OpenNvrtc() {
        static constexpr const char* kNames[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
        const Opened opened = open_library(kNames, "nvrtcCreateProgram");
        if (opened.handle == nullptr) {
            report.problem = "not found";
            return;
        }
        report.path = opened.path;
        open_builtins(opened.path);
        Resolver get(opened.handle);
        get(table.Version, "nvrtcVersion");
        get(table.GetErrorString, "nvrtcGetErrorString");
        get(table.GetNumSupportedArchs, "nvrtcGetNumSupportedArchs");
        get(table.GetSupportedArchs, "nvrtcGetSupportedArchs");
        get(table.CreateProgram, "nvrtcCreateProgram");
        get(table.DestroyProgram, "nvrtcDestroyProgram");
        get(table.CompileProgram, "nvrtcCompileProgram");
        get(table.GetProgramLogSize, "nvrtcGetProgramLogSize");
        get(table.GetProgramLog, "nvrtcGetProgramLog");
        get(table.GetCUBINSize, "nvrtcGetCUBINSize");
        get(table.GetCUBIN, "nvrtcGetCUBIN");
        get(table.GetPTXSize, "nvrtcGetPTXSize");
        get(table.GetPTX, "nvrtcGetPTX");
        if (!get.missing().empty()) {
            report.problem = "too old: it has no " + get.missing();
            return;
        }
        int major = 0, minor = 0, count = 0;
        table.Version(&major, &minor);
        report.version = table.version = std::to_string(major) + "." + std::to_string(minor);
        if (table.GetNumSupportedArchs(&count) == 0 && count > 0) {
            table.archs.resize(static_cast<size_t>(count));
            table.GetSupportedArchs(table.archs.data());
            std::sort(table.archs.begin(), table.archs.end());
        }
        find_headers(fs::path(opened.path).parent_path());
        if (table.include.empty()) {
            report.problem = "cuda_fp16.h is not found: install the pip package nvidia-cuda-runtime or a toolkit";
            return;
        }
        usable = true;
    }

    // Beside the library, else wherever libraries are looked for.
    void find_headers(const fs::path& folder) {
        std::vector<fs::path> roots{folder.parent_path(), folder.parent_path().parent_path().parent_path()};
        for (fs::path& root : search_roots()) roots.push_back(std::move(root));
        for (const fs::path& root : roots) {
            std::error_code error;
            if (!fs::exists(root / "include" / "cuda_fp16.h", error)) continue;
            table.include = root / "include";
            return;
        }
    }
};

const OpenNvrtc& open_nvrtc() {
    static const OpenNvrtc instance;
    return instance;
}

/// cuBLASLt and cuDNN compete with Planish's own kernels where they are found.
LibraryReport report_optional(const std::string& name, std::span<const char* const> files, const char* version_symbol) {
    LibraryReport report{name, {}, {}, {}};
    const Opened opened = open_library(files, version_symbol);
    report.path = opened.path;
    if (opened.handle == nullptr) {
        report.problem = "not found";
        return report;
    }
    if (auto* version = reinterpret_cast<size_t (*)()>(dlsym(opened.handle, version_symbol))) {
        const size_t number = version();
        report.version = std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
                         std::to_string(number % 100);
    }
    return report;
}

}  // namespace

const Driver* driver() {
    if (const Driver* table = g_driver_for_tests.load()) return table;
    return open_driver().usable ? &open_driver().table : nullptr;
}

std::string driver_problem() {
    return open_driver().report.problem;
}

const Nvrtc* nvrtc() {
    return open_nvrtc().usable ? &open_nvrtc().table : nullptr;
}

std::string nvrtc_problem() {
    const LibraryReport& report = open_nvrtc().report;
    if (report.problem.empty()) return {};
    return "NVRTC, CUDA's run-time compiler, " +
           (report.path.empty() ? "is not found" : "at '" + report.path + "' cannot be used: " + report.problem);
}

std::vector<LibraryReport> library_reports() {
    static constexpr const char* kCublas[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    static constexpr const char* kCudnn[] = {"libcudnn.so.9"};
    return {open_driver().report, open_nvrtc().report, report_optional("cublasLt", kCublas, "cublasLtGetVersion"),
            report_optional("cudnn", kCudnn, "cudnnGetVersion")};
}

void set_driver(const Driver* table) {
    g_driver_for_tests = table;
}

void add_library_folder(const std::filesystem::path& folder) {
    const std::lock_guard lock(g_folders_mutex);
    g_folders.push_back(folder);
}

}  // namespace planish::cuda
