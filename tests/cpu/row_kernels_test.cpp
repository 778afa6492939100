// Softmax, normalisation, reduction and recurrent steps against float64 loops, on every ISA and odd sizes.
#include <algorithm>
#include <limits>

#include "cpu/kernel_test_util.hpp"

namespace planish::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class RowKernels : public testing::TestWithParam<Isa> {
  protected:
    const KernelTable& table() const { return kernels(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Isa, RowKernels, testing::ValuesIn(isas_here()), isa_name);

constexpr int64_t kLengths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 197, 1000};

// ---- Softmax.

void reference_softmax(const SoftmaxArgs& args, int64_t rows, std::vector<double>& out, std::vector<double>& bound) {
    out.assign(rows * args.n, 0);
    bound.assign(rows * args.n, 0);
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t start = row / args.inner * args.n * args.inner + row % args.inner;
        std::vector<double> score(args.n);
        double top = -kInf, largest = 0;
        for (int64_t k = 0; k < args.n; ++k) {
            score[k] = double(args.scale) * args.input[start + k * args.inner];
            if (args.mask) score[k] += args.mask[row / args.mask_divide % args.mask_rows * args.n + k];
            top = std::max(top, score[k]);
            if (std::isfinite(score[k])) largest = std::max(largest, std::abs(score[k]));
        }
        double sum = 0;
        for (double s : score) sum += std::exp(s - top);
        for (int64_t k = 0; k < args.n; ++k) {
            const double y = std::exp(score[k] - top) / sum;
            out[start + k * args.inner] = args.log ? score[k] - top - std::log(sum) : y;
            // Scores are rounded up to three times (scale, mask, - top), each an error of |score| eps in the exponent;
            // exp, sum and product add a few eps relative to y.
            const double exponent = 6 * largest * kEps;
            bound[start + k * args.inner] =
                args.log ? 2 * exponent + (8 + double(args.n) / 16) * kEps * (1 + std::abs(out[start + k * args.inner]))
                         : y * (exponent + (8 + double(args.n) / 16) * kEps) + 1e-44;
        }
    }
}

TEST_P(RowKernels, Softmax) {
    for (int64_t n : kLengths) {
        for (int64_t inner : {1, 3, 16, 21}) {
            for (const auto& [log, range] : {std::pair(false, 20.0f), {true, 20.0f}, {false, 200.0f}, {true, 200.0f}}) {
                const int64_t outer = 3, rows = outer * inner;
                const Floats x = Floats::random(rows * n, 1, -range, range);  // the wide one underflows
                Floats y(rows * n);
                SoftmaxArgs args{
                    .input = x.data(), .output = y.data(), .n = n, .inner = inner, .scale = 0.7f, .log = log};
                run_split(rows, y, [&](int64_t b, int64_t e) { table().softmax(args, b, e); });
                std::vector<double> expected, bound;
                reference_softmax(args, rows, expected, bound);
                expect_close(y, expected, bound);
            }
        }
    }
}

TEST_P(RowKernels, SoftmaxWithMask) {
    const int64_t batch = 2, heads = 3, queries = 5;
    for (int64_t n : kLengths) {
        for (bool per_batch : {false, true}) {
            const int64_t rows = batch * heads * queries, mask_rows = per_batch ? batch : queries;
            const Floats x = Floats::random(rows * n, 2, -5, 5);
            Floats mask = Floats::random(mask_rows * n, 3, -2, 2);
            for (int64_t i = 0; i < mask.size(); i += 3) mask[i] = i % 2 ? -kInf : std::numeric_limits<float>::lowest();
            mask[0] = 0;
            Floats y(rows * n);
            const SoftmaxArgs args{.input = x.data(),
                                   .output = y.data(),
                                   .n = n,
                                   .scale = 0.125f,
                                   .mask = mask.data(),
                                   .mask_divide = per_batch ? heads * queries : 1,
                                   .mask_rows = mask_rows};
            run_split(rows, y, [&](int64_t b, int64_t e) { table().softmax(args, b, e); });
            if (n < 4) continue;  // rows of masked elements alone have no useful bound
            std::vector<double> expected, bound;
            reference_softmax(args, rows, expected, bound);
            for (int64_t row = 0; row < rows; ++row) {
                // A mask of -3.4e38 makes the bound above meaningless, though its element is 0: take the unmasked
                // ones'.
                for (int64_t k = 0; k < n; ++k) bound[row * n + k] = expected[row * n + k] * (20 + n / 16.0) * 4 * kEps;
            }
            expect_close(y, expected, bound);
        }
    }
}

