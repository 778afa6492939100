// Both transforms run along columns, then along lines; the factors share sums and differences of symmetric points.
#include "backends/cpu/jit/winograd_kernel.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/cpu/jit/epilogue.hpp"
#include "backends/cpu/jit/jit_code.hpp"

namespace planish::cpu {
namespace {

constexpr float kA = kWinogradA, kB = kWinogradB;

using Xbyak::Reg64;
using Xbyak::RegExp;

/// What both transforms share: two nested loops, over tiles and over vectors of channels.
class WinogradGenerator : public JitCode {
  protected:
    WinogradGenerator(WinogradTile tile, Isa isa)
        : JitCode(8192),
          tile_(tile),
          sizes_(winograd_sizes(tile)),
          wide_(isa >= Isa::avx512),
          bytes_(vector_floats(isa) * 4),
          epilogue_(*this, isa) {}

    Xbyak::Xmm reg(int r) { return epilogue_.math().reg(r); }
    Xbyak::Address constant(float value) { return epilogue_.math().constant(value); }
    RegExp arg(size_t offset) const { return args_ + static_cast<int>(offset); }

    /// base + i*stride for i < 6, where `middle` holds base + 3*stride.
    static RegExp at(const Reg64& base, const Reg64& middle, const Reg64& stride, int i) {
        const Reg64& start = i < 3 ? base : middle;
        return i % 3 == 0 ? RegExp(start) : start + stride * (i % 3);
    }

    void enter(int frame) {
        for (const Reg64& r : saved_) push(r);
        sub(rsp, frame);
    }
    void leave(int frame, const std::string& name) {
        vzeroupper();
        add(rsp, frame);
        for (size_t i = saved_.size(); i-- > 0;) pop(saved_[i]);
        ret();
        epilogue_.emit_tables();
        const std::string outputs = std::to_string(sizes_.outputs);
        const char* stride = tile_ == WinogradTile::f2x2_stride2 ? "s2_" : "_";
        publish("winograd" + outputs + "x" + outputs + stride + name + (wide_ ? "_avx512" : "_avx2"));
    }

    WinogradTile tile_;
    WinogradSizes sizes_;

    bool wide_;
    int bytes_;
    EpilogueEmitter epilogue_;
    const Reg64 args_ = rdi;
    const std::array<Reg64, 6> saved_ = {rbx, rbp, r12, r13, r14, r15};
};

class InputGenerator : public WinogradGenerator {
  public:
    InputGenerator(WinogradTile tile, Isa isa) : WinogradGenerator(tile, isa) { generate(); }

  private:
    // Registers of constants, of F(4x4) only.
    static constexpr int kRegA = 12, kRegB = 13, kRegA2 = 14, kRegB2 = 15;

    using Line = std::array<int, 6>;

    /// Emits B^T d for d in the registers of `line`, which then names those of the result; `spare` is overwritten, and
    /// names a free register afterwards.
    void transform(Line& line, int& spare) {
        const auto d = [&](int i) { return reg(line[static_cast<size_t>(i)]); };
        switch (tile_) {
            case WinogradTile::f2x2:
                vsubps(d(0), d(0), d(2));
                vsubps(d(3), d(3), d(1));
                vaddps(reg(spare), d(1), d(2));
                vsubps(d(2), d(2), d(1));
                std::swap(line[1], spare);
                return;
            case WinogradTile::f2x2_stride2:
                vsubps(d(0), d(0), d(2));
                vsubps(d(4), d(4), d(2));
                line = {line[0], line[2], line[4], line[1], line[3]};
                return;
            default:
                transform_f4x4();
                line = {4, 8, 9, 10, 6, 5};
        }
    }

    /// d in registers 0 to 5; the result in 4, 8, 9, 10, 6, 5.
    void transform_f4x4() {
        const auto d = [this](int i) { return reg(i); };
        vmovaps(reg(7), d(4));
        vfnmadd231ps(reg(7), d(2), reg(kRegB2));  // d4 - b2 d2
        vmovaps(reg(6), d(3));
        vfnmadd231ps(reg(6), d(1), reg(kRegB2));  // d3 - b2 d1
        vmovaps(reg(8), reg(7));
        vfmadd231ps(reg(8), reg(6), reg(kRegA));
        vmovaps(reg(9), reg(7));
        vfnmadd231ps(reg(9), reg(6), reg(kRegA));
        vmovaps(reg(6), d(4));
        vfnmadd231ps(reg(6), d(2), reg(kRegA2));  // d4 - a2 d2
        vmovaps(reg(7), d(3));
        vfnmadd231ps(reg(7), d(1), reg(kRegA2));  // d3 - a2 d1
        vmovaps(reg(10), reg(6));
        vfmadd231ps(reg(10), reg(7), reg(kRegB));
        vfnmadd231ps(reg(6), reg(7), reg(kRegB));
        vfnmadd231ps(d(4), d(2), constant(kA * kA + kB * kB));
        vfmadd231ps(d(4), d(0), constant(kA * kA * kB * kB));
        vfnmadd231ps(d(5), d(3), constant(kA * kA + kB * kB));
        vfmadd231ps(d(5), d(1), constant(kA * kA * kB * kB));
    }

