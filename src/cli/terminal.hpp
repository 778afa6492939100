// What the verbs print with: colours and a progress bar that appear on a terminal only, tables, sizes.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace planish::cli {

enum class Colour : uint8_t { none, bold, dim, red, green, yellow };

/// `text` in a colour when `stream` is a terminal and NO_COLOR is not set.
std::string paint(std::string_view text, Colour colour, FILE* stream = stdout);

/// Columns padded to their widest cell; a column whose header begins with '>' is aligned to the right.
class Table {
  public:
    explicit Table(std::vector<std::string> headers) : headers_(std::move(headers)) {}
    void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
    std::string text() const;

  private:
    std::vector<std::string> headers_;
    std::vector<std::vector<std::string>> rows_;
};

std::string format_bytes(int64_t bytes);     // "13.6 MB"
std::string format_seconds(double seconds);  // "6.41 ms"
std::string shorten(std::string text, size_t width);

/// One line on stderr, redrawn at most 20 times a second; nothing when stderr is not a terminal.
class ProgressLine {
  public:
    explicit ProgressLine(bool wanted);
    ~ProgressLine();
    void update(std::string_view stage, std::string_view detail, double fraction);
    void clear();

  private:
    bool active_;
    bool drawn_ = false;
    std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace planish::cli