TEST_P(RowKernels, SoftmaxOfNanIsNanAndInPlaceWorks) {
    Floats x = Floats::random(40, 4);
    x[25] = std::numeric_limits<float>::quiet_NaN();
    Floats y(40);
    SoftmaxArgs args{.input = x.data(), .output = y.data(), .n = 20};
    table().softmax(args, 0, 2);
    for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(std::isnan(y[i]), i >= 20);
    args.output = x.data();
    table().softmax(args, 0, 1);
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(x[i], y[i]);
}

// ---- Normalisation.

TEST_P(RowKernels, LayerAndRmsNorm) {
    for (int64_t n : kLengths) {
        for (int variant = 0; variant < 8; ++variant) {
            const bool rms = variant & 1, residual = variant & 2, affine = variant & 4;
            const int64_t rows = 9;
            // A large common offset: one-pass formulas would cancel here.
            const Floats x = Floats::random(rows * n, 5, 90, 110);
            const Floats extra = Floats::random(rows * n, 6, -10, 10);
            const Floats scale = Floats::random(n, 7), bias = Floats::random(n, 8);
            Floats y(rows * n), sum(rows * n), mean(rows), inv_std(rows);
            const NormArgs args{.input = x.data(),
                                .residual = residual ? extra.data() : nullptr,
                                .sum = affine ? sum.data() : nullptr,
                                .scale = affine ? scale.data() : nullptr,
                                .bias = affine ? bias.data() : nullptr,
                                .output = y.data(),
                                .mean = rms ? nullptr : mean.data(),
                                .inv_std = inv_std.data(),
                                .n = n,
                                .eps = 1e-3f};
            run_split(rows, y, [&](int64_t b, int64_t e) {
                rms ? table().rms_norm(args, b, e) : table().layer_norm(args, b, e);
            });
            std::vector<double> expected(rows * n), bound(rows * n);
            for (int64_t row = 0; row < rows; ++row) {
                double total = 0, squares = 0, largest = 0;
                std::vector<double> v(n);
                for (int64_t i = 0; i < n; ++i) {
                    v[i] = residual ? double(x[row * n + i] + extra[row * n + i]) : double(x[row * n + i]);
                    total += v[i];
                    largest = std::max(largest, std::abs(v[i]));
                    EXPECT_TRUE(!affine || sum[row * n + i] == float(v[i]));
                }
                const double m = rms ? 0 : total / n;
                for (int64_t i = 0; i < n; ++i) squares += (v[i] - m) * (v[i] - m);
                const double inverse = 1 / std::sqrt(squares / n + args.eps);
                const double k = 6 + n / 16.0;
                for (int64_t i = 0; i < n; ++i) {
                    const double g = affine ? scale[i] : 1, b = affine ? bias[i] : 0;
                    const double normal = (v[i] - m) * inverse;
                    expected[row * n + i] = normal * g + b;
                    // The mean's error shifts every element, and through the variance scales it.
                    const double shift = rms ? 0 : k * kEps * largest * inverse;
                    bound[row * n + i] =
                        std::abs(g) * (shift * (1 + std::abs(normal) * shift) + 2 * k * kEps * std::abs(normal)) +
                        4 * kEps * (std::abs(b) + std::abs(expected[row * n + i]));
                }
            }
            expect_close(y, expected, bound);
        }
    }
}

