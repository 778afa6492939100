// Bands of rows through a chain: each link adds the rows that the next one lacks to a sliding window.
#include "backends/cpu/jit/row_chain.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "base/thread_pool.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t kWindowBytes = 384 * 1024;  // of all windows: with weights and input, what L2 keeps
constexpr int64_t kSlackBytes = 192 * 1024;   // of each, beyond that: room to slide on before the overlap is moved

constexpr int64_t round_up(int64_t n, int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

}  // namespace

int64_t ChainLink::rows() const {
    if (const auto* depthwise = std::get_if<1>(&plan)) return (*depthwise)->shape().out_height();
    return std::get<0>(plan)->shape().oh();
}

int64_t ChainLink::row_floats() const {
    if (const auto* depthwise = std::get_if<1>(&plan))
        return (*depthwise)->shape().out_width() * (*depthwise)->shape().channels;
    const ConvShape& s = std::get<0>(plan)->shape();
    return s.ow() * s.oc;
}

int64_t ChainLink::input_floats() const {
    if (const auto* depthwise = std::get_if<1>(&plan)) {
        const DepthwiseShape& s = (*depthwise)->shape();
        return s.height * s.width * s.channels;
    }
    const ConvShape& s = std::get<0>(plan)->shape();
    return s.h * s.w * s.c;
}

size_t ChainLink::scratch() const {
    return plan.index() == 1 ? 0 : std::get<0>(plan)->workspace(1);
}

std::pair<int64_t, int64_t> ChainLink::input_rows(int64_t begin, int64_t end) const {
    return std::visit([&](const auto& p) { return p->input_rows(begin, end); }, plan);
}

void ChainLink::run_rows(const float* x, const float* weights, float* y, std::span<const float* const> operands,
                         void* scratch, int64_t begin, int64_t end) const {
    if (const auto* depthwise = std::get_if<1>(&plan))
        (*depthwise)->run_rows(x, weights, y, operands, begin, end);
    else
        std::get<0>(plan)->run_rows(x, weights, y, operands, scratch, begin, end);
}

// Where a thread is: what its windows hold lets it go on with the next row for no more than that row. At the front of
// its scratch.
struct alignas(64) RowChain::Place {
    struct Window {
        float* memory = nullptr;
        int64_t first = 0;  // row at which the memory begins
        int64_t end = 0;    // of the rows that are there
    };

    int64_t image = -1, row = 0;  // that may follow
    std::array<Window, kMaxLinks> windows;
    std::byte* link_scratch = nullptr;
};

RowChain::RowChain(std::vector<ChainLink> links) : links_(std::move(links)) {
    for (const ChainLink& link : links_) link_scratch_ = std::max(link_scratch_, link.scratch());
    // The most rows whose windows fit: every band computes anew or moves the rows that it shares with the one before.
    const int64_t rows = links_.back().rows();
    int64_t band = rows;
    while (band > 1 && window_floats_for(rows_held(band)) * 4 > kWindowBytes)
        band = band > 2 ? round_up(band / 2, 2) : 1;
    const int64_t bands = (rows + band - 1) / band;
    band_rows_ = std::min(band, round_up((rows + bands - 1) / bands, 2));  // even: depthwise rows pair up
    capacity_ = rows_held(band_rows_);
    if (rows > 2 * band_rows_) add_slack();
    window_floats_ = window_floats_for(capacity_);
}

// A window that begins anew where the last one ended moves what they share to its front. With room behind it, it slides
// on instead, and moves only once in some bands.
void RowChain::add_slack() {
    const auto one = rows_needed(band_rows_, 2 * band_rows_);
    const auto next = rows_needed(2 * band_rows_, std::min(3 * band_rows_, links_.back().rows()));
    for (size_t i = 0; i < capacity_.size(); ++i) {
        const int64_t step = next[i].first - one[i].first, row = links_[i].row_floats();
        if (next[i].first >= one[i].second || step <= 0) continue;
        const int64_t steps = kSlackBytes / static_cast<int64_t>(sizeof(float)) / (step * row);
        capacity_[i] = std::min(capacity_[i] + steps * step, links_[i].rows());
    }
}

std::vector<std::pair<int64_t, int64_t>> RowChain::rows_needed(int64_t begin, int64_t end) const {
    std::vector<std::pair<int64_t, int64_t>> needed(links_.size());
    needed.back() = {begin, end};
    for (size_t i = links_.size() - 1; i-- > 0;)
        needed[i] = links_[i + 1].input_rows(needed[i + 1].first, needed[i + 1].second);
    return needed;
}

