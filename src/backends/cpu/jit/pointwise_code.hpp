// The generated part of a point-wise kernel: rows x columns over one program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "backends/cpu/jit/jit_code.hpp"
#include "backends/cpu/jit/pointwise.hpp"
#include "backends/cpu/jit/vector_math.hpp"

namespace planish::cpu {

constexpr int byte_size(PointwiseType type) {
    switch (type) {
        case PointwiseType::boolean:
        case PointwiseType::u8:
        case PointwiseType::i8:
            return 1;
        case PointwiseType::f32:
        case PointwiseType::i32:
            return 4;
        case PointwiseType::i64:
            return 8;
    }
    return 0;
}

/// Code for one program over tensors whose columns are contiguous or broadcast. Values live in vector registers, as
/// long as they last; then the value with the furthest next use is dropped (inputs and constants are loaded again) or
/// spilled. All outputs are stored after all loads of the same columns, so that they may overwrite inputs.
class PointwiseCode : private JitCode {
  public:
    struct Tensor {
        PointwiseType type;
        bool contiguous;     ///< along the columns; otherwise one element for the whole row
        int64_t row_stride;  ///< bytes
    };
    struct Args {
        const std::byte* const* pointers;  ///< first element of each input, then of each output
        int64_t rows, columns;
    };

    /// `tensors` are the program's inputs, then its outputs.
    PointwiseCode(const PointwiseProgram& program, std::vector<Tensor> tensors, Isa isa);

    void operator()(const Args& args) const { getCode<void (*)(const Args*)>()(&args); }

  private:
    struct Value {
        enum class Source : uint8_t { input, constant, computed } source = Source::computed;
        float constant = 0;
        std::vector<int> uses;  // op indices, ascending; ops.size() = stored as output
        int reg = -1;
        int slot = -1;  // stack slot of a spilled value
    };

    void analyse();
    void generate();
    void prologue();
    void epilogue();
    void body(bool masked);
    void bump_pointers();

    int next_use(const Value& value) const;
    bool dies(int value) const;
    int take_register();
    int get(int value);
    int result(int dst, std::initializer_list<int> reusable);
    template <typename F>
    void with_source(int value, F emit);
    void release_dead(std::initializer_list<int> values);

    void emit(const PointwiseOp& op);
    void emit_binary(const PointwiseOp& op);
    void emit_min_max(const PointwiseOp& op);
    void emit_compare(const PointwiseOp& op, int predicate);
    void truth_from_compare(int dst, int a, const Xbyak::Operand& b, int predicate);
    void emit_where(const PointwiseOp& op);
    void emit_unary(const PointwiseOp& op);
    void emit_pow(const PointwiseOp& op);

    Xbyak::Reg64 pointer(int tensor);
    Xbyak::Address at(int tensor, int element_offset = 0);
    void load(int reg, int tensor);
    void load_broadcast(int reg, int tensor);
    void load_contiguous(int reg, int tensor);
    void load_staged(int reg, int tensor);
    void store(int reg, int tensor);
    void store_bytes(int reg, int tensor);
    void hoist_broadcasts();

    Xbyak::Xmm v(int index) const { return math_.reg(index); }
    Xbyak::Address stack(int64_t offset) { return ptr[rsp + static_cast<int>(offset)]; }

    const PointwiseProgram program_;
    std::vector<Tensor> tensors_;
    bool avx512_;
    VectorMathEmitter math_;
    Xbyak::Label tail_mask_;
    std::vector<Value> values_;
    std::vector<int> temps_;
    std::vector<int> free_;
    std::vector<int> holder_;  // register -> value, or -1
    std::vector<int> hoisted_;
    std::vector<int> pinned_;
    int position_ = 0;
    bool masked_ = false;
    int mask_register_ = -1;
    int slots_ = 0;
    int frame_rows_ = 0, frame_tail_ = 0, frame_rsp_ = 0, frame_stage_ = 0, frame_pointers_ = 0;
};

}  // namespace planish::cpu
