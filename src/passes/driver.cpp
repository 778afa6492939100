// The pass driver: names, times, disables, checks and dumps.
#include <algorithm>
#include <chrono>

#include "passes/pass.hpp"
#include "planish/error.hpp"

namespace planish::passes {
namespace {

/// Bodies of If, Loop and Scan are graphs like any other; a Region's body is one kernel's specification and stays.
int run_everywhere(Graph& graph, const Pass& pass) {
    int changes = 0;
    for (Node* node : graph.node_list()) {
        if (!has(node->op().traits, Trait::body_captures)) continue;
        for (auto& [name, attribute] : node->attributes)
            if (const GraphPtr* body = std::get_if<GraphPtr>(&attribute)) changes += run_everywhere(**body, pass);
    }
    return changes + pass.run(graph);
}

bool contains(const std::vector<std::string>& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

void require_known(const std::vector<std::string>& names, bool allow_all) {
    for (const std::string& name : names) {
        const auto known = [&](std::span<const Pass> passes) {
            return std::any_of(passes.begin(), passes.end(), [&](const Pass& p) { return p.name == name; });
        };
        if ((allow_all && name == "all") || known(portable_pipeline()) || known(specialise_pipeline())) continue;
        std::string all;
        for (std::span<const Pass> passes : {portable_pipeline(), specialise_pipeline()})
            for (const Pass& p : passes)
                if (all.find(p.name) == std::string::npos) all += (all.empty() ? "" : ", ") + std::string(p.name);
        fail(ErrorCode::invalid_argument, "there is no pass '" + name + "'", "the passes are: " + all);
    }
}

}  // namespace

std::vector<PassReport> run(Graph& graph, std::span<const Pass> passes, const PassOptions& options) {
    require_known(options.disabled, false);
    require_known(options.dump_after, true);
    const int count = options.stop_after < 0 ? static_cast<int>(passes.size())
                                             : std::min(options.stop_after, static_cast<int>(passes.size()));
    std::vector<PassReport> reports;
    for (int i = 0; i < count; ++i) {
        const Pass& pass = passes[static_cast<size_t>(i)];
        if (options.progress) options.progress(pass.name, i, count);
        PassReport report{std::string(pass.name), 0, 0};
        if (!contains(options.disabled, pass.name)) {
            const auto start = std::chrono::steady_clock::now();
            try {
                report.changes = run_everywhere(graph, pass);
                if (options.check_after_each) check(graph);
            } catch (const Error& error) {
                throw error.with_context("in pass '" + report.name + "'");
            }
            report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        }
        if (options.dump && (contains(options.dump_after, pass.name) || contains(options.dump_after, "all")))
            options.dump(pass.name, graph);
        reports.push_back(std::move(report));
    }
    return reports;
}

}  // namespace planish::passes
