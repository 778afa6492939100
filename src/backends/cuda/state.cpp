// Running a program on a GPU.
#include "backends/cuda/state.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

#include "planish/error.hpp"

namespace planish::cuda {
namespace {

constexpr size_t kPortAlignment = 256;  // of staged ports
constexpr uintptr_t kVectorBytes = 16;  // what kernels load at once

size_t round_up(size_t bytes, size_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

size_t bytes_of(const Port& port) {
    return static_cast<size_t>(byte_size(port.dtype, element_count(port.dims)));
}

bool is_port(const Slot& slot) {
    return slot.base == Slot::Base::input || slot.base == Slot::Base::output;
}

/// The port behind an operand, if it is one.
bool sees_port(const Step& step, const Operand& operand) {
    if (operand.kind == Operand::Kind::input) return is_port(step.inputs[static_cast<size_t>(operand.index)]);
    if (operand.kind == Operand::Kind::output) return is_port(step.outputs[static_cast<size_t>(operand.index)]);
    return false;
}

int tensor_map_dtype(DType dtype) {
    switch (dtype) {
        case DType::u8:
        case DType::i8:
        case DType::f8e4m3fn:
        case DType::f8e5m2:
            return 0;
        case DType::f16:
            return 6;
        case DType::f32:
            return 7;
        case DType::bf16:
            return 9;
        default:
            fail(ErrorCode::internal, "no tensor map of " + std::string(to_string(dtype)));
    }
}

CUtensorMap encode(const Gpu& gpu, const TensorMapDesc& desc, DevicePointer address) {
    std::array<uint64_t, 5> dims{};
    std::array<uint64_t, 4> strides{};
    std::array<uint32_t, 5> box{}, steps{};
    for (size_t i = 0; i < 5; ++i) {
        dims[i] = static_cast<uint64_t>(desc.dims[i]);
        box[i] = static_cast<uint32_t>(desc.box[i]);
        steps[i] = static_cast<uint32_t>(desc.element_strides[i]);
        if (i < 4) strides[i] = static_cast<uint64_t>(desc.strides[i]);
    }
    const int promotion = desc.l2_promotion == 256 ? 3 : desc.l2_promotion == 128 ? 2 : desc.l2_promotion == 64 ? 1 : 0;
    const int swizzle = static_cast<int>(desc.swizzle), dtype = tensor_map_dtype(desc.dtype);
    const auto rank = static_cast<uint32_t>(desc.rank);
    auto* pointer = reinterpret_cast<void*>(address);
    CUtensorMap map{};
    if (desc.mode == TensorMapDesc::Mode::tiled)
        gpu.check(gpu.driver().TensorMapEncodeTiled(&map, dtype, rank, pointer, dims.data(), strides.data(), box.data(),
                                                    steps.data(), 0, swizzle, promotion, 0),
                  "describing a tensor to the copy engine");
    else
        gpu.check(gpu.driver().TensorMapEncodeIm2col(
                      &map, dtype, rank, pointer, dims.data(), strides.data(), desc.lower_corner.data(),
                      desc.upper_corner.data(), static_cast<uint32_t>(desc.channels),
                      static_cast<uint32_t>(desc.pixels), steps.data(), 0, swizzle, promotion, 0),
                  "describing an image to the copy engine");
    return map;
}

/// Events that are destroyed in the end.
class Events {
  public:
    Events(const Gpu& gpu, size_t count) : gpu_(gpu), events_(count) {
        for (CUevent& event : events_) gpu.check(gpu.driver().EventCreate(&event, kEventDefault), "creating an event");
    }
    ~Events() {
        for (const CUevent event : events_) gpu_.driver().EventDestroy(event);
    }
    Events(const Events&) = delete;
    Events& operator=(const Events&) = delete;
    /// In a capture, a node of the graph that records the event whenever the graph runs.
    void record(size_t i, CUstream stream, bool captured) {
        gpu_.check(gpu_.driver().EventRecordWithFlags(events_[i], stream, captured ? kEventRecordExternal : 0),
                   "recording an event");
    }
    double seconds_since_first(size_t i) const {
        float milliseconds = 0;
        gpu_.check(gpu_.driver().EventElapsedTime(&milliseconds, events_[0], events_[i]), "reading an event");
        return static_cast<double>(milliseconds) * 1e-3;
    }

  private:
    const Gpu& gpu_;
    std::vector<CUevent> events_;
};

}  // namespace

State::State(Gpu& gpu) : gpu_(gpu), driver_(gpu.driver()) {
    const Current current(gpu_);
    // A stream that the legacy default stream orders itself with, as libraries that hand over memory expect.
    gpu_.check(driver_.StreamCreate(&own_, kStreamDefault), "creating a stream");
}

State::~State() {
    const Current current(gpu_);
    if (pending_) driver_.StreamSynchronize(last_);
    for (auto& [program, instance] : instances_) release(instance);
    driver_.StreamDestroy(own_);
}

int64_t State::device_bytes() const {
    size_t bytes = arena_.size() + ports_.size();
    for (const auto& [program, instance] : instances_) bytes += instance.semaphores.size();
    return static_cast<int64_t>(bytes);
}

void State::synchronize() {
    if (!pending_) return;
    const Current current(gpu_);
    gpu_.check(driver_.StreamSynchronize(last_), "running the network");
    pending_ = false;
}

// Runs of one state follow each other, also when they come in different streams.
void State::begin(CUstream stream) {
    if (pending_ && stream != last_) synchronize();
    last_ = stream;
}

void State::reserve(DeviceBuffer& buffer, size_t bytes) {
    if (buffer.size() >= bytes) return;
    synchronize();
    buffer = DeviceBuffer();  // the former first: both need not fit
    buffer = DeviceBuffer(gpu_, bytes);
}

State::Bound State::upload(const CudaProgram& program, std::span<const void* const> inputs,
                           std::span<void* const> outputs, CUstream stream) {
    const auto in = program.inputs(), out = program.outputs();
    struct Item {
        const void* pointer;
        size_t bytes, offset;
        bool device, in_place;
    };
    std::vector<Item> items;
    size_t total = 0;
    const auto add = [&](const void* pointer, const Port& port) {
        Item item{pointer, bytes_of(port), total, gpu_.owns(pointer), false};
        item.in_place = item.device && reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
        if (!item.in_place) total += round_up(std::max<size_t>(item.bytes, 1), kPortAlignment);
        items.push_back(item);
    };
    for (size_t i = 0; i < in.size(); ++i) add(inputs[i], in[i]);
    for (size_t i = 0; i < out.size(); ++i) add(outputs[i], out[i]);
    reserve(ports_, total);
    const bool host = std::any_of(items.begin(), items.end(), [](const Item& item) { return !item.device; });
    if (host) {
        synchronize();  // the pinned memory may still be read by the run before
        if (staging_.size() < total) staging_ = PinnedBuffer(gpu_, total);
    }
    Bound bound;
    bound.waits = host;
    for (size_t i = 0; i < items.size(); ++i) {
        const Item& item = items[i];
        const bool is_input = i < in.size();
        const DevicePointer staged = ports_.address() + item.offset;
        bound.ports.push_back(item.in_place ? reinterpret_cast<DevicePointer>(item.pointer) : staged);
        std::byte* pinned = item.device ? nullptr : staging_.data() + item.offset;
        if (!is_input) bound.pinned.push_back(pinned);
        if (!is_input || item.in_place || item.bytes == 0) continue;
        if (item.device) {
            gpu_.check(
                driver_.MemcpyDtoDAsync(staged, reinterpret_cast<DevicePointer>(item.pointer), item.bytes, stream),
                "copying an input");
        } else {
            std::memcpy(pinned, item.pointer, item.bytes);
            gpu_.check(driver_.MemcpyHtoDAsync(staged, pinned, item.bytes, stream), "copying an input to the GPU");
        }
    }
    return bound;
}

void State::download(const CudaProgram& program, const Bound& bound, std::span<void* const> outputs, CUstream stream) {
    const auto in = program.inputs(), out = program.outputs();
    for (size_t i = 0; i < out.size(); ++i) {
        const DevicePointer from = bound.ports[in.size() + i];
        const size_t bytes = bytes_of(out[i]);
        if (bytes == 0) continue;
        if (bound.pinned[i] != nullptr)
            gpu_.check(driver_.MemcpyDtoHAsync(bound.pinned[i], from, bytes, stream), "copying an output from the GPU");
        else if (from != reinterpret_cast<DevicePointer>(outputs[i]))
            gpu_.check(driver_.MemcpyDtoDAsync(reinterpret_cast<DevicePointer>(outputs[i]), from, bytes, stream),
                       "copying an output");
    }
    if (!bound.waits) return;
    synchronize();
    for (size_t i = 0; i < out.size(); ++i)
        if (bound.pinned[i] != nullptr && bytes_of(out[i]) > 0)
            std::memcpy(outputs[i], bound.pinned[i], bytes_of(out[i]));
}

// ---- addresses

DevicePointer State::resolve(const CudaProgram& program, const Instance& instance, const Slot& slot) const {
    const auto index = static_cast<size_t>(slot.index), offset = static_cast<size_t>(slot.offset);
    switch (slot.base) {
        case Slot::Base::none:
            return 0;
        case Slot::Base::absolute:
            return program.load(gpu_).constants[index] + offset;
        case Slot::Base::arena:
            return instance.arena + offset;
        case Slot::Base::input:
            return instance.ports[index] + offset;
        case Slot::Base::output:
            return instance.ports[program.inputs().size() + index] + offset;
    }
    return 0;
}

DevicePointer State::resolve(const CudaProgram& program, const Instance& instance, const Step& step,
                             const Operand& operand) const {
    const auto index = static_cast<size_t>(operand.index), offset = static_cast<size_t>(operand.offset);
    switch (operand.kind) {
        case Operand::Kind::input:
            return resolve(program, instance, step.inputs[index]) + offset;
        case Operand::Kind::output:
            return resolve(program, instance, step.outputs[index]) + offset;
        case Operand::Kind::workspace:
            return instance.arena + static_cast<size_t>(step.workspace_offset) + offset;
        case Operand::Kind::semaphore:
            return instance.semaphores.address() + static_cast<size_t>(step.semaphore_offset) + offset;
        case Operand::Kind::constant:
            return program.load(gpu_).constants[static_cast<size_t>(step.first_constant) + index] + offset;
    }
    return 0;
}

void State::fill(const CudaProgram& program, const Instance& instance, BoundLaunch& bound) const {
    const Step& step = program.parts().steps[bound.step];
    const Launch& launch = step.kernel.launches[bound.launch];
    for (const AddressPatch& patch : launch.addresses) {
        const DevicePointer address = resolve(program, instance, step, patch.operand);
        std::memcpy(bound.params.data() + patch.params_offset, &address, sizeof(address));
    }
    for (const TensorMapPatch& patch : launch.maps) {
        const CUtensorMap map = encode(gpu_, patch.desc, resolve(program, instance, step, patch.operand));
        std::memcpy(bound.params.data() + patch.params_offset, &map, sizeof(map));
    }
}

// ---- graphs

State::Instance& State::instance(const CudaProgram& program) {
    // A program that is gone may have left its address to this one.
    for (auto item = instances_.begin(); item != instances_.end();) {
        if (item->second.token.expired()) {
            synchronize();
            release(item->second);
            item = instances_.erase(item);
        } else {
            ++item;
        }
    }
    Instance& instance = instances_[&program];
    if (!instance.token.expired()) return instance;
    const CudaProgram::Parts& parts = program.parts();
    instance.token = program.token();
    instance.semaphores = DeviceBuffer(gpu_, static_cast<size_t>(parts.semaphore_bytes));
    if (parts.semaphore_bytes > 0)
        gpu_.check(driver_.MemsetD8Async(instance.semaphores.address(), 0, instance.semaphores.size(), last_),
                   "clearing semaphores");
    size_t begin = 0;
    const auto close = [&] {
        if (instance.launches.size() > begin) instance.segments.push_back({begin, instance.launches.size()});
        begin = instance.launches.size();
    };
    for (size_t s = 0; s < parts.steps.size(); ++s) {
        const Step& step = parts.steps[s];
        if (step.kernel.host) {
            close();
            instance.segments.push_back({begin, begin, s});
            continue;
        }
        for (size_t l = 0; l < step.kernel.launches.size(); ++l) {
            const Launch& launch = step.kernel.launches[l];
            BoundLaunch bound{s, l, launch.params};
            for (const AddressPatch& patch : launch.addresses)
                bound.sees_ports = bound.sees_ports || sees_port(step, patch.operand);
            for (const TensorMapPatch& patch : launch.maps)
                bound.sees_ports = bound.sees_ports || sees_port(step, patch.operand);
            instance.launches.push_back(std::move(bound));
        }
    }
    close();
    return instance;
}

void State::bind(const CudaProgram& program, Instance& instance, const Bound& bound) {
    reserve(arena_, static_cast<size_t>(program.parts().arena_bytes));
    const bool moved = instance.arena != arena_.address() || instance.ports.empty();
    if (!moved && instance.ports == bound.ports) return;
    instance.arena = arena_.address();
    instance.ports = bound.ports;
    for (BoundLaunch& launch : instance.launches) {
        if (!moved && !launch.sees_ports) continue;
        fill(program, instance, launch);
        if (!moved && instance.captured) {
            const Step& step = program.parts().steps[launch.step];
            const Launch& what = step.kernel.launches[launch.launch];
            void* params = launch.params.data();
            const CUkernelNodeParams node{program.load(gpu_).modules[launch.step][launch.launch]->function(),
                                          {what.grid[0], what.grid[1], what.grid[2]},
                                          {static_cast<unsigned>(what.spec.threads), 1, 1},
                                          static_cast<unsigned>(what.spec.shared_bytes),
                                          &params,
                                          nullptr,
                                          nullptr,
                                          nullptr};
            gpu_.check(driver_.GraphExecKernelNodeSetParams(launch.graph, launch.node, &node),
                       "moving '" + step.info.name + "' to other memory");
        }
    }
    if (moved) {
        synchronize();
        release(instance);
        instance.captured = false;
    }
}

void State::release(Instance& instance) const {
    for (Segment& segment : instance.segments) {
        if (segment.graph != nullptr) driver_.GraphExecDestroy(std::exchange(segment.graph, nullptr));
        if (segment.captured != nullptr) driver_.GraphDestroy(std::exchange(segment.captured, nullptr));
    }
}

void State::launch(const CudaProgram& program, const BoundLaunch& bound, CUstream stream, bool may_overlap) const {
    const Step& step = program.parts().steps[bound.step];
    const Launch& launch = step.kernel.launches[bound.launch];
    std::array<CUlaunchAttribute, 2> attributes{};
    unsigned count = 0;
    if (launch.spec.cluster > 1) {
        CUlaunchAttribute& a = attributes[count++];
        a.id = CUlaunchAttribute::cluster_dimension;
        a.value.cluster[0] = static_cast<unsigned>(launch.spec.cluster);
        a.value.cluster[1] = a.value.cluster[2] = 1;
    }
    if (launch.pdl && may_overlap && gpu_.arch().at_least(90)) {
        CUlaunchAttribute& a = attributes[count++];
        a.id = CUlaunchAttribute::programmatic_stream_serialization;
        a.value.enabled = 1;
    }
    const CUlaunchConfig config{{launch.grid[0], launch.grid[1], launch.grid[2]},
                                {static_cast<unsigned>(launch.spec.threads), 1, 1},
                                static_cast<unsigned>(launch.spec.shared_bytes),
                                stream,
                                attributes.data(),
                                count};
    void* params = const_cast<std::byte*>(bound.params.data());
    gpu_.check(driver_.LaunchKernelEx(&config, program.load(gpu_).modules[bound.step][bound.launch]->function(),
                                      &params, nullptr),
               "launching '" + launch.spec.name + "' for '" + step.info.name + "'");
}

void State::capture(const CudaProgram& program, Instance& instance) {
    for (Segment& segment : instance.segments) {
        if (segment.host_step != SIZE_MAX) continue;
        CUgraph graph = nullptr;
        gpu_.check(driver_.StreamBeginCapture(own_, kCaptureRelaxed), "capturing the network");
        try {
            for (size_t i = segment.first_launch; i < segment.last_launch; ++i) {
                BoundLaunch& bound = instance.launches[i];
                // What stands before the first kernel of a segment is a copy, which no kernel overlaps.
                launch(program, bound, own_, i > segment.first_launch);
                if (!bound.sees_ports) continue;
                int status = 0;
                const CUgraphNode* nodes = nullptr;
                const void* edges = nullptr;
                size_t count = 0;
                gpu_.check(driver_.StreamGetCaptureInfo(own_, &status, nullptr, nullptr, &nodes, &edges, &count),
                           "asking for a captured kernel");
                if (count != 1) fail(ErrorCode::internal, "a captured kernel is not one node");
                bound.node = nodes[0];
            }
        } catch (...) {
            if (driver_.StreamEndCapture(own_, &graph) == kSuccess && graph != nullptr) driver_.GraphDestroy(graph);
            throw;
        }
        gpu_.check(driver_.StreamEndCapture(own_, &graph), "capturing the network");
        segment.captured = graph;
        gpu_.check(driver_.GraphInstantiate(&segment.graph, graph, 0), "making a graph of the network");
        for (size_t i = segment.first_launch; i < segment.last_launch; ++i) instance.launches[i].graph = segment.graph;
    }
    instance.captured = true;
}

void State::run_on_host(const CudaProgram& program, const Instance& instance, size_t index, CUstream stream) {
    const Step& step = program.parts().steps[index];
    size_t total = 0;
    for (const auto* sizes : {&step.input_bytes, &step.output_bytes})
        for (const int64_t bytes : *sizes) total += round_up(static_cast<size_t>(bytes) + 1, 64);
    if (host_step_.size() < total) host_step_ = PinnedBuffer(gpu_, total);
    std::byte* next = host_step_.data();
    std::vector<const std::byte*> in;
    std::vector<std::byte*> out;
    for (size_t i = 0; i < step.inputs.size(); ++i) {
        const auto bytes = static_cast<size_t>(step.input_bytes[i]);
        const DevicePointer from = resolve(program, instance, step.inputs[i]);
        in.push_back(next);
        if (from != 0 && bytes > 0)
            gpu_.check(driver_.MemcpyDtoHAsync(next, from, bytes, stream), "copying to '" + step.info.name + "'");
        next += round_up(bytes + 1, 64);
    }
    for (const int64_t bytes : step.output_bytes) {
        out.push_back(next);
        next += round_up(static_cast<size_t>(bytes) + 1, 64);
    }
    gpu_.check(driver_.StreamSynchronize(stream), "running the network up to '" + step.info.name + "'");
    step.kernel.host(in, out);
    for (size_t i = 0; i < step.outputs.size(); ++i)
        if (step.output_bytes[i] > 0)
            gpu_.check(driver_.MemcpyHtoDAsync(resolve(program, instance, step.outputs[i]), out[i],
                                               static_cast<size_t>(step.output_bytes[i]), stream),
                       "copying from '" + step.info.name + "'");
    // The next step on the CPU uses the same pinned memory.
    gpu_.check(driver_.StreamSynchronize(stream), "copying from '" + step.info.name + "'");
}

void State::run(const CudaProgram& program, std::span<const void* const> inputs, std::span<void* const> outputs,
                CUstream stream) {
    const Current current(gpu_);
    const bool waits = stream == nullptr;
    if (waits) stream = own_;
    begin(stream);
    program.load(gpu_);
    Instance& instance = this->instance(program);
    const Bound bound = upload(program, inputs, outputs, stream);
    bind(program, instance, bound);
    if (!instance.captured) capture(program, instance);
    pending_ = true;
    for (const Segment& segment : instance.segments) {
        if (segment.host_step != SIZE_MAX)
            run_on_host(program, instance, segment.host_step, stream);
        else
            gpu_.check(driver_.GraphLaunch(segment.graph, stream), "launching the network");
    }
    download(program, bound, outputs, stream);
    if (waits) synchronize();
}

// ---- step by step

/// Copies operands of the running step to the host.
class StepReader final : public ValueReader {
  public:
    StepReader(State& state, const CudaProgram& program, const State::Instance& instance, CUstream stream)
        : state_(state), program_(program), instance_(instance), stream_(stream) {}

