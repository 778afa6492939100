// What the tests of generated products share: data, a float64 sum with its error bound, and post-ops carried along.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "cpu/post_op_reference.hpp"

namespace planish::cpu::testing {

class AlignedFloats {
  public:
    explicit AlignedFloats(int64_t count)
        : floats_(static_cast<float*>(::operator new(static_cast<size_t>(count + 16) * sizeof(float), kAlignment))) {
        std::fill(floats_, floats_ + count + 16, std::numeric_limits<float>::quiet_NaN());
    }
    ~AlignedFloats() { ::operator delete(floats_, kAlignment); }
    AlignedFloats(const AlignedFloats&) = delete;
    AlignedFloats& operator=(const AlignedFloats&) = delete;
    float* data() { return floats_; }

  private:
    static constexpr std::align_val_t kAlignment{64};
    float* floats_;
};

/// Numbers that end where an inaccessible page begins: reading or writing past the end faults.
template <typename T>
class Guarded {
  public:
    explicit Guarded(std::span<const T> values) {
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t bytes = values.size() * sizeof(T), data_bytes = (bytes + page - 1) / page * page;
        mapped_ = data_bytes + page;
        base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (mprotect(base_ + data_bytes, page, PROT_NONE) != 0) throw std::bad_alloc();
        values_ = reinterpret_cast<T*>(base_ + data_bytes - bytes);
        std::copy(values.begin(), values.end(), values_);
    }
    ~Guarded() { munmap(base_, mapped_); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    T* data() { return values_; }

  private:
    char* base_;
    size_t mapped_;
    T* values_;
};
using GuardedFloats = Guarded<float>;

inline std::vector<float> random_floats(int64_t count, uint32_t seed) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> floats(static_cast<size_t>(count));
    for (float& f : floats) f = uniform(generator);
    return floats;
}

/// One ISA of each code generator that this machine can run.
inline std::vector<Isa> supported_isas() {
    std::vector<Isa> isas;
    for (const Isa isa : {Isa::avx2, Isa::avx512}) {
        if (isa <= hardware_isa()) isas.push_back(isa);
    }
    return isas;
}

/// A sum of products in float64 and how far a float32 sum of the same products, in any order, may lie from it:
/// (terms + 1) * eps/2 * sum |a||b|, carried through post-ops by how much they stretch that interval.
class Expected {
  public:
    Expected() = default;
    /// A value whose error bound another algorithm has.
    Expected(double value, double tolerance) : value_(value), tolerance_(tolerance) {}

    void add_product(float a, float b) {
        value_ += static_cast<double>(a) * b;
        magnitude_ += std::fabs(static_cast<double>(a) * b);
        ++terms_;
        tolerance_ = (terms_ + 1) * kEps / 2 * magnitude_;
    }

    void apply(const PostOps& post_ops, std::span<const float* const> operands, int64_t column, int64_t element) {
        for (const PostOp& op : post_ops) {
            const auto f = [&](double x) { return apply_reference(op, x, operands, column, element); };
            const double y = f(value_);
            const double stretched =
                std::max(std::fabs(f(value_ + tolerance_) - y), std::fabs(f(value_ - tolerance_) - y));
            // Own rounding of a post-op: some units in the last place of its largest intermediate value.
            const double intermediate = std::max({std::fabs(y), std::fabs(value_), std::fabs(double{op.beta}),
                                                  op.bytes ? 255 * std::fabs(double{op.alpha}) : 0.0});
            tolerance_ = 1.5 * stretched + 8 * kEps * intermediate;
            if (op.kind == PostOp::Kind::gelu_near) tolerance_ += kGeluNearError;
            value_ = y;
        }
    }

    double value() const { return value_; }
    double tolerance() const { return tolerance_; }
    bool matches(float got) const { return std::fabs(static_cast<double>(got) - value_) <= tolerance_; }
    std::string text() const {
        return ": expected " + std::to_string(value_) + " within " + std::to_string(tolerance_);
    }

  private:
    static constexpr double kEps = std::numeric_limits<float>::epsilon();
    double value_ = 0, magnitude_ = 0, tolerance_ = 0;
    int64_t terms_ = 0;
};

/// For StrassenPlan. Elements of A and B are at most 1, so those of S1 to S4 are at most 2, 3, 2, 4, and so those of T1
/// to T4: the products over K/2 that make an element of C add up to 18 K/2 at most. Beside their sums of K/2 terms,
/// both factors are rounded up to three times each, and a product is added to C at most 4 times, and once for each
/// chunk of K (no more than k/128).
inline double strassen_tolerance(int64_t k) {
    const auto terms = static_cast<double>(k / 2 + 6 + 4 + k / 128 + 1);
    return terms * std::numeric_limits<float>::epsilon() / 2 * 9 * static_cast<double>(k);
}

}  // namespace planish::cpu::testing
