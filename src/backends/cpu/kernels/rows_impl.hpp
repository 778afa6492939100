// Kernels over rows and axes: softmax, normalisation, reduction. The per-ISA body of rows_{baseline,avx2,avx512}.cpp.
#pragma once

#include <math.h>

#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/simd.hpp"

namespace planish::cpu::PLANISH_ISA {

// Independent accumulators hide the latency of the additions and shorten the chain that rounding errors pile up on.
constexpr int kChains = 4;
constexpr float kUnderflow = -104.0f;  // e^x rounds to 0 below

// Folds combine(acc, x[i]) over a row; lanes beyond its end are `neutral`.
template <typename Value, typename Combine>
PLANISH_INLINE Vec fold_row(int64_t n, Vec neutral, const Value& value, const Combine& combine) {
    Vec acc[kChains];
    for (Vec& a : acc) a = neutral;
    int64_t i = 0;
    for (; i + kChains * Vec::kWidth <= n; i += kChains * Vec::kWidth)
        for (int c = 0; c < kChains; ++c) acc[c] = combine(acc[c], value(i + c * Vec::kWidth, Vec::kWidth));
    for (; i + Vec::kWidth <= n; i += Vec::kWidth) acc[0] = combine(acc[0], value(i, Vec::kWidth));
    if (i < n) acc[1] = combine(acc[1], value(i, n - i));
    return combine(combine(acc[0], acc[1]), combine(acc[2], acc[3]));
}

PLANISH_INLINE Vec add(Vec a, Vec b) {
    return a + b;
}

// ---- Softmax.

PLANISH_INLINE void softmax_row(const SoftmaxArgs& args, int64_t row) {
    const int64_t n = args.n;
    const float* x = args.input + row * n;
    float* y = args.output + row * n;
    const Vec scale = Vec::all(args.scale);
    const Vec lowest = Vec::all(-kInfinity);
    Vec top;
    const bool prepared = args.mask != nullptr;  // then the masked scores are written first and x becomes y
    if (prepared) {
        const float* mask = args.mask + row / args.mask_divide % args.mask_rows * n;
        top = fold_row(
            n, lowest,
            [&](int64_t i, int64_t count) {
                const Vec score = fma(load(x + i, count), scale, load(mask + i, count));
                store(score, y + i, count);
                return count == Vec::kWidth ? score : score.keep(count, lowest);
            },
            [](Vec acc, Vec v) { return max(v, acc); });
        x = y;
    } else {
        top = fold_row(
            n, lowest,
            [&](int64_t i, int64_t count) {
                const Vec score = load(x + i, count) * scale;
                return count == Vec::kWidth ? score : score.keep(count, lowest);
            },
            [](Vec acc, Vec v) { return max(v, acc); });
    }
    const Vec peak = Vec::all(max_lanes(top));
    // The rounding of x * scale is the same here as above, so that no difference exceeds 0.
    const auto shifted = [&](int64_t i, int64_t count) {
        const Vec v = load(x + i, count);
        return (prepared ? v : v * scale) - peak;
    };
    if (args.log) {
        const Vec sum = fold_row(
            n, Vec::zero(),
            [&](int64_t i, int64_t count) {
                const Vec e = exp_above(shifted(i, count), kUnderflow);
                return count == Vec::kWidth ? e : e.keep(count, Vec::zero());
            },
            add);
        const Vec log_sum = Vec::all(logf(sum_lanes(sum)));
        for_vectors(n, [&](int64_t i, int64_t count) { store(shifted(i, count) - log_sum, y + i, count); });
        return;
    }
    const Vec sum = fold_row(
        n, Vec::zero(),
        [&](int64_t i, int64_t count) {
            const Vec e = exp_above(shifted(i, count), kUnderflow);
            store(e, y + i, count);
            return count == Vec::kWidth ? e : e.keep(count, Vec::zero());
        },
        add);
    const Vec inverse = Vec::all(1.0f / sum_lanes(sum));
    for_vectors(n, [&](int64_t i, int64_t count) { store(load(y + i, count) * inverse, y + i, count); });
}

// `count` neighbouring rows of a strided axis, one in each lane.
PLANISH_INLINE void softmax_columns(const SoftmaxArgs& args, const float* x, float* y, int64_t count) {
    const Vec scale = Vec::all(args.scale);
    Vec top = Vec::all(-kInfinity);
    for (int64_t k = 0; k < args.n; ++k) top = max(load(x + k * args.inner, count) * scale, top);
    Vec sum = Vec::zero();
    for (int64_t k = 0; k < args.n; ++k) {
        const Vec e = exp_above(load(x + k * args.inner, count) * scale - top, kUnderflow);
        if (!args.log) store(e, y + k * args.inner, count);
        sum = sum + e;
    }
    if (args.log) {
        float sums[Vec::kWidth];
        sum.store(sums);
        for (float& s : sums) s = logf(s);
        const Vec log_sum = Vec::load(sums);
        for (int64_t k = 0; k < args.n; ++k)
            store(load(x + k * args.inner, count) * scale - top - log_sum, y + k * args.inner, count);
        return;
    }
    const Vec inverse = Vec::all(1.0f) / sum;
    for (int64_t k = 0; k < args.n; ++k) store(load(y + k * args.inner, count) * inverse, y + k * args.inner, count);
}

// Calls body(outer, inner index, count) for the items [begin, end) of an axis with stride `inner`.
template <typename Body>
PLANISH_INLINE void for_columns(int64_t begin, int64_t end, int64_t inner, const Body& body) {
    while (begin < end) {
        const int64_t outer = begin / inner, i = begin % inner;
        const int64_t count = min_of(min_of(inner - i, end - begin), Vec::kWidth);
        body(outer, i, count);
        begin += count;
    }
}

void softmax(const SoftmaxArgs& args, int64_t begin, int64_t end) {
    if (args.inner == 1) {
        for (int64_t row = begin; row < end; ++row) softmax_row(args, row);
        return;
    }
    for_columns(begin, end, args.inner, [&](int64_t outer, int64_t i, int64_t count) {
        const int64_t start = outer * args.n * args.inner + i;
        if (count == Vec::kWidth)
            softmax_columns(args, args.input + start, args.output + start, Vec::kWidth);
        else
            softmax_columns(args, args.input + start, args.output + start, count);
    });
}

// ---- Normalisation.

template <bool kCentred>
PLANISH_INLINE void norm_rows(const NormArgs& args, int64_t begin, int64_t end) {
    const int64_t n = args.n;
    const float inverse_n = 1.0f / static_cast<float>(n);
    for (int64_t row = begin; row < end; ++row) {
        const float* x = args.input + row * n;
        const float* residual = args.residual ? args.residual + row * n : nullptr;
        float* y = args.output + row * n;
        if (residual || args.sum) {
            // The sum is kept where the passes below read it: in its own output, or in y until that is written.
            float* sum = args.sum ? args.sum + row * n : y;
            if (residual)
                for_vectors(n, [&](int64_t i, int64_t count) {
                    store(load(x + i, count) + load(residual + i, count), sum + i, count);
                });
            else if (sum != x)
                for_vectors(n, [&](int64_t i, int64_t count) { store(load(x + i, count), sum + i, count); });
            x = sum;
        }
        float mean = 0;
        if (kCentred)
            mean = inverse_n * sum_lanes(fold_row(
                                   n, Vec::zero(), [&](int64_t i, int64_t count) { return load(x + i, count); }, add));
        const Vec centre = Vec::all(mean);
        const Vec squares = fold_row(
            n, Vec::zero(),
            [&](int64_t i, int64_t count) {
                const Vec d = load(x + i, count, centre) - centre;
                return d * d;
            },
            add);
        const float inverse = 1.0f / sqrt_of(sum_lanes(squares) * inverse_n + args.eps);
        if (args.mean) args.mean[row] = mean;
        if (args.inv_std) args.inv_std[row] = inverse;
        const Vec factor = Vec::all(inverse);
        for_vectors(n, [&](int64_t i, int64_t count) {
            Vec v = (load(x + i, count) - centre) * factor;
            if (args.scale) v = v * load(args.scale + i, count);
            if (args.bias) v = v + load(args.bias + i, count);
            store(v, y + i, count);
        });
    }
}

void layer_norm(const NormArgs& args, int64_t begin, int64_t end) {
    norm_rows<true>(args, begin, end);
}
void rms_norm(const NormArgs& args, int64_t begin, int64_t end) {
    norm_rows<false>(args, begin, end);
}

// Sum over pixels of term(x) for `count` neighbouring channels. Runs of 64 pixels are summed apart: the error grows
// with 64 + pixels / 64 instead of with pixels.
template <typename Term>
PLANISH_INLINE Vec sum_pixels(const float* x, int64_t pixels, int64_t stride, int64_t count, const Term& term) {
    Vec total = Vec::zero();
    for (int64_t run = 0; run < pixels; run += 64) {
        Vec even = Vec::zero(), odd = Vec::zero();
        const int64_t stop = min_of(run + 64, pixels);
        int64_t p = run;
        for (; p + 2 <= stop; p += 2) {
            even = even + term(load(x + p * stride, count));
            odd = odd + term(load(x + (p + 1) * stride, count));
        }
        if (p < stop) even = even + term(load(x + p * stride, count));
        total = total + (even + odd);
    }
    return total;
}

void group_norm(const GroupNormArgs& args, int64_t begin, int64_t end, float* scratch) {
    const int64_t group = args.channels / args.groups;
    const int64_t per_item = min_of(args.groups, max_of(1, kGroupNormChannels / group));
    const int64_t items_per_image = (args.groups + per_item - 1) / per_item;
    const double inverse_n = 1.0 / (static_cast<double>(args.pixels) * static_cast<double>(group));
    for (int64_t item = begin; item < end; ++item) {
        const int64_t first_group = item % items_per_image * per_item;
        const int64_t groups = min_of(per_item, args.groups - first_group);
        const int64_t channels = groups * group;
        const int64_t start = item / items_per_image * args.pixels * args.channels + first_group * group;
        const float* x = args.input + start;
        float* y = args.output + start;
        float* factor = scratch;            // per channel: sums, then scale
        float* shift = scratch + channels;  // per channel: mean, then shift
        // Replaces per-channel sums in `factor` by finish(group's sum) in each channel of `to`.
        const auto per_group = [&](float* to, const auto& finish) {
            for (int64_t g = 0; g < groups; ++g) {
                double sum = 0;
                for (int64_t c = 0; c < group; ++c) sum += factor[g * group + c];
                const float value = finish(sum * inverse_n);
                for (int64_t c = 0; c < group; ++c) to[g * group + c] = value;
            }
        };
        for_vectors(channels, [&](int64_t c, int64_t count) {
            store(sum_pixels(x + c, args.pixels, args.channels, count, [](Vec v) { return v; }), factor + c, count);
        });
        per_group(shift, [](double mean) { return static_cast<float>(mean); });
        for_vectors(channels, [&](int64_t c, int64_t count) {
            const Vec mean = load(shift + c, count);
            const Vec squares =
                sum_pixels(x + c, args.pixels, args.channels, count, [&](Vec v) { return (v - mean) * (v - mean); });
            store(squares, factor + c, count);
        });
        per_group(factor, [&](double variance) { return 1.0f / sqrt_of(static_cast<float>(variance) + args.eps); });
        for_vectors(channels, [&](int64_t c, int64_t count) {
            const int64_t channel = first_group * group + c;
            const Vec mean = load(shift + c, count);
            const Vec scale =
                args.scale ? load(factor + c, count) * load(args.scale + channel, count) : load(factor + c, count);
            const Vec bias = args.bias ? load(args.bias + channel, count) : Vec::zero();
            for (int64_t p = 0; p < args.pixels; ++p)
                store(fma(load(x + p * args.channels + c, count) - mean, scale, bias), y + p * args.channels + c,
                      count);
        });
    }
}

// ---- Reduction.

struct Sum {
    static constexpr float kNeutral = 0;
    static PLANISH_INLINE Vec term(Vec x) { return x; }
    static PLANISH_INLINE Vec combine(Vec a, Vec b) { return a + b; }
    static PLANISH_INLINE float combine(float a, float b) { return a + b; }
};
struct SumAbs : Sum {
    static PLANISH_INLINE Vec term(Vec x) { return abs(x); }
};
struct SumSquares : Sum {
    static PLANISH_INLINE Vec term(Vec x) { return x * x; }
};
struct Product : Sum {
    static constexpr float kNeutral = 1;
    static PLANISH_INLINE Vec combine(Vec a, Vec b) { return a * b; }
    static PLANISH_INLINE float combine(float a, float b) { return a * b; }
};
struct Max : Sum {
    static constexpr float kNeutral = -kInfinity;
    static PLANISH_INLINE Vec combine(Vec a, Vec b) { return max(a, b); }
    static PLANISH_INLINE float combine(float a, float b) { return a > b ? a : b; }
};
struct Min : Sum {
    static constexpr float kNeutral = kInfinity;
    static PLANISH_INLINE Vec combine(Vec a, Vec b) { return min(a, b); }
    static PLANISH_INLINE float combine(float a, float b) { return a < b ? a : b; }
};

template <typename Op>
PLANISH_INLINE float fold_last_axis(const float* x, int64_t n) {
    const Vec neutral = Vec::all(Op::kNeutral);
    const Vec folded = fold_row(
        n, neutral,
        [&](int64_t i, int64_t count) {
            if (count == Vec::kWidth) return Op::term(Vec::load(x + i));
            return Op::term(Vec::load_part(x + i, count, Vec::zero())).keep(count, neutral);
        },
        [](Vec a, Vec b) { return Op::combine(a, b); });
    return reduce_lanes(folded, [](float a, float b) { return Op::combine(a, b); });
}

template <typename Op>
PLANISH_INLINE Vec fold_columns(const float* x, int64_t n, int64_t stride, int64_t count) {
    Vec total = Vec::all(Op::kNeutral);
    for (int64_t run = 0; run < n; run += 64) {  // as in sum_pixels
        Vec even = Vec::all(Op::kNeutral), odd = even;
        const int64_t stop = min_of(run + 64, n);
        int64_t k = run;
        for (; k + 2 <= stop; k += 2) {
            even = Op::combine(even, Op::term(load(x + k * stride, count)));
            odd = Op::combine(odd, Op::term(load(x + (k + 1) * stride, count)));
        }
        if (k < stop) even = Op::combine(even, Op::term(load(x + k * stride, count)));
        total = Op::combine(total, Op::combine(even, odd));
    }
    return total;
}

template <typename Op, typename Finish>
PLANISH_INLINE void reduce_with(const ReduceArgs& args, int64_t begin, int64_t end, const Finish& finish) {
    if (args.inner == 1) {
        for (int64_t row = begin; row < end; ++row)
            args.output[row] = finish(fold_last_axis<Op>(args.input + row * args.n, args.n));
        return;
    }
    for_columns(begin, end, args.inner, [&](int64_t outer, int64_t i, int64_t count) {
        const float* x = args.input + outer * args.n * args.inner + i;
        float results[Vec::kWidth];
        if (count == Vec::kWidth)
            fold_columns<Op>(x, args.n, args.inner, Vec::kWidth).store(results);
        else
            fold_columns<Op>(x, args.n, args.inner, count).store(results);
        float* y = args.output + outer * args.inner + i;
        for (int64_t lane = 0; lane < count; ++lane) y[lane] = finish(results[lane]);
    });
}

// log(sum e^x) = peak + log(sum e^(x - peak)), where an infinite peak is replaced by 0.
void log_sum_exp(const ReduceArgs& args, int64_t begin, int64_t end) {
    const auto finite = [](float top) { return top - top == 0 ? top : 0.0f; };
    for_columns(begin, end, args.inner, [&](int64_t outer, int64_t i, int64_t count) {
        const float* x = args.input + outer * args.n * args.inner + i;
        float* y = args.output + outer * args.inner + i;
        if (args.inner == 1) {
            const float peak = finite(fold_last_axis<Max>(x, args.n));
            const Vec sum = fold_row(
                args.n, Vec::zero(),
                [&](int64_t k, int64_t part) { return exp(load(x + k, part, Vec::all(-kInfinity)) - Vec::all(peak)); },
                add);
            *y = peak + logf(sum_lanes(sum));
            return;
        }
        float peaks[Vec::kWidth], sums[Vec::kWidth];
        fold_columns<Max>(x, args.n, args.inner, count).store(peaks);
        for (float& peak : peaks) peak = finite(peak);
        const Vec peak = Vec::load(peaks);
        Vec sum = Vec::zero();
        for (int64_t k = 0; k < args.n; ++k) sum = sum + exp(load(x + k * args.inner, count) - peak);
        sum.store(sums);
        for (int64_t lane = 0; lane < count; ++lane) y[lane] = peaks[lane] + logf(sums[lane]);
    });
}

void reduce(const ReduceArgs& args, int64_t begin, int64_t end) {
    const auto same = [](float x) { return x; };
    switch (args.kind) {
        case ReduceKind::sum:
            return reduce_with<Sum>(args, begin, end, same);
        case ReduceKind::mean: {
            const float inverse = 1.0f / static_cast<float>(args.n);
            return reduce_with<Sum>(args, begin, end, [=](float x) { return x * inverse; });
        }
        case ReduceKind::max:
            return reduce_with<Max>(args, begin, end, same);
        case ReduceKind::min:
            return reduce_with<Min>(args, begin, end, same);
        case ReduceKind::prod:
            return reduce_with<Product>(args, begin, end, same);
        case ReduceKind::l1:
            return reduce_with<SumAbs>(args, begin, end, same);
        case ReduceKind::l2:
            return reduce_with<SumSquares>(args, begin, end, [](float x) { return sqrt_of(x); });
        case ReduceKind::sum_square:
            return reduce_with<SumSquares>(args, begin, end, same);
        case ReduceKind::log_sum:
            return reduce_with<Sum>(args, begin, end, [](float x) { return logf(x); });
        case ReduceKind::log_sum_exp:
            return log_sum_exp(args, begin, end);
    }
}

void arg_extreme(const ArgExtremeArgs& args, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
        const float* x = args.input + item / args.inner * args.n * args.inner + item % args.inner;
        int64_t best = -1;
        if (args.inner == 1 && args.n >= 4 * Vec::kWidth) {
            // The extreme first, in vectors; then where it is. A NaN anywhere is left to the plain loop below.
            const float sign = args.smallest ? -1.0f : 1.0f;
            Vec check = Vec::zero();
            const Vec top = fold_row(
                args.n, Vec::all(-kInfinity),
                [&](int64_t i, int64_t count) {
                    const Vec v = load(x + i, count) * Vec::all(sign);
                    check = check + v * Vec::zero();  // NaN from NaN, and from infinity, which is rare enough
                    return count == Vec::kWidth ? v : v.keep(count, Vec::all(-kInfinity));
                },
                [](Vec a, Vec b) { return max(a, b); });
            if (!any_nan(check)) {
                const float extreme = max_lanes(top) * sign;
                if (args.last_index)
                    for (best = args.n - 1; x[best] != extreme;) --best;
                else
                    for (best = 0; x[best] != extreme;) ++best;
            }
        }
        if (best < 0) {
            best = 0;
            for (int64_t k = 1; k < args.n && x[best * args.inner] == x[best * args.inner]; ++k) {
                const float candidate = x[k * args.inner], current = x[best * args.inner];
                const bool better = args.smallest ? candidate < current : candidate > current;
                if (better || candidate != candidate || (args.last_index && candidate == current)) best = k;
            }
        }
        args.output[item] = best;
    }
}

