// Merges axes, chooses the vector length, writes the translation unit.
#include "backends/cuda/implementations/strided.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backends/cuda/kernels/pointwise_params.h"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

constexpr int kThreads = 256;

/// Neighbouring axes along which every operand advances as along one.
struct Merged {
    Dims extents;
    std::vector<std::vector<int64_t>> strides;  // by operand, inputs first
};

Merged merge(const StridedProblem& problem) {
    Merged merged;
    std::vector<const StridedOperand*> operands;
    for (const StridedOperand& o : problem.inputs) operands.push_back(&o);
    for (const StridedOperand& o : problem.outputs) operands.push_back(&o);
    merged.strides.resize(operands.size());
    for (size_t axis = 0; axis < problem.extents.size(); ++axis) {
        const int64_t extent = problem.extents[axis];
        if (extent == 1) continue;
        bool joins = !merged.extents.empty();
        for (size_t o = 0; o < operands.size(); ++o)
            joins = joins && merged.strides[o].back() == operands[o]->strides[axis] * extent;
        if (!joins) merged.extents.push_back(1);
        merged.extents.back() *= extent;
        for (size_t o = 0; o < operands.size(); ++o) {
            if (!joins) merged.strides[o].push_back(0);
            merged.strides[o].back() = operands[o]->strides[axis];
        }
    }
    if (merged.extents.empty()) {
        merged.extents.push_back(1);
        for (auto& strides : merged.strides) strides.push_back(0);
    }
    return merged;
}

enum class Access : uint8_t { vector, repeated, strided };

/// How an operand is read or written in vectors of `vector` elements.
Access access_of(const std::vector<int64_t>& strides, int64_t offset, int64_t vector) {
    if (strides.back() == 0) return Access::repeated;
    bool aligned = strides.back() == 1 && offset % vector == 0;
    for (size_t i = 0; i + 1 < strides.size(); ++i) aligned = aligned && strides[i] % vector == 0;
    return aligned ? Access::vector : Access::strided;
}

std::string_view access_name(Access access) {
    return access == Access::vector ? "v" : access == Access::repeated ? "r" : "s";
}

}  // namespace

bool can_launch(const StridedProblem& problem) {
    if (problem.inputs.size() > kPointwiseInputs || problem.outputs.size() > kPointwiseOutputs) return false;
    if (element_count(problem.extents) >= int64_t{1} << 31) return false;
    const Merged merged = merge(problem);
    for (const auto& strides : merged.strides) {
        int64_t reach = 0;
        for (size_t i = 0; i < strides.size(); ++i) reach += std::abs(strides[i]) * merged.extents[i];
        if (reach >= int64_t{1} << 31) return false;
    }
    return merged.extents.size() <= kPointwiseRank;
}

