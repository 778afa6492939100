// Generator and process-wide cache of the integer tile kernels.
//
// With VNNI a step is one vpdpbusd for each accumulator. Without, bytes are widened to 16 bits: of the four bytes in a
// 32-bit lane the even ones (0, 2) make one vector of words and the odd ones (1, 3) another, and vpmaddwd of either
// adds two products into the same lane: exact, since 2 * 255 * 128 fits 32 bits. (vpmaddubsw would saturate at 16.)
#include "backends/cpu/jit/gemm_i8_kernel.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "backends/cpu/jit/epilogue.hpp"
#include "backends/cpu/jit/jit_code.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

using Xbyak::Reg64;
using Xbyak::RegExp;
using Xbyak::Xmm;
using Xbyak::Ymm;
using Xbyak::Zmm;

// Lanes of 8 int32 whose first `tail` are set begin at kTailMasks + 8 - tail.
alignas(64) constexpr int32_t kTailMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

class GemmI8KernelGenerator : public JitCode {
  public:
    explicit GemmI8KernelGenerator(const GemmI8KernelKey& key)
        : JitCode(4096),
          key_(key),
          avx512_(key.isa >= Isa::avx512),
          vector_bytes_(vector_floats(key.isa) * 4),
          element_(key.result.bytes ? 1 : 4),
          tile_{key.rows, key.vectors, key.tail != 0, 0, key.rows * key.vectors, key.tail},
          epilogue_(*this, key.isa, key.vnni) {
        generate();
        publish(kernel_name(key));
    }

  private:
    static constexpr int kUnroll = kPrefetchSteps;
    // Stack slots.
    static constexpr int kSlotTensorOffset = 0, kSlotTiles = 8, kSlotMask = 16, kFrame = 24;

    Xmm reg(int r) const { return avx512_ ? Xmm(Zmm(r)) : Xmm(Ymm(r)); }
    RegExp arg(size_t offset) const { return args_ + static_cast<int>(offset); }
    int tail(int v) const { return v + 1 == tile_.vectors ? key_.tail : 0; }