TEST_P(RowKernels, GroupNorm) {
    for (int64_t channels : {1, 6, 16, 24, 40, 96}) {
        for (int64_t groups : {int64_t{1}, int64_t{2}, int64_t{8}, channels}) {
            if (channels % groups) continue;
            for (int64_t pixels : {1, 7, 65, 200}) {
                const int64_t batch = 2, group = channels / groups;
                const Floats x = Floats::random(batch * pixels * channels, 9, 5, 9);
                const Floats scale = Floats::random(channels, 10), bias = Floats::random(channels, 11);
                Floats y(x.size());
                const GroupNormArgs args{.input = x.data(),
                                         .scale = scale.data(),
                                         .bias = bias.data(),
                                         .output = y.data(),
                                         .batch = batch,
                                         .pixels = pixels,
                                         .channels = channels,
                                         .groups = groups,
                                         .eps = 1e-2f};
                Floats scratch(group_norm_scratch(args));
                run_split(group_norm_items(args), y,
                          [&](int64_t b, int64_t e) { table().group_norm(args, b, e, scratch.data()); });
                ASSERT_TRUE(scratch.intact());
                std::vector<double> expected(x.size()), bound(x.size());
                for (int64_t b = 0; b < batch; ++b) {
                    for (int64_t g = 0; g < groups; ++g) {
                        const auto at = [&](int64_t p, int64_t c) {
                            return (b * pixels + p) * channels + g * group + c;
                        };
                        double mean = 0, squares = 0;
                        for (int64_t p = 0; p < pixels; ++p)
                            for (int64_t c = 0; c < group; ++c) mean += x[at(p, c)];
                        mean /= double(pixels * group);
                        for (int64_t p = 0; p < pixels; ++p)
                            for (int64_t c = 0; c < group; ++c) squares += std::pow(x[at(p, c)] - mean, 2);
                        const double inverse = 1 / std::sqrt(squares / double(pixels * group) + args.eps);
                        for (int64_t p = 0; p < pixels; ++p) {
                            for (int64_t c = 0; c < group; ++c) {
                                const double gamma = scale[g * group + c], beta = bias[g * group + c];
                                const double normal = (x[at(p, c)] - mean) * inverse;
                                expected[at(p, c)] = normal * gamma + beta;
                                const double k = (40 + pixels / 64.0) * kEps;  // runs of 64 in two chains of 32
                                bound[at(p, c)] = std::abs(gamma) * k * (9 * inverse + 2 * std::abs(normal)) +
                                                  4 * kEps * std::abs(beta);
                            }
                        }
                    }
                }
                expect_close(y, expected, bound);
            }
        }
    }
}

// ---- Reduction.

