// Signal processing: DFT, STFT, window functions, MelWeightMatrix.
#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

namespace {

using Complex = std::complex<double>;

/// sum over n of x[n] e^(sign 2 pi i k n / N) for k < N. Powers of two are halved; other sizes are summed as they are
/// defined, with the exact N-th roots of unity.
void transform(std::vector<Complex>& x, double sign) {
    const size_t n = x.size();
    if (n < 2) return;
    if (n % 2 == 0 && (n & (n - 1)) == 0) {
        std::vector<Complex> even(n / 2), odd(n / 2);
        for (size_t i = 0; i < n / 2; ++i) {
            even[i] = x[2 * i];
            odd[i] = x[2 * i + 1];
        }
        transform(even, sign);
        transform(odd, sign);
        for (size_t k = 0; k < n / 2; ++k) {
            const Complex turned =
                std::polar(1.0, sign * 2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n)) * odd[k];
            x[k] = even[k] + turned;
            x[k + n / 2] = even[k] - turned;
        }
        return;
    }
    std::vector<Complex> roots(n), out(n);
    for (size_t k = 0; k < n; ++k)
        roots[k] = std::polar(1.0, sign * 2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n));
    for (size_t k = 0; k < n; ++k)
        for (size_t i = 0; i < n; ++i) out[k] += x[i] * roots[k * i % n];
    x = std::move(out);
}

}  // namespace

/// Inputs: x [..., n, ..., 1 or 2], dft_length, axis. With `onesided` the forward transform gives the first half of the
/// spectrum, and the inverse takes it and gives real values.
void dft(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    int64_t axis = ctx.has_input(2) ? ctx.input(2).at_int64(0) : -2;
    if (axis < -x.rank() || axis >= x.rank() || x.rank() < 2)
        ctx.error("axis " + std::to_string(axis) + " is out of range for shape " + to_string(x.dims()));
    if (axis < 0) axis += x.rank();
    if (axis == x.rank() - 1) ctx.error("the last axis holds the real and imaginary parts and cannot be transformed");
    const int64_t parts = x.dim(-1), size = x.dim(axis);
    if (parts != 1 && parts != 2) ctx.error("the last axis must be 1 (real) or 2 (complex)");
    const bool inverse = ctx.integer("inverse") != 0, onesided = ctx.integer("onesided") != 0;
    int64_t length = inverse && onesided ? 2 * (size - 1) : size;
    if (ctx.has_input(1)) length = ctx.input(1).at_int64(0);
    if (length < 1) ctx.error("a transform of length " + std::to_string(length));
    Dims out_dims = x.dims();
    out_dims[static_cast<size_t>(axis)] = onesided && !inverse ? length / 2 + 1 : length;
    out_dims.back() = onesided && inverse ? 1 : 2;
    Tensor& out = ctx.output(0, x.dtype(), out_dims);
    if (out.size() == 0) return;

    int64_t inner = 1;  // positions inside the axis, without the parts
    for (int64_t d = axis + 1; d + 1 < x.rank(); ++d) inner *= x.dim(d);
    const int64_t lines = x.size() / parts / std::max<int64_t>(size, 1), out_size = out.dim(axis);
    const std::vector<double> in = read_all<double>(x);
    std::vector<double> result(static_cast<size_t>(out.size()));
    std::vector<Complex> line(static_cast<size_t>(length));
    for (int64_t l = 0; l < lines; ++l) {
        const int64_t base = l / inner * inner * size + l % inner, out_base = l / inner * inner * out_size + l % inner;
        std::fill(line.begin(), line.end(), Complex());
        for (int64_t i = 0; i < std::min(size, length); ++i) {
            const double* from = in.data() + (base + i * inner) * parts;
            line[static_cast<size_t>(i)] = {from[0], parts == 2 ? from[1] : 0};
        }
        if (inverse && onesided) {  // the other half is the conjugate; only the first length / 2 + 1 places count
            for (int64_t i = length / 2 + 1; i < length; ++i)
                line[static_cast<size_t>(i)] = std::conj(line[static_cast<size_t>(length - i)]);
            line[0] = line[0].real();
            if (length % 2 == 0) line[static_cast<size_t>(length / 2)] = line[static_cast<size_t>(length / 2)].real();
        }
        transform(line, inverse ? 1 : -1);
        for (int64_t i = 0; i < out_size; ++i) {
            const Complex v = line[static_cast<size_t>(i)] / (inverse ? static_cast<double>(length) : 1.0);
            double* to = result.data() + (out_base + i * inner) * out_dims.back();
            to[0] = v.real();
            if (out_dims.back() == 2) to[1] = v.imag();
        }
    }
    write_all(result, out);
}