    // Where registers hold a whole tile, the two passes stay in them; else the first one goes to the stack.
    void generate() {
        const Reg64 line = rsi, pixel = r8, x = rbx, out = rbp, point = r9, x_tile = r10, out_tile = r11;
        const Reg64 base = rax, middle = rcx, vectors = r14, tiles = r15, step = r12;
        const int n = sizes_.inputs;
        const bool in_registers = wide_ && n * n < 32;
        const int frame = (in_registers ? 0 : n * n * bytes_) + 8;  // B^T d, and 8 bytes to keep rsp 16-aligned
        enter(frame);
        mov(line, ptr[arg(offsetof(WinogradInputArgs, line_stride))]);
        mov(pixel, ptr[arg(offsetof(WinogradInputArgs, pixel_stride))]);
        mov(x_tile, ptr[arg(offsetof(WinogradInputArgs, x))]);
        mov(out_tile, ptr[arg(offsetof(WinogradInputArgs, transformed))]);
        mov(point, ptr[arg(offsetof(WinogradInputArgs, point_stride))]);
        mov(tiles, ptr[arg(offsetof(WinogradInputArgs, tiles))]);
        if (tile_ == WinogradTile::f4x4) {
            epilogue_.math().broadcast(kRegA, kA);
            epilogue_.math().broadcast(kRegB, kB);
            epilogue_.math().broadcast(kRegA2, kA * kA);
            epilogue_.math().broadcast(kRegB2, kB * kB);
        }
        Xbyak::Label next_tile, next_vector;
        L(next_tile);
        mov(x, x_tile);
        mov(out, out_tile);
        mov(vectors, ptr[arg(offsetof(WinogradInputArgs, vectors))]);
        align(16);
        L(next_vector);
        std::array<Line, 6> columns;  // of registers
        int spare = in_registers ? n * n : n;
        lea(step, ptr[line + line * 2]);
        mov(base, x);
        for (int j = 0; j < n; ++j) {
            Line& column = columns[static_cast<size_t>(j)];
            for (int i = 0; i < n; ++i) column[static_cast<size_t>(i)] = (in_registers ? j * n : 0) + i;
            lea(middle, ptr[base + step]);
            for (int i = 0; i < n; ++i) vmovups(reg(column[static_cast<size_t>(i)]), ptr[at(base, middle, line, i)]);
            transform(column, spare);
            for (int i = 0; i < n && !in_registers; ++i)
                vmovups(ptr[rsp + (i * n + j) * bytes_], reg(column[static_cast<size_t>(i)]));
            if (!in_registers) spare = n;
            add(base, pixel);
        }
        lea(step, ptr[point + point * 2]);
        mov(base, out);
        for (int i = 0; i < n; ++i) {
            Line row;
            for (int j = 0; j < n; ++j) {
                int& r = row[static_cast<size_t>(j)];
                r = in_registers ? columns[static_cast<size_t>(j)][static_cast<size_t>(i)] : j;
                if (!in_registers) vmovups(reg(r), ptr[rsp + (i * n + j) * bytes_]);
            }
            transform(row, spare);
            lea(middle, ptr[base + step]);
            for (int j = 0; j < n; ++j) vmovups(ptr[at(base, middle, point, j)], reg(row[static_cast<size_t>(j)]));
            if (!in_registers) spare = n;
            if (i + 1 == n) break;
            if (n == 6) lea(base, ptr[middle + step]);
            if (n != 6) lea(base, ptr[middle + point * (n - 3)]);
        }
        add(x, bytes_);
        add(out, bytes_);
        dec(vectors);
        jnz(next_vector, T_NEAR);
        lea(x_tile, ptr[x_tile + pixel * sizes_.step]);
        add(out_tile, ptr[arg(offsetof(WinogradInputArgs, tile_stride))]);
        dec(tiles);
        jnz(next_tile, T_NEAR);
        leave(frame, "input");
    }
};

class OutputGenerator : public WinogradGenerator {
  public:
    OutputGenerator(WinogradTile tile, Isa isa, int lines, int columns, const PostOps& post_ops)
        : WinogradGenerator(tile, isa) {
        generate(lines, columns, post_ops);
    }