// ---- Channels.

void prelu(const ChannelArgs& args, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
        for_vectors(args.channels, [&](int64_t c, int64_t count) {
            const Vec x = load(args.input + row * args.channels + c, count);
            store(if_negative(x, x * load(args.scale + c, count), x), args.output + row * args.channels + c, count);
        });
}

void scale_shift(const ChannelArgs& args, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
        for_vectors(args.channels, [&](int64_t c, int64_t count) {
            const Vec x = load(args.input + row * args.channels + c, count);
            const Vec shift = args.shift ? load(args.shift + c, count) : Vec::zero();
            store(fma(x, load(args.scale + c, count), shift), args.output + row * args.channels + c, count);
        });
}

// ---- Recurrent steps.

void lstm_step(const LstmStepArgs& args, int64_t begin, int64_t end) {
    const int64_t n = args.hidden;
    for (int64_t row = begin; row < end; ++row) {
        const float* gates = args.gates + row * args.gates_stride;
        const float* cell_in = args.cell_in + row * n;
        float* cell_out = args.cell_out + row * n;
        float* hidden_out = args.hidden_out + row * args.hidden_stride;
        for_vectors(n, [&](int64_t i, int64_t count) {
            const Vec cell = load(cell_in + i, count);
            Vec input = load(gates + i, count), output = load(gates + n + i, count);
            Vec forget = load(gates + 2 * n + i, count);
            const Vec candidate = tanh(load(gates + 3 * n + i, count));
            if (args.peephole) {
                input = fma(load(args.peephole + i, count), cell, input);
                forget = fma(load(args.peephole + 2 * n + i, count), cell, forget);
            }
            const Vec next = fma(sigmoid(forget), cell, sigmoid(input) * candidate);
            if (args.peephole) output = fma(load(args.peephole + n + i, count), next, output);
            store(next, cell_out + i, count);
            store(sigmoid(output) * tanh(next), hidden_out + i, count);
        });
    }
}

