// The real stopwatch, and the name of the machine that it runs on.
#include <cpuid.h>

#include <array>
#include <chrono>
#include <cstring>

#include "base/aligned_buffer.hpp"
#include "tuner/tuner.hpp"

namespace planish::tuner {
namespace {

using Clock = std::chrono::steady_clock;

class RealStopwatch final : public Stopwatch {
  public:
    RealStopwatch(std::vector<Tensor> inputs, int threads) : inputs_(std::move(inputs)), threads_(threads) {}

    std::vector<std::vector<double>> time(const Program& program, int runs) override {
        std::vector<const void*> in;
        for (const Tensor& t : inputs_) in.push_back(t.raw());
        std::vector<Tensor> results;
        std::vector<void*> out;
        for (const Port& port : program.outputs()) {
            results.emplace_back(port.dtype, port.dims);
            out.push_back(results.back().raw());
        }
        const auto bytes = static_cast<size_t>(program.arena_bytes());
        if (arena_.size() < bytes) arena_ = AlignedBuffer(bytes);
        std::vector<std::vector<double>> seconds(static_cast<size_t>(runs),
                                                 std::vector<double>(program.steps().size()));
        try {
            program.run(in, out, arena_.data(), threads_);
        } catch (const std::exception& error) {
            throw CannotMeasure(error.what());
        }
        std::vector<Timeline> timelines(seconds.size());
        program.run_profiled(in, out, arena_.data(), threads_, timelines);
        for (size_t r = 0; r < seconds.size(); ++r)
            for (size_t s = 0; s < seconds[r].size(); ++s)
                seconds[r][s] = timelines[r].steps[s].end - timelines[r].steps[s].begin;
        return seconds;
    }

    double now() const override { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

  private:
    std::vector<Tensor> inputs_;
    int threads_;
    AlignedBuffer arena_;
};

// The brand string of CPUID, "" where there is none.
std::string processor() {
    std::array<unsigned, 12> words{};
    for (unsigned i = 0; i < 3; ++i)
        if (__get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]) == 0)
            return {};
    char text[sizeof words + 1] = {};
    std::memcpy(text, words.data(), sizeof words);
    std::string name = text;
    while (!name.empty() && name.back() == ' ') name.pop_back();
    name.erase(0, name.find_first_not_of(' '));
    return name;
}

}  // namespace

std::unique_ptr<Stopwatch> make_stopwatch(std::vector<Tensor> inputs, int threads) {
    return std::make_unique<RealStopwatch>(std::move(inputs), threads);
}

std::string describe_machine(const std::string& target, int threads) {
    return processor() + ", " + target + ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads");
}

}  // namespace planish::tuner
