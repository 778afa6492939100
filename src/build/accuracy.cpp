// The grammar of budgets, the built-in metrics, and commands of the user's.
#include "build/accuracy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/temporary_folder.hpp"
#include "precision/comparison.hpp"
#include "precision/samples.hpp"

namespace planish {
namespace {

constexpr const char* kGrammar =
    "write METRIC>=NUMBER or METRIC<=NUMBER: top1>=0.99, cosine>=0.999, sqnr>=25, error<=0.05, or with a metric of "
    "your "
    "own metric>=0.75 or metric>=fp32-0.005";

std::optional<double> number(std::string_view text) {
    if (text.starts_with('+')) text.remove_prefix(1);
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
    return value;
}

/// Rows and classes of a tensor that says how likely each class is: the classes lie along the last axis, or, of an
/// image of them [N, classes, H, W], along the second.
struct Classes {
    int64_t rows, count, step, stride;  // between rows, between classes
    int64_t first(int64_t row) const { return row / stride * stride * count + row % stride; }
};

Classes classes_of(const Tensor& x) {
    if (x.rank() == 4) {
        const int64_t area = x.dim(2) * x.dim(3);
        return {x.size() / std::max<int64_t>(x.dim(1), 1), x.dim(1), 1, area};
    }
    const int64_t count = x.rank() > 0 ? x.dims().back() : 1;
    return {x.size() / std::max<int64_t>(count, 1), count, count, 1};
}

int64_t largest(const Tensor& x, const Classes& classes, int64_t row) {
    const float* v = x.data<float>().data() + classes.first(row);
    int64_t best = 0;
    for (int64_t c = 1; c < classes.count; ++c)
        if (v[c * classes.stride] > v[best * classes.stride]) best = c;
    return best;
}

struct Agreement {
    int64_t rows = 0, same = 0;

    void add(const Tensor& wanted, const Tensor& actual) {
        const Classes classes = classes_of(wanted);
        if (classes.count < 2) return;
        rows += classes.rows;
        for (int64_t row = 0; row < classes.rows; ++row)
            same += largest(wanted, classes, row) == largest(actual, classes, row);
    }
};

std::string quoted(const std::string& path) {
    std::string result = "'";
    for (const char c : path) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return result + "'";
}

double run_command(std::string command, const Plan& plan) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder.path() / "candidate.plan";
    plan.save(file);
    constexpr std::string_view kPlace = "{plan}";
    if (const size_t at = command.find(kPlace); at != std::string::npos)
        command.replace(at, kPlace.size(), quoted(file.string()));
    else
        command += " " + quoted(file.string());
    FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) fail(ErrorCode::io_error, "cannot run the metric's command: " + command);
    std::string text;
    std::array<char, 4096> part{};
    for (size_t n = 0; (n = std::fread(part.data(), 1, part.size(), pipe)) > 0;) text.append(part.data(), n);
    const int status = pclose(pipe);
    if (status != 0)
        fail(ErrorCode::invalid_argument,
             fmt::format("the metric's command failed with status {}: {}", status, command),
             "its own messages are above");
    const size_t end = text.find_last_not_of(" \t\r\n");
    const size_t begin = end == std::string::npos ? end : text.find_last_of(" \t\r\n", end);
    const auto value =
        end == std::string::npos ? std::nullopt : number(std::string_view(text).substr(begin + 1, end - begin));
    if (!value)
        fail(ErrorCode::invalid_argument, "the metric's command printed no number at its end: " + command,
             "what it prints last must be the metric");
    return *value;
}

}  // namespace

