#include "cuda/fake_driver.hpp"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "backends/cuda/library.hpp"

namespace planish::cuda {

// What the opaque handles of the driver point to here.
struct FakeDriver::State {
    struct Node {
        const Kernel* kernel;
        std::vector<std::byte> params;
        int event = -1;
        std::weak_ptr<Node> captured = {};  // in an executable graph: the node that this one was made of
    };
    FakeDriver* owner;
    Driver table{};
    std::map<DevicePointer, size_t> device, pinned;
    std::map<std::string, CUfunction> functions;
    std::vector<std::shared_ptr<Node>>* capturing = nullptr;
    int major, minor;
    int live_graphs = 0, live_modules = 0, live_streams = 0, live_events = 0;
};

namespace {

FakeDriver::State* g_state = nullptr;
using Nodes = std::vector<std::shared_ptr<FakeDriver::State::Node>>;

template <typename Handle>
Nodes* nodes_of(Handle handle) {
    return reinterpret_cast<Nodes*>(handle);
}

void run(const FakeDriver::State::Node& node) {
    if (node.kernel != nullptr && node.kernel->run) node.kernel->run(node.params.data());
}

CUresult launch(const CUlaunchConfig* config, CUfunction function, void** params, void**) {
    const auto* kernel = reinterpret_cast<const FakeDriver::Kernel*>(function);
    const auto* bytes = static_cast<const std::byte*>(params[0]);
    auto node = std::make_shared<FakeDriver::State::Node>();
    node->kernel = kernel;
    node->params.assign(bytes, bytes + kernel->params_bytes);
    for (unsigned i = 0; i < config->attribute_count; ++i)
        if (config->attributes[i].id == CUlaunchAttribute::programmatic_stream_serialization)
            ++g_state->owner->counts.overlapping;
    if (g_state->capturing != nullptr) {
        ++g_state->owner->counts.captured;
        g_state->capturing->push_back(std::move(node));
        return kSuccess;
    }
    ++g_state->owner->counts.launches;
    run(*node);
    return kSuccess;
}

CUresult allocate(DevicePointer* address, size_t bytes, std::map<DevicePointer, size_t>& into) {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0xff, bytes);  // NaN in every float type: what is read before it is written shows
    *address = reinterpret_cast<DevicePointer>(memory);
    into[*address] = bytes;
    return kSuccess;
}

CUresult release(DevicePointer address, std::map<DevicePointer, size_t>& from) {
    if (from.erase(address) == 0) return kErrorInvalidValue;
    std::free(reinterpret_cast<void*>(address));
    return kSuccess;
}

bool is_device(DevicePointer address) {
    auto it = g_state->device.upper_bound(address);
    if (it == g_state->device.begin()) return false;
    --it;
    return address < it->first + it->second;
}

CUresult copy(void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    return kSuccess;
}

int attribute(DeviceAttribute which) {
    switch (which) {
        case DeviceAttribute::major:
            return g_state->major;
        case DeviceAttribute::minor:
            return g_state->minor;
        case DeviceAttribute::multiprocessors:
            return 132;
        case DeviceAttribute::clock_khz:
            return 1980000;
        default:
            return 1 << 16;
    }
}

void fill(Driver& d) {
    d.Init = [](unsigned) { return CUresult{kSuccess}; };
    d.DriverGetVersion = [](int* v) { return *v = 13000, CUresult{kSuccess}; };
    d.GetErrorName = [](CUresult, const char** text) { return *text = "CUDA_ERROR_FAKE", CUresult{kSuccess}; };
    d.GetErrorString = [](CUresult, const char** text) { return *text = "fake error", CUresult{kSuccess}; };
    d.DeviceGetCount = [](int* n) { return *n = 1, CUresult{kSuccess}; };
    d.DeviceGet = [](CUdevice* device, int ordinal) { return *device = ordinal, CUresult{kSuccess}; };
    d.DeviceGetName = [](char* name, int length, CUdevice) {
        std::strncpy(name, "Fake GPU", static_cast<size_t>(length));
        return CUresult{kSuccess};
    };
    d.DeviceTotalMem = [](size_t* bytes, CUdevice) { return *bytes = size_t{1} << 30, CUresult{kSuccess}; };
    d.DeviceGetAttribute = [](int* value, DeviceAttribute which, CUdevice) {
        return *value = attribute(which), CUresult{kSuccess};
    };
    d.DevicePrimaryCtxRetain = [](CUcontext* c, CUdevice) { return *c = nullptr, CUresult{kSuccess}; };
    d.CtxPushCurrent = [](CUcontext) { return CUresult{kSuccess}; };
    d.CtxPopCurrent = [](CUcontext*) { return CUresult{kSuccess}; };
    d.MemGetInfo = [](size_t* free, size_t* total) {
        *total = size_t{1} << 30;
        *free = *total - g_state->owner->device_bytes();
        return CUresult{kSuccess};
    };
    d.MemAlloc = [](DevicePointer* address, size_t bytes) {
        if (const CUresult result = g_state->owner->fail_allocation; result != kSuccess) return result;
        return allocate(address, bytes, g_state->device);
    };
    d.MemFree = [](DevicePointer address) { return release(address, g_state->device); };
    d.MemHostAlloc = [](void** memory, size_t bytes, unsigned) {
        DevicePointer address = 0;
        allocate(&address, bytes, g_state->pinned);
        *memory = reinterpret_cast<void*>(address);
        return CUresult{kSuccess};
    };
    d.MemFreeHost = [](void* memory) { return release(reinterpret_cast<DevicePointer>(memory), g_state->pinned); };
    d.MemcpyHtoDAsync = [](DevicePointer to, const void* from, size_t bytes, CUstream) {
        return is_device(to) ? copy(reinterpret_cast<void*>(to), from, bytes) : CUresult{kErrorInvalidValue};
    };
    d.MemcpyDtoHAsync = [](void* to, DevicePointer from, size_t bytes, CUstream) {
        return is_device(from) ? copy(to, reinterpret_cast<void*>(from), bytes) : CUresult{kErrorInvalidValue};
    };
    d.MemcpyDtoDAsync = [](DevicePointer to, DevicePointer from, size_t bytes, CUstream) {
        return copy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    };
    d.MemsetD8Async = [](DevicePointer to, unsigned char value, size_t bytes, CUstream) {
        std::memset(reinterpret_cast<void*>(to), value, bytes);
        return CUresult{kSuccess};
    };
    d.PointerGetAttribute = [](void* data, int which, DevicePointer address) {
        if (!is_device(address)) return CUresult{kErrorInvalidValue};
        if (which == kPointerMemoryType)
            *static_cast<MemoryType*>(data) = MemoryType::device;
        else
            *static_cast<int*>(data) = 0;
        return CUresult{kSuccess};
    };
    d.StreamCreate = [](CUstream* stream, unsigned) {
        *stream = reinterpret_cast<CUstream>(static_cast<uintptr_t>(++g_state->live_streams));
        return CUresult{kSuccess};
    };
    d.StreamDestroy = [](CUstream) { return CUresult{kSuccess}; };
    d.StreamSynchronize = [](CUstream) {
        if (g_state->capturing != nullptr) return CUresult{kErrorInvalidValue};
        ++g_state->owner->counts.synchronized;
        return CUresult{kSuccess};
    };
    d.StreamBeginCapture = [](CUstream, int) {
        g_state->capturing = new Nodes;
        return CUresult{kSuccess};
    };
    d.StreamGetCaptureInfo = [](CUstream, int* status, uint64_t*, CUgraph*, const CUgraphNode** nodes, const void**,
                                size_t* count) {
        static CUgraphNode last;
        *status = 1;
        last = reinterpret_cast<CUgraphNode>(g_state->capturing->back().get());
        *nodes = &last;
        *count = 1;
        return CUresult{kSuccess};
    };
    d.StreamEndCapture = [](CUstream, CUgraph* graph) {
        *graph = reinterpret_cast<CUgraph>(std::exchange(g_state->capturing, nullptr));
        return CUresult{kSuccess};
    };
    // An event is a flag: whether it was recorded outside of captures, or by a graph that was asked to.
    d.EventCreate = [](CUevent* event, unsigned) {
        *event = reinterpret_cast<CUevent>(new bool(false));
        ++g_state->live_events;
        return CUresult{kSuccess};
    };
    d.EventDestroy = [](CUevent event) {
        delete reinterpret_cast<bool*>(event);
        return --g_state->live_events, CUresult{kSuccess};
    };
    d.EventRecord = [](CUevent event, CUstream) {
        *reinterpret_cast<bool*>(event) = g_state->capturing == nullptr;
        return CUresult{kSuccess};
    };
    d.EventRecordWithFlags = [](CUevent event, CUstream, unsigned flags) {
        *reinterpret_cast<bool*>(event) = (g_state->capturing != nullptr) == (flags == kEventRecordExternal);
        return CUresult{kSuccess};
    };
    d.EventSynchronize = [](CUevent) { return CUresult{kSuccess}; };
    d.EventElapsedTime = [](float* milliseconds, CUevent a, CUevent b) {
        *milliseconds = 1;
        const bool recorded = *reinterpret_cast<bool*>(a) && *reinterpret_cast<bool*>(b);
        return CUresult{recorded ? kSuccess : kErrorInvalidValue};
    };
    d.ModuleLoadData = [](CUmodule* module, const void*) {
        ++g_state->owner->counts.modules;
        ++g_state->live_modules;
        *module = nullptr;
        return CUresult{kSuccess};
    };
    d.ModuleUnload = [](CUmodule) { return --g_state->live_modules, CUresult{kSuccess}; };
    d.ModuleGetFunction = [](CUfunction* function, CUmodule, const char* name) {
        const auto it = g_state->owner->kernels.find(name);
        if (it == g_state->owner->kernels.end()) return CUresult{kErrorInvalidValue};
        *function = reinterpret_cast<CUfunction>(&it->second);
        return CUresult{kSuccess};
    };
    d.FuncGetAttribute = [](int* value, FunctionAttribute, CUfunction) { return *value = 0, CUresult{kSuccess}; };
    d.FuncSetAttribute = [](CUfunction, FunctionAttribute, int) { return CUresult{kSuccess}; };
    d.LaunchKernelEx = &launch;
    // The executable graph knows its nodes by those that it was made of, while these are there.
    d.GraphInstantiate = [](CUgraphExec* executable, CUgraph graph, unsigned long long) {
        ++g_state->owner->counts.instantiated;
        ++g_state->live_graphs;
        auto* nodes = new Nodes;
        for (const auto& node : *nodes_of(graph)) {
            nodes->push_back(std::make_shared<FakeDriver::State::Node>(*node));
            nodes->back()->captured = node;
        }
        *executable = reinterpret_cast<CUgraphExec>(nodes);
        return CUresult{kSuccess};
    };
    d.GraphLaunch = [](CUgraphExec graph, CUstream) {
        ++g_state->owner->counts.graph_launches;
        for (const auto& node : *nodes_of(graph)) run(*node);
        return CUresult{kSuccess};
    };
    d.GraphExecKernelNodeSetParams = [](CUgraphExec graph, CUgraphNode handle, const CUkernelNodeParams* params) {
        ++g_state->owner->counts.params_set;
        for (const auto& node : *nodes_of(graph)) {
            if (node->captured.lock().get() != reinterpret_cast<FakeDriver::State::Node*>(handle)) continue;
            const auto* bytes = static_cast<const std::byte*>(params->params[0]);
            node->params.assign(bytes, bytes + node->kernel->params_bytes);
            return CUresult{kSuccess};
        }
        return CUresult{kErrorInvalidValue};
    };
    d.GraphExecDestroy = [](CUgraphExec graph) {
        --g_state->live_graphs;
        delete nodes_of(graph);
        return CUresult{kSuccess};
    };
    d.GraphDestroy = [](CUgraph graph) {
        delete nodes_of(graph);
        return CUresult{kSuccess};
    };
    // The address comes first, so that a kernel can be told from the map where its tensor is.
    d.TensorMapEncodeTiled = [](CUtensorMap* map, int, uint32_t, void* address, const uint64_t*, const uint64_t*,
                                const uint32_t*, const uint32_t*, int, int, int, int) {
        ++g_state->owner->counts.tensor_maps;
        map->opaque[0] = reinterpret_cast<uint64_t>(address);
        return CUresult{kSuccess};
    };
    d.TensorMapEncodeIm2col = [](CUtensorMap*, int, uint32_t, void*, const uint64_t*, const uint64_t*, const int*,
                                 const int*, uint32_t, uint32_t, const uint32_t*, int, int, int,
                                 int) { return CUresult{kSuccess}; };
}

}  // namespace

FakeDriver::FakeDriver(int major, int minor) : state_(new State) {
    state_->owner = this;
    state_->major = major;
    state_->minor = minor;
    fill(state_->table);
    g_state = state_;
    set_driver(&state_->table);
}

// The table stays: the process's list of GPUs knows it.
FakeDriver::~FakeDriver() {
    set_driver(nullptr);
}

size_t FakeDriver::device_bytes() const {
    size_t total = 0;
    for (const auto& [address, bytes] : state_->device) total += bytes;
    return total;
}

size_t FakeDriver::pinned_bytes() const {
    size_t total = 0;
    for (const auto& [address, bytes] : state_->pinned) total += bytes;
    return total;
}

DevicePointer FakeDriver::allocate(size_t bytes) {
    DevicePointer address = 0;
    cuda::allocate(&address, bytes, state_->device);
    return address;
}

void FakeDriver::free(DevicePointer address) {
    release(address, state_->device);
}

}  // namespace planish::cuda
