// The architectures that plans are built for.
#include "backends/cuda/device.hpp"

#include <charconv>

namespace planish::cuda {
namespace {

constexpr int64_t kMiB = 1 << 20, kGB = 1'000'000'000;
constexpr int kKiB = 1 << 10;

// From the vendor's architecture whitepapers: the products named, at boost clock. The columns are those of
// DeviceProperties, in order.
const KnownDevice kDevices[] = {
    {{8, 0, false},
     {"A100", 108, 80 * kGB, 40 * kMiB, 164 * kKiB, 163 * kKiB, 65536, 2048, 1.41e9, 2.04e12, 19.5e12, 312e12}},
    {{8, 6, false},
     {"GeForce RTX 3090", 82, 24 * kGB, 6 * kMiB, 100 * kKiB, 99 * kKiB, 65536, 1536, 1.70e9, 0.94e12, 35.6e12, 71e12}},
    {{8, 9, false},
     {"GeForce RTX 4090", 128, 24 * kGB, 72 * kMiB, 100 * kKiB, 99 * kKiB, 65536, 1536, 2.52e9, 1.01e12, 82.6e12,
      165e12}},
    {{9, 0, true},
     {"H200", 132, 141 * kGB, 50 * kMiB, 228 * kKiB, 227 * kKiB, 65536, 2048, 1.98e9, 4.8e12, 67e12, 989e12}},
    {{10, 0, false},
     {"B200", 148, 180 * kGB, 126 * kMiB, 228 * kKiB, 227 * kKiB, 65536, 2048, 1.97e9, 8.0e12, 75e12, 2250e12}},
    {{12, 0, false},
     {"GeForce RTX 5090", 170, 32 * kGB, 96 * kMiB, 100 * kKiB, 99 * kKiB, 65536, 1536, 2.41e9, 1.79e12, 104.8e12,
      209e12}},
};

}  // namespace

std::string Arch::name() const {
    return "sm_" + std::to_string(number()) + (specific ? "a" : "");
}

std::optional<Arch> Arch::parse(std::string_view name) {
    if (!name.starts_with("sm_")) return std::nullopt;
    name.remove_prefix(3);
    int number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    const std::string_view rest(end, static_cast<size_t>(name.data() + name.size() - end));
    if (error != std::errc() || number < 50 || number > 999 || (!rest.empty() && rest != "a")) return std::nullopt;
    return Arch{number / 10, number % 10, rest == "a"};
}

std::span<const KnownDevice> known_devices() {
    return kDevices;
}

const KnownDevice* known_device(const Arch& arch) {
    const KnownDevice* best = nullptr;
    for (const KnownDevice& device : kDevices)
        if (device.arch.number() <= arch.number()) best = &device;
    return best;
}

}  // namespace planish::cuda
