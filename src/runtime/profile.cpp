// Medians over some profiled runs; the trace shows one of them.
#include "runtime/profile.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/median.hpp"
#include "planish/error.hpp"

namespace planish::runtime {
namespace {

using Json = nlohmann::ordered_json;

double duration(const Timeline::Span& span) {
    return span.end - span.begin;
}

}  // namespace

Profile profile(Context::Impl& context, std::span<const NamedView> inputs, int runs) {
    context.run(inputs);  // compiles, and sets the pointers that the profiled runs use
    const Program* program = context.current->compiled.program.get();
    if (program == nullptr)
        fail(ErrorCode::unsupported, "the reference interpreter runs this plan, it has no regions to profile: " +
                                         context.current->compiled.interpreted);
    const Engine::Impl& engine = *context.engine;
    Profile result;
    result.threads = engine.threads;
    result.working_set = program->arena_bytes() + engine.info().weight_bytes;
    result.roofline = engine.device.backend->measure_roofline(engine.device.target, engine.threads, result.working_set);

    std::vector<Timeline> timelines(static_cast<size_t>(std::max(runs, 1)));
    program->run_profiled(context.input_pointers, context.targets, context.arena.data(), engine.threads, timelines);
    for (StepInfo& step : program->steps()) {
        const size_t i = result.rows.size();
        std::vector<double> seconds, busy;
        for (const Timeline& timeline : timelines) {
            seconds.push_back(duration(timeline.steps[i]));
            busy.push_back(timeline.busy[i] / std::max(seconds.back(), 1e-12));
        }
        const double bound = result.roofline.bound(step);
        result.rows.push_back({std::move(step), median(std::move(seconds)), bound, median(std::move(busy))});
    }
    const auto length = [](const Timeline& timeline) { return timeline.steps.empty() ? 0 : timeline.steps.back().end; };
    const auto middle = timelines.begin() + static_cast<std::ptrdiff_t>(timelines.size() / 2);
    std::nth_element(timelines.begin(), middle, timelines.end(),
                     [&](const Timeline& a, const Timeline& b) { return length(a) < length(b); });
    result.timeline = std::move(*middle);
    return result;
}

ProfileRow Profile::total() const {
    ProfileRow sum;
    sum.step.name = "total";
    for (const ProfileRow& row : rows) {
        sum.step.flops += row.step.flops;
        sum.step.bytes += row.step.bytes;
        sum.seconds += row.seconds;
        sum.bound += row.bound;
        sum.busy += row.busy * row.seconds;
    }
    sum.busy /= std::max(sum.seconds, 1e-12);
    return sum;
}

std::string chrome_trace(const Profile& profile, const std::string& title) {
    Json events = Json::array();
    const auto name_track = [&](const char* what, int thread, const std::string& name) {
        events.push_back({{"ph", "M"}, {"name", what}, {"pid", 1}, {"tid", thread}, {"args", {{"name", name}}}});
    };
    name_track("process_name", 0, title);
    name_track("thread_name", 0, "caller");
    for (int thread = 1; thread < profile.threads; ++thread)
        name_track("thread_name", thread, "worker " + std::to_string(thread));
    const auto add = [&](const Timeline::Span& span, const std::string& name, Json arguments) {
        events.push_back({{"ph", "X"},
                          {"name", name},
                          {"pid", 1},
                          {"tid", span.thread},
                          {"ts", span.begin * 1e6},  // microseconds
                          {"dur", duration(span) * 1e6},
                          {"args", std::move(arguments)}});
    };
    for (const Timeline::Span& span : profile.timeline.steps) {
        const ProfileRow& row = profile.rows[static_cast<size_t>(span.step)];
        add(span, row.step.name,
            {{"op", row.step.op},
             {"layers", row.step.layers},
             {"implementation", row.step.implementation},
             {"flops", row.step.flops},
             {"bytes", row.step.bytes},
             {"median_ms", row.seconds * 1e3},
             {"roofline", row.roofline()},
             {"busy_threads", row.busy}});
    }
    for (const Timeline::Span& span : profile.timeline.work)
        add(span, span.thread == 0 ? "share" : profile.rows[static_cast<size_t>(span.step)].step.name, Json::object());
    const Json trace = {{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}};
    return trace.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace planish::runtime
