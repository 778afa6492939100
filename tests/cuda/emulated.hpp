// Runs kernels that implementations have made on the host, as tests/cuda/emulation has it, and compares with the
// reference interpreter.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backends/cuda/implementation.hpp"
#include "cuda/host_library.hpp"
#include "reference/interpreter.hpp"

namespace planish::cuda {

inline Tensor random_tensor(const Type& type, unsigned seed, DType storage) {
    std::mt19937 random(seed);
    Tensor tensor(type.dtype, *static_dims(*type.shape));
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < tensor.size(); ++i)
        tensor.set_double(i, type.dtype == DType::f32       ? normal(random)
                             : type.dtype == DType::boolean ? static_cast<double>(random() % 2)
                             : type.dtype == DType::u8      ? static_cast<double>(random() % 256)
                             : type.dtype == DType::i8      ? static_cast<double>(random() % 255) - 127
                                                            : static_cast<double>(random() % 7) - 3);
    if (type.dtype != DType::f32 || storage == DType::f32) return tensor;
    // What memory can hold: the reference computes from the same values.
    const Tensor rounded = stored(tensor, {Layout::plain, storage});
    for (int64_t i = 0; i < tensor.size(); ++i) tensor.set_double(i, rounded.at_double(i));
    return tensor;
}

// Memory that starts where a GPU's would; what lies behind it must stay as it is.
class Buffer {
  public:
    Buffer(int64_t bytes, uint8_t fill) : memory_(static_cast<size_t>(bytes) + kGuard + kAlign, fill), bytes_(bytes) {
        const auto address = reinterpret_cast<uintptr_t>(memory_.data());
        begin_ = memory_.data() + (kAlign - address % kAlign) % kAlign;
        std::fill(begin_ + bytes, begin_ + bytes + kGuard, kPattern);
    }
    Buffer(Buffer&&) noexcept = default;
    Buffer& operator=(Buffer&&) noexcept = default;
    uint8_t* data() { return begin_; }
    bool is_intact() const {
        return std::all_of(begin_ + bytes_, begin_ + bytes_ + kGuard, [](uint8_t x) { return x == kPattern; });
    }

  private:
    static constexpr size_t kGuard = 64, kAlign = 256;
    static constexpr uint8_t kPattern = 0xa5;
    std::vector<uint8_t> memory_;
    uint8_t* begin_;
    int64_t bytes_;
};

// A kernel's source without what may stand once in a unit, and a function that calls it with its parameters.
inline std::string emulated(std::string source, const std::string& name, const std::string& number,
                            std::set<std::string>& headers) {
    for (size_t at = source.find("#include"); at != std::string::npos; at = source.find("#include")) {
        const size_t end = source.find('\n', at);
        headers.insert(source.substr(at, end + 1 - at));
        source.erase(at, end + 1 - at);
    }
    const std::string kernel = "extern \"C\" __global__";
    source.replace(source.find(kernel), kernel.size(), "static");
    const size_t begin = source.find("__grid_constant__ ") + 18;
    const std::string params = source.substr(begin, source.find(" p)", begin) - begin);
    return "namespace unit" + number + " {\n" + source + "}\nstatic void body" + number + "(const void* p) { unit" +
           number + "::" + name + "(*static_cast<const " + params + "*>(p)); }\nextern \"C\" void kernel" + number +
           "(const unsigned* grid, unsigned threads, const void* params) { emulation::run(body" + number +
           ", grid, threads, params); }\n";
}

/// A graph of one region, and what an implementation has made of it.
struct EmulatedRun {
    std::string name;
    DType storage = DType::f32;
    std::unique_ptr<Graph> graph;
    CudaKernel kernel;
    Formats formats;
    DType inputs = storage;  // random inputs are numbers that this type holds
};

