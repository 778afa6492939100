// Point-wise kernels: the loop nest around the generated two inner loops.
#include "backends/cpu/jit/pointwise.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "backends/cpu/jit/pointwise_code.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {

namespace {

constexpr size_t kMaxTensors = 64;
constexpr size_t kMaxRank = 6;
constexpr int64_t kBlockColumns = 4096;     // of a row long enough to be cut
constexpr int64_t kTaskElements = 1 << 14;  // below this a thread's wake-up costs more than it saves

}  // namespace

std::vector<int64_t> broadcast_strides(std::span<const int64_t> shape, std::span<const int64_t> output_shape) {
    if (shape.size() > output_shape.size())
        fail(ErrorCode::internal, "pointwise: an input has more dimensions than the output");
    std::vector<int64_t> strides(output_shape.size(), 0);
    const size_t offset = output_shape.size() - shape.size();
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
        if (shape[i] != output_shape[offset + i] && shape[i] != 1)
            fail(ErrorCode::internal, "pointwise: an input's dimension of " + std::to_string(shape[i]) +
                                          " does not broadcast to " + std::to_string(output_shape[offset + i]));
        strides[offset + i] = shape[i] == 1 ? 0 : stride;
        stride *= shape[i];
    }
    return strides;
}

struct PointwiseKernel::Impl {
    std::vector<int64_t> dims;                  // merged, at least 2: ..., rows, columns
    std::vector<std::vector<int64_t>> strides;  // [tensor][dim] in bytes; inputs, then outputs
    size_t inputs = 0;
    int64_t rows = 1;    // product of all dims but the last
    int64_t blocks = 1;  // pieces of one row
    std::unique_ptr<PointwiseCode> code;

    void run_rows(std::span<const void* const> in, std::span<void* const> out, int64_t begin, int64_t end) const;
    void run_block(std::span<const void* const> in, std::span<void* const> out, int64_t row, int64_t block) const;
    // Byte offset of a row's first element in one tensor.
    int64_t row_offset(size_t tensor, int64_t row) const {
        int64_t offset = 0;
        for (size_t d = dims.size() - 1; d-- > 0;) {
            offset += row % dims[d] * strides[tensor][d];
            row /= dims[d];
        }
        return offset;
    }
    void call(std::span<const void* const> in, std::span<void* const> out, int64_t row, int64_t first_column,
              int64_t rows_here, int64_t columns) const {
        std::array<const std::byte*, kMaxTensors> pointers;
        for (size_t t = 0; t < strides.size(); ++t) {
            const void* base = t < inputs ? in[t] : out[t - inputs];
            pointers[t] = static_cast<const std::byte*>(base) + row_offset(t, row) + first_column * strides[t].back();
        }
        (*code)({pointers.data(), rows_here, columns});
    }
};

void PointwiseKernel::Impl::run_rows(std::span<const void* const> in, std::span<void* const> out, int64_t begin,
                                     int64_t end) const {
    const int64_t inner_rows = dims[dims.size() - 2];
    while (begin < end) {
        const int64_t n = std::min(end - begin, inner_rows - begin % inner_rows);
        call(in, out, begin, 0, n, dims.back());
        begin += n;
    }
}

void PointwiseKernel::Impl::run_block(std::span<const void* const> in, std::span<void* const> out, int64_t row,
                                      int64_t block) const {
    const int64_t first = block * kBlockColumns;
    call(in, out, row, first, 1, std::min(kBlockColumns, dims.back() - first));
}