Launch strided_launch(const StridedProblem& problem) {
    const Merged merged = merge(problem);
    const size_t rank = merged.extents.size(), inputs = problem.inputs.size(), outputs = problem.outputs.size();
    const auto operand = [&](size_t o) -> const StridedOperand& {
        return o < inputs ? problem.inputs[o] : problem.outputs[o - inputs];
    };
    // 16 bytes of the smallest elements, as long as outputs take them whole.
    int64_t smallest = 8;
    for (size_t o = 0; o < inputs + outputs; ++o)
        if (merged.strides[o].back() == 1) smallest = std::min(smallest, operand(o).bytes);
    int64_t vector = std::min<int64_t>(8, 16 / smallest);
    const auto fits = [&] {
        if (rank > 1 && merged.extents.back() % vector != 0) return false;
        bool any = false;
        for (size_t o = 0; o < inputs + outputs; ++o) {
            const Access access = access_of(merged.strides[o], operand(o).offset, vector);
            if (o >= inputs && access != Access::vector) return false;
            any = any || access == Access::vector;
        }
        return any;
    };
    while (vector > 1 && !fits()) vector /= 2;
    // A small tensor has too few vectors to fill the device; its threads are worth more than its transactions.
    while (vector > 1 && rank == 1 && merged.extents[0] / vector < 4096) vector /= 2;

    PointwiseParams params{};
    params.count = static_cast<unsigned>(element_count(merged.extents));
    for (size_t axis = 0; axis < rank; ++axis) {
        const bool last = axis + 1 == rank;
        params.extents[axis] = make_divisor(static_cast<unsigned>(
            std::max<int64_t>(1, last ? (merged.extents[axis] + vector - 1) / vector : merged.extents[axis])));
        for (size_t o = 0; o < inputs + outputs; ++o) {
            const size_t slot = o < inputs ? o : kPointwiseInputs + o - inputs;
            params.strides[slot][axis] = static_cast<int>(merged.strides[o][axis] * (last ? vector : 1));
            if (last) params.element_strides[slot] = static_cast<int>(merged.strides[o][axis]);
        }
    }

    std::string tag, loads, defines, stores;
    for (size_t o = 0; o < inputs + outputs; ++o) {
        const Access access = access_of(merged.strides[o], operand(o).offset, vector);
        tag += access_name(access);
        if (o < inputs) {
            const std::string from =
                fmt::format("static_cast<const {}*>(p.inputs[{}]) + at[{}]", operand(o).memory_type, o, o);
            const bool repeated = access == Access::repeated;
            loads += fmt::format("        {} x{}[{}];\n", operand(o).register_type, o, repeated ? "1" : "kVector");
            loads += access == Access::strided
                         ? fmt::format("        planish::load_strided<kVector>(x{}, {}, p.element_strides[{}]);\n", o,
                                       from, o)
                         : fmt::format("        planish::load<{}>(x{}, {});\n", repeated ? "1" : "kVector", o, from);
            defines += fmt::format("            const {} a{} = x{}[{}];\n", operand(o).register_type, o, o,
                                   repeated ? "0" : "i");
        } else {
            const size_t k = o - inputs;
            loads += fmt::format("        {} y{}[kVector];\n", operand(o).register_type, k);
            const std::string to =
                fmt::format("static_cast<{}*>(p.outputs[{}]) + at[{}]", operand(o).memory_type, k, o);
            stores += access == Access::strided
                          ? fmt::format("        planish::store_strided<kVector>({}, y{}, p.element_strides[{}]);\n",
                                        to, k, kPointwiseInputs + k)
                          : fmt::format("        planish::store<kVector>({}, y{});\n", to, k);
        }
    }
    for (const std::string& line : problem.lines) defines += "            " + line + "\n";
    for (size_t k = 0; k < outputs; ++k) defines += fmt::format("            y{}[i] = {};\n", k, problem.results[k]);
    const std::string name = fmt::format("{}_v{}_r{}_{}", problem.name, vector, rank, tag);
    const std::string definitions = fmt::format(
        "struct C {{\n"
        "    static constexpr int kVector = {}, kRank = {}, kInputs = {}, kOutputs = {};\n"
        "    static constexpr __device__ int operand(int o) {{ return o < kInputs ? o : o - kInputs + {}; }}\n"
        "    template <int kVector>\n"
        "    static __device__ void run(const planish::PointwiseParams& p, const int (&at)[kInputs + kOutputs]) {{\n"
        "{}#pragma unroll\n        for (int i = 0; i < kVector; ++i) {{\n{}        }}\n{}    }}\n}};\n",
        vector, rank, inputs, outputs, static_cast<int>(kPointwiseInputs), loads, defines, stores);
    KernelSpec spec;
    spec.name = name;
    spec.source = kernel_source("#include \"planish/pointwise.cuh\"\n", definitions, name, kThreads,
                                "planish::PointwiseParams", "planish::pointwise<C>(p)");
    spec.threads = kThreads;
    spec.max_registers = 128;
    Launch launch = make_launch(std::move(spec), {blocks_for(params.count, vector * kThreads), 1, 1}, params);
    launch.pdl = true;
    for (size_t o = 0; o < inputs + outputs; ++o) {
        Operand where = operand(o).operand;
        where.offset += operand(o).offset * operand(o).bytes;
        launch.bind(o < inputs ? offsetof(PointwiseParams, inputs) + o * sizeof(void*)
                               : offsetof(PointwiseParams, outputs) + (o - inputs) * sizeof(void*),
                    where);
    }
    return launch;
}

StridedOperand moved(int64_t bytes, std::vector<int64_t> strides, int64_t offset, Operand operand) {
    const std::string type = bytes == 1   ? "unsigned char"
                             : bytes == 2 ? "unsigned short"
                             : bytes == 4 ? "unsigned"
                                          : "unsigned long long";
    return {type, type, bytes, std::move(strides), offset, operand};
}

StridedOperand computed(DType dtype, std::vector<int64_t> strides, int64_t offset, Operand operand) {
    return {std::string(memory_type(dtype)),
            std::string(register_type(dtype)),
            byte_size(dtype, 1),
            std::move(strides),
            offset,
            operand};
}

StridedProblem copy_problem(std::string name, Dims extents, StridedOperand input, StridedOperand output) {
    name += fmt::format("_b{}", 8 * input.bytes);
    return {std::move(name), std::move(extents), {std::move(input)}, {std::move(output)}, {}, {"a0"}};
}

std::vector<int64_t> logical_strides(const Dims& dims, Layout layout) {
    const Dims physical = physical_dims(dims, layout);
    std::vector<int64_t> dense(dims.size()), result(dims.size());
    int64_t stride = 1;
    for (size_t i = dims.size(); i-- > 0; stride *= physical[i]) dense[i] = stride;
    const auto rank = static_cast<int64_t>(dims.size());
    for (int64_t axis = 0; axis < rank; ++axis)
        result[static_cast<size_t>(axis)] = dense[static_cast<size_t>(physical_axis(axis, rank, layout))];
    return result;
}

std::vector<int64_t> broadcast_strides(const Dims& dims, Layout layout, const Dims& out) {
    const std::vector<int64_t> own = logical_strides(dims, layout);
    std::vector<int64_t> result(out.size(), 0);
    for (size_t i = 0; i < dims.size(); ++i)
        if (dims[i] != 1) result[out.size() - dims.size() + i] = own[i];
    return result;
}

std::vector<int64_t> physical_order(const std::vector<int64_t>& by_axis, Layout layout) {
    return physical_dims(by_axis, layout);
}

std::string kernel_source(std::string_view includes, std::string_view definitions, std::string_view name, int threads,
                          std::string_view params, std::string_view call) {
    return fmt::format(
        "{}{}extern \"C\" __global__ __launch_bounds__({}) void {}(const __grid_constant__ {} p) {{\n    {};\n}}\n",
        includes, definitions, threads, name, params, call);
}

unsigned blocks_for(int64_t count, int64_t each) {
    return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace planish::cuda
