// The progress of a build over its stages, and their times.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "planish/planish.hpp"

namespace planish {

class Stages {
  public:
    using Clock = std::chrono::steady_clock;

    Stages(const BuildOptions& options, BuildReport& report) : options_(options), report_(report) {}

    /// The stage takes the share from `from` to `to` of the whole.
    void begin(std::string_view stage, double from, double to) {
        end();
        stage_ = stage;
        from_ = from;
        to_ = to;
        start_ = Clock::now();
        update("", 0);
    }
    /// `fraction` of this stage. Error(invalid_argument) when the user cancels.
    void update(std::string_view detail, double fraction) const {
        if (options_.progress && !options_.progress({stage_, detail, from_ + (to_ - from_) * fraction}))
            fail(ErrorCode::invalid_argument, "the build was cancelled");
    }
    void end() {
        if (!stage_.empty())
            report_.seconds.emplace_back(stage_, std::chrono::duration<double>(Clock::now() - start_).count());
        stage_.clear();
    }

  private:
    const BuildOptions& options_;
    BuildReport& report_;
    std::string stage_;
    double from_ = 0, to_ = 0;
    Clock::time_point start_;
};

}  // namespace planish
