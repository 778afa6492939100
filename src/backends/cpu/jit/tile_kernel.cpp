// Frame and loops of a product's inner kernels.
#include "backends/cpu/jit/tile_kernel.hpp"

namespace planish::cpu {

using Xbyak::Reg64;

alignas(64) const int32_t TileKernel::kTailMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

TileKernel::TileKernel(Isa isa, const TileRegisters& tile, const Walk& walk, int c_element, bool narrow_avx512)
    : JitCode(4096),
      avx512_(isa >= Isa::avx512),
      vector_bytes_(vector_floats(isa) * 4),
      tile_(tile),
      epilogue_(*this, isa, narrow_avx512),
      walk_(walk),
      c_element_(c_element) {}

void TileKernel::generate() {
    const std::array<Reg64, 6> saved = {rbx, rbp, r12, r13, r14, r15};
    for (const Reg64& r : saved) push(r);
    sub(rsp, kFrame);
    load_mask();
    mov(a_, ptr[arg(offsetof(GemmKernelArgs, a))]);
    mov(c_, ptr[arg(offsetof(GemmKernelArgs, c))]);
    mov(prefetch_, ptr[arg(offsetof(GemmKernelArgs, prefetch))]);
    mov(rax, ptr[arg(offsetof(GemmKernelArgs, tensor_offset))]);
    mov(ptr[rsp + kSlotTensorOffset], rax);
    mov(rax, ptr[arg(offsetof(GemmKernelArgs, tiles))]);
    mov(ptr[rsp + kSlotTiles], rax);

    Xbyak::Label next_tile;
    align(16);
    L(next_tile);
    begin_sums();
    emit_products();
    finish_tile();
    mov(stride_, ptr[arg(offsetof(GemmKernelArgs, lda))]);
    imul(stride_, stride_, tile_.rows);
    add(a_, stride_);
    dec(qword[rsp + kSlotTiles]);
    jnz(next_tile, T_NEAR);

    vzeroupper();
    add(rsp, kFrame);
    for (size_t i = saved.size(); i-- > 0;) pop(saved[i]);
    ret();
    epilogue_.emit_tables();
}

EpilogueContext TileKernel::context() const {
    EpilogueContext c;
    c.operands = arg(offsetof(GemmKernelArgs, operands));
    c.column_offset = arg(offsetof(GemmKernelArgs, column_offset));
    c.tensor_offset = counter_;
    c.rows = rows();
    c.scratch = b_;
    c.tail_mask = mask_slot();
    c.tail_opmask = k1;
    c.element = c_element_;
    return c;
}

void TileKernel::point_rows_at_c() {
    mov(stride_, ptr[arg(offsetof(GemmKernelArgs, ldc))]);
    mov(row_[0], c_);
    rows().emit_spread(*this, tile_.rows, b_);
}

void TileKernel::emit_products() {
    mov(b_, ptr[arg(offsetof(GemmKernelArgs, b))]);
    mov(segment_, ptr[arg(offsetof(GemmKernelArgs, segment_offsets))]);
    mov(segments_left_, ptr[arg(offsetof(GemmKernelArgs, segments))]);
    mov(stride_, ptr[arg(offsetof(GemmKernelArgs, lda))]);

    Xbyak::Label next_segment, unrolled, remainder, single, done;
    begin_products();
    L(next_segment);
    mov(row_[0], ptr[segment_]);
    add(row_[0], a_);
    add(segment_, 8);
    rows().emit_spread(*this, tile_.rows, counter_);
    mov(counter_, ptr[arg(offsetof(GemmKernelArgs, k))]);
    sub(counter_, kUnroll + (walk_.overlap > 0 ? 1 : 0));
    jl(remainder, T_NEAR);
    align(32);
    L(unrolled);
    for (int u = 0; u < kUnroll; ++u) {
        for (int line = u; line < walk_.prefetch_lines; line += kUnroll) prefetcht1(ptr[prefetch_ + line * 64]);
        emit_step(u, 0);
    }
    if (walk_.prefetch_lines > 0) add(prefetch_, 64 * walk_.prefetch_lines);
    advance(kUnroll);
    sub(counter_, kUnroll);
    jge(unrolled, T_NEAR);
    L(remainder);
    add(counter_, kUnroll);
    jz(done, T_NEAR);
    L(single);
    emit_step(0, 0);
    advance(1);
    dec(counter_);
    jnz(single, T_NEAR);
    L(done);
    if (walk_.overlap > 0) {
        emit_step(0, -walk_.overlap);
        advance_b(1);
    }
    dec(segments_left_);
    jnz(next_segment, T_NEAR);
}

void TileKernel::advance(int steps) {
    for (int j = 0; 3 * j < tile_.rows; ++j) add(row_[static_cast<size_t>(j)], walk_.a_bytes * steps);
    advance_b(steps);
}

void TileKernel::advance_b(int steps) {
    add(b_, tile_.vectors * vector_bytes_ * steps);
}

void TileKernel::finish_tile() {
    begin_results();
    mov(stride_, ptr[arg(offsetof(GemmKernelArgs, ldc))]);
    mov(counter_, ptr[rsp + kSlotTensorOffset]);
    apply_post_ops();
    point_rows_at_c();
    for (int i = 0; i < tile_.rows; ++i)
        for (int v = 0; v < tile_.vectors; ++v) store_result(rows().at(i, c_bytes(v)), i, v);
    imul(stride_, stride_, tile_.rows);
    add(c_, stride_);
    add(ptr[rsp + kSlotTensorOffset], stride_);
}

}  // namespace planish::cpu