PointwiseKernel::PointwiseKernel(const PointwiseProgram& program, std::span<const int64_t> output_shape,
                                 std::span<const PointwiseInput> inputs, std::span<const PointwiseType> output_types,
                                 Isa isa, int64_t row) {
    if (isa < Isa::avx2) fail(ErrorCode::unsupported, "pointwise: generated kernels need AVX2");
    if (inputs.size() != static_cast<size_t>(program.inputs) || output_types.size() != program.outputs.size())
        fail(ErrorCode::internal, "pointwise: inputs or outputs do not match the program");
    if (inputs.size() + output_types.size() > kMaxTensors)
        fail(ErrorCode::unsupported, "pointwise: more than " + std::to_string(kMaxTensors) + " tensors in one region",
             "split the region");

    // Dimensions of size 1 go; a dimension is merged into the one inside it when no tensor can tell the difference.
    auto impl = std::make_unique<Impl>();
    std::vector<std::vector<int64_t>> strides(inputs.size());
    std::vector<int64_t> dims;
    int64_t merged = 1;  // elements of all dims so far
    for (size_t d = output_shape.size(); d-- > 0;) {
        if (output_shape[d] == 1) continue;
        const bool crosses = merged == row;
        merged *= output_shape[d];
        const bool merge =
            !dims.empty() && !crosses && std::all_of(inputs.begin(), inputs.end(), [&](const PointwiseInput& input) {
                const size_t t = static_cast<size_t>(&input - inputs.data());
                return input.strides[d] == strides[t].back() * dims.back();
            });
        if (merge) {
            dims.back() *= output_shape[d];
            continue;
        }
        dims.push_back(output_shape[d]);
        for (size_t t = 0; t < inputs.size(); ++t) strides[t].push_back(inputs[t].strides[d]);
    }
    while (dims.size() < 2) {
        dims.push_back(1);
        for (auto& s : strides) s.push_back(0);
    }
    if (dims.size() > kMaxRank)
        fail(ErrorCode::unsupported, "pointwise: " + std::to_string(dims.size()) + " dimensions remain after merging");
    // Dense outputs: strides follow from the (still reversed) dims.
    std::vector<int64_t> dense(dims.size(), 1);
    for (size_t d = 1; d < dims.size(); ++d) dense[d] = dense[d - 1] * dims[d - 1];
    for (size_t o = 0; o < output_types.size(); ++o) strides.push_back(dense);

    std::vector<PointwiseCode::Tensor> tensors;
    for (size_t t = 0; t < strides.size(); ++t) {
        const PointwiseType type = t < inputs.size() ? inputs[t].type : output_types[t - inputs.size()];
        const int64_t inner = strides[t].front();
        if (inner != 0 && inner != 1)
            fail(ErrorCode::unsupported, "pointwise: an input's innermost stride is " + std::to_string(inner));
        const int64_t size = byte_size(type);
        for (int64_t& s : strides[t]) s *= size;
        tensors.push_back({type, inner == 1, strides[t][1]});
        std::reverse(strides[t].begin(), strides[t].end());
    }
    std::reverse(dims.begin(), dims.end());

    impl->inputs = inputs.size();
    impl->code = std::make_unique<PointwiseCode>(program, std::move(tensors), isa);
    impl->strides = std::move(strides);
    for (size_t d = 0; d + 1 < dims.size(); ++d) impl->rows *= dims[d];
    if (dims.back() >= 2 * kBlockColumns) impl->blocks = (dims.back() + kBlockColumns - 1) / kBlockColumns;
    if (dims.back() == 0) impl->rows = 0;
    impl->dims = std::move(dims);
    impl_ = std::move(impl);
}

PointwiseKernel::~PointwiseKernel() = default;
PointwiseKernel::PointwiseKernel(PointwiseKernel&&) noexcept = default;
PointwiseKernel& PointwiseKernel::operator=(PointwiseKernel&&) noexcept = default;

int64_t PointwiseKernel::items() const {
    return impl_->rows * impl_->blocks;
}

void PointwiseKernel::run_items(std::span<const void* const> inputs, std::span<void* const> outputs, int64_t begin,
                                int64_t end) const {
    const Impl& impl = *impl_;
    if (impl.blocks == 1) return impl.run_rows(inputs, outputs, begin, end);
    for (int64_t item = begin; item < end; ++item)
        impl.run_block(inputs, outputs, item / impl.blocks, item % impl.blocks);
}

void PointwiseKernel::run(std::span<const void* const> inputs, std::span<void* const> outputs, ThreadPool& pool,
                          int max_threads) const {
    const int64_t item_elements = impl_->blocks == 1 ? std::max<int64_t>(impl_->dims.back(), 1) : kBlockColumns;
    const int64_t grain = std::max<int64_t>(1, kTaskElements / item_elements);
    const int64_t tasks = (items() + grain - 1) / grain;
    if (tasks <= 1 || max_threads == 1) return run_items(inputs, outputs, 0, items());
    pool.parallel_for(tasks, max_threads, [&](int64_t task, int) {
        run_items(inputs, outputs, task * grain, std::min(items(), (task + 1) * grain));
    });
}

}  // namespace planish::cpu
