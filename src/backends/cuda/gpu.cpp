// GPUs of this process.
#include "backends/cuda/gpu.hpp"

#include <array>
#include <utility>

#include "planish/error.hpp"

namespace planish::cuda {

Current::Current(const Gpu& gpu) : driver_(gpu.driver()) {
    gpu.check(driver_.CtxPushCurrent(gpu.context()), "making the GPU's context current");
}

Current::~Current() {
    CUcontext ignored;
    driver_.CtxPopCurrent(&ignored);
}

DeviceBuffer::DeviceBuffer(Gpu& gpu, size_t bytes) : gpu_(&gpu), size_(bytes) {
    if (bytes == 0) return;
    const Current current(gpu);
    if (const CUresult result = gpu.driver().MemAlloc(&address_, bytes); result == kErrorOutOfMemory)
        fail(ErrorCode::resource_exhausted,
             "out of device memory: " + std::to_string(bytes >> 20) + " MiB asked for, " +
                 std::to_string(gpu.free_bytes() >> 20) + " MiB free on " + gpu.properties().name,
             "use a smaller batch, fewer contexts or cached_shapes, or another GPU: device=\"cuda:1\"");
    else
        gpu.check(result, "allocating device memory");
}

DeviceBuffer::~DeviceBuffer() {
    if (address_ == 0) return;
    const Current current(*gpu_);
    gpu_->driver().MemFree(address_);
}

void DeviceBuffer::swap(DeviceBuffer& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
}

PinnedBuffer::PinnedBuffer(Gpu& gpu, size_t bytes) : gpu_(&gpu), size_(bytes) {
    if (bytes == 0) return;
    const Current current(gpu);
    void* address = nullptr;
    gpu.check(gpu.driver().MemHostAlloc(&address, bytes, 0), "allocating pinned memory");
    data_ = static_cast<std::byte*>(address);
}

PinnedBuffer::~PinnedBuffer() {
    if (data_ == nullptr) return;
    const Current current(*gpu_);
    gpu_->driver().MemFreeHost(data_);
}

void PinnedBuffer::swap(PinnedBuffer& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
}

Module::Module(Gpu& gpu, const Binary& binary, const KernelSpec& spec) : gpu_(gpu) {
    const Current current(gpu);
    const Driver& driver = gpu.driver();
    gpu.check(driver.ModuleLoadData(&module_, binary.code.data()), "loading kernel '" + spec.name + "'");
    gpu.check(driver.ModuleGetFunction(&function_, module_, spec.name.c_str()), "finding kernel '" + spec.name + "'");
    // 48 KiB are allowed without asking.
    if (spec.shared_bytes > 48 << 10)
        gpu.check(driver.FuncSetAttribute(function_, FunctionAttribute::max_dynamic_shared, spec.shared_bytes),
                  "giving kernel '" + spec.name + "' its shared memory");
    if (spec.cluster > 8)
        gpu.check(driver.FuncSetAttribute(function_, FunctionAttribute::non_portable_cluster, 1),
                  "giving kernel '" + spec.name + "' a cluster of " + std::to_string(spec.cluster));
}

Module::~Module() {
    const Current current(gpu_);
    gpu_.driver().ModuleUnload(module_);
}

DeviceProperties describe_gpu(const Driver& driver, CUdevice device, Arch& arch) {
    const auto attribute = [&](DeviceAttribute which) {
        int value = 0;
        driver.DeviceGetAttribute(&value, which, device);
        return value;
    };
    arch = {attribute(DeviceAttribute::major), attribute(DeviceAttribute::minor), false};
    arch.specific = arch.number() == 90;
    DeviceProperties p;
    if (const KnownDevice* known = known_device(arch)) p = known->properties;
    const double clock = attribute(DeviceAttribute::clock_khz) * 1e3;
    const int multiprocessors = attribute(DeviceAttribute::multiprocessors);
    // Arithmetic of a known architecture goes by multiprocessors and clock.
    if (p.multiprocessors > 0 && multiprocessors > 0 && clock > 0) {
        const double scale = multiprocessors * clock / (p.multiprocessors * p.clock);
        p.f32_flops *= scale;
        p.tensor_flops *= scale;
    }
    std::array<char, 256> name{};
    driver.DeviceGetName(name.data(), static_cast<int>(name.size()) - 1, device);
    size_t total = 0;
    driver.DeviceTotalMem(&total, device);
    p.name = name.data();
    p.memory_bytes = static_cast<int64_t>(total);
    p.multiprocessors = multiprocessors;
    p.clock = clock;
    p.l2_bytes = attribute(DeviceAttribute::l2_bytes);
    p.shared_per_multiprocessor = attribute(DeviceAttribute::shared_per_multiprocessor);
    p.shared_per_block = attribute(DeviceAttribute::shared_per_block_optin);
    p.registers_per_multiprocessor = attribute(DeviceAttribute::registers_per_multiprocessor);
    p.threads_per_multiprocessor = attribute(DeviceAttribute::threads_per_multiprocessor);
    // Two transfers in each cycle of the memory clock.
    const double bandwidth =
        2e3 * attribute(DeviceAttribute::memory_clock_khz) * attribute(DeviceAttribute::memory_bus_bits) / 8;
    if (bandwidth > 0) p.bandwidth = bandwidth;
    return p;
}

int Gpu::count() {
    const Driver* driver = cuda::driver();
    int count = 0;
    if (driver == nullptr || driver->DeviceGetCount(&count) != kSuccess) return 0;
    return count;
}

Gpu& Gpu::get(int ordinal) {
    static std::mutex mutex;
    // Never destroyed: buffers may outlive static objects.
    static auto& gpus = *new std::map<std::pair<const Driver*, int>, std::unique_ptr<Gpu>>;
    const std::string name = "device 'cuda:" + std::to_string(ordinal) + "'";
    const Driver* driver = cuda::driver();
    if (driver == nullptr)
        fail(ErrorCode::unsupported, name + ": " + driver_problem(),
             "use device \"cpu\" or \"auto\"; `planish doctor` shows what was found");
    const int count = Gpu::count();
    if (ordinal < 0 || ordinal >= count)
        fail(ErrorCode::invalid_argument, name + ": this machine has " + std::to_string(count) + " GPUs",
             count > 0 ? "the first one is cuda:0" : "use device \"cpu\"");
    const std::lock_guard lock(mutex);
    std::unique_ptr<Gpu>& gpu = gpus[{driver, ordinal}];
    if (!gpu) gpu = std::make_unique<Gpu>(*driver, ordinal);
    return *gpu;
}

Gpu::Gpu(const Driver& driver, int ordinal) : driver_(driver), ordinal_(ordinal) {
    CUdevice device = 0;
    check(driver_.DeviceGet(&device, ordinal), "finding the GPU");
    properties_ = describe_gpu(driver_, device, arch_);
    // The primary context is the one that PyTorch and the CUDA runtime use: pointers and streams are shared with them.
    check(driver_.DevicePrimaryCtxRetain(&context_, device), "starting the GPU's context");
}

bool Gpu::owns(const void* pointer) const {
    if (pointer == nullptr) return false;
    MemoryType type{};
    const auto address = reinterpret_cast<DevicePointer>(pointer);
    const Current current(*this);
    if (driver_.PointerGetAttribute(&type, kPointerMemoryType, address) != kSuccess || type != MemoryType::device)
        return false;
    int ordinal = -1;
    if (driver_.PointerGetAttribute(&ordinal, kPointerDeviceOrdinal, address) == kSuccess && ordinal != ordinal_)
        fail(ErrorCode::invalid_argument,
             "an array lies on cuda:" + std::to_string(ordinal) +
                 ", the engine runs on cuda:" + std::to_string(ordinal_),
             "move it, or load the plan for that device");
    return true;
}

void synchronize_stream(uintptr_t stream, int ordinal) {
    const Gpu& gpu = Gpu::get(ordinal);
    const Current current(gpu);
    gpu.check(gpu.driver().StreamSynchronize(reinterpret_cast<CUstream>(stream)), "waiting for a stream");
}

int64_t Gpu::free_bytes() const {
    const Current current(*this);
    size_t free = 0, total = 0;
    driver_.MemGetInfo(&free, &total);
    return static_cast<int64_t>(free);
}

void Gpu::check(CUresult result, std::string_view what) const {
    if (result == kSuccess) return;
    const char *name = nullptr, *text = nullptr;
    driver_.GetErrorName(result, &name);
    driver_.GetErrorString(result, &text);
    fail(result == kErrorOutOfMemory ? ErrorCode::resource_exhausted : ErrorCode::internal,
         std::string(what) + " failed on cuda:" + std::to_string(ordinal_) + ": " + (text ? text : "unknown error") +
             " (" + (name ? name : std::to_string(result)) + ")");
}

std::shared_ptr<const Module> Gpu::module(const Binary& binary, const KernelSpec& spec) {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<const Module>& slot = modules_[binary.key];
    if (auto loaded = slot.lock()) return loaded;
    auto loaded = std::make_shared<const Module>(*this, binary, spec);
    slot = loaded;
    return loaded;
}

}  // namespace planish::cuda
