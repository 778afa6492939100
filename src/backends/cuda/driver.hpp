// The CUDA driver's interface, declared by hand: building Planish needs no CUDA headers, running it without a GPU no
// driver. Names, values and layouts are those of cuda.h 13.0; every function exists since 12.3.
#pragma once

#include <cstddef>
#include <cstdint>

namespace planish::cuda {

using DevicePointer = uint64_t;

using CUresult = int;
using CUdevice = int;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphNode = struct CUgraphNode_st*;
using CUgraphExec = struct CUgraphExec_st*;

enum : CUresult { kSuccess = 0, kErrorInvalidValue = 1, kErrorOutOfMemory = 2, kErrorNoDevice = 100 };

enum class DeviceAttribute : int {
    shared_per_block = 8,
    clock_khz = 13,
    multiprocessors = 16,
    memory_clock_khz = 36,
    memory_bus_bits = 37,
    l2_bytes = 38,
    threads_per_multiprocessor = 39,
    major = 75,
    minor = 76,
    shared_per_multiprocessor = 81,
    registers_per_multiprocessor = 82,
    shared_per_block_optin = 97,
};
enum class FunctionAttribute : int {
    local_bytes = 3,
    registers = 4,
    max_dynamic_shared = 8,
    non_portable_cluster = 14
};
enum class MemoryType : unsigned { host = 1, device = 2, unified = 4 };
constexpr int kPointerMemoryType = 2, kPointerDeviceOrdinal = 9;
constexpr unsigned kStreamDefault = 0, kEventDefault = 0, kEventRecordExternal = 1;
constexpr int kCaptureRelaxed = 2;

struct alignas(8) CUlaunchAttribute {
    enum Id : int { cluster_dimension = 4, programmatic_stream_serialization = 6 } id;
    int padding;
    union {
        char bytes[64];
        unsigned cluster[3];
        int enabled;
    } value;
};
static_assert(sizeof(CUlaunchAttribute) == 72);

struct CUlaunchConfig {
    unsigned grid[3], block[3], shared_bytes;
    CUstream stream;
    CUlaunchAttribute* attributes;
    unsigned attribute_count;
};
static_assert(sizeof(CUlaunchConfig) == 56);

struct CUkernelNodeParams {
    CUfunction function;
    unsigned grid[3], block[3], shared_bytes;
    void** params;
    void** extra;
    void* kernel;
    CUcontext context;
};
static_assert(sizeof(CUkernelNodeParams) == 72);

struct alignas(64) CUtensorMap {
    uint64_t opaque[16];
};

/// The functions that Planish calls, by the name in cuda.h without "cu" and version.
struct Driver {
    CUresult (*Init)(unsigned flags);
    CUresult (*DriverGetVersion)(int*);
    CUresult (*GetErrorName)(CUresult, const char**);
    CUresult (*GetErrorString)(CUresult, const char**);
    CUresult (*DeviceGetCount)(int*);
    CUresult (*DeviceGet)(CUdevice*, int ordinal);
    CUresult (*DeviceGetName)(char*, int length, CUdevice);
    CUresult (*DeviceTotalMem)(size_t*, CUdevice);
    CUresult (*DeviceGetAttribute)(int*, DeviceAttribute, CUdevice);
    CUresult (*DevicePrimaryCtxRetain)(CUcontext*, CUdevice);
    CUresult (*CtxPushCurrent)(CUcontext);
    CUresult (*CtxPopCurrent)(CUcontext*);
    CUresult (*MemGetInfo)(size_t* free, size_t* total);
    CUresult (*MemAlloc)(DevicePointer*, size_t);
    CUresult (*MemFree)(DevicePointer);
    CUresult (*MemHostAlloc)(void**, size_t, unsigned flags);
    CUresult (*MemFreeHost)(void*);
    CUresult (*MemcpyHtoDAsync)(DevicePointer, const void*, size_t, CUstream);
    CUresult (*MemcpyDtoHAsync)(void*, DevicePointer, size_t, CUstream);
    CUresult (*MemcpyDtoDAsync)(DevicePointer, DevicePointer, size_t, CUstream);
    CUresult (*MemsetD8Async)(DevicePointer, unsigned char, size_t, CUstream);
    CUresult (*PointerGetAttribute)(void*, int attribute, DevicePointer);
    CUresult (*StreamCreate)(CUstream*, unsigned flags);
    CUresult (*StreamDestroy)(CUstream);
    CUresult (*StreamSynchronize)(CUstream);
    CUresult (*StreamBeginCapture)(CUstream, int mode);
    CUresult (*StreamGetCaptureInfo)(CUstream, int* status, uint64_t* id, CUgraph*, const CUgraphNode** dependencies,
                                     const void** edges, size_t* count);
    CUresult (*StreamEndCapture)(CUstream, CUgraph*);
    CUresult (*EventCreate)(CUevent*, unsigned flags);
    CUresult (*EventDestroy)(CUevent);
    CUresult (*EventRecord)(CUevent, CUstream);
    CUresult (*EventRecordWithFlags)(CUevent, CUstream, unsigned flags);
    CUresult (*EventSynchronize)(CUevent);
    CUresult (*EventElapsedTime)(float* milliseconds, CUevent, CUevent);
    CUresult (*ModuleLoadData)(CUmodule*, const void*);
    CUresult (*ModuleUnload)(CUmodule);
    CUresult (*ModuleGetFunction)(CUfunction*, CUmodule, const char*);
    CUresult (*FuncGetAttribute)(int*, FunctionAttribute, CUfunction);
    CUresult (*FuncSetAttribute)(CUfunction, FunctionAttribute, int);
    CUresult (*LaunchKernelEx)(const CUlaunchConfig*, CUfunction, void** params, void** extra);
    CUresult (*GraphInstantiate)(CUgraphExec*, CUgraph, unsigned long long flags);
    CUresult (*GraphLaunch)(CUgraphExec, CUstream);
    CUresult (*GraphExecKernelNodeSetParams)(CUgraphExec, CUgraphNode, const CUkernelNodeParams*);
    CUresult (*GraphExecDestroy)(CUgraphExec);
    CUresult (*GraphDestroy)(CUgraph);
    CUresult (*TensorMapEncodeTiled)(CUtensorMap*, int dtype, uint32_t rank, void* address, const uint64_t* dims,
                                     const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                                     int interleave, int swizzle, int l2_promotion, int fill);
    CUresult (*TensorMapEncodeIm2col)(CUtensorMap*, int dtype, uint32_t rank, void* address, const uint64_t* dims,
                                      const uint64_t* strides, const int* lower, const int* upper, uint32_t channels,
                                      uint32_t pixels, const uint32_t* element_strides, int interleave, int swizzle,
                                      int l2_promotion, int fill);
};

}  // namespace planish::cuda
