// Containment is decided on resolved paths, so that a link inside the folder cannot lead out of it.
#include "importers/onnx/external_data.hpp"

#include <algorithm>

#include "planish/error.hpp"

namespace planish::onnx_import {
namespace fs = std::filesystem;

std::shared_ptr<const MappedFile> ExternalData::file(const std::string& location, const std::string& tensor) {
    if (const auto it = files_.find(location); it != files_.end()) return it->second;

    const std::string subject = "the data of tensor '" + tensor + "' lies in the external file '" + location + "'";
    if (folder_.empty())
        fail(ErrorCode::invalid_argument, subject + ", but the model was given as bytes without a folder",
             "give the path of the model, or save it with its data inside (onnx.save without save_as_external_data)");
    const fs::path relative(location);
    const bool climbs =
        std::any_of(relative.begin(), relative.end(), [](const fs::path& part) { return part == ".."; });
    if (location.empty() || location.find('\0') != location.npos || relative.is_absolute() || climbs)
        fail(ErrorCode::invalid_model, subject + ", which is not inside the model's folder",
             "external data must lie beside the model or below it: save the model again with onnx.save");

    std::error_code error;
    const fs::path root = fs::canonical(folder_, error);
    if (error) fail(ErrorCode::not_found, "there is no folder '" + folder_.string() + "'");
    const fs::path resolved = fs::canonical(root / relative, error);
    if (error)
        fail(ErrorCode::not_found, subject + ", which is missing from '" + root.string() + "'",
             "copy it there: a model with external data is more than its .onnx file");
    const auto [root_end, _] = std::mismatch(root.begin(), root.end(), resolved.begin(), resolved.end());
    if (root_end != root.end())
        fail(ErrorCode::invalid_model, subject + ", a link that leads out of the model's folder",
             "copy the file itself beside the model");
    return files_[location] = std::make_shared<const MappedFile>(resolved);
}

}  // namespace planish::onnx_import