  private:
    static constexpr int kSlotColumn = 0, kSlotTensor = 8, kSlotVectors = 16, kSlotTensorTile = 24, kSlots = 32;

    /// y[i] = (A^T m)(i) for i < count; m and the two temporaries are overwritten, y may not overlap them.
    void transform(const std::array<int, 6>& m, const std::array<int, 4>& y, int count, int t0, int t1) {
        if (tile_ == WinogradTile::f2x2) {
            vaddps(reg(y[0]), reg(m[1]), reg(m[2]));
            vaddps(reg(y[0]), reg(y[0]), reg(m[0]));
            if (count == 1) return;
            vsubps(reg(y[1]), reg(m[1]), reg(m[2]));
            vaddps(reg(y[1]), reg(y[1]), reg(m[3]));
            return;
        }
        if (tile_ == WinogradTile::f2x2_stride2) {
            vaddps(reg(y[0]), reg(m[0]), reg(m[1]));
            vaddps(reg(y[0]), reg(y[0]), reg(m[3]));
            if (count == 1) return;
            vaddps(reg(y[1]), reg(m[1]), reg(m[2]));
            vaddps(reg(y[1]), reg(y[1]), reg(m[4]));
            return;
        }
        vaddps(reg(t0), reg(m[1]), reg(m[2]));
        vsubps(reg(m[1]), reg(m[1]), reg(m[2]));
        vaddps(reg(t1), reg(m[3]), reg(m[4]));
        vsubps(reg(m[3]), reg(m[3]), reg(m[4]));
        vaddps(reg(y[0]), reg(m[0]), reg(t0));
        vaddps(reg(y[0]), reg(y[0]), reg(t1));
        if (count > 1) {
            vmulps(reg(y[1]), reg(m[1]), constant(kA));
            vfmadd231ps(reg(y[1]), reg(m[3]), constant(kB));
        }
        if (count > 2) {
            vmulps(reg(y[2]), reg(t0), constant(kA * kA));
            vfmadd231ps(reg(y[2]), reg(t1), constant(kB * kB));
        }
        if (count > 3) {
            vmovaps(reg(y[3]), reg(m[5]));
            vfmadd231ps(reg(y[3]), reg(m[1]), constant(kA * kA * kA));
            vfmadd231ps(reg(y[3]), reg(m[3]), constant(kB * kB * kB));
        }
    }

