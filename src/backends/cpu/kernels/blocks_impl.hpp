// Sums of matrix blocks. The per-ISA body of blocks_{baseline,avx2,avx512}.cpp.
#pragma once

#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/simd.hpp"

namespace planish::cpu::PLANISH_ISA {

void block_sum(const BlockSumArgs& args, int64_t begin, int64_t end) {
    const Vec sign = Vec::all(args.sign);
    for (int64_t r = begin; r < end; ++r) {
        const float* x = r < args.x.rows ? args.x.data + r * args.x.stride : nullptr;
        const float* y = args.sign != 0 && r < args.y.rows ? args.y.data + r * args.y.stride : nullptr;
        float* out = args.output + r * args.output_stride;
        for_vectors(args.columns, [&](int64_t i, int64_t count) {
            const Vec sum = x ? load(x + i, count) : Vec::zero();
            store(y ? fma(sign, load(y + i, count), sum) : sum, out + i, count);
        });
    }
}

void block_add(const BlockAddArgs& args, int64_t begin, int64_t end) {
    for (const BlockAddArgs::Target& target : args.targets) {
        if (target.data == nullptr) continue;
        const Vec sign = Vec::all(target.sign);
        const int64_t last = min_of(end, target.rows);
        for (int64_t r = begin; r < last; ++r) {
            const float* x = args.block + r * args.stride;
            float* y = target.data + r * args.target_stride;
            for_vectors(args.columns, [&](int64_t i, int64_t count) {
                const Vec sum = target.first ? Vec::zero() : load(y + i, count);
                store(fma(sign, load(x + i, count), sum), y + i, count);
            });
        }
    }
}

void add_blocks(KernelTable& table) {
    table.block_sum = block_sum;
    table.block_add = block_add;
}

}  // namespace planish::cpu::PLANISH_ISA
