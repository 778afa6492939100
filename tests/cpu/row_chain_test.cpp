// Chains of convolutions by bands of rows: the same bits as the convolutions one after the other, for any cut.
#include "backends/cpu/jit/row_chain.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu {
namespace {

using Kind = PostOp::Kind;

std::vector<float> random_floats(int64_t count, std::mt19937& random) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = uniform(random);
    return values;
}

/// expand (any kernel) -> depthwise -> project, of random sizes; the last adds a tensor of all images.
struct Network {
    ConvShape expand, project;
    DepthwiseShape depthwise;
    PostOps activation{{Kind::add_channel, 0, 0, 0}, {Kind::clip, 0, 6}};
    PostOps residual{{Kind::add_channel, 0, 0, 0}, {Kind::add_tensor, 0, 0, 1}};
    int64_t images = 1;

    explicit Network(std::mt19937& random) {
        const auto pick = [&](int64_t low, int64_t high) { return std::uniform_int_distribution(low, high)(random); };
        images = pick(1, 3);
        expand.h = pick(5, 60);
        expand.w = pick(5, 40);
        expand.c = pick(1, 20);
        expand.oc = pick(2, 150);
        if (pick(0, 2) == 0) {
            expand.kh = expand.kw = 3;
            expand.stride_h = expand.stride_w = pick(1, 2);
            expand.pad_top = expand.pad_left = pick(0, 1);
            expand.pad_bottom = expand.pad_right = pick(0, 1);
            expand.x_nchw = pick(0, 1) == 0;
        }
        depthwise.height = expand.oh();
        depthwise.width = expand.ow();
        depthwise.channels = expand.oc;
        const int64_t kernel = std::min({pick(0, 1) == 0 ? int64_t{3} : int64_t{5}, depthwise.height, depthwise.width});
        depthwise.kernel_h = depthwise.kernel_w = kernel;
        depthwise.stride_h = depthwise.stride_w = pick(1, 2);
        depthwise.pad_top = depthwise.pad_left = pick(0, kernel / 2);
        depthwise.pad_bottom = depthwise.pad_right = pick(0, kernel / 2);
        project.h = depthwise.out_height();
        project.w = depthwise.out_width();
        project.c = expand.oc;
        project.oc = pick(1, 40);
    }
};

class RowChainTest : public testing::TestWithParam<Isa> {};

TEST_P(RowChainTest, SameBitsAsItsLinksOneByOne) {
    const Isa isa = GetParam();
    if (hardware_isa() < isa) GTEST_SKIP() << "this processor lacks " << to_string(isa);
    ThreadPool pool(3);
    std::mt19937 random(5);
    int several_bands = 0, windows_moved = 0;
    for (int i = 0; i < 40; ++i) {
        const Network n(random);
        SCOPED_TRACE(testing::Message() << "case " << i << ": " << n.images << "x" << n.expand.h << "x" << n.expand.w
                                        << "x" << n.expand.c << " -> " << n.expand.oc << " -> " << n.project.oc);
        ConvShape expand = n.expand, project = n.project;
        DepthwiseShape depthwise = n.depthwise;
        const auto one =
            std::make_shared<const ConvPlan>(expand, n.activation, isa, PanelWidth{}, ConvPlan::Order::rows);
        const auto two = std::make_shared<const DepthwisePlan>(depthwise, n.activation, isa);
        const auto three =
            std::make_shared<const ConvPlan>(project, n.residual, isa, PanelWidth{}, ConvPlan::Order::rows);
        const RowChain chain({{one, n.activation}, {two, n.activation}, {three, n.residual}});
        several_bands += chain.band_rows() < project.h;
        windows_moved += chain.window_floats() < expand.oh() * expand.ow() * expand.oc;

        const auto x = random_floats(n.images * expand.h * expand.w * expand.c, random);
        const auto w1 = random_floats(expand.oc * expand.c * expand.kh * expand.kw, random);
        const auto w2 = random_floats(depthwise.channels * depthwise.kernel_h * depthwise.kernel_w, random);
        const auto w3 = random_floats(project.oc * project.c, random);
        const auto bias = random_floats(std::max(expand.oc, project.oc), random);
        const int64_t out = n.images * project.h * project.w * project.oc;
        const auto residual = random_floats(out, random);
        std::vector<float> p1(static_cast<size_t>(one->packed_weight_size())), p2(depthwise_packed_size(depthwise)),
            p3(static_cast<size_t>(three->packed_weight_size()));
        one->pack_weights(w1.data(), p1.data());
        pack_depthwise_weights(depthwise, w2.data(), p2.data());
        three->pack_weights(w3.data(), p3.data());
        const float* channel[] = {bias.data()};
        const float* with_residual[] = {bias.data(), residual.data()};

        // One by one, all images at once.
        expand.n = project.n = depthwise.batch = n.images;
        const ConvPlan all1(expand, n.activation, isa, {one->weight_layout().nr, one->weight_layout().vector});
        const DepthwisePlan all2(depthwise, n.activation, isa);
        const ConvPlan all3(project, n.residual, isa, {three->weight_layout().nr, three->weight_layout().vector});
        std::vector<float> a(static_cast<size_t>(n.images * depthwise.height * depthwise.width * depthwise.channels)),
            b(static_cast<size_t>(n.images * project.h * project.w * project.c)), expected(static_cast<size_t>(out));
        std::vector<std::byte> scratch(std::max(all1.workspace(1), all3.workspace(1)));
        all1.run(x.data(), p1.data(), a.data(), channel, scratch.data(), pool, 1);
        all2.run(a.data(), p2.data(), b.data(), channel, pool, 1);
        all3.run(b.data(), p3.data(), expected.data(), with_residual, scratch.data(), pool, 1);

        const LinkArgs args[] = {{p1.data(), channel}, {p2.data(), channel}, {p3.data(), with_residual}};
        for (const int threads : {1, 2, 3}) {
            // What no band has written must not be read.
            AlignedBuffer workspace(chain.workspace(threads));
            std::fill_n(reinterpret_cast<float*>(workspace.data()), workspace.size() / sizeof(float),
                        std::numeric_limits<float>::quiet_NaN());
            std::vector<float> y(static_cast<size_t>(out), -1);
            chain.run(x.data(), y.data(), n.images, args, workspace.data(), pool, threads);
            ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0) << threads << " threads";
        }
    }
    EXPECT_GT(several_bands, 10);
    EXPECT_GT(windows_moved, 5);
}

INSTANTIATE_TEST_SUITE_P(Isas, RowChainTest, testing::Values(Isa::avx2, Isa::avx512),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace planish::cpu