TEST_P(RowKernels, Reduce) {
    using K = ReduceKind;
    for (K kind : {K::sum, K::mean, K::max, K::min, K::prod, K::l1, K::l2, K::sum_square, K::log_sum, K::log_sum_exp}) {
        for (int64_t n : {0, 1, 5, 16, 49, 130, 1000}) {
            if (kind == K::prod && n > 49) continue;  // would leave the range of float
            for (int64_t inner : {1, 4, 17, 96}) {
                const int64_t outer = 3;
                const bool positive = kind == K::log_sum || kind == K::prod;
                const Floats x = Floats::random(outer * n * inner, 12, positive ? 0.5f : -3, positive ? 1.5f : 3);
                Floats y(outer * inner);
                const ReduceArgs args{.input = x.data(), .output = y.data(), .n = n, .inner = inner, .kind = kind};
                run_split(outer * inner, y, [&](int64_t b, int64_t e) { table().reduce(args, b, e); });
                std::vector<double> expected, bound;
                for (int64_t item = 0; item < outer * inner; ++item) {
                    double sum = 0, sum_abs = 0, squares = 0, product = 1, top = -kInf, low = kInf, sum_exp = 0;
                    for (int64_t k = 0; k < n; ++k) {
                        const double v = x[(item / inner * n + k) * inner + item % inner];
                        sum += v, sum_abs += std::abs(v), squares += v * v, product *= v;
                        top = std::max(top, v), low = std::min(low, v), sum_exp += std::exp(v);
                    }
                    const double roundings = (n / 4.0 + 8) * kEps;  // the longest chain: a quarter of a short row
                    switch (kind) {
                        case K::sum:
                            expected.push_back(sum), bound.push_back(roundings * sum_abs);
                            break;
                        case K::mean:
                            expected.push_back(sum / n), bound.push_back(roundings * sum_abs / n);
                            break;
                        case K::max:
                            expected.push_back(top), bound.push_back(0);
                            break;
                        case K::min:
                            expected.push_back(low), bound.push_back(0);
                            break;
                        case K::prod:
                            expected.push_back(product), bound.push_back((n + 1) * kEps * product);
                            break;
                        case K::l1:
                            expected.push_back(sum_abs), bound.push_back(roundings * sum_abs);
                            break;
                        case K::l2:
                            expected.push_back(std::sqrt(squares)), bound.push_back(roundings * std::sqrt(squares));
                            break;
                        case K::sum_square:
                            expected.push_back(squares), bound.push_back(roundings * squares);
                            break;
                        case K::log_sum:
                            expected.push_back(std::log(sum));
                            bound.push_back(roundings + 2 * kEps * std::abs(std::log(sum)));
                            break;
                        case K::log_sum_exp:
                            expected.push_back(std::log(sum_exp));
                            bound.push_back(roundings + 8 * kEps + 2 * kEps * std::abs(std::log(sum_exp)));
                            break;
                    }
                }
                expect_close(y, expected, bound);
            }
        }
    }
}

TEST_P(RowKernels, ArgExtreme) {
    for (int64_t n : {1, 2, 30, 64, 100, 1000}) {
        for (int64_t inner : {1, 5}) {
            for (int variant = 0; variant < 8; ++variant) {
                const int64_t outer = 4;
                Floats x = Floats::random(outer * n * inner, 13, -4, 4);
                for (int64_t i = 0; i < x.size(); ++i) x[i] = std::round(x[i]);  // many equals
                if (variant & 4) x[n * inner / 2] = std::numeric_limits<float>::quiet_NaN();
                std::vector<int64_t> y(outer * inner, -1);
                const ArgExtremeArgs args{.input = x.data(),
                                          .output = y.data(),
                                          .n = n,
                                          .inner = inner,
                                          .smallest = bool(variant & 1),
                                          .last_index = bool(variant & 2)};
                table().arg_extreme(args, 0, outer * inner);
                for (int64_t item = 0; item < outer * inner; ++item) {
                    int64_t best = 0;
                    const auto at = [&](int64_t k) { return x[(item / inner * n + k) * inner + item % inner]; };
                    for (int64_t k = 1; k < n; ++k) {
                        if (std::isnan(at(best))) break;
                        const float a = args.smallest ? -at(k) : at(k), b = args.smallest ? -at(best) : at(best);
                        if (a > b || std::isnan(a) || (a == b && args.last_index)) best = k;
                    }
                    ASSERT_EQ(y[item], best);
                }
            }
        }
    }
}

// ---- Channels and recurrent steps.

TEST_P(RowKernels, PreluAndScaleShift) {
    for (int64_t channels : {1, 5, 16, 35}) {
        const int64_t rows = 11;
        const Floats x = Floats::random(rows * channels, 14);
        const Floats scale = Floats::random(channels, 15), shift = Floats::random(channels, 16);
        Floats y(x.size());
        const ChannelArgs args{x.data(), y.data(), scale.data(), shift.data(), channels};
        std::vector<double> prelu(x.size()), affine(x.size());
        for (int64_t i = 0; i < x.size(); ++i) {
            prelu[i] = x[i] < 0 ? double(x[i]) * scale[i % channels] : x[i];
            affine[i] = double(x[i]) * scale[i % channels] + shift[i % channels];
        }
        run_split(rows, y, [&](int64_t b, int64_t e) { table().prelu(args, b, e); });
        expect_close(y, prelu, {9 * kEps});
        run_split(rows, y, [&](int64_t b, int64_t e) { table().scale_shift(args, b, e); });
        expect_close(y, affine, {2 * 12 * kEps});
    }
}