Budget parse_budget(const std::string& text) {
    const auto invalid = [&](const std::string& why) {
        fail(ErrorCode::invalid_argument, fmt::format("the accuracy budget '{}' {}", text, why), kGrammar);
    };
    const size_t sign = text.find_first_of("<>");
    if (sign == std::string::npos || sign + 2 > text.size() || text[sign + 1] != '=') invalid("has no >= or <=");
    Budget budget;
    const auto trimmed = [](std::string_view s) {
        while (s.starts_with(' ')) s.remove_prefix(1);
        while (s.ends_with(' ')) s.remove_suffix(1);
        return s;
    };
    budget.metric = trimmed(std::string_view(text).substr(0, sign));
    budget.at_least = text[sign] == '>';
    std::string_view bound = trimmed(std::string_view(text).substr(sign + 2));
    constexpr std::string_view kFloat = "fp32";
    if (budget.is_users_own() && bound.starts_with(kFloat)) {
        budget.against_float = true;
        bound = trimmed(bound.substr(kFloat.size()));
        if (bound.empty()) bound = "0";
    }
    const auto value = number(bound);
    if (!value) invalid("has no number behind its sign");
    budget.bound = *value;
    if (budget.is_users_own()) return budget;
    struct Metric {
        std::string_view name;
        bool at_least;
        double least, most;
    };
    constexpr Metric kMetrics[] = {
        {"top1", true, 0, 1}, {"cosine", true, -1, 1}, {"sqnr", true, -300, 300}, {"error", false, 0, INFINITY}};
    for (const Metric& metric : kMetrics) {
        if (budget.metric != metric.name) continue;
        if (budget.at_least != metric.at_least) invalid(fmt::format("bounds {} from the wrong side", metric.name));
        if (budget.bound < metric.least || budget.bound > metric.most)
            invalid(fmt::format("is beyond what {} can be: {} to {}", metric.name, metric.least, metric.most));
        return budget;
    }
    invalid("names an unknown metric");
    return budget;
}

Accuracy::Accuracy(const AccuracyOptions& options, Budget budget, std::vector<TensorMap> calibration,
                   std::vector<TensorMap> held_out, LoadOptions load)
    : options_(options),
      budget_(std::move(budget)),
      calibration_{std::move(calibration), {}},
      held_out_{std::move(held_out), {}},
      load_(std::move(load)) {}

void Accuracy::set_floats(const Plan& plan) {
    if (budget_.is_users_own()) {
        of_floats_ = ask_user(plan);
        return;
    }
    for (Data* data : {&calibration_, &held_out_}) data->expected = outputs(plan, data->samples);
    of_floats_ = on_calibration(plan);
}

double Accuracy::on_calibration(const Plan& plan) const {
    return budget_.is_users_own() ? ask_user(plan) : compare(plan, calibration_);
}

double Accuracy::on_held_out(const Plan& plan) const {
    return budget_.is_users_own() ? NAN : compare(plan, held_out_);
}

std::vector<TensorMap> Accuracy::outputs(const Plan& plan, const std::vector<TensorMap>& samples) const {
    const Engine engine = load(plan, load_);
    Context context = engine.create_context();
    std::vector<TensorMap> results;
    for (const TensorMap& sample : samples) results.push_back(context.run(sample));
    return results;
}

double Accuracy::compare(const Plan& plan, const Data& data) const {
    const std::vector<TensorMap> actual = outputs(plan, data.samples);
    const precision::Padding padding(data.samples);
    std::optional<double> worst;
    for (const auto& [name, first] : data.expected.front()) {
        if (first.dtype() != DType::f32) continue;
        precision::Comparison comparison;
        Agreement agreement;
        for (size_t s = 0; s < actual.size(); ++s) {
            const Tensor x = padding.strip(data.expected[s].at(name), s), y = padding.strip(actual[s].at(name), s);
            comparison.add(x, y);
            agreement.add(x, y);
        }
        if (budget_.metric == "top1" && agreement.rows == 0) continue;
        const double value = budget_.metric == "top1"
                                 ? static_cast<double>(agreement.same) / static_cast<double>(agreement.rows)
                             : budget_.metric == "cosine" ? comparison.cosine()
                             : budget_.metric == "sqnr"   ? comparison.sqnr()
                                                          : comparison.relative_error();
        if (!worst || budget_.better(*worst, value)) worst = value;
    }
    if (!worst)
        fail(ErrorCode::invalid_argument, "the metric '" + budget_.metric + "' fits none of the model's outputs",
             budget_.metric == "top1" ? "it needs float32 outputs with one number for each class"
                                      : "it needs float32 outputs");
    return *worst;
}

double Accuracy::ask_user(const Plan& plan) const {
    const double value = options_.metric ? options_.metric(plan) : run_command(options_.command, plan);
    if (!std::isfinite(value))
        fail(ErrorCode::invalid_argument, fmt::format("the metric gave {} for a plan", value),
             "it must be a finite number");
    return value;
}

}  // namespace planish