std::vector<int64_t> RowChain::rows_held(int64_t band) const {
    std::vector<int64_t> most(links_.size() - 1, 0);
    const int64_t rows = links_.back().rows();
    for (int64_t begin = 0; begin < rows; ++begin) {
        const auto needed = rows_needed(begin, std::min(begin + band, rows));
        for (size_t i = 0; i < most.size(); ++i) most[i] = std::max(most[i], needed[i].second - needed[i].first);
    }
    return most;
}

int64_t RowChain::window_floats_for(const std::vector<int64_t>& rows) const {
    int64_t total = 0;
    for (size_t i = 0; i < rows.size(); ++i) total += round_up(rows[i] * links_[i].row_floats(), 16);
    return total;
}

size_t RowChain::workspace(int max_threads) const {
    return (sizeof(Place) + link_scratch_ + static_cast<size_t>(window_floats_) * sizeof(float)) *
           static_cast<size_t>(std::max(1, max_threads));
}

void RowChain::run_bands(const float* x, float* y, std::span<const LinkArgs> args, int64_t image, int64_t begin,
                         int64_t end, Place& place) const {
    std::array<std::array<const float*, kMaxOperands>, kMaxLinks> operands;
    const size_t last = links_.size() - 1;
    for (size_t i = 0; i <= last; ++i) {
        const ChainLink& link = links_[i];
        std::copy(args[i].operands.begin(), args[i].operands.end(), operands[i].begin());
        for (const PostOp& op : link.post_ops)
            if (has_tensor_operand(op.kind))
                operands[i][static_cast<size_t>(op.operand)] =
                    args[i].operands[static_cast<size_t>(op.operand)] + image * link.rows() * link.row_floats();
    }
    if (place.image != image || place.row != begin)
        for (Place::Window& window : place.windows) window.end = 0;
    place.image = image;
    place.row = end;
    x += image * links_[0].input_floats();
    y += image * links_[last].rows() * links_[last].row_floats();

    std::array<std::pair<int64_t, int64_t>, kMaxLinks> needed;
    for (int64_t band = begin; band < end; band += band_rows_) {
        needed[last] = {band, std::min(band + band_rows_, end)};
        for (size_t i = last; i-- > 0;) needed[i] = links_[i + 1].input_rows(needed[i + 1].first, needed[i + 1].second);
        const float* in = x;  // where row 0 of the link's input lies, or would lie
        for (size_t i = 0; i <= last; ++i) {
            const ChainLink& link = links_[i];
            const std::span<const float* const> own(operands[i].data(), args[i].operands.size());
            if (i == last) {
                link.run_rows(in, args[i].weights, y, own, place.link_scratch, needed[i].first, needed[i].second);
                break;
            }
            Place::Window& window = place.windows[i];
            const auto [from, to] = needed[i];
            const int64_t row = link.row_floats();
            if (window.end <= from) {
                window.first = window.end = from;
            } else if (to - window.first > capacity_[i]) {
                std::memmove(window.memory, window.memory + (from - window.first) * row,
                             static_cast<size_t>((window.end - from) * row) * sizeof(float));
                window.first = from;
            }
            float* out = window.memory - window.first * row;
            if (to > window.end) link.run_rows(in, args[i].weights, out, own, place.link_scratch, window.end, to);
            window.end = std::max(window.end, to);
            in = out;
        }
    }
}

void RowChain::run(const float* x, float* y, int64_t images, std::span<const LinkArgs> args, void* workspace,
                   ThreadPool& pool, int max_threads) const {
    const int64_t rows = links_.back().rows();
    const int threads = std::min(max_threads, pool.size());
    const auto place = [&](int thread) {
        return reinterpret_cast<Place*>(static_cast<std::byte*>(workspace) +
                                        static_cast<size_t>(thread) * this->workspace(1));
    };
    for (int thread = 0; thread < std::max(threads, 1); ++thread) {
        auto* at = new (place(thread)) Place;
        at->link_scratch = reinterpret_cast<std::byte*>(at + 1);
        auto* memory = reinterpret_cast<float*>(at->link_scratch + link_scratch_);
        for (size_t i = 0; i + 1 < links_.size(); ++i) {
            at->windows[i].memory = memory;
            memory += round_up(capacity_[i] * links_[i].row_floats(), 16);
        }
    }
    // A thread that begins somewhere computes the rows that its first band shares with the band before it once more.
    const auto run_rows = [&](int64_t begin, int64_t end, int thread) {
        for_each_row(begin, end, rows, [&](int64_t image, int64_t first, int64_t last) {
            run_bands(x, y, args, image, first, last, *place(thread));
        });
    };
    pool.parallel_ranges(images * rows, band_rows_, threads, run_rows);
}

}  // namespace planish::cpu
