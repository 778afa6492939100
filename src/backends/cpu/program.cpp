// Running a lowered graph.
#include "backends/cpu/program.hpp"

#include <alloca.h>

#include <chrono>
#include <cstring>
#include <optional>

#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {

class CpuProgram::Memory final : public ValueReader {
  public:
    Memory(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena)
        : inputs_(inputs), outputs_(outputs), arena_(arena) {}

    std::byte* resolve(const Slot& slot) const {
        switch (slot.base) {
            case Slot::Base::none:
                return nullptr;
            case Slot::Base::absolute:
                return const_cast<std::byte*>(slot.address);
            case Slot::Base::arena:
                return arena_ + slot.offset;
            case Slot::Base::input:
                return static_cast<std::byte*>(const_cast<void*>(inputs_[static_cast<size_t>(slot.index)])) +
                       slot.offset;
            case Slot::Base::output:
                return static_cast<std::byte*>(outputs_[static_cast<size_t>(slot.index)]) + slot.offset;
        }
        return nullptr;
    }

    // Only the running step's own operands are read: other values may be dead and their memory reused.
    Tensor read(const Value& value) const override {
        if (value.is_constant()) return *value.constant;
        auto find = [&](std::span<Value* const> values, const std::vector<Slot>& slots,
                        const std::vector<Layout>& layouts) -> std::optional<Tensor> {
            for (size_t i = 0; i < values.size(); ++i)
                if (values[i] == &value) return copy_of(value, slots[i], layouts[i]);
            return std::nullopt;
        };
        if (auto output = find(step->region->outputs(), step->outputs, step->layouts.outputs)) return *output;
        if (auto input = find(step->region->inputs(), step->inputs, step->layouts.inputs)) return *input;
        fail(ErrorCode::not_found, "value '" + value.name + "' is not an operand of '" + step->region->name + "'");
    }

    const Step* step = nullptr;  // running

    std::byte* arena() const { return arena_; }

  private:
    Tensor copy_of(const Value& value, const Slot& slot, Layout layout) const {
        Tensor result(value.type.dtype, value.dims());
        if (result.size() > 0)
            reorder(resolve(slot), layout, static_cast<std::byte*>(result.raw()), Layout::plain, result.dims(),
                    byte_size(result.dtype(), 1));
        return result;
    }

    std::span<const void* const> inputs_;
    std::span<void* const> outputs_;
    std::byte* arena_;
};

template <typename Around>
void CpuProgram::execute(const Memory& memory, int threads, Around&& around) const {
    ThreadPool& pool = ThreadPool::process();
    size_t most = 0;
    for (const Step& step : p_.steps) most = std::max(most, step.inputs.size() + step.outputs.size());
    auto** pointers = static_cast<std::byte**>(alloca((most + 1) * sizeof(std::byte*)));
    for (size_t i = 0; i < p_.steps.size(); ++i) {
        const Step& step = p_.steps[i];
        std::byte** next = pointers;
        for (const Slot& slot : step.inputs) *next++ = memory.resolve(slot);
        std::byte** outputs = next;
        for (const Slot& slot : step.outputs) *next++ = memory.resolve(slot);
        const Launch launch{{const_cast<const std::byte* const*>(pointers), step.inputs.size()},
                            {outputs, step.outputs.size()},
                            memory.arena() + step.workspace_offset,
                            &pool,
                            threads};
        around(i, step, [&] { step.kernel->run(launch); });
    }
}

std::vector<StepInfo> CpuProgram::steps() const {
    std::vector<StepInfo> result;
    for (const Step& step : p_.steps) result.push_back(step.info);
    return result;
}

void CpuProgram::run(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                     int threads) const {
    execute(Memory(inputs, outputs, arena), threads, [](size_t, const Step&, auto&& launch) { launch(); });
}

void CpuProgram::run_observed(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                              int threads, const StepObserver& observer) const {
    Memory memory(inputs, outputs, arena);
    execute(memory, threads, [&](size_t i, const Step& step, auto&& launch) {
        memory.step = &step;
        if (step.region && observer.before) observer.before(static_cast<int>(i), *step.region, memory);
        launch();
        if (step.region && observer.after) observer.after(static_cast<int>(i), *step.region, memory);
    });
}

void CpuProgram::run_profiled(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                              int threads, std::span<Timeline> timelines) const {
    using Clock = std::chrono::steady_clock;
    for (Timeline& timeline : timelines) {
        timeline = {};
        LoopRecorder loops;
        const Clock::time_point start = Clock::now();
        const auto since_start = [&](Clock::time_point at) {
            return std::chrono::duration<double>(at - start).count();
        };
        execute(Memory(inputs, outputs, arena), threads, [&](size_t i, const Step&, auto&& launch) {
            const auto step = static_cast<int>(i);
            const double begin = since_start(Clock::now());
            launch();
            const double end = since_start(Clock::now());
            // The caller is busy outside of shared loops; inside, each thread from its first task to its last.
            double busy = end - begin;
            for (const LoopRecorder::Span& span : loops.take()) {
                const Timeline::Span part{step, span.thread, since_start(span.begin), since_start(span.end)};
                busy += (span.thread == LoopRecorder::kWhole ? -1 : 1) * (part.end - part.begin);
                if (span.thread != LoopRecorder::kWhole) timeline.work.push_back(part);
            }
            timeline.steps.push_back({step, 0, begin, end});
            timeline.busy.push_back(busy);
        });
    }
}

}  // namespace planish::cpu
