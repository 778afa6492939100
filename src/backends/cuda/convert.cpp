// Generates the conversion kernels.
#include "backends/cuda/convert.hpp"

#include <algorithm>

#include "backends/cuda/kernels/convert_params.h"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

constexpr int kThreads = 256;

bool is_convertible(DType dtype) {
    return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

unsigned blocks(int64_t count, int64_t each) {
    return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace

CudaKernel make_convert_kernel(const Dims& dims, Format from, Format to) {
    const bool same = from.dtype == to.dtype;
    if (!same && (!is_convertible(from.dtype) || !is_convertible(to.dtype)))
        fail(ErrorCode::internal, "no conversion from " + std::string(to_string(from.dtype)) + " to " +
                                      std::string(to_string(to.dtype)) + " on a GPU");
    int64_t count = element_count(dims);
    const bool transposes = from.layout != to.layout && !layouts_coincide(dims);
    // A plain copy is one of bytes, packed types included.
    if (same && !transposes) {
        count = byte_size(from.dtype, count);
        from.dtype = to.dtype = count % 4 == 0 ? DType::u32 : DType::u8;
        count = count % 4 == 0 ? count / 4 : count;
    }
    ConvertParams params{nullptr, nullptr, count, 0, 0};
    std::string_view function = "convert_elements";
    // Few blocks that stay: a copy is bound by memory, not by how many threads there are.
    std::array<unsigned, 3> grid{std::clamp(blocks(count, int64_t{kThreads} * 8), 1u, 2048u), 1, 1};
    if (transposes) {
        const int64_t channels = dims[1], spatial = count / std::max<int64_t>(1, dims[0] * dims[1]);
        params.rows = from.layout == Layout::plain ? channels : spatial;
        params.columns = from.layout == Layout::plain ? spatial : channels;
        const auto images = static_cast<unsigned>(dims[0]);
        if (params.rows <= 16) {
            function = "convert_few_rows";
            grid = {blocks(params.columns, kThreads), 1, images};
        } else {
            function = "convert_tiles";
            grid = {blocks(params.columns, 32), blocks(params.rows, 32), images};
        }
    }
    const std::string from_type(same ? moved_type(byte_size(from.dtype, 1)) : cuda_type(from.dtype)),
        to_type(same ? moved_type(byte_size(to.dtype, 1)) : cuda_type(to.dtype));
    KernelSpec spec;
    spec.name = std::string(function) + "_" +
                (same ? "b" + std::to_string(bit_width(from.dtype))
                      : std::string(short_name(from.dtype)) + "_" + std::string(short_name(to.dtype)));
    spec.threads = kThreads;
    spec.max_registers = 64;
    if (!same) spec.source += "#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n";
    spec.source += "#include \"planish/convert.cuh\"\nextern \"C\" __global__ __launch_bounds__(" +
                   std::to_string(kThreads) + ") void " + spec.name +
                   "(const __grid_constant__ ConvertParams p) {\n    planish::" + std::string(function) + "<" +
                   from_type + ", " + to_type + ">(p);\n}\n";
    CudaKernel kernel;
    kernel.name = spec.name;
    if (count > 0)
        kernel.launches.push_back(make_launch(std::move(spec), grid, params)
                                      .bind(offsetof(ConvertParams, in), input(0))
                                      .bind(offsetof(ConvertParams, out), output(0)));
    return kernel;
}

}  // namespace planish::cuda
