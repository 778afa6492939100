// Programs on a driver without a GPU: graphs, pointers, streams, memory.
#include "backends/cuda/program.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "backends/cuda/convert.hpp"
#include "backends/cuda/kernels/convert_params.h"
#include "base/small_float.hpp"
#include "cuda/fake_driver.hpp"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

constexpr int64_t kCount = 100;

template <typename From, typename To, typename F>
FakeDriver::Kernel element_kernel(F function) {
    return {sizeof(ConvertParams), [function](const std::byte* bytes) {
                ConvertParams p;
                std::memcpy(&p, bytes, sizeof p);
                for (int64_t i = 0; i < p.count; ++i)
                    static_cast<To*>(p.out)[i] = function(static_cast<const From*>(p.in)[i]);
            }};
}

// y = x rounded to float16, times two on the CPU where `host`, plus the constant's first element.
struct Bench {
    FakeDriver driver;
    Gpu& gpu;
    std::unique_ptr<CudaProgram> program;
    std::vector<float> x = std::vector<float>(kCount), y = std::vector<float>(kCount);

    explicit Bench(bool host = false) : gpu(Gpu::get(0)) {
        driver.kernels["convert_elements_f32_f16"] = element_kernel<float, uint16_t>(
            [](float v) { return static_cast<uint16_t>(encode_small_float(DType::f16, v, false)); });
        driver.kernels["convert_elements_f16_f32"] = element_kernel<uint16_t, float>(
            [](uint16_t v) { return static_cast<float>(decode_small_float(DType::f16, v)); });
        program = make(host);
        for (int64_t i = 0; i < kCount; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i);
    }

    static Step convert(DType from, DType to, Slot in, Slot out, int64_t count) {
        Step step;
        step.kernel = make_convert_kernel({count}, {Layout::plain, from}, {Layout::plain, to});
        step.info.name = step.kernel.name;
        step.inputs = {in};
        step.outputs = {out};
        step.input_bytes = {byte_size(from, count)};
        step.output_bytes = {byte_size(to, count)};
        for (size_t i = 0; i < step.kernel.launches.size(); ++i)
            step.binaries.push_back(std::make_shared<Binary>(Binary{step.kernel.name, {std::byte{1}}, {}}));
        return step;
    }

    static std::unique_ptr<CudaProgram> make(bool host, std::shared_ptr<DeviceStore> store = nullptr,
                                             int64_t count = kCount) {
        const Slot input{Slot::Base::input, 0, 0, nullptr}, output{Slot::Base::output, 0, 0, nullptr},
            first{Slot::Base::arena, 0, 0, nullptr}, second{Slot::Base::arena, 0, 256, nullptr};
        CudaProgram::Parts parts;
        parts.graph = std::make_unique<Graph>();
        parts.environment.arch = {9, 0, true};
        parts.inputs = {{"x", DType::f32, {count}}};
        parts.outputs = {{"y", DType::f32, {count}}};
        parts.steps.push_back(convert(DType::f32, DType::f16, input, first, count));
        if (host) {
            Step step;
            step.info.name = "double";
            step.inputs = {first};
            step.outputs = {second};
            step.input_bytes = step.output_bytes = {2 * kCount};
            step.kernel.host = [](std::span<const std::byte* const> in, std::span<std::byte* const> out) {
                const auto* from = reinterpret_cast<const uint16_t*>(in[0]);
                auto* to = reinterpret_cast<uint16_t*>(out[0]);
                for (int64_t i = 0; i < kCount; ++i)
                    to[i] = static_cast<uint16_t>(
                        encode_small_float(DType::f16, 2 * decode_small_float(DType::f16, from[i])));
            };
            parts.steps.push_back(std::move(step));
        }
        parts.steps.push_back(convert(DType::f16, DType::f32, host ? second : first, output, count));
        parts.constants = {Tensor(DType::f32, {1000})};
        parts.store = std::move(store);
        parts.arena_bytes = std::max<int64_t>(512, 2 * count);
        parts.device = 0;
        return std::make_unique<CudaProgram>(std::move(parts));
    }

    void run(DeviceState& state, const void* in, void* out, uintptr_t stream = 0) const {
        const void* inputs[] = {in};
        void* outputs[] = {out};
        program->run_in(inputs, outputs, state, stream);
    }
    void expect(float factor, const float* values) const {
        for (int64_t i = 0; i < kCount; ++i) ASSERT_EQ(values[i], factor * static_cast<float>(i)) << "element " << i;
    }
};

