// Calibration tables.
#include "precision/table.hpp"

#include <nlohmann/json.hpp>

#include "base/atomic_file.hpp"
#include "base/mapped_file.hpp"
#include "planish/error.hpp"

namespace planish::precision {

using Json = nlohmann::ordered_json;

CalibrationTable read_table(const std::filesystem::path& path) {
    const MappedFile file(path);
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    const auto bad = [&](const std::string& what) {
        fail(ErrorCode::invalid_argument, "'" + path.string() + "' is no calibration table: " + what,
             "one is written by `planish quantize --save-table FILE`");
    };
    const Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded() || !json.is_object() || json.value("planish", Json()) != "calibration" ||
        !json.contains("tensors") || !json["tensors"].is_object())
        bad("it has no \"tensors\"");
    CalibrationTable table;
    for (const auto& [name, row] : json["tensors"].items()) {
        if (!row.is_object() || !row.contains("low") || !row.contains("high") || !row["low"].is_number() ||
            !row["high"].is_number())
            bad("'" + name + "' has no numbers \"low\" and \"high\"");
        const double low = row["low"].get<double>(), high = row["high"].get<double>();
        if (!(low <= high)) bad("the span of '" + name + "' ends before it begins");
        table[name] = grid_of(low, high);
    }
    return table;
}

void write_table(const std::filesystem::path& path, const CalibrationTable& table) {
    Json tensors = Json::object();
    for (const auto& [name, grid] : table) tensors[name] = {{"low", grid.low()}, {"high", grid.high()}};
    const std::string text =
        Json{{"planish", "calibration"}, {"tensors", tensors}}.dump(2, ' ', false, Json::error_handler_t::replace) +
        "\n";
    write_file_atomically(path, std::as_bytes(std::span(text)));
}

}  // namespace planish::precision