    // AVX-512 keeps all of A^T m in registers below 24; AVX2 keeps it on the stack.
    void generate(int lines, int columns, const PostOps& post_ops) {
        const Reg64 point = r13, m = rbx, m_tile = r14, y_tile = r15, y = rbp;
        const Reg64 base = rax, middle = rdx, point_row = r12, tensor = rcx, stride = rsi;
        const int n = sizes_.inputs;
        const int frame = kSlots + (wide_ ? 0 : sizes_.outputs * n * bytes_) + 8;
        const int first_m = wide_ ? 24 : 0;
        const std::array<int, 6> column = {first_m, first_m + 1, first_m + 2, first_m + 3, first_m + 4, first_m + 5};
        EpilogueContext context;
        context.operands = arg(offsetof(WinogradOutputArgs, operands));
        context.column_offset = rsp + kSlotColumn;
        context.tensor_offset = tensor;
        context.rows = {{r8, r9, r10, r11, r11}, stride};
        context.scratch = rax;

        enter(frame);
        mov(point, ptr[arg(offsetof(WinogradOutputArgs, point_stride))]);
        mov(m_tile, ptr[arg(offsetof(WinogradOutputArgs, products))]);
        mov(y_tile, ptr[arg(offsetof(WinogradOutputArgs, y))]);
        mov(stride, ptr[arg(offsetof(WinogradOutputArgs, pixel_stride))]);
        mov(rax, ptr[arg(offsetof(WinogradOutputArgs, tensor_offset))]);
        mov(ptr[rsp + kSlotTensorTile], rax);
        mov(rax, ptr[arg(offsetof(WinogradOutputArgs, tiles))]);
        mov(r11, rax);
        imul(point_row, point, n);

        Xbyak::Label next_tile, next_vector;
        L(next_tile);
        push(r11);  // tiles left; popped at the tile's end
        // From here on to the pop, stack slots lie 8 bytes higher.
        const auto slot = [](int offset) { return offset + 8; };
        context.column_offset = rsp + slot(kSlotColumn);
        mov(m, m_tile);
        mov(y, y_tile);
        mov(rax, ptr[arg(offsetof(WinogradOutputArgs, vectors))]);
        mov(ptr[rsp + slot(kSlotVectors)], rax);
        mov(qword[rsp + slot(kSlotColumn)], 0);
        mov(rax, ptr[rsp + slot(kSlotTensorTile)]);
        mov(ptr[rsp + slot(kSlotTensor)], rax);

        L(next_vector);
        mov(base, m);
        for (int j = 0; j < n; ++j) {
            lea(middle, ptr[point_row + point_row * 2]);
            add(middle, base);
            for (int k = 0; k < n; ++k)
                vmovups(reg(column[static_cast<size_t>(k)]), ptr[at(base, middle, point_row, k)]);
            std::array<int, 4> result = {6, 7, 8, 9};
            if (wide_) result = {j, n + j, 2 * n + j, 3 * n + j};
            transform(column, result, lines, wide_ ? 30 : 10, wide_ ? 31 : 11);
            if (!wide_) {
                for (int i = 0; i < lines; ++i) {
                    vmovups(ptr[rsp + slot(kSlots) + (i * n + j) * bytes_], reg(result[static_cast<size_t>(i)]));
                }
            }
            add(base, point);
        }
        mov(tensor, ptr[rsp + slot(kSlotTensor)]);
        mov(middle, y);
        for (int i = 0; i < lines; ++i) {
            const int first = wide_ ? n * i : 0;
            std::array<int, 6> line = {first, first + 1, first + 2, first + 3, first + 4, first + 5};
            if (!wide_) {
                for (int j = 0; j < n; ++j) vmovups(reg(j), ptr[rsp + slot(kSlots) + (i * n + j) * bytes_]);
            }
            const int result = wide_ ? 24 : 6;
            transform(line, {result, result + 1, result + 2, result + 3}, columns, result + 4, result + 5);
            TileRegisters tile;
            tile.rows = columns;
            tile.first = result;
            tile.first_temp = wide_ ? 28 : 10;
            epilogue_.apply(post_ops, tile, context);
            mov(r8, middle);
            context.rows.emit_spread(*this, columns, rax);
            for (int j = 0; j < columns; ++j) vmovups(ptr[context.rows.at(j)], reg(result + j));
            add(middle, ptr[arg(offsetof(WinogradOutputArgs, line_stride))]);
            add(tensor, ptr[arg(offsetof(WinogradOutputArgs, line_stride))]);
        }
        add(m, bytes_);
        add(y, bytes_);
        add(qword[rsp + slot(kSlotColumn)], bytes_);
        add(qword[rsp + slot(kSlotTensor)], bytes_);
        dec(qword[rsp + slot(kSlotVectors)]);
        jnz(next_vector, T_NEAR);

        add(m_tile, ptr[arg(offsetof(WinogradOutputArgs, tile_stride))]);
        lea(y_tile, ptr[y_tile + stride * sizes_.outputs]);
        pop(r11);
        lea(rax, ptr[stride * sizes_.outputs]);
        add(ptr[rsp + kSlotTensorTile], rax);
        dec(r11);
        jnz(next_tile, T_NEAR);
        leave(frame, "output_" + std::to_string(lines) + "x" + std::to_string(columns));
    }
};

/// Post-ops as bytes that compare exactly, NaN and -0 included.
std::vector<uint64_t> fingerprint(const PostOps& post_ops) {
    std::vector<uint64_t> words;
    for (const PostOp& op : post_ops) {
        words.push_back(static_cast<uint64_t>(op.kind) << 32 | static_cast<uint32_t>(op.operand));
        words.push_back(uint64_t{std::bit_cast<uint32_t>(op.alpha)} << 32 | std::bit_cast<uint32_t>(op.beta));
    }
    return words;
}

}  // namespace

// As with the product kernels, code lives as long as the process.
WinogradInputKernel winograd_input_kernel(WinogradTile tile, Isa isa) {
    static std::mutex mutex;
    static auto& kernels = *new std::map<std::pair<WinogradTile, bool>, std::unique_ptr<InputGenerator>>;
    const std::lock_guard lock(mutex);
    auto& kernel = kernels[{tile, isa >= Isa::avx512}];
    if (!kernel) kernel = std::make_unique<InputGenerator>(tile, isa);
    return kernel->getCode<WinogradInputKernel>();
}

WinogradOutputKernel winograd_output_kernel(WinogradTile tile, Isa isa, int lines, int columns,
                                            const PostOps& post_ops) {
    using Key = std::tuple<WinogradTile, bool, int, int, std::vector<uint64_t>>;
    static std::mutex mutex;
    static auto& kernels = *new std::map<Key, std::unique_ptr<OutputGenerator>>;
    const std::lock_guard lock(mutex);
    auto& kernel = kernels[{tile, isa >= Isa::avx512, lines, columns, fingerprint(post_ops)}];
    if (!kernel) kernel = std::make_unique<OutputGenerator>(tile, isa, lines, columns, post_ops);
    return kernel->getCode<WinogradOutputKernel>();
}

}  // namespace planish::cpu
