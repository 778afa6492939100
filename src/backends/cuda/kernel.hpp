// What an implementation hands over: sources to compile, launches with addresses to fill in, packed constants.
//
// Nothing here touches a GPU: a CudaKernel is data, made on any machine. Addresses are unknown until a context exists;
// a launch names the places in its parameters where they belong.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "planish/tensor.hpp"

namespace planish::cuda {

/// One translation unit with one kernel. It may include "planish/NAME.cuh" and "planish/NAME_params.h" of
/// src/backends/cuda/kernels/ and nothing else but cuda_fp16.h and cuda_bf16.h. Compiled as C++17 without fast math;
/// PLANISH_PDL is defined where the architecture has programmatic dependent launch (sm_90 and later).
/// Equal source and architecture make one cubin.
struct KernelSpec {
    std::string name;  ///< grammar: gemm_f16_mma_128x128x32_s4; also the extern "C" entry point
    std::string source;
    int threads = 0;        ///< in a block, all in x
    int shared_bytes = 0;   ///< dynamic shared memory
    int cluster = 1;        ///< blocks in a cluster, along x
    int max_registers = 0;  ///< stated bound for a thread: tests check it, and that nothing spills. 0: not stated
};

/// An address in device memory that is known when a context is made.
struct Operand {
    enum class Kind : uint8_t {
        input,      ///< of the region's node, in the format that compile() was given
        output,     ///< of the region's node
        workspace,  ///< of the kernel: shared with other steps, content undefined when the step begins
        semaphore,  ///< of the kernel: zero before the first run; each run leaves it zero
        constant,   ///< CudaKernel::constants
    } kind = Kind::input;
    int index = 0;       ///< which input, output or constant
    int64_t offset = 0;  ///< in bytes
};

/// What cuTensorMapEncodeTiled or cuTensorMapEncodeIm2col is told. Axes are innermost first; strides in bytes, of axes
/// 1 and up (the innermost axis is dense).
struct TensorMapDesc {
    enum class Mode : uint8_t { tiled, im2col } mode = Mode::tiled;
    enum class Swizzle : uint8_t { none, bytes32, bytes64, bytes128 } swizzle = Swizzle::bytes128;
    DType dtype = DType::f16;
    int rank = 0;
    std::array<int64_t, 5> dims{};
    std::array<int64_t, 4> strides{};
    std::array<int, 5> box{};  ///< tiled
    std::array<int, 5> element_strides{1, 1, 1, 1, 1};
    std::array<int, 3> lower_corner{}, upper_corner{};  ///< im2col: of the pixels, w h d
    int channels = 0, pixels = 0;                       ///< im2col: of one load
    int l2_promotion = 256;                             ///< bytes: 0, 64, 128 or 256
};

/// Where in a launch's parameters an address (8 bytes) or an encoded CUtensorMap (128 bytes, 64-byte aligned) goes.
struct AddressPatch {
    int params_offset = 0;
    Operand operand;
};
struct TensorMapPatch {
    int params_offset = 0;
    Operand operand;
    TensorMapDesc desc;
};

/// One launch. The kernel's only parameter is a POD struct, `params` its bytes with nulls where addresses belong.
struct Launch {
    KernelSpec spec;
    std::array<unsigned, 3> grid{1, 1, 1};
    std::vector<std::byte> params;
    std::vector<AddressPatch> addresses;
    std::vector<TensorMapPatch> maps;
    /// The kernel calls planish::pdl_wait() in every thread before it touches memory that other kernels write (or
    /// read, where it writes): it may be launched while the kernel before it still runs.
    bool pdl = false;

    /// `offset` = offsetof(Params, member)
    Launch& bind(size_t offset, Operand operand) {
        addresses.push_back({static_cast<int>(offset), operand});
        return *this;
    }
    Launch& bind(size_t offset, Operand operand, const TensorMapDesc& desc) {
        maps.push_back({static_cast<int>(offset), operand, desc});
        return *this;
    }
};

template <typename Params>
Launch make_launch(KernelSpec spec, std::array<unsigned, 3> grid, const Params& params) {
    static_assert(std::is_trivially_copyable_v<Params> && sizeof(Params) <= 4096);
    Launch launch{std::move(spec), grid, {}, {}, {}};
    launch.params.resize(sizeof(Params));
    std::memcpy(launch.params.data(), &params, sizeof(Params));
    return launch;
}

inline Operand input(int index, int64_t offset = 0) {
    return {Operand::Kind::input, index, offset};
}
inline Operand output(int index = 0, int64_t offset = 0) {
    return {Operand::Kind::output, index, offset};
}
inline Operand workspace(int64_t offset = 0) {
    return {Operand::Kind::workspace, 0, offset};
}
inline Operand semaphore(int64_t offset = 0) {
    return {Operand::Kind::semaphore, 0, offset};
}
inline Operand constant(int index, int64_t offset = 0) {
    return {Operand::Kind::constant, index, offset};
}

/// One step of a program. Its launches run in order.
struct CudaKernel {
    std::string name;  ///< shown by profiles: usually that of the launch that does the work
    std::vector<Launch> launches;
    std::vector<Tensor> constants;  ///< packed on the host (Environment::packed), uploaded once for an engine
    int64_t workspace = 0;          ///< bytes, 256-byte aligned
    int64_t semaphores = 0;         ///< bytes, 256-byte aligned, kept apart from the workspace for each context
    int64_t flops = 0;
    std::vector<int> in_place;  ///< inputs whose memory output 0 may take over, when the formats agree
    std::vector<int> consumed;  ///< constant inputs that were packed: no launch binds them
    /// Instead of launches: computed on the CPU, from and to plain memory in the values' own types, in node order.
    std::function<void(std::span<const std::byte* const> in, std::span<std::byte* const> out)> host;

    int add_constant(Tensor tensor) {
        constants.push_back(std::move(tensor));
        return static_cast<int>(constants.size()) - 1;
    }
};

}  // namespace planish::cuda