    void generate() {
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

    void load_mask() {
        if (key_.tail == 0) return;
        if (avx512_) {
            mov(eax, (1 << key_.tail) - 1);
            kmovw(k1, eax);
        } else {
            mov(rax, reinterpret_cast<size_t>(kTailMasks + 8 - key_.tail));
            mov(ptr[rsp + kSlotMask], rax);
        }
    }

    EpilogueContext context() const {
        EpilogueContext c;
        c.operands = arg(offsetof(GemmKernelArgs, operands));
        c.column_offset = arg(offsetof(GemmKernelArgs, column_offset));
        c.tensor_offset = counter_;
        c.rows = {row_, stride_};
        c.scratch = b_;
        c.tail_mask = rsp + kSlotMask;
        c.tail_opmask = k1;
        c.element = element_;
        return c;
    }

    void point_at_column(const Reg64& to, size_t array) {
        mov(to, ptr[arg(array)]);
        add(to, ptr[arg(offsetof(GemmKernelArgs, column_offset))]);
    }

    void point_rows_at_c() {
        mov(stride_, ptr[arg(offsetof(GemmKernelArgs, ldc))]);
        mov(row_[0], c_);
        RowPointers{row_, stride_}.emit_spread(*this, tile_.rows, b_);
    }

    // C's lines are fetched for writing before the products, so that the stores at the end find them in L1.
    void begin_sums() {
        point_rows_at_c();
        point_at_column(counter_, offsetof(GemmKernelArgs, start));
        for (int v = 0; v < tile_.vectors; ++v) vmovups(reg(tile_.at(0, v)), ptr[counter_ + v * vector_bytes_]);
        for (int i = 0; i < tile_.rows; ++i) {
            for (int v = 0; v < tile_.vectors; ++v) {
                const int at = v * vector_bytes_ / 4 * element_;
                if (at % 64 == 0) prefetchw(ptr[RowPointers{row_, stride_}.at(i, at)]);
                if (i > 0) vmovaps(reg(tile_.at(i, v)), reg(tile_.at(0, v)));
            }
        }
    }

    void emit_products() {
        mov(b_, ptr[arg(offsetof(GemmKernelArgs, b))]);
        mov(segment_, ptr[arg(offsetof(GemmKernelArgs, segment_offsets))]);
        mov(segments_left_, ptr[arg(offsetof(GemmKernelArgs, segments))]);
        mov(stride_, ptr[arg(offsetof(GemmKernelArgs, lda))]);

        Xbyak::Label next_segment, unrolled, remainder, single, done;
        L(next_segment);
        mov(row_[0], ptr[segment_]);
        add(row_[0], a_);
        add(segment_, 8);
        RowPointers{row_, stride_}.emit_spread(*this, tile_.rows, counter_);
        mov(counter_, ptr[arg(offsetof(GemmKernelArgs, k))]);
        sub(counter_, kUnroll + (key_.steps.overlap > 0 ? 1 : 0));
        jl(remainder, T_NEAR);
        align(32);
        L(unrolled);
        for (int u = 0; u < kUnroll; ++u) {
            for (int line = u; line < key_.prefetch_lines; line += kUnroll) prefetcht1(ptr[prefetch_ + line * 64]);
            emit_step(u, 0);
        }
        if (key_.prefetch_lines > 0) add(prefetch_, 64 * key_.prefetch_lines);
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
        if (key_.steps.overlap > 0) {
            emit_step(0, -key_.steps.overlap);
            add(b_, tile_.vectors * vector_bytes_);
        }
        dec(segments_left_);
        jnz(next_segment, T_NEAR);
    }

    void advance(int steps) {
        for (int j = 0; 3 * j < tile_.rows; ++j) add(row_[static_cast<size_t>(j)], key_.steps.load * steps);
        add(b_, tile_.vectors * vector_bytes_ * steps);
    }

    void broadcast(int dst, const Xbyak::Address& bytes) {
        if (key_.steps.load == 4) return vpbroadcastd(reg(dst), bytes);
        if (key_.steps.load == 2) return vpbroadcastw(reg(dst), bytes);
        vpbroadcastb(reg(dst), bytes);
    }

    /// sum(i, v) += A(i, step) * B(step, v)
    void emit_step(int step, int displacement) {
        const RowPointers rows{row_, stride_};
        const auto a = [&](int i) { return ptr[rows.at(i, key_.steps.load * step + displacement)]; };
        const auto b = [&](int v) { return ptr[b_ + (step * tile_.vectors + v) * vector_bytes_]; };
        if (!key_.vnni) return emit_widened_step(a, b);
        const int first_b = tile_.count(), first_a = first_b + tile_.vectors;
        const int broadcasts = register_count() - first_a;
        for (int v = 0; v < tile_.vectors; ++v) vmovups(reg(first_b + v), b(v));
        for (int i = 0; i < tile_.rows; ++i) {
            const int r = first_a + i % broadcasts;
            broadcast(r, a(i));
            for (int v = 0; v < tile_.vectors; ++v) vpdpbusd(reg(tile_.at(i, v)), reg(r), reg(first_b + v));
        }
    }

    int register_count() const { return vector_registers(key_.isa); }

    template <typename A, typename B>
    void emit_widened_step(const A& a, const B& b) {
        const int first_b = tile_.count(), even = first_b + 2 * tile_.vectors, odd = even + 1, product = odd + 1;
        for (int v = 0; v < tile_.vectors; ++v) {
            const Xmm b_even = reg(first_b + 2 * v), b_odd = reg(first_b + 2 * v + 1);
            vmovups(b_odd, b(v));
            vpsllw(b_even, b_odd, 8);
            vpsraw(b_even, b_even, 8);
            vpsraw(b_odd, b_odd, 8);
        }
        for (int i = 0; i < tile_.rows; ++i) {
            broadcast(odd, a(i));
            vpsllw(reg(even), reg(odd), 8);
            vpsrlw(reg(even), reg(even), 8);
            vpsrlw(reg(odd), reg(odd), 8);
            for (int v = 0; v < tile_.vectors; ++v) {
                const Xmm sum = reg(tile_.at(i, v));
                vpmaddwd(reg(product), reg(even), reg(first_b + 2 * v));
                vpaddd(sum, sum, reg(product));
                vpmaddwd(reg(product), reg(odd), reg(first_b + 2 * v + 1));
                vpaddd(sum, sum, reg(product));
            }
        }
    }

    void finish_tile() {
        rescale();
        mov(stride_, ptr[arg(offsetof(GemmKernelArgs, ldc))]);
        mov(counter_, ptr[rsp + kSlotTensorOffset]);
        epilogue_.apply(key_.post_ops, tile_, context());
        if (key_.result.bytes) clamp();
        point_rows_at_c();
        const RowPointers rows{row_, stride_};
        for (int i = 0; i < tile_.rows; ++i) {
            for (int v = 0; v < tile_.vectors; ++v) {
                const RegExp at = rows.at(i, v * vector_bytes_ / 4 * element_);
                if (key_.result.bytes) {
                    epilogue_.store_bytes(at, tile_.at(i, v), tail(v), context(), tile_.temp(0));
                } else {
                    epilogue_.store(at, tile_.at(i, v), tail(v) != 0, context(), tile_.temp(0));
                }
            }
        }
        imul(stride_, stride_, tile_.rows);
        add(c_, stride_);
        add(ptr[rsp + kSlotTensorOffset], stride_);
    }

    void rescale() {
        point_at_column(counter_, offsetof(GemmKernelArgs, scale));
        point_at_column(b_, offsetof(GemmKernelArgs, bias));
        const Xmm scale = reg(tile_.temp(0)), bias = reg(tile_.temp(1));
        for (int v = 0; v < tile_.vectors; ++v) {
            vmovups(scale, ptr[counter_ + v * vector_bytes_]);
            vmovups(bias, ptr[b_ + v * vector_bytes_]);
            for (int i = 0; i < tile_.rows; ++i) {
                const Xmm r = reg(tile_.at(i, v));
                vcvtdq2ps(r, r);
                vfmadd213ps(r, scale, bias);
            }
        }
    }

    // In `vmaxps dst, a, b` a NaN in either gives b: it becomes the lower bound.
    void clamp() {
        const bool above = key_.result.high < 255 || !epilogue_.saturates_above();
        const Xmm low = reg(tile_.temp(0)), high = reg(tile_.temp(1));
        epilogue_.math().broadcast(tile_.temp(0), key_.result.low);
        if (above) epilogue_.math().broadcast(tile_.temp(1), key_.result.high);
        for (int r = tile_.first; r < tile_.end(); ++r) {
            vmaxps(reg(r), reg(r), low);
            if (above) vminps(reg(r), reg(r), high);
        }
    }

    const GemmI8KernelKey key_;
    bool avx512_;
    int vector_bytes_;
    int element_;  ///< bytes of one of C
    TileRegisters tile_;
    EpilogueEmitter epilogue_;

    const Reg64 args_ = rdi;
    const Reg64 stride_ = rsi;
    const std::array<Reg64, 5> row_ = {r8, r9, r10, r11, r12};
    const Reg64 b_ = rax;        // position in the panel; scratch outside the products
    const Reg64 counter_ = rcx;  // steps left in the segment; the tensor offset in the epilogue
    const Reg64 segments_left_ = rdx;
    const Reg64 segment_ = r13;
    const Reg64 prefetch_ = r14;
    const Reg64 a_ = rbx;  // the tile's first row
    const Reg64 c_ = rbp;
};

/// All that the code depends on, as bytes: 0 and -0 are different constants, a NaN equals itself.
std::string identity(const GemmI8KernelKey& key) {
    std::string text = kernel_name(key);
    const auto add = [&text](const auto& value) { text.append(reinterpret_cast<const char*>(&value), sizeof value); };
    add(key.vnni);
    add(key.tail);
    add(key.steps.load);
    add(key.steps.overlap);
    add(key.prefetch_lines);
    add(key.result.low);
    add(key.result.high);
    for (const PostOp& op : key.post_ops) {
        add(op.kind);
        add(op.alpha);
        add(op.beta);
        add(op.operand);
        add(op.bytes);
    }
    return text;
}

}  // namespace