TEST(CudaProgram, IsCapturedOnceAndReplayed) {
    Bench bench;
    const auto state = make_state(bench.gpu);
    for (int i = 0; i < 3; ++i) {
        std::fill(bench.y.begin(), bench.y.end(), -1.0F);
        bench.run(*state, bench.x.data(), bench.y.data());
        bench.expect(1, bench.y.data());
    }
    EXPECT_EQ(bench.driver.counts.instantiated, 1);
    EXPECT_EQ(bench.driver.counts.graph_launches, 3);
    EXPECT_EQ(bench.driver.counts.launches, 0);
    EXPECT_EQ(bench.driver.counts.params_set, 0);
}

TEST(CudaProgram, StepsOnTheCpuStandBetweenTwoGraphs) {
    Bench bench(true);
    const auto state = make_state(bench.gpu);
    for (int i = 0; i < 2; ++i) {
        bench.run(*state, bench.x.data(), bench.y.data());
        bench.expect(2, bench.y.data());
    }
    EXPECT_EQ(bench.driver.counts.instantiated, 2);
    EXPECT_EQ(bench.driver.counts.graph_launches, 4);
}

TEST(CudaProgram, UsesTheCallersDeviceMemoryAndFollowsItsPointers) {
    Bench bench;
    const auto state = make_state(bench.gpu);
    std::vector<DevicePointer> in, out;
    for (int i = 0; i < 3; ++i) {
        in.push_back(bench.driver.allocate(4 * kCount));
        out.push_back(bench.driver.allocate(4 * kCount));
        std::memcpy(reinterpret_cast<void*>(in.back()), bench.x.data(), 4 * kCount);
    }
    for (int i = 0; i < 3; ++i) {
        bench.run(*state, reinterpret_cast<void*>(in[i]), reinterpret_cast<void*>(out[i]));
        bench.expect(1, reinterpret_cast<const float*>(out[i]));
    }
    EXPECT_EQ(bench.driver.counts.instantiated, 1);
    EXPECT_EQ(bench.driver.counts.params_set, 4);  // two kernels see a port, twice they moved
    EXPECT_EQ(bench.driver.pinned_bytes(), 0U);
    EXPECT_EQ(state->device_bytes(), 512);
    for (int i = 0; i < 3; ++i) bench.driver.free(in[i]), bench.driver.free(out[i]);
}

TEST(CudaProgram, CopiesWhatIsNotAligned) {
    Bench bench;
    const auto state = make_state(bench.gpu);
    const DevicePointer in = bench.driver.allocate(4 * kCount + 4), out = bench.driver.allocate(4 * kCount + 4);
    std::memcpy(reinterpret_cast<void*>(in + 4), bench.x.data(), 4 * kCount);
    bench.run(*state, reinterpret_cast<void*>(in + 4), reinterpret_cast<void*>(out + 4));
    bench.expect(1, reinterpret_cast<const float*>(out + 4));
    EXPECT_GT(state->device_bytes(), 512 + 2 * 4 * kCount - 1);
    bench.driver.free(in);
    bench.driver.free(out);
}

TEST(CudaProgram, InAStreamOfTheCallerItDoesNotWait) {
    Bench bench;
    const auto state = make_state(bench.gpu);
    const DevicePointer in = bench.driver.allocate(4 * kCount), out = bench.driver.allocate(4 * kCount);
    std::memcpy(reinterpret_cast<void*>(in), bench.x.data(), 4 * kCount);
    bench.run(*state, reinterpret_cast<void*>(in), reinterpret_cast<void*>(out), 77);  // uploads, captures
    const int before = bench.driver.counts.synchronized;
    for (int i = 0; i < 5; ++i) bench.run(*state, reinterpret_cast<void*>(in), reinterpret_cast<void*>(out), 77);
    EXPECT_EQ(bench.driver.counts.synchronized, before);
    bench.expect(1, reinterpret_cast<const float*>(out));
    // Another stream, or host memory, follows what is still running.
    bench.run(*state, reinterpret_cast<void*>(in), reinterpret_cast<void*>(out), 78);
    EXPECT_EQ(bench.driver.counts.synchronized, before + 1);
    bench.run(*state, bench.x.data(), bench.y.data(), 78);
    EXPECT_GT(bench.driver.counts.synchronized, before + 1);
    bench.expect(1, bench.y.data());
    bench.driver.free(in);
    bench.driver.free(out);
}

TEST(CudaProgram, StatesShareConstantsAndGiveMemoryBack) {
    Bench bench;
    const size_t before = bench.driver.device_bytes();
    {
        const auto store = make_store(bench.gpu);
        const auto a = Bench::make(false, store);
        const auto one = make_state(bench.gpu), two = make_state(bench.gpu);
        const void* in[] = {bench.x.data()};
        void* out[] = {bench.y.data()};
        a->run_in(in, out, *one, 0);
        const size_t with_one = bench.driver.device_bytes();
        a->run_in(in, out, *two, 0);
        EXPECT_EQ(bench.driver.device_bytes() - with_one, static_cast<size_t>(two->device_bytes()));
        EXPECT_GE(store->bytes(), 4000);
        EXPECT_EQ(bench.driver.device_bytes() - before,
                  static_cast<size_t>(store->bytes() + one->device_bytes() + two->device_bytes()));
    }
    EXPECT_EQ(bench.driver.device_bytes(), before);
    EXPECT_EQ(bench.driver.pinned_bytes(), 0U);
}