void gru_step(const GruStepArgs& args, int64_t begin, int64_t end) {
    const int64_t n = args.hidden;
    for (int64_t row = begin; row < end; ++row) {
        const float* x = args.x_gates + row * args.gates_stride;
        const float* h = args.h_gates + row * args.gates_stride;
        const float* hidden_in = args.hidden_in + row * args.hidden_stride;
        float* hidden_out = args.hidden_out + row * args.hidden_stride;
        for_vectors(n, [&](int64_t i, int64_t count) {
            const Vec update = sigmoid(load(x + i, count) + load(h + i, count));
            const Vec recurrent = load(h + 2 * n + i, count);
            Vec candidate = load(x + 2 * n + i, count);
            if (args.linear_before_reset)
                candidate = fma(sigmoid(load(x + n + i, count) + load(h + n + i, count)), recurrent, candidate);
            else
                candidate = candidate + recurrent;
            candidate = tanh(candidate);
            const Vec hidden = load(hidden_in + i, count);
            store(fma(update, hidden - candidate, candidate), hidden_out + i, count);
        });
    }
}

void add_rows(KernelTable& table) {
    table.softmax = softmax;
    table.layer_norm = layer_norm;
    table.rms_norm = rms_norm;
    table.group_norm = group_norm;
    table.reduce = reduce;
    table.arg_extreme = arg_extreme;
    table.prelu = prelu;
    table.scale_shift = scale_shift;
    table.lstm_step = lstm_step;
    table.gru_step = gru_step;
}

}  // namespace planish::cpu::PLANISH_ISA
