// What a program has on the GPU whatever the context: code and constants.
#include "backends/cuda/program.hpp"

#include <algorithm>
#include <cstring>

#include "backends/cuda/state.hpp"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

/// Constants by the host memory that they were made from, which is kept as long as they are.
class Store final : public DeviceStore {
  public:
    explicit Store(Gpu& gpu) : gpu_(gpu) {}

    struct Uploaded {
        DevicePointer address = 0;
        std::shared_ptr<const void> owner;
    };

    int64_t bytes() const override {
        const std::lock_guard lock(mutex_);
        int64_t total = 0;
        for (const auto& slab : slabs_)
            if (const auto alive = slab.lock()) total += static_cast<int64_t>(alive->memory.size());
        return total;
    }

    /// One allocation for all that are not there yet.
    std::vector<Uploaded> upload(std::span<const Tensor> tensors) {
        constexpr size_t kAlignment = 256;
        const std::lock_guard lock(mutex_);
        std::erase_if(entries_, [](const auto& item) { return item.second.slab.expired(); });
        std::erase_if(slabs_, [](const auto& slab) { return slab.expired(); });
        size_t total = 0;
        auto slab = std::make_shared<Slab>();
        std::vector<std::pair<const Tensor*, size_t>> fresh;
        std::vector<Uploaded> result;
        std::vector<std::pair<std::shared_ptr<Slab>, size_t>> places;
        for (const Tensor& tensor : tensors) {
            if (const auto it = entries_.find(tensor.raw()); it != entries_.end()) {
                if (auto owner = it->second.slab.lock()) {
                    places.emplace_back(std::move(owner), it->second.offset);
                    continue;
                }
            }
            entries_[tensor.raw()] = {slab, total};
            places.emplace_back(slab, total);
            fresh.emplace_back(&tensor, total);
            total += (static_cast<size_t>(tensor.bytes()) + kAlignment) / kAlignment * kAlignment;
            slab->tensors.push_back(tensor);
        }
        try {
            slab->memory = DeviceBuffer(gpu_, total);
            copy(fresh, *slab, total);
        } catch (...) {
            for (const auto& [tensor, offset] : fresh) entries_.erase(tensor->raw());
            throw;
        }
        if (total > 0) slabs_.push_back(slab);
        for (auto& [owner, offset] : places) {
            const DevicePointer address = owner->memory.address() + offset;
            result.push_back({address, std::move(owner)});
        }
        return result;
    }

  private:
    struct Slab {
        DeviceBuffer memory;
        std::vector<Tensor> tensors;
    };
    struct Entry {
        std::weak_ptr<Slab> slab;
        size_t offset = 0;
    };

    // Through two pinned pieces, one filled while the other is copied.
    void copy(std::span<const std::pair<const Tensor*, size_t>> fresh, const Slab& slab, size_t total) {
        constexpr size_t kPiece = size_t{4} << 20;
        if (total == 0) return;
        const Current current(gpu_);
        const Driver& driver = gpu_.driver();
        CUstream stream = nullptr;
        gpu_.check(driver.StreamCreate(&stream, kStreamDefault), "creating a stream");
        const std::shared_ptr<void> closing(nullptr, [&](void*) {
            driver.StreamSynchronize(stream);
            driver.StreamDestroy(stream);
        });
        PinnedBuffer pieces[2] = {PinnedBuffer(gpu_, std::min(total, kPiece)),
                                  PinnedBuffer(gpu_, std::min(total, kPiece))};
        CUevent done[2];
        for (CUevent& event : done) {
            gpu_.check(driver.EventCreate(&event, kEventDefault), "creating an event");
            gpu_.check(driver.EventRecord(event, stream), "recording an event");
        }
        int turn = 0;
        for (const auto& [tensor, offset] : fresh) {
            const auto* from = static_cast<const std::byte*>(tensor->raw());
            const auto bytes = static_cast<size_t>(tensor->bytes());
            for (size_t at = 0; at < bytes; at += kPiece, turn ^= 1) {
                const size_t length = std::min(kPiece, bytes - at);
                gpu_.check(driver.EventSynchronize(done[turn]), "uploading weights");
                std::memcpy(pieces[turn].data(), from + at, length);
                gpu_.check(
                    driver.MemcpyHtoDAsync(slab.memory.address() + offset + at, pieces[turn].data(), length, stream),
                    "uploading weights");
                gpu_.check(driver.EventRecord(done[turn], stream), "recording an event");
            }
        }
        gpu_.check(driver.StreamSynchronize(stream), "uploading weights");
        for (const CUevent event : done) driver.EventDestroy(event);
    }

