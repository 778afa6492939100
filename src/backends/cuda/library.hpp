// The libraries of CUDA, opened at run time: where each was found, and the functions that Planish calls.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/driver.hpp"

namespace planish::cuda {

/// One library, as `planish doctor` shows it.
struct LibraryReport {
    std::string name;     // "driver", "nvrtc", "cublasLt", "cudnn"
    std::string path;     // where it was found; empty: nowhere
    std::string version;  // "13.0"
    std::string problem;  // why it cannot be used; empty: it can
};

struct Nvrtc {
    using Program = struct _nvrtcProgram*;
    int (*Version)(int* major, int* minor);
    const char* (*GetErrorString)(int);
    int (*GetNumSupportedArchs)(int*);
    int (*GetSupportedArchs)(int*);
    int (*CreateProgram)(Program*, const char* source, const char* name, int headers, const char* const* contents,
                         const char* const* names);
    int (*DestroyProgram)(Program*);
    int (*CompileProgram)(Program, int options, const char* const*);
    int (*GetProgramLogSize)(Program, size_t*);
    int (*GetProgramLog)(Program, char*);
    int (*GetCUBINSize)(Program, size_t*);
    int (*GetCUBIN)(Program, char*);
    int (*GetPTXSize)(Program, size_t*);
    int (*GetPTX)(Program, char*);

    std::string version;            // "13.0"
    std::vector<int> archs;         // compute capabilities that it compiles for, ascending
    std::filesystem::path include;  // the folder of cuda_fp16.h; empty: not found
};

/// Null where it is not there, is too old or does not start (no GPU): library_reports() says which. Opened on first
/// use, once for the process.
const Driver* driver();
const Nvrtc* nvrtc();
/// All four, opened if need be.
std::vector<LibraryReport> library_reports();
/// Why driver() is null: one sentence.
std::string driver_problem();
/// The same for nvrtc(), and what to do about it.
std::string nvrtc_problem();

/// Puts `table` in the driver's place: tests of what runs without a GPU. Null: the real one again.
void set_driver(const Driver* table);

/// Folders to look in before the usual ones: a Python environment's site-packages/nvidia.
void add_library_folder(const std::filesystem::path& folder);

}  // namespace planish::cuda
