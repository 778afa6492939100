// What the generators of a product's inner kernels share: registers, frame, the walk along K and from tile to tile.
#pragma once

#include <xbyak/xbyak.h>

#include <array>
#include <cstddef>

#include "backends/cpu/jit/epilogue.hpp"
#include "backends/cpu/jit/gemm_kernel.hpp"
#include "backends/cpu/jit/jit_code.hpp"

namespace planish::cpu {

/// Code of type GemmKernel. A generator says what a step of K does, where sums begin and what becomes of them.
class TileKernel : public JitCode {
  protected:
    /// How far a step of K moves, and the last one of a segment of A begins early.
    struct Walk {
        int a_bytes = 4;
        int overlap = 0;
        int prefetch_lines = 0;  ///< for every kPrefetchSteps steps
    };

    TileKernel(Isa isa, const TileRegisters& tile, const Walk& walk, int c_element, bool narrow_avx512 = false);

    /// To be called once, by the generator's constructor.
    void generate();

    /// For the valid lanes of a row's last vector: k1 or the address in kSlotMask (set_tail_mask).
    virtual void load_mask() = 0;
    /// Points at C (point_rows_at_c) and fills the sums.
    virtual void begin_sums() = 0;
    virtual void begin_products() {}
    /// sum(i, v) += A(i, step) * B(step, v), where A lies `displacement` bytes further.
    virtual void emit_step(int step, int displacement) = 0;
    virtual void advance_b(int steps);
    /// Before the post-ops, after them, and a vector of the results.
    virtual void begin_results() {}
    virtual void apply_post_ops() = 0;
    virtual void store_result(const Xbyak::RegExp& address, int row, int vector) = 0;

    Xbyak::Xmm reg(int r) const { return avx512_ ? Xbyak::Xmm(Xbyak::Zmm(r)) : Xbyak::Xmm(Xbyak::Ymm(r)); }
    Xbyak::RegExp arg(size_t offset) const { return args_ + static_cast<int>(offset); }
    Xbyak::RegExp mask_slot() const { return rsp + kSlotMask; }
    EpilogueContext context() const;
    RowPointers rows() const { return {row_, stride_}; }
    /// Bytes from a row of C to its vector.
    int c_bytes(int vector) const { return vector * vector_bytes_ / 4 * c_element_; }
    void point_rows_at_c();

    /// Lanes of 8 int32 whose first `tail` are set begin at kTailMasks + 8 - tail.
    static const int32_t kTailMasks[16];

    const bool avx512_;
    const int vector_bytes_;
    const TileRegisters tile_;
    EpilogueEmitter epilogue_;

    const Xbyak::Reg64 args_ = rdi;
    const Xbyak::Reg64 stride_ = rsi;
    const std::array<Xbyak::Reg64, 5> row_ = {r8, r9, r10, r11, r12};
    const Xbyak::Reg64 b_ = rax;        // position in the panel; scratch outside the products
    const Xbyak::Reg64 counter_ = rcx;  // steps left in the segment; the tensor offset in the epilogue
    const Xbyak::Reg64 segments_left_ = rdx;
    const Xbyak::Reg64 segment_ = r13;
    const Xbyak::Reg64 prefetch_ = r14;
    const Xbyak::Reg64 a_ = rbx;  // the tile's first row
    const Xbyak::Reg64 c_ = rbp;

  private:
    static constexpr int kUnroll = kPrefetchSteps;
    // Stack slots.
    static constexpr int kSlotTensorOffset = 0, kSlotTiles = 8, kSlotMask = 16, kFrame = 24;

    void emit_products();
    void advance(int steps);
    void finish_tile();

    const Walk walk_;
    const int c_element_;  // bytes
};

}  // namespace planish::cpu