// Beside the sums a step needs a row of B and a broadcast of A; widened, both twice and a product. The epilogue needs
// the temporaries of transcendental functions.
int max_i8_tile_rows(Isa isa, bool vnni, int vectors) {
    if (vectors < 1 || vectors > kMaxTileVectors || isa < Isa::avx2) return 0;
    const int reserved = std::max(vnni ? vectors + 1 : 2 * vectors + 3, VectorMathEmitter::kTemps);
    return std::clamp((vector_registers(isa) - reserved) / vectors, 0, 15);
}

GemmKernel gemm_i8_kernel(const GemmI8KernelKey& key) {
    static std::mutex mutex;
    // Kernels live as long as the process: plans of any thread may hold them, even while it exits.
    static auto& kernels = *new std::unordered_map<std::string, std::unique_ptr<GemmI8KernelGenerator>>;
    GemmI8KernelKey canonical = key;
    canonical.isa = std::min(key.isa, Isa::avx512);
    if (key.rows < 1 || key.rows > max_i8_tile_rows(canonical.isa, key.vnni, key.vectors)) {
        fail(ErrorCode::internal, "no integer tile of " + std::to_string(key.rows) + " rows and " +
                                      std::to_string(key.vectors) + " vectors on " + std::string(to_string(key.isa)));
    }
    const std::lock_guard lock(mutex);
    std::unique_ptr<GemmI8KernelGenerator>& kernel = kernels[identity(canonical)];
    if (kernel == nullptr) kernel = std::make_unique<GemmI8KernelGenerator>(canonical);
    return kernel->getCode<GemmKernel>();
}

std::string kernel_name(const GemmI8KernelKey& key) {
    std::string name = "gemm_u8s8";
    name += key.result.bytes ? "u8_" : "f32_";
    name += std::to_string(key.rows) + "x" + std::to_string(key.vectors * vector_floats(key.isa)) + "_";
    name += to_string(key.vnni ? Isa::avx512_vnni : key.isa);
    if (key.tail != 0) name += "_masked";
    return name;
}

}  // namespace planish::cpu