    Tensor read(const Value& value) const override {
        if (value.is_constant()) return *value.constant;
        const auto find = [&](std::span<Value* const> values, const std::vector<Slot>& slots,
                              const std::vector<Format>& formats) -> std::optional<Tensor> {
            for (size_t i = 0; i < values.size(); ++i)
                if (values[i] == &value) return copy_of(value, slots[i], formats[i]);
            return std::nullopt;
        };
        if (auto output = find(step->region->outputs(), step->outputs, step->formats.outputs)) return *output;
        if (auto input = find(step->region->inputs(), step->inputs, step->formats.inputs)) return *input;
        fail(ErrorCode::not_found, "value '" + value.name + "' is not an operand of '" + step->region->name + "'");
    }

    const Step* step = nullptr;  // running

  private:
    Tensor copy_of(const Value& value, const Slot& slot, const Format& format) const {
        Tensor raw(format.dtype, value.dims());
        if (raw.bytes() > 0) {
            state_.gpu_.check(state_.driver_.MemcpyDtoHAsync(raw.raw(), state_.resolve(program_, instance_, slot),
                                                             static_cast<size_t>(raw.bytes()), stream_),
                              "reading '" + value.name + "'");
            state_.gpu_.check(state_.driver_.StreamSynchronize(stream_), "reading '" + value.name + "'");
        }
        Tensor plain = raw;
        if (format.layout != Layout::plain && !layouts_coincide(raw.dims())) {
            plain = Tensor(format.dtype, raw.dims());
            reorder(static_cast<const std::byte*>(raw.raw()), format.layout, static_cast<std::byte*>(plain.raw()),
                    Layout::plain, raw.dims(), byte_size(format.dtype, 1));
        }
        return stored(plain, {Layout::plain, value.type.dtype});
    }

