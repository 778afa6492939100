// Calibration tables as JSON files.
#pragma once

#include <filesystem>

#include "precision/quantize.hpp"

namespace planish::precision {

/// {"planish": "calibration", "tensors": {NAME: {"low": -1.5, "high": 6.0}}}: the span of each tensor, which people can
/// edit, as scale and zero point follow from it. Errors: not_found, io_error, invalid_argument.
CalibrationTable read_table(const std::filesystem::path& path);
void write_table(const std::filesystem::path& path, const CalibrationTable& table);

}  // namespace planish::precision
