// Kernels over channels-last images, and transposes. The per-ISA body of image_{baseline,avx2,avx512}.cpp.
#pragma once

#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/simd.hpp"
#include "backends/cpu/kernels/transpose_block.hpp"
#include "backends/cpu/kernels/window_taps.hpp"

namespace planish::cpu::PLANISH_ISA {

// ---- Pooling.

// Folds the window for kVectors vectors of channels, the last of which has `count` lanes.
template <int kVectors, bool kAverage>
PLANISH_INLINE void pool_channels(const PoolArgs& args, const float* corner, Taps rows, Taps columns, float factor,
                                  int64_t count, float* y) {
    constexpr int kLast = (kVectors - 1) * Vec::kWidth;
    Vec acc[kVectors];
    for (Vec& a : acc) a = kAverage ? Vec::zero() : Vec::all(-kInfinity);
    for (int64_t ky = rows.first; ky < rows.last; ++ky) {
        const float* x = corner + ky * args.dilation_h * args.in_row_stride;
        for (int64_t kx = columns.first; kx < columns.last; ++kx) {
            const float* pixel = x + kx * args.dilation_w * args.in_pixel_stride;
            for (int v = 0; v < kVectors; ++v) {
                const Vec value = v + 1 < kVectors ? Vec::load(pixel + v * Vec::kWidth) : load(pixel + kLast, count);
                acc[v] = kAverage ? acc[v] + value : max(acc[v], value);
            }
        }
    }
    for (int v = 0; v < kVectors; ++v) {
        if (kAverage) acc[v] = acc[v] * Vec::all(factor);
        if (v + 1 < kVectors)
            acc[v].store(y + v * Vec::kWidth);
        else
            store(acc[v], y + kLast, count);
    }
}

template <bool kAverage>
PLANISH_INLINE void pool_rows(const PoolArgs& args, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t image = row / args.out_height, oy = row % args.out_height;
        const int64_t top = oy * args.stride_h - args.pad_top;
        const Taps rows(top, args.in_height, args.kernel_h, args.dilation_h);
        const Taps padded_rows(top + args.pad_top, args.pad_top + args.in_height + args.pad_bottom, args.kernel_h,
                               args.dilation_h);
        for (int64_t ox = 0; ox < args.out_width; ++ox) {
            const int64_t left = ox * args.stride_w - args.pad_left;
            const Taps columns(left, args.in_width, args.kernel_w, args.dilation_w);
            float factor = 1;
            if (kAverage) {
                int64_t divisor = rows.count() * columns.count();
                if (args.count_include_pad)
                    divisor =
                        padded_rows.count() * Taps(left + args.pad_left, args.pad_left + args.in_width + args.pad_right,
                                                   args.kernel_w, args.dilation_w)
                                                  .count();
                factor = 1.0f / static_cast<float>(divisor);
            }
            const float* corner =
                args.input + image * args.in_image_stride + top * args.in_row_stride + left * args.in_pixel_stride;
            float* y =
                args.output + image * args.out_image_stride + oy * args.out_row_stride + ox * args.out_pixel_stride;
            int64_t c = 0;
            for (; c + 4 * Vec::kWidth <= args.channels; c += 4 * Vec::kWidth)
                pool_channels<4, kAverage>(args, corner + c, rows, columns, factor, Vec::kWidth, y + c);
            for (; c + Vec::kWidth <= args.channels; c += Vec::kWidth)
                pool_channels<1, kAverage>(args, corner + c, rows, columns, factor, Vec::kWidth, y + c);
            if (c < args.channels)
                pool_channels<1, kAverage>(args, corner + c, rows, columns, factor, args.channels - c, y + c);
        }
    }
}

void pool(const PoolArgs& args, int64_t begin, int64_t end) {
    if (args.average)
        pool_rows<true>(args, begin, end);
    else
        pool_rows<false>(args, begin, end);
}

// ---- Transpose.

