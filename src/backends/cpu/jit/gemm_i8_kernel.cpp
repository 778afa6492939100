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

#include "backends/cpu/jit/tile_kernel.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

using Xbyak::Reg64;
using Xbyak::RegExp;
using Xbyak::Xmm;

class GemmI8KernelGenerator final : public TileKernel {
  public:
    explicit GemmI8KernelGenerator(const GemmI8KernelKey& key)
        : TileKernel(key.isa, {key.rows, key.vectors, key.tail != 0, 0, key.rows * key.vectors, key.tail},
                     {key.steps.load, key.steps.overlap, key.prefetch_lines}, key.result.bytes ? 1 : 4, key.vnni),
          key_(key) {
        generate();
        publish(kernel_name(key));
    }

  private:
    int tail(int v) const { return v + 1 == tile_.vectors ? key_.tail : 0; }

    void load_mask() override {
        if (key_.tail == 0) return;
        if (avx512_) {
            mov(eax, (1 << key_.tail) - 1);
            kmovw(k1, eax);
        } else {
            mov(rax, reinterpret_cast<size_t>(kTailMasks + 8 - key_.tail));
            mov(ptr[mask_slot()], rax);
        }
    }

    void point_at_column(const Reg64& to, size_t array) {
        mov(to, ptr[arg(array)]);
        add(to, ptr[arg(offsetof(GemmKernelArgs, column_offset))]);
    }

    // C's lines are fetched for writing before the products, so that the stores at the end find them in L1.
    void begin_sums() override {
        point_rows_at_c();
        point_at_column(counter_, offsetof(GemmKernelArgs, start));
        for (int v = 0; v < tile_.vectors; ++v) vmovups(reg(tile_.at(0, v)), ptr[counter_ + v * vector_bytes_]);
        for (int i = 0; i < tile_.rows; ++i) {
            for (int v = 0; v < tile_.vectors; ++v) {
                if (c_bytes(v) % 64 == 0) prefetchw(ptr[rows().at(i, c_bytes(v))]);
                if (i > 0) vmovaps(reg(tile_.at(i, v)), reg(tile_.at(0, v)));
            }
        }
    }

    void broadcast(int dst, const Xbyak::Address& bytes) {
        if (key_.steps.load == 4) return vpbroadcastd(reg(dst), bytes);
        if (key_.steps.load == 2) return vpbroadcastw(reg(dst), bytes);
        vpbroadcastb(reg(dst), bytes);
    }

    void emit_step(int step, int displacement) override {
        const auto a = [&](int i) { return ptr[rows().at(i, key_.steps.load * step + displacement)]; };
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

    void begin_results() override {
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

    void apply_post_ops() override {
        epilogue_.apply(key_.post_ops, tile_, context());
        if (key_.result.bytes) clamp();
    }

    void store_result(const RegExp& address, int row, int vector) override {
        if (key_.result.bytes) {
            epilogue_.store_bytes(address, tile_.at(row, vector), tail(vector), context(), tile_.temp(0));
        } else {
            epilogue_.store(address, tile_.at(row, vector), tail(vector) != 0, context(), tile_.temp(0));
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
