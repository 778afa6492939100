// What precision "auto" found, for people: tables and plots of time against accuracy.
#pragma once

#include <string>

#include "cli/common.hpp"

namespace planish::cli {

Json to_json(const std::vector<PrecisionGroupRow>& rows);
Json to_json(const std::vector<MixRow>& rows);

/// The groups of layers with their times and sensitivities, the mixes, and a plot of them on the terminal.
void print_mixes(const BuildReport& report);
std::string mixes_table(const std::vector<MixRow>& mixes);

/// Error(invalid_argument) for a file that cannot be plotted to (only .svg can), or a precision that has no mixes.
void check_plot(const std::string& path, const std::string& precision);
/// Writes the mixes as a picture. Errors: io_error.
void write_plot(const std::string& path, const std::vector<MixRow>& mixes, const std::string& budget);

}  // namespace planish::cli
