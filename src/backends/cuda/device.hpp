// The GPU that code is compiled for: its architecture, and what a cost model wants to know about it.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace planish::cuda {

/// A compute capability. `specific`: the instructions that only this architecture has are used too ("sm_90a": wgmma,
/// TMA multicast, setmaxnreg), so the code runs on no other.
struct Arch {
    int major = 0, minor = 0;
    bool specific = false;

    friend auto operator<=>(const Arch&, const Arch&) = default;
    int number() const { return major * 10 + minor; }              ///< 90
    bool at_least(int sm) const { return number() >= sm; }         ///< at_least(80)
    bool is_hopper() const { return number() == 90 && specific; }  ///< wgmma and TMA may be used
    std::string name() const;                                      ///< "sm_90a"
    static std::optional<Arch> parse(std::string_view name);       ///< "sm_90a", "sm_80"
};

/// Bytes, hertz, and operations a second of the whole device.
struct DeviceProperties {
    std::string name;
    int multiprocessors = 0;
    int64_t memory_bytes = 0, l2_bytes = 0;
    int shared_per_multiprocessor = 0;
    int shared_per_block = 0;  ///< with opt-in; a launch may ask for as much dynamic shared memory
    int registers_per_multiprocessor = 65536, threads_per_multiprocessor = 2048;
    double clock = 0;
    double bandwidth = 0;     ///< of device memory
    double f32_flops = 0;     ///< on the ordinary units
    double tensor_flops = 0;  ///< f16 with f32 accumulation on tensor cores, dense; tf32 has half of it
};

/// The architectures that plans are built for, each with a GPU that stands for it where none is at hand.
struct KnownDevice {
    Arch arch;
    DeviceProperties properties;
};
std::span<const KnownDevice> known_devices();
/// The row for `arch`, else the nearest below it. Null: nothing that old is supported.
const KnownDevice* known_device(const Arch& arch);

}  // namespace planish::cuda
