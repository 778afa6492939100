// A point-wise expression over broadcast tensors, compiled to one loop nest.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// One instruction of an expression; every value is float32 in a register. Truth values are 0 and 1.
struct PointwiseOp {
    enum class Kind : uint8_t {
        constant,  ///< dst = alpha
        unary,     ///< dst = function(a), with alpha and beta as in PostOp
        add,
        sub,
        mul,
        div,
        min,  ///< NaN if either is
        max,  ///< NaN if either is
        pow,
        equal,
        not_equal,
        less,
        less_equal,
        greater,
        greater_equal,
        logical_and,  ///< of truth values, as the other logical operations
        logical_or,
        logical_xor,
        logical_not,
        where,  ///< dst = a != 0 ? b : c
        is_nan,
        is_inf,
    };

    Kind kind = Kind::unary;
    int dst = -1;
    int a = -1, b = -1, c = -1;
    float alpha = 0, beta = 0;
    PostOp::Kind function = PostOp::Kind::relu;  ///< of a `unary`; a kind without operand
};

/// Values are numbered: 0 .. inputs-1 are the inputs, each op defines one more, once, before any use.
struct PointwiseProgram {
    int inputs = 0;
    std::vector<PointwiseOp> ops;
    std::vector<int> outputs;
};

/// Element types in memory. Loads convert to float32 (rounding to nearest); stores truncate towards zero, `boolean`
/// stores value != 0.
enum class PointwiseType : uint8_t { f32, boolean, u8, i8, i32, i64 };

struct PointwiseInput {
    PointwiseType type = PointwiseType::f32;
    std::vector<int64_t> strides;  ///< in elements, one for each output dimension; 0 where it is broadcast
};

/// Strides of a dense row-major tensor of `shape`, broadcast to `output_shape` by the ONNX (NumPy) rule.
std::vector<int64_t> broadcast_strides(std::span<const int64_t> shape, std::span<const int64_t> output_shape);

/// Evaluates a program at every element of dense row-major outputs of one shape. Immutable once built; any number of
/// threads may run it at once. An output may be the same memory as an input of the same type and layout.
class PointwiseKernel {
  public:
    /// Throws `unsupported` when, after neighbouring dimensions are merged, an input's innermost stride is not 0 or
    /// 1, or when more than 6 dimensions remain. `output_types` has one entry for each program output: f32, boolean,
    /// u8 or i32. `isa` must be avx2 or above. `row`: the elements of trailing dimensions that no item crosses, so
    /// that each `row` elements of an output are items / rows whole items; 0: none.
    PointwiseKernel(const PointwiseProgram& program, std::span<const int64_t> output_shape,
                    std::span<const PointwiseInput> inputs, std::span<const PointwiseType> output_types, Isa isa,
                    int64_t row = 0);
    ~PointwiseKernel();
    PointwiseKernel(PointwiseKernel&&) noexcept;
    PointwiseKernel& operator=(PointwiseKernel&&) noexcept;

    void run(std::span<const void* const> inputs, std::span<void* const> outputs, ThreadPool& pool,
             int max_threads) const;

    /// The work is cut into `items()` independent pieces; this runs [begin, end) of them on the calling thread.
    /// Results do not depend on the cut.
    void run_items(std::span<const void* const> inputs, std::span<void* const> outputs, int64_t begin,
                   int64_t end) const;
    int64_t items() const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

}  // namespace planish::cpu