TEST(CudaProgram, AStateForgetsProgramsThatAreGone) {
    Bench bench;
    const auto state = make_state(bench.gpu);
    const void* in[] = {bench.x.data()};
    void* out[] = {bench.y.data()};
    size_t flat = 0;
    for (int i = 0; i < 20; ++i) {
        bench.program = Bench::make(i % 2 == 1);
        bench.program->run_in(in, out, *state, 0);
        bench.expect(i % 2 == 1 ? 2 : 1, bench.y.data());
        if (i == 3) flat = bench.driver.device_bytes();
    }
    EXPECT_EQ(bench.driver.device_bytes(), flat);
}

// An engine keeps 16 of 60 programs; two contexts run them by turns.
TEST(CudaProgram, ManyRunsOfRandomSizesKeepMemoryFlat) {
    Bench bench;
    const std::unique_ptr<DeviceState> states[] = {make_state(bench.gpu), make_state(bench.gpu)};
    constexpr int kRuns = 10000, kSizes = 60;
    constexpr size_t kKept = 16;
    std::vector<float> x(kCount * kSizes), y(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 100);
    std::mt19937 random(1);
    std::map<int64_t, std::unique_ptr<CudaProgram>> programs;
    size_t most[2] = {}, pinned[2] = {};
    for (int run = 0; run < kRuns; ++run) {
        // The largest first, so that arenas and staging memory are as large as they get.
        const int64_t count = kCount * (run < 2 * kSizes ? kSizes - run / 2 : 1 + random() % kSizes);
        if (!programs.contains(count)) {
            if (programs.size() == kKept) programs.erase(std::next(programs.begin(), random() % kKept));
            programs[count] = Bench::make(false, nullptr, count);
        }
        std::fill_n(y.begin(), count, -1.0F);
        const void* in[] = {x.data()};
        void* out[] = {y.data()};
        programs[count]->run_in(in, out, *states[run % 2], 0);
        ASSERT_TRUE(std::equal(x.begin(), x.begin() + count, y.begin())) << "run " << run;
        if (run < kRuns / 5) continue;
        const size_t half = run < kRuns / 2 ? 0 : 1;
        most[half] = std::max(most[half], bench.driver.device_bytes());
        pinned[half] = std::max(pinned[half], bench.driver.pinned_bytes());
    }
    EXPECT_GT(bench.driver.counts.instantiated, kRuns / 4);  // programs did come and go
    EXPECT_LE(most[1], most[0]);
    EXPECT_EQ(pinned[1], pinned[0]);
}

TEST(CudaProgram, ObserversSeeOperandsInTheirOwnTypes) {
    Bench bench;
    Timeline timelines[3];
    const void* in[] = {bench.x.data()};
    void* out[] = {bench.y.data()};
    bench.program->run_profiled(in, out, nullptr, 1, timelines);
    for (const Timeline& timeline : timelines) EXPECT_EQ(timeline.steps.size(), 2U);
    EXPECT_EQ(bench.driver.counts.instantiated, 2);  // with events and without, launched once for each
    bench.expect(1, bench.y.data());
    bench.program->run_observed(in, out, nullptr, 1, {});
    EXPECT_EQ(bench.driver.counts.launches, 2);  // one by one
    bench.expect(1, bench.y.data());
}

TEST(CudaProgram, AnotherArchitectureIsRefused) {
    FakeDriver driver(8, 0);
    const auto program = Bench::make(false);
    const float x[kCount] = {};
    float y[kCount];
    const void* in[] = {x};
    void* out[] = {y};
    try {
        program->run(in, out, nullptr, 1);
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unsupported);
        EXPECT_THAT(error.hint(), testing::HasSubstr("cuda:sm_80"));
    }
}

TEST(CudaProgram, OutOfMemorySaysWhatToDo) {
    Bench bench;
    const auto state = make_state(bench.gpu);
    bench.driver.fail_allocation = kErrorOutOfMemory;
    try {
        bench.run(*state, bench.x.data(), bench.y.data());
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::resource_exhausted);
        EXPECT_THAT(error.hint(), testing::HasSubstr("smaller batch"));
    }
    bench.driver.fail_allocation = kSuccess;
    bench.run(*state, bench.x.data(), bench.y.data());
    bench.expect(1, bench.y.data());
}

}  // namespace
}  // namespace planish::cuda