void transpose(const TransposeArgs& args, int64_t begin, int64_t end) {
    constexpr int kW = Vec::kWidth;
    // A strip of kW input rows at a time: its output columns fill whole lines, its input lines stay in L1.
    int64_t r = begin;
    for (; r + kW <= end; r += kW) {
        const float* x = args.input + r * args.input_stride;
        int64_t c = 0;
        for (; c + kW <= args.columns; c += kW)
            transpose_block(x + c, args.input_stride, args.output + c * args.output_stride + r, args.output_stride);
        for (; c < args.columns; ++c)
            for (int i = 0; i < kW; ++i) args.output[c * args.output_stride + r + i] = x[i * args.input_stride + c];
    }
    for (; r < end; ++r)
        for (int64_t c = 0; c < args.columns; ++c)
            args.output[c * args.output_stride + r] = args.input[r * args.input_stride + c];
}

// ---- Resize.

template <int kTapsH, int kTapsW>
PLANISH_INLINE void resize_rows(const ResizeArgs& args, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t oy = row % args.out_height;
        const float* image = args.input + row / args.out_height * args.in_image_stride;
        float* y = args.output + row / args.out_height * args.out_image_stride + oy * args.out_row_stride;
        const float* lines[kTapsH];
        Vec weights_h[kTapsH];
        for (int i = 0; i < kTapsH; ++i) {
            lines[i] = image + args.offset_h[oy * kTapsH + i];
            weights_h[i] = Vec::all(args.weight_h[oy * kTapsH + i]);
        }
        for (int64_t ox = 0; ox < args.out_width; ++ox, y += args.channels) {
            Vec weights_w[kTapsW];
            for (int j = 0; j < kTapsW; ++j) weights_w[j] = Vec::all(args.weight_w[ox * kTapsW + j]);
            const int64_t* offsets = args.offset_w + ox * kTapsW;
            for_vectors(args.channels, [&](int64_t c, int64_t count) {
                Vec sum = Vec::zero();
                for (int i = 0; i < kTapsH; ++i) {
                    Vec line = Vec::zero();
                    for (int j = 0; j < kTapsW; ++j)
                        line = fma(load(lines[i] + offsets[j] + c, count), weights_w[j], line);
                    sum = fma(line, weights_h[i], sum);
                }
                store(sum, y + c, count);
            });
        }
    }
}

// Any number of taps: one axis alone, and the stretched filters of antialiasing.
void resize_rows_any(const ResizeArgs& args, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t oy = row % args.out_height;
        const float* image = args.input + row / args.out_height * args.in_image_stride;
        float* y = args.output + row / args.out_height * args.out_image_stride + oy * args.out_row_stride;
        for (int64_t ox = 0; ox < args.out_width; ++ox, y += args.channels) {
            for_vectors(args.channels, [&](int64_t c, int64_t count) {
                Vec sum = Vec::zero();
                for (int64_t i = oy * args.taps_h; i < (oy + 1) * args.taps_h; ++i) {
                    Vec line = Vec::zero();
                    for (int64_t j = ox * args.taps_w; j < (ox + 1) * args.taps_w; ++j)
                        line = fma(load(image + args.offset_h[i] + args.offset_w[j] + c, count),
                                   Vec::all(args.weight_w[j]), line);
                    sum = fma(line, Vec::all(args.weight_h[i]), sum);
                }
                store(sum, y + c, count);
            });
        }
    }
}

void resize(const ResizeArgs& args, int64_t begin, int64_t end) {
    if (args.taps_h == 1 && args.taps_w == 1) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t oy = row % args.out_height;
            const float* line = args.input + row / args.out_height * args.in_image_stride + args.offset_h[oy];
            float* y = args.output + row / args.out_height * args.out_image_stride + oy * args.out_row_stride;
            for (int64_t ox = 0; ox < args.out_width; ++ox, y += args.channels)
                for_vectors(args.channels,
                            [&](int64_t c, int64_t n) { store(load(line + args.offset_w[ox] + c, n), y + c, n); });
        }
        return;
    }
    if (args.taps_h == 2 && args.taps_w == 2) return resize_rows<2, 2>(args, begin, end);
    if (args.taps_h == 4 && args.taps_w == 4) return resize_rows<4, 4>(args, begin, end);
    resize_rows_any(args, begin, end);
}

void add_image(KernelTable& table) {
    table.pool = pool;
    table.transpose = transpose;
    table.resize = resize;
}

}  // namespace planish::cpu::PLANISH_ISA
