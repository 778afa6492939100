// How a launch's items are shared out.
#include "backends/cpu/split.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace planish::cpu {
namespace {

TEST(SplitItems, EveryItemOnceInPiecesThatDifferByOne) {
    ThreadPool pool(3);
    for (const int threads : {1, 2, 3}) {
        for (const int64_t items : {0, 1, 2, 5, 9, 13, 24, 25, 1000}) {
            for (const int64_t cost : {1, 1000, 1'000'000}) {
                SCOPED_TRACE(testing::Message() << threads << " threads, " << items << " items of " << cost << " ns");
                std::mutex mutex;
                std::vector<int> seen(static_cast<size_t>(items));
                std::vector<int64_t> pieces;
                Launch launch;
                launch.pool = &pool;
                launch.threads = threads;
                split_items(launch, items, cost, [&](int64_t begin, int64_t end, int thread) {
                    const std::lock_guard lock(mutex);
                    EXPECT_LT(thread, threads);
                    EXPECT_LT(begin, end);
                    pieces.push_back(end - begin);
                    for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
                });
                for (const int count : seen) EXPECT_EQ(count, 1);
                if (pieces.empty()) continue;
                const auto [low, high] = std::minmax_element(pieces.begin(), pieces.end());
                EXPECT_LE(*high - *low, 1);
                if (threads > 1 && cost == 1'000'000) {
                    EXPECT_GE(static_cast<int64_t>(pieces.size()), std::min<int64_t>(items, threads));
                }
            }
        }
    }
}

}  // namespace
}  // namespace planish::cpu
