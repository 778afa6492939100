// Generator and process-wide cache of the float32 tile kernels.
#include "backends/cpu/jit/gemm_kernel.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "backends/cpu/jit/tile_kernel.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

using Xbyak::RegExp;
using Xbyak::Xmm;
using Xbyak::Zmm;

// Transcendental post-ops need four registers beside the accumulators.
constexpr int kEpilogueTemps = VectorMathEmitter::kTemps;

/// Registers of a tile in the inner loop: rows*vectors accumulators, one row of B, and the rest for broadcasts of A.
/// With none left for A (7x4 on AVX-512), A is the FMA's embedded-broadcast operand.
class GemmKernelGenerator final : public TileKernel {
  public:
    explicit GemmKernelGenerator(const GemmKernelKey& key)
        : TileKernel(key.isa, {key.rows, key.vectors, key.masked, 0, key.rows * key.vectors},
                     {4, 0, key.prefetch_lines}, 4),
          key_(key) {
        generate();
        publish(kernel_name(key));
    }

  private:
    void load_mask() override {
        if (!key_.masked) return;
        if (avx512_) {
            mov(rcx, ptr[arg(offsetof(GemmKernelArgs, tail))]);
            mov(eax, 1);
            shl(eax, cl);
            dec(eax);
            kmovw(k1, eax);
        } else {
            mov(rax, reinterpret_cast<size_t>(kTailMasks + 8));
            mov(rcx, ptr[arg(offsetof(GemmKernelArgs, tail))]);
            shl(rcx, 2);
            sub(rax, rcx);
            mov(ptr[mask_slot()], rax);
        }
    }

    bool masked(int v) const { return key_.masked && v + 1 == tile_.vectors; }

    /// Whether the sums start at the bias, which saves adding it to each of them.
    bool starts_at_bias() const {
        return !key_.accumulate && !key_.post_ops.empty() && key_.post_ops[0].kind == PostOp::Kind::add_channel;
    }

    // C's lines are fetched for writing before the products, so that the stores at the end find them in L1.
    void begin_sums() override {
        point_rows_at_c();
        if (starts_at_bias()) {
            mov(counter_, ptr[arg(offsetof(GemmKernelArgs, operands))]);
            mov(counter_, ptr[counter_ + key_.post_ops[0].operand * 8]);
            add(counter_, ptr[arg(offsetof(GemmKernelArgs, column_offset))]);
        }
        for (int i = 0; i < tile_.rows; ++i) {
            for (int v = 0; v < tile_.vectors; ++v) {
                const int r = tile_.at(i, v);
                if (key_.accumulate) {
                    epilogue_.load(r, rows().at(i, c_bytes(v)), masked(v), context(), tile_.count());
                    continue;
                }
                if (c_bytes(v) % 64 == 0) prefetchw(ptr[rows().at(i, c_bytes(v))]);
                if (starts_at_bias() && i == 0) {
                    epilogue_.load(r, counter_ + v * vector_bytes_, masked(v), context(), tile_.count());
                } else if (starts_at_bias()) {
                    vmovaps(reg(r), reg(tile_.at(0, v)));
                } else if (r < 16) {
                    vxorps(Xmm(r), Xmm(r), Xmm(r));
                } else {
                    vpxord(Zmm(r), Zmm(r), Zmm(r));
                }
            }
        }
    }

    void begin_products() override {
        if (!key_.streams) return;
        mov(stride_, ptr[arg(offsetof(GemmKernelArgs, b_stream))]);
        mov(streams_.bases[0], b_);
        streams_.emit_spread(*this, tile_.vectors, counter_);
    }

    void advance_b(int steps) override {
        if (!key_.streams) return TileKernel::advance_b(steps);
        for (int j = 0; 3 * j < tile_.vectors; ++j) add(streams_.bases[static_cast<size_t>(j)], vector_bytes_ * steps);
    }

    void emit_step(int step, int /*displacement*/) override {
        const int first_free = tile_.count();
        const int b_bytes = step * tile_.vectors * vector_bytes_;
        if (tile_.rows == 1) {
            vbroadcastss(reg(first_free), ptr[rows().at(0, 4 * step)]);
            for (int v = 0; v < tile_.vectors; ++v) {
                const RegExp b = key_.streams ? streams_.at(v, step * vector_bytes_) : b_ + b_bytes + v * vector_bytes_;
                vfmadd231ps(reg(v), reg(first_free), ptr[b]);
            }
            return;
        }
        for (int v = 0; v < tile_.vectors; ++v) vmovups(reg(first_free + v), ptr[b_ + b_bytes + v * vector_bytes_]);
        const int broadcasts = vector_registers(key_.isa) - first_free - tile_.vectors;
        for (int i = 0; i < tile_.rows; ++i) {
            if (broadcasts == 0) {
                for (int v = 0; v < tile_.vectors; ++v) {
                    vfmadd231ps(reg(tile_.at(i, v)), reg(first_free + v), ptr_b[rows().at(i, 4 * step)]);
                }
                continue;
            }
            const int a = first_free + tile_.vectors + i % broadcasts;
            vbroadcastss(reg(a), ptr[rows().at(i, 4 * step)]);
            for (int v = 0; v < tile_.vectors; ++v) vfmadd231ps(reg(tile_.at(i, v)), reg(first_free + v), reg(a));
        }
    }

