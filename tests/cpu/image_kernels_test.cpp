// Pooling and transposes against plain loops, on every ISA and odd sizes.
#include <limits>

#include "cpu/kernel_test_util.hpp"

namespace planish::cpu {
namespace {

class ImageKernels : public testing::TestWithParam<Isa> {
  protected:
    const KernelTable& table() const { return kernels(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Isa, ImageKernels, testing::ValuesIn(isas_here()), isa_name);

struct Window {
    int64_t kernel, stride, dilation, pad_begin, pad_end;
    bool ceil;
    // ONNX: with ceil_mode a window that would start in the end padding is dropped.
    int64_t out(int64_t in) const {
        const int64_t reach = in + pad_begin + pad_end - (dilation * (kernel - 1) + 1);
        int64_t size = (ceil ? (reach + stride - 1) / stride : reach / stride) + 1;
        if (ceil && (size - 1) * stride >= in + pad_begin) --size;
        return size;
    }
};

TEST_P(ImageKernels, Pool) {
    const Window windows[] = {{1, 1, 1, 0, 0, false}, {2, 2, 1, 0, 0, false}, {3, 2, 1, 1, 1, false},
                              {3, 2, 1, 0, 0, true},  {3, 1, 2, 2, 2, false}, {5, 3, 1, 1, 2, true},
                              {2, 3, 1, 1, 0, true}};
    for (const Window& h : windows) {
        for (const Window& w : {windows[2], windows[5]}) {
            for (int64_t channels : {1, 3, 16, 19, 70, 130}) {
                for (int variant = 0; variant < 3; ++variant) {
                    const int64_t batch = 2, in_h = 9, in_w = 11;
                    PoolArgs args;
                    args.channels = channels;
                    args.in_height = in_h, args.in_width = in_w;
                    args.out_height = h.out(in_h), args.out_width = w.out(in_w);
                    args.kernel_h = h.kernel, args.kernel_w = w.kernel;
                    args.stride_h = h.stride, args.stride_w = w.stride;
                    args.dilation_h = h.dilation, args.dilation_w = w.dilation;
                    args.pad_top = h.pad_begin, args.pad_bottom = h.pad_end;
                    args.pad_left = w.pad_begin, args.pad_right = w.pad_end;
                    args.average = variant > 0;
                    args.count_include_pad = variant > 1;
                    args.set_dense_strides();
                    const Floats x = Floats::random(batch * in_h * in_w * channels, 30);
                    Floats y(batch * args.out_height * args.out_width * channels);
                    args.input = x.data(), args.output = y.data();
                    run_split(batch * args.out_height, y, [&](int64_t b, int64_t e) { table().pool(args, b, e); });
                    std::vector<double> expected;
                    for (int64_t b = 0; b < batch; ++b) {
                        for (int64_t oy = 0; oy < args.out_height; ++oy) {
                            for (int64_t ox = 0; ox < args.out_width; ++ox) {
                                for (int64_t c = 0; c < channels; ++c) {
                                    double sum = 0, top = -INFINITY, real = 0, padded = 0;
                                    for (int64_t ky = 0; ky < h.kernel; ++ky) {
                                        for (int64_t kx = 0; kx < w.kernel; ++kx) {
                                            const int64_t iy = oy * h.stride + ky * h.dilation - h.pad_begin;
                                            const int64_t ix = ox * w.stride + kx * w.dilation - w.pad_begin;
                                            padded += iy < in_h + h.pad_end && ix < in_w + w.pad_end;
                                            if (iy < 0 || iy >= in_h || ix < 0 || ix >= in_w) continue;
                                            const double v = x[((b * in_h + iy) * in_w + ix) * channels + c];
                                            sum += v, ++real, top = std::max(top, v);
                                        }
                                    }
                                    expected.push_back(!args.average            ? top
                                                       : args.count_include_pad ? sum / padded
                                                                                : sum / real);
                                }
                            }
                        }
                    }
                    // Up to 25 additions of values up to 3, divided by at least 1 position.
                    expect_close(y, expected, {args.average ? (h.kernel * w.kernel + 2) * 3 * kEps : 0.0});
                }
            }
        }
    }
}

TEST_P(ImageKernels, Transpose) {
    for (int64_t rows : {1, 5, 16, 37}) {
        for (int64_t columns : {1, 4, 16, 33, 48}) {
            const int64_t in_stride = columns + 3, out_stride = rows + 2;
            const Floats x = Floats::random(rows * in_stride, 31);
            Floats y(columns * out_stride, 0);
            const TransposeArgs args{x.data(), y.data(), columns, in_stride, out_stride};
            // The gaps between output rows are never written: run_split's filler stays in them.
            table().transpose(args, 0, rows);
            for (int64_t c = 0; c < columns; ++c)
                for (int64_t r = 0; r < out_stride; ++r)
                    ASSERT_EQ(y[c * out_stride + r], r < rows ? x[r * in_stride + c] : 0);
            ASSERT_TRUE(y.intact());
        }
    }
}

}  // namespace
}  // namespace planish::cpu