double sigmoid(double x) {
    return 1 / (1 + std::exp(-x));
}

TEST_P(RowKernels, LstmStep) {
    for (int64_t n : {1, 7, 16, 50}) {
        for (bool peephole : {false, true}) {
            const int64_t batch = 5;
            Floats gates = Floats::random(batch * 4 * n, 17, -6, 6);
            for (int64_t i = 0; i < gates.size(); i += 5) gates[i] *= 0.01f;  // where tanh cancels
            const Floats cell = Floats::random(batch * n, 18), p = Floats::random(3 * n, 19, -1, 1);
            Floats cell_out(batch * n), hidden(batch * n);
            const LstmStepArgs args{.gates = gates.data(),
                                    .gates_stride = 4 * n,
                                    .cell_in = cell.data(),
                                    .cell_out = cell_out.data(),
                                    .hidden_out = hidden.data(),
                                    .hidden = n,
                                    .hidden_stride = n,
                                    .peephole = peephole ? p.data() : nullptr};
            run_split(batch, hidden, [&](int64_t b, int64_t e) { table().lstm_step(args, b, e); });
            std::vector<double> cells, hiddens;
            for (int64_t b = 0; b < batch; ++b) {
                for (int64_t i = 0; i < n; ++i) {
                    const float* g = gates.data() + b * 4 * n;
                    const double c = cell[b * n + i], pi = peephole ? p[i] : 0, po = peephole ? p[n + i] : 0,
                                 pf = peephole ? p[2 * n + i] : 0;
                    const double next =
                        sigmoid(g[2 * n + i] + pf * c) * c + sigmoid(g[i] + pi * c) * std::tanh(g[3 * n + i]);
                    cells.push_back(next);
                    hiddens.push_back(sigmoid(g[n + i] + po * next) * std::tanh(next));
                }
            }
            // Gate arguments up to 9 with slope at most 1/4, products up to 4, a handful of roundings each.
            expect_close(cell_out, cells, {40 * kEps});
            expect_close(hidden, hiddens, {60 * kEps});
        }
    }
}

TEST_P(RowKernels, GruStep) {
    for (int64_t n : {1, 7, 16, 50}) {
        for (bool linear : {false, true}) {
            const int64_t batch = 5;
            const Floats x = Floats::random(batch * 3 * n, 20), h = Floats::random(batch * 3 * n, 21);
            const Floats before = Floats::random(batch * n, 22, -1, 1);
            Floats after(batch * n);
            const GruStepArgs args{.x_gates = x.data(),
                                   .h_gates = h.data(),
                                   .gates_stride = 3 * n,
                                   .hidden_in = before.data(),
                                   .hidden_out = after.data(),
                                   .hidden = n,
                                   .hidden_stride = n,
                                   .linear_before_reset = linear};
            run_split(batch, after, [&](int64_t b, int64_t e) { table().gru_step(args, b, e); });
            std::vector<double> expected;
            for (int64_t b = 0; b < batch; ++b) {
                for (int64_t i = 0; i < n; ++i) {
                    const int64_t g = b * 3 * n + i;
                    const double z = sigmoid(double(x[g]) + h[g]), r = sigmoid(double(x[g + n]) + h[g + n]);
                    const double candidate = std::tanh(x[g + 2 * n] + (linear ? r : 1) * h[g + 2 * n]);
                    expected.push_back((1 - z) * candidate + z * before[b * n + i]);
                }
            }
            expect_close(after, expected, {40 * kEps});
        }
    }
}

}  // namespace
}  // namespace planish::cpu
