// Terminal output of the verbs.
#include "cli/terminal.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace planish::cli {
namespace {

bool is_terminal(FILE* stream) {
    return isatty(fileno(stream)) == 1;
}

// Characters, not bytes: continuation bytes of UTF-8 do not count.
size_t width_of(std::string_view text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string paint(std::string_view text, Colour colour, FILE* stream) {
    if (colour == Colour::none || !is_terminal(stream) || std::getenv("NO_COLOR") != nullptr) return std::string(text);
    constexpr const char* kCodes[] = {"0", "1", "2", "31", "32", "33"};
    return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<size_t>(colour)], text);
}

std::string Table::text() const {
    std::vector<size_t> widths;
    std::vector<bool> right;
    for (const std::string& header : headers_) {
        right.push_back(header.starts_with('>'));
        widths.push_back(width_of(header) - right.back());
    }
    for (const auto& row : rows_)
        for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width_of(row[c]));
    auto line = [&](const std::vector<std::string>& cells) {
        std::string result;
        for (size_t c = 0; c < cells.size(); ++c) {
            const std::string padding(widths[c] - width_of(cells[c]), ' ');
            if (c > 0) result += "  ";
            result += right[c] ? padding + cells[c] : c + 1 == cells.size() ? cells[c] : cells[c] + padding;
        }
        return result + "\n";
    };
    std::vector<std::string> head;
    for (size_t c = 0; c < headers_.size(); ++c) head.push_back(headers_[c].substr(right[c] ? 1 : 0));
    std::string result = paint(line(head), Colour::dim);
    for (const auto& row : rows_) result += line(row);
    return result;
}

std::string format_bytes(int64_t bytes) {
    if (bytes < 1000) return fmt::format("{} B", bytes);
    double value = static_cast<double>(bytes);
    constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
    size_t unit = 0;
    while (value >= 999.5 && unit + 1 < std::size(kUnits)) value /= 1000, ++unit;
    return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kUnits[unit]);
}

std::string format_seconds(double seconds) {
    if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
    if (seconds < 1) return fmt::format("{:.3g} ms", seconds * 1e3);
    return fmt::format("{:.3g} s", seconds);
}

std::string shorten(std::string text, size_t width) {
    if (text.size() <= width) return text;
    return text.substr(0, width - 3) + "...";
}

ProgressLine::ProgressLine(bool wanted)
    : active_(wanted && is_terminal(stderr)), start_(std::chrono::steady_clock::now()) {}

ProgressLine::~ProgressLine() {
    clear();
}

void ProgressLine::update(std::string_view stage, std::string_view detail, double fraction) {
    const auto now = std::chrono::steady_clock::now();
    if (!active_ || (drawn_ && now - last_ < std::chrono::milliseconds(50))) return;
    last_ = now;
    drawn_ = true;
    winsize size{};
    const int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
    constexpr int kWidth = 24;
    const int full = static_cast<int>(kWidth * std::clamp(fraction, 0.0, 1.0));
    std::string bar;
    for (int i = 0; i < kWidth; ++i) bar += i < full ? "█" : "·";
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const std::string head = fmt::format("{:>9} {} {:3.0f} % {:5.1f} s  ", stage, bar, fraction * 100, seconds);
    const auto room = static_cast<size_t>(std::max(0, columns - 1 - static_cast<int>(width_of(head))));
    fmt::print(stderr, "\r\x1b[2K{}{}", head, detail.substr(0, room));
    std::fflush(stderr);
}

void ProgressLine::clear() {
    if (!drawn_) return;
    fmt::print(stderr, "\r\x1b[2K");
    std::fflush(stderr);
    drawn_ = false;
}

}  // namespace planish::cli
