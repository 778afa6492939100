#include "cli/front.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/atomic_file.hpp"
#include "cli/terminal.hpp"

namespace planish::cli {
namespace {

constexpr double kExact = 300;  // dB: what float32 has against itself

std::string accuracy_text(double value) {
    return std::isnan(value) ? "-" : value >= kExact ? "exact" : fmt::format("{:.5g}", value);
}

/// A noise of 10^(-x/10) of the signal is x dB below it.
std::string noise_text(double noise) {
    return noise > 0 ? fmt::format("{:.1f} dB", -10 * std::log10(noise)) : "-";
}

/// Where values lie between the least and the greatest, from 0 to 1. What is beyond any scale lies on its end.
class Scale {
  public:
    template <typename Value>
    Scale(const std::vector<MixRow>& mixes, Value value) {
        for (const MixRow& mix : mixes) {
            if (value(mix) >= kExact) continue;
            low_ = std::min(low_, value(mix));
            high_ = std::max(high_, value(mix));
        }
    }
    double operator()(double value) const {
        return high_ > low_ ? std::clamp((value - low_) / (high_ - low_), 0.0, 1.0) : 0.5;
    }
    double low() const { return low_; }
    double high() const { return high_; }

  private:
    double low_ = INFINITY, high_ = -INFINITY;
};

struct Axes {
    explicit Axes(const std::vector<MixRow>& mixes)
        : time(mixes, [](const MixRow& mix) { return mix.seconds; }),
          accuracy(mixes, [](const MixRow& mix) { return mix.accuracy_to_expect(); }) {}
    Scale time, accuracy;
};

std::string text_plot(const std::vector<MixRow>& mixes) {
    constexpr size_t kWidth = 60, kHeight = 12;
    const Axes axes(mixes);
    std::vector<std::string> lines(kHeight, std::string(kWidth, ' '));
    for (const bool chosen : {false, true})  // the chosen one on top
        for (const MixRow& mix : mixes) {
            if (mix.chosen != chosen) continue;
            const auto x = static_cast<size_t>(std::lround(axes.time(mix.seconds) * (kWidth - 1)));
            const auto y =
                static_cast<size_t>(std::lround((1 - axes.accuracy(mix.accuracy_to_expect())) * (kHeight - 1)));
            lines[y][x] = chosen ? '#' : mix.on_front ? 'o' : '.';
        }
    std::string text;
    for (size_t y = 0; y < kHeight; ++y)
        text += fmt::format("{:>10} |{}\n",
                            y == 0             ? accuracy_text(axes.accuracy.high())
                            : y == kHeight - 1 ? accuracy_text(axes.accuracy.low())
                                               : "",
                            lines[y]);
    const std::string low = format_seconds(axes.time.low()), high = format_seconds(axes.time.high());
    text += fmt::format("{:>10} +{:-<{}}\n{:>12}{}{:>{}}\n", "", "", kWidth, "", low, high, kWidth - low.size());
    return text + "            #: taken, o: on the front, .: another one is faster and as accurate\n";
}

}  // namespace

Json to_json(const std::vector<PrecisionGroupRow>& rows) {
    Json result = Json::array();
    for (const PrecisionGroupRow& row : rows) {
        Json choices = Json::object();
        for (const PrecisionGroupRow::Choice& choice : row.choices)
            choices[choice.precision] = {{"seconds", choice.seconds}, {"noise", choice.noise}};
        result.push_back({{"layers", row.layers}, {"choices", choices}, {"chosen", row.chosen}});
    }
    return result;
}

Json to_json(const std::vector<MixRow>& rows) {
    Json result = Json::array();
    for (const MixRow& row : rows)
        result.push_back({{"name", row.name},
                          {"layers", row.layers},
                          {"seconds", row.seconds},
                          {"accuracy", row.accuracy},
                          {"held_out", std::isnan(row.held_out) ? Json() : Json(row.held_out)},
                          {"met", row.met},
                          {"on_front", row.on_front},
                          {"chosen", row.chosen}});
    return result;
}

std::string mixes_table(const std::vector<MixRow>& mixes) {
    Table table({"mix", ">in int8", ">time", ">accuracy", ">held out", "budget", "front", ""});
    for (const MixRow& mix : mixes)
        table.add({mix.name, std::to_string(mix.layers), format_seconds(mix.seconds), accuracy_text(mix.accuracy),
                   accuracy_text(mix.held_out), mix.met ? "met" : "missed", mix.on_front ? "yes" : "",
                   mix.chosen ? "taken" : ""});
    return table.text();
}

void print_mixes(const BuildReport& report) {
    if (report.mixes.empty()) return;
    if (!report.groups.empty()) {
        std::vector<std::string> headers = {"layers"};
        for (const char* what : {">fp32", ">int8", ">int8 alone"}) headers.emplace_back(what);
        headers.emplace_back("chosen");
        Table table(headers);
        for (const PrecisionGroupRow& row : report.groups) {
            std::string layers;
            for (const std::string& layer : row.layers) layers += (layers.empty() ? "" : ", ") + layer;
            std::vector<std::string> cells = {shorten(layers, 60), "-", "-", "-", row.chosen};
            for (const PrecisionGroupRow::Choice& choice : row.choices) {
                cells[choice.precision == "fp32" ? 1 : 2] = format_seconds(choice.seconds);
                if (choice.precision != "fp32") cells[3] = noise_text(choice.noise);
            }
            table.add(cells);
        }
        fmt::print("{}\n", table.text());
    }
    fmt::print("budget {}\n{}", report.budget, mixes_table(report.mixes));
    if (report.mixes.size() > 1) fmt::print("{}", text_plot(report.mixes));
}

void check_plot(const std::string& path, const std::string& precision) {
    if (precision != "auto")
        fail(ErrorCode::invalid_argument, "precision '" + precision + "' has no mixes to plot",
             "--plot belongs to precision auto, with a --budget");
    if (!path.ends_with(".svg"))
        fail(ErrorCode::invalid_argument, "cannot plot to '" + path + "'",
             "name an .svg file; --json has the numbers for other tools");
}

void write_plot(const std::string& path, const std::vector<MixRow>& mixes, const std::string& budget) {
    constexpr double kLeft = 90, kTop = 40, kWidth = 520, kHeight = 320;
    const Axes axes(mixes);
    const auto x = [&](double seconds) { return kLeft + kWidth * axes.time(seconds); };
    const auto y = [&](double accuracy) { return kTop + kHeight * (1 - axes.accuracy(accuracy)); };
    const auto text = [](double at_x, double at_y, const char* anchor, const std::string& words) {
        std::string escaped;
        for (const char c : words)
            escaped += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
        return fmt::format(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>)"
                           "\n",
                           at_x, at_y, anchor, escaped);
    };
    std::string svg =
        R"(<svg xmlns="http://www.w3.org/2000/svg" width="680" height="430" font-family="sans-serif" font-size="12">
<rect width="680" height="430" fill="white"/>
)";
    svg += fmt::format(R"(<path d="M{0} {1}V{2}H{3}" fill="none" stroke="black"/>)"
                       "\n",
                       kLeft - 10, kTop, kTop + kHeight + 10, kLeft + kWidth);
    svg += text(kLeft, 20, "start", "time of one run against accuracy; budget " + budget);
    svg += text(x(axes.time.low()), kTop + kHeight + 28, "middle", format_seconds(axes.time.low()));
    svg += text(x(axes.time.high()), kTop + kHeight + 28, "middle", format_seconds(axes.time.high()));
    svg += text(kLeft - 16, y(axes.accuracy.high()) + 4, "end", accuracy_text(axes.accuracy.high()));
    svg += text(kLeft - 16, y(axes.accuracy.low()) + 4, "end", accuracy_text(axes.accuracy.low()));
    std::string front;
    for (const MixRow& mix : mixes)
        if (mix.on_front) front += fmt::format("{:.1f},{:.1f} ", x(mix.seconds), y(mix.accuracy_to_expect()));
    svg += fmt::format(R"(<polyline points="{}" fill="none" stroke="steelblue"/>)"
                       "\n",
                       front);
    for (const MixRow& mix : mixes) {
        svg += fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}"/>)"
                           "\n",
                           x(mix.seconds), y(mix.accuracy_to_expect()), mix.chosen ? 7 : 5,
                           mix.chosen     ? "crimson"
                           : mix.on_front ? "steelblue"
                                          : "silver");
        svg += text(x(mix.seconds) + 9, y(mix.accuracy_to_expect()) + 4, "start", mix.name);
    }
    svg += "</svg>\n";
    write_file_atomically(path, std::as_bytes(std::span(svg)));
}

}  // namespace planish::cli