    void apply_post_ops() override {
        epilogue_.apply(std::span(key_.post_ops).subspan(starts_at_bias() ? 1 : 0), tile_, context());
    }

    void store_result(const RegExp& address, int row, int vector) override {
        epilogue_.store(address, tile_.at(row, vector), masked(vector), context(), tile_.count());
    }

    const GemmKernelKey& key_;
    // One row needs one base, so the others and the row stride's register address the streams of B.
    const RowPointers streams_ = {{r9, r10, r11, r12, r15}, rsi};
};

struct KeyHash {
    size_t operator()(const GemmKernelKey& key) const {
        uint64_t h = 1469598103934665603ULL;
        const auto mix = [&h](uint64_t value) { h = (h ^ value) * 1099511628211ULL; };
        mix(static_cast<uint64_t>(key.isa));
        mix(static_cast<uint64_t>(key.rows) << 16 | static_cast<uint64_t>(key.vectors) << 8 |
            static_cast<uint64_t>(key.masked) << 1 | static_cast<uint64_t>(key.prefetch_lines) << 32 |
            static_cast<uint64_t>(key.accumulate) | static_cast<uint64_t>(key.streams) << 2);
        for (const PostOp& op : key.post_ops) {
            uint32_t alpha = 0, beta = 0;
            std::memcpy(&alpha, &op.alpha, 4);
            std::memcpy(&beta, &op.beta, 4);
            mix(static_cast<uint64_t>(op.kind) << 32 | static_cast<uint32_t>(op.operand));
            mix(uint64_t{alpha} << 32 | beta);
        }
        return h;
    }
};

struct KeyEqual {
    bool operator()(const GemmKernelKey& x, const GemmKernelKey& y) const {
        return x.isa == y.isa && x.rows == y.rows && x.vectors == y.vectors && x.masked == y.masked &&
               x.accumulate == y.accumulate && x.streams == y.streams && x.prefetch_lines == y.prefetch_lines &&
               same_code(x.post_ops, y.post_ops);
    }
};

}  // namespace

int max_tile_rows(Isa isa, int vectors) {
    if (vectors < 1 || vectors > kMaxTileVectors || isa < Isa::avx2) return 0;
    // Accumulators leave `vectors` registers for a row of B, one for A unless the FMA can broadcast from memory,
    // and in the epilogue the temporaries of transcendental functions.
    const int for_a = isa >= Isa::avx512 ? 0 : 1;
    const int reserved = std::max(vectors + for_a, kEpilogueTemps);
    return std::min(15, (vector_registers(isa) - reserved) / vectors);
}

GemmKernel gemm_kernel(const GemmKernelKey& key) {
    static std::mutex mutex;
    // Kernels live as long as the process: plans of any thread may hold them, even while it exits.
    static auto& kernels =
        *new std::unordered_map<GemmKernelKey, std::unique_ptr<GemmKernelGenerator>, KeyHash, KeyEqual>;
    const int most = key.streams ? static_cast<int>(key.vectors <= kMaxStreams) : max_tile_rows(key.isa, key.vectors);
    if (key.rows < 1 || key.rows > most) {
        fail(ErrorCode::internal, "no tile of " + std::to_string(key.rows) + " rows and " +
                                      std::to_string(key.vectors) + " vectors on " + std::string(to_string(key.isa)));
    }
    GemmKernelKey canonical = key;
    if (canonical.isa > Isa::avx512) canonical.isa = Isa::avx512;
    const std::lock_guard lock(mutex);
    auto [it, inserted] = kernels.try_emplace(canonical);
    if (inserted) {
        try {
            it->second = std::make_unique<GemmKernelGenerator>(it->first);
        } catch (...) {
            kernels.erase(it);
            throw;
        }
    }
    return it->second->getCode<GemmKernel>();
}

std::string kernel_name(const GemmKernelKey& key) {
    std::string name = "gemm_f32_" + std::to_string(key.rows) + "x" +
                       std::to_string(key.vectors * vector_floats(key.isa)) + "_" + std::string(to_string(key.isa));
    if (key.accumulate) name += "_acc";
    if (key.masked) name += "_masked";
    if (key.streams) name += "_streams";
    return name;
}

}  // namespace planish::cpu