/// Inputs: signal [batch, length, 1 or 2], frame_step, window, frame_length. Output: [batch, frames, bins, 2].
void stft(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    if (x.rank() != 3 || (x.dim(2) != 1 && x.dim(2) != 2))
        ctx.error("the signal of shape " + to_string(x.dims()) + " must be [batch, length, 1 or 2]");
    const int64_t step = ctx.input(1).at_int64(0), parts = x.dim(2), length = x.dim(1);
    int64_t frame = length;
    if (ctx.has_input(3))
        frame = ctx.input(3).at_int64(0);
    else if (ctx.has_input(2))
        frame = ctx.input(2).size();
    if (step < 1 || frame < 1 || frame > length)
        ctx.error("frames of " + std::to_string(frame) + " by steps of " + std::to_string(step) +
                  " do not fit a signal of length " + std::to_string(length));
    std::vector<double> window(static_cast<size_t>(frame), 1.0);
    if (ctx.has_input(2)) {
        if (ctx.input(2).size() != frame) ctx.error("the window must be as long as a frame");
        window = read_all<double>(ctx.input(2));
    }
    const bool onesided = ctx.integer("onesided") != 0;
    const int64_t frames = (length - frame) / step + 1, bins = onesided ? frame / 2 + 1 : frame;
    Tensor& out = ctx.output(0, x.dtype(), {x.dim(0), frames, bins, 2});
    const std::vector<double> in = read_all<double>(x);
    std::vector<double> result(static_cast<size_t>(out.size()));
    double* to = result.data();
    for (int64_t n = 0; n < x.dim(0); ++n)
        for (int64_t f = 0; f < frames; ++f) {
            std::vector<Complex> line(static_cast<size_t>(frame));
            for (int64_t i = 0; i < frame; ++i) {
                const double* from = in.data() + (n * length + f * step + i) * parts;
                line[static_cast<size_t>(i)] =
                    Complex(from[0], parts == 2 ? from[1] : 0) * window[static_cast<size_t>(i)];
            }
            transform(line, -1);
            for (int64_t k = 0; k < bins; ++k) {
                *to++ = line[static_cast<size_t>(k)].real();
                *to++ = line[static_cast<size_t>(k)].imag();
            }
        }
    write_all(result, out);
}

namespace {

/// a0 - a1 cos(2 pi n / m) + a2 cos(4 pi n / m), m = size (periodic) or size - 1.
void cosine_window(RefContext& ctx, double a0, double a1, double a2) {
    const int64_t size = ctx.input(0).at_int64(0);
    if (size < 0) ctx.error("a window of size " + std::to_string(size));
    Tensor& out = ctx.output(0, static_cast<DType>(ctx.integer("output_datatype")), {size});
    const double period = static_cast<double>(ctx.integer("periodic") ? size : size - 1);
    std::vector<double> w(static_cast<size_t>(size));
    for (size_t n = 0; n < w.size(); ++n) {
        // A window of one place is all of its own period.
        const double phase = period == 0 ? 0 : 2 * std::numbers::pi * static_cast<double>(n) / period;
        w[n] = period == 0 ? 1 : a0 - a1 * std::cos(phase) + a2 * std::cos(2 * phase);
    }
    write_all(w, out);
}

}  // namespace

void hann_window(RefContext& ctx) {
    cosine_window(ctx, 0.5, 0.5, 0);
}
void hamming_window(RefContext& ctx) {
    cosine_window(ctx, 25.0 / 46, 21.0 / 46, 0);
}
void blackman_window(RefContext& ctx) {
    cosine_window(ctx, 0.42, 0.5, 0.08);
}

/// Triangular filters, equally spaced on the mel scale. Inputs: num_mel_bins, dft_length, sample_rate,
/// lower_edge_hertz, upper_edge_hertz. Output: [dft_length / 2 + 1, num_mel_bins].
void mel_weight_matrix(RefContext& ctx) {
    const int64_t mels = ctx.input(0).at_int64(0), length = ctx.input(1).at_int64(0), rate = ctx.input(2).at_int64(0);
    const double low = ctx.input(3).at_double(0), high = ctx.input(4).at_double(0);
    if (mels < 1 || length < 1 || rate < 1) ctx.error("bins, length and rate must be positive");
    const int64_t rows = length / 2 + 1;
    Tensor& out = ctx.output(0, static_cast<DType>(ctx.integer("output_datatype")), {rows, mels});
    const auto to_mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
    const double first = to_mel(low), step = (to_mel(high) - first) / static_cast<double>(mels + 2);
    std::vector<int64_t> bins;
    for (int64_t i = 0; i < mels + 2; ++i) {
        const double hertz = 700 * (std::pow(10, (first + static_cast<double>(i) * step) / 2595) - 1);
        bins.push_back(
            static_cast<int64_t>(std::floor(static_cast<double>(length + 1) * hertz / static_cast<double>(rate))));
    }
    std::vector<double> m(static_cast<size_t>(rows * mels), 0.0);
    const auto set = [&](int64_t row, int64_t column, double value) {
        if (row >= 0 && row < rows) m[static_cast<size_t>(row * mels + column)] = value;
    };
    for (int64_t i = 0; i < mels; ++i) {
        const auto at = static_cast<size_t>(i);
        const int64_t left = bins[at], centre = bins[at + 1], right = bins[at + 2];
        if (centre == left) set(centre, i, 1);
        for (int64_t j = std::max<int64_t>(left, 0); j <= std::min(centre, rows) && centre > left; ++j)
            set(j, i, static_cast<double>(j - left) / static_cast<double>(centre - left));
        for (int64_t j = std::max<int64_t>(centre, 0); j < std::min(right, rows); ++j)
            set(j, i, static_cast<double>(right - j) / static_cast<double>(right - centre));
    }
    write_all(m, out);
}

}  // namespace planish::reference