/// Every run on random inputs; its outputs must lie within `tolerance` of the reference: for an element whose value is
/// `want` among results up to `largest`.
inline void run_emulated(const std::vector<EmulatedRun>& runs,
                         const std::function<double(const EmulatedRun& run, double want, double largest)>& tolerance) {
    std::map<std::string, std::string> numbers;  // source -> number
    std::string source;
    std::set<std::string> headers;
    for (const EmulatedRun& run : runs)
        for (const Launch& launch : run.kernel.launches) {
            const auto [it, is_new] = numbers.try_emplace(launch.spec.source, std::to_string(numbers.size()));
            if (is_new) source += emulated(launch.spec.source, launch.spec.name, it->second, headers);
        }
    std::string includes;
    for (const std::string& header : headers) includes += header;
    const HostLibrary library(includes + source, "-O1");
    ASSERT_TRUE(library.is_open());
    for (const EmulatedRun& run : runs) {
        const std::string& name = run.name;
        const Node& node = *run.graph->nodes().front();
        std::map<std::string, Tensor> feeds;
        unsigned seed = 0;
        for (const Value* value : run.graph->inputs())
            feeds[value->name] = random_tensor(value->type, ++seed, run.inputs);
        std::vector<Buffer> buffers[5];  // by Operand::Kind
        const auto filled = [](const Tensor& tensor) {
            Buffer buffer(tensor.bytes(), 0);
            std::memcpy(buffer.data(), tensor.raw(), static_cast<size_t>(tensor.bytes()));
            return buffer;
        };
        for (size_t i = 0; i < node.inputs().size(); ++i) {
            const Value* value = node.inputs()[i];
            if (value == nullptr)
                buffers[0].emplace_back(0, uint8_t{0});
            else
                buffers[0].push_back(filled(
                    stored(value->is_constant() ? *value->constant : feeds.at(value->name), run.formats.inputs[i])));
        }
        // Memory that nobody has written is NaN.
        for (size_t i = 0; i < node.outputs().size(); ++i)
            buffers[1].emplace_back(byte_size(run.formats.outputs[i].dtype, element_count(node.outputs()[i]->dims())),
                                    uint8_t{0xff});
        buffers[2].emplace_back(run.kernel.workspace, uint8_t{0xff});
        buffers[3].emplace_back(run.kernel.semaphores, uint8_t{0});
        for (const Tensor& tensor : run.kernel.constants) buffers[4].push_back(filled(tensor));
        for (const Launch& launch : run.kernel.launches) {
            Buffer params(static_cast<int64_t>(launch.params.size()), 0);
            std::memcpy(params.data(), launch.params.data(), launch.params.size());
            for (const AddressPatch& patch : launch.addresses) {
                const uint8_t* address =
                    buffers[static_cast<size_t>(patch.operand.kind)][static_cast<size_t>(patch.operand.index)].data() +
                    patch.operand.offset;
                std::memcpy(params.data() + patch.params_offset, &address, sizeof address);
            }
            library.get<void(const unsigned*, unsigned, const void*)>("kernel" + numbers.at(launch.spec.source))(
                launch.grid.data(), static_cast<unsigned>(launch.spec.threads), params.data());
        }
        const auto results = reference::run_graph(*run.graph, feeds);
        for (size_t i = 0; i < node.outputs().size(); ++i) {
            const Format format = run.formats.outputs[i];
            const Value& value = *node.outputs()[i];
            const Tensor want = stored(results.at(value.name), {format.layout, value.type.dtype});
            Tensor got(format.dtype, want.dims());
            std::memcpy(got.raw(), buffers[1][i].data(), static_cast<size_t>(got.bytes()));
            EXPECT_TRUE(buffers[1][i].is_intact()) << name << " writes past its output";
            double largest = 0;
            for (int64_t e = 0; e < want.size(); ++e)
                if (std::isfinite(want.at_double(e))) largest = std::max(largest, std::fabs(want.at_double(e)));
            const bool real = value.type.dtype == DType::f32;
            // Rounded to bytes, a number that lies close to the middle of two may become either; few do.
            int64_t others = value.type.dtype == DType::u8 ? 1 + want.size() / 1000 : 0;
            for (int64_t e = 0; e < want.size(); ++e) {
                const double g = got.at_double(e), w = want.at_double(e);
                if (g == w || (std::isnan(g) && std::isnan(w))) continue;
                if (std::fabs(g - w) == 1 && others-- > 0) continue;
                ASSERT_LE(std::fabs(g - w), real ? tolerance(run, w, largest) : 0.0)
                    << name << " " << run.kernel.name << " output " << i << " element " << e << ": " << g << ", not "
                    << w;
                ASSERT_FALSE(std::isnan(g)) << name << " element " << e;
            }
        }
    }
}

}  // namespace planish::cuda