    State& state_;
    const CudaProgram& program_;
    const State::Instance& instance_;
    CUstream stream_;
};

void State::run_observed(const CudaProgram& program, std::span<const void* const> inputs,
                         std::span<void* const> outputs, const StepObserver& observer) {
    const Current current(gpu_);
    begin(own_);
    program.load(gpu_);
    Instance& instance = this->instance(program);
    const Bound bound = upload(program, inputs, outputs, own_);
    bind(program, instance, bound);
    pending_ = true;
    StepReader reader(*this, program, instance, own_);
    const std::vector<Step>& steps = program.parts().steps;
    size_t next = 0;
    for (size_t s = 0; s < steps.size(); ++s) {
        reader.step = &steps[s];
        const bool seen = steps[s].region != nullptr;
        if (seen && observer.before) observer.before(static_cast<int>(s), *steps[s].region, reader);
        if (steps[s].kernel.host) run_on_host(program, instance, s, own_);
        for (; next < instance.launches.size() && instance.launches[next].step == s; ++next)
            launch(program, instance.launches[next], own_, false);
        // Here, so that a kernel that reads or writes where it must not is named.
        gpu_.check(driver_.StreamSynchronize(own_),
                   "running '" + steps[s].info.name + "' (" + steps[s].info.implementation + ")");
        if (seen && observer.after) observer.after(static_cast<int>(s), *steps[s].region, reader);
    }
    download(program, bound, outputs, own_);
    synchronize();
}

// With events between the steps, in a graph where no step runs on the CPU: launched one by one, small kernels would
// wait for the host. Inputs and outputs are copied once.
void State::run_profiled(const CudaProgram& program, std::span<const void* const> inputs,
                         std::span<void* const> outputs, std::span<Timeline> timelines) {
    const Current current(gpu_);
    begin(own_);
    program.load(gpu_);
    Instance& instance = this->instance(program);
    const Bound bound = upload(program, inputs, outputs, own_);
    bind(program, instance, bound);
    pending_ = true;
    const std::vector<Step>& steps = program.parts().steps;
    Events events(gpu_, steps.size() + 1);
    const bool on_gpu = std::none_of(steps.begin(), steps.end(), [](const Step& s) { return bool(s.kernel.host); });
    const auto enqueue = [&] {
        events.record(0, own_, on_gpu);
        size_t next = 0;
        for (size_t s = 0; s < steps.size(); ++s) {
            if (steps[s].kernel.host) run_on_host(program, instance, s, own_);
            for (; next < instance.launches.size() && instance.launches[next].step == s; ++next)
                launch(program, instance.launches[next], own_, false);
            events.record(s + 1, own_, on_gpu);
        }
    };
    CUgraphExec executable = nullptr;
    const std::shared_ptr<void> destroying(nullptr, [&](void*) {
        if (executable != nullptr) driver_.GraphExecDestroy(executable);
    });
    if (on_gpu) {
        CUgraph graph = nullptr;
        gpu_.check(driver_.StreamBeginCapture(own_, kCaptureRelaxed), "capturing the network");
        try {
            enqueue();
        } catch (...) {
            if (driver_.StreamEndCapture(own_, &graph) == kSuccess && graph != nullptr) driver_.GraphDestroy(graph);
            throw;
        }
        gpu_.check(driver_.StreamEndCapture(own_, &graph), "capturing the network");
        const CUresult result = driver_.GraphInstantiate(&executable, graph, 0);
        driver_.GraphDestroy(graph);
        gpu_.check(result, "making a graph of the network");
    }
    if (on_gpu && !instance.captured) capture(program, instance);
    for (Timeline& timeline : timelines) {
        std::vector<double> seconds(steps.size());
        double sum = 0, whole = 0;
        if (on_gpu) {
            // The same network as it runs without anybody watching.
            events.record(0, own_, false);
            for (const Segment& segment : instance.segments)
                gpu_.check(driver_.GraphLaunch(segment.graph, own_), "launching the network");
            events.record(1, own_, false);
            gpu_.check(driver_.StreamSynchronize(own_), "running the network");
            whole = events.seconds_since_first(1);
            gpu_.check(driver_.GraphLaunch(executable, own_), "launching the network");
        } else {
            enqueue();
        }
        gpu_.check(driver_.StreamSynchronize(own_), "running the network");
        for (size_t s = 0; s < steps.size(); ++s) {
            seconds[s] = events.seconds_since_first(s + 1) - events.seconds_since_first(s);
            sum += seconds[s];
        }
        // An event costs about as much as a small kernel, and without events a kernel's start hides behind the one
        // before it: what the events add is taken from all steps alike, else few steps would look better than fast
        // ones.
        const double events_cost = on_gpu ? std::max(0.0, sum - whole) / static_cast<double>(steps.size()) : 0;
        constexpr double kLeastShare = 0.1;
        timeline = {};
        double now = 0;
        for (size_t s = 0; s < steps.size(); ++s) {
            const double took = std::max(seconds[s] - events_cost, kLeastShare * seconds[s]);
            timeline.steps.push_back({static_cast<int>(s), 0, now, now + took});
            timeline.busy.push_back(took);
            now += took;
        }
    }
    download(program, bound, outputs, own_);
    synchronize();
}

}  // namespace planish::cuda