    Gpu& gpu_;
    mutable std::mutex mutex_;
    std::map<const void*, Entry> entries_;
    std::vector<std::weak_ptr<Slab>> slabs_;
};

}  // namespace

std::unique_ptr<DeviceState> make_state(Gpu& gpu) {
    return std::make_unique<State>(gpu);
}

std::shared_ptr<DeviceStore> make_store(Gpu& gpu) {
    return std::make_shared<Store>(gpu);
}

CudaProgram::CudaProgram(Parts parts) : p_(std::move(parts)) {}

CudaProgram::~CudaProgram() = default;

int64_t CudaProgram::constant_bytes() const {
    int64_t total = 0;
    for (const Tensor& tensor : p_.constants) total += tensor.bytes();
    return total;
}

std::vector<StepInfo> CudaProgram::steps() const {
    std::vector<StepInfo> result;
    for (const Step& step : p_.steps) result.push_back(step.info);
    return result;
}

KernelBinaries CudaProgram::binaries() const {
    KernelBinaries result;
    for (const Step& step : p_.steps)
        for (const auto& binary : step.binaries) result[binary->key] = binary->code;
    return result;
}

const CudaProgram::Loaded& CudaProgram::load(Gpu& gpu) const {
    const std::lock_guard lock(mutex_);
    if (loaded_) return *loaded_;
    const Arch& built = p_.environment.arch;
    if (gpu.arch().number() < built.number() || (built.specific && gpu.arch() != built))
        fail(ErrorCode::unsupported,
             "the program is compiled for " + built.name() + ", the GPU " + gpu.properties().name + " is " +
                 gpu.arch().name(),
             "build for cuda:" + gpu.arch().name());
    auto loaded = std::make_unique<Loaded>();
    loaded->store = p_.store ? p_.store : make_store(gpu);
    for (const Step& step : p_.steps) {
        auto& modules = loaded->modules.emplace_back();
        for (size_t i = 0; i < step.kernel.launches.size(); ++i)
            modules.push_back(gpu.module(*step.binaries[i], step.kernel.launches[i].spec));
    }
    for (auto& uploaded : dynamic_cast<Store&>(*loaded->store).upload(p_.constants)) {
        loaded->constants.push_back(uploaded.address);
        loaded->keep_alive.push_back(std::move(uploaded.owner));
    }
    loaded_ = std::move(loaded);
    return *loaded_;
}

DeviceState& CudaProgram::own_state() const {
    if (!own_state_) own_state_ = make_state(Gpu::get(p_.device < 0 ? 0 : p_.device));
    return *own_state_;
}

void CudaProgram::run(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte*, int) const {
    const std::lock_guard lock(own_run_);
    run_in(inputs, outputs, own_state(), 0);
}

void CudaProgram::run_in(std::span<const void* const> inputs, std::span<void* const> outputs, DeviceState& state,
                         uintptr_t stream) const {
    dynamic_cast<State&>(state).run(*this, inputs, outputs, reinterpret_cast<CUstream>(stream));
}

void CudaProgram::run_observed(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte*, int,
                               const StepObserver& observer) const {
    const std::lock_guard lock(own_run_);
    dynamic_cast<State&>(own_state()).run_observed(*this, inputs, outputs, observer);
}

void CudaProgram::run_profiled(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte*, int,
                               std::span<Timeline> timelines) const {
    const std::lock_guard lock(own_run_);
    dynamic_cast<State&>(own_state()).run_profiled(*this, inputs, outputs, timelines);
}

}  // namespace planish::cuda
